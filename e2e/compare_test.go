//go:build e2e

package e2e

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// A frame is what comparing needs of a coded or decoded frame.
type frame struct {
	pts  float64 // seconds
	hash string
}

// readFrames lists the frames of the file's first video or audio stream as
// ffmpeg sees them: coded, or decoded with errors being fatal.
func readFrames(file, kind string, decode bool) ([]frame, error) {
	args := []string{"-nostdin", "-v", "error", "-xerror", "-copyts", "-i", file, "-map", "0:" + kind + ":0"}
	switch {
	case decode:
		args = append(args, "-fps_mode", "passthrough", "-enc_time_base", "-1")
	case kind == "a" && (strings.HasSuffix(file, ".ts") || strings.HasSuffix(file, ".m3u8")):
		args = append(args, "-c", "copy", "-bsf", "aac_adtstoasc")
	default:
		args = append(args, "-c", "copy")
	}
	out, err := output("ffmpeg", append(args, "-f", "framehash", "-hash", "md5", "-")...)
	if err != nil {
		return nil, err
	}
	return parseFrames(out)
}

// parseFrames reads what ffmpeg's muxer framehash writes of one stream.
func parseFrames(out []byte) (frames []frame, err error) {
	base := 0.0
	for line := range strings.Lines(string(out)) {
		if tb, ok := strings.CutPrefix(line, "#tb 0: "); ok {
			var num, den float64
			if _, err := fmt.Sscanf(tb, "%f/%f", &num, &den); err != nil {
				return nil, err
			}
			base = num / den
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, ",") // stream, dts, pts, duration, size, hash
		if len(fields) < 6 {
			return nil, fmt.Errorf("framehash: %q", line)
		}
		pts, err := strconv.ParseInt(strings.TrimSpace(fields[2]), 10, 64)
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame{float64(pts) * base, strings.TrimSpace(fields[5])})
	}
	return frames, nil
}

// [!] sameframes [-only=v|a] [-decode] [-min=FRAMES] [-end] SOURCE CAPTURE
//
// Checks that the capture is a part of the source: the same frames in the same
// order with none missing, at times that differ by one constant for all of
// them, sound and picture alike. It must hold min frames of each track (100 if
// not given) and, with -end, the source's last. Coded frames are compared, or,
// where they were repacked, decoded pictures (-decode).
func cmdSameFrames(ts *testscript.TestScript, neg bool, args []string) {
	set, rest := flags(ts, args, 2, "-only=", "-decode", "-min=", "-end")
	least := 100
	if m := set["-min"]; m != "" {
		var err error
		least, err = strconv.Atoi(m)
		ts.Check(err)
	}
	_, decode := set["-decode"]
	_, end := set["-end"]
	kinds := []string{"v", "a"}
	if only := set["-only"]; only != "" {
		kinds = []string{only}
	}
	err := sameFrames(ts.MkAbs(rest[0]), ts.MkAbs(rest[1]), kinds, decode, end, least)
	if neg && err == nil {
		ts.Fatalf("the same frames")
	}
	if !neg {
		ts.Check(err)
	}
}

// slack is how far apart times of the same frame may be: half of FLV's
// millisecond on either side, and rounding.
const slack = 0.0015

func sameFrames(source, capture string, kinds []string, decode, end bool, least int) error {
	var offsets [][]float64 // per kind, every place where the capture fits
	for _, kind := range kinds {
		// Sound survives every container as it is, and decodes differently from
		// every place that one starts at.
		decode := decode && kind == "v"
		want, err := readFrames(source, kind, decode)
		if err != nil {
			return err
		}
		got, err := readFrames(capture, kind, decode)
		if err != nil {
			return err
		}
		if len(got) < least {
			return fmt.Errorf("%s holds %d %s frames, want %d or more", capture, len(got), kind, least)
		}
		fits, err := places(want, got, end)
		if err != nil {
			return fmt.Errorf("%s frames of %s: %w", kind, capture, err)
		}
		offsets = append(offsets, fits)
	}
	if len(offsets) == 2 {
		for _, v := range offsets[0] {
			for _, a := range offsets[1] {
				if math.Abs(v-a) <= slack {
					return nil
				}
			}
		}
		return fmt.Errorf("%s: picture moved by %v s but sound by %v s", capture, offsets[0], offsets[1])
	}
	return nil
}

