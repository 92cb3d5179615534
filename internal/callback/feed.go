package callback

import (
	"cmp"
	"slices"
)

// feed is a walk over the log: of the router, or of one detached receiver. It
// knows what it has handed on that is not settled, and so from where one would
// have to begin again. The Dispatcher's lock guards it.
type feed struct {
	next uint64  // everything before has been read
	open []*slot // what was handed on, from the first that is not settled
}

// slot is a fact that a feed has handed on.
type slot struct {
	seq     uint64
	r       *receiver
	settled bool // told, or recorded elsewhere
}

func (f *feed) add(seq uint64, r *receiver) *slot {
	s := &slot{seq: seq, r: r}
	i := len(f.open)
	for i > 0 && f.open[i-1].seq > seq {
		i--
	}
	f.open = slices.Insert(f.open, i, s)
	return s
}

// cursor returns from where to read again so that nothing is left out.
func (f *feed) cursor() uint64 {
	i := 0
	for i < len(f.open) && f.open[i].settled {
		f.open[i] = nil
		i++
	}
	f.open = f.open[i:]
	if len(f.open) == 0 {
		f.open = nil
		return f.next
	}
	return min(f.open[0].seq, f.next)
}

// take adds what is not settled of another feed.
func (f *feed) take(other *feed) {
	for _, s := range other.open {
		if !s.settled {
			f.open = append(f.open, s)
		}
	}
	other.open = nil
	slices.SortFunc(f.open, func(a, b *slot) int { return cmp.Compare(a.seq, b.seq) })
}
