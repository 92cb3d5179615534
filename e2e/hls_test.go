//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/Eyevinn/hls-m3u8/m3u8"
	"github.com/asticode/go-astits"
)

// hlsget [-n SEGMENTS] URL PREFIX
//
// Follows a live playlist as a player does until it has got n segments or the
// playlist ends, and judges all that it sees: playlists by RFC 8216 through an
// independent parser, segments through an independent demuxer. The segments go
// to PREFIX-0.ts, and after each discontinuity to PREFIX-1.ts and so on.
func hlsget() error {
	n := flag.Int("n", math.MaxInt, "stop after this many segments")
	flag.Parse()
	if flag.NArg() != 2 {
		return errors.New("usage: hlsget [-n SEGMENTS] URL PREFIX")
	}
	address, err := url.Parse(flag.Arg(0))
	if err != nil {
		return err
	}
	w := &watch{url: address, prefix: flag.Arg(1), limit: *n}
	// A live playlist that stands still for this long has stalled.
	for progress := time.Now(); ; {
		had := len(w.seen)
		done, err := w.poll()
		if err != nil || done {
			return err
		}
		if len(w.seen) > had {
			progress = time.Now()
		}
		if time.Since(progress) > patience {
			return fmt.Errorf("no new segment in %v; last playlist:\n%s", patience, w.text)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// A watch is the history of one playlist.
type watch struct {
	url    *url.URL
	prefix string
	limit  int

	text  []byte // last playlist
	last  *m3u8.MediaPlaylist
	seen  []segment // all that were ever listed, in order
	parts int       // discontinuities among them
}

type segment struct {
	*m3u8.MediaSegment
	url    string
	listed time.Duration // duration of the longest playlist that listed it
	gone   time.Time     // when it was first missing from the playlist
	hash   [sha256.Size]byte
	end    map[uint16]pidEnd
}

// poll fetches the playlist once, checks it against all that came before, and
// fetches what is new in it. It reports whether the watch is over.
func (w *watch) poll() (done bool, err error) {
	body, err := get(http.MethodGet, w.url.String(), http.StatusOK, nil)
	if err != nil {
		return false, err
	}
	w.text = body
	p, kind, err := m3u8.DecodeFrom(bytes.NewReader(body), true)
	if err != nil {
		return false, fmt.Errorf("%s: %w\n%s", w.url, err, body)
	}
	if kind != m3u8.MEDIA {
		return false, fmt.Errorf("not a media playlist:\n%s", body)
	}
	list := p.(*m3u8.MediaPlaylist)
	// The parser replaces it by what it thinks right.
	if _, err := fmt.Sscanf(tagValue(body, "#EXT-X-TARGETDURATION:"), "%d", &list.TargetDuration); err != nil {
		return false, fmt.Errorf("target duration: %w\n%s", err, body)
	}
	if err := w.check(list); err != nil {
		return false, fmt.Errorf("%w\n%s", err, body)
	}
	w.last = list
	return len(w.seen) >= w.limit || list.Closed, nil
}

// tagValue returns what follows the first of that tag in its line.
func tagValue(playlist []byte, tag string) string {
	_, rest, _ := strings.Cut(string(playlist), tag)
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

func (w *watch) check(list *m3u8.MediaPlaylist) error {
	if last := w.last; last != nil {
		switch {
		case list.TargetDuration != last.TargetDuration:
			return fmt.Errorf("target duration changed from %d", last.TargetDuration)
		case list.SeqNo < last.SeqNo:
			return fmt.Errorf("media sequence fell from %d", last.SeqNo)
		case list.DiscontinuitySeq < last.DiscontinuitySeq:
			return fmt.Errorf("discontinuity sequence fell from %d", last.DiscontinuitySeq)
		}
	}
	total := time.Duration(0)
	for _, s := range list.GetAllSegments() {
		total += seconds(s.Duration)
	}
	inList := map[uint64]bool{}
	for i, s := range list.GetAllSegments() {
		s.SeqId = list.SeqNo + uint64(i)
		inList[s.SeqId] = true
		if math.Round(s.Duration) > float64(list.TargetDuration) {
			return fmt.Errorf("segment %s of %.3f s exceeds the target duration", s.URI, s.Duration)
		}
		if s.ProgramDateTime.IsZero() && i == 0 {
			return errors.New("no EXT-X-PROGRAM-DATE-TIME")
		}
		if known := w.find(s.SeqId); known != nil {
			if known.URI != s.URI || known.Duration != s.Duration || i > 0 && known.Discontinuity != s.Discontinuity {
				return fmt.Errorf("segment %d was %s of %.3f s", s.SeqId, known.URI, known.Duration)
			}
			known.listed = max(known.listed, total)
			continue
		}
		if n := len(w.seen); n > 0 && s.SeqId != w.seen[n-1].SeqId+1 {
			return fmt.Errorf("the playlist moved on by more than its window, from segment %d", w.seen[n-1].SeqId)
		}
		if err := w.add(s, total); err != nil {
			return fmt.Errorf("segment %s: %w", s.URI, err)
		}
	}
	// RFC 8216, 6.2.2: what left the playlist stays for its own duration and
	// that of the longest playlist that it was in.
	for i := range w.seen {
		s := &w.seen[i]
		if inList[s.SeqId] {
			continue
		}
		if s.gone.IsZero() {
			s.gone = time.Now()
		}
		if time.Since(s.gone)+time.Second > s.listed+seconds(s.Duration) {
			continue
		}
		body, err := get(http.MethodGet, s.url, http.StatusOK, nil)
		if err == nil && sha256.Sum256(body) != s.hash {
			err = errors.New("its content has changed")
		}
		if err != nil {
			return fmt.Errorf("segment %s, %v after it left the playlist: %w", s.URI, time.Since(s.gone), err)
		}
	}
	return nil
}

func (w *watch) find(seq uint64) *segment {
	for i := range w.seen {
		if w.seen[i].SeqId == seq {
			return &w.seen[i]
		}
	}
	return nil
}

// add fetches a new segment, judges it and appends it to the part's file.
func (w *watch) add(s *m3u8.MediaSegment, listed time.Duration) error {
	ref, err := w.url.Parse(s.URI)
	if err != nil {
		return err
	}
	body, err := get(http.MethodGet, ref.String(), http.StatusOK, nil)
	if err != nil {
		return err
	}
	var before map[uint16]pidEnd
	if n := len(w.seen); n > 0 {
		before = w.seen[n-1].end
		if s.Discontinuity {
			w.parts++
			before = nil
		}
	}
	name, err := strconv.ParseInt(strings.TrimSuffix(path.Base(ref.Path), path.Ext(ref.Path)), 10, 64)
	if err != nil {
		return fmt.Errorf("not named by a time stamp: %w", err)
	}
	end, err := checkTS(body, name, s.Duration, before)
	if err != nil {
		return err
	}
	w.seen = append(w.seen, segment{s, ref.String(), listed, time.Time{}, sha256.Sum256(body), end})
	f, err := os.OpenFile(fmt.Sprintf("%s-%d.ts", w.prefix, w.parts), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	return errors.Join(err, f.Close())
}

// A pidEnd is what a segment holds of one elementary stream.
type pidEnd struct {
	video       bool
	frames      int
	first, last int64 // DTS, 90 kHz
}

// checkTS judges one segment: it stands alone, its time stamps rise, its first
// one is its name, it starts with a key frame, and it lasts as long as the
// playlist says. It returns where each elementary stream ends.
func checkTS(b []byte, name int64, duration float64, before map[uint16]pidEnd) (map[uint16]pidEnd, error) {
	if len(b)%188 != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of packets", len(b))
	}
	counters := map[uint16]uint8{}
	packets := astits.NewDemuxer(context.Background(), bytes.NewReader(b), astits.DemuxerOptPacketSize(188))
	for i := 0; ; i++ {
		p, err := packets.NextPacket()
		if err == astits.ErrNoMorePackets {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("packet %d: %w", i, err)
		}
		h := p.Header
		if i == 0 && h.PID != astits.PIDPAT {
			return nil, errors.New("does not start with a PAT")
		}
		if c, ok := counters[h.PID]; ok && h.HasPayload && h.ContinuityCounter != (c+1)&0xf {
			return nil, fmt.Errorf("packet %d: PID %d jumps from %d to %d", i, h.PID, c, h.ContinuityCounter)
		}
		counters[h.PID] = h.ContinuityCounter
	}

	end := map[uint16]pidEnd{}
	var main pidEnd // the picture; where there is none, the sound
	types := map[uint16]astits.StreamType{}
	starts := map[int64]bool{} // time stamps that the segment may be named by
	data := astits.NewDemuxer(context.Background(), bytes.NewReader(b), astits.DemuxerOptPacketSize(188))
	for {
		d, err := data.NextData()
		if err == astits.ErrNoMorePackets {
			break
		}
		if err != nil {
			return nil, err
		}
		if d.PMT != nil {
			for _, es := range d.PMT.ElementaryStreams {
				types[es.ElementaryPID] = es.StreamType
			}
		}
		if d.PES == nil {
			continue
		}
		h := d.PES.Header.OptionalHeader
		if h == nil || h.PTS == nil {
			return nil, fmt.Errorf("PID %d: access unit without a PTS", d.PID)
		}
		dts := h.PTS.Base
		if h.DTS != nil {
			dts = h.DTS.Base
		}
		if h.PTS.Base < dts {
			return nil, fmt.Errorf("PID %d: PTS %d before DTS %d", d.PID, h.PTS.Base, dts)
		}
		e, ok := end[d.PID]
		switch {
		case !ok:
			e.first, e.video = dts, d.PES.Header.IsVideoStream()
			starts[dts], starts[h.PTS.Base] = true, true
			if af := d.FirstPacket.AdaptationField; e.video && (af == nil || !af.RandomAccessIndicator) {
				return nil, errors.New("picture does not start at a random access point")
			}
			if old, ok := before[d.PID]; ok && dts <= old.last {
				return nil, fmt.Errorf("PID %d: starts at DTS %d, after %d", d.PID, dts, old.last)
			}
		case dts <= e.last:
			return nil, fmt.Errorf("PID %d: DTS %d after %d", d.PID, dts, e.last)
		}
		e.last = dts
		e.frames++
		end[d.PID] = e
		if e.video || !main.video {
			main = e
		}
	}
	if len(end) == 0 || len(types) != len(end) {
		return nil, fmt.Errorf("PMT lists %v, but %d streams are there", types, len(end))
	}
	if !starts[name] {
		return nil, fmt.Errorf("named %d, but starts at one of %v", name, starts)
	}
	if main.frames > 1 {
		frame := float64(main.last-main.first) / float64(main.frames-1)
		if got := (float64(main.last-main.first) + frame) / 90000; math.Abs(got-duration) > 0.1 {
			return nil, fmt.Errorf("lasts %.3f s, but the playlist says %.3f s", got, duration)
		}
	}
	return end, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
