package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/bus/bustest"
	"weir/internal/cluster"
	"weir/internal/policy"
)

// caller calls the API of a node.
type caller struct {
	t      *testing.T
	url    string // of the listener
	token  string
	client *http.Client
}

// api returns a caller of the API on a listener, with the token of this machine.
func (n *Node) caller(t *testing.T, listener string, roots *x509.CertPool) *caller {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.DataFolder(), tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(client.CloseIdleConnections)
	return &caller{t, n.url(listener, ""), strings.TrimSpace(string(text)), client}
}

// with returns a caller with a token of its own, of a space if one is given.
func (c *caller) with(name, role string, space ...string) *caller {
	c.t.Helper()
	var made struct{ Token string }
	body := fmt.Sprintf(`{"name":%q,"role":%q,"space":%q}`, name, role, strings.Join(space, ""))
	if resp, text := c.do("POST", "/api/v1/tokens", body); json.Unmarshal([]byte(text), &made) != nil || made.Token == "" {
		c.t.Fatalf("make a token: %s %s", resp.Status, text)
	}
	other := *c
	other.token = made.Token
	return &other
}

// do makes a request; header is of names and values.
func (c *caller) do(method, path, body string, header ...string) (*http.Response, string) {
	c.t.Helper()
	resp, err := c.try(method, path, body, header...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(text)
}

func (c *caller) try(method, path, body string, header ...string) (*http.Response, error) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body == "" {
		r.Body = http.NoBody
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	return c.client.Do(r)
}

// H54, H55: the names and the pages of strangers are kept out, those that are
// configured are let in, and none is configured by itself.
func TestAPISettings(t *testing.T) {
	const page = "https://console.example.com"
	for _, configured := range []bool{false, true} {
		c := testConfig(t)
		if configured {
			c.API = API{Hosts: []string{"weir.example.com"}, Origins: []string{page}}
		}
		n, _, _ := start(t, c)
		admin := n.caller(t, "admin", nil)
		ask := func(want, wantPage int, header ...string) {
			t.Helper()
			for _, method := range []string{"GET", "DELETE", "OPTIONS"} {
				path := "/api/v1/self"
				if method == "DELETE" {
					path = "/api/v1/sessions/0123456789abcdef"
				}
				resp, text := admin.do(method, path, "", header...)
				code := resp.StatusCode
				if method == "OPTIONS" && code == http.StatusNoContent {
					code = http.StatusOK
				}
				if code != want {
					t.Errorf("configured %v: %s with %v: %s %s, want %d", configured, method, header, resp.Status, text, want)
				}
				allowed := resp.Header.Get("Access-Control-Allow-Origin")
				if wantPage == 0 && allowed != "" || wantPage == 1 && allowed != page || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("configured %v: %s with %v: CORS allows %q", configured, method, header, allowed)
				}
			}
		}
		if configured {
			ask(200, 0, "Host", "weir.example.com")
			ask(200, 1, "Origin", page)
			ask(200, 1, "Origin", page, "Access-Control-Request-Method", "DELETE")
		} else {
			ask(421, 0, "Host", "weir.example.com")
			ask(403, 0, "Origin", page)
			ask(403, 0, "Origin", page, "Access-Control-Request-Method", "DELETE")
		}
		ask(200, 0)
		ask(200, 0, "Host", "localhost")
		ask(200, 0, "Origin", admin.url) // a page of its own
		ask(421, 0, "Host", "evil.example.com")
		ask(421, 0, "Host", "weir.example.com.evil.example")
		ask(403, 0, "Origin", "null")
		ask(403, 0, "Origin", page+".evil.example")
		ask(403, 0, "Origin", strings.Replace(page, "https", "http", 1))
	}
}

