package session

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"weir/internal/access"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// ServeFLV answers a request for /{app}/{stream}.flv: HTTP-FLV (guide
// l.442-447), or WebSocket-FLV if the client asks for the upgrade. With the
// parameter onlyAudio or onlyVideo a player gets nothing else. Errors are the
// guide's (contract B.4).
//
// The server of r must speak HTTP/1: a player's connection is taken over, and
// ServeFLV returns when it has begun.
func (s *Server) ServeFLV(w http.ResponseWriter, r *http.Request) {
	if !access.Readable(w, r) {
		return
	}
	req, err := access.FromHTTP(r)
	if err == access.ErrNotStream || err == nil && req.Protocol != access.FLV && req.Protocol != access.WSFLV {
		http.NotFound(w, r)
		return
	}
	socket := strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	if !socket { // another protocol that we need not change to
		req.Protocol = access.FLV
	}
	ctx, span := tracing.Start(r.Context(), "play", "protocol", req.Protocol, "app", req.App, "stream", req.Stream)
	defer span.End()
	live, grant, err := s.findLive(ctx, req, err)
	if err == nil && r.Method != http.MethodHead {
		err = s.enter(grant)
	}
	if err != nil {
		span.Fail(err)
		s.refuse(req, err)
		if d := (*access.Denied)(nil); errors.As(err, &d) {
			access.WriteHTTPError(w, r, d)
		} else {
			http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		}
		return
	}
	if r.Method == http.MethodHead {
		flvHeader(w.Header())
		return
	}
	format := stream.Format{Wire: stream.FLV}
	format.NoVideo, format.NoAudio = only(req.Params)
	if socket {
		s.serveSocket(w, r, live, grant, format)
		return
	}
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.leave(grant)
		http.Error(w, "HTTP/1.1 required", http.StatusHTTPVersionNotSupported)
		return
	}
	s.attach(nc, access.FLV, live, grant, stream.PlayerOptions{Conn: nc, Format: format, Protocol: access.FLV, Preface: flvPreface()}, discard{nc})
}

// findLive returns the stream of a request whose names were read with err, and
// the right to play it.
func (s *Server) findLive(ctx context.Context, req access.Request, err error) (*stream.Stream, *access.Grant, error) {
	if err != nil {
		return nil, nil, err
	}
	grant, err := s.gate.Check(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	live := s.hub.Await(ctx, grant.Key())
	if live == nil {
		return nil, nil, grant.Deny(access.NoStream)
	}
	return live, grant, nil
}

// flvHeader sets the header fields of an answer with a stream.
func flvHeader(h http.Header) {
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", "video/x-flv")
	h.Set("Connection", "close")
	h.Set("Expires", "-1")
	h.Set("Pragma", "no-cache")
}

// flvPreface is the same on the wire: the stream ends with the connection.
func flvPreface() []byte {
	b := []byte("HTTP/1.1 200 OK\r\n" +
		"Cache-Control: no-cache\r\n" +
		"Content-Type: video/x-flv\r\n" +
		"Connection: close\r\n" +
		"Expires: -1\r\n" +
		"Pragma: no-cache\r\n" +
		"Access-Control-Allow-Origin: *\r\n" +
		"Date: ")
	return append(time.Now().UTC().AppendFormat(b, http.TimeFormat), "\r\n\r\n"...)
}

// only reads the parameters onlyAudio and onlyVideo, in any case, with a value
// or without. Both together make no sense and mean nothing.
func only(params access.Params) (audio, video bool) {
	for _, p := range params {
		on := p.Value != "0" && !strings.EqualFold(p.Value, "false")
		switch strings.ToLower(p.Key) {
		case "onlyaudio":
			audio = on
		case "onlyvideo":
			video = on
		}
	}
	return audio && !video, video && !audio
}

// listener is what a player's client may still say.
type listener interface {
	// listen reads until the client goes away or breaks a rule, and returns why.
	listen(*stream.Player) error
}

// attach makes a hijacked connection a player of the stream, who has a place. It
// returns when the player has begun; a goroutine stays until it is over.
func (s *Server) attach(nc net.Conn, protocol string, live *stream.Stream, grant *access.Grant, o stream.PlayerOptions, l listener) {
	ss := s.open(nc)
	if ss == nil {
		s.leave(grant)
		nc.Close()
		return
	}
	ss.addr = grant.Request().Addr // which a proxy may have told
	var p *stream.Player
	err := nc.SetDeadline(time.Time{}) // net/http leaves its own
	if err == nil {
		p, err = live.Play(o)
	}
	if err != nil {
		s.log.Info("cannot play", "client", ss.addr, "stream", live.Key(), "err", err)
		s.leave(grant)
		s.forget(ss)
		return
	}
	s.begin(ss, protocol, grant, nil, nil, p)
	go func() { // ends when the player is over, which closes the connection
		defer s.forget(ss)
		defer s.leave(grant)
		defer s.rescue(ss.addr)
		defer p.Close(errLeft)
		p.Close(l.listen(p))
		<-p.Done()
		s.finish(ss, p.Err().Error())
	}()
}

// maxChatter is how many bytes a player may send that nobody has asked for.
const maxChatter = 64 << 10

var errChatter = errors.New("player sent too much")

// discard listens to an HTTP client, which has nothing more to say.
type discard struct{ nc net.Conn }

func (d discard) listen(*stream.Player) error {
	var b [64]byte
	for n := 0; n < maxChatter; {
		m, err := d.nc.Read(b[:])
		if err != nil {
			return errLeft
		}
		n += m
	}
	return errChatter
}
