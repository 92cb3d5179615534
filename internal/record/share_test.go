package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus/bustest"
	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// cluster is a set of nodes with one NATS, one bucket and one log of facts.
type cluster struct {
	t   *testing.T
	url string
	b   storage.Bucket

	hold atomic.Pointer[hold] // nil: there is none

	mu     sync.Mutex
	there  []string
	events []event.Event
	sent   map[av.Kind][]string
}

// hold keeps nodes from storing anything but the segments of one take.
type hold struct {
	but  string
	over chan struct{}
}

// node is one of them.
type node struct {
	*world
	c    *cluster
	name string
	conn *nats.Conn
	line *line
	away bool // it reaches nothing any more; guarded by cluster.mu
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	b, err := storage.OpenDirectory("archive", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, url: bustest.Serve(t).ClientURL(), b: b, sent: map[av.Kind][]string{}}
}

// reach is a bucket as long as its node is not away.
type reach struct {
	storage.Bucket
	n *node
}

func (r reach) Put(ctx context.Context, key string, body io.Reader, o storage.PutOptions) (storage.Object, error) {
	if h := r.n.c.hold.Load(); h != nil && !strings.Contains(key, h.but) {
		select {
		case <-h.over:
		case <-ctx.Done():
		}
	}
	if r.n.isAway() {
		return storage.Object{}, errors.New("no route to host")
	}
	return r.Bucket.Put(ctx, key, body, o)
}

func (r reach) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	if r.n.isAway() {
		return nil, errors.New("no route to host")
	}
	u, err := r.Bucket.Upload(ctx, key, o)
	return reachUpload{u, r.n}, err
}

func (r reach) Resume(ctx context.Context, state []byte) (storage.Upload, error) {
	u, err := r.Bucket.Resume(ctx, state)
	if err != nil {
		return nil, err
	}
	return reachUpload{u, r.n}, nil
}

type reachUpload struct {
	storage.Upload
	n *node
}

func (u reachUpload) WritePart(ctx context.Context, n int, data []byte) error {
	if u.n.isAway() {
		return errors.New("no route to host")
	}
	return u.Upload.WritePart(ctx, n, data)
}

func (n *node) isAway() bool {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.away
}

// start starts a node, with the spool that it had if it had one.
func (c *cluster) start(name, dir string, change func(*policy.Record)) *node {
	c.t.Helper()
	if dir == "" {
		dir = c.t.TempDir()
	}
	n := &node{c: c, name: name, line: new(line), world: &world{t: c.t, dir: dir, app: policy.DefaultApp("live"), b: c.b, sent: c.sent}}
	n.app.MaxLead = 0
	n.app.Record.Mode, n.app.Record.Splice, n.app.Record.Segment = policy.RecordAutomatic, 2*time.Second, time.Second
	every(&n.app.Record)
	if change != nil {
		change(&n.app.Record)
	}
	var err error
	if n.conn, err = nats.Connect(c.url, nats.SetCustomDialer(n.line), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1)); err != nil {
		c.t.Fatal(err)
	}
	js, err := jetstream.New(n.conn)
	if err != nil {
		c.t.Fatal(err)
	}
	n.opt = Options{
		Dir: dir, Sync: -1, Retry: 20 * time.Millisecond,
		Bucket: func(string) (storage.Bucket, error) { return reach{c.b, n}, nil },
		Share: &Share{JetStream: js, Node: name, After: time.Second, Nodes: func(context.Context) ([]string, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return slices.Clone(c.there), nil
		}},
		Orders: NewOrders(js, 1, slog.New(slog.DiscardHandler)),
		Emit: func(e event.Event) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if !n.away {
				c.events = append(c.events, e)
			}
		},
	}
	if os.Getenv("VERBOSE") != "" {
		n.opt.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name)
	}
	c.mu.Lock()
	c.there = append(c.there, name)
	c.mu.Unlock()
	n.hub = stream.NewHub(stream.Options{SlowAfter: time.Hour, SlowBytes: 1 << 30})
	if n.r, err = Open(n.hub, n.opt); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// gone takes a node off the list of those that are there.
