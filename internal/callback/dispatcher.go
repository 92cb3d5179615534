package callback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
)

// Options are a Dispatcher's settings; the zero value is good.
type Options struct {
	Log      *slog.Logger
	Node     string // the name of this node, unique in a cluster
	Replicas int    // of what is kept; default 1
	Shared   bool   // JetStream is that of others, too
	Keep     Keep

	lease time.Duration // of a node that is not heard of any more; tests make it short
}

// Dispatcher tells the owners. It is made by New and works in Run; its other
// methods may be called from any goroutine.
type Dispatcher struct {
	log    *slog.Logger
	policy func() *policy.Set
	events *eventlog.Log
	keeper *keeper
	lease  *bus.Lease
	tells  atomic.Bool // this node has the lease

	// Refused pushes, of which clients can cause as many as they like, are in a
	// log of their own and delay nothing else.
	facts, crowd *queue

	replaying sync.Mutex // held by who tells dead letters again
}

// New returns a Dispatcher that reads l and keeps what it must in JetStream. Set
// is asked at each call how the receivers of a space are called.
func New(js jetstream.JetStream, l *eventlog.Log, set func() *policy.Set, o Options) *Dispatcher {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	k := newKeeper(js, o.Replicas, o.Keep, o.Log)
	k.shared = o.Shared
	l.Beside(attemptStream, func(f *eventlog.Filter) string { return subjectFor(f.Space, f.App, f.Stream) })
	return &Dispatcher{
		log: o.Log, policy: set, events: l, keeper: k,
		facts: newQueue(newLogSource(l, false), k.part(""), k, set, o.Log),
		crowd: newQueue(newLogSource(l, true), k.part("crowd-"), k, set, o.Log),
		lease: bus.NewLease(js, bus.LeaseOptions{Log: o.Log, Name: "callbacks", Node: o.Node, Replicas: o.Replicas, Time: o.lease}),
	}
}

// Open makes what is kept in JetStream. Run does so, too; without either there
// are no attempts and no dead letters to be asked for.
func (d *Dispatcher) Open(ctx context.Context) error { return d.keeper.open(ctx) }

// Run tells until ctx ends, and then gives what is under way two seconds. While
// JetStream is away it waits. In a cluster it waits while another node tells.
func (d *Dispatcher) Run(ctx context.Context) { d.lease.Run(ctx, d.run) }

// run tells until ctx ends; calls under way go on until held does. It is called
// on one node at a time.
func (d *Dispatcher) run(ctx, held context.Context) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	for ctx.Err() == nil {
		err := d.keeper.open(ctx)
		if err == nil {
			err = d.keeper.own(ctx, end)
		}
		if err == nil {
			break
		}
		d.log.Warn("callbacks wait", "err", err)
		pause(ctx, time.Second)
	}
	answers, err := d.answer(ctx)
	if err != nil {
		d.log.Warn("other nodes cannot ask for the receivers of callbacks", "err", err)
	} else {
		defer answers.Unsubscribe()
	}
	d.tells.Store(true)
	defer d.tells.Store(false)
	var wg sync.WaitGroup
	for _, q := range []*queue{d.facts, d.crowd} {
		wg.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				if err := q.run(ctx, held); err != nil && ctx.Err() == nil {
					d.log.Warn("callbacks wait", "err", err)
					pause(ctx, time.Second)
				}
			}
		})
	}
	wg.Wait()
	d.keeper.flush()
}

// askSubject is that of questions for receivers, which the node that tells
// answers.
const askSubject = "callbacks.receivers"

// answer answers the questions of other nodes until the subscription ends.
func (d *Dispatcher) answer(ctx context.Context) (*nats.Subscription, error) {
	return d.keeper.conn.Subscribe(askSubject, func(m *nats.Msg) {
		list, err := d.known(ctx, string(m.Data))
		if err == nil {
			err = m.Respond(marshal(list))
		}
		if err != nil {
			d.log.Debug("a question for the receivers of callbacks has no answer", "err", err)
		}
	})
}

// ask asks the node that tells for its receivers. There may be none.
func (d *Dispatcher) ask(ctx context.Context, space string) (list []Receiver, err error) {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	m, err := d.keeper.conn.RequestWithContext(ctx, askSubject, []byte(space))
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the node that tells of callbacks: %w", err)
	}
	return list, json.Unmarshal(m.Data, &list)
}

// settleTime is how long Settle waits at most.
const settleTime = 2 * time.Second

// Settle waits until what is in the event log was told or has failed once, but
// not for long: the rest is told after the next start.
func (d *Dispatcher) Settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for ctx.Err() == nil && (d.events.Health().Waiting > 0 || !d.facts.settled(ctx) || !d.crowd.settled(ctx)) {
		pause(ctx, 10*time.Millisecond)
	}
}

