package rtmp

import (
	"io"
	"sync/atomic"
)

// Sizes of an input's buffer: while nothing but commands is read, and for
// media. The smaller one is the read memory of a player.
const (
	bufferSmall = 1 << 10
	bufferMedia = 8 << 10
)

// input is a buffered reader whose buffer can grow when its use becomes known,
// and which hands large reads through.
type input struct {
	src   io.Reader
	buf   []byte
	r, w  int           // buf[r:w] has not been taken yet
	total atomic.Uint64 // bytes read from src
	reads uint          // calls of src.Read
}

// grow makes the buffer at least n bytes long.
func (in *input) grow(n int) {
	if n <= len(in.buf) {
		return
	}
	buf := make([]byte, n)
	in.w = copy(buf, in.buf[in.r:in.w])
	in.r, in.buf = 0, buf
}

// fill waits until n bytes, at most bufferSmall, are in the buffer. The error
// is io.EOF only if there are none.
func (in *input) fill(n int) error {
	if in.w-in.r >= n {
		return nil
	}
	in.grow(bufferSmall)
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for in.w < n {
		m, err := in.readSource(in.buf[in.w:])
		in.w += m
		if in.w < n && err != nil {
			if err == io.EOF && in.w > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// peek returns the next n bytes, which must have been filled. They are valid
// until the next call.
func (in *input) peek(n int) []byte { return in.buf[in.r : in.r+n] }

// skip moves past the next byte if it is b and has been read already.
func (in *input) skip(b byte) bool {
	if in.r == in.w || in.buf[in.r] != b {
		return false
	}
	in.r++
	return true
}

// take waits for the next n bytes and moves past them. They are valid until
// the next call.
func (in *input) take(n int) ([]byte, error) {
	if err := in.fill(n); err != nil {
		return nil, noEOF(err)
	}
	b := in.peek(n)
	in.r += n
	return b, nil
}

// read reads one byte at least, and as many as there are at once, into p.
func (in *input) read(p []byte) (int, error) {
	if in.r == in.w {
		if len(p) >= len(in.buf) {
			for {
				if n, err := in.readSource(p); n > 0 || err != nil {
					if n > 0 {
						err = nil // it comes again
					}
					return n, err
				}
			}
		}
		if err := in.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	return n, nil
}

// readFull fills p.
func (in *input) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := in.read(p)
		if err != nil {
			return noEOF(err)
		}
		p = p[n:]
	}
	return nil
}

func (in *input) readSource(p []byte) (int, error) {
	n, err := in.src.Read(p)
	in.reads++
	in.total.Add(uint64(n))
	return n, err
}

// noEOF returns err, as io.ErrUnexpectedEOF if it is io.EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
