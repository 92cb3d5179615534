package access

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/policy"
)

// loopback is the allow_networks of a server in this process.
func loopback() []policy.Network {
	return []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}}
}

// externalAt is the authentication by the server at that URL.
func externalAt(rawURL string) *policy.External {
	e := new(policy.External)
	e.SetDefaults()
	e.URL, e.AllowNetworks, e.Secret = policy.Endpoint(rawURL), loopback(), secret("callback-secret")
	return e
}

// authServer is a server of a customer.
func authServer(t testing.TB, h http.HandlerFunc) (*policy.External, *httptest.Server) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return externalAt(s.URL + "/check?x=1"), s
}

// Contract A.4, H70 and H71: what is asked, in both body modes, and how it is
// signed; whatever clients send is a value there.
func TestExternalRequest(t *testing.T) {
	type asked struct {
		header http.Header
		body   []byte
		uri    string
	}
	got := make(chan asked, 1)
	e, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- asked{r.Header, body, r.Method + " " + r.URL.String()}
	})
	r, err := FromRTMP(Publish, "live", "rtmp://push.example:1935/live?a=1&a=2", "s1?token=3dKB%26app=evil&x=%0d%0ay&call=evil&n=\xff&%22%7d%27%3b--=%24%7bx%7d*%3e")
	if err != nil {
		t.Fatal(err)
	}
	r.Addr, r.FlashVer = netip.MustParseAddrPort("192.0.2.7:5475"), "FMLE/3.0"
	for _, mode := range []policy.BodyMode{policy.BodyJSON, policy.BodyForm} {
		e := *e
		e.Body = mode
		g := gateWith(policy.Access{External: &e}, policy.Access{})
		g.Node = "node-1"
		if reason := reasonOf(t, g, r); reason != "" {
			t.Fatalf("denied: %s", reason)
		}
		a := <-got
		id, stamp := a.header.Get("Weir-Event-Id"), a.header.Get("Weir-Timestamp")
		mac := hmac.New(sha256.New, []byte("callback-secret"))
		fmt.Fprintf(mac, "%s.%s.%s", stamp, id, a.body)
		if want := "v1=" + hex.EncodeToString(mac.Sum(nil)); a.header.Get("Weir-Signature") != want || id == "" {
			t.Errorf("%v: Weir-Signature = %q, want %q", mode, a.header.Get("Weir-Signature"), want)
		}
		if a.uri != "POST /check?x=1" {
			t.Errorf("%v: asked %s", mode, a.uri)
		}
		if mode == policy.BodyForm {
			if typ := a.header.Get("Content-Type"); typ != "application/x-www-form-urlencoded" {
				t.Errorf("Content-Type %s", typ)
			}
			form, err := url.ParseQuery(string(a.body))
			want := url.Values{
				"call": {"publish"}, "app": {"live"}, "name": {"s1"}, "addr": {"192.0.2.7"}, "clientid": {id}, "tcurl": {"rtmp://push.example:1935/live?a=1&a=2"},
				"flashver": {"FMLE/3.0"}, "swfurl": {""}, "pageurl": {""}, "protocol": {"rtmp"}, "domain": {"push.example"}, "token": {"3dKB&app=evil"},
				"x": {"\r\ny"}, "n": {"\xff"}, "a": {"1"}, `"}';--`: {"${x}*>"},
			}
			if diff := cmp.Diff(want, form); err != nil || diff != "" {
				t.Errorf("form (-want +got): %v\n%s", err, diff)
			}
			continue
		}
		if typ := a.header.Get("Content-Type"); typ != "application/json" {
			t.Errorf("Content-Type %s", typ)
		}
		var body map[string]string
		if err := json.Unmarshal(a.body, &body); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"Version": "1.0", "RequestId": id, "Action": "publish", "Protocol": "rtmp", "UniqueName": "a", "App": "live", "Domain": "push.example",
			"Stream": "s1", "ClientIp": "192.0.2.7", "ClientPort": "5475", "Node": "node-1", "Token": "3dKB&app=evil",
			"PubParam": body["PubParam"], "TcUrl": "rtmp://push.example:1935/live?a=1&a=2", "Referer": "", "UserAgent": "",
		}
		if diff := cmp.Diff(want, body); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
		var params map[string]string
		if err := json.Unmarshal([]byte(body["PubParam"]), &params); err != nil {
			t.Fatalf("PubParam %q: %v", body["PubParam"], err)
		}
		if diff := cmp.Diff(map[string]string{"token": "3dKB&app=evil", "x": "\r\ny", "call": "evil", "n": "\ufffd", "a": "1", `"}';--`: "${x}*>"}, params); diff != "" {
			t.Errorf("PubParam (-want +got):\n%s", diff)
		}
	}
}

