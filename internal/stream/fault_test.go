package stream

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/media/av"
)

// broken is a connection that panics when it is told to, in writing and in
// closing.
type broken struct {
	net.Conn
	now atomic.Bool
}

func (c *broken) Write(b []byte) (int, error) {
	if c.now.Load() {
		panic("write")
	}
	return c.Conn.Write(b)
}

func (c *broken) Close() error {
	c.Conn.Close()
	panic("close")
}

// brokenSocket is one for a pump: its descriptor is not to be had.
type brokenSocket struct {
	*net.TCPConn
	now atomic.Bool
}

func (c *brokenSocket) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return brokenRaw{raw, c}, err
}

type brokenRaw struct {
	syscall.RawConn
	c *brokenSocket
}

func (r brokenRaw) Control(f func(uintptr)) error {
	if r.c.now.Load() {
		panic("write")
	}
	return r.RawConn.Control(f)
}

// viewer plays over conn and counts what comes at the other end.
type viewer struct {
	*Player
	got atomic.Int64
}

func watch(t *testing.T, s *Stream, wire Wire, conn, far net.Conn) *viewer {
	t.Helper()
	p, err := s.Play(PlayerOptions{Conn: conn, Format: Format{Wire: wire}})
	if err != nil {
		t.Fatal(err)
	}
	v := &viewer{Player: p}
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the connection
		for b := make([]byte, 64<<10); ; {
			n, err := far.Read(b)
			v.got.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { far.Close(); wg.Wait() })
	return v
}

// eventually waits for what a publisher brings about.
func eventually(t *testing.T, what string, pub *Publication, dts *int64, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 10 s", what)
		}
		*dts += 40
		write(t, pub, video(*dts, *dts%400 == 0, "frame"))
		select {
		case <-time.After(time.Millisecond): // a real publisher's pace, in short
		case <-t.Context().Done():
		}
	}
}

func over(p *Player) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// A panic in what one player needs is the end of that player, whoever served
// it; the others, of the same format and of another, go on, and so does the
// stream.
func TestPanicOfAPlayer(t *testing.T) {
	for _, burst := range []bool{false, true} {
		t.Run(fmt.Sprintf("burst=%v", burst), func(t *testing.T) { panicOfAPlayer(t, burst) })
	}
}

func panicOfAPlayer(t *testing.T, burst bool) {
	h := newHub(t, Options{GatherCeiling: -1, NoIOURing: !burst})
	if burst {
		h.burstFrom = 1
		h.newRing = func(_, size int) *ring { return newRing(2, size) }
	}
	pub := publish(t, h, app())
	s, dts := pub.Stream(), int64(0)
	write(t, pub, video(0, true, "K"))

	goodNear, goodFar := pair(t)
	good := watch(t, s, FLV, goodNear, goodFar)
	otherNear, otherFar := pair(t)
	other := watch(t, s, RTMP, otherNear, otherFar)

	near, far := net.Pipe()
	conn := &broken{Conn: near}
	alone := watch(t, s, FLV, conn, far)
	tcp, tcpFar := pair(t)
	socket := &brokenSocket{TCPConn: tcp}
	pumped := watch(t, s, FLV, socket, tcpFar)

	for _, v := range []*viewer{good, other, alone, pumped} {
		eventually(t, "play", pub, &dts, func() bool { return v.got.Load() > 1000 })
	}
	conn.now.Store(true)
	eventually(t, "the player alone ends", pub, &dts, func() bool { return over(alone.Player) })
	socket.now.Store(true)
	players := 2
	if burst { // the descriptor is asked for when a ring needs more room
		near, far := pair(t)
		late := watch(t, s, FLV, near, far)
		players++
		eventually(t, "play late", pub, &dts, func() bool { return late.got.Load() > 1000 })
	}
	eventually(t, "the pumped player ends", pub, &dts, func() bool { return over(pumped.Player) })
	if alone.Err() != ErrFault || pumped.Err() != ErrFault {
		t.Errorf("ended with %v and %v, want %v", alone.Err(), pumped.Err(), ErrFault)
	}
	for _, v := range []*viewer{good, other} {
		had := v.got.Load()
		eventually(t, "the others go on", pub, &dts, func() bool { return v.got.Load() > had+1000 })
	}
	if st := h.Stats(); st.Panics != 4 || st.Players != int64(players) { // both connections', too, when they are hung up
		t.Errorf("%d panics, %d players, want 4 and %d", st.Panics, st.Players, players)
	}
	if i := s.Info(); i.Players != players {
		t.Errorf("%d players of the stream, want %d", i.Players, players)
	}
}

