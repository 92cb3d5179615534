package hls

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	judge "github.com/Eyevinn/hls-m3u8/m3u8"
	"github.com/google/go-cmp/cmp"

	"weir/internal/access"
	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/stream"
)

// node is a hub with a Server, in a bubble of virtual time.
type node struct {
	t   *testing.T
	hub *stream.Hub
	srv *Server
	set *policy.Set
	app policy.App
	pub sync.WaitGroup // publishers
}

// inBubble runs f with a node whose app "live" is changed by change.
func inBubble(t *testing.T, change func(*policy.App), f func(n *node)) {
	synctest.Test(t, func(t *testing.T) {
		set := policy.Default()
		app := &set.Spaces[0].Apps[0]
		if change != nil {
			change(app)
		}
		hub := stream.NewHub(stream.Options{})
		n := &node{t: t, hub: hub, set: set, app: *app}
		n.srv = NewServer(hub, access.NewGate(func() *policy.Set { return set }), Options{})
		f(n)
		if err := hub.Close(context.Background()); err != nil {
			t.Errorf("hub: %v", err)
		}
		n.srv.Close()
		n.pub.Wait()
		if s := n.srv.Stats(); s.Channels != 0 || s.Held != 0 || s.Panics != 0 {
			t.Errorf("after Close: %+v", s)
		}
	})
}

// publish starts to publish a stream in real time: what e encodes, after
// configs. It ends with the returned function.
func (n *node) publish(name string, e *encoder, configs ...av.Packet) (stop func(stream.EndReason)) {
	n.t.Helper()
	app := n.app
	pub, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: name}, &app, stream.Push{Sequence: "push of " + name})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range configs {
		pub.WritePacket(p)
	}
	ended := make(chan struct{})
	n.pub.Go(func() { // ends when the publication does
		defer close(ended)
		for {
			for _, p := range e.run(20) {
				if pub.WritePacket(p) != nil {
					return
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func(r stream.EndReason) {
		pub.End(r)
		<-ended
		synctest.Wait()
	}
}

// do answers a request as the Server does. Headers are "Name: value".
func (n *node) do(method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	n.srv.ServeHTTP(w, r)
	return w
}

func (n *node) get(target string, headers ...string) *httptest.ResponseRecorder {
	return n.do(http.MethodGet, target, headers...)
}

// playlist gets and reads a playlist.
func (n *node) playlist(target string) *m3u8.Playlist {
	n.t.Helper()
	w := n.get(target)
	p, err := m3u8.Parse(w.Body.Bytes())
	if w.Code != http.StatusOK || err != nil {
		n.t.Fatalf("GET %s: %d, %v\n%s", target, w.Code, err, w.Body)
	}
	return p
}

// A player that comes is answered when the GOP that is on is complete, and no
// later.
func TestFirstPlaylist(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(5 * time.Second)
		asked := time.Now()
		w := n.get("/live/s1/index.m3u8")
		if waited := time.Since(asked); waited > time.Second+40*time.Millisecond {
			t.Errorf("waited %v for the key frame at 6 s", waited)
		}
		want := regexp.MustCompile(`^#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:946684805
#EXT-X-PROGRAM-DATE-TIME:2000-01-01T00:00:04\.000Z
#EXTINF:2\.000,
(\d+)\.ts
$`)
		if !want.Match(w.Body.Bytes()) {
			t.Errorf("playlist\n%s, want\n%s", w.Body, want)
		}
		header := http.Header{
			"Access-Control-Allow-Origin": {"*"},
			"Cache-Control":               {"max-age=1"},
			"Content-Length":              {fmt.Sprint(w.Body.Len())},
			"Content-Type":                {"application/vnd.apple.mpegurl"},
			"Etag":                        w.Header()["Etag"],
			"Vary":                        {"Accept-Encoding"},
		}
		if d := cmp.Diff(header, w.Header()); d != "" {
			t.Errorf("headers (-want +got):\n%s", d)
		}
		if _, _, err := judge.DecodeFrom(w.Body, true); err != nil {
			t.Errorf("judge: %v", err)
		}
	})
}

// The three forms of the URL list the same segments, and H104: no name of a
// stream is taken for a form.
func TestForms(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		for _, name := range []string{"s1", "index", "playlist", "a.m3u8", "stream.m3u8.m3u8", "1.ts", "index.m3u8"} {
			e := both(2000)
			n.publish(name, e, configs...)
			time.Sleep(2100 * time.Millisecond)
			segments := ""
			for _, form := range []string{"/live/%s/index.m3u8", "/live/%s/playlist.m3u8", "/live/%s.m3u8"} {
				base := fmt.Sprintf(form, name)
				list := n.playlist(base)
				got := ""
				for _, s := range list.Segments {
					u, err := (&url.URL{Path: base}).Parse(s.URI)
					if err != nil {
						t.Fatal(err)
					}
					if path.Dir(u.Path) != "/live/"+name {
						t.Errorf("%s: segment %s is %s", base, s.URI, u.Path)
					}
					got += " " + u.Path
					w := n.get(u.Path)
					if w.Code != http.StatusOK || len(w.Body.Bytes())%188 != 0 || w.Body.Bytes()[0] != 0x47 {
						t.Errorf("GET %s: %d", u.Path, w.Code)
					}
					header := http.Header{
						"Access-Control-Allow-Origin": {"*"},
						"Cache-Control":               {"max-age=3600, immutable"},
						"Content-Length":              {fmt.Sprint(w.Body.Len())},
						"Content-Type":                {"video/mp2t"},
					}
					if d := cmp.Diff(header, w.Header()); d != "" {
						t.Errorf("headers of a segment (-want +got):\n%s", d)
					}
				}
				if segments == "" {
					segments = got
				}
				if got != segments || got == "" {
					t.Errorf("%s lists%s, want%s", base, got, segments)
				}
			}
		}
	})
}

