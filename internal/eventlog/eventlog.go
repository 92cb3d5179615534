// Package eventlog keeps facts: what happened, durably and in order, on a
// stream of NATS JetStream.
//
// A fact goes two steps. Emit puts it behind all others, and never waits. It is
// then written to a journal on this machine, with one fsync for all that wait;
// Flush waits for that. From there it is sent to JetStream, where everybody
// reads: while JetStream is away, facts wait in the journal, and nothing else
// does. While it is the disk that takes nothing, facts go to JetStream from
// memory, and are durable when it has them. What is sent again after a failure is stored once, and in order, however
// long the pause was and whether or not the process was killed in between.
//
// The journal also knows which pushes have begun and not ended. When the
// process was killed, Open ends them: every push has one beginning and one end.
//
// Readers are cursors. Each event has a number, Seq, that goes up; whoever
// has seen n goes on at n+1. Numbers are not consecutive. A reader so slow
// that facts are too old to be kept when it wants them is told how many it has
// missed.
//
// Facts that clients can cause as they like, and those of which there is one
// for each player, are facts of crowds; see [Crowd].
package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"weir/internal/bus"
	"weir/internal/event"
)

// schema is the version of what the streams hold.
const schema = 1

// The names of the streams.
const (
	factsStream = "weir-facts"
	crowdStream = "weir-crowd"
)

// Options are a Log's settings; a zero field takes the default.
type Options struct {
	Log  *slog.Logger
	Node string // the name of this node, in its facts
	Dir  string // of the journal

	MaxAge       time.Duration // of a fact; default 30 days
	MaxBytes     int64         // of facts, and a quarter of it for those of crowds; default 10 GiB
	JournalBytes int64         // of facts that wait for JetStream, and a quarter of it for those of crowds; default 1 GiB
	Replicas     int           // of the streams; default 1

	SegmentBytes int64         // of one file of the journal; default 8 MiB
	Beat         time.Duration // how exactly the journal knows when the node was killed; default 5 s
	CrowdRate    float64       // publish.requested, and publish.refused, a second; more are counted in facts.omitted; default 50

	dedup time.Duration // for how long JetStream remembers IDs; tests make it short
}

func (o *Options) defaults() {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.MaxAge = cmp.Or(o.MaxAge, 30*24*time.Hour)
	o.MaxBytes = cmp.Or(o.MaxBytes, 10<<30)
	o.JournalBytes = cmp.Or(o.JournalBytes, 1<<30)
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 8<<20)
	o.Beat = cmp.Or(o.Beat, 5*time.Second)
	o.CrowdRate = cmp.Or(o.CrowdRate, 50)
	o.dedup = cmp.Or(o.dedup, dedupTime)
}

const (
	queueBytes = 32 << 20 // of facts in memory while the disk takes none
	maxFact    = 512 << 10
	omitTime   = 10 * time.Second // between two facts of how many were left out
)

// Log is the event log. Its methods may be called from any goroutine.
type Log struct {
	opt          Options
	log          *slog.Logger
	js           jetstream.JetStream
	facts, crowd *lane
	gather       *gatherer
	beside       atomic.Pointer[lane] // what others keep; see Beside
	before       found

	stop    context.CancelFunc // of the goroutines of tasks
	tasks   sync.WaitGroup
	limits  map[event.Type]*rate.Limiter
	emitted map[event.Type]*counter
	gaps    atomic.Int64
	telling sync.Mutex // held by who tells of what was omitted
}

// Open opens the log whose journal is in o.Dir, and ends the pushes that a
// process before it has left open. It does not wait for a JetStream that is
// away, but its error may be a *bus.Newer. The caller ends the Log with Close.
func Open(ctx context.Context, js jetstream.JetStream, o Options) (*Log, error) {
	o.defaults()
	own, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncTimeout(answerTime), jetstream.WithPublishAsyncMaxPending(4*window))
	if err != nil {
		return nil, err
	}
	l := &Log{opt: o, log: o.Log, js: own, limits: make(map[event.Type]*rate.Limiter), emitted: make(map[event.Type]*counter)}
	for _, t := range event.Types() {
		l.emitted[t] = new(counter)
	}
	l.emitted[otherTypes] = new(counter)
	for _, t := range []event.Type{event.TypePublishRequested, event.TypePublishRefused} {
		l.limits[t] = rate.NewLimiter(rate.Limit(o.CrowdRate), int(10*o.CrowdRate))
	}
	l.facts = l.lane(factsStream, factsPrefix, 1)
	l.crowd = l.lane(crowdStream, crowdPrefix, 4)
	before, err := openJournal(l.facts.journal)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	l.before = *before
	if _, err := openJournal(l.crowd.journal); err != nil {
		l.facts.file.Close()
		return nil, fmt.Errorf("event log: %w", err)
	}
	l.crowd.settled() // it holds no pushes
	l.gather = &gatherer{lane: l.crowd, batches: make(map[string]*batch)}
	for _, lane := range []*lane{l.facts, l.crowd} {
		err := lane.open(ctx)
		if newer := (*bus.Newer)(nil); errors.As(err, &newer) {
			l.facts.file.Close()
			l.crowd.file.Close()
			return nil, fmt.Errorf("event log: %w", err)
		}
		if err != nil {
			lane.missing(err)
		}
	}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	// Each of these ends with Close.
	for _, lane := range []*lane{l.facts, l.crowd} {
		go lane.run()
		l.tasks.Go(func() { lane.forward(ctx) })
	}
	l.tasks.Go(func() { l.tellOmitted(ctx) })
	l.reconcile(ctx)
	return l, nil
}

