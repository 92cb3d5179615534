package mp4_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	judge "github.com/Eyevinn/mp4ff/mp4"
	"github.com/google/go-cmp/cmp"

	"weir/internal/media/av"
	"weir/internal/media/mp4"
	"weir/internal/media/mpegts"
)

// Configuration records as x264, x265, SVT-AV1 and FFmpeg's AAC encoder make them.
var (
	avc720  = unhex("0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800")
	avc1080 = unhex("0142c028ffe1001a6742c028d900780227e5c044000003000400000300f03c60c92001000568cb83cb20")
	hevc360 = unhex("0101600000009000000000003ff000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003f9598" +
		"09210001002a42010101600000030090000003000003003fa00502016965959a4932bc05a020000003002000000303c122000100074401c172b46240")
	av1360     = unhex("81010c000a0b0000000cc4ff6700be0010")
	aac44      = unhex("121056e500")
	aac48      = unhex("1190")
	opusStereo = append([]byte("OpusHead"), 1, 2, 0x38, 1, 0x80, 0xBB, 0, 0, 0, 0, 0)
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// file is a file that is written in parts.
type file struct {
	size  int // of a part
	parts map[int][]byte
}

func (f *file) write(n int, data []byte) error {
	if f.parts == nil {
		f.parts = map[int][]byte{}
	}
	if f.parts[n] != nil {
		return fmt.Errorf("part %d is written twice", n)
	}
	if len(data) == 0 || len(data) > f.size {
		return fmt.Errorf("part %d has %d bytes", n, len(data))
	}
	f.parts[n] = bytes.Clone(data)
	return nil
}

func (f *file) bytes(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for n := 1; n <= len(f.parts); n++ {
		if f.parts[n] == nil || n < len(f.parts) && len(f.parts[n]) != f.size {
			t.Fatalf("part %d of %d has %d bytes", n, len(f.parts), len(f.parts[n]))
		}
		all = append(all, f.parts[n]...)
	}
	return all
}

// sample is what the judge finds of one.
type sample struct {
	DTS, PTS int64 // in units of the track
	Key      bool
	Entry    string
	Width    int
	Data     string
}

type movie struct {
	Front  bool
	Scale  [2]int64 // of video, audio
	Edits  [2][]judge.ElstEntry
	Tracks [2][]sample
}

// read lets mp4ff take the file apart, by its own reading of the tables.
func read(t testing.TB, b []byte) (m movie) {
	t.Helper()
	f, err := judge.DecodeFile(bytes.NewReader(b), judge.WithDecodeMode(judge.DecModeLazyMdat))
	if err != nil {
		t.Fatalf("the file cannot be read: %v", err)
	}
	size := uint64(0)
	for _, box := range f.Children {
		if box.Type() == "mdat" && f.Moov != nil && size >= f.Moov.Size() {
			m.Front = true
			for _, c := range f.Children {
				if c.Type() == "moov" {
					break
				}
				if c.Type() == "mdat" {
					m.Front = false
				}
			}
		}
		size += box.Size()
	}
	if size != uint64(len(b)) {
		t.Fatalf("boxes of %d bytes in a file of %d", size, len(b))
	}
	for _, trak := range f.Moov.Traks {
		i := 0
		if trak.Mdia.Hdlr.HandlerType == "soun" {
			i = 1
		}
		m.Scale[i] = int64(trak.Mdia.Mdhd.Timescale)
		if trak.Edts != nil {
			m.Edits[i] = trak.Edts.Elst[0].Entries
		}
		stbl := trak.Mdia.Minf.Stbl
		n := uint32(1)
		for chunk, at := range stbl.Co64.ChunkOffset {
			c := stbl.Stsc.GetChunk(uint32(chunk + 1))
			row := 0
			for row+1 < len(stbl.Stsc.Entries) && int(stbl.Stsc.Entries[row+1].FirstChunk) <= chunk+1 {
				row++
			}
			entry := stbl.Stsd.Children[stbl.Stsc.GetSampleDescriptionID(row+1)-1]
			for range c.NrSamples {
				dts, _ := stbl.Stts.GetDecodeTime(n)
				s := sample{DTS: int64(dts), Entry: entry.Type()}
				if v, ok := entry.(*judge.VisualSampleEntryBox); ok {
					s.Width = int(v.Width)
				}
				s.PTS = s.DTS
				if stbl.Ctts != nil {
					s.PTS += int64(stbl.Ctts.GetCompositionTimeOffset(n))
				}
				s.Key = stbl.Stss == nil || stbl.Stss.IsSyncSample(n)
				size := uint64(stbl.Stsz.GetSampleSize(int(n)))
				if at+size > uint64(len(b)) {
					t.Fatalf("sample %d of track %d is beyond the end", n, i)
				}
				s.Data = string(b[at : at+size])
				at += size
				m.Tracks[i] = append(m.Tracks[i], s)
				n++
			}
		}
		if int(n-1) != int(stbl.Stsz.SampleNumber) {
			t.Fatalf("chunks have %d samples, the table has %d", n-1, stbl.Stsz.SampleNumber)
		}
		total := uint64(0)
		for i := range stbl.Stts.SampleCount {
			total += uint64(stbl.Stts.SampleCount[i]) * uint64(stbl.Stts.SampleTimeDelta[i])
		}
		if total != trak.Mdia.Mdhd.Duration {
			t.Errorf("mdhd says %d units, the samples have %d", trak.Mdia.Mdhd.Duration, total)
		}
	}
	return m
}

func mux(t testing.TB, o mp4.Options, packets ...av.Packet) (mp4.Info, []byte, movie) {
	t.Helper()
	f := &file{size: o.PartSize}
	if f.size == 0 {
		f.size = mp4.DefaultPartSize
	}
	m := mp4.NewMuxer(f.write, o)
	for _, p := range packets {
		if err := m.WritePacket(p); err != nil {
			t.Fatalf("WritePacket = %v", err)
		}
	}
	info, err := m.Close()
	if err != nil {
		t.Fatalf("Close = %v", err)
	}
	b := f.bytes(t)
	if info.Size != int64(len(b)) {
		t.Errorf("Size = %d, the file has %d bytes", info.Size, len(b))
	}
	return info, b, read(t, b)
}

func video(codec av.Codec, dts int64, cts int32, key bool, data string) av.Packet {
	return av.Packet{Kind: av.Video, Codec: codec, DTS: dts, CTS: cts, Key: key, Frame: []byte(data)}
}

func audio(codec av.Codec, dts int64, data string) av.Packet {
	return av.Packet{Kind: av.Audio, Codec: codec, DTS: dts, Frame: []byte(data)}
}

func config(kind av.Kind, codec av.Codec, b []byte) av.Packet {
	return av.Packet{Kind: kind, Codec: codec, Config: true, Frame: b}
}

func TestMuxer(t *testing.T) {
	info, _, got := mux(t, mp4.Options{},
		config(av.Video, av.H264, avc720), config(av.Audio, av.AAC, aac44),
		video(av.H264, 990, 0, false, "before the first key frame"),
		audio(av.AAC, 1000, "a0"), video(av.H264, 1000, 80, true, "v0"),
		audio(av.AAC, 1023, "a1"), video(av.H264, 1040, 160, false, "v1"), audio(av.AAC, 1046, "a2"),
		config(av.Video, av.H264, avc720), // again
		video(av.H264, 1080, 0, false, "v2"), audio(av.PCMA, 1080, "no place for it"), video(av.H264, 1120, 40, false, "v3"),
		av.Packet{Kind: av.Data, Tag: []byte("x")},
	)
	want := movie{
		Front: true, Scale: [2]int64{1000, 44100},
		Edits: [2][]judge.ElstEntry{
			{{SegmentDuration: 80, MediaTime: -1, MediaRateInteger: 1}, {SegmentDuration: 160, MediaTime: 80, MediaRateInteger: 1}}, nil,
		},
		Tracks: [2][]sample{{
			{0, 80, true, "avc1", 1280, "v0"}, {40, 200, false, "avc1", 1280, "v1"}, {80, 80, false, "avc1", 1280, "v2"}, {120, 160, false, "avc1", 1280, "v3"},
		}, {
			{0, 0, true, "mp4a", 0, "a0"}, {1024, 1024, true, "mp4a", 0, "a1"}, {2048, 2048, true, "mp4a", 0, "a2"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
	wantInfo := mp4.Info{
		Size: info.Size, Duration: 160 * time.Millisecond, InFront: true, Dropped: 2, Tracks: []mp4.Track{
			{Codec: av.H264, Samples: 4, Bytes: 8, Duration: 160 * time.Millisecond, Width: 1280, Height: 720, FPS: 25, Entries: 1},
			{Codec: av.AAC, Samples: 3, Bytes: 6, Duration: 69659863, SampleRate: 44100, Channels: 2, Entries: 1},
		},
	}
	if diff := cmp.Diff(wantInfo, info); diff != "" {
		t.Errorf("Info (-want +got):\n%s", diff)
	}
}

func TestMuxerChanges(t *testing.T) {
	info, _, got := mux(t, mp4.Options{},
		config(av.Video, av.H264, avc720), video(av.H264, 0, 0, true, "a"), video(av.H264, 40, 0, false, "b"),
		config(av.Video, av.H264, avc1080), video(av.H264, 80, 0, true, "c"),
		config(av.Video, av.HEVC, hevc360), video(av.HEVC, 120, 0, true, "d"),
		config(av.Video, av.H264, avc720), video(av.H264, 160, 0, true, "e"),
		config(av.Video, av.H264, []byte("nonsense")), video(av.H264, 200, 0, false, "f"),
		video(av.AV1, 240, 0, true, "without configuration"),
	)
	want := []sample{
		{0, 0, true, "avc1", 1280, "a"}, {40, 40, false, "avc1", 1280, "b"}, {80, 80, true, "avc1", 1920, "c"},
		{120, 120, true, "hvc1", 640, "d"}, {160, 160, true, "avc1", 1280, "e"}, {200, 200, false, "avc1", 1280, "f"},
	}
	if diff := cmp.Diff(want, got.Tracks[0]); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
	if got := info.Tracks[0].Entries; got != 3 {
		t.Errorf("%d sample entries, want 3", got)
	}
}

func TestMuxerCodecs(t *testing.T) {
	mp3 := string([]byte{0xFF, 0xFB, 0x90, 0x00}) + "rest of a frame of 44100 Hz"
	low := string([]byte{0xFF, 0xF3, 0x40, 0x00}) + "rest of a frame of 22050 Hz"
	opus := string([]byte{31 << 3}) + "20 ms"
	flac := append([]byte("fLaC\x80\x00\x00\x22"), unhex("1000100000000e0010000ac442f000000000d41d8cd98f00b204e9800998ecf8427e")...)
	for _, c := range []struct {
		name    string
		packets []av.Packet
		entry   string
		scale   int64
		dts     []int64
	}{
		{"AV1", []av.Packet{config(av.Video, av.AV1, av1360), video(av.AV1, 5, 0, true, "x"), video(av.AV1, 45, 0, false, "y")}, "av01", 1000, []int64{0, 40}},
		{"AAC", []av.Packet{config(av.Audio, av.AAC, aac48), audio(av.AAC, 5, "x"), audio(av.AAC, 26, "y"), audio(av.AAC, 48, "z")}, "mp4a", 48000, []int64{0, 1024, 2048}},
		{"MP3", []av.Packet{audio(av.MP3, 5, mp3), audio(av.MP3, 31, mp3)}, "mp4a", 44100, []int64{0, 1152}},
		{"MP3 of MPEG-2", []av.Packet{audio(av.MP3, 5, low), audio(av.MP3, 31, low)}, "mp4a", 22050, []int64{0, 576}},
		{"Opus", []av.Packet{config(av.Audio, av.Opus, opusStereo), audio(av.Opus, 5, opus), audio(av.Opus, 25, opus)}, "Opus", 48000, []int64{0, 960}},
		{"FLAC", []av.Packet{config(av.Audio, av.FLAC, flac), audio(av.FLAC, 5, "x"), audio(av.FLAC, 105, "y")}, "fLaC", 44100, []int64{0, 4410}},
	} {
		_, _, got := mux(t, mp4.Options{}, c.packets...)
		i := c.packets[0].Kind - av.Video
		var dts []int64
		for _, s := range got.Tracks[i] {
			dts = append(dts, s.DTS)
			if s.Entry != c.entry {
				t.Errorf("%s: entry %s", c.name, s.Entry)
			}
		}
		if got.Scale[i] != c.scale || !cmp.Equal(dts, c.dts) {
			t.Errorf("%s: scale %d, times %v, want %d, %v", c.name, got.Scale[i], dts, c.scale, c.dts)
		}
	}
}

// The audio's clock is exact where milliseconds are rounded, follows a source
// whose clock is not, and jumps where the time does.
func TestMuxerAudioClock(t *testing.T) {
	for _, c := range []struct {
		name string
		at   func(i int) float64 // milliseconds
	}{
		{"exact", func(i int) float64 { return float64(i) * 1024 / 44.1 }},
		{"fast", func(i int) float64 { return float64(i) * 1024 / 44.1 * 1.0005 }},
		{"slow", func(i int) float64 { return float64(i) * 1024 / 44.1 * 0.9995 }},
		{"jitter", func(i int) float64 { return float64(i)*1024/44.1 + float64(i*7919%31-15) }},
		{"a gap", func(i int) float64 { return float64(i)*1024/44.1 + float64(i/1000*5000) }},
	} {
		packets := []av.Packet{config(av.Audio, av.AAC, aac44)}
		const n = 20000
		for i := range n {
			packets = append(packets, audio(av.AAC, int64(c.at(i)+0.5), "a"))
		}
		_, _, got := mux(t, mp4.Options{}, packets...)
		odd := 0
		worst := 0.0
		for i, s := range got.Tracks[1] {
			away := float64(s.DTS)/44.1 - (c.at(i) - c.at(0))
			worst = max(worst, away, -away)
			if i > 0 && s.DTS-got.Tracks[1][i-1].DTS != 1024 {
				odd++
			}
		}
		if limit := map[string]float64{"exact": 1, "jitter": 35}[c.name]; worst > max(limit, 20) {
			t.Errorf("%s: up to %.1f ms away", c.name, worst)
		}
		if limit := map[string]int{"exact": 0, "jitter": 5, "a gap": 40}[c.name]; odd > limit && limit > 0 || c.name == "exact" && odd > 0 {
			t.Errorf("%s: %d of %d samples do not last 1024 units", c.name, odd, n)
		}
	}
}

// After a break sound is where its picture is, and not where it was due.
func TestMuxerBreak(t *testing.T) {
	packets := []av.Packet{config(av.Video, av.H264, avc720), config(av.Audio, av.AAC, aac44)}
	for i := range 100 {
		at := int64(float64(i)*1024/44.1 + 0.5)
		if i >= 50 {
			at += 45
		}
		v := video(av.H264, at, 0, true, "v")
		v.Break = i == 50
		packets = append(packets, v, audio(av.AAC, at, "a"))
	}
	_, _, got := mux(t, mp4.Options{}, packets...)
	for i, s := range got.Tracks[1] {
		if away := float64(s.DTS)/44.1 - float64(got.Tracks[0][i].DTS); away > 1 || away < -1 {
			t.Errorf("frame %d of sound is %.1f ms away from the picture", i, away)
		}
	}
}

func TestMuxerEmpty(t *testing.T) {
	f := &file{size: mp4.DefaultPartSize}
	m := mp4.NewMuxer(f.write, mp4.Options{})
	if err := m.WritePacket(config(av.Video, av.H264, avc720)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Close(); !errors.Is(err, mp4.ErrEmpty) || len(f.parts) > 0 {
		t.Errorf("Close = %v, %d parts", err, len(f.parts))
	}
	full := errors.New("full")
	m = mp4.NewMuxer(func(int, []byte) error { return full }, mp4.Options{PartSize: 64 << 10})
	if err := m.WritePacket(config(av.Video, av.H264, avc720)); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		err = m.WritePacket(video(av.H264, int64(i), 0, true, string(make([]byte, 10000))))
	}
	if !errors.Is(err, full) {
		t.Errorf("WritePacket = %v, want that of write", err)
	}
	if _, err := m.Close(); !errors.Is(err, full) {
		t.Errorf("Close = %v, want that of write", err)
	}
}

// Whatever comes, in parts of whatever size: the judge finds the same samples.
func TestMuxerProperty(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := mp4.Options{PartSize: 64<<10 + r.IntN(64<<10), Duration: time.Duration(r.IntN(60)) * time.Second, Created: time.Unix(1.6e9, 0)}
		packets := []av.Packet{config(av.Video, av.H264, avc720), config(av.Audio, av.AAC, aac48)}
		configs := [][]byte{avc720, avc1080}
		width := map[int]int{0: 1280, 1: 1920}
		n, at, v, most := 20+r.IntN(400), r.Int64N(1<<40), 0, 1+r.IntN(6000)
		if seed%10 == 0 {
			most = 200 << 10 // frames longer than parts
			n = 20
		}
		var want [2][]sample
		var first [2]int64
		late := int64(-1) // audio begins with the video
		for i := range n {
			if i > 0 && r.IntN(50) == 0 {
				v = r.IntN(2)
				packets = append(packets, config(av.Video, av.H264, configs[v]))
			}
			data := make([]byte, 1+r.IntN(most))
			for j := range data {
				data[j] = byte(i + j)
			}
			p := video(av.H264, at, int32(r.IntN(200)-20), i == 0 || r.IntN(12) == 0, string(data))
			if i == 0 {
				p.CTS, first[0] = max(p.CTS, 0), at
			}
			packets = append(packets, p)
			want[0] = append(want[0], sample{p.DTS - first[0], p.DTS - first[0] + int64(p.CTS), p.Key, "avc1", width[v], string(data)})
			for range r.IntN(3) {
				if late < 0 {
					late = at
				}
				k := len(want[1])
				data := fmt.Sprintf("audio %d of seed %d", k, seed)
				packets = append(packets, audio(av.AAC, late+int64(k)*1024/48, data))
				want[1] = append(want[1], sample{int64(k) * 1024, int64(k) * 1024, true, "mp4a", 0, data})
			}
			at += 1 + r.Int64N(60)
		}
		// The first picture that is shown makes the media's time begin, if it is before the first.
		least := int64(0)
		for i, s := range want[0] {
			if i < 32 {
				least = min(least, s.PTS)
			}
		}
		for i := range want[0] {
			want[0][i].PTS -= least
		}
		_, b, got := mux(t, o, packets...)
		if diff := cmp.Diff(want, got.Tracks); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%.2000s", seed, diff)
		}
		if edits := got.Edits[0]; edits != nil {
			e := edits[len(edits)-1]
			for _, s := range got.Tracks[0] {
				if s.PTS >= e.MediaTime+int64(e.SegmentDuration) {
					t.Errorf("seed %d: what is shown at %d is not within %+v", seed, s.PTS, e)
				}
			}
		}
		if !got.Front {
			t.Errorf("seed %d: the index is not in front", seed)
		}
		if _, again, _ := mux(t, o, packets...); !bytes.Equal(b, again) {
			t.Errorf("seed %d: the second time it is another file", seed)
		}
	}
}

// When the index is longer than anybody could foresee, it goes behind the media.
func TestMuxerIndexBehind(t *testing.T) {
	packets := []av.Packet{config(av.Video, av.H264, avc720)}
	at := int64(0)
	for i := range 20 { // slow and large
		packets = append(packets, video(av.H264, at, 0, true, string(make([]byte, 10000+i))))
		at += 1000
	}
	for i := range 50000 { // then fast, small and irregular
		packets = append(packets, video(av.H264, at, int32(i*7%50), i%2 == 0, "small"))
		at += int64(1 + i%2)
	}
	info, _, got := mux(t, mp4.Options{PartSize: 64 << 10, Duration: 20 * time.Second}, packets...)
	if info.InFront || got.Front {
		t.Errorf("in front: %v, %v", info.InFront, got.Front)
	}
	if len(got.Tracks[0]) != 20+50000 || got.Tracks[0][49].Data != "small" {
		t.Errorf("%d samples", len(got.Tracks[0]))
	}
}

// six is six hours of 30 frames a second with B-frames and 48 kHz AAC.
type six struct {
	frames, sounds int
	picture, sound []byte
	end            int64
}

func (s *six) ReadPacket() (av.Packet, error) {
	v, a := int64(s.frames)*1000/30, int64(s.sounds)*1024/48
	if v >= s.end {
		return av.Packet{}, io.EOF
	}
	if a < v {
		s.sounds++
		return av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: a, Frame: s.sound}, nil
	}
	s.frames++
	cts := [...]int32{67, 167, 67, 0, 33}[s.frames%5]
	return av.Packet{Kind: av.Video, Codec: av.H264, DTS: v, CTS: cts, Key: s.frames%60 == 1, Frame: s.picture}, nil
}

// Six hours take less than 100 MB, for any packets are read once and go.
func TestMuxerMemory(t *testing.T) {
	src := &six{picture: make([]byte, 12500), sound: make([]byte, 341), end: 6 * 3600 * 1000} // 3.1 Mbit/s
	if testing.Short() {
		src.end /= 10
	}
	written := int64(0)
	first := 0
	m := mp4.NewMuxer(func(n int, data []byte) error {
		written += int64(len(data))
		if n == 1 {
			first++
		}
		return nil
	}, mp4.Options{Duration: time.Duration(src.end) * time.Millisecond})
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, p := range []av.Packet{config(av.Video, av.H264, avc720), config(av.Audio, av.AAC, aac48)} {
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	peak := uint64(0)
	for i := 0; ; i++ {
		p, err := src.ReadPacket()
		if err == io.EOF {
			break
		}
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
		if i%50000 == 0 {
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}
	}
	info, err := m.Close()
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&now)
	peak = max(peak, now.HeapAlloc)
	t.Logf("%d bytes, index in front: %v, %d and %d samples; heap up to %d MB, obtained from the system %d MB", info.Size, info.InFront, info.Tracks[0].Samples, info.Tracks[1].Samples, peak>>20, now.Sys>>20)
	if written != info.Size || first != 1 || !info.InFront {
		t.Errorf("%d bytes of %d written, part 1 %d times, in front %v", written, info.Size, first, info.InFront)
	}
	if peak-before.HeapAlloc > 100<<20 {
		t.Errorf("up to %d MB", (peak-before.HeapAlloc)>>20)
	}
	// What is left free in front is little.
	if media := info.Tracks[0].Bytes + info.Tracks[1].Bytes; info.Size-media > media/50 {
		t.Errorf("%d bytes around %d of media", info.Size-media, media)
	}
}

func BenchmarkMuxer(b *testing.B) {
	src := &six{picture: make([]byte, 12500), sound: make([]byte, 341), end: 1 << 62}
	m := mp4.NewMuxer(func(int, []byte) error { return nil }, mp4.Options{})
	m.WritePacket(config(av.Video, av.H264, avc720))
	m.WritePacket(config(av.Audio, av.AAC, aac48))
	b.ReportAllocs()
	for b.Loop() {
		p, _ := src.ReadPacket()
		b.SetBytes(int64(12500*30+341*48) / 78)
		if err := m.WritePacket(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSegments is what making an MP4 of a recording costs: transport stream in, file out.
func BenchmarkSegments(b *testing.B) {
	picture := append([]byte{0, 0, 48, 208, 0x41}, bytes.Repeat([]byte{0x5A}, 12495)...)
	key := append([]byte{0, 0, 48, 208, 0x65}, picture[5:]...)
	ts := mpegts.NewMuxer(0)
	src := &six{picture: picture, sound: make([]byte, 341), end: 10_000}
	packets := []av.Packet{config(av.Video, av.H264, avc720), config(av.Audio, av.AAC, aac48)}
	for {
		p, err := src.ReadPacket()
		if err == io.EOF {
			break
		}
		if p.Key {
			p.Frame = key
		}
		packets = append(packets, p)
	}
	for _, p := range packets {
		if err := ts.WritePacket(p); err != nil {
			b.Fatal(err)
		}
	}
	segment, _ := ts.Cut()
	m := mp4.NewMuxer(func(int, []byte) error { return nil }, mp4.Options{})
	d := mpegts.NewDemuxer(bytes.NewReader(nil))
	b.SetBytes(int64(len(segment)))
	b.ReportAllocs()
	before := cpu()
	n := 0
	for b.Loop() {
		n++
		d.Continue(bytes.NewReader(segment))
		if err := av.Copy(m, d); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-before).Seconds()/float64(n)/float64(len(segment))*1e9, "cpu-s/GB")
}

// cpu is the time of processors that the process has taken.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// FuzzMuxer makes packets of bytes; the file must be whole whatever they are.
func FuzzMuxer(f *testing.F) {
	f.Add([]byte{0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	f.Add(bytes.Repeat([]byte{3, 200, 40, 5, 1, 90, 23, 9, 0, 4, 80, 7}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := &file{size: 64 << 10}
		m := mp4.NewMuxer(out.write, mp4.Options{PartSize: 64 << 10, Duration: time.Second})
		at := int64(0)
		for ; len(b) >= 6; b = b[6:] {
			p := av.Packet{Kind: av.Kind(1 + b[0]&1), Codec: av.Codec(b[0] >> 1 & 15), Config: b[1]&7 == 0, Key: b[1]&8 != 0, CTS: int32(int8(b[2])), DTS: at}
			at += int64(int16(binary.BigEndian.Uint16(b[3:])))
			p.Frame = bytes.Repeat(b[:min(len(b), 40)], 1+int(b[5]))
			if p.Config && b[5]&1 == 0 {
				p.Frame = [...][]byte{avc720, hevc360, av1360, aac44, opusStereo, avc1080}[b[5]>>1%6]
				p.Codec = [...]av.Codec{av.H264, av.HEVC, av.AV1, av.AAC, av.Opus, av.H264}[b[5]>>1%6]
			}
			if err := m.WritePacket(p); err != nil {
				t.Fatal(err)
			}
		}
		info, err := m.Close()
		if errors.Is(err, mp4.ErrEmpty) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got := read(t, out.bytes(t))
		n := 0
		for _, tr := range info.Tracks {
			n += tr.Samples
		}
		if n != len(got.Tracks[0])+len(got.Tracks[1]) {
			t.Errorf("%d samples in %+v, %d in the file", n, info.Tracks, len(got.Tracks[0])+len(got.Tracks[1]))
		}
	})
}