// A segment is named by the PTS of its first frame as it stands in the segment.
func TestSegmentNames(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(time.Second)
		n.get("/live/s1.m3u8")
		time.Sleep(6 * time.Second)
		last := int64(0)
		for i, s := range n.playlist("/live/s1.m3u8").Segments {
			pts := pesTimes(n.get("/live/" + s.URI).Body.Bytes())[0].pts
			if want := fmt.Sprintf("s1/%d.ts", pts); s.URI != want {
				t.Errorf("segment %d is %s, want %s", i, s.URI, want)
			}
			if i > 0 && pts-last != 180_000 {
				t.Errorf("segment %d at %d after %d, want 180000 between", i, pts, last)
			}
			last = pts
		}
	})
}

func TestErrors(t *testing.T) {
	const xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n<Code>%s</Code>\n</Error>\n"
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(3 * time.Second)
		n.get("/live/s1/index.m3u8")
		for _, c := range []struct {
			method, target string
			code           int
			body           string
		}{
			{"GET", "/live/none/index.m3u8", 403, fmt.Sprintf(xml, "NonExistStreamName")},
			{"GET", "/live/none.m3u8", 403, fmt.Sprintf(xml, "NonExistStreamName")},
			{"GET", "/live/none/1.ts", 403, fmt.Sprintf(xml, "NonExistStreamName")},
			{"GET", "/none/s1/index.m3u8", 403, fmt.Sprintf(xml, "NonExistApplication")},
			{"GET", "/a/live/s1/index.m3u8", 403, fmt.Sprintf(xml, "NonExistApplication")},
			{"GET", "/live/..%2Fs1/index.m3u8", 403, fmt.Sprintf(xml, "NonExistStreamName")},
			{"GET", "/live/s%31/index.m3u8", 403, fmt.Sprintf(xml, "NonExistStreamName")},
			{"GET", "/live/s1/1.ts", 404, "no such segment\n"},
			{"GET", "/live/s1/x.ts", 404, "no such segment\n"},
			{"GET", "/live/s1/.ts", 404, "no such segment\n"},
			{"GET", "/live/s1.flv", 404, "404 page not found\n"},
			{"GET", "/live/s1", 404, "404 page not found\n"},
			{"HEAD", "/live/none.m3u8", 403, ""},
			{"POST", "/live/s1/index.m3u8", 405, "method not allowed\n"},
			{"TRACE", "/live/s1/index.m3u8", 405, "method not allowed\n"},
			{"OPTIONS", "/live/s1/index.m3u8", 204, ""},
		} {
			w := n.do(c.method, c.target)
			if w.Code != c.code || w.Body.String() != c.body {
				t.Errorf("%s %s: %d\n%s, want %d\n%s", c.method, c.target, w.Code, w.Body, c.code, c.body)
			}
			h := w.Header()
			if h.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: no CORS", c.method, c.target)
			}
			if c.code == 403 && h.Get("Content-Type") != "text/plain" {
				t.Errorf("%s %s: Content-Type %s", c.method, c.target, h.Get("Content-Type"))
			}
			if (c.code == 405 || c.code == 204) && h.Get("Allow") != "GET, HEAD, OPTIONS" {
				t.Errorf("%s %s: Allow %s", c.method, c.target, h.Get("Allow"))
			}
		}
		if got := n.srv.Stats().Refused[access.NoStream]; got != 4 {
			t.Errorf("%d requests for no stream are counted, want 4", got)
		}
	})
}

