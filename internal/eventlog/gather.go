package eventlog

import (
	"sync"
	"time"
)

// gatherer makes one record of many facts of crowds with the same subject: when
// a stream ends, all its players leave at once.
type gatherer struct {
	lane *lane

	mu      sync.Mutex
	batches map[string]*batch // by subject
	order   []*batch          // as they began; those written already have no facts
	bytes   int
	timer   *time.Timer // runs while there are batches
}

// batch is the facts of one subject: a JSON array that is still open.
type batch struct {
	subject string
	data    []byte
	n       int
	count   *counter // of their type
}

const (
	gatherTime = time.Second
	gatherAll  = 4 << 20 // bytes of all batches
	batchBytes = 64 << 10
	maxBatch   = 1 << seqBits
)

// add adds a fact.
func (g *gatherer) add(subject string, data []byte, c *counter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.batches[subject]
	if b != nil && (b.n == maxBatch || len(b.data)+len(data) > batchBytes) {
		g.write(b)
		b = nil
	}
	if b == nil {
		b = &batch{subject: subject, count: c}
		g.batches[subject] = b
		g.order = append(g.order, b)
	}
	sep := byte('[')
	if b.n > 0 {
		sep = ','
	}
	b.data = append(append(b.data, sep), data...)
	b.n++
	g.bytes += len(data) + 1
	if g.bytes > gatherAll {
		g.writeAll()
	} else if g.timer == nil {
		g.timer = time.AfterFunc(gatherTime, g.flush)
	}
}

// flush writes what there is.
func (g *gatherer) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writeAll()
}

func (g *gatherer) writeAll() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	for _, b := range g.order {
		if b.n > 0 {
			g.write(b)
		}
	}
	g.order = nil
}

// write writes one batch.
func (g *gatherer) write(b *batch) {
	delete(g.batches, b.subject)
	g.bytes -= len(b.data)
	if g.lane.append(record{subject: b.subject, data: append(b.data, ']'), at: time.Now()}) {
		b.count.emitted.Add(int64(b.n))
	} else {
		b.count.omitted.Add(int64(b.n))
	}
	b.data, b.n = nil, 0
}
