package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
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
	// Who has seen an older policy changes nothing, whatever document it was that has changed.
	match := func(query, body, etag string) (int, string, Applied) {
		t.Helper()
		rec := w.do(t, request{method: http.MethodPost, path: "/policy/apply" + query, token: admin, body: body, header: map[string]string{"If-Match": etag}})
		var a Applied
		if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		return rec.Code, rec.Header().Get("ETag"), a
	}
	whole := rec.Header().Get("ETag")
	if whole != `"`+rec.Header().Get("Weir-Policy-Version")+`"` || whole == `"0"` {
		t.Errorf("the version of the policy is %s, %s", whole, rec.Header().Get("Weir-Policy-Version"))
	}
	const second = `{"spaces": [{"name": "second"}]}`
	code, next, _ := match("", second, whole)
	if code != 200 || next == whole {
		t.Errorf("with the version that was read: %d, %s after %s", code, next, whole)
	}
	for _, query := range []string{"", "?dry_run=true"} {
		for _, old := range []string{whole, `"999999"`, "x", `"0"`} {
			if code, _, _ := match(query, body, old); code != 412 {
				t.Errorf("apply%s with If-Match: %s: %d, want 412", query, old, code)
			}
		}
	}
	if s := w.Policy.Set(); len(s.Spaces) != before+2 {
		t.Errorf("there are %d spaces", len(s.Spaces))
	}
	code, dry, a := match("?dry_run=true", body, next)
	if code != 200 || dry != next || etag(a.Version) != next {
		t.Errorf("a dry run says %d, %s, %d, want the version %s", code, dry, a.Version, next)
	}
	if code, again, _ := match("", second, next); code != 200 || again != next {
		t.Errorf("what changes nothing says %d, %s, want the version %s", code, again, next)
	}
	rec = w.do(t, request{method: http.MethodGet, path: "/policy?secrets=true", token: admin})

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

// TestTwoWritersRace has two write the same version at the same time: one is
// told that it was slower, every time, and nothing of it is there.
func TestTwoWritersRace(t *testing.T) {
	w := newWorld(t)
	var tokens [2]string
	for i := range tokens {
		tokens[i] = w.token(t, Token{Name: fmt.Sprint("writer", i), Role: Admin})
	}
	for _, path := range []string{"/policy/documents/space/other", "/spaces/other/apps/live", "/policy/documents/general"} {
		wins := [2]int{}
		for round := range 10 {
			before := w.do(t, request{method: http.MethodGet, path: path, token: tokens[0]}).Header().Get("ETag")
			var codes [2]int
			var etags, answers [2]string
			begin := make(chan struct{})
			var both sync.WaitGroup
			for i := range tokens {
				body := fmt.Sprintf(`{"apps": [{"name": "live", "hold": "%dms"}], "domains": [{"name": "other.example"}]}`, 1+2*round+i)
				switch path {
				case "/spaces/other/apps/live":
					body = fmt.Sprintf(`{"hold": "%dms"}`, 100+2*round+i)
				case "/policy/documents/general":
					body = fmt.Sprintf(`{"default_space": %q}`, []string{"default", "other", ""}[(round+i)%3])
				}
				both.Go(func() {
					<-begin
					codes[i], etags[i], answers[i] = w.send(t, tokens[i], "PUT", path, body, "If-Match", before)
				})
			}
			close(begin)
			both.Wait()
			winner := 0
			if codes[0] != 200 {
				winner = 1
			}
			if codes[winner] != 200 || codes[1-winner] != 412 {
				// Who writes what is there already has nothing to lose.
				if path == "/policy/documents/general" && codes == [2]int{200, 200} {
					continue
				}
				t.Fatalf("%s, round %d: %v %v", path, round, codes, answers)
			}
			wins[winner]++
			rec := w.do(t, request{method: http.MethodGet, path: path, token: tokens[0]})
			if rec.Body.String() != answers[winner] || rec.Header().Get("ETag") != etags[winner] {
				t.Fatalf("%s, round %d: in force is %s %s, written was %s %s", path, round, rec.Header().Get("ETag"), rec.Body, etags[winner], answers[winner])
			}
			if !strings.Contains(answers[1-winner], "precondition") {
				t.Errorf("the loser is told %s", answers[1-winner])
			}
		}
		t.Logf("%s: wins %v", path, wins)
	}

	// Who says nothing of versions loses nothing of what others do meanwhile.
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			if code, _, text := w.send(t, tokens[i%2], "PUT", fmt.Sprintf("/spaces/default/apps/app%d", i), `{}`); code != 200 {
				t.Errorf("PUT app%d: %d %s", i, code, text)
			}
		})
	}
	all.Wait()
	for i := range 16 {
		if w.Policy.Set().Space("default").App(fmt.Sprint("app", i)) == nil {
			t.Errorf("app%d is lost", i)
		}
	}
}

