package stream

import (
	"math"
	"net"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// camera publishes picture and sound in real time, which is a bubble's.
type camera struct {
	t         *testing.T
	p         *Publication
	dts       float64 // of the picture, ms
	frame     int
	gop       int     // frames
	soundFast float64 // by which the sound's clock runs fast
	sound     float64 // ms
	size      int     // bytes of a frame more than a few
	noSound   bool
}

func (c *camera) run(d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(40 * time.Millisecond) {
		v := video(int64(c.dts), c.gop > 0 && c.frame%c.gop == 0, "frame")
		v.Tag = append(v.Tag, make([]byte, c.size)...)
		write(c.t, c.p, v)
		if !c.noSound {
			write(c.t, c.p, audio(int64(c.sound), "sound"), audio(int64(c.sound+20), "sound"))
		}
		c.frame++
		c.dts += 40
		c.sound += 40 * (1 + c.soundFast)
	}
}

func TestWhatIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p, err := h.Publish(key, app(), Push{Sequence: "seq", Session: "ses"})
		if err != nil {
			t.Fatal(err)
		}
		c := &camera{t: t, p: p, gop: 50, size: 4000}
		write(t, p, config(av.Audio, "\x12\x10"))
		c.run(21 * time.Second)
		i := p.Stream().Info()
		if i.Video.Measured != 25 || i.Video.GOP != 50 || i.Video.KeyInterval != 2*time.Second || i.Video.Frames != 525 || i.Audio.Frames != 1050 ||
			i.Audio.Channels != 2 || i.Audio.SampleRate != 44100 || i.Push.Sequence != "seq" || i.Pushed != p.Start() || i.Jumps != 0 || i.Drift != 0 || i.Lead != 0 {
			t.Errorf("Info = %+v", i)
		}
		if want := int64(25 * 4000 * 8); i.BitRate < want || i.BitRate > want*105/100 {
			t.Errorf("bit rate %d, want a little over %d", i.BitRate, want)
		}
		fine, tens := p.Stream().Timeline()
		if len(fine) != 21 || len(tens) != 2 {
			t.Fatalf("%d seconds and %d tens in the time line, want 21 and 2", len(fine), len(tens))
		}
		ten := tens[1]
		want := Sample{Start: p.Start().Add(10 * time.Second), VideoFrames: 250, AudioFrames: 500, KeyFrames: 5, KeyInterval: 2 * time.Second, Bytes: ten.Bytes}
		if diff := cmp.Diff(want, ten); diff != "" {
			t.Errorf("second ten (-want +got):\n%s", diff)
		}
		sum := int64(0)
		for _, s := range fine[10:20] {
			sum += s.Bytes
		}
		if sum != ten.Bytes {
			t.Errorf("ten seconds have %d bytes, and together %d", sum, ten.Bytes)
		}

		// The publisher's clock jumps, once for both tracks, and twice for one.
		c.dts, c.sound = c.dts+3.6e6, c.sound+3.6e6
		c.run(2 * time.Second)
		c.sound -= 1000
		c.run(2 * time.Second)
		if i := p.Stream().Info(); i.Jumps < 2 {
			t.Errorf("%d jumps, want 2 or more", i.Jumps)
		}
		n := p.Counters()
		if n.Jumps != p.Stream().Info().Jumps || n.VideoFrames != 625 || n.AudioFrames != 1250 || n.KeyFrames != 13 || n.VideoCodec != "h264" || n.AudioCodec != "aac" {
			t.Errorf("Counters = %+v", n)
		}
	})
}

// A publication's counters are its own, and stay when it has ended.
func TestCounters(t *testing.T) {
	var ended []event.Counters
	h := newHub(t, Options{Ended: func(p *Publication) { ended = append(ended, p.Counters()) }})
	p := publish(t, h, app())
	write(t, p, video(0, true, "K"), video(40, false, "v"))
	p.End(EndClosed)
	again := publish(t, h, app())
	write(t, again, audio(0, "a"))
	again.End(EndClosed)
	size := int64(len(video(0, true, "K").Tag) + len(video(40, false, "v").Tag))
	want := []event.Counters{
		{Bytes: size, VideoFrames: 2, KeyFrames: 1, VideoCodec: "h264"},
		{Bytes: int64(len(audio(0, "a").Tag)), AudioFrames: 1, AudioCodec: "aac"},
	}
	if diff := cmp.Diff(want, ended); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got := p.Counters(); got != want[0] {
		t.Errorf("later they are %+v", got)
	}
}

func TestDrift(t *testing.T) {
	for _, tt := range []struct {
		name string
		fast float64
		want time.Duration // after two minutes
	}{
		{"none", 0, 0},
		{"sound fast", 0.005, 570 * time.Millisecond},
		{"sound slow", -0.005, -570 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := publish(t, newHub(t, Options{}), app())
				c := &camera{t: t, p: p, gop: 50, soundFast: tt.fast}
				c.sound = 700 // an encoder may send one ahead of the other
				c.run(2 * time.Minute)
				got := p.Stream().Info().Drift
				if (got - tt.want).Abs() > 20*time.Millisecond {
					t.Errorf("drift is %v, want about %v", got, tt.want)
				}
				// The network holds both up, and brings them at once: that is no drift.
				time.Sleep(2 * time.Second)
				for range 50 {
					write(t, p, video(int64(c.dts), false, "late"), audio(int64(c.sound), "late"), audio(int64(c.sound+20), "late"))
					c.dts += 40
					c.sound += 40 * (1 + c.soundFast)
				}
				c.run(3 * time.Second)
				if now := p.Stream().Info().Drift; (now - got).Abs() > 50*time.Millisecond {
					t.Errorf("after a stall the drift is %v, and was %v", now, got)
				}
			})
		})
	}
}

