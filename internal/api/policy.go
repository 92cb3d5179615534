package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weir/internal/cluster"
	"weir/internal/policy"
)

// The policy as a whole, and its documents as they are stored: what weir apply,
// get, diff and export need, and whoever keeps his policy in git. The parts of a
// space have endpoints of their own.

type policyInput struct {
	Secrets bool `query:"secrets" doc:"With secrets as they are; needs the role admin. Otherwise they are asterisks."`
}

type policyOutput struct {
	ETag    string `header:"ETag" doc:"Version of the whole policy."`
	Version string `header:"Weir-Policy-Version" doc:"The same without quotes: up to which change of the store this is."`
	Body    json.RawMessage
}

func (s *Server) getPolicy(ctx context.Context, in *policyInput) (*policyOutput, error) {
	e := policy.Encoding{Bare: !caller(ctx).Role.allows(Admin)}
	if in.Secrets {
		if c := caller(ctx); !c.Role.allows(Admin) {
			return nil, problem(http.StatusForbidden, kindRole, "the token %q has the role %s; secrets need the role %s", c.Name, c.Role, Admin)
		}
		s.log.Warn("the policy was exported with its secrets", "token", caller(ctx).Name, "client", caller(ctx).Addr)
		e.Secret = policy.Clear
	}
	set, version := s.Policy.Whole()
	return &policyOutput{etag(version), fmt.Sprint(version), e.JSON(set)}, nil
}

type applyInput struct {
	DryRun  bool   `query:"dry_run" doc:"Only say what would be changed."`
	Prune   bool   `query:"prune" doc:"Delete documents that the body does not have."`
	Note    string `query:"note" maxLength:"500" doc:"Why, for the history."`
	IfMatch string `header:"If-Match" maxLength:"64" doc:"ETag of the whole policy that was read: nothing is changed if it has been changed since."`
	RawBody []byte
}

// Applied is what became of each document.
type Applied struct {
	DryRun    bool              `json:"dry_run"`
	Version   uint64            `json:"version" doc:"Of the whole policy: now, or with dry_run that in which it was compared. In quotes it is its ETag."`
	Documents []AppliedDocument `json:"documents" nullable:"false"`
}

// AppliedDocument is what became of one.
type AppliedDocument struct {
	Document string              `json:"document"`
	Action   string              `json:"action" enum:"created,changed,unchanged,deleted"`
	Version  uint64              `json:"version" doc:"That it has now."`
	Before   uint64              `json:"before,omitempty" doc:"That it had before."`
	Changes  []policy.Difference `json:"changes,omitempty" doc:"Setting by setting; secrets are asterisks."`
}

type applyOutput struct {
	ETag string `header:"ETag" doc:"Version of the whole policy."`
	Body Applied
}

func (s *Server) applyPolicy(ctx context.Context, in *applyInput) (*applyOutput, error) {
	set := new(policy.Set)
	err := decodePart(in.RawBody, set)
	if err != nil {
		return nil, err
	}
	author := cluster.Author{By: caller(ctx).Name, Note: in.Note}
	_, version := s.Policy.Whole()
	if in.IfMatch != "" && in.IfMatch != "*" {
		if author.Seen, err = (&Match{IfMatch: in.IfMatch}).expect(); err != nil {
			return nil, err
		}
	}
	results, err := s.Policy.Apply(ctx, set, in.Prune, in.DryRun, author)
	var wrong *cluster.Invalid
	if errors.As(err, &wrong) {
		var fields []field
		for _, p := range wrong.Problems {
			if path, ok := set.Path(p.Document, p.Path); ok {
				fields = append(fields, field{"body." + path, p.Message})
			} else {
				fields = append(fields, field{"policy." + p.Document + "." + p.Path, p.Message})
			}
		}
		return nil, invalid(fields...)
	}
	if err != nil {
		return nil, s.policyError(err, "body", "document", "")
	}
	out := &applyOutput{Body: Applied{DryRun: in.DryRun, Documents: []AppliedDocument{}}}
	for i := range results {
		r := &results[i]
		d := AppliedDocument{Document: r.Name, Action: "changed", Version: r.Version, Before: r.Before, Changes: r.Changes}
		switch {
		case r.Deleted:
			d.Action = "deleted"
		case r.Before == 0 && len(r.Changes) > 0 && !s.Policy.FileRules():
			d.Action = "created"
		case len(r.Changes) == 0:
			d.Action = "unchanged"
		}
		if !in.DryRun && d.Action != "unchanged" {
			version = max(version, r.Version) // what was written last: nothing else came between
		}
		out.Body.Documents = append(out.Body.Documents, d)
	}
	out.Body.Version, out.ETag = version, etag(version)
	return out, nil
}

