package eventlog

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"weir/internal/bus"
	"weir/internal/bus/bustest"
	"weir/internal/event"
)

// outside is a NATS that stops and starts.
type outside struct {
	*bustest.Server
	t *testing.T
}

func newOutside(t *testing.T) *outside { return &outside{bustest.Serve(t), t} }

func (o *outside) world() *world {
	o.t.Helper()
	b, err := bus.Open(o.t.Context(), bus.Config{Node: "n1", URL: o.ClientURL()}, testLog())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(b.Close)
	return &world{t: o.t, dir: o.t.TempDir(), bus: b}
}

// talker emits facts from many goroutines, and knows in which order.
type talker struct {
	mu   sync.Mutex
	said []event.Event
	slow time.Duration // that a call took at most
	stop chan struct{}
	wg   sync.WaitGroup
}

func talk(l *Log, goroutines int, pause time.Duration) *talker {
	k := &talker{stop: make(chan struct{})}
	for g := range goroutines {
		k.wg.Go(func() { // ends with end
			for n := 0; ; n++ {
				e := started(fmt.Sprint(g), fmt.Sprintf("%d.%d", g, n/2))
				if n%2 == 1 {
					e = ended(fmt.Sprint(g), fmt.Sprintf("%d.%d", g, n/2))
				}
				k.mu.Lock()
				begin := time.Now()
				l.Emit(e)
				k.slow = max(k.slow, time.Since(begin))
				k.said = append(k.said, e)
				k.mu.Unlock()
				select {
				case <-time.After(pause):
				case <-k.stop:
					return
				}
			}
		})
	}
	return k
}

func (k *talker) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.said)
}

// more waits until n more facts were emitted.
func (k *talker) more(n int) {
	for want := k.count() + n; k.count() < want; {
		<-time.After(time.Millisecond)
	}
}

func (k *talker) end() []event.Event {
	close(k.stop)
	k.wg.Wait()
	return k.said
}

// F35, the log away: it stops again and again while 50 publishers come and go.
// Nobody is held up, the journal tells how many wait, and all facts are there
// afterwards, once, in order.
func TestAway(t *testing.T) {
	o := newOutside(t)
	l := o.world().open(func(o *Options) { o.SegmentBytes = 64 << 10 })
	k := talk(l, 50, 50*time.Millisecond)
	for range 3 {
		k.more(200)
		o.Stop()
		k.more(1000)
		if h := l.Health(); h.Waiting < 500 || h.Lag == 0 || h.QueueBytes > 1<<20 {
			t.Errorf("while NATS is away, Health = %+v", h)
		}
		o.Resume()
	}
	k.more(100)
	want := k.end()
	settle(t, l)
	same(t, all(t, l, Filter{}), want)
	if h := l.Health(); h.Waiting != 0 || h.Degraded || h.JournalBytes > 200<<10 {
		t.Errorf("afterwards, Health = %+v", h)
	}
	t.Logf("%d facts, none took longer than %v to emit", len(want), k.slow)
}

// A node starts, and ends, without its NATS; what happened is there when NATS
// is.
func TestStartsWithoutNATS(t *testing.T) {
	o := newOutside(t)
	o.Stop()
	w := o.world()
	l := w.open()
	want := []event.Event{started("a", "1"), ended("a", "1"), started("a", "2")}
	for _, e := range want[:2] {
		l.Emit(e)
	}
	flush(t, l)
	if n := l.Last(); n != lastOfMessage {
		t.Errorf("Last of a log that is away = %d", n)
	}
	begin := time.Now()
	if err := l.Close(t.Context()); err == nil || time.Since(begin) > patience/2 {
		t.Errorf("Close = %v after %v, want an error soon", err, time.Since(begin))
	}
	l = w.open()
	if clean, _ := l.Before(); !clean {
		t.Error("it did not end in order")
	}
	l.Emit(want[2])
	o.Resume()
	settle(t, l)
	same(t, all(t, l, Filter{}), want)
}

