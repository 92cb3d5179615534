package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"weir/internal/bus"
)

// BenchmarkAppend is what the event log adds to the answer to a publisher: one
// fact emitted and flushed.
func BenchmarkAppend(b *testing.B) {
	dir := b.TempDir()
	bs, err := bus.Open(context.Background(), bus.Config{Node: "n1", Dir: dir + "/nats"}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer bs.Close()
	l, err := Open(b.Context(), bs.JetStream(), Options{Node: "n1", Dir: dir + "/journal"})
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		l.Emit(started("a", fmt.Sprint(i)))
		if err := l.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
	if err := l.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkForward is how fast facts go from the journal to JetStream, and
// BenchmarkForwardCrowd those of players.
func BenchmarkForward(b *testing.B)      { benchmarkForward(b, false) }
func BenchmarkForwardCrowd(b *testing.B) { benchmarkForward(b, true) }

func benchmarkForward(b *testing.B, crowd bool) {
	dir := b.TempDir()
	bs, err := bus.Open(context.Background(), bus.Config{Node: "n1", Dir: dir + "/nats"}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer bs.Close()
	l, err := Open(b.Context(), bs.JetStream(), Options{Node: "n1", Dir: dir + "/journal"})
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	for i := 0; b.Loop(); i++ {
		if crowd {
			l.Emit(played("a", i))
		} else {
			l.Emit(started("a", fmt.Sprint(i)))
		}
	}
	if err := l.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "facts/s")
}
