package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/event"
)

// TestStoreNotReached asks a node that has not reached its store yet: whose
// token it cannot know is told to come again, and not that it is wrong.
func TestStoreNotReached(t *testing.T) {
	js := newJetStream(t)
	known := NewTokens(js, 1, slog.New(slog.DiscardHandler))
	if err := known.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, remote, err := known.Create(t.Context(), Token{Name: "remote", Role: Admin})
	if err != nil {
		t.Fatal(err)
	}
	tokens := NewTokens(js, 1, slog.New(slog.DiscardHandler))
	file := filepath.Join(t.TempDir(), "token")
	if err := tokens.Local(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	local := strings.TrimSpace(string(text))
	w := newWorld(t, func(o *Options) { o.Tokens = tokens })
	ask := func(token, method, path string, body any, want int, wantKind kind) {
		t.Helper()
		began := time.Now()
		rec := w.do(t, request{method: method, path: path, token: token, body: body})
		if rec.Code != want || kindOf(rec) != wantKind {
			t.Errorf("%s %s: %d %s, want %d %s", method, path, rec.Code, rec.Body, want, wantKind)
		}
		if after, err := strconv.Atoi(rec.Header().Get("Retry-After")); want == 503 && (err != nil || after < 1 || after > 60) {
			t.Errorf("%s %s: Retry-After is %q", method, path, rec.Header().Get("Retry-After"))
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("%s %s took %v", method, path, d)
		}
	}
	for range 2 * failBurst { // it is no failure of the client's
		ask(remote, "GET", "/streams", nil, 503, kindUnavailable)
	}
	ask("", "GET", "/streams", nil, 401, kindToken)
	ask(local, "GET", "/streams", nil, 200, "")
	ask(local, "GET", "/self", nil, 200, "")
	// What the store has is not said to be nothing, nor to be done.
	ask(local, "GET", "/tokens", nil, 503, kindUnavailable)
	ask(local, "POST", "/tokens", map[string]any{"name": "x", "role": "viewer"}, 503, kindUnavailable)
	ask(local, "DELETE", "/tokens/"+remote[len(tokenPrefix):len(tokenPrefix)+idLength], nil, 503, kindUnavailable)

	// Then it is reached.
	if err := tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask(remote, "GET", "/streams", nil, 200, "")
	ask(remote[:len(remote)-1]+"!", "GET", "/streams", nil, 401, kindToken)
	ask(local, "GET", "/tokens", nil, 200, "")
}

// TestAway calls every endpoint while JetStream is away: whatever needs it says
// 503 and when to come again, and all else works on.
func TestAway(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	w.nats.Stop()
	works := map[string]bool{
		"listStreams": true, "getStream": true, "getTimeline": true, "endPublisher": true, "endPlayers": true, "listSessions": true, "endSession": true,
		"getPolicy": true, "listSpaces": true, "listApps": true, "getApp": true, "listDomains": true, "getDomain": true, "listPolicyDocuments": true, "getPolicyGeneral": true,
		"listForbidden": true, "checkForbidden": true, "signURL": true, "verifyURL": true, "listNodes": true, "getConfig": true, "whoAmI": true, "listTokens": true,
		"listAlerts": true, "listRecordings": true, "getRecordingURL": true,
	}
	needs := map[string]bool{
		"listEvents": true, "listPushes": true, "listFailedPushes": true, "listDurations": true, "getStatistics": true, "createToken": true,
		"putApp": true, "putDomain": true, "createAccessKey": true, "putPolicyDocument": true, "policyGeneralHistory": true, "forbidStream": true, "applyPolicy": true,
	}
	var all sync.WaitGroup
	list := endpoints(w.Server)
	slices.SortStableFunc(list, func(a, b endpoint) int { return cmp.Compare(len(a.method), len(b.method)) }) // GET, before anything is ended
	for i, e := range list {
		if i > 0 && e.method != list[i-1].method {
			all.Wait()
		}
		if e.op.OperationID == "followEvents" {
			continue // it waits for the log to come back
		}
		path, body := e.url(t), e.body(t)
		if strings.Contains(path, "/policy/documents/space/other") && e.method == http.MethodPut {
			body = map[string]any{"apps": []any{map[string]any{"name": "changed"}}}
		}
		if e.op.OperationID == "applyPolicy" {
			body = map[string]any{"spaces": []any{map[string]any{"name": "fresh"}}}
		}
		if e.op.OperationID == "putApp" || e.op.OperationID == "putDomain" {
			path += "-new"
		}
		all.Go(func() {
			began := time.Now()
			rec := w.do(t, request{method: e.method, path: path, token: admin, body: body})
			id := e.op.OperationID
			if after, err := strconv.Atoi(rec.Header().Get("Retry-After")); rec.Code == 503 && (kindOf(rec) != kindUnavailable || err != nil || after < 1) {
				t.Errorf("%s: %v %s", id, rec.Header(), rec.Body)
			}
			switch {
			case works[id] && rec.Code/100 != 2, needs[id] && rec.Code != 503, rec.Code == 500:
				t.Errorf("%s: %d %s", id, rec.Code, rec.Body)
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("%s took %v", id, d)
			}
		})
	}
	all.Wait()
}

// TestSearchGoesOn looks for what is not found in the time of a request: the
// page is empty, and its cursor goes on from there.
func TestSearchGoesOn(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	w.push("default", "needle", now.Add(-time.Minute), time.Second)
	w.facts(t, 2)
	refused := event.New(now, event.PublishRefused{Reason: "auth_failed"})
	refused.Space, refused.App, refused.Stream = "default", "live", "needle"
	w.Events.Emit(refused)
	w.facts(t, 1, event.TypePublishRefused)
	viewer := w.token(t, Token{Role: Viewer})
	for _, path := range []string{"/events?stream=needle&limit=5", "/history/pushes?stream=needle", "/history/failed-pushes?stream=needle"} {
		w.scanTime = time.Nanosecond
		var p Page[any]
		w.get(t, viewer, path, &p)
		if len(p.Items) != 0 || p.Next == "" {
			t.Errorf("GET %s in no time: %+v", path, p)
		}
		w.scanTime = scanTime
		found := 0
		for p.Next != "" {
			next := p.Next
			p = Page[any]{}
			w.get(t, viewer, path+"&cursor="+url.QueryEscape(next), &p)
			found += len(p.Items)
		}
		if found == 0 {
			t.Errorf("GET %s finds nothing on the pages that follow", path)
		}
	}
	// What goes on is there at once, and only once.
	w.scanTime = time.Nanosecond
	var first, rest Durations
	w.get(t, viewer, "/history/durations", &first)
	if len(first.Items) != 1 || first.Items[0].Stream != "demo" || first.Next == "" {
		t.Errorf("durations in no time: %+v", first)
	}
	w.scanTime = scanTime
	w.get(t, viewer, "/history/durations?cursor="+url.QueryEscape(first.Next), &rest)
	if len(rest.Items) != 1 || rest.Items[0].Stream != "needle" || rest.Items[0].Live || rest.Next != "" || !rest.Since.Equal(first.Since) || !rest.Until.Equal(first.Until) {
		t.Errorf("durations on the page that follows: %+v", rest)
	}
}
