package transcode

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Every rendition has the size, profile, rate of frames, GOP and, where the picture
// needs the bits, the bit rate that was asked for, and shows the same picture as the
// source at the same time.
func TestAsked(t *testing.T) {
	const seconds = 12
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.BitRate, r.Profile = 900_000, policy.ProfileHigh }),
		rung(func(r *policy.Rendition) {
			r.Suffix, r.ShortSide, r.FrameRate, r.BitRate, r.Profile = "_low", 180, 15, 250_000, policy.ProfileBaseline
		}),
		rung(func(r *policy.Rendition) {
			r.Suffix, r.ShortSide, r.Codec, r.BitRate = "_hevc", 180, policy.VideoHEVC, 400_000
		}),
		rung(func(r *policy.Rendition) {
			r.Suffix, r.ShortSide, r.Codec, r.BitRate = "_av1", 180, policy.VideoAV1, 300_000
		}),
	))
	film := numbered(t, "640x360", 30, seconds, 0, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 2 -b:v 6M -c:a aac")
	pub := w.begin(t, film)
	source := numbers(t, w.collect(t, "s1", seconds*1000-800))
	for _, tt := range []struct {
		name          string
		codec         av.Codec
		profile       int
		width, height int
		rate, bits    float64
	}{
		{"s1_a", av.H264, 100, 640, 360, 30, 900_000},
		{"s1_low", av.H264, 66, 320, 180, 15, 250_000},
		{"s1_hevc", av.HEVC, 1, 320, 180, 30, 400_000},
		{"s1_av1", av.AV1, 0, 320, 180, 30, 300_000},
	} {
		list := w.collect(t, tt.name, seconds*1000-800)
		same(t, tt.name, source, numbers(t, list), 1000/tt.rate)
		var size, begin, end int64
		frames, gop := 0, 0
		for _, p := range list {
			switch {
			case p.Kind != av.Video:
			case p.Config:
				info, err := av.ParseVideoInfo(p.Codec, p.Frame)
				if err != nil || p.Codec != tt.codec || info.Profile != tt.profile || info.Width != tt.width || info.Height != tt.height {
					t.Errorf("%s: %v, %+v, %v", tt.name, p.Codec, info, err)
				}
			case p.DTS >= 2000: // once the rate control has found its way
				if begin == 0 {
					begin = p.DTS
				}
				size, end = size+int64(len(p.Frame)), p.DTS
				fallthrough
			default:
				if p.Key {
					if frames > 0 && gop != int(2*tt.rate) {
						t.Errorf("%s: a key frame after %d pictures, want every %v", tt.name, gop, 2*tt.rate)
					}
					gop = 0
				}
				frames++
				gop++
			}
		}
		if want := (seconds*10 - 8) * int(tt.rate) / 10; frames < want-2 {
			t.Errorf("%s: %d pictures of %d", tt.name, frames, want)
		}
		rate := float64(size*8) / float64(end-begin) * 1000
		t.Logf("%s: %.0f kbit/s of %.0f, %d pictures", tt.name, rate/1000, tt.bits/1000, frames)
		if rate < 0.85*tt.bits || rate > 1.15*tt.bits {
			t.Errorf("%s: %.0f bit/s, want %.0f", tt.name, rate, tt.bits)
		}
	}
	pub.End(stream.EndClosed)
}

