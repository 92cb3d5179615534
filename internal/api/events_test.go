package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weir/internal/event"
)

// push emits the facts of a push that began at a time and lasted so long.
func (w *world) push(space, name string, at time.Time, d time.Duration) string {
	client := event.Client{
		Domain: "localhost", Protocol: "rtmp", Addr: netip.MustParseAddrPort("192.0.2.7:5000"),
		Params: []event.Param{{Name: "k", Value: "topsecret"}}, TcURL: "rtmp://localhost/live?k=topsecret",
	}
	seq := event.NewSequence()
	for _, e := range []event.Event{
		event.New(at, event.PublishStarted{Client: client, Session: "1", Callback: &event.Callback{URL: "http://example.com/?p=topsecret"}}),
		event.New(at.Add(d), event.PublishEnded{Client: client, Session: "1", Started: at, Reason: "closed", Counters: event.Counters{Bytes: 1000, VideoCodec: "h264"}}),
	} {
		e.Space, e.App, e.Stream, e.Sequence = space, "live", name, seq
		w.Events.Emit(e)
	}
	return seq
}

// early is who is answered, and looks at the log when the answer begins.
type early struct {
	*httptest.ResponseRecorder
	head func()
}

func (e early) WriteHeader(status int) {
	e.head()
	e.ResponseRecorder.WriteHeader(status)
}

// The fact of a write is on disk before the first byte of the answer that says
// that it is done: whoever kills the server then finds it in the log.
func TestWrittenIsDurable(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	const most = 5
	for i := range most {
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8081"+Prefix+"/spaces/default/access-keys", strings.NewReader("{}"))
		r.RemoteAddr = "127.0.0.1:40000"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+admin)
		heads := 0
		rec := early{httptest.NewRecorder(), func() {
			heads++
			if n := w.Events.Stats().Emitted[event.TypeAPIWritten]; n != int64(i+1) {
				t.Errorf("when write %d is answered, %d facts api.written are there", i+1, n)
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel() // and so Flush does not wait
			if err := w.Events.Flush(gone); err != nil {
				t.Errorf("when write %d is answered, its fact is not durable: %v", i+1, err)
			}
		}}
		w.ServeHTTP(rec, r)
		if rec.Code >= 300 || heads != 1 {
			t.Fatalf("%d %s, %d heads", rec.Code, rec.Body, heads)
		}
	}
	if last := w.facts(t, most, event.TypeAPIWritten)[most-1].Event.Data.(event.APIWritten); last.Status != http.StatusCreated {
		t.Errorf("the last fact is %+v", last)
	}
}

