package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestHistogramSlots(t *testing.T) {
	last := -1
	for _, v := range []int64{0, 1, 255, 256, 511, 512, 513, 514, 1023, 1024, 1e6, 1e9, 1e12, math.MaxInt64} {
		i := slot(v)
		if i < last {
			t.Errorf("slot(%d) = %d, less than %d of a smaller value", v, i, last)
		}
		last = i
		if hi := top(i); hi < v || hi-v > v/256 {
			t.Errorf("top(slot(%d)) = %d, want at most one part in 256 more", v, hi)
		}
		if i > 0 && top(i-1) >= v {
			t.Errorf("top(slot(%d)-1) = %d, want less", v, top(i-1))
		}
	}
}

func TestHistogramPercentiles(t *testing.T) {
	var h histogram
	if p, m := h.percentile(99), h.mean(); p != 0 || m != 0 {
		t.Errorf("percentile and mean of nothing = %d, %d, want 0, 0", p, m)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []int64
	for range 10_000 {
		v := int64(math.Exp(r.Float64() * 20))
		all = append(all, v)
		h.add(v)
	}
	slices.Sort(all)
	for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
		want := all[min(max(int(p*100+0.5)-1, 0), len(all)-1)]
		if got := h.percentile(p); got < want || got-want > want/256 {
			t.Errorf("percentile(%v) = %d, want %d", p, got, want)
		}
	}
	if h.min != all[0] || h.max != all[len(all)-1] {
		t.Errorf("min, max = %d, %d, want %d, %d", h.min, h.max, all[0], all[len(all)-1])
	}
	h.add(-5)
	if h.min != 0 || h.percentile(0) != 0 {
		t.Errorf("after -5, min = %d, want 0", h.min)
	}
}
