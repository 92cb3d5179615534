package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/goleak"

	"weir/internal/access"
	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a Server with its listeners, under a policy that a test may change.
type node struct {
	*Server
	hub    *stream.Hub
	policy atomic.Pointer[policy.Set]
	rtmp   string // address
	http   *httptest.Server
	serve  chan error // what ServeRTMP returned
	cancel context.CancelFunc
}

// start starts a node. The space has the domains play.test and push.test, which
// are for one thing only, and "*"; change may change the app "live".
func start(t *testing.T, o Options, change ...func(*policy.App)) *node {
	t.Helper()
	app := policy.DefaultApp("live")
	for _, f := range change {
		f(&app)
	}
	n := &node{hub: stream.NewHub(stream.Options{}), serve: make(chan error, 1)}
	n.policy.Store(&policy.Set{DefaultSpace: "default", Spaces: []policy.Space{{
		Name:    "default",
		Domains: []policy.Domain{{Name: "127.0.0.1", Type: policy.Both}, {Name: "play.test", Type: policy.Play}, {Name: "push.test", Type: policy.Publish}},
		Apps:    []policy.App{app},
	}}})
	n.Server = NewServer(n.hub, access.NewGate(n.policy.Load), o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.rtmp = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.serve <- n.ServeRTMP(ctx, ln, false) }()
	n.http = httptest.NewServer(http.HandlerFunc(n.ServeFLV))
	t.Cleanup(func() { n.stop(t) })
	return n
}

// stop ends the node in the order of a shutdown.
func (n *node) stop(t *testing.T) {
	t.Helper()
	n.cancel()
	if err := <-n.serve; err != nil {
		t.Errorf("ServeRTMP: %v", err)
	}
	n.serve <- nil // so that a test may stop before the end
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.hub.Close(ctx); err != nil {
		t.Errorf("close the hub: %v", err)
	}
	if err := n.Close(ctx); err != nil {
		t.Errorf("close the sessions: %v", err)
	}
	n.http.Close()
}

// publisher is an encoder. It sends a stream of known packets.
type publisher struct {
	t    *testing.T
	conn *rtmp.Conn
	sent []av.Packet
	ms   int64
}

func (n *node) dial(t *testing.T, app string) *rtmp.Conn {
	t.Helper()
	c, err := rtmp.Dial(t.Context(), "rtmp://"+n.rtmp+"/"+app, rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// publish begins to publish and sends the metadata, configuration and GOP of a stream.
func (n *node) publish(t *testing.T, name string) *publisher {
	t.Helper()
	p := &publisher{t: t, conn: n.dial(t, "live")}
	if err := p.conn.Publish(name); err != nil {
		t.Fatal(err)
	}
	p.begin()
	return p
}

var (
	avcConfig = (&av.AVCConfig{LengthSize: 4, SPS: [][]byte{{0x67, 0x42, 0xC0, 0x1E, 1}}, PPS: [][]byte{{0x68, 1}}}).Append(nil)
	aacConfig = []byte{0x12, 0x10}
)

func (p *publisher) begin() {
	p.send(av.Data, flv.AppendMetadata(nil, amf.Object{{Name: "width", Value: 640.0}}))
	p.send(av.Video, flv.AppendVideo(nil, av.H264, true, true, 0, avcConfig))
	p.send(av.Audio, flv.AppendAudio(nil, av.AAC, true, aacConfig))
	p.gop()
}

// gop sends a key frame and what follows it.
func (p *publisher) gop() {
	p.frame(0x65)
	for range 3 {
		p.send(av.Audio, flv.AppendAudio(nil, av.AAC, false, []byte{0x21, byte(len(p.sent))}))
		p.frame(0x41)
	}
}

func (p *publisher) frame(nal byte) {
	p.ms += 40
	unit := []byte{0, 0, 0, 3, nal, 0x88, byte(len(p.sent))}
	p.send(av.Video, flv.AppendVideo(nil, av.H264, nal == 0x65, false, 0, unit))
}

func (p *publisher) send(k av.Kind, tag []byte) {
	p.t.Helper()
	pkt := av.Packet{Kind: k, DTS: p.ms, Tag: tag}
	if err := p.conn.WritePacket(pkt); err != nil {
		p.t.Fatal(err)
	}
	p.sent = append(p.sent, pkt)
}

// wait returns when the server has all that was sent.
func (p *publisher) wait(n *node, key stream.Key) {
	p.t.Helper()
	bytes := int64(0)
	for _, pkt := range p.sent {
		bytes += int64(len(pkt.Tag))
	}
	until(p.t, func() bool { s := n.hub.Find(key); return s != nil && s.Info().Bytes >= bytes })
}

// until returns when cond has become true, which events elsewhere bring about.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come about in 10 s")
		}
	}
}

