package callback

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Dead letters are told again, one, a range, and all of a receiver: with the id
// and the body that they had, in the order of each stream, and are gone then. A
// receiver that still fails is left alone soon.
func TestReplay(t *testing.T) {
	type call struct{ path, id, body string }
	var (
		mu    sync.Mutex
		fails = true
		took  []call
		opens int
	)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if fails {
			w.WriteHeader(500)
			return
		}
		took = append(took, call{r.URL.Path, r.Header.Get(HeaderID), string(b)})
	})
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			mu.Lock()
			opens++
			mu.Unlock()
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	w := newReal(t, t.TempDir(), "")
	const streams = 40
	for _, path := range []string{"/one", "/two"} {
		for i := range streams {
			start, end := pushOf("a", fmt.Sprintf("s%d", i), s.URL+path)
			start.Time, end.Time = start.Time.Add(-Lifetime), end.Time.Add(-Lifetime-time.Minute)
			w.log.Emit(start)
			w.log.Emit(end)
		}
	}
	dead := func(receiver string) []DeadLetter {
		t.Helper()
		list, err := w.d.DeadLetters(t.Context(), "a", receiver, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	one, two := ReceiverID("a", s.URL+"/one"), ReceiverID("a", s.URL+"/two")
	until(t, "all have died", 20*time.Second, func() bool { return w.d.Stats().Dead == 4*streams })
	first, second := dead(one), dead(two)
	if len(first) != 2*streams || len(second) != 2*streams {
		t.Fatalf("%d and %d dead letters, want %d of each", len(first), len(second), 2*streams)
	}

	mu.Lock()
	opens = 0
	mu.Unlock()
	concurrency := min(w.set.Spaces[0].Delivery.Concurrency, openCalls*4)
	sum, err := w.d.ReplayAll(t.Context(), "", two, 0, 0)
	if err != nil || sum.Told != 0 || sum.Failed < tripAfter || sum.Failed > tripAfter+concurrency || sum.Failed+sum.Skipped != 2*streams || !strings.Contains(sum.Error, "in a row") {
		t.Errorf("a replay to one who fails: %+v, %v", sum, err)
	}
	mu.Lock()
	// They are kept from call to call. net/http may open one that it then does
	// not need, as another has become free meanwhile.
	if opens > 2*concurrency {
		t.Errorf("%d connections, %d calls may be under way", opens, concurrency)
	}
	fails = false
	mu.Unlock()
	if n := len(dead(two)); n != 2*streams {
		t.Errorf("%d dead letters after none was taken, want %d", n, 2*streams)
	}

	replay := func(receiver string, from, to uint64, want []DeadLetter) {
		t.Helper()
		mu.Lock()
		took = nil
		mu.Unlock()
		sum, err := w.d.ReplayAll(t.Context(), "a", receiver, from, to)
		if err != nil || sum.Told != len(want) || sum.Failed != 0 || sum.Skipped != 0 || sum.Last != want[len(want)-1].Number {
			t.Fatalf("a replay of %d: %+v, %v", len(want), sum, err)
		}
		mu.Lock()
		defer mu.Unlock()
		place := make(map[string]int)
		for i, c := range took {
			place[c.id] = i
		}
		if len(place) != len(want) || len(took) != len(want) {
			t.Errorf("%d calls for %d letters, want %d", len(took), len(place), len(want))
		}
		last := make(map[string]int)
		for i := range want {
			l := &want[i]
			at, ok := place[l.ID]
			if !ok || took[at].body != string(l.Body) || s.URL+took[at].path != l.URL {
				t.Errorf("letter %d was not told as it is: %t, %+v", l.Number, ok, took[at])
			}
			if before, ok := last[l.Stream]; ok && at < before {
				t.Errorf("letter %d was told before an older one of its stream", l.Number)
			}
			last[l.Stream] = at
			if _, err := w.d.DeadLetter(t.Context(), l.Number); !errors.Is(err, ErrNoLetter) {
				t.Errorf("letter %d after it was taken: %v", l.Number, err)
			}
		}
	}
	replay("", first[0].Number, first[0].Number, first[:1])
	replay(one, first[1].Number, first[4].Number, first[1:5])
	replay(two, 0, 0, second)
	replay(one, 0, 0, first[5:])
	if n := len(dead("")); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
}
