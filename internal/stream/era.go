package stream

import (
	"math"
	"time"
)

// eras are the stretches of a stream in which encoder, tracks and time line stay
// what they are. A packet with Break begins one. They are numbered, and a
// rendition takes its source's numbers by the time of its packets, so that a
// player of HLS that goes from one to the other finds its place: the number is the
// discontinuity sequence number of a segment (RFC 8216, 4.3.3.3), which has to be
// the same in all variants (6.2.4), whenever somebody began to package each of them.
type eras struct {
	list []era // the oldest first; never empty
}

// era is one of them.
type era struct {
	number uint64
	from   int64 // stream time, ms
}

const (
	// shortEra is for how long, in ms, an era takes what else changes: an encoder
	// that changes says so for each track.
	shortEra = 1000
	// keptEras is how many are remembered, for renditions that are late.
	keptEras = 64
)

// FirstEra is the number of the first era of a stream that nothing is known of. It
// counts hours, so that it is not lower after a restart, or on another node, as long as
// nothing changes more often (hls makes sure where it does); and those of
// recent years only: hls.js keeps a time for each number in an array and walks over
// all of it, which with a number of ten digits takes the browser minutes.
func FirstEra(now time.Time) uint64 { return firstEra(now) }

func firstEra(now time.Time) uint64 {
	return uint64(max(0, now.Sub(eraZero)/time.Hour))
}

var eraZero = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func (e *eras) begin(number uint64) { e.list = []era{{number, math.MinInt64}} }

func (e *eras) newest() uint64 { return e.list[len(e.list)-1].number }

// turn begins an era at a time, unless one has just begun.
func (e *eras) turn(at int64) {
	if last := e.list[len(e.list)-1]; last.from == math.MinInt64 || at-last.from >= shortEra {
		e.reach(last.number+1, at)
	}
}

// reach begins the era of that number at a time, if it is a later one.
func (e *eras) reach(number uint64, at int64) {
	if number <= e.newest() {
		return
	}
	if len(e.list) == keptEras {
		e.list = append(e.list[:0], e.list[1:]...)
	}
	e.list = append(e.list, era{number, at})
}

// at returns the number of the era that a time is in.
func (e *eras) at(t int64) uint64 {
	for i := len(e.list) - 1; i > 0; i-- {
		if e.list[i].from <= t {
			return e.list[i].number
		}
	}
	return e.list[0].number
}

func (s *Stream) eraAt(t int64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.eras.at(t)
}

// NextEra returns the number of an era after that one. If there is none, one
// begins: it is for who has found, in the stream or in a rendition of it, a
// discontinuity that the stream knows nothing of. All others see it begin, too.
func (s *Stream) NextEra(after uint64) uint64 {
	s.mu.Lock()
	if of := s.pub.push.Of; of != nil {
		s.mu.Unlock()
		return of.NextEra(after)
	}
	defer s.mu.Unlock()
	if s.eras.newest() <= after {
		s.eras.reach(after+1, s.time.last)
	}
	return s.eras.newest()
}

// trace is what is left of a stream that has ended: the next one of that name goes
// on from there.
type trace struct {
	era  uint64
	time int64 // its newest time with Clock's origin, ms
	at   time.Time
}

const (
	// traceLife is for how long a trace is kept: longer than anybody keeps
	// what it is about.
	traceLife = 30 * time.Minute
	// traceGap is what a stream's time is ahead of that of the one before it, in ms,
	// at least; late sound and pictures out of order had a little more.
	traceGap = 5000
)

// after makes a stream that begins go on from t.
func (s *Stream) after(t trace) {
	s.eras.begin(max(s.eras.newest(), t.era+1))
	s.clock.least = t.time + traceGap
}

// remember keeps the trace of a stream that has ended, and forgets old ones. h.mu is
// held.
func (h *Hub) remember(s *Stream) {
	if s.Newest().push.Of != nil {
		return // it has its source's
	}
	now := time.Now()
	s.mu.Lock()
	h.traces[s.key] = trace{s.eras.newest(), max(s.clock.origin+s.time.last, s.clock.least-traceGap), now}
	s.mu.Unlock()
	if now.Sub(h.pruned) < traceLife/10 {
		return
	}
	h.pruned = now
	for k, t := range h.traces {
		if now.Sub(t.at) > traceLife {
			delete(h.traces, k)
		}
	}
}
