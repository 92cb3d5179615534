package node

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"weir/internal/policy"
	"weir/internal/storage"
)

// A signed URL of an object is answered on the media listener, and only such.
func TestObjects(t *testing.T) {
	w := newWorld(t, nil)
	b, err := w.buckets.Named("")
	if err != nil {
		t.Fatal(err)
	}
	const key = "record/live/a b/hls/a+b.m3u8"
	if _, err := b.Put(t.Context(), key, strings.NewReader("#EXTM3U\n"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	u, err := b.SignedURL(t.Context(), key, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + w.Addr("http").String()
	for path, want := range map[string]int{
		u: 200, u + "x": 403, "/-/objects/" + policy.DefaultBucket + "/" + key: 403, "/-/objects/": 403, "/-/objects": 404,
	} {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || want == 200 && string(body) != "#EXTM3U\n" {
			t.Errorf("GET %s = %d %q, %v, want %d", path, resp.StatusCode, body, err, want)
		}
	}
}
