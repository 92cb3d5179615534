package node

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"weir/internal/bus/bustest"
)

// disk is an ext4 file system in an image, in an XFS that can copy the image in
// an instant.
type disk struct {
	t      *testing.T
	host   string // where the XFS is mounted
	image  string
	folder string // where the ext4 is mounted
	copies int
}

// newDisk skips the test where no such thing can be made.
func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to be root, to mount images")
	}
	for _, tool := range []string{"mkfs.xfs", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (Debian: xfsprogs, e2fsprogs, mount)", tool)
		}
	}
	d := &disk{t: t, host: t.TempDir()}
	outer := filepath.Join(t.TempDir(), "xfs")
	d.sparse(outer, 2<<30)
	run(t, "mkfs.xfs", "-q", "-m", "reflink=1", outer)
	d.mount(outer, d.host)
	d.image = filepath.Join(d.host, "disk")
	d.sparse(d.image, 256<<20)
	run(t, "mkfs.ext4", "-q", d.image)
	d.folder = t.TempDir()
	d.mount(d.image, d.folder)
	return d
}

func (d *disk) sparse(name string, size int64) {
	d.t.Helper()
	f, err := os.Create(name)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// mount mounts an image until the test ends.
func (d *disk) mount(image, at string) {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		d.t.Skipf("needs to mount images by loop devices: %v: %s", err, out)
	}
	d.t.Cleanup(func() { run(d.t, "umount", at) })
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// cut returns an image of what is on the disk at this moment.
func (d *disk) cut() string {
	d.t.Helper()
	d.copies++
	name := filepath.Join(d.host, fmt.Sprint("copy", d.copies))
	from, err := os.Open(d.image)
	if err != nil {
		d.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(name)
	if err != nil {
		d.t.Fatal(err)
	}
	defer to.Close()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		d.t.Fatalf("copy the image: %v", err)
	}
	return name
}

// The power fails at any moment of a running weir: what its disk holds then is
// an image, taken at once while facts are appended. A weir that starts with it
// knows every push that had been let in, and each has one beginning and one end.
func TestPowerCut(t *testing.T) {
	const cuts, publishers = 3, 8
	d := newDisk(t)
	c := testConfig(t)
	c.Data = filepath.Join(d.folder, "data")
	n, _, stop := start(t, c)
	var mu sync.Mutex
	accepted, more := map[string]bool{}, make(chan struct{}, 1000)
	quit := make(chan struct{})
	var pushing sync.WaitGroup
	for i := range publishers {
		pushing.Go(func() { // ends with quit
			for k := 0; ; k++ {
				select {
				case <-quit:
					return
				default:
				}
				name := fmt.Sprintf("%d.%d", i, k)
				err := pushOnce(t.Context(), n.Addr("rtmp").String(), name, func() {
					mu.Lock()
					accepted[name] = true
					mu.Unlock()
					select {
					case more <- struct{}{}:
					default:
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	type moment struct {
		image    string
		accepted map[string]bool
	}
	var moments []moment
	for range cuts {
		for range 25 {
			<-more
		}
		mu.Lock()
		before := maps.Clone(accepted)
		mu.Unlock()
		moments = append(moments, moment{d.cut(), before})
	}
	close(quit)
	pushing.Wait()
	if n := n.sessions.Stats().Early; n > 0 {
		t.Skipf("the disk is so slow that %d publishers went on before it had their facts", n)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	for i, m := range moments {
		t.Run(fmt.Sprint("cut ", i+1), func(t *testing.T) {
			at := &disk{t: t, folder: t.TempDir()}
			at.mount(m.image, at.folder) // which replays the journal of the file system
			c := testConfig(t)
			c.Data = filepath.Join(at.folder, "data")
			n, _, _ := start(t, c)
			list := entries(t, n)
			died, _ := checkPushes(t, list, m.accepted)
			t.Logf("%d pushes had been let in, %d facts are in the log, %d pushes died", len(m.accepted), len(list), died)
		})
	}
}

// The disk of the data folder is full, and NATS is elsewhere: publishers are let
// in as ever, readiness says what is wrong, and the facts are there.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs to be root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	nats := bustest.Serve(t)
	c := testConfig(t)
	c.Data, c.NATS.URL = filepath.Join(dir, "data"), nats.ClientURL()
	n, _, stop := start(t, c)
	publish(t, n, "before").Close()
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 8<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	const pushes = 20
	accepted := map[string]bool{"before": true}
	for i := range pushes {
		name := fmt.Sprint("full", i)
		accepted[name] = true
		publish(t, n, name).Close()
	}
	eventually(t, "all have left", func() bool { return n.hub.Stats().Publishers == 0 })
	if early := n.sessions.Stats().Early; early > 0 {
		t.Errorf("%d publishers went on before anybody had their facts", early)
	}
	if status, text := get(t, n.url("admin", "/readyz")); status != 200 || !strings.HasPrefix(text, "degraded: facts cannot be written to disk and go to NATS from memory") {
		t.Errorf("readiness is %d %q", status, text)
	}
	checkPushes(t, entries(t, n), accepted)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	publish(t, n, "after").Close()
	accepted["after"] = true
	eventually(t, "the node to be well", func() bool {
		_, text := get(t, n.url("admin", "/readyz"))
		return text == "ok\n"
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	n, _, _ = start(t, c)
	checkPushes(t, entries(t, n), accepted)
}
