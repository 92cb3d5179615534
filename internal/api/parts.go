package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"weir/internal/cluster"
	"weir/internal/policy"
)

// The parts of a space, its apps, domains, access keys and lists of addresses,
// are views of its document: to change one is to read the document, change it,
// and write it in the version that was read. Who sends If-Match says which
// version he has seen; without it a change of another part meanwhile does no
// harm, and the last one who writes a part wins.

// part is a kind of element of a space, a T, which is known by its key.
type part[T any] struct {
	what string // app
	list func(*policy.Space) *[]T
	key  func(*T) *string
	// same reports whether two keys are the same; nil: if they are equal.
	same func(a, b string) bool
}

func (p *part[T]) find(sp *policy.Space, key string) int {
	return slices.IndexFunc(*p.list(sp), func(e T) bool {
		k := *p.key(&e)
		return k == key || p.same != nil && p.same(k, key)
	})
}

// SpacePath names a space.
type SpacePath struct {
	Space string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
}

// Match is the version of the space's document that a writer has seen.
type Match struct {
	IfMatch     string `header:"If-Match" maxLength:"64" doc:"ETag of what was read: the change is made only if the space has not been changed since."`
	IfNoneMatch string `header:"If-None-Match" enum:"*" doc:"With *, the change is made only if there is no such thing yet."`
}

// PartOutput is a part as it is in a version of its space.
type PartOutput struct {
	ETag string `header:"ETag" doc:"Version of the space's document."`
	Body json.RawMessage
}

type partsOutput struct {
	ETag string `header:"ETag" doc:"Version of the space's document."`
	Body Page[json.RawMessage]
}

func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// document returns the document of a space.
func (s *Server) document(space string) (cluster.Document, *policy.Space, error) {
	d, err := s.Policy.Document("space/" + space)
	if err != nil {
		return d, nil, s.policyError(err, "body", "space", space)
	}
	return d, d.Value.(*policy.Space), nil
}

// encodePart writes a part with all its settings; secrets are asterisks. So are
// the queries of addresses, unless it is an admin who asks: they may hold keys.
func encodePart(ctx context.Context, v any) json.RawMessage {
	return policy.Encoding{Full: true, Bare: !caller(ctx).Role.allows(Admin)}.JSON(v)
}

func listParts[T any](ctx context.Context, s *Server, p *part[T], space string, paging Paging) (*partsOutput, error) {
	d, sp, err := s.document(space)
	if err != nil {
		return nil, err
	}
	pg, err := page(slices.Clone(*p.list(sp)), paging, sorting[T]{list: p.what, key: func(e *T) string { return *p.key(e) }})
	if err != nil {
		return nil, err
	}
	out := &partsOutput{ETag: etag(d.Version), Body: Page[json.RawMessage]{Items: []json.RawMessage{}, Next: pg.Next}}
	for i := range pg.Items {
		out.Body.Items = append(out.Body.Items, encodePart(ctx, &pg.Items[i]))
	}
	return out, nil
}

func getPart[T any](ctx context.Context, s *Server, p *part[T], space, key string) (*PartOutput, error) {
	d, sp, err := s.document(space)
	if err != nil {
		return nil, err
	}
	i := p.find(sp, key)
	if i < 0 {
		return nil, notFound(p.what, key)
	}
	return &PartOutput{etag(d.Version), encodePart(ctx, &(*p.list(sp))[i])}, nil
}

