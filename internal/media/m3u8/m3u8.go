// Package m3u8 is HLS playlists (RFC 8216) as values and as text.
//
// A media playlist lists the segments of a stream, a master playlist its
// variants. What is written is what the RFC says and no more: tags in a fixed
// order, lines that end in a line feed, no blanks.
package m3u8

import (
	"strconv"
	"time"
)

// Playlist is a master playlist if it has Variants, and otherwise a media
// playlist.
type Playlist struct {
	Version int // 0: the tag is left out

	// Media playlist.
	TargetDuration        int // seconds; no segment's duration, rounded, exceeds it
	MediaSequence         uint64
	DiscontinuitySequence uint64
	Type                  string // EVENT: segments are only added; VOD: not even that; empty: the tag is left out
	Segments              []Segment
	End                   bool // EXT-X-ENDLIST: nothing will be added

	// Master playlist.
	Variants []Variant
}

// Segment is an entry of a media playlist.
type Segment struct {
	URI           string
	Duration      time.Duration // in whole milliseconds
	Discontinuity bool          // before this segment
	Unseen        int           // further ones, which stand together with it: of what was between them there is no segment
	Time          time.Time     // EXT-X-PROGRAM-DATE-TIME of its first frame; zero: not given
}

// Variant is an entry of a master playlist.
type Variant struct {
	URI           string
	Bandwidth     int // peak, bit/s
	Average       int // bit/s; 0: not given
	Width, Height int // 0: not given
	Codecs        string
	FrameRate     float64 // 0: not given
}

// Duration returns the sum of the segments' durations.
func (p *Playlist) Duration() (sum time.Duration) {
	for i := range p.Segments {
		sum += p.Segments[i].Duration
	}
	return sum
}

// Append appends the playlist's text to dst. Every URI gets prefix before and
// suffix behind it, so that one Playlist serves under several paths and with a
// query of its own for each client.
func (p *Playlist) Append(dst []byte, prefix, suffix string) []byte {
	b := append(dst, "#EXTM3U\n"...)
	if p.Version > 0 {
		b = appendTag(b, "#EXT-X-VERSION:", uint64(p.Version))
	}
	if len(p.Variants) > 0 {
		return p.appendVariants(b, prefix, suffix)
	}
	b = appendTag(b, "#EXT-X-TARGETDURATION:", uint64(p.TargetDuration))
	b = appendTag(b, "#EXT-X-MEDIA-SEQUENCE:", p.MediaSequence)
	if p.DiscontinuitySequence > 0 {
		b = appendTag(b, "#EXT-X-DISCONTINUITY-SEQUENCE:", p.DiscontinuitySequence)
	}
	if p.Type != "" {
		b = append(append(append(b, "#EXT-X-PLAYLIST-TYPE:"...), p.Type...), '\n')
	}
	for i := range p.Segments {
		s := &p.Segments[i]
		if s.Discontinuity {
			for range 1 + s.Unseen {
				b = append(b, "#EXT-X-DISCONTINUITY\n"...)
			}
		}
		if !s.Time.IsZero() {
			b = append(b, "#EXT-X-PROGRAM-DATE-TIME:"...)
			b = s.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z\n")
		}
		ms := uint64(max(s.Duration.Milliseconds(), 0))
		b = append(b, "#EXTINF:"...)
		b = strconv.AppendUint(b, ms/1000, 10)
		b = append(b, '.', '0'+byte(ms/100%10), '0'+byte(ms/10%10), '0'+byte(ms%10), ',', '\n')
		b = appendURI(b, prefix, s.URI, suffix)
	}
	if p.End {
		b = append(b, "#EXT-X-ENDLIST\n"...)
	}
	return b
}

func (p *Playlist) appendVariants(b []byte, prefix, suffix string) []byte {
	for i := range p.Variants {
		v := &p.Variants[i]
		b = append(b, "#EXT-X-STREAM-INF:BANDWIDTH="...)
		b = strconv.AppendInt(b, int64(v.Bandwidth), 10)
		if v.Average > 0 {
			b = strconv.AppendInt(append(b, ",AVERAGE-BANDWIDTH="...), int64(v.Average), 10)
		}
		if v.Width > 0 && v.Height > 0 {
			b = append(b, ",RESOLUTION="...)
			b = strconv.AppendInt(b, int64(v.Width), 10)
			b = append(b, 'x')
			b = strconv.AppendInt(b, int64(v.Height), 10)
		}
		if v.Codecs != "" {
			b = append(b, ",CODECS=\""...)
			b = append(b, v.Codecs...)
			b = append(b, '"')
		}
		if v.FrameRate > 0 {
			b = strconv.AppendFloat(append(b, ",FRAME-RATE="...), v.FrameRate, 'f', 3, 64)
		}
		b = append(b, '\n')
		b = appendURI(b, prefix, v.URI, suffix)
	}
	return b
}

func appendTag(b []byte, tag string, v uint64) []byte {
	return append(strconv.AppendUint(append(b, tag...), v, 10), '\n')
}

func appendURI(b []byte, prefix, uri, suffix string) []byte {
	return append(append(append(append(b, prefix...), uri...), suffix...), '\n')
}