// Renditions have their key frames at the same times however long they last, after another
// ffmpeg has gone on, too, and the pictures of the source, also where what is asked for is no
// whole number of frames.
func TestKeyFramesStayAligned(t *testing.T) {
	tests := []struct {
		source string
		fps    float64
		gop    time.Duration
		second int // frame rate of another output
		want   int // ms
	}{
		{"30", 30, 1500 * time.Millisecond, 25, 1600},
		{"30000/1001", 30 / 1.001, 1500 * time.Millisecond, 25, 1401},
		{"30000/1001", 30 / 1.001, 500 * time.Millisecond, 15, 467},
		{"25", 25, time.Second, 12, 1000},
		{"24", 24, 2 * time.Second, 15, 2000},
		{"15", 15, 700 * time.Millisecond, 12, 667},
	}
	const half, end = 8_000, 16_000
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.2f %d %v", tt.fps, tt.second, tt.gop), func(t *testing.T) {
			tpl := template(
				rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 108, 150_000 }),
				rung(func(r *policy.Rendition) {
					r.Suffix, r.ShortSide, r.BitRate, r.FrameRate = "_b", 108, 150_000, tt.second
				}),
			)
			tpl.Preset, tpl.GOP = "ultrafast", tt.gop
			w := newWorld(t, Options{}, *tpl)
			film := shoot(t, "testsrc2=size=192x108:rate="+tt.source+","+marks(0), end/1000+1,
				fmt.Sprintf("-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g %.0f -bf 2 -c:a aac", tt.fps))
			i := slices.IndexFunc(film, func(p av.Packet) bool { return p.DTS >= half })
			pub := w.begin(t, film[:i])
			for _, name := range []string{"s1_a", "s1_b"} {
				w.collect(t, name, half-1000)
			}
			src, killed := w.source(pub.Stream()), time.Now()
			src.mu.Lock()
			src.proc.Kill()
			src.mu.Unlock()
			until(t, 20*time.Second, "noticed", func() bool { return w.Stats().Restarts == 1 })
			more := i + slices.IndexFunc(film[i:], func(p av.Packet) bool { return p.DTS >= half+1000 })
			for _, part := range [][]av.Packet{film[i:more], film[more:]} {
				for _, p := range part {
					if err := pub.WritePacket(p); err != nil {
						t.Fatal(err)
					}
				}
				until(t, 20*time.Second, "running again", func() bool {
					st := w.Status()[0]
					return st.State == "running" && st.Started.After(killed)
				})
			}
			source := make(map[int]int64)
			for _, p := range numbers(t, w.collect(t, "s1", end-600)) {
				source[p.number] = p.at
			}
			var first []int64
			for _, o := range []struct {
				name string
				fps  float64
			}{{"s1_a", tt.fps}, {"s1_b", float64(tt.second) * tt.fps / math.Round(tt.fps)}} {
				list := w.collect(t, o.name, end-1000)
				for _, p := range numbers(t, list) {
					if at, ok := source[p.number]; !ok || float64(abs(at-p.at)) > 500/o.fps+2 {
						t.Errorf("%s: at %d ms it shows picture %d, which is of %d ms", o.name, p.at, p.number, at)
					}
				}
				keys := frames(list, av.Video, true)
				for i, at := range keys[1:] {
					// Between them another ffmpeg began.
					if d := at - keys[i]; abs(d-int64(tt.want)) > 2 && (at < half-2500 || keys[i] > half+1000) {
						t.Errorf("%s: key frames at %d and then at %d, want them %d ms apart", o.name, keys[i], at, tt.want)
					}
				}
				if want := (end - 3000) / tt.want; len(keys) < want {
					t.Errorf("%s: %d key frames, want %d", o.name, len(keys), want)
				}
				if o.name == "s1_a" {
					first = keys
				}
				worst := int64(0)
				for _, at := range keys {
					near := slices.MinFunc(first, func(x, y int64) int { return int(abs(x-at) - abs(y-at)) })
					worst = max(worst, abs(near-at))
				}
				if t.Logf("%s: %d key frames, up to %d ms apart", o.name, len(keys), worst); float64(worst) > 1000/o.fps+1 {
					t.Errorf("key frames at %v and %v are up to %d ms apart", first, keys, worst)
				}
			}
			pub.End(stream.EndClosed)
		})
	}
}

