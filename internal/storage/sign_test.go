package storage_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/storage"
)

// The URL of a playlist is good for what the playlist names, as long as it is
// itself, and for nothing else.
func TestPlaylistURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, t.TempDir(), nil)
		for _, key := range []string{"r/s/hls/a/1.ts", "r/s/hls/a/2.ts", "r/s/clip/x/head.ts", "r/other/hls/a/1.ts", "r/s/hls/a/3.ts"} {
			put(t, d, key, key, storage.PutOptions{})
		}
		const text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nx/head.ts\n#EXTINF:2,\n../hls/a/1.ts\r\n#EXTINF:2,\n../hls/a/2.ts\n" +
			"#EXTINF:2,\n../../other/hls/a/1.ts\n#EXTINF:2,\n/etc/passwd\n#EXTINF:2,\nhttp://evil.example/x.ts\n\n#EXT-X-ENDLIST\n"
		put(t, d, "r/s/clip/x.m3u8", text, storage.PutOptions{})
		s, err := storage.NewSigner("/o", []byte("0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		h := http.StripPrefix("/o", s.Handler(func(string) (storage.Bucket, error) { return d, nil }))
		get := func(u string, header ...string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", u, nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		list := s.PlaylistURL("recordings", "r/s/clip/x.m3u8", time.Hour)
		time.Sleep(30 * time.Minute)
		w := get(list)
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/vnd.apple.mpegurl" || w.Header().Get("Cache-Control") != "private, max-age=1800" {
			t.Fatalf("GET: %d, header %v", w.Code, w.Header())
		}
		var urls []string
		for line := range strings.Lines(w.Body.String()) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				urls = append(urls, line)
			}
		}
		if n := strings.Count(w.Body.String(), "#"); n != strings.Count(text, "#") || len(urls) != 6 {
			t.Fatalf("got\n%s", w.Body)
		}
		for i, key := range []string{"r/s/clip/x/head.ts", "r/s/hls/a/1.ts", "r/s/hls/a/2.ts"} {
			if w := get(urls[i]); w.Code != 200 || w.Body.String() != key {
				t.Errorf("GET %s = %d %s", urls[i], w.Code, w.Body)
			}
			if w := get(strings.Replace(urls[i], "s", "x", 1)); w.Code != 403 {
				t.Errorf("another bucket: %d", w.Code)
			}
		}
		if w := get(strings.Replace(urls[1], "1.ts", "3.ts", 1)); w.Code != 403 {
			t.Errorf("a segment that is not named: %d", w.Code)
		}
		for i, line := range []string{"../../other/hls/a/1.ts", "/etc/passwd", "http://evil.example/x.ts"} {
			if urls[3+i] != line {
				t.Errorf("signed %s", urls[3+i])
			}
		}
		// It is no URL of a prefix, and the token of another kind is none for it.
		for _, u := range []string{strings.Replace(list, "clip/x.m3u8", "hls/a/3.ts", 1), strings.Replace(list, ".-1.", ".0.", 1), strings.Replace(list, ".-1.", ".4.", 1)} {
			if w := get(u); w.Code != 403 {
				t.Errorf("GET %s = %d", u, w.Code)
			}
		}
		if w := get(list, "Range", "bytes=0-6"); w.Code != 206 || w.Body.String() != "#EXTM3U" {
			t.Errorf("a range: %d %q", w.Code, w.Body)
		}
		if w := get(s.PlaylistURL("recordings", "r/s/clip/none.m3u8", time.Hour)); w.Code != 404 {
			t.Errorf("no such playlist: %d", w.Code)
		}
		time.Sleep(31 * time.Minute)
		for _, u := range []string{list, urls[0]} {
			if w := get(u); w.Code != 403 {
				t.Errorf("after an hour: GET %s = %d", u, w.Code)
			}
		}
	})
}
