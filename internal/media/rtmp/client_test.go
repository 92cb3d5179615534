package rtmp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

func TestSplitURL(t *testing.T) {
	for _, tt := range []struct{ in, tcURL, name string }{
		{"rtmp://a/live/s", "rtmp://a/live", "s"},
		{"rtmp://a:1936/live/s?k=v/w&t=1", "rtmp://a:1936/live", "s?k=v/w&t=1"},
		{"rtmps://a/live/_definst_/s", "rtmps://a/live/_definst_", "s"},
		{"rtmp://a/live/", "rtmp://a/live", ""},
		{"rtmp://a/live", "", ""},
		{"rtmp://a", "", ""},
		{"rtmp://a?b/c/d", "", ""},
		{"", "", ""},
		{"rtmp://a b/\x00/c", "", ""},
	} {
		tcURL, name, err := SplitURL(tt.in)
		if tcURL != tt.tcURL || name != tt.name || (err != nil) != (tt.tcURL == "") {
			t.Errorf("SplitURL(%q) = %q, %q, %v, want %q, %q", tt.in, tcURL, name, err, tt.tcURL, tt.name)
		}
	}
}

// serveOne accepts one connection of ln and gives its Conn to serve.
func serveOne(t *testing.T, ln net.Listener, serve func(*Conn)) (wait func()) {
	done := make(chan struct{})
	go func() { // ends with serve, or when ln is closed
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		c, err := Accept(nc, Config{})
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer c.Close()
		serve(c)
	}()
	return func() { ln.Close(); <-done }
}

func listen(t *testing.T) (ln net.Listener, tcURL string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, "rtmp://" + ln.Addr().String() + "/live"
}

// packets are those that cross in the tests of both roles.
var packets = []av.Packet{
	{Kind: av.Data, Tag: metadata},
	{Kind: av.Video, Codec: av.H264, Config: true, Tag: avcConfig},
	{Kind: av.Audio, Codec: av.AAC, Config: true, Tag: aacConfig},
	{Kind: av.Video, Codec: av.H264, Key: true, DTS: 0xFFFFFF, CTS: 40, Tag: keyFrame},
	{Kind: av.Audio, Codec: av.AAC, DTS: 0xFFFFFF + 5, Tag: aacFrame},
	{Kind: av.Video, Codec: av.H264, DTS: 0xFFFFFF + 40, Tag: frame},
}

// expect reads packets and compares them.
func expect(t *testing.T, c *Conn, want []av.Packet) {
	t.Helper()
	for i, want := range want {
		got, err := c.ReadPacket()
		if err != nil {
			t.Errorf("packet %d: %v", i, err)
			return
		}
		got.Frame = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("packet %d (-want +got):\n%s", i, diff)
		}
	}
}

// A client publishes to a server: simple, with digest, and over TLS.
func TestPublish(t *testing.T) {
	for _, name := range []string{"simple", "digest", "rtmps"} {
		t.Run(name, func(t *testing.T) {
			ln, tcURL := listen(t)
			cfg := Config{Digest: name == "digest", ChunkSize: 200}
			if name == "rtmps" {
				web := httptest.NewTLSServer(nil) // for its certificate
				web.Close()
				ln = tls.NewListener(ln, &tls.Config{Certificates: web.TLS.Certificates})
				tcURL = "rtmps" + strings.TrimPrefix(tcURL, "rtmp")
				cfg.TLS = &tls.Config{RootCAs: roots(web)}
			}
			wait := serveOne(t, ln, func(c *Conn) {
				if got := c.Connect(); got.App != "live?a=b" || got.TcURL != tcURL+"?a=b" || got.CapsEx != capModEx || len(got.FourCcList) != 11 {
					t.Errorf("Connect = %+v", got)
				}
				cmd, err := c.ReadCommand()
				if err != nil || cmd.Name != "publish" || cmd.StreamName != "s1?k=v" || cmd.StreamID != 1 {
					t.Errorf("ReadCommand: %+v, %v", cmd, err)
				}
				if err := c.AcceptPublish(cmd, Status{}); err != nil {
					t.Errorf("AcceptPublish: %v", err)
				}
				expect(t, c, packets)
				if _, err := c.ReadPacket(); err != io.EOF {
					t.Errorf("ReadPacket at the end: %v", err)
				}
			})
			defer wait()
			c, err := Dial(t.Context(), tcURL+"?a=b", cfg)
			if err != nil {
				t.Fatalf("Dial: %v", err)
			}
			defer c.Close()
			if err := c.Publish("s1?k=v"); err != nil {
				t.Fatalf("Publish: %v", err)
			}
			for _, p := range packets {
				if err := c.WritePacket(p); err != nil {
					t.Fatalf("WritePacket: %v", err)
				}
			}
			if err := c.Unpublish("s1?k=v"); err != nil {
				t.Errorf("Unpublish: %v", err)
			}
		})
	}
}