var key = stream.Key{Space: "default", App: "live", Name: "s"}

// A way to play: it returns the packets, and a function to leave. The error is
// what the player is told instead.
type way struct {
	protocol string
	play     func(t *testing.T, n *node, path string) (av.Reader, func(), error)
}

var ways = []way{{access.RTMP, playRTMP}, {access.FLV, playFLV}, {access.WSFLV, playSocket}}

func playRTMP(t *testing.T, n *node, path string) (av.Reader, func(), error) {
	t.Helper()
	app, name, _ := strings.Cut(path, "/")
	c := n.dial(t, app)
	if err := c.Play(name); err != nil {
		return nil, nil, err
	}
	return c, func() { c.Close() }, nil
}

func playFLV(t *testing.T, n *node, path string) (av.Reader, func(), error) {
	t.Helper()
	name, query, _ := strings.Cut(path, "?")
	resp, err := n.http.Client().Get(n.http.URL + "/" + name + ".flv?" + query)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return nil, nil, fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return flv.NewReader(resp.Body), func() { resp.Body.Close() }, nil
}

func playSocket(t *testing.T, n *node, path string) (av.Reader, func(), error) {
	t.Helper()
	s, err := dialSocket(t, n, path)
	if err != nil {
		return nil, nil, err
	}
	return flv.NewReader(s), func() { s.Close() }, nil
}

// socketClient reads the messages of a WebSocket as one file.
type socketClient struct {
	net.Conn
	in     io.Reader
	frame  []byte
	closed ws.StatusCode // what the server closed with
	pong   string        // the first that says something
}

func dialSocket(t *testing.T, n *node, path string) (*socketClient, error) {
	t.Helper()
	name, query, _ := strings.Cut(path, "?")
	url := "ws" + strings.TrimPrefix(n.http.URL, "http") + "/" + name + ".flv?" + query
	conn, br, _, err := ws.Dialer{}.Dial(t.Context(), url)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	s := &socketClient{Conn: conn, in: conn}
	if br != nil {
		s.in = io.MultiReader(br, conn)
	}
	return s, nil
}

func (s *socketClient) Read(b []byte) (int, error) {
	for len(s.frame) == 0 {
		h, err := ws.ReadHeader(s.in)
		if err != nil {
			return 0, err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return 0, err
		}
		switch h.OpCode {
		case ws.OpBinary:
			s.frame = payload
		case ws.OpPong:
			if s.pong == "" {
				s.pong = string(payload)
			}
		case ws.OpClose:
			s.closed, _ = ws.ParseCloseFrameData(payload)
			return 0, io.EOF
		}
	}
	n := copy(b, s.frame)
	s.frame = s.frame[n:]
	return n, nil
}

// write sends a frame, masked as clients do it.
func (s *socketClient) write(t *testing.T, f ws.Frame) {
	t.Helper()
	if err := ws.WriteFrame(s.Conn, ws.MaskFrame(f)); err != nil {
		t.Fatal(err)
	}
}

// expect reads as many packets as want has and compares them.
func expect(t *testing.T, r av.Reader, want []av.Packet) {
	t.Helper()
	for i, w := range want {
		got, err := r.ReadPacket()
		if err != nil || got.Kind != w.Kind || !bytes.Equal(got.Tag, w.Tag) {
			t.Fatalf("packet %d of %d = %v %x, %v, want %v %x", i, len(want), got.Kind, got.Tag, err, w.Kind, w.Tag)
		}
	}
}

