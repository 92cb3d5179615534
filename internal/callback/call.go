package callback

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/tracing"
)

// Headers of a call, beside Content-Type.
const (
	HeaderID        = "Weir-Event-Id"   // of the fact: the same over all attempts
	HeaderType      = "Weir-Event-Type" // of the fact
	HeaderFormat    = "Weir-Event-Format"
	HeaderAttempt   = "Weir-Attempt"   // from 1
	HeaderTimestamp = "Weir-Timestamp" // of this attempt, unix seconds
	HeaderSignature = "Weir-Signature"
)

// Sign returns the signature of a call whose headers and body these are, as
// HeaderSignature has it.
func Sign(secret policy.Secret, timestamp, id string, body []byte) string {
	return secret.Sign(timestamp, ".", id, ".", string(body))
}

// Limits of an answer.
const (
	maxAnswer       = 64 << 10 // what is read of its body
	maxAnswerHeader = 16 << 10
	keptAnswer      = 512             // what the delivery log has of its body
	answerTime      = 2 * time.Second // for its body, whose status has said all
	maxRetryAfter   = time.Hour
)

// caller makes the calls of one receiver, over connections of its own.
type caller struct {
	delivery  *policy.Delivery
	transport *http.Transport
}

// newCaller returns a caller that is closed with close. Dial and roots are for
// tests; nil are the network and the roots of this machine.
func newCaller(d *policy.Delivery, dial dialFunc, roots *x509.CertPool) *caller {
	if dial == nil {
		dialer := &net.Dialer{Timeout: d.ConnectTimeout, KeepAlive: 15 * time.Second, Control: policy.GuardDial(d.AllowNetworks)}
		dial = dialer.DialContext
	}
	t := &http.Transport{ // no proxy: it would dial for us
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    d.ConnectTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    d.Concurrency,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // and so no bomb
		// A connection on which nothing comes back is given up, and not used for
		// the calls that follow.
		HTTP2: &http.HTTP2Config{SendPingTimeout: d.Timeout, PingTimeout: d.ConnectTimeout},
	}
	return &caller{d, t}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// close ends the connections of a caller that will not be used again.
func (c *caller) close() { c.transport.CloseIdleConnections() }

// call is one attempt to tell of a fact.
type call struct {
	id      string
	typ     event.Type
	format  string
	url     string
	body    body
	attempt int    // from 1
	push    string // Sequence of the push, in whose trace the call is
}

// outcome is how a call went.
type outcome struct {
	ok         bool
	status     int
	latency    time.Duration
	err        string // in words for the owner, without secrets
	response   string // its beginning
	retryAfter time.Duration
}

var errConnect = errors.New("no connection in time")

// do makes a call. It takes no longer than the delivery's Timeout. Success is
// a status of 2xx; redirects are not followed.
func (c *caller) do(ctx context.Context, k *call) (o outcome) {
	begin := time.Now()
	ctx, span := tracing.Start(tracing.Push(ctx, k.push), "callback", "type", string(k.typ))
	defer func() {
		if o.latency = time.Since(begin); !o.ok {
			span.Fail(errors.New(o.err))
		}
		span.End()
	}()
	ctx, cancel := context.WithTimeout(ctx, c.delivery.Timeout)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	connecting := time.AfterFunc(c.delivery.ConnectTimeout, func() { giveUp(errConnect) })
	defer connecting.Stop()
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connecting.Stop() },
	}), http.MethodPost, k.url, bytes.NewReader(k.body.text))
	if err != nil {
		return outcome{err: "its URL is not one"}
	}
	timestamp := strconv.FormatInt(begin.Unix(), 10)
	h := req.Header
	h.Set("Content-Type", k.body.contentType)
	h.Set("User-Agent", "weir")
	h.Set(HeaderID, k.id)
	h.Set(HeaderType, string(k.typ))
	if k.format != "" {
		h.Set(HeaderFormat, k.format)
	}
	h.Set(HeaderAttempt, strconv.Itoa(k.attempt))
	h.Set(HeaderTimestamp, timestamp)
	if s := c.delivery.Secret; !s.IsZero() {
		h.Set(HeaderSignature, Sign(s, timestamp, k.id, k.body.text))
	}
	tracing.Inject(ctx, h)
	// What the transport reads as: it may be sent again over a new connection
	// when a kept one turns out to be closed. It is not sent.
	h["Idempotency-Key"] = nil
	resp, err := c.transport.RoundTrip(req) // which follows no redirects
	if err != nil {
		return outcome{err: c.explain(ctx, err)}
	}
	defer resp.Body.Close()
	o.status = resp.StatusCode
	stop := time.AfterFunc(answerTime, cancel) // what comes later is of no interest
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	stop.Stop()
	o.response = strings.ToValidUTF8(string(answer[:min(len(answer), keptAnswer)]), "\ufffd")
	switch {
	case 200 <= o.status && o.status < 300:
		o.ok = true
	case 300 <= o.status && o.status < 400:
		o.err = fmt.Sprintf("status %d: a redirect, which is not followed", o.status)
		if u, err := url.Parse(resp.Header.Get("Location")); err == nil && u.Host != "" {
			o.err = fmt.Sprintf("status %d: a redirect to %.128q, which is not followed", o.status, u.Host)
		}
	default:
		o.err = fmt.Sprintf("status %d", o.status)
	}
	if !o.ok {
		o.retryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return o
}

// explain says why there was no answer.
func (c *caller) explain(ctx context.Context, err error) string {
	var (
		name *net.DNSError
		tlsA *tls.CertificateVerificationError
		tlsB tls.RecordHeaderError
		late net.Error
	)
	switch {
	case errors.Is(context.Cause(ctx), errConnect):
		return fmt.Sprintf("no connection within %v", c.delivery.ConnectTimeout)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %v", c.delivery.Timeout)
	case errors.Is(err, context.Canceled):
		return "weir is shutting down"
	case errors.Is(err, policy.ErrPrivate):
		return "not called: " + policy.ErrPrivate.Error() + "; if it is meant, name its network in allow_networks"
	case errors.As(err, &name):
		if name.IsTimeout {
			return fmt.Sprintf("its name is not resolved within %v: %.128q", c.delivery.ConnectTimeout, name.Name)
		}
		return fmt.Sprintf("its name cannot be resolved: %.128q", name.Name)
	case errors.As(err, &tlsA):
		return "its certificate is refused: " + short(tlsA.Err.Error())
	case errors.As(err, &tlsB):
		return "it does not speak TLS"
	case errors.As(err, &late) && late.Timeout(): // of the dialler, or of TLS
		return fmt.Sprintf("no connection within %v", c.delivery.ConnectTimeout)
	}
	return short(err.Error())
}

func short(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// retryAfter reads the header Retry-After (RFC 9110, 10.2.3), which is obeyed
// up to maxRetryAfter.
func retryAfter(s string, now time.Time) time.Duration {
	d := time.Duration(0)
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
