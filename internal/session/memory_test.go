package session

import (
	"net"
	"runtime"
	"syscall"
	"testing"

	"weir/internal/access"
)

// A player over HTTP-FLV that keeps up may take 12 KB of the server's memory.
// The clients are bare descriptors, so that what is measured is the server's.
func TestPlayerMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens hundreds of connections")
	}
	const players, most = 400, 12 << 10
	n := start(t, Options{})
	p := n.publish(t, "s")
	p.wait(n, key)
	addr := n.http.Listener.Addr().(*net.TCPAddr)
	to := &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	play := func(count int) {
		request := []byte("GET /live/s.flv HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n\r\n")
		for range count {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Close(fd) })
			if err := syscall.Connect(fd, to); err != nil {
				t.Fatal(err)
			}
			if _, err := syscall.Write(fd, request); err != nil {
				t.Fatal(err)
			}
		}
	}
	memory := func(count int) uint64 {
		until(t, func() bool {
			return n.Stats().Active[Kind{access.Play, access.FLV}] == count && n.hub.Stats().Join[len(n.hub.Stats().Join)-1] == int64(count)
		})
		var m runtime.MemStats
		for range 3 { // pools and stacks are freed step by step
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	play(50) // what the first ones need anyway
	// What else the process does only ever adds to it: the least of some rounds
	// is what players take.
	least := uint64(1 << 62)
	for n := 50; n < 50+3*players && least > most; n += players {
		before := memory(n)
		play(players)
		after := memory(n + players)
		least = min(least, (max(after, before)-before)/players)
		t.Logf("%d bytes per player", least)
	}
	if least > most {
		t.Errorf("a player takes %d bytes, want %d at most", least, most)
	}
}
