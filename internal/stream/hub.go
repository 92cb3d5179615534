// Package stream is the hub: one publisher, many readers.
//
// A stream is a log of packets and its readers are cursors over it. The
// publisher appends; it never waits for a reader. There are two kinds of
// cursor. A [Reader] walks over packets and is what packagers and recorders
// use. A [Player] is a socket: it walks over a feed, which is the same log
// encoded once in one wire format, so that the same bytes go to all of its
// players. Whoever falls behind jumps to the newest key frame; a player hears
// the sound alone while there is none.
//
// A feed is written to the sockets of its players by pumps, a goroutine for
// each processor in use, in one write each, without waiting. A player whose
// socket does not take all of it gets a goroutine of its own until it has
// caught up. With many players a feed gathers what comes for some
// milliseconds, so that a player costs fewer writes; see [gatherer].
//
// The order of locks is Hub.mu, Stream.mu, feed.mu.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/policy"
)

var (
	// ErrPublished is the answer to a publisher whose stream has one already.
	ErrPublished = errors.New("stream is already published")
	// ErrClosed is the answer of a hub that is shutting down.
	ErrClosed = errors.New("server is shutting down")
	// ErrOver ends players of a stream that ended.
	ErrOver = errors.New("stream is over")
	// ErrLeft ends players that Leave.
	ErrLeft = errors.New("player left")
	// ErrStuck ends players whose socket took nothing for too long.
	ErrStuck = errors.New("player took nothing for too long")
	// ErrFault ends players that a fault of ours would not let go on.
	ErrFault = errors.New("fault of the server")
)

// Options are a hub's settings; a zero field takes the default.
type Options struct {
	Log *slog.Logger

	GatherCeiling time.Duration // how long a feed may gather at most; default 150 ms, negative: never gather
	NoIOURing     bool          // write to each player in a system call of its own, although the system has io_uring
	SlowAfter     time.Duration // a player this far behind in time jumps; default 4 s
	SlowBytes     int           // a player this far behind in bytes jumps; default 2 MiB
	StuckAfter    time.Duration // a player that takes nothing for this long is disconnected; default 10 s
	GOPBytes      int           // a longer GOP is not cached; default 16 MiB
	GOPTime       time.Duration // a longer GOP is not cached; default 30 s
	ReaderBytes   int           // a packet reader this far behind jumps; default 32 MiB
	MaxByteRate   int           // bytes per second of one publisher; default 32 MiB
	MaxPacketRate int           // packets per second of one publisher; default 5000

	// Began and Ended are told of every publication, in the order in which it
	// happens: of a takeover the end before the beginning. They are called with
	// locks held, so they must neither wait nor call the hub. Ended may read the
	// publication's Reason and Counters.
	Began, Ended func(*Publication)
}

func (o *Options) defaults() {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.GatherCeiling = cmp.Or(o.GatherCeiling, 150*time.Millisecond)
	o.SlowAfter = cmp.Or(o.SlowAfter, 4*time.Second)
	o.SlowBytes = cmp.Or(o.SlowBytes, 2<<20)
	o.StuckAfter = cmp.Or(o.StuckAfter, 10*time.Second)
	o.GOPBytes = cmp.Or(o.GOPBytes, 16<<20)
	o.GOPTime = cmp.Or(o.GOPTime, 30*time.Second)
	o.ReaderBytes = cmp.Or(o.ReaderBytes, 32<<20)
	o.MaxByteRate = cmp.Or(o.MaxByteRate, 32<<20)
	o.MaxPacketRate = cmp.Or(o.MaxPacketRate, 5000)
	if o.Began == nil {
		o.Began = func(*Publication) {}
	}
	if o.Ended == nil {
		o.Ended = func(*Publication) {}
	}
}

// Hub holds all streams of a node. Its methods may be called from any
// goroutine.
type Hub struct {
	opt       Options
	gather    gatherer
	stats     counters
	burstFrom int // players that make a pump write in bursts
	newRing   func(slots, size int) *ring
	begun     time.Time
	came      atomic.Int64 // when a player last came, ns since begun

	mu        sync.Mutex
	closed    bool
	streams   map[Key]*Stream
	onPublish []func(context.Context, *Stream)
	follow    []func(context.Context, *Publication, *Reader)
	wanted    []func(Key) bool
	awaited   map[Key]*awaited
	traces    map[Key]trace  // of streams that have ended lately
	pruned    time.Time      // when traces was last looked through
	tasks     sync.WaitGroup // functions of OnPublish and Follow, players, pumps
}

