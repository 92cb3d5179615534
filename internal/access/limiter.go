package access

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// An address may fail patience times in a row; then each answer takes longer,
// up to slowest. The account goes down by one each forgiveness. When it has
// reached tooMany, which takes many at a time, the address is shut out for
// shutOut. No address can bring another one to that, as long as they are not
// of one IPv6 network.
const (
	patience    = 20
	tooMany     = 100
	forgiveness = 2 * time.Second
	slowest     = 2 * time.Second
	shutOut     = time.Minute

	// maxFailing bounds the addresses that are remembered. Those that failed
	// last stay.
	maxFailing = 1 << 16
)

// limiter slows down those who guess. The zero value is ready.
type limiter struct {
	mu sync.Mutex
	// recent holds half of maxFailing addresses at most; when it is full it
	// becomes old, and the old one is forgotten.
	recent, old map[netip.Prefix]account
}

// account is what an address has failed: count failures as of at.
type account struct {
	count float64
	at    time.Time
	shut  time.Time // until when it is shut out
}

// Origin is what counts as one address: of IPv6 a network of 64 bits, which
// one client can have for itself. It is not valid if a is not.
func Origin(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}

// open reports whether a request of that address is judged at all.
func (l *limiter) open(a netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.recent)+len(l.old) == 0 {
		return true
	}
	return !l.find(Origin(a)).shut.After(now)
}

func (l *limiter) find(who netip.Prefix) account {
	if acc, ok := l.recent[who]; ok {
		return acc
	}
	return l.old[who]
}

// failed notes a failure of that address and returns when it may be told, or
// ctx ends.
func (l *limiter) failed(ctx context.Context, a netip.Addr, now time.Time) {
	if d := l.count(Origin(a), now); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// count notes a failure and returns for how long it is not to be told.
func (l *limiter) count(who netip.Prefix, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	acc := l.find(who)
	acc.count = max(0, acc.count-float64(now.Sub(acc.at))/float64(forgiveness)) + 1
	acc.at = now
	if acc.count >= tooMany {
		acc.count, acc.shut = patience, now.Add(shutOut)
	}
	if len(l.recent) == maxFailing/2 {
		l.recent, l.old = nil, l.recent
	}
	if l.recent == nil {
		l.recent = make(map[netip.Prefix]account)
	}
	l.recent[who] = acc
	if over := acc.count - patience; over > 0 {
		return time.Duration(min(1, over/40) * float64(slowest))
	}
	return 0
}
