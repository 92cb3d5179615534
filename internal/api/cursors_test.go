package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
)

// put commits a cursor, and returns the status and the cursor.
func (w *world) put(t *testing.T, token, name, body string) (int, EventCursor) {
	t.Helper()
	rec := w.do(t, request{method: http.MethodPut, path: "/event-cursors/" + name, token: token, body: body})
	var c EventCursor
	if rec.Code == http.StatusOK {
		w.answers(t, rec, "PUT "+name, &c)
	}
	return rec.Code, c
}

// A reader with a name goes on where it has committed that it is, in the list and
// in the feed, and each space has names of its own.
func TestEventCursors(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w)
	defer srv.Close()
	operator, viewer := w.token(t, Token{Role: Operator}), w.token(t, Token{Role: Viewer})
	ofOther := w.token(t, Token{Role: Operator, Space: "other"})
	for i := range 3 {
		w.push("other", fmt.Sprint("cam", i), time.Now().Add(-30*time.Hour), time.Second) // which is before a list begins by itself
	}
	facts := w.facts(t, 6)
	at := func(i int) string { return fmt.Sprintf(`{"position":%d}`, facts[i].Seq) }
	listed := func(token, query string) (list []uint64) {
		t.Helper()
		for next := ""; ; {
			var p Page[Fact]
			w.get(t, token, "/events?limit=1"+query+next, &p)
			for _, f := range p.Items {
				list = append(list, f.Seq)
			}
			if p.Next == "" {
				return list
			}
			next = "&cursor=" + p.Next
		}
	}

	if code, c := w.put(t, operator, "mail", at(2)); code != 200 || c.Position != facts[2].Seq || c.Log != "facts" || c.By != "test" || c.Name != "mail" {
		t.Fatalf("a new cursor: %d %+v", code, c)
	}
	if got := listed(viewer, "&cursor_name=mail"); len(got) != 3 || got[0] != facts[3].Seq {
		t.Errorf("behind the third of %d facts there are %v", len(facts), got)
	}
	if got := listed(viewer, "&cursor_name=new"); len(got) != 0 {
		t.Errorf("by a name that nobody has committed: %v", got)
	}
	next, leave := w.feed(t, srv, viewer, "cursor_name=mail&since=2030-01-01T00:00:00Z", "")
	if m := next(); m["id"] != fmt.Sprint(facts[3].Seq) {
		t.Errorf("the feed begins with %v, want the fact %d", m, facts[3].Seq)
	}
	leave()
	next, leave = w.feed(t, srv, viewer, "cursor_name=mail", fmt.Sprint(facts[4].Seq))
	if m := next(); m["id"] != fmt.Sprint(facts[5].Seq) {
		t.Errorf("the feed goes on with %v, want the fact %d", m, facts[5].Seq)
	}
	leave()

	// It goes on only, unless it is told to go back, and not beyond what there is.
	for _, c := range []struct {
		body string
		want int
		is   uint64
	}{
		{at(1), 409, 0}, {at(2), 200, facts[2].Seq}, {at(3), 200, facts[3].Seq}, {"{}", 200, facts[3].Seq},
		{strings.Replace(at(0), "}", `,"force":true}`, 1), 200, facts[0].Seq}, {fmt.Sprintf(`{"position":%d}`, facts[5].Seq+1<<20), 422, 0},
		{`{"position":-1}`, 422, 0}, {`{"log":"crowd"}`, 409, 0}, {`{"log":"mail"}`, 422, 0},
	} {
		if code, x := w.put(t, operator, "mail", c.body); code != c.want || x.Position != c.is {
			t.Errorf("PUT %s: %d %d, want %d %d", c.body, code, x.Position, c.want, c.is)
		}
	}
	if code, x := w.put(t, operator, "now", "{}"); code != 200 || x.Position < facts[5].Seq {
		t.Errorf("a cursor without a position is at %d, and the last fact has %d: %d", x.Position, facts[5].Seq, code)
	}
	if code, _ := w.put(t, operator, "a%20b", "{}"); code != 422 {
		t.Errorf("a cursor with a blank in its name: %d", code)
	}
	if code, _ := w.put(t, viewer, "mail", "{}"); code != 403 {
		t.Errorf("a viewer commits: %d", code)
	}
	for _, path := range []string{"/events", "/events/feed"} {
		if rec := w.do(t, request{method: http.MethodGet, path: path + "?cursor_name=mail&type=play.ended", token: viewer}); rec.Code != 409 {
			t.Errorf("%s in another log: %d %s", path, rec.Code, rec.Body)
		}
	}

	// A space has its own.
	names := func(token string) (list []string) {
		t.Helper()
		var p Page[EventCursor]
		w.get(t, token, "/event-cursors", &p)
		for _, c := range p.Items {
			list = append(list, c.Name)
		}
		return list
	}
	if got := names(ofOther); len(got) != 0 {
		t.Errorf("the token of other sees %v", got)
	}
	if code, _ := w.put(t, ofOther, "mail", at(4)); code != 200 {
		t.Errorf("a cursor of other: %d", code)
	}
	var c EventCursor
	if w.get(t, viewer, "/event-cursors/mail", &c); c.Position != facts[0].Seq {
		t.Errorf("that of other has moved that of no space to %d", c.Position)
	}
	if got := listed(ofOther, "&cursor_name=mail"); len(got) != 1 || got[0] != facts[5].Seq {
		t.Errorf("facts by the cursor of other: %v", got)
	}
	if rec := w.do(t, request{method: http.MethodDelete, path: "/event-cursors/mail", token: ofOther}); rec.Code != 204 {
		t.Errorf("DELETE: %d %s", rec.Code, rec.Body)
	}
	if got := fmt.Sprint(names(ofOther), names(viewer)); got != "[] [billing mail now]" {
		t.Errorf("then there are %s", got)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/event-cursors/mail", token: ofOther}); rec.Code != 404 {
		t.Errorf("GET of one that was deleted: %d %s", rec.Code, rec.Body)
	}
	if code, _ := w.put(t, ofOther, "mail", at(1)); code != 200 {
		t.Errorf("a cursor that was deleted is made again: %d", code)
	}

	// What is committed is no fact: its reader would never come to an end.
	if e := w.facts(t, 7)[6].Event; e.Data.(event.APIWritten).Method != http.MethodDelete {
		t.Errorf("the only write that was told is %+v", e)
	}
	if n := w.Events.Stats().Emitted[event.TypeAPIWritten]; n != 1 {
		t.Errorf("%d writes were told, want 1", n)
	}
}

