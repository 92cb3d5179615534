package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// I13: there is no way to print a secret by accident.
func TestSecret(t *testing.T) {
	const canary = "canary-5f2a"
	secret := NewSecret(canary)
	set := &Set{Spaces: []Space{{
		AccessKeys: []AccessKey{{ID: "id", Secret: secret}},
		Domains: []Domain{{Publish: Access{
			Simple: &Simple{Key: secret, SpareKey: secret}, SignedURL: &SignedURL{Key: secret}, External: &External{Secret: secret},
		}}},
	}}}
	holder := struct{ hidden Secret }{secret} // whose methods fmt cannot call
	var out bytes.Buffer
	for _, v := range []any{secret, &secret, set, *set.Spaces[0].Domains[0].Publish.Simple, set.Spaces[0].AccessKeys, holder, &holder, []any{holder}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%v", []byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret is in\n%s", &out)
		}
	}
	if got := fmt.Sprintf("%s|%v|%q|%#v", secret, secret, secret, secret); got != "***|***|***|***" {
		t.Errorf("printed %s", got)
	}
	if secret.Reveal() != canary || secret.IsZero() || !secret.Equal(NewSecret(canary)) || secret.Equal(NewSecret(canary+"x")) || secret.Equal(Secret{}) {
		t.Errorf("the secret is not itself")
	}
	if zero := (Secret{}); zero.Reveal() != "" || !zero.IsZero() || NewSecret("") != zero {
		t.Errorf("the zero secret is something")
	}
}