// A client plays from a server, until the server says that it is over.
func TestPlay(t *testing.T) {
	for name, last := range map[string]func(c *Conn, id uint32) []byte{
		"UnpublishNotify": func(c *Conn, id uint32) []byte {
			return c.AppendStatus(nil, id, "status", "NetStream.Play.UnpublishNotify", "")
		},
		"StreamEOF": func(c *Conn, id uint32) []byte { return appendEvent(nil, eventStreamEOF, id) },
		"close":     func(c *Conn, id uint32) []byte { return c.appendCommand(nil, 3, 0, "close", 0, nil) },
		"FIN":       func(*Conn, uint32) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			ln, tcURL := listen(t)
			wait := serveOne(t, ln, func(c *Conn) {
				cmd, err := c.ReadCommand()
				if err != nil || cmd.Name != "play" || cmd.StreamName != "s1" {
					t.Errorf("ReadCommand: %+v, %v", cmd, err)
				}
				if err := c.AcceptPlay(cmd, Status{}); err != nil {
					t.Errorf("AcceptPlay: %v", err)
				}
				b := appendEvent(nil, eventStreamEOF, 77) // another stream's
				b = c.appendCommand(b, 3, 0, "onBWDone", 0, nil)
				for _, p := range packets {
					typ := map[av.Kind]byte{av.Video: TypeVideo, av.Audio: TypeAudio, av.Data: TypeData}[p.Kind]
					b = AppendMessage(b, c.ChunkSize(), 70, typ, uint32(p.DTS), cmd.StreamID, p.Tag)
				}
				b = append(b, last(c, cmd.StreamID)...)
				if _, err := c.NetConn().Write(b); err != nil {
					t.Errorf("write: %v", err)
				}
			})
			defer wait()
			c, err := Dial(t.Context(), tcURL, Config{})
			if err != nil {
				t.Fatalf("Dial: %v", err)
			}
			defer c.Close()
			if err := c.Play("s1"); err != nil {
				t.Fatalf("Play: %v", err)
			}
			expect(t, c, packets)
			if _, err := c.ReadPacket(); err != io.EOF {
				t.Errorf("ReadPacket at the end: %v, want EOF", err)
			}
		})
	}
}

// A server's refusal arrives with its code.
func TestRefused(t *testing.T) {
	for _, op := range []string{"publish", "play"} {
		ln, tcURL := listen(t)
		wait := serveOne(t, ln, func(c *Conn) {
			cmd, err := c.ReadCommand()
			if err != nil {
				t.Errorf("ReadCommand: %v", err)
				return
			}
			reject := map[string]func(Command, Status) error{"publish": c.RejectPublish, "play": c.RejectPlay}[cmd.Name]
			if err := reject(cmd, Status{Code: 3, Description: "why", NetStatus: "NetStream.No"}); err != nil {
				t.Errorf("reject: %v", err)
			}
		})
		c, err := Dial(t.Context(), tcURL, Config{})
		if err != nil {
			t.Fatalf("Dial: %v", err)
		}
		call := map[string]func(string) error{"publish": c.Publish, "play": c.Play}[op]
		var refusal *Error
		if err := call("s1"); !errors.As(err, &refusal) || *refusal != (Error{"NetStream.No", "why"}) {
			t.Errorf("%s: %v", op, err)
		} else if want := op + ": NetStream.No: why"; err.Error() != want {
			t.Errorf("%s: %q, want %q", op, err, want)
		}
		c.Close()
		wait()
	}
}

