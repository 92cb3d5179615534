package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// copySpool copies the spool as it is now: what a process that dies now leaves.
func (w *world) copySpool() string {
	for {
		dir := w.t.TempDir()
		err := os.CopyFS(dir, os.DirFS(w.dir))
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile: that was no moment
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return dir
	}
}

// kill ends hub and Recorder as kill -9 does, after d, and starts them again.
func (w *world) kill(d time.Duration) {
	w.t.Helper()
	synctest.Wait()
	dir := w.copySpool()
	w.stop()
	w.dir, w.opt.Dir = dir, dir
	time.Sleep(d)
	w.start()
}

// I6, F22: a process that is killed again and again, with pushes that return,
// makes one file, in which at most the last half second before each kill is
// missing; and there is one fact about it.
func TestKill(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"plain":      func(*encoder) {},
		"B-frames":   func(e *encoder) { e.reorder = true },
		"audio only": func(e *encoder) { e.picture = false },
		"HEVC":       func(e *encoder) { e.hevc = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { r.Segment = 4 * time.Second }, func(t *testing.T, w *world) {
				const kills = 8
				missing := map[av.Kind]int{}
				for range kills {
					e := w.both(w.push())
					change(e)
					e.run(2000 + rand.Int64N(9000)/20*20)
					w.kill(time.Duration(rand.Int64N(int64(170 * time.Second))))
				}
				e := w.both(w.push())
				change(e)
				e.run(5000).end()
				f := w.finished(1)[0]
				got := w.read(f)
				for _, k := range []av.Kind{av.Video, av.Audio} {
					missing[k] = len(w.sent[k]) - len(got.frames[k])
					at := 0
					for _, id := range got.frames[k] {
						i := slices.Index(w.sent[k][at:], id)
						if i < 0 || i > 26 {
							t.Fatalf("%v frame %s is out of order, or %d are missing before it", k, id, i)
						}
						at += i + 1
					}
				}
				if missing[av.Video] > 13*kills || missing[av.Audio] > 26*kills {
					t.Errorf("%v frames are missing after %d kills", missing, kills)
				}
				if len(f.Pushes) != kills+1 {
					t.Errorf("%d pushes", len(f.Pushes))
				}
				w.empty()
			})
		})
	}
}

// Who does not return after a kill: the file is finished by the restart, with
// all of it, whether the window is over by then or not.
func TestKillAndNoReturn(t *testing.T) {
	for _, away := range []time.Duration{0, time.Minute, time.Hour} {
		bubble(t, nil, func(t *testing.T, w *world) {
			began := time.Now()
			e := w.both(w.push())
			e.run(25_000)
			w.kill(away)
			f := w.finished(1)[0]
			got := w.read(f)
			if n := len(w.sent[av.Video]) - len(got.frames[av.Video]); n > 13 || n < 0 {
				t.Errorf("%d frames are missing", n)
			}
			if d := f.End.Sub(began).Seconds(); d < 24 || d > 26 {
				t.Errorf("ended after %v s", d)
			}
			w.empty()
		})
	}
}

// A power cut can leave less of the segment being written, or zeros in it: the
// rest is there, and no piece that is not whole.
func TestPowerCut(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"cut":      func(b []byte) []byte { return b[:len(b)/2-50] },
		"a packet": func(b []byte) []byte { return b[:100*188] },
		"zeros":    func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		"nothing":  func(b []byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *policy.Record, _ *Options) { r.Segment = 10 * time.Second }, func(t *testing.T, w *world) {
				w.both(w.push()).run(26_000)
				synctest.Wait()
				dir := w.copySpool()
				w.stop()
				list, err := filepath.Glob(filepath.Join(dir, "*", "000003.ts"))
				if err != nil || len(list) != 1 {
					t.Fatalf("%q, %v", list, err)
				}
				b, err := os.ReadFile(list[0])
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(list[0], damage(b), 0o600); err != nil {
					t.Fatal(err)
				}
				journal := filepath.Join(filepath.Dir(list[0]), journalName)
				text, err := os.ReadFile(journal)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(journal, append(text, `{"seg`...), 0o600); err != nil {
					t.Fatal(err)
				}
				w.dir, w.opt.Dir = dir, dir
				w.start()
				got := w.read(w.finished(1)[0])
				n := len(got.frames[av.Video])
				if n < 500 {
					t.Errorf("%d frames are there of the 500 in whole segments", n)
				}
				same(t, av.Video, got.frames[av.Video], w.sent[av.Video][:n])
				if n := len(got.frames[av.Audio]); n < 1000 {
					t.Errorf("%d frames of sound are there", n)
				}
				w.empty()
			})
		})
	}
}