// change writes what f makes of a space, and returns the document as it is
// then. Writers of this node wait for each other; when those of other nodes were
// faster it does so again, unless m says which version was seen. Paths of what f made wrong are told as rename says.
func (s *Server) change(ctx context.Context, space string, m Match, note string, f func(*policy.Space) error, rename func(path string) string) (cluster.Document, error) {
	name := "space/" + space
	s.changing.Lock()
	defer s.changing.Unlock()
	for try := 1; ; try++ {
		d, sp, err := s.document(space)
		if err != nil {
			return d, err
		}
		if m.IfMatch != "" && m.IfMatch != "*" && m.IfMatch != etag(d.Version) {
			return d, problem(http.StatusPreconditionFailed, kindPrecondition, "the space %q has been changed; it has the version %s now", space, etag(d.Version))
		}
		next := new(policy.Space)
		if wrong := policy.DecodeJSON(policy.Encoding{Full: true, Secret: policy.Clear}.JSON(sp), next); wrong != nil {
			return d, fmt.Errorf("copy %s: %s", name, wrong[0].Message)
		}
		if err := f(next); err != nil {
			return d, err
		}
		if c := caller(ctx); c.Space != "" {
			if err := cmp.Or(opens(sp, next), claims(s.Policy.Set(), sp, next)); err != nil {
				return d, err
			}
		}
		results, err := s.Policy.Write(ctx, []cluster.Change{{Name: name, Value: next, Expect: d.Version}},
			cluster.Author{By: caller(ctx).Name, Note: note}, false)
		if changed := (*cluster.Changed)(nil); errors.As(err, &changed) && m.IfMatch == "" && try < 10 {
			continue
		}
		if wrong := (*cluster.Invalid)(nil); errors.As(err, &wrong) {
			var fields []field
			for _, p := range wrong.Problems {
				at := p.Document + "." + p.Path
				if p.Document == name {
					at = rename(p.Path)
				}
				fields = append(fields, field{at, p.Message})
			}
			return d, invalid(fields...)
		}
		if err != nil {
			return d, s.policyError(err, "body", "space", space)
		}
		return results[0].Document, nil
	}
}

// opens is the problem of a change by which a space would reach what it could
// not reach before: networks of whoever runs the server, or places in buckets in
// which there may be what belongs to others. That is for a token of all spaces.
func opens(old, next *policy.Space) error {
	const only = "only a token that is not for one space may allow that"
	allowed := networks(old)
	for n := range networks(next) {
		if !allowed[n] {
			return problem(http.StatusForbidden, kindScope, "allow_networks names %v, which the space could not reach so far: %s", n, only)
		}
	}
	mine := places(old)
	if len(mine) == 0 {
		mine[place{}] = true
	}
	for x := range places(next) {
		if !mine[x] {
			return problem(http.StatusForbidden, kindScope, "the space has had nothing in the bucket %.128q below the prefix %.128q so far: %s", x.bucket, x.prefix, only)
		}
	}
	had := logos(old)
	for x := range logos(next) {
		below := func(at place) bool {
			return x.bucket == at.bucket && (at.prefix == "" || strings.HasPrefix(x.prefix, at.prefix+"/"))
		}
		if !had[x] && !slices.ContainsFunc(slices.Collect(maps.Keys(mine)), below) {
			return problem(http.StatusForbidden, kindScope, "the logo %.128q in the bucket %.128q is not in a place of the space: %s", x.prefix, x.bucket, only)
		}
	}
	return nil
}

// claims is the problem of a change by which a space would take domains that
// are, or may be, of others.
func claims(set *policy.Set, old, next *policy.Space) error {
	for i := range next.Domains {
		name := next.Domains[i].Name
		if domains.find(old, name) < 0 && set.Foreign(next.Name, name) {
			return problem(http.StatusForbidden, kindScope, "the domain %.128q is not for this space: only a token that is not for one space may give it", name)
		}
	}
	return nil
}

// place is where a space keeps something, or one object.
type place struct{ bucket, prefix string }

// places returns where the apps of a space put recordings and pictures.
func places(sp *policy.Space) map[place]bool {
	m := make(map[place]bool)
	for i := range sp.Apps {
		a := &sp.Apps[i]
		m[place{a.Record.Bucket, a.Record.Prefix}] = true
		m[place{a.Snapshot.Bucket, a.Snapshot.Prefix}] = true
	}
	return m
}

// logos returns the pictures that the renditions of a space show.
func logos(sp *policy.Space) map[place]bool {
	m := make(map[place]bool)
	for _, a := range sp.Apps {
		for _, t := range a.Transcode {
			for _, o := range t.Outputs {
				for _, l := range o.Logos {
					m[place{l.Bucket, l.Key}] = true
				}
			}
		}
	}
	return m
}

