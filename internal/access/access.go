// Package access answers one question: may this client publish or play?
//
// Every way to publish or play, over every protocol, is first written as the
// same value, a Request, whose names are canonical: FromRTMP and FromHTTP know
// the many forms in which clients send them. Gate.Check judges the Request by
// the policy of the moment and returns a Grant, which is what the parts that
// touch media accept, or the Denied that the client is to be told.
//
// The order of the checks is part of the contract (B.29): domain, app, name,
// lists, authentication. So nobody learns of a stream whose app he may not
// use, or whose streams he may not see. Each method of authentication has a
// file of its own; a judgement takes a request through all of them.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// Gate judges requests. Its methods may be called from any goroutine; its
// fields are set before that.
type Gate struct {
	// Node is how servers of customers are told this node's name.
	Node string

	// Lenient lets clients fail as often as they like; otherwise the answers
	// to an address that has failed often become slow, and then stop for a while.
	Lenient bool

	policy   func() *policy.Set
	compiled atomic.Pointer[compiled]
	compile  sync.Mutex // held by the one who stores compiled
	keys     atomic.Pointer[tokenKeys]
	nonces   nonces
	limiter  limiter
}

// NewGate returns a Gate that judges each request by the Set that policy
// returns at that time.
func NewGate(policy func() *policy.Set) *Gate {
	key := make([]byte, 32)
	rand.Read(key)
	g := &Gate{policy: policy}
	g.keys.Store(&tokenKeys{now: newKeyed(sha256.New, key)})
	return g
}

// tokenKeys are those of segment tokens.
type tokenKeys struct {
	now    *keyed
	before *keyed // of tokens that were given earlier, and are good as well; or nil
}

// SetTokenKey makes the tokens of segments those of key, which other nodes may
// have as well: then a token that one of them gave is good here, and those of
// before a restart stay so. Without it the key is one that only this process
// knows. Tokens that were given by the key before stay good.
func (g *Gate) SetTokenKey(key []byte) {
	g.keys.Store(&tokenKeys{newKeyed(sha256.New, key), g.keys.Load().now})
}

// Check returns the right to do what r asks for, or a *Denied. It may wait: for
// the server of a customer, for some seconds, and longer and longer before it
// denies clients that fail all the time. It then ends with ctx, whose error it
// returns.
func (g *Gate) Check(ctx context.Context, r Request) (*Grant, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, span := tracing.Start(ctx, "gate", "protocol", r.Protocol)
	defer span.End()
	j := g.judgement(r, time.Now())
	if o := j.judge(ctx); o != nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := j.deny(o)
		span.Set("reason", string(d.Reason))
		return nil, d
	}
	return j.Grant, nil
}

// Recheck says whether the holder of grant still may what it was granted: nil,
// or the *Denied that it would get now. That a URL was valid until some time
// only means that it had to be used by then; the server of a customer is not
// asked again; and an app that has been taken away, not disabled, stays as it
// was for those who are in it.
func (g *Gate) Recheck(grant *Grant) error {
	if g.policy() == grant.set { // in which time takes no right away
		return nil
	}
	j := g.judgement(grant.request, grant.since)
	j.held = grant
	if o := j.judge(context.Background()); o != nil {
		return j.deny(o)
	}
	return nil
}

// Explain takes r through the checks like Check, as far as that has no effect:
// no server is asked, and neither nonces nor failures are remembered. It
// returns what each check found; the last Step says why r is denied, or that it
// is not.
func (g *Gate) Explain(r Request) []Step {
	j := g.judgement(r, time.Now())
	j.explain = true
	if o := j.judge(context.Background()); o != nil {
		return append(j.steps, Step{"denied", false, j.deny(o).Message})
	}
	success := PlaySuccess
	if r.Op == Publish {
		success = PublishSuccess
	}
	return append(j.steps, Step{"granted", true, success})
}

// Step is one check of a request.
type Step struct {
	Name   string // of the check
	Passed bool
	Text   string // what was found
}

// Grant is the right of one client to do what it asked for. It keeps the
// policy that it was granted by. Only a Gate makes one; it never changes.
type Grant struct {
	request Request
	set     *policy.Set
	space   *policy.Space
	domain  *policy.Domain
	app     *policy.App
	since   time.Time
	passed  []credential // what authenticated the client
}

// Key names the stream that the grant is for.
func (g *Grant) Key() stream.Key {
	return stream.Key{Space: g.space.Name, App: g.app.Name, Name: g.request.Stream}
}

// Space is the space of the stream.
func (g *Grant) Space() *policy.Space { return g.space }

// Domain is the domain by which the client came.
func (g *Grant) Domain() *policy.Domain { return g.domain }

// App is the app of the stream.
func (g *Grant) App() *policy.App { return g.app }

// Op is what the client may do.
func (g *Grant) Op() Op { return g.request.Op }

// Request is what was granted.
func (g *Grant) Request() Request { return g.request }

// Private reports whether what the client gets is for it alone, and not for a
// cache that would give it to others.
func (g *Grant) Private() bool {
	a := g.domain.Access(g.request.Op.use())
	return a.Restricts() && !(g.request.isSegment() && a.Segments == policy.SegmentsExempt)
}

// Deny is the answer to the holder of g when what was granted cannot be done
// after all: StreamExists or NoStream, which only the hub knows, or Blocked for a
// player that was ended.
func (g *Grant) Deny(reason Reason) *Denied { return deny(g.request.Op, reason, g.domain) }
