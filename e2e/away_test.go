//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"weir/internal/storage/storagetest"
)

// faults stands before an S3 server, counts what that has taken, and answers in its place
// or loses its answers while it is told to.
type faults struct {
	storm, lose atomic.Bool
	requests    atomic.Int32
	failed      atomic.Int32
	lost        atomic.Int32

	mu    sync.Mutex
	calm  bool            // no answer gets lost
	taken map[string]bool // objects and parts: whether it was calm
	twice int             // were taken again,
	known int             // though it had been calm
}

func (f *faults) setCalm(is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calm = is
}

func (f *faults) see(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
	n := f.requests.Add(1)
	if f.storm.Load() && n%3 != 0 {
		f.failed.Add(1)
		w.WriteHeader([]int{500, 502, 503, 504}[n%4])
		return true
	}
	rec := httptest.NewRecorder()
	if r.Method != http.MethodPut {
		return false
	}
	forward.ServeHTTP(rec, r)
	if rec.Code == http.StatusOK {
		name := r.URL.Path + " " + r.URL.Query().Get("partNumber")
		f.mu.Lock()
		if calm, ok := f.taken[name]; ok {
			f.twice++
			if calm {
				f.known++
			}
		}
		f.taken[name] = f.calm
		f.mu.Unlock()
	}
	if f.lose.Load() && n%2 == 0 {
		f.lost.Add(1)
		panic(http.ErrAbortHandler)
	}
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	io.Copy(w, rec.Body)
	return true
}

// F25, F26, F28: a recording grows while its bucket, on a real S3 server, is slow, resets
// connections, answers with errors, loses its answers and is away for long: in the end all
// is there, once, and nothing else, and nobody was told of a file before. With WEIR_LONG=1 it
// is away for two minutes.
func TestRecordBucketAway(t *testing.T) {
	t.Parallel()
	away := 6 * time.Second
	if os.Getenv("WEIR_LONG") != "" {
		away = 2 * time.Minute
	}
	s3 := storagetest.S3(t)
	f := &faults{taken: map[string]bool{}, calm: true}
	proxy := storagetest.NewToxiproxy(t, storagetest.Middleman(t, s3, f.see))
	client := storagetest.Client(t, s3)
	objects := func() (keys []string) {
		for o := range client.ListObjectsIter(t.Context(), "weir", minio.ListObjectsOptions{Prefix: "record/", Recursive: true}) {
			if o.Err != nil {
				t.Error(o.Err)
			}
			keys = append(keys, o.Key)
		}
		return keys
	}
	l := newListener(t)
	l.mu.Lock()
	l.hear = func(c told) {
		keys := objects()
		for _, ext := range []string{".m3u8", ".mp4", ".flv"} {
			if strings.Contains(c.text, ext) && !slices.ContainsFunc(keys, func(key string) bool { return path.Ext(key) == ext }) {
				t.Errorf("there are only %q when this comes: %s", keys, c.text)
			}
		}
	}
	l.mu.Unlock()
	m := newMachine(t, `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
policy:
  buckets:
    - {name: remote, type: s3, endpoint: $S3, bucket: weir, access_key: $ACCESS, secret_key: "$SECRET", allow_networks: [127.0.0.0/8]}
  spaces:
    - name: default
      domains: [{name: "*"}]
      callback_delivery: {allow_networks: [127.0.0.0/8]}
      apps:
        - name: live
          hold: 0s
          record: {mode: automatic, splice: 1s, segment: 1s, hls: {callback: "$URL/hls"}, mp4: {enabled: true, callback: "$URL/mp4"}, flv: {enabled: true, callback: "$URL/flv"}}
`, map[string]string{"URL": l.URL, "S3": "http://" + proxy.Addr, "ACCESS": storagetest.AccessKey, "SECRET": storagetest.SecretKey})
	m.start()

	dir := t.TempDir()
	source := filepath.Join(dir, "busy.flv") // of some megabits: an MP4 has several parts
	args := strings.Fields("-nostdin -v error -y " + small + noise + "-t 5 -vf noise=alls=100:allf=t+u -c:v libx264 -preset ultrafast -pix_fmt yuv420p -b:v 6M -maxrate 6M -bufsize 6M -bf 0 -g 25 " + aac)
	if _, err := output("ffmpeg", append(args, source)...); err != nil {
		t.Fatal(err)
	}
	pushed, err := decodeAll(t, source, "va")
	if err != nil {
		t.Fatal(err)
	}
	const beat = 5120 // ms, from clip to clip
	var clip []tag
	var want []decoding
	for at := time.Duration(0); at < 9*time.Second+away; at += beat * time.Millisecond {
		err := readFile(source, func(tag tag) error {
			tag.timestamp += uint32(at.Milliseconds())
			clip = append(clip, tag)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, pushed)
	}
	over := make(chan struct{})
	go func() { // ends with the clip
		defer close(over)
		m.push(t.Context(), "s", clip)
	}()
	switched := func(b *atomic.Bool) func() func() {
		return func() func() { b.Store(true); return func() { b.Store(false) } }
	}
	<-time.After(2 * time.Second)
	f.setCalm(false)
	<-time.After(200 * time.Millisecond) // for what is under way
	for _, begin := range []func() (end func()){
		switched(&f.lose),
		func() func() { return proxy.Toxic("bandwidth", "upstream", map[string]any{"rate": 100}) },
		func() func() { return proxy.Toxic("reset_peer", "upstream", map[string]any{"timeout": 20}) },
		switched(&f.storm),
	} {
		end := begin()
		<-time.After(2 * time.Second)
		end()
	}
	proxy.Enable(false)
	<-time.After(away)
	<-over
	proxy.Enable(true)
	// It is no better when the files are made.
	f.storm.Store(true)
	before := f.failed.Load()
	if err := poll(3*time.Minute, func() error {
		if n := f.failed.Load() - before; n < 20 {
			return fmt.Errorf("only %d requests came", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.storm.Store(false)
	f.setCalm(true)
	l.wait(3, 3*time.Minute)

	// All of it is there, as ffmpeg sees it.
	var segments int
	keys := objects()
	for _, key := range keys {
		if err := client.FGetObject(t.Context(), "weir", key, filepath.Join(dir, key), minio.GetObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		if path.Ext(key) == ".ts" {
			segments++
			continue
		}
		got, err := decodeAll(t, filepath.Join(dir, key), "va")
		if err == nil {
			err = follow(want, []decoding{got})
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	// Nothing else is there, and nothing that was known to be there has come again.
	if err := poll(patience, func() error {
		uploads, err := client.ListMultipartUploads(t.Context(), "weir", "", "", "", "", 1000)
		if err == nil && len(uploads.Uploads) > 0 {
			err = fmt.Errorf("uploads are left: %+v", uploads.Uploads)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if len(keys) != segments+3 {
		t.Errorf("there are the objects %q", keys)
	}
	if n := m.metric("weir_record_uploads_total"); n != segments {
		t.Errorf("%d segments were uploaded, and %d are there", n, segments)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known > 0 {
		t.Errorf("%d objects and parts were sent again, though they were known to be there", f.known)
	}
	t.Logf("%d segments; %d requests, of which %d failed, and the answers to %d were lost; %d of %d objects and parts were taken twice", segments, f.requests.Load(), f.failed.Load(), f.lost.Load(), f.twice, len(f.taken))
	if err := m.server.stop(); err != nil {
		t.Error(err)
	}
}