// A publisher that sends too slowly falls behind real time.
func TestLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publish(t, newHub(t, Options{}), app())
		for i := range 500 {
			write(t, p, video(int64(40*i), i%50 == 0, "v"))
			time.Sleep(44 * time.Millisecond)
		}
		if got := p.Stream().Info().Lead; got > -1900*time.Millisecond || got < -2100*time.Millisecond {
			t.Errorf("lead is %v, want about -2s", got)
		}
	})
}

func TestQuality(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publish(t, newHub(t, Options{}), app())
		c := &camera{t: t, p: p, gop: 50, size: 10_000}
		c.run(5 * time.Second)
		if q := p.Quality(time.Now()); q.BitRate != -1 || q.Median != 0 || !q.HasVideo {
			t.Errorf("after 5 s: %+v", q)
		}
		c.run(75 * time.Second)
		q := p.Quality(time.Now())
		if want := int64(25 * 10_000 * 8); q.Median < want || q.Median > want*105/100 || q.BitRate < want || q.Drift != 0 || q.Jumps != 0 || q.KeyInterval != 2*time.Second {
			t.Errorf("after 80 s: %+v, want a median a little over %d", q, want)
		}
		c.size, c.gop = 1000, 0
		c.run(20 * time.Second)
		c.dts += 1e6
		c.run(time.Second)
		q = p.Quality(time.Now())
		if q.BitRate > q.Median/4 || q.SinceKey < 20*time.Second || q.SinceKey > 23*time.Second || q.Jumps == 0 {
			t.Errorf("after a worse time: %+v", q)
		}
		time.Sleep(8 * time.Second)
		if q := p.Quality(time.Now()); q.Silent < 8*time.Second || q.Silent > 9*time.Second {
			t.Errorf("silent for %v, want 8s", q.Silent)
		}
	})
}

// A time line of a stream that was silent for longer than it reaches is empty,
// and one of a long stream does not grow.
func TestTimelineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app(func(a *policy.App) { a.IdleTimeout = time.Hour }))
		c := &camera{t: t, p: p, gop: 50}
		c.run(45 * time.Second)
		time.Sleep(45 * time.Minute)
		fine, tens := p.Stream().Timeline()
		if len(fine) != fineSamples || len(tens) != coarseSamples {
			t.Errorf("%d seconds and %d tens, want %d and %d", len(fine), len(tens), fineSamples, coarseSamples)
		}
		for _, s := range append(fine, tens...) {
			if s.Bytes != 0 {
				t.Fatalf("%v has %d bytes, want none", s.Start, s.Bytes)
			}
		}
		c.run(11 * time.Second)
		if _, tens = p.Stream().Timeline(); tens[len(tens)-1].Bytes == 0 {
			t.Error("the newest sample is empty")
		}
	})
}

// Numbers that do not fit in a sample are the largest that does.
func TestSamplesDoNotOverflow(t *testing.T) {
	a, b := uint16(math.MaxUint16-1), uint32(math.MaxUint32-1)
	add(&a, 2)
	add(&b, 5<<30)
	c := uint16(1)
	add(&c, 1<<20)
	if a != math.MaxUint16 || b != math.MaxUint32 || c != math.MaxUint16 {
		t.Errorf("sums are %d, %d and %d", a, b, c)
	}
	if got := [...]int64{int64(narrow[int16](-1e9)), int64(narrow[int16](1e9)), int64(narrow[int16](-7)), int64(narrow[uint16](-7)), int64(narrow[uint16](1e9))}; got != [...]int64{
		math.MinInt16, math.MaxInt16, -7, 0, math.MaxUint16} {
		t.Errorf("narrowed to %d", got)
	}
	if n := unsafe.Sizeof(meter{}); n > 6<<10 {
		t.Errorf("a meter takes %d bytes, want at most 6 KiB", n)
	}
}

func TestTraffic(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, video(0, true, "K"))
	tr := p.Stream().Traffic()
	srv, cli := net.Pipe()
	pl, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: FLV}, Protocol: "rtmps"})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 13+11+len(video(0, true, "K").Tag)+4)
	for n := 0; n < len(b); {
		m, err := cli.Read(b[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	tr.Watching(HLS, 4)
	if n := tr.Playing(); n != 5 {
		t.Errorf("%d play, want 5", n)
	}
	tr.Watching(HLS, 1)
	cli.Close()
	pl.Close(ErrClosed)
	<-pl.Done()
	tr.Served(HLS, 100)
	want := TrafficCount{In: int64(len(video(0, true, "K").Tag)), Out: [len(Protocols)]int64{1: int64(len(b)), HLS: 100},
		Plays: [len(Protocols)]int64{1: 1}, Players: [len(Protocols)]int64{HLS: 1}}
	if diff := cmp.Diff(want, tr.Count()); diff != "" {
		t.Errorf("account (-want +got):\n%s", diff)
	}
	if first, second := tr.Peak(), tr.Peak(); first != 5 || second != 1 {
		t.Errorf("peaks are %d and %d, want 5 and then 1", first, second)
	}
	for i, name := range Protocols {
		if protocolOf(name) != i {
			t.Errorf("%s is %d, want %d", name, protocolOf(name), i)
		}
	}
}
