package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/policy"
)

// What is forbidden by an order of the moment is in a bucket of its own, one
// value for each app and stream: there may be many, they come and go without a
// change of the policy, and they cannot make it invalid.

const (
	forbiddenBucket = "weir_forbidden"
	forbiddenSchema = 1
)

// Ban is what is forbidden in a space, by whom and since when.
type Ban struct {
	Space  string            `json:"space"`
	App    string            `json:"app"`
	Stream string            `json:"stream,omitempty"` // empty: every stream of the app
	Type   policy.DomainType `json:"type"`             // what is forbidden
	Until  time.Time         `json:"until,omitzero"`   // zero: for ever

	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Note string    `json:"note,omitempty"`

	// Configured is set for one that is in the document of the space, and ends
	// with a change of it.
	Configured bool `json:"-"`
}

func (b *Ban) forbidden() policy.Forbidden {
	return policy.Forbidden{App: b.App, Stream: b.Stream, Type: b.Type, Until: policy.Time{Time: b.Until}}
}

// over reports whether b has ended.
func (b *Ban) over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

func (b *Ban) key() string {
	return bus.Token(b.Space) + "." + bus.Token(b.App) + "." + bus.Token(b.Stream)
}

// spaceBans is what is forbidden in one space.
type spaceBans struct {
	list map[string]Ban // by key
	made *policy.Bans   // of list; nil when it must be made
}

func (s *spaceBans) set() *policy.Bans {
	if s == nil || len(s.list) == 0 {
		return nil
	}
	if s.made == nil {
		var list []policy.Forbidden
		for _, b := range s.list {
			list = append(list, b.forbidden())
		}
		s.made = policy.NewBans(list)
	}
	return s.made
}

// ban returns what is forbidden at a key of a space.
func (v *view) ban(space, key string) (Ban, bool) {
	s := v.bans[space]
	if s == nil {
		return Ban{}, false
	}
	b, ok := s.list[key]
	return b, ok
}

func (v *view) put(b Ban) {
	s := v.bans[b.Space]
	if s == nil {
		s = &spaceBans{list: make(map[string]Ban)}
		v.bans[b.Space] = s
	}
	s.list[b.key()], s.made = b, nil
}

// takeBan takes note of a value of the bucket.
func (v *view) takeBan(e jetstream.KeyValueEntry, log *slog.Logger) {
	if e.Operation() != jetstream.KeyValuePut {
		token, _, _ := strings.Cut(e.Key(), ".")
		if name, err := bus.Name(token); err == nil && v.bans[name] != nil {
			delete(v.bans[name].list, e.Key())
			v.bans[name].made = nil
		}
		return
	}
	var b Ban
	if err := json.Unmarshal(e.Value(), &b); err != nil || b.key() != e.Key() {
		log.Error("what is forbidden at a key cannot be read", "key", e.Key(), "err", err)
		return
	}
	v.put(b)
}

func (p *Policy) openForbidden(ctx context.Context) (jetstream.KeyValue, error) {
	return bus.KV(ctx, p.js, jetstream.KeyValueConfig{
		Bucket:         forbiddenBucket,
		Description:    "what may not be published or played for a while",
		History:        1, // with more, JetStream ends values later than they say
		Replicas:       p.o.Replicas,
		LimitMarkerTTL: time.Hour,
	}, forbiddenSchema, func(context.Context, int) error { return nil })
}