// DocumentInfo is a version of a document.
type DocumentInfo struct {
	Document string    `json:"document" doc:"Its name: space/demo, bucket/recordings, general."`
	Version  uint64    `json:"version"`
	By       string    `json:"by,omitempty" doc:"Name of the token that wrote it, or where else it came from."`
	At       time.Time `json:"at,omitzero" doc:"When."`
	Note     string    `json:"note,omitempty" doc:"What was changed."`
	Deleted  bool      `json:"deleted,omitempty"`
}

func infoOf(d *cluster.Document) DocumentInfo {
	return DocumentInfo{d.Name, d.Version, d.By, d.At, d.Note, d.Deleted}
}

type documentsInput struct {
	Paging
	Kind string `query:"kind" maxLength:"64" doc:"Only documents of this kind: space, bucket …"`
}

type documentPage struct{ Body Page[DocumentInfo] }

func (s *Server) listDocuments(_ context.Context, in *documentsInput) (*documentPage, error) {
	var list []DocumentInfo
	for _, d := range s.Policy.Documents(in.Kind) {
		list = append(list, infoOf(&d))
	}
	p, err := page(list, in.Paging, sorting[DocumentInfo]{list: "documents", key: func(d *DocumentInfo) string { return d.Document }})
	return &documentPage{p}, err
}

// DocumentPath names a document.
type DocumentPath struct {
	Kind string `path:"kind" maxLength:"64" example:"space" doc:"Its kind: space, bucket …"`
	Name string `path:"name" maxLength:"128" example:"other" doc:"The name of what it is about."`
}

func (p *DocumentPath) document() string { return p.Kind + "/" + p.Name }

type documentInput struct {
	DocumentPath
	Version uint64 `query:"version" doc:"As it was in this version, if that is still kept."`
}

type generalInput struct {
	Version uint64 `query:"version" doc:"As it was in this version, if that is still kept."`
}

func (s *Server) getDocument(ctx context.Context, in *documentInput) (*PartOutput, error) {
	return s.documentOf(ctx, in.document(), in.Version)
}

func (s *Server) getGeneral(ctx context.Context, in *generalInput) (*PartOutput, error) {
	return s.documentOf(ctx, policy.General, in.Version)
}

func (s *Server) documentOf(ctx context.Context, name string, version uint64) (*PartOutput, error) {
	d, err := s.Policy.Document(name)
	if version != 0 {
		d, err = s.Policy.Version(ctx, name, version)
	}
	if err == nil && d.Value == nil { // deleted, or of a key that is gone
		err = cluster.ErrNotFound
	}
	if err != nil {
		return nil, s.policyError(err, "body", "document", name)
	}
	return &PartOutput{etag(d.Version), encodePart(ctx, d.Value)}, nil
}

type historyOutput struct{ Body Page[DocumentInfo] }

type documentHistoryInput struct {
	DocumentPath
	Paging
}

func (s *Server) documentHistory(ctx context.Context, in *documentHistoryInput) (*historyOutput, error) {
	return s.versions(ctx, in.document(), in.Paging)
}

