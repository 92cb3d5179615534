package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"weir/internal/event"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml")

// TestDocument holds the document in docs and that of the code together.
func TestDocument(t *testing.T) {
	const file = "../../docs/openapi.yaml"
	got := newWorld(t).Document()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
		t.Errorf("docs/openapi.yaml is not the document of the code; run: go test ./internal/api -run TestDocument -update\n%s", d)
	}
}

// TestDocumentIsWhole holds the routes and the document together: what the tests
// below know of is all that there is, and whoever adds a subject sees it here.
func TestDocumentIsWhole(t *testing.T) {
	w := newWorld(t)
	there := map[string]bool{}
	subjects := map[string]bool{}
	for _, e := range endpoints(w.Server) {
		there[e.op.OperationID] = true
		subject, _, _ := strings.Cut(strings.TrimPrefix(e.path, "/"), "/")
		subjects[subject] = true
	}
	for i := range w.routes {
		if r := &w.routes[i]; !there[r.ID] {
			t.Errorf("%s %s is not in the document", r.Method, r.Path)
		}
	}
	if len(there) != len(w.routes) {
		t.Errorf("the document has %d endpoints, and there are %d", len(there), len(w.routes))
	}
	for _, want := range strings.Fields("alerts callbacks clips config event-cursors events forbidden history nodes policy recording-orders recordings self sessions snapshots spaces statistics streams tokens transcodes urls") {
		if !subjects[want] {
			t.Errorf("there is nothing below /%s", want)
		}
	}
}

// endpoint is an operation as the document has it: the tests below know no
// more of an endpoint than any client can.
type endpoint struct {
	method, path string
	op           *huma.Operation
	role         Role
	scope        Scope
	doc          *huma.OpenAPI
}

func endpoints(s *Server) []endpoint {
	var list []endpoint
	doc := s.huma.OpenAPI()
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		item := doc.Paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete} {
			if op != nil {
				role, scope := op.Extensions["x-weir-role"].(Role), op.Extensions["x-weir-scope"].(Scope)
				list = append(list, endpoint{op.Method, path, op, role, scope, doc})
			}
		}
	}
	return list
}

// url returns the endpoint's path with the examples of its parameters, and of
// the query those that are required.
func (e *endpoint) url(t testing.TB) string {
	t.Helper()
	p, query := e.path, url.Values{}
	for _, param := range e.op.Parameters {
		switch {
		case param.In == "path" || param.In == "query" && param.Required:
			if len(param.Schema.Examples) == 0 {
				t.Fatalf("%s: the parameter %s has no example", e.op.OperationID, param.Name)
			}
			text := fmt.Sprint(param.Schema.Examples[0])
			p = strings.ReplaceAll(p, "{"+param.Name+"}", url.PathEscape(text))
			if param.In == "query" {
				query.Set(param.Name, text)
			}
		}
	}
	if len(query) > 0 {
		p += "?" + query.Encode()
	}
	return p
}

// body returns a body as the document's schema has it; nil when there is none.
func (e *endpoint) body(t testing.TB) any {
	t.Helper()
	if e.op.RequestBody == nil {
		return nil
	}
	return e.example(t, "body", e.op.RequestBody.Content["application/json"].Schema)
}

// example makes an example of a schema: the one it has, or one of its required
// properties and those that have examples.
func (e *endpoint) example(t testing.TB, at string, sc *huma.Schema) any {
	t.Helper()
	if sc.Ref != "" {
		sc = e.doc.Components.Schemas.SchemaFromRef(sc.Ref)
	}
	switch {
	case len(sc.Examples) > 0:
		return sc.Examples[0]
	case len(sc.Enum) > 0:
		return sc.Enum[0]
	case sc.Type == huma.TypeObject:
		v := map[string]any{}
		for name, p := range sc.Properties {
			if slices.Contains(sc.Required, name) || len(p.Examples) > 0 {
				v[name] = e.example(t, at+"."+name, p)
			}
		}
		return v
	case sc.Type == huma.TypeArray:
		return []any{}
	}
	t.Fatalf("%s: %s has no example", e.op.OperationID, at)
	return nil
}

// schemas checks answers against the document, with a validator that is not
// the one of the server.
type schemas struct {
	compiler *jsonschema.Compiler
}

