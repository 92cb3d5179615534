package access

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/policy"
)

// nameServer is one: what a name leads to is answers[0] the first time,
// answers[1] the second, and so on in turn.
type nameServer struct {
	mu      sync.Mutex
	answers [][]string
	asked   int
}

// resolveBy makes the names of this test be resolved by the name server that is returned.
func resolveBy(t *testing.T) *nameServer {
	n := new(nameServer)
	real := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = real })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go n.serve(server) // ends when the client closes
		return client, nil
	}}
	return n
}

func (n *nameServer) set(answers ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers, n.asked = answers, 0
}

// next returns the answers to a question of that type. The turn goes on with
// each question for A records, which come in pairs with those for AAAA.
func (n *nameServer) next(typ uint16) (list []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.answers) == 0 {
		return nil
	}
	for _, s := range n.answers[n.asked%len(n.answers)] {
		if a := netip.MustParseAddr(s); a.Is4() == (typ == 1) {
			list = append(list, a)
		}
	}
	if typ == 1 {
		n.asked++
	}
	return list
}

// serve answers the questions of one connection (RFC 1035, 4.1 and 4.2.2).
func (n *nameServer) serve(nc net.Conn) {
	defer nc.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(nc, size[:]); err != nil {
			return
		}
		m := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(nc, m); err != nil {
			return
		}
		end := 12 // of the question
		for m[end] != 0 {
			end += 1 + int(m[end])
		}
		end += 5
		typ := binary.BigEndian.Uint16(m[end-4:])
		list := n.next(typ)
		m = slices.Clip(m[:end])
		m[2], m[3] = 0x81, 0x80 // a response; recursion available
		binary.BigEndian.PutUint16(m[6:], uint16(len(list)))
		binary.BigEndian.PutUint32(m[8:], 0)
		for _, a := range list {
			m = append(m, 0xC0, 12) // the name of the question
			m = binary.BigEndian.AppendUint16(m, typ)
			m = append(m, 0, 1, 0, 0, 0, 0) // IN; not to be kept
			m = binary.BigEndian.AppendUint16(m, uint16(a.BitLen()/8))
			m = append(m, a.AsSlice()...)
		}
		if _, err := nc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
			return
		}
	}
}

// H67: a name that leads outside when it is looked up and inside when it is
// dialled, and back, never brings a connection inside.
func TestExternalRebinding(t *testing.T) {
	const outside, inside = "127.0.0.2", "127.0.0.1" // the first is allowed as if it were public
	var asked atomic.Int32
	out := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	ln, err := net.Listen("tcp", inside+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	out.Listener.Close()
	if out.Listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", outside, port)); err != nil {
		t.Fatal(err)
	}
	out.Config.SetKeepAlivesEnabled(false) // each question is dialled
	out.Start()
	defer out.Close()

	resolver := resolveBy(t)
	check := func(host string) *Denied {
		e := externalAt(fmt.Sprintf("http://%s:%d/", host, port))
		e.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix(outside + "/32")}}
		_, err := gateWith(policy.Access{External: e}, policy.Access{}).Check(t.Context(), request(t, Publish, "rtmp://push.example/live/s1?token=x"))
		var d *Denied
		errors.As(err, &d)
		return d
	}
	// A question is asked a second time if the first brings nothing.
	for _, tt := range []struct {
		name    string
		answers [][]string
		refused bool
		asked   int32
	}{
		{"outside", [][]string{{outside}}, false, 1},
		{"inside", [][]string{{inside}}, true, 0},
		{"inside, then outside", [][]string{{inside}, {outside}}, false, 1},
		{"both at once", [][]string{{inside, "::1", outside}}, false, 1},
		{"inside by IPv6", [][]string{{"::1"}}, true, 0},
		{"inside, mapped", [][]string{{"::ffff:7f00:1"}}, true, 0},
		{"link-local", [][]string{{"fe80::1"}, {"169.254.169.254"}}, true, 0},
		{"private", [][]string{{"10.0.0.1", "192.168.0.1"}, {"fc00::1", "0.0.0.0", "::"}}, true, 0},
	} {
		resolver.set(tt.answers...)
		asked.Store(0)
		d := check("rebind.example")
		if (d != nil) != tt.refused || asked.Load() != tt.asked || d != nil && (d.Reason != AuthUnavailable || !strings.Contains(d.Why, "not on the public Internet")) {
			t.Errorf("%s: %+v, the server was asked %d times", tt.name, d, asked.Load())
		}
	}
	// One client whose name changes sides between its questions.
	e := externalAt(fmt.Sprintf("http://rebind.example:%d/", port))
	e.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix(outside + "/32")}}
	g := gateWith(policy.Access{External: e}, policy.Access{})
	resolver.set([]string{outside}, []string{inside}, []string{inside})
	for i, want := range []Reason{"", AuthUnavailable, "", AuthUnavailable} {
		if got := reason(t, g, Publish, "rtmp://push.example/live/s1?token=x"); got != want {
			t.Errorf("question %d: %q, want %q", i, got, want)
		}
	}
	// Hosts that a file may not name, should one come this far. What a C library
	// reads as a number is no name, or leads to where it would.
	resolver.set([]string{inside})
	for _, host := range []string{
		inside, "0x7f.1", "2130706433", "127.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
		"[fe80::1]", "[fe80::1%25lo]", "169.254.169.254", "127.0.0.1.nip.example", "localhost",
	} {
		if d := check(host); d == nil || d.Reason != AuthUnavailable || !strings.Contains(d.Why, "not on the public Internet") && !strings.Contains(d.Why, "no such host") {
			t.Errorf("http://%s/: %+v", host, d)
		}
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond)) // it would wait there
	if nc, err := ln.Accept(); err == nil {
		nc.Close()
		t.Error("a connection came inside")
	}
}

