package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
)

// Policy is the policy of all nodes: its documents are the values of a bucket,
// which every node watches. Each node puts them together to the Set that it
// works by, which is in force within a second of a write anywhere.
//
// A write says which version of the document it has seen; it fails if there is
// another by now. Before it is made, the Set that would come of it is checked
// as a whole, and it is made only if nothing else has been written to the bucket
// since: two changes, each good by itself, cannot make a bad whole. What this
// node cannot read, or what makes no good Set, however it came into the bucket,
// changes nothing here but Health.
//
// A copy of the last good documents is kept in a file, encrypted as in the
// bucket, by which a node starts while JetStream is away.
//
// Methods may be called from any goroutine.
type Policy struct {
	js  jetstream.JetStream
	o   Options
	log *slog.Logger

	set atomic.Pointer[policy.Set]

	stop context.CancelFunc
	done sync.WaitGroup // of run

	writing  sync.Mutex // held by the one who writes: of this node's writers, none disturbs another
	building sync.Mutex // held by the one who makes a new Set and calls the hooks; before mu

	mu       sync.Mutex
	view                       // what is known of the buckets
	complete bool              // the view is theirs, whole
	invalid  error             // why its documents make no good Set; nil: they are the Set
	away     error             // why the buckets are not watched
	advanced chan struct{}     // closed when any of these changes
	dirty    bool              // there is something that is not in the copy yet
	uncopied error             // why the copy could not be written the last time
	built    uint64            // what seen was when the documents were put together last
	keys     map[string]string // sealed, by name; see Key
	waiting  []Ban             // in force here, and not written yet
	hooks    []func(*policy.Set)
	file     *policy.Set     // what rules when Options.FileRules is set
	mine     map[uint64]bool // versions that this process has told, and that may not be in the event log yet

	copying sync.Mutex // held by who writes the copy; before mu
	telling sync.Mutex // held by who looks what is not told; before writing
	toldTo  *uint64    // the version up to which all are told, as far as it is known
}

// view is what is known of the buckets.
type view struct {
	docs map[string]*stored    // all that can be read, deleted ones too
	bad  map[string]error      // why what cannot be read cannot, by name
	seen uint64                // the sequence in the bucket up to which docs are known
	bans map[string]*spaceBans // by space
}

func newView() view {
	return view{docs: make(map[string]*stored), bad: make(map[string]error), bans: make(map[string]*spaceBans)}
}

// stored is a document with the bytes that it was read from.
type stored struct {
	Document
	raw []byte
}

// Options are the settings of a Policy.
type Options struct {
	Log      *slog.Logger
	Node     string   // name of this node
	Replicas int      // of the bucket
	Keys     *Keyring // of the secrets

	// Copy is the file in which the last good policy is kept; empty: none is.
	Copy string

	// Bootstrap is written when the store is empty.
	Bootstrap *policy.Set

	// FileRules makes Bootstrap the policy of this node, whatever is in the
	// store; Replace changes it. Only what is forbidden by Forbid comes from the
	// store.
	FileRules bool

	// Lookup is that of a net.Resolver: the names of receivers are judged when
	// they are written. nil: they are not.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Check finds what is wrong with a Set for this node alone; nil: nothing is. It
	// keeps this node from writing it, and no node from obeying it.
	Check func(*policy.Set) []policy.Problem

	// Changed is told of each change that this node makes, in order; by default
	// it is Emit of Facts.
	Changed func(event.Event)
	// Facts is the log that has a fact of each change: what a process that was
	// killed has not told is told by a later one. nil: it is not.
	Facts *eventlog.Log

	// Wait is how long OpenPolicy waits for JetStream when there is a copy of
	// the policy to begin with; without one it waits as long as its context.
	Wait time.Duration

	tellTime, absentTime time.Duration // tests make them short
}

