package node

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// stream is a row of the hostile streams: what an encoder sends while players
// of every protocol watch, and what they must have seen.
type hostileStream struct {
	name string
	cut  bool // the server ends it
	send func(e *encoder)
	want func(w *world, e *encoder, a *audience) // nil: only that time goes on
}

// streams runs the rows. A stream that is not cut ends with a second of film
// that every player must see.
func (w *world) streams(t *testing.T, rows []hostileStream) {
	for _, row := range rows {
		w.sub(t, row.name, func() {
			before := w.log.count()
			w.names++
			name := fmt.Sprint("hostile", w.names)
			e := w.encoder("burst", name)
			a := w.watch("burst", name, everyWay...)
			row.send(e)
			if row.cut {
				e.isCut()
			} else {
				a.reach(e.sent())
				e.leave()
			}
			a.over()
			if row.want != nil {
				row.want(w, e, a)
			}
			if n := w.log.count() - before; n > 4*logged { // the players have lines, too
				w.t.Errorf("%d lines in the log, the last of them:\n%s", n, w.log.tail())
			}
		})
	}
}

// isCut waits for the server to end the connection.
func (e *encoder) isCut() {
	e.t.Helper()
	e.conn.NetConn().SetReadDeadline(time.Now().Add(patience))
	for {
		if _, err := e.conn.ReadPacket(); err != nil {
			if strings.Contains(err.Error(), "timeout") {
				e.t.Error("the publisher is not cut off")
			}
			break
		}
	}
	e.vanish()
}

// from is a film whose first seconds something else has taken.
const from = 20_000

// finish sends three seconds of film, the first of which settles things.
func (e *encoder) finish() {
	e.configure()
	e.film(from, from+3000)
}