// H64: HEAD says what GET would, and makes nobody work.
func TestHead(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		n.publish("av1", &encoder{sound: true}, av.Packet{Kind: av.Video, Codec: av.AV1, Config: true, Frame: []byte{0x81, 0, 0, 0}}, configs[1])
		n.publish("opus", &encoder{sound: true, codec: av.Opus})
		time.Sleep(3 * time.Second)
		before := n.do("HEAD", "/live/s1/index.m3u8")
		if before.Code != 200 || before.Body.Len() != 0 {
			t.Errorf("HEAD before any player: %d, %d bytes", before.Code, before.Body.Len())
		}
		for _, name := range []string{"av1", "opus"} {
			if w := n.do("HEAD", "/live/"+name+".m3u8"); w.Code != 403 {
				t.Errorf("HEAD of a stream without HLS, %s: %d, want 403", name, w.Code)
			}
		}
		if s := n.srv.Stats(); s.Channels != 0 {
			t.Errorf("HEAD opened something: %+v", s)
		}
		after := n.get("/live/s1/index.m3u8").Header()
		after.Del("Content-Length") // these tell of what there is not yet
		after.Del("ETag")
		if d := cmp.Diff(after, before.Header()); d != "" {
			t.Errorf("HEAD before any player (-GET +HEAD):\n%s", d)
		}
		for _, target := range []string{"/live/s1/index.m3u8", "/live/s1/" + n.playlist("/live/s1/index.m3u8").Segments[0].URI} {
			get, head := n.get(target), n.do("HEAD", target)
			if d := cmp.Diff(get.Header(), head.Header()); d != "" || head.Body.Len() != 0 || head.Code != 200 {
				t.Errorf("HEAD %s: %d, %d bytes (-GET +HEAD):\n%s", target, head.Code, head.Body.Len(), d)
			}
		}
	})
	inBubble(t, func(a *policy.App) { a.HLS.Mode = policy.HLSOff }, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(time.Second)
		if w := n.do("HEAD", "/live/s1.m3u8"); w.Code != 403 {
			t.Errorf("HEAD where HLS is off: %d, want 403", w.Code)
		}
	})
}

func TestConditional(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(2100 * time.Millisecond)
		plain := n.get("/live/s1.m3u8")
		packed := n.get("/live/s1.m3u8", "Accept-Encoding: deflate, gzip;q=0.8, br")
		r, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, plain.Body.Bytes()) || packed.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("compressed: %v, %v\n%s", err, packed.Header(), b)
		}
		tag, packedTag := plain.Header().Get("ETag"), packed.Header().Get("ETag")
		if tag == packedTag || len(tag) < 3 {
			t.Errorf("tags %s and %s", tag, packedTag)
		}
		for _, c := range []struct {
			headers []string
			code    int
		}{
			{[]string{"If-None-Match: " + tag}, 304},
			{[]string{"If-None-Match: W/" + tag}, 304},
			{[]string{`If-None-Match: "other", ` + tag}, 304},
			{[]string{"If-None-Match: *"}, 304},
			{[]string{`If-None-Match: "other"`}, 200},
			{[]string{"If-None-Match: " + packedTag}, 200},
			{[]string{"If-None-Match: " + packedTag, "Accept-Encoding: gzip"}, 304},
			{[]string{"If-None-Match: " + packedTag, "Accept-Encoding: gzip;q=0"}, 200},
			{[]string{"If-None-Match: " + packedTag, "Accept-Encoding: gzip; q=0.0"}, 200},
		} {
			w := n.get("/live/s1.m3u8", c.headers...)
			if w.Code != c.code || w.Code == 304 && (w.Body.Len() != 0 || w.Header().Get("ETag") == "" || w.Header().Get("Cache-Control") == "") {
				t.Errorf("%q: %d, want %d; %v", c.headers, w.Code, c.code, w.Header())
			}
		}
		time.Sleep(2100 * time.Millisecond)
		if w := n.get("/live/s1.m3u8", "If-None-Match: "+tag); w.Code != 200 {
			t.Errorf("after another segment: %d, want 200", w.Code)
		}
	})
}

func TestPlainText(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.PlainText = true }, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(time.Second)
		if got := n.get("/live/s1.m3u8").Header().Get("Content-Type"); got != "text/plain" {
			t.Errorf("Content-Type %s", got)
		}
	})
}

// A client that names its host in the URL finds the segments by it.
func TestVhost(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(time.Second)
		for _, s := range n.playlist("/live/s1.m3u8?a=1&vhost=Play.Example.com").Segments {
			if !strings.HasSuffix(s.URI, ".ts?vhost=play.example.com") {
				t.Errorf("segment %s", s.URI)
			}
			if w := n.get("/live/" + s.URI); w.Code != 200 {
				t.Errorf("GET %s: %d", s.URI, w.Code)
			}
		}
		tags := make(map[string]bool)
		for _, host := range []string{"a.example", "b.example", "a.example"} {
			target := "/live/s1.m3u8?vhost=" + host
			plain, packed := n.get(target), n.get(target, "Accept-Encoding: gzip")
			r, err := gzip.NewReader(packed.Body)
			if err != nil {
				t.Fatalf("%s is not compressed: %v", target, packed.Header())
			}
			b, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(b, plain.Body.Bytes()) || !strings.Contains(string(b), "?vhost="+host+"\n") || packed.Header().Get("Content-Encoding") != "gzip" {
				t.Errorf("%s compressed: %v, %v\n%s", target, err, packed.Header(), b)
			}
			for _, w := range []*httptest.ResponseRecorder{plain, packed} {
				tag := w.Header().Get("ETag")
				tags[tag] = true
				if again := n.get(target, "Accept-Encoding: "+w.Header().Get("Content-Encoding"), "If-None-Match: "+tag); again.Code != 304 || w.Header().Get("Vary") != "Accept-Encoding" {
					t.Errorf("%s, again with %s: %d, %v", target, tag, again.Code, w.Header())
				}
			}
		}
		if len(tags) != 2 {
			t.Errorf("tags %v, want one for each coding", tags)
		}
	})
}

