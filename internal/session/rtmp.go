package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"weir/internal/access"
	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/rtmp"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// ServeRTMP serves the connections that ln accepts, each in its own goroutine,
// until ctx is done or ln fails; an error of ln is taken as final. It closes
// ln, but not the connections: those end by themselves or with Close. Secure
// says that ln speaks TLS.
func (s *Server) ServeRTMP(ctx context.Context, ln net.Listener, secure bool) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	protocol := access.RTMP
	if secure {
		protocol = access.RTMPS
	}
	for {
		nc, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		ss := s.open(nc)
		if ss == nil {
			nc.Close()
			continue
		}
		// Ends when the client leaves, breaks a rule or a limit, or Close closes nc.
		go func() {
			defer s.forget(ss)
			defer s.rescue(ss.addr)
			c := rtmpClient{Server: s, ss: ss, nc: nc, protocol: protocol, since: time.Now()}
			c.run(ctx)
		}()
	}
}

// rtmpClient is an RTMP connection. It belongs to one goroutine.
type rtmpClient struct {
	*Server
	ss       *session
	nc       net.Conn
	conn     *rtmp.Conn
	protocol string
	since    time.Time // when the client connected, or ended what it did before
	served   bool      // it has published, or played and stopped
	noAudio  bool      // of what it plays, or will
	noVideo  bool
}

// run serves the connection to its end. It does one thing at a time: a client
// that has ended its publication may ask for something else.
func (c *rtmpClient) run(ctx context.Context) {
	conn, err := rtmp.Accept(c.nc, c.opt.RTMP)
	if err != nil {
		c.fail(err)
		return
	}
	c.conn = conn
	defer conn.Close()
	for again := true; again; {
		cmd, err := conn.ReadCommand()
		if err != nil {
			c.fail(err)
			return
		}
		switch cmd.Name {
		case "publish":
			again = c.publish(ctx, cmd)
		case "play":
			again = c.play(ctx, cmd)
		case "receiveAudio", "receiveVideo":
			c.receive(cmd)
		}
	}
}

// receive notes which tracks the client wants.
func (c *rtmpClient) receive(cmd rtmp.Command) {
	if cmd.Name == "receiveAudio" {
		c.noAudio = !cmd.Bool
	} else {
		c.noVideo = !cmd.Bool
	}
}

// fail notes that a connection has ended that was doing nothing. One that was
// served before has done what it came for, however it is closed then.
func (c *rtmpClient) fail(err error) {
	if err == io.EOF || errors.Is(err, net.ErrClosed) {
		return
	}
	if c.served {
		c.log.Debug("RTMP connection ended", "client", c.ss.addr, "err", err)
		return
	}
	c.unfit.Add(1)
	c.log.Info("RTMP connection failed", "client", c.ss.addr, "err", err)
}

// admit asks whether the client may do what cmd says.
func (c *rtmpClient) admit(ctx context.Context, op access.Op, cmd rtmp.Command) (access.Request, *access.Grant, error) {
	connect := c.conn.Connect()
	r, err := access.FromRTMP(op, connect.App, connect.TcURL, cmd.StreamName)
	r.Protocol, r.Addr = c.protocol, c.ss.addr
	r.PageURL, r.SwfURL, r.FlashVer = connect.PageURL, connect.SwfURL, connect.FlashVer
	if err != nil {
		return r, nil, err
	}
	grant, err := c.gate.Check(ctx, r)
	return r, grant, err
}

// status is how RTMP says why a request is refused.
func status(err error) rtmp.Status {
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return rtmp.Status{Code: d.Code, SubCode: d.SubCode, Description: d.Message, NetStatus: d.NetStatus}
	}
	// The guide has no row for our own troubles (contract B.25).
	text := "Server Error"
	if errors.Is(err, stream.ErrClosed) || errors.Is(err, context.Canceled) {
		text = "Server Is Shutting Down"
	}
	return rtmp.Status{Code: 5, Description: text}
}

