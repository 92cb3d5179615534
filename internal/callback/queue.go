package callback

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
)

// Limits of what a Dispatcher has in memory.
const (
	window      = 8192    // facts of attached receivers that are not settled
	span        = 1 << 18 // facts from the first of them to the last
	ownWindow   = 512     // facts of a detached receiver
	maxParked   = 4096    // lanes of a receiver; with more it is not read on
	batch       = 64      // facts read at a time from the log, of a detached receiver
	far         = 1024    // messages that such a one is behind for them to be read in a row
	laneBatch   = 8       // the same of a parked lane, which then lets others go first
	saveEvery   = 256     // facts of a parked lane told between two writes of its record
	keepEvery   = time.Second
	watchEvery  = 10 // times keepEvery
	maxReported = 20 // failed attempts a second that become facts
)

// A receiver fails as a whole after so many failures with no success between
// them. It then is called only now and then until it answers.
const (
	tripAfter    = 5
	openCalls    = 2 // at a time
	probeFirst   = 5 * time.Second
	probeLongest = 5 * time.Minute
)

// queue tells the owners of the facts of one log. It works in run; what else
// is called from outside may be called from any goroutine.
type queue struct {
	log    *slog.Logger
	policy func() *policy.Set
	source source
	store  store
	ledger ledger

	dial  dialFunc       // for tests; nil: the network
	roots *x509.CertPool // for tests; nil: those of this machine

	work  sync.WaitGroup  // workers and followers
	calls context.Context // of calls under way; ends some time after run's, or with its right to tell
	room  chan struct{}   // capacity 1: something was settled

	storing sync.Mutex // held from when the cursor is taken until it is written: what it relies on stays; before mu
	saved   uint64     // the cursor, of the keeper alone

	mu        sync.Mutex
	ctx       context.Context // of run
	stopping  bool
	router    feed // of the attached receivers
	waiting   int  // unsettled slots of router
	receivers map[receiverKey]*receiver
	reports   int // failed attempts that became facts in this second
	omitted   int64
	stats     Stats
	kept      kept // as the log was when it was looked
	looked    time.Time
}

type receiverKey struct{ space, group string }

// receiver is whom something is told: the URL, or the group of URLs, of a space.
type receiver struct {
	receiverKey
	d *queue

	caller  *caller
	version *policy.Delivery // that caller was made of

	lanes  map[laneKey]*lane
	ready  []*lane // that have something to tell now, first come first served
	calls  int     // under way
	held   int     // facts in lanes that a feed has brought
	parked int     // lanes

	failures int // with no success since
	open     bool
	probe    time.Duration // until the next one
	tried    time.Time     // last attempt
	notNow   time.Time     // until then the receiver has asked not to be called, while open

	own    *feed               // of its own, while it is detached
	skip   map[uint64]struct{} // places in own that are settled already or under way
	from   uint64              // attached: places before were read while it was detached
	stored bool                // there is a record of it
	kept   uint64              // own's cursor in that record
	wake   chan struct{}       // capacity 1: own may go on
	record sync.Mutex          // held while its record is written or deleted

	health Health
	risk   risk // that the log does not keep its facts long enough
}

// newQueue returns a queue. Set is asked at each call how the receivers of a
// space are called.
func newQueue(s source, st store, l ledger, set func() *policy.Set, log *slog.Logger) *queue {
	log = cmp.Or(log, slog.New(slog.DiscardHandler))
	return &queue{
		log: log, policy: set, source: s, store: st, ledger: l,
		room: make(chan struct{}, 1), receivers: make(map[receiverKey]*receiver),
	}
}

// drain is how long calls under way may go on when Run ends.
const drain = 2 * time.Second

// run tells until ctx ends, and then waits for what is under way, but not when
// held has ended: then it may tell nobody any more. It returns an error when it
// cannot begin. It may be run again.
func (d *queue) run(ctx, held context.Context) error {
	calls, stopCalls := context.WithCancel(held)
	defer stopCalls()
	d.mu.Lock()
	d.calls, d.stopping = calls, false
	d.mu.Unlock()
	defer d.clear()
	if err := d.load(ctx); err != nil {
		return err
	}
	var own sync.WaitGroup
	own.Go(func() { d.route(ctx) }) // ends with ctx
	own.Go(func() { d.keep(ctx) })  // ends with ctx
	<-ctx.Done()
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	own.Wait()
	late := time.AfterFunc(drain, stopCalls)
	d.work.Wait()
	late.Stop()
	end, cancel := context.WithTimeout(held, drain)
	defer cancel()
	d.save(end)
	return nil
}

