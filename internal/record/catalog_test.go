package record

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// Recordings are found by their keys, by time; they are deleted whole, and
// nothing else is.
func TestFiles(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Splice, r.MP4.Enabled, r.Prefix = 0, true, "p" }, func(t *testing.T, w *world) {
		cfg := &w.app.Record
		for range 3 {
			w.both(w.push()).run(20_000).end()
			time.Sleep(time.Minute)
		}
		w.finished(6)
		files := func(from, to time.Time) []File {
			t.Helper()
			list, err := w.r.Files(t.Context(), testKey, cfg, from, to)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		all := files(time.Time{}, time.Time{})
		if len(all) != 6 || all[0].Format != "hls" || all[1].Format != "mp4" || all[5].Start.Sub(all[0].Start) != 160*time.Second {
			t.Fatalf("files %+v", all)
		}
		first := all[0].Start
		for _, c := range []struct{ from, to, n int }{{0, 0, 2}, {19, 21, 2}, {25, 75, 0}, {25, 80, 2}, {0, 85, 4}, {200, 300, 0}} {
			if n := len(files(first.Add(time.Duration(c.from)*time.Second), first.Add(time.Duration(c.to)*time.Second))); n != c.n {
				t.Errorf("%d files from %d to %d, want %d", n, c.from, c.to, c.n)
			}
		}
		for _, key := range []string{"", "../hls/" + path.Base(all[0].Key), "other-1-2.mp4", path.Base(all[0].Key) + "x", all[0].Key, "s-1-1.m3u8", "s-1-1-x.m3u8", "s-1-1-2-3-4.m3u8"} {
			if err := w.r.Delete(t.Context(), testKey, cfg, key); !errors.Is(err, ErrNoFile) {
				t.Errorf("Delete(%q) = %v, want ErrNoFile", key, err)
			}
		}
		for range 2 { // a second time is no error
			if err := w.r.Delete(t.Context(), testKey, cfg, path.Base(all[0].Key)); err != nil {
				t.Error(err)
			}
		}
		if n := len(files(time.Time{}, time.Time{})); n != 5 {
			t.Errorf("%d files after one was deleted", n)
		}
		objects, err := w.b.List(t.Context(), "", "", 0)
		if err != nil || len(objects) != 3+2*3 {
			t.Errorf("%d objects are left, %v", len(objects), err)
		}
	})
}

// retain deletes what the app, changed, does not keep, and returns how many.
func (w *world) retain(change func(*policy.Record)) int {
	w.t.Helper()
	app := w.app
	change(&app.Record)
	n, err := w.r.Retain(w.t.Context(), &policy.Set{Spaces: []policy.Space{{Name: "default", Apps: []policy.App{app}}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// What is older than keep_age, or too much for keep_size, is deleted.
func TestRetain(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Splice = 0 }, func(t *testing.T, w *world) {
		for range 4 {
			w.both(w.push()).run(20_000).end()
			time.Sleep(time.Hour - 20*time.Second)
		}
		w.finished(4)
		if n := w.retain(func(*policy.Record) {}); n != 0 {
			t.Errorf("%d were deleted without a rule", n)
		}
		if n := w.retain(func(r *policy.Record) { r.KeepAge = 210 * time.Minute }); n != 1 {
			t.Errorf("%d were deleted, want the one that is four hours old", n)
		}
		// A recording has about 190 kB.
		if n := w.retain(func(r *policy.Record) { r.KeepSize = 450_000 }); n != 1 {
			t.Errorf("%d were deleted, want one of three", n)
		}
		left, err := w.r.Files(t.Context(), testKey, &w.app.Record, time.Time{}, time.Time{})
		if err != nil || len(left) != 2 || time.Since(left[0].Start) > 3*time.Hour {
			t.Errorf("left are %+v, %v", left, err)
		}
	})
}

// A deletion that is interrupted can be asked for again.
func TestDeleteInterrupted(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b}
		w.b = b
		w.both(w.push()).run(25_000).end()
		name := path.Base(w.finished(1)[0].Key)
		b.deletes = 2
		if err := w.r.Delete(t.Context(), testKey, &w.app.Record, name); err == nil {
			t.Fatal("the deletion was not interrupted")
		}
		if err := w.r.Delete(t.Context(), testKey, &w.app.Record, name); err != nil {
			t.Error(err)
		}
		if objects, err := w.b.List(t.Context(), "", "", 0); err != nil || len(objects) > 0 {
			t.Errorf("left are %+v, %v", objects, err)
		}
	})
}

