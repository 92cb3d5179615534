package policy

import (
	"fmt"
	"slices"
	"time"
)

// Limits of what one Access may hold, so that a request is judged quickly.
const (
	maxNetworks = 1000
	maxTexts    = 100
)

// access checks who may do something at a domain of sp.
func (c *checker) access(path string, sp *Space, a *Access) {
	if s := a.Simple; s != nil {
		c.keys(path+".simple", s.Key, s.SpareKey, 32) // l.207
		c.validity(path+".simple.max_validity", s.MaxValidity)
	}
	if s := a.Signature; s != nil {
		if len(sp.AccessKeys) == 0 {
			c.add(path+".signature", "needs access_keys in the space; without one nobody can sign")
		}
		if s.NonceMemory && s.MaxValidity == 0 {
			c.add(path+".signature.nonce_memory", "needs max_validity: a nonce is remembered until its signature expires")
		}
		c.validity(path+".signature.max_validity", s.MaxValidity)
	}
	if s := a.SignedURL; s != nil {
		if s.Type < URLTypeA || s.Type > URLTypeTx {
			c.add(path+".signed_url", "type is missing: a, c, d or tx")
		}
		c.keys(path+".signed_url", s.Key, s.SpareKey, maxSecret)
		c.between(path+".signed_url.valid_for", s.ValidFor, 0, 366*24*time.Hour)
		if s.Type == URLTypeD && s.ValidFor != 0 && a.Simple != nil && a.Require == RequireAll {
			c.add(path+".signed_url.valid_for", "must be 0s: the parameter t of type d is also that of simple, where it is the end")
		}
		c.validity(path+".signed_url.max_validity", s.MaxValidity)
	}
	if e := a.External; e != nil {
		c.external(path+".external", e)
	}
	c.networks(path+".ip.allow", a.IP.Allow)
	c.networks(path+".ip.block", a.IP.Block)
	c.hosts(path+".referer.allow", a.Referer.Allow)
	c.hosts(path+".referer.block", a.Referer.Block)
	c.texts(path+".user_agent.allow", a.UserAgent.Allow)
	c.texts(path+".user_agent.block", a.UserAgent.Block)
}

// playOnly refuses settings that mean nothing to publishers.
func (c *checker) playOnly(path string, a *Access) {
	if a.Referer.set() {
		c.add(path+".referer", "is for players over HTTP; set it below play")
	}
	if a.UserAgent.set() {
		c.add(path+".user_agent", "is for players over HTTP; set it below play")
	}
	if a.Segments != SegmentsToken {
		c.add(path+".segments", "is for players of HLS; set it below play")
	}
	if a.External != nil && a.External.OnError == OnErrorAllow {
		c.add(path+".external.on_error", "publishers are refused when the server cannot be asked; allow is for play")
	}
}

func (c *checker) external(path string, e *External) {
	if e.URL == "" {
		c.add(path, "url is missing")
	} else if err := e.URL.problem(e.AllowNetworks); err != nil {
		c.add(path+".url", "%v", err)
	}
	if !e.Secret.IsZero() {
		c.secret(path, "secret", e.Secret, maxSecret, printable, "visible ASCII")
	}
	c.between(path+".timeout", e.Timeout, 100*time.Millisecond, 3*time.Second)
	if e.Concurrency < 1 || e.Concurrency > 1000 {
		c.add(path+".concurrency", "must be 1 to 1000, not %d", e.Concurrency)
	}
	c.between(path+".remember", e.Remember, 0, time.Minute)
	c.networks(path+".allow_networks", e.AllowNetworks)
}

// maxSecret is the most characters of a secret where no contract says less.
const maxSecret = 128

// keys checks a key and its optional spare.
func (c *checker) keys(path string, key, spare Secret, most int) {
	const form = "letters, digits, - and _"
	c.secret(path, "key", key, most, keyByte, form)
	if !spare.IsZero() {
		c.secret(path, "spare_key", spare, most, keyByte, form)
	}
}

// secret checks a secret of at most most characters, of those that ok accepts
// and form describes. It does not quote the secret.
func (c *checker) secret(path, name string, s Secret, most int, ok func(byte) bool, form string) {
	text := s.Reveal()
	switch {
	case text == "":
		c.add(path, "%s is missing", name)
	case len(text) > most:
		c.add(path+"."+name, "must have at most %d characters", most)
	default:
		for i := range len(text) {
			if !ok(text[i]) {
				c.add(path+"."+name, "must be of %s", form)
				return
			}
		}
	}
}

func (c *checker) validity(path string, d time.Duration) {
	if d != 0 {
		c.between(path, d, time.Second, 10*366*24*time.Hour)
	}
}

func (c *checker) networks(path string, list []Network) {
	c.atMost(path, len(list), maxNetworks)
	for i, n := range list {
		if !n.IsValid() || n.Prefix != n.Masked() || n.Addr().Is4In6() || n.Addr().Zone() != "" {
			c.add(fmt.Sprintf("%s[%d]", path, i), "is not a network")
		}
	}
}

func (c *checker) hosts(path string, list []string) {
	c.atMost(path, len(list), maxTexts)
	for i, s := range list {
		if canonical, ok := canonicalPattern(s); !ok || canonical != s {
			c.add(fmt.Sprintf("%s[%d]", path, i), "%.128q is not a host name in lower case: example.com, *.example.com or *", s)
		}
	}
}

func (c *checker) texts(path string, list []string) {
	c.atMost(path, len(list), maxTexts)
	for i, s := range list {
		if s == "" || len(s) > 256 {
			c.add(fmt.Sprintf("%s[%d]", path, i), "must have 1 to 256 characters")
		}
	}
}

func (c *checker) atMost(path string, n, most int) {
	if n > most {
		c.add(path, "must have at most %d entries, not %d", most, n)
	}
}

// Weak returns the paths of the secrets of s that are short enough to be
// guessed, or that documents use as examples.
func (s *Set) Weak() []string {
	var weak []string
	s.secrets(func(path string, secret Secret) {
		if text := secret.Reveal(); len(text) < 12 || slices.Contains(examples, text) {
			weak = append(weak, path)
		}
	})
	return weak
}

// examples are the secrets of the contract's and our own documents.
var examples = []string{"demo-secret-0001", "Ik90eHJ6eElzZnBGakE3U3dQeklMd3k"}

// HasSecrets reports whether there is anything in s that must not be read by
// others.
func (s *Set) HasSecrets() bool {
	found := false
	s.secrets(func(string, Secret) { found = true })
	return found
}

// secrets calls yield for every secret that is set.
func (s *Set) secrets(yield func(path string, secret Secret)) {
	EachSecret(s, func(path string, secret *Secret) { yield(path, *secret) })
}
