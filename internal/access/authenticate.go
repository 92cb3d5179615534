package access

import (
	"context"
	"crypto/sha1"
	"crypto/subtle"
	"fmt"
	"strconv"
	"time"

	"weir/internal/policy"
)

// authenticate is all methods of the domain.
func (j *judgement) authenticate(ctx context.Context) *objection {
	a := j.domain.Access(j.request.Op.use())
	if !a.Authenticates() {
		j.note("authentication", true, "not needed at this domain")
		return nil
	}
	rules := j.gate.rules(j.set, a)
	if j.request.isSegment() {
		return j.segment(rules)
	}
	if j.request.Protocol == HLS {
		if _, ok := j.request.Params.Lookup(segmentParam); ok {
			if j.variant(rules) == nil {
				return nil
			}
		}
	}
	real := j.held == nil && !j.explain && !j.gate.Lenient
	if real && !j.gate.limiter.open(j.request.Addr.Addr(), j.since) {
		return &objection{TooManyFailures, "the address has failed too often"}
	}
	o := j.tryAll(ctx, rules)
	if real && o != nil && o.reason == AuthFailed {
		j.gate.limiter.failed(ctx, j.request.Addr.Addr(), j.since)
	}
	return o
}

// tryAll takes the request through each method that the domain has, until it
// is known what comes of it.
func (j *judgement) tryAll(ctx context.Context, rules *rules) *objection {
	any := rules.access.Require == policy.RequireAny
	var first *objection
	for m := range methods {
		if !rules.has(m) {
			continue
		}
		key, o := j.try(ctx, rules, m)
		switch {
		case o == nil:
			j.passed = append(j.passed, credential{m, rules.tags[m][key]})
			if any {
				return nil
			}
			continue
		case first == nil || first.reason == AuthMissing && o.reason != AuthMissing:
			// Of methods of which any will do, the client has tried that whose
			// parameters are there.
			first = o
		}
		j.object(m.String(), o)
		if !any {
			return o
		}
	}
	return first
}

// try is one method. It returns which key of it has authenticated the client.
func (j *judgement) try(ctx context.Context, rules *rules, m method) (key int, o *objection) {
	a := rules.access
	switch m {
	case bySimple:
		return j.simple(a.Simple)
	case bySignature:
		return j.signature(a.Signature, rules.signers)
	case bySignedURL:
		return j.signedURL(a.SignedURL)
	}
	return 0, j.external(ctx, rules.external)
}

// param returns the value of a parameter that must be there, once.
func (j *judgement) param(key string) (string, *objection) {
	value, found := "", false
	for _, p := range j.request.Params {
		if p.Key != key {
			continue
		}
		if found {
			return "", &objection{AuthFailed, "there is more than one parameter " + key}
		}
		value, found = p.Value, true
	}
	if value == "" {
		return "", &objection{AuthMissing, "there is no parameter " + key}
	}
	return value, nil
}

// decimal reads a time of exactly ten digits (contract B.2), so that what is
// hashed next to it cannot lend it one.
func decimal(s string) (int64, bool) {
	if len(s) != 10 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// hexadecimal reads a time of exactly eight hexadecimal digits.
func hexadecimal(s string) (int64, bool) {
	if len(s) != 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 63)
	return int64(n), err == nil
}

// expiry judges a URL that may be used until end, which by itself is a valid
// time (contract B.5).
func (j *judgement) expiry(end int64, longest time.Duration) *objection {
	left := end - j.since.Unix()
	switch {
	case left < 0:
		return &objection{AuthExpired, fmt.Sprintf("it has expired %v ago", time.Duration(-left)*time.Second)}
	case longest > 0 && left > int64(longest/time.Second):
		return &objection{AuthFailed, fmt.Sprintf("it is valid for another %v, which is longer than max_validity allows", time.Duration(left)*time.Second)}
	}
	return nil
}

// pick returns the index of the key whose hash is the one that was sent, and
// false if there is none. A key that is not set has none.
func pick(sent string, hash func(dst []byte, key string) []byte, keys ...policy.Secret) (int, bool) {
	var buf [64]byte
	for i, k := range keys {
		if !k.IsZero() && subtle.ConstantTimeCompare(hash(buf[:0], k.Reveal()), []byte(sent)) == 1 {
			return i, true
		}
	}
	return 0, false
}

// compiled is what a Gate makes of a policy.
type compiled struct {
	set   *policy.Set
	keys  *tokenKeys
	rules map[*policy.Access]*rules // of those who authenticate
}

// rules is a policy.Access made ready for use.
type rules struct {
	access   *policy.Access
	external *client        // nil without External
	tags     [methods][]tag // of the keys, by the index that the method knows them by
	before   [methods][]tag // the same in tokens that were given earlier
	signers  []*keyed       // of the access keys
}

// has reports whether the method is in use.
func (r *rules) has(m method) bool {
	a := r.access
	return [methods]bool{a.Simple != nil, a.Signature != nil, a.SignedURL != nil, a.External != nil}[m]
}

// rules returns a made ready; a is of set, and authenticates.
func (g *Gate) rules(set *policy.Set, a *policy.Access) *rules {
	c, keys := g.compiled.Load(), g.keys.Load()
	if c != nil && c.set == set && c.keys == keys {
		return c.rules[a]
	}
	g.compile.Lock()
	defer g.compile.Unlock()
	if c = g.compiled.Load(); c != nil && c.set == set && c.keys == keys {
		return c.rules[a]
	}
	old := c
	c = &compiled{set, keys, make(map[*policy.Access]*rules)}
	for i := range set.Spaces {
		sp := &set.Spaces[i]
		for j := range sp.Domains {
			for _, a := range []*policy.Access{&sp.Domains[j].Publish, &sp.Domains[j].Play} {
				if a.Authenticates() {
					c.rules[a] = g.newRules(keys, sp, a)
				}
			}
		}
	}
	g.compiled.Store(c)
	if old != nil {
		for _, r := range old.rules {
			if r.external != nil {
				r.external.close()
			}
		}
	}
	return c.rules[a]
}

func (g *Gate) newRules(by *tokenKeys, sp *policy.Space, a *policy.Access) *rules {
	r := &rules{access: a}
	add := func(m method, use bool, parts ...string) {
		var t tag
		if use {
			text := fmt.Sprintf("credential %v %q", m, parts)
			copy(t[:], by.now.sum(nil, text))
			if by.before != nil {
				r.before[m] = append(r.before[m], tag(by.before.sum(nil, text)))
			}
		}
		r.tags[m] = append(r.tags[m], t)
	}
	keys := func(m method, parts ...policy.Secret) {
		for _, k := range parts {
			add(m, !k.IsZero(), k.Reveal())
		}
	}
	if s := a.Simple; s != nil {
		keys(bySimple, s.Key, s.SpareKey)
	}
	if a.Signature != nil {
		for _, k := range sp.AccessKeys {
			add(bySignature, !k.Disabled, k.ID, k.Secret.Reveal())
			r.signers = append(r.signers, newKeyed(sha1.New, []byte(k.Secret.Reveal())))
		}
	}
	if s := a.SignedURL; s != nil {
		keys(bySignedURL, s.Key, s.SpareKey)
	}
	if e := a.External; e != nil {
		add(byExternal, true, string(e.URL))
		r.external = newClient(g.Node, e)
	}
	return r
}
