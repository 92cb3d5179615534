package storage

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"weir/internal/policy"
)

// S3 is a Bucket of an S3 server: Amazon's or another that speaks its
// protocol.
//
// What is sent carries its MD5 and its SHA-256, so that the server refuses what
// arrived damaged, and what the server says that it has stored is compared
// with what was sent. An object's SHA-256 is kept in its meta; of an Upload and
// of what Put had to store in parts it is not known.
//
// IfAbsent is a look whether the key is taken and then a conditional write (If-None-Match: *).
// Where the server says that it has no conditional writes, the look is all
// there is, and two who store at the same time may both succeed, one after
// the other.
type S3 struct {
	name   string
	bucket string // at the server
	prefix string
	core   minio.Core
	o      S3Options

	unconditional atomic.Bool // the server has no conditional writes
	opaque        atomic.Bool // ETags are not MD5s: the server encrypts with keys of its own

	mu      sync.Mutex
	orphans map[string]bool   // marks of uploads that failed in a way that may have left something
	live    map[string]string // ids of uploads that are in use in this process, and their notes
	noted   map[string]string // notes of which there is no upload, and their keys
}

// S3Options says how patient an S3 bucket is. The zero value has good defaults.
type S3Options struct {
	// Stall is how long a request may make no progress, 30 s if 0.
	Stall time.Duration

	// MinRate is how many bytes a second a request must move on the whole, 32 KiB if 0.
	MinRate int

	// Attempts is how often a request is made before its error is returned, 4
	// if 0. The time between them is Wait, 250 ms if 0, and doubles each time, up to 20 times that.
	Attempts int
	Wait     time.Duration

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // of tests
}

const (
	metaSHA256   = "weir-sha256"
	maxPresigned = 7 * 24 * time.Hour
	markFolder   = folder + "/uploads/" // of the keys, where uploads are noted for Sweep

	maxErrorBody = 64 << 10
	maxListBody  = 8 << 20
)

// OpenS3 returns the Bucket that b describes. It does not ask the server.
func OpenS3(b policy.Bucket, o S3Options) (*S3, error) {
	u, err := url.Parse(string(b.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: endpoint is not a URL", b.Name)
	}
	o.Stall, o.MinRate, o.Attempts, o.Wait = or(o.Stall, 30*time.Second), or(o.MinRate, 32<<10), or(o.Attempts, 4), or(o.Wait, 250*time.Millisecond)
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: policy.GuardDial(b.AllowNetworks)}
	if o.dial == nil {
		o.dial = dialer.DialContext
	}
	transport := &http.Transport{
		DialContext:         o.dial,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression:  true,
	}
	s := &S3{name: b.Name, bucket: b.RemoteName(), prefix: b.Prefix, o: o}
	region := b.Region
	if region == "" && !strings.HasSuffix(u.Hostname(), ".amazonaws.com") && !strings.HasSuffix(u.Hostname(), ".amazonaws.com.cn") {
		region = "us-east-1" // what servers without regions expect
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:        bucketCredentials(b),
		Secure:       u.Scheme == "https",
		Transport:    &limited{transport, s},
		Region:       region,
		BucketLookup: map[policy.BucketStyle]minio.BucketLookupType{policy.BucketStylePath: minio.BucketLookupPath, policy.BucketStyleVirtualHost: minio.BucketLookupDNS}[b.Style],
		MaxRetries:   1, // the attempts are ours, each with its own deadline
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %s", b.Name, short(err.Error()))
	}
	client.SetAppInfo("weir", "1")
	s.core = minio.Core{Client: client}
	return s, nil
}

func or[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

func bucketCredentials(b policy.Bucket) *credentials.Credentials {
	switch b.Credentials {
	case policy.BucketEnvironment:
		return credentials.NewEnvAWS()
	case policy.BucketRole:
		return credentials.New(&credentials.IAM{Client: &http.Client{Timeout: 10 * time.Second}})
	}
	return credentials.NewStaticV4(b.AccessKey, b.SecretKey.Reveal(), "")
}

// limited is a RoundTripper that bounds what the server can make us read into memory: errors, lists
// and other XML. It notes what the answers tell of the server.
type limited struct {
	http.RoundTripper
	s *S3
}

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(resp.Header.Get("X-Amz-Server-Side-Encryption"), "aws:kms") || resp.Header.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "" {
		l.s.opaque.Store(true)
	}
	switch {
	case resp.StatusCode >= 300:
		resp.Body = &limitedBody{io.LimitReader(resp.Body, maxErrorBody), resp.Body}
	case r.Method != http.MethodGet || r.URL.RawQuery != "" && r.Header.Get("Range") == "":
		resp.Body = &limitedBody{io.LimitReader(resp.Body, maxListBody), resp.Body}
	}
	return resp, nil
}