// Forbid keeps a stream, or all of an app, off the air from now on; what b says
// about the same app and stream stands for what was said before. It returns when
// it is in force here. Errors are an *Invalid, ErrNotFound for a space that does
// not exist, and ErrAway.
func (p *Policy) Forbid(ctx context.Context, b Ban) error {
	b.At, b.Until, b.Configured = time.Now().UTC().Truncate(time.Millisecond), b.Until.UTC().Round(0), false
	invalid := func(path, message string) error { return &Invalid{[]Problem{{"space/" + b.Space, path, message}}} }
	switch {
	case !policy.ValidName(b.App):
		return invalid("app", "must be a name: "+policy.NameForm)
	case b.Stream != "" && !policy.ValidStreamName(b.Stream):
		return invalid("stream", "must be the name of a stream, or nothing for all")
	case b.Type == 0 || b.Type&^policy.Both != 0:
		return invalid("type", "must be publish, play or both")
	case b.over(b.At):
		return invalid("until", "must be in the future")
	case len(b.Note) > 1000:
		return invalid("note", "must have at most 1000 bytes")
	case !p.hasSpace(b.Space):
		return ErrNotFound
	}
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	m := nats.NewMsg("$KV." + forbiddenBucket + "." + b.key())
	m.Data = data
	var opts []jetstream.PublishOpt
	if left := time.Until(b.Until); !b.Until.IsZero() && left < 365*24*time.Hour {
		opts = append(opts, jetstream.WithMsgTTL(left.Truncate(time.Second)+2*time.Second)) // whole seconds, and not too early
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if _, err := p.js.PublishMsg(ctx, m, opts...); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	p.await(ctx, func() bool { // if not now, then soon
		known, _ := p.ban(b.Space, b.key())
		return known == b && p.inForce(b.Space)
	})
	p.told(b, false, "forbidden")
	return nil
}

// ForbidAnyway is Forbid for an order that nobody will repeat. While JetStream is
// away it is in force on this node, and written when JetStream is back.
func (p *Policy) ForbidAnyway(ctx context.Context, b Ban) error {
	err := p.Forbid(ctx, b)
	if !errors.Is(err, ErrAway) {
		return err
	}
	p.log.Warn("what is forbidden is so on this node only, until the policy store is back", "err", err)
	b.At, b.Until = time.Now().UTC().Truncate(time.Millisecond), b.Until.UTC().Round(0)
	p.mu.Lock()
	p.waiting = append(p.waiting, b)
	p.put(b)
	p.dirty = true
	p.mu.Unlock()
	p.rebuild()
	return nil
}

// sendWaiting writes what ForbidAnyway could not.
func (p *Policy) sendWaiting(ctx context.Context) {
	p.mu.Lock()
	list := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, b := range list {
		if b.over(time.Now()) {
			continue
		}
		if err := p.ForbidAnyway(ctx, b); err != nil {
			p.log.Error("what was forbidden on this node could not be written", "space", b.Space, "app", b.App, "stream", b.Stream, "err", err)
		}
	}
}

// Resume ends what Forbid has begun and returns it. The error is ErrNotFound if
// nothing was forbidden so, ErrConfigured if it is in the document of the space.
func (p *Policy) Resume(ctx context.Context, space, app, stream, by string) (Ban, error) {
	key := (&Ban{Space: space, App: app, Stream: stream}).key()
	p.mu.Lock()
	b, found := p.ban(space, key)
	p.mu.Unlock()
	if !found {
		for _, c := range p.Forbidden(space) {
			if c.App == app && c.Stream == stream {
				return Ban{}, ErrConfigured
			}
		}
		return Ban{}, ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	kv, err := p.js.KeyValue(ctx, forbiddenBucket)
	if err == nil {
		err = kv.Purge(ctx, key, jetstream.PurgeTTL(time.Hour))
	}
	if err != nil {
		return Ban{}, fmt.Errorf("%w: %w", ErrAway, err)
	}
	p.await(ctx, func() bool {
		_, still := p.ban(space, key)
		return !still && p.inForce(space)
	})
	b.By = by
	p.told(b, true, "resumed")
	return b, nil
}

// ErrConfigured says that what is to be resumed is forbidden by the document of
// the space.
var ErrConfigured = errors.New("it is forbidden by the configuration of the space; take it out there")

// Forbidden returns what is forbidden in a space, of both kinds, and is not over.
func (p *Policy) Forbidden(space string) []Ban {
	set := p.Set()
	now := time.Now()
	var list []Ban
	if i := slices.IndexFunc(set.Spaces, func(s policy.Space) bool { return s.Name == space }); i >= 0 {
		for _, f := range set.Spaces[i].Forbidden {
			list = append(list, Ban{Space: space, App: f.App, Stream: f.Stream, Type: f.Type, Until: f.Until.Time, Configured: true})
		}
	}
	p.mu.Lock()
	if s := p.bans[space]; s != nil {
		for _, b := range s.list {
			list = append(list, b)
		}
	}
	p.mu.Unlock()
	list = slices.DeleteFunc(list, func(b Ban) bool { return b.over(now) })
	slices.SortStableFunc(list, func(a, b Ban) int { return cmp.Or(strings.Compare(a.App, b.App), strings.Compare(a.Stream, b.Stream)) })
	return list
}

// inForce reports whether the Set has what is known to be forbidden in a space.
// The caller holds mu.
func (p *Policy) inForce(space string) bool {
	set := p.set.Load()
	for i := range set.Spaces {
		if set.Spaces[i].Name == space {
			return set.Spaces[i].Bans == p.bans[space].set()
		}
	}
	return true
}

func (p *Policy) hasSpace(name string) bool {
	return slices.ContainsFunc(p.Set().Spaces, func(s policy.Space) bool { return s.Name == name })
}

// told tells of a change of what is forbidden.
func (p *Policy) told(b Ban, over bool, note string) {
	if p.o.Changed == nil {
		return
	}
	note += " to " + b.Type.String()
	if !over && !b.Until.IsZero() {
		note += " until " + b.Until.Format(time.RFC3339)
	}
	if b.Note != "" {
		note += ": " + b.Note
	}
	e := event.New(time.Now(), event.PolicyChanged{Document: "forbidden/" + b.Space + "/" + b.App + "/" + b.Stream, Deleted: over, By: b.By, Note: note})
	e.Space, e.App, e.Stream = b.Space, b.App, b.Stream
	p.o.Changed(e)
}