// H76 to H81: tags, configurations, frames.
func brokenTags() []hostileStream {
	var rows []hostileStream
	add := func(name string, send func(e *encoder)) {
		rows = append(rows, hostileStream{name: name, send: func(e *encoder) { e.configure(); e.film(0, 2000); send(e); e.finish() }})
	}
	add("H76 bodies of up to 4 bytes", func(e *encoder) {
		for _, k := range []av.Kind{av.Audio, av.Video} {
			for b := range 256 {
				e.send(k, 2000, nil)
				e.send(k, 2000, []byte{byte(b)})
				for _, x := range []byte{0, 1, 2, 7, 0x50, 0xFF} {
					e.send(k, 2000, []byte{byte(b), x})
					e.send(k, 2000, []byte{byte(b), x, 0})
					e.send(k, 2000, []byte{byte(b), x, 0, 0})
				}
			}
		}
	})
	avcc := func(record ...byte) []byte { return flv.AppendVideo(nil, av.H264, true, true, 0, record) }
	longSPS := &av.AVCConfig{LengthSize: 4, SPS: [][]byte{append([]byte{0x67}, make([]byte, 65534)...)}, PPS: [][]byte{{0x68}}}
	for name, tag := range map[string][]byte{
		"31 SPS of none":      avcc(1, 0x42, 0, 30, 0xFF, 0xFF),
		"SPS longer than all": avcc(1, 0x42, 0, 30, 0xFF, 0xE1, 0xFF, 0xFF, 0x67, 1, 2, 3),
		"length size 3":       append(avcc(1, 0x42, 0, 30, 0xFE), avcConfig[5:]...),
		"no SPS":              avcc(1, 0x42, 0, 30, 0xFF, 0xE0, 0),
		"version 0":           avcc(0, 0x42, 0, 30, 0xFF, 0xE0, 0),
		"short":               avcc(1, 0x42),
		"SPS of 65535 bytes":  avcc(longSPS.Append(nil)...),
		"HEVC of 23 bytes":    flv.AppendVideo(nil, av.HEVC, true, true, 0, append([]byte{1}, make([]byte, 21)...)),
		"HEVC with 255 arrays": flv.AppendVideo(nil, av.HEVC, true, true, 0,
			append(append([]byte{1}, make([]byte, 20)...), 3, 255, 0x20, 0xFF, 0xFF)),
	} {
		rows = append(rows, hostileStream{name: "H77 " + name, cut: true, send: func(e *encoder) { e.film(0, 1000); e.send(av.Video, 0, tag); e.finish() }})
	}
	for _, size := range []int{1, 2, 4} {
		rows = append(rows, hostileStream{name: fmt.Sprintf("H77 length size %d", size), send: func(e *encoder) {
			c, err := av.ParseAVCConfig(avcConfig)
			if err != nil {
				e.t.Fatal(err)
			}
			c.LengthSize = size
			e.send(av.Video, 0, avcc(c.Append(nil)...))
			for at := int64(0); at < 3000; at += 40 {
				nal := append([]byte{0x65, 0x88}, e.stamp(at)...)
				e.send(av.Video, at, flv.AppendVideo(nil, av.H264, true, false, 0, unit(nal)[4-size:]))
			}
		}, want: func(w *world, e *encoder, a *audience) { a.poller.whole(w.t, 1, e.sent()) }})
	}
	add("H78 parameter sets of noise", func(e *encoder) {
		noise := rand.New(rand.NewPCG(1, 2))
		for i := range int64(300) {
			record := slices.Clone(avcConfig)
			for range 1 + i%8 {
				record[9+noise.IntN(len(record)-9)] ^= 1 << noise.IntN(8)
			}
			if _, err := av.ParseAVCConfig(record); err != nil {
				continue // would be cut
			}
			e.send(av.Video, 2000+i, avcc(record...))
			e.video(2000+i, true, 0)
		}
	})
	add("H79 configurations of AAC", func(e *encoder) {
		for i := range 1 << 16 / 37 {
			for _, asc := range [][]byte{{byte(i * 37 >> 8), byte(i * 37)}, {byte(i * 37 >> 8), byte(i * 37), 0x56, 0xE5, 0x00}} {
				e.send(av.Audio, 2000, flv.AppendAudio(nil, av.AAC, true, asc))
			}
		}
		for _, asc := range []string{"\x17\x80\x00\x00\x00", "\x17\xFF\xFF\xFF\xFF\xFF", "\xF8\x00", "\xFF\xFF\xFF\xFF", "\x11\x80", "\x11\xFF", "\x2B\x92\x08\x00"} {
			e.send(av.Audio, 2000, flv.AppendAudio(nil, av.AAC, true, []byte(asc)))
			e.audio(2000)
		}
	})
	add("H79 frames of AAC", func(e *encoder) {
		for i, n := range []int{0, 1, 8184, 8185, 8192, 100_000, 1 << 19} {
			e.send(av.Audio, 2000+int64(i), flv.AppendAudio(nil, av.AAC, false, make([]byte, n)))
		}
	})
	add("H80 NAL units", func(e *encoder) {
		for i, frame := range [][]byte{
			{0, 0, 0, 0}, make([]byte, 4000), {0xFF, 0xFF, 0xFF, 0xFF, 0x65}, {0, 0, 0, 9, 0x65, 1}, {0, 0, 0}, {0},
			times(3000, []byte{0, 0, 0, 1, 0x65}), times(2000, []byte{0, 0, 0, 1, 0x65}), append([]byte{0, 0, 0, 1, 0x65}, times(100_000, []byte{0, 0, 0, 1})...),
			[]byte("\x00\x00\x00\x01\x67\x42\x00\x00\x00\x01\x68\x00\x00\x00\x01\x65\x88"), // Annex B
			unit([]byte("\x65\x88\x00\x00\x01\x67\x42\x00\x00\x01\x65")),                   // no emulation prevention
			unit([]byte("\x65\x88\x00\x00\x00\x00\x00\x00")),
			unit([]byte("\x06\x06\xFF\xFF\xFF\xFF\xFF\xFF")), // SEI
		} {
			for _, key := range []bool{true, false} {
				e.send(av.Video, 2000+int64(i), flv.AppendVideo(nil, av.H264, key, false, 0, frame))
			}
		}
	})
	add("H81 enhanced headers", func(e *encoder) {
		noise := rand.New(rand.NewPCG(3, 4))
		for _, head := range []byte{0x80, 0x81, 0x90, 0x91, 0x93, 0x94, 0x95, 0x96, 0x97, 0xD0, 0xF0, 0xFF} {
			for _, four := range []string{"avc1", "av01", "vp09", "vp08", "XXXX", "\x00\x00\x00\x00", "\xFF\xFFav"} {
				for n := range 8 {
					b := append([]byte{head}, four...)
					for range n {
						b = append(b, byte(noise.Uint32()))
					}
					e.send(av.Audio, 2000, append([]byte{0x90 | head&15}, b[1:]...))
					if four != "avc1" || head&15 != 0 { // a broken configuration would be cut
						e.send(av.Video, 2000, b)
					}
				}
			}
		}
		e.send(av.Video, 2000, append([]byte{0x97}, times(50_000, []byte{0, 0, 0x07})...)) // ModEx without end
		e.send(av.Video, 2000, append([]byte{0x97, 0xFF, 0xFF, 0xFF}, make([]byte, 70_000)...))
		e.send(av.Video, 2000, append([]byte{0x96, 0x10}, []byte("hvc1\x00\x00\x00\x05abcdehvc1\x01\xFF\xFF\xFF")...)) // many tracks
	})
	return rows
}

