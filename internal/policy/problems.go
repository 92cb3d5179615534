package policy

import (
	"fmt"
	"time"
)

// Problem is one thing that is wrong with a Set.
type Problem struct {
	Path    string // of the setting, from the Set down: spaces[0].apps[1].hold
	Message string // what is wrong and what would be right
}

// Problems returns all that is wrong with s. A Set with problems must not be
// used to serve.
func (s *Set) Problems() []Problem { return s.check().problems }

// check looks at all of s.
func (s *Set) check() *checker {
	c := new(checker)
	spaces, domains := map[string]string{}, map[string]string{}
	for i := range s.Spaces {
		sp, path := &s.Spaces[i], fmt.Sprintf("spaces[%d]", i)
		c.name(path, sp.Name, spaces)
		for j := range sp.Domains {
			c.domain(fmt.Sprintf("%s.domains[%d]", path, j), sp, &sp.Domains[j], domains)
		}
		apps := map[string]string{}
		for j := range sp.Apps {
			c.app(fmt.Sprintf("%s.apps[%d]", path, j), sp, &sp.Apps[j], apps)
		}
		c.callback(path+".callback", sp, sp.Callback)
		c.delivery(path+".callback_delivery", sp.Delivery)
		keys := map[string]string{}
		for j := range sp.AccessKeys {
			c.accessKey(fmt.Sprintf("%s.access_keys[%d]", path, j), &sp.AccessKeys[j], keys)
		}
		c.atMost(path+".forbidden", len(sp.Forbidden), maxForbidden)
		for j := range sp.Forbidden {
			c.forbidden(fmt.Sprintf("%s.forbidden[%d]", path, j), &sp.Forbidden[j])
		}
	}
	if s.DefaultSpace != "" && spaces[s.DefaultSpace] == "" {
		c.add("default_space", "there is no space %.128q", s.DefaultSpace)
	}
	c.buckets(s)
	c.apart(s)
	EachSecret(s, func(path string, secret *Secret) {
		if secret.Reveal() == hidden {
			c.add(path, "%s is how a secret is shown; write the secret itself", hidden)
		}
	})
	return c
}

// maxForbidden is how many streams the configuration of a space may forbid:
// each request looks at all of them. Bans may be more.
const maxForbidden = 1000

type checker struct {
	problems  []Problem
	receivers []Receiver // of which there is no problem
}

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{path, fmt.Sprintf(format, args...)})
}

// name checks the name of the thing at path, and that no other has it.
func (c *checker) name(path, name string, seen map[string]string) {
	switch {
	case name == "":
		c.add(path, "name is missing")
	case !ValidName(name):
		c.add(path+".name", "%.128q is not a name: %s", name, NameForm)
	case seen[name] != "":
		c.add(path+".name", "%q is already the name of %s", name, seen[name])
	default:
		seen[name] = path
	}
}

func (c *checker) domain(path string, sp *Space, d *Domain, seen map[string]string) {
	name, ok := canonicalPattern(d.Name)
	switch {
	case d.Name == "":
		c.add(path, "name is missing")
	case !ok:
		c.add(path+".name", "%.128q is not a host name: live.example.com, *.example.com, * or an IP address, "+
			"without port, international names in their xn-- form", d.Name)
	case seen[name] != "":
		c.add(path+".name", "%q is already the name of %s", d.Name, seen[name])
	default:
		seen[name] = path
	}
	c.use(path+".type", d.Type)
	c.access(path+".publish", sp, &d.Publish)
	c.access(path+".play", sp, &d.Play)
	c.playOnly(path+".publish", &d.Publish)
}

func (c *checker) use(path string, t DomainType) {
	if t == 0 || t&^Both != 0 {
		c.add(path, "must be publish, play or both")
	}
}

func (c *checker) accessKey(path string, k *AccessKey, seen map[string]string) {
	switch {
	case k.ID == "":
		c.add(path, "id is missing")
	case !ValidName(k.ID):
		c.add(path+".id", "%.128q is not an id: %s", k.ID, NameForm)
	case seen[k.ID] != "":
		c.add(path+".id", "%q is already the id of %s", k.ID, seen[k.ID])
	default:
		seen[k.ID] = path
	}
	c.secret(path, "secret", k.Secret, maxSecret, printable, "visible ASCII")
}

func (c *checker) forbidden(path string, f *Forbidden) {
	if !ValidName(f.App) {
		c.add(path+".app", "%.128q is not a name: %s", f.App, NameForm)
	}
	if f.Stream != "" && !ValidStreamName(f.Stream) {
		c.add(path+".stream", "%.128q is not the name of a stream", f.Stream)
	}
	c.use(path+".type", f.Type)
}

func (c *checker) app(path string, sp *Space, a *App, seen map[string]string) {
	c.name(path, a.Name, seen)
	c.between(path+".idle_timeout", a.IdleTimeout, time.Second, time.Hour)
	c.between(path+".stale_after", a.StaleAfter, time.Second, time.Hour)
	c.between(path+".hold", a.Hold, 0, time.Hour)
	c.between(path+".max_lead", a.MaxLead, time.Second, time.Hour)
	c.record(path+".record", sp, &a.Record)
	c.quality(path+".quality", &a.Quality)
	c.snapshot(path+".snapshot", sp, &a.Snapshot)
	c.transcode(path+".transcode", a.Transcode)
	c.callback(path+".callback", sp, a.Callback)
	h := &a.HLS
	path += ".hls"
	c.between(path+".segment", h.Segment, time.Second, time.Minute)
	if h.Window < 3 || h.Window > 1000 {
		c.add(path+".window", "must be 3 to 1000 segments, not %d", h.Window)
	}
	c.between(path+".idle", h.Idle, time.Second, time.Hour)
	c.between(path+".max_segment", h.MaxSegment, max(h.Segment, time.Second), 10*time.Minute)
	if h.MaxSegmentSize < 1<<20 || h.MaxSegmentSize > 1<<30 {
		c.add(path+".max_segment_size", "must be 1MiB to 1GiB, not %s", h.MaxSegmentSize)
	}
}

func (c *checker) between(path string, d, least, most time.Duration) {
	if d < least || d > most {
		c.add(path, "must be %v to %v, not %v", least, most, d)
	}
}
