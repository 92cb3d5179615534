package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"weir/internal/access"
	"weir/internal/hls"
	"weir/internal/session"
	"weir/internal/stream"
)

// SessionInfo is a client that publishes or plays.
type SessionInfo struct {
	ID       string         `json:"id"`
	Does     string         `json:"does" enum:"publish,play"`
	Protocol string         `json:"protocol" enum:"rtmp,rtmps,flv,ws-flv,hls"`
	Space    string         `json:"space"`
	App      string         `json:"app"`
	Stream   string         `json:"stream"`
	Addr     netip.AddrPort `json:"addr" doc:"Address of the client."`
	Node     string         `json:"node" doc:"The node that it is connected to."`
	Since    time.Time      `json:"since"`
	Bytes    int64          `json:"bytes" doc:"Received from a publisher, sent to a player."`
}

func (s *Server) sessionInfo(i session.Info) SessionInfo {
	return SessionInfo{
		ID: i.ID.String(), Does: i.Kind.Op.String(), Protocol: i.Kind.Protocol,
		Space: i.Key.Space, App: i.Key.App, Stream: i.Key.Name,
		Addr: i.Addr, Node: s.Node, Since: i.Since.UTC(), Bytes: i.Bytes,
	}
}

// viewerInfo describes a player of HLS as a session.
func (s *Server) viewerInfo(v hls.Viewer) SessionInfo {
	return SessionInfo{
		ID: session.ID(v.ID).String(), Does: access.Play.String(), Protocol: access.HLS,
		Space: v.Key.Space, App: v.Key.App, Stream: v.Key.Name,
		Addr: v.Addr, Node: s.Node, Since: v.Since.UTC(), Bytes: v.Bytes,
	}
}

// SessionsInput says which sessions to list.
type SessionsInput struct {
	Paging
	Space  string `query:"space" maxLength:"128" doc:"Of this space only."`
	App    string `query:"app" maxLength:"128" doc:"Of this app only."`
	Stream string `query:"stream" maxLength:"255" doc:"Of streams of this name only."`
	Does   string `query:"does" enum:"publish,play" doc:"Publishers or players only."`
}

type sessionPage struct{ Body Gathered[SessionInfo] }

// sessionSorting sorts by ID: no two nodes give the same.
var sessionSorting = sorting[SessionInfo]{list: "sessions", key: func(i *SessionInfo) string { return i.ID }}

func (s *Server) listSessions(ctx context.Context, in *SessionsInput) (*sessionPage, error) {
	here, err := s.sessionsHere(ctx, in)
	if err != nil {
		return nil, err
	}
	p, err := gather(ctx, s, "sessions", in, in.Paging, sessionSorting, here)
	return &sessionPage{p}, err
}

// sessionsHere is listSessions for this node.
func (s *Server) sessionsHere(ctx context.Context, in *SessionsInput) (*Page[SessionInfo], error) {
	c := caller(ctx)
	var key stream.Key // zero: of all
	all := s.Sessions.Sessions
	if in.Space != "" && in.App != "" && in.Stream != "" {
		key = stream.Key{Space: in.Space, App: in.App, Name: in.Stream}
		all = func() []session.Info { return s.Sessions.Of(key) }
	}
	wanted := func(k stream.Key) bool {
		return c.Sees(k.Space) && (in.Space == "" || in.Space == k.Space) && (in.App == "" || in.App == k.App) && (in.Stream == "" || in.Stream == k.Name)
	}
	var list []SessionInfo
	for _, i := range all() {
		if wanted(i.Key) && (in.Does == "" || in.Does == i.Kind.Op.String()) {
			list = append(list, s.sessionInfo(i))
		}
	}
	if in.Does != access.Publish.String() {
		for _, v := range s.HLS.Viewers(key) {
			if wanted(v.Key) {
				list = append(list, s.viewerInfo(v))
			}
		}
	}
	p, err := page(list, in.Paging, sessionSorting)
	return &p, err
}

type sessionPath struct {
	ID string `path:"id" minLength:"16" maxLength:"16" example:"0123456789abcdef" doc:"ID of the session."`
}

func (s *Server) endSession(ctx context.Context, in *sessionPath) (*endedOutput, error) {
	if here, err := s.endSessionHere(ctx, in); err != nil || here.Ended > 0 {
		return &endedOutput{*here}, err // it is on no other node
	}
	return end(ctx, s, "end session", in, s.endSessionHere)
}

func (s *Server) endSessionHere(ctx context.Context, in *sessionPath) (*Ended, error) {
	id, err := session.ParseID(in.ID)
	if err != nil {
		return &Ended{}, nil // there is no such session
	}
	if i, ok := s.Sessions.Find(id); ok && caller(ctx).Sees(i.Key.Space) && s.Sessions.Kick(id) {
		return &Ended{Ended: 1}, nil
	}
	if v, ok := s.HLS.Viewer(uint64(id)); ok && caller(ctx).Sees(v.Key.Space) && s.HLS.Kick(v.ID) {
		return &Ended{Ended: 1}, nil
	}
	return &Ended{}, nil
}

func (s *Server) sessionRoutes() {
	shared(s, "sessions", s.sessionsHere)
	shared(s, "end session", s.endSessionHere)
	add(s, route{
		ID: "listSessions", Method: http.MethodGet, Path: "/sessions", Tag: "Streams", Summary: "List publishers and players",
		Detail: "A player of HLS is a row of requests of one address and User-Agent for one stream, until it has asked for nothing for some seconds. " +
			"Those behind one address that call themselves the same are one, and so is a cache. Of more than 50 000 on a node the others are only counted.",
		Role: Viewer, Scope: Filtered,
	}, s.listSessions)
	add(s, route{
		ID: "endSession", Method: http.MethodDelete, Path: "/sessions/{id}", Tag: "Streams", Summary: "End one publisher or player",
		Detail: "One that is gone is no error. A player of HLS is refused (403) as long as it goes on asking for the stream, until it has asked for nothing for a minute.",
		Role:   Operator, Scope: Filtered,
	}, s.endSession)
}

// use is the access.Op of a word.
func use(word string) access.Op {
	if word == access.Publish.String() {
		return access.Publish
	}
	return access.Play
}