// seconds is how many seconds of segments a poller has seen, and how many.
func (p *poller) seconds() (sum float64, n int) {
	for _, d := range p.durations() {
		sum += d
		n++
	}
	return sum, n
}

// H82 to H95: frames that are well formed, and make a bad stream.
func badStreams() []hostileStream {
	timed := func(name string, at func(i int64) int64) hostileStream {
		return hostileStream{name: "H82 timestamps " + name, send: func(e *encoder) {
			e.configure()
			for i := range int64(1000) {
				t := at(i)
				e.video(t, i%25 == 0, 0)
				e.audio(t)
			}
			e.finish()
		}, want: func(w *world, e *encoder, a *audience) {
			if sum, n := a.poller.seconds(); n > 3+int(sum) {
				w.t.Errorf("%d segments of %.1f s in all", n, sum)
			}
		}}
	}
	noise := rand.New(rand.NewPCG(5, 6))
	rows := []hostileStream{
		timed("at random", func(int64) int64 { return int64(noise.Uint32()) }),
		timed("at random within a minute", func(int64) int64 { return int64(noise.IntN(60_000)) }),
		timed("that stand still", func(int64) int64 { return 5000 }),
		timed("that go down", func(i int64) int64 { return 3_600_000 - 40*i }),
		timed("that fall from high", func(i int64) int64 { return 1<<32 - 1 - 40*i }),
		timed("that wrap each second", func(i int64) int64 { return 1<<32 - 500 + i%25*40 }),
		timed("that leap", func(i int64) int64 { return i * 2900 }),
		timed("of both signs", func(i int64) int64 { return (i%2)<<31 + 40*i }),
	}
	add := func(name string, send func(e *encoder), want func(w *world, e *encoder, a *audience)) {
		rows = append(rows, hostileStream{name: name, want: want, send: func(e *encoder) { e.configure(); send(e); e.finish() }})
	}
	add("H83 key frames that are flagged wrong", func(e *encoder) {
		for at := int64(0); at < 10_000; at += 40 {
			nal := []byte{0x41, 0x9A}
			if at%2000 == 0 {
				nal = []byte{0x65, 0x88}
			}
			lie := nal[0] == 0x41
			e.send(av.Video, at, flv.AppendVideo(nil, av.H264, lie, false, 0, unit(append(nal, e.stamp(at)...))))
			e.send(av.Video, at, append([]byte{0x57, 1, 0, 0, 0}, unit(nal)...)) // "info frame"
		}
	}, func(w *world, e *encoder, a *audience) {
		if a.poller.keyless > 0 {
			w.t.Errorf("%d segments do not begin with an IDR picture", a.poller.keyless)
		}
	})
	add("H84 codecs that change with each frame", func(e *encoder) {
		for i := range int64(200) {
			at := 40 * i
			switch i % 4 {
			case 0:
				e.send(av.Video, at, flv.AppendVideo(nil, av.H264, true, true, 0, avcConfig))
				e.video(at, true, 0)
				e.send(av.Audio, at, flv.AppendAudio(nil, av.MP3, false, append([]byte{0xFF, 0xFB, 0x90, 0}, e.stamp(at)...)))
			case 1:
				e.send(av.Video, at, flv.AppendVideo(nil, av.VP9, true, true, 0, []byte{1, 2, 3}))
				e.send(av.Video, at, flv.AppendVideo(nil, av.VP9, true, false, 0, e.stamp(at)))
				e.audio(at)
			case 2:
				e.send(av.Video, at, flv.AppendVideo(nil, av.AV1, true, false, 0, e.stamp(at)))
				e.send(av.Audio, at, flv.AppendAudio(nil, av.Opus, false, e.stamp(at)))
			case 3:
				e.send(av.Video, at, flv.AppendVideo(nil, av.HEVC, true, false, 0, unit(append([]byte{0x26, 1}, e.stamp(at)...))))
			}
		}
	}, nil)
	add("H87 a configuration with each frame", func(e *encoder) {
		for i := range int64(500) {
			c := avcRecord(fmt.Sprintf("\x67\x42\xc0\x1e%05d", i), "\x68\xce\x0f\x2c\x80")
			e.send(av.Video, 40*i, flv.AppendVideo(nil, av.H264, true, true, 0, c))
			e.video(40*i, i%25 == 0, 0)
			e.send(av.Audio, 40*i, flv.AppendAudio(nil, av.AAC, true, [][]byte{aacConfig, otherAACConfig}[i%2]))
			e.audio(40 * i)
		}
	}, func(w *world, e *encoder, a *audience) {
		if _, n := a.poller.seconds(); n > 20 {
			w.t.Errorf("%d segments", n)
		}
	})
	add("H91 a thousand key frames a second", func(e *encoder) {
		for at := range int64(5000) {
			e.video(at, true, 0)
		}
	}, func(w *world, e *encoder, a *audience) {
		d := a.poller.durations()
		for i, s := range d[:len(d)-2] {
			if s < 0.9 {
				w.t.Errorf("segment %d lasts %.3f s", i, s)
			}
		}
	})
	add("H92 never a key frame", func(e *encoder) {
		for at := int64(0); at < from; at += 40 {
			e.video(at, false, 0)
			e.audio(at)
		}
	}, nil)
	add("H93 sound that is another one with each frame", func(e *encoder) {
		for i := range int64(300) {
			at := 20 * i
			switch i % 5 {
			case 0:
				e.audio(at)
			case 1:
				e.send(av.Audio, at, flv.AppendAudio(nil, av.PCMA, false, make([]byte, 160)))
			case 2:
				e.send(av.Audio, at, flv.AppendAudio(nil, av.MP3, false, append([]byte{0xFF, 0xFB, 0x90, 0}, e.stamp(at)...)))
			case 3:
				e.send(av.Audio, at, flv.AppendAudio(nil, av.Opus, false, e.stamp(at)))
			case 4:
				e.send(av.Audio, at, flv.AppendAudio(nil, av.Speex, false, e.stamp(at)))
			}
		}
	}, nil)
	return rows
}

