// Package bus is the NATS JetStream that a node keeps its state in: one that
// runs in this process, without any open port; one in this process that is a
// member of a cluster of Weir nodes; or one that somebody else runs. Whoever
// uses it cannot tell which it is.
//
// A member of a cluster opens a port for the routes of the others, and one on
// loopback, because the server wants it, whose password nobody knows.
//
// Open does not wait for an external NATS, nor for a cluster to have a
// majority: what is asked of JetStream before fails, and its user tries again.
package bus

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says which JetStream to use.
type Config struct {
	Node string // name of this node, unique in a cluster
	Dir  string // where a server in this process keeps its data

	// URL is that of an external NATS, or several with commas between. When it
	// is empty, a server runs in this process.
	URL         string
	Credentials string      // file with a JWT and its key, for URL
	Replicas    int         // how many servers of URL keep each thing; 0: one
	TLS         *tls.Config // for URL; nil: what the URL asks for, with the system's authorities

	Cluster *Cluster // of which the server in this process is a member; or nil
}

// CheckURL says what is wrong with a URL for Config.
func CheckURL(s string) error {
	for u := range strings.SplitSeq(s, ",") {
		p, err := url.Parse(strings.TrimSpace(u))
		if err != nil || p.Host == "" || p.Scheme != "nats" && p.Scheme != "tls" {
			return errors.New("must be a URL such as nats://nats.example.com:4222 or tls://nats.example.com:4222, or several with commas between")
		}
		if p.User != nil {
			return errors.New("must hold no password: set credentials to a file")
		}
	}
	return nil
}

// Cluster is what the nodes of a cluster tell each other.
type Cluster struct {
	Name           string
	Listen         string   // address for the routes of the others
	Routes         []string // host:port of the others; it does no harm to name this node, too
	User, Password string   // that members show each other; both empty: nobody is asked
	TLS            *tls.Config
}

// Replicas is how many members of a cluster of Weir nodes keep each thing.
const Replicas = 3

// Bus is a connection to JetStream, and perhaps the server behind it.
type Bus struct {
	server *server.Server // in this process, or nil

	user, password string // of server; empty: it asks nobody

	conn     *nats.Conn
	js       jetstream.JetStream
	replicas int
	shared   bool
}

// Open starts the server in this process, if cfg has one, and connects. The
// context bounds the start only. The caller ends the Bus with Close.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Bus, error) {
	b := &Bus{replicas: max(1, cfg.Replicas), shared: cfg.URL != "" || cfg.Cluster != nil}
	opts := []nats.Option{
		nats.Name("weir " + cfg.Node),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials are read again, and may be good by then
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now fails now: its sender decides
		nats.RetryOnFailedConnect(true),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS is away", "err", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("NATS is back", "server", c.ConnectedServerName()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { log.Warn("NATS", "err", err) }),
	}
	if cfg.URL == "" {
		if err := b.start(ctx, cfg, log); err != nil {
			return nil, err
		}
		opts = append(opts, nats.InProcessServer(b.server), nats.UserInfo(b.user, b.password))
	} else {
		if cfg.Credentials != "" {
			opts = append(opts, nats.UserCredentials(cfg.Credentials))
		}
		if cfg.TLS != nil {
			opts = append(opts, nats.Secure(cfg.TLS))
		}
	}
	var err error
	if b.conn, err = nats.Connect(cfg.URL, opts...); err != nil {
		b.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if b.js, err = jetstream.New(b.conn, jetstream.WithPublishAsyncTimeout(10*time.Second)); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// What the server in this process may use.
const (
	maxMemory  = 64 << 20 // of streams in memory
	maxStore   = 1 << 50  // of streams in files: each has a limit of its own
	maxPayload = 1 << 20
)

// start starts the server in this process.
func (b *Bus) start(ctx context.Context, cfg Config, log *slog.Logger) error {
	o := &server.Options{
		ServerName:             cfg.Node,
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		JetStream:              true,
		StoreDir:               cfg.Dir,
		SyncAlways:             true,
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      maxStore,
		MaxPayload:             maxPayload,
		DisableJetStreamBanner: true,
	}
	if c := cfg.Cluster; c != nil {
		b.replicas = Replicas
		if err := c.options(o); err != nil {
			return err
		}
		b.user, b.password = "weir", rand.Text()
		o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
		o.Username, o.Password = b.user, b.password
	}
	s, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("NATS in this process: %w", err)
	}
	logger := &natsLog{log: log.With("part", "nats")}
	s.SetLoggerV2(logger, false, false, false)
	b.server = s
	if c := cfg.Cluster; c == nil {
		s.Start()
	} else {
		go s.Start() // ends when the server does
	}
	ready := time.Now().Add(startTime(ctx))
	for logger.fatal() == nil && !s.ReadyForConnections(100*time.Millisecond) && time.Now().Before(ready) {
	}
	if err := logger.fatal(); err != nil || !s.JetStreamEnabled() {
		if err == nil {
			err = errSlow
		}
		s.Shutdown()
		return fmt.Errorf("NATS in this process, with its data in %s: %w", filepath.Clean(cfg.Dir), err)
	}
	return nil
}

// startTime is how long the server may take to start.
func startTime(ctx context.Context) time.Duration {
	d := time.Minute
	if t, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(t))
	}
	return d
}

// options makes o a member of c.
func (c *Cluster) options(o *server.Options) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("address of the cluster's listener: %w", err)
	}
	o.Cluster.Name, o.Cluster.Host = c.Name, host
	if o.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("address of the cluster's listener: %w", err)
	}
	if host == "" {
		o.Cluster.Host = "0.0.0.0"
	}
	o.Cluster.Port = cmp.Or(o.Cluster.Port, server.RANDOM_PORT)
	o.Cluster.Username, o.Cluster.Password = c.User, c.Password
	if o.Cluster.TLSConfig = c.TLS; c.TLS != nil {
		o.Cluster.TLSTimeout = 5
	}
	for _, r := range c.Routes {
		u := &url.URL{Scheme: "nats-route", Host: r}
		if c.User != "" {
			u.User = url.UserPassword(c.User, c.Password)
		}
		o.Routes = append(o.Routes, u)
	}
	return nil
}

// JetStream returns the JetStream.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// Conn returns the connection.
func (b *Bus) Conn() *nats.Conn { return b.conn }

// Replicas returns how many replicas a stream or bucket is to have.
func (b *Bus) Replicas() int { return b.replicas }

// Shared reports whether other nodes have the same JetStream.
func (b *Bus) Shared() bool { return b.shared }

// RouteAddr returns where a member of a cluster listens for the others; nil if
// the server is none.
func (b *Bus) RouteAddr() net.Addr {
	if b.server == nil || b.server.ClusterAddr() == nil {
		return nil
	}
	return b.server.ClusterAddr()
}

// Close ends the connection and the server in this process.
func (b *Bus) Close() {
	if b.conn != nil {
		b.conn.Close()
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
}

var errSlow = errors.New("it did not start in time")
