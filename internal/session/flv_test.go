package session

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"weir/internal/media/flv"
	"weir/internal/policy"
)

// request sends a request as it stands and returns the connection.
func (n *node) request(t *testing.T, text string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", n.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	return nc
}

// The answer to a player is the guide's to the byte (l.442-447), with CORS and a date.
func TestFLVAnswer(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	for _, version := range []string{"1.0", "1.1"} {
		nc := n.request(t, "GET /live/s.flv HTTP/"+version+"\r\nHost: 127.0.0.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n")
		br := bufio.NewReader(nc)
		want := "HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nContent-Type: video/x-flv\r\nConnection: close\r\nExpires: -1\r\nPragma: no-cache\r\n" +
			"Access-Control-Allow-Origin: *\r\nDate: "
		head := make([]byte, len(want))
		if _, err := io.ReadFull(br, head); err != nil || string(head) != want {
			t.Errorf("HTTP/%s: the answer begins %q, %v, want %q", version, head, err, want)
		}
		date, _ := br.ReadString('\n')
		if _, err := http.ParseTime(strings.TrimSpace(date)); err != nil {
			t.Errorf("HTTP/%s: Date: %v", version, err)
		}
		if blank, _ := br.ReadString('\n'); blank != "\r\n" {
			t.Errorf("HTTP/%s: behind the date comes %q", version, blank)
		}
		expect(t, flv.NewReader(br), p.sent)
		nc.Close()
	}
}

// Refusals in the words of HTTP (guide l.376-430), and requests for what is no stream.
func TestFLVErrors(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s")
	xml := func(code, detail string) string {
		s := "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n<Code>" + code + "</Code>\n"
		if detail != "" {
			s += "<Message>" + detail + "</Message>\n"
		}
		return s + "</Error>\n"
	}
	for _, c := range []struct {
		path, host string
		status     int
		body       string // "": not looked at
	}{
		{"/live/none.flv", "127.0.0.1", 403, xml("NonExistStreamName", "")},
		{"/none/s.flv", "127.0.0.1", 403, xml("NonExistApplication", "")},
		{"/live/s.flv", "push.test", 403, xml("NonExistDomain", "")},
		{"/live/s.flv", "nobody.test", 403, xml("NonExistDomain", "")},
		{"/live/s.flv?vhost=nobody.test", "127.0.0.1", 403, xml("NonExistDomain", "")},
		{"/live/s.flv?" + strings.Repeat("a=1&", 200), "127.0.0.1", 403, xml("AuthencationFailed", "Too Many Parameters")},
		// H104: names that look like something else.
		{"/live/s.flv.flv", "127.0.0.1", 403, xml("NonExistStreamName", "")},
		{"/live/%73.flv", "127.0.0.1", 403, xml("NonExistStreamName", "")},
		{"/live/..%2fs.flv", "127.0.0.1", 403, xml("NonExistStreamName", "")},
		{"/live/.flv", "127.0.0.1", 403, xml("NonExistStreamName", "")},
		{"/s.flv", "127.0.0.1", 403, xml("NonExistApplication", "")},
		{"/a/live/s.flv", "127.0.0.1", 403, xml("NonExistApplication", "")},
		{"/live/s", "127.0.0.1", 404, ""},
		{"/live/s.m3u8", "127.0.0.1", 404, ""},
		{"/", "127.0.0.1", 404, ""},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"} {
				nc := n.request(t, method+" "+c.path+" HTTP/1.1\r\nHost: "+c.host+"\r\n"+upgrade+"\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(nc), &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				nc.Close()
				want := c.body
				if method == "HEAD" {
					want = ""
				}
				if resp.StatusCode != c.status || c.body != "" && string(body) != want {
					t.Errorf("%s %s at %s: %d %q, want %d %q", method, c.path, c.host, resp.StatusCode, body, c.status, want)
				}
				if c.body == "" {
					continue
				}
				if h := resp.Header; h.Get("Content-Type") != "text/plain" || resp.ContentLength != int64(len(c.body)) || h.Get("Access-Control-Allow-Origin") != "*" {
					t.Errorf("%s %s: header %v", method, c.path, h)
				}
			}
		}
	}
}

