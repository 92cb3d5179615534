package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
)

// cursors are the named positions of readers, in a bucket of JetStream.
type cursors struct {
	js  jetstream.JetStream
	log *slog.Logger
	cfg jetstream.KeyValueConfig

	storing sync.Mutex // held by who stores

	mu  sync.Mutex
	kv  jetstream.KeyValue
	set map[string]uint64 // not yet stored
}

func newCursors(js jetstream.JetStream, o Options) *cursors {
	return &cursors{
		js: js, log: o.Log, set: make(map[string]uint64),
		cfg: jetstream.KeyValueConfig{Bucket: "weir-cursors", History: 1, Replicas: o.Replicas, Storage: jetstream.FileStorage},
	}
}

// Position returns the position of that name: the number of the event to read
// next, or 0 if there is none.
func (l *Log) Position(ctx context.Context, name string) (uint64, error) {
	return l.cursors.get(ctx, name)
}

// SetPosition sets the position of that name. It is durable within a second or
// two, while JetStream is there, and when the Log is closed: whoever goes on at
// a position has to expect to see again what it had read last.
func (l *Log) SetPosition(_ context.Context, name string, seq uint64) error {
	l.cursors.mu.Lock()
	defer l.cursors.mu.Unlock()
	l.cursors.set[name] = seq
	return nil
}

func (c *cursors) get(ctx context.Context, name string) (uint64, error) {
	c.mu.Lock()
	seq, ok := c.set[name]
	c.mu.Unlock()
	if ok {
		return seq, nil
	}
	kv, err := c.bucket(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	e, err := kv.Get(ctx, bus.Token(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("position of %s: %w", name, err)
	}
	if seq, err = strconv.ParseUint(string(e.Value()), 10, 64); err != nil {
		return 0, fmt.Errorf("position of %s: %w", name, err)
	}
	return seq, nil
}

// bucket returns the bucket, which it makes if need be.
func (c *cursors) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	c.mu.Lock()
	kv := c.kv
	c.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	kv, err := bus.KV(ctx, c.js, c.cfg, schema, nil)
	if err == nil {
		c.mu.Lock()
		c.kv = kv
		c.mu.Unlock()
	}
	return kv, err
}

// storeTime is between two times of storing, however often a position is set.
const storeTime = 500 * time.Millisecond

// run stores positions until ctx ends.
func (c *cursors) run(ctx context.Context) {
	t := time.NewTicker(storeTime)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := c.flush(ctx); err != nil {
				c.log.Debug("positions of readers wait to be stored", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// flush stores the positions that were set.
func (c *cursors) flush(ctx context.Context) error {
	c.storing.Lock()
	defer c.storing.Unlock()
	c.mu.Lock()
	todo := make(map[string]uint64, len(c.set))
	for name, seq := range c.set {
		todo[name] = seq
	}
	c.mu.Unlock()
	if len(todo) == 0 {
		return nil
	}
	kv, err := c.bucket(ctx)
	if err != nil {
		return err
	}
	for name, seq := range todo {
		put, cancel := context.WithTimeout(ctx, answerTime)
		_, err := kv.PutString(put, bus.Token(name), strconv.FormatUint(seq, 10))
		cancel()
		if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) {
			c.mu.Lock()
			c.kv = nil // perhaps it was wiped
			c.mu.Unlock()
		}
		if err != nil {
			return fmt.Errorf("store position of %s: %w", name, err)
		}
		c.mu.Lock()
		if c.set[name] == seq {
			delete(c.set, name)
		}
		c.mu.Unlock()
	}
	return nil
}
