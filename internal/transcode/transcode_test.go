package transcode

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/callback"
	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// TestMain is also the program that locks ffmpeg in, and an ffmpeg that is broken.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ffmpeg.SandboxArg {
		if err := ffmpeg.Sandbox(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(125)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && (os.Args[1] == "-hide_banner" || os.Args[1] == "-nostdin") {
		fake(os.Args[1:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var key = stream.Key{Space: "default", App: "live", Name: "s1"}

// world is a hub with a Transcoder and the real ffmpeg.
type world struct {
	*Transcoder
	app   policy.App
	quiet bool // it notes the times of the source, and nothing else

	mu   sync.Mutex
	more sync.Cond
	seen map[string][]av.Packet // of each stream
}

func newWorld(t testing.TB, o Options, templates ...policy.Transcode) *world {
	t.Helper()
	path, err := exec.LookPath("ffmpeg")
	if err != nil {
		t.Skip("there is no ffmpeg here")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOf(t, ffmpeg.New(ffmpeg.Options{Path: path, Self: self}), o, templates...)
}

func newWorldOf(t testing.TB, tool *ffmpeg.Tool, o Options, templates ...policy.Transcode) *world {
	t.Helper()
	hub := stream.NewHub(stream.Options{MaxPacketRate: 1 << 20, MaxByteRate: 1 << 30, ReaderBytes: 1 << 30})
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	w := &world{Transcoder: New(hub, tool, o), app: policy.DefaultApp("live"), seen: make(map[string][]av.Packet)}
	w.more.L = &w.mu
	w.pace.nice = 5 // tests share their machine
	hub.Follow(w.watch)
	w.app.MaxLead, w.app.Transcode = 0, templates
	t.Cleanup(func() {
		if err := hub.Close(context.Background()); err != nil {
			t.Error(err)
		}
		tool.Close()
	})
	return w
}

// clip makes four seconds of film, with a key frame each second.
func clip(t *testing.T, options string) []av.Packet {
	t.Helper()
	return shoot(t, "testsrc2=size=640x360:rate=30", 4, options)
}

const h264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 2 -c:a aac"

// publish publishes a clip and ends.
func (w *world) publish(t testing.TB, list []av.Packet, push stream.Push) *stream.Publication {
	t.Helper()
	pub, err := w.hub.Publish(key, &w.app, push)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if err := pub.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	return pub
}

// watch notes all that comes of the source and of renditions.
func (w *world) watch(_ context.Context, pub *stream.Publication, r *stream.Reader) {
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return
		}
		w.mu.Lock()
		name := pub.Stream().Key().Name
		switch {
		case !w.quiet:
			w.seen[name] = append(w.seen[name], p)
		case pub.Stream().Key() == key:
			p.Tag, p.Frame = nil, nil
			w.seen[name] = append(w.seen[name], p)
		}
		w.more.Broadcast()
		w.mu.Unlock()
	}
}

// collect returns what there is of a rendition up to the first picture at or
// after ms. It plays the rendition, if that is what starts it.
func (w *world) collect(t testing.TB, name string, ms int64) []av.Packet {
	t.Helper()
	if w.hub.Await(t.Context(), stream.Key{Space: key.Space, App: key.App, Name: name}) == nil {
		t.Fatalf("%s: there is no such stream; %+v", name, w.Status())
	}
	late := false
	defer time.AfterFunc(time.Minute, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		late = true
		w.more.Broadcast()
	}).Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if late {
			t.Fatalf("%s: no picture at %d ms; %+v", name, ms, w.Status())
		}
		for i, p := range w.seen[name] {
			if p.Kind == av.Video && !p.Config && p.DTS >= ms {
				return w.seen[name][:i+1]
			}
		}
		w.more.Wait()
	}
}

// frames returns the times of a track's frames, or of its key frames only.
func frames(list []av.Packet, kind av.Kind, keys bool) (times []int64) {
	for _, p := range list {
		if p.Kind == kind && !p.Config && (p.Key || !keys) {
			times = append(times, p.PTS())
		}
	}
	return times
}

// The renditions of a stream have the size, rate, codec and times that they
// should, and key frames at the same times.
func TestRenditions(t *testing.T) {
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 180, 300_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.FrameRate, r.BitRate = "_low", 90, 15, 100_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyVideo }),
		rung(func(r *policy.Rendition) {
			r.Suffix, r.Codec, r.ShortSide, r.BitRate = "_hevc", policy.VideoHEVC, 90, 100_000
		}),
	))
	film := clip(t, h264)
	begin := slices.IndexFunc(film, func(p av.Packet) bool { return p.DTS >= 900 })
	pub := w.publish(t, film[:begin], stream.Push{})
	w.await(t, key, "running")
	for _, p := range film[begin:] {
		if err := pub.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	var keyTimes []int64
	for _, tt := range []struct {
		name          string
		codec         av.Codec
		width, height int
		frames        int // until 3.7 s
		apart         int64
	}{
		{"s1_a", av.H264, 320, 180, 112, 2000},
		{"s1_low", av.H264, 160, 90, 56, 2000},
		{"s1_copy", av.H264, 640, 360, 112, 1000},
		{"s1_hevc", av.HEVC, 160, 90, 112, 2000},
	} {
		list := w.collect(t, tt.name, 3700)
		video, audio := w.hub.Find(stream.Key{Space: "default", App: "live", Name: tt.name}).Configs()
		if video == nil || audio == nil {
			t.Fatalf("%s has video %v and audio %v", tt.name, video, audio)
		}
		info, err := av.ParseVideoInfo(video.Codec, video.Frame)
		if err != nil || video.Codec != tt.codec || info.Width != tt.width || info.Height != tt.height {
			t.Errorf("%s: %v %dx%d, %v; want %v %dx%d", tt.name, video.Codec, info.Width, info.Height, err, tt.codec, tt.width, tt.height)
		}
		keys := frames(list, av.Video, true)
		for i := 1; i < len(keys); i++ {
			if d := keys[i] - keys[i-1]; d < tt.apart-40 || d > tt.apart+40 {
				t.Errorf("%s: key frames at %v, want them %d ms apart", tt.name, keys, tt.apart)
			}
		}
		if tt.apart == 2000 {
			if keyTimes == nil {
				keyTimes = keys
			}
			for i := range min(len(keys), len(keyTimes)) {
				if d := keys[i] - keyTimes[i]; d < -34 || d > 34 {
					t.Errorf("%s: key frames at %v, others at %v", tt.name, keys, keyTimes)
				}
			}
		}
		if n := len(frames(list, av.Video, false)); n < tt.frames-2 || n > tt.frames+4 {
			t.Errorf("%s: %d pictures until 3.7 s, want %d", tt.name, n, tt.frames)
		}
		if len(frames(list, av.Audio, false)) == 0 {
			t.Errorf("%s has no sound", tt.name)
		}
		zero, origin, ok := w.hub.Find(key).Clock()
		z, o, k := w.hub.Find(stream.Key{Space: "default", App: "live", Name: tt.name}).Clock()
		if !ok || !k || !zero.Equal(z) || o != origin {
			t.Errorf("%s has another clock than its source", tt.name)
		}
	}
	for i, o := range w.await(t, key, "running").Outputs {
		if want := []time.Duration{2 * time.Second, 2 * time.Second, 0, 2 * time.Second}[i]; o.GOP != want || o.Width == 0 || !o.Live {
			t.Errorf("status %+v, want a GOP of %v", o, want)
		}
	}
	variants, all := w.Ladder(w.hub.Find(key))
	if len(variants) != 5 || all || variants[0].URI != "s1" || variants[1].URI != "s1_a" || variants[1].Width != 320 ||
		!strings.HasPrefix(variants[1].Codecs, "avc1.4d") || !strings.HasSuffix(variants[1].Codecs, ",mp4a.40.2") {
		t.Errorf("Ladder = %+v, %v", variants, all)
	}
	pub.End(stream.EndClosed)
}

