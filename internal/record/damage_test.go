package record

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// segmentFile returns the file of a segment in the spool.
func (w *world) segmentFile(name string) string {
	w.t.Helper()
	list, err := filepath.Glob(filepath.Join(w.dir, "*", name))
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%q, %v", list, err)
	}
	return list[0]
}

// flip changes one byte of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		b[len(b)/2] ^= 1
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// One segment that the disk has spoiled costs its own media, and no others: the files
// are made of the rest and say what is lost.
func TestDamagedSegment(t *testing.T) {
	for name, restart := range map[string]bool{"running": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *policy.Record, _ *Options) { every(r); r.Segment = 4 * time.Second }, func(t *testing.T, w *world) {
				b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
				w.b = b
				e := w.both(w.push())
				e.run(20_000)
				synctest.Wait()
				flip(t, w.segmentFile("000002.ts"))
				e.end()
				if restart {
					w.kill(time.Minute)
				}
				b.fail(nil)
				list := w.finished(3)
				for _, f := range list {
					if f.Lost != 4*time.Second || f.Duration < 15*time.Second || f.Segments != 4 {
						t.Errorf("%s has %d segments of %v, and %v are lost", f.Key, f.Segments, f.Duration, f.Lost)
					}
					if f.Format != "hls" {
						continue
					}
					got := w.read(f)
					same(t, av.Video, got.frames[av.Video], slices.Concat(w.sent[av.Video][:100], w.sent[av.Video][200:]))
					if got.breaks != 1 {
						t.Errorf("%d discontinuities", got.breaks)
					}
				}
				w.empty()
			})
		})
	}
}

// What is in the bucket is taken from there when the disk has spoiled it.
func TestDamagedAfterUpload(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.sound = false // its frames have the same numbers
		e.run(25_000)
		synctest.Wait()
		name := w.segmentFile("000001.ts")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		spoiled := false
		for _, id := range w.sent[av.Video][:100] { // some numbers are in two packets
			if i := bytes.Index(data, []byte(id)); i >= 0 {
				data[i], spoiled = data[i]^1, true
			}
		}
		if err := os.WriteFile(name, data, 0o600); err != nil || !spoiled {
			t.Fatalf("spoiled: %v, %v", spoiled, err)
		}
		e.end()
		for _, f := range w.finished(3) {
			switch {
			case f.Lost != 0:
				t.Errorf("%s has lost %v", f.Key, f.Lost)
			case f.Format == "hls":
				w.all(w.read(f))
			case f.Format == "flv":
				data := string(w.get(f.Key))
				for _, id := range w.sent[av.Video] {
					if !strings.Contains(data, id) {
						t.Fatalf("frame %s is not in %s", id, f.Key)
					}
				}
			}
		}
		w.empty()
	})
}

