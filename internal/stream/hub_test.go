package stream

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What docs/limits.md says of players and publishers.
func TestDefaults(t *testing.T) {
	var o Options
	o.defaults()
	o.Log, o.Began, o.Ended = nil, nil, nil
	want := Options{
		GatherCeiling: 150 * time.Millisecond, SlowAfter: 4 * time.Second, SlowBytes: 2 << 20, StuckAfter: 10 * time.Second,
		GOPBytes: 16 << 20, GOPTime: 30 * time.Second, ReaderBytes: 32 << 20, MaxByteRate: 32 << 20, MaxPacketRate: 5000,
	}
	if fmt.Sprint(o) != fmt.Sprint(want) {
		t.Errorf("the defaults are %v, want %v", o, want)
	}
}

// A player waits for a stream that somebody brings, and for no other.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		var asked atomic.Int64
		brings := make(chan struct{}, 10)
		h.OnWanted(func(k Key) bool {
			asked.Add(1)
			if k != key {
				return false
			}
			brings <- struct{}{}
			return true
		})
		if s := h.Await(t.Context(), Key{"default", "live", "other"}); s != nil {
			t.Error("a stream that nobody brings")
		}
		began := time.Now()
		go func() { // ends when it has published
			<-brings
			time.Sleep(3 * time.Second)
			publish(t, h, app())
		}()
		got := make(chan *Stream)
		for range 2 {
			go func() { got <- h.Await(context.Background(), key) }() // ends when the stream is there
		}
		for range 2 {
			if s := <-got; s == nil || time.Since(began) != 3*time.Second {
				t.Errorf("Await = %v after %v, want the stream after 3s", s, time.Since(began))
			}
		}
		if n := len(h.awaited); n != 0 {
			t.Errorf("%d streams are still awaited", n)
		}
		n := asked.Load()
		if h.Await(t.Context(), key) == nil || asked.Load() != n {
			t.Error("a stream that is there was asked for")
		}
		h.Find(key).Newest().End(EndKicked)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if s := h.Await(ctx, key); s != nil || time.Since(began) != time.Second {
			t.Errorf("Await = %v after %v, want nil when its context ends", s, time.Since(began))
		}
		began = time.Now()
		if s := h.Await(t.Context(), key); s != nil || time.Since(began) != bringTime {
			t.Errorf("Await = %v after %v, want nil after %v", s, time.Since(began), bringTime)
		}
		if n := len(h.awaited); n != 0 {
			t.Errorf("%d streams are still awaited", n)
		}
	})
}

// A rendition keeps the times and has the clock of the stream that it is of.
func TestRenditionKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		source := publish(t, h, app())
		for ms := range int64(3) {
			time.Sleep(40 * time.Millisecond)
			if err := source.WritePacket(video(5000+ms*40, ms == 0, "a")); err != nil {
				t.Fatal(err)
			}
		}
		zero, origin, ok := source.Stream().Clock()
		if want := time.Now().Add(-5080 * time.Millisecond); !ok || !zero.Equal(want) || origin != zero.UnixMilli()%(1<<32/90) {
			t.Errorf("Clock = %v, %d, %v, want %v", zero, origin, ok, want)
		}
		p, err := h.Publish(Key{"default", "live", "s1_a"}, app(), Push{Of: source.Stream()})
		if err != nil {
			t.Fatal(err)
		}
		defer p.End(EndClosed)
		r := p.NewReader()
		defer r.Close()
		time.Sleep(10 * time.Second)
		for _, ms := range []int64{123_456, 123_496, 123_490, 500_000} { // whatever the clock says
			if err := p.WritePacket(video(ms, true, "b")); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int64{123_456, 123_496, 123_497, 500_000} {
			pkt, err := r.ReadPacket()
			if err != nil || pkt.DTS != want {
				t.Fatalf("ReadPacket = %d, %v, want %d", pkt.DTS, err, want)
			}
		}
		if z, o, ok := p.Stream().Clock(); !ok || !z.Equal(zero) || o != origin {
			t.Errorf("Clock of the rendition = %v, %d, want %v, %d", z, o, zero, origin)
		}
	})
}
