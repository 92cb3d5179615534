package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"weir/internal/event"
)

// A clip is asked for once by name, and what is wrong with a request is told by
// the field.
func TestCreateClip(t *testing.T) {
	w := newWorld(t)
	operator := w.token(t, Token{Role: Operator, Space: "default"})
	post := func(body string) (ClipInfo, int, kind, string) {
		t.Helper()
		rec := w.do(t, request{method: http.MethodPost, path: "/clips/default/live/demo", token: operator, body: body})
		var c ClipInfo
		if rec.Code == http.StatusCreated {
			if err := json.Unmarshal(rec.Body.Bytes(), &c); err != nil {
				t.Fatal(err)
			}
		}
		return c, rec.Code, kindOf(rec), rec.Body.String()
	}
	const request1 = `{"name": "save", "recording": "demo-1764193275-1764193335.m3u8", "format": "hls", "start": "0.5"}`
	first, code, _, text := post(request1)
	if code != http.StatusCreated || first.Name != "save" || first.Task == "" || first.Recording != "a" || first.From != 0.5 || first.To != 2 {
		t.Fatalf("%d %s", code, text)
	}
	for _, c := range []struct {
		body string
		code int
		kind kind
		text string
	}{
		{`{"name": "goal"}`, 409, kindConflict, "another clip of that name"},
		{`{"name": "../x"}`, 422, kindInvalid, "body.name"},
		{`{"start": "soon"}`, 422, kindInvalid, "body.start"},
		{`{"end": "10s"}`, 422, kindInvalid, "body.end"},
		{`{"start": "2", "end": "1"}`, 422, kindInvalid, "no media there"},
		{`{"start": "100"}`, 422, kindInvalid, "no media there"},
		{`{"format": "hls", "exact": true}`, 422, kindInvalid, "body.exact"},
		{`{"exact": true}`, 503, kindUnavailable, "there is no ffmpeg"},
		{`{"format": "flv"}`, 422, kindInvalid, "body.format"},
		{`{"callback": true}`, 422, kindInvalid, "body.callback"},
		{`{"recording": "demo-1-2.m3u8"}`, 404, kindNotFound, "demo-1-2.m3u8"},
		{`{"recording": "/etc/passwd"}`, 404, kindNotFound, "recording"},
		{`{"start": "2001-01-01T00:00:00Z"}`, 404, kindNotFound, "recording"},
	} {
		if _, code, kind, text := post(c.body); code != c.code || kind != c.kind || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s, want %d %s with %q", c.body, code, text, c.code, c.kind, c.text)
		}
	}

	// What the world has for a segment is none: the clip says so.
	w.facts(t, 1, event.TypeClipFailed)
	var list Page[ClipInfo]
	w.get(t, operator, "/clips/default/live/demo", &list)
	if len(list.Items) != 2 || list.Items[0].Name != "goal" && list.Items[1].Name != "goal" {
		t.Errorf("clips %+v", list)
	}
	var unfinished Page[ClipInfo]
	w.get(t, operator, "/clips", &unfinished)
	if len(unfinished.Items) != 1 || unfinished.Items[0].State != "failed" || unfinished.Items[0].Error == "" || unfinished.Items[0].Node != "n1" {
		t.Errorf("unfinished %+v", unfinished)
	}
	w.get(t, w.token(t, Token{Role: Viewer, Space: "other"}), "/clips", &unfinished)
	if len(unfinished.Items) != 0 {
		t.Errorf("clips of another space: %+v", unfinished)
	}
	for range 2 {
		if rec := w.do(t, request{method: http.MethodDelete, path: "/clips/default/live/demo/save", token: operator}); rec.Code != http.StatusNoContent {
			t.Errorf("delete: %d %s", rec.Code, rec.Body)
		}
	}
	for _, path := range []string{"/clips/default/live/demo/save", "/clips/default/live/demo/save/url"} {
		if rec := w.do(t, request{method: http.MethodGet, path: path, token: operator}); rec.Code != http.StatusNotFound || kindOf(rec) != kindNotFound {
			t.Errorf("GET %s: %d %s", path, rec.Code, rec.Body)
		}
	}
}
