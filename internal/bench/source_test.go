package bench

import (
	"bytes"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// play returns what a publisher would send of s up to a time, as packets.
func play(t *testing.T, s *source, until time.Duration) (packets []av.Packet) {
	t.Helper()
	var parser flv.Parser
	parse := func(f *frame, at time.Duration) {
		p, err := parser.Packet(f.typ, at.Milliseconds(), f.body)
		if err != nil {
			t.Fatalf("tag of type %d at %v: %v", f.typ, at, err)
		}
		packets = append(packets, p)
	}
	for i := range s.head {
		parse(&s.head[i], 0)
	}
	c := newCursor(s)
	for {
		f, at, from := c.peek()
		if at >= until {
			return packets
		}
		parse(f, at)
		c.advance(from)
	}
}

func TestSynthetic(t *testing.T) {
	for _, c := range []struct {
		bitrate, audio int64
		fps            float64
		gop            time.Duration
	}{
		{1_000_000, 96_000, 25, 2 * time.Second},
		{3_000_000, 128_000, 30, time.Second},
		{600_000, 0, 24, 2500 * time.Millisecond},
		{300_000, 32_000, 15, 200 * time.Millisecond},
	} {
		s, err := synthetic(c.bitrate, c.audio, c.fps, c.gop)
		if err != nil {
			t.Fatalf("synthetic(%v): %v", c, err)
		}
		const seconds = 10
		var frames, keys, size int
		last := map[av.Kind]int64{}
		for _, p := range play(t, s, seconds*time.Second) {
			if p.Config || p.Kind == av.Data {
				continue
			}
			size += len(p.Tag) + flv.TagOverhead
			if step := p.DTS - last[p.Kind]; step < 0 || step > 70 {
				t.Errorf("%v: %v frame %d ms after the one before", c, p.Kind, step)
			}
			last[p.Kind] = p.DTS
			if p.Kind != av.Video {
				continue
			}
			frames++
			units, err := av.NALUs(nil, p.Frame, 4)
			if err != nil || len(units) != 2 || av.H264Type(units[0]) != av.H264SEI {
				t.Fatalf("%v: NALUs = %d units, %v, want SEI and slice", c, len(units), err)
			}
			if p.Key {
				keys++
			}
			if p.Key != (av.H264Type(units[1]) == av.H264IDR) || p.Key != keyFrame(p.Tag) {
				t.Errorf("%v: key is %v, slice is of type %d, keyFrame says %v", c, p.Key, av.H264Type(units[1]), keyFrame(p.Tag))
			}
			if bytes.Contains(units[1], []byte{0}) {
				t.Errorf("%v: slice has a zero byte", c)
			}
		}
		if want := int(c.fps * seconds); frames != want {
			t.Errorf("%v: %d frames in %d s, want %d", c, frames, seconds, want)
		}
		if want := seconds * int(time.Second) / int(c.gop); keys != want {
			t.Errorf("%v: %d key frames in %d s, want %d", c, keys, seconds, want)
		}
		if got := float64(size) * 8 / seconds; got < 0.98*float64(c.bitrate) || got > 1.01*float64(c.bitrate) {
			t.Errorf("%v: %.0f bit/s", c, got)
		}
	}
	if _, err := synthetic(1e6, 0, 25, time.Millisecond); err == nil {
		t.Error("synthetic with a GOP shorter than a frame succeeded")
	}
	info, err := av.ParseVideoInfo(av.H264, (&av.AVCConfig{LengthSize: 4, SPS: [][]byte{syntheticSPS}, PPS: [][]byte{syntheticPPS}}).Append(nil))
	if err != nil || info.Width != 640 || info.Height != 360 {
		t.Errorf("ParseVideoInfo = %+v, %v, want 640x360", info, err)
	}
}

func TestClocksOfSource(t *testing.T) {
	s, err := synthetic(1e6, 96e3, 25, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.tracks[0].frames {
		body := bytes.Clone(f.body)
		putClock(body[f.clock:f.clock+clockSize], 12345678901234567, 42)
		if wall, number, ok := findClock(body[:headSize]); wall != 12345678901234567 || number != 42 || !ok {
			t.Fatalf("findClock of the frame at %v = %d, %d, %v", f.at, wall, number, ok)
		}
	}
	for _, f := range append(s.head, s.tracks[1].frames...) {
		if f.clock != 0 {
			t.Errorf("tag of type %d has a clock", f.typ)
		}
	}
}

func TestFromFLV(t *testing.T) {
	made, err := synthetic(500e3, 64e3, 25, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	want := play(t, made, 2*time.Second)
	var file bytes.Buffer
	m := flv.NewMuxer(&file, true, true)
	for _, p := range want {
		p.DTS += 5000 // files need not begin at zero
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	s, err := fromFLV(&file)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.head) != 3 || len(s.tracks) != 2 || s.tracks[0].length != 2*time.Second || s.tracks[1].length != 2*time.Second {
		t.Fatalf("fromFLV: %d tags of head, %d tracks of %v, want 3, 2 of 2s", len(s.head), len(s.tracks), s.tracks[0].length)
	}
	var video []av.Packet
	for _, p := range play(t, s, 6*time.Second) {
		if p.Kind == av.Video && !p.Config {
			video = append(video, p)
		}
	}
	if len(video) != 150 {
		t.Errorf("three rounds have %d frames, want 150", len(video))
	}
	for i, p := range video {
		units, err := av.NALUs(nil, p.Frame, 4)
		if err != nil || len(units) != 3 || p.DTS != int64(i)*40 || p.Key != (i%25 == 0) {
			t.Fatalf("frame %d: %d units, %v, DTS %d, key %v", i, len(units), err, p.DTS, p.Key)
		}
	}
	for _, f := range s.tracks[0].frames {
		putClock(f.body[f.clock:f.clock+clockSize], 99, 7)
		if wall, number, ok := findClock(f.body); wall != 99 || number != 7 || !ok {
			t.Errorf("findClock = %d, %d, %v, want 99, 7, true", wall, number, ok)
		}
	}
	if _, err := fromFLV(bytes.NewReader(flv.AppendHeader(nil, true, true))); err == nil {
		t.Error("fromFLV of a file without frames succeeded")
	}
}

func TestWriteFLV(t *testing.T) {
	c := command(t, "--publish=rtmp://h/a/s", "--gop=1s")
	var file bytes.Buffer
	if err := c.WriteFLV(&file, 3*time.Second); err != nil {
		t.Fatal(err)
	}
	s, err := fromFLV(&file)
	if err != nil || len(s.head) != 3 || len(s.tracks) != 2 || len(s.tracks[0].frames) != 75 || s.tracks[0].length != 3*time.Second {
		t.Errorf("fromFLV of what WriteFLV wrote = %d tags of head, %d tracks, %v", len(s.head), len(s.tracks), err)
	}
}