// Requests wait for the first segment, but not for ever, and not for a player
// that went away.
func TestWaiting(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		// Nothing comes but a configuration.
		pub, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: "s1"}, &n.app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		pub.WritePacket(configs[0])
		start := time.Now()
		w := n.get("/live/s1/index.m3u8")
		if w.Code != 503 || w.Header().Get("Retry-After") != "1" || w.Header().Get("Cache-Control") != "no-store" || time.Since(start) != patience {
			t.Errorf("%d %v after %v", w.Code, w.Header(), time.Since(start))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start = time.Now()
		n.srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/live/s1/index.m3u8", nil).WithContext(ctx))
		if d := time.Since(start); d != time.Second {
			t.Errorf("a player that left after 1 s was served for %v", d)
		}
		n.pub.Go(func() {
			time.Sleep(time.Second)
			pub.End(stream.EndKicked)
		})
		if w := n.get("/live/s1/index.m3u8"); w.Code != 403 {
			t.Errorf("the stream ended: %d, want 403", w.Code)
		}
	})
}

// A GOP of a minute does not keep the first player waiting.
func TestLongGOP(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(60_000), configs...)
		time.Sleep(3 * time.Second)
		start := time.Now()
		list := n.playlist("/live/s1/index.m3u8")
		if d := time.Since(start); d > 7*time.Second || list.TargetDuration != 10 {
			t.Errorf("waited %v, target duration %d", d, list.TargetDuration)
		}
	})
}

func TestRefused(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", &encoder{sound: true}, av.Packet{Kind: av.Video, Codec: av.AV1, Config: true, Frame: []byte{0x81, 0, 0, 0}}, configs[1])
		time.Sleep(time.Second)
		for range 2 {
			start := time.Now()
			if w := n.get("/live/s1.m3u8"); w.Code != 403 || time.Since(start) > 0 {
				t.Errorf("AV1: %d after %v, want 403 at once", w.Code, time.Since(start))
			}
		}
	})
	inBubble(t, nil, func(n *node) {
		// Sound alone: whether a picture is to come shows within a segment's time.
		n.publish("s1", &encoder{sound: true, codec: av.Opus})
		time.Sleep(time.Second)
		for _, limit := range []time.Duration{3 * time.Second, 0} {
			start := time.Now()
			if w := n.get("/live/s1.m3u8"); w.Code != 403 || time.Since(start) > limit {
				t.Errorf("Opus: %d after %v, want 403 within %v", w.Code, time.Since(start), limit)
			}
		}
		n.publish("s2", &encoder{sound: true, picture: true, codec: av.Opus, gop: 2000, lastKey: -2000}, configs[0])
		time.Sleep(time.Second)
		n.playlist("/live/s2.m3u8")
	})
	inBubble(t, func(a *policy.App) { a.HLS.Mode = policy.HLSOff }, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(time.Second)
		if w := n.get("/live/s1.m3u8"); w.Code != 403 {
			t.Errorf("HLS off: %d, want 403", w.Code)
		}
	})
}

// Packaging on demand ends when nobody asks; who comes later sees numbers that
// went on.
func TestIdle(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(2000), configs...)
		time.Sleep(3 * time.Second)
		n.get("/live/s1.m3u8")
		time.Sleep(time.Second)
		var last *m3u8.Playlist
		for range 20 {
			last = n.playlist("/live/s1.m3u8")
			time.Sleep(2 * time.Second)
		}
		if s := n.srv.Stats(); s.Players != 1 || s.Channels != 1 || s.Held == 0 {
			t.Errorf("with one player: %+v", s)
		}
		time.Sleep(n.app.HLS.Idle + time.Second)
		if s := n.srv.Stats(); s.Channels != 0 || s.Held != 0 {
			t.Errorf("idle: %+v", s)
		}
		again := n.playlist("/live/s1.m3u8")
		if again.MediaSequence < last.MediaSequence+uint64(len(last.Segments)) || again.DiscontinuitySequence != last.DiscontinuitySequence {
			t.Errorf("sequences %d, %d after %d, %d", again.MediaSequence, again.DiscontinuitySequence, last.MediaSequence, last.DiscontinuitySequence)
		}
		if again.Segments[0].URI <= last.Segments[len(last.Segments)-1].URI {
			t.Errorf("segment %s after %s", again.Segments[0].URI, last.Segments[len(last.Segments)-1].URI)
		}
	})
}