// Names of what is in JetStream.
const (
	policyBucket  = "weir_policy"
	policyStream  = "KV_" + policyBucket
	policySubject = "$KV." + policyBucket + "."
	policySchema  = 1

	// policyHistory is how many versions of each document are kept.
	policyHistory = 64

	// maxBatch is how many documents are written at once; JetStream takes 1000.
	maxBatch = 500

	answerTime = 5 * time.Second // of JetStream
	probeTime  = 5 * time.Second // between looks whether the watch is alive
	retryTime  = time.Second
	saveTime   = time.Second // between looks whether the copy is old
)

// Errors of writing and reading.
var (
	ErrNotFound  = errors.New("there is no such document")
	ErrFileRules = errors.New("the policy of this server is that of its configuration file (policy_source: file); change it there")
	ErrAway      = errors.New("the policy store does not answer; nothing was changed, or it will be seen when the store is back")
)

// Changed is the error of a write to a document, or to the policy as a whole, that
// is not in the version that the writer has seen.
type Changed struct {
	Name    string
	Version uint64 // that it has; 0: there is none
}

func (e *Changed) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("%s does not exist (any more)", e.Name)
	}
	return fmt.Sprintf("%s has been changed; it has the version %d now", e.Name, e.Version)
}

// Invalid is the error of a write after which the policy would not be valid.
type Invalid struct{ Problems []Problem }

// Problem is one thing that is wrong with a document.
type Problem struct {
	Document, Path, Message string
}

