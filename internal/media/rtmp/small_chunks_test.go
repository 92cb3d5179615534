//go:build unix

package rtmp

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallChunks makes the test's binary one that sends: address and chunk size.
const smallChunks = "WEIR_TEST_SMALL_CHUNKS"

// H08: a message of 8 MiB in chunks of 1 byte costs the reader of a socket no
// more than 20 times what it costs in chunks of 4096. The sender is another
// process, so that only the reader is measured.
func BenchmarkSmallChunksSocket(b *testing.B) {
	for _, size := range []int{1, 128, 4096} {
		b.Run(fmt.Sprint("chunk", size), func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			cmd := exec.Command(os.Args[0], "-test.run=^TestSendSmallChunks$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", smallChunks, ln.Addr(), size))
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer cmd.Wait()
			nc, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			c := newConn(nc, Config{})
			c.in.grow(bufferMedia)
			c.chunks.size = size
			b.SetBytes(8 << 20)
			used := usage()
			for b.Loop() {
				if _, err := c.next(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((usage()-used).Milliseconds())/float64(b.N), "cpu-ms/message")
		})
	}
}

// usage is the processor time of this process.
func usage() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestSendSmallChunks is the sender, and no test otherwise.
func TestSendSmallChunks(t *testing.T) {
	var size int
	addr, text, _ := strings.Cut(os.Getenv(smallChunks), " ")
	if n, _ := fmt.Sscan(text, &size); n != 1 {
		t.Skip("only for BenchmarkSmallChunksSocket")
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for data := AppendMessage(nil, size, ChunkVideo, TypeVideo, 0, 1, make([]byte, 8<<20)); ; {
		if _, err := nc.Write(data); err != nil {
			return
		}
	}
}
