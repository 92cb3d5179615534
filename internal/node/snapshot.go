package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/snapshot"
)

// retainPictures is how often old pictures are looked for.
const retainPictures = time.Hour

// openFFmpeg makes the ffmpeg that takes pictures, encodes clips, and makes
// renditions.
func (n *Node) openFFmpeg() {
	c := &n.cfg.FFmpeg
	t := ffmpeg.Options{Log: n.log, Path: c.Path, Self: n.cfg.Self, ForkServer: c.forkServer(), Strict: c.Strict}
	if c.Path == "off" {
		t.Self = ""
	}
	n.ffmpeg = ffmpeg.New(t)
}

// openSnapshots makes what takes pictures.
func (n *Node) openSnapshots() {
	o := snapshot.Options{
		Log: n.log, Tool: n.ffmpeg, Pictures: n.cfg.FFmpeg.Pictures, Forbid: n.forbid,
		Emit: n.events.Emit, Bucket: n.buckets.Named, Tracer: n.tracer, BucketName: n.buckets.Name, AlertCallback: n.alertCallback,
	}
	n.snapshots = snapshot.New(o)
	n.hub.Follow(n.snapshots.Follow)
}

// forkServer returns the library that makes pictures cheap, or "".
func (c *FFmpeg) forkServer() string {
	switch c.ForkServer {
	case "off":
		return ""
	case "":
		self, err := os.Executable()
		if err != nil {
			return ""
		}
		return filepath.Join(filepath.Dir(self), "weir-forkserver.so")
	}
	return c.ForkServer
}

// runSnapshots deletes old pictures, and says first what pictures will be made
// with, until ctx ends.
func (n *Node) runSnapshots(ctx context.Context) {
	if pictured(n.Policy()) != "" {
		if err := n.ffmpeg.Ready(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("no pictures will be taken", "err", err)
		} else if err == nil {
			h := n.ffmpeg.Health()
			n.log.Info("ffmpeg is there", "path", h.Path, "version", h.Version, "landlock", h.Layers.Landlock, "seccomp", h.Layers.Seccomp,
				"namespaces", h.Layers.Namespaces, "other_user", h.Layers.User, "cgroup", h.Layers.Cgroup, "fork_server", h.ForkServer)
			if !h.Layers.Strong() {
				n.log.Warn("this kernel cannot keep ffmpeg from all files and the network; ffmpeg.strict: true refuses to run it then")
			}
		}
	}
	n.snapshots.RetainEvery(ctx, retainPictures, n.Policy)
}

// pictured returns the path of the setting that has pictures taken, if there is
// any.
func pictured(set *policy.Set) string {
	for i := range set.Spaces {
		for j := range set.Spaces[i].Apps {
			if set.Spaces[i].Apps[j].Snapshot.Enabled {
				return fmt.Sprintf("spaces[%d].apps[%d].snapshot.enabled", i, j)
			}
		}
	}
	return ""
}
