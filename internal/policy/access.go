package policy

import (
	"errors"
	"time"
)

// Access is who may do something at a domain: publish there, or play there.
// Every method of authentication that is set must pass, or with Require any of
// them; where none is set, everybody may whom no list keeps out.
type Access struct {
	Simple    *Simple    `yaml:"simple"`
	Signature *Signature `yaml:"signature"`
	SignedURL *SignedURL `yaml:"signed_url"`
	External  *External  `yaml:"external"`
	Require   Require    `yaml:"require"`

	IP AddrLists `yaml:"ip"`

	// Of HTTP players only.
	Referer   TextLists `yaml:"referer"`    // of host names: example.com, *.example.com
	UserAgent TextLists `yaml:"user_agent"` // of texts with * for anything: curl/*

	// Segments says what an HLS player that was given a playlist needs for the
	// segments in it. Of players only.
	Segments Segments `yaml:"segments"`
}

// Authenticates reports whether a has any method of authentication.
func (a *Access) Authenticates() bool {
	return a.Simple != nil || a.Signature != nil || a.SignedURL != nil || a.External != nil
}

// Open reports whether anybody passes a, from wherever he comes.
func (a *Access) Open() bool {
	if a.Authenticates() {
		return false
	}
	for _, n := range a.IP.Allow {
		if n.Bits() == 0 {
			return true
		}
	}
	return len(a.IP.Allow) == 0
}

// Restricts reports whether there is anybody whom a may keep out.
func (a *Access) Restricts() bool {
	return a.Authenticates() || len(a.IP.Allow)+len(a.IP.Block) > 0 || a.Referer.set() || a.UserAgent.set()
}

// Simple is the authentication by the parameters t and k (contract A.1, A.2).
type Simple struct {
	Key         Secret        `yaml:"key"`
	SpareKey    Secret        `yaml:"spare_key"`    // valid as well, so that keys can be changed
	MaxValidity time.Duration `yaml:"max_validity"` // how far ahead t may be; 0 is no limit
}

// Signature is the authentication by one of the space's access keys (A.3).
type Signature struct {
	// Strict demands that app and stream are signed parameters. Otherwise a
	// signature is good for every stream of the space.
	Strict bool `yaml:"strict"`

	// NonceMemory demands a nonce and refuses one that was used before. An HLS
	// player may repeat its own.
	NonceMemory bool `yaml:"nonce_memory"`

	MaxValidity time.Duration `yaml:"max_validity"` // how far ahead expire may be; 0 is no limit
}

// SignedURL is the authentication by the URL of another service.
type SignedURL struct {
	Type     URLType `yaml:"type"`
	Key      Secret  `yaml:"key"`
	SpareKey Secret  `yaml:"spare_key"`

	// ValidFor is for services that sign the time at which the URL was made:
	// it ends so much later. With 0 the signed time is the end.
	ValidFor    time.Duration `yaml:"valid_for"`
	MaxValidity time.Duration `yaml:"max_validity"` // how far ahead the end may be; 0 is no limit
}

// URLType is how a SignedURL is made; path is that of the URL, with its
// leading slash.
type URLType uint8

const (
	URLTypeA  URLType = iota + 1 // auth_key={ts}-{rand}-{uid}-md5(path-ts-rand-uid-key)
	URLTypeC                     // /md5(key+path+hexts)/{hexts}/path
	URLTypeD                     // sign=md5(key+path+ts)&t={ts}
	URLTypeTx                    // txSecret=md5(key+stream+hexts)&txTime={hexts}
)

var urlTypes = enum[URLType]{{"a", URLTypeA}, {"c", URLTypeC}, {"d", URLTypeD}, {"tx", URLTypeTx}}

func (t URLType) String() string                { return urlTypes.name(t) }
func (t URLType) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *URLType) UnmarshalText(b []byte) error { return urlTypes.parse(b, t) }
func (URLType) words() []string                 { return urlTypes.words() }

// External is the authentication by a server of the customer (A.4).
type External struct {
	URL         Endpoint      `yaml:"url"`
	Body        BodyMode      `yaml:"body"`
	Secret      Secret        `yaml:"secret"`      // signs the requests; none: they are not signed
	Timeout     time.Duration `yaml:"timeout"`     // of a decision, with its second attempt
	Concurrency int           `yaml:"concurrency"` // requests at a time
	Remember    time.Duration `yaml:"remember"`    // how long a decision about an HLS player holds; 0: asked each time

	// OnError is what becomes of players when the server cannot be asked.
	// Publishers are refused.
	OnError OnError `yaml:"on_error"`

	// AllowNetworks are private networks in which the server may be.
	AllowNetworks []Network `yaml:"allow_networks"`
}

// SetDefaults gives e the settings of one that says nothing else.
func (e *External) SetDefaults() {
	*e = External{Timeout: 3 * time.Second, Concurrency: 64, Remember: 5 * time.Second}
}

// BodyMode is how an External server is asked.
type BodyMode uint8

