package record

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// errSpoolFull is the error of media for which there is no room in the spool.
var errSpoolFull = errors.New("the spool is full of media that are not uploaded yet")

// spool counts the bytes of all takes' segments on disk and makes room among
// those that are in a bucket as well, the oldest first.
type spool struct {
	limit int64

	mu       sync.Mutex
	used     int64
	uploaded []upload // in the order in which they were
}

// upload is a segment that can be removed from the disk.
type upload struct {
	t *take
	n int
}

// take makes room for n more bytes.
func (s *spool) take(n int64) error {
	for {
		s.mu.Lock()
		if s.used+n <= s.limit {
			s.used += n
			s.mu.Unlock()
			return nil
		}
		if len(s.uploaded) == 0 {
			s.mu.Unlock()
			return errSpoolFull
		}
		u := s.uploaded[0]
		s.uploaded = s.uploaded[1:]
		s.mu.Unlock()
		u.t.evict(u.n)
	}
}

// make does something that needs room on the disk. Where there is none it
// removes the oldest segments that are uploaded, as long as there are any.
func (s *spool) make(do func() error) error {
	for {
		err := do()
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		s.mu.Lock()
		if len(s.uploaded) == 0 {
			s.mu.Unlock()
			return err
		}
		u := s.uploaded[0]
		s.uploaded = s.uploaded[1:]
		s.mu.Unlock()
		u.t.evict(u.n)
	}
}

// give gives n bytes back.
func (s *spool) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// has notes n bytes that are there already.
func (s *spool) has(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += n
}

// spare notes that segment n of t may be removed.
func (s *spool) spare(t *take, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploaded = append(s.uploaded, upload{t, n})
}

// forget drops what was noted of t.
func (s *spool) forget(t *take) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.uploaded[:0]
	for _, u := range s.uploaded {
		if u.t != t {
			kept = append(kept, u)
		}
	}
	clear(s.uploaded[len(kept):])
	s.uploaded = kept
}

func (s *spool) level() (used, limit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used, s.limit
}

// evict removes segment n from the disk.
func (t *take) evict(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.segment(n)
	if s == nil || !s.local || !s.stored {
		return
	}
	s.local = false
	if os.Remove(t.file(n)) == nil {
		t.r.spool.give(s.Size)
	}
}