// begin publishes a film, most of it once ffmpeg has begun with its first second.
func (w *world) begin(t testing.TB, film []av.Packet) *stream.Publication {
	t.Helper()
	i := slices.IndexFunc(film, func(p av.Packet) bool { return p.DTS >= 950 })
	pub := w.publish(t, film[:i], stream.Push{})
	w.await(t, key, "running")
	for _, p := range film[i:] {
		if err := pub.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	return pub
}

// goOn lets a publisher send list once the rendition has got to the beginning of it: a change is
// noticed in the middle of a stream, and not at its end.
func (w *world) goOn(t *testing.T, pub *stream.Publication, name string, list []av.Packet) {
	t.Helper()
	start := slices.IndexFunc(list, func(p av.Packet) bool { return p.Kind == av.Video && !p.Config })
	at := list[start].DTS
	next := start + slices.IndexFunc(list[start:], func(p av.Packet) bool { return p.DTS >= at+1000 })
	for _, part := range [][]av.Packet{list[:next], list[next:]} {
		for _, p := range part {
			if err := pub.WritePacket(p); err != nil {
				t.Fatal(err)
			}
		}
		w.collect(t, name, pub.Stream().Time()-600)
	}
}

// later returns list at a later time.
func later(list []av.Packet, ms int64) []av.Packet {
	list = slices.Clone(list)
	for i := range list {
		list[i].DTS += ms
	}
	return list
}

// sizes returns the sizes that a track has had, in order.
func sizes(list []av.Packet) (s []string) {
	for _, part := range parts(list) {
		if info, err := av.ParseVideoInfo(part[0].Codec, part[0].Frame); err == nil {
			if size := fmt.Sprintf("%dx%d", info.Width, info.Height); len(s) == 0 || s[len(s)-1] != size {
				s = append(s, size)
			}
		}
	}
	return s
}

// The picture changes its size and shape in mid stream, to portrait, to odd numbers and
// 4:4:4; the publisher leaves and returns. Renditions follow and stay in time.
func TestSourceChanges(t *testing.T) {
	const options = "-c:v libx264 -preset ultrafast -g 30 -c:a aac "
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 180, 600_000 }),
	))
	w.app.Hold = 1 << 40
	films := [][]av.Packet{
		numbered(t, "640x360", 30, 3, 0, options+"-pix_fmt yuv420p -bf 2"),
		later(numbered(t, "360x640", 30, 3, 90, options+"-pix_fmt yuv420p"), 3000),
		later(numbered(t, "641x361", 30, 3, 180, options+"-pix_fmt yuv444p"), 6000),
	}
	pub, err := w.hub.Publish(key, &w.app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range films {
		w.goOn(t, pub, "s1_a", f)
	}
	pub.End(stream.EndReset)
	if pub, err = w.hub.Publish(key, &w.app, stream.Push{}); err != nil {
		t.Fatal(err)
	}
	w.goOn(t, pub, "s1_a", numbered(t, "638x358", 30, 3, 270, options+"-pix_fmt yuv420p -bf 2"))
	end := pub.Stream().Time() - 600
	source, rendition := w.collect(t, "s1", end), w.collect(t, "s1_a", end)
	if got, want := fmt.Sprint(sizes(rendition)), "[320x180 180x320 320x180]"; got != want {
		t.Errorf("sizes %s, want %s", got, want)
	}
	seen, first := numbers(t, rendition), 0
	all := numbers(t, source)
	for n := 90; n <= 360; n += 90 { // each film by itself: between them time may stand still for a moment
		i := first
		for i < len(seen) && seen[i].number < n {
			i++
		}
		same(t, fmt.Sprintf("pictures %d to %d", n-90, n), all, seen[first:i], 1000/30.)
		if i-first < 65 {
			t.Errorf("%d of 90 pictures from %d on", i-first, n-90)
		}
		first = i
	}
	pub.End(stream.EndClosed)
}

// Sound that comes seconds after the picture is in the renditions from then on, and
// costs no picture; and no picture waits for sound that comes no more.
func TestLateSound(t *testing.T) {
	w := newWorld(t, Options{}, *template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 180, 400_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Drop = "_ear", policy.CopyVideo }),
	))
	const late, gone = 2500, 4000
	film := slices.DeleteFunc(numbered(t, "640x360", 30, 6, 0, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 2 -c:a aac"), func(p av.Packet) bool {
		return p.Kind == av.Audio && !p.Config && (p.DTS < late || p.DTS > gone)
	})
	i := slices.IndexFunc(film, func(p av.Packet) bool { return p.Kind == av.Audio && p.Config })
	config := film[i]
	config.DTS = late
	film = slices.Delete(film, i, i+1)
	i = slices.IndexFunc(film, func(p av.Packet) bool { return p.Kind == av.Audio })
	pub := w.begin(t, film[:i])
	if list := w.collect(t, "s1_a", late-600); slices.ContainsFunc(list, func(p av.Packet) bool { return p.Kind == av.Audio }) {
		t.Error("there is sound before there is sound")
	}
	pub.WritePacket(config)
	began := w.await(t, key, "running").Started
	for pub.WritePacket(film[i]); w.await(t, key, "running").Started.Equal(began); {
		<-time.After(10 * time.Millisecond)
	}
	for _, p := range film[i+1:] {
		pub.WritePacket(p)
	}
	source, rendition := w.collect(t, "s1", 5200), w.collect(t, "s1_a", 5200)
	same(t, "picture", numbers(t, source), numbers(t, rendition), 1000/30.)
	until(t, 10*time.Second, "in time, those of sound included", func() bool { return w.Status()[0].Lag < time.Second })
	sound := frames(rendition, av.Audio, false)
	if len(sound) == 0 || sound[0] > late+150 || sound[0] < late-150 || sound[len(sound)-1] > gone+150 {
		t.Fatalf("sound begins at %v, want %d", sound[:min(1, len(sound))], late)
	}
	for i := 1; i < len(sound); i++ {
		if d := sound[i] - sound[i-1]; d < 1 || d > 50 {
			t.Errorf("sound at %d and then at %d", sound[i-1], sound[i])
		}
	}
	pub.End(stream.EndClosed)
}
