package access

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/internal/policy"
)

const goodPlaylist = "http://play.example/live/s1/index.m3u8?t=1893456000&k=cfc0dbcefe94de63"

// gateOf is gateWith whose policy changes when set does.
func gateOf(set *policy.Set) (*Gate, func(change func(*policy.Space))) {
	g := NewGate(func() *policy.Set { return set })
	g.Lenient = true
	return g, func(change func(*policy.Space)) {
		next := &policy.Set{DefaultSpace: set.DefaultSpace, Spaces: slices.Clone(set.Spaces)}
		s := &next.Spaces[0]
		s.Domains, s.Apps, s.AccessKeys, s.Forbidden = slices.Clone(s.Domains), slices.Clone(s.Apps), slices.Clone(s.AccessKeys), slices.Clone(s.Forbidden)
		change(s)
		set = next
	}
}

func twoKeys(k, spare string) *policy.Simple {
	return &policy.Simple{Key: secret(k), SpareKey: secret(spare)}
}

func TestSegment(t *testing.T) {
	play := policy.Domain{Name: "play.example", Type: policy.Play, Play: policy.Access{Simple: twoKeys("test-key-1", "")}}
	other := play
	other.Name = "other.example"
	other.Play = policy.Access{Simple: twoKeys("other-key", "")}
	set := &policy.Set{Spaces: []policy.Space{
		{Name: "a", Domains: []policy.Domain{play, other}, Apps: []policy.App{policy.DefaultApp("live"), policy.DefaultApp("show")}},
	}}
	g, change := gateOf(set)
	at(t, 1893455000, func(t *testing.T) {
		grant, err := g.Check(t.Context(), request(t, Play, goodPlaylist))
		if err != nil {
			t.Fatal(err)
		}
		query := g.SegmentQuery(grant, time.Minute)
		if !strings.HasPrefix(query, "wt=") || !grant.Private() {
			t.Fatalf("SegmentQuery = %q, Private = %t", query, grant.Private())
		}
		get := func(what, rawURL, client string, want Reason) {
			t.Helper()
			r := request(t, Play, rawURL)
			r.Addr = netip.MustParseAddrPort(client)
			if got := reasonOf(t, g, r); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		const ts = "http://play.example/live/s1/1.ts?"
		get("own segment", ts+query, "192.0.2.7:1", "")
		get("another segment", "http://play.example/live/s1/2.ts?x=1&"+query, "192.0.2.7:1", "")
		get("a neighbour's address", ts+query, "192.0.2.200:1", "")
		get("below a path of type C", "http://play.example/0123456789abcdef0123456789abcdef/70dbd880/live/s1/1.ts?"+query, "192.0.2.7:1", "")
		get("another client", ts+query, "192.0.3.7:1", AuthFailed)
		get("another client by IPv6", ts+query, "[2001:db8::1]:1", AuthFailed)
		get("another stream", "http://play.example/live/s2/1.ts?"+query, "192.0.2.7:1", AuthFailed)
		get("another app", "http://play.example/show/s1/1.ts?"+query, "192.0.2.7:1", AuthFailed)
		get("another domain", "http://other.example/live/s1/1.ts?"+query, "192.0.2.7:1", AuthFailed)
		get("no token", ts, "192.0.2.7:1", AuthMissing)
		get("two tokens", ts+query+"&"+query, "192.0.2.7:1", AuthFailed)
		get("junk", ts+"wt=%2F", "192.0.2.7:1", AuthFailed)
		get("too short", ts+"wt=AAAA", "192.0.2.7:1", AuthFailed)
		get("the playlist by the token", "http://play.example/live/s1/index.m3u8?"+query, "192.0.2.7:1", AuthMissing)
		get("FLV by the token", "http://play.example/live/s1.flv?"+query, "192.0.2.7:1", AuthMissing)
		get("the segment by t and k", "http://play.example/live/s1/1.ts?t=1893456000&k="+string((&Request{Op: Play, Path: "/live/s1/1.ts"}).simple(nil, "test-key-1", "1893456000")), "192.0.2.7:1", AuthMissing)
		g2 := NewGate(func() *policy.Set { return set })
		if got := reason(t, g2, Play, ts+query); got != AuthFailed {
			t.Errorf("by another server: %q", got)
		}

		time.Sleep(60 * time.Second)
		get("at its end", ts+query, "192.0.2.7:1", "")
		time.Sleep(time.Second)
		get("after its end", ts+query, "192.0.2.7:1", AuthExpired)

		// The token ends with the right to the playlist.
		query = g.SegmentQuery(grant, time.Minute)
		change(func(s *policy.Space) { s.Domains[0].Play.Simple = twoKeys("new", "test-key-1") })
		get("the key is the spare key now", ts+query, "192.0.2.7:1", "")
		change(func(s *policy.Space) {
			s.Domains[0].Play.SignedURL = &policy.SignedURL{Type: policy.URLTypeA, Key: secret("x")}
		})
		get("another method is needed now", ts+query, "192.0.2.7:1", AuthFailed)
		change(func(s *policy.Space) { s.Domains[0].Play.Require = policy.RequireAny })
		get("another method will do now", ts+query, "192.0.2.7:1", "")
		change(func(s *policy.Space) { s.Domains[0].Play.Simple = twoKeys("new", "newer") })
		get("the key is gone", ts+query, "192.0.2.7:1", AuthFailed)
		change(func(s *policy.Space) { s.Domains[0].Play.Segments = policy.SegmentsExempt })
		get("segments are exempt", ts, "192.0.2.7:1", "")
		change(func(s *policy.Space) {
			s.Forbidden = []policy.Forbidden{{App: "live", Stream: "s1", Type: policy.Both}}
		})
		get("forbidden", ts, "192.0.2.7:1", Blocked)
	})
}

// Nobody needs a token who needs no authentication, or for exempt segments.
func TestSegmentQueryEmpty(t *testing.T) {
	blocked := policy.Access{IP: policy.AddrLists{Block: loopback()}}
	exempt := policy.Access{External: externalAt("http://127.0.0.1:1/"), Segments: policy.SegmentsExempt}
	exempt.External.OnError = policy.OnErrorAllow
	for _, tt := range []struct {
		access  policy.Access
		private bool
	}{{policy.Access{}, false}, {blocked, true}, {exempt, true}} {
		g := gateWith(policy.Access{}, tt.access)
		grant, err := g.Check(t.Context(), request(t, Play, "http://play.example/live/s1.m3u8?token=x"))
		if err != nil {
			t.Fatal(err)
		}
		if q := g.SegmentQuery(grant, time.Minute); q != "" || grant.Private() != tt.private {
			t.Errorf("%+v: SegmentQuery = %q, Private = %t", tt.access, q, grant.Private())
		}
	}
}

// A disabled access key opens no more segments, and a signature with several
// keys names its own.
func TestSegmentAccessKey(t *testing.T) {
	set := &policy.Set{Spaces: []policy.Space{{
		Name:    "a",
		Domains: []policy.Domain{{Name: "play.example", Type: policy.Play, Play: policy.Access{Signature: &policy.Signature{}}}},
		Apps:    []policy.App{policy.DefaultApp("live")},
	}}}
	withKeys(&set.Spaces[0])
	set.Spaces[0].AccessKeys[1].Disabled = false
	g, change := gateOf(set)
	query := func(id string) string {
		expire := stamp(policy.URLTypeD, time.Now().Add(time.Hour))
		q := url.Values{"accesskey": {id}, "expire": {expire}, "signature": {sign(expire, "")}}
		grant, err := g.Check(t.Context(), request(t, Play, "http://play.example/live/s1.m3u8?"+q.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		return g.SegmentQuery(grant, time.Minute)
	}
	first, second := query("KEY"), query("OFF")
	change(func(s *policy.Space) { s.AccessKeys[1].Disabled = true })
	for q, want := range map[string]Reason{first: "", second: AuthFailed} {
		if got := reason(t, g, Play, "http://play.example/live/s1/1.ts?"+q); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	change(func(s *policy.Space) { s.AccessKeys = s.AccessKeys[2:] })
	if got := reason(t, g, Play, "http://play.example/live/s1/1.ts?"+first); got != AuthFailed {
		t.Errorf("after the key was removed: %q", got)
	}
}

func TestSegmentTokenProperty(t *testing.T) {
	g := gateWith(policy.Access{}, policy.Access{External: externalAt("http://127.0.0.1:1/")})
	g.policy().Spaces[0].Domains[1].Play.External.OnError = policy.OnErrorAllow
	grant, err := g.Check(t.Context(), request(t, Play, "http://play.example/live/s1.m3u8?token=x"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimPrefix(g.SegmentQuery(grant, time.Hour), "wt=")
	if got := reason(t, g, Play, "http://play.example/live/s1/1.ts?wt="+token); got != "" {
		t.Fatalf("denied: %q", got)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
	rapid.Check(t, func(r *rapid.T) {
		i := rapid.IntRange(0, len(token)-1).Draw(r, "at")
		c := alphabet[rapid.IntRange(0, len(alphabet)-1).Draw(r, "byte")]
		if bad := token[:i] + string(c) + token[i+1:]; bad != token && reason(t, g, Play, "http://play.example/live/s1/1.ts?wt="+bad) == "" {
			r.Fatalf("%s is granted like %s", bad, token)
		}
	})
}

func FuzzSegmentToken(f *testing.F) {
	g := gateWith(policy.Access{}, policy.Access{Simple: twoKeys("test-key-1", "")})
	f.Add([]byte{})
	f.Add(make([]byte, 20))
	f.Add(make([]byte, 25))
	f.Add([]byte(strings.Repeat("\xff", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := reason(t, g, Play, "http://play.example/live/s1/1.ts?wt="+base64.RawURLEncoding.EncodeToString(b)); got == "" {
			t.Errorf("%x is granted", b)
		}
		// What the MAC has let through cannot break anything either.
		r := g.rules(g.policy(), &g.policy().Spaces[0].Domains[1].Play)
		if r.cover(b) && len(b) < 5 {
			t.Errorf("%x covers", b)
		}
	})
}

// The key that the nodes share may come when players are there already. What
// they have stays good, and from then on tokens are good at every node.
func TestSegmentTokenKeyComesLate(t *testing.T) {
	set := gateWith(policy.Access{}, policy.Access{Simple: twoKeys("test-key-1", "")}).policy()
	late, change := gateOf(set)
	other := NewGate(func() *policy.Set { return set })
	shared := []byte("a key of all nodes, of 32 bytes.")
	other.SetTokenKey(shared)
	query := func(g *Gate) string {
		t.Helper()
		grant, err := g.Check(t.Context(), request(t, Play, goodPlaylist))
		if err != nil {
			t.Fatal(err)
		}
		return g.SegmentQuery(grant, time.Hour)
	}
	get := func(what string, g *Gate, query string, want Reason) {
		t.Helper()
		if got := reason(t, g, Play, "http://play.example/live/s1/1.ts?"+query); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	at(t, 1893455000, func(t *testing.T) {
		early := query(late)
		get("before the key", late, early, "")
		get("before the key, at another node", other, early, AuthFailed)
		late.SetTokenKey(shared)
		get("of before the key", late, early, "")
		get("of after it", late, query(late), "")
		get("of after it, at another node", other, query(late), "")
		get("of another node", late, query(other), "")
		// A key that opens no playlist any more opens no segment, whenever it was.
		change(func(s *policy.Space) { s.Domains[1].Play.Simple = twoKeys("test-key-2", "") })
		get("of before the key, after the right has gone", late, early, AuthFailed)
	})
}
