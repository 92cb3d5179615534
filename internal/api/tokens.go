package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"weir/internal/policy"
)

// TokenInfo is a token as the API shows it.
type TokenInfo struct {
	ID        string    `json:"id" doc:"Names the token; it is the part between the underscores of its text."`
	Name      string    `json:"name" doc:"What somebody called it."`
	Role      Role      `json:"role" enum:"viewer,operator,admin"`
	Space     string    `json:"space,omitempty" doc:"The only space that it is for; absent: all."`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by,omitempty" doc:"Name of the token that made it."`
	Expires   time.Time `json:"expires,omitzero" doc:"Absent: never."`
	Expired   bool      `json:"expired"`
}

func tokenInfo(t *Token, now time.Time) TokenInfo {
	return TokenInfo{t.ID, t.Name, t.Role, t.Space, t.Created, t.CreatedBy, t.Expires, t.Expired(now)}
}

// NewToken is a token that was made just now.
type NewToken struct {
	TokenInfo
	Token string `json:"token" doc:"The token. Nobody can learn it again."`
}

// TokenPage is a part of the list of tokens.
type TokenPage struct{ Body Page[TokenInfo] }

type tokenInput struct {
	Body struct {
		Name    string    `json:"name" minLength:"1" maxLength:"128" example:"grafana" doc:"What to call it: letters, digits, . _ and -."`
		Role    Role      `json:"role" enum:"viewer,operator,admin" example:"viewer"`
		Space   string    `json:"space,omitempty" maxLength:"128" doc:"The only space that it is to be for."`
		Expires time.Time `json:"expires,omitzero" doc:"When it is to end; absent: never. A token that ends makes none that ends later."`
	}
}

type newTokenOutput struct{ Body NewToken }

func (s *Server) createToken(ctx context.Context, in *tokenInput) (*newTokenOutput, error) {
	b, c := &in.Body, caller(ctx)
	var wrong []field
	if !policy.ValidName(b.Name) {
		wrong = append(wrong, field{"body.name", "must be " + policy.NameForm})
	}
	if b.Space != "" && !policy.ValidName(b.Space) {
		wrong = append(wrong, field{"body.space", "must be " + policy.NameForm})
	}
	if !b.Expires.IsZero() && !b.Expires.After(time.Now()) {
		wrong = append(wrong, field{"body.expires", "must be in the future"})
	}
	if !c.Expires.IsZero() && (b.Expires.IsZero() || b.Expires.After(c.Expires)) {
		wrong = append(wrong, field{"body.expires", "must not be later than the end of the token that makes it: " + c.Expires.Format(time.RFC3339)})
	}
	if len(wrong) > 0 {
		return nil, invalid(wrong...)
	}
	if c.Space != "" && c.Space != b.Space {
		return nil, problem(http.StatusForbidden, kindScope, "the token %q can only make tokens for its own space %q", c.Name, c.Space)
	}
	t, text, err := s.Tokens.Create(ctx, Token{Name: b.Name, Role: b.Role, Space: b.Space, Expires: b.Expires.UTC(), CreatedBy: c.Name})
	if errors.Is(err, ErrTooManyTokens) {
		return nil, problem(http.StatusConflict, kindConflict, "%v", err)
	}
	if err != nil {
		return nil, s.unavailable(err)
	}
	return &newTokenOutput{NewToken{tokenInfo(t, time.Now()), text}}, nil
}

type tokensInput struct{ Paging }

func (s *Server) listTokens(ctx context.Context, in *tokensInput) (*TokenPage, error) {
	now, c := time.Now(), caller(ctx)
	all, err := s.Tokens.List()
	if err != nil {
		return nil, s.unavailable(err)
	}
	var list []TokenInfo
	for _, t := range all {
		if c.Space == "" || c.Space == t.Space {
			list = append(list, tokenInfo(t, now))
		}
	}
	p, err := page(list, in.Paging, sorting[TokenInfo]{
		list: "tokens", key: func(t *TokenInfo) string { return t.Name + " " + t.ID },
	})
	return &TokenPage{p}, err
}

type tokenPath struct {
	ID string `path:"id" maxLength:"8" example:"abcdefgh" doc:"ID of the token."`
}

func (s *Server) revokeToken(ctx context.Context, in *tokenPath) (*struct{}, error) {
	c := caller(ctx)
	all, err := s.Tokens.List()
	if err != nil {
		return nil, s.unavailable(err)
	}
	for _, t := range all {
		if t.ID != in.ID || !(c.Space == "" || c.Space == t.Space) {
			continue
		}
		if err := s.Tokens.Revoke(ctx, t.ID); err != nil && !errors.Is(err, ErrNoToken) {
			return nil, s.unavailable(err)
		}
	}
	return nil, nil // one that is gone, or never was, is no error
}

type selfOutput struct {
	Body struct {
		TokenInfo
		Node      string            `json:"node" doc:"Name of the node that answers."`
		Version   string            `json:"version" doc:"Version of weir that the node runs."`
		Addresses map[string]string `json:"addresses" nullable:"false" doc:"Of its listeners, by their names in weir.yaml."`
	}
}

func (s *Server) self(ctx context.Context, _ *struct{}) (*selfOutput, error) {
	out := &selfOutput{}
	out.Body.TokenInfo = tokenInfo(caller(ctx).Token, time.Now())
	out.Body.Node, out.Body.Version, out.Body.Addresses = s.Node, s.Version, s.Self().Addresses
	if out.Body.Addresses == nil {
		out.Body.Addresses = map[string]string{}
	}
	return out, nil
}

// unavailable is the problem of a store that did not take a write, or cannot be
// read. It is logged; a client is told that it may try again.
func (s *Server) unavailable(err error) error {
	s.log.Error("the store cannot be used", "err", err)
	text := "the store cannot be reached; nothing was changed, try again"
	if strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		text = "the store does not answer; the change may have been made or not, look before you try again"
	}
	return away("%s", text)
}

func (s *Server) tokenRoutes() {
	add(s, route{
		ID: "whoAmI", Method: http.MethodGet, Path: "/self", Tag: "Tokens", Summary: "What the token of the caller may",
		Role: Viewer, Scope: Filtered,
	}, s.self)
	add(s, route{
		ID: "listTokens", Method: http.MethodGet, Path: "/tokens", Tag: "Tokens", Summary: "List tokens",
		Role: Admin, Scope: Filtered, Errors: []int{503},
	}, s.listTokens)
	add(s, route{
		ID: "createToken", Method: http.MethodPost, Path: "/tokens", Tag: "Tokens", Summary: "Make a token",
		Detail: "The answer is the only place where the token itself stands. The token of a space can make tokens for that space only.",
		Role:   Admin, Scope: Filtered, Status: http.StatusCreated, Errors: []int{409, 503},
	}, s.createToken)
	add(s, route{
		ID: "revokeToken", Method: http.MethodDelete, Path: "/tokens/{id}", Tag: "Tokens", Summary: "Revoke a token",
		Detail: "It is refused from then on, by other nodes within a second. To revoke one that is not there is no error.",
		Role:   Admin, Scope: Filtered, Errors: []int{503},
	}, s.revokeToken)
}