// faulty is a bucket that fails, or does something first.
type faulty struct {
	storage.Bucket
	mu   sync.Mutex
	err  error
	puts int

	deletes int              // which Delete fails, counted from 1
	then    func(key string) // after a Put
}

func (f *faulty) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *faulty) failing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *faulty) Put(ctx context.Context, key string, body io.Reader, o storage.PutOptions) (storage.Object, error) {
	if err := f.failing(); err != nil {
		return storage.Object{}, err
	}
	f.mu.Lock()
	f.puts++
	f.mu.Unlock()
	obj, err := f.Bucket.Put(ctx, key, body, o)
	if f.then != nil && err == nil {
		f.then(key)
	}
	return obj, err
}

func (f *faulty) Stat(ctx context.Context, key string) (storage.Object, error) {
	if err := f.failing(); err != nil {
		return storage.Object{}, err
	}
	return f.Bucket.Stat(ctx, key)
}

func (f *faulty) List(ctx context.Context, prefix, after string, limit int) ([]storage.Object, error) {
	if err := f.failing(); err != nil {
		return nil, err
	}
	return f.Bucket.List(ctx, prefix, after, limit)
}

func (f *faulty) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, storage.Object, error) {
	if err := f.failing(); err != nil {
		return nil, storage.Object{}, err
	}
	return f.Bucket.Get(ctx, key, off, n)
}

func (f *faulty) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	if err := f.failing(); err != nil {
		return nil, err
	}
	return f.Bucket.Upload(ctx, key, o)
}

func (f *faulty) Delete(ctx context.Context, keys ...string) error {
	f.mu.Lock()
	f.deletes--
	out := f.deletes == 0
	f.mu.Unlock()
	if out {
		return errors.New("connection reset")
	}
	return f.Bucket.Delete(ctx, keys...)
}

// A process that dies between any two steps of finishing a file makes the same
// file under the same name, and says the same of it.
func TestKillWhileFinishing(t *testing.T) {
	for name, at := range map[string]string{"segment is up": ".ts", "playlist is up": ".m3u8", "fact is told": "fact"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				b := &faulty{Bucket: w.b}
				w.b = b
				var once sync.Once
				dir := ""
				snap := func() { once.Do(func() { dir = w.copySpool() }) }
				b.then = func(key string) {
					if strings.HasSuffix(key, at) {
						snap()
					}
				}
				emit := w.opt.Emit
				w.stop()
				w.opt.Emit = func(e event.Event) {
					emit(e)
					if e.Type == event.TypeRecordFinished && at == "fact" {
						snap()
					}
				}
				w.start()
				w.both(w.push()).run(8000).end()
				w.finished(1)
				w.stop()
				if dir == "" {
					t.Fatal("there was no such moment")
				}
				w.dir, w.opt.Dir = dir, dir
				w.start()
				list := w.finished(2)
				w.all(w.read(list[1]))
				if at == ".ts" { // the push was not over then, and nobody knows when it was
					return
				}
				if list[0].Key != list[1].Key || list[0].Task != list[1].Task {
					t.Errorf("first %s of %s, then %s of %s", list[0].Key, list[0].Task, list[1].Key, list[1].Task)
				}
				if at == "fact" {
					var texts [][]byte
					for _, e := range w.events {
						if e.Type == event.TypeRecordFinished {
							text, err := json.Marshal(e)
							if err != nil {
								t.Fatal(err)
							}
							texts = append(texts, text)
						}
					}
					if !bytes.Equal(texts[0], texts[1]) {
						t.Errorf("the fact was told as\n%s\nand as\n%s", texts[0], texts[1])
					}
				}
				objects, err := w.b.List(t.Context(), "", "", 0)
				if err != nil || len(objects) != 2 {
					t.Errorf("%d objects, %v: %+v", len(objects), err, objects)
				}
				w.empty()
			})
		})
	}
}

