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
		victim(dir, os.Getenv("WEIR_TEST_URL"))
		return
	}
	if os.Getenv("WEIR_TEST_RECEIVER") != "" {
		receiverProcess()
		return
	}
	os.Exit(m.Run())
}

// victim emits as many pushes as it is told on standard input, says the ids that
// are durable, and tells of them until it is killed.
func victim(dir, url string) {
	t := &fatal{}
	w := newReal(t, dir, "")
	out := bufio.NewWriter(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	n := 0
	for in.Scan() {
		count, _ := strconv.Atoi(in.Text())
		var ids []string
		for range count {
			start, end := pushOf("a", fmt.Sprintf("s%d", n%500), url)
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
	var mu sync.Mutex
	bodies := map[string]string{}
	order := map[string][]string{} // ids of each stream as they first came
	calls := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get(HeaderID)
		mu.Lock()
		defer mu.Unlock()
		calls++
		if before, ok := bodies[id]; ok {
			if before != string(body) {
				t.Errorf("%s: %s, and then %s", id, before, body)
			}
			return
		}
		var n struct{ Stream string }
		if err := json.Unmarshal(body, &n); err != nil {
			t.Error(err)
		}
		bodies[id] = string(body)
		order[n.Stream] = append(order[n.Stream], id)
	}))
	defer receiver.Close()
	dir := t.TempDir()
	want := map[string][]string{}
	facts := 0
	for round := range kills + 1 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "WEIR_TEST_VICTIM="+dir, "WEIR_TEST_URL="+receiver.URL)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if round < kills {
			fmt.Fprintln(in, pushes/kills)
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != "flushed" {
				stream, id, _ := strings.Cut(lines.Text(), " ")
				want[stream] = append(want[stream], id)
				facts++
			}
			// Somewhere in the middle of its deliveries.
			until(t, "some deliveries", 60*time.Second, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(bodies) > facts*(1+rand.IntN(3))/4 || len(bodies) >= facts
			})
		} else {
			until(t, "all deliveries", 120*time.Second, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(bodies) >= facts
			})
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	mu.Lock()
	defer mu.Unlock()
	for stream, ids := range want {
		if !slices.Equal(order[stream], ids) {
			t.Fatalf("told of %s: %v, want %v", stream, order[stream], ids)
		}
	}
	t.Logf("%d facts over %d kills: %d calls, %d of them again", facts, kills, calls, calls-len(bodies))
}
