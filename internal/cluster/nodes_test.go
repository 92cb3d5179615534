package cluster

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus/bustest"
)

// TestNodes has two nodes on one list, of which one leaves.
func TestNodes(t *testing.T) {
	js := nodesJetStream(t)
	var lists [2]*Nodes
	var stop [2]context.CancelFunc
	var done [2]chan struct{}
	for i, name := range []string{"a.example", "b.example"} {
		lists[i] = NewNodes(js, 1, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		told, gone := make(chan struct{}, 1), make(chan struct{})
		stop[i], done[i] = cancel, gone
		go func() { // ends with stop
			defer close(gone)
			lists[i].Run(ctx, func() Node { told <- struct{}{}; return Node{Name: name, Version: "1", Started: time.Now()} })
		}()
		<-told
	}
	watch, err := func() (jetstream.KeyWatcher, error) {
		kv, err := lists[0].open(t.Context())
		if err != nil {
			return nil, err
		}
		return kv.WatchAll(t.Context())
	}()
	if err != nil {
		t.Fatal(err)
	}
	for seen := map[string]bool{}; len(seen) < 2; {
		if e := <-watch.Updates(); e != nil {
			seen[e.Key()] = true
		}
	}
	names := func() map[string]bool {
		list, err := lists[0].List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]bool{}
		for _, n := range list {
			m[n.Name] = true
		}
		return m
	}
	if m := names(); len(m) != 2 || !m["a.example"] || !m["b.example"] {
		t.Errorf("List() = %v, want both", m)
	}
	stop[1]()
	<-done[1]
	if m := names(); len(m) != 1 || !m["a.example"] {
		t.Errorf("List() after b left = %v", m)
	}
	stop[0]()
	<-done[0]
}

// A NATS that was restarted alone has forgotten the list, which is made again.
func TestNodesForgotten(t *testing.T) {
	js := nodesJetStream(t)
	n := NewNodes(js, 1, slog.New(slog.DiscardHandler))
	me := Node{Name: "a.example"}
	if err := n.put(t.Context(), &me); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"put":  func() error { return n.put(t.Context(), &me) },
		"List": func() error { _, err := n.List(t.Context()); return err },
	} {
		if err := js.DeleteKeyValue(t.Context(), nodeBucket); err != nil {
			t.Fatal(err)
		}
		if f() == nil {
			t.Errorf("%s succeeds without the bucket", what)
		}
		if err := f(); err != nil {
			t.Errorf("%s, the next time: %v", what, err)
		}
	}
}

func nodesJetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	srv := bustest.Serve(t)
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
