package record

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// Codec configurations of real encoders.
var (
	avcConfig    = unhex("0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800")
	avcConfig2   = unhex("0142c028ffe1001a6742c028d900780227e5c044000003000400000300f03c60c92001000568cb83cb20")
	hevcConfig   = unhex("0101600000009000000000003ff000fcfdf8f800000f03200001001840010c01ffff0160000003009000000300000300" + "3f959809210001002a42010101600000030090000003000003003fa00502016965959a4932bc05a020000003002000000303c122000100074401c172b46240")
	aacConfig    = unhex("1210") // LC, 44.1 kHz, stereo
	aacConfig48k = unhex("1190")
	opusConfig   = unhex("4f707573486561640102380180bb0000000000")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

var testKey = stream.Key{Space: "default", App: "live", Name: "s-1"}

// world is a hub with a Recorder.
type world struct {
	t    *testing.T
	dir  string // of the spool
	app  policy.App
	hub  *stream.Hub
	r    *Recorder
	opt  Options
	b    storage.Bucket
	sent map[av.Kind][]string // what was pushed, by its number

	mu     sync.Mutex
	events []event.Event
}

func newWorld(t *testing.T, change func(*policy.Record, *Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), app: policy.DefaultApp("live"), sent: map[av.Kind][]string{}}
	b, err := storage.OpenDirectory("archive", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.b = b
	w.app.MaxLead = 0
	w.app.Record.Mode = policy.RecordAutomatic
	w.opt = Options{
		Dir: w.dir, Sync: -1,
		Bucket: func(string) (storage.Bucket, error) { return w.b, nil },
		Emit: func(e event.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	if os.Getenv("VERBOSE") != "" {
		w.opt.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&w.app.Record, &w.opt)
	}
	w.start()
	return w
}

// start opens hub and Recorder.
func (w *world) start() {
	w.t.Helper()
	w.hub = stream.NewHub(stream.Options{})
	var err error
	if w.r, err = Open(w.hub, w.opt); err != nil {
		w.t.Fatal(err)
	}
}

// stop ends both in order.
func (w *world) stop() {
	w.t.Helper()
	if err := w.hub.Close(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.r.Close()
}

// bubble runs f in a bubble of virtual time with a world, which it stops.
func bubble(t *testing.T, change func(*policy.Record, *Options), f func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		defer w.stop()
		f(t, w)
	})
}

// push begins a push.
func (w *world) push(params ...string) *stream.Publication {
	w.t.Helper()
	p := stream.Push{Sequence: event.NewSequence(), Session: "x"}
	for _, s := range params {
		name, value, _ := strings.Cut(s, "=")
		p.Client.Params = append(p.Client.Params, event.Param{Name: name, Value: value})
	}
	app := w.app
	pub, err := w.hub.Publish(testKey, &app, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return pub
}

// facts returns the facts of a type.
func facts[T event.Data](w *world) (list []T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if d, ok := e.Data.(T); ok {
			list = append(list, d)
		}
	}
	return list
}

// finished waits, in virtual time, until there are n finished files of a format
// and returns them by their start.
func (w *world) finished(n int) []event.RecordFinished {
	w.t.Helper()
	for range 400 {
		if len(facts[event.RecordFinished](w)) >= n {
			break
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
	list := facts[event.RecordFinished](w)
	if len(list) != n {
		w.t.Fatalf("%d files are finished, want %d; failed: %+v", len(list), n, facts[event.RecordFailed](w))
	}
	slices.SortFunc(list, func(a, b event.RecordFinished) int { return a.Start.Compare(b.Start) })
	return list
}

// encoder plays an encoder: 25 frames of picture and 50 of sound in a second. Each
// frame has its number in it.
type encoder struct {
	w        *world
	pub      *stream.Publication
	at       int64 // ms, of the encoder's clock
	gop      int64 // ms
	picture  bool
	sound    bool
	video    []byte // configuration; nil: avcConfig
	audio    []byte // nil: aacConfig
	hevc     bool
	opus     bool
	reorder  bool // with B-frames
	size     int
	lastKey  int64
	begun    bool
	unspaced bool // frames come as fast as they can
}

// both returns an encoder of picture and sound with a key frame each second.
func (w *world) both(pub *stream.Publication) *encoder {
	return &encoder{w: w, pub: pub, gop: 1000, picture: true, sound: true}
}

func (e *encoder) write(p av.Packet) {
	e.w.t.Helper()
	p.Tag = p.Frame
	if err := e.pub.WritePacket(p); err != nil {
		e.w.t.Fatal(err)
	}
}

func (e *encoder) codec() av.Codec {
	if e.hevc {
		return av.HEVC
	}
	return av.H264
}

func (e *encoder) sounds() av.Codec {
	if e.opus {
		return av.Opus
	}
	return av.AAC
}

func (e *encoder) begin() {
	e.begun = true
	e.lastKey = e.at - e.gop
	if e.picture {
		e.config()
	}
	if e.sound {
		c := e.audio
		if c == nil {
			c = aacConfig
		}
		if e.opus {
			c = opusConfig
		}
		e.write(av.Packet{Kind: av.Audio, Codec: e.sounds(), Config: true, DTS: e.at, Frame: c})
	}
}

func (e *encoder) config() {
	c := e.video
	if c == nil {
		c = avcConfig
		if e.hevc {
			c = hevcConfig
		}
	}
	e.write(av.Packet{Kind: av.Video, Codec: e.codec(), Config: true, DTS: e.at, Frame: c})
}

// frame returns the next frame of a track, with its number, and notes it.
func (e *encoder) frame(k av.Kind, key bool) []byte {
	n := len(e.w.sent[k])
	id := fmt.Sprintf("%s%08d.", e.pub.Push().Sequence[:4], n)
	e.w.sent[k] = append(e.w.sent[k], id)
	if k == av.Audio && e.opus {
		return []byte("\xfc" + id + strings.Repeat("x", 20)) // 20 ms
	}
	if k == av.Audio {
		return []byte(id + strings.Repeat("x", 20))
	}
	id += strings.Repeat("x", max(e.size, 20))
	head := []byte{0x41}
	switch {
	case e.hevc && key:
		head = []byte{0x26, 1}
	case e.hevc:
		head = []byte{2, 1}
	case key:
		head = []byte{0x65}
	}
	size := len(head) + len(id)
	return slices.Concat([]byte{byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, head, []byte(id))
}

// run pushes so many ms of media, in that time.
func (e *encoder) run(ms int64) *encoder {
	e.w.t.Helper()
	if !e.begun {
		e.begin()
	}
	for end := e.at + ms; e.at < end; e.at += 20 {
		if e.picture && e.at%40 == 0 {
			key := e.gop > 0 && e.at-e.lastKey >= e.gop || e.gop < 0 && len(e.w.sent[av.Video]) == 0
			if key {
				e.lastKey = e.at
			}
			p := av.Packet{Kind: av.Video, Codec: e.codec(), Key: key, DTS: e.at, Frame: e.frame(av.Video, key)}
			if e.reorder {
				p.CTS = int32(40 + e.at%120)
			}
			e.write(p)
		}
		if e.sound {
			e.write(av.Packet{Kind: av.Audio, Codec: e.sounds(), DTS: e.at + 7, Frame: e.frame(av.Audio, false)})
		}
		if !e.unspaced {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return e
}

func (e *encoder) end() { e.pub.End(stream.EndClosed) }

// file is what a finished HLS recording holds.
type file struct {
	list    *m3u8.Playlist
	text    string
	frames  map[av.Kind][]string
	packets []av.Packet
	breaks  int
}

// read reads a recording from the bucket and checks what holds for all.
func (w *world) read(f event.RecordFinished) *file {
	w.t.Helper()
	text := w.get(f.Key)
	list, err := m3u8.Parse(text)
	if err != nil {
		w.t.Fatalf("%s: %v", f.Key, err)
	}
	got := &file{list: list, text: string(text), frames: map[av.Kind][]string{}}
	if !list.End || list.Type != "VOD" || len(list.Segments) != f.Segments || list.Duration() != f.Duration {
		w.t.Errorf("%s: end %v, type %q, %d segments of %v; the fact has %d of %v", f.Key, list.End, list.Type, len(list.Segments), list.Duration(), f.Segments, f.Duration)
	}
	start, end := names(w.t, f.Key)
	if start != f.Start.Unix() || end != f.End.Unix() {
		w.t.Errorf("%s is of %d to %d", f.Key, f.Start.Unix(), f.End.Unix())
	}
	size := int64(len(text))
	var run bytes.Buffer
	var last [3]int64
	read := func() {
		d := mpegts.NewDemuxer(&run)
		for {
			p, err := d.ReadPacket()
			if err == io.EOF {
				break
			}
			if err != nil {
				w.t.Fatalf("%s: %v", f.Key, err)
			}
			if p.Config {
				continue
			}
			if p.DTS <= last[p.Kind] || p.CTS < 0 {
				w.t.Errorf("%s: %v frame at %d+%d after %d", f.Key, p.Kind, p.DTS, p.CTS, last[p.Kind])
			}
			last[p.Kind] = p.DTS
			got.packets = append(got.packets, p)
			got.frames[p.Kind] = append(got.frames[p.Kind], number(w.t, p))
		}
		run.Reset()
	}
	for i, s := range list.Segments {
		if strings.Contains(s.URI, "..") || strings.HasPrefix(s.URI, "/") || s.Duration.Round(time.Second) > time.Duration(list.TargetDuration)*time.Second {
			w.t.Errorf("%s: segment %s of %v, target %d", f.Key, s.URI, s.Duration, list.TargetDuration)
		}
		if i > 0 && s.Discontinuity {
			got.breaks++
			read()
		}
		data := w.get(path.Join(path.Dir(f.Key), s.URI))
		size += int64(len(data))
		run.Write(data)
	}
	read()
	if size != f.Size {
		w.t.Errorf("%s has %d bytes with its segments; the fact has %d", f.Key, size, f.Size)
	}
	return got
}

func (w *world) get(key string) []byte {
	w.t.Helper()
	body, _, err := w.b.Get(context.Background(), key, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// names returns the times in a key.
func names(t *testing.T, key string) (start, end int64) {
	t.Helper()
	parts := strings.Split(strings.TrimSuffix(path.Base(key), path.Ext(key)), "-")
	if len(parts) < 4 || parts[0]+"-"+parts[1] != testKey.Name {
		t.Fatalf("key %q", key)
	}
	start, err1 := strconv.ParseInt(parts[2], 10, 64)
	end, err2 := strconv.ParseInt(parts[3], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatalf("key %q", key)
	}
	return start, end
}

// number returns the number in a frame.
func number(t *testing.T, p av.Packet) string {
	t.Helper()
	b := p.Frame
	if p.Codec == av.Opus {
		b = b[1:]
	}
	if p.Kind == av.Video {
		if b = b[5:]; p.Codec == av.HEVC {
			b = b[1:]
		}
	}
	id, _, ok := bytes.Cut(b, []byte("."))
	if !ok {
		t.Fatalf("%v frame %q has no number", p.Kind, b)
	}
	return string(id) + "."
}

// all checks that files have, in order and once, all that was pushed.
func (w *world) all(files ...*file) {
	w.t.Helper()
	for _, k := range []av.Kind{av.Video, av.Audio} {
		var got []string
		for _, f := range files {
			got = append(got, f.frames[k]...)
		}
		same(w.t, k, got, w.sent[k])
	}
}

func same(t *testing.T, k av.Kind, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%v frame %d is %s after %s, want %s (%d of %d)", k, i, got[i], got[max(i-1, 0)], want[i], len(got), len(want))
		}
	}
	t.Fatalf("%d %v frames, want %d", len(got), k, len(want))
}

// empty checks that the spool is.
func (w *world) empty() {
	w.t.Helper()
	synctest.Wait()
	list, err := filepath.Glob(filepath.Join(w.dir, "*", "*"))
	if err != nil || len(list) > 0 {
		w.t.Errorf("the spool has %q, %v", list, err)
	}
	if used, _ := w.r.spool.level(); used != 0 {
		w.t.Errorf("the spool counts %d bytes", used)
	}
}
