package bits

import (
	"bytes"
	"errors"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	var w Writer
	w.Uint8(1)
	w.Uint16(0x0203)
	w.Bytes([]byte{4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0xA5, 0xFF})
	r := NewReader(w.B)
	if a, b, c, d := r.Uint8(), r.Uint16(), r.Uint32(), r.Uint64(); a != 1 || b != 0x0203 || c != 0x04050607 || d != 0x08090a0b0c0d0e0f {
		t.Errorf("read %x %x %x %x from % x", a, b, c, d, w.B)
	}
	if a, b := r.Bits(3), r.Bits(5); a != 5 || b != 5 {
		t.Errorf("Bits(3), Bits(5) of a5 = %d, %d, want 5, 5", a, b)
	}
	r.Flag()
	if n := r.Len(); n != 0 {
		t.Errorf("Len() with part of the last byte taken = %d, want 0", n)
	}
	if err := r.Err(); err != nil {
		t.Errorf("Err() = %v, want nil", err)
	}
}

func TestShortReadsFailOnceAndStay(t *testing.T) {
	r := NewReader([]byte{1, 2, 3})
	if v := r.Uint32(); v != 0 || !errors.Is(r.Err(), ErrShort) {
		t.Errorf("Uint32() of 3 bytes = %d, %v, want 0, ErrShort", v, r.Err())
	}
	if v := r.Uint8(); v != 0 {
		t.Errorf("Uint8() after an error = %d, want 0", v)
	}
	if r.Fail(errors.New("later")); !errors.Is(r.Err(), ErrShort) {
		t.Errorf("Err() = %v, want the first error", r.Err())
	}
	for _, n := range []int{-1, 4, 1 << 62} {
		r := NewReader([]byte{1, 2, 3})
		if b := r.Bytes(n); b != nil || r.Err() == nil {
			t.Errorf("Bytes(%d) of 3 bytes = % x, %v, want an error", n, b, r.Err())
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, []byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data, ops []byte) {
		r := NewReader(data)
		for _, op := range ops {
			switch op % 6 {
			case 0:
				r.Uint8()
			case 1:
				r.Bits(uint(op) >> 3)
			case 2:
				r.Bytes(int(op) - 100)
			case 3:
				r.Uint64()
			case 4:
				if b := r.Rest(); !bytes.Contains(data, b) {
					t.Fatalf("Rest() = % x, not part of % x", b, data)
				}
			case 5:
				if n := r.Len(); n < 0 || n > len(data) {
					t.Fatalf("Len() = %d of %d bytes", n, len(data))
				}
			}
		}
	})
}
