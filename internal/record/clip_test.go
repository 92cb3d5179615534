package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
	"weir/internal/storage"
)

// at reads a position.
func at(t *testing.T, s string) Position {
	t.Helper()
	p, err := ParsePosition(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// clip asks for a clip.
func (w *world) clip(format, start, end string) Clip {
	w.t.Helper()
	c, err := w.r.Clip(context.Background(), testKey, &w.app, ClipRequest{Format: format, Start: at(w.t, start), End: at(w.t, end)})
	if err != nil {
		w.t.Fatalf("a clip from %s to %s: %v", start, end, err)
	}
	return c
}

// made waits, in virtual time, until a clip is finished.
func (w *world) made(c Clip) Clip {
	w.t.Helper()
	for range 400 {
		synctest.Wait()
		got, err := w.r.ClipOf(context.Background(), testKey, &w.app.Record, c.Name)
		if err != nil || got.State == "failed" {
			w.t.Fatalf("clip %s: %+v, %v", c.Name, got, err)
		}
		if got.State == "finished" {
			return got
		}
		time.Sleep(time.Second)
	}
	w.t.Fatalf("clip %s is not made", c.Name)
	return Clip{}
}

// readClip returns the frames of a clip, and checks what holds for all.
func (w *world) readClip(c Clip) *file {
	w.t.Helper()
	if c.Format == "mp4" {
		if at := bytes.Index(w.get(c.Key), []byte("moov")); at < 0 || at > 100 {
			w.t.Errorf("%s: the index is not in front", c.Key)
		}
		return w.readMP4(c.Key)
	}
	text := w.get(c.Key)
	list, err := m3u8.Parse(text)
	if err != nil {
		w.t.Fatal(err)
	}
	got := &file{list: list, text: string(text), frames: map[av.Kind][]string{}}
	if !list.End || list.Type != "VOD" || list.Duration() != c.To-c.From {
		w.t.Errorf("%s: end %v, type %s, %v of %v", c.Key, list.End, list.Type, list.Duration(), c.To-c.From)
	}
	counters := map[int]byte{} // by PID
	size := int64(len(text))
	for i, s := range list.Segments {
		data := w.get(path.Join(path.Dir(c.Key), s.URI))
		size += int64(len(data))
		if i > 0 && s.Discontinuity {
			got.breaks++
			clear(counters)
		}
		if i > 0 && !s.Discontinuity && !s.Time.Equal(list.Segments[i-1].Time.Add(list.Segments[i-1].Duration)) {
			w.t.Errorf("%s: segment %d is of %v, after %v of %v", c.Key, i, s.Time, list.Segments[i-1].Duration, list.Segments[i-1].Time)
		}
		for p := data; len(p) > 0; p = p[packetSize:] {
			pid, counts := counted(p)
			if before, ok := counters[pid]; ok && counts && p[3]&15 != (before+1)&15 && !(p[3]&0x20 != 0 && p[4] > 0 && p[5]&0x80 != 0) {
				w.t.Errorf("%s: segment %d, PID %d: continuity counter %d after %d", c.Key, i, pid, p[3]&15, before)
			}
			if counts {
				counters[pid] = p[3] & 15
			}
		}
		d := mpegts.NewDemuxer(bytes.NewReader(data))
		for {
			p, err := d.ReadPacket()
			if err != nil {
				break
			}
			if !p.Config {
				got.frames[p.Kind] = append(got.frames[p.Kind], number(w.t, p))
				got.packets = append(got.packets, p)
			}
		}
	}
	if size != c.Size {
		w.t.Errorf("%s has %d bytes with its segments, the clip %d", c.Key, size, c.Size)
	}
	return got
}

// has checks that a clip has the pictures of an encoder from one second to another, and the sound of
// about that time.
func (w *world) has(c Clip, f *file, from, to int) {
	w.t.Helper()
	if want := w.sent[av.Video]; len(want) > 0 {
		same(w.t, av.Video, f.frames[av.Video], want[from*25:to*25])
	}
	sound := f.frames[av.Audio]
	if len(w.sent[av.Audio]) == 0 {
		return
	}
	i := slices.Index(w.sent[av.Audio], sound[0])
	same(w.t, av.Audio, sound, w.sent[av.Audio][i:i+len(sound)])
	if end := i + len(sound); i < from*50-10 || i > from*50+10 || end < to*50-10 || end > to*50+10 {
		w.t.Errorf("%s has sound from frame %d to %d, want about %d to %d", c.Key, i, end, from*50, to*50)
	}
}

// A clip has what was asked for from key frame to key frame, and names whole
// segments instead of copying them.
func TestClip(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"plain":      func(*encoder) {},
		"B-frames":   func(e *encoder) { e.reorder = true },
		"HEVC":       func(e *encoder) { e.hevc = true },
		"video only": func(e *encoder) { e.sound = false },
		"audio only": func(e *encoder) { e.picture = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, nil, func(t *testing.T, w *world) {
				e := w.both(w.push())
				change(e)
				e.run(60_000).end()
				w.finished(1)
				for _, q := range []struct {
					start, end string
					from, to   int
					parts      int
				}{
					{"12.3", "27.1", 12, 28, 2},
					{"10", "30", 10, 30, 0},
					{"3.5", "5.2", 3, 6, 1},
					{"0", "20", 0, 20, 0},
					{"19.999", "20.001", 19, 21, 2},
					{"0", "-0", 0, 60, 0},
					{"-5", "-0", 55, 60, 1},
					{"41", "1000", 41, 60, 1},
					{"30", "30.5", 30, 31, 1},
				} {
					if !e.picture { // cut where it was asked for
						if strings.Contains(q.start+q.end, ".") {
							continue
						}
					}
					for _, format := range []string{"hls", "mp4"} {
						before := w.objects("record/")
						c := w.made(w.clip(format, q.start, q.end))
						w.has(c, w.readClip(c), q.from, q.to)
						made := w.objects("record/") - before
						want := 1 + q.parts
						if !e.picture { // whose segments do not end with a second
							want = min(made, 3)
						}
						if format == "hls" && made != want {
							t.Errorf("%s to %s made %d objects, want %d", q.start, q.end, made, want)
						}
						if format == "mp4" && made != 1 {
							t.Errorf("%s to %s made %d objects", q.start, q.end, made)
						}
						if c.Key != fmt.Sprintf("record/live/s-1/clip/%s-%d-%d%s", c.Name, c.Start.Unix(), c.End.Unix(), path.Ext(c.Key)) {
							t.Errorf("key %s of %+v", c.Key, c)
						}
					}
				}
				for _, f := range facts[event.ClipFinished](w) {
					if f.Format == "mp4" && (f.Media == nil || f.Size != int64(len(w.get(f.Key))) || f.Media.Duration < f.Duration-time.Second/4 || f.Media.Duration > f.Duration+time.Second/4) {
						t.Errorf("fact %+v, media %+v", f, f.Media)
					}
				}
				if a, b := len(facts[event.ClipRequested](w)), len(facts[event.ClipFinished](w)); a != b || a < 8 {
					t.Errorf("%d clips were requested, %d finished", a, b)
				}
				w.empty()
				if left, _ := filepath.Glob(filepath.Join(w.dir, "clip-*")); len(left) > 0 {
					t.Errorf("the spool has %q", left)
				}
			})
		})
	}
}

