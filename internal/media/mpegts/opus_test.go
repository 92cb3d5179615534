package mpegts

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/av"
)

// opusHead returns the identification header of so many channels.
func opusHead(channels, preSkip int) []byte {
	c := av.DefaultOpusConfig(channels)
	c.PreSkip = preSkip
	return c.Append(nil)
}

// opusFrame is 20 ms of stereo.
func opusFrame(dts int64, size int) av.Packet {
	return av.Packet{Kind: av.Audio, Codec: av.Opus, DTS: dts, Frame: filled(size, 0xFC)}
}

func opusConfig(head []byte) av.Packet {
	return av.Packet{Kind: av.Audio, Codec: av.Opus, Config: true, Frame: head}
}

// Opus comes back as it was: frames, times, channels, and what is not to be heard
// of the first frame.
func TestOpus(t *testing.T) {
	for channels := 1; channels <= 8; channels++ {
		want := []av.Packet{opusConfig(opusHead(channels, 312))}
		m := NewMuxer(0)
		var segments [][]byte
		packets := slices.Clone(want)
		for i := range 60 {
			p := opusFrame(int64(i)*20, []int{1, 3, 254, 255, 256, 509, 510, 511, 1275, 5000}[i%10])
			packets, want = append(packets, p), append(want, p)
			if i == 29 {
				segments, packets = append(segments, mux(t, m, packets...)), nil
			}
		}
		segments = append(segments, mux(t, m, packets...))
		d := NewDemuxer(bytes.NewReader(segments[0]))
		var got []av.Packet
		for i := 0; ; {
			p, err := d.ReadPacket()
			if err == nil {
				got = append(got, p)
				continue
			}
			if i++; i == len(segments) {
				break
			}
			d.Continue(bytes.NewReader(segments[i]))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d channels: %s", channels, diff)
		}
	}
}

func TestOpusRefused(t *testing.T) {
	odd := av.DefaultOpusConfig(4)
	odd.Mapping = []byte{4, 0, 3, 2, 1, 0}
	m := NewMuxer(0)
	for name, p := range map[string]av.Packet{
		"no header":           opusConfig([]byte("OpusHead")),
		"an order of its own": opusConfig(odd.Append(nil)),
		"no frame":            {Kind: av.Audio, Codec: av.Opus},
		"long":                opusFrame(0, groupSize+1),
	} {
		if err := m.WritePacket(p); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FFmpeg reads what we write, and we what FFmpeg writes.
func TestOpusFFmpeg(t *testing.T) {
	ffmpeg, err := exec.LookPath("ffmpeg")
	if err != nil {
		t.Skip("needs ffmpeg")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(ffmpeg, append([]string{"-nostdin", "-v", "error", "-xerror", "-y"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	theirs, ours := filepath.Join(dir, "theirs.ts"), filepath.Join(dir, "ours.ts")
	for _, channels := range []string{"1", "2", "6"} {
		run("-f", "lavfi", "-i", "anoisesrc=seed=1:amplitude=0.2:sample_rate=48000:duration=3", "-ac", channels, "-c:a", "libopus", "-b:a", "96k", "-f", "mpegts", theirs)
		b, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		packets := demux(t, b)
		if len(packets) < 150 || !packets[0].Config || int(packets[0].Frame[9]) != int(channels[0]-'0') {
			t.Fatalf("%s channels: %d packets, the first is %+v", channels, len(packets), packets[0])
		}
		for i, p := range packets[2:] {
			if step := p.DTS - packets[i+1].DTS; p.Config || step != 20 {
				t.Fatalf("frame %d comes %d ms after the one before", i+1, step)
			}
		}
		if err := os.WriteFile(ours, mux(t, NewMuxer(0), packets...), 0o600); err != nil {
			t.Fatal(err)
		}
		sum := func(file string) string {
			return run("-i", file, "-map", "0:a", "-c", "copy", "-f", "streamhash", "-") + run("-i", file, "-map", "0:a", "-f", "streamhash", "-")
		}
		if a, b := sum(theirs), sum(ours); a != b || strings.Count(a, "SHA256=") != 2 {
			t.Errorf("%s channels: FFmpeg finds in its own file\n%sand in ours\n%s", channels, a, b)
		}
	}
}
