package hls

import (
	"bytes"
	"compress/gzip"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/media/m3u8"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
	"weir/internal/stream"
)

const (
	// playlistAge is for how long a cache may answer with a playlist, and
	// segmentAge with a segment. The latter is far below the time after which
	// names come again, 13 hours.
	playlistAge = time.Second
	segmentAge  = time.Hour

	// maxHeld bounds a channel's memory: so many of the longest segments that
	// the app allows. maxSegments bounds their number.
	maxHeld     = 4
	maxSegments = 2000
)

// position is where a channel's numbering has come to.
type position struct {
	time     int64  // 1/90000 s; names of segments are times
	sequence uint64 // EXT-X-MEDIA-SEQUENCE
	era      uint64 // of the newest segment
	left     time.Time
}

// origin returns the position of a channel that nothing is known of. Its number
// is taken from the clock, which runs at least as fast as segments come, so
// that players and caches that knew the stream before a restart, or by another
// node, never see it fall or a name come again (see Packager.spare). Its time and its
// era are left to the stream, which has them from the clock too (stream.Stream.Clock,
// NextEra; and numbers).
func origin(now time.Time) position { return position{sequence: uint64(now.Unix())} }

// after returns the position that is not before p either.
func (at position) after(p position) position {
	at.time = max(at.time, p.time)
	at.sequence = max(at.sequence, p.sequence)
	at.era = max(at.era, p.era)
	return at
}

// channel is what HLS players see of one stream name: a playlist that slides
// over segments. It lives on while publishers come and go, from the first
// request on until nobody can want its segments any more.
//
// One goroutine at a time packages into it; players only look at its view.
type channel struct {
	key     stream.Key
	base    uint64 // see numbers
	view    atomic.Pointer[view]
	waiting atomic.Int32                   // requests that wait for it
	asked   atomic.Int64                   // when the last request came, by Server.clock
	polls   atomic.Int64                   // requests for the playlist since it last changed
	players atomic.Int64                   // and between its last two changes
	traffic atomic.Pointer[stream.Traffic] // of the stream that is, or was last, packaged

	// Owned by the Server, under its mu.
	job   *job        // nil: nobody packages
	timer *time.Timer // ends the channel

	mu       sync.Mutex
	ready    chan struct{} // closed when there is a playlist or will not be one
	cfg      policy.HLS
	list     m3u8.Playlist
	window   []*segment // what list lists
	retired  []*segment // what may still be asked for, the oldest first
	had      bool       // there has been a segment
	held     int        // bytes of window and retired
	room     *room      // that held is a part of, and due
	due      int        // bytes that are to come, until the playlist has its shortest length
	position position
	refused  bool
	capped   bool // the log has it that segments were let go early
}

// segment is a Segment as it is served.
type segment struct {
	file   string
	data   []byte
	length []string // Content-Length
	info   m3u8.Segment
	listed time.Duration // longest playlist that listed it
	expire time.Time     // when it may go, once it is not listed any more
	steps  uint64        // discontinuities before it
}

func newChannel(key stream.Key, at position) *channel {
	return &channel{key: key, position: at, ready: make(chan struct{}), room: new(room)}
}

// begin makes the channel live: segments will be added under cfg. It returns
// what the Packager has to go on from. Where segments are to have another length
// the playlist begins anew, because its target duration never changes.
func (c *channel) begin(cfg policy.HLS) Past {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cfg.Segment != c.cfg.Segment || cfg.MaxSegment != c.cfg.MaxSegment {
		for len(c.window) > 0 {
			c.retire(time.Now())
		}
		c.list.TargetDuration = 0
	}
	c.cfg, c.refused = cfg, false
	c.list.Version, c.list.End = 3, false
	if c.publish(); len(c.window) == 0 {
		c.ready = make(chan struct{})
	}
	return Past{c.position.time, c.list.TargetDuration, c.position.era}
}

