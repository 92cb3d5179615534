package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

func networks(list ...string) (n []policy.Network) {
	for _, s := range list {
		n = append(n, policy.Network{Prefix: netip.MustParsePrefix(s)})
	}
	return n
}

// H41: with a proxy in front the lists see the client; from anybody else, what
// he says of himself changes nothing.
func TestProxies(t *testing.T) {
	for _, tt := range []struct {
		name    string
		proxies access.Proxies
		blocked string // network
		client  string // what is said
		refused bool
	}{
		{"a blocked client behind a proxy", networks("127.0.0.0/8"), "192.0.2.0/24", "192.0.2.7", true},
		{"another client behind a proxy", networks("127.0.0.0/8"), "192.0.2.0/24", "198.51.100.7", false},
		{"the proxy itself is blocked", networks("127.0.0.0/8"), "127.0.0.0/8", "198.51.100.7", false},
		{"a blocked client that plays proxy", networks("10.0.0.0/8"), "127.0.0.0/8", "198.51.100.7", true},
		{"without proxies", nil, "127.0.0.0/8", "198.51.100.7", true},
	} {
		c := testConfig(t)
		c.TrustedProxies = tt.proxies
		c.Limits.ConnectionsPerIP = 2 // of a client; a proxy comes for many
		lists := policy.AddrLists{Block: networks(tt.blocked)}
		d := &c.Policy.Spaces[0].Domains[0]
		d.Play.IP, d.Publish.IP = lists, lists
		n, _, _ := start(t, c)

		// X-Forwarded-For
		for range 3 {
			req, err := http.NewRequest("GET", n.url("http", "/live/s.flv"), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Forwarded-For", "127.0.0.1, "+tt.client)
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if refused := strings.Contains(string(body), "Forbidden By Blacklist"); refused != tt.refused {
				t.Errorf("%s, X-Forwarded-For: %s", tt.name, body)
			}
		}
		if tt.proxies == nil || !tt.proxies.Trust(netip.MustParseAddr("127.0.0.1")) {
			continue
		}
		// The PROXY protocol
		header := fmt.Sprintf("PROXY TCP4 %s 127.0.0.1 5000 80\r\n", tt.client)
		nc, err := net.Dial("tcp", n.Addr("http").String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(nc, "%sGET /live/s.flv HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.1\r\nConnection: close\r\n\r\n", header)
		answer, _ := io.ReadAll(nc)
		nc.Close()
		if refused := bytes.Contains(answer, []byte("Forbidden By Blacklist")); refused != tt.refused || !bytes.HasPrefix(answer, []byte("HTTP/1.1 403 ")) {
			t.Errorf("%s, PROXY before HTTP: %s", tt.name, answer)
		}
		pub, err := rtmp.Dial(t.Context(), "rtmp://"+proxyTo(t, n.Addr("rtmp").String(), header)+"/live", rtmp.Config{})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if err := pub.Publish("s"); (err != nil) != tt.refused || err != nil && !strings.Contains(err.Error(), "Forbidden By Blacklist") {
			t.Errorf("%s, PROXY before RTMP: %v", tt.name, err)
		}
		if !tt.refused {
			if s := n.sessions.Sessions(); len(s) != 1 || s[0].Addr.String() != tt.client+":5000" {
				t.Errorf("%s: sessions %+v", tt.name, s)
			}
		}
		pub.Close()
	}
}

// proxyTo is a proxy for one connection to addr, before which it writes
// header. It returns its address.
func proxyTo(t *testing.T, addr, header string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the connection
		in, err := ln.Accept()
		ln.Close()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer out.Close()
		io.WriteString(out, header)
		go func() { io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }() // ends when in is closed
		io.Copy(in, out)
	}()
	return ln.Addr().String()
}

// H44: one address that floods the server with bad tokens is slowed down and
// shut out; another goes on.
func TestBadTokens(t *testing.T) {
	c := testConfig(t)
	c.Policy.Spaces[0].Domains[0].Play.Simple = &policy.Simple{Key: policy.NewSecret("test-key-1")}
	n, _, _ := start(t, c)
	ask := func(from, query string) string {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		nc, err := d.Dial("tcp", n.Addr("http").String())
		if err != nil {
			t.Error(err)
			return ""
		}
		defer nc.Close()
		fmt.Fprintf(nc, "GET /live/s.flv?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", query)
		answer, _ := io.ReadAll(nc)
		return string(answer)
	}
	const bad = "t=1999999999&k=0123456789abcdef"
	answers := make(chan string)
	const flood = 500
	for range flood {
		go func() { answers <- ask("127.0.0.2", bad) }()
	}
	shut := 0
	for range flood {
		if strings.Contains(<-answers, "Too Many Failures") {
			shut++
		}
	}
	if shut < flood/2 {
		t.Errorf("%d of %d bad tokens met a closed door", shut, flood)
	}
	r, err := access.FromURL(access.Play, "http://x/live/s.flv")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := n.gate.Sign(r, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if got := ask("127.0.0.3", signed[0].Query); !strings.Contains(got, "NonExistStreamName") || time.Since(began) > time.Second {
		t.Errorf("a good client after %v: %s", time.Since(began), got)
	}
	if got := ask("127.0.0.2", signed[0].Query); !strings.Contains(got, "Too Many Failures") {
		t.Errorf("the flooding client: %s", got)
	}
}

// A key that is taken out of the file ends those who came in by it within a
// second; others stay.
func TestReloadRevokes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	config := func(key string) string {
		return `listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "off"}
policy_source: file
policy:
  spaces:
  - name: default
    domains:
    - {name: "127.0.0.1"}
    - {name: keyed.test, publish: {simple: {key: ` + key + `}}}
    apps: [{name: live}]
`
	}
	writeFile(t, path, config("key-number-one"))
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	n, l, _ := start(t, cfg)
	stays := publish(t, n, "stays")
	defer stays.Close()
	r, err := access.FromURL(access.Publish, "rtmp://keyed.test/live/goes")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := n.gate.Sign(r, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	goes := publish(t, n, "goes?vhost=keyed.test&"+signed[0].Query)
	defer goes.Close()
	ended := make(chan time.Time, 1)
	go func() { // ends when the server ends the publisher
		_, err := goes.ReadPacket()
		if err == nil || !strings.Contains(err.Error(), "withdrawn") {
			t.Errorf("the publisher is told %v", err)
		}
		ended <- time.Now()
	}()
	began := time.Now()
	writeFile(t, path, config("key-number-two"))
	if d := (<-ended).Sub(began); d > time.Second {
		t.Errorf("it took %v", d)
	}
	l.wait(t, "policy read")
	if s := n.sessions.Sessions(); len(s) == 0 || n.hub.Stats().Publishers != 1 {
		t.Errorf("the other publisher was ended, too: %+v", s)
	}
}

// H46: secrets that others can read or guess are warned of.
func TestWarnings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	text := configText("live")
	warnings := func(mode os.FileMode) string {
		t.Helper()
		writeFile(t, path, text)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(c.Warnings(), "\n")
	}
	if w := warnings(0o644); w != "" {
		t.Errorf("warned of a file without secrets: %s", w)
	}
	text = strings.Replace(text, `{name: "*"}`, `{name: "*", publish: {simple: {key: 0123456789abcdef}}}`, 1)
	if w := warnings(0o640); w != "" {
		t.Errorf("warned of good secrets: %s", w)
	}
	if w := warnings(0o644); !strings.Contains(w, "can be read by every user") {
		t.Errorf("of a file that all can read: %q", w)
	}
	// Facts must be kept for as long as callbacks are repeated.
	good := text
	text += "events: {max_age: 71h}\n"
	if w := warnings(0o640); w != "" {
		t.Errorf("warned of facts that nobody is told of: %s", w)
	}
	text = strings.Replace(text, `{name: live`, `{callback: {url: "https://example.com/"}, name: live`, 1)
	if w := warnings(0o640); !strings.Contains(w, "events.max_age is less than the 72h0m0s") {
		t.Errorf("of facts that are kept too shortly: %q in\n%s", w, text)
	}
	text = good
	// Files with keys are for their owner alone.
	key := filepath.Join(filepath.Dir(path), "keys")
	writeFile(t, key, "")
	text += "secrets: {key_file: keys}\n"
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true, 0o620: true, 0o666: true} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		want := ""
		if warned {
			want = fmt.Sprintf("secrets.key_file: %s is a secret, and others than its owner have rights to it (mode %04o); run: chmod 600 %[1]s", key, mode)
		}
		if w := warnings(0o600); w != want {
			t.Errorf("of a key file with the mode %o: %q, want %q", mode, w, want)
		}
	}
	text = strings.Replace(good, "0123456789abcdef", "123456", 1)
	if w := warnings(0o600); w != "policy.spaces[0].domains[0].publish.simple.key is easily guessed; take what this prints: openssl rand -hex 16" {
		t.Errorf("of a bad secret: %q", w)
	}
}

