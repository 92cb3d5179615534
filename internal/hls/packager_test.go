package hls

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Codec configurations of real encoders.
var (
	avcConfig    = unhex("0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800")
	avcConfig2   = unhex("0142c028ffe1001a6742c028d900780227e5c044000003000400000300f03c60c92001000568cb83cb20")
	aacConfig    = unhex("1210") // LC, 44.1 kHz, stereo
	aacConfig48k = unhex("1190")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func videoConfig(b []byte) av.Packet {
	return av.Packet{Kind: av.Video, Codec: av.H264, Config: true, Frame: b}
}

func audioConfig(b []byte) av.Packet {
	return av.Packet{Kind: av.Audio, Codec: av.AAC, Config: true, Frame: b}
}

// video makes a frame of n bytes of coded picture.
func video(dts int64, key bool, n int) av.Packet {
	head := byte(0x41)
	if key {
		head = 0x65
	}
	n++
	frame := append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), head}, bytes.Repeat([]byte{0x55}, n-1)...)
	return av.Packet{Kind: av.Video, Codec: av.H264, Key: key, DTS: dts, Frame: frame}
}

func audio(dts int64) av.Packet {
	return av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: dts, Frame: bytes.Repeat([]byte{0x21}, 100)}
}

// encoder plays an encoder: 25 frames per second with a key frame every gop
// ms, sound every 20 ms, from its time on.
type encoder struct {
	at      int64 // ms
	gop     int64 // ms
	size    int   // of a video frame
	picture bool
	sound   bool
	codec   av.Codec // of the sound; Unknown: AAC
	lastKey int64
}

// run returns the packets of the next ms milliseconds.
func (e *encoder) run(ms int64) (packets []av.Packet) {
	for end := e.at + ms; e.at < end; e.at += 20 {
		if e.picture && e.at%40 == 0 {
			key := e.gop > 0 && e.at-e.lastKey >= e.gop
			if key {
				e.lastKey = e.at
			}
			packets = append(packets, video(e.at, key, max(e.size, 50)))
		}
		if e.sound {
			p := audio(e.at)
			if e.codec != av.Unknown {
				p.Codec = e.codec
			}
			packets = append(packets, p)
		}
	}
	return packets
}

// both returns an encoder of picture and sound, whose first frame is a key frame.
func both(gop int64) *encoder {
	return &encoder{gop: gop, picture: true, sound: true, lastKey: -gop}
}

var configs = []av.Packet{videoConfig(avcConfig), audioConfig(aacConfig)}

// broken returns packets with Break on the first.
func broken(packets ...av.Packet) []av.Packet {
	packets = append([]av.Packet(nil), packets...)
	packets[0].Break = true
	return packets
}

func withSets(p av.Packet, sps string) av.Packet {
	u := unhex(sps)
	p.Frame = append(append([]byte{0, 0, 0, byte(len(u))}, u...), p.Frame...)
	return p
}

