package api

import (
	"strings"
	"testing"
)

// B.113: recordings of two spaces are never in one place, and where an app that does
// not record would have its own, nobody who has rights in its space alone finds
// those of another.
func TestPlacesOfTwoSpaces(t *testing.T) {
	w := newWorld(t)
	all, one, own := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Operator, Space: "other"}), w.token(t, Token{Role: Operator, Space: "default"})
	const file = "/demo-1764193275-1764193335.mp4"
	for i, x := range []struct {
		token, method, path, body string
		want                      int
		says                      string
	}{
		{all, "PUT", "/spaces/other/apps/live", `{"record":{"mode":"request"}}`, 422, "record.prefix"},
		{all, "PUT", "/spaces/other/apps/live", `{}`, 200, ""},
		{one, "GET", "/recordings/other/live/demo", "", 409, "record.prefix"},
		{one, "DELETE", "/recordings/other/live/demo" + file, "", 409, ""},
		{one, "GET", "/recordings/other/live/demo" + file + "/url", "", 409, ""},
		{one, "GET", "/clips/other/live/demo", "", 409, ""},
		{one, "DELETE", "/clips/other/live/demo/goal", "", 409, ""},
		{own, "GET", "/recordings/default/live/demo", "", 200, file[1:]},
		{own, "GET", "/clips/default/live/demo", "", 200, "goal"},
		{all, "GET", "/recordings/other/live/demo", "", 200, file[1:]},
		{all, "PUT", "/spaces/other/apps/live", `{"record":{"prefix":"other"}}`, 200, ""},
		{one, "GET", "/recordings/other/live/demo", "", 200, `"items":[]`},
	} {
		var body any
		if x.body != "" {
			body = x.body
		}
		if code, _, text := w.send(t, x.token, x.method, x.path, body); code != x.want || !strings.Contains(text, x.says) {
			t.Errorf("%d: %s %s %s: %d %s", i, x.method, x.path, x.body, code, text)
		}
	}
}