func (n *node) gone() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.there = slices.DeleteFunc(n.c.there, func(s string) bool { return s == n.name })
}

// die is what kill -9 is to all others: from one moment on nothing comes from
// the node any more. It returns a copy of its spool.
func (n *node) die() (spool string) {
	n.c.t.Helper()
	n.conn.Close()
	n.c.mu.Lock()
	n.away = true
	n.c.mu.Unlock()
	spool = n.copySpool()
	n.gone()
	n.stop()
	return spool
}

// leave stops a node in order.
func (n *node) leave() {
	n.stop()
	n.conn.Close()
	n.gone()
}

// until waits until f returns true.
func (c *cluster) until(what string, f func() bool) {
	c.t.Helper()
	deadline := time.After(time.Minute) // the machine may have much else to do
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			c.t.Fatalf("waited for %s", what)
		case <-tick.C:
		}
	}
}

// stored waits until so many segments of a node's recordings are uploaded, and others know.
func (n *node) stored(segments int) {
	n.c.t.Helper()
	n.c.until(fmt.Sprintf("%d segments of %s", segments, n.name), func() bool {
		total := 0
		for _, u := range n.r.Unfinished() {
			total += u.Uploaded
		}
		return total >= segments && n.told() >= segments
	})
}

// told returns how many segments of the stream others know to be uploaded.
func (n *node) told() (total int) {
	c, err := nats.Connect(n.c.url)
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		n.c.t.Fatal(err)
	}
	l := &ledger{Share: Share{JetStream: js}}
	s, err := l.open(n.c.t.Context())
	if err != nil {
		n.c.t.Fatal(err)
	}
	info, err := s.Info(n.c.t.Context(), jetstream.WithSubjectFilter(shareSubject+">"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	for subject := range info.State.Subjects {
		last, err := l.last(n.c.t.Context(), subject)
		if err != nil || last == nil {
			continue
		}
		journal, err := l.read(n.c.t.Context(), subject, last.Sequence)
		if err != nil {
			n.c.t.Fatal(err)
		}
		readEntries(journal, func(e *entry) {
			if e.Stored > 0 {
				total++
			}
		})
	}
	return total
}

// empty checks that nothing is left in JetStream but graves.
func (c *cluster) empty(graves int) {
	c.t.Helper()
	conn, err := nats.Connect(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		c.t.Fatal(err)
	}
	c.until("an empty ledger", func() bool {
		s, err := js.Stream(c.t.Context(), shareStream)
		if err != nil {
			c.t.Fatal(err)
		}
		return int(s.CachedInfo().State.Msgs) == graves
	})
}

// files waits for n finished files and returns them by format. The same fact may
// be told more than once: then in the same words.
func (c *cluster) files(n int) map[string][]event.RecordFinished {
	c.t.Helper()
	var m map[string][]event.RecordFinished
	c.until(fmt.Sprintf("%d files", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		m = map[string][]event.RecordFinished{}
		said, total := map[string]string{}, 0
		for _, e := range c.events {
			if f, ok := e.Data.(event.RecordFailed); ok {
				c.t.Fatalf("a failure: %+v", f)
			}
			f, ok := e.Data.(event.RecordFinished)
			if !ok {
				continue
			}
			text, err := json.Marshal(e)
			if err != nil {
				c.t.Fatal(err)
			}
			switch before, ok := said[f.Task]; {
			case !ok:
				said[f.Task] = string(text)
				m[f.Format] = append(m[f.Format], f)
				total++
			case before != string(text):
				c.t.Fatalf("a fact was told as\n%s\nand as\n%s", before, text)
			}
		}
		return total >= n
	})
	for _, list := range m {
		slices.SortFunc(list, func(a, b event.RecordFinished) int { return a.Start.Compare(b.Start) })
	}
	return m
}

// tidy checks that the bucket has nothing but what is in those files.
func (c *cluster) tidy(m map[string][]event.RecordFinished) {
	c.t.Helper()
	want := map[string]bool{}
	for _, list := range m {
		for _, f := range list {
			want[f.Key] = true
			if f.Format != "hls" {
				continue
			}
			list, err := playlistAt(c.t.Context(), c.b, f.Key)
			if err != nil {
				c.t.Fatal(err)
			}
			for _, s := range list.Segments {
				want[path.Join(path.Dir(f.Key), s.URI)] = true
			}
		}
	}
	objects, err := c.b.List(c.t.Context(), "", "", 10_000)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range objects {
		if !want[o.Key] {
			c.t.Errorf("%s is left in the bucket", o.Key)
		}
	}
}

// prefix checks that the files have what was pushed up to some frame, in order
// and once, and returns how many frames of picture.
func (n *node) prefix(files ...*file) int {
	n.c.t.Helper()
	for _, k := range []av.Kind{av.Video, av.Audio} {
		var got []string
		for _, f := range files {
			got = append(got, f.frames[k]...)
		}
		if len(got) > len(n.sent[k]) {
			n.c.t.Fatalf("%d frames of %d", len(got), len(n.sent[k]))
		}
		same(n.c.t, k, got, n.sent[k][:len(got)])
	}
	total := 0
	for _, f := range files {
		total += len(f.frames[av.Video])
	}
	return total
}

func (n *node) fast(pub *stream.Publication) *encoder {
	e := n.both(pub)
	e.unspaced = true
	return e
}

// A node is killed for good in the middle of a push. Another one waits for the
// window and then makes all files, of all that was uploaded.
func TestAnotherNodeFinishes(t *testing.T) {
	c := newCluster(t)
	a := c.start("a", "", nil)
	b := c.start("b", "", nil)
	defer b.leave()
	a.fast(a.push()).run(20_500)
	a.stored(20)
	a.die()
	m := c.files(3)
	for _, format := range formats {
		f := m[format][0]
		if n := b.prefix(b.readAny(&f)); n != 500 {
			t.Errorf("%s: %d frames are there, want the 500 of 20 whole segments", format, n)
		}
		if start, end := names(t, f.Key); start != f.Start.Unix() || end != f.End.Unix() {
			t.Errorf("%s is of %d to %d", f.Key, f.Start.Unix(), f.End.Unix())
		}
	}
	c.empty(1)
}

// parts is a bucket that tells of each part, and can hold one up.
type parts struct {
	storage.Bucket
	mu    sync.Mutex
	wrote map[int]int
	stop  chan struct{} // closed when part 2 is to be written the first time
	go_   chan struct{} // and it waits for that
}

type partUpload struct {
	storage.Upload
	b *parts
}

func (b *parts) Upload(ctx context.Context, key string, o storage.PutOptions) (storage.Upload, error) {
	u, err := b.Bucket.Upload(ctx, key, o)
	return partUpload{u, b}, err
}

func (b *parts) Resume(ctx context.Context, state []byte) (storage.Upload, error) {
	u, err := b.Bucket.Resume(ctx, state)
	if err != nil {
		return nil, err
	}
	return partUpload{u, b}, nil
}

func (u partUpload) WritePart(ctx context.Context, n int, data []byte) error {
	u.b.mu.Lock()
	first := n == 3 && u.b.wrote[n] == 0 && u.b.stop != nil
	stop := u.b.stop
	if first {
		u.b.stop = nil
	}
	u.b.mu.Unlock()
	if first {
		close(stop)
		<-u.b.go_
		return errors.New("connection reset")
	}
	u.b.mu.Lock()
	u.b.wrote[n]++
	u.b.mu.Unlock()
	return u.Upload.WritePart(ctx, n, data)
}

// The job that makes an MP4 goes on at another node where it was: no part is
// written twice, and nothing is left behind. Of HLS, which the first node has told of,
// the second says the same or nothing.
func TestAnotherNodeGoesOnWithAFile(t *testing.T) {
	c := newCluster(t)
	pb := &parts{Bucket: c.b, wrote: map[int]int{}, stop: make(chan struct{}), go_: make(chan struct{})}
	stopped := pb.stop
	c.b = pb
	only := func(r *policy.Record) { r.FLV.Enabled, r.Splice = false, 0 }
	a := c.start("a", "", only)
	b := c.start("b", "", only)
	defer b.leave()
	e := a.fast(a.push())
	e.size = 30_000
	e.run(45_000).end()
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("no part of the MP4 came")
	}
	done := make(chan struct{})
	go func() { defer close(done); a.die() }() // ends when the part does
	c.until("the end of a", a.isAway)
	close(pb.go_)
	<-done
	m := c.files(2)
	f := m["mp4"][0]
	b.all(b.readAny(&f))
	f = m["hls"][0]
	b.all(b.readAny(&f))
	for n, times := range pb.wrote {
		if times != 1 {
			t.Errorf("part %d was written %d times", n, times)
		}
	}
	if len(pb.wrote) < 4 {
		t.Errorf("%d parts", len(pb.wrote))
	}
	if n, err := c.b.Sweep(t.Context(), 0); err != nil || n != 0 {
		t.Errorf("%d uploads were left, %v", n, err)
	}
	c.tidy(m)
	c.empty(1)
}

