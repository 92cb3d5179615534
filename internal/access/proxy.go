package access

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/internal/policy"
)

// Proxies are the networks of the reverse proxies before this server: what they
// say about the addresses of clients is believed, and what anybody else says
// is not.
type Proxies []policy.Network

// Trust reports whether a is the address of a proxy.
func (p Proxies) Trust(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Handler returns h behind the proxies: the RemoteAddr of a request that comes
// from one is the client's, from X-Forwarded-For.
func (p Proxies) Handler(h http.Handler) http.Handler {
	if len(p) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err == nil && p.Trust(peer.Addr()) {
			behind := *r
			behind.RemoteAddr = p.client(peer, r.Header["X-Forwarded-For"]).String()
			r = &behind
		}
		h.ServeHTTP(w, r)
	})
}

// client returns the address of the client for whom a proxy at peer has sent
// these header fields. Each proxy adds, on the right, who came to it; so the
// client is the first from the right that is no proxy. What is further left it
// has made up, or could have.
func (p Proxies) client(peer netip.AddrPort, fields []string) netip.AddrPort {
	list := strings.Split(strings.Join(fields, ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		s := strings.TrimSpace(list[i])
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			a, err := netip.ParseAddr(strings.Trim(s, "[]"))
			if err != nil {
				break
			}
			ap = netip.AddrPortFrom(a, 0)
		}
		if peer = ap; !p.Trust(ap.Addr()) {
			break
		}
	}
	return peer
}

// headerTime is how long a proxy may take to say for whom it connects.
const headerTime = 5 * time.Second

// Listener returns ln behind the proxies: the RemoteAddr of a connection that
// comes from one is the client's if it begins with a PROXY protocol header, of
// version 1 or 2. One that begins with anything else is the proxy's own.
//
// The connections are *net.TCPConn, or have one embedded. The caller must Close
// the listener.
func (p Proxies) Listener(ln net.Listener) net.Listener {
	if len(p) == 0 {
		return ln
	}
	l := &proxyListener{Listener: ln, proxies: p, accepted: make(chan accepted), closed: make(chan struct{})}
	go l.run() // ends when the listener is closed
	return l
}

