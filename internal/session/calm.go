package session

import (
	"io"
	"time"
)

// calmReader reads from a connection whose data is at times in no hurry. Then
// it leaves what comes to the kernel for a while and takes it at once: half of
// what a publisher costs is being woken up for each packet.
type calmReader struct {
	src  io.Reader
	hush func(quiet bool) // before a pause: what comes wakes nobody up
	calm func() bool

	drained bool      // the last read took all that had come
	slow    bool      // what comes is little enough to be left
	since   time.Time // when the window began: after a pause, if slow
	got     int       // bytes since then
}

const (
	// calmPause is for how long nothing is read: no longer than a busy node
	// gathers for its players anyway.
	calmPause = 40 * time.Millisecond
	// calmBytes is how much may come meanwhile: so little that it is never the
	// kernel's bound that holds the sender back.
	calmBytes = 16 << 10
	// calmTick is between the times at which pauses end: those of many
	// connections end together, with one wake-up.
	calmTick = 5 * time.Millisecond
)

func (r *calmReader) Read(p []byte) (int, error) {
	if r.drained && r.calm() {
		r.pause()
	}
	n, err := r.src.Read(p)
	r.got += n
	r.drained = n < len(p)
	return n, err
}

func (r *calmReader) pause() {
	now := time.Now()
	span := now.Sub(r.since)
	switch {
	case r.slow && r.got >= calmBytes:
		r.slow = false
	case r.slow && span < calmPause:
		d := calmPause - span
		if d -= time.Duration(now.Add(d).UnixNano()) % calmTick; d > 0 {
			r.hush(true)
			time.Sleep(d)
			now = now.Add(d)
		}
	case r.slow:
	case span < calmPause:
		return
	default:
		r.slow = int64(r.got)*int64(calmPause) < calmBytes*int64(span)
	}
	r.since, r.got = now, 0
}
