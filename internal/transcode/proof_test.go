package transcode

import (
	"fmt"
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