// objects returns how many objects are below a prefix.
func (w *world) objects(prefix string) int {
	w.t.Helper()
	list, err := w.b.List(context.Background(), prefix, "", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list)
}

// A clip of a running recording is made of what is there; what is still to come is
// waited for, until the recording ends.
func TestClipOfRunning(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		began := time.Now()
		e := w.both(w.push())
		e.run(34_000)
		old := w.made(w.clip("mp4", "2", "8"))
		w.has(old, w.readClip(old), 2, 8)
		last := w.clip("hls", "-10", "-0") // 24 to 34, of which no segment has the end
		clock := w.clip("mp4", began.Add(5*time.Second).Format(time.RFC3339Nano), began.Add(9*time.Second).Format(time.RFC3339Nano))
		more := w.clip("mp4", "30", "300")
		synctest.Wait()
		if c, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, last.Name); err != nil || c.State != "waiting" {
			t.Errorf("a clip whose end is still to come: %+v, %v", c, err)
		}
		if _, err := w.r.Clip(t.Context(), testKey, &w.app, ClipRequest{Format: "mp4", Start: at(t, "36"), End: at(t, "40")}); !errors.Is(err, ErrClipRange) {
			t.Errorf("a clip of the future: %v", err)
		}
		e.run(11_000)
		last = w.made(last)
		w.has(last, w.readClip(last), 24, 34)
		clock = w.made(clock)
		w.has(clock, w.readClip(clock), 5, 9)
		if !clock.Start.Equal(began.Add(5*time.Second).UTC()) || !clock.End.Equal(began.Add(9*time.Second).UTC()) || clock.From != 5*time.Second {
			t.Errorf("clip %+v, want from %v on", clock, began.Add(5*time.Second))
		}
		list := w.r.UnfinishedClips()
		if len(list) != 1 || list[0].Name != more.Name || list[0].State != "waiting" {
			t.Errorf("unfinished are %+v", list)
		}
		e.end()
		more = w.made(more) // when the splice window is over
		w.has(more, w.readClip(more), 30, 45)
		w.finished(1)
		w.empty()
	})
}

