package transcode

import (
	"fmt"
	"testing"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
)

// What a ladder costs: seconds of one core for a second of a stream of 1920x1080 at 30 pictures a second, and how many
// times as fast as the stream it is made when nobody holds it back.
func BenchmarkLadder(b *testing.B) {
	const seconds = 12
	film := shoot(b, "testsrc2=size=1920x1080:rate=30,noise=alls=6:allf=t", seconds, "-c:v libx264 -preset superfast -pix_fmt yuv420p -g 60 -bf 2 -b:v 6M -maxrate 6M -bufsize 6M -c:a aac")
	outs := map[int]policy.Rendition{}
	for side, rate := range map[int]int{1080: 4_000_000, 720: 2_500_000, 480: 1_000_000, 360: 600_000} {
		outs[side] = rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.BitRate = fmt.Sprint("_", side), side, rate })
	}
	for _, bb := range []struct {
		preset string
		sides  []int
	}{
		{"veryfast", []int{1080, 720, 480, 360}},
		{"veryfast", []int{720, 480, 360}},
		{"veryfast", []int{720, 360}},
		{"veryfast", []int{480, 360}},
		{"superfast", []int{720, 480, 360}},
		{"ultrafast", []int{1080, 720, 480, 360}},
	} {
		b.Run(fmt.Sprint(bb.preset, bb.sides), func(b *testing.B) {
			var list []policy.Rendition
			for _, side := range bb.sides {
				list = append(list, outs[side])
			}
			tpl := template(list...)
			tpl.Preset = bb.preset
			w := newWorld(b, Options{}, *tpl)
			w.app.IdleTimeout, w.pace.nice = time.Hour, patient.nice
			if _, err := w.choose(b.Context(), policy.EncoderAuto, policy.VideoH264); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				before, start := w.tool.Health().CPU, time.Now()
				pub := w.begin(b, film)
				for _, side := range bb.sides {
					w.collect(b, fmt.Sprint("s1_", side), seconds*1000-800)
				}
				took := time.Since(start)
				pub.End(stream.EndClosed)
				until(b, time.Minute, "over", func() bool { return w.tool.Health().Running == 0 })
				b.ReportMetric((w.tool.Health().CPU-before).Seconds()/seconds, "core-s/s")
				b.ReportMetric(seconds/took.Seconds(), "x")
			}
		})
	}
}
