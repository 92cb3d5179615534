package record

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every frame pushed is in the recording, in every format, in order, once.
func TestEveryFrame(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"plain":             func(*encoder) {},
		"B-frames":          func(e *encoder) { e.reorder = true },
		"HEVC":              func(e *encoder) { e.hevc = true },
		"Opus":              func(e *encoder) { e.opus = true },
		"HEVC with Opus":    func(e *encoder) { e.hevc, e.opus = true, true },
		"audio only":        func(e *encoder) { e.picture = false },
		"video only":        func(e *encoder) { e.sound = false },
		"one key frame":     func(e *encoder) { e.gop = -1 },
		"long groups":       func(e *encoder) { e.gop = 7000 },
		"large frames":      func(e *encoder) { e.size = 100_000 },
		"timestamps of 2³²": func(e *encoder) { e.at = 1<<32 - 17_000 + 24 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
				began := time.Now()
				e := w.both(w.push())
				change(e)
				e.run(47_000).end()
				list, _ := w.everywhere(1)
				f := list[0]
				if d := f.Duration - 47*time.Second; d < -100*time.Millisecond || d > 300*time.Millisecond {
					t.Errorf("duration %v, want 47s", f.Duration)
				}
				if f.Start.Sub(began) > time.Second || f.End.Sub(f.Start).Round(time.Second) != 47*time.Second {
					t.Errorf("recorded from %v to %v, began at %v", f.Start, f.End, began)
				}
				if wait := time.Since(began) - 47*time.Second; wait < 180*time.Second || wait > 190*time.Second {
					t.Errorf("finished %v after the end, want the window of 3m", wait)
				}
				if n := len(facts[event.RecordStarted](w)); n != 1 {
					t.Errorf("%d beginnings", n)
				}
				w.empty()
			})
		})
	}
}

func TestSegments(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.gop = 2000
		e.run(45_000).end()
		got := w.read(w.finished(1)[0])
		for i, s := range got.list.Segments {
			if i < 4 && s.Duration != 10*time.Second {
				t.Errorf("segment %d has %v", i, s.Duration)
			}
			if i > 0 {
				if d := s.Time.Sub(got.list.Segments[i-1].Time); d != 10*time.Second {
					t.Errorf("segment %d begins %v after the one before", i, d)
				}
			}
		}
		if got.breaks != 0 || got.list.TargetDuration != 10 {
			t.Errorf("%d discontinuities, target %d", got.breaks, got.list.TargetDuration)
		}
	})
}

// F01, F02, I7: who returns in the window goes on in the same file, with its
// first settings; 180 s are in it, 181 are not.
func TestSplice(t *testing.T) {
	for _, c := range []struct {
		gap   time.Duration
		files int
	}{{time.Second, 1}, {4 * time.Second, 1}, {30 * time.Second, 1}, {179 * time.Second, 1}, {180 * time.Second, 1}, {181 * time.Second, 2}, {time.Hour, 2}} {
		t.Run(c.gap.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
				w.both(w.push()).run(15_000).end()
				time.Sleep(c.gap)
				w.app.Record.Splice = 0 // takes part from the next file on
				w.app.Record.Segment = 5 * time.Second
				e := w.both(w.push())
				e.at = 5_000_000
				e.run(15_000).end()
				list, files := w.everywhere(c.files)
				var total time.Duration
				for _, f := range list {
					total += f.Duration
				}
				if d := total - 30*time.Second; d < 0 || d > 200*time.Millisecond {
					t.Errorf("duration %v, want 30s: gaps are no media", total)
				}
				if c.files == 1 {
					if files[0].breaks != 1 || len(list[0].Pushes) != 2 || files[0].list.TargetDuration != 10 {
						t.Errorf("%d discontinuities, pushes %q, target %d", files[0].breaks, list[0].Pushes, files[0].list.TargetDuration)
					}
					if d := list[0].End.Sub(list[0].Start).Round(time.Second); d != 30*time.Second+c.gap {
						t.Errorf("the name spans %v", d)
					}
				}
				w.empty()
			})
		})
	}
}

