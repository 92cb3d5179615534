package storage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

// impatient is an S3 bucket that gives up soon.
func impatient(t *testing.T, addr string, o storage.S3Options) *storage.S3 {
	t.Helper()
	if o.Wait == 0 {
		o.Wait = time.Millisecond
	}
	return openS3(t, storagetest.Bucket(addr), o)
}

// checkClean checks by another client, at the server itself, that no upload in parts is left and
// that nothing is there but the objects.
func checkClean(t *testing.T, addr string, objects map[string][]byte) {
	t.Helper()
	c := storagetest.Client(t, addr)
	r, err := c.ListMultipartUploads(t.Context(), "weir", "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range r.Uploads {
		t.Errorf("an upload of %s is left", u.Key)
	}
	for info := range c.ListObjectsIter(t.Context(), "weir", minio.ListObjectsOptions{Recursive: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		want, ok := objects[info.Key]
		if !ok {
			t.Errorf("%s is left", info.Key)
			continue
		}
		body, _, _, err := c.GetObject(t.Context(), "weir", info.Key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		body.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v, not the %d it must have", info.Key, len(got), err, len(want))
		}
		delete(objects, info.Key)
	}
	for key := range objects {
		t.Errorf("%s is not there", key)
	}
}

func content(seed, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// deny fails where a call must fail because the server is not to be had, and not for another reason.
func deny(t *testing.T, doing string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s succeeded", doing)
	}
	for _, e := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrRefused, storage.ErrMismatch, storage.ErrUpload} {
		if errors.Is(err, e) {
			t.Errorf("%s = %v, which says more than that the server is away", doing, err)
		}
	}
}

const mib5 = storage.MinPartSize

