//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"weir/internal/media/av"
	"weir/internal/media/rtmp"
)

// frameTime is how long after the last time stamp of a file the next one begins, ms.
const frameTime = 40

// publish URL FILE...
//
// Pushes FLV files as they are, one after the other in real time and on one
// connection, whatever is in them. It is for what the encoders at hand cannot
// send.
func publish() error {
	flag.Parse()
	if flag.NArg() < 2 {
		return errors.New("usage: publish URL FILE...")
	}
	tcURL, name, err := rtmp.SplitURL(flag.Arg(0))
	if err != nil {
		return err
	}
	conn, err := rtmp.Dial(context.Background(), tcURL, rtmp.Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Publish(name); err != nil {
		return err
	}
	start, base := time.Now(), int64(0)
	for _, file := range flag.Args()[1:] {
		end := base
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = readTags(f, func(t tag) error {
			p := t.packet(base)
			end = max(end, p.DTS+frameTime)
			<-time.After(time.Until(start.Add(time.Duration(p.DTS) * time.Millisecond)))
			return conn.WritePacket(p)
		})
		f.Close()
		if err != nil {
			return err
		}
		base = end
	}
	return conn.Unpublish(name)
}

// packet returns t as the publisher of a stream has it, later by base.
func (t tag) packet(base int64) av.Packet {
	p := av.Packet{Kind: av.Data, DTS: base + int64(t.timestamp), Tag: t.body}
	switch t.typ {
	case 8:
		p.Kind = av.Audio
	case 9:
		p.Kind = av.Video
	}
	return p
}

// wsget URL FILE
//
// Writes what comes over a WebSocket to the file until the other side ends it.
func wsget() error {
	flag.Parse()
	if flag.NArg() != 2 {
		return errors.New("usage: wsget URL FILE")
	}
	conn, buffered, _, err := ws.Dial(context.Background(), flag.Arg(0))
	if err != nil {
		return err
	}
	defer conn.Close()
	out, err := os.Create(flag.Arg(1))
	if err != nil {
		return err
	}
	defer out.Close()
	var in io.ReadWriter = conn
	if buffered != nil { // the first frames came with the handshake's answer
		in = struct {
			io.Reader
			io.Writer
		}{io.MultiReader(io.LimitReader(buffered, int64(buffered.Buffered())), conn), conn}
	}
	for {
		b, err := wsutil.ReadServerBinary(in)
		var closed wsutil.ClosedError
		if errors.As(err, &closed) && closed.Code == ws.StatusNormalClosure {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
}