// No more than a number are kept of a space, and another one does not suffer.
func TestEventCursorsAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range maxCursors - 1 { // and billing
		if _, err := w.Cursors.js.Publish(t.Context(), "$KV."+cursorBucket+"."+cursorKey("", fmt.Sprint("c", i)), fmt.Appendf(nil, `{"name":"c%d","log":"facts"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	operator := w.token(t, Token{Role: Operator})
	if code, _ := w.put(t, operator, "more", "{}"); code != 409 {
		t.Errorf("one too many: %d", code)
	}
	if code, _ := w.put(t, operator, "c7", "{}"); code != 200 {
		t.Errorf("one of them: %d", code)
	}
	if code, _ := w.put(t, w.token(t, Token{Role: Operator, Space: "other"}), "more", "{}"); code != 200 {
		t.Errorf("one of another space: %d", code)
	}
}

// The place in a log that was lost, and that began again, is not one that nobody
// can leave.
func TestEventCursorOfLostLog(t *testing.T) {
	w := newWorld(t)
	operator := w.token(t, Token{Role: Operator})
	if _, err := w.Cursors.commit(t.Context(), "", EventCursor{Name: "old", Log: "facts", Position: 1 << 40}, false, false); err != nil {
		t.Fatal(err)
	}
	w.push("default", "a", time.Now(), time.Second)
	first := w.facts(t, 2)[0].Seq
	if code, c := w.put(t, operator, "old", fmt.Sprintf(`{"position":%d}`, first)); code != 200 || c.Position != first {
		t.Errorf("PUT: %d %+v, want the position %d", code, c, first)
	}
}
