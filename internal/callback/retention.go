package callback

import (
	"context"
	"fmt"
	"time"

	"weir/internal/event"
)

// Alerts about receivers.
const (
	alertReceiver  = "callback_receiver"  // it fails for everybody
	alertRetention = "callback_retention" // facts that wait for it are about to be deleted
	alertLost      = "callback_lost"      // they were
)

// near is how much of the time or the size that the event log has must be used
// for a fact to be about to be deleted.
const near = 0.9

// risk is what is known of a receiver whose facts are about to be deleted.
type risk struct {
	since time.Time // zero: they are not
	place uint64    // of the first of them
	lane  laneKey   // and its lane
}

// alert tells of something about a receiver: in the log, and who is told of the
// alerts of its space.
func (d *queue) alert(r *receiver, a event.AlertRaised) {
	a.Callback = OfAlert(d.policy().Space(r.space), nil)
	e := event.New(time.Now(), a)
	e.Space = r.space
	d.source.emit(e)
}

// clearAlert tells that it is over.
func (d *queue) clearAlert(r *receiver, name string, since time.Time) {
	e := event.New(time.Now(), event.AlertCleared{Alert: name, Since: since, Callback: OfAlert(d.policy().Space(r.space), nil)})
	e.Space = r.space
	d.source.emit(e)
}

// watch raises an alert where the event log deletes facts before their receiver
// is told of them, and before it does so.
func (d *queue) watch(ctx context.Context) {
	k, err := d.source.kept(ctx)
	if err != nil {
		return // the log is away, and that is known
	}
	type waiting struct {
		r    *receiver
		q    query
		from uint64
	}
	var list []waiting
	d.mu.Lock()
	d.kept, d.looked = k, time.Now()
	hasty := k.full >= near || !k.oldest.IsZero() && time.Since(k.oldest) > time.Duration(near*float64(k.age))
	for _, r := range d.receivers {
		w := waiting{r: r}
		if r.own != nil {
			d.skipLost(r)
			w.q, w.from = query{space: r.space}, r.own.next
		}
		for _, l := range r.lanes {
			if l.park != nil && l.waits() && (w.from == 0 || l.park.Seq+1 < w.from) {
				w.q, w.from = l.query(), l.park.Seq+1
			}
		}
		if w.from > 0 && hasty || !r.risk.since.IsZero() {
			list = append(list, w)
		}
	}
	d.mu.Unlock()
	for _, w := range list {
		first, err := d.firstOf(ctx, w.r, w.q, w.from)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.judge(w.r, first, &k)
		d.mu.Unlock()
	}
}

// look finds out what a detached receiver has lost. It is called before its feed
// goes on, and asks the log no more than once a second.
func (d *queue) look(r *receiver) {
	d.mu.Lock()
	old := time.Since(d.looked) > time.Second
	d.mu.Unlock()
	if old {
		k, err := d.source.kept(d.ctx)
		if err != nil {
			return // the log is away
		}
		d.mu.Lock()
		d.kept, d.looked = k, time.Now()
		d.mu.Unlock()
	}
	d.mu.Lock()
	d.skipLost(r)
	d.mu.Unlock()
}

// skipLost has a detached receiver go on with what there is. d.mu is held.
func (d *queue) skipLost(r *receiver) {
	if k := &d.kept; r.own.next < k.first {
		d.lost(r, (k.first-r.own.next+k.step-1)/k.step)
		r.own.next = k.first
	}
}

// firstOf returns the first fact from a place on of which a receiver is to be
// told, or nil.
func (d *queue) firstOf(ctx context.Context, r *receiver, q query, from uint64) (*entry, error) {
	for range 64 { // beyond, what is read is younger than what matters
		if from == 0 {
			return nil, nil
		}
		list, next, err := d.source.scan(ctx, q, from, batch)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		for i := range list {
			if cb := callbackOf(&list[i].event); cb != nil && groupOf(cb) == r.group {
				return &list[i], nil
			}
		}
		from = next
	}
	return nil, nil
}

// judge raises or clears the alert of a receiver whose first waiting fact is
// known; nil: none waits. d.mu is held.
func (d *queue) judge(r *receiver, first *entry, k *kept) {
	if l := r.lanes[r.risk.lane]; r.risk.place > 0 && r.risk.place < k.first && l != nil && l.park != nil && l.park.Seq < r.risk.place {
		d.lost(r, 1) // of those behind a lane's first one, which has a record
		r.risk.place = 0
	}
	var text string
	switch {
	case first == nil:
	case k.full >= near && float64(first.seq-k.first) < (1-near)*float64(k.last-k.first):
		text = fmt.Sprintf("facts that wait for %s since %s are about to be deleted: the event log is full", bare(r.group), first.event.Time.UTC().Format(time.RFC3339))
	case time.Since(first.event.Time) > time.Duration(near*float64(k.age)):
		text = fmt.Sprintf("facts that wait for %s since %s are about to be deleted: the event log keeps them for %v", bare(r.group), first.event.Time.UTC().Format(time.RFC3339), k.age)
	}
	switch since := r.risk.since; {
	case text != "":
		r.risk.place, r.risk.lane = first.seq, laneOf(&first.event)
		if since.IsZero() {
			r.risk.since = time.Now()
			d.log.Warn("callbacks are about to be lost", "space", r.space, "receiver", bare(r.group), "reason", text)
			d.alert(r, event.AlertRaised{Alert: alertRetention, Text: text, Value: time.Since(first.event.Time).Seconds(), Limit: k.age.Seconds()})
		}
	case !since.IsZero():
		r.risk = risk{}
		d.clearAlert(r, alertRetention, since)
	}
}

// lost tells that facts were deleted of which a receiver was to be told. d.mu is
// held.
func (d *queue) lost(r *receiver, most uint64) {
	d.stats.Missed += int64(most)
	d.log.Error("callbacks are lost: facts were deleted before their receiver was told", "space", r.space, "receiver", bare(r.group), "at_most", most)
	d.alert(r, event.AlertRaised{Alert: alertLost, Text: fmt.Sprintf("at most %d facts were deleted before %s was told of them", most, bare(r.group)), Value: float64(most)})
}