// F25: the bucket is away for hours. All arrives when it is back, once, and
// there is no fact before its file.
func TestBucketAway(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
		w.b = b
		w.both(w.push()).run(65_000).end()
		time.Sleep(3 * time.Hour)
		if n := len(facts[event.RecordFinished](w)) + len(facts[event.RecordFailed](w)); n != 0 {
			t.Errorf("%d facts while there is no bucket", n)
		}
		raised := facts[event.AlertRaised](w)
		if len(raised) != 1 || raised[0].Alert != alertUpload+":" {
			t.Errorf("alerts %+v", raised)
		}
		b.fail(nil)
		w.all(w.read(w.finished(1)[0]))
		if b.puts != 8 {
			t.Errorf("%d objects were put, want 7 segments and a playlist", b.puts)
		}
		if n := len(facts[event.AlertCleared](w)); n != 1 {
			t.Errorf("%d alerts were cleared", n)
		}
		w.empty()
	})
}

// F25: with a second bucket recordings are finished while the first one is away,
// also if it went away in the middle; and when it is back, who has the URL of one plays
// what is in both.
func TestSecondBucket(t *testing.T) {
	for name, first := range map[string]int64{"away from the beginning": 0, "goes away": 25_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer, err := storage.NewSigner("http://weir.example/-/objects", make([]byte, 16))
			if err != nil {
				t.Fatal(err)
			}
			bubble(t, func(r *policy.Record, o *Options) {
				every(r)
				o.Signer, o.BucketName = signer, func(string) string { return "archive" }
			}, func(t *testing.T, w *world) {
				second, err := storage.OpenDirectory("second", t.TempDir(), nil)
				if err != nil {
					t.Fatal(err)
				}
				b := &faulty{Bucket: w.b}
				w.b = storage.Failover(b, second, 5*time.Second)
				e := w.both(w.push())
				e.run(first)
				synctest.Wait()
				b.fail(errors.New("connection refused"))
				e.run(45_000 - first).end()
				list, _ := w.everywhere(1)
				for _, f := range w.finished(3) {
					if f.Bucket != "second" {
						t.Errorf("%s is in the bucket %q", f.Key, f.Bucket)
					}
				}
				w.empty()

				b.fail(nil)
				key := path.Join(path.Dir(list[0].Key), path.Dir(w.read(list[0]).list.Segments[0].URI), "000002.ts")
				if first > 0 { // as if it had been too old to be here any more
					if err := second.Delete(t.Context(), key); err != nil {
						t.Fatal(err)
					}
				}
				link, err := w.r.URL(t.Context(), testKey, &w.app.Record, path.Base(list[0].Key), time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				handler := http.StripPrefix("/-/objects", signer.Handler(func(name string) (storage.Bucket, error) {
					if name == "second" {
						return second, nil
					}
					return w.b, nil
				}))
				get := func(ref string) string {
					t.Helper()
					u, err := url.Parse(link)
					if err == nil {
						u, err = u.Parse(ref)
					}
					if err != nil {
						t.Fatal(err)
					}
					rec := httptest.NewRecorder()
					handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", u.String(), nil))
					if rec.Code != http.StatusOK {
						t.Errorf("GET %s: %d %s", ref, rec.Code, rec.Body)
					}
					return rec.Body.String()
				}
				text, err := m3u8.Parse([]byte(get("")))
				if err != nil || len(text.Segments) != list[0].Segments {
					t.Fatalf("playlist %+v, %v", text, err)
				}
				for _, s := range text.Segments {
					get(s.URI)
				}
			})
		})
	}
}

