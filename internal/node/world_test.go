package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/policy"
)

// world is a node with a stream, the canary, that players of every protocol
// watch. Whatever happens to the node, they must not notice.
type world struct {
	*Node
	t      *testing.T
	log    *journal
	canary *encoder
	crowd  *audience
	home   *http.Client // of the one who asks for metrics
	rest   usage        // what the process holds with the canary and nothing else
	names  int          // of streams that were given
}

// patience is how long a test waits for what should come at once: the second
// of the rule, and what a busy machine may add.
const patience = 5 * time.Second

// newWorld starts a node under a policy with three apps: "live", which the canary
// is in, "stage", which change may change, and "burst", whose publishers may
// send a film in a moment and whose playlists then list all of it.
func newWorld(t *testing.T, change func(c *Config, stage *policy.App)) *world {
	t.Helper()
	c := testConfig(t)
	live, stage, burst := policy.DefaultApp("live"), policy.DefaultApp("stage"), policy.DefaultApp("burst")
	live.Hold, live.HLS.Segment, live.HLS.Window = 100*time.Millisecond, time.Second, 3
	stage.Hold, stage.HLS.Segment, stage.HLS.Window, stage.HLS.Mode = 100*time.Millisecond, time.Second, 1000, policy.HLSAlways
	burst.Hold, burst.HLS.Segment, burst.HLS.Window, burst.HLS.Mode = 20*time.Millisecond, time.Second, 1000, policy.HLSAlways
	burst.MaxLead = time.Hour
	if change != nil {
		change(c, &stage)
	}
	c.Policy.Spaces[0].Apps = []policy.App{live, policy.DefaultApp("stage"), burst}
	w := &world{t: t, log: &journal{}, home: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}}
	n, err := New(c, slog.New(page{journal: w.log}))
	if err != nil {
		t.Fatal(err)
	}
	w.Node = n
	*n.Policy().Spaces[0].App("stage") = stage // which may be quicker than anybody may configure
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		w.home.CloseIdleConnections()
	})
	w.canary = w.encoder("live", "canary")
	w.canary.step = 10
	w.canary.configure()
	w.canary.film(0, 1000) // so that there is something to watch at once
	w.crowd = w.watch("live", "canary", everyWay...)
	stop := w.canary.goOn()
	w.crowd.reach(w.canary.sent())
	w.crowd.strict(true)
	w.rest = w.steady()
	t.Cleanup(func() {
		stop()
		w.crowd.leave()
		w.canary.vanish()
	})
	return w
}

// until waits for what the server does by itself.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	until(w.t, what, patience, cond)
}

func until(t *testing.T, what string, patience time.Duration, cond func() bool) {
	t.Helper()
	late, tick := time.After(patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited for %v: %s", patience, what)
		}
	}
}

// unharmed checks what must hold after whatever was done to the node: it
// serves the canary to all players without a gap, nothing has panicked (I1), and
// it holds no more than before (I2).
func (w *world) unharmed() {
	w.t.Helper()
	w.crowd.reach(w.canary.sent() + 1)
	w.crowd.judge()
	if n := w.metric("weir_panics_recovered_total"); n != "0" {
		w.t.Errorf("%s panics", n)
	}
	w.until("only the canary is published", func() bool { return w.hub.Stats().Publishers == 1 })
	var now usage
	late := time.After(patience)
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		if now = currentUsage(); now.within(w.rest) {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-late:
			var stacks strings.Builder
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			w.t.Fatalf("the process holds %v, and held %v before:\n%.10000s", now, w.rest, &stacks)
		}
	}
}

// metric returns the value of a metric as the admin listener shows it.
func (w *world) metric(name string) string {
	w.t.Helper()
	resp, err := w.home.Get(w.url("admin", "/metrics"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n"+name+" ")
	if !ok {
		w.t.Fatalf("no metric %s", name)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// usage is what a leak would make grow.
type usage struct{ goroutines, files int }

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines and %d files", u.goroutines, u.files)
}

func currentUsage() usage {
	files, _ := os.ReadDir("/proc/self/fd") // empty where there is no such folder
	return usage{runtime.NumGoroutine(), len(files)}
}

// within reports whether u is about as much as the other: players are moved
// between goroutines all the time, and statistics are in two files that are
// opened when a minute and when an hour are over.
func (u usage) within(other usage) bool {
	return u.goroutines <= other.goroutines+5 && u.files <= other.files+2
}

// steady returns the usage once the canary's players have all begun.
func (w *world) steady() usage {
	w.t.Helper()
	w.metric("weir_publishers")
	most := usage{}
	for range 20 {
		w.crowd.reach(w.canary.sent() + 1)
		now := currentUsage()
		most.goroutines, most.files = max(most.goroutines, now.goroutines), max(most.files, now.files)
	}
	return most
}

// journal is a log that is counted; a few lines of it are kept.
type journal struct {
	mu   sync.Mutex
	n    int
	last []string
	hls  map[string]bool // streams of which it says that HLS has begun
}

// page is a handler that writes into a journal.
type page struct {
	*journal
	attrs string
}

func (p page) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (p page) WithGroup(string) slog.Handler                { return p }
func (p page) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		p.attrs += " " + a.String()
	}
	return p
}

func (p page) Handle(_ context.Context, r slog.Record) error {
	line := r.Message + p.attrs
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j := p.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if name, ok := strings.CutPrefix(line, "HLS begins stream=default/"); ok {
		if j.hls == nil {
			j.hls = make(map[string]bool)
		}
		j.hls[name] = true
	}
	if j.n++; len(j.last) == 10 {
		j.last = j.last[1:]
	}
	j.last = append(j.last, line)
	return nil
}

// packs reports whether a stream is being packaged, or was.
func (j *journal) packs(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.hls[name]
}

// count returns the number of lines so far.
func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.n
}

// tail returns the newest lines.
func (j *journal) tail() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.last, "\n")
}

// dial connects from an address of its own, so that what an attacker does to
// the reputation of his address does not touch the others.
func (w *world) dial(listener string) net.Conn {
	w.t.Helper()
	d := net.Dialer{Timeout: patience}
	if runtime.GOOS == "linux" { // all of 127.0.0.0/8 is loopback
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 6, 6, 6)}
	}
	nc, err := d.DialContext(w.t.Context(), "tcp", w.Addr(listener).String())
	if err != nil {
		w.t.Fatal(err)
	}
	return nc
}