// H85, H95: metadata and other data. It is cut to a size, and its rate too.
func badData() []hostileStream {
	meta := func(e *encoder, vals ...any) {
		e.conn.WritePacket(av.Packet{Kind: av.Data, Tag: amf.Append(nil, vals...)})
	}
	var many amf.Object
	for i := range 900 {
		many = append(many, amf.Property{Name: fmt.Sprintf("key%d", i), Value: strings.Repeat("x", 200)})
	}
	sane := func(w *world, e *encoder, a *audience) {
		for _, v := range a.viewers {
			if b := amf.Append(nil, v.meta); len(b) > 9<<10 {
				w.t.Errorf("metadata by %s takes %d bytes", v.way, len(b))
			}
			for _, p := range v.meta {
				if n, ok := p.Value.(float64); ok && (math.IsNaN(n) || math.IsInf(n, 0) || n < 0 || n > 1<<53) {
					w.t.Errorf("metadata by %s has %s = %v", v.way, p.Name, n)
				}
			}
		}
	}
	row := func(name string, send func(e *encoder)) hostileStream {
		return hostileStream{name: name, want: sane, send: func(e *encoder) { e.configure(); e.film(0, 2000); send(e); e.film(2000, 4000) }}
	}
	tooLong := func(name string, body []byte) hostileStream {
		return hostileStream{name: name, cut: true, send: func(e *encoder) {
			e.configure()
			e.film(0, 1000)
			e.conn.WritePacket(av.Packet{Kind: av.Data, Tag: body})
			e.film(1000, 2000)
		}}
	}
	return []hostileStream{
		tooLong("H85 metadata of 1 MiB", append(amf.Append(nil, "onMetaData"), make([]byte, 1<<20)...)),
		tooLong("H95 onTextData of 1 MiB", amf.Append(nil, "onTextData", strings.Repeat("x", 1<<20))),
		row("H85 many keys", func(e *encoder) { meta(e, "onMetaData", amf.ECMAArray(many)) }),
		row("H85 numbers", func(e *encoder) {
			for _, n := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 1e308, 1 << 40} {
				meta(e, "onMetaData", amf.Object{{Name: "width", Value: n}, {Name: "height", Value: n}, {Name: "framerate", Value: n}, {Name: "x", Value: n}})
			}
		}),
		row("H85 text", func(e *encoder) {
			meta(e, "onMetaData", amf.Object{{Name: "encoder", Value: "<script>alert(1)</script>\r\n\x00\x1b[31m\xff\xfe"}, {Name: "\x00\r\n", Value: 1.0}, {Name: "", Value: 1.0}})
		}),
		row("H85 values that are no objects", func(e *encoder) {
			for _, v := range []any{nil, true, 7.0, "text", []amf.Value{1.0}, amf.Undefined{}} {
				meta(e, "onMetaData", v)
				meta(e, v, amf.Object{})
			}
			meta(e)
			meta(e, "onMetaData")
			meta(e, "onMetaData", amf.Object{})
		}),
		row("H85 with every frame", func(e *encoder) {
			for i := range int64(1000) {
				meta(e, "onMetaData", amf.Object{{Name: "width", Value: float64(i)}})
				e.video(2000+i, i%25 == 0, 0)
			}
		}),
		row("H95 ten thousand messages", func(e *encoder) {
			for i := range 10_000 {
				meta(e, "onTextData", amf.Object{{Name: "text", Value: fmt.Sprint(i)}})
			}
		}),
		row("H95 data frames in data frames", func(e *encoder) {
			meta(e, "@setDataFrame", "@setDataFrame", "onMetaData", amf.Object{{Name: "width", Value: 1.0}})
			meta(e, "@setDataFrame")
			meta(e, "@clearDataFrame", "onMetaData")
			meta(e, "onStatus", amf.Object{{Name: "code", Value: "NetStream.Play.UnpublishNotify"}})
			meta(e, "|RtmpSampleAccess", false, false)
			meta(e, "onFI", strings.Repeat("y", 200<<10))
		}),
	}
}

