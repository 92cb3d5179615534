package record

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weir/internal/durable"
	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Order asks for recordings of a stream, whenever it is pushed, from Start on
// until End. It survives a restart.
type Order struct {
	ID     string    `json:"id"`
	Space  string    `json:"space"`
	App    string    `json:"app"`
	Stream string    `json:"stream"`
	Start  time.Time `json:"start"`
	End    time.Time `json:"end,omitzero"` // zero: until Stop
}

func (o *Order) key() stream.Key { return stream.Key{Space: o.Space, App: o.App, Name: o.Stream} }

func (o *Order) active(now time.Time) bool {
	return !now.Before(o.Start) && (o.End.IsZero() || now.Before(o.End))
}

const (
	ordersName = "orders.json"
	maxOrders  = 10_000
)

// Errors of Order and Stop.
var (
	ErrOrder      = errors.New("the end must be after the start and in the future")
	ErrOrders     = errors.New("there are too many orders")
	ErrNoOrder    = errors.New("there is no such order")
	ErrOff        = errors.New("recording is off for the app")
	ErrNotRunning = errors.New("the stream is not being recorded")
)

// loadOrders reads the orders that there were.
func (r *Recorder) loadOrders() error {
	data, err := os.ReadFile(filepath.Join(r.dir, ordersName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var list []*Order
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range list {
		r.orders[o.ID] = o
	}
	r.due() // those that ended meanwhile go
	return nil
}

// saveOrders makes the orders durable. r.mu is held.
func (r *Recorder) saveOrders() error {
	list := make([]*Order, 0, len(r.orders))
	for _, o := range r.orders {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b *Order) int { return cmp.Compare(a.ID, b.ID) })
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(r.dir, ordersName), data)
}

// Order asks for recordings of a stream. A zero start is now. If the stream is
// being pushed, its recording begins at the newest key frame. app is the
// stream's.
func (r *Recorder) Order(key stream.Key, app *policy.App, start, end time.Time) (Order, error) {
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
	o := &Order{ID: event.NewID(), Space: key.Space, App: key.App, Stream: key.Name, Start: start, End: end}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.orders) >= maxOrders {
		return Order{}, ErrOrders
	}
	r.orders[o.ID] = o
	if err := r.saveOrders(); err != nil {
		delete(r.orders, o.ID)
		return Order{}, fmt.Errorf("order: %w", err)
	}
	r.due()
	return *o, nil
}

// Orders returns all orders, by their start.
func (r *Recorder) Orders() []Order {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Order, 0, len(r.orders))
	for _, o := range r.orders {
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Order) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return list
}

// Cancel removes an order. A recording that no other order and not the app asks
// for ends.
func (r *Recorder) Cancel(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.orders[id]
	if o == nil {
		return ErrNoOrder
	}
	return r.cancel1(o)
}

func (r *Recorder) cancel1(o *Order) error {
	delete(r.orders, o.ID)
	err := r.saveOrders()
	r.unwanted(o.key())
	return err
}

// Stop ends the recording of a stream, whoever asked for it, and the orders
// that are active for it. The file is then final at once. The next push is
// recorded again if its app wants that.
func (r *Recorder) Stop(key stream.Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, found := time.Now(), false
	for id, o := range r.orders {
		if o.key() == key && o.active(now) {
			delete(r.orders, id)
			found = true
		}
	}
	var err error
	if found {
		err = r.saveOrders()
	}
	if !r.stop(key) && !found {
		return ErrNotRunning
	}
	return err
}

// stop ends the recording of a stream; it reports whether there was one. r.mu
// is held.
func (r *Recorder) stop(key stream.Key) bool {
	p := r.places[key]
	if p == nil {
		return false
	}
	if p.session != nil {
		p.session.stopped = true
		p.session.reader.Close()
		return true
	}
	if p.take == nil || p.refs > 0 {
		return false
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.take.close("stopped", p.take.leaving().Last)
	p.take = nil
	delete(r.places, key)
	return true
}

// unwanted ends the recording of a stream that is not wanted any more. r.mu is
// held.
func (r *Recorder) unwanted(key stream.Key) {
	p := r.places[key]
	if p == nil || p.session == nil || r.wanted(key, p.session.pub) {
		return
	}
	r.stop(key)
}

// ordered reports whether an order asks for a stream. r.mu is held.
func (r *Recorder) ordered(key stream.Key, now time.Time) bool {
	for _, o := range r.orders {
		if o.key() == key && o.active(now) {
			return true
		}
	}
	return false
}

// due begins and ends recordings as the orders have it now. r.mu is held.
func (r *Recorder) due() {
	now := time.Now()
	expired := false
	for id, o := range r.orders {
		switch {
		case !o.End.IsZero() && !now.Before(o.End):
			delete(r.orders, id)
			expired = true
			r.unwanted(o.key())
		case o.active(now):
			r.start(o.key())
		}
	}
	if expired {
		if err := r.saveOrders(); err != nil {
			r.log.Warn("orders", "err", err)
		}
	}
	r.schedule()
}

// start records a stream that is being pushed and not yet recorded. r.mu is
// held.
func (r *Recorder) start(key stream.Key) {
	if p := r.places[key]; p != nil && p.refs > 0 || r.closed {
		return
	}
	st := r.hub.Find(key)
	if st == nil {
		return
	}
	pub := st.Publication()
	if pub == nil || !r.wanted(key, pub) {
		return
	}
	rd := pub.NewReader()
	r.placeOf(key).refs++ // from now on, so that nobody else does the same
	r.jobs.Go(func() {    // ends with the publication, or when the reader is closed
		defer rd.Close()
		r.record(pub, rd)
	})
}

// schedule sets the timer for the next moment at which an order begins or ends.
// r.mu is held.
func (r *Recorder) schedule() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	var next time.Time
	now := time.Now()
	for _, o := range r.orders {
		for _, at := range [...]time.Time{o.Start, o.End} {
			if at.After(now) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	if next.IsZero() || r.closed {
		return
	}
	r.timer = time.AfterFunc(time.Until(next), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.closed {
			r.due()
		}
	})
}
