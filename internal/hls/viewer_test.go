package hls

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// audience is what was told of players.
type audience struct {
	mu   sync.Mutex
	list []event.Event
}

// tell makes a node tell of its players.
func (n *node) tell() *audience {
	a := new(audience)
	n.srv.viewers.emit = func(e event.Event) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.list = append(a.list, e)
	}
	return a
}

func (a *audience) all() []event.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

// of returns what was told of the player of that name.
func (a *audience) of(t *testing.T, agent string) (last time.Time, list []event.PlayEnded) {
	t.Helper()
	for _, e := range a.all() {
		d, ok := e.Data.(event.PlayEnded)
		if !ok || e.Space != "default" || e.App != "live" || d.Protocol != access.HLS || d.Addr.Addr().String() != "192.0.2.1" || len(d.Session) != 16 || e.Sequence != "push of s1" {
			t.Errorf("it is told of %+v", e)
		}
		if d.UserAgent == agent {
			last, list = e.Time, append(list, d)
		}
	}
	return last, list
}

// watch plays s1 over HLS for a while, and returns what it got.
func (n *node) watch(agent string, d time.Duration) (bytes int64) {
	n.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Second) {
		list := n.get("/live/s1.m3u8?who="+agent, "User-Agent: "+agent)
		bytes += int64(list.Body.Len())
		if n.do("HEAD", "/live/s1.m3u8", "User-Agent: "+agent).Code != 200 || list.Code != 200 {
			n.t.Errorf("%s is not served: %d", agent, list.Code)
		}
		c, _ := n.srv.find(stream.Key{Space: "default", App: "live", Name: "s1"})
		s := c.view.Load().list.Segments
		bytes += int64(n.get("/live/s1/"+s[len(s)-1].URI, "User-Agent: "+agent).Body.Len())
	}
	return bytes
}

// Each player of HLS gets a summary when it has not asked for a while, and when
// the stream or the server is over, and is counted once.
func TestViewers(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		told := n.tell()
		stop := n.publish("s1", both(2000), configs...)
		time.Sleep(3 * time.Second)
		began := time.Now()
		got := make(chan int64)
		n.pub.Go(func() { got <- n.watch("stays", time.Minute) })
		bytes := n.watch("goes", 20*time.Second)
		if s := n.srv.Stats(); s.Viewers != 2 || len(told.all()) != 0 {
			t.Errorf("while two play: %+v, told %v", s, told.all())
		}
		left := time.Now()
		time.Sleep(viewerIdle + 6*time.Second + viewersEvery)
		at, list := told.of(t, "goes")
		if len(list) != 1 || list[0].Bytes != bytes || !list[0].Started.After(began.Add(-time.Second)) || list[0].Reason != viewerLeft ||
			at.After(left) || at.Before(left.Add(-3*time.Second)) {
			t.Fatalf("of the one that went at %v with %d bytes is told at %v: %+v", left, bytes, at, list)
		}
		if v, _ := list[0].Param("who"); v != "goes" {
			t.Errorf("it asked with %v", list[0].Params)
		}
		bytes = <-got
		traffic := n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s1"}).Traffic()
		if c := traffic.Count(); c.Plays[stream.HLS] != 2 {
			t.Errorf("%d players came, want 2", c.Plays[stream.HLS])
		}
		stop(stream.EndClosed)
		time.Sleep(n.app.Hold + time.Minute)
		if _, list := told.of(t, "stays"); len(list) != 1 || list[0].Bytes != bytes {
			t.Errorf("of the one that stayed to the end, with %d bytes, is told: %+v", bytes, list)
		}
		if s := n.srv.Stats(); s.Viewers != 0 || s.Channels != 0 || n.srv.viewers.timer != nil {
			t.Errorf("at last: %+v", s)
		}
	})
}

func TestViewersAtTheEnd(t *testing.T) {
	for _, how := range []string{viewerOver, viewerLeft, viewerClosed} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, func(a *policy.App) { a.HLS.Idle, a.Hold = 5*time.Second, 0 }, func(n *node) {
				told := n.tell()
				stop := n.publish("s1", both(2000), configs...)
				time.Sleep(3 * time.Second)
				n.watch("a", 10*time.Second)
				switch how {
				case viewerOver:
					stop(stream.EndClosed)
					for range 3 { // to the last segment, and the list is forgotten with them
						n.get("/live/s1.m3u8", "User-Agent: a")
						time.Sleep(10 * time.Second)
					}
				case viewerLeft: // nobody asks, and the channel ends before the player is thought to have left
					time.Sleep(5*2*time.Second + 2*time.Second) // what it was told of has been played
				case viewerClosed:
					n.hub.Close(context.Background())
					n.srv.Close()
				}
				if _, list := told.of(t, "a"); len(list) != 1 || list[0].Reason != how {
					t.Errorf("told: %+v", list)
				}
			})
		})
	}
}

