package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// forFilms lets publishers send a film at once, and players wait for them to
// return.
func forFilms(_ *Config, stage *policy.App) {
	stage.Hold, stage.MaxLead = 500*time.Millisecond, time.Hour
}

// reset ends the connection by an RST.
func (e *encoder) reset() {
	e.conn.NetConn().(*net.TCPConn).SetLinger(0)
	e.vanish()
}

// comeBack publishes again, as often as it takes until the server has seen
// that the connection before is gone.
func (e *encoder) comeBack() {
	e.t.Helper()
	e.until("the encoder may come back", func() bool {
		e.conn = e.dialRTMP(e.app)
		err := e.conn.Publish(e.name)
		if err != nil {
			e.vanish()
		}
		return err == nil
	})
	e.t.Cleanup(e.vanish)
}

// F01, F04, F06: a publisher that leaves, in whatever way, and returns: its
// players go on in the same connection, HLS behind a discontinuity.
func TestReturn(t *testing.T) {
	w := newWorld(t, forFilms)
	for i, how := range []struct {
		name  string
		leave func(e *encoder)
	}{{"F01 in order", (*encoder).leave}, {"F01 by FIN", (*encoder).vanish}, {"F06 by RST", (*encoder).reset}} {
		w.sub(t, how.name, func() {
			e := w.encoder("stage", fmt.Sprint("f01-", i))
			a := w.watch("stage", e.name, everyWay...)
			a.strict(true)
			e.configure()
			e.film(0, 3000)
			for back := range int64(3) {
				a.reach(e.sent())
				how.leave(e)
				e.comeBack()
				e.shift = back * 1_000_000 // an encoder's clock may start anywhere
				e.configure()
				e.film(3000*(back+1), 3000*(back+2))
			}
			a.reach(e.sent())
			e.leave()
			a.over()
			a.poller.whole(w.t, 1, e.sent())
			if a.poller.breaks != 3 {
				w.t.Errorf("%d discontinuities, want 3", a.poller.breaks)
			}
		})
	}
	w.sub(t, "F04 with another configuration", func() {
		e := w.encoder("stage", "f04")
		a := w.watch("stage", "f04", everyWay...)
		a.strict(true)
		e.configure()
		e.film(0, 3000)
		a.reach(e.sent())
		e.vanish()
		e.comeBack()
		e.send(av.Video, 0, flv.AppendVideo(nil, av.H264, true, true, 0, otherAVCConfig))
		e.send(av.Audio, 0, flv.AppendAudio(nil, av.AAC, true, otherAACConfig))
		e.film(3000, 6000)
		a.reach(e.sent())
		e.vanish()
		e.comeBack()
		e.noAudio = true
		e.send(av.Video, 0, flv.AppendVideo(nil, av.H264, true, true, 0, avcConfig))
		e.film(6000, 9000)
		a.reach(e.sent())
		late := w.watch("stage", "f04", access.FLV) // gets the newest, and no sound
		late.reach(e.sent())
		if v := late.viewers[0]; v.configs != 1 {
			w.t.Errorf("a late player gets %d configurations, want that of the video", v.configs)
		}
		e.leave()
		a.over()
		late.over()
		a.poller.whole(w.t, 1, e.sent())
		for _, v := range a.viewers {
			if v.configs != 5 {
				w.t.Errorf("the player by %s got %d configurations, want 5", v.way, v.configs)
			}
		}
	})
	w.sub(t, "F02 after the hold", func() {
		e := w.encoder("stage", "f02")
		a := w.watch("stage", "f02", everyWay...)
		e.configure()
		e.film(0, 3000)
		a.reach(e.sent())
		e.leave()
		a.over()
		e.begin()
		b := w.watch("stage", "f02", everyWay...)
		e.configure()
		e.film(3000, 6000)
		b.reach(e.sent())
		e.leave()
		b.over()
		if was, is := a.poller.list, b.poller.list; is.SeqNo < was.SeqNo || is.DiscontinuitySeq < was.DiscontinuitySeq {
			w.t.Errorf("sequences %d, %d after %d, %d", is.SeqNo, is.DiscontinuitySeq, was.SeqNo, was.DiscontinuitySeq)
		}
	})
	w.sub(t, "F05 flapping", func() {
		before, sessions := w.log.count(), w.metric(publishes)
		e := w.encoder("stage", "f05")
		a := w.watch("stage", "f05", everyWay...)
		for i := range int64(50) {
			e.configure()
			e.film(200*i/40*40, 200*(i+1))
			e.video(200*(i+1)-1, true, 0)
			a.reach(e.sent())
			e.vanish()
			e.comeBack()
		}
		e.configure()
		e.film(10_000, 13_000)
		a.reach(e.sent())
		e.leave()
		a.over()
		w.until("all have ended", func() bool { return w.metric("weir_publishers") == "1" })
		if got, want := w.metric(publishes), fmt.Sprint(atoi(sessions)+51); got != want {
			w.t.Errorf("%s sessions of publishers, want %s", got, want)
		}
		if sum, n := a.poller.seconds(); n > 3+int(sum) {
			w.t.Errorf("%d segments of %.1f s in all", n, sum)
		}
		if n := w.log.count() - before; n > 50*logged {
			w.t.Errorf("%d lines in the log", n)
		}
	})
}

