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
	gate    *Gate
	set     *policy.Set
	request *Request
	now     time.Time // by which expiries are judged
	held    *Grant    // the request is granted and is looked at again
	steps   *[]Step   // the request is only explained

	space  *policy.Space
	domain *policy.Domain
	app    *policy.App
	passed []credential
}

// judge takes the request through all checks.
func (j *judgement) judge(ctx context.Context) *objection {
	for _, check := range [...]struct {
		name string
		run  func(*judgement) *objection
	}{
		{"domain", (*judgement).findDomain},
		{"app", (*judgement).findApp},
		{"stream name", (*judgement).checkName},
		{"lists", (*judgement).checkLists},
	} {
		o := check.run(j)
		if o != nil {
			j.note(check.name, false, "%s", o.why)
			return o
		}
	}
	return j.authenticate(ctx)
}

// note adds to an explanation.
func (j *judgement) note(name string, passed bool, format string, args ...any) {
	if j.steps != nil {
		*j.steps = append(*j.steps, Step{name, passed, fmt.Sprintf(format, args...)})
	}
}

func (j *judgement) findDomain() *objection {
	r := j.request
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
	j.note("domain", true, "%q is for %s, in the space %q", j.domain.Name, j.domain.Type, j.space.Name)
	return nil
}

func (j *judgement) findApp() *objection {
	j.app = j.space.App(j.request.App)
	switch {
	case j.app == nil:
		return &objection{NoApp, "the space has no such app"}
	case j.app.Disabled:
		return &objection{NoApp, "the app is disabled"}
	}
	j.note("app", true, "%q", j.app.Name)
	return nil
}

func (j *judgement) checkName() *objection {
	if !policy.ValidStreamName(j.request.Stream) {
		return &objection{BadName, "the name of the stream is empty or illegal"}
	}
	j.note("stream name", true, "%q", j.request.Stream)
	return nil
}

// deny makes of an objection what the client is told.
func (j *judgement) deny(o *objection) *Denied {
	d := deny(j.request.Op, o.reason, j.domain)
	d.Why = o.why
	return d
}

func (j *judgement) grant() *Grant {
	return &Grant{request: *j.request, space: j.space, domain: j.domain, app: j.app, since: j.now, passed: j.passed}
}