// pack runs packets through a Packager and checks what must hold for any
// (I9, I10).
func pack(t testing.TB, cfg policy.HLS, packets ...[]av.Packet) (segments []Segment, seconds int) {
	t.Helper()
	const from = 1234567
	var p *Packager
	p = NewPackager(cfg, quiet(), Past{From: from}, nil, nil, func(s Segment) {
		segments = append(segments, s)
		if seconds == 0 {
			seconds = p.TargetDuration()
		}
		if p.TargetDuration() != seconds {
			t.Errorf("target duration changed from %d to %d", seconds, p.TargetDuration())
		}
	})
	for _, list := range packets {
		for _, pkt := range list {
			if err := p.WritePacket(pkt); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Close()
	last, end := int64(from), p.End()
	var dts [2]int64
	var stream []byte
	for i, s := range segments {
		if s.PTS <= last || s.PTS >= end {
			t.Errorf("segment %d at %d, want one between %d and %d", i, s.PTS, last, end)
		}
		last = s.PTS
		if n := (s.Duration + 500*time.Millisecond) / time.Second; s.Duration <= 0 || int(n) > seconds {
			t.Errorf("segment %d lasts %v, target duration %d s", i, s.Duration, seconds)
		}
		if i == 0 && s.Discontinuity {
			t.Errorf("the first segment follows a discontinuity")
		}
		if video, audio, key := look(t, s.Data); !video && !audio {
			t.Errorf("segment %d has no frame", i)
		} else if key {
			pkt, err := mpegts.NewDemuxer(bytes.NewReader(s.Data)).ReadPacket()
			if err != nil || !pkt.Config {
				t.Errorf("segment %d begins with %+v, %v, not with a configuration", i, pkt, err)
			}
		}
		stream = append(stream, s.Data...)
	}
	for i, p := range pesTimes(stream) {
		// What follows comes after, and less than half of a wrap after.
		before := func(a, b int64) bool { d := (b - a) & (mpegts.Wrap - 1); return d > 0 && d < mpegts.Wrap/2 }
		if old := dts[p.track]; old != 0 && (!before(old, p.dts) || before(p.pts, p.dts)) {
			t.Errorf("PES packet %d of track %d: DTS %d after %d, PTS %d", i, p.track, p.dts, old, p.pts)
		}
		dts[p.track] = p.dts
	}
	return segments, seconds
}

type pesTime struct {
	track    int
	pts, dts int64
}

// pesTimes returns the times of all PES packets.
func pesTimes(b []byte) (all []pesTime) {
	read := func(b []byte) int64 {
		return int64(b[0]>>1&7)<<30 | int64(b[1])<<22 | int64(b[2]>>1)<<15 | int64(b[3])<<7 | int64(b[4]>>1)
	}
	for ; len(b) > 0; b = b[188:] {
		track := int(b[1]&0x1F)<<8 | int(b[2]) - 0x100
		if b[1]&0x40 == 0 || track != 0 && track != 1 {
			continue
		}
		p := b[4:]
		if b[3]&0x20 != 0 {
			p = p[1+p[0]:]
		}
		x := pesTime{track: track, pts: read(p[9:])}
		if x.dts = x.pts; p[7]&0x40 != 0 {
			x.dts = read(p[14:])
		}
		all = append(all, x)
	}
	return all
}

// look says whether a segment has video and audio and begins with a key frame.
func look(t testing.TB, b []byte) (video, audio, key bool) {
	for n := 0; n < len(b); n += 188 {
		p := b[n:]
		if p[0] != 0x47 {
			t.Fatalf("no transport packet at %d", n)
		}
		if p[3]&0x10 == 0 { // no payload
			continue
		}
		switch int(p[1]&0x1F)<<8 | int(p[2]) {
		case 0x100:
			if !video && !audio {
				key = p[3]&0x20 != 0 && p[5]&0x40 != 0 // random_access_indicator
			}
			video = true
		case 0x101:
			audio = true
		}
	}
	return video, audio, key
}

// describe writes what segments there are: duration, v and a for the tracks, k
// if it begins with a key frame, | before a discontinuity.
func describe(segments []Segment, seconds int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "target %d", seconds)
	last, n := "", 0
	flush := func() {
		if n > 1 {
			fmt.Fprintf(&b, " x%d", n)
		}
		n = 0
	}
	for _, s := range segments {
		var line strings.Builder
		if s.Discontinuity {
			line.WriteString("| ")
		}
		fmt.Fprintf(&line, "%.3f", s.Duration.Seconds())
		video, audio, key := look(nil, s.Data)
		for _, x := range []struct {
			is   bool
			mark byte
		}{{video, 'v'}, {audio, 'a'}, {key, 'k'}} {
			if x.is {
				line.WriteByte(x.mark)
			}
		}
		if line.String() != last {
			flush()
			last = line.String()
			fmt.Fprintf(&b, ", %s", last)
		}
		n++
	}
	flush()
	return b.String()
}

func config(change func(*policy.HLS)) policy.HLS {
	var app policy.App
	app.SetDefaults()
	if change != nil {
		change(&app.HLS)
	}
	return app.HLS
}

func TestPackager(t *testing.T) {
	list := func(l ...[]av.Packet) [][]av.Packet { return l }
	noSound := func(e *encoder) *encoder { e.sound = false; return e }
	for _, c := range []struct {
		name    string
		packets func() [][]av.Packet
		want    string
	}{
		{"2 s GOP", func() [][]av.Packet { return list(configs, both(2000).run(9000)) },
			"target 2, 2.000vak x4, 1.000vak"},
		{"1 s GOP", func() [][]av.Packet { return list(configs, both(1000).run(8000)) },
			"target 2, 2.000vak x4"},
		{"4 s GOP", func() [][]av.Packet { return list(configs, both(4000).run(16_000)) },
			"target 4, 4.000vak x4"},
		{"10 s GOP", func() [][]av.Packet { return list(configs, both(10_000).run(30_000)) },
			"target 10, 10.000vak x3"},
		{"rounded timestamps", func() [][]av.Packet { return list(configs, both(1960).run(9800)) },
			"target 2, 1.960vak x5"},
		{"F16: video only", func() [][]av.Packet { return list(configs[:1], noSound(both(2000)).run(6000)) },
			"target 2, 2.000vk x3"},
		{"F16: audio only", func() [][]av.Packet { return list(configs[1:], (&encoder{sound: true}).run(6000)) },
			"target 2, 2.000a x3"},
		{"F16: audio 30 s late", func() [][]av.Packet {
			e := noSound(both(2000))
			l := list(configs[:1], e.run(30_500))
			e.sound = true
			return append(l, configs[1:], e.run(5500))
		}, "target 2, 2.000vk x15, | 2.000vak, 2.000vak x2"},
		{"F16: video late", func() [][]av.Packet {
			e := &encoder{sound: true, gop: 2000, lastKey: -2000}
			l := list(configs[1:], e.run(5500))
			e.picture = true
			e.lastKey = 5500 - 1020
			return append(l, configs[:1], e.run(5500))
		}, "target 2, 2.000a x3, | 2.480va, 2.000vak, 0.520vak"},
		{"F16: video away for a minute", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(5000))
			e.picture = false
			l = append(l, e.run(60_000))
			e.picture = true
			return append(l, e.run(4000))
		}, "target 2, 2.000vak x2, 2.499vak, 2.001a, 2.000a x28, 2.460va, 2.040va"},
		{"F19: key frames 60 s apart", func() [][]av.Packet { return list(configs, both(60_000).run(90_000)) },
			"target 30, 30.000vak, 30.000va, 30.000vak"},
		{"H92: never a key frame", func() [][]av.Packet {
			e := both(0)
			return list(configs, e.run(20_000))
		}, "target 6, 6.000va, 6.480va, 1.520va"},
		{"key frames further apart later", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000))
			e.gop = 10_000
			return append(l, e.run(26_000))
		}, "target 2, 2.000vak, 2.480vak, 2.480va x10, 0.720va"},
		{"H91: only key frames", func() [][]av.Packet {
			l := list(configs)
			for i := range int64(6000) {
				l = append(l, []av.Packet{video(i, true, 10)})
			}
			return l
		}, "target 2, 1.800vk x3, 0.600vk"},
		{"F01: the publisher returns", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(5000))
			e.at += 5000
			e.lastKey = 0
			return append(l, broken(configs...), e.run(4000))
		}, "target 2, 2.000vak x2, 1.000vak, | 2.000vak, 2.000vak"},
		{"F04: with another picture and no sound", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000))
			e.sound, e.lastKey = false, 0
			return append(l, broken(videoConfig(avcConfig2)), e.run(4000))
		}, "target 2, 2.000vak x2, | 2.000vk, 2.000vk"},
		{"F04: with sound alone", func() [][]av.Packet {
			return list(configs, both(2000).run(4000), broken(configs[1]), (&encoder{at: 4000, sound: true}).run(8000))
		}, "target 2, 2.000vak x2, | 2.000a, 2.000a x2"},
		{"F04: with sound alone, after a codec without HLS", func() [][]av.Packet {
			return list([]av.Packet{{Kind: av.Video, Codec: av.AV1, Config: true, Frame: []byte{0x81, 0, 0, 0}}}, configs[1:],
				(&encoder{sound: true}).run(4000), broken(configs[1]), (&encoder{at: 4000, sound: true}).run(8000))
		}, "target 2, 2.000a x3"},
		{"F04: with sound first", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000), broken(configs[1]))
			e.picture, e.lastKey = false, 4000
			l = append(l, e.run(1900), configs[:1], e.run(100))
			e.picture = true
			return append(l, e.run(4000))
		}, "target 2, 2.000vak x2, | 2.000vak, 2.000vak"},
		{"F14: the configuration repeats", func() [][]av.Packet {
			e := both(1000)
			l := list(configs)
			for range 6 {
				l = append(l, configs, e.run(1000))
			}
			return l
		}, "target 2, 2.000vak x3"},
		{"F14: the configuration changes", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000), []av.Packet{videoConfig(avcConfig2)}, e.run(4000))
			return append(l, []av.Packet{audioConfig(aacConfig48k)}, e.run(4000))
		}, "target 2, 2.000vak x2, | 2.000vak, 2.000vak, | 2.000vak, 2.000vak"},
		{"F14: it changes, that of the sound after the key frame", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000), broken(videoConfig(avcConfig2)))
			e.sound = false
			l = append(l, e.run(80), broken(audioConfig(aacConfig48k)))
			e.sound = true
			return append(l, e.run(5920))
		}, "target 2, 2.000vak x2, | 2.000vak, 2.000vak x2"},
		{"F14: the same without Break", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(4000), []av.Packet{videoConfig(avcConfig2)})
			e.sound = false
			l = append(l, e.run(80), []av.Packet{audioConfig(aacConfig48k)})
			e.sound = true
			return append(l, e.run(5920))
		}, "target 2, 2.000vak x2, | 2.000vak, 2.000vak x2"},
		{"F14: parameter sets only in band", func() [][]av.Packet {
			e := noSound(both(2000))
			l := list(configs[:1])
			for i, sets := range []string{"6764001f", "6764001f", "67640020", "67640020"} {
				l = append(l, e.run(2000))
				l[i+1][0] = withSets(l[i+1][0], sets)
			}
			return l
		}, "target 2, 2.000vk x2, | 2.000vk, 2.000vk"},
		{"changes all the time", func() [][]av.Packet {
			l := list(configs)
			for i := range 100 {
				e := both(2000)
				e.at = int64(i) * 300
				l = append(l, broken(e.run(300)...))
			}
			return l
		}, "target 2, 0.280vak"},
		{"a hole in time", func() [][]av.Packet {
			e := both(2000)
			l := list(configs, e.run(3000))
			e.at += 10_000
			return append(l, e.run(4000))
		}, "target 2, 2.000vak, 1.000vak, | 2.000vak, 2.000vak"},
		{"codec without HLS", func() [][]av.Packet {
			return list([]av.Packet{{Kind: av.Video, Codec: av.AV1, Config: true, Frame: []byte{0x81, 0, 0, 0}}}, configs[1:],
				(&encoder{sound: true}).run(6000), []av.Packet{{Kind: av.Video, Codec: av.AV1, Key: true, DTS: 6000, Frame: []byte{1}}})
		}, "target 0"},
		{"sound without HLS", func() [][]av.Packet {
			l := list(configs[:1], noSound(both(2000)).run(4000))
			return append(l, []av.Packet{{Kind: av.Audio, Codec: av.Opus, DTS: 4000, Frame: []byte{1}}})
		}, "target 2, 2.000vk x2"},
		{"metadata", func() [][]av.Packet {
			return list([]av.Packet{{Kind: av.Data, Tag: []byte{2}}}, configs, both(2000).run(4000))
		}, "target 2, 2.000vak x2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			segments, seconds := pack(t, config(nil), c.packets()...)
			if got := describe(segments, seconds); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// The first segment is cut without a key frame if a player waits for it.
func TestPackagerHurry(t *testing.T) {
	var got []Segment
	waits := true
	p := NewPackager(config(nil), quiet(), Past{}, nil, func() bool { return waits }, func(s Segment) { got, waits = append(got, s), false })
	for _, pkt := range append(configs, both(60_000).run(21_000)...) {
		p.WritePacket(pkt)
	}
	if len(got) != 2 || got[0].Duration != 9980*time.Millisecond && got[0].Duration != 10*time.Second || p.TargetDuration() != 10 {
		t.Errorf("segments %s", describe(got, p.TargetDuration()))
	}
}

// A Packager that goes on from another one.
func TestPackagerContinues(t *testing.T) {
	var got []Segment
	p := NewPackager(config(nil), quiet(), Past{From: 1 << 50, Seconds: 3}, nil, nil, func(s Segment) { got = append(got, s) })
	for _, pkt := range append(configs, both(10_000).run(21_000)...) {
		p.WritePacket(pkt)
	}
	p.Close()
	if got[0].PTS < 1<<50 || !got[0].Discontinuity || got[1].Discontinuity {
		t.Errorf("first segment at %d, discontinuity %v", got[0].PTS, got[0].Discontinuity)
	}
	if want := "target 3, | 3.480vak, 3.480va, 3.040va, 3.480vak"; !strings.HasPrefix(describe(got, p.TargetDuration()), want) {
		t.Errorf("got  %s\nwant %s...", describe(got, p.TargetDuration()), want)
	}
}

// H88: a segment is cut when it has its size, whatever there is.
func TestPackagerSize(t *testing.T) {
	e := both(0)
	e.size = 100_000
	segments, _ := pack(t, config(func(c *policy.HLS) { c.MaxSegmentSize = 1 << 20 }), configs,
		[]av.Packet{video(0, true, 10)}, e.run(8000))
	if len(segments) < 15 {
		t.Errorf("%d segments of 20 MB", len(segments))
	}
	for i, s := range segments {
		if len(s.Data) > 1<<20+1<<17 {
			t.Errorf("segment %d has %d bytes", i, len(s.Data))
		}
	}
}

// A segment's time is that of its first frame, whatever the burst from the cache
// before the first packet that is really new.
func TestPackagerTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Segment
		p := NewPackager(config(nil), quiet(), Past{}, nil, nil, func(s Segment) { got = append(got, s) })
		e := both(2000)
		e.at = 100_000
		for _, pkt := range append(configs, e.run(1500)...) { // at once
			p.WritePacket(pkt)
		}
		start := time.Now().Add(-1500 * time.Millisecond)
		for range 200 {
			time.Sleep(20 * time.Millisecond)
			for _, pkt := range e.run(20) {
				p.WritePacket(pkt)
			}
		}
		for i, s := range got {
			want := start.Add(time.Duration(i) * 2 * time.Second)
			if d := s.Time.Sub(want); d < 0 || d > 40*time.Millisecond {
				t.Errorf("segment %d at %v, want %v", i, s.Time, want)
			}
		}
		if len(got) != 2 {
			t.Errorf("%d segments, want 2", len(got))
		}
	})
}

func TestPackagerGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		segments, _ := pack(t, config(nil), configs, both(2000).run(2100))
		var text strings.Builder
		for _, s := range segments {
			fmt.Fprintf(&text, "%d %v %v\n", s.PTS, s.Duration, s.Time.UTC().Format(time.RFC3339Nano))
			for b := s.Data; len(b) > 0; b = b[188:] {
				fmt.Fprintf(&text, "%x\n", b[:min(188, 40)])
			}
		}
		name := filepath.Join("testdata", "packager.txt")
		if *update {
			if err := os.WriteFile(name, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if text.String() != string(want) {
			t.Errorf("segments differ from %s", name)
		}
	})
}

// H82: whatever the timestamps, segments stay as they must be.
func TestPackagerWildTimes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func(i int64) int64{
		"random":     func(int64) int64 { return r.Int64N(1 << 24) },
		"constant":   func(int64) int64 { return 77 },
		"descending": func(i int64) int64 { return 1<<24 - 40*i },
		"wrapping":   func(i int64) int64 { return i * 40 % 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			packets := append([]av.Packet(nil), configs...)
			for i := range int64(3000) {
				packets = append(packets, video(next(i), i%50 == 0, 20), audio(next(i)))
			}
			segments, _ := pack(t, config(nil), packets)
			if len(segments) > 3000 {
				t.Errorf("%d segments of 3000 frames", len(segments))
			}
		})
	}
}

