package callback

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/tracing"
)

// quick is a Delivery for receivers of this process that make one wait.
func quick() *policy.Delivery {
	d := new(policy.Delivery)
	d.SetDefaults()
	d.ConnectTimeout, d.Timeout = 300*time.Millisecond, 600*time.Millisecond
	d.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}}
	return d
}

func callTo(url string) *call {
	return &call{id: "id1", typ: event.TypePublishStarted, format: "v2", url: url, body: body{[]byte(`{"a":1}`), jsonType}, attempt: 3}
}

// raw is a receiver that writes whatever it likes to each connection after it
// has read the head of a request.
func raw(t *testing.T, say func(nc net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns atomic.Int32
	go func() { // ends when the listener is closed
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() { // ends with the connection, which the caller gives up
				defer nc.Close()
				http.ReadRequest(bufio.NewReader(nc))
				say(nc)
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return "http://" + ln.Addr().String() + "/live"
}

// H68, F31: whatever a receiver answers, a call is over in its time, and only
// 2xx is success.
func TestAnswers(t *testing.T) {
	quiet := log.New(io.Discard, "", 0)
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // only then the server sees who hangs up
			h(w, r)
		}))
		s.Config.ErrorLog = quiet
		s.Start()
		t.Cleanup(s.Close)
		return s.URL
	}
	var followed atomic.Bool
	internal := serve(func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	redirect := func(code int) string {
		return serve(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", internal)
			w.WriteHeader(code)
		})
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 16<<20))
	z.Close()
	until := func(nc net.Conn, text string, pause time.Duration) {
		for {
			if _, err := io.WriteString(nc, text); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
	tests := []struct {
		name, url string
		ok        bool
		err       string
		response  string
	}{
		{"200", serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine\xff") }), true, "", "fine\ufffd"},
		{"204", serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), true, "", ""},
		{"299", serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }), true, "", ""},
		{"404", serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such page", 404) }), false, "status 404", "no such page\n"},
		{"500", serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), false, "status 500", ""},
		{"301", redirect(301), false, "status 301: a redirect to \"127.0.0.1:", ""},
		{"302", redirect(302), false, "status 302: a redirect to", ""},
		{"307", redirect(307), false, "status 307: a redirect to", ""},
		{"308", redirect(308), false, "status 308: a redirect to", ""},
		{"304", serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }), false, "status 304: a redirect, which", ""},
		{"closes", serve(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), false, "EOF", ""},
		{"hangs", serve(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), false, "no answer within 600ms", ""},
		{"endless body", serve(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write(bytes.Repeat([]byte("x"), 4096))
			}
		}), true, "", strings.Repeat("x", 512)},
		{"gzip bomb", serve(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		}), true, "", strings.ToValidUTF8(bomb.String()[:512], "\ufffd")},
		{"slow body", raw(t, func(nc net.Conn) {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			until(nc, "x", 50*time.Millisecond)
		}), true, "", "x"},
		{"slow head", raw(t, func(nc net.Conn) { until(nc, "H", 50*time.Millisecond) }), false, "no answer within 600ms", ""},
		{"endless head", raw(t, func(nc net.Conn) {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\n")
			until(nc, "A: "+strings.Repeat("b", 1000)+"\r\n", 0)
		}), false, "exceeded", ""},
		{"1xx flood", raw(t, func(nc net.Conn) { until(nc, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 0) }), false, "exceeded", ""},
		{"bad chunks", raw(t, func(nc net.Conn) {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n")
		}), true, "", ""},
		{"no HTTP", raw(t, func(nc net.Conn) { io.WriteString(nc, "SSH-2.0-x\r\n") }), false, "malformed HTTP", ""},
		{"switches", raw(t, func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\n\r\n") }), false, "status 101", ""},
		{"not there", "http://127.0.0.1:1/", false, "connection refused", ""},
		{"no name", "http://does-not-exist.invalid/", false, "its name cannot be resolved", ""},
		{"not a URL", "http://[::1", false, "its URL is not one", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCaller(quick(), nil, nil)
			defer c.close()
			begin := time.Now()
			o := c.do(t.Context(), callTo(tt.url))
			if o.ok != tt.ok || !strings.Contains(o.err, tt.err) || (o.err == "") != tt.ok || !strings.HasPrefix(o.response, tt.response) || len(o.response) > 2048 {
				t.Errorf("outcome %+v, want %t, %q, %q", o, tt.ok, tt.err, tt.response)
			}
			if strings.Contains(o.err, tt.url) {
				t.Errorf("the error holds the URL: %s", o.err)
			}
			if d := time.Since(begin); d > 5*time.Second || o.latency > d {
				t.Errorf("took %v, and says %v", d, o.latency)
			}
		})
	}
	t.Cleanup(func() {
		if followed.Load() {
			t.Error("a redirect was followed")
		}
	})
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{pool: x509.NewCertPool()}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = certify(t, tpl, tpl, nil)
	a.pool.AddCert(a.cert)
	return a
}

func certify(t *testing.T, tpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = k
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, &k.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, k
}

