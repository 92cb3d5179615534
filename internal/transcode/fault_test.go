package transcode

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// fake is an ffmpeg that does what a broken one might. What it does is said by the
// preset of the encoder.
func fake(args []string) {
	switch args[len(args)-1] {
	case "-version":
		fmt.Println("ffmpeg version 5.1-fake Copyright")
		return
	case "-encoders", "-decoders":
		fmt.Println(" -------\n V....D libx264  H.264\n V....D h264_nvenc  H.264")
		return
	}
	i := slices.Index(args, "-preset:v")
	if !slices.Contains(args, "-progress") { // the encoder is tried
		io.Copy(io.Discard, os.Stdin)
		return
	}
	switch args[i+1] {
	case "ultrafast": // it takes all and gives nothing
		io.Copy(io.Discard, os.Stdin)
	case "superfast": // it takes nothing
		select {}
	case "veryfast", "p4": // of h264_nvenc
		fmt.Fprintln(os.Stderr, "this goes wrong at once")
		os.Exit(3)
	case "faster": // it is loud
		for b := []byte(strings.Repeat("flood ", 1000)); ; {
			os.Stderr.Write(b)
		}
	case "medium": // of two renditions it makes one
		io.Copy(os.Stdout, os.Stdin)
	case "fast": // it says what no demuxer takes
		for b := []byte(strings.Repeat("junk", 1000)); ; {
			if _, err := os.Stdout.Write(b); err != nil {
				return
			}
		}
	}
}

// children returns the processes of that name which this one has started.
func children(t *testing.T, name string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f)
		// pid (name) state parent …
		_, rest, _ := strings.Cut(string(b), "(")
		comm, rest, _ := strings.Cut(rest, ") ")
		if fields := strings.Fields(rest); len(fields) > 2 && fields[1] == strconv.Itoa(os.Getpid()) && (name == "" || comm == name) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// descriptors counts the files that this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// live publishes a film over and over, in real time, until the returned function is called. lag is
// the longest that a packet had to wait.
func (w *world) live(t *testing.T, key stream.Key, film []av.Packet, push stream.Push) (pub *stream.Publication, lag *atomic.Int64, stop func()) {
	t.Helper()
	pub, err := w.hub.Publish(key, &w.app, push)
	if err != nil {
		t.Fatal(err)
	}
	length := film[len(film)-1].DTS + 33
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	lag = new(atomic.Int64)
	done.Go(func() { // ends with ctx
		start := time.Now()
		for round := int64(0); ; round++ {
			for _, p := range film {
				p.DTS += round * length
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Until(start.Add(time.Duration(p.DTS) * time.Millisecond))):
				}
				before := time.Now()
				if pub.WritePacket(p) != nil {
					return
				}
				lag.Store(max(lag.Load(), int64(time.Since(before))))
			}
		}
	})
	return pub, lag, func() { cancel(); done.Wait(); pub.End(stream.EndClosed) }
}

// until waits for something, for so long.
func until(t testing.TB, patience time.Duration, what string, is func() bool) time.Time {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: not %s", patience, what)
		}
	}
	return time.Now()
}