// Whoever calls himself by many names takes no more than there is, and is not
// refused.
func TestTooManyViewers(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		told := n.tell()
		n.publish("s1", both(2000), configs...)
		time.Sleep(3 * time.Second)
		n.srv.viewers.most = 1
		n.watch("a", time.Second)
		if w := n.get("/live/s1.m3u8", "User-Agent: b"); w.Code != 200 {
			t.Errorf("one too many: %d", w.Code)
		}
		n.watch("a", time.Second)
		if s := n.srv.Stats(); s.Untold != 1 || s.Viewers != 1 {
			t.Errorf("with one too many: %+v", s)
		}
		time.Sleep(time.Minute)
		if _, list := told.of(t, "a"); len(list) != 1 || len(told.all()) != 1 {
			t.Errorf("told: %+v", told.all())
		}
	})
}

// A player that its owner has ended gets nothing any more, under none of the
// stream's addresses, as long as it goes on asking. Others do not notice.
func TestKickedViewer(t *testing.T) {
	inBubble(t, nil, func(n *node) {
		told := n.tell()
		n.publish("s1", both(2000), configs...)
		n.publish("s2", both(2000), configs...)
		time.Sleep(3 * time.Second)
		key := stream.Key{Space: "default", App: "live", Name: "s1"}
		n.watch("bad", 4*time.Second)
		list := n.srv.Viewers(key)
		if len(list) != 1 || list[0].Key != key || list[0].Addr.Addr().String() != "192.0.2.1" || list[0].Bytes == 0 {
			t.Fatalf("who plays: %+v", list)
		}
		if v, ok := n.srv.Viewer(list[0].ID); !ok || v.ID != list[0].ID || len(n.srv.Viewers(stream.Key{})) != 1 {
			t.Errorf("the viewer of that ID: %+v %t", v, ok)
		}
		if !n.srv.Kick(list[0].ID) || n.srv.Kick(list[0].ID) || n.srv.Kick(0) {
			t.Error("Kick does not say whom it has ended")
		}
		if _, list := told.of(t, "bad"); len(list) != 1 || list[0].Reason != viewerKicked {
			t.Errorf("told: %+v", list)
		}
		refused := func(agent string) {
			t.Helper()
			c, _ := n.srv.find(key)
			s := c.view.Load().list.Segments
			for _, path := range []string{"/live/s1.m3u8", "/live/s1/index.m3u8", "/live/s1/master.m3u8", "/live/s1/" + s[len(s)-1].URI} {
				if w := n.get(path, "User-Agent: "+agent); w.Code != 403 || !strings.Contains(w.Body.String(), "Forbidden By Blacklist") {
					t.Errorf("%s gets %s: %d %s", agent, path, w.Code, w.Body)
				}
			}
		}
		for range 10 {
			refused("bad")
			time.Sleep(outcastIdle / 2)
			n.watch("good", 2*time.Second)
		}
		if w := n.get("/live/s2.m3u8", "User-Agent: bad"); w.Code != 200 {
			t.Errorf("another stream: %d", w.Code)
		}
		time.Sleep(outcastIdle + viewersEvery)
		n.watch("bad", 2*time.Second)
		n.watch("good", 2*time.Second)
		if got := n.srv.KickViewers(key); got != 2 || len(n.srv.Viewers(key)) != 0 {
			t.Errorf("KickViewers = %d", got)
		}
		refused("bad")
		refused("good")
		time.Sleep(2 * time.Minute)
		if v := &n.srv.viewers; len(v.ended) != 0 || v.outcasts.Load() != 0 || v.timer != nil {
			t.Errorf("what is left of them: %v", v.ended)
		}
	})
}

// BenchmarkViewer is what it costs to know who is served.
func BenchmarkViewer(b *testing.B) {
	srv, _ := benchmarkServer(b)
	srv.viewers.emit = func(event.Event) {}
	c, _ := srv.find(stream.Key{Space: "default", App: "live", Name: "s1"})
	r := httptest.NewRequest("GET", "/live/s1/index.m3u8", nil)
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36")
	req, err := access.FromHTTP(r)
	if err != nil {
		b.Fatal(err)
	}
	g, err := srv.gate.Check(b.Context(), req)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			srv.viewers.served(c, g, r, 1000)
		}
	})
}
