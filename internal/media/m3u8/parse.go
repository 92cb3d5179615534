package m3u8

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// maxSize is the longest text that Parse takes: more than 15 hours of 1 s
// segments.
const maxSize = 4 << 20

var (
	errNoPlaylist = errors.New("does not begin with #EXTM3U")
	errMixed      = errors.New("tags of a master and of a media playlist")
	errNoTarget   = errors.New("no target duration")
	errValue      = errors.New("bad value")
)

// Parse reads a playlist. Tags that a Playlist has no field for are skipped,
// and so are comments and empty lines. The error names the line and what is
// wrong with it.
func Parse(b []byte) (*Playlist, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("playlist of %d bytes", len(b))
	}
	ps := parser{p: &Playlist{}}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if n == 1 {
			if line != "#EXTM3U" {
				return nil, fmt.Errorf("playlist: %w", errNoPlaylist)
			}
			continue
		}
		if err := ps.line(line); err != nil {
			return nil, fmt.Errorf("playlist line %d: %w", n, err)
		}
	}
	switch {
	case n == 0:
		return nil, fmt.Errorf("playlist: %w", errNoPlaylist)
	case ps.open:
		return nil, fmt.Errorf("playlist line %d: no URI after the last tag", n)
	case len(ps.p.Variants) > 0 && ps.media:
		return nil, fmt.Errorf("playlist: %w", errMixed)
	case len(ps.p.Variants) == 0 && !ps.target:
		return nil, fmt.Errorf("playlist: %w", errNoTarget)
	}
	return ps.p, nil
}

// parser holds what is known of the entry whose URI comes next.
type parser struct {
	p       *Playlist
	media   bool // there was a tag of a media playlist
	target  bool // there was a target duration
	open    bool // there was EXTINF or EXT-X-STREAM-INF
	variant *Variant
	segment Segment
}

func (ps *parser) line(line string) (err error) {
	p := ps.p
	if line == "" {
		return nil
	}
	if line[0] != '#' {
		return ps.uri(line)
	}
	tag, value, _ := strings.Cut(line, ":")
	first := len(p.Segments) == 0
	switch tag {
	case "#EXT-X-VERSION":
		p.Version, err = number[int](value, math.MaxInt32)
	case "#EXT-X-TARGETDURATION":
		ps.media, ps.target = true, true
		p.TargetDuration, err = number[int](value, math.MaxInt32)
	case "#EXT-X-MEDIA-SEQUENCE":
		ps.media = true
		p.MediaSequence, err = number[uint64](value, math.MaxUint64)
		if !first {
			err = errors.New("media sequence after a segment")
		}
	case "#EXT-X-DISCONTINUITY-SEQUENCE":
		ps.media = true
		p.DiscontinuitySequence, err = number[uint64](value, math.MaxUint64)
		if !first {
			err = errors.New("discontinuity sequence after a segment")
		}
	case "#EXT-X-PLAYLIST-TYPE":
		ps.media = true
		if p.Type = value; value != "EVENT" && value != "VOD" {
			err = errValue
		}
	case "#EXT-X-DISCONTINUITY":
		if ps.segment.Discontinuity {
			ps.segment.Unseen++
		}
		ps.media, ps.segment.Discontinuity = true, true
	case "#EXT-X-PROGRAM-DATE-TIME":
		ps.media = true
		ps.segment.Time, err = date(value)
	case "#EXTINF":
		ps.media, ps.open = true, true
		value, _, _ = strings.Cut(value, ",")
		ps.segment.Duration, err = seconds(value)
	case "#EXT-X-ENDLIST":
		ps.media, p.End = true, true
	case "#EXT-X-STREAM-INF":
		ps.open = true
		ps.variant, err = variant(value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	return nil
}

// uri ends the entry whose tags went before.
func (ps *parser) uri(uri string) error {
	switch {
	case !ps.open:
		return errors.New("URI without EXTINF")
	case ps.variant != nil:
		ps.variant.URI = uri
		ps.p.Variants = append(ps.p.Variants, *ps.variant)
	default:
		ps.segment.URI = uri
		ps.p.Segments = append(ps.p.Segments, ps.segment)
	}
	ps.open, ps.variant, ps.segment = false, nil, Segment{}
	return nil
}

// number reads a decimal-integer (RFC 8216, 4.2) up to most.
func number[T int | uint64](s string, most uint64) (T, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > most {
		return 0, errValue
	}
	return T(v), nil
}

// seconds reads a decimal-floating-point number of seconds.
func seconds(s string) (time.Duration, error) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, errValue
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v > math.MaxInt32 {
		return 0, errValue
	}
	return time.Duration(math.Round(v*1000)) * time.Millisecond, nil
}

// date reads an ISO 8601 date with time, with or without fraction and zone.
func date(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Truncate(time.Millisecond), nil
		}
	}
	return time.Time{}, errValue
}

// variant reads the attributes (RFC 8216, 4.2) of EXT-X-STREAM-INF.
func variant(list string) (*Variant, error) {
	v := &Variant{}
	for list != "" {
		name, rest, ok := strings.Cut(list, "=")
		if !ok {
			return nil, errValue
		}
		var value string
		if quoted, isQuoted := strings.CutPrefix(rest, `"`); isQuoted {
			if value, rest, ok = strings.Cut(quoted, `"`); !ok {
				return nil, errValue
			}
			_, list, _ = strings.Cut(rest, ",")
		} else {
			value, list, _ = strings.Cut(rest, ",")
			if strings.Contains(value, `"`) {
				return nil, errValue
			}
		}
		var err error
		switch strings.TrimSpace(name) {
		case "BANDWIDTH":
			v.Bandwidth, err = number[int](value, math.MaxInt32)
		case "AVERAGE-BANDWIDTH":
			v.Average, err = number[int](value, math.MaxInt32)
		case "CODECS":
			v.Codecs = value
		case "FRAME-RATE":
			v.FrameRate, err = strconv.ParseFloat(value, 64)
			if err == nil && !(v.FrameRate >= 0 && v.FrameRate < 1e6) {
				err = errValue
			}
		case "RESOLUTION":
			width, height, _ := strings.Cut(value, "x")
			if v.Width, err = number[int](width, math.MaxInt32); err == nil {
				v.Height, err = number[int](height, math.MaxInt32)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return v, nil
}
