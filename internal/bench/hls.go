package bench

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"weir/internal/media/m3u8"
)

// hlsPlay plays HLS over one connection that it keeps: it asks for the
// playlist as RFC 8216 (6.3.4) says and for each new segment once, in order,
// beginning three segments before the end (6.3.3). Its first segment stands
// for the first key frame.
type hlsPlay struct {
	url     *url.URL // of the media playlist, when it is known
	request []byte   // in flight
	reused  bool     // it went over a connection that had served another one
	http    httpScanner
	segment bool   // what is in flight is a segment, not a playlist
	body    []byte // of a playlist, or the first bytes of a segment
	queue   []string
	begun   bool          // next has been set
	next    uint64        // media sequence number that has not been queued yet
	poll    timer         // runs while nothing is in flight
	loaded  int64         // loop time of the last playlist
	wait    time.Duration // until the next one
}

const (
	maxPlaylist    = 1 << 20
	keptOfSegment  = 64 << 10 // bytes in which the first clock is looked for
	hlsRetry       = 500 * time.Millisecond
	segmentsBehind = 3
)

func newHLSPlay(t target) *hlsPlay {
	u := &url.URL{Scheme: "http", Host: t.host}
	u, err := u.Parse(t.path)
	if err != nil {
		u = &url.URL{Scheme: "http", Host: t.host, Path: "/"}
	}
	return &hlsPlay{url: u, request: httpGet(t.host, t.path)}
}

func (h *hlsPlay) hello() []byte { return h.request }

func (h *hlsPlay) drains() bool { return false }

func (h *hlsPlay) passed(*player, int) {}

// ended lets the player go on when the server closed a connection on which
// nothing was asked, or closed it before it saw what was.
func (h *hlsPlay) ended(p *player, err error) error {
	switch {
	case h.request == nil:
		return nil
	case h.reused && !h.http.begun:
		h.reused = false
		return p.dial()
	}
	return err
}

// get asks for a URL, on a new connection if need be.
func (h *hlsPlay) get(p *player, u *url.URL, segment bool) error {
	if u.Host != h.url.Host || u.Scheme != "http" {
		return fmt.Errorf("HLS: %s is on another server", u)
	}
	closes := h.http.close
	h.http.reset()
	h.body = h.body[:0]
	h.segment = segment
	h.request = httpGet(u.Host, u.RequestURI())
	if closes {
		p.sock.close()
	}
	if h.reused = p.sock.fd >= 0; !h.reused {
		return p.dial()
	}
	p.sock.write(h.request)
	return nil
}

func (h *hlsPlay) receive(p *player, b []byte, now int64) error {
	err := h.http.scan(b, func(b []byte) error {
		switch {
		case h.segment:
			h.body = append(h.body, b[:min(len(b), max(keptOfSegment-len(h.body), 0))]...)
		case len(h.body)+len(b) > maxPlaylist:
			return errors.New("HLS: playlist is too long")
		default:
			h.body = append(h.body, b...)
		}
		return nil
	})
	var status httpStatus
	if errors.As(err, &status) && !h.segment && p.joined == 0 && status == 404 {
		// The server has the stream but no segments yet. The answer's body is
		// of no interest: the next request goes over a new connection.
		h.http.close = true
		h.again(p, now+int64(hlsRetry))
		return nil
	}
	if err != nil || !h.http.done {
		return err
	}
	if !h.segment {
		return h.playlist(p, now)
	}
	p.join(now)
	if sent, _, ok := findClock(h.body); ok && p.sampled && p.run.measuring {
		p.run.segments.add(p.run.loop.wall(now) - sent)
	}
	return h.fetch(p, now)
}

// again asks for the playlist later.
func (h *hlsPlay) again(p *player, at int64) {
	h.request = nil
	h.poll = timer{at: at, fire: func(now int64) {
		if p.over {
			return
		}
		if err := h.get(p, h.url, false); err != nil {
			p.leave(err)
		}
	}}
	p.run.loop.schedule(&h.poll)
}

// playlist reads the playlist that has come.
func (h *hlsPlay) playlist(p *player, now int64) error {
	list, err := m3u8.Parse(h.body)
	if err != nil {
		return fmt.Errorf("HLS: %w", err)
	}
	if len(list.Variants) > 0 {
		u, err := h.url.Parse(list.Variants[0].URI)
		if err != nil {
			return fmt.Errorf("HLS: %w", err)
		}
		if err := h.get(p, u, false); err != nil {
			return err
		}
		h.url = u
		return nil
	}
	first := list.MediaSequence
	end := first + uint64(len(list.Segments))
	h.loaded, h.wait = now, time.Duration(max(list.TargetDuration, 1))*time.Second
	switch {
	case !h.begun:
		h.next = max(end, first+segmentsBehind) - segmentsBehind
	case h.next < first || h.next > end: // too late, or the server began anew
		h.next = first
	case h.next == end && list.End:
		return io.EOF
	case h.next == end:
		h.wait /= 2
	}
	h.begun = true
	for _, s := range list.Segments[h.next-first:] {
		h.queue = append(h.queue, s.URI)
	}
	h.next = end
	return h.fetch(p, now)
}

// fetch asks for the next segment or, when there is none, later for the playlist.
func (h *hlsPlay) fetch(p *player, now int64) error {
	if len(h.queue) == 0 {
		h.again(p, max(h.loaded+int64(h.wait), now))
		return nil
	}
	u, err := h.url.Parse(h.queue[0])
	if err != nil {
		return fmt.Errorf("HLS: %w", err)
	}
	h.queue = h.queue[1:]
	return h.get(p, u, true)
}
