package api

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"weir/internal/stream"
)

func TestListStreams(t *testing.T) {
	w := newWorld(t)
	for i := range 25 {
		w.publish(t, "default", fmt.Sprintf("cam%02d", i))
	}
	w.publish(t, "other", "cam00")
	viewer := w.token(t, Token{Role: Viewer})
	// walk returns the names of all pages.
	walk := func(token, query string) []string {
		t.Helper()
		var names []string
		for cursor := ""; ; {
			var p Page[StreamInfo]
			w.get(t, token, "/streams?"+query+"&cursor="+url.QueryEscape(cursor), &p)
			for _, d := range p.Items {
				names = append(names, d.Space+"/"+d.Stream)
			}
			if cursor = p.Next; cursor == "" {
				return names
			}
		}
	}
	if got := walk(viewer, "limit=4"); len(got) != 27 || got[0] != "default/cam00" || got[26] != "other/cam00" {
		t.Errorf("all streams: %q", got)
	}
	if got := walk(viewer, "limit=7&prefix=cam1"); len(got) != 10 {
		t.Errorf("streams with the prefix cam1: %q", got)
	}
	if got := walk(viewer, "limit=7&order=-bytes&space=other"); len(got) != 1 {
		t.Errorf("streams of the space other: %q", got)
	}
	if got := walk(viewer, "limit=3&order=-since"); len(got) != 27 || got[0] != "other/cam00" {
		t.Errorf("streams, the newest first: %q", got)
	}
	if got := walk(w.token(t, Token{Role: Viewer, Space: "other"}), "limit=3"); len(got) != 1 {
		t.Errorf("streams for the token of other: %q", got)
	}
	if got := walk(viewer, "min_players=1"); len(got) != 0 {
		t.Errorf("streams with players: %q", got)
	}

	// What goes between two pages hides nothing else.
	var p Page[StreamInfo]
	w.get(t, viewer, "/streams?limit=2", &p)
	w.Hub.Find(stream.Key{Space: "default", App: "live", Name: "cam01"}).Publication().End(stream.EndKicked)
	next := p.Next
	w.get(t, viewer, "/streams?limit=2&cursor="+next, &p)
	if p.Items[0].Stream != "cam02" {
		t.Errorf("the second page begins with %s, want cam02", p.Items[0].Stream)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/streams?order=since&cursor=" + next, token: viewer}); kindOf(rec) != kindCursor {
		t.Errorf("the cursor of another order: %d %s", rec.Code, rec.Body)
	}
}

func TestGetStream(t *testing.T) {
	w := newWorld(t)
	var d StreamInfo
	w.get(t, w.token(t, Token{Role: Viewer}), "/streams/default/live/demo", &d)
	if !d.Live || d.Node != "n1" || d.Audio == nil || d.Audio.Codec != "aac" || d.Video != nil || d.Publisher.Addr.String() != "192.0.2.7:5000" {
		t.Errorf("GET stream: %+v", d)
	}
}

func TestEndPublisher(t *testing.T) {
	w := newWorld(t)
	p := w.Hub.Find(stream.Key{Space: "default", App: "live", Name: "demo"}).Publication()
	rec := w.do(t, request{method: http.MethodDelete, path: "/streams/default/live/demo/publisher", token: w.token(t, Token{Role: Operator})})
	if rec.Code != http.StatusOK {
		t.Fatalf("DELETE publisher: %d %s", rec.Code, rec.Body)
	}
	<-p.Done()
	if p.Reason() != stream.EndKicked {
		t.Errorf("the publication ended with %v, want %v", p.Reason(), stream.EndKicked)
	}
}
