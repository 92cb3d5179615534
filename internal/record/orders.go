package record

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/stream"
)

// Order asks for recordings of a stream, whenever it is pushed and to whichever
// node, from Start on until End.
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

// Orders are those of all nodes. They are in a bucket of JetStream, which every
// node watches: so each knows what is to be recorded of the streams that are pushed
// to it, whoever took the order. Methods may be called from any goroutine.
type Orders struct {
	js       jetstream.JetStream // nil: they are in memory only
	replicas int
	log      *slog.Logger

	opening sync.Mutex
	kv      jetstream.KeyValue // nil until it was reached

	mu    sync.Mutex
	list  map[string]*Order // by ID
	byKey map[stream.Key]map[string]*Order
}

const (
	orderBucket = "weir_recording_orders"
	orderSchema = 1
	maxOrders   = 10_000
	orderTime   = 3 * time.Second // for an answer of JetStream
	orderWait   = 5 * time.Second // between attempts to watch it
	orderGrave  = time.Hour       // an order that is gone is remembered there
)

// NewOrders returns the orders that are kept in JetStream by so many nodes. Without
// JetStream, if js is nil, they end with the process.
func NewOrders(js jetstream.JetStream, replicas int, log *slog.Logger) *Orders {
	return &Orders{js: js, replicas: replicas, log: log, list: make(map[string]*Order), byKey: make(map[stream.Key]map[string]*Order)}
}

func (o *Orders) open(ctx context.Context) (jetstream.KeyValue, error) {
	o.opening.Lock()
	defer o.opening.Unlock()
	if o.kv != nil {
		return o.kv, nil
	}
	kv, err := bus.KV(ctx, o.js, jetstream.KeyValueConfig{
		Bucket: orderBucket, Description: "what is to be recorded when", History: 1, Replicas: max(1, o.replicas), LimitMarkerTTL: orderGrave,
	}, orderSchema, func(context.Context, int) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("open the orders of recordings: %w", err)
	}
	o.kv = kv
	return kv, nil
}

// Add adds an order. It is durable, and known here, when Add returns.
func (o *Orders) Add(ctx context.Context, x Order) error {
	if o.js != nil {
		ctx, cancel := context.WithTimeout(ctx, orderTime)
		defer cancel()
		kv, err := o.open(ctx)
		if err != nil {
			return err
		}
		data, err := json.Marshal(x)
		if err != nil {
			return err
		}
		if _, err := kv.Create(ctx, bus.Token(x.ID), data); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.put(x)
	return nil
}

// remove removes orders. Those of an error may be there still.
func (o *Orders) remove(ctx context.Context, ids ...string) error {
	if o.js != nil {
		ctx, cancel := context.WithTimeout(ctx, orderTime)
		defer cancel()
		kv, err := o.open(ctx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := kv.Purge(ctx, bus.Token(id), jetstream.PurgeTTL(orderGrave)); err != nil {
				return err
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		o.drop(id)
	}
	return nil
}

// put notes an order. o.mu is held.
func (o *Orders) put(x Order) {
	o.drop(x.ID)
	o.list[x.ID] = &x
	of := o.byKey[x.key()]
	if of == nil {
		of = make(map[string]*Order)
		o.byKey[x.key()] = of
	}
	of[x.ID] = &x
}

// drop forgets an order. o.mu is held.
func (o *Orders) drop(id string) {
	x := o.list[id]
	if x == nil {
		return
	}
	delete(o.list, id)
	of := o.byKey[x.key()]
	if delete(of, id); len(of) == 0 {
		delete(o.byKey, x.key())
	}
}

// run keeps the orders as JetStream has them, and calls changed when there are
// others, until ctx is done.
func (o *Orders) run(ctx context.Context, changed func()) {
	if o.js == nil {
		return
	}
	for failed := false; ; {
		err := o.watch(ctx, changed)
		if ctx.Err() != nil {
			return
		}
		if !failed {
			o.log.Warn("orders of recordings stay as they are on this node", "err", err)
		}
		failed = true
		select {
		case <-time.After(orderWait):
		case <-ctx.Done():
			return
		}
	}
}

func (o *Orders) watch(ctx context.Context, changed func()) error {
	kv, err := o.open(ctx)
	if err != nil {
		return err
	}
	// What was known before and is not there any more has gone in the meantime.
	gone := map[string]bool{}
	o.mu.Lock()
	for id := range o.list {
		gone[id] = true
	}
	o.mu.Unlock()
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch the orders of recordings: %w", err)
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("the watch of the orders of recordings has ended")
			}
			o.mu.Lock()
			switch {
			case e != nil:
				delete(gone, o.take(e))
			default:
				for id := range gone {
					o.drop(id)
				}
				gone = nil
			}
			o.mu.Unlock()
			if gone == nil && len(w.Updates()) == 0 {
				changed()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take takes note of a value of the bucket, and returns the ID if it is an order.
// o.mu is held.
func (o *Orders) take(e jetstream.KeyValueEntry) string {
	id, err := bus.Name(e.Key())
	if err != nil {
		return ""
	}
	if e.Operation() != jetstream.KeyValuePut {
		o.drop(id)
		return ""
	}
	var x Order
	if err := json.Unmarshal(e.Value(), &x); err != nil || x.ID != id {
		o.log.Error("an order of a recording cannot be read", "key", e.Key(), "err", err)
		return ""
	}
	o.put(x)
	return id
}

// all returns all orders, by their start.
func (o *Orders) all() []Order {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]Order, 0, len(o.list))
	for _, x := range o.list {
		list = append(list, *x)
	}
	slices.SortFunc(list, func(a, b Order) int { return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.ID, b.ID)) })
	return list
}

// has reports whether there is an order.
func (o *Orders) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.list[id] != nil
}

// active returns the IDs of the orders that ask for a stream now.
func (o *Orders) active(key stream.Key, now time.Time) (ids []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, x := range o.byKey[key] {
		if x.active(now) {
			ids = append(ids, id)
		}
	}
	return ids
}

// at returns what the orders have for a moment: which of them are over, the streams
// that are asked for, and when the next one begins or ends, if any does.
func (o *Orders) at(now time.Time) (over []string, wanted []stream.Key, next time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, x := range o.list {
		switch {
		case !x.End.IsZero() && !now.Before(x.End):
			over = append(over, id)
			continue
		case x.active(now):
			wanted = append(wanted, x.key())
		}
		for _, at := range [...]time.Time{x.Start, x.End} {
			if at.After(now) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return over, wanted, next
}
