package record

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
	"weir/internal/storage"
)

// byFormat sorts finished files by their format.
func byFormat(list []event.RecordFinished) map[string]event.RecordFinished {
	m := map[string]event.RecordFinished{}
	for _, f := range list {
		m[f.Format] = f
	}
	return m
}

// readFLV returns the frames of an FLV file.
func (w *world) readFLV(key string) *file {
	w.t.Helper()
	got := &file{frames: map[av.Kind][]string{}}
	d := flv.NewReader(bytes.NewReader(w.get(key)))
	for {
		p, err := d.ReadPacket()
		if err == io.EOF {
			return got
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if p.Kind != av.Data && !p.Config {
			got.frames[p.Kind] = append(got.frames[p.Kind], number(w.t, p))
			got.packets = append(got.packets, p)
		}
	}
}

// MP4 and FLV are made of the HLS recording, with all that is in it.
func TestFormats(t *testing.T) {
	for name, change := range map[string]func(*encoder){
		"plain":      func(*encoder) {},
		"B-frames":   func(e *encoder) { e.reorder = true },
		"HEVC":       func(e *encoder) { e.hevc = true },
		"audio only": func(e *encoder) { e.picture = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) {
				r.HLS.Enabled = false // there is one all the same, of which nobody is told
				r.MP4 = policy.RecordFormat{Enabled: true, Callback: "http://mp4.example/", Version: policy.RecordNew}
				r.FLV = policy.RecordFormat{Enabled: true, Callback: "http://flv.example/"}
			}, func(t *testing.T, w *world) {
				for range 3 {
					e := w.both(w.push())
					change(e)
					e.run(20_000).end()
					time.Sleep(30 * time.Second)
				}
				m := byFormat(w.finished(3))
				w.all(w.read(m["hls"]))
				w.all(w.readFLV(m["flv"].Key))
				if m["hls"].Callback != nil || m["mp4"].Callback.Format != "new" || m["flv"].Callback.URL != "http://flv.example/" {
					t.Errorf("callbacks %+v, %+v, %+v", m["hls"].Callback, m["mp4"].Callback, m["flv"].Callback)
				}
				for _, f := range []string{"mp4", "flv"} {
					want := strings.TrimSuffix(strings.ReplaceAll(m["hls"].Key, "/hls/", "/"+f+"/"), "m3u8") + f
					size := int64(len(w.get(m[f].Key)))
					if m[f].Key != want || m[f].Size != size || m[f].Media.Size != size || len(m[f].Task) != 40 || m[f].Task[32:] != "20000101" {
						t.Errorf("%s: %+v has %d bytes, want key %s", f, m[f], size, want)
					}
					if d := m[f].Media.Duration - time.Minute; d < -200*time.Millisecond || d > 200*time.Millisecond {
						t.Errorf("%s lasts %v", f, m[f].Media.Duration)
					}
					streams := m[f].Media.Streams
					if last := streams[len(streams)-1]; last.CodecName != "aac" || last.SampleRate != 44100 || last.Channels != 2 {
						t.Errorf("%s: sound %+v", f, last)
					}
					if s := streams[0]; s.CodecType == "video" && (s.FrameRate != "25/1" || s.Width == 0 || s.BitRate == 0) {
						t.Errorf("%s: picture %+v", f, s)
					}
				}
				w.empty()
			})
		})
	}
}

// uploads is a bucket whose uploads fail after some parts.
type uploads struct {
	*faulty
	left  int // parts that succeed; negative: all
	wrote map[int]int
}

type failingUpload struct {
	storage.Upload
	b *uploads
}

func (u *uploads) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	up, err := u.Bucket.Upload(ctx, key, o)
	return failingUpload{up, u}, err
}

func (u *uploads) Resume(ctx context.Context, state []byte) (storage.Upload, error) {
	up, err := u.Bucket.Resume(ctx, state)
	if err != nil {
		return nil, err
	}
	return failingUpload{up, u}, nil
}