func (e *Invalid) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: ", p.Document)
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// OpenPolicy returns the policy of the store, as it is now or, when JetStream
// is away, as this node has seen it last. The error is about a store that cannot
// be used: the keys are not those of its secrets, or there is neither store nor
// copy. The caller ends the Policy with Close.
func OpenPolicy(ctx context.Context, js jetstream.JetStream, o Options) (*Policy, error) {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Wait = cmp.Or(o.Wait, 5*time.Second)
	if o.tellTime == 0 {
		o.tellTime, o.absentTime = tellTime, absentTime
	}
	if o.Changed == nil && o.Facts != nil {
		o.Changed = o.Facts.Emit
	}
	p := &Policy{
		js: js, o: o, log: o.Log.With("part", "policy"),
		view: newView(), keys: make(map[string]string), mine: make(map[uint64]bool),
		away: errors.New("the store was not reached yet"), advanced: make(chan struct{}),
	}
	if o.FileRules {
		p.file = o.Bootstrap
		p.set.Store(o.Bootstrap)
	}
	copied := p.loadCopy()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	p.done.Go(func() { p.run(running) })
	wait := ctx
	if copied || o.FileRules {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	err := p.await(wait, func() bool { return p.complete })
	p.mu.Lock()
	away, invalid := p.away, p.trouble()
	p.mu.Unlock()
	newer := (*bus.Newer)(nil)
	switch {
	case err != nil && errors.As(away, &newer): // which no waiting makes older
		p.Close()
		return nil, fmt.Errorf("the policy cannot be loaded: %w", newer)
	case p.set.Load() != nil && err != nil:
		p.log.Warn("the policy store is away; the policy is that which this node saw last", "err", away)
	case p.set.Load() != nil:
	case err != nil:
		p.Close()
		return nil, fmt.Errorf("the policy store was not reached, and this node has no copy of the policy: %w", errors.Join(away, err))
	default:
		p.Close()
		return nil, fmt.Errorf("the policy cannot be loaded: %w", invalid)
	}
	return p, nil
}

// Close ends the watch. The Set stays what it is.
func (p *Policy) Close() {
	p.stop()
	p.done.Wait()
	p.saveCopy()
}

// Set returns the policy of the moment. Nobody changes it.
func (p *Policy) Set() *policy.Set { return p.set.Load() }

// Whole is Set with its version: that of the last change of the store in it.
func (p *Policy) Whole() (*policy.Set, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set.Load(), p.built
}

// OnChange has f called with each new Set from now on, one at a time. F must not
// write.
func (p *Policy) OnChange(f func(*policy.Set)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks = append(p.hooks, f)
}

// Replace makes set the policy of a node whose file rules, and tells of each
// document that differs: those have no versions.
func (p *Policy) Replace(set *policy.Set) {
	p.mu.Lock()
	old := make(map[string]any)
	for _, d := range p.current() {
		old[d.Name] = d.Value
	}
	p.file = set
	var puts []put
	for _, d := range p.current() {
		before := old[d.Name]
		delete(old, d.Name)
		if before == nil || !sameValue(before, d.Value) {
			puts = append(puts, put{name: d.Name, value: d.Value, note: note(before, d.Value)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		puts = append(puts, put{name: name, note: "deleted"})
	}
	p.mu.Unlock()
	p.rebuild()
	p.tell(puts, nil, byFile)
}

// byFile is who has made the policy of a node whose file rules.
const byFile = "the configuration file"

// FileRules reports whether the policy is that of the configuration file, and
// cannot be written.
func (p *Policy) FileRules() bool { return p.o.FileRules }

// Health is how well the store can be used.
type Health struct {
	Away    string   // why JetStream is not reached; empty: it is
	Refused []string // what is in the store and not in force, and why
	Version uint64   // up to which the store is known
}

// Health returns how well the store can be used now.
func (p *Policy) Health() Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := Health{Version: p.seen}
	if p.away != nil {
		h.Away = p.away.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(p.bad)) {
		h.Refused = append(h.Refused, fmt.Sprintf("%s: %v", name, p.bad[name]))
	}
	if p.invalid != nil {
		h.Refused = append(h.Refused, p.invalid.Error())
	}
	return h
}

// Documents returns the documents of one kind ("space"), or of all when kind is
// empty, by name.
func (p *Policy) Documents(kind string) []Document {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Document
	for _, d := range p.current() {
		if k, _, _ := strings.Cut(d.Name, "/"); kind == "" || k == kind {
			list = append(list, d)
		}
	}
	return list
}

// Document returns the document of that name, or ErrNotFound.
func (p *Policy) Document(name string) (Document, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.current() {
		if d.Name == name {
			return d, nil
		}
	}
	return Document{}, ErrNotFound
}

// current returns the documents that are there, by name. The caller holds mu.
func (p *Policy) current() []Document {
	var list []Document
	if p.o.FileRules {
		for _, d := range p.file.Documents() {
			list = append(list, Document{Name: d.Name, Value: d.Value, By: byFile})
		}
	} else {
		for _, s := range p.docs {
			if !s.Deleted {
				list = append(list, s.Document)
			}
		}
	}
	slices.SortFunc(list, func(a, b Document) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// run watches the buckets until ctx ends.
func (p *Policy) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		p.saveCopy()
		p.mu.Lock()
		first := p.away == nil || p.away.Error() != err.Error()
		p.away = err
		p.advance()
		p.mu.Unlock()
		if first {
			p.log.Warn("the policy store is away; the policy stays as it is", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
		}
	}
}

// follow watches the buckets until something fails.
func (p *Policy) follow(ctx context.Context) error {
	kv, err := p.open(ctx)
	if err != nil {
		return err
	}
	forbidden, err := p.openForbidden(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends both watches
	docs, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch the policy: %w", err)
	}
	bans, err := forbidden.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch what is forbidden: %w", err)
	}
	if err := p.first(ctx, docs, bans); err != nil {
		return err
	}
	p.done.Go(func() { p.rekey(ctx); p.sendWaiting(ctx) }) // ends with ctx, or when it has written
	p.done.Go(func() { p.tellMissing(ctx) })               // ends with ctx
	probe := time.NewTicker(probeTime)
	defer probe.Stop()
	save := time.NewTicker(saveTime)
	defer save.Stop()
	var rest <-chan time.Time // when the rest of a change should have come
	behind := uint64(0)       // what the last probe has found in the bucket
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-docs.Updates():
			if !ok {
				return errors.New("the watch of the policy has ended")
			}
			p.mu.Lock()
			more := p.take(p.o.Keys, e, p.log)
			p.dirty = true
			p.mu.Unlock()
			switch {
			case more > 0:
				rest = time.After(2 * time.Second)
			case len(docs.Updates()) == 0:
				rest = nil
				p.rebuild()
			}
		case <-rest:
			rest = nil
			p.rebuild()
		case e, ok := <-bans.Updates():
			if !ok {
				return errors.New("the watch of what is forbidden has ended")
			}
			p.mu.Lock()
			p.takeBan(e, p.log)
			p.dirty = true
			p.mu.Unlock()
			if len(bans.Updates()) == 0 && rest == nil {
				p.rebuild()
			}
		case <-save.C:
			p.saveCopy()
		case <-probe.C:
			if p.version() < behind {
				return errors.New("the watch of the policy has fallen behind")
			}
			if behind, err = p.probe(ctx); err != nil {
				return err
			}
			if behind > 0 {
				p.done.Go(func() { p.sendWaiting(ctx) }) // ends with ctx, or when it has written
			}
		}
	}
}

// open makes or opens the bucket of the documents.
func (p *Policy) open(ctx context.Context) (jetstream.KeyValue, error) {
	_, err := bus.Stream(ctx, p.js, jetstream.StreamConfig{
		Name:               policyStream,
		Description:        "the policy of Weir",
		Subjects:           []string{policySubject + ">"},
		MaxMsgsPerSubject:  policyHistory,
		Replicas:           p.o.Replicas,
		Discard:            jetstream.DiscardNew,
		Duplicates:         2 * time.Minute,
		AllowRollup:        true,
		AllowDirect:        true,
		DenyDelete:         true,
		AllowAtomicPublish: true,
	}, policySchema, func(context.Context, int) error { return nil })
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return p.js.KeyValue(ctx, policyBucket)
}

// first takes all that is in the buckets, in place of what was known, and writes
// Bootstrap if that is nothing.
func (p *Policy) first(ctx context.Context, docs, bans jetstream.KeyWatcher) error {
	timeout := time.After(30 * time.Second)
	next := func(w jetstream.KeyWatcher) (jetstream.KeyValueEntry, error) {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("the watch of the policy has ended")
			}
			return e, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout:
			return nil, errors.New("the policy store is too slow")
		}
	}
	v := newView()
	for {
		e, err := next(docs)
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		v.take(p.o.Keys, e, p.log)
	}
	for {
		e, err := next(bans)
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		v.takeBan(e, p.log)
	}
	if v.seen == 0 && p.o.Bootstrap != nil && !p.o.FileRules {
		if err := p.beginTelling(ctx); err != nil {
			return err
		}
		if err := p.bootstrap(ctx); err != nil {
			return err
		}
		for more := 1; more > 0; { // ours, or that of a node that was faster
			e, err := next(docs)
			if err != nil {
				return err
			}
			more = v.take(p.o.Keys, e, p.log)
		}
	}
	p.mu.Lock()
	for name := range v.bad { // what was known of it is better than nothing
		if s := p.docs[name]; s != nil && v.docs[name] == nil {
			v.docs[name] = s
		}
	}
	for _, b := range p.waiting {
		v.put(b)
	}
	p.view = v
	p.dirty = true
	p.mu.Unlock()
	p.rebuild()
	p.mu.Lock()
	p.away, p.complete = nil, true
	p.advance()
	p.mu.Unlock()
	p.saveCopy()
	return nil
}

