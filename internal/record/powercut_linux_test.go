package record

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
)

// disk is an ext4 file system in an image.
type disk struct {
	t      *testing.T
	image  string
	folder string
}

// newDisk skips the test where no such thing can be made.
func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to be root, to mount images")
	}
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "disk"), folder: t.TempDir()}
	err := os.WriteFile(d.image, nil, 0o600)
	if err == nil {
		err = os.Truncate(d.image, 64<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", d.image).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v: %s", err, out)
	}
	d.mount()
	return d
}

// mount mounts the image until the test ends.
func (d *disk) mount() {
	t := d.t
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.folder).CombinedOutput(); err != nil {
		t.Skipf("needs to mount images by loop devices: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.folder, 0); err != nil {
			t.Error(err)
		}
	})
}

// cut copies the image while nobody writes: what is on the disk, and nothing of what
// the system still has in memory.
func (d *disk) cut() *disk {
	t := d.t
	t.Helper()
	after := &disk{t: t, image: filepath.Join(t.TempDir(), "disk"), folder: t.TempDir()}
	from, err := os.Open(d.image)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(after.image)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return after
}

// The power fails while nothing of a recording is uploaded. What its disk holds then has
// all segments that had ended; and of the one being written, with Sync, all but
// the last moment.
func TestPowerCutDisk(t *testing.T) {
	for name, c := range map[string]struct {
		sync  time.Duration
		least int // frames that are there of 26 s, in segments of 10 s
	}{
		"segments": {-1, 20 * 25},
		"sync":     {time.Second, 24 * 25},
	} {
		t.Run(name, func(t *testing.T) {
			before := newDisk(t)
			var after *disk
			var sent map[av.Kind][]string
			bubble(t, func(r *policy.Record, o *Options) {
				r.Segment, o.Sync, o.Dir = 10*time.Second, c.sync, before.folder
				o.Bucket = func(string) (storage.Bucket, error) { return nil, errors.New("connection refused") }
			}, func(t *testing.T, w *world) {
				w.both(w.push()).run(26_000)
				synctest.Wait()
				after = before.cut()
				sent = w.sent
			})
			after.mount() // which replays the journal of the file system
			bubble(t, func(_ *policy.Record, o *Options) { o.Dir = after.folder }, func(t *testing.T, w *world) {
				w.dir, w.sent = after.folder, sent
				got := w.read(w.finished(1)[0])
				n := len(got.frames[av.Video])
				t.Logf("%d of %d frames are there", n, len(sent[av.Video]))
				if n < c.least {
					t.Errorf("%d frames are there, want %d of %d at least", n, c.least, len(sent[av.Video]))
				}
				same(t, av.Video, got.frames[av.Video], sent[av.Video][:n])
				w.empty()
			})
		})
	}
}
