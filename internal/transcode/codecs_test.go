package transcode

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/media/mkv"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Sources of all codecs are transcoded, to H.264 and to AV1 and as they are, with any version of ffmpeg: the
// pictures are the same, and there is sound.
func TestCodecs(t *testing.T) {
	for _, tt := range []struct {
		name, options string
		video         av.Codec
	}{
		{"av1 and opus", "-c:v libsvtav1 -preset 12 -svtav1-params pred-struct=1 -b:v 1M -g 30 -c:a libopus", av.AV1},
		{"vp9 and opus", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M -g 30 -c:a libopus", av.VP9},
		{"hevc and aac", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0 -b:v 1M -g 30 -c:a aac", av.HEVC},
		{"h264 and opus", "-c:v libx264 -preset ultrafast -bf 0 -b:v 1M -g 30 -c:a libopus", av.H264},
		{"h264 and mp3", "-c:v libx264 -preset ultrafast -bf 0 -b:v 1M -g 30 -c:a libmp3lame", av.H264},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, codec := range []string{"libsvtav1", "libopus", "libvpx-vp9", "libx265", "libmp3lame"} {
				if out, _ := exec.Command("ffmpeg", "-hide_banner", "-encoders").Output(); !bytes.Contains(out, []byte(codec)) {
					t.Skip("this ffmpeg has no " + codec)
				}
			}
			film := coded(t, "320x180", 4, 0, tt.options)
			w := newWorld(t, Options{}, *template(
				rung(func(r *policy.Rendition) { r.BitRate = 500_000 }),
				rung(func(r *policy.Rendition) { r.Suffix, r.Codec, r.BitRate = "_av1", policy.VideoAV1, 400_000 }),
				rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyVideo }),
			))
			pub := w.begin(t, film)
			source := numbers(t, w.collect(t, "s1", 2600))
			for name, codec := range map[string]av.Codec{"s1_a": av.H264, "s1_av1": av.AV1, "s1_copy": tt.video} {
				list := w.collect(t, name, 2500)
				seen := numbers(t, list)
				same(t, name, source, seen, 1000/30.)
				if len(seen) < 74 || len(seen) > 78 {
					t.Errorf("%s: %d pictures of 76", name, len(seen))
				}
				sound := 0
				for _, p := range list {
					switch {
					case p.Kind == av.Video && p.Codec != codec, p.Kind == av.Audio && p.Codec != av.AAC:
						t.Fatalf("%s: %v", name, p.Codec)
					case p.Kind == av.Audio && !p.Config:
						sound++
					case p.Config && p.Kind == av.Video:
						if info, err := av.ParseVideoInfo(p.Codec, p.Frame); p.Codec != av.VP9 && (err != nil || info.Width != 320 || info.Height != 180) {
							t.Errorf("%s: %+v, %v", name, info, err)
						}
					}
				}
				if sound < 95 {
					t.Errorf("%s: %d frames of sound, want some 107", name, sound)
				}
			}
			// HLS players are not offered what HLS has not.
			variants, _ := w.Ladder(w.hub.Find(key))
			if hasURI(variants, "s1_av1") || !hasURI(variants, "s1_a") || hasURI(variants, "s1") != inHLS(tt.video) {
				t.Errorf("ladder: %+v", variants)
			}
			pub.End(stream.EndClosed)
		})
	}
}

// coded makes a film of any codec, whose pictures have numbers from first on.
func coded(t *testing.T, size string, seconds, first int, options string) (film []av.Packet) {
	t.Helper()
	args := strings.Fields(fmt.Sprintf("-nostdin -v error -f lavfi -i testsrc2=size=%s:rate=30,format=yuv420p,%s -f lavfi -i sine=440 -t %d %s -f matroska -live 1 pipe:1",
		size, marks(first), seconds, options))
	b, err := exec.Command("ffmpeg", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for r := (tagged{mkv.NewReader(bytes.NewReader(b))}); ; {
		p, err := r.ReadPacket()
		if err != nil {
			return film
		}
		film = append(film, p)
	}
}

// A publisher that changes its codec, or its parameter sets alone, in mid push: renditions follow
// in time, those that are copied in the new codec, and the source has every picture.
func TestCodecChanges(t *testing.T) {
	const hevc = "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0:keyint=30 -b:v 1M -c:a aac"
	const avc = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -c:a aac "
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.BitRate = 500_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Codec, r.BitRate = "_hevc", policy.VideoHEVC, 400_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyBoth }),
	))
	pub, err := w.hub.Publish(key, &w.app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	for i, options := range []string{avc, hevc, avc + "-bf 2", avc + "-profile:v high -x264-params cabac=1:ref=4", hevc} {
		film := coded
		if options != hevc {
			film = func(t *testing.T, size string, seconds, first int, options string) []av.Packet {
				return numbered(t, size, 30, seconds, first, options)
			}
		}
		w.goOn(t, pub, "s1_a", later(film(t, "320x180", 3, i*90, options), int64(i)*3000))
	}
	end := pub.Stream().Time() - 600
	source := w.collect(t, "s1", end)
	all := numbers(t, source)
	if first, last := all[0], all[len(all)-1]; first.number != 0 || last.number-first.number != len(all)-1 {
		t.Errorf("the source has %d pictures, from %d to %d", len(all), first.number, last.number)
	}
	if st := w.Status()[0]; st.Restarts != 0 {
		t.Errorf("%d restarts after failures; a change is none", st.Restarts)
	}
	for name, want := range map[string]string{"s1_a": "[h264]", "s1_hevc": "[hevc]", "s1_copy": "[h264 hevc h264 hevc]"} {
		list := w.collect(t, name, end)
		var codecs []av.Codec
		for _, part := range parts(list) {
			if c := part[0].Codec; len(codecs) == 0 || codecs[len(codecs)-1] != c {
				codecs = append(codecs, c)
			}
		}
		if got := fmt.Sprint(codecs); got != want {
			t.Errorf("%s: codecs %s, want %s", name, got, want)
		}
		for _, part := range parts(list) {
			if !part[1].Key {
				t.Errorf("%s: %v begins at %d ms with no key frame", name, part[0].Codec, part[1].DTS)
			}
		}
		seen := numbers(t, list)
		for n := range 5 { // each film by itself: between them time may stand still for a moment
			part := slices.DeleteFunc(slices.Clone(seen), func(p picture) bool { return p.number/90 != n })
			same(t, fmt.Sprintf("%s, film %d", name, n), all, part, 1000/30.)
			if len(part) < 65 {
				t.Errorf("%s: %d of 90 pictures of film %d", name, len(part), n)
			}
		}
	}
	pub.End(stream.EndClosed)
}

func hasURI(list []m3u8.Variant, uri string) bool {
	return slices.ContainsFunc(list, func(v m3u8.Variant) bool { return v.URI == uri })
}
