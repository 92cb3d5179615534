package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/time/rate"

	"weir/internal/access"
	"weir/internal/stream"
)

// What a WebSocket client may send: frames up to that size, so many a second.
const (
	maxFrame  = 4 << 10
	frameRate = 10
)

// upgrader writes the answer to the upgrade itself.
var upgrader = ws.HTTPUpgrader{Timeout: 5 * time.Second}

// serveSocket upgrades the connection of r and makes it a player.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request, live *stream.Stream, grant *access.Grant, format stream.Format) {
	nc, rw, _, err := upgrader.Upgrade(r, w)
	if err != nil { // the client has been told
		s.log.Info("WebSocket upgrade failed", "client", r.RemoteAddr, "err", err)
		s.leave(grant)
		if nc != nil {
			nc.Close()
		}
		return
	}
	in := io.Reader(nc)
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		in = io.MultiReader(bytes.NewReader(bytes.Clone(early)), nc)
	}
	format.Wire = stream.WSFLV
	goodbye := closeFrame(ws.StatusNormalClosure, "stream is over")
	s.attach(nc, access.WSFLV, live, grant, stream.PlayerOptions{Conn: nc, Format: format, Goodbye: goodbye}, socket{nc, in})
}

func closeFrame(code ws.StatusCode, reason string) []byte {
	return ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, reason)))
}

// socket listens to a WebSocket client: it answers pings and the closing
// handshake (RFC 6455 5.5) and drops messages.
type socket struct {
	nc net.Conn
	in io.Reader // nc, and before that what was read with the upgrade
}

var errFrames = errors.New("too many WebSocket frames")

func (k socket) listen(p *stream.Player) error {
	limit := rate.NewLimiter(frameRate, 2*frameRate)
	state := ws.StateServerSide
	for {
		h, err := ws.ReadHeader(k.in)
		if err != nil && !errors.Is(err, ws.ErrHeaderLengthMSB) {
			return errLeft
		}
		if err == nil {
			err = ws.CheckHeader(h, state)
		}
		if err != nil {
			return k.part(p, ws.StatusProtocolError, err)
		}
		if h.Length > maxFrame {
			return k.part(p, ws.StatusMessageTooBig, fmt.Errorf("WebSocket frame of %d bytes", h.Length))
		}
		if !limit.Allow() {
			return k.part(p, ws.StatusPolicyViolation, errFrames)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(k.in, payload); err != nil {
			return errLeft
		}
		ws.Cipher(payload, h.Mask, 0)
		switch h.OpCode {
		case ws.OpClose:
			return k.part(p, ws.StatusNormalClosure, errLeft)
		case ws.OpPing:
			if err := p.Inject(ws.MustCompileFrame(ws.NewPongFrame(payload))); err != nil {
				return err
			}
		case ws.OpPong:
		default: // of a message
			state = state.Clear(ws.StateFragmented)
			if !h.Fin {
				state = state.Set(ws.StateFragmented)
			}
		}
	}
}

// part says goodbye with a code, waits for the client to close the connection,
// a second at most, and returns err.
func (k socket) part(p *stream.Player, code ws.StatusCode, err error) error {
	p.Pause(true)
	if p.Inject(closeFrame(code, "")) == nil && k.nc.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		io.CopyN(io.Discard, k.nc, maxChatter)
	}
	return err
}
