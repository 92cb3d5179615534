package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// A source is what publishers send, without end: each of its tracks is a round
// of frames that comes again and again, in continuous time. It is made once
// and shared by all publishers.
type source struct {
	head   []frame // metadata and codec configuration, sent once
	tracks []track
}

type track struct {
	frames []frame
	length time.Duration // of a round
}

// A frame is one FLV tag body.
type frame struct {
	typ   byte
	at    time.Duration // when it is due in its round
	body  []byte
	clock int // where in body the clock goes; 0: it has none
}

// A cursor is one publisher's place in a source.
type cursor struct {
	src   *source
	turns []turn // of each track
}

type turn struct{ round, next int }

func newCursor(src *source) cursor { return cursor{src, make([]turn, len(src.tracks))} }

// peek returns the frame that is due next, its time since the beginning and its track.
func (c *cursor) peek() (f *frame, at time.Duration, from int) {
	for i := range c.src.tracks {
		t, turn := &c.src.tracks[i], c.turns[i]
		due := time.Duration(turn.round)*t.length + t.frames[turn.next].at
		if f == nil || due < at {
			f, at, from = &t.frames[turn.next], due, i
		}
	}
	return f, at, from
}

// advance goes past the frame that peek gave, which was of that track.
func (c *cursor) advance(from int) {
	turn := &c.turns[from]
	if turn.next++; turn.next == len(c.src.tracks[from].frames) {
		turn.round, turn.next = turn.round+1, 0
	}
}

// The parameter sets of the built-in source: 640x360, constrained baseline, level 3.0.
var (
	syntheticSPS = []byte("\x67\x42\xc0\x1e\xda\x02\x80\xbf\xe5\xc0\x44\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x58\xba\x80")
	syntheticPPS = []byte("\x68\xce\x0f\x2c\x80")
)

const (
	keyWeight  = 6    // a key frame is so many times as long as another one
	aacFrame   = 1024 // samples
	aacRate    = 48_000
	aacMinimum = 8 // bytes
)

// synthetic returns a source of H.264 and AAC in the given bits per second and
// frames per second, FLV tag headers included, with a key frame each gop. The
// NAL units are well formed and the slices' content is noise.
func synthetic(bitrate, audio int64, fps float64, gop time.Duration) (*source, error) {
	n := int(gop.Seconds()*fps + 0.5)
	if n < 1 || fps > 1000 {
		return nil, fmt.Errorf("%v frames a second and a key frame each %v make no video", fps, gop)
	}
	config := &av.AVCConfig{LengthSize: 4, SPS: [][]byte{syntheticSPS}, PPS: [][]byte{syntheticPPS}}
	s := &source{head: []frame{{typ: flv.TypeScript, body: amf.Append(nil, "@setDataFrame", "onMetaData", amf.ECMAArray{
		{Name: "width", Value: 640.0}, {Name: "height", Value: 360.0}, {Name: "framerate", Value: fps}, {Name: "videocodecid", Value: 7.0},
		{Name: "videodatarate", Value: float64(bitrate-audio) / 1000}, {Name: "encoder", Value: "weir bench"},
	})}, {typ: flv.TypeVideo, body: flv.AppendVideo(nil, av.H264, true, true, 0, config.Append(nil))}}}

	length := time.Duration(float64(n) / fps * float64(time.Second))
	total := float64(bitrate-audio) / 8 * length.Seconds()
	unit := total / float64(n-1+keyWeight)
	noise := rand.New(rand.NewPCG(1, 1))
	video := track{length: length}
	for i := range n {
		f := frame{typ: flv.TypeVideo, at: length * time.Duration(i) / time.Duration(n)}
		size, slice := int(unit), []byte{0x41, 0x9A} // non-IDR; P slice
		if i == 0 {
			size, slice = int(unit*keyWeight), []byte{0x65, 0x88} // IDR; I slice
		}
		sei := clockSEI(false)
		for len(slice)+2*4+len(sei)+5+flv.TagOverhead < size {
			slice = append(slice, byte(1+noise.IntN(255)))
		}
		data := appendUnit(appendUnit(nil, sei), slice)
		f.body = flv.AppendVideo(nil, av.H264, i == 0, false, 0, data)
		f.clock = 5 + 4 + len(sei) - 1 - clockSize
		video.frames = append(video.frames, f)
	}
	s.tracks = append(s.tracks, video)
	if audio == 0 {
		return s, nil
	}

	// A frame of silence in stereo, then padding. Three frames of 1024 samples are 64 ms.
	size := max(int(float64(audio)/8*aacFrame/aacRate)-2-flv.TagOverhead, aacMinimum)
	body := flv.AppendAudio(nil, av.AAC, false, append([]byte{0x21, 0x10, 0x04, 0x60, 0x8C, 0x1C}, make([]byte, size-6)...))
	s.head = append(s.head, frame{typ: flv.TypeAudio, body: flv.AppendAudio(nil, av.AAC, true, []byte{0x11, 0x90})}) // AAC LC, 48 kHz, stereo
	sound := track{length: 64 * time.Millisecond}
	for i := range 3 {
		sound.frames = append(sound.frames, frame{typ: flv.TypeAudio, at: sound.length * time.Duration(i) / 3, body: body})
	}
	s.tracks = append(s.tracks, sound)
	return s, nil
}