// A file keeps the settings of its first push; the one after it has those of the
// push that it is made of.
func TestSpliceOfOtherSettings(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Cut = 2 * time.Minute }, func(t *testing.T, w *world) {
		w.both(w.push()).run(15_000).end()
		time.Sleep(10 * time.Second)
		w.app.Record.Cut, w.app.Record.Segment = time.Minute, 5*time.Second
		w.both(w.push()).run(165_000).end()
		list := w.finished(2)
		for i, want := range []struct {
			duration time.Duration
			segments int
		}{{2 * time.Minute, 12}, {time.Minute, 12}} {
			f := list[i]
			if d := (f.Duration - want.duration).Abs(); d > time.Second || f.Segments < want.segments || f.Segments > want.segments+2 {
				t.Errorf("file %d has %v in %d segments, want %v in %d", i, f.Duration, f.Segments, want.duration, want.segments)
			}
		}
	})
}

func TestThreeSplices(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
		for range 4 {
			w.both(w.push()).run(12_000).end()
			time.Sleep(20 * time.Second)
		}
		list, files := w.everywhere(1)
		f, got := list[0], files[0]
		if got.breaks != 3 || len(f.Pushes) != 4 {
			t.Errorf("%d discontinuities, %d pushes", got.breaks, len(f.Pushes))
		}
	})
}

// F04 and the vdoid: who returns as another gets a file of his own, or a
// discontinuity where that is set.
func TestSpliceOfAnother(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"picture size": func(e *encoder) { e.video = avcConfig2 },
		"codec":        func(e *encoder) { e.hevc = true },
		"sample rate":  func(e *encoder) { e.audio = aacConfig48k },
		"sound codec":  func(e *encoder) { e.opus = true },
		"vdoid":        nil,
	} {
		for _, rule := range []policy.RecordChange{policy.RecordNewFile, policy.RecordDiscontinuity} {
			t.Run(name+" "+rule.String(), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(r *policy.Record, _ *Options) { every(r); r.OnCodecChange, r.OnVDOIDChange = rule, rule }, func(t *testing.T, w *world) {
					w.both(w.push("vdoid=1")).run(5000).end()
					time.Sleep(10 * time.Second)
					vdoid := "vdoid=1"
					if change == nil {
						vdoid = "vdoid=2"
					}
					e := w.both(w.push(vdoid))
					if change != nil {
						change(e)
					}
					e.run(5000).end()
					n := 1
					if rule == policy.RecordNewFile {
						n = 2
					}
					w.everywhere(n)
				})
			})
		}
	}
}

// A file is cut after so much media; the next one has no hole and no overlap,
// and the last one ends with the stream: there is no empty one behind it.
func TestCut(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"plain":      func(e *encoder) { e.gop = 4000 },
		"audio only": func(e *encoder) { e.picture = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r); r.Cut = 30 * time.Second }, func(t *testing.T, w *world) {
				e := w.both(w.push())
				change(e)
				e.run(150_000).end() // of sound alone five files to the frame, and no empty sixth
				list, _ := w.everywhere(5)
				for i, f := range list {
					if d := f.Duration - 31*time.Second; i < 4 && d < -1100*time.Millisecond || d > 1100*time.Millisecond {
						t.Errorf("file %d has %v", i, f.Duration)
					}
				}
				w.empty()
			})
		})
	}
	// Where key frames are so rare that segments end without one, files do not.
	for name, c := range map[string]struct {
		gop  int64
		want []time.Duration
	}{
		"rare key frames": {45_000, []time.Duration{90 * time.Second, 90 * time.Second, 70 * time.Second}},
		"rarer than cuts": {130_000, []time.Duration{130 * time.Second, 120 * time.Second}},
		"one key frame":   {-1, []time.Duration{250 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r); r.Cut = time.Minute }, func(t *testing.T, w *world) {
				e := w.both(w.push())
				e.gop = c.gop
				e.run(250_000).end()
				list, files := w.everywhere(len(c.want))
				for i, f := range list {
					if d := (f.Duration - c.want[i]).Abs(); d > 500*time.Millisecond {
						t.Errorf("file %d has %v, want %v", i, f.Duration, c.want[i])
					}
					first := slices.IndexFunc(files[i].packets, func(p av.Packet) bool { return p.Kind == av.Video })
					if !files[i].packets[first].Key {
						t.Errorf("file %d begins with a frame that nobody can decode", i)
					}
				}
				w.empty()
			})
		})
	}
	// The total counts after a splice, and the next file is spliced as well.
	t.Run("spliced", func(t *testing.T) {
		bubble(t, func(r *policy.Record, _ *Options) { every(r); r.Cut = time.Minute }, func(t *testing.T, w *world) {
			for range 3 {
				w.both(w.push()).run(40_000).end()
				time.Sleep(100 * time.Second)
			}
			list, _ := w.everywhere(2)
			if len(list[0].Pushes) != 2 || len(list[1].Pushes) != 2 {
				t.Errorf("pushes %q and %q", list[0].Pushes, list[1].Pushes)
			}
		})
	})
}