// probe finds out whether JetStream answers, and returns how far the bucket is.
func (p *Policy) probe(ctx context.Context) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	before := p.version()
	s, err := p.js.Stream(ctx, policyStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return 0, fmt.Errorf("the bucket of the policy is gone: %w", err)
	case err != nil:
		p.setAway(fmt.Errorf("the policy store does not answer: %w", err))
		return 0, nil
	}
	p.setAway(nil)
	if last = s.CachedInfo().State.LastSeq; last < before {
		return 0, errors.New("the bucket of the policy is another one")
	}
	return last, nil
}

func (p *Policy) version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *Policy) setAway(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if (p.away == nil) != (err == nil) {
		p.away = err
		p.advance()
		if err != nil {
			p.log.Warn("the policy store is away; the policy stays as it is", "err", err)
		} else {
			p.log.Info("the policy store is back")
		}
	}
}

// take takes note of a version of a document and returns how many documents of
// the same change follow.
func (v *view) take(keys *Keyring, e jetstream.KeyValueEntry, log *slog.Logger) (more int) {
	name, err := nameOf(e.Key())
	var d Document
	if err == nil {
		d, more, err = keys.readEnvelope(name, e.Revision(), e.Value())
	}
	v.seen = max(v.seen, e.Revision())
	if err != nil {
		v.bad[name] = err
		log.Error("a document of the policy cannot be used; the one before stays", "document", name, "version", e.Revision(), "err", err)
		return more
	}
	delete(v.bad, name)
	v.docs[name] = &stored{d, e.Value()}
	return more
}

