package callback

import (
	"context"
	"slices"
	"time"

	"weir/internal/event"
	"weir/internal/eventlog"
)

// entry is a fact and its place in the log.
type entry struct {
	seq    uint64
	event  event.Event
	missed uint64 // how many before it were not kept long enough
}

// query is the facts of one space, or of one stream.
type query struct{ space, app, stream string }

// source is the event log, as a Dispatcher needs it. Tests have one that lives
// in virtual time.
type source interface {
	// read returns the facts at from and after, of one space or all, as they
	// come. Next returns an error when ctx ends or the reader is closed.
	read(ctx context.Context, space string, from uint64) reader

	// scan returns at most so many facts at from and after that match q and are
	// there already, and where to go on: behind the last of them or, if there are
	// no more, behind the end of the log.
	scan(ctx context.Context, q query, from uint64, most int) (list []entry, next uint64, err error)

	// count returns how many facts at from and after match q.
	count(ctx context.Context, q query, from uint64) (int, error)

	// at is a place before which there is no fact of that time or later.
	at(ctx context.Context, t time.Time) (uint64, error)

	// kept says what of the log is still there.
	kept(ctx context.Context) (kept, error)

	emit(event.Event)
}

// kept is what of the log is still there, and for how long that will be.
type kept struct {
	first, last uint64    // places
	oldest      time.Time // when the fact at first was stored
	full        float64   // the part of its size that is used
	age         time.Duration
	step        uint64 // between the places of two messages
}

type reader interface {
	next(ctx context.Context) (entry, error)
	close()
}

// store keeps the records of what is not on the cursor's way. A write is
// durable when it returns.
type store interface {
	all(ctx context.Context) (map[string][]byte, error)
	get(ctx context.Context, key string) ([]byte, error)
	put(ctx context.Context, key string, value []byte) error
	delete(ctx context.Context, key string) error
}

// ledger keeps the delivery log and the dead letters.
type ledger interface {
	// attempted notes an attempt. It does not wait.
	attempted(e event.Event)
	// bury keeps a dead letter; it is durable when it returns.
	bury(ctx context.Context, l *Letter) error
}

// logSource is one of the two logs that an eventlog.Log consists of: that of
// facts of crowds, or the other.
type logSource struct {
	log   *eventlog.Log
	types []event.Type
	crowd bool
}

func newLogSource(l *eventlog.Log, crowd bool) *logSource {
	s := &logSource{log: l, crowd: crowd}
	for _, t := range types {
		if eventlog.Crowd(t) == crowd {
			s.types = append(s.types, t)
		}
	}
	return s
}

type logReader struct{ *eventlog.Reader }

func (s *logSource) read(ctx context.Context, space string, from uint64) reader {
	f := eventlog.Filter{Space: space, Crowd: s.crowd}
	if len(s.types) == 1 {
		f.Types = s.types
	} // otherwise JetStream would take longer to choose than we to skip
	return logReader{s.log.Read(ctx, f, from)}
}

func (r logReader) next(ctx context.Context) (entry, error) {
	e, err := r.Reader.Next(ctx)
	return entry{e.Seq, e.Event, e.Missed}, err
}

func (r logReader) close() { r.Reader.Close() }

func (s *logSource) filter(q query) eventlog.Filter {
	return eventlog.Filter{Space: q.space, App: q.app, Stream: q.stream, Crowd: s.crowd}
}

func (s *logSource) scan(ctx context.Context, q query, from uint64, most int) ([]entry, uint64, error) {
	f := s.filter(q)
	f.Types = s.types
	found, next, err := s.log.Scan(ctx, f, from, most)
	list := make([]entry, 0, len(found))
	for _, e := range found {
		list = append(list, entry{e.Seq, e.Event, e.Missed})
	}
	return slices.Clip(list), next, err
}

func (s *logSource) count(ctx context.Context, q query, from uint64) (int, error) {
	f := s.filter(q)
	f.Types = s.types
	n, err := s.log.Pending(ctx, f, from)
	return int(n), err
}

func (s *logSource) at(ctx context.Context, t time.Time) (uint64, error) {
	if s.crowd {
		return s.log.SeqAtOfCrowd(ctx, t)
	}
	return s.log.SeqAt(ctx, t)
}

func (s *logSource) kept(ctx context.Context) (kept, error) {
	k, err := s.log.Kept(ctx, s.crowd)
	if err != nil {
		return kept{}, err
	}
	return kept{k.First, k.Last, k.Oldest, float64(k.Bytes) / float64(k.MaxBytes), k.MaxAge, k.Step}, nil
}

func (s *logSource) emit(e event.Event) { s.log.Emit(e) }