// F43, F44: ffmpeg is killed or stopped in mid stream, again and again. The source does not notice, the
// rendition is back within 3 s of the moment at which that was noticed, and nothing is left behind. With
// WEIR_LONG it is 50 times.
func TestFaultCycles(t *testing.T) {
	cycles := 4
	if os.Getenv("WEIR_LONG") != "" {
		cycles = 50
	}
	w := newWorld(t, Options{}, *template(rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 200_000 })))
	w.quiet = true
	w.pace.sound, w.pace.stall = 0, 3*time.Second // a stop is noticed soon, and nothing is held against who fails
	film := clip(t, h264)
	pub, lag, stop := w.live(t, key, film, stream.Push{})
	defer stop()
	low := stream.Key{Space: key.Space, App: key.App, Name: "s1_a"}
	newest := func() int64 {
		if s := w.hub.Find(low); s != nil {
			return s.Time()
		}
		return 0
	}
	restarts := func() int64 { return w.Stats().Restarts }
	until(t, 30*time.Second, "there", func() bool { return newest() > 500 })
	var goroutines, files int
	var memory uint64
	var worst time.Duration
	for cycle := range cycles {
		if cycle == 2 { // after a first time of each
			goroutines, files, memory = runtime.NumGoroutine(), descriptors(t), heap()
		}
		before := restarts()
		pids := children(t, "ffmpeg")
		if len(pids) != 1 {
			t.Fatalf("cycle %d: ffmpeg is there %d times", cycle, len(pids))
		}
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[cycle%2]
		if err := syscall.Kill(pids[0], signal); err != nil {
			t.Fatal(err)
		}
		noticed := until(t, 20*time.Second, "noticed", func() bool { return restarts() > before })
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pids[0])); err == nil {
			t.Errorf("cycle %d: the process is still there", cycle)
		}
		was := pub.Stream().Time()
		back := until(t, 30*time.Second, "back", func() bool { return newest() >= was }).Sub(noticed)
		if worst = max(worst, back); back > 3*time.Second {
			t.Errorf("cycle %d: the rendition is back after %v, want 3 s", cycle, back)
		}
	}
	until(t, 5*time.Second, "as few goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	until(t, 5*time.Second, "as few files", func() bool { return descriptors(t) <= files })
	if n := len(children(t, "")); n != 1 {
		t.Errorf("%d children are left, want the ffmpeg that runs", n)
	}
	grown := int64(heap()) - int64(memory)
	if grown > 4<<20 {
		t.Errorf("%d bytes more of memory", grown)
	}
	t.Logf("%d cycles: the rendition was back after %v at most; a packet of the source waited %v at most; %d bytes more of memory", cycles, worst, time.Duration(lag.Load()), grown)
	if d := time.Duration(lag.Load()); d > time.Second {
		t.Errorf("a packet of the source waited %v", d)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := int64(-1)
	for _, p := range w.seen["s1"] {
		if p.Kind == av.Video && !p.Config {
			if last >= 0 && p.DTS-last > 200 {
				t.Errorf("the source has nothing from %d to %d ms", last, p.DTS)
			}
			last = p.DTS
		}
	}
}

// heap returns how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// F43, F44: an ffmpeg that does nothing right. The source goes on; the owner is told; it is tried again, later and
// later; and nothing is left when the stream is over.
func TestBrokenChild(t *testing.T) {
	film := clip(t, h264)
	for _, tt := range []struct{ preset, reason string }{
		{"ultrafast", "made no progress"}, // hangs
		{"superfast", "made no progress"}, // deaf
		{"veryfast", "goes wrong"},        // crashes
		{"faster", "made no progress"},    // floods
		{"fast", "FLV"},                   // junk
		{"medium", "no progress with"},    // one of two hangs
	} {
		t.Run(tt.preset, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			alerts := make(map[string]int)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }), rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide = "_b", 90 }))
			tpl.Preset = tt.preset
			w := newWorldOf(t, ffmpeg.New(ffmpeg.Options{Path: self, Self: self, Log: slog.New(slog.DiscardHandler)}), Options{
				Raise: func(_ *stream.Publication, alert, text string, _, _ float64) {
					mu.Lock()
					defer mu.Unlock()
					alerts[alert]++
					if !strings.Contains(text, tt.reason) {
						t.Errorf("alert %s: %s; want %s", alert, text, tt.reason)
					}
				},
			}, *tpl)
			w.quiet = true
			w.pace.stall = 700 * time.Millisecond
			pub, lag, stop := w.live(t, key, film, stream.Push{})
			defer stop()
			until(t, 30*time.Second, "failing", func() bool {
				st := w.Status()
				return len(st) == 1 && st[0].State == "failing" && st[0].Restarts >= 3 && strings.Contains(st[0].Reason, tt.reason)
			})
			mu.Lock()
			if alerts[alertFailing] == 0 || len(alerts) != 1 {
				t.Errorf("alerts %v", alerts)
			}
			mu.Unlock()
			if at := pub.Stream().Time(); at < 1000 || lag.Load() > int64(time.Second) {
				t.Errorf("the source is at %d ms, a packet of it waited %v", at, time.Duration(lag.Load()))
			}
		})
	}
}