// Mutated packets: the rules that hold for any segments hold for theirs.
func FuzzPackager(f *testing.F) {
	f.Add([]byte("\x00\x28\x01\x14\x01\x14\x00\x28\x10\xff\x00\x28\x20\x00\x00\x28\x01\xff\x00\xff\x01\xff"), uint8(0))
	f.Add(bytes.Repeat([]byte{0x80, 0xff, 0x01, 0x7f, 0x02, 0xff}, 40), uint8(1))
	f.Add(bytes.Repeat([]byte{0x00, 0x28, 0x01, 0x14, 0x40, 0x01, 0x03, 0x99}, 60), uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, variant uint8) {
		if len(script) > 4000 {
			return
		}
		packets := []av.Packet{videoConfig(avcConfig), audioConfig(aacConfig)}[variant%3/2:]
		dts := int64(0)
		for ; len(script) >= 2; script = script[2:] {
			op, arg := script[0], script[1]
			dts += int64(arg)
			var p av.Packet
			switch op & 7 {
			case 0:
				p = video(dts, op&8 != 0, int(arg))
				p.CTS = int32(int8(arg)) * 10
			case 1:
				p = audio(dts)
			case 2:
				dts += int64(arg) * 10
				p = video(dts, true, 3)
			case 3:
				p = [...]av.Packet{videoConfig(avcConfig), videoConfig(avcConfig2), audioConfig(aacConfig), audioConfig(aacConfig48k)}[arg&3]
				p.DTS = dts
			case 4:
				p = video(dts, op&8 != 0, 30)
				p.Frame = bytes.Clone(p.Frame)
				p.Frame[int(arg)%len(p.Frame)] ^= op
			case 5:
				p = withSets(video(dts, true, 5), [...]string{"6764001f", "67640020"}[arg&1])
			case 6:
				p = av.Packet{Kind: av.Audio, Codec: av.MP3, DTS: dts, Frame: []byte{0xFF, 0xFB, arg, op, 1}}
			case 7:
				dts -= int64(arg) * 300
				p = video(dts, true, 3)
			}
			p.Break = op&0xF0 == 0xF0
			packets = append(packets, p)
		}
		pack(t, config(nil), packets)
	})
}

