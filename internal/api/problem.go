package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// kind says what went wrong to a program: the last part of a problem's type,
// urn:weir:problem:KIND (RFC 9457, 3.1.1). docs/api.md explains each.
type kind string

const (
	kindInvalid      kind = "invalid"             // 422: fields or parameters; errors has their paths
	kindSyntax       kind = "syntax"              // 400: the body is no JSON that is taken here
	kindCursor       kind = "cursor"              // 400: of another list or order
	kindToken        kind = "token"               // 401: none, or not valid
	kindRole         kind = "role"                // 403: needs another role
	kindScope        kind = "scope"               // 403: not for tokens of one space
	kindOrigin       kind = "origin"              // 403: called from a page of a stranger
	kindNotFound     kind = "not-found"           // 404
	kindMethod       kind = "method"              // 405
	kindConflict     kind = "conflict"            // 409: exists already, or is being done
	kindPrecondition kind = "precondition"        // 412: changed by somebody else meanwhile
	kindTooLarge     kind = "too-large"           // 413
	kindMedia        kind = "media-type"          // 415
	kindHost         kind = "host"                // 421: an unknown host name
	kindKeyReused    kind = "idempotency-key"     // 422: with another request
	kindNeedsVersion kind = "precondition-needed" // 428: a change without If-Match
	kindRate         kind = "rate"                // 429
	kindInternal     kind = "internal"            // 500
	kindUnavailable  kind = "unavailable"         // 503: the log or the store is away
)

const typePrefix = "urn:weir:problem:"

// problem returns the error that is told as such.
func problem(status int, k kind, format string, args ...any) error {
	return &huma.ErrorModel{
		Type: typePrefix + string(k), Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...),
	}
}

// retryAfter is when a client may try again what could not be done because
// something was away: a store is looked for every second.
const retryAfter = 2 * time.Second

// away is the problem of what cannot be done just now, because something that
// it needs cannot be reached.
func away(format string, args ...any) error {
	return huma.ErrorWithHeaders(problem(http.StatusServiceUnavailable, kindUnavailable, format, args...),
		http.Header{"Retry-After": {strconv.Itoa(int(retryAfter / time.Second))}})
}

// notFound is the problem of a thing that is not there, or that the caller may
// not know of.
func notFound(what, name string) error {
	return problem(http.StatusNotFound, kindNotFound, "there is no %s %.128q", what, name)
}

// invalid is the problem of fields: each location, body.until or query.order,
// with what is wrong and what would be right.
func invalid(fields ...field) error {
	p := &huma.ErrorModel{
		Type: typePrefix + string(kindInvalid), Title: http.StatusText(http.StatusUnprocessableEntity),
		Status: http.StatusUnprocessableEntity, Detail: "the request is not valid",
	}
	for _, f := range fields {
		p.Errors = append(p.Errors, &huma.ErrorDetail{Location: f.at, Message: f.text})
	}
	return p
}

type field struct{ at, text string }

// kinds are those of the problems that huma makes.
var kinds = map[int]kind{
	400: kindSyntax, 404: kindNotFound, 413: kindTooLarge, 415: kindMedia, 422: kindInvalid,
}

// tell is a huma.Transformer: what huma says of a bad request gets a type, and
// loses the values that it repeats, which may be secrets.
func (s *Server) tell(ctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*huma.ErrorModel)
	if !ok || p.Type != "" {
		return v, nil
	}
	c := *p
	c.Type = typePrefix + string(kinds[p.Status])
	if p.Status >= 500 {
		s.log.Error("request failed", "operation", ctx.Operation().OperationID, "err", p.Errors)
		c.Type, c.Detail, c.Errors = typePrefix+string(kindInternal), "the server failed; its log says more", nil
	}
	c.Errors = nil
	for _, e := range p.Errors {
		if p.Status < 500 {
			c.Errors = append(c.Errors, &huma.ErrorDetail{Message: e.Message, Location: e.Location})
		}
	}
	return &c, nil
}

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p *huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // fails when the client has left
}
