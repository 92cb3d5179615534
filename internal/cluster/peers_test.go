package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
)

// TestPeers has a node ask six others: two that answer, one of them at length, one
// that says no, one that is late, one that is gone without a word, and one that has
// left.
func TestPeers(t *testing.T) {
	js := nodesJetStream(t)
	log := slog.New(slog.DiscardHandler)
	nodes := NewNodes(js, 1, log)
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	long := bytes.Repeat([]byte("0123456789"), 250_000)
	asks := NewPeers(js.Conn(), nodes, "asks", log)
	for name, answer := range map[string]func(context.Context, []byte) ([]byte, error){
		"asks":   nil,
		"a.echo": func(_ context.Context, q []byte) ([]byte, error) { return append([]byte("echo "), q...), nil },
		"b long": func(context.Context, []byte) ([]byte, error) { return long, nil },
		"c":      func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no") },
		"dead":   nil,
		"late":   func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		if err := nodes.put(t.Context(), &Node{Name: name}); err != nil {
			t.Fatal(err)
		}
		if answer == nil {
			continue
		}
		p := NewPeers(js.Conn(), nodes, name, log)
		serving.Go(func() { p.Serve(ctx, answer) }) // ends with ctx
	}
	if err := nodes.put(t.Context(), &Node{Name: "left"}); err != nil {
		t.Fatal(err)
	}
	nodes.drop(t.Context(), "left")

	var got []Answer
	for len(got) == 0 || got[0].Err != nil || got[1].Err != nil || got[2].Err == ErrSilent { // until they serve
		got = asks.Ask(t.Context(), []byte("who?"))
	}
	if len(got) != 5 {
		t.Fatalf("%d answers, want 5", len(got))
	}
	if a := got[0]; a.Node != "a.echo" || string(a.Data) != "echo who?" {
		t.Errorf("answer of a.echo: %s %q %v", a.Node, a.Data, a.Err)
	}
	if a := got[1]; a.Node != "b long" || !bytes.Equal(a.Data, long) {
		t.Errorf("answer of b long: %s, %d bytes, %v", a.Node, len(a.Data), a.Err)
	}
	if a := got[2]; a.Node != "c" || a.Err == nil || a.Err.Error() != "no" {
		t.Errorf("answer of c: %s %v", a.Node, a.Err)
	}
	if a := got[3]; a.Node != "dead" || a.Err != ErrSilent {
		t.Errorf("answer of dead: %s %v", a.Node, a.Err)
	}
	if a := got[4]; a.Node != "late" || a.Err == nil {
		t.Errorf("answer of late: %s %v", a.Node, a.Err)
	}

	// While the list cannot be read, those who were on it are asked; who has never
	// read it says so.
	if err := js.DeleteKeyValue(t.Context(), nodeBucket); err != nil {
		t.Fatal(err)
	}
	asks.looked = asks.looked.Add(-2 * peerList)
	if got := asks.Ask(t.Context(), []byte("who?")); len(got) != 5 || got[0].Err != nil {
		t.Errorf("without the list: %d answers", len(got))
	}
	js.Conn().Close()
	if got := NewPeers(js.Conn(), nodes, "new", log).Ask(t.Context(), nil); len(got) != 1 || got[0].Node != Unknown || got[0].Err != ErrSilent {
		t.Errorf("of others nothing is known: %v", got)
	}
}