// What is taken for something else than it says is told.
func TestWarningOfQuality(t *testing.T) {
	c := testConfig(t)
	c.Policy.Spaces[0].Apps[0].Snapshot.Quality = 11
	if w := strings.Join(c.Warnings(), "\n"); w != "policy.spaces[0].apps[0].snapshot.quality is not 1 to 10 but 11: 5 is taken" {
		t.Errorf("of a quality of 11: %q", w)
	}
}

// H47: whatever a client sends, the log has one line of JSON for it, and no
// long one.
func TestLogLines(t *testing.T) {
	var log textLog
	c := testConfig(t)
	c.Policy.Spaces[0].Domains[0].Play.Simple = &policy.Simple{Key: policy.NewSecret("test-key-1")}
	c.Policy.Spaces[0].Domains[0].Play.Referer.Block = []string{"x"}
	n, err := New(c, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }() // ends with the test
	t.Cleanup(func() { cancel(); <-done })

	evil := "\r\nlevel=ERROR \x1b[31m\x00\xff\u202e" + strings.Repeat("x", 30<<10)
	for _, path := range []string{"live", "live" + evil} {
		conn, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Play(path + "?t=1999999999&k=" + evil); err == nil {
			t.Errorf("granted %.20q", path)
		}
		conn.Close()
	}
	nc, err := net.Dial("tcp", n.Addr("http").String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(nc, "GET /live/%%0d%%0a%%1b.flv?k=%%0d%%0a HTTP/1.1\r\nHost: \x1bx\r\nReferer: %s\r\nUser-Agent: \x1b[0m\r\nConnection: close\r\n\r\n", strings.Repeat("r", 8000))
	io.Copy(io.Discard, nc)
	nc.Close()
	lines := 0
	for s := bufio.NewScanner(strings.NewReader(log.String())); s.Scan(); lines++ {
		var v map[string]any
		if err := json.Unmarshal(s.Bytes(), &v); err != nil || len(s.Text()) > 4000 || strings.ContainsAny(s.Text(), "\x1b\x00") {
			t.Errorf("a line of %d bytes: %v: %.200q", len(s.Text()), err, s.Text())
		}
	}
	if lines < 4 {
		t.Errorf("%d lines", lines)
	}
}
