package flv

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// H85: metadata as encoders and strangers send it.
func TestMetadata(t *testing.T) {
	long := strings.Repeat("x", maxPropertyString+1)
	for _, c := range []struct {
		name string
		in   amf.Value
		want string
	}{
		{"ffmpeg", amf.ECMAArray{{Name: "duration", Value: 0.0}, {Name: "width", Value: 1280.0}, {Name: "encoder", Value: "Lavf59"},
			{Name: "stereo", Value: true}, {Name: "filesize", Value: 0.0}}, "[{width 1280} {encoder Lavf59} {stereo true}]"},
		{"object", amf.Object{{Name: "framerate", Value: 25.0}}, "[{framerate 25}]"},
		{"no properties", amf.ECMAArray{}, "[]"},
		{"numbers", amf.ECMAArray{{Name: "width", Value: math.NaN()}, {Name: "height", Value: -1.0}, {Name: "a", Value: 1e308}, {Name: "b", Value: math.Inf(1)},
			{Name: "framerate", Value: 1e6}, {Name: "c", Value: 0.0}}, "[{c 0}]"},
		{"text", amf.ECMAArray{{Name: "title", Value: "a\x00b\r\nc\xff<b>"}, {Name: "x\n", Value: "y"}, {Name: "long", Value: long}},
			"[{title abc<b>} {long " + long[1:] + "}]"},
		{"twice", amf.ECMAArray{{Name: "a", Value: 1.0}, {Name: "a", Value: 2.0}}, "[{a 1}]"},
		{"nested", amf.ECMAArray{{Name: "keyframes", Value: amf.Object{{Name: "times", Value: []amf.Value{1.0}}}}, {Name: "n", Value: nil}}, "[]"},
	} {
		for _, prefix := range []string{"", setDataFrame} {
			var p Parser
			body := amf.Append([]byte(prefix+onMetaData), c.in)
			got, err := p.Packet(TypeScript, 7, body)
			if err != nil {
				t.Errorf("%s: Packet: %v", c.name, err)
				continue
			}
			vals, err := amf.Decode(got.Tag)
			if err != nil || len(vals) != 2 || vals[0] != "onMetaData" {
				t.Errorf("%s: Packet gives %q", c.name, got.Tag)
				continue
			}
			if _, ok := vals[1].(amf.ECMAArray); !ok || got.Kind != av.Data || got.DTS != 7 || !IsMetadata(got) || fmt.Sprint(Metadata(got)) != c.want {
				t.Errorf("%s: Packet = %+v, metadata %v, want %s", c.name, got, Metadata(got), c.want)
			}
		}
	}
}

func TestMetadataLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		value  amf.Value
		ignore bool
	}{
		{"128 properties", 128, 1.0, false},
		{"1000 properties", 1000, 1.0, false},
		{"10000 properties", 10_000, 1.0, true}, // beyond the limits of AMF
		{"long text", 120, strings.Repeat("x", 512), false},
	} {
		var array amf.ECMAArray
		for i := range c.n {
			array = append(array, amf.Property{Name: fmt.Sprintf("property%d", i), Value: c.value})
		}
		var p Parser
		got, err := p.Packet(TypeScript, 0, amf.Append([]byte(onMetaData), array))
		if c.ignore {
			if err != ErrIgnore {
				t.Errorf("%s: error %v, want ErrIgnore", c.name, err)
			}
			continue
		}
		if n := len(Metadata(got)); err != nil || len(got.Tag) > maxMetadata || n == 0 || n > maxProperties {
			t.Errorf("%s: %d bytes, %d properties, error %v", c.name, len(got.Tag), n, err)
		}
	}
}

func TestScript(t *testing.T) {
	for _, c := range []struct {
		name, in, want string // want "": ErrIgnore
	}{
		{"cue point", string(amf.Append(nil, "onCuePoint", amf.Object{})), string(amf.Append(nil, "onCuePoint", amf.Object{}))},
		{"text in a data frame", setDataFrame + string(amf.Append(nil, "onTextData")), string(amf.Append(nil, "onTextData"))},
		{"clear", string(amf.Append(nil, "@clearDataFrame", "onMetaData")), ""},
		{"no name", string(amf.Append(nil, 1.0)), ""},
		{"empty name", string(amf.Append(nil, "")), ""},
		{"metadata without properties", onMetaData, ""},
		{"metadata that is a number", string(amf.Append([]byte(onMetaData), 1.0)), ""},
		{"metadata cut", string(amf.Append([]byte(onMetaData), amf.Object{{Name: "a", Value: 1.0}}))[:20], ""},
		{"data frame of nothing", setDataFrame, ""},
		{"data frame in a data frame", setDataFrame + setDataFrame, string(setDataFrame)},
	} {
		var p Parser
		got, err := p.Packet(TypeScript, 0, []byte(c.in))
		if c.want == "" && err != ErrIgnore || string(got.Tag) != c.want {
			t.Errorf("%s: Packet = %q, %v, want %q", c.name, got.Tag, err, c.want)
		}
		if IsMetadata(got) || Metadata(got) != nil {
			t.Errorf("%s: passes for metadata", c.name)
		}
	}
}