// Stats returns the accounts so far.
func (d *Dispatcher) Stats() Stats {
	s, c := d.facts.account(), d.crowd.account()
	s.add(&c)
	return s
}

// Receiver is whom something is told, and how he is.
type Receiver struct {
	ID    string // names it in the API
	Space string
	URL   string // without its query; of a group its first one

	// State is "idle" where nothing is known of it, "ok", "behind" where it is
	// slower than facts come, "failing" where it fails for everybody, or "partly
	// failing" where it does so for some streams.
	State string
	Health

	Waiting int       // facts, at most; of streams that wait, each counts one
	Oldest  time.Time // of them; zero: none waits
	Streams int       // that wait because a fact of theirs could not be told
	Calls   int       // under way
}

// Receivers returns those of a space, or all: who was told something, and whom
// the policy names.
func (d *Dispatcher) Receivers(ctx context.Context, space string) ([]Receiver, error) {
	know := d.known
	if !d.tells.Load() {
		know = d.ask
	}
	told, err := know(ctx, space)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*Receiver)
	for i := range told {
		byID[told[i].ID] = &told[i]
	}
	for _, sp := range d.policy().Spaces {
		if space != "" && sp.Name != space {
			continue
		}
		for _, group := range named(&sp) {
			id := ReceiverID(sp.Name, group)
			if byID[id] == nil {
				byID[id] = &Receiver{ID: id, Space: sp.Name, URL: bare(group), State: "idle"}
			}
		}
	}
	return sorted(byID), nil
}

// known returns the receivers that were told something by this node.
func (d *Dispatcher) known(ctx context.Context, space string) ([]Receiver, error) {
	byID := make(map[string]*Receiver)
	for _, q := range []*queue{d.facts, d.crowd} {
		list, err := q.all(ctx, space)
		if err != nil {
			return nil, err
		}
		for i := range list {
			r := &list[i]
			if old := byID[r.ID]; old != nil {
				old.merge(r)
			} else {
				byID[r.ID] = r
			}
		}
	}
	return sorted(byID), nil
}

func sorted(byID map[string]*Receiver) []Receiver {
	list := make([]Receiver, 0, len(byID))
	for _, r := range byID {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Receiver) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.URL, b.URL), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// named returns the receivers that the policy of a space names.
func named(sp *policy.Space) (groups []string) {
	add := func(cb *event.Callback) {
		if cb != nil {
			groups = append(groups, groupOf(cb))
		}
	}
	both := func(app *policy.App) {
		start, end := OfPush(sp, app)
		add(start)
		add(end)
		add(OfRefusal(sp, app))
	}
	both(nil)
	for i := range sp.Apps {
		a := &sp.Apps[i]
		both(a)
		for _, f := range []policy.RecordFormat{a.Record.HLS, a.Record.MP4, a.Record.FLV} {
			add(OfFile(f.Callback, false))
		}
		add(OfFile(a.Snapshot.Callback, false))
	}
	return groups
}

func (r *Receiver) merge(o *Receiver) {
	rank := []string{"idle", "ok", "behind", "partly failing", "failing"}
	if slices.Index(rank, o.State) > slices.Index(rank, r.State) {
		r.State = o.State
	}
	if o.LastSuccess.After(r.LastSuccess) {
		r.LastSuccess = o.LastSuccess
	}
	if o.LastFailure.After(r.LastFailure) {
		r.LastFailure, r.Reason = o.LastFailure, o.Reason
	}
	if r.Since.IsZero() {
		r.Since = o.Since
	}
	if r.Oldest.IsZero() || !o.Oldest.IsZero() && o.Oldest.Before(r.Oldest) {
		r.Oldest = o.Oldest
	}
	r.Delivered += o.Delivered
	r.Failed += o.Failed
	r.Dead += o.Dead
	r.Waiting += o.Waiting
	r.Streams += o.Streams
	r.Calls += o.Calls
}

// Attempts returns entries of the delivery log, the oldest first.
func (d *Dispatcher) Attempts(ctx context.Context, q Attempts) ([]Attempt, error) {
	return d.keeper.attemptsOf(ctx, q)
}

// DeadLetters returns dead letters from a number on, the oldest first: of one
// receiver, of one space, or all.
func (d *Dispatcher) DeadLetters(ctx context.Context, space, receiver string, from uint64, most int) ([]DeadLetter, error) {
	return d.keeper.deadLetters(ctx, space, receiver, from, most)
}

