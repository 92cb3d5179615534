package policy

import (
	"fmt"
	"strings"
)

// Difference is a setting that is not the same in two values. Secrets are
// three asterisks in it, though they differ.
type Difference struct {
	Path string `json:"path"`          // with the names of list elements: apps[live].hold
	Old  string `json:"old,omitempty"` // as JSON; empty: it is not there
	New  string `json:"new,omitempty"`
}

func (d Difference) String() string {
	switch {
	case d.Old == "":
		return fmt.Sprintf("%s: %s", d.Path, d.New)
	case d.New == "":
		return fmt.Sprintf("%s: not %s any more", d.Path, d.Old)
	}
	return fmt.Sprintf("%s: %s, was %s", d.Path, d.New, d.Old)
}

// Diff returns the settings in which two values of one type differ, both
// pointers to a struct; nil for what is not there. What has its default
// counts as there only if the other has not.
func Diff(old, new any) []Difference {
	e := Encoding{Full: true, Secret: Clear}
	a, b := &node{kind: kindSection}, &node{kind: kindSection}
	switch {
	case old == nil && new == nil:
		return nil
	case old == nil:
		b = Encoding{Secret: Clear}.tree(new)
	case new == nil:
		a = Encoding{Secret: Clear}.tree(old)
	default:
		a, b = e.tree(old), e.tree(new)
	}
	var list []Difference
	diff(&list, "", a, b)
	return list
}

// diff adds where a and b differ; one of them may be nil.
func diff(list *[]Difference, path string, a, b *node) {
	if a != nil && b != nil && a.kind == b.kind && (a.kind == kindSection || a.kind == kindList && elementKey(a, b) != "") {
		for _, k := range names(a, b) {
			sub := strings.TrimPrefix(path+"."+quoteKey(k), ".")
			if a.kind == kindList {
				sub = path + "[" + quoteKey(k) + "]"
			}
			diff(list, sub, a.child(k), b.child(k))
		}
		return
	}
	if old, new := written(a, false), written(b, false); old != new {
		*list = append(*list, Difference{path, written(a, true), written(b, true)})
	}
}

// elementKey returns the setting by which the elements of two lists are told
// from each other, or "" where none is: then the lists are compared as a whole.
func elementKey(lists ...*node) string {
	for _, key := range []string{"name", "id"} {
		all, any := true, false
		for _, l := range lists {
			seen := map[string]bool{}
			for _, e := range l.list {
				n := e.setting(key)
				all, any = all && n != nil && n.kind == kindText && !seen[n.text], true
				if n != nil {
					seen[n.text] = true
				}
			}
		}
		if all && any {
			return key
		}
	}
	return ""
}

// names returns the keys of both, or the names of their elements, each once.
func names(a, b *node) []string {
	var list []string
	seen := map[string]bool{}
	for _, n := range []*node{a, b} {
		for i := range n.list {
			name := ""
			if n.kind == kindSection {
				name = n.keys[i].name
			} else {
				name = n.list[i].setting(elementKey(a, b)).text
			}
			if !seen[name] {
				seen[name] = true
				list = append(list, name)
			}
		}
	}
	return list
}

// child returns the setting or the element of that name, or nil.
func (n *node) child(name string) *node {
	if n.kind == kindSection {
		return n.setting(name)
	}
	for _, e := range n.list {
		if k := e.setting(elementKey(n)); k != nil && k.text == name {
			return e
		}
	}
	return nil
}

// setting returns what is at a key of a section, or nil.
func (n *node) setting(name string) *node {
	for i, k := range n.keys {
		if k.name == name {
			return n.list[i]
		}
	}
	return nil
}

// written returns n as JSON, empty for nil, its secrets masked if it is to be shown.
func written(n *node, show bool) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	n.json(&b, show)
	return b.String()
}
