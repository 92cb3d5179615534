package node

import (
	"errors"
	"testing"
	"time"

	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// A stream that somebody's server has forbidden ends, cannot come back, and
// stays forbidden when the policy is read again.
func TestForbid(t *testing.T) {
	n, _, _ := start(t, testConfig(t))
	c := publish(t, n, "evil")
	defer c.Close()
	key := stream.Key{Space: "default", App: "live", Name: "evil"}
	n.forbid(key, time.Now().Add(time.Hour), "a test")
	for err := error(nil); err == nil; _, err = c.ReadPacket() {
	}
	if n.hub.Find(key) != nil && n.hub.Find(key).Live() {
		t.Error("the publisher is still there")
	}
	n.setPolicy(policy.Default())
	second, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	var refused *rtmp.Error
	if err := second.Publish("evil"); !errors.As(err, &refused) {
		t.Errorf("publish: %v, want a refusal", err)
	}
	forbids := func() bool {
		return n.policy.Load().Spaces[0].Forbids(policy.Publish, "live", "evil", time.Now())
	}
	if !forbids() {
		t.Error("it is not forbidden any more")
	}
	n.bans[0].Until = policy.Time{Time: time.Now().Add(-time.Second)}
	n.setPolicy(nil)
	if forbids() || len(n.bans) != 0 {
		t.Error("it is forbidden for longer than it shall")
	}
}
