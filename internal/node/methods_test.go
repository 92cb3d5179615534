package node

import (
	"net/http"
	"testing"
)

// What is there to be read is read, by whatever page wants to, and nothing else.
func TestMethods(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/", 200},
		{"HEAD", "/", 200},
		{"OPTIONS", "/", 204},
		{"POST", "/", 405},
		{"TRACE", "/", 405},
		{"GET", "/player/hls.js", 200},
		{"POST", "/player/hls.js", 405},
		{"DELETE", "/player/mpegts.js", 405},
		{"GET", "/nothing", 404},
		{"PUT", "/nothing", 405},
		{"POST", "/live/s.flv", 405},
		{"POST", "/live/s.m3u8", 405},
	} {
		r, err := http.NewRequest(c.method, w.url("http", c.path), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if h := resp.Header; resp.StatusCode != c.code || h.Get("Access-Control-Allow-Origin") != "*" ||
			(c.code == 405 || c.code == 204) && h.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("%s %s: %d, want %d; %v", c.method, c.path, resp.StatusCode, c.code, h)
		}
	}
}
