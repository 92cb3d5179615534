package stream

import (
	"slices"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring sends to several sockets in one system call, by io_uring(7). Of what
// a small send costs, its way into the kernel and back is a good part, and
// finding the socket by its descriptor another: so a ring has slots, in which
// sockets are. A ring belongs to one goroutine. Of a nil ring only clear and close
// may be called.
type ring struct {
	fd      uintptr
	free    []int32 // slots
	queues  []byte  // shared with the kernel: heads, tails, indices and completions,
	entries []byte  // and what is submitted

	tail, index *uint32 // of what is submitted: its end, and the array of indices into entries
	mask        uint32
	head, last  *uint32 // of completions: the first, and the end
	doneMask    uint32
	cqes        unsafe.Pointer

	size   int // how many sends one call takes
	queued uint32
	done   []ringDone // what submit returns
}

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
	ringSlot    = 1 << 0  // IOSQE_FIXED_FILE
	ringFiles   = 2       // IORING_REGISTER_FILES
	ringUpdate  = 6       // IORING_REGISTER_FILES_UPDATE
	ringOneMmap = 1 << 0  // IORING_FEAT_SINGLE_MMAP
	ringRecent  = 1 << 12 // IORING_FEAT_LINKED_FILE: Linux 5.18
	ringSQEs    = 0x10000000
)

// newRing returns a ring that has so many slots, or as many as the process may
// have files, and takes size sends, a power of two, in a call. It is nil where the system has no io_uring, only that of a
// kernel before 5.18, or does not let this process have it.
func newRing(slots, size int) *ring {
	var p ringParams
	fd, _, e := syscall.RawSyscall(unix.SYS_IO_URING_SETUP, uintptr(size), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil
	}
	r := &ring{fd: fd, size: size}
	if p.features&ringOneMmap == 0 || p.features&ringRecent == 0 {
		r.close()
		return nil
	}
	length := max(p.sq.array+4*p.sqEntries, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(ringCQE{})))
	var err error
	if r.queues, err = r.mmap(0, length); err == nil {
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

	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		slots = int(min(uint64(slots), limit.Cur)) // more would be refused
	}
	files := make([]int32, slots)
	r.free, r.done = make([]int32, slots), make([]ringDone, 0, size)
	for i := range files {
		files[i] = -1
		r.free[i] = int32(slots - 1 - i)
	}
	if !r.register(ringFiles, unsafe.Pointer(unsafe.SliceData(files)), slots) {
		r.close()
		return nil
	}
	return r
}

// register does an operation of io_uring_register(2) with n things at p.
func (r *ring) register(op uintptr, p unsafe.Pointer, n int) bool {
	for {
		_, _, e := syscall.RawSyscall6(unix.SYS_IO_URING_REGISTER, r.fd, op, uintptr(p), uintptr(n), 0, 0)
		if e != syscall.EINTR {
			return e == 0
		}
	}
}

// put makes a slot hold a file, of -1 none.
func (r *ring) put(slot, fd int32) bool {
	update := struct {
		slot, _ uint32
		fds     *int32
	}{slot: uint32(slot), fds: &fd}
	return r.register(ringUpdate, unsafe.Pointer(&update), 1)
}

// room reports whether a slot is free.
func (r *ring) room() bool { return len(r.free) > 0 }

// enter puts a socket into a slot, if there is room, and returns that, or -1. There
// the socket stays open, whatever becomes of its descriptor.
func (r *ring) enter(fd uintptr) (slot int32) {
	last := len(r.free) - 1
	if last < 0 || int32(fd) < 0 || !r.put(r.free[last], int32(fd)) {
		return -1
	}
	slot = r.free[last]
	r.free = r.free[:last]
	return slot
}

// leave frees a slot. Some kernels, before 6.4, keep the socket up to a second
// longer.
func (r *ring) leave(slot int32) {
	if r.put(slot, -1) {
		r.free = append(r.free, slot)
	}
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

// add queues b to be sent to the socket in a slot. Until submit the caller keeps
// b reachable. At most size fit.
func (r *ring) add(slot int32, b []byte) {
	at := (*r.tail + r.queued) & r.mask
	*(*ringSQE)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(r.entries)), uintptr(at)*unsafe.Sizeof(ringSQE{}))) = ringSQE{
		op: ringOpSend, flags: ringSlot, fd: slot, addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), n: uint32(len(b)),
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
