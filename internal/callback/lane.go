package callback

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"weir/internal/event"
)

// laneKey names a lane among those of a receiver: by its stream.
type laneKey struct{ app, stream string }

func laneOf(e *event.Event) laneKey {
	return laneKey{e.App, e.Stream}
}

// lane is the facts of one stream on their way to one receiver. A lane that has
// nothing to do does not exist. The Dispatcher's lock guards it, but for what
// the one worker does who has set busy.
type lane struct {
	r      *receiver
	key    laneKey
	queue  []*item
	busy   bool        // a worker has it, or it is in the receiver's ready list
	listed bool        // it is in that list
	wait   *time.Timer // of a parked lane, or of the flap guard; nil: none

	park   *park  // nil: the lane is not parked
	last   uint64 // while it is parked: the newest fact that a feed has brought
	unread bool   // while it is parked: there may be more behind it from before a restart
	told   int    // while it is parked: facts told since its record was written
	done   uint64 // what came before was told while the lane was parked, whatever a feed brings late

	flap *flap // what the receiver was told behind a flap guard; nil: nothing
}

// item is a fact in a lane.
type item struct {
	entry
	cb   *event.Callback
	slot *slot // of the feed that brought it; nil: it was found in the log
}

// park is the record of a parked lane.
type park struct {
	// Seq is the place of the fact that could not be told. With Done it was in
	// the end; what follows it in the log was not.
	Seq  uint64 `json:"seq"`
	Done bool   `json:"done,omitempty"`

	Step  int       `json:"step"` // of the schedule: the attempt that comes next
	First time.Time `json:"first"`
	Next  time.Time `json:"next"`

	NotBefore time.Time `json:"not_before,omitzero"` // as the receiver has asked

	Letter *Letter `json:"letter"` // what is told; nil in memory

	happened time.Time // the fact of Seq
}

// Letter is a fact as it is told: rendered once, and kept so over all attempts.
type Letter struct {
	ID       string     `json:"id"` // of the fact
	Type     event.Type `json:"type"`
	Time     time.Time  `json:"time"` // of the fact
	Space    string     `json:"space"`
	App      string     `json:"app,omitempty"`
	Stream   string     `json:"stream,omitempty"`
	Sequence string     `json:"sequence,omitempty"`
	Group    string     `json:"group"` // of the receiver; see event.Callback

	URL         string `json:"url"`
	Format      string `json:"format,omitempty"`
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`

	Attempts int       `json:"attempts"` // so far
	Last     time.Time `json:"last,omitzero"`
	Error    string    `json:"error,omitempty"` // of the last one
}

func (l *Letter) call() *call {
	return &call{l.ID, l.Type, l.Format, l.URL, body{l.Body, l.ContentType}, l.Attempts + 1, l.Sequence}
}

// flap is the record of the flap guard: what a receiver was told of a stream, of
// whose pushes he may take several for one. There is one while a push that he
// was told of goes on.
type flap struct {
	Space  string `json:"space"`
	Group  string `json:"group"`
	App    string `json:"app"`
	Stream string `json:"stream"`

	// Told are the pushes whose start he was told and whose end he was not: more
	// than one where the end of a node that died comes after the next start.
	Told []alias  `json:"told"`
	Kept []string `json:"kept,omitempty"` // Sequences whose start he was not told, the newest last

	// Seq is the place in the log of a fact of that Time: those before it are
	// done with when this is written.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
}

// alias is a push and the Sequence that the receiver knows it by.
type alias struct {
	As  string `json:"as"`
	Now string `json:"now"`
}

// maxKept is how many Sequences a flap remembers: as many as may be read again
// after a crash.
const maxKept = 256

func (f *flap) has(sequence string) bool {
	return f != nil && slices.Contains(f.Kept, sequence)
}

// toldAs returns the Sequence that the receiver knows a push by, and whether he
// was told of its start.
func (f *flap) toldAs(sequence string) (as string, told bool) {
	if f != nil {
		for _, a := range f.Told {
			if a.Now == sequence {
				return a.As, true
			}
		}
	}
	return sequence, false
}

func (f *flap) forget(sequence string) {
	f.Told = slices.DeleteFunc(f.Told, func(a alias) bool { return a.Now == sequence })
}

// next returns a copy of f as it is when the lane has come to a fact; f may be nil.
func (f *flap) next(l *lane, it *item) *flap {
	n := &flap{Space: l.r.space, Group: l.r.group, App: l.key.app, Stream: l.key.stream, Seq: it.seq, Time: it.event.Time}
	if f != nil {
		n.Told, n.Kept = slices.Clone(f.Told), slices.Clone(f.Kept)
	}
	return n
}

// key returns the key of a record: names of any length and form are in it by
// their hash.
func key(kind string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p + "\x00"))
	}
	return kind + "." + hex.EncodeToString(h.Sum(nil)[:16])
}

func (l *lane) recordKey(kind string) string {
	return key(kind, l.r.space, l.r.group, l.key.app, l.key.stream)
}

// query is what a lane reads of the log; others than its own facts may be among it.
func (l *lane) query() query { return query{l.r.space, l.key.app, l.key.stream} }

// waits reports whether there may be facts behind the one that a lane is parked
// by. The Dispatcher's lock is held.
func (l *lane) waits() bool { return l.unread || l.last > l.park.Seq }

// own returns how e is told, if it is one of the lane's.
func (l *lane) own(e *event.Event) *event.Callback {
	cb := callbackOf(e)
	if cb == nil || e.Space != l.r.space || laneOf(e) != l.key || groupOf(cb) != l.r.group {
		return nil
	}
	return cb
}

func groupOf(cb *event.Callback) string {
	if cb.Group != "" {
		return cb.Group
	}
	return cb.URL
}

// letter renders the fact of an item.
func (l *lane) letter(it *item) (*Letter, error) {
	e := &it.event
	sequence, _ := l.flap.toldAs(e.Sequence)
	b, err := render(e, it.cb, sequence)
	if err != nil {
		return nil, err
	}
	return &Letter{
		ID: e.ID, Type: e.Type, Time: e.Time, Space: e.Space, App: e.App, Stream: e.Stream, Sequence: e.Sequence, Group: groupOf(it.cb),
		URL: it.cb.URL, Format: it.cb.Format, ContentType: b.contentType, Body: b.text,
	}, nil
}

// attempt is the fact that an attempt to tell l was made.
func (l *Letter) attempt(at time.Time, o *outcome, end string, next time.Time) event.Event {
	e := event.New(at, event.CallbackAttempted{
		Of: l.ID, OfType: l.Type, URL: bare(l.URL), Attempt: l.Attempts, Status: o.status, Latency: o.latency,
		Error: o.err, Response: o.response, Outcome: end, Next: next,
	})
	e.Space, e.App, e.Stream, e.Sequence = l.Space, l.App, l.Stream, l.Sequence
	return e
}

// bare is a URL without its query, in which there may be secrets.
func bare(u string) string {
	u, _, _ = strings.Cut(u, "?")
	return u
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // these are structs of texts and numbers
	}
	return b
}
