package callback

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
)

func asV2() event.Callback { return event.Callback{Format: "v2"} }

// A fact is told once, signed, with the headers of contract C, and costs no
// write but that of the cursor.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		w.answer("one.example", status(204))
		time.Sleep(time.Hour)
		begin := time.Now()
		seq := w.push("a", "s1", "one.example", asV2())
		w.end("a", "s1", "one.example", seq, begin, asV2())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		list := w.all("one.example")
		if len(list) != 2 || w.mem.writes != 0 || w.mem.cursor != 3 {
			t.Fatalf("told %d times, with %d writes and the cursor at %d, want 2, 0, 3", len(list), w.mem.writes, w.mem.cursor)
		}
		for i, x := range list {
			e := w.mem.facts[i].event
			h := x.header
			if x.id != e.ID || h.Get(HeaderType) != string(e.Type) || x.attempt != 1 || h.Get("Content-Type") != "application/json" || h.Get(HeaderFormat) != "v2" {
				t.Errorf("%d: headers %v", i, h)
			}
			if stamp := h.Get(HeaderTimestamp); stamp != fmt.Sprint(begin.Unix()) || h.Get(HeaderSignature) != Sign(w.secret, stamp, x.id, []byte(x.body)) {
				t.Errorf("%d: signature %q of %s", i, h.Get(HeaderSignature), stamp)
			}
			if !strings.Contains(x.body, `"Sequence":"`+seq+`"`) {
				t.Errorf("%d: body %s", i, x.body)
			}
		}
		w.push("b", "s1", "one.example", asV2()) // a space without a secret
		time.Sleep(time.Second)
		synctest.Wait()
		if h := w.all("one.example")[2].header; h.Get(HeaderSignature) != "" {
			t.Errorf("signed without a secret: %v", h)
		}
		if len(w.mem.log) != 3 || w.mem.log[0].Data.(event.CallbackAttempted).Outcome != "delivered" {
			t.Errorf("delivery log: %v", w.mem.log)
		}
		w.stop()
	})
}

// Attempts are made when contract C says, with the same id and body, and then
// the fact is a dead letter.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		w.answer("one.example", status(500))
		time.Sleep(time.Millisecond)
		begin := time.Now()
		w.push("a", "s1", "one.example", asV2())
		time.Sleep(100 * time.Hour)
		list := w.all("one.example")
		if len(list) != len(schedule) {
			t.Fatalf("%d attempts, want %d", len(list), len(schedule))
		}
		for i, x := range list {
			off, before := x.at.Sub(begin), time.Duration(0)
			if i > 0 {
				before = schedule[i-1]
			}
			slop := time.Duration(float64(schedule[i]-before)*jitter) + 20*time.Second
			if i < 3 {
				slop = time.Duration(float64(schedule[i]-before)*jitter) + 100*time.Millisecond
			}
			if off < schedule[i]-slop || off > schedule[i]+slop {
				t.Errorf("attempt %d after %v, want %v", i+1, off, schedule[i])
			}
			if x.attempt != i+1 || x.id != list[0].id || x.body != list[0].body {
				t.Errorf("attempt %d: %v %s", i+1, x.header, x.body)
			}
		}
		if raised := w.mem.emitted; len(raised) == 0 || !slices.ContainsFunc(raised, func(e event.Event) bool { return e.Type == event.TypeAlertRaised && e.Space == "a" }) {
			t.Errorf("facts of the failure: %v", raised)
		}
		if len(w.mem.dead) != 1 || w.mem.dead[0].Attempts != len(schedule) || w.mem.dead[0].Error != "status 500" || string(w.mem.dead[0].Body) != list[0].body {
			t.Errorf("dead letters: %+v", w.mem.dead)
		}
		w.answer("one.example", status(200)) // which is found out with the next fact
		w.push("a", "s2", "one.example", asV2())
		time.Sleep(2 * time.Minute)
		if s := w.d.account(); len(w.mem.records) != 0 || s.Parked+s.Failing+s.Behind != 0 {
			t.Errorf("left behind: %v, %+v", sortedKeys(w.mem.records), s)
		}
		if len(w.mem.log) != len(schedule)+1 {
			t.Errorf("the delivery log has %d attempts, want %d", len(w.mem.log), len(schedule)+1)
		}
		w.stop()
	})
}

// A fact that is the newest of the log when weir is restarted, and could not be
// told before, is told once, and then there is nothing more to do.
func TestParkedOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		w.push("a", "s1", "one.example", asV2())
		time.Sleep(time.Second)
		w.stop()
		w.start()
		w.answer("one.example", status(200))
		time.Sleep(time.Minute)
		if n, s := len(w.all("one.example")), w.d.account(); n != 1 || s.Parked+s.Calls+s.Held != 0 || len(w.mem.records) != 0 {
			t.Errorf("told %d times; %+v, records %v", n, s, sortedKeys(w.mem.records))
		}
		w.stop()
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "0": 0, "-5": 0, "1e9": 0, "99999": time.Hour, "999999999999999999": time.Hour,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "Sat, 03 Jan 2026 03:04:05 GMT": time.Hour, "soon": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", s, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		var calls atomic.Int32
		w.answer("one.example", func(rw http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) == 1 {
				rw.Header().Set("Retry-After", "600")
				rw.WriteHeader(503)
			}
		})
		begin := time.Now()
		w.push("a", "s1", "one.example", asV2())
		time.Sleep(time.Hour)
		list := w.all("one.example")
		if len(list) != 2 || list[1].at.Sub(begin).Round(time.Second) != 10*time.Minute {
			t.Errorf("attempts %v", list)
		}
		w.stop()
	})
}

