package flv

import (
	"bytes"
	"strings"
	"unicode"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// Limits of the metadata that is passed on. The whole is never longer than
// maxMetadata bytes.
const (
	maxMetadata       = 8 << 10
	maxProperties     = 128
	maxPropertyName   = 64
	maxPropertyString = 512
)

// The AMF0 strings that script data begins with.
const (
	onMetaData   = "\x02\x00\x0aonMetaData"
	setDataFrame = "\x02\x00\x0d@setDataFrame"
)

// IsMetadata says whether a Data packet of a Parser is the stream's metadata,
// and not a cue point, text or the like.
func IsMetadata(p av.Packet) bool {
	return p.Kind == av.Data && bytes.HasPrefix(p.Tag, []byte(onMetaData))
}

// Metadata returns the properties of a packet that IsMetadata, nil of another.
func Metadata(p av.Packet) amf.Object {
	if !IsMetadata(p) {
		return nil
	}
	vals, err := amf.Decode(p.Tag)
	if err != nil || len(vals) < 2 {
		return nil
	}
	return amf.Properties(vals[1])
}

// AppendMetadata appends the body of a script tag: onMetaData and its
// properties as an ECMA array, which is what players expect.
func AppendMetadata(dst []byte, properties amf.Object) []byte {
	return amf.Append(append(dst, onMetaData...), amf.ECMAArray(properties))
}

// script decodes the values of a script tag or data message. Metadata is
// written anew within limits; other data must be AMF0 that begins with a
// name, and stays as it is.
func script(body []byte) (av.Packet, error) {
	body = bytes.TrimPrefix(body, []byte(setDataFrame))
	vals, err := amf.Decode(body)
	if err != nil || len(vals) == 0 {
		return av.Packet{}, ErrIgnore
	}
	switch vals[0] {
	case "onMetaData":
		if len(vals) < 2 {
			return av.Packet{}, ErrIgnore
		}
		switch vals[1].(type) {
		case amf.Object, amf.ECMAArray:
			body = AppendMetadata(nil, sanitise(amf.Properties(vals[1])))
		default:
			return av.Packet{}, ErrIgnore
		}
	case "@clearDataFrame":
		return av.Packet{}, ErrIgnore
	default:
		if name, ok := vals[0].(string); !ok || name == "" {
			return av.Packet{}, ErrIgnore
		}
	}
	return av.Packet{Kind: av.Data, Tag: body}, nil
}

// sanitise returns the metadata that players get: the scalar properties that
// make sense, each once, within the limits. Objects and arrays are left out,
// above all the index of a file's key frames, and so are the file's length and
// size: a player that believes them takes the stream for a file.
func sanitise(in amf.Object) amf.Object {
	out := make(amf.Object, 0, min(len(in), maxProperties))
	size := len(onMetaData) + 1 + 4 + 3 // the array's marker, count and end
	known := make(map[string]bool, cap(out))
	for _, p := range in {
		if len(out) == maxProperties {
			break
		}
		if p.Name == "" || len(p.Name) > maxPropertyName || known[p.Name] || clean(p.Name) != p.Name {
			continue
		}
		switch p.Name {
		case "duration", "filesize", "lasttimestamp", "lastkeyframetimestamp", "lastkeyframelocation", "canSeekToEnd", "hasKeyframes":
			continue
		}
		n := 2 + len(p.Name)
		switch v := p.Value.(type) {
		case float64:
			if !believable(p.Name, v) {
				continue
			}
			n += 1 + 8
		case bool:
			n += 1 + 1
		case string:
			v = clean(v)
			p.Value = v
			n += 3 + len(v)
		default:
			continue
		}
		if size += n; size > maxMetadata {
			break
		}
		known[p.Name] = true
		out = append(out, p)
	}
	return out
}

// believable refuses numbers that no player has a use for.
func believable(name string, v float64) bool {
	limit := float64(1 << 53) // what is exact in a float64
	switch name {
	case "width", "height":
		limit = 1 << 16
	case "framerate", "fps":
		limit = 1000
	}
	return v >= 0 && v <= limit // false for NaN
}

// clean returns s as valid UTF-8 without control characters, cut to maxPropertyString bytes.
func clean(s string) string {
	s = s[:min(len(s), maxPropertyString)]
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}
