package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"weir/internal/access"
)

// put sends a body and returns the answer's status, ETag and text.
func (w *world) send(t *testing.T, token, method, path string, body any, header ...string) (int, string, string) {
	t.Helper()
	q := request{method: method, path: path, token: token, body: body, header: map[string]string{}}
	for i := 0; i < len(header); i += 2 {
		q.header[header[i]] = header[i+1]
	}
	rec := w.do(t, q)
	return rec.Code, rec.Header().Get("ETag"), rec.Body.String()
}

func TestParts(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Name: "root", Role: Admin})
	code, v1, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{"hold":"7s"}`)
	if code != 200 || !strings.Contains(text, `"hold":"7s"`) || !strings.Contains(text, `"idle_timeout":"20s"`) {
		t.Fatalf("PUT app: %d %s", code, text)
	}
	if app := w.Policy.Set().Spaces[0].App("show"); app == nil || app.Hold != 7*time.Second {
		t.Errorf("the app in force is %+v", app)
	}
	if code, v, _ := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{"hold":"7s"}`); code != 200 || v != v1 {
		t.Errorf("PUT again: %d, version %s, want %s", code, v, v1)
	}

	// Two writers of one version: the later one is told.
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{"hold":"8s"}`, "If-Match", v1); code != 200 {
		t.Errorf("PUT of the version: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{"hold":"9s"}`, "If-Match", v1); code != 412 || !strings.Contains(text, "urn:weir:problem:precondition") {
		t.Errorf("PUT of an old version: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{}`, "If-None-Match", "*"); code != 412 {
		t.Errorf("PUT of a new one that is there: %d %s", code, text)
	}

	// What is wrong is told with its place, and changes nothing.
	for body, at := range map[string]string{
		`{"hold":"2h"}`: "body.hold", `{"hold":7}`: "body.hold", `{"hols":"7s"}`: "body.hols", `{"hls":{"window":1}}`: "body.hls.window", `{"name":"other"}`: "body.name",
	} {
		if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", body); code != 422 || !strings.Contains(text, `"location":"`+at+`"`) {
			t.Errorf("PUT %s: %d %s", body, code, text)
		}
	}
	for _, path := range []string{"/spaces/default/apps/..%2fx", "/spaces/default/apps/-x", "/spaces/default/apps/%22", "/spaces/default/apps/a%0Ab"} {
		if code, _, text := w.send(t, admin, "PUT", path, `{}`); code != 422 && code != 404 {
			t.Errorf("PUT %s: %d %s", path, code, text)
		}
	}
	if code, _, _ := w.send(t, admin, "PUT", "/spaces/none/apps/x", `{}`); code != 404 {
		t.Errorf("PUT in no space: %d", code)
	}
	if app := w.Policy.Set().Spaces[0].App("show"); app.Hold != 8*time.Second {
		t.Errorf("the app in force is %+v", app)
	}
	if code, _, _ := w.send(t, admin, "DELETE", "/spaces/default/apps/show", nil); code != 204 || w.Policy.Set().Spaces[0].App("show") != nil {
		t.Errorf("DELETE app: %d", code)
	}

	// Secrets do not come out, and stay when they are asterisks.
	code, _, text = w.send(t, admin, "PUT", "/spaces/default/domains/push.example.com", `{"type":"publish","publish":{"simple":{"key":"hunter2hunter2"}}}`)
	if code != 200 || strings.Contains(text, "hunter2") || !strings.Contains(text, "***") {
		t.Errorf("PUT domain: %d %s", code, text)
	}
	code, _, text = w.send(t, admin, "PUT", "/spaces/default/domains/push.example.com", `{"type":"both","publish":{"simple":{"key":"***"}}}`)
	if code != 200 {
		t.Errorf("PUT domain again: %d %s", code, text)
	}
	if _, d := w.Policy.Set().Domain("push.example.com"); d == nil || d.Publish.Simple == nil || d.Publish.Simple.Key.Reveal() != "hunter2hunter2" {
		t.Errorf("the domain in force is %+v", d)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/domains/new.example.com", `{"publish":{"simple":{"key":"***"}}}`); code != 422 {
		t.Errorf("PUT of asterisks for no secret: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/other/domains/push.example.com", `{}`); code != 422 || !strings.Contains(text, "body.name") {
		t.Errorf("PUT of a domain of another space: %d %s", code, text)
	}
	code, _, text = w.send(t, admin, "PUT", "/spaces/default/domains/push.example.com/publish/ip", `{"block":["192.0.2.0/24"]}`)
	if code != 200 || !strings.Contains(text, "192.0.2.0/24") {
		t.Errorf("PUT lists: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/domains/push.example.com/publish/ip", `{"block":["010.0.0.1"]}`); code != 422 || !strings.Contains(text, "body.block[0]") {
		t.Errorf("PUT of a bad address: %d %s", code, text)
	}
	for _, path := range []string{"/spaces/default/domains/*", "/spaces/default/domains/%2A"} {
		if code, _, text := w.send(t, admin, "PUT", path, `{"type":"play"}`); code != 200 {
			t.Errorf("PUT %s: %d %s", path, code, text)
		}
	}
}

// What stands in the query of a callback's address may be a key: it is for
// admins, and not in what is told of changes.
func TestQueriesOfAddresses(t *testing.T) {
	w := newWorld(t)
	admin, viewer := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Viewer})
	for i := range 2 {
		body := fmt.Sprintf(`{"callback":{"url":"https://owner.example.com/cb?key=canary%d"}}`, i)
		if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", body); code != 200 || !strings.Contains(text, "canary") {
			t.Fatalf("PUT app: %d %s", code, text)
		}
	}
	for _, path := range []string{
		"/spaces/default/apps", "/spaces/default/apps/show", "/policy", "/policy/documents/space/default", "/policy/documents/space/default/history",
		"/events?type=policy.changed",
	} {
		if code, _, text := w.send(t, viewer, "GET", path, nil); code != 200 || strings.Contains(text, "canary") {
			t.Errorf("GET %s: %d %s", path, code, text)
		}
	}
	if _, _, text := w.send(t, admin, "GET", "/spaces/default/apps/show", nil); !strings.Contains(text, "canary1") {
		t.Errorf("the admin sees %s", text)
	}
	if code, _, text := w.send(t, admin, "PUT", "/spaces/default/apps/show", `{"callback":{"url":"https://owner.example.com/cb?***"}}`); code != 422 {
		t.Errorf("PUT of what is shown: %d %s", code, text)
	}
}

