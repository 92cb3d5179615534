package storage

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

// s3Upload is a multipart upload. While it lives an object below markFolder
// says that it is ours, so that Sweep never touches an upload of somebody else
// who has the bucket too.
type s3Upload struct {
	s     *S3
	state s3State

	mu    sync.Mutex
	parts map[int]s3Part
	done  *Object // completed
}

type s3State struct {
	Key      string `json:"key"`
	ID       string `json:"id"`             // of the server
	Mark     string `json:"mark"`           // in the object's meta
	Name     string `json:"name,omitempty"` // nameID of PutOptions.Name
	PartSize int    `json:"partSize"`
	IfAbsent bool   `json:"ifAbsent,omitempty"`
	Unsure   bool   `json:"unsure,omitempty"` // the server may have begun another one whose answer was lost
}

// note returns the name of the object below markFolder.
func (s *s3State) note() string { return cmp.Or(s.Name, s.Mark) }

type s3Part struct {
	size int64
	etag string
}

// Upload implements Bucket.
func (s *S3) Upload(ctx context.Context, key string, o PutOptions) (Upload, error) {
	o, err := o.check(key)
	if err != nil {
		return nil, err
	}
	u, err := s.begin(ctx, key, o)
	if err != nil {
		return nil, s.wrap("begin upload of", key, err)
	}
	return u, nil
}

func (s *S3) begin(ctx context.Context, key string, o PutOptions) (*s3Upload, error) {
	u := &s3Upload{s: s, state: s3State{Key: key, Mark: newID(), Name: nameID(o.Name), PartSize: o.PartSize, IfAbsent: o.IfAbsent}, parts: map[int]s3Part{}}
	note := u.state.note()
	begun := false
	if o.IfAbsent && o.Name == "" {
		if err := s.absent(ctx, key); err != nil {
			return nil, err
		}
	}
	defer func() {
		if !begun { // as far as we know
			s.orphan(note)
		}
	}()
	if err := s.prepare(ctx, note, key, o.Name != ""); err != nil {
		return nil, err
	}
	if o.IfAbsent && o.Name != "" {
		if err := s.absent(ctx, key); err != nil {
			return nil, err
		}
	}
	s.ready(note, "") // whatever the answer will be
	attempts := 0
	err := s.try(ctx, 0, func(a *attempt) (err error) {
		attempts++
		u.state.ID, err = s.core.NewMultipartUpload(a, s.bucket, s.key(key), s.putOptions(o, u.state.Mark, o.SHA256))
		if err == nil && u.state.ID == "" {
			err = errors.New("the server gave no upload id")
		}
		return err
	})
	u.state.Unsure = attempts > 1
	if err != nil {
		return nil, err
	}
	begun = true
	s.lives(u, true)
	s.mu.Lock()
	delete(s.orphans, note)
	s.mu.Unlock()
	return u, nil
}

// prepare notes that an upload to a key is about to begin. What was begun under the
// note before, if it stands for a name, is aborted. Which upload that is no list says,
// so all of its key go that are not in use here: who uploads to the same key from
// elsewhere begins again.
func (s *S3) prepare(ctx context.Context, note, key string, named bool) error {
	before := ""
	if named {
		s.mu.Lock()
		ready := s.noted[note] == key
		s.mu.Unlock()
		if ready {
			return nil
		}
		var err error
		before, err = s.readMark(ctx, markFolder+note)
		if err == nil {
			s.mu.Lock()
			maps.DeleteFunc(s.live, func(_, of string) bool { return of == note })
			s.mu.Unlock()
			_, _, err = s.sweepKey(ctx, s.key(before), time.Now(), true)
		}
		if err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
	}
	if before != key {
		if _, err := s.putOne(ctx, markFolder+note, []byte(key), sha256.Sum256([]byte(key)), PutOptions{ContentType: "text/plain; charset=utf-8"}); err != nil {
			return err
		}
	}
	if named {
		s.ready(note, key)
	}
	return nil
}

// ready notes that there is a note for an upload to a key, and no upload; key "" ends
// that.
func (s *S3) ready(note, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noted == nil {
		s.noted = map[string]string{}
	}
	if s.noted[note] = key; key == "" {
		delete(s.noted, note)
	}
}

// orphan notes an upload of which something may be left that nobody will use.
func (s *S3) orphan(note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orphans == nil {
		s.orphans = map[string]bool{}
	}
	s.orphans[note] = true
}