// Short pushes without a key frame leave nothing.
func TestNothing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.gop = 1 << 40
		e.lastKey = 1
		e.begin()
		e.lastKey = 1 << 40
		e.run(2000).end()
		w.push().End(0)
		time.Sleep(10 * time.Minute)
		w.finished(0)
		if n := len(facts[event.RecordStarted](w)) + len(facts[event.RecordFailed](w)); n != 0 {
			t.Errorf("%d facts", n)
		}
		w.empty()
	})
}

// Changes in a push are discontinuities: of the encoder, of the time line.
func TestChangesInAPush(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.run(13_000)
		e.video = avcConfig2
		e.config()
		e.lastKey = -1 << 40
		e.run(13_000)
		e.at -= 3_600_000 // F13
		e.lastKey = e.at - e.gop
		e.run(13_000)
		e.at += 7_200_000
		e.lastKey = e.at - e.gop
		e.run(13_000)
		e.write(av.Packet{Kind: av.Audio, Codec: av.AAC, Config: true, DTS: e.at, Frame: aacConfig48k})
		e.run(13_000).end()
		list, files := w.everywhere(1)
		f, got := list[0], files[0]
		if got.breaks != 2 {
			t.Errorf("%d discontinuities, want 2: picture and sound have changed", got.breaks)
		}
		if d := f.Duration - 65*time.Second; d < -300*time.Millisecond || d > 300*time.Millisecond {
			t.Errorf("duration %v, want 65s", f.Duration)
		}
	})
}

// F16: a track that comes late, and one that stops for a while.
func TestLateTracks(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.sound = false
		e.run(30_000)
		e.write(av.Packet{Kind: av.Audio, Codec: av.AAC, Config: true, DTS: e.at, Frame: aacConfig})
		e.sound = true
		e.run(30_000)
		e.picture = false
		e.run(60_000)
		e.picture = true
		e.lastKey = 0
		e.run(30_000).end()
		w.everywhere(1)
	})
	bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.picture = false
		e.run(30_000)
		e.picture = true
		e.config()
		e.lastKey = 0
		e.run(30_000).end()
		w.everywhere(1)
	})
}

// Settings are those of the moment when the push began; a name that is taken
// gets a suffix and nothing is overwritten (F52).
func TestTakenName(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Splice = 0; r.Prefix = "a/b" }, func(t *testing.T, w *world) {
		w.both(w.push()).run(400).end()
		w.both(w.push()).run(400).end()
		list := w.finished(2)
		a, b := list[0].Key, list[1].Key
		if b < a {
			a, b = b, a
		}
		want := "a/b/record/live/s-1/hls/s-1-946684800-946684800"
		if b != want+".m3u8" || a != want+"-1.m3u8" {
			t.Errorf("keys %q and %q", a, b)
		}
		w.all(w.read(list[0]), w.read(list[1]))
	})
}