// What a push has brought until it left is there, though it may return.
func TestClipOfLeft(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.run(34_000)
		time.Sleep(300 * time.Millisecond) // a network that hesitates
		last, more := w.clip("mp4", "-4.1", "-0"), w.clip("mp4", "31", "37")
		e.end()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		last, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, last.Name)
		if err != nil || last.State != "finished" {
			t.Fatalf("clip %+v, %v", last, err)
		}
		w.has(last, w.readClip(last), 30, 34)
		if c, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, more.Name); err != nil || c.State != "waiting" {
			t.Errorf("a clip of more: %+v, %v", c, err)
		}
		w.both(w.push()).run(10_000).end()
		more = w.made(more)
		w.has(more, w.readClip(more), 31, 37)
	})
}

// A clip over a splice has the media of both pushes, with a discontinuity; one
// that ends at the splice has nothing of the second.
func TestClipOverSplice(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		began := time.Now()
		w.both(w.push()).run(15_000).end()
		time.Sleep(time.Minute)
		again := time.Now()
		w.both(w.push()).run(25_000).end()
		f := w.finished(1)[0]
		if len(w.read(f).list.Segments) != 5 {
			t.Fatalf("%d segments", f.Segments)
		}
		for _, format := range []string{"hls", "mp4"} {
			c := w.made(w.clip(format, "12.5", "30.5"))
			got := w.readClip(c)
			w.has(c, got, 12, 31)
			if format == "hls" && got.breaks != 1 {
				t.Errorf("%d discontinuities:\n%s", got.breaks, got.text)
			}
			c = w.made(w.clip(format, "13.2", "15"))
			w.has(c, w.readClip(c), 13, 15)
			c = w.made(w.clip(format, "15.01", "16"))
			w.has(c, w.readClip(c), 15, 16)
			// A time between the pushes is the seam.
			gap := began.Add(40 * time.Second).Format(time.RFC3339)
			c = w.made(w.clip(format, gap, again.Add(1500*time.Millisecond).Format(time.RFC3339Nano)))
			if seam := c.From - 15*time.Second; seam < 0 || seam > 20*time.Millisecond || c.To != c.From+2*time.Second {
				t.Errorf("clip %+v", c)
			}
		}
	})
}

