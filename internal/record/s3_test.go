package record

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/storage/storagetest"
	"weir/internal/stream"
)

// remote is a Recorder whose bucket is on a real S3 server, with a proxy before it
// that breaks connections and one that answers in the server's place.
type remote struct {
	*world
	proxy  *storagetest.Toxiproxy
	fault  atomic.Pointer[func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool]
	bucket *storage.S3 // as the recorder has it
	honest *storage.S3 // the server itself
	addr   string
	client *minio.Core // somebody else's eyes

	told chan event.RecordFinished
}

// hasty is how the recorder's bucket waits.
var hasty = storage.S3Options{Attempts: 2, Wait: time.Millisecond, Stall: time.Second, MinRate: 4 << 20}

func newRemote(t *testing.T) *remote {
	t.Helper()
	addr := storagetest.S3(t)
	r := &remote{told: make(chan event.RecordFinished, 16), client: storagetest.Client(t, addr)}
	open := func(addr string, o storage.S3Options) *storage.S3 {
		b, err := storage.OpenS3(storagetest.Bucket(addr), o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r.honest, r.addr = open(addr, storage.S3Options{}), addr
	r.proxy = storagetest.NewToxiproxy(t, storagetest.Middleman(t, addr, func(w http.ResponseWriter, req *http.Request, forward http.Handler) bool {
		f := r.fault.Load()
		return f != nil && (*f)(w, req, forward)
	}))
	r.bucket = open(r.proxy.Addr, hasty)
	r.world = &world{t: t, dir: t.TempDir(), app: policy.DefaultApp("live"), sent: map[av.Kind][]string{}, b: r.honest}
	r.app.MaxLead = 0
	r.app.Record.Mode, r.app.Record.Splice = policy.RecordAutomatic, 0
	every(&r.app.Record)
	r.opt = Options{
		Dir: r.dir, Sync: -1, Retry: 20 * time.Millisecond,
		Bucket: func(string) (storage.Bucket, error) { return r.bucket, nil },
		Emit:   r.emitted,
	}
	// The recorder is given time: how fast it is, is not what is asked here.
	r.hub = stream.NewHub(stream.Options{SlowAfter: time.Hour, SlowBytes: 1 << 30})
	var err error
	if r.r, err = Open(r.hub, r.opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	return r
}

// emitted is told of each fact when it is emitted. What it is about is there
// already, for everybody.
func (r *remote) emitted(e event.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	f, ok := e.Data.(event.RecordFinished)
	if !ok {
		return
	}
	o, err := r.client.StatObject(context.Background(), "weir", f.Key, minio.StatObjectOptions{})
	if err != nil {
		r.t.Errorf("a fact about %s, which is not there: %v", f.Key, err)
	} else if f.Format != "hls" && o.Size != f.Size {
		r.t.Errorf("a fact about %s of %d bytes, which has %d", f.Key, f.Size, o.Size)
	}
	r.told <- f
}

// after answers a fault only once n requests of a kind have passed, and then so
// many times.
func after(n, times int32, is func(*http.Request) bool, fault func(http.ResponseWriter, *http.Request, http.Handler)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	var seen atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
		if !is(r) {
			return false
		}
		if i := seen.Add(1); i <= n || i > n+times {
			return false
		}
		fault(w, r, forward)
		return true
	}
}

func cut(w http.ResponseWriter) {
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		c.Close()
	}
}

func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Get("partNumber") != ""
}

func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Get("uploadId") != ""
}

func isList(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("list-type") != ""
}

const (
	saysError = `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>we encountered one</Message></Error>`
	saysLie   = `<?xml version="1.0"?><CompleteMultipartUploadResult><Bucket>weir</Bucket><Key>object</Key><ETag>"x-1"</ETag></CompleteMultipartUploadResult>`
)

