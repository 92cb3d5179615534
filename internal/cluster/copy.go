package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"weir/internal/durable"
)

// policyCopy is the file in which a node keeps what it has seen of the policy.
// Its documents are as in the bucket, so secrets are encrypted here, too.
type policyCopy struct {
	Format    int               `json:"weir"`
	Documents []copiedDocument  `json:"documents"`
	Forbidden []json.RawMessage `json:"forbidden"` // Bans
	Keys      map[string]string `json:"keys"`      // encrypted, too
}

type copiedDocument struct {
	Name    string          `json:"name"`
	Version uint64          `json:"version"`
	Stored  json.RawMessage `json:"stored"`
}

// saveCopy writes the copy if there is something new, and what is known makes a
// good Set.
func (p *Policy) saveCopy() {
	p.copying.Lock() // so that none is written over a newer one
	defer p.copying.Unlock()
	p.mu.Lock()
	if !p.dirty || !p.complete || p.invalid != nil || p.o.Copy == "" {
		p.mu.Unlock()
		return
	}
	p.dirty = false
	c := policyCopy{Format: format, Keys: maps.Clone(p.keys)}
	for _, s := range p.docs {
		if !s.Deleted {
			c.Documents = append(c.Documents, copiedDocument{s.Name, s.Version, s.raw})
		}
	}
	for _, b := range p.bans {
		for _, ban := range b.list {
			if raw, err := json.Marshal(ban); err == nil {
				c.Forbidden = append(c.Forbidden, raw)
			}
		}
	}
	p.mu.Unlock()
	data, err := json.Marshal(c)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.o.Copy), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(p.o.Copy, data)
	}
	p.mu.Lock()
	first := err != nil && p.uncopied == nil
	if p.uncopied = err; err != nil {
		p.dirty = true // and so it is tried again
	}
	p.advance()
	p.mu.Unlock()
	if first {
		p.log.Warn("the copy of the policy cannot be written; without it this node cannot start while the policy store is away", "file", p.o.Copy, "err", err)
	}
}

// loadCopy makes the copy the policy to begin with and reports whether it could.
func (p *Policy) loadCopy() bool {
	if p.o.Copy == "" {
		return false
	}
	os.Remove(p.o.Copy + ".new") // of a process that was killed
	data, err := os.ReadFile(p.o.Copy)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = p.readCopy(data)
	}
	if err != nil {
		p.log.Error("the copy of the policy cannot be used", "file", p.o.Copy, "err", err)
		return false
	}
	return true
}

func (p *Policy) readCopy(data []byte) error {
	var c policyCopy
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	if c.Format > format {
		return fmt.Errorf("it was written by a newer Weir, in format %d; this one knows up to %d", c.Format, format)
	}
	v := newView()
	for _, d := range c.Documents {
		doc, _, err := p.o.Keys.readEnvelope(d.Name, d.Version, d.Stored)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		v.docs[d.Name] = &stored{doc, d.Stored}
	}
	for _, raw := range c.Forbidden {
		var b Ban
		if err := json.Unmarshal(raw, &b); err == nil {
			v.put(b)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view = v
	maps.Copy(p.keys, c.Keys)
	if p.o.FileRules {
		return nil
	}
	set, err := p.assemble(p.current())
	if err != nil {
		p.view = newView()
		return err
	}
	p.set.Store(set)
	return nil
}
