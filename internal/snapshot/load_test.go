package snapshot

import (
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// TestLoad has 200 streams with a picture every 5 s, and one player each, and
// compares the latency of media with and without pictures. WEIR_LOAD is how long
// it takes each time; it needs a machine that is otherwise idle.
func TestLoad(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("WEIR_LOAD"))
	if err != nil {
		t.Skip("for machines that are otherwise idle: WEIR_LOAD=30s go test -run TestLoad -v ./internal/snapshot")
	}
	streams := 200
	if n, err := strconv.Atoi(os.Getenv("WEIR_LOAD_STREAMS")); err == nil {
		streams = n
	}
	clip := film(t, av.H264, 640, 360, 10, 2)
	tool := realTool(t)
	measure := func(enabled bool) (p50, p99 time.Duration) {
		w := newWorld(t, tool, nil)
		var mu sync.Mutex
		var all []time.Duration
		var players, publishers sync.WaitGroup
		begin := time.Now().Add(time.Second)
		for i := range streams {
			p := w.publish("s"+strconv.Itoa(i), func(s *policy.Snapshot) { s.Enabled, s.Interval, s.Width = enabled, 5*time.Second, 320 })
			r := p.NewReader()
			sent := make(chan time.Time, 1000) // of each frame of video
			players.Go(func() {                // ends with the push
				var late []time.Duration
				for {
					x, err := r.ReadPacket()
					if err != nil {
						break
					}
					if x.Kind == av.Video && !x.Config {
						late = append(late, time.Since(<-sent))
					}
				}
				mu.Lock()
				all = append(all, late...)
				mu.Unlock()
			})
			publishers.Go(func() { // ends after length
				defer p.End(stream.EndClosed)
				start := begin.Add(time.Duration(i) * 5 * time.Second / time.Duration(streams))
				for lap := int64(0); ; lap++ {
					for _, x := range clip.packets {
						if lap > 0 && (x.Config || x.Kind == av.Data) {
							continue
						}
						x.DTS += lap * 10_000
						at := start.Add(time.Duration(x.DTS) * time.Millisecond)
						if at.Sub(begin) > length {
							return
						}
						time.Sleep(time.Until(at))
						if x.Kind == av.Video && !x.Config {
							sent <- time.Now()
						}
						if p.WritePacket(x) != nil {
							return
						}
					}
				}
			})
		}
		publishers.Wait()
		w.hub.Close(context.Background())
		players.Wait()
		slices.Sort(all)
		s := w.Stats()
		t.Logf("pictures %v: %d frames; %d pictures, %d failed, %d of them dropped; %d running and %d waiting at last; %v of CPU a picture", enabled,
			len(all), s.Taken, s.Failed, s.Shed, s.Running, s.Waiting, s.CPU/time.Duration(max(1, s.Taken)))
		return all[len(all)/2], all[len(all)*99/100]
	}
	a50, a99 := measure(false)
	b50, b99 := measure(true)
	t.Logf("latency from publisher to reader: p50 %v, p99 %v without; p50 %v, p99 %v with pictures: %.2f", a50, a99, b50, b99, float64(b99)/float64(a99))
}
