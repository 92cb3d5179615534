package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weir/internal/access"
)

// listen opens the listener l behind the proxies. Dead peers are noticed by the
// kernel's probes after half a minute, whatever they were doing.
func listen(l listener, proxies access.Proxies, conns *connections, log *slog.Logger) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	ln, err := lc.Listen(context.Background(), "tcp", string(l.addr))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen.%s: %s is in use by another program; stop it, or set listen.%[1]s to another port or to off", l.name, l.addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen.%s: not allowed to listen on %s: ports below 1024 need root or the capability CAP_NET_BIND_SERVICE", l.name, l.addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen.%s: this machine does not have the address of %s", l.name, l.addr)
	case err != nil:
		return nil, fmt.Errorf("listen.%s: %w", l.name, err)
	}
	return &acceptor{Listener: proxies.Listener(ln), conns: conns, log: log.With("listener", l.name), closed: make(chan struct{})}, nil
}

// An acceptor is a listener that waits while the process is out of
// descriptors or the kernel out of memory, and refuses connections of an
// address that has too many.
type acceptor struct {
	net.Listener
	conns *connections
	log   *slog.Logger

	once   sync.Once
	closed chan struct{}
}

// Accept returns the next connection. Its errors are final.
func (a *acceptor) Accept() (net.Conn, error) {
	pause := time.Duration(0)
	for {
		c, err := a.Listener.Accept()
		if err == nil {
			if c = a.conns.admit(c); c != nil {
				return c, nil
			}
			continue
		}
		if !transient(err) {
			return nil, err
		}
		if pause == 0 {
			a.log.Error("cannot accept connections; waiting", "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-a.closed:
			return nil, net.ErrClosed
		}
	}
}

func (a *acceptor) Close() error {
	a.once.Do(func() { close(a.closed) })
	return a.Listener.Close()
}

// transient reports whether err may go away by itself. ECONNABORTED and the
// like are about a connection that was gone before it was accepted.
func transient(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPERM, syscall.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connections counts the connections of each address, an IPv6 network of 64
// bits being one, over all listeners that share it. It does nothing where the
// limit is 0.
type connections struct {
	limit   int
	proxies access.Proxies
	refused atomic.Int64

	mu   sync.Mutex
	open map[netip.Prefix]int
}

func newConnections(limit int, proxies access.Proxies) *connections {
	return &connections{limit: limit, proxies: proxies, open: make(map[netip.Prefix]int)}
}

// admit returns c, which will be counted until it is closed, or closes it and
// returns nil.
func (l *connections) admit(c net.Conn) net.Conn {
	tcp, ok := c.(tcpConn)
	if l.limit == 0 || !ok {
		return c
	}
	addr, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		c.Close()
		return nil
	}
	if l.proxies.Trust(addr.Addr()) { // it comes for many
		return c
	}
	who := access.Origin(addr.Addr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] >= l.limit {
		l.refused.Add(1)
		tcp.SetLinger(0) // costs us no TIME_WAIT
		tcp.Close()
		return nil
	}
	l.open[who]++
	return &countedConn{tcpConn: tcp, leave: sync.OnceFunc(func() { l.leave(who) })}
}

func (l *connections) leave(who netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] == 0 {
		delete(l.open, who)
	}
}

// tcpConn is a *net.TCPConn, or one by way of a proxy. Those who write to many
// need its descriptor, and those who part with a client its half close.
type tcpConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetLinger(int) error
}

type countedConn struct {
	tcpConn
	leave func()
}

func (c *countedConn) Close() error {
	c.leave()
	return c.tcpConn.Close()
}
