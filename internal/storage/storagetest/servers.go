package storagetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"weir/internal/policy"
)

// Credentials of the server that S3 starts.
const AccessKey, SecretKey = "weir", "a/secret+of=the.test"

// S3 starts a real S3 server (versitygw) with the bucket "weir" until the test
// ends, and returns its address. The test is skipped where make tools has not
// installed one.
func S3(t *testing.T, args ...string) string {
	t.Helper()
	program, addr, root := tool(t, "versitygw"), FreePort(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "weir"), 0o700); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--port", addr, "--access", AccessKey, "--secret", SecretKey}, args...)
	start(t, "listening on", program, append(args, "posix", root)...)
	return addr
}

// Bucket is the policy of the bucket of the S3 server at addr, or of what
// stands before it.
func Bucket(addr string) (b policy.Bucket) {
	b.SetDefaults()
	b.Name, b.Type, b.Endpoint, b.Bucket = "remote", policy.BucketS3, policy.Endpoint("http://"+addr), "weir"
	b.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	b.AccessKey, b.SecretKey = AccessKey, policy.NewSecret(SecretKey)
	return b
}

// Client is another client of the S3 server at addr, which knows nothing of Weir.
func Client(t *testing.T, addr string) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(addr, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Toxiproxy is a proxy before a server that can be told to break connections.
type Toxiproxy struct {
	t     *testing.T
	admin string
	Addr  string
}

// NewToxiproxy starts one until the test ends.
func NewToxiproxy(t *testing.T, upstream string) *Toxiproxy {
	t.Helper()
	p := &Toxiproxy{t, FreePort(t), FreePort(t)}
	host, port, err := net.SplitHostPort(p.admin)
	if err != nil {
		t.Fatal(err)
	}
	start(t, "Starting Toxiproxy HTTP server", tool(t, "toxiproxy"), "-host", host, "-port", port)
	// Its log says that it starts, not that it has: a connection says that.
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", p.admin)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	p.call("POST", "/proxies", map[string]any{"name": "s3", "listen": p.Addr, "upstream": upstream, "enabled": true})
	return p
}

func (p *Toxiproxy) call(method, path string, body any) {
	p.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.NewRequest(method, "http://"+p.admin+path, bytes.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		said, _ := io.ReadAll(resp.Body)
		p.t.Fatalf("toxiproxy: %s %s: %s %s", method, path, resp.Status, said)
	}
}

// Enable lets connections through, or none.
func (p *Toxiproxy) Enable(on bool) {
	p.t.Helper()
	p.call("POST", "/proxies/s3", map[string]any{"enabled": on})
}

// Toxic adds one and returns what takes it away.
func (p *Toxiproxy) Toxic(kind, stream string, attributes map[string]any) func() {
	p.t.Helper()
	p.call("POST", "/proxies/s3/toxics", map[string]any{"name": kind, "type": kind, "stream": stream, "attributes": attributes})
	return func() { p.call("DELETE", "/proxies/s3/toxics/"+kind, nil) }
}

// Middleman is a proxy that sees the requests: fault may answer one itself, and
// returns true then.
func Middleman(t *testing.T, upstream string, fault func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool) string {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: upstream}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r, proxy) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// tool returns the path of a program that "make tools" installs: bin/tools of
// the module that the test is of.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		path := filepath.Join(dir, "bin", "tools", name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Skipf("needs %s, which make tools installs", name)
		}
		dir = up
	}
}

// start runs a program until the test ends; it is ready when a line of its output has the text.
func start(t *testing.T, ready string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	is := make(chan bool, 1)
	done := make(chan struct{})
	go func() { // ends when the program does
		defer close(done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), ready) {
				select {
				case is <- true:
				default:
				}
			}
		}
		close(is)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	select {
	case ok := <-is:
		if !ok {
			t.Fatalf("%s ended", name)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not ready after 30s", name)
	}
}

// FreePort returns an address on which nobody listens.
func FreePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
