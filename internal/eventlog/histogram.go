package eventlog

import "time"

// LatencyBuckets are the upper bounds of Stats.Latency.
var LatencyBuckets = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second,
}

// histogram counts times by LatencyBuckets.
type histogram struct {
	counts [len(LatencyBuckets) + 1]int64
	sum    time.Duration
}

func (h *histogram) add(d time.Duration) {
	i := 0
	for i < len(LatencyBuckets) && d > LatencyBuckets[i] {
		i++
	}
	h.counts[i]++
	h.sum += d
}
