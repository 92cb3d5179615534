package hls

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
)

// All channels together take no more than they may: who is idle gives way, then
// who comes is refused, and those who watch go on.
func TestRoom(t *testing.T) {
	const streams, size, most = 6, 40_000, 16 << 20
	inBubble(t, func(a *policy.App) { a.HLS.Window, a.HLS.Idle = 6, time.Hour }, func(n *node) {
		n.srv.room.most = most
		watched := func(i int) string { return fmt.Sprintf("/live/s%d/index.m3u8", i) }
		for i := range streams {
			e := both(2000)
			e.size = size // 1 MB/s: some 14 MB in a channel with what may still be fetched
			n.publish(fmt.Sprint("s", i), e, configs...)
		}
		time.Sleep(2 * time.Second)
		// Somebody watches the first stream all the time, and another one for a while.
		look := func(seconds int, streams ...int) {
			t.Helper()
			for range seconds {
				for _, i := range streams {
					n.playlist(watched(i))
				}
				time.Sleep(time.Second)
			}
		}
		look(4, 0, 1)
		look(20, 0)
		if s := n.srv.Stats(); s.Channels != 1 || s.Held > most {
			t.Errorf("with one idle: %d channels with %d bytes, want 1 with %d at most", s.Channels, s.Held, most)
		}
		// With all watched there is no room for all, and those who are there go on.
		let, refused := []int{0}, 0
		for i := 1; i < streams; i++ {
			switch w := n.get(watched(i)); w.Code {
			case http.StatusOK:
				let = append(let, i)
			case http.StatusServiceUnavailable:
				refused++
				if w.Header().Get("Retry-After") != "5" || !strings.Contains(w.Body.String(), "hls_memory") {
					t.Errorf("refused with %v %s", w.Header(), w.Body)
				}
			default:
				t.Errorf("%s: %d", watched(i), w.Code)
			}
			look(15, let...)
		}
		if refused == 0 || len(let) < 2 {
			t.Errorf("%d streams were let in and %d refused, want both", len(let), refused)
		}
		s := n.srv.Stats()
		// Each may have its shortest playlist, and the segment that has just come.
		if limit := int64(most + len(let)*3<<20); s.Held > limit || s.Refused[noRoom] != int64(refused) || s.Most != most {
			t.Errorf("%+v, want %d bytes at most and %d refused", s, limit, refused)
		}
		for _, i := range let {
			if list := n.playlist(watched(i)); len(list.Segments) < 3 {
				t.Errorf("%s has %d segments, want 3", watched(i), len(list.Segments))
			}
		}
		// When the others have left there is room again.
		look(30, 0)
		last := streams - 1
		for range 5 {
			if n.get(watched(last)).Code == http.StatusOK {
				return
			}
			look(5, 0)
		}
		t.Errorf("the stream that was refused is still refused: %+v", n.srv.Stats())
	})
}

// A stream that is to be packaged always is not while there is no room.
func TestNoRoomForAlways(t *testing.T) {
	inBubble(t, func(a *policy.App) { a.HLS.Mode = policy.HLSAlways }, func(n *node) {
		n.srv.room.most = 1
		n.srv.room.held.Store(1)
		stop := n.publish("s1", both(2000), configs...)
		time.Sleep(5 * time.Second)
		if s := n.srv.Stats(); s.Channels != 0 {
			t.Errorf("%d channels, want none", s.Channels)
		}
		stop(stream.EndClosed)
		n.srv.room.held.Store(0)
	})
}