// networks returns all networks that a space allows.
func networks(sp *policy.Space) map[policy.Network]bool {
	m := make(map[policy.Network]bool)
	add := func(list []policy.Network) {
		for _, n := range list {
			m[n] = true
		}
	}
	if sp.Delivery != nil {
		add(sp.Delivery.AllowNetworks)
	}
	for i := range sp.Domains {
		for _, use := range []policy.DomainType{policy.Publish, policy.Play} {
			if e := sp.Domains[i].Access(use).External; e != nil {
				add(e.AllowNetworks)
			}
		}
	}
	for i := range sp.Apps {
		if c := sp.Apps[i].Snapshot.Check; c != nil {
			add(c.AllowNetworks)
		}
	}
	return m
}

// below returns a function for change that says where in a body the settings
// below prefix are.
func below(prefix string) func(string) string {
	return func(path string) string {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return strings.TrimSuffix("body."+strings.TrimPrefix(rest, "."), ".")
		}
		return "space." + path
	}
}

// decodePart fills v from a body.
func decodePart(body []byte, v any) error {
	var fields []field
	for _, p := range policy.DecodeJSON(body, v) {
		fields = append(fields, field{strings.TrimSuffix("body."+p.Path, "."), p.Message})
	}
	if len(fields) > 0 {
		return invalid(fields...)
	}
	return nil
}

// putPart makes or replaces a part. What the body does not set has its default.
func putPart[T any](ctx context.Context, s *Server, p *part[T], list, space, key string, m Match, body []byte) (*PartOutput, error) {
	at := 0
	d, err := s.change(ctx, space, m, "", func(sp *policy.Space) error {
		e := new(T)
		if x, ok := any(e).(interface{ SetDefaults() }); ok {
			x.SetDefaults()
		}
		*p.key(e) = key
		if err := decodePart(body, e); err != nil {
			return err
		}
		if k := *p.key(e); k != key && (p.same == nil || !p.same(k, key)) {
			return invalid(field{"body." + keyName[T](), fmt.Sprintf("must be %.128q, as in the path, or absent", key)})
		}
		all := p.list(sp)
		if at = p.find(sp, key); at < 0 {
			at = len(*all)
			*all = append(*all, *e)
		} else {
			if m.IfNoneMatch == "*" {
				return problem(http.StatusPreconditionFailed, kindPrecondition, "there is a %s %.128q already", p.what, key)
			}
			if missing := policy.KeepSecrets(e, &(*all)[at]); missing != nil {
				var fields []field
				for _, path := range missing {
					fields = append(fields, field{"body." + path, "is *** and there is no secret here that could stay; write the secret itself"})
				}
				return invalid(fields...)
			}
			(*all)[at] = *e
		}
		return nil
	}, func(path string) string { return below(fmt.Sprintf("%s[%d]", list, at))(path) })
	if err != nil {
		return nil, err
	}
	sp := d.Value.(*policy.Space)
	i := p.find(sp, key)
	if i < 0 {
		return nil, notFound(p.what, key) // somebody has taken it out meanwhile
	}
	return &PartOutput{etag(d.Version), encodePart(ctx, &(*p.list(sp))[i])}, nil
}

// keyName is what the key of a T is called.
func keyName[T any]() string {
	if _, ok := any(new(T)).(*policy.AccessKey); ok {
		return "id"
	}
	return "name"
}

func deletePart[T any](ctx context.Context, s *Server, p *part[T], space, key string, m Match) error {
	_, sp, err := s.document(space)
	if err != nil {
		return err
	}
	if p.find(sp, key) < 0 {
		return nil // it is gone already
	}
	_, err = s.change(ctx, space, m, "", func(sp *policy.Space) error {
		if i := p.find(sp, key); i >= 0 {
			all := p.list(sp)
			*all = slices.Delete(*all, i, i+1)
		}
		return nil
	}, below("\x00"))
	return err
}

func sameHost(a, b string) bool { return strings.EqualFold(a, b) }

