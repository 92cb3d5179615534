package node

import (
	"slices"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
)

// forbid keeps a stream off the air until then, for ever if it is zero: its
// publisher and its players, at once. It holds until the node ends.
func (n *Node) forbid(key stream.Key, until time.Time, why string) {
	n.log.Warn("stream forbidden", "stream", key, "until", until, "why", why)
	n.policyMu.Lock()
	n.bans = append(n.bans, ban{key.Space, policy.Forbidden{App: key.App, Stream: key.Name, Type: policy.Both, Until: policy.Time{Time: until}}})
	n.policyMu.Unlock()
	n.setPolicy(nil)
}

// ban is a stream that is forbidden beside the configuration.
type ban struct {
	space string
	policy.Forbidden
}

// setPolicy makes the policy set, or the one that was set last if it is nil,
// with what is forbidden beside it, that of the node. Who is there without a
// right to be ends.
func (n *Node) setPolicy(set *policy.Set) {
	n.policyMu.Lock()
	if set == nil {
		set = n.configured
	}
	n.configured = set
	now := time.Now()
	n.bans = slices.DeleteFunc(n.bans, func(b ban) bool { return !b.Until.IsZero() && now.After(b.Until.Time) })
	if len(n.bans) > 0 {
		with := &policy.Set{DefaultSpace: set.DefaultSpace, Buckets: set.Buckets, Spaces: slices.Clone(set.Spaces)}
		for i := range with.Spaces {
			sp := &with.Spaces[i]
			for _, b := range n.bans {
				if b.space == sp.Name {
					sp.Forbidden = append(slices.Clip(sp.Forbidden), b.Forbidden)
				}
			}
		}
		set = with
	}
	n.policy.Store(set)
	n.policyMu.Unlock()
	n.sessions.Recheck()
}
