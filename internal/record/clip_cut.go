package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/mpegts"
	"weir/internal/storage"
	"weir/internal/stream"
)

// footage is a recording as far as it is there.
type footage struct {
	folder   string    // key of the folder of its segments
	segments []segment // those that have ended
	growing  *segment  // the one being written: Start and Time
	open     bool      // more may come
	live     bool      // a push goes on into it

	base  int64 // ms that the times in its segments have before it; not known unless based
	based bool
}

// errNotYet is the error of a clip whose media are still to come, or to be
// uploaded.
var errNotYet = errors.New("the recording is not that far yet")

// errNoSource is the error of a recording that is neither here nor finished.
var errNoSource = errors.New("the recording is neither on this node nor in the bucket")

// running returns the recording of that task if it is not removed from here.
func (r *Recorder) running(key stream.Key, task string) *footage {
	r.mu.Lock()
	t := r.takes[task]
	if t == nil || t.head.key() != key {
		r.mu.Unlock()
		return nil
	}
	p := r.places[key]
	s := &footage{folder: t.folder(), base: t.head.Base, based: true, live: p != nil && p.take == t && p.session != nil}
	r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared.moved { // another node has it, and more of it
		return nil
	}
	s.segments, s.open = slices.DeleteFunc(slices.Clone(t.segments), func(g segment) bool { return g.missing }), t.closed == nil
	s.live = s.live && s.open
	if n := t.now.N; s.live && n == len(t.segments)+1 {
		s.growing = &segment{N: n, Start: t.now.Start, Time: t.now.Time}
	}
	return s
}

