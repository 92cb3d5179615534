// Package policy is what a space, a domain and an app may do and want done.
//
// A customer has a space. The space is reached by host names, its domains, each
// for publishing, for playing or for both, and its streams live in apps. A Set
// holds all spaces of a node. It is a value: once it is in use nobody changes
// it; whoever wants another policy makes another Set and swaps the pointer. So
// a publish can keep the policy that it began with by keeping its *App.
//
// The yaml tags are the names of the settings in weir.yaml. Problems checks a
// Set whatever it was read from.
package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Set is every space of a node. It must not be copied or changed after its
// first use; all its methods are safe for concurrent use.
type Set struct {
	// DefaultSpace is the space of a client that names no host at all. When
	// it is empty such a client gets the domain "*", or is refused.
	DefaultSpace string  `yaml:"default_space"`
	Spaces       []Space `yaml:"spaces"`

	// Buckets are where recordings and snapshots go; the first is that of an
	// app that names none. An empty list is that of AllBuckets.
	Buckets []Bucket `yaml:"buckets"`

	once    sync.Once
	domains map[string]place // by canonical name or pattern; see index
	spaces  map[string]*Space
}

type place struct {
	space  *Space
	domain *Domain
}

// Default is the policy of a server without configuration: the space "default"
// takes any host name, for publishing and playing, and has the app "live".
func Default() *Set {
	return &Set{
		DefaultSpace: "default",
		Spaces: []Space{{
			Name:    "default",
			Domains: []Domain{{Name: "*", Type: Both}},
			Apps:    []App{DefaultApp("live")},
		}},
	}
}

// Domain returns the space and the domain that answer to host, or nil, nil. The
// host may carry a port, a trailing dot and capitals. An exact name wins, then
// the longest "*.example.com" that covers it, then "*".
func (s *Set) Domain(host string) (*Space, *Domain) {
	s.once.Do(s.index)
	name, ok := CanonicalHost(host)
	if !ok {
		return nil, nil
	}
	p, ok := s.domains[name]
	for rest := name; !ok && rest != ""; {
		rest = afterDot(rest)
		if rest != "" {
			p, ok = s.domains["*."+rest]
		}
	}
	if !ok {
		p = s.domains["*"]
	}
	return p.space, p.domain
}

// Foreign reports whether a domain of that name would take something of the
// other spaces from space: it is "*", or one of theirs, or covers one or is
// covered by one, for which a "*" of theirs does not count.
func (s *Set) Foreign(space, name string) bool {
	mine, ok := canonicalPattern(name)
	if !ok {
		return false // which Problems says
	}
	for i := range s.Spaces {
		for j := range s.Spaces[i].Domains {
			theirs, ok := canonicalPattern(s.Spaces[i].Domains[j].Name)
			if ok && s.Spaces[i].Name != space && theirs != "*" && (mine == theirs || covers(mine, theirs) || covers(theirs, mine)) {
				return true
			}
		}
	}
	return mine == "*"
}

// covers reports whether a pattern is one of hosts that name is, or has.
func covers(pattern, name string) bool {
	rest, ok := strings.CutPrefix(pattern, "*")
	return ok && strings.HasSuffix(name, rest)
}

// DefaultDomain returns the space and the domain of a client that names no
// host: the first domain of the default space that allows t, or else "*"; nil,
// nil when there is neither.
func (s *Set) DefaultDomain(t DomainType) (*Space, *Domain) {
	s.once.Do(s.index)
	if s.DefaultSpace == "" {
		p := s.domains["*"]
		return p.space, p.domain
	}
	for i := range s.Spaces {
		sp := &s.Spaces[i]
		if sp.Name != s.DefaultSpace {
			continue
		}
		for j := range sp.Domains {
			if sp.Domains[j].Type.Allows(t) {
				return sp, &sp.Domains[j]
			}
		}
	}
	return nil, nil
}

// Space returns the space of that name, or nil.
func (s *Set) Space(name string) *Space {
	s.once.Do(s.index)
	return s.spaces[name]
}

func (s *Set) index() {
	s.spaces = make(map[string]*Space, len(s.Spaces))
	s.domains = make(map[string]place)
	for i := range s.Spaces {
		sp := &s.Spaces[i]
		s.spaces[sp.Name] = sp
		for j := range sp.Domains {
			if name, ok := canonicalPattern(sp.Domains[j].Name); ok {
				s.domains[name] = place{sp, &sp.Domains[j]}
			}
		}
	}
}

// Space is one customer's part of the server.
type Space struct {
	Name       string      `yaml:"name"`
	Domains    []Domain    `yaml:"domains"`
	Apps       []App       `yaml:"apps"`
	AccessKeys []AccessKey `yaml:"access_keys"`
	Forbidden  []Forbidden `yaml:"forbidden"`

	Callback *Callback `yaml:"callback"`          // of apps without one of their own
	Delivery *Delivery `yaml:"callback_delivery"` // nil: the defaults

	Bans *Bans // beside Forbidden; not a part of the configuration
}

