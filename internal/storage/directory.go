package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Directory is a Bucket of files below one folder. Nothing that a key, a
// symbolic link or another process does makes it touch a file outside of
// it. Several processes may use one at the same time.
//
// An object is written under a temporary name, synced, and then linked to
// its own, so that a reader finds it whole or not at all; the folder is synced
// before Put returns. Files that others put there are objects too, as far as
// their names are keys.
type Directory struct {
	name   string
	root   *os.Root
	signer *Signer

	keys [64]sync.Mutex // by hash of the key: an object and its note are replaced together
	seed maphash.Seed
}

const (
	tempFolder   = folder + "/tmp"
	uploadFolder = folder + "/uploads"
	fileMode     = 0o640
	folderMode   = 0o750
	maxNote      = 64 << 10
	tempNote     = ".note" // behind the temporary name of the object that it is of
)

// OpenDirectory returns the Bucket of that name in the folder at dir, which it
// makes if there is none. The signer makes the bucket's URLs; without one,
// SignedURL fails.
func OpenDirectory(name, dir string, signer *Signer) (*Directory, error) {
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	d := &Directory{name: name, root: root, signer: signer, seed: maphash.MakeSeed()}
	for _, f := range []string{tempFolder, uploadFolder} {
		if err := d.mkdir(f); err != nil {
			root.Close()
			return nil, fmt.Errorf("open bucket %s: %w", name, err)
		}
	}
	return d, nil
}

// Close gives the folder up. Bodies that Get returned stay readable.
func (d *Directory) Close() error { return d.root.Close() }

// note is what a Directory knows of an object beyond its file. It holds for a
// file of its size only, so that it does not speak of one that was put there by hand.
type note struct {
	Size         int64             `json:"size"`
	SHA256       string            `json:"sha256,omitempty"`
	ContentType  string            `json:"contentType,omitempty"`
	CacheControl string            `json:"cacheControl,omitempty"`
	Meta         map[string]string `json:"meta,omitempty"`
	Upload       string            `json:"upload,omitempty"` // the upload that made it
}

// Put implements Bucket.
func (d *Directory) Put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error) {
	o, err := o.check(key)
	if err != nil {
		return Object{}, err
	}
	obj, err := d.put(ctx, key, body, o)
	if err != nil {
		return Object{}, fmt.Errorf("store %s in bucket %s: %w", key, d.name, err)
	}
	return obj, nil
}

func (d *Directory) put(ctx context.Context, key string, body io.Reader, o PutOptions) (Object, error) {
	if o.IfAbsent {
		if _, err := d.stat(key); err == nil {
			return Object{}, ErrExist
		}
	}
	temp, f, err := d.temp()
	if err != nil {
		return Object{}, err
	}
	defer d.root.Remove(temp)
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(f, sum), contextReader{ctx, body})
	if err != nil {
		return Object{}, err
	}
	n := note{Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), ContentType: o.ContentType, CacheControl: o.CacheControl, Meta: o.Meta}
	if o.Size > 0 && size != o.Size {
		return Object{}, fmt.Errorf("%w: %d bytes, not %d", ErrMismatch, size, o.Size)
	}
	if o.SHA256 != "" && !strings.EqualFold(o.SHA256, n.SHA256) {
		return Object{}, fmt.Errorf("%w: its SHA-256 is %s, not %s", ErrMismatch, n.SHA256, o.SHA256)
	}
	if err := f.Sync(); err != nil {
		return Object{}, err
	}
	return d.publish(key, temp, n, o.IfAbsent)
}

// temp makes a file under a temporary name, which is locked as long as it is open:
// Sweep knows by that whether somebody writes it.
func (d *Directory) temp() (name string, f *os.File, err error) {
	for range 10 {
		name = tempFolder + "/" + newID()
		if f, err = d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode); err != nil {
			return "", nil, err
		}
		lockFile(f, true)
		if _, err = d.root.Lstat(name); err == nil {
			return name, f, nil
		}
		f.Close() // it was swept before it was locked
	}
	return "", nil, err
}

