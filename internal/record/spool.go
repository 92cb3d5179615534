package record

import (
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
)

// errSpoolFull is the error of media for which there is no room in the spool.
var errSpoolFull = errors.New("the spool is full of media that are not uploaded yet")

// spool counts the bytes of all takes' segments on disk and makes room among
// those that are in a bucket as well, the oldest first.
type spool struct {
	limit   int64
	high    func(bool) // is told when the spool is about to be full, and when it is not any more
	telling sync.Mutex // held while it is; taken before mu

	mu       sync.Mutex
	used     int64
	waiting  int64    // of used, what is in no bucket yet and so cannot go
	raised   bool     // high was told
	uploaded []upload // in the order in which they were
}

// upload is a segment that can be removed from the disk.
type upload struct {
	t *take
	n int
}

// Of what the spool may hold, in percent, so much may wait before somebody is
// told; and when it is less than the other, all is well again.
const (
	highPercent = 80
	calmPercent = 70
)

// watch tells high what it must be told. s.mu is held, and not any more afterwards.
func (s *spool) watch() {
	percent, limit := highPercent, s.limit
	if s.raised {
		percent = calmPercent
	}
	is := s.waiting >= limit/100*int64(percent)
	changed := is != s.raised
	s.raised = is
	s.mu.Unlock()
	if !changed {
		return
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	is = s.raised // it may have changed again
	s.mu.Unlock()
	s.high(is)
}

// take makes room for n more bytes.
func (s *spool) take(n int64) error {
	for {
		s.mu.Lock()
		if s.used+n <= s.limit {
			s.used += n
			s.waiting += n
			s.watch()
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

// give gives n bytes back that are not on the disk any more; stored: they are in a bucket.
func (s *spool) give(n int64, stored bool) {
	s.mu.Lock()
	s.used -= n
	if !stored {
		s.waiting -= n
	}
	s.watch()
}

// has notes n bytes that are there already.
func (s *spool) has(n int64, stored bool) {
	s.mu.Lock()
	s.used += n
	if !stored {
		s.waiting += n
	}
	s.watch()
}

// spare notes what may be removed of takes that were found in the spool, and that
// nobody else has yet: what is in a bucket, the oldest first.
func (s *spool) spare(takes []*take) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range takes {
		for i := range t.segments {
			if x := &t.segments[i]; x.local && x.stored {
				s.uploaded = append(s.uploaded, upload{t, x.N})
			}
		}
	}
	slices.SortStableFunc(s.uploaded, func(a, b upload) int { return a.t.segment(a.n).Time.Compare(b.t.segment(b.n).Time) })
}

// stored notes that segment n of t, of that size, is in a bucket now.
func (s *spool) stored(t *take, n int, size int64) {
	s.mu.Lock()
	s.uploaded = append(s.uploaded, upload{t, n})
	s.waiting -= size
	s.watch()
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

// unsafe returns how many bytes are in no bucket yet.
func (s *spool) unsafe() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// evict removes segment n from the disk.
func (t *take) evict(n int) {
	t.mu.Lock()
	s := t.segment(n)
	if s == nil || !s.local || !s.stored {
		t.mu.Unlock()
		return
	}
	s.local = false
	name, size := t.file(s), s.Size
	t.mu.Unlock()
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.log.Warn("a segment stays in the spool", "err", err)
		t.mu.Lock()
		defer t.mu.Unlock()
		if s := t.segment(n); s != nil {
			s.local = true
		}
		return
	}
	t.r.spool.give(size, true)
}
