package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/bus/bustest"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// facts reads the log of n until it has had last.
func facts(t *testing.T, n *Node, f eventlog.Filter, last event.Type) []event.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := n.events.Read(ctx, f, 0)
	defer r.Close()
	var list []event.Event
	for {
		e, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("no %s: %v; had %v", last, err, typesOf(list))
		}
		if list = append(list, e.Event); e.Event.Type == last {
			return list
		}
	}
}

func typesOf(list []event.Event) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, " %s", e.Type)
	}
	return strings.TrimSpace(b.String())
}

// A push and its player, from their beginnings to their ends, in facts.
func TestFacts(t *testing.T) {
	c := testConfig(t)
	c.Node, c.Version = "edge-1", "test"
	n, _, stop := start(t, c)
	const name = "s?k=canary&x=a%20b"
	pub := publish(t, n, name)
	resp, err := http.Get(n.url("http", "/live/s.flv"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	second, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Publish("s"); err == nil {
		t.Error("two publishers of one stream")
	}
	second.Close()
	resp.Body.Close()
	pub.Close()

	list := facts(t, n, eventlog.Filter{}, event.TypePublishEnded)
	if got, want := typesOf(list), "policy.changed policy.changed node.started publish.started publish.ended"; got != want {
		t.Fatalf("facts are %s, want %s", got, want)
	}
	list = list[2:] // of the policy that an empty store begins with
	if d := list[0].Data.(event.NodeStarted); !d.Clean || d.Version != "test" {
		t.Errorf("node.started says %+v", d)
	}
	begin, end := list[1], list[2]
	push := begin.Data.(event.PublishStarted)
	if begin.Space != "default" || begin.App != "live" || begin.Stream != "s" || begin.Node != "edge-1" || len(begin.Sequence) != 32 {
		t.Errorf("publish.started is about %+v", begin)
	}
	if k, _ := push.Param("k"); k != "canary" || len(push.Params) != 2 || push.Params[1] != (event.Param{Name: "x", Value: "a b"}) {
		t.Errorf("publish.started has the parameters %+v", push.Params)
	}
	if push.Domain != "127.0.0.1" || push.Protocol != "rtmp" || !push.NodeAddr.IsLoopback() || !push.Addr.Addr().IsLoopback() || push.TcURL == "" {
		t.Errorf("publish.started has the client %+v", push.Client)
	}
	d := end.Data.(event.PublishEnded)
	if end.Sequence != begin.Sequence || d.Session != push.Session || !d.Started.Equal(begin.Time) || end.Time.Before(begin.Time) || d.Reason == "" {
		t.Errorf("publish.ended is %+v after %+v", end, begin)
	}
	list = facts(t, n, eventlog.Filter{Crowd: true}, event.TypePlayEnded)
	count := map[event.Type]int{}
	for _, e := range list {
		count[e.Type]++
		if e.App != "live" || e.Stream != "s" || e.Space != "default" {
			t.Errorf("%s is about %+v", e.Type, e)
		}
		switch { // the second request is another push, which never began
		case e.Type == event.TypePlayEnded && e.Sequence != begin.Sequence, e.Type == event.TypePublishRefused && e.Sequence == begin.Sequence, len(e.Sequence) != 32:
			t.Errorf("%s has the sequence %q; the push is %q", e.Type, e.Sequence, begin.Sequence)
		}
		if d, ok := e.Data.(event.PublishRefused); ok && (d.Reason != "stream_exists" || d.Code != 3) {
			t.Errorf("publish.refused says %+v", d)
		}
		if d, ok := e.Data.(event.PlayEnded); ok && (d.Protocol != "flv" || d.UserAgent == "" || d.Started.IsZero()) {
			t.Errorf("play.ended says %+v", d)
		}
	}
	if count[event.TypePublishRequested] != 2 || count[event.TypePublishRefused] != 1 || count[event.TypePlayEnded] != 1 {
		t.Errorf("facts of crowds are %v", count)
	}
	if _, metrics := get(t, n.url("admin", "/metrics")); !strings.Contains(metrics, "\nweir_facts_total{type=\"publish.ended\"} 1\n") {
		t.Errorf("metrics do not count the facts")
	}

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	n, _, _ = start(t, c)
	if list := facts(t, n, eventlog.Filter{Types: []event.Type{event.TypeNodeStopped}}, event.TypeNodeStopped); list[0].Data.(event.NodeStopped).Reason != "asked to" {
		t.Errorf("node.stopped says %+v", list[0].Data)
	}
}

// While NATS is away the node serves, and says that it is degraded. What
// happens then is told when it is back.
func TestNATSAway(t *testing.T) {
	nats := bustest.Serve(t)
	c := testConfig(t)
	c.NATS.URL = nats.ClientURL()
	n, _, _ := start(t, c)
	publish(t, n, "a").Close()
	facts(t, n, eventlog.Filter{}, event.TypePublishEnded)

	nats.Stop()
	publish(t, n, "b").Close()
	eventually(t, "the node to be degraded", func() bool {
		status, text := get(t, n.url("admin", "/readyz"))
		return status == 200 && strings.HasPrefix(text, "degraded: the event log is away")
	})
	if _, metrics := get(t, n.url("admin", "/metrics")); !strings.Contains(metrics, "\nweir_event_log_degraded 1\n") {
		t.Error("metrics do not say that the event log is away")
	}

	nats.Resume()
	r := n.events.Read(t.Context(), eventlog.Filter{Stream: "b"}, 0)
	defer r.Close()
	for _, want := range []event.Type{event.TypePublishStarted, event.TypePublishEnded} {
		if e, err := r.Next(t.Context()); err != nil || e.Event.Type != want {
			t.Fatalf("after NATS is back came %v, %v, want %s", e.Event, err, want)
		}
	}
	eventually(t, "the node to be well", func() bool {
		_, text := get(t, n.url("admin", "/readyz"))
		return text == "ok\n"
	})
}

// The log away while publishers come and go: players of every protocol miss
// nothing, and afterwards all facts are there, in order.
func TestMediaWithoutNATS(t *testing.T) {
	nats := bustest.Serve(t)
	w := newWorld(t, func(c *Config, _ *policy.App) { c.NATS.URL = nats.ClientURL() })
	var mu sync.Mutex
	accepted := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	var pushing sync.WaitGroup
	for i := range 10 {
		pushing.Go(func() { // ends with ctx
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("%d.%d", i, n)
				err := pushOnce(t.Context(), w.Addr("rtmp").String(), name, func() {
					mu.Lock()
					defer mu.Unlock()
					accepted[name] = true
				})
				if err != nil {
					t.Error(err)
				}
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	for range 2 {
		w.crowd.reach(w.canary.sent() + 25)
		nats.Stop()
		w.crowd.reach(w.canary.sent() + 100)
		nats.Resume()
	}
	w.crowd.reach(w.canary.sent() + 25)
	cancel()
	pushing.Wait()
	list := entries(t, w.Node)
	var ended []event.Event // without the canary, which goes on
	for _, e := range list {
		if e.Stream != "canary" {
			ended = append(ended, e)
		}
	}
	died, _ := checkPushes(t, ended, accepted)
	if len(accepted) < 20 || died > 0 {
		t.Errorf("%d pushes, %d of which died", len(accepted), died)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.After(30 * time.Second); !ok(); {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Two processes cannot have the same data folder.
func TestDataFolder(t *testing.T) {
	c := testConfig(t)
	n, _, stop := start(t, c)
	if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s belongs to the process %d", c.Data, os.Getpid())) {
		t.Errorf("New with the data folder of another: %v", err)
	}
	if n.DataFolder() != c.Data {
		t.Errorf("DataFolder = %s, want %s", n.DataFolder(), c.Data)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start(t, c)

	c.Data = c.Data + "/lock/x"
	if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "set data: in weir.yaml") {
		t.Errorf("New with a data folder that cannot be: %v", err)
	}
}

func TestDefaultDataFolder(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/s/a:/s/b")
	t.Setenv("XDG_STATE_HOME", "/x")
	c := DefaultConfig()
	for _, tt := range []struct{ unset, want string }{{"STATE_DIRECTORY", "/s/a"}, {"XDG_STATE_HOME", "/x/weir"}} {
		if got, err := c.DataFolder(); got != tt.want || err != nil {
			t.Errorf("DataFolder = %s, %v, want %s", got, err, tt.want)
		}
		t.Setenv(tt.unset, "")
	}
	if got, err := c.DataFolder(); err != nil || os.Getuid() == 0 && got != "/var/lib/weir" {
		t.Errorf("DataFolder = %s, %v", got, err)
	}
}
