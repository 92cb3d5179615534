package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long after the first sign of a change the files are read:
// whoever changes them may do so in several steps.
const settle = 100 * time.Millisecond

// A watcher tells when the content of files has changed.
//
// It watches their folders and not the files, so that it sees a file replaced
// by another (editors, certificate renewals) and a folder of symbolic links
// whose target is replaced (Kubernetes).
type watcher struct {
	files  []string
	log    *slog.Logger
	notify *fsnotify.Watcher // nil when the kernel has none for us
	seen   [][]byte          // what is in the files
}

// newWatcher returns a watcher that knows the files as they are now. Its
// caller calls run, which ends it, or close.
func newWatcher(files []string, log *slog.Logger) *watcher {
	w := &watcher{files: files, log: log}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("changed files are read on SIGHUP only", "err", err)
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

// run calls changed when the files' content has changed, and on SIGHUP whether
// it has or not. It returns when ctx ends.
func (w *watcher) run(ctx context.Context, changed func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
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
		case <-hup:
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
			if err := w.notify.Add(dir); err != nil {
				w.log.Warn("changes in a folder are seen on SIGHUP only", "folder", dir, "err", err)
			}
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
