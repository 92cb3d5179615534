package policy

import (
	"net/netip"
	"net/url"
	"strings"
)

// AddrLists are the addresses that may not do something, and those that may:
// Block wins, and an Allow list that is not empty keeps out all others.
type AddrLists struct {
	Allow []Network `yaml:"allow"`
	Block []Network `yaml:"block"`
}

// Pass reports whether a client at a is let through.
func (l *AddrLists) Pass(a netip.Addr) bool {
	if len(l.Block) > 0 && (!a.IsValid() || contains(l.Block, a)) {
		return false
	}
	return len(l.Allow) == 0 || contains(l.Allow, a)
}

// TextLists is AddrLists for something that a client says of itself.
type TextLists struct {
	Allow []string `yaml:"allow"`
	Block []string `yaml:"block"`

	// AllowEmpty is whether clients pass that say nothing. When it is not set,
	// they pass unless there is an Allow list.
	AllowEmpty *bool `yaml:"allow_empty"`
}

// set reports whether l says anything.
func (l *TextLists) set() bool { return len(l.Allow)+len(l.Block) > 0 || l.AllowEmpty != nil }

// empty reports whether clients pass that say nothing.
func (l *TextLists) empty() bool {
	if l.AllowEmpty != nil {
		return *l.AllowEmpty
	}
	return len(l.Allow) == 0
}

func (l *TextLists) pass(match func(pattern string) bool) bool {
	for _, p := range l.Block {
		if match(p) {
			return false
		}
	}
	for _, p := range l.Allow {
		if match(p) {
			return true
		}
	}
	return len(l.Allow) == 0
}

// PassReferer reports whether a player is let through who came from the page
// of that URL. The lists are of host names in their canonical form.
func (l *TextLists) PassReferer(referer string) bool {
	if referer == "" {
		return l.empty()
	}
	host := ""
	if u, err := url.Parse(referer); err == nil {
		host, _ = CanonicalHost(u.Host)
	}
	return l.pass(func(pattern string) bool {
		if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
			return strings.HasSuffix(host, suffix)
		}
		return host == pattern
	})
}

// PassText reports whether a player is let through who says s of itself. The
// lists are of texts in which * is anything; capitals do not count.
func (l *TextLists) PassText(s string) bool {
	if s == "" {
		return l.empty()
	}
	s = strings.ToLower(s)
	return l.pass(func(pattern string) bool { return wildcard(strings.ToLower(pattern), s) })
}

// wildcard reports whether s is pattern, in which * is any text. What lies
// between two asterisks is looked for from the left and never again, so the
// time is linear.
func wildcard(pattern, s string) bool {
	first, pattern, star := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	for ok && star {
		var part string
		part, pattern, star = strings.Cut(pattern, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		_, s, ok = strings.Cut(s, part)
	}
	return ok && s == ""
}
