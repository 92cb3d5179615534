package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
)

// A change of a document is told by who has made it, once the store has it. A
// process that is killed between the two tells nothing. So each node looks which
// versions of the store are in the event log, and a bucket says up to which of
// them all are. One that is missing is told by the next process of the node that
// has written it, or by another node when that one stays away.

const (
	toldBucket = "weir_policy_told"
	toldSchema = 1
	toldKey    = "version" // up to which every version is in the event log
	toldClaim  = "claim."  // and a version: which node tells it in place of another

	tellTime = 5 * time.Second // between looks

	// absentTime is how long other nodes leave a version to the one that has
	// written it.
	absentTime = 10 * time.Minute
)

// changedFact returns the fact of a version of a document. Its ID is the same
// whoever tells it.
func changedFact(d event.PolicyChanged, at time.Time) event.Event {
	e := event.New(at, d)
	if d.Version != 0 {
		e.ID = event.IDOf(fmt.Sprintf("%s %d %d", d.Document, d.Version, at.UnixMilli()))
	}
	if space, ok := strings.CutPrefix(d.Document, "space/"); ok {
		e.Space = space
	}
	return e
}

// emit emits the fact of a version that this process tells.
func (p *Policy) emit(e event.Event) {
	if p.o.Facts != nil {
		p.mu.Lock()
		p.mine[e.Data.(event.PolicyChanged).Version] = true
		p.mu.Unlock()
	}
	p.o.Changed(e)
}