type limitedBody struct {
	io.Reader
	io.Closer
}

// key returns the object's name at the server.
func (s *S3) key(key string) string { return s.prefix + key }

// object describes what the server says of an object.
func (s *S3) object(key string, info minio.ObjectInfo) Object {
	o := Object{
		Key: key, Size: info.Size, ETag: info.ETag, Modified: info.LastModified, Bucket: s.name,
		ContentType: info.ContentType, CacheControl: info.Metadata.Get("Cache-Control"),
	}
	for name, value := range info.UserMetadata {
		switch name = strings.ToLower(name); name {
		case metaSHA256:
			o.SHA256 = value
		case metaUpload:
			o.mark = value
		default:
			if o.Meta == nil {
				o.Meta = map[string]string{}
			}
			o.Meta[name] = value
		}
	}
	return o
}

// attempt is one try of a request: its context ends when nothing moves, when
// it takes too long for its size, and with the caller's.
type attempt struct {
	context.Context
	stop  context.CancelCauseFunc
	stall *time.Timer
	s     *S3
}

var (
	errStall = errors.New("the server does not answer")
	errSlow  = errors.New("the transfer is too slow")
)

// attempt begins one that moves size bytes; if negative, it may take as long as it likes.
func (s *S3) attempt(ctx context.Context, size int64) *attempt {
	ctx, stop := context.WithCancelCause(ctx)
	if size >= 0 {
		limit := 2*s.o.Stall + time.Duration(float64(size)/float64(s.o.MinRate)*float64(time.Second))
		slow := time.AfterFunc(limit, func() { stop(errSlow) })
		context.AfterFunc(ctx, func() { slow.Stop() })
	}
	return &attempt{ctx, stop, time.AfterFunc(s.o.Stall, func() { stop(errStall) }), s}
}

// moved notes progress.
func (a *attempt) moved() { a.stall.Reset(a.s.o.Stall) }

// end frees what the attempt holds; err, if it comes of the attempt's own end,
// becomes the reason.
func (a *attempt) end(err error) error {
	a.stall.Stop()
	if cause := context.Cause(a.Context); err != nil && cause != nil {
		err = cause
	}
	a.stop(nil)
	return err
}

// try makes a request that moves size bytes, up to Attempts times as long as
// it may succeed the next time.
func (s *S3) try(ctx context.Context, size int64, request func(*attempt) error) error {
	wait := s.o.Wait
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		a := s.attempt(ctx, size)
		err := a.end(request(a))
		if err == nil || ctx.Err() != nil {
			if err != nil {
				err = ctx.Err()
			}
			return err
		}
		err, again := classify(err)
		if !again || n >= s.o.Attempts {
			return err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, 20*s.o.Wait)
	}
}

