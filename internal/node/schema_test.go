package node

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
)

// Of whatever a newer Weir has written with another schema, this one says so,
// and leaves it alone: without facts and policy it does not start, and without
// the rest it serves.
func TestNewerSchema(t *testing.T) {
	c := testConfig(t)
	n, _, stop := start(t, c)
	publish(t, n, "s").Close()
	facts(t, n, eventlog.Filter{}, event.TypePublishEnded)
	eventually(t, "all is made", func() bool {
		_, err := n.bus.JetStream().Stream(t.Context(), "WEIR_STATISTICS_HOURS")
		return err == nil
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var names []string
	schema := func(change func(s jetstream.StreamConfig) string) {
		t.Helper()
		b, err := bus.Open(t.Context(), bus.Config{Node: c.nodeName(), Dir: filepath.Join(c.Data, "nats")}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for info := range b.JetStream().ListStreams(t.Context()).Info() {
			cfg := info.Config
			version := change(cfg)
			if version == "" || version == cfg.Metadata["weir.schema"] {
				continue
			}
			cfg.Metadata["weir.schema"] = version
			if _, err := b.JetStream().UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	schema(func(s jetstream.StreamConfig) string {
		if s.Metadata["weir.schema"] == "" {
			t.Errorf("%s has no schema: %v", s.Name, s.Metadata)
		}
		names = append(names, s.Name)
		return ""
	})
	t.Logf("streams: %v", names)
	var refused []string
	for _, name := range names {
		schema(func(s jetstream.StreamConfig) string {
			if s.Name == name {
				return "99"
			}
			return "1"
		})
		l := newLogs()
		n, err := New(c, slog.New(l))
		short := strings.TrimPrefix(name, "KV_")
		if err != nil {
			if !strings.Contains(err.Error(), short) || !strings.Contains(err.Error(), "run the newer Weir that wrote it") {
				t.Errorf("with a newer %s: %v", name, err)
			}
			t.Logf("with a newer %s it does not start", name)
			refused = append(refused, name)
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }() // ends with ctx
		said := ""
		for late := time.After(20 * time.Second); said == ""; {
			select {
			case line := <-l.lines:
				if strings.Contains(line, short+" has schema 99") {
					said = line
				}
			case <-late:
				said = "nothing"
				t.Errorf("with a newer %s it starts and says nothing", name)
			}
		}
		t.Logf("with a newer %s it says: %s", name, said)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if want := []string{"KV_weir_forbidden", "KV_weir_policy", "weir-crowd", "weir-facts"}; !slices.Equal(refused, want) {
		t.Errorf("it does not start with a newer one of %v, want %v", refused, want)
	}
}