// A template of players starts with the first one, who waits, and again for the
// next.
func TestPlayTrigger(t *testing.T) {
	tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
	tpl.Trigger = policy.TranscodePlay
	w := newWorld(t, Options{}, *tpl)
	if s := w.hub.Await(t.Context(), stream.Key{Space: "default", App: "live", Name: "s1_a"}); s != nil {
		t.Error("a rendition of nothing")
	}
	pub := w.publish(t, clip(t, h264), stream.Push{})
	w.await(t, key, "idle")
	if s := w.hub.Await(t.Context(), stream.Key{Space: "default", App: "live", Name: "s1_b"}); s != nil {
		t.Error("a rendition that no template has")
	}
	w.collect(t, "s1_a", 3700)
	pub.End(stream.EndClosed)
}

// A template of players stops when the last of them has been gone for a while, though HLS
// has it packaged always and somebody records it, and starts again for the next one, who may
// come before the old rendition is forgotten. A player of the ladder starts it, too.
func TestPlayIdle(t *testing.T) {
	tpl := template(rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 100_000 }))
	tpl.Trigger, tpl.Idle = policy.TranscodePlay, time.Second
	w := newWorld(t, Options{}, *tpl)
	w.app.HLS.Mode, w.app.Hold = policy.HLSAlways, time.Hour // and w.watch reads it as a recorder does
	var packagers sync.WaitGroup
	defer packagers.Wait()
	w.hub.OnPublish(func(ctx context.Context, s *stream.Stream) { // as the server of HLS does
		if s.AwaitPublication(ctx, nil) == nil || s.App().HLS.Mode != policy.HLSAlways {
			return
		}
		r := s.NewReader()
		defer r.Close()
		defer context.AfterFunc(ctx, r.Close)()
		for err := error(nil); err == nil; {
			_, err = r.ReadPacket()
		}
	})
	pub, _, stop := w.live(t, key, clip(t, h264), stream.Push{})
	defer stop()
	low := stream.Key{Space: key.Space, App: key.App, Name: "s1_a"}
	w.await(t, key, "idle")
	for round := range 2 {
		s := w.hub.Await(t.Context(), low)
		if s == nil {
			t.Fatal("no rendition comes")
		}
		until(t, 20*time.Second, "live", s.Live)
		p := s.NewReader()
		until(t, 10*time.Second, "two seconds on", func() bool { return s.Time() > pub.Stream().Time()-1000 })
		from := s.Time()
		until(t, 10*time.Second, "two seconds on", func() bool { return s.Time() > from+2000 })
		if st := w.await(t, key, "running"); len(st.Templates) != 1 {
			t.Errorf("round %d: it is played, and %+v", round, st)
		}
		p.Close()
		until(t, 15*time.Second, "idle", func() bool { return w.Status()[0].State == "idle" })
		if n := children(t, "ffmpeg"); len(n) != 0 {
			t.Errorf("round %d: nobody plays, and ffmpeg runs", round)
		}
	}
	w.Play(pub.Stream())
	w.await(t, key, "running")
}