var (
	apps = &part[policy.App]{
		what: "app", list: func(sp *policy.Space) *[]policy.App { return &sp.Apps }, key: func(a *policy.App) *string { return &a.Name },
	}
	domains = &part[policy.Domain]{
		what: "domain", list: func(sp *policy.Space) *[]policy.Domain { return &sp.Domains }, key: func(d *policy.Domain) *string { return &d.Name }, same: sameHost,
	}
	accessKeys = &part[policy.AccessKey]{
		what: "access key", list: func(sp *policy.Space) *[]policy.AccessKey { return &sp.AccessKeys }, key: func(k *policy.AccessKey) *string { return &k.ID },
	}
)

// templatesOf are the templates of an app. Of an app that is not there, there
// are none; inApp says so.
func templatesOf(app string) *part[policy.Transcode] {
	return &part[policy.Transcode]{
		what: "template",
		list: func(sp *policy.Space) *[]policy.Transcode {
			if a := sp.App(app); a != nil {
				return &a.Transcode
			}
			return new([]policy.Transcode)
		},
		key: func(t *policy.Transcode) *string { return &t.Name },
	}
}

// inApp returns where in its space the templates of an app are, or the problem
// that there is no such app.
func (s *Server) inApp(p *AppPath) (list string, err error) {
	_, sp, err := s.document(p.Space)
	if err != nil {
		return "", err
	}
	i := apps.find(sp, p.App)
	if i < 0 {
		return "", notFound("app", p.App)
	}
	return fmt.Sprintf("apps[%d].transcode", i), nil
}

type templatesInput struct {
	AppPath
	Paging
}

// TemplatePath names a template.
type TemplatePath struct {
	AppPath
	Template string `path:"template" maxLength:"32" example:"hd" doc:"Name of the template."`
}

type templateWrite struct {
	TemplatePath
	Match
	RawBody []byte
}

type templateDelete struct {
	TemplatePath
	Match
}

func (s *Server) listTemplates(ctx context.Context, in *templatesInput) (*partsOutput, error) {
	if _, err := s.inApp(&in.AppPath); err != nil {
		return nil, err
	}
	return listParts(ctx, s, templatesOf(in.App), in.Space, in.Paging)
}

func (s *Server) getTemplate(ctx context.Context, in *TemplatePath) (*PartOutput, error) {
	if _, err := s.inApp(&in.AppPath); err != nil {
		return nil, err
	}
	return getPart(ctx, s, templatesOf(in.App), in.Space, in.Template)
}

func (s *Server) putTemplate(ctx context.Context, in *templateWrite) (*PartOutput, error) {
	list, err := s.inApp(&in.AppPath)
	if err != nil {
		return nil, err
	}
	return putPart(ctx, s, templatesOf(in.App), list, in.Space, in.Template, in.Match, in.RawBody)
}

func (s *Server) deleteTemplate(ctx context.Context, in *templateDelete) (*struct{}, error) {
	if _, err := s.inApp(&in.AppPath); err != nil {
		return nil, err
	}
	return nil, deletePart(ctx, s, templatesOf(in.App), in.Space, in.Template, in.Match)
}

// named returns a reference to the schema of t, which is called so in the
// document, and is as the decoder of the policy has it.
func (s *Server) named(name string, t reflect.Type) *huma.Schema {
	all := s.huma.OpenAPI().Components.Schemas.Map()
	if all[name] == nil {
		b, err := json.Marshal(policy.Schema(t))
		if err != nil {
			panic(err) // it is made of texts and numbers
		}
		var v map[string]any
		if err := json.Unmarshal(b, &v); err != nil {
			panic(err)
		}
		all[name] = schemaOf(v)
	}
	return &huma.Schema{Ref: "#/components/schemas/" + name}
}

// schemaOf returns a JSON schema as huma writes them.
func schemaOf(v map[string]any) *huma.Schema {
	sc := &huma.Schema{Extensions: map[string]any{}}
	for k, x := range v {
		switch k {
		case "type":
			if text, ok := x.(string); ok {
				sc.Type = text
				break
			}
			sc.Extensions["type"] = x
		case "properties":
			sc.Properties = map[string]*huma.Schema{}
			for name, p := range x.(map[string]any) {
				sc.Properties[name] = schemaOf(p.(map[string]any))
			}
		case "items":
			sc.Items = schemaOf(x.(map[string]any))
		case "additionalProperties":
			if m, ok := x.(map[string]any); ok {
				x = schemaOf(m)
			}
			sc.AdditionalProperties = x
		case "enum":
			sc.Enum = x.([]any)
		case "examples":
			sc.Examples = x.([]any)
		case "pattern":
			sc.Pattern = x.(string)
		case "description":
			sc.Description = x.(string)
		case "default":
			sc.Default = x
		default:
			sc.Extensions[k] = x
		}
	}
	return sc
}

