package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"weir/internal/cluster"
)

// NodeInfo is a server.
type NodeInfo struct {
	Name       string            `json:"name"`
	Here       bool              `json:"here" doc:"It is the one that answers."`
	Version    string            `json:"version"`
	Started    time.Time         `json:"started"`
	Seen       time.Time         `json:"seen" doc:"When it last said that it is there."`
	Addresses  map[string]string `json:"addresses" doc:"Of its listeners, by their names in weir.yaml."`
	Ready      bool              `json:"ready" doc:"It takes publishers and players."`
	Degraded   []string          `json:"degraded" nullable:"false" doc:"What it has to do without."`
	Streams    int64             `json:"streams" doc:"On the air, or held for their publishers to return."`
	Publishers int64             `json:"publishers"`
	Players    int64             `json:"players" doc:"Without those of HLS."`
	BitsIn     int64             `json:"bits_in" doc:"bit/s of media that come in."`
	BitsOut    int64             `json:"bits_out" doc:"bit/s of media that go out."`
	CPU        float64           `json:"cpu" doc:"Processors in use."`
	Memory     int64             `json:"memory" doc:"Bytes that it has of the system."`
}

func nodeInfo(n cluster.Node, here string) NodeInfo {
	i := NodeInfo{
		Name: n.Name, Here: n.Name == here, Version: n.Version, Started: n.Started.UTC(), Seen: n.Seen.UTC(), Addresses: n.Addresses,
		Ready: n.Ready, Degraded: n.Degraded, Streams: n.Streams, Publishers: n.Publishers, Players: n.Players,
		BitsIn: n.BitsIn, BitsOut: n.BitsOut, CPU: n.CPU, Memory: n.Memory,
	}
	if i.Degraded == nil {
		i.Degraded = []string{}
	}
	if i.Addresses == nil {
		i.Addresses = map[string]string{}
	}
	return i
}

type nodePage struct{ Body Page[NodeInfo] }

type nodesInput struct{ Paging }

// listNodes answers with this node alone while the list cannot be had.
func (s *Server) listNodes(ctx context.Context, in *nodesInput) (*nodePage, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all, err := s.Nodes.List(ask)
	if err != nil {
		s.log.Warn("the list of nodes cannot be read", "err", err)
	}
	me := s.Self()
	list := []NodeInfo{nodeInfo(me, s.Node)}
	for _, n := range all {
		if n.Name != s.Node {
			list = append(list, nodeInfo(n, s.Node))
		}
	}
	p, err := page(list, in.Paging, sorting[NodeInfo]{list: "nodes", key: func(n *NodeInfo) string { return n.Name }})
	return &nodePage{p}, err
}

type configOutput struct{ Body any }

func (s *Server) getConfig(context.Context, *struct{}) (*configOutput, error) {
	var v map[string]any
	if err := json.Unmarshal(s.Config(), &v); err != nil {
		return nil, err
	}
	return &configOutput{maskURLs(v)}, nil
}

// maskURLs returns v without what stands before an @ in a URL: those who set a
// server's address may write a password there.
func maskURLs(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = maskURLs(e)
		}
	case []any:
		for i, e := range x {
			x[i] = maskURLs(e)
		}
	case string:
		if strings.Contains(x, "://") && strings.Contains(x, "@") {
			parts := strings.Split(x, ",")
			for i, p := range parts {
				parts[i] = redactURL(p, false)
			}
			return strings.Join(parts, ",")
		}
	}
	return v
}

func (s *Server) nodeRoutes() {
	add(s, route{
		ID: "listNodes", Method: http.MethodGet, Path: "/nodes", Tag: "Node", Summary: "List the servers",
		Detail: "Each says every few seconds that it is there, and what it has to do.",
		Role:   Viewer, Scope: Global,
	}, s.listNodes)
	add(s, route{
		ID: "getConfig", Method: http.MethodGet, Path: "/config", Tag: "Node", Summary: "The configuration of this node as it is in force",
		Detail: "What weir.yaml says and the defaults of what it does not, without the policy. Secrets are three asterisks.",
		Role:   Admin, Scope: Global,
	}, s.getConfig)
}