// NewHub returns an empty hub. The caller ends it with Close.
func NewHub(o Options) *Hub {
	o.defaults()
	h := &Hub{opt: o, burstFrom: 16, newRing: newRing, begun: time.Now(), streams: make(map[Key]*Stream), awaited: make(map[Key]*awaited), traces: make(map[Key]trace)}
	h.gather.ceiling = max(0, o.GatherCeiling)
	if o.NoIOURing {
		h.burstFrom = math.MaxInt
	}
	return h
}

// OnPublish makes f run for every stream, in a goroutine of its own, from the
// stream's first publication on. Its context ends with the stream. A panic of f
// is the end of f for that stream, and of nothing else. OnPublish is called
// before the hub is used.
func (h *Hub) OnPublish(f func(context.Context, *Stream)) { h.onPublish = append(h.onPublish, f) }

// Follow makes f run for every publication, in a goroutine of its own, with a
// Reader of all its packets, which ends when the publication does. It is for
// those that must not miss a packet. The hub closes the Reader when f returns, and
// the context ends with the stream. Follow is called before the hub is used.
func (h *Hub) Follow(f func(context.Context, *Publication, *Reader)) { h.follow = append(h.follow, f) }

// OnWanted asks f, in Await, to bring a stream that is not there; it reports
// whether it will. It must not wait. It is called before the hub is used.
func (h *Hub) OnWanted(f func(Key) bool) { h.wanted = append(h.wanted, f) }

// Await is Find for a player: where nobody publishes the stream it asks those
// of OnWanted, and waits if one of them brings it, until ctx is done or for a
// while. It returns nil when there is no such stream. Of a stream that is found though
// its publisher has left they are asked, too.
func (h *Hub) Await(ctx context.Context, key Key) *Stream {
	s := h.Find(key)
	if s != nil && !s.Live() {
		for _, f := range h.wanted {
			f(key)
		}
	}
	if s != nil || len(h.wanted) == 0 {
		return s
	}
	h.mu.Lock()
	if s := h.streams[key]; s != nil || h.closed {
		h.mu.Unlock()
		return s
	}
	a := h.awaited[key]
	if a == nil {
		a = &awaited{there: make(chan struct{})}
		h.awaited[key] = a
	}
	a.players++
	h.mu.Unlock()
	coming := false
	for _, f := range h.wanted {
		coming = coming || f(key)
	}
	if coming {
		t := time.NewTimer(bringTime)
		defer t.Stop()
		select {
		case <-a.there:
		case <-t.C:
		case <-ctx.Done():
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.players--; a.players == 0 && h.awaited[key] == a {
		delete(h.awaited, key)
	}
	return h.streams[key]
}

// awaited is a stream that players wait for.
type awaited struct {
	there   chan struct{} // closed when it is there
	players int
}

// bringTime is for how long a player waits for a stream that somebody brings.
const bringTime = 10 * time.Second

// Find returns the stream of that name, or nil. A stream whose publisher left
// is found until its hold time is over.
func (h *Hub) Find(key Key) *Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[key]
}

// Streams returns all streams, in no order.
func (h *Hub) Streams() []*Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*Stream, 0, len(h.streams))
	for _, s := range h.streams {
		list = append(list, s)
	}
	return list
}

// Publish makes the caller the publisher of a stream, under the policy app,
// which it keeps, as push, which the hub only keeps. A stream has one publisher: a second one gets ErrPublished,
// unless the first has been silent for the app's StaleAfter or the app lets
// the new one take over, which ends the first.
func (h *Hub) Publish(key Key, app *policy.App, push Push) (*Publication, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	now := time.Now()
	s := h.streams[key]
	if s == nil {
		s = newStream(h, key, app, now)
		if t, ok := h.traces[key]; push.Of != nil {
			s.eras.begin(0) // it has its source's
		} else if ok {
			s.after(t)
		}
		h.streams[key] = s
		s.ctx, s.cancel = context.WithCancel(context.Background())
		if a := h.awaited[key]; a != nil {
			delete(h.awaited, key)
			close(a.there)
		}
		for _, f := range h.onPublish {
			h.tasks.Go(func() { defer h.rescue(s); f(s.ctx, s) }) // ends when f has seen the stream's end
		}
	} else if old, live := s.publication(); live {
		switch {
		case old.unheard(now) >= old.app.StaleAfter:
			old.End(EndNoData)
		case old.left():
			old.End(EndReset)
		case app.Takeover:
			old.End(EndTakeover)
		default:
			return nil, ErrPublished
		}
	}
	p := newPublication(s, app, push, now)
	s.attach(p, now)
	h.stats.Publishers.Add(1)
	h.opt.Began(p)
	for _, f := range h.follow {
		r := s.newReader(p, true)
		h.tasks.Go(func() { defer h.rescue(s); defer r.Close(); f(s.ctx, p, r) }) // ends when f has seen the publication's end
	}
	return p, nil
}

