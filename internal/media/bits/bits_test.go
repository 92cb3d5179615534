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
	w.Uint24(0x040506)
	w.Uint32(0x0708090a)
	w.Uint64(0x0b0c0d0e0f101112)
	w.Bytes([]byte{0xA5, 0xFF})
	r := NewReader(w.B)
	if a, b, c, d, e := r.Uint8(), r.Uint16(), r.Uint24(), r.Uint32(), r.Uint64(); a != 1 || b != 0x0203 ||
		c != 0x040506 || d != 0x0708090a || e != 0x0b0c0d0e0f101112 {
		t.Errorf("read %x %x %x %x %x from % x", a, b, c, d, e, w.B)
	}
	if a, b := r.Bits(3), r.Bits(5); a != 5 || b != 5 {
		t.Errorf("Bits(3), Bits(5) of a5 = %d, %d, want 5, 5", a, b)
	}
	r.Flag()
	if n := r.Len(); n != 0 {
		t.Errorf("Len() with part of the last byte taken = %d, want 0", n)
	}
	r.Align()
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

func TestInt24(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want int32
	}{{[]byte{0, 0, 1}, 1}, {[]byte{0xFF, 0xFF, 0xFF}, -1}, {[]byte{0x80, 0, 0}, -8388608}, {[]byte{0x7F, 0xFF, 0xFF}, 8388607}} {
		if got := NewReader(c.b).Int24(); got != c.want {
			t.Errorf("Int24(% x) = %d, want %d", c.b, got, c.want)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, []byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data, ops []byte) {
		r := NewReader(data)
		for _, op := range ops {
			switch op % 8 {
			case 0:
				r.Uint8()
			case 1:
				r.Bits(uint(op) >> 3)
			case 2:
				r.Align()
			case 3:
				r.Bytes(int(op) - 100)
			case 4:
				r.Uint64()
			case 5:
				if b := r.Rest(); !bytes.Contains(data, b) {
					t.Fatalf("Rest() = % x, not part of % x", b, data)
				}
			case 6:
				r.Int24()
			case 7:
				if n := r.Len(); n < 0 || n > len(data) {
					t.Fatalf("Len() = %d of %d bytes", n, len(data))
				}
			}
		}
	})
}