// H64: methods. HEAD and OPTIONS open no stream.
func TestMethods(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s")
	for _, c := range []struct {
		method string
		status int
		header map[string]string
	}{
		{"HEAD", 200, map[string]string{"Content-Type": "video/x-flv", "Cache-Control": "no-cache", "Expires": "-1", "Pragma": "no-cache", "Access-Control-Allow-Origin": "*", "Content-Length": ""}},
		{"OPTIONS", 204, map[string]string{"Allow": "GET, HEAD, OPTIONS", "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS", "Access-Control-Allow-Origin": "*"}},
		{"POST", 405, map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		{"PUT", 405, map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		{"TRACE", 405, map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		{"DELETE", 405, map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		{"NONSENSE", 405, map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
	} {
		req, err := http.NewRequest(c.method, n.http.URL+"/live/s.flv", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := n.http.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.method, resp.Status, c.status)
		}
		for k, v := range c.header {
			if got := resp.Header.Get(k); got != v {
				t.Errorf("%s: %s: %q, want %q", c.method, k, got, v)
			}
		}
	}
	if st := n.hub.Stats(); st.Players != 0 {
		t.Errorf("%d players", st.Players)
	}
}

// Over TLS, too, and with HTTP/2 not at all.
func TestFLVOverTLS(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	secure := httptest.NewTLSServer(http.HandlerFunc(n.ServeFLV))
	defer secure.Close()
	resp, err := secure.Client().Get(secure.URL + "/live/s.flv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	expect(t, flv.NewReader(resp.Body), p.sent)
	resp.Body.Close()

	pool := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	d := ws.Dialer{TLSConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}}
	nc, br, _, err := d.Dial(t.Context(), "wss"+strings.TrimPrefix(secure.URL, "https")+"/live/s.flv")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s := &socketClient{Conn: nc, in: nc}
	if br != nil {
		s.in = io.MultiReader(br, nc)
	}
	expect(t, flv.NewReader(s), p.sent)

	h2 := httptest.NewUnstartedServer(http.HandlerFunc(n.ServeFLV))
	h2.EnableHTTP2 = true
	h2.StartTLS()
	defer h2.Close()
	if resp, err = h2.Client().Get(h2.URL + "/live/s.flv"); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("HTTP/2: %s", resp.Status)
	}
}

// H61 for connections that were taken over: who sends without being asked is cut off.
func TestChatter(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	nc := n.request(t, "GET /live/s.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); err == nil; { // until the server has had enough
		_, err = nc.Write(make([]byte, 4096))
	}
	until(t, func() bool { return len(n.Sessions()) == 1 })
}

// A player that goes away is noticed while nothing is written to it.
func TestPlayerLeaves(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	for name, leave := range map[string]func(*net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"reset": func(c *net.TCPConn) { reset(c) },
	} {
		nc := n.request(t, "GET /live/s.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		until(t, func() bool { return len(n.Sessions()) == 2 })
		leave(nc.(*net.TCPConn))
		until(t, func() bool { return len(n.Sessions()) == 1 })
		if st := n.Stats(); st.Panics != 0 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// What a WebSocket client may say (RFC 6455 5.5) and may not.
func TestSocket(t *testing.T) {
	n := start(t, Options{}, func(a *policy.App) { a.Hold = 0 })
	p := n.publish(t, "s")
	p.wait(n, key)
	unmasked := func(t *testing.T, s *socketClient) {
		if err := ws.WriteFrame(s.Conn, ws.NewTextFrame([]byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	raw := func(b ...byte) func(*testing.T, *socketClient) {
		return func(t *testing.T, s *socketClient) {
			if _, err := s.Conn.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		say  func(*testing.T, *socketClient)
		code ws.StatusCode
	}{
		{"close", func(t *testing.T, s *socketClient) {
			s.write(t, ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusGoingAway, "")))
		}, ws.StatusNormalClosure},
		{"not masked", unmasked, ws.StatusProtocolError},
		{"reserved bits", raw(0xF2, 0x80, 0, 0, 0, 0), ws.StatusProtocolError},
		{"reserved opcode", raw(0x83, 0x80, 0, 0, 0, 0), ws.StatusProtocolError},
		{"fragmented ping", raw(0x09, 0x80, 0, 0, 0, 0), ws.StatusProtocolError},
		{"continuation of nothing", raw(0x80, 0x80, 0, 0, 0, 0), ws.StatusProtocolError},
		{"length 2^63", raw(0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), ws.StatusProtocolError},
		{"length 2^62", raw(0x82, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), ws.StatusMessageTooBig},
		{"frame too long", func(t *testing.T, s *socketClient) { s.write(t, ws.NewBinaryFrame(make([]byte, maxFrame+1))) }, ws.StatusMessageTooBig},
		{"longest frames, then too many", func(t *testing.T, s *socketClient) {
			s.write(t, ws.NewBinaryFrame(make([]byte, maxFrame)))
			for range 50 {
				s.write(t, ws.NewPingFrame(nil))
			}
		}, ws.StatusPolicyViolation},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := dialSocket(t, n, "live/s")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, flv.NewReader(s), p.sent)
			s.write(t, ws.NewFrame(ws.OpText, false, []byte("a message ")))
			s.write(t, ws.NewPingFrame([]byte("in between")))
			s.write(t, ws.NewFrame(ws.OpContinuation, true, []byte("in two parts")))
			s.write(t, ws.NewPongFrame(nil))
			c.say(t, s)
			if _, err := io.Copy(io.Discard, s); err != nil || s.closed != c.code || s.pong != "in between" {
				t.Errorf("closed with %d, %v, pong %q, want %d", s.closed, err, s.pong, c.code)
			}
			s.Close()
			until(t, func() bool { return len(n.Sessions()) == 1 })
		})
	}
	s, err := dialSocket(t, n, "live/s")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, flv.NewReader(s), p.sent)
	p.conn.Close()
	if _, err := io.Copy(io.Discard, s); err != nil || s.closed != ws.StatusNormalClosure {
		t.Errorf("at the stream's end: closed with %d, %v", s.closed, err)
	}
}

func TestSocketUpgradeErrors(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s")
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, c := range []struct {
		name, version, header string
		status                int
	}{
		{"version 8", "1.1", "Connection: Upgrade\r\nSec-WebSocket-Version: 8\r\n" + key, 426},
		{"no version", "1.1", "Connection: Upgrade\r\n" + key, 400},
		{"no key", "1.1", "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", 400},
		{"no Connection", "1.1", "Sec-WebSocket-Version: 13\r\n" + key, 400},
		{"HTTP/1.0", "1.0", "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" + key, 505},
	} {
		nc := n.request(t, "GET /live/s.flv HTTP/"+c.version+"\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"+c.header+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s: %+v, %v, want %d", c.name, resp, err, c.status)
			continue
		}
		resp.Body.Close()
	}
	if st := n.hub.Stats(); st.Players != 0 || st.Join[len(st.Join)-1] != 0 {
		t.Errorf("stats %+v", st)
	}
}

// A frame that came in one piece with the request for the upgrade is not lost.
func TestSocketEarlyFrame(t *testing.T) {
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	ping := ws.MustCompileFrame(ws.MaskFrame(ws.NewPingFrame([]byte("early"))))
	nc := n.request(t, "GET /live/s.flv HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+string(ping))
	br := bufio.NewReader(nc)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, %v", resp, err)
	}
	s := &socketClient{Conn: nc, in: br}
	r := flv.NewReader(s)
	for s.pong == "" {
		if _, err := r.ReadPacket(); err != nil {
			t.Fatal(err)
		}
		p.gop()
	}
	if s.pong != "early" {
		t.Errorf("pong %q", s.pong)
	}
}
