package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
)

// world is a folder for all that outlives a Log.
type world struct {
	t   *testing.T
	dir string
	bus *bus.Bus
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.start()
	t.Cleanup(func() { w.bus.Close() })
	return w
}

// start starts JetStream.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.bus, err = bus.Open(context.Background(), bus.Config{Node: "n1", Dir: w.dir + "/nats"}, testLog()); err != nil {
		w.t.Fatal(err)
	}
}

// open opens a Log, which ends with the test.
func (w *world) open(change ...func(*Options)) *Log {
	w.t.Helper()
	o := Options{Log: testLog(), Node: "n1", Dir: w.dir + "/journal"}
	for _, f := range change {
		f(&o)
	}
	l, err := Open(w.t.Context(), w.bus.JetStream(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		l.stop()
		l.tasks.Wait()
		l.facts.close()
		l.crowd.close()
	})
	return l
}

// patience is how long a test waits for what should take a moment, on a machine
// with much else to do.
const patience = time.Minute

func testLog() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// kill ends a Log like kill -9 would: what is not on disk is lost, and no mark
// says that it ended.
func kill(l *Log) {
	l.stop()
	l.tasks.Wait()
	saved := os.DirFS(l.opt.Dir)
	dir, err := os.MkdirTemp("", "journal")
	if err == nil {
		err = os.CopyFS(dir+"/j", saved)
	}
	l.facts.close()
	l.crowd.close()
	if err == nil {
		err = errors.Join(os.RemoveAll(l.opt.Dir), os.Rename(dir+"/j", l.opt.Dir), os.Remove(dir))
	}
	if err != nil {
		panic(err)
	}
}

func flush(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// started and ended are facts of a push to a stream.
func started(stream, sequence string) event.Event {
	e := event.New(time.Now(), event.PublishStarted{Session: "s", Ended: &event.Callback{URL: "http://x/" + stream}})
	e.Space, e.App, e.Stream, e.Sequence = "default", "live", stream, sequence
	return e
}

func ended(stream, sequence string) event.Event {
	e := event.New(time.Now(), event.PublishEnded{Session: "s", Reason: event.ReasonClosed})
	e.Space, e.App, e.Stream, e.Sequence = "default", "live", stream, sequence
	return e
}

func played(stream string, n int) event.Event {
	e := event.New(time.Now(), event.PlayEnded{Session: fmt.Sprint(n)})
	e.Space, e.App, e.Stream = "default", "live", stream
	return e
}

// take reads n events.
func take(t *testing.T, r *Reader, n int) []Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var list []Entry
	for len(list) < n {
		e, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(list), n, err)
		}
		if len(list) > 0 && e.Seq <= list[len(list)-1].Seq {
			t.Fatalf("after %d came %d", list[len(list)-1].Seq, e.Seq)
		}
		list = append(list, e)
	}
	return list
}

// all reads what is in the log now.
func all(t *testing.T, l *Log, f Filter) []Entry {
	t.Helper()
	to := l.Last()
	if crowd, err := f.crowd(); err != nil {
		t.Fatal(err)
	} else if crowd {
		to = l.crowd.lastSeq()
	}
	r := l.Range(t.Context(), f, 0, to)
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var list []Entry
	for {
		e, err := r.Next(ctx)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
}

// settle waits until JetStream has everything.
func settle(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l.gather.flush()
	if err := errors.Join(l.facts.flush(ctx), l.crowd.flush(ctx)); err != nil {
		t.Fatal(err)
	}
	for {
		err := errors.Join(l.facts.drain(ctx), l.crowd.drain(ctx))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond) // JetStream is away, and will be back
	}
}

// same checks that the log holds the facts want, in order, and nothing else.
func same(t *testing.T, got []Entry, want []event.Event) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("%d events, want %d: %s %s is missing", len(got), len(want), want[i].Type, want[i].Sequence)
		case i >= len(want):
			t.Fatalf("event %d is one too many: %s %s", i, got[i].Event.Type, got[i].Event.Sequence)
		case got[i].Event.ID != want[i].ID:
			t.Fatalf("event %d is %s %s, want %s %s", i, got[i].Event.Type, got[i].Event.Sequence, want[i].Type, want[i].Sequence)
		}
	}
}

