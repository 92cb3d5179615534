package hls

import (
	"slices"
	"sync/atomic"
	"time"

	"weir/internal/access"
	"weir/internal/policy"
	"weir/internal/stream"
)

// room is the memory that all channels of a Server share. A channel is bounded
// by itself; many channels are bounded here. When there is no room, channels
// that nobody has asked for lately give way, the longest idle first; then who
// wants another stream is refused, and the channels that are there keep no more
// than a player needs to go on.
type room struct {
	most int64 // 0: no bound
	held atomic.Int64
	due  atomic.Int64 // what channels that have just begun will need for their first playlist
}

// fits reports whether n bytes more have room.
func (r *room) fits(n int64) bool { return r.most <= 0 || r.held.Load()+r.due.Load()+n <= r.most }

// noRoom is why a request was refused, as it is counted.
const noRoom access.Reason = "no_memory"

const (
	// leastIdle is for how long, and for how many target durations, nobody has
	// asked for a channel that gives way.
	leastIdle, idleDurations = 10 * time.Second, 2
	// leastWindow is how many segments a playlist keeps when there is no room.
	leastWindow = 3
)

// makeRoom ends idle channels until there is room for n bytes, and reports
// whether there is. What those that are still being packaged hold is free a
// moment later.
func (s *Server) makeRoom(n int) bool {
	if s.room.fits(int64(n)) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	type idle struct {
		c     *channel
		since int64
	}
	var list []idle
	for _, c := range s.channels {
		if c.job != nil && (c.job.watch == nil || c.waiting.Load() > 0 || c.job.idle.Load()) {
			continue // it is to run for ever, or somebody waits, or it ends already
		}
		since := c.asked.Load()
		if time.Duration(s.clock()-since) >= max(leastIdle, idleDurations*c.target()) {
			list = append(list, idle{c, since})
		}
	}
	slices.SortFunc(list, func(a, b idle) int { return int(a.since - b.since) })
	left := s.room.held.Load() + s.room.due.Load() + int64(n)
	for _, i := range list {
		if left <= s.room.most {
			break
		}
		left -= i.c.bytes()
		s.log.Info("HLS gives way", "stream", i.c.key.String())
		if j := i.c.job; j != nil {
			j.idle.Store(true)
			j.reader.Close()
		} else {
			s.remove(i.c, viewerLeft)
		}
	}
	return left <= s.room.most
}

// need is about how many bytes the shortest playlist of a stream takes; of one
// that has just begun nobody knows.
func need(st *stream.Stream) int {
	return max(64<<10, int(st.Info().BitRate/8*leastWindow*int64(st.App().HLS.Segment/time.Second)))
}

// always reports whether a stream is to be packaged from its start on, which
// needs room.
func (s *Server) always(st *stream.Stream) bool {
	return st.App().HLS.Mode == policy.HLSAlways && s.makeRoom(need(st))
}
