package hls

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/stream"
)

// offer makes the node's stream s1 one that has the rendition s1_low, which is
// another stream here.
func (n *node) offer(all bool, play ...func()) {
	n.srv.Offer(func(s *stream.Stream) *Ladder {
		if s.Key().Name != "s1" {
			return nil
		}
		return &Ladder{All: all, Play: func() {
			for _, f := range play {
				f()
			}
		}, Variants: []m3u8.Variant{
			{URI: "s1", Bandwidth: 2_000_000, Average: 1_500_000, Width: 1280, Height: 720, Codecs: "avc1.64001f,mp4a.40.2", FrameRate: 29.97},
			{URI: "s1_low", Bandwidth: 400_000},
		}}
	})
}

// resolve returns where a URI in the playlist at base leads.
func resolve(t *testing.T, base, uri string) string {
	t.Helper()
	b, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u.String()
}

func TestMaster(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		n.publish("s1_low", both(2000), configs...)
		if w := n.get("/live/s1/master.m3u8"); w.Code != 403 || !strings.Contains(w.Body.String(), "NonExistStreamName") {
			t.Errorf("a stream without renditions: %d %s", w.Code, w.Body)
		}
		played := 0
		n.offer(false, func() { played++ })
		time.Sleep(4100 * time.Millisecond)
		const want = "#EXTM3U\n#EXT-X-VERSION:3\n" +
			"#EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000,RESOLUTION=1280x720,CODECS=\"avc1.64001f,mp4a.40.2\",FRAME-RATE=29.970\n" +
			"../s1/index.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=400000\n../s1_low/index.m3u8\n"
		w := n.get("/live/s1/master.m3u8")
		if played != 1 {
			t.Errorf("whoever makes the ladder was told of %d players, want 1", played)
		}
		if w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/vnd.apple.mpegurl" {
			t.Errorf("master playlist: %d\n%s\nwant\n%s", w.Code, w.Body, want)
		}
		if head := n.do("HEAD", "/live/s1/master.m3u8"); head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
			t.Errorf("HEAD: %d %v", head.Code, head.Header())
		}
		for _, name := range []string{"/live/s1/index.m3u8", "/live/s1.m3u8", "/live/s1/playlist.m3u8", "/live/s1/media.m3u8"} {
			if p := n.playlist(name); len(p.Segments) == 0 {
				t.Errorf("%s is not the stream's own playlist", name)
			}
		}
		if w := n.get("/live/s1_low/master.m3u8"); w.Code != 403 {
			t.Errorf("the master playlist of a rendition: %d", w.Code)
		}
		if played != 1 {
			t.Errorf("HEAD and the streams' own playlists are %d players of the ladder", played-1)
		}
	})
}

// Where a template wants that, the master playlist has all names, and each of
// its URIs leads to a playlist with segments.
func TestMasterUnderAllNames(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		n.publish("s1_low", both(2000), configs...)
		n.offer(true)
		time.Sleep(4100 * time.Millisecond)
		for _, name := range []string{"/live/s1/index.m3u8", "/live/s1.m3u8", "/live/s1/playlist.m3u8", "/live/s1/master.m3u8"} {
			p := n.playlist(name)
			if len(p.Variants) != 2 {
				t.Fatalf("%s is not the master playlist", name)
			}
			for i, path := range []string{"/live/s1/media.m3u8", "/live/s1_low/index.m3u8"} {
				got := resolve(t, name, p.Variants[i].URI)
				if got != path || len(n.playlist(got).Segments) == 0 {
					t.Errorf("%s leads to %s, want %s", name, got, path)
				}
			}
		}
	})
}

// The right to the master playlist is the right to its variants, and no other.
func TestSignedMaster(t *testing.T) {
	key := policy.NewSecret("test-key-1")
	inBubble(t, nil, func(n *node) {
		sign := n.guard(policy.Access{Simple: &policy.Simple{Key: key}})
		n.publish("s1", both(2000), configs...)
		n.publish("s1_low", both(2000), configs...)
		n.publish("s2", both(2000), configs...)
		n.offer(false)
		time.Sleep(4100 * time.Millisecond)
		target := sign("/live/s1/master.m3u8")
		w := n.get(target)
		if w.Code != 200 || w.Header().Get("Cache-Control") != "private, max-age=1" {
			t.Fatalf("GET %s: %d %v", target, w.Code, w.Header())
		}
		for _, v := range n.playlist(target).Variants {
			variant := resolve(t, target, v.URI)
			list := n.playlist(variant)
			if len(list.Segments) == 0 {
				t.Fatalf("GET %s: no segments", variant)
			}
			if w := n.get(resolve(t, variant, list.Segments[0].URI)); w.Code != 200 {
				t.Errorf("GET %s: %d", list.Segments[0].URI, w.Code)
			}
			_, segment, _ := strings.Cut(list.Segments[0].URI, "?")
			for _, wrong := range []string{
				strings.Replace(variant, "wt=", "wt=A", 1),
				strings.Replace(strings.Replace(variant, "/s1_low/", "/s2/", 1), "/s1/", "/s2/", 1),
				"http://play.example/live/s1/index.m3u8?" + segment, // the token of a segment is none for playlists
			} {
				if w := n.get(wrong); w.Code != 403 {
					t.Errorf("GET %s: %d", wrong, w.Code)
				}
			}
		}
	})
}
