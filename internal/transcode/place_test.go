package transcode

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

func named(name string) stream.Key { return stream.Key{Space: key.Space, App: key.App, Name: name} }

// Two streams that are both too slow give their largest renditions up and go on, each in its place.
func TestSlowSources(t *testing.T) {
	tpl := template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 120, 200_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.BitRate = "_low", 60, 100_000 }),
	)
	tpl.Shed, tpl.Preset = true, "ultrafast"
	var refused atomic.Bool
	w := newWorld(t, Options{Max: 2, Raise: func(_ *stream.Publication, alert, text string, _, _ float64) {
		if alert == alertRefused {
			refused.Store(true)
			t.Error(text)
		}
	}}, *tpl)
	w.quiet = true
	w.pace.settle, w.pace.slow = 0, 2
	film := clip(t, h264)
	var ahead atomic.Int64
	ahead.Store(800)
	for _, name := range []string{"s1", "s2"} {
		_, stop := w.strain(t, named(name), film, &ahead)
		defer stop()
	}
	all := func(is func(s Status) bool) func() bool {
		return func() bool {
			st := w.Status()
			return refused.Load() || len(st) == 2 && is(st[0]) && is(st[1])
		}
	}
	until(t, 30*time.Second, "live", all(func(s Status) bool { return s.Outputs[0].Live && s.Outputs[1].Live }))
	ahead.Store(9000)
	until(t, 30*time.Second, "given up", all(func(s Status) bool { return s.Outputs[0].Shed }))
	until(t, 30*time.Second, "going on", all(func(s Status) bool { return s.State == "running" && s.Outputs[0].Shed && s.Outputs[1].Live }))
}

// Who is slow keeps its place, whoever else is slow, and nobody new gets one.
func TestPlacesOfTheSlow(t *testing.T) {
	w := &Transcoder{opt: Options{Max: 3}}
	a, b, c := &source{}, &source{}, &source{}
	for _, src := range []*source{a, b} {
		if err := w.enter(src); err != nil {
			t.Fatal(err)
		}
	}
	w.slow = 2
	for _, src := range []*source{a, b} { // with fewer outputs
		if err := w.enter(src); err != nil {
			t.Errorf("a slow one loses its place: %v", err)
		}
	}
	if err := w.enter(c); err == nil {
		t.Error("another one gets a place")
	}
	w.leave(a)
	if err := w.enter(a); err == nil || w.running != 1 {
		t.Errorf("who has left comes back, %d are there", w.running)
	}
	w.slow = 0
	if err := w.enter(c); err != nil || w.running != 2 {
		t.Errorf("there is no place, with %d of 3: %v", w.running, err)
	}
}

// Whose ffmpeg fails has its place when it comes back, whoever waits for one.
func TestPlaceIsKept(t *testing.T) {
	w := newWorld(t, Options{Max: 1}, *template(rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 100_000 })))
	w.quiet = true
	w.pace.again = 20 * time.Millisecond
	film := clip(t, h264)
	first, _, stop := w.live(t, key, film, stream.Push{})
	defer stop()
	w.await(t, key, "running")
	_, _, end := w.live(t, named("s2"), film, stream.Push{})
	defer end()
	w.await(t, named("s2"), "refused")
	src := w.source(first.Stream())
	src.mu.Lock()
	src.proc.Kill()
	src.mu.Unlock()
	until(t, 10*time.Second, "back", func() bool {
		st := w.Status()
		if st[1].State == "running" {
			t.Fatal("the second stream has taken the place of the first")
		}
		return st[0].Restarts == 1 && st[0].State == "running"
	})
	first.End(stream.EndClosed)
	w.await(t, named("s2"), "running")
}

// The name of a rendition that somebody else has is taken as soon as it is free, and the others do not suffer.
func TestHeldName(t *testing.T) {
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 100_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.BitRate = "_b", 60, 100_000 }),
	))
	w.quiet = true
	w.pace.again = 20 * time.Millisecond
	app := w.app
	app.Transcode, app.StaleAfter, app.IdleTimeout = nil, time.Hour, time.Hour // it is silent
	other, err := w.hub.Publish(named("s1_a"), &app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	film := clip(t, h264)
	pub, _, stop := w.live(t, key, film, stream.Push{})
	defer stop()
	w.await(t, key, "running")
	held := func() OutputStatus { return w.Status()[0].Outputs[0] }
	until(t, 20*time.Second, "refused", func() bool { return held().Error != "" && w.Status()[0].Outputs[1].Live })
	if held().Live {
		t.Error("it is live, by another's name")
	}
	began := w.Status()[0].Started
	other.End(stream.EndClosed)
	until(t, 20*time.Second, "live", func() bool { return held().Live && held().Error == "" })
	s := w.hub.Find(named("s1_a"))
	if video, audio := s.Configs(); s.Push().Of != pub.Stream() || video == nil || audio == nil {
		t.Errorf("it is of %v, its configurations %v, %v", s.Push().Of, video, audio)
	}
	if got := w.Status()[0].Started; !got.Equal(began) {
		t.Error("ffmpeg was started again")
	}
}

