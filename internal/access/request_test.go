package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// names is what FromRTMP and FromHTTP find, on one line.
func names(r Request) string {
	s := fmt.Sprintf("%s %s/%s", r.Host, r.App, r.Stream)
	if r.File != "" {
		s += " " + r.File
	}
	if len(r.Params) > 0 {
		s += " ?" + r.Params.Raw()
	}
	return s
}

// H38, H101 and contract B.31: where names and parameters may stand.
func TestFromRTMP(t *testing.T) {
	tests := []struct{ app, tcURL, name, want string }{
		{"live", "rtmp://h.example/live", "s", "h.example live/s"},
		{"live", "rtmp://h.example:1935/live", "s", "h.example live/s"},
		{"live", "rtmps://H.EXAMPLE.:443/live", "s", "h.example live/s"},
		{"live", "rtmp://10.0.0.1/live", "s", "10.0.0.1 live/s"},
		{"live", "rtmp://[2001:DB8::1]:1935/live", "s", "2001:db8::1 live/s"},
		{"live", "rtmp://a@b@h.example/live", "s", "h.example live/s"},
		{"live", "rtmp://user:pass@h.example:1935/live", "s", "h.example live/s"},
		{"live", "rtmp://中文.example/live", "s", "中文.example live/s"},
		{"live", "rtmp://xn--fiq228c.example/live", "s", "xn--fiq228c.example live/s"},
		{"live", "rtmp://h.example\\@evil/live", "s", "evil live/s"},
		{"live", "", "s", " live/s"},
		{"live", "junk", "s", " live/s"},
		{"live", "rtmp:///live", "s", " live/s"},

		// vhost
		{"live", "rtmp://10.0.0.1/live?vhost=H.example", "s", "h.example live/s ?vhost=H.example"},
		{"live?vhost=h.example", "rtmp://10.0.0.1/live", "s", "h.example live/s ?vhost=h.example"},
		{"live", "rtmp://10.0.0.1/live", "s?vhost=h.example", "h.example live/s ?vhost=h.example"},
		{"live...vhost...h.example", "rtmp://10.0.0.1/live...vhost...h.example", "s", "h.example live/s ?vhost=h.example"},
		{"live", "rtmp://10.0.0.1/live", "s...vhost...h.example?k=1", "h.example live/s ?vhost=h.example&k=1"},
		{"live", "rtmp://10.0.0.1/live", "s?vhost=", "10.0.0.1 live/s ?vhost="},

		// app
		{"", "rtmp://h.example/live", "s", "h.example live/s"},
		{"", "rtmp://h.example/live/", "s", "h.example live/s"},
		{"", "rtmp://h.example/live/s?x=1", "s", "h.example live/s ?x=1"},
		{"", "rtmp://h.example/live/_definst_", "s", "h.example live/s"},
		{"", "rtmp://h.example", "s", "h.example /s"},
		{"", "", "s", " /s"},
		{"live/", "rtmp://h.example/live/", "s", "h.example live/s"},
		{"/live", "rtmp://h.example/live/", "s", "h.example live/s"},
		{"live/_definst_", "rtmp://h.example/live/_definst_", "s", "h.example live/s"},
		{"live/_definst_/", "rtmp://h.example/live/_definst_/", "s", "h.example live/s"},
		{"live/room", "rtmp://h.example/live/room", "s", "h.example live/room/s"}, // no such app
		{"app", "rtmp://h.example/live/s", "s", "h.example app/s"},                // contract B.32

		// parameters: the stream's own win
		{"live?k=1", "rtmp://h.example/live?k=1", "s", "h.example live/s ?k=1"},
		{"live?k=1&a=1", "rtmp://h.example/live?k=2&t=2", "s?k=3", "h.example live/s ?k=3&a=1&t=2"},
		{"live", "rtmp://h.example/live", "s?k=1&k=2", "h.example live/s ?k=1&k=2"},
		{"live", "rtmp://h.example/live", "s?&&x&=y&", "h.example live/s ?x&=y"},
		{"live", "rtmp://h.example/live", "s?a=%2F%zz&b=1+2", "h.example live/s ?a=%2F%zz&b=1+2"},
		{"live", "rtmp://h.example/live", "", "h.example live/"},
		{"live", "rtmp://h.example/live", "?k=1", "h.example live/ ?k=1"},
		{"live", "rtmp://h.example/live", "a%41", "h.example live/a%41"}, // H103: not aA
	}
	for _, tt := range tests {
		r, err := FromRTMP(Publish, tt.app, tt.tcURL, tt.name)
		if err != nil || names(r) != tt.want {
			t.Errorf("FromRTMP(%q, %q, %q) = %q, %v, want %q", tt.app, tt.tcURL, tt.name, names(r), err, tt.want)
		}
		if r.Op != Publish || r.Protocol != RTMP || r.TcURL != tt.tcURL {
			t.Errorf("FromRTMP(%q, %q, %q) = %+v", tt.app, tt.tcURL, tt.name, r)
		}
	}
}