func newSchemas(t testing.TB, s *Server) *schemas {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(s.doc.json))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return &schemas{c}
}

// check says what about an answer is not as the document says.
func (sc *schemas) check(e *endpoint, status int, media string, body []byte) error {
	answer := e.op.Responses[fmt.Sprint(status)]
	if answer == nil {
		return fmt.Errorf("the document has no answer %d", status)
	}
	if len(answer.Content) == 0 {
		if len(body) > 0 {
			return fmt.Errorf("the document has no body for the answer %d", status)
		}
		return nil
	}
	if answer.Content[media] == nil {
		return fmt.Errorf("the document has no answer %d of the type %q", status, media)
	}
	if !strings.HasSuffix(media, "json") {
		return nil
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	schema, err := sc.compiler.Compile(fmt.Sprintf("openapi.json#/paths/%s/%s/responses/%d/content/%s/schema",
		escape.Replace(e.path), strings.ToLower(e.method), status, escape.Replace(media)))
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// TestContract calls every endpoint as its document says, and as it does not
// (H56, H58, H59).
func TestContract(t *testing.T) {
	shared := newWorld(t)
	for _, e := range endpoints(shared.Server) {
		t.Run(e.op.OperationID, func(t *testing.T) {
			w := shared
			if e.method != http.MethodGet { // which may change something
				w = newWorld(t)
			}
			sc := newSchemas(t, w.Server)
			admin := w.token(t, Token{Role: Admin})
			try := func(what string, q request, want int, wantKind kind) {
				t.Helper()
				q.method, q.token = e.method, admin
				if q.path == "" {
					q.path = e.url(t)
				}
				rec := w.do(t, q)
				if rec.Code != want && want != 0 || kindOf(rec) != wantKind {
					t.Errorf("%s: %s %s: %d %s, want %d %s", what, e.method, q.path, rec.Code, rec.Body, want, wantKind)
				}
				if want == 0 && rec.Code/100 != 2 {
					t.Errorf("%s: %s %s: %d %s", what, e.method, q.path, rec.Code, rec.Body)
				}
				if err := sc.check(&e, rec.Code, rec.Header().Get("Content-Type"), rec.Body.Bytes()); err != nil {
					t.Errorf("%s: the answer is not as the document says: %v\n%s", what, err, rec.Body)
				}
			}
			join := func(query string) string {
				if u := e.url(t); strings.Contains(u, "?") {
					return u + "&" + query
				} else {
					return u + "?" + query
				}
			}
			body := e.body(t)
			try("unknown parameter", request{path: join("frob=1"), body: body}, 422, kindInvalid)
			for _, p := range e.op.Parameters {
				if p.In != "query" {
					continue
				}
				switch {
				case len(p.Schema.Enum) > 0 || p.Schema.Type != huma.TypeString:
					try("bad "+p.Name, request{path: join(p.Name + "=%00frob"), body: body}, 422, kindInvalid)
				case p.Schema.MaxLength != nil && p.Name != "cursor":
					try("long "+p.Name, request{path: join(p.Name + "=" + strings.Repeat("a", *p.Schema.MaxLength+1)), body: body}, 422, kindInvalid)
				case p.Name == "cursor":
					try("foreign cursor", request{path: join("cursor=frob"), body: body}, 400, kindCursor)
				}
			}
			switch {
			case e.op.RequestBody == nil:
				if e.method != http.MethodPost && e.method != http.MethodPut {
					try("a body", request{body: "{}"}, 400, kindSyntax)
				}
			default:
				object, _ := body.(map[string]any)
				schema := e.op.RequestBody.Content["application/json"].Schema
				if schema.Ref != "" {
					schema = e.doc.Components.Schemas.SchemaFromRef(schema.Ref)
				}
				for _, name := range []string{"frob", "role", "owner", "id", "secret", "created_by", "space_"} {
					if schema.Properties[name] == nil {
						more := maps.Clone(object)
						more[name] = "x"
						try("unknown field "+name, request{body: more}, 422, kindInvalid)
					}
				}
				for name, within := range e.objects(object) {
					within["frob"] = "x"
					try("unknown field in "+name, request{body: object}, 422, kindInvalid)
					delete(within, "frob")
				}
				for _, name := range schema.Required {
					less := maps.Clone(object)
					delete(less, name)
					try("without "+name, request{body: less}, 422, kindInvalid)
				}
				text, err := json.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				try("no body", request{}, 400, kindSyntax)
				try("an array", request{body: "[]"}, 422, kindInvalid)
				try("as text", request{body: string(text), header: map[string]string{"Content-Type": "text/plain"}}, 415, kindMedia)
				try("as a form", request{body: "a=b", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}, 415, kindMedia)
				try("as multipart", request{body: string(text), header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}}, 415, kindMedia)
				try("without a type", request{body: string(text), header: map[string]string{"Content-Type": ""}}, 415, kindMedia)
				try("in UTF-16", request{body: string(text), header: map[string]string{"Content-Type": "application/json; charset=utf-16"}}, 415, kindMedia)
				try("too large", request{body: `{"x":"` + strings.Repeat("a", maxBody) + `"}`}, 413, kindTooLarge)
			}
			if e.method == http.MethodPost && slices.ContainsFunc(w.routes, func(r route) bool { return r.ID == e.op.OperationID && r.writes() }) {
				newWorld(t).postTwice(t, &e)
			}
			try("as documented", request{body: body}, 0, "")
			if e.method == http.MethodPut || e.method == http.MethodDelete {
				_, before := w.Policy.Whole()
				try("again", request{body: body}, 0, "")
				if _, after := w.Policy.Whole(); after != before {
					t.Errorf("again: the policy has the version %d, and had %d", after, before)
				}
			}
		})
	}
}

// objects returns the objects within an example, by their places.
func (e *endpoint) objects(v any) map[string]map[string]any {
	all := map[string]map[string]any{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch x := v.(type) {
		case map[string]any:
			if at != "" {
				all[at] = x
			}
			for name, y := range x {
				walk(at+"."+name, y)
			}
		case []any:
			for i, y := range x {
				walk(fmt.Sprintf("%s[%d]", at, i), y)
			}
		}
	}
	walk("", v)
	return all
}

// postTwice makes a request twice under one Idempotency-Key, and another one under
// the same: it is done once, whatever it does.
func (w *world) postTwice(t *testing.T, e *endpoint) {
	t.Helper()
	q := request{method: e.method, path: e.url(t), token: w.token(t, Token{Role: Admin}), body: e.body(t), header: map[string]string{"Idempotency-Key": "once"}}
	first := w.do(t, q)
	_, version := w.Policy.Whole()
	again := w.do(t, q)
	if first.Code/100 != 2 || again.Code != first.Code || again.Body.String() != first.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("with one key: %d %s, and then %d %v %s", first.Code, first.Body, again.Code, again.Header(), again.Body)
	}
	if _, now := w.Policy.Whole(); now != version {
		t.Errorf("the second time the policy has the version %d, and had %d", now, version)
	}
	q.path += map[bool]string{true: "&", false: "?"}[strings.Contains(q.path, "?")] + "x=1"
	if other := w.do(t, q); other.Code != http.StatusUnprocessableEntity || kindOf(other) != kindKeyReused {
		t.Errorf("another request with the key: %d %s", other.Code, other.Body)
	}
}

