// Package storage keeps objects: recordings, snapshots, and whatever else a
// stream leaves behind.
//
// A Bucket is a flat set of objects, each with a key and never changed once it
// is there, only replaced whole. It is a directory or a bucket of an S3 server, and
// who uses one cannot tell which: storagetest.Run holds both to the same
// contract. An object is there when Put or Complete has returned, and then it
// survives a power cut; before that, nobody sees any of it.
//
// A short object is Put. A long one, whose bytes come while a stream lives or
// whose beginning is known last, is an Upload: numbered parts in any order,
// which survive the process that wrote them.
package storage

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors that callers tell apart, by errors.Is. Any other error means that the
// bucket could not be reached or could not do it now, and that the same call
// may well succeed later.
var (
	ErrNotExist = errors.New("no such object")
	ErrExist    = errors.New("the object exists already")
	ErrKey      = errors.New("not a key")                                     // see CheckKey
	ErrMismatch = errors.New("what arrived is not what was to be stored")     // size or checksum
	ErrRefused  = errors.New("the storage refuses; its settings are wrong")   // credentials, no such bucket, no permission
	ErrUpload   = errors.New("the parts of the upload do not make an object") // a gap, a part of a wrong size
)

// Bucket is a set of objects. All methods are safe for concurrent use and
// return soon after ctx is done; a method that failed with anything but a
// done ctx has already tried a few times where that made sense.
//
// Keys are those that CheckKey accepts. A key must not be the folder of another
// key: where there is "a/b" there can be no "a". An S3 server that keeps files
// may refuse parts of a key that are longer than 255 bytes, with ErrKey.
type Bucket interface {
	// Put stores an object, in place of one that has the key, unless
	// IfAbsent. It reads body to its end, once. When it fails there is no
	// object, or still the old one.
	Put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error)

	// Get returns n bytes of the object from off on, to its end if n is
	// negative or there are fewer; from the end or beyond it there are none.
	// The caller closes the body. Its Read fails when ctx is done.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Object, error)

	// Stat describes an object, or fails with ErrNotExist.
	Stat(ctx context.Context, key string) (Object, error)

	// List returns up to limit objects (1000 if limit is not positive) whose
	// keys begin with prefix and come after the key after, in the order of their
	// bytes. Only Key, Size, ETag and Modified are set.
	// When there are fewer than limit, there are no more.
	List(ctx context.Context, prefix, after string, limit int) ([]Object, error)

	// Delete removes objects. It is no error when one does not exist.
	Delete(ctx context.Context, keys ...string) error

	// SignedURL returns a URL by which whoever has it can GET the object for
	// that long, without it being public.
	SignedURL(ctx context.Context, key string, valid time.Duration) (string, error)

	// Upload begins an object that is stored in parts. It becomes visible by
	// Complete.
	Upload(ctx context.Context, key string, o PutOptions) (Upload, error)

	// Resume returns the Upload that had this State, in this process or
	// another. When it was completed, its Complete returns the object that
	// is there. ErrNotExist says that it was aborted or is too old.
	Resume(ctx context.Context, state []byte) (Upload, error)

	// Sweep removes what is left of writers that died: uploads of ours which
	// were begun longer than age ago, and temporary files, of any age where one can
	// see that nobody writes them. It says how many.
	Sweep(ctx context.Context, age time.Duration) (int, error)
}

// Upload is an object that is being stored in parts. Its methods are safe for
// concurrent use.
type Upload interface {
	// State is what Resume needs, the same from the beginning on; it holds no
	// secrets.
	State() []byte

	// PartSize is the size of every part but the one with the highest number,
	// which may be shorter and must not be empty unless it is the only one.
	PartSize() int

	// WritePart stores part n, 1 to MaxParts, in place of one that was
	// written before. It is durable when WritePart has returned. Parts can be
	// written in any order. The data is the caller's again afterwards.
	WritePart(ctx context.Context, n int, data []byte) error

	// Parts returns the parts that are stored, in order.
	Parts(ctx context.Context) ([]Part, error)

	// Complete makes the object of the parts, which must be 1 to the highest
	// without a gap, and verifies that it is there with the size and the
	// checksum that it must have. It can be called again when it failed. The
	// object's SHA256 is empty unless PutOptions had it.
	Complete(ctx context.Context) (Object, error)

	// Abort gives the upload up and frees what it holds. After Complete it
	// does nothing.
	Abort(ctx context.Context) error
}

// Part is a stored part of an Upload.
type Part struct {
	N    int
	Size int64
}

// Limits of an Upload, which are those of S3.
const (
	MaxParts    = 10000
	MinPartSize = 5 << 20 // of every part but the last
)

// DefaultPartSize makes objects of up to 156 GiB of MaxParts, or a recording of 6 hours at 60 Mbit/s.
const DefaultPartSize = 16 << 20

