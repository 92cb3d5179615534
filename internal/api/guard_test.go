package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// H54: other host names are not answered to.
func TestHost(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Hosts = []string{"weir.example"} })
	viewer := w.token(t, Token{Role: Viewer})
	for host, ok := range map[string]bool{
		"127.0.0.1:8081": true, "localhost:8081": true, "LOCALHOST": true, "[::1]:8081": true, "192.0.2.1": true,
		"weir.example": true, "Weir.Example.:443": true,
		"evil.example": false, "localhost.evil.example": false, "weir.example.evil": false, "127.0.0.1.evil.example:8081": false, "": false,
	} {
		rec := w.do(t, request{method: http.MethodGet, path: "/self", token: viewer, header: map[string]string{"Host": host}})
		if got := rec.Code == http.StatusOK; got != ok || !ok && kindOf(rec) != kindHost {
			t.Errorf("Host %q: %d %s", host, rec.Code, rec.Body)
		}
	}
}

// H55: pages of strangers get nothing.
func TestOrigin(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Origins = []string{"https://console.example"} })
	viewer := w.token(t, Token{Role: Viewer})
	for origin, ok := range map[string]bool{
		"http://127.0.0.1:8081": true, "https://console.example": true,
		"null": false, "https://evil.example": false, "https://console.example.evil.example": false, "http://console.example": false,
		"https://127.0.0.1:8081": false, "http://127.0.0.1": false, "https://console.example:8443": false, "https://CONSOLE.example": false, "file://": false,
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			rec := w.do(t, request{method: method, path: "/self", token: viewer, header: map[string]string{
				"Origin": origin, "Access-Control-Request-Method": "GET",
			}})
			if got := rec.Code/100 == 2; got != ok || !ok && kindOf(rec) != kindOrigin {
				t.Errorf("%s from %q: %d %s", method, origin, rec.Code, rec.Body)
			}
			h := rec.Header()
			if allowed := h.Get("Access-Control-Allow-Origin"); allowed != "" && allowed != "https://console.example" || h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %q: %v", method, origin, h)
			}
		}
	}
	rec := w.do(t, request{method: http.MethodOptions, path: "/self", header: map[string]string{
		"Origin": "https://console.example", "Access-Control-Request-Method": "DELETE",
	}})
	if h := rec.Header(); rec.Code != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != "https://console.example" || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("a preflight: %d %v", rec.Code, h)
	}
}

// H53, H56: no path leads elsewhere, and no header makes another method of one.
func TestMethods(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	tests := []struct {
		method, path string
		want         int
		kind         kind
		allow        string
	}{
		{"PATCH", "/self", 405, kindMethod, "GET, HEAD, OPTIONS"},
		{"POST", "/streams/default/live/demo/publisher", 405, kindMethod, "DELETE, OPTIONS"},
		{"GET", "/streams/default/live/demo/publisher", 405, kindMethod, "DELETE, OPTIONS"},
		{"OPTIONS", "/tokens", 204, "", "GET, HEAD, POST, OPTIONS"},
		{"HEAD", "/self", 200, "", ""},
		{"HEAD", "/openapi.yaml", 200, "", ""},
		{"TRACE", "/self", 405, kindMethod, "GET, HEAD, OPTIONS"},
		{"GET", "/none", 404, kindNotFound, ""},
		{"OPTIONS", "/none", 404, kindNotFound, ""},
		{"GET", "//evil.example/%2f..", 404, kindNotFound, ""},
		{"GET", "/self/", 404, kindNotFound, ""},
		{"GET", "/../v1/self", 404, kindNotFound, ""},
		{"GET", `/%5cevil.example`, 404, kindNotFound, ""},
		{"GET", "/streams/default/live%2fdemo", 404, kindNotFound, ""},
	}
	for _, tt := range tests {
		rec := w.do(t, request{method: tt.method, path: tt.path, token: admin, header: map[string]string{"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"}})
		if rec.Code != tt.want || kindOf(rec) != tt.kind || rec.Header().Get("Allow") != tt.allow || rec.Header().Get("Location") != "" {
			t.Errorf("%s %s: %d %v %s", tt.method, tt.path, rec.Code, rec.Header(), rec.Body)
		}
	}
	if n := len(w.Sessions.Sessions()); n != 0 || w.Hub.Streams()[0].Publication() == nil {
		t.Error("a method that is overridden had an effect")
	}
}