// A push that comes back to another node within the window goes on in the same
// file.
func TestSpliceAtAnotherNode(t *testing.T) {
	c := newCluster(t)
	long := func(r *policy.Record) { r.Splice = 5 * time.Second }
	a := c.start("a", "", long)
	b := c.start("b", "", long)
	defer a.leave()
	defer b.leave()
	a.fast(a.push()).run(5000).end()
	a.stored(5)
	c.until("a to let go", func() bool { return a.free() })
	b.fast(b.push()).run(5000).end()
	b.stored(10)
	c.until("b to let go", func() bool { return b.free() })
	a.fast(a.push()).run(5000).end()
	m := c.files(3)
	for _, format := range formats {
		if len(m[format]) != 1 {
			t.Fatalf("%d files of %s, want 1", len(m[format]), format)
		}
		f := m[format][0]
		b.all(b.readAny(&f))
		if len(f.Pushes) != 3 {
			t.Errorf("%s: pushes %q", format, f.Pushes)
		}
	}
}

// moved reports whether the node knows that another has one of its takes.
func (n *node) moved() bool {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	for _, t := range n.r.takes {
		if t.isMoved() {
			return true
		}
	}
	return false
}

// free reports whether the node has let go of a take.
func (n *node) free() bool {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	for _, t := range n.r.takes {
		t.mu.Lock()
		free := t.shared.free && !t.shared.moved
		t.mu.Unlock()
		if free {
			return true
		}
	}
	return false
}