// classify returns what an error of the server or of the way to it means, in
// short, and whether the same request may succeed later.
func classify(err error) (_ error, again bool) {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		for _, known := range []error{ErrNotExist, ErrExist, ErrUpload, ErrRefused, ErrKey} {
			if errors.Is(err, known) {
				return err, false
			}
		}
		if errors.Is(err, ErrMismatch) || errors.Is(err, errStall) || errors.Is(err, errSlow) {
			return err, true
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL
		}
		if errors.Is(err, policy.ErrPrivate) {
			return fmt.Errorf("%w: %w", ErrRefused, policy.ErrPrivate), false
		}
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return fmt.Errorf("%w: its certificate is not trusted", ErrRefused), false
		}
		return errors.New(short(err.Error())), true
	}
	kind := error(nil)
	switch r.Code {
	case minio.NoSuchKey, minio.NoSuchUpload, "NotFound":
		kind = ErrNotExist
	case minio.PreconditionFailed:
		kind = ErrExist
	case "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody":
		return fmt.Errorf("%w: %s", ErrMismatch, s3Text(r)), true
	case "InvalidPart", "InvalidPartOrder", "EntityTooSmall", "EntityTooLarge":
		kind = ErrUpload
	case "KeyTooLongError", "InvalidObjectName", "XMinioInvalidObjectName":
		kind = ErrKey
	case "ExistingObjectIsDirectory", "ObjectParentIsFile": // or a Delete takes the folders away just now
		return fmt.Errorf("%w: %s", ErrKey, s3Text(r)), true
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout":
		return errors.New(s3Text(r)), true
	case minio.NoSuchBucket, minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidBucketName", "ExpiredToken", "InvalidToken":
		kind = ErrRefused
	default:
		switch {
		case r.StatusCode >= 500 && r.StatusCode != http.StatusNotImplemented, r.StatusCode == http.StatusTooManyRequests, r.StatusCode == http.StatusRequestTimeout, r.StatusCode < 300:
			return errors.New(s3Text(r)), true
		case r.StatusCode == http.StatusPreconditionFailed:
			kind = ErrExist
		case r.StatusCode < 400, r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusNotFound:
			kind = ErrRefused // a redirect, which is not followed; no such user; no S3 server
		}
	}
	if kind == nil {
		return errors.New(s3Text(r)), false
	}
	return fmt.Errorf("%w: %s", kind, s3Text(r)), false
}

// s3Text is what the server said, in short.
func s3Text(r minio.ErrorResponse) string {
	return fmt.Sprintf("the server says %d %s: %s", r.StatusCode, short(r.Code), short(r.Message))
}

// short returns a text of somebody else as something for a line of a log.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 160 {
		s = strings.ToValidUTF8(s[:160], "") + "…"
	}
	return s
}

func (s *S3) wrap(doing, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s in bucket %s: %w", doing, key, s.name, err)
}

// Stat implements Bucket.
func (s *S3) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	o, err := s.stat(ctx, key)
	return o, s.wrap("look up", key, err)
}

func (s *S3) stat(ctx context.Context, key string) (o Object, err error) {
	err = s.try(ctx, 0, func(a *attempt) error {
		info, err := s.core.StatObject(a, s.bucket, s.key(key), minio.StatObjectOptions{})
		o = s.object(key, info)
		return err
	})
	return o, err
}

// ours reports whether the object of that key is there and has the mark. An error
// means that this is not known.
func (s *S3) ours(ctx context.Context, key, mark string) (Object, bool, error) {
	obj, err := s.stat(ctx, key)
	if errors.Is(err, ErrNotExist) {
		return Object{}, false, nil
	}
	return obj, err == nil && obj.mark == mark, err
}

// Put implements Bucket. It holds up to PartSize bytes in memory; what is
// longer is stored in parts.
func (s *S3) Put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error) {
	o, err := o.check(key)
	if err != nil {
		return Object{}, err
	}
	obj, err := s.put(ctx, key, contextReader{ctx, body}, o)
	return obj, s.wrap("store", key, err)
}