// add makes s the newest segment of the playlist. Tight says that there is no
// room for it.
func (c *channel) add(s Segment, seconds int, tight bool, log *slog.Logger) {
	name := strconv.FormatInt(s.PTS&(mpegts.Wrap-1), 10) + ".ts"
	seg := &segment{
		file:   name,
		data:   s.Data,
		length: []string{strconv.Itoa(len(s.Data))},
		info:   m3u8.Segment{URI: name, Duration: s.Duration, Time: s.Time},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	era := max(s.Era, c.position.era)
	if c.had {
		seg.steps = era - c.position.era
		seg.info.Discontinuity, seg.info.Unseen = seg.steps > 0, max(int(seg.steps)-1, 0)
	}
	c.position.era, c.had = era, true
	c.list.TargetDuration = seconds
	c.window = append(c.window, seg)
	c.hold(len(seg.data))
	if len(c.window) >= leastWindow {
		c.owe(0)
	} else {
		c.owe(max(0, c.due-len(seg.data)))
	}
	c.trim(time.Now(), tight, log)
	c.publish()
	c.players.Store(c.polls.Swap(0))
	c.traffic.Load().Watching(stream.HLS, c.players.Load())
}

// served counts bytes that a player of the channel has got.
func (c *channel) served(n int) { c.traffic.Load().Served(stream.HLS, int64(n)) }

// trim takes from the playlist what is beyond its length and forgets what
// nobody can want any more, or when memory is tight, all but the shortest
// playlist.
func (c *channel) trim(now time.Time, tight bool, log *slog.Logger) {
	total := time.Duration(0)
	for _, s := range c.window {
		total += s.info.Duration
	}
	// RFC 8216, 6.2.2: three target durations stay in the playlist.
	least := 3 * time.Duration(c.list.TargetDuration) * time.Second
	window := c.cfg.Window
	if tight {
		window = min(window, leastWindow)
	}
	for len(c.window) > window && total-c.window[0].info.Duration >= least {
		total -= c.window[0].info.Duration
		c.retire(now)
	}
	for len(c.retired) > 0 && (tight || !now.Before(c.retired[0].expire)) {
		c.forget()
	}
	much := func() bool {
		return c.held > maxHeld*int(c.cfg.MaxSegmentSize) || len(c.retired)+len(c.window) > max(maxSegments, 4*c.cfg.Window)
	}
	for much() && len(c.window) > 1 {
		if !c.capped {
			log.Warn("HLS segments are let go early: the stream takes too much memory", "bytes", c.held)
		}
		c.capped = true
		if len(c.retired) == 0 {
			c.retire(now)
		}
		c.forget()
	}
}

// bytes returns how much memory the segments take.
func (c *channel) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.held)
}

// hold counts n bytes more. c.mu is held.
func (c *channel) hold(n int) {
	c.held += n
	c.room.held.Add(int64(n))
}

// expect makes n bytes due.
func (c *channel) expect(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owe(n)
}

// owe sets what is due. c.mu is held.
func (c *channel) owe(n int) {
	c.room.due.Add(int64(n - c.due))
	c.due = n
}

// release lets go of all segments; the channel is over.
func (c *channel) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(-c.held)
	c.owe(0)
	c.window, c.retired = nil, nil
}

// target returns the target duration.
func (c *channel) target() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.list.TargetDuration) * time.Second
}

// lasts returns for how long players may want segments after they were last told of
// them.
func (c *channel) lasts() (most time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.window {
		most = max(most, s.lasts())
	}
	for _, s := range c.retired {
		most = max(most, s.lasts())
	}
	return most
}

// lasts returns for how long the segment can still be fetched once it has left the
// playlist: its own duration and that of the longest playlist that listed it (RFC
// 8216, 6.2.2), which a cache may have handed out a little later.
func (s *segment) lasts() time.Duration { return s.info.Duration + s.listed + playlistAge }

// retire takes the oldest segment from the playlist.
func (c *channel) retire(now time.Time) {
	s := c.window[0]
	c.window = c.window[1:]
	s.expire = now.Add(s.lasts())
	c.retired = append(c.retired, s)
	c.position.sequence++
}

// forget lets go of the oldest segment that is not listed.
func (c *channel) forget() {
	c.hold(-len(c.retired[0].data))
	c.retired[0] = nil
	c.retired = c.retired[1:]
}

// refuse makes the channel refuse players, or not any more, because the stream
// has a codec that cannot be packaged.
func (c *channel) refuse(refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused != refused {
		c.refused = refused
		c.publish()
	}
}

// pass notes that the next Packager goes on from that time.
func (c *channel) pass(from int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.position.time = from
}

// end adds the end tag to the playlist. The next Packager goes on from that
// time. It returns for how long players may still want the playlist.
func (c *channel) end(from int64) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owe(0)
	c.position.time = from
	c.list.End = true
	c.publish()
	return c.list.Duration() + 3*time.Duration(c.list.TargetDuration)*time.Second
}

