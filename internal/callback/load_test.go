package callback

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
)

// receiverProcess is a receiver in a process of its own, so that its work is not
// counted as ours. It answers as fast as it can.
func receiverProcess() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	fmt.Printf("http://%s/live\n", ln.Addr())
	http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
}

func otherReceiver(t testing.TB) string {
	argv := []string{os.Args[0]}
	if cpu := os.Getenv("WEIR_RECEIVER_CPU"); cpu != "" { // so that it is on another one than we
		argv = []string{"taskset", "-c", cpu, os.Args[0]}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "WEIR_TEST_RECEIVER=1", "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	b := make([]byte, 256)
	n, err := out.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b[:n]))
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDeliver is the fifth proof of the issue: from a fact in the event log
// to a receiver on this machine and the delivery log. WEIR_LONG=1.
func BenchmarkDeliver(b *testing.B) {
	for _, lanes := range []int{1000} {
		b.Run(fmt.Sprintf("streams=%d", lanes), func(b *testing.B) {
			url := otherReceiver(b)
			w := newReal(b, b.TempDir(), "s3cret")
			w.set.Spaces[0].Delivery.Concurrency = 64
			w.stop()
			w.start()
			// The facts are there before: how fast they come is not measured here.
			w.d.facts.mu.Lock() // nobody is told yet
			for i := range b.N {
				start, _ := pushOf("a", fmt.Sprintf("s%d", i%lanes), url)
				w.log.Emit(start)
			}
			if err := w.log.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			until(b, "all facts are in the log", time.Minute, func() bool { return w.log.Health().Waiting == 0 })
			b.ResetTimer()
			used := cpu()
			w.d.facts.mu.Unlock()
			until(b, "all is told", 3*time.Minute, func() bool {
				w.d.facts.mu.Lock()
				defer w.d.facts.mu.Unlock()
				return w.d.facts.stats.Delivered >= int64(b.N)
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
			b.ReportMetric(float64(b.N)/(cpu()-used).Seconds(), "deliveries/cpu-s")
		})
	}
}

// seed makes an event log in a folder with n facts, each a message as it would be
// if it had been emitted, but without waiting for the disk each time.
func seed(t *testing.T, dir string, n int, fact func(i int) event.Event) {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Node: "n1", Dir: dir + "/nats"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	js, err := jetstream.New(b.Conn(), jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		t.Fatal(err)
	}
	_, err = bus.Stream(t.Context(), js, jetstream.StreamConfig{
		Name: "weir-facts", Subjects: []string{"weir.facts.>"}, MaxAge: 30 * 24 * time.Hour, MaxBytes: 10 << 30, Compression: jetstream.S2Compression,
		Duplicates: 2 * time.Minute, AllowDirect: true, PersistMode: jetstream.AsyncPersistMode,
	}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e := fact(i)
		text, err := e.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishAsync(fmt.Sprintf("weir.facts.a.live.%03x.%s", i/2%1024, e.Type), text, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("not all facts were stored within a minute")
	}
}

// A million facts that wait for receivers cost less than 200 MB, whatever their
// streams. WEIR_LONG=1; otherwise fewer.
func TestWaitingIsCheap(t *testing.T) {
	n := 20_000
	if s := os.Getenv("WEIR_LONG"); s != "" {
		n = 1_000_000
	}
	if s, err := strconv.Atoi(os.Getenv("WEIR_WAITING")); err == nil {
		n = s
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // for a port at which nobody answers
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String() + "/live"
	ln.Close()
	w := prepare(t, t.TempDir(), "")
	heap := func() uint64 {
		runtime.GC()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	begin := time.Now()
	seed(t, w.dir, n, func(i int) event.Event {
		start, end := pushOf("a", fmt.Sprintf("s%d", i/2), url) // each pair another stream
		if i%2 == 0 {
			return start
		}
		return end
	})
	t.Logf("%d facts were put into the log in %v", n, time.Since(begin))
	begin = time.Now()
	w.start()
	until(t, "all was read", 5*time.Minute, func() bool {
		w.d.facts.mu.Lock()
		next := w.d.facts.router.next
		w.d.facts.mu.Unlock()
		list, _, err := w.d.facts.source.scan(t.Context(), query{}, next, 1)
		return err == nil && len(list) == 0
	})
	t.Logf("they were read in %v", time.Since(begin))
	used := heap()
	s := w.d.Stats()
	rss := ""
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "VmRSS") {
				rss = strings.TrimSpace(line)
			}
		}
	}
	t.Logf("%d facts wait: %d KiB of heap more, of that the event log's and NATS' own; %s; %+v", n, (int64(used)-int64(before))>>10, rss, s)
	if s.Failing != 1 || s.Held > 2*window {
		t.Errorf("%+v", s)
	}
	if used > before+200<<20 {
		t.Errorf("%d facts that wait cost %d MiB", n, (used-before)>>20)
	}
}
