package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// pictureFolder returns the folder of all pictures of a stream.
func pictureFolder(cfg *policy.Snapshot, k stream.Key) string {
	folder := "record/" + k.App + "/" + k.Name + "/picture/"
	if cfg.Prefix != "" {
		folder = cfg.Prefix + "/" + folder
	}
	return folder
}

// Stored returns the newest picture of a stream that is in the bucket of cfg, its
// app's settings; nil if there is none. It is for when Latest has none: after
// a restart, or for a stream that was on the air long ago.
func (s *Snapshotter) Stored(ctx context.Context, key stream.Key, cfg *policy.Snapshot) (*Picture, error) {
	if s.opt.Bucket == nil {
		return nil, nil
	}
	b, err := s.opt.Bucket(cfg.Bucket)
	if err != nil {
		return nil, fmt.Errorf("the bucket cannot be used: %w", err)
	}
	folder := pictureFolder(cfg, key)
	object := folder + key.Name + ".jpg"
	if !cfg.Overwrite {
		if object, err = newest(ctx, b, folder, time.Now()); err != nil || object == "" {
			return nil, err
		}
	}
	r, o, err := b.Get(ctx, object, 0, pictureSize)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	jpeg, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	p, err := newPicture(jpeg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	p.Stream, p.Captured, p.Bucket, p.Object = key, takenAt(o), o.Bucket, object
	if ms, err := strconv.ParseInt(o.Meta[captured], 10, 64); err == nil {
		p.Captured = time.UnixMilli(ms)
	}
	return p, nil
}

// newest returns the key of the newest picture in a folder that has a folder
// for each push, or "". Keys are listed forwards only, so it looks at the pushes
// of the last day first, and goes from push to push.
func newest(ctx context.Context, b storage.Bucket, folder string, now time.Time) (string, error) {
	const day = 24 * time.Hour
	for _, age := range []time.Duration{day, 30 * day, time.Duration(now.UnixNano())} {
		push := ""
		for after := folder + strconv.FormatInt(max(0, now.Add(-age).UnixMilli()), 10); ; {
			list, err := b.List(ctx, folder, after, 1)
			if err != nil {
				return "", err
			}
			if len(list) == 0 {
				break
			}
			name, _, inside := strings.Cut(strings.TrimPrefix(list[0].Key, folder), "/")
			if !inside { // the one picture of a time when they were overwritten; names of streams come after pushes, or are none of ours
				after = list[0].Key
				continue
			}
			push, after = name, folder+name+"0" // which comes after all of the push
		}
		if push == "" {
			continue
		}
		for last, after := "", ""; ; {
			list, err := b.List(ctx, folder+push+"/", after, 0)
			if err != nil {
				return "", err
			}
			for _, o := range list {
				if after = o.Key; strings.HasSuffix(o.Key, ".jpg") {
					last = o.Key
				}
			}
			if len(list) < 1000 {
				return last, nil
			}
		}
	}
	return "", nil
}