// The attempts to tell of facts, which callbacks keep in a log of their own, are
// listed and followed as other facts are.
func TestAttemptsAreEvents(t *testing.T) {
	w := newWorld(t)
	viewer, other := w.token(t, Token{Role: Viewer}), w.token(t, Token{Role: Viewer, Space: "other"})
	nc, err := nats.Connect("", nats.InProcessServer(w.nats))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	attempts := func(space string, from, n int) { // as callbacks write them: one, or an array
		t.Helper()
		list := make([]event.Event, n)
		for i := range list {
			list[i] = event.New(time.Now(), event.CallbackAttempted{Of: "x", Attempt: from + i, URL: "http://owner.example.com/cb", Outcome: "retry"})
			list[i].Space, list[i].App, list[i].Stream = space, "live", "demo"
		}
		text, err := json.Marshal(list)
		if n == 1 {
			text, err = json.Marshal(list[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Request("callbacks.attempt."+space+".00.00", text, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	attempts("default", 1, 1)
	attempts("default", 2, 3)
	attempts("other", 9, 1)
	seen := func(token, query string) (list []int) {
		t.Helper()
		for next := ""; ; {
			var p Page[Fact]
			w.get(t, token, "/events?type=callback.attempted&limit=2"+query+next, &p)
			for _, f := range p.Items {
				list = append(list, f.Event.Data.(event.CallbackAttempted).Attempt)
			}
			if p.Next == "" {
				return list
			}
			next = "&cursor=" + url.QueryEscape(p.Next)
		}
	}
	for _, c := range []struct {
		token, query string
		want         []int
	}{{viewer, "", []int{1, 2, 3, 4, 9}}, {viewer, "&space=default", []int{1, 2, 3, 4}}, {other, "", []int{9}}, {other, "&space=default", nil}} {
		if got := seen(c.token, c.query); !slices.Equal(got, c.want) {
			t.Errorf("attempts of %q are %v, want %v", c.query, got, c.want)
		}
	}
	if rec := w.do(t, request{method: "GET", path: "/events?type=callback.attempted,publish.started", token: viewer}); rec.Code != 422 {
		t.Errorf("two logs at once: %d %s", rec.Code, rec.Body)
	}

	srv := httptest.NewServer(w)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+Prefix+"/events/feed?type=callback.attempted", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+viewer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // it follows: what comes now is new
	attempts("default", 10, 2)
	var got []int
	for len(got) < 2 && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var e event.Event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Data.(event.CallbackAttempted).Attempt)
		}
	}
	if !slices.Equal(got, []int{10, 11}) {
		t.Errorf("the feed has %v, want the attempts 10 and 11", got)
	}
}

func TestListEvents(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	for i := range 10 {
		w.push("default", fmt.Sprintf("cam%d", i), now.Add(-time.Duration(20-i)*time.Minute), time.Minute)
	}
	w.push("other", "cam0", now.Add(-time.Hour), time.Minute)
	w.facts(t, 22)
	viewer := w.token(t, Token{Role: Viewer})
	walk := func(token, query string) []Fact {
		t.Helper()
		var list []Fact
		for cursor := ""; ; {
			var p Page[Fact]
			w.get(t, token, "/events?"+query+"&cursor="+url.QueryEscape(cursor), &p)
			list = append(list, p.Items...)
			if cursor = p.Next; cursor == "" {
				return list
			}
		}
	}
	if got := walk(viewer, "limit=3"); len(got) != 22 || got[0].Event.Stream != "cam0" || got[0].Event.Type != event.TypePublishStarted {
		t.Errorf("all facts: %d", len(got))
	}
	if got := walk(viewer, "limit=2&type=publish.ended&space=default"); len(got) != 10 {
		t.Errorf("ends in default: %d", len(got))
	}
	if got := walk(viewer, "limit=2&stream=cam3"); len(got) != 2 {
		t.Errorf("facts of cam3: %d", len(got))
	}
	if got := walk(w.token(t, Token{Role: Viewer, Space: "other"}), "limit=1"); len(got) != 2 || got[0].Event.Space != "other" {
		t.Errorf("facts for the token of other: %+v", got)
	}
	if got := walk(w.token(t, Token{Role: Viewer, Space: "other"}), "space=default"); len(got) != 0 {
		t.Errorf("facts of default for the token of other: %+v", got)
	}
	at := func(d time.Duration) string { return url.QueryEscape(now.Add(d).Format(time.RFC3339Nano)) }
	if got := walk(viewer, "limit=2&type=publish.started&since="+at(-15*time.Minute)+"&until="+at(-13*time.Minute)); len(got) != 2 {
		t.Errorf("beginnings of two minutes: %d", len(got))
	}
	rec := w.do(t, request{method: http.MethodGet, path: "/events", token: viewer})
	if strings.Contains(rec.Body.String(), "topsecret") {
		t.Error("the facts have a secret in them")
	}
	for query, kind := range map[string]kind{
		"type=frob": kindInvalid, "type=publish.ended,publish.refused": kindInvalid, "cursor=frob": kindCursor,
		"since=yesterday": kindInvalid, "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z": kindInvalid,
	} {
		if rec := w.do(t, request{method: http.MethodGet, path: "/events?" + query, token: viewer}); kindOf(rec) != kind {
			t.Errorf("GET /events?%s: %d %s", query, rec.Code, rec.Body)
		}
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	w.push("default", "a", now.Add(-40*time.Minute), 30*time.Minute)
	w.push("default", "a", now.Add(-5*time.Minute), time.Minute)
	w.push("other", "a", now.Add(-5*time.Minute), time.Minute)
	refused := event.New(now, event.PublishRefused{Client: event.Client{Domain: "x"}, Reason: "auth_failed", Code: 5, Message: "Authentication Failed"})
	refused.Space, refused.App, refused.Stream = "default", "live", "a"
	w.Events.Emit(refused)
	w.facts(t, 6)
	w.facts(t, 1, event.TypePublishRefused)
	viewer := w.token(t, Token{Role: Viewer})

	var pushes Page[PushInfo]
	w.get(t, viewer, "/history/pushes?space=default", &pushes)
	if n := len(pushes.Items); n != 2 || pushes.Items[0].Seconds != 1800 || pushes.Items[0].Brought.Bytes != 1000 || pushes.Items[1].Reason != "closed" {
		t.Errorf("pushes: %+v", pushes.Items)
	}
	var failed Page[FailedPush]
	w.get(t, viewer, "/history/failed-pushes", &failed)
	if len(failed.Items) != 1 || failed.Items[0].Reason != "auth_failed" || failed.Items[0].Code != 5 {
		t.Errorf("failed pushes: %+v", failed.Items)
	}
	var sums Durations
	w.get(t, viewer, "/history/durations?space=default&since="+url.QueryEscape(now.Add(-20*time.Minute).Format(time.RFC3339Nano)), &sums)
	if len(sums.Items) != 2 || sums.Items[0].Stream != "a" || sums.Items[0].Pushes != 2 || sums.Items[0].Seconds < 659 || sums.Items[0].Seconds > 661 ||
		!sums.Items[1].Live || sums.Items[1].Stream != "demo" {
		t.Errorf("durations: %+v", sums.Items)
	}
}

// TestDurationsByPages adds up the sums of pages of every size: they are those of
// one page, however the pushes of a stream lie between those of others.
func TestDurationsByPages(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	for i := range 40 {
		w.push("default", fmt.Sprintf("cam%d", i*i%7), now.Add(-time.Hour+time.Duration(i)*time.Minute), time.Duration(i+1)*time.Second)
	}
	w.publish(t, "default", "cam1")
	w.publish(t, "default", "cam9")
	w.publish(t, "other", "cam1")
	w.facts(t, 80)
	viewer := w.token(t, Token{Role: Viewer})
	w.unlimited()
	walk := func(query string) (pages int, sums map[string]Duration) {
		t.Helper()
		sums = map[string]Duration{}
		for cursor := ""; ; {
			var p Durations
			w.get(t, viewer, "/history/durations?"+query+"&cursor="+url.QueryEscape(cursor), &p)
			pages++
			for _, d := range p.Items {
				sum := sums[d.Space+"/"+d.Stream]
				sums[d.Space+"/"+d.Stream] = Duration{Seconds: sum.Seconds + d.Seconds, Pushes: sum.Pushes + d.Pushes, Live: sum.Live || d.Live}
			}
			if cursor = p.Next; cursor == "" {
				return pages, sums
			}
		}
	}
	n, want := walk("space=default")
	if n != 1 || len(want) != 6 || want["default/cam1"].Pushes != 1+11 || !want["default/cam1"].Live || want["default/cam2"].Live || want["default/cam9"].Pushes != 1 {
		t.Fatalf("on %d pages: %+v", n, want)
	}
	for limit := 1; limit < 6; limit++ {
		n, got := walk(fmt.Sprintf("space=default&limit=%d", limit))
		if n < 2 || len(got) != len(want) {
			t.Errorf("on %d pages of %d: %+v", n, limit, got)
		}
		for name, d := range want {
			if g := got[name]; g.Pushes != d.Pushes || g.Live != d.Live || !d.Live && g.Seconds != d.Seconds {
				t.Errorf("%s by pages of %d: %+v, want %+v", name, limit, g, d)
			}
		}
	}
}

// follow opens a feed and returns what reads its next message: its fields, or
// nil at the end.
func (w *world) feed(t *testing.T, srv *httptest.Server, token, query, last string) (next func() map[string]string, leave func()) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+Prefix+"/events/feed?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("feed: %s %v", resp.Status, resp.Header)
	}
	r := bufio.NewScanner(resp.Body)
	return func() map[string]string {
		m := map[string]string{}
		for r.Scan() {
			if r.Text() == "" {
				if len(m) > 0 && m["retry"] == "" {
					return m
				}
				clear(m)
				continue
			}
			k, v, _ := strings.Cut(r.Text(), ": ")
			m[k] = v
		}
		return nil
	}, func() { resp.Body.Close() }
}

func TestFollowEvents(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w)
	defer srv.Close()
	viewer := w.token(t, Token{Role: Viewer})
	next, leave := w.feed(t, srv, viewer, "type=publish.ended&space=default", "")
	w.push("other", "x", time.Now(), time.Second)
	w.push("default", "a", time.Now(), time.Second)
	w.push("default", "b", time.Now(), time.Second)
	first := next()
	var e event.Event
	if err := json.Unmarshal([]byte(first["data"]), &e); err != nil || e.Stream != "a" || first["event"] != "publish.ended" || strings.Contains(first["data"], "topsecret") {
		t.Errorf("the first message: %v %v", first, err)
	}
	leave()

	// Who comes back with the last id goes on behind it.
	next, leave = w.feed(t, srv, viewer, "type=publish.ended&space=default", first["id"])
	if m := next(); !strings.Contains(m["data"], `"stream":"b"`) {
		t.Errorf("after the return: %v", m)
	}
	leave()

	// A token of another space sees nothing of this one.
	next, leave = w.feed(t, srv, w.token(t, Token{Role: Viewer, Space: "other"}), "", "1")
	if m := next(); !strings.Contains(m["data"], `"space":"other"`) {
		t.Errorf("the feed of other: %v", m)
	}
	leave()

	// A feed ends with its token.
	tok, text, err := w.Tokens.Create(t.Context(), Token{Name: "short", Role: Viewer})
	if err != nil {
		t.Fatal(err)
	}
	next, leave = w.feed(t, srv, text, "type=publish.ended", first["id"])
	next()
	if err := w.Tokens.Revoke(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	w.push("default", "c", time.Now(), time.Second)
	if m := next(); m != nil {
		t.Errorf("after the token was revoked: %v", m)
	}
	leave()
}

func TestFeedsAreBounded(t *testing.T) {
	var f feeds
	for i := range maxFeeds {
		if !f.enter(fmt.Sprint(i % (maxFeeds / maxOwnFeeds))) {
			t.Fatalf("feed %d is refused", i)
		}
	}
	if f.enter("z") {
		t.Error("one feed too many is let in")
	}
	f.leave("0")
	if f.enter("1") {
		t.Error("one feed too many of a token is let in")
	}
	if !f.enter("z") {
		t.Error("a feed is refused although another has ended")
	}
}

// TestRecordedFiles lists what came of recordings.
func TestRecordedFiles(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	for i, data := range []event.Data{
		event.RecordStarted{Recording: event.Recording{Task: "t1", Format: "hls", Start: now.Add(-2 * time.Minute)}},
		event.RecordFinished{
			Recording: event.Recording{Task: "t1", Format: "hls", Bucket: "b", Key: "k", Start: now.Add(-2 * time.Minute), End: now.Add(-time.Minute), Callback: &event.Callback{URL: "http://x/?p=topsecret"}},
			Duration:  time.Minute, Size: 1000, Pushes: []string{"p1"},
		},
		event.RecordFailed{Recording: event.Recording{Task: "t2", Format: "mp4"}, Errnum: 1, Errmsg: "no room"},
	} {
		e := event.New(now.Add(time.Duration(i-10)*time.Second), data)
		e.Space, e.App, e.Stream = "default", "live", "a"
		w.Events.Emit(e)
	}
	w.facts(t, 3)
	viewer := w.token(t, Token{Role: Viewer})
	var p Page[RecordedFile]
	w.get(t, viewer, "/history/recordings?space=default", &p)
	if len(p.Items) != 2 || p.Items[0].State != "finished" || p.Items[0].Seconds != 60 || p.Items[0].Key != "k" || p.Items[0].Pushes[0] != "p1" ||
		p.Items[1].State != "failed" || p.Items[1].Error != "no room" || p.Items[1].Task != "t2" {
		t.Errorf("recordings: %+v", p.Items)
	}
	for query, want := range map[string]int{"state=failed": 1, "state=finished": 1, "stream=b": 0, "limit=1": 1} {
		p = Page[RecordedFile]{}
		w.get(t, viewer, "/history/recordings?"+query, &p)
		if len(p.Items) != want {
			t.Errorf("recordings with %s: %+v", query, p.Items)
		}
	}
	p = Page[RecordedFile]{}
	w.get(t, w.token(t, Token{Role: Viewer, Space: "other"}), "/history/recordings", &p)
	if len(p.Items) != 0 {
		t.Errorf("recordings for the token of another space: %+v", p.Items)
	}
}
