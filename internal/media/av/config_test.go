package av

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Configuration records as x264, x265, SVT-AV1 and FFmpeg's AAC encoder make them.
const (
	avcHigh720p25  = "0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800"
	avcBase1080p30 = "0142c028ffe1001a6742c028d900780227e5c044000003000400000300f03c60c92001000568cb83cb20"
	avcWide576p25  = "0142c01effe1001c6742c01eda02d049bff0040002d1000003000100000300320f162ea001000468ce0fc8"
	hevcWide576p25 = "0101600000009000000000005af000fcfdf8f800000f03a00001001840010c01ffff01600000030090000003000003005a959409" +
		"a10001002b42010101600000030090000003000003005aa005a200905965654a4c2f046808000003000800000300c840a2000100064401c073c189"
	hevc360p30 = "0101600000009000000000003ff000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003f9598" +
		"09210001002a42010101600000030090000003000003003fa00502016965959a4932bc05a020000003002000000303c122000100074401c172b46240"
	av1Main360p    = "81010c000a0b0000000cc4ff6700be0010"
	aacStereo44100 = "121056e500"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// record makes an AVC configuration record with n SPS of the given size and one PPS.
func record(lengthSizeMinusOne byte, n, size int) []byte {
	b := []byte{1, 0x64, 0, 0x1F, 0xFC | lengthSizeMinusOne, 0xE0 | byte(n)}
	for range n {
		b = append(b, byte(size>>8), byte(size))
		b = append(b, bytes.Repeat([]byte{0x67}, size)...)
	}
	return append(b, 1, 0, 2, 0x68, 0xEB)
}

func TestParseAVCConfig(t *testing.T) {
	b := unhex(t, avcHigh720p25)
	c, err := ParseAVCConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if c.Profile != 100 || c.Level != 31 || c.LengthSize != 4 || len(c.SPS) != 1 || len(c.SPS[0]) != 26 || len(c.PPS) != 1 || len(c.PPS[0]) != 6 {
		t.Errorf("ParseAVCConfig = %+v", c)
	}
	if got := c.Append(nil); !bytes.Equal(got, b[:len(b)-4]) {
		t.Errorf("Append = %x, want %x", got, b[:len(b)-4])
	}
	for i := range len(b) - 4 { // the four last bytes are optional
		if c, err := ParseAVCConfig(b[:i]); err == nil {
			t.Errorf("ParseAVCConfig of the first %d bytes = %+v, want an error", i, c)
		}
	}
}

// H77: records that announce more than they hold, or more than anyone needs.
func TestAVCConfigLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"length size 1", record(0, 1, 10), true},
		{"length size 2", record(1, 1, 10), true},
		{"length size 3", record(2, 1, 10), false},
		{"length size 4", record(3, 1, 10), true},
		{"no SPS", record(3, 0, 0), false},
		{"16 SPS", record(3, 16, 10), true},
		{"17 SPS", record(3, 17, 10), false},
		{"31 SPS", record(3, 31, 10), false},
		{"empty SPS", record(3, 1, 0), false},
		{"longest SPS", record(3, 1, maxSetSize), true},
		{"SPS too long", record(3, 1, maxSetSize+1), false},
		{"SPS of 65535 bytes", record(3, 1, 65535), false},
		{"length > rest", []byte{1, 0x64, 0, 0x1F, 0xFF, 0xE1, 0xFF, 0xFF, 0x67}, false},
		{"no PPS", append(bytes.TrimSuffix(record(3, 1, 10), []byte{1, 0, 2, 0x68, 0xEB}), 0), false},
		{"a PPS for SPS", []byte{1, 0x64, 0, 0x1F, 0xFF, 0xE1, 0, 1, 0x68, 1, 0, 1, 0x68}, false},
		{"version 0", append([]byte{0}, record(3, 1, 10)[1:]...), false},
	} {
		if _, err := ParseAVCConfig(c.b); (err == nil) != c.ok {
			t.Errorf("%s: error %v, want ok = %v", c.name, err, c.ok)
		}
	}
}

