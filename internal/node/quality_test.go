package node

import (
	"slices"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
	"weir/internal/stats"
)

// An alert is a fact of its push, for the owner if he wants it, and over before
// the push is. What went in is in the statistics, also after a restart.
func TestAlertsAndStatistics(t *testing.T) {
	c := testConfig(t)
	app := &c.Policy.Spaces[0].Apps[0]
	app.Quality = policy.Quality{NoData: time.Second}
	app.Callback = &policy.Callback{URL: "https://owner.example/hook", Alerts: true}
	n, _, stop := start(t, c)
	began := time.Now()
	pub := publish(t, n, "s")
	raised := facts(t, n, eventlog.Filter{}, event.TypeAlertRaised)
	pub.Close()
	of := eventlog.Filter{Types: []event.Type{event.TypePublishStarted, event.TypeAlertRaised, event.TypeAlertCleared, event.TypePublishEnded}}
	list := facts(t, n, of, event.TypePublishEnded)
	if got, want := typesOf(list), "publish.started alert.raised alert.cleared publish.ended"; got != want {
		t.Fatalf("facts are %s, want %s", got, want)
	}
	alert := raised[len(raised)-1].Data.(event.AlertRaised)
	if alert.Alert != "no_data" || alert.Callback == nil || alert.Callback.URL != "https://owner.example/hook" {
		t.Errorf("the alert says %+v", alert)
	}
	for _, e := range list {
		if e.Sequence == "" || e.Sequence != list[0].Sequence || e.Stream != "s" {
			t.Errorf("%s is about %q, %q", e.Type, e.Stream, e.Sequence)
		}
	}
	stop()

	n, _, stop = start(t, c)
	defer stop()
	points, err := n.stats.Query(t.Context(), stats.Query{
		Space: "default", App: app.Name, Stream: "s", From: began.Add(-time.Minute), To: time.Now().Add(time.Minute), Step: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	live := int64(0)
	for _, p := range points {
		live += p.Live
	}
	if !slices.ContainsFunc(points, func(p stats.Point) bool { return p.Streams == 1 }) || live < 1 || live > 60 {
		t.Errorf("statistics are %+v", points)
	}
}
