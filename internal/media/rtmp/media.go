package rtmp

import (
	"bytes"
	"errors"
	"io"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// ReadPacket returns the next packet of a publisher (server) or of the stream
// that is played (client). Its bytes are the caller's. Timestamps are
// milliseconds and go on beyond 2^32. What is no packet is passed over.
//
// The error is io.EOF when the stream was ended in an orderly way: by
// FCUnpublish, closeStream or deleteStream, by the server's word, or by closing
// the connection between messages.
func (c *Conn) ReadPacket() (av.Packet, error) {
	for {
		m, err := c.nextMedia()
		if err != nil {
			return av.Packet{}, err
		}
		if m.streamID != c.streamID && c.made(m.streamID) && m.typ != TypeCommand && m.typ != typeCommandAMF3 {
			c.endure() // of a stream that the client may not publish; others do not care about ids
			continue
		}
		switch m.typ {
		case TypeAudio, TypeVideo:
			p, err := c.parser.Packet(m.typ, c.clock.media(m.timestamp), m.body)
			if err != flv.ErrIgnore {
				return p, err
			}
		case typeDataAMF3:
			if len(m.body) > 0 {
				m.body = m.body[1:] // as in commands
			}
			fallthrough
		case TypeData:
			if isNotice(m.body) {
				break
			}
			p, err := c.parser.Packet(TypeData, c.clock.data(m.timestamp), m.body)
			if err != flv.ErrIgnore {
				return p, err
			}
		case TypeCommand, typeCommandAMF3:
			cmd, err := c.command(m)
			if err == nil {
				err = c.duringMedia(cmd)
			}
			if err != nil {
				return av.Packet{}, err
			}
		}
		c.endure()
	}
}

// made reports whether createStream has made the message stream, and
// deleteStream not deleted it.
func (c *Conn) made(id uint32) bool {
	return id >= 1 && id <= maxStreams && c.created&(1<<(id-1)) != 0
}

// duringMedia handles a command that comes between packets. It returns io.EOF
// for one that ends the stream.
func (c *Conn) duringMedia(cmd Command) error {
	if c.client {
		return c.playStatus(cmd)
	}
	done, err := c.serve(cmd)
	if done || err != nil {
		return err
	}
	switch {
	case cmd.Name == "publish" || cmd.Name == "play":
		return c.send(c.AppendBusy(nil, cmd, "The connection publishes already."))
	case c.active:
		return nil
	}
	// Most clients are gone by now.
	_ = c.send(c.AppendStatus(nil, c.streamID, "status", "NetStream.Unpublish.Success", "Stream is unpublished."))
	return io.EOF
}

// isNotice reports whether a data message tells about the RTMP stream, and is no
// part of what is streamed.
func isNotice(b []byte) bool {
	for _, name := range [...]string{"|RtmpSampleAccess", "onStatus", "@clearDataFrame"} {
		if bytes.HasPrefix(b, amf.Append(nil, name)) {
			return true
		}
	}
	return false
}

// nextMedia returns the next message, those inside aggregates one by one.
func (c *Conn) nextMedia() (message, error) {
	for {
		m, ok, err := c.aggregate.next()
		if ok || err != nil {
			return m, err
		}
		if m, c.early = c.early, (message{}); m.typ == 0 {
			m, err = c.next()
		}
		if err != nil || m.typ != typeAggregate {
			return m, err
		}
		c.aggregate = aggregate{rest: m.body, timestamp: m.timestamp, streamID: m.streamID}
	}
}

// aggregate is an aggregate message (7.1.6): FLV tags, each with its
// header and back pointer. Their times count from that of the first, which is the
// message's own.
type aggregate struct {
	rest      []byte
	timestamp uint32
	first     uint32
	begun     bool
	streamID  uint32
}

var errAggregate = errors.New("bad aggregate message")

// next returns the next of the messages, false after the last.
func (a *aggregate) next() (message, bool, error) {
	if len(a.rest) == 0 {
		return message{}, false, nil
	}
	const header, pointer = 11, 4
	if len(a.rest) < header {
		return message{}, false, errAggregate
	}
	h, body := a.rest[:header], a.rest[header:]
	n := int(uint24(h[1:]))
	if n > len(body) {
		return message{}, false, errAggregate
	}
	// A copy, so that one small packet does not keep all of the aggregate.
	m := message{h[0], uint24(h[4:]) | uint32(h[7])<<24, a.streamID, bytes.Clone(body[:n])}
	switch m.typ {
	case TypeAudio, TypeVideo, TypeData, typeDataAMF3:
	default:
		return message{}, false, errAggregate
	}
	if !a.begun {
		a.begun, a.first = true, m.timestamp
	}
	m.timestamp += a.timestamp - a.first
	a.rest = body[n:]
	a.rest = a.rest[min(pointer, len(a.rest)):]
	return m, true, nil
}

// clock carries the 32 bits of timestamps on beyond their wrap. Whatever of
// two neighbours is nearer is meant; audio and video share the clock, so that they
// stay together.
type clock struct {
	last    int64
	running bool
}

// media returns the time of an audio or video message, from which later ones count.
func (c *clock) media(timestamp uint32) int64 {
	c.last = c.data(timestamp)
	c.running = true
	return c.last
}

// data returns the time of a data message. Many senders leave it 0.
func (c *clock) data(timestamp uint32) int64 {
	if !c.running {
		return int64(timestamp)
	}
	return c.last + int64(int32(timestamp-uint32(c.last)))
}
