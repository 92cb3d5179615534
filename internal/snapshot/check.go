package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Limits of what is read of a checker's answer.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 16 << 10
	maxAlertText    = 256
)

// The alerts that a check raises.
const (
	alertScene       = "scene"               // the owner's server says so
	alertUnavailable = "scene_check_failing" // it cannot be asked
)

// checks is the servers of owners that look at pictures.
type checks struct {
	mu      sync.Mutex
	clients map[*policy.SnapshotCheck]*checker
}

// alert is one that is raised.
type alert struct {
	since    time.Time
	callback *event.Callback // who was told
}

// checker asks one server.
type checker struct {
	policy    *policy.SnapshotCheck
	transport *http.Transport
	slots     chan struct{} // one for each request under way
	used      time.Time     // checks.mu is held
}

// client returns who asks the server of c.
func (k *checks) client(c *policy.SnapshotCheck, now time.Time) *checker {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clients == nil {
		k.clients = make(map[*policy.SnapshotCheck]*checker)
	}
	x := k.clients[c]
	if x == nil {
		for old, x := range k.clients { // of policies that were replaced
			if now.Sub(x.used) > time.Hour {
				x.transport.CloseIdleConnections()
				delete(k.clients, old)
			}
		}
		x = newChecker(c)
		k.clients[c] = x
	}
	x.used = now
	return x
}

// close ends the connections.
func (k *checks) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, x := range k.clients {
		x.transport.CloseIdleConnections()
	}
}

func newChecker(c *policy.SnapshotCheck) *checker {
	dialer := &net.Dialer{Control: policy.GuardDial(c.AllowNetworks)}
	return &checker{
		policy: c,
		slots:  make(chan struct{}, c.Concurrency),
		transport: &http.Transport{ // no proxy: it would dial for us
			DialContext:            dialer.DialContext,
			MaxIdleConnsPerHost:    c.Concurrency,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true,
		},
	}
}

// finding is what a server says about a picture. One that says nothing has
// found nothing.
type finding struct {
	Action string `json:"action"` // pass or empty, alert, forbid
	Text   string `json:"text"`
}

// check has a picture looked at, and acts upon what is found. It does not wait.
func (s *Snapshotter) check(c *capture, p *Picture) {
	x := s.checks.client(c.cfg.Check, time.Now())
	s.tasks.Go(func() { // ends with the answer, or the timeout
		f, err := x.ask(s.ctx, p)
		switch {
		case s.ctx.Err() != nil:
		case err != nil:
			s.log.Warn("picture not checked", "stream", p.Stream, "err", err)
			s.raise(c, alertUnavailable, "the pictures of the stream cannot be checked: "+err.Error())
			if c.cfg.Check.OnError == policy.OnErrorDeny {
				s.forbid(c, "its pictures cannot be checked")
			}
		default:
			s.clear(c, alertUnavailable)
			s.act(c, f)
		}
	})
}

// act does what a server has asked for.
func (s *Snapshotter) act(c *capture, f finding) {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(f.Text, ""))
	if len(text) > maxAlertText {
		text = strings.ToValidUTF8(text[:maxAlertText], "")
	}
	switch f.Action {
	case "", "pass":
		s.clear(c, alertScene)
	case "alert":
		s.raise(c, alertScene, text)
	case "forbid":
		s.raise(c, alertScene, text)
		s.forbid(c, text)
	}
}

func (s *Snapshotter) forbid(c *capture, why string) {
	until := time.Time{}
	if d := c.cfg.Check.Forbid; d > 0 {
		until = time.Now().Add(d)
	}
	s.opt.Forbid(c.push.pub.Stream().Key(), until, why)
}

// newest notes that c decides about an alert, and reports false when a picture that
// was captured later has done so: answers come in any order. p.mu is held.
func (p *push) newest(c *capture, name string) bool {
	if c.at.Before(p.decided[name]) {
		return false
	}
	if p.decided == nil {
		p.decided = make(map[string]time.Time)
	}
	p.decided[name] = c.at
	return true
}

