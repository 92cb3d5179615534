package flv

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

func TestFile(t *testing.T) {
	in := []av.Packet{
		{Kind: av.Data, DTS: 0, Tag: AppendMetadata(nil, amf.Object{{Name: "width", Value: 1280.0}})},
		{Kind: av.Video, Codec: av.H264, Config: true, Tag: AppendVideo(nil, av.H264, false, true, 0, unhex(t, avcConfig))},
		{Kind: av.Audio, Codec: av.AAC, Config: true, Tag: AppendAudio(nil, av.AAC, true, []byte{0x12, 0x10})},
		{Kind: av.Video, Codec: av.H264, DTS: 40, Key: true, CTS: 80, Tag: AppendVideo(nil, av.H264, true, false, 80, []byte("\x00\x00\x00\x02\x65\x88"))},
		{Kind: av.Audio, Codec: av.AAC, DTS: 43, Tag: AppendAudio(nil, av.AAC, false, []byte{0x21})},
		{Kind: av.Video, Codec: av.H264, DTS: 0x01234567, Tag: AppendVideo(nil, av.H264, false, false, 0, []byte("\x00\x00\x00\x02\x41\x88"))},
	}
	var file bytes.Buffer
	m := NewMuxer(&file, true, true)
	for _, p := range in {
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	if want := "FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00\x12\x00\x00"; !bytes.HasPrefix(file.Bytes(), []byte(want)) {
		t.Errorf("file begins % x, want % x", file.Bytes()[:len(want)], want)
	}
	last := unhex(t, "09 00000b 234567 01 000000 27 01 000000 00000002 4188 00000016")
	if !bytes.HasSuffix(file.Bytes(), last) {
		t.Errorf("file ends % x, want % x", file.Bytes()[file.Len()-len(last):], last)
	}

	var out bytes.Buffer
	if err := av.Copy(NewMuxer(&out, true, true), NewReader(bytes.NewReader(file.Bytes()))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), file.Bytes()) {
		t.Errorf("read and written again:\n% x, want\n% x", out.Bytes(), file.Bytes())
	}
	r := NewReader(bytes.NewReader(file.Bytes()))
	for i, want := range in {
		got, err := r.ReadPacket()
		if err != nil || got.Kind != want.Kind || got.Codec != want.Codec || got.Config != want.Config || got.Key != want.Key ||
			got.DTS != want.DTS || got.CTS != want.CTS || !bytes.Equal(got.Tag, want.Tag) {
			t.Errorf("packet %d = %+v, %v, want %+v", i, got, err, want)
		}
	}
	if _, err := r.ReadPacket(); err != io.EOF {
		t.Errorf("ReadPacket at the end: %v, want EOF", err)
	}
}

// F11: timestamps beyond 24 bits, and beyond 32.
func TestTimestamps(t *testing.T) {
	file := AppendHeader(nil, true, false)
	for _, ts := range []uint32{0xFFFFFF, 0x1000000, 0x7FFFFFFF, 0xFFFFFFF0, 10, 5} {
		file = AppendTag(file, TypeAudio, ts, AppendAudio(nil, av.MP3, false, []byte{0xFF}))
	}
	r := NewReader(bytes.NewReader(file))
	for _, want := range []int64{0xFFFFFF, 0x1000000, 0x7FFFFFFF, 0xFFFFFFF0, 1<<32 + 10, 1<<32 + 5} {
		if p, err := r.ReadPacket(); err != nil || p.DTS != want {
			t.Errorf("DTS = %#x, %v, want %#x", p.DTS, err, want)
		}
	}
}

func TestReaderLimits(t *testing.T) {
	header := string(AppendHeader(nil, true, true))
	ok := string(AppendTag(nil, TypeAudio, 0, []byte{0x2F, 0xFF}))
	for _, c := range []struct {
		name, in string
		packets  int
		eof      bool
	}{
		{"empty", "", 0, false},
		{"no FLV", "RIFFxxxxxxxxxxxxx", 0, false},
		{"version 2", "FLV\x02\x05\x00\x00\x00\x09\x00\x00\x00\x00", 0, false},
		{"header only", header, 0, true},
		{"longer header", "FLV\x01\x05\x00\x00\x00\x0b\x00\x00\x00\x00\x00\x00" + ok, 1, true},
		{"data offset 8", "FLV\x01\x05\x00\x00\x00\x08\x00\x00\x00\x00", 0, false},
		{"data offset 2^32-1", "FLV\x01\x05\xff\xff\xff\xff\x00\x00\x00\x00", 0, false},
		{"cut in the tag header", header + ok + ok[:5], 1, true},
		{"cut in the body", header + ok + ok[:12], 1, true},
		{"cut before the last PreviousTagSize", header + ok[:13], 1, true},
		{"unknown and empty tags between", header + "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x0c" + string(AppendTag(nil, TypeVideo, 0, nil)) + ok, 1, true},
		{"encrypted", header + "\x29" + ok[1:], 0, false},
		{"audio too long", header + "\x08\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"video too long", header + "\x09\x80\x00\x01\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"script too long", header + "\x12\x04\x00\x01\x00\x00\x00\x00\x00\x00\x00", 0, false},
		{"longest audio", header + string(AppendTag(nil, TypeAudio, 0, append([]byte{0x2F}, make([]byte, maxAudio-1)...))), 1, true},
	} {
		r, n := NewReader(bytes.NewReader([]byte(c.in))), 0
		_, err := r.ReadPacket()
		for ; err == nil; n++ {
			_, err = r.ReadPacket()
		}
		if n != c.packets || (err == io.EOF) != c.eof {
			t.Errorf("%s: %d packets, then %v; want %d, end of file %v", c.name, n, err, c.packets, c.eof)
		}
	}
}

type failingWriter struct{ error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.error }

func TestMuxerErrors(t *testing.T) {
	full := errors.New("disk full")
	if err := NewMuxer(failingWriter{full}, true, true).WritePacket(av.Packet{Kind: av.Audio, Tag: []byte{0x2F}}); !errors.Is(err, full) {
		t.Errorf("WritePacket to a full disk: %v", err)
	}
	if err := NewMuxer(io.Discard, true, true).WritePacket(av.Packet{Kind: av.Video, Tag: make([]byte, 1<<24)}); err == nil {
		t.Error("WritePacket of 2^24 bytes: no error")
	}
}

func FuzzReader(f *testing.F) {
	file := AppendHeader(nil, true, true)
	file = AppendTag(file, TypeScript, 0, AppendMetadata(nil, amf.Object{{Name: "width", Value: 1.0}}))
	file = AppendTag(file, TypeVideo, 0, AppendVideo(nil, av.HEVC, false, true, 0, unhex(f, hevcConfig)))
	file = AppendTag(file, TypeAudio, 0xFFFFFFFF, AppendAudio(nil, av.Opus, false, []byte{0xFC}))
	f.Add(file)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for n := 0; ; n++ {
			p, err := r.ReadPacket()
			if err != nil {
				return
			}
			if len(p.Tag) == 0 || n > len(b) {
				t.Fatalf("packet %d of %d bytes: %+v", n, len(b), p)
			}
		}
	})
}
