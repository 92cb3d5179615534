package storage_test

import (
	"testing"

	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

func openS3(t *testing.T, b policy.Bucket, o storage.S3Options) *storage.S3 {
	t.Helper()
	s, err := storage.OpenS3(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestS3(t *testing.T) {
	addr := storagetest.S3(t)
	for name, change := range map[string]func(*policy.Bucket){
		"plain":  func(*policy.Bucket) {},
		"prefix": func(b *policy.Bucket) { b.Prefix, b.Style = "some/where/", policy.BucketStylePath },
	} {
		t.Run(name, func(t *testing.T) {
			b := storagetest.Bucket(addr)
			change(&b)
			storagetest.Run(t, openS3(t, b, storage.S3Options{}), func() storage.Bucket { return openS3(t, b, storage.S3Options{}) })
		})
	}
}
