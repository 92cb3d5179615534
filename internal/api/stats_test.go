package api

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/quality"
	"weir/internal/stream"
)

func TestStatistics(t *testing.T) {
	w := newWorld(t)
	w.publish(t, "other", "secret").Stream().Traffic().Served(stream.HLS, 7)
	demo := w.Hub.Find(stream.Key{Space: "default", App: "live", Name: "demo"}).Traffic()
	demo.Served(stream.HLS, 1000)
	demo.Watching(stream.HLS, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.Stats.Run(ctx) // writes the page that was begun

	// The bytes that a query of a token has, of all points together.
	query := func(token string, q url.Values) (bytes int64, peak int64, points int) {
		t.Helper()
		var out struct{ Points []StatisticsPoint }
		w.get(t, token, "/statistics?"+q.Encode(), &out)
		for _, p := range out.Points {
			bytes, peak = bytes+p.BytesOut.Total, max(peak, p.PeakPlayers)
			if p.BytesOut.HLS != p.BytesOut.Total {
				t.Errorf("bytes out: %+v", p.BytesOut)
			}
		}
		return bytes, peak, len(out.Points)
	}
	all, own := w.token(t, Token{Role: Viewer}), w.token(t, Token{Role: Viewer, Space: "default"})
	to := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	for _, tt := range []struct {
		token string
		q     url.Values
		bytes int64
	}{
		{all, url.Values{"to": {to}}, 1007},
		{all, url.Values{"to": {to}, "step": {"3600"}}, 1007},
		{all, url.Values{"to": {to}, "space": {"other"}}, 7},
		{own, url.Values{"to": {to}}, 1000},
		{own, url.Values{"to": {to}, "space": {"default"}, "app": {"live"}, "stream": {"demo"}}, 1000},
		{own, url.Values{"to": {to}, "space": {"default"}, "app": {"none"}}, 0},
	} {
		bytes, peak, points := query(tt.token, tt.q)
		if bytes != tt.bytes || tt.bytes > 7 && (peak != 3 || points != 1) {
			t.Errorf("%v: %d bytes, %d players, %d points, want %d bytes", tt.q, bytes, peak, points, tt.bytes)
		}
	}
	for _, tt := range []struct {
		token, query string
		status       int
	}{
		{own, "space=other", http.StatusNotFound},
		{all, "stream=a", http.StatusUnprocessableEntity},
		{all, "step=90", http.StatusUnprocessableEntity},
		{all, "step=59", http.StatusUnprocessableEntity},
		{all, "from=2020-01-01T00:00:00Z", http.StatusUnprocessableEntity},
		{all, "from=yesterday", http.StatusUnprocessableEntity},
	} {
		if got := w.do(t, request{method: http.MethodGet, path: "/statistics?" + tt.query, token: tt.token}).Code; got != tt.status {
			t.Errorf("%s: status %d, want %d", tt.query, got, tt.status)
		}
	}
}

func TestAlerts(t *testing.T) {
	raised := make(chan event.Event, 1)
	monitor := quality.NewMonitor(quality.Options{Emit: func(e event.Event) { raised <- e }})
	w := newWorld(t, func(o *Options) { o.Quality = monitor })
	app := policy.DefaultApp("live")
	app.Quality = policy.Quality{NoData: time.Second}
	p, err := w.Hub.Publish(stream.Key{Space: "default", App: "live", Name: "quiet"}, &app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	monitor.Began(p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); monitor.Run(ctx) }() // ends with ctx
	<-raised
	var list Page[Alert]
	w.get(t, w.token(t, Token{Role: Viewer, Space: "default"}), "/alerts", &list)
	if len(list.Items) != 1 || list.Items[0].Alert != quality.NoData || list.Items[0].Stream != "quiet" || list.Items[0].Limit != 1 {
		t.Errorf("alerts: %+v", list.Items)
	}
	other := w.token(t, Token{Role: Viewer, Space: "other"})
	w.get(t, other, "/alerts", &list)
	if len(list.Items) != 0 {
		t.Errorf("alerts of another space: %+v", list.Items)
	}
	var d StreamInfo
	w.get(t, w.token(t, Token{Role: Viewer}), "/streams/default/live/quiet", &d)
	if len(d.Alerts) != 1 || d.Alerts[0].Text == "" {
		t.Errorf("alerts of the stream: %+v", d.Alerts)
	}
	cancel()
	<-done
}
