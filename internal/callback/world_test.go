package callback

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
)

// memory is an event log, records, a delivery log and dead letters that live in
// virtual time. They keep what they are told through the restarts of a
// Dispatcher.
type memory struct {
	mu      sync.Mutex
	facts   []entry
	grown   chan struct{} // closed when facts grows
	cursor  uint64
	records map[string][]byte
	writes  int
	log     []event.Event
	dead    []Letter
	emitted []event.Event
	fail    error // of writes
	unread  error // of scans
	gone    int   // facts that are not kept any more
	full    float64
}

func newMemory() *memory {
	return &memory{grown: make(chan struct{}), cursor: 1, records: make(map[string][]byte)}
}

func (m *memory) add(e event.Event) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := uint64(len(m.facts) + 1)
	m.facts = append(m.facts, entry{seq: seq, event: e})
	close(m.grown)
	m.grown = make(chan struct{})
	return seq
}

type memoryReader struct {
	m     *memory
	space string
	from  uint64
}

func (m *memory) read(_ context.Context, space string, from uint64) reader {
	return &memoryReader{m, space, from}
}

func (r *memoryReader) close() {}
func (r *memoryReader) next(ctx context.Context) (entry, error) {
	for {
		r.m.mu.Lock()
		grown := r.m.grown
		if r.from <= uint64(len(r.m.facts)) {
			e := r.m.facts[r.from-1]
			r.from++
			if r.space != "" && r.space != e.event.Space {
				r.m.mu.Unlock()
				continue
			}
			r.m.mu.Unlock()
			return e, nil
		}
		r.m.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return entry{}, ctx.Err()
		}
	}
}

func (q query) matches(e *event.Event) bool {
	return (q.space == "" || q.space == e.Space) && (q.app == "" || q.app == e.App) && (q.stream == "" || q.stream == e.Stream)
}

func (m *memory) scan(_ context.Context, q query, from uint64, most int) (list []entry, next uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unread != nil {
		return nil, from, m.unread
	}
	for i := max(from, uint64(m.gone)+1); i <= uint64(len(m.facts)); i++ {
		if e := m.facts[i-1]; q.matches(&e.event) {
			if list = append(list, e); len(list) == most {
				return list, i + 1, nil
			}
		}
	}
	return list, max(from, uint64(len(m.facts))+1), nil
}

func (m *memory) count(ctx context.Context, q query, from uint64) (int, error) {
	list, _, _ := m.scan(ctx, q, from, 1<<30)
	return len(list), nil
}

func (m *memory) at(context.Context, time.Time) (uint64, error) { return 1, nil }

// keptFor is how long a memory keeps facts, as the alerts have it.
const keptFor = 20 * time.Hour

func (m *memory) kept(context.Context) (kept, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := kept{first: uint64(m.gone) + 1, last: uint64(len(m.facts)), full: m.full, age: keptFor, step: 1}
	if m.gone < len(m.facts) {
		k.oldest = m.facts[m.gone].event.Time
	}
	return k, nil
}

func (m *memory) emit(e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emitted = append(m.emitted, e)
}

func (m *memory) all(context.Context) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := maps.Clone(m.records)
	all[cursorKey] = strconv.AppendUint(nil, m.cursor, 10)
	return all, nil
}

func (m *memory) get(_ context.Context, k string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.records[k]; ok {
		return v, nil
	}
	return nil, errors.New("no such record")
}

func (m *memory) put(_ context.Context, k string, v []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k == cursorKey {
		if m.fail == nil {
			m.cursor, _ = strconv.ParseUint(string(v), 10, 64)
		}
		return m.fail
	}
	if m.fail == nil {
		m.records[k] = v
		m.writes++
	}
	return m.fail
}

func (m *memory) delete(_ context.Context, k string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		delete(m.records, k)
		m.writes++
	}
	return m.fail
}

func (m *memory) attempted(e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, e)
}

func (m *memory) bury(_ context.Context, l *Letter) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.dead = append(m.dead, *l)
	}
	return m.fail
}

// told is a call as a receiver saw it.
type told struct {
	at      time.Time
	host    string
	id      string
	header  http.Header
	body    string
	attempt int
}

// world is a Dispatcher in virtual time, and the receivers that it calls.
type world struct {
	t    *testing.T
	mem  *memory
	set  *policy.Set
	d    *queue
	stop func()

	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by host; none: nobody answers
	told    []told
	servers []*http.Server
	secret  policy.Secret
}