// H43: which answers mean what, and how often the server is asked.
func TestExternalAnswers(t *testing.T) {
	var answer atomic.Pointer[http.HandlerFunc]
	var asked atomic.Int32
	e, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		(*answer.Load())(w, r)
	})
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status); io.WriteString(w, body) }
	}
	cut := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   Reason
		asked  int32
	}{
		{"empty", says(200, ""), "", 1},
		{"204", says(204, ""), "", 1},
		{"blank", says(200, " \r\n"), "", 1},
		{"0", says(200, "0\n"), "", 1},
		{"object without code", says(201, `{"message":"x"}`), "", 1},
		{"code 0", says(200, `{"code":0,"message":5}`), "", 1},
		{"code 0.0", says(200, `{"code":0.0}`), "", 1},
		{"1", says(200, "1"), AuthFailed, 1},
		{"code 1", says(200, `{"code":1,"message":"no"}`), AuthFailed, 1},
		{"Code 1", says(200, `{"Code":1}`), AuthFailed, 1},
		{"code as text", says(200, `{"code":"0"}`), AuthFailed, 1},
		{"code null", says(200, `{"code":null}`), AuthFailed, 1},
		{"code false", says(200, `{"code":false}`), AuthFailed, 1},
		{"code object", says(200, `{"code":{}}`), AuthFailed, 1},
		{"401", says(401, `{"code":0}`), AuthFailed, 1},
		{"403 empty", says(403, ""), AuthFailed, 1},
		{"404", says(404, "0"), AuthFailed, 1},
		{"500", says(500, `{"code":0}`), AuthUnavailable, 2},
		{"302", says(302, ""), AuthUnavailable, 2},
		{"304", says(304, ""), AuthUnavailable, 2},
		{"HTML", says(200, "<html>ok</html>"), AuthUnavailable, 2},
		{"list", says(200, `[]`), AuthUnavailable, 2},
		{"text", says(200, `"0"`), AuthUnavailable, 2},
		{"true", says(200, `true`), AuthUnavailable, 2},
		{"null", says(200, `null`), AuthUnavailable, 2},
		{"broken JSON", says(200, `{"code":0`), AuthUnavailable, 2},
		{"too long", says(200, strings.Repeat(" ", maxAnswer+1)), AuthUnavailable, 2},
		{"longest", says(200, strings.Repeat(" ", maxAnswer)), "", 1},
		{"too deep", says(200, strings.Repeat("[", 20000)), AuthUnavailable, 2},
		{"cut off", cut, AuthUnavailable, 2},
		{"cut off once", func(w http.ResponseWriter, r *http.Request) {
			if asked.Load() == 1 {
				cut(w, r)
			}
		}, "", 2},
		{"header too long", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 20<<10)) }, AuthUnavailable, 2},
		{"gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "\x1f\x8b")
		}, AuthUnavailable, 2},
	}
	allow := *e
	allow.OnError = policy.OnErrorAllow
	g := gateWith(policy.Access{External: e}, policy.Access{External: &allow})
	for _, tt := range tests {
		answer.Store(&tt.answer)
		asked.Store(0)
		if got := reason(t, g, Publish, "rtmp://push.example/live/s1?token=x"); got != tt.want || asked.Load() != tt.asked {
			t.Errorf("%s: %q after %d requests, want %q after %d", tt.name, got, asked.Load(), tt.want, tt.asked)
		}
		want := tt.want
		if want == AuthUnavailable {
			want = ""
		}
		asked.Store(0)
		if got := reason(t, g, Play, "rtmp://play.example/live/s1?token=x"); got != want {
			t.Errorf("%s, play with on_error allow: %q, want %q", tt.name, got, want)
		}
	}
	asked.Store(0)
	for _, query := range []string{"", "?token=", "?Token=x", "?tok%65n"} {
		if got := reason(t, g, Publish, "rtmp://push.example/live/s1"+query); got != AuthMissing || asked.Load() != 0 {
			t.Errorf("with %q: %q after %d requests, want %q after none", query, got, asked.Load(), AuthMissing)
		}
	}
}

