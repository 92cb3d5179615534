package callback

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/internal/bus"
	"weir/internal/bus/bustest"
	"weir/internal/event"
	"weir/internal/policy"
)

// realKeeper is a keeper on a JetStream in this process.
func realKeeper(t testing.TB) (*keeper, *bus.Bus) {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Node: "n1", Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	k := newKeeper(b.JetStream(), 1, Keep{}, slog.New(slog.DiscardHandler))
	if _, err := k.deadLetters(t.Context(), "", "", 0, 1); err != ErrAway {
		t.Errorf("before it is opened: %v", err)
	}
	if err := k.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k, b
}

func TestKeeper(t *testing.T) {
	ctx := t.Context()
	k, b := realKeeper(t)
	p, other := k.part(""), k.part("crowd-")
	if err := other.put(ctx, key("lane", "4"), []byte("other")); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := p.put(ctx, key("lane", fmt.Sprint(i%10)), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.delete(ctx, key("lane", "3")); err != nil {
		t.Fatal(err)
	}
	k = newKeeper(b.JetStream(), 1, Keep{}, slog.New(slog.DiscardHandler)) // as a restart does
	if err := k.open(ctx); err != nil {
		t.Fatal(err)
	}
	p, other = k.part(""), k.part("crowd-")
	if m, err := other.all(ctx); err != nil || len(m) != 1 || string(m[key("lane", "4")]) != "other" {
		t.Errorf("the other part has %q, %v", m, err)
	}
	m, err := p.all(ctx)
	if err != nil || len(m) != 9 || string(m[key("lane", "4")]) != "14" {
		t.Errorf("all = %d records, %v: %q", len(m), err, m)
	}
	if v, err := p.get(ctx, key("lane", "9")); err != nil || string(v) != "19" {
		t.Errorf("get = %q, %v", v, err)
	}
	if _, err := p.get(ctx, key("lane", "3")); err == nil {
		t.Error("a deleted record is there")
	}

	// Another node has become the one that tells: this one can change nothing.
	next := newKeeper(b.JetStream(), 1, Keep{}, slog.New(slog.DiscardHandler))
	if err := next.open(ctx); err != nil {
		t.Fatal(err)
	}
	if err := next.own(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.put(ctx, key("lane", "9"), []byte("stale")); err == nil {
		t.Error("the owner before can write")
	}
	if err := p.delete(ctx, key("lane", "9")); err == nil {
		t.Error("the owner before can delete")
	}
	if v, err := next.part("").get(ctx, key("lane", "9")); err != nil || string(v) != "19" {
		t.Errorf("get = %q, %v", v, err)
	}
	if m, err := next.part("").all(ctx); err != nil || len(m) != 9 {
		t.Errorf("all = %q, %v", m, err)
	}

	letter := func(space, group, id string) *Letter {
		return &Letter{ID: id, Space: space, Group: group, Body: []byte("x")}
	}
	for i := range 6 {
		if err := k.bury(ctx, letter([]string{"a", "b"}[i%2], []string{"g", "h"}[i/3], fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(space, receiver string, from uint64, most int) (s string) {
		list, err := k.deadLetters(ctx, space, receiver, from, most)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			s += l.ID
		}
		return s
	}
	for i, tt := range []struct{ got, want string }{
		{ids("", "", 0, 10), "012345"}, {ids("", "", 0, 2), "01"}, {ids("", "", 3, 10), "2345"}, {ids("a", "", 0, 10), "024"},
		{ids("a", ReceiverID("a", "g"), 0, 10), "02"}, {ids("", ReceiverID("b", "h"), 0, 10), "35"}, {ids("c", "", 0, 10), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%d: dead letters %q, want %q", i, tt.got, tt.want)
		}
	}
	if err := k.forget(ctx, 2); err != nil {
		t.Error(err)
	}
	if _, err := k.deadLetter(ctx, 2); err != ErrNoLetter {
		t.Errorf("a letter that is gone: %v", err)
	}
	if l, err := k.deadLetter(ctx, 3); err != nil || l.ID != "2" || l.Died.IsZero() {
		t.Errorf("letter 3 = %+v, %v", l, err)
	}

	begin := time.Now()
	for i := range 10 {
		e := event.New(time.Now(), event.CallbackAttempted{Of: fmt.Sprint(i), Attempt: 1})
		e.Space, e.App, e.Stream = "a", "live", fmt.Sprintf("s.%d", i%2)
		k.attempted(e)
	}
	k.flush()
	var list []Attempt
	for { // they are written without an answer
		var err error
		if list, err = k.attemptsOf(ctx, Attempts{Most: 20}); err != nil {
			t.Fatal(err)
		} else if len(list) == 10 {
			break
		}
	}
	attempts := func(q Attempts) (s string) {
		list, err := k.attemptsOf(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			s += a.Data.(event.CallbackAttempted).Of
		}
		return s
	}
	for i, tt := range []struct {
		q    Attempts
		want string
	}{
		{Attempts{Space: "a", Most: 20}, "0246813579"}, {Attempts{Space: "a", App: "live", Stream: "s.1", Most: 3}, "135"},
		{Attempts{Stream: "s.0", After: list[1].Number, Most: 20}, "468"}, {Attempts{After: list[4].Number, Most: 2}, "13"}, {Attempts{Space: "b", Most: 20}, ""},
		{Attempts{Since: begin, Most: 20}, "0246813579"}, {Attempts{Since: time.Now().Add(time.Hour), Most: 20}, ""}, {Attempts{Until: begin.Add(-time.Hour), Most: 20}, ""},
	} {
		if got := attempts(tt.q); got != tt.want {
			t.Errorf("%d: attempts %q, want %q", i, got, tt.want)
		}
	}
}

// Many streams whose dead letters fail again, told at the same time: until it is
// clear that the receiver is down.
func TestReplayAllFails(t *testing.T) {
	k, _ := realKeeper(t)
	const streams, each = 64, 2
	for i := range streams * each {
		l := &Letter{ID: event.NewID(), Space: "a", App: "live", Stream: fmt.Sprintf("s%d", i%streams), Group: "http://down.example/", URL: "http://down.example/"}
		if err := k.bury(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	q := &queue{dial: func(context.Context, string, string) (net.Conn, error) { return nil, errTest }}
	d := &Dispatcher{keeper: k, policy: func() *policy.Set { return new(policy.Set) }, facts: q}
	sum, err := d.ReplayAll(t.Context(), "", "", 0, 0)
	if err != nil || sum.Told != 0 || sum.Failed < tripAfter || sum.Failed >= tripAfter+openCalls*4 || sum.Skipped != streams*each-sum.Failed {
		t.Errorf("ReplayAll = %+v, %v", sum, err)
	}
}

// In a cluster, too, records are written and deleted by many at once, and by the
// owner alone.
func TestKeeperReplicated(t *testing.T) {
	routes, held := bustest.Addresses(t, 3)
	var nodes []*bus.Bus
	for i, addr := range routes {
		held[i].Close()
		b, err := bus.Open(t.Context(), bus.Config{Node: fmt.Sprintf("n%d", i), Dir: t.TempDir(), Cluster: &bus.Cluster{
			Name: "c", Listen: addr, Routes: routes, User: "weir", Password: "canary",
		}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		nodes = append(nodes, b)
	}
	var keepers []*keeper
	for _, b := range nodes[:2] {
		k := newKeeper(b.JetStream(), b.Replicas(), Keep{}, slog.New(slog.DiscardHandler))
		until(t, "the cluster has a majority", time.Minute, func() bool { return k.open(t.Context()) == nil && k.own(t.Context(), nil) == nil })
		keepers = append(keepers, k)
	}
	p := keepers[1].part("")
	var g errgroup.Group
	for i := range 64 {
		g.Go(func() error {
			k := key("lane", fmt.Sprint(i))
			if err := p.put(t.Context(), k, []byte("x")); err != nil {
				return err
			}
			if i%2 == 0 {
				return p.delete(t.Context(), k)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := keepers[0].part("").put(t.Context(), key("lane", "0"), []byte("stale")); err == nil {
		t.Error("the owner before can write")
	}
	if m, err := p.all(t.Context()); err != nil || len(m) != 32 {
		t.Errorf("%d records, %v, want 32", len(m), err)
	}
}