// TestAPIRate has a token that asks too often, and another.
func TestAPIRate(t *testing.T) {
	n, _, _ := start(t, testConfig(t))
	local := n.caller(t, "admin", nil)
	greedy, other := local.with("greedy", "viewer"), local.with("other", "viewer")
	for i := 0; ; i++ {
		resp, text := greedy.do("GET", "/api/v1/self", "")
		if resp.StatusCode == http.StatusTooManyRequests {
			wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err != nil || wait < 1 || !strings.Contains(text, "urn:weir:problem:rate") || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("after %d requests: %v %s", i, resp.Header, text)
			}
			break
		}
		if resp.StatusCode != http.StatusOK || i == 20_000 {
			t.Fatalf("request %d: %s", i, resp.Status)
		}
	}
	if resp, text := other.do("GET", "/api/v1/self", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("another token: %s %s", resp.Status, text)
	}
}

// TestAPIOverHTTPS has the API on the HTTPS listener, where the configuration
// wants it there, with a certificate that changes.
func TestAPIOverHTTPS(t *testing.T) {
	dir := t.TempDir()
	c := testConfig(t)
	c.TLS = TLS{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	c.Listen.HTTPS = "127.0.0.1:0"
	c.API.HTTPS = true
	first := writeCertificate(t, c.TLS)
	n, l, stop := start(t, c)
	secure := n.caller(t, "https", first)
	publish(t, n, "cam").Close()
	resp, text := secure.do("GET", "/api/v1/streams", "")
	if resp.StatusCode != http.StatusOK || resp.TLS == nil || resp.TLS.Version < tls.VersionTLS12 {
		t.Errorf("GET streams: %s %s", resp.Status, text)
	}
	// It is the whole API: bodies, roles, errors, the document.
	viewer := secure.with("eye", "viewer")
	if resp, text := viewer.do("DELETE", "/api/v1/streams/default/live/cam/publisher", ""); resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "urn:weir:problem:role") {
		t.Errorf("a viewer's DELETE: %s %s", resp.Status, text)
	}
	if resp, text := secure.do("PUT", "/api/v1/forbidden/default/live/cam", `{"note":"`+strings.Repeat("x", 500)+`"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("PUT: %s %s", resp.Status, text)
	}
	if resp, text := secure.do("GET", "/api/v1/openapi.json", ""); resp.StatusCode != http.StatusOK || !strings.HasPrefix(text, "{") {
		t.Errorf("the document: %s", resp.Status)
	}
	if resp, _ := secure.do("GET", "/api/v1/self", "", "Origin", secure.url); resp.StatusCode != http.StatusOK {
		t.Errorf("a page of the listener: %s", resp.Status)
	}
	if resp, _ := secure.do("GET", "/api/v1/self", "", "Origin", strings.Replace(secure.url, "https", "http", 1)); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a page that came without TLS: %s", resp.Status)
	}
	nobody := *secure
	nobody.token = ""
	if resp, _ := nobody.do("GET", "/api/v1/streams", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", resp.Status)
	}
	// What is for the admin listener only is not there, nor is the API on HTTP.
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/readyz", "/healthz"} {
		if resp, _ := secure.do("GET", path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s over HTTPS: %s", path, resp.Status)
		}
	}
	plain := *secure
	plain.url = n.url("http", "")
	if resp, _ := plain.do("GET", "/api/v1/self", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the API over HTTP: %s", resp.Status)
	}
	if resp, text := plain.do("GET", "/live/none.flv", ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("media beside the API: %s %s", resp.Status, text)
	}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: first, MaxVersion: tls.VersionTLS11}}}
	if resp, err := old.Get(secure.url + "/api/v1/openapi.yaml"); err == nil {
		t.Errorf("TLS 1.1: %s", resp.Status)
	}

	// Facts as they happen, on a connection that was there before the new certificate.
	feed, err := secure.try("GET", "/api/v1/events/feed?type=api.written", "")
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Body.Close()
	lines := bufio.NewScanner(feed.Body)
	if !lines.Scan() {
		t.Fatal("the feed says nothing")
	}

	// The files change: who connects from then on gets the new certificate.
	second := writeCertificate(t, c.TLS)
	renewed := n.caller(t, "https", second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		resp, err := renewed.try("GET", "/api/v1/self", "")
		if err == nil {
			resp.Body.Close()
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("with the second certificate: %v", err)
		}
		l.wait(t, "certificate") // key and certificate may be seen one by one
	}
	late := n.caller(t, "https", first)
	if resp, err := late.try("GET", "/api/v1/self", ""); err == nil {
		t.Errorf("the first certificate is still good: %s", resp.Status)
	}
	if resp, text := renewed.do("DELETE", "/api/v1/forbidden/default/live/cam", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE with the second certificate: %s %s", resp.Status, text)
	}
	for lines.Scan() && !strings.Contains(lines.Text(), "DELETE") {
	}
	if err := lines.Err(); err != nil || !strings.Contains(lines.Text(), "/api/v1/forbidden/default/live/cam") {
		t.Errorf("the feed ends with %q, %v", lines.Text(), err)
	}
	feed.Body.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}

	// Where nobody wants it there, it is not.
	c.API.HTTPS = false
	n, _, _ = start(t, c)
	without := n.caller(t, "https", second)
	for _, path := range []string{"/api/v1/self", "/api/v1/openapi.yaml", "/api/v1", "/api/v1/"} {
		if resp, _ := without.do("GET", path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s over HTTPS where it is not wanted: %s", path, resp.Status)
		}
	}
}

// H50: what shows the insides of the process is for nobody who has no token,
// where others than this machine can reach the listener.
func TestExposedAdmin(t *testing.T) {
	c := testConfig(t)
	c.Listen.Admin = "0.0.0.0:0"
	n, _, _ := start(t, c)
	local := n.caller(t, "admin", nil)
	local.url = fmt.Sprintf("http://127.0.0.1:%s", n.url("admin", "")[strings.LastIndexByte(n.url("admin", ""), ':')+1:])
	nobody := *local
	nobody.token = ""
	viewer, admin := local.with("viewer", "viewer"), local.with("admin", "admin")
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/trace?seconds=0.01"} {
		want := http.StatusForbidden
		if path == "/metrics" {
			want = http.StatusOK
		}
		for who, status := range map[*caller]int{&nobody: http.StatusUnauthorized, viewer: want, admin: http.StatusOK} {
			if resp, text := who.do("GET", path, ""); resp.StatusCode != status {
				t.Errorf("%s: %s %.200s, want %d", path, resp.Status, text, status)
			}
		}
		if resp, _ := admin.do("GET", path, "", "Host", "evil.example.com"); resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s by the name of a stranger: %s", path, resp.Status)
		}
	}
	for _, path := range []string{"/debug/vars", "/debug/", "/varz", "/jsz", "/connz", "/admin", "/.git/config", "/weir.yaml"} {
		if resp, _ := admin.do("GET", path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	// Whether it is there may be asked by anybody, and says no more.
	for _, path := range []string{"/healthz", "/readyz"} {
		if resp, text := nobody.do("GET", path, ""); resp.StatusCode != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: %s %q", path, resp.Status, text)
		}
	}
}

// TestStoreAwayAtStart starts a node while its NATS is away: at once it says to
// those whose tokens it cannot know that they shall come again, what needs no
// store works, and all does when NATS is there.
func TestStoreAwayAtStart(t *testing.T) {
	nats := bustest.Serve(t)
	c := testConfig(t)
	c.NATS.URL = nats.ClientURL()
	n, _, stop := start(t, c)
	remote := n.caller(t, "admin", nil).with("remote", "admin")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	nats.Stop()

	n, _, _ = start(t, c)
	listening := time.Now()
	local := n.caller(t, "admin", nil)
	remote.url = local.url
	resp, text := remote.do("GET", "/api/v1/streams", "")
	if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != http.StatusServiceUnavailable || err != nil || after < 1 ||
		resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(text, "urn:weir:problem:unavailable") {
		t.Errorf("a token of the store: %s %v %s", resp.Status, resp.Header, text)
	}
	if took := time.Since(listening); took > patience {
		t.Errorf("the answer took %v", took)
	}
	pub := publish(t, n, "cam")
	defer pub.Close()
	if resp, text := local.do("GET", "/api/v1/streams", ""); resp.StatusCode != http.StatusOK || !strings.Contains(text, `"stream":"cam"`) {
		t.Errorf("the token of this machine: %s %s", resp.Status, text)
	}
	if resp, text := local.do("GET", "/api/v1/spaces/default/apps/live", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("the policy that this node saw last: %s %s", resp.Status, text)
	}
	for _, write := range [][3]string{
		{"PUT", "/api/v1/spaces/default/apps/more", "{}"}, {"PUT", "/api/v1/policy/documents/space/more", "{}"},
		{"POST", "/api/v1/tokens", `{"name":"x","role":"viewer"}`}, {"GET", "/api/v1/tokens", ""}, {"GET", "/api/v1/events", ""}, {"GET", "/api/v1/statistics", ""},
	} {
		if resp, text := local.do(write[0], write[1], write[2]); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %s %v %s", write[0], write[1], resp.Status, resp.Header, text)
		}
	}

	nats.Resume()
	eventually(t, "the tokens to be known", func() bool {
		resp, _ := remote.do("GET", "/api/v1/streams", "")
		return resp.StatusCode == http.StatusOK
	})
	eventually(t, "the policy to be writable", func() bool {
		resp, _ := remote.do("PUT", "/api/v1/spaces/default/apps/more", "{}")
		return resp.StatusCode == http.StatusOK
	})
}

// H49: the owner of one space neither sees nor moves what is of another, though
// he knows its names and ids; whoever has no token can tell the server nothing.
func TestForeignSpace(t *testing.T) {
	c := testConfig(t)
	app := policy.DefaultApp("live")
	app.Record.Mode = policy.RecordRequest
	c.Policy.Spaces[0].Apps = []policy.App{app}
	c.Policy.Spaces = append(c.Policy.Spaces, policy.Space{
		Name: "foreign", Domains: []policy.Domain{{Name: "foreign.example", Type: policy.Both}}, Apps: []policy.App{policy.DefaultApp("live")},
	})
	n, _, _ := start(t, c)
	local := n.caller(t, "admin", nil)
	pub := publish(t, n, "cam")
	defer pub.Close()
	_, text := local.do("GET", "/api/v1/sessions", "")
	var sessions struct{ Items []struct{ ID string } }
	if err := json.Unmarshal([]byte(text), &sessions); err != nil || len(sessions.Items) != 1 {
		t.Fatalf("sessions: %s", text)
	}
	_, text = local.do("POST", "/api/v1/recording-orders/default/live/cam", `{"start":"2100-01-01T00:00:00Z"}`)
	var order struct{ ID string }
	if err := json.Unmarshal([]byte(text), &order); err != nil || order.ID == "" {
		t.Fatalf("an order: %s", text)
	}
	_, text = local.do("POST", "/api/v1/tokens", `{"name":"of-default","role":"viewer","space":"default"}`)
	var token struct{ ID, Token string }
	if err := json.Unmarshal([]byte(text), &token); err != nil || token.ID == "" {
		t.Fatalf("a token: %s", text)
	}
	owner := local.with("foreigner", "admin", "foreign")
	nobody := *local
	nobody.token = ""
	const stream = "/default/live/cam"
	for _, q := range []struct {
		method, path, body string
		want               int
	}{
		{"DELETE", "/sessions/" + sessions.Items[0].ID, "", 200},
		{"DELETE", "/streams" + stream + "/publisher", "", 404},
		{"DELETE", "/streams" + stream + "/players", "", 404},
		{"DELETE", "/streams" + stream + "/recording", "", 404},
		{"GET", "/streams" + stream, "", 404},
		{"GET", "/streams" + stream + "/timeline", "", 404},
		{"GET", "/streams" + stream + "/snapshot", "", 404},
		{"POST", "/streams" + stream + "/snapshots", "", 404},
		{"PUT", "/forbidden" + stream, "{}", 404},
		{"GET", "/forbidden" + stream, "", 404},
		{"GET", "/recordings" + stream, "", 404},
		{"DELETE", "/recordings" + stream + "/cam-1-2.m3u8", "", 404},
		{"POST", "/recording-orders" + stream, "{}", 404},
		{"GET", "/recording-orders/" + order.ID, "", 404},
		{"DELETE", "/recording-orders/" + order.ID, "", 204},
		{"DELETE", "/tokens/" + token.ID, "", 204},
		{"GET", "/spaces/default/apps", "", 404},
		{"GET", "/spaces/default/access-keys", "", 404},
		{"POST", "/spaces/default/access-keys", "{}", 404},
		{"PUT", "/spaces/default/apps/live", `{"disabled":true}`, 404},
		{"POST", "/spaces/default/callbacks/test", `{"app":"live","sample":"start"}`, 404},
		{"POST", "/urls/sign", `{"url":"rtmp://127.0.0.1/live/cam","does":"publish"}`, 404},
		{"POST", "/urls/sign", `{"url":"rtmp://foreign.example/live/cam?vhost=127.0.0.1","does":"publish"}`, 404},
		{"POST", "/urls/verify", `{"url":"rtmp://127.0.0.1/live/cam","does":"publish"}`, 404},
		{"POST", "/tokens", `{"name":"x","role":"viewer"}`, 403},
		{"GET", "/policy", "", 403},
		{"PUT", "/policy/documents/space/default", "{}", 403},
		{"GET", "/config", "", 403},
		{"GET", "/nodes", "", 403},
	} {
		if resp, text := owner.do(q.method, "/api/v1"+q.path, q.body); resp.StatusCode != q.want || strings.Contains(text, `"cam"`) && resp.StatusCode < 300 {
			t.Errorf("the owner of another space: %s %s: %s %s, want %d", q.method, q.path, resp.Status, text, q.want)
		}
		if resp, text := nobody.do(q.method, "/api/v1"+q.path, q.body); resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("nobody: %s %s: %s %s", q.method, q.path, resp.Status, text)
		}
	}
	for _, path := range []string{"/streams", "/sessions", "/events", "/history/pushes", "/history/durations", "/history/recordings", "/forbidden", "/recordings", "/recording-orders", "/snapshots", "/transcodes", "/alerts", "/spaces", "/tokens", "/callbacks/receivers"} {
		if resp, text := owner.do("GET", "/api/v1"+path, ""); resp.StatusCode != http.StatusOK || strings.Contains(text, `"space":"default"`) || strings.Contains(text, `"name":"default"`) {
			t.Errorf("the owner of another space: GET %s: %s %s", path, resp.Status, text)
		}
	}
	// All is as it was.
	if n.hub.Stats().Publishers != 1 || len(n.sessions.Sessions()) != 1 {
		t.Error("the publisher is gone")
	}
	if resp, text := local.do("GET", "/api/v1/recording-orders/"+order.ID, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("the order: %s %s", resp.Status, text)
	}
	other := *local
	other.token = token.Token
	if resp, text := other.do("GET", "/api/v1/self", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("the token: %s %s", resp.Status, text)
	}
}

// The store is reached late: the keys that all nodes share are used from then on,
// and what was signed before stays good.
func TestSharedKeysLate(t *testing.T) {
	nats := bustest.Serve(t)
	keys := filepath.Join(t.TempDir(), "secrets.key")
	if _, err := cluster.ReadKeys(keys, true); err != nil {
		t.Fatal(err)
	}
	node := func(name string) (*Node, *logs) {
		c := testConfig(t)
		c.Node, c.NATS.URL, c.PolicySource, c.Secrets.KeyFile = name, nats.ClientURL(), PolicyFile, keys
		n, l, _ := start(t, c)
		return n, l
	}
	signed := func(by, at *Node) bool {
		t.Helper()
		status, _ := get(t, at.url("http", by.signer.URL("none", "record/live/x.flv", time.Hour)))
		return status != http.StatusForbidden
	}
	nats.Stop()
	late, l := node("late")
	before := late.signer.URL("none", "record/live/x.flv", time.Hour)
	nats.Resume()
	l.wait(t, "the key that all nodes share is there key=objects")
	l.wait(t, "the key that all nodes share is there key=segments")
	other, _ := node("other")
	if !signed(late, other) || !signed(other, late) {
		t.Error("a URL is not good at the other node")
	}
	if status, _ := get(t, late.url("http", before)); status == http.StatusForbidden {
		t.Error("a URL of before is not good any more")
	}
	if status, _ := get(t, other.url("http", before)); status != http.StatusForbidden {
		t.Errorf("a URL of before is good at another node: %d", status)
	}
}

// H53: whatever the path is, nobody is sent to another site.
func TestNoRedirects(t *testing.T) {
	n, _, _ := start(t, testConfig(t))
	publish(t, n, "s").Close()
	for _, listener := range []string{"http", "admin"} {
		for _, target := range []string{
			"//evil.example/%2f..", "//evil.example/..", `/\evil.example`, "/%5cevil.example", "/%5c%5cevil.example/..", "/live//evil.example", "/live/../..//evil.example",
			"/live/?x=//evil.example", "/live?x", "/live/s/?x=1", "/live/s.flv/?x", "/-/objects//evil.example", "/api//evil.example", "/api/v1//evil.example",
			"/api/v1/streams/?x=1", "/debug/pprof?x", "/debug//evil.example", "/.//evil.example", "/%2e%2e//evil.example", "//evil.example", "///evil.example/x/..", "/%2fevil.example/..",
			"http://evil.example/", "http://evil.example//x/..",
		} {
			nc, err := net.Dial("tcp", n.Addr(listener).String())
			if err != nil {
				t.Fatal(err)
			}
			nc.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", target)
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatalf("%s GET %s: %v", listener, target, err)
			}
			to, err := neturl.Parse(resp.Header.Get("Location"))
			if err != nil || to.Host != "" || strings.HasPrefix(to.Path, "//") || strings.Contains(to.Path, `\`) {
				t.Errorf("%s GET %s: %s, to %q", listener, target, resp.Status, resp.Header.Get("Location"))
			}
			resp.Body.Close()
			nc.Close()
		}
	}
}

// The store is reached late, when the node has served for long: the first token
// is told then, once, and at no other start.
func TestFirstTokenLate(t *testing.T) {
	nats := bustest.Serve(t)
	c := testConfig(t)
	c.NATS.URL, c.PolicySource = nats.ClientURL(), PolicyFile // which needs no store to begin with
	nats.Stop()
	run := func(later func(n *Node)) []string {
		t.Helper()
		n, err := New(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan string, 10)
		n.FirstToken = func(token string) { told <- token }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }() // ends with ctx
		later(n)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(told)
		return slices.Collect(func(yield func(string) bool) {
			for token := range told {
				yield(token)
			}
		})
	}
	self := func(n *Node) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url("admin", "/api/v1/self"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer weir_aaaaaaaa_a")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	first := run(func(n *Node) {
		if got := self(n); got != http.StatusServiceUnavailable {
			t.Errorf("a token while the store is away: %d", got)
		}
		nats.Resume()
		eventually(t, "the tokens", func() bool { return self(n) == http.StatusUnauthorized })
		eventually(t, "the first token", func() bool { list, err := n.tokens.List(); return err == nil && len(list) == 1 })
	})
	if len(first) != 1 || !strings.HasPrefix(first[0], "weir_") {
		t.Errorf("told %q, want one token", first)
	}
	if again := run(func(n *Node) { eventually(t, "the tokens", func() bool { return self(n) == http.StatusUnauthorized }) }); len(again) > 0 {
		t.Errorf("told %d tokens at the second start", len(again))
	}
}
