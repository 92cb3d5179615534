package node

import (
	"errors"
	"testing"
	"time"

	"weir/internal/cluster"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// A stream that somebody's server has forbidden ends, cannot come back, and
// stays forbidden when the policy changes.
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
	more := policy.Default()
	more.Spaces[0].Apps = append(more.Spaces[0].Apps, policy.DefaultApp("more"))
	if _, err := n.policy.Apply(t.Context(), more, true, false, cluster.Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	second, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	var refused *rtmp.Error
	if err := second.Publish("evil"); !errors.As(err, &refused) {
		t.Errorf("publish: %v, want a refusal", err)
	}
	if _, err := n.policy.Resume(t.Context(), key.Space, key.App, key.Name, "test"); err != nil {
		t.Fatal(err)
	}
	publish(t, n, "evil").Close()
}
