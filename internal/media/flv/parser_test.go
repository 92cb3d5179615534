package flv

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"weir/internal/media/av"
)

// Configuration records of x264, x265 and an AAC encoder.
const (
	avcConfig  = "0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800"
	hevcConfig = "0101600000009000000000003ff000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003f9598" +
		"09210001002a42010101600000030090000003000003003fa00502016965959a4932bc05a020000003002000000303c122000100074401c172b46240"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// show writes the parts of a packet that its header decides.
func show(p av.Packet) string {
	s := fmt.Sprintf("%v %v", p.Kind, p.Codec)
	for _, f := range []struct {
		set  bool
		name string
	}{{p.Config, " config"}, {p.Side, " side"}, {p.Key, " key"}, {p.CTS != 0, fmt.Sprintf(" cts=%d", p.CTS)}} {
		if f.set {
			s += f.name
		}
	}
	return fmt.Sprintf("%s %x", s, p.Frame)
}

// headers is what tag bodies say; "" is ErrIgnore.
var headers = []struct {
	name string
	typ  byte
	body string
	want string
}{
	{"H.264 config", TypeVideo, "17 00 000000" + avcConfig, "video h264 config " + avcConfig},
	{"H.264 key", TypeVideo, "17 01 000050 00000002 6588", "video h264 key cts=80 000000026588"},
	{"H.264 inter, negative cts", TypeVideo, "27 01 ffffd8 00000002 419a", "video h264 cts=-40 00000002419a"},
	{"H.264 cts limit", TypeVideo, "27 01 7fffff 00000002 419a", "video h264 cts=8388607 00000002419a"},
	{"H.264 cts other limit", TypeVideo, "27 01 800000 00000002 419a", "video h264 cts=-8388608 00000002419a"},
	{"H.264 key flag without IDR", TypeVideo, "17 01 000000 00000002 419a", "video h264 00000002419a"},
	{"H.264 IDR flagged inter", TypeVideo, "27 01 000000 00000002 6588", "video h264 key 000000026588"},
	{"H.264 recovery point", TypeVideo, "17 01 000000 00000004 060601c4 00000002 419a", "video h264 key 00000004060601c400000002419a"},
	{"H.264 end of sequence", TypeVideo, "17 02 000000", ""},
	{"H.264 end of sequence, long", TypeVideo, "17 02 000000 00", ""},
	{"H.264 info frame", TypeVideo, "57 01 000000 00000002 6588", ""},
	{"H.264 broken unit", TypeVideo, "17 01 000000 00000003 6588", ""},
	{"H.264 Annex B", TypeVideo, "17 01 000000 00000001 6742 00000001 6588", ""},
	{"H.264 empty unit", TypeVideo, "17 01 000000 00000000", ""},
	{"HEVC config, codec id 12", TypeVideo, "1c 00 000000" + hevcConfig, "video hevc config " + hevcConfig},
	{"HEVC key, codec id 12", TypeVideo, "1c 01 000010 00000003 260111", "video hevc key cts=16 00000003260111"},
	{"HEVC config", TypeVideo, "90 68766331" + hevcConfig, "video hevc config " + hevcConfig},
	{"HEVC key", TypeVideo, "91 68766331 000021 00000003 2a0111", "video hevc key cts=33 000000032a0111"},
	{"HEVC inter, CodedFramesX", TypeVideo, "a3 68766331 00000003 020111", "video hevc 00000003020111"},
	{"HEVC key flag without IRAP", TypeVideo, "93 68766331 00000003 020111", "video hevc 00000003020111"},
	{"HEVC sequence end", TypeVideo, "92 68766331", ""},
	{"HEVC colour info", TypeVideo, "94 68766331 02000a", "video hevc side 02000a"},
	{"HEVC colour info, empty", TypeVideo, "94 68766331", ""},
	{"H.264 by FourCC", TypeVideo, "91 61766331 ffffff 00000002 6588", "video h264 key cts=-1 000000026588"},
	{"AV1 config", TypeVideo, "90 61763031 81000c00", "video av1 config 81000c00"},
	{"AV1 key", TypeVideo, "91 61763031 0a0b0c", "video av1 key 0a0b0c"},
	{"AV1 inter", TypeVideo, "a1 61763031 320a", "video av1 320a"},
	{"VP9 key", TypeVideo, "91 76703039 8249", "video vp9 key 8249"},
	{"VP8 inter", TypeVideo, "a1 76703038 31", "video vp8 31"},
	{"VVC, unknown here", TypeVideo, "91 76766331 000000 00", ""},
	{"video command", TypeVideo, "d1 00", ""},
	{"ModEx", TypeVideo, "97 02 000102 01 61763031 0a", "video av1 key 0a"},
	{"ModEx twice", TypeVideo, "97 00 aa 07 00 bb 01 61763031 0a", "video av1 key 0a"},
	{"ModEx of 256 bytes", TypeVideo, "97 ff 00ff" + strings.Repeat("55", 256) + "01 61763031 0a", "video av1 key 0a"},
	{"ModEx longer than the tag", TypeVideo, "97 ff ffff 01 61763031 0a", ""},
	{"ModEx without end", TypeVideo, "97 00 aa 07 00 bb 07", ""},
	{"one track", TypeVideo, "96 01 61763031 00 0a0b", "video av1 key 0a0b"},
	{"one track, HEVC", TypeVideo, "96 01 68766331 00 000001 00000003 260111", "video hevc key cts=1 00000003260111"},
	{"one track, not the first", TypeVideo, "96 01 61763031 01 0a0b", ""},
	{"many tracks", TypeVideo, "96 11 61763031 00 000002 0a0b 01 000001 0c", ""},
	{"one track of many", TypeVideo, "96 11 61763031 00 000002 0a0b", "video av1 key 0a0b"},
	{"one track of many, HEVC", TypeVideo, "96 11 68766331 00 00000a 000001 00000003 260111", "video hevc key cts=1 00000003260111"},
	{"one track of many codecs", TypeVideo, "96 21 61763031 00 000002 0a0b", "video av1 key 0a0b"},
	{"one track of many, another", TypeVideo, "96 11 61763031 01 000002 0a0b", ""},
	{"one track of many, too long", TypeVideo, "96 11 61763031 00 000003 0a0b", ""},
	{"no such form of tracks", TypeVideo, "96 31 61763031 00 000002 0a0b", ""},
	{"ModEx, then one track", TypeVideo, "97 00 aa 06 03 68766331 00 00000003 260111", "video hevc key 00000003260111"},
	{"Sorenson H.263", TypeVideo, "22 0000", ""},
	{"AAC config", TypeAudio, "af 00 1210", "audio aac config 1210"},
	{"AAC frame", TypeAudio, "af 01 2110", "audio aac 2110"},
	{"AAC frame, empty", TypeAudio, "af 01", ""},
	{"AAC unknown type", TypeAudio, "af 02 00", ""},
	{"MP3", TypeAudio, "2f fffb90", "audio mp3 fffb90"},
	{"MP3 8 kHz", TypeAudio, "e2 ffe3", "audio mp3 ffe3"},
	{"A-law", TypeAudio, "72 d5", "audio pcm_alaw d5"},
	{"mu-law", TypeAudio, "82 ff", "audio pcm_mulaw ff"},
	{"Speex", TypeAudio, "b6 36", "audio speex 36"},
	{"ADPCM", TypeAudio, "1f 36", ""},
	{"Opus config", TypeAudio, "90 4f707573 4f70757348656164", "audio opus config 4f70757348656164"},
	{"Opus frame", TypeAudio, "91 4f707573 fc", "audio opus fc"},
	{"FLAC config", TypeAudio, "90 664c6143 664c6143", "audio flac config 664c6143"},
	{"AC-3", TypeAudio, "91 61632d33 0b77", "audio ac3 0b77"},
	{"E-AC-3", TypeAudio, "91 65632d33 0b77", "audio eac3 0b77"},
	{"AAC by FourCC, config", TypeAudio, "90 6d703461 1210", "audio aac config 1210"},
	{"MP3 by FourCC", TypeAudio, "91 2e6d7033 fffb", "audio mp3 fffb"},
	{"multichannel config", TypeAudio, "94 4f707573 0102", "audio opus side 0102"},
	{"audio sequence end", TypeAudio, "92 4f707573", ""},
	{"audio one track", TypeAudio, "95 01 4f707573 00 fc", "audio opus fc"},
	{"audio one track of many", TypeAudio, "95 11 4f707573 00 000001 fc", "audio opus fc"},
	{"audio second track", TypeAudio, "95 01 4f707573 01 fc", ""},
	{"audio ModEx", TypeAudio, "97 02 000102 01 4f707573 fc", "audio opus fc"},
	{"audio unknown FourCC", TypeAudio, "91 00000000 fc", ""},
	{"no tag type", 15, "00", ""},
}

func TestPacket(t *testing.T) {
	for _, c := range headers {
		body := unhex(t, c.body)
		var p Parser
		got, err := p.Packet(c.typ, 1<<33, body)
		if c.want == "" {
			if err != ErrIgnore {
				t.Errorf("%s: Packet(%s) = %s, %v, want ErrIgnore", c.name, c.body, show(got), err)
			}
			continue
		}
		if err != nil || show(got) != c.want {
			t.Errorf("%s: Packet(%s) = %s, %v, want %s", c.name, c.body, show(got), err, c.want)
			continue
		}
		if got.DTS != 1<<33 || &got.Tag[0] != &body[0] || len(got.Tag) != len(body) {
			t.Errorf("%s: DTS %d, Tag % x", c.name, got.DTS, got.Tag)
		}
	}
}

// Codecs that are not known are told of by name, one of each kind.
func TestUnknownCodecs(t *testing.T) {
	for _, c := range []struct {
		typ  byte
		body string
		want string
	}{
		{TypeVideo, "22 0000", "video Sorenson H.263"},
		{TypeVideo, "0f 00", "video number 15"},
		{TypeVideo, "91 76766331 000000 00", `video "vvc1"`},
		{TypeAudio, "1f 36", "audio ADPCM"},
		{TypeAudio, "6f 00", "audio Nellymoser"},
		{TypeAudio, "91 00000000 fc", `audio "\x00\x00\x00\x00"`},
		{TypeVideo, "91 76703039 8249", ""},
	} {
		var told []string
		var p Parser
		p.SetUnknown(func(k av.Kind, codec string) { told = append(told, fmt.Sprintf("%v %s", k, codec)) })
		for range 3 {
			p.Packet(c.typ, 0, unhex(t, c.body))
			p.Packet(TypeVideo, 0, unhex(t, "17 01 000050 00000002 6588"))
		}
		if got := strings.Join(told, ", "); got != c.want {
			t.Errorf("%s: told of %q, want %q", c.body, got, c.want)
		}
	}
}

// H76: every codec and packet type in bodies too short for it.
func TestShortBodies(t *testing.T) {
	fourCCs := []string{"", fourCCAVC, fourCCHEVC, fourCCAV1, fourCCOpus, fourCCAAC}
	for _, typ := range []byte{TypeVideo, TypeAudio} {
		for first := range 256 {
			for second := range 18 {
				for _, cc := range fourCCs {
					whole := append([]byte{byte(first), byte(second)}, cc...)
					for n := range min(len(whole), 5) + 1 {
						var p Parser
						got, err := p.Packet(typ, 0, whole[:n:n])
						if err == nil && len(got.Frame) == 0 {
							t.Fatalf("Packet(%d, % x) = %+v without a frame", typ, whole[:n], got)
						}
						if err != nil && err != ErrIgnore && n < 5 {
							t.Fatalf("Packet(%d, % x): error %v", typ, whole[:n], err)
						}
					}
				}
			}
		}
	}
}

// Broken configuration is an error that is not to be ignored, and changes nothing.
func TestBrokenConfig(t *testing.T) {
	var p Parser
	config := unhex(t, avcConfig)
	config[4] = 0xFD // lengths of 2 bytes
	if _, err := p.Packet(TypeVideo, 0, append([]byte{0x17, 0, 0, 0, 0}, config...)); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"17 00 000000 01", "1c 00 000000 00", "90 68766331 01", "90 61766331 01"} {
		if _, err := p.Packet(TypeVideo, 0, unhex(t, body)); err == nil || errors.Is(err, ErrIgnore) {
			t.Errorf("Packet(%s): error %v", body, err)
		}
	}
	// H79: one of sound is left out. Bodies of up to 4 bytes never are an error (H76).
	if _, err := p.Packet(TypeAudio, 0, unhex(t, "af 00 ff")); err != ErrIgnore {
		t.Errorf("Packet of a broken AudioSpecificConfig: error %v", err)
	}
	got, err := p.Packet(TypeVideo, 0, unhex(t, "17 01 000000 0002 6588"))
	if want := "video h264 key 00026588"; err != nil || show(got) != want {
		t.Errorf("Packet with lengths of 2 bytes = %s, %v, want %s", show(got), err, want)
	}
	// Lengths belong to a codec: those of HEVC are not known yet.
	got, err = p.Packet(TypeVideo, 0, unhex(t, "93 68766331 00000003 260111"))
	if want := "video hevc key 00000003260111"; err != nil || show(got) != want {
		t.Errorf("Packet of another codec = %s, %v, want %s", show(got), err, want)
	}
}

