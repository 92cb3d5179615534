package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
)

// The tests of this file have the real ffmpeg make pictures. They are skipped
// where there is none.

// realTool returns a Tool with the ffmpeg of this machine and, where there is a
// C compiler, its fork server.
func realTool(t testing.TB) *ffmpeg.Tool {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip(err)
	}
	library := ""
	if cc, err := exec.LookPath("cc"); err == nil {
		library = filepath.Join(open(t), "weir-forkserver.so")
		if out, err := exec.Command(cc, "-O2", "-shared", "-fPIC", "-o", library, "../ffmpeg/forkserver/forkserver.c").CombinedOutput(); err != nil {
			t.Fatalf("cc: %v\n%s", err, out)
		}
	}
	tool := ffmpeg.New(ffmpeg.Options{
		Self: "/proc/self/exe", ForkServer: library,
		Log: slog.New(slog.NewTextHandler(complaints{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	t.Cleanup(tool.Close)
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	return tool
}

// complaints fails a test with what is logged: that the fork server does not
// start, for example, or lacks a library.
type complaints struct{ testing.TB }

func (c complaints) Write(b []byte) (int, error) {
	c.Errorf("logged: %s", b)
	return len(b), nil
}

// command runs the ffmpeg of this machine, not locked in, and returns what it
// writes.
func command(t testing.TB, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("ffmpeg", append([]string{"-nostdin", "-v", "error"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, &stderr)
	}
	return out
}

// clip is a film whose pictures show their number, and its packets.
type clip struct {
	file    string
	packets []av.Packet
	w, h    int
}

const clipFPS = 25

// film makes a clip of so many seconds with a key frame every gop seconds.
func film(t testing.TB, codec av.Codec, w, h, seconds, gop int) *clip {
	t.Helper()
	c := &clip{w: w, h: h}
	args := []string{"-f", "lavfi", "-i", fmt.Sprintf("testsrc2=s=%dx%d:r=%d", w, h, clipFPS), "-t", strconv.Itoa(seconds), "-pix_fmt", "yuv420p",
		"-g", strconv.Itoa(gop * clipFPS), "-keyint_min", strconv.Itoa(gop * clipFPS)}
	ext := "flv"
	switch codec {
	case av.H264:
		args = append(args, "-c:v", "libx264", "-preset", "ultrafast", "-sc_threshold", "0", "-bf", "2")
	case av.HEVC:
		args = append(args, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "scenecut=0:open-gop=0:log-level=none")
		ext = "ts"
	case av.AV1:
		args = append(args, "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-lag-in-frames", "0")
		ext = "ivf"
	case av.VP9:
		args = append(args, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-lag-in-frames", "0")
		ext = "ivf"
	}
	c.file = filepath.Join(t.TempDir(), "clip."+ext)
	command(t, append(args, c.file)...)
	b, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	switch ext {
	case "flv":
		c.read(t, flv.NewReader(bytes.NewReader(b)))
	case "ts":
		c.read(t, mpegts.NewDemuxer(bytes.NewReader(b)))
	case "ivf":
		for n := 0; len(b) > 32; n++ {
			size := binary.LittleEndian.Uint32(b[32:])
			frame := b[44 : 44+size]
			tag := flv.AppendVideo(nil, codec, n%(gop*clipFPS) == 0, false, 0, frame)
			c.packets = append(c.packets, av.Packet{Kind: av.Video, Codec: codec, Key: n%(gop*clipFPS) == 0, DTS: int64(n) * 1000 / clipFPS, Tag: tag, Frame: tag[len(tag)-len(frame):]})
			b = b[12+size:]
		}
	}
	return c
}

func (c *clip) read(t testing.TB, r av.Reader) {
	t.Helper()
	for {
		p, err := r.ReadPacket()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		c.packets = append(c.packets, p)
	}
}

// reference returns what the n-th picture of the clip looks like through the filters.
func (c *clip) reference(t testing.TB, n int, filters string, w, h int) *image.Gray {
	t.Helper()
	b := command(t, "-i", c.file, "-vf", fmt.Sprintf("select=eq(n\\,%d)%s", n, filters), "-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo", "-")
	if len(b) != w*h {
		t.Fatalf("reference of %d bytes, want %dx%d", len(b), w, h)
	}
	return &image.Gray{Pix: b, Stride: w, Rect: image.Rect(0, 0, w, h)}
}

// difference is by how much two pictures differ, on average by pixel.
func difference(t testing.TB, a image.Image, b *image.Gray) float64 {
	t.Helper()
	if a.Bounds() != b.Bounds() {
		t.Fatalf("picture of %v, want %v", a.Bounds(), b.Bounds())
	}
	sum := 0
	for y := range b.Rect.Dy() {
		for x := range b.Rect.Dx() {
			r, g, bl, _ := a.At(x, y).RGBA()
			d := int((299*r+587*g+114*bl)/1000>>8) - int(b.GrayAt(x, y).Y)
			sum += max(d, -d)
		}
	}
	return float64(sum) / float64(len(b.Pix))
}

// play publishes the clip; after each key frame that is due it waits for the
// fact that comes of it. It returns the facts and the numbers of the frames.
func (w *world) play(c *clip, name string, change func(*policy.Snapshot)) (facts []event.Event, frames []int) {
	w.t.Helper()
	p := w.publish(name, change)
	interval := p.App().Snapshot.Interval.Milliseconds()
	n, last := 0, int64(-1)
	w.mu.Lock()
	before := len(w.facts)
	w.mu.Unlock()
	first := int64(-1)
	for _, pkt := range c.packets {
		if pkt.Kind == av.Video && !pkt.Config && first < 0 {
			first = pkt.PTS()
		}
		write(w.t, p, pkt)
		if pkt.Kind == av.Video && !pkt.Config && pkt.Key && (last < 0 || pkt.PTS()-last >= interval) {
			last = pkt.PTS()
			n++
			frames = append(frames, int((pkt.PTS()-first)*clipFPS/1000))
			w.wait(before + n)
		}
	}
	return w.wait(before + n)[before:], frames
}

// load reads a picture from the bucket.
func (w *world) load(key string) image.Image {
	w.t.Helper()
	r, _, err := w.bucket.Get(w.t.Context(), key, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	m, err := jpeg.Decode(r)
	if err != nil {
		w.t.Fatalf("%s: %v", key, err)
	}
	return m
}

// The pictures are those of the right frames, whatever the GOP, in the right
// size.
func TestRightFrames(t *testing.T) {
	tool := realTool(t)
	for _, c := range []struct {
		codec    av.Codec
		gop      int
		seconds  int
		change   func(*policy.Snapshot)
		filters  string
		w, h     int
		wantNums string
	}{
		{av.H264, 1, 16, nil, "", 320, 180, "[0 125 250 375]"},
		{av.H264, 2, 16, func(s *policy.Snapshot) { s.Width = 160 }, ",scale=160:90", 160, 90, "[0 150 300]"},
		{av.H264, 10, 16, func(s *policy.Snapshot) { s.Height = 90 }, ",scale=160:90", 160, 90, "[0 250]"},
		{av.HEVC, 5, 6, func(s *policy.Snapshot) { s.Width, s.Height = 200, 200 }, ",scale=200:200", 200, 200, "[0 125]"},
		{av.AV1, 5, 6, func(s *policy.Snapshot) { s.Width, s.NeverEnlarge = 2000, true }, "", 320, 180, "[0 125]"},
		{av.VP9, 5, 6, func(s *policy.Snapshot) { s.Width = 640 }, ",scale=640:360", 640, 360, "[0 125]"},
	} {
		t.Run(fmt.Sprintf("%v GOP %d s", c.codec, c.gop), func(t *testing.T) {
			clip := film(t, c.codec, 320, 180, c.seconds, c.gop)
			w := newWorld(t, tool, nil)
			facts, frames := w.play(clip, "streamname", func(s *policy.Snapshot) {
				s.Interval, s.Quality = 5*time.Second, 10
				if c.change != nil {
					c.change(s)
				}
			})
			if got := fmt.Sprint(frames); got != c.wantNums {
				t.Fatalf("pictures were due of frames %s, want %s", got, c.wantNums)
			}
			for i, e := range facts {
				d, ok := e.Data.(event.SnapshotTaken)
				if !ok {
					t.Fatalf("fact %+v", e.Data)
				}
				if d.Width != c.w || d.Height != c.h || d.SrcWidth != 320 || d.SrcHeight != 180 {
					t.Errorf("%dx%d of %dx%d", d.Width, d.Height, d.SrcWidth, d.SrcHeight)
				}
				m := w.load(d.Key)
				right := difference(t, m, clip.reference(t, frames[i], c.filters, c.w, c.h))
				wrong := difference(t, m, clip.reference(t, frames[i]+1, c.filters, c.w, c.h))
				if right > 4 || wrong < 1.3*right {
					t.Errorf("picture %d differs from frame %d by %.2f, from the next one by %.2f", i, frames[i], right, wrong)
				}
			}
			if _, err := exec.LookPath("jpeginfo"); err == nil {
				file := filepath.Join(t.TempDir(), "x.jpg")
				os.WriteFile(file, w.Latest(w.hub.Streams()[0].Key()).JPEG, 0o600)
				if out, err := exec.Command("jpeginfo", "-c", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "OK") {
					t.Errorf("jpeginfo: %v\n%s", err, out)
				}
			}
		})
	}
}

// A phone that is held upright says so in the metadata.
func TestRotatedPicture(t *testing.T) {
	tool := realTool(t)
	clip := film(t, av.H264, 320, 180, 1, 1)
	meta := av.Packet{Kind: av.Data, Tag: flv.AppendMetadata(nil, amf.Object{{Name: "rotate", Value: "90"}})}
	var packets []av.Packet
	for _, p := range clip.packets {
		if p.Kind != av.Data {
			packets = append(packets, p)
		}
	}
	clip.packets = append([]av.Packet{meta}, packets...)
	w := newWorld(t, tool, nil)
	facts, _ := w.play(clip, "streamname", func(s *policy.Snapshot) { s.Quality = 10 })
	d, ok := facts[0].Data.(event.SnapshotTaken)
	if !ok || d.Width != 180 || d.Height != 320 || d.SrcWidth != 180 || d.SrcHeight != 320 {
		t.Fatalf("fact %+v, want 180x320", facts[0].Data)
	}
	if d := difference(t, w.load(d.Key), clip.reference(t, 0, ",transpose=clock", 180, 320)); d > 4 {
		t.Errorf("the picture differs from the turned frame by %.2f", d)
	}
}

// A picture of oblong pixels is as wide as it is meant to be seen: nobody looks for the shape of
// pixels in a JPEG.
func TestOblongPixels(t *testing.T) {
	tool := realTool(t)
	c := &clip{file: filepath.Join(t.TempDir(), "clip.flv")}
	command(t, "-f", "lavfi", "-i", "testsrc2=s=360x288:r=25,setsar=64/45", "-t", "1", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", c.file)
	b, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	c.read(t, flv.NewReader(bytes.NewReader(b)))
	for _, tt := range []struct {
		change func(*policy.Snapshot)
		w, h   int
	}{
		{func(*policy.Snapshot) {}, 512, 288},
		{func(s *policy.Snapshot) { s.Height = 144 }, 256, 144},
	} {
		w := newWorld(t, tool, nil)
		facts, _ := w.play(c, "streamname", func(s *policy.Snapshot) { s.Quality = 10; tt.change(s) })
		d, ok := facts[0].Data.(event.SnapshotTaken)
		if !ok || d.Width != tt.w || d.Height != tt.h || d.SrcWidth != 512 || d.SrcHeight != 288 {
			t.Fatalf("fact %+v, want %dx%d of 512x288", facts[0].Data, tt.w, tt.h)
		}
		if d := difference(t, w.load(d.Key), c.reference(t, 0, fmt.Sprintf(",scale=%d:%d", tt.w, tt.h), tt.w, tt.h)); d > 4 {
			t.Errorf("the picture differs from the frame by %.2f", d)
		}
	}
}

// H78, H86: key frames that were damaged on purpose kill a decoder at most. The
// other stream, whose pictures go on, does not notice, and nothing is left.
// WEIR_LONG=1 has 10 000 of them.
func TestMutatedKeyFrames(t *testing.T) {
	temporary := open(t)
	t.Setenv("TMPDIR", temporary)
	tool := realTool(t)
	n := 300
	if os.Getenv("WEIR_LONG") != "" {
		n = 10_000
	}
	good := film(t, av.H264, 320, 180, 1, 1)
	var frames []source
	for _, codec := range []av.Codec{av.H264, av.HEVC, av.VP9, av.AV1} {
		c := film(t, codec, 320, 180, 1, 1)
		s := source{codec: codec}
		for _, p := range c.packets {
			if p.Kind == av.Video && p.Config {
				s.config = p.Frame
			} else if p.Kind == av.Video && p.Key {
				s.frame = p.Frame
				break
			}
		}
		frames = append(frames, s)
	}
	w := newWorld(t, tool, nil)
	before := files(t, ".", temporary)
	rnd := rand.New(rand.NewPCG(7, 86))
	evil := w.publish("evil", func(s *policy.Snapshot) { s.Interval = time.Second })
	calm := w.publish("calm", func(s *policy.Snapshot) { s.Interval = time.Second })
	var calmFacts, failed, taken int
	began := time.Now()
	for i := range n {
		s := frames[i%len(frames)]
		b := mutate(rnd, s.frame)
		config := s.config
		if i%5 == 4 && config != nil {
			config = mutate(rnd, config)
		}
		if config != nil {
			tag := flv.AppendVideo(nil, s.codec, true, true, 0, config)
			write(t, evil, av.Packet{Kind: av.Video, Codec: s.codec, Config: true, Key: true, DTS: int64(i) * 1000, Tag: tag, Frame: tag[len(tag)-len(config):]})
		}
		tag := flv.AppendVideo(nil, s.codec, true, false, 0, b)
		write(t, evil, av.Packet{Kind: av.Video, Codec: s.codec, Key: true, DTS: int64(i) * 1000, Tag: tag, Frame: tag[len(tag)-len(b):]})
		if i%10 == 0 {
			for _, p := range good.packets {
				p.DTS += int64(i) * 1000
				write(t, calm, p)
			}
			calmFacts++
		}
		w.wait(i + 1 + calmFacts)
	}
	for _, e := range w.wait(n + calmFacts) {
		switch d := e.Data.(type) {
		case event.SnapshotTaken:
			taken++
		case event.SnapshotFailed:
			failed++
			if e.Stream == "calm" || d.Errnum != errDecode {
				t.Errorf("%s: %+v", e.Stream, d)
			}
		}
	}
	t.Logf("%d mutated frames in %v: %d pictures, %d failures", n, time.Since(began), taken-calmFacts, failed)
	if failed == 0 || taken < calmFacts {
		t.Errorf("%d failures, %d pictures", failed, taken)
	}
	w.hub.Close(context.Background())
	w.Close()
	tool.Close()
	if h := tool.Health(); h.Running != 0 {
		t.Errorf("%d processes are left", h.Running)
	}
	environments, err := filepath.Glob("/proc/[1-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range environments {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte("LD_PRELOAD="+temporary)) {
			t.Errorf("the process of %s is left", name)
		}
	}
	pictures := 0
	for name := range files(t, ".", temporary) {
		switch {
		case before[name]:
		case strings.Contains(name, "/picture/") && strings.HasSuffix(name, ".jpg"):
			pictures++
		default:
			t.Errorf("the file %s is left", name)
		}
	}
	if pictures != 2*taken { // each has another one of its metadata
		t.Errorf("%d files of pictures are stored, want %d", pictures, 2*taken)
	}
}

// files returns all files below some folders.
func files(t *testing.T, folders ...string) map[string]bool {
	all := make(map[string]bool)
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all[name] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// mutate returns a damaged copy of b.
func mutate(r *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range 1 + r.IntN(8) {
		if len(b) < 4 {
			break
		}
		i := r.IntN(len(b))
		switch r.IntN(6) {
		case 0:
			b[i] ^= 1 << r.IntN(8)
		case 1:
			b[i] = byte(r.Uint32())
		case 2:
			b = b[:max(4, i)]
		case 3: // a piece comes twice
			j := i + r.IntN(len(b)-i)
			b = append(b[:j:j], b[i:]...)
		case 4: // a piece is gone
			j := i + r.IntN(min(16, len(b)-i))
			b = append(b[:i:i], b[j:]...)
		case 5:
			for k := range min(8, len(b)-i) {
				b[i+k] = [...]byte{0, 0xFF}[r.IntN(2)]
			}
		}
	}
	return b
}

// AV1 as Enhanced RTMP has it: the sequence header is in the configuration and
// not in the frame, and there is no temporal delimiter.
func TestAV1WithConfiguration(t *testing.T) {
	tool := realTool(t)
	clip := film(t, av.AV1, 320, 180, 1, 1)
	var unit, rest av1.Bitstream
	if err := unit.Unmarshal(clip.packets[0].Frame); err != nil {
		t.Fatal(err)
	}
	config := []byte{0x81, 0, 0x0c, 0}
	for _, obu := range unit {
		switch av1.OBUType(obu[0] >> 3 & 15) {
		case av1.OBUTypeSequenceHeader:
			b, err := av1.Bitstream{obu}.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			config = append(config, b...)
		case av1.OBUTypeTemporalDelimiter:
		default:
			rest = append(rest, obu)
		}
	}
	frame, err := rest.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(config) < 10 || len(rest) == 0 {
		t.Fatalf("configuration %x and %d units of %d", config, len(rest), len(unit))
	}
	clip.packets = clip.packets[:0]
	for _, b := range [][]byte{config, frame} {
		tag := flv.AppendVideo(nil, av.AV1, true, len(clip.packets) == 0, 0, b)
		clip.packets = append(clip.packets, av.Packet{Kind: av.Video, Codec: av.AV1, Key: true, Config: len(clip.packets) == 0, Tag: tag, Frame: tag[len(tag)-len(b):]})
	}
	w := newWorld(t, tool, nil)
	facts, _ := w.play(clip, "streamname", func(s *policy.Snapshot) { s.Quality = 10 })
	d, ok := facts[0].Data.(event.SnapshotTaken)
	if !ok || d.Width != 320 || d.Height != 180 || d.SrcWidth != 320 || d.SrcHeight != 180 {
		t.Fatalf("fact %+v, want 320x180", facts[0].Data)
	}
	if d := difference(t, w.load(d.Key), clip.reference(t, 0, "", 320, 180)); d > 4 {
		t.Errorf("the picture differs from the frame by %.2f", d)
	}
}

// H87: a configuration with each key frame, of another size and another codec
// each time. Each picture is of its own frame.
func TestChangingConfiguration(t *testing.T) {
	tool := realTool(t)
	w := newWorld(t, tool, nil)
	p := w.publish("streamname", func(s *policy.Snapshot) { s.Interval = time.Second })
	sizes := [][2]int{{320, 180}, {640, 360}, {180, 320}}
	var clips []*clip
	for i, s := range sizes {
		clips = append(clips, film(t, []av.Codec{av.H264, av.HEVC, av.H264}[i], s[0], s[1], 1, 1))
	}
	for i := range 9 {
		c := clips[i%len(clips)]
		for _, pkt := range c.packets {
			if pkt.Kind != av.Video || !pkt.Key && !pkt.Config {
				continue
			}
			pkt.DTS = int64(i) * 1000
			write(t, p, pkt)
		}
		d, ok := w.wait(i + 1)[i].Data.(event.SnapshotTaken)
		if size := sizes[i%len(sizes)]; !ok || [2]int{d.Width, d.Height} != size || [2]int{d.SrcWidth, d.SrcHeight} != size {
			t.Fatalf("picture %d: %+v, want one of %v", i, w.facts[i].Data, size)
		}
	}
}

// H78: parameter sets that promise pictures of 16384x16384, for which a decoder
// would take 400 MB, bring none, at once.
func TestHugePictureIsRefused(t *testing.T) {
	tool := realTool(t)
	clip := film(t, av.H264, 320, 180, 1, 1)
	w := newWorld(t, tool, nil)
	p := w.publish("streamname", nil)
	for _, pkt := range clip.packets {
		if pkt.Kind != av.Video || !pkt.Key && !pkt.Config {
			continue
		}
		if pkt.Config {
			c, err := av.ParseAVCConfig(pkt.Frame)
			if err != nil {
				t.Fatal(err)
			}
			sps, pps := hugeSPS(), c.PPS[0]
			b := append([]byte{1, sps[1], sps[2], sps[3], 0xFF, 0xE1, 0, byte(len(sps))}, sps...)
			b = append(append(b, 1, 0, byte(len(pps))), pps...)
			tag := flv.AppendVideo(nil, av.H264, true, true, 0, b)
			pkt.Tag, pkt.Frame = tag, tag[len(tag)-len(b):]
		}
		write(t, p, pkt)
	}
	began := time.Now()
	d, ok := w.wait(1)[0].Data.(event.SnapshotFailed)
	if !ok || d.Errnum != errDecode {
		t.Errorf("fact %+v, want one of a picture that cannot be decoded", w.facts[0].Data)
	}
	if s := w.Stats(); s.CPU == 0 || s.CPU > time.Second || time.Since(began) > 20*time.Second {
		t.Errorf("it took %v, and %v of CPU", time.Since(began), s.CPU)
	}
}

// hugeSPS is a sequence parameter set of the baseline profile for pictures of
// 1024 by 1024 macroblocks (Rec. ITU-T H.264, 7.3.2.1.1).
func hugeSPS() []byte {
	var bits strings.Builder
	ue := func(v int) { // Exp-Golomb (9.1)
		s := strconv.FormatInt(int64(v)+1, 2)
		bits.WriteString(strings.Repeat("0", len(s)-1) + s)
	}
	ue(0) // seq_parameter_set_id
	ue(0) // log2_max_frame_num_minus4
	ue(2) // pic_order_cnt_type
	ue(1) // max_num_ref_frames
	bits.WriteString("0")
	ue(1023)                 // pic_width_in_mbs_minus1
	ue(1023)                 // pic_height_in_map_units_minus1
	bits.WriteString("1100") // frame_mbs_only, direct_8x8_inference, no cropping, no VUI
	bits.WriteString("1")    // the end
	text := bits.String()
	text += strings.Repeat("0", (8-len(text)%8)%8)
	b := []byte{0x67, 66, 0, 52}
	for ; text != ""; text = text[8:] {
		n, _ := strconv.ParseUint(text[:8], 2, 8)
		b = append(b, byte(n))
	}
	return b
}
