package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"weir/internal/access"
)

type signInput struct {
	Body struct {
		URL     string    `json:"url" minLength:"1" maxLength:"4096" example:"rtmp://localhost/live/demo" doc:"The URL without anything that authenticates: rtmp, rtmps, http, https, ws or wss."`
		Does    string    `json:"does" enum:"publish,play" example:"play" doc:"What it is for."`
		Expires time.Time `json:"expires,omitzero" doc:"How long it is to be valid; absent: two hours. The domain may allow less."`
	}
}

// SignedURL is a URL that is accepted.
type SignedURL struct {
	URL     string    `json:"url"`
	Methods []string  `json:"methods" nullable:"false" doc:"How it is authenticated; nothing where the domain asks for nothing."`
	Expires time.Time `json:"expires,omitzero"`
}

type signOutput struct {
	Body struct {
		Items []SignedURL `json:"items" nullable:"false" doc:"One that has all that the domain demands; where any method will do, one of each."`
	}
}

// request reads the URL of a body; to the caller, spaces that are not his do
// not exist.
func (s *Server) request(ctx context.Context, op access.Op, url string) (access.Request, error) {
	r, err := access.FromURL(op, url)
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return r, invalid(field{"body.url", d.Message})
	}
	if err != nil {
		return r, invalid(field{"body.url", "must be a URL of a stream: rtmp, rtmps, http, https, ws or wss"})
	}
	if c := caller(ctx); c.Space != "" {
		sp, _ := s.Policy.Set().Domain(r.Host)
		if sp == nil || sp.Name != c.Space {
			return r, notFound("domain", r.Host)
		}
	}
	return r, nil
}

func (s *Server) signURL(ctx context.Context, in *signInput) (*signOutput, error) {
	b := &in.Body
	r, err := s.request(ctx, use(b.Does), b.URL)
	if err != nil {
		return nil, err
	}
	until := b.Expires
	if until.IsZero() {
		until = time.Now().Add(2 * time.Hour)
	}
	if !until.After(time.Now()) {
		return nil, invalid(field{"body.expires", "must be in the future"})
	}
	signed, err := s.Gate.Sign(r, until)
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return nil, invalid(field{"body.url", "no signature can help: " + d.Message})
	}
	if err != nil {
		return nil, problem(http.StatusConflict, kindConflict, "%v", err)
	}
	out := &signOutput{}
	out.Body.Items = []SignedURL{}
	if len(signed) == 0 {
		out.Body.Items = append(out.Body.Items, SignedURL{URL: b.URL, Methods: []string{}})
	}
	for _, x := range signed {
		out.Body.Items = append(out.Body.Items, SignedURL{URL: x.Apply(b.URL), Methods: x.Methods, Expires: x.Until.UTC().Truncate(time.Second)})
	}
	return out, nil
}

type verifyInput struct {
	Body struct {
		URL       string     `json:"url" minLength:"1" maxLength:"4096" example:"rtmp://localhost/live/demo" doc:"The URL as the client has it."`
		Does      string     `json:"does" enum:"publish,play" example:"play" doc:"What it is for."`
		Addr      netip.Addr `json:"addr,omitzero" doc:"Address of the client; absent: 127.0.0.1."`
		Referer   string     `json:"referer,omitempty" maxLength:"2048" doc:"The page that an HTTP player is on."`
		UserAgent string     `json:"user_agent,omitempty" maxLength:"2048" doc:"What an HTTP player says it is."`
	}
}

// Verdict is what the checks find in a URL.
type Verdict struct {
	Accepted bool        `json:"accepted"`
	Steps    []CheckStep `json:"steps" nullable:"false" doc:"In their order; the last one says what the client is told."`
}

// CheckStep is one check of a URL.
type CheckStep struct {
	Check  string `json:"check"`
	Passed bool   `json:"passed"`
	Text   string `json:"text"`
}

type verifyOutput struct{ Body Verdict }

func (s *Server) verifyURL(ctx context.Context, in *verifyInput) (*verifyOutput, error) {
	b := &in.Body
	r, err := s.request(ctx, use(b.Does), b.URL)
	if err != nil {
		return nil, err
	}
	addr := b.Addr.Unmap()
	if !addr.IsValid() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	r.Addr, r.Referer, r.UserAgent = netip.AddrPortFrom(addr, 0), b.Referer, b.UserAgent
	out := &verifyOutput{Verdict{Steps: []CheckStep{}}}
	for _, st := range s.Gate.Explain(r) {
		out.Body.Steps = append(out.Body.Steps, CheckStep{st.Name, st.Passed, st.Text})
		out.Body.Accepted = st.Passed
	}
	return out, nil
}

func (s *Server) urlRoutes() {
	add(s, route{
		ID: "signURL", Method: http.MethodPost, Path: "/urls/sign", Tag: "Policy", Summary: "Sign a URL",
		Detail: "With the keys of the domain, so that it is accepted until it expires.",
		Role:   Operator, Scope: Filtered, Reads: true, Errors: []int{404, 409},
	}, s.signURL)
	add(s, route{
		ID: "verifyURL", Method: http.MethodPost, Path: "/urls/verify", Tag: "Policy", Summary: "Say why a URL is accepted, or is not",
		Detail: "Nothing is asked of others or remembered.",
		Role:   Viewer, Scope: Filtered, Reads: true, Errors: []int{404},
	}, s.verifyURL)
}