// A recording that began as the rest of another, as it does where two nodes went
// on with one, has times that do not begin with it.
func TestClipOfRest(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.both(w.push()).run(60_000).end()
		f := w.read(w.finished(1)[0])
		list := m3u8.Playlist{Version: 3, TargetDuration: 10, Type: "VOD", End: true}
		for i, s := range f.list.Segments[2:] {
			data := w.get("record/live/s-1/hls/" + s.URI)
			s.URI = fmt.Sprintf("s-1-946684820-%032d/%06d-1.ts", 7, i+1)
			if _, err := w.b.Put(t.Context(), "record/live/s-1/hls/"+s.URI, bytes.NewReader(data), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			list.Segments = append(list.Segments, s)
		}
		key := "record/live/s-1/hls/s-1-946684820-946684860.m3u8"
		if _, err := w.b.Put(t.Context(), key, bytes.NewReader(list.Append(nil, "", "")), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"hls", "mp4"} {
			c, err := w.r.Clip(t.Context(), testKey, &w.app, ClipRequest{Recording: path.Base(key), Format: format, Start: at(t, "3.5"), End: at(t, "18.2")})
			if err != nil {
				t.Fatal(err)
			}
			c = w.made(c)
			w.has(c, w.readClip(c), 23, 39)
			if c.From != 3*time.Second || c.To != 19*time.Second {
				t.Errorf("clip %+v", c)
			}
		}
	})
}

// A clip keeps the segments that it names when its recording is deleted, and
// they go with it; those that nobody names go at once.
func TestClipKeepsSegments(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.both(w.push()).run(60_000).end()
		f := w.finished(1)[0]
		cfg := &w.app.Record
		one, two := w.made(w.clip("hls", "12", "35")), w.made(w.clip("hls", "20", "50"))
		file := w.made(w.clip("mp4", "1", "2"))
		if err := w.r.Delete(t.Context(), testKey, cfg, path.Base(f.Key)); err != nil {
			t.Fatal(err)
		}
		// Of segments 1 to 6 the clips name 3, and 3 to 5; the parts of 2 and 4 are the first one's own.
		segments := strings.TrimSuffix(f.Key, path.Base(f.Key)) + fmt.Sprintf("s-1-%d-%s/", f.Start.Unix(), f.Task)
		if n := w.objects(segments); n != 3+1 {
			t.Errorf("%d objects are left of the recording, want 3 segments and the mark", n)
		}
		w.has(one, w.readClip(one), 12, 35)
		w.has(two, w.readClip(two), 20, 50)
		if _, err := w.r.Clip(t.Context(), testKey, &w.app, ClipRequest{Recording: path.Base(f.Key), Format: "mp4", End: at(t, "2")}); !errors.Is(err, ErrNoFile) {
			t.Errorf("a clip of a deleted recording: %v", err)
		}
		for range 2 { // a second time is no error
			if err := w.r.DeleteClip(t.Context(), testKey, cfg, two.Name); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.objects(segments); n != 1+1 {
			t.Errorf("%d objects are left of the recording, want 1 segment and the mark", n)
		}
		w.has(one, w.readClip(one), 12, 35)
		if _, err := w.r.ClipOf(t.Context(), testKey, cfg, two.Name); !errors.Is(err, ErrNoClip) {
			t.Errorf("a deleted clip: %v", err)
		}
		if list, err := w.r.Clips(t.Context(), testKey, cfg, time.Time{}, time.Time{}); err != nil || len(list) != 2 || list[0].Name != file.Name || list[1].Name != one.Name {
			t.Errorf("clips %+v, %v", list, err)
		}
		for _, name := range []string{one.Name, file.Name} {
			if err := w.r.DeleteClip(t.Context(), testKey, cfg, name); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.objects(""); n != 0 {
			t.Errorf("%d objects are left of all", n)
		}
	})
}

// dated is a bucket whose objects are as old as they are in the test's time.
type dated struct {
	storage.Bucket
	seen map[string]time.Time
}

func (d *dated) List(ctx context.Context, prefix, after string, limit int) ([]storage.Object, error) {
	list, err := d.Bucket.List(ctx, prefix, after, limit)
	for i := range list {
		if d.seen[list[i].Key].IsZero() {
			d.seen[list[i].Key] = time.Now()
		}
		list[i].Modified = d.seen[list[i].Key]
	}
	return list, err
}

