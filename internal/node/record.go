package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir/internal/cluster"
	"weir/internal/record"
	"weir/internal/storage"
)

// objectsPath is where signed URLs of objects lead, on the media listeners: no
// app can have that name.
const objectsPath = "/-/objects/"

// retainEvery is how often recordings are looked for that are not to be kept.
const retainEvery = time.Hour

// spoolFolder returns the folder of what is recorded and not uploaded yet.
func (n *Node) spoolFolder() string { return cmp.Or(n.cfg.Record.Spool, n.data.sub("record")) }

// openRecorder makes the Recorder, and the buckets that it writes to.
func (n *Node) openRecorder() (err error) {
	if n.signer, err = n.openSigner(); err != nil {
		return err
	}
	n.buckets = storage.NewBuckets(n.data.path, n.signer, n.log)
	n.buckets.Apply(n.Policy())
	c := &n.cfg.Record
	n.recorder, err = record.Open(n.hub, record.Options{
		Log: n.log, Tracer: n.tracer, Dir: n.spoolFolder(), Size: int64(c.SpoolSize), Sync: orNever(c.Sync), Uploads: c.Uploads, Files: c.Files, GiveUp: c.GiveUp,
		Bucket: n.buckets.Named, BucketName: n.buckets.Name,
		FFmpeg: n.ffmpeg,
		Signer: n.signer,
		Share:  n.share(),
		Orders: record.NewOrders(n.bus.JetStream(), n.bus.Replicas(), n.log),
		Emit:   n.events.Emit,
		Flush:  n.events.Flush,
	})
	return err
}

// openSpool makes the spool's folder, if need be, and takes it for this process:
// two would go on with the recordings of each other.
func (n *Node) openSpool() error {
	dir := n.spoolFolder()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("record.spool: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("record.spool: %w", err)
	}
	if lockFile(f) != nil {
		f.Close()
		return fmt.Errorf("record.spool: %s belongs to another process: each node needs a folder of its own", dir)
	}
	n.spool = f
	return nil
}

// openSigner makes the signer of URLs of objects, with the key that all nodes
// share, or the one that the operator has put into the data folder.
func (n *Node) openSigner() (*storage.Signer, error) {
	base, file := n.cfg.PublicURL+objectsPath, n.data.sub("objects.key")
	if _, err := os.Stat(file); err == nil {
		return storage.OpenSigner(base, file)
	}
	key := make([]byte, 32)
	rand.Read(key)
	s, err := storage.NewSigner(base, key)
	if err == nil {
		n.useKey("objects", "signed URLs of objects are good at this node only", s.SetKey)
	}
	return s, err
}

// share is what the recorders of the nodes share, where there are others.
func (n *Node) share() *record.Share {
	if !n.bus.Shared() {
		return nil
	}
	nodes := cluster.NewNodes(n.bus.JetStream(), n.bus.Replicas(), n.log)
	return &record.Share{
		JetStream: n.bus.JetStream(), Replicas: n.bus.Replicas(), Node: n.name, After: n.cfg.Record.TakeOver,
		Nodes: func(ctx context.Context) (names []string, err error) {
			list, err := nodes.List(ctx)
			for _, x := range list {
				names = append(names, x.Name)
			}
			return names, err
		},
	}
}

// runRetention deletes recordings and clips that the policy does not want kept, until ctx
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
