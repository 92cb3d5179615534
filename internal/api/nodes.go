package api

import (
	"context"
	"net/http"
)

type configOutput struct{ Body any }

func (s *Server) getConfig(context.Context, *struct{}) (*configOutput, error) {
	return &configOutput{s.Config()}, nil
}

func (s *Server) nodeRoutes() {
	add(s, route{
		ID: "getConfig", Method: http.MethodGet, Path: "/config", Tag: "Node", Summary: "The configuration of this node as it is in force",
		Detail: "What weir.yaml says and the defaults of what it does not, without the policy. Secrets are three asterisks.",
		Role:   Admin, Scope: Global,
	}, s.getConfig)
}