// Every protocol plays what was published: first what comes from the cache,
// then what comes live.
func TestPlay(t *testing.T) {
	for _, w := range ways {
		t.Run(w.protocol, func(t *testing.T) {
			n := start(t, Options{})
			p := n.publish(t, "s?token=1")
			p.wait(n, key)
			r, leave, err := w.play(t, n, "live/s")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, p.sent)
			before := len(p.sent)
			p.gop()
			expect(t, r, p.sent[before:])

			until(t, func() bool { return len(n.Sessions()) == 2 })
			var kinds []Kind
			for _, i := range n.Sessions() {
				kinds = append(kinds, i.Kind)
				if i.Key != key || i.Bytes == 0 || !i.Addr.Addr().IsLoopback() || time.Since(i.Since) > time.Minute {
					t.Errorf("session %+v", i)
				}
			}
			publish, play := Kind{access.Publish, access.RTMP}, Kind{access.Play, w.protocol}
			st := n.Stats()
			if len(kinds) != 2 || st.Active[publish] != 1 || st.Active[play] != 1 || st.Started[publish] != 1 || st.Started[play] != 1 {
				t.Errorf("sessions %v, stats %+v", kinds, st)
			}
			leave()
			until(t, func() bool { return n.Stats().Active[play] == 0 })
			if st := n.Stats(); st.Panics != 0 || st.Unfit != 0 || st.Started[play] != 1 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// The publisher leaves and returns within the hold; players go on in the same
// connection, and their time goes on.
func TestPublisherReturns(t *testing.T) {
	for _, w := range ways {
		for _, orderly := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s orderly=%v", w.protocol, orderly), func(t *testing.T) {
				n := start(t, Options{}, func(a *policy.App) { a.Hold = time.Minute })
				p := n.publish(t, "s")
				p.wait(n, key)
				r, _, err := w.play(t, n, "live/s")
				if err != nil {
					t.Fatal(err)
				}
				expect(t, r, p.sent)
				if orderly {
					if err := p.conn.Unpublish("s"); err != nil {
						t.Fatal(err)
					}
				} else {
					reset(p.conn.NetConn())
				}
				until(t, func() bool { return !n.hub.Find(key).Live() })
				p = n.publish(t, "s")
				last := int64(0)
				for i := 0; ; i++ {
					got, err := r.ReadPacket()
					if err != nil {
						t.Fatalf("after the return: %v", err)
					}
					if got.DTS < last {
						t.Errorf("DTS %d after %d", got.DTS, last)
					}
					last = max(last, got.DTS)
					if bytes.Equal(got.Tag, p.sent[len(p.sent)-1].Tag) && i > 3 {
						break
					}
				}
			})
		}
	}
}

// reset makes a TCP connection end with a reset.
func reset(nc net.Conn) {
	nc.(*net.TCPConn).SetLinger(0)
	nc.Close()
}

// When the stream is over players are told, and their connections end.
func TestStreamOver(t *testing.T) {
	for _, w := range ways {
		t.Run(w.protocol, func(t *testing.T) {
			n := start(t, Options{}, func(a *policy.App) { a.Hold = 0 })
			p := n.publish(t, "s")
			p.wait(n, key)
			r, _, err := w.play(t, n, "live/s")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, p.sent)
			p.conn.Close()
			if p, err := r.ReadPacket(); err != io.EOF {
				t.Errorf("ReadPacket after the end = %+v, %v, want EOF", p, err)
			}
			until(t, func() bool { return len(n.Sessions()) == 0 })
			if n.hub.Find(key) != nil {
				t.Error("the stream is still there")
			}
		})
	}
}

func TestOnlyAudioOnlyVideo(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	for query, without := range map[string]av.Kind{
		"onlyAudio": av.Video, "onlyaudio=1": av.Video, "ONLYVIDEO": av.Audio, "onlyVideo=true&x=1": av.Audio,
		"onlyAudio=0": 0, "onlyVideo=false": 0, "onlyAudio&onlyVideo": 0,
	} {
		for _, w := range ways[1:] {
			r, leave, err := w.play(t, n, "live/s?"+query)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[av.Kind]bool{}
			p.gop()
			for last := p.sent[len(p.sent)-2:]; ; { // an audio and a video frame
				got, err := r.ReadPacket()
				if err != nil {
					t.Fatalf("%s: %v", query, err)
				}
				seen[got.Kind] = true
				end := last[1]
				if without == av.Video {
					end = last[0]
				}
				if bytes.Equal(got.Tag, end.Tag) {
					break
				}
			}
			if len(seen) != 3 && without == 0 || seen[without] || !seen[av.Data] {
				t.Errorf("%s over %s: kinds %v", query, w.protocol, seen)
			}
			leave()
		}
	}
}