type appsInput struct {
	SpacePath
	Paging
}

type appWrite struct {
	AppPath
	Match
	RawBody []byte
}

type appDelete struct {
	AppPath
	Match
}

// DomainPath names a domain.
type DomainPath struct {
	Space  string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
	Domain string `path:"domain" maxLength:"253" example:"localhost" doc:"Name of the domain: live.example.com, *.example.com or *."`
}

type domainWrite struct {
	DomainPath
	Match
	RawBody []byte
}

type domainDelete struct {
	DomainPath
	Match
}

// KeyPath names an access key.
type KeyPath struct {
	Space string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
	ID    string `path:"id" maxLength:"128" example:"key1" doc:"ID of the access key."`
}

// KeyInfo is an access key without its secret.
type KeyInfo struct {
	ID       string `json:"id"`
	Disabled bool   `json:"disabled" doc:"As if there were no such key."`
}

// NewKey is an access key that was made just now.
type NewKey struct {
	KeyInfo
	Secret string `json:"secret" doc:"Its secret. Nobody can learn it again by the API."`
}

type keyPage struct {
	ETag string `header:"ETag" doc:"Version of the space's document."`
	Body Page[KeyInfo]
}

func (s *Server) listKeys(_ context.Context, in *appsInput) (*keyPage, error) {
	d, sp, err := s.document(in.Space)
	if err != nil {
		return nil, err
	}
	var list []KeyInfo
	for _, k := range sp.AccessKeys {
		list = append(list, KeyInfo{k.ID, k.Disabled})
	}
	p, err := page(list, in.Paging, sorting[KeyInfo]{list: "keys", key: func(k *KeyInfo) string { return k.ID }})
	return &keyPage{etag(d.Version), p}, err
}

type newKeyInput struct {
	SpacePath
	Match
	Body struct {
		ID string `json:"id,omitempty" maxLength:"128" doc:"What to call it; absent: something that nobody guesses."`
	}
}

type newKeyOutput struct {
	ETag string `header:"ETag" doc:"Version of the space's document."`
	Body NewKey
}

func (s *Server) createKey(ctx context.Context, in *newKeyInput) (*newKeyOutput, error) {
	id, secret := in.Body.ID, rand.Text()+rand.Text()
	if id == "" {
		id = rand.Text()
	}
	d, err := s.change(ctx, in.Space, in.Match, "", func(sp *policy.Space) error {
		if accessKeys.find(sp, id) >= 0 {
			return problem(http.StatusConflict, kindConflict, "there is an access key %.128q already", id)
		}
		sp.AccessKeys = append(sp.AccessKeys, policy.AccessKey{ID: id, Secret: policy.NewSecret(secret)})
		return nil
	}, func(path string) string { return "body" + path[strings.LastIndexByte(path, '.'):] })
	if err != nil {
		return nil, err
	}
	return &newKeyOutput{etag(d.Version), NewKey{KeyInfo{ID: id}, secret}}, nil
}

type keyWrite struct {
	KeyPath
	Match
	Body struct {
		Disabled bool `json:"disabled" example:"true" doc:"As if there were no such key."`
	}
}

type keyOutput struct {
	ETag string `header:"ETag" doc:"Version of the space's document."`
	Body KeyInfo
}

func (s *Server) putKey(ctx context.Context, in *keyWrite) (*keyOutput, error) {
	d, err := s.change(ctx, in.Space, in.Match, "", func(sp *policy.Space) error {
		i := accessKeys.find(sp, in.ID)
		if i < 0 {
			return notFound("access key", in.ID)
		}
		sp.AccessKeys[i].Disabled = in.Body.Disabled
		return nil
	}, below("\x00"))
	if err != nil {
		return nil, err
	}
	return &keyOutput{etag(d.Version), KeyInfo{in.ID, in.Body.Disabled}}, nil
}

