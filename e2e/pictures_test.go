//go:build e2e

package e2e

import (
	"errors"
	"flag"
	"fmt"
	"image/jpeg"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

var pictureTime = regexp.MustCompile(`-(\d{10})\.jpg$`)

// pictures CLIP PATTERN WIDTH HEIGHT RATE FRAME...
//
// Checks that the files that match the pattern are pictures of these frames of
// the clip, and not of their neighbours, and were taken at the times at which
// the frames come when the clip is pushed at RATE frames a second.
func cmdPictures(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 6 {
		ts.Fatalf("usage: pictures CLIP PATTERN WIDTH HEIGHT RATE FRAME...")
	}
	var numbers []int
	for _, a := range args[2:] {
		n, err := strconv.Atoi(a)
		ts.Check(err)
		numbers = append(numbers, n)
	}
	clip, width, height, rate, frames := ts.MkAbs(args[0]), numbers[0], numbers[1], numbers[2], numbers[3:]
	files, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(files) != len(frames) {
		ts.Fatalf("%s: %d pictures %q, want %d", args[1], len(files), files, len(frames))
	}
	slices.Sort(files) // the time is the end of the name
	first := 0
	for i, file := range files {
		m := pictureTime.FindStringSubmatch(file)
		if m == nil {
			ts.Fatalf("%s has no time in its name", file)
		}
		second, err := strconv.Atoi(m[1])
		ts.Check(err)
		if i == 0 {
			first = second
		}
		if got, want := float64(second-first), float64(frames[i]-frames[0])/float64(rate); got < want-1.5 || got > want+1.5 {
			ts.Fatalf("%s was taken %v s after the first one, want %v s", file, got, want)
		}
		right, err := unlike(file, clip, frames[i], width, height)
		ts.Check(err)
		for _, n := range []int{frames[i] - 1, frames[i] + 1} {
			wrong, err := unlike(file, clip, max(n, 0), width, height)
			ts.Check(err)
			if n >= 0 && wrong < 1.3*right {
				ts.Fatalf("%s differs by %.2f from frame %d, and by %.2f from frame %d", file, right, frames[i], wrong, n)
			}
		}
		if right > 4 {
			ts.Fatalf("%s differs by %.2f from frame %d", file, right, frames[i])
		}
	}
}

// unlike is by how much the luma of a JPEG differs from that of a frame of a
// clip, on average by pixel.
func unlike(file, clip string, frame, width, height int) (float64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	m, err := jpeg.Decode(f)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	if b := m.Bounds(); b.Dx() != width || b.Dy() != height {
		return 0, fmt.Errorf("%s has %v, want %dx%d", file, b, width, height)
	}
	want, err := output("ffmpeg", "-nostdin", "-v", "error", "-i", clip, "-vf", fmt.Sprintf("select=eq(n\\,%d),scale=%d:%d:flags=bilinear", frame, width, height),
		"-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo", "-")
	if err != nil {
		return 0, err
	}
	if len(want) != width*height {
		return 0, fmt.Errorf("%s has no frame %d", clip, frame)
	}
	sum := 0
	for y := range height {
		for x := range width {
			r, g, b, _ := m.At(x, y).RGBA()
			d := int((299*r+587*g+114*b)/1000>>8) - int(want[y*width+x])
			sum += max(d, -d)
		}
	}
	return float64(sum) / float64(len(want)), nil
}

// moderate ADDRESS
//
// Looks at pictures as the server of an owner would: it raises an alert about
// those of streams named flag, forbids those named evil, and has nothing to say
// about others.
func moderate() error {
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: moderate ADDRESS")
	}
	return http.ListenAndServe(flag.Arg(0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		m, err := jpeg.DecodeConfig(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch stream := r.Header.Get("Weir-Stream"); filepath.Base(stream) {
		case "flag":
			fmt.Fprintf(w, `{"action":"alert","text":"a flag, %d wide"}`, m.Width)
		case "evil":
			io.WriteString(w, `{"action":"forbid","text":"not here"}`)
		}
	}))
}
