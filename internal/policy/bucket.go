package policy

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bucket is a place where recordings and snapshots are kept: a folder of the
// node's data folder, or a bucket of an S3 server. Buckets belong to the Set and not to
// a space, because a path and the credentials of the machine are its owner's.
type Bucket struct {
	Name string     `yaml:"name"`
	Type BucketType `yaml:"type"`

	// Path is where a directory is, below the data folder; empty: the name.
	// A mount or a symbolic link there leads to another disk.
	Path string `yaml:"path"`

	// Of an S3 bucket. What the endpoint may be is as for any server of
	// somebody else; an S3 server in a private network needs AllowNetworks.
	Endpoint      Endpoint    `yaml:"endpoint"`
	AllowNetworks []Network   `yaml:"allow_networks"`
	Region        string      `yaml:"region"` // empty: the endpoint's own if it tells, or us-east-1
	Bucket        string      `yaml:"bucket"` // its name at the server; empty: the name here
	Prefix        string      `yaml:"prefix"` // of all keys, with its slash
	Style         BucketStyle `yaml:"style"`

	Credentials BucketCredentials `yaml:"credentials"`
	AccessKey   string            `yaml:"access_key"`
	SecretKey   Secret            `yaml:"secret_key"`

	// Second is the bucket that takes new objects once this one has taken none for
	// SecondAfter.
	Second      string        `yaml:"second"`
	SecondAfter time.Duration `yaml:"second_after"`
}

// DefaultBucket is the bucket of a Set that lists none.
const DefaultBucket = "recordings"

// SetDefaults gives b the settings of a bucket that says nothing else.
func (b *Bucket) SetDefaults() { *b = Bucket{SecondAfter: time.Minute} }

// AllBuckets returns the buckets of s: those that are listed, or else the one
// of a server without configuration, a directory.
func (s *Set) AllBuckets() []Bucket {
	if len(s.Buckets) > 0 {
		return s.Buckets
	}
	var b Bucket
	b.SetDefaults()
	b.Name = DefaultBucket
	return []Bucket{b}
}

// BucketType is what a Bucket is.
type BucketType uint8

const (
	BucketDirectory BucketType = iota
	BucketS3
)

var bucketTypes = enum[BucketType]{{"directory", BucketDirectory}, {"s3", BucketS3}}

func (t BucketType) String() string                { return bucketTypes.name(t) }
func (t BucketType) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *BucketType) UnmarshalText(b []byte) error { return bucketTypes.parse(b, t) }
func (BucketType) words() []string                 { return bucketTypes.words() }

// BucketStyle is where the name of an S3 bucket stands in its URLs.
type BucketStyle uint8

const (
	BucketStyleAuto        BucketStyle = iota // virtual_host at Amazon, Google, Aliyun and the like, path elsewhere
	BucketStylePath                           // https://ENDPOINT/BUCKET/KEY
	BucketStyleVirtualHost                    // https://BUCKET.ENDPOINT/KEY
)

var bucketStyles = enum[BucketStyle]{{"auto", BucketStyleAuto}, {"path", BucketStylePath}, {"virtual_host", BucketStyleVirtualHost}}

func (t BucketStyle) String() string                { return bucketStyles.name(t) }
func (t BucketStyle) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *BucketStyle) UnmarshalText(b []byte) error { return bucketStyles.parse(b, t) }
func (BucketStyle) words() []string                 { return bucketStyles.words() }

// BucketCredentials is where the credentials of an S3 bucket come from.
type BucketCredentials uint8

const (
	BucketKeys        BucketCredentials = iota // access_key and secret_key
	BucketEnvironment                          // AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the process
	BucketRole                                 // the role of the machine or container, by its metadata service
)

var bucketCredentials = enum[BucketCredentials]{{"keys", BucketKeys}, {"environment", BucketEnvironment}, {"role", BucketRole}}

func (t BucketCredentials) String() string                { return bucketCredentials.name(t) }
func (t BucketCredentials) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *BucketCredentials) UnmarshalText(b []byte) error { return bucketCredentials.parse(b, t) }
func (BucketCredentials) words() []string                 { return bucketCredentials.words() }

// ownFolders are those of the data folder that Weir itself uses.
var ownFolders = []string{"nats", "bus", "cluster", "journal", "eventlog", "events", "spool", "record", "snapshot", "transcode", "callback", "policy", "keys", "tmp"}