// A panic in making a format is the end of those who play it. Who comes later
// can have it again.
func TestPanicOfAFormat(t *testing.T) {
	h := newHub(t, Options{GatherCeiling: -1})
	pub := publish(t, h, app())
	s, dts := pub.Stream(), int64(0)
	write(t, pub, video(0, true, "K"))
	r := s.NewReader()
	defer r.Close()

	n1, f1 := pair(t)
	n2, f2 := net.Pipe()
	n3, f3 := pair(t)
	doomed := []*viewer{watch(t, s, FLV, n1, f1), watch(t, s, FLV, n2, f2)}
	other := watch(t, s, RTMP, n3, f3)
	for _, v := range append(doomed, other) {
		eventually(t, "play", pub, &dts, func() bool { return v.got.Load() > 500 })
	}
	s.mu.Lock()
	f := s.feeds[Format{Wire: FLV}]
	f.mu.Lock()
	f.key = 1 << 30 // where no mark is
	f.mu.Unlock()
	s.mu.Unlock()
	write(t, pub, video(dts+10, false, "the last straw"))
	for _, v := range doomed {
		<-v.Done()
		if v.Err() != ErrFault {
			t.Errorf("a player of the format ended with %v, want %v", v.Err(), ErrFault)
		}
	}
	had := other.got.Load()
	eventually(t, "another format goes on", pub, &dts, func() bool { return other.got.Load() > had+500 })
	n4, f4 := pair(t)
	again := watch(t, s, FLV, n4, f4)
	eventually(t, "the format is there again", pub, &dts, func() bool { return again.got.Load() > 500 })
	if st := h.Stats(); st.Panics < 1 || st.Players != 2 {
		t.Errorf("%d panics, %d players, want at least 1 and 2", st.Panics, st.Players)
	}
	if _, err := r.ReadPacket(); err != nil {
		t.Errorf("a reader: %v", err)
	}
}

// A panic where a player finds its place leaves no lock behind.
func TestPanicUnderLocks(t *testing.T) {
	h := newHub(t, Options{GatherCeiling: -1})
	pub := publish(t, h, app())
	s, dts := pub.Stream(), int64(0)
	write(t, pub, video(0, true, "K"))
	n1, f1 := pair(t)
	first := watch(t, s, FLV, n1, f1)
	eventually(t, "play", pub, &dts, func() bool { return first.got.Load() > 500 })
	s.mu.Lock()
	f := s.feeds[Format{Wire: FLV}]
	f.mu.Lock()
	key := f.key
	f.key = 1 << 30
	f.mu.Unlock()
	n2, f2 := pair(t)
	s.mu.Unlock()
	second := watch(t, s, FLV, n2, f2)
	<-second.Done()
	if second.Err() != ErrFault {
		t.Errorf("ended with %v, want %v", second.Err(), ErrFault)
	}
	s.mu.Lock()
	f.mu.Lock()
	f.key = key
	f.mu.Unlock()
	s.mu.Unlock()
	had := first.got.Load()
	eventually(t, "the first goes on", pub, &dts, func() bool { return first.got.Load() > had+500 })
	if n := h.Stats().Panics; n != 1 {
		t.Errorf("%d panics, want 1", n)
	}
}

// A panic where a pump looks what there is to write leaves no lock behind. Who
// needs that to go on ends, the stream and its other formats do not.
func TestPanicOfAPump(t *testing.T) {
	h := newHub(t, Options{GatherCeiling: -1})
	pub := publish(t, h, app())
	s, dts := pub.Stream(), int64(0)
	write(t, pub, video(0, true, "K"))
	n1, f1 := pair(t)
	n2, f2 := pair(t)
	pumped := watch(t, s, FLV, n1, f1)
	other := watch(t, s, RTMP, n2, f2)
	eventually(t, "a pump has the player", pub, &dts, func() bool {
		pumped.mu.Lock()
		defer pumped.mu.Unlock()
		return pumped.pump != nil
	})
	s.mu.Lock()
	f := s.feeds[Format{Wire: FLV}]
	f.mu.Lock()
	v := video(dts+10, false, "whose mark is lost")
	f.add(&v, s.next(), time.Now())
	f.marks, f.key, f.out = nil, -1, f.tail
	f.wake()
	f.mu.Unlock()
	s.mu.Unlock()
	<-pumped.Done()
	if pumped.Err() != ErrFault {
		t.Errorf("ended with %v, want %v", pumped.Err(), ErrFault)
	}
	had := other.got.Load()
	eventually(t, "another format goes on", pub, &dts, func() bool { return other.got.Load() > had+500 })
	n3, f3 := pair(t)
	again := watch(t, s, FLV, n3, f3)
	eventually(t, "the format is there again", pub, &dts, func() bool { return again.got.Load() > 500 })
}

// A feature that panics ends for its stream, which goes on, and for no other.
func TestPanicOfAFeature(t *testing.T) {
	h := NewHub(Options{})
	ran := make(chan string, 4)
	h.OnPublish(func(ctx context.Context, s *Stream) {
		if s.Key().Name == "s" {
			panic("feature")
		}
		ran <- s.Key().Name
		<-ctx.Done()
	})
	h.Follow(func(_ context.Context, p *Publication, r *Reader) {
		if name := p.Stream().Key().Name; name == "s" {
			panic("follower")
		} else {
			ran <- name
		}
		av.Copy(nowhere{}, r)
	})
	pub := publish(t, h, app())
	other, err := h.Publish(Key{"default", "live", "other"}, app(), Push{})
	if err != nil {
		t.Fatal(err)
	}
	<-ran
	<-ran
	write(t, pub, video(0, true, "K"))
	write(t, other, video(0, true, "K"))
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := h.Stats().Panics; n != 2 {
		t.Errorf("%d panics, want 2", n)
	}
}

type nowhere struct{}

func (nowhere) WritePacket(av.Packet) error { return nil }