// PutOptions is how an object is stored. The zero value is a good one.
type PutOptions struct {
	Size         int64             // if positive, the body must have so many bytes, or Put fails with ErrMismatch
	SHA256       string            // in hex; if set, the object must have it, or Put fails with ErrMismatch; of an Upload it is noted only
	ContentType  string            // if empty, ContentType(key)
	CacheControl string            // for who gets the object by a signed URL
	Meta         map[string]string // names of a-z, 0-9 and -, values of visible ASCII; together at most 2 KiB
	IfAbsent     bool              // fail with ErrExist when the key is taken, also if it is taken in the meantime
	PartSize     int               // of an Upload; DefaultPartSize if 0, at least MinPartSize

	// Name is that of an Upload, or of a Put in parts, which nobody else uses in the
	// bucket. One that was begun under the name before, and is not complete, is
	// aborted, also when its process died before it could write State down.
	Name string
}

// Object describes an object.
type Object struct {
	Key          string
	Size         int64
	ETag         string // differs when the content does; without quotes
	SHA256       string // in hex, empty where it is not known
	Modified     time.Time
	ContentType  string
	CacheControl string
	Meta         map[string]string // nil if there is none
	Bucket       string            // the name of the bucket that has it

	mark string // of the upload or write that made it
}

// metaUpload is the meta value by which an upload knows its object again. Nobody else sees it.
const metaUpload = "weir-upload"

const (
	maxKey  = 1024 // bytes, as S3 has it
	maxMeta = 2 << 10
)

// CheckKey returns an error that is ErrKey unless key is 1 to 1024 bytes of
// UTF-8 without control characters and backslashes, made of parts between
// slashes of which none is empty, ".", ".." or begins with ".weir".
func CheckKey(key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("%w: it has %d bytes, and must have 1 to %d", ErrKey, len(key), maxKey)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: %.64q is not UTF-8", ErrKey, key)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r >= 0x7F && r < 0xA0 || r == '\\' || r == 0xFFFE || r == 0xFFFF }):
		return fmt.Errorf("%w: %.64q has control characters", ErrKey, key)
	}
	for p := range strings.SplitSeq(key, "/") {
		if p == "" || p == "." || p == ".." || strings.HasPrefix(p, reserved) {
			return fmt.Errorf("%w: %.64q has the part %.64q", ErrKey, key, p)
		}
	}
	return nil
}

// check returns o with defaults, or what is wrong with it.
func (o PutOptions) check(key string) (PutOptions, error) {
	if err := CheckKey(key); err != nil {
		return o, err
	}
	o.ContentType = cmp.Or(o.ContentType, ContentType(key))
	o.PartSize = cmp.Or(o.PartSize, DefaultPartSize)
	if o.PartSize < MinPartSize || o.PartSize > 1<<30 {
		return o, fmt.Errorf("part size %d is not %d to %d", o.PartSize, MinPartSize, 1<<30)
	}
	size := 0
	for name, value := range o.Meta {
		size += len(name) + len(value)
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || !visible(value) || value == "" {
			return o, fmt.Errorf("meta %.64q is not a name and a value of visible ASCII", name)
		}
	}
	if size > maxMeta {
		return o, fmt.Errorf("meta has %d bytes, more than %d", size, maxMeta)
	}
	if !visible(strings.ReplaceAll(o.ContentType+o.CacheControl, " ", "")) {
		return o, errors.New("content type or cache control has characters that are not visible ASCII")
	}
	if b, err := hex.DecodeString(o.SHA256); o.SHA256 != "" && (err != nil || len(b) != 32) {
		return o, fmt.Errorf("%.64q is not a SHA-256 in hex", o.SHA256)
	}
	return o, nil
}

func visible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// contentTypes is by extension, so that it does not depend on the machine.
var contentTypes = map[string]string{
	".m3u8": "application/vnd.apple.mpegurl",
	".ts":   "video/mp2t",
	".mp4":  "video/mp4",
	".m4s":  "video/iso.segment",
	".flv":  "video/x-flv",
	".jpg":  "image/jpeg",
	".png":  "image/png",
	".webp": "image/webp",
	".json": "application/json",
	".txt":  "text/plain; charset=utf-8",
	".vtt":  "text/vtt",
}

// ContentType returns the type that a key's extension stands for.
func ContentType(key string) string {
	if t := contentTypes[strings.ToLower(path.Ext(key))]; t != "" {
		return t
	}
	return "application/octet-stream"
}

// nameID returns the ID that stands for the Name of an upload; "" for none.
func nameID(name string) string {
	if name == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// isID reports whether text can be what newID or nameID has returned.
func isID(text string) bool {
	return len(text) == 32 && strings.Trim(text, "0123456789abcdef") == ""
}

// newID returns a name that nobody else has.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// contextReader makes a body's Read fail once its context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