func (u failingUpload) WritePart(ctx context.Context, n int, data []byte) error {
	u.b.mu.Lock()
	defer u.b.mu.Unlock()
	if u.b.left == 0 {
		return errors.New("connection reset")
	}
	u.b.left--
	u.b.wrote[n]++
	return u.Upload.WritePart(ctx, n, data)
}

// F28: a file whose parts fail, and a process that dies in between: no part is
// uploaded twice, and no upload is left behind.
func TestConvertGoesOn(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { r.MP4.Enabled = true }, func(t *testing.T, w *world) {
		b := &uploads{faulty: &faulty{Bucket: w.b}, left: 2, wrote: map[int]int{}}
		w.b = b
		e := w.both(w.push())
		e.size = 50_000
		e.run(30_000).end()
		m := byFormat(w.finished(1))
		w.all(w.read(m["hls"]))
		time.Sleep(20 * time.Second)
		w.kill(time.Minute)
		b.mu.Lock()
		b.left = -1
		b.mu.Unlock()
		m = byFormat(w.finished(2))
		for n, times := range b.wrote {
			if times != 1 {
				t.Errorf("part %d was written %d times", n, times)
			}
		}
		if len(b.wrote) < 4 || int64(len(w.get(m["mp4"].Key))) != m["mp4"].Size {
			t.Errorf("%d parts, %+v", len(b.wrote), m["mp4"])
		}
		if n, err := b.Sweep(t.Context(), 0); err != nil || n != 0 {
			t.Errorf("%d uploads were left, %v", n, err)
		}
		w.empty()
	})
}

// A file that cannot be made is a failure, and the others are there; without
// HLS there is neither of them.
func TestConvertFails(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { r.MP4.Enabled, r.FLV.Enabled = true, true; o.GiveUp = time.Hour }, func(t *testing.T, w *world) {
		b := &uploads{faulty: &faulty{Bucket: w.b}, wrote: map[int]int{}}
		w.b = b
		w.both(w.push()).run(10_000).end()
		time.Sleep(3 * time.Hour)
		list := facts[event.RecordFailed](w)
		if len(list) != 2 || list[0].Format != "mp4" || list[1].Format != "flv" || list[0].Errnum != errnumStorage {
			t.Errorf("failures %+v", list)
		}
		if n, err := b.Sweep(t.Context(), 0); err != nil || n != 0 {
			t.Errorf("%d uploads were left, %v", n, err)
		}
		w.all(w.read(w.finished(1)[0]))
		w.empty()
	})
	bubble(t, func(r *policy.Record, o *Options) { r.MP4.Enabled = true; o.GiveUp = time.Hour }, func(t *testing.T, w *world) {
		w.b = &faulty{Bucket: w.b, err: errors.New("no route to host")}
		w.both(w.push()).run(10_000).end()
		time.Sleep(3 * time.Hour)
		list := facts[event.RecordFailed](w)
		if len(list) != 2 || list[1].Format != "mp4" || !strings.Contains(list[1].Errmsg, "no HLS recording") {
			t.Errorf("failures %+v", list)
		}
		w.empty()
	})
}

// What the spool has no room for any more is read from the bucket.
func TestConvertFromTheBucket(t *testing.T) {
	bubble(t, func(r *policy.Record, o *Options) { r.FLV.Enabled = true; o.Size = 1 << 20 }, func(t *testing.T, w *world) {
		e := w.both(w.push())
		e.size = 3000
		e.run(60_000).end()
		m := byFormat(w.finished(2))
		w.all(w.readFLV(m["flv"].Key))
		if path.Ext(m["flv"].Key) != ".flv" {
			t.Errorf("key %s", m["flv"].Key)
		}
		w.empty()
	})
}

func TestFraction(t *testing.T) {
	for fps, want := range map[float64]string{25: "25/1", 24.995: "25/1", 29.97: "30000/1001", 23.976: "24000/1001", 59.94: "60000/1001", 60: "60/1", 12.5: "12500/1000", 0: "0/0"} {
		if got := fraction(fps); got != want {
			t.Errorf("fraction(%v) = %s, want %s", fps, got, want)
		}
	}
}