// F52: two nodes record a stream of one name in the same second into one bucket.
// Both recordings are whole, in every format, under names of their own.
func TestSameNameOnTwoNodes(t *testing.T) {
	c := newCluster(t)
	at := func(r *policy.Record) { r.Splice = 0 }
	a, b := c.start("a", "", at), c.start("b", "", at)
	defer a.leave()
	defer b.leave()
	// Each counts its own frames.
	a.sent, b.sent = map[av.Kind][]string{}, map[av.Kind][]string{}
	one, two := a.fast(a.push()), b.fast(b.push())
	one.run(3000)
	two.run(3000)
	one.end()
	two.end()
	m := c.files(6)
	c.tidy(m)
	for _, format := range formats {
		if len(m[format]) != 2 || m[format][0].Key == m[format][1].Key {
			t.Fatalf("files %+v", m[format])
		}
		for i := range m[format] {
			f := &m[format][i]
			got := a.readAny(f)
			if f.Pushes[0] == one.pub.Push().Sequence {
				a.all(got)
			} else {
				b.all(got)
			}
		}
	}
}

// A node that comes back finds that another has finished its recording. What it
// still had and the other could not know becomes a file of its own; what both had
// does not come twice.
func TestComesBack(t *testing.T) {
	for _, rest := range []bool{false, true} {
		t.Run(fmt.Sprint("with more ", rest), func(t *testing.T) {
			c := newCluster(t)
			a := c.start("a", "", nil)
			b := c.start("b", "", nil)
			defer b.leave()
			e := a.fast(a.push())
			e.run(5000)
			e.run(20)
			a.stored(5)
			if rest {
				c.mu.Lock()
				a.away = true // from here on it cannot upload
				c.mu.Unlock()
				e.run(5000)
				c.until("more segments", func() bool { u := a.r.Unfinished(); return len(u) == 1 && u[0].Segments >= 10 })
			}
			spool := a.die()
			m := c.files(3)
			for _, format := range formats {
				f := m[format][0]
				if n := b.prefix(b.readAny(&f)); n != 125 {
					t.Errorf("%s: %d frames are there, want 125", format, n)
				}
			}
			again := c.start("a", spool, nil)
			defer again.leave()
			want := 3
			if rest {
				want = 6
			}
			m = c.files(want)
			c.tidy(m)
			c.until("an empty spool", func() bool {
				list, err := filepath.Glob(filepath.Join(spool, "*", "*"))
				return err == nil && len(list) == 0
			})
			for _, format := range formats {
				var files []*file
				for i := range m[format] {
					files = append(files, b.readAny(&m[format][i]))
				}
				n := b.prefix(files...)
				if least := 125 * want / 3; n < least || rest && n > 251 || !rest && n > 126 {
					t.Errorf("%s: %d frames are there, want %d and perhaps that which was being written", format, n, least)
				}
			}
		})
	}
}