// H56: what is read changes nothing, whatever method a header says instead, and
// no GET has an effect.
func TestReadsChangeNothing(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	state := func() string {
		t.Helper()
		_, version := w.Policy.Whole()
		tokens, err := w.Tokens.List()
		if err != nil {
			t.Fatal(err)
		}
		live := 0
		for _, st := range w.Hub.Streams() {
			if st.Publication() != nil {
				live++
			}
		}
		return fmt.Sprint(version, len(tokens), live, len(w.Policy.Forbidden("default")))
	}
	before := state()
	for _, e := range endpoints(w.Server) {
		if e.method != http.MethodGet || strings.HasSuffix(e.path, "/feed") {
			continue
		}
		w.unlimited()
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			rec := w.do(t, request{method: method, path: e.url(t), token: admin, header: map[string]string{
				"X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE", "X-Method-Override": "DELETE",
			}})
			if rec.Code >= 500 {
				t.Errorf("%s %s: %d %s", method, e.path, rec.Code, rec.Body)
			}
		}
	}
	if after := state(); after != before {
		t.Errorf("after all has been read it is %s, and was %s", after, before)
	}
	w.do(t, request{method: http.MethodPost, path: "/tokens", token: admin, body: `{"name":"last","role":"viewer"}`})
	if d := w.facts(t, 1, event.TypeAPIWritten)[0].Event.Data.(event.APIWritten); d.Path != Prefix+"/tokens" {
		t.Errorf("%s %s was a write", d.Method, d.Path)
	}
}

