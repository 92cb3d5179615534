package storage

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"weir/internal/durable"
)

// Signer makes URLs by which whoever has one can GET an object through Weir
// until it expires, and Handler answers them. It works for buckets of every
// kind: an S3 bucket's own SignedURL leads to the S3 server, a Signer's URL to
// Weir, which reads the object for the client.
//
// A URL is BASE/BUCKET/TOKEN/KEY. The token has the time it expires, how many
// bytes of the key are signed (0: all of it, and nothing more may follow; -1: of a
// playlist in which all is signed that it names), and
// the HMAC-SHA256 of these, the bucket and those bytes. It stands in the
// path before the key, so that what a playlist names beside itself resolves to
// URLs that are signed too if the playlist's was made by PrefixURL.
type Signer struct {
	base string
	keys atomic.Pointer[[][]byte] // the first signs, all are good
}

// NewSigner returns the Signer whose URLs begin with base, for example
// https://live.example.com/objects. All nodes that serve such URLs have the same
// key, of 16 bytes at least.
func NewSigner(base string, key []byte) (*Signer, error) {
	if len(key) < 16 {
		return nil, fmt.Errorf("the key for signed URLs has %d bytes, and must have 16 at least", len(key))
	}
	s := &Signer{base: strings.TrimSuffix(base, "/")}
	s.keys.Store(&[][]byte{key})
	return s, nil
}

// SetKey makes URLs from now on those of key, of 16 bytes at least; those that
// were made before stay good.
func (s *Signer) SetKey(key []byte) { s.keys.Store(&[][]byte{key, (*s.keys.Load())[0]}) }

// OpenSigner is NewSigner with the key in a file, which it makes if there is none.
func OpenSigner(base, file string) (*Signer, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var key [32]byte
		rand.Read(key[:])
		text = hex.AppendEncode(nil, key[:])
		err = durable.WriteFile(file, append(text, '\n'))
	}
	if err != nil {
		return nil, fmt.Errorf("key for signed URLs: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("key for signed URLs: %s is not hexadecimal: restore it, or remove it to have a new one", file)
	}
	return NewSigner(base, key)
}

// URL returns the URL of one object, good for that long.
func (s *Signer) URL(bucket, key string, valid time.Duration) string {
	return s.url(bucket, key, 0, valid)
}

// PrefixURL returns the URL of an object which, with another key in its place
// that begins with prefix too, gives that object. The key begins with prefix,
// which is not empty.
func (s *Signer) PrefixURL(bucket, prefix, key string, valid time.Duration) (string, error) {
	if prefix == "" || !strings.HasPrefix(key, prefix) {
		return "", fmt.Errorf("%w: %.64q does not begin with %.64q", ErrKey, key, prefix)
	}
	return s.url(bucket, key, len(prefix), valid), nil
}

// PlaylistURL returns the URL of a playlist in which the Handler signs what
// it names, each for itself: who has it gets that and nothing else. The playlist
// names objects relative to itself, below the folder that its own folder is in.
func (s *Signer) PlaylistURL(bucket, key string, valid time.Duration) string {
	return s.url(bucket, key, ofPlaylist, valid)
}

// ofPlaylist stands in the token of a PlaylistURL for the number of bytes.
const ofPlaylist = -1

func (s *Signer) url(bucket, key string, n int, valid time.Duration) string {
	return s.urlUntil(bucket, key, n, time.Now().Add(valid))
}

func (s *Signer) urlUntil(bucket, key string, n int, end time.Time) string {
	expires := end.Unix()
	token := fmt.Sprintf("%d.%d.%s", expires, n, base64.RawURLEncoding.EncodeToString(mac((*s.keys.Load())[0], bucket, key, n, expires)))
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return s.base + "/" + url.PathEscape(bucket) + "/" + token + "/" + strings.Join(parts, "/")
}

func mac(by []byte, bucket, key string, n int, expires int64) []byte {
	if n > 0 {
		key = key[:n]
	}
	h := hmac.New(sha256.New, by)
	b := append([]byte("weir object\x00"), bucket...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	h.Write(append(b, key...))
	return h.Sum(nil)
}

// check reports whether a token is good for a key now, when it expires, and
// whether it is that of a PlaylistURL.
func (s *Signer) check(bucket, token, key string) (end time.Time, playlist, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || CheckKey(key) != nil {
		return time.Time{}, false, false
	}
	expires, err1 := strconv.ParseInt(parts[0], 10, 64)
	n, err2 := strconv.Atoi(parts[1])
	sent, err3 := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err1 != nil || err2 != nil || err3 != nil || n < ofPlaylist || n > len(key) {
		return time.Time{}, false, false
	}
	end = time.Unix(expires, 0)
	good := slices.ContainsFunc(*s.keys.Load(), func(by []byte) bool { return hmac.Equal(sent, mac(by, bucket, key, n, expires)) })
	return end, n == ofPlaylist, good && time.Now().Before(end)
}

// Handler serves the Signer's URLs, from below the path of its base, which has been
// stripped. The function named gives the bucket of a name, or an error. It
// answers GET and HEAD, with ranges and conditions, 403 to a URL that is not or
// no longer signed, whether there is such an object or not, and lets pages of every
// origin read: who has the URL may.
func (s *Signer) Handler(named func(bucket string) (Bucket, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "Content-Length, Content-Range, ETag")
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", "GET, HEAD")
			h.Set("Access-Control-Allow-Headers", "Range, If-Range")
			h.Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
			return
		default:
			h.Set("Allow", "GET, HEAD, OPTIONS")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		bucket, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		token, key, _ := strings.Cut(rest, "/")
		end, playlist, ok := s.check(bucket, token, key)
		if !ok {
			http.Error(w, "this URL is not signed, or no longer: ask for another", http.StatusForbidden)
			return
		}
		b, err := named(bucket)
		if err != nil {
			http.Error(w, "there is no such bucket", http.StatusNotFound)
			return
		}
		if playlist {
			s.servePlaylist(w, r, b, bucket, key, end)
			return
		}
		serve(w, r, b, key, end)
	})
}