// Whoever was told of segments can fetch them for as long as that playlist takes,
// also where that is longer than the time after which packaging ends (RFC 8216, 6.2.2).
func TestIdleWithLongSegments(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		n.publish("s1", both(10_000), configs...)
		time.Sleep(time.Second)
		for range 7 {
			n.get("/live/s1.m3u8")
			time.Sleep(5 * time.Second)
		}
		list := n.playlist("/live/s1.m3u8")
		last := list.Segments[len(list.Segments)-1]
		if len(list.Segments) < 3 || list.Duration() < n.app.HLS.Idle {
			t.Fatalf("the playlist has %d segments of %v", len(list.Segments), list.Duration())
		}
		asked := time.Now()
		time.Sleep(list.Duration() + last.Duration)
		c, _ := n.srv.find(stream.Key{Space: "default", App: "live", Name: "s1"})
		for _, s := range list.Segments { // not by requests, which would keep it up
			if c == nil || c.view.Load().segments[path.Base(s.URI)] == nil {
				t.Errorf("segment %s is gone %v after it was listed with %v", s.URI, time.Since(asked), list.Duration())
			}
		}
		time.Sleep(40 * time.Second) // the playlist has grown meanwhile
		if s := n.srv.Stats(); s.Channels != 0 || s.Held != 0 {
			t.Errorf("idle: %+v", s)
		}
	})
}

// A publisher that returns within the hold brings the settings of its own time.
func TestSettingsOfTheNextPush(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		h := &history{n: n, segments: map[string]*record{}}
		poll := func(d time.Duration) (list *m3u8.Playlist) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
				h.poll("/live/s1/index.m3u8")
			}
			return h.last
		}
		stop := n.publish("s1", both(2000), configs...)
		next := func(change func(*policy.HLS)) {
			stop(stream.EndReset)
			change(&n.app.HLS)
			time.Sleep(time.Second) // held
			stop = n.publish("s1", both(2000), configs...)
		}
		poll(20 * time.Second)
		before := h.last

		next(func(c *policy.HLS) { c.Window, c.PlainText = 3, true })
		if l := poll(10 * time.Second); len(l.Segments) != 3 || l.TargetDuration != 2 || l.MediaSequence <= before.MediaSequence || h.discontinuities != 1 {
			t.Errorf("with a window of 3: %d discontinuities, %+v", h.discontinuities, l)
		}
		if got := n.get("/live/s1.m3u8").Header().Get("Content-Type"); got != typeText[0] {
			t.Errorf("with plain text: Content-Type %s", got)
		}
		next(func(c *policy.HLS) { c.Segment = 4 * time.Second })
		if l := poll(30 * time.Second); l.TargetDuration != 4 || l.Segments[0].Duration != 4*time.Second {
			t.Errorf("with segments of 4 s: %+v", l)
		}
		next(func(c *policy.HLS) { c.Mode = policy.HLSAlways })
		poll(4 * time.Second)
		time.Sleep(5 * time.Minute)
		if s := n.srv.Stats(); s.Channels != 1 || s.Held == 0 {
			t.Errorf("always, after 5 minutes: %+v", s)
		}
		poll(20 * time.Second)
		next(func(c *policy.HLS) { c.Mode = policy.HLSOnDemand })
		poll(5 * time.Second)
		time.Sleep(time.Minute)
		if s := n.srv.Stats(); s.Channels != 0 {
			t.Errorf("on demand, after a minute: %+v", s)
		}
		next(func(c *policy.HLS) { c.Mode = policy.HLSAlways }) // and nobody asks
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := n.srv.Stats(); s.Channels != 1 {
			t.Errorf("always, before any request: %+v", s)
		}
		poll(20 * time.Second)

		listed := h.last
		next(func(c *policy.HLS) { c.Mode = policy.HLSOff })
		synctest.Wait()
		if w := n.get("/live/s1/index.m3u8"); w.Code != 403 {
			t.Errorf("off: %d, want 403", w.Code)
		}
		time.Sleep(listed.Duration())
		for _, s := range listed.Segments {
			if w := n.get("/live/s1/" + s.URI); w.Code != 200 {
				t.Errorf("off: segment %s, which was listed: %d", s.URI, w.Code)
			}
		}
		time.Sleep(time.Minute)
		if s := n.srv.Stats(); s.Channels != 0 || s.Held != 0 {
			t.Errorf("off, a minute later: %+v", s)
		}
		next(func(c *policy.HLS) { c.Mode = policy.HLSOnDemand })
		poll(10 * time.Second)
		if h.last == listed {
			t.Error("no playlist after another push with HLS")
		}
	})
}

// An encoder that changes may say so of its sound after the first key frame: that
// key frame is not lost, and the next segment goes on where the last one ended.
func TestSoundConfiguredAfterTheKeyFrame(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		pub, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: "s1"}, &n.app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		e := both(6000)
		packets := append(append([]av.Packet(nil), configs...), e.run(8000)...)
		change, sound := videoConfig(avcConfig2), audioConfig(aacConfig48k)
		change.DTS, sound.DTS = 7980, 8060
		e.sound, e.lastKey = false, 0
		packets = append(append(packets, change), e.run(80)...)
		e.sound = true
		packets = append(append(packets, sound), e.run(14_000)...)
		n.pub.Go(func() { // ends with the packets
			start := time.Now()
			for _, p := range packets {
				time.Sleep(time.Until(start.Add(time.Duration(p.DTS) * time.Millisecond)))
				pub.WritePacket(p)
			}
		})
		time.Sleep(time.Millisecond)
		n.get("/live/s1.m3u8")
		time.Sleep(20 * time.Second)
		list := n.playlist("/live/s1.m3u8")
		changes := 0
		for i, s := range list.Segments {
			if s.Discontinuity {
				changes++
			}
			if i == 0 {
				continue
			}
			if hole := s.Time.Sub(list.Segments[i-1].Time) - list.Segments[i-1].Duration; hole.Abs() > 100*time.Millisecond {
				t.Errorf("%v are missing before segment %d", hole, i)
			}
		}
		if changes != 1 {
			t.Errorf("%d discontinuities, want 1: %+v", changes, list.Segments)
		}
		pub.End(stream.EndClosed)
	})
}