// publishes counts sessions of publishers by RTMP.
const publishes = `weir_sessions_total{op="publish",protocol="rtmp"}`

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// F08: of publishers that come at the same moment one wins, and the others
// are told code 3.
func TestOnePublisherWins(t *testing.T) {
	w := newWorld(t, nil)
	w.sub(t, "F08", func() {
		for round := range 20 {
			const many = 4
			var conns []*rtmp.Conn
			for range many {
				conns = append(conns, w.dialRTMP("stage"))
			}
			errs := make(chan error, many)
			barrier := make(chan struct{})
			for _, c := range conns {
				go func() { <-barrier; errs <- c.Publish(fmt.Sprint("f08-", round)) }()
			}
			close(barrier)
			won := 0
			for range many {
				err := <-errs
				refusal := (*rtmp.Error)(nil)
				switch {
				case err == nil:
					won++
				case !errors.As(err, &refusal) || refusal.Code != "NetStream.Publish.BadName":
					w.t.Errorf("refused with %v", err)
				}
			}
			if won != 1 {
				w.t.Errorf("%d of %d publishers won", won, many)
			}
			for _, c := range conns {
				c.Close()
			}
		}
	})
}

// F09: where the app wants that, the new publisher wins, and after its first
// frame there is none of the old one.
func TestTakeover(t *testing.T) {
	w := newWorld(t, func(c *Config, stage *policy.App) { forFilms(c, stage); stage.Takeover = true })
	w.sub(t, "F09", func() {
		old := w.encoder("stage", "f09")
		a := w.watch("stage", "f09", everyWay...)
		old.configure()
		old.film(0, 3000)
		a.reach(old.sent())
		e := &encoder{world: w, app: "stage", name: "f09", step: 40}
		e.n.Store(100_000)
		e.begin()
		old.film(3000, 4000)
		e.configure()
		e.film(3000, 6000)
		a.reach(e.sent())
		old.isCut()
		e.leave()
		a.over()
		a.poller.whole(w.t, 100_001, e.sent())
	})
}

// F10: a publisher that is gone without a word does not keep its encoder from
// coming back.
func TestGhost(t *testing.T) {
	w := newWorld(t, func(c *Config, stage *policy.App) {
		forFilms(c, stage)
		stage.StaleAfter, stage.IdleTimeout = 300*time.Millisecond, time.Second
	})
	w.sub(t, "F10 comes back", func() {
		ghost := w.encoder("stage", "f10")
		a := w.watch("stage", "f10", everyWay...)
		ghost.configure()
		ghost.film(0, 3000)
		a.reach(ghost.sent())
		begin := time.Now()
		e := &encoder{world: w, app: "stage", name: "f10", step: 40}
		e.n.Store(ghost.n.Load())
		e.comeBack()
		if took := time.Since(begin); took > time.Second {
			w.t.Errorf("the encoder is refused for %v", took)
		}
		e.configure()
		e.film(3000, 6000)
		a.reach(e.sent())
		ghost.isCut()
		e.leave()
		a.over()
		a.poller.whole(w.t, 1, e.sent())
	})
	w.sub(t, "F10 does not", func() {
		ghost := w.encoder("stage", "f10b")
		a := w.watch("stage", "f10b", everyWay...)
		ghost.configure()
		ghost.film(0, 3000)
		a.reach(ghost.sent())
		ghost.isCut()
		a.over()
	})
}

