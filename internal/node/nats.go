package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"weir/internal/bus"
	"weir/internal/policy"
)

// NATS says in which NATS JetStream the node keeps its state. Without any
// setting it runs in the process and has no port.
type NATS struct {
	URL         string  `yaml:"url"`         // of an external NATS; several with commas between
	Credentials string  `yaml:"credentials"` // file, for url
	TLS         NATSTLS `yaml:"tls"`         // for url
	Replicas    int     `yaml:"replicas"`    // for url: how many of its servers keep each thing
	Cluster     Cluster `yaml:"cluster"`     // of the NATS in the process
}

// NATSTLS names files in PEM.
type NATSTLS struct {
	CA   string `yaml:"ca"`   // who signs the others' certificates; empty: whom the system trusts
	Cert string `yaml:"cert"` // our own
	Key  string `yaml:"key"`
}

// Cluster makes the NATS in the process a member of a cluster of Weir nodes.
type Cluster struct {
	Name     string        `yaml:"name"`   // the same in all of them; empty: no cluster
	Listen   Address       `yaml:"listen"` // for the other nodes
	Routes   []string      `yaml:"routes"` // host:port of their listen, of some at least
	User     string        `yaml:"user"`   // that they show each other
	Password policy.Secret `yaml:"password"`
	TLS      NATSTLS       `yaml:"tls"`
}

// Events says how long facts are kept.
type Events struct {
	MaxAge      time.Duration `yaml:"max_age"`
	MaxSize     policy.Size   `yaml:"max_size"`
	JournalSize policy.Size   `yaml:"journal_size"` // of facts that wait while NATS is away
}

// files are the settings that name files.
func (n *NATS) files() []*string {
	return []*string{&n.Credentials, &n.TLS.CA, &n.TLS.Cert, &n.TLS.Key, &n.Cluster.TLS.CA, &n.Cluster.TLS.Cert, &n.Cluster.TLS.Key}
}

func (n *NATS) check(add func(path, format string, args ...any)) {
	c := &n.Cluster
	if n.URL != "" {
		if err := bus.CheckURL(n.URL); err != nil {
			add("nats.url", "%v", err)
		}
		if c.Name != "" {
			add("nats.cluster", "is for the NATS in the process, and nats.url is that of another one")
		}
		if r := n.Replicas; r != 0 && r != 1 && r != 3 && r != 5 {
			add("nats.replicas", "must be 1, 3 or 5, not %d", r)
		}
	} else {
		if n.Credentials != "" || n.TLS != (NATSTLS{}) {
			add("nats", "credentials and tls go with url")
		}
		if n.Replicas != 0 {
			add("nats.replicas", "goes with url: the NATS in the process keeps everything once, and in a cluster three times")
		}
	}
	n.TLS.check("nats.tls", add)
	c.TLS.check("nats.cluster.tls", add)
	if c.Name == "" {
		if c.Listen != "" || len(c.Routes) > 0 || c.User != "" || !c.Password.IsZero() || c.TLS != (NATSTLS{}) {
			add("nats.cluster", "name is missing")
		}
		return
	}
	if !policy.ValidName(c.Name) {
		add("nats.cluster.name", "%.128q is not a name: %s", c.Name, policy.NameForm)
	}
	if !c.Listen.on() {
		add("nats.cluster", "listen is missing: the address at which the other nodes reach this one")
	}
	if len(c.Routes) == 0 {
		add("nats.cluster", "routes is missing: the addresses of the other nodes")
	}
	for i, r := range c.Routes {
		if host, port, err := net.SplitHostPort(r); err != nil || host == "" || port == "" {
			add(fmt.Sprintf("nats.cluster.routes[%d]", i), "must be host:port, where another node listens")
		}
	}
	if (c.User == "") != c.Password.IsZero() {
		add("nats.cluster", "needs both user and password")
	}
	if c.Listen.on() && !c.Listen.loopback() && c.User == "" && c.TLS.CA == "" {
		add("nats.cluster", "anybody who can reach %s could join the cluster: set user and password, or tls with a ca", c.Listen)
	}
}

func (t *NATSTLS) check(path string, add func(path, format string, args ...any)) {
	if (t.Cert == "") != (t.Key == "") {
		add(path, "needs both cert and key")
	}
}

// config returns the TLS that t asks for, or nil. Mutual says that both sides
// show certificates.
func (t *NATSTLS) config(mutual bool) (*tls.Config, error) {
	if *t == (NATSTLS{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", t.CA)
		}
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{cert}
	}
	if mutual && c.RootCAs != nil {
		c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// bus returns what bus.Open takes.
func (n *NATS) bus(node, dir string) (bus.Config, error) {
	b := bus.Config{Node: node, Dir: dir, URL: n.URL, Credentials: n.Credentials, Replicas: n.Replicas}
	var err error
	if b.TLS, err = n.TLS.config(false); err != nil {
		return b, fmt.Errorf("nats.tls: %w", err)
	}
	c := &n.Cluster
	if c.Name == "" {
		return b, nil
	}
	b.Cluster = &bus.Cluster{Name: c.Name, Listen: string(c.Listen), Routes: c.Routes, User: c.User, Password: c.Password.Reveal()}
	if b.Cluster.TLS, err = c.TLS.config(true); err != nil {
		return b, fmt.Errorf("nats.cluster.tls: %w", err)
	}
	return b, nil
}
