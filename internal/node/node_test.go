package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// TestMain ends with no goroutine of ours. A NATS that is stopped while it makes a
// stream, which is what some tests do, does not let go of the stream's file.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// logs is a log whose lines can be waited for.
type logs struct {
	slog.Handler
	lines  chan string
	passed []string // over which wait went
}

func newLogs() *logs { return &logs{Handler: slog.DiscardHandler, lines: make(chan string, 1000)} }

func (l *logs) Enabled(context.Context, slog.Level) bool { return true }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.lines <- line
	return nil
}

// wait returns the next line that holds text.
func (l *logs) wait(t *testing.T, text string) string {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case line := <-l.lines:
			if strings.Contains(line, text) {
				return line
			}
			l.passed = append(l.passed, line)
		case <-late:
			t.Fatalf("the log has no %q", text)
		}
	}
}

// testConfig listens on free ports of loopback, and keeps its data for the
// test.
func testConfig(t testing.TB) *Config {
	c := DefaultConfig()
	c.Data = t.TempDir()
	c.Listen = Listen{RTMP: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	return c
}

// start runs a node until the test ends. The function it returns ends it
// sooner, and returns Run's error.
func start(t *testing.T, c *Config) (*Node, *logs, func() error) {
	t.Helper()
	if c.Data == "" {
		c.Data = t.TempDir()
	}
	l := newLogs()
	n, err := New(c, slog.New(l))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	stop := func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		return <-done
	}
	t.Cleanup(func() { stop() })
	l.wait(t, "weir serves")
	return n, l, stop
}

func (n *Node) url(listener, path string) string {
	scheme := map[string]string{"rtmp": "rtmp", "http": "http", "https": "https", "admin": "http"}[listener]
	return scheme + "://" + n.Addr(listener).String() + path
}

// get returns the status and the body of what is at url.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// publish publishes a stream of one audio frame, whose first byte is mark.
func publish(t *testing.T, n *Node, name string) *rtmp.Conn {
	t.Helper()
	c, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(name); err != nil {
		t.Fatal(err)
	}
	tag := flv.AppendAudio(nil, av.MP3, false, []byte("a frame of audio"))
	if err := c.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Tag: tag}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServe(t *testing.T) {
	n, _, stop := start(t, testConfig(t))
	for _, tt := range []struct {
		listener, path string
		status         int
		body           string
	}{
		{"admin", "/healthz", 200, "ok"},
		{"admin", "/readyz", 200, "ok"},
		{"admin", "/metrics", 200, "\nweir_publishers 0\n"},
		{"admin", "/metrics", 200, "\nweir_players{protocol=\"rtmp\"} 0\n"},
		{"admin", "/metrics", 200, "\nweir_panics_recovered_total 0\n"},
		{"admin", "/metrics", 200, "\ngo_goroutines "},
		{"admin", "/debug/pprof/", 200, "goroutine"},
		{"admin", "/live/s.flv", 404, ""},
		{"http", "/", 200, "<title>Weir</title>"},
		{"http", "/live/s.flv", 403, "<Code>NonExistStreamName</Code>"},
		{"http", "/none/s.flv", 403, "<Code>NonExistApplication</Code>"},
		{"http", "/live/s", 404, ""},
		{"http", "/metrics", 404, ""},      // H50
		{"http", "/debug/pprof/", 404, ""}, // H50
		{"http", "//evil.example/%2f..", 404, ""},
	} {
		if status, body := get(t, n.url(tt.listener, tt.path)); status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s %s = %d %q, want %d with %q", tt.listener, tt.path, status, body, tt.status, tt.body)
		}
	}
	if n.Addr("https") != nil {
		t.Errorf("https listens without a certificate")
	}

	pub := publish(t, n, "s")
	defer pub.Close()
	resp, err := http.Get(n.url("http", "/live/s.flv"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if head, err := body.Peek(3); err != nil || string(head) != "FLV" {
		t.Errorf("HTTP-FLV begins with %q, %v", head, err)
	}
	for _, want := range []string{"\nweir_publishers 1\n", "\nweir_players{protocol=\"flv\"} 1\n", "\nweir_refused_total{op=\"play\",reason=\"no_app\"} 1\n"} {
		if _, metrics := get(t, n.url("admin", "/metrics")); !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %q", want)
		}
	}

	// I15: everybody is told, and Run returns.
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Errorf("the player's stream ends with %v", err)
	}
	for err = error(nil); err == nil; {
		_, err = pub.ReadPacket()
	}
	for _, l := range []string{"rtmp", "http", "admin"} {
		if c, err := net.Dial("tcp", n.Addr(l).String()); err == nil {
			c.Close()
			t.Errorf("%s still listens", l)
		}
	}
}