// While NATS is away pushes are recorded all the same; nobody is told of a file
// before others could know what is told.
func TestNATSAway(t *testing.T) {
	c := newCluster(t)
	a := c.start("a", "", func(r *policy.Record) { r.Splice = 0 })
	defer a.leave()
	a.stall(true)
	first := a.fast(a.push()).run(3000)
	first.end()
	a.fast(a.push()).run(3000).end()
	c.until("the segments", func() bool {
		n := 0
		for _, u := range a.r.Unfinished() {
			n += u.Uploaded
		}
		return n == 6
	})
	c.mu.Lock()
	for _, e := range c.events {
		if e.Type == event.TypeRecordFinished {
			t.Errorf("a fact while NATS is away: %+v", e)
		}
	}
	c.mu.Unlock()
	a.stall(false)
	m := c.files(6)
	for _, format := range formats {
		one, two := &m[format][0], &m[format][1]
		if one.Pushes[0] != first.pub.Push().Sequence {
			one, two = two, one
		}
		a.all(a.readAny(one), a.readAny(two))
	}
	c.empty(0)
}

// A node that is cut off from the others for long, and records on: when it is
// back it goes on in a recording of its own, and nothing is missing.
func TestCutOff(t *testing.T) {
	c := newCluster(t)
	a := c.start("a", "", nil)
	b := c.start("b", "", nil)
	defer b.leave()
	defer a.leave()
	e := a.fast(a.push())
	e.run(5020)
	a.stored(5)
	c.mu.Lock()
	a.away = true
	c.mu.Unlock()
	a.gone()
	a.stall(true)
	e.run(5000)
	m := c.files(3)
	f := m["hls"][0]
	if n := b.prefix(b.readAny(&f)); n != 125 {
		t.Errorf("%d frames are there, want 125", n)
	}
	c.mu.Lock()
	a.away = false
	c.there = append(c.there, "a")
	c.mu.Unlock()
	a.stall(false)
	c.until("a to find out", func() bool { return a.moved() })
	e.run(5000)
	e.end()
	// That of b, what a had when it came back, and what came then.
	m = c.files(9)
	c.tidy(m)
	for _, format := range formats {
		var files []*file
		for i := range m[format] {
			files = append(files, b.readAny(&m[format][i]))
		}
		b.all(files...)
	}
}

