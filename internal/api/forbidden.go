package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"weir/internal/cluster"
	"weir/internal/policy"
)

// Forbidden is a stream, or all of an app, that is kept off the air.
type Forbidden struct {
	Space      string    `json:"space"`
	App        string    `json:"app"`
	Stream     string    `json:"stream,omitempty" doc:"Absent: every stream of the app."`
	Type       string    `json:"type" enum:"publish,play,both" doc:"What is forbidden."`
	Until      time.Time `json:"until,omitzero" doc:"Absent: for ever."`
	By         string    `json:"by,omitempty" doc:"Name of the token that forbade it."`
	At         time.Time `json:"at,omitzero" doc:"When that was."`
	Note       string    `json:"note,omitempty" doc:"Why, as it was said then."`
	Configured bool      `json:"configured" doc:"It stands in the configuration of the space, and ends with a change of it."`
}

func forbiddenOf(b cluster.Ban) Forbidden {
	return Forbidden{b.Space, b.App, b.Stream, b.Type.String(), b.Until, b.By, b.At, b.Note, b.Configured}
}

type forbiddenInput struct {
	Paging
	Space string `query:"space" maxLength:"128" doc:"Of this space only."`
	App   string `query:"app" maxLength:"128" doc:"Of this app only."`
}

type forbiddenPage struct{ Body Page[Forbidden] }

func (s *Server) listForbidden(ctx context.Context, in *forbiddenInput) (*forbiddenPage, error) {
	c := caller(ctx)
	var list []Forbidden
	for _, sp := range s.Policy.Set().Spaces {
		if !c.Sees(sp.Name) || in.Space != "" && in.Space != sp.Name {
			continue
		}
		for _, b := range s.Policy.Forbidden(sp.Name) {
			if in.App == "" || in.App == b.App {
				list = append(list, forbiddenOf(b))
			}
		}
	}
	p, err := page(list, in.Paging, sorting[Forbidden]{list: "forbidden", key: func(f *Forbidden) string {
		key := f.Space + "/" + f.App + "/" + f.Stream + "/" + f.Type
		if f.Configured {
			key += "/" + f.Until.Format(time.RFC3339Nano)
		}
		return key
	}})
	return &forbiddenPage{p}, err
}

// AppPath names an app.
type AppPath struct {
	Space string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
	App   string `path:"app" maxLength:"128" example:"live" doc:"Name of the app."`
}

// CheckOutput says what is forbidden of a stream.
type CheckOutput struct {
	Body struct {
		Publish bool        `json:"publish" doc:"Nobody may publish it now."`
		Play    bool        `json:"play" doc:"Nobody may play it now."`
		By      []Forbidden `json:"by" nullable:"false" doc:"What forbids it: the stream itself, or all of its app."`
	}
}

func (s *Server) checkForbidden(_ context.Context, in *StreamPath) (*CheckOutput, error) {
	return s.check(in.Space, in.App, in.Stream)
}

func (s *Server) checkForbiddenApp(_ context.Context, in *AppPath) (*CheckOutput, error) {
	return s.check(in.Space, in.App, "")
}

func (s *Server) check(space, app, name string) (*CheckOutput, error) {
	if _, err := s.space(space); err != nil {
		return nil, err
	}
	out := &CheckOutput{}
	out.Body.By = []Forbidden{}
	for _, b := range s.Policy.Forbidden(space) {
		if b.App == app && (b.Stream == "" || b.Stream == name) {
			out.Body.By = append(out.Body.By, forbiddenOf(b))
			out.Body.Publish = out.Body.Publish || b.Type.Allows(policy.Publish)
			out.Body.Play = out.Body.Play || b.Type.Allows(policy.Play)
		}
	}
	return out, nil
}

// Ban is what to forbid, and for how long.
type Ban struct {
	Type  string    `json:"type,omitempty" enum:"publish,play,both" default:"both" doc:"What to forbid."`
	Until time.Time `json:"until,omitzero" example:"2100-01-01T00:00:00Z" doc:"Until when; absent: for ever."`
	Note  string    `json:"note,omitempty" maxLength:"1000" doc:"Why."`
}

type forbidInput struct {
	StreamPath
	Body Ban
}

type forbidAppInput struct {
	AppPath
	Body Ban
}

type forbiddenOutput struct{ Body Forbidden }

func (s *Server) forbidStream(ctx context.Context, in *forbidInput) (*forbiddenOutput, error) {
	return s.forbid(ctx, in.Space, in.App, in.Stream, &in.Body)
}

func (s *Server) forbidApp(ctx context.Context, in *forbidAppInput) (*forbiddenOutput, error) {
	return s.forbid(ctx, in.Space, in.App, "", &in.Body)
}

