package callback

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain is also the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("WEIR_TEST_VICTIM"); dir != "" {
		victim(dir, os.Getenv("WEIR_TEST_URL"), os.Getenv("WEIR_TEST_NODE"), os.Getenv("WEIR_TEST_NATS"))
		return
	}
	if os.Getenv("WEIR_TEST_RECEIVER") != "" {
		receiverProcess()
		return
	}
	os.Exit(m.Run())
}

// victim emits as many pushes as it is told on standard input, says the ids that
// are durable, and tells of them until it is killed. With a name it is a node of
// a cluster, which have a NATS.
func victim(dir, url, node, nats string) {
	t := &fatal{}
	w := prepare(t, dir, "")
	if node != "" {
		w.node, w.url, w.lease = node, nats, clusterLease
	}
	w.start()
	out := bufio.NewWriter(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	n := 0
	for in.Scan() {
		count, _ := strconv.Atoi(in.Text())
		var ids []string
		for range count {
			start, end := pushOf("a", fmt.Sprintf("%ss%d", node, n%500), url)
			n++
			w.log.Emit(start)
			w.log.Emit(end)
			ids = append(ids, start.Stream+" "+start.ID, end.Stream+" "+end.ID)
		}
		if err := w.log.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			fmt.Fprintln(out, id)
		}
		fmt.Fprintln(out, "flushed")
		out.Flush()
	}
	select {}
}

// fatal is a testing.TB of a process without tests.
type fatal struct{ testing.B }

func (*fatal) Helper()                   {}
func (*fatal) Cleanup(func())            {}
func (*fatal) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *fatal) Fatal(a ...any)          { fmt.Fprintln(os.Stderr, a...); os.Exit(3) }

// process is a victim that a test talks to.
type process struct {
	*exec.Cmd
	in    io.Writer
	lines *bufio.Scanner
}

func startVictim(t *testing.T, dir, url string, env ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(append(os.Environ(), "WEIR_TEST_VICTIM="+dir, "WEIR_TEST_URL="+url), env...)
	p.Stderr = os.Stderr
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.in, p.lines = in, bufio.NewScanner(out)
	t.Cleanup(p.kill)
	return p
}

// push has it emit so many pushes, and adds the ids of what is durable, by
// stream.
func (p *process) push(n int, want map[string][]string) (facts int) {
	fmt.Fprintln(p.in, n)
	for p.lines.Scan() && p.lines.Text() != "flushed" {
		stream, id, _ := strings.Cut(p.lines.Text(), " ")
		want[stream] = append(want[stream], id)
		facts++
	}
	return facts
}

func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

// notebook is a receiver that knows what it was told.
type notebook struct {
	*httptest.Server
	mu     sync.Mutex
	bodies map[string]string   // by id
	order  map[string][]string // ids of each stream as they first came
	calls  int
}

func newNotebook(t *testing.T) *notebook {
	b := &notebook{bodies: map[string]string{}, order: map[string][]string{}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get(HeaderID)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.calls++
		if before, ok := b.bodies[id]; ok {
			if before != string(body) {
				t.Errorf("%s: %s, and then %s", id, before, body)
			}
			return
		}
		var n struct{ Stream string }
		if err := json.Unmarshal(body, &n); err != nil {
			t.Error(err)
		}
		b.bodies[id] = string(body)
		b.order[n.Stream] = append(b.order[n.Stream], id)
	}))
	t.Cleanup(b.Close)
	return b
}

// known returns how many facts it was told of, and how often again.
func (b *notebook) known() (facts, again int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.bodies), b.calls - len(b.bodies)
}

// check compares what it was told of first with what it should have been.
func (b *notebook) check(t *testing.T, want map[string][]string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for stream, ids := range want {
		if !slices.Equal(b.order[stream], ids) {
			t.Fatalf("told of %s: %v, want %v", stream, b.order[stream], ids)
		}
	}
}

// F22 as far as it concerns callbacks, I4, I5, and the third proof of the issue:
// weir is killed again and again while it tells of 10 000 facts. The receiver
// has all that were durable, each time with the same body, and in the order of
// each stream.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	pushes, kills := 1000, 3
	if os.Getenv("WEIR_LONG") != "" {
		pushes, kills = 5000, 8
	}
	b := newNotebook(t)
	dir := t.TempDir()
	want := map[string][]string{}
	facts := 0
	for round := range kills + 1 {
		p := startVictim(t, dir, b.URL)
		if round < kills {
			facts += p.push(pushes/kills, want)
			// Somewhere in the middle of its deliveries.
			part := facts * (1 + rand.IntN(3)) / 4
			until(t, "some deliveries", 60*time.Second, func() bool { n, _ := b.known(); return n >= part })
		} else {
			until(t, "all deliveries", 120*time.Second, func() bool { n, _ := b.known(); return n >= facts })
		}
		p.kill()
	}
	b.check(t, want)
	_, again := b.known()
	t.Logf("%d facts over %d kills, %d of them told again", facts, kills, again)
}