// lives notes that an upload is in use in this process, or not any more.
func (s *S3) lives(u *s3Upload, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live = map[string]string{}
	}
	if s.live[u.state.ID] = u.state.note(); !is {
		delete(s.live, u.state.ID)
	}
}

func (s *S3) isLive(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.live[id]
	return ok
}

func (s *S3) isOrphan(note string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orphans[note]
}

// Resume implements Bucket.
func (s *S3) Resume(ctx context.Context, state []byte) (Upload, error) {
	u := &s3Upload{s: s, parts: map[int]s3Part{}}
	err := json.Unmarshal(state, &u.state)
	if err == nil {
		err = CheckKey(u.state.Key)
	}
	if err == nil && (u.state.ID == "" || !isID(u.state.Mark) || u.state.Name != "" && !isID(u.state.Name) || u.state.PartSize < MinPartSize) {
		err = errors.New("not a state of this bucket")
	}
	if err != nil {
		return nil, fmt.Errorf("resume upload to bucket %s: %w", s.name, err)
	}
	if err := u.load(ctx); err != nil {
		return nil, s.wrap("resume upload of", u.state.Key, err)
	}
	s.lives(u, true)
	return u, nil
}

// load asks the server for the parts.
func (u *s3Upload) load(ctx context.Context) error {
	parts, _, err := u.s.listParts(ctx, u.s.key(u.state.Key), u.state.ID)
	if errors.Is(err, ErrNotExist) {
		done, e := u.completed(ctx)
		if done {
			return nil
		}
		err = cmp.Or(e, err) // who does not know must not say that nothing is there
	}
	if err != nil {
		return err
	}
	u.parts = parts
	return nil
}

// listParts returns the parts of an upload and when the last one came.
func (s *S3) listParts(ctx context.Context, key, id string) (parts map[int]s3Part, newest time.Time, err error) {
	err = s.try(ctx, 0, func(a *attempt) error {
		parts, newest = map[int]s3Part{}, time.Time{}
		for marker := 0; ; {
			r, err := s.core.ListObjectParts(a, s.bucket, key, id, marker, 1000)
			if err != nil {
				return err
			}
			a.moved()
			for _, p := range r.ObjectParts {
				parts[p.PartNumber] = s3Part{p.Size, strings.Trim(p.ETag, `"`)}
				if p.LastModified.After(newest) {
					newest = p.LastModified
				}
			}
			if !r.IsTruncated || r.NextPartNumberMarker <= marker {
				return nil
			}
			marker = r.NextPartNumberMarker
		}
	})
	return parts, newest, err
}

// completed says whether the object of the upload is there, and notes it. An error
// means that this is not known.
func (u *s3Upload) completed(ctx context.Context) (bool, error) {
	obj, ours, err := u.s.ours(ctx, u.state.Key, u.state.Mark)
	if !ours {
		return false, err
	}
	u.mu.Lock()
	u.done = &obj
	u.mu.Unlock()
	return true, nil
}

func (u *s3Upload) State() []byte {
	text, err := json.Marshal(u.state)
	if err != nil {
		panic(err) // strings and numbers
	}
	return text
}

func (u *s3Upload) PartSize() int { return u.state.PartSize }

func (u *s3Upload) finished() *Object {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.done
}

func (u *s3Upload) WritePart(ctx context.Context, n int, data []byte) error {
	if err := checkPart(n, len(data), u.state.PartSize); err != nil {
		return err
	}
	if u.finished() != nil {
		return nil
	}
	tag, sum := md5.Sum(data), sha256.Sum256(data)
	var part minio.ObjectPart
	err := u.s.try(ctx, int64(len(data)), func(a *attempt) (err error) {
		part, err = u.s.core.PutObjectPart(a, u.s.bucket, u.s.key(u.state.Key), u.state.ID, n, a.body(data), int64(len(data)), minio.PutObjectPartOptions{
			Md5Base64: base64.StdEncoding.EncodeToString(tag[:]), Sha256Hex: hex.EncodeToString(sum[:]),
		})
		if err == nil {
			err = u.s.checkETag(part.ETag, tag)
		}
		return err
	})
	if err != nil {
		return u.s.wrap(fmt.Sprintf("upload part %d of", n), u.state.Key, err)
	}
	u.mu.Lock()
	u.parts[n] = s3Part{int64(len(data)), part.ETag}
	u.mu.Unlock()
	return nil
}

