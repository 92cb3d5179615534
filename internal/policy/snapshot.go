package policy

import (
	"fmt"
	"strings"
	"time"
)

// Snapshot is how pictures are taken of an app's streams. A push keeps what it
// began with.
type Snapshot struct {
	Enabled  bool          `yaml:"enabled"`
	Interval time.Duration `yaml:"interval"` // a picture is the first key frame so long after the one before, or later

	// Size of the pictures. Where one of the two is 0 it follows from the
	// other; where both are, a picture is as large as the video.
	Width        int  `yaml:"width"`
	Height       int  `yaml:"height"`
	Quality      int  `yaml:"quality"` // 1 to 10, the best; any other is DefaultSnapshotQuality (guide l.1160)
	NeverEnlarge bool `yaml:"never_enlarge"`

	Overwrite bool              `yaml:"overwrite"`  // a stream has one picture, the newest
	PathStyle SnapshotPathStyle `yaml:"path_style"` // without Overwrite
	Bucket    string            `yaml:"bucket"`     // its name; empty: the first one
	Prefix    string            `yaml:"prefix"`     // of all keys, before record/
	Region    string            `yaml:"region"`     // what callbacks say of it

	Callback Endpoint        `yaml:"callback"` // who is told of each picture
	Version  SnapshotVersion `yaml:"version"`  // what he is told

	KeepAge time.Duration `yaml:"keep_age"` // pictures are deleted so long after they were taken; 0: never

	Check *SnapshotCheck `yaml:"check"` // nil: nobody looks at the pictures
}

// SetDefaults gives s the settings of an app that says nothing else.
func (s *Snapshot) SetDefaults() {
	*s = Snapshot{Interval: 20 * time.Second, Quality: DefaultSnapshotQuality}
}

// SnapshotPathStyle is what stands between the two parts of a push's folder
// (guide l.1054 and l.1099).
type SnapshotPathStyle uint8

const (
	SnapshotUnderscore SnapshotPathStyle = iota // {UnixTimeMs}_{SessionId}
	SnapshotHyphen                              // {UnixTimeMs}-{SessionId}
)

var snapshotPathStyles = enum[SnapshotPathStyle]{{"underscore", SnapshotUnderscore}, {"hyphen", SnapshotHyphen}}

func (s SnapshotPathStyle) String() string                { return snapshotPathStyles.name(s) }
func (s SnapshotPathStyle) MarshalText() ([]byte, error)  { return []byte(s.String()), nil }
func (s *SnapshotPathStyle) UnmarshalText(b []byte) error { return snapshotPathStyles.parse(b, s) }
func (SnapshotPathStyle) words() []string                 { return snapshotPathStyles.words() }

// SnapshotVersion is what a callback of a picture says.
type SnapshotVersion uint8

const (
	SnapshotOld SnapshotVersion = iota // as the guide's example
	SnapshotNew                        // with items beside itmes
)

var snapshotVersions = enum[SnapshotVersion]{{"old", SnapshotOld}, {"new", SnapshotNew}}

func (v SnapshotVersion) String() string                { return snapshotVersions.name(v) }
func (v SnapshotVersion) MarshalText() ([]byte, error)  { return []byte(v.String()), nil }
func (v *SnapshotVersion) UnmarshalText(b []byte) error { return snapshotVersions.parse(b, v) }
func (SnapshotVersion) words() []string                 { return snapshotVersions.words() }

// SnapshotCheck is a server of the owner that looks at each picture and may
// raise an alert or forbid the stream.
type SnapshotCheck struct {
	URL           Endpoint      `yaml:"url"`
	Secret        Secret        `yaml:"secret"`         // signs the requests
	Timeout       time.Duration `yaml:"timeout"`        // of a request and its repetition together
	Concurrency   int           `yaml:"concurrency"`    // requests at a time
	AllowNetworks []Network     `yaml:"allow_networks"` // private networks in which it may be

	// OnError says what becomes of a stream that cannot be checked: with
	// allow an alert is raised, with deny it is also forbidden.
	OnError OnError       `yaml:"on_error"`
	Forbid  time.Duration `yaml:"forbid"` // for how long a stream is forbidden; 0: until somebody allows it
}

