package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"weir/internal/policy"
)

// TestPolicyDocuments reads, changes, loses a race, and reads history.
func TestPolicyDocuments(t *testing.T) {
	w := newWorld(t)
	admin, viewer := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Viewer})
	const path = "/policy/documents/space/fresh"
	put := func(body string, header map[string]string, want int) string {
		t.Helper()
		rec := w.do(t, request{method: http.MethodPut, path: path, token: admin, body: body, header: header})
		if rec.Code != want {
			t.Errorf("PUT %s with %v: %d %s, want %d", body, header, rec.Code, rec.Body, want)
		}
		return rec.Header().Get("ETag")
	}
	match := func(v string) map[string]string { return map[string]string{"If-Match": v} }
	first := put(`{"access_keys": [{"id": "K", "secret": "canary-of-a-document"}]}`, map[string]string{"If-None-Match": "*"}, 200)
	put(`{}`, map[string]string{"If-None-Match": "*"}, 412)
	second := put(`{"apps": [{"name": "live"}], "access_keys": [{"id": "K", "secret": "***"}]}`, match(first), 200)
	put(`{}`, match(first), 412)
	put(`{}`, match(`"x"`), 412)
	put(`{"name": "other"}`, nil, 422)
	put(`{"access_keys": [{"id": "L", "secret": "***"}]}`, nil, 422)
	put(`{"domains": [{"name": "localhost"}]}`, nil, 422) // another space has it
	put(`{"apps": [{"name": "../etc"}]}`, nil, 422)       // H52
	put(`{"apps": [{"name": "live", "hook": "/bin/sh"}]}`, nil, 422)

	rec := w.do(t, request{method: http.MethodGet, path: path, token: viewer})
	if rec.Code != 200 || rec.Header().Get("ETag") != second || strings.Contains(rec.Body.String(), "canary") || !strings.Contains(rec.Body.String(), `"hold":"5s"`) {
		t.Errorf("GET: %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	for _, sp := range w.Policy.Set().Spaces {
		if sp.Name == "fresh" && sp.AccessKeys[0].Secret.Reveal() != "canary-of-a-document" {
			t.Errorf("the secret is %q", sp.AccessKeys[0].Secret.Reveal())
		}
	}
	rec = w.do(t, request{method: http.MethodGet, path: path + "?version=" + strings.Trim(first, `"`), token: viewer})
	if rec.Code != 200 || strings.Contains(rec.Body.String(), `"live"`) {
		t.Errorf("GET of the first version: %d %s", rec.Code, rec.Body)
	}
	rec = w.do(t, request{method: http.MethodGet, path: path + "/history", token: viewer})
	var history Page[DocumentInfo]
	if err := json.Unmarshal(rec.Body.Bytes(), &history); err != nil || len(history.Items) != 2 || history.Items[0].By == "" || history.Items[1].Note != "created" {
		t.Errorf("history: %v %s", err, rec.Body)
	}
	rec = w.do(t, request{method: http.MethodDelete, path: path, token: admin, header: match(first)})
	if rec.Code != 412 {
		t.Errorf("DELETE of an old version: %d %s", rec.Code, rec.Body)
	}
	rec = w.do(t, request{method: http.MethodDelete, path: path, token: admin, header: match(second)})
	if rec.Code != 204 {
		t.Errorf("DELETE: %d %s", rec.Code, rec.Body)
	}
	for _, p := range []string{path, "/policy/documents/space/none", "/policy/documents/hook/x", "/policy/documents/space/a..%00", path + "?version=999999"} {
		if rec := w.do(t, request{method: http.MethodGet, path: p, token: viewer}); rec.Code != 404 {
			t.Errorf("GET %s: %d %s", p, rec.Code, rec.Body)
		}
	}
}

// TestApply makes the policy what a file says, or says what it would make.
func TestApply(t *testing.T) {
	w := newWorld(t)
	admin, viewer := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Viewer})
	apply := func(query, body string, want int) Applied {
		t.Helper()
		rec := w.do(t, request{method: http.MethodPost, path: "/policy/apply" + query, token: admin, body: body})
		if rec.Code != want {
			t.Fatalf("apply%s: %d %s, want %d", query, rec.Code, rec.Body, want)
		}
		var a Applied
		if want == 200 {
			if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
		} else if !strings.Contains(rec.Body.String(), `"location":"body.spaces[0].apps[0].hold"`) {
			t.Errorf("the problem is told as %s", rec.Body)
		}
		return a
	}
	before := len(w.Policy.Set().Spaces)
	const body = `{"spaces": [{"name": "fresh", "apps": [{"name": "live", "hold": "7s"}], "access_keys": [{"id": "K", "secret": "canary-of-apply"}]}]}`
	if a := apply("?dry_run=true", body, 200); len(a.Documents) != 1 || a.Documents[0].Action != "created" || len(w.Policy.Set().Spaces) != before {
		t.Errorf("dry run: %+v", a)
	}
	apply("", body, 200)
	if a := apply("", body, 200); a.Documents[0].Action != "unchanged" {
		t.Errorf("again: %+v", a)
	}
	a := apply("", strings.NewReplacer("7s", "8s", "canary-of-apply", "***").Replace(body), 200)
	if len(a.Documents) != 1 || a.Documents[0].Action != "changed" || len(a.Documents[0].Changes) != 1 || a.Documents[0].Changes[0].Path != "apps[live].hold" {
		t.Errorf("changed: %+v", a)
	}
	apply("", strings.Replace(body, "7s", "-7s", 1), 422)

	rec := w.do(t, request{method: http.MethodGet, path: "/policy", token: viewer})
	if rec.Code != 200 || strings.Contains(rec.Body.String(), "canary") || !strings.Contains(rec.Body.String(), `"hold":"8s"`) {
		t.Errorf("GET /policy: %d %s", rec.Code, rec.Body)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/policy?secrets=true", token: viewer}); rec.Code != 403 || strings.Contains(rec.Body.String(), "canary") {
		t.Errorf("secrets for a viewer: %d %s", rec.Code, rec.Body)
	}
	rec = w.do(t, request{method: http.MethodGet, path: "/policy?secrets=true", token: admin})
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), "canary-of-apply") {
		t.Errorf("secrets for an admin: %d %s", rec.Code, rec.Body)
	}
	// What is exported can be applied as it is, and then changes nothing.
	for _, d := range apply("?prune=true", rec.Body.String(), 200).Documents {
		if d.Action != "unchanged" {
			t.Errorf("applied what was exported: %+v", d)
		}
	}
	if apply("?prune=true", `{"default_space": "", "spaces": [{"name": "default"}]}`, 200); len(w.Policy.Set().Spaces) != 1 || w.Policy.Set().DefaultSpace != "" {
		t.Errorf("pruned to\n%s", policy.Encoding{}.YAML(w.Policy.Set()))
	}
}
