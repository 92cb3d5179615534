package stream

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

// A gatherer decides for how long feeds gather packets before they write them.
//
// A write costs the kernel about the same whether it carries one packet or ten,
// so gathering for g divides the cost of n players by g, and adds about g/2 of
// latency. Were the two worth the same at every load, g would best grow with
// the square root of the writes that the node would make if nothing were
// gathered. As a processor that is nearly busy makes everybody wait, g grows
// faster. So latency is spent only where it buys something, and a node that has
// little to do spends none.
type gatherer struct {
	ceiling time.Duration

	demand atomic.Int64 // packets times players since the last look
	looked atomic.Int64 // when that was, ns
	value  atomic.Int64 // ns
}

const (
	// gatherEvery is how often demand is looked at.
	gatherEvery = 500 * time.Millisecond
	// quiet is for how long nobody has looked at demand when there is none.
	quiet = 4 * gatherEvery
	// freeWrites is how many ungathered writes per second and processor are so
	// few that nothing is gathered.
	freeWrites = 12_000
	// gatherBase is the gathering time at baseWrites ungathered writes per second
	// and processor, which is a thousand players of 25 video and 47 audio frames
	// per second; four thousand get 117 ms, which is nearly always three frames.
	gatherBase = 40 * time.Millisecond
	baseWrites = 72_000
	// gatherGrowth is with which power of the writes the gathering time grows.
	gatherGrowth = 0.775
)

// want notes that n players each want one more packet.
func (g *gatherer) want(n int, now time.Time) {
	d := g.demand.Add(int64(n))
	last := g.looked.Load()
	span := now.UnixNano() - last
	if span < int64(gatherEvery) || !g.looked.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	g.demand.Add(-d)
	if span > int64(quiet) { // it was quiet; the next span tells
		span = int64(gatherEvery)
	}
	g.value.Store(int64(g.gatherTime(float64(d) / time.Duration(span).Seconds())))
}

// gatherTime returns the gathering time at a rate of ungathered writes per
// second over the whole node.
func (g *gatherer) gatherTime(rate float64) time.Duration {
	rate /= float64(runtime.GOMAXPROCS(0))
	if rate < freeWrites {
		return 0
	}
	return min(g.ceiling, time.Duration(float64(gatherBase)*math.Pow(rate/baseWrites, gatherGrowth)))
}

// now returns the gathering time; none is left when nobody has wanted packets
// for some seconds.
func (g *gatherer) now(now time.Time) time.Duration {
	if now.UnixNano()-g.looked.Load() > int64(quiet) {
		return 0
	}
	return time.Duration(g.value.Load())
}