func (c *checker) buckets(s *Set) {
	names := map[string]string{}
	for i := range s.Buckets {
		c.name(fmt.Sprintf("buckets[%d]", i), s.Buckets[i].Name, names)
	}
	seconds := map[string]string{}
	for i := range s.Buckets {
		seconds[s.Buckets[i].Name] = s.Buckets[i].Second
	}
	paths := map[string]string{}
	for i := range s.Buckets {
		b, path := &s.Buckets[i], fmt.Sprintf("buckets[%d]", i)
		switch b.Type {
		case BucketDirectory:
			c.directory(path, b, paths)
		case BucketS3:
			c.s3(path, b)
		}
		c.between(path+".second_after", b.SecondAfter, time.Second, 24*time.Hour)
		switch {
		case b.Second == "":
		case names[b.Second] == "":
			c.add(path+".second", "there is no bucket %.128q", b.Second)
		case b.Second == b.Name:
			c.add(path+".second", "must be another bucket")
		case seconds[b.Second] != "":
			c.add(path+".second", "%q has a second bucket itself, and there is no third", b.Second)
		}
	}
	for i := range s.Spaces {
		for j := range s.Spaces[i].Apps {
			a := &s.Spaces[i].Apps[j]
			for _, use := range [...]struct{ setting, name string }{{"record", a.Record.Bucket}, {"snapshot", a.Snapshot.Bucket}} {
				if ValidName(use.name) && !s.hasBucket(use.name) {
					c.add(fmt.Sprintf("spaces[%d].apps[%d].%s.bucket", i, j, use.setting), "there is no bucket %.128q", use.name)
				}
			}
		}
	}
}

func (s *Set) hasBucket(name string) bool {
	return slices.ContainsFunc(s.AllBuckets(), func(b Bucket) bool { return b.Name == name })
}

func (c *checker) directory(path string, b *Bucket, paths map[string]string) {
	dir := b.Path
	dir = cmp.Or(dir, b.Name)
	clean := filepath.Clean(dir)
	switch {
	case !filepath.IsLocal(dir) || clean == "." || strings.ContainsFunc(dir, func(r rune) bool { return r < ' ' || r == 0x7F || r == '\\' }) || len(dir) > 1024:
		c.add(path+".path", "must be a folder below the data folder, such as %s; a symbolic link there leads elsewhere", DefaultBucket)
	case strings.HasPrefix(clean, "."):
		c.add(path+".path", "must not begin with a dot")
	case slices.Contains(ownFolders, strings.Split(clean, "/")[0]):
		c.add(path+".path", "is a folder of Weir's own")
	default:
		for other, at := range paths {
			if other == clean || strings.HasPrefix(other+"/", clean+"/") || strings.HasPrefix(clean+"/", other+"/") {
				c.add(path+".path", "is in the folder of %s, or the other way round", at)
			}
		}
		paths[clean] = path
	}
	if b.Endpoint != "" || b.Bucket != "" || b.Prefix != "" || b.Region != "" || b.AccessKey != "" || !b.SecretKey.IsZero() || b.AllowNetworks != nil {
		c.add(path, "endpoint, region, bucket, prefix, keys and allow_networks are settings of type s3")
	}
}

func (c *checker) s3(path string, b *Bucket) {
	if b.Path != "" {
		c.add(path+".path", "is a setting of type directory; an S3 bucket has a prefix")
	}
	c.networks(path+".allow_networks", b.AllowNetworks)
	if b.Endpoint == "" {
		c.add(path+".endpoint", "is missing: https://s3.eu-central-1.amazonaws.com, for example")
	} else if err := b.Endpoint.problem(b.AllowNetworks); err != nil {
		c.add(path+".endpoint", "%v", err)
	} else if _, rest, _ := strings.Cut(string(b.Endpoint), "://"); strings.Trim(rest[strings.IndexAny(rest+"/", "/?"):], "/") != "" {
		c.add(path+".endpoint", "must be without path: the bucket and the prefix have their own settings")
	}
	if name := b.RemoteName(); len(name) < 3 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" || name[0] == '.' || strings.Contains(name, "..") {
		c.add(path+".bucket", "%.128q is not the name of an S3 bucket", name)
	}
	if strings.Trim(strings.ToLower(b.Region), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(b.Region) > 64 {
		c.add(path+".region", "%.128q is not a region such as eu-central-1", b.Region)
	}
	if p := b.Prefix; p != "" && (!strings.HasSuffix(p, "/") || !filepath.IsLocal(p) || filepath.ToSlash(filepath.Clean(p))+"/" != p ||
		strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }) || len(p) > 256) {
		c.add(path+".prefix", "must be folders of visible ASCII that end with a slash, such as weir/")
	}
	switch {
	case b.Credentials != BucketKeys:
		if b.AccessKey != "" || !b.SecretKey.IsZero() {
			c.add(path+".credentials", "are those of the %v, so there can be no keys here", b.Credentials)
		}
	case b.AccessKey == "":
		c.add(path+".access_key", "is missing; credentials: environment or role take them from the machine")
	default:
		if strings.ContainsFunc(b.AccessKey, func(r rune) bool { return r <= ' ' || r > '~' }) || len(b.AccessKey) > 256 {
			c.add(path+".access_key", "must be visible ASCII")
		}
		c.secret(path, "secret_key", b.SecretKey, 1024, printable, "visible ASCII")
	}
}

// RemoteName is the bucket's name at the S3 server.
func (b *Bucket) RemoteName() string {
	if b.Bucket != "" {
		return b.Bucket
	}
	return b.Name
}