// show is a test of what players see of a film: send sends it, and want looks at
// what the audience got of it.
type show struct {
	name string
	send func(e *encoder)
	want func(w *world, e *encoder, a *audience)
}

// shows runs films before players of every protocol. No frame may be missing
// on any.
func (w *world) shows(t *testing.T, rows []show) {
	for _, row := range rows {
		w.sub(t, row.name, func() {
			before := w.log.count()
			w.names++
			name := fmt.Sprint("show", w.names)
			e := w.encoder("burst", name)
			a := w.watch("burst", name, everyWay...)
			a.strict(true)
			e.crowd = a
			row.send(e)
			a.reach(e.sent())
			e.leave()
			a.over()
			if row.want != nil {
				row.want(w, e, a)
			}
			if n := w.log.count() - before; n > 4*logged {
				w.t.Errorf("%d lines in the log, the last of them:\n%s", n, w.log.tail())
			}
		})
	}
}

// whole is the wish that all of a film was in HLS, without a discontinuity but
// for some, and in segments whose durations add up to the film's.
func whole(breaks int, seconds float64) func(w *world, e *encoder, a *audience) {
	return func(w *world, e *encoder, a *audience) {
		a.poller.whole(w.t, 1, e.sent())
		if a.poller.breaks != breaks {
			w.t.Errorf("%d discontinuities, want %d", a.poller.breaks, breaks)
		}
		if sum, n := a.poller.seconds(); sum < seconds-0.3 || sum > seconds+0.3 {
			w.t.Errorf("%d segments last %.3f s, want %.3f: %v", n, sum, seconds, a.poller.durations())
		}
	}
}

// after returns what is sent when a film of six seconds is interrupted after
// three.
func after(interrupt func(e *encoder)) func(e *encoder) {
	return func(e *encoder) {
		e.configure()
		e.film(0, 3000)
		interrupt(e)
		e.film(3000, 6000)
	}
}