func (s *Server) generalHistory(ctx context.Context, in *struct{ Paging }) (*historyOutput, error) {
	return s.versions(ctx, policy.General, in.Paging)
}

func (s *Server) versions(ctx context.Context, name string, paging Paging) (*historyOutput, error) {
	all, err := s.Policy.History(ctx, name)
	if err != nil {
		return nil, s.policyError(err, "body", "document", name)
	}
	var list []DocumentInfo
	for i := range all {
		list = append(list, infoOf(&all[i]))
	}
	p, err := page(list, paging, sorting[DocumentInfo]{
		list: "versions of " + name, desc: true,
		value: func(d *DocumentInfo) float64 { return float64(d.Version) },
		key:   func(d *DocumentInfo) string { return fmt.Sprintf("%020d", d.Version) },
	})
	return &historyOutput{p}, err
}

// expect returns what cluster.Change wants of what a writer has seen.
func (m *Match) expect() (uint64, error) {
	switch {
	case m.IfNoneMatch == "*":
		return cluster.Absent, nil
	case m.IfMatch == "" || m.IfMatch == "*":
		return cluster.Any, nil
	}
	var n uint64
	if _, err := fmt.Sscanf(m.IfMatch, `"%d"`, &n); err != nil || m.IfMatch != etag(n) || n == 0 {
		return 0, problem(http.StatusPreconditionFailed, kindPrecondition, "If-Match is not an ETag of what is to be changed")
	}
	return n, nil
}

type documentWrite struct {
	DocumentPath
	Match
	RawBody []byte
}

type generalWrite struct {
	Match
	RawBody []byte
}

func (s *Server) putDocument(ctx context.Context, in *documentWrite) (*PartOutput, error) {
	return s.write(ctx, in.document(), in.Match, in.RawBody)
}

func (s *Server) putGeneral(ctx context.Context, in *generalWrite) (*PartOutput, error) {
	return s.write(ctx, policy.General, in.Match, in.RawBody)
}

func (s *Server) write(ctx context.Context, name string, m Match, body []byte) (*PartOutput, error) {
	value, err := policy.NewDocument(name)
	if err != nil {
		return nil, notFound("document", name)
	}
	if err := decodePart(body, value); err != nil {
		return nil, err
	}
	expect, err := m.expect()
	if err != nil {
		return nil, err
	}
	r, err := s.Policy.Write(ctx, []cluster.Change{{Name: name, Value: value, Expect: expect}}, cluster.Author{By: caller(ctx).Name}, false)
	if err != nil {
		return nil, s.documentError(err, name)
	}
	return &PartOutput{etag(r[0].Version), encodePart(ctx, r[0].Value)}, nil
}

type documentDelete struct {
	DocumentPath
	Match
}

func (s *Server) deleteDocument(ctx context.Context, in *documentDelete) (*struct{}, error) {
	expect, err := in.expect()
	if err != nil {
		return nil, err
	}
	if _, err := policy.NewDocument(in.document()); err != nil {
		return nil, notFound("document", in.document())
	}
	if _, err := s.Policy.Document(in.document()); err != nil && expect == cluster.Any {
		return nil, nil // it is gone already
	}
	_, err = s.Policy.Write(ctx, []cluster.Change{{Name: in.document(), Expect: expect}}, cluster.Author{By: caller(ctx).Name}, false)
	return nil, s.documentError(err, in.document())
}

// documentError is policyError for a write of the document of that name: what
// is wrong with another one is told with its name.
func (s *Server) documentError(err error, name string) error {
	var wrong *cluster.Invalid
	if !errors.As(err, &wrong) {
		return s.policyError(err, "body", "document", name)
	}
	var fields []field
	for _, p := range wrong.Problems {
		at := "body." + p.Path
		if p.Document != name {
			at = "policy." + p.Document + "." + p.Path
		}
		fields = append(fields, field{strings.TrimSuffix(at, "."), p.Message})
	}
	return invalid(fields...)
}

