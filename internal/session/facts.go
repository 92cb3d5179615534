package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"weir/internal/access"
	"weir/internal/event"
	"weir/internal/stream"
)

// Facts is where a Server tells what happens. What a publication's beginning
// and end are told by is the hub's Began and Ended.
type Facts struct {
	Emit func(event.Event) // takes a fact; it must not wait

	// Flush waits until all facts so far are durable. It returns an error, too,
	// when there was no room for that of the beginning of the push that sequence
	// names.
	Flush func(ctx context.Context, sequence string) error

	// Callback says who is told that a publisher was refused; nil: nobody is.
	Callback func(access.Request) *event.Callback
}

// flushTime is how long a publisher waits at most until the fact of its
// beginning is durable. Then it goes on all the same: media do not depend on
// the disk.
const flushTime = 2 * time.Second

func newID() ID { return ID(rand.Uint64()) }

// nodeAddr is the address of this node at which the client of nc has arrived.
func nodeAddr(nc net.Conn) netip.Addr {
	if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		return access.Unmap(a.AddrPort()).Addr()
	}
	return netip.Addr{}
}

// requested tells that a client has asked to publish.
func (s *Server) requested(push *stream.Push, r *access.Request, at time.Time) {
	if s.opt.Facts.Emit == nil {
		return
	}
	e := event.New(at, event.PublishRequested{Client: push.Client})
	s.gate.About(&e, r)
	e.Sequence = push.Sequence
	s.opt.Facts.Emit(e)
}

// turnedAway tells that it may not.
func (s *Server) turnedAway(push *stream.Push, r *access.Request, err error) {
	if s.opt.Facts.Emit == nil {
		return
	}
	f := event.PublishRefused{Client: push.Client, Reason: "error", Message: status(err).Description, Code: status(err).Code, SubCode: status(err).SubCode}
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		f.Reason = string(d.Reason)
	}
	if s.opt.Facts.Callback != nil {
		f.Callback = s.opt.Facts.Callback(*r)
	}
	e := event.New(time.Now(), f)
	s.gate.About(&e, r)
	e.Sequence = push.Sequence
	s.opt.Facts.Emit(e)
}

// settled waits until what has been told of a push is durable.
func (s *Server) settled(ctx context.Context, sequence string) {
	if s.opt.Facts.Flush == nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	if err := s.opt.Facts.Flush(wait, sequence); err != nil && ctx.Err() == nil {
		s.unsettled.Add(1)
		s.log.Warn("a publisher goes on although the fact of its beginning is not durable", "err", err)
	}
}

// played tells of a player that is over.
func (s *Server) played(ss *session, reason string) {
	if s.opt.Facts.Emit == nil || ss.player == nil {
		return
	}
	r := ss.grant.Request()
	e := event.New(time.Now(), event.PlayEnded{
		Client: r.Client(nodeAddr(ss.nc)), Session: ss.id.String(), Started: ss.since, Reason: reason,
		Bytes: ss.player.Sent(), Jumps: ss.player.Jumps(),
	})
	about(&e, ss.grant.Key())
	e.Sequence = ss.player.Sequence()
	s.opt.Facts.Emit(e)
}

// about makes e one about the stream key.
func about(e *event.Event, key stream.Key) { e.Space, e.App, e.Stream = key.Space, key.App, key.Name }