// publish serves a publisher to the end of its publication, and reports
// whether the connection goes on.
func (c *rtmpClient) publish(ctx context.Context, cmd rtmp.Command) (again bool) {
	var pub *stream.Publication
	asked := time.Now()
	sequence := event.NewSequence()
	ctx, span := tracing.Root(ctx, sequence, "publish", c.since)
	defer span.End()
	tracing.Past(ctx, "connect", c.since)
	r, grant, err := c.admit(ctx, access.Publish, cmd)
	span.Set("protocol", c.protocol, "app", r.App, "stream", r.Stream)
	push := stream.Push{Sequence: sequence, Session: newID().String(), Client: r.Client(nodeAddr(c.nc)), Gone: func() bool { return gone(c.nc) }}
	c.requested(&push, &r, asked)
	if err == nil {
		if err = c.enter(grant); err == nil {
			defer c.leave(grant)
		}
	}
	if err == nil {
		pub, err = c.hub.Publish(grant.Key(), grant.App(), push)
		if err == stream.ErrPublished {
			err = grant.Deny(access.StreamExists)
		}
	}
	if err != nil {
		span.Fail(err)
		c.refuse(r, err)
		c.turnedAway(&push, &r, err)
		if err := c.conn.RejectPublish(cmd, status(err)); err != nil {
			c.log.Debug("refuse to publish", "client", c.ss.addr, "err", err)
		}
		return false
	}
	defer pub.End(stream.EndReset) // if nothing else has
	c.served = true
	c.begin(c.ss, c.protocol, grant, pub, c.conn, nil)
	c.settled(ctx, sequence)
	err = c.conn.AcceptPublish(cmd, rtmp.Status{Description: access.PublishSuccess})
	span.End() // what comes now may take hours
	if err == nil {
		err = c.copy(pub)
	}
	switch {
	case err == nil:
		pub.End(stream.EndClosed)
	case !ended(pub):
		c.logOf(c.ss).Info("publisher failed", "err", err)
		pub.End(stream.EndReset)
	default:
		c.part(cmd.StreamID, pub.Reason())
	}
	c.finish(c.ss, pub.Reason().String())
	if err != nil {
		return false
	}
	c.since = time.Now()
	return c.await()
}

// copy moves the publisher's packets into its publication until either ends.
func (c *rtmpClient) copy(pub *stream.Publication) error {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with the publication or this function
		defer close(stopped)
		select {
		case <-pub.Done(): // its end must be seen also while nothing comes
			c.nc.SetReadDeadline(time.Now())
		case <-stop:
		}
	}()
	defer func() { close(stop); <-stopped }()
	src, hush := quietly(c.nc)
	c.conn.SetInput(&calmReader{src: src, hush: hush, calm: pub.Unwatched})
	c.conn.SetHeard(pub.Heard)
	c.conn.SetUnknown(func(k av.Kind, codec string) {
		c.logOf(c.ss).Warn("the publisher sends a codec that is not supported: nobody gets it; choose another in the encoder", "kind", k, "codec", codec)
	})
	defer func() { // whoever reads next waits for the next byte
		hush(false)
		c.conn.SetInput(c.nc)
	}()
	return av.Copy(pub, c.conn)
}

func ended(pub *stream.Publication) bool {
	select {
	case <-pub.Done():
		return true
	default:
		return false
	}
}

// await limits the time in which the client has to come up with its next command.
func (c *rtmpClient) await() bool {
	return c.nc.SetReadDeadline(time.Now().Add(c.opt.RTMP.Limits.Setup)) == nil
}

// goodbyes is what a publisher is told whom the hub has ended.
var goodbyes = map[stream.EndReason][2]string{
	stream.EndNoData:   {"NetStream.Publish.Idle", "For too long no data came that can be played."},
	stream.EndTakeover: {"NetStream.Publish.BadName", "Another publisher took over."},
	stream.EndLimit:    {"NetStream.Publish.Denied", "Too much data."},
	stream.EndKicked:   {"NetStream.Publish.Denied", "Ended by the owner of the stream."},
	stream.EndRevoked:  {"NetStream.Publish.Denied", "The right to publish was withdrawn."},
	stream.EndShutdown: {"NetConnection.Connect.AppShutdown", "The server is shutting down."},
}

// part tells a publisher why the hub has ended it, and ends the connection so
// that it can read that: a close with bytes unread would take back what was
// sent. It takes no longer than a second.
func (c *rtmpClient) part(streamID uint32, reason stream.EndReason) {
	why, ok := goodbyes[reason]
	if !ok {
		return
	}
	if err := c.nc.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	if _, err := c.nc.Write(c.conn.AppendStatus(nil, streamID, "error", why[0], why[1])); err != nil {
		return
	}
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		const most = 1 << 20 // bytes of one who goes on sending
		io.CopyN(io.Discard, c.nc, most)
	}
}

