package rtmp

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"

	"weir/internal/media/amf"
)

// peer is the other end of a Conn, speaking raw bytes. A goroutine puts what the
// Conn sends together as messages, so that neither end waits for the other to
// read; it ends when the connection is closed.
type peer struct {
	t   *testing.T
	nc  net.Conn
	got chan message // closed at the end of the connection
	err error        // why it ended; to be read after got has been closed
}

// accepted is what Accept returned.
type accepted struct {
	c   *Conn
	err error
}

// pipe returns the two ends of a connection in memory.
func pipe(t *testing.T) (ours, theirs net.Conn) {
	ours, theirs = net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// socket returns the two ends of a TCP connection.
func socket(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if theirs, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// start runs Accept on a new connection and returns its other end, before the
// handshake.
func start(t *testing.T, cfg Config) (*peer, <-chan accepted) {
	ours, theirs := pipe(t)
	result := make(chan accepted, 1)
	go func() {
		c, err := Accept(ours, cfg)
		if err != nil {
			ours.Close() // as a caller does
		}
		result <- accepted{c, err}
	}()
	return &peer{t: t, nc: theirs, got: make(chan message, 1<<16)}, result
}

// handshake does the client's part in the simple way and begins to read.
func (p *peer) handshake() {
	p.t.Helper()
	p.write(append([]byte{3}, make([]byte, handshakeSize)...))
	s := make([]byte, 1+2*handshakeSize)
	if _, err := io.ReadFull(p.nc, s); err != nil {
		p.t.Fatalf("read S0S1S2: %v", err)
	}
	p.write(s[1 : 1+handshakeSize])
	p.read()
}

// read begins to put messages together.
func (p *peer) read() {
	lim := DefaultLimits()
	r := &chunkReader{in: &input{src: p.nc}, lim: &lim, size: defaultChunkSize}
	go func() {
		defer close(p.got)
		for {
			m, whole, err := r.readChunk()
			if err != nil {
				p.err = err
				return
			}
			if whole && m.typ == typeSetChunkSize {
				r.size = int(binary.BigEndian.Uint32(m.body))
			}
			if whole {
				p.got <- m
			}
		}
	}()
}

// write sends raw bytes.
func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// try sends raw bytes to one who may have gone.
func (p *peer) try(b []byte) { _, _ = p.nc.Write(b) }

// next returns the next message.
func (p *peer) next() message {
	p.t.Helper()
	m, ok := <-p.got
	if !ok {
		p.t.Fatalf("connection ended: %v", p.err)
	}
	return m
}

// values returns those of a command or data message.
func (p *peer) values(m message) []any {
	p.t.Helper()
	if m.typ != TypeCommand && m.typ != TypeData {
		p.t.Fatalf("message of type %d, want a command or data", m.typ)
	}
	vals, err := amf.Decode(m.body)
	if err != nil {
		p.t.Fatalf("decode message: %v", err)
	}
	return vals
}

// command returns the values of the next message that is a command.
func (p *peer) command() []any {
	p.t.Helper()
	for {
		if m := p.next(); m.typ == TypeCommand {
			return p.values(m)
		}
	}
}

// msg returns a message in chunks of 128 bytes.
func msg(typ byte, timestamp, streamID uint32, body []byte) []byte {
	csid := uint32(ChunkCommand)
	if typ <= typeSetPeerBandwidth {
		csid = ChunkControl
	}
	return AppendMessage(nil, defaultChunkSize, csid, typ, timestamp, streamID, body)
}

// cmdMsg returns a command message in chunks of 128 bytes.
func cmdMsg(streamID uint32, vals ...any) []byte {
	return msg(TypeCommand, 0, streamID, amf.Append(nil, vals...))
}

var connectMsg = cmdMsg(0, "connect", 1, amf.Object{{Name: "app", Value: "live"}, {Name: "tcUrl", Value: "rtmp://a.example.com/live"}})

// connected returns a server's Conn that has answered connect, and its other
// end.
func connected(t *testing.T, cfg Config) (*Conn, *peer) {
	t.Helper()
	p, result := start(t, cfg)
	p.handshake()
	p.write(connectMsg)
	a := <-result
	if a.err != nil {
		t.Fatalf("Accept: %v", a.err)
	}
	if v := p.command(); v[0] != "_result" {
		t.Fatalf("answer to connect: %v", v)
	}
	return a.c, p
}

// publishing returns a server's Conn that has accepted a publish, and its
// other end.
func publishing(t *testing.T, cfg Config) (*Conn, *peer) {
	t.Helper()
	c, p := connected(t, cfg)
	go p.try(cmdMsg(1, "publish", 5, nil, "s1", "live"))
	cmd, err := c.ReadCommand()
	if err != nil {
		t.Fatalf("ReadCommand: %v", err)
	}
	if err := c.AcceptPublish(cmd, Status{Description: "Publish Success"}); err != nil {
		t.Fatalf("AcceptPublish: %v", err)
	}
	p.command()
	p.command()
	return c, p
}

// Every goroutine ends with its connection.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
