package storage_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

func TestBuckets(t *testing.T) {
	data := t.TempDir()
	b := storage.NewBuckets(data, nil, slog.New(slog.DiscardHandler))
	b.Apply(policy.Default())
	first, err := b.Named("")
	if err != nil {
		t.Fatal(err)
	}
	put(t, first, "a/b", "x", storage.PutOptions{})
	if _, err := os.Stat(filepath.Join(data, "recordings/a/b")); err != nil {
		t.Error(err)
	}
	if again, err := b.Named(policy.DefaultBucket); err != nil || again != first {
		t.Errorf("Named = %v, %v", again, err)
	}
	if _, err := b.Named("other"); !errors.Is(err, storage.ErrRefused) {
		t.Errorf("Named(other) = %v", err)
	}

	// A bucket that stays as it is stays open; one that cannot be opened says so.
	if err := os.WriteFile(filepath.Join(data, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	set := policy.Default()
	for _, name := range []string{"recordings", "file", "second"} {
		var p policy.Bucket
		p.SetDefaults()
		p.Name = name
		set.Buckets = append(set.Buckets, p)
	}
	b.Apply(set)
	if again, err := b.Named("recordings"); err != nil || again != first {
		t.Errorf("Named = %v, %v", again, err)
	}
	if _, err := b.Named("file"); err == nil {
		t.Error("Named(file): no error")
	}
	set2 := policy.Default()
	set2.Buckets = append(set2.Buckets, set.Buckets...)
	set2.Buckets[0].Second = "second"
	b.Apply(set2)
	both, err := b.Named("recordings")
	if err != nil || both == first {
		t.Errorf("Named = %v, %v", both, err)
	}
	b.Apply(set2)
	if again, _ := b.Named("recordings"); again != both {
		t.Error("the same policy opened the buckets anew")
	}
}

func TestBucketsSweep(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := storage.NewBuckets(data, nil, slog.New(slog.DiscardHandler))
		b.Apply(policy.Default())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		left := filepath.Join(data, "recordings/.weir/uploads/left")
		if err := os.Mkdir(left, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(left, time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if _, err := os.Stat(left); err != nil {
			t.Errorf("after 23 hours: %v", err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if _, err := os.Stat(left); err == nil {
			t.Error("after 25 hours it is still there")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFailover(t *testing.T) {
	var f storage.Bucket
	s := serve(t, func(string) (storage.Bucket, error) { return f, nil })
	one, two := t.TempDir(), t.TempDir()
	f = storage.Failover(open(t, one, s), open(t, two, s), time.Minute)
	storagetest.Run(t, f, func() storage.Bucket { return storage.Failover(open(t, one, s), open(t, two, s), time.Minute) })
}

// broken is a bucket that can be told to refuse.
type broken struct {
	storage.Bucket
	err error
}

func (b *broken) Put(ctx context.Context, key string, body io.Reader, o storage.PutOptions) (storage.Object, error) {
	if b.err != nil {
		return storage.Object{}, b.err
	}
	return b.Bucket.Put(ctx, key, body, o)
}

func (b *broken) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.Bucket.Upload(ctx, key, o)
}

func (b *broken) Stat(ctx context.Context, key string) (storage.Object, error) {
	if b.err != nil {
		return storage.Object{}, b.err
	}
	return b.Bucket.Stat(ctx, key)
}

func TestFailoverWhenFirstRefuses(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, err := storage.OpenDirectory("one", one, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		second, err := storage.OpenDirectory("two", two, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		b := &broken{Bucket: first}
		f := storage.Failover(b, second, time.Minute)
		store := func(key string, body io.Reader) (string, error) {
			obj, err := f.Put(t.Context(), key, body, storage.PutOptions{})
			return obj.Bucket, err
		}
		expect := func(when, want string) {
			t.Helper()
			if got, err := store("key", strings.NewReader(when)); got != want || (err == nil) != (want != "") {
				t.Errorf("%s: stored in %q, %v, want %q", when, got, err, want)
			}
		}
		expect("in the beginning", "one")
		b.err = errors.New("away")
		expect("when it just went away", "")
		time.Sleep(59 * time.Second)
		expect("after 59 seconds", "")
		time.Sleep(time.Second)
		expect("after a minute", "two")
		expect("right after", "two")
		if obj, err := f.Stat(t.Context(), "key"); err != nil || obj.Bucket != "two" {
			t.Errorf("Stat = %+v, %v", obj, err)
		}
		if _, err := f.Stat(t.Context(), "nothing"); err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Stat of what nobody knows = %v", err)
		}
		u, err := f.Upload(t.Context(), "parts", storage.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.err = nil
		expect("when it is back, unasked", "two")
		// The upload stays where it began, also in another process.
		u, err = f.Resume(t.Context(), u.State())
		if err != nil {
			t.Fatal(err)
		}
		if err := u.WritePart(t.Context(), 1, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if obj, err := u.Complete(t.Context()); err != nil || obj.Bucket != "two" {
			t.Errorf("Complete = %+v, %v", obj, err)
		}
		time.Sleep(time.Minute)
		expect("when it is asked again", "one")
		expect("from then on", "one")
		body, obj, err := f.Get(t.Context(), "key", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if text, err := io.ReadAll(body); err != nil || string(text) != "from then on" || obj.Bucket != "one" {
			t.Errorf("Get = %q from %s, %v", text, obj.Bucket, err)
		}
		// A body that cannot be read again is refused, but only once.
		b.err = errors.New("away")
		expect("away again", "")
		time.Sleep(2 * time.Minute)
		if got, err := store("key", io.MultiReader(strings.NewReader("x"))); err == nil {
			t.Errorf("stored in %q what could be read once", got)
		}
		if got, err := store("key", io.MultiReader(strings.NewReader("x"))); err != nil || got != "two" {
			t.Errorf("the next one: stored in %q, %v", got, err)
		}
	})
}