// A push that announces pictures and sends none has its sound made, and pictures when they come.
func TestPictureComesLate(t *testing.T) {
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 100_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Drop = "_ear", policy.CopyVideo }),
	))
	film := clip(t, h264)
	dark := slices.DeleteFunc(slices.Clone(film), func(p av.Packet) bool { return p.Kind == av.Video && !p.Config })
	pub := w.publish(t, dark[:10], stream.Push{})
	w.await(t, key, "starting")
	for _, p := range append(dark[10:], later(dark, 4000)...) {
		pub.WritePacket(p)
	}
	ear := w.hub.Await(t.Context(), named("s1_ear"))
	if ear == nil {
		t.Fatalf("there is no sound: %+v", w.Status())
	}
	until(t, 20*time.Second, "seven seconds of sound", func() bool { return ear.Time() > 7000 })
	for _, p := range later(film, 8000) {
		pub.WritePacket(p)
	}
	began := w.await(t, key, "running").Started
	until(t, 20*time.Second, "another one", func() bool { return !w.await(t, key, "running").Started.Equal(began) })
	for _, p := range later(film, 12000) {
		pub.WritePacket(p)
	}
	if pictures := frames(w.collect(t, "s1_a", 15000), av.Video, false); len(pictures) < 60 {
		t.Errorf("%d pictures", len(pictures))
	}
	pub.End(stream.EndClosed)
}

// bubble runs f with a Transcoder that has no ffmpeg, in virtual time. The returned functions tell which alerts
// are raised, and what was logged.
func bubble(t *testing.T, tpl *policy.Transcode, f func(w *world, raised func() string, said func() string)) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		alerts := make(map[string]bool)
		var log bytes.Buffer
		w := newWorldOf(t, ffmpeg.New(ffmpeg.Options{Path: "/nonexistent/ffmpeg"}), Options{Max: 1,
			Raise: func(_ *stream.Publication, alert, _ string, _, _ float64) {
				mu.Lock()
				defer mu.Unlock()
				alerts[alert] = true
			},
			Clear: func(_ *stream.Publication, alert string) { mu.Lock(); defer mu.Unlock(); delete(alerts, alert) },
		}, *tpl)
		w.Transcoder.log = slog.New(slog.NewTextHandler(&log, nil))
		f(w, func() string {
			mu.Lock()
			defer mu.Unlock()
			var list []string
			for a := range alerts {
				list = append(list, a)
			}
			slices.Sort(list)
			return strings.Join(list, " ")
		}, log.String)
	})
}

