// Package storagetest is the contract of storage.Bucket as a test, which every
// kind of bucket runs.
package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/storage"
)

// Run holds b to the contract of storage.Bucket. It leaves nothing behind in b.
// Reopen returns the same bucket as another process would see it.
func Run(t *testing.T, b storage.Bucket, reopen func() storage.Bucket) {
	s := suite{b: b, reopen: reopen}
	for _, c := range []struct {
		name string
		test func(*testing.T, suite)
	}{
		{"put and get", putAndGet},
		{"nothing there", nothingThere},
		{"put checks", putChecks},
		{"put fails", putFails},
		{"ranges", ranges},
		{"replace", replace},
		{"odd keys", oddKeys},
		{"bad keys", badKeys},
		{"bad options", badOptions},
		{"list", list},
		{"delete", remove},
		{"if absent", ifAbsent},
		{"concurrency", concurrency},
		{"signed URL", signedURL},
		{"done context", doneContext},
		{"upload", upload},
		{"upload backwards", uploadBackwards},
		{"upload of nothing", uploadNothing},
		{"upload refuses", uploadRefuses},
		{"upload if absent", uploadIfAbsent},
		{"upload resumes", uploadResumes},
		{"upload resumes when complete", uploadResumesComplete},
		{"upload aborted", uploadAborted},
		{"upload by name", uploadByName},
		{"sweep", sweep},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.prefix = "t-" + hexID() + "/"
			t.Cleanup(func() { s.clear(t) })
			c.test(t, s)
		})
	}
}

type suite struct {
	b      storage.Bucket
	reopen func() storage.Bucket
	prefix string
}

func hexID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (s suite) clear(t *testing.T) {
	for {
		objects, err := s.b.List(context.Background(), s.prefix, "", 0)
		if err != nil {
			t.Fatalf("List = %v", err)
		}
		if len(objects) == 0 {
			return
		}
		for _, o := range objects {
			if err := s.b.Delete(context.Background(), o.Key); err != nil {
				t.Fatalf("Delete = %v", err)
			}
		}
	}
}

func (s suite) put(t *testing.T, key, content string, o storage.PutOptions) storage.Object {
	t.Helper()
	obj, err := s.b.Put(t.Context(), s.prefix+key, strings.NewReader(content), o)
	if err != nil {
		t.Fatalf("Put(%q) = %v", key, err)
	}
	return obj
}