// A player that does not go within the grace time is cut off.
func TestGrace(t *testing.T) {
	c := testConfig(t)
	c.Grace = 0
	n, l, stop := start(t, c)
	nc, err := net.Dial("tcp", n.Addr("rtmp").String()) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	pub := publish(t, n, "s")
	defer pub.Close()
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	l.wait(t, "weir has ended")
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("the silent connection is still open")
	}
}

func TestListenErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tt := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"in use", func(c *Config) { c.Listen.HTTP = Address(ln.Addr().String()) },
			fmt.Sprintf("listen.http: %s is in use by another program; stop it, or set listen.http to another port or to off", ln.Addr())},
		{"no such address", func(c *Config) { c.Listen.Admin = "192.0.2.1:0" },
			"listen.admin: this machine does not have the address of 192.0.2.1:0"},
		{"no certificate", func(c *Config) { c.TLS = TLS{"none.pem", "none.pem"} },
			"certificate of tls.cert and tls.key: open none.pem: no such file or directory"},
	} {
		c := testConfig(t)
		tt.set(c)
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || err.Error() != tt.want {
			t.Errorf("%s: New = %v, want %s", tt.name, err, tt.want)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// configText is a configuration with one app.
func configText(app string) string {
	return `listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "off"}
data: state
policy_source: file
policy: {spaces: [{name: default, domains: [{name: "*"}], apps: [{name: ` + app + `}]}]}
`
}

// hasApp reports whether n's policy has the app.
func hasApp(t *testing.T, n *Node, app string) bool {
	t.Helper()
	_, body := get(t, n.url("http", "/"+app+"/s.flv"))
	return strings.Contains(body, "NonExistStreamName")
}

// F49: the policy is read again and swapped whole, or refused whole.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	writeFile(t, path, configText("live"))
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	reload := make(chan os.Signal)
	cfg.Reload = reload
	n, l, _ := start(t, cfg)
	if !hasApp(t, n, "live") {
		t.Fatal("the first policy is not in use")
	}
	pub := publish(t, n, "s")
	defer pub.Close()

	writeFile(t, path, configText("second"))
	l.wait(t, "policy read")
	if !hasApp(t, n, "second") || hasApp(t, n, "live") {
		t.Error("the second policy is not in use")
	}
	if n.hub.Stats().Publishers != 1 {
		t.Error("the publisher of the first policy was ended")
	}

	writeFile(t, path, configText("third")+"grace: soon\n")
	if line := l.wait(t, "configuration refused"); !strings.Contains(line, path+":5:8: grace: must be a duration") {
		t.Errorf("the log says %q", line)
	}
	if !hasApp(t, n, "second") || hasApp(t, n, "third") {
		t.Error("the refused policy is in use")
	}

	// Not by renaming but in place, and with a setting that needs a restart.
	if err := os.WriteFile(path, []byte(configText("fourth")+"grace: 9s\ngather_ceiling: 1ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if line := l.wait(t, "settings changed that need a restart"); !strings.HasSuffix(line, "settings=gather_ceiling, grace") {
		t.Errorf("the log says %q", line)
	}
	if !hasApp(t, n, "fourth") {
		t.Error("the fourth policy is not in use")
	}

	reload <- syscall.SIGHUP
	l.wait(t, "policy read")
}

// A file that is read again opens no listener: what does not rule any more, or
// would let anybody publish at a listener that others can reach, is refused.
func TestReloadRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	const open = `{spaces: [{name: default, domains: [{name: "*"}], apps: [{name: live}, {name: open}]}]}`
	text := func(listen, domain string) string {
		return "listen: {rtmp: '" + listen + "', http: '127.0.0.1:0', admin: 'off'}\ndata: state\npolicy_source: file\n" +
			"policy: {spaces: [{name: default, domains: [{name: '*'" + domain + "}], apps: [{name: live}]}]}\n"
	}
	const locked = ", publish: {simple: {key: 'key-of-the-file-1'}}"
	writeFile(t, path, text(":0", locked))
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	reload := make(chan os.Signal)
	cfg.Reload = reload
	n, l, _ := start(t, cfg)
	before := n.Policy()
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "policy_source is not file any more"},
		{"policy source", "listen: {rtmp: '127.0.0.1:0'}\npolicy: " + open, "policy_source is not file any more"},
		{"no policy", "policy_source: file\n", "has no section policy any more"},
		{"open", text("127.0.0.1:0", ""), `policy.spaces[0].domains[0].publish: anybody who can reach listen.rtmp at :0 could publish: the domain "*" has no authentication; ` +
			"give it one below publish, or set allow_open_publish: true in the configuration file and restart"},
		{"allowed from the next start on", text(":0", "") + "allow_open_publish: true\n", "anybody who can reach listen.rtmp at :0 could publish"},
	} {
		writeFile(t, path, tt.text)
		if line := l.wait(t, "configuration refused; the policy before stays"); !strings.Contains(line, path) || !strings.Contains(line, tt.want) {
			t.Errorf("%s: the log says %q, want %q", tt.name, line, tt.want)
		}
		if n.Policy() != before {
			t.Fatalf("%s: the policy is another one", tt.name)
		}
	}
	writeFile(t, path, text(":0", locked+", type: publish"))
	l.wait(t, "policy read")
	if n.Policy() == before {
		t.Error("a policy with authentication was not taken")
	}
}