// expire ends a stream if nobody came back to it after the publication p.
func (h *Hub) expire(s *Stream, p *Publication) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.finish(p) {
		h.remember(s)
		delete(h.streams, s.key)
	}
}

// Close ends all publishers and players and waits until the players have had
// their goodbye and the functions of OnPublish have returned, or ctx is done.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true // and so there will be no others
	h.mu.Unlock()
	for _, s := range h.Streams() {
		p, _ := s.publication() // as the hub is closed, its last
		p.End(EndShutdown)
		h.expire(s, p)
	}
	done := make(chan struct{})
	go func() { h.tasks.Wait(); close(done) }() // ends with the last task
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// counters are what a hub counts; see Stats.
type counters struct {
	Publishers, Players, PacketsIn, BytesIn, BytesOut, Writes atomic.Int64
	Jumps, JumpedFrames, JumpedBytes, Stuck, ReaderJumps      atomic.Int64
	Panics                                                    atomic.Int64
	Join                                                      [len(JoinBuckets) + 1]atomic.Int64
	JoinNanos                                                 atomic.Int64
}

// JoinBuckets are the upper bounds of Stats.Join.
var JoinBuckets = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
}

// Stats is a hub's account since it began.
type Stats struct {
	Publishers   int64 // publishers now
	Players      int64 // players now
	Streams      int64 // streams now, held ones included
	BytesIn      int64 // bytes of packets published
	PacketsIn    int64
	BytesOut     int64 // bytes written to players
	Writes       int64 // writes to players
	Jumps        int64 // jumps of slow players to a newer key frame
	JumpedFrames int64 // packets of their streams that they were past then, and video until it came back
	JumpedBytes  int64 // bytes that they did not get
	Stuck        int64 // players disconnected because they took nothing
	ReaderJumps  int64 // jumps of packet readers
	Panics       int64 // that ended a player, a feed with its players or a function of OnPublish
	Gather       time.Duration
	// Join counts players by the time from Play to the last byte of their first
	// frame, cumulated: Join[i] took JoinBuckets[i] or less; the last is all.
	Join    [len(JoinBuckets) + 1]int64
	JoinSum time.Duration
}

// Stats returns the hub's account.
func (h *Hub) Stats() Stats {
	c := &h.stats
	h.mu.Lock()
	n := len(h.streams)
	h.mu.Unlock()
	st := Stats{
		Publishers: c.Publishers.Load(), Players: c.Players.Load(), Streams: int64(n), BytesIn: c.BytesIn.Load(),
		PacketsIn: c.PacketsIn.Load(), BytesOut: c.BytesOut.Load(), Writes: c.Writes.Load(), Jumps: c.Jumps.Load(),
		JumpedFrames: c.JumpedFrames.Load(), JumpedBytes: c.JumpedBytes.Load(), Stuck: c.Stuck.Load(), ReaderJumps: c.ReaderJumps.Load(),
		Panics: c.Panics.Load(),
		Gather: h.gather.now(time.Now()), JoinSum: time.Duration(c.JoinNanos.Load()),
	}
	sum := int64(0)
	for i := range st.Join {
		sum += c.Join[i].Load()
		st.Join[i] = sum
	}
	return st
}

// fault counts and logs a panic that somebody has recovered from.
func (h *Hub) fault(s *Stream, of string, v any) {
	h.stats.Panics.Add(1)
	h.opt.Log.Error("panic", "stream", s.key.String(), "of", of, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// rescue is deferred around what a feature does for a stream: it makes a panic
// the end of that only.
func (h *Hub) rescue(s *Stream) {
	if v := recover(); v != nil {
		h.fault(s, "feature", v)
	}
}

// joined counts a player's join time.
func (c *counters) joined(d time.Duration) {
	i := 0
	for i < len(JoinBuckets) && d > JoinBuckets[i] {
		i++
	}
	c.Join[i].Add(1)
	c.JoinNanos.Add(int64(d))
}