func (u *s3Upload) Parts(ctx context.Context) ([]Part, error) {
	return u.sorted(), ctx.Err()
}

func (u *s3Upload) sorted() []Part {
	u.mu.Lock()
	defer u.mu.Unlock()
	sizes := map[int]int64{}
	for n, p := range u.parts {
		sizes[n] = p.size
	}
	return sortedParts(sizes)
}

func (u *s3Upload) Complete(ctx context.Context) (Object, error) {
	obj, err := u.complete(ctx)
	if err != nil {
		return Object{}, u.s.wrap("complete upload of", u.state.Key, err)
	}
	return obj, nil
}

func (u *s3Upload) complete(ctx context.Context) (Object, error) {
	if done := u.finished(); done != nil {
		u.unmark(ctx)
		return *done, nil
	}
	parts := u.sorted()
	size, err := checkParts(parts, u.state.PartSize)
	if err != nil {
		return Object{}, err
	}
	if u.state.IfAbsent {
		switch obj, err := u.s.stat(ctx, u.state.Key); {
		case err == nil && obj.mark == u.state.Mark: // an answer was lost
		case err == nil:
			return Object{}, ErrExist
		case !errors.Is(err, ErrNotExist):
			return Object{}, err
		}
	}
	list := make([]minio.CompletePart, len(parts))
	u.mu.Lock()
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: p.N, ETag: u.parts[p.N].etag}
	}
	u.mu.Unlock()
	// A server may copy all of it before it answers, so it has the time of a transfer.
	err = u.s.try(ctx, size, func(a *attempt) error {
		a.stall.Reset(u.s.o.Stall + time.Duration(size)*time.Second/(32<<20))
		var o minio.PutObjectOptions
		u.s.conditional(&o, u.state.IfAbsent)
		_, err := u.s.core.CompleteMultipartUpload(a, u.s.bucket, u.s.key(u.state.Key), u.state.ID, list, o)
		if u.s.hasNoConditions(err, u.state.IfAbsent) {
			return errCondition
		}
		return err
	})
	// Whatever the answer was, the object says whether it is there: a request
	// whose answer is lost succeeded, a second one finds no upload any more.
	if err != nil {
		if ctx.Err() != nil {
			return Object{}, err
		}
		if done, e := u.completed(ctx); !done {
			return Object{}, cmp.Or(e, err)
		}
	}
	obj, err := u.s.stat(ctx, u.state.Key)
	if err != nil {
		return Object{}, fmt.Errorf("it is not there after the server completed it: %w", err)
	}
	if obj.Size != size || obj.mark != u.state.Mark {
		return Object{}, fmt.Errorf("%w: %d bytes are there, not %d", ErrMismatch, obj.Size, size)
	}
	if err := u.checkWhole(obj.ETag, parts); err != nil {
		return Object{}, err
	}
	u.mu.Lock()
	u.done = &obj
	u.mu.Unlock()
	u.unmark(ctx)
	return obj, nil
}

// checkWhole compares the tag of the whole with what it must be of those of
// the parts: the MD5 of their MD5s, and their number.
func (u *s3Upload) checkWhole(etag string, parts []Part) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := md5.New()
	for _, p := range parts {
		b, err := hex.DecodeString(u.parts[p.N].etag)
		if err != nil || len(b) != 16 {
			return nil // tags of another kind
		}
		h.Write(b)
	}
	want := fmt.Sprintf("%x-%d", h.Sum(nil), len(parts))
	if len(etag) != len(want) || u.s.opaque.Load() || strings.EqualFold(etag, want) {
		return nil
	}
	return fmt.Errorf("%w: the tag of the whole is %s, and must be %s", ErrMismatch, short(etag), want)
}

// unmark removes the note for Sweep, if there is nothing left for it. What
// cannot be removed costs Sweep a look.
func (u *s3Upload) unmark(ctx context.Context) {
	u.s.lives(u, false)
	if u.state.Unsure || u.s.deleteOne(ctx, markFolder+u.state.note()) != nil {
		u.s.orphan(u.state.note())
	}
}

func (u *s3Upload) Abort(ctx context.Context) error {
	if u.finished() != nil {
		return nil
	}
	err := u.s.abort(ctx, u.s.key(u.state.Key), u.state.ID)
	if err != nil {
		u.s.lives(u, false)
		u.s.orphan(u.state.note())
		return u.s.wrap("abort upload of", u.state.Key, err)
	}
	u.unmark(ctx)
	return nil
}

