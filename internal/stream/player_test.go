package stream

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
)

// F07: who takes little, but takes it, is slow and not stuck, however much the
// kernel wants to be rid of before it takes more from us.
func TestSlowPlayerIsNotStuck(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what a socket holds is only known on Linux")
	}
	const stuckAfter = 500 * ms
	h := newHub(t, Options{StuckAfter: stuckAfter, SlowBytes: 256 << 10})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), video(0, true, "K"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.(*net.TCPConn).SetReadBuffer(256 << 10)
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	player, err := p.Stream().Play(PlayerOptions{Conn: server, Format: Format{Wire: FLV}})
	if err != nil {
		t.Fatal(err)
	}
	pkt := video(0, true, "x")
	pkt.Tag = append(pkt.Tag, make([]byte, 20<<10)...)
	tick := time.NewTicker(10 * ms)
	defer tick.Stop()
	b := make([]byte, 8<<10)
	for n := int64(1); n < 200; n++ { // 800 kB a second; the socket holds seconds of that
		for i := range int64(10) {
			pkt.DTS = 400*n + 40*i
			write(t, p, pkt)
		}
		if _, err := io.ReadFull(client, b); err != nil {
			t.Fatal(err)
		}
		select {
		case <-player.Done():
			t.Fatalf("ended after %d ms: %v", n*10, player.Err())
		case <-tick.C:
		}
	}
	for over := false; !over; pkt.DTS += 40 { // now it takes nothing
		write(t, p, pkt)
		select {
		case <-player.Done():
			over = true
		case <-tick.C:
		}
	}
	if player.Err() != ErrStuck {
		t.Errorf("the player ended with %v, want ErrStuck", player.Err())
	}
}
