// Package hls cuts streams into segments and serves them over HTTP (RFC 8216).
//
// A [Packager] makes segments of packets. The segments of a stream name go into
// its channel: a sliding playlist with the segments it lists and those it
// listed until lately, all in memory. Whenever the playlist changes the
// channel's view is rendered once, and requests are answered from there: ready
// bytes, ready header values, no lock.
//
// A channel begins with the first request for the stream, or with the stream
// if its app wants that, and packaging ends when nobody asks any more or the
// stream is over. Its numbers go on when a publisher returns.
package hls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/access"
	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
	"weir/internal/tracing"
)

const (
	// patience is for how long a request waits for the first segment.
	patience = 15 * time.Second
	// tokenLife is how long the token of a segment is valid beyond what its
	// playlist lasts.
	tokenLife = time.Minute
	// memory is for how long the numbers of a channel are kept that is gone.
	memory = 10 * time.Minute
)

// Options are a Server's settings. The zero value is ready.
type Options struct {
	Log *slog.Logger

	// MaxBytes is how much all segments may take in memory; 0 is no bound.
	MaxBytes int64

	// Numbers is a file that keeps discontinuity sequence numbers from falling when
	// weir is restarted; "": only the clock does.
	Numbers string

	// Emit takes the fact of a player whose stay is over; nil: nobody is told. It
	// does not wait.
	Emit func(event.Event)
}

// Server serves HLS. Its methods may be called from any goroutine.
type Server struct {
	hub     *stream.Hub
	gate    *access.Gate
	log     *slog.Logger
	ladder  func(*stream.Stream) *Ladder
	started time.Time
	jobs    sync.WaitGroup
	stats   stats
	room    room
	numbers numbers
	viewers viewers

	mu       sync.RWMutex
	closed   bool
	channels map[stream.Key]*channel
	past     map[stream.Key]position // of channels that are gone
	pruned   time.Time               // when past was last looked through
}

// line is the Line of a job.
type line struct {
	*stream.Stream
	*stream.Reader
}

// job is one stream being packaged into a channel, by a goroutine that ends
// when its reader does.
type job struct {
	stream *stream.Stream
	reader *stream.Reader
	watch  *time.Timer // ends it when nobody asks; nil: runs as long as the stream
	idle   atomic.Bool // it was ended so
	off    bool        // it ended because its stream is to have no HLS
	cfg    policy.HLS  // under Server.mu
	done   chan struct{}
}

// NewServer returns a Server of the hub's streams, to which it attaches itself:
// it is called before the hub is used. The caller ends it with Close.
func NewServer(hub *stream.Hub, gate *access.Gate, o Options) *Server {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	s := &Server{
		hub: hub, gate: gate, log: o.Log, started: time.Now(),
		channels: make(map[stream.Key]*channel), past: make(map[stream.Key]position),
	}
	s.room.most = o.MaxBytes
	s.numbers.log = o.Log
	s.numbers.open(o.Numbers, s.started)
	s.viewers = viewers{hash: maphash.MakeSeed(), emit: o.Emit, most: maxViewers, of: make(map[*channel]map[uint64]*viewer)}
	s.stats.refused = make(map[access.Reason]int64)
	hub.Follow(s.follow)
	return s
}

// Close ends all packaging and waits for it. Requests that come later find no
// stream.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.channels {
		if c.job != nil {
			c.job.reader.Close()
		}
	}
	s.mu.Unlock()
	s.jobs.Wait()
	s.viewers.close()
	s.numbers.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.channels {
		s.remove(c, viewerClosed)
	}
}

// follow packages what is published from its start on if its app wants that.
func (s *Server) follow(_ context.Context, pub *stream.Publication, r *stream.Reader) {
	r.Close()
	for st := pub.Stream(); s.always(st); {
		c, j := s.attach(st)
		if c == nil || j.stream == st && !j.idle.Load() {
			return
		}
		<-j.done // soon: the last stream of that name is over, or nobody asked for this one
	}
}