// Clips have a retention of their own, and the segments of a recording that is
// there are never theirs to delete.
func TestRetainClips(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.both(w.push()).run(60_000).end()
		f := w.finished(1)[0]
		all := w.objects("")
		w.b = &dated{Bucket: w.b, seen: map[string]time.Time{}}
		old := w.made(w.clip("hls", "12", "35"))
		time.Sleep(2 * time.Hour)
		young := w.made(w.clip("mp4", "12", "35"))
		if n := w.retain(func(r *policy.Record) { r.KeepAge = 100 * time.Hour }); n != 0 {
			t.Errorf("%d were deleted", n)
		}
		if n := w.retain(func(r *policy.Record) { r.KeepClips = time.Hour }); n != 1 {
			t.Errorf("%d clips were deleted, want 1", n)
		}
		if _, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, old.Name); !errors.Is(err, ErrNoClip) {
			t.Errorf("an old clip: %v", err)
		}
		w.all(w.read(f))
		w.has(young, w.readClip(young), 12, 35)
		if n := w.objects(""); n != all+1 {
			t.Errorf("%d objects, want %d of the recording and a clip", n, all)
		}
	})
}

// What was asked for in the same words is the same clip, and a name is taken
// once.
func TestClipNames(t *testing.T) {
	bubble(t, func(r *policy.Record, _ *Options) {
		r.MP4 = policy.RecordFormat{Enabled: true, Callback: "http://mp4.example/", Version: policy.RecordNew}
	}, func(t *testing.T, w *world) {
		w.both(w.push()).run(30_000).end()
		done := byFormat(w.finished(2))
		ask := func(change func(*ClipRequest)) (Clip, error) {
			q := ClipRequest{Name: "goal-1", Format: "mp4", Start: at(t, "3"), End: at(t, "9"), Callback: true}
			change(&q)
			return w.r.Clip(t.Context(), testKey, &w.app, q)
		}
		first, err := ask(func(*ClipRequest) {})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // while it is being made, and afterwards
			again, err := ask(func(*ClipRequest) {})
			if err != nil || again.Task != first.Task {
				t.Errorf("again: %+v, %v, want %+v", again, err, first)
			}
			if _, err := ask(func(q *ClipRequest) { q.End = at(t, "10") }); !errors.Is(err, ErrClipName) {
				t.Errorf("another clip of the same name: %v", err)
			}
			w.made(first)
		}
		for _, c := range []struct {
			change func(*ClipRequest)
			want   error
		}{
			{func(q *ClipRequest) { q.Start, q.End = at(t, "9"), at(t, "9") }, ErrClipRange},
			{func(q *ClipRequest) { q.Start = at(t, "31"); q.End = at(t, "40") }, ErrClipRange},
			{func(q *ClipRequest) { q.Recording = "s-1-1-2.m3u8" }, ErrNoFile},
			{func(q *ClipRequest) { q.Recording = "../hls/" + path.Base(done["hls"].Key) }, ErrNoFile},
			{func(q *ClipRequest) { q.Recording = strings.Repeat("a", 32) }, ErrNoFile},
			{func(q *ClipRequest) { q.Start = at(t, "1999-01-01T00:00:00Z") }, ErrNoFile},
			{func(q *ClipRequest) { q.Exact = true }, ErrExact},
		} {
			c.change = func(f func(*ClipRequest)) func(*ClipRequest) { return func(q *ClipRequest) { q.Name = "x"; f(q) } }(c.change)
			if got, err := ask(c.change); !errors.Is(err, c.want) {
				t.Errorf("%+v, %v, want %v", got, err, c.want)
			}
		}
		for i, name := range []string{done["hls"].Task, path.Base(done["hls"].Key), path.Base(done["mp4"].Key)} {
			c, err := ask(func(q *ClipRequest) { q.Name, q.Recording, q.Callback = fmt.Sprint("named", i), name, false })
			if err != nil {
				t.Fatalf("of %s: %v", name, err)
			}
			c = w.made(c)
			w.has(c, w.readClip(c), 3, 9)
		}
		for _, f := range facts[event.ClipFinished](w) {
			if told := f.Callback != nil && f.Callback.URL == "http://mp4.example/" && f.Callback.Format == "new"; told != (f.Name == "goal-1") {
				t.Errorf("%s: callback %+v", f.Name, f.Callback)
			}
			if f.Of != done["hls"].Task {
				t.Errorf("%s is of %s", f.Name, f.Of)
			}
		}
	})
}