func newVirtual(t *testing.T) *world {
	w := &world{t: t, mem: newMemory(), answers: make(map[string]http.HandlerFunc), secret: policy.NewSecret("callback-secret")}
	d := new(policy.Delivery)
	d.SetDefaults()
	d.Secret = w.secret
	w.set = &policy.Set{Spaces: []policy.Space{{Name: "a", Delivery: d}, {Name: "b"}}}
	w.start()
	return w
}

func (w *world) start() {
	w.d = newQueue(w.mem, w.mem, w.mem, func() *policy.Set { return w.set }, slog.New(slog.DiscardHandler))
	w.d.dial = w.dial
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.d.run(ctx, context.WithoutCancel(ctx)) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run = %v", err)
		}
		w.mu.Lock()
		servers := w.servers
		w.servers = nil
		w.mu.Unlock()
		for _, s := range servers {
			s.Close()
		}
		synctest.Wait()
	}
}

// dial connects to a receiver of this process by a pipe.
func (w *world) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(address)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answers[host] == nil {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.receive(host, rw, r) })}
	w.servers = append(w.servers, s)
	go s.Serve(&oneConn{conn: server, done: make(chan struct{})})
	return client, nil
}

// oneConn is a listener that one connection comes by.
type oneConn struct {
	conn net.Conn
	once sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (nc net.Conn, err error) {
	if nc, l.conn = l.conn, nil; nc != nil {
		return nc, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (w *world) receive(host string, rw http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	n, _ := strconv.Atoi(r.Header.Get(HeaderAttempt))
	w.mu.Lock()
	w.told = append(w.told, told{time.Now(), host, r.Header.Get(HeaderID), r.Header, string(b), n})
	h := w.answers[host]
	w.mu.Unlock()
	if h == nil {
		panic(http.ErrAbortHandler)
	}
	h(rw, r)
}

func (w *world) answer(host string, h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[host] = h
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// delivered returns the ids that a host has answered to, in order, by stream.
func (w *world) all(host string) []told {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []told
	for _, x := range w.told {
		if x.host == host {
			list = append(list, x)
		}
	}
	return list
}

// start and end of a push to host.
func (w *world) push(space, stream, host string, cb event.Callback) (sequence string) {
	seq := event.NewSequence()
	cb.URL = "http://" + host + "/live"
	c := event.Client{Domain: "push.example", Addr: netip.MustParseAddrPort("192.0.2.1:1000")}
	e := event.New(time.Now(), event.PublishStarted{Client: c, Callback: &cb, Ended: &cb})
	e.Space, e.App, e.Stream, e.Sequence = space, "live", stream, seq
	w.mem.add(e)
	return seq
}

func (w *world) end(space, stream, host, sequence string, started time.Time, cb event.Callback) {
	w.endAt(time.Now(), space, stream, host, sequence, started, cb)
}

// endAt is end for one that comes into the log only now.
func (w *world) endAt(at time.Time, space, stream, host, sequence string, started time.Time, cb event.Callback) {
	cb.URL = "http://" + host + "/live"
	e := event.New(at, event.PublishEnded{Started: started, Reason: event.ReasonClosed, Callback: &cb})
	e.Space, e.App, e.Stream, e.Sequence = space, "live", stream, sequence
	w.mem.add(e)
}

// check compares what a host has taken with the log: every fact for it, in the
// order of each stream, and each as often as it likes but always the same.
func (w *world) check(host string, took func(told) bool) {
	w.t.Helper()
	firsts := map[string][]string{} // by stream, ids in the order first taken
	bodies := map[string]string{}
	streams := map[string]string{}
	w.mem.mu.Lock()
	want := map[string][]string{}
	for _, e := range w.mem.facts {
		if cb := callbackOf(&e.event); cb != nil && strings.HasPrefix(cb.URL, "http://"+host+"/") {
			k := e.event.Space + "/" + e.event.Stream
			want[k] = append(want[k], e.event.ID)
			streams[e.event.ID] = k
		}
	}
	w.mem.mu.Unlock()
	for _, x := range w.all(host) {
		if before, ok := bodies[x.id]; ok && before != x.body {
			w.t.Fatalf("%s was told of as %s and then as %s", x.id, before, x.body)
		}
		bodies[x.id] = x.body
		if k := streams[x.id]; took(x) && !slices.Contains(firsts[k], x.id) {
			firsts[k] = append(firsts[k], x.id)
		}
	}
	for k, ids := range want {
		if !slices.Equal(ids, firsts[k]) {
			w.t.Errorf("%s was told of %s: %v, want %v", host, k, firsts[k], ids)
			return
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
