package transcode

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/stream"
)

// What a master playlist says is an upper bound of what comes and its average (RFC 8216, 4.3.4.2), also
// when the source sends little just then.
func TestLadderRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpl := template(
			rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 90, 400_000 }),
			rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyBoth }),
		)
		tpl.Trigger = policy.TranscodePlay // there is no ffmpeg here
		hub := stream.NewHub(stream.Options{})
		defer hub.Close(context.Background())
		tr := New(hub, ffmpeg.New(ffmpeg.Options{}), Options{})
		app := policy.DefaultApp("live")
		app.Transcode = []policy.Transcode{*tpl}
		pub, err := hub.Publish(key, &app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		defer pub.End(stream.EndClosed)
		at := int64(0)
		send := func(seconds int, bitRate int) {
			for range seconds * 25 {
				p := av.Packet{Kind: av.Video, Codec: av.H264, DTS: at, Key: at%1000 == 0, Frame: make([]byte, bitRate/8/25)}
				p.Tag = flv.AppendVideo(nil, p.Codec, p.Key, false, 0, p.Frame)
				if err := pub.WritePacket(p); err != nil {
					t.Fatal(err)
				}
				time.Sleep(40 * time.Millisecond)
				at += 40
			}
		}
		check := func(when string, peak, average int) {
			t.Helper()
			list, _ := tr.Ladder(pub.Stream())
			if len(list) != 3 || list[1].URI != "s1_a" || list[1].Bandwidth != 500_000 || list[1].Average != 400_000 {
				t.Errorf("%s: %+v, want s1_a as it is made", when, list)
			}
			for _, v := range []m3u8.Variant{list[0], list[2]} {
				if v.Bandwidth < peak || v.Bandwidth > peak*14/10 || v.Average < average*9/10 || v.Average > average*11/10 {
					t.Errorf("%s: %s has BANDWIDTH %d and an average of %d, want a little more than %d, and %d", when, v.URI, v.Bandwidth, v.Average, peak, average)
				}
			}
		}
		send(20, 1_500_000)
		check("after a loud beginning", 1_500_000, 1_500_000)
		send(40, 30_000)
		check("while it is quiet", 1_500_000, 500_000)
		src := tr.source(pub.Stream())
		src.mu.Lock()
		src.outs = []*rendition{{output: &output{Rendition: &tpl.Outputs[0], bitRate: 200_000}}}
		src.mu.Unlock()
		if list, _ := tr.Ladder(pub.Stream()); list[1].Bandwidth != 250_000 || list[1].Average != 200_000 {
			t.Errorf("made at 200000, and listed as %+v", list[1])
		}
		src.mu.Lock()
		src.outs = nil
		src.mu.Unlock()
	})
}

// No rendition has a higher bit rate than its source: than what the publisher says, before the first frame or
// later, or else than what comes in the first seconds.
func TestSourceRate(t *testing.T) {
	const most = 300_000
	film := numbered(t, "320x180", 30, 4, 0, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 0 -b:v 300k -maxrate 300k -bufsize 150k -c:a aac -b:a 32k")
	says := slices.IndexFunc(film, func(p av.Packet) bool { return p.Kind == av.Data })
	if says < 0 {
		t.Fatal("the film has no metadata")
	}
	silent := slices.DeleteFunc(slices.Clone(film), func(p av.Packet) bool { return p.Kind == av.Data })
	late := slices.IndexFunc(silent, func(p av.Packet) bool { return p.DTS >= 2000 })
	metadata := film[says]
	metadata.DTS = silent[late].DTS
	for _, tt := range []struct {
		name    string
		film    []av.Packet
		measure time.Duration
		most    int
	}{
		{"said", film, time.Hour, most},
		{"said late", slices.Insert(slices.Clone(silent), late, metadata), time.Hour, most},
		{"measured", silent, 3 * time.Second, most * 13 / 10}, // of all that comes
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tpl := template(rung(func(r *policy.Rendition) { r.BitRate = 900_000 }))
			tpl.Preset = "ultrafast"
			w := newWorld(t, Options{}, *tpl)
			w.pace.measure = tt.measure
			_, _, stop := w.live(t, key, tt.film, stream.Push{})
			defer stop()
			aims := func() int {
				if st := w.Status(); len(st) == 1 && st[0].State == "running" && st[0].Outputs[0].Live {
					return st[0].Outputs[0].BitRate
				}
				return 0
			}
			until(t, 30*time.Second, "at the rate of the source", func() bool { n := aims(); return n > 0 && n <= tt.most })
			if n := aims(); n < most*9/10 {
				t.Errorf("it aims at %d bit/s, want the source's %d", n, most)
			}
			from := w.hub.Find(stream.Key{Space: key.Space, App: key.App, Name: "s1_a"}).Time() + 1000
			var bits, begin, end int64
			for _, p := range w.collect(t, "s1_a", from+4000) {
				if p.Kind == av.Video && !p.Config && p.DTS >= from {
					if begin == 0 {
						begin = p.DTS
					}
					bits, end = bits+int64(len(p.Frame))*8, p.DTS
				}
			}
			if rate := bits * 1000 / (end - begin); rate > int64(tt.most)*115/100 {
				t.Errorf("it has %d bit/s, want %d at most", rate, tt.most)
			}
		})
	}
}

