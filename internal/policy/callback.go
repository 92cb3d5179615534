package policy

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"time"
)

// Callback says where and how the owner of a space is told what happens to the
// streams of an app: that pushes begin and end and, if he likes, what else
// there is to tell. A push keeps the Callback that it began with.
type Callback struct {
	URL Endpoint `yaml:"url"` // told of everything that has no URL of its own

	// Where starts and ends of pushes go each to a URL of its own.
	StartURL Endpoint `yaml:"start_url"`
	EndURL   Endpoint `yaml:"end_url"`

	Format CallbackFormat `yaml:"format"`

	Sequence  bool `yaml:"sequence"`   // v1-json and v1-string: with the Sequence that v2 always has
	StartTime bool `yaml:"start_time"` // v2 and v1-json: ends say when the push began
	PortText  bool `yaml:"port_text"`  // v1-json: the port of an end is text, as that of a start is

	// Redact leaves out the values of k, signature, token and the like.
	Redact bool `yaml:"redact"`

	// PushRefused tells also of pushes that were not let in, and Alerts of what
	// needs the owner's eye. They go to URL, or to StartURL where there is none.
	PushRefused bool `yaml:"push_refused"`
	Alerts      bool `yaml:"alerts"`

	// FlapGuard holds a start back until the push has lived that long, and an
	// end, which is dropped together with the next start when the stream has
	// returned by then. 0 is off.
	FlapGuard time.Duration `yaml:"flap_guard"`
}

// Start returns where starts of pushes go, and what else has no place of its
// own; empty: nowhere.
func (c *Callback) Start() Endpoint {
	if c.StartURL != "" {
		return c.StartURL
	}
	return c.URL
}

// End returns where ends of pushes go; empty: nowhere.
func (c *Callback) End() Endpoint {
	if c.EndURL != "" {
		return c.EndURL
	}
	return c.URL
}

// Other returns where everything else goes; empty: nowhere.
func (c *Callback) Other() Endpoint {
	if c.URL != "" {
		return c.URL
	}
	return c.StartURL
}

// CallbackFormat is the form of the bodies that tell of pushes.
type CallbackFormat uint8

const (
	CallbackV2       CallbackFormat = iota // JSON, the guide's new version (l.451)
	CallbackV1JSON                         // JSON, its old version (l.584)
	CallbackV1String                       // a form, older still (l.682)
)

var callbackFormats = enum[CallbackFormat]{{"v2", CallbackV2}, {"v1-json", CallbackV1JSON}, {"v1-string", CallbackV1String}}

func (f CallbackFormat) String() string                { return callbackFormats.name(f) }
func (f CallbackFormat) MarshalText() ([]byte, error)  { return []byte(f.String()), nil }
func (f *CallbackFormat) UnmarshalText(b []byte) error { return callbackFormats.parse(b, f) }
func (CallbackFormat) words() []string                 { return callbackFormats.words() }

// Delivery is how the receivers of a space's callbacks are called, whatever
// they are told of. It is that of the moment of the call.
type Delivery struct {
	Secret Secret `yaml:"secret"` // signs the calls; none: they are not signed

	// AllowNetworks are private networks in which receivers may be.
	AllowNetworks []Network `yaml:"allow_networks"`

	Concurrency    int           `yaml:"concurrency"`     // calls of one receiver at a time
	ConnectTimeout time.Duration `yaml:"connect_timeout"` // name, connection and TLS
	Timeout        time.Duration `yaml:"timeout"`         // of a call in all
}

// SetDefaults gives d the settings of one that says nothing else.
func (d *Delivery) SetDefaults() {
	*d = Delivery{Concurrency: 32, ConnectTimeout: 5 * time.Second, Timeout: 10 * time.Second}
}

// Deliver returns how the receivers of s are called. S may be nil.
func (s *Space) Deliver() *Delivery {
	if s != nil && s.Delivery != nil {
		return s.Delivery
	}
	d := new(Delivery)
	d.SetDefaults()
	return d
}

// CallbackOf returns what of a, an app of s, is told to whom: its own
// Callback, or that of the space, or nil for nothing.
func (s *Space) CallbackOf(a *App) *Callback {
	if a != nil && a.Callback != nil {
		return a.Callback
	}
	return s.Callback
}