// H41: which texts are networks, and what is in them.
func TestNetwork(t *testing.T) {
	good := []struct{ text, want, in, out string }{
		{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
		{"192.0.2.1/32", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.0"},
		{"192.0.2.0/31", "192.0.2.0/31", "192.0.2.1", "192.0.2.2"},
		{"192.0.2.0/24", "192.0.2.0/24", "192.0.2.255", "192.0.3.0"},
		{"192.0.2.0/255.255.255.0", "192.0.2.0/24", "192.0.2.255", "192.0.3.0"},
		{"192.0.2.1/255.255.255.255", "192.0.2.1", "192.0.2.1", "192.0.2.0"},
		{"0.0.0.0/0", "0.0.0.0/0", "255.1.2.3", "2001:db8::1"},
		{"0.0.0.0/0.0.0.0", "0.0.0.0/0", "::ffff:1.2.3.4", "::1"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24", "192.0.2.9", "192.0.3.9"},
		{"::ffff:192.0.2.9", "192.0.2.9", "192.0.2.9", "::192.0.2.9"},
		{"2001:DB8::/32", "2001:db8::/32", "2001:db8:1::1", "2001:db9::"},
		{"fe80::1", "fe80::1", "fe80::1%eth0", "fe80::2"},
		{"::/0", "::/0", "::1", "1.2.3.4"},
	}
	for _, tt := range good {
		var n Network
		if err := n.UnmarshalText([]byte(tt.text)); err != nil || n.String() != tt.want {
			t.Errorf("%q = %v, %v, want %s", tt.text, n, err, tt.want)
			continue
		}
		if !n.Contains(netip.MustParseAddr(tt.in)) || n.Contains(netip.MustParseAddr(tt.out)) {
			t.Errorf("%v contains %s: %t, %s: %t", n, tt.in, n.Contains(netip.MustParseAddr(tt.in)), tt.out, n.Contains(netip.MustParseAddr(tt.out)))
		}
	}
	for _, text := range []string{
		"", "x", "010.0.0.1", "10.1", "167772161", "0xa.0.0.1", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/",
		"10.0.0.1/24", "10.0.0.0/255.0.255.0", "10.0.0.0/0.255.255.255", "::/129", "::/255.255.255.0", "fe80::1%eth0", "::ffff:1.2.3.4/95",
		"10.0.0.0/8/8", "10.0.0.0 /8", "*", "10.0.0.*", "10.0.0.1-10.0.0.9",
	} {
		var n Network
		if err := n.UnmarshalText([]byte(text)); err == nil || n.IsValid() {
			t.Errorf("%q = %v, want an error", text, n)
		}
	}
}

func FuzzNetwork(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "10.0.0.0/255.0.0.0", "::ffff:10.0.0.0/104", "2001:db8::/32", "010.0.0.1", "::/-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var n, again Network
		if n.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, _ := n.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != n || !n.Contains(n.Addr()) {
			t.Errorf("%q = %v, which comes back as %v, %v", s, n, again, err)
		}
	})
}

func networks(list ...string) (n []Network) {
	for _, s := range list {
		n = append(n, Network{})
		if err := n[len(n)-1].UnmarshalText([]byte(s)); err != nil {
			panic(err)
		}
	}
	return n
}

func TestAddrLists(t *testing.T) {
	tests := []struct {
		lists AddrLists
		addr  string
		want  bool
	}{
		{AddrLists{}, "192.0.2.1", true},
		{AddrLists{}, "", true},
		{AddrLists{Block: networks("192.0.2.0/24")}, "192.0.2.1", false},
		{AddrLists{Block: networks("192.0.2.0/24")}, "::ffff:192.0.2.1", false},
		{AddrLists{Block: networks("192.0.2.0/24")}, "192.0.3.1", true},
		{AddrLists{Block: networks("192.0.2.0/24")}, "", false},
		{AddrLists{Allow: networks("192.0.2.0/24")}, "192.0.2.1", true},
		{AddrLists{Allow: networks("192.0.2.0/24")}, "192.0.3.1", false},
		{AddrLists{Allow: networks("192.0.2.0/24")}, "", false},
		{AddrLists{Allow: networks("0.0.0.0/0"), Block: networks("192.0.2.1")}, "192.0.2.1", false},
		{AddrLists{Allow: networks("0.0.0.0/0"), Block: networks("192.0.2.1")}, "192.0.2.2", true},
		{AddrLists{Allow: networks("192.0.2.1"), Block: networks("0.0.0.0/0")}, "192.0.2.1", false},
	}
	for _, tt := range tests {
		addr, _ := netip.ParseAddr(tt.addr)
		if got := tt.lists.Pass(addr); got != tt.want {
			t.Errorf("%v: Pass(%s) = %t, want %t", tt.lists, tt.addr, got, tt.want)
		}
	}
}

func TestTextLists(t *testing.T) {
	yes, no := true, false
	tests := []struct {
		lists   TextLists
		pass    []string
		refused []string
	}{
		{TextLists{}, []string{"", "http://x/", "junk"}, nil},
		{TextLists{Allow: []string{"a.example", "*.b.example"}},
			[]string{"http://a.example/page?x", "https://A.EXAMPLE.:8443/", "http://x.b.example", "http://u:p@a.example/"},
			[]string{"", "http://b.example/", "http://xa.example/", "http://a.example.evil/", "http://evil/?a.example", "junk", "http://a.example@evil/", "//", "a.example", "http://[::1"}},
		{TextLists{Block: []string{"a.example", "*.b.example"}},
			[]string{"", "http://b.example/", "http://c.example/", "junk"},
			[]string{"http://a.example/", "http://x.b.example/"}},
		{TextLists{Allow: []string{"*"}, Block: []string{"a.example"}}, []string{"http://b.example/"}, []string{"", "http://a.example/"}},
		{TextLists{Allow: []string{"a.example"}, AllowEmpty: &yes}, []string{"", "http://a.example/"}, []string{"http://b/"}},
		{TextLists{Block: []string{"a.example"}, AllowEmpty: &no}, []string{"http://b/"}, []string{"", "http://a.example/"}},
		{TextLists{AllowEmpty: &no}, []string{"http://b/"}, []string{""}},
	}
	for _, tt := range tests {
		for _, s := range tt.pass {
			if !tt.lists.PassReferer(s) {
				t.Errorf("%+v refuses %q", tt.lists, s)
			}
		}
		for _, s := range tt.refused {
			if tt.lists.PassReferer(s) {
				t.Errorf("%+v lets %q pass", tt.lists, s)
			}
		}
	}
	agents := TextLists{Allow: []string{"*Mobile*", "VLC/*", "exact"}, Block: []string{"*bot*"}}
	for s, want := range map[string]bool{
		"vlc/3.0": true, "VLC/": true, "x vlc/3": false, "An.mobile.player": true, "mobile": true, "exact": true, "exactly": false,
		"mobile robot": false, "curl/8": false, "": false,
	} {
		if got := agents.PassText(s); got != want {
			t.Errorf("PassText(%q) = %t, want %t", s, got, want)
		}
	}
}

func TestWildcard(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*", "abc", true}, {"*c", "abc", true}, {"a*c", "abc", true},
		{"a*b", "abc", false}, {"a*a", "a", false}, {"a*a", "aa", true}, {"*b*", "abc", true}, {"*b*b*", "abc", false}, {"a**c", "abc", true},
		{"*ab", "aab", true}, {"*a*ab", "aab", true}, {"*ab*ab", "ab", false}, {"abc", "abc", true}, {"abc", "abcd", false}, {"b", "abc", false},
	}
	for _, tt := range tests {
		if got := wildcard(tt.pattern, tt.s); got != tt.want {
			t.Errorf("wildcard(%q, %q) = %t, want %t", tt.pattern, tt.s, got, tt.want)
		}
	}
}

