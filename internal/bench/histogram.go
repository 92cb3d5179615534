package bench

import "math/bits"

// A histogram counts durations in nanoseconds, each with an error of less
// than one part in 256, in a fixed amount of memory. The zero value is empty.
type histogram struct {
	counts [56 * 256]uint64
	n      uint64
	sum    int64
	min    int64
	max    int64
}

// add counts v; a negative one, which two clocks can produce, as zero.
func (h *histogram) add(v int64) {
	v = max(v, 0)
	if h.n == 0 || v < h.min {
		h.min = v
	}
	h.max = max(h.max, v)
	h.sum += v
	h.n++
	h.counts[slot(v)]++
}

// slot returns v itself below 512, and for each power of two above it 256
// slots by the nine most significant bits.
func slot(v int64) int {
	shift := max(bits.Len64(uint64(v))-9, 0)
	return shift*256 + int(v>>shift)
}

// top returns the largest value that slot i counts.
func top(i int) int64 {
	shift := max(i/256-1, 0)
	return int64(i-shift*256+1)<<shift - 1
}

// percentile returns the value that p percent of the values do not exceed.
func (h *histogram) percentile(p float64) int64 {
	want := max(uint64(p/100*float64(h.n)+0.5), 1)
	var n uint64
	for i, c := range h.counts {
		if n += c; n >= want {
			return min(max(top(i), h.min), h.max)
		}
	}
	return 0
}

// mean returns the arithmetic mean, 0 of no values.
func (h *histogram) mean() int64 {
	if h.n == 0 {
		return 0
	}
	return h.sum / int64(h.n)
}