// counted counts what is read from a connection.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// H68: an answer that never ends is given up after so many bytes, and one that
// comes too slowly after the timeout.
func TestExternalEndless(t *testing.T) {
	// forever writes b after start, until the client is gone.
	forever := func(start, b string) func(io.Writer) {
		return func(w io.Writer) {
			_, err := io.WriteString(w, start)
			for err == nil {
				_, err = io.WriteString(w, b)
			}
		}
	}
	drip := func(w io.Writer, s string) {
		for i := range s {
			if _, err := io.WriteString(w, s[i:i+1]); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	zeros := strings.Repeat("\x00", 64<<10)
	for _, tt := range []struct {
		name   string
		answer func(io.Writer)
		slow   bool // all of the timeout passes
	}{
		{"endless body", forever(ok+"\r\n", zeros), false},
		{"endless body of blanks in chunks", forever(ok+"Transfer-Encoding: chunked\r\n\r\n", "400\r\n"+strings.Repeat(" ", 0x400)+"\r\n"), false},
		{"bomb", func(w io.Writer) {
			io.WriteString(w, ok+"Content-Encoding: gzip\r\n\r\n")
			z := gzip.NewWriter(w)
			forever("", zeros)(z)
		}, false},
		{"transferred bomb", forever(ok+"Transfer-Encoding: gzip, chunked\r\n\r\n", zeros), false},
		{"1xx flood", forever("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), false},
		{"100 flood", forever("", "HTTP/1.1 100 Continue\r\n\r\n"), false},
		{"endless headers", forever(ok, "X-Header: value\r\n"), false},
		{"endless header", forever(ok+"X: ", "xxxxxxxx"), false},
		{"endless status", forever("HTTP/1.1 200 ", "OK"), false},
		{"endless chunk size", forever(ok+"Transfer-Encoding: chunked\r\n\r\n", "0"), false},
		{"endless chunk extension", forever(ok+"Transfer-Encoding: chunked\r\n\r\n1;", "xxxx"), false},
		{"endless trailers", forever(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n"), false},
		{"bad chunk", forever(ok+"Transfer-Encoding: chunked\r\n\r\n", "-1\r\n"), false},
		{"body at 1 B/s", func(w io.Writer) { io.WriteString(w, ok+"\r\n"); drip(w, `{"code":0}`) }, true},
		{"headers at 1 B/s", func(w io.Writer) { drip(w, ok+"\r\n") }, true},
		{"nothing", func(w io.Writer) { drip(w, "") }, true},
	} {
		at(t, 1893450000, func(t *testing.T) {
			e := externalAt("http://auth.example/")
			g := gateWith(policy.Access{External: e}, policy.Access{})
			c := g.rules(g.policy(), &g.policy().Spaces[0].Domains[0].Publish).external
			var read atomic.Int64
			var dialled int64
			var servers sync.WaitGroup
			c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
				dialled++
				client, server := net.Pipe()
				servers.Go(func() { // both end when the client closes
					// An answer before the question would be refused as unsolicited.
					asked := bufio.NewReader(server)
					if r, err := http.ReadRequest(asked); err == nil {
						io.Copy(io.Discard, r.Body)
						servers.Go(func() { tt.answer(server); server.Close() })
					}
					io.Copy(io.Discard, asked)
				})
				return counted{client, &read}, nil
			}
			start := time.Now()
			got := reason(t, g, Publish, "rtmp://push.example/live/s1?token=x")
			took := time.Since(start)
			want := time.Duration(0)
			if tt.slow {
				want = e.Timeout
			}
			if got != AuthUnavailable || took != want {
				t.Errorf("%s: %q after %v", tt.name, got, took)
			}
			// What is read ahead comes on top: a buffer.
			if most := dialled * (maxAnswerHeader + maxAnswer + 8<<10); dialled > 2 || read.Load() > most {
				t.Errorf("%s: %d bytes read of %d connections, want %d at most", tt.name, read.Load(), dialled, most)
			}
			c.close()
			servers.Wait() // no connection is left
			if n := len(c.slots); n != 0 {
				t.Errorf("%s: %d requests are under way for ever", tt.name, n)
			}
		})
	}
}
