package node

import (
	"fmt"
	"os"

	"weir/internal/record"
	"weir/internal/storage"
)

// openRecorder makes the Recorder, and the buckets that it writes to.
func (n *Node) openRecorder() error {
	spool := n.cfg.Record.Spool
	if spool == "" {
		spool = n.data.sub("record")
	}
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return fmt.Errorf("record.spool: %w", err)
	}
	n.buckets = storage.NewBuckets(n.data.path, nil, n.log)
	n.buckets.Apply(n.policy.Load())
	c := &n.cfg.Record
	var err error
	n.recorder, err = record.Open(n.hub, record.Options{
		Log: n.log, Dir: spool, Size: int64(c.SpoolSize), Sync: orNever(c.Sync), Uploads: c.Uploads, Files: c.Files, GiveUp: c.GiveUp,
		Bucket: n.buckets.Named,
		Emit:   n.events.Emit,
		Flush:  n.events.Flush,
	})
	return err
}