// A process that is killed while it uploads a clip goes on with the part that
// is missing; one that is killed while a clip waits goes on waiting.
func TestClipGoesOn(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.size = 40_000
		e.run(30_000)
		e.size = 0
		e.run(15_000)
		b := &uploads{faulty: &faulty{Bucket: w.b}, left: 2, wrote: map[int]int{}}
		w.b = b
		c := w.clip("mp4", "3.3", "29")
		time.Sleep(20 * time.Second)
		waits := w.clip("hls", "35", "50")
		synctest.Wait()
		if c := w.r.UnfinishedClips(); len(c) != 2 || c[0].State != "making" || c[1].State != "waiting" {
			t.Errorf("before: %+v", c)
		}
		e.end()
		w.kill(time.Minute)
		b.mu.Lock()
		b.left = -1
		b.mu.Unlock()
		e = w.both(w.push())
		e.run(20_000)
		c = w.made(c)
		w.has(c, w.readClip(c), 3, 29)
		for n, times := range b.wrote {
			if times != 1 {
				t.Errorf("part %d was written %d times", n, times)
			}
		}
		if len(b.wrote) < 4 {
			t.Errorf("%d parts", len(b.wrote))
		}
		waits = w.made(waits)
		w.has(waits, w.readClip(waits), 35, 50)
		e.end()
		w.finished(1)
		if n := len(facts[event.ClipFinished](w)); n != 2 {
			t.Errorf("%d clips are finished", n)
		}
		if n, err := b.Sweep(t.Context(), 0); err != nil || n != 0 {
			t.Errorf("%d uploads were left, %v", n, err)
		}
		w.empty()
	})
}

// A clip that is deleted while it is being made leaves nothing; one that cannot
// be made says why, until somebody asks for it again.
func TestClipFails(t *testing.T) {
	bubble(t, func(_ *policy.Record, o *Options) { o.GiveUp = 20 * time.Minute }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.run(30_000).end()
		f := w.finished(1)[0]
		real := w.b
		b := &uploads{faulty: &faulty{Bucket: w.b}, left: 0, wrote: map[int]int{}}
		w.b = b
		c := w.clip("mp4", "0", "29")
		time.Sleep(10 * time.Second)
		if err := w.r.DeleteClip(t.Context(), testKey, &w.app.Record, c.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, c.Name); !errors.Is(err, ErrNoClip) {
			t.Errorf("a deleted clip: %v", err)
		}
		if n, err := b.Sweep(t.Context(), 0); err != nil || n != 0 {
			t.Errorf("%d uploads were left, %v", n, err)
		}

		// Storage that does not take it.
		q := ClipRequest{Name: "late", Format: "mp4", End: at(t, "29")}
		if _, err := w.r.Clip(t.Context(), testKey, &w.app, q); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		got, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, "late")
		if err != nil || got.State != "failed" || !strings.Contains(got.Error, "connection reset") {
			t.Errorf("a clip that cannot be uploaded: %+v, %v", got, err)
		}
		if n, err := b.Sweep(t.Context(), 0); err != nil || n != 0 {
			t.Errorf("%d uploads were left, %v", n, err)
		}
		w.b = real
		again, err := w.r.Clip(t.Context(), testKey, &w.app, q)
		if err != nil {
			t.Fatal(err)
		}
		again = w.made(again)
		w.has(again, w.readClip(again), 0, 29)

		// A segment that is not there.
		if err := w.b.Delete(t.Context(), fmt.Sprintf("record/live/s-1/hls/s-1-%d-%s/000002.ts", f.Start.Unix(), f.Task)); err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"hls", "mp4"} {
			if _, err := w.r.Clip(t.Context(), testKey, &w.app, ClipRequest{Name: format, Format: format, Start: at(t, "5"), End: at(t, "25")}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if got, err := w.r.ClipOf(t.Context(), testKey, &w.app.Record, format); err != nil || got.State != "failed" || !strings.Contains(got.Error, "segment 2") {
				t.Errorf("a clip of media that are lost: %+v, %v", got, err)
			}
		}
		list := facts[event.ClipFailed](w)
		if len(list) != 3 || list[0].Errnum != errnumStorage || list[1].Errnum != errnumMedia || list[2].Errnum != errnumMedia {
			t.Errorf("failures %+v", list)
		}
		if n := w.objects("record/live/s-1/clip/"); n != 1 {
			t.Errorf("%d objects of clips", n)
		}
		time.Sleep(25 * time.Hour)
		if list := w.r.UnfinishedClips(); len(list) != 0 {
			t.Errorf("failures of the day before: %+v", list)
		}
	})
}