func TestAlways(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.Mode = policy.HLSAlways }, func(n *node) {
		stop := n.publish("s1", both(2000), configs...)
		time.Sleep(time.Minute)
		start := time.Now()
		list := n.playlist("/live/s1.m3u8")
		if len(list.Segments) != n.app.HLS.Window || time.Since(start) > 0 {
			t.Errorf("%d segments after %v, want %d at once", len(list.Segments), time.Since(start), n.app.HLS.Window)
		}
		stop(stream.EndClosed)
		time.Sleep(n.app.Hold)
		synctest.Wait()
		if !n.playlist("/live/s1.m3u8").End {
			t.Error("no ENDLIST after the hold")
		}
		// It comes back while the old playlist is still shown.
		n.publish("s1", both(2000), configs...)
		synctest.Wait()
		if n.playlist("/live/s1.m3u8").End {
			t.Error("ENDLIST while the stream lives")
		}
		time.Sleep(3 * time.Second)
		list = n.playlist("/live/s1.m3u8")
		if !list.Segments[len(list.Segments)-1].Discontinuity {
			t.Errorf("no discontinuity after the return: %+v", list.Segments)
		}
	})
}

// The end of a stream: ENDLIST after the hold, then a time in which players can
// finish, then nothing.
func TestEnd(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		stop := n.publish("s1", both(2000), configs...)
		time.Sleep(3 * time.Second)
		n.get("/live/s1.m3u8")
		time.Sleep(20 * time.Second)
		stop(stream.EndClosed)
		if n.playlist("/live/s1.m3u8").End {
			t.Error("ENDLIST in the hold")
		}
		time.Sleep(n.app.Hold)
		synctest.Wait()
		list := n.playlist("/live/s1.m3u8")
		if !list.End {
			t.Fatal("no ENDLIST after the hold")
		}
		time.Sleep(list.Duration())
		if w := n.get("/live/s1.m3u8"); w.Code != 200 {
			t.Errorf("the playlist after its duration: %d, want 200", w.Code)
		}
		time.Sleep(6*time.Second + time.Millisecond)
		if w := n.get("/live/s1.m3u8"); w.Code != 403 {
			t.Errorf("the playlist later: %d, want 403", w.Code)
		}
		for _, s := range list.Segments {
			if w := n.get("/live/" + s.URI); w.Code != 200 {
				t.Errorf("segment %s after the playlist: %d, want 200", s.URI, w.Code)
			}
		}
		time.Sleep(list.Duration() + 10*time.Second)
		if s := n.srv.Stats(); s.Channels != 0 {
			t.Errorf("at last: %+v", s)
		}
	})
}

// I9, F01, F04, F13, F14: a poller that keeps the history of every playlist, over
// all that can happen to a stream.
func TestHistory(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.Window = 4 }, func(n *node) {
		ctx, cancel := context.WithCancel(context.Background())
		h := &history{n: n, segments: map[string]*record{}}
		polling := make(chan struct{})
		go func() { // ends with ctx
			defer close(polling)
			for ctx.Err() == nil {
				h.poll("/live/s1/index.m3u8")
				time.Sleep(400 * time.Millisecond)
			}
		}()
		other := []av.Packet{videoConfig(avcConfig2), audioConfig(aacConfig48k)}
		e := both(2000)
		stop := n.publish("s1", e, configs...)
		time.Sleep(31 * time.Second)
		stop(stream.EndReset)
		time.Sleep(2 * time.Second) // held
		stop = n.publish("s1", both(2000), other...)
		time.Sleep(15 * time.Second)
		stop(stream.EndClosed)
		time.Sleep(7 * time.Second) // over, the playlist is still shown
		e = both(3000)
		stop = n.publish("s1", e, other...)
		time.Sleep(15 * time.Second)
		stop(stream.EndClosed)
		time.Sleep(time.Minute) // over and forgotten
		e = both(2000)
		e.at = 3_600_000
		stop = n.publish("s1", e, configs...)
		time.Sleep(30 * time.Second)
		stop(stream.EndClosed)
		cancel()
		<-polling
		if h.lists < 200 || len(h.segments) < 40 || h.discontinuities < 2 {
			t.Errorf("saw %d playlists, %d segments, %d discontinuities", h.lists, len(h.segments), h.discontinuities)
		}
	})
}

// history is all that one poller saw of a stream.
type history struct {
	n               *node
	lists           int
	last            *m3u8.Playlist
	segments        map[string]*record // by URI
	discontinuities int
}

type record struct {
	info     m3u8.Segment
	sequence uint64
	data     []byte
	listed   time.Time     // last seen in a playlist
	longest  time.Duration // playlist that listed it
}

