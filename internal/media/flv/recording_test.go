package flv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// parted is a file that is written in parts.
type parted struct {
	size  int
	parts map[int][]byte
	order []int
}

func (f *parted) write(n int, data []byte) error {
	if f.parts == nil {
		f.parts = map[int][]byte{}
	}
	if f.parts[n] != nil || len(data) == 0 || len(data) > f.size {
		return fmt.Errorf("part %d with %d bytes", n, len(data))
	}
	f.parts[n] = bytes.Clone(data)
	f.order = append(f.order, n)
	return nil
}

func (f *parted) bytes(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for n := 1; n <= len(f.parts); n++ {
		if n < len(f.parts) && len(f.parts[n]) != f.size {
			t.Fatalf("part %d of %d has %d bytes", n, len(f.parts), len(f.parts[n]))
		}
		all = append(all, f.parts[n]...)
	}
	return all
}

// tag is what a reader that shares nothing with ours finds.
type tag struct {
	At   int64
	Type byte
	Time uint32
	Body string
}

// take takes a file apart: the previous sizes have to be right too.
func take(t testing.TB, b []byte) (tags []tag) {
	t.Helper()
	if len(b) < 13 || string(b[:4]) != "FLV\x01" || b[8] != 9 {
		t.Fatalf("header % x", b[:min(len(b), 13)])
	}
	u24 := func(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }
	for at := 13; at < len(b); {
		if len(b)-at < 15 {
			t.Fatalf("%d bytes at the end", len(b)-at)
		}
		n := u24(b[at+1:])
		if len(b)-at < 15+n {
			t.Fatalf("tag of %d bytes at %d of %d", n, at, len(b))
		}
		if size := u24(b[at+11+n+1:]); b[at+11+n] != 0 || size != n+11 {
			t.Fatalf("previous size %d of a tag of %d", size, n)
		}
		tags = append(tags, tag{int64(at), b[at], uint32(u24(b[at+4:])) | uint32(b[at+7])<<24, string(b[at+11 : at+11+n])})
		at += 15 + n
	}
	return tags
}

// checkIndex checks what the metadata says of a file against the file.
func checkIndex(t testing.TB, b []byte, info FileInfo) (meta amf.Object, named int) {
	t.Helper()
	tags := take(t, b)
	vals, err := amf.Decode([]byte(tags[0].Body))
	if err != nil && len(tags[0].Body) < 20000 { // more values than a message may have
		t.Fatalf("metadata: %v", err)
	}
	if err != nil {
		return nil, bytes.Count([]byte(tags[0].Body), []byte("\x00")) / 18
	}
	meta = amf.Properties(vals[1])
	if meta.Number("filesize") != float64(len(b)) || info.Size != int64(len(b)) {
		t.Errorf("filesize is %v, Size %d, the file has %d bytes", meta.Number("filesize"), info.Size, len(b))
	}
	if got := time.Duration(meta.Number("duration") * float64(time.Second)).Round(time.Millisecond); got != info.Duration {
		t.Errorf("duration is %v, and %v", got, info.Duration)
	}
	keys := amf.Properties(meta.Get("keyframes"))
	positions, _ := keys.Get("filepositions").([]amf.Value)
	times, _ := keys.Get("times").([]amf.Value)
	if len(positions) != len(times) {
		t.Fatalf("%d positions, %d times", len(positions), len(times))
	}
	for i, at := range positions {
		k := slices.IndexFunc(tags, func(x tag) bool { return float64(x.At) == at })
		if k < 0 || tags[k].Type != TypeVideo || tags[k].Body[0]>>4&7 != frameKey || tags[k].Body[1] == legacyConfig || float64(tags[k].Time) != math.Mod(math.Round(times[i].(float64)*1000), 1<<32) {
			t.Fatalf("entry %d of the index: %v at %v is no key frame", i, times[i], at)
		}
	}
	return meta, len(positions)
}

