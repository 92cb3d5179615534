package hls

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"weir/internal/access"
	"weir/internal/event"
	"weir/internal/stream"
)

// viewers are who plays over HLS. A player is a row of requests: those of one
// address and User-Agent for one stream, until none has come for a while. So
// players behind one address that call themselves the same are one, and so is
// a cache.
//
// They are looked through at intervals while there are any.
type viewers struct {
	hash maphash.Seed
	emit func(event.Event)
	most int

	mu     sync.Mutex
	of     map[*channel]map[uint64]*viewer // by a hash of who asks
	number int
	timer  *time.Timer // nil: there are none
	closed bool
	untold int64
}

// viewer is one of them. It is small: they may be many.
type viewer struct {
	client      event.Client
	push        string // Sequence of the push that was live when it came, or last
	session     uint64
	since, last time.Time
	bytes       int64
}

const (
	// maxViewers is of how many at a time there is an account. What others
	// cause is counted with all.
	maxViewers = 50_000
	// viewersEvery is how often they are looked through.
	viewersEvery = 5 * time.Second
	// viewerIdle is how long a viewer may ask for nothing, beyond three target
	// durations.
	viewerIdle = 10 * time.Second
)

// Why the stay of a viewer is over.
const (
	viewerLeft   = "player left"
	viewerOver   = "stream is over"
	viewerClosed = "server is shutting down"
)

// served notes that n bytes of a channel went to who asks with g.
func (v *viewers) served(c *channel, g *access.Grant, r *http.Request, n int) {
	if v.emit == nil {
		return
	}
	req := g.Request()
	var h maphash.Hash
	h.SetSeed(v.hash)
	addr := req.Addr.Addr().As16()
	h.Write(addr[:])
	h.WriteString(req.UserAgent)
	who, now := h.Sum64(), time.Now()

	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.of[c][who]
	if w == nil {
		if v.closed {
			return
		}
		if v.number >= v.most {
			v.untold++
			return
		}
		if v.of[c] == nil {
			v.of[c] = make(map[uint64]*viewer)
		}
		w = &viewer{client: req.Client(localAddr(r)), push: c.traffic.Load().Sequence(), session: rand.Uint64(), since: now}
		v.of[c][who] = w
		v.number++
		c.traffic.Load().Came(stream.HLS)
		if v.timer == nil {
			v.timer = time.AfterFunc(viewersEvery, v.look)
		}
	}
	w.last = now
	w.bytes += int64(n)
}

// localAddr is the address of this node at which the client has arrived.
func localAddr(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// look ends the stay of those who have not asked for a while.
func (v *viewers) look() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	now := time.Now()
	for c, all := range v.of {
		idle := viewerIdle + 3*c.target()
		for who, w := range all {
			if now.Sub(w.last) >= idle {
				v.end(c, who, viewerLeft)
			}
		}
	}
	if v.number > 0 {
		v.timer.Reset(viewersEvery)
	} else {
		v.timer = nil
	}
}

// end tells of a viewer. v.mu is held.
func (v *viewers) end(c *channel, who uint64, reason string) {
	w := v.of[c][who]
	delete(v.of[c], who)
	if len(v.of[c]) == 0 {
		delete(v.of, c)
	}
	v.number--
	e := event.New(w.last, event.PlayEnded{
		Client: w.client, Session: fmt.Sprintf("%016x", w.session), Started: w.since, Reason: reason, Bytes: w.bytes,
	})
	e.Space, e.App, e.Stream, e.Sequence = c.key.Space, c.key.App, c.key.Name, w.push
	v.emit(e)
}

// over ends the stay of all who play a channel that is gone.
func (v *viewers) over(c *channel, reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for who := range v.of[c] {
		v.end(c, who, reason)
	}
}

// close ends the stay of all.
func (v *viewers) close() {
	v.mu.Lock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	var left []*channel
	for c := range v.of {
		left = append(left, c)
	}
	v.mu.Unlock()
	for _, c := range left {
		v.over(c, viewerClosed)
	}
}

// count returns how many there are, and how many requests were served to others
// because there was no room.
func (v *viewers) count() (now int, untold int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.number, v.untold
}