// clear forgets where the receivers are in the log, and keeps how they are.
func (d *queue) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx, d.stopping = nil, true
	d.router, d.waiting = feed{}, 0
	known := d.receivers
	d.receivers = make(map[receiverKey]*receiver)
	for k, r := range known {
		for _, l := range r.lanes {
			l.stopTimer()
		}
		if r.caller != nil {
			r.caller.close()
		}
		if !r.tried.IsZero() {
			n := d.receiver(k.space, k.group)
			n.tried, n.health = r.tried, r.health
			n.health.Since = time.Time{}
		}
	}
}

// load reads the records of the run before.
func (d *queue) load(ctx context.Context) error {
	records, err := d.store.all(ctx)
	if err != nil {
		return err
	}
	var seq uint64
	if text, ok := records[cursorKey]; ok {
		seq, err = strconv.ParseUint(string(text), 10, 64)
	} else {
		seq, err = d.source.at(ctx, time.Now().Add(-Lifetime))
	}
	if err != nil {
		return fmt.Errorf("the cursor: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx, d.saved, d.router.next = ctx, seq, seq
	for k, v := range records {
		kind, _, _ := strings.Cut(k, ".") // but for cursorKey
		var err error
		switch kind {
		case "lane":
			p := new(park)
			if err = json.Unmarshal(v, p); err == nil && p.Letter != nil {
				l := d.receiver(p.Letter.Space, p.Letter.Group).lane(laneKey{p.Letter.App, p.Letter.Stream})
				p.happened, p.Letter = p.Letter.Time, nil
				l.park, l.last, l.unread = p, p.Seq, true
				l.r.parked++
				l.sleep(time.Until(p.Next))
			}
		case "flap":
			f := new(flap)
			if err = json.Unmarshal(v, f); err == nil {
				d.receiver(f.Space, f.Group).lane(laneKey{f.App, f.Stream}).flap = f
			}
		case "receiver":
			var p position
			if err = json.Unmarshal(v, &p); err == nil {
				r := d.receiver(p.Space, p.Group)
				r.own, r.stored = &feed{next: p.Seq}, true
				d.work.Go(func() { d.follow(r) })
			}
		}
		if err != nil {
			d.log.Error("a record of callbacks cannot be read", "key", k, "err", err)
		}
	}
	return nil
}

// cursorKey is that of the record of the router's place.
const cursorKey = "cursor"

func (d *queue) setCursor(ctx context.Context, seq uint64) error {
	return d.store.put(ctx, cursorKey, strconv.AppendUint(nil, seq, 10))
}

// position is the record of a detached receiver.
type position struct {
	Space string `json:"space"`
	Group string `json:"group"`
	Seq   uint64 `json:"seq"`
}

// receiver returns the receiver of that name, made if there is none. d.mu is held.
func (d *queue) receiver(space, group string) *receiver {
	k := receiverKey{space, group}
	r := d.receivers[k]
	if r == nil {
		r = &receiver{receiverKey: k, d: d, lanes: make(map[laneKey]*lane), wake: make(chan struct{}, 1), probe: probeFirst}
		d.receivers[k] = r
	}
	return r
}

func (r *receiver) lane(k laneKey) *lane {
	l := r.lanes[k]
	if l == nil {
		l = &lane{r: r, key: k}
		r.lanes[k] = l
	}
	return l
}

// route reads the log and hands its facts on, until ctx ends.
func (d *queue) route(ctx context.Context) {
	for ctx.Err() == nil {
		d.mu.Lock()
		from := d.router.next
		d.mu.Unlock()
		rd := d.source.read(ctx, "", from)
		for {
			e, err := rd.next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					d.log.Error("callbacks: reading the event log", "err", err)
				}
				break
			}
			if !d.makeRoom(ctx) {
				break
			}
			d.mu.Lock()
			d.hand(e)
			d.mu.Unlock()
		}
		rd.close()
		if ctx.Err() == nil {
			pause(ctx, time.Second)
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// makeRoom waits until one more fact may be handed on. Where receivers are too
// slow it detaches the one with the most facts, so that the others go on. It
// reports false when ctx has ended.
func (d *queue) makeRoom(ctx context.Context) bool {
	for {
		d.mu.Lock()
		d.router.cursor()
		full, long := d.waiting >= window, len(d.router.open) >= span
		var slow *receiver
		if full || long {
			for _, r := range d.receivers {
				if r.own == nil && r.held > 0 && (slow == nil || r.held > slow.held) {
					slow = r
				}
			}
			if long {
				slow = d.router.open[0].r
			}
		}
		d.mu.Unlock()
		if slow == nil && !full {
			return true
		}
		if slow != nil {
			d.detach(slow)
		}
		select {
		case <-ctx.Done():
			return false
		case <-d.room:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hand gives a fact that the router has read to its lane. d.mu is held.
func (d *queue) hand(e entry) {
	d.router.next = e.seq + 1
	if e.missed > 0 {
		d.stats.Missed += int64(e.missed)
		d.log.Error("facts were not kept until their callbacks were read", "at_most", e.missed)
	}
	cb := callbackOf(&e.event)
	if cb == nil {
		return
	}
	r := d.receiver(e.event.Space, groupOf(cb))
	if r.own != nil || e.seq < r.from {
		return // it is read, or was, by the receiver's own feed
	}
	r.hand(e, cb, &d.router)
}

// hand gives a fact to its lane. d.mu is held.
func (r *receiver) hand(e entry, cb *event.Callback, f *feed) {
	l := r.lane(laneOf(&e.event))
	if e.seq < l.done {
		return
	}
	if l.park != nil { // it is found in the log when its turn comes
		l.last = e.seq
		return
	}
	l.queue = append(l.queue, &item{entry: e, cb: cb, slot: f.add(e.seq, r)})
	r.held++
	if f == &r.d.router {
		r.d.waiting++
	}
	l.rouse()
}

// settle notes that the facts of items are told, or recorded elsewhere. d.mu is held.
func (d *queue) settle(items ...*item) {
	for _, it := range items {
		s := it.slot
		if s == nil || s.settled {
			continue
		}
		s.settled = true
		s.r.held--
		if s.r.own == nil {
			d.waiting--
		} else if s.r.held == ownWindow/2 { // not for every one
			s.r.nudge()
		}
	}
	select {
	case d.room <- struct{}{}:
	default:
	}
}

// rouse makes a lane that has something to tell ready. d.mu is held.
func (l *lane) rouse() {
	if l.busy || l.r.d.stopping || len(l.queue) == 0 && l.park == nil {
		return
	}
	l.stopTimer()
	l.busy, l.listed = true, true
	l.r.ready = append(l.r.ready, l)
	l.r.pump()
}

// sleep rouses a lane after some time. d.mu is held.
func (l *lane) sleep(t time.Duration) {
	l.stopTimer()
	d := l.r.d
	var timer *time.Timer
	timer = time.AfterFunc(max(t, 0), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if l.wait == timer {
			l.wait = nil
			l.rouse()
		}
	})
	l.wait = timer
}

func (l *lane) stopTimer() {
	if l.wait != nil {
		l.wait.Stop()
		l.wait = nil
	}
}

// pump starts workers for the lanes that are ready, as many as may be. d.mu is held.
func (r *receiver) pump() {
	d := r.d
	if d.stopping {
		return
	}
	for len(r.ready) > 0 && r.calls < r.limit() {
		l := r.pop()
		r.calls++
		d.work.Go(func() { // ends when no lane of the receiver is ready, or Run ends
			for l != nil {
				d.serve(l)
				d.mu.Lock()
				if l.busy = false; !l.idle() && l.wait == nil {
					l.rouse()
				}
				l = nil
				if len(r.ready) > 0 && r.calls <= r.limit() && !d.stopping {
					l = r.pop()
				} else {
					r.calls--
					r.pump()
				}
				d.mu.Unlock()
			}
		})
	}
}

func (r *receiver) pop() *lane {
	l := r.ready[0]
	r.ready[0] = nil
	if r.ready = r.ready[1:]; len(r.ready) == 0 {
		r.ready = nil
	}
	l.listed = false
	return l
}

// limit is how many calls of the receiver may be under way.
func (r *receiver) limit() int {
	n := r.delivery().Concurrency
	if r.open {
		return min(n, openCalls)
	}
	return n
}

// delivery returns how the receiver is called now. d.mu is held.
func (r *receiver) delivery() *policy.Delivery {
	if r.version == nil {
		r.version = r.d.policy().Space(r.space).Deliver()
	}
	return r.version
}

// idle forgets a lane that has nothing to do, and reports whether it has. d.mu
// is held.
func (l *lane) idle() bool {
	if len(l.queue) > 0 || l.park != nil {
		return false
	}
	if l.flap == nil && l.wait == nil && l.done <= l.r.passed() {
		delete(l.r.lanes, l.key)
	}
	return true
}

// passed returns a place before which no feed of the receiver will bring
// anything any more. d.mu is held.
func (r *receiver) passed() uint64 {
	if r.own != nil {
		return r.own.cursor()
	}
	return r.d.router.cursor()
}

// serve takes a lane a step further: one fact, or some that wait in the log. The
// caller has made it busy.
func (d *queue) serve(l *lane) {
	d.mu.Lock()
	parked := l.park
	d.mu.Unlock()
	switch {
	case parked == nil:
		d.live(l)
	case parked.Done || d.again(l):
		d.catchUp(l)
	}
}

// live tells the first fact of a lane that is not parked.
func (d *queue) live(l *lane) {
	d.mu.Lock()
	if len(l.queue) == 0 {
		d.mu.Unlock()
		return
	}
	it := l.queue[0]
	d.mu.Unlock()
	switch wait, drop := d.guard(l, it); {
	case drop:
		d.done(l, it)
	case wait > 0:
		d.mu.Lock()
		l.sleep(wait)
		d.mu.Unlock()
	case d.tell(l, it):
		d.done(l, it)
	}
}

// done takes the first fact of a lane away.
func (d *queue) done(l *lane, it *item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(l.queue) > 0 && l.queue[0] == it {
		l.queue[0] = nil
		l.queue = l.queue[1:]
	}
	d.settle(it)
}

// tell makes the first attempt to tell of a fact. When it fails the lane is
// parked, and the result is false.
func (d *queue) tell(l *lane, it *item) bool {
	letter, err := l.letter(it)
	if err != nil {
		d.log.Error("a fact cannot be told", "id", it.event.ID, "type", it.event.Type, "err", err)
		return true
	}
	now := time.Now()
	o, ok := d.attempt(l.r, letter)
	if !ok {
		return false // Run ends: the fact is read again
	}
	if o.ok {
		d.report(l.r, letter, now, &o, "delivered", time.Time{})
		d.unflap(l, letter)
		return true
	}
	p := &park{Seq: it.seq, First: now, Letter: letter}
	return d.missed(l, p, &o, now)
}

// attempt calls a receiver. It reports false if the end of Run has cut it off.
func (d *queue) attempt(r *receiver, letter *Letter) (outcome, bool) {
	d.mu.Lock()
	if v := d.policy().Space(r.space).Deliver(); r.caller == nil || !sameDelivery(v, r.version) {
		if r.caller != nil {
			r.caller.close()
		}
		r.version = v
		r.caller = newCaller(v, d.dial, d.roots)
	}
	c := r.caller
	r.tried = time.Now()
	d.mu.Unlock()
	o := c.do(d.calls, letter.call())
	if !o.ok && d.calls.Err() != nil {
		return o, false
	}
	letter.Attempts++
	letter.Last, letter.Error = time.Now(), o.err
	return o, true
}

func sameDelivery(a, b *policy.Delivery) bool {
	return a == b || b != nil && a.Secret.Equal(b.Secret) && slices.Equal(a.AllowNetworks, b.AllowNetworks) &&
		a.Concurrency == b.Concurrency && a.ConnectTimeout == b.ConnectTimeout && a.Timeout == b.Timeout
}

// early is how much before its time an attempt may be made.
const early = 50 * time.Millisecond

// missed parks a lane after an attempt that failed, or buries the fact when it
// was the last; the result then is true: the lane goes on.
func (d *queue) missed(l *lane, p *park, o *outcome, at time.Time) bool {
	now := time.Now()
	// An attempt that was made before its time, because the receiver was thought
	// to be back, does not use up the one that is due; nor are those made up for
	// that were due while weir was down.
	if p.Next.IsZero() || !at.Add(early).Before(p.Next) {
		p.Step++
	}
	for p.Step+1 < len(schedule) && p.First.Add(schedule[p.Step+1]).Before(now) {
		p.Step++
	}
	next, more := after(p.First, p.Step)
	if !more || expired(p.Letter.Time, now) {
		d.report(l.r, p.Letter, at, o, "dead", time.Time{})
		d.bury(l, p.Letter)
		d.unflap(l, p.Letter) // nobody will be told any more that it is over
		return true
	}
	p.NotBefore = time.Time{}
	if o.retryAfter > 0 {
		p.NotBefore = now.Add(o.retryAfter)
		if p.NotBefore.After(next) {
			next = p.NotBefore
		}
	}
	if next.Before(now.Add(time.Second)) {
		next = now.Add(time.Second)
	}
	p.Next = next
	d.report(l.r, p.Letter, at, o, "retry", next)
	err := d.store.put(d.calls, l.recordKey("lane"), marshal(p))
	light := *p
	light.happened, light.Letter = p.Letter.Time, nil
	d.mu.Lock()
	if p.NotBefore.After(l.r.notNow) {
		l.r.notNow = p.NotBefore
	}
	if err == nil {
		if l.park == nil {
			l.r.parked++
			if n := len(l.queue); n > 0 {
				l.last = max(l.last, l.queue[n-1].seq)
			}
			d.settle(l.queue...)
			l.queue = nil
		}
		l.park = &light
	} else if l.park != nil {
		l.park.Next = next
	} // else it stays in memory, and the cursor before it
	l.sleep(time.Until(next))
	d.mu.Unlock()
	if err != nil {
		d.log.Error("a callback that waits cannot be recorded", "err", err)
	}
	d.trip(l.r)
	return false
}

// bury makes a dead letter of a fact. It tries until it has.
func (d *queue) bury(l *lane, letter *Letter) {
	for {
		err := d.ledger.bury(d.calls, letter)
		if err == nil || d.calls.Err() != nil {
			return
		}
		d.log.Error("a dead letter cannot be kept", "err", err)
		pause(d.calls, time.Second)
	}
}

// again makes another attempt for the fact that a lane is parked by, and reports
// whether the lane goes on.
func (d *queue) again(l *lane) bool {
	k := l.recordKey("lane")
	text, err := d.store.get(d.calls, k)
	p := new(park)
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil || p.Letter == nil {
		d.log.Error("the record of a callback that waits cannot be read", "err", err)
		d.mu.Lock()
		l.sleep(5 * time.Second)
		d.mu.Unlock()
		return false
	}
	now := time.Now()
	o, ok := d.attempt(l.r, p.Letter)
	switch {
	case !ok:
		return false
	case o.ok:
		d.report(l.r, p.Letter, now, &o, "delivered", time.Time{})
		d.unflap(l, p.Letter)
	case !d.missed(l, p, &o, now):
		return false
	}
	// The lane is known to be further only from now on; the record says so when
	// the next fact is through, or fails.
	d.mu.Lock()
	l.park = &park{Seq: p.Seq, Done: true, First: p.First, Next: p.Next, NotBefore: p.NotBefore, happened: p.Letter.Time}
	dead := !o.ok
	d.mu.Unlock()
	if dead {
		d.expire(l)
	}
	return true
}

// abandon buries a fact that nobody was told of in its time, unless it is one that
// the flap guard keeps from the receiver. It reports false if that is not known.
func (d *queue) abandon(l *lane, it *item, why string) bool {
	wait, drop := d.guard(l, it)
	if wait > 0 || drop {
		return drop
	}
	letter, err := l.letter(it)
	if err != nil {
		return true
	}
	letter.Error = why
	d.bury(l, letter)
	d.count(l.r, "dead")
	d.unflap(l, letter)
	return true
}

// expire buries what waits in a lane behind a dead letter and is as old.
func (d *queue) expire(l *lane) {
	for d.calls.Err() == nil {
		list, _, err := d.source.scan(d.calls, l.query(), l.park.Seq+1, laneBatch)
		if err != nil {
			return
		}
		for _, e := range list {
			if cb := l.own(&e.event); cb != nil {
				if !expired(e.event.Time, time.Now()) {
					return
				}
				if !d.abandon(l, &item{entry: e, cb: cb}, "it waited for one before it that could not be told") {
					return
				}
			}
			d.mu.Lock()
			l.park.Seq = e.seq
			d.mu.Unlock()
		}
		if len(list) == 0 {
			return
		}
	}
}

// catchUp tells what waits in the log for a parked lane: some of it, or the
// rest, and then the lane is parked no more.
func (d *queue) catchUp(l *lane) {
	list, next, err := d.source.scan(d.calls, l.query(), l.park.Seq+1, laneBatch)
	if err != nil {
		if d.calls.Err() == nil {
			d.log.Error("callbacks: reading the event log", "err", err)
		}
		d.mu.Lock()
		l.sleep(time.Second)
		d.mu.Unlock()
		return
	}
	for i := range list {
		it := &item{entry: list[i]}
		if it.cb = l.own(&it.event); it.cb != nil {
			wait, drop := d.guard(l, it)
			if wait > 0 {
				d.mu.Lock()
				l.sleep(wait)
				d.mu.Unlock()
				return
			}
			if !drop && !d.tell(l, it) {
				return
			}
		}
		d.mu.Lock()
		l.park.Seq = it.seq
		stop := d.stopping
		d.mu.Unlock()
		if stop {
			d.saveLane(l)
			return
		}
	}
	d.mu.Lock()
	more := len(list) > 0 || l.last >= next
	l.told += len(list)
	if more {
		save := l.told >= saveEvery
		if save {
			l.told = 0
		}
		d.mu.Unlock()
		if save {
			d.saveLane(l)
		}
		return
	}
	l.park, l.last, l.unread, l.told, l.done = nil, 0, false, 0, next
	l.r.parked--
	l.r.nudge()
	d.mu.Unlock()
	// Busy until now, so that no other record of the lane can be meant.
	if err := d.store.delete(d.calls, l.recordKey("lane")); err != nil && d.calls.Err() == nil {
		d.log.Error("the record of a callback that waited cannot be deleted", "err", err)
	}
}

// saveLane records how far a parked lane has come.
func (d *queue) saveLane(l *lane) {
	k := l.recordKey("lane")
	text, err := d.store.get(d.calls, k)
	p := new(park)
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err == nil {
		d.mu.Lock()
		p.Seq, p.Done = l.park.Seq, true
		d.mu.Unlock()
		p.Letter.Body = nil
		err = d.store.put(d.calls, k, marshal(p))
	}
	if err != nil && d.calls.Err() == nil {
		d.log.Error("a callback that waits cannot be recorded", "err", err)
	}
}

// report notes how an attempt went, and what that says of the receiver.
func (d *queue) report(r *receiver, letter *Letter, at time.Time, o *outcome, end string, next time.Time) {
	e := letter.attempt(at, o, end, next)
	d.ledger.attempted(e)
	d.count(r, end)
	d.mu.Lock()
	d.stats.observe(o.latency)
	h := &r.health
	if o.ok {
		h.LastSuccess = at
		r.failures = 0
		if r.open {
			d.recover(r)
		}
	} else {
		r.failures++
		h.LastFailure, h.Reason = at, o.err
	}
	fact := !o.ok && d.reports < maxReported
	if fact {
		d.reports++
	} else if !o.ok {
		d.omitted++
	}
	d.mu.Unlock()
	if fact {
		d.source.emit(e)
	}
}

func (d *queue) count(r *receiver, end string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch end {
	case "delivered":
		d.stats.Delivered++
		r.health.Delivered++
	case "retry":
		d.stats.Failed++
		r.health.Failed++
	case "dead":
		d.stats.Failed++
		d.stats.Dead++
		r.health.Failed++
		r.health.Dead++
	}
}

// trip takes a receiver that fails for everybody out of the others' way.
func (d *queue) trip(r *receiver) {
	d.mu.Lock()
	if r.open || r.failures < tripAfter || d.stopping {
		d.mu.Unlock()
		return
	}
	r.open, r.probe = true, probeFirst
	r.health.Since = time.Now()
	reason := r.health.Reason
	d.mu.Unlock()
	d.log.Warn("a receiver of callbacks fails", "space", r.space, "receiver", bare(r.group), "reason", reason)
	d.alert(r, event.AlertRaised{Alert: alertReceiver, Text: fmt.Sprintf("%s fails: %s", bare(r.group), reason)})
	d.detach(r)
}

// recover lets a receiver that answers again have what has waited. d.mu is held.
func (d *queue) recover(r *receiver) {
	r.open, r.probe, r.notNow = false, probeFirst, time.Time{}
	since := r.health.Since
	r.health.Since = time.Time{}
	for _, l := range r.lanes {
		if l.park != nil && l.wait != nil {
			l.sleep(max(rand.N(time.Second), time.Until(l.park.NotBefore)))
		}
	}
	r.nudge()
	d.log.Info("a receiver of callbacks answers again", "space", r.space, "receiver", bare(r.group))
	d.clearAlert(r, alertReceiver, since)
}

// nudge tells the follower of a receiver that something has changed.
func (r *receiver) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// detach gives a receiver a feed of its own, from the first of its facts that
// is not settled.
func (d *queue) detach(r *receiver) {
	d.mu.Lock()
	if r.own != nil || d.stopping {
		d.mu.Unlock()
		return
	}
	own := &feed{next: max(d.router.next, r.from)}
	for _, s := range d.router.open {
		if s.r == r && !s.settled {
			own.next = s.seq
			break
		}
	}
	r.skip = make(map[uint64]struct{})
	for _, s := range d.router.open {
		if s.r == r && s.settled && s.seq > own.next {
			r.skip[s.seq] = struct{}{}
		}
	}
	for _, l := range r.lanes {
		if len(l.queue) == 0 {
			continue
		}
		first := l.queue[0]
		d.settle(l.queue...)
		l.queue = nil
		if l.busy && !l.listed { // its first fact is under way
			first.slot = own.add(first.seq, r)
			r.held++
			r.skip[first.seq] = struct{}{}
			l.queue = []*item{first}
			continue
		}
		l.stopTimer()
		l.busy, l.listed = false, false
		l.idle()
	}
	r.ready = slices.DeleteFunc(r.ready, func(l *lane) bool { return !l.listed })
	r.own, r.stored = own, false
	d.mu.Unlock()
	d.saveReceiver(r)
	d.mu.Lock()
	if !d.stopping {
		d.work.Go(func() { d.follow(r) })
	}
	d.mu.Unlock()
}

// follow reads the log for a detached receiver, until it has caught up with the
// router or Run ends.
func (d *queue) follow(r *receiver) {
	var rd reader // while there is much to be read; or nil
	drop := func() {
		if rd != nil {
			rd.close()
			rd = nil
		}
	}
	defer drop()
	for {
		d.look(r)
		d.mu.Lock()
		if d.stopping {
			d.mu.Unlock()
			return
		}
		r.own.cursor()
		from := r.own.next
		blocked := r.open || r.held >= ownWindow || r.parked >= maxParked
		if r.open {
			drop()
		}
		due := max(r.probe-time.Since(r.tried), time.Until(r.notNow))
		probing := r.open && due <= 0 && r.calls == 0 && r.parked < maxParked
		wait := time.Second
		if r.open && due > 0 {
			wait = min(max(due, 100*time.Millisecond), time.Minute)
		}
		d.mu.Unlock()
		if blocked && !probing {
			d.expireOwn(r)
			timer := time.NewTimer(wait)
			select {
			case <-r.wake:
			case <-timer.C:
			case <-d.ctx.Done():
			}
			timer.Stop()
			continue
		}
		most := batch
		if probing {
			most = laneBatch
		}
		var list []entry
		var next uint64
		var err error
		if !probing && d.farBehind(r) {
			if rd == nil {
				rd = d.source.read(d.ctx, r.space, from)
			}
			list, err = readSome(d.ctx, rd)
		}
		if len(list) == 0 && err == nil {
			drop()
			list, next, err = d.source.scan(d.ctx, query{space: r.space}, from, most)
		}
		if err != nil {
			drop()
			if d.ctx.Err() == nil {
				d.log.Error("callbacks: reading the event log", "err", err)
				pause(d.ctx, time.Second)
			}
			continue
		}
		d.mu.Lock()
		for _, e := range list {
			if e.missed > 0 && r.own.next < e.seq {
				d.lost(r, e.missed)
			}
			r.own.next = e.seq + 1
			if cb := callbackOf(&e.event); cb != nil && groupOf(cb) == r.group && e.event.Space == r.space {
				if _, known := r.skip[e.seq]; known {
					delete(r.skip, e.seq)
				} else {
					r.hand(e, cb, r.own)
				}
			}
			if probing && r.held > 0 { // one is enough
				r.probe = min(2*r.probe, probeLongest)
				break
			}
		}
		if len(list) > 0 {
			d.mu.Unlock()
			continue
		}
		r.own.next = max(r.own.next, next)
		if probing {
			r.tryAgain()
		}
		if r.own.next >= d.router.next && !r.open {
			d.attach(r)
			d.mu.Unlock()
			d.saveReceiver(r)
			return
		}
		d.mu.Unlock()
		if probing {
			pause(d.ctx, time.Second)
		}
	}
}

// farBehind reports whether a detached receiver has so much to read that one
// message after the other would take too long.
func (d *queue) farBehind(r *receiver) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.own.next+far*max(d.kept.step, 1) < d.router.next
}

// readSome reads a few facts that are there already: none, if the next one of
// the space does not come soon.
func readSome(ctx context.Context, rd reader) (list []entry, err error) {
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	for len(list) < batch {
		e, err := rd.next(soon)
		if err != nil {
			if ctx.Err() == nil && soon.Err() != nil {
				err = nil
			}
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

// tryAgain makes an attempt of a receiver that fails before its time, if that
// keeps others from being told: the one that is due first. D.mu is held.
func (r *receiver) tryAgain() {
	var first *lane
	for _, l := range r.lanes {
		if l.park != nil && !l.busy && l.waits() && !time.Now().Before(l.park.NotBefore) && (first == nil || l.park.Next.Before(first.park.Next)) {
			first = l
		}
	}
	if first != nil {
		r.probe = min(2*r.probe, probeLongest)
		first.rouse()
	}
}

// attach ends a receiver's own feed. d.mu is held.
func (d *queue) attach(r *receiver) {
	for _, s := range r.own.open {
		if !s.settled {
			d.waiting++
		}
	}
	d.router.take(r.own)
	r.from, r.own, r.skip = r.own.next, nil, nil
}

// expireOwn buries the facts of a receiver that fails which nobody has been able
// to try in their time.
func (d *queue) expireOwn(r *receiver) {
	d.mu.Lock()
	r.own.cursor()
	from, held, open := r.own.next, len(r.own.open), r.open
	d.mu.Unlock()
	for first := true; open && held == 0 && d.ctx.Err() == nil; {
		most := batch
		if first {
			most, first = 1, false
		}
		list, _, err := d.source.scan(d.ctx, query{space: r.space}, from, most)
		if err != nil || len(list) == 0 {
			return
		}
		for _, e := range list {
			if !expired(e.event.Time, time.Now()) {
				return
			}
			cb := callbackOf(&e.event)
			if cb != nil && groupOf(cb) == r.group {
				d.mu.Lock()
				if _, told := r.skip[e.seq]; told {
					delete(r.skip, e.seq)
					cb = nil
				}
				l := r.lane(laneOf(&e.event))
				if e.seq < l.done {
					cb = nil
				} else if l.park != nil { // it is found behind the one that the lane is parked by
					l.last = e.seq
					cb = nil
				}
				d.mu.Unlock()
				known := cb == nil || d.abandon(l, &item{entry: e, cb: cb}, "the receiver failed all the time")
				d.mu.Lock()
				if !l.busy {
					l.idle()
				}
				d.mu.Unlock()
				if !known {
					return
				}
			}
			from = e.seq + 1
			d.mu.Lock()
			r.own.next = from
			d.mu.Unlock()
		}
	}
}

// saveReceiver brings the record of a receiver up to date: it has one while it
// is detached.
func (d *queue) saveReceiver(r *receiver) {
	r.record.Lock()
	defer r.record.Unlock()
	d.storing.Lock()
	defer d.storing.Unlock()
	d.mu.Lock()
	var text []byte
	if r.own != nil {
		text = marshal(position{r.space, r.group, r.own.cursor()})
	}
	cursor := d.cursor()
	d.mu.Unlock()
	k := key("receiver", r.space, r.group)
	var err error
	if text != nil {
		err = d.store.put(d.calls, k, text)
	} else if err = d.setCursor(d.calls, cursor); err == nil {
		// What its own feed has left is on the cursor's way again.
		err = d.store.delete(d.calls, k)
	}
	d.mu.Lock()
	r.stored = err == nil && text != nil
	d.mu.Unlock()
	if err != nil && d.calls.Err() == nil {
		d.log.Error("the place of a receiver of callbacks cannot be recorded", "err", err)
	}
}

// cursor returns from where the log is to be read after a crash. d.mu is held.
func (d *queue) cursor() uint64 {
	c := d.router.cursor()
	for _, r := range d.receivers {
		if r.own != nil && !r.stored {
			c = min(c, r.own.cursor())
		}
	}
	return c
}

// settled reports whether all that is in the log was handed on, and nothing of
// it waits in memory.
func (d *queue) settled(ctx context.Context) bool {
	d.mu.Lock()
	begun, next := d.ctx != nil, d.router.next
	busy := false
	for _, r := range d.receivers {
		busy = busy || r.held > 0 && !r.open
	}
	d.mu.Unlock()
	if !begun {
		return true // and will not before the end
	}
	list, _, err := d.source.scan(ctx, query{}, next, 1)
	return !busy && err == nil && len(list) == 0
}

// keep writes the cursors, and looks after what is forgotten, until ctx ends.
func (d *queue) keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		omitted := d.omitted
		d.reports, d.omitted = 0, 0
		d.mu.Unlock()
		if omitted > 0 {
			d.source.emit(event.New(time.Now(), event.Omitted{Of: event.TypeCallbackAttempted, Count: omitted}))
		}
		d.save(ctx)
		if n%watchEvery == 0 {
			d.watch(ctx)
		}
	}
}

// save writes the cursors that have moved.
func (d *queue) save(ctx context.Context) {
	d.storing.Lock()
	d.mu.Lock()
	c := d.cursor()
	var own []*receiver
	for _, r := range d.receivers {
		if r.own != nil && (!r.stored || r.own.cursor() != r.kept) {
			r.kept = r.own.cursor()
			own = append(own, r)
		}
	}
	d.forget()
	d.mu.Unlock()
	if c != d.saved {
		if err := d.setCursor(ctx, c); err == nil {
			d.saved = c
		} else if ctx.Err() == nil {
			d.log.Error("the cursor of callbacks cannot be written", "err", err)
		}
	}
	d.storing.Unlock()
	for _, r := range own {
		d.saveReceiver(r)
	}
}

// forgetAfter is how long the health of a receiver is known that is told nothing.
const forgetAfter = 24 * time.Hour

// forget drops lanes that were only there because of what a feed might have
// brought late, and receivers that have long been told nothing. d.mu is held.
func (d *queue) forget() {
	for k, r := range d.receivers {
		for _, l := range r.lanes {
			if l.done > 0 && !l.busy {
				l.idle()
			}
		}
		if r.own == nil && r.calls == 0 && len(r.lanes) == 0 && !r.open && time.Since(r.tried) > forgetAfter && len(r.ready) == 0 && !d.unsettled(r) {
			if r.caller != nil {
				r.caller.close()
			}
			delete(d.receivers, k)
		}
	}
}

// unsettled reports whether a slot of r is open.
func (d *queue) unsettled(r *receiver) bool {
	return slices.ContainsFunc(d.router.open, func(s *slot) bool { return s.r == r && !s.settled })
}