// Segments of a recording that has failed go when nothing so old is kept, and
// nobody else's.
func TestRetainRest(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.KeepAge = time.Hour }, func(t *testing.T, w *world) {
		dir := t.TempDir()
		d, err := storage.OpenDirectory("archive", dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &faulty{Bucket: d}
		w.b = b
		e := w.both(w.push())
		e.run(25_000)
		synctest.Wait()
		b.fail(errors.New("quota exceeded"))
		e.end()
		if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(name, time.Time{}, time.Now())) // the disk's clock is not virtual
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(80 * time.Hour)
		if n := len(facts[event.RecordFailed](w)); n != 1 {
			t.Fatalf("%d recordings have failed", n)
		}
		b.fail(nil)
		segments := func() (n int) {
			t.Helper()
			if _, err := w.r.Retain(t.Context(), &policy.Set{Spaces: []policy.Space{{Name: "default", Apps: []policy.App{w.app}}}}); err != nil {
				t.Fatal(err)
			}
			objects, err := w.b.List(t.Context(), "", "", 0)
			if err != nil {
				t.Fatal(err)
			}
			return len(objects)
		}
		if n := segments(); n != 2 {
			t.Errorf("%d objects are left, want the two segments: another node could still go on with them", n)
		}
		time.Sleep(17 * time.Hour)
		e = w.both(w.push())
		e.run(15_000)
		synctest.Wait()
		if n := segments(); n != 1 {
			t.Errorf("%d objects are left, want a segment of the recording that is being made", n)
		}
		e.end()
	})
}

// On demand: an order records what is on the air from the newest key frame on,
// and whatever returns; Stop makes the file final at once.
func TestOrder(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) { r.Mode = policy.RecordRequest }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.run(10_000)
		if n := w.r.Stats().Recording; n != 0 {
			t.Fatalf("%d recordings that nobody asked for", n)
		}
		off := policy.DefaultApp("live")
		if _, err := w.r.Order(t.Context(), testKey, &off, time.Time{}, time.Time{}); !errors.Is(err, ErrOff) {
			t.Errorf("an order where recording is off: %v", err)
		}
		if recording, ordered, err := w.r.Stop(t.Context(), testKey); recording || ordered || err != nil {
			t.Errorf("Stop of nothing: %v, %v, %v", recording, ordered, err)
		}
		o, err := w.r.Order(t.Context(), testKey, &w.app, time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		e.run(5000).end()
		time.Sleep(time.Minute)
		e = w.both(w.push())
		e.run(5000)
		if u := w.r.Unfinished(); len(u) != 1 || u[0].State != "recording" || u[0].Key != testKey {
			t.Errorf("unfinished: %+v", u)
		}
		if recording, ordered, err := w.r.Stop(t.Context(), testKey); !recording || !ordered || err != nil {
			t.Fatalf("Stop = %v, %v, %v", recording, ordered, err)
		}
		f := w.finished(1)[0]
		got := w.read(f)
		if n := len(got.frames[av.Video]); n < 250 || n > 275 {
			t.Errorf("%d frames, want those of 10 s and of the group before the order", n)
		}
		e.run(5000).end()
		if list := w.r.Orders(); len(list) != 0 {
			t.Errorf("orders after Stop: %+v", list)
		}
		if err := w.r.Cancel(t.Context(), o.ID); !errors.Is(err, ErrNoOrder) {
			t.Errorf("Cancel of what is gone: %v", err)
		}
		time.Sleep(time.Hour)
		w.finished(1)
	})
}

