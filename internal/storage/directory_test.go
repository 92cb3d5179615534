package storage_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

// serve serves the URLs of a new Signer, which it returns.
func serve(t *testing.T, named func(string) (storage.Bucket, error)) *storage.Signer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := storage.NewSigner("http://"+ln.Addr().String()+"/objects", []byte("a key of 16 bytes or more"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.StripPrefix("/objects", s.Handler(named))}
	done := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(done)
		server.Serve(ln)
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return s
}

func open(t *testing.T, dir string, s *storage.Signer) *storage.Directory {
	t.Helper()
	d, err := storage.OpenDirectory("recordings", dir, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	var d *storage.Directory
	s := serve(t, func(string) (storage.Bucket, error) { return d, nil })
	d = open(t, dir, s)
	storagetest.Run(t, d, func() storage.Bucket { return open(t, dir, s) })
}

func put(t *testing.T, b storage.Bucket, key, content string, o storage.PutOptions) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, strings.NewReader(content), o); err != nil {
		t.Fatalf("Put(%q) = %v", key, err)
	}
}

// H52: nothing in the folder leads out of it.
func TestDirectoryStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	d := open(t, dir, nil)
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"file": secret, "folder": outside, "up": "..", "etc": "/etc"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"file", "folder/secret", "up/x", "etc/passwd", "pipe"} {
		if body, _, err := d.Get(t.Context(), key, 0, -1); err == nil {
			got, _ := io.ReadAll(body)
			t.Errorf("Get(%q) = %.20q", key, got)
		}
		d.Put(t.Context(), key, strings.NewReader("changed"), storage.PutOptions{})
		d.Delete(t.Context(), key)
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
	if files, _ := os.ReadDir(outside); len(files) != 1 {
		t.Errorf("outside are %v", files)
	}
	if _, err := d.List(t.Context(), "", "", 0); err != nil {
		t.Errorf("List = %v", err)
	}
}

