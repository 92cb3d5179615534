package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ports returns the TCP ports on which this process listens, as the kernel has
// them.
func ports(t *testing.T) map[string]bool {
	t.Helper()
	mine := map[string]bool{} // inodes
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.Trim(to, "socket:[]")] = true
		}
	}
	list := map[string]bool{}
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			const local, state, inode, listening = 1, 3, 9, "0A"
			if f := strings.Fields(line); len(f) > inode && f[state] == listening && mine[f[inode]] {
				list[f[local][strings.LastIndexByte(f[local], ':')+1:]] = true
			}
		}
	}
	return list
}

// H50: a node has the ports that it is told to have and no others: neither NATS
// nor its monitor, nor one for other nodes.
func TestPorts(t *testing.T) {
	before := ports(t)
	n, _, _ := start(t, testConfig(t))
	publish(t, n, "s").Close()
	want := map[string]bool{}
	for name, ln := range n.listeners {
		addr := ln.Addr().String()
		var port int
		if _, err := fmt.Sscan(addr[strings.LastIndexByte(addr, ':')+1:], &port); err != nil {
			t.Fatalf("%s listens at %s: %v", name, addr, err)
		}
		want[fmt.Sprintf("%04X", port)] = true
	}
	for port := range ports(t) {
		if !before[port] && !want[port] {
			t.Errorf("it listens at the port 0x%s, too", port)
		}
		delete(want, port)
	}
	if len(want) > 0 {
		t.Errorf("nobody is seen to listen at %v", want)
	}
}