// Where the store's policy lets anybody publish, listeners that others can reach
// are not opened, whatever policy the file has.
func TestStoreIsOpen(t *testing.T) {
	c := testConfig(t)
	_, _, stop := start(t, c)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	wide := func(space, more string) *Config {
		t.Helper()
		path := filepath.Join(t.TempDir(), "weir.yaml")
		writeFile(t, path, "listen: {rtmp: ':0', http: 'off', admin: 'off'}\n"+more+
			"policy: {spaces: [{name: "+space+", domains: [{name: '*', publish: {simple: {key: 'key-of-the-file-1'}}}], apps: [{name: live}]}]}\n")
		w, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		w.Data, w.DataGiven = c.Data, true
		return w
	}
	for _, tt := range []struct{ space, want string }{
		{"default", "weir apply -f FILE --data " + c.Data + ","},
		{"other", "weir apply -f FILE --prune --data " + c.Data + ","},
	} {
		w := wide(tt.space, "")
		n, err := New(w, slog.New(slog.DiscardHandler))
		if err == nil {
			start, end := context.WithCancel(t.Context())
			end()
			n.Run(start)
			t.Fatalf("New listens where anybody could publish")
		}
		for _, want := range []string{
			"the policy of the store, which rules: space/default: domains[0].publish: anybody who can reach listen.rtmp at :0 could publish",
			"start with listen.rtmp on 127.0.0.1 or off, run " + strings.ReplaceAll(tt.want, "FILE", w.File), "allow_open_publish: true", "policy_source: file",
		} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("New = %v, want %q in it", err, want)
			}
		}
	}
	for _, more := range []string{"allow_open_publish: true\n", "policy_source: file\n"} {
		_, _, stop := start(t, wide("default", more))
		if err := stop(); err != nil {
			t.Errorf("with %s: %v", more, err)
		}
	}
}