// A segment that is nowhere any more costs its own media, and the recording nothing
// else; when there is nothing left, there is no recording.
func TestMissingSegment(t *testing.T) {
	remove := func(w *world, pattern string) {
		w.t.Helper()
		synctest.Wait()
		local, err := filepath.Glob(filepath.Join(w.dir, "*", pattern))
		if err != nil || len(local) == 0 {
			w.t.Fatalf("segments %q, %v", local, err)
		}
		for _, name := range local {
			if err := os.Remove(name); err != nil {
				w.t.Error(err)
			}
		}
		objects, err := w.b.List(w.t.Context(), "", "", 0)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, o := range objects {
			if ok, _ := path.Match(pattern, path.Base(o.Key)); ok {
				if err := w.b.Delete(w.t.Context(), o.Key); err != nil {
					w.t.Error(err)
				}
			}
		}
	}
	for name, restart := range map[string]bool{"at the end": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
				e := w.both(w.push())
				e.run(45_000).end()
				remove(w, "000002.ts")
				if restart {
					w.kill(time.Second)
				}
				var files []*file
				for _, f := range w.finished(3) {
					got := w.readAny(&f)
					if d := (f.Duration - 35*time.Second).Abs(); f.Lost != 10*time.Second || d > 200*time.Millisecond || f.Media != nil && (f.Media.Duration-f.Duration).Abs() > 200*time.Millisecond {
						t.Errorf("%s has %v and lost %v, media %+v", f.Format, f.Duration, f.Lost, f.Media)
					}
					if f.Format == "hls" && (f.Segments != 4 || got.breaks != 1) {
						t.Errorf("%d segments, %d discontinuities", f.Segments, got.breaks)
					}
					files = append(files, got)
				}
				want := slices.Delete(slices.Clone(w.sent[av.Video]), 250, 500)
				for _, f := range files {
					same(t, av.Video, f.frames[av.Video], want)
					if !slices.Equal(f.frames[av.Audio], files[0].frames[av.Audio]) {
						t.Errorf("%d frames of sound, and %d", len(f.frames[av.Audio]), len(files[0].frames[av.Audio]))
					}
				}
				w.empty()
			})
		})
	}
	t.Run("all of them", func(t *testing.T) {
		bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
			w.both(w.push()).run(25_000).end()
			remove(w, "*.ts")
			time.Sleep(10 * time.Minute)
			list := facts[event.RecordFailed](w)
			if len(list) != 3 || list[0].Errnum != errnumMedia {
				t.Errorf("failures %+v", list)
			}
			w.finished(0)
			w.empty()
		})
	})
}

// What could not be put on the disk is not in the segment: it is not counted, and
// is not in its checksum.
func TestNotSynced(t *testing.T) {
	w := newWorld(t, func(_ *policy.Record, o *Options) { o.Sync = time.Nanosecond })
	defer w.stop()
	k, err := w.r.newTake(head{Task: event.NewSequence(), Space: "default", App: "live", Stream: "s-1", Start: time.Now(), Record: w.app.Record})
	if err != nil {
		t.Fatal(err)
	}
	defer k.remove()
	if err := k.begin(segment{Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := k.append(make([]byte, packetSize)); err != nil {
		t.Fatal(err)
	}
	sum := k.hash.Sum(nil)
	file := k.out
	defer file.Close()
	if k.out, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil { // takes everything, and cannot put it on a disk
		t.Fatal(err)
	}
	defer k.out.Close()
	if err := k.append(make([]byte, packetSize)); err == nil {
		t.Fatal("the second piece is on the disk")
	}
	if used, _ := w.r.spool.level(); k.written != packetSize || used != packetSize || !bytes.Equal(k.hash.Sum(nil), sum) {
		t.Errorf("the segment has %d bytes, the spool %d, want those of the first piece", k.written, used)
	}
}

// A bucket that never comes back: the recording has failed, and the spool is
// free again.
func TestGiveUp(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { r.HLS.Callback = "http://x.example/" }, func(t *testing.T, w *world) {
		w.b = &faulty{Bucket: w.b, err: errors.New("no route to host")}
		w.both(w.push()).run(15_000).end()
		time.Sleep(71 * time.Hour)
		if n := len(facts[event.RecordFailed](w)); n != 0 {
			t.Fatalf("given up too soon")
		}
		time.Sleep(2 * time.Hour)
		list := facts[event.RecordFailed](w)
		if len(list) != 1 || list[0].Errnum != errnumStorage || !strings.Contains(list[0].Errmsg, "no route") || list[0].Recording.Callback == nil {
			t.Errorf("failures %+v", list)
		}
		w.empty()
	})
}

// A node that was down for longer than uploads are tried tries them for a while
// all the same.
func TestDownForLong(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b, err: errors.New("no route to host")}
		w.b = b
		w.both(w.push()).run(15_000).end()
		time.Sleep(time.Hour)
		w.stop()
		time.Sleep(100 * time.Hour)
		w.start()
		time.Sleep(30 * time.Second)
		b.fail(nil)
		w.all(w.read(w.finished(1)[0]))
		w.empty()
	})
}

