// Package event is the vocabulary of facts: what happened to a stream, a
// feature or a node, in the words in which it outlives the process that saw it.
//
// A fact is an [Event]: a header that is the same for all, and a [Data], one
// struct for each [Type]. Facts are values; nobody changes one that was handed
// on. What a callback, the history or statistics will need of a fact is in the
// fact: whoever reads it, a day later and on another node, needs neither the
// stream nor the policy of that time.
//
// The JSON of a fact is a contract (docs/events.md): names and meanings stay,
// fields are only added. A reader that meets a Type it does not know keeps it
// as [Unknown].
package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Event is one fact.
type Event struct {
	ID   string    // unique among all facts; NewID
	Type Type      // that of Data
	Time time.Time // when it happened, by the clock of Node
	Node string    // that saw it

	// What it is about; empty where it is about less: a node's start has none
	// of them, an app's change no Stream.
	Space, App, Stream string

	// Sequence is the push that the fact belongs to: the same in everything
	// that came of one push. 128 random bits in hex; NewSequence.
	Sequence string

	Data Data
}

// Data is what a fact of one Type says.
type Data interface{ Type() Type }

// New returns a fact that has an ID and the Type of data. The caller sets the
// rest.
func New(at time.Time, data Data) Event {
	return Event{ID: NewID(), Type: data.Type(), Time: at, Data: data}
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns the ID of a new fact: 26 letters and digits, 128 random bits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return idEncoding.EncodeToString(b[:])
}

// IDOf returns the ID of a fact that several may tell, by what names it: the
// same for the same text.
func IDOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return idEncoding.EncodeToString(sum[:16])
}

// NewSequence returns the Sequence of a new push: 128 random bits in hex.
func NewSequence() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// wire is an Event as JSON.
type wire struct {
	ID       string          `json:"id"`
	Type     Type            `json:"type"`
	Time     time.Time       `json:"time"`
	Node     string          `json:"node,omitempty"`
	Space    string          `json:"space,omitempty"`
	App      string          `json:"app,omitempty"`
	Stream   string          `json:"stream,omitempty"`
	Sequence string          `json:"sequence,omitempty"`
	Data     json.RawMessage `json:"data"`
}

func (e Event) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(e.Data)
	if err != nil {
		return nil, fmt.Errorf("data of %s: %w", e.Type, err)
	}
	return json.Marshal(wire{e.ID, e.Type, e.Time.UTC(), e.Node, e.Space, e.App, e.Stream, e.Sequence, data})
}

// UnmarshalJSON reads what MarshalJSON wrote, by this version or another.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	data, err := w.Type.decode(w.Data)
	if err != nil {
		return fmt.Errorf("data of %s: %w", w.Type, err)
	}
	*e = Event{w.ID, w.Type, w.Time, w.Node, w.Space, w.App, w.Stream, w.Sequence, data}
	return nil
}

// Unknown is the Data of a fact whose Type this version does not know.
type Unknown struct {
	Of  Type
	Raw json.RawMessage
}

func (u Unknown) Type() Type { return u.Of }

func (u Unknown) MarshalJSON() ([]byte, error) { return u.Raw, nil }
