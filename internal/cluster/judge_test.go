package cluster

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"weir/internal/policy"
)

// H67: a name that leads into this machine is refused when it is written, and a
// name that was good then stands in nobody's way later.
func TestReceiversAreJudged(t *testing.T) {
	names := map[string][]netip.Addr{
		"good.example":          {netip.MustParseAddr("93.184.216.34")},
		"127.0.0.1.nip.example": {netip.MustParseAddr("127.0.0.1")},
		"mapped.example":        {netip.MustParseAddr("::ffff:10.0.0.1")},
		"both.example":          {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("93.184.216.34")},
	}
	asked := map[string]int{}
	lookup := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		asked[host]++
		if a := names[host]; a != nil {
			return a, nil
		}
		return nil, errors.New("no such host")
	}
	p := openPolicy(t, openBus(t).JetStream(), Options{Node: "a", Lookup: lookup})
	told := func(url string, networks ...policy.Network) *policy.Space {
		sp := space("demo", "live")
		sp.Callback = &policy.Callback{URL: policy.Endpoint(url)}
		if networks != nil {
			d := *sp.Deliver()
			sp.Delivery = &d
			sp.Delivery.AllowNetworks = networks
		}
		return sp
	}
	for _, tt := range []struct {
		url string
		in  []policy.Network
		bad bool
	}{
		{url: "https://good.example/a"},
		{url: "https://127.0.0.1.nip.example/", bad: true},
		{url: "https://mapped.example/", bad: true},
		{url: "https://mapped.example/", in: []policy.Network{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}},
		{url: "https://both.example/"},
		{url: "https://unknown.example/"},
	} {
		_, err := p.Write(t.Context(), []Change{{Name: "space/demo", Value: told(tt.url, tt.in...), Expect: Any}}, Author{By: "test"}, false)
		var wrong *Invalid
		if errors.As(err, &wrong) != tt.bad || err != nil && !tt.bad {
			t.Errorf("%s %v: %v", tt.url, tt.in, err)
		}
		if wrong != nil && (wrong.Problems[0].Document != "space/demo" || wrong.Problems[0].Path != "callback.url") {
			t.Errorf("%s: %+v", tt.url, wrong.Problems)
		}
	}
	clear(asked)
	more := told("https://unknown.example/")
	more.Apps = append(more.Apps, policy.DefaultApp("more"))
	write(t, p, Change{Name: "space/demo", Value: more, Expect: Any})
	if len(asked) != 0 {
		t.Errorf("names that were known before are looked up: %v", asked)
	}
}