// F34, H43, H68: a server that does not answer, or not in time.
func TestExternalDown(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	slow := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write([]byte("{"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	hanging, _ := authServer(t, hang)
	dripping, _ := authServer(t, slow)
	gone, s := authServer(t, hang)
	s.Close()
	tls := httptest.NewUnstartedServer(http.HandlerFunc(hang)) // whose certificate nobody knows
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for name, e := range map[string]*policy.External{"hangs": hanging, "drips": dripping, "is gone": gone, "has a bad certificate": externalAt(tls.URL)} {
		e.Timeout = 200 * time.Millisecond
		g := gateWith(policy.Access{External: e}, policy.Access{})
		start := time.Now()
		if got := reason(t, g, Publish, "rtmp://push.example/live/s1?token=x"); got != AuthUnavailable {
			t.Errorf("the server %s: %q, want %q", name, got, AuthUnavailable)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the server %s: decided after %v", name, d)
		}
	}
	// The client goes away first.
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan struct{})
	e, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) { close(waits); hang(w, r) })
	g := gateWith(policy.Access{External: e}, policy.Access{})
	go func() { <-waits; cancel() }()
	if _, err := g.Check(ctx, request(t, Publish, "rtmp://push.example/live/s1?token=x")); err != context.Canceled {
		t.Errorf("Check of a client that left = %v", err)
	}
}

// A server that is slow for one domain delays nobody else, and is not asked
// more than so many questions at a time.
func TestExternalConcurrency(t *testing.T) {
	const most = 3
	var now, peak atomic.Int32
	release := make(chan struct{})
	full := make(chan struct{}, most)
	e, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > peak.Load() {
			peak.Store(n)
		}
		full <- struct{}{}
		<-release
		now.Add(-1)
	})
	e.Concurrency = most
	g := gateWith(policy.Access{External: e}, policy.Access{Simple: &policy.Simple{Key: secret("x")}})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got := reason(t, g, Publish, "rtmp://push.example/live/s1?token=x"); got != "" {
				t.Errorf("denied: %q", got)
			}
		})
	}
	for range most {
		<-full
	}
	if got := reason(t, g, Play, "rtmp://play.example/live/s1"); got != AuthMissing { // is not held up
		t.Errorf("the other domain: %q", got)
	}
	go func() { // ends with the last request
		for range 10 - most {
			<-full
		}
	}()
	close(release)
	wg.Wait()
	if peak.Load() > most {
		t.Errorf("%d requests at a time, want %d", peak.Load(), most)
	}
}

