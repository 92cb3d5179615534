package bus

import (
	"context"
	"sync"
	"testing"
	"time"

	"weir/internal/bus/bustest"
)

// worker is a node that works whenever it has the lease.
type worker struct {
	name  string
	bus   *Bus
	lease *Lease
	stop  context.CancelFunc
	over  chan struct{} // closed when Run has returned
}

// floor is who works now: two at once are an error.
type floor struct {
	t    *testing.T
	mu   sync.Mutex
	busy string
	came chan string
}

func (f *floor) start(name, url string) *worker {
	f.t.Helper()
	w := &worker{name: name, bus: open(f.t, Config{Node: name, URL: url}), over: make(chan struct{})}
	w.lease = NewLease(w.bus.JetStream(), LeaseOptions{Name: "test", Node: name, Time: 1500 * time.Millisecond})
	ctx, cancel := context.WithCancel(f.t.Context())
	w.stop = cancel
	go func() { // ends with ctx
		defer close(w.over)
		w.lease.Run(ctx, func(ctx, held context.Context) {
			f.mu.Lock()
			if f.busy != "" {
				f.t.Errorf("%s and %s work at once", f.busy, name)
			}
			f.busy = name
			f.mu.Unlock()
			f.came <- name
			<-ctx.Done()
			f.mu.Lock()
			f.busy = ""
			f.mu.Unlock()
		})
	}()
	f.t.Cleanup(func() { cancel(); <-w.over })
	return w
}

func (f *floor) next(want string, within time.Duration) {
	f.t.Helper()
	select {
	case got := <-f.came:
		if got != want {
			f.t.Errorf("%s works, want %s", got, want)
		}
	case <-time.After(within):
		f.t.Fatalf("nobody works within %v, want %s", within, want)
	}
}

// One node works at a time; another one goes on when it stops, when it cannot
// be heard of any more, and not when it comes back.
func TestLease(t *testing.T) {
	url := bustest.Serve(t).ClientURL()
	f := &floor{t: t, came: make(chan string, 10)}
	a := f.start("a", url)
	f.next("a", 10*time.Second)
	b := f.start("b", url)
	begin := time.Now()
	a.stop() // gives it back
	<-a.over
	f.next("b", 10*time.Second)
	t.Logf("a lease that is given back is taken after %v", time.Since(begin))
	b.bus.Close() // without a word
	c := f.start("c", url)
	f.next("c", 10*time.Second)
	// A node of the same name whose process before was killed does not wait.
	c.bus.Close()
	c.stop()
	<-c.over
	begin = time.Now()
	f.start("c", url)
	f.next("c", 10*time.Second)
	t.Logf("a process that starts again has its lease after %v", time.Since(begin))
	select {
	case name := <-f.came:
		t.Errorf("%s works, too", name)
	case <-time.After(2 * time.Second): // longer than a lease
	}
}
