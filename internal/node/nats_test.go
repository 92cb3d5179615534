package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"weir/internal/bus"
	"weir/internal/bus/bustest"
	"weir/internal/cluster"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.make("ca", a.cert)
	return a
}

// make makes a certificate and its key, and writes both to files.
func (a *authority) make(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(int64(a.n)), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if signer == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writeFile(a.t, a.file(name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	writeFile(a.t, a.file(name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// files returns those of a new certificate for 127.0.0.1, good for both roles.
func (a *authority) files(name string) NATSTLS {
	a.t.Helper()
	a.make(name, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return NATSTLS{CA: a.file("ca.pem"), Cert: a.file(name + ".pem"), Key: a.file(name + ".key")}
}

// An external NATS that speaks TLS and wants to see a certificate: a node that
// has what it takes works, and one that has not gets nothing.
func TestNATSOverTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	cfg := ours.files("nats")
	serverTLS, err := cfg.config(true)
	if err != nil {
		t.Fatal(err)
	}
	nats := bustest.Serve(t, func(o *server.Options) { o.TLSConfig, o.TLSVerify, o.TLSTimeout = serverTLS, true, 5 })
	url := "tls://" + nats.Addr().String()

	good := ours.files("weir")
	c := testConfig(t)
	c.NATS = NATS{URL: url, TLS: good}
	n, _, _ := start(t, c)
	publish(t, n, "s").Close()
	facts(t, n, eventlog.Filter{}, event.TypePublishEnded)
	if _, text := get(t, n.url("admin", "/readyz")); text != "ok\n" {
		t.Errorf("readiness is %q", text)
	}
	for name, files := range map[string]NATSTLS{
		"no certificate":                 {CA: good.CA},
		"a certificate of somebody else": {CA: good.CA, Cert: others.files("x").Cert, Key: others.file("x.key")},
		"another authority":              {CA: others.file("ca.pem"), Cert: good.Cert, Key: good.Key},
	} {
		c := NATS{URL: url, TLS: files}
		cfg, err := c.bus("x", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b, err := bus.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.JetStream().AccountInfo(t.Context()); err == nil {
			t.Errorf("with %s there is a NATS", name)
		}
		b.Close()
	}
}

// operator runs a NATS whose users show what it has signed.
type operator struct {
	t   *testing.T
	key nkeys.KeyPair
	jwt *jwt.OperatorClaims
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{t: t}
	var id string
	o.key, id = o.pair(nkeys.CreateOperator)
	var err error
	if o.jwt, err = jwt.DecodeOperatorClaims(o.sign(jwt.NewOperatorClaims(id), o.key)); err != nil {
		t.Fatal(err)
	}
	return o
}

// pair makes a pair of keys, and returns it with its name.
func (o *operator) pair(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	o.t.Helper()
	key, err := create()
	if err != nil {
		o.t.Fatal(err)
	}
	id, err := key.PublicKey()
	if err != nil {
		o.t.Fatal(err)
	}
	return key, id
}

func (o *operator) sign(c jwt.Claims, by nkeys.KeyPair) string {
	o.t.Helper()
	text, err := c.Encode(by)
	if err != nil {
		o.t.Fatal(err)
	}
	return text
}

// account makes one that may do all that JetStream can, or nothing of that.
func (o *operator) account(jetStream bool) (key nkeys.KeyPair, id, text string) {
	o.t.Helper()
	key, id = o.pair(nkeys.CreateAccount)
	c := jwt.NewAccountClaims(id)
	if jetStream {
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	}
	return key, id, o.sign(c, o.key)
}

// credentials writes those of a user of an account to a file.
func (o *operator) credentials(file string, account nkeys.KeyPair, change func(*jwt.UserClaims)) {
	o.t.Helper()
	key, id := o.pair(nkeys.CreateUser)
	c := jwt.NewUserClaims(id)
	if change != nil {
		change(c)
	}
	seed, err := key.Seed()
	if err != nil {
		o.t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(o.sign(c, account), seed)
	if err != nil {
		o.t.Fatal(err)
	}
	writeFile(o.t, file, string(text))
}

// An external NATS that wants credentials: a node works by those of a file, reads
// it again when it connects again, and gets nothing with others or none.
func TestNATSCredentials(t *testing.T) {
	ours, others := newOperator(t), newOperator(t)
	account, id, text := ours.account(true)
	foreign, _, _ := others.account(true)
	unknown, _, _ := ours.account(true)
	_, system, systemText := ours.account(false)
	accounts := new(server.MemAccResolver)
	for id, text := range map[string]string{id: text, system: systemText} {
		if err := accounts.Store(id, text); err != nil {
			t.Fatal(err)
		}
	}
	nats := bustest.Serve(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{ours.jwt}, accounts, system
	})

	good, bad := filepath.Join(t.TempDir(), "weir.creds"), filepath.Join(t.TempDir(), "bad.creds")
	ours.credentials(good, account, nil)
	c := testConfig(t)
	c.NATS = NATS{URL: nats.ClientURL(), Credentials: good}
	n, _, _ := start(t, c)
	publish(t, n, "s").Close()
	facts(t, n, eventlog.Filter{Stream: "s"}, event.TypePublishEnded)
	if _, text := get(t, n.url("admin", "/readyz")); text != "ok\n" {
		t.Errorf("readiness is %q", text)
	}

	open := func(credentials string) *bus.Bus {
		t.Helper()
		b, err := bus.Open(t.Context(), bus.Config{Node: "x", URL: nats.ClientURL(), Credentials: credentials}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	works := func(b *bus.Bus) bool {
		_, err := b.JetStream().AccountInfo(t.Context())
		return err == nil
	}
	for what, write := range map[string]func() string{
		"no credentials":                              func() string { return "" },
		"those of another operator":                   func() string { others.credentials(bad, foreign, nil); return bad },
		"those that are no more valid":                func() string { ours.credentials(bad, account, func(c *jwt.UserClaims) { c.Expires = 1 }); return bad },
		"those of an account that NATS does not know": func() string { ours.credentials(bad, unknown, nil); return bad },
	} {
		if b := open(write()); works(b) {
			t.Errorf("with %s there is a NATS", what)
		}
	}
	late := open(bad)
	if works(late) {
		t.Error("there is a NATS without the right credentials")
	}
	ours.credentials(bad, account, nil)
	eventually(t, "the new credentials to be used", func() bool { return works(late) })

	// NATS restarts, and takes the node's new credentials.
	nats.Stop()
	ours.credentials(good, account, nil)
	nats.Resume()
	publish(t, n, "again").Close()
	facts(t, n, eventlog.Filter{Stream: "again"}, event.TypePublishEnded)
}

// member is the node of a cluster that test makes.
type member struct {
	*Node
	stop func() error
}

// Three nodes keep everything three times, over routes that are encrypted and
// of which each end shows a certificate. One dies: facts and policy go on. It
// comes back, and has what happened.
//
// It takes as long as the members of NATS need to agree on some twenty things.
func TestClusterOfNodes(t *testing.T) {
	if os.Getenv("WEIR_LONG") == "" {
		t.Skip("set WEIR_LONG=1: it takes a minute on a busy machine")
	}
	ca := newAuthority(t)
	keys := filepath.Join(t.TempDir(), "secrets.key")
	if _, err := cluster.ReadKeys(keys, true); err != nil {
		t.Fatal(err)
	}
	routes, held := bustest.Addresses(t, 3)
	configs := make([]*Config, 3)
	for i := range configs {
		held[i].Close()
		c := testConfig(t)
		c.Node, c.Secrets.KeyFile = fmt.Sprint("n", i), keys
		c.NATS.Cluster = Cluster{Name: "c", Listen: Address(routes[i]), Routes: routes, TLS: ca.files(fmt.Sprint("n", i))}
		configs[i] = c
	}
	nodes := make([]member, 3)
	var all sync.WaitGroup // none is there before there are two
	for i := range nodes {
		all.Go(func() {
			n, _, stop := start(t, configs[i])
			nodes[i] = member{n, stop}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	complete := func(n *Node) {
		t.Helper()
		until(t, "the stream of facts has three members", 2*time.Minute, func() bool {
			s, err := n.bus.JetStream().Stream(t.Context(), "weir-facts")
			if err != nil {
				return false
			}
			info, err := s.Info(t.Context())
			if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
				return false
			}
			for _, r := range info.Cluster.Replicas {
				if !r.Current || r.Offline {
					return false
				}
			}
			return !n.events.Health().Degraded
		})
	}
	for _, m := range nodes {
		complete(m.Node)
	}
	if s := conn(t, routes[0], nil); s {
		t.Error("a route can be had without a certificate")
	}
	if s := conn(t, routes[0], newAuthority(t)); s {
		t.Error("a route can be had with the certificate of somebody else")
	}

	has := func(n *Node, app string) func() bool {
		return func() bool { return n.Policy().Space("default").App(app) != nil }
	}
	apply := func(n *Node, app string, on ...*Node) {
		t.Helper()
		set := policy.Default()
		set.Spaces[0].Apps = append(set.Spaces[0].Apps, policy.DefaultApp(app))
		eventually(t, "the policy takes "+app, func() bool {
			_, err := n.policy.Apply(t.Context(), set, false, false, cluster.Author{By: "test"})
			return err == nil
		})
		for _, o := range on {
			eventually(t, app+" is on "+o.name, has(o, app))
		}
	}
	push := func(n *Node, name string, on ...*Node) {
		t.Helper()
		publish(t, n, name).Close()
		for _, o := range on {
			if list := facts(t, o, eventlog.Filter{Stream: name}, event.TypePublishEnded); typesOf(list) != "publish.started publish.ended" {
				t.Errorf("%s has of %s: %s", o.name, name, typesOf(list))
			}
		}
	}
	everybody := []*Node{nodes[0].Node, nodes[1].Node, nodes[2].Node}
	apply(nodes[0].Node, "before", everybody...)
	push(nodes[1].Node, "before", everybody...)

	if err := nodes[2].stop(); err != nil {
		t.Fatal(err)
	}
	apply(nodes[1].Node, "without", nodes[0].Node, nodes[1].Node)
	for i := range 5 {
		push(nodes[i%2].Node, fmt.Sprint("without", i), nodes[0].Node, nodes[1].Node)
	}

	n, _, _ := start(t, configs[2])
	eventually(t, "it has the policy", has(n, "without"))
	eventually(t, "its log is there", func() bool { return !n.events.Health().Degraded })
	for i := range 5 {
		if list := facts(t, n, eventlog.Filter{Stream: fmt.Sprint("without", i)}, event.TypePublishEnded); typesOf(list) != "publish.started publish.ended" {
			t.Errorf("when it is back it has: %s", typesOf(list))
		}
	}
	// What it has, it keeps: another one may go.
	complete(n)
	if err := nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	apply(n, "after", n, nodes[1].Node)
	push(n, "after", n, nodes[1].Node)
}

// conn reports whether a route takes who shows what a has signed, or nothing.
func conn(t *testing.T, route string, a *authority) bool {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if a != nil {
		f := a.files("x")
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	nc, err := net.Dial("tcp", route)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	// A route begins with the INFO of the server, in the clear; then comes TLS.
	line := make([]byte, 0, 4096)
	for b := make([]byte, 1); len(line) < cap(line); {
		if _, err := nc.Read(b); err != nil {
			return false
		}
		if line = append(line, b[0]); b[0] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(string(line), "INFO ") {
		t.Fatalf("a route begins with %q", line)
	}
	c := tls.Client(nc, cfg)
	if err := c.Handshake(); err != nil {
		return false
	}
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	n, err := c.Read(make([]byte, 1)) // with TLS 1.3 the refusal comes now
	return err == nil && n == 1
}