func (s *S3) put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error) {
	var buf bytes.Buffer
	if o.Size > 0 {
		buf.Grow(int(min(o.Size, int64(o.PartSize))) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(body, int64(o.PartSize)))
	if err != nil {
		return Object{}, err
	}
	if n == int64(o.PartSize) {
		var next [1]byte
		m, err := io.ReadFull(body, next[:])
		if err != nil && err != io.EOF {
			return Object{}, err
		}
		if m > 0 {
			return s.putParts(ctx, key, buf.Bytes(), io.MultiReader(bytes.NewReader(next[:]), body), o)
		}
	}
	sum := sha256.Sum256(buf.Bytes())
	if err := o.fits(n, sum[:]); err != nil {
		return Object{}, err
	}
	return s.putOne(ctx, key, buf.Bytes(), sum, o)
}

// fits checks what arrived against what was announced.
func (o *PutOptions) fits(size int64, sum []byte) error {
	if o.Size > 0 && size != o.Size {
		return fmt.Errorf("%w: %d bytes, not %d", ErrMismatch, size, o.Size)
	}
	if got := hex.EncodeToString(sum); o.SHA256 != "" && !strings.EqualFold(o.SHA256, got) {
		return fmt.Errorf("%w: its SHA-256 is %s, not %s", ErrMismatch, got, o.SHA256)
	}
	return nil
}

// putOptions are the headers of an object.
func (s *S3) putOptions(o PutOptions, mark, sha string) minio.PutObjectOptions {
	meta := map[string]string{metaUpload: mark}
	for name, value := range o.Meta {
		meta[name] = value
	}
	if sha != "" {
		meta[metaSHA256] = strings.ToLower(sha)
	}
	return minio.PutObjectOptions{ContentType: o.ContentType, CacheControl: o.CacheControl, UserMetadata: meta}
}

// conditional adds the condition of IfAbsent.
func (s *S3) conditional(o *minio.PutObjectOptions, ifAbsent bool) {
	if ifAbsent && !s.unconditional.Load() {
		o.SetMatchETagExcept("*")
	}
}

// hasNoConditions says whether err is that of a server without conditional
// writes, which it notes.
func (s *S3) hasNoConditions(err error, ifAbsent bool) bool {
	var r minio.ErrorResponse
	if !ifAbsent || s.unconditional.Load() || !errors.As(err, &r) {
		return false
	}
	if r.StatusCode == http.StatusNotImplemented || r.Code == "NotImplemented" ||
		r.Code == minio.InvalidArgument && strings.Contains(strings.ToLower(r.Message), "none-match") {
		s.unconditional.Store(true)
		return true
	}
	return false
}

// errCondition makes the request again, without the condition.
var errCondition = errors.New("the server has no conditional writes")

// absent fails with ErrExist if the key is taken.
func (s *S3) absent(ctx context.Context, key string) error {
	switch _, err := s.stat(ctx, key); {
	case err == nil:
		return ErrExist
	case !errors.Is(err, ErrNotExist):
		return err
	}
	return nil
}

// putOne stores an object by one request.
func (s *S3) putOne(ctx context.Context, key string, data []byte, sum [32]byte, o PutOptions) (obj Object, err error) {
	if o.IfAbsent {
		if err := s.absent(ctx, key); err != nil {
			return Object{}, err
		}
	}
	mark, sha := newID(), hex.EncodeToString(sum[:])
	tag := md5.Sum(data)
	var etag string
	err = s.try(ctx, int64(len(data)), func(a *attempt) error {
		options := s.putOptions(o, mark, sha)
		s.conditional(&options, o.IfAbsent)
		info, err := s.core.PutObject(a, s.bucket, s.key(key), a.body(data), int64(len(data)), base64.StdEncoding.EncodeToString(tag[:]), sha, options)
		if s.hasNoConditions(err, o.IfAbsent) {
			return errCondition
		}
		etag = info.ETag
		if err == nil {
			err = s.checkETag(etag, tag)
		}
		return err
	})
	if errors.Is(err, ErrExist) {
		// Perhaps it is this one: its first answer was lost on the way.
		switch obj, ours, e := s.ours(ctx, key, mark); {
		case e != nil:
			return Object{}, e
		case ours:
			return obj, nil
		}
	}
	if err != nil {
		return Object{}, err
	}
	return Object{
		Key: key, Size: int64(len(data)), ETag: etag, SHA256: sha, Modified: time.Now(), ContentType: o.ContentType,
		CacheControl: o.CacheControl, Meta: o.Meta, Bucket: s.name, mark: mark,
	}, nil
}

// body returns the reader of what an attempt sends.
func (a *attempt) body(data []byte) io.Reader { return &sent{bytes.NewReader(data), a} }

type sent struct {
	*bytes.Reader
	a *attempt
}

func (s *sent) Read(p []byte) (int, error) {
	s.a.moved()
	return s.Reader.Read(p[:min(len(p), 64<<10)])
}

// WriteTo is hidden: it would be progress once for all.
func (s *sent) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{s})
}