// places returns by how many seconds got is later than the part of want that
// it is, for each part that it can be.
func places(want, got []frame, end bool) ([]float64, error) {
	best, reason := -1, errors.New("the first frame is not in the source")
	var fits []float64
next:
	for i := range want {
		offset := got[0].pts - want[i].pts
		for j := range got {
			if i+j >= len(want) {
				if j > best {
					best, reason = j, fmt.Errorf("goes on after the source's end at frame %d of %d", j, len(got))
				}
				continue next
			}
			w, g := want[i+j], got[j]
			if w.hash == g.hash && math.Abs(g.pts-w.pts-offset) <= slack {
				continue
			}
			if j > best {
				best = j
				reason = fmt.Errorf("frame %d of %d is %s at %.3f s, want %s at %.3f s", j, len(got), g.hash, g.pts, w.hash, w.pts+offset)
			}
			continue next
		}
		if end && i+len(got) != len(want) {
			best, reason = len(got), fmt.Errorf("ends %d frames before the source", len(want)-i-len(got))
			continue
		}
		fits = append(fits, offset)
	}
	if fits == nil {
		return nil, reason
	}
	return fits, nil
}

// sametags [-min=FRAMES] SOURCE... CAPTURE
//
// Checks byte by byte what sameframes leaves to ffmpeg, for what ffmpeg does
// not know: that the frames of an FLV capture are a part of those of the
// sources, pushed one after the other, tag bodies and times alike, and that
// its codec configurations are theirs. It must hold min frames of all kinds
// (100 if not given).
func cmdSameTags(ts *testscript.TestScript, neg bool, args []string) {
	set, rest := flags(ts, args, -1, "-min=")
	if neg || len(rest) < 2 {
		ts.Fatalf("usage: sametags [-min=FRAMES] SOURCE... CAPTURE")
	}
	least := 100
	if m := set["-min"]; m != "" {
		var err error
		least, err = strconv.Atoi(m)
		ts.Check(err)
	}
	var sources tracks
	for _, source := range rest[:len(rest)-1] {
		ts.Check(sources.read(ts.MkAbs(source)))
	}
	var capture tracks
	name := rest[len(rest)-1]
	ts.Check(capture.read(ts.MkAbs(name)))
	if n := len(capture.video) + len(capture.audio); n < least {
		ts.Fatalf("%s holds %d frames, want %d or more", name, n, least)
	}
	for config := range capture.configs {
		if !sources.configs[config] {
			ts.Fatalf("codec configuration %x of %s is none of the sources'", config, name)
		}
	}
	for _, track := range []struct {
		name      string
		want, got []frame
	}{{"video", sources.video, capture.video}, {"audio", sources.audio, capture.audio}} {
		if len(track.got) == 0 {
			continue
		}
		if _, err := places(track.want, track.got, false); err != nil {
			ts.Fatalf("%s frames of %s: %v", track.name, name, err)
		}
	}
}

// tracks is what is in FLV files.
type tracks struct {
	video, audio []frame
	configs      map[string]bool
	end          int64 // when the next file begins, ms, if it is pushed after these
}

// read adds what is in a file. Its last tag may be cut short.
func (t *tracks) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if t.configs == nil {
		t.configs = map[string]bool{}
	}
	base := t.end
	err = readTags(f, func(tag tag) error {
		at := base + int64(tag.timestamp)
		t.end = max(t.end, at+frameTime)
		fr := frame{float64(at) / 1000, fmt.Sprintf("%x", md5.Sum(tag.body))}
		switch {
		case tag.typ == 18:
		case !tag.isFrame():
			t.configs[string(tag.body)] = true
		case tag.typ == 9:
			t.video = append(t.video, fr)
		default:
			t.audio = append(t.audio, fr)
		}
		return nil
	})
	if err != nil && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
