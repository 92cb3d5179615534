package rtmp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"strings"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// Error is a server's refusal, in its own words, long ones cut.
type Error struct {
	Code        string // such as NetStream.Publish.BadName
	Description string
}

func (e *Error) Error() string {
	if e.Description == "" {
		return e.Code
	}
	return e.Code + ": " + e.Description
}

// SplitURL divides the URL of a stream, rtmp://host/app/stream?query, into the
// one that Dial takes and the name, with query, that Publish and Play take. The
// name is what follows the last slash of the path.
func SplitURL(rawurl string) (tcURL, name string, err error) {
	path, query, found := strings.Cut(rawurl, "?")
	i := strings.LastIndexByte(path, '/')
	if u, err := url.Parse(path); err != nil || strings.Count(u.Path, "/") < 2 {
		return "", "", errors.New("URL is not rtmp://host/app/stream")
	}
	if name = path[i+1:]; found {
		name += "?" + query
	}
	return path[:i], name, nil
}

// Dial connects to a server: rtmp://host[:port]/app or rtmps://…, which also is
// the tcUrl that the server is told. It returns after connect; Publish or Play
// comes next. The context ends the dialling only; apart from it there are
// Limits.Handshake and Limits.Setup. Redirections are errors.
func Dial(ctx context.Context, rawurl string, cfg Config) (*Conn, error) {
	u, err := url.Parse(rawurl)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("dial: not a URL with a host") // which may hold secrets
	}
	var d interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	}
	var port string
	plain := &net.Dialer{Timeout: cfg.withDefaults().Limits.Handshake}
	switch u.Scheme {
	case "rtmp":
		d, port = plain, "1935"
	case "rtmps":
		d, port = &tls.Dialer{NetDialer: plain, Config: cfg.TLS}, "443"
	default:
		return nil, fmt.Errorf("dial: scheme %q is neither rtmp nor rtmps", u.Scheme)
	}
	nc, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	c := newConn(nc, cfg)
	c.client = true
	err = c.dial(u, rawurl)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("dial %s: %w", u.Host, err)
	}
	return c, nil
}

// dial does handshake and connect on a new connection.
func (c *Conn) dial(u *url.URL, tcURL string) error {
	if err := c.nc.SetDeadline(time.Now().Add(c.cfg.Limits.Handshake)); err != nil {
		return err
	}
	if err := dialHandshake(&c.in, c.nc, c.cfg.Digest); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	app := strings.TrimPrefix(u.EscapedPath(), "/")
	if u.RawQuery != "" {
		app += "?" + u.RawQuery
	}
	o := amf.Object{
		{Name: "app", Value: app},
		{Name: "type", Value: "nonprivate"},
		{Name: "flashVer", Value: "FMLE/3.0 (compatible; Weir)"},
		{Name: "tcUrl", Value: tcURL},
		{Name: "fpad", Value: false},
		{Name: "capabilities", Value: 239},
		{Name: "audioCodecs", Value: 0x0FFF},
		{Name: "videoCodecs", Value: 0x00FF},
		{Name: "videoFunction", Value: 1},
		{Name: "objectEncoding", Value: 0},
	}
	return c.setup(func() error {
		// Everything behind it is in chunks of this size.
		if err := c.send(appendControl(nil, typeSetChunkSize, uint32(c.cfg.ChunkSize))); err != nil {
			return err
		}
		if _, err := c.call("connect", append(o, capabilities()...)); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return c.send(appendControl(nil, typeWindowAckSize, uint32(c.cfg.WindowAckSize)))
	})
}

// setup runs f with a deadline.
func (c *Conn) setup(f func() error) error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.cfg.Limits.Setup)); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return c.nc.SetDeadline(time.Time{})
}

// call sends a command of the connection and returns its answer.
func (c *Conn) call(name string, object any, args ...any) (Command, error) {
	if err := c.notify(0, name, object, args...); err != nil {
		return Command{}, err
	}
	tx := c.sent
	for {
		cmd, err := c.readCommand()
		if err != nil {
			return Command{}, noEOF(err)
		}
		switch {
		case cmd.Name == "close":
			return Command{}, errClosed
		case cmd.Transaction != tx:
		case cmd.Name == "_result":
			return cmd, nil
		case cmd.Name == "_error":
			return Command{}, cmd.refusal()
		}
	}
}

// notify sends a command whose answer nobody waits for.
func (c *Conn) notify(streamID uint32, name string, object any, args ...any) error {
	c.sent++
	return c.send(c.appendCommand(nil, ChunkCommand, streamID, append([]any{name, c.sent, object}, args...)...))
}

var errClosed = errors.New("closed by the server")

