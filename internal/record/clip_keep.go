package record

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// What an HLS clip names are segments of its recording. When the recording is
// deleted they stay, and the recording leaves a mark in their folder: that who
// deletes the last clip that names a segment deletes the segment as well. A clip
// that is being made on this node keeps all segments of its recording until it
// is done.

// markName is the name of the mark.
const markName = "deleted"

// takeTurn waits until nobody else decides what is pointed at.
func (r *Recorder) takeTurn(ctx context.Context) error {
	select {
	case r.clips.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Recorder) endTurn() { <-r.clips.turn }

// busy reports whether this node is making a clip of the segments in a folder.
func (r *Recorder) busy(key stream.Key, folder string) bool {
	r.clips.mu.Lock()
	defer r.clips.mu.Unlock()
	for id, c := range r.clips.list {
		if id.key == key {
			if j := c.now(); j.Folder == folder && j.Fact == nil {
				return true
			}
		}
	}
	return false
}

// named returns the keys of the objects that the playlist of a clip names. They
// are of its own stream: others may write there, too.
func named(ctx context.Context, b storage.Bucket, key string) ([]string, error) {
	text, err := readAll(ctx, b, key, 0, maxPlaylist)
	if err != nil {
		return nil, err
	}
	list, err := m3u8.Parse(text)
	if err != nil {
		return nil, nil // not one of ours
	}
	dir := path.Dir(path.Dir(key)) + "/"
	var keys []string
	for i := range list.Segments {
		if k := path.Join(path.Dir(key), list.Segments[i].URI); strings.HasPrefix(k, dir) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// pointed returns the segments in a folder that clips name, but for one clip. It
// is the caller's turn.
func pointed(ctx context.Context, b storage.Bucket, dir, folder, except string) (map[string]bool, error) {
	var lists []string
	if err := each(ctx, b, dir, func(o *storage.Object) {
		if c, ok := parseClip(o.Key); ok && c.Format == "hls" && o.Key != except {
			lists = append(lists, o.Key)
		}
	}); err != nil {
		return nil, err
	}
	m := map[string]bool{}
	for _, key := range lists {
		keys, err := named(ctx, b, key)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
		for _, k := range keys {
			if strings.HasPrefix(k, folder+"/") {
				m[k] = true
			}
		}
	}
	return m, nil
}

// deleteHLS deletes an HLS recording, but for the segments that clips name; its
// playlist last: it says what else there is.
func (r *Recorder) deleteHLS(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record, object string) error {
	if err := r.takeTurn(ctx); err != nil {
		return err
	}
	defer r.endTurn()
	list, err := playlistAt(ctx, b, object)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var keys, folders []string
	for _, s := range list.Segments {
		keys = append(keys, path.Join(path.Dir(object), s.URI))
		if f := path.Dir(keys[len(keys)-1]); !slices.Contains(folders, f) {
			folders = append(folders, f)
		}
	}
	for _, folder := range folders {
		if keys, err = r.unwantedIn(ctx, b, key, cfg, folder, keys); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(keys, 500) {
		if err := b.Delete(ctx, chunk...); err != nil {
			return err
		}
	}
	return b.Delete(ctx, object)
}

// unwantedIn returns keys without those in the folder of a recording that clips want, and
// leaves a mark there if there are any. It is the caller's turn.
func (r *Recorder) unwantedIn(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record, folder string, keys []string) ([]string, error) {
	kept, err := pointed(ctx, b, clipDir(cfg.Prefix, key.App, key.Name), folder, "")
	if err != nil {
		return nil, err
	}
	busy := r.busy(key, folder)
	if len(kept) == 0 && !busy {
		return keys, nil
	}
	if _, err := b.Put(ctx, path.Join(folder, markName), strings.NewReader(""), storage.PutOptions{ContentType: "text/plain"}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(keys, func(k string) bool { return path.Dir(k) == folder && (busy || kept[k]) }), nil
}

// deleteRest deletes the segments in a folder that has no playlist, unless one of
// them is younger than age or a clip names it.
func (r *Recorder) deleteRest(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record, folder string, age time.Duration) error {
	if err := r.takeTurn(ctx); err != nil {
		return err
	}
	defer r.endTurn()
	var keys []string
	var newest time.Time
	marked := false
	if err := each(ctx, b, folder+"/", func(o *storage.Object) {
		keys = append(keys, o.Key)
		marked = marked || path.Base(o.Key) == markName
		if o.Modified.After(newest) {
			newest = o.Modified
		}
	}); err != nil {
		return err
	}
	if time.Since(newest) <= age {
		return nil
	}
	if marked {
		return r.sweep(ctx, b, key, cfg.Prefix, folder, "")
	}
	keys, err := r.unwantedIn(ctx, b, key, cfg, folder, keys)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(keys, 500) {
		if err := b.Delete(ctx, chunk...); err != nil {
			return err
		}
	}
	r.log.Info("segments without a recording deleted, as the policy has it", "stream", key.String(), "folder", folder)
	return nil
}

// deleteClip deletes a clip that is in the bucket, its playlist last: it says
// what else there is.
func (r *Recorder) deleteClip(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record, c *Clip) error {
	if c.Format != "hls" {
		return b.Delete(ctx, c.Key)
	}
	if err := r.takeTurn(ctx); err != nil {
		return err
	}
	defer r.endTurn()
	keys, err := named(ctx, b, c.Key)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	own := strings.TrimSuffix(c.Key, path.Ext(c.Key)) + "/"
	if err := deleteFolder(ctx, b, own); err != nil {
		return err
	}
	var folders []string
	for _, k := range keys {
		if f := path.Dir(k); f+"/" != own && !slices.Contains(folders, f) {
			folders = append(folders, f)
		}
	}
	for _, folder := range folders {
		if err := r.sweep(ctx, b, key, cfg.Prefix, folder, c.Key); err != nil {
			return err
		}
	}
	return b.Delete(ctx, c.Key)
}

// release deletes what a clip that was made or given up has kept of a deleted
// recording.
func (r *Recorder) release(ctx context.Context, j *clipJob) error {
	b, err := r.bucket(j.Bucket)
	if err != nil {
		return err
	}
	if err := r.takeTurn(ctx); err != nil {
		return err
	}
	defer r.endTurn()
	return r.sweep(ctx, b, j.key(), j.Prefix, j.Folder, "")
}

// sweep deletes the segments in the folder of a deleted recording that no clip
// names, but for one clip. It is the caller's turn.
func (r *Recorder) sweep(ctx context.Context, b storage.Bucket, key stream.Key, prefix, folder, except string) error {
	mark := path.Join(folder, markName)
	_, err := b.Stat(ctx, mark)
	if errors.Is(err, storage.ErrNotExist) {
		return nil // it is not deleted
	}
	if err != nil || r.busy(key, folder) {
		return err
	}
	kept, err := pointed(ctx, b, clipDir(prefix, key.App, key.Name), folder, except)
	if err != nil {
		return err
	}
	var keys []string
	if err := each(ctx, b, folder+"/", func(o *storage.Object) {
		if !kept[o.Key] && o.Key != mark {
			keys = append(keys, o.Key)
		}
	}); err != nil {
		return err
	}
	if len(kept) == 0 {
		keys = append(keys, mark)
	}
	for chunk := range slices.Chunk(keys, 500) {
		if err := b.Delete(ctx, chunk...); err != nil {
			return err
		}
	}
	return nil
}
