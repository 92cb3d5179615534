package access

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"weir/internal/policy"
)

func proxies(list ...string) (p Proxies) {
	for _, s := range list {
		var n policy.Network
		if err := n.UnmarshalText([]byte(s)); err != nil {
			panic(err)
		}
		p = append(p, n)
	}
	return p
}

// H41: X-Forwarded-For counts from proxies only, and of it what they have written.
func TestForwardedFor(t *testing.T) {
	tests := []struct {
		peer   string
		fields []string
		want   string
	}{
		{"198.51.100.1:9", []string{"192.0.2.1"}, "198.51.100.1:9"}, // no proxy
		{"10.0.0.1:9", nil, "10.0.0.1:9"},
		{"10.0.0.1:9", []string{""}, "10.0.0.1:9"},
		{"10.0.0.1:9", []string{"192.0.2.1"}, "192.0.2.1:0"},
		{"[::ffff:10.0.0.1]:9", []string{"192.0.2.1"}, "192.0.2.1:0"},
		{"10.0.0.1:9", []string{"192.0.2.1:77"}, "192.0.2.1:77"},
		{"10.0.0.1:9", []string{"2001:db8::1"}, "[2001:db8::1]:0"},
		{"10.0.0.1:9", []string{"[2001:db8::1]:77"}, "[2001:db8::1]:77"},
		{"10.0.0.1:9", []string{"[2001:db8::1]"}, "[2001:db8::1]:0"},
		{"10.0.0.1:9", []string{"1.1.1.1, 192.0.2.1"}, "192.0.2.1:0"}, // the client has sent the first
		{"10.0.0.1:9", []string{"1.1.1.1", "192.0.2.1"}, "192.0.2.1:0"},
		{"10.0.0.1:9", []string{"1.1.1.1, 192.0.2.1, 10.0.0.2"}, "192.0.2.1:0"},
		{"10.0.0.1:9", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},
		{"10.0.0.1:9", []string{"unknown"}, "10.0.0.1:9"},
		{"10.0.0.1:9", []string{"192.0.2.1, unknown, 10.0.0.2"}, "10.0.0.2:0"},
		{"10.0.0.1:9", []string{"192.0.2.1,"}, "10.0.0.1:9"},
		{"10.0.0.1:9", []string{"010.0.0.1"}, "10.0.0.1:9"},
	}
	for _, tt := range tests {
		var got string
		h := proxies("10.0.0.0/8").Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tt.peer
		r.Header["X-Forwarded-For"] = tt.fields
		h.ServeHTTP(nil, r)
		if got != tt.want || r.RemoteAddr != tt.peer {
			t.Errorf("%s with %q = %s, want %s", tt.peer, tt.fields, got, tt.want)
		}
	}
	var got string
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-For", "1.1.1.1")
	Proxies(nil).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr })).ServeHTTP(nil, r)
	if got != r.RemoteAddr {
		t.Errorf("without proxies: %s", got)
	}
}

// v2 is a PROXY header of version 2 with these bytes behind the fixed part.
func v2(command, family byte, rest string) string {
	b := append([]byte(proxyV2), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rest)))
	return string(b) + rest
}

var (
	v2IPv4 = v2(0x21, 0x11, "\xc0\x00\x02\x01\xc6\x33\x64\x01\x13\x88\x07\x8f")
	v2IPv6 = v2(0x21, 0x21, string(netip.MustParseAddr("2001:db8::1").AsSlice())+string(make([]byte, 16))+"\x13\x88\x07\x8f")
)

