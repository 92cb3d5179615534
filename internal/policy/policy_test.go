package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func testSet() *Set {
	return &Set{
		DefaultSpace: "b",
		Spaces: []Space{
			{Name: "a", Domains: []Domain{{Name: "Push.Example.com.", Type: Publish}, {Name: "*.example.com", Type: Play}, {Name: "10.0.0.1", Type: Both}}},
			{Name: "b", Domains: []Domain{{Name: "*.live.example.com", Type: Both}, {Name: "2001:DB8::1", Type: Play}, {Name: "xn--fiq228c.example", Type: Both}}},
		},
	}
}

// H38: every spelling of a host leads to the same domain, or to none.
func TestDomain(t *testing.T) {
	tests := []struct{ host, space, domain string }{
		{"push.example.com", "a", "Push.Example.com."},
		{"PUSH.example.COM", "a", "Push.Example.com."},
		{"push.example.com.", "a", "Push.Example.com."},
		{"push.example.com:1935", "a", "Push.Example.com."},
		{"push.example.com.:1935", "a", "Push.Example.com."},
		{"play.example.com", "a", "*.example.com"},
		{"x.y.example.com", "a", "*.example.com"},
		{"x.live.example.com", "b", "*.live.example.com"},
		{"x.y.live.example.com", "b", "*.live.example.com"},
		{"live.example.com", "a", "*.example.com"},
		{"10.0.0.1", "a", "10.0.0.1"},
		{"10.0.0.1:80", "a", "10.0.0.1"},
		{"[::ffff:10.0.0.1]:80", "a", "10.0.0.1"},
		{"[2001:db8:0::1]", "b", "2001:DB8::1"},
		{"[2001:db8::1]:1935", "b", "2001:DB8::1"},
		{"XN--FIQ228C.example", "b", "xn--fiq228c.example"},
		{"example.com", "", ""},
		{"example.com.evil.net", "", ""},
		{"pushXexample.com", "", ""},
		{"10.0.0.2", "", ""},
		{"010.0.0.1", "", ""},
		{"中文.example", "", ""},
		{"[10.0.0.1]", "", ""},
		{"[2001:db8::1]x", "", ""},
		{"[2001:db8::1]:x", "", ""},
		{"2001:db8::1", "b", "2001:DB8::1"},
		{"a..example.com", "", ""},
		{".example.com", "", ""},
		{"-a.example.com", "", ""},
		{"a@push.example.com", "", ""},
		{"push.example.com/x", "", ""},
		{"push.example.com:x", "", ""},
		{"*.example.com", "", ""},
		{"push.example.com\x00", "", ""},
		{"", "", ""},
	}
	set := testSet()
	for _, tt := range tests {
		space, domain := set.Domain(tt.host)
		if tt.space == "" {
			if space != nil || domain != nil {
				t.Errorf("Domain(%q) = %q, %q, want none", tt.host, space.Name, domain.Name)
			}
			continue
		}
		if domain == nil || space.Name != tt.space || domain.Name != tt.domain {
			t.Errorf("Domain(%q) = %v, %v, want %s, %s", tt.host, space, domain, tt.space, tt.domain)
		}
	}
	set = Default()
	for _, host := range []string{"anything", "127.0.0.1:1935", "[::1]"} {
		if _, d := set.Domain(host); d == nil || d.Name != "*" {
			t.Errorf("Default().Domain(%q) = %v, want *", host, d)
		}
	}
}

func TestDefaultDomain(t *testing.T) {
	set := testSet()
	if s, d := set.DefaultDomain(Play); s == nil || s.Name != "b" || d.Name != "*.live.example.com" {
		t.Errorf("DefaultDomain(Play) = %v, %v, want b, *.live.example.com", s, d)
	}
	set = testSet()
	set.DefaultSpace = ""
	if s, d := set.DefaultDomain(Play); s != nil || d != nil {
		t.Errorf("DefaultDomain without a default space = %v, %v, want none", s, d)
	}
	set = testSet()
	set.DefaultSpace, set.Spaces[1].Domains = "b", []Domain{{Name: "x", Type: Play}, {Name: "y", Type: Publish}}
	if _, d := set.DefaultDomain(Publish); d == nil || d.Name != "y" {
		t.Errorf("DefaultDomain(Publish) = %v, want y", d)
	}
}

func TestApp(t *testing.T) {
	s := Space{Apps: []App{DefaultApp("live"), DefaultApp("Live")}}
	if a := s.App("Live"); a != &s.Apps[1] {
		t.Errorf("App(Live) = %v, want the second", a)
	}
	if a := s.App("LIVE"); a != nil {
		t.Errorf("App(LIVE) = %v, want none", a)
	}
}