// publish gives the synced file temp, which the caller removes, the name of the key.
func (d *Directory) publish(key, temp string, n note, ifAbsent bool) (Object, error) {
	file := pathOf(key)
	mu := d.lock(file)
	mu.Lock()
	defer mu.Unlock()
	for tries := 0; ; tries++ {
		// A Delete may take the folder away as soon as it is made.
		err := d.mkdir(path.Dir(file))
		if err == nil {
			err = d.rename(temp, file, n, ifAbsent)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || tries == 10 {
			return Object{}, err
		}
	}
	if err := d.sync(path.Dir(file)); err != nil {
		return Object{}, err
	}
	return d.stat(key)
}

// rename makes temp and its note the file.
func (d *Directory) rename(temp, file string, n note, ifAbsent bool) error {
	if info, err := d.root.Lstat(file); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: something that is no object is in its place", ErrKey)
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	beside := temp + tempNote
	// The note is not synced by itself: one that a power cut left empty is as none.
	if err := d.root.WriteFile(beside, text, fileMode); err != nil {
		return err
	}
	defer d.root.Remove(beside)
	if !ifAbsent {
		if err := d.root.Rename(beside, noteOf(file)); err != nil {
			return err
		}
		return d.root.Rename(temp, file)
	}
	// A link is made only where there is nothing, whoever else tries at the
	// same time; the note belongs to who made it.
	err = d.root.Link(temp, file)
	switch {
	case errors.Is(err, fs.ErrExist):
		if !d.same(temp, file) { // it is when a crash came before the note
			return ErrExist
		}
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EMLINK):
		// A file system without links: who makes an empty file may replace it.
		var f *os.File
		if f, err = d.root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode); errors.Is(err, fs.ErrExist) {
			return ErrExist
		}
		if err != nil {
			return err
		}
		f.Close()
		if err := d.root.Rename(temp, file); err != nil {
			d.root.Remove(file)
			return err
		}
	case err != nil:
		return err
	}
	return d.root.Rename(beside, noteOf(file))
}

// same reports whether two names are of one file.
func (d *Directory) same(a, b string) bool {
	x, err := d.root.Lstat(a)
	if err != nil {
		return false
	}
	y, err := d.root.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

func (d *Directory) lock(file string) *sync.Mutex {
	return &d.keys[maphash.String(d.seed, file)%uint64(len(d.keys))]
}

// mkdir makes the folder and those above it, durably.
func (d *Directory) mkdir(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := d.root.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%w: %s is an object, not a folder", ErrKey, dir)
		}
		return nil
	}
	above := path.Dir(dir)
	if err := d.mkdir(above); err != nil {
		return err
	}
	err := d.root.Mkdir(dir, folderMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.sync(above)
}

// sync makes what happened in a folder durable.
func (d *Directory) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil // a file system without it
	}
	return err
}

// Get implements Bucket.
func (d *Directory) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, Object{}, err
	}
	obj, err := d.stat(key) // before it is opened: it may be something that blocks
	if err != nil {
		return nil, Object{}, fmt.Errorf("read %s in bucket %s: %w", key, d.name, err)
	}
	f, err := d.root.Open(pathOf(key))
	if err != nil {
		return nil, Object{}, fmt.Errorf("read %s in bucket %s: %w", key, d.name, missing(err))
	}
	info, err := f.Stat()
	if err == nil && (off < 0 || !info.Mode().IsRegular()) {
		err = fmt.Errorf("offset %d", off)
	}
	if err != nil {
		f.Close()
		return nil, Object{}, fmt.Errorf("read %s in bucket %s: %w", key, d.name, err)
	}
	if info.Size() != obj.Size { // replaced in between
		obj = d.object(key, info)
	}
	if n < 0 || n > obj.Size-off {
		n = max(obj.Size-off, 0)
	}
	return &fileBody{contextReader{ctx, io.NewSectionReader(f, off, n)}, f}, obj, nil
}

type fileBody struct {
	io.Reader
	io.Closer
}

// Stat implements Bucket.
func (d *Directory) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	obj, err := d.stat(key)
	if err != nil {
		return Object{}, fmt.Errorf("look up %s in bucket %s: %w", key, d.name, err)
	}
	return obj, nil
}

