package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// TestMain is also the program that locks itself in, and a fake ffmpeg: it
// makes a JPEG whose colour is that of what it was given, unless that says "bad" or "slow".
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ffmpeg.SandboxArg:
			if err := ffmpeg.Sandbox(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(ffmpeg.SandboxFailed)
			}
			return
		case "-hide_banner", "-nostdin":
			fake(os.Args[len(os.Args)-1])
			return
		}
	}
	goleak.VerifyTestMain(m)
}

func fake(last string) {
	switch last {
	case "-version":
		fmt.Println("ffmpeg version 0-fake")
		return
	case "-encoders", "-decoders":
		fmt.Println(" ------\n V....D vp9   what frame makes\n V....D h264  H.264")
		return
	}
	in, _ := io.ReadAll(os.Stdin)
	switch {
	case bytes.Contains(in, []byte("bad")):
		fmt.Fprintln(os.Stderr, "a bad frame")
		os.Exit(1)
	case bytes.Contains(in, []byte("slow")):
		select {}
	case bytes.Contains(in, []byte("none")):
		return
	}
	m := image.NewUniform(tint(in))
	jpeg.Encode(os.Stdout, rectangle{m, image.Rect(0, 0, 64, 48)}, nil)
}

type rectangle struct {
	image.Image
	r image.Rectangle
}

func (r rectangle) Bounds() image.Rectangle { return r.r }

func tint(b []byte) color.Gray { return color.Gray{uint8(crc32.ChecksumIEEE(b))} }

// world is a hub, a bucket, and a Snapshotter between them.
type world struct {
	*Snapshotter
	t      testing.TB
	hub    *stream.Hub
	bucket storage.Bucket

	mu    sync.Mutex
	facts []event.Event
	grown sync.Cond
}

func newWorld(t testing.TB, tool *ffmpeg.Tool, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t}
	w.hub = stream.NewHub(stream.Options{
		MaxPacketRate: 1e6, MaxByteRate: 1 << 30,
		Ended: func(p *stream.Publication) { w.Ended(p) },
	})
	w.grown.L = &w.mu
	b, err := storage.OpenDirectory("yourbucket", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.bucket = b
	o := Options{
		Time: time.Minute, Tool: tool, Emit: w.emit,
		Bucket:     func(string) (storage.Bucket, error) { return w.bucket, nil },
		BucketName: func(string) string { return "yourbucket" },
	}
	if change != nil {
		change(&o)
	}
	w.Snapshotter = New(o)
	w.hub.Follow(w.Follow)
	t.Cleanup(func() {
		w.hub.Close(context.Background())
		w.Close()
		b.Close()
	})
	return w
}

func (w *world) emit(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts = append(w.facts, e)
	w.grown.Broadcast()
}

// wait waits for the n-th fact and returns all.
func (w *world) wait(n int) []event.Event {
	w.t.Helper()
	timer := time.AfterFunc(time.Minute, func() { w.mu.Lock(); defer w.mu.Unlock(); w.grown.Broadcast() })
	defer timer.Stop()
	began := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.facts) < n {
		if time.Since(began) >= time.Minute {
			w.t.Fatalf("%d facts after a minute, want %d: %+v", len(w.facts), n, w.facts)
		}
		w.grown.Wait()
	}
	return append([]event.Event(nil), w.facts...)
}

// publish begins a push of the stream live/name.
func (w *world) publish(name string, change func(*policy.Snapshot)) *stream.Publication {
	w.t.Helper()
	app := policy.DefaultApp("live")
	app.MaxLead, app.Hold = 0, 0
	app.Snapshot.Enabled = true
	if change != nil {
		change(&app.Snapshot)
	}
	p, err := w.hub.Publish(stream.Key{Space: "youruniquename", App: "live", Name: name}, &app,
		stream.Push{Sequence: event.NewSequence(), Client: event.Client{Domain: "push.example.com"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// frame is a frame of a codec that needs no configuration.
func frame(ms int64, key bool, text string) av.Packet {
	tag := flv.AppendVideo(nil, av.VP9, key, false, 0, []byte(text))
	return av.Packet{Kind: av.Video, Codec: av.VP9, Key: key, DTS: ms, Tag: tag, Frame: tag[len(tag)-len(text):]}
}

func write(t testing.TB, p *stream.Publication, packets ...av.Packet) {
	t.Helper()
	for _, x := range packets {
		if err := p.WritePacket(x); err != nil {
			t.Fatal(err)
		}
	}
}

// open returns a folder that another user can read.
func open(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fakeTool returns a Tool with the fake ffmpeg.
func fakeTool(t testing.TB) *ffmpeg.Tool {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(open(t), "ffmpeg")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	tool := ffmpeg.New(ffmpeg.Options{Self: "/proc/self/exe", Path: path})
	t.Cleanup(tool.Close)
	if err := tool.Ready(t.Context()); err != nil {
		t.Skip(err)
	}
	return tool
}

// ffmpegMissing returns a Tool of a machine without ffmpeg.
func ffmpegMissing(t testing.TB) *ffmpeg.Tool {
	tool := ffmpeg.New(ffmpeg.Options{Self: "/proc/self/exe", Path: filepath.Join(t.TempDir(), "none")})
	t.Cleanup(tool.Close)
	return tool
}