// F25: the server goes away in the middle of an upload and comes back; also
// another process goes on, and no part is sent twice.
func TestS3Away(t *testing.T) {
	addr := storagetest.S3(t)
	var sent sync.Map
	counted := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if n := r.URL.Query().Get("partNumber"); n != "" {
			count, _ := sent.LoadOrStore(n, new(atomic.Int32))
			count.(*atomic.Int32).Add(1)
		}
		return false
	})
	p := storagetest.NewToxiproxy(t, counted)
	b := impatient(t, p.Addr, storage.S3Options{Attempts: 2})
	data := content(1, 4*mib5+1000)
	u, err := b.Upload(t.Context(), "object", storage.PutOptions{PartSize: mib5, IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func(u storage.Upload, n int) error {
		return u.WritePart(t.Context(), n, data[(n-1)*mib5:min(n*mib5, len(data))])
	}
	for n := 2; n <= 3; n++ {
		if err := write(u, n); err != nil {
			t.Fatal(err)
		}
	}
	p.Enable(false)
	deny(t, "WritePart", write(u, 4))
	_, err = b.Put(t.Context(), "other", bytes.NewReader(data[:100]), storage.PutOptions{})
	deny(t, "Put", err)
	_, err = b.Stat(t.Context(), "object")
	deny(t, "Stat", err)
	_, err = u.Complete(t.Context())
	if !errors.Is(err, storage.ErrUpload) { // part 1 is missing, whether the server is there or not
		t.Errorf("Complete = %v", err)
	}
	restarted := impatient(t, p.Addr, storage.S3Options{Attempts: 2})
	_, err = restarted.Resume(t.Context(), u.State())
	deny(t, "Resume", err)
	p.Enable(true)
	u, err = restarted.Resume(t.Context(), u.State())
	if err != nil {
		t.Fatal(err)
	}
	there := map[int]bool{}
	parts, err := u.Parts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		there[part.N] = true
	}
	for n := 5; n >= 1; n-- {
		if !there[n] {
			if err := write(u, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Enable(false)
	_, err = u.Complete(t.Context())
	deny(t, "Complete", err)
	p.Enable(true)
	if _, err := u.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkClean(t, addr, map[string][]byte{"object": data})
	for n := range 5 {
		if count, ok := sent.Load(fmt.Sprint(n + 1)); !ok || count.(*atomic.Int32).Load() != 1 {
			t.Errorf("part %d was sent %v times", n+1, count)
		}
	}
}

// F26: too slow, and silent.
func TestS3Slow(t *testing.T) {
	addr := storagetest.S3(t)
	p := storagetest.NewToxiproxy(t, addr)
	data := content(2, mib5)
	b := impatient(t, p.Addr, storage.S3Options{Attempts: 2, Stall: 500 * time.Millisecond, MinRate: 20 << 20})
	put := func() error {
		_, err := b.Put(t.Context(), "object", bytes.NewReader(data), storage.PutOptions{})
		return err
	}
	heal := p.Toxic("bandwidth", "upstream", map[string]any{"rate": 100}) // kB a second
	began := time.Now()
	deny(t, "Put at 100 kB/s", put())
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to find out", took)
	}
	heal()
	for _, stream := range []string{"upstream", "downstream"} {
		heal = p.Toxic("timeout", stream, map[string]any{"timeout": 0}) // nothing comes through
		began = time.Now()
		deny(t, "Put into silence", put())
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v to find out", took)
		}
		heal()
	}
	heal = p.Toxic("slicer", "upstream", map[string]any{"average_size": 2000, "size_variation": 1500, "delay": 10})
	patient := impatient(t, p.Addr, storage.S3Options{})
	if _, err := patient.Put(t.Context(), "object", bytes.NewReader(data), storage.PutOptions{}); err != nil {
		t.Errorf("Put in slices = %v", err)
	}
	// A body that is read stalls too, and its reader is told.
	heal()
	body, _, err := b.Get(t.Context(), "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	heal = p.Toxic("timeout", "downstream", map[string]any{"timeout": 0})
	_, err = io.Copy(io.Discard, body)
	deny(t, "reading from silence", err)
	heal()
	checkClean(t, addr, map[string][]byte{"object": data})
}

// Connections that break after some bytes, in both directions.
func TestS3Resets(t *testing.T) {
	addr := storagetest.S3(t)
	p := storagetest.NewToxiproxy(t, addr)
	b := impatient(t, p.Addr, storage.S3Options{Attempts: 2})
	objects := map[string][]byte{}
	heal := p.Toxic("limit_data", "upstream", map[string]any{"bytes": 7 << 20}) // a connection does for a part, hardly for two
	data := content(3, 3*mib5+5)
	for i := range 2 {
		key := fmt.Sprintf("up-%d", i)
		for tries := 0; ; tries++ {
			_, err := b.Put(t.Context(), key, bytes.NewReader(data), storage.PutOptions{PartSize: mib5})
			if err == nil {
				break
			}
			if tries == 10 {
				t.Fatalf("Put = %v", err)
			}
		}
		objects[key] = data
	}
	heal()
	heal = p.Toxic("limit_data", "downstream", map[string]any{"bytes": 4 << 20})
	body, _, err := b.Get(t.Context(), "up-0", 3, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body) // goes on by itself where it was
	body.Close()
	if err != nil || !bytes.Equal(got, data[3:]) {
		t.Errorf("Get = %d bytes, %v, want %d", len(got), err, len(data)-3)
	}
	heal()
	heal = p.Toxic("reset_peer", "downstream", map[string]any{"timeout": 0})
	_, err = b.Put(t.Context(), "never", strings.NewReader("x"), storage.PutOptions{})
	deny(t, "Put", err)
	heal()
	// Whatever an attempt left, a sweep takes.
	if _, err := b.Sweep(t.Context(), -time.Hour); err != nil {
		t.Fatal(err)
	}
	objects["never"] = []byte("x") // its answer was lost, perhaps, not the object
	if _, err := b.Stat(t.Context(), "never"); err != nil {
		delete(objects, "never")
	}
	checkClean(t, addr, objects)
}

// Storms of errors, answers that are lost after the deed was done, and parts
// that fail: what was acknowledged is there and whole, and nothing else.
func TestS3Storm(t *testing.T) {
	addr := storagetest.S3(t)
	var storm atomic.Bool
	proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
		if !storm.Load() {
			return false
		}
		switch n := rand.IntN(10); {
		case n < 2:
			w.WriteHeader([]int{500, 502, 503, 504, 429}[rand.IntN(5)])
			io.WriteString(w, "<Error><Code>SlowDown</Code><Message>please</Message></Error>")
		case n < 3: // done, but nobody hears of it
			forward.ServeHTTP(httptest.NewRecorder(), r)
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
		case n < 4: // not even read
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
		default:
			return false
		}
		return true
	})
	b := impatient(t, proxied, storage.S3Options{Attempts: 3})
	storm.Store(true)
	var mu sync.Mutex
	objects := map[string][]byte{}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 4 {
				key, data := fmt.Sprintf("w%d/%d", worker, i), content(100+10*worker+i, 1000)
				if i == 3 {
					data = content(200+worker, mib5+100)
				}
				ok := false
				for range 20 {
					_, err := b.Put(t.Context(), key, bytes.NewReader(data), storage.PutOptions{PartSize: mib5, IfAbsent: true})
					if ok = err == nil; ok {
						break
					}
					if errors.Is(err, storage.ErrExist) { // an earlier try, of which nobody heard
						ok = true
						break
					}
				}
				if !ok {
					t.Errorf("%s could not be stored", key)
				}
				mu.Lock()
				objects[key] = data
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	storm.Store(false)
	if _, err := b.Sweep(t.Context(), -time.Hour); err != nil {
		t.Fatal(err)
	}
	checkClean(t, addr, objects)
}

// H98: an answer of 200 to Complete that carries an error, or lies.
func TestS3CompleteLies(t *testing.T) {
	addr := storagetest.S3(t)
	const failed = `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>we encountered one</Message></Error>`
	const lie = `<?xml version="1.0"?><CompleteMultipartUploadResult><Bucket>weir</Bucket><Key>object</Key><ETag>"x-1"</ETag></CompleteMultipartUploadResult>`
	for _, c := range []struct {
		name, answer string
		times        int32
		ok           bool
	}{
		{"an error once", failed, 1, true},
		{"an error always", failed, 1 << 30, false},
		{"a lie", lie, 1 << 30, false},
		{"nothing", "", 1 << 30, false},
	} {
		left := atomic.Int32{}
		left.Store(c.times)
		proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") || left.Add(-1) < 0 {
				return false
			}
			io.WriteString(w, c.answer)
			return true
		})
		b := impatient(t, proxied, storage.S3Options{Attempts: 2})
		u, err := b.Upload(t.Context(), "object", storage.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.WritePart(t.Context(), 1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, err = u.Complete(t.Context())
		if (err == nil) != c.ok {
			t.Errorf("%s: Complete = %v", c.name, err)
		}
		left.Store(0)
		if err != nil { // the parts are still there: it can be tried again
			if _, err := u.Complete(t.Context()); err != nil {
				t.Errorf("%s: Complete again = %v", c.name, err)
			}
		}
		checkClean(t, addr, map[string][]byte{"object": []byte("hello")})
		if err := b.Delete(t.Context(), "object"); err != nil {
			t.Fatal(err)
		}
	}
}

