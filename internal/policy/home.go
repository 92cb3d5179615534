package policy

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// home is a folder of a bucket in which an app's recordings or pictures are. Whose
// they are no key says (the paths are the customer's, and have no space in them), so two
// spaces must not have one place: each could see and delete what the other has.
type home struct {
	space   string
	setting string // of the app: record or snapshot
	at      string // path of the app in the Set
	bucket  string // which it is, whatever it is called here
	folder  string // with its slash
}

// homes returns where an app's recordings are, and its pictures. Of a bucket with a
// second one there are two. Without unused there are none of what the app does not
// write and has nothing of deleted.
func (s *Set) homes(at, space string, a *App, unused bool) (list []home) {
	r, p := &a.Record, &a.Snapshot
	for _, use := range [...]struct {
		setting, bucket, prefix string
		used                    bool
	}{
		{"record", r.Bucket, r.Prefix, r.Mode != RecordOff || r.KeepAge > 0 || r.KeepSize > 0 || r.KeepClips > 0},
		{"snapshot", p.Bucket, p.Prefix, p.Enabled || p.KeepAge > 0},
	} {
		if !use.used && !unused {
			continue
		}
		for b := s.bucket(use.bucket); b != nil; b = s.second(b) {
			list = append(list, home{space, use.setting, at, b.identity(), path.Join(b.Prefix, use.prefix, "record", a.Name) + "/"})
		}
	}
	return list
}

// bucket returns the bucket of that name, "" for the first, or nil.
func (s *Set) bucket(name string) *Bucket {
	list := s.AllBuckets()
	for i := range list {
		if name == "" || list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func (s *Set) second(b *Bucket) *Bucket {
	if b.Second == "" || b.Second == b.Name {
		return nil
	}
	second := s.bucket(b.Second)
	if second != nil {
		last := *second // there is no third
		last.Second = ""
		second = &last
	}
	return second
}

// identity returns what two buckets have in common that are one under two names.
func (b *Bucket) identity() string {
	if b.Type == BucketDirectory {
		return "directory " + filepath.Clean(cmp.Or(b.Path, b.Name))
	}
	return "s3 " + strings.ToLower(strings.TrimRight(string(b.Endpoint), "/")) + " " + b.RemoteName()
}

// overlaps reports whether what is in one place is in the other as well. Recordings and
// pictures have folders of their own in it.
func (p *home) overlaps(q *home) bool {
	return p.bucket == q.bucket && p.setting == q.setting && (strings.HasPrefix(p.folder, q.folder) || strings.HasPrefix(q.folder, p.folder))
}

// Apart reports whether all that is where an app has its recordings, or its pictures,
// is of its space. What the app does not use may be where another space has its own.
func (s *Set) Apart(space, app, setting string) bool {
	sp := s.Space(space)
	if sp == nil || sp.App(app) == nil {
		return false
	}
	own := func(p home) bool { return p.setting != setting }
	if len(slices.DeleteFunc(s.homes("", space, sp.App(app), false), own)) > 0 {
		return true // nobody else has it, or there would be a problem
	}
	mine := slices.DeleteFunc(s.homes("", space, sp.App(app), true), own)
	for i := range s.Spaces {
		if s.Spaces[i].Name == space {
			continue
		}
		for j := range s.Spaces[i].Apps {
			for _, p := range s.homes("", s.Spaces[i].Name, &s.Spaces[i].Apps[j], true) {
				if slices.ContainsFunc(mine, func(q home) bool { return p.overlaps(&q) }) {
					return false
				}
			}
		}
	}
	return true
}

// apart sees that no two spaces have their objects in one place.
func (c *checker) apart(s *Set) {
	var list []home
	for i := range s.Spaces {
		for j := range s.Spaces[i].Apps {
			list = append(list, s.homes(fmt.Sprintf("spaces[%d].apps[%d]", i, j), s.Spaces[i].Name, &s.Spaces[i].Apps[j], false)...)
		}
	}
	// A folder comes right before what is in it.
	slices.SortStableFunc(list, func(a, b home) int {
		return cmp.Or(strings.Compare(a.bucket, b.bucket), strings.Compare(a.setting, b.setting), strings.Compare(a.folder, b.folder))
	})
	var above []home
	seen := map[string]bool{}
	for _, p := range list {
		for len(above) > 0 && !above[len(above)-1].overlaps(&p) {
			above = above[:len(above)-1]
		}
		if i := slices.IndexFunc(above, func(q home) bool { return q.space != p.space }); i >= 0 {
			first, last := above[i], p
			if first.at > last.at {
				first, last = last, first
			}
			if path := last.at + "." + last.setting; !seen[path] {
				seen[path] = true
				c.add(path+".prefix", "the objects would be among those of %s.%s, which is of another space: each could see and delete what the other has; "+
					"give one of them a prefix of its own, such as the name of its space, or another bucket", first.at, first.setting)
			}
		}
		above = append(above, p)
	}
}
