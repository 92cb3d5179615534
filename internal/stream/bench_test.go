//go:build unix

package stream

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
)

// BenchmarkFanOut publishes a frame and waits until all players have it, b.N
// times. What counts is cpu-ns/write, the processor time of one player's share
// in the server and in the one goroutine that reads for all of them.
func BenchmarkFanOut(b *testing.B) {
	const players = 200
	h := NewHub(Options{GatherCeiling: -1, MaxPacketRate: 1 << 30, MaxByteRate: 1 << 40})
	defer h.Close(context.Background())
	p, err := h.Publish(key, app(func(a *policy.App) { a.MaxLead = 0 }), Push{})
	if err != nil {
		b.Fatal(err)
	}
	frames := func(dts int64, isKey bool) int {
		pkt := video(dts, isKey, "frame")
		pkt.Tag = append(pkt.Tag, make([]byte, 4000)...)
		if err := p.WritePacket(pkt); err != nil {
			b.Fatal(err)
		}
		return 11 + len(pkt.Tag) + 4
	}
	first := frames(0, true)
	conns := make([]*net.TCPConn, players)
	for i := range conns {
		srv, cli := pair(b)
		if _, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: FLV}}); err != nil {
			b.Fatal(err)
		}
		conns[i] = cli
	}
	buf := make([]byte, 64<<10)
	drain := func(n int) {
		for _, c := range conns {
			if _, err := io.ReadFull(c, buf[:n]); err != nil {
				b.Fatal(err)
			}
		}
	}
	drain(13 + first)
	used := cpu()
	b.ResetTimer()
	for i := range b.N {
		drain(frames(40*int64(i+1), i%50 == 0))
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-used)/float64(b.N*players), "cpu-ns/write")
	p.End(EndKicked)
}

// cpu returns the processor time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite is what a packet costs a stream that nobody watches.
func BenchmarkWrite(b *testing.B) {
	h := NewHub(Options{MaxPacketRate: 1 << 30, MaxByteRate: 1 << 40})
	defer h.Close(context.Background())
	p, err := h.Publish(key, app(func(a *policy.App) { a.MaxLead = 0 }), Push{})
	if err != nil {
		b.Fatal(err)
	}
	pkts := [2]av.Packet{video(0, true, "k"), video(0, false, "v")}
	b.ReportAllocs()
	for i := range b.N {
		pkt := pkts[min(i%50, 1)]
		pkt.DTS = 40 * int64(i)
		if err := p.WritePacket(pkt); err != nil {
			b.Fatal(err)
		}
	}
	p.End(EndKicked)
}
