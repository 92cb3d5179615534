//go:build unix

package node

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"weir/internal/policy"
)

// H61: idle keep-alive connections, 1 000 or as many as WEIR_TEST_IDLE says,
// cost some memory each, hurt nobody, and are closed when they have been idle
// for long enough.
func TestIdleConnections(t *testing.T) {
	count := 1000
	if n, err := strconv.Atoi(os.Getenv("WEIR_TEST_IDLE")); err == nil {
		count = n
	}
	var limit syscall.Rlimit
	need := uint64(2*count + 500) // both ends are here
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Skip(err)
	}
	if limit.Cur < need {
		limit.Cur, limit.Max = need, max(need, limit.Max) // root may
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Skipf("needs %d files: %v", need, err)
		}
	}
	const idle = 3 * time.Second
	w := newWorld(t, func(c *Config, _ *policy.App) { c.Limits.HTTPIdle = idle })
	before, began := heap(), time.Now()
	conns := make([]net.Conn, count)
	for i := range conns {
		conns[i] = w.dial("http")
		defer conns[i].Close()
		if _, err := io.WriteString(conns[i], "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(conns[i], 512), &http.Request{Method: http.MethodHead})
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("connection %d: %v, %v", i, resp, err)
		}
	}
	opened := time.Since(began)
	each := (heap() - before) / int64(count)
	t.Logf("%d connections in %v, %d bytes each", count, opened, each)
	if opened < idle && each > 40<<10 {
		t.Errorf("an idle connection takes %d bytes, want 40 KiB at most", each)
	}
	w.crowd.reach(w.canary.sent() + 1)
	for i, nc := range conns {
		nc.SetReadDeadline(time.Now().Add(idle + patience))
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("connection %d: %v, want EOF", i, err)
		}
		nc.Close()
	}
	w.unharmed()
}

// heap returns the bytes in use of the heap and of stacks.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