// stall lets a node's connection to NATS break, and none come until it is false.
func (n *node) stall(on bool) {
	n.line.mu.Lock()
	defer n.line.mu.Unlock()
	n.line.cut = on
	if on && n.line.conn != nil {
		n.line.conn.Close()
	}
}

// line is how a node reaches NATS.
type line struct {
	delay atomic.Int64 // ns, on the way there

	mu   sync.Mutex
	cut  bool
	conn net.Conn
}

// far is a connection of a line.
type far struct {
	net.Conn
	l *line
}

func (c far) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(c.l.delay.Load()))
	return c.Conn.Write(b)
}

func (l *line) Dial(network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("no route to host")
	}
	c, err := net.Dial(network, address)
	l.conn = c
	return far{c, l}, err
}

// finished returns the facts of files that are there.
func (c *cluster) finished() (list []event.RecordFinished) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if f, ok := e.Data.(event.RecordFinished); ok {
			list = append(list, f)
		}
	}
	return list
}

// An order is that of all nodes: the one to which the stream is pushed carries it
// out, also when the one that took it is gone for good; and any of them ends it.
func TestOrderOnAnotherNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	request := func(r *policy.Record) {
		r.Mode, r.Splice = policy.RecordRequest, 0
		r.MP4.Enabled, r.FLV.Enabled = false, false
	}
	a, b := c.start("a", "", request), c.start("b", "", request)
	defer b.leave()
	recording := func(is bool) func() bool {
		return func() bool { return (b.r.Stats().Recording > 0) == is }
	}

	// Now, and cancelled.
	e := b.both(b.push())
	e.run(400)
	if n := b.r.Stats().Recording; n != 0 {
		t.Fatalf("%d recordings that nobody asked for", n)
	}
	o, err := a.r.Order(t.Context(), testKey, &a.app, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	c.until("b to record", recording(true))
	e.run(1500)
	if list := b.r.Orders(); len(list) != 1 || list[0].ID != o.ID {
		t.Errorf("b has the orders %+v", list)
	}
	if err := a.r.Cancel(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	c.until("b to stop", recording(false))
	c.until("the file", func() bool { return len(c.finished()) == 1 })

	// At a time, taken by a node that is dead by then.
	start := time.Now().Add(time.Second)
	if _, err := a.r.Order(t.Context(), testKey, &a.app, start, start.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	c.until("b to know", func() bool { return len(b.r.Orders()) == 1 })
	a.die()
	e.run(5000)
	e.end()
	c.until("the file", func() bool { return len(c.finished()) == 2 })
	f := c.finished()[1]
	if d := f.Duration; d < 1500*time.Millisecond || d > 3500*time.Millisecond {
		t.Errorf("recorded %v, want 2s from the last key frame on", d)
	}
	c.until("the order to be gone", func() bool { return len(b.r.Orders()) == 0 })

	// One that another node removed while nothing was heard is gone afterwards; one
	// that cannot be written is refused.
	x := c.start("x", "", request)
	defer x.leave()
	if o, err = x.r.Order(t.Context(), testKey, &x.app, time.Now().Add(time.Hour), time.Time{}); err != nil {
		t.Fatal(err)
	}
	c.until("b to know", func() bool { return len(b.r.Orders()) == 1 })
	b.stall(true)
	if _, err := b.r.Order(t.Context(), testKey, &b.app, time.Time{}, time.Time{}); err == nil {
		t.Error("an order was taken that nobody can read")
	}
	if err := x.r.Cancel(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	b.stall(false)
	c.until("b to hear of it", func() bool { return len(b.r.Orders()) == 0 })
}

// A node dies with media that nobody else has; another goes on with its recording,
// also with a push that returns there, and has more segments in the end than the
// first one had. When that comes back, what only it has is a recording of its own,
// once, even if it is killed before it has forgotten where that came from. A segment
// of which it has only the copy in the bucket is in it as well.
func TestComesBackToALongerRecording(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} { // the other has finished by then
		t.Run(fmt.Sprint("done ", done), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			change := func(r *policy.Record) { r.Splice = 8 * time.Second; r.MP4.Enabled, r.FLV.Enabled = false, false }
			a, b := c.start("a", "", change), c.start("b", "", change)
			defer b.leave()
			e := a.fast(a.push())
			e.run(3020)
			a.stored(3)
			a.stall(true) // from here on the others hear nothing
			e.run(2000)
			c.until("more segments", func() bool { u := a.r.Unfinished(); return len(u) == 1 && u[0].Uploaded >= 5 })
			task := a.r.unfinished(testKey, "").head.Task
			c.mu.Lock()
			a.away = true // nor does it reach the bucket any more
			c.mu.Unlock()
			e.run(2000)
			c.until("more segments", func() bool { return a.r.Unfinished()[0].Segments >= 7 })
			spool := a.die()
			if err := os.Remove(filepath.Join(spool, task, "000004.ts")); err != nil { // its room was needed
				t.Fatal(err)
			}
			c.until("b to adopt", func() bool { return len(b.r.Unfinished()) == 1 })
			b.fast(b.push()).run(6000).end()
			if done {
				c.until("the first file", func() bool { return len(c.finished()) == 1 })
			} else {
				b.stored(9)
			}

			// It comes back, and makes a recording of its own that it cannot upload yet.
			old := filepath.Join(t.TempDir(), task)
			if err := os.CopyFS(old, os.DirFS(filepath.Join(spool, task))); err != nil {
				t.Fatal(err)
			}
			h := &hold{task, make(chan struct{})}
			c.hold.Store(h)
			a = c.start("a", spool, change)
			c.until("a to go its own way", func() bool { u := a.r.Unfinished(); return len(u) == 1 && u[0].Task != task })
			fork := a.r.Unfinished()[0].Task
			spool = a.die()
			if err := os.RemoveAll(filepath.Join(spool, task)); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(spool, task), os.DirFS(old)); err != nil { // as if it had been killed a moment before
				t.Fatal(err)
			}
			close(h.over)
			a = c.start("a", spool, change)
			defer a.leave()
			c.until("two files", func() bool { return len(c.finished()) == 2 && len(a.r.Unfinished()) == 0 })
			if list := c.finished(); list[0].Task != fork && list[1].Task != fork {
				t.Errorf("files of %s and %s, want one of %s", list[0].Task, list[1].Task, fork)
			}
			m := c.files(2)
			c.tidy(m)
			frames := 0
			seen := map[string]bool{}
			for i := range m["hls"] {
				for _, id := range b.read(m["hls"][i]).frames[av.Video] {
					if seen[id] {
						t.Errorf("frame %s comes twice", id)
					}
					seen[id] = true
					frames++
				}
			}
			if n := len(c.sent[av.Video]); frames < n-13 {
				t.Errorf("%d frames are there of %d", frames, n)
			}
		})
	}
}

