package access

import (
	"context"
	"fmt"
	"time"

	"weir/internal/policy"
)

// objection is why a request is not granted; nil is none. The text is for
// those who may read logs, and holds nothing that the client has sent.
type objection struct {
	reason Reason
	why    string
}

// credential is what a client has shown that it knows: one of the keys of a
// method.
type credential struct {
	method method
	tag    tag
}

// tag names a key among those of a method. Another key of the same name has
// another tag; the zero tag is no key.
type tag [4]byte

// method is a way of authentication. The order is that in which they are tried:
// the one that waits for others comes last.
type method uint8

const (
	bySimple method = iota
	bySignature
	bySignedURL
	byExternal
	methods
)

func (m method) String() string {
	return [methods]string{"simple", "signature", "signed_url", "external"}[m]
}

// judgement is one request on its way through the checks.
type judgement struct {
	*Grant // what it comes to; its parts are there as far as they have been found

	gate *Gate

	held    *Grant // the request is granted and is looked at again
	explain bool   // the request is only explained, in steps
	steps   []Step
}

// judgement returns the one of r, whose expiries are judged by now.
func (g *Gate) judgement(r Request, now time.Time) judgement {
	return judgement{Grant: &Grant{request: r, set: g.policy(), since: now}, gate: g}
}

// judge takes the request through all checks.
func (j *judgement) judge(ctx context.Context) *objection {
	if o := j.findDomain(); o != nil {
		return j.object("domain", o)
	}
	if o := j.findApp(); o != nil {
		return j.object("app", o)
	}
	if o := j.checkName(); o != nil {
		return j.object("stream name", o)
	}
	if o := j.checkLists(); o != nil {
		return j.object("lists", o)
	}
	return j.authenticate(ctx)
}

// object notes an objection, and returns it.
func (j *judgement) object(check string, o *objection) *objection {
	j.note(check, false, o.why)
	return o
}

// note adds to an explanation. Whoever makes up a text asks first whether
// anybody wants it.
func (j *judgement) note(check string, passed bool, text string) {
	if j.explain {
		j.steps = append(j.steps, Step{check, passed, text})
	}
}

func (j *judgement) findDomain() *objection {
	r := &j.request
	use := r.Op.use()
	j.space, j.domain = j.set.Domain(r.Host)
	if r.Host == "" {
		j.space, j.domain = j.set.DefaultDomain(use)
	}
	switch {
	case j.domain == nil:
		return &objection{NoDomain, "no domain has that host name"}
	case !j.domain.Type.Allows(use):
		return &objection{NoDomain, "the domain is not for that"}
	case j.held != nil && j.held.space.Name != j.space.Name:
		return &objection{NoDomain, "the domain belongs to another space now"}
	}
	if j.explain {
		j.note("domain", true, fmt.Sprintf("%q is for %s, in the space %q", j.domain.Name, j.domain.Type, j.space.Name))
	}
	return nil
}

func (j *judgement) findApp() *objection {
	j.app = j.space.App(j.request.App)
	if j.app == nil && j.held != nil {
		j.app = j.held.app // which it keeps; to end everybody in it, an app is disabled
	}
	switch {
	case j.app == nil:
		return &objection{NoApp, "the space has no such app"}
	case j.app.Disabled:
		return &objection{NoApp, "the app is disabled"}
	}
	j.note("app", true, j.app.Name)
	return nil
}

func (j *judgement) checkName() *objection {
	if !policy.ValidStreamName(j.request.Stream) {
		return &objection{BadName, "the name of the stream is empty or illegal"}
	}
	j.note("stream name", true, j.request.Stream)
	return nil
}

// deny makes of an objection what the client is told.
func (j *judgement) deny(o *objection) *Denied {
	d := deny(j.request.Op, o.reason, j.domain)
	d.Why, d.Forbidden = o.why, o == forbidden
	return d
}