// maxPlaylist is the longest playlist in which objects are signed.
const maxPlaylist = 4 << 20

// servePlaylist answers with a playlist whose objects are signed for as long as
// itself.
func (s *Signer) servePlaylist(w http.ResponseWriter, r *http.Request, b Bucket, bucket, key string, end time.Time) {
	body, obj, err := b.Get(r.Context(), key, 0, maxPlaylist)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(body)
		body.Close()
	}
	if err == nil && obj.Size > maxPlaylist {
		err = fmt.Errorf("a playlist of %d bytes", obj.Size)
	}
	switch {
	case errors.Is(err, ErrNotExist):
		http.Error(w, "there is no such object", http.StatusNotFound)
		return
	case err != nil:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the storage does not answer", http.StatusServiceUnavailable)
		return
	}
	var out strings.Builder
	within := path.Dir(path.Dir(key)) + "/"
	for line := range strings.Lines(string(text)) {
		uri := strings.TrimRight(line, "\r\n")
		if uri == "" || uri[0] == '#' {
			out.WriteString(line)
			continue
		}
		k := path.Join(path.Dir(key), uri)
		if uri[0] != '/' && !strings.Contains(uri, ":") && strings.HasPrefix(k, within) && CheckKey(k) == nil {
			out.WriteString(s.urlUntil(bucket, k, 0, end) + "\n")
		} else { // whoever wrote this: not in our name
			out.WriteString(line)
		}
	}
	h := w.Header()
	h.Set("Content-Type", servedType(obj.ContentType))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", max(int(time.Until(end).Seconds()), 0)))
	http.ServeContent(w, r, "", obj.Modified, strings.NewReader(out.String()))
}

// serve answers with the object, which stays in caches no longer than its URL is good.
func serve(w http.ResponseWriter, r *http.Request, b Bucket, key string, end time.Time) {
	obj, err := b.Stat(r.Context(), key)
	if errors.Is(err, ErrNotExist) {
		http.Error(w, "there is no such object", http.StatusNotFound)
		return
	}
	if err != nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the storage does not answer", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", servedType(obj.ContentType))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", obj.CacheControl)
	if obj.CacheControl == "" {
		h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", max(int(time.Until(end).Seconds()), 0)))
	}
	if obj.ETag != "" {
		h.Set("ETag", strconv.Quote(obj.ETag))
	}
	if r.URL.Query().Has("download") {
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(key)}))
	}
	body := &objectReader{ctx: r.Context(), b: b, obj: obj, client: http.NewResponseController(w)}
	defer body.Close()
	http.ServeContent(w, r, "", obj.Modified, body)
}

// servedType is the type that a browser is told: never one that it would run
// scripts of, on a host that the console may be on.
func servedType(t string) string {
	media, _, err := mime.ParseMediaType(t)
	if err != nil {
		return "application/octet-stream"
	}
	kind, sub, _ := strings.Cut(media, "/")
	switch {
	case kind == "video", kind == "audio", kind == "image" && !strings.Contains(sub, "xml"):
		return t
	case media == "text/plain", media == "text/vtt", media == "application/json", media == "application/vnd.apple.mpegurl":
		return t
	}
	return "application/octet-stream"
}

// objectReader is an object as http.ServeContent wants it: a seek costs nothing
// until something is read.
type objectReader struct {
	ctx  context.Context
	b    Bucket
	obj  Object
	off  int64
	body io.ReadCloser

	// A download may take long, but not between two reads: it reads on as the client takes.
	client *http.ResponseController
}

// maxIdle is how long a client may take nothing.
const maxIdle = time.Minute

func (r *objectReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.off
	case io.SeekEnd:
		off += r.obj.Size
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	if off != r.off {
		r.Close()
	}
	r.off = off
	return off, nil
}

func (r *objectReader) Read(p []byte) (int, error) {
	if r.off >= r.obj.Size {
		return 0, io.EOF
	}
	if r.body == nil {
		body, obj, err := r.b.Get(r.ctx, r.obj.Key, r.off, -1)
		if err != nil {
			return 0, err
		}
		if obj.ETag != r.obj.ETag {
			body.Close()
			return 0, errors.New("the object was replaced")
		}
		r.body = body
	}
	n, err := r.body.Read(p)
	r.off += int64(n)
	r.client.SetWriteDeadline(time.Now().Add(maxIdle)) // no error matters: without a deadline it goes on
	return n, err
}

// Close ends the request for the body.
func (r *objectReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