// A folder in the spool that is none of a recording is none of our business:
// somebody may have given weir a folder with something in it.
func TestForeignFolder(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.stop()
		name := filepath.Join(w.dir, "photos", "a")
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	})
}

// The encoder changes while there is no room: recording goes on when there is.
func TestSpoolFullAtAChange(t *testing.T) {
	bubble(t, func(_ *policy.Record, o *Options) { o.Size = 1 << 20 }, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
		w.b = b
		e := w.both(w.push())
		e.sound = false
		e.run(1000)
		// In-band parameter sets, each time others, with no time for the piece to
		// be written before.
		var sets []byte
		for i := range 200 {
			sps := append(unhex("67640028acd940780227e5c05a808080a0000003002000000781e30632c0"), byte(i))
			sets = slices.Concat([]byte{0, 0, 0, byte(len(sps))}, sps, []byte{0, 0, 0, 5}, unhex("68ebe3cb22"))
			frame := slices.Concat(sets, e.frame(av.Video, true))
			e.size = 20_000
			e.write(av.Packet{Kind: av.Video, Codec: av.H264, Key: true, DTS: e.at, Frame: frame})
			e.at += 40
			time.Sleep(40 * time.Millisecond)
		}
		if n := w.r.Stats().Stops; n == 0 {
			t.Error("there was room")
		}
		b.fail(nil)
		e.size = 0
		e.run(90_000).end()
		got := w.read(w.finished(1)[0]).frames[av.Video]
		if last := w.sent[av.Video][len(w.sent[av.Video])-1]; !strings.HasPrefix(last, got[len(got)-1]) {
			t.Errorf("the last frame that is there is %s, want %s", got[len(got)-1], last)
		}
	})
}

