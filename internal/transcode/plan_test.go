package transcode

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

func TestSize(t *testing.T) {
	tests := []struct {
		rendition     policy.Rendition
		width, height int
		wantW, wantH  int
	}{
		{policy.Rendition{}, 1920, 1080, 1920, 1080},
		{policy.Rendition{Height: 720}, 1920, 1080, 1280, 720},
		{policy.Rendition{Width: 640}, 1920, 1080, 640, 360},
		{policy.Rendition{Width: 640, Height: 640}, 1920, 1080, 640, 640},
		{policy.Rendition{ShortSide: 360}, 1920, 1080, 640, 360},
		{policy.Rendition{ShortSide: 360}, 1080, 1920, 360, 640},
		{policy.Rendition{ShortSide: 720}, 640, 360, 1280, 720},
		{policy.Rendition{ShortSide: 720, NeverEnlarge: true}, 640, 360, 640, 360},
		{policy.Rendition{Width: 1280, Height: 1280, NeverEnlarge: true}, 640, 360, 360, 360},
		{policy.Rendition{Height: 240}, 638, 359, 426, 240}, // odd sizes
		{policy.Rendition{}, 639, 359, 638, 358},
		{policy.Rendition{Width: 16}, 3000, 100, 16, 2},
	}
	for _, tt := range tests {
		if w, h := size(&tt.rendition, tt.width, tt.height); w != tt.wantW || h != tt.wantH {
			t.Errorf("size of %+v for %dx%d = %dx%d, want %dx%d", tt.rendition, tt.width, tt.height, w, h, tt.wantW, tt.wantH)
		}
	}
}

func TestFrameRate(t *testing.T) {
	tests := []struct {
		declared, measured float64
		want               string
	}{
		{30, 30, "30/1"},
		{29.97, 29.8, "30000/1001"},
		{25, 0, "25/1"},
		{0, 24.9, "25/1"},
		{30, 14.8, "15/1"}, // it says one thing and does another
		{1000, 0, "25/1"},
		{0, 0, "25/1"},
		{120, 119, "60/1"},
		{7, 7, "7/1"},
		{59.94, 60, "60000/1001"},
	}
	for _, tt := range tests {
		if got := frameRate(tt.declared, tt.measured).String(); got != tt.want {
			t.Errorf("frameRate(%v, %v) = %s, want %s", tt.declared, tt.measured, got, tt.want)
		}
	}
}

func template(outputs ...policy.Rendition) *policy.Transcode {
	t := new(policy.Transcode)
	t.SetDefaults()
	t.Name, t.Outputs = "t", outputs
	return t
}

func rung(change func(*policy.Rendition)) policy.Rendition {
	var r policy.Rendition
	r.SetDefaults()
	r.Suffix, r.BitRate = "_a", 800_000
	change(&r)
	return r
}

func TestPlan(t *testing.T) {
	m := &media{video: av.H264, audio: av.AAC, width: 1280, displayWidth: 1280, height: 720, rate: rate{30, 1}, bitRate: 500_000}
	outs := plan("s1", m, []*policy.Transcode{template(
		rung(func(r *policy.Rendition) { r.ShortSide = 360 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.BitRate, r.FrameRate = "_low", 100_000, 15 }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Drop = "_sound", policy.CopyVideo }),
		rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyBoth }),
	)})
	if len(outs) != 4 {
		t.Fatalf("%d outputs, want 4", len(outs))
	}
	if o := outs[0]; o.name != "s1_a" || o.width != 640 || o.height != 360 || o.bitRate != 500_000 || o.rate != m.rate {
		t.Errorf("first output: %+v, want 640x360 at no more than the source's bit rate", o)
	}
	if o := outs[1]; o.rate != (rate{15, 1}) || o.bitRate != 100_000 || o.width != 1280 {
		t.Errorf("second output: %+v, want 15 frames a second at 100 kbit/s", o)
	}
	if o := outs[2]; o.video || !o.audio {
		t.Errorf("third output: %+v, want sound alone", o)
	}
	// A source without sound has no rendition for the ear.
	m.audio = av.Unknown
	if outs := plan("s1", m, []*policy.Transcode{template(rung(func(r *policy.Rendition) { r.Drop = policy.CopyVideo }))}); len(outs) != 0 {
		t.Errorf("a source without sound: %+v, want nothing", outs[0])
	}
}