// SetDefaults gives c the settings of one that says nothing else.
func (c *SnapshotCheck) SetDefaults() {
	*c = SnapshotCheck{Timeout: 3 * time.Second, Concurrency: 16, OnError: OnErrorAllow, Forbid: time.Hour}
}

// Limits of pictures, and what they are like where nobody says otherwise.
const (
	MaxSnapshotSide     = 4096
	MinSnapshotInterval = time.Second

	DefaultSnapshotQuality = 5
)

// QualityTaken returns the quality that pictures have.
func (s *Snapshot) QualityTaken() int {
	if s.Quality < 1 || s.Quality > 10 {
		return DefaultSnapshotQuality
	}
	return s.Quality
}

// Ignored returns the paths of the settings whose values nothing is made of, as
// the guide wants it, with a sentence about each.
func (s *Set) Ignored() []string {
	var list []string
	for i := range s.Spaces {
		for j := range s.Spaces[i].Apps {
			if q := &s.Spaces[i].Apps[j].Snapshot; q.Quality != q.QualityTaken() {
				list = append(list, fmt.Sprintf("spaces[%d].apps[%d].snapshot.quality is not 1 to 10 but %d: %d is taken", i, j, q.Quality, q.QualityTaken()))
			}
		}
	}
	return list
}

// snapshot checks how pictures are taken of an app's streams.
func (c *checker) snapshot(path string, sp *Space, s *Snapshot) {
	c.between(path+".interval", s.Interval, MinSnapshotInterval, time.Hour)
	for name, v := range map[string]int{"width": s.Width, "height": s.Height} {
		if v != 0 && (v < 16 || v > MaxSnapshotSide) {
			c.add(path+"."+name, "must be 16 to %d pixels, or 0, not %d", MaxSnapshotSide, v)
		}
	}
	if s.PathStyle > SnapshotHyphen {
		c.add(path+".path_style", "must be underscore or hyphen")
	}
	if s.Bucket != "" && !ValidName(s.Bucket) {
		c.add(path+".bucket", "%.128q is not a name: %s", s.Bucket, NameForm)
	}
	c.prefix(path+".prefix", s.Prefix)
	if len(s.Region) > 64 || strings.ContainsFunc(s.Region, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.add(path+".region", "must be at most 64 visible ASCII characters")
	}
	c.receiver(path+".callback", sp, s.Callback)
	if s.KeepAge != 0 {
		c.between(path+".keep_age", s.KeepAge, time.Hour, 100*365*24*time.Hour)
	}
	k := s.Check
	if k == nil {
		return
	}
	path += ".check"
	c.networks(path+".allow_networks", k.AllowNetworks)
	switch err := k.URL.problem(k.AllowNetworks); {
	case k.URL == "":
		c.add(path, "url is missing")
	case len(k.URL) > maxURL:
		c.add(path+".url", "must have at most %d characters", maxURL)
	case err != nil:
		c.add(path+".url", "%v", err)
	}
	if !k.Secret.IsZero() {
		c.secret(path, "secret", k.Secret, maxSecret, printable, "visible ASCII")
	}
	c.between(path+".timeout", k.Timeout, 100*time.Millisecond, 30*time.Second)
	if k.Concurrency < 1 || k.Concurrency > 1000 {
		c.add(path+".concurrency", "must be 1 to 1000, not %d", k.Concurrency)
	}
	if k.Forbid != 0 {
		c.between(path+".forbid", k.Forbid, time.Second, 10*365*24*time.Hour)
	}
	if !s.Enabled {
		c.add(path, "is of no use without enabled: true")
	}
}
