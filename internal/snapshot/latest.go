package snapshot

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// latest is the newest pictures of streams, as many as there is room for.
type latest struct {
	limit int // bytes

	mu    sync.Mutex
	held  int
	order list.List // of *Picture, the one put last first
	of    map[stream.Key]*list.Element
}

// put makes p the newest picture of its stream, unless there is a newer one.
func (l *latest) put(p *Picture) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[stream.Key]*list.Element)
	}
	if e := l.of[p.Stream]; e != nil {
		if e.Value.(*Picture).Captured.After(p.Captured) {
			return
		}
		l.remove(e)
	}
	l.of[p.Stream] = l.order.PushFront(p)
	l.held += len(p.JPEG)
	for l.held > l.limit {
		l.remove(l.order.Back())
	}
}

func (l *latest) remove(e *list.Element) {
	p := l.order.Remove(e).(*Picture)
	delete(l.of, p.Stream)
	l.held -= len(p.JPEG)
}

// expire forgets the pictures of an app that were captured before then.
func (l *latest) expire(space, app string, then time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range l.of {
		if key.Space == space && key.App == app && e.Value.(*Picture).Captured.Before(then) {
			l.remove(e)
		}
	}
}

func (l *latest) get(key stream.Key) *Picture {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.of[key]; e != nil {
		return e.Value.(*Picture)
	}
	return nil
}

func (l *latest) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Latest returns the newest picture of a stream that is in memory, or nil.
func (s *Snapshotter) Latest(key stream.Key) *Picture { return s.latest.get(key) }

// All returns the newest pictures that are in memory, in no order.
func (s *Snapshotter) All() []*Picture {
	s.latest.mu.Lock()
	defer s.latest.mu.Unlock()
	list := make([]*Picture, 0, len(s.latest.of))
	for _, e := range s.latest.of {
		list = append(list, e.Value.(*Picture))
	}
	return list
}

// Errors of Now.
var (
	ErrNoPicture = errors.New("the stream has no picture to be taken")
	ErrTooMany   = errors.New("a picture of this stream was taken less than a second ago")
)

// asked is when somebody last asked for a picture of a stream.
type asked struct {
	mu sync.Mutex
	at map[stream.Key]time.Time
}

// allow reports whether a second has passed since the last time.
func (a *asked) allow(key stream.Key, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = make(map[stream.Key]time.Time)
	}
	for k, t := range a.at { // few: who asks is held to a second
		if now.Sub(t) >= policy.MinSnapshotInterval {
			delete(a.at, k)
		}
	}
	if _, soon := a.at[key]; soon {
		return false
	}
	a.at[key] = now
	return true
}

// note says that a picture of a stream has just been taken, or could not be.
func (a *asked) note(key stream.Key, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[key] = now
}

// Now takes a picture of a stream's newest key frame, whatever the interval. It
// is stored, and told of, where the app has pictures stored, and store says so. The
// error is ErrNoPicture, ErrTooMany, or says why there is none.
func (s *Snapshotter) Now(ctx context.Context, st *stream.Stream, store bool) (*Picture, error) {
	if !s.asked.allow(st.Key(), time.Now()) {
		return nil, ErrTooMany
	}
	defer func() { s.asked.note(st.Key(), time.Now()) }()
	pub := st.Publication()
	if pub == nil {
		return nil, ErrNoPicture
	}
	r := pub.NewReader()
	defer r.Close()
	stop := context.AfterFunc(ctx, r.Close)
	defer stop()
	f := following{push: s.pushes.of(pub)}
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return nil, ErrNoPicture
		}
		f.learn(&p)
		if p.Kind != av.Video || p.Config || !p.Key {
			continue
		}
		c := f.capture(&p, time.Now())
		c.stored = store && c.cfg.Enabled
		type result struct {
			picture *Picture
			err     error
		}
		done := make(chan result, 1)
		s.tasks.Go(func() { // ends with the picture; ctx ends only the wait for it
			p, err := s.take(c)
			done <- result{p, err}
		})
		select {
		case r := <-done:
			return r.picture, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
