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
// by then must be in the log by then.
const slack = 100 * time.Millisecond

// guard says whether a fact, the first of its lane, is to be dropped, or how
// long it must wait.
func (d *queue) guard(l *lane, it *item) (wait time.Duration, drop bool) {
	g := it.cb.FlapGuard
	if g == 0 {
		return 0, false
	}
	now, e := time.Now(), &it.event
	switch data := e.Data.(type) {
	case event.PublishStarted:
		if l.flap.has(e.Sequence) {
			return 0, true
		}
		if end := d.following(l, it); end != nil {
			if x, ok := end.Data.(event.PublishEnded); ok && end.Sequence == e.Sequence && end.Time.Sub(x.Started) < g {
				return 0, true // and so is its end
			}
		}
	case event.PublishEnded:
		if e.Time.Sub(data.Started) < g && (l.flap == nil || l.flap.Now != e.Sequence) {
			return 0, true
		}
		if next := d.following(l, it); next != nil && next.Type == event.TypePublishStarted && next.Time.Sub(e.Time) <= g {
			return 0, d.hold(l, e, next)
		}
	default:
		return 0, false
	}
	return e.Time.Add(g + slack).Sub(now), false
}

// following returns the next start or end after a fact of a lane that is in the
// log, or nil.
func (d *queue) following(l *lane, it *item) *event.Event {
	from := it.seq + 1
	for range 8 {
		list, next, err := d.source.scan(d.calls, l.query(), from, laneBatch)
		if err != nil || len(list) == 0 {
			return nil
		}
		for i := range list {
			e := &list[i].event
			if l.own(e) != nil && (e.Type == event.TypePublishStarted || e.Type == event.TypePublishEnded) {
				return e
			}
		}
		from = next
	}
	return nil
}

// hold records that a receiver is not told of an end and the start after it. It
// reports false where that cannot be recorded: then he is told.
func (d *queue) hold(l *lane, end, start *event.Event) bool {
	if l.flap.has(start.Sequence) {
		return true // it was, before a restart
	}
	f := &flap{Space: l.r.space, Group: l.r.group, App: l.key.app, Stream: l.key.stream, As: end.Sequence, Now: start.Sequence}
	if l.flap != nil {
		if l.flap.Now == end.Sequence {
			f.As = l.flap.As
		}
		f.Kept = slices.Clone(l.flap.Kept)
	}
	if f.Kept = append(f.Kept, start.Sequence); len(f.Kept) > maxKept {
		f.Kept = f.Kept[1:]
	}
	if err := d.store.put(d.calls, l.recordKey("flap"), marshal(f)); err != nil {
		d.log.Error("what a flap guard does cannot be recorded", "err", err)
		return false
	}
	d.mu.Lock()
	l.flap = f
	d.mu.Unlock()
	return true
}

// unflap forgets what the flap guard has kept from a receiver who now was told
// that it is over.
func (d *queue) unflap(l *lane, letter *Letter) {
	if l.flap == nil || letter.Type != event.TypePublishEnded || letter.Sequence != l.flap.Now {
		return
	}
	d.mu.Lock()
	l.flap = nil
	d.mu.Unlock()
	if err := d.store.delete(d.calls, l.recordKey("flap")); err != nil && d.calls.Err() == nil {
		d.log.Error("the record of a flap guard cannot be deleted", "err", err)
	}
}
