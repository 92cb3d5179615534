package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"weir/internal/policy"
	"weir/internal/tracing"
)

// external is the authentication by a server of the customer (contract A.4).
func (j *judgement) external(ctx context.Context, c *client) *objection {
	token, o := j.param("token")
	if o != nil {
		return o
	}
	if j.held != nil {
		return nil
	}
	if j.explain {
		j.note("external", true, "the server at "+c.host+" would be asked")
		return nil
	}
	v := c.decide(ctx, j, token)
	switch {
	case v.err != nil && j.request.Op == Play && c.policy.OnError == policy.OnErrorAllow:
		return nil
	case v.err != nil:
		return &objection{AuthUnavailable, "the server that decides cannot be asked: " + v.err.Error()}
	case !v.allow:
		return &objection{AuthFailed, "the server that decides says no"}
	}
	return nil
}

// Limits of what is read of an answer.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 16 << 10
	maxRemembered   = 1 << 16 // decisions of one client
)

// client asks one server. Its requests wait for each other and for nobody
// else's.
type client struct {
	policy    *policy.External
	node      string
	host      string // of the URL, for logs
	transport *http.Transport
	slots     chan struct{} // one for each request under way

	mu         sync.Mutex
	remembered map[question]*decision
	swept      time.Time
}

func newClient(node string, e *policy.External) *client {
	dialer := &net.Dialer{Control: policy.GuardDial(e.AllowNetworks)}
	c := &client{
		policy: e,
		node:   node,
		slots:  make(chan struct{}, e.Concurrency),
		transport: &http.Transport{ // no proxy: it would dial for us
			DialContext:            dialer.DialContext,
			MaxIdleConnsPerHost:    e.Concurrency,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true,
		},
		remembered: make(map[question]*decision),
	}
	if u, err := url.Parse(string(e.URL)); err == nil {
		c.host = u.Host
	}
	return c
}

// close ends the connections of a client that will not be used again.
func (c *client) close() { c.transport.CloseIdleConnections() }

// verdict is what a server has decided, or why it has not.
type verdict struct {
	allow bool
	err   error
}

// question is what decisions about HLS players are remembered by.
type question struct {
	addr                     netip.Addr
	token, host, app, stream string
}

// decision is a verdict that is known or on its way.
type decision struct {
	done  chan struct{} // closed when the verdict is there
	until time.Time     // how long it holds, once it is there
	verdict
}

// decide returns the verdict about r. A player of HLS asks for playlists all
// the time: what was decided for him holds for a while.
func (c *client) decide(ctx context.Context, j *judgement, token string) verdict {
	r := &j.request
	if r.Protocol != HLS || c.policy.Remember == 0 {
		return c.ask(ctx, j, token)
	}
	q := question{r.Addr.Addr(), token, r.Host, r.App, r.Stream}
	now := time.Now()
	c.mu.Lock()
	known := c.remembered[q]
	if known == nil || !known.until.IsZero() && !now.Before(known.until) {
		c.sweep(now)
		known = &decision{done: make(chan struct{})}
		if len(c.remembered) < maxRemembered {
			c.remembered[q] = known
		}
		c.mu.Unlock()
		// Others wait for it: it does not end with this one request.
		v := c.ask(context.WithoutCancel(ctx), j, token)
		hold := c.policy.Remember
		if v.err != nil {
			hold = min(hold, time.Second)
		}
		c.mu.Lock()
		known.verdict, known.until = v, time.Now().Add(hold)
		close(known.done)
	}
	c.mu.Unlock()
	select {
	case <-known.done:
		return known.verdict
	case <-ctx.Done():
		return verdict{err: ctx.Err()}
	}
}

// sweep forgets decisions that hold no more, at most once a second. c.mu is held.
func (c *client) sweep(now time.Time) {
	if now.Sub(c.swept) < time.Second {
		return
	}
	c.swept = now
	for q, d := range c.remembered {
		if !d.until.IsZero() && !now.Before(d.until) {
			delete(c.remembered, q)
		}
	}
}

// ask asks the server, a second time if the first brings nothing and there is
// time left.
func (c *client) ask(ctx context.Context, j *judgement, token string) verdict {
	ctx, cancel := context.WithTimeout(ctx, c.policy.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return verdict{err: errors.New("too many requests are waiting for it")}
	}
	id := rand.Text()
	body, contentType := c.question(id, j, token)
	v := c.post(ctx, id, body, contentType)
	if v.err != nil && ctx.Err() == nil {
		v = c.post(ctx, id, body, contentType)
	}
	return v
}

