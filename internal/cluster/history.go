package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/policy"
)

// History returns the versions of a document that are kept, the newest first: 64
// at most. Value is set in those that can still be read. The error is ErrNotFound
// if there never was such a document, or ErrAway.
func (p *Policy) History(ctx context.Context, name string) ([]Document, error) {
	if _, err := policy.NewDocument(name); err != nil {
		return nil, ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	kv, err := p.js.KeyValue(ctx, policyBucket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	entries, err := kv.History(ctx, key(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	var list []Document
	for _, e := range entries {
		d, _, err := p.o.Keys.readEnvelope(name, e.Revision(), e.Value())
		if err != nil {
			d.Value = nil
			d.Note += " (it cannot be read any more: " + err.Error() + ")"
		}
		if d.At.IsZero() {
			d.At = e.Created().UTC()
		}
		list = append(list, d)
	}
	slices.Reverse(list)
	return list, nil
}

// Version returns a document as it was in a version that is kept, or ErrNotFound.
func (p *Policy) Version(ctx context.Context, name string, version uint64) (Document, error) {
	list, err := p.History(ctx, name)
	if err != nil {
		return Document{}, err
	}
	for _, d := range list {
		if d.Version == version {
			return d, nil
		}
	}
	return Document{}, ErrNotFound
}

// Apply makes the policy what set says: its documents are written where they
// differ. Without prune, documents that set has not stay as they are, and so
// does General if set says nothing that belongs there; with prune they are deleted.
// What Forbid has forbidden stays. All is checked as one whole before anything is
// written; see Write for dry and the errors. The results name everything that is
// there or was, by name.
func (p *Policy) Apply(ctx context.Context, set *policy.Set, prune, dry bool, a Author) ([]Result, error) {
	changes, err := p.applyChanges(set, prune)
	if err != nil {
		return nil, err
	}
	return p.Write(ctx, changes, a, dry)
}

func (p *Policy) applyChanges(set *policy.Set, prune bool) ([]Change, error) {
	var changes []Change
	seen := map[string]bool{}
	for _, d := range set.Documents() {
		if seen[d.Name] {
			return nil, &Invalid{[]Problem{{d.Name, "name", "is there twice"}}}
		}
		seen[d.Name] = true
		if d.Name == policy.General && !prune && string(policy.Encoding{}.JSON(d.Value)) == "{}" {
			continue
		}
		changes = append(changes, Change{Name: d.Name, Value: d.Value, Expect: Any})
	}
	if prune {
		for _, d := range p.Documents("") {
			if !seen[d.Name] {
				changes = append(changes, Change{Name: d.Name, Expect: d.Version})
			}
		}
	}
	return changes, nil
}

// rekey writes the documents whose secrets are encrypted with an older key again.
func (p *Policy) rekey(ctx context.Context) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	var puts []put
	seen := p.seen
	if !p.o.FileRules && len(p.bad) == 0 {
		for name, s := range p.docs {
			if !s.Deleted && p.o.Keys.old(s.raw) {
				puts = append(puts, put{name: name, value: s.Value, note: "secrets encrypted with the newest key", before: s.Version})
			}
		}
	}
	p.mu.Unlock()
	if len(puts) == 0 {
		return
	}
	by := "node " + p.o.Node
	versions, err := p.publish(ctx, puts, seen, by)
	var conflict *conflictError
	switch {
	case err == nil:
		p.tell(puts, versions, by)
		p.log.Info("secrets of the policy are encrypted with the newest key now", "documents", len(puts))
	case !errors.As(err, &conflict) && ctx.Err() == nil: // or another node does it, or the next start
		p.log.Warn("secrets of the policy are still encrypted with an older key", "err", err)
	}
}