// What is known of an object goes along with a plain copy of the folder, and
// does not stick to a file that was replaced by hand.
func TestDirectoryCopied(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	put(t, d, "record/live/one/one.bin", "content", storage.PutOptions{ContentType: "video/mp4", Meta: map[string]string{"a": "1"}})
	elsewhere := t.TempDir()
	if err := os.CopyFS(elsewhere, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	c := open(t, elsewhere, nil)
	obj, err := c.Stat(t.Context(), "record/live/one/one.bin")
	if err != nil || obj.ContentType != "video/mp4" || obj.Meta["a"] != "1" || obj.SHA256 == "" {
		t.Errorf("Stat of the copy = %+v, %v", obj, err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "record/live/one/one.bin"), []byte("another one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if obj, err := c.Stat(t.Context(), "record/live/one/one.bin"); err != nil || obj.SHA256 != "" || obj.Meta != nil || obj.ContentType != "application/octet-stream" {
		t.Errorf("Stat of a file put there by hand = %+v, %v", obj, err)
	}
}

// A power cut in the middle of a line of an upload's log costs that part alone.
func TestDirectoryTornLog(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	u, err := d.Upload(t.Context(), "object", storage.PutOptions{PartSize: storage.MinPartSize})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if err := u.WritePart(t.Context(), n, make([]byte, storage.MinPartSize)); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(dir, ".weir/uploads/*/parts"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	text, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	for cut := range text {
		if err := os.WriteFile(logs[0], text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := d.Resume(t.Context(), u.State())
		if err != nil {
			t.Fatalf("Resume after %d bytes = %v", cut, err)
		}
		whole := strings.Count(string(text[:cut]), "\n")
		if parts, err := again.Parts(t.Context()); err != nil || len(parts) != whole {
			t.Errorf("after %d bytes: Parts = %v, %v, want %d", cut, parts, err, whole)
		}
		if err := again.WritePart(t.Context(), 3, []byte("x")); err != nil {
			t.Fatal(err)
		}
		third, err := d.Resume(t.Context(), u.State())
		if err != nil {
			t.Fatal(err)
		}
		if parts, err := third.Parts(t.Context()); err != nil || len(parts) != whole+1 || parts[whole] != (storage.Part{N: 3, Size: 1}) {
			t.Errorf("after %d bytes and one part more: Parts = %v, %v", cut, parts, err)
		}
	}
}

// A full disk is an error that says so and leaves nothing.
func TestDirectoryFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("needs to mount a file system: %v, %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	d, err := storage.OpenDirectory("small", dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	put(t, d, "object", "old", storage.PutOptions{})
	big := strings.Repeat("x", 8<<20)
	for range 3 { // the room that the first attempt took is free again
		if _, err := d.Put(t.Context(), "object", strings.NewReader(big), storage.PutOptions{}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Put = %v, want %v", err, syscall.ENOSPC)
		}
	}
	put(t, d, "another", big[:2<<20], storage.PutOptions{})
	if obj, err := d.Stat(t.Context(), "object"); err != nil || obj.Size != 3 {
		t.Errorf("Stat = %+v, %v", obj, err)
	}
}

func TestSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, t.TempDir(), nil)
		for _, key := range []string{"r/a-1.m3u8", "r/a-1/0.ts", "r/a-10.m3u8", "r/page.html"} {
			put(t, d, key, "0123456789", storage.PutOptions{})
		}
		put(t, d, "r/x.html", "<script>", storage.PutOptions{ContentType: "text/html"})
		put(t, d, "r/forever.jpg", "x", storage.PutOptions{CacheControl: "public, max-age=9"})
		s, err := storage.NewSigner("http://host/o", []byte("0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		h := http.StripPrefix("/o", s.Handler(func(name string) (storage.Bucket, error) {
			if name != "recordings" {
				return nil, storage.ErrNotExist
			}
			return d, nil
		}))
		do := func(method, u string, header ...string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, u, nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		one := s.URL("recordings", "r/a-1.m3u8", time.Hour)
		prefixed, err := s.PrefixURL("recordings", "r/a-1", "r/a-1.m3u8", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.PrefixURL("recordings", "q", "r/a-1.m3u8", time.Hour); err == nil {
			t.Error("PrefixURL of a key without the prefix: no error")
		}
		for _, c := range []struct {
			method, url string
			status      int
		}{
			{"GET", one, 200},
			{"HEAD", one, 200},
			{"POST", one, 405},
			{"OPTIONS", one, 204},
			{"GET", one + "?x=y", 200},
			{"GET", strings.Replace(one, "a-1.m3u8", "a-1/0.ts", 1), 403},
			{"GET", one + "x", 403},
			{"GET", strings.Replace(one, "recordings", "others", 1), 403},
			{"GET", prefixed, 200},
			{"GET", strings.Replace(prefixed, "a-1.m3u8", "a-1/0.ts", 1), 200},
			{"GET", strings.Replace(prefixed, "a-1.m3u8", "a-10.m3u8", 1), 200}, // which is why a prefix ends in something
			{"GET", strings.Replace(prefixed, "a-1.m3u8", "page.html", 1), 403},
			{"GET", strings.Replace(prefixed, "a-1.m3u8", "a-1/../x.html", 1), 403},
			{"GET", s.URL("recordings", "r/none", time.Hour), 404},
			{"GET", s.URL("none", "r/none", time.Hour), 404},
			{"GET", "http://host/o/", 403},
			{"GET", "http://host/o/recordings/1.2/x", 403},
			{"GET", "http://host/o/recordings/99999999999.0./r/a-1.m3u8", 403},
			{"GET", "http://host/o/recordings/99999999999.-1.AAAA/r/a-1.m3u8", 403},
			{"GET", "http://host/o/recordings/99999999999.100.AAAA/r/a-1.m3u8", 403},
		} {
			if w := do(c.method, c.url); w.Code != c.status {
				t.Errorf("%s %s = %d, want %d", c.method, c.url, w.Code, c.status)
			}
		}
		w := do("GET", one)
		for name, want := range map[string]string{
			"Content-Type": "application/vnd.apple.mpegurl", "Cache-Control": "private, max-age=3600", "Content-Length": "10",
			"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if w := do("GET", one, "Range", "bytes=2-4"); w.Code != 206 || w.Body.String() != "234" || w.Header().Get("Content-Range") != "bytes 2-4/10" {
			t.Errorf("range: %d %q %v", w.Code, w.Body, w.Header())
		}
		if w := do("GET", one, "Range", "bytes=10-"); w.Code != 416 {
			t.Errorf("range beyond the end: %d", w.Code)
		}
		if w := do("GET", one, "If-None-Match", w.Header().Get("ETag")); w.Code != 304 {
			t.Errorf("the same ETag: %d", w.Code)
		}
		if w := do("HEAD", one); w.Body.Len() != 0 || w.Header().Get("Content-Length") != "10" {
			t.Errorf("HEAD: %q %v", w.Body, w.Header())
		}
		if w := do("GET", s.URL("recordings", "r/x.html", time.Hour)); w.Header().Get("Content-Type") != "application/octet-stream" {
			t.Errorf("HTML is served as %q", w.Header().Get("Content-Type"))
		}
		if w := do("GET", s.URL("recordings", "r/forever.jpg", time.Hour)); w.Header().Get("Cache-Control") != "public, max-age=9" {
			t.Errorf("Cache-Control is %q", w.Header().Get("Cache-Control"))
		}
		if w := do("GET", one+"?download"); w.Header().Get("Content-Disposition") != "attachment; filename=a-1.m3u8" {
			t.Errorf("Content-Disposition is %q", w.Header().Get("Content-Disposition"))
		}
		time.Sleep(time.Hour - time.Second)
		if w := do("GET", one); w.Code != 200 {
			t.Errorf("a second before its end: %d", w.Code)
		}
		time.Sleep(time.Second)
		if w := do("GET", one); w.Code != 403 {
			t.Errorf("at its end: %d", w.Code)
		}
	})
}

func TestOpenSigner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	one, err := storage.OpenSigner("/o", file)
	if err != nil {
		t.Fatal(err)
	}
	two, err := storage.OpenSigner("/o", file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	d := open(t, t.TempDir(), nil)
	put(t, d, "a", "x", storage.PutOptions{})
	w := httptest.NewRecorder()
	h := http.StripPrefix("/o", two.Handler(func(string) (storage.Bucket, error) { return d, nil }))
	h.ServeHTTP(w, httptest.NewRequest("GET", one.URL("recordings", "a", time.Hour), nil))
	if w.Code != 200 {
		t.Errorf("the URL of another process: %d", w.Code)
	}
	if err := os.WriteFile(file, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.OpenSigner("/o", file); err == nil || strings.Contains(err.Error(), "no key") {
		t.Errorf("OpenSigner of a broken file = %v", err)
	}
}

// FuzzKey: a key that is accepted has a file of its own inside the folder, and List tells
// the key of it again.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"a", "a/b", "../a", "a//b", ".weir/x", strings.Repeat("n", 255) + "-1.m3u8", strings.Repeat("n", 201), "a/.weir+b/+c", "%2e%2e/", strings.Repeat("n", 400) + "..", "a\\b"} {
		f.Add(key)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, key string) {
		d, err := storage.OpenDirectory("fuzz", filepath.Join(dir, "inside"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		_, err = d.Put(t.Context(), key, strings.NewReader(key), storage.PutOptions{})
		if storage.CheckKey(key) != nil {
			if !errors.Is(err, storage.ErrKey) {
				t.Errorf("Put(%q) = %v", key, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("Put(%q) = %v", key, err)
		}
		list, err := d.List(t.Context(), "", "", 0)
		if err != nil || len(list) != 1 || list[0].Key != key {
			t.Errorf("List after Put(%q) = %v, %v", key, list, err)
		}
		if err := d.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(filepath.Join(dir, "inside")); err != nil || len(files) != 1 {
			t.Errorf("left after Delete(%q): %v, %v", key, files, err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("outside: %v, %v", files, err)
		}
	})
}

// FuzzHandler: no URL that was not signed is answered with an object.
func FuzzHandler(f *testing.F) {
	dir := f.TempDir()
	d, err := storage.OpenDirectory("recordings", dir, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { d.Close() })
	if _, err := d.Put(f.Context(), "a/b", strings.NewReader("x"), storage.PutOptions{}); err != nil {
		f.Fatal(err)
	}
	s, err := storage.NewSigner("", []byte("0123456789abcdef"))
	if err != nil {
		f.Fatal(err)
	}
	h := s.Handler(func(string) (storage.Bucket, error) { return d, nil })
	good := s.URL("recordings", "a/b", 1000*time.Hour)
	for _, u := range []string{good, "/recordings/9999999999.0.AAAA/a/b", "/recordings/9999999999.-1./a/b", "/recordings//a/b", "//", "/../a/b", "/recordings/9999999999.3.AA==/a/b"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == 200 && path != good && "/"+strings.TrimLeft(path, "/") != good {
			t.Errorf("%q is answered", path)
		}
	})
}

// FuzzState: no state of an upload leads anywhere.
func FuzzState(f *testing.F) {
	dir := f.TempDir()
	d, err := storage.OpenDirectory("recordings", filepath.Join(dir, "inside"), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { d.Close() })
	u, err := d.Upload(f.Context(), "a", storage.PutOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(u.State())
	f.Add([]byte(`{"key":"../x","id":"../../x"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, state []byte) {
		u, err := d.Resume(t.Context(), state)
		if err != nil {
			return
		}
		if parts, err := u.Parts(t.Context()); err != nil || len(parts) != 0 {
			t.Errorf("Parts of %q = %v, %v", state, parts, err)
		}
	})
}

// A process that is killed while it stores leaves a file, which the next sweep
// removes, young as it is; that of a process that lives stays.
func TestDirectorySweepsTheKilled(t *testing.T) {
	if dir := os.Getenv("WEIR_TEST_PUT"); dir != "" {
		d, err := storage.OpenDirectory("recordings", dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, w := io.Pipe()
		go func() { // ends with the process
			w.Write([]byte("half an object"))
			fmt.Println("stored half")
		}()
		d.Put(t.Context(), "object", body, storage.PutOptions{})
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDirectorySweepsTheKilled$")
	cmd.Env = append(os.Environ(), "WEIR_TEST_PUT="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if steps := bufio.NewScanner(out); !steps.Scan() || steps.Text() != "stored half" {
		t.Errorf("it says %q", steps.Text())
	}
	cmd.Process.Kill()
	cmd.Wait()

	d := open(t, dir, nil)
	body, w := io.Pipe()
	stored := make(chan error, 1)
	go func() { // ends with w
		_, err := d.Put(t.Context(), "other", body, storage.PutOptions{})
		stored <- err
	}()
	if _, err := io.WriteString(w, "whole"); err != nil {
		t.Fatal(err)
	}
	if n, err := open(t, dir, nil).Sweep(t.Context(), 24*time.Hour); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v, want 1: that of the one that was killed", n, err)
	}
	w.Close()
	if err := <-stored; err != nil {
		t.Errorf("Put = %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".weir", "tmp", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left are %q, %v", left, err)
	}
}