// H104, and the forms of contract B.41.
func TestFromHTTP(t *testing.T) {
	tests := []struct{ target, want string }{
		{"/live/s.flv", "flv h.example live/s"},
		{"/live/s.flv?k=1&onlyAudio=1", "flv h.example live/s ?k=1&onlyAudio=1"},
		{"/live/s.m3u8", "hls h.example live/s .m3u8"},
		{"/live/s/index.m3u8", "hls h.example live/s index.m3u8"},
		{"/live/s/playlist.m3u8?a=b", "hls h.example live/s playlist.m3u8 ?a=b"},
		{"/live/s/172278810.ts", "hls h.example live/s 172278810.ts"},
		{"/live/index.m3u8", "hls h.example live/index .m3u8"},
		{"/live/playlist.m3u8", "hls h.example live/playlist .m3u8"},
		{"/live/index/index.m3u8", "hls h.example live/index index.m3u8"},
		{"/live/playlist/playlist.m3u8", "hls h.example live/playlist playlist.m3u8"},
		{"/live/s.m3u8.m3u8", "hls h.example live/s.m3u8 .m3u8"},
		{"/live/s.m3u8/index.m3u8", "hls h.example live/s.m3u8 index.m3u8"},
		{"/live/s.flv.flv", "flv h.example live/s.flv"},
		{"/live/.flv", "flv h.example live/"},
		{"/live/a%41.flv", "flv h.example live/a%41"}, // H103: not aA
		{"/live/..%2fetc.flv", "flv h.example live/..%2fetc"},
		{"/s.flv", "flv h.example /s"},
		{"/a/b/s.flv", "flv h.example a/b/s"},
		{"/a/b/s.m3u8", "hls h.example a/b/s .m3u8"},
		{"//evil.example/s.flv", "flv h.example /evil.example/s"},
		{"/live/../live/s.flv", "flv h.example live/../live/s"},
		{"/live/s.ts", "hls h.example /live s.ts"},
		{"/live/s.flv?vhost=V.example:80", "flv v.example live/s ?vhost=V.example:80"},
	}
	for _, tt := range tests {
		req := httptest.NewRequest("GET", "http://H.example.:8080"+tt.target, nil)
		req.RemoteAddr = "[::ffff:192.0.2.1]:5000"
		req.Header.Set("Referer", "http://page.example/")
		req.Header.Set("User-Agent", "test")
		r, err := FromHTTP(req)
		if got := r.Protocol + " " + names(r); err != nil || got != tt.want {
			t.Errorf("FromHTTP(%s) = %q, %v, want %q", tt.target, got, err, tt.want)
		}
		if r.Op != Play || r.Addr.String() != "192.0.2.1:5000" || r.Referer != "http://page.example/" || r.UserAgent != "test" {
			t.Errorf("FromHTTP(%s) = %+v", tt.target, r)
		}
	}
	for _, target := range []string{"/", "/live", "/live/s", "/live/s.mp4", "/live/s.FLV", "/live/s.flv/", "/live/s%2eflv"} {
		if r, err := FromHTTP(httptest.NewRequest("GET", target, nil)); !errors.Is(err, ErrNotStream) {
			t.Errorf("FromHTTP(%s) = %q, %v, want ErrNotStream", target, names(r), err)
		}
	}
	ws := httptest.NewRequest("GET", "/live/s.flv", nil)
	ws.Header.Set("Upgrade", "websocket")
	if r, err := FromHTTP(ws); err != nil || r.Protocol != WSFLV {
		t.Errorf("FromHTTP with Upgrade = %s, %v, want %s", r.Protocol, err, WSFLV)
	}
}

func TestParams(t *testing.T) {
	r, err := FromRTMP(Publish, "live?c=%C3%A4", "rtmp://h/live?d=4&a=5", "s?a=1%2B1&b=x+y&a=2&bad=%zz&flag&e=")
	if err != nil {
		t.Fatal(err)
	}
	want := Params{
		{"a", "1+1", "a=1%2B1"}, {"b", "x y", "b=x+y"}, {"a", "2", "a=2"}, {"bad", "%zz", "bad=%zz"},
		{"flag", "", "flag"}, {"e", "", "e="}, {"c", "ä", "c=%C3%A4"}, {"d", "4", "d=4"},
	}
	if diff := cmp.Diff(want, r.Params); diff != "" {
		t.Errorf("Params (-want +got):\n%s", diff)
	}
	if v, ok := r.Params.Lookup("e"); v != "" || !ok {
		t.Errorf("Lookup(e) = %q, %t", v, ok)
	}
	if v, ok := r.Params.Lookup("none"); v != "" || ok {
		t.Errorf("Lookup(none) = %q, %t", v, ok)
	}
}