// play serves a player to its end, with which the connection ends too unless
// it was the client that ended it, and reports whether it goes on.
func (c *rtmpClient) play(ctx context.Context, cmd rtmp.Command) (again bool) {
	var live *stream.Stream
	ctx, span := tracing.Start(ctx, "play", "protocol", c.protocol)
	defer span.End()
	tracing.Past(ctx, "connect", c.since)
	r, grant, err := c.admit(ctx, access.Play, cmd)
	span.Set("app", r.App, "stream", r.Stream)
	if err == nil {
		if live = c.hub.Await(ctx, grant.Key()); live == nil {
			err = grant.Deny(access.NoStream)
		} else if err = c.enter(grant); err == nil {
			defer c.leave(grant)
		}
	}
	if err != nil {
		span.Fail(err)
		c.refuse(r, err)
		if err := c.conn.RejectPlay(cmd, status(err)); err != nil {
			c.log.Debug("refuse to play", "client", c.ss.addr, "err", err)
		}
		return false
	}
	if err := c.conn.AcceptPlay(cmd, rtmp.Status{Description: access.PlaySuccess}); err != nil {
		c.fail(err)
		return false
	}
	p := player{c: c, conn: c.conn, streamID: cmd.StreamID}
	format := stream.Format{Wire: stream.RTMP, StreamID: cmd.StreamID, ChunkSize: c.conn.ChunkSize(), NoAudio: c.noAudio, NoVideo: c.noVideo}
	p.Player, err = live.Play(stream.PlayerOptions{Conn: c.nc, Format: format, Protocol: c.protocol, Goodbye: p.goodbye()})
	if err != nil {
		c.log.Info("cannot play", "request", r, "err", err)
		return false
	}
	defer p.Close(errLeft)
	c.conn.SetOutput(p.Inject)
	c.begin(c.ss, c.protocol, grant, nil, nil, p.Player)
	span.End() // as above
	if err := p.obey(); err == errStopped {
		p.Leave()
	} else {
		p.Close(err)
	}
	<-p.Done()
	c.finish(c.ss, p.Err().Error())
	if p.Err() != stream.ErrLeft {
		return false
	}
	c.conn.SetOutput(nil)
	c.noAudio, c.noVideo, c.since, c.served = false, false, time.Now(), true
	return c.await()
}

// errStopped is why a player ends whose client may want to do something else.
var errStopped = errors.New("stopped by the client")

// player is a player over RTMP: what its client may still ask for.
type player struct {
	*stream.Player
	c        *rtmpClient
	conn     *rtmp.Conn
	streamID uint32
}

// obey does what the client says until it ends the stream or goes away, and
// returns why.
func (p *player) obey() error {
	for {
		cmd, err := p.conn.ReadCommand()
		if err == io.EOF {
			return errLeft
		}
		if err != nil {
			return err
		}
		switch cmd.Name {
		case "pause":
			p.Pause(cmd.Bool)
			if cmd.Bool {
				err = p.say("status", "NetStream.Pause.Notify", "Paused.")
			} else {
				err = p.say("status", "NetStream.Unpause.Notify", "Resumed.")
			}
		case "receiveAudio", "receiveVideo":
			p.c.receive(cmd)
			p.SetTracks(!p.c.noAudio, !p.c.noVideo)
			if cmd.Bool { // 7.2.2.4, 7.2.2.5
				b := p.conn.AppendStatus(nil, p.streamID, "status", "NetStream.Seek.Notify", notSeeking)
				err = p.Inject(p.conn.AppendStatus(b, p.streamID, "status", "NetStream.Play.Start", access.PlaySuccess))
			}
		case "seek":
			err = p.say("status", "NetStream.Seek.Notify", notSeeking)
		case "publish", "play":
			err = p.Inject(p.conn.AppendBusy(nil, cmd, "The connection plays already."))
		case "closeStream", "deleteStream":
			if cmd.StreamID == p.streamID {
				return errStopped
			}
		}
		if err != nil {
			return err
		}
	}
}

const notSeeking = "A live stream stays where it is."

// say sends a status between two packets.
func (p *player) say(level, netStatus, description string) error {
	return p.Inject(p.conn.AppendStatus(nil, p.streamID, level, netStatus, description))
}

// goodbye is what tells a player that the stream is over: the status, and the
// event StreamEOF (7.1.7).
func (p *player) goodbye() []byte {
	const userControl, streamEOF = 4, 1
	b := p.conn.AppendStatus(nil, p.streamID, "status", "NetStream.Play.UnpublishNotify", "The stream is over.")
	event := binary.BigEndian.AppendUint32([]byte{0, streamEOF}, p.streamID)
	return rtmp.AppendMessage(b, p.conn.ChunkSize(), rtmp.ChunkControl, userControl, 0, 0, event)
}
