// Package bits is a cursor over bytes and bits that remembers its first error.
//
// A decoder reads field after field as the specification lists them and asks
// Err once at the end; after an error every read returns zero. No read ever
// goes past the end of the data, and no length is trusted before it is
// compared with what is left.
package bits

import "errors"

// ErrShort is the error of a Reader that was asked for more than is left.
var ErrShort = errors.New("data too short")

// Reader reads big-endian fields from a byte slice. The zero value reads
// nothing. Slices it returns are views of the data it was made from.
type Reader struct {
	buf []byte
	pos int  // next byte
	bit uint // bits of buf[pos] already taken, 0 to 7
	err error
}

// NewReader returns a Reader over b, which it does not copy.
func NewReader(b []byte) *Reader { return &Reader{buf: b} }

// Err returns the first error, or nil.
func (r *Reader) Err() error { return r.err }

// Fail makes err the Reader's error if it has none yet.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Len returns the number of whole bytes that are left; 0 after an error.
func (r *Reader) Len() int {
	if r.err != nil {
		return 0
	}
	n := len(r.buf) - r.pos
	if r.bit > 0 {
		n--
	}
	return n
}

// Bytes returns a view of the next n bytes. The Reader must be at a byte's
// start; a negative n is an error.
func (r *Reader) Bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if r.bit != 0 || n < 0 || n > len(r.buf)-r.pos {
		r.err = ErrShort
		return nil
	}
	b := r.buf[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}

// Rest returns a view of all bytes that are left and moves to the end.
func (r *Reader) Rest() []byte { return r.Bytes(r.Len()) }

// Skip moves n bytes forward.
func (r *Reader) Skip(n int) { r.Bytes(n) }

// Uint8 reads one byte.
func (r *Reader) Uint8() uint8 {
	if b := r.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads two bytes.
func (r *Reader) Uint16() uint16 {
	if b := r.Bytes(2); b != nil {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return 0
}

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 {
	if b := r.Bytes(4); b != nil {
		return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	return 0
}

// Uint64 reads eight bytes.
func (r *Reader) Uint64() uint64 { return uint64(r.Uint32())<<32 | uint64(r.Uint32()) }

// Bits reads n bits, 0 to 32, most significant first.
func (r *Reader) Bits(n uint) uint32 {
	var v uint32
	for ; n > 0 && r.err == nil; n-- {
		if r.pos >= len(r.buf) {
			r.err = ErrShort
			return 0
		}
		v = v<<1 | uint32(r.buf[r.pos]>>(7-r.bit)&1)
		if r.bit++; r.bit == 8 {
			r.bit, r.pos = 0, r.pos+1
		}
	}
	if r.err != nil {
		return 0
	}
	return v
}

// Flag reads one bit.
func (r *Reader) Flag() bool { return r.Bits(1) == 1 }

// Writer appends big-endian fields to B. The zero value is ready.
type Writer struct{ B []byte }

// Uint8 appends one byte.
func (w *Writer) Uint8(v uint8) { w.B = append(w.B, v) }

// Uint16 appends two bytes.
func (w *Writer) Uint16(v uint16) { w.B = append(w.B, byte(v>>8), byte(v)) }

// Bytes appends b.
func (w *Writer) Bytes(b []byte) { w.B = append(w.B, b...) }