type keyDelete struct {
	KeyPath
	Match
}

// ListPath names the lists of addresses of a domain.
type ListPath struct {
	DomainPath
	Use string `path:"use" enum:"publish,play" example:"play" doc:"What the lists are about."`
}

type ipWrite struct {
	ListPath
	Match
	RawBody []byte
}

func (s *Server) getIP(ctx context.Context, in *ListPath) (*PartOutput, error) {
	d, sp, err := s.document(in.Space)
	if err != nil {
		return nil, err
	}
	i := domains.find(sp, in.Domain)
	if i < 0 {
		return nil, notFound("domain", in.Domain)
	}
	return &PartOutput{etag(d.Version), encodePart(ctx, &sp.Domains[i].Access(useOf(in.Use)).IP)}, nil
}

func (s *Server) putIP(ctx context.Context, in *ipWrite) (*PartOutput, error) {
	prefix := ""
	d, err := s.change(ctx, in.Space, in.Match, "", func(sp *policy.Space) error {
		i := domains.find(sp, in.Domain)
		if i < 0 {
			return notFound("domain", in.Domain)
		}
		prefix = fmt.Sprintf("domains[%d].%s.ip", i, in.Use)
		var lists policy.AddrLists
		if err := decodePart(in.RawBody, &lists); err != nil {
			return err
		}
		sp.Domains[i].Access(useOf(in.Use)).IP = lists
		return nil
	}, func(path string) string { return below(prefix)(path) })
	if err != nil {
		return nil, err
	}
	sp := d.Value.(*policy.Space)
	i := domains.find(sp, in.Domain)
	if i < 0 {
		return nil, notFound("domain", in.Domain)
	}
	return &PartOutput{etag(d.Version), encodePart(ctx, &sp.Domains[i].Access(useOf(in.Use)).IP)}, nil
}

// useOf is the policy.DomainType of a word.
func useOf(word string) policy.DomainType {
	if word == policy.Publish.String() {
		return policy.Publish
	}
	return policy.Play
}

