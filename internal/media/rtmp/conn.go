package rtmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// Conn is one connection. One goroutine at a time reads (ReadCommand,
// ReadPacket, and the client's Publish and Play); another may write packets or
// call SetOutput at the same time. Reading ends, with an error, when the
// net.Conn is closed.
type Conn struct {
	nc  net.Conn
	cfg Config

	in      input
	chunks  chunkReader
	window  uint32        // acknowledge after so many bytes; 0: never
	told    uint32        // after how many the other end should
	acked   uint64        // bytes acknowledged
	ackRead uint          // in.reads at that time
	pings   *rate.Limiter // what is answered of them; nil: none came
	calls   *rate.Limiter // of commands
	junk    *rate.Limiter // of messages of no use

	connect  Connect
	client   bool    // our role
	created  uint64  // server: bit n-1 is message stream n
	streamID uint32  // of the newest stream published or played
	active   bool    // server: it has not ended
	pushed   string  // server: its name if the client publishes it, without a query
	refused  bool    // server: the client has been told to go
	sent     float64 // client: the last transaction
	early    message // client: media that came before the answer to play

	parser    flv.Parser
	clock     clock
	aggregate aggregate

	mu      sync.Mutex // one write at a time; guards what follows
	output  func([]byte) error
	buf     []byte // of WritePacket
	written atomic.Uint64
}

func newConn(nc net.Conn, cfg Config) *Conn {
	c := &Conn{nc: nc, cfg: cfg.withDefaults()}
	c.in.src = nc
	c.chunks = chunkReader{in: &c.in, lim: &c.cfg.Limits, size: defaultChunkSize}
	return c
}

// NetConn returns the connection that Accept was given or Dial made. Closing
// it ends a read or write at once.
func (c *Conn) NetConn() net.Conn { return c.nc }

// ChunkSize returns the size of the chunks that this end sends.
func (c *Conn) ChunkSize() int { return c.cfg.ChunkSize }

// BytesRead returns the number of bytes read so far. Any goroutine may call it.
func (c *Conn) BytesRead() uint64 { return c.in.total.Load() }

// BytesWritten returns the number of bytes that the Conn itself has written
// so far, without what SetOutput's function took. Any goroutine may call it.
func (c *Conn) BytesWritten() uint64 { return c.written.Load() }

// SetOutput makes f take what the Conn has to say from now on, such as
// answers to pings: whole messages, in chunks of ChunkSize, which f may
// keep. A server that writes to the player itself must see to it that nothing
// falls between its own chunks.
func (c *Conn) SetOutput(f func([]byte) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.output = f
}

// SetHeard makes f hear of audio and video that is too large to come at once: it
// is called for every 4 KiB, as long as more of that message is to come. The
// goroutine that reads calls SetHeard, and f.
func (c *Conn) SetHeard(f func()) { c.chunks.heard = f }

// SetUnknown makes f hear of codecs that are not known, whose packets
// ReadPacket passes over: see flv.Parser. The goroutine that reads calls it.
func (c *Conn) SetUnknown(f func(k av.Kind, codec string)) { c.parser.SetUnknown(f) }

// SetInput makes r what the Conn reads from, instead of its net.Conn: something
// that reads from that in turn. The goroutine that reads calls it.
func (c *Conn) SetInput(r io.Reader) { c.in.src = r }

// Close closes the connection. After a rejection it first ends the sending
// side and waits, a second at most, for the client to leave, so that the
// reasons arrive; it is then called by the goroutine that reads.
func (c *Conn) Close() error {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok && c.refused {
		const most = 1 << 20 // bytes of one who goes on sending
		if w.CloseWrite() == nil && c.nc.SetReadDeadline(time.Now().Add(time.Second)) == nil {
			io.CopyN(io.Discard, c.nc, most)
		}
	}
	return c.nc.Close()
}

// send writes whole messages, which it may keep.
func (c *Conn) send(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.output != nil {
		return c.output(b)
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.Limits.Write)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	n, err := c.nc.Write(b)
	c.written.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return c.nc.SetWriteDeadline(time.Time{})
}

