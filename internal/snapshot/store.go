package snapshot

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"weir/internal/storage"
	"weir/internal/tracing"
)

// storeTime is how long a picture may take to be stored; then it has failed.
const storeTime = 30 * time.Second

// captured is the meta value of an object that says when its frame arrived.
const captured = "weir-captured"

// store puts a picture into its bucket. Where a stream has but one, the one
// captured last wins, whoever is stored last. It returns the bucket's name.
func (s *Snapshotter) store(c *capture, p *Picture, key string) (bucket string, err error) {
	if s.opt.Bucket == nil {
		return "", &failure{errStorage, "there is no bucket for pictures"}
	}
	b, err := s.opt.Bucket(c.cfg.Bucket)
	if err != nil {
		return "", &failure{errStorage, "the bucket cannot be used"}
	}
	ctx, span := tracing.Start(tracing.Push(s.ctx, p.Sequence), "upload", "bucket", c.cfg.Bucket, "format", "jpeg", "key", key)
	defer func() { span.Fail(err); span.End() }()
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	o := storage.PutOptions{
		Size: int64(len(p.JPEG)), ContentType: "image/jpeg",
		Meta: map[string]string{captured: strconv.FormatInt(p.Captured.UnixMilli(), 10)},
	}
	if c.cfg.Overwrite {
		o.CacheControl = "no-cache"
		defer s.stores.lock(c.cfg.Bucket + "/" + key)()
	}
	for try := 0; ; try++ {
		if c.cfg.Overwrite {
			if ms, there := capturedAt(ctx, b, key); ms > p.Captured.UnixMilli() {
				return there.Bucket, nil // what is there is what shall be there
			}
		}
		stored, err := b.Put(ctx, key, bytes.NewReader(p.JPEG), o)
		if err == nil && c.cfg.Overwrite && try == 0 {
			if ms, there := capturedAt(ctx, b, key); there.Key != "" && ms < p.Captured.UnixMilli() {
				continue // another node has put an older one in its place
			}
		}
		switch {
		case err == nil:
			return stored.Bucket, nil
		case ctx.Err() != nil || try > 0 || errors.Is(err, storage.ErrRefused) || errors.Is(err, storage.ErrKey):
			s.log.Warn("picture not stored", "stream", p.Stream, "err", err)
			return "", &failure{errStorage, "the picture could not be stored"}
		}
	}
}

// capturedAt returns when the picture in an object was captured, 0 where that
// is not known; the Object is zero where there is none.
func capturedAt(ctx context.Context, b storage.Bucket, key string) (ms int64, o storage.Object) {
	o, err := b.Stat(ctx, key)
	if err != nil {
		return 0, storage.Object{}
	}
	ms, _ = strconv.ParseInt(o.Meta[captured], 10, 64)
	return ms, o
}

// keyLock is a lock for each key in use.
type keyLock struct {
	mu    sync.Mutex
	locks map[string]*keyed
}

type keyed struct {
	sync.Mutex
	users int
}

// lock locks a key and returns what unlocks it.
func (l *keyLock) lock(key string) (unlock func()) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = make(map[string]*keyed)
	}
	k := l.locks[key]
	if k == nil {
		k = new(keyed)
		l.locks[key] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.locks, key)
		}
	}
}
