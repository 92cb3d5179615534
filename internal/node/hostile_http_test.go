package node

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"weir/internal/media/amf"
	"weir/internal/policy"
)

// drip writes bytes one by one until they are written or the connection is closed.
func drip(nc net.Conn, b []byte) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range b {
		<-tick.C
		if _, err := nc.Write(b[i : i+1]); err != nil {
			return
		}
	}
}

// H01, H03, H61: clients that say nothing, or too little, or too slowly, a
// thousand at once. None stays for longer than it may.
func TestSilence(t *testing.T) {
	const limit = time.Second
	dir := t.TempDir()
	w := newWorld(t, func(c *Config, _ *policy.App) {
		c.TLS = TLS{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
		c.Listen.RTMPS, c.Listen.HTTPS = "127.0.0.1:0", "127.0.0.1:0"
		writeCertificate(t, c.TLS)
		l := &c.Limits
		l.Handshake, l.CommandWait, l.HTTPHeaderTime, l.HTTPIdle = limit, limit, limit, limit
	})
	handshake := func(nc net.Conn, next ...[]byte) { nc.Write(slices.Concat(hello(), slices.Concat(next...))) }
	create, ping := command(0, "createStream", 2, nil), chunked(2, 4, 0, 0, []byte{0, 6, 0, 0, 0, 1})
	secure := func(nc net.Conn, text string) {
		c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		if c.Handshake() == nil {
			io.WriteString(c, text)
		}
	}
	nothing := func(net.Conn) {}
	rows := []struct {
		name, listener string
		number         int
		do             func(nc net.Conn)
	}{
		{"H01 says nothing", "rtmp", 1000, nothing},
		{"H01 says nothing", "rtmps", 20, nothing},
		{"H01 says nothing", "http", 100, nothing},
		{"H01 says nothing", "https", 20, nothing},
		{"H01 half a C1", "rtmp", 20, func(nc net.Conn) { nc.Write(hello()[:800]) }},
		{"H01 no C2", "rtmp", 20, func(nc net.Conn) { nc.Write(hello()[:1537]) }},
		{"H01 no connect", "rtmp", 20, func(nc net.Conn) { handshake(nc) }},
		{"H01 connect and no more", "rtmp", 20, func(nc net.Conn) { handshake(nc, connect("live")) }},
		{"H01 createStream and no more", "rtmp", 20, func(nc net.Conn) { handshake(nc, connect("live"), create) }},
		{"H01 half a message", "rtmp", 20, func(nc net.Conn) { handshake(nc, connect("live"), create, connect("live")[:50]) }},
		{"H01 half a hello", "rtmps", 20, func(nc net.Conn) { nc.Write([]byte{22, 3, 1, 2, 0, 1}) }},
		{"H01 TLS and no more", "rtmps", 20, func(nc net.Conn) { secure(nc, "") }},
		{"H01 TLS and no more", "https", 20, func(nc net.Conn) { secure(nc, "GET /") }},
		{"H03 slow handshake", "rtmp", 20, func(nc net.Conn) { drip(nc, hello()) }},
		{"H03 slow connect", "rtmp", 20, func(nc net.Conn) { handshake(nc); drip(nc, connect("live")) }},
		{"H03 nothing but pings", "rtmp", 20, func(nc net.Conn) { handshake(nc, connect("live")); drip(nc, times(100, ping)) }},
		{"H03 nothing but createStream", "rtmp", 5, func(nc net.Conn) {
			handshake(nc, connect("live"))
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := nc.Write(create); err != nil {
					return
				}
			}
		}},
		{"H03 slow header", "http", 20, func(nc net.Conn) {
			drip(nc, []byte("GET /live/canary.flv HTTP/1.1\r\nHost: h\r\n"+strings.Repeat("X: x\r\n", 1000)))
		}},
		{"H03 slow hello", "https", 20, func(nc net.Conn) { drip(nc, append([]byte{22, 3, 1, 2, 0, 1, 0}, make([]byte, 500)...)) }},
		{"H61 kept after a request", "http", 300, func(nc net.Conn) { io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n") }},
		{"H61 body that does not come", "http", 20, func(nc net.Conn) {
			io.WriteString(nc, "POST /live/canary.flv HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
		}},
		{"H61 body that comes slowly", "http", 20, func(nc net.Conn) {
			io.WriteString(nc, "GET /none HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
			drip(nc, make([]byte, 1000))
		}},
	}
	w.sub(t, "all at once", func() {
		var all sync.WaitGroup
		for _, row := range rows {
			for range row.number {
				nc := w.dial(row.listener)
				all.Go(func() {
					defer nc.Close()
					acting := make(chan struct{})
					go func() { defer close(acting); row.do(nc) }() // ends when the connection does
					nc.SetReadDeadline(time.Now().Add(limit + patience))
					if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
						w.t.Errorf("%s by %s: the connection is still open", row.name, row.listener)
					}
					nc.Close()
					<-acting
				})
			}
		}
		all.Wait()
	})
}

// H62, H64: requests that are no good, or that one server may understand as
// one and the next as two.
func TestHostileHTTP(t *testing.T) {
	w := newWorld(t, nil)
	const get = "GET /live/canary.flv HTTP/1.1\r\nHost: h\r\n"
	const hidden = "GET /live/canary.flv HTTP/1.1\r\nHost: h\r\n\r\n"
	long := strings.Repeat("x", 20<<10)
	type row struct {
		name, send string
		want       string // the answers' status codes
		open       bool   // the connection may be used again
	}
	rows := []row{
		{"H62 length and chunked", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400", false},
		{"H62 chunked", "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400", false},
		{"H62 chunked by HTTP/1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "200 400", false},
		{"H62 chunked stream", get + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", false},
		{"H62 chunked twice", "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "501", false},
		{"H62 chunked in disguise", "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n" + hidden, "501", false},
		{"H62 two lengths", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + hidden, "400", false},
		{"H62 negative length", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n", "400", false},
		{"H62 length with a sign", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello", "400", false},
		{"H62 body", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + hidden, "200", false},
		{"H62 body of a playlist", "GET /live/canary/index.m3u8 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + hidden, "200", false},
		{"H62 long chunk extension", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("x", 1<<20) + "\r\n", "400", false},
		{"H62 space before colon", get + "Content-Length : 5\r\n\r\nhello", "400", false},
		{"H62 folded first line", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", "400", false},
		{"H62 NUL in a header", get + "X: a\x00b\r\n\r\n", "400", false},
		{"H62 no host", "GET /live/canary.flv HTTP/1.1\r\n\r\n", "400", false},
		{"H62 two hosts", get + "Host: i\r\n\r\n", "400", false},
		{"H62 bad host", "GET / HTTP/1.1\r\nHost: h\x7f/\r\n\r\n", "400", false},
		{"H62 long header", get + "X: " + long + "\r\n\r\n", "431", false},
		{"H62 many headers", get + strings.Repeat("X: x\r\n", 4000) + "\r\n", "431", false},
		{"H62 long URL", "GET /" + long + ".flv HTTP/1.1\r\nHost: h\r\n\r\n", "431", false},
		{"H62 HTTP/0.9", "GET /\r\n\r\n", "400", false},
		{"H62 HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "405|505", false},
		{"H62 HTTP/9", "GET / HTTP/9.9\r\nHost: h\r\n\r\n", "505", false},
		{"H62 RTMP", string(hello()) + "\n", "400", false},
		{"H62 proxy", "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", "405", true},
		{"H62 other host's URL", "GET http://evil.example/none HTTP/1.1\r\nHost: h\r\n\r\n", "404", true},
		{"H62 many requests at once", strings.Repeat("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 50), strings.Repeat("200 ", 49) + "200", true},
		{"H64 HEAD of a stream", "HEAD /live/canary.flv HTTP/1.1\r\nHost: h\r\n\r\n", "200", false},
		{"H64 HEAD of a playlist", "HEAD /live/canary.m3u8 HTTP/1.1\r\nHost: h\r\n\r\n", "200", true},
	}
	for _, path := range []string{"/live/canary.flv", "/live/canary/index.m3u8", "/live/canary/1.ts"} {
		rows = append(rows, row{"H64 OPTIONS " + path, "OPTIONS " + path + " HTTP/1.1\r\nHost: h\r\n\r\n", "204", true})
		for _, method := range []string{"TRACE", "POST", "PUT", "DELETE", "PROPFIND", "get"} {
			rows = append(rows, row{"H64 " + method + " " + path, method + " " + path + " HTTP/1.1\r\nHost: h\r\n\r\n", "405", true})
		}
	}
	// Names are taken as they stand; what is not clean is not there.
	for _, path := range []string{
		"/live/../live/canary.flv", "/live/%2e%2e/live/canary.flv", "/live/can%61ry.flv", "//live/canary.flv", "/live//canary.flv", "/live/canary.flv/",
		"/live/.flv", "/.flv", "/live/canary%00.flv", "/live/canary.flv%00", "/live%2fcanary.flv", "/live/canary%2eflv", "/live\\canary.flv", "/live/" + strings.Repeat("x", 300) + ".flv",
		"/LIVE/canary.flv", "/live/Canary.flv", "/live/canary.FLV", "/./live/canary.flv", "/live/canary.flv;a=b", "/live/ⅽanary.flv",
		"/live/canary/../canary.m3u8", "/live/canary/index.m3u8/", "/live/canary.m3u8.m3u8", "/live/canary/x/index.m3u8", "/live/canary/none.m3u8", "/live/canary/-1.ts", "/live/canary/../../1.ts",
		"/live/index.m3u8", "/index.m3u8", "/playlist.m3u8", "/1.ts", "/live/1.ts", // H104
	} {
		rows = append(rows, row{"H52 " + path[:min(len(path), 40)], "GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n", "403|404|400", true})
	}
	players := w.hub.Stats().Players
	for _, row := range rows {
		w.sub(t, row.name, func() {
			nc := w.dial("http")
			defer nc.Close()
			go io.WriteString(nc, row.send) // ends at the latest when the connection is closed
			nc.SetReadDeadline(time.Now().Add(patience))
			in := bufio.NewReader(nc)
			request := &http.Request{Method: strings.SplitN(row.send, " ", 2)[0]}
			codes := strings.Fields(row.want)
			for _, want := range codes {
				resp, err := http.ReadResponse(in, request)
				if err != nil {
					w.t.Fatalf("answer: %v, want %s", err, want)
				}
				if code := fmt.Sprint(resp.StatusCode); !slices.Contains(strings.Split(want, "|"), code) {
					w.t.Fatalf("answer %s, want %s", resp.Status, want)
				}
				if loc := resp.Header.Get("Location"); loc != "" {
					w.t.Errorf("leads to %q", loc)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					w.t.Errorf("body: %v", err)
				}
			}
			if row.open {
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
				if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
					w.t.Errorf("the next request: %v, %v", resp, err)
				}
			} else if rest, err := io.ReadAll(in); errors.Is(err, os.ErrDeadlineExceeded) || len(rest) > 0 {
				w.t.Errorf("behind the answer: %q, %v", rest[:min(len(rest), 200)], err)
			}
			if n := w.hub.Stats().Players; n != players {
				w.t.Errorf("%d players, want %d", n, players)
			}
		})
	}
}

// Clients of WebSocket-FLV that break the rules.
func TestHostileSockets(t *testing.T) {
	w := newWorld(t, nil)
	frame := func(first, second byte, rest ...byte) []byte { return append([]byte{first, second}, rest...) }
	huge := binary.BigEndian.AppendUint64(frame(0x82, 0xFF), 1<<63)
	rows := map[string][]byte{
		"frame without mask":        frame(0x82, 1, 'x'),
		"frame with reserved bits":  frame(0xF2, 0x81, 1, 2, 3, 4, 'x'),
		"frame of 2^63 bytes":       append(huge, 1, 2, 3, 4),
		"frame of 1 MiB":            append(binary.BigEndian.AppendUint64(frame(0x82, 0xFF), 1<<20), make([]byte, 4+1<<20)...),
		"continuation of nothing":   frame(0x80, 0x81, 1, 2, 3, 4, 'x'),
		"ping in parts":             frame(0x09, 0x81, 1, 2, 3, 4, 'x'),
		"ping of 126 bytes":         append(frame(0x89, 0xFE, 0, 126), make([]byte, 130)...),
		"unknown opcode":            frame(0x83, 0x81, 1, 2, 3, 4, 'x'),
		"close of one byte":         frame(0x88, 0x81, 1, 2, 3, 4, 'x'),
		"flood of pings":            times(10_000, frame(0x89, 0x80, 1, 2, 3, 4)),
		"flood of messages":         times(10_000, frame(0x82, 0x81, 1, 2, 3, 4, 'x')),
		"message that does not end": append(frame(0x02, 0x81, 1, 2, 3, 4, 'x'), times(10_000, frame(0x00, 0x81, 1, 2, 3, 4, 'x'))...),
		"RTMP":                      hello(),
	}
	w.sub(t, "all at once", func() {
		var all sync.WaitGroup
		for name, send := range rows {
			nc := w.dial("http")
			all.Go(func() {
				defer nc.Close()
				if err := upgrade(nc, send); err != nil {
					w.t.Errorf("%s: %v", name, err)
				}
			})
		}
		all.Wait()
	})
}

// upgrade becomes a player of the canary by WebSocket-FLV, sends something, and
// waits for the server to close the connection.
func upgrade(nc net.Conn, send []byte) error {
	nc.SetDeadline(time.Now().Add(patience))
	io.WriteString(nc, "GET /live/canary.flv HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	in := bufio.NewReader(nc)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		return fmt.Errorf("upgrade: %v, %w", resp, err)
	}
	go nc.Write(send) // ends at the latest when the connection is closed
	for {
		h, err := ws.ReadHeader(in)
		if err == nil {
			_, err = io.CopyN(io.Discard, in, h.Length)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("the connection is still open")
		}
		if err != nil {
			return nil
		}
	}
}

// H65: what clients put into queries costs nothing that stays.
func TestQueries(t *testing.T) {
	w := newWorld(t, nil)
	w.sub(t, "H65", func() {
		const requests = 3000
		client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 2}}
		defer client.CloseIdleConnections()
		var heap int64
		for i := range requests {
			if i == requests/3 {
				heap = heapSize()
			}
			resp, err := client.Get(w.url("http", fmt.Sprintf("/live/canary/index.m3u8?session=%d&x=%s", i, strings.Repeat("y", i%500))))
			if err != nil {
				w.t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				w.t.Fatal(resp.Status)
			}
		}
		if grown := heapSize() - heap; grown > 4<<20 {
			w.t.Errorf("the heap has grown by %d KiB", grown>>10)
		}
		if n := w.hls.Stats().Channels; n != 1 {
			w.t.Errorf("%d HLS channels", n)
		}
	})
}

// H101, H102, H38: the names of a stream in all the places where clients put them.
func TestNames(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *policy.App) {
		c.Policy.Spaces[0].Domains = []policy.Domain{{Name: "127.0.0.1", Type: policy.Both}, {Name: "play.test", Type: policy.Play}}
	})
	w.sub(t, "by RTMP", func() {
		for _, tt := range []struct{ app, tcURL, name, want string }{
			{"live", "rtmp://127.0.0.1/live", "canary", "Start"},
			{"", "rtmp://127.0.0.1/live", "canary", "Start"},
			{"", "rtmp://127.0.0.1/live/canary", "canary", "Start"},
			{"live/", "rtmp://127.0.0.1/live/", "canary", "Start"},
			{"live/_definst_", "rtmp://127.0.0.1/live/_definst_", "canary", "Start"},
			{"live?k=v", "rtmp://127.0.0.1/live?k=v", "canary?a=b", "Start"},
			{"live", "rtmp://PLAY.test.:1935/live", "canary", "Start"},
			{"live?vhost=play.test", "rtmp://evil/live", "canary", "Start"},
			{"live", "", "canary?vhost=play.test", "Start"},
			{"live...vhost...play.test", "rtmp://evil/live", "canary", "Start"},
			{"live", "", "canary", "Start"},
			{"", "", "canary", "Fail"},
			{"undefined", "rtmp://127.0.0.1/undefined", "canary", "Fail"},
			{"live", "rtmp://evil/live", "canary", "Fail"},
			{"live", "rtmp://127.0.0.1@evil/live", "canary", "Fail"},
			{"live", "rtmp://xn--evil\x00/live", "canary", "Fail"},
			{"live/../live", "rtmp://127.0.0.1/live", "canary", "Fail"},
			{"Live", "rtmp://127.0.0.1/Live", "canary", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "canary/", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "/canary", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "../canary", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "c%61nary", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "canary\x00", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "canary\r\n", "Fail"},
			{"live", "rtmp://127.0.0.1/live", "mp4:canary", "Fail"},
			{"live", "rtmp://127.0.0.1/live", strings.Repeat("x", 60_000), "Fail"},
			{"live", "rtmp://127.0.0.1/live", "canary?" + strings.Repeat("a=b&", 10_000), "Fail"},
		} {
			a := w.attacker(w.t)
			a.send(hello(), command(0, "connect", 1, amf.Object{{Name: "app", Value: tt.app}, {Name: "tcUrl", Value: tt.tcURL}}),
				command(0, "createStream", 2, nil), command(1, "play", 3, nil, tt.name))
			a.hears("_result3")
			if started := a.heard("NetStream.Play.Start") > 0; started != (tt.want == "Start") {
				w.t.Errorf("play %.40q of app %q at %q: %v, want %s", tt.name, tt.app, tt.tcURL, a.commands, tt.want)
			}
			a.leave()
		}
		for _, name := range []string{"", ".", "..", ".x", "-x", "a/b", "a b", "a\x00", "é", strings.Repeat("x", 256)} {
			a := w.attacker(w.t)
			a.send(hello(), connect("live"), command(0, "createStream", 2, nil), command(1, "publish", 3, nil, name, "live"))
			a.closed()
			if a.heard("NetStream.Publish.Start") > 0 {
				w.t.Errorf("publish %q is let", name)
			}
			a.leave()
		}
	})
	// H104: a stream may be called as a playlist is.
	for _, name := range []string{"index", "playlist", "stream.m3u8", "1.ts", "x.flv", "index.m3u8"} {
		w.sub(t, "H104 "+name, func() {
			e := w.encoder("burst", name)
			a := w.watch("burst", name, everyWay...)
			e.configure()
			e.film(0, 3000)
			a.reach(e.sent())
			e.leave()
			a.over()
			a.poller.whole(w.t, 1, e.sent())
			for _, form := range []string{"/burst/" + name + ".m3u8", "/burst/" + name + "/playlist.m3u8", "/burst/" + name + "/index.m3u8"} {
				if status, list := get(w.t, w.url("http", form)); status != 200 || !strings.Contains(list, "#EXTINF") {
					w.t.Errorf("%s: %d", form, status)
				}
			}
		})
	}
}