// H72, H87: what a stream or a template is called, and what a stranger sends, gets no further than
// the child: each of them has one, whose failure is its own, and the rendition of who is honest goes on beside them.
func TestHostileSource(t *testing.T) {
	w := newWorld(t, Options{Max: 8}, *template(rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 200_000 })))
	w.quiet = true
	w.pace.stall, w.pace.settle = 6*time.Second, time.Hour // with so many on this machine nobody is slow
	film := clip(t, h264)
	source, lag, stop := w.live(t, stream.Key{Space: key.Space, App: key.App, Name: "good"}, film, stream.Push{})
	defer stop()
	good := stream.Key{Space: key.Space, App: key.App, Name: "good_a"}
	until(t, 20*time.Second, "there", func() bool { s := w.hub.Find(good); return s != nil && s.Time() > 1000 })
	config := slices.IndexFunc(film, func(p av.Packet) bool { return p.Config && p.Kind == av.Video })
	avc, err := av.ParseAVCConfig(film[config].Frame)
	if err != nil {
		t.Fatal(err)
	}
	avc.SPS = [][]byte{largeSPS()}
	large := avc.Append(nil)
	if info, err := av.ParseVideoInfo(av.H264, large); err != nil || info.Width != 16384 || info.Height != 16384 {
		t.Fatalf("the large picture has %dx%d, %v", info.Width, info.Height, err)
	}
	// One that says it has 16384 x 16384 pixels; whose frames are noise; whose key frames are; and one whose name
	// is a command line.
	for _, name := range []string{"bomb", "noise", "keys", "a.-i.file.b"} {
		evil := slices.Clone(film)
		for i := range evil {
			p := &evil[i]
			if p.Kind != av.Video {
				continue
			}
			body := slices.Clone(p.Frame)
			switch {
			case name == "bomb" && p.Config:
				body = large
			case name == "noise" && !p.Config, name == "keys" && p.Key:
				for j := 5; j < len(body); j++ {
					body[j] = byte(j * j)
				}
			}
			tag := append(slices.Clone(p.Tag[:len(p.Tag)-len(p.Frame)]), body...)
			p.Tag, p.Frame = tag, tag[len(tag)-len(body):]
		}
		_, _, stop := w.live(t, stream.Key{Space: key.Space, App: key.App, Name: name}, evil, stream.Push{})
		defer stop()
	}
	status := func(name string) (st Status) {
		for _, st = range w.Status() {
			if st.Source.Name == name {
				return st
			}
		}
		return Status{}
	}
	for _, name := range []string{"bomb", "noise"} { // of which nothing comes
		until(t, time.Minute, name+" failed", func() bool { return status(name).Restarts > 0 })
		t.Logf("%s: %+v", name, status(name))
	}
	for _, name := range []string{"keys", "a.-i.file.b"} {
		until(t, time.Minute, name+" has an ffmpeg", func() bool { st := status(name); return st.Restarts > 0 || st.Outputs[0].Live })
		t.Logf("%s: %+v", name, status(name))
	}
	if st := status("good"); st.State != "running" || st.Restarts != 0 || !st.Outputs[0].Live {
		t.Errorf("the honest one: %+v", st)
	}
	now := source.Stream().Time()
	until(t, 20*time.Second, "as far as its source", func() bool { return w.hub.Find(good).Time() >= now })
	if lag.Load() > int64(time.Second) {
		t.Errorf("a packet waited %v", time.Duration(lag.Load()))
	}
}

// slowest returns where the rendition is that is farthest behind; 0: there is one that has not begun.
func (src *source) slowest() int64 {
	src.mu.Lock()
	defer src.mu.Unlock()
	if len(src.outs) == 0 || slices.ContainsFunc(src.outs, func(o *rendition) bool { return o.newest.Load() == 0 }) {
		return 0
	}
	return src.s.Time() - src.lag()
}