// Hostile streams: whatever a publisher sends, time goes on for its players,
// and nobody else notices.
func TestHostileStreams(t *testing.T) {
	w := newWorld(t, nil)
	for _, rows := range [][]hostileStream{brokenTags(), badStreams(), badData()} {
		w.streams(t, rows)
	}
}

// H82, H86: frames that were damaged at random; what is left of the stream is a
// transport stream still, for the poller looks at it.
func TestDamagedFrames(t *testing.T) {
	w := newWorld(t, nil)
	w.sub(t, "H86 damaged frames", func() {
		e := w.encoder("burst", "hostile")
		a := w.watch("burst", "hostile", everyWay...)
		e.configure()
		noise := rand.New(rand.NewPCG(7, 8))
		for i := range int64(3000) {
			nal := append([]byte{0x65, 0x88}, times(50, []byte{1, 2, 3, 4})...)
			for _, codec := range []av.Codec{av.H264, av.HEVC} {
				tag := flv.AppendVideo(nil, codec, i%10 == 0, false, 0, unit(nal))
				for range noise.IntN(6) {
					tag[noise.IntN(len(tag))] ^= 1 << noise.IntN(8)
				}
				if tag[0]&0x0F == 0 && tag[0]&0x80 != 0 || tag[0]&0x80 == 0 && tag[1] == 0 {
					continue // a broken configuration would be cut
				}
				e.send(av.Video, 10*i, tag)
			}
		}
		e.shift = 100_000
		e.finish()
		a.reach(e.sent())
		e.leave()
		a.over()
	})
}

