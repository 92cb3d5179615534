// Package snapshot takes pictures of streams: the first key frame of a push, and
// then the first one at or after each interval, as JPEG in a bucket.
//
// A [Snapshotter] follows every push whose app wants pictures. It reads
// packets at the stream's pace and never makes it wait: what is due is handed to
// the push's own worker, which makes a picture and stores it, one after the
// other. When the worker is still busy with one, the newest of those that wait
// is kept and the others have failed. How many workers may have ffmpeg decode
// at the same time is bounded for the whole node, by an ffmpeg.Pool.
//
// Every picture that was due becomes a fact, SnapshotTaken or SnapshotFailed,
// of which the owner is told. The newest picture of a stream is also kept in
// memory, for consoles and galleries.
package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// Options are a Snapshotter's settings. Tool is needed; of the others a zero
// field takes the default.
type Options struct {
	Log  *slog.Logger
	Tool *ffmpeg.Tool

	// Emit puts a fact into the event log. It does not wait.
	Emit func(event.Event)

	// Bucket returns a bucket by its name, of which "" is the first one. Without
	// it no picture is stored.
	Bucket func(name string) (storage.Bucket, error)

	// BucketName returns the name of the bucket that Bucket returns.
	BucketName func(name string) string

	// AlertCallback says who is told of the alerts of a push. It must not wait.
	AlertCallback func(*stream.Publication) *event.Callback

	Tracer *tracing.Tracer // nil: nothing is traced

	// Forbid keeps a stream off the air until then, for ever if it is zero. It
	// is called when an owner's server that checks pictures says so.
	Forbid func(key stream.Key, until time.Time, why string)

	Time     time.Duration // that ffmpeg may take for a picture; default 10 s
	Pictures int           // made at a time; default: half as many as there are processors
	Waiting  int           // for their turn; default 16 for each that is made
	Memory   int           // bytes of newest pictures that are kept; default 64 MiB
}

// Snapshotter takes pictures. Its methods may be called from any goroutine.
type Snapshotter struct {
	opt    Options
	log    *slog.Logger
	pool   *ffmpeg.Pool
	latest latest
	stores keyLock // by bucket and key
	checks checks
	asked  asked
	pushes pushes

	ctx   context.Context // of all work; ends with Close
	stop  context.CancelFunc
	tasks sync.WaitGroup

	taken, failed, shed, bytes atomic.Int64
	cpu                        atomic.Int64 // ns of ffmpeg
}

// New returns a Snapshotter, which Follow connects with a hub. The caller ends it with Close.
func New(o Options) *Snapshotter {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Emit == nil {
		o.Emit = func(event.Event) {}
	}
	if o.BucketName == nil {
		o.BucketName = func(name string) string { return name }
	}
	if o.Forbid == nil {
		o.Forbid = func(stream.Key, time.Time, string) {}
	}
	if o.AlertCallback == nil {
		o.AlertCallback = func(*stream.Publication) *event.Callback { return nil }
	}
	o.Time = cmp.Or(o.Time, 10*time.Second)
	o.Pictures = cmp.Or(o.Pictures, max(1, runtime.NumCPU()/2))
	s := &Snapshotter{opt: o, log: o.Log, pool: ffmpeg.NewPool(o.Pictures, cmp.Or(o.Waiting, 16*o.Pictures))}
	s.latest.limit = cmp.Or(o.Memory, 64<<20)
	s.ctx, s.stop = context.WithCancel(tracing.With(context.Background(), o.Tracer))
	return s
}

// Close ends all work and waits for it.
func (s *Snapshotter) Close() {
	s.stop()
	s.tasks.Wait()
	s.checks.close()
}

// Stats is a Snapshotter's account.
type Stats struct {
	Taken  int64 // pictures
	Failed int64 // those that were due and are not there, Shed included
	Shed   int64 // those dropped because there was no time for them
	Bytes  int64 // of pictures taken

	Running, Waiting int // pictures that are made, and that wait for it
	Held             int // bytes of newest pictures in memory
	CPU              time.Duration
}