func TestFileMuxer(t *testing.T) {
	f := &parted{size: DefaultPartSize}
	m := NewFileMuxer(f.write, FileOptions{})
	h264, h265 := unhex(t, avcConfig), []byte("not read")
	for _, p := range []av.Packet{
		{Kind: av.Data, Tag: []byte("x")},
		{Kind: av.Video, Codec: av.H264, Config: true, DTS: 5000, Frame: h264},
		{Kind: av.Audio, Codec: av.AAC, Config: true, DTS: 5000, Frame: []byte{0x12, 0x10}},
		{Kind: av.Video, Codec: av.H264, DTS: 5000, Key: true, CTS: 80, Frame: []byte("\x00\x00\x00\x02\x65\x88")},
		{Kind: av.Audio, Codec: av.AAC, DTS: 4990, Frame: []byte{0x21}},
		{Kind: av.Video, Codec: av.H264, DTS: 5040, Frame: []byte("\x00\x00\x00\x02\x41\x88")},
		{Kind: av.Video, Codec: av.H264, DTS: 5020, Frame: []byte("\x00\x00\x00\x02\x41\x99")}, // back
		{Kind: av.Video, Codec: av.HEVC, Config: true, DTS: 5080, Frame: h265},
		{Kind: av.Video, Codec: av.HEVC, DTS: 5080, Key: true, CTS: 3, Frame: []byte("\x00\x00\x00\x02\x26\x88")},
	} {
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	info, err := m.Close()
	if err != nil {
		t.Fatal(err)
	}
	b := f.bytes(t)
	meta, n := checkIndex(t, b, info)
	if n != 2 || info.KeyFrames != 2 || info.Duration != 130*time.Millisecond {
		t.Errorf("%d of %d key frames, %v", n, info.KeyFrames, info.Duration)
	}
	for name, want := range map[string]any{
		"width": 1280.0, "height": 720.0, "framerate": 25.0, "videocodecid": 7.0, "audiocodecid": 10.0, "audiosamplerate": 44100.0,
		"stereo": true, "hasKeyframes": true, "canSeekToEnd": true, "lasttimestamp": 0.09, "lastkeyframetimestamp": 0.09,
	} {
		if got := meta.Get(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	var times []uint32
	for _, x := range take(t, b)[1:] {
		times = append(times, x.Time)
	}
	if want := []uint32{0, 0, 0, 10, 50, 50, 50, 90}; !cmp.Equal(times, want) {
		t.Errorf("times %v, want %v", times, want)
	}
}

// Whatever comes, in parts of whatever size: the tags are the same, and the index names key frames.
func TestFileMuxerProperty(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		f := &parted{size: 256<<10 + r.IntN(64<<10)}
		m := NewFileMuxer(f.write, FileOptions{PartSize: f.size, Duration: time.Duration(1+r.IntN(600)) * time.Second})
		base := []int64{0, 1 << 24, 1<<32 - 3000, 1 << 40}[seed%4]
		at := base
		var want []tag
		for i := range 5 + r.IntN(600) {
			data := make([]byte, 1+r.IntN(3000))
			for j := range data {
				data[j] = byte(i + j)
			}
			p := av.Packet{Kind: av.Video, Codec: av.H264, DTS: at, CTS: int32(r.IntN(100)), Key: r.IntN(10) == 0, Frame: data}
			if r.IntN(2) == 0 {
				p = av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: at, Frame: data}
			}
			if err := m.WritePacket(p); err != nil {
				t.Fatal(err)
			}
			want = append(want, tag{0, TagType(p.Kind), uint32(at - base), string(appendBody(nil, p))})
			at += r.Int64N(50)
			if r.IntN(100) == 0 {
				at += 1 << 30 // soon beyond 32 bits
			}
		}
		info, err := m.Close()
		if err != nil {
			t.Fatal(err)
		}
		b := f.bytes(t)
		checkIndex(t, b, info)
		got := take(t, b)[1:]
		if len(f.parts) > 1 {
			if got[0].Type != TypeScript || f.order[len(f.order)-1] != 1 {
				t.Errorf("seed %d: no filler, or part 1 is not the last one: %v", seed, f.order)
			}
			got = got[1:]
		}
		for i := range got {
			got[i].At = 0
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%.2000s", seed, diff)
		}
		rd := NewReader(bytes.NewReader(b)) // ours reads it too
		for {
			if _, err := rd.ReadPacket(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// More key frames than there is room for make the index thinner, not wrong.
func TestFileMuxerIndexIsFull(t *testing.T) {
	f := &parted{size: 256 << 10}
	m := NewFileMuxer(f.write, FileOptions{PartSize: f.size, Duration: time.Second})
	const n = 10000
	for i := range int64(n) {
		if err := m.WritePacket(av.Packet{Kind: av.Video, Codec: av.H264, DTS: i * 40, Key: true, Frame: []byte("\x00\x00\x00\x02\x65\x88")}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := m.Close()
	if err != nil {
		t.Fatal(err)
	}
	_, named := checkIndex(t, f.bytes(t), info)
	if info.KeyFrames != n || named < 32 || named > 65 {
		t.Errorf("%d key frames, %d in the index", info.KeyFrames, named)
	}
}

func TestFileMuxerErrors(t *testing.T) {
	f := &parted{size: DefaultPartSize}
	m := NewFileMuxer(f.write, FileOptions{})
	if _, err := m.Close(); !errors.Is(err, ErrEmpty) || len(f.parts) > 0 {
		t.Errorf("Close = %v", err)
	}
	full := errors.New("full")
	m = NewFileMuxer(func(int, []byte) error { return full }, FileOptions{PartSize: 1})
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		err = m.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, DTS: int64(i) * 100, Frame: make([]byte, 100000)})
	}
	if !errors.Is(err, full) {
		t.Errorf("WritePacket = %v, want that of write", err)
	}
	if _, err := m.Close(); !errors.Is(err, full) {
		t.Errorf("Close = %v, want that of write", err)
	}
	m = NewFileMuxer(f.write, FileOptions{})
	m.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Frame: []byte("x")})
	if err := m.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Frame: make([]byte, 1<<24)}); err != nil {
		t.Errorf("a frame that no tag holds: %v", err)
	}
	if info, err := m.Close(); err != nil || info.Dropped != 1 {
		t.Errorf("Close = %+v, %v", info, err)
	}
}

func BenchmarkFileMuxer(b *testing.B) {
	m := NewFileMuxer(func(int, []byte) error { return nil }, FileOptions{})
	frame := make([]byte, 5000)
	b.SetBytes(5000)
	b.ReportAllocs()
	at := int64(0)
	for b.Loop() {
		m.WritePacket(av.Packet{Kind: av.Video, Codec: av.H264, DTS: at, Key: at%2000 == 0, Frame: frame})
		at += 40
	}
}
