package storage_test

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

// tool returns the path of a program that "make tools" installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/tools/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs %s, which make tools installs", name)
	}
	return path
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

// freePort returns an address on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

const accessKey, secretKey = "weir", "a/secret+of the test"

// versitygw starts an S3 server with the bucket "weir" and returns its address.
func versitygw(t *testing.T, args ...string) string {
	t.Helper()
	program, addr, root := tool(t, "versitygw"), freePort(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "weir"), 0o700); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--port", addr, "--access", accessKey, "--secret", secretKey}, args...)
	start(t, "listening on", program, append(args, "posix", root)...)
	return addr
}

func bucket(addr string) (b policy.Bucket) {
	b.SetDefaults()
	b.Name, b.Type, b.Endpoint, b.Bucket = "remote", policy.BucketS3, policy.Endpoint("http://"+addr), "weir"
	b.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	b.AccessKey, b.SecretKey = accessKey, policy.NewSecret(secretKey)
	return b
}

func openS3(t *testing.T, b policy.Bucket, o storage.S3Options) *storage.S3 {
	t.Helper()
	s, err := storage.OpenS3(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestS3(t *testing.T) {
	addr := versitygw(t)
	for name, change := range map[string]func(*policy.Bucket){
		"plain":  func(*policy.Bucket) {},
		"prefix": func(b *policy.Bucket) { b.Prefix, b.Style = "some/where/", policy.BucketStylePath },
	} {
		t.Run(name, func(t *testing.T) {
			b := bucket(addr)
			change(&b)
			storagetest.Run(t, openS3(t, b, storage.S3Options{}), func() storage.Bucket { return openS3(t, b, storage.S3Options{}) })
		})
	}
}