func TestDialURL(t *testing.T) {
	for _, u := range []string{"", "live", "http://127.0.0.1/live", "rtmp:///live", "rtmp://a b/", "rtmpt://a/live"} {
		if c, err := Dial(t.Context(), u, Config{}); err == nil {
			c.Close()
			t.Errorf("Dial(%q) succeeded", u)
		}
	}
	for _, u := range []string{"ftp://user:secret@a/live?k=secret", "rtmp://a\x00/live?k=secret", "rtmp:///live?k=secret"} {
		if _, err := Dial(t.Context(), u, Config{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Dial: %v", err)
		}
	}
}

// The context ends dialling.
func TestDialContext(t *testing.T) {
	ln, tcURL := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		io.ReadFull(nc, make([]byte, 1+handshakeSize))
		cancel()
		io.Copy(io.Discard, nc)
	}()
	if _, err := Dial(ctx, tcURL, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want %v", err, context.Canceled)
	}
	<-done
}

// origin is a server made of raw bytes for a client in memory. It ends with the
// connection.
func origin(t *testing.T, s0s1s2 []byte) (*Conn, *peer) {
	ours, theirs := pipe(t)
	c := newConn(ours, Config{})
	c.client = true
	p := &peer{t: t, nc: theirs, got: make(chan message, 1<<16)}
	go func() {
		if _, err := io.ReadFull(theirs, make([]byte, 1+handshakeSize)); err != nil {
			return
		}
		go p.try(s0s1s2)
		if _, err := io.ReadFull(theirs, make([]byte, handshakeSize)); err == nil {
			p.read()
		}
	}()
	return c, p
}

var plainHandshake = append([]byte{3}, make([]byte, 2*handshakeSize)...)

func dial(c *Conn) error {
	u := &url.URL{Scheme: "rtmp", Host: "a", Path: "/live"}
	return c.dial(u, u.String())
}

// H97: a hostile origin. Whatever it answers to connect, publish and play, the client
// gets an error, and soon.
func TestHostileOrigin(t *testing.T) {
	failed := amf.Object{{Name: "level", Value: "error"}, {Name: "code", Value: "NetConnection.Connect.Rejected"}, {Name: "description", Value: "no"},
		{Name: "ex", Value: amf.Object{{Name: "code", Value: 302.0}, {Name: "redirect", Value: "rtmp://127.0.0.1/internal"}}}}
	connectedMsg := cmdMsg(0, "_result", 1, nil, info("status", "NetConnection.Connect.Success", ""))
	for _, tt := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"wrong version", []byte{6}, "version 6"},
		{"leaves in the handshake", []byte{3, 0, 0}, "unexpected EOF"},
		{"leaves", plainHandshake, "unexpected EOF"},
		{"redirects", slices.Concat(plainHandshake, cmdMsg(0, "_error", 1, nil, failed)), "NetConnection.Connect.Rejected: no"},
		{"fails without a reason", slices.Concat(plainHandshake, cmdMsg(0, "_error", 1)), "call failed"},
		{"closes", slices.Concat(plainHandshake, cmdMsg(0, "close", 0, nil)), "closed by the server"},
		{"answers another call", slices.Concat(plainHandshake, cmdMsg(0, "_result", 2, nil)), "unexpected EOF"},
		{"chunk size 0 (H07)", slices.Concat(plainHandshake, appendControl(nil, typeSetChunkSize, 0)), "chunk size 0"},
		{"chunk size 2^31 (H10)", slices.Concat(plainHandshake, appendControl(nil, typeSetChunkSize, 1<<31)), "chunk size"},
		{"a message too long (H13)", slices.Concat(plainHandshake, begun(6, 8<<20+1, 0)), "message of type 9"},
		{"begins with type 3 (H16)", slices.Concat(plainHandshake, []byte{0xC3}), "begins with a header of type 3"},
		{"interrupts itself (H17)", slices.Concat(plainHandshake, begun(6, 200, 128), begun(6, 300, 128)), errInterrupted.Error()},
		{"AMF0 without end (H23)", slices.Concat(plainHandshake, msg(TypeCommand, 0, 0, []byte("\x02\x00\x07_result\x00"))), "too short"},
		{"AMF0 too deep", slices.Concat(plainHandshake, cmdMsg(0, "_result", 1, nested(17))), "nested too deep"},
		{"AMF0 too wide (H25)", slices.Concat(plainHandshake, msg(TypeCommand, 0, 0, []byte("\x02\x00\x07_result\x0A\xFF\xFF\xFF\xFF"))), "too many elements"},
		{"AMF3 (H26)", slices.Concat(plainHandshake, msg(typeCommandAMF3, 0, 0, []byte("\x00\x02\x00\x07_result\x11\x0A"))), "AMF3"},
		{"stream NaN", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, math.NaN())), "no stream in the answer"},
		{"stream 1e300", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, 1e300)), "no stream in the answer"},
		{"stream null", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, nil)), "no stream in the answer"},
		{"no streams", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_error", 4, nil, failed)), "create stream: NetConnection"},
		{"_error to publish", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, 1.0), cmdMsg(0, "_error", 5, nil, failed)), "NetConnection.Connect.Rejected"},
		{"only _result to publish", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, 1.0), cmdMsg(0, "_result", 5, nil)), "unexpected EOF"},
		{"closes instead of publish", slices.Concat(plainHandshake, connectedMsg, cmdMsg(0, "_result", 4, nil, 1.0), cmdMsg(0, "close", 0, nil)), "closed by the server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := socket(t)
			c := newConn(ours, Config{})
			c.client = true
			go io.Copy(io.Discard, theirs) // ends with the test
			go func() { theirs.Write(tt.bytes); theirs.(*net.TCPConn).CloseWrite() }()
			err := dial(c)
			if err == nil {
				err = c.Publish("s1")
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("dial and publish: %v, want %q", err, tt.want)
			}
		})
	}
}