// H67: what may not be called, when it is set.
func TestEndpoint(t *testing.T) {
	for _, s := range []string{
		"http://auth.example.com", "https://auth.example.com:8443/check?x=1", "http://8.8.8.8/", "https://[2606:4700::1]/", "HTTPS://Auth.Example.COM./",
	} {
		if err := Endpoint(s).problem(nil); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "auth.example.com", "/check", "ftp://auth.example.com/", "gopher://auth.example.com/", "file:///etc/passwd", "http:///check", "http:auth",
		"http://127.0.0.1/", "http://127.0.0.1./", "http://127.1/", "http://0/", "http://0.0.0.0/", "http://2130706433/", "http://0x7f.1/", "http://0x7f000001/",
		"http://017700000001/", "http://127.0.0.1:80/", "http://[::1]/", "http://[::]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
		"http://[2002:7f00:1::]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fc00::1]/", "http://[ff02::1]/", "http://169.254.169.254/latest",
		"http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://100.64.0.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
		"http://localhost/", "http://LOCALHOST:80/", "http://x.localhost/", "http://a@127.0.0.1#@good.example/", "http://a@good.example/", "http://good.example/#x",
		"http://good.example\\@127.0.0.1/", "http://中文.example/", "http://a b/", "http://x\n/", "http://%31/",
	} {
		if err := Endpoint(s).problem(nil); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	allowed := networks("127.0.0.0/8", "10.0.0.0/24")
	for s, want := range map[string]bool{
		"http://127.0.0.1:9000/": true, "http://localhost:9000/": true, "http://10.0.0.9/": true, "http://[::ffff:10.0.0.9]/": true,
		"http://10.0.1.9/": false, "http://[::1]/": false, "http://2130706433/": false,
	} {
		if err := Endpoint(s).problem(allowed); (err == nil) != want {
			t.Errorf("%q with allow_networks: %v", s, err)
		}
	}
	if MayDial(netip.Addr{}, nil) {
		t.Error("no address at all may be dialled")
	}
}

func TestForbids(t *testing.T) {
	now := time.Unix(2e9, 0)
	s := Space{Forbidden: []Forbidden{
		{App: "live", Stream: "a", Type: Both},
		{App: "live", Stream: "b", Type: Publish, Until: Time{now.Add(time.Second)}},
		{App: "gone", Type: Play},
	}}
	tests := []struct {
		op          DomainType
		app, stream string
		at          time.Time
		want        bool
	}{
		{Publish, "live", "a", now, true}, {Play, "live", "a", now, true}, {Play, "live", "c", now, false}, {Play, "show", "a", now, false},
		{Publish, "live", "b", now, true}, {Play, "live", "b", now, false}, {Publish, "live", "b", now.Add(time.Second), false},
		{Play, "gone", "x", now, true}, {Publish, "gone", "x", now, false},
	}
	for _, tt := range tests {
		if got := s.Forbids(tt.op, tt.app, tt.stream, tt.at); got != tt.want {
			t.Errorf("Forbids(%v, %s, %s, %v) = %t", tt.op, tt.app, tt.stream, tt.at, got)
		}
	}
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		access Access
		want   bool
	}{
		{Access{}, true},
		{Access{Simple: &Simple{}}, false},
		{Access{External: &External{}}, false},
		{Access{IP: AddrLists{Block: networks("10.0.0.1")}}, true},
		{Access{IP: AddrLists{Allow: networks("10.0.0.1")}}, false},
		{Access{IP: AddrLists{Allow: networks("10.0.0.1", "::/0")}}, true},
	} {
		if got := tt.access.Open(); got != tt.want {
			t.Errorf("%+v: Open = %t, want %t", tt.access, got, tt.want)
		}
	}
}

