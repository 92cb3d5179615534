package node

import (
	"context"
	"time"

	"weir/internal/cluster"
	"weir/internal/policy"
	"weir/internal/stream"
)

// forbid keeps a stream off the air until then, for ever if it is zero, on all
// nodes: its publisher and its players end at once.
func (n *Node) forbid(key stream.Key, until time.Time, why string) {
	n.log.Warn("stream forbidden", "stream", key, "until", until, "why", why)
	ban := cluster.Ban{Space: key.Space, App: key.App, Stream: key.Name, Type: policy.Both, Until: until, By: "node " + n.name, Note: why[:min(len(why), 1000)]}
	if err := n.policy.ForbidAnyway(context.Background(), ban); err != nil {
		n.log.Error("a stream could not be forbidden", "stream", key, "err", err)
	}
}