// What ends a recording ends it also while the push waits for its turn; an order that
// comes while a recording is being stopped is carried out after that.
func TestStoppedBeforeItsTurn(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *world, Order){
		"Stop": func(t *testing.T, w *world, _ Order) {
			if recording, ordered, err := w.r.Stop(t.Context(), testKey); !recording || !ordered || err != nil {
				t.Errorf("Stop = %v, %v, %v", recording, ordered, err)
			}
		},
		"Cancel": func(t *testing.T, w *world, o Order) {
			if err := w.r.Cancel(t.Context(), o.ID); err != nil {
				t.Error(err)
			}
		},
		"End": func(_ *testing.T, _ *world, o Order) { time.Sleep(time.Until(o.End)) },
	} {
		for _, early := range []bool{false, true} { // the order was there before the push
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " early ", early, " again ", again), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(r *policy.Record, _ *Options) { r.Mode, r.Splice = policy.RecordRequest, 0 }, func(t *testing.T, w *world) {
						w.r.mu.Lock()
						turn := w.r.placeOf(testKey).turn
						w.r.mu.Unlock()
						turn <- struct{}{} // as if the one before waited for its disk
						order := func() Order {
							o, err := w.r.Order(t.Context(), testKey, &w.app, time.Time{}, time.Now().Add(time.Second))
							if err != nil {
								t.Fatal(err)
							}
							return o
						}
						var o Order
						if early {
							o = order()
						}
						e := w.both(w.push())
						synctest.Wait()
						if !early {
							o = order()
							synctest.Wait()
						}
						end(t, w, o)
						synctest.Wait()
						if again {
							order()
						}
						<-turn
						e.run(3000).end()
						time.Sleep(time.Minute)
						want := 0
						if again {
							want = 1
						}
						if list := facts[event.RecordStarted](w); len(list) != want {
							t.Fatalf("%d recordings have begun, want %d", len(list), want)
						}
						w.finished(want)
						w.r.mu.Lock()
						defer w.r.mu.Unlock()
						if n := len(w.r.places); n != 0 {
							t.Errorf("%d places are left", n)
						}
					})
				})
			}
		}
	}
}

// lateStore does not remove anything for a while.
type lateStore struct {
	jetstream.KeyValue
	purged int
	until  int
}

func (s *lateStore) Create(context.Context, string, []byte, ...jetstream.KVCreateOpt) (uint64, error) {
	return 1, nil
}

func (s *lateStore) WatchAll(context.Context, ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	return nil, errors.New("no watch")
}

func (s *lateStore) Purge(context.Context, string, ...jetstream.KVDeleteOpt) error {
	if s.purged++; s.purged < s.until {
		return errors.New("no quorum")
	}
	return nil
}

// An order that is over goes when it can be removed, though nothing else happens then.
func TestOrderIsRemovedLate(t *testing.T) {
	kv := &lateStore{until: 4}
	bubble(t, func(r *policy.Record, o *Options) {
		r.Mode, o.Orders = policy.RecordRequest, NewOrders(struct{ jetstream.JetStream }{}, 1, slog.New(slog.DiscardHandler))
		o.Orders.kv = kv
	}, func(t *testing.T, w *world) {
		if _, err := w.r.Order(t.Context(), testKey, &w.app, time.Time{}, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(w.r.Orders()); n != 0 || kv.purged != kv.until {
			t.Errorf("%d orders after %d attempts, want 0 after %d", n, kv.purged, kv.until)
		}
	})
}

// A scheduled recording begins and ends by the clock, also after a restart of the
// Recorder.
func TestSchedule(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) {
		r.Mode, o.Orders = policy.RecordParam, NewOrders(nil, 0, slog.New(slog.DiscardHandler))
	}, func(t *testing.T, w *world) {
		now := time.Now()
		for _, c := range []struct{ start, end time.Duration }{{2 * time.Hour, time.Hour}, {-2 * time.Hour, -time.Hour}} {
			if _, err := w.r.Order(t.Context(), testKey, &w.app, now.Add(c.start), now.Add(c.end)); !errors.Is(err, ErrOrder) {
				t.Errorf("an order from %v to %v: %v", c.start, c.end, err)
			}
		}
		if _, err := w.r.Order(t.Context(), testKey, &w.app, now.Add(time.Minute), now.Add(90*time.Second)); err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.start()
		e := w.both(w.push())
		e.run(120_000)
		f := w.finished(1)[0]
		if d := f.Duration - 30*time.Second; d < -time.Second || d > 2*time.Second {
			t.Errorf("recorded %v, want 30s", f.Duration)
		}
		if len(w.r.Orders()) != 0 {
			t.Errorf("orders %+v", w.r.Orders())
		}
		e.end()
		w.both(w.push("record=1")).run(3000).end()
		w.finished(2)
	})
}

// H52: whatever a bucket holds, reading it leads nowhere else.
func TestForeignPlaylist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		defer w.stop()
		key := "record/live/s-1/hls/s-1-1-2.m3u8"
		for _, uri := range []string{"../../x.ts", "/etc/passwd", "http://evil.example/x.ts", "a/../../../b.ts"} {
			text := "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n" + uri + "\n"
			if _, err := w.b.Put(t.Context(), key, strings.NewReader(text), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := w.r.Delete(context.Background(), stream.Key{Space: "default", App: "live", Name: "s-1"}, &w.app.Record, path.Base(key)); err == nil {
				t.Errorf("deleted the segment %q", uri)
			}
		}
	})
}