// strain publishes a film over and over until the returned function is called, and is as far ahead of the slowest
// rendition, in ms, as wanted: to the Transcoder that is a machine that does not keep up, whatever this one can do.
func (w *world) strain(t *testing.T, key stream.Key, film []av.Packet, ahead *atomic.Int64) (pub *stream.Publication, stop func()) {
	t.Helper()
	pub, err := w.hub.Publish(key, &w.app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var publisher sync.WaitGroup
	publisher.Go(func() { // ends with ctx
		src := w.source(pub.Stream())
		for round := int64(0); ; round++ {
			for _, p := range film {
				p.DTS += round * 4000
				for pub.Stream().Time() > 1000 && ctx.Err() == nil {
					at := src.slowest()
					if at > 0 && p.DTS < at+ahead.Load() {
						break
					}
					if time.Sleep(4 * time.Millisecond); at == 0 {
						break // it needs more to begin with
					}
				}
				if ctx.Err() != nil || pub.WritePacket(p) != nil {
					return
				}
			}
		}
	})
	return pub, func() { cancel(); publisher.Wait(); pub.End(stream.EndClosed) }
}

// largeSPS is a sequence parameter set of the baseline profile for pictures of
// 1024 by 1024 macroblocks (Rec. ITU-T H.264, 7.3.2.1.1).
func largeSPS() []byte {
	var bits strings.Builder
	ue := func(v int) { // Exp-Golomb (9.1)
		s := strconv.FormatInt(int64(v)+1, 2)
		bits.WriteString(strings.Repeat("0", len(s)-1) + s)
	}
	ue(0) // seq_parameter_set_id
	ue(0) // log2_max_frame_num_minus4
	ue(2) // pic_order_cnt_type
	ue(1) // max_num_ref_frames
	bits.WriteString("0")
	ue(1023)                  // pic_width_in_mbs_minus1
	ue(1023)                  // pic_height_in_map_units_minus1
	bits.WriteString("11001") // frame_mbs_only, direct_8x8_inference, no cropping, no VUI, the end
	text := bits.String()
	text += strings.Repeat("0", (8-len(text)%8)%8)
	b := []byte{0x67, 66, 0, 52}
	for ; text != ""; text = text[8:] {
		n, _ := strconv.ParseUint(text[:8], 2, 8)
		b = append(b, byte(n))
	}
	return b
}

// F46: a machine that does not keep up says so, and gives up its largest rendition where it may; others have to wait
// meanwhile, and are told; when it is better all come back.
func TestOverload(t *testing.T) {
	var mu sync.Mutex
	alerts := make(map[string]bool) // by stream and name, that are raised
	name := func(p *stream.Publication, alert string) string { return p.Stream().Key().Name + " " + alert }
	tpl := template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 180, 300_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.BitRate = "_low", 90, 100_000 }),
	)
	tpl.Shed = true
	w := newWorld(t, Options{
		Max: 2,
		Raise: func(p *stream.Publication, alert, _ string, _, _ float64) {
			mu.Lock()
			defer mu.Unlock()
			alerts[name(p, alert)] = true
		},
		Clear: func(p *stream.Publication, alert string) {
			mu.Lock()
			defer mu.Unlock()
			delete(alerts, name(p, alert))
		},
	}, *tpl)
	raised := func(alert string) bool {
		mu.Lock()
		defer mu.Unlock()
		return alerts[alert]
	}
	w.quiet = true
	w.pace.settle, w.pace.slow, w.pace.restore = 3*time.Second, 2, 2*time.Second
	film := clip(t, h264)
	var ahead atomic.Int64
	ahead.Store(800)
	pub, stop := w.strain(t, key, film, &ahead)
	defer stop()
	status := func() Status { return w.Status()[0] }
	w.await(t, key, "running")
	until(t, 20*time.Second, "live", func() bool { s := status(); return s.State == "running" && s.Outputs[0].Live && s.Outputs[1].Live })
	if raised("s1 transcode_slow") {
		t.Error("it is slow from the beginning")
	}
	ahead.Store(9000)
	until(t, 30*time.Second, "given up", func() bool { s := status(); return s.Outputs[0].Shed && !s.Outputs[1].Shed })
	if !raised("s1 transcode_slow") || w.Stats().Shed != 1 {
		t.Errorf("alerts %v, %+v", alerts, w.Stats())
	}
	if v, _ := w.Ladder(pub.Stream()); len(v) != 2 || v[0].URI != "s1" || v[1].URI != "s1_low" {
		t.Errorf("the ladder has a rendition that is not made: %+v", v)
	}
	// Meanwhile nobody else begins.
	second := stream.Key{Space: key.Space, App: key.App, Name: "s2"}
	_, _, end := w.live(t, second, film, stream.Push{})
	defer end()
	if st := w.await(t, second, "refused"); !strings.Contains(st.Reason, "does not keep up") || !raised("s2 transcode_refused") {
		t.Errorf("the second stream: %+v, %v", st, alerts)
	}
	until(t, 30*time.Second, "live", func() bool { s := status(); return s.Outputs[1].Live })
	ahead.Store(800)
	until(t, 30*time.Second, "better", func() bool { return !raised("s1 transcode_slow") })
	until(t, 30*time.Second, "complete", func() bool { s := status(); return s.State == "running" && !s.Outputs[0].Shed && s.Outputs[0].Live })
	w.await(t, second, "running")
	if raised("s2 transcode_refused") {
		t.Error("the second stream is still refused")
	}
}
