package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"weir/internal/bus"
	"weir/internal/policy"
)

// Document is one document of the policy in one version. Nobody changes what
// Value points to.
type Document struct {
	Name    string // space/demo, general …
	Version uint64 // of the bucket: of two versions of all documents the later is greater
	Value   any    // pointer to a struct, as policy.NewDocument makes it; nil when it was deleted
	Deleted bool

	By   string    // who made this version
	At   time.Time // when
	Note string    // what changed, without secrets
}

// envelope is how a version of a document is stored.
type envelope struct {
	Format   int             `json:"weir"`           // of this, and of the document
	Node     string          `json:"node,omitempty"` // that wrote it, and tells of it
	By       string          `json:"by"`
	At       time.Time       `json:"at"`
	Note     string          `json:"note,omitempty"`
	More     int             `json:"more,omitempty"`   // documents of the same change that follow
	Before   uint64          `json:"before,omitempty"` // the version that it follows
	Deleted  bool            `json:"deleted,omitempty"`
	Document json.RawMessage `json:"document,omitempty"`
}

// format is the one that this version writes; it reads all up to it.
const format = 1

// maxDocument is how long a stored document may be: NATS takes 1 MiB.
const maxDocument = 768 << 10

// key returns the key of a document in the bucket.
func key(name string) string {
	kind, rest, named := strings.Cut(name, "/")
	if !named {
		return bus.Token(kind)
	}
	return bus.Token(kind) + "." + bus.Token(rest)
}

// nameOf returns the name of the document at a key.
func nameOf(key string) (string, error) {
	first, rest, named := strings.Cut(key, ".")
	kind, err := bus.Name(first)
	if err != nil || !named {
		return kind, err
	}
	name, err := bus.Name(rest)
	return kind + "/" + name, err
}

// seal returns v as it is stored: JSON with its secrets encrypted.
func (r *Keyring) sealDocument(name string, v any) []byte {
	return policy.Encoding{Secret: func(s policy.Secret) string { return r.Seal(name, s.Reveal()) }}.JSON(v)
}

// openDocument reads what sealDocument has returned.
func (r *Keyring) openDocument(name string, data []byte) (any, error) {
	v, err := policy.NewDocument(name)
	if err != nil {
		return nil, err
	}
	if problems := policy.DecodeJSON(data, v); problems != nil {
		return nil, fmt.Errorf("it was written by another version of Weir, or is damaged: %s: %s", problems[0].Path, problems[0].Message)
	}
	policy.EachSecret(v, func(_ string, s *policy.Secret) {
		text, e := r.Open(name, s.Reveal())
		if e != nil && err == nil {
			err = e
		}
		*s = policy.NewSecret(text)
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// readEnvelope reads a stored version of a document.
func (r *Keyring) readEnvelope(name string, version uint64, data []byte) (d Document, more int, err error) {
	d = Document{Name: name, Version: version}
	if len(data) == 0 { // somebody deleted the key by other means
		d.Deleted = true
		return d, 0, nil
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return d, 0, fmt.Errorf("it is damaged: %w", err)
	}
	d.By, d.At, d.Note, d.Deleted = e.By, e.At, e.Note, e.Deleted
	if e.Format > format {
		return d, e.More, fmt.Errorf("it was written by a newer Weir, in format %d; this one knows up to %d", e.Format, format)
	}
	if !d.Deleted {
		d.Value, err = r.openDocument(name, e.Document)
	}
	return d, e.More, err
}

// clone returns a copy of v, a document's value, that shares nothing with it.
func clone(name string, v any) (any, error) {
	out, err := policy.NewDocument(name)
	if err != nil {
		return nil, err
	}
	if problems := policy.DecodeJSON(policy.Encoding{Secret: policy.Clear}.JSON(v), out); problems != nil {
		return nil, fmt.Errorf("%s: %s", problems[0].Path, problems[0].Message)
	}
	return out, nil
}

// sameValue reports whether two values of a document are the same, secrets too.
func sameValue(a, b any) bool {
	e := policy.Encoding{Secret: policy.Clear}
	return bytes.Equal(e.JSON(a), e.JSON(b))
}

// note says what differs between two values of a document, in a few words.
func note(old, new any) string {
	switch {
	case new == nil:
		return "deleted"
	case old == nil:
		return "created"
	}
	var b strings.Builder
	all := policy.Diff(old, new)
	for i, d := range all {
		line := d.String()
		if len(line) > 200 {
			line = strings.ToValidUTF8(line[:200], "") + "…"
		}
		if b.Len() > 500 {
			fmt.Fprintf(&b, "; and %d more", len(all)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return b.String()
}
