package rtmp

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// script is a connection whose other end says what it has to say without waiting
// for anything.
type script struct {
	net.Conn
	io.Reader
	written int
}

func (s *script) Read(b []byte) (int, error)         { return s.Reader.Read(b) }
func (s *script) Write(b []byte) (int, error)        { s.written += len(b); return len(b), nil }
func (s *script) Close() error                       { return nil }
func (s *script) SetDeadline(time.Time) error        { return nil }
func (s *script) SetReadDeadline(time.Time) error    { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// readPackets reads to the end, and checks what no sender may break.
func readPackets(t *testing.T, c *Conn) error {
	for {
		p, err := c.ReadPacket()
		if err != nil {
			return err
		}
		if p.Kind < av.Video || p.Kind > av.Data || len(p.Tag) == 0 || len(p.Frame) > len(p.Tag) {
			t.Fatalf("packet %+v", p)
		}
	}
}

// FuzzServer is everything that a client can say behind the handshake.
func FuzzServer(f *testing.F) {
	publish := cmdMsg(1, "publish", 5, nil, "s1", "live")
	for _, b := range [][]byte{
		connectMsg,
		slices.Concat(connectMsg, cmdMsg(0, "releaseStream", 2, nil, "s1"), cmdMsg(0, "FCPublish", 3, nil, "s1"), cmdMsg(0, "createStream", 4, nil), publish,
			appendControl(nil, typeSetChunkSize, 4096), AppendMessage(nil, 4096, 4, TypeData, 0, 1, append(amf.Append(nil, "@setDataFrame"), metadata...)),
			msg(TypeVideo, 0, 1, avcConfig), msg(TypeAudio, 0, 1, aacConfig), msg(TypeVideo, 0xFFFFFF, 1, keyFrame), msg(TypeAudio, 0xFFFFFF, 1, aacFrame),
			cmdMsg(0, "FCUnpublish", 6, nil, "s1"), cmdMsg(0, "deleteStream", 7, nil, 1), publish),
		slices.Concat(connectMsg, publish, msg(typeAggregate, 7, 1, slices.Concat(tag(TypeVideo, 5, keyFrame), tag(TypeAudio, 9, aacFrame)))),
		slices.Concat(connectMsg, publish, begun(6, 200, 128), appendControl(nil, typeAbort, 6), begun(6, 20, 20)),
		slices.Concat(connectMsg, cmdMsg(1, "play", 5, nil, "s1", -1), cmdMsg(1, "pause", 0, nil, true, 0), cmdMsg(1, "receiveVideo", 0, nil, false), cmdMsg(1, "closeStream", 0)),
		slices.Concat(appendControl(nil, typeWindowAckSize, 1), appendEvent(nil, eventPingRequest, 1), connectMsg, cmdMsg(0, "unheardOf", 1, nested(15))),
		msg(typeCommandAMF3, 0, 0, append([]byte{0}, amf.Append(nil, "connect", 1, amf.Object{{Name: "objectEncoding", Value: 3}})...)),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		nc := &script{Reader: io.MultiReader(bytes.NewReader(c0c1([4]byte{}, 0)), bytes.NewReader(make([]byte, handshakeSize)), bytes.NewReader(b))}
		c, err := Accept(nc, Config{})
		if err != nil {
			return
		}
		for err == nil {
			var cmd Command
			if cmd, err = c.ReadCommand(); err != nil {
				break
			}
			switch cmd.Name {
			case "publish":
				if err = c.AcceptPublish(cmd, Status{}); err == nil {
					if err = readPackets(t, c); err == io.EOF {
						err = nil
					}
				}
			case "play":
				err = c.AcceptPlay(cmd, Status{})
			}
		}
		// No client gets much more than it sends; the answers to connect and play are the longest.
		if most := 1<<13 + 40*len(b); nc.written > most {
			t.Errorf("%d bytes written for %d read", nc.written, len(b))
		}
	})
}

// FuzzClient is everything that a server can say behind the handshake (H97).
func FuzzClient(f *testing.F) {
	answers := slices.Concat(appendControl(nil, typeWindowAckSize, 2500000), cmdMsg(0, "_result", 1, amf.Object{}, info("status", "NetConnection.Connect.Success", "")),
		cmdMsg(0, "onBWDone", 0, nil), cmdMsg(0, "_result", 2, nil, 1))
	start := cmdMsg(1, "onStatus", 0, nil, info("status", "NetStream.Play.Start", ""))
	for _, b := range [][]byte{
		slices.Concat(answers, start, msg(TypeVideo, 0, 1, avcConfig), msg(TypeVideo, 0, 1, keyFrame), appendEvent(nil, eventStreamEOF, 1)),
		slices.Concat(answers, msg(typeAggregate, 0, 1, tag(TypeAudio, 0, aacFrame)), start, cmdMsg(0, "close", 0)),
		slices.Concat(answers, cmdMsg(1, "onStatus", 0, nil, info("error", "NetStream.Play.StreamNotFound", ""))),
		cmdMsg(0, "_error", 1, nil, info("error", "NetConnection.Connect.Rejected", "")),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newConn(&script{Reader: io.MultiReader(bytes.NewReader(plainHandshake), bytes.NewReader(b))}, Config{})
		c.client = true
		if dial(c) != nil || c.Play("s1") != nil {
			return
		}
		if readPackets(t, c) == nil {
			t.Error("no end")
		}
	})
}
