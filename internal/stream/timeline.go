package stream

import (
	"time"

	"weir/internal/media/av"
)

const (
	// maxStep is the step of a publisher's clock, in ms, up to which it is
	// believed, and how far its tracks may be apart; a larger one is a jump and is
	// taken out.
	maxStep = 3000
	// maxJitter is the step back, in ms, that may be a matter of the order in which
	// frames come. A clock that was set back by more than that, but not by maxStep,
	// is found out by lateFrames frames of a track in a row.
	maxJitter  = 500
	lateFrames = 3
	// assumedFrame is the distance in ms put between the frames on both sides of
	// a jump.
	assumedFrame = 40
)

// timeline puts a publisher's timestamps on the stream's own time line, which
// never goes back on a track: not when the publisher's clock jumps, restarts
// or stands still, and not when another publisher goes on with the stream.
//
// Each track has its own offset, so that a jump that reaches the tracks at
// different moments is taken out of each when it comes; the second one takes
// the first one's offset and keeps the relation of audio and video. Tracks that
// are further apart than maxStep have different clocks, or one of them has stood
// still: what comes of the one that is behind is taken to be of now.
type timeline struct {
	started bool
	last    int64 // the newest time given to a frame
	at      time.Time
	jumps   int64 // steps of a publisher's clock that were taken out
	tracks  [2]struct {
		offset int64
		last   int64 // the newest time given
		frame  bool  // that was to a frame
		newest int64 // time on the publisher's clock since it was set
		late   int   // frames in a row before that, the first by more than maxJitter
		again  int64 // the offset if there are too many of them
	}
}

// place returns the stream's time for a packet that the publisher stamped t.
// Frames of a track come out strictly increasing; configuration and metadata
// take the newest time that does not go back.
func (l *timeline) place(k av.Kind, t int64, config bool, now time.Time) int64 {
	if !l.started {
		// A publisher that begins near zero keeps its numbers; else there is
		// room for the other track to begin a little earlier.
		l.started = true
		off := int64(0)
		if t < 0 || t > 10_000 {
			off = 1000 - t
		}
		l.last, l.at = t+off, now
		for i := range l.tracks {
			l.tracks[i].offset = off
		}
	}
	if k == av.Data {
		return l.last
	}
	tr, other := &l.tracks[k-av.Video], &l.tracks[av.Audio-k]
	if config {
		// Its own time says little: encoders often send 0.
		if out := max(l.last-maxStep, min(t+tr.offset, l.last)); out > tr.last {
			tr.last, tr.frame = out, false
		}
		return tr.last
	}
	out, with := t+tr.offset, t+other.offset // with the other track, if that had its clock set
	switch {
	case !l.believable(out, now):
		if out = with; other.offset == tr.offset || !l.believable(out, now) {
			if tr.offset != unknownOffset {
				l.jumps++
			}
			if out = l.last; tr.frame {
				out = max(out, tr.last+assumedFrame)
			}
		}
		tr.offset, tr.newest, tr.late = out-t, t, 0
	case t >= tr.newest:
		tr.newest, tr.late = t, 0
	case with > tr.last && with <= tr.last+maxJitter:
		out = with
		tr.offset, tr.newest, tr.late = other.offset, t, 0
	case other.frame && out >= other.last-maxJitter/2 && out <= other.last+maxJitter/2:
		tr.late = 0 // it was ahead of the other track, and is with it again
	case tr.late > 0 || t < tr.newest-maxJitter: // one that is late, or the clock was set back
		if tr.late++; tr.late == 1 {
			tr.again = max(l.last, tr.last+assumedFrame) - t
		} else if tr.late == lateFrames {
			out = t + tr.again
			tr.offset, tr.newest, tr.late = tr.again, t, 0
		}
	}
	if out <= tr.last && tr.frame {
		if out < tr.last-assumedFrame && tr.late < 2 {
			l.jumps++
		}
		out = tr.last + 1
	}
	tr.last, tr.frame = max(out, tr.last), true
	l.last, l.at = max(l.last, tr.last), now
	return tr.last
}

// follow is place for packets that have the stream's own time already: all it
// does is to keep frames in order.
func (l *timeline) follow(k av.Kind, t int64, config bool, now time.Time) int64 {
	if !l.started {
		l.started, l.last, l.at = true, t, now
	}
	if k == av.Data {
		return l.last
	}
	tr := &l.tracks[k-av.Video]
	switch {
	case config:
		t = max(tr.last, min(t, l.last))
	case tr.frame && t <= tr.last:
		t = tr.last + 1
	}
	tr.last, tr.frame = t, tr.frame || !config
	if !config {
		l.last, l.at = max(l.last, t), now
	}
	return t
}

// believable reports whether a track can be at out: near the newest frame of
// both, or as far on as the wall clock. Near its own last frame is not enough, as
// that may be long ago.
func (l *timeline) believable(out int64, now time.Time) bool {
	return near(out, l.last) || out > l.last && near(out, l.last+now.Sub(l.at).Milliseconds())
}

func near(a, b int64) bool { return a-b <= maxStep && b-a <= maxStep }

// resume begins the time line of another publisher: it goes on as much later
// as the wall clock says, whatever its own clock shows.
func (l *timeline) resume(now time.Time) {
	l.last, l.at = l.last+max(assumedFrame, now.Sub(l.at).Milliseconds()), now
	for i := range l.tracks {
		// An offset that makes the first frame, whatever its time, a jump; the
		// first track to come sets it and the other one follows.
		l.tracks[i].offset = unknownOffset
	}
}

// unknownOffset makes any 32-bit timestamp unbelievable.
const unknownOffset = int64(1) << 50

// wallClock says when a stream's time 0 was, by this machine's clock. Frames come
// late by what the network does to them; the one that was least late counts.
type wallClock struct {
	known  bool
	zero   time.Time // when the stream's time was 0
	origin int64     // of what HLS makes of the stream's time; see Stream.Clock
	least  int64     // that the first frame's time is with origin
}

// frame notes a frame of that time.
func (c *wallClock) frame(dts int64, now time.Time) {
	zero := now.Add(time.Duration(-dts) * time.Millisecond)
	if !c.known {
		// Half of what the 33 bits of a transport stream hold: so no young stream
		// wraps because of the hour at which it began.
		const span = 1 << 32 / 90
		c.known, c.zero, c.origin = true, zero, max(zero.UnixMilli()%span, c.least-dts)
	}
	if zero.Before(c.zero) {
		c.zero = zero
	} else if zero.Sub(c.zero) > maxDelay {
		c.zero = zero // time has stood still, or the machine has slept
	}
}

// maxDelay is by how much a frame may be late and still say nothing about the
// stream's time.
const maxDelay = 30 * time.Second