// A node that dies while it takes a long recording over leaves a beginning of the
// journal, which nobody takes for all of it.
func TestTakeoverIsWhole(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("a", "", nil)
	defer n.leave()
	l := n.r.ledger
	line := func(task string, i int) []byte {
		return fmt.Appendf(nil, "{\"push\":{\"sequence\":\"%s-%06d-%s\"}}\n", task, i, strings.Repeat("x", 1000))
	}
	long := func(name string) (b []byte) {
		for i := range 1200 { // three pieces
			b = append(b, line(name, i)...)
		}
		return b
	}
	subject := subject(&head{Task: event.NewSequence(), Space: "s", App: "a", Stream: "s"})
	first := long("first")
	seq, err := l.write(t.Context(), subject, 0, kindAnew, first)
	if err != nil {
		t.Fatal(err)
	}
	is := func(what string, seq uint64, want []byte) {
		t.Helper()
		if got, err := l.read(t.Context(), subject, seq); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", what, len(got), err, len(want))
		}
	}
	is("all pieces", seq, first)
	second := long("second")
	if seq, err = l.add(t.Context(), subject, seq, nats.Header{headerKind: {kindAnew}, headerMore: {"1"}}, second[:maxPiece/2]); err != nil {
		t.Fatal(err)
	}
	is("the first of several", seq, first)
	if seq, err = l.write(t.Context(), subject, seq, kindAnew, second); err != nil {
		t.Fatal(err)
	}
	is("another one's", seq, second)
	more := line("more", 1)
	if seq, err = l.write(t.Context(), subject, seq, "", more); err != nil {
		t.Fatal(err)
	}
	is("and what came then", seq, slices.Concat(second, more))
	s, err := l.open(t.Context())
	if err == nil {
		err = s.Purge(t.Context(), jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		t.Error(err)
	}
}