// post sends a question once.
func (c *client) post(ctx context.Context, id string, body []byte, contentType string) verdict {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(c.policy.URL), bytes.NewReader(body))
	if err != nil {
		return verdict{err: errors.New("its URL is not one")}
	}
	ctx, span := tracing.Start(ctx, "ask the owner")
	defer span.End()
	now := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "weir")
	req.Header.Set("Weir-Event-Id", id)
	req.Header.Set("Weir-Timestamp", now)
	if s := c.policy.Secret; !s.IsZero() {
		req.Header.Set("Weir-Signature", s.Sign(now, ".", id, ".", string(body)))
	}
	tracing.Inject(ctx, req.Header)
	resp, err := c.transport.RoundTrip(req) // which follows no redirects
	if err != nil {
		return verdict{err: err}
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case 400 <= status && status < 500:
		return verdict{}
	case status < 200 || status >= 300:
		return verdict{err: fmt.Errorf("it answers with status %d", status)}
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return verdict{err: fmt.Errorf("read its answer: %w", err)}
	case len(answer) > maxAnswer:
		return verdict{err: errors.New("its answer is too long")}
	}
	return read(answer)
}

// read reads the body of an answer with a status of success. Nothing, the
// number 0, and an object without code or with the code 0 say yes; another
// number or code says no.
func read(body []byte) verdict {
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return verdict{allow: true}
	}
	var number float64
	var object struct{ Code json.RawMessage }
	switch {
	case body[0] == '{' && json.Unmarshal(body, &object) == nil:
		if object.Code == nil {
			return verdict{allow: true}
		}
		err := json.Unmarshal(object.Code, &number)
		return verdict{allow: err == nil && number == 0 && object.Code[0] != 'n'} // null is not 0
	case body[0] != 'n' && json.Unmarshal(body, &number) == nil:
		return verdict{allow: number == 0}
	}
	return verdict{err: errors.New("its answer is neither empty, nor a number, nor a JSON object")}
}

// question returns the body of a request, and its type.
func (c *client) question(id string, j *judgement, token string) ([]byte, string) {
	r := &j.request
	domain := cmp.Or(r.Host, j.domain.Name)
	var params pairs
	for _, p := range r.Params {
		params.add(p.Key, p.Value)
	}
	if c.policy.Body == policy.BodyForm {
		return form(id, domain, r, token, params), "application/x-www-form-urlencoded"
	}
	pubParam, _ := json.Marshal(params)
	body, _ := json.Marshal(struct {
		Version, RequestId, Action, Protocol, UniqueName, App, Domain, Stream, ClientIp, ClientPort, Node, Token, PubParam, TcUrl, Referer, UserAgent string
	}{
		"1.0", id, r.Op.String(), r.Protocol, j.space.Name, r.App, domain, r.Stream, r.Addr.Addr().String(), strconv.Itoa(int(r.Addr.Port())),
		c.node, token, string(pubParam), r.TcURL, r.Referer, r.UserAgent,
	})
	return body, "application/json"
}

// form is the body with the names of nginx-rtmp. What the client has sent as
// parameters comes last, and cannot stand for what we say.
func form(id, domain string, r *Request, token string, params pairs) []byte {
	var all pairs
	for _, p := range [][2]string{
		{"call", r.Op.String()}, {"app", r.App}, {"name", r.Stream}, {"addr", r.Addr.Addr().String()}, {"clientid", id}, {"tcurl", r.TcURL},
		{"flashver", r.FlashVer}, {"swfurl", r.SwfURL}, {"pageurl", r.PageURL}, {"protocol", r.Protocol}, {"domain", domain}, {"token", token},
	} {
		all.add(p[0], p[1])
	}
	for _, p := range params {
		all.add(p[0], p[1])
	}
	var b []byte
	for i, p := range all {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, url.QueryEscape(p[0])+"="+url.QueryEscape(p[1])...)
	}
	return b
}

// pairs is keys and values in order, each key once: the first counts.
type pairs [][2]string

func (o *pairs) add(key, value string) {
	for _, p := range *o {
		if p[0] == key {
			return
		}
	}
	*o = append(*o, [2]string{key, value})
}

// MarshalJSON writes an object.
func (o pairs) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, p := range o {
		if i > 0 {
			b = append(b, ',')
		}
		key, _ := json.Marshal(p[0])
		value, _ := json.Marshal(p[1])
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}