// TestBadDocuments changes nothing: no version, no fact, no byte.
func TestBadDocuments(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	w.unlimited()
	state := func() string {
		t.Helper()
		var docs Page[DocumentInfo]
		w.get(t, admin, "/policy/documents", &docs)
		policy := w.do(t, request{method: http.MethodGet, path: "/policy?secrets=true", token: admin}).Body.String()
		return fmt.Sprint(docs, policy, w.Policy.Health().Version)
	}
	before := state()
	long := strings.Repeat("x", 200)
	for _, bad := range []struct{ method, path, body string }{
		{"PUT", "/policy/documents/space/default", `{"apps": [{"name": "live", "hold": "2h"}]}`},
		{"PUT", "/policy/documents/space/default", `{"apps": [{"name": "live"}, {"name": "live"}]}`},
		{"PUT", "/policy/documents/space/default", `{"apps": [{"name": "` + long + `"}]}`},
		{"PUT", "/policy/documents/space/default", `{"domains": [{"name": "other.example"}]}`},
		{"PUT", "/policy/documents/space/default", `{"domains": [{"name": "a b"}]}`},
		{"PUT", "/policy/documents/space/default", `{"frob": 1}`},
		{"PUT", "/policy/documents/space/default", `{"apps": {}}`},
		{"PUT", "/policy/documents/space/default", `{`},
		{"PUT", "/policy/documents/space/fresh", `{"access_keys": [{"id": "K"}]}`},
		{"PUT", "/policy/documents/space/fresh", `{"access_keys": [{"id": "K", "secret": "***"}]}`},
		{"PUT", "/policy/documents/space/..", `{}`},
		{"PUT", "/policy/documents/frob/x", `{}`},
		{"PUT", "/policy/documents/general", `{"default_space": "none"}`},
		{"PUT", "/policy/documents/bucket/b", `{"type": "directory", "path": "/etc"}`},
		{"POST", "/policy/apply", `{"spaces": [{"name": "fresh"}, {"name": "worse", "apps": [{"name": "live", "hold": "-1s"}]}]}`},
		{"POST", "/policy/apply?prune=true", `{"default_space": "none", "spaces": [{"name": "fresh"}]}`},
		{"POST", "/policy/apply?dry_run=true", `{"spaces": [{"name": "fresh"}]}`},
		{"PUT", "/spaces/default/apps/live", `{"hold": "2h"}`},
		{"PUT", "/spaces/default/domains/other.example", `{}`},
		{"PUT", "/spaces/default/domains/localhost/publish/ip", `{"allow": ["10.0.0.0/33"]}`},
		{"POST", "/spaces/default/access-keys", `{"id": "a/b"}`},
		{"PUT", "/spaces/default/access-keys/none", `{"disabled": true}`},
		{"DELETE", "/policy/documents/space/none", ``},
	} {
		var body any
		if bad.body != "" {
			body = bad.body
		}
		code, _, text := w.send(t, admin, bad.method, bad.path, body)
		if code < 400 && !strings.Contains(bad.path, "dry_run") && bad.method != "DELETE" || code >= 500 {
			t.Errorf("%s %s %.100s: %d %s", bad.method, bad.path, bad.body, code, text)
		}
		if now := state(); now != before {
			t.Fatalf("%s %s %.100s: %d, and changed the policy to\n%s", bad.method, bad.path, bad.body, code, now)
		}
	}
	// A problem with another document is told by its name, not by a number in no file.
	_, _, text := w.send(t, admin, "PUT", "/policy/documents/space/fresh", `{"domains": [{"name": "localhost"}]}`)
	if strings.Contains(text, "spaces[") || !strings.Contains(text, "space/") {
		t.Errorf("a name that another space has: %s", text)
	}
}