// Refusals in the words of RTMP (guide l.246-266, l.305-314).
func TestRefusedRTMP(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s")
	for _, c := range []struct {
		op                    string
		tcURL, app, name      string
		code, subCode         int
		description, netState string
	}{
		{"publish", "rtmp://nobody.test/live", "live", "x", 1, 0, "Non-Exist Publish Domain", "NetStream.Publish.Denied"},
		{"publish", "rtmp://play.test/live", "live", "x", 1, 0, "Non-Exist Publish Domain", "NetStream.Publish.Denied"},
		{"publish", "rtmp://push.test/none", "none", "x", 2, 0, "Non-Exist Application", "NetStream.Publish.Denied"},
		{"publish", "rtmp://push.test/", "", "x", 2, 0, "Non-Exist Application", "NetStream.Publish.Denied"},
		{"publish", "rtmp://push.test/live", "live", "s", 3, 0, "Already Exist Stream Name", "NetStream.Publish.BadName"},
		{"publish", "", "live/", "s?a=b", 3, 0, "Already Exist Stream Name", "NetStream.Publish.BadName"},
		{"publish", "rtmp://push.test/live", "live", "", 5, 0, "Illegal Stream Name", "NetStream.Publish.BadName"},
		{"publish", "rtmp://push.test/live", "live", "../x", 5, 0, "Illegal Stream Name", "NetStream.Publish.BadName"},
		{"publish", "rtmp://push.test/live", "live", "x?" + strings.Repeat("a=1&", 300), 5, 0, "Too Many Parameters", "NetStream.Publish.Denied"},
		{"play", "rtmp://push.test/live", "live", "s", 1, 0, "Non-Exist Play Domain", "NetStream.Play.Failed"},
		{"play", "rtmp://play.test/none", "none", "s", 2, 0, "Non-Exist Application", "NetStream.Play.Failed"},
		{"play", "rtmp://play.test/live", "live", "x", 3, 0, "Non-Exist Stream Name", "NetStream.Play.StreamNotFound"},
		{"play", "rtmp://play.test/live", "live", "", 3, 0, "Non-Exist Stream Name", "NetStream.Play.StreamNotFound"},
	} {
		raw := dialRaw(t, n, c.app, c.tcURL)
		raw.command("createStream", 2, nil)
		raw.command(c.op, 5, nil, c.name)
		got, err := io.ReadAll(raw)
		if err != nil {
			t.Errorf("%s %s %s: %v, want an orderly end", c.op, c.tcURL, c.name, err)
		}
		// onStatus first, then _result, then the end.
		status := amf.Append(nil, "onStatus", 0.0, nil, amf.Object{{Name: "level", Value: "error"}, {Name: "code", Value: c.netState}, {Name: "description", Value: c.description}})
		result := amf.Append(nil, "_result", 5.0, nil, amf.Object{{Name: "code", Value: c.code}, {Name: "subCode", Value: c.subCode}, {Name: "description", Value: c.description}})
		i, j := bytes.Index(got, status), bytes.Index(got, result)
		if i < 0 || j < i || j+len(result) != len(got) {
			t.Errorf("%s %s %s: onStatus at %d, _result at %d of %d bytes: %q", c.op, c.tcURL, c.name, i, j, len(got), got)
		}
	}
	st := n.Stats()
	want := map[Refusal]int64{
		{access.Publish, access.NoDomain}: 2, {access.Publish, access.NoApp}: 2, {access.Publish, access.StreamExists}: 2, {access.Publish, access.BadName}: 2,
		{access.Publish, access.TooLong}: 1, {access.Play, access.NoDomain}: 1, {access.Play, access.NoApp}: 1, {access.Play, access.NoStream}: 1, {access.Play, access.BadName}: 1,
	}
	if fmt.Sprint(st.Refused) != fmt.Sprint(want) {
		t.Errorf("refused %v, want %v", st.Refused, want)
	}
}

