// Package session is a client's stay: it is admitted, attached to a stream,
// counted, and ended with a reason.
//
// A Server serves RTMP connections (ServeRTMP), on which a client publishes or
// plays, and players over HTTP-FLV and WebSocket-FLV (ServeFLV). Whoever wants
// something passes the access.Gate first. A publisher then is an av.Copy from
// its connection into its publication, in the connection's goroutine. A
// player's connection is handed to the stream, which writes to it; what is
// left here is a goroutine that waits for the client to say something or to go
// away.
//
// A panic ends the connection whose bytes caused it, and nothing else.
package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/access"
	"weir/internal/media/rtmp"
	"weir/internal/stream"
)

// ErrKicked ends a player whom the owner of the stream has ended.
var ErrKicked = errors.New("ended by the owner")

// ErrRevoked ends a player whose right has been withdrawn.
var ErrRevoked = errors.New("the right to play was withdrawn")

// errLeft ends a player that has gone away.
var errLeft = errors.New("player left")

// Options are a Server's settings; the zero value is good.
type Options struct {
	Log  *slog.Logger
	RTMP rtmp.Config // of the RTMP connections, limits included

	Publishers, Players int // at a time; who would be more is refused. 0 is no limit

	Facts Facts // where what happens is told
}

// Server serves the clients of a hub. Its methods may be called from any
// goroutine.
type Server struct {
	hub  *stream.Hub
	gate *access.Gate
	opt  Options
	log  *slog.Logger

	panics, unfit, unsettled atomic.Int64

	mu       sync.Mutex
	closed   bool
	sessions map[*session]struct{} // all connections, those that do nothing yet included
	places   map[access.Op]int     // that are taken
	started  map[Kind]int64
	refused  map[Refusal]int64
	running  sync.WaitGroup // one for each of sessions
}

// NewServer returns a Server. The caller ends it with Close.
func NewServer(hub *stream.Hub, gate *access.Gate, o Options) *Server {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.RTMP.Log = cmp.Or(o.RTMP.Log, o.Log)
	o.RTMP.Limits.Setup = cmp.Or(o.RTMP.Limits.Setup, rtmp.DefaultLimits().Setup)
	return &Server{
		hub: hub, gate: gate, opt: o, log: o.Log,
		sessions: make(map[*session]struct{}),
		places:   make(map[access.Op]int),
		started:  make(map[Kind]int64),
		refused:  make(map[Refusal]int64),
	}
}

// ID names a session among all that ever were.
type ID uint64

func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID reads what String has written.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	return ID(n), err
}

// Kind is what a session does and by which protocol.
type Kind struct {
	Op       access.Op
	Protocol string // access.RTMP …
}

// session is a connection and what it is used for. A player has one for as
// long as it plays, so it is small. Only the connection's goroutine changes it.
type session struct {
	nc   net.Conn
	addr netip.AddrPort

	// Written under Server.mu. While the client does nothing, kind is zero and
	// the pointers are nil.
	id     ID
	kind   Kind
	grant  *access.Grant
	since  time.Time
	pub    *stream.Publication
	player *stream.Player
	conn   *rtmp.Conn // of a publisher
}

// open takes note of a new connection. It returns nil once the Server is closed.
func (s *Server) open(nc net.Conn) *session {
	ss := &session{nc: nc}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ss.addr = access.Unmap(a.AddrPort())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.sessions[ss] = struct{}{}
	s.running.Add(1)
	return ss
}

// forget closes the connection of a session and takes it off the table.
func (s *Server) forget(ss *session) {
	ss.nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
	s.running.Done()
}

// enter takes a place for one who may publish or play, or refuses it: before those who
// are there suffer, others go elsewhere. Who was not refused gives it back with leave.
func (s *Server) enter(grant *access.Grant) error {
	op := grant.Op()
	most := s.opt.Players
	if op == access.Publish {
		most = s.opt.Publishers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if most > 0 && s.places[op] >= most {
		return grant.Deny(access.Full)
	}
	s.places[op]++
	return nil
}

func (s *Server) leave(grant *access.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places[grant.Op()]--
}

// begin makes a session one that publishes or plays by the right of grant; one
// of pub and player is nil, and conn goes with pub.
func (s *Server) begin(ss *session, protocol string, grant *access.Grant,
	pub *stream.Publication, conn *rtmp.Conn, player *stream.Player) {
	s.mu.Lock()
	ss.id, ss.kind, ss.grant, ss.since = newID(), Kind{grant.Op(), protocol}, grant, time.Now()
	if pub != nil {
		ss.id, _ = ParseID(pub.Push().Session)
	}
	ss.pub, ss.conn, ss.player = pub, conn, player
	s.started[ss.kind]++
	s.mu.Unlock()
	s.logOf(ss).Info("session begins", "protocol", protocol, "client", ss.addr)
	if err := s.gate.Recheck(grant); err != nil { // the policy has changed, and Recheck has not seen this session
		ss.revoke(err)
	}
}

// finish is begin's counterpart.
func (s *Server) finish(ss *session, reason string) {
	seconds := float64(time.Since(ss.since).Milliseconds()) / 1000 // exact, and so short in the log
	s.logOf(ss).Info("session ends", "reason", reason, "bytes", ss.bytes(), "seconds", seconds)
	s.played(ss, reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	ss.kind, ss.grant, ss.pub, ss.conn, ss.player = Kind{}, nil, nil, nil, nil
}

// logOf returns the log of a session. It is not kept: players are many. The
// caller is the session's goroutine.
func (s *Server) logOf(ss *session) *slog.Logger {
	return s.log.With("session", ss.id.String(), "op", ss.kind.Op.String(), "stream", ss.grant.Key().String())
}

// bytes returns how many bytes of media the client has sent or was sent.
func (ss *session) bytes() int64 {
	switch {
	case ss.conn != nil:
		return int64(ss.conn.BytesRead())
	case ss.player != nil:
		return ss.player.Sent()
	}
	return 0
}

// Info describes a session.
type Info struct {
	ID    ID
	Kind  Kind
	Key   stream.Key
	Addr  netip.AddrPort // of the client
	Since time.Time
	Bytes int64 // received from a publisher, sent to a player
}

// Sessions returns all who publish and play now, in no order.
func (s *Server) Sessions() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.sessions))
	for ss := range s.sessions {
		if ss.kind != (Kind{}) {
			list = append(list, ss.info())
		}
	}
	return list
}

