package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func s3(change func(*Bucket)) Bucket {
	var b Bucket
	b.SetDefaults()
	b.Name, b.Type, b.Endpoint = "remote", BucketS3, "https://s3.eu-central-1.amazonaws.com"
	b.AccessKey, b.SecretKey = "AKIAEXAMPLE", NewSecret("a/secret+key")
	change(&b)
	return b
}

func TestBucketProblems(t *testing.T) {
	directory := func(name, path string) (b Bucket) {
		b.SetDefaults()
		b.Name, b.Path = name, path
		return b
	}
	loopback := []Network{{netip.MustParsePrefix("127.0.0.0/8")}}
	for _, c := range []struct {
		name    string
		buckets []Bucket
		want    []string
	}{
		{"none", nil, nil},
		{"a directory", []Bucket{directory("recordings", "")}, nil},
		{"two directories", []Bucket{directory("one", ""), directory("two", "disk2/weir")}, nil},
		{"S3", []Bucket{s3(func(b *Bucket) {
			b.Region, b.Prefix, b.Bucket, b.Style = "eu-central-1", "weir/live/", "my.bucket-1", BucketStylePath
		})}, nil},
		{"S3 at home", []Bucket{s3(func(b *Bucket) { b.Endpoint, b.AllowNetworks = "http://127.0.0.1:9000/", loopback })}, nil},
		{"role", []Bucket{s3(func(b *Bucket) { b.Credentials, b.AccessKey, b.SecretKey = BucketRole, "", Secret{} })}, nil},
		{"a second one", []Bucket{s3(func(b *Bucket) { b.Second = "two" }), directory("two", "")}, nil},

		{"no name", []Bucket{directory("", "")}, []string{"buckets[0]: name is missing", "buckets[0].path: must be a folder below the data folder, such as recordings; a symbolic link there leads elsewhere"}},
		{"same name", []Bucket{directory("a", ""), directory("a", "b")}, []string{`buckets[1].name: "a" is already the name of buckets[0]`}},
		{"H52: up", []Bucket{directory("a", "../x")}, []string{"buckets[0].path: must be a folder below the data folder, such as recordings; a symbolic link there leads elsewhere"}},
		{"H52: absolute", []Bucket{directory("a", "/etc")}, []string{"buckets[0].path: must be a folder below the data folder, such as recordings; a symbolic link there leads elsewhere"}},
		{"the data folder", []Bucket{directory("a", ".")}, []string{"buckets[0].path: must be a folder below the data folder, such as recordings; a symbolic link there leads elsewhere"}},
		{"Weir's own", []Bucket{directory("a", "nats/x")}, []string{"buckets[0].path: is a folder of Weir's own"}},
		{"hidden", []Bucket{directory("a", ".ssh")}, []string{"buckets[0].path: must not begin with a dot"}},
		{"nested", []Bucket{directory("a", "x"), directory("b", "x/y")}, []string{"buckets[1].path: is in the folder of buckets[0], or the other way round"}},
		{"a directory with keys", []Bucket{func() Bucket { b := directory("a", ""); b.AccessKey = "k"; return b }()},
			[]string{"buckets[0]: endpoint, region, bucket, prefix, keys and allow_networks are settings of type s3"}},
		{"no endpoint", []Bucket{s3(func(b *Bucket) { b.Endpoint = "" })}, []string{"buckets[0].endpoint: is missing: https://s3.eu-central-1.amazonaws.com, for example"}},
		{"a private endpoint", []Bucket{s3(func(b *Bucket) { b.Endpoint = "http://169.254.169.254" })},
			[]string{`buckets[0].endpoint: "169.254.169.254" is not on the public Internet; if it is meant, name its network in allow_networks`}},
		{"an endpoint with a path", []Bucket{s3(func(b *Bucket) { b.Endpoint += "/bucket" })}, []string{"buckets[0].endpoint: must be without path: the bucket and the prefix have their own settings"}},
		{"a bad bucket", []Bucket{s3(func(b *Bucket) { b.Bucket = "a/b" })}, []string{`buckets[0].bucket: "a/b" is not the name of an S3 bucket`}},
		{"a bad region", []Bucket{s3(func(b *Bucket) { b.Region = "eu/1" })}, []string{`buckets[0].region: "eu/1" is not a region such as eu-central-1`}},
		{"a bad prefix", []Bucket{s3(func(b *Bucket) { b.Prefix = "../" })}, []string{"buckets[0].prefix: must be folders of visible ASCII that end with a slash, such as weir/"}},
		{"no keys", []Bucket{s3(func(b *Bucket) { b.AccessKey, b.SecretKey = "", Secret{} })}, []string{"buckets[0].access_key: is missing; credentials: environment or role take them from the machine"}},
		{"no secret", []Bucket{s3(func(b *Bucket) { b.SecretKey = Secret{} })}, []string{"buckets[0]: secret_key is missing"}},
		{"keys and role", []Bucket{s3(func(b *Bucket) { b.Credentials = BucketRole })}, []string{"buckets[0].credentials: are those of the role, so there can be no keys here"}},
		{"no such second", []Bucket{s3(func(b *Bucket) { b.Second = "two" })}, []string{`buckets[0].second: there is no bucket "two"`}},
		{"itself second", []Bucket{s3(func(b *Bucket) { b.Second = "remote" })}, []string{"buckets[0].second: must be another bucket"}},
		{"a third", []Bucket{s3(func(b *Bucket) { b.Second = "two" }), func() Bucket { b := directory("two", ""); b.Second = "three"; return b }(), directory("three", "")},
			[]string{`buckets[0].second: "two" has a second bucket itself, and there is no third`}},
		{"too soon", []Bucket{s3(func(b *Bucket) { b.SecondAfter = 0 })}, []string{"buckets[0].second_after: must be 1s to 24h0m0s, not 0s"}},
	} {
		s := Default()
		s.Buckets = c.buckets
		var got []string
		for _, p := range s.Problems() {
			got = append(got, p.Path+": "+p.Message)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestBucketOfApp(t *testing.T) {
	s := Default()
	s.Spaces[0].Apps[0].Record.Bucket = DefaultBucket
	if got := s.Problems(); len(got) > 0 {
		t.Errorf("the bucket of a Set that lists none: %v", got)
	}
	s.Spaces[0].Apps[0].Record.Bucket = "other"
	want := []Problem{{"spaces[0].apps[0].record.bucket", `there is no bucket "other"`}}
	if diff := cmp.Diff(want, s.Problems()); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
}