// A receiver that asks not to be called for a while is not, neither to find out
// whether it is back nor because another of its streams was told.
func TestRetryAfterOfReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		begin := time.Now()
		w.answer("one.example", func(rw http.ResponseWriter, _ *http.Request) {
			if time.Since(begin) < 10*time.Minute {
				rw.Header().Set("Retry-After", strconv.Itoa(int((10*time.Minute-time.Since(begin))/time.Second)))
				rw.WriteHeader(503)
			}
		})
		for i := range 100 {
			w.push("a", fmt.Sprintf("s%d", i), "one.example", asV2())
		}
		time.Sleep(time.Second)
		n := len(w.all("one.example"))
		if n < tripAfter || n > 100 {
			t.Fatalf("%d calls at first", n)
		}
		time.Sleep(9 * time.Minute)
		if again := len(w.all("one.example")); again != n {
			t.Errorf("%d calls before the time that the receiver asked for", again-n)
		}
		time.Sleep(2 * time.Minute)
		w.check("one.example", func(told) bool { return true })
		w.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		begin := time.Now()
		var bad atomic.Bool
		bad.Store(true)
		w.answer("one.example", func(rw http.ResponseWriter, r *http.Request) {
			list := w.all("one.example")
			for _, x := range list {
				if x.id == r.Header.Get(HeaderID) && (strings.Contains(x.body, `"Stream":"later"`) && time.Since(begin) < 10*time.Minute || bad.Load()) {
					if strings.Contains(x.body, `"Stream":"later"`) {
						rw.Header().Set("Retry-After", "600")
					}
					rw.WriteHeader(503)
					return
				}
			}
		})
		w.push("a", "later", "one.example", asV2())
		time.Sleep(time.Second)
		for i := range 10 {
			w.push("a", fmt.Sprintf("s%d", i), "one.example", asV2())
		}
		time.Sleep(10 * time.Second)
		bad.Store(false)
		time.Sleep(11 * time.Minute)
		var at []time.Duration
		for _, x := range w.all("one.example") {
			if strings.Contains(x.body, `"Stream":"later"`) {
				at = append(at, x.at.Sub(begin).Round(time.Second))
			}
		}
		if len(at) != 2 || at[1] < 10*time.Minute {
			t.Errorf("called at %v, want a second time after ten minutes", at)
		}
		w.stop()
	})
}

// F29, and the first proof of the issue: a receiver that is down for a day is
// told of everything afterwards, in order; nothing dies; another one does not
// notice. Weir is restarted in the middle.
func TestDayDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		w.answer("other.example", status(200))
		const streams, rounds = 20, 24
		for round := range rounds {
			for i := range streams {
				name := fmt.Sprintf("s%d", i)
				for _, host := range []string{"down.example", "other.example"} {
					began := time.Now()
					seq := w.push("a", name, host, asV2())
					time.Sleep(time.Millisecond)
					w.end("a", name, host, seq, began, asV2())
				}
			}
			time.Sleep(time.Hour)
			if round == 10 {
				w.stop()
				time.Sleep(time.Minute)
				w.start()
			}
		}
		if n := len(w.all("other.example")); n < 2*streams*rounds || n > 2*streams*rounds+2*streams {
			t.Errorf("the other receiver was told %d times, want %d", n, 2*streams*rounds)
		}
		w.check("other.example", func(told) bool { return true })
		if s := w.d.account(); s.Failing != 1 || s.Held > 10 {
			t.Errorf("while the receiver is down: %+v", s)
		}
		w.answer("down.example", status(200))
		time.Sleep(20 * time.Minute)
		w.check("down.example", func(told) bool { return true })
		if len(w.mem.dead) != 0 {
			t.Errorf("%d dead letters", len(w.mem.dead))
		}
		if s := w.d.account(); s.Failing != 0 || s.Parked != 0 || s.Behind != 0 || len(w.mem.records) != 0 || w.mem.cursor != uint64(len(w.mem.facts))+1 {
			t.Errorf("afterwards: %+v, records %v, cursor %d of %d", s, sortedKeys(w.mem.records), w.mem.cursor, len(w.mem.facts))
		}
		w.stop()
	})
}