// Who administers one space cannot have the server call into the networks of
// those who run it, unless these have allowed it.
func TestNetworksOfOneSpace(t *testing.T) {
	w := newWorld(t)
	all, one := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Admin, Space: "default"})
	domain := `{"type":"publish","publish":{"external":{"url":"http://10.20.0.1:9/","allow_networks":["10.20.0.0/16"]}}}`
	app := `{"snapshot":{"enabled":true,"check":{"url":"http://172.16.0.1/","allow_networks":["172.16.0.0/12"]}}}`
	if code, _, text := w.send(t, one, "PUT", "/spaces/default/domains/a.example.com", domain); code != 403 || !strings.Contains(text, "10.20.0.0/16") {
		t.Errorf("PUT domain: %d %s", code, text)
	}
	if code, _, text := w.send(t, one, "PUT", "/spaces/default/apps/show", app); code != 403 {
		t.Errorf("PUT app: %d %s", code, text)
	}
	if code, _, text := w.send(t, all, "PUT", "/spaces/default/domains/a.example.com", domain); code != 200 {
		t.Errorf("PUT domain by the admin of all: %d %s", code, text)
	}
	if code, _, text := w.send(t, one, "PUT", "/spaces/default/domains/a.example.com", strings.Replace(domain, ":9/", ":10/", 1)); code != 200 {
		t.Errorf("PUT domain with what was allowed: %d %s", code, text)
	}
	if code, _, text := w.send(t, one, "PUT", "/spaces/default/apps/show", app); code != 403 {
		t.Errorf("PUT app: %d %s", code, text)
	}
}

// Nor can he have the apps of his space put their recordings where those of
// others may be, and so read and delete these.
func TestPlacesOfOneSpace(t *testing.T) {
	w := newWorld(t)
	all, one := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Admin, Space: "default"})
	for i, x := range []struct {
		token, app, body string
		want             int
	}{
		{one, "show", `{}`, 200},
		{one, "show", `{"record":{"prefix":"others"}}`, 403},
		{one, "show", `{"snapshot":{"prefix":"others"}}`, 403},
		{all, "show", `{"record":{"prefix":"ours"},"snapshot":{"prefix":"ours"}}`, 200},
		{one, "more", `{"record":{"prefix":"ours"},"snapshot":{"prefix":"ours"}}`, 200},
		{one, "more", `{"record":{"prefix":"ours/x"},"snapshot":{"prefix":"ours"}}`, 403},
	} {
		if code, _, text := w.send(t, x.token, "PUT", "/spaces/default/apps/"+x.app, x.body); code != x.want {
			t.Errorf("%d: PUT %s: %d %s", i, x.body, code, text)
		}
	}
}