func TestParseHEVCConfig(t *testing.T) {
	b := unhex(t, hevc360p30)
	c, err := ParseHEVCConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if c.LengthSize != 4 || c.ChromaFormat != 1 || c.BitDepth != 8 || len(c.VPS) != 1 || len(c.SPS) != 1 || len(c.PPS) != 1 || len(c.SPS[0]) != 42 {
		t.Errorf("ParseHEVCConfig = %+v", c)
	}
	again, err := ParseHEVCConfig(c.Append(nil))
	if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
		t.Errorf("ParseHEVCConfig(Append) = %+v, %v, want %+v", again, err, c)
	}
	for i := range b {
		if c, err := ParseHEVCConfig(b[:i]); err == nil {
			t.Errorf("ParseHEVCConfig of the first %d bytes = %+v, want an error", i, c)
		}
	}
	for at, v := range map[int]byte{0: 2, 21: 0x0E, 22: maxArrays + 1} { // version, length size 3, arrays
		bad := bytes.Clone(b)
		bad[at] = v
		if c, err := ParseHEVCConfig(bad); err == nil {
			t.Errorf("ParseHEVCConfig with byte %d = %#x gives %+v, want an error", at, v, c)
		}
	}
	if _, err := ParseHEVCConfig(append(bytes.Clone(b[:22]), 0)); err == nil {
		t.Error("ParseHEVCConfig without parameter sets: no error")
	}
	split := bytes.Clone(b[:22])
	split = append(split, 16)
	for range 16 { // 32 SPS, two in each of 16 arrays
		split = append(split, HEVCSPS, 0, 2, 0, 1, HEVCSPS<<1, 0, 1, HEVCSPS<<1)
	}
	if _, err := ParseHEVCConfig(split); !errors.Is(err, errSets) {
		t.Errorf("ParseHEVCConfig of 32 SPS in 16 arrays: error %v, want %v", err, errSets)
	}
}

func TestHEVCConfigSkipsSEI(t *testing.T) {
	b := unhex(t, hevc360p30)
	b[22] = 4
	b = append(b, HEVCPSEI, 0, 1, 0, 3, 0x4E, 1, 5)
	if c, err := ParseHEVCConfig(b); err != nil || len(c.PPS) != 1 {
		t.Errorf("ParseHEVCConfig with an SEI array = %+v, %v", c, err)
	}
}