// rebuild puts the documents together. If they make a good Set, it is the policy
// from now on.
func (p *Policy) rebuild() {
	p.building.Lock()
	defer p.building.Unlock()
	p.mu.Lock()
	set, err := p.assemble(p.current())
	p.built = p.seen
	if len(p.bad) > 0 && p.set.Load() == nil {
		err = p.trouble() // a part of the policy is no policy
	}
	if err != nil {
		p.invalid = err
		p.log.Error("what is in the policy store is not valid; the policy before stays", "err", err)
		p.advance()
		p.mu.Unlock()
		return
	}
	p.invalid = nil
	old := p.set.Swap(set)
	p.advance()
	hooks := p.hooks
	p.mu.Unlock()
	if old != nil {
		p.log.Info("policy changed", "spaces", len(set.Spaces), "version", p.version())
	}
	for _, f := range hooks {
		f(set)
	}
}

// trouble returns why there is no Set. The caller holds mu.
func (p *Policy) trouble() error {
	for _, name := range slices.Sorted(maps.Keys(p.bad)) {
		return fmt.Errorf("%s: %w", name, p.bad[name])
	}
	return p.invalid
}

// assemble returns the Set of docs and of what is forbidden, or an *Invalid.
// The caller holds mu.
func (p *Policy) assemble(docs []Document) (*policy.Set, error) {
	list := make([]policy.Document, len(docs))
	for i, d := range docs {
		list[i] = policy.Document{Name: d.Name, Value: d.Value}
	}
	set := policy.NewSet(list)
	for i := range set.Spaces {
		set.Spaces[i].Bans = p.bans[set.Spaces[i].Name].set()
	}
	if err := invalidSet(set, set.Problems()); err != nil {
		return nil, err
	}
	return set, nil
}

// places finds where a problem speaks of another place in a Set, whose numbers
// are of nobody's document.
var places = regexp.MustCompile(`\b(spaces|buckets)\[[0-9]+\][\w.\[\]]*`)

// invalidSet returns the problems of a Set as an *Invalid, or nil.
func invalidSet(set *policy.Set, problems []policy.Problem) error {
	if len(problems) == 0 {
		return nil
	}
	e := new(Invalid)
	for _, pr := range problems {
		doc, path := set.Locate(pr.Path)
		message := places.ReplaceAllStringFunc(pr.Message, func(place string) string {
			other, rest := set.Locate(place)
			return strings.TrimSpace(other + " " + rest)
		})
		e.Problems = append(e.Problems, Problem{doc, path, message})
	}
	return e
}

// advance wakes those who await. The caller holds mu.
func (p *Policy) advance() {
	close(p.advanced)
	p.advanced = make(chan struct{})
}

