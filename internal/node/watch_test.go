package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Changes of what stands above the folder of a file are seen at the next look,
// and after that those in the folder that is there now at once.
func TestWatchFolders(t *testing.T) {
	for _, tt := range []struct {
		name   string
		put    func(dir string, i int) error // makes dir/current the folder with file number i
		change func(dir string, i int) error
	}{
		{"a link to a folder", func(dir string, i int) error {
			return os.Symlink(fmt.Sprint(i), filepath.Join(dir, "current"))
		}, func(dir string, i int) error {
			if err := os.Symlink(fmt.Sprint(i), filepath.Join(dir, "next")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current"))
		}},
		{"a folder", func(dir string, i int) error {
			return os.Rename(filepath.Join(dir, fmt.Sprint(i)), filepath.Join(dir, "current"))
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for i := range 3 {
				if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(dir, fmt.Sprint(i), "cert.pem"), fmt.Sprint("first of ", i))
			}
			if err := tt.put(dir, 0); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "current", "cert.pem")
			w := newWatcher([]string{file}, slog.New(newLogs()))
			look := make(chan time.Time, 2)
			w.look = look
			seen := make(chan string)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { // ends with ctx
				defer close(done)
				w.run(ctx, nil, func() {
					text, _ := os.ReadFile(file)
					select {
					case seen <- string(text):
					case <-ctx.Done():
					}
				})
			}()
			defer func() { cancel(); <-done }()
			wait := func(want string) {
				t.Helper()
				late := time.After(patience)
				for {
					select {
					case got := <-seen:
						if got == want {
							return
						}
					case <-late:
						t.Fatalf("waited for %v: %q is not seen", patience, want)
					}
				}
			}
			for i := 1; i < 3; i++ {
				if tt.change != nil {
					if err := tt.change(dir, i); err != nil {
						t.Fatal(err)
					}
				} else {
					if err := os.Rename(filepath.Join(dir, "current"), filepath.Join(dir, fmt.Sprint("old", i))); err != nil {
						t.Fatal(err)
					}
					wait("") // the file is away, and so is the folder that was watched
					if err := tt.put(dir, i); err != nil {
						t.Fatal(err)
					}
				}
				look <- time.Now()
				wait(fmt.Sprint("first of ", i))
				writeFile(t, file, fmt.Sprint("second of ", i))
				wait(fmt.Sprint("second of ", i))
			}
		})
	}
}

// Where the kernel tells of nothing, changes are seen after lookTime.
func TestWatchBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "cert.pem")
		writeFile(t, file, "first")
		w := newWatcher([]string{file}, slog.New(newLogs()))
		w.close()
		w.notify = nil
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan bool, 10)
		go w.run(ctx, nil, func() { seen <- true }) // ends with ctx
		synctest.Wait()
		time.Sleep(time.Second)
		for range 2 {
			changed := time.Now()
			writeFile(t, file, changed.String())
			select {
			case <-seen:
			case <-time.After(time.Minute):
			}
			if after := time.Since(changed); after > lookTime+settle {
				t.Errorf("a change is seen after %v, want %v at most", after, lookTime+settle)
			}
		}
		time.Sleep(time.Hour)
		if len(seen) > 0 {
			t.Error("a change is seen that was none")
		}
		cancel()
		synctest.Wait()
	})
}
