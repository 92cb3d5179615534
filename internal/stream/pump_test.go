package stream

import (
	"fmt"
	"net"
	"runtime"
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

// Who has had a key frame and then gets sound only does not get that key frame
// again with the picture, though others who hear the same are not as far: the
// pump knows of the sound only.
func TestPumpKeepsWhatAPlayerHasHad(t *testing.T) {
	for _, burst := range []int{1, 100} {
		h := newHub(t, Options{GatherCeiling: -1})
		h.burstFrom = burst
		p := publish(t, h, app())
		s := p.Stream()
		seated := func(one *flvPlayer) bool {
			one.mu.Lock()
			defer one.mu.Unlock()
			return one.pump != nil
		}
		write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(1, "a1"))
		ear := play(t, s, Format{Wire: FLV, NoVideo: true})
		one := play(t, s, Format{Wire: FLV})
		write(t, p, audio(2, "a2"))
		for got := ""; got != "a2@2"; got = ear.read(t, 1)[0] {
		}
		for got := ""; got != "a2@2"; got = one.read(t, 1)[0] {
		}
		write(t, p, video(40, true, "K40"), video(80, false, "v80"))
		equal(t, "before", one.read(t, 2), []string{"K40@40", "v80@80"})
		look := func() { // the pump, who has come
			f := ear.feed.Load()
			f.mu.Lock()
			f.wake()
			f.mu.Unlock()
			runtime.Gosched()
		}
		for !seated(ear) {
			look()
		}
		one.SetTracks(true, false)
		for one.feed.Load() != ear.feed.Load() || !seated(one) {
			look()
		}
		one.SetTracks(true, true)
		write(t, p, video(120, false, "v120"), audio(121, "a121"))
		equal(t, "until the next key frame", one.read(t, 1), []string{"a121@121"})
		write(t, p, video(160, true, "K160"))
		equal(t, "with the picture again", one.read(t, 3), []string{"VC@160", "AC@121", "K160@160"})
		p.End(EndKicked)
	}
}
