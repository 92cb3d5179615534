package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCallbackProblems(t *testing.T) {
	good := []Callback{
		{},
		{URL: "https://api.example.com/live"},
		{StartURL: "http://api.example.com/start", EndURL: "https://api.example.com:8443/end?x=1"},
		{URL: "https://api.example.com/live", EndURL: "https://other.example.com/", Format: CallbackV1JSON, Sequence: true, StartTime: true, PortText: true, FlapGuard: time.Minute},
		{URL: "http://10.1.2.3/live", Format: CallbackV1String, Sequence: true, Redact: true, PushRefused: true, Alerts: true},
	}
	set := Default()
	sp := &set.Spaces[0]
	sp.Delivery = new(Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.AllowNetworks = []Network{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	for _, cb := range good {
		sp.Callback, sp.Apps[0].Callback = &cb, &cb
		if p := set.Problems(); p != nil {
			t.Errorf("problems of %+v: %v", cb, p)
		}
	}
	sp.Callback = &Callback{URL: "http://127.0.0.1/", StartURL: "gopher://example.com/", EndURL: Endpoint("https://example.com/" + strings.Repeat("x", 2048)),
		Format: 9, FlapGuard: time.Hour}
	sp.Apps[0].Callback = &Callback{EndURL: "http://a@example.com/", Format: CallbackV1String, StartTime: true, PortText: true}
	sp.Apps = append(sp.Apps, DefaultApp("two"))
	sp.Apps[1].Callback = &Callback{URL: "http://[::ffff:7f00:1]/", Sequence: true}
	sp.Delivery = &Delivery{Secret: NewSecret("a b"), ConnectTimeout: time.Minute, Timeout: time.Second}
	var got []string
	for _, p := range set.Problems() {
		got = append(got, p.Path+": "+p.Message)
	}
	public := " is not on the public Internet; if it is meant, name its network in allow_networks"
	want := []string{
		`spaces[0].apps[0].callback.end_url: must be without user, password and fragment`,
		`spaces[0].apps[0].callback: needs url, or both start_url and end_url`,
		`spaces[0].apps[0].callback.start_time: is for the formats v2 and v1-json`,
		`spaces[0].apps[0].callback.port_text: is for the format v1-json`,
		`spaces[0].apps[1].callback.url: "127.0.0.1"` + public,
		`spaces[0].apps[1].callback.sequence: is for the formats v1-json and v1-string; v2 always has it`,
		`spaces[0].callback.url: "127.0.0.1"` + public,
		`spaces[0].callback.start_url: must be a URL such as https://auth.example.com/check`,
		`spaces[0].callback.end_url: must have at most 2048 characters`,
		`spaces[0].callback.format: must be v2, v1-json or v1-string`,
		`spaces[0].callback.flap_guard: must be 100ms to 1m0s, not 1h0m0s`,
		`spaces[0].callback_delivery.secret: must be of visible ASCII`,
		`spaces[0].callback_delivery.concurrency: must be 1 to 1000, not 0`,
		`spaces[0].callback_delivery.connect_timeout: must be 100ms to 5s, not 1m0s`,
		`spaces[0].callback_delivery.timeout: must be 1m0s to 10s, not 1s`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
}

func TestCallbackOf(t *testing.T) {
	space, own := &Callback{URL: "https://a.example/"}, &Callback{StartURL: "https://b.example/start", EndURL: "https://b.example/end"}
	s := Space{Apps: []App{DefaultApp("plain"), DefaultApp("own"), DefaultApp("none")}, Callback: space}
	s.Apps[1].Callback, s.Apps[2].Callback = own, new(Callback)
	for app, want := range map[string][3]Endpoint{
		"plain": {"https://a.example/", "https://a.example/", "https://a.example/"},
		"own":   {"https://b.example/start", "https://b.example/end", "https://b.example/start"},
		"none":  {},
		"gone":  {"https://a.example/", "https://a.example/", "https://a.example/"},
	} {
		c := s.CallbackOf(s.App(app))
		if got := [3]Endpoint{c.Start(), c.End(), c.Other()}; got != want {
			t.Errorf("of the app %s: start, end and other go to %q, want %q", app, got, want)
		}
	}
	if c := new(Space).CallbackOf(nil); c != nil {
		t.Errorf("a space that says nothing has %v", c)
	}
}
