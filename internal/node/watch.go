package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long after the first sign of a change the files are read:
// whoever changes them may do so in several steps.
const settle = 100 * time.Millisecond

// lookTime is between two looks at the files without a sign of a change: there is
// none when a folder further up is replaced, or a link to one.
const lookTime = 10 * time.Second

// A watcher tells when the content of files has changed.
//
// It watches their folders and not the files, so that it sees at once a file
// replaced by another (editors, certificate renewals) and a folder of symbolic
// links whose target is replaced (Kubernetes). Whatever else it may be by which
// other content comes to the paths, it sees after lookTime.
type watcher struct {
	files  []string
	log    *slog.Logger
	notify *fsnotify.Watcher // nil when the kernel has none for us
	blind  map[string]bool   // folders that could not be watched the last time
	look   <-chan time.Time  // every lookTime
	seen   [][]byte          // what is in the files
}

// newWatcher returns a watcher that knows the files as they are now. Its
// caller calls run, which ends it, or close.
func newWatcher(files []string, log *slog.Logger) *watcher {
	w := &watcher{files: files, log: log, blind: make(map[string]bool), look: time.Tick(lookTime)}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("changed files are not read at once", "after", lookTime, "err", err)
	}
	w.follow()
	w.seen = w.contents()
	return w
}

// close gives back what the kernel holds for w.
func (w *watcher) close() {
	if w.notify != nil {
		w.notify.Close()
	}
}

// run calls changed when the files' content has changed, and when asked to,
// whether it has or not. It returns when ctx ends.
func (w *watcher) run(ctx context.Context, asked <-chan os.Signal, changed func()) {
	var events chan fsnotify.Event
	var errs chan error
	defer w.close()
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	rest := time.After(settle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			w.seen = w.contents()
			changed()
			continue
		case <-rest:
			rest = nil
			w.follow()
			if now := w.contents(); !slices.EqualFunc(now, w.seen, bytes.Equal) {
				w.seen = now
				changed()
			}
			continue
		case <-w.look:
		case <-events: // maybe about other files of the folder, and often
		case err := <-errs: // events were lost
			w.log.Warn("watching files", "err", err)
		}
		if rest == nil {
			rest = time.After(settle)
		}
	}
}

// follow watches the folders that the files are in now.
func (w *watcher) follow() {
	if w.notify == nil {
		return
	}
	for _, f := range w.files {
		for _, dir := range folders(f) {
			err := w.notify.Add(dir)
			if err != nil && !w.blind[dir] {
				w.log.Warn("changes in a folder are not seen at once", "folder", dir, "after", lookTime, "err", err)
			}
			w.blind[dir] = err != nil
		}
	}
}

// contents returns what is in the files; nil for one that cannot be read.
func (w *watcher) contents() [][]byte {
	all := make([][]byte, len(w.files))
	for i, f := range w.files {
		all[i], _ = os.ReadFile(f)
	}
	return all
}

// folders returns where a change of what path leads to can be seen: its own
// folder, and that of the file if path is a symbolic link.
func folders(path string) []string {
	dirs := []string{filepath.Dir(path)}
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(real) != dirs[0] {
		dirs = append(dirs, filepath.Dir(real))
	}
	return dirs
}