func (s *S3) abort(ctx context.Context, key, id string) error {
	err := s.try(ctx, 0, func(a *attempt) error {
		return s.core.AbortMultipartUpload(a, s.bucket, key, id)
	})
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

// Sweep implements Bucket. It looks at the uploads of those keys only that
// are noted as ours. What this process knows to be of no use goes whatever its age.
func (s *S3) Sweep(ctx context.Context, age time.Duration) (int, error) {
	swept, err := s.sweep(ctx, time.Now().Add(-age))
	if err != nil {
		return swept, fmt.Errorf("sweep bucket %s: %w", s.name, err)
	}
	return swept, nil
}

func (s *S3) sweep(ctx context.Context, before time.Time) (swept int, err error) {
	var marks []minio.ObjectInfo
	err = s.try(ctx, 0, func(a *attempt) error {
		marks = nil
		for info := range s.core.ListObjectsIter(a, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + markFolder, Recursive: true}) {
			a.moved()
			if info.Err != nil {
				return info.Err
			}
			if info.Size <= maxKey && (info.LastModified.Before(before) || s.isOrphan(strings.TrimPrefix(info.Key, s.prefix+markFolder))) {
				marks = append(marks, info)
			}
		}
		return a.Err()
	})
	if err != nil {
		return 0, err
	}
	for _, m := range marks {
		mark := strings.TrimPrefix(m.Key, s.prefix)
		key, err := s.readMark(ctx, mark)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return swept, err
		}
		name := strings.TrimPrefix(mark, markFolder)
		orphan := s.isOrphan(name)
		n, kept, err := s.sweepKey(ctx, s.key(key), before, orphan)
		swept += n
		if err != nil {
			return swept, err
		}
		if kept > 0 && !orphan {
			continue
		}
		s.ready(name, "")
		if err := s.deleteOne(ctx, mark); err != nil {
			return swept, err
		}
		s.mu.Lock()
		delete(s.orphans, name)
		s.mu.Unlock()
	}
	return swept, nil
}

// readMark returns the key of a noted upload.
func (s *S3) readMark(ctx context.Context, mark string) (string, error) {
	b := &s3Body{ctx: ctx, s: s, key: mark, n: -1}
	if _, err := b.open(); err != nil {
		return "", err
	}
	defer b.Close()
	text, err := io.ReadAll(io.LimitReader(b, maxKey+1))
	if err != nil {
		return "", err
	}
	if key := string(text); CheckKey(key) == nil {
		return key, nil
	}
	return "", ErrNotExist
}

// sweepKey aborts the uploads of one key which nothing has been written to for
// long; of an orphan's key all that are not in use here.
func (s *S3) sweepKey(ctx context.Context, key string, before time.Time, orphan bool) (swept, kept int, err error) {
	var ids []string
	err = s.try(ctx, 0, func(a *attempt) error {
		ids, kept = nil, 0
		for keyMarker, idMarker := "", ""; ; {
			r, err := s.core.ListMultipartUploads(a, s.bucket, key, keyMarker, idMarker, "", 1000)
			var e minio.ErrorResponse
			if errors.As(err, &e) && e.StatusCode == http.StatusNotFound {
				return nil
			}
			if err != nil {
				return err
			}
			a.moved()
			for _, u := range r.Uploads {
				switch {
				case u.Key != key:
				case orphan && s.isLive(u.UploadID):
					kept++
				case orphan || u.Initiated.Before(before):
					ids = append(ids, u.UploadID)
				default:
					kept++
				}
			}
			if !r.IsTruncated || r.NextKeyMarker == keyMarker && r.NextUploadIDMarker == idMarker {
				return nil
			}
			keyMarker, idMarker = r.NextKeyMarker, r.NextUploadIDMarker
		}
	})
	if err != nil {
		return 0, 0, err
	}
	for _, id := range ids {
		if !orphan {
			_, newest, err := s.listParts(ctx, key, id)
			switch {
			case errors.Is(err, ErrNotExist):
				continue
			case err != nil:
				return swept, kept, err
			case !newest.Before(before):
				kept++
				continue
			}
		}
		if err := s.abort(ctx, key, id); err != nil {
			return swept, kept, err
		}
		swept++
	}
	return swept, kept, nil
}
