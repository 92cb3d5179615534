// Package bustest gives tests a NATS of somebody else, and addresses for a
// cluster of their own.
package bustest

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Server is a NATS with JetStream that listens on 127.0.0.1.
type Server struct {
	*server.Server
	t    testing.TB
	opts server.Options
}

// Serve starts a NATS, which ends with the test; change may change its options.
func Serve(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s := &Server{t: t, opts: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	}}
	for _, f := range change {
		f(&s.opts)
	}
	s.Resume()
	s.opts.Port = s.Addr().(*net.TCPAddr).Port
	t.Cleanup(s.Stop)
	return s
}

// Stop ends the server, until Resume.
func (s *Server) Stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

// Resume starts a server that was stopped at the same address, with what it had.
func (s *Server) Resume() {
	s.t.Helper()
	opts := s.opts
	var err error
	if s.Server, err = server.NewServer(&opts); err != nil {
		s.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.t.Fatal("NATS did not start")
	}
}

// Addresses returns n addresses of this machine, for members of a cluster that
// must know each other's before they listen. They are held until their listeners
// are closed.
func Addresses(t testing.TB, n int) (addrs []string, held []net.Listener) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs, held = append(addrs, ln.Addr().String()), append(held, ln)
	}
	return addrs, held
}