// lane returns the lane of the stream of that name, which gets one nth of what
// there is.
func (l *Log) lane(stream, prefix string, nth int64) *lane {
	o := &l.opt
	return &lane{
		journal: &journal{
			dir: filepath.Join(o.Dir, stream), log: o.Log, segmentSize: o.SegmentBytes, limit: o.JournalBytes / nth,
			queueLimit: queueBytes, beat: o.Beat,
		},
		js: l.js,
		config: jetstream.StreamConfig{
			Name: stream, Subjects: []string{prefix + ">"}, MaxAge: o.MaxAge, MaxBytes: o.MaxBytes / nth, Replicas: o.Replicas,
			Storage: jetstream.FileStorage, Compression: jetstream.S2Compression, Discard: jetstream.DiscardOld, Duplicates: o.dedup,
			AllowDirect: true,
		},
	}
}

// reconcile emits the ends of pushes that the process before has not told.
// Facts that it sent while it could not write are in JetStream only. Where there
// is none now, and may be such facts, the ends are told once it is there.
func (l *Log) reconcile(ctx context.Context) {
	if l.before.torn > 0 {
		l.log.Info("the journal's last write was cut off", "bytes", l.before.torn)
	}
	if l.before.clean && l.before.whole {
		l.endOpen(l.before.open)
		return
	}
	l.facts.mu.Lock()
	from := l.facts.marked
	l.facts.mu.Unlock()
	open, err := l.leftOpen(ctx, from)
	if err != nil && l.before.whole {
		open, err = l.before.open, nil
	}
	if err == nil {
		l.endOpen(open)
	} else {
		l.log.Warn("what became of the pushes of before is told when NATS is there", "err", err)
	}
	l.tasks.Go(func() { // ends when the ends are durable, or with Close
		for pause := time.Second; err != nil; pause = min(2*pause, time.Minute) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			if open, err = l.leftOpen(ctx, from); err == nil {
				l.endOpen(open)
			}
		}
		if l.Flush(ctx) == nil {
			l.facts.settled()
		}
	})
}

// leftOpen returns the pushes that the process before left open, by what the
// journal says and what JetStream has got since the mark from.
func (l *Log) leftOpen(ctx context.Context, from mark) (map[string]event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if l.facts.ready.Load() == nil {
		return nil, errAway
	}
	info, err := l.facts.info(ctx)
	if err != nil {
		return nil, err
	}
	first := from.Seq + 1
	if !from.Stream.Equal(info.Created) {
		first = 1
	}
	open := maps.Clone(l.before.open)
	types := []event.Type{event.TypePublishStarted, event.TypePublishEnded}
	r := l.Range(ctx, Filter{Types: types}, first<<seqBits, info.State.LastSeq<<seqBits|lastOfMessage)
	defer r.Close()
	for {
		e, err := r.Next(ctx)
		if err == io.EOF {
			return open, nil
		}
		if err != nil {
			return nil, err
		}
		switch seq := e.Event.Sequence; {
		case e.Event.Node != l.opt.Node:
		case e.Event.Type == event.TypePublishEnded:
			delete(open, seq)
		case !l.before.ended[seq]:
			open[seq] = e.Event
		}
	}
}

// lookTime is how long a start waits for what JetStream has got lately.
const lookTime = 10 * time.Second