// A stream of sound alone that cannot be packaged is refused until it can.
func TestPackagerSoundAlone(t *testing.T) {
	var text bytes.Buffer
	p := NewPackager(policy.DefaultApp("a").HLS, slog.New(slog.NewTextHandler(&text, nil)), Past{}, nil, nil, func(Segment) {})
	play := func(codec av.Codec, from, to int64) {
		for at := from; at < to; at += 20 {
			pkt := audio(at)
			pkt.Codec = codec
			p.WritePacket(pkt)
		}
	}
	play(av.Opus, 0, 2000)
	if c := p.Refused(); c != av.Unknown || text.Len() > 0 {
		t.Errorf("within a segment's time: refused because of %v; log: %s", c, &text)
	}
	play(av.Opus, 2000, 4000)
	if c := p.Refused(); c != av.Opus || strings.Count(text.String(), "no HLS") != 1 {
		t.Errorf("after it: refused because of %v; log: %s", c, &text)
	}
	play(av.MP3, 4000, 4020)
	if c := p.Refused(); c != av.Unknown {
		t.Errorf("MP3: refused because of %v", c)
	}
	play(av.Opus, 4020, 8000)
	p.WritePacket(configs[0])
	if c := p.Refused(); c != av.Unknown {
		t.Errorf("with video: refused because of %v", c)
	}
}