// A recording that is deleted while a clip of it is being made stays until it
// is.
func TestDeleteWhileClipped(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.run(30_000).end()
		f := w.finished(1)[0]
		b := &uploads{faulty: &faulty{Bucket: w.b}, left: 0, wrote: map[int]int{}}
		w.b = b
		c := w.clip("mp4", "0", "29")
		time.Sleep(10 * time.Second)
		if err := w.r.Delete(t.Context(), testKey, &w.app.Record, path.Base(f.Key)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.b.Stat(t.Context(), f.Key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the playlist of a deleted recording: %v", err)
		}
		b.mu.Lock()
		b.left = -1
		b.mu.Unlock()
		c = w.made(c)
		w.has(c, w.readClip(c), 0, 29)
		synctest.Wait()
		if n := w.objects(""); n != 1 {
			t.Errorf("%d objects, want the clip", n)
		}
	})
}

// H52: whatever the playlist of a clip holds, deleting it deletes nothing else.
func TestForeignClip(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		keys := []string{"record/live/s-1/clip/x-1-2.m3u8", "record/live/s-2/hls/a-1-b/000001.ts", "record/live/s-1/hls/a-1-b/000001.ts", "x.ts"}
		text := "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n../../s-2/hls/a-1-b/000001.ts\n#EXTINF:2,\n../hls/a-1-b/000001.ts\n#EXTINF:2,\n../../../../x.ts\n"
		for _, k := range keys {
			if _, err := w.b.Put(t.Context(), k, strings.NewReader(text), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.r.DeleteClip(t.Context(), testKey, &w.app.Record, "x"); err != nil {
			t.Error(err)
		}
		if n := w.objects(""); n != 3 {
			t.Errorf("%d objects are left, want all but the playlist", n)
		}
	})
}

func TestParsePosition(t *testing.T) {
	for text, want := range map[string]Position{
		"0":                           {},
		"90.5":                        {Offset: 90500 * time.Millisecond},
		"-30":                         {Offset: 30 * time.Second, ToEnd: true},
		"-0":                          {ToEnd: true},
		"2026-01-31T20:00:00Z":        {Time: time.Date(2026, 1, 31, 20, 0, 0, 0, time.UTC)},
		"2026-01-31T21:00:00.5+01:00": {Time: time.Date(2026, 1, 31, 20, 0, 0, 5e8, time.UTC)},
	} {
		if got, err := ParsePosition(text); err != nil || !got.Time.Equal(want.Time) || got.Offset != want.Offset || got.ToEnd != want.ToEnd {
			t.Errorf("ParsePosition(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-", "x", "NaN", "Inf", "1e3", "0x10", "--1", "+1", "1_000", "99999999", "10s", "2026-01-31"} {
		if got, err := ParsePosition(text); err == nil {
			t.Errorf("ParsePosition(%q) = %+v", text, got)
		}
	}
}