// F25, F26, F28, H98: whatever the storage does, in the end all objects of a
// recording are there, whole, and nothing else; and nobody was told of one before.
func TestStorageFaults(t *testing.T) {
	answer := func(text string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { io.WriteString(w, text) }
	}
	lost := func(w http.ResponseWriter, r *http.Request, forward http.Handler) { // done, but nobody hears of it
		forward.ServeHTTP(httptest.NewRecorder(), r)
		cut(w)
	}
	faulty := func(fault func(http.ResponseWriter, *http.Request, http.Handler) bool) func(*remote) func() {
		return func(r *remote) func() { r.fault.Store(&fault); return nil }
	}
	toxic := func(kind, stream string, attributes map[string]any) func(*remote) func() {
		return func(r *remote) func() { return r.proxy.Toxic(kind, stream, attributes) }
	}
	for _, c := range []struct {
		name  string
		begin func(*remote) (end func()) // end is called when uploads have failed for some time; nil: it ends by itself
		fails bool                       // attempts of the recorder fail
	}{
		{"away", func(r *remote) func() { r.proxy.Enable(false); return func() { r.proxy.Enable(true) } }, true},
		{"slow", toxic("bandwidth", "upstream", map[string]any{"rate": 100}), true},
		{"silent", toxic("timeout", "downstream", map[string]any{"timeout": 0}), true},
		{"in slices", func(r *remote) func() {
			toxic("slicer", "upstream", map[string]any{"average_size": 64000, "size_variation": 60000, "delay": 10})(r)
			return nil
		}, false},
		{"resets", toxic("reset_peer", "upstream", map[string]any{"timeout": 20}), true},
		{"breaks after some bytes", toxic("limit_data", "upstream", map[string]any{"bytes": 3 << 20}), true},
		{"storm", func(r *remote) func() {
			f := func(w http.ResponseWriter, req *http.Request, forward http.Handler) bool {
				switch n := rand.IntN(10); {
				case n < 4:
					w.WriteHeader([]int{500, 502, 503, 504, 429}[rand.IntN(5)])
					io.WriteString(w, "<Error><Code>SlowDown</Code><Message>please</Message></Error>")
				case n < 5:
					lost(w, req, forward)
				case n < 6:
					cut(w)
				default:
					return false
				}
				return true
			}
			r.fault.Store(&f)
			return nil
		}, true},
		{"parts fail", faulty(after(1, 5, isPart, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(500) })), true},
		{"answers to parts are lost", faulty(after(0, 3, isPart, lost)), true},
		{"away in the middle of a file", func(r *remote) func() {
			var once sync.Once
			f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
				if isPart(req) && req.URL.Query().Get("partNumber") == "1" {
					once.Do(func() { r.proxy.Enable(false) })
				}
				return false
			}
			r.fault.Store(&f)
			return func() { r.proxy.Enable(true) }
		}, true},
		{"200 with an error", faulty(after(0, 5, isComplete, answer(saysError))), true},
		{"200 with a lie", faulty(after(0, 5, isComplete, answer(saysLie))), true},
		{"answers to the last step are lost", faulty(after(0, 3, isComplete, lost)), false},
		{"lists fail", faulty(after(0, 5, isList, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(503) })), false}, // then each segment is asked for
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRemote(t)
			end := c.begin(r)
			e := r.both(r.push())
			e.unspaced, e.size = true, 30_000
			e.run(14_000).end() // 10 MB: two parts, of which the second is written first
			deadline := time.NewTimer(time.Minute)
			defer deadline.Stop()
			look := time.NewTicker(20 * time.Millisecond)
			defer look.Stop()
			var list []event.RecordFinished
			for len(list) < 3 {
				select {
				case f := <-r.told:
					list = append(list, f)
				case <-look.C:
					if end != nil && r.r.Stats().UploadErrors >= 3 {
						end()
						end = nil
					}
				case <-deadline.C:
					t.Fatalf("files %+v after a minute, stats %+v", list, r.r.Stats())
				}
			}
			if n := r.r.Stats().UploadErrors; c.fails && n == 0 {
				t.Error("nothing has failed")
			}
			r.fault.Store(nil)
			if _, err := r.bucket.Sweep(t.Context(), 24*time.Hour); err != nil { // as the server does it every few minutes
				t.Fatal(err)
			}
			slices.SortFunc(list, func(a, b event.RecordFinished) int { return strings.Compare(a.Format, b.Format) })
			r.whole(list)
		})
	}
}

