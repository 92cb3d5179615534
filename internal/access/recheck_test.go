package access

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/policy"
)

// What ends the right of somebody who has it, and what does not.
func TestRecheck(t *testing.T) {
	const publish = "rtmp://push.example/live/s1?t=1893456000&k=d4065df3aa647969"
	domain := func(f func(*policy.Domain)) func(*policy.Space) {
		return func(s *policy.Space) { f(&s.Domains[0]) }
	}
	block := policy.AddrLists{Block: proxies("192.0.2.0/24")}
	tests := []struct {
		name   string
		change func(*policy.Space)
		want   Reason
	}{
		{"nothing", func(*policy.Space) {}, ""},
		{"another app added", func(s *policy.Space) { s.Apps = append(s.Apps, policy.DefaultApp("new")) }, ""},
		{"its settings", func(s *policy.Space) { s.Apps[0].Takeover = true }, ""},
		{"keys changed in turn", domain(func(d *policy.Domain) { d.Publish.Simple = twoKeys("new", "test-key-1") }), ""},
		{"authentication not needed", domain(func(d *policy.Domain) { d.Publish.Simple = nil }), ""},
		{"another server decides", domain(func(d *policy.Domain) {
			d.Publish.External, d.Publish.Require = externalAt("http://127.0.0.1:1/"), policy.RequireAny
		}), ""},
		{"key withdrawn", domain(func(d *policy.Domain) { d.Publish.Simple = twoKeys("new", "") }), AuthFailed},
		{"validity shortened", domain(func(d *policy.Domain) {
			d.Publish.Simple = &policy.Simple{Key: secret("test-key-1"), MaxValidity: time.Second}
		}), AuthFailed},
		{"another method", domain(func(d *policy.Domain) {
			d.Publish.SignedURL = &policy.SignedURL{Type: policy.URLTypeA, Key: secret("x")}
		}), AuthMissing},
		{"a token is needed", domain(func(d *policy.Domain) { d.Publish.External = externalAt("http://127.0.0.1:1/") }), AuthMissing},
		{"address blocked", domain(func(d *policy.Domain) { d.Publish.IP = block }), Blocked},
		{"stream forbidden", func(s *policy.Space) {
			s.Forbidden = []policy.Forbidden{{App: "live", Stream: "s1", Type: policy.Publish}}
		}, Blocked},
		{"was forbidden", func(s *policy.Space) {
			s.Forbidden = []policy.Forbidden{{App: "live", Stream: "s1", Type: policy.Publish, Until: policy.Time{Time: time.Unix(1893455500, 0)}}}
		}, ""},
		{"app forbidden", func(s *policy.Space) { s.Forbidden = []policy.Forbidden{{App: "live", Type: policy.Both}} }, Blocked},
		{"app disabled", func(s *policy.Space) { s.Apps[0].Disabled = true }, NoApp},
		{"app removed", func(s *policy.Space) { s.Apps = s.Apps[1:] }, ""},
		{"domain for players", domain(func(d *policy.Domain) { d.Type = policy.Play }), NoDomain},
		{"domain removed", func(s *policy.Space) { s.Domains = s.Domains[1:] }, NoDomain},
		{"space renamed", func(s *policy.Space) { s.Name = "b" }, NoDomain},
	}
	for _, tt := range tests {
		at(t, 1893455000, func(t *testing.T) {
			set := gateWith(policy.Access{Simple: twoKeys("test-key-1", "")}, policy.Access{}).policy()
			g, change := gateOf(set)
			grant, err := g.Check(t.Context(), request(t, Publish, publish))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2000 * time.Second) // the URL has expired, which is no matter
			change(tt.change)
			var got Reason
			if d := (*Denied)(nil); errors.As(g.Recheck(grant), &d) {
				got = d.Reason
			}
			if got != tt.want {
				t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	g := gateWith(policy.Access{Simple: twoKeys("test-key-1", ""), External: externalAt("http://127.0.0.1:1/")}, policy.Access{})
	lines := func(rawURL string) (list []string) {
		for _, s := range g.Explain(request(t, Publish, rawURL)) {
			mark := map[bool]string{true: "+ ", false: "- "}[s.Passed]
			list = append(list, mark+s.Name+": "+s.Text)
		}
		return list
	}
	head := []string{`+ domain: "push.example" is for publish, in the space "a"`, "+ app: live", "+ stream name: s1", "+ lists: no list keeps the client out"}
	at(t, 1893455000, func(t *testing.T) {
		for query, want := range map[string][]string{
			"?t=1893456000&k=d4065df3aa647969&token=x": {"+ simple: k is right, by the key", "+ external: the server at 127.0.0.1:1 would be asked", "+ granted: Publish Success"},
			"?t=1893456000&k=x":                        {"- simple: k is not that of the stream and t with a key of the domain", "- denied: Authentication Failed"},
			"?t=1893454000&k=x":                        {"- simple: it has expired 16m40s ago", "- denied: URL Expired"},
			"":                                         {"- simple: there is no parameter t", "- denied: Accesskey Or Signature Not Exist"},
		} {
			if diff := cmp.Diff(append(head[:4:4], want...), lines("rtmp://push.example/live/s1"+query)); diff != "" {
				t.Errorf("Explain %q (-want +got):\n%s", query, diff)
			}
		}
	})
	want := []string{"- domain: no domain has that host name", "- denied: Non-Exist Publish Domain"}
	if diff := cmp.Diff(want, lines("rtmp://none.example/live/s1")); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
	want = append(head[:1:1], "- app: the space has no such app", "- denied: Non-Exist Application")
	if diff := cmp.Diff(want, lines("rtmp://push.example/none/s1")); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
	open := gateWith(policy.Access{}, policy.Access{}).Explain(request(t, Publish, "rtmp://push.example/live/s1"))
	if s := open[len(open)-2]; s.Name != "authentication" || !s.Passed {
		t.Errorf("Explain without authentication = %+v", open)
	}
}

func TestFromURL(t *testing.T) {
	tests := []struct{ url, protocol, want string }{
		{"rtmp://h.example/live/s1?t=1", RTMP, "h.example live/s1 ?t=1"},
		{"rtmps://h.example:443/live/s1", RTMPS, "h.example live/s1"},
		{"rtmp://h.example/live/room/s1", RTMP, "h.example live/room/s1"},
		{"http://h.example/live/s1.flv?a=%2B", FLV, "h.example live/s1 ?a=%2B"},
		{"wss://h.example/live/s1.flv", WSFLV, "h.example live/s1"},
		{"https://h.example/live/s1/index.m3u8", HLS, "h.example live/s1 index.m3u8"},
	}
	for _, tt := range tests {
		r, err := FromURL(Play, tt.url)
		if got := names(r); err != nil || got != tt.want || r.Protocol != tt.protocol {
			t.Errorf("FromURL(%s) = %s %q, %v, want %s %q", tt.url, r.Protocol, got, err, tt.protocol, tt.want)
		}
	}
	for _, s := range []string{"", "live/s1", "ftp://h/live/s1", "http://h/live/s1", "http://h/%zz", "rtmp://h/\x00"} {
		if r, err := FromURL(Play, s); err == nil {
			t.Errorf("FromURL(%q) = %+v", s, r)
		}
	}
	if _, err := FromURL(Publish, "http://h/live/s1.flv"); err == nil || !strings.Contains(err.Error(), "push") {
		t.Errorf("FromURL to push over HTTP = %v", err)
	}
}

func TestSignErrors(t *testing.T) {
	g := gateWith(policy.Access{Signature: &policy.Signature{}}, policy.Access{}, func(s *policy.Space) {
		s.AccessKeys = []policy.AccessKey{{ID: "x", Secret: secret("x"), Disabled: true}}
	})
	for _, rawURL := range []string{"rtmp://none.example/live/s", "rtmp://push.example/none/s", "rtmp://push.example/live/..", "rtmp://push.example/live/s"} {
		if list, err := g.Sign(request(t, Publish, rawURL), time.Now()); err == nil {
			t.Errorf("Sign(%s) = %+v", rawURL, list)
		}
	}
	if list, err := g.Sign(request(t, Play, "rtmp://play.example/live/s"), time.Now()); err != nil || len(list) != 0 {
		t.Errorf("Sign without authentication = %+v, %v", list, err)
	}
}