// H73: by the API nobody says what is run, what is read or written on this
// machine, or where its log goes: there are no such settings, and those that
// name objects take plain names.
func TestNotSettable(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	w.unlimited()
	before := string(policy.Encoding{Secret: policy.Clear}.JSON(w.Policy.Set()))
	refused := func(method, path, body string) {
		t.Helper()
		code, _, text := w.send(t, admin, method, path, body)
		if code != 422 && code != 404 && code != 405 {
			t.Errorf("%s %s %s: %d %s", method, path, body, code, text)
		}
	}
	documents := []string{"/policy/documents/general", "/policy/documents/space/other", "/policy/documents/bucket/b", "/spaces/other/apps/live", "/spaces/other/domains/other.example"}
	for _, name := range []string{
		"exec", "exec_push", "exec_publish", "command", "cmd", "hook", "on_publish", "run", "script", "plugin", "ffmpeg", "ffmpeg_path", "executable", "args", "env",
		"log", "log_file", "log_path", "log_level", "static", "root", "document_root", "web_root", "template", "templates", "include", "listen", "data", "tls", "nats", "secrets", "key_file", "policy_source", "self",
	} {
		for _, path := range documents {
			refused("PUT", path, fmt.Sprintf(`{%q: "/bin/sh -c id"}`, name))
			refused("PUT", path, fmt.Sprintf(`{%q: {"path": "/bin/sh"}}`, name))
		}
		refused("POST", "/policy/apply", fmt.Sprintf(`{%q: "/bin/sh"}`, name))
	}
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		refused(method, "/config", `{"ffmpeg": {"path": "/bin/sh"}}`)
		refused(method, "/ffmpeg", `{"path": "/bin/sh"}`)
	}
	for _, evil := range []string{
		"../x", "../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", "~/x", "{{.Secret}}", "{{ range }}", "%s%n", "${HOME}", "$(id)", "`id`", "a;id", "a|id", "a\u0000b", "a\nb", "a b", "\\\\evil\\x", "file:///etc/passwd", "C:\\x", "-y",
	} {
		quoted, err := json.Marshal(evil)
		if err != nil {
			t.Fatal(err)
		}
		fill := func(body string) string { return strings.ReplaceAll(body, `"%s"`, string(quoted)) }
		for _, body := range []string{
			`{"record": {"prefix": "%s"}}`, `{"record": {"bucket": "%s"}}`, `{"snapshot": {"prefix": "%s"}}`, `{"snapshot": {"bucket": "%s"}}`,
			`{"transcode": [{"name": "hd", "outputs": [{"suffix": "%s"}]}]}`, `{"transcode": [{"name": "hd", "preset": "%s", "outputs": [{"suffix": "_hd"}]}]}`,
			`{"transcode": [{"name": "hd", "encoder": "%s", "outputs": [{"suffix": "_hd"}]}]}`, `{"transcode": [{"name": "%s", "outputs": [{"suffix": "_hd"}]}]}`,
			`{"transcode": [{"name": "hd", "outputs": [{"suffix": "_hd", "logos": [{"key": "%s"}]}]}]}`,
			`{"transcode": [{"name": "hd", "outputs": [{"suffix": "_hd", "profile": "%s"}]}]}`,
			`{"callback": {"format": "%s"}}`, `{"callback": {"url": "%s"}}`, `{"snapshot": {"path_style": "%s"}}`,
		} {
			refused("PUT", "/spaces/other/apps/live", fill(body))
		}
		for _, body := range []string{`{"type": "%s"}`, `{"type": "s3", "endpoint": "%s", "bucket": "b"}`, `{"type": "s3", "endpoint": "https://s3.example.com", "prefix": "%s", "credentials": "environment"}`} {
			refused("PUT", "/policy/documents/bucket/b", fill(body))
		}
		// A folder may be called as one likes, as long as it is below the data folder.
		if code, _, text := w.send(t, admin, "PUT", "/policy/documents/bucket/b", fill(`{"path": "%s"}`)); code != 422 && (code != 200 || !filepath.IsLocal(evil)) {
			t.Errorf("a bucket in the folder %q: %d %s", evil, code, text)
		}
		if code, _, text := w.send(t, admin, "DELETE", "/policy/documents/bucket/b", nil); code != 204 {
			t.Errorf("DELETE of the bucket: %d %s", code, text)
		}
	}
	if now := string(policy.Encoding{Secret: policy.Clear}.JSON(w.Policy.Set())); now != before {
		t.Errorf("the policy is\n%s\nand was\n%s", now, before)
	}
}