// The spool is bounded: what is uploaded makes room, and when nothing is,
// recording stops, and goes on at a key frame when there is room. Nobody else
// notices.
func TestSpoolFull(t *testing.T) {
	t.Run("uploaded", func(t *testing.T) {
		bubble(t, func(_ *policy.Record, o *Options) { o.Size = 2 << 20 }, func(t *testing.T, w *world) {
			e := w.both(w.push())
			e.size = 3000
			e.run(120_000).end()
			synctest.Wait()
			if used, limit := w.r.spool.level(); used > limit {
				t.Errorf("the spool has %d bytes, more than %d", used, limit)
			}
			// What went was the oldest: the rest is the end, without a gap.
			list, err := filepath.Glob(filepath.Join(w.dir, "*", "*.ts"))
			if err != nil || len(list) < 2 || len(list) > 8 {
				t.Fatalf("segments %q, %v", list, err)
			}
			for i, name := range list {
				if want := (&segment{N: 12 - len(list) + i + 1}).name(); filepath.Base(name) != want {
					t.Errorf("the spool has %s where %s should be", filepath.Base(name), want)
				}
			}
			w.all(w.read(w.finished(1)[0]))
			if n := w.r.Stats().Stops; n != 0 {
				t.Errorf("recording stopped %d times", n)
			}
			w.empty()
		})
	})
	t.Run("not uploaded", func(t *testing.T) {
		bubble(t, func(r *policy.Record, o *Options) { o.Size = 2 << 20 }, func(t *testing.T, w *world) {
			b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
			w.b = b
			player := w.hubReader()
			e := w.both(w.push())
			e.size = 3000
			e.run(60_000)
			if n := w.r.Stats().Stops; n < 5 || n > 60 {
				t.Errorf("recording stopped %d times in half a minute", n)
			}
			var names []string
			for _, a := range facts[event.AlertRaised](w) {
				names = append(names, a.Alert)
			}
			// F25: first that it is about to be full, then that it is.
			if want := []string{alertHigh, alertSpool}; !slices.Equal(slices.DeleteFunc(names, func(s string) bool { return strings.HasPrefix(s, alertUpload) }), want) {
				t.Errorf("alerts %q, want %q", names, want)
			}
			for _, a := range facts[event.AlertRaised](w) {
				if a.Alert == alertHigh && (a.Limit != 2<<20 || a.Value < 0.8*a.Limit || a.Value > 0.9*a.Limit) {
					t.Errorf("alert %+v", a)
				}
			}
			if used, limit := w.r.spool.level(); used > limit || used < limit/2 {
				t.Errorf("the spool has %d bytes of %d", used, limit)
			}
			b.fail(nil)
			e.run(90_000).end()
			f := w.finished(1)[0]
			got := w.read(f)
			n := len(got.frames[av.Video])
			lost := time.Duration(len(w.sent[av.Video])-n) * 40 * time.Millisecond
			if f.Lost < lost-2*time.Second || f.Lost > lost+2*time.Second || lost < 10*time.Second || lost > 110*time.Second {
				t.Errorf("lost %v, and the fact says %v", lost, f.Lost)
			}
			if total := f.Duration + f.Lost - 150*time.Second; total < -2*time.Second || total > 2*time.Second {
				t.Errorf("%v are there and %v lost, of 150s", f.Duration, f.Lost)
			}
			if n := player(); n != len(w.sent[av.Video]) {
				t.Errorf("a player saw %d frames of %d", n, len(w.sent[av.Video]))
			}
			if n := len(facts[event.AlertRaised](w)) - len(facts[event.AlertCleared](w)); n != 0 {
				t.Errorf("%d alerts are left", n)
			}
			w.empty()
		})
	})
}

// A disk that stands still costs the media that come meanwhile: the fact says how
// much, and there is an alert.
func TestSlowDisk(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { r.Segment, o.Size = time.Second, 10<<20 }, func(t *testing.T, w *world) {
		b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
		w.b = b
		still, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.r.spool.high = func(is bool) {
			once.Do(func() {
				close(still)
				<-goOn
			})
		}
		e := w.both(w.push())
		e.size = 100_000
		e.run(10_000)
		<-still
		e.run(25_000)
		close(goOn)
		b.fail(nil)
		e.size = 0
		e.run(150_000).end()
		f := w.finished(1)[0]
		w.read(f)
		if total := f.Duration + f.Lost - 185*time.Second; f.Lost < 20*time.Second || total.Abs() > 3*time.Second {
			t.Errorf("%v are there and %v lost, of 185s", f.Duration, f.Lost)
		}
		raised, cleared := facts[event.AlertRaised](w), facts[event.AlertCleared](w)
		if !slices.ContainsFunc(raised, func(a event.AlertRaised) bool { return a.Alert == alertSlow }) ||
			!slices.ContainsFunc(cleared, func(a event.AlertCleared) bool { return a.Alert == alertSlow }) {
			t.Errorf("alerts raised %+v, and cleared %+v", raised, cleared)
		}
		w.empty()
	})
}

