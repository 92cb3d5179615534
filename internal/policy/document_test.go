package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// A Set is the sum of its documents.
func TestDocuments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want Set
		draw(t, "set", reflect.ValueOf(&want).Elem())
		docs := want.Documents()
		if docs[0].Name != General || len(docs) != 1+len(want.Spaces)+len(want.Buckets) {
			t.Fatalf("%d documents of %d spaces, the first is %s", len(docs), len(want.Spaces), docs[0].Name)
		}
		got := NewSet(docs)
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Set{}), cmp.Comparer(Secret.Equal),
			cmp.Comparer(func(a, b Network) bool { return a == b })); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
	set := Default()
	if _, ok := set.Path("space/none", "name"); ok {
		t.Error("there is a path of a document that is not there")
	}
	for path, want := range map[string]string{
		"spaces[0].apps[1].hold": "space/default apps[1].hold", "spaces[0]": "space/default ", "default_space": "general default_space",
		"spaces[7].name": "general spaces[7].name",
	} {
		if doc, rest := set.Locate(path); doc+" "+rest != want {
			t.Errorf("Locate(%q) = %q, %q, want %s", path, doc, rest, want)
		} else if back, ok := set.Path(doc, rest); !ok || back != path {
			t.Errorf("Path(%q, %q) = %q, %t, want %s", doc, rest, back, ok, path)
		}
	}
}

func TestNewDocument(t *testing.T) {
	v, err := NewDocument("space/demo")
	if s, ok := v.(*Space); err != nil || !ok || s.Name != "demo" {
		t.Errorf("NewDocument = %#v, %v", v, err)
	}
	v, err = NewDocument(General)
	if err != nil {
		t.Fatal(err)
	}
	if p := DecodeJSON([]byte(`{"default_space": "a"}`), v); p != nil {
		t.Error(problems(p))
	}
	if p := problems(DecodeJSON([]byte(`{"spaces": []}`), v)); !strings.Contains(p, "unknown setting") {
		t.Errorf("General takes spaces: %s", p)
	}
	// H52, H71: no name is a path, a pattern or a subject.
	for _, name := range []string{"", "space", "space/", "space/..", "space/a/b", "space/a*", "space/>", "space/a b", "space/a\x00", "spaces/a", "other/a",
		"general/a", "space/" + strings.Repeat("a", 129), "space/$KV", "space/a;drop", "../general"} {
		if _, err := NewDocument(name); err == nil {
			t.Errorf("NewDocument(%q) succeeded", name)
		} else if len(err.Error()) > 400 {
			t.Errorf("NewDocument(%.20q…) fails with %d bytes", name, len(err.Error()))
		}
	}
}

func TestDiff(t *testing.T) {
	parse := func(text string) *Space {
		v, _ := NewDocument("space/demo")
		if p := Decode([]byte(text), v); p != nil {
			t.Fatal(problems(p))
		}
		return v.(*Space)
	}
	old := parse(`
name: demo
domains: [{name: a.example.com, publish: {simple: {key: canary-1}}}, {name: b.example.com}]
apps: [{name: live, hold: 5s}, {name: show}]
access_keys: [{id: K, secret: canary-2}]
forbidden: [{app: live, stream: a}]
`)
	new := parse(`
name: demo
domains: [{name: b.example.com, type: play}, {name: a.example.com, publish: {simple: {key: canary-3}}}]
apps: [{name: live, hold: 10s, hls: {window: 7}}, {name: more}]
access_keys: [{id: K, secret: canary-2}]
forbidden: [{app: live, stream: b}]
`)
	var got []string
	for _, d := range Diff(old, new) {
		got = append(got, d.String())
	}
	want := []string{
		`domains["a.example.com"].publish.simple.key: "***", was "***"`,
		`domains["b.example.com"].type: "play", was "both"`,
		`apps[live].hold: "10s", was "5s"`,
		`apps[live].hls.window: 7, was 5`,
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("no difference %s", w)
		}
	}
	for _, prefix := range []string{"apps[show]: not {", "apps[more]: {", "forbidden: ["} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			t.Errorf("no difference %s", prefix)
		}
	}
	all := strings.Join(got, "\n")
	if len(got) != len(want)+3 || strings.Contains(all, "canary") || strings.Contains(all, "access_keys") {
		t.Errorf("differences:\n%s", all)
	}
	if d := Diff(old, old); d != nil {
		t.Errorf("a value differs from itself: %v", d)
	}
	if d := Diff((*Space)(old), nil); len(d) == 0 || !strings.Contains(d[0].String(), "not") {
		t.Errorf("Diff to nothing = %v", d)
	}
	if d := Diff(nil, new); strings.Contains(d[0].String(), "was") || strings.Contains(strings.Join(strings.Fields(d[0].String()), ""), "canary") {
		t.Errorf("Diff from nothing = %v", d)
	}
}

// What was read with its secrets masked can be written back.
func TestKeepSecrets(t *testing.T) {
	space := func(keys ...string) *Space {
		s := &Space{Name: "demo"}
		for _, k := range keys {
			id, secret, _ := strings.Cut(k, "=")
			s.AccessKeys = append(s.AccessKeys, AccessKey{ID: id, Secret: NewSecret(secret)})
		}
		return s
	}
	old := space("a=one", "b=two")
	old.Domains = []Domain{{Name: "x", Publish: Access{Simple: &Simple{Key: NewSecret("three")}}}}
	new := space("b=***", "c=four", "a=***", "d=***")
	new.Domains = []Domain{{Name: "y", Publish: Access{Simple: &Simple{Key: NewSecret("***")}}}, {Name: "x", Publish: Access{Simple: &Simple{Key: NewSecret("***")}}}}
	missing := KeepSecrets(new, old)
	if diff := cmp.Diff([]string{"domains[0].publish.simple.key", "access_keys[3].secret"}, missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	var got []string
	EachSecret(new, func(path string, s *Secret) { got = append(got, path+" "+s.Reveal()) })
	want := []string{"domains[0].publish.simple.key ***", "domains[1].publish.simple.key three",
		"access_keys[0].secret two", "access_keys[1].secret four", "access_keys[2].secret one", "access_keys[3].secret ***"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	if missing := KeepSecrets(space("a=***"), nil); len(missing) != 1 {
		t.Errorf("missing of nothing = %v", missing)
	}
	set := &Set{Spaces: []Space{*space("a=***")}}
	if p := set.Problems(); len(p) != 1 || p[0].Path != "spaces[0].access_keys[0].secret" {
		t.Errorf("Problems of a masked secret = %v", p)
	}
}

// Bans are found whatever their number, and end with their time.
func TestBans(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := Space{Name: "demo", Bans: NewBans([]Forbidden{
		{App: "live", Stream: "a", Type: Both}, {App: "live", Stream: "p", Type: Publish}, {App: "live", Stream: "u", Type: Both, Until: Time{now}}, {App: "all", Type: Play},
	})}
	for q, want := range map[string]bool{"live/a": true, "live/b": false, "live/p": true, "live/u": false, "all/x": false, "other/a": false} {
		app, stream, _ := strings.Cut(q, "/")
		if got := s.Forbids(Publish, app, stream, now); got != want {
			t.Errorf("publish of %s is forbidden: %t", q, got)
		}
	}
	if !s.Forbids(Play, "all", "x", now) || s.Forbids(Play, "live", "p", now) || !s.Forbids(Both, "live", "u", now.Add(-time.Second)) {
		t.Error("bans of players are wrong")
	}
}
