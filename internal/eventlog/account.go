package eventlog

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"weir/internal/event"
)

// counter counts the facts of one type.
type counter struct {
	emitted, omitted atomic.Int64

	told int64 // of omitted, those in a fact; of the goroutine that tells
}

// otherTypes stands for all types that this version does not know.
const otherTypes event.Type = "other"

func (l *Log) counter(t event.Type) *counter {
	if c := l.emitted[t]; c != nil {
		return c
	}
	return l.emitted[otherTypes]
}

// tellOmitted emits facts of what was left out, until ctx ends.
func (l *Log) tellOmitted(ctx context.Context) {
	t := time.NewTicker(omitTime)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.omit()
		case <-ctx.Done():
			return
		}
	}
}

// omit emits a fact for each type of which some were left out since the last
// time.
func (l *Log) omit() {
	l.telling.Lock()
	defer l.telling.Unlock()
	for t, c := range l.emitted {
		n := c.omitted.Load() - c.told
		if n > 0 && t != event.TypeOmitted && l.emit(event.New(time.Now(), event.Omitted{Of: t, Count: n})) {
			c.told += n
		}
	}
}

// Health says how the log does.
type Health struct {
	Degraded bool
	Reason   string // if degraded

	Waiting      int           // records that JetStream does not have
	JournalBytes int64         // on disk
	QueueBytes   int64         // in memory, not yet on disk
	Lag          time.Duration // for how long JetStream has been away
}

// graceTime is how long JetStream may be away before anybody needs to know: a
// cluster may choose a new leader.
const graceTime = 3 * time.Second

// Health returns how the log does.
func (l *Log) Health() Health {
	var h Health
	for _, lane := range []*lane{l.facts, l.crowd} {
		lane.mu.Lock()
		failure := lane.failure
		h.Waiting += lane.waiting()
		h.JournalBytes += lane.bytes
		h.QueueBytes += int64(lane.queued)
		full := lane.bytes+int64(lane.queued) > lane.limit-lane.limit/20
		lane.mu.Unlock()
		away := lane.away.Load()
		if away != nil {
			h.Lag = max(h.Lag, time.Since(away.since))
		}
		switch {
		case h.Degraded:
		case failure != nil && away != nil:
			h.Degraded, h.Reason = true, fmt.Sprintf("the event log is away, and facts cannot be written to disk and wait in memory: %v; %v", failure, away.err)
		case failure != nil:
			h.Degraded, h.Reason = true, fmt.Sprintf("facts cannot be written to disk and go to NATS from memory: %v", failure)
		case full:
			h.Degraded, h.Reason = true, fmt.Sprintf("the journal of %s is full: facts are lost", lane.config.Name)
		case away != nil && time.Since(away.since) > graceTime:
			h.Degraded, h.Reason = true, fmt.Sprintf("the event log is away, facts wait in the journal: %v", away.err)
		}
	}
	return h
}

// Stats is a Log's account since it was opened.
type Stats struct {
	Emitted map[event.Type]int64 // taken; all types that are not known are "other"
	Omitted map[event.Type]int64 // left out
	Gaps    int64                // facts that readers have missed because they were no longer kept
	Lost    int64                // facts that could not be sent

	// Latency counts facts by the time from Emit until they are on disk,
	// cumulated: Latency[i] took LatencyBuckets[i] or less; the last is all.
	Latency    [len(LatencyBuckets) + 1]int64
	LatencySum time.Duration
}

// Stats returns the log's account.
func (l *Log) Stats() Stats {
	st := Stats{
		Emitted: make(map[event.Type]int64), Omitted: make(map[event.Type]int64),
		Gaps: l.gaps.Load(), Lost: l.facts.lost.Load() + l.crowd.lost.Load(),
	}
	for t, c := range l.emitted {
		if n := c.emitted.Load(); n > 0 {
			st.Emitted[t] = n
		}
		if n := c.omitted.Load(); n > 0 {
			st.Omitted[t] = n
		}
	}
	l.facts.mu.Lock()
	h := l.facts.latency
	l.facts.mu.Unlock()
	sum := int64(0)
	for i := range st.Latency {
		sum += h.counts[i]
		st.Latency[i] = sum
	}
	st.LatencySum = h.sum
	return st
}