// hubReader returns a function that says how many frames a reader of the next
// push has seen.
func (w *world) hubReader() func() int {
	n := 0
	done := make(chan struct{})
	go func() { // ends with the publication
		defer close(done)
		for w.hub.Find(testKey) == nil {
			time.Sleep(time.Millisecond)
		}
		r := w.hub.Find(testKey).Publication().NewReader()
		defer r.Close()
		for {
			p, err := r.ReadPacket()
			if err != nil {
				return
			}
			if p.Kind == av.Video && !p.Config {
				n++
			}
		}
	}()
	return func() int { <-done; return n }
}

// A push for which there was no room from its beginning to its end leaves a fact
// that says so.
func TestNoRoomAtAll(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=2"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	bubble(t, func(r *policy.Record, o *Options) { o.Dir = dir; r.HLS.Callback = "http://x.example/" }, func(t *testing.T, w *world) {
		w.dir = dir
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.both(w.push()).run(20_000).end()
		synctest.Wait()
		list := facts[event.RecordFailed](w)
		if len(list) != 1 || list[0].Errnum != errnumRoom || list[0].Recording.Callback == nil || !strings.Contains(list[0].Errmsg, "no space") {
			t.Errorf("failures %+v", list)
		}
	})
}

// F23: a disk that is full, of bytes or of files, stops recording and nothing
// else; when there is room again it goes on. This needs a file system of its own,
// and root.
func TestDiskFull(t *testing.T) {
	for name, size := range map[string]string{"bytes": "size=2m", "files": "size=64m,nr_inodes=9"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, size); err != nil {
				t.Skipf("mount a small file system: %v", err)
			}
			t.Cleanup(func() { syscall.Unmount(dir, 0) })
			bubble(t, func(_ *policy.Record, o *Options) { o.Dir = dir }, func(t *testing.T, w *world) {
				w.dir = dir
				b := &faulty{Bucket: w.b, err: errors.New("connection refused")}
				w.b = b
				player := w.hubReader()
				e := w.both(w.push())
				e.size = 3000
				e.run(120_000)
				stops := w.r.Stats().Stops
				if stops < 3 || stops > 120 { // and not as fast as it can
					t.Errorf("recording stopped %d times", stops)
				}
				if list := facts[event.AlertRaised](w); !slices.ContainsFunc(list, func(a event.AlertRaised) bool { return a.Alert == alertDisk }) {
					t.Errorf("alerts %+v", list)
				}
				b.fail(nil)
				e.run(90_000).end()
				f := w.finished(1)[0]
				got := w.read(f)
				at := 0
				for _, id := range got.frames[av.Video] {
					i := slices.Index(w.sent[av.Video][at:], id)
					if i < 0 {
						t.Fatalf("frame %s is out of order", id)
					}
					at += i + 1
				}
				if n := len(got.frames[av.Video]); n < 1300 || at != len(w.sent[av.Video]) {
					t.Errorf("%d of %d frames are there, the last is %d", n, len(w.sent[av.Video]), at)
				}
				// The fact says that it is not whole, and of how much.
				if total := f.Duration + f.Lost - 210*time.Second; f.Lost < 10*time.Second || total < -3*time.Second || total > 3*time.Second {
					t.Errorf("%v are there and %v lost, of 210s", f.Duration, f.Lost)
				}
				if n := player(); n != len(w.sent[av.Video]) {
					t.Errorf("a player saw %d frames of %d", n, len(w.sent[av.Video]))
				}
				if n := len(facts[event.AlertRaised](w)) - len(facts[event.AlertCleared](w)); n != 0 {
					t.Errorf("%d alerts are left", n)
				}
				w.empty()
			})
		})
	}
}

// hanging is a bucket that does not answer who stores a key that ends so.
type hanging struct {
	storage.Bucket
	suffix string
	hangs  atomic.Int32
}

func (h *hanging) hang(ctx context.Context, key string) error {
	if !strings.HasSuffix(key, h.suffix) {
		return nil
	}
	h.hangs.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

func (h *hanging) Put(ctx context.Context, key string, body io.Reader, o storage.PutOptions) (storage.Object, error) {
	if err := h.hang(ctx, key); err != nil {
		return storage.Object{}, err
	}
	return h.Bucket.Put(ctx, key, body, o)
}

func (h *hanging) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	if err := h.hang(ctx, key); err != nil {
		return nil, err
	}
	return h.Bucket.Upload(ctx, key, o)
}

