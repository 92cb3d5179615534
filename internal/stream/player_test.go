package stream

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	stopped := time.Now()
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
	if d := time.Since(stopped); d > stuckAfter*8/5 {
		t.Errorf("it ended %v after it took something last, want %v", d, stuckAfter)
	}
}

// F19, F07: who falls behind where no key frame comes gets the sound, and the
// picture when there is one again.
func TestSlowPlayerInAnEndlessGOP(t *testing.T) {
	h := newHub(t, Options{SlowBytes: 256 << 10, GOPBytes: 1 << 20})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K"), audio(0, "a0"))
	slow := play(t, p.Stream(), Format{Wire: FLV})
	slow.read(t, 4)
	pkt := video(0, false, "v")
	pkt.Tag = append(pkt.Tag, make([]byte, 20<<10)...)
	for i := range int64(1500) { // 30 MB: more than the sockets hold
		pkt.DTS = 40 * (i + 1)
		write(t, p, pkt)
	}
	var heard atomic.Bool
	done := make(chan struct{})
	got, begin := int64(2), int64(0) // frames before the key frame, and its time
	go func() {                      // ends when the player has seen what it should
		defer close(done)
		prev, seen := int64(0), 0
		for want := []string{"sound", "key", "sound"}; seen < len(want); {
			pkt, err := slow.r.ReadPacket()
			if err != nil {
				t.Error(err)
				return
			}
			if pkt.Config {
				continue
			}
			if pkt.DTS < prev {
				t.Errorf("time went back from %d to %v %s", prev, pkt.Kind, name(pkt))
			}
			prev = pkt.DTS
			if pkt.Key {
				begin = pkt.DTS
			} else if begin == 0 {
				got++
			}
			switch {
			case want[seen] == "sound" && pkt.Kind == av.Audio, want[seen] == "key" && pkt.Key:
				seen++
				heard.Store(true)
			case seen > 0 && seen < 2 && pkt.Kind == av.Video:
				t.Errorf("%s before the key frame", name(pkt))
			}
		}
	}()
	tick, late := time.NewTicker(ms), time.After(10*time.Second)
	defer tick.Stop()
	for at := int64(60_001); ; at += 20 {
		write(t, p, audio(at, "a"), video(at, at%100 == 1 && heard.Load(), "v"))
		select {
		case <-tick.C:
			continue
		case <-done:
		case <-late:
			t.Error("nothing comes")
			slow.Close(ErrOver)
			<-done
		}
		break
	}
	if slow.Jumps() == 0 {
		t.Error("the player has not jumped")
	}
	// K and a0, the large ones, and sound and picture alternating, up to the key frame's sound.
	sent := 2 + 1500 + 2*(begin-60_001)/20 + 1
	if lost := h.Stats().JumpedFrames; lost != sent-got {
		t.Errorf("%d frames counted as jumped over, of %d the player got %d", lost, sent, got)
	}
	p.End(EndKicked)
}

// F07: frames that a player is without because it jumped are counted whichever way that
// ends, and those that it did not ask for are not.
func TestMissedFramesAreCounted(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(t *testing.T, p *Publication, one *flvPlayer)
		want int64
	}{
		{"video comes back", func(t *testing.T, p *Publication, one *flvPlayer) {
			write(t, p, video(9000, true, "K"), audio(9000, "a"))
			one.until(t, 9000)
		}, 4},
		{"the player leaves", func(t *testing.T, p *Publication, one *flvPlayer) { one.Close(ErrOver); <-one.Done() }, 4},
		{"the stream ends", func(t *testing.T, p *Publication, one *flvPlayer) { p.End(EndKicked); <-one.Done() }, 4},
		{"the player wants no video for a while", func(t *testing.T, p *Publication, one *flvPlayer) {
			one.SetTracks(true, false)
			synctest.Wait()
			write(t, p, video(8000, false, "v"))
			one.SetTracks(true, true)
			synctest.Wait()
			write(t, p, video(9000, true, "K"), audio(9000, "a"))
			one.until(t, 9000)
		}, 0},
		{"it falls behind again", func(t *testing.T, p *Publication, one *flvPlayer) {
			write(t, p, audio(7100, "a")) // which it does not take
			synctest.Wait()
			write(t, p, audio(7200, "a"))
			synctest.Wait()
			time.Sleep(5 * time.Second)
			write(t, p, audio(7300, "a"))
			one.until(t, 7100)
			one.until(t, 7300)
			write(t, p, video(8960, false, "v"), video(9000, true, "K"), audio(9000, "a"))
			one.until(t, 9000)
			if one.Jumps() != 2 {
				t.Errorf("%d jumps, want 2", one.Jumps())
			}
		}, 5}, // of video; one of sound is not told from it
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{GOPTime: time.Second})
				p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
				write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K"), audio(0, "a"))
				one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
				one.read(t, 4)
				large := func(dts int64) av.Packet { // one that fills a block
					pkt := video(dts, false, "v")
					pkt.Tag = append(pkt.Tag, make([]byte, blockFull)...)
					return pkt
				}
				write(t, p, large(2000)) // which it does not take
				synctest.Wait()
				write(t, p, audio(2000, "a"), large(2040), large(2080))
				time.Sleep(5 * time.Second)
				write(t, p, large(6900)) // no other is kept
				one.read(t, 1)
				synctest.Wait()
				write(t, p, audio(7000, "a"))
				one.until(t, 7000)
				before := h.Stats().JumpedFrames
				if one.Jumps() != 1 || before != 4 {
					t.Fatalf("%d jumps over %d frames, want 1 over 4", one.Jumps(), before)
				}
				for i := range int64(4) {
					write(t, p, video(7020+20*i, false, "v"))
				}
				c.end(t, p, one)
				if n := h.Stats().JumpedFrames - before; n != c.want {
					t.Errorf("%d frames counted that came after the jump, want %d", n, c.want)
				}
				p.End(EndKicked)
				one.Close(ErrOver)
			})
		})
	}
}