// refusal makes the information object of a command an error.
func (cmd *Command) refusal() *Error {
	o := amf.Properties(cmd.arg(0))
	if o == nil {
		o = cmd.object
	}
	e := &Error{cut(o.String("code")), cut(o.String("description"))}
	e.Code = cmp.Or(e.Code, "call failed")
	return e
}

// Publish begins to publish a stream; name may have a query. A refusal is an
// *Error. WritePacket comes next; another goroutine reads, with ReadPacket, what
// the server says meanwhile.
func (c *Conn) Publish(name string) error {
	bare, _, _ := strings.Cut(name, "?")
	err := c.setup(func() error {
		if err := c.notify(0, "releaseStream", nil, bare); err != nil {
			return err
		}
		if err := c.notify(0, "FCPublish", nil, bare); err != nil {
			return err
		}
		return c.open("NetStream.Publish.Start", "publish", name, "live")
	})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Play begins to play a stream; name may have a query. A refusal is an *Error.
// ReadPacket comes next.
func (c *Conn) Play(name string) error {
	err := c.setup(func() error { return c.open("NetStream.Play.Start", "play", name, -1) }) // -1: live only
	if err != nil {
		return fmt.Errorf("play: %w", err)
	}
	c.in.grow(bufferMedia)
	return nil
}

// open creates a stream, sends the command on it and waits for its status.
func (c *Conn) open(start, name string, args ...any) error {
	created, err := c.call("createStream", nil)
	if err != nil {
		return fmt.Errorf("create stream: %w", err)
	}
	id, ok := created.arg(0).(float64)
	if !ok || !(id >= 0 && id <= math.MaxUint32) {
		return errors.New("create stream: no stream in the answer")
	}
	c.streamID = uint32(id)
	if err := c.notify(c.streamID, name, nil, args...); err != nil {
		return err
	}
	if name == "play" {
		const milliseconds = 1000
		b := binary.BigEndian.AppendUint16(nil, eventSetBufferLength)
		b = binary.BigEndian.AppendUint32(b, c.streamID)
		b = binary.BigEndian.AppendUint32(b, milliseconds)
		if err := c.send(AppendMessage(nil, defaultChunkSize, ChunkControl, typeUserControl, 0, 0, b)); err != nil {
			return err
		}
	}
	for {
		m, err := c.next()
		if err != nil {
			return noEOF(err)
		}
		switch m.typ {
		case TypeAudio, TypeVideo, TypeData, typeAggregate:
			if name == "play" && !isNotice(m.body) {
				c.early = m
				return nil
			}
		case TypeCommand, typeCommandAMF3:
			cmd, err := c.command(m)
			if err != nil {
				return err
			}
			switch o := amf.Properties(cmd.arg(0)); {
			case cmd.Name == "close":
				return errClosed
			case cmd.Name == "_error" && cmd.Transaction == c.sent:
				return cmd.refusal()
			case cmd.Name != "onStatus":
			case o.String("level") == "error":
				return cmd.refusal()
			case o.String("code") == start:
				return nil
			}
		}
	}
}

// playStatus handles a command that comes while a stream is played.
func (c *Conn) playStatus(cmd Command) error {
	if cmd.Name == "close" {
		return io.EOF
	}
	if cmd.Name != "onStatus" {
		return nil
	}
	o := amf.Properties(cmd.arg(0))
	switch o.String("code") {
	case "NetStream.Play.UnpublishNotify", "NetStream.Play.Stop", "NetStream.Play.Complete":
		return io.EOF
	}
	if o.String("level") == "error" {
		return cmd.refusal()
	}
	return nil
}

// WritePacket writes a packet of the stream that is published, in one write. It
// makes a Conn an av.Writer.
func (c *Conn) WritePacket(p av.Packet) error {
	typ, csid, body := byte(TypeData), uint32(ChunkData), p.Tag
	switch p.Kind {
	case av.Audio:
		typ, csid = TypeAudio, ChunkAudio
	case av.Video:
		typ, csid = TypeVideo, ChunkVideo
	case av.Data:
		if bytes.HasPrefix(body, amf.Append(nil, "onMetaData")) {
			body = append(amf.Append(nil, "@setDataFrame"), body...)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = AppendMessage(c.buf[:0], c.cfg.ChunkSize, csid, typ, uint32(p.DTS), c.streamID, body)
	n, err := c.nc.Write(c.buf)
	c.written.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	return nil
}

// Unpublish ends the stream that is published, in an orderly way.
func (c *Conn) Unpublish(name string) error {
	bare, _, _ := strings.Cut(name, "?")
	if err := c.notify(0, "FCUnpublish", nil, bare); err != nil {
		return err
	}
	return c.notify(0, "deleteStream", nil, float64(c.streamID))
}