// F11 to F20: what encoders do to time, configuration and tracks.
func TestShows(t *testing.T) {
	const hour = 3_600_000
	shifted := func(ms int64) func(e *encoder) {
		return func(e *encoder) { e.shift = ms; e.configure(); e.film(0, 6000) }
	}
	jump := func(ms int64) func(e *encoder) { return after(func(e *encoder) { e.shift += ms }) }
	// one makes the clock of one track go wrong: its frames come with other times.
	one := func(k av.Kind, ms int64) func(e *encoder) {
		return func(e *encoder) {
			e.configure()
			e.film(0, 3000)
			for at := int64(3000); at < 6000; at += 40 {
				if e.shift = 0; k == av.Video {
					e.shift = ms
				}
				e.video(at, at%1000 == 0, 0)
				if e.shift = 0; k == av.Audio {
					e.shift = ms
				}
				e.audio(at + 20)
			}
		}
	}
	config := func(e *encoder, at int64, video, audio []byte) {
		e.send(av.Video, at, flv.AppendVideo(nil, av.H264, true, true, 0, video))
		e.send(av.Audio, at, flv.AppendAudio(nil, av.AAC, true, audio))
	}
	cts := func(offsets ...int32) func(e *encoder) {
		return func(e *encoder) {
			e.configure()
			for i := range int64(150) {
				e.video(40*i, i%25 == 0, offsets[i%int64(len(offsets))])
				e.audio(40*i + 20)
			}
		}
	}
	configs := func(n int) func(w *world, e *encoder, a *audience) {
		return func(w *world, e *encoder, a *audience) {
			for _, v := range a.viewers {
				if v.configs != n {
					w.t.Errorf("the player by %s got %d configurations, want %d", v.way, v.configs, n)
				}
			}
		}
	}
	// chunks sends a frame of 1000 bytes and more as part cuts it into chunks.
	chunks := func(ts uint32, part func(message []byte) []byte) func(e *encoder) {
		return after(func(e *encoder) {
			e.shift = int64(ts)
			for at := int64(2962); at < 3000; at++ {
				nal := slices.Concat([]byte{0x41, 0x9A}, e.stamp(at), times(1000, []byte{7}))
				body := flv.AppendVideo(nil, av.H264, false, false, 0, unit(nal))
				e.conn.NetConn().Write(slices.Concat(control(1, 128),
					part(chunked(6, rtmp.TypeVideo, uint32(at)+ts, 1, body)), control(1, 60000)))
			}
		})
	}
	const headers = 1 + 11 // of the first chunk
	between := slices.Concat(control(1, 100), chunked(7, rtmp.TypeAudio, 0, 1, nil), control(1, 128), control(2, 9))
	both := func(wants ...func(w *world, e *encoder, a *audience)) func(w *world, e *encoder, a *audience) {
		return func(w *world, e *encoder, a *audience) {
			for _, want := range wants {
				want(w, e, a)
			}
		}
	}
	w := newWorld(t, nil)
	w.shows(t, []show{
		{"H11 messages and chunk sizes between the chunks of a message", chunks(0, func(b []byte) []byte {
			return slices.Concat(b[:headers+128], between, b[headers+128:headers+2*129-1], between, b[headers+2*129-1:])
		}), whole(0, 6)},
		{"H20 extended timestamp in every chunk", chunks(1<<30, slices.Clone[[]byte]), whole(0, 6)},
		{"H20 extended timestamp in the first chunk only", chunks(1<<30, func(b []byte) []byte {
			out := slices.Clone(b[:headers+4+128])
			for b = b[len(out):]; len(b) > 0; b = b[min(5+128, len(b)):] {
				out = append(append(out, b[0]), b[5:min(5+128, len(b))]...)
			}
			return out
		}), whole(0, 6)},
		{"F11 24 bits", shifted(0xFFFFFF - 3000), whole(0, 6)},
		{"F11 31 bits", shifted(1<<31 - 3000), whole(0, 6)},
		{"F12 32 bits", shifted(1<<32 - 3000), whole(0, 6)},
		{"F13 jump of an hour", jump(hour), whole(0, 6)},
		{"F13 jump back by an hour", after(func(e *encoder) { e.shift -= hour }), whole(0, 6)},
		{"F13 from an hour to 0", func(e *encoder) { e.shift = hour; after(func(e *encoder) { e.shift = -3000 })(e) }, whole(0, 6)},
		{"F13 jump of 20 days", jump(20 * 24 * hour), whole(0, 6)},
		{"F13 audio jumps", one(av.Audio, hour), whole(0, 6)},
		{"F13 video jumps", one(av.Video, hour), whole(0, 6)},
		{"F13 many jumps", func(e *encoder) {
			e.configure()
			for i := range int64(20) {
				e.shift = []int64{0, hour, -1, 5000, 1 << 31}[i%5]
				e.film(i*500, i*500+500)
			}
		}, whole(0, 10)},
		{"F14 configuration changes", after(func(e *encoder) { config(e, 3000, otherAVCConfig, otherAACConfig) }), both(whole(1, 6), configs(4))},
		{"F14 sound's configuration changes", after(func(e *encoder) { config(e, 3000, avcConfig, otherAACConfig) }), both(whole(1, 6), configs(3))},
		{"F14 configuration comes with every GOP", func(e *encoder) {
			for at := int64(0); at < 6000; at += 1000 {
				config(e, at, avcConfig, aacConfig)
				e.film(at, at+1000)
			}
		}, both(whole(0, 6), configs(2))},
		{"F14 configuration in the frames", after(func(e *encoder) {
			c, _ := av.ParseAVCConfig(otherAVCConfig)
			nal := append([]byte{0x65, 0x88}, e.stamp(2999)...)
			e.send(av.Video, 2999, flv.AppendVideo(nil, av.H264, true, false, 0, slices.Concat(unit(c.SPS[0]), unit(c.PPS[0]), unit(nal))))
		}), nil},
		{"F15 configuration comes late", func(e *encoder) { e.film(0, 1000); e.configure(); e.film(1000, 4000) }, nil},
		{"F15 no metadata", func(e *encoder) { config(e, 0, avcConfig, aacConfig); e.film(0, 6000) }, whole(0, 6)},
		{"F16 audio only", func(e *encoder) { e.noVideo = true; e.configure(); e.film(0, 6000) }, whole(0, 6)},
		{"F16 video only", func(e *encoder) { e.noAudio = true; e.configure(); e.film(0, 6000) }, whole(0, 6)},
		{"F16 audio comes late", func(e *encoder) {
			e.noAudio = true
			e.configure()
			e.film(0, 30_000)
			e.noAudio = false
			config(e, 30_000, avcConfig, aacConfig)
			e.film(30_000, 36_000)
		}, whole(1, 36)},
		{"F16 video comes late", func(e *encoder) {
			e.noVideo = true
			e.configure()
			e.film(0, 10_000)
			e.noVideo = false
			config(e, 10_000, avcConfig, aacConfig)
			e.film(10_000, 16_000)
		}, nil},
		{"F16 video stops for a minute", func(e *encoder) {
			e.configure()
			e.film(0, 6000)
			e.noVideo = true
			e.film(6000, 66_000)
			e.noVideo = false
			e.film(66_000, 72_000)
		}, nil},
		{"F16 audio stops for a minute", func(e *encoder) {
			e.configure()
			e.film(0, 6000)
			e.noAudio = true
			e.film(6000, 66_000)
			e.noAudio = false
			e.film(66_000, 72_000)
		}, nil},
		{"F17 B-frames", cts(80, 160, 40, 0), whole(0, 6)},
		{"F17 negative offsets", cts(0, 80, -40, -80), whole(0, 6)},
		{"F17 offsets that cannot be", cts(1<<23-1, -1<<23, 0), whole(0, 6)},
		{"F18 audio ahead by two seconds", func(e *encoder) {
			e.crowd.strict(false) // sound comes first,
			e.crowd = nil         // and too early to wait for
			e.configure()
			for at := int64(0); at < 8000; at += 40 {
				if at < 6000 {
					e.audio(at)
				}
				if at >= 2000 {
					e.video(at-2000, at%1000 == 0, 0)
				}
			}
		}, nil},
		{"F19 first frame is no key frame", func(e *encoder) {
			e.crowd.strict(false) // sound comes first
			e.configure()
			e.film(40, 6000)
		}, nil},
		{"F19 GOP without end", func(e *encoder) { e.configure(); e.film(0, 1000); e.noKeys = true; e.film(1000, 100_000) }, func(w *world, e *encoder, a *audience) {
			for _, d := range a.poller.durations() {
				if d > 30.5 {
					w.t.Errorf("a segment lasts %.3f s", d)
				}
			}
			whole(0, 100)(w, e, a)
		}},
	})
	w.sub(t, "F16 flags of the FLV header", func() {
		for flags, e := range map[byte]*encoder{5: {}, 4: {noVideo: true}, 1: {noAudio: true}} {
			e.world, e.app, e.name, e.step = w, "burst", fmt.Sprint("flags", flags), 40
			e.begin()
			e.configure()
			e.film(0, 2000)
			w.until("it has come", func() bool { s := w.Node.hub.Stats(); return s.Publishers >= 2 && w.played(e) })
			resp, err := http.Get(w.url("http", "/burst/"+e.name+".flv"))
			if err != nil {
				w.t.Fatal(err)
			}
			head := make([]byte, 9)
			if _, err := io.ReadFull(resp.Body, head); err != nil || head[4] != flags {
				w.t.Errorf("FLV header % x, %v, want the flags %d", head, err, flags)
			}
			resp.Body.Close()
			e.leave()
		}
		http.DefaultClient.CloseIdleConnections()
	})
	w.sub(t, "F19 who comes in a GOP without end gets sound first", func() {
		e := w.encoder("burst", "endless")
		e.configure()
		e.film(0, 1000)
		e.noKeys = true
		e.film(1000, 40_000) // longer than is cached
		a := w.watch("burst", "endless", everyWay[:3]...)
		at := int64(40_000)
		w.until("all hear something", func() bool {
			e.film(at, at+40)
			at += 40
			return a.heard()
		})
		e.noKeys = false
		e.film(at, at+2000)
		a.reach(e.sent())
		for _, v := range a.viewers {
			if v.tracks[av.Video] == nil || v.tracks[av.Audio] == nil {
				w.t.Errorf("the player by %s has %v", v.way, v.tracks)
			}
		}
		e.leave()
		a.over()
	})
}