// finished returns the recording whose segments are in a folder, by its
// playlist.
func (r *Recorder) finished(ctx context.Context, b storage.Bucket, folder string) (*footage, error) {
	name := path.Base(folder)
	var lists []string
	err := each(ctx, b, strings.TrimSuffix(folder, taskIn(folder)), func(o *storage.Object) {
		if path.Ext(o.Key) == ".m3u8" {
			lists = append(lists, o.Key)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, key := range lists {
		s, err := listed(ctx, b, key)
		if err == nil && path.Base(s.folder) == name {
			return s, nil
		}
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
	}
	switch _, err := b.Stat(ctx, path.Join(folder, markName)); {
	case err == nil:
		return nil, &failure{errnumMedia, errors.New("the recording has been deleted")}
	case !errors.Is(err, storage.ErrNotExist):
		return nil, err
	}
	return nil, errNoSource
}

// taskIn returns the task in the name of a folder of segments.
func taskIn(folder string) string { return folder[strings.LastIndexByte(folder, '-')+1:] }

// listed returns the recording that a playlist is of.
func listed(ctx context.Context, b storage.Bucket, key string) (*footage, error) {
	list, err := playlistAt(ctx, b, key)
	if err != nil {
		return nil, err
	}
	s := &footage{}
	at := int64(0)
	for i := range list.Segments {
		e := &list.Segments[i]
		number, owner, _ := strings.Cut(strings.TrimSuffix(path.Base(e.URI), ".ts"), "-")
		g := segment{Start: at, Duration: e.Duration.Milliseconds(), Time: e.Time, Discontinuity: e.Discontinuity}
		g.N, _ = strconv.Atoi(number)
		g.Owner, _ = strconv.Atoi(owner)
		folder := path.Join(path.Dir(key), path.Dir(e.URI))
		if path.Base(e.URI) != g.name() || i > 0 && folder != s.folder {
			return nil, &failure{errnumMedia, fmt.Errorf("%s is not the playlist of a recording", key)}
		}
		s.folder = folder
		s.segments = append(s.segments, g)
		at = s.end()
	}
	if len(s.segments) == 0 {
		return nil, &failure{errnumMedia, fmt.Errorf("%s has no segments", key)}
	}
	if s.segments[0].Time.IsZero() { // that of the name is as good as there is
		if f, ok := parseAny(key); ok {
			for i := range s.segments {
				s.segments[i].Time = f.Start.Add(ms(s.segments[i].Start))
			}
		}
	}
	return s, nil
}

// parseAny reads the key of an HLS file, of whatever stream its folder is.
func parseAny(key string) (File, bool) {
	return parse(path.Base(path.Dir(path.Dir(key))), "hls", key)
}

// findBase finds out what the times in the segments of a finished recording
// have before it. It is 0 but for one that began as the rest of another.
func (c *clip) findBase(ctx context.Context, b storage.Bucket, j *clipJob, s *footage) error {
	if s.based {
		return nil
	}
	const some = 50 // packets, among which the first one of each track is
	n, first := 0, int64(math.MaxInt64)
	err := c.packets(ctx, b, j, s.segments[:1], 0, func(p av.Packet) error {
		if !p.Config {
			first = min(first, p.DTS)
			n++
		}
		if n == some {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if n > 0 && first >= baseTime/2 { // less is a frame that is decoded before it is shown
		s.base = first
	}
	s.based = err == nil
	return err
}

var errEnough = errors.New("enough")

// source returns the recording of a job.
func (c *clip) source(ctx context.Context, b storage.Bucket, j *clipJob) (*footage, error) {
	if s := c.r.running(j.key(), j.Recording); s != nil {
		return s, nil
	}
	return c.r.finished(ctx, b, j.Folder)
}

// choose returns the recording that a request means, and notes it in the job.
func (r *Recorder) choose(ctx context.Context, b storage.Bucket, j *clipJob, q *ClipRequest) (*footage, error) {
	s, err := r.meant(ctx, b, j, q)
	if err != nil {
		return nil, err
	}
	j.Folder, j.Recording = s.folder, taskIn(s.folder)
	return s, nil
}

func (r *Recorder) meant(ctx context.Context, b storage.Bucket, j *clipJob, q *ClipRequest) (*footage, error) {
	key, dir := j.key(), path.Join(j.Prefix, "record", j.App, j.Stream, "hls")+"/"
	if q.Recording != "" {
		if s := r.running(key, q.Recording); s != nil {
			return s, nil
		}
		base, ext, _ := cutLast(q.Recording, ".")
		if f, ok := parse(key.Name, "hls", dir+base+".m3u8"); ok && !strings.Contains(base, "/") && (ext == "m3u8" || ext == "mp4" || ext == "flv") {
			s, err := listed(ctx, b, f.Key)
			if errors.Is(err, storage.ErrNotExist) {
				err = ErrNoFile
			}
			return s, err
		}
		folder := ""
		if err := scan(ctx, b, dir, func(*storage.Object) {}, func(name string) {
			if taskIn(name) == q.Recording {
				folder = dir + name
			}
		}); err != nil {
			return nil, err
		}
		if folder == "" {
			return nil, ErrNoFile
		}
		s, err := r.finished(ctx, b, folder)
		if f := (*failure)(nil); errors.Is(err, errNoSource) || errors.As(err, &f) {
			err = ErrNoFile
		}
		return s, err
	}

	// Without a name: the newest that had begun by then.
	by, task := q.Start.Time, ""
	r.mu.Lock()
	var newest time.Time
	for _, t := range r.takes {
		if at := t.head.Start; t.head.key() == key && (by.IsZero() || !at.After(by)) && at.After(newest) {
			newest, task = at, t.head.Task
		}
	}
	r.mu.Unlock()
	if task != "" {
		if s := r.running(key, task); s != nil && (s.live || len(s.segments) > 0) {
			return s, nil
		}
	}
	var file string
	err := each(ctx, b, dir, func(o *storage.Object) {
		f, ok := parse(key.Name, "hls", o.Key)
		if ok && (by.IsZero() || !f.Start.After(by) && !f.End.Add(time.Second).Before(by)) && !f.Start.Before(newest) {
			newest, file = f.Start, f.Key
		}
	})
	if err == nil && file == "" {
		err = ErrNoFile
	}
	if err != nil {
		return nil, err
	}
	return listed(ctx, b, file)
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// end returns where the last segment ends.
func (s *footage) end() int64 {
	if n := len(s.segments); n > 0 {
		return s.segments[n-1].end()
	}
	return 0
}

// reach returns how far the recording has come by now, with what is not in a
// segment yet.
func (s *footage) reach(now time.Time) int64 {
	if s.live {
		return max(s.position(now, now), s.end())
	}
	return s.end()
}

// at returns where a position is.
func (s *footage) at(p Position, now time.Time) int64 {
	switch {
	case !p.Time.IsZero():
		return s.position(p.Time, now)
	case p.ToEnd:
		return s.reach(now) - p.Offset.Milliseconds()
	}
	return p.Offset.Milliseconds()
}

// position returns where the frame is that came at t: between two pushes, the
// end of the first one. What is to come is reckoned on from the last segment.
func (s *footage) position(t, now time.Time) int64 {
	list := s.segments
	if s.growing != nil {
		list = append(slices.Clip(list), *s.growing)
	}
	i := len(list) - 1
	for i >= 0 && list[i].Time.After(t) {
		i--
	}
	if i < 0 {
		return 0
	}
	at := list[i].Start + t.Sub(list[i].Time).Milliseconds()
	if i == len(list)-1 && (s.live || s.open && t.After(now)) {
		return at
	}
	return min(at, list[i].end())
}

// index returns which segment a place is in, the last one for what is behind.
func (s *footage) index(at int64) int {
	i := len(s.segments) - 1
	for i > 0 && s.segments[i].Start > at {
		i--
	}
	return i
}

// wall returns when the frame at a place came, or, for an end, when the media
// before it ended.
func (s *footage) wall(at int64, end bool) time.Time {
	g := s.growing
	if len(s.segments) > 0 {
		i := s.index(at)
		if end && i > 0 && s.segments[i].Start == at {
			i--
		}
		g = &s.segments[i]
	}
	if g == nil {
		return time.Time{}
	}
	return g.Time.Add(ms(at - g.Start)).UTC()
}

// times returns when the media from one place to another came. Those of a push
// that sent faster than they play may have come at once.
func (s *footage) times(from, to int64) (start, end time.Time) {
	start, end = s.wall(from, false), s.wall(to, true)
	if end.Before(start) {
		end = start
	}
	return start, end
}

// clipCut is where a clip begins and ends, and the segments that it is made of.
// Places are in ms of the recording. Frames are meant as they are decoded;
// they are shown later by Lead at the beginning, by Tail at the end.
type clipCut struct {
	First    int64 `json:"first"` // the key frame that it begins with
	Last     int64 `json:"last"`  // the key frame before which it ends, or the recording's end
	Lead     int64 `json:"lead,omitempty"`
	Tail     int64 `json:"tail,omitempty"`
	Pictures bool  `json:"pictures,omitempty"` // there is video

	// Of the first picture.
	Codec  av.Codec `json:"codec,omitempty"`
	Width  int      `json:"width,omitempty"`
	Height int      `json:"height,omitempty"`

	// What the clip shows: the same, or what an exact one was asked for.
	From  int64     `json:"from"`
	To    int64     `json:"to"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`

	Segments []segment `json:"segments"`       // that have any of it
	Base     int64     `json:"base,omitempty"` // what their times have before the recording
	HeadPart bool      `json:"head_part,omitempty"`
	TailPart bool      `json:"tail_part,omitempty"` // of the first and of the last segment a part is wanted
	NoLast   bool      `json:"no_last,omitempty"`   // of the last one nothing but sound, which HLS does without
}

// keys are the key frames of a segment.
type keys struct {
	list     []av.Packet // without their bytes
	pictures bool
	first    int64     // DTS of the first picture
	config   av.Packet // its configuration
}

// keysOf reads a segment.
func (c *clip) keysOf(ctx context.Context, b storage.Bucket, j *clipJob, s *segment, base int64) (*keys, error) {
	k := &keys{}
	err := c.packets(ctx, b, j, []segment{*s}, base, func(p av.Packet) error {
		switch {
		case p.Kind != av.Video:
			return nil
		case p.Config:
			k.config = p
			return nil
		}
		if !k.pictures {
			k.pictures, k.first = true, p.DTS
		}
		if p.Key {
			k.list = append(k.list, av.Packet{DTS: p.DTS, CTS: p.CTS})
		}
		return nil
	})
	return k, err
}

// moment is how much, in ms, of what a push has not brought before it left is
// not waited for: what was to be the end when it was there is the end.
const moment = 1000

// find finds out where a clip can be cut.
func (c *clip) find(ctx context.Context, b storage.Bucket, j *clipJob) (*clipCut, error) {
	s, err := c.source(ctx, b, j)
	if err != nil {
		return nil, err
	}
	from, to := j.From, j.To
	missing := to - s.end()
	if s.open && (len(s.segments) == 0 || missing > moment || missing > 0 && s.live) {
		return nil, errNotYet
	}
	seen := [2]int{len(s.segments)}
	if s.live {
		if seen[1] = 1; c.seen == seen { // nothing new; another recording has grown
			return nil, errNotYet
		}
	}
	if to = min(to, s.end()); from >= to {
		return nil, &failure{errnumMedia, fmt.Errorf("%w: it ends after %v", ErrClipRange, ms(s.end()))}
	}
	if err := c.findBase(ctx, b, j, s); err != nil {
		return nil, err
	}
	x := &clipCut{Base: s.base}

	// The last key frame at or before from; the first one of its push if there
	// is none, and where there is no picture just there.
	first := s.index(from)
	for i := first; ; i-- {
		g := &s.segments[i]
		k, err := c.keysOf(ctx, b, j, g, s.base)
		if err != nil {
			return nil, err
		}
		if !k.pictures {
			x.First = from
			if i < first {
				x.First = s.segments[first].Start
			}
			break
		}
		first, x.Pictures, x.Codec = i, true, k.config.Codec
		if v, err := av.ParseVideoInfo(k.config.Codec, k.config.Frame); err == nil {
			x.Width, x.Height = v.Width, v.Height
		}
		key := g.Start
		at := lastKey(k.list, from)
		if at < 0 && (g.Discontinuity || i == 0) && len(k.list) > 0 {
			at = 0
		}
		if at >= 0 {
			key, x.Lead = k.list[at].DTS, int64(k.list[at].CTS)
			x.HeadPart = key != k.first
		}
		x.First = key
		if at >= 0 || g.Discontinuity || i == 0 {
			break
		}
	}
	x.HeadPart = x.HeadPart || !x.Pictures && x.First > s.segments[first].Start

	// The first key frame at or after to, in the same way.
	x.Last, x.Tail = s.end(), x.Lead
	shift := x.Lead // at to
	last := s.index(to)
	if to == s.segments[last].Start && s.segments[last].Discontinuity && last > first {
		last-- // what begins there is of another push
	}
	for i := last; ; i++ {
		g := &s.segments[i]
		k, err := c.keysOf(ctx, b, j, g, s.base)
		if err != nil {
			return nil, err
		}
		last = i
		if !k.pictures {
			x.Last = min(max(to, g.Start), g.end())
			x.TailPart, x.NoLast = x.Last < g.end(), x.Last == g.Start
			break
		}
		x.Pictures = true
		if at := lastKey(k.list, to); at >= 0 {
			shift = int64(k.list[at].CTS)
		}
		if at := slices.IndexFunc(k.list, func(p av.Packet) bool { return p.DTS >= to && p.DTS > x.First }); at >= 0 {
			x.Last, x.Tail = k.list[at].DTS, int64(k.list[at].CTS)
			x.TailPart = x.Last > k.first
			x.NoLast = !x.TailPart
			break
		}
		if i+1 == len(s.segments) {
			if s.live {
				c.seen = seen
				return nil, errNotYet // it comes with the next segment, or the end
			}
			break
		}
		if s.segments[i+1].Discontinuity {
			x.Last = g.end()
			break
		}
	}
	x.Segments = slices.Clone(s.segments[first : last+1])
	x.From, x.To = x.First, x.Last
	if j.Exact {
		x.From, x.To = max(from, x.First), min(to, x.Last)
		if x.Pictures {
			x.Tail = shift
		}
	}
	x.Start, x.End = s.times(x.From, x.To)
	return x, nil
}

// lastKey returns which of the key frames is the last at or before a place, or
// -1.
func lastKey(list []av.Packet, at int64) int {
	i := len(list) - 1
	for i >= 0 && list[i].DTS > at {
		i--
	}
	return i
}

// packets calls f with the packets of segments that follow each other, in the
// order in which they are there. Times are places in the recording; base is what
// they have before it there.
func (c *clip) packets(ctx context.Context, b storage.Bucket, j *clipJob, list []segment, base int64, f func(av.Packet) error) error {
	d := mpegts.NewDemuxer(nil)
	for i := range list {
		r, err := c.open(ctx, b, j, &list[i])
		if err != nil {
			return err
		}
		d.Continue(r)
		for first := true; ; {
			p, err := d.ReadPacket()
			if err == io.EOF {
				break
			}
			if errors.Is(err, mpegts.ErrSync) {
				err = &failure{errnumMedia, fmt.Errorf("segment %d: %w", list[i].N, err)}
			}
			if err == nil {
				p.Break = first && i > 0 && list[i].Discontinuity
				first = false
				p.DTS -= baseTime + base
				err = f(p)
			}
			if err != nil {
				r.Close()
				return err
			}
		}
		r.Close()
	}
	return nil
}

// open opens a segment, here or in the bucket.
func (c *clip) open(ctx context.Context, b storage.Bucket, j *clipJob, s *segment) (io.ReadCloser, error) {
	c.r.mu.Lock()
	t := c.r.takes[j.Recording]
	c.r.mu.Unlock()
	if t == nil {
		body, _, err := b.Get(ctx, path.Join(j.Folder, s.name()), 0, -1)
		if errors.Is(err, storage.ErrNotExist) {
			err = &failure{errnumMedia, fmt.Errorf("segment %d: %w", s.N, err)}
		}
		return body, err
	}
	local := *s
	local.local = true
	return t.open1(ctx, b, &local)
}

// chosen are the packets of a clip among those of its segments, each kind
// after the configuration that it needs.
type chosen struct {
	x      *clipCut
	all    bool          // also what an exact clip leaves out
	config [3]*av.Packet // not given yet
	f      func(av.Packet) error
}

// sound returns from where to where a clip has sound: as long as pictures are
// shown.
func (x *clipCut) sound(all bool) (from, to int64) {
	switch {
	case !x.Pictures:
		return x.From, x.To
	case all:
		return x.First, x.Last + x.Tail
	}
	return x.From + x.Lead, x.To + x.Tail
}

func (h *chosen) add(p av.Packet) error {
	if p.Kind != av.Video && p.Kind != av.Audio {
		return nil
	}
	if p.Config {
		h.config[p.Kind] = &p
		return nil
	}
	from, to := h.x.First, h.x.Last
	if p.Kind == av.Audio {
		from, to = h.x.sound(h.all)
	}
	if p.DTS < from || p.DTS >= to {
		return nil
	}
	if c := h.config[p.Kind]; c != nil {
		h.config[p.Kind] = nil
		c.DTS = p.DTS
		if err := h.f(*c); err != nil {
			return err
		}
	}
	return h.f(p)
}