// next returns the next message that is not about the connection, and does what
// those say that are. The error is io.EOF when the other end has closed
// between messages.
func (c *Conn) next() (message, error) {
	for {
		m, whole, err := c.chunks.readChunk()
		if err == nil {
			c.acknowledge()
			if !whole {
				continue
			}
			if m.typ == 0 || m.typ > typeSetPeerBandwidth {
				return m, nil
			}
			if err = c.control(m); err == nil {
				c.endure()
			}
		}
		if err == io.EOF {
			return message{}, err
		}
		if err != nil {
			return message{}, fmt.Errorf("read message: %w", err)
		}
	}
}

// endure is called for each message of no use. Who sends too many is read more
// slowly, so that it costs him and not us.
func (c *Conn) endure() {
	if c.junk == nil {
		n := c.cfg.Limits.Junk
		c.junk = rate.NewLimiter(rate.Limit(n), n)
	}
	const pause = 50 * time.Millisecond // not one for each message
	if d := c.junk.Reserve().Delay(); d >= pause {
		time.Sleep(d)
	}
}

// acknowledge sends an acknowledgement (5.4.3) if the window is used up, at
// most one for each read from the network. That it fails will show in the
// next read.
func (c *Conn) acknowledge() {
	if c.window == 0 || c.ackRead == c.in.reads {
		return
	}
	total := c.in.total.Load()
	if total-c.acked < uint64(c.window) {
		return
	}
	c.acked, c.ackRead = total, c.in.reads
	if c.send(appendControl(nil, typeAck, uint32(total))) != nil {
		c.window = 0
	}
}

// Events of user control messages (7.1.7).
const (
	eventStreamBegin     = 0
	eventStreamEOF       = 1
	eventSetBufferLength = 3
	eventPingRequest     = 6
	eventPingResponse    = 7
)

var errControl = errors.New("bad control message")

// control does what a message about the connection says (5.4, 7.1.7).
func (c *Conn) control(m message) error {
	switch m.typ {
	case typeUserControl:
		return c.userControl(m.body)
	case typeAck:
		return nil // TCP does all of that
	case typeSetPeerBandwidth: // that too, but 5.4.5 wants an answer
		if len(m.body) < 4 {
			return nil
		}
		m.body = m.body[:4]
	}
	if len(m.body) != 4 {
		return errControl
	}
	v := binary.BigEndian.Uint32(m.body)
	switch m.typ {
	case typeSetChunkSize:
		if v == 0 || v > 1<<31-1 {
			return fmt.Errorf("chunk size %d", v)
		}
		c.chunks.size = min(int(v), c.cfg.Limits.ChunkSize)
	case typeAbort:
		c.chunks.abort(v)
	case typeWindowAckSize:
		c.window = v
	case typeSetPeerBandwidth:
		if v != c.told && v > 0 && c.allow(&c.pings) {
			c.told = v
			// That it fails will show in the next read.
			_ = c.send(appendControl(nil, typeWindowAckSize, v))
		}
	}
	return nil
}

func (c *Conn) userControl(b []byte) error {
	if len(b) < 2 {
		return errControl
	}
	switch binary.BigEndian.Uint16(b) {
	case eventPingRequest:
		if len(b) < 6 {
			return errControl
		}
		if c.allow(&c.pings) {
			// That it fails will show in the next read.
			_ = c.send(appendEvent(nil, eventPingResponse, binary.BigEndian.Uint32(b[2:])))
		}
	case eventStreamEOF:
		if len(b) >= 6 && binary.BigEndian.Uint32(b[2:]) == c.streamID && c.client {
			return io.EOF
		}
	}
	return nil
}

// allow reports whether the other end has not asked for too much lately.
func (c *Conn) allow(l **rate.Limiter) bool {
	if *l == nil {
		n := c.cfg.Limits.Answers
		*l = rate.NewLimiter(rate.Limit(n), 2*n)
	}
	return (*l).Allow()
}

// appendControl appends a control message of one number.
func appendControl(dst []byte, typ byte, v uint32) []byte {
	return AppendMessage(dst, defaultChunkSize, ChunkControl, typ, 0, 0, binary.BigEndian.AppendUint32(nil, v))
}

// appendEvent appends a user control message.
func appendEvent(dst []byte, event uint16, v uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, event)
	return AppendMessage(dst, defaultChunkSize, ChunkControl, typeUserControl, 0, 0, binary.BigEndian.AppendUint32(b, v))
}