// H79: the AudioSpecificConfig.
func TestParseAACConfig(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     AACConfig // ObjectType 0: an error
	}{
		{"LC stereo 44.1 kHz", "1210", AACConfig{ObjectType: 2, SampleRate: 44100, Channels: 2}},
		{"with a sync extension", aacStereo44100, AACConfig{ObjectType: 2, SampleRate: 44100, Channels: 2}},
		{"LC 5.1 48 kHz", "11b0", AACConfig{ObjectType: 2, SampleRate: 48000, Channels: 6}},
		{"LC 7.1 48 kHz", "11b8", AACConfig{ObjectType: 2, SampleRate: 48000, Channels: 8}},
		{"Main mono 8 kHz", "0d88", AACConfig{ObjectType: 1, SampleRate: 8000, Channels: 1}},
		{"SBR 24 to 48 kHz", "2b118800", AACConfig{ObjectType: 2, SampleRate: 24000, ExtensionRate: 48000, Channels: 2}},
		{"PS 24 to 48 kHz", "eb098800", AACConfig{ObjectType: 2, SampleRate: 24000, ExtensionRate: 48000, Channels: 1, PS: true}},
		{"explicit rate of the table", "17805dc010", AACConfig{ObjectType: 2, SampleRate: 48000, Channels: 2}},
		{"explicit rate", "1780621010", AACConfig{ObjectType: 2, SampleRate: 50208, Channels: 2}},
		{"program config, 3 channels", "1180 04c800000100", AACConfig{ObjectType: 2, SampleRate: 48000, Channels: 3}},
		{"empty", "", AACConfig{}},
		{"one byte", "12", AACConfig{}},
		{"rate index 13", "1690", AACConfig{}},
		{"rate index 14", "1710", AACConfig{}},
		{"explicit rate cut", "1780", AACConfig{}},
		{"explicit rate 0", "1780000010", AACConfig{}},
		{"explicit rate 2^24-1", "17ffffff90", AACConfig{}},
		{"channels 8", "1240", AACConfig{}},
		{"channels 15", "1278", AACConfig{}},
		{"program config cut", "1180", AACConfig{}},
		{"program config without channels", "1180 04000000 000000", AACConfig{}},
		{"object type 0", "0210", AACConfig{}},
		{"object type 42, USAC", "f94610", AACConfig{}},
		{"SBR over SBR", "2b119400", AACConfig{}},
	} {
		got, err := ParseAACConfig(unhex(t, c.in))
		if c.want.ObjectType == 0 {
			if err == nil {
				t.Errorf("%s: ParseAACConfig(%s) = %+v, want an error", c.name, c.in, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: ParseAACConfig(%s): %v", c.name, c.in, err)
			continue
		}
		got.rateIndex, got.channelConfig = 0, 0
		if *got != c.want {
			t.Errorf("%s: ParseAACConfig(%s) = %+v, want %+v", c.name, c.in, *got, c.want)
		}
	}
}

func TestAACConfigAppend(t *testing.T) {
	for _, in := range []string{"1210", "11b0", "11b8", "0d88", "1780621010"} {
		b := unhex(t, in)
		c, err := ParseAACConfig(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("Append(%+v) = %x, want %s", c, got, in)
		}
	}
}

func TestADTS(t *testing.T) {
	c, err := ParseAACConfig(unhex(t, "1210"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.ADTS([]byte{0xAA}, 371)
	if want := unhex(t, "aa fff150802f5ffc"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("ADTS(371) = %x, %v, want %x", got, err, want)
	}
	for n, ok := range map[int]bool{-1: false, 0: false, 1: true, 8184: true, 8185: false, 1 << 20: false} {
		if _, err := c.ADTS(nil, n); (err == nil) != ok {
			t.Errorf("ADTS(%d): error %v, want ok = %v", n, err, ok)
		}
	}
	for _, in := range []string{"1180 04c800000100", "1780621010"} { // no number for 3.0 by element, 50208 Hz
		c, err := ParseAACConfig(unhex(t, in))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := c.ADTS(nil, 100); err == nil {
			t.Errorf("ADTS of %+v = %x, want an error", c, b)
		}
	}
}

func TestParseVideoInfo(t *testing.T) {
	for _, c := range []struct {
		codec Codec
		in    string
		want  VideoInfo
	}{
		{H264, avcHigh720p25, VideoInfo{Width: 1280, Height: 720, FPS: 25, Profile: 100, Level: 31, SARWidth: 1, SARHeight: 1}},
		{H264, avcBase1080p30, VideoInfo{Width: 1920, Height: 1080, FPS: 30, Profile: 66, Level: 40, SARWidth: 1, SARHeight: 1}},
		{HEVC, hevc360p30, VideoInfo{Width: 640, Height: 360, FPS: 30, Profile: 1, Level: 63, SARWidth: 1, SARHeight: 1}},
		{H264, avcWide576p25, VideoInfo{Width: 720, Height: 576, FPS: 25, Profile: 66, Level: 30, SARWidth: 64, SARHeight: 45}},
		{HEVC, hevcWide576p25, VideoInfo{Width: 720, Height: 576, FPS: 25, Profile: 1, Level: 90, SARWidth: 16, SARHeight: 11}},
		{AV1, av1Main360p, VideoInfo{Width: 640, Height: 360, Level: 1}},
		{AV1, av1Main360p[:8], VideoInfo{Level: 1}},
	} {
		if got, err := ParseVideoInfo(c.codec, unhex(t, c.in)); err != nil || got != c.want {
			t.Errorf("ParseVideoInfo(%v, %s) = %+v, %v, want %+v", c.codec, c.in, got, err, c.want)
		}
	}
	for _, codec := range []Codec{Unknown, H264, HEVC, AV1, VP8, VP9, AAC} {
		if got, err := ParseVideoInfo(codec, []byte{0x81, 1, 2}); err == nil {
			t.Errorf("ParseVideoInfo(%v) of junk = %+v, want an error", codec, got)
		}
	}
}

func TestParseAudioInfo(t *testing.T) {
	for _, c := range []struct {
		codec  Codec
		config bool
		in     string
		want   AudioInfo
	}{
		{AAC, true, aacStereo44100, AudioInfo{44100, 2}},
		{AAC, true, "eb098800", AudioInfo{48000, 2}}, // PS: stereo from mono
		{MP3, false, "fffb90c400", AudioInfo{44100, 1}},
		{MP3, false, "fffb900400", AudioInfo{44100, 2}},
		{Opus, true, "4f707573486561640106380180bb0000000000", AudioInfo{48000, 6}},
		{Opus, false, "fc", AudioInfo{48000, 2}},
		{FLAC, true, "664c614380000022 1200120000052500 05250ac440f00000 113af9bd9e0bb661c78b4f71db3e3556ba0a", AudioInfo{44100, 1}},
		{AC3, false, "0b77 0000 1c 40 e1 00", AudioInfo{48000, 6}},
		{EAC3, false, "0b77 02ff 3f 86 00 00", AudioInfo{48000, 6}},
		{Speex, false, "00", AudioInfo{16000, 1}},
		{PCMA, false, "00", AudioInfo{8000, 1}},
	} {
		p := Packet{Kind: Audio, Codec: c.codec, Config: c.config, Frame: unhex(t, c.in)}
		if got, err := ParseAudioInfo(p); err != nil || got != c.want {
			t.Errorf("ParseAudioInfo(%v, %s) = %+v, %v, want %+v", c.codec, c.in, got, err, c.want)
		}
	}
	for codec := range Speex {
		if codec == Opus {
			continue // any frame of it says what it is
		}
		if got, err := ParseAudioInfo(Packet{Codec: codec, Frame: []byte{0x0B}}); err == nil {
			t.Errorf("ParseAudioInfo(%v) of one byte = %+v, want an error", codec, got)
		}
	}
}

func FuzzAVCConfig(f *testing.F) {
	f.Add(unhex(f, avcHigh720p25))
	f.Add(unhex(f, avcBase1080p30))
	f.Add(record(1, 3, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseAVCConfig(b)
		if err != nil {
			return
		}
		if _, err := ParseAVCConfig(c.Append(nil)); err != nil {
			t.Errorf("ParseAVCConfig(Append(%+v)): %v", c, err)
		}
	})
}

func FuzzHEVCConfig(f *testing.F) {
	f.Add(unhex(f, hevc360p30))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseHEVCConfig(b)
		if err != nil {
			return
		}
		if _, err := ParseHEVCConfig(c.Append(nil)); err != nil {
			t.Errorf("ParseHEVCConfig(Append(%+v)): %v", c, err)
		}
	})
}

func FuzzAACConfig(f *testing.F) {
	for _, s := range []string{"1210", aacStereo44100, "2b118800", "eb098800", "1780621010", "1180 04c800000100"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseAACConfig(b)
		if err != nil {
			return
		}
		if c.SampleRate <= 0 || c.Channels <= 0 {
			t.Errorf("ParseAACConfig(%x) = %+v", b, c)
		}
		if h, err := c.ADTS(nil, 100); err == nil && len(h) != 7 {
			t.Errorf("ADTS of %x = %x", b, h)
		}
	})
}

