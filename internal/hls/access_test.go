package hls

import (
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/policy"
)

// guard makes the node's domain one with authentication and returns what signs
// the path of a URL there.
func (n *node) guard(play policy.Access) (sign func(path string) string) {
	n.t.Helper()
	time.Sleep(2 * 366 * 24 * time.Hour) // a bubble begins when unix time had nine digits
	n.set.Spaces[0].Domains = []policy.Domain{{Name: "play.example", Type: policy.Both, Play: play}}
	gate := n.srv.gate
	return func(path string) string {
		n.t.Helper()
		r, err := access.FromURL(access.Play, "http://play.example"+path)
		if err != nil {
			n.t.Fatal(err)
		}
		list, err := gate.Sign(r, time.Now().Add(time.Hour))
		if err != nil {
			n.t.Fatal(err)
		}
		return "http://play.example" + list[0].Prefix + path + "?" + list[0].Query
	}
}

// A playlist under authentication sends its player, and nobody else, to the
// segments, and no cache may keep it.
func TestSignedPlaylist(t *testing.T) {
	key := policy.NewSecret("test-key-1")
	for name, play := range map[string]policy.Access{
		"simple": {Simple: &policy.Simple{Key: key}},
		"type C": {SignedURL: &policy.SignedURL{Type: policy.URLTypeC, Key: key}},
	} {
		inBubble(t, nil, func(n *node) {
			sign := n.guard(play)
			n.publish("s1", both(2000), configs...)
			time.Sleep(4100 * time.Millisecond)
			for _, path := range []string{"/live/s1/index.m3u8", "/live/s1/playlist.m3u8", "/live/s1.m3u8"} {
				if w := n.get("http://play.example" + path); w.Code != 403 || !strings.Contains(w.Body.String(), "Non Exist Signature or Accesskey") {
					t.Errorf("%s: %s not signed: %d %s", name, path, w.Code, w.Body)
				}
				target := sign(path)
				for _, headers := range [][]string{nil, {"Accept-Encoding: gzip"}, {"If-None-Match: *"}} {
					w := n.get(target, headers...)
					if h := w.Header(); w.Code != 200 || h.Get("Cache-Control") != "private, max-age=1" || h.Get("ETag") != "" || h.Get("Content-Encoding") != "" {
						t.Errorf("%s: GET %s %q: %d %v", name, target, headers, w.Code, h)
					}
				}
				p := n.playlist(target)
				if len(p.Segments) == 0 {
					t.Fatalf("%s: no segments in %s", name, target)
				}
				base := target[:strings.LastIndexByte(target[:strings.IndexByte(target, '?')], '/')+1]
				for _, s := range p.Segments {
					w := n.get(base + s.URI)
					if w.Code != 200 || w.Header().Get("Cache-Control") != "private, max-age=3600, immutable" {
						t.Errorf("%s: GET %s: %d %v", name, s.URI, w.Code, w.Header())
					}
					bare, query, _ := strings.Cut(s.URI, "?")
					if !strings.HasPrefix(query, "wt=") {
						t.Errorf("%s: segment %s", name, s.URI)
					}
					if w := n.get(base + bare); w.Code != 403 {
						t.Errorf("%s: a segment without token: %d", name, w.Code)
					}
					r := httptest.NewRequest("GET", base+s.URI, nil)
					r.RemoteAddr = "198.51.100.1:1"
					other := httptest.NewRecorder()
					if n.srv.ServeHTTP(other, r); other.Code != 403 || strings.Contains(other.Body.String(), "G") && other.Body.Len() > 1000 {
						t.Errorf("%s: another client got %d with %d bytes", name, other.Code, other.Body.Len())
					}
				}
			}
		})
	}
}

// The name of the host and the token go behind the same question mark.
func TestSignedVhost(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		sign := n.guard(policy.Access{Simple: &policy.Simple{Key: policy.NewSecret("test-key-1")}})
		n.publish("s1", both(2000), configs...)
		time.Sleep(2100 * time.Millisecond)
		_, signed, _ := strings.Cut(sign("/live/s1/index.m3u8"), "?")
		for _, s := range n.playlist("http://10.0.0.1/live/s1/index.m3u8?vhost=play.example&" + signed).Segments {
			if !strings.Contains(s.URI, ".ts?vhost=play.example&wt=") {
				t.Errorf("segment %s", s.URI)
			}
			if w := n.get("http://10.0.0.1/live/s1/" + s.URI); w.Code != 200 {
				t.Errorf("GET %s: %d", s.URI, w.Code)
			}
		}
	})
}

// Exempt segments have names that anybody and any cache may use; their playlist
// has not.
func TestExemptSegments(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		sign := n.guard(policy.Access{Simple: &policy.Simple{Key: policy.NewSecret("test-key-1")}, Segments: policy.SegmentsExempt})
		n.publish("s1", both(2000), configs...)
		time.Sleep(2100 * time.Millisecond)
		target := sign("/live/s1/index.m3u8")
		if w := n.get(target); w.Header().Get("Cache-Control") != "private, max-age=1" {
			t.Errorf("playlist: %v", w.Header())
		}
		for _, s := range n.playlist(target).Segments {
			if w := n.get("http://play.example/live/s1/" + s.URI); w.Code != 200 || w.Header().Get("Cache-Control") != "max-age=3600, immutable" {
				t.Errorf("GET %s: %d %v", s.URI, w.Code, w.Header())
			}
		}
	})
}

// Who waits for a playlist while his right ends does not get it.
func TestRevokedWhileWaiting(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		var set atomic.Pointer[policy.Set]
		set.Store(n.set)
		forbidden := policy.Default()
		forbidden.Spaces[0].Forbidden = []policy.Forbidden{{App: "live", Stream: "s1", Type: policy.Both}}
		n.srv.gate = access.NewGate(set.Load)
		code := make(chan int)
		go func() { code <- n.get("/live/s1.m3u8").Code }() // ends with the answer
		time.Sleep(100 * time.Millisecond)
		set.Store(forbidden)
		if got := <-code; got != 403 {
			t.Errorf("playlist after the stream was forbidden: %d", got)
		}
	})
}