type proxyListener struct {
	net.Listener
	proxies  Proxies
	accepted chan accepted
	closed   chan struct{}
	once     sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

func (l *proxyListener) run() {
	for {
		c, err := l.Listener.Accept()
		tcp, ok := c.(*net.TCPConn)
		if err == nil && ok && l.proxies.Trust(tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
			go func() { // ends after headerTime, or when the listener is closed
				if c := proxied(tcp); c != nil {
					l.hand(accepted{conn: c})
				}
			}()
			continue
		}
		if !l.hand(accepted{c, err}) {
			return
		}
	}
}

// hand waits for Accept to take a. It reports false when nobody will.
func (l *proxyListener) hand(a accepted) bool {
	select {
	case l.accepted <- a:
		return true
	case <-l.closed:
		if a.conn != nil {
			a.conn.Close()
		}
		return false
	}
}

func (l *proxyListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *proxyListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// ProxiedConn is a connection of a client by way of a proxy.
type ProxiedConn struct {
	*net.TCPConn
	client net.Addr
}

// RemoteAddr is the client's.
func (c *ProxiedConn) RemoteAddr() net.Addr { return c.client }

// proxied returns c when it is known whose it is, or closes it and returns nil.
func proxied(c *net.TCPConn) net.Conn {
	c.SetReadDeadline(time.Now().Add(headerTime))
	client, err := readProxyHeader(c)
	if err != nil {
		c.Close()
		return nil
	}
	c.SetReadDeadline(time.Time{})
	if !client.IsValid() {
		return c
	}
	return &ProxiedConn{c, net.TCPAddrFromAddrPort(client)}
}

const (
	proxyV1 = "PROXY "
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"

	maxProxyV1 = 107  // bytes of a header of version 1, by its specification
	maxProxyV2 = 4096 // bytes that one of version 2 may have behind its first 16
)

var errProxyHeader = errors.New("malformed PROXY protocol header")

// readProxyHeader reads a PROXY protocol header off c, and not a byte more:
// what comes next may be read by others, from the descriptor. It returns no
// address if there is no header, or one without a client.
func readProxyHeader(c *net.TCPConn) (netip.AddrPort, error) {
	begin, err := peek(c, func(b []byte) bool {
		return !strings.HasPrefix(proxyV1, string(b)) && !strings.HasPrefix(proxyV2, string(b))
	})
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case strings.HasPrefix(string(begin), proxyV1):
		line, err := peek(c, func(b []byte) bool { return strings.Contains(string(b), "\n") || len(b) >= maxProxyV1 })
		if err != nil {
			return netip.AddrPort{}, err
		}
		end := strings.IndexByte(string(line), '\n') + 1
		if end == 0 || end > maxProxyV1 {
			return netip.AddrPort{}, errProxyHeader
		}
		header := make([]byte, end)
		if _, err := io.ReadFull(c, header); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read PROXY protocol header: %w", err)
		}
		return parseProxyV1(string(header))
	case strings.HasPrefix(string(begin), proxyV2):
		header := make([]byte, 16, 16+216)
		if _, err := io.ReadFull(c, header); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read PROXY protocol header: %w", err)
		}
		n := int(binary.BigEndian.Uint16(header[14:]))
		if n > maxProxyV2 {
			return netip.AddrPort{}, errProxyHeader
		}
		header = append(header, make([]byte, n)...)
		if _, err := io.ReadFull(c, header[16:]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read PROXY protocol header: %w", err)
		}
		return parseProxyV2(header)
	}
	return netip.AddrPort{}, nil
}

// peek returns what c has to read, without reading it, as soon as enough says so.
func peek(c *net.TCPConn, enough func([]byte) bool) (b []byte, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 256)
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK)
		switch {
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			failed = err
		case n == 0:
			failed = io.ErrUnexpectedEOF
		default:
			b = buf[:n]
			return enough(b) || n == len(buf)
		}
		return true
	})
	return b, errors.Join(err, failed)
}

// parseProxyV1 reads "PROXY TCP4 192.0.2.1 198.51.100.1 5000 1935\r\n".
func parseProxyV1(line string) (netip.AddrPort, error) {
	line, ok := strings.CutSuffix(line, "\r\n")
	f := strings.Split(line, " ")
	if !ok || len(f) < 2 {
		return netip.AddrPort{}, errProxyHeader
	}
	if f[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(f) != 6 {
		return netip.AddrPort{}, errProxyHeader
	}
	a, err := netip.ParseAddr(f[2])
	port, perr := strconv.ParseUint(f[4], 10, 16)
	if err != nil || perr != nil || a.Zone() != "" || !(f[1] == "TCP4" && a.Is4() || f[1] == "TCP6" && a.Is6()) {
		return netip.AddrPort{}, errProxyHeader
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), nil
}

// parseProxyV2 reads a header of version 2 whose length is right:
//
//	signature (12) | version, command (4 bits each) | family, transport (4 bits
//	each) | length (2) | source, destination, ports | more
func parseProxyV2(b []byte) (netip.AddrPort, error) {
	command, family, rest := b[12], b[13], b[16:]
	size := map[byte]int{0x11: 4, 0x21: 16}[family] // TCP over IPv4 and IPv6
	switch {
	case command == 0x20: // LOCAL: the proxy itself
		return netip.AddrPort{}, nil
	case command != 0x21:
		return netip.AddrPort{}, errProxyHeader
	case size == 0: // what has no address for us
		return netip.AddrPort{}, nil
	case len(rest) < 2*size+4:
		return netip.AddrPort{}, errProxyHeader
	}
	a, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}