func TestOrder(t *testing.T) {
	l := newWorld(t).open()
	r := l.Read(t.Context(), Filter{}, 0)
	defer r.Close()
	var want []event.Event
	for i := range 1000 {
		e := started("a", fmt.Sprint(i))
		if i%2 == 1 {
			e = ended("a", fmt.Sprint(i-1))
		}
		want = append(want, e)
		l.Emit(e)
	}
	same(t, take(t, r, len(want)), want)
	same(t, all(t, l, Filter{}), want)
	if h := l.Health(); h.Degraded {
		t.Errorf("Health = %+v", h)
	}
	if e := all(t, l, Filter{})[0].Event; e.Node != "n1" {
		t.Errorf("node is %q", e.Node)
	}
}

func TestFilter(t *testing.T) {
	l := newWorld(t).open()
	for _, name := range []string{"a", "b", "a.b"} {
		l.Emit(started(name, name))
		l.Emit(ended(name, name))
	}
	l.Emit(event.New(time.Now(), event.NodeStarted{}))
	l.Emit(played("a", 1))
	l.Emit(played("b", 2))
	settle(t, l)
	count := func(f Filter, want int) {
		t.Helper()
		if got := all(t, l, f); len(got) != want {
			t.Errorf("%+v: %d events, want %d", f, len(got), want)
		}
	}
	count(Filter{}, 7)
	count(Filter{Space: "default"}, 6)
	count(Filter{Space: "other"}, 0)
	count(Filter{App: "live", Stream: "a.b"}, 2)
	count(Filter{Stream: "a"}, 2)
	count(Filter{Types: []event.Type{event.TypePublishEnded, event.TypeNodeStarted}}, 4)
	count(Filter{Space: "default", App: "live", Stream: "b", Types: []event.Type{event.TypePublishEnded}}, 1)
	count(Filter{Crowd: true}, 2)
	count(Filter{Stream: "b", Types: []event.Type{event.TypePlayEnded}}, 1)
	r := l.Read(t.Context(), Filter{Types: []event.Type{event.TypePlayEnded, event.TypePublishEnded}}, 0)
	if _, err := r.Next(t.Context()); err == nil {
		t.Error("one reader read both kinds of facts")
	}
}

func TestCrowd(t *testing.T) {
	l := newWorld(t).open()
	const n = 1000
	for i := range n {
		l.Emit(played("a", i))
	}
	settle(t, l)
	list := all(t, l, Filter{Crowd: true})
	if len(list) != n {
		t.Fatalf("%d events, want %d", len(list), n)
	}
	info, err := (*l.crowd.ready.Load()).Info(t.Context())
	if err != nil || info.State.Msgs > n/100 {
		t.Errorf("%d messages, %v; want few", info.State.Msgs, err)
	}
	for i := 0; i < n; i += 37 { // go on anywhere
		r := l.Read(t.Context(), Filter{Crowd: true}, list[i].Seq)
		if e := take(t, r, 1)[0]; e.Event.ID != list[i].Event.ID {
			t.Errorf("from %d: got %d", list[i].Seq, e.Seq)
		}
		r.Close()
	}
}

// Names that clients make up cost no subjects, of which JetStream keeps an
// account each.
func TestMadeUpNames(t *testing.T) {
	l := newWorld(t).open(func(o *Options) { o.CrowdRate = 1e6 })
	const n = 3000
	for i := range n {
		e := event.New(time.Now(), event.PublishRefused{Reason: "no_app"})
		e.Space, e.App, e.Stream = "default", fmt.Sprintf("app%d", i), "s"
		l.Emit(e)
	}
	settle(t, l)
	info, err := (*l.crowd.ready.Load()).Info(t.Context())
	if err != nil || info.State.NumSubjects > shelves {
		t.Errorf("%d subjects, %v; want %d at most", info.State.NumSubjects, err, shelves)
	}
	list := all(t, l, Filter{Space: "default", App: "app77", Types: []event.Type{event.TypePublishRefused}})
	if len(list) != 1 || list[0].Event.App != "app77" {
		t.Errorf("of one app there are %d", len(list))
	}
}