// A push that comes to another node goes on with a take of 2000 segments, each of which
// was a piece of its own, before its media must not wait any longer; JetStream may be
// some way off. The way is so long that no piece may be a question of its own, and the
// time such that a machine with much else to do has enough.
func TestSpliceOfALongTake(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("b", "", func(r *policy.Record) { r.Splice = time.Minute })
	defer n.leave()
	c.mu.Lock()
	c.there = append(c.there, "a") // who is away would be relieved of the take while it is written
	c.mu.Unlock()
	ctx, l := t.Context(), n.r.ledger
	h := head{Task: event.NewSequence(), Space: testKey.Space, App: testKey.App, Stream: testKey.Name, Start: time.Now(), Node: "a", Record: n.app.Record}
	away := ledger{Share: l.Share, log: l.log}
	away.Node = "a"
	var seq uint64
	piece := func(header nats.Header, entries ...entry) {
		t.Helper()
		var data []byte
		for _, e := range entries {
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			data = append(append(data, line...), '\n')
		}
		var err error
		if seq, err = away.add(ctx, subject(&h), seq, header, data); err != nil {
			t.Fatal(err)
		}
	}
	piece(nats.Header{headerKind: {kindAnew}}, entry{Head: &h})
	const segments = 2000
	for i := range segments {
		s := segment{N: i + 1, Start: int64(i) * 1000, Time: h.Start, Duration: 1000, Size: 2, SHA256: strings.Repeat("0", 64)}
		piece(nats.Header{}, entry{Segment: &s}, entry{Stored: s.N})
	}
	now := time.Now()
	piece(nats.Header{}, entry{Left: &leaving{now, now}})
	piece(nats.Header{headerKind: {kindFree}})
	there := n.r.take(h.Task)
	there.head = h
	if _, err := c.b.Put(ctx, path.Join(there.folder(), fmt.Sprintf("%06d.ts", segments)), strings.NewReader("ts"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}

	n.r.ledger.wait = 20 * time.Second
	n.line.delay.Store(int64(50 * time.Millisecond))
	n.fast(n.push()).run(3000)
	c.until("the recording to go on", func() bool {
		u := n.r.Unfinished()
		return len(u) == 1 && u[0].Task == h.Task && u[0].Segments > segments
	})
}

// A node that is killed before a take of it has anything on disk leaves nothing with
// the others either, once it is back.
func TestKilledAtTheBeginning(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.start("a", "", nil)
	a.fast(a.push()).run(200)
	count := func() int {
		s, err := a.opt.Share.JetStream.Stream(t.Context(), shareStream)
		if err != nil {
			return 0
		}
		return int(s.CachedInfo().State.Msgs)
	}
	c.until("others to hear of it", func() bool { return count() > 0 })
	spool := a.die()
	list, err := filepath.Glob(filepath.Join(spool, "*", "*.ts"))
	if err != nil || len(list) != 1 {
		t.Fatalf("segments %q, %v", list, err)
	}
	if err := os.Truncate(list[0], 0); err != nil {
		t.Fatal(err)
	}
	a = c.start("a", spool, nil)
	defer a.leave()
	c.empty(0)
	if list := a.r.Unfinished(); len(list) != 0 {
		t.Errorf("unfinished: %+v", list)
	}
}
