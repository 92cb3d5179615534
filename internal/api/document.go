package api

import (
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// document is the OpenAPI document of the API.
type document struct{ yaml, json []byte }

// Document returns the OpenAPI 3.1 document, as YAML.
func (s *Server) Document() []byte { return s.doc.yaml }

func (s *Server) humaConfig() huma.Config {
	c := huma.DefaultConfig("Weir", "1")
	c.Info.Description = "The API of a Weir server: streams, policy, history, recordings and whoever may change them. docs/api.md introduces it."
	c.Servers = []*huma.Server{{URL: Prefix}}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A token: weir token create."},
	}
	c.Tags = []*huma.Tag{
		{Name: "Streams", Description: "What is on the air, and taking it off."},
		{Name: "Policy", Description: "Spaces and what belongs to them."},
		{Name: "History", Description: "What was: facts, pushes, statistics."},
		{Name: "Recordings", Description: "Recordings, their tasks and files."},
		{Name: "Snapshots", Description: "Pictures of streams."},
		{Name: "Callbacks", Description: "What owners were told, and what they were not."},
		{Name: "Tokens", Description: "Who may call the API."},
		{Name: "Node", Description: "The servers themselves."},
	}
	// The document is served below, and answers carry no links to schemas.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{s.tell}
	return c
}

// describe makes the document, once all endpoints are there, and serves it.
func (s *Server) describe() {
	detail := s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[huma.ErrorDetail](), false, "")
	delete(detail.Properties, "value") // which tell leaves out
	var err error
	if s.doc.yaml, err = s.huma.OpenAPI().YAML(); err == nil {
		s.doc.json, err = s.huma.OpenAPI().MarshalJSON()
	}
	if err != nil {
		panic(fmt.Sprintf("api: document: %v", err)) // a mistake in a type
	}
	serve := func(path, media string, doc []byte) {
		s.mux.HandleFunc("GET "+Prefix+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			w.Write(doc)
		})
	}
	serve("/openapi.yaml", "application/yaml", s.doc.yaml)
	serve("/openapi.json", "application/json", s.doc.json)
}
