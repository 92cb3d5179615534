package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/event"
	"weir/internal/eventlog"
)

// openFacts opens the event log of a node; close ends it.
func openFacts(t *testing.T, js jetstream.JetStream, node, dir string) (l *eventlog.Log, end func()) {
	t.Helper()
	l, err := eventlog.Open(t.Context(), js, eventlog.Options{Node: node, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	over := false
	end = func() {
		if !over {
			over = true
			if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return l, end
}

// told returns what l has of the policy.
func told(t *testing.T, l *eventlog.Log) []event.Event {
	t.Helper()
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for l.Health().Waiting > 0 {
		<-tick.C
	}
	r := l.Range(t.Context(), eventlog.Filter{Types: []event.Type{event.TypePolicyChanged}}, 0, l.Last())
	defer r.Close()
	var list []event.Event
	for {
		e, err := r.Next(t.Context())
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Event)
	}
}

func lines(list []event.Event) []string {
	var s []string
	for _, e := range list {
		d := e.Data.(event.PolicyChanged)
		s = append(s, fmt.Sprintf("%s %d<-%d %s %t %s: %s", d.Document, d.Version, d.Before, e.Space, d.Deleted, d.By, d.Note))
	}
	return s
}

// A node is killed after the store has a change, and before the event log has
// it. Its next start tells what it could not, once.
func TestToldAfterACrash(t *testing.T) {
	js, dir := openBus(t).JetStream(), t.TempDir()
	var p *Policy
	run := func(killed bool) (*eventlog.Log, func()) {
		t.Helper()
		l, end := openFacts(t, js, "a", dir)
		o := Options{Node: "a", Facts: l, tellTime: 5 * time.Millisecond, absentTime: time.Hour}
		if killed {
			o.Changed = func(event.Event) {}
		}
		p = openPolicy(t, js, o)
		return l, func() { p.Close(); end() }
	}
	_, stop := run(true) // also of what the store begins with
	write(t, p, Change{Name: "space/demo", Value: space("demo", "live")})
	write(t, p, Change{Name: "space/demo", Value: space("demo", "live", "more"), Expect: Any}, Change{Name: "space/two", Value: space("two")})
	stop()
	want := []string{
		"general 1<-0  false bootstrap by a: created",
		"space/default 2<-0 default false bootstrap by a: created",
		"space/demo 3<-0 demo false test: created",
		`space/demo 4<-3 demo false test: apps[more]: {"name":"more"}`,
		"space/two 5<-0 two false test: created",
	}
	until := func(to uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		kv, err := p.openTold(ctx)
		if err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ; <-tick.C {
			if got, _, err := toldUpTo(ctx, kv, 0); err != nil {
				t.Fatal(err)
			} else if got == to {
				return
			}
		}
	}
	l, stop := run(false)
	until(5)
	list := told(t, l)
	if d := cmp.Diff(want, lines(list)); d != "" {
		t.Errorf("facts (-want +got):\n%s", d)
	}
	if history, err := p.History(t.Context(), "space/demo"); err != nil || !history[0].At.Equal(list[3].Time) || list[3].Node != "a" {
		t.Errorf("the fact is %+v, the version %+v", list[3], history[0])
	}
	// What this process tells itself is told once, too.
	write(t, p, Change{Name: "space/two", Expect: Any})
	until(6)
	want = append(want, "space/two 6<-5 two true test: deleted")
	stop()
	l, stop = run(false)
	until(6)
	if d := cmp.Diff(want, lines(told(t, l))); d != "" {
		t.Errorf("facts after another start (-want +got):\n%s", d)
	}
	stop()

	// The node stays away. Of the others one tells what it has not.
	_, stop = run(true)
	write(t, p, Change{Name: "space/demo", Expect: Any})
	stop()
	want = append(want, "space/demo 7<-4 demo true test: deleted")
	for i, patience := range []time.Duration{time.Hour, time.Millisecond, time.Millisecond} {
		node := fmt.Sprint("n", i)
		l, _ = openFacts(t, js, node, t.TempDir())
		p = openPolicy(t, js, Options{Node: node, Facts: l, tellTime: 5 * time.Millisecond, absentTime: patience, Log: slog.New(slog.DiscardHandler)})
	}
	until(7)
	if d := cmp.Diff(want, lines(told(t, l))); d != "" {
		t.Errorf("facts by the others (-want +got):\n%s", d)
	}
}

// What a Weir has written that told what it wrote, and nothing of that, is taken
// for told.
func TestToldBefore(t *testing.T) {
	js := openBus(t).JetStream()
	old := openPolicy(t, js, Options{Node: "a"})
	write(t, old, Change{Name: "space/demo", Value: space("demo")})
	old.Close()
	l, _ := openFacts(t, js, "a", t.TempDir())
	p := openPolicy(t, js, Options{Node: "a", Facts: l, tellTime: 5 * time.Millisecond, absentTime: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.tellRest(ctx); err != nil {
		t.Fatal(err)
	}
	if list := told(t, l); list != nil {
		t.Errorf("told %v", lines(list))
	}
}