// What was decided about a player of HLS holds for a while, for him, his token
// and his stream.
func TestExternalRemembers(t *testing.T) {
	var asked atomic.Int32
	var no atomic.Bool
	e, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if no.Load() {
			w.WriteHeader(403)
		}
	})
	e.Remember = time.Minute
	g := gateWith(policy.Access{}, policy.Access{External: e})
	check := func(want Reason, wantAsked int32, rawURL, client string) {
		t.Helper()
		r := request(t, Play, rawURL)
		r.Addr = netip.MustParseAddrPort(client)
		if got := reasonOf(t, g, r); got != want || asked.Load() != wantAsked {
			t.Errorf("%s: %q after %d requests, want %q after %d", rawURL, got, asked.Load(), want, wantAsked)
		}
	}
	const playlist = "http://play.example/live/s1/index.m3u8?token=x"
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { check("", 1, playlist, "192.0.2.7:1") })
	}
	wg.Wait()
	no.Store(true)
	check("", 1, playlist, "192.0.2.7:2")
	check("", 1, "http://play.example/live/s1.m3u8?token=x&other=1", "192.0.2.7:2")
	check(AuthFailed, 2, playlist, "192.0.2.8:1")
	check(AuthFailed, 2, playlist, "192.0.2.8:1")
	check(AuthFailed, 3, "http://play.example/live/s1/index.m3u8?token=y", "192.0.2.7:1")
	check(AuthFailed, 4, "http://play.example/live/s2/index.m3u8?token=x", "192.0.2.7:1")
	check(AuthFailed, 5, "http://play.example/live/s1.flv?token=x", "192.0.2.7:1")
	check(AuthFailed, 6, "http://play.example/live/s1.flv?token=x", "192.0.2.7:1") // asked each time

	c := newClient("", e)
	for i := range maxRemembered {
		c.remembered[question{token: fmt.Sprint(i)}] = &decision{}
	}
	j := judgement{Grant: &Grant{request: Request{Protocol: HLS}, space: &policy.Space{}, domain: &policy.Domain{}}}
	if v := c.decide(t.Context(), &j, "new"); v.err != nil || len(c.remembered) > maxRemembered {
		t.Errorf("decide = %+v with %d decisions remembered", v, len(c.remembered))
	}
	for q := range c.remembered {
		c.remembered[q].until = time.Now().Add(-1)
	}
	c.sweep(time.Now().Add(time.Hour))
	if len(c.remembered) != 0 {
		t.Errorf("%d old decisions are remembered", len(c.remembered))
	}
}

// H67: what a name leads to is judged when it is dialled, each time.
func TestExternalDial(t *testing.T) {
	var asked atomic.Int32
	e, s := authServer(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	port := s.Listener.Addr().(*net.TCPAddr).Port
	// A name that leads to this machine, as one that an attacker owns may.
	e.URL, e.AllowNetworks = policy.Endpoint(fmt.Sprintf("http://localhost:%d/", port)), nil
	var why string
	g := gateWith(policy.Access{External: e}, policy.Access{})
	_, err := g.Check(t.Context(), request(t, Publish, "rtmp://push.example/live/s1?token=x"))
	if d, ok := err.(*Denied); ok {
		why = d.Why
	}
	if asked.Load() != 0 || !strings.Contains(why, "not on the public Internet") {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	e.AllowNetworks = loopback()
	if got := reason(t, gateWith(policy.Access{External: e}, policy.Access{}), Publish, "rtmp://push.example/live/s1?token=x"); got != "" || asked.Load() != 1 {
		t.Errorf("with allow_networks: %q, asked %d times", got, asked.Load())
	}
	// A redirect to inside leads nowhere.
	inside := asked.Load()
	redirect, _ := authServer(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, s.URL, http.StatusTemporaryRedirect) })
	if got := reason(t, gateWith(policy.Access{External: redirect}, policy.Access{}), Publish, "rtmp://push.example/live/s1?token=x"); got != AuthUnavailable || asked.Load() != inside {
		t.Errorf("redirected: %q, asked %d times", got, asked.Load()-inside)
	}
}

// I13: neither the secret nor the token of a client is in what is logged.
func TestExternalQuiet(t *testing.T) {
	e, s := authServer(t, nil)
	s.Close()
	g := gateWith(policy.Access{External: e}, policy.Access{})
	_, err := g.Check(t.Context(), request(t, Publish, "rtmp://push.example/live/s1?token=canary-token"))
	if err == nil || bytes.Contains([]byte(err.Error()), []byte("canary")) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "x=1") {
		t.Errorf("Check = %v", err)
	}
}

func FuzzExternalAnswer(f *testing.F) {
	for _, s := range []string{"", "0", `{"code":0}`, `{"code":1}`, `{"code":"0"}`, "null", "[]", "1e400", `{"code":1e-400}`, "-0", "{\"code\":0}x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := read(b)
		if v.allow && v.err != nil {
			t.Errorf("read(%q) = %+v", b, v)
		}
		if b = bytes.TrimSpace(b); v.allow && len(b) > 0 && !json.Valid(b) {
			t.Errorf("read(%q) allows what is no JSON", b)
		}
	})
}