// What the builders build, the parser reads.
func TestAppendVideoAndAudio(t *testing.T) {
	for _, c := range []struct {
		codec       av.Codec
		config, key bool
		cts         int32
		data        string
	}{
		{av.H264, true, false, 0, avcConfig},
		{av.H264, false, true, -3, "000000026588"},
		{av.HEVC, true, false, 0, hevcConfig},
		{av.HEVC, false, true, 80, "00000003260111"},
		{av.HEVC, false, false, -80, "00000003020111"},
		{av.AV1, true, false, 0, "81000c00"},
		{av.AV1, false, true, 0, "0a"},
		{av.VP8, false, false, 0, "31"},
		{av.VP9, false, true, 0, "82"},
		{av.AAC, true, false, 0, "1210"},
		{av.AAC, false, false, 0, "2110"},
		{av.MP3, false, false, 0, "fffb"},
		{av.Speex, false, false, 0, "36"},
		{av.PCMA, false, false, 0, "d5"},
		{av.PCMU, false, false, 0, "ff"},
		{av.Opus, true, false, 0, "4f70757348656164"},
		{av.Opus, false, false, 0, "fc"},
		{av.FLAC, false, false, 0, "fff8"},
		{av.AC3, false, false, 0, "0b77"},
		{av.EAC3, false, false, 0, "0b77"},
	} {
		typ, kind := byte(TypeAudio), av.Audio
		body := AppendAudio(nil, c.codec, c.config, unhex(t, c.data))
		if c.codec < av.AAC {
			typ, kind = TypeVideo, av.Video
			body = AppendVideo(nil, c.codec, c.key, c.config, c.cts, unhex(t, c.data))
		}
		var p Parser
		got, err := p.Packet(typ, 5, body)
		want := show(av.Packet{Kind: kind, Codec: c.codec, Config: c.config, Key: c.key, CTS: c.cts, Frame: unhex(t, c.data)})
		if err != nil || show(got) != want {
			t.Errorf("Packet(%x) = %s, %v, want %s", body, show(got), err, want)
		}
	}
}

