package quality

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
	"weir/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = stream.Key{Space: "default", App: "live", Name: "s"}

// scene is a hub with one publisher, watched over in the time of a bubble.
type scene struct {
	t     *testing.T
	hub   *stream.Hub
	m     *Monitor
	pub   *stream.Publication
	facts []event.Event // of alerts, in order
	start time.Time

	dts, sound float64 // ms
	frames     int
	gop, size  int
	fast       float64 // the clock of the sound
}

func play(t *testing.T, change func(*policy.Quality), f func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, start: time.Now(), gop: 50, size: 4000}
		s.m = NewMonitor(Options{
			Emit:     func(e event.Event) { s.facts = append(s.facts, e) },
			Callback: func(*stream.Publication) *event.Callback { return &event.Callback{URL: "http://owner/"} },
		})
		s.hub = stream.NewHub(stream.Options{Began: s.m.Began, Ended: s.m.Ended})
		app := policy.DefaultApp("live")
		app.IdleTimeout = time.Hour
		if change != nil {
			change(&app.Quality)
		}
		var err error
		if s.pub, err = s.hub.Publish(key, &app, stream.Push{Sequence: "seq"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.m.Run(ctx); close(done) }() // ends with ctx
		time.Sleep(time.Millisecond)              // looks are not at the moments of frames
		f(s)
		cancel()
		<-done
		if err := s.hub.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func (s *scene) write(p av.Packet) {
	s.t.Helper()
	if err := s.pub.WritePacket(p); err != nil {
		s.t.Fatal(err)
	}
}

// run publishes 25 frames and 50 sounds a second.
func (s *scene) run(d time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(40 * time.Millisecond) {
		isKey := s.gop > 0 && s.frames%s.gop == 0
		frame := append([]byte{0, 0, 0, 1, 0x41}, make([]byte, s.size)...)
		tag := flv.AppendVideo(nil, av.H264, isKey, false, 0, frame)
		s.write(av.Packet{Kind: av.Video, Codec: av.H264, Key: isKey, DTS: int64(s.dts), Tag: tag, Frame: frame})
		for i := range 2 {
			tag = flv.AppendAudio(nil, av.AAC, false, []byte("sound"))
			s.write(av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: int64(s.sound) + 20*int64(i), Tag: tag, Frame: tag[2:]})
		}
		s.frames++
		s.dts += 40
		s.sound += 40 * (1 + s.fast)
	}
}

// want checks which facts there have been since the last call: the alert, + or
// - for raised or cleared, and the second of it.
func (s *scene) want(want ...string) {
	s.t.Helper()
	synctest.Wait()
	var got []string
	for _, e := range s.facts {
		if e.Space != key.Space || e.App != key.App || e.Stream != key.Name || e.Sequence != "seq" {
			s.t.Errorf("fact of %s/%s/%s, %q", e.Space, e.App, e.Stream, e.Sequence)
		}
		at := int(e.Time.Sub(s.start).Seconds())
		switch d := e.Data.(type) {
		case event.AlertRaised:
			got = append(got, fmt.Sprintf("+%s@%d", d.Alert, at))
			if d.Text == "" || d.Limit == 0 || d.Callback.URL != "http://owner/" {
				s.t.Errorf("raised: %+v", d)
			}
		case event.AlertCleared:
			got = append(got, fmt.Sprintf("-%s@%d", d.Alert, at))
			if d.Since.Before(s.start) || d.Since.After(e.Time) || d.Callback.URL != "http://owner/" {
				s.t.Errorf("cleared: %+v", d)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("alerts (-want +got):\n%s", diff)
	}
	s.facts = nil
}

func TestNothingIsWrong(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(20 * time.Minute)
		s.want()
		if a := s.m.Alerts(key); a != nil {
			t.Errorf("alerts %+v", a)
		}
	})
}

// TestSent measures at which rate players are sent a stream, by protocol.
func TestSent(t *testing.T) {
	play(t, nil, func(s *scene) {
		rate := func(want int64) {
			t.Helper()
			synctest.Wait()
			if got := s.m.Sent(key); got[stream.HLS] != want || got[0] != 0 {
				t.Errorf("Sent = %v, want %d by HLS", got, want)
			}
		}
		rate(0)
		out := s.pub.Stream().Traffic()
		second := func(bytes int64) { out.Served(stream.HLS, bytes); s.run(time.Second) }
		second(1000)
		rate(0) // one look says nothing yet
		second(1000)
		second(1000)
		rate(8000)
		for range 10 {
			second(2000)
		}
		rate(16000)
		for range 5 { // segments of two seconds
			second(4000)
			second(0)
		}
		second(4000)
		if got := s.m.Sent(key)[stream.HLS]; got < 12000 || got > 20000 {
			t.Errorf("Sent = %d while 16000 go out in segments", got)
		}
		s.run(10 * time.Second)
		rate(0)
		if got := s.m.Sent(stream.Key{Name: "none"}); got != [len(stream.Protocols)]int64{} {
			t.Errorf("Sent of no stream = %v", got)
		}
	})
}