func TestValidName(t *testing.T) {
	for _, s := range []string{"a", "live", "A-b_c.d", "0", "_", "_x", "a..b", strings.Repeat("x", 128)} {
		if !ValidName(s) || !ValidStreamName(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"", ".", "..", ".a", "-a", "a/b", `a\b`, "a b", "a%41", "ä", "a\x00", "a\n", "a:b", "a*", "ａ", strings.Repeat("x", 256)} {
		if ValidName(s) || ValidStreamName(s) {
			t.Errorf("%q is accepted", s)
		}
	}
	for n, want := range map[int][2]bool{128: {true, true}, 129: {false, true}, 255: {false, true}, 256: {false, false}} {
		s := strings.Repeat("x", n)
		if got := [2]bool{ValidName(s), ValidStreamName(s)}; got != want {
			t.Errorf("%d characters: ValidName, ValidStreamName = %v, want %v", n, got, want)
		}
	}
}

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"live", "..", "-rf", "a/../b", "a%2fb", "\xff", "é", "e\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidStreamName(s) {
			if ValidName(s) {
				t.Errorf("ValidName(%q) but not ValidStreamName", s)
			}
			return
		}
		// What the name must never be able to do in a path, a URL or a shell.
		if strings.ContainsAny(s, "/\\%?#&=:*'\"`$ \x00\n") || s[0] == '.' || s[0] == '-' || len(s) > 255 {
			t.Errorf("ValidStreamName(%q)", s)
		}
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"Example.COM.:80", "[::1]:1935", "::ffff:1.2.3.4", "1.2.3.4.", "fe80::1%eth0", "::%\x88", "a@b", "[a]", "*.x", "\u212A.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, ok := CanonicalHost(s)
		if !ok {
			return
		}
		if again, ok := CanonicalHost(host); !ok || again != host {
			t.Errorf("CanonicalHost(%q) = %q, whose own is %q, %t", s, host, again, ok)
		}
		if !ascii(s) { // U+212A is K, whose lower case is an ASCII letter
			t.Errorf("CanonicalHost(%q) = %q", s, host)
		}
		if strings.ContainsAny(host, "/@?#*[]% ") || host != strings.ToLower(host) {
			t.Errorf("CanonicalHost(%q) = %q", s, host)
		}
	})
}

func ascii(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0 }

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "512": 512, "1B": 1, "64KiB": 64 << 10, "2MiB": 2 << 20, "16 MiB": 16 << 20, "1GiB": 1 << 30, "3kB": 3000, "5MB": 5e6, "2GB": 2e9} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("size %q = %d, %v, want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1e3", "0x10", "1mb", "9223372036854775807KiB", "9223372036854775808"} {
		s := Size(7)
		if err := s.UnmarshalText([]byte(text)); err == nil || s != 7 {
			t.Errorf("size %q = %d, %v, want an error", text, s, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Min(0).Draw(t, "size"))
		var back Size
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Fatalf("size %d as %q comes back as %d, %v", int64(s), s, int64(back), err)
		}
	})
}