func FuzzPacket(f *testing.F) {
	for _, c := range headers {
		f.Add(c.typ, unhex(f, c.body))
	}
	f.Add(byte(TypeScript), append([]byte(setDataFrame), onMetaData...))
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		var parser Parser
		in := bytes.Clone(body)
		p, err := parser.Packet(typ, 1, body)
		if !bytes.Equal(in, body) {
			t.Fatal("Packet changed the body")
		}
		if err != nil {
			return
		}
		if p.Kind != av.Data && (len(p.Frame) == 0 || !bytes.HasSuffix(body, p.Frame) || &p.Tag[0] != &body[0]) {
			t.Fatalf("Packet = %+v", p)
		}
		// What was parsed can be written and read again.
		file := AppendTag(AppendHeader(nil, true, true), TagType(p.Kind), 1, p.Tag)
		again, err := NewReader(bytes.NewReader(file)).ReadPacket()
		if err != nil || show(again) != show(p) || !bytes.Equal(again.Tag, p.Tag) {
			t.Fatalf("read again: %s, %v, want %s", show(again), err, show(p))
		}
	})
}

// A frame as a 1 Mbit/s encoder sends it: one slice among small units.
func benchmarkBody() []byte {
	frame := []byte{0, 0, 0, 2, 9, 0xF0, 0, 0, 0, 4, 6, 1, 1, 0x80, 0, 0, 0x10, 0, 0x41}
	return AppendVideo(nil, av.H264, false, false, 40, append(frame, make([]byte, 4095)...))
}

func BenchmarkPacket(b *testing.B) {
	body := benchmarkBody()
	var p Parser
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Packet(TypeVideo, 0, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendTag(b *testing.B) {
	body := benchmarkBody()
	dst := make([]byte, 0, 8192)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		dst = AppendTag(dst[:0], TypeVideo, 1, body)
	}
}

func TestPacketDoesNotAllocate(t *testing.T) {
	body := benchmarkBody()
	var p Parser
	if n := testing.AllocsPerRun(100, func() { p.Packet(TypeVideo, 0, body) }); n != 0 {
		t.Errorf("Packet allocates %v times", n)
	}
}
