package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/bus/bustest"
	"weir/internal/event"
	"weir/internal/policy"
)

// canary is a secret that must be found nowhere.
const canary = "canary-0f3e9a7712b4"

// ring is a Keyring of test keys.
func ring(t *testing.T, keys ...string) *Keyring {
	t.Helper()
	var text strings.Builder
	for _, k := range keys {
		fmt.Fprintln(&text, testKey(k))
	}
	r, err := ParseKeys([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testKey(s string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return strings.Repeat(string(digits[int(s[0])%len(digits)]), 43) + "="
}

// openBus returns a JetStream in process, which ends with the test.
func openBus(t *testing.T) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Node: "test", Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// openPolicy opens a store that ends with the test; o has what is special.
func openPolicy(t *testing.T, js jetstream.JetStream, o Options) *Policy {
	t.Helper()
	p, err := tryPolicy(t, js, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryPolicy(t *testing.T, js jetstream.JetStream, o Options) (*Policy, error) {
	t.Helper()
	if o.Keys == nil {
		o.Keys = ring(t, "a")
	}
	if o.Bootstrap == nil {
		o.Bootstrap = policy.Default()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := OpenPolicy(ctx, js, o)
	if err == nil {
		t.Cleanup(p.Close)
	}
	return p, err
}

// space returns a space with a secret.
func space(name string, apps ...string) *policy.Space {
	s := &policy.Space{
		Name:       name,
		Domains:    []policy.Domain{{Name: name + ".example.com", Type: policy.Both, Publish: policy.Access{Simple: &policy.Simple{Key: policy.NewSecret(canary)}}}},
		AccessKeys: []policy.AccessKey{{ID: "K", Secret: policy.NewSecret(canary)}},
	}
	for _, a := range apps {
		s.Apps = append(s.Apps, policy.DefaultApp(a))
	}
	return s
}

func write(t *testing.T, p *Policy, changes ...Change) []Result {
	t.Helper()
	r, err := p.Write(t.Context(), changes, Author{By: "test"}, false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func apps(s *policy.Set, name string) string {
	var list []string
	for _, sp := range s.Spaces {
		if sp.Name == name {
			for _, a := range sp.Apps {
				list = append(list, a.Name)
			}
		}
	}
	return strings.Join(list, " ")
}

// eventually waits for what another node sees.
func eventually(t *testing.T, p *Policy, what string, cond func(*policy.Set) bool) {
	t.Helper()
	eventuallyWithin(t, p, 10*time.Second, what, cond)
}

func eventuallyWithin(t *testing.T, p *Policy, patience time.Duration, what string, cond func(*policy.Set) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.await(ctx, func() bool { return cond(p.set.Load()) }); err != nil {
		t.Fatalf("%s: %v; the policy is\n%s", what, err, policy.Encoding{}.YAML(p.Set()))
	}
}

// A document has a version at a time; who has not seen it does not change it.
func TestPolicyWrite(t *testing.T) {
	b := openBus(t)
	var facts []event.Event
	p := openPolicy(t, b.JetStream(), Options{Node: "a", Changed: func(e event.Event) { facts = append(facts, e) }})
	if got := apps(p.Set(), "default"); got != "live" || p.Set().DefaultSpace != "default" {
		t.Fatalf("a new store has the apps %q", got)
	}
	told := make(chan struct{}, 100)
	p.OnChange(func(*policy.Set) { told <- struct{}{} })

	created := write(t, p, Change{Name: "space/demo", Value: space("demo", "live")})[0]
	if created.Version == 0 || created.Before != 0 || created.By != "test" || created.At.IsZero() {
		t.Errorf("created %+v", created)
	}
	if got := apps(p.Set(), "demo"); got != "live" {
		t.Errorf("the apps are %q", got)
	}
	again := write(t, p, Change{Name: "space/demo", Value: space("demo", "live"), Expect: created.Version})[0]
	if again.Before != again.Version || again.Version != created.Version {
		t.Errorf("the same again is %+v", again)
	}
	// Secrets that are shown as *** stay.
	masked, _ := policy.NewDocument("space/demo")
	if pr := policy.Decode(policy.Encoding{}.YAML(created.Value), masked); pr != nil {
		t.Fatal(pr)
	}
	masked.(*policy.Space).Apps = append(masked.(*policy.Space).Apps, policy.DefaultApp("more"))
	changed := write(t, p, Change{Name: "space/demo", Value: masked, Expect: created.Version})[0]
	if len(changed.Changes) != 1 || changed.Changes[0].Path != "apps[more]" || changed.Before != created.Version {
		t.Errorf("changed %+v", changed)
	}
	if key := p.Set().Spaces[1].AccessKeys[0].Secret.Reveal(); key != canary {
		t.Errorf("the secret is %q", key)
	}

	for name, c := range map[string]Change{
		"an old version":        {Name: "space/demo", Value: space("demo"), Expect: created.Version},
		"create what there is":  {Name: "space/demo", Value: space("demo"), Expect: Absent},
		"delete an old version": {Name: "space/demo", Expect: created.Version},
		"delete nothing":        {Name: "space/none", Expect: Any},
		"change nothing":        {Name: "space/none", Value: space("none"), Expect: 7},
	} {
		var e *Changed
		if _, err := p.Write(t.Context(), []Change{c}, Author{}, false); !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
		}
	}
	two := space("two")
	two.Domains[0].Name = "demo.example.com"
	unknown := *space("masked")
	unknown.AccessKeys = []policy.AccessKey{{ID: "K", Secret: policy.NewSecret("***")}}
	general, _ := policy.NewDocument(policy.General)
	policy.Decode([]byte("default_space: none"), general)
	huge := space("huge")
	for i := range 6000 {
		huge.Apps = append(huge.Apps, policy.DefaultApp(fmt.Sprintf("%0120d", i)))
		huge.Apps[i].Hold, huge.Apps[i].MaxLead, huge.Apps[i].HLS.Segment = 7*time.Second, 7*time.Second, 7*time.Second
		huge.Apps[i].IdleTimeout, huge.Apps[i].StaleAfter, huge.Apps[i].HLS.Idle = 7*time.Second, 7*time.Second, 7*time.Second
	}
	before := p.version()
	for want, c := range map[string]Change{
		`space/two: domains[0].name: "demo.example.com" is already the name of space/demo domains[0]`: {Name: "space/two", Value: two},
		`space/demo: name: the document is space/demo, and calls itself "space/other"`:                {Name: "space/demo", Value: space("other"), Expect: Any},
		`space/masked: access_keys[0].secret: is ***`:                                                 {Name: "space/masked", Value: &unknown},
		`general: default_space: there is no space "none"`:                                            {Name: policy.General, Value: general, Expect: Any},
		`general: default_space: there is no space "default"`:                                         {Name: "space/default", Expect: Any},
		`there are no documents such as "nothing/x"`:                                                  {Name: "nothing/x", Value: space("x")},
		`"../x" is not a name`:     {Name: "space/../x", Value: space("x")},
		`space/huge: is too large`: {Name: "space/huge", Value: huge},
	} {
		var e *Invalid
		if _, err := p.Write(t.Context(), []Change{c}, Author{}, false); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if p.version() != before {
		t.Error("a bad document was written")
	}

	gone := write(t, p, Change{Name: "space/demo", Expect: changed.Version})[0]
	if !gone.Deleted || apps(p.Set(), "demo") != "" {
		t.Errorf("deleted %+v", gone)
	}
	if _, err := p.Document("space/demo"); err != ErrNotFound {
		t.Errorf("Document of what is deleted: %v", err)
	}
	write(t, p, Change{Name: "space/demo", Value: space("demo"), Expect: Absent})

	var notes []string
	for _, e := range facts {
		d := e.Data.(event.PolicyChanged)
		if d.Version == 0 {
			t.Errorf("a fact without a version: %+v", e)
		}
		notes = append(notes, fmt.Sprintf("%s %s %s %t %s", e.Space, d.Document, d.By, d.Deleted, d.Note))
	}
	want := []string{
		" general bootstrap by a false created",
		"default space/default bootstrap by a false created",
		"demo space/demo test false created",
		`demo space/demo test false apps[more]: {"name":"more"}`,
		"demo space/demo test true deleted",
		"demo space/demo test false created",
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	for range 4 { // the last change may be in force before it is told
		<-told
	}
	if len(told) != 0 {
		t.Errorf("told of %d changes more than there were", len(told))
	}
	history, err := p.History(t.Context(), "space/demo")
	if err != nil || len(history) != 4 || !history[1].Deleted || history[3].Version != created.Version || history[3].By != "test" || history[3].Note != "created" {
		t.Errorf("History = %+v, %v", history, err)
	}
	old, err := p.Version(t.Context(), "space/demo", changed.Version)
	if err != nil || len(old.Value.(*policy.Space).Apps) != 2 || old.Value.(*policy.Space).AccessKeys[0].Secret.Reveal() != canary {
		t.Errorf("Version = %+v, %v", old, err)
	}
	for _, name := range []string{"space/none", "space/*", "x"} {
		if _, err := p.History(t.Context(), name); err != ErrNotFound {
			t.Errorf("History of %s: %v", name, err)
		}
	}
}

// Of two who change the same version at the same time one loses; two who change
// different documents cannot make an invalid whole of them.
func TestPolicyRace(t *testing.T) {
	b := openBus(t)
	nodes := []*Policy{openPolicy(t, b.JetStream(), Options{Node: "a"}), openPolicy(t, b.JetStream(), Options{Node: "b"})}
	v := write(t, nodes[0], Change{Name: "space/demo", Value: space("demo")})[0].Version
	eventually(t, nodes[1], "the second node sees the document", func(*policy.Set) bool { return nodes[1].seen >= v })
	race := func(change func(i int) Change) (lost int) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for i := range 8 {
			all.Go(func() {
				_, err := nodes[i%2].Write(t.Context(), []Change{change(i)}, Author{By: fmt.Sprint(i)}, false)
				var changed *Changed
				var invalid *Invalid
				mu.Lock()
				defer mu.Unlock()
				if errors.As(err, &changed) || errors.As(err, &invalid) {
					lost++
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		return lost
	}
	if lost := race(func(i int) Change {
		return Change{Name: "space/demo", Value: space("demo", fmt.Sprint("app", i)), Expect: v}
	}); lost != 7 {
		t.Errorf("%d of 8 writers of one version lost", lost)
	}
	if lost := race(func(i int) Change {
		s := space(fmt.Sprint("s", i))
		s.Domains[0].Name = "one.example.com"
		return Change{Name: fmt.Sprint("space/s", i), Value: s}
	}); lost != 7 {
		t.Errorf("%d of 8 writers lost who wanted the same domain in different spaces", lost)
	}
	if lost := race(func(i int) Change { return Change{Name: fmt.Sprint("space/t", i), Value: space(fmt.Sprint("t", i))} }); lost != 0 {
		t.Errorf("%d of 8 writers of different documents lost", lost)
	}
	last := max(nodes[0].version(), nodes[1].version())
	for _, p := range nodes {
		eventually(t, p, "all is seen", func(*policy.Set) bool { return p.seen >= last })
		if problems := p.Set().Problems(); problems != nil || len(p.Set().Spaces) != 1+1+1+8 {
			t.Errorf("%d spaces, %v", len(p.Set().Spaces), problems)
		}
	}
}

// Many documents are one change: nobody sees a part of it.
func TestPolicyApply(t *testing.T) {
	b := openBus(t)
	p, q := openPolicy(t, b.JetStream(), Options{Node: "a"}), openPolicy(t, b.JetStream(), Options{Node: "b"})
	set := &policy.Set{DefaultSpace: "s0"}
	for i := range 1200 { // more than JetStream takes at once
		set.Spaces = append(set.Spaces, *space(fmt.Sprint("s", i), "live"))
	}
	sizes := make(chan int, 100)
	q.OnChange(func(s *policy.Set) { sizes <- len(s.Spaces) })
	dry, err := p.Apply(t.Context(), set, true, true, Author{By: "test"})
	if err != nil || len(dry) != 1202 {
		t.Fatalf("dry run: %d results, %v", len(dry), err)
	}
	if len(p.Set().Spaces) != 1 {
		t.Fatal("a dry run has changed something")
	}
	if _, err = p.Apply(t.Context(), set, true, false, Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, q, "the other node has all", func(s *policy.Set) bool { return len(s.Spaces) == 1200 })
	if n := <-sizes; n != 1200 {
		t.Errorf("the other node saw %d spaces", n)
	}
	if p.Set().DefaultSpace != "s0" || apps(p.Set(), "default") != "" {
		t.Errorf("the policy is not what was applied")
	}
	// A domain moves from one space to another.
	moved := &policy.Set{Spaces: []policy.Space{*space("s1"), *space("s2")}}
	moved.Spaces[0].Domains, moved.Spaces[1].Domains = moved.Spaces[1].Domains, moved.Spaces[0].Domains
	results, err := p.Apply(t.Context(), moved, false, false, Author{By: "test"})
	if err != nil || len(results) != 2 {
		t.Fatalf("Apply = %v, %v", results, err)
	}
	eventually(t, q, "the domains have moved", func(s *policy.Set) bool { sp, _ := s.Domain("s1.example.com"); return sp != nil && sp.Name == "s2" })
	if q.Set().DefaultSpace != "s0" || len(q.Set().Spaces) != 1200 {
		t.Error("what was not mentioned has changed")
	}
	if h := q.Health(); h.Away != "" || h.Refused != nil {
		t.Errorf("Health = %+v", h)
	}
}

// What a node cannot read, or what makes no good whole, changes nothing but
// its health.
func TestPolicyRefused(t *testing.T) {
	b := openBus(t)
	p := openPolicy(t, b.JetStream(), Options{Node: "a"})
	good := write(t, p, Change{Name: "space/demo", Value: space("demo", "live")})[0]
	set := p.Set()
	kv, err := b.JetStream().KeyValue(t.Context(), policyBucket)
	if err != nil {
		t.Fatal(err)
	}
	foreign := ring(t, "z")
	seal := func(name string, v any, keys *Keyring) json.RawMessage { return keys.sealDocument(name, v) }
	double := space("double")
	double.Domains[0].Name = "demo.example.com"
	entry, err := kv.Get(t.Context(), "space.demo")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ key, value, refused string }{
		"not JSON":        {"space.demo", "{", "damaged"},
		"a newer format":  {"space.demo", `{"weir":2,"document":{"name":"demo","wonder":true}}`, "newer Weir"},
		"unknown setting": {"space.demo", `{"weir":1,"document":{"name":"demo","wonder":true}}`, "wonder: unknown setting"},
		"unknown kind":    {"wonder.demo", `{"weir":1,"document":{"name":"demo"}}`, "there are no documents such as"},
		"a foreign key":   {"space.demo", string(must(json.Marshal(envelope{Format: 1, Document: seal("space/demo", space("demo"), foreign)}))), "encrypted with the key"},
		"a stolen secret": {"space.other", strings.ReplaceAll(string(entry.Value()), "demo", "other"), "taken from another document"},
		"a clear secret":  {"space.demo", `{"weir":1,"document":{"name":"demo","access_keys":[{"id":"K","secret":"clear"}]}}`, "not encrypted"},
		"invalid":         {"space.double", string(must(json.Marshal(envelope{Format: 1, Document: seal("space/double", double, ring(t, "a"))}))), "already the name"},
		"no document":     {"space.demo", `{"weir":1}`, "JSON ends too early"},
	} {
		seq, err := kv.PutString(t.Context(), tt.key, tt.value)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, p, name, func(*policy.Set) bool { return p.seen >= seq && (p.invalid != nil || len(p.bad) > 0) })
		if h := p.Health(); len(h.Refused) != 1 || !strings.Contains(h.Refused[0], tt.refused) {
			t.Errorf("%s: refused %q", name, h.Refused)
		}
		if apps(p.Set(), "demo") != "live" || len(p.Set().Spaces) != len(set.Spaces) {
			t.Errorf("%s: the policy is\n%s", name, policy.Encoding{}.YAML(p.Set()))
		}
		var invalid *Invalid
		name, _ := nameOf(tt.key)
		if _, err := p.Write(t.Context(), []Change{{Name: name, Expect: Any}}, Author{}, false); p.Health().Refused != nil && !errors.As(err, &invalid) && name != "space/double" {
			t.Errorf("%s: what cannot be read was written: %v", name, err)
		}
		// Somebody who can read it repairs it.
		if tt.key == "space.demo" {
			seq, err = kv.Put(t.Context(), tt.key, entry.Value())
		} else if err = kv.Delete(t.Context(), tt.key); err == nil {
			seq++
		}
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, p, "repaired", func(*policy.Set) bool { return p.seen >= seq && p.invalid == nil && len(p.bad) == 0 })
		if h := p.Health(); h.Refused != nil {
			t.Errorf("%s: repaired, and still refused: %q", name, h.Refused)
		}
	}
	_ = good
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// I13: a secret is nowhere in the bucket, in the copy, in the log or in errors.
// With the key it is there again, after a restart and without JetStream, too.
func TestPolicySecrets(t *testing.T) {
	dir := t.TempDir()
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := Options{Node: "a", Log: logger, Keys: ring(t, "a"), Copy: filepath.Join(dir, "policy.json")}
	b, err := bus.Open(t.Context(), bus.Config{Node: "test", Dir: filepath.Join(dir, "nats")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := openPolicy(t, b.JetStream(), o)
	var facts []event.Event
	p.o.Changed = func(e event.Event) { facts = append(facts, e) }
	v := write(t, p, Change{Name: "space/demo", Value: space("demo", "live")})[0].Version
	changed := space("demo", "live")
	changed.AccessKeys[0].Secret = policy.NewSecret(canary + "-2")
	r, err := p.Write(t.Context(), []Change{{Name: "space/demo", Value: changed, Expect: v}}, Author{By: "test"}, false)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&log, "%+v %v %s", r, r[0].Changes, must(json.Marshal(facts)))
	late := time.After(10 * time.Second)
	for saved := false; !saved; { // within a second
		select {
		case <-time.After(10 * time.Millisecond):
			data, _ := os.ReadFile(o.Copy)
			saved = bytes.Contains(data, fmt.Appendf(nil, `"name":"space/demo","version":%d,`, r[0].Version))
		case <-late:
			t.Fatal("the copy is not written")
		}
	}
	bad := space("demo")
	bad.Domains[0].Publish.Simple.Key = policy.NewSecret(canary + " ö")
	_, err = p.Write(t.Context(), []Change{{Name: "space/demo", Value: bad, Expect: Any}}, Author{}, false)
	fmt.Fprintf(&log, "%v %+v", err, err)

	shared, err := p.Key(t.Context(), "segments")
	if err != nil || len(shared) != 32 {
		t.Fatalf("Key = %d bytes, %v", len(shared), err)
	}
	// A ring with another key is told so, by name, and does not start; one that
	// has both reads it, and writes it with its newest.
	for _, withCopy := range []bool{false, true} {
		wrong := o
		wrong.Keys = ring(t, "b")
		if !withCopy {
			wrong.Copy = ""
		}
		if _, err = tryPolicy(t, b.JetStream(), wrong); err == nil || !strings.Contains(err.Error(), "add that key to the key file") {
			t.Errorf("with a wrong key: %v", err)
		}
	}
	both := o
	both.Keys, both.Copy = ring(t, "b", "a"), ""
	rekeyed := make(chan event.Event, 10)
	both.Changed = func(e event.Event) { rekeyed <- e }
	q := openPolicy(t, b.JetStream(), both)
	if got := secretOf(q.Set(), "demo"); got != canary+"-2" {
		t.Errorf("with both keys the secret is %q", got)
	}
	eventually(t, q, "written with the newest key", func(*policy.Set) bool { return !both.Keys.old(q.docs["space/demo"].raw) })
	told := <-rekeyed
	if d := told.Data.(event.PolicyChanged); len(rekeyed) != 0 || told.Space != "demo" || d.Document != "space/demo" || d.By != "node a" ||
		d.Before != r[0].Version || d.Version <= d.Before || !strings.Contains(d.Note, "newest key") {
		t.Errorf("of that is told %+v, and of %d more", told, len(rekeyed))
	}
	fmt.Fprintf(&log, "%s", must(json.Marshal(told)))
	if key, err := q.Key(t.Context(), "segments"); err != nil || !bytes.Equal(key, shared) {
		t.Errorf("another node's shared key is %x, %v", key, err)
	}
	q.Close()
	newest := openPolicy(t, b.JetStream(), Options{Node: "c", Keys: ring(t, "b")})
	if got := secretOf(newest.Set(), "demo"); got != canary+"-2" {
		t.Errorf("with the newest key only the secret is %q", got)
	}
	// The first node has not the new key: it goes on with what it has.
	eventually(t, p, "refused", func(*policy.Set) bool { return len(p.bad) > 0 })
	if got := secretOf(p.Set(), "demo"); got != canary+"-2" {
		t.Errorf("without the new key the secret is %q", got)
	}
	newest.Close()
	p.Close()
	js := b.JetStream()
	b.Close()
	o.Wait = 100 * time.Millisecond
	alone := openPolicy(t, js, o)
	if got := secretOf(alone.Set(), "demo"); got != canary+"-2" || alone.Health().Away == "" {
		t.Errorf("without JetStream the secret is %q, and health %+v", got, alone.Health())
	}
	if _, err := alone.Write(t.Context(), []Change{{Name: "space/demo", Expect: Any}}, Author{}, false); !errors.Is(err, ErrAway) {
		t.Errorf("Write without JetStream: %v", err)
	}
	if key, err := alone.Key(t.Context(), "segments"); err != nil || !bytes.Equal(key, shared) {
		t.Errorf("without JetStream the shared key is %x, %v", key, err)
	}
	if _, err := alone.Key(t.Context(), "other"); !errors.Is(err, ErrAway) {
		t.Errorf("without JetStream a new key: %v", err)
	}
	if info, err := os.Stat(o.Copy); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %v, %v", info, err)
	}
	o.Copy = ""
	if _, err := OpenPolicy(must2(context.WithTimeout(t.Context(), 50*time.Millisecond)), js, o); err == nil || !strings.Contains(err.Error(), "no copy") {
		t.Errorf("without JetStream and copy: %v", err)
	}

	if strings.Contains(log.String(), canary) {
		t.Errorf("the secret is in\n%s", &log)
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
}

func must2(ctx context.Context, _ context.CancelFunc) context.Context { return ctx }

func secretOf(s *policy.Set, name string) string {
	for i := range s.Spaces {
		if s.Spaces[i].Name == name {
			return s.Spaces[i].AccessKeys[0].Secret.Reveal()
		}
	}
	return ""
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// What is forbidden by an order is in force at once, everywhere, and ends with
// its time.
func TestForbid(t *testing.T) {
	b := openBus(t)
	var facts []string
	p := openPolicy(t, b.JetStream(), Options{Node: "a", Changed: func(e event.Event) {
		d := e.Data.(event.PolicyChanged)
		if d.Version != 0 { // what the store begins with
			return
		}
		facts = append(facts, fmt.Sprintf("%s/%s/%s %t %s %s", e.Space, e.App, e.Stream, d.Deleted, d.By, d.Note))
	}})
	q := openPolicy(t, b.JetStream(), Options{Node: "b"})
	forbids := func(s *policy.Set, stream string) bool {
		return s.Spaces[0].Forbids(policy.Publish, "live", stream, time.Now())
	}
	if err := p.Forbid(t.Context(), Ban{Space: "default", App: "live", Stream: "s.1", Type: policy.Both, By: "me", Note: "why"}); err != nil {
		t.Fatal(err)
	}
	if !forbids(p.Set(), "s.1") || forbids(p.Set(), "s") {
		t.Error("it is not in force")
	}
	eventually(t, q, "forbidden there, too", func(s *policy.Set) bool { return forbids(s, "s.1") })
	soon := time.Now().Add(1500 * time.Millisecond)
	if err := p.Forbid(t.Context(), Ban{Space: "default", App: "live", Stream: "s2", Type: policy.Publish, Until: soon, By: "me"}); err != nil {
		t.Fatal(err)
	}
	if list := p.Forbidden("default"); len(list) != 2 || list[0].Note != "why" || list[0].At.IsZero() || list[0].Configured {
		t.Errorf("Forbidden = %+v", list)
	}
	for want, b := range map[string]Ban{
		"app":                       {Space: "default", App: "../x", Type: policy.Both},
		"stream":                    {Space: "default", App: "live", Stream: "a b", Type: policy.Both},
		"type":                      {Space: "default", App: "live"},
		"until":                     {Space: "default", App: "live", Type: policy.Both, Until: time.Now().Add(-time.Second)},
		"there is no such document": {Space: "none", App: "live", Type: policy.Both},
	} {
		if err := p.Forbid(t.Context(), b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Forbid = %v, want %s", err, want)
		}
	}
	old, err := p.Resume(t.Context(), "default", "live", "s.1", "you")
	if err != nil || old.Stream != "s.1" || forbids(p.Set(), "s.1") {
		t.Errorf("Resume = %+v, %v", old, err)
	}
	eventually(t, q, "resumed there, too", func(s *policy.Set) bool { return !forbids(s, "s.1") })
	if _, err := p.Resume(t.Context(), "default", "live", "s.1", "you"); err != ErrNotFound {
		t.Errorf("Resume again: %v", err)
	}
	eventually(t, q, "it is gone from the bucket when it is over", func(*policy.Set) bool { return len(q.bans["default"].list) == 0 })
	if time.Now().Before(soon) || len(q.Forbidden("default")) != 0 {
		t.Error("it ended too early, or did not")
	}
	want := []string{"default/live/s.1 false me forbidden to both: why",
		"default/live/s2 false me forbidden to publish until " + soon.UTC().Format(time.RFC3339), "default/live/s.1 true you resumed to both: why"}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	// What the configuration forbids is listed with it, and cannot be resumed so.
	s := *policy.Default()
	sp := s.Spaces[0]
	sp.Forbidden = []policy.Forbidden{{App: "live", Stream: "c", Type: policy.Both}}
	write(t, p, Change{Name: "space/default", Value: &sp, Expect: Any})
	if list := p.Forbidden("default"); len(list) != 1 || !list[0].Configured {
		t.Errorf("Forbidden = %+v", list)
	}
	if _, err := p.Resume(t.Context(), "default", "live", "c", "you"); err != ErrConfigured {
		t.Errorf("Resume of what is configured: %v", err)
	}
}

// What is known of the bans may be replaced at any time, also while Resume waits
// for the end of one.
func TestResumeWhileTheViewIsReplaced(t *testing.T) {
	p := openPolicy(t, openBus(t).JetStream(), Options{Node: "a"})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop; as a new watch does that sees no ban any more
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			p.mu.Lock()
			if s := p.bans["default"]; s != nil && len(s.list) == 0 {
				delete(p.bans, "default")
			}
			p.mu.Unlock()
		}
	}()
	for range 50 {
		if err := p.Forbid(t.Context(), Ban{Space: "default", App: "live", Stream: "s", Type: policy.Both, By: "me"}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Resume(t.Context(), "default", "live", "s", "you"); err != nil {
			t.Fatalf("Resume = %v", err)
		}
	}
	close(stop)
	<-done
}

// A copy that cannot be written is written when it can.
func TestCopyIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/policy", nil, 0o600); err != nil { // where a folder should be
		t.Fatal(err)
	}
	p := openPolicy(t, openBus(t).JetStream(), Options{Node: "a", Copy: dir + "/policy/copy"})
	eventually(t, p, "it fails", func(*policy.Set) bool { return p.uncopied != nil })
	if err := os.Remove(dir + "/policy"); err != nil {
		t.Fatal(err)
	}
	eventually(t, p, "it is written", func(*policy.Set) bool { return p.uncopied == nil && !p.dirty })
	if _, err := os.Stat(dir + "/policy/copy"); err != nil {
		t.Error(err)
	}
}

// Where the file rules, the store is not asked, but for what is forbidden.
func TestFileRules(t *testing.T) {
	b := openBus(t)
	other := openPolicy(t, b.JetStream(), Options{Node: "b"})
	write(t, other, Change{Name: "space/store", Value: space("store")})
	set := &policy.Set{Spaces: []policy.Space{*space("file", "live")}}
	var notes []string
	p := openPolicy(t, b.JetStream(), Options{Node: "a", FileRules: true, Bootstrap: set, Changed: func(e event.Event) {
		d := e.Data.(event.PolicyChanged)
		notes = append(notes, fmt.Sprintf("%s%s %s %d %t %s", e.Space, e.App, d.Document, d.Version, d.Deleted, strings.SplitN(d.Note, ":", 2)[0]))
		if d.By != "the configuration file" && d.By != "" || strings.Contains(d.Note, canary) {
			t.Errorf("it is told: %+v", e)
		}
	}})
	if len(p.Set().Spaces) != 1 || apps(p.Set(), "file") != "live" {
		t.Errorf("the policy is\n%s", policy.Encoding{}.YAML(p.Set()))
	}
	if _, err := p.Write(t.Context(), []Change{{Name: "space/x", Value: space("x")}}, Author{}, false); err != ErrFileRules {
		t.Errorf("Write = %v", err)
	}
	if r, err := p.Write(t.Context(), []Change{{Name: "space/x", Value: space("x")}}, Author{}, true); err != nil || len(r) != 1 {
		t.Errorf("dry Write = %v, %v", r, err)
	}
	if d, err := p.Document("space/file"); err != nil || d.Value.(*policy.Space).Name != "file" {
		t.Errorf("Document = %v, %v", d, err)
	}
	if err := p.Forbid(t.Context(), Ban{Space: "file", App: "live", Type: policy.Both}); err != nil {
		t.Fatal(err)
	}
	p.Replace(&policy.Set{Spaces: []policy.Space{*space("file", "live", "more")}})
	if apps(p.Set(), "file") != "live more" || !p.Set().Spaces[0].Forbids(policy.Play, "live", "x", time.Now()) {
		t.Errorf("the replaced policy is\n%s", policy.Encoding{}.YAML(p.Set()))
	}
	p.Replace(&policy.Set{Spaces: []policy.Space{*space("file", "live", "more")}}) // nothing has changed
	p.Replace(&policy.Set{Spaces: []policy.Space{*space("next", "live")}})
	want := []string{
		"filelive forbidden/file/live/ 0 false forbidden to both", "file space/file 0 false apps[more]", "next space/next 0 false created", "file space/file 0 true deleted",
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(2, len(p.Documents("")), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("documents: %s", diff)
	}
}

// While JetStream is away the policy stays, writes are refused, and what is
// forbidden anyway is written when it is back.
func TestPolicyAway(t *testing.T) {
	nats := bustest.Serve(t)
	b, err := bus.Open(t.Context(), bus.Config{Node: "test", URL: nats.ClientURL()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	p, q := openPolicy(t, b.JetStream(), Options{Node: "a"}), openPolicy(t, b.JetStream(), Options{Node: "b"})
	write(t, p, Change{Name: "space/demo", Value: space("demo", "live")})
	eventually(t, q, "the second node has the space", func(s *policy.Set) bool { return apps(s, "demo") == "live" })
	nats.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := p.Write(ctx, []Change{{Name: "space/demo", Expect: Any}}, Author{}, false); !errors.Is(err, ErrAway) {
		t.Errorf("Write = %v", err)
	}
	if apps(p.Set(), "demo") != "live" {
		t.Error("the policy has changed")
	}
	ban := Ban{Space: "demo", App: "live", Stream: "evil", Type: policy.Both, By: "a"}
	if err := p.Forbid(ctx, ban); !errors.Is(err, ErrAway) {
		t.Errorf("Forbid = %v", err)
	}
	forbids := func(s *policy.Set) bool { return s.Spaces[1].Forbids(policy.Play, "live", "evil", time.Now()) }
	if err := p.ForbidAnyway(ctx, ban); err != nil || !forbids(p.Set()) || forbids(q.Set()) {
		t.Errorf("ForbidAnyway = %v; forbidden here: %t, there: %t", err, forbids(p.Set()), forbids(q.Set()))
	}
	eventuallyWithin(t, p, 30*time.Second, "it is known to be away", func(*policy.Set) bool { return p.away != nil })
	nats.Resume()
	eventuallyWithin(t, q, 30*time.Second, "it is forbidden there, too", forbids)
	eventuallyWithin(t, p, 30*time.Second, "it is back", func(*policy.Set) bool { return p.away == nil })
	write(t, p, Change{Name: "space/demo", Value: space("demo", "more"), Expect: Any})
	eventuallyWithin(t, q, 30*time.Second, "changes go on", func(s *policy.Set) bool { return apps(s, "demo") == "more" })
}