// hide takes the playlist away. It returns for how long players may still
// want its segments.
func (c *channel) hide() (left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for len(c.window) > 0 {
		c.retire(now)
	}
	for _, s := range c.retired {
		left = max(left, s.expire.Sub(now))
	}
	c.publish()
	return left
}

// leave returns the position from which another channel of that name goes on.
func (c *channel) leave(now time.Time) position {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.position
	p.sequence += uint64(len(c.window))
	p.left = now
	return p
}

// publish shows players how things stand. c.mu is held.
func (c *channel) publish() {
	c.list.MediaSequence, c.list.DiscontinuitySequence = c.position.sequence, c.position.era+c.base
	c.list.Segments = make([]m3u8.Segment, len(c.window))
	v := &view{segments: make(map[string]*segment, len(c.window)+len(c.retired)), refused: c.refused}
	for i, s := range c.window {
		c.list.Segments[i] = s.info
		c.list.DiscontinuitySequence -= s.steps
		v.segments[s.file] = s
	}
	for _, s := range c.retired {
		v.segments[s.file] = s
	}
	total := c.list.Duration()
	for _, s := range c.window {
		s.listed = max(s.listed, total)
	}
	if v.list = c.list; len(c.window) > 0 {
		v.tag = strconv.FormatUint(c.position.sequence, 36) + "-" + strconv.Itoa(len(c.window))
		if c.list.End {
			v.tag += "e"
		}
		v.inFolder = newRendering(v, "")
		v.beside = newRendering(v, c.key.Name+"/")
	}
	v.contentType = contentType(c.cfg)
	c.view.Store(v)
	select {
	case <-c.ready:
	default:
		if v.listed() || v.refused || c.list.End {
			close(c.ready)
		}
	}
}

// wait returns what is closed when there is a playlist or there will not be one.
func (c *channel) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// view is a channel at one moment. It never changes.
type view struct {
	list        m3u8.Playlist
	segments    map[string]*segment // by file name
	refused     bool
	tag         string // of list, without quotes
	contentType []string

	inFolder *rendering // for {app}/{stream}/index.m3u8
	beside   *rendering // for {app}/{stream}.m3u8
}

// listed says whether there is a playlist to serve.
func (v *view) listed() bool { return !v.refused && len(v.list.Segments) > 0 }

func contentType(cfg policy.HLS) []string {
	if cfg.PlainText {
		return typeText
	}
	return typeHLS
}

// rendering is a playlist as bytes, with the values of its headers.
type rendering struct {
	view  *view
	plain body

	once       sync.Once
	compressed body // made when the first client wants it

	query string                    // behind every URI
	other atomic.Pointer[rendering] // the same with the query that was wanted last
}

// body is what is sent.
type body struct {
	data   []byte
	length []string // Content-Length
	etag   []string
}

func newBody(data []byte, tag string) body {
	return body{data: data, length: []string{strconv.Itoa(len(data))}, etag: []string{`"` + tag + `"`}}
}

func newRendering(v *view, prefix string) *rendering {
	return &rendering{view: v, plain: newBody(v.list.Append(nil, prefix, ""), v.tag)}
}

// with returns the playlist with a query behind every URI. That of the newest query
// is kept: the name of a host is the same for all who come by it.
func (r *rendering) with(query string) *rendering {
	if other := r.other.Load(); other != nil && other.query == query {
		return other
	}
	b := make([]byte, 0, len(r.plain.data)+len(query)*len(r.view.list.Segments))
	for line := range bytes.Lines(r.plain.data) {
		if b = append(b, line...); line[0] != '#' {
			b = append(append(b[:len(b)-1], query...), '\n')
		}
	}
	other := &rendering{view: r.view, plain: newBody(b, r.view.tag), query: query}
	r.other.Store(other)
	return other
}

var gzips = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// gzip returns the playlist compressed.
func (r *rendering) gzip() body {
	r.once.Do(func() {
		var b bytes.Buffer
		w := gzips.Get().(*gzip.Writer)
		defer gzips.Put(w)
		w.Reset(&b)
		w.Write(r.plain.data)
		w.Close()
		r.compressed = newBody(b.Bytes(), r.view.tag+"-gzip")
	})
	return r.compressed
}