// H88, H89, H90: a publisher has so much and no more.
func TestPublisherLimits(t *testing.T) {
	w := newWorld(t, func(c *Config, stage *policy.App) {
		stage.IdleTimeout = 500 * time.Millisecond
		stage.HLS.MaxSegmentSize = 1 << 20
		stage.MaxLead = time.Hour
		c.Limits.GOPCache = 1 << 20
		c.Limits.PublisherRate, c.Limits.PublisherPackets = 16<<20, 1000
	})
	w.sub(t, "H88 no key frame for long", func() {
		heap := heapSize()
		e := w.encoder("stage", "hostile")
		a := w.watch("stage", "hostile", everyWay[:3]...)
		e.configure()
		e.video(0, true, 0)
		e.film(0, 2000)
		big := flv.AppendVideo(nil, av.H264, false, false, 0, unit(append([]byte{0x41, 0x9A}, times(15<<10, []byte{7})...)))
		for at := int64(1); at < 4000; at++ { // 60 MB
			e.send(av.Video, 2000+at*10, big)
		}
		e.film(43_000, 44_000)
		a.reach(e.sent())
		// HLS may be behind by 32 MiB before it leaves frames out.
		if grown := heapSize() - heap; grown > 44<<20 {
			w.t.Errorf("the heap has grown by %d MiB", grown>>20)
		}
		e.leave()
		a.over()
	})
	w.sub(t, "H89 too many bytes", func() {
		e := w.encoder("stage", "hostile")
		body := append([]byte{0x27, 1, 0, 0, 0}, unit(append([]byte{0x41}, make([]byte, 60_000)...))...)
		for range 4000 { // 240 MB
			e.send(av.Video, 0, body)
		}
		e.isCut()
	})
	for name, body := range map[string][]byte{"small frames": {0xAF, 1, 0x21}, "frames of a byte": {0xAF}, "empty frames": {}} {
		w.sub(t, "H89 too many "+name, func() {
			e := w.encoder("stage", "hostile")
			burst := times(10_000, rtmp.AppendMessage(nil, 128, 4, rtmp.TypeAudio, 0, 1, body))
			go func() { // ends when the server closes the connection
				for {
					if _, err := e.conn.NetConn().Write(burst); err != nil {
						return
					}
				}
			}()
			e.isCut()
		})
	}
	w.sub(t, "H90 a frame that never ends", func() {
		e := w.encoder("stage", "hostile")
		e.configure()
		e.film(0, 1000)
		v := w.watch("stage", "hostile", access.FLV)
		whole := rtmp.AppendMessage(nil, 1000, 4, rtmp.TypeVideo, 0, 1, make([]byte, 1<<20))
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		late := time.After(patience)
		for i := 0; ; i++ { // a byte at a time; silence is that no frame comes
			if _, err := e.conn.NetConn().Write(whole[i : i+1]); err != nil {
				break
			}
			select {
			case <-tick.C:
				continue
			case <-late:
				w.t.Error("the publisher is not ended")
			}
			break
		}
		e.vanish()
		v.over()
	})
}

func heapSize() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