func TestProblems(t *testing.T) {
	if p := Default().Problems(); p != nil {
		t.Errorf("the default policy has problems: %v", p)
	}
	if p := testSet().Problems(); p != nil {
		t.Errorf("problems of a good set: %v", p)
	}
	long := DefaultApp("long")
	long.IdleTimeout, long.HLS.MaxSegment = 2*time.Hour, time.Second
	set := &Set{
		DefaultSpace: "c",
		Spaces: []Space{
			{Name: "a", Domains: []Domain{{Name: "*.10.0.0.1", Type: Play}, {Name: "x.example:80", Type: Both}, {}}},
			{Name: "a", Apps: []App{long, DefaultApp("")}},
		},
	}
	var got []string
	for _, p := range set.Problems() {
		got = append(got, p.Path+": "+p.Message)
	}
	form := "live.example.com, *.example.com, * or an IP address, without port, international names in their xn-- form"
	want := []string{
		`spaces[0].domains[0].name: "*.10.0.0.1" is not a host name: ` + form,
		`spaces[0].domains[1].name: "x.example:80" is not a host name: ` + form,
		`spaces[0].domains[2]: name is missing`,
		`spaces[0].domains[2].type: must be publish, play or both`,
		`spaces[1].name: "a" is already the name of spaces[0]`,
		`spaces[1].apps[0].idle_timeout: must be 1s to 1h0m0s, not 2h0m0s`,
		`spaces[1].apps[0].hls.max_segment: must be 2s to 10m0s, not 1s`,
		`spaces[1].apps[1]: name is missing`,
		`default_space: there is no space "c"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
}

// H94 and the other bounds of recording, each crossed.
func TestRecordProblems(t *testing.T) {
	good := DefaultApp("live").Record
	good.Mode, good.Prefix, good.Bucket, good.Cut, good.Splice = RecordAutomatic, "a/b", "archive", time.Minute, 0
	good.HLS.Callback = "http://192.0.1.1:9/record"
	for _, c := range []struct {
		change func(*Record)
		want   string // "path: message", or none
	}{
		{func(r *Record) {}, ""},
		{func(r *Record) { r.Cut = time.Minute - 1 }, "cut: must be 1m0s to 24h0m0s"},
		{func(r *Record) { r.Cut = 24*time.Hour + 1 }, "cut: must be 1m0s to 24h0m0s"},
		{func(r *Record) { r.Splice = -1 }, "splice: must be 0s to 24h0m0s"},
		{func(r *Record) { r.Splice = 24*time.Hour + 1 }, "splice: must be"},
		{func(r *Record) { r.Segment = time.Second - 1 }, "segment: must be 1s to 1m0s"},
		{func(r *Record) { r.Segment = time.Minute + 1 }, "segment: must be"},
		{func(r *Record) { r.Prefix = "a/../b" }, `prefix: "a/../b" is not a row of names`},
		{func(r *Record) { r.Prefix = "/a" }, "prefix: "},
		{func(r *Record) { r.Prefix = strings.Repeat("a/", 128) + "a" }, "prefix: must have 256 characters at most, not 257"},
		{func(r *Record) { r.Bucket = "a/b" }, `bucket: "a/b" is not a name`},
		{func(r *Record) { r.Param = "" }, "param: "},
		{func(r *Record) { r.HLS.Enabled = false; r.HLS.Callback = "" }, "needs a format"},
		{func(r *Record) { r.HLS.Enabled, r.MP4.Enabled, r.HLS.Callback = false, true, "" }, ""},
		{func(r *Record) { r.HLS.Enabled, r.MP4.Enabled = false, true }, "hls.callback: is of no use"},
		{func(r *Record) { r.FLV.Enabled, r.FLV.Callback = true, "ftp://x.example/" }, "flv.callback: must be a URL"},
		{func(r *Record) { r.KeepAge = time.Hour - 1 }, "keep_age: must be"},
		{func(r *Record) { r.KeepSize = 1<<20 - 1 }, "keep_size: must be 1MiB or more"},
		{func(r *Record) { r.Mode = RecordParam + 1 }, "mode: must be"},
	} {
		app := DefaultApp("live")
		app.Record = good
		c.change(&app.Record)
		set := &Set{Spaces: []Space{{Name: "a", Apps: []App{app}}}, Buckets: []Bucket{{Name: "archive", SecondAfter: time.Hour}}}
		var got []string
		for _, p := range set.Problems() {
			rest := strings.TrimPrefix(strings.TrimPrefix(p.Path, "spaces[0].apps[0].record"), ".")
			got = append(got, strings.TrimPrefix(rest+": "+p.Message, ": "))
		}
		if c.want == "" && got == nil || len(got) == 1 && c.want != "" && strings.HasPrefix(got[0], c.want) {
			continue
		}
		t.Errorf("problems %q, want %q", got, c.want)
	}
}

func TestQuality(t *testing.T) {
	good := DefaultApp("a").Quality
	for _, tt := range []struct {
		path   string
		change func(*Quality)
	}{
		{"", func(q *Quality) {}},
		{"", func(q *Quality) { *q = Quality{} }},
		{"no_data", func(q *Quality) { q.NoData = time.Millisecond }},
		{"no_key_frame", func(q *Quality) { q.NoKeyFrame = 2 * time.Hour }},
		{"low_bit_rate", func(q *Quality) { q.LowBitRate = 91 }},
		{"low_bit_rate", func(q *Quality) { q.LowBitRate = -1 }},
		{"drift", func(q *Quality) { q.Drift = 49 * time.Millisecond }},
		{"drift", func(q *Quality) { q.Drift = -time.Second }},
		{"jumps", func(q *Quality) { q.Jumps = 10_001 }},
	} {
		q := good
		tt.change(&q)
		var c checker
		c.quality("q", &q)
		if got := len(c.problems); got != 0 && tt.path == "" || tt.path != "" && (got != 1 || c.problems[0].Path != "q."+tt.path) {
			t.Errorf("problems of %+v: %v, want one of %q", q, c.problems, tt.path)
		}
	}
}
