package snapshot

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir/internal/policy"
	"weir/internal/storage"
)

// Retain deletes the pictures of an app of a space that were taken longer ago
// than the app keeps them, and forgets those in memory. It returns how many were
// deleted.
func (s *Snapshotter) Retain(ctx context.Context, space string, app *policy.App, now time.Time) (deleted int, err error) {
	cfg := &app.Snapshot
	if cfg.KeepAge == 0 {
		return 0, nil
	}
	s.latest.expire(space, app.Name, now.Add(-cfg.KeepAge))
	if s.opt.Bucket == nil {
		return 0, nil
	}
	b, err := s.opt.Bucket(cfg.Bucket)
	if err != nil {
		return 0, fmt.Errorf("retain pictures of %s/%s: %w", space, app.Name, err)
	}
	root := "record/" + app.Name + "/"
	if cfg.Prefix != "" {
		root = cfg.Prefix + "/" + root
	}
	// From stream to stream: recordings beside the pictures are not listed.
	for after := root; ; {
		list, err := b.List(ctx, root, after, 1)
		if err != nil || len(list) == 0 {
			return deleted, err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(list[0].Key, root), "/")
		n, err := expire(ctx, b, root+name+"/picture/", now.Add(-cfg.KeepAge))
		deleted += n
		if err != nil {
			return deleted, err
		}
		after = root + name + "0" // which comes after every key that begins with root, name and a slash
	}
}

// expire deletes the pictures in a folder that were taken before then.
func expire(ctx context.Context, b storage.Bucket, folder string, then time.Time) (deleted int, err error) {
	for after := ""; ; {
		list, err := b.List(ctx, folder, after, 0)
		if err != nil {
			return deleted, err
		}
		var old []string
		for _, o := range list {
			if strings.HasSuffix(o.Key, ".jpg") && takenAt(o).Before(then) {
				old = append(old, o.Key)
			}
		}
		if len(old) > 0 {
			if err := b.Delete(ctx, old...); err != nil {
				return deleted, err
			}
			deleted += len(old)
		}
		if len(list) < 1000 {
			return deleted, nil
		}
		after = list[len(list)-1].Key
	}
}

// takenAt returns when a picture was taken, as its name says, or when it was
// stored.
func takenAt(o storage.Object) time.Time {
	name := strings.TrimSuffix(o.Key, ".jpg")
	if i := strings.LastIndexByte(name, '-'); i >= 0 && strings.Count(o.Key[strings.LastIndex(o.Key, "/picture/")+1:], "/") == 2 {
		if n, err := strconv.ParseInt(name[i+1:], 10, 64); err == nil {
			return time.Unix(n, 0)
		}
	}
	return o.Modified
}

// RetainEvery deletes old pictures of all apps every so often until ctx ends.
func (s *Snapshotter) RetainEvery(ctx context.Context, every time.Duration, set func() *policy.Set) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p := set()
		for i := range p.Spaces {
			sp := &p.Spaces[i]
			for j := range sp.Apps {
				n, err := s.Retain(ctx, sp.Name, &sp.Apps[j], time.Now())
				if err != nil && ctx.Err() == nil {
					s.log.Warn("old pictures not deleted", "space", sp.Name, "app", sp.Apps[j].Name, "err", err)
				}
				if n > 0 {
					s.log.Info("old pictures deleted", "space", sp.Name, "app", sp.Apps[j].Name, "pictures", n)
				}
			}
		}
	}
}
