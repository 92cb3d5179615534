package node

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/rtmp"
)

// attacker is an RTMP client that sends what it likes. It reads all that the
// server says, with a reader of its own that takes nothing but what the
// specification allows.
type attacker struct {
	*world
	t    *testing.T
	nc   net.Conn
	gone chan struct{} // closed when the server has closed the connection

	mu       sync.Mutex
	commands map[string]int // answers and statuses so far, by name or code
	last     uint32         // the timestamp of the newest frame
	odd      error          // what the server should not have said
	n        int            // transactions
}

func (w *world) attacker(t *testing.T) *attacker {
	t.Helper()
	a := &attacker{world: w, t: t, nc: w.dial("rtmp"), gone: make(chan struct{}), commands: make(map[string]int)}
	go a.read() // ends with the connection
	return a
}

// leave closes the connection and waits for the reader.
func (a *attacker) leave() {
	a.nc.Close()
	<-a.gone
	if a.odd != nil {
		a.t.Errorf("the server sends: %v", a.odd)
	}
}

// read counts what the server says.
func (a *attacker) read() {
	defer close(a.gone)
	r := bufio.NewReader(a.nc)
	if _, err := io.CopyN(io.Discard, r, 1+2*1536); err != nil {
		return
	}
	chunks := wireReader{r: r, size: 128}
	for {
		m, err := chunks.next()
		a.mu.Lock()
		if err != nil {
			if errors.Is(err, errWire) {
				a.odd = err
			}
			a.mu.Unlock()
			return
		}
		switch m.typ {
		case rtmp.TypeCommand:
			vals, err := amf.Decode(m.body)
			if err != nil || len(vals) < 2 {
				a.odd = fmt.Errorf("command %x: %v", m.body, err)
				break
			}
			name, _ := vals[0].(string)
			if name == "onStatus" {
				name = amf.Properties(vals[len(vals)-1]).String("code")
			} else {
				name = fmt.Sprint(name, vals[1])
			}
			a.commands[name]++
		case rtmp.TypeAudio, rtmp.TypeVideo:
			a.last = m.timestamp
		}
		a.mu.Unlock()
	}
}

// heard returns how often the server has said that.
func (a *attacker) heard(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.commands[what]
}

// newest returns the timestamp of the newest frame.
func (a *attacker) newest() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// hears waits for the server to say that.
func (a *attacker) hears(what string) {
	a.t.Helper()
	until(a.t, "the server says "+what, patience, func() bool { return a.heard(what) > 0 })
}

// send writes bytes; that the server has closed the connection is no news.
func (a *attacker) send(parts ...[]byte) {
	a.nc.SetWriteDeadline(time.Now().Add(4 * patience))
	for _, b := range parts {
		if _, err := a.nc.Write(b); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				a.t.Errorf("%d bytes are not taken", len(b))
			}
			return
		}
	}
}

// hello is C0, C1 and C2 of the simple handshake: the server does not look at C2.
func hello() []byte {
	return append([]byte{3}, make([]byte, 2*1536)...)
}

// chunked is a message in chunks of 128 bytes.
func chunked(csid uint32, typ byte, ts, streamID uint32, body []byte) []byte {
	return rtmp.AppendMessage(nil, 128, csid, typ, ts, streamID, body)
}

func command(streamID uint32, vals ...any) []byte {
	return chunked(3, rtmp.TypeCommand, 0, streamID, amf.Append(nil, vals...))
}

func connect(app string) []byte {
	return command(0, "connect", 1, amf.Object{{Name: "app", Value: app}, {Name: "tcUrl", Value: "rtmp://127.0.0.1/" + app}})
}

// control is a control message of one number.
func control(typ byte, v uint32) []byte {
	return chunked(2, typ, 0, 0, binary.BigEndian.AppendUint32(nil, v))
}

// connects does the handshake and connect.
func (a *attacker) connects() {
	a.t.Helper()
	a.send(hello(), connect("live"))
	a.hears("_result1")
}

// publishes becomes the publisher of a stream.
func (a *attacker) publishes(app, name string) {
	a.t.Helper()
	a.send(hello(), connect(app), command(0, "createStream", 2, nil), command(1, "publish", 3, nil, name, "live"))
	a.hears("NetStream.Publish.Start")
}

// plays becomes a player of the canary.
func (a *attacker) plays() {
	a.t.Helper()
	a.send(hello(), connect("live"), command(0, "createStream", 2, nil), command(1, "play", 3, nil, "canary"))
	a.hears("NetStream.Play.Start")
}

// closed fails the test unless the server closes the connection.
func (a *attacker) closed() {
	a.t.Helper()
	select {
	case <-a.gone:
	case <-time.After(patience):
		a.t.Error("the connection is still open")
	}
}

// alive fails the test unless the server still answers, even though it may be
// a while until it has read all that was sent.
func (a *attacker) alive() {
	a.t.Helper()
	a.n++
	tx := 1000 + a.n
	a.send(command(0, "getStreamLength", tx, nil, "x"))
	answer := fmt.Sprint("_result", tx)
	late, tick := time.After(4*patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for a.heard(answer) == 0 {
		select {
		case <-tick.C:
		case <-a.gone:
			a.t.Error("the connection is closed")
			return
		case <-late:
			a.t.Error("the server does not answer")
			return
		}
	}
}

// errWire is about bytes that a strict client does not take.
var errWire = errors.New("not as the specification says")

// wireMessage is a message as it came.
type wireMessage struct {
	typ       byte
	timestamp uint32
	body      []byte
}

// wireReader reads what a server of ours sends: messages one after the other,
// the first chunk with a header of type 0, the others of type 3 with the
// extended timestamp repeated.
type wireReader struct {
	r    *bufio.Reader
	size int
}

func (w *wireReader) next() (m wireMessage, err error) {
	var h [12]byte
	if _, err := io.ReadFull(w.r, h[:]); err != nil {
		return m, err
	}
	csid, length := h[0]&0x3F, int(h[4])<<16|int(h[5])<<8|int(h[6])
	if h[0]>>6 != 0 || csid < 2 {
		return m, fmt.Errorf("%w: basic header %x", errWire, h[0])
	}
	m.typ, m.timestamp = h[7], uint32(h[1])<<16|uint32(h[2])<<8|uint32(h[3])
	extended := m.timestamp == 0xFFFFFF
	for first := true; first || len(m.body) < length; first = false {
		if !first {
			b, err := w.r.ReadByte()
			if err != nil {
				return m, err
			}
			if b != 3<<6|csid {
				return m, fmt.Errorf("%w: %x where the message should go on", errWire, b)
			}
		}
		if extended {
			var e [4]byte
			if _, err := io.ReadFull(w.r, e[:]); err != nil {
				return m, err
			}
			ts := binary.BigEndian.Uint32(e[:])
			if first {
				m.timestamp = ts
			}
			if ts != m.timestamp || ts < 0xFFFFFF {
				return m, fmt.Errorf("%w: extended timestamp %#x, %#x", errWire, m.timestamp, ts)
			}
		}
		part := make([]byte, min(w.size, length-len(m.body)))
		if _, err := io.ReadFull(w.r, part); err != nil {
			return m, err
		}
		m.body = append(m.body, part...)
	}
	if m.typ == 1 {
		if len(m.body) != 4 || bytes.Equal(m.body, make([]byte, 4)) {
			return m, fmt.Errorf("%w: chunk size %x", errWire, m.body)
		}
		w.size = int(binary.BigEndian.Uint32(m.body))
	}
	return m, nil
}