// H101: connect names the app in many ways, or not at all.
func TestAppForms(t *testing.T) {
	n := start(t, Options{})
	for i, c := range []struct{ app, tcURL, name string }{
		{"", "rtmp://127.0.0.1/live", "s"},
		{"", "rtmp://127.0.0.1/live/s?a=b", "s"},
		{"live/_definst_", "rtmp://127.0.0.1/live/_definst_", "s"},
		{"live?k=1", "rtmp://127.0.0.1/live?k=1", "s"},
		{"live/", "rtmp://127.0.0.1/live/", "s?k=2"},
		{"live", "", "s"},
		{"live", "rtmp://127.0.0.1:1935/live", "s"},
		{"live", "rtmp://PUSH.test./live", "s"},
		{"live?vhost=push.test", "rtmp://192.0.2.1/live", "s"},
	} {
		raw := dialRaw(t, n, c.app, c.tcURL)
		raw.command("releaseStream", 2, nil, c.name)
		raw.command("createStream", 3, nil)
		raw.command("publish", 4, nil, c.name, "live")
		raw.until(string(amf.Append(nil, "_result", 4.0, nil, amf.Object{{Name: "code", Value: 0}, {Name: "subCode", Value: 0}, {Name: "description", Value: "Publish Success"}})))
		raw.until("NetStream.Publish.Start")
		if s := n.hub.Find(key); s == nil || !s.Live() {
			t.Errorf("%d: connect %q %q, publish %q: the stream is not %v", i, c.app, c.tcURL, c.name, key)
		}
		raw.Close()
		until(t, func() bool { return !n.hub.Find(key).Live() })
	}
}

// rawClient speaks RTMP without knowing it: what it reads are bytes.
type rawClient struct {
	*net.TCPConn
	t    *testing.T
	seen []byte
}

// dialRaw sends handshake and connect at once.
func dialRaw(t *testing.T, n *node, app, tcURL string) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", n.rtmp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	c := &rawClient{TCPConn: nc.(*net.TCPConn), t: t}
	c.write(append([]byte{3}, make([]byte, 2*1536)...))
	c.command("connect", 1, amf.Object{{Name: "app", Value: app}, {Name: "tcUrl", Value: tcURL}})
	return c
}

func (c *rawClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) command(name string, tx float64, object any, args ...any) {
	c.t.Helper()
	c.write(rtmp.AppendMessage(nil, 128, 3, rtmp.TypeCommand, 0, 1, amf.Append(nil, append([]any{name, tx, object}, args...)...)))
}

// until reads to the end of text, and returns what was before it.
func (c *rawClient) until(text string) (skipped []byte) {
	c.t.Helper()
	for {
		if i := bytes.Index(c.seen, []byte(text)); i >= 0 {
			skipped, c.seen = c.seen[:i], c.seen[i+len(text):]
			return skipped
		}
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if c.seen = append(c.seen, b[:n]...); err != nil {
			c.t.Fatalf("%v while waiting for %q in %q", err, text, c.seen)
		}
	}
}