// The process is killed again and again, at any time, and JetStream with it or
// not; it forgets what it had stored lately. No fact comes twice, and none that
// was flushed is lost.
func TestKilled(t *testing.T) {
	o := newOutside(t)
	w := o.world()
	var want []event.Event
	for i := range 8 {
		l := w.open(func(o *Options) {
			o.SegmentBytes, o.Beat, o.dedup = 10_000, time.Duration(1+rand.IntN(50))*time.Millisecond, 100*time.Millisecond
		})
		k := talk(l, 1+rand.IntN(10), time.Millisecond)
		k.more(rand.IntN(300))
		said := k.end()
		flush(t, l)
		kill(l)
		want = append(want, said...)
		if i%3 == 2 {
			o.Stop()
			o.Resume()
		}
		<-time.After(120 * time.Millisecond) // JetStream's memory of IDs is over
	}
	l := w.open()
	settle(t, l)
	var got []Entry
	for _, e := range all(t, l, Filter{}) { // without the ends that were told for those killed
		if d, ok := e.Event.Data.(event.PublishEnded); !ok || d.Reason != event.ReasonNodeDied {
			got = append(got, e)
		}
	}
	same(t, got, want)
}

// Nodes that write at the same time each have their facts in order.
func TestManyNodes(t *testing.T) {
	w := newWorld(t)
	var logs []*Log
	var talkers []*talker
	for i := range 3 {
		l := w.open(func(o *Options) { o.Node, o.Dir = fmt.Sprint(i), fmt.Sprintf("%s/%d", w.dir, i) })
		logs = append(logs, l)
		talkers = append(talkers, talk(l, 5, time.Millisecond))
	}
	want := map[string][]event.Event{}
	for i, k := range talkers {
		k.more(300)
		want[fmt.Sprint(i)] = k.end()
	}
	for _, l := range logs {
		settle(t, l)
	}
	got := map[string][]Entry{}
	for _, e := range all(t, logs[0], Filter{}) {
		got[e.Event.Node] = append(got[e.Event.Node], e)
	}
	for node, list := range want {
		same(t, got[node], list)
	}
}

// A node that joins others does not read all that they have written before it
// sends its own.
func TestJoins(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	for i := range 100 {
		l.Emit(started("a", fmt.Sprint(i)))
	}
	settle(t, l)
	asked, err := w.bus.Conn().SubscribeSync("$JS.API.CONSUMER.CREATE." + factsStream + ".>")
	if err != nil {
		t.Fatal(err)
	}
	other := w.open(func(o *Options) { o.Node, o.Dir = "n2", w.dir+"/other" })
	other.Emit(started("b", "x"))
	settle(t, other)
	if n, _, err := asked.Pending(); err != nil || n != 0 {
		t.Errorf("it asked for %d consumers, %v", n, err)
	}
	if list := all(t, other, Filter{}); len(list) != 101 {
		t.Errorf("%d events, want 101", len(list))
	}
	if n, _, err := asked.Pending(); err != nil || n == 0 {
		t.Errorf("nobody was seen asking for a consumer: %d, %v", n, err)
	}
}

// F35: of three NATS the one that leads is killed.
func TestLeaderKilled(t *testing.T) {
	routes, held := bustest.Addresses(t, 3)
	var members []*bus.Bus
	for i, addr := range routes {
		held[i].Close()
		b, err := bus.Open(t.Context(), bus.Config{Node: fmt.Sprint("n", i), Dir: t.TempDir(), Cluster: &bus.Cluster{Name: "c", Listen: addr, Routes: routes}}, testLog())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		members = append(members, b)
	}
	w := &world{t: t, dir: t.TempDir(), bus: members[0]}
	l := w.open(func(o *Options) { o.Replicas = bus.Replicas })
	k := talk(l, 5, 2*time.Millisecond)
	l.awaitStream(t)
	k.more(200)
	info, err := (*l.facts.ready.Load()).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leader := 1
	if info.Cluster.Leader == "n2" { // n0 is ours; then any other will do
		leader = 2
	}
	members[leader].Close()
	k.more(500)
	want := k.end()
	settle(t, l)
	same(t, all(t, l, Filter{}), want)
}

