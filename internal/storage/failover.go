package storage

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// failover is two buckets that are used as one.
type failover struct {
	first, second Bucket
	after         time.Duration

	mu     sync.Mutex
	failed time.Time // since when first has stored nothing; zero: it stores
	tried  time.Time // when it was last asked to, since then
}

// Failover returns a Bucket that stores in first and, once first has stored
// nothing for so long, in second, asking first again every now and then.
// Object.Bucket says which one has it. What is in both is that which was
// stored last. A list needs both to answer.
//
// An object is offered to second at once, after first refused it, only if its
// body can be read again (io.Seeker) and the time has come.
func Failover(first, second Bucket, after time.Duration) Bucket {
	return &failover{first: first, second: second, after: after}
}

// asks says whether the next object is offered to first.
func (f *failover) asks() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.failed.IsZero() || now.Sub(f.failed) < f.after {
		return true
	}
	if now.Sub(f.tried) < f.after {
		return false
	}
	f.tried = now // this one finds out whether it is back
	return true
}

// note says how it went with first.
func (f *failover) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch now := time.Now(); {
	case err == nil || !refuses(err):
		f.failed = time.Time{}
	case f.failed.IsZero():
		f.failed, f.tried = now, now
	default:
		f.tried = now
	}
}

// refuses says whether an error is the bucket's, and not that of what was asked.
func refuses(err error) bool {
	for _, e := range []error{ErrNotExist, ErrExist, ErrKey, ErrMismatch, ErrUpload, context.Canceled} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

// due says whether second may take what first has just refused.
func (f *failover) due() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.failed.IsZero() && time.Since(f.failed) >= f.after
}

// source remembers that it was the body that failed.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (f *failover) Put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error) {
	if f.asks() {
		src := &source{Reader: body}
		obj, err := f.first.Put(ctx, key, src, o)
		if src.err != nil || ctx.Err() != nil {
			return obj, err
		}
		f.note(err)
		if err == nil || !refuses(err) || !f.due() || !rewind(body) {
			return obj, err
		}
	}
	return f.second.Put(ctx, key, body, o)
}

func rewind(body io.Reader) bool {
	s, ok := body.(io.Seeker)
	if !ok {
		return false
	}
	_, err := s.Seek(0, io.SeekStart)
	return err == nil
}

// find returns the bucket that has the object: the newer one, if both do.
func (f *failover) find(ctx context.Context, key string) (Bucket, Object, error) {
	one, err1 := f.first.Stat(ctx, key)
	two, err2 := f.second.Stat(ctx, key)
	switch {
	case err1 == nil && (err2 != nil || !two.Modified.After(one.Modified)):
		return f.first, one, nil
	case err2 == nil:
		return f.second, two, nil
	case errors.Is(err1, ErrNotExist):
		return nil, Object{}, err2 // it is nowhere, or nobody knows
	}
	return nil, Object{}, err1
}

func (f *failover) Stat(ctx context.Context, key string) (Object, error) {
	_, obj, err := f.find(ctx, key)
	return obj, err
}

func (f *failover) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Object, error) {
	b, _, err := f.find(ctx, key)
	if err != nil {
		return nil, Object{}, err
	}
	return b.Get(ctx, key, off, n)
}

func (f *failover) SignedURL(ctx context.Context, key string, valid time.Duration) (string, error) {
	b, _, err := f.find(ctx, key)
	if errors.Is(err, ErrNotExist) {
		b, err = f.first, nil
	}
	if err != nil {
		return "", err
	}
	return b.SignedURL(ctx, key, valid)
}

func (f *failover) List(ctx context.Context, prefix, after string, limit int) ([]Object, error) {
	if limit <= 0 {
		limit = 1000
	}
	list, err := f.first.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	other, err := f.second.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	// The newest of each key first, so that it is the one that stays.
	list = append(list, other...)
	slices.SortStableFunc(list, func(a, b Object) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return b.Modified.Compare(a.Modified)
	})
	list = slices.CompactFunc(list, func(a, b Object) bool { return a.Key == b.Key })
	return list[:min(len(list), limit)], nil
}

func (f *failover) Delete(ctx context.Context, keys ...string) error {
	return errors.Join(f.first.Delete(ctx, keys...), f.second.Delete(ctx, keys...))
}

func (f *failover) Sweep(ctx context.Context, age time.Duration) (int, error) {
	one, err1 := f.first.Sweep(ctx, age)
	two, err2 := f.second.Sweep(ctx, age)
	return one + two, errors.Join(err1, err2)
}

// failoverUpload is an upload to one of the two.
type failoverUpload struct {
	Upload
	f      *failover
	second bool
}

type failoverState struct {
	Second bool            `json:"second"`
	State  json.RawMessage `json:"state"`
}

func (u *failoverUpload) State() []byte {
	text, err := json.Marshal(failoverState{u.second, u.Upload.State()})
	if err != nil {
		panic(err) // a State is JSON
	}
	return text
}

func (u *failoverUpload) WritePart(ctx context.Context, n int, data []byte) error {
	err := u.Upload.WritePart(ctx, n, data)
	if !u.second && ctx.Err() == nil {
		u.f.note(err)
	}
	return err
}

func (f *failover) Upload(ctx context.Context, key string, o PutOptions) (Upload, error) {
	if f.asks() {
		u, err := f.first.Upload(ctx, key, o)
		if ctx.Err() == nil {
			f.note(err)
		}
		if err == nil {
			return &failoverUpload{u, f, false}, nil
		}
		if ctx.Err() != nil || !refuses(err) || !f.due() {
			return nil, err
		}
	}
	u, err := f.second.Upload(ctx, key, o)
	if err != nil {
		return nil, err
	}
	return &failoverUpload{u, f, true}, nil
}

func (f *failover) Resume(ctx context.Context, state []byte) (Upload, error) {
	var s failoverState
	if err := json.Unmarshal(state, &s); err != nil || s.State == nil {
		return nil, errors.New("resume upload: not a state of these buckets")
	}
	b := f.first
	if s.Second {
		b = f.second
	}
	u, err := b.Resume(ctx, s.State)
	if err != nil {
		return nil, err
	}
	return &failoverUpload{u, f, s.Second}, nil
}