// Stats returns the account.
func (s *Snapshotter) Stats() Stats {
	p := s.pool.Stats()
	return Stats{
		Taken: s.taken.Load(), Failed: s.failed.Load(), Shed: s.shed.Load(), Bytes: s.bytes.Load(),
		Running: p.Running, Waiting: p.Waiting, Held: s.latest.size(), CPU: time.Duration(s.cpu.Load()),
	}
}

// Follow takes the pictures of a push until it is over; see stream.Hub.Follow.
func (s *Snapshotter) Follow(_ context.Context, pub *stream.Publication, r *stream.Reader) {
	if !pub.App().Snapshot.Enabled {
		return
	}
	r.AwaitKeyFrames()
	w := &worker{s: s}
	f := following{push: s.pushes.of(pub)}
	defer func() {
		w.tasks.Wait()
		if c, n := f.push.end(); n > 0 {
			s.tellMissing(c, busy(n), ffmpeg.ErrShed)
		}
	}()
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return // the push is over
		}
		if c := f.next(&p, time.Now()); c != nil {
			w.offer(c)
		}
	}
}

// following is what is known of a push that is followed.
type following struct {
	push   *push
	config *av.Packet // of the video
	rotate int        // degrees clockwise, as the metadata say
	last   int64      // presentation time of the key frame taken last, ms
	taken  bool       // there is one
}

// push is what the pictures of one push have in common.
type push struct {
	pub    *stream.Publication
	began  time.Time
	number uint32 // at random

	mu      sync.Mutex
	second  int64                // of the name of its last picture
	alerts  map[string]alert     // that are raised
	decided map[string]time.Time // when the newest picture was captured that has raised or cleared an alert, by its name
	over    bool                 // none is raised any more

	told    time.Time // when somebody was last told of a picture that there was no time for
	untold  int       // pictures that there was no time for since
	dropped *capture  // the last of them
}

// tellBusy is how often at most a push tells of pictures that there was no time
// for: what is said of too much work must not add to it.
const tellBusy = time.Minute

// drop notes that there was no time for c. It returns how many such pictures are
// to be told of now, c among them; none if that was done not long ago.
func (p *push) drop(c *capture, now time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.untold++
	p.dropped = c
	if !p.told.IsZero() && now.Sub(p.told) < tellBusy {
		return 0
	}
	n, p.untold, p.told, p.dropped = p.untold, 0, now, nil
	return n
}

// end returns how many pictures are still to be told of when the push is over,
// and the last of them.
func (p *push) end() (c *capture, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, n, p.dropped, p.untold = p.dropped, p.untold, nil, 0
	return c, n
}

// maxSession has nine digits, as in the guide's example.
const maxSession = 1_000_000_000

// pushes is the pushes that pictures were taken of.
type pushes struct {
	mu  sync.Mutex
	all map[*stream.Publication]*push
}

// of returns the push of a publication.
func (s *pushes) of(pub *stream.Publication) *push {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.all[pub]
	if p != nil {
		return p
	}
	for old := range s.all { // that are over
		select {
		case <-old.Done():
			delete(s.all, old)
		default:
		}
	}
	if s.all == nil {
		s.all = make(map[*stream.Publication]*push)
	}
	p = newPush(pub)
	select {
	case <-pub.Done():
		p.over = true
	default:
	}
	s.all[pub] = p
	return p
}

// find returns the push of a publication that pictures were taken of, or nil.
func (s *pushes) find(pub *stream.Publication) *push {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[pub]
}

func newPush(pub *stream.Publication) *push {
	return &push{pub: pub, began: pub.Start(), number: 100_000_000 + rand.Uint32N(maxSession-100_000_000)}
}

// stamp returns the second by which a picture of the time at is named; no two
// of a push have the same.
func (p *push) stamp(at time.Time) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.second = max(at.Unix(), p.second+1)
	return p.second
}

// capture is a key frame that becomes a picture.
type capture struct {
	push   *push
	cfg    *policy.Snapshot
	source source
	at     time.Time // when it arrived
	stored bool      // it goes into the bucket
	name   int64     // second by which it is named, once it is
}

