package storage

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"weir/internal/policy"
)

// Buckets are the buckets of a policy, by name. They follow the policy:
// whoever needs a bucket asks for it when he begins something, and keeps it to
// the end of that.
type Buckets struct {
	data   string
	signer *Signer
	log    *slog.Logger

	mu    sync.Mutex
	first string
	named map[string]*opened
}

// opened is a bucket of the policy as it is open.
type opened struct {
	policy policy.Bucket
	single Bucket // without its second one
	bucket Bucket
	err    error // why it could not be opened
}

const (
	sweepEvery = 5 * time.Minute
	sweepAge   = 24 * time.Hour // nothing of ours is written to more rarely
)

// NewBuckets returns Buckets without any; directories will be in the folder
// data, and have URLs by signer if that is not nil.
func NewBuckets(data string, signer *Signer, log *slog.Logger) *Buckets {
	return &Buckets{data: data, signer: signer, log: log, named: map[string]*opened{}}
}

// Apply makes the buckets those of the policy. One that did not change stays
// open as it is; one that cannot be opened is in the log, and fails when it is
// asked for.
func (b *Buckets) Apply(set *policy.Set) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, old := set.AllBuckets(), b.named
	b.first, b.named = list[0].Name, map[string]*opened{}
	for _, p := range list {
		o := old[p.Name]
		if o == nil || o.err != nil || !reflect.DeepEqual(o.policy, p) {
			o = b.open(p)
		}
		b.named[p.Name] = o
	}
	for _, o := range b.named {
		second := b.named[o.policy.Second]
		switch {
		case second == nil || second.err != nil || o.err != nil:
			o.bucket = o.single
		default:
			if f, ok := o.bucket.(*failover); !ok || f.second != second.single {
				o.bucket = Failover(o.single, second.single, o.policy.SecondAfter)
			}
		}
	}
}

func (b *Buckets) open(p policy.Bucket) *opened {
	o := &opened{policy: p}
	if p.Type == policy.BucketS3 {
		var s *S3
		if s, o.err = OpenS3(p, S3Options{}); o.err == nil {
			o.single = s
		}
	} else {
		dir := p.Path
		if dir == "" {
			dir = p.Name
		}
		var d *Directory
		if d, o.err = OpenDirectory(p.Name, filepath.Join(b.data, dir), b.signer); o.err == nil {
			o.single = d
		}
	}
	if o.err != nil {
		b.log.Error("a bucket cannot be opened", "bucket", p.Name, "error", o.err)
	}
	return o
}

// Named returns the bucket of that name, the first one if it is empty.
func (b *Buckets) Named(name string) (Bucket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name = cmp.Or(name, b.first)
	o := b.named[name]
	switch {
	case o == nil:
		return nil, fmt.Errorf("%w: there is no bucket %.64q in the policy", ErrRefused, name)
	case o.err != nil:
		return nil, o.err
	}
	return o.bucket, nil
}

// Name returns the name of the bucket that Named returns.
func (b *Buckets) Name(name string) string {
	if name != "" {
		return name
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.first
}

// Close gives the folders of buckets up. Nobody uses a bucket any more.
func (b *Buckets) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.named {
		if d, ok := o.single.(*Directory); ok {
			d.Close()
		}
	}
	b.named = map[string]*opened{}
}

// Run sweeps the buckets every few minutes, until ctx is done.
func (b *Buckets) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		b.sweep(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *Buckets) sweep(ctx context.Context) {
	b.mu.Lock()
	list := map[string]Bucket{}
	for name, o := range b.named {
		if o.err == nil {
			list[name] = o.single
		}
	}
	b.mu.Unlock()
	for name, bucket := range list {
		switch n, err := bucket.Sweep(ctx, sweepAge); {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.log.Warn("a bucket could not be swept", "bucket", name, "error", err)
		case n > 0:
			b.log.Info("abandoned uploads removed", "bucket", name, "uploads", n)
		}
	}
}
