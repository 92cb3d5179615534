package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// BenchmarkList lists the streams of a hub that has 5 000, over HTTP: all of
// them in one answer, and pages of 100.
func BenchmarkList(b *testing.B) {
	w := newWorld(b)
	for i := range 4999 {
		w.publish(b, "default", fmt.Sprintf("camera-%04d", i))
	}
	token := w.token(b, Token{Role: Viewer})
	srv := httptest.NewServer(w)
	defer srv.Close()
	for name, query := range map[string]string{"all": "limit=5000", "page": "limit=100", "most": "limit=100&order=-players"} {
		b.Run(name, func(b *testing.B) {
			var size int64
			w.unlimited()
			began := cpuTime(b)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, srv.URL+Prefix+"/streams?"+query, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				if resp.StatusCode != http.StatusOK {
					b.Fatal(resp.Status)
				}
				if size, err = io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
			b.ReportMetric(float64(size), "B/answer")
			b.ReportMetric(float64((cpuTime(b)-began).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpuTime returns how long the process has had a processor, client and all: what
// a list costs also where other work makes it wait.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIdleStream measures what a live stream takes in memory whose
// publisher has sent nothing yet, with what watches over it and counts it.
func BenchmarkIdleStream(b *testing.B) {
	const n = 5000
	for b.Loop() {
		hub := newWorld(b).Hub
		app := policy.DefaultApp("live")
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			if _, err := hub.Publish(stream.Key{Space: "default", App: "live", Name: fmt.Sprint(i)}, &app, stream.Push{Sequence: event.NewSequence()}); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc+after.StackInuse-before.StackInuse)/n, "B/stream")
		hub.Close(b.Context())
	}
}
