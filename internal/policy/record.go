package policy

import (
	"strings"
	"time"
)

// Record is how an app's streams are recorded. A push keeps what it began with,
// and so does the file that it goes into, whoever goes on with it.
type Record struct {
	Mode  RecordMode `yaml:"mode"`
	Param string     `yaml:"param"` // RecordParam: the parameter of a push that asks for it, as record=1

	Bucket string `yaml:"bucket"` // its name; empty: the first one
	Prefix string `yaml:"prefix"` // of all keys, before record/

	// An MP4 or FLV file is made from the HLS recording, so there always is one;
	// where it is not enabled nobody is told of it (guide l.789).
	HLS RecordFormat `yaml:"hls"`
	MP4 RecordFormat `yaml:"mp4"`
	FLV RecordFormat `yaml:"flv"`

	Segment time.Duration `yaml:"segment"` // target; a segment ends with the first key frame at or after it
	Splice  time.Duration `yaml:"splice"`  // a push that returns after no more than this goes on in the same file
	Cut     time.Duration `yaml:"cut"`     // a file ends with the first key frame at or after so much media

	// What a push that returns in time does when it is not the same any more.
	OnVDOIDChange RecordChange `yaml:"on_vdoid_change"` // the parameter vdoid differs
	OnCodecChange RecordChange `yaml:"on_codec_change"` // codec, picture size, sample rate or channels differ

	KeepAge  time.Duration `yaml:"keep_age"`  // recordings are deleted so long after their end; 0: never
	KeepSize Size          `yaml:"keep_size"` // of a stream's recordings; above it the oldest are deleted; 0: no limit

	KeepClips time.Duration `yaml:"keep_clips"` // clips are deleted so long after they were made; 0: never
}

// RecordFormat is one of the formats of recordings.
type RecordFormat struct {
	Enabled  bool          `yaml:"enabled"`
	Callback Endpoint      `yaml:"callback"` // who is told when a file is there, or cannot be
	Version  RecordVersion `yaml:"version"`  // what he is told
}

// SetDefaults gives r the settings of an app that says nothing else.
func (r *Record) SetDefaults() {
	*r = Record{
		Param:   "record",
		HLS:     RecordFormat{Enabled: true},
		Segment: 10 * time.Second,
		Splice:  3 * time.Minute,
		Cut:     6 * time.Hour,
	}
}

// RecordMode says which pushes are recorded.
type RecordMode uint8

const (
	RecordOff       RecordMode = iota
	RecordAutomatic            // all
	RecordRequest              // those that somebody asks for by the API
	RecordParam                // those whose parameters ask for it, and as RecordRequest
)

var recordModes = enum[RecordMode]{{"off", RecordOff}, {"automatic", RecordAutomatic}, {"request", RecordRequest}, {"param", RecordParam}}

func (m RecordMode) String() string                { return recordModes.name(m) }
func (m RecordMode) MarshalText() ([]byte, error)  { return []byte(m.String()), nil }
func (m *RecordMode) UnmarshalText(b []byte) error { return recordModes.parse(b, m) }
func (RecordMode) words() []string                 { return recordModes.words() }

// RecordChange says what becomes of the file when something changes.
type RecordChange uint8

const (
	RecordNewFile       RecordChange = iota // it is final, and there is a new one
	RecordDiscontinuity                     // it goes on
)

var recordChanges = enum[RecordChange]{{"new_file", RecordNewFile}, {"discontinuity", RecordDiscontinuity}}

func (c RecordChange) String() string                { return recordChanges.name(c) }
func (c RecordChange) MarshalText() ([]byte, error)  { return []byte(c.String()), nil }
func (c *RecordChange) UnmarshalText(b []byte) error { return recordChanges.parse(b, c) }
func (RecordChange) words() []string                 { return recordChanges.words() }

// RecordVersion is what a callback of a recording says.
type RecordVersion uint8

const (
	RecordOld RecordVersion = iota // as the guide's examples
	RecordNew                      // with start, end, bucket, space, app, stream, duration, size
)

var recordVersions = enum[RecordVersion]{{"old", RecordOld}, {"new", RecordNew}}

func (v RecordVersion) String() string                { return recordVersions.name(v) }
func (v RecordVersion) MarshalText() ([]byte, error)  { return []byte(v.String()), nil }
func (v *RecordVersion) UnmarshalText(b []byte) error { return recordVersions.parse(b, v) }
func (RecordVersion) words() []string                 { return recordVersions.words() }

// record checks how an app's streams are recorded.
func (c *checker) record(path string, sp *Space, r *Record) {
	if r.Mode > RecordParam {
		c.add(path+".mode", "must be off, automatic, request or param")
	}
	if !ValidName(r.Param) {
		c.add(path+".param", "%.128q is not the name of a parameter: %s", r.Param, NameForm)
	}
	if r.Bucket != "" && !ValidName(r.Bucket) {
		c.add(path+".bucket", "%.128q is not a name: %s", r.Bucket, NameForm)
	}
	c.prefix(path+".prefix", r.Prefix)
	for _, f := range []struct {
		name string
		*RecordFormat
	}{{"hls", &r.HLS}, {"mp4", &r.MP4}, {"flv", &r.FLV}} {
		if f.Callback == "" {
			continue
		}
		c.receiver(path+"."+f.name+".callback", sp, f.Callback)
		if !f.Enabled {
			c.add(path+"."+f.name+".callback", "is of no use without enabled: true")
		}
	}
	if r.Mode != RecordOff && !r.HLS.Enabled && !r.MP4.Enabled && !r.FLV.Enabled {
		c.add(path, "needs a format: hls, mp4 or flv")
	}
	c.between(path+".segment", r.Segment, time.Second, time.Minute)
	c.between(path+".splice", r.Splice, 0, 24*time.Hour)
	c.between(path+".cut", r.Cut, time.Minute, 24*time.Hour)
	if r.KeepAge != 0 {
		c.between(path+".keep_age", r.KeepAge, time.Hour, 100*365*24*time.Hour)
	}
	if r.KeepClips != 0 {
		c.between(path+".keep_clips", r.KeepClips, time.Hour, 100*365*24*time.Hour)
	}
	if r.KeepSize != 0 && r.KeepSize < 1<<20 {
		c.add(path+".keep_size", "must be 1MiB or more, or 0 for no limit, not %s", r.KeepSize)
	}
}

// prefix checks what stands before keys.
func (c *checker) prefix(path, prefix string) {
	if prefix == "" {
		return
	}
	for part := range strings.SplitSeq(prefix, "/") {
		if !ValidName(part) {
			c.add(path, "%.128q is not a row of names such as a/b: %s", prefix, NameForm)
			break
		}
	}
	if len(prefix) > 256 {
		c.add(path, "must have 256 characters at most, not %d", len(prefix))
	}
}