// What a player over RTMP may ask for, and a second wish, which is refused.
func TestPlayerCommands(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	raw := dialRaw(t, n, "live", "")
	raw.command("createStream", 2, nil)
	raw.command("play", 3, nil, "s")
	raw.until("Play Success")
	raw.until("NetStream.Play.Start")
	raw.until(string(p.sent[len(p.sent)-1].Tag))

	raw.command("pause", 4, nil, true, 0.0)
	raw.until("NetStream.Pause.Notify")
	raw.command("pause", 5, nil, false, 0.0)
	raw.until("NetStream.Unpause.Notify")
	raw.command("seek", 6, nil, 1000.0)
	raw.until("NetStream.Seek.Notify")
	raw.command("play", 7, nil, "s")
	raw.until("NetStream.Play.Failed")
	raw.command("publish", 8, nil, "other")
	raw.until("NetStream.Publish.Denied")
	raw.write(rtmp.AppendMessage(nil, 128, 2, 4, 0, 0, []byte{0, 6, 1, 2, 3, 4}))         // ping
	raw.until("\x02\x00\x00\x00\x00\x00\x06\x04\x00\x00\x00\x00\x00\x07\x01\x02\x03\x04") // and its answer

	raw.command("receiveVideo", 0, nil, false)
	raw.command("seek", 9, nil, 0.0) // its answer says that the server has read that far
	raw.until("NetStream.Seek.Notify")
	p.gop()
	audio := p.sent[len(p.sent)-2].Tag
	raw.until(string(audio))
	if video := p.sent[len(p.sent)-3].Tag; bytes.Contains(raw.seen, video) {
		t.Error("video came after receiveVideo(false)")
	}
	raw.command("receiveVideo", 0, nil, true)
	raw.until("NetStream.Seek.Notify")
	raw.until("NetStream.Play.Start")
	raw.command("FCUnpublish", 10, nil, "s") // a player's means nothing
	raw.command("deleteStream", 0, nil, 7.0) // not the one that is played
	raw.command("closeStream", 0, nil)
	until(t, func() bool { return len(n.Sessions()) == 1 })

	// The connection may play again, without what it does not want, and publish.
	raw.command("receiveAudio", 0, nil, false)
	raw.command("play", 11, nil, "s")
	raw.until("NetStream.Play.Start")
	if skipped := raw.until(string(p.sent[len(p.sent)-1].Tag)); bytes.Contains(skipped, p.sent[len(p.sent)-2].Tag) {
		t.Error("audio came after receiveAudio(false)")
	}
	raw.command("deleteStream", 0, nil, 1.0)
	raw.command("createStream", 12, nil)
	raw.command("publish", 13, nil, "mine")
	raw.until("NetStream.Publish.Start")
	until(t, func() bool { return len(n.Sessions()) == 2 })
	raw.Close()
	until(t, func() bool { return len(n.Sessions()) == 1 })
}

// What a publisher whom nobody watched says after it has ended its stream is heard,
// be it a few bytes.
func TestPublishAgainAfterCalm(t *testing.T) {
	n := start(t, Options{})
	raw := dialRaw(t, n, "live", "")
	raw.command("createStream", 2, nil)
	raw.command("publish", 3, nil, "a", "live")
	raw.until("NetStream.Publish.Start")
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for ms := range uint32(30) {
		<-pace.C
		raw.write(rtmp.AppendMessage(nil, 128, 4, rtmp.TypeAudio, 10*ms, 1, flv.AppendAudio(nil, av.AAC, ms == 0, aacConfig)))
	}
	raw.command("closeStream", 0, nil)
	raw.until("NetStream.Unpublish.Success")
	raw.command("createStream", 6, nil)
	raw.until("_result")
	raw.command("publish", 7, nil, "b", "live")
	raw.until("NetStream.Publish.Start")
}

// A publisher that has ended its stream may publish again in the same connection.
func TestPublishTwice(t *testing.T) {
	n := start(t, Options{RTMP: rtmp.Config{Limits: rtmp.Limits{Setup: 200 * time.Millisecond}}})
	raw := dialRaw(t, n, "live", "")
	raw.command("createStream", 2, nil)
	raw.command("publish", 3, nil, "a", "live")
	raw.until("NetStream.Publish.Start")
	raw.command("play", 4, nil, "a") // while it publishes
	raw.until("The connection publishes already.")
	raw.command("FCUnpublish", 5, nil, "a")
	raw.until("NetStream.Unpublish.Success")
	raw.command("deleteStream", 0, nil, 1.0)
	raw.command("createStream", 6, nil)
	raw.command("publish", 7, nil, "b", "live")
	raw.until("NetStream.Publish.Start")
	if s := n.hub.Find(stream.Key{Space: "default", App: "live", Name: "b"}); s == nil || !s.Live() {
		t.Error("the second stream is not live")
	}
	raw.command("closeStream", 0, nil)
	raw.until("NetStream.Unpublish.Success")
	// Now it has to come up with something, or is closed after Setup.
	if _, err := io.Copy(io.Discard, raw); err != nil {
		t.Errorf("idle after closeStream: %v", err)
	}
	if st := n.Stats(); st.Started[Kind{access.Publish, access.RTMP}] != 2 || st.Unfit != 0 {
		t.Errorf("stats %+v", st)
	}
}

