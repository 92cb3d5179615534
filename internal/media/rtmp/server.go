package rtmp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"weir/internal/media/amf"
)

// Status is how a request to publish or play went: the numbers and the text that
// the contract gives it, and RTMP's own name for it.
type Status struct {
	Code, SubCode int
	Description   string
	NetStatus     string // such as NetStream.Publish.Start, which is also the default where it fits
}

// Accept does the server's part of the handshake, simple or with digest as the
// client has it, and answers the client's connect. Whatever the answer to
// publish or play will be, it is given there and not here.
//
// The connection stays the caller's to close, with an error too. The error is
// io.EOF if the client left without a word.
func Accept(nc net.Conn, cfg Config) (*Conn, error) {
	c := newConn(nc, cfg)
	if err := nc.SetDeadline(time.Now().Add(c.cfg.Limits.Handshake)); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if err := acceptHandshake(&c.in, nc); err == io.EOF {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if err := nc.SetDeadline(time.Now().Add(c.cfg.Limits.Setup)); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	cmd, err := c.readCommand()
	if err == nil && cmd.Name != "connect" {
		err = fmt.Errorf("unexpected command %q", cut(cmd.Name))
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", noEOF(err))
	}
	c.connect = parseConnect(cmd.object)

	const dynamic = 2 // limit type of SetPeerBandwidth (5.4.5)
	window := uint32(c.cfg.WindowAckSize)
	c.told = window
	b := appendControl(nil, typeWindowAckSize, window)
	b = AppendMessage(b, defaultChunkSize, ChunkControl, typeSetPeerBandwidth, 0, 0, append(binary.BigEndian.AppendUint32(nil, window), dynamic))
	b = appendControl(b, typeSetChunkSize, uint32(c.cfg.ChunkSize))
	server := amf.Object{{Name: "fmsVer", Value: "FMS/3,0,1,123"}, {Name: "capabilities", Value: 31}}
	status := info("status", "NetConnection.Connect.Success", "Connection succeeded.")
	status = append(status, amf.Property{Name: "objectEncoding", Value: 0})
	if c.connect.enhanced() { // the specification says only "an object", and clients look in either
		server = append(server, capabilities()...)
		status = append(status, capabilities()...)
	}
	b = c.appendCommand(b, ChunkCommand, 0, "_result", cmd.Transaction, server, status)
	if err := c.send(b); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// Connect returns what the client said in connect.
func (c *Conn) Connect() *Connect { return &c.connect }

// errFlood ends a client that asks without end.
var errFlood = errors.New("too many commands")

// ReadCommand returns the next command that the caller must act upon:
//
//	publish, play                      answer with Accept… or Reject…
//	pause, receiveAudio, receiveVideo  of a player, with Bool
//	seek                               of a player; a live stream stays where it is
//	closeStream, deleteStream          the stream StreamID is over
//
// All others are answered here, and media is dropped. A client that has not
// come to an accepted publish or play within Limits.Setup is an error. The
// error is io.EOF when the client has closed the connection between messages.
func (c *Conn) ReadCommand() (Command, error) {
	for {
		cmd, err := c.readCommand()
		if err != nil {
			return Command{}, err
		}
		if mine, err := c.serve(cmd); err != nil {
			return Command{}, err
		} else if !mine {
			return cmd, nil
		}
	}
}

// readCommand returns the next command, and drops other messages.
func (c *Conn) readCommand() (Command, error) {
	for {
		m, err := c.next()
		if err != nil {
			return Command{}, err
		}
		if m.typ == TypeCommand || m.typ == typeCommandAMF3 {
			return c.command(m)
		}
		c.endure()
	}
}

// serve answers a command, unless it is one of those that ReadCommand
// returns. Of these it only takes note.
func (c *Conn) serve(cmd Command) (done bool, err error) {
	if !c.allow(&c.calls) {
		return true, errFlood
	}
	var answer any
	switch cmd.Name {
	case "publish", "play":
		// Some clients do not wait for createStream, but all count as it does.
		// Players of each id are sent bytes of their own: there must not be many.
		if int64(cmd.StreamID) > int64(c.cfg.Limits.MessageStreams) {
			return true, fmt.Errorf("%s on message stream %d, which was never created", cmd.Name, cmd.StreamID)
		}
		return false, nil
	case "pause", "receiveAudio", "receiveVideo", "seek":
		return false, nil
	case "closeStream":
		return false, c.end(cmd.StreamID)
	case "deleteStream":
		if id := cmd.StreamID; id >= 1 && id <= maxStreams {
			c.created &^= 1 << (id - 1)
		}
		return false, c.end(cmd.StreamID)
	case "FCUnpublish":
		// Whether the client hears it does not matter any more.
		_ = c.answer(cmd, "_result", nil, amf.Undefined{})
		if name := bare(cmd.StreamName); c.pushed == "" || name != "" && name != c.pushed {
			return true, nil // a player's, or of another stream
		}
		return false, c.end(c.streamID)
	case "connect":
		return true, errors.New("second connect")
	case "_result", "_error", "onStatus":
		return true, nil
	case "createStream":
		id := c.createStream()
		if id == 0 {
			return true, c.answer(cmd, "_error", nil, info("error", "NetConnection.Call.Failed", "Too many streams."))
		}
		answer = id
	case "getStreamLength":
		answer = 0 // live
	case "releaseStream", "FCPublish", "FCSubscribe", "FCUnsubscribe", "_checkbw":
		answer = amf.Undefined{}
	default:
		c.cfg.Log.Debug("unknown RTMP command", "name", cut(cmd.Name))
		return true, c.answer(cmd, "_error", nil, info("error", "NetConnection.Call.Failed", "Method not found."))
	}
	return true, c.answer(cmd, "_result", nil, answer)
}

// answer sends an answer to a command that expects one.
func (c *Conn) answer(cmd Command, name string, vals ...any) error {
	if cmd.Transaction == 0 {
		return nil
	}
	return c.send(c.appendCommand(nil, ChunkCommand, 0, append([]any{name, cmd.Transaction}, vals...)...))
}

// end notes that a stream is over. If it was the one published or played, the
// client has to come to another as it had to come to this one.
func (c *Conn) end(streamID uint32) error {
	if !c.active || streamID != c.streamID {
		return nil
	}
	c.active = false
	return c.nc.SetReadDeadline(time.Now().Add(c.cfg.Limits.Setup))
}

// maxStreams is how many message streams Conn.created has room for.
const maxStreams = 64

// createStream returns the lowest free message stream id, 0 if there is none.
func (c *Conn) createStream() int {
	for id := 1; id <= min(c.cfg.Limits.MessageStreams, maxStreams); id++ {
		if c.created&(1<<(id-1)) == 0 {
			c.created |= 1 << (id - 1)
			return id
		}
	}
	return 0
}

// AcceptPublish lets the client publish: the answer with the status' numbers
// first, then onStatus. From now on ReadPacket returns what it sends, and no
// deadline is set.
func (c *Conn) AcceptPublish(cmd Command, s Status) error {
	b := c.appendResult(nil, cmd, s)
	b = c.AppendStatus(b, cmd.StreamID, "status", cmp.Or(s.NetStatus, "NetStream.Publish.Start"), s.Description)
	c.in.grow(bufferMedia)
	c.pushed = bare(cmd.StreamName)
	return c.begin(cmd, b)
}

// AcceptPlay lets the client play: the begin of the stream, the answer with
// the status' numbers, then onStatus. From now on the caller sends packets as
// messages of stream cmd.StreamID, and ReadCommand returns what the client
// wants. No deadline is set.
func (c *Conn) AcceptPlay(cmd Command, s Status) error {
	c.pushed = ""
	b := appendEvent(nil, eventStreamBegin, cmd.StreamID)
	b = c.appendResult(b, cmd, s)
	b = c.AppendStatus(b, cmd.StreamID, "status", "NetStream.Play.Reset", s.Description)
	b = c.AppendStatus(b, cmd.StreamID, "status", cmp.Or(s.NetStatus, "NetStream.Play.Start"), s.Description)
	// Flash Player hands the samples to scripts only after this.
	b = AppendMessage(b, c.cfg.ChunkSize, ChunkData, TypeData, 0, cmd.StreamID, amf.Append(nil, "|RtmpSampleAccess", true, true))
	return c.begin(cmd, b)
}

// begin sends the answers to an accepted command and lifts the deadline.
func (c *Conn) begin(cmd Command, answers []byte) error {
	c.streamID, c.active = cmd.StreamID, true
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("%s: %w", cmd.Name, err)
	}
	return c.send(answers)
}

// RejectPublish refuses to let the client publish: onStatus first, which ends
// librtmp, because that takes any answer for success. Close then sees to it that
// the client can read them.
func (c *Conn) RejectPublish(cmd Command, s Status) error {
	return c.reject(cmd, s, "NetStream.Publish.Denied")
}

// RejectPlay refuses to let the client play, as RejectPublish does.
func (c *Conn) RejectPlay(cmd Command, s Status) error {
	return c.reject(cmd, s, "NetStream.Play.Failed")
}

// AppendBusy appends the answers to a publish or play that the client may not
// do beside what it does, and with which it goes on. Any goroutine may call it.
func (c *Conn) AppendBusy(dst []byte, cmd Command, description string) []byte {
	netStatus := "NetStream.Play.Failed"
	if cmd.Name == "publish" {
		netStatus = "NetStream.Publish.Denied"
	}
	dst = c.AppendStatus(dst, cmd.StreamID, "error", netStatus, description)
	return c.appendResult(dst, cmd, Status{Code: 5, Description: description})
}

// bare returns the name of a stream without its query.
func bare(name string) string {
	name, _, _ = strings.Cut(name, "?")
	return name
}

func (c *Conn) reject(cmd Command, s Status, netStatus string) error {
	c.refused = true
	b := c.AppendStatus(nil, cmd.StreamID, "error", cmp.Or(s.NetStatus, netStatus), s.Description)
	return c.send(c.appendResult(b, cmd, s))
}

// appendResult appends the answer to publish or play.
func (c *Conn) appendResult(dst []byte, cmd Command, s Status) []byte {
	return c.appendCommand(dst, ChunkCommand, 0, "_result", cmd.Transaction, nil, amf.Object{
		{Name: "code", Value: s.Code},
		{Name: "subCode", Value: s.SubCode},
		{Name: "description", Value: s.Description},
	})
}