func TestRate(t *testing.T) {
	l := newWorld(t).open(func(o *Options) { o.CrowdRate = 1 })
	for range 100 {
		l.Emit(event.New(time.Now(), event.PublishRequested{}))
	}
	l.omit()
	settle(t, l)
	if got := all(t, l, Filter{Crowd: true}); len(got) < 10 || len(got) > 15 {
		t.Errorf("%d events, want 10 or a few more", len(got))
	}
	got := all(t, l, Filter{})
	if len(got) != 1 || got[0].Event.Data.(event.Omitted).Count < 80 {
		t.Errorf("told of what was left out: %+v", got)
	}
	if n := l.Stats().Omitted[event.TypePublishRequested]; n < 80 {
		t.Errorf("Stats count %d", n)
	}
}

func TestReconcile(t *testing.T) {
	w := newWorld(t)
	l := w.open(func(o *Options) { o.SegmentBytes = 2000 })
	if clean, n := l.Before(); !clean || n != 0 {
		t.Errorf("Before the first: %v, %d", clean, n)
	}
	var want []event.Event
	for i := range 50 {
		e := started(fmt.Sprint(i), fmt.Sprint(i))
		want = append(want, e)
		l.Emit(e)
		flush(t, l)
	}
	for i := 10; i < 50; i++ {
		e := ended(fmt.Sprint(i), fmt.Sprint(i))
		want = append(want, e)
		l.Emit(e)
		flush(t, l)
	}
	settle(t, l)
	kill(l)
	l = w.open()
	if clean, n := l.Before(); clean || n != 10 {
		t.Errorf("Before after a kill: %v, %d", clean, n)
	}
	settle(t, l)
	kill(l) // once more, and nothing happens twice
	l = w.open()
	if clean, n := l.Before(); clean || n != 0 {
		t.Errorf("Before after a second kill: %v, %d", clean, n)
	}
	settle(t, l)
	got := all(t, l, Filter{})
	same(t, got[:len(want)], want)
	got = got[len(want):]
	if len(got) != 10 {
		t.Fatalf("%d ends, want 10", len(got))
	}
	for _, e := range got {
		d, ok := e.Event.Data.(event.PublishEnded)
		if !ok || d.Reason != event.ReasonNodeDied || d.Callback == nil || e.Event.Time.Before(d.Started) || e.Event.Node != "n1" {
			t.Errorf("end %+v", e.Event)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = w.open()
	if clean, n := l.Before(); !clean || n != 0 {
		t.Errorf("Before after an end in order: %v, %d", clean, n)
	}
}

func TestMissed(t *testing.T) {
	l := newWorld(t).open()
	for i := range 100 {
		l.Emit(started("a", fmt.Sprint(i)))
	}
	settle(t, l)
	list := all(t, l, Filter{})
	slow := l.Read(t.Context(), Filter{}, 0)
	defer slow.Close()
	take(t, slow, 1)
	if err := (*l.facts.ready.Load()).Purge(t.Context(), jetstream.WithPurgeSequence(51)); err != nil {
		t.Fatal(err)
	}
	r := l.Read(t.Context(), Filter{}, list[10].Seq)
	defer r.Close()
	e := take(t, r, 2)
	if e[0].Missed != 40 || e[0].Event.Sequence != "50" || e[1].Missed != 0 {
		t.Errorf("missed %d, %d; first is %s", e[0].Missed, e[1].Missed, e[0].Event.Sequence)
	}
	if n := l.Stats().Gaps; n != 40 {
		t.Errorf("Stats count %d missed, want 40", n)
	}
}

func TestSeqAt(t *testing.T) {
	l := newWorld(t).open()
	l.Emit(started("a", "1"))
	settle(t, l)
	now := time.Now()
	l.Emit(started("a", "2"))
	settle(t, l)
	seq, err := l.SeqAt(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	r := l.Read(t.Context(), Filter{}, seq)
	defer r.Close()
	if e := take(t, r, 1)[0]; e.Event.Sequence != "2" {
		t.Errorf("at that time came %s, want 2", e.Event.Sequence)
	}
	if seq, err = l.SeqAt(t.Context(), time.Now().Add(time.Hour)); err != nil || seq <= l.Last() {
		t.Errorf("SeqAt the future = %d, %v; Last = %d", seq, err, l.Last())
	}
}
