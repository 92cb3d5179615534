package eventlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/event"
)

// Beside says that facts of the type callback.attempted, of which a busy node
// makes thousands a second, are in the stream of that name, which others fill
// with messages as those of this log are, and is read here. Subject is that of
// the facts that a Filter wants, or of more.
func (l *Log) Beside(stream string, subject func(*Filter) string) {
	l.beside.Store(&lane{
		journal: &journal{log: l.log}, js: l.js, config: jetstream.StreamConfig{Name: stream},
		subject: subject,
	})
}

// SameLog reports whether one reader can read facts of both types.
func SameLog(a, b event.Type) bool {
	return Crowd(a) == Crowd(b) && (a == event.TypeCallbackAttempted) == (b == event.TypeCallbackAttempted)
}

// laneOf returns where the facts are that f matches.
func (l *Log) laneOf(f *Filter) (*lane, error) {
	crowd, err := f.crowd()
	switch {
	case err != nil:
		return l.facts, err
	case crowd:
		return l.crowd, nil
	case len(f.Types) > 0 && f.Types[0] == event.TypeCallbackAttempted:
		if ln := l.beside.Load(); ln != nil {
			return ln, nil
		}
		return l.facts, fmt.Errorf("nobody keeps %s", event.TypeCallbackAttempted)
	}
	return l.facts, nil
}

// subjects returns what JetStream is to filter by for f.
func (l *lane) subjects(f *Filter) []string {
	if l.subject != nil {
		return []string{l.subject(f)}
	}
	return f.subjects(l.prefix())
}

// find looks for a stream that others make. It returns errAway while it is not
// there.
func (l *lane) find(ctx context.Context) error {
	if l.ready.Load() != nil {
		return nil
	}
	if l.subject == nil {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := l.js.Stream(ctx, l.config.Name)
	if err != nil {
		return errors.Join(errAway, err)
	}
	l.ready.Store(&s)
	return nil
}