// info describes ss, which publishes or plays. Server.mu is held.
func (ss *session) info() Info {
	return Info{ss.id, ss.kind, ss.grant.Key(), ss.addr, ss.since, ss.bytes()}
}

// Kick ends a session by its owner's will and reports whether there was one
// of that id. A publisher is told so.
func (s *Server) Kick(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.sessions {
		switch {
		case ss.id != id:
		case ss.pub != nil:
			ss.pub.End(stream.EndKicked)
			return true
		case ss.player != nil:
			ss.player.Close(ErrKicked)
			return true
		}
	}
	return false
}

// Recheck ends the sessions that would not be granted any more. It is called
// when the policy has changed.
func (s *Server) Recheck() {
	s.mu.Lock()
	held := make(map[*session]*access.Grant)
	for ss := range s.sessions {
		if ss.grant != nil {
			held[ss] = ss.grant
		}
	}
	s.mu.Unlock()
	for ss, grant := range held {
		err := s.gate.Recheck(grant)
		if err == nil {
			continue
		}
		s.mu.Lock()
		if ss.grant == grant {
			ss.revoke(err)
		}
		s.mu.Unlock()
	}
}

// revoke ends what the session does because its right has ended. That of a
// publisher whose stream was forbidden has not: it is ended as one that is kicked
// (B.78), and its players do not wait for its return.
func (ss *session) revoke(err error) {
	d := (*access.Denied)(nil)
	switch {
	case ss.pub != nil && errors.As(err, &d) && d.Forbidden:
		ss.pub.End(stream.EndKicked)
	case ss.pub != nil:
		ss.pub.End(stream.EndRevoked)
	case ss.player != nil:
		ss.player.Close(ErrRevoked)
	}
}

// Refusal is a reason not to let a client do something.
type Refusal struct {
	Op     access.Op
	Reason access.Reason
}

// refuse counts a refused request and logs it.
func (s *Server) refuse(r access.Request, err error) {
	reason := access.Reason("error")
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		reason = d.Reason
	}
	s.mu.Lock()
	s.refused[Refusal{r.Op, reason}]++
	s.mu.Unlock()
	s.log.Info("refused", "request", r, "reason", reason, "err", err)
}

// Stats is a Server's account since it began.
type Stats struct {
	Active  map[Kind]int      // sessions now
	Started map[Kind]int64    // sessions that began
	Refused map[Refusal]int64 // requests that were refused
	Unfit   int64             // RTMP connections that failed before they asked for anything
	Early   int64             // publishers that went on before the fact of their beginning was durable
	Panics  int64             // connections that were ended by a panic
}

// Stats returns the Server's account.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Active: make(map[Kind]int), Started: maps.Clone(s.started), Refused: maps.Clone(s.refused),
		Unfit: s.unfit.Load(), Early: s.unsettled.Load(), Panics: s.panics.Load(),
	}
	for ss := range s.sessions {
		if ss.kind != (Kind{}) {
			st.Active[ss.kind]++
		}
	}
	return st
}

// rescue is deferred by the goroutine of a connection: it makes a panic the
// end of that connection only.
func (s *Server) rescue(addr netip.AddrPort) {
	if v := recover(); v != nil {
		s.panics.Add(1)
		s.log.Error("panic", "client", addr, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
}

// Close ends the Server: new connections are closed at once, those that do
// nothing yet, too, and all others when their publication or player has ended,
// which is what the hub's Close does; when ctx is done they are cut off.
// Close returns when none is left.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for ss := range s.sessions {
		if ss.kind == (Kind{}) {
			ss.nc.Close()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }() // ends before Close does
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for ss := range s.sessions {
		if ss.player != nil {
			ss.player.Close(stream.ErrClosed)
		} else {
			ss.nc.Close()
		}
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}