// F11: what players are sent of a stream that is older than 24 bits of
// milliseconds, which the attacker reads as the specification has it.
func TestOldStream(t *testing.T) {
	w := newWorld(t, func(_ *Config, stage *policy.App) { stage.MaxLead = 24 * time.Hour })
	w.sub(t, "F11", func() {
		e := w.encoder("stage", "old")
		a := w.attacker(w.t)
		a.send(hello(), connect("stage"), command(0, "createStream", 2, nil), command(1, "play", 3, nil, "old"))
		a.hears("NetStream.Play.Start")
		e.noAudio = true
		e.configure()
		for i := range int64(6000) {
			e.video(i*2900, i%10 == 0, 0)
			if i%500 == 0 {
				w.until("they have come", func() bool { return a.newest() == uint32(i*2900) })
			}
		}
		w.until("the last has come", func() bool { return a.newest() == 5999*2900 })
		a.leave()
		e.leave()
	})
}

// played reports whether the server has all that e has sent.
func (w *world) played(e *encoder) bool {
	for _, s := range w.hub.Streams() {
		if k := s.Key(); k.App == e.app && k.Name == e.name {
			i := s.Info()
			return e.noVideo && i.Bytes > 0 || i.Video.Frames >= int64(e.sent())/2
		}
	}
	return false
}