// appendUnit appends a NAL unit under a length of four bytes.
func appendUnit(dst, nalu []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(nalu))), nalu...)
}

// WriteFLV writes what one publisher sends in the time d as an FLV file, in
// which no clock is set: for servers that are given their media as a file.
func (c *Command) WriteFLV(w io.Writer, d time.Duration) error {
	s, err := c.source()
	if err != nil {
		return err
	}
	b := flv.AppendHeader(nil, c.Audio > 0, true)
	for _, f := range s.head {
		b = flv.AppendTag(b, f.typ, 0, f.body)
	}
	cursor := newCursor(s)
	for {
		f, at, from := cursor.peek()
		if at >= d {
			_, err := w.Write(b)
			return err
		}
		b = flv.AppendTag(b, f.typ, uint32(at.Milliseconds()), f.body)
		cursor.advance(from)
	}
}

// source returns what the publishers are to send.
func (c *Command) source() (*source, error) {
	if c.File != "" {
		return fromFile(c.File)
	}
	return synthetic(int64(c.Bitrate), int64(c.Audio), c.FPS, c.GOP)
}

// fromFile returns the tags of an FLV file as a source that plays them in a
// loop. H.264 and HEVC frames get a clock.
func fromFile(path string) (*source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := fromFLV(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

func fromFLV(file io.Reader) (*source, error) {
	r := flv.NewReader(file)
	s := &source{}
	tracks := map[av.Kind]*track{}
	lengthSize := 4
	var first, last, step int64
	for n := 0; ; {
		p, err := r.ReadPacket()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		f := frame{typ: flv.TagType(p.Kind), body: p.Tag}
		if p.Side {
			continue
		}
		if p.Config || p.Kind == av.Data {
			if tracks[p.Kind] == nil { // the first of its kind
				s.head = append(s.head, f)
			}
			if p.Config && p.Kind == av.Video {
				lengthSize = nalLength(p)
			}
			continue
		}
		if n++; n == 1 {
			first = p.DTS
		}
		f.at = time.Duration(max(p.DTS-first, 0)) * time.Millisecond
		if p.Kind == av.Video {
			step, last = p.DTS-last, p.DTS
			if (p.Codec == av.H264 || p.Codec == av.HEVC) && lengthSize == 4 {
				f.body, f.clock = withClock(p)
			}
		} else if tracks[av.Video] == nil {
			step, last = p.DTS-last, p.DTS
		}
		if tracks[p.Kind] == nil {
			tracks[p.Kind] = &track{}
		}
		t := tracks[p.Kind]
		t.frames = append(t.frames, f)
	}
	length := time.Duration(last-first+step) * time.Millisecond
	for _, kind := range []av.Kind{av.Video, av.Audio} {
		t := tracks[kind]
		if t == nil {
			continue
		}
		for len(t.frames) > 0 && (t.frames[len(t.frames)-1].at >= length) { // one track may go on longer than the other
			t.frames = t.frames[:len(t.frames)-1]
		}
		if len(t.frames) > 0 {
			t.length = length
			s.tracks = append(s.tracks, *t)
		}
	}
	if len(s.tracks) == 0 {
		return nil, errors.New("no frames in it")
	}
	return s, nil
}

// nalLength returns the length size that a video configuration record sets, 4
// if it has none.
func nalLength(p av.Packet) int {
	switch p.Codec {
	case av.H264:
		if c, err := av.ParseAVCConfig(p.Frame); err == nil {
			return c.LengthSize
		}
	case av.HEVC:
		if c, err := av.ParseHEVCConfig(p.Frame); err == nil {
			return c.LengthSize
		}
	}
	return 4
}

// withClock returns the tag body of p with a clock as its first NAL unit, and
// where the clock is.
func withClock(p av.Packet) (body []byte, clock int) {
	header := p.Tag[:len(p.Tag)-len(p.Frame)]
	sei := clockSEI(p.Codec == av.HEVC)
	body = appendUnit(append(body, header...), sei)
	return append(body, p.Frame...), len(header) + 4 + len(sei) - 1 - clockSize
}
