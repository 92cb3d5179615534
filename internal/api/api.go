// Package api is the REST API of a node: what an owner, his programs and the
// console can see and do.
//
// # An endpoint
//
// An endpoint is a function from a struct of parameters to a struct with a
// Body, and a [route] that says what huma cannot know. Those of one subject
// have a file of their own, whose last function adds them:
//
//	func (s *Server) sessionRoutes() {
//		add(s, route{
//			ID: "endSession", Method: http.MethodDelete, Path: "/sessions/{id}", Tag: "Streams",
//			Summary: "End one session",
//			Role: Operator, Scope: Filtered, Errors: []int{404},
//		}, s.endSession)
//	}
//
// It is called from [New]. From the types and the route come the OpenAPI
// document (docs/openapi.yaml; go test ./internal/api -run Document -update),
// the checks of the request, and the tests of every endpoint, which are made
// from the document: they demand an example for what they cannot guess.
//
// What an endpoint need not do, because [Server.serve] has done it:
//
//   - Role: a caller of a lesser role got 403. Viewers read; operators also end,
//     forbid, record and replay; admins change policy and tokens.
//   - Scope: with InSpace the path has {space}, and the token of another space
//     got 404, which is also what the endpoint says of a space that is not there.
//     With Global a token of one space got 403. With Filtered it is the
//     endpoint that leaves out, or does not find, what caller(ctx).Sees(space)
//     denies.
//   - Bodies are JSON of at most 1 MiB without unknown or repeated fields, and
//     parameters are known. Say in tags what values may be.
//   - A write is remembered as the fact api.written, whatever became of it. Mark
//     a POST that changes nothing with Reads.
//   - A POST with an Idempotency-Key is done once. PUT and DELETE must give the
//     same answer when they are repeated: what is gone already is 204, too.
//
// What it does:
//
//   - Lists: embed [Paging], return a [Page], and cut with [page], which keeps
//     cursors stable: the next page begins after the last item's key.
//   - What only each node knows: say it for this one in a function that is given
//     to [shared], and [ask] or [gather] what the others say.
//   - Errors: return [problem] with a kind of the table in problem.go, or
//     [invalid] with the paths of what is wrong. Any other error is logged and
//     told as 500 without its text.
//   - Secrets: a policy.Secret cannot come out. What a client sent comes out by
//     [redact] only.
//   - Slices and maps of an answer are never nil: a list without items is [].
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weir/internal/access"
	"weir/internal/callback"
	"weir/internal/cluster"
	"weir/internal/eventlog"
	"weir/internal/hls"
	"weir/internal/quality"
	"weir/internal/record"
	"weir/internal/session"
	"weir/internal/stats"
	"weir/internal/stream"
	"weir/internal/transcode"
)

// Prefix is where the API is on its listeners.
const Prefix = "/api/v1"

// Options are the parts of the node that the API shows and moves, and its
// settings. All parts are needed but those that say otherwise.
type Options struct {
	Log     *slog.Logger
	Version string
	Node    string // name of this node
	Started time.Time

	Tokens     *Tokens
	Hub        *stream.Hub
	Sessions   *session.Server
	HLS        *hls.Server
	Recorder   *record.Recorder
	Gate       *access.Gate
	Quality    *quality.Monitor
	Stats      *stats.Book
	Pictures   Pictures
	Nodes      *cluster.Nodes
	Peers      *cluster.Peers // nil: there are no other nodes
	Events     *eventlog.Log
	Cursors    *Cursors
	Callbacks  *callback.Dispatcher
	Policy     *cluster.Policy
	Config     func() []byte // as in force, JSON, secrets masked
	Self       func() cluster.Node
	Transcoder *transcode.Transcoder

	// Hosts are names by which the API is reached, besides IP addresses and
	// localhost. A page that a hostile name server brought here has another one.
	Hosts []string
	// Origins are the origins of pages of others that may call the API
	// (https://console.example.com). A page of the API's own host may.
	Origins []string
}

// Server serves the API. It is made by New and has no end of its own: what
// goes on for long ends with the context of its request.
type Server struct {
	Options
	log     *slog.Logger
	mux     *http.ServeMux
	huma    huma.API
	routes  []route
	doc     document
	failing failures
	replays replays
	feeds   feeds
	shared  map[string]func(context.Context, json.RawMessage) (any, error) // what other nodes may ask

	changing sync.Mutex // held by who changes a part of a space, so that he is not too slow for others of this node

	scanTime time.Duration // see scanTime
}

// New returns the Server of a node.
func New(o Options) *Server {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	s := &Server{Options: o, log: o.Log, mux: http.NewServeMux(), scanTime: scanTime}
	s.shared = make(map[string]func(context.Context, json.RawMessage) (any, error))
	s.huma = huma.NewAPI(s.humaConfig(), adapter{s})
	s.streamRoutes()
	s.snapshotRoutes()
	s.sessionRoutes()
	s.tokenRoutes()
	s.urlRoutes()
	s.spaceRoutes()
	s.partRoutes()
	s.forbiddenRoutes()
	s.policyRoutes()
	s.eventRoutes()
	s.cursorRoutes()
	s.historyRoutes()
	s.callbackRoutes()
	s.recordingRoutes()
	s.clipRoutes()
	s.nodeRoutes()
	s.statisticsRoutes()
	s.transcodeRoutes()
	s.describe()
	return s
}

// Caller is who asks.
type Caller struct {
	*Token
	Addr string // of the client
}

// Sees reports whether the caller may know of a space.
func (c *Caller) Sees(space string) bool { return c.Space == "" || c.Space == space }

type callerKey struct{}

// caller returns who asks. There is somebody behind every endpoint but those
// of the role Anybody.
func caller(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}