// F28: a process that is killed when the server has begun an upload and before the
// journal has it, and another one that goes on with the spool: of the upload of which
// nobody knows nothing is left when the files are there.
func TestKilledBeforeUploadIsKnown(t *testing.T) {
	r := newRemote(t)
	killed := make(chan string, 1)
	f := func(w http.ResponseWriter, req *http.Request, forward http.Handler) bool {
		if _, begins := req.URL.Query()["uploads"]; req.Method != http.MethodPost || !begins || !strings.HasSuffix(req.URL.Path, ".mp4") {
			return false
		}
		forward.ServeHTTP(httptest.NewRecorder(), req)
		select {
		case killed <- r.copySpool():
		default:
		}
		<-req.Context().Done() // nothing is done any more by the one that is killed
		return true
	}
	r.fault.Store(&f)
	e := r.both(r.push())
	e.unspaced, e.size = true, 3_000
	e.run(4_000).end()
	dir := <-killed
	r.stop()
	r.fault.Store(nil)
	if uploads, err := r.client.ListMultipartUploads(t.Context(), "weir", "", "", "", "", 1000); err != nil || len(uploads.Uploads) == 0 {
		t.Fatalf("uploads of the one that was killed are %v, %v", uploads.Uploads, err)
	}
	var err error
	if r.bucket, err = storage.OpenS3(storagetest.Bucket(r.addr), hasty); err != nil {
		t.Fatal(err)
	}
	r.opt.Dir = dir
	r.start()
	list := []event.RecordFinished{<-r.told, <-r.told, <-r.told}
	slices.SortFunc(list, func(a, b event.RecordFinished) int { return strings.Compare(a.Format, b.Format) })
	r.whole(list)
}

// F52: a name that somebody takes before the upload begins is his; the file gets
// another one.
func TestNameIsTaken(t *testing.T) {
	r := newRemote(t)
	var once sync.Once
	taken := ""
	f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if key := strings.TrimPrefix(req.URL.Path, "/weir/"); req.Method == http.MethodHead && strings.HasSuffix(key, ".mp4") {
			once.Do(func() {
				taken = key
				if _, err := r.honest.Put(req.Context(), key, strings.NewReader("theirs"), storage.PutOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		return false
	}
	r.fault.Store(&f)
	e := r.both(r.push())
	e.unspaced, e.size = true, 3_000
	e.run(4_000).end()
	list := []event.RecordFinished{<-r.told, <-r.told, <-r.told}
	if got := string(r.get(taken)); got != "theirs" {
		t.Errorf("%s is %.20q, and was somebody's", taken, got)
	}
	if err := r.honest.Delete(t.Context(), taken); err != nil {
		t.Error(err)
	}
	for _, f := range list {
		if f.Format == "mp4" && f.Key != strings.TrimSuffix(taken, ".mp4")+"-1.mp4" {
			t.Errorf("the file is %s", f.Key)
		}
	}
	slices.SortFunc(list, func(a, b event.RecordFinished) int { return strings.Compare(a.Format, b.Format) })
	r.whole(list)
}

// whole checks that the files are what was pushed, and that nothing else is there.
func (r *remote) whole(list []event.RecordFinished) {
	r.t.Helper()
	want := map[string]bool{}
	for i := range list {
		f := &list[i]
		want[f.Key] = true
		got := r.readAny(f)
		r.all(got)
		if got.list != nil {
			for _, s := range got.list.Segments {
				want[path.Join(path.Dir(f.Key), s.URI)] = true
			}
		} else if n := int64(len(r.get(f.Key))); n != f.Size {
			r.t.Errorf("%s has %d bytes, and the fact %d", f.Key, n, f.Size)
		}
	}
	uploads, err := r.client.ListMultipartUploads(r.t.Context(), "weir", "", "", "", "", 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, u := range uploads.Uploads {
		r.t.Errorf("an upload of %s is left", u.Key)
	}
	for o := range r.client.ListObjectsIter(r.t.Context(), "weir", minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			r.t.Fatal(o.Err)
		}
		if !want[o.Key] {
			r.t.Errorf("%s is left", o.Key)
		}
		delete(want, o.Key)
	}
	for key := range want {
		r.t.Errorf("%s is not there", key)
	}
	if n := len(facts[event.RecordFailed](r.world)); n != 0 {
		r.t.Errorf("%d failures", n)
	}
}