// TestBodies sends what is no JSON, or some that decoders differ about (H59).
func TestBodies(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	ok := `{"name":"a","role":"viewer"}`
	for text, want := range map[string]int{
		ok: 201, " " + ok + "\n": 201,
		"\ufeff" + ok: 400, ok + ok: 400, ok + "x": 400, `{"name":"a","role":"viewer"`: 400, "": 400, "nul": 400, "{'a':1}": 400,
		`{"name":"a","role":"viewer","role":"admin"}`:                               400,
		`{"name":"a","role":"viewer","Role":"admin"}`:                               400,
		`{"name":"a","role":"viewer","\u0072ole":"admin"}`:                          400,
		`{"name":"a","Role":"viewer"}`:                                              400,
		`{"name":"a","role":"viewer","x":1e400}`:                                    400,
		`{"name":"a","role":"viewer","x":1e5}`:                                      422,
		"{\"name\":\"a\xff\",\"role\":\"viewer\"}":                                  400,
		"{\x00\"\x00}\x00":                                                          400,
		strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000):                 400,
		strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1): 400,
		strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth):     422,
		`{"name":"a","role":"root"}`:                                                422,
		`{"name":"../etc","role":"viewer"}`:                                         422,
		`{"name":null,"role":"viewer"}`:                                             422,
		`null`:                                                                      422,
	} {
		rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: admin, body: text})
		if rec.Code != want {
			t.Errorf("POST %.60q: %d %s, want %d", text, rec.Code, rec.Body, want)
		}
		if rec.Code != 201 && kindOf(rec) == "" {
			t.Errorf("POST %.60q: no problem: %s", text, rec.Body)
		}
	}
	// A body of which only the beginning is read costs no more.
	rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: admin, body: `{"name":"` + strings.Repeat("a", 4<<20)})
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of 4 MiB: %d", rec.Code)
	}
	r := httptest.NewRequest(http.MethodPost, "http://localhost"+Prefix+"/tokens", endless{})
	r.ContentLength = -1
	r.Header.Set("Authorization", "Bearer "+admin)
	r.Header.Set("Content-Type", "application/json")
	rec = httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("an endless body: %d", rec.Code)
	}
	rec = w.do(t, request{method: http.MethodPost, path: "/tokens", token: admin, body: ok, header: map[string]string{"Content-Encoding": "gzip"}})
	if rec.Code != http.StatusUnsupportedMediaType {
		t.Errorf("a body in gzip: %d", rec.Code)
	}
}

// endless is a body without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":null}],"c":"x"}`, `[[]]`, `{"a":1,"a":2}`, "\ufeff{}", `1e400`, `{"a":{}}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxBody {
			return
		}
		checkJSON(b) // does not panic or hang
	})
}

func TestFailuresAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f failures
		fail := func(addr string) time.Duration { return f.note(addr, time.Now()) }
		for i := range failBurst {
			if d := fail("192.0.2.1"); d > 0 {
				t.Fatalf("failure %d waits %v", i, d)
			}
		}
		if fail("192.0.2.1") == 0 {
			t.Error("one failure too many does not wait")
		}
		if fail("192.0.2.2") > 0 || fail("2001:db8::1") > 0 {
			t.Error("another address waits")
		}
		for range failBurst {
			fail("2001:db8::2")
		}
		if fail("2001:db8::3") == 0 {
			t.Error("an address of the same IPv6 network does not wait")
		}
		time.Sleep(failPause)
		if fail("192.0.2.1") > 0 {
			t.Error("a failure waits although the time is over")
		}
		for i := range 2 * maxFailing {
			fail(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		}
		if n := len(f.recent) + len(f.old); n > maxFailing {
			t.Errorf("%d addresses are remembered, want at most %d", n, maxFailing)
		}
	})
}

// TestGuessing shows that those who guess are told to wait, and that who has a
// token is not held up by them.
func TestGuessing(t *testing.T) {
	w := newWorld(t)
	viewer := w.token(t, Token{Role: Viewer})
	last := 0
	for range failBurst + 1 {
		last = w.do(t, request{method: http.MethodGet, path: "/self", token: viewer[:len(viewer)-1] + "!"}).Code
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("after many failures: %d, want 429", last)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/self", token: viewer}); rec.Code != http.StatusOK {
		t.Errorf("a valid token after many failures: %d %s", rec.Code, rec.Body)
	}
}

func TestRateOfToken(t *testing.T) {
	w := newWorld(t)
	greedy, other := w.token(t, Token{Role: Viewer}), w.token(t, Token{Role: Viewer})
	var rec *httptest.ResponseRecorder
	for range 20 * askBurst {
		if rec = w.do(t, request{method: http.MethodGet, path: "/self", token: greedy}); rec.Code != http.StatusOK {
			break
		}
	}
	if rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" || kindOf(rec) != kindRate {
		t.Errorf("a greedy token: %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/self", token: other}); rec.Code != http.StatusOK {
		t.Errorf("another token: %d", rec.Code)
	}
}