// App returns the app of that name, or nil. Names differ by case.
func (s *Space) App(name string) *App {
	i := slices.IndexFunc(s.Apps, func(a App) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Apps[i]
}

// Domain is a host name, or a pattern of host names, by which a space is
// reached: "live.example.com", "*.example.com" or "*".
type Domain struct {
	Name string     `yaml:"name"`
	Type DomainType `yaml:"type"`

	// NotFound answers HTTP requests for an app or a stream that is not there
	// with 404; otherwise they get 403, as the guide has it.
	NotFound bool `yaml:"not_found"`

	Publish Access `yaml:"publish"` // who may publish here
	Play    Access `yaml:"play"`    // who may play here
}

// Access returns who may do op, which is Publish or Play, at d.
func (d *Domain) Access(op DomainType) *Access {
	if op == Publish {
		return &d.Publish
	}
	return &d.Play
}

// SetDefaults gives d the settings of a domain that says nothing else.
func (d *Domain) SetDefaults() { *d = Domain{Type: Both} }

// DomainType says what clients may do at a domain.
type DomainType uint8

const (
	Publish DomainType = 1 << iota
	Play
	Both = Publish | Play
)

// Allows reports whether a domain of type t may be used for op, which is
// Publish or Play.
func (t DomainType) Allows(op DomainType) bool { return t&op == op }

var domainTypes = enum[DomainType]{{"publish", Publish}, {"play", Play}, {"both", Both}}

func (t DomainType) String() string                { return domainTypes.name(t) }
func (t DomainType) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *DomainType) UnmarshalText(b []byte) error { return domainTypes.parse(b, t) }
func (DomainType) words() []string                 { return domainTypes.words() }

// App is how the streams of one app are treated.
type App struct {
	Name     string `yaml:"name"`
	Disabled bool   `yaml:"disabled"` // as if the app did not exist

	IdleTimeout time.Duration `yaml:"idle_timeout"` // a publisher that sends nothing for so long is ended
	StaleAfter  time.Duration `yaml:"stale_after"`  // a publisher silent for so long gives way to a new push of its name
	Hold        time.Duration `yaml:"hold"`         // how long players of a stream wait for its publisher to return
	MaxLead     time.Duration `yaml:"max_lead"`     // media a publisher may send ahead of real time before it is read more slowly
	Takeover    bool          `yaml:"takeover"`     // a second publisher of a name wins; otherwise it is refused

	HLS      HLS      `yaml:"hls"`
	Record   Record   `yaml:"record"`
	Snapshot Snapshot `yaml:"snapshot"`

	Quality Quality `yaml:"quality"`

	Transcode []Transcode `yaml:"transcode"`

	Callback *Callback `yaml:"callback"` // nil: that of the space
}

// DefaultApp returns an app of that name with the default settings.
func DefaultApp(name string) App {
	var a App
	a.SetDefaults()
	a.Name = name
	return a
}

// SetDefaults gives a the settings of an app that says nothing else.
func (a *App) SetDefaults() {
	*a = App{
		IdleTimeout: 20 * time.Second,
		StaleAfter:  3 * time.Second,
		Hold:        5 * time.Second,
		MaxLead:     10 * time.Second,
		HLS: HLS{
			Mode:           HLSOnDemand,
			Segment:        2 * time.Second,
			Window:         5,
			Idle:           30 * time.Second,
			MaxSegment:     30 * time.Second,
			MaxSegmentSize: 50 << 20,
		},
	}
	a.Record.SetDefaults()
	a.Quality.SetDefaults()
	a.Snapshot.SetDefaults()
}

// HLS is how an app's streams are cut into segments.
type HLS struct {
	Mode    HLSMode       `yaml:"mode"`
	Segment time.Duration `yaml:"segment"` // target; a segment ends with the first key frame at or after it
	Window  int           `yaml:"window"`  // segments in the playlist
	Idle    time.Duration `yaml:"idle"`    // HLSOnDemand: packaging ends so long after the last request

	// A segment is cut without a key frame when it reaches either of these.
	MaxSegment     time.Duration `yaml:"max_segment"`
	MaxSegmentSize Size          `yaml:"max_segment_size"`

	PlainText bool `yaml:"plain_text"` // playlists as text/plain, as the guide's examples show them
}

// HLSMode says when a stream is packaged.
type HLSMode uint8

const (
	HLSOnDemand HLSMode = iota // from the first request on, until idle
	HLSAlways                  // as long as the stream lives
	HLSOff
)

var hlsModes = enum[HLSMode]{{"on_demand", HLSOnDemand}, {"always", HLSAlways}, {"off", HLSOff}}

func (m HLSMode) String() string                { return hlsModes.name(m) }
func (m HLSMode) MarshalText() ([]byte, error)  { return []byte(m.String()), nil }
func (m *HLSMode) UnmarshalText(b []byte) error { return hlsModes.parse(b, m) }
func (HLSMode) words() []string                 { return hlsModes.words() }

// enum is the words of a setting that takes one of a few.
type enum[T comparable] []struct {
	word  string
	value T
}

func (e enum[T]) name(v T) string {
	for _, x := range e {
		if x.value == v {
			return x.word
		}
	}
	return "invalid"
}

func (e enum[T]) words() []string {
	list := make([]string, len(e))
	for i, x := range e {
		list[i] = x.word
	}
	return list
}

func (e enum[T]) parse(b []byte, v *T) error {
	for _, x := range e {
		if x.word == string(b) {
			*v = x.value
			return nil
		}
	}
	words := ""
	for i, x := range e {
		switch {
		case i == 0:
		case i == len(e)-1:
			words += " or "
		default:
			words += ", "
		}
		words += x.word
	}
	return fmt.Errorf("must be %s", words)
}
