package record

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/access"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/storage"
)

// A recording can be watched from its beginning while it is being made, by who
// may play the stream, and by nobody else.
func TestTimeShift(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b}
		w.b = b
		set := &policy.Set{DefaultSpace: "default", Spaces: []policy.Space{{
			Name: "default", Domains: []policy.Domain{{Name: "*", Type: policy.Both}}, Apps: []policy.App{w.app},
		}}}
		h := w.r.Handler(access.NewGate(func() *policy.Set { return set }))
		get := func(url string, want int) *httptest.ResponseRecorder {
			t.Helper()
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", url, nil))
			if rec.Code != want {
				t.Fatalf("GET %s: %d %s, want %d", url, rec.Code, rec.Body, want)
			}
			return rec
		}
		get("http://x.example/live/s-1/record.m3u8", http.StatusForbidden)
		e := w.both(w.push())
		e.run(25_000)
		where := get("http://x.example/live/s-1/record.m3u8?a=b", http.StatusFound).Header().Get("Location")
		if !strings.HasPrefix(where, "record.m3u8?a=b&take=") {
			t.Fatalf("Location %q", where)
		}
		list := func(want int) *m3u8.Playlist {
			t.Helper()
			l, err := m3u8.Parse(get("http://x.example/live/s-1/"+where, http.StatusOK).Body.Bytes())
			if err != nil || len(l.Segments) != want {
				t.Fatalf("playlist %+v, %v, want %d segments", l, err, want)
			}
			return l
		}
		l := list(2)
		if l.Type != "EVENT" || l.End || l.TargetDuration != 35 {
			t.Errorf("playlist %+v", l)
		}
		segment := l.Segments[0].URI
		first := get("http://x.example/live/s-1/"+segment, http.StatusOK).Body.Bytes()
		if len(first) < 1000 || first[0] != syncByte {
			t.Errorf("segment of %d bytes", len(first))
		}
		e.run(25_000)
		list(4)
		for _, bad := range []string{"record-x-000001.ts", "record--000001.ts", "record-.ts", strings.Replace(segment, "000001", "000099", 1), strings.Replace(segment, "000001", "-1", 1)} {
			get("http://x.example/live/s-1/"+bad, http.StatusNotFound)
		}
		get("http://x.example/live/other/"+segment, http.StatusNotFound) // it is not of that stream
		get("http://x.example/live/s-1/record.m3u8?take=x", http.StatusForbidden)

		set.Spaces[0].Domains[0].Play = policy.Access{Simple: &policy.Simple{Key: policy.NewSecret("topsecret")}}
		get("http://x.example/live/s-1/"+where, http.StatusForbidden)
		get("http://x.example/live/s-1/"+segment, http.StatusForbidden)

		// Who has a right to the playlist has one to the segments, for as long as the
		// recording may become, also after the right to the playlist is over.
		expires := fmt.Sprintf("%010d", time.Now().Add(time.Minute).Unix())
		sum := md5.Sum([]byte("topsecret" + expires + "/live/s-1/record.m3u8"))
		key := hex.EncodeToString(sum[:])[8:24]
		where = get("http://x.example/live/s-1/record.m3u8?k="+key+"&t="+expires, http.StatusFound).Header().Get("Location")
		tokened := list(4).Segments
		if _, query, _ := strings.Cut(tokened[0].URI, "?"); query == "" || strings.Contains(query, key) {
			t.Fatalf("segment %s", tokened[0].URI)
		}
		for _, s := range tokened {
			get("http://x.example/live/s-1/"+s.URI, http.StatusOK)
			get("http://x.example/live/other/"+s.URI, http.StatusForbidden)
			get("http://x.example/live/s-1/"+strings.Replace(s.URI, "wt=", "wt=A", 1), http.StatusForbidden)
		}
		time.Sleep(2 * time.Minute)
		get("http://x.example/live/s-1/"+where, http.StatusForbidden)
		get("http://x.example/live/s-1/"+tokened[3].URI, http.StatusOK)
		set.Spaces[0].Domains[0].Play = policy.Access{}
		where = "record.m3u8?take=" + strings.Split(tokened[0].URI, "-")[1]

		b.fail(http.ErrHandlerTimeout) // so that it stays
		e.end()
		time.Sleep(4 * time.Minute)
		if l := list(5); !l.End || l.Type != "VOD" {
			t.Errorf("playlist after the end: %+v", l)
		}
		b.fail(nil)
		w.finished(1)
		get("http://x.example/live/s-1/"+where, http.StatusForbidden)
	})
}

// Without a bucket there is what the spool has; a segment that has just left it makes
// its request fail, and nothing else.
func TestTimeShiftWithoutBucket(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		set := &policy.Set{DefaultSpace: "default", Spaces: []policy.Space{{
			Name: "default", Domains: []policy.Domain{{Name: "*", Type: policy.Both}}, Apps: []policy.App{w.app},
		}}}
		e := w.both(w.push())
		e.run(25_000)
		synctest.Wait()
		tk := w.r.unfinished(testKey, "")
		name := w.segmentFile("000002.ts")
		w.r.bucket = func(string) (storage.Bucket, error) { return nil, errors.New("there is no such bucket any more") }
		h := w.r.Handler(access.NewGate(func() *policy.Set { return set }))
		get := func(segment string, want int) {
			t.Helper()
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", "http://x.example/live/s-1/record-"+tk.head.Task+"-"+segment, nil))
			if rec.Code != want {
				t.Errorf("GET %s: %d %s, want %d", segment, rec.Code, rec.Body, want)
			}
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		get("000001.ts", http.StatusOK)
		get("000002.ts", http.StatusServiceUnavailable)
		e.end()
	})
}

func TestServes(t *testing.T) {
	for path, want := range map[string]bool{
		"/live/s/record.m3u8": true, "/live/s/record-a-000001.ts": true, "/hash/time/live/s/record.m3u8": true,
		"/live/record.m3u8": false, "/live/s/index.m3u8": false, "/live/s/1.ts": false, "record.m3u8": false, "": false,
	} {
		if got := Serves(path); got != want {
			t.Errorf("Serves(%q) = %v", path, got)
		}
	}
}
