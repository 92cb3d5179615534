package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// File is a finished file of a recording. Its key says all of it: there is no
// other index.
type File struct {
	Format string // hls, mp4, flv
	Key    string
	Start  time.Time // of the first and the last frame
	End    time.Time
	Size   int64 // of the object; of HLS that of the playlist
}

// formats are those of recordings.
var formats = [...]string{"hls", "mp4", "flv"}

// ErrNoFile is the error of a name that is not that of a recording of the stream.
var ErrNoFile = errors.New("there is no such recording")

// Files returns the files of a stream that have media between from and to, of
// which either may be zero, by their start. cfg says where they are.
func (r *Recorder) Files(ctx context.Context, key stream.Key, cfg *policy.Record, from, to time.Time) ([]File, error) {
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, format := range formats {
		dir := prefix(cfg, key.App, key.Name, format)
		err := each(ctx, b, dir, func(o *storage.Object) {
			f, ok := parse(key.Name, format, o.Key)
			if ok && (to.IsZero() || !f.Start.After(to)) && (from.IsZero() || !f.End.Before(from)) {
				f.Size = o.Size
				files = append(files, f)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Key, b.Key)) })
	return files, nil
}

// each calls f for the objects in a folder, and passes over its folders.
func each(ctx context.Context, b storage.Bucket, dir string, f func(*storage.Object)) error {
	return scan(ctx, b, dir, f, func(string) {})
}

// scan calls object for the objects in a folder and folder for its folders.
func scan(ctx context.Context, b storage.Bucket, dir string, object func(*storage.Object), folder func(string)) error {
	for after := ""; ; {
		list, err := b.List(ctx, dir, after, 1000)
		if err != nil {
			return err
		}
		skip := ""
		for i := range list {
			after = list[i].Key
			if skip != "" && strings.HasPrefix(after, skip) {
				continue
			}
			if name, _, ok := strings.Cut(after[len(dir):], "/"); ok {
				folder(name)
				skip = dir + name + "/"
				continue
			}
			object(&list[i])
		}
		if len(list) < 1000 {
			return nil
		}
		if skip != "" && strings.HasPrefix(after, skip) {
			after = skip + "~" // behind everything in it
		}
	}
}

// parse reads the key of a file of a stream.
func parse(name, format, key string) (f File, ok bool) {
	ext := "." + format
	if format == "hls" {
		ext = ".m3u8"
	}
	base, ok := strings.CutSuffix(path.Base(key), ext)
	if !ok {
		return f, false
	}
	rest, ok := strings.CutPrefix(base, name+"-")
	if !ok {
		return f, false
	}
	parts := strings.Split(rest, "-")
	if len(parts) != 2 && len(parts) != 3 {
		return f, false
	}
	var n [3]int64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 40)
		if err != nil {
			return f, false
		}
		n[i] = int64(v)
	}
	return File{Format: format, Key: key, Start: time.Unix(n[0], 0).UTC(), End: time.Unix(n[1], 0).UTC()}, true
}

// find returns the file of a stream whose key ends in name.
func find(key stream.Key, cfg *policy.Record, name string) (File, error) {
	for _, format := range formats {
		if f, ok := parse(key.Name, format, prefix(cfg, key.App, key.Name, format)+name); ok && !strings.Contains(name, "/") {
			return f, nil
		}
	}
	return File{}, ErrNoFile
}

// Delete removes the file of a stream whose key ends in name; of HLS the
// segments, but for those that clips name, which go with the last of these, and then
// the playlist.
func (r *Recorder) Delete(ctx context.Context, key stream.Key, cfg *policy.Record, name string) error {
	f, err := find(key, cfg, name)
	if err != nil {
		return err
	}
	object := f.Key
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return err
	}
	if f.Format != "hls" {
		return b.Delete(ctx, object)
	}
	return r.deleteHLS(ctx, b, key, cfg, object)
}

// maxPlaylist is the longest playlist of a recording that is read.
const maxPlaylist = 4 << 20

func playlistAt(ctx context.Context, b storage.Bucket, key string) (*m3u8.Playlist, error) {
	body, _, err := b.Get(ctx, key, 0, maxPlaylist)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	list, err := m3u8.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	for _, s := range list.Segments { // others may write there, too
		if strings.Contains(s.URI, "..") || strings.ContainsAny(s.URI, ":\\") || strings.HasPrefix(s.URI, "/") {
			return nil, fmt.Errorf("%s: a segment is outside of the recording", key)
		}
	}
	return list, nil
}

// URL returns a URL by which whoever has it can play the file whose key ends in
// name for that long. That
// of an HLS recording leads to this node's media listeners, and is good for its
// segments as well; others lead to where the bucket is.
func (r *Recorder) URL(ctx context.Context, key stream.Key, cfg *policy.Record, name string, valid time.Duration) (string, error) {
	f, err := find(key, cfg, name)
	if err != nil {
		return "", err
	}
	object := f.Key
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return "", err
	}
	o, err := b.Stat(ctx, object)
	if errors.Is(err, storage.ErrNotExist) {
		err = ErrNoFile
	}
	if err != nil {
		return "", err
	}
	if f.Format != "hls" || r.signer == nil {
		return b.SignedURL(ctx, object, valid)
	}
	beside := fmt.Sprintf("%s/%s-%d-", path.Dir(object), key.Name, f.Start.Unix()) // playlist and segments begin so
	return r.signer.PrefixURL(r.signedAs(cfg, &o), beside, object, valid)
}

// signedAs returns the name of the bucket in URLs of what is in o's place: not
// that which has o, for what its playlist names may be in the other of two.
func (r *Recorder) signedAs(cfg *policy.Record, o *storage.Object) string {
	return cmp.Or(r.named(cfg.Bucket), o.Bucket)
}