// forbid ends what is forbidden then, too: the node does so for each change of
// what is in force.
func (s *Server) forbid(ctx context.Context, space, app, name string, ban *Ban) (*forbiddenOutput, error) {
	b := cluster.Ban{Space: space, App: app, Stream: name, Until: ban.Until, By: caller(ctx).Name, Note: ban.Note}
	if err := b.Type.UnmarshalText([]byte(ban.Type)); err != nil {
		return nil, invalid(field{"body.type", err.Error()})
	}
	if err := s.Policy.Forbid(ctx, b); err != nil {
		return nil, s.policyError(err, "body", "space", space)
	}
	for _, now := range s.Policy.Forbidden(space) {
		if now.App == app && now.Stream == name && !now.Configured {
			b = now
		}
	}
	return &forbiddenOutput{forbiddenOf(b)}, nil
}

func (s *Server) resumeStream(ctx context.Context, in *StreamPath) (*struct{}, error) {
	return nil, s.resume(ctx, in.Space, in.App, in.Stream)
}

func (s *Server) resumeApp(ctx context.Context, in *AppPath) (*struct{}, error) {
	return nil, s.resume(ctx, in.Space, in.App, "")
}

func (s *Server) resume(ctx context.Context, space, app, name string) error {
	if _, err := s.space(space); err != nil {
		return err
	}
	_, err := s.Policy.Resume(ctx, space, app, name, caller(ctx).Name)
	if err == nil || errors.Is(err, cluster.ErrNotFound) {
		return nil // what is not forbidden has been resumed
	}
	return s.policyError(err, "body", "space", space)
}

// policyError is the problem of an error of the policy. Paths in it begin with
// at; what and name are what is not there if something is not.
func (s *Server) policyError(err error, at, what, name string) error {
	var changed *cluster.Changed
	var wrong *cluster.Invalid
	switch {
	case errors.As(err, &changed):
		return problem(http.StatusPreconditionFailed, kindPrecondition, "%v", changed)
	case errors.As(err, &wrong):
		var fields []field
		for _, p := range wrong.Problems {
			fields = append(fields, field{strings.TrimSuffix(at+"."+p.Path, "."), p.Message})
		}
		return invalid(fields...)
	case errors.Is(err, cluster.ErrNotFound):
		return notFound(what, name)
	case errors.Is(err, cluster.ErrFileRules), errors.Is(err, cluster.ErrConfigured):
		return problem(http.StatusConflict, kindConflict, "%v", err)
	case errors.Is(err, cluster.ErrAway):
		return s.unavailable(err)
	}
	return err
}

// space returns the space of that name as it is in force.
func (s *Server) space(name string) (*policy.Space, error) {
	set := s.Policy.Set()
	for i := range set.Spaces {
		if set.Spaces[i].Name == name {
			return &set.Spaces[i], nil
		}
	}
	return nil, notFound("space", name)
}

func (s *Server) forbiddenRoutes() {
	const stream, app = "/forbidden/{space}/{app}/{stream}", "/forbidden/{space}/{app}"
	const ends = "Whoever publishes or plays it now is told so and ended; who comes is refused with 4/0 Forbidden By Blacklist. " +
		"What was said before about the same stands no more. It is in force on all nodes within a second."
	add(s, route{
		ID: "listForbidden", Method: http.MethodGet, Path: "/forbidden", Tag: "Streams", Summary: "List what is forbidden",
		Role: Viewer, Scope: Filtered,
	}, s.listForbidden)
	add(s, route{
		ID: "checkForbidden", Method: http.MethodGet, Path: stream, Tag: "Streams", Summary: "Say whether a stream is forbidden",
		Detail: "Whether there is such a stream or app makes no difference.",
		Role:   Viewer, Scope: InSpace,
	}, s.checkForbidden)
	add(s, route{
		ID: "forbidStream", Method: http.MethodPut, Path: stream, Tag: "Streams", Summary: "Forbid a stream", Detail: ends,
		Role: Operator, Scope: InSpace, Errors: []int{409, 503},
	}, s.forbidStream)
	add(s, route{
		ID: "resumeStream", Method: http.MethodDelete, Path: stream, Tag: "Streams", Summary: "Resume a stream",
		Detail: "What is not forbidden is no error; what the configuration of the space forbids is.",
		Role:   Operator, Scope: InSpace, Errors: []int{409, 503},
	}, s.resumeStream)
	add(s, route{
		ID: "checkForbiddenApp", Method: http.MethodGet, Path: app, Tag: "Streams", Summary: "Say whether all of an app is forbidden",
		Role: Viewer, Scope: InSpace,
	}, s.checkForbiddenApp)
	add(s, route{
		ID: "forbidApp", Method: http.MethodPut, Path: app, Tag: "Streams", Summary: "Forbid all streams of an app", Detail: ends,
		Role: Operator, Scope: InSpace, Errors: []int{409, 503},
	}, s.forbidApp)
	add(s, route{
		ID: "resumeApp", Method: http.MethodDelete, Path: app, Tag: "Streams", Summary: "Resume the streams of an app",
		Detail: "Streams that are forbidden by themselves stay so.",
		Role:   Operator, Scope: InSpace, Errors: []int{409, 503},
	}, s.resumeApp)
}
