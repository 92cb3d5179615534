package transcode

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"os/exec"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// logoOf is a picture of one colour.
func logoOf(t *testing.T, w, h int, c color.Color, isJPEG bool) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(m, m.Bounds(), image.NewUniform(c), image.Point{}, draw.Src)
	var b bytes.Buffer
	err := png.Encode(&b, m)
	if isJPEG {
		b.Reset()
		err = jpeg.Encode(&b, m, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// shot is the last picture of a rendition.
func shot(t *testing.T, list []av.Packet, w, h int) *image.NRGBA {
	t.Helper()
	pixels, _ := decode(t, list, "null", w, h, 3)
	last := pixels[len(pixels)-1]
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		m.Pix[4*i], m.Pix[4*i+1], m.Pix[4*i+2], m.Pix[4*i+3] = last[3*i], last[3*i+1], last[3*i+2], 255
	}
	return m
}

// area returns where m is not black, and what colour the middle of it has.
func area(m *image.NRGBA, within image.Rectangle) (image.Rectangle, color.NRGBA) {
	var r image.Rectangle
	for y := within.Min.Y; y < within.Max.Y; y++ {
		for x := within.Min.X; x < within.Max.X; x++ {
			if c := m.NRGBAAt(x, y); int(c.R)+int(c.G)+int(c.B) > 200 {
				r = r.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return r, m.NRGBAAt((r.Min.X+r.Max.X)/2, (r.Min.Y+r.Max.Y)/2)
}

const black = "color=black:size=%s:rate=15"

// Logos are where they should be, from every corner, as large as they should be, in landscape and in portrait;
// one that is not there costs nothing.
func TestLogos(t *testing.T) {
	red, green, blue, white := color.NRGBA{255, 0, 0, 255}, color.NRGBA{0, 255, 0, 255}, color.NRGBA{0, 0, 255, 255}, color.NRGBA{255, 255, 255, 255}
	pictures := map[string][]byte{
		"red.png": logoOf(t, 40, 20, red, false), "green.jpg": logoOf(t, 32, 64, green, true),
		"blue.png": logoOf(t, 400, 400, blue, false), "white.png": logoOf(t, 64, 32, white, false),
	}
	fetch := func(_ context.Context, bucket, key string, most int64) ([]byte, error) {
		if b := pictures[key]; b != nil && bucket == "art" && most >= int64(len(b)) {
			return b, nil
		}
		return nil, fmt.Errorf("%s/%s is not there", bucket, key)
	}
	w := newWorld(t, Options{Picture: fetch}, *template(rung(func(r *policy.Rendition) {
		r.ShortSide, r.BitRate = 240, 2_000_000
		r.Logos = []policy.Logo{
			{Bucket: "art", Key: "red.png", Corner: policy.TopLeft, X: 10, Y: 20},                  // as it is: 40x20
			{Bucket: "art", Key: "green.jpg", Corner: policy.TopRight, X: 16, Y: 8, Scale: 20},     // 48 high, 24 wide
			{Bucket: "art", Key: "blue.png", Corner: policy.BottomLeft, X: 0, Y: 0, Scale: 25},     // 60x60
			{Bucket: "art", Key: "white.png", Corner: policy.BottomRight, X: 30, Y: 12, Scale: 10}, // 24 high, 48 wide
		}
	}), rung(func(r *policy.Rendition) {
		r.Suffix, r.ShortSide = "_none", 120
		r.Logos = []policy.Logo{{Bucket: "art", Key: "missing.png"}}
	})))
	w.app.Hold = 10 * time.Millisecond
	for _, tt := range []struct {
		source        string
		width, height int
	}{{"640x360", 426, 240}, {"360x640", 240, 426}} {
		film := shoot(t, fmt.Sprintf(black, tt.source), 3, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 15 -c:a aac")
		pub := w.begin(t, film)
		m := shot(t, w.collect(t, "s1_a", 2000), tt.width, tt.height)
		W, H := tt.width, tt.height
		half := image.Pt(W/2, H/2)
		for _, l := range []struct {
			what   string
			in     image.Rectangle
			want   image.Rectangle
			colour color.NRGBA
		}{
			{"top left", image.Rectangle{Max: half}, image.Rect(10, 20, 50, 40), red},
			{"top right", image.Rect(half.X, 0, W, half.Y), image.Rect(W-16-24, 8, W-16, 8+48), green},
			{"bottom left", image.Rect(0, half.Y, half.X, H), image.Rect(0, H-60, 60, H), blue},
			{"bottom right", image.Rect(half.X, half.Y, W, H), image.Rect(W-30-48, H-12-24, W-30, H-12), white},
		} {
			got, c := area(m, l.in)
			for _, d := range []int{got.Min.X - l.want.Min.X, got.Min.Y - l.want.Min.Y, got.Max.X - l.want.Max.X, got.Max.Y - l.want.Max.Y} {
				if d < -2 || d > 2 {
					t.Errorf("%s of %dx%d: logo in %v, want %v", l.what, W, H, got, l.want)
					break
				}
			}
			for _, v := range [][2]uint8{{c.R, l.colour.R}, {c.G, l.colour.G}, {c.B, l.colour.B}} {
				if abs(int64(v[0])-int64(v[1])) > 40 {
					t.Errorf("%s of %dx%d: colour %v, want %v", l.what, W, H, c, l.colour)
					break
				}
			}
		}
		none := shot(t, w.collect(t, "s1_none", 2000), max(120, W*120/240/2*2), max(120, H*120/240/2*2))
		if r, _ := area(none, none.Bounds()); !r.Empty() {
			t.Errorf("a rendition without its logo has something in %v", r)
		}
		pub.End(stream.EndClosed)
		until(t, 20*time.Second, "over", func() bool { return len(w.hub.Streams()) == 0 })
		w.mu.Lock()
		clear(w.seen)
		w.mu.Unlock()
	}
}

// The clock on the picture shows the time at which it was made: it looks as ffmpeg writes that.
func TestClock(t *testing.T) {
	if defaultFont() == "" {
		t.Skip("there is no font here")
	}
	const W, H, size = 640, 360, 36 // 10 %
	w := newWorld(t, Options{}, *template(rung(func(r *policy.Rendition) {
		r.BitRate, r.Clock = 2_000_000, &policy.Clock{Corner: policy.BottomRight, X: 20, Y: 30, Size: 10}
	})))
	start := time.Now()
	pub := w.begin(t, shoot(t, fmt.Sprintf(black, "640x360"), 3, "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 15 -c:a aac"))
	m := shot(t, w.collect(t, "s1_a", 2000), W, H)
	end := time.Now()
	pub.End(stream.EndClosed)
	best, second := 1e9, 1e9
	var shown time.Time
	for at := start.Truncate(time.Second); !at.After(end.Add(3 * time.Second)); at = at.Add(time.Second) {
		text := at.UTC().Format(`2006-01-02 15\:04\:05`)
		out, err := exec.Command("ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", fmt.Sprintf(black, "640x360"),
			"-vf", fmt.Sprintf("drawtext=fontfile=%s:text='%s':x=w-tw-20:y=h-th-30:fontcolor=white:box=1:boxcolor=black@0.5:boxborderw=4:fontsize=%d", defaultFont(), text, size),
			"-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1").Output()
		if err != nil {
			t.Fatal(err)
		}
		diff := 0.0
		for i, v := range out {
			diff += float64(abs(int64(v) - int64(m.Pix[4*i+1])))
		}
		if diff < best {
			best, second, shown = diff, best, at
		} else {
			second = min(second, diff)
		}
	}
	if second < 2*best {
		t.Errorf("the clock shows nothing in particular: %.0f from %v, %.0f from another second", best, shown, second)
	}
	if shown.Before(start.Truncate(time.Second)) || shown.After(end) {
		t.Errorf("the clock shows %v; it was %v to %v", shown, start, end)
	}
	r, _ := area(m, m.Bounds())
	if r.Max.X < W-20-6 || r.Max.X > W-20 || r.Max.Y < H-30-6 || r.Max.Y > H-30 || r.Dy() < size/2 || r.Dy() > size {
		t.Errorf("the clock is in %v, want it 20 and 30 from the corner", r)
	}
}