// F20: a publisher that is faster than real time is read as fast as it may be
// ahead, and one that is slower is not silent.
func TestPace(t *testing.T) {
	w := newWorld(t, func(_ *Config, stage *policy.App) {
		stage.MaxLead, stage.IdleTimeout = time.Second, time.Second
	})
	w.sub(t, "F20 too fast", func() {
		e := w.encoder("stage", "fast")
		a := w.watch("stage", "fast", everyWay...)
		a.strict(true)
		e.configure()
		begin := time.Now()
		e.film(0, 3000)
		a.reach(e.sent())
		if took := time.Since(begin); took < 1800*time.Millisecond {
			w.t.Errorf("3 s of film took %v, want 2 s", took)
		}
		e.leave()
		a.over()
		whole(0, 3)(w, e, a)
	})
	w.sub(t, "F20 too slow", func() {
		e := w.encoder("stage", "slow")
		a := w.watch("stage", "slow", everyWay...)
		a.strict(true)
		e.configure()
		tick := time.NewTicker(80 * time.Millisecond) // twice the time
		defer tick.Stop()
		for at := int64(0); at < 1200; at += 40 {
			e.film(at, at+40)
			<-tick.C
		}
		a.reach(e.sent())
		e.leave()
		a.over()
		whole(0, 1.2)(w, e, a)
	})
}

// F07: players that read a tenth of what comes, or nothing: they cost little,
// they jump or are disconnected, and others see all.
func TestSlowPlayers(t *testing.T) {
	const stuck, slow = 40, 10
	w := newWorld(t, func(c *Config, stage *policy.App) {
		c.Limits.StuckTime, c.Limits.SlowTime, c.Limits.SlowSize = time.Second, time.Second, 512<<10
	})
	w.sub(t, "F07", func() {
		e := w.encoder("stage", "f07")
		e.configure()
		e.film(0, 1000)
		a := w.watch("stage", "f07", everyWay...)
		var conns []net.Conn
		var slowly sync.WaitGroup
		defer slowly.Wait()
		for i := range stuck + slow {
			nc := w.dial(map[bool]string{true: "http", false: "rtmp"}[i%2 == 0])
			defer nc.Close()
			nc.(*net.TCPConn).SetReadBuffer(map[bool]int{true: 256 << 10, false: 4096}[i < slow])
			if i%2 == 0 {
				io.WriteString(nc, "GET /stage/f07.flv HTTP/1.1\r\nHost: h\r\n\r\n")
			} else {
				nc.Write(slices.Concat(hello(), connect("stage"), command(0, "createStream", 2, nil), command(1, "play", 3, nil, "f07")))
			}
			conns = append(conns, nc)
			if i < slow {
				slowly.Go(func() { // ends with the connection
					tick := time.NewTicker(10 * time.Millisecond)
					defer tick.Stop()
					for b := make([]byte, 8<<10); ; <-tick.C {
						if _, err := nc.Read(b); err != nil {
							return
						}
					}
				})
			}
		}
		w.until("all play", func() bool { return w.hub.Stats().Players == int64(3+3+stuck+slow) })
		a.strict(true)
		heap, most := heapSize(), int64(0)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		body := times(100<<10, []byte{7})
		for i := int64(0); ; i++ { // 5 MB a second
			at := 1000 + i*20
			nal := []byte{0x41, 0x9A}
			if i%25 == 0 {
				nal = []byte{0x65, 0x88}
				most = max(most, heapSize()-heap)
			}
			e.send(av.Video, at, flv.AppendVideo(nil, av.H264, i%25 == 0, false, 0, unit(append(append(nal, e.stamp(at)...), body...))))
			if s := w.hub.Stats(); s.Stuck >= stuck && s.Jumps >= slow || i == 1000 {
				break
			}
			<-tick.C
		}
		a.reach(e.sent())
		a.judge()
		s := w.hub.Stats()
		if s.Stuck != stuck || s.Jumps < slow || s.Players != 3+3+slow {
			w.t.Errorf("%d players stuck, %d jumps, %d players left", s.Stuck, s.Jumps, s.Players)
		}
		if most > (stuck+slow)<<20 {
			w.t.Errorf("the heap has grown by %d MiB", most>>20)
		}
		for _, nc := range conns {
			nc.Close()
		}
		slowly.Wait()
		e.leave()
		a.over()
	})
}

