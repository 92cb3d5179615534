//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/rogpeppe/go-internal/testscript"

	"weir/internal/media/av"
	"weir/internal/media/rtmp"
)

// frameTime is how long after the last time stamp of a file the next one begins, ms.
const frameTime = 40

// publish [-sound=RATE] URL FILE...
//
// Pushes FLV files as they are, one after the other in real time and on one
// connection, whatever is in them. It is for what the encoders at hand cannot
// send. The clock of the sound goes at another rate than time, if that is said.
func publish() error {
	sound := flag.Float64("sound", 1, "rate of the sound's clock")
	flag.Parse()
	if flag.NArg() < 2 {
		return errors.New("usage: publish [-sound=RATE] URL FILE...")
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
			if p.Kind == av.Audio {
				p.DTS = int64(float64(p.DTS) * *sound)
			}
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

// taps are the taps of a script by the file that they write.
type taps map[string]chan struct{} // closed when the file is complete

type tapsKey struct{}

// tap FILE
//
// Listens at an address of its own, $TAP from now on, and passes one
// connection to it on to weir's RTMP listener. What weir sends goes to the
// file, too.
func cmdTap(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tap FILE")
	}
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	addr, err := freeAddr()
	ts.Check(err)
	ln, err := net.Listen("tcp", addr)
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv("TAP", "rtmp://"+addr)
	target, done := ts.Getenv("RTMP_ADDR"), make(chan struct{})
	ts.Value(tapsKey{}).(taps)[args[0]] = done
	go func() { // ends with the connection, or the listener if none comes
		defer close(done)
		defer out.Close()
		client, err := ln.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		go func() { // ends when the client leaves, or is closed above
			io.Copy(server, client)
			server.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(io.MultiWriter(out, client), server)
	}()
}

// answered FILE CODE/SUBCODE DESCRIPTION
//
// Waits for the end of the connection that was tapped into the file. Checks
// that weir sent a _result with these properties in this order, before
// onStatus if the code is 0, and after it otherwise.
func cmdAnswered(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: answered FILE CODE/SUBCODE DESCRIPTION")
	}
	var code, subCode float64
	_, err := fmt.Sscanf(args[1], "%f/%f", &code, &subCode)
	ts.Check(err)
	<-ts.Value(tapsKey{}).(taps)[args[0]]
	sent := ts.ReadFile(args[0])

	text := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	number := func(f float64) string {
		return "\x00" + string(binary.BigEndian.AppendUint64(nil, math.Float64bits(f)))
	}
	object := "\x03" + text("code") + number(code) + text("subCode") + number(subCode) +
		text("description") + "\x02" + text(args[2]) + "\x00\x00\x09"
	result, status := strings.Index(sent, object), strings.Index(sent, text("onStatus"))
	switch {
	case result < 0:
		ts.Fatalf("no result %s, %q in %q", args[1], args[2], sent)
	case status < 0:
		ts.Fatalf("no onStatus in %q", sent)
	case code == 0 && status < result:
		ts.Fatalf("onStatus comes before the result of success")
	case code != 0 && result < status:
		ts.Fatalf("the result of failure comes before onStatus")
	}
	name := strings.LastIndex(sent[:result], text("_result"))
	if null := "\x05"; name < 0 || result-name != len(text("_result"))+len(number(0))+len(null) {
		ts.Fatalf("the object is not that of a _result in %q", sent)
	}
}
