package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"weir/internal/media/amf"
	"weir/internal/media/rtmp"
)

// Message types (RTMP 1.0, 5.4 and 7.1) that the tool reads or sends.
const (
	msgSetChunkSize = 1
	msgAbort        = 2
	msgAck          = 3
	msgUserControl  = 4
	msgWindowAck    = 5
	msgCommand3     = 17 // AMF3: a zero byte, then AMF0
)

const (
	handshakeSize = 1536     // of C1, S1, C2 and S2
	outChunkSize  = 60_000   // of what we send: nearly every frame is one chunk
	maxCommand    = 16 << 10 // bytes that are kept of a command
)

// A message is an RTMP message of which the first bytes are kept: all of a
// command or control message, headSize of the others.
type message struct {
	typ  byte
	head []byte
}

// A chunkScanner puts together the messages of a chunk stream (RTMP 1.0, 5.3)
// that comes in pieces.
type chunkScanner struct {
	size    int // of the peer's chunks
	streams []*chunkStream
	header  []byte       // gathered
	current *chunkStream // whose payload comes next; nil: a header comes
	left    int          // bytes of payload left in the chunk
}

type chunkStream struct {
	id       uint32
	message  message
	length   int // of the message
	have     int // bytes of it so far
	extended bool
	ext      uint32 // the extended timestamp
}

var (
	errChunkStreams = errors.New("RTMP: too many chunk streams")
	errChunkHeader  = errors.New("RTMP: chunk without a beginning")
	errChunkSize    = errors.New("RTMP: bad chunk size")
)

