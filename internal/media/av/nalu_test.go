package av

import (
	"bytes"
	"fmt"
	"testing"
)

// frame joins units with lengths of the given size.
func frame(lengthSize int, units ...string) []byte {
	var b []byte
	for _, u := range units {
		for i := lengthSize - 1; i >= 0; i-- {
			b = append(b, byte(len(u)>>(8*i)))
		}
		b = append(b, u...)
	}
	return b
}

func TestNALUs(t *testing.T) {
	for _, size := range []int{1, 2, 4} {
		got, err := NALUs(nil, frame(size, "\x67a", "", "\x68b", "\x65cde"), size)
		if want := "[\x67a \x68b \x65cde]"; err != nil || fmt.Sprintf("%s", got) != want {
			t.Errorf("NALUs of length size %d = %s, %v, want %s", size, got, err, want)
		}
	}
}

// H80: NAL unit lengths that lie.
func TestBrokenNALUs(t *testing.T) {
	ones := bytes.Repeat([]byte{0, 0, 0, 1, 0x41}, 1_000_000)
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"nothing", nil, true},
		{"length 0", frame(4, ""), true},
		{"length > rest", []byte{0, 0, 0, 2, 0x65}, false},
		{"length 0xFFFFFFFF", []byte{0xFF, 0xFF, 0xFF, 0xFF, 0x65}, false},
		{"length cut", []byte{0, 0, 1}, false},
		{"junk behind", append(frame(4, "\x65"), 0, 0), false},
		{"Annex B", []byte("\x00\x00\x00\x01\x67abcdefgh\x00\x00\x00\x01\x65abc"), false},
		{"2048 units", ones[:5*MaxNALUs], true},
		{"2049 units", ones[:5*MaxNALUs+5], false},
		{"a million units", ones, false},
		{"a million empty units", make([]byte, 4_000_000), false},
	} {
		got, err := NALUs(nil, c.b, 4)
		if (err == nil) != c.ok || len(got) > MaxNALUs {
			t.Errorf("%s: NALUs gives %d units, error %v, want ok = %v", c.name, len(got), err, c.ok)
		}
		key, err := RandomAccess(H264, c.b, 4, true)
		if (err == nil) != (c.ok && len(got) > 0) || key {
			t.Errorf("%s: RandomAccess = %v, %v", c.name, key, err)
		}
	}
}

// H83: what the container calls a key frame is believed only with a recovery point.
func TestRandomAccess(t *testing.T) {
	const (
		recovery  = "\x06\x06\x01\xc4\x80"
		timing    = "\x06\x01\x02\x00\x00\x80"
		emulated  = "\x06\x05\x04\x00\x00\x03\x00\x00\x06\x01\xc4\x80" // user data 00 00 00 00, then a recovery point
		longSEI   = "\x06\x05\xff\x01"
		slice     = "\x41\x9a"
		sliceHEVC = "\x02\x01\xd0"
	)
	for _, c := range []struct {
		name             string
		codec            Codec
		flagged, unsaid  bool // want with the container's flag, and without
		unit1, unit2, u3 string
	}{
		{"IDR", H264, true, true, "\x67a", "\x68b", "\x65c"},
		{"inter", H264, false, false, "\x09\xf0", slice, ""},
		{"recovery point", H264, true, false, timing, recovery, slice},
		{"two messages", H264, true, false, timing[:5] + recovery[1:], slice, ""},
		{"behind emulation prevention", H264, true, false, emulated, slice, ""},
		{"other SEI", H264, false, false, timing, slice, ""},
		{"SEI cut", H264, false, false, longSEI, slice, ""},
		{"SEI empty", H264, false, false, "\x06", slice, ""},
		{"HEVC IDR_W_RADL", HEVC, true, true, "\x26\x01a", "", ""},
		{"HEVC CRA", HEVC, true, true, "\x2a\x01a", "", ""},
		{"HEVC BLA", HEVC, true, true, "\x20\x01a", "", ""},
		{"HEVC reserved 22", HEVC, false, false, "\x2c\x01a", "", ""},
		{"HEVC inter", HEVC, false, false, "\x46\x01\x50", sliceHEVC, ""},
	} {
		b := frame(4, c.unit1, c.unit2, c.u3)
		for _, flag := range []bool{true, false} {
			want := c.unsaid
			if flag {
				want = c.flagged
			}
			if got, err := RandomAccess(c.codec, b, 4, flag); err != nil || got != want {
				t.Errorf("%s: RandomAccess(flagged %v) = %v, %v, want %v", c.name, flag, got, err, want)
			}
		}
	}
}

func FuzzNALUs(f *testing.F) {
	f.Add(frame(4, "\x67a", "\x65b"), uint8(4))
	f.Add(frame(2, "\x06\x06\x01\xc4", "\x41b"), uint8(2))
	f.Add(frame(1, "\x26\x01b"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		if size != 1 && size != 2 {
			size = 4
		}
		units, err := NALUs(nil, b, int(size))
		n := 0
		for _, u := range units {
			if len(u) == 0 {
				t.Fatal("an empty unit")
			}
			n += len(u) + int(size)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of units in %d bytes", n, len(b))
		}
		for _, codec := range []Codec{H264, HEVC} {
			if _, err2 := RandomAccess(codec, b, int(size), true); (err2 == nil) != (err == nil && len(units) > 0) {
				t.Fatalf("RandomAccess: %v, NALUs: %v", err2, err)
			}
		}
	})
}