func (h *history) poll(target string) {
	t := h.n.t
	w := h.n.get(target)
	now := time.Now()
	for uri, r := range h.segments {
		// The server may have taken it away right after we saw it.
		if now.Before(r.listed.Add(r.info.Duration + r.longest)) {
			s := h.n.get(path.Dir(target) + "/" + uri)
			if s.Code != 200 || !bytes.Equal(s.Body.Bytes(), r.data) {
				t.Errorf("%v: segment %s, last listed %v ago: %d", now, uri, now.Sub(r.listed), s.Code)
			}
		}
	}
	if w.Code != 200 {
		return
	}
	p, err := m3u8.Parse(w.Body.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, w.Body)
	}
	h.lists++
	if l := h.last; l != nil {
		if p.MediaSequence < l.MediaSequence || p.DiscontinuitySequence < l.DiscontinuitySequence {
			t.Errorf("sequences %d, %d after %d, %d", p.MediaSequence, p.DiscontinuitySequence, l.MediaSequence, l.DiscontinuitySequence)
		}
		if p.TargetDuration != l.TargetDuration && p.MediaSequence < l.MediaSequence+uint64(len(l.Segments)) {
			t.Errorf("target duration %d after %d", p.TargetDuration, l.TargetDuration)
		}
	}
	total := p.Duration()
	discontinuity := p.DiscontinuitySequence
	for i, s := range p.Segments {
		if n := (s.Duration + 500*time.Millisecond) / time.Second; int(n) > p.TargetDuration {
			t.Errorf("segment of %v, target duration %d", s.Duration, p.TargetDuration)
		}
		if s.Discontinuity {
			discontinuity += 1 + uint64(s.Unseen)
		}
		r := h.segments[s.URI]
		if r == nil {
			seg := h.n.get(path.Dir(target) + "/" + s.URI)
			if seg.Code != 200 {
				t.Errorf("segment %s just listed: %d", s.URI, seg.Code)
			}
			r = &record{info: s, sequence: p.MediaSequence + uint64(i), data: seg.Body.Bytes()}
			h.segments[s.URI] = r
			if s.Discontinuity {
				h.discontinuities++
			}
		}
		if d := cmp.Diff(r.info, s); d != "" || r.sequence != p.MediaSequence+uint64(i) {
			t.Errorf("segment %s was number %d, is %d:\n%s", s.URI, r.sequence, p.MediaSequence+uint64(i), d)
		}
		r.listed, r.longest = now, max(r.longest, total)
	}
	h.last = p
}

// H65: what a client puts into the query costs nothing that stays, and H82: a
// publisher whose clock is mad does not flood the playlist.
func TestFloods(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		e := both(2000)
		n.publish("s1", e, configs...)
		time.Sleep(3 * time.Second)
		for i := range 10_000 {
			n.get(fmt.Sprintf("/live/s1.m3u8?session=%d", i))
		}
		if s := n.srv.Stats(); s.Channels != 1 {
			t.Errorf("%+v", s)
		}
	})
	inBubble(t, nil, func(n *node) {
		pub, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: "s1"}, &n.app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		n.pub.Go(func() { // ends with the publication
			for i := int64(0); ; i++ {
				p := video(i*7919%100_000, true, 20)
				if i < 1 {
					p = configs[0]
				}
				if pub.WritePacket(p) != nil {
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
		first := n.playlist("/live/s1.m3u8")
		for range 50 {
			time.Sleep(time.Second)
			n.get("/live/s1.m3u8")
		}
		last := n.playlist("/live/s1.m3u8")
		if made := last.MediaSequence - first.MediaSequence; made > 100 {
			t.Errorf("%d segments in 50 s", made)
		}
		pub.End(stream.EndKicked)
	})
}

// Segments are let go early when they take too much memory.
func TestMemory(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.MaxSegmentSize = 1 << 20 }, func(n *node) {
		e := both(2000)
		e.size = 60_000 // 1.5 MB/s
		n.publish("s1", e, configs...)
		time.Sleep(time.Second)
		for range 30 {
			list := n.playlist("/live/s1.m3u8")
			if s := n.srv.Stats(); s.Held > maxHeld<<20 || len(list.Segments) == 0 {
				t.Errorf("%d segments, %d bytes held", len(list.Segments), s.Held)
			}
			time.Sleep(time.Second)
		}
	})
}

// A panic while a stream is packaged is no more than the end of that.
func TestPanic(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		j := &job{reader: new(stream.Reader)} // of no stream
		if _, failed := n.srv.pump(newChannel(stream.Key{}, position{}), j, NewPackager(n.app.HLS, quiet(), Past{}, nil, nil, nil), quiet()); !failed {
			t.Error("no panic")
		}
		if got := n.srv.stats.panics.Swap(0); got != 1 {
			t.Errorf("%d panics are counted, want 1", got)
		}
	})
}