// next takes a packet that was read at now, and returns a capture if it is
// one that is due.
func (f *following) next(p *av.Packet, now time.Time) *capture {
	f.learn(p)
	if p.Kind != av.Video || p.Config || !p.Key {
		return nil
	}
	if f.taken && p.PTS()-f.last < f.push.pub.App().Snapshot.Interval.Milliseconds() {
		return nil
	}
	f.taken, f.last = true, p.PTS()
	return f.capture(p, now)
}

// learn keeps what is needed to decode a key frame that comes later.
func (f *following) learn(p *av.Packet) {
	switch {
	case p.Kind == av.Video && p.Config:
		c := *p
		f.config = &c
	case flv.IsMetadata(*p):
		f.rotate = rotation(*p)
	case p.Kind == av.Video && f.config != nil && f.config.Codec != p.Codec:
		f.config = nil
	}
}

func (f *following) capture(p *av.Packet, now time.Time) *capture {
	c := &capture{
		push: f.push, cfg: &f.push.pub.App().Snapshot, at: now, stored: true,
		source: source{codec: p.Codec, frame: p.Frame, rotate: f.rotate},
	}
	if f.config != nil {
		c.source.config = f.config.Frame
	}
	return c
}

// Why a picture failed, as facts and callbacks have it (errnum).
const (
	errNoFFmpeg = 1 // there is no ffmpeg on the node
	errDecode   = 2 // the frame cannot be decoded, or not within its limits
	errBusy     = 3 // there was no time for it
	errStorage  = 4 // the bucket does not take it
	errCodec    = 5 // pictures cannot be made of this codec
	errClosed   = 6 // the server is shutting down
)

// failure is why there is no picture.
type failure struct {
	errnum int
	msg    string
}

func (f *failure) Error() string { return f.msg }

// worker makes the pictures of one push, one after the other.
type worker struct {
	s *Snapshotter

	mu      sync.Mutex
	waiting *capture
	busy    bool
	tasks   sync.WaitGroup
}

// offer hands the worker a capture. One that is waiting gives way to it.
func (w *worker) offer(c *capture) {
	w.mu.Lock()
	old := w.waiting
	if w.busy {
		w.waiting = c
	} else {
		w.busy = true
		w.tasks.Add(1)
		w.s.tasks.Go(func() { w.run(c) }) // ends when nothing waits
	}
	w.mu.Unlock()
	if old != nil {
		w.s.fail(old, ffmpeg.ErrShed)
	}
}

func (w *worker) run(c *capture) {
	defer w.tasks.Done()
	for c != nil {
		w.s.take(c)
		w.mu.Lock()
		c, w.waiting = w.waiting, nil
		w.busy = c != nil
		w.mu.Unlock()
	}
}

// take makes a picture of c and stores it, and tells everybody.
func (s *Snapshotter) take(c *capture) (*Picture, error) {
	key := c.push.pub.Stream().Key()
	var p *Picture
	err := s.pool.Do(s.ctx, key.String(), func() (rest time.Duration, err error) {
		p, rest, err = s.picture(c)
		return rest, err
	})
	if err != nil {
		return nil, s.fail(c, err)
	}
	p.Stream, p.Captured, p.Sequence = key, c.at, c.push.pub.Push().Sequence
	fact := s.describe(c)
	fact.SrcWidth, fact.SrcHeight = p.SrcWidth, p.SrcHeight
	if c.stored {
		if fact.Bucket, err = s.store(c, p, fact.Key); err == nil {
			p.Bucket, p.Object = fact.Bucket, fact.Key
		}
	}
	s.latest.put(p)
	if err != nil {
		return nil, s.fail(c, err)
	}
	s.taken.Add(1)
	s.bytes.Add(int64(len(p.JPEG)))
	s.emit(c, event.SnapshotTaken{Snapshot: fact, Width: p.Width, Height: p.Height, Size: int64(len(p.JPEG))})
	if c.cfg.Check != nil && c.stored {
		s.check(c, p)
	}
	return p, nil
}