func TestAccessProblems(t *testing.T) {
	no := false
	external := External{URL: "http://127.0.0.1/", Timeout: time.Minute, Concurrency: 0, Remember: time.Hour, OnError: OnErrorAllow, Secret: NewSecret("a b")}
	long := NewSecret(strings.Repeat("x", 33))
	set := &Set{Spaces: []Space{{
		Name:       "a",
		AccessKeys: []AccessKey{{ID: "k", Secret: NewSecret("Ik90+/=")}, {ID: "k", Secret: NewSecret("s\n")}, {ID: "../x"}, {Secret: long}},
		Forbidden:  []Forbidden{{App: "", Stream: "..", Type: 0}},
		Domains: []Domain{
			{Name: "x", Type: Both, Publish: Access{
				Simple:    &Simple{Key: long, SpareKey: NewSecret("canary key"), MaxValidity: time.Millisecond},
				Signature: &Signature{NonceMemory: true},
				External:  &external,
				Referer:   TextLists{AllowEmpty: &no}, UserAgent: TextLists{Block: []string{"x"}}, Segments: SegmentsExempt,
			}},
			{Name: "y", Type: Play, Play: Access{
				Simple:    &Simple{Key: NewSecret("test-key-1")},
				SignedURL: &SignedURL{Key: long, ValidFor: -1},
				IP:        AddrLists{Allow: make([]Network, maxNetworks+1)},
				Referer:   TextLists{Allow: []string{"A.example", "*.b.example", "http://x/"}, Block: make([]string, maxTexts+1)},
				UserAgent: TextLists{Allow: []string{"", strings.Repeat("x", 257)}},
			}},
		},
	}, {Name: "b", Domains: []Domain{{Name: "z", Type: Both, Publish: Access{Signature: &Signature{}, Simple: &Simple{},
		SignedURL: &SignedURL{Type: URLTypeD, Key: NewSecret("x"), ValidFor: time.Minute}}}}}}}
	var got []string
	for _, p := range set.Problems() {
		if strings.HasPrefix(p.Path, "spaces[0].domains[1].play.ip.allow[") || strings.HasPrefix(p.Path, "spaces[0].domains[1].play.referer.block[") {
			continue // of each entry
		}
		got = append(got, strings.TrimPrefix(p.Path, "spaces[0].")+": "+p.Message)
		if strings.Contains(p.Message, "canary") {
			t.Errorf("a problem quotes a secret: %v", p)
		}
	}
	want := []string{
		`domains[0].publish.simple.key: must have at most 32 characters`,
		`domains[0].publish.simple.spare_key: must be of letters, digits, - and _`,
		`domains[0].publish.simple.max_validity: must be 1s to 87840h0m0s, not 1ms`,
		`domains[0].publish.signature.nonce_memory: needs max_validity: a nonce is remembered until its signature expires`,
		`domains[0].publish.external.url: "127.0.0.1" is not on the public Internet; if it is meant, name its network in allow_networks`,
		`domains[0].publish.external.secret: must be of visible ASCII`,
		`domains[0].publish.external.timeout: must be 100ms to 3s, not 1m0s`,
		`domains[0].publish.external.concurrency: must be 1 to 1000, not 0`,
		`domains[0].publish.external.remember: must be 0s to 1m0s, not 1h0m0s`,
		`domains[0].publish.referer: is for players over HTTP; set it below play`,
		`domains[0].publish.user_agent: is for players over HTTP; set it below play`,
		`domains[0].publish.segments: is for players of HLS; set it below play`,
		`domains[0].publish.external.on_error: publishers are refused when the server cannot be asked; allow is for play`,
		`domains[1].play.signed_url: type is missing: a, c, d or tx`,
		`domains[1].play.signed_url.valid_for: must be 0s to 8784h0m0s, not -1ns`,
		`domains[1].play.ip.allow: must have at most 1000 entries, not 1001`,
		`domains[1].play.referer.allow[0]: "A.example" is not a host name in lower case: example.com, *.example.com or *`,
		`domains[1].play.referer.allow[2]: "http://x/" is not a host name in lower case: example.com, *.example.com or *`,
		`domains[1].play.referer.block: must have at most 100 entries, not 101`,
		`domains[1].play.user_agent.allow[0]: must have 1 to 256 characters`,
		`domains[1].play.user_agent.allow[1]: must have 1 to 256 characters`,
		`access_keys[1].id: "k" is already the id of spaces[0].access_keys[0]`,
		`access_keys[1].secret: must be of visible ASCII`,
		`access_keys[2].id: "../x" is not an id: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with . or -`,
		`access_keys[2]: secret is missing`,
		`access_keys[3]: id is missing`,
		`forbidden[0].app: "" is not a name: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with . or -`,
		`forbidden[0].stream: ".." is not the name of a stream`,
		`forbidden[0].type: must be publish, play or both`,
		`spaces[1].domains[0].publish.simple: key is missing`,
		`spaces[1].domains[0].publish.signature: needs access_keys in the space; without one nobody can sign`,
		`spaces[1].domains[0].publish.signed_url.valid_for: must be 0s: the parameter t of type d is also that of simple, where it is the end`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
}

func TestWeak(t *testing.T) {
	set := &Set{Spaces: []Space{{
		AccessKeys: []AccessKey{{ID: "a", Secret: NewSecret("demo-secret-0001")}, {ID: "b", Secret: NewSecret("0123456789abcdef")}},
		Domains: []Domain{{
			Publish: Access{Simple: &Simple{Key: NewSecret("0123456789abcdef"), SpareKey: NewSecret("123456")}},
			Play:    Access{SignedURL: &SignedURL{Key: NewSecret("x")}, External: &External{}},
		}},
	}}}
	want := []string{"spaces[0].domains[0].publish.simple.spare_key", "spaces[0].domains[0].play.signed_url.key", "spaces[0].access_keys[0].secret"}
	if diff := cmp.Diff(want, set.Weak()); diff != "" {
		t.Errorf("Weak (-want +got):\n%s", diff)
	}
	if !set.HasSecrets() || Default().HasSecrets() {
		t.Error("HasSecrets is wrong")
	}
}