// HasCallbacks reports whether anybody is told of what happens.
func (s *Set) HasCallbacks() bool {
	for i := range s.Spaces {
		sp := &s.Spaces[i]
		if sp.Callback != nil {
			return true
		}
		for j := range sp.Apps {
			a := &sp.Apps[j]
			if a.Callback != nil || a.Record.HLS.Callback != "" || a.Record.MP4.Callback != "" || a.Record.FLV.Callback != "" || a.Snapshot.Callback != "" {
				return true
			}
		}
	}
	return false
}

func (c *checker) delivery(path string, d *Delivery) {
	if d == nil {
		return
	}
	if !d.Secret.IsZero() {
		c.secret(path, "secret", d.Secret, maxSecret, printable, "visible ASCII")
	}
	c.networks(path+".allow_networks", d.AllowNetworks)
	if d.Concurrency < 1 || d.Concurrency > 1000 {
		c.add(path+".concurrency", "must be 1 to 1000, not %d", d.Concurrency)
	}
	c.between(path+".connect_timeout", d.ConnectTimeout, 100*time.Millisecond, 5*time.Second)
	c.between(path+".timeout", d.Timeout, d.ConnectTimeout, 10*time.Second)
}

// callback checks what is told of the streams of a space or an app of sp.
func (c *checker) callback(path string, sp *Space, cb *Callback) {
	if cb == nil || *cb == (Callback{}) { // written {}, it tells nobody
		return
	}
	c.receiver(path+".url", sp, cb.URL)
	c.receiver(path+".start_url", sp, cb.StartURL)
	c.receiver(path+".end_url", sp, cb.EndURL)
	if cb.URL == "" && (cb.StartURL == "" || cb.EndURL == "") {
		c.add(path, "needs url, or both start_url and end_url")
	}
	if cb.Format > CallbackV1String {
		c.add(path+".format", "must be v2, v1-json or v1-string")
	}
	for _, o := range []struct {
		name    string
		set, ok bool
		only    string
	}{
		{"sequence", cb.Sequence, cb.Format != CallbackV2, "formats v1-json and v1-string; v2 always has it"},
		{"start_time", cb.StartTime, cb.Format != CallbackV1String, "formats v2 and v1-json"},
		{"port_text", cb.PortText, cb.Format == CallbackV1JSON, "format v1-json"},
	} {
		if o.set && !o.ok && cb.Format <= CallbackV1String {
			c.add(path+"."+o.name, "is for the %s", o.only)
		}
	}
	if cb.FlapGuard != 0 {
		c.between(path+".flap_guard", cb.FlapGuard, 100*time.Millisecond, time.Minute)
	}
}

// receiver checks a URL to which something of sp is told; it may be empty.
func (c *checker) receiver(path string, sp *Space, e Endpoint) {
	if e == "" {
		return
	}
	if len(e) > maxURL {
		c.add(path, "must have at most %d characters", maxURL)
	} else if err := e.problem(sp.Deliver().AllowNetworks); err != nil {
		c.add(path, "%v", err)
	} else {
		c.receivers = append(c.receivers, Receiver{path, e, sp.Deliver().AllowNetworks})
	}
}

// A Receiver is told of something.
type Receiver struct {
	Path    string // of its URL, from the Set down
	URL     Endpoint
	Allowed []Network // private networks in which it may be
}

// Receivers returns who is told of what happens in the spaces of s.
func (s *Set) Receivers() []Receiver { return s.check().receivers }

// Judge looks up the name of r's host, if it is one, and returns what is wrong
// with where it leads: nowhere but into networks that may not be dialled. That
// a name is not known now is nobody's fault. What it means when it is dialled,
// GuardDial judges.
func (r *Receiver) Judge(ctx context.Context, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) *Problem {
	u, err := url.Parse(string(r.URL))
	if err != nil {
		return nil
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil // has been judged
	}
	addrs, err := lookup(ctx, "ip", u.Hostname())
	if err != nil || len(addrs) == 0 {
		return nil
	}
	for _, a := range addrs {
		if MayDial(a.Unmap(), r.Allowed) {
			return nil
		}
	}
	return &Problem{r.Path, fmt.Sprintf("%q leads to %s, which is not on the public Internet; if it is meant, name its network in allow_networks", u.Hostname(), addrs[0].Unmap())}
}

// maxURL is the most characters of an Endpoint.
const maxURL = 2048