// F32: a certificate that is not good is a failure, whose reason is said, and
// never http.
func TestCertificates(t *testing.T) {
	a := newAuthority(t)
	leaf := func(change func(*x509.Certificate)) tls.Certificate {
		tpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		if change != nil {
			change(tpl)
		}
		c, k := certify(t, tpl, a.cert, a.key)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: k}
	}
	self := func() tls.Certificate {
		tpl := &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		c, k := certify(t, tpl, tpl, nil)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: k}
	}
	tests := []struct {
		name   string
		config *tls.Config
		err    string
	}{
		{"good", &tls.Config{Certificates: []tls.Certificate{leaf(nil)}, NextProtos: []string{"h2", "http/1.1"}}, ""},
		{"good, HTTP/1.1", &tls.Config{Certificates: []tls.Certificate{leaf(nil)}, NextProtos: []string{"http/1.1"}}, ""},
		{"expired", &tls.Config{Certificates: []tls.Certificate{leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}, "its certificate is refused: x509: certificate has expired"},
		{"self-signed", &tls.Config{Certificates: []tls.Certificate{self()}}, "its certificate is refused: x509: certificate signed by unknown authority"},
		{"wrong name", &tls.Config{Certificates: []tls.Certificate{leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} })}}, "its certificate is refused: x509: "},
		{"TLS 1.0", &tls.Config{Certificates: []tls.Certificate{leaf(nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, "protocol version"},
		{"TLS 1.1", &tls.Config{Certificates: []tls.Certificate{leaf(nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proto := ""
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proto = r.Proto }))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.TLS = tt.config
			s.EnableHTTP2 = len(tt.config.NextProtos) == 2
			s.StartTLS()
			defer s.Close()
			c := newCaller(quick(), nil, a.pool)
			defer c.close()
			o := c.do(t.Context(), callTo(s.URL))
			if o.ok != (tt.err == "") || !strings.Contains(o.err, tt.err) {
				t.Errorf("outcome %+v, want %q", o, tt.err)
			}
			if want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[s.EnableHTTP2]; o.ok && proto != want {
				t.Errorf("called by %s, want %s", proto, want)
			}
		})
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	stalled := raw(t, func(net.Conn) { time.Sleep(400 * time.Millisecond) })
	for url, want := range map[string]string{
		strings.Replace(plain.URL, "http:", "https:", 1): "it does not speak TLS",
		strings.Replace(stalled, "http:", "https:", 1):   "no connection within 300ms",
	} {
		c := newCaller(quick(), nil, nil)
		o := c.do(t.Context(), callTo(url))
		c.close()
		if o.ok || !strings.Contains(o.err, want) {
			t.Errorf("outcome %+v, want %q", o, want)
		}
	}
}

// H67: wherever a name leads to this time, only what is allowed is dialled.
func TestPrivateAddresses(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was called") }))
	defer s.Close()
	d := quick()
	d.AllowNetworks = nil
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0", "10.0.0.1", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"} {
		c := newCaller(d, nil, nil)
		o := c.do(t.Context(), callTo("http://"+host+":"+port+"/"))
		c.close()
		if o.ok || !strings.Contains(o.err, "not on the public Internet") {
			t.Errorf("%s: outcome %+v", host, o)
		}
	}
	// An environment that names a proxy changes nothing.
	t.Setenv("HTTP_PROXY", s.URL)
	t.Setenv("http_proxy", s.URL)
	c := newCaller(d, nil, nil)
	defer c.close()
	if o := c.do(t.Context(), callTo("http://127.0.0.1:1/")); o.ok || !strings.Contains(o.err, "not on the public Internet") {
		t.Errorf("with a proxy in the environment: %+v", o)
	}
}

// H100: connections are kept, each for its own receiver, and one that the
// receiver has closed meanwhile costs no attempt.
func TestConnections(t *testing.T) {
	var opened atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Header.Get("Idempotency-Key") != "" || r.Header.Get("Accept-Encoding") != "" || r.Header.Get(HeaderAttempt) != "3" {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		io.Copy(w, io.LimitReader(r.Body, 10))
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newCaller(quick(), nil, nil)
	defer c.close()
	for range 10 {
		if o := c.do(t.Context(), callTo(s.URL)); !o.ok || o.response != `{"a":1}` {
			t.Fatalf("outcome %+v", o)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for ten calls, want 1", n)
	}
	for range 20 {
		s.CloseClientConnections()
		if o := c.do(t.Context(), callTo(s.URL)); !o.ok {
			t.Fatalf("after the receiver closed its connections: %+v", o)
		}
	}
}

// A call is a part of the trace of its push, and says so to the receiver.
func TestCallIsTraced(t *testing.T) {
	const sequence = "0af7651916cd43dd8448eb211c80319c"
	spans := tracetest.NewInMemoryExporter()
	tr, err := tracing.Open(t.Context(), tracing.Options{Sample: 1, Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	parent := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parent <- r.Header.Get("Traceparent")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer s.Close()
	c := newCaller(quick(), nil, nil)
	defer c.close()
	k := callTo(s.URL)
	k.push = sequence
	if o := c.do(tracing.With(t.Context(), tr), k); o.status != http.StatusTeapot {
		t.Fatalf("outcome %+v", o)
	}
	if p := <-parent; len(p) != 55 || p[3:35] != sequence {
		t.Errorf("traceparent is %q, want one of %s", p, sequence)
	}
	tr.Flush(t.Context())
	if got := spans.GetSpans(); len(got) != 1 || got[0].Name != "callback" || got[0].SpanContext.TraceID().String() != sequence || got[0].Status.Description != "status 418" {
		t.Errorf("spans are %+v", got)
	}
	tr.Close(t.Context())
	if o := c.do(t.Context(), k); o.status != http.StatusTeapot || <-parent != "" {
		t.Errorf("without tracing: %+v", o)
	}
}