// Renditions fire no callbacks and are neither recorded nor snapshotted, unless their
// template says so, whether the callbacks are the app's or the space's.
func TestNothingUnlessAsked(t *testing.T) {
	cb := &policy.Callback{URL: "https://example.com/cb", Alerts: true}
	sp := policy.Space{Callback: cb}
	for _, asked := range []bool{false, true} {
		for _, of := range []string{"space", "app"} {
			tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
			tpl.Callbacks, tpl.Record, tpl.Snapshot = asked, asked, asked
			w := newWorld(t, Options{}, *tpl)
			w.app.Record.Mode, w.app.Snapshot.Enabled = policy.RecordAutomatic, true
			if of == "app" {
				w.app.Callback = cb
			}
			pub := w.publish(t, clip(t, h264), stream.Push{})
			w.collect(t, "s1_a", 1000)
			app := w.hub.Find(stream.Key{Space: key.Space, App: key.App, Name: "s1_a"}).App()
			start, end := callback.OfPush(&sp, app)
			if alert := callback.OfAlert(&sp, app); (start != nil) != asked || (end != nil) != asked || (alert != nil) != asked {
				t.Errorf("callbacks of the %s, asked for: %v: start %v, end %v, alert %v", of, asked, start, end, alert)
			}
			if (app.Record.Mode == policy.RecordAutomatic) != asked || app.Snapshot.Enabled != asked {
				t.Errorf("asked for: %v: record %v, snapshot %v", asked, app.Record.Mode, app.Snapshot.Enabled)
			}
			if start, _ := callback.OfPush(&sp, pub.App()); start == nil {
				t.Error("the source has no callback any more")
			}
			pub.End(stream.EndClosed)
		}
	}
}

// A push may ask for templates by a parameter; and a node that is full says so.
func TestPresetAndLimit(t *testing.T) {
	tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
	tpl.Name, tpl.Trigger = "small", policy.TranscodeParam
	w := newWorld(t, Options{Max: 1}, *tpl)
	push := stream.Push{Client: event.Client{Params: []event.Param{{Name: "preset", Value: "other,small"}}}}
	film := clip(t, h264)
	pub := w.publish(t, film, push)
	w.await(t, key, "running")
	second := stream.Key{Space: "default", App: "live", Name: "s2"}
	other, err := w.hub.Publish(second, &w.app, push)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range film {
		if err := other.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	w.await(t, second, "refused")
	pub.End(stream.EndClosed)
	other.End(stream.EndClosed)
}

// await waits for a state of a source.
func (w *world) await(t testing.TB, key stream.Key, state string) Status {
	t.Helper()
	for {
		for _, st := range w.Status() {
			if st.Source == key && st.State == state {
				return st
			}
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%v does not come to be %s", key, state)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// When ffmpeg dies its renditions come back, and their time goes on.
func TestKilledChild(t *testing.T) {
	w := newWorld(t, Options{}, *template(rung(func(r *policy.Rendition) { r.ShortSide = 90 })))
	film := clip(t, h264)
	pub := w.publish(t, film, stream.Push{})
	w.collect(t, "s1_a", 3700)
	for round := range int64(3) {
		src := w.source(pub.Stream())
		w.await(t, key, "running")
		src.mu.Lock()
		src.proc.Kill()
		src.mu.Unlock()
		for {
			if st := w.Status(); len(st) == 1 && st[0].Restarts == round+1 {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		end := pub.Stream().Info().Video.Frames
		for _, p := range film {
			p.DTS += (round + 1) * 4000
			if err := pub.WritePacket(p); err != nil {
				t.Fatal(err)
			}
		}
		if pub.Stream().Info().Video.Frames == end {
			t.Fatal("the source stands still")
		}
		last := int64(-1)
		for _, at := range frames(w.collect(t, "s1_a", (round+1)*4000+3000), av.Video, false) {
			if at <= last {
				t.Errorf("time goes from %d to %d", last, at)
			}
			last = at
		}
	}
	pub.End(stream.EndClosed)
}