// A picture is as wide as its pixels are; of those that no camera has nothing is believed.
func TestDisplayWidth(t *testing.T) {
	for _, tt := range []struct {
		idc  uint8
		w, h uint16
		want int
	}{
		{0, 0, 0, 720}, {1, 0, 0, 720}, {2, 0, 0, 785}, {4, 3, 3, 1047}, {13, 0, 0, 1164}, {16, 0, 0, 1440}, {17, 0, 0, 720}, {254, 9, 1, 720},
		{255, 64, 45, 1024}, {255, 1, 2, 360}, {255, 0, 1, 720}, {255, 1, 0, 720}, {255, 65535, 1, 720}, {255, 1, 65535, 720},
	} {
		v := VideoInfo{Width: 720, Height: 576}
		v.aspect(tt.idc, tt.w, tt.h)
		if got := v.DisplayWidth(); got != tt.want {
			t.Errorf("720 pixels of aspect %d %d:%d are %d wide, want %d", tt.idc, tt.w, tt.h, got, tt.want)
		}
	}
}

// FuzzVideoInfo feeds whole configuration records, and SPS put into one, to
// the parsers of pictures' sizes.
func FuzzVideoInfo(f *testing.F) {
	f.Add(uint8(H264), unhex(f, avcHigh720p25)[8:34])
	f.Add(uint8(HEVC), unhex(f, hevc360p30)[60:102])
	f.Add(uint8(H264), unhex(f, avcWide576p25)[8:36])
	f.Add(uint8(HEVC), unhex(f, hevcWide576p25)[55:98])
	f.Add(uint8(AV1), unhex(f, av1Main360p))
	f.Fuzz(func(t *testing.T, codec uint8, b []byte) {
		config := b
		switch Codec(codec) {
		case H264:
			config = (&AVCConfig{LengthSize: 4, SPS: [][]byte{b}, PPS: [][]byte{{0x68}}}).Append(nil)
		case HEVC:
			config = (&HEVCConfig{LengthSize: 4, BitDepth: 8, SPS: [][]byte{b}, PPS: [][]byte{{0x44, 1}}}).Append(nil)
		}
		info, err := ParseVideoInfo(Codec(codec), config)
		if err == nil && (info.Width < 0 || info.Height < 0 || info.Width > maxSide || info.DisplayWidth() > maxAspect*info.Width || !(info.FPS >= 0 && info.FPS <= 1000)) {
			t.Errorf("ParseVideoInfo(%v, %x) = %+v", Codec(codec), config, info)
		}
	})
}

func FuzzAudioInfo(f *testing.F) {
	f.Add(uint8(MP3), []byte{0xFF, 0xFB, 0x90, 0xC4, 0})
	f.Add(uint8(AC3), []byte{0x0B, 0x77, 0, 0, 0x1C, 0x40, 0xE1, 0})
	f.Add(uint8(EAC3), []byte{0x0B, 0x77, 2, 0xFF, 0x3F, 0x86, 0, 0})
	f.Fuzz(func(t *testing.T, codec uint8, b []byte) {
		ParseAudioInfo(Packet{Kind: Audio, Codec: Codec(codec), Config: true, Frame: b})
	})
}