// fail notes that there is no picture of c, and returns why as a *failure.
func (s *Snapshotter) fail(c *capture, err error) error {
	f := s.explain(err)
	s.failed.Add(1)
	if f.errnum == errBusy {
		s.shed.Add(1)
	}
	if f.errnum == errBusy && c.stored { // of others nobody but who asked is told
		c.source = source{} // which nobody needs any more
		if n := c.push.drop(c, time.Now()); n > 0 {
			s.tellMissing(c, busy(n), err)
		}
		return f
	}
	s.tellMissing(c, f, err)
	return f
}

// busy is why there are n pictures less.
func busy(n int) *failure {
	if n == 1 {
		return &failure{errBusy, "the server was too busy to make the picture"}
	}
	return &failure{errBusy, fmt.Sprintf("the server was too busy to make the picture, and %d before it", n-1)}
}

// tellMissing says that there is no picture of c, for the reason f, which is err
// in words for the owner.
func (s *Snapshotter) tellMissing(c *capture, f *failure, err error) {
	s.log.Info("no picture", "stream", c.push.pub.Stream().Key(), "err", err)
	s.emit(c, event.SnapshotFailed{Snapshot: s.describe(c), Errnum: f.errnum, Errmsg: f.msg})
}

// explain says what an error means to the owner of a stream.
func (s *Snapshotter) explain(err error) *failure {
	var f *failure
	var e *ffmpeg.Error
	switch {
	case s.ctx.Err() != nil:
		return &failure{errClosed, "the server is shutting down"}
	case errors.As(err, &f):
		return f
	case errors.Is(err, ffmpeg.ErrUnavailable):
		return &failure{errNoFFmpeg, "this server has no ffmpeg to make pictures with"}
	case errors.Is(err, ffmpeg.ErrShed):
		return busy(1)
	case errors.As(err, &e) && e.Reason == ffmpeg.TimedOut:
		return &failure{errDecode, "the picture took too long to decode"}
	}
	return &failure{errDecode, "the picture cannot be decoded"}
}

// describe is what a fact says of c.
func (s *Snapshotter) describe(c *capture) event.Snapshot {
	d := event.Snapshot{
		Task: event.NewSequence(), Domain: c.push.pub.Push().Client.Domain,
		Bucket: s.opt.BucketName(c.cfg.Bucket), Region: c.cfg.Region, Captured: c.at,
	}
	if c.stored {
		d.Key = c.key()
		if c.cfg.Callback != "" {
			d.Callback = &event.Callback{URL: string(c.cfg.Callback)}
			if c.cfg.Version == policy.SnapshotNew {
				d.Callback.Format = policy.SnapshotNew.String()
			}
		}
	}
	return d
}

// emit tells of c, if it was to be stored: what somebody only looks at is no
// fact.
func (s *Snapshotter) emit(c *capture, data event.Data) {
	if !c.stored {
		return
	}
	s.tell(c.push, time.Now(), data)
}

// tell emits a fact about a push.
func (s *Snapshotter) tell(p *push, now time.Time, data event.Data) {
	key := p.pub.Stream().Key()
	e := event.New(now, data)
	e.Space, e.App, e.Stream, e.Sequence = key.Space, key.App, key.Name, p.pub.Push().Sequence
	s.opt.Emit(e)
}

// key returns where c is stored (guide l.1054 to l.1091).
func (c *capture) key() string {
	k := c.push.pub.Stream().Key()
	folder := pictureFolder(c.cfg, k)
	if c.cfg.Overwrite {
		return folder + k.Name + ".jpg"
	}
	if c.name == 0 {
		c.name = c.push.stamp(c.at)
	}
	between := "_"
	if c.cfg.PathStyle == policy.SnapshotHyphen {
		between = "-"
	}
	return folder + strconv.FormatInt(c.push.began.UnixMilli(), 10) + between + strconv.FormatUint(uint64(c.push.number), 10) +
		"/" + fmt.Sprintf("%s-%d.jpg", k.Name, c.name)
}