func (d *Directory) stat(key string) (Object, error) {
	info, err := d.root.Stat(pathOf(key))
	if err != nil {
		return Object{}, missing(err)
	}
	if !info.Mode().IsRegular() {
		return Object{}, ErrNotExist
	}
	return d.object(key, info), nil
}

// missing is err, or ErrNotExist if it says that.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNotExist
	}
	return err
}

// object describes the object of a file, by its note if that is of this file.
func (d *Directory) object(key string, info fs.FileInfo) Object {
	obj := d.listed(key, info)
	n := d.note(pathOf(key))
	if n.Size != info.Size() {
		n = note{}
	}
	obj.SHA256, obj.ContentType, obj.CacheControl, obj.Meta, obj.mark = n.SHA256, n.ContentType, n.CacheControl, n.Meta, n.Upload
	obj.ContentType = cmp.Or(obj.ContentType, ContentType(key))
	return obj
}

// listed describes the object of a file as List does.
func (d *Directory) listed(key string, info fs.FileInfo) Object {
	return Object{
		Key: key, Size: info.Size(), Modified: info.ModTime(), Bucket: d.name,
		ETag: fmt.Sprintf("%x-%x", info.ModTime().UnixNano(), info.Size()),
	}
}

// note returns the note of the file; one that cannot be read is as none.
func (d *Directory) note(file string) (n note) {
	n.Size = -1
	f, err := d.root.Open(noteOf(file))
	if err != nil {
		return n
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil || json.Unmarshal(text, &n) != nil || !visible(strings.ReplaceAll(n.ContentType+n.CacheControl, " ", "")) {
		return note{Size: -1}
	}
	return n
}

// Delete implements Bucket.
func (d *Directory) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.delete(pathOf(key)); err != nil {
			return fmt.Errorf("delete %s in bucket %s: %w", key, d.name, err)
		}
	}
	return nil
}

func (d *Directory) delete(file string) error {
	mu := d.lock(file)
	mu.Lock()
	defer mu.Unlock()
	info, err := d.root.Lstat(file)
	if err != nil || info.IsDir() {
		if missing(err) == ErrNotExist {
			err = nil
		}
		return err
	}
	if err := d.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.root.Remove(noteOf(file))
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if d.root.Remove(dir) != nil { // not empty
			if err := d.sync(dir); missing(err) != ErrNotExist {
				return err
			}
			return nil
		}
	}
	return d.sync(".")
}

// List implements Bucket.
func (d *Directory) List(ctx context.Context, prefix, after string, limit int) ([]Object, error) {
	if limit <= 0 {
		limit = 1000
	}
	l := lister{d: d, ctx: ctx, prefix: prefix, after: after, limit: limit}
	if err := l.walk(".", ""); err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", d.name, err)
	}
	return l.found, nil
}

type lister struct {
	d             *Directory
	ctx           context.Context
	prefix, after string
	limit         int
	found         []Object
}

// entry is something in a folder, by the key that it has or that all in it begin with.
type entry struct {
	key  string // of a folder with the slash
	file string
	dir  bool
}

// walk adds what is in the folder dir, whose keys begin with key.
func (l *lister) walk(dir, key string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	entries, err := l.d.entries(nil, dir, key, "")
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	for _, e := range entries {
		switch {
		case len(l.found) == l.limit:
			return nil
		case e.dir:
			// Nothing in it when the prefix leads elsewhere or after is past all of it.
			if n := min(len(e.key), len(l.prefix)); e.key[:n] != l.prefix[:n] ||
				e.key < l.after && !strings.HasPrefix(l.after, e.key) {
				continue
			}
			if err := l.walk(e.file, e.key); err != nil {
				return err
			}
		case strings.HasPrefix(e.key, l.prefix) && e.key > l.after:
			info, err := l.d.root.Stat(e.file)
			if err == nil && info.Mode().IsRegular() && CheckKey(e.key) == nil {
				l.found = append(l.found, l.d.listed(e.key, info))
			}
		}
	}
	return nil
}

