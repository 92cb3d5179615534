//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for anything that should happen soon.
const patience = 30 * time.Second

// defaultConfig is what a script gets that has no opinion: the defaults, with a
// hold short enough not to wait for.
const defaultConfig = `listen:
  rtmp: $RTMP_ADDR
  http: $HTTP_ADDR
  admin: $ADMIN_ADDR
policy:
  spaces:
    - name: default
      domains: [{name: "*"}]
      apps: [{name: live, hold: 1s}]
`

// A server is the weir that a script has started.
type server struct {
	cmd    *exec.Cmd
	log    string        // file that gets its output
	told   bool          // to end: a second SIGTERM would be a harder word
	exited chan struct{} // closed after err is set
	err    error
}

var errNotServing = errors.New("no weir is running: serve first")

type serverKey struct{}

func current(ts *testscript.TestScript) *server {
	s, _ := ts.Value(serverKey{}).(**server)
	if s == nil || *s == nil {
		ts.Check(errNotServing)
	}
	return *s
}

// serve [FLAG...]
//
// Starts weir serve with the flags, or with defaultConfig when there are none,
// and returns when it says that it is ready. Its output goes to weir.log.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("serve cannot be negated: exec weir serve instead")
	}
	if len(args) == 0 {
		config := os.Expand(defaultConfig, ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs("default.yaml"), []byte(config), 0o644))
		args = []string{"-c", "default.yaml"}
	}
	s, err := startServer(filepath.Join(binDir, "weir"), ts.MkAbs("."), ts.MkAbs("weir.log"), append(os.Environ(), "PATH="+ts.Getenv("PATH"), "GORACE="+ts.Getenv("GORACE"), "XDG_STATE_HOME="+ts.Getenv("XDG_STATE_HOME")), args...)
	ts.Check(err)
	*ts.Value(serverKey{}).(**server) = s
	ts.Setenv("WEIR_PID", strconv.Itoa(s.cmd.Process.Pid))
	ts.Defer(func() { s.kill() })
	ts.Check(s.ready(ts.Getenv("ADMIN")))
}

// startServer starts weir, the binary, as weir serve in dir; its output is
// appended to the file log.
func startServer(weir, dir, log string, env []string, args ...string) (*server, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s := &server{log: log, exited: make(chan struct{})}
	s.cmd = exec.Command(weir, append([]string{"serve"}, args...)...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = dir, env, out, out
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	// Ends with the process, which stop or kill ends.
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	return s, nil
}

// ready returns when the server answers that it is.
func (s *server) ready(admin string) error {
	err := poll(patience, func() error {
		select {
		case <-s.exited:
			return fmt.Errorf("weir exited: %v", s.err)
		default:
		}
		_, err := get(http.MethodGet, admin+"/readyz", http.StatusOK, nil)
		return err
	})
	if err != nil {
		out, _ := os.ReadFile(s.log)
		return fmt.Errorf("weir is not ready: %w\n%s", err, out)
	}
	return nil
}

// stop asks the server to end and checks that it did so in time and in peace.
func (s *server) stop() error {
	if err := s.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.cmd.Process.Signal(syscall.SIGQUIT) // leaves its goroutines in the log
		<-s.exited
		return fmt.Errorf("weir still ran %v after SIGTERM", patience)
	}
	out, err := os.ReadFile(s.log)
	if err != nil {
		return err
	}
	if s.err != nil || bytes.Contains(out, []byte("DATA RACE")) || bytes.Contains(out, []byte("panic:")) {
		return fmt.Errorf("weir ended badly: %v\n%s", s.err, out)
	}
	return nil
}

func (s *server) signal(sig syscall.Signal) error {
	if sig == syscall.SIGTERM {
		if s.told {
			return nil
		}
		s.told = true
	}
	return s.cmd.Process.Signal(sig)
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// signal NAME
//
// Sends the signal to weir; KILL also waits for its end.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}
	if !neg && len(args) == 1 && args[0] == "KILL" {
		current(ts).kill()
		return
	}
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal HUP|TERM|KILL")
	}
	ts.Check(current(ts).signal(signals[args[0]]))
}

// stop-weir
//
// Sends SIGTERM to weir and checks that it exits with status 0 and has seen
// neither a data race nor a panic.
func cmdStop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: stop-weir")
	}
	ts.Check(current(ts).stop())
}

// [!] await [-t=SECONDS] URL STATUS [REGEXP]
//
// Waits until the URL answers with the status and a body that matches; the
// body is then the output for stdout, cmp and so on. An address that ends in
// .flv is asked with HEAD, which answers for a live stream without opening
// it. With !, waits until it no longer does.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	set, rest := flags(ts, args, -1, "-t=")
	if len(rest) != 2 && len(rest) != 3 {
		ts.Fatalf("usage: await [-t=SECONDS] URL STATUS [REGEXP]")
	}
	limit := patience
	if t := set["-t"]; t != "" {
		seconds, err := strconv.Atoi(t)
		ts.Check(err)
		limit = time.Duration(seconds) * time.Second
	}
	status, err := strconv.Atoi(rest[1])
	ts.Check(err)
	var body *regexp.Regexp
	if len(rest) == 3 {
		body, err = regexp.Compile("(?m)" + rest[2])
		ts.Check(err)
	}
	method := http.MethodGet
	if strings.HasSuffix(strings.SplitN(rest[0], "?", 2)[0], ".flv") {
		method = http.MethodHead
	}
	var answer []byte
	ts.Check(poll(limit, func() (err error) {
		answer, err = get(method, rest[0], status, body)
		if neg && err == nil {
			return fmt.Errorf("%s still answers %s %v", rest[0], rest[1], rest[2:])
		}
		if neg {
			return nil
		}
		return err
	}))
	ts.Stdout().Write(answer)
}

// await-file FILE REGEXP
//
// Waits until the file has a part that matches.
func cmdAwaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await-file FILE REGEXP")
	}
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	ts.Check(poll(patience, func() error {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && !want.Match(b) {
			err = fmt.Errorf("%s has no %q:\n%s", args[0], args[1], b)
		}
		return err
	}))
}

// poll calls f until it returns nil. It returns f's last error when that takes
// longer than limit.
func poll(limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// client trusts every certificate: the scripts make their own.
var client = &http.Client{
	Timeout:   patience,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
}

// get returns what url answers if that has the status and, unless want is nil,
// matches it.
func get(method, url string, status int, want *regexp.Regexp) ([]byte, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != status || want != nil && !want.Match(body) {
		return nil, fmt.Errorf("%s %s: %s\n%s", method, url, resp.Status, body)
	}
	return body, nil
}

// expand FILE...
//
// Replaces $NAME and ${NAME} in the files by the script's variables.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, name := range args {
		b := ts.ReadFile(name)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(b, ts.Getenv)), 0o644))
	}
}

// keypair NAME
//
// Writes cert.pem and key.pem, a self-signed certificate for NAME and for the
// address that the script's servers listen on.
func cmdKeypair(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keypair NAME")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	host, _, err := net.SplitHostPort(ts.Getenv("RTMPS_ADDR"))
	ts.Check(err)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: args[0]},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{args[0]},
		IPAddresses:           []net.IP{net.ParseIP(host)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	// Both in one piece each, so that a server that watches them never reads half.
	for name, block := range map[string]*pem.Block{
		"key.pem":  {Type: "PRIVATE KEY", Bytes: secret},
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name+".new"), pem.EncodeToMemory(block), 0o600))
		ts.Check(os.Rename(ts.MkAbs(name+".new"), ts.MkAbs(name)))
	}
}
