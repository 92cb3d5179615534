package bench

import (
	"bytes"
	"math"
	"testing"
)

func TestClock(t *testing.T) {
	for _, c := range []struct {
		wall   int64
		number uint64
	}{{1, 0}, {1, 1}, {1_893_456_000_123_456_789, 1<<35 - 1}, {math.MaxInt64, 12345}} {
		nalu := clockSEI(c.number%2 == 1)
		putClock(nalu[len(nalu)-1-clockSize:], c.wall, c.number)
		if bytes.Contains(nalu, []byte{0}) {
			t.Errorf("SEI of %v = % x has a zero byte", c, nalu)
		}
		b := append([]byte("before"), nalu...)
		if wall, number, ok := findClock(b); wall != c.wall || number != c.number || !ok {
			t.Errorf("findClock = %d, %d, %v, want %d, %d, true", wall, number, ok, c.wall, c.number)
		}
		for n := range b[:len(b)-1] {
			if _, _, ok := findClock(b[:n]); ok {
				t.Errorf("findClock found a clock in %d of %d bytes", n, len(b))
			}
		}
	}
	if _, _, ok := findClock(clockSEI(false)); ok {
		t.Error("findClock found a clock that has not been set")
	}
}