// entries appends what is in the folder dir. In one that holds the rest of long
// names, the names begin with "+".
func (d *Directory) entries(list []entry, dir, key, plus string) ([]entry, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		if missing(err) == ErrNotExist {
			return list, nil // deleted meanwhile
		}
		return nil, err
	}
	defer f.Close()
	files, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		file := path.Join(dir, f.Name())
		if first, ok := strings.CutPrefix(f.Name(), longPrefix); ok && f.IsDir() {
			if list, err = d.entries(list, file, key+first, "+"); err != nil {
				return nil, err
			}
			continue
		}
		name, ok := strings.CutPrefix(f.Name(), plus)
		if !ok || plus == "" && strings.HasPrefix(name, reserved) {
			continue
		}
		isDir := f.IsDir()
		if f.Type()&fs.ModeSymlink != 0 {
			info, err := d.root.Stat(file)
			isDir = err == nil && info.IsDir()
		}
		if isDir {
			name += "/"
		}
		list = append(list, entry{key + name, file, isDir})
	}
	return list, nil
}

// SignedURL implements Bucket. The URL leads to the Signer's Handler.
func (d *Directory) SignedURL(ctx context.Context, key string, valid time.Duration) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	if d.signer == nil {
		return "", fmt.Errorf("bucket %s has no signed URLs here", d.name)
	}
	return d.signer.URL(d.name, key, valid), nil
}

// Sweep implements Bucket.
func (d *Directory) Sweep(ctx context.Context, age time.Duration) (int, error) {
	swept := 0
	for _, dir := range []string{tempFolder, uploadFolder} {
		files, err := d.files(dir)
		if err != nil {
			return swept, fmt.Errorf("sweep bucket %s: %w", d.name, err)
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return swept, err
			}
			name := dir + "/" + f.Name()
			if dir == tempFolder && d.removeUnused(name) {
				swept++
				continue
			}
			if info, err := f.Info(); err != nil || time.Since(info.ModTime()) < age {
				continue
			}
			if dir == uploadFolder && time.Since(d.touched(name)) < age {
				continue
			}
			if d.root.RemoveAll(name) == nil {
				swept++
			}
		}
	}
	return swept, nil
}

