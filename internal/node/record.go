package node

import (
	"context"
	"fmt"
	"os"
	"time"

	"weir/internal/record"
	"weir/internal/storage"
)

// objectsPath is where signed URLs of objects lead, on the media listeners: no
// app can have that name.
const objectsPath = "/-/objects/"

// retainEvery is how often recordings are looked for that are not to be kept.
const retainEvery = time.Hour

// openRecorder makes the Recorder, and the buckets that it writes to.
func (n *Node) openRecorder() error {
	spool := n.cfg.Record.Spool
	if spool == "" {
		spool = n.data.sub("record")
	}
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return fmt.Errorf("record.spool: %w", err)
	}
	var err error
	if n.signer, err = storage.OpenSigner(n.cfg.PublicURL+objectsPath, n.data.sub("objects.key")); err != nil {
		return err
	}
	n.buckets = storage.NewBuckets(n.data.path, n.signer, n.log)
	n.buckets.Apply(n.Policy())
	c := &n.cfg.Record
	n.recorder, err = record.Open(n.hub, record.Options{
		Log: n.log, Tracer: n.tracer, Dir: spool, Size: int64(c.SpoolSize), Sync: orNever(c.Sync), Uploads: c.Uploads, Files: c.Files, GiveUp: c.GiveUp,
		Bucket: n.buckets.Named,
		Signer: n.signer,
		Emit:   n.events.Emit,
		Flush:  n.events.Flush,
	})
	return err
}

// runRetention deletes recordings that the policy does not want kept, until ctx
// is done.
func (n *Node) runRetention(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if _, err := n.recorder.Retain(ctx, n.policy.Set()); err != nil && ctx.Err() == nil {
			n.log.Warn("recordings that are not to be kept", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