// await waits until cond, which is called with mu held, is true.
func (p *Policy) await(ctx context.Context, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := cond(), p.advanced
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bootstrap writes the policy to begin with, unless another node does.
func (p *Policy) bootstrap(ctx context.Context) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	var puts []put
	for _, d := range p.o.Bootstrap.Documents() {
		puts = append(puts, put{name: d.Name, value: d.Value, note: "created"})
	}
	by := "bootstrap by " + p.o.Node
	versions, err := p.publish(ctx, puts, 0, by)
	var conflict *conflictError
	if errors.As(err, &conflict) {
		return nil
	}
	if err == nil {
		p.tell(puts, versions, by)
		p.log.Info("the policy store was empty; it begins with the policy of the configuration", "documents", len(puts))
	}
	return err
}

// Expectations of a Change that are not a version.
const (
	Absent uint64 = 0          // the document is to be created
	Any    uint64 = ^uint64(0) // whatever it is
)

// Change is what a write does to one document.
type Change struct {
	Name   string
	Value  any    // of the type that policy.NewDocument makes; nil: the document is deleted
	Expect uint64 // the version that the writer has seen, Absent or Any
}

// Author is who writes.
type Author struct {
	By   string // name of a token, or what else he is known by
	Note string // what he says about it; what changes is noted anyway
	Seen uint64 // version of the whole policy that he has seen, of Whole; 0: whatever it is
}

// Result is what a Change came to.
type Result struct {
	Document
	Before  uint64 // the version before; 0: there was none
	Changes []policy.Difference
}

// Write makes changes, all of them or none, and returns when they are in force
// on this node. Secrets that are three asterisks stay what they are. With dry it
// only says what would be. Errors are *Changed, *Invalid, ErrFileRules, ErrAway
// and what ctx says; an error about what is not a document's name is an
// *Invalid, too.
func (p *Policy) Write(ctx context.Context, changes []Change, a Author, dry bool) ([]Result, error) {
	if p.o.FileRules && !dry {
		return nil, ErrFileRules
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		results, puts, seen, err := p.plan(changes, a)
		if err != nil || dry || len(puts) == 0 {
			return results, err
		}
		if err := p.judge(ctx, puts); err != nil {
			return nil, err
		}
		versions, err := p.publish(ctx, puts, seen, a.By)
		var conflict *conflictError
		if errors.As(err, &conflict) { // somebody else was faster: think again
			if err := p.await(ctx, func() bool { return p.seen > seen }); err != nil {
				return nil, ErrAway
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		p.tell(puts, versions, a.By)
		p.settle(ctx, results, puts, versions)
		return results, nil
	}
}

// judge looks where the receivers are that puts name and the policy did not
// know before, and returns an *Invalid if some are where they may not be.
func (p *Policy) judge(ctx context.Context, puts []put) error {
	if p.o.Lookup == nil {
		return nil
	}
	known := map[policy.Endpoint]bool{}
	if set := p.set.Load(); set != nil {
		for _, r := range set.Receivers() {
			known[r.URL] = true
		}
	}
	var list []policy.Document
	for _, put := range puts {
		if put.value != nil {
			list = append(list, policy.Document{Name: put.name, Value: put.value})
		}
	}
	set := policy.NewSet(list)
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var problems []policy.Problem
	turns := make(chan struct{}, 16)
	for _, r := range set.Receivers() {
		if known[r.URL] {
			continue
		}
		turns <- struct{}{}
		all.Go(func() { // ends with its answer, or with ctx
			defer func() { <-turns }()
			if problem := r.Judge(ctx, p.o.Lookup); problem != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, *problem)
			}
		})
	}
	all.Wait()
	slices.SortFunc(problems, func(a, b policy.Problem) int { return strings.Compare(a.Path, b.Path) })
	return invalidSet(set, problems)
}

// lookupTime is how long names of receivers are looked up when a policy is
// written. One that is not known by then is good.
const lookupTime = time.Second

// put is one document that is to be written.
type put struct {
	name  string
	value any // nil: deleted
	note  string
	index int // in the results

	before uint64    // the version that it follows; 0: there is none
	at     time.Time // when it was written
}

