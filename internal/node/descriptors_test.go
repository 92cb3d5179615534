package node

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/internal/access"
)

// fewFiles makes TestFewDescriptors, in a process of its own, the server.
const fewFiles = "WEIR_TEST_FEW_FILES"

// F47: a server that is out of descriptors goes on with what it has, does not
// burn the processor, and accepts again when it can.
func TestFewDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	if os.Getenv(fewFiles) != "" {
		serveFewFiles(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFewDescriptors$", "-test.count=1")
	cmd.Env = append(os.Environ(), fewFiles+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close() // it ends
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	}()
	// What is used of the node here is where it listens.
	w := &world{t: t, log: &journal{}, Node: &Node{listeners: map[string]net.Listener{}}}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var addrs map[string]string
	if err := json.Unmarshal(line, &addrs); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for name, addr := range addrs {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		w.listeners[name] = elsewhere{addr: tcp}
	}

	e := w.encoder("live", "canary")
	e.configure()
	e.film(0, 1000)
	v := &viewer{way: access.FLV, done: make(chan struct{}), clocks: clocks{allowNegativeCTS: true}}
	r, leave, err := w.play(access.FLV, "live", "canary")
	if err != nil {
		t.Fatal(err)
	}
	v.leave = leave
	go v.run(r) // ends with the connection
	a := &audience{world: w, viewers: []*viewer{v}}
	t.Cleanup(a.leave)
	defer e.goOn()()
	a.reach(e.sent())
	a.strict(true)

	var conns []net.Conn
	for range 100 { // the kernel accepts them for the server
		conns = append(conns, w.dial("http"), w.dial("rtmp"))
	}
	a.reach(e.sent() + 1)
	begin, used := time.Now(), cpuTime(t, cmd.Process.Pid)
	a.reach(e.sent() + 50) // a second
	if used, took := cpuTime(t, cmd.Process.Pid)-used, time.Since(begin); used > took/4 {
		t.Errorf("the server takes %v of %v of a processor", used, took)
	}
	for _, c := range conns {
		c.Close()
	}
	until(t, "the server accepts again", patience, func() bool {
		r, leave, err := w.play(access.FLV, "live", "canary")
		if err != nil {
			return false
		}
		defer leave()
		_, err = r.ReadPacket()
		return err == nil
	})
	a.reach(e.sent())
	a.judge()
}

// serveFewFiles is a server with 64 descriptors, until standard input ends.
func serveFewFiles(t *testing.T) {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}); err != nil {
		t.Fatal(err)
	}
	n, err := New(testConfig(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	addrs := map[string]string{}
	for name := range n.listeners {
		addrs[name] = n.Addr(name).String()
	}
	if err := json.NewEncoder(os.Stdout).Encode(addrs); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, os.Stdin)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// elsewhere is a listener of another process.
type elsewhere struct {
	net.Listener
	addr net.Addr
}

func (e elsewhere) Addr() net.Addr { return e.addr }

// cpuTime returns how much of a processor a process has used.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	return time.Duration(atoi(fields[11])+atoi(fields[12])) * 10 * time.Millisecond // ticks of 100 Hz
}