// From a proxy, and with what it sends first, byte by byte or at once.
func TestProxyProtocol(t *testing.T) {
	const peer = "itself"
	tests := []struct {
		name, sent, want string // want: the client's address; empty: closed
	}{
		{"v1", "PROXY TCP4 192.0.2.1 198.51.100.1 5000 1935\r\n", "192.0.2.1:5000"},
		{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 5000 1935\r\n", "[2001:db8::1]:5000"},
		{"v1, mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 1935\r\n", "192.0.2.1:5000"},
		{"v1, unknown", "PROXY UNKNOWN\r\n", peer},
		{"v1, unknown with more", "PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n", peer},
		{"v1, the longest", "PROXY UNKNOWN " + strings.Repeat("x", maxProxyV1-16) + "\r\n", peer},
		{"v1, too long", "PROXY UNKNOWN " + strings.Repeat("x", maxProxyV1) + "\r\n", ""},
		{"v1, no end", "PROXY TCP4 " + strings.Repeat("1", 300), ""},
		{"v1, LF only", "PROXY TCP4 192.0.2.1 198.51.100.1 5000 1935\n", ""},
		{"v1, other family", "PROXY TCP6 192.0.2.1 198.51.100.1 5000 1935\r\n", ""},
		{"v1, UDP", "PROXY UDP4 192.0.2.1 198.51.100.1 5000 1935\r\n", ""},
		{"v1, address", "PROXY TCP4 010.0.2.1 198.51.100.1 5000 1935\r\n", ""},
		{"v1, port", "PROXY TCP4 192.0.2.1 198.51.100.1 70000 1935\r\n", ""},
		{"v1, blanks", "PROXY TCP4  192.0.2.1 198.51.100.1 5000 1935\r\n", ""},
		{"v2", v2IPv4, "192.0.2.1:5000"},
		{"v2, IPv6", v2IPv6, "[2001:db8::1]:5000"},
		{"v2 with more", v2(0x21, 0x11, v2IPv4[16:]+"\x03\x00\x04abcd"), "192.0.2.1:5000"},
		{"v2, local", v2(0x20, 0x00, ""), peer},
		{"v2, local with more", v2(0x20, 0x11, v2IPv4[16:]), peer},
		{"v2, UDP", v2(0x21, 0x12, v2IPv4[16:]), peer},
		{"v2, Unix", v2(0x21, 0x31, strings.Repeat("x", 216)), peer},
		{"v2, the longest", v2(0x20, 0x00, strings.Repeat("x", maxProxyV2)), peer},
		{"v2, too long", v2(0x20, 0x00, strings.Repeat("x", maxProxyV2+1)), ""},
		{"v2, too short", v2(0x21, 0x11, v2IPv4[16:20]), ""},
		{"v2, version 3", v2(0x31, 0x11, v2IPv4[16:]), ""},
		{"v2, unknown command", v2(0x22, 0x11, v2IPv4[16:]), ""},
		{"none", "\x03rest", peer},
		{"none, HTTP", "GET / HTTP/1.1\r\n", peer},
		{"none, like v1", "POST / HTTP/1.1\r\n", peer},
		{"none, like v2", "\r\n\r\nGET / HTTP/1.1\r\n", peer},
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := proxies("127.0.0.0/8").Listener(inner)
	defer ln.Close()
	for _, tt := range tests {
		for _, bytewise := range []bool{false, true} {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			const payload = "payload"
			if bytewise {
				for i := range len(tt.sent) {
					c.Write([]byte(tt.sent[i : i+1]))
				}
				c.Write([]byte(payload))
			} else {
				io.WriteString(c, tt.sent+payload)
			}
			if tt.want == "" {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("%s: was not closed", tt.name)
				}
				c.Close()
				continue
			}
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == peer {
				want = c.LocalAddr().String()
			}
			if got := s.RemoteAddr().(*net.TCPAddr).String(); got != want {
				t.Errorf("%s: RemoteAddr = %s, want %s", tt.name, got, want)
			}
			wantRead := payload
			if strings.HasPrefix(tt.name, "none") {
				wantRead = tt.sent + payload
			}
			got := make([]byte, len(wantRead))
			if _, err := io.ReadFull(s, got); err != nil || string(got) != wantRead {
				t.Errorf("%s: read %q, %v, want %q", tt.name, got, err, wantRead)
			}
			s.Close()
			c.Close()
		}
	}
	// One that says nothing holds up nobody.
	silent, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "x")
	s, err := ln.Accept()
	if err != nil || s.RemoteAddr().String() != c.LocalAddr().String() {
		t.Fatalf("Accept = %v, %v", s, err)
	}
	s.Close()
	ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener = %v", err)
	}
}

// H41: who is no proxy cannot say that he is somebody else.
func TestProxyProtocolUntrusted(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := proxies("10.0.0.0/8").Listener(inner)
	defer ln.Close()
	for _, sent := range []string{v2IPv4, "PROXY TCP4 192.0.2.1 198.51.100.1 5000 1935\r\n"} {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, sent)
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(s, got); err != nil || string(got) != sent || s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("from %s read %q, %v", s.RemoteAddr(), got, err)
		}
	}
	if ln := proxies().Listener(inner); ln != inner {
		t.Error("a listener without proxies is another one")
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.1 5000 1935\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2IPv4))
	f.Add([]byte(v2IPv6))
	f.Add([]byte(v2(0x21, 0x31, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseProxyV1(string(b))
		if len(b) >= 16 {
			parseProxyV2(b)
		}
	})
}