// A GOP is a whole number of frames in every output, as near as can be to what was
// asked for.
func TestAlign(t *testing.T) {
	tests := []struct {
		source rate
		gop    time.Duration
		rates  []int
		want   []int // frames
	}{
		{rate{30, 1}, 2 * time.Second, []int{0, 15, 10}, []int{60, 30, 20}},
		{rate{30, 1}, 1500 * time.Millisecond, []int{0}, []int{45}},
		{rate{30, 1}, 1500 * time.Millisecond, []int{0, 25}, []int{48, 40}},
		{rate{30000, 1001}, 2 * time.Second, []int{0, 15, 25}, []int{60, 30, 50}},
		{rate{30000, 1001}, 1500 * time.Millisecond, []int{0, 25}, []int{42, 35}},
		{rate{30000, 1001}, 20 * time.Second, []int{0, 1}, []int{600, 20}},
		{rate{25, 1}, time.Second, []int{0, 12}, []int{25, 12}},
		{rate{24, 1}, 700 * time.Millisecond, []int{0, 15}, []int{16, 10}},
		{rate{12, 1}, 700 * time.Millisecond, []int{0, 10}, []int{6, 5}},
		{rate{29, 1}, 500 * time.Millisecond, []int{0, 15}, []int{29, 15}},
		{rate{1, 1}, 500 * time.Millisecond, []int{0}, []int{1}},
	}
	for _, tt := range tests {
		tpl := template(rung(func(r *policy.Rendition) { r.Copy = policy.CopyVideo }))
		for i, n := range tt.rates {
			tpl.Outputs = append(tpl.Outputs, rung(func(r *policy.Rendition) { r.Suffix, r.FrameRate = fmt.Sprint("_", i), n }))
		}
		tpl.GOP = tt.gop
		var got []int
		for _, o := range plan("s1", &media{video: av.H264, width: 640, displayWidth: 640, height: 360, rate: tt.source}, []*policy.Transcode{tpl})[1:] {
			got = append(got, o.gop)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v at %v frames a second, and %v: GOPs of %v frames, want %v", tt.gop, tt.source, tt.rates, got, tt.want)
		}
	}
}

// What ffmpeg is told is in testdata/command.txt; go test -update writes it anew.
func TestCommand(t *testing.T) {
	tr := New(stream.NewHub(stream.Options{}), ffmpeg.New(ffmpeg.Options{}), Options{Font: "/font.ttf"})
	picture := policy.Logo{Key: "logo.png", Corner: policy.BottomRight, X: 8, Y: 4, Scale: 10}
	film := media{video: av.H264, audio: av.AAC, width: 1280, displayWidth: 1280, height: 720, rate: rate{30000, 1001}}
	hevc := media{video: av.HEVC, width: 720, displayWidth: 720, height: 1280, rate: rate{25, 1}}
	tests := []struct {
		name    string
		media   media
		from    int64
		outputs []policy.Rendition
	}{
		{"one", film, lead, []policy.Rendition{rung(func(r *policy.Rendition) { r.ShortSide = 360 })}},
		{"ladder", film, lead, []policy.Rendition{
			rung(func(r *policy.Rendition) { r.FrameRate, r.Profile = 15, policy.ProfileHigh }),
			rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.Codec = "_hevc", 240, policy.VideoHEVC }),
			rung(func(r *policy.Rendition) { r.Suffix, r.Copy = "_copy", policy.CopyBoth }),
			rung(func(r *policy.Rendition) { r.Suffix, r.Drop, r.AudioBitRate = "_sound", policy.CopyVideo, 32_000 }),
		}},
		{"again", film, lead + 12_345, []policy.Rendition{rung(func(r *policy.Rendition) { r.Copy = policy.CopyNothing })}},
		{"marked", hevc, lead, []policy.Rendition{rung(func(r *policy.Rendition) {
			r.Logos, r.Clock = []policy.Logo{picture}, &policy.Clock{Corner: policy.TopRight, X: 10, Y: 20, Size: 5}
		})}},
	}
	var got strings.Builder
	for _, tt := range tests {
		outs := plan("s1", &tt.media, []*policy.Transcode{template(tt.outputs...)})
		for _, o := range outs {
			o.enc = encoder{name: candidates[policy.EncoderCPU][o.Codec]}
		}
		c := tr.command("s1", &tt.media, outs, map[logo][]byte{{"", "logo.png"}: []byte("png")}, tt.from)
		args, err := c.job.Args()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		fmt.Fprintf(&got, "%s, %d pictures\n\t%s\n", tt.name, len(c.inputs), strings.Join(args, " "))
	}
	const golden = "testdata/command.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("command lines (-want +got):\n%s", diff)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")