const (
	BodyJSON BodyMode = iota
	BodyForm          // with the names of nginx-rtmp
)

var bodyModes = enum[BodyMode]{{"json", BodyJSON}, {"form", BodyForm}}

func (m BodyMode) String() string                { return bodyModes.name(m) }
func (m BodyMode) MarshalText() ([]byte, error)  { return []byte(m.String()), nil }
func (m *BodyMode) UnmarshalText(b []byte) error { return bodyModes.parse(b, m) }
func (BodyMode) words() []string                 { return bodyModes.words() }

// OnError is what an unanswered question means.
type OnError uint8

const (
	OnErrorDeny OnError = iota
	OnErrorAllow
)

var onErrors = enum[OnError]{{"deny", OnErrorDeny}, {"allow", OnErrorAllow}}

func (o OnError) String() string                { return onErrors.name(o) }
func (o OnError) MarshalText() ([]byte, error)  { return []byte(o.String()), nil }
func (o *OnError) UnmarshalText(b []byte) error { return onErrors.parse(b, o) }
func (OnError) words() []string                 { return onErrors.words() }

// Require is how many methods of authentication must pass.
type Require uint8

const (
	RequireAll Require = iota
	RequireAny
)

var requires = enum[Require]{{"all", RequireAll}, {"any", RequireAny}}

func (r Require) String() string                { return requires.name(r) }
func (r Require) MarshalText() ([]byte, error)  { return []byte(r.String()), nil }
func (r *Require) UnmarshalText(b []byte) error { return requires.parse(b, r) }
func (Require) words() []string                 { return requires.words() }

// Segments is how HLS segments are covered by authentication.
type Segments uint8

const (
	SegmentsToken  Segments = iota // playlists carry a short-lived token for their segments
	SegmentsExempt                 // who knows the name of a segment gets it
)

var segmentModes = enum[Segments]{{"token", SegmentsToken}, {"exempt", SegmentsExempt}}

func (s Segments) String() string                { return segmentModes.name(s) }
func (s Segments) MarshalText() ([]byte, error)  { return []byte(s.String()), nil }
func (s *Segments) UnmarshalText(b []byte) error { return segmentModes.parse(b, s) }
func (Segments) words() []string                 { return segmentModes.words() }

// AccessKey is a pair of key and secret of a space, with which its owner signs
// URLs (A.3).
type AccessKey struct {
	ID       string `yaml:"id"`
	Secret   Secret `yaml:"secret"`
	Disabled bool   `yaml:"disabled"` // as if there were no such key
}

// Forbidden keeps a stream, or all of an app, off the air.
type Forbidden struct {
	App    string     `yaml:"app"`
	Stream string     `yaml:"stream"` // empty: every stream
	Type   DomainType `yaml:"type"`   // what is forbidden
	Until  Time       `yaml:"until"`  // zero: for ever
}

// SetDefaults forbids everything.
func (f *Forbidden) SetDefaults() { *f = Forbidden{Type: Both} }

// Covers reports whether f keeps somebody from doing op, which is Publish or
// Play, to a stream now.
func (f *Forbidden) Covers(op DomainType, app, stream string, now time.Time) bool {
	return f.App == app && (f.Stream == "" || f.Stream == stream) && f.Type.Allows(op) && (f.Until.IsZero() || now.Before(f.Until.Time))
}

// Forbids reports whether somebody may not do op, which is Publish or Play, to
// a stream now.
func (s *Space) Forbids(op DomainType, app, stream string, now time.Time) bool {
	for i := range s.Forbidden {
		if s.Forbidden[i].Covers(op, app, stream, now) {
			return true
		}
	}
	return s.Bans.forbids(op, app, stream, now)
}

// Bans are what is forbidden by an order of the moment and not by the
// configuration: they may be many, one for each app and stream. A Bans never
// changes; nil has none.
type Bans struct{ byStream map[streamOfApp]Forbidden }

type streamOfApp struct{ app, stream string }

// NewBans returns the Bans of a list. A later one of the same app and stream
// stands for an earlier one.
func NewBans(list []Forbidden) *Bans {
	b := &Bans{make(map[streamOfApp]Forbidden, len(list))}
	for _, f := range list {
		b.byStream[streamOfApp{f.App, f.Stream}] = f
	}
	return b
}

func (b *Bans) forbids(op DomainType, app, stream string, now time.Time) bool {
	if b == nil {
		return false
	}
	for _, s := range []string{stream, ""} {
		if f, ok := b.byStream[streamOfApp{app, s}]; ok && f.Covers(op, app, stream, now) {
			return true
		}
	}
	return false
}

// Time is a point in time, written 2026-01-31T20:00:00Z (RFC 3339).
type Time struct{ time.Time }

func (t *Time) UnmarshalText(b []byte) error {
	if err := t.Time.UnmarshalText(b); err != nil {
		return errors.New("must be a time such as 2026-01-31T20:00:00Z")
	}
	return nil
}
