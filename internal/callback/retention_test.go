package callback

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
)

// alerts returns the names of the alerts that were raised, and with a minus of
// those that were cleared, in order, but for those that a receiver fails. All
// must be told to the owner.
func (w *world) alerts() (list []string) {
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	for _, e := range w.mem.emitted {
		var cb *event.Callback
		switch d := e.Data.(type) {
		case event.AlertRaised:
			list, cb = append(list, d.Alert), d.Callback
		case event.AlertCleared:
			list, cb = append(list, "-"+d.Alert), d.Callback
		default:
			continue
		}
		if strings.HasSuffix(list[len(list)-1], alertReceiver) {
			list = list[:len(list)-1]
		}
		if e.Space != "a" || cb == nil || cb.URL != "http://ops.example/live" {
			w.t.Errorf("an alert of %q told to %+v", e.Space, cb)
		}
	}
	return list
}

// Contract C: what was accepted is never lost. Where the event log is about to
// delete facts that wait, the owner is told before, by the size of the log and by
// the age of the facts; and when it has done so, he is told that, too.
func TestRetention(t *testing.T) {
	const total = 400
	full := func(w *world) {
		w.mem.mu.Lock()
		defer w.mem.mu.Unlock()
		w.mem.full = 0.95
	}
	for _, tt := range []struct {
		name  string
		limit func(w *world) // makes the first of the facts about to be deleted
		lane  bool           // only one stream waits
	}{
		{"receiver by size", full, false},
		{"receiver by age", func(w *world) { time.Sleep(keptFor * 19 / 20) }, false},
		{"stream by size", full, true},
		{"stream by age", func(w *world) { time.Sleep(keptFor * 19 / 20) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newVirtual(t)
				w.set.Spaces[0].Callback = &policy.Callback{URL: "http://ops.example/live", Alerts: true}
				if tt.lane {
					w.answer("one.example", func(rw http.ResponseWriter, r *http.Request) {
						for _, x := range w.all("one.example") {
							if x.id == r.Header.Get(HeaderID) && strings.Contains(x.body, `"Stream":"bad"`) {
								rw.WriteHeader(500)
								return
							}
						}
					})
				}
				for i := range total {
					name := fmt.Sprintf("s%d", i)
					if tt.lane && i < 5 {
						name = "bad"
					}
					w.push("a", name, "one.example", asV2())
				}
				time.Sleep(time.Minute)
				if got := w.alerts(); len(got) > 0 {
					t.Errorf("alerts %v, want none", got)
				}
				tt.limit(w)
				time.Sleep(watchEvery*keepEvery + time.Second)
				if got := w.alerts(); !slices.Equal(got, []string{alertRetention}) {
					t.Errorf("alerts %v, want %s", got, alertRetention)
				}
				if n := w.d.account().Missed; n != 0 {
					t.Errorf("%d facts are missed", n)
				}
				w.mem.mu.Lock()
				w.mem.gone = total / 2
				w.mem.full = 0.5
				w.mem.mu.Unlock()
				time.Sleep(watchEvery*keepEvery + time.Second)
				if got := w.alerts(); !slices.Contains(got, alertLost) {
					t.Errorf("alerts %v", got)
				}
				if n := w.d.account().Missed; n == 0 || n > total/2 {
					t.Errorf("%d facts are missed, want up to %d", n, total/2)
				}
				w.answer("one.example", status(200))
				time.Sleep(12 * time.Hour)
				if got := w.alerts(); !slices.Contains(got, "-"+alertRetention) {
					t.Errorf("alerts %v", got)
				}
				w.stop()
			})
		})
	}
}