func (s *Server) policyRoutes() {
	const doc, general = "/policy/documents/{kind}/{name}", "/policy/documents/general"
	whole := s.named("PolicySet", reflect.TypeFor[policy.Set]())
	generalSchema := s.named("PolicyGeneral", policy.DocumentTypes()[policy.General])
	anyDocument := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Description: "The settings of a document of that kind: PolicySet has them."}
	const match = "With If-Match it is changed only in the version that was read, with If-None-Match: * only made anew; without either the last one who writes wins. " +
		"The policy as a whole must be valid afterwards, otherwise nothing is changed. Secrets that are *** stay what they are."
	add(s, route{
		ID: "getPolicy", Method: http.MethodGet, Path: "/policy", Tag: "Policy", Summary: "Read the whole policy",
		Detail: "As POST /policy/apply takes it: settings that have their default are left out, and what is forbidden for the moment is not in it.",
		Role:   Viewer, Scope: Global, Answer: whole,
	}, s.getPolicy)
	add(s, route{
		ID: "applyPolicy", Method: http.MethodPost, Path: "/policy/apply", Tag: "Policy", Summary: "Make the policy what the body says",
		Detail: "Documents that differ are written, all of them or none. Secrets that are *** stay what they are. " +
			"With If-Match nothing is changed unless the policy is as it was when that ETag was read, by getPolicy or a dry_run.",
		Role: Admin, Scope: Global, Body: whole, Errors: []int{http.StatusPreconditionFailed, http.StatusServiceUnavailable},
	}, s.applyPolicy)
	add(s, route{
		ID: "listPolicyDocuments", Method: http.MethodGet, Path: "/policy/documents", Tag: "Policy", Summary: "List the documents of the policy",
		Role: Viewer, Scope: Global,
	}, s.listDocuments)
	add(s, route{
		ID: "getPolicyDocument", Method: http.MethodGet, Path: doc, Tag: "Policy", Summary: "Read a document",
		Role: Viewer, Scope: Global, Answer: anyDocument,
	}, s.getDocument)
	add(s, route{
		ID: "putPolicyDocument", Method: http.MethodPut, Path: doc, Tag: "Policy", Summary: "Write a document", Detail: match,
		Role: Admin, Scope: Global, Body: anyDocument, Answer: anyDocument,
		Errors: []int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusServiceUnavailable},
	}, s.putDocument)
	add(s, route{
		ID: "deletePolicyDocument", Method: http.MethodDelete, Path: doc, Tag: "Policy", Summary: "Delete a document", Detail: match,
		Role: Admin, Scope: Global,
		Errors: []int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusServiceUnavailable},
	}, s.deleteDocument)
	add(s, route{
		ID: "policyDocumentHistory", Method: http.MethodGet, Path: doc + "/history", Tag: "Policy", Summary: "List the versions of a document",
		Detail: "The last 64, the newest first, with who made them and when.",
		Role:   Viewer, Scope: Global, Errors: []int{http.StatusServiceUnavailable},
	}, s.documentHistory)
	add(s, route{
		ID: "getPolicyGeneral", Method: http.MethodGet, Path: general, Tag: "Policy", Summary: "Read the document of what is of no space",
		Role: Viewer, Scope: Global, Answer: generalSchema,
	}, s.getGeneral)
	add(s, route{
		ID: "putPolicyGeneral", Method: http.MethodPut, Path: general, Tag: "Policy", Summary: "Write the document of what is of no space", Detail: match,
		Role: Admin, Scope: Global, Body: generalSchema, Answer: generalSchema,
		Errors: []int{http.StatusConflict, http.StatusPreconditionFailed, http.StatusServiceUnavailable},
	}, s.putGeneral)
	add(s, route{
		ID: "policyGeneralHistory", Method: http.MethodGet, Path: general + "/history", Tag: "Policy", Summary: "List its versions",
		Role: Viewer, Scope: Global, Errors: []int{http.StatusServiceUnavailable},
	}, s.generalHistory)
}