func (s suite) get(t *testing.T, key string, off, n int64) string {
	t.Helper()
	body, _, err := s.b.Get(t.Context(), s.prefix+key, off, n)
	if err != nil {
		t.Fatalf("Get(%q, %d, %d) = %v", key, off, n, err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("Get(%q, %d, %d): read: %v", key, off, n, err)
	}
	return string(got)
}

func (s suite) keys(t *testing.T) []string {
	t.Helper()
	objects, err := s.b.List(t.Context(), s.prefix, "", 0)
	if err != nil {
		t.Fatalf("List = %v", err)
	}
	keys := []string{}
	for _, o := range objects {
		keys = append(keys, strings.TrimPrefix(o.Key, s.prefix))
	}
	return keys
}

func sum(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

func putAndGet(t *testing.T, s suite) {
	began := time.Now().Add(-5 * time.Second)
	for _, content := range []string{"", "hello", strings.Repeat("0123456789", 100_000)} {
		o := storage.PutOptions{
			Size: int64(len(content)), SHA256: sum(content), ContentType: "video/mp4", CacheControl: "max-age=60",
			Meta: map[string]string{"stream": "one", "note-2": "a=b;c"},
		}
		stored := s.put(t, "a/object", content, o)
		stat, err := s.b.Stat(t.Context(), s.prefix+"a/object")
		if err != nil {
			t.Fatalf("Stat = %v", err)
		}
		if stored.ETag == "" || stored.ETag != stat.ETag || strings.Contains(stat.ETag, `"`) {
			t.Errorf("ETag is %q from Put, %q from Stat", stored.ETag, stat.ETag)
		}
		body, got, err := s.b.Get(t.Context(), s.prefix+"a/object", 0, -1)
		if err != nil {
			t.Fatalf("Get = %v", err)
		}
		read, err := io.ReadAll(body)
		body.Close()
		if err != nil || string(read) != content {
			t.Errorf("Get = %d bytes, %v, want %d", len(read), err, len(content))
		}
		for from, obj := range map[string]storage.Object{"Put": stored, "Stat": stat, "Get": got} {
			if obj.Key != s.prefix+"a/object" || obj.Size != int64(len(content)) || obj.SHA256 != sum(content) ||
				obj.ContentType != "video/mp4" || obj.CacheControl != "max-age=60" || !cmp.Equal(obj.Meta, o.Meta) || obj.Bucket == "" {
				t.Errorf("%s = %+v, want %d bytes with %+v", from, obj, len(content), o)
			}
			if obj.Modified.Before(began) || obj.Modified.After(time.Now().Add(5*time.Second)) {
				t.Errorf("%s: modified %v", from, obj.Modified)
			}
		}
	}
	// Neither size nor type nor checksum are known before.
	big := strings.Repeat("x", 20<<20)
	obj, err := s.b.Put(t.Context(), s.prefix+"big.ts", io.MultiReader(strings.NewReader(big)), storage.PutOptions{})
	if err != nil || obj.Size != 20<<20 || obj.SHA256 != sum(big) || obj.ContentType != "video/mp2t" {
		t.Errorf("Put of 20 MiB = %+v, %v", obj, err)
	}
	if s.get(t, "big.ts", 0, -1) != big {
		t.Error("Get of 20 MiB differs")
	}
}

func nothingThere(t *testing.T, s suite) {
	s.put(t, "folder/object", "x", storage.PutOptions{})
	for _, key := range []string{"no", "no/no", "folder", "folder/object2", "folder/object/below"} {
		if _, err := s.b.Stat(t.Context(), s.prefix+key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Stat(%q) = %v, want ErrNotExist", key, err)
		}
		if _, _, err := s.b.Get(t.Context(), s.prefix+key, 0, -1); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Get(%q) = %v, want ErrNotExist", key, err)
		}
	}
}

func putChecks(t *testing.T, s suite) {
	for name, o := range map[string]storage.PutOptions{
		"too short":      {Size: 6},
		"too long":       {Size: 4},
		"wrong checksum": {SHA256: sum("other")},
	} {
		if _, err := s.b.Put(t.Context(), s.prefix+"object", strings.NewReader("12345"), o); !errors.Is(err, storage.ErrMismatch) {
			t.Errorf("%s: Put = %v, want ErrMismatch", name, err)
		}
	}
	if keys := s.keys(t); len(keys) > 0 {
		t.Errorf("stored nonetheless: %q", keys)
	}
}

type failing struct{ r io.Reader }

var errBroken = errors.New("the source broke")

func (f failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

// A source that fails leaves nothing, and what was there.
func putFails(t *testing.T, s suite) {
	s.put(t, "old", "old", storage.PutOptions{})
	for _, n := range []int{0, 1, 20 << 20} {
		for _, key := range []string{"old", "new"} {
			body := failing{bytes.NewReader(make([]byte, n))}
			if _, err := s.b.Put(t.Context(), s.prefix+key, body, storage.PutOptions{}); !errors.Is(err, errBroken) {
				t.Errorf("Put of a source that fails after %d = %v", n, err)
			}
		}
	}
	if got := s.get(t, "old", 0, -1); got != "old" {
		t.Errorf("the old object is %.10q", got)
	}
	if keys := s.keys(t); !cmp.Equal(keys, []string{"old"}) {
		t.Errorf("keys are %q", keys)
	}
}

func ranges(t *testing.T, s suite) {
	content := "0123456789"
	s.put(t, "digits", content, storage.PutOptions{})
	s.put(t, "empty", "", storage.PutOptions{})
	for off := int64(0); off < 13; off++ {
		for n := int64(-1); n < 13; n++ {
			want := content[min(off, 10):]
			if n >= 0 {
				want = want[:min(n, int64(len(want)))]
			}
			body, obj, err := s.b.Get(t.Context(), s.prefix+"digits", off, n)
			if err != nil {
				t.Fatalf("Get(%d, %d) = %v", off, n, err)
			}
			got, err := io.ReadAll(body)
			body.Close()
			if err != nil || string(got) != want || obj.Size != 10 {
				t.Errorf("Get(%d, %d) = %q of %d, %v, want %q of 10", off, n, got, obj.Size, err, want)
			}
		}
	}
	for _, c := range [][2]int64{{0, -1}, {0, 5}, {3, -1}, {0, 0}} {
		if got := s.get(t, "empty", c[0], c[1]); got != "" {
			t.Errorf("Get(empty, %v) = %q", c, got)
		}
	}
	if _, _, err := s.b.Get(t.Context(), s.prefix+"digits", -1, 3); err == nil {
		t.Error("Get from -1: no error")
	}
}

func replace(t *testing.T, s suite) {
	first := s.put(t, "object", "first", storage.PutOptions{ContentType: "text/plain", Meta: map[string]string{"a": "1"}})
	body, _, err := s.b.Get(t.Context(), s.prefix+"object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	second := s.put(t, "object", "the second", storage.PutOptions{})
	if first.ETag == second.ETag {
		t.Errorf("both have the ETag %q", first.ETag)
	}
	if second.Meta != nil || second.ContentType != "application/octet-stream" {
		t.Errorf("the second has of the first: %+v", second)
	}
	if got := s.get(t, "object", 0, -1); got != "the second" {
		t.Errorf("Get = %q", got)
	}
	// Who was reading reads on in what he began with.
	if got, err := io.ReadAll(body); err != nil || string(got) != "first" {
		t.Errorf("the reader of the first got %q, %v", got, err)
	}
}

var odd = []string{
	"a b", "a+b", "a%b", "a%2Fb", "%", "a&b=c?d#e", "stream-1585829187-1585829324.m3u8", "直播录像.mp4", "émile", "e\u0301mile",
	"~", "_", "a,b;c", "(x)[y]{z}", "'\"`$!*", "x|y<z>", "😀", ".hidden", "...", "a.", " lead", "trail ", "-rf", "a=b@c:d^",
	strings.Repeat("n", 200), strings.Repeat("n", 201), strings.Repeat("n", 200) + ".", strings.Repeat("n", 200) + "/x",
	strings.Repeat("n", 255) + "-1585829187-1585829324.m3u8", strings.Repeat("n", 255) + "/y/" + strings.Repeat("直", 100),
	strings.Repeat("n", 420) + ".weir-x", strings.Repeat("n", 200) + "-", strings.Repeat("n", 200) + "0",
}

func oddKeys(t *testing.T, s suite) {
	s.prefix += "odd/"
	odd := slices.Clone(odd)
	odd = slices.DeleteFunc(odd, func(k string) bool { return k == strings.Repeat("n", 200) }) // a folder in this list
	odd = slices.DeleteFunc(odd, func(key string) bool {
		_, err := s.b.Put(t.Context(), s.prefix+key, strings.NewReader("content of "+key), storage.PutOptions{})
		long := slices.ContainsFunc(strings.Split(key, "/"), func(p string) bool { return len(p) > 255 })
		if err != nil && !(long && errors.Is(err, storage.ErrKey)) {
			t.Errorf("Put(%q) = %v", key, err)
		}
		return err != nil
	})
	for _, key := range odd {
		if got := s.get(t, key, 0, -1); got != "content of "+key {
			t.Errorf("Get(%q) = %.40q", key, got)
		}
		if obj, err := s.b.Stat(t.Context(), s.prefix+key); err != nil || obj.Key != s.prefix+key {
			t.Errorf("Stat(%q) = %+v, %v", key, obj, err)
		}
	}
	slices.Sort(odd)
	if diff := cmp.Diff(odd, s.keys(t)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for i, key := range odd { // each key is a place to go on from
		objects, err := s.b.List(t.Context(), s.prefix, s.prefix+key, 1)
		if err != nil || i+1 < len(odd) && (len(objects) != 1 || objects[0].Key != s.prefix+odd[i+1]) || i+1 == len(odd) && len(objects) > 0 {
			t.Errorf("List after %q = %v, %v", key, objects, err)
		}
		objects, err = s.b.List(t.Context(), s.prefix+key, "", 0)
		if err != nil || len(objects) < 1 || objects[0].Key != s.prefix+key {
			t.Errorf("List with the prefix %q = %v, %v", key, objects, err)
		}
	}
	for _, key := range odd {
		if err := s.b.Delete(t.Context(), s.prefix+key); err != nil {
			t.Errorf("Delete(%q) = %v", key, err)
		}
	}
	if keys := s.keys(t); len(keys) > 0 {
		t.Errorf("after Delete: %q", keys)
	}
}

// H52: what is no key is refused by every method that takes one.
func badKeys(t *testing.T, s suite) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a/.", ".weir", ".weir/tmp/x", "a/.weir-b", "a/.weir+b/c",
		"a\x00b", "a\nb", "a\x7fb", "a\u0085b", "a\\b", "..\\a", "\xff", "a\xc0\xaf..", strings.Repeat("x", 1025),
	} {
		_, put := s.b.Put(t.Context(), key, strings.NewReader("x"), storage.PutOptions{})
		_, _, get := s.b.Get(t.Context(), key, 0, -1)
		_, stat := s.b.Stat(t.Context(), key)
		_, sign := s.b.SignedURL(t.Context(), key, time.Hour)
		_, up := s.b.Upload(t.Context(), key, storage.PutOptions{})
		for method, err := range map[string]error{"Put": put, "Get": get, "Stat": stat, "Delete": s.b.Delete(t.Context(), key), "SignedURL": sign, "Upload": up} {
			if !errors.Is(err, storage.ErrKey) {
				t.Errorf("%s(%.20q) = %v, want ErrKey", method, key, err)
			}
		}
	}
}

func badOptions(t *testing.T, s suite) {
	for _, o := range []storage.PutOptions{
		{Meta: map[string]string{"Upper": "x"}}, {Meta: map[string]string{"": "x"}}, {Meta: map[string]string{"a": "x\r\ny: z"}},
		{Meta: map[string]string{"a": "é"}}, {Meta: map[string]string{"a": strings.Repeat("x", 2<<10)}}, {ContentType: "a\r\nb"},
		{CacheControl: "a\nb"}, {SHA256: "abc"}, {PartSize: storage.MinPartSize - 1}, {PartSize: 1<<30 + 1},
	} {
		if _, err := s.b.Put(t.Context(), s.prefix+"x", strings.NewReader("x"), o); err == nil {
			t.Errorf("Put with %+v: no error", o)
		}
		if _, err := s.b.Upload(t.Context(), s.prefix+"x", o); err == nil {
			t.Errorf("Upload with %+v: no error", o)
		}
	}
}

func list(t *testing.T, s suite) {
	var want []string
	for i := range 25 {
		for _, f := range []string{"a/%02d", "a-%02d", "a.b/%02d/x", "b/c/%02d", "z%02d"} {
			want = append(want, fmt.Sprintf(f, i))
		}
	}
	for _, i := range mathrand.Perm(len(want)) {
		s.put(t, want[i], want[i], storage.PutOptions{})
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, s.keys(t)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, limit := range []int{1, 7, 124, 125, 126} {
		var got []string
		for after := ""; ; {
			objects, err := s.b.List(t.Context(), s.prefix, after, limit)
			if err != nil || len(objects) > limit {
				t.Fatalf("List(limit %d) = %d objects, %v", limit, len(objects), err)
			}
			for _, o := range objects {
				key := strings.TrimPrefix(o.Key, s.prefix)
				if o.Size != int64(len(key)) || o.ETag == "" || o.Modified.IsZero() {
					t.Errorf("List = %+v", o)
				}
				got = append(got, key)
				after = o.Key
			}
			if len(objects) < limit {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	for _, prefix := range []string{"a", "a/", "a/0", "a.b/2", "b/c/2", "z24", "no", "a/03/x"} {
		for _, after := range []string{"", "a", "a/", "a/1", "a.b/19/x", "b/c/20", "zz"} {
			objects, err := s.b.List(t.Context(), s.prefix+prefix, s.prefix+after, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, expected := []string{}, []string{}
			for _, o := range objects {
				got = append(got, strings.TrimPrefix(o.Key, s.prefix))
			}
			for _, key := range want {
				if strings.HasPrefix(key, prefix) && key > after {
					expected = append(expected, key)
				}
			}
			if diff := cmp.Diff(expected, got); diff != "" {
				t.Errorf("List(%q, %q) (-want +got):\n%s", prefix, after, diff)
			}
		}
	}
}

func remove(t *testing.T, s suite) {
	var keys []string
	for i := range 12 {
		key := fmt.Sprintf("deep/er/%d/object", i)
		s.put(t, key, "x", storage.PutOptions{})
		keys = append(keys, s.prefix+key)
	}
	if err := s.b.Delete(t.Context(), append(keys[1:], s.prefix+"never/was")...); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if got := s.keys(t); !cmp.Equal(got, []string{"deep/er/0/object"}) {
		t.Errorf("left are %q", got)
	}
	if err := s.b.Delete(t.Context(), s.prefix+"deep"); err != nil { // no object
		t.Errorf("Delete = %v", err)
	}
	if err := s.b.Delete(t.Context()); err != nil {
		t.Errorf("Delete of nothing = %v", err)
	}
	if got := s.keys(t); !cmp.Equal(got, []string{"deep/er/0/object"}) {
		t.Errorf("left are %q", got)
	}
	// What was a folder is free to be an object.
	if err := s.b.Delete(t.Context(), keys[0]); err != nil {
		t.Errorf("Delete = %v", err)
	}
	s.put(t, "deep", "x", storage.PutOptions{})
}

// F52: of many who store at once, one does.
func ifAbsent(t *testing.T, s suite) {
	other := s.reopen()
	for round := range 5 {
		key := fmt.Sprintf("object-%d", round)
		const writers = 8
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				b := s.b
				if i%2 == 1 {
					b = other
				}
				content := strings.Repeat(fmt.Sprint(i), 1000)
				_, errs[i] = b.Put(t.Context(), s.prefix+key, strings.NewReader(content), storage.PutOptions{IfAbsent: true, Meta: map[string]string{"writer": fmt.Sprint(i)}})
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("both %d and %d stored it", winner, i)
			case !errors.Is(err, storage.ErrExist):
				t.Errorf("Put = %v, want ErrExist", err)
			}
		}
		if winner < 0 {
			t.Fatal("nobody stored it")
		}
		want := strings.Repeat(fmt.Sprint(winner), 1000)
		if got := s.get(t, key, 0, -1); got != want {
			t.Errorf("Get = %.3q…, want %.3q…", got, want)
		}
		if obj, err := s.b.Stat(t.Context(), s.prefix+key); err != nil || obj.Meta["writer"] != fmt.Sprint(winner) || obj.SHA256 != sum(want) {
			t.Errorf("Stat = %+v, %v, want that of writer %d", obj, err, winner)
		}
	}
}

// Whoever reads while others replace and delete sees a whole object or none.
func concurrency(t *testing.T, s suite) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			content := strings.Repeat(fmt.Sprint(i), 1000*(i+1))
			for range 10 {
				if _, err := s.b.Put(t.Context(), s.prefix+"a/b/object", strings.NewReader(content), storage.PutOptions{}); err != nil {
					t.Errorf("Put = %v", err)
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				body, obj, err := s.b.Get(t.Context(), s.prefix+"a/b/object", 0, -1)
				if errors.Is(err, storage.ErrNotExist) {
					continue
				}
				if err != nil {
					t.Errorf("Get = %v", err)
					return
				}
				got, err := io.ReadAll(body)
				body.Close()
				if err != nil || int64(len(got)) != obj.Size || len(got) == 0 || strings.Trim(string(got), string(got[:1])) != "" {
					t.Errorf("Get = %d bytes of %d, %v", len(got), obj.Size, err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := s.b.Delete(t.Context(), s.prefix+"a/b/object"); err != nil {
				t.Errorf("Delete = %v", err)
			}
		}
	})
	wg.Wait()
}

func signedURL(t *testing.T, s suite) {
	for _, key := range []string{"object.mp4", "a b+c%d/直播?#.mp4"} {
		s.put(t, key, "content", storage.PutOptions{})
		u, err := s.b.SignedURL(t.Context(), s.prefix+key, time.Hour)
		if err != nil {
			t.Fatalf("SignedURL = %v", err)
		}
		for ask, want := range map[string]struct {
			status int
			body   string
		}{"": {200, "content"}, "bytes=1-3": {206, "ont"}, "bytes=-2": {206, "nt"}} {
			status, body, h := fetch(t, u, ask)
			if status != want.status || body != want.body || h.Get("Content-Type") != "video/mp4" {
				t.Errorf("GET %s, range %q = %d %q %q, want %v", key, ask, status, h.Get("Content-Type"), body, want)
			}
		}
		if status, _, _ := fetch(t, strings.Replace(u, "mp4", "mp3", 1), ""); status != http.StatusForbidden {
			t.Errorf("GET of another key with the signature of %s: %d", key, status)
		}
	}
}

func fetch(t *testing.T, u, ranged string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranged != "" {
		r.Header.Set("Range", ranged)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func doneContext(t *testing.T, s suite) {
	s.put(t, "object", "x", storage.PutOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.b.Put(ctx, s.prefix+"other", strings.NewReader("x"), storage.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v", err)
	}
	if _, err := s.b.List(ctx, s.prefix, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("List = %v", err)
	}
	if err := s.b.Delete(ctx, s.prefix+"object"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete = %v", err)
	}
	if keys := s.keys(t); !cmp.Equal(keys, []string{"object"}) {
		t.Errorf("keys are %q", keys)
	}
}

const partSize = storage.MinPartSize

// part is the content of a part, unlike any other.
func part(n, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i>>8 ^ n*37 ^ i)
	}
	return b
}

func (s suite) begin(t *testing.T, key string, o storage.PutOptions) storage.Upload {
	t.Helper()
	o.PartSize = partSize
	u, err := s.b.Upload(t.Context(), s.prefix+key, o)
	if err != nil {
		t.Fatalf("Upload = %v", err)
	}
	return u
}

func write(t *testing.T, u storage.Upload, n, size int) {
	t.Helper()
	if err := u.WritePart(t.Context(), n, part(n, size)); err != nil {
		t.Fatalf("WritePart(%d) = %v", n, err)
	}
}

func complete(t *testing.T, u storage.Upload) storage.Object {
	t.Helper()
	obj, err := u.Complete(t.Context())
	if err != nil {
		t.Fatalf("Complete = %v", err)
	}
	return obj
}

// holds checks that the object has the content of the parts.
func (s suite) holds(t *testing.T, key string, sizes ...int) {
	t.Helper()
	var want []byte
	for i, size := range sizes {
		want = append(want, part(i+1, size)...)
	}
	if got := s.get(t, key, 0, -1); got != string(want) {
		t.Errorf("the object has %d bytes, not the %d of its parts", len(got), len(want))
	}
}

func upload(t *testing.T, s suite) {
	u := s.begin(t, "dir/object.mp4", storage.PutOptions{Meta: map[string]string{"stream": "one"}, CacheControl: "no-cache"})
	if u.PartSize() != partSize {
		t.Errorf("PartSize = %d", u.PartSize())
	}
	var wg sync.WaitGroup
	for n := 1; n <= 3; n++ {
		wg.Go(func() { write(t, u, n, partSize) })
	}
	wg.Wait()
	write(t, u, 4, 1000)
	write(t, u, 2, partSize) // again
	write(t, u, 4, 1234)     // again, and longer
	if keys := s.keys(t); len(keys) > 0 {
		t.Errorf("visible before Complete: %q", keys)
	}
	parts, err := u.Parts(t.Context())
	if want := []storage.Part{{N: 1, Size: partSize}, {N: 2, Size: partSize}, {N: 3, Size: partSize}, {N: 4, Size: 1234}}; err != nil || !cmp.Equal(parts, want) {
		t.Errorf("Parts = %v, %v, want %v", parts, err, want)
	}
	obj := complete(t, u)
	if obj.Key != s.prefix+"dir/object.mp4" || obj.Size != 3*partSize+1234 || obj.ContentType != "video/mp4" || obj.Meta["stream"] != "one" || obj.CacheControl != "no-cache" || obj.ETag == "" {
		t.Errorf("Complete = %+v", obj)
	}
	s.holds(t, "dir/object.mp4", partSize, partSize, partSize, 1234)
	if again := complete(t, u); again.ETag != obj.ETag {
		t.Errorf("Complete again = %+v, want %+v", again, obj)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Errorf("Abort after Complete = %v", err)
	}
	s.holds(t, "dir/object.mp4", partSize, partSize, partSize, 1234)
}

// The first part, which has the index of the others, comes last.
func uploadBackwards(t *testing.T, s suite) {
	s.put(t, "object", "old", storage.PutOptions{})
	u := s.begin(t, "object", storage.PutOptions{})
	write(t, u, 3, 77)
	write(t, u, 2, partSize)
	write(t, u, 1, partSize)
	complete(t, u)
	s.holds(t, "object", partSize, partSize, 77)
}

func uploadNothing(t *testing.T, s suite) {
	u := s.begin(t, "object", storage.PutOptions{})
	write(t, u, 1, 0)
	if obj := complete(t, u); obj.Size != 0 {
		t.Errorf("Complete = %+v", obj)
	}
	s.holds(t, "object", 0)
}

func uploadRefuses(t *testing.T, s suite) {
	for name, sizes := range map[string]map[int]int{
		"no parts":             {},
		"a gap":                {1: partSize, 3: 10},
		"no first part":        {2: partSize},
		"a short part between": {1: partSize - 1, 2: 10},
		"an empty last part":   {1: partSize, 2: 0},
	} {
		u := s.begin(t, "object", storage.PutOptions{})
		for n, size := range sizes {
			write(t, u, n, size)
		}
		if _, err := u.Complete(t.Context()); !errors.Is(err, storage.ErrUpload) {
			t.Errorf("%s: Complete = %v, want ErrUpload", name, err)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Errorf("Abort = %v", err)
		}
	}
	u := s.begin(t, "object", storage.PutOptions{})
	for n, size := range map[int]int{0: 10, -1: 10, storage.MaxParts + 1: 10, 1: partSize + 1} {
		if err := u.WritePart(t.Context(), n, part(n, size)); !errors.Is(err, storage.ErrUpload) {
			t.Errorf("WritePart(%d) of %d bytes = %v, want ErrUpload", n, size, err)
		}
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Errorf("Abort = %v", err)
	}
	if keys := s.keys(t); len(keys) > 0 {
		t.Errorf("stored nonetheless: %q", keys)
	}
	for _, state := range []string{"", "null", "{", "x", `{"key":"../../etc/passwd","id":"00000000000000000000000000000000"}`, `{"key":"a","id":"../../x"}`} {
		if _, err := s.b.Resume(t.Context(), []byte(state)); err == nil {
			t.Errorf("Resume(%q): no error", state)
		}
	}
}

func uploadIfAbsent(t *testing.T, s suite) {
	o := storage.PutOptions{IfAbsent: true}
	first, second := s.begin(t, "object", o), s.begin(t, "object", o)
	write(t, first, 1, 10)
	write(t, second, 1, 20)
	complete(t, second)
	if _, err := first.Complete(t.Context()); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Complete = %v, want ErrExist", err)
	}
	if err := first.Abort(t.Context()); err != nil {
		t.Errorf("Abort = %v", err)
	}
	s.holds(t, "object", 20)
}

// F25, F28: another process goes on.
func uploadResumes(t *testing.T, s suite) {
	u := s.begin(t, "object.ts", storage.PutOptions{Meta: map[string]string{"a": "1"}})
	state := u.State()
	write(t, u, 1, partSize)
	write(t, u, 3, partSize)
	if !bytes.Equal(state, u.State()) {
		t.Error("the state changed")
	}
	other := s.reopen()
	again, err := other.Resume(t.Context(), state)
	if err != nil {
		t.Fatalf("Resume = %v", err)
	}
	if again.PartSize() != partSize || !bytes.Equal(again.State(), state) {
		t.Errorf("Resume: part size %d, state %q", again.PartSize(), again.State())
	}
	parts, err := again.Parts(t.Context())
	if want := []storage.Part{{N: 1, Size: partSize}, {N: 3, Size: partSize}}; err != nil || !cmp.Equal(parts, want) {
		t.Errorf("Parts = %v, %v, want %v", parts, err, want)
	}
	write(t, again, 2, partSize)
	write(t, again, 4, 5)
	obj := complete(t, again)
	if obj.ContentType != "video/mp2t" || obj.Meta["a"] != "1" {
		t.Errorf("Complete = %+v", obj)
	}
	s.holds(t, "object.ts", partSize, partSize, partSize, 5)
}

// A process dies after Complete, before it could write that down.
func uploadResumesComplete(t *testing.T, s suite) {
	u := s.begin(t, "object", storage.PutOptions{IfAbsent: true})
	write(t, u, 1, 50)
	obj := complete(t, u)
	again, err := s.reopen().Resume(t.Context(), u.State())
	if err != nil {
		t.Fatalf("Resume = %v", err)
	}
	if got := complete(t, again); got.ETag != obj.ETag || got.Size != 50 {
		t.Errorf("Complete = %+v, want %+v", got, obj)
	}
	s.holds(t, "object", 50)
}

func uploadAborted(t *testing.T, s suite) {
	u := s.begin(t, "object", storage.PutOptions{})
	write(t, u, 1, 50)
	if err := u.Abort(t.Context()); err != nil {
		t.Fatalf("Abort = %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Errorf("Abort again = %v", err)
	}
	if _, err := s.b.Resume(t.Context(), u.State()); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Resume = %v, want ErrNotExist", err)
	}
	if err := u.WritePart(t.Context(), 1, part(1, 50)); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("WritePart = %v, want ErrNotExist", err)
	}
	if _, err := u.Complete(t.Context()); err == nil {
		t.Error("Complete: no error")
	}
	if keys := s.keys(t); len(keys) > 0 {
		t.Errorf("stored nonetheless: %q", keys)
	}
}

// F28: of a process that dies before it has written down what it has begun nothing is
// left once another begins the same again, be it for another key.
func uploadByName(t *testing.T, s suite) {
	for name, b := range map[string]storage.Bucket{"another process": s.reopen(), "the same process": s.b} {
		named := storage.PutOptions{Name: s.prefix + name, PartSize: partSize}
		first := s.begin(t, "object", named)
		write(t, first, 1, 50)
		others := s.begin(t, "other", storage.PutOptions{Name: s.prefix + "other"})
		again, err := b.Upload(t.Context(), s.prefix+"again", named)
		if err != nil {
			t.Fatalf("%s: Upload = %v", name, err)
		}
		if _, err := s.b.Resume(t.Context(), first.State()); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: Resume = %v, want ErrNotExist", name, err)
		}
		if err := first.WritePart(t.Context(), 1, part(1, 60)); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: WritePart = %v, want ErrNotExist", name, err)
		}
		if again, err = s.b.Resume(t.Context(), again.State()); err != nil {
			t.Fatalf("%s: Resume = %v", name, err)
		}
		write(t, again, 1, 70)
		complete(t, again)
		s.holds(t, "again", 70)
		// One that is complete stays.
		u := s.begin(t, "object", named)
		s.holds(t, "again", 70)
		write(t, others, 1, 80)
		complete(t, others)
		s.holds(t, "other", 80)
		if err := u.Abort(t.Context()); err != nil {
			t.Errorf("Abort = %v", err)
		}
	}
}

// F28: what nobody resumes does not stay for ever.
func sweep(t *testing.T, s suite) {
	u := s.begin(t, "object", storage.PutOptions{})
	write(t, u, 1, 50)
	if _, err := s.b.Sweep(t.Context(), time.Hour); err != nil {
		t.Fatalf("Sweep = %v", err)
	}
	if parts, err := u.Parts(t.Context()); err != nil || len(parts) != 1 {
		t.Errorf("a sweep of what is older than an hour: Parts = %v, %v", parts, err)
	}
	if n, err := s.b.Sweep(t.Context(), -time.Hour); err != nil || n < 1 {
		t.Errorf("a sweep of everything = %d, %v", n, err)
	}
	if _, err := s.b.Resume(t.Context(), u.State()); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Resume = %v, want ErrNotExist", err)
	}
}
