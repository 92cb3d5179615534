package stream

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
)

// A ring tells of each socket what send(2) would have: all, a part and then
// EAGAIN where the socket is full, and that the peer is gone.
func TestRing(t *testing.T) {
	r := newRing(4, 4)
	if r == nil {
		t.Skip("no io_uring")
	}
	defer r.close()
	enter := func(c *net.TCPConn) (slot int32) {
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { slot = r.enter(fd) })
		}
		if err != nil || slot < 0 {
			t.Fatalf("slot %d, %v", slot, err)
		}
		return slot
	}

	good, goodFar := pair(t)
	full, fullFar := pair(t)
	gone, goneFar := pair(t)
	if err := full.SetWriteBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	if err := goneFar.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	goneFar.Close()
	if _, err := gone.Read(make([]byte, 1)); err == nil { // the reset is here
		t.Fatal("read from a closed connection")
	}

	small, large := bytes.Repeat([]byte("small"), 100), make([]byte, 8<<20)
	for i := range large {
		large[i] = byte(i >> 10)
	}
	taken, again := 0, error(nil)
	const rounds = 1000 // the ring's indices come around
	a, b, c := enter(good), enter(full), enter(gone)
	for round := range rounds {
		r.add(a, small)
		r.add(b, large[taken:])
		r.add(c, small)
		done, ok := r.submit()
		if !ok || len(done) != 3 {
			t.Fatalf("round %d: %v, %v", round, done, ok)
		}
		for _, d := range done {
			switch d.i {
			case 0:
				if d.n != len(small) || d.err != nil {
					t.Fatalf("round %d: sent %d of %d, %v", round, d.n, len(small), d.err)
				}
			case 1:
				if d.n == 0 && d.err != syscall.EAGAIN || d.n > 0 && d.err != nil {
					t.Fatalf("round %d: a full socket took %d, %v", round, d.n, d.err)
				}
				taken += d.n
				again = d.err
			case 2:
				if d.n != 0 || d.err != syscall.EPIPE && d.err != syscall.ECONNRESET {
					t.Fatalf("round %d: a reset socket took %d, %v", round, d.n, d.err)
				}
			}
		}
		got := make([]byte, len(small))
		if _, err := io.ReadFull(goodFar, got); err != nil || !bytes.Equal(got, small) {
			t.Fatalf("round %d: read %q, %v", round, got, err)
		}
	}
	if taken == 0 || taken >= len(large) || again != syscall.EAGAIN {
		t.Errorf("the full socket took %d of %d and said %v at last", taken, len(large), again)
	}
	full.Close()
	r.leave(b) // now it is closed
	if got, err := io.ReadAll(fullFar); err != nil || !bytes.Equal(got, large[:taken]) {
		t.Errorf("read %d bytes of %d that the socket took, %v", len(got), taken, err)
	}

	r.add(b, small) // nobody is there
	r.clear()
	r.add(b, small)
	if done, ok := r.submit(); !ok || len(done) != 1 || done[0].err != syscall.EBADF {
		t.Errorf("an empty slot: %v, %v", done, ok)
	}
	if r.enter(^uintptr(0)) >= 0 {
		t.Error("no descriptor got a slot")
	}
	for range 2 {
		enter(good)
	}
	if r.room() || r.enter(^uintptr(0)) >= 0 {
		t.Error("four sockets, and there is room in a ring of four")
	}
	runtime.KeepAlive(small)
}

// A ring has no more slots than the process may have files, which the kernel
// refuses.
func TestRingOfManySlots(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<19 {
		t.Skipf("%d files, %v", limit.Cur, err)
	}
	one := newRing(1, 1)
	if one == nil {
		t.Skip("no io_uring")
	}
	one.close()
	r := newRing(int(limit.Cur)+1, 1)
	if r == nil {
		t.Fatal("no ring where more slots are wanted than there may be")
	}
	defer r.close()
	if len(r.free) != int(limit.Cur) {
		t.Errorf("%d slots where %d files are allowed", len(r.free), limit.Cur)
	}
}

// Where a ring does not work, those of the burst are written to one by one, and
// get each byte once.
func TestPumpWithABrokenRing(t *testing.T) {
	h := newHub(t, Options{GatherCeiling: -1})
	var made atomic.Int64
	h.burstFrom, h.newRing = 1, func(slots, size int) *ring {
		r := newRing(slots, size)
		if r != nil {
			syscall.Close(int(r.fd))
			r.fd = ^uintptr(0)
			made.Add(1)
		}
		return r
	}
	p := publish(t, h, app())
	s := p.Stream()
	write(t, p, video(0, true, "K"))
	var all []*flvPlayer
	for range 40 {
		all = append(all, play(t, s, Format{Wire: FLV}))
	}
	for dts := int64(40); dts <= 1200; dts += 40 {
		write(t, p, video(dts, false, "v"))
	}
	for i, one := range all {
		if got := one.read(t, 31); got[30] != "v@1200" {
			t.Fatalf("player %d: %q", i, got)
		}
	}
	for dts := int64(1240); dts < 1600; dts += 40 {
		write(t, p, video(dts, false, "v"))
		for i, one := range all {
			if got, want := one.read(t, 1), fmt.Sprintf("v@%d", dts); got[0] != want {
				t.Fatalf("player %d got %q, want %q", i, got, want)
			}
		}
	}
	p.End(EndKicked)
	for _, one := range all {
		<-one.Done()
	}
	if made.Load() == 0 {
		t.Skip("no io_uring")
	}
}