// The answer to Complete is lost; the second time there is no upload any more.
func TestS3CompleteLost(t *testing.T) {
	addr := storagetest.S3(t)
	for _, ifAbsent := range []bool{false, true} {
		var once sync.Once
		proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, forward http.Handler) (lost bool) {
			if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
				once.Do(func() {
					forward.ServeHTTP(httptest.NewRecorder(), r)
					w.WriteHeader(http.StatusGatewayTimeout)
					lost = true
				})
			}
			return lost
		})
		b := impatient(t, proxied, storage.S3Options{})
		u, err := b.Upload(t.Context(), "object", storage.PutOptions{IfAbsent: ifAbsent})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.WritePart(t.Context(), 1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Complete(t.Context()); err != nil {
			t.Errorf("Complete = %v", err)
		}
		checkClean(t, addr, map[string][]byte{"object": []byte("hello")})
		if err := b.Delete(t.Context(), "object"); err != nil {
			t.Fatal(err)
		}
	}
}

// The answer to the last step is lost, and whether the object is there cannot be
// learnt for a while: nobody says meanwhile that it is another's, or that there is
// nothing, for whoever believes that begins again under another name.
func TestS3CompleteUnknown(t *testing.T) {
	addr := storagetest.S3(t)
	var lose, away atomic.Bool
	proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
		switch {
		case (r.Method == http.MethodPost && r.URL.Query().Has("uploadId") || r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/small")) && lose.CompareAndSwap(true, false):
			forward.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusGatewayTimeout)
			away.Store(true)
			return true
		case r.Method == http.MethodHead && away.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	b := impatient(t, proxied, storage.S3Options{})
	unknown := func(doing string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrExist) || errors.Is(err, storage.ErrUpload) {
			t.Errorf("%s, not knowing what is there: %v", doing, err)
		}
	}
	u, err := b.Upload(t.Context(), "object", storage.PutOptions{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.WritePart(t.Context(), 1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	lose.Store(true)
	_, err = u.Complete(t.Context())
	unknown("Complete", err)
	_, err = b.Resume(t.Context(), u.State())
	unknown("Resume", err)
	away.Store(false)
	if u, err = b.Resume(t.Context(), u.State()); err != nil {
		t.Fatal(err)
	}
	if obj, err := u.Complete(t.Context()); err != nil || obj.Size != 5 {
		t.Errorf("Complete = %+v, %v", obj, err)
	}
	lose.Store(true)
	_, err = b.Put(t.Context(), "small", strings.NewReader("small"), storage.PutOptions{IfAbsent: true})
	unknown("Put", err)
	away.Store(false)
	checkClean(t, addr, map[string][]byte{"object": []byte("hello"), "small": []byte("small")})
}

// H98: what is stored is not what was sent.
func TestS3WrongChecksum(t *testing.T) {
	addr := storagetest.S3(t)
	proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPut {
			return false
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`) // that of nothing
		return true
	})
	b := impatient(t, proxied, storage.S3Options{Attempts: 2})
	if _, err := b.Put(t.Context(), "object", strings.NewReader("hello"), storage.PutOptions{}); !errors.Is(err, storage.ErrMismatch) {
		t.Errorf("Put = %v, want ErrMismatch", err)
	}
	// A middleman that changes a byte is found out by the server.
	changed := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
		if r.Method == http.MethodPut {
			body, _ := io.ReadAll(r.Body)
			if len(body) > 0 {
				body[0]++
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		return false
	})
	b = impatient(t, changed, storage.S3Options{Attempts: 2})
	if _, err := b.Put(t.Context(), "object", strings.NewReader("hello"), storage.PutOptions{}); err == nil {
		t.Error("Put of changed bytes succeeded")
	}
	checkClean(t, addr, map[string][]byte{})
}

// A server without conditional writes gets the look alone.
func TestS3WithoutConditions(t *testing.T) {
	addr := storagetest.S3(t)
	proxied := storagetest.Middleman(t, addr, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Header.Get("If-None-Match") == "" {
			return false
		}
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNotImplemented)
		io.WriteString(w, "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented</Message></Error>")
		return true
	})
	b := impatient(t, proxied, storage.S3Options{})
	o := storage.PutOptions{IfAbsent: true}
	if _, err := b.Put(t.Context(), "object", strings.NewReader("hello"), o); err != nil {
		t.Errorf("Put = %v", err)
	}
	if _, err := b.Put(t.Context(), "object", strings.NewReader("again"), o); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Put again = %v, want ErrExist", err)
	}
	if _, err := b.Upload(t.Context(), "object", o); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Upload = %v, want ErrExist", err)
	}
	checkClean(t, addr, map[string][]byte{"object": []byte("hello")})
}

// Wrong settings are not a server that is away.
func TestS3Refused(t *testing.T) {
	addr := storagetest.S3(t)
	for name, change := range map[string]func(s *string, bucket *string){
		"key":    func(s, _ *string) { *s = "nobody" },
		"bucket": func(_, b *string) { *b = "none" },
	} {
		p := storagetest.Bucket(addr)
		change(&p.AccessKey, &p.Bucket)
		b := openS3(t, p, storage.S3Options{Wait: time.Millisecond})
		if _, err := b.Put(t.Context(), "object", strings.NewReader("x"), storage.PutOptions{}); !errors.Is(err, storage.ErrRefused) {
			t.Errorf("wrong %s: Put = %v, want ErrRefused", name, err)
		}
		if _, err := b.List(t.Context(), "", "", 0); !errors.Is(err, storage.ErrRefused) {
			t.Errorf("wrong %s: List = %v, want ErrRefused", name, err)
		}
	}
}

// Uploads of others are none of our business.
func TestS3SweepOfOthers(t *testing.T) {
	addr := storagetest.S3(t)
	c := storagetest.Client(t, addr)
	id, err := c.NewMultipartUpload(t.Context(), "weir", "theirs", minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := impatient(t, addr, storage.S3Options{})
	if _, err := b.Upload(t.Context(), "ours", storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Sweep(t.Context(), -time.Hour); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v, want 1", n, err)
	}
	if err := c.AbortMultipartUpload(t.Context(), "weir", "theirs", id); err != nil {
		t.Errorf("that of the others is gone: %v", err)
	}
	checkClean(t, addr, map[string][]byte{})
}

// F28: a process that is killed at any moment of its uploads, the first two times after
// it has begun one and before that is written down; the next one goes on with what
// is.
func TestS3Killed(t *testing.T) {
	if os.Getenv("WEIR_TEST_UPLOAD") != "" {
		uploadForKill(t)
		return
	}
	addr := storagetest.S3(t)
	state := t.TempDir() + "/state"
	data := content(9, 6*mib5+9)
	finished := false
	for kill := 0; !finished; kill++ {
		if kill == 40 {
			t.Fatal("it is not finished after 40 processes")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestS3Killed$")
		cmd.Env = append(os.Environ(), "WEIR_TEST_UPLOAD="+addr, "WEIR_TEST_STATE="+state)
		if kill < 2 {
			cmd.Env = append(cmd.Env, "WEIR_TEST_FORGET=1")
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		steps := bufio.NewScanner(out)
		for left := 2 + rand.IntN(3); left > 0 && steps.Scan(); left-- {
			finished = finished || steps.Text() == "finished"
			if kill < 2 && steps.Text() == "begun" { // it waits for its end there
				break
			}
		}
		if kill < 8 { // then it may go on to the end
			cmd.Process.Kill()
		}
		for steps.Scan() {
			finished = finished || steps.Text() == "finished"
		}
		cmd.Wait()
	}
	checkClean(t, addr, map[string][]byte{"object": data})
}

// uploadForKill is the process that is killed.
func uploadForKill(t *testing.T) {
	ctx, data := context.Background(), content(9, 6*mib5+9)
	b := impatient(t, os.Getenv("WEIR_TEST_UPLOAD"), storage.S3Options{})
	path := os.Getenv("WEIR_TEST_STATE")
	state, err := os.ReadFile(path)
	var u storage.Upload
	if err == nil {
		u, err = b.Resume(ctx, state)
	} else {
		fmt.Println("beginning")
		if u, err = b.Upload(ctx, "object", storage.PutOptions{PartSize: mib5, IfAbsent: true, Name: "killed"}); err == nil {
			fmt.Println("begun")
			if os.Getenv("WEIR_TEST_FORGET") != "" {
				select {} // until it is killed
			}
			if err = os.WriteFile(path+".new", u.State(), 0o600); err == nil {
				err = os.Rename(path+".new", path)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	there := map[int]bool{}
	parts, err := u.Parts(ctx)
	for _, p := range parts {
		there[p.N] = true
	}
	for n := 1; n <= 7 && err == nil; n++ {
		if !there[n] {
			fmt.Println("part", n)
			err = u.WritePart(ctx, n, data[(n-1)*mib5:min(n*mib5, len(data))])
		}
	}
	fmt.Println("completing")
	if err == nil {
		_, err = u.Complete(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("finished")
}
