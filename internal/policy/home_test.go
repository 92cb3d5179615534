package policy

import (
	"strings"
	"testing"
)

func decodeSet(t *testing.T, text string) (*Set, []Problem) {
	t.Helper()
	set := new(Set)
	if wrong := Decode([]byte(text), set); len(wrong) > 0 {
		t.Fatalf("%s\n%v", text, wrong)
	}
	return set, set.Problems()
}

// B.113: two spaces have no place in common, whatever the ways to it are called.
func TestApart(t *testing.T) {
	const s3 = "type: s3, endpoint: 'https://s3.example.com', access_key: a, secret_key: b"
	buckets := "buckets: [{name: one}, {name: two, second: one}, {name: cloud, " + s3 + "}, {name: same, " + s3 + ", bucket: cloud}, {name: deep, " + s3 + ", bucket: cloud, prefix: x/}]\n"
	for _, c := range []struct {
		a, b  string // of the app live of two spaces
		wrong string // path of the setting
	}{
		{"", "", ""},
		{"record: {mode: automatic}", "", ""},
		{"record: {mode: automatic}", "record: {mode: request}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic}", "record: {keep_age: 24h}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic}", "record: {mode: automatic, prefix: b}", ""},
		{"record: {mode: automatic, prefix: a}", "record: {mode: automatic, prefix: b}", ""},
		{"record: {mode: automatic}", "record: {mode: automatic, prefix: record/live/cam}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic, prefix: record/live}", "record: {mode: automatic}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic, bucket: one}", "record: {mode: automatic, bucket: two}", "spaces[1].apps[0].record.prefix"}, // its second
		{"record: {mode: automatic, bucket: one}", "record: {mode: automatic, bucket: cloud}", ""},
		{"record: {mode: automatic, bucket: cloud}", "record: {mode: automatic, bucket: same}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic, bucket: cloud}", "record: {mode: automatic, bucket: deep}", ""},
		{"record: {mode: automatic, bucket: cloud, prefix: x}", "record: {mode: automatic, bucket: deep}", "spaces[1].apps[0].record.prefix"},
		{"record: {mode: automatic}", "snapshot: {enabled: true}", ""}, // in a folder of their own
		{"snapshot: {keep_age: 24h}", "snapshot: {enabled: true}", "spaces[1].apps[0].snapshot.prefix"},
		{"snapshot: {enabled: true, prefix: a}", "snapshot: {enabled: true, prefix: b}", ""},
	} {
		app := func(settings string) string {
			if settings != "" {
				settings = ", " + settings
			}
			return "apps: [{name: live" + settings + "}]"
		}
		_, wrong := decodeSet(t, buckets+"spaces:\n- {name: a, domains: [{name: a.example.com}], "+app(c.a)+"}\n- {name: b, domains: [{name: b.example.com}], "+app(c.b)+"}\n")
		got := ""
		if len(wrong) > 0 {
			got = wrong[0].Path
		}
		if got != c.wrong || len(wrong) > 1 {
			t.Errorf("{%s} and {%s}: %v, want a problem with %q", c.a, c.b, wrong, c.wrong)
		}
		if len(wrong) > 0 && !strings.Contains(wrong[0].Message, "spaces[0].apps[0]") {
			t.Errorf("{%s} and {%s}: %q does not say among whose", c.a, c.b, wrong[0].Message)
		}
	}
}

// An app that does not record has no right to what is where it would: it may be of
// another space.
func TestApartUnused(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want [2]bool // recordings of each are its own
	}{
		{"record: {mode: automatic}", "record: {mode: 'off'}", [2]bool{true, false}},
		{"record: {mode: automatic, prefix: a}", "record: {mode: 'off'}", [2]bool{true, true}},
		{"record: {mode: 'off'}", "record: {mode: 'off'}", [2]bool{false, false}},
		{"snapshot: {enabled: true}", "record: {mode: 'off'}", [2]bool{false, false}},
	} {
		set, wrong := decodeSet(t, "spaces:\n- {name: a, domains: [{name: a.example.com}], apps: [{name: live, "+c.a+"}]}\n- {name: b, domains: [{name: b.example.com}], apps: [{name: live, "+c.b+"}]}\n")
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		if got := [2]bool{set.Apart("a", "live", "record"), set.Apart("b", "live", "record")}; got != c.want {
			t.Errorf("{%s} and {%s}: apart %v, want %v", c.a, c.b, got, c.want)
		}
	}
	set, _ := decodeSet(t, "spaces:\n- {name: a, domains: [{name: '*'}], apps: [{name: live}, {name: vod}]}\n")
	if !set.Apart("a", "live", "record") || !set.Apart("a", "vod", "snapshot") || set.Apart("a", "none", "record") || set.Apart("none", "live", "record") {
		t.Error("one space alone")
	}
}
