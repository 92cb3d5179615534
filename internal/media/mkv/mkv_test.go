package mkv

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/av"
)

var (
	opusHead = []byte("OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00")
	av1Head  = []byte{0x81, 0, 0x0c, 0, 0x0a, 0x0b, 0, 0, 0, 2, 0xaf, 0xff, 0x9b, 0x5f, 0x30, 8}
)

func film() []av.Packet {
	return []av.Packet{
		{Kind: av.Video, Codec: av.AV1, Config: true, Frame: av1Head},
		{Kind: av.Audio, Codec: av.Opus, Config: true, Frame: opusHead},
		{Kind: av.Video, Codec: av.AV1, Key: true, DTS: 10_000, Frame: bytes.Repeat([]byte{1}, 70_000)},
		{Kind: av.Audio, Codec: av.Opus, DTS: 10_005, Frame: []byte{2, 3}},
		{Kind: av.Video, Codec: av.AV1, DTS: 1 << 40, Frame: []byte{4}},
	}
}

func write(t *testing.T, list []av.Packet) []byte {
	t.Helper()
	var b bytes.Buffer
	m, err := NewMuxer(&b, av.AV1, 320, 180, av.Opus)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func read(b []byte) (list []av.Packet, err error) {
	r := NewReader(bytes.NewReader(b))
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return list, err
		}
		list = append(list, p)
	}
}

// What is written is read again.
func TestRoundTrip(t *testing.T) {
	got, err := read(write(t, film()))
	if err != io.EOF {
		t.Error(err)
	}
	if d := cmp.Diff(film(), got); d != "" {
		t.Errorf("packets (-want +got):\n%s", d)
	}
}

// The bytes of a frame, by the specification's words.
func TestBytes(t *testing.T) {
	b := write(t, film()[3:4])
	i := bytes.Index(b, []byte{0x1F, 0x43, 0xB6, 0x75}) // Cluster
	if i < 0 {
		t.Fatalf("no cluster in %x", b)
	}
	const want = "1f43b675" + "0100000000000020" +
		"e7" + "0100000000000008" + "0000000000002715" + // Timestamp
		"a3" + "0100000000000006" + "82" + "0000" + "80" + "0203" // SimpleBlock of track 2
	if got := hex.EncodeToString(b[i:]); got != want {
		t.Errorf("a frame is\n%s, want\n%s", got, want)
	}
}

func TestMuxerRefuses(t *testing.T) {
	if _, err := NewMuxer(io.Discard, av.H264, 1, 1, av.Speex); err == nil {
		t.Error("Speex is taken")
	}
	m, err := NewMuxer(io.Discard, av.VP9, 1, 1, av.Unknown)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		p    av.Packet
		want error
	}{
		{av.Packet{Kind: av.Audio, Codec: av.AAC, Frame: []byte{1}}, nil},
		{av.Packet{Kind: av.Video, Codec: av.VP9, Key: true, Frame: []byte{1}}, nil},
		{av.Packet{Kind: av.Video, Codec: av.VP9, Config: true, Frame: []byte{1}}, ErrChanged},
	} {
		if err := m.WritePacket(tt.p); err != tt.want {
			t.Errorf("%+v: %v, want %v", tt.p, err, tt.want)
		}
	}
}

// Every beginning of a file is an error or the end, and nothing else; and what is no file is an error.
func TestReaderRefuses(t *testing.T) {
	b := write(t, append(film()[:2:2], film()[3:]...))
	for n := range b {
		if list, err := read(b[:n]); err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) || len(list) > 4 {
			t.Fatalf("%d bytes: %d packets, %v", n, len(list), err)
		}
	}
	for _, text := range []string{"\x00", "junkjunkjunk", "\xA3\xFFabc", "\xA3\x1F\xFF\xFF\xFF"} {
		if _, err := read([]byte(text)); err == nil || err == io.EOF {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What ffmpeg makes, of both kinds of blocks, is read; and what is written, ffmpeg reads.
func TestFFmpeg(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("there is no ffmpeg here")
	}
	run := func(in []byte, args string) []byte {
		cmd := exec.Command("ffmpeg", strings.Fields("-nostdin -v error "+args)...)
		cmd.Stdin = bytes.NewReader(in)
		var text bytes.Buffer
		cmd.Stderr = &text
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, text.Bytes())
		}
		return out
	}
	b := run(nil, "-f lavfi -i testsrc2=size=160x90:rate=10 -f lavfi -i sine=440 -t 2 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 10 -c:a libopus -f matroska -live 1 pipe:1")
	list, err := read(b)
	if err != io.EOF {
		t.Fatal(err)
	}
	var out bytes.Buffer
	m, _ := NewMuxer(&out, av.VP9, 160, 90, av.Opus)
	frames, keys, sounds, first := 0, 0, 0, int64(0)
	for _, p := range list {
		if p.Kind == av.Video && !p.Config {
			if frames == 0 {
				first = p.DTS
			}
			if p.DTS != first+int64(frames)*100 {
				t.Errorf("picture %d at %d ms", frames, p.DTS)
			}
			frames++
			if p.Key {
				keys++
			}
		} else if !p.Config {
			sounds++
		}
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	if frames != 20 || keys != 2 || sounds < 100 {
		t.Errorf("%d pictures, %d key frames, %d sounds; want 20, 2, 101", frames, keys, sounds)
	}
	again := run(out.Bytes(), "-f matroska -i pipe:0 -map 0:v -f framemd5 pipe:1")
	if want := run(b, "-f matroska -i pipe:0 -map 0:v -f framemd5 pipe:1"); !bytes.Equal(again, want) {
		t.Errorf("pictures differ:\n%s\nwant\n%s", again, want)
	}
	if n := len(run(out.Bytes(), "-f matroska -i pipe:0 -map 0:a -f s16le -ac 1 -ar 48000 pipe:1")); n < 2*2*47000 {
		t.Errorf("%d bytes of sound", n)
	}
}

func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	m, _ := NewMuxer(&b, av.AV1, 320, 180, av.Opus)
	for _, p := range film() {
		m.WritePacket(p)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0xA0, 0x87, 0xA1, 0x85, 0x81, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := read(b)
		if err == nil {
			t.Error("no end")
		}
		for _, p := range list {
			if len(p.Frame) > len(b) {
				t.Error("more than there was")
			}
		}
	})
}