// DeadLetter returns the one of that number, or ErrNoLetter.
func (d *Dispatcher) DeadLetter(ctx context.Context, number uint64) (*DeadLetter, error) {
	return d.keeper.deadLetter(ctx, number)
}

// Forget deletes a dead letter.
func (d *Dispatcher) Forget(ctx context.Context, number uint64) error {
	return d.keeper.forget(ctx, number)
}

// Result is how a call made by hand went.
type Result struct {
	OK       bool
	Status   int
	Latency  time.Duration
	Error    string
	Response string // its first 512 bytes
}

func resultOf(o *outcome) Result { return Result{o.ok, o.status, o.latency, o.err, o.response} }

// replayBy tells a dead letter once more, with the id and body that it always
// had. When that succeeds it is a dead letter no more.
func (d *Dispatcher) replayBy(ctx context.Context, c *caller, l *DeadLetter) (Result, error) {
	at := time.Now()
	o := c.do(ctx, l.call())
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	l.Attempts++
	end := "dead"
	if o.ok {
		end = "delivered"
	}
	d.keeper.attempted(l.attempt(at, &o, end, time.Time{}))
	if o.ok {
		return resultOf(&o), d.keeper.forget(ctx, l.Number)
	}
	return resultOf(&o), nil
}

// Replayed sums up a replay of many.
type Replayed struct {
	// Skipped are left: behind one of the same stream that failed, or because
	// their receiver has failed tripAfter times with no success between.
	Told, Failed, Skipped int
	Last                  uint64
	Error                 string // of the last one that failed
}

// ErrReplaying is the error of a replay of many while another is under way.
var ErrReplaying = errors.New("another replay is under way")

// replay is a replay of many under way.
type replay struct {
	*Dispatcher
	callers   map[string]*caller // by space
	receivers map[receiverKey]*replayReceiver

	mu     sync.Mutex
	sum    Replayed
	failed map[replayLane]bool
}

type replayReceiver struct {
	slots    chan struct{} // as many as calls may be under way
	failures int           // with no success since
}

type replayLane struct {
	receiverKey
	laneKey
}

// ReplayAll tells dead letters again, in the order in which they died: those of
// a receiver, a space, or all, from one number to another (0: to the end). Of a
// stream one of whose letters fails the others are left, and so are those of a
// receiver that only fails. With an error it says how far it came.
func (d *Dispatcher) ReplayAll(ctx context.Context, space, receiver string, from, to uint64) (Replayed, error) {
	if !d.replaying.TryLock() {
		return Replayed{}, ErrReplaying
	}
	defer d.replaying.Unlock()
	r := &replay{Dispatcher: d, callers: make(map[string]*caller), receivers: make(map[receiverKey]*replayReceiver), failed: make(map[replayLane]bool)}
	defer func() {
		for _, c := range r.callers {
			c.close()
		}
	}()
	for to == 0 || from <= to {
		list, err := d.keeper.deadLetters(ctx, space, receiver, from, batch)
		if err != nil || len(list) == 0 {
			return r.sum, err
		}
		lanes := make(map[replayLane][]*DeadLetter)
		for i := range list {
			l := &list[i]
			from = l.Number + 1
			if to > 0 && l.Number > to {
				break
			}
			r.sum.Last = l.Number
			k := replayLane{receiverKey{l.Space, l.Group}, laneKey{l.App, l.Stream}}
			lanes[k] = append(lanes[k], l)
		}
		g, ctx := errgroup.WithContext(ctx)
		for k, letters := range lanes {
			c := r.callers[k.space]
			if c == nil {
				c = newCaller(d.policy().Space(k.space).Deliver(), d.facts.dial, d.facts.roots)
				r.callers[k.space] = c
			}
			rc := r.receivers[k.receiverKey]
			if rc == nil {
				rc = &replayReceiver{slots: make(chan struct{}, min(c.delivery.Concurrency, openCalls*4))}
				r.receivers[k.receiverKey] = rc
			}
			g.Go(func() error { return r.tell(ctx, c, rc, k, letters) })
		}
		if err := g.Wait(); err != nil {
			return r.sum, err
		}
	}
	return r.sum, nil
}

