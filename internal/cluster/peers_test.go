package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weir/internal/bus"
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
	keys := keyring(t, 1)
	asks := NewPeers(js.Conn(), nodes, "asks", keys, log)
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
		p := NewPeers(js.Conn(), nodes, name, keys, log)
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
	if got := NewPeers(js.Conn(), nodes, "new", keys, log).Ask(t.Context(), nil); len(got) != 1 || got[0].Node != Unknown || got[0].Err != ErrSilent {
		t.Errorf("of others nothing is known: %v", got)
	}
}

// TestPeersStrangers has somebody else in the same NATS, who asks and answers
// without the key of the nodes, and repeats what they have said.
func TestPeersStrangers(t *testing.T) {
	js := nodesJetStream(t)
	log := slog.New(slog.DiscardHandler)
	nodes := NewNodes(js, 1, log)
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	for _, name := range []string{"a", "b", "forged"} {
		if err := nodes.put(t.Context(), &Node{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	b, asks := NewPeers(js.Conn(), nodes, "b", keyring(t, 1), log), NewPeers(js.Conn(), nodes, "a", keyring(t, 1), log)
	var mu sync.Mutex
	carriedOut := map[string]bool{}
	serving.Go(func() { // ends with ctx
		b.Serve(ctx, func(_ context.Context, q []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			carriedOut[string(q)] = true
			return []byte("done"), nil
		})
	})
	forger, err := js.Conn().Subscribe(peerSubject+bus.Token("forged"), func(q *nats.Msg) { q.Respond([]byte("forged")) })
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Unsubscribe()
	var got []Answer
	for len(got) == 0 || got[0].Err != nil { // until b serves
		got = asks.Ask(t.Context(), []byte("good"))
	}
	if len(got) != 2 || string(got[0].Data) != "done" || got[1].Err != ErrSilent || got[1].Data != nil {
		t.Errorf("answers: %+v, want that of b alone", got)
	}
	if n, _ := asks.Dropped(); n == 0 {
		t.Error("the forged answer is not counted")
	}

	now, inbox := time.Now(), js.Conn().NewInbox()
	other := NewPeers(js.Conn(), nodes, "a", keyring(t, 2), log)
	changed := asks.question("b", inbox, now.Add(PeerTime), []byte("as signed"))
	changed.Data = []byte("changed")
	elsewhere := asks.question("b", inbox, now.Add(PeerTime), []byte("elsewhere"))
	elsewhere.Reply += ".x"
	forAnother := asks.question("c", inbox, now.Add(PeerTime), []byte("of another"))
	forAnother.Subject = peerSubject + bus.Token("b")
	longer := asks.question("b", inbox, now.Add(-time.Hour), []byte("longer"))
	longer.Header.Set(untilHeader, strconv.FormatInt(now.Add(PeerTime).UnixMilli(), 10))
	for _, m := range []*nats.Msg{
		{Subject: peerSubject + bus.Token("b"), Reply: inbox, Data: []byte("unsigned")},
		other.question("b", inbox, now.Add(PeerTime), []byte("other key")),
		changed, elsewhere, forAnother, longer,
		asks.question("b", inbox, now.Add(-time.Second), []byte("late")),
		asks.question("b", inbox, now.Add(time.Minute), []byte("early")),
	} {
		if err := js.Conn().PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); ; {
		if unsigned, old := b.Dropped(); unsigned == 6 && old == 2 {
			break
		}
		select {
		case <-tick.C:
		case <-late:
			unsigned, old := b.Dropped()
			t.Fatalf("dropped: %d unsigned and %d late, want 6 and 2", unsigned, old)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(carriedOut) != 1 || !carriedOut["good"] {
		t.Errorf("carried out: %v, want good alone", carriedOut)
	}
}

// keyring returns a ring with a key of which every byte is b.
func keyring(t *testing.T, b byte) *Keyring {
	t.Helper()
	keys, err := ParseKeys([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32))))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
