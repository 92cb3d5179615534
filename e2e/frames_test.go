//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// frames [-sound] FROM COUNT SOURCE... CAPTURE
//
// Checks that the capture's pictures are exactly COUNT of the sources', which
// follow each other, from number FROM on, in order: that no picture of the
// sources is nearer to one of the capture than the one that it should be. They may
// have been encoded anew. The capture is a file or a URL, and is decoded with
// errors being fatal. With -sound, picture and sound are moved by the same
// time; there is then one source.
func cmdFrames(ts *testscript.TestScript, neg bool, args []string) {
	set, rest := flags(ts, args, -1, "-sound")
	if neg || len(rest) < 4 {
		ts.Fatalf("usage: frames [-sound] FROM COUNT SOURCE... CAPTURE")
	}
	from, err := strconv.Atoi(rest[0])
	ts.Check(err)
	count, err := strconv.Atoi(rest[1])
	ts.Check(err)
	path := func(name string) string {
		if strings.HasPrefix(name, "http://") {
			return name
		}
		return ts.MkAbs(name)
	}
	var want [][]byte
	for _, s := range rest[2 : len(rest)-1] {
		pictures, err := readPictures(path(s))
		ts.Check(err)
		want = append(want, pictures...)
	}
	capture := path(rest[len(rest)-1])
	got, err := readPictures(capture)
	ts.Check(err)
	if len(got) != count {
		ts.Fatalf("%s has %d pictures, want %d", capture, len(got), count)
	}
	if from+count > len(want) {
		ts.Fatalf("the sources have %d pictures only", len(want))
	}
	for i, p := range got {
		should := distance(p, want[from+i])
		for j := range want {
			if d := distance(p, want[j]); d < should*0.9 {
				ts.Fatalf("picture %d of %s is number %d of the sources (%.1f), want %d (%.1f)", i, capture, j, d, from+i, should)
			}
		}
	}
	if _, sound := set["-sound"]; !sound {
		return
	}
	source := path(rest[2])
	var moved [2]float64
	for i, kind := range []string{"v", "a"} {
		want, err := readFrames(source, kind, kind == "v")
		ts.Check(err)
		got, err := readFrames(capture, kind, kind == "v")
		ts.Check(err)
		if kind == "v" {
			moved[i] = got[0].pts - want[from].pts
			for j := range got {
				if away := got[j].pts - want[from+j].pts - moved[i]; math.Abs(away) > slack {
					ts.Fatalf("picture %d of %s is %.4f s away from its place", j, capture, away)
				}
			}
			continue
		}
		at := slices.IndexFunc(want, func(f frame) bool { return f.hash == got[0].hash })
		for j := range got {
			if at < 0 || at+j >= len(want) || want[at+j].hash != got[j].hash {
				ts.Fatalf("frame %d of the sound of %s is not that of the source", j, capture)
			}
			moved[i] += (got[j].pts - want[at+j].pts) / float64(len(got))
		}
		for j := range got {
			if away := got[j].pts - want[at+j].pts - moved[i]; math.Abs(away) > 2*slack {
				ts.Fatalf("frame %d of the sound of %s is %.4f s away from its place", j, capture, away)
			}
		}
		first, last := got[0].pts, got[len(got)-1].pts
		pictures, err := readFrames(capture, "v", true)
		ts.Check(err)
		end := pictures[len(pictures)-1].pts
		if first < pictures[0].pts-0.15 || first > pictures[0].pts+0.15 || last < end-0.15 || last > end+0.15 {
			ts.Fatalf("sound of %s is from %.3f s to %.3f s, pictures from %.3f s to %.3f s", capture, first, last, pictures[0].pts, end)
		}
	}
	if math.Abs(moved[0]-moved[1]) > 2*slack {
		ts.Fatalf("%s: picture moved by %.4f s, sound by %.4f s", capture, moved[0], moved[1])
	}
}

const pictureSize = 96 * 54

// readPictures decodes a file's pictures, and makes them small and gray.
func readPictures(file string) ([][]byte, error) {
	out, err := output("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", file, "-map", "0:v:0", "-fps_mode", "passthrough",
		"-vf", "scale=96:54:flags=area,format=gray", "-f", "rawvideo", "-")
	if err != nil {
		return nil, err
	}
	if len(out)%pictureSize != 0 {
		return nil, fmt.Errorf("%s: %d bytes of pictures", file, len(out))
	}
	var list [][]byte
	for ; len(out) > 0; out = out[pictureSize:] {
		list = append(list, out[:pictureSize])
	}
	return list, nil
}

// distance is the mean square of how much two pictures differ.
func distance(a, b []byte) float64 {
	sum := 0
	for i := range a {
		d := int(a[i]) - int(b[i])
		sum += d * d
	}
	return float64(sum) / float64(len(a))
}