// awaitStream waits until the stream of facts has been made.
func (l *Log) awaitStream(t *testing.T) {
	t.Helper()
	for late := time.After(time.Minute); l.facts.ready.Load() == nil; {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatal("the stream was not made")
		}
	}
}

// F37: JetStream loses everything. The log goes on with what is new.
func TestWiped(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	r := l.Read(t.Context(), Filter{}, 0)
	defer r.Close()
	for i := range 100 {
		l.Emit(started("a", fmt.Sprint(i)))
	}
	take(t, r, 100)
	settle(t, l)
	for _, s := range []string{factsStream, crowdStream} {
		if err := w.bus.JetStream().DeleteStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		l.Emit(started("b", fmt.Sprint(i)))
	}
	settle(t, l)
	if list := all(t, l, Filter{}); len(list) != 10 || list[0].Event.Stream != "b" {
		t.Errorf("%d events, want 10", len(list))
	}
	if e := take(t, r, 1)[0]; e.Event.Stream != "b" {
		t.Errorf("the reader got %s %s", e.Event.Stream, e.Event.Sequence)
	}
}

// A loss of power, at any time: of the disk there is what had been synced, and
// behind it anything. What was flushed is in the log afterwards.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	l := w.open(func(o *Options) { o.SegmentBytes, o.Beat = 20_000, 5*time.Millisecond })
	k := talk(l, 5, 20*time.Millisecond)
	for range 4 {
		k.more(50 + rand.IntN(100))
		k.mu.Lock()
		said := append([]event.Event(nil), k.said...)
		k.mu.Unlock()
		flush(t, l) // at least what was said is durable now
		dir := t.TempDir()
		// What JetStream has is removed from the journal, so the journal is
		// copied first.
		l.facts.copyTo(t, dir+"/journal/"+factsStream)
		if err := os.CopyFS(dir+"/nats", os.DirFS(w.dir+"/nats")); err != nil {
			t.Fatal(err)
		}
		after := &world{t: t, dir: dir}
		after.start()
		l2 := after.open()
		settle(t, l2)
		got := map[string]int{}
		last := map[string]int{}
		for i, e := range all(t, l2, Filter{}) {
			got[e.Event.ID]++
			last[e.Event.ID] = i
		}
		at := -1
		for _, e := range said {
			if got[e.ID] != 1 || last[e.ID] < at {
				t.Fatalf("%s %s is %d times in the log, or out of order", e.Type, e.Sequence, got[e.ID])
			}
			at = last[e.ID]
		}
		l2.stop()
		l2.tasks.Wait()
		after.bus.Close()
	}
	k.end()
}

// copyTo copies what of the journal is on disk. What has not been synced is cut
// off, or anything.
func (j *journal) copyTo(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		f, err := os.Open(s.path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.LimitReader(f, s.size))
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !s.closed {
			for range rand.IntN(200) {
				b = append(b, byte(rand.Uint32()))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(s.path)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever waits for a disk that takes nothing, while NATS is away, is told so in
// time; what is emitted meanwhile is written when it can be.
func TestDiskFull(t *testing.T) {
	o := newOutside(t)
	w := o.world()
	dir := smallDisk(t, "1m")
	l := w.open(func(o *Options) { o.Dir = dir })
	l.Emit(started("a", "0"))
	settle(t, l)
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	want := []event.Event{all(t, l, Filter{})[0].Event}
	o.Stop()
	for i := range 200 {
		e := started("a", fmt.Sprint(1+i))
		want = append(want, e)
		l.Emit(e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.Flush(ctx); err == nil {
		t.Error("Flush succeeded on a full disk")
	}
	if h := l.Health(); !h.Degraded || h.QueueBytes == 0 {
		t.Errorf("with a full disk, Health = %+v", h)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	o.Resume()
	settle(t, l)
	same(t, all(t, l, Filter{}), want)
	if h := l.Health(); h.Degraded {
		t.Errorf("afterwards, Health = %+v", h)
	}
}
