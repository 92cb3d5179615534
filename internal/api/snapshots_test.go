package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/snapshot"
	"weir/internal/stream"
)

// demoPicture is the picture of the stream live/demo.
func demoPicture() *snapshot.Picture {
	return &snapshot.Picture{
		Stream: stream.Key{Space: "default", App: "live", Name: "demo"}, Sequence: "0123456789abcdef0123456789abcdef", Captured: time.Unix(1_700_000_000, 0),
		JPEG: []byte("\xff\xd8 a picture \xff\xd9"), Width: 640, Height: 360, ETag: "0a0b", Bucket: "recordings", Object: "record/live/demo/picture/demo.jpg",
	}
}

// pictures is a Snapshotter that has that one.
func pictures() Pictures {
	return Pictures{
		Now: func(_ context.Context, st *stream.Stream, store bool) (*snapshot.Picture, error) {
			switch st.Key().Name {
			case "soon":
				return nil, snapshot.ErrTooMany
			case "silent":
				return nil, snapshot.ErrNoPicture
			case "broken":
				return nil, ffmpeg.ErrUnavailable
			}
			return demoPicture(), nil
		},
		Latest: func(k stream.Key) *snapshot.Picture {
			if p := demoPicture(); p.Stream == k {
				return p
			}
			return nil
		},
		Stored: func(_ context.Context, k stream.Key, _ *policy.Snapshot) (*snapshot.Picture, error) {
			switch k.Name {
			case "old":
				p := demoPicture()
				p.ETag = "0c0d"
				return p, nil
			case "away":
				return nil, errors.New("secret detail")
			}
			return nil, nil
		},
		All:    func() []*snapshot.Picture { return []*snapshot.Picture{demoPicture()} },
		FFmpeg: func() ffmpeg.Health { return ffmpeg.Health{Version: "5.1", Path: "/usr/bin/ffmpeg"} },
	}
}

func TestSnapshots(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"soon", "silent", "broken"} {
		w.publish(t, "default", name)
	}
	token := w.token(t, Token{Role: Admin})
	path := func(name string) string { return "/streams/default/live/" + name + "/snapshot" }
	rec := w.do(t, request{method: http.MethodGet, path: path("demo"), token: token})
	h := rec.Header()
	if rec.Code != 200 || rec.Body.String() != string(demoPicture().JPEG) || h.Get("Content-Type") != "image/jpeg" || h.Get("ETag") != `"0a0b"` ||
		h.Get("Last-Modified") != "Tue, 14 Nov 2023 22:13:20 GMT" || h.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("the picture: %d %v %q", rec.Code, h, rec.Body)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: path("demo"), token: token, header: map[string]string{"If-None-Match": `"0a0b"`}}); rec.Code != 304 {
		t.Errorf("the same again: %d", rec.Code)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: path("old"), token: token}); rec.Code != 200 || rec.Header().Get("ETag") != `"0c0d"` {
		t.Errorf("one that is only in the bucket: %d %v", rec.Code, rec.Header())
	}
	if rec := w.do(t, request{method: http.MethodGet, path: path("away"), token: token}); rec.Code != 503 || strings.Contains(rec.Body.String(), "secret") {
		t.Errorf("one whose bucket is away: %d %s", rec.Code, rec.Body)
	}
	for name, want := range map[string]int{"soon": 429, "silent": 409, "broken": 503, "none": 404, "demo": 200} {
		if rec := w.do(t, request{method: http.MethodPost, path: path(name) + "s", token: token}); rec.Code != want {
			t.Errorf("take one of %s: %d %s, want %d", name, rec.Code, rec.Body, want)
		}
	}
	if rec := w.do(t, request{method: http.MethodGet, path: path("soon"), token: token}); rec.Code != 404 {
		t.Errorf("of a stream without one: %d", rec.Code)
	}
}