// attach packages st into the channel of its name, unless that is being done or
// the last publication of that name is still being finished. It returns the
// channel and what is done there; nil after Close.
func (s *Server) attach(st *stream.Stream) (*channel, *job) {
	cfg, now := st.App().HLS, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil
	}
	c := s.channels[st.Key()]
	if c == nil {
		at := origin(now)
		if p, ok := s.past[st.Key()]; ok {
			at = at.after(p)
		}
		c = newChannel(st.Key(), at)
		c.room, c.base = &s.room, s.numbers.base
		s.channels[st.Key()] = c
	}
	if c.job != nil {
		return c, c.job
	}
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	j := &job{stream: st, reader: st.NewReader(), done: make(chan struct{})}
	c.job = j
	c.expect(need(st))
	c.traffic.Store(st.Traffic())
	s.touch(c)
	p := s.begin(c, j, cfg)
	s.jobs.Go(func() { s.work(c, j, p) })
	return c, j
}

// begin returns a Packager of the job's stream into the channel, under cfg, and has
// the job end when nobody asks. s.mu is held.
func (s *Server) begin(c *channel, j *job, cfg policy.HLS) (p *Packager) {
	if j.watch != nil {
		j.watch.Stop()
		j.watch = nil
	}
	if j.cfg = cfg; cfg.Mode != policy.HLSAlways {
		j.watch = time.AfterFunc(cfg.Idle, func() { s.checkIdle(c, j) })
	}
	log := s.log.With("stream", c.key.String())
	p = NewPackager(cfg, log, c.begin(cfg), line{j.stream, j.reader}, func() bool { return c.waiting.Load() > 0 },
		func(seg Segment) {
			s.numbers.reach(seg.Era)
			c.add(seg, p.TargetDuration(), !s.makeRoom(len(seg.Data)), log)
		})
	return p
}

