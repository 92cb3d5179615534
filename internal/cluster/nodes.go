// Package cluster is what the nodes of a cluster know of each other.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
)

// Node is what a node says of itself.
type Node struct {
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	Started   time.Time         `json:"started"`
	Seen      time.Time         `json:"seen"`      // when it last said so, by its own clock
	Addresses map[string]string `json:"addresses"` // of its listeners, by name
	Ready     bool              `json:"ready"`
	Degraded  []string          `json:"degraded,omitempty"` // what it has to do without

	Streams    int64   `json:"streams"`
	Publishers int64   `json:"publishers"`
	Players    int64   `json:"players"`
	BitsIn     int64   `json:"bits_in"`  // bit/s, since it last said so
	BitsOut    int64   `json:"bits_out"` // the same
	CPU        float64 `json:"cpu"`      // processors in use
	Memory     int64   `json:"memory"`   // bytes that it has of the system
}

const (
	nodeBucket = "weir_nodes"
	nodeSchema = 1

	// Beat is how often a node says that it is there.
	Beat = 5 * time.Second
	// Patience is for how long it is believed.
	Patience = 20 * time.Second
)

// Nodes is the list of nodes: a bucket whose records go by themselves when
// their node does not renew them. Methods may be called from any goroutine.
type Nodes struct {
	js       jetstream.JetStream
	replicas int
	log      *slog.Logger

	mu sync.Mutex
	kv jetstream.KeyValue // nil until it was needed and reached
}

// NewNodes returns the list of nodes; replicas is how many nodes keep it.
func NewNodes(js jetstream.JetStream, replicas int, log *slog.Logger) *Nodes {
	return &Nodes{js: js, replicas: replicas, log: log}
}

// open returns the bucket.
func (n *Nodes) open(ctx context.Context) (jetstream.KeyValue, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kv != nil {
		return n.kv, nil
	}
	kv, err := bus.KV(ctx, n.js, jetstream.KeyValueConfig{
		Bucket: nodeBucket, Description: "nodes that are there", History: 1, TTL: Patience,
		Storage: jetstream.MemoryStorage, Replicas: max(1, n.replicas),
	}, nodeSchema, nil)
	if err != nil {
		return nil, fmt.Errorf("open the list of nodes: %w", err)
	}
	n.kv = kv
	return kv, nil
}

// Run puts this node on the list and keeps it there until ctx ends, when it
// takes it off. self is called each time, in this goroutine.
func (n *Nodes) Run(ctx context.Context, self func() Node) {
	tick := time.NewTicker(Beat)
	defer tick.Stop()
	failed := false
	for {
		me := self()
		err := n.put(ctx, &me)
		if err != nil && !failed && ctx.Err() == nil {
			n.log.Warn("cannot tell other nodes that this one is there", "err", err)
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !failed { // and if this fails, the record goes by itself
				n.drop(context.WithoutCancel(ctx), me.Name)
			}
			return
		}
	}
}

func (n *Nodes) put(ctx context.Context, me *Node) error {
	b, err := json.Marshal(me)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Beat)
	defer cancel()
	kv, err := n.open(ctx)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, bus.Token(me.Name), b)
	n.lost(kv, err)
	return err
}

// lost has the bucket opened anew the next time if err says that it is not there
// any more: it is in memory, and a NATS that was restarted alone has forgotten it.
func (n *Nodes) lost(kv jetstream.KeyValue, err error) {
	if !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, jetstream.ErrStreamNotFound) && !errors.Is(err, nats.ErrStreamNotFound) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kv == kv {
		n.kv = nil
	}
}

func (n *Nodes) drop(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if kv, err := n.open(ctx); err == nil {
		kv.Purge(ctx, bus.Token(name))
	}
}

// List returns all nodes that are there, in no order.
func (n *Nodes) List(ctx context.Context) ([]Node, error) {
	kv, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		n.lost(kv, err)
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	defer w.Stop()
	list := []Node{}
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("list nodes: the watch has ended")
			}
			if e == nil {
				return list, nil
			}
			var node Node
			if err := json.Unmarshal(e.Value(), &node); err != nil {
				n.log.Error("the record of a node cannot be read", "key", e.Key(), "err", err)
				continue
			}
			list = append(list, node)
		case <-ctx.Done():
			return nil, fmt.Errorf("list nodes: %w", ctx.Err())
		}
	}
}
