package record

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Errors of Order and Cancel. Any other error is that of JetStream, and the
// same call may succeed later.
var (
	ErrOrder   = errors.New("the end must be after the start and in the future")
	ErrOrders  = errors.New("there are too many orders")
	ErrNoOrder = errors.New("there is no such order")
	ErrOff     = errors.New("recording is off for the app")
)

// overWait is after which it is seen that orders which are over are removed.
const overWait = time.Minute

// Order asks for recordings of a stream. A zero start is now. If the stream is
// being pushed, its recording begins at the newest key frame. app is the
// stream's.
func (r *Recorder) Order(ctx context.Context, key stream.Key, app *policy.App, start, end time.Time) (Order, error) {
	now := time.Now()
	if start.IsZero() {
		start = now
	}
	if !end.IsZero() && (!end.After(start) || !end.After(now)) {
		return Order{}, ErrOrder
	}
	if app.Record.Mode == policy.RecordOff {
		return Order{}, ErrOff
	}
	if len(r.orders.all()) >= maxOrders {
		return Order{}, ErrOrders
	}
	o := Order{ID: event.NewID(), Space: key.Space, App: key.App, Stream: key.Name, Start: start, End: end}
	if err := r.orders.Add(ctx, o); err != nil {
		return Order{}, fmt.Errorf("order: %w", err)
	}
	r.due()
	return o, nil
}

// Orders returns all orders, those that other nodes took too, by their start.
func (r *Recorder) Orders() []Order { return r.orders.all() }

// Cancel removes an order. A recording that no other order and not the app asks
// for ends.
func (r *Recorder) Cancel(ctx context.Context, id string) error {
	if !r.orders.has(id) {
		return ErrNoOrder
	}
	if err := r.orders.remove(ctx, id); err != nil {
		return fmt.Errorf("cancel order: %w", err)
	}
	r.due()
	return nil
}

// Stop ends the recording of a stream on this node, whoever asked for it, and the
// orders that are active for the stream on all; it reports whether there was the one,
// and whether there were any of the others. The file is then final at once. The next
// push is recorded again if its app wants that. With an error, that of JetStream, the
// recording has ended and the orders may have not.
func (r *Recorder) Stop(ctx context.Context, key stream.Key) (recording, ordered bool, err error) {
	if ids := r.orders.active(key, time.Now()); len(ids) > 0 {
		ordered = true
		if err = r.orders.remove(ctx, ids...); err != nil {
			err = fmt.Errorf("cancel orders: %w", err)
		}
	}
	r.mu.Lock()
	defer r.unlock()
	return r.stop(key), ordered, err
}

// stop ends the recording of a stream; it reports whether there was one. r.mu
// is held.
func (r *Recorder) stop(key stream.Key) bool {
	p := r.places[key]
	if p == nil {
		return false
	}
	for s := range p.sessions {
		s.stop()
	}
	switch {
	case len(p.sessions) > 0:
		return true
	case p.take == nil:
		return false
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	r.close(p.take, "stopped", p.take.leaving().Last)
	p.take = nil
	delete(r.places, key)
	return true
}

// due begins and ends recordings as the orders have it now.
func (r *Recorder) due() {
	r.mu.Lock()
	defer r.unlock()
	if r.closed {
		return
	}
	over, wanted, next := r.orders.at(time.Now())
	for key, p := range r.places {
		if p.session != nil && !r.wanted(key, p.session.pub) {
			p.session.stop()
		}
	}
	for _, key := range wanted {
		r.start(key)
	}
	if len(over) > 0 {
		if late := time.Now().Add(overWait); next.IsZero() || late.Before(next) {
			next = late
		}
		r.jobs.Go(func() { // ends with an answer, or soon without one
			if err := r.orders.remove(r.ctx, over...); err != nil && r.ctx.Err() == nil {
				r.log.Warn("orders that are over are not removed yet", "err", err)
			}
		})
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if !next.IsZero() {
		r.timer = time.AfterFunc(time.Until(next), r.due)
	}
}

// start records a stream that is being pushed and not yet recorded. One whose
// recording is being stopped it records after that. r.mu is held.
func (r *Recorder) start(key stream.Key) {
	if p := r.places[key]; p != nil && len(p.sessions) > 0 {
		p.again = true
		for s := range p.sessions {
			p.again = p.again && s.stopped
		}
		return
	}
	st := r.hub.Find(key)
	if st == nil || r.closed {
		return
	}
	pub := st.Publication()
	if pub == nil || !r.wanted(key, pub) {
		return
	}
	rd := pub.NewReader()
	s := r.session(pub, rd) // from now on, so that nobody else does the same
	r.jobs.Go(func() {      // ends with the publication, or when the reader is closed
		defer rd.Close()
		r.record(s)
	})
}

// stop ends a session, also one that has not had its turn yet. Recorder.mu is held.
func (s *session) stop() {
	s.stopped = true
	s.reader.Close()
}
