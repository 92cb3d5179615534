package hls

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
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
// One that is ended by the owner of the stream has no connection to be closed: it
// is refused for as long as it goes on asking, and for a while more.
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

	ended    map[outcast]time.Time // when they last asked
	outcasts atomic.Int64          // how many: as long as there are none, nobody takes mu to know
}

// outcast is a viewer that was ended.
type outcast struct {
	key stream.Key
	who uint64
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
	// outcastIdle is for how long one that was ended must ask for nothing until it
	// is served again.
	outcastIdle = time.Minute
)

// Why the stay of a viewer is over.
const (
	viewerLeft   = "player left"
	viewerOver   = "stream is over"
	viewerClosed = "server is shutting down"
	viewerKicked = "ended by the owner"
)

// who tells those who ask apart.
func (v *viewers) who(req *access.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(v.hash)
	addr := req.Addr.Addr().As16()
	h.Write(addr[:])
	h.WriteString(req.UserAgent)
	return h.Sum64()
}

// served notes that n bytes of a channel went to who asks with g.
func (v *viewers) served(c *channel, g *access.Grant, r *http.Request, n int) {
	req := g.Request()
	who, now := v.who(&req), time.Now()

	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ended := v.ended[outcast{c.key, who}]; ended {
		return // while it was being answered
	}
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
	for o, last := range v.ended {
		if now.Sub(last) >= outcastIdle {
			v.forgive(o)
		}
	}
	if v.number > 0 || len(v.ended) > 0 {
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
	if v.emit == nil {
		return
	}
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

// kick ends a viewer by the will of the stream's owner. v.mu is held.
func (v *viewers) kick(c *channel, who uint64) {
	v.end(c, who, viewerKicked)
	for o := range v.ended {
		if len(v.ended) < v.most {
			break
		}
		v.forgive(o) // any
	}
	if v.ended == nil {
		v.ended = make(map[outcast]time.Time)
	}
	v.ended[outcast{c.key, who}] = time.Now()
	v.outcasts.Store(int64(len(v.ended)))
}

// forgive has one served again that was ended. v.mu is held.
func (v *viewers) forgive(o outcast) {
	delete(v.ended, o)
	v.outcasts.Store(int64(len(v.ended)))
}

// refuses reports whether who asks with g was ended.
func (v *viewers) refuses(g *access.Grant) bool {
	if v.outcasts.Load() == 0 {
		return false
	}
	req := g.Request()
	o := outcast{g.Key(), v.who(&req)}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ended := v.ended[o]; !ended {
		return false
	}
	v.ended[o] = time.Now()
	return true
}

// Viewer describes who plays over HLS: a row of requests of one address and
// User-Agent for one stream.
type Viewer struct {
	ID    uint64 // among all sessions that ever were
	Key   stream.Key
	Addr  netip.AddrPort // of its first request
	Since time.Time
	Bytes int64 // sent
}

func (w *viewer) describe(key stream.Key) Viewer {
	return Viewer{w.session, key, w.client.Addr, w.since, w.bytes}
}

// Viewers returns who plays, in no order: a stream, if key is not zero.
func (s *Server) Viewers(key stream.Key) []Viewer {
	v := &s.viewers
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []Viewer
	for c, all := range v.of {
		if key == (stream.Key{}) || c.key == key {
			for _, w := range all {
				list = append(list, w.describe(c.key))
			}
		}
	}
	return list
}

// Viewer returns the one of that ID.
func (s *Server) Viewer(id uint64) (Viewer, bool) {
	s.viewers.mu.Lock()
	defer s.viewers.mu.Unlock()
	if c, who := s.viewers.find(id); c != nil {
		return s.viewers.of[c][who].describe(c.key), true
	}
	return Viewer{}, false
}

// find returns where the viewer of that ID is. v.mu is held.
func (v *viewers) find(id uint64) (*channel, uint64) {
	for c, all := range v.of {
		for who, w := range all {
			if w.session == id {
				return c, who
			}
		}
	}
	return nil, 0
}

// Kick ends a viewer by the will of the stream's owner, and reports whether there
// was one. It is refused, as who is on a block list, as long as it goes on asking
// for the stream, until it has asked for nothing for a minute.
func (s *Server) Kick(id uint64) bool {
	s.viewers.mu.Lock()
	defer s.viewers.mu.Unlock()
	c, who := s.viewers.find(id)
	if c != nil {
		s.viewers.kick(c, who)
	}
	return c != nil
}

// KickViewers is Kick for all who play a stream and of whose stay there is an
// account. It returns how many they were.
func (s *Server) KickViewers(key stream.Key) (n int) {
	v := &s.viewers
	v.mu.Lock()
	defer v.mu.Unlock()
	for c, all := range v.of {
		if c.key == key {
			for who := range all {
				v.kick(c, who)
				n++
			}
		}
	}
	return n
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
