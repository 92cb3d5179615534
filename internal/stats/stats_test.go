package stats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weir/internal/bus"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// office is a Book with a hub and a clock that the test turns.
type office struct {
	t   testing.TB
	bus *bus.Bus
	hub *stream.Hub
	b   *Book

	mu  sync.Mutex
	now time.Time
}

// today is an hour that is over, so that messages come later than their pages.
func today() time.Time { return time.Now().UTC().Truncate(time.Hour).Add(-4 * time.Hour) }

func openBus(t testing.TB) *bus.Bus {
	b, err := bus.Open(t.Context(), bus.Config{Node: "n1", Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func open(t testing.TB, b *bus.Bus, node string, now time.Time) *office {
	o := &office{t: t, bus: b, now: now}
	o.b = New(Options{JetStream: b.JetStream(), Replicas: 1, Node: node})
	o.b.clock = func() time.Time { o.mu.Lock(); defer o.mu.Unlock(); return o.now }
	o.b.minute, o.b.looked = now.Truncate(time.Minute), now
	o.hub = stream.NewHub(stream.Options{Began: o.b.Began, Ended: o.b.Ended})
	t.Cleanup(func() { o.hub.Close(context.Background()) })
	return o
}

// pass lets time go by, with a look every five seconds.
func (o *office) pass(d time.Duration) {
	for end := o.now.Add(d); o.now.Before(end); {
		o.mu.Lock()
		o.now = o.now.Add(sampleEvery)
		o.mu.Unlock()
		o.b.look(o.now, false)
	}
}

// flush writes what is in the outbox.
func (o *office) flush() {
	o.t.Helper()
	last := make(chan struct{})
	close(last)
	o.b.send(o.t.Context(), last)
	if h := o.b.Health(); h != (Health{}) {
		o.t.Fatalf("%+v after all was written", h)
	}
}

func (o *office) publish(app, name string) *stream.Publication {
	o.t.Helper()
	a := policy.DefaultApp(app)
	a.Hold, a.MaxLead = 0, 0
	p, err := o.hub.Publish(stream.Key{Space: "space", App: app, Name: name}, &a, stream.Push{})
	if err != nil {
		o.t.Fatal(err)
	}
	return p
}

// bring publishes n bytes.
func bring(t testing.TB, p *stream.Publication, n int) {
	t.Helper()
	b := make([]byte, n)
	if err := p.WritePacket(av.Packet{Kind: av.Audio, Codec: av.AAC, Tag: b, Frame: b}); err != nil {
		t.Fatal(err)
	}
}

func (o *office) query(q Query) []Point {
	o.t.Helper()
	list, err := o.b.Query(o.t.Context(), q)
	if err != nil {
		o.t.Fatalf("Query(%+v) = %v", q, err)
	}
	return list
}

const (
	flv = 2
	hls = stream.HLS
)

func TestBook(t *testing.T) {
	start := today().Add(10 * time.Minute)
	o := open(t, openBus(t), "node.1", start)
	a, b := o.publish("live", "a"), o.publish("live", "b")
	c := o.publish("other.app", "c")
	bring(t, a, 1000)
	bring(t, b, 10)
	bring(t, c, 1)
	a.Stream().Traffic().Watching(hls, 6)
	a.Stream().Traffic().Served(hls, 500)
	o.pass(30 * time.Second)
	a.Stream().Traffic().Watching(hls, 2)
	b.Stream().Traffic().Watching(flv, 3)
	o.pass(30 * time.Second)
	b.End(stream.EndClosed)
	b.Stream().Traffic().Watching(flv, 0)
	bring(t, a, 2000)
	o.pass(time.Minute)
	o.flush()

	all := func(q Query) Query { q.From, q.To = start, start.Add(time.Hour); return q }
	minute := func(n int, tally Tally, players [protocols]float64) Point {
		return Point{start.Add(time.Duration(n) * time.Minute), tally, players}
	}
	for _, tt := range []struct {
		q    Query
		want []Point
	}{
		{Query{Space: "space", App: "live", Stream: "a", Step: time.Minute}, []Point{
			minute(0, Tally{In: 1000, Out: [protocols]int64{hls: 500}, Watched: [protocols]int64{hls: 240}, Live: 60, Peak: 6, Streams: 1}, [protocols]float64{hls: 4}),
			minute(1, Tally{In: 2000, Watched: [protocols]int64{hls: 120}, Live: 60, Peak: 2, Streams: 1}, [protocols]float64{hls: 2}),
		}},
		{Query{Space: "space", App: "live", Stream: "b", Step: time.Minute}, []Point{
			minute(0, Tally{In: 10, Watched: [protocols]int64{flv: 90}, Live: 60, Peak: 3, Streams: 1}, [protocols]float64{flv: 1.5}),
			minute(1, Tally{Peak: 3, Streams: 1}, [protocols]float64{}), // at its beginning
		}},
		{Query{Space: "space", App: "live", Step: time.Minute}, []Point{
			minute(0, Tally{In: 1010, Out: [protocols]int64{hls: 500}, Watched: [protocols]int64{flv: 90, hls: 240}, Live: 120, Peak: 6, Streams: 2}, [protocols]float64{flv: 1.5, hls: 4}),
			minute(1, Tally{In: 2000, Watched: [protocols]int64{hls: 120}, Live: 60, Peak: 3, Streams: 1}, [protocols]float64{hls: 2}),
		}},
		{Query{Space: "space", Step: 5 * time.Minute}, []Point{
			minute(0, Tally{In: 3011, Out: [protocols]int64{hls: 500}, Watched: [protocols]int64{flv: 90, hls: 360}, Live: 300, Peak: 6, Streams: 3}, [protocols]float64{flv: 0.75, hls: 3}),
		}},
		{Query{Space: "space", App: "live", Stream: "none", Step: time.Minute}, []Point{}},
		{Query{Space: "none", Step: time.Minute}, []Point{}},
	} {
		if diff := cmp.Diff(tt.want, o.query(all(tt.q))); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.q, diff)
		}
	}

	// By the hour: the one that goes on, then when it is over, then another node's.
	hour := Query{Step: time.Hour, From: start, To: start.Add(2 * time.Hour)}
	want := []Point{{start.Truncate(time.Hour), Tally{In: 3011, Out: [protocols]int64{hls: 500}, Watched: [protocols]int64{flv: 90, hls: 360}, Live: 300, Peak: 6, Streams: 3},
		[protocols]float64{flv: 90. / 720, hls: 0.5}}}
	if diff := cmp.Diff(want, o.query(hour)); diff != "" {
		t.Errorf("the hour (-want +got):\n%s", diff)
	}
	a.End(stream.EndClosed)
	c.End(stream.EndClosed)
	a.Stream().Traffic().Watching(hls, 0)
	o.pass(49 * time.Minute)
	o.flush()
	want[0].Players = [protocols]float64{flv: 90. / 3600, hls: 0.1}
	if diff := cmp.Diff(want, o.query(hour)); diff != "" {
		t.Errorf("the hour when it is over (-want +got):\n%s", diff)
	}
	if n := len(o.b.accounts); n != 0 {
		t.Errorf("%d accounts are left of streams that are over", n)
	}

	other := open(t, o.bus, "n2", start)
	bring(t, other.publish("live", "a"), 5)
	other.pass(time.Hour)
	other.flush()
	want[0].In, want[0].Live, want[0].Streams = want[0].In+5, want[0].Live+50*60, want[0].Streams+1
	if diff := cmp.Diff(want, o.query(Query{Step: time.Hour, From: start, To: start.Truncate(time.Hour).Add(time.Hour)})); diff != "" {
		t.Errorf("the hour of two nodes (-want +got):\n%s", diff)
	}
}

// Whoever comes after a process that died goes on with its hours.
func TestBookAfterACrash(t *testing.T) {
	start := today().Add(20 * time.Minute)
	js := openBus(t)
	first := open(t, js, "n1", start)
	bring(t, first.publish("live", "a"), 100)
	first.pass(5 * time.Minute)
	first.flush() // and no more

	second := open(t, js, "n1", start.Add(10*time.Minute)) // in the same hour
	bring(t, second.publish("live", "a"), 10)
	second.pass(5 * time.Minute)
	second.flush()

	third := open(t, js, "n1", start.Add(50*time.Minute)) // in the next
	bring(t, third.publish("live", "a"), 1)
	third.pass(time.Hour)
	third.flush()

	hour := start.Truncate(time.Hour)
	for _, q := range []Query{{}, {Space: "space"}, {Space: "space", App: "live"}, {Space: "space", App: "live", Stream: "a"}} {
		q.From, q.To, q.Step = hour, hour.Add(3*time.Hour), time.Hour
		list := third.query(q)
		if len(list) != 3 || list[0].In != 110 || list[0].Live != 600 || list[1].In != 1 || list[1].Live != 50*60 || list[0].Peak != 0 || list[0].Streams != 1 || list[2].Live != 600 {
			t.Errorf("%+v = %+v", q, list)
		}
	}
}

// Messages wait while JetStream is away, the newest of them for ever.
func TestBookWaits(t *testing.T) {
	js := openBus(t)
	o := open(t, js, "n1", today())
	bring(t, o.publish("live", "a"), 7)
	js.Conn().Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { o.b.send(ctx, nil); close(done) }() // ends with ctx
	o.pass(3 * time.Minute)
	cancel()
	<-done
	if h := o.b.Health(); h.Waiting == 0 || h.Dropped != 0 || len(o.b.outbox) != 3 {
		t.Errorf("%d messages, %+v, want 3", len(o.b.outbox), h)
	}
	o.b.outbox[0].Data = make([]byte, maxOutbox)
	o.b.waiting += maxOutbox
	o.pass(time.Minute)
	if h := o.b.Health(); h.Dropped != 1 || len(o.b.outbox) != 3 || h.Waiting > maxOutbox {
		t.Errorf("%d messages, %+v, want 3, and one dropped", len(o.b.outbox), h)
	}
	if _, err := o.b.Query(t.Context(), Query{From: o.now, To: o.now.Add(time.Hour), Step: time.Hour}); err == nil {
		t.Error("Query without JetStream succeeded")
	}
}

// Run writes the last page when it ends.
func TestBookRun(t *testing.T) {
	o := open(t, openBus(t), "n1", time.Now())
	bring(t, o.publish("live", "a"), 7)
	o.b.clock = time.Now
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.b.Run(ctx)
	now := time.Now()
	if list := o.query(Query{From: now.Add(-time.Hour), To: now.Add(time.Minute), Step: time.Minute}); len(list) != 1 || list[0].In != 7 {
		t.Errorf("written: %+v", list)
	}
}

// A page of many streams is several messages.
func TestLargePages(t *testing.T) {
	start := today()
	o := open(t, openBus(t), "n1", start)
	for i := range 5000 {
		o.b.page.app(appKey{"space", "live"}).row(fmt.Sprintf("stream-%04d", i)).add(&Tally{In: 1000, Live: 60})
	}
	o.b.page.app(appKey{"space", "live"}).peaks = peaks{9, 5000}
	o.pass(time.Minute)
	if n := len(o.b.outbox); n < 2 {
		t.Errorf("%d messages, want several", n)
	}
	o.flush()
	q := Query{Space: "space", App: "live", From: start, To: start.Add(time.Hour), Step: time.Minute}
	if list := o.query(q); len(list) != 1 || list[0].In != 5_000_000 || list[0].Peak != 9 || list[0].Streams != 5000 {
		t.Errorf("the app: %+v", list)
	}
	q.Stream = "stream-4711"
	if list := o.query(q); len(list) != 1 || list[0].In != 1000 {
		t.Errorf("one stream: %+v", list)
	}
}

func TestBadQueries(t *testing.T) {
	o := open(t, openBus(t), "n1", today())
	now := time.Now()
	for _, q := range []Query{
		{From: now, To: now.Add(time.Hour)},
		{From: now, To: now, Step: time.Minute},
		{From: now, To: now.Add(time.Hour), Step: 90 * time.Second},
		{From: now, To: now.Add(time.Hour), Step: 90 * time.Minute},
		{From: now, To: now.Add(48 * time.Hour), Step: time.Minute},
		{From: now, To: now.Add(1000 * 24 * time.Hour), Step: 32 * 24 * time.Hour},
		{App: "a", From: now, To: now.Add(time.Hour), Step: time.Minute},
		{Space: "s", Stream: "a", From: now, To: now.Add(time.Hour), Step: time.Minute},
	} {
		_, err := o.b.Query(t.Context(), q)
		if bad := (*BadQuery)(nil); !errors.As(err, &bad) {
			t.Errorf("Query(%+v) = %v, want a BadQuery", q, err)
		}
	}
}

// BenchmarkMinute is what a minute of 5 000 streams costs: in one app, and in
// a hundred.
func BenchmarkMinute(b *testing.B) {
	for _, apps := range []int{1, 100} {
		b.Run(fmt.Sprint(apps, "apps"), func(b *testing.B) {
			o := open(b, openBus(b), "n1", today())
			fill(o, apps)
			o.pass(time.Minute)
			o.flush()
			bytes := 0
			for b.Loop() {
				b.StopTimer()
				fill(o, apps)
				b.StartTimer()
				o.mu.Lock()
				o.now = o.now.Add(time.Minute)
				o.mu.Unlock()
				o.b.look(o.now, false)
				bytes += o.b.Health().Waiting
				o.flush()
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "bytes/minute")
		})
	}
}

// fill makes the page one of 5 000 streams with players.
func fill(o *office, apps int) {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	for i := range 5000 {
		row := o.b.page.app(appKey{"space", fmt.Sprint("app", i%apps)}).row(fmt.Sprintf("stream-%04d", i))
		row.add(&Tally{In: 7_500_000 + int64(i*7919%100_000), Live: 60, Out: [protocols]int64{flv: 75_000_000 + int64(i), hls: 1_000_000}, Watched: [protocols]int64{flv: 600, hls: 100}})
		row.Peak, row.Streams = 12, 1
	}
}

// BenchmarkQuery asks for a day by minutes of one stream among 1 000.
func BenchmarkQuery(b *testing.B) {
	start := today()
	o := open(b, openBus(b), "n1", start)
	for range 1440 {
		for i := range 1000 {
			o.b.page.app(appKey{"space", "live"}).row(fmt.Sprintf("stream-%04d", i)).add(&Tally{In: 7_500_000, Live: 60, Out: [protocols]int64{flv: 75_000_000}, Watched: [protocols]int64{flv: 600}})
		}
		o.mu.Lock()
		o.now = o.now.Add(time.Minute)
		o.mu.Unlock()
		o.b.look(o.now, false)
		o.flush()
	}
	for _, q := range []Query{{Space: "space", App: "live", Stream: "stream-0500", Step: time.Minute}, {Space: "space", App: "live", Step: time.Minute}, {Space: "space", Step: time.Hour}} {
		b.Run(fmt.Sprintf("%s/%s/%v", q.App, q.Stream, q.Step), func(b *testing.B) {
			q.From, q.To = start, start.Add(24*time.Hour)
			for b.Loop() {
				list, err := o.b.Query(b.Context(), q)
				if err != nil || len(list) < 24 {
					b.Fatal(len(list), err)
				}
			}
		})
	}
}