func TestParamsLimits(t *testing.T) {
	tests := []struct {
		name, query string
		ok          bool
	}{
		{"the longest", "k=" + strings.Repeat("x", maxQuery-2), true},
		{"too long", "k=" + strings.Repeat("x", maxQuery-1), false},
		{"the most", strings.Repeat("k&", maxParams), true},
		{"too many", strings.Repeat("k&", maxParams+1), false},
	}
	for _, tt := range tests {
		_, err := FromRTMP(Publish, "live", "", "s?"+tt.query)
		if d := (*Denied)(nil); tt.ok != (err == nil) || err != nil && (!errors.As(err, &d) || d.Reason != TooLong) {
			t.Errorf("%s: FromRTMP = %v", tt.name, err)
		}
	}
}

func TestRequestLog(t *testing.T) {
	r := Request{
		Op: Play, Protocol: FLV, Host: "h", App: "live", Stream: strings.Repeat("x", 1000),
		Params: Params{{"k", "secret", "k=secret"}}, TcURL: "rtmp://h/live?k=secret", Addr: netip.MustParseAddrPort("192.0.2.1:9"),
	}
	got := r.LogValue().String()
	if strings.Contains(got, "secret") || len(got) > 600 || !strings.Contains(got, "192.0.2.1:9") {
		t.Errorf("LogValue = %s", got)
	}
}

func FuzzFromRTMP(f *testing.F) {
	f.Add("live", "rtmp://h:1935/live", "s?k=1")
	f.Add("live...vhost...h", "rtmp://[::1]/live/_definst_", "s...vhost...x?vhost=y")
	f.Add("", "rtmp://a@b@c/live/s?x#y", "?&=&%")
	f.Add("/_definst_", "://", "...vhost...")
	f.Fuzz(func(t *testing.T, app, tcURL, name string) {
		r, err := FromRTMP(Play, app, tcURL, name)
		if err != nil {
			return
		}
		if strings.ContainsAny(r.App+r.Stream, "?") || strings.HasPrefix(r.App, "/") {
			t.Errorf("FromRTMP(%q, %q, %q) = %s", app, tcURL, name, names(r))
		}
		check(t, r)
	})
}

func FuzzFromHTTP(f *testing.F) {
	for _, s := range []string{"/live/s.flv?k=1", "/live/s/index.m3u8", "//x/..%2f/s.ts", "/%zz.flv", "/live/s.m3u8?a=%zz&&=;"} {
		f.Add(s, "h.example:80")
	}
	f.Fuzz(func(t *testing.T, target, host string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r, err := FromHTTP(&http.Request{Method: "GET", URL: u, Host: host, RemoteAddr: "192.0.2.1:1"})
		if err == nil {
			check(t, r)
		}
	})
}

// check holds what is true of every request, and that the gate lets none
// through but with names of the grammar.
func check(t *testing.T, r Request) {
	if again, ok := parseParams(r.Params.Raw()); !ok || !cmp.Equal(r.Params, again) {
		t.Errorf("parameters %q come back as %q", r.Params, again)
	}
	g, err := openGate.Check(t.Context(), r)
	if err != nil {
		return
	}
	key := g.Key()
	if key.App != "live" || strings.Trim(key.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || key.Name == ".." {
		t.Errorf("granted %+v", key)
	}
}

// Two names that differ lead to two streams, however they are written, and no
// protocol reads a name differently from another.
func TestNamesDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._%-]{0,8}`)
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		key := func(name string) string {
			r, err := FromRTMP(Play, "live", "rtmp://h/live", name)
			if err != nil {
				t.Fatal(err)
			}
			g, err := openGate.Check(t.Context(), r)
			if err != nil {
				return ""
			}
			if u, err := url.ParseRequestURI("/live/" + name + ".flv"); err == nil {
				r, err := FromHTTP(&http.Request{URL: u, Host: "h"})
				if h, _ := openGate.Check(t.Context(), r); err != nil || h == nil || h.Key() != g.Key() {
					t.Fatalf("%q is not the same stream over RTMP and HTTP", name)
				}
			}
			return g.Key().Name
		}
		if ka, kb := key(a), key(b); ka != "" && ka == kb && a != b {
			t.Fatalf("%q and %q are the same stream", a, b)
		}
	})
}