// scan takes the next piece and calls whole for each message it completes; the
// message is the scanner's again when whole returns.
func (s *chunkScanner) scan(b []byte, whole func(m *message) error) error {
	for len(b) > 0 {
		if s.current == nil {
			want, _ := s.parse()
			if n := min(want-len(s.header), len(b)); n > 0 {
				s.header = append(s.header, b[:n]...)
				b = b[n:]
			}
			want, stream := s.parse()
			if len(s.header) < want {
				continue
			}
			rest, err := s.begin(stream)
			if err != nil {
				return err
			}
			if len(rest) > 0 { // four bytes that were no timestamp, and may go beyond the chunk
				n := min(s.left, len(rest))
				if err := s.payload(rest[:n], whole); err != nil {
					return err
				}
				if err := s.scan(rest[n:], whole); err != nil {
					return err
				}
				continue
			}
			if s.left > 0 {
				continue
			}
		}
		n := min(s.left, len(b))
		if err := s.payload(b[:n], whole); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// parse looks at the header gathered so far and returns how long it must at
// least be, and its chunk stream if that is known already.
func (s *chunkScanner) parse() (want int, stream *chunkStream) {
	h := s.header
	if len(h) == 0 {
		return 1, nil
	}
	basic, id := 1, uint32(h[0]&0x3F)
	if id < 2 {
		if basic += 1 + int(id); len(h) < basic {
			return basic, nil
		}
		id = uint32(h[1]) + 64
		if basic == 3 {
			id += uint32(h[2]) << 8
		}
	}
	for _, c := range s.streams {
		if c.id == id {
			stream = c
		}
	}
	format := h[0] >> 6
	want = basic + [4]int{11, 7, 3, 0}[format]
	if len(h) < want {
		return want, stream
	}
	if format < 3 && h[basic] == 0xFF && h[basic+1] == 0xFF && h[basic+2] == 0xFF ||
		format == 3 && stream != nil && stream.extended {
		want += 4
	}
	return want, stream
}

// begin takes the complete header. It returns what in it belongs behind the
// header: senders differ in whether they repeat an extended timestamp.
func (s *chunkScanner) begin(c *chunkStream) (rest []byte, err error) {
	h := s.header
	s.header = h[:0]
	format := h[0] >> 6
	id, fields := uint32(h[0]&0x3F), h[1:]
	switch id {
	case 0:
		id, fields = uint32(h[1])+64, h[2:]
	case 1:
		id, fields = uint32(h[2])<<8+uint32(h[1])+64, h[3:]
	}
	if c == nil {
		if format > 1 {
			return nil, errChunkHeader
		}
		if len(s.streams) == 64 {
			return nil, errChunkStreams
		}
		c = &chunkStream{id: id}
		s.streams = append(s.streams, c)
	}
	if format < 2 {
		c.length = int(fields[3])<<16 | int(fields[4])<<8 | int(fields[5])
		c.message.typ = fields[6]
	}
	if format < 3 {
		c.extended = fields[0] == 0xFF && fields[1] == 0xFF && fields[2] == 0xFF
		c.have = 0
	}
	if c.extended {
		last := fields[len(fields)-4:]
		ext := binary.BigEndian.Uint32(last)
		if format == 3 && ext != c.ext {
			rest = bytes.Clone(last)
		}
		if format < 3 {
			c.ext = ext
		}
	}
	if c.have == 0 {
		c.message.head = c.message.head[:0]
	}
	s.current, s.left = c, min(s.size, c.length-c.have)
	return rest, nil
}

// payload takes bytes of the current chunk.
func (s *chunkScanner) payload(b []byte, whole func(m *message) error) error {
	c := s.current
	n := min(len(b), s.left)
	keep := headSize
	if c.message.typ == rtmp.TypeCommand || c.message.typ == msgCommand3 {
		keep = maxCommand
	}
	if room := keep - len(c.message.head); room > 0 {
		c.message.head = append(c.message.head, b[:min(room, n)]...)
	}
	c.have += n
	s.left -= n
	if s.left > 0 {
		return nil
	}
	s.current = nil
	if c.have < c.length {
		return nil
	}
	c.have = 0
	m := &c.message
	switch {
	case m.typ == msgSetChunkSize && len(m.head) >= 4:
		s.size = int(binary.BigEndian.Uint32(m.head))
		if s.size < 1 || s.size > 1<<24 {
			return errChunkSize
		}
	case m.typ == msgAbort && len(m.head) >= 4:
		for _, c := range s.streams {
			if c.id == binary.BigEndian.Uint32(m.head) {
				c.have = 0
			}
		}
	}
	return whole(m)
}

// An rtmpClient is a client's side of an RTMP connection as a machine: bytes
// of the server go in, and what is to be sent gathers in out. It shakes hands
// in the simple manner, connects, creates a stream and plays or publishes it.
type rtmpClient struct {
	app, tcURL, name string
	publish          bool

	out       []byte
	outSize   int    // of our chunks
	handshake []byte // S0, S1 and S2 as far as they have come; nil when done
	chunks    chunkScanner
	streamID  uint32
	accepted  bool  // the server has let us publish or play
	window    int64 // bytes the server wants acknowledged; 0: it has not said
	received  int64
	acked     int64
}

// Transactions of our commands.
const (
	txConnect = 1 + iota
	txRelease
	txFCPublish
	txCreate
	txStart
)

// hello returns C0 and C1.
func (c *rtmpClient) hello() []byte {
	c.chunks.size, c.outSize = 128, 128
	c.handshake = make([]byte, 0, 1+2*handshakeSize)
	b := make([]byte, 1+handshakeSize)
	b[0] = 3
	for i := range b[9:] {
		b[9+i] = byte(i*i + i>>8)
	}
	return b
}

// receive takes the next bytes. It calls media for audio, video and data messages.
func (c *rtmpClient) receive(b []byte, media func(m *message)) error {
	c.count(len(b))
	if c.handshake != nil {
		n := min(cap(c.handshake)-len(c.handshake), len(b))
		c.handshake = append(c.handshake, b[:n]...)
		b = b[n:]
		if len(c.handshake) < cap(c.handshake) {
			return nil
		}
		if c.handshake[0] != 3 {
			return fmt.Errorf("RTMP: S0 is %d", c.handshake[0])
		}
		c.out = append(c.out, c.handshake[1:1+handshakeSize]...) // C2 repeats S1
		c.handshake = nil
		c.connect()
	}
	return c.chunks.scan(b, func(m *message) error {
		switch m.typ {
		case rtmp.TypeCommand, msgCommand3:
			return c.command(m)
		case msgWindowAck:
			if len(m.head) >= 4 {
				c.window = int64(binary.BigEndian.Uint32(m.head))
			}
		case msgUserControl: // event type (16 bits), data
			if len(m.head) >= 6 && m.head[0] == 0 && m.head[1] == 6 { // PingRequest
				c.send(rtmp.ChunkControl, msgUserControl, 0, append([]byte{0, 7}, m.head[2:6]...))
			}
		case rtmp.TypeAudio, rtmp.TypeVideo, rtmp.TypeData:
			media(m)
		}
		return nil
	})
}

// count notes that n bytes came, which may be all that was done with them, and
// acknowledges each half of a window.
func (c *rtmpClient) count(n int) {
	c.received += int64(n)
	if c.window > 0 && c.received-c.acked >= max(c.window/2, 1) && c.handshake == nil {
		c.acked = c.received
		c.send(rtmp.ChunkControl, msgAck, 0, binary.BigEndian.AppendUint32(nil, uint32(c.received)))
	}
}

// take returns what is to be sent now.
func (c *rtmpClient) take() []byte {
	b := c.out
	c.out = c.out[:0]
	return b
}

func (c *rtmpClient) send(csid uint32, typ byte, streamID uint32, payload []byte) {
	c.out = rtmp.AppendMessage(c.out, c.outSize, csid, typ, 0, streamID, payload)
}

func (c *rtmpClient) call(streamID uint32, vals ...any) {
	c.send(rtmp.ChunkCommand, rtmp.TypeCommand, streamID, amf.Append(nil, vals...))
}

func (c *rtmpClient) connect() {
	flashVer := "LNX 9,0,124,2" // what nginx-rtmp, SRS and others take for a player
	if c.publish {
		flashVer = "FMLE/3.0 (compatible; weir bench)"
	}
	c.call(0, "connect", float64(txConnect), amf.Object{
		{Name: "app", Value: c.app}, {Name: "type", Value: "nonprivate"}, {Name: "flashVer", Value: flashVer}, {Name: "tcUrl", Value: c.tcURL},
		{Name: "fpad", Value: false}, {Name: "capabilities", Value: 15.0}, {Name: "audioCodecs", Value: 4071.0}, {Name: "videoCodecs", Value: 252.0},
		{Name: "videoFunction", Value: 1.0},
	})
}

// command acts on a command of the server.
func (c *rtmpClient) command(m *message) error {
	b := m.head
	if m.typ == msgCommand3 && len(b) > 0 {
		b = b[1:]
	}
	vals, err := amf.Decode(b)
	if err != nil {
		return fmt.Errorf("RTMP: command: %w", err)
	}
	vals = append(vals, nil, nil, nil, nil)
	name, _ := vals[0].(string)
	tx, _ := vals[1].(float64)
	info := amf.Properties(vals[3])
	switch name {
	case "_result":
		switch tx {
		case txConnect:
			if c.publish {
				c.call(0, "releaseStream", float64(txRelease), nil, c.name)
				c.call(0, "FCPublish", float64(txFCPublish), nil, c.name)
			}
			c.call(0, "createStream", float64(txCreate), nil)
		case txCreate:
			id, _ := vals[3].(float64)
			c.streamID = uint32(id)
			c.start()
		}
	case "_error":
		if tx == txRelease || tx == txFCPublish {
			return nil
		}
		return refusal(info)
	case "onStatus":
		if info.String("level") == "error" {
			return refusal(info)
		}
		switch info.String("code") {
		case "NetStream.Publish.Start", "NetStream.Play.Start":
			if c.publish && !c.accepted {
				c.send(rtmp.ChunkControl, msgSetChunkSize, 0, binary.BigEndian.AppendUint32(nil, outChunkSize))
				c.outSize = outChunkSize
			}
			c.accepted = true
		}
	}
	return nil
}

// start asks for what the connection is for.
func (c *rtmpClient) start() {
	if c.publish {
		c.call(c.streamID, "publish", float64(txStart), nil, c.name, "live")
		return
	}
	// SetBufferLength: 3 s. The start of play, -1000, asks for a live stream.
	c.send(rtmp.ChunkControl, msgUserControl, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{0, 3}, c.streamID), 3000))
	c.call(c.streamID, "play", float64(txStart), nil, c.name, -1000.0)
}

// stop ends a publish in order.
func (c *rtmpClient) stop() {
	c.call(0, "FCUnpublish", float64(txStart+1), nil, c.name)
	c.call(0, "deleteStream", float64(txStart+2), nil, float64(c.streamID))
}

// refusal makes an error of the information object of an answer.
func refusal(info amf.Object) error {
	return fmt.Errorf("RTMP: %s: %s", info.String("code"), info.String("description"))
}
