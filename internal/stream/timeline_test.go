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
		{"one frame is late", []step{{v, 900, 0, 900}, {a, 910, 0, 910}, {v, 20, 0, 901}, {a, 933, 0, 933}, {v, 980, 0, 980}, {v, 1020, 0, 1020}}},
		{"some frames are late", []step{{v, 900, 0, 900}, {v, 20, 0, 901}, {v, 940, 0, 940}, {v, 60, 0, 941}, {v, 980, 0, 980}, {v, 100, 0, 981}, {v, 1020, 0, 1020}}},
		{"frames out of order", []step{{v, 600, 0, 600}, {v, 760, 0, 760}, {v, 640, 0, 761}, {v, 680, 0, 762}, {v, 720, 0, 763}, {v, 800, 0, 800}}},
		{"one track runs ahead, and is back", []step{{v, 1000, 0, 1000}, {a, 1010, 0, 1010}, {v, 2000, 0, 2000}, {v, 1040, 0, 2001}, {v, 1080, 0, 2002}, {a, 1033, 0, 1033}, {v, 1120, 0, 2003}, {v, 2040, 0, 2040}}},
		{"set back by a second", []step{{v, 1000, 0, 1000}, {a, 1010, 0, 1010}, {v, 0, 0, 1001}, {a, 10, 0, 1011}, {v, 40, 0, 1002}, {v, 80, 0, 1120}, {a, 90, 0, 1130}, {v, 120, 0, 1160}}},
		{"set back, without sound", []step{{v, 0, 0, 0}, {v, 2000, 0, 2000}, {v, 0, 0, 2001}, {v, 40, 0, 2002}, {v, 80, 0, 2120}}},
		{"set back, when sound has ended", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {v, 2000, 0, 2000}, {v, 4000, 0, 4000}, {v, 2500, 0, 4001}, {v, 2540, 0, 4002}, {v, 2580, 0, 4120}}},
		{"set back by what is jitter of sound only", []step{{v, 1000, 0, 1000}, {a, 980, 0, 980}, {v, 490, 0, 1001}, {a, 490, 0, 981}, {v, 530, 0, 1002}, {v, 570, 0, 1120}, {a, 570, 0, 1120}, {v, 610, 0, 1160}, {a, 610, 0, 1160}}},
		{"late sound with a clock of its own", []step{{v, 0, 0, 0}, {v, 14_000, 14 * time.Second, 14_000}, {a, 0, 0, 14_000}, {a, 23, 23 * ms, 14_023}, {v, 14_040, 17 * ms, 14_040}}},
		{"late sound with the same clock", []step{{v, 0, 0, 0}, {v, 14_000, 14 * time.Second, 14_000}, {a, 12_000, 0, 12_000}, {a, 12_023, 23 * ms, 12_023}}},
		{"video and its clock stand still for 15 s", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {a, 15_000, 15 * time.Second, 15_000}, {v, 40, 0, 15_000}, {v, 80, 40 * ms, 15_040}, {a, 15_040, 0, 15_040}}},
		{"video stands still for 5 s, and catches up", []step{{v, 0, 0, 0}, {a, 0, 0, 0}, {a, 5000, 5 * time.Second, 5000}, {v, 40, 0, 5000}, {v, 2040, 0, 7000}, {v, 5000, 0, 9960}, {a, 5023, 23 * ms, 9983}}},
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

// F16: a configuration of a track that has not been there is as late as its
// frames will be, whatever time it says.
func TestTimelineOfALateConfiguration(t *testing.T) {
	var l timeline
	now := time.Unix(1e9, 0)
	l.place(av.Video, 0, false, now)
	l.place(av.Video, 14_000, false, now.Add(14*time.Second))
	if got := l.place(av.Audio, 0, true, now); got != 14_000-maxStep {
		t.Errorf("configuration at %d, want %d", got, 14_000-maxStep)
	}
}

// F13: a clock that is set back again and again, of both tracks or of one, costs
// no time, and sound and picture stay together.
func TestTimelineOfAClockThatIsSetBack(t *testing.T) {
	for every := int64(560); every < 5000; every += 40 { // which is by how much
		for _, only := range []av.Kind{av.Data, av.Video, av.Audio} { // av.Data: both
			var l timeline
			now := time.Unix(1e9, 0)
			var last [2]int64
			for at := int64(0); at < 60_000; at += 20 {
				now = now.Add(20 * ms)
				k, stamp := av.Audio, at
				if at%40 == 0 {
					k = av.Video
				}
				if only == av.Data || only == k {
					stamp %= every
				}
				got := l.place(k, stamp, false, now)
				if d := got - last[0]; k == av.Audio && d < -150 || d > 150 {
					t.Fatalf("set back every %d ms (%v): sound at %d ms, picture at %d", every, only, got, last[0])
				}
				last[k-av.Video] = got
			}
			if l.last < 60_000-500 || l.last > 60_000+500 {
				t.Errorf("set back every %d ms (%v): a minute became %d ms", every, only, l.last)
			}
		}
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
