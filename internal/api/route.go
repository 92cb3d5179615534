package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weir/internal/event"
)

// route is an endpoint but for its types. ID, Method, Path, Tag, Summary, Role
// and Scope are needed.
type route struct {
	ID      string // of the operation: listStreams
	Method  string
	Path    string // below Prefix
	Tag     string // chapter of the document
	Summary string // in a few words
	Detail  string // in sentences
	Role    Role   // the least that may
	Scope   Scope
	Reads   bool  // a POST that changes nothing, or a PUT of how far somebody has read
	Status  int   // of success; default 200, without a Body 204
	Errors  []int // its own; those of serve are added

	// Answers that are no JSON: their media type. The Body is then a
	// func(huma.Context).
	Media string

	// Schema of a body that the endpoint reads itself, from RawBody []byte, and
	// of one that it writes itself, as a json.RawMessage.
	Body, Answer *huma.Schema
}

// writes reports whether r changes anything that others want to know of.
func (r *route) writes() bool {
	return r.Method != http.MethodGet && !r.Reads
}

// add adds an endpoint.
func add[I, O any](s *Server, r route, f func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID: r.ID, Method: r.Method, Path: r.Path, Summary: r.Summary, Description: r.Detail,
		Tags: []string{r.Tag}, DefaultStatus: r.Status, Errors: append(r.refusals(), r.Errors...),
		MaxBodyBytes: maxBody + 1, BodyReadTimeout: -1, // both are seen to before
		Extensions: map[string]any{"x-weir-role": r.Role, "x-weir-scope": r.Scope},
		Metadata:   map[string]any{"route": &r},
	}
	if r.Role != Anybody {
		op.Security = []map[string][]string{{"token": {}}}
	}
	if r.Body != nil {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: r.Body}}}
		op.SkipValidateBody = true
	}
	if r.Answer != nil {
		op.Responses = map[string]*huma.Response{"200": {
			Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: r.Answer}},
		}}
	}
	if r.Media != "" {
		op.Responses = map[string]*huma.Response{"200": {
			Description: "OK", Content: map[string]*huma.MediaType{r.Media: {Schema: &huma.Schema{Type: huma.TypeString}}},
		}}
	}
	s.routes = append(s.routes, r)
	huma.Register(s.huma, op, f)
}

// refusals are the errors that an endpoint has from serve.
func (r *route) refusals() []int {
	list := []int{400, 422}
	if r.Role != Anybody {
		list = append(list, 401, 403, 429)
	}
	if strings.Contains(r.Path, "{") {
		list = append(list, 404)
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		list = append(list, 413, 415)
	}
	if r.Method == http.MethodPost && r.writes() {
		list = append(list, 409)
	}
	return list
}

// adapter is how huma adds endpoints to the Server's mux.
type adapter struct{ s *Server }

func (a adapter) Handle(op *huma.Operation, f func(huma.Context)) {
	r := op.Metadata["route"].(*route)
	a.s.mux.HandleFunc(op.Method+" "+Prefix+op.Path, func(w http.ResponseWriter, req *http.Request) {
		a.s.serve(r, w, req, func(w http.ResponseWriter, req *http.Request) { f(humago.NewContext(op, req, w)) })
	})
}

func (a adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.s.ServeHTTP(w, r) }