// Nor can he take the clients of others by their host names, and he does not
// learn whose they are.
func TestDomainsOfOneSpace(t *testing.T) {
	w := newWorld(t)
	all, one := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Admin, Space: "default"})
	put := func(token, space, domain string, want int) {
		t.Helper()
		code, _, text := w.send(t, token, "PUT", "/spaces/"+space+"/domains/"+domain, `{"type":"play"}`)
		if code != want || want == 403 && (!strings.Contains(text, "urn:weir:problem:scope") || strings.Contains(text, "other ")) {
			t.Errorf("PUT %s of %s: %d %s, want %d", domain, space, code, text, want)
		}
	}
	put(all, "other", "*.wide.example", 200)
	put(all, "other", "deep.down.example", 200)
	for _, domain := range []string{
		"*", "%2A", "other.example", "OTHER.example", "other.example.", "*.wide.example", "a.wide.example", "*.a.wide.example", "*.example", "*.down.example",
	} {
		put(one, "default", domain, 403)
	}
	put(one, "default", "mine.example", 200)
	put(one, "default", "*.mine.example", 200)
	put(one, "default", "wide.example", 200) // which *.wide.example does not cover
	put(one, "default", "another.example", 200)
	// What those who run the server have given stays his, and may be changed.
	put(all, "other", "*", 200)
	put(one, "default", "under.the.wildcard", 200)
	put(all, "default", "gift.wide.example", 200)
	put(one, "default", "gift.wide.example", 200)
	if sp, _ := w.Policy.Set().Domain("a.wide.example"); sp == nil || sp.Name != "other" {
		t.Errorf("a.wide.example leads to %+v", sp)
	}
}

