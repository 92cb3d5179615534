package callback

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
)

// real is a Dispatcher on a real event log, in a folder that outlives it.
type real struct {
	t   testing.TB
	dir string
	set *policy.Set

	node  string
	url   string        // of a NATS that others use, too; empty: one of its own
	lease time.Duration // of Options

	bus *bus.Bus
	log *eventlog.Log
	d   *Dispatcher

	stop func()
}

func newReal(t testing.TB, dir string, secret string) *real {
	w := prepare(t, dir, secret)
	w.start()
	return w
}

// prepare returns a real that is not started.
func prepare(t testing.TB, dir string, secret string) *real {
	d := quick()
	d.ConnectTimeout, d.Timeout = 5*time.Second, 10*time.Second
	d.Secret = policy.NewSecret(secret)
	return &real{t: t, dir: dir, node: "n1", set: &policy.Set{Spaces: []policy.Space{{Name: "a", Delivery: d}, {Name: "b", Delivery: d}}}}
}

func (w *real) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	logger := slog.New(slog.DiscardHandler)
	if flag.Parsed() && testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	if w.bus, err = bus.Open(ctx, bus.Config{Node: w.node, Dir: w.dir + "/nats", URL: w.url}, logger); err != nil {
		w.t.Fatal(err)
	}
	if w.log, err = eventlog.Open(ctx, w.bus.JetStream(), eventlog.Options{Log: logger, Node: w.node, Dir: w.dir + "/journal", CrowdRate: 1e6}); err != nil {
		w.t.Fatal(err)
	}
	w.d = New(w.bus.JetStream(), w.log, func() *policy.Set { return w.set }, Options{Log: logger, Node: w.node, lease: w.lease})
	done := make(chan struct{})
	go func() { defer close(done); w.d.Run(ctx) }() // ends with ctx
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		w.log.Close(end)
		w.bus.Close()
	})
	w.t.Cleanup(func() { w.stop() })
}

// pushOf returns the facts of a push.
func pushOf(space, stream, url string) (start, end event.Event) {
	now, seq := time.Now(), event.NewSequence()
	cb := &event.Callback{URL: url, Format: "v2"}
	c := event.Client{Domain: "push.example.com", Protocol: "rtmp", Addr: netip.MustParseAddrPort("192.0.2.1:17102"), NodeAddr: netip.MustParseAddr("192.0.2.2"),
		Params: []event.Param{{Name: "k", Value: "1"}, {Name: "t", Value: "2"}}, TcURL: "rtmp://push.example.com/live"}
	start = event.New(now, event.PublishStarted{Client: c, Session: "1", Callback: cb, Ended: cb})
	end = event.New(now.Add(time.Second), event.PublishEnded{Client: c, Session: "1", Started: now, Reason: event.ReasonClosed, Callback: cb})
	for _, e := range []*event.Event{&start, &end} {
		e.Space, e.App, e.Stream, e.Sequence = space, "live", stream, seq
	}
	return start, end
}

// until waits for what happens by itself.
func until(t testing.TB, what string, patience time.Duration, cond func() bool) {
	t.Helper()
	late, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited for %v: %s", patience, what)
		}
	}
}

