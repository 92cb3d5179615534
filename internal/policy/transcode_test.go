package policy

import (
	"strings"
	"testing"
	"time"
)

func TestTranscodeProblems(t *testing.T) {
	good := func() Transcode {
		var tr Transcode
		tr.SetDefaults()
		tr.Name = "ladder"
		for _, suffix := range []string{"_720", "_360"} {
			var r Rendition
			r.SetDefaults()
			r.Suffix, r.ShortSide, r.BitRate = suffix, 720, 1_000_000
			tr.Outputs = append(tr.Outputs, r)
		}
		return tr
	}
	tests := []struct {
		want   string // path of the problem, empty: none
		change func(*Transcode, *Rendition)
	}{
		{"", func(*Transcode, *Rendition) {}},
		{".name", func(t *Transcode, _ *Rendition) { t.Name = "a" }},
		{".name", func(t *Transcode, _ *Rendition) { t.Name = strings.Repeat("a", 33) }},
		{".name", func(t *Transcode, _ *Rendition) { t.Name = "a b" }},
		{".description", func(t *Transcode, _ *Rendition) { t.Description = strings.Repeat("a", 257) }},
		{".idle", func(t *Transcode, _ *Rendition) { t.Idle = 0 }},
		{".gop", func(t *Transcode, _ *Rendition) { t.GOP = time.Minute }},
		{".preset", func(t *Transcode, _ *Rendition) { t.Preset = "fast slow" }},
		{".preset", func(t *Transcode, _ *Rendition) { t.Preset = "" }},
		{"", func(t *Transcode, _ *Rendition) { t.Preset = "slow" }},
		{"-", func(t *Transcode, _ *Rendition) { t.Outputs = nil }},
		{".outputs", func(t *Transcode, _ *Rendition) { t.Outputs = make([]Rendition, 9) }},
		{".outputs[0]", func(_ *Transcode, r *Rendition) { r.Suffix = "" }},
		{".outputs[0].suffix", func(_ *Transcode, r *Rendition) { r.Suffix = "/../x" }},
		{".outputs[0].suffix", func(_ *Transcode, r *Rendition) { r.Suffix = strings.Repeat("a", 33) }},
		{".outputs[1].suffix", func(_ *Transcode, r *Rendition) { r.Suffix = "_360" }},
		{".outputs[0].tier", func(_ *Transcode, r *Rendition) { r.Tier = -1 }},
		{".outputs[0].short_side", func(_ *Transcode, r *Rendition) { r.ShortSide = 3001 }},
		{".outputs[0].short_side", func(_ *Transcode, r *Rendition) { r.Width = 640 }},
		{".outputs[0].width", func(_ *Transcode, r *Rendition) { r.ShortSide, r.Width = 0, 15 }},
		{"", func(_ *Transcode, r *Rendition) { r.ShortSide, r.Width = 0, 3000 }},
		{".outputs[0].bit_rate", func(_ *Transcode, r *Rendition) { r.BitRate = 19_999 }},
		{".outputs[0].bit_rate", func(_ *Transcode, r *Rendition) { r.BitRate = 30_000_001 }},
		{"", func(_ *Transcode, r *Rendition) { r.BitRate, r.Copy = 0, CopyVideo }},
		{".outputs[0].frame_rate", func(_ *Transcode, r *Rendition) { r.FrameRate = 31 }},
		{".outputs[0].audio_bit_rate", func(_ *Transcode, r *Rendition) { r.AudioBitRate = 320_001 }},
		{"", func(_ *Transcode, r *Rendition) { r.AudioBitRate, r.Drop = 0, CopyAudio }},
		{".outputs[0].profile", func(_ *Transcode, r *Rendition) { r.Codec, r.Profile = VideoHEVC, ProfileHigh }},
		{"", func(_ *Transcode, r *Rendition) { r.Profile = ProfileHigh }},
		{".outputs[0].drop", func(_ *Transcode, r *Rendition) { r.Drop = CopyBoth }},
		{".outputs[0].drop", func(_ *Transcode, r *Rendition) { r.Drop, r.Copy = CopyAudio, CopyAudio }},
		{".outputs[0]", func(_ *Transcode, r *Rendition) { r.Copy, r.Clock = CopyVideo, new(Clock) }},
		{".outputs[0].clock.size", func(_ *Transcode, r *Rendition) { r.Clock = new(Clock) }},
		{".outputs[0].logos", func(_ *Transcode, r *Rendition) { r.Logos = make([]Logo, 5) }},
		{".outputs[0].logos[0].key", func(_ *Transcode, r *Rendition) { r.Logos = []Logo{{Key: "a\nb"}} }},
		{".outputs[0].logos[0].bucket", func(_ *Transcode, r *Rendition) { r.Logos = []Logo{{Key: "a", Bucket: "../"}} }},
		{".outputs[0].logos[0].x", func(_ *Transcode, r *Rendition) { r.Logos = []Logo{{Key: "a", X: -1}} }},
		{".outputs[0].logos[0].scale", func(_ *Transcode, r *Rendition) { r.Logos = []Logo{{Key: "a", Scale: 101}} }},
		{"", func(_ *Transcode, r *Rendition) { r.Logos = []Logo{{Key: "logos/a b.png", Scale: 10}} }},
		{".outputs[0].bandwidth", func(_ *Transcode, r *Rendition) { r.Bandwidth = -1 }},
	}
	for i, tt := range tests {
		tr := good()
		tt.change(&tr, &tr.Outputs[0])
		app := DefaultApp("live")
		app.Transcode = []Transcode{tr}
		set := &Set{Spaces: []Space{{Name: "a", Apps: []App{app}}}, Buckets: []Bucket{}}
		got := ""
		for _, p := range set.Problems() {
			if rest, ok := strings.CutPrefix(p.Path, "spaces[0].apps[0].transcode[0]"); ok && (got == "" || rest == tt.want) {
				got = rest
				if rest == "" {
					got = "-"
				}
			}
		}
		if got != tt.want && !(tt.want != "" && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%d: problem at %q, want %q", i, got, tt.want)
		}
	}
}
