package transcode

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/mkv"
	"weir/internal/media/mpegts"
)

// bits is how many of a picture's number are in it.
const bits = 12

// marks is the filter that writes the number of each picture into it, in ones and
// zeros over its top eighth: white and black, large enough for any scaling.
func marks(first int) string {
	var b strings.Builder
	b.WriteString("drawbox=x=0:y=0:w=iw:h=ih/8:t=fill:color=black")
	for i := range bits {
		fmt.Fprintf(&b, ",drawbox=x=iw*%d/%d:y=0:w=iw/%[2]d:h=ih/8:t=fill:color=white:enable='mod(floor((n+%d)/%d),2)'", i, bits, first, 1<<i)
	}
	return b.String()
}

// numbered makes a film whose pictures have numbers from first on.
func numbered(t *testing.T, size string, fps, seconds, first int, options string) []av.Packet {
	t.Helper()
	return shoot(t, fmt.Sprintf("testsrc2=size=%s:rate=%d,noise=alls=12:allf=t,%s", size, fps, marks(first)), seconds, options)
}

// shoot makes a film of a source filter.
func shoot(t testing.TB, source string, seconds int, options string) []av.Packet {
	t.Helper()
	file := filepath.Join(t.TempDir(), "film.flv")
	args := append([]string{"-nostdin", "-v", "error", "-f", "lavfi", "-i", source}, strings.Fields("-f lavfi -i sine=440 -t "+fmt.Sprint(seconds)+" "+options+" -f flv")...)
	if out, err := exec.Command("ffmpeg", append(args, file)...).CombinedOutput(); err != nil {
		t.Fatalf("make a film: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []av.Packet
	for r := flv.NewReader(bytes.NewReader(b)); ; {
		p, err := r.ReadPacket()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// picture is one that was seen.
type picture struct {
	at     int64 // ms
	number int
}

// decode returns the pictures of a track in the order in which they are shown,
// each as w x h grey or, with 3 bytes, RGB pixels, after a filter, and their times.
func decode(t *testing.T, list []av.Packet, filter string, w, h, bytesPerPixel int) (pictures [][]byte, times []int64) {
	t.Helper()
	for _, part := range parts(list) {
		var file bytes.Buffer
		format := "flv"
		switch part[0].Codec {
		case av.AV1, av.VP9:
			format = "matroska"
			m, err := mkv.NewMuxer(&file, part[0].Codec, 16, 16, av.Unknown)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range part {
				if p.DTS -= part[1].DTS - 1000; i == 0 && p.Frame == nil {
					continue
				}
				if err := m.WritePacket(p); err != nil {
					t.Fatal(err)
				}
			}
		case av.HEVC:
			format = "mpegts"
			m := mpegts.NewMuxer(0)
			for _, p := range part {
				p.DTS -= part[1].DTS - 1000
				if err := m.WritePacket(p); err != nil {
					t.Fatal(err)
				}
			}
			b, _ := m.Cut()
			file.Write(b)
		default:
			m := flv.NewMuxer(&file, false, true)
			for _, p := range part {
				p.DTS = max(0, p.DTS-part[1].DTS+1000)
				if err := m.WritePacket(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		pixels := map[int]string{1: "gray", 3: "rgb24"}[bytesPerPixel]
		cmd := exec.Command("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-f", format, "-i", "pipe:0", "-vf", filter, "-fps_mode", "passthrough",
			"-f", "rawvideo", "-pix_fmt", pixels, "pipe:1")
		cmd.Stdin = &file
		var text bytes.Buffer
		cmd.Stderr = &text
		out, err := cmd.Output()
		if err != nil || text.Len() > 0 {
			t.Errorf("decode %v: %v\n%s", part[0].Codec, err, text.Bytes())
		}
		var at []int64
		for _, p := range part[1:] {
			at = append(at, p.PTS())
		}
		slices.Sort(at)
		size := w * h * bytesPerPixel
		if len(out) != len(at)*size {
			t.Fatalf("%d pictures decoded from %d", len(out)/size, len(at))
		}
		for b := range slices.Chunk(out, size) {
			pictures = append(pictures, b)
		}
		times = append(times, at...)
	}
	return pictures, times
}

// parts cuts the video of list where its configuration changes: each part is a
// configuration and frames.
func parts(list []av.Packet) (parts [][]av.Packet) {
	for _, p := range list {
		switch {
		case p.Kind != av.Video:
		case p.Config:
			parts = append(parts, []av.Packet{p})
		case len(parts) == 0: // it has none
			parts = append(parts, []av.Packet{{Kind: av.Video, Codec: p.Codec, Config: true}})
			fallthrough
		case len(parts) > 0:
			parts[len(parts)-1] = append(parts[len(parts)-1], p)
		}
	}
	return slices.DeleteFunc(parts, func(p []av.Packet) bool { return len(p) < 2 })
}

// numbers reads the numbers of all pictures.
func numbers(t *testing.T, list []av.Packet) []picture {
	t.Helper()
	strips, times := decode(t, list, fmt.Sprintf("format=gray,crop=iw:ih/8:0:0,crop=iw:ih/2,scale=%d:1:flags=area", bits*3), bits*3, 1, 1)
	var seen []picture
	for i, s := range strips {
		n := 0
		for k := range bits {
			if s[3*k+1] >= 128 { // the middle of it
				n |= 1 << k
			}
		}
		seen = append(seen, picture{times[i], n})
	}
	return seen
}

// same checks that a rendition shows, at each of its times, the picture that its
// source shows then, and leaves none out that is due at its rate.
func same(t *testing.T, name string, source, rendition []picture, apart float64) {
	t.Helper()
	if len(rendition) == 0 {
		t.Errorf("%s: no pictures", name)
		return
	}
	wrong := 0
	for i, p := range rendition {
		near := slices.MinFunc(source, func(a, b picture) int { return int(abs(a.at-p.at) - abs(b.at-p.at)) })
		if near.number != p.number || abs(near.at-p.at) > int64(apart/2)+1 {
			if wrong++; wrong < 5 {
				t.Errorf("%s: picture %d at %d ms; the source shows %d at %d ms", name, p.number, p.at, near.number, near.at)
			}
		}
		if i == 0 {
			continue
		}
		if d := p.at - rendition[i-1].at; d < 1 || float64(d) > 1.5*apart {
			if wrong++; wrong < 5 {
				t.Errorf("%s: pictures at %d and %d ms, %.1f ms apart wanted", name, rendition[i-1].at, p.at, apart)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%s: %d of %d pictures are wrong", name, wrong, len(rendition))
	}
}

func abs(n int64) int64 { return max(n, -n) }
