package stream

import (
	"math/rand/v2"
	"testing"
	"time"

	"weir/internal/media/av"
)

// step is one packet of a script: kind, the publisher's time, the wall clock
// since the packet before, and the stream time it must get.
type step struct {
	k    av.Kind
	t    int64
	wall time.Duration
	want int64
}

const ms = time.Millisecond

func TestTimeline(t *testing.T) {
	v, a := av.Video, av.Audio
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"plain", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {a, 23, 23 * ms, 23}, {v, 40, 17 * ms, 40}}},
		{"starts late", []step{{v, 100_000, 0, 1000}, {a, 99_977, 0, 977}, {v, 100_040, 40 * ms, 1040}}},
		{"starts past 24 bits", []step{{v, 0xFFFFFF + 5, 0, 1000}, {v, 0xFFFFFF + 45, 40 * ms, 1040}}},
		{"stands still", []step{{v, 7, 0, 7}, {v, 7, 0, 8}, {v, 7, 0, 9}, {v, 47, 0, 47}}},
		{"small step back", []step{{v, 100, 0, 100}, {v, 80, 0, 101}, {v, 140, 0, 140}}},
		{"jumps an hour on, both tracks", []step{{v, 0, 0, 0}, {a, 10, 0, 10}, {v, 3_600_000, 40 * ms, 40}, {a, 3_600_013, 10 * ms, 53}, {v, 3_600_040, 0, 80}}},
		{"jumps back to zero", []step{{v, 9000, 0, 9000}, {a, 9010, 0, 9010}, {v, 0, 40 * ms, 9040}, {a, 20, 20 * ms, 9060}}},
		{"late audio of before the jump", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {v, 900_000, 40 * ms, 40}, {a, 23, 0, 23}, {a, 900_006, 0, 46}}},
		{"video away for a minute", []step{{v, 0, 0, 0}, {a, 2000, 2 * time.Second, 2000}, {a, 5000, 3 * time.Second, 5000}, {a, 60_000, 55 * time.Second, 60_000}, {v, 60_010, 0, 60_010}}},
		{"both away for ten seconds", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {v, 10_000, 10 * time.Second, 10_000}, {a, 10_010, 0, 10_010}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l timeline
			now := time.Unix(1e9, 0)
			for i, s := range c.steps {
				now = now.Add(s.wall)
				if got := l.place(s.k, s.t, false, now); got != s.want {
					t.Errorf("packet %d: place(%v, %d) = %d, want %d", i, s.k, s.t, got, s.want)
				}
			}
		})
	}
}

func TestTimelineResume(t *testing.T) {
	var l timeline
	now := time.Unix(1e9, 0)
	l.place(av.Video, 5000, false, now)
	l.place(av.Audio, 5005, false, now)
	now = now.Add(2 * time.Second)
	l.resume(now)
	if got := l.place(av.Video, 0, true, now); got != 7005 {
		t.Errorf("configuration after 2 s at %d, want 7005", got)
	}
	v, a := l.place(av.Video, 123_456, false, now), l.place(av.Audio, 123_466, false, now)
	if v < 7005 || v > 7105 || a-v != 10 {
		t.Errorf("first frames after 2 s at %d and %d, want about 7005 and 10 ms apart", v, a)
	}
}

// Another publisher's audio that is behind its video is not before the audio of
// its predecessor.
func TestTimelineResumeWithTracksApart(t *testing.T) {
	var l timeline
	now := time.Unix(1e9, 0)
	l.place(av.Video, 5000, false, now)
	l.place(av.Audio, 5005, false, now)
	l.resume(now)
	if got := l.place(av.Video, 1000, false, now); got != 5045 {
		t.Errorf("video at %d, want 5045", got)
	}
	for i, want := range []int64{5006, 5007, 5015} {
		if got := l.place(av.Audio, []int64{500, 940, 970}[i], false, now); got != want {
			t.Errorf("audio frame %d at %d, want %d", i, got, want)
		}
	}
	if got := l.place(av.Audio, 0, true, now); got != 5015 {
		t.Errorf("configuration at %d, want 5015", got)
	}
}

// Whatever a publisher stamps, frames of a track increase strictly and the
// time line does not run away from the sum of plausible steps.
func TestTimelineNeverGoesBack(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var l timeline
		now := time.Unix(1e9, 0)
		last := map[av.Kind]int64{av.Video: -1, av.Audio: -1}
		for i := range 2000 {
			k := av.Video + av.Kind(r.IntN(2))
			now = now.Add(time.Duration(r.IntN(40)) * ms)
			if r.IntN(100) == 0 {
				l.resume(now)
			}
			got := l.place(k, r.Int64N(1<<32), false, now)
			if got <= last[k] {
				t.Fatalf("seed %d: packet %d of %v at %d after %d", seed, i, k, got, last[k])
			}
			last[k] = got
		}
		if limit := int64(2000 * (maxStep + assumedFrame)); l.last > limit {
			t.Errorf("seed %d: time line at %d after 2000 packets, limit %d", seed, l.last, limit)
		}
	}
}