// checkETag compares the tag of what the server has with the MD5 of what was sent.
func (s *S3) checkETag(etag string, sum [16]byte) error {
	if etag == "" {
		return fmt.Errorf("%w: the server does not say that it has it", ErrMismatch)
	}
	if b, err := hex.DecodeString(etag); err == nil && len(b) == 16 && !s.opaque.Load() && !bytes.Equal(b, sum[:]) {
		return fmt.Errorf("%w: the server has the MD5 %s, not %x", ErrMismatch, etag, sum)
	}
	return nil
}

// putParts stores what is longer than a part, of which it has the first and reads the others.
func (s *S3) putParts(ctx context.Context, key string, first []byte, body io.Reader, o PutOptions) (Object, error) {
	up, err := s.begin(ctx, key, o)
	if err != nil {
		return Object{}, err
	}
	obj, err := s.fill(ctx, up, first, body, o)
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Stall)
		defer cancel()
		up.Abort(clean) // what it cannot remove is left to Sweep
		return Object{}, err
	}
	return obj, nil
}

func (s *S3) fill(ctx context.Context, up *s3Upload, data []byte, body io.Reader, o PutOptions) (Object, error) {
	sum := sha256.New()
	size := int64(0)
	for n := 1; len(data) > 0; n++ {
		sum.Write(data)
		size += int64(len(data))
		if err := up.WritePart(ctx, n, data); err != nil {
			return Object{}, err
		}
		m, err := io.ReadFull(body, data[:o.PartSize])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return Object{}, err
		}
		data = data[:m]
	}
	if err := o.fits(size, sum.Sum(nil)); err != nil {
		return Object{}, err
	}
	obj, err := up.Complete(ctx)
	obj.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return obj, err
}

// Get implements Bucket. A body that breaks off goes on by itself where it
// was, if the object is still the same.
func (s *S3) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, Object{}, err
	}
	b := &s3Body{ctx: ctx, s: s, key: key, off: off, n: n}
	obj, err := b.open()
	if err != nil {
		return nil, Object{}, s.wrap("read", key, err)
	}
	return b, obj, nil
}

// s3Body reads an object, by as many requests as it takes.
type s3Body struct {
	ctx    context.Context
	s      *S3
	key    string
	off, n int64 // what is still to be read; n < 0: to the end
	etag   string

	a     *attempt
	body  io.ReadCloser
	fails int
}

func (b *s3Body) open() (obj Object, err error) {
	if b.off < 0 {
		return obj, fmt.Errorf("offset %d", b.off)
	}
	if b.n == 0 || b.off > 0 && b.etag == "" {
		// A range that has nothing in it is an error to S3, not to us.
		if obj, err = b.s.stat(b.ctx, b.key); err != nil {
			return obj, err
		}
		if b.n == 0 || b.off >= obj.Size {
			b.n = 0
			return obj, nil
		}
		b.etag = obj.ETag
	}
	err = b.s.try(b.ctx, 0, func(*attempt) error {
		// The attempt that lives as long as the body is another.
		a := b.s.attempt(b.ctx, -1)
		var o minio.GetObjectOptions
		if b.off > 0 || b.n > 0 {
			end := int64(0)
			if b.n > 0 {
				end = b.off + b.n - 1
			}
			if b.off == 0 {
				o.Set("Range", "bytes=0-"+strconv.FormatInt(end, 10))
			} else if err := o.SetRange(b.off, end); err != nil {
				return err
			}
		}
		if b.etag != "" {
			if err := o.SetMatchETag(b.etag); err != nil {
				return err
			}
		}
		body, info, h, err := b.s.core.GetObject(a, b.s.bucket, b.s.key(b.key), o)
		var r minio.ErrorResponse
		if errors.As(err, &r) && r.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			// Only 0-n of an empty object comes here.
			a.end(nil)
			obj, err = b.s.stat(b.ctx, b.key)
			b.n = 0
			return err
		}
		if errors.As(err, &r) && r.StatusCode == http.StatusPreconditionFailed {
			err = errReplaced
		}
		if err != nil {
			return a.end(err)
		}
		// A body has all the time in the world as long as it moves and somebody reads.
		a.stall.Stop()
		b.a, b.body = a, body
		obj = b.s.object(b.key, info)
		if total, ok := totalOf(h.Get("Content-Range")); ok {
			obj.Size = total
		}
		left := max(obj.Size-b.off, 0)
		if b.n < 0 || b.n > left {
			b.n = left
		}
		b.etag = obj.ETag
		return nil
	})
	return obj, err
}