// F26: a bucket that hangs takes nothing from recordings to another one.
func TestBucketHangs(t *testing.T) {
	for _, at := range []string{".ts", ".mp4"} {
		bubble(t, func(r *policy.Record, o *Options) { every(r); o.Uploads, o.Files = 1, 1 }, func(t *testing.T, w *world) {
			bad := &hanging{suffix: at}
			var err error
			if bad.Bucket, err = storage.OpenDirectory("bad", t.TempDir(), nil); err != nil {
				t.Fatal(err)
			}
			w.stop()
			w.opt.Bucket = func(name string) (storage.Bucket, error) {
				if name == "bad" {
					return bad, nil
				}
				return w.b, nil
			}
			w.start()
			app := w.app
			app.Record.Bucket = "bad"
			pub, err := w.hub.Publish(stream.Key{Space: "default", App: "live", Name: "other"}, &app, stream.Push{Sequence: event.NewSequence()})
			if err != nil {
				t.Fatal(err)
			}
			w.both(pub).run(15_000).end()
			time.Sleep(app.Record.Splice + time.Minute)
			if bad.hangs.Load() == 0 {
				t.Fatalf("nothing hangs")
			}
			clear(w.sent)
			began := time.Now()
			w.both(w.push()).run(15_000).end()
			files := 0
			for files < 3 && time.Since(began) < time.Hour {
				time.Sleep(time.Second)
				synctest.Wait()
				files = 0
				for _, f := range facts[event.RecordFinished](w) {
					if strings.Contains(f.Key, "/"+testKey.Name+"/") {
						files++
					}
				}
			}
			if d := time.Since(began); files != 3 || d > 15*time.Second+app.Record.Splice+10*time.Second {
				t.Errorf("%s hangs: %d files in the other bucket after %v", at, files, d)
			}
		})
	}
}

// Who lists recordings, asks for one or pushes another stream does not wait for a disk
// that does not answer the one who closes a recording.
func TestDiskHangs(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.both(w.push()).run(3000).end()
		synctest.Wait()
		tk := w.r.unfinished(testKey, "")
		tk.journal.writing.Lock() // as if the disk did not come back
		stopped := make(chan error, 1)
		go func() { _, _, err := w.r.Stop(t.Context(), testKey); stopped <- err }() // ends when the disk answers
		for closed := false; !closed; runtime.Gosched() {
			tk.mu.Lock()
			closed = tk.closed != nil
			tk.mu.Unlock()
		}
		if list := w.r.Unfinished(); len(list) != 1 || list[0].State != "finishing" {
			t.Errorf("unfinished: %+v", list)
		}
		if n := w.r.Stats().Takes; n != 1 {
			t.Errorf("%d takes", n)
		}
		sent, key := w.sent, stream.Key{Space: "default", App: "live", Name: "other"}
		w.sent = map[av.Kind][]string{}
		app := w.app
		pub, err := w.hub.Publish(key, &app, stream.Push{Sequence: event.NewSequence()})
		if err != nil {
			t.Fatal(err)
		}
		e := w.both(pub)
		e.unspaced = true // time stands still while somebody waits for the disk
		e.run(25_000).end()
		w.sent = sent
		for segments := 0; segments < 3; runtime.Gosched() {
			if other := w.r.unfinished(key, ""); other != nil {
				other.mu.Lock()
				segments = len(other.segments)
				other.mu.Unlock()
			}
		}
		select {
		case err := <-stopped:
			t.Errorf("Stop = %v, before the disk has it", err)
		default:
		}
		tk.journal.writing.Unlock()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		for _, f := range w.finished(2) {
			if strings.Contains(f.Key, "/"+testKey.Name+"/") {
				w.all(w.read(f))
			}
		}
	})
}