// until reads up to the sound of time dts.
func (p *flvPlayer) until(t *testing.T, dts int64) {
	t.Helper()
	for {
		pkt, err := p.r.ReadPacket()
		if err != nil {
			t.Fatal(err)
		}
		if pkt.Kind == av.Audio && !pkt.Config && pkt.DTS == dts {
			return
		}
	}
}

// F07: who is behind by more than SlowAfter goes on at the newest key frame,
// however few bytes that are.
func TestPlayerJumpsByTime(t *testing.T) {
	for behind, jumps := range map[time.Duration]int64{3900 * ms: 0, 4300 * ms: 1} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			p := publish(t, h, app())
			write(t, p, config(av.Video, "VC"), video(0, true, "K"))
			one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
			one.read(t, 2)
			last := behind.Milliseconds() / 100 * 100
			for at := int64(100); at <= last; at += 100 {
				time.Sleep(100 * ms)
				write(t, p, video(at, at%1000 == 0, "v"))
				synctest.Wait()
			}
			want := []string{"v@100", "v@200"}
			if jumps > 0 {
				want = []string{"v@100", "VC@4000", "v@4000"}
			}
			equal(t, "after "+behind.String(), one.read(t, len(want)), want)
			if st := h.Stats(); one.Jumps() != jumps || st.Jumps != jumps || st.JumpedFrames != 38*jumps {
				t.Errorf("after %v %d jumps, %d and %d frames in all, want %d and %d", behind, one.Jumps(), st.Jumps, st.JumpedFrames, jumps, 38*jumps)
			}
			p.End(EndKicked)
			one.Close(ErrOver)
		})
	}
}

// wrapped is a connection that is no socket, but has one, like TLS.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// F07: the kernel holds no more for a slow player over TLS than for others.
func TestSlowPlayerOverTLS(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what a socket holds is only limited on Linux")
	}
	h := newHub(t, Options{StuckAfter: 300 * ms, SlowBytes: 256 << 10})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	srv, cli := pair(t)
	cli.SetReadBuffer(4096)
	player, err := p.Stream().Play(PlayerOptions{Conn: wrapped{srv}, Format: Format{Wire: FLV}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, config(av.Video, "VC"))
	pkt := video(0, true, "x")
	pkt.Tag = append(pkt.Tag, make([]byte, 20<<10)...)
	raw, most := socket(srv), 0
	tick, late := time.NewTicker(ms), time.After(10*time.Second)
	defer tick.Stop()
	for over := false; !over; pkt.DTS += 40 {
		for range 10 {
			write(t, p, pkt)
		}
		most = max(most, unsent(raw))
		select {
		case <-tick.C:
		case <-player.Done():
			over = true
		case <-late:
			t.Fatal("the player is not ended")
		}
	}
	if most > 1<<20 || most < maxUnsent/2 {
		t.Errorf("the kernel held %d bytes", most)
	}
}