// What the command line has set is no change of the file.
func TestReloadWithData(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	writeFile(t, path, configText("live"))
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	reload := make(chan os.Signal)
	cfg.Data, cfg.DataGiven, cfg.Reload = t.TempDir(), true, reload
	_, l, _ := start(t, cfg)
	for range 2 { // when the second begins, all is said of the first
		reload <- syscall.SIGHUP
		l.wait(t, "policy read")
	}
	if said := strings.Join(l.passed, "\n"); strings.Contains(said, "settings changed") {
		t.Errorf("the log says:\n%s", said)
	}
}

// A Kubernetes volume: the file is a link into a folder that is itself a link,
// and that is what is replaced.
func TestReloadVolume(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	version := func(name, app string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name, "weir.yaml"), configText(app))
		if err := os.Symlink(name, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "live")
	if err := os.Symlink("..data/weir.yaml", path); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	n, l, _ := start(t, cfg)
	for i, app := range []string{"second", "third"} {
		version(fmt.Sprintf("..%d", i+2), app)
		l.wait(t, "policy read")
		if !hasApp(t, n, app) {
			t.Errorf("the policy with %s is not in use", app)
		}
	}
}

// writeCertificate writes a self-signed certificate for 127.0.0.1 and returns
// a pool that trusts it.
func writeCertificate(t *testing.T, files TLS) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	writeFile(t, files.Key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	writeFile(t, files.Cert, string(certPEM))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	c := testConfig(t)
	c.TLS = TLS{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	c.Listen.RTMPS, c.Listen.HTTPS = "127.0.0.1:0", "127.0.0.1:0"
	first := writeCertificate(t, c.TLS)
	n, l, _ := start(t, c)
	dial := func(listener string, roots *x509.CertPool) error {
		conn, err := tls.Dial("tcp", n.Addr(listener).String(), &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			return err
		}
		defer conn.Close()
		if p := conn.ConnectionState().NegotiatedProtocol; p == "h2" {
			t.Errorf("%s speaks %s", listener, p)
		}
		return nil
	}
	for _, listener := range []string{"rtmps", "https"} {
		if err := dial(listener, first); err != nil {
			t.Errorf("%s with the first certificate: %v", listener, err)
		}
	}
	second := writeCertificate(t, c.TLS)
	for dial("https", second) != nil { // key and certificate may be seen one by one
		l.wait(t, "certificate read")
	}
	if err := dial("rtmps", second); err != nil {
		t.Errorf("rtmps with the second certificate: %v", err)
	}
	writeFile(t, c.TLS.Cert, "nonsense")
	l.wait(t, "certificate refused")
	if err := dial("https", second); err != nil {
		t.Errorf("https with the second certificate, after a bad one: %v", err)
	}
}

// Limits of HTTP: H61 and a header that is too long or too slow.
func TestHTTPLimits(t *testing.T) {
	c := testConfig(t)
	c.Limits.HTTPHeaderTime, c.Limits.HTTPIdle = 100*time.Millisecond, 100*time.Millisecond
	n, _, _ := start(t, c)
	for _, tt := range []struct{ name, send, want string }{
		{"long header", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"slow header", "GET / HTTP/1.1\r\nHost: h\r\n", ""},
		{"slow body", "POST /live/s.flv HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 405 "},
		{"idle", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 "},
	} {
		nc, err := net.Dial("tcp", n.Addr("http").String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, tt.send); err != nil {
			t.Fatal(err)
		}
		nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, err := io.ReadAll(nc) // ends when the server closes
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open", tt.name)
		}
		if !bytes.HasPrefix(answer, []byte(tt.want)) || tt.want == "" && bytes.Contains(answer, []byte("200")) {
			t.Errorf("%s: %q, want %q", tt.name, answer, tt.want)
		}
		nc.Close()
	}
}

func TestConnectionsPerIP(t *testing.T) {
	c := testConfig(t)
	c.Limits.ConnectionsPerIP = 2
	n, _, _ := start(t, c)
	// dial returns nil where the connection is refused, which may be seen only
	// when it is used.
	dial := func(listener string) net.Conn {
		t.Helper()
		nc, err := net.Dial("tcp", n.Addr(listener).String())
		if errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	open := func(nc net.Conn) bool {
		if nc == nil {
			return false
		}
		if _, err := io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			return false
		}
		_, err := nc.Read(make([]byte, 1))
		return err == nil
	}
	first := dial("http")
	second := dial("rtmp")
	// It counts once weir has accepted it, which shows when it answers C0 and C1.
	if _, err := second.Write(append([]byte{3}, make([]byte, 1536)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !open(first) {
		t.Error("the first connection is refused")
	}
	if open(dial("http")) {
		t.Error("the third connection is accepted")
	}
	if _, metrics := get(t, n.url("admin", "/metrics")); !strings.Contains(metrics, "\nweir_connections_refused_total 1\n") {
		t.Error("the refused connection is not counted")
	}
	first.Close()
	for !open(dial("http")) { // the server sees first's end when it does
	}
}

// stubListener fails as often as it has errors.
type stubListener struct {
	net.Listener
	errs []error
}

func (s *stubListener) Accept() (net.Conn, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	a, b := net.Pipe()
	b.Close()
	return a, nil
}

// F47: out of descriptors, the listener waits and goes on.
func TestAcceptor(t *testing.T) {
	l := newLogs()
	a := &acceptor{conns: newConnections(0, nil), Listener: &stubListener{errs: []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED}}, log: slog.New(l), closed: make(chan struct{})}
	c, err := a.Accept()
	if err != nil {
		t.Fatalf("Accept = %v", err)
	}
	c.Close()
	if len(l.lines) != 1 {
		t.Errorf("%d lines in the log, want 1", len(l.lines))
	}
	a.Listener = &stubListener{errs: []error{syscall.EINVAL}}
	if _, err := a.Accept(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Accept = %v, want EINVAL", err)
	}
}

// The page must work for any policy and any set of listeners.
func TestPage(t *testing.T) {
	c := testConfig(t)
	c.Listen.RTMP = "off"
	c.Policy = &policy.Set{}
	n, _, _ := start(t, c)
	if status, body := get(t, n.url("http", "/")); status != 200 || !strings.Contains(body, `const port = "";`) {
		t.Errorf("the page without RTMP = %d %s", status, body)
	}
}

// I1: a panic in a request ends its connection, is counted and is logged.
func TestRescue(t *testing.T) {
	l := newLogs()
	n := &Node{log: slog.New(l)}
	for _, tt := range []struct {
		value any
		want  int64
	}{{"boom", 1}, {http.ErrAbortHandler, 1}, {errors.New("boom"), 2}} {
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("a panic with %v goes on as %v", tt.value, v)
				}
			}()
			defer n.rescue(&http.Request{RemoteAddr: "192.0.2.1:1"})
			panic(tt.value)
		}()
		if got := n.panics.Load(); got != tt.want {
			t.Errorf("after a panic with %v: %d counted, want %d", tt.value, got, tt.want)
		}
	}
	l.wait(t, "panic client=192.0.2.1:1 value=boom")
}

// Two nodes with one spool would go on with each other's recordings.
func TestOneSpoolEach(t *testing.T) {
	a, b := testConfig(t), testConfig(t)
	a.Record.Spool = t.TempDir()
	b.Record.Spool = a.Record.Spool
	_, _, stop := start(t, a)
	if _, err := New(b, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "record.spool") || !strings.Contains(err.Error(), "another process") {
		t.Errorf("New with the spool of another node: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start(t, b)
}