func TestNoData(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(10 * time.Second)
		time.Sleep(10 * time.Second)
		s.want("+no_data@15")
		if a := s.m.Alerts(key); len(a) != 1 || a[0].Name != NoData || a[0].Limit != 5 {
			t.Errorf("alerts %+v", a)
		}
		if st := s.m.Stats(); st.Raised[NoData] != 1 || st.Ever[NoData] != 1 || st.Raised[Drift] != 0 {
			t.Errorf("Stats = %+v", st)
		}
		s.dts, s.sound = s.dts+10_000, s.sound+10_000
		s.run(10 * time.Second)
		s.want("-no_data@25")
		if st := s.m.Stats(); st.Raised[NoData] != 0 || st.Ever[NoData] != 1 {
			t.Errorf("Stats = %+v", st)
		}
	})
}

// A network that lets something through now and then does not make the alert flap.
func TestNoDataDoesNotFlap(t *testing.T) {
	play(t, func(q *policy.Quality) { q.LowBitRate, q.NoKeyFrame, q.Drift = 0, 0, 0 }, func(s *scene) {
		s.run(time.Second)
		for range 20 {
			time.Sleep(6 * time.Second)
			s.run(200 * time.Millisecond)
		}
		s.want("+no_data@6")
		s.pub.End(stream.EndClosed)
		s.want("-no_data@125")
	})
}

func TestNoKeyFrame(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(10 * time.Second)
		s.gop = 0
		s.run(20 * time.Second)
		s.want("+no_key_frame@24")
		s.gop = 50
		s.run(10 * time.Second)
		s.want("-no_key_frame@35")
		s.gop = 16 * 25 // one second too long, for ever: raised once
		s.run(2 * time.Minute)
		s.want("+no_key_frame@64")
	})
}

// The first key frame may never come.
func TestNeverAKeyFrame(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.gop = 0
		s.run(30 * time.Second)
		s.want("+no_key_frame@16")
	})
}

func TestLowBitRate(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(2 * time.Minute)
		s.size = 400
		s.run(time.Minute)
		s.want("+low_bit_rate@129")
		s.size = 1150 // near the limit, on both sides of it
		s.run(20 * time.Second)
		s.want()
		s.size = 4000
		s.run(30 * time.Second)
		s.want("-low_bit_rate@210")
		s.size = 400 // for good: the median gives in
		s.run(15 * time.Minute)
		s.want("+low_bit_rate@239", "-low_bit_rate@309")
	})
}

func TestDriftOfSound(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.fast = 0.01
		s.run(90 * time.Second)
		s.want("+drift@60")
		s.fast = -0.05
		s.run(20 * time.Second)
		s.fast = 0
		s.run(20 * time.Second)
		s.want("-drift@111")
	})
}

func TestTimestampJumps(t *testing.T) {
	play(t, nil, func(s *scene) {
		for range 12 {
			s.run(2 * time.Second)
			s.dts, s.sound = s.dts+60_000, s.sound+60_000
		}
		s.run(2 * time.Minute)
		s.want("+timestamp_jumps@21", "-timestamp_jumps@89")
	})
}

// An alert ends with its push, before another one can begin.
func TestClearedAtTheEnd(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(time.Second)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		s.want("+no_data@6")
		s.pub.End(stream.EndNoData)
		s.want("-no_data@11")
		time.Sleep(10 * time.Second)
		s.want()
		if a := s.m.Alerts(key); a != nil {
			t.Errorf("alerts %+v", a)
		}
	})
}

// Each alert can be off.
func TestOff(t *testing.T) {
	play(t, func(q *policy.Quality) { *q = policy.Quality{} }, func(s *scene) {
		s.run(2 * time.Minute)
		s.gop, s.size, s.fast = 0, 10, 0.05
		s.run(time.Minute)
		for range 20 {
			s.dts += 60_000
			s.run(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		s.want()
	})
}

// BenchmarkLook is one second's look at 5 000 streams.
func BenchmarkLook(b *testing.B) {
	m := NewMonitor(Options{})
	h := stream.NewHub(stream.Options{Began: m.Began, Ended: m.Ended})
	defer h.Close(context.Background())
	app := policy.DefaultApp("live")
	for i := range 5000 {
		if _, err := h.Publish(stream.Key{Space: "default", App: "live", Name: fmt.Sprint(i)}, &app, stream.Push{}); err != nil {
			b.Fatal(err)
		}
	}
	var list []*watch
	for b.Loop() {
		list = m.look(list[:0], time.Now())
	}
}

// What others find out is raised once, cleared by them or at the end of the push, and told
// like any alert.
func TestOthers(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.run(2 * time.Second)
		for range 2 {
			s.m.Raise(s.pub, TranscodeSlow, "slow", 7, 5)
		}
		s.m.Raise(s.pub, TranscodeFailing, "failing", 3, 3)
		s.want("+transcode_slow@2", "+transcode_failing@2")
		if a := s.m.Alerts(key); len(a) != 2 || a[0].Name != TranscodeSlow || a[0].Value != 7 {
			t.Errorf("alerts %+v", a)
		}
		if st := s.m.Stats(); st.Raised[TranscodeSlow] != 1 || st.Ever[TranscodeSlow] != 1 || st.Raised[TranscodeRefused] != 0 {
			t.Errorf("%+v", st)
		}
		s.run(time.Second)
		s.m.Clear(s.pub, TranscodeSlow)
		s.m.Clear(s.pub, TranscodeSlow)
		s.want("-transcode_slow@3")
		s.pub.End(stream.EndClosed)
		s.want("-transcode_failing@3")
		s.m.Raise(s.pub, TranscodeSlow, "slow", 7, 5)
		s.want()
	})
}