// H84: codecs that come and go fill no log.
func TestPackagerSaysItOnce(t *testing.T) {
	var text bytes.Buffer
	p := NewPackager(policy.DefaultApp("a").HLS, slog.New(slog.NewTextHandler(&text, nil)), Past{}, nil, nil, func(Segment) {})
	for i := range int64(100) {
		for _, c := range []struct {
			kind  av.Kind
			codec av.Codec
		}{{av.Video, av.H264}, {av.Audio, av.AAC}, {av.Audio, av.Opus}, {av.Video, av.AV1}, {av.Audio, av.Opus}} {
			p.WritePacket(av.Packet{Kind: c.kind, Codec: c.codec, DTS: 40 * i, Frame: []byte{1}})
		}
	}
	if n := strings.Count(text.String(), "not supported"); n != 2 {
		t.Errorf("the log says %d times what is not supported:\n%.2000s", n, &text)
	}
}

// numbered is a Line whose eras begin when the test says so.
type numbered struct {
	origin int64 // ms
	era    uint64
	asked  int // for another era
}

func (l *numbered) Clock() (time.Time, int64, bool) { return time.UnixMilli(l.origin), l.origin, true }
func (l *numbered) Era() uint64                     { return l.era }

func (l *numbered) NextEra(after uint64) uint64 {
	l.asked++
	l.era = max(l.era, after+1)
	return l.era
}

