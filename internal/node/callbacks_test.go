package node

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"weir/internal/callback/sink"
	"weir/internal/cluster"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// A push is told of when it begins and when it ends, in the form and to the URL
// that it began with, signed; so is one that is refused. The sink checks
// signatures, order and pairs.
func TestCallbacks(t *testing.T) {
	secret := policy.NewSecret("s3cret")
	before, after := &sink.Sink{Secret: secret}, &sink.Sink{Secret: secret}
	first := httptest.NewServer(before)
	t.Cleanup(first.Close)
	second := httptest.NewServer(after)
	t.Cleanup(second.Close)

	c := testConfig(t)
	sp := &c.Policy.Spaces[0]
	sp.Callback = &policy.Callback{URL: policy.Endpoint(first.URL + "/live"), PushRefused: true}
	sp.Delivery = new(policy.Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.Secret, sp.Delivery.AllowNetworks = secret, []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	n, _, stop := start(t, c)

	pub := publish(t, n, "s?k=1&t=2")
	other, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Publish("s"); err == nil {
		t.Error("two publishers of one stream")
	}
	other.Close()
	seen := func(s *sink.Sink, events int) sink.Account {
		t.Helper()
		var a sink.Account
		until(t, fmt.Sprintf("%d callbacks", events), 20*time.Second, func() bool { a, _ = s.Account(); return a.Events >= events })
		return a
	}
	seen(before, 2) // the start, and the refusal
	// A policy for those who begin later.
	changed := policy.Set{DefaultSpace: c.Policy.DefaultSpace, Spaces: append([]policy.Space(nil), c.Policy.Spaces...)}
	changed.Spaces[0].Callback = &policy.Callback{URL: policy.Endpoint(second.URL + "/live"), Format: policy.CallbackV1JSON, Sequence: true}
	if _, err := n.policy.Apply(t.Context(), &changed, false, false, cluster.Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	pub.Close()
	if a := seen(before, 3); len(a.Problems) > 0 || len(a.Live) > 0 {
		t.Errorf("the first receiver: %+v", a)
	}
	later := publish(t, n, "s")
	seen(after, 1)
	if err := stop(); err != nil { // and tells what it can before it ends
		t.Fatal(err)
	}
	later.Close()
	if a, _ := after.Account(); a.Events != 2 || len(a.Problems) > 0 || len(a.Live) > 0 {
		t.Errorf("the second receiver: %+v", a)
	}
	if a, _ := before.Account(); a.Calls != 3 {
		t.Errorf("the first receiver had %d calls, want 3", a.Calls)
	}
}