// tell tells the letters of one lane.
func (r *replay) tell(ctx context.Context, c *caller, rc *replayReceiver, k replayLane, letters []*DeadLetter) error {
	select {
	case rc.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-rc.slots }()
	for _, l := range letters {
		r.mu.Lock()
		left := r.failed[k] || rc.failures >= tripAfter
		if left {
			r.sum.Skipped++
		}
		r.mu.Unlock()
		if left {
			continue
		}
		result, err := r.replayBy(ctx, c, l)
		if err != nil {
			return err
		}
		r.mu.Lock()
		if result.OK {
			r.sum.Told++
			rc.failures = 0
		} else {
			r.sum.Failed++
			r.sum.Error = result.Error
			r.failed[k] = true
			if rc.failures++; rc.failures >= tripAfter {
				r.sum.Error = fmt.Sprintf("%s; %s has failed %d times in a row, and what else is for it was left", result.Error, bare(k.group), rc.failures)
			}
		}
		r.mu.Unlock()
	}
	return nil
}

// ErrNoReceiver is the error of asking for a call that the policy does not ask
// for.
var ErrNoReceiver = errors.New("the policy names no receiver of that")

// Samples are what Test can tell.
var Samples = []string{"start", "end", "refused", "alert", "record_hls", "record_mp4", "record_flv", "snapshot"}

// Test calls the receiver that the policy names for something that happens to a
// stream of an app of sp, with a body that is like a real one, once. It is to
// see that he answers, and what he makes of it. The error is ErrNoReceiver when
// there is none.
func (d *Dispatcher) Test(ctx context.Context, sp *policy.Space, app *policy.App, sample string) (r Result, url string, text []byte, err error) {
	e := sampleOf(sp, app, sample)
	cb := callbackOf(&e)
	if cb == nil {
		return Result{}, "", nil, ErrNoReceiver
	}
	b, err := render(&e, cb, e.Sequence)
	if err != nil {
		return Result{}, "", nil, err
	}
	c := newCaller(sp.Deliver(), d.facts.dial, d.facts.roots)
	defer c.close()
	o := c.do(ctx, &call{e.ID, e.Type, cb.Format, cb.URL, b, 1, ""})
	return resultOf(&o), bare(cb.URL), b.text, nil
}

// sampleOf returns a fact as there could be one.
func sampleOf(sp *policy.Space, app *policy.App, sample string) event.Event {
	now := time.Now()
	began := now.Add(-time.Minute)
	c := event.Client{
		Domain: "push.example.com", Protocol: "rtmp", Addr: netip.MustParseAddrPort("192.0.2.1:17102"), NodeAddr: netip.MustParseAddr("192.0.2.2"),
		Params: []event.Param{{Name: "k", Value: "1"}, {Name: "t", Value: "2"}}, TcURL: "rtmp://push.example.com/" + app.Name,
	}
	start, end := OfPush(sp, app)
	file := func(f *policy.RecordFormat, format string) event.Data {
		key := fmt.Sprintf("record/%s/weir-test/%s/weir-test-%d-%d", app.Name, format, began.Unix(), now.Unix())
		return event.RecordFinished{
			Recording: event.Recording{
				Task: event.NewSequence(), Format: format, Bucket: "test", Key: key + map[string]string{"hls": ".m3u8"}[format] + map[bool]string{true: "." + format}[format != "hls"],
				Start: began, End: now, Domain: c.Domain, Callback: OfFile(f.Callback, f.Version == policy.RecordNew),
			},
			Duration: time.Minute, Size: 1 << 20,
		}
	}
	var data event.Data
	switch sample {
	case "start":
		data = event.PublishStarted{Client: c, Session: "test", Callback: start, Ended: end}
	case "end":
		data = event.PublishEnded{Client: c, Session: "test", Started: began, Reason: event.ReasonClosed, Callback: end}
	case "refused":
		data = event.PublishRefused{Client: c, Reason: "auth_failed", Code: 5, Message: "Accesskey Or Signature Not Match", Callback: OfRefusal(sp, app)}
	case "alert":
		data = event.AlertRaised{Alert: "test", Text: "somebody wanted to see an alert", Callback: OfAlert(sp, app)}
	case "record_hls":
		data = file(&app.Record.HLS, "hls")
	case "record_mp4":
		data = file(&app.Record.MP4, "mp4")
	case "record_flv":
		data = file(&app.Record.FLV, "flv")
	case "snapshot":
		data = event.SnapshotTaken{
			Snapshot: event.Snapshot{Task: event.NewSequence(), Domain: c.Domain, Bucket: "test", Key: "record/" + app.Name + "/weir-test/picture/weir-test.jpg",
				Captured: now, SrcWidth: 1280, SrcHeight: 720, Callback: OfFile(app.Snapshot.Callback, app.Snapshot.Version == policy.SnapshotNew)},
			Width: 1280, Height: 720, Size: 90000,
		}
	default:
		data = event.Omitted{}
	}
	e := event.New(now, data)
	e.Space, e.App, e.Stream, e.Sequence = sp.Name, app.Name, "weir-test", event.NewSequence()
	return e
}