func (s *Server) partRoutes() {
	app, domain, list := s.named("App", reflect.TypeFor[policy.App]()), s.named("Domain", reflect.TypeFor[policy.Domain]()), s.named("AddrLists", reflect.TypeFor[policy.AddrLists]())
	pageOf := func(items *huma.Schema) *huma.Schema {
		return &huma.Schema{
			Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"items"},
			Properties: map[string]*huma.Schema{
				"items": {Type: huma.TypeArray, Items: items, Description: "In the order of their names."},
				"next":  {Type: huma.TypeString, Description: "Cursor of the next page; absent on the last one."},
			},
		}
	}
	const puts = "What the body does not set has its default, and a secret that is *** stays what it is. " +
		"Without If-Match the change is made whatever else of the space was changed meanwhile. A push that is running keeps the settings that it began with."
	const deletes = "One that is gone is no error."
	read := func(id, path, summary string, answer *huma.Schema) route {
		return route{ID: id, Method: http.MethodGet, Path: path, Tag: "Policy", Summary: summary, Role: Viewer, Scope: InSpace, Answer: answer}
	}
	write := func(id, method, path, summary, detail string, body *huma.Schema) route {
		return route{
			ID: id, Method: method, Path: path, Tag: "Policy", Summary: summary, Detail: detail, Role: Admin, Scope: InSpace,
			Errors: []int{409, 412, 503}, Body: body, Answer: body,
		}
	}

	add(s, read("listApps", "/spaces/{space}/apps", "List the apps of a space", pageOf(app)), func(ctx context.Context, in *appsInput) (*partsOutput, error) {
		return listParts(ctx, s, apps, in.Space, in.Paging)
	})
	add(s, read("getApp", "/spaces/{space}/apps/{app}", "An app and its settings", app), func(ctx context.Context, in *AppPath) (*PartOutput, error) {
		return getPart(ctx, s, apps, in.Space, in.App)
	})
	add(s, write("putApp", http.MethodPut, "/spaces/{space}/apps/{app}", "Make or change an app", puts, app), func(ctx context.Context, in *appWrite) (*PartOutput, error) {
		return putPart(ctx, s, apps, "apps", in.Space, in.App, in.Match, in.RawBody)
	})
	add(s, write("deleteApp", http.MethodDelete, "/spaces/{space}/apps/{app}", "Take an app out of its space",
		deletes+" Who is in the app stays: to end everybody in it, disable it.", nil), func(ctx context.Context, in *appDelete) (*struct{}, error) {
		return nil, deletePart(ctx, s, apps, in.Space, in.App, in.Match)
	})

	template := s.named("Template", reflect.TypeFor[policy.Transcode]())
	s.huma.OpenAPI().Components.Schemas.SchemaFromRef(template.Ref).Examples = []any{map[string]any{
		"trigger": "play", "outputs": []any{map[string]any{"suffix": "_hd", "short_side": 720, "bit_rate": 2_000_000}},
	}}
	const oneTemplate = "/spaces/{space}/apps/{app}/templates/{template}"
	add(s, read("listTemplates", "/spaces/{space}/apps/{app}/templates", "List the transcoding templates of an app", pageOf(template)), s.listTemplates)
	add(s, read("getTemplate", oneTemplate, "A transcoding template", template), s.getTemplate)
	add(s, write("putTemplate", http.MethodPut, oneTemplate, "Make or change a transcoding template", puts, template), s.putTemplate)
	add(s, write("deleteTemplate", http.MethodDelete, oneTemplate, "Take a transcoding template out of its app", deletes, nil), s.deleteTemplate)

	add(s, read("listDomains", "/spaces/{space}/domains", "List the domains of a space", pageOf(domain)), func(ctx context.Context, in *appsInput) (*partsOutput, error) {
		return listParts(ctx, s, domains, in.Space, in.Paging)
	})
	add(s, read("getDomain", "/spaces/{space}/domains/{domain}", "A domain and its settings", domain), func(ctx context.Context, in *DomainPath) (*PartOutput, error) {
		return getPart(ctx, s, domains, in.Space, in.Domain)
	})
	add(s, write("putDomain", http.MethodPut, "/spaces/{space}/domains/{domain}", "Make or change a domain", puts, domain), func(ctx context.Context, in *domainWrite) (*PartOutput, error) {
		return putPart(ctx, s, domains, "domains", in.Space, in.Domain, in.Match, in.RawBody)
	})
	add(s, write("deleteDomain", http.MethodDelete, "/spaces/{space}/domains/{domain}", "Take a domain out of its space",
		deletes+" Who came by it is ended.", nil), func(ctx context.Context, in *domainDelete) (*struct{}, error) {
		return nil, deletePart(ctx, s, domains, in.Space, in.Domain, in.Match)
	})

	add(s, read("getAddressLists", "/spaces/{space}/domains/{domain}/{use}/ip", "The addresses that may use a domain", list), s.getIP)
	add(s, write("putAddressLists", http.MethodPut, "/spaces/{space}/domains/{domain}/{use}/ip", "Change the addresses that may use a domain",
		"Block wins, and an allow list that is not empty keeps out all others. Who is kept out now is ended.", list), s.putIP)

	add(s, read("listAccessKeys", "/spaces/{space}/access-keys", "List the access keys of a space", nil), s.listKeys)
	create := write("createAccessKey", http.MethodPost, "/spaces/{space}/access-keys", "Make an access key",
		"The answer is the only place where its secret stands. Give it to those who sign URLs for their clients.", nil)
	create.Status = http.StatusCreated
	add(s, create, s.createKey)
	add(s, write("putAccessKey", http.MethodPut, "/spaces/{space}/access-keys/{id}", "Disable an access key, or enable it again", "Who came in by a key that is disabled is ended.", nil), s.putKey)
	add(s, write("deleteAccessKey", http.MethodDelete, "/spaces/{space}/access-keys/{id}", "Take an access key out of its space",
		deletes+" Who came in by it is ended.", nil), func(ctx context.Context, in *keyDelete) (*struct{}, error) {
		return nil, deletePart(ctx, s, accessKeys, in.Space, in.ID, in.Match)
	})
}