// raise raises an alert of a push that is not raised, unless the push is over.
func (s *Snapshotter) raise(c *capture, name, text string) {
	p := c.push
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.alerts[name]; !p.newest(c, name) || known || p.over {
		return
	}
	if p.alerts == nil {
		p.alerts = make(map[string]alert)
	}
	a := alert{time.Now(), s.opt.AlertCallback(p.pub)}
	p.alerts[name] = a
	s.tell(p, a.since, event.AlertRaised{Alert: name, Text: text, Callback: a.callback})
}

// clear clears an alert, if it is raised.
func (s *Snapshotter) clear(c *capture, name string) {
	c.push.mu.Lock()
	defer c.push.mu.Unlock()
	if c.push.newest(c, name) {
		s.clearAlert(c.push, name)
	}
}

// clearAlert is clear; p.mu is held.
func (s *Snapshotter) clearAlert(p *push, name string) {
	if a, known := p.alerts[name]; known {
		delete(p.alerts, name)
		s.tell(p, time.Now(), event.AlertCleared{Alert: name, Since: a.since, Callback: a.callback})
	}
}

// Ended clears the alerts of pub; it has none from then on. It is what
// stream.Options.Ended calls.
func (s *Snapshotter) Ended(pub *stream.Publication) {
	p := s.pushes.find(pub)
	switch {
	case p != nil:
	case pub.App().Snapshot.Check == nil:
		return // it has no alerts
	default:
		p = s.pushes.of(pub) // who follows it is late
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for _, name := range []string{alertScene, alertUnavailable} {
		s.clearAlert(p, name)
	}
}

// ask asks the server, a second time if the first brings nothing and there is
// time left.
func (x *checker) ask(ctx context.Context, p *Picture) (finding, error) {
	ctx, cancel := context.WithTimeout(ctx, x.policy.Timeout)
	defer cancel()
	select {
	case x.slots <- struct{}{}:
		defer func() { <-x.slots }()
	case <-ctx.Done():
		return finding{}, errors.New("too many requests are waiting for the server")
	}
	id := event.NewID()
	f, err := x.post(ctx, id, p)
	if err != nil && ctx.Err() == nil {
		f, err = x.post(ctx, id, p)
	}
	return f, err
}

// post sends a picture once. What says whose it is, is signed with it.
func (x *checker) post(ctx context.Context, id string, p *Picture) (finding, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(x.policy.URL), bytes.NewReader(p.JPEG))
	if err != nil {
		return finding{}, errors.New("its URL is not one")
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	h := req.Header
	h.Set("Content-Type", "image/jpeg")
	h.Set("User-Agent", "weir")
	h.Set("Weir-Event-Id", id)
	h.Set("Weir-Timestamp", now)
	h.Set("Weir-Stream", p.Stream.String())
	h.Set("Weir-Sequence", p.Sequence)
	h.Set("Weir-Captured", strconv.FormatInt(p.Captured.UnixMilli(), 10))
	if s := x.policy.Secret; !s.IsZero() {
		said := fmt.Sprintf("%s.%s.%s.%s.%s.", now, id, p.Stream, p.Sequence, h.Get("Weir-Captured"))
		h.Set("Weir-Signature", s.Sign(said, string(p.JPEG)))
	}
	resp, err := x.transport.RoundTrip(req) // which follows no redirects
	if err != nil {
		return finding{}, errors.New("the server cannot be reached")
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return finding{}, fmt.Errorf("the server answers with status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return finding{}, errors.New("the server's answer breaks off")
	case len(b) > maxAnswer:
		return finding{}, errors.New("the server's answer is too long")
	}
	return readFinding(b)
}

// readFinding reads the body of an answer: empty, or a JSON object.
func readFinding(b []byte) (f finding, err error) {
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return f, nil
	}
	if b[0] != '{' || json.Unmarshal(b, &f) != nil {
		return f, errors.New("the server's answer is neither empty nor a JSON object")
	}
	switch f.Action {
	case "", "pass", "alert", "forbid":
		return f, nil
	}
	return finding{}, errors.New("the server's answer has an action other than pass, alert and forbid")
}