// hls.js is minutes busy with a discontinuity sequence like a time of day.
func TestNumbersStartSmallEnoughForPlayers(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		time.Sleep(time.Until(time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)))
		n.publish("s1", both(2000), configs...)
		list := n.playlist("/live/s1.m3u8")
		if list.DiscontinuitySequence == 0 || list.DiscontinuitySequence > 1<<18 || list.MediaSequence > 1<<32 {
			t.Errorf("in 2045 a playlist starts with media sequence %d, discontinuity sequence %d", list.MediaSequence, list.DiscontinuitySequence)
		}
	})
}

// render makes a rendition of a stream: the same packets a little later, in one
// configuration whatever that of the source is, from a key frame on after each
// change. It ends with the stream.
func (n *node) render(st *stream.Stream, name string) {
	key := st.Key()
	key.Name = name
	run := func(of *stream.Publication, again bool) (more bool) {
		r := of.NewReader()
		defer r.Close()
		pub, err := n.hub.Publish(key, &n.app, stream.Push{Of: st, Continues: again})
		if err != nil {
			n.t.Error(err)
			return false
		}
		defer pub.End(stream.EndClosed)
		for _, c := range configs {
			pub.WritePacket(c)
		}
		keyed := false
		for {
			p, err := r.ReadPacket()
			if err != nil {
				return false
			}
			if p.Break && keyed {
				return true
			}
			if keyed = keyed || p.Key; !p.Config && p.Kind != av.Data && keyed {
				time.Sleep(time.Until(n.made(st, p.DTS).Add(300 * time.Millisecond)))
				p.Break = false
				pub.WritePacket(p)
			}
		}
	}
	n.pub.Go(func() {
		for of := st.AwaitPublication(context.Background(), nil); of != nil; of = st.AwaitPublication(context.Background(), of) {
			for again := false; run(of, again); {
				again = true
			}
		}
	})
}

func (n *node) made(st *stream.Stream, dts int64) time.Time {
	zero, _, _ := st.Clock()
	return zero.Add(time.Duration(dts) * time.Millisecond)
}

// All variants have the same discontinuity sequence numbers for the same time,
// whoever was asked for when: hls.js goes by them from one to another (RFC
// 8216, 6.2.4).
func TestVariantsShareDiscontinuities(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.Idle = 20 * time.Second }, func(n *node) {
		other := []av.Packet{videoConfig(avcConfig2), audioConfig(aacConfig)}
		var mu sync.Mutex
		var changes []time.Time // of the source; under mu
		push := func() (pub *stream.Publication, change chan []av.Packet) {
			pub, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: "s1"}, &n.app, stream.Push{})
			if err != nil {
				t.Fatal(err)
			}
			change = make(chan []av.Packet, 1)
			e := both(2000)
			change <- configs
			n.pub.Go(func() { // ends with the publication
				for {
					select {
					case list := <-change:
						e.lastKey = e.at - e.gop
						mu.Lock()
						changes = append(changes, time.Now())
						mu.Unlock()
						for _, c := range list {
							c.DTS = e.at
							pub.WritePacket(c)
						}
					default:
					}
					for _, p := range e.run(20) {
						if pub.WritePacket(p) != nil {
							return
						}
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
			return pub, change
		}
		pub, change := push()
		synctest.Wait()
		n.render(n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s1"}), "s1_low")

		numbers := make(map[int]uint64) // by the number of changes before
		seen := make(map[string]int)    // segments, by variant
		poll := func(seconds int, names ...string) {
			for range seconds {
				time.Sleep(time.Second)
				for _, name := range names {
					list := n.playlist("/live/" + name + "/index.m3u8")
					at := list.DiscontinuitySequence
					for _, s := range list.Segments {
						if s.Discontinuity {
							at += 1 + uint64(s.Unseen)
						}
						seen[name]++
						mu.Lock()
						before := 0
						for before < len(changes) && changes[before].Before(s.Time.Add(s.Duration/2)) {
							before++
						}
						mu.Unlock()
						if was, ok := numbers[before]; !ok {
							numbers[before] = at
						} else if was != at {
							t.Errorf("%v: segment %s of %s, after %d changes, has number %d, others %d", time.Now(), s.URI, name, before, at, was)
						}
					}
				}
			}
		}
		poll(15, "s1")
		change <- other
		poll(31, "s1")
		poll(10, "s1", "s1_low") // which begins now
		change <- configs
		poll(20, "s1", "s1_low")
		poll(30, "s1_low") // nobody asks for the other any more
		change <- other
		poll(20, "s1", "s1_low")
		pub.End(stream.EndReset)
		time.Sleep(2 * time.Second) // held
		pub, change = push()
		poll(20, "s1_low")
		change <- other
		poll(5, "s1_low", "s1")
		pub.End(stream.EndClosed)
		time.Sleep(n.app.Hold + 5*time.Second) // over, and then there again
		pub, _ = push()
		synctest.Wait()
		n.render(n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s1"}), "s1_low")
		poll(20, "s1_low", "s1")
		mu.Lock()
		defer mu.Unlock()
		if len(numbers) != len(changes) || seen["s1"] < 500 || seen["s1_low"] < 500 {
			t.Errorf("%d changes, %d numbers, segments %v", len(changes), len(numbers), seen)
		}
		pub.End(stream.EndClosed)
	})
}