func TestAccessKeys(t *testing.T) {
	w := newWorld(t)
	admin, viewer := w.token(t, Token{Role: Admin}), w.token(t, Token{Role: Viewer})
	code, _, text := w.send(t, admin, "POST", "/spaces/default/access-keys", `{}`)
	var made NewKey
	if err := json.Unmarshal([]byte(text), &made); err != nil || code != 201 || len(made.Secret) < 32 {
		t.Fatalf("POST key: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "POST", "/spaces/default/access-keys", map[string]any{"id": made.ID}); code != 409 {
		t.Errorf("POST of a key that is there: %d %s", code, text)
	}
	if code, _, text := w.send(t, admin, "POST", "/spaces/default/access-keys", `{"id":"../x"}`); code != 422 || !strings.Contains(text, "body.id") {
		t.Errorf("POST of a bad id: %d %s", code, text)
	}
	for _, path := range []string{"/spaces/default/access-keys", "/spaces/default/apps", "/spaces/default/domains", "/config", "/spaces"} {
		token := viewer
		if path == "/config" {
			token = admin
		}
		if code, _, text := w.send(t, token, "GET", path, nil); code != 200 || strings.Contains(text, made.Secret) || strings.Contains(text, "topsecret") {
			t.Errorf("GET %s: %d %s", path, code, text)
		}
	}
	if code, _, _ := w.send(t, admin, "PUT", "/spaces/default/access-keys/"+made.ID, `{"disabled":true}`); code != 200 {
		t.Errorf("PUT key: %d", code)
	}
	if code, _, _ := w.send(t, admin, "DELETE", "/spaces/default/access-keys/"+made.ID, nil); code != 204 {
		t.Errorf("DELETE key: %d", code)
	}
	if n := len(w.Policy.Set().Spaces[0].AccessKeys); n != 1 {
		t.Errorf("%d access keys are in force, want 1", n)
	}
}

// TestForbid forbids a stream, an app, for ever and for a while, and resumes.
func TestForbid(t *testing.T) {
	w := newWorld(t)
	ops := w.token(t, Token{Name: "ops", Role: Operator})
	granted := func(op access.Op, name string) bool {
		t.Helper()
		r, err := access.FromURL(op, "rtmp://localhost/live/"+name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Gate.Check(t.Context(), r)
		return err == nil
	}
	code, _, text := w.send(t, ops, "PUT", "/forbidden/default/live/demo", `{"note":"no rights"}`)
	if code != 200 || !strings.Contains(text, `"by":"ops"`) || !strings.Contains(text, `"type":"both"`) || granted(access.Publish, "demo") || granted(access.Play, "demo") {
		t.Errorf("forbid: %d %s", code, text)
	}
	if !granted(access.Publish, "other") {
		t.Error("another stream is forbidden, too")
	}
	var check CheckOutput
	w.get(t, ops, "/forbidden/default/live/demo", &check.Body)
	if !check.Body.Publish || !check.Body.Play || len(check.Body.By) != 1 || check.Body.By[0].Note != "no rights" {
		t.Errorf("check: %+v", check.Body)
	}
	if code, _, text := w.send(t, ops, "PUT", "/forbidden/default/live/demo", map[string]any{"type": "play", "until": time.Now().Add(time.Hour)}); code != 200 || !granted(access.Publish, "demo") || granted(access.Play, "demo") {
		t.Errorf("forbid again: %d %s", code, text)
	}
	if code, _, text := w.send(t, ops, "PUT", "/forbidden/default/live", `{"type":"publish"}`); code != 200 || granted(access.Publish, "other") {
		t.Errorf("forbid the app: %d %s", code, text)
	}
	var list Page[Forbidden]
	w.get(t, ops, "/forbidden?space=default", &list)
	if len(list.Items) != 2 {
		t.Errorf("list: %+v", list.Items)
	}
	for range 2 {
		for _, path := range []string{"/forbidden/default/live/demo", "/forbidden/default/live"} {
			if code, _, text := w.send(t, ops, "DELETE", path, nil); code != http.StatusNoContent {
				t.Errorf("DELETE %s: %d %s", path, code, text)
			}
		}
	}
	if !granted(access.Publish, "demo") || !granted(access.Play, "demo") || !granted(access.Publish, "other") {
		t.Error("something is still forbidden")
	}
	for body, at := range map[string]string{`{"until":"2020-01-01T00:00:00Z"}`: "body.until", `{"type":"all"}`: "body.type", `{"until":-1}`: "body.until"} {
		if code, _, text := w.send(t, ops, "PUT", "/forbidden/default/live/demo", body); code != 422 || !strings.Contains(text, at) {
			t.Errorf("forbid %s: %d %s", body, code, text)
		}
	}
	if code, _, _ := w.send(t, ops, "PUT", "/forbidden/none/live/demo", `{}`); code != 404 {
		t.Errorf("forbid in no space: %d", code)
	}
	if code, _, text := w.send(t, ops, "PUT", "/forbidden/default/live/a%20b", `{}`); code != 422 {
		t.Errorf("forbid what is no name: %d %s", code, text)
	}
}

// TestTemplates makes, changes and takes away templates of an app, beside others
// that stay.
func TestTemplates(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	const templates = "/spaces/default/apps/live/templates"
	code, v1, text := w.send(t, admin, "PUT", templates+"/sd", `{"outputs":[{"suffix":"_sd","short_side":360,"bit_rate":500000}]}`)
	if code != 200 || !strings.Contains(text, `"suffix":"_sd"`) || !strings.Contains(text, `"gop":"2s"`) {
		t.Fatalf("PUT: %d %s", code, text)
	}
	if list := w.Policy.Set().Space("default").App("live").Transcode; len(list) != 2 || list[1].Name != "sd" || list[1].Outputs[0].ShortSide != 360 {
		t.Errorf("in force are %+v", list)
	}
	if code, _, text := w.send(t, admin, "PUT", templates+"/sd", `{"outputs":[{"suffix":"_low","short_side":240,"bit_rate":300000}]}`, "If-Match", v1); code != 200 || strings.Contains(text, "_sd") {
		t.Errorf("PUT of the version: %d %s", code, text)
	}
	if code, _, _ := w.send(t, admin, "PUT", templates+"/sd", `{"outputs":[{"suffix":"_x"}]}`, "If-Match", v1); code != 412 {
		t.Errorf("PUT of an old version: %d", code)
	}
	var list Page[struct{ Name string }]
	w.get(t, admin, templates, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "hd" || list.Items[1].Name != "sd" {
		t.Errorf("list: %+v", list)
	}
	for body, at := range map[string]string{
		`{}`: "body", `{"outputs":[{}]}`: "body.outputs[0]", `{"outputs":[{"suffix":"_hd"}]}`: "body.outputs[0].suffix", `{"frob":1,"outputs":[{"suffix":"_y"}]}`: "body.frob",
		`{"outputs":[{"suffix":"_y","short_side":9999}]}`: "body.outputs[0].short_side",
	} {
		if code, _, text := w.send(t, admin, "PUT", templates+"/sd", body); code != 422 || !strings.Contains(text, `"location":"`+at+`"`) {
			t.Errorf("PUT %s: %d %s, want %s", body, code, text, at)
		}
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		var body any
		if method == "PUT" {
			body = `{"outputs":[{"suffix":"_y"}]}`
		}
		if code, _, text := w.send(t, admin, method, "/spaces/default/apps/none/templates/sd", body); code != 404 || !strings.Contains(text, "app") {
			t.Errorf("%s in no app: %d %s", method, code, text)
		}
	}
	for range 2 {
		if code, _, text := w.send(t, admin, "DELETE", templates+"/sd", nil); code != 204 {
			t.Errorf("DELETE: %d %s", code, text)
		}
	}
	if list := w.Policy.Set().Space("default").App("live").Transcode; len(list) != 1 || list[0].Name != "hd" {
		t.Errorf("in force are %+v", list)
	}
}