// camera publishes frames, 50 a second, until the returned function is called.
func (w *world) camera(t *testing.T, key stream.Key, push stream.Push, frame func(n int) av.Packet) (*stream.Publication, func()) {
	pub, err := w.hub.Publish(key, &w.app, push)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { // ends with ctx
		for n := 0; ctx.Err() == nil; n++ {
			p := frame(n)
			p.DTS = int64(n) * 20
			if pub.WritePacket(p) != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return pub, func() { cancel(); done.Wait(); pub.End(stream.EndClosed) }
}

func frame(kind av.Kind, isKey bool) av.Packet {
	codec := av.AAC
	if kind == av.Video {
		codec = av.H264
	}
	return av.Packet{Kind: kind, Codec: codec, Key: isKey, Tag: make([]byte, 32), Frame: make([]byte, 16)}
}

// What players have wanted is forgotten when they do not want it any more, though it was refused, failed or never began;
// and so are the alerts about that.
func TestPlayEndsWithoutFFmpeg(t *testing.T) {
	for _, tt := range []struct{ state, alert string }{{"refused", alertRefused}, {"failing", alertFailing}, {"starting", ""}} {
		t.Run(tt.state, func(t *testing.T) {
			tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
			tpl.Trigger, tpl.Idle = policy.TranscodePlay, 5*time.Second
			bubble(t, tpl, func(w *world, raised, _ func() string) {
				if tt.state == "refused" {
					w.running = w.opt.Max
				}
				pub, stop := w.camera(t, key, stream.Push{}, func(n int) av.Packet { return frame(av.Video, n%50 == 0 && tt.state != "starting") })
				defer stop()
				time.Sleep(time.Second)
				w.Play(pub.Stream())
				time.Sleep(3 * time.Second)
				if st := w.Status()[0]; st.State != tt.state || raised() != tt.alert {
					t.Fatalf("%+v, alerts %s", st, raised())
				}
				time.Sleep(time.Minute)
				if st := w.Status()[0]; st.State != "idle" || raised() != "" {
					t.Errorf("a minute after the only wish: %+v, alerts %s", st, raised())
				}
			})
		})
	}
}

// Who has nothing that could be transcoded yet has no place either, nor has he for whom nothing can be made.
func TestNoPlaceForNothing(t *testing.T) {
	bubble(t, template(rung(func(r *policy.Rendition) { r.ShortSide = 90 })), func(w *world, _, _ func() string) {
		places := func() int { w.Transcoder.mu.Lock(); defer w.Transcoder.mu.Unlock(); return w.running }
		_, stop := w.camera(t, key, stream.Push{}, func(int) av.Packet { return frame(av.Video, false) })
		time.Sleep(10 * time.Second)
		if st := w.Status()[0]; st.State != "starting" || places() != 0 {
			t.Errorf("%+v, %d places", st, places())
		}
		stop()
		_, stop = w.camera(t, named("s2"), stream.Push{}, func(n int) av.Packet { return frame(av.Video, n%50 == 0) })
		defer stop()
		time.Sleep(10 * time.Second)
		if st := w.Status(); st[len(st)-1].State != "failing" || places() != 0 {
			t.Errorf("%+v, %d places", st, places())
		}
	})
}

// A push that asks for a template that there is not is told of in the log.
func TestUnknownPreset(t *testing.T) {
	tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
	tpl.Trigger = policy.TranscodeParam
	for _, tt := range []struct {
		preset string
		warns  bool
	}{{"t", false}, {"t,mistyped", true}} {
		bubble(t, tpl, func(w *world, _, said func() string) {
			push := stream.Push{Client: event.Client{Params: []event.Param{{Name: "preset", Value: tt.preset}}}}
			_, stop := w.camera(t, key, push, func(int) av.Packet { return frame(av.Audio, false) })
			time.Sleep(time.Second)
			stop()
			synctest.Wait()
			if s := said(); strings.Contains(s, "mistyped") != tt.warns {
				t.Errorf("preset %s: %s", tt.preset, s)
			}
		})
	}
}

// A rendition is behind the tracks that it is made of, and one that has not begun counts.
func TestLag(t *testing.T) {
	bubble(t, template(), func(w *world, _, _ func() string) {
		pub, err := w.hub.Publish(key, &w.app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		goOn := func(kinds ...av.Kind) {
			for range 90 {
				at += 100
				time.Sleep(100 * time.Millisecond)
				for _, k := range kinds {
					p := frame(k, true)
					p.DTS = at
					if err := pub.WritePacket(p); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		s, begins := pub.Stream(), int64(0)
		lag := func(what string, video, audio bool, lastVideo, lastAudio, want int64) {
			r := &rendition{output: &output{video: video, audio: audio}}
			r.last[0].Store(lastVideo)
			r.last[1].Store(lastAudio)
			src := &source{s: s, begins: begins, outs: []*rendition{r}}
			if got := src.lag(); got != want {
				t.Errorf("%s: %d ms behind, want %d", what, got, want)
			}
		}
		goOn(av.Video, av.Audio)
		_, a := s.Times()
		goOn(av.Video)
		lag("sound of a mute source", false, true, -1, a, 0)
		goOn(av.Video, av.Audio)
		v, _ := s.Times()
		goOn(av.Audio)
		lag("picture of a source that stands still", true, false, v, -1, 0)
		goOn(av.Video, av.Audio)
		v, a = s.Times()
		lag("picture", true, true, v-7000, a, 7000)
		lag("sound", true, true, v, a-9000, 9000)
		begins = v - 8000
		lag("nothing yet", true, true, v-20000, -1, max(v, a)-begins)
		pub.End(stream.EndClosed)
	})
}
