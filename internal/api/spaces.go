package api

import (
	"context"
	"net/http"
)

// SpaceInfo is a space in short.
type SpaceInfo struct {
	Name       string `json:"name"`
	Domains    int    `json:"domains" doc:"How many it has."`
	Apps       int    `json:"apps" doc:"How many it has."`
	AccessKeys int    `json:"access_keys" doc:"How many it has."`
	Forbidden  int    `json:"forbidden" doc:"How many streams and apps are forbidden."`
	Streams    int    `json:"streams" doc:"How many are on the air on this node."`
}

type spacePage struct{ Body Page[SpaceInfo] }

type spacesInput struct{ Paging }

func (s *Server) listSpaces(ctx context.Context, in *spacesInput) (*spacePage, error) {
	c := caller(ctx)
	live := map[string]int{}
	for _, st := range s.Hub.Streams() {
		live[st.Key().Space]++
	}
	var list []SpaceInfo
	set := s.Policy.Set()
	for i := range set.Spaces {
		sp := &set.Spaces[i]
		if c.Sees(sp.Name) {
			list = append(list, SpaceInfo{sp.Name, len(sp.Domains), len(sp.Apps), len(sp.AccessKeys), len(sp.Forbidden), live[sp.Name]})
		}
	}
	p, err := page(list, in.Paging, sorting[SpaceInfo]{list: "spaces", key: func(sp *SpaceInfo) string { return sp.Name }})
	return &spacePage{p}, err
}

func (s *Server) spaceRoutes() {
	add(s, route{
		ID: "listSpaces", Method: http.MethodGet, Path: "/spaces", Tag: "Policy", Summary: "List spaces",
		Detail: "One is made, changed and deleted by its document, /policy/documents/space/{name}; what belongs to one has endpoints below /spaces/{space}, too.",
		Role:   Viewer, Scope: Filtered,
	}, s.listSpaces)
}