// A receiver that is back, and slow, is told of nothing twice: what a stream
// that waited has found in the log, and the receiver's own feed brings later.
func TestSlowAfterDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		for range 10 {
			for i := range 300 {
				name := fmt.Sprintf("s%d", i)
				began := time.Now()
				seq := w.push("a", name, "down.example", asV2())
				time.Sleep(time.Millisecond)
				w.end("a", name, "down.example", seq, began, asV2())
			}
			time.Sleep(time.Hour)
		}
		w.answer("down.example", func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) })
		time.Sleep(20 * time.Minute)
		w.check("down.example", func(told) bool { return true })
		if n := len(w.all("down.example")); n != len(w.mem.facts) {
			t.Errorf("told %d times of %d facts", n, len(w.mem.facts))
		}
		w.d.mu.Lock()
		for _, r := range w.d.receivers {
			if len(r.lanes) > 0 {
				t.Errorf("%d lanes are left", len(r.lanes))
			}
		}
		w.d.mu.Unlock()
		w.stop()
	})
}

// One stream whose facts are refused delays its own facts and no others, also
// not those of the same receiver.
func TestOneStreamFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		var healed atomic.Bool
		refuse := func(x told) bool { return strings.Contains(x.body, `"Stream":"bad"`) && !healed.Load() }
		w.answer("one.example", func(rw http.ResponseWriter, r *http.Request) {
			list := w.all("one.example")
			for _, x := range list {
				if x.id == r.Header.Get(HeaderID) && refuse(x) {
					rw.WriteHeader(500)
					return
				}
			}
		})
		for i := range 100 {
			began := time.Now()
			for _, name := range []string{"bad", "good", fmt.Sprintf("s%d", i)} {
				seq := w.push("a", name, "one.example", asV2())
				w.end("a", name, "one.example", seq, began, asV2())
			}
			time.Sleep(time.Minute)
			latest := w.all("one.example")
			if x := latest[len(latest)-1]; time.Since(x.at) > 61*time.Second {
				t.Fatalf("round %d: nothing was told for %v", i, time.Since(x.at))
			}
		}
		var bad, good int
		for _, x := range w.all("one.example") {
			if strings.Contains(x.body, `"Stream":"good"`) {
				good++
			} else if strings.Contains(x.body, `"Stream":"bad"`) {
				bad++
			}
		}
		if good != 200 || bad > 10 {
			t.Errorf("told of the good stream %d times, of the bad one %d", good, bad)
		}
		if s := w.d.account(); s.Parked != 1 || s.Held != 0 || s.Failing != 0 {
			t.Errorf("while one stream fails: %+v", s)
		}
		healed.Store(true)
		time.Sleep(12 * time.Hour)
		list := w.all("one.example")
		healed.Store(false)
		i := slices.IndexFunc(list, func(x told) bool { return refuse(x) && x.at.Sub(list[0].at) > 100*time.Minute })
		healed.Store(true)
		w.mu.Lock()
		w.told = w.told[i:]
		w.mu.Unlock()
		if n := len(w.all("one.example")); n != 200 {
			t.Errorf("told of the bad stream %d times afterwards, want 200", n)
		}
		w.stop()
	})
}

// A receiver that never answers costs the others nothing.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		w.answer("good.example", status(200))
		w.answer("hang.example", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		for i := range 10000 {
			w.push("a", fmt.Sprintf("s%d", i), "hang.example", asV2())
			if i%50 == 0 {
				w.push("b", fmt.Sprintf("s%d", i), "good.example", asV2())
			}
			if i%50 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		list := w.all("good.example")
		if len(list) != 200 {
			t.Fatalf("the good receiver was told %d times, want 200", len(list))
		}
		for _, x := range list {
			for _, e := range w.mem.facts {
				if e.event.ID == x.id && x.at.Sub(e.event.Time) > 10*time.Millisecond {
					t.Errorf("told %v late", x.at.Sub(e.event.Time))
				}
			}
		}
		if s := w.d.account(); s.Held > window || s.Failing != 1 {
			t.Errorf("%+v", s)
		}
		w.answer("hang.example", status(200))
		time.Sleep(15 * time.Minute)
		w.check("hang.example", func(told) bool { return true })
		w.stop()
	})
}

// Everything that waited for a receiver longer than facts are told is a dead
// letter, each once.
func TestAllDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtual(t)
		want := map[string]bool{}
		for i := range 300 {
			began := time.Now()
			name := fmt.Sprintf("s%d", i%40)
			seq := w.push("a", name, "down.example", asV2())
			w.end("a", name, "down.example", seq, began, asV2())
			time.Sleep(10 * time.Minute)
		}
		for _, e := range w.mem.facts {
			want[e.event.ID] = true
		}
		time.Sleep(200 * time.Hour)
		for _, l := range w.mem.dead {
			if !want[l.ID] {
				t.Errorf("%s died twice", l.ID)
			}
			delete(want, l.ID)
		}
		if len(want) > 0 {
			t.Errorf("%d of %d facts did not die", len(want), len(w.mem.facts))
		}
		if s := w.d.account(); s.Parked != 0 || s.Held != 0 {
			t.Errorf("%+v", s)
		}
		w.stop()
	})
}