// plan checks changes against what the bucket holds at sequence seen.
func (p *Policy) plan(changes []Change, a Author) (results []Result, puts []put, seen uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.complete && !p.o.FileRules {
		return nil, nil, 0, ErrAway
	}
	if a.Seen != 0 && a.Seen != p.seen {
		return nil, nil, 0, &Changed{"the policy", p.seen}
	}
	docs := map[string]Document{}
	for _, d := range p.current() {
		docs[d.Name] = d
	}
	for i, c := range changes {
		old := docs[c.Name]
		if err := p.bad[c.Name]; err != nil {
			return nil, nil, 0, &Invalid{[]Problem{{c.Name, "", "what is in the store cannot be read by this node: " + err.Error()}}}
		}
		if c.Expect != Any && c.Expect != old.Version {
			return nil, nil, 0, &Changed{c.Name, old.Version}
		}
		r := Result{Document: Document{Name: c.Name, Version: old.Version}, Before: old.Version}
		if c.Value == nil {
			if old.Value == nil {
				return nil, nil, 0, &Changed{c.Name, 0}
			}
			delete(docs, c.Name)
			r.Deleted = true
			r.Changes = policy.Diff(old.Value, nil)
			results, puts = append(results, r), append(puts, put{name: c.Name, note: "deleted", index: i, before: old.Version})
			continue
		}
		v, err := clone(c.Name, c.Value)
		if err != nil {
			return nil, nil, 0, &Invalid{[]Problem{{c.Name, "", err.Error()}}}
		}
		if missing := policy.KeepSecrets(v, old.Value); missing != nil {
			e := new(Invalid)
			for _, path := range missing {
				e.Problems = append(e.Problems, Problem{c.Name, path, "is *** and there is no secret here that could stay; write the secret itself"})
			}
			return nil, nil, 0, e
		}
		r.Document = Document{Name: c.Name, Version: old.Version, Value: v}
		if old.Value != nil && sameValue(old.Value, v) {
			r.Document = old
			results = append(results, r)
			continue
		}
		if problem := checkName(c.Name, v); problem != "" {
			return nil, nil, 0, &Invalid{[]Problem{{c.Name, "name", problem}}}
		}
		r.Changes = policy.Diff(old.Value, v)
		docs[c.Name] = r.Document
		results, puts = append(results, r), append(puts, put{name: c.Name, value: v, note: note(old.Value, v), index: i, before: old.Version})
	}
	var list []Document
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		list = append(list, docs[name])
	}
	if len(puts) > 0 {
		set, err := p.assemble(list)
		if err == nil && p.o.Check != nil {
			err = invalidSet(set, p.o.Check(set))
		}
		if err != nil {
			return nil, nil, 0, err
		}
	}
	if a.Note != "" {
		for i := range puts {
			puts[i].note = strings.TrimSpace(a.Note) + ": " + puts[i].note
		}
	}
	return results, puts, p.seen, nil
}

// checkName returns what is wrong with the name that a document gives itself.
func checkName(name string, v any) string {
	docs := policy.NewSet([]policy.Document{{Name: name, Value: v}}).Documents()
	if len(docs) == 2 && docs[1].Name != name {
		return fmt.Sprintf("the document is %s, and calls itself %.128q", name, docs[1].Name)
	}
	return ""
}

// settle waits until what was written is in force here, and completes the
// results.
func (p *Policy) settle(ctx context.Context, results []Result, puts []put, versions []uint64) {
	last := versions[len(versions)-1]
	p.await(ctx, func() bool { return p.built >= last }) // if not now, then soon
	p.mu.Lock()
	for i, w := range puts {
		r := &results[w.index]
		r.Version = versions[i]
		if d := p.docs[w.name]; d != nil && d.Version == versions[i] {
			r.Document = d.Document
		}
	}
	p.mu.Unlock()
}