// work packages until the stream is over or nobody asks any more.
func (s *Server) work(c *channel, j *job, p *Packager) {
	log := p.log
	log.Info("HLS begins")
	defer close(j.done)
	p, failed := s.pump(c, j, p, log)
	j.reader.Close()
	if j.watch != nil {
		j.watch.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.job = nil
	j.stream.Traffic().Watching(stream.HLS, 0)
	end := p.End()
	if j.idle.Load() {
		end = p.lastPTS + 1 // the same stream may be wanted again, from its newest key frame
	}
	left := c.end(end)
	if j.off {
		s.after(c, c.hide(), func() { s.remove(c, viewerOver) })
		log.Info("HLS ends: it is off from this push on")
		return
	}
	if failed || j.idle.Load() || s.closed {
		reason := viewerOver
		switch {
		case s.closed:
			reason = viewerClosed
		case j.idle.Load():
			reason = viewerLeft
		}
		s.remove(c, reason)
		log.Info("HLS ends", "idle", j.idle.Load())
		return
	}
	log.Info("HLS ends with the stream")
	s.after(c, left, func() { s.after(c, c.hide(), func() { s.remove(c, viewerOver) }) })
}

// pump moves packets from the job's reader to a Packager: at the beginning first,
// and another one when a publisher has come with other settings. It returns the last
// one, and whether that ended in a panic.
func (s *Server) pump(c *channel, j *job, first *Packager, log *slog.Logger) (p *Packager, failed bool) {
	p = first
	defer func() {
		if v := recover(); v != nil {
			failed = true
			s.stats.panics.Add(1)
			log.Error("panic", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	refused := av.Unknown
	for {
		pkt, err := j.reader.ReadPacket()
		if err != nil {
			break
		}
		if pkt.Break {
			if cfg := j.stream.App().HLS; cfg.Mode == policy.HLSOff {
				j.off = true
				break
			} else if cfg != j.cfg {
				p, refused = s.renew(c, j, p, cfg), av.Unknown
			}
		}
		p.WritePacket(pkt)
		if r := p.Refused(); r != refused {
			refused = r
			c.refuse(r != av.Unknown)
		}
	}
	if !j.idle.Load() {
		p.Close()
	}
	return p, false
}

// renew ends what a Packager has made of the publisher before and returns one that
// goes on under cfg.
func (s *Server) renew(c *channel, j *job, p *Packager, cfg policy.HLS) *Packager {
	p.Close()
	c.pass(p.lastPTS + 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	p = s.begin(c, j, cfg)
	p.broken = true
	return p
}

// after runs f, with s.mu held, after a time in which nobody began to package
// into the channel. s.mu is held.
func (s *Server) after(c *channel, d time.Duration, f func()) {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.timer == t {
			f()
		}
	})
	c.timer = t
}

// remove forgets a channel but for its numbers. Its viewers' stay is over for
// that reason. s.mu is held.
func (s *Server) remove(c *channel, reason string) {
	s.viewers.over(c, reason)
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	now := time.Now()
	delete(s.channels, c.key)
	s.past[c.key] = c.leave(now)
	c.release()
	if now.Sub(s.pruned) > memory/10 {
		s.pruned = now
		for k, p := range s.past {
			if now.Sub(p.left) > memory {
				delete(s.past, k)
			}
		}
	}
}

// clock counts nanoseconds that no change of the wall clock touches.
func (s *Server) clock() int64 { return int64(time.Since(s.started)) }

func (s *Server) touch(c *channel) { c.asked.Store(s.clock()) }

// checkIdle ends the job if nobody has asked for so long that nobody can want
// its segments, and otherwise looks again when that can be.
func (s *Server) checkIdle(c *channel, j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.job != j || j.watch == nil {
		return
	}
	if c.waiting.Load() > 0 {
		s.touch(c)
	}
	if left := max(j.cfg.Idle, c.lasts()) - time.Duration(s.clock()-c.asked.Load()); left > 0 {
		j.watch.Reset(left)
		return
	}
	j.idle.Store(true)
	j.reader.Close()
}

// stats is what a Server counts.
type stats struct {
	playlists, segments, bytes, panics atomic.Int64

	mu      sync.Mutex
	refused map[access.Reason]int64
}

func (s *stats) refuse(reason access.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[reason]++
}

// Stats is a Server's account since it began.
type Stats struct {
	Channels  int                     // streams that have, or lately had, HLS players
	Players   int                     // about: requests for a playlist while it stayed the same
	Held      int64                   // bytes of segments in memory
	Most      int64                   // bytes that they may take; 0 is no bound
	Playlists int64                   // served
	Segments  int64                   // served
	BytesOut  int64                   // of playlists and segments
	Refused   map[access.Reason]int64 // requests that were refused
	Panics    int64                   // streams whose packaging was ended by a panic

	Viewers int   // of whose stay there is an account
	Untold  int64 // requests of those for whom there was no room
}

// Stats returns the Server's account.
func (s *Server) Stats() Stats {
	st := Stats{
		Playlists: s.stats.playlists.Load(), Segments: s.stats.segments.Load(),
		BytesOut: s.stats.bytes.Load(), Panics: s.stats.panics.Load(),
	}
	s.stats.mu.Lock()
	st.Refused = maps.Clone(s.stats.refused)
	s.stats.mu.Unlock()
	st.Viewers, st.Untold = s.viewers.count()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st.Channels, st.Held, st.Most = len(s.channels), s.room.held.Load(), s.room.most
	for _, c := range s.channels {
		if c.job != nil {
			st.Players += int(c.players.Load()) + int(c.waiting.Load())
		}
	}
	return st
}

// Header values that all answers share. net/http does not change them.
var (
	typeHLS  = []string{"application/vnd.apple.mpegurl"}
	typeText = []string{"text/plain"}
	typeTS   = []string{"video/mp2t"}

	playlistCache = []string{fmt.Sprintf("max-age=%d", int(playlistAge.Seconds()))}
	segmentCache  = []string{fmt.Sprintf("max-age=%d, immutable", int(segmentAge.Seconds()))}
	ownPlaylist   = []string{"private, " + playlistCache[0]}
	ownSegment    = []string{"private, " + segmentCache[0]}
	gzipEncoding  = []string{"gzip"}
	varyEncoding  = []string{"Accept-Encoding"}
)

// ServeHTTP answers requests for playlists and segments:
//
//	/{app}/{stream}/index.m3u8  /{app}/{stream}/playlist.m3u8  /{app}/{stream}.m3u8
//	/{app}/{stream}/master.m3u8, which lists the stream and its renditions
//	/{app}/{stream}/media.m3u8, the stream's own where the others are the master
//	/{app}/{stream}/{time of the first frame, 1/90000 s}.ts
//
// Errors are the guide's (contract B.4). A segment that is not there, or not
// any more, is a plain 404. A request for a playlist that has no segment yet waits
// for it, and is told to come again if it takes too long.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !access.Readable(w, r) {
		return
	}
	req, err := access.FromHTTP(r)
	if err == access.ErrNotStream || err == nil && req.Protocol != access.HLS {
		http.NotFound(w, r)
		return
	}
	var grant *access.Grant
	if err == nil {
		ctx, span := tracing.Start(r.Context(), "hls", "app", req.App, "stream", req.Stream)
		defer span.End()
		grant, err = s.gate.Check(ctx, req)
	}
	if err == nil && s.viewers.refuses(grant) {
		d := grant.Deny(access.Blocked)
		d.Why, err = viewerKicked, d
	}
	if err == nil {
		if strings.HasSuffix(req.File, ".ts") {
			err = s.serveSegment(w, r, grant)
		} else {
			err = s.servePlaylist(w, r, grant)
		}
	}
	if err == nil || r.Context().Err() != nil {
		return
	}
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		s.stats.refuse(d.Reason)
		s.log.Debug("refused", "request", req, "reason", d.Reason)
		access.WriteHTTPError(w, r, d)
		return
	}
	// There is no playlist yet, or somebody who was to decide did not.
	s.log.Debug("not served", "request", req, "err", err)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if err == errFull {
		s.stats.refuse(noRoom)
		h.Set("Retry-After", "5")
		http.Error(w, "503: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	h.Set("Retry-After", "1")
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// errFull is the error of a request for a stream that there is no room for.
var errFull = errors.New("HLS takes all the memory that it may (hls_memory); come again later")

// errNoSegment is the error of a request that waited for long enough.
var errNoSegment = errors.New("no segment yet")

// find returns the channel of a name, nil if there is none, and whether it is
// being packaged into.
func (s *Server) find(key stream.Key) (c *channel, busy bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c = s.channels[key]
	return c, c != nil && c.job != nil
}

func (s *Server) serveSegment(w http.ResponseWriter, r *http.Request, g *access.Grant) error {
	c, _ := s.find(g.Key())
	if c == nil && s.hub.Find(g.Key()) == nil {
		return g.Deny(access.NoStream)
	}
	var seg *segment
	if c != nil {
		s.touch(c)
		seg = c.view.Load().segments[g.Request().File]
	}
	if seg == nil {
		w.Header().Set("Cache-Control", "no-cache")
		http.Error(w, "no such segment", http.StatusNotFound)
		return nil
	}
	h := w.Header()
	h["Content-Type"] = typeTS
	h["Cache-Control"] = segmentCache
	if g.Private() {
		h["Cache-Control"] = ownSegment
	}
	h["Content-Length"] = seg.length
	if r.Method != http.MethodHead {
		s.stats.segments.Add(1)
		n, _ := w.Write(seg.data)
		s.stats.bytes.Add(int64(n))
		c.served(n)
		s.viewers.served(c, g, r, n)
	}
	return nil
}

func (s *Server) servePlaylist(w http.ResponseWriter, r *http.Request, g *access.Grant) error {
	if l, err := s.master(g); err != nil || l != nil {
		if err != nil {
			return err
		}
		return s.serveMaster(w, r, g, l)
	}
	c, busy := s.find(g.Key())
	if !busy {
		if st := s.hub.Await(r.Context(), g.Key()); st != nil {
			if st.App().HLS.Mode == policy.HLSOff {
				return g.Deny(access.NoStream)
			}
			if r.Method == http.MethodHead && c == nil {
				// There is no need to make a playlist for this.
				if !packageable(st) {
					return g.Deny(access.NoStream)
				}
				h := w.Header()
				h["Cache-Control"] = playlistCache
				if g.Private() {
					h["Cache-Control"] = ownPlaylist
				}
				h["Vary"] = varyEncoding
				h["Content-Type"] = contentType(st.App().HLS)
				return nil
			}
			if !s.makeRoom(need(st)) {
				return errFull
			}
			c, _ = s.attach(st)
		}
	}
	if c == nil {
		return g.Deny(access.NoStream)
	}
	s.touch(c)
	v := c.view.Load()
	if !v.listed() {
		if v = s.await(r.Context(), c); !v.listed() {
			if v.refused || v.list.End {
				return g.Deny(access.NoStream)
			}
			return errNoSegment
		}
		if err := s.gate.Recheck(g); err != nil {
			return err
		}
	}

	rendered := v.inFolder
	if g.Request().File == ".m3u8" {
		rendered = v.beside
	}
	compressed := acceptsGzip(r.Header.Get("Accept-Encoding"))
	if query := s.segmentQuery(g, v); query != "" {
		rendered = rendered.with(query)
		compressed = compressed && !g.Private() // that would be work for each player, with a secret in it
	}
	b := rendered.plain
	if compressed {
		b = rendered.gzip()
	}
	h := w.Header()
	h["Cache-Control"] = playlistCache
	h["Vary"] = varyEncoding
	if g.Private() { // its token differs each time
		h["Cache-Control"] = ownPlaylist
	} else {
		h["Etag"] = b.etag
		if known := r.Header.Get("If-None-Match"); known != "" && (known == "*" || strings.Contains(known, b.etag[0])) {
			s.viewers.served(c, g, r, 0)
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	h["Content-Type"] = v.contentType
	h["Content-Length"] = b.length
	if compressed {
		h["Content-Encoding"] = gzipEncoding
	}
	if r.Method != http.MethodHead {
		s.stats.playlists.Add(1)
		c.polls.Add(1)
		n, _ := w.Write(b.data)
		s.stats.bytes.Add(int64(n))
		c.served(n)
		s.viewers.served(c, g, r, n)
	}
	return nil
}

// packageable reports whether a stream would have a playlist, as far as one can
// know before there is a Packager to say so.
func packageable(st *stream.Stream) bool {
	info := st.Info()
	if info.Video.Codec == av.Unknown {
		return info.Audio.Codec == av.Unknown || plays(info.Audio.Codec)
	}
	return plays(info.Video.Codec)
}

// segmentQuery returns what the URIs of segments need behind them in a playlist
// for the holder of g: the name of the host, where that is a parameter, and a
// token that outlives the playlist.
func (s *Server) segmentQuery(g *access.Grant, v *view) string {
	query := ""
	if _, ok := g.Request().Params.Lookup("vhost"); ok {
		query = "?vhost=" + g.Request().Host
	}
	token := s.gate.SegmentQuery(g, tokenLife+2*v.list.Duration())
	switch {
	case token == "":
		return query
	case query == "":
		return "?" + token
	}
	return query + "&" + token
}

// await returns the channel's view when it has a playlist or will not have one,
// or when it has taken too long.
func (s *Server) await(ctx context.Context, c *channel) *view {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-c.wait():
	case <-t.C:
	case <-ctx.Done():
	}
	return c.view.Load()
}

// acceptsGzip reads an Accept-Encoding header (RFC 9110, 12.5.3).
func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		coding, weight, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) == "gzip" {
			q, isQ := strings.CutPrefix(strings.TrimSpace(weight), "q=")
			return !isQ || strings.Trim(q, "0.") != ""
		}
	}
	return false
}