// The hub ends a publisher, who is told why.
func TestPublisherEnded(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*policy.App)
		end    func(t *testing.T, n *node)
		code   string
	}{
		{"takeover", func(a *policy.App) { a.Takeover = true }, func(t *testing.T, n *node) { n.publish(t, "s") }, "NetStream.Publish.BadName"},
		{"stale", func(a *policy.App) { a.StaleAfter = time.Nanosecond }, func(t *testing.T, n *node) { n.publish(t, "s") }, "NetStream.Publish.Idle"},
		{"idle", func(a *policy.App) { a.IdleTimeout = 50 * time.Millisecond }, func(*testing.T, *node) {}, "NetStream.Publish.Idle"},
		{"kicked", func(*policy.App) {}, func(t *testing.T, n *node) {
			id, err := ParseID(n.Sessions()[0].ID.String())
			if err != nil || !n.Kick(id) || n.Kick(id+1) {
				t.Errorf("Kick(%v) does not do it", id)
			}
		}, "NetStream.Publish.Denied"},
		{"shutdown", func(*policy.App) {}, func(t *testing.T, n *node) { n.stop(t) }, "NetConnection.Connect.AppShutdown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := start(t, Options{}, c.change)
			p := n.publish(t, "s")
			p.wait(n, key)
			c.end(t, n)
			_, err := p.conn.ReadPacket()
			if e := (*rtmp.Error)(nil); !errors.As(err, &e) || e.Code != c.code || e.Description == "" {
				t.Errorf("the publisher is told %v, want %s", err, c.code)
			}
			if _, err := p.conn.ReadPacket(); err != io.EOF {
				t.Errorf("then %v, want EOF", err)
			}
		})
	}
}

// F10, F20: who sent much more than can be played yet, and has left, does not
// keep the name until all of it is played; who is still there does.
func TestReturnAfterTooFast(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("cannot be known there")
	}
	n := start(t, Options{})
	p := n.publish(t, "s")
	for range 2000 { // more than a minute
		p.frame(0x65)
	}
	pub := n.hub.Find(key).Publication()
	until(t, func() bool { return n.hub.Find(key).Time() >= 10_000 })
	if err := n.dial(t, "live").Publish("s"); err == nil {
		t.Fatal("another publisher was let in")
	}
	p.conn.Close()
	until(t, func() bool { return n.dial(t, "live").Publish("s") == nil })
	if <-pub.Done(); pub.Reason() != stream.EndReset {
		t.Errorf("the first publisher ended for %q", pub.Reason())
	}
}

func TestKickPlayer(t *testing.T) {
	for _, w := range ways {
		n := start(t, Options{})
		p := n.publish(t, "s")
		p.wait(n, key)
		r, _, err := w.play(t, n, "live/s")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, p.sent)
		until(t, func() bool { return len(n.Sessions()) == 2 })
		for _, i := range n.Sessions() {
			if i.Kind.Op == access.Play && !n.Kick(i.ID) {
				t.Errorf("%s: Kick(%v) = false", w.protocol, i.ID)
			}
		}
		if _, err := r.ReadPacket(); err == nil {
			t.Errorf("%s: a packet after the kick", w.protocol)
		}
		until(t, func() bool { return len(n.Sessions()) == 1 })
	}
}

// A panic ends the connection that it happened in, and no other.
func TestPanic(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	r, _, err := playFLV(t, n, "live/s")
	if err != nil {
		t.Fatal(err)
	}
	set := n.policy.Load()
	n.policy.Store(nil) // the next look at it panics
	raw := dialRaw(t, n, "live", "")
	raw.command("createStream", 2, nil)
	raw.command("publish", 3, nil, "x")
	if _, err := io.Copy(io.Discard, raw); err != nil {
		t.Errorf("after the panic: %v", err)
	}
	n.policy.Store(set)
	until(t, func() bool { return n.Stats().Panics == 1 })
	p.gop()
	expect(t, r, p.sent)
}

// H01, in small: who says nothing is closed in time.
func TestSilence(t *testing.T) {
	limits := rtmp.Limits{Handshake: 50 * time.Millisecond, Setup: 50 * time.Millisecond}
	n := start(t, Options{RTMP: rtmp.Config{Limits: limits}})
	nc, err := net.Dial("tcp", n.rtmp)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, c := range []net.Conn{nc, dialRaw(t, n, "live", "")} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("silent client: %v, want EOF", err)
		}
	}
	until(t, func() bool { return n.Stats().Unfit == 2 })
}

