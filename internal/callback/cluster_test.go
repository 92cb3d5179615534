package callback

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus/bustest"
)

// clusterLease is the lease of nodes in tests.
const clusterLease = 2 * time.Second

// Each node can say how receivers are, which only the one knows that tells; and
// when that one stops the other goes on.
func TestReceiversInCluster(t *testing.T) {
	s := bustest.Serve(t)
	receiver := httptest.NewServer(status(http.StatusTeapot))
	t.Cleanup(receiver.Close)
	var nodes []*real
	for _, name := range []string{"n1", "n2"} {
		w := prepare(t, t.TempDir(), "")
		w.node, w.url, w.lease = name, s.ClientURL(), clusterLease
		w.start()
		until(t, "a node tells", 10*time.Second, func() bool { return w.d.tells.Load() || len(nodes) > 0 && nodes[0].d.tells.Load() })
		nodes = append(nodes, w)
	}
	if !nodes[0].d.tells.Load() || nodes[1].d.tells.Load() {
		t.Fatalf("the first tells: %t, the second: %t", nodes[0].d.tells.Load(), nodes[1].d.tells.Load())
	}
	start, _ := pushOf("a", "s", receiver.URL+"/live")
	nodes[1].log.Emit(start)
	seen := func(w *real) func() bool {
		return func() bool {
			list, err := w.d.Receivers(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			return len(list) == 1 && list[0].State == "partly failing" && list[0].Reason == "status 418" && list[0].Failed > 0
		}
	}
	for _, w := range nodes {
		until(t, "how the receiver is, on "+w.node, 10*time.Second, seen(w))
	}
	nodes[0].stop()
	until(t, "the other node tells", 10*time.Second, nodes[1].d.tells.Load)
	until(t, "the next attempt", 10*time.Second, seen(nodes[1]))
}

// Of two nodes of a cluster one tells, of what happened on either. When it is
// killed, or halted, the other goes on: nothing is lost, each stream is in order,
// and what is told again is the same.
func TestCluster(t *testing.T) {
	for _, halted := range []bool{false, true} {
		t.Run(fmt.Sprintf("halted=%t", halted), func(t *testing.T) {
			t.Parallel()
			s := bustest.Serve(t)
			conn, err := nats.Connect(s.ClientURL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			holder := func() string { // who tells
				kv, err := js.KeyValue(t.Context(), "weir_lease_callbacks")
				if err != nil {
					return ""
				}
				e, err := kv.Get(t.Context(), "callbacks")
				if err != nil {
					return ""
				}
				var h struct{ Node string }
				if err := json.Unmarshal(e.Value(), &h); err != nil {
					t.Error(err)
				}
				return h.Node
			}
			b := newNotebook(t)
			nodes, dirs := map[string]*process{}, map[string]string{"n1": t.TempDir(), "n2": t.TempDir()}
			start := func(name string) {
				nodes[name] = startVictim(t, dirs[name], b.URL, "WEIR_TEST_NODE="+name, "WEIR_TEST_NATS="+s.ClientURL())
			}
			want, facts := map[string][]string{}, 0
			all := func() bool { n, _ := b.known(); return n >= facts }
			for name := range dirs {
				start(name)
				facts += nodes[name].push(100, want)
			}
			until(t, "both nodes' facts are told", 30*time.Second, all)
			if _, again := b.known(); again > 0 {
				t.Errorf("%d facts were told twice while nothing was wrong", again)
			}
			first := holder()
			other := map[string]string{"n1": "n2", "n2": "n1"}[first]
			if other == "" {
				t.Fatalf("%q tells", first)
			}
			for name := range dirs {
				facts += nodes[name].push(200, want)
			}
			// In the middle of it.
			until(t, "some deliveries", 30*time.Second, func() bool { n, _ := b.known(); return n >= facts-600 })
			begin := time.Now()
			if halted {
				nodes[first].Process.Signal(syscall.SIGSTOP)
			} else {
				nodes[first].kill()
			}
			until(t, "the other node tells", 30*time.Second, func() bool { return holder() == other })
			took := time.Since(begin)
			facts += nodes[other].push(100, want)
			if halted {
				nodes[first].Process.Signal(syscall.SIGCONT)
			} else {
				start(first) // and what was still in its journal is told, too
			}
			facts += nodes[first].push(100, want)
			until(t, "all is told", 60*time.Second, all)
			if h := holder(); h != other {
				t.Errorf("afterwards %q tells, want %s", h, other)
			}
			b.check(t, want)
			_, again := b.known()
			t.Logf("the other node took over after %v; %d of %d facts were told again", took, again, facts)
		})
	}
}
