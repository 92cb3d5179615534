package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weir/internal/access"
)

const (
	// A token may ask askRate times a second, and askBurst times at once.
	askRate  = 100
	askBurst = 200

	// An address may fail to authenticate failBurst times at once, and once
	// more each failPause.
	failBurst = 20
	failPause = 3 * time.Second
	// maxFailing bounds the addresses that are remembered.
	maxFailing = 1 << 14
)

// tooMany is the answer to who must wait.
func tooMany(wait time.Duration, text string) error {
	seconds := int(wait/time.Second) + 1
	return huma.ErrorWithHeaders(problem(http.StatusTooManyRequests, kindRate, "%s; wait %d s", text, seconds),
		http.Header{"Retry-After": {strconv.Itoa(seconds)}})
}

// failures counts failed authentications by address, an IPv6 network of 64
// bits being one. Whoever has a valid token is not held up by those who guess
// at the same address: only failures are answered with 429. The zero value is
// ready.
type failures struct {
	mu          sync.Mutex
	recent, old map[netip.Prefix]time.Time // when the account is empty again
}

// note counts a failure and returns how long the address has to wait; zero if
// it has not failed too often.
func (f *failures) note(addr string, now time.Time) time.Duration {
	a, _ := netip.ParseAddr(addr) // what is none counts as one
	who := access.Origin(a)
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.recent[who]
	if !ok {
		at = f.old[who]
	}
	if at.Before(now) {
		at = now
	}
	if wait := at.Sub(now) - (failBurst-1)*failPause; wait > 0 {
		return wait
	}
	if len(f.recent) >= maxFailing/2 {
		f.recent, f.old = nil, f.recent
	}
	if f.recent == nil {
		f.recent = make(map[netip.Prefix]time.Time)
	}
	f.recent[who] = at.Add(failPause)
	return 0
}
