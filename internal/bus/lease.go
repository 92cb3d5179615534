package bus

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// LeaseOptions are a Lease's settings; a zero field takes the default.
type LeaseOptions struct {
	Log      *slog.Logger
	Name     string // what it is the right to
	Node     string // who wants it, unique in a cluster
	Replicas int    // how many nodes keep it; default 1

	// Time is for how long nobody else may have it after the node that has it
	// was last heard of; default 10 s. All nodes have the same.
	Time time.Duration
}

// Lease is the right to do something that only one node of a cluster does at a
// time. It is a record that goes by itself when its holder does not renew it.
//
// The holder stops some time before the record goes, by its own clock, so that
// two never believe to have the right at once while their clocks run at about
// the same speed and neither process is halted. What must hold even then needs a
// condition where it is written; see [jetstream.WithExpectLastSequenceForSubject].
type Lease struct {
	js     jetstream.JetStream
	opt    LeaseOptions
	holder holder
	kv     jetstream.KeyValue // nil until it was reached
	looked bool               // at who has it
}

// holder is the record of who has a lease.
type holder struct {
	Node    string `json:"node"`
	Process string `json:"process"` // another one after each start
}

const leaseSchema = 1

// NewLease returns a Lease that this node does not have yet.
func NewLease(js jetstream.JetStream, o LeaseOptions) *Lease {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Time = cmp.Or(o.Time, 10*time.Second)
	return &Lease{js: js, opt: o, holder: holder{o.Node, rand.Text()}}
}

// Run calls work whenever this node has got the lease, until ctx ends. The first
// context of work ends when work is to end, because ctx has or the lease is lost;
// the second one, held, only when it is lost: from then on another node may do
// the work. Run waits for work to return, and then gives the lease back.
func (l *Lease) Run(ctx context.Context, work func(ctx, held context.Context)) {
	log := l.opt.Log.With("lease", l.opt.Name)
	var told string
	for ctx.Err() == nil {
		revision, until, who, err := l.take(ctx)
		switch {
		case err == nil:
			log.Debug("this node has the lease")
			told = ""
			l.hold(ctx, revision, until, work)
			continue
		case ctx.Err() != nil:
			return
		case errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch): // somebody was faster
		case who == nil && told != err.Error():
			log.Warn("who has a lease cannot be asked", "err", err)
			told = err.Error()
		case who != nil && told != who.Node:
			log.Info("another node has the lease", "node", who.Node)
			told = who.Node
		}
		timer := time.NewTimer(l.opt.Time / 10)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// errHeld is that somebody else has the lease.
var errHeld = errors.New("another node has the lease")

// take makes this node the holder, if nobody is. It returns until when it is.
func (l *Lease) take(ctx context.Context) (revision uint64, until time.Time, who *holder, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if l.kv == nil {
		l.kv, err = KV(ctx, l.js, jetstream.KeyValueConfig{
			Bucket: "weir_lease_" + l.opt.Name, Description: "which node it is that does this", History: 1, TTL: l.opt.Time,
			Replicas: max(1, l.opt.Replicas),
		}, leaseSchema, nil)
		if err != nil {
			return 0, until, nil, err
		}
	}
	begin := time.Now()
	found, revision, err := l.read(ctx)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = l.kv.Create(ctx, l.opt.Name, l.record())
	case err != nil:
		return 0, until, nil, l.away(err)
	case found == l.holder || found.Node == l.opt.Node && !l.looked:
		// The process of this node that had it is over. (If there is another of the
		// same name all the same, each of them takes it from the other only once.)
		revision, err = l.kv.Update(ctx, l.opt.Name, l.record(), revision)
	default:
		l.looked = true
		return 0, until, &found, errHeld
	}
	l.looked = true
	if err != nil {
		return 0, until, nil, l.away(err)
	}
	return revision, l.until(begin), nil, nil
}

// read returns who has the lease.
func (l *Lease) read(ctx context.Context) (h holder, revision uint64, err error) {
	e, err := l.kv.Get(ctx, l.opt.Name)
	if err != nil {
		return h, 0, err
	}
	if err := json.Unmarshal(e.Value(), &h); err != nil {
		return h, 0, fmt.Errorf("the record of a lease cannot be read: %w", err)
	}
	return h, e.Revision(), nil
}

func (l *Lease) record() []byte {
	b, err := json.Marshal(l.holder)
	if err != nil {
		panic(err) // it is two texts
	}
	return b
}

// away looks after an error: a bucket that was lost is made again.
func (l *Lease) away(err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) {
		l.kv = nil
	}
	return err
}

// until is when the holder stops whose record was asked to be written at that
// time.
func (l *Lease) until(asked time.Time) time.Time { return asked.Add(l.opt.Time * 4 / 5) }

// hold has work done while the lease is this node's.
func (l *Lease) hold(ctx context.Context, revision uint64, until time.Time, work func(ctx, held context.Context)) {
	held, lose := context.WithCancel(context.WithoutCancel(ctx))
	defer lose()
	run, end := context.WithCancel(held)
	defer end()
	defer context.AfterFunc(ctx, end)()
	done := make(chan struct{})
	go func() { // ends with work
		defer close(done)
		work(run, held)
	}()
	expire := time.AfterFunc(time.Until(until), lose)
	defer expire.Stop()
	renew := time.NewTicker(l.opt.Time / 5)
	defer renew.Stop()
	for {
		select {
		case <-done:
			if held.Err() == nil {
				l.release(held, revision)
			}
			return
		case <-held.Done():
			l.opt.Log.Warn("this node has lost a lease", "lease", l.opt.Name)
			<-done
			return
		case <-renew.C:
			begin := time.Now()
			r, err := l.renew(held, revision)
			if errors.Is(err, errHeld) {
				lose()
			} else if err == nil {
				revision = r
				expire.Reset(time.Until(l.until(begin)))
			} // otherwise there is time to try again
		}
	}
}

// renew writes the record again, if it is still there.
func (l *Lease) renew(ctx context.Context, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opt.Time/5)
	defer cancel()
	r, err := l.kv.Update(ctx, l.opt.Name, l.record(), revision)
	if err == nil {
		return r, nil
	}
	// It may have been written the last time, and the answer was lost.
	found, r, err := l.read(ctx)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return 0, errHeld // or somebody will
	case err != nil:
		return 0, err
	case found != l.holder:
		return 0, errHeld
	}
	return l.kv.Update(ctx, l.opt.Name, l.record(), r)
}

// release gives the lease back, so that others need not wait for its end.
func (l *Lease) release(ctx context.Context, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.kv.Delete(ctx, l.opt.Name, jetstream.LastRevision(revision)); err != nil {
		l.opt.Log.Debug("a lease ends later", "lease", l.opt.Name, "err", err)
	}
}
