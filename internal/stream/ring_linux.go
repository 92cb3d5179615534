package stream

import (
	"slices"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring sends to several sockets in one system call, by io_uring(7). Of what
// a small send costs, its way into the kernel and back is a good part. A ring
// belongs to one goroutine. Of a nil ring only clear and close may be called.
type ring struct {
	fd      uintptr
	queues  []byte // shared with the kernel: heads, tails, indices and completions,
	entries []byte // and what is submitted

	tail, index *uint32 // of what is submitted: its end, and the array of indices into entries
	mask        uint32
	head, last  *uint32 // of completions: the first, and the end
	doneMask    uint32
	cqes        unsafe.Pointer

	queued uint32
	done   [ringSize]ringDone // what submit returns
}

// ringSize is how many sends one call takes: some tenths of a millisecond, for
// which its thread cannot be interrupted.
const ringSize = 32

// ringDone is what send(2) returned for the i-th add since the last submit.
type ringDone struct {
	i, n int
	err  error
}

// These are of linux/io_uring.h.
type (
	ringParams struct {
		sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
		_                                                                      [3]uint32
		sq                                                                     struct {
			head, tail, mask, entries, flags, dropped, array, _ uint32
			_                                                   uint64
		}
		cq struct {
			head, tail, mask, entries, overflow, cqes, flags, _ uint32
			_                                                   uint64
		}
	}
	ringSQE struct {
		op, flags uint8
		priority  uint16
		fd        int32
		offset    uint64
		addr      uint64
		n         uint32
		msgFlags  uint32
		data      uint64
		_         [3]uint64
	}
	ringCQE struct {
		data  uint64
		res   int32
		flags uint32
	}
)

const (
	ringOpSend  = 26      // IORING_OP_SEND
	ringOneMmap = 1 << 0  // IORING_FEAT_SINGLE_MMAP
	ringRecent  = 1 << 12 // IORING_FEAT_LINKED_FILE: Linux 5.18
	ringSQEs    = 0x10000000
)

// newRing returns nil where the system has no io_uring, only that of a kernel
// before 5.18, or does not let this process have it.
func newRing() *ring {
	var p ringParams
	fd, _, e := syscall.RawSyscall(unix.SYS_IO_URING_SETUP, ringSize, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil
	}
	r := &ring{fd: fd}
	if p.features&ringOneMmap == 0 || p.features&ringRecent == 0 {
		r.close()
		return nil
	}
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(ringCQE{})))
	var err error
	if r.queues, err = r.mmap(0, size); err == nil {
		r.entries, err = r.mmap(ringSQEs, p.sqEntries*uint32(unsafe.Sizeof(ringSQE{})))
	}
	if err != nil {
		r.close()
		return nil
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.queues[offset])) }
	r.tail, r.index, r.mask = at(p.sq.tail), at(p.sq.array), *at(p.sq.mask)
	r.head, r.last, r.doneMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.cqes = unsafe.Pointer(&r.queues[p.cq.cqes])
	return r
}

func (r *ring) mmap(offset int64, size uint32) ([]byte, error) {
	return syscall.Mmap(int(r.fd), offset, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
}

// close frees the ring. What was not submitted is not sent.
func (r *ring) close() {
	if r == nil {
		return
	}
	for _, m := range [][]byte{r.queues, r.entries} {
		if m != nil {
			syscall.Munmap(m)
		}
	}
	syscall.Close(int(r.fd))
}

// clear forgets what was not submitted.
func (r *ring) clear() {
	if r != nil {
		r.queued = 0
	}
}

// add queues b to be sent to a socket. Until submit the caller keeps both the
// socket open and b reachable. At most ringSize fit.
func (r *ring) add(fd uintptr, b []byte) {
	at := (*r.tail + r.queued) & r.mask
	*(*ringSQE)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(r.entries)), uintptr(at)*unsafe.Sizeof(ringSQE{}))) = ringSQE{
		op: ringOpSend, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), n: uint32(len(b)),
		msgFlags: syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL, data: uint64(r.queued),
	}
	*(*uint32)(unsafe.Add(unsafe.Pointer(r.index), 4*uintptr(at))) = at
	r.queued++
}

// submit sends what is queued, without waiting, and returns what became of it;
// that is valid until the next submit. If it is not ok the system did not take
// all of it: what it took is what is returned, and the ring is of no use any
// more.
func (r *ring) submit() (done []ringDone, ok bool) {
	taken := r.queued
	r.queued = 0
	atomic.StoreUint32(r.tail, *r.tail+taken)
	n := taken // that it has not taken yet
	for n > 0 {
		k, _, e := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, r.fd, uintptr(n), 0, 0, 0, 0)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || k == 0 {
			break
		}
		n -= uint32(k)
	}
	h, last := *r.head, atomic.LoadUint32(r.last)
	done = r.done[:0]
	for ; h != last; h++ {
		c := (*ringCQE)(unsafe.Add(r.cqes, uintptr(h&r.doneMask)*unsafe.Sizeof(ringCQE{})))
		d := ringDone{i: int(c.data), n: int(c.res)}
		if c.res < 0 {
			d.n, d.err = 0, syscall.Errno(-c.res)
		}
		done = append(done, d)
	}
	atomic.StoreUint32(r.head, h)
	if taken -= n; len(done) < int(taken) { // it may have been sent, so it must not be sent again
		for i := range int(taken) {
			if !slices.ContainsFunc(done, func(d ringDone) bool { return d.i == i }) {
				done = append(done, ringDone{i: i, err: syscall.EIO})
			}
		}
	}
	return done, n == 0
}