// files returns what is in a folder.
func (d *Directory) files(dir string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// removeUnused removes a temporary file that nobody writes, of whatever age, and
// with it its note. It reports whether it did; without locks nobody knows.
func (d *Directory) removeUnused(name string) bool {
	if strings.HasSuffix(name, tempNote) {
		return false
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if lockFile(f, false) != nil {
		return false
	}
	d.root.Remove(name + tempNote)
	return d.root.Remove(name) == nil
}

// touched is when a part was last written to the upload in that folder.
func (d *Directory) touched(upload string) time.Time {
	info, err := d.root.Stat(upload + "/" + uploadData)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// An upload of a Directory is a folder: the object's bytes, each part in its place, a log of
// the parts that are there, and what the object will be.
const (
	uploadData  = "data"
	uploadParts = "parts" // lines of part number and size
	uploadInfo  = "info.json"
)

type directoryUpload struct {
	d     *Directory
	state directoryState
	dir   string
	info  uploadNote
	done  *Object // completed before it was resumed

	mu    sync.Mutex
	parts map[int]int64
}

type directoryState struct {
	Key  string `json:"key"`
	ID   string `json:"id"`
	Name string `json:"name,omitempty"` // nameID of PutOptions.Name
}

type uploadNote struct {
	note
	PartSize int  `json:"partSize"`
	IfAbsent bool `json:"ifAbsent,omitempty"`
}

// Upload implements Bucket.
func (d *Directory) Upload(ctx context.Context, key string, o PutOptions) (Upload, error) {
	o, err := o.check(key)
	if err != nil {
		return nil, err
	}
	u := &directoryUpload{d: d, state: directoryState{key, newID(), nameID(o.Name)}, parts: map[int]int64{}}
	u.dir = u.state.folder()
	u.info = uploadNote{note{SHA256: o.SHA256, ContentType: o.ContentType, CacheControl: o.CacheControl, Meta: o.Meta, Upload: u.state.ID}, o.PartSize, o.IfAbsent}
	err = d.abortNamed(u.state.Name)
	if err == nil {
		err = u.create()
	}
	if err != nil {
		d.root.RemoveAll(u.dir)
		return nil, fmt.Errorf("begin upload of %s to bucket %s: %w", key, d.name, err)
	}
	return u, nil
}

// folder returns where the upload's files are: nobody who had the name before writes
// into them.
func (s *directoryState) folder() string {
	if s.Name == "" {
		return uploadFolder + "/" + s.ID
	}
	return uploadFolder + "/" + s.Name + "-" + s.ID
}

// abortNamed removes the uploads of a name.
func (d *Directory) abortNamed(name string) error {
	if name == "" {
		return nil
	}
	folders, err := d.files(uploadFolder)
	for _, f := range folders {
		if strings.HasPrefix(f.Name(), name+"-") {
			err = errors.Join(err, d.root.RemoveAll(uploadFolder+"/"+f.Name()))
		}
	}
	return err
}

func (u *directoryUpload) create() error {
	text, err := json.Marshal(u.info)
	if err != nil {
		return err
	}
	if err := u.d.root.Mkdir(u.dir, folderMode); err != nil {
		return err
	}
	for name, content := range map[string][]byte{uploadInfo: text, uploadParts: nil, uploadData: nil} {
		f, err := u.d.root.OpenFile(u.dir+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	if err := u.d.sync(u.dir); err != nil {
		return err
	}
	return u.d.sync(uploadFolder)
}

// Resume implements Bucket.
func (d *Directory) Resume(ctx context.Context, state []byte) (Upload, error) {
	u := &directoryUpload{d: d, parts: map[int]int64{}}
	err := json.Unmarshal(state, &u.state)
	if err == nil {
		err = CheckKey(u.state.Key)
	}
	if err == nil && (!isID(u.state.ID) || u.state.Name != "" && !isID(u.state.Name)) {
		err = errors.New("not a state of this bucket")
	}
	if err != nil {
		return nil, fmt.Errorf("resume upload to bucket %s: %w", d.name, err)
	}
	u.dir = u.state.folder()
	if err := u.load(); err != nil {
		return nil, fmt.Errorf("resume upload of %s to bucket %s: %w", u.state.Key, d.name, err)
	}
	return u, nil
}

func (u *directoryUpload) load() error {
	if u.completed() {
		u.info.PartSize = DefaultPartSize
		return nil
	}
	text, err := u.d.root.ReadFile(u.dir + "/" + uploadInfo)
	if err != nil {
		return missing(err)
	}
	if err := json.Unmarshal(text, &u.info); err != nil || u.info.PartSize < MinPartSize {
		return ErrNotExist // never finished
	}
	log, err := u.d.root.ReadFile(u.dir + "/" + uploadParts)
	if err != nil {
		return missing(err)
	}
	good := 0
	for line := range bytes.Lines(log) {
		var n int
		var size int64
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		if _, err := fmt.Sscanf(string(line), "%d %d\n", &n, &size); err != nil || n < 1 || n > MaxParts || size < 0 || size > int64(u.info.PartSize) {
			break
		}
		u.parts[n] = size
		good += len(line)
	}
	if good == len(log) {
		return nil
	}
	// A power cut left the beginning of a line, which must not become that of the next.
	f, err := u.d.root.OpenFile(u.dir+"/"+uploadParts, os.O_WRONLY, fileMode)
	if err != nil {
		return missing(err)
	}
	defer f.Close()
	return f.Truncate(int64(good))
}

// completed says whether the object is there, and notes it.
func (u *directoryUpload) completed() bool {
	obj, err := u.d.stat(u.state.Key)
	if err != nil || obj.mark != u.state.ID {
		return false
	}
	// A crash between the names of note and object leaves the mark on an older object.
	data := u.dir + "/" + uploadData
	if _, err := u.d.root.Lstat(data); err == nil && !u.d.same(data, pathOf(u.state.Key)) {
		return false
	}
	u.done = &obj
	return true
}

func (u *directoryUpload) State() []byte {
	text, err := json.Marshal(u.state)
	if err != nil {
		panic(err) // strings
	}
	return text
}

func (u *directoryUpload) PartSize() int { return u.info.PartSize }

func (u *directoryUpload) WritePart(ctx context.Context, n int, data []byte) error {
	if err := checkPart(n, len(data), u.info.PartSize); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if u.done != nil {
		return nil
	}
	if err := u.write(n, data); err != nil {
		return fmt.Errorf("upload part %d of %s to bucket %s: %w", n, u.state.Key, u.d.name, err)
	}
	return nil
}

func checkPart(n, size, partSize int) error {
	if n < 1 || n > MaxParts || size > partSize {
		return fmt.Errorf("%w: part %d of %d bytes, where there can be %d of %d", ErrUpload, n, size, MaxParts, partSize)
	}
	return nil
}

func (u *directoryUpload) write(n int, data []byte) error {
	f, err := u.d.root.OpenFile(u.dir+"/"+uploadData, os.O_WRONLY, fileMode)
	if err != nil {
		return missing(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, int64(n-1)*int64(u.info.PartSize)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if size, ok := u.parts[n]; ok && size == int64(len(data)) {
		return nil
	}
	l, err := u.d.root.OpenFile(u.dir+"/"+uploadParts, os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return missing(err)
	}
	defer l.Close()
	info, err := l.Stat()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(l, "%d %d\n", n, len(data)); err != nil {
		l.Truncate(info.Size()) // or the next line would have its beginning before it
		return err
	}
	if err := l.Sync(); err != nil {
		return err
	}
	u.parts[n] = int64(len(data))
	return nil
}

func (u *directoryUpload) Parts(ctx context.Context) ([]Part, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return sortedParts(u.parts), ctx.Err()
}

func sortedParts(sizes map[int]int64) []Part {
	parts := make([]Part, 0, len(sizes))
	for n, size := range sizes {
		parts = append(parts, Part{n, size})
	}
	slices.SortFunc(parts, func(a, b Part) int { return a.N - b.N })
	return parts
}

// checkParts returns the size of the object that parts make.
func checkParts(parts []Part, partSize int) (int64, error) {
	var size int64
	for i, p := range parts {
		last := i == len(parts)-1
		switch {
		case p.N != i+1:
			return 0, fmt.Errorf("%w: part %d is missing", ErrUpload, i+1)
		case !last && p.Size != int64(partSize), last && p.Size == 0 && i > 0:
			return 0, fmt.Errorf("%w: part %d has %d bytes", ErrUpload, p.N, p.Size)
		}
		size += p.Size
	}
	if len(parts) == 0 {
		return 0, fmt.Errorf("%w: there are none", ErrUpload)
	}
	return size, nil
}

func (u *directoryUpload) Complete(ctx context.Context) (Object, error) {
	if err := ctx.Err(); err != nil {
		return Object{}, err
	}
	obj, err := u.complete()
	if err != nil {
		return Object{}, fmt.Errorf("complete upload of %s to bucket %s: %w", u.state.Key, u.d.name, err)
	}
	return obj, nil
}

func (u *directoryUpload) complete() (Object, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done != nil || u.completed() {
		u.d.root.RemoveAll(u.dir)
		return *u.done, nil
	}
	size, err := checkParts(sortedParts(u.parts), u.info.PartSize)
	if err != nil {
		return Object{}, err
	}
	data := u.dir + "/" + uploadData
	f, err := u.d.root.OpenFile(data, os.O_RDWR, fileMode)
	if err != nil {
		return Object{}, missing(err)
	}
	defer f.Close()
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return Object{}, err
	}
	n := u.info.note
	n.Size = size
	obj, err := u.d.publish(u.state.Key, data, n, u.info.IfAbsent)
	if err != nil {
		return Object{}, err
	}
	if obj.Size != size || obj.mark != u.state.ID {
		return Object{}, fmt.Errorf("%w: %d bytes are there, not %d", ErrMismatch, obj.Size, size)
	}
	u.done = &obj
	u.d.root.RemoveAll(u.dir)
	return obj, nil
}

func (u *directoryUpload) Abort(ctx context.Context) error {
	if err := u.d.root.RemoveAll(u.dir); err != nil {
		return fmt.Errorf("abort upload of %s to bucket %s: %w", u.state.Key, u.d.name, err)
	}
	return nil
}