// endOpen emits the ends of pushes.
func (l *Log) endOpen(open map[string]event.Event) {
	for _, seq := range slices.Sorted(maps.Keys(open)) {
		e := open[seq]
		start, ok := e.Data.(event.PublishStarted)
		if !ok {
			continue
		}
		at := l.before.alive
		if at.Before(e.Time) {
			at = e.Time
		}
		end := event.New(at, event.PublishEnded{
			Client: start.Client, Session: start.Session, Started: e.Time, Reason: event.ReasonNodeDied, Callback: start.Ended,
		})
		end.Node, end.Space, end.App, end.Stream, end.Sequence = e.Node, e.Space, e.App, e.Stream, e.Sequence
		l.Emit(end)
	}
	if n := len(open); n > 0 {
		l.log.Warn("the process before was killed; its pushes have ended", "pushes", n, "at", l.before.alive)
	}
}

// Before says how the process before this one ended: in order, or with how many
// pushes that it had no time to end. Of the first one, clean is true.
func (l *Log) Before() (clean bool, pushes int) { return l.before.clean, len(l.before.open) }

// Recovered reports whether JetStream has all that the processes before this one
// have left in the journal, facts of crowds aside.
func (l *Log) Recovered() bool {
	l.facts.mu.Lock()
	defer l.facts.mu.Unlock()
	return l.facts.segs[0].number >= l.facts.own
}

// Emit puts a fact into the log. It never waits. The order of calls is the
// order in the log. A fact without a Node is one of this node.
//
// Of facts of crowds some may be left out, which are counted. Others are only
// when the journal, and the memory before it, are full. The end of a push is
// left out when its beginning was, and only then while there is room for it.
func (l *Log) Emit(e event.Event) {
	if limit := l.limits[e.Type]; limit != nil && !limit.Allow() {
		l.counter(e.Type).omitted.Add(1)
		return
	}
	l.emit(e)
}

// emit reports whether there was room.
func (l *Log) emit(e event.Event) bool {
	e.Node = cmp.Or(e.Node, l.opt.Node)
	c := l.counter(e.Type)
	data, err := e.MarshalJSON()
	if err != nil || len(data) > maxFact {
		l.log.Error("a fact cannot be kept", "type", e.Type, "bytes", len(data), "err", err)
		c.omitted.Add(1)
		if e.Type == event.TypePublishStarted {
			l.facts.mu.Lock()
			defer l.facts.mu.Unlock()
			l.facts.refuse(e.Sequence)
		}
		return false
	}
	subject := subjectOf(&e)
	if Crowd(e.Type) {
		l.gather.add(subject, data, c)
		return true
	}
	r := record{subject: subject, data: data, at: time.Now()}
	switch e.Type {
	case event.TypePublishStarted:
		r.begins = e.Sequence
	case event.TypePublishEnded:
		r.ends = e.Sequence
	}
	if !l.facts.append(r) {
		c.omitted.Add(1)
		return false
	}
	c.emitted.Add(1)
	return true
}

// Flush waits until all facts emitted before, but those of crowds, are durable.
// An error means that they are not yet; they still will be, if they can.
func (l *Log) Flush(ctx context.Context) error { return l.facts.flush(ctx) }

// FlushPush is Flush for who has begun the push that sequence names: if there
// was no room for that fact it returns ErrFull at once.
func (l *Log) FlushPush(ctx context.Context, sequence string) error {
	if l.facts.hasRefused(sequence) {
		return ErrFull
	}
	return l.facts.flush(ctx)
}

// ErrFull is the error of waiting for a fact for which there was no room: it
// will not be in the log.
var ErrFull = errors.New("there is no room for facts")

// Close writes what is left to disk and ends the Log. Until ctx is done, and
// while JetStream is there, it also waits until that has it; what it does not
// get now it gets the next time.
// No fact may be emitted any more.
func (l *Log) Close(ctx context.Context) error {
	l.omit()
	l.gather.flush()
	err := errors.Join(l.facts.drain(ctx), l.crowd.drain(ctx))
	l.stop()
	l.tasks.Wait()
	l.facts.close()
	l.crowd.close()
	return err
}

// drain waits until JetStream has all of the journal. It does not wait for a
// JetStream that is away.
func (l *lane) drain(ctx context.Context) error {
	look := time.NewTicker(drainTime)
	defer look.Stop()
	for {
		l.mu.Lock()
		waiting, changed := l.waiting(), l.changed
		l.mu.Unlock()
		if waiting == 0 {
			return nil
		}
		if away := l.away.Load(); away != nil && time.Since(away.since) > graceTime {
			return fmt.Errorf("%d facts still wait for stream %s: %w", waiting, l.config.Name, away.err)
		}
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("%d facts still wait for stream %s: %w", waiting, l.config.Name, ctx.Err())
		}
	}
}

// drainTime is how often drain looks whether JetStream is away.
const drainTime = 100 * time.Millisecond
