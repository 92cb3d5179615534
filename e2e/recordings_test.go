//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/media/rtmp"
)

// A piece is a clip that is pushed, from that time on, in ms.
type piece struct {
	clip string
	at   int64
}

// later is after a clip of ten seconds, and the delay of its B-frames.
const later = 10_200

// TestRecordings pushes what ffmpeg has encoded, each frame with its number in the picture,
// and has ffmpeg decode what is recorded of it in each format, errors being fatal: every
// frame is there, in order, once, and picture and sound are together.
func TestRecordings(t *testing.T) {
	t.Parallel()
	m := newMachine(t, `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
record: {files: 2}
policy:
  spaces:
    - name: default
      domains: [{name: "*"}]
      apps:
        - {name: live, hold: 0s, max_lead: 1h, record: {mode: automatic, splice: 0s, segment: 2s, cut: 60s, mp4: {enabled: true}, flv: {enabled: true}}}
        - {name: splice, hold: 0s, max_lead: 1h, record: {mode: automatic, splice: 8s, segment: 2s, mp4: {enabled: true}, flv: {enabled: true}}}
        - {name: mixed, hold: 0s, max_lead: 1h, record: {mode: automatic, splice: 8s, segment: 2s, on_codec_change: discontinuity, mp4: {enabled: true}, flv: {enabled: true}}}
`, nil)
	m.start()
	dir := t.TempDir()
	made := map[string]string{ // clips of this test alone, by ffmpeg's arguments
		"second.flv": small + noise + "-ss 10 -t 10 " + x264 + "-bf 0 -g 25 " + aac,
		"third.flv":  small + noise + "-ss 20 -t 10 " + x264 + "-bf 0 -g 25 " + aac,
		"fourth.flv": small + noise + "-ss 30 -t 10 " + x264 + "-bf 0 -g 25 " + aac,
		"high.flv": small + "-f lavfi -i anoisesrc=seed=2:amplitude=0.2:sample_rate=48000 -t 10 " +
			"-c:v libx264 -preset veryfast -pix_fmt yuv420p -b:v 300k -bf 2 -g 25 -c:a aac -b:a 64k -ac 1",
		"variable.flv": small + noise + `-t 10 -vf select='lt(mod(n\,50)\,20)+not(mod(n\,9))',settb=1/1000,setpts='T*1000+mod(N*37\,23)' -fps_mode vfr -enc_time_base 1:1000 ` + x264 + "-bf 2 -g 12 " + aac,
		"long.flv":     small + noise + "-t 130 " + x264 + "-bf 0 -g 50 " + aac,
	}
	for name, args := range made {
		if _, err := output("ffmpeg", append(strings.Fields("-nostdin -v error -y "+args), filepath.Join(dir, name))...); err != nil {
			t.Fatal(err)
		}
	}
	clip := func(name string) string {
		if made[name] != "" {
			return filepath.Join(dir, name)
		}
		return filepath.Join(mediaDir, name)
	}
	judged := func(name string) string {
		if name == "hevc-hvc1.flv" {
			name = "hevc.mp4"
		}
		return clip(name)
	}
	t.Cleanup(func() {
		if err := m.server.stop(); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		name   string // of the stream
		app    string
		pushes [][]piece // each on a connection of its own; ffmpeg pushes what is one clip from 0 on
		files  int       // of each format
		only   string    // which tracks there are
	}{
		{"plain", "live", [][]piece{{{"av.flv", 0}}}, 1, "va"},
		{"bframes", "live", [][]piece{{{"bframes.flv", 0}}}, 1, "va"},
		{"hevc", "live", [][]piece{{{"hevc-hvc1.flv", 0}}}, 1, "v"},
		{"audio", "live", [][]piece{{{"audio.flv", 0}}}, 1, "a"},
		{"video", "live", [][]piece{{{"video.flv", 0}}}, 1, "v"},
		{"splice", "splice", [][]piece{{{"av.flv", 0}}, {{"second.flv", 0}}}, 1, "va"},
		{"bsplice", "splice", [][]piece{{{"bframes.flv", 0}}, {{"bframes.flv", 500_000}}}, 1, "va"},
		{"splices", "splice", [][]piece{{{"av.flv", 0}}, {{"second.flv", 0}}, {{"third.flv", 7_000_000}}, {{"fourth.flv", 0}}}, 1, "va"},
		{"returns", "live", [][]piece{{{"av.flv", 0}}, {{"second.flv", 0}}}, 2, "va"}, // after a window of 0 s
		{"cut", "live", [][]piece{{{"long.flv", 0}}}, 3, "va"},
		{"size", "live", [][]piece{{{"av.flv", 0}, {"large.flv", later}, {"second.flv", 2 * later}}}, 1, "va"},
		{"parameters", "live", [][]piece{{{"av.flv", 0}, {"high.flv", later}, {"second.flv", 2 * later}}}, 1, "va"},
		{"sizesplice", "mixed", [][]piece{{{"av.flv", 0}}, {{"large.flv", 0}}}, 1, "va"},
		{"sizereturns", "splice", [][]piece{{{"av.flv", 0}}, {{"large.flv", 0}}}, 2, "va"},
		{"back", "live", [][]piece{{{"av.flv", 20_000}, {"second.flv", 3_000}, {"bframes.flv", 0}}}, 1, "va"},
		{"wrap", "live", [][]piece{{{"av.flv", 1<<32 - 5_000}}}, 1, "va"},
		{"bwrap", "live", [][]piece{{{"bframes.flv", 1<<32 - 5_000}}}, 1, "va"},
		{"variable", "live", [][]piece{{{"variable.flv", 0}}}, 1, "va"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var want []decoding
			folder := filepath.Join(m.dir, "data", "recordings", "record", c.app, c.name)
			there := func(n int) func() error {
				return func() error {
					if list, err := filepath.Glob(filepath.Join(folder, "*", c.name+"-*.*")); err != nil || len(list) < 3*n {
						return fmt.Errorf("there are the files %q, not yet %d of each format", list, n)
					}
					return nil
				}
			}
			for i, pieces := range c.pushes {
				if c.name == "returns" {
					if err := poll(patience, there(i)); err != nil {
						t.Fatal(err)
					}
				}
				for _, p := range pieces {
					source, err := decodeAll(t, judged(p.clip), c.only)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, source)
				}
				url := "rtmp://" + m.rtmp + "/" + c.app
				if p := pieces[0]; len(pieces) == 1 && p.at == 0 && p.clip != "hevc-hvc1.flv" {
					if _, err := output("ffmpeg", "-nostdin", "-v", "error", "-readrate", "10", "-i", clip(p.clip), "-c", "copy", "-f", "flv", url+"/"+c.name); err != nil {
						t.Fatal(err)
					}
					continue
				}
				var list []tag
				for _, p := range pieces {
					err := readFile(clip(p.clip), func(tag tag) error {
						tag.timestamp += uint32(p.at)
						list = append(list, tag)
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				if err := pushTags(t.Context(), url, c.name, list); err != nil {
					t.Fatal(err)
				}
			}
			if err := poll(2*patience, there(c.files)); err != nil {
				t.Fatal(err)
			}
			for _, format := range []string{"m3u8", "mp4", "flv"} {
				list, err := filepath.Glob(filepath.Join(folder, "*", c.name+"-*."+format))
				if err != nil || len(list) != c.files {
					t.Fatalf("%s: %q, want %d", format, list, c.files)
				}
				slices.Sort(list) // by time
				var got []decoding
				for _, file := range list {
					f, err := decodeAll(t, file, c.only)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, f)
				}
				if err := follow(want, got); err != nil {
					t.Errorf("%s: %v", format, err)
				}
			}
		})
	}
}

// pushTags pushes tags on one connection, many times as fast as in real time.
func pushTags(ctx context.Context, url, name string, list []tag) error {
	conn, err := rtmp.Dial(ctx, url, rtmp.Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Publish(name); err != nil {
		return err
	}
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for _, t := range list {
		<-pace.C
		if err := conn.WritePacket(t.packet(0)); err != nil {
			return err
		}
	}
	return conn.Unpublish(name)
}

func readFile(name string, f func(tag) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return readTags(file, f)
}

// A decoding is what ffmpeg finds in a file: pictures as they are decoded, and sound as it
// is coded.
type decoding [2][]frame

// decodeAll has ffmpeg decode all of a file that has both, or only one, of v and a.
func decodeAll(t *testing.T, file, kinds string) (d decoding, err error) {
	dir := t.TempDir()
	args := []string{"-nostdin", "-v", "error", "-xerror", "-copyts"}
	var times []frame
	if filepath.Ext(file) == ".flv" && kinds == "v" {
		raw := filepath.Join(dir, "raw.h265")
		if times, err = rawHEVC(file, raw); err != nil {
			return d, err
		}
		if times != nil {
			file = raw
		}
	}
	if filepath.Ext(file) == ".m3u8" && kinds == "a" {
		if file, err = join(file, filepath.Join(dir, "joined.ts")); err != nil {
			return d, err
		}
	}
	args = append(args, "-i", file)
	outputs := []string{filepath.Join(dir, "v"), filepath.Join(dir, "a")}
	if strings.Contains(kinds, "v") {
		args = append(args, "-map", "0:v", "-autoscale", "0", "-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "framehash", "-hash", "md5", outputs[0])
	}
	if strings.Contains(kinds, "a") {
		args = append(args, "-map", "0:a", "-c", "copy")
		if ext := filepath.Ext(file); ext == ".m3u8" || ext == ".ts" {
			args = append(args, "-bsf", "aac_adtstoasc")
		}
		args = append(args, "-f", "framehash", "-hash", "md5", outputs[1], "-map", "0:a", "-f", "null", "-")
	}
	if _, err := output("ffmpeg", args...); err != nil {
		return d, err
	}
	for i, name := range outputs {
		text, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			d[i], err = parseFrames(text)
		}
		if err != nil {
			return d, err
		}
	}
	if times != nil && len(times) != len(d[0]) {
		return d, fmt.Errorf("%s has %d frames, of which ffmpeg decodes %d", file, len(times), len(d[0]))
	}
	for i := range times {
		d[0][i].pts = times[i].pts
	}
	return d, nil
}

// join writes the segments of a playlist into one file: where there is sound alone,
// ffmpeg's own reading of playlists gives the first two frames the same time.
func join(playlist, name string) (string, error) {
	text, err := os.ReadFile(playlist)
	if err != nil {
		return "", err
	}
	var all []byte
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		segment, err := os.ReadFile(filepath.Join(filepath.Dir(playlist), strings.TrimSpace(line)))
		if err != nil {
			return "", err
		}
		all = append(all, segment...)
	}
	return name, os.WriteFile(name, all, 0o600)
}

// rawHEVC writes the NAL units of an FLV file of HEVC, in which not every ffmpeg can read
// it, to a file of their own, and returns the times of its frames, which are in order. It
// returns nil if the file is of something else.
func rawHEVC(name, raw string) (times []frame, err error) {
	var b []byte
	unit := func(data []byte) { b = append(append(b, 0, 0, 0, 1), data...) }
	err = readFile(name, func(t tag) error {
		if t.typ != 9 || t.body[0]&0x80 == 0 || string(t.body[1:5]) != "hvc1" {
			return nil
		}
		body, cts := t.body[5:], uint32(0)
		switch t.body[0] & 0xf {
		case 0: // HEVCDecoderConfigurationRecord, ISO/IEC 14496-15, 8.3.3.1
			arrays := body[23:]
			for range body[22] {
				n := int(arrays[1])<<8 | int(arrays[2])
				for arrays = arrays[3:]; n > 0; n-- {
					size := int(arrays[0])<<8 | int(arrays[1])
					unit(arrays[2 : 2+size])
					arrays = arrays[2+size:]
				}
			}
			return nil
		case 1:
			cts, body = uint24(body), body[3:]
		case 3:
		default:
			return nil
		}
		for len(body) > 0 {
			size := int(body[0])<<24 | int(uint24(body[1:]))
			unit(body[4 : 4+size])
			body = body[4+size:]
		}
		times = append(times, frame{pts: float64(t.timestamp+cts) / 1000})
		return nil
	})
	if err == nil && times != nil {
		err = os.WriteFile(raw, b, 0o600)
	}
	return times, err
}

// follow checks that what files have, one after the other, is what clips have: all of it, in
// order and once, at times that go on and are, in each clip, later by the same. Sound is
// with its picture: where clips meet, its own clock may take a while to go as that of the next.
func follow(clips, files []decoding) error {
	type part struct{ clip, file int }
	moved := map[part]float64{}
	sound := 2 * slack
	if len(clips) > 1 {
		sound = 0.02
	}
	for kind, near := range []float64{slack, sound} {
		var got []frame
		var in []int // the file of each
		for i, f := range files {
			got = append(got, f[kind]...)
			in = append(in, slices.Repeat([]int{i}, len(f[kind]))...)
		}
		n := 0
		for i, c := range clips {
			for j, want := range c[kind] {
				where := fmt.Sprintf("frame %d of track %d of clip %d", j, kind, i)
				if n == len(got) {
					return fmt.Errorf("%s is missing, and all that follow", where)
				}
				g := got[n]
				if g.hash != want.hash {
					return fmt.Errorf("%s is not there, but something else at %.3f s", where, g.pts)
				}
				by, ok := moved[part{i, in[n]}]
				if !ok {
					by = g.pts - want.pts
					moved[part{i, in[n]}] = by
				}
				if away := g.pts - want.pts - by; math.Abs(away) > near {
					return fmt.Errorf("%s is %.4f s away from its place", where, away)
				}
				if n > 0 && in[n] == in[n-1] && g.pts <= got[n-1].pts {
					return fmt.Errorf("%s is at %.3f s, after %.3f s", where, g.pts, got[n-1].pts)
				}
				n++
			}
		}
		if n < len(got) {
			return fmt.Errorf("%d frames too many of track %d", len(got)-n, kind)
		}
	}
	return nil
}
