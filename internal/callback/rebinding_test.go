package callback

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/policy"
)

// resolve makes every name of this test lead to the addresses of answers in
// turn, an IPv4 address each.
func resolve(t *testing.T, answers ...string) {
	real := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = real })
	var asked atomic.Int32
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // ends when the client closes; RFC 1035, 4.1 and 4.2.2
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				m := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, m); err != nil {
					return
				}
				end := 12 // of the question
				for m[end] != 0 {
					end += 1 + int(m[end])
				}
				m = m[: end+5 : end+5]
				m[2], m[3] = 0x81, 0x80 // a response; recursion available
				binary.BigEndian.PutUint32(m[8:], 0)
				if binary.BigEndian.Uint16(m[end+1:]) == 1 {
					a := netip.MustParseAddr(answers[int(asked.Add(1)-1)%len(answers)]).As4()
					m[6], m[7] = 0, 1
					m = append(m, 0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name of the question: A, IN, not to be kept
					m = append(m, a[:]...)
				}
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

// H67: a name that leads outside at one call and inside at the next brings no
// call inside.
func TestRebinding(t *testing.T) {
	const outside, inside = "127.0.0.2", "127.0.0.1" // the first is allowed as if it were public
	ln, err := net.Listen("tcp", inside+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	var calls atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	s.Listener.Close()
	if s.Listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", outside, port)); err != nil {
		t.Skipf("this machine has no %s: %v", outside, err)
	}
	s.Config.SetKeepAlivesEnabled(false) // each call is dialled
	s.Start()
	defer s.Close()
	resolve(t, outside, inside, inside, "169.254.169.254", "10.0.0.1", outside)
	d := quick()
	d.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix(outside + "/32")}}
	c := newCaller(d, nil, nil)
	defer c.close()
	for i, ok := range []bool{true, false, false, false, false, true} {
		o := c.do(t.Context(), callTo(fmt.Sprintf("http://rebind.example:%d/", port)))
		if o.ok != ok || !ok && !strings.Contains(o.err, "not on the public Internet") {
			t.Errorf("call %d: %+v, want %t", i, o, ok)
		}
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond)) // it would wait there
	if nc, err := ln.Accept(); err == nil {
		nc.Close()
		t.Error("a connection came inside")
	}
}

// H100: a receiver that answers once more than it was asked on a connection that
// is kept does not answer for another one.
func TestAnswersToNobody(t *testing.T) {
	log.SetOutput(io.Discard) // net/http complains there
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	cheat := raw(t, func(nc net.Conn) {
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale")
		io.Copy(io.Discard, nc)
	})
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		http.Error(w, "honest", http.StatusTeapot)
	}))
	defer s.Close()
	c := newCaller(quick(), nil, nil) // even where both are of one group
	defer c.close()
	for i := range 20 {
		// Its next call may get the answer that nobody asked for, or none: that is its own affair.
		if o := c.do(t.Context(), callTo(cheat)); i == 0 && !o.ok {
			t.Fatalf("the one that cheats: %+v", o)
		}
		if o := c.do(t.Context(), callTo(s.URL)); o.ok || o.status != http.StatusTeapot || o.response != "honest\n" {
			t.Fatalf("the other one: %+v", o)
		}
	}
	if n := calls.Load(); n != 20 {
		t.Errorf("%d calls, want 20", n)
	}
}