// Segments have the numbers of the line, and what the line doesn't know of is made known.
func TestPackagerEras(t *testing.T) {
	l := &numbered{origin: 5_000_000, era: 7}
	var got []Segment
	e := both(2000)
	// The playlist has had all up to 3 s already.
	p := NewPackager(config(nil), quiet(), Past{From: 5_003_000 * 90, Era: 7}, l, nil, func(s Segment) { got = append(got, s) })
	write := func(list []av.Packet) {
		for _, pkt := range list {
			p.WritePacket(pkt)
		}
	}
	write(configs)
	write(e.run(8000)) // 4, 6
	l.era = 8          // another publisher
	write(broken(configs...))
	write(e.run(4000)) // 8, 10
	if l.asked != 0 {
		t.Errorf("an era was asked for where there was one")
	}
	write([]av.Packet{videoConfig(avcConfig2)}) // the line has it that this is nothing
	write(e.run(4000))                          // 12, 14
	l.era = 12                                  // somebody else has found something, thrice
	write(e.run(4000))                          // 16, 18
	p.Close()
	var text strings.Builder
	for _, s := range got {
		mark := ""
		if s.Discontinuity {
			mark = "| "
		}
		fmt.Fprintf(&text, "%s%d: %d, ", mark, (s.PTS/90-5_000_000)/1000, s.Era)
	}
	if want := "4: 7, 6: 7, | 8: 8, 10: 8, | 12: 9, 14: 9, | 16: 12, 18: 12, "; text.String() != want || l.asked != 1 {
		t.Errorf("segments (time: era) %s, want %s; an era was asked for %d times, want once", text.String(), want, l.asked)
	}
}
