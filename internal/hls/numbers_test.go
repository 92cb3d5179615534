package hls

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/access"
	"weir/internal/policy"
	"weir/internal/stream"
)

// I9: neither number of a playlist falls when weir is restarted, in order or by a
// crash, however often the stream has changed and however short its segments are.
func TestNumbersOverRestarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hls_numbers")
	synctest.Test(t, func(t *testing.T) {
		var media, discontinuity, newest uint64 // of the last playlist, and of the newest segment in it
		app := policy.DefaultApp("live")
		app.HLS.Segment = time.Second
		for run := range 5 {
			set := policy.Default()
			hub := stream.NewHub(stream.Options{})
			n := &node{t: t, hub: hub, set: set, app: app}
			n.srv = NewServer(hub, access.NewGate(func() *policy.Set { return set }), Options{Numbers: file})
			look := func() {
				list := n.playlist("/live/s1.m3u8")
				if list.MediaSequence < media || list.DiscontinuitySequence < discontinuity {
					t.Errorf("run %d: sequences %d, %d after %d, %d", run, list.MediaSequence, list.DiscontinuitySequence, media, discontinuity)
				}
				media, discontinuity, newest = list.MediaSequence, list.DiscontinuitySequence, list.DiscontinuitySequence
				for _, s := range list.Segments {
					if s.Discontinuity {
						newest += 1 + uint64(s.Unseen)
					}
				}
			}
			discontinuity = newest
			for range 12 { // pushes
				e := both(960)
				stop := n.publish("s1", e, configs...)
				time.Sleep(2500 * time.Millisecond)
				look()
				time.Sleep(2500 * time.Millisecond)
				stop(stream.EndReset)
				time.Sleep(100 * time.Millisecond)
			}
			look()
			left, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := hub.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			n.srv.Close()
			n.pub.Wait()
			if run%2 == 0 { // it was no orderly end
				if err := os.WriteFile(file, left, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if first := stream.FirstEra(time.Now()); newest < first+40 || newest > first+5*(13+numbersAhead) {
			t.Errorf("at last the discontinuity sequence is %d, the hour %d", newest, first)
		}
	})
}

// What a file says that is not ours is not believed.
func TestNumbersFile(t *testing.T) {
	for text, base := range map[string]uint64{"": 0, "x": 0, "-1\n": 0, "99999999999\n": 0, "1000000": 1_000_000 - 1, "1\n": 0} {
		name := filepath.Join(t.TempDir(), "hls_numbers")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := numbers{log: quiet()}
		n.open(name, time.Date(2025, 1, 1, 1, 0, 0, 0, time.UTC))
		if n.base != base {
			t.Errorf("with %q in the file %d is added to eras, want %d", text, n.base, base)
		}
		n.reach(2)
		n.close()
		again := numbers{log: quiet()}
		if again.open(name, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)); again.base != base+3 {
			t.Errorf("with %q, after a number of %d, the next run adds %d", text, 2+base, again.base)
		}
	}
}