// pipe plays a stream over a pipe, in a bubble of synctest.
func pipe(t *testing.T, s *Stream, o PlayerOptions) *flvPlayer {
	t.Helper()
	srv, cli := net.Pipe()
	o.Conn = srv
	p, err := s.Play(o)
	if err != nil {
		t.Fatal(err)
	}
	return &flvPlayer{p, cli, &tagReader{r: bufio.NewReader(cli)}}
}

// A player that begins paused gets its preface and then nothing until it is
// resumed.
func TestPausedBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: []byte("HTTP")})
		one.Pause(true)
		head := make([]byte, 4)
		if _, err := io.ReadFull(one.r.r, head); err != nil || string(head) != "HTTP" {
			t.Fatalf("preface %q, %v", head, err)
		}
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"), video(40, false, "v40"), video(80, true, "K80"))
		synctest.Wait()
		if one.Sent() != 4 {
			t.Errorf("%d bytes sent to a paused player", one.Sent()-4)
		}
		one.Pause(false)
		equal(t, "when resumed", one.read(t, 2), []string{"VC@80", "K80@80"})
		one.Pause(true)
		synctest.Wait()
		p.End(EndKicked)
		<-one.Done()
		if one.Err() != ErrOver {
			t.Errorf("paused player ended with %v", one.Err())
		}
	})
}

// A player that comes when the stream is over has its preface and its goodbye.
func TestPlayOfAStreamThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		p.End(EndKicked)
		synctest.Wait()
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: []byte("HTTP"), Goodbye: []byte("bye")})
		if b, err := io.ReadAll(one.conn); string(b) != "HTTPbye" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if <-one.Done(); one.Err() != ErrOver {
			t.Errorf("ended with %v", one.Err())
		}
		closed := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		closed.Close(io.ErrNoProgress)
		if <-closed.Done(); closed.Err() != io.ErrNoProgress && closed.Err() != ErrOver {
			t.Errorf("ended with %v", closed.Err())
		}
	})
}

// A preface is shared by many players; none appends to it in place.
func TestPrefaceIsNotWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
		preface := make([]byte, 4, 100)
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: preface})
		one.Inject([]byte("more"))
		io.ReadFull(one.r.r, make([]byte, 4))
		synctest.Wait()
		if !bytes.Equal(preface[:100], make([]byte, 100)) {
			t.Error("the preface was appended to in place")
		}
		one.Close(net.ErrClosed)
		<-one.Done()
		p.End(EndKicked)
	})
}

// F14: a player without video starts with the configuration of the audio that
// it gets, not with one for audio that is still to come.
func TestAudioPlayerAfterAnotherConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
		first := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV, NoVideo: true}})
		equal(t, "start", first.read(t, 2), []string{"AC@5", "a5@5"})
		write(t, p, config(av.Audio, "AD"))
		second := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV, NoVideo: true}})
		synctest.Wait()
		write(t, p, audio(25, "a25"))
		equal(t, "in band", first.read(t, 2), []string{"AD@5", "a25@25"})
		equal(t, "start after the change", second.read(t, 2), []string{"AD@25", "a25@25"})
		p.End(EndKicked)
	})
}

// Each player's join is counted, whoever writes its first frame.
func TestJoinsAreCountedWhilePacketsGather(t *testing.T) {
	h := newHub(t, Options{})
	h.gather.value.Store(int64(20 * ms))
	h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
	p := publish(t, h, app())
	write(t, p, config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
	first := play(t, p.Stream(), Format{Wire: FLV, NoVideo: true})
	first.read(t, 2)
	write(t, p, audio(25, "a25")) // which gathers
	second := play(t, p.Stream(), Format{Wire: FLV, NoVideo: true})
	equal(t, "start", second.read(t, 2), []string{"AC@25", "a25@25"})
	equal(t, "next", first.read(t, 1), []string{"a25@25"})
	p.End(EndKicked)
	<-first.Done()
	<-second.Done()
	if n := h.Stats().Join[len(JoinBuckets)]; n != 2 {
		t.Errorf("%d joins counted, want 2", n)
	}
}

// RTMP's chunk size is 128 until another one was announced.
func TestChunkSizeOfTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: RTMP, StreamID: 1}})
		write(t, p, video(0, true, string(make([]byte, 200))))
		b := make([]byte, 12+128+1)
		if _, err := io.ReadFull(one.conn, b); err != nil || b[0] != 6 || b[140] != 3<<6|6 {
			t.Errorf("message begins % x, % x after 128 bytes, %v", b[:12], b[140], err)
		}
		one.Close(net.ErrClosed)
		<-one.Done()
		p.End(EndKicked)
	})
}
