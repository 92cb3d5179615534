// Package access answers one question: may this client publish or play?
//
// Every way to publish or play, over every protocol, is first written as the
// same value, a Request, whose names are canonical: FromRTMP and FromHTTP know
// the many forms in which clients send them. Gate.Check judges the Request by
// the policy of the moment and returns a Grant, which is what the parts that
// touch media accept, or the Denied that the client is to be told.
package access

import (
	"context"

	"weir/internal/policy"
	"weir/internal/stream"
)

// Gate judges requests. Its methods may be called from any goroutine.
type Gate struct {
	policy func() *policy.Set
}

// NewGate returns a Gate that judges each request by the Set that policy
// returns at that time.
func NewGate(policy func() *policy.Set) *Gate { return &Gate{policy} }

// Check returns the right to do what r asks for, or a *Denied. It may wait for
// others to answer; it then ends with ctx, whose error it returns.
//
// The order of the checks is part of the contract (B.29): domain, app, name. So
// nobody learns of a stream whose app he may not use.
func (g *Gate) Check(ctx context.Context, r Request) (*Grant, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	set, use := g.policy(), r.Op.use()
	space, domain := set.Domain(r.Host)
	if r.Host == "" {
		space, domain = set.DefaultDomain(use)
	}
	if domain == nil || !domain.Type.Allows(use) {
		return nil, deny(r.Op, NoDomain, nil)
	}
	app := space.App(r.App)
	if app == nil || app.Disabled {
		return nil, deny(r.Op, NoApp, domain)
	}
	if !policy.ValidStreamName(r.Stream) {
		return nil, deny(r.Op, BadName, domain)
	}
	return &Grant{request: r, space: space, domain: domain, app: app}, nil
}

// Grant is the right of one client to do what it asked for. It keeps the
// policy that it was granted by. Only a Gate makes one; it never changes.
type Grant struct {
	request Request
	space   *policy.Space
	domain  *policy.Domain
	app     *policy.App
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

// Request is what was granted.
func (g *Grant) Request() Request { return g.request }

// Deny is the answer to the holder of g when what was granted cannot be done
// after all: StreamExists or NoStream, which only the hub knows.
func (g *Grant) Deny(reason Reason) *Denied { return deny(g.request.Op, reason, g.domain) }
