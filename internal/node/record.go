package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"weir/internal/event"
	"weir/internal/record"
	"weir/internal/storage"
)

// openRecorder makes the Recorder, and the buckets that it writes to. Without a
// data folder there are none.
func (n *Node) openRecorder() error {
	if n.cfg.Data == "" {
		return nil
	}
	spool := n.cfg.Record.Spool
	if spool == "" {
		spool = filepath.Join(n.cfg.Data, "record")
	}
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return fmt.Errorf("record.spool: %w", err)
	}
	n.buckets = storage.NewBuckets(n.cfg.Data, nil, n.log)
	n.buckets.Apply(n.policy.Load())
	c := &n.cfg.Record
	var err error
	n.recorder, err = record.Open(n.hub, record.Options{
		Log: n.log, Dir: spool, Size: int64(c.SpoolSize), Sync: orNever(c.Sync), Uploads: c.Uploads, Files: c.Files, GiveUp: c.GiveUp,
		Bucket: n.buckets.Named,
		Emit:   func(e event.Event) { n.log.Debug("fact", "type", e.Type, "id", e.ID) },
		Flush:  func(context.Context) error { return nil },
	})
	return err
}