// F49: the policy changes, and changes for the worse, while many publish.
func TestReloadUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	text := func(app string) string {
		return `policy_source: file` + "\n" + `policy: {spaces: [{name: default, domains: [{name: "*"}], apps: [{name: live}, {name: ` + app + `}]}]}` + "\n"
	}
	writeFile(t, path, text("first"))
	w := newWorld(t, func(c *Config, _ *policy.App) { c.File, c.PolicySource = path, PolicyFile })
	w.sub(t, "F49", func() {
		var streams []*encoder
		for i := range 50 {
			e := w.encoder("live", fmt.Sprint("f49-", i))
			e.configure()
			e.film(0, 1000)
			stop := e.goOn()
			defer e.vanish()
			defer stop()
			streams = append(streams, e)
		}
		a := w.watch("live", "f49-7", everyWay[:3]...)
		a.strict(true)
		for i := range 5 {
			app := fmt.Sprint("app", i)
			writeFile(t, path, text(app))
			w.until("the policy is read", func() bool { return hasApp(t, w.Node, app) })
			e := w.encoder(app, "t")
			e.leave()
			refused := w.log.count()
			writeFile(t, path, text("other")+"grace: soon\n")
			w.until("the policy is refused", func() bool { return w.log.count() > refused && strings.Contains(w.log.tail(), "configuration refused") })
			if !hasApp(t, w.Node, app) || hasApp(t, w.Node, "other") {
				t.Error("a policy that is refused is in use")
			}
			a.reach(streams[7].sent())
			a.judge()
		}
		if n := w.hub.Stats().Publishers; n != 51 {
			t.Errorf("%d publishers, want 51", n)
		}
		a.leave()
	})
}

// I15: the server ends in time whatever its clients do.
func TestShutdownUnderLoad(t *testing.T) {
	c := testConfig(t)
	c.Grace = time.Second
	n, _, stop := start(t, c)
	w := &world{t: t, Node: n, log: &journal{}}
	var streams []*encoder
	for i := range 10 {
		e := w.encoder("live", fmt.Sprint("s", i))
		e.configure()
		e.film(0, 2000)
		defer e.goOn()()
		streams = append(streams, e)
	}
	a := w.watch("live", "s3", everyWay[:3]...)
	a.reach(streams[3].sent())
	for range 20 { // players that do not read, and clients that do not speak
		for _, say := range []string{"GET /live/s3.flv HTTP/1.1\r\nHost: h\r\n\r\n", "GET /live/s3.flv HTTP", "", "GET /live/s5/index.m3u8 HTTP/1.1\r\nHost: h\r\n\r\n"} {
			nc := w.dial("http")
			defer nc.Close()
			io.WriteString(nc, say)
		}
		nc := w.dial("rtmp")
		defer nc.Close()
		nc.Write(slices.Concat(hello(), connect("live"))[:3+len(streams)*100])
	}
	begin := time.Now()
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if took := time.Since(begin); took > c.Grace+patience {
		t.Errorf("the end takes %v", took)
	}
	for _, v := range a.viewers {
		<-v.done
	}
}