// Unfinished is a recording that is being made, or waits for its stream to
// return, or is being uploaded.
type Unfinished struct {
	Task     string
	Key      stream.Key
	Start    time.Time
	State    string // recording, waiting, finishing
	Duration time.Duration
	Size     int64
	Segments int
	Uploaded int // segments
	Lost     time.Duration
}

// Unfinished returns the recordings of this node that are not finished, by
// their start.
func (r *Recorder) Unfinished() []Unfinished {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Unfinished, 0, len(r.takes))
	for _, t := range r.takes {
		key := t.head.key()
		u := Unfinished{Task: t.head.Task, Key: key, Start: t.head.Start, State: "finishing"}
		if p := r.places[key]; p != nil && p.take == t {
			u.State = "waiting"
			if p.session != nil {
				u.State = "recording"
			}
		}
		t.mu.Lock()
		length, n := t.media()
		u.Duration, u.Segments, u.Lost = ms(length), n, ms(t.lostMedia())
		for i := range t.segments {
			u.Size += t.segments[i].Size
			if t.segments[i].stored {
				u.Uploaded++
			}
		}
		t.mu.Unlock()
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Unfinished) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Task, b.Task)) })
	return list
}

// Retain deletes the recordings and clips that the policy does not want to be kept any
// longer, and says how many. Where it fails it goes on with the next stream.
func (r *Recorder) Retain(ctx context.Context, set *policy.Set) (deleted int, err error) {
	for i := range set.Spaces {
		for j := range set.Spaces[i].Apps {
			app := &set.Spaces[i].Apps[j]
			if cfg := &app.Record; cfg.KeepAge > 0 || cfg.KeepSize > 0 || cfg.KeepClips > 0 {
				n, e := r.retain(ctx, set.Spaces[i].Name, app.Name, cfg)
				deleted, err = deleted+n, errors.Join(err, e)
			}
		}
	}
	return deleted, err
}

func (r *Recorder) retain(ctx context.Context, space, app string, cfg *policy.Record) (deleted int, err error) {
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return 0, err
	}
	var streams []string
	dir := path.Join(cfg.Prefix, "record", app) + "/"
	if err := scan(ctx, b, dir, func(*storage.Object) {}, func(name string) { streams = append(streams, name) }); err != nil {
		return 0, err
	}
	for _, name := range streams {
		key := stream.Key{Space: space, App: app, Name: name}
		if cfg.KeepClips > 0 {
			n, e := r.retainClips(ctx, b, key, cfg)
			deleted, err = deleted+n, errors.Join(err, e)
		}
		files, e := r.Files(ctx, key, cfg, time.Time{}, time.Time{})
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		if cfg.KeepAge > 0 {
			err = errors.Join(err, r.retainRest(ctx, b, key, cfg))
		}
		kept := int64(0)
		for _, f := range slices.Backward(files) {
			if cfg.KeepSize > 0 {
				size, e := r.sizeOf(ctx, b, &f)
				if e != nil {
					err = errors.Join(err, e)
					continue
				}
				kept += size
			}
			if (cfg.KeepAge == 0 || time.Since(f.End) <= cfg.KeepAge) && (cfg.KeepSize == 0 || kept <= int64(cfg.KeepSize)) {
				continue
			}
			if e := r.Delete(ctx, key, cfg, path.Base(f.Key)); e != nil {
				err = errors.Join(err, e)
				continue
			}
			deleted++
			r.log.Info("recording deleted, as the policy has it", "stream", key.String(), "key", f.Key)
		}
	}
	return deleted, err
}

// restAge is for how long at least, beyond the time for which uploads are tried,
// segments without a playlist are left alone.
const restAge = 24 * time.Hour

// retainRest deletes segments that no playlist has, when they are older than what
// is kept: those of recordings that have failed. One that is being made, here or elsewhere, has younger
// ones, or none that would be kept.
func (r *Recorder) retainRest(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record) (err error) {
	dir, age := prefix(cfg, key.App, key.Name, "hls"), max(cfg.KeepAge, r.giveUp+restAge)
	listed := map[int64]bool{} // when recordings that have a playlist began
	var folders []string
	if err := scan(ctx, b, dir, func(o *storage.Object) {
		if f, ok := parse(key.Name, "hls", o.Key); ok {
			listed[f.Start.Unix()] = true
		}
	}, func(name string) { folders = append(folders, name) }); err != nil {
		return err
	}
	for _, name := range folders {
		rest, ok := strings.CutPrefix(name, key.Name+"-")
		text, task, _ := strings.Cut(rest, "-")
		start, e := strconv.ParseInt(text, 10, 64)
		if !ok || e != nil || !isTask(task) || listed[start] {
			continue
		}
		r.mu.Lock()
		here := r.takes[task] != nil
		r.mu.Unlock()
		if !here && time.Since(time.Unix(start, 0)) > age {
			err = errors.Join(err, r.deleteRest(ctx, b, key, cfg, dir+name, age))
		}
	}
	return err
}

// sizeOf returns the size of a file, with the segments of HLS.
func (r *Recorder) sizeOf(ctx context.Context, b storage.Bucket, f *File) (int64, error) {
	if f.Format != "hls" {
		return f.Size, nil
	}
	list, err := playlistAt(ctx, b, f.Key)
	if err != nil || len(list.Segments) == 0 {
		return f.Size, err
	}
	size := f.Size
	dir := path.Join(path.Dir(f.Key), path.Dir(list.Segments[0].URI)) + "/"
	return size, each(ctx, b, dir, func(o *storage.Object) { size += o.Size; f.Size = size })
}
