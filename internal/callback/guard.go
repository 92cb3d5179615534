package callback

import (
	"slices"
	"time"

	"weir/internal/event"
)

// The flap guard (contract C, l.577-578): a start waits until the push has lived
// so long, and an end is withheld so long and dropped together with the next
// start if the stream has returned by then. A receiver so sees one push where
// there were several: the end that he is told at last has the Sequence of the
// start that he was told.
//
// What the guard decides depends on the times in the facts and not on when they
// are read, so that it decides the same after a restart.

// slack is how much later than the guard says a fact is told: what has happened
// by then should be in the log by then. Where it is not, and a start was told, its
// end is as well, however short the push was: a record that is written before a
// start is told says so.
const slack = 100 * time.Millisecond

// guard says whether a fact, the first of its lane, is to be dropped, or how
// long it must wait.
func (d *queue) guard(l *lane, it *item) (wait time.Duration, drop bool) {
	e := &it.event
	g := it.cb.FlapGuard
	if g == 0 || e.Type != event.TypePublishStarted && e.Type != event.TypePublishEnded {
		return 0, false
	}
	if f := l.flap; f != nil && (it.seq < f.Seq && !e.Time.After(f.Time) || e.Type == event.TypePublishStarted && f.has(e.Sequence)) {
		return 0, true // read again after a crash
	}
	_, told := l.flap.toldAs(e.Sequence)
	ended, end := e.Data.(event.PublishEnded)
	switch {
	case !end && told:
		return 0, false // perhaps a crash came before the call
	case end && !told && e.Time.Sub(ended.Started) < g:
		return 0, true
	}
	next, err := d.following(l, it)
	if err != nil {
		return time.Second, false
	}
	if next != nil && !end {
		if x, ok := next.Data.(event.PublishEnded); ok && next.Sequence == e.Sequence && next.Time.Sub(x.Started) < g {
			return 0, true // and so is its end
		}
	}
	if next != nil && end && next.Type == event.TypePublishStarted && next.Time.Sub(e.Time) <= g {
		return 0, d.hold(l, it, next)
	}
	if wait = time.Until(e.Time.Add(g + slack)); wait <= 0 && !end && !d.begin(l, it) {
		return time.Second, false
	}
	return wait, false
}

// following returns the next start or end after a fact of a lane that is in the
// log, or nil.
func (d *queue) following(l *lane, it *item) (*event.Event, error) {
	for from := it.seq + 1; ; {
		list, next, err := d.source.scan(d.calls, l.query(), from, laneBatch)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		for i := range list {
			e := &list[i].event
			if l.own(e) != nil && (e.Type == event.TypePublishStarted || e.Type == event.TypePublishEnded) {
				return e, nil
			}
		}
		from = next
	}
}

// begin records that a receiver is told of a start. It reports false where that
// cannot be recorded.
func (d *queue) begin(l *lane, it *item) bool {
	f := l.flap.next(l, it)
	f.Told = append(f.Told, alias{it.event.Sequence, it.event.Sequence})
	return d.saveFlap(l, f)
}

// hold records that a receiver is not told of an end and the start after it. It
// reports false where that cannot be recorded: then he is told.
func (d *queue) hold(l *lane, it *item, start *event.Event) bool {
	if l.flap.has(start.Sequence) {
		return true // it was, before a restart
	}
	as, _ := l.flap.toldAs(it.event.Sequence)
	f := l.flap.next(l, it)
	f.forget(it.event.Sequence)
	f.Told = append(f.Told, alias{as, start.Sequence})
	f.Kept = append(f.Kept, start.Sequence)
	return d.saveFlap(l, f)
}

// unflap forgets what is recorded of a push when the receiver was told that it is
// over.
func (d *queue) unflap(l *lane, letter *Letter) {
	if _, told := l.flap.toldAs(letter.Sequence); !told || letter.Type != event.TypePublishEnded {
		return
	}
	f := *l.flap
	f.Told = slices.Clone(f.Told)
	if f.forget(letter.Sequence); len(f.Told) > 0 {
		d.saveFlap(l, &f)
		return
	}
	d.mu.Lock()
	l.flap = nil
	d.mu.Unlock()
	if err := d.store.delete(d.calls, l.recordKey("flap")); err != nil && d.calls.Err() == nil {
		d.log.Error("the record of a flap guard cannot be deleted", "err", err)
	}
}

func (d *queue) saveFlap(l *lane, f *flap) bool {
	f.Told = f.Told[max(0, len(f.Told)-maxKept):]
	f.Kept = f.Kept[max(0, len(f.Kept)-maxKept):]
	if err := d.store.put(d.calls, l.recordKey("flap"), marshal(f)); err != nil {
		if d.calls.Err() == nil {
			d.log.Error("what a flap guard does cannot be recorded", "err", err)
		}
		return false
	}
	d.mu.Lock()
	l.flap = f
	d.mu.Unlock()
	return true
}
