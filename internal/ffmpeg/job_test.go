package ffmpeg

import (
	"strings"
	"testing"
)

// H72: nothing but what has the form of a word, a number or a filter's argument
// gets into a command line.
func TestArgsRefuse(t *testing.T) {
	for name, j := range map[string]Job{
		"format":        {Inputs: []Input{{Format: "concat"}}},
		"device":        {Inputs: []Input{{Format: "lavfi"}}},
		"output format": {Outputs: []Output{{Format: "tee"}}},
		"segment":       {Outputs: []Output{{Format: "segment"}}},
		"option":        {Options: []Option{Word("-y", "x")}},
		"file option":   {Options: []Option{Word("filter_complex_script", "x")}},
		"pass":          {Options: []Option{Word("passlogfile:v", "x")}},
		"whitelist":     {Options: []Option{Word("protocol_whitelist", "file")}},
		"another input": {Outputs: []Output{{Format: "flv", Options: []Option{Word("i", "x")}}}},
		"word":          {Options: []Option{Word("c:v", "-i")}},
		"word of two":   {Options: []Option{Word("c:v", "a b")}},
		"URL":           {Options: []Option{Word("c:v", "http://x")}},
		"quote":         {Options: []Option{Word("preset", "a'b")}},
		"line":          {Options: []Option{Word("preset", "a\nb")}},
		"track":         {Options: []Option{Map("[v];movie=x")}},
		"movie":         {Filters: Graph{{Filters: []Filter{{Name: "movie"}}}}},
		"filter":        {Filters: Graph{{Filters: []Filter{{Name: "null,movie=x"}}}}},
		"end":           {Filters: Graph{{In: []string{"v]movie"}, Filters: []Filter{{Name: "null"}}}}},
		"key":           {Filters: Graph{{Filters: []Filter{{"scale", []Arg{{"w=1:h", "1"}}}}}}},
		"NUL":           {Filters: Graph{{Filters: []Filter{{"drawtext", []Arg{{"text", "a\x00b"}}}}}}},
		"no filter":     {Filters: Graph{{}}},
		"nothing":       {Options: []Option{{}}},
	} {
		if args, err := j.args([]int{0}, []int{1}, -1); err == nil {
			t.Errorf("%s: accepted: %q", name, args)
		}
	}
}

func TestArgs(t *testing.T) {
	j := Job{
		Options: []Option{Int("filter_threads", 1)},
		Inputs:  []Input{{Format: "h264", Options: []Option{Word("c:v", "h264"), Int("analyzeduration", 1_500_000)}}},
		Outputs: []Output{{Format: "image2pipe", Options: []Option{Flag("an"), FilterVideo(
			Filter{"scale", []Arg{{"w", "min(320,iw)"}, {"h", "-1"}}}, Filter{Name: "hflip"},
			Filter{"drawtext", []Arg{{"text", `it's 12:30, [50%] \o/; `}}})}}},
	}
	args, err := j.args([]int{0}, []int{1}, -1)
	want := strings.Join(fixed, "|") + `|-filter_threads|1|-protocol_whitelist|pipe|-f|h264|-c:v|h264|-analyzeduration|1500000|-i|pipe:0|` +
		`-an|-filter:v|scale=w=min(320\,iw):h=-1,hflip,drawtext=text=it\\\'s\\\ 12\\:30\,\\\ \[50%\]\\\ \\\\o/\;\\\ |-f|image2pipe|pipe:1`
	if got := strings.Join(args, "|"); got != want || err != nil {
		t.Errorf("args = %s, %v\nwant   %s", got, err, want)
	}
}

func TestRing(t *testing.T) {
	var r ring
	for range 100 {
		r.Write([]byte(strings.Repeat("x", 1000)))
	}
	r.Write([]byte("the end"))
	if s := r.String(); len(s) != ringSize || !strings.HasSuffix(s, "xthe end") {
		t.Errorf("%d bytes, end %q", len(s), s[len(s)-10:])
	}
	r.Write([]byte(strings.Repeat("y", 3*ringSize)))
	if s := r.String(); s != strings.Repeat("y", ringSize) || r.total != 100_007+3*ringSize {
		t.Errorf("%d bytes of %d", len(s), r.total)
	}
}