// TestMatrix calls every endpoint by every role, with every scope.
func TestMatrix(t *testing.T) {
	w := newWorld(t)
	type holder struct {
		name, space, text string
		token             *Token
	}
	var holders []holder
	for _, space := range []string{"", "default", "other"} {
		for _, tok := range []Token{
			{Name: "viewer", Role: Viewer}, {Name: "operator", Role: Operator}, {Name: "admin", Role: Admin}, {Name: "revoked", Role: Admin},
			{Name: "expired", Role: Admin, Expires: time.Now().Add(-time.Second)},
		} {
			tok.Space = space
			made, text, err := w.Tokens.Create(t.Context(), tok)
			if err != nil {
				t.Fatal(err)
			}
			if tok.Name == "revoked" {
				if err := w.Tokens.Revoke(t.Context(), made.ID); err != nil {
					t.Fatal(err)
				}
			}
			holders = append(holders, holder{tok.Name, space, text, made})
		}
	}
	holders = append(holders, holder{name: "none"}, holder{name: "nobody", text: "weir_aaaaaaaa_" + strings.Repeat("a", 52)})
	for _, e := range endpoints(w.Server) {
		for _, h := range holders {
			w.unlimited()
			rec := w.do(t, request{method: e.method, path: e.url(t), token: h.text, body: e.body(t)})
			want, kind := 0, kind("")
			switch {
			case e.role == Anybody:
			case h.token == nil || h.name == "revoked" || h.name == "expired":
				want, kind = 401, kindToken
			case e.scope == InSpace && h.space == "other":
				want, kind = 404, kindNotFound
			case !h.token.Role.allows(e.role):
				want, kind = 403, kindRole
			case e.scope == Global && h.space != "":
				want, kind = 403, kindScope
			}
			if want != 0 && (rec.Code != want || kindOf(rec) != kind) {
				t.Errorf("%s by %s for %q: %d %s, want %d %s", e.op.OperationID, h.name, h.space, rec.Code, rec.Body, want, kind)
			}
			if want == 0 && (rec.Code == 401 || rec.Code == 403 && kindOf(rec) == kindRole || rec.Code >= 500) {
				t.Errorf("%s by %s for %q: %d %s", e.op.OperationID, h.name, h.space, rec.Code, rec.Body)
			}
		}
	}
}

// TestActions holds the table of the hosted service's actions in docs/api.md and
// the document together: each action has its place, and each place is there.
func TestActions(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## The actions of the hosted service")
	there := map[string]bool{}
	for _, e := range endpoints(newWorld(t).Server) {
		there[e.method+" "+e.path] = true
	}
	place := regexp.MustCompile("`((?:GET|PUT|POST|DELETE) /[^`]*)`")
	rows := map[string]int{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || cells[0] == "| action" {
			continue
		}
		action := strings.TrimPrefix(cells[0], "| ")
		for _, m := range place.FindAllStringSubmatch(cells[1], -1) {
			if rows[action]++; !there[m[1]] {
				t.Errorf("%s: the API has no %s", action, m[1])
			}
		}
		if !strings.HasPrefix(cells[2], "`weir ") {
			t.Errorf("%s: there is no command", action)
		}
	}
	for _, action := range strings.Fields(`ForbidStream ResumeStream GetBlacklist CheckBlacklist ListRealtimePubStreamsInfo ListHistoryPubStreamsInfo
		ListHistoryPubStreamsErrInfo ListStreamDurations ListRealtimeStreamsInfo KillStreamCache CreateRecordTask CancelRecordTask StartStreamRecord
		StopStreamRecord ListRecordingTasks ListHistoryRecordTasks GetRecordTask ListStreamRecordContent`) {
		if rows[action] == 0 {
			t.Errorf("%s has no place", action)
		}
	}
}