// answer is the ResponseWriter of a request: it knows what was answered.
type answer struct {
	http.ResponseWriter
	status int
	before func(status int) // called before the header of a success goes out; nil: nothing is
	copy   *bytes.Buffer    // of the body, when somebody wants it
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
		if a.before != nil && status < 300 {
			a.before(status)
		}
		a.ResponseWriter.WriteHeader(status)
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.copy != nil {
		a.copy.Write(b)
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// ServeHTTP answers requests for everything below Prefix.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v != http.ErrAbortHandler {
			s.log.Error("panic", "client", r.RemoteAddr, "method", r.Method, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		if a.status != 0 {
			panic(http.ErrAbortHandler) // the answer is broken off
		}
		s.refuse(a, r, problem(http.StatusInternalServerError, kindInternal, "the server failed; its log says more"))
	}()
	h := a.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if err := s.admit(a, r); err != nil {
		s.refuse(a, r, err)
		return
	}
	// ServeMux redirects from a path that is not clean; nobody needs that here.
	raw := strings.ToLower(r.URL.EscapedPath())
	clean := r.URL.Path == path.Clean(r.URL.Path) && !strings.Contains(raw, "%2f") && !strings.Contains(raw, "%5c")
	_, pattern := s.mux.Handler(r)
	allowed := s.allowed(r, clean)
	switch {
	case allowed != "" && r.Method == http.MethodOptions:
		h.Set("Allow", allowed)
		a.WriteHeader(http.StatusNoContent)
	case clean && pattern != "":
		s.mux.ServeHTTP(a, r)
	case allowed != "":
		h.Set("Allow", allowed)
		s.refuse(a, r, problem(http.StatusMethodNotAllowed, kindMethod, "%s is not for this path; it takes %s", method(r), allowed))
	default:
		s.refuse(a, r, problem(http.StatusNotFound, kindNotFound, "the API has no such path; %s/openapi.yaml lists all", Prefix))
	}
}

// allowed returns the methods that r's path takes, as the Allow header has them.
func (s *Server) allowed(r *http.Request, clean bool) string {
	var list []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := &http.Request{Method: m, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); clean && pattern != "" {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return strings.Join(append(list, http.MethodOptions), ", ")
}

// method returns the method of r, if it is one that may be repeated.
func method(r *http.Request) string {
	if len(r.Method) > 16 {
		return "the method"
	}
	return r.Method
}

// serve takes a request for an endpoint through all that is the same for all
// of them, in this order: who asks, may he, is the body fit to be read, was it
// done before. What changed something becomes a fact, which is durable before the
// client is told that it is done.
func (s *Server) serve(rt *route, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	a := w.(*answer)
	if rt.Role != Anybody {
		c, err := s.authenticate(r)
		if err != nil {
			s.refuse(a, r, err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		if rt.writes() {
			told := false
			a.before = func(status int) {
				told = true
				s.written(c, r, status)
				s.settled(r)
			}
			defer func() {
				if !told {
					s.written(c, r, a.status)
				}
			}()
		}
		if err := rt.authorize(c, r); err != nil {
			s.refuse(a, r, err)
			return
		}
	}
	body, err := readBody(a, r, rt.Method == http.MethodPost || rt.Method == http.MethodPut)
	if err != nil {
		s.refuse(a, r, err)
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if key := r.Header.Get("Idempotency-Key"); key != "" && rt.Method == http.MethodPost && rt.writes() {
		s.once(key, body, a, r, next)
		return
	}
	next(a, r)
}

// authorize says whether c may use the endpoint.
func (rt *route) authorize(c *Caller, r *http.Request) error {
	if rt.Scope == InSpace && !c.Sees(r.PathValue("space")) {
		return notFound("space", r.PathValue("space"))
	}
	if !c.Role.allows(rt.Role) {
		return problem(http.StatusForbidden, kindRole, "the token %q has the role %s; this needs the role %s", c.Name, c.Role, rt.Role)
	}
	if rt.Scope == Global && c.Space != "" {
		return problem(http.StatusForbidden, kindScope, "the token %q is for the space %q only; this is about the whole server", c.Name, c.Space)
	}
	return nil
}

// written makes a fact of a write.
func (s *Server) written(c *Caller, r *http.Request, status int) {
	addr, _ := netip.ParseAddr(c.Addr)
	p := r.URL.Path
	if len(p) > 512 {
		p = p[:512]
	}
	e := event.New(time.Now(), event.APIWritten{
		Token: c.Name, Role: string(c.Role), Addr: addr, Method: r.Method, Path: strings.ToValidUTF8(p, "?"), Status: status,
	})
	e.Space = c.Space
	if e.Space == "" {
		e.Space = r.PathValue("space")
	}
	s.Events.Emit(e)
	s.log.Info("written by the API", "token", c.Name, "client", c.Addr, "method", r.Method, "path", p, "status", status)
}

// settleTime is how long the answer to a write waits at most until its fact is
// durable: what was changed is changed, whatever the disk does.
const settleTime = 2 * time.Second

// settled waits until the facts of a write are durable, also when its client
// has gone away.
func (s *Server) settled(r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), settleTime)
	defer cancel()
	if err := s.Events.Flush(ctx); err != nil {
		s.log.Warn("a write is answered although its fact is not durable yet", "method", r.Method, "err", err)
	}
}

// refuse answers r with an error, which is a *huma.ErrorModel.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var p *huma.ErrorModel
	if !errors.As(err, &p) {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		p = problem(http.StatusInternalServerError, kindInternal, "the server failed; its log says more").(*huma.ErrorModel)
	}
	var with huma.HeadersError
	if errors.As(err, &with) {
		for k, v := range with.GetHeaders() {
			w.Header()[k] = v
		}
	}
	if r.ContentLength != 0 && r.Body != nil && p.Status != http.StatusInternalServerError {
		// What follows may be of any size: nobody is going to read it.
		w.Header().Set("Connection", "close")
	}
	writeProblem(w, p)
}