// Sound goes to ffmpeg also while there are no pictures.
func TestFeedWithoutPictures(t *testing.T) {
	var out bytes.Buffer
	f := newFeed(&out, "mpegts", &media{video: av.HEVC, audio: av.AAC}, 0)
	if err := f.write(av.Packet{Kind: av.Audio, Codec: av.AAC, Config: true, Frame: []byte{0x12, 0x10}}); err != nil {
		t.Fatal(err)
	}
	sound := 0
	for at := int64(0); at < 60_000; at += 20 {
		frame := make([]byte, 500)
		if sound += len(frame); at > 40_000 { // a stranger's
			frame = make([]byte, 8000)
		}
		before := out.Len()
		if err := f.write(av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: at, Frame: frame}); err != nil {
			t.Fatal(err)
		}
		if f.ts.Size() > 2*soundSize || at == 40_000 && out.Len() < sound*9/10 {
			t.Fatalf("at %d ms: %d bytes wait, %d of %d were handed on", at, f.ts.Size(), out.Len(), sound)
		}
		if n := out.Len() - before; n%188 != 0 {
			t.Fatalf("at %d ms: %d bytes are no whole packets", at, n)
		}
	}
}

// A source of oblong pixels has renditions of square ones, of the same shape, and says so.
func TestOblongPixels(t *testing.T) {
	tpl := template(
		rung(func(r *policy.Rendition) { r.ShortSide, r.BitRate = 144, 100_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.BitRate = "_same", 200_000 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyBoth }),
	)
	tpl.Preset = "ultrafast"
	for _, tt := range []struct{ sar, options string }{
		{"64/45", "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -c:a aac"},
		{"16/11", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0:keyint=30 -c:a aac"},
	} {
		t.Run(tt.sar, func(t *testing.T) {
			w := newWorld(t, Options{}, *tpl)
			pub := w.begin(t, coded(t, "360x288", 4, 0, "-vf setsar="+tt.sar+" "+tt.options))
			for i, want := range [][2]int{{256, 144}, {512, 288}} {
				if tt.sar == "16/11" {
					want[0] = []int{262, 524}[i]
				}
				name := []string{"s1_a", "s1_same"}[i]
				list := w.collect(t, name, 2000)
				config := list[slices.IndexFunc(list, func(p av.Packet) bool { return p.Config && p.Kind == av.Video })]
				info, err := av.ParseVideoInfo(config.Codec, config.Frame)
				if err != nil || info.Width != want[0] || info.Height != want[1] || info.DisplayWidth() != info.Width {
					t.Errorf("%s: %+v, %v, want %v and square pixels", name, info, err, want)
				}
			}
			list, _ := w.Ladder(pub.Stream())
			for _, v := range list {
				if shape := float64(v.Width) / float64(v.Height); shape < 1.77 || shape > 1.83 {
					t.Errorf("%s is listed with %dx%d", v.URI, v.Width, v.Height)
				}
			}
			pub.End(stream.EndClosed)
		})
	}
}

// Where the scene changes there is no further key frame, so that those of all renditions stay at
// the same times, unless the template wants it.
func TestSceneCuts(t *testing.T) {
	// A cut every 0.7 s, between pictures that have nothing in common.
	film := shoot(t, "testsrc2=size=320x180:rate=30,hue=H=2*PI*floor(t/0.7)*0.37:s=3,negate=enable='mod(floor(t/0.7),2)',hflip", 8,
		"-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 30 -bf 0 -c:a aac")
	for _, cuts := range []bool{false, true} {
		tpl := template(
			rung(func(r *policy.Rendition) { r.BitRate = 400_000 }),
			rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.FrameRate, r.BitRate = "_b", 90, 15, 100_000 }),
			rung(func(r *policy.Rendition) {
				r.Suffix, r.ShortSide, r.Codec, r.BitRate = "_hevc", 90, policy.VideoHEVC, 100_000
			}),
		)
		tpl.SceneCut = cuts
		w := newWorld(t, Options{}, *tpl)
		pub := w.begin(t, film)
		for _, name := range []string{"s1_a", "s1_b", "s1_hevc"} {
			keys := frames(w.collect(t, name, 7000), av.Video, true)
			if cuts {
				if name == "s1_a" && len(keys) < 6 {
					t.Errorf("%s has key frames at %v where they are wanted at cuts", name, keys)
				}
				continue
			}
			if len(keys) != 4 {
				t.Errorf("%s has key frames at %v, want one every two seconds", name, keys)
			}
			for i, at := range keys {
				if d := at - keys[0] - int64(i)*2000; d < -34 || d > 34 {
					t.Errorf("%s has key frames at %v, want one every two seconds", name, keys)
				}
			}
		}
		pub.End(stream.EndClosed)
	}
}