// tell emits a fact of each document that was written.
func (p *Policy) tell(puts []put, versions []uint64, by string) {
	if p.o.Changed == nil {
		return
	}
	for i, w := range puts {
		d := event.PolicyChanged{Document: w.name, Before: w.before, Deleted: w.value == nil, By: by, Note: w.note}
		if versions != nil {
			d.Version = versions[i]
			p.emit(changedFact(d, w.at))
		} else {
			p.o.Changed(changedFact(d, time.Now()))
		}
	}
}

// conflictError says that something was written to the bucket in between.
type conflictError struct{ error }

// publish writes documents if nothing was written to the bucket after sequence
// seen, and returns their versions. What fits into one batch is written as a whole
// or not at all.
func (p *Policy) publish(ctx context.Context, puts []put, seen uint64, by string) (versions []uint64, err error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	var msgs []*nats.Msg
	for i, w := range puts {
		puts[i].at = now
		e := envelope{Format: format, Node: p.o.Node, By: by, At: now, Note: w.note, More: len(puts) - 1 - i, Before: w.before, Deleted: w.value == nil}
		m := nats.NewMsg(policySubject + key(w.name))
		if w.value != nil {
			e.Document = p.o.Keys.sealDocument(w.name, w.value)
		} else {
			m.Header.Set("KV-Operation", "DEL")
		}
		if len(e.Document) > maxDocument {
			return nil, &Invalid{[]Problem{{w.name, "", fmt.Sprintf("is too large: it has %d bytes, and may have %d", len(e.Document), maxDocument)}}}
		}
		if m.Data, err = json.Marshal(e); err != nil {
			return nil, err
		}
		msgs = append(msgs, m)
	}
	for batch := range slices.Chunk(msgs, maxBatch) {
		last, err := p.publishBatch(ctx, batch, seen)
		if err != nil {
			return nil, err
		}
		for i := range batch {
			versions = append(versions, last-uint64(len(batch)-1-i))
		}
		seen = last
	}
	return versions, nil
}

// publishBatch writes messages as one and returns the sequence of the last one.
// Nothing else may have been written after sequence seen.
//
// JetStream does so since 2.12 (its ADR-50): all messages of a batch have its id
// and count from one, the last one says so, and only its answer tells whether
// they were stored. A single message needs none of that.
func (p *Policy) publishBatch(ctx context.Context, msgs []*nats.Msg, seen uint64) (uint64, error) {
	msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(seen, 10))
	id := event.NewID()
	size := 0
	for i, m := range msgs {
		if len(msgs) > 1 {
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		}
		size += len(m.Data)
		if i < len(msgs)-1 {
			// Where the server is asked for an answer it says whether it takes
			// the batch at all; now and then, so that not too much is on its way.
			if i > 0 && size < 1<<20 {
				if err := p.js.Conn().PublishMsg(m); err != nil {
					return 0, fmt.Errorf("%w: %w", ErrAway, err)
				}
				continue
			}
			size = 0
			if err := p.request(ctx, m, nil); err != nil {
				return 0, err
			}
			continue
		}
		if len(msgs) > 1 {
			m.Header.Set("Nats-Batch-Commit", "1")
		}
		var ack struct {
			Seq uint64 `json:"seq"`
		}
		if err := p.request(ctx, m, &ack); err != nil {
			return 0, err
		}
		return ack.Seq, nil
	}
	return 0, errors.New("nothing to write")
}

// request sends a message to the stream and reads the answer, which is empty for
// one in the middle of a batch.
func (p *Policy) request(ctx context.Context, m *nats.Msg, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	reply, err := p.js.Conn().RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if len(reply.Data) == 0 {
		return nil
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &failed); err != nil {
		return fmt.Errorf("answer of the policy store: %w", err)
	}
	switch e := failed.Error; {
	case e == nil:
	case e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return &conflictError{e}
	default:
		return fmt.Errorf("the policy store refused a write: %w", e)
	}
	if answer != nil {
		return json.Unmarshal(reply.Data, answer)
	}
	return nil
}