// tellMissing tells what was not told, until ctx ends.
func (p *Policy) tellMissing(ctx context.Context) {
	if p.o.Facts == nil || p.o.FileRules {
		return
	}
	tick := time.NewTicker(p.o.tellTime)
	defer tick.Stop()
	failed := false
	for {
		err := p.tellRest(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			p.log.Warn("whether all changes of the policy are in the event log is not known", "err", err)
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Policy) openTold(ctx context.Context) (jetstream.KeyValue, error) {
	return bus.KV(ctx, p.js, jetstream.KeyValueConfig{
		Bucket: toldBucket, Description: "which changes of the policy are in the event log", History: 1,
		Replicas: p.o.Replicas, LimitMarkerTTL: time.Hour,
	}, toldSchema, nil)
}

// beginTelling says that nothing of a new store is told.
func (p *Policy) beginTelling(ctx context.Context) error {
	if p.o.Facts == nil {
		return nil
	}
	kv, err := p.openTold(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err = kv.Put(ctx, toldKey, []byte("0"))
	return err
}

// tellRest looks for versions that are not in the event log, and tells those
// that this process is to tell.
func (p *Policy) tellRest(ctx context.Context) error {
	p.telling.Lock()
	defer p.telling.Unlock()
	seen := p.version()
	if p.toldTo != nil && *p.toldTo >= seen {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	kv, err := p.openTold(ctx)
	if err != nil {
		return err
	}
	to, revision, err := toldUpTo(ctx, kv, seen)
	if err != nil {
		return err
	}
	p.knowTold(to)
	if to >= seen {
		return nil
	}
	recovered := p.o.Facts.Recovered() // before the log is read
	list, err := p.versionsAfter(ctx, to)
	if err != nil {
		return err
	}
	known := map[event.PolicyChanged]bool{}
	if len(list) > 0 {
		if known, err = p.toldSince(ctx, list[0].stored.Add(-time.Minute)); err != nil {
			return err
		}
	}
	p.writing.Lock() // what this process has written, it has told now
	p.mu.Lock()
	mine := make(map[uint64]bool)
	for _, w := range list {
		mine[w.fact.Version] = p.mine[w.fact.Version]
	}
	p.mu.Unlock()
	p.writing.Unlock()
	before, all := to, true
	for _, w := range list {
		seen = max(seen, w.fact.Version)
		switch {
		case known[event.PolicyChanged{Document: w.fact.Document, Version: w.fact.Version}]:
			if all {
				to = w.fact.Version
			}
			continue
		case mine[w.fact.Version]: // it is on its way
		case w.node == p.o.Node && !recovered: // it may be in the journal
		case w.node != p.o.Node && !p.claim(ctx, kv, &w):
		default:
			p.log.Warn("a change of the policy was not in the event log", "document", w.fact.Document, "version", w.fact.Version, "node", w.node)
			p.emit(changedFact(w.fact, w.at))
		}
		all = false
	}
	if all {
		to = seen
	}
	if to == before {
		return nil
	}
	_, err = kv.Update(ctx, toldKey, []byte(strconv.FormatUint(to, 10)), revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) { // another node has said so
		p.toldTo = nil
		return nil
	}
	if err == nil {
		p.knowTold(to)
	}
	return err
}

// knowTold notes that the store says that all are told up to a version.
func (p *Policy) knowTold(to uint64) {
	p.toldTo = &to
	p.mu.Lock()
	defer p.mu.Unlock()
	for v := range p.mine {
		if v <= to {
			delete(p.mine, v)
		}
	}
}

// toldUpTo returns the version up to which all are told. Where nobody has ever
// said so, they are up to seen: a Weir that did not know of this has made them.
func toldUpTo(ctx context.Context, kv jetstream.KeyValue, seen uint64) (to, revision uint64, err error) {
	e, err := kv.Get(ctx, toldKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		revision, err = kv.Create(ctx, toldKey, []byte(strconv.FormatUint(seen, 10)))
		return seen, revision, err
	}
	if err != nil {
		return 0, 0, err
	}
	to, err = strconv.ParseUint(string(e.Value()), 10, 64)
	return to, e.Revision(), err
}

// written is a version in the store.
type written struct {
	node   string // that wrote it
	at     time.Time
	stored time.Time
	fact   event.PolicyChanged
}

// versionsAfter returns the versions that were written after one, as far as
// they are kept.
func (p *Policy) versionsAfter(ctx context.Context, after uint64) ([]written, error) {
	c, err := p.js.OrderedConsumer(ctx, policyStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	if c.CachedInfo().NumPending == 0 {
		return nil, nil
	}
	msgs, err := c.Messages()
	if err != nil {
		return nil, err
	}
	defer msgs.Stop()
	var list []written
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		var e envelope
		name, err := nameOf(strings.TrimPrefix(m.Subject(), policySubject))
		if err == nil && json.Unmarshal(m.Data(), &e) == nil { // what Weir has not written, it does not tell
			list = append(list, written{e.Node, e.At, meta.Timestamp, event.PolicyChanged{
				Document: name, Version: meta.Sequence.Stream, Before: e.Before, Deleted: e.Deleted, By: e.By, Note: e.Note,
			}})
		}
		if meta.NumPending == 0 {
			return list, nil
		}
	}
}

// toldSince returns the Document and Version of each fact of the policy that
// came into the log at t or later.
func (p *Policy) toldSince(ctx context.Context, t time.Time) (map[event.PolicyChanged]bool, error) {
	from, err := p.o.Facts.SeqAt(ctx, t)
	if err != nil {
		return nil, err
	}
	r := p.o.Facts.Range(ctx, eventlog.Filter{Types: []event.Type{event.TypePolicyChanged}}, from, p.o.Facts.Last())
	defer r.Close()
	known := make(map[event.PolicyChanged]bool)
	for {
		e, err := r.Next(ctx)
		if err == io.EOF {
			return known, nil
		}
		if err != nil {
			return nil, err
		}
		if d, ok := e.Event.Data.(event.PolicyChanged); ok {
			known[event.PolicyChanged{Document: d.Document, Version: d.Version}] = true
		}
	}
}

// claim reports whether this node tells what another one has written.
func (p *Policy) claim(ctx context.Context, kv jetstream.KeyValue, w *written) bool {
	if time.Since(w.stored) < p.o.absentTime {
		return false
	}
	_, err := kv.Create(ctx, toldClaim+strconv.FormatUint(w.fact.Version, 10), []byte(p.o.Node), jetstream.KeyTTL(p.o.absentTime.Truncate(time.Second)+time.Second))
	return err == nil
}