// Close ends who does nothing at once, and who does something when its time is up.
func TestClose(t *testing.T) {
	var log bytes.Buffer
	n := start(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	idle := dialRaw(t, n, "live", "")
	idle.until("NetConnection.Connect.Success")
	p := n.publish(t, "s")
	p.wait(n, key)
	r, _, err := playFLV(t, n, "live/s")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, p.sent)

	ctx, cancel := context.WithCancel(context.Background())
	closed := make(chan error)
	go func() { closed <- n.Close(ctx) }()
	if _, err := io.Copy(io.Discard, idle); err != nil {
		t.Errorf("the idle client: %v", err)
	}
	late, err := net.Dial("tcp", n.rtmp)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := late.Read(make([]byte, 1)); err == nil {
		t.Error("a new client is served")
	}
	p.gop()
	expect(t, r, p.sent[len(p.sent)-7:]) // the others go on
	cancel()
	if err := <-closed; err != context.Canceled {
		t.Errorf("Close = %v", err)
	}
	if _, err := r.ReadPacket(); err == nil {
		t.Error("the player goes on after Close")
	}
	if got := n.Sessions(); len(got) != 0 {
		t.Errorf("sessions after Close: %v", got)
	}
	for _, text := range []string{`msg="session begins" session=`, "stream=default/live/s", `op=play`, `msg="session ends"`, `reason=reset`} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("no %s in the log:\n%s", text, log.String())
		}
	}
}

// A hub that is closed lets nobody in.
func TestShuttingDown(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s")
	if err := n.hub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := n.dial(t, "live").Publish("s")
	if e := (*rtmp.Error)(nil); !errors.As(err, &e) || e.Description != "Server Is Shutting Down" {
		t.Errorf("Publish = %v", err)
	}
	if _, _, err := playFLV(t, n, "live/s"); err == nil || !strings.Contains(err.Error(), "NonExistStreamName") {
		t.Errorf("play: %v", err)
	}
}

// Who would be one too many is refused, in the words of each protocol, and has a place when
// another one has left.
func TestFull(t *testing.T) {
	n := start(t, Options{Publishers: 1, Players: 2})
	first := n.publish(t, "s1")
	refused := func() error { return n.dial(t, "live").Publish("s2") }
	if err := refused(); err == nil || !strings.Contains(err.Error(), "Too Many Publishers") {
		t.Errorf("a second publisher: %v", err)
	}
	get := func(path string) *http.Response {
		resp, err := http.Get(n.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	left := get("/live/s1.flv")
	if other := get("/live/s1.flv"); left.StatusCode != 200 || other.StatusCode != 200 {
		t.Fatalf("two players: %s, %s", left.Status, other.Status)
	}
	resp := get("/live/s1.flv")
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "Too Many Players") {
		t.Errorf("a third player: %s, %v, %s", resp.Status, resp.Header, body)
	}
	if err := n.dial(t, "live").Play("s1"); err == nil || !strings.Contains(err.Error(), "Too Many Players") {
		t.Errorf("a player over RTMP: %v", err)
	}
	if resp, err := http.Head(n.http.URL + "/live/s1.flv"); err != nil || resp.StatusCode != 200 {
		t.Errorf("one who only asks: %v, %v", resp, err)
	}
	for range 3 { // others are refused all the while, and take nothing
		resp := get("/live/none.flv")
		if resp.StatusCode != 403 {
			t.Errorf("a stream that nobody publishes: %s", resp.Status)
		}
	}
	left.Body.Close()
	until := time.After(10 * time.Second)
	for resp = get("/live/s1.flv"); resp.StatusCode == 503; resp = get("/live/s1.flv") {
		select {
		case <-until:
			t.Fatal("no place becomes free")
		case <-time.After(5 * time.Millisecond):
		}
	}
	first.conn.Close()
	for err := refused(); err != nil; err = refused() {
		select {
		case <-until:
			t.Fatalf("no place becomes free: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
