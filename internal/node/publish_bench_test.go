package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/media/rtmp"
	"weir/internal/session"
)

// BenchmarkPublishAnswer is the time from an encoder's connection to the answer
// that it may publish, with the event log, whose disk has the fact then, and
// without any. The log is to take no more than 2 ms of it at the median.
func BenchmarkPublishAnswer(b *testing.B) {
	for _, encoders := range []int{1, 50} {
		for _, log := range []bool{false, true} {
			b.Run(fmt.Sprintf("encoders=%d/log=%v", encoders, log), func(b *testing.B) { publishAnswers(b, encoders, log) })
		}
	}
}

func publishAnswers(b *testing.B, encoders int, log bool) {
	n, err := New(testConfig(b), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	if !log {
		n.sessions = session.NewServer(n.hub, n.gate, session.Options{RTMP: rtmp.Config{Limits: n.cfg.Limits.rtmp()}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }() // ends with ctx
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	url := n.url("rtmp", "/live")
	push := func(name string) time.Duration {
		begin := time.Now()
		c, err := rtmp.Dial(ctx, url, rtmp.Config{})
		if err != nil {
			b.Error(err)
			return 0
		}
		defer c.Close()
		if err := c.Publish(name); err != nil {
			b.Error(err)
		}
		return time.Since(begin)
	}
	push("first")
	var mu sync.Mutex
	var took []time.Duration
	b.ResetTimer()
	var all sync.WaitGroup
	for e := range encoders {
		all.Go(func() {
			for i := e; i < b.N; i += encoders {
				d := push(fmt.Sprint(i))
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	b.StopTimer()
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
}