// An origin that answers nothing, or never what was asked, is given up in time.
func TestOriginTimeout(t *testing.T) {
	for _, chatty := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, p := origin(t, plainHandshake)
			if chatty {
				go func() {
					<-p.got // connect has come
					for i := 2.0; ; i++ {
						if _, err := p.nc.Write(cmdMsg(0, "_result", i, nil)); err != nil {
							return
						}
						time.Sleep(time.Second / 100)
					}
				}()
			}
			begin := time.Now()
			if err := dial(c); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 10*time.Second {
				t.Errorf("dial: %v after %v, want a timeout after 10 s", err, time.Since(begin))
			}
			c.Close()
			time.Sleep(time.Second)
		})
	}
}

// An origin that sends media at once, without NetStream.Play.Start; one that does
// so in an aggregate; and errors while the stream is played.
func TestPlayLoose(t *testing.T) {
	c, p := origin(t, plainHandshake)
	answered := make(chan error, 1)
	go func() {
		answered <- func() error {
			for m := range p.got {
				if m.typ != TypeCommand {
					continue
				}
				vals, err := amf.Decode(m.body)
				if err != nil {
					return err
				}
				switch vals[0] {
				case "connect":
					p.try(cmdMsg(0, "_result", vals[1], nil, nil))
				case "createStream":
					p.try(cmdMsg(0, "_result", vals[1], nil, 3.0))
				case "play":
					p.try(slices.Concat(
						msg(TypeData, 0, 3, amf.Append(nil, "|RtmpSampleAccess", true, true)),
						msg(TypeData, 0, 3, amf.Append(nil, "onStatus", info("status", "NetStream.Data.Start", ""))),
						msg(typeAggregate, 10, 3, slices.Concat(tag(TypeVideo, 0, keyFrame), tag(TypeAudio, 5, aacFrame))),
						cmdMsg(3, "onStatus", 0, nil, info("status", "NetStream.Play.Start", "")),
						cmdMsg(3, "onStatus", 0),
						cmdMsg(3, "onStatus", 0, nil, info("error", "NetStream.Failed", "gone"))))
					return nil
				}
			}
			return p.err
		}()
	}()
	if err := dial(c); err != nil {
		t.Fatalf("dial: %v", err)
	}
	if err := c.Play("s1"); err != nil {
		t.Fatalf("Play: %v", err)
	}
	expect(t, c, []av.Packet{
		{Kind: av.Video, Codec: av.H264, Key: true, DTS: 10, CTS: 40, Tag: keyFrame},
		{Kind: av.Audio, Codec: av.AAC, DTS: 15, Tag: aacFrame},
	})
	var refusal *Error
	if _, err := c.ReadPacket(); !errors.As(err, &refusal) || refusal.Code != "NetStream.Failed" {
		t.Errorf("ReadPacket: %v", err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// roots returns a pool that trusts a test server's certificate.
func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}
