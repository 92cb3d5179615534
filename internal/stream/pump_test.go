package stream

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"weir/internal/media/av"
	"weir/internal/policy"
)

// Who waits for the network gets to run while a pump is at work.
func TestYielderLetsTheNetworkIn(t *testing.T) {
	srv, cli := pair(t)
	var heard atomic.Bool
	go func() { // ends with the byte
		cli.Read(make([]byte, 1))
		heard.Store(true)
	}()
	var y yielder
	defer y.close()
	y.let()
	if _, err := srv.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for n := 0; !heard.Load(); n++ {
		if n == 1_000_000 {
			t.Fatal("who waits for the network never ran")
		}
		y.let()
	}
}

// A pass over more players than one batch reaches all of them, in two pumps at
// most, and a pump ends with its last player.
func TestPumpOfManyPlayers(t *testing.T) {
	for _, burst := range []bool{false, true} {
		t.Run(fmt.Sprintf("burst=%v", burst), func(t *testing.T) { pumpOfManyPlayers(t, burst) })
	}
}

func pumpOfManyPlayers(t *testing.T, burst bool) {
	const players = 3 * pumpBatch
	h := newHub(t, Options{NoIOURing: !burst})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	s := p.Stream()
	write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
	var all []*flvPlayer
	for range players {
		all = append(all, play(t, s, Format{Wire: FLV}))
	}
	for i, one := range all {
		if got := one.read(t, 2); got[1] != "K0@0" {
			t.Fatalf("player %d starts with %q", i, got)
		}
	}
	f := all[0].feed.Load()
	for i := int64(1); i <= 50; i++ {
		write(t, p, video(40*i, false, "v"))
	}
	for i, one := range all {
		if got := one.read(t, 50)[49]; got != "v@2000" {
			t.Fatalf("player %d: last frame %s", i, got)
		}
	}
	for i, one := range all {
		if i%2 == 0 {
			one.Close(net.ErrClosed)
			<-one.Done()
		}
	}
	write(t, p, video(2040, false, "v"))
	all[1].read(t, 1)
	if n := s.Info().Players; n != players/2 {
		t.Errorf("%d players, want %d", n, players/2)
	}
	odd := play(t, s, Format{Wire: FLV, NoAudio: true})
	odd.read(t, 1)
	s.mu.Lock()
	if n := len(s.feeds); n != 2 {
		t.Errorf("%d feeds of two formats", n)
	}
	s.mu.Unlock()
	odd.Close(net.ErrClosed)
	<-odd.Done()
	s.mu.Lock()
	if n := len(s.feeds); n != 1 {
		t.Errorf("%d feeds when one has lost its players", n)
	}
	s.mu.Unlock()
	p.End(EndKicked)
	for _, one := range all {
		<-one.Done()
	}
	if err := h.Close(t.Context()); err != nil { // waits for the pumps
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pumps) != 0 || f.players != 0 {
		t.Errorf("%d pumps of %d players are left", len(f.pumps), f.players)
	}
}