var errReplaced = errors.New("the object was replaced while it was read")

// totalOf returns the size of which a Content-Range is a part.
func totalOf(s string) (int64, bool) {
	_, total, ok := strings.Cut(s, "/")
	n, err := strconv.ParseInt(total, 10, 64)
	return n, ok && err == nil && n >= 0
}

func (b *s3Body) Read(p []byte) (int, error) {
	for {
		if b.n == 0 {
			return 0, io.EOF
		}
		if err := b.ctx.Err(); err != nil {
			return 0, err
		}
		if b.body == nil {
			if _, err := b.open(); err != nil {
				return 0, b.s.wrap("read", b.key, err)
			}
			continue
		}
		b.a.moved() // the time that counts is that in here
		n, err := b.body.Read(p[:min(int64(len(p)), b.n)])
		b.a.stall.Stop()
		b.off, b.n = b.off+int64(n), b.n-int64(n)
		if n > 0 {
			b.fails = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		err = b.a.end(err)
		b.body.Close()
		b.body = nil
		if b.fails++; b.fails >= b.s.o.Attempts {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			err, _ = classify(err)
			return 0, b.s.wrap("read", b.key, err)
		}
	}
}

// Close ends the request.
func (b *s3Body) Close() error {
	b.n = 0
	if b.body == nil {
		return nil
	}
	b.a.end(nil)
	b.body.Close()
	b.body = nil
	return nil
}

// List implements Bucket.
func (s *S3) List(ctx context.Context, prefix, after string, limit int) ([]Object, error) {
	if limit <= 0 {
		limit = 1000
	}
	var found []Object
	err := s.try(ctx, 0, func(a *attempt) error {
		found = nil
		o := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: min(limit, 1000)}
		if after != "" {
			o.StartAfter = s.prefix + after
		}
		for info := range s.core.ListObjectsIter(a, s.bucket, o) {
			a.moved()
			if info.Err != nil {
				return info.Err
			}
			key, ok := strings.CutPrefix(info.Key, s.prefix)
			if !ok || key <= after || CheckKey(key) != nil {
				continue
			}
			found = append(found, Object{Key: key, Size: info.Size, ETag: info.ETag, Modified: info.LastModified, Bucket: s.name})
			if len(found) == limit {
				return nil
			}
		}
		return a.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", s.name, err)
	}
	return found, nil
}

// Delete implements Bucket.
func (s *S3) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return err
		}
	}
	for ; len(keys) > 2; keys = keys[min(len(keys), 1000):] {
		if err := s.deleteMany(ctx, keys[:min(len(keys), 1000)]); err != nil {
			break // one by one: not every server can delete many, or says why it cannot
		}
	}
	for _, key := range keys {
		if err := s.deleteOne(ctx, key); err != nil {
			return s.wrap("delete", key, err)
		}
	}
	return nil
}

func (s *S3) deleteOne(ctx context.Context, key string) error {
	err := s.try(ctx, 0, func(a *attempt) error {
		return s.core.RemoveObject(a, s.bucket, s.key(key), minio.RemoveObjectOptions{})
	})
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

func (s *S3) deleteMany(ctx context.Context, keys []string) error {
	return s.try(ctx, 0, func(a *attempt) error {
		objects := make(chan minio.ObjectInfo, len(keys))
		for _, key := range keys {
			objects <- minio.ObjectInfo{Key: s.key(key)}
		}
		close(objects)
		var first error
		for e := range s.core.RemoveObjects(a, s.bucket, objects, minio.RemoveObjectsOptions{}) {
			if first == nil {
				first = e.Err
			}
		}
		return first
	})
}

// SignedURL implements Bucket. It leads to the S3 server itself, and is good
// for a week at most.
func (s *S3) SignedURL(ctx context.Context, key string, valid time.Duration) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	u, err := s.core.PresignedGetObject(ctx, s.bucket, s.key(key), max(min(valid, maxPresigned), time.Second), nil)
	if err != nil {
		err, _ = classify(err)
		return "", s.wrap("sign a URL for", key, err)
	}
	return u.String(), nil
}