// The alert of one bucket lasts until no recording fails for it any more, whatever
// the others do; and it is raised as soon as there is something to say.
func TestUploadAlerts(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { o.BucketName = func(s string) string { return s } }, func(t *testing.T, w *world) {
		away := map[string]*faulty{}
		for _, name := range []string{"a", "b"} {
			dir, err := storage.OpenDirectory(name, t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			away[name] = &faulty{Bucket: dir, err: errors.New("connection refused")}
		}
		well, err := storage.OpenDirectory("well", t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.opt.Bucket = func(name string) (storage.Bucket, error) {
			if b := away[name]; b != nil {
				return b, nil
			}
			return well, nil
		}
		w.start()
		push := func(name, bucket string) *encoder {
			t.Helper()
			app := w.app
			app.Record.Bucket = bucket
			pub, err := w.hub.Publish(stream.Key{Space: "default", App: "live", Name: name}, &app, stream.Push{Sequence: event.NewSequence()})
			if err != nil {
				t.Fatal(err)
			}
			return w.both(pub)
		}
		want := func(raised, cleared string) {
			t.Helper()
			synctest.Wait()
			var r, c []string
			for _, f := range facts[event.AlertRaised](w) {
				r = append(r, strings.TrimPrefix(f.Alert, alertUpload+":"))
			}
			for _, f := range facts[event.AlertCleared](w) {
				c = append(c, strings.TrimPrefix(f.Alert, alertUpload+":"))
			}
			if got := strings.Join(r, " "); got != raised {
				t.Errorf("raised %q, want %q", got, raised)
			}
			if got := strings.Join(c, " "); got != cleared {
				t.Errorf("cleared %q, want %q", got, cleared)
			}
		}
		push("one", "a").run(12_000).end()
		push("two", "a").run(12_000).end()
		time.Sleep(5 * time.Minute)
		want("a", "")
		push("three", "c").run(12_000).end() // a bucket that is well says nothing of others
		time.Sleep(5 * time.Minute)
		want("a", "")
		push("four", "b").run(12_000).end()
		time.Sleep(5 * time.Minute)
		want("a b", "")
		away["a"].fail(nil)
		time.Sleep(5 * time.Minute)
		want("a b", "a")
		away["a"].fail(errors.New("connection refused"))
		push("five", "a").run(12_000).end()
		time.Sleep(5 * time.Minute)
		want("a b a", "a")
		away["a"].fail(nil)
		away["b"].fail(nil)
		time.Sleep(5 * time.Minute)
		if n := len(facts[event.AlertCleared](w)); n != 3 {
			t.Errorf("%d alerts were cleared", n)
		}

		for range 2 { // recordings
			w.r.unreached("d", errors.New("refused"), true)
		}
		w.r.reached("d")
		if n := len(facts[event.AlertCleared](w)); n != 3 {
			t.Errorf("%d alerts were cleared while one still fails", n)
		}
		w.r.reached("d")
		if n := len(facts[event.AlertCleared](w)); n != 4 {
			t.Errorf("%d alerts were cleared", n)
		}
	})
}

// The spool counts what is on the disk, whoever removes it, and whether it can be.
func TestEvictCounts(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.both(w.push()).run(25_000).end()
		synctest.Wait()
		tk := w.r.unfinished(testKey, "")
		before, _ := w.r.spool.level()
		name := w.segmentFile("000001.ts")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		tk.evict(1)
		size := tk.segments[0].Size
		if used, _ := w.r.spool.level(); used != before-size {
			t.Errorf("the spool counts %d bytes of %d without one of %d", used, before, size)
		}
		second := w.segmentFile("000002.ts")
		data, err := os.ReadFile(second)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(second), os.MkdirAll(filepath.Join(second, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
		tk.evict(2) // which is no file now
		if used, _ := w.r.spool.level(); used != before-size || !tk.segments[1].local {
			t.Errorf("the spool counts %d bytes, local is %v", used, tk.segments[1].local)
		}
		if err := errors.Join(os.RemoveAll(second), os.WriteFile(second, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		w.all(w.read(w.finished(1)[0]))
		w.empty()
	})
}

// After a restart, too, the oldest segments make room first, whatever the names of
// their folders are.
func TestEvictionOrderAfterRestart(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Splice = time.Hour }, func(t *testing.T, w *world) {
		for _, name := range []string{"d", "a", "c", "d", "a", "c"} { // each take goes on after the others
			app := w.app
			pub, err := w.hub.Publish(stream.Key{Space: "default", App: "live", Name: name}, &app, stream.Push{Sequence: event.NewSequence()})
			if err != nil {
				t.Fatal(err)
			}
			w.both(pub).run(15_000).end()
		}
		synctest.Wait()
		w.kill(time.Second)
		synctest.Wait()
		w.r.spool.mu.Lock()
		defer w.r.spool.mu.Unlock()
		var order []time.Time
		for _, u := range w.r.spool.uploaded {
			order = append(order, u.t.segments[u.n-1].Time)
		}
		if len(order) != 12 || !slices.IsSortedFunc(order, time.Time.Compare) {
			t.Errorf("%d segments make room, in the order of %v", len(order), order)
		}
	})
}

// A panic in the middle of a segment costs what was not written yet: the push that
// returns does not write over it.
func TestPanicKeepsSegment(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) {
		r.Segment = 10 * time.Second
		o.Log = slog.New(panicky{slog.DiscardHandler})
	}, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.sound = false
		e.run(7000)
		e.write(av.Packet{Kind: av.Video, Codec: av.H264, DTS: e.at, Frame: []byte{0, 0, 0, 99, 0x41}})
		e.end()
		before := len(w.sent[av.Video])
		e = w.both(w.push())
		e.sound = false
		e.run(5000).end()
		got := w.read(w.finished(1)[0]).frames[av.Video]
		again := w.sent[av.Video][before:]
		n := len(got) - len(again)
		if n < before-13 || n > before {
			t.Fatalf("%d frames of the first push are there, of %d", n, before)
		}
		same(t, av.Video, got[:n], w.sent[av.Video][:n])
		same(t, av.Video, got[n:], again)
		w.empty()
	})
}

// panicky panics when a frame is left out.
type panicky struct{ slog.Handler }

func (panicky) Enabled(context.Context, slog.Level) bool { return true }
func (p panicky) WithAttrs([]slog.Attr) slog.Handler     { return p }
func (panicky) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "frame left out") {
		panic("a bug")
	}
	return nil
}
