package access

import (
	"crypto/rand"
	"crypto/sha1"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weir/internal/policy"
)

// FromURL makes a Request of the URL that somebody would push to or play from:
// rtmp, rtmps, http, https, ws or wss. It sets no address.
//
// The error is ErrNotStream, a *Denied, or says what is wrong with the URL.
func FromURL(op Op, raw string) (Request, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Request{}, fmt.Errorf("read URL: %w", err)
	}
	switch u.Scheme {
	case "rtmp", "rtmps":
		path, query, _ := strings.Cut(strings.TrimPrefix(raw, u.Scheme+"://"), "?")
		dir, name := cutLast(path)
		_, app, _ := strings.Cut(dir, "/")
		r, err := FromRTMP(op, app, u.Scheme+"://"+dir, name+"?"+query)
		r.Protocol = u.Scheme
		return r, err
	case "http", "https", "ws", "wss":
		if op == Publish {
			return Request{}, fmt.Errorf("read URL: nobody can push over %s", u.Scheme)
		}
		req := &http.Request{URL: u, Host: u.Host, Header: http.Header{}}
		if strings.HasPrefix(u.Scheme, "ws") {
			req.Header.Set("Upgrade", "websocket")
		}
		return FromHTTP(req)
	}
	return Request{}, fmt.Errorf("read URL: %q is none of rtmp, rtmps, http, https, ws and wss", u.Scheme)
}

// Signed is what a URL needs to be granted.
type Signed struct {
	Methods []string  // by which it is
	Until   time.Time // earlier than was asked for if the policy says so
	Prefix  string    // goes before the path
	Query   string    // goes behind it, after "?"
}

// Apply returns the URL raw, which is one that FromURL takes, with what it needs.
func (s *Signed) Apply(raw string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	host, path, _ := strings.Cut(rest, "/")
	path, query, _ := strings.Cut(path, "?")
	if query != "" && s.Query != "" {
		query += "&"
	}
	if query += s.Query; query != "" {
		query = "?" + query
	}
	return scheme + "://" + host + s.Prefix + "/" + path + query
}

// Sign returns what must be added to the URL of r, which has no parameters of
// authentication, so that Check grants it until that time. Where any method
// will do there is one for each. The parameter token of an external server is
// TOKEN: only its owner knows a better one.
//
// The error is a *Denied for what no signature can help.
func (g *Gate) Sign(r Request, until time.Time) ([]Signed, error) {
	j := g.judgement(r, time.Now())
	for _, check := range []func() *objection{j.findDomain, j.findApp, j.checkName} {
		if o := check(); o != nil {
			return nil, j.deny(o)
		}
	}
	a := j.domain.Access(r.Op.use())
	rules := rules{access: a}
	var sets [][]method // that go into one URL
	for m := range methods {
		if !rules.has(m) {
			continue
		}
		if sets == nil || a.Require == policy.RequireAny {
			sets = append(sets, nil)
		}
		last := &sets[len(sets)-1]
		*last = append(*last, m)
	}
	var list []Signed
	for _, set := range sets {
		s := Signed{Until: until}
		for _, m := range set {
			s.Methods = append(s.Methods, m.String())
			s.Until = j.latest(m, s.Until)
		}
		for _, m := range set {
			if err := j.sign(&s, m); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// latest returns the latest end of validity, not after until, that a method allows.
func (j *judgement) latest(m method, until time.Time) time.Time {
	a, longest := j.domain.Access(j.request.Op.use()), time.Duration(0)
	switch m {
	case bySimple:
		longest = a.Simple.MaxValidity
	case bySignature:
		longest = a.Signature.MaxValidity
	case bySignedURL:
		longest = a.SignedURL.MaxValidity
	}
	if end := j.since.Add(longest); longest > 0 && end.Before(until) {
		return end
	}
	return until
}

// sign adds to s what one method needs.
func (j *judgement) sign(s *Signed, m method) error {
	a, r := j.domain.Access(j.request.Op.use()), &j.request
	end := strconv.FormatInt(s.Until.Unix(), 10)
	switch m {
	case bySimple:
		s.add("t", end)
		s.add("k", string(r.simple(nil, a.Simple.Key.Reveal(), end)))
	case bySignature:
		key := j.accessKeyInUse()
		if key == nil {
			return fmt.Errorf("all access keys of the space %q are disabled", j.space.Name)
		}
		params := Params{{"nonce", "", "nonce=" + rand.Text()}}
		if a.Signature.Strict {
			params = append(params, Param{"app", "", "app=" + r.App}, Param{"stream", "", "stream=" + r.Stream})
		}
		for _, p := range params {
			key, value, _ := strings.Cut(p.Raw, "=")
			s.add(key, value)
		}
		text, _ := resource(params, nil, false)
		s.add("accesskey", key.ID)
		s.add("expire", end)
		s.add("signature", signature(newKeyed(sha1.New, []byte(key.Secret.Reveal())), end, "\n"+text))
	case bySignedURL:
		u := a.SignedURL
		at := stamp(u.Type, s.Until.Add(-u.ValidFor))
		key := u.Key.Reveal()
		switch u.Type {
		case policy.URLTypeA:
			s.add("auth_key", at+"-0-0-"+string(r.urlHash(nil, u.Type, key, at, "0-0")))
		case policy.URLTypeC:
			s.Prefix = "/" + string(r.urlHash(nil, u.Type, key, at, "")) + "/" + at
		case policy.URLTypeD:
			s.add("sign", string(r.urlHash(nil, u.Type, key, at, "")))
			s.add("t", at)
		case policy.URLTypeTx:
			s.add("txSecret", string(r.urlHash(nil, u.Type, key, at, "")))
			s.add("txTime", at)
		}
	case byExternal:
		s.add("token", "TOKEN")
	}
	return nil
}

func (j *judgement) accessKeyInUse() *policy.AccessKey {
	for i := range j.space.AccessKeys {
		if k := &j.space.AccessKeys[i]; !k.Disabled {
			return k
		}
	}
	return nil
}

// add adds a parameter, unless it is there.
func (s *Signed) add(key, value string) {
	pair := key + "=" + url.QueryEscape(value)
	switch {
	case s.Query == "":
		s.Query = pair
	case !strings.Contains("&"+s.Query+"&", "&"+pair+"&"):
		s.Query += "&" + pair
	}
}