// The whole way over the real log: facts of two kinds, a receiver that fails for
// a while, a restart; each is told in the order of its stream.
func TestReal(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	var mu sync.Mutex
	var down atomic.Bool
	got := map[string][]string{} // ids by stream, repetitions left out
	calls := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get(HeaderID)
		if Sign(policy.NewSecret("s3cret"), r.Header.Get(HeaderTimestamp), id, body) != r.Header.Get(HeaderSignature) {
			t.Errorf("wrong signature: %v", r.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		calls++
		if down.Load() {
			w.WriteHeader(503)
			return
		}
		s := r.Header.Get("X-Stream") + r.URL.Query().Get("stream")
		if !slices.Contains(got[s], id) {
			got[s] = append(got[s], id)
		}
	}))
	t.Cleanup(receiver.Close)
	w := newReal(t, t.TempDir(), "s3cret")
	want := map[string][]string{}
	emit := func(n, round int) {
		for i := range n {
			name := fmt.Sprintf("s%d", i)
			start, end := pushOf("a", name, receiver.URL+"/live?stream="+name)
			// One receiver for all: the URLs differ only so that it can tell streams apart.
			for _, e := range []*event.Event{&start, &end} {
				callbackOf(e).Group = receiver.URL
				w.log.Emit(*e)
				want[name] = append(want[name], e.ID)
			}
		}
		if round%2 == 0 {
			e := event.New(time.Now(), event.PublishRefused{Reason: "auth_failed", Callback: &event.Callback{URL: receiver.URL + "/live?stream=refused", Format: "v2"}})
			e.Space, e.App, e.Stream = "a", "live", "../x"
			w.log.Emit(e)
			want["refused"] = append(want["refused"], e.ID)
		}
	}
	all := func() bool {
		mu.Lock()
		defer mu.Unlock()
		for name, ids := range want {
			if len(got[name]) < len(ids) {
				return false
			}
		}
		return true
	}
	emit(100, 0)
	until(t, "all is told", 20*time.Second, all)
	down.Store(true)
	emit(100, 1)
	until(t, "the receiver is known to fail", 20*time.Second, func() bool { return w.d.Stats().Failing == 1 })
	emit(100, 2)
	until(t, "the receiver is seen to fail", 20*time.Second, func() bool {
		list, err := w.d.Receivers(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		r := list[0]
		return r.State == "failing" && r.Waiting >= 300 && r.Reason == "status 503" && !r.Oldest.IsZero()
	})
	w.stop()
	w.start()
	emit(100, 3)
	down.Store(false)
	until(t, "all that waited is told", 60*time.Second, all)
	until(t, "the receiver is like any other", 20*time.Second, func() bool {
		s := w.d.Stats()
		return s.Failing+s.Behind+s.Parked+s.Held == 0
	})
	mu.Lock()
	for name, ids := range want {
		if !slices.Equal(got[name], ids) {
			t.Errorf("told of %s: %v, want %v", name, got[name], ids)
		}
	}
	mu.Unlock()
	until(t, "the delivery log", 10*time.Second, func() bool {
		list, err := w.d.Attempts(t.Context(), Attempts{Space: "a", App: "live", Stream: "s7", Most: 100})
		return err == nil && len(list) >= 8
	})
	w.stop()
	http.DefaultClient.CloseIdleConnections()
	receiver.Close()
	runtime.GC()
}

// F37: when what is kept in JetStream is wiped, it is made again, and what
// happens from then on is told.
func TestWiped(t *testing.T) {
	var calls atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(receiver.Close)
	w := prepare(t, t.TempDir(), "")
	w.lease = clusterLease
	w.start()
	start, end := pushOf("a", "s", receiver.URL)
	w.log.Emit(start)
	until(t, "the start is told", 10*time.Second, func() bool { return calls.Load() == 1 })
	js := w.bus.JetStream()
	for i, streams := range [][]string{{recordStream}, {recordStream, attemptStream, deadStream, "KV_weir_lease_callbacks"}} {
		for _, name := range streams {
			if err := js.DeleteStream(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		before := calls.Load()
		w.log.Emit([]event.Event{end, start}[i])
		until(t, "what happened then is told", 20*time.Second, func() bool { return calls.Load() > before })
		until(t, "the cursor is kept again", 20*time.Second, func() bool {
			text, err := w.d.keeper.part("").get(t.Context(), cursorKey)
			return err == nil && string(text) == fmt.Sprint(w.log.Last()+1)
		})
	}
	until(t, "the delivery log is kept again", 20*time.Second, func() bool {
		start, _ := pushOf("a", "s", receiver.URL)
		w.log.Emit(start)
		list, err := w.d.Attempts(t.Context(), Attempts{Most: 10})
		return err == nil && len(list) > 0
	})
}
