// Package record writes recordings: HLS in a bucket, and MP4 and FLV made of it.
//
// Each push of an app that wants it is read by a [session], whose cutter makes
// transport stream segments of it and appends them, half a second at a time, to
// files in the spool, a folder on a local disk. Segments and a journal make a
// take. A push that returns within the splice window goes on in the same take, and
// a take ends when nobody returned or when it is long enough. What is on disk when
// the process dies is found again when it starts: a take goes on, or is ended, as if
// nothing had happened but the loss of what was not written yet.
//
// Each take has a keeper, which uploads segments while the push lives. When the
// take is closed and all of them are in the bucket, verified, the keeper writes the
// playlist, makes MP4 and FLV, and for each file that is there emits the fact, once
// by its ID, and removes the take. A storage that is away for hours fills the
// spool up to its bound; then recording stops, with an alert, until there is room,
// and media do not notice.
//
// # Keys
//
//	{prefix}/record/{app}/{stream}/hls/{stream}-{start}-{end}.m3u8
//	{prefix}/record/{app}/{stream}/hls/{stream}-{start}-{task}/000001.ts …
//	{prefix}/record/{app}/{stream}/mp4/{stream}-{start}-{end}.mp4
//	{prefix}/record/{app}/{stream}/flv/{stream}-{start}-{end}.flv
//	{prefix}/record/{app}/{stream}/clip/{name}-{start}-{end}.mp4 or .m3u8
//
// Start and end are Unix seconds. A name that is taken gets -1, -2 … behind it;
// nothing is overwritten.
package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// Options are a Recorder's settings; a zero field takes the default.
type Options struct {
	Log    *slog.Logger
	Tracer *tracing.Tracer // nil: nothing is traced
	Dir    string          // of the spool; it must be there
	Size   int64           // bound of the spool's size; default 20 GiB
	Sync   time.Duration   // a segment that grows is put on the disk so often; default 1 s, negative: only at its end

	Uploads int           // segments being uploaded to a bucket at a time; default 4
	Files   int           // MP4 and FLV files being made for a bucket at a time; default 1
	GiveUp  time.Duration // when an upload that fails is given up; default 72 h
	Retry   time.Duration // after which it is tried again at first; default 1 s

	// Bucket returns the bucket of that name, "" for the default.
	Bucket func(name string) (storage.Bucket, error)

	// BucketName returns the name of the bucket that Bucket returns; nil: it is
	// what the policy says.
	BucketName func(name string) string

	FFmpeg *ffmpeg.Tool // encodes exact clips; nil: there are none

	// Signer makes URLs for HLS recordings; nil: the bucket does.
	Signer *storage.Signer

	// Share lets the nodes of a cluster go on with each other's recordings; nil:
	// there are no others.
	Share *Share

	// Orders are those of all nodes; nil: they end with the Recorder.
	Orders *Orders

	// Emit appends a fact to the event log and never blocks; Flush waits until
	// what was emitted is durable.
	Emit  func(event.Event)
	Flush func(context.Context) error
}

// Recorder records the streams of a hub. Its methods may be called from any
// goroutine.
type Recorder struct {
	hub    *stream.Hub
	log    *slog.Logger
	dir    string
	sync   time.Duration
	giveUp time.Duration
	opened time.Time
	retry  time.Duration
	bucket func(string) (storage.Bucket, error)
	named  func(string) string
	signer *storage.Signer
	ledger *ledger // nil without Share
	orders *Orders
	emit   func(event.Event)
	flush  func(context.Context) error

	spool   spool
	uploads slots // of segments
	making  slots // of MP4 and FLV files

	clips    clips
	clipping slots // of MP4 clips

	stats  stats
	alerts alerts

	ctx    context.Context // of keepers
	cancel context.CancelFunc
	jobs   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	places map[stream.Key]*place
	takes  map[string]*take // all that are not removed, by task
	ended  []*take          // closed with mu held: unlock makes that durable
	timer  *time.Timer      // of the next moment at which an order begins or ends
}

// place is where the takes of a stream meet: at most one session, and one take
// that is not closed.
type place struct {
	turn chan struct{} // cap 1: a session has it

	// Guarded by Recorder.mu.
	sessions map[*session]bool // those that have or want turn
	again    bool              // an order came when all of them were stopped
	take     *take
	session  *session    // the one that records
	timer    *time.Timer // closes take when nobody returns
}

// Open returns a Recorder that goes on with what is in the spool, and attaches
// itself to the hub: it is called before the hub is used. The caller ends it with Close.
func Open(hub *stream.Hub, o Options) (*Recorder, error) {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Size = cmp.Or(o.Size, 20<<30)
	o.Sync = cmp.Or(o.Sync, time.Second)
	o.Uploads = cmp.Or(o.Uploads, 4)
	o.Files = cmp.Or(o.Files, 1)
	o.GiveUp = cmp.Or(o.GiveUp, 72*time.Hour)
	o.Retry = cmp.Or(o.Retry, time.Second)
	if o.BucketName == nil {
		o.BucketName = func(name string) string { return name }
	}
	if o.Orders == nil {
		o.Orders = NewOrders(nil, 0, o.Log)
	}
	if o.Flush == nil {
		o.Flush = func(context.Context) error { return nil }
	}
	r := &Recorder{
		hub: hub, log: o.Log, dir: o.Dir, sync: o.Sync, giveUp: o.GiveUp, retry: o.Retry, bucket: o.Bucket, named: o.BucketName, signer: o.Signer, emit: o.Emit, flush: o.Flush,
		spool: spool{limit: o.Size}, uploads: slots{n: o.Uploads}, making: slots{n: o.Files}, clipping: slots{n: o.Files},
		places: make(map[stream.Key]*place), takes: make(map[string]*take), orders: o.Orders,
		clips: clips{tool: o.FFmpeg, turn: make(chan struct{}, 1), list: make(map[clipID]*clip)},
	}
	r.opened = time.Now()
	r.spool.high = r.spoolHigh
	if o.Share != nil {
		r.ledger = &ledger{Share: *o.Share, log: o.Log, wait: compareTime, gone: make(map[string]time.Time), busy: make(map[string]bool)}
		r.ledger.After = cmp.Or(r.ledger.After, 5*time.Minute)
	}
	r.ctx, r.cancel = context.WithCancel(tracing.With(context.Background(), o.Tracer))
	if err := r.recover(); err != nil {
		r.Close()
		return nil, fmt.Errorf("recording spool: %w", err)
	}
	if o.Share != nil {
		r.jobs.Go(func() { r.ledger.run(r.ctx, r) }) // ends with r.ctx
	}
	hub.Follow(r.follow)
	r.due()
	r.jobs.Go(func() { r.orders.run(r.ctx, r.due) }) // ends with r.ctx
	return r, nil
}

// recover goes on with the takes in the spool.
func (r *Recorder) recover() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	var takes []*take
	for _, e := range entries {
		if task, ok := strings.CutPrefix(e.Name(), newPrefix); ok && isTask(task) {
			os.RemoveAll(filepath.Join(r.dir, e.Name())) // it was not whole
		}
		if !e.IsDir() || !isTask(e.Name()) {
			continue
		}
		t, err := r.load(e.Name())
		switch {
		case errors.Is(err, os.ErrNotExist), err == nil && len(t.segments) == 0:
			if err == nil {
				t.journal.close()
			}
			os.RemoveAll(filepath.Join(r.dir, e.Name())) // it had just begun
		case err != nil:
			r.log.Error("a recording in the spool cannot be read; it stays there", "task", e.Name(), "err", err)
		default:
			takes = append(takes, t)
		}
	}
	slices.SortFunc(takes, func(a, b *take) int { return a.head.Start.Compare(b.head.Start) })
	r.spool.spare(takes)
	r.mu.Lock()
	defer r.unlock()
	for _, t := range takes {
		r.takes[t.head.Task] = t
	}
	for _, t := range takes {
		t.forked = r.takes[t.forkTask()] != nil
		r.jobs.Go(t.keep) // ends when the take is done, or with r.ctx
		if t.closed != nil {
			continue
		}
		p := r.placeOf(t.head.key())
		if p.take != nil { // the process died between a cut and its note
			r.close(p.take, "cut", p.take.left.Last)
		}
		p.take = t
	}
	for key, p := range r.places {
		r.await(key, p)
	}
	return r.loadClips()
}

// isTask reports whether a folder's name is that of a take. What else there is in
// the folder that somebody gave us for a spool is not ours to remove.
func isTask(name string) bool {
	return len(name) == len(event.NewSequence()) && strings.Trim(name, "0123456789abcdef") == ""
}

// Close ends what the hub's end has left: uploads are interrupted. What is not
// done by then goes on when a Recorder opens the spool again. It is called when
// the hub is closed.
func (r *Recorder) Close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	for _, p := range r.places {
		if p.timer != nil {
			p.timer.Stop()
		}
		if p.session != nil {
			p.session.reader.Close()
		}
	}
	r.mu.Unlock()
	r.cancel()
	r.jobs.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.takes {
		t.journal.close()
	}
}

// close closes a take. r.mu is held, and given back by unlock.
func (r *Recorder) close(t *take, reason string, end time.Time) {
	t.noteClosed(reason, end)
	r.ended = append(r.ended, t)
}

// unlock unlocks r.mu, and then, without it, waits for the disk.
func (r *Recorder) unlock() {
	list := r.ended
	r.ended = nil
	r.mu.Unlock()
	for _, t := range list {
		t.flush(true)
		t.wake()
	}
}

// placeOf returns the place of a stream. r.mu is held.
func (r *Recorder) placeOf(key stream.Key) *place {
	p := r.places[key]
	if p == nil {
		p = &place{turn: make(chan struct{}, 1), sessions: make(map[*session]bool)}
		r.places[key] = p
	}
	return p
}

// follow records a push if that is wanted.
func (r *Recorder) follow(_ context.Context, pub *stream.Publication, rd *stream.Reader) {
	r.mu.Lock()
	var s *session
	if r.wanted(pub.Stream().Key(), pub) {
		s = r.session(pub, rd)
	}
	r.mu.Unlock()
	if s != nil {
		r.record(s)
	}
}

// session returns the session of a push, which record runs, or nil if the push has
// one. r.mu is held.
func (r *Recorder) session(pub *stream.Publication, rd *stream.Reader) *session {
	key := pub.Stream().Key()
	p := r.placeOf(key)
	for s := range p.sessions {
		if s.pub == pub {
			return nil
		}
	}
	s := &session{r: r, pub: pub, reader: rd, place: p, cfg: pub.App().Record, log: r.log.With("stream", key.String(), "session", pub.Push().Session)}
	p.sessions[s] = true
	return s
}

// wanted reports whether a push is recorded. r.mu is held.
func (r *Recorder) wanted(key stream.Key, pub *stream.Publication) bool {
	cfg := &pub.App().Record
	switch cfg.Mode {
	case policy.RecordAutomatic:
		return true
	case policy.RecordParam:
		if v, ok := pub.Push().Client.Param(cfg.Param); ok && asks(v) {
			return true
		}
	case policy.RecordOff:
		return false
	}
	return len(r.orders.active(key, time.Now())) > 0
}

// asks reports whether the value of a push's parameter asks for a recording.
func asks(v string) bool {
	switch strings.ToLower(v) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

// record records a push until its end, or until somebody stops it. Who did that, or
// ended the order for it, while the session waited for its turn has ended it as well.
func (r *Recorder) record(s *session) {
	key, p := s.pub.Stream().Key(), s.place
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	r.compare(p, s.pub)

	r.mu.Lock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if !r.closed && !s.stopped && r.wanted(key, s.pub) {
		p.session = s
		if t := p.take; t != nil && !t.awaits(s.pub.Start()) {
			r.close(t, "left", t.leaving().Last)
			p.take = nil
		}
		r.unlock()

		s.run()

		r.mu.Lock()
		p.session = nil
	}
	delete(p.sessions, s)
	r.clips.grew.all() // as far as it will for now
	if t := p.take; s.stopped && t != nil {
		r.close(t, "stopped", cmp.Or(s.last, t.leaving().Last))
		p.take = nil
	}
	if p.again && len(p.sessions) == 0 {
		p.again = false
		r.start(key)
	}
	r.await(key, p)
	r.unlock()
}

// compare sees to it that the take of a place is that with which the push can
// go on, also where it was with other nodes in the meantime. It holds the place's turn.
func (r *Recorder) compare(p *place, pub *stream.Publication) {
	if r.ledger == nil || !r.ledger.answers() {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.ledger.wait)
	defer cancel()
	r.mu.Lock()
	t := p.take
	r.mu.Unlock()
	if t != nil && !t.ours(ctx) {
		r.mu.Lock()
		if p.take == t {
			r.close(t, "moved", t.leaving().Last)
			p.take = nil
		}
		r.unlock()
		select {
		case <-t.done: // its folder is free for what the others have of it
		case <-ctx.Done():
		}
		t = nil
	}
	if t == nil {
		r.borrow(ctx, pub, pub.App().Record.Splice)
	}
}

// awaits reports whether a push that begins at that time is in the take's window.
func (t *take) awaits(start time.Time) bool {
	w := t.head.Record.Splice
	return w > 0 && start.Sub(t.leaving().At) <= w
}

// await closes the take of a place when its window is over, and forgets a place
// that has none. r.mu is held.
func (r *Recorder) await(key stream.Key, p *place) {
	switch {
	case r.closed || len(p.sessions) > 0:
	case p.take == nil:
		delete(r.places, key)
	default:
		t := p.take
		left := t.leaving()
		// A moment longer than the window: who returns at its very end is in it.
		d := time.Until(left.At.Add(t.head.Record.Splice)) + 10*time.Millisecond
		if t.head.Record.Splice == 0 {
			d = 0
		}
		p.timer = time.AfterFunc(max(d, 0), func() {
			r.mu.Lock()
			defer r.unlock()
			if r.closed || p.take != t || len(p.sessions) > 0 {
				return
			}
			r.close(t, "left", left.Last)
			p.take, p.timer = nil, nil
			delete(r.places, key)
		})
	}
}

// slots are places for work with buckets: so many for each, so that one which
// hangs holds up nobody who has another.
type slots struct {
	n int

	mu sync.Mutex
	of map[string]chan struct{} // by the name of the bucket
}

// take waits for a place, which the caller gives back by calling leave.
func (s *slots) take(ctx context.Context, bucket string) (leave func(), err error) {
	s.mu.Lock()
	if s.of == nil {
		s.of = make(map[string]chan struct{})
	}
	places := s.of[bucket]
	if places == nil {
		places = make(chan struct{}, s.n)
		s.of[bucket] = places
	}
	s.mu.Unlock()
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stats is what a Recorder counts.
type stats struct {
	recording, uploadedBytes, uploads, uploadErrors, finished, failed, lost atomic.Int64
	clips, clipsFailed                                                      atomic.Int64
}

// Stats is a Recorder's account since it began.
type Stats struct {
	Recording    int64 // streams being recorded now
	Takes        int64 // recordings in the spool
	SpoolBytes   int64
	SpoolLimit   int64
	Uploads      int64 // segments
	UploadBytes  int64
	UploadErrors int64
	Finished     int64 // files of all formats
	Failed       int64
	Stops        int64 // times that recording stopped for want of room
	ClipsWanted  int64 // clips being made, or that could not be
	Clips        int64 // finished
	ClipsFailed  int64
}

// Stats returns the Recorder's account.
func (r *Recorder) Stats() Stats {
	s := &r.stats
	st := Stats{
		Recording: s.recording.Load(), Uploads: s.uploads.Load(), UploadBytes: s.uploadedBytes.Load(), UploadErrors: s.uploadErrors.Load(),
		Finished: s.finished.Load(), Failed: s.failed.Load(), Stops: s.lost.Load(),
		Clips: s.clips.Load(), ClipsFailed: s.clipsFailed.Load(),
	}
	r.clips.mu.Lock()
	st.ClipsWanted = int64(len(r.clips.list))
	r.clips.mu.Unlock()
	st.SpoolBytes, st.SpoolLimit = r.spool.level()
	r.mu.Lock()
	defer r.mu.Unlock()
	st.Takes = int64(len(r.takes))
	return st
}

// spoolHigh raises or clears the alert that the spool is about to be full.
func (r *Recorder) spoolHigh(is bool) {
	if !is {
		r.clear(alertHigh)
		return
	}
	_, limit := r.spool.level()
	r.raise(alertHigh, fmt.Sprintf("the spool of recordings is full to %d %% of media that could not be uploaded; when it is full, recordings stop: see that the storage answers", highPercent),
		float64(r.spool.unsafe()), float64(limit))
}

// alerts are those that are raised, by name.
type alerts struct {
	mu      sync.Mutex
	raised  map[string]time.Time
	failing map[string]int // takes that do not reach a bucket, by its name
}

// unreached raises the alert that a bucket does not take recordings; first: it is
// for the first time that this take says so.
func (r *Recorder) unreached(bucket string, err error, first bool) {
	if first {
		r.alerts.mu.Lock()
		if r.alerts.failing == nil {
			r.alerts.failing = make(map[string]int)
		}
		r.alerts.failing[bucket]++
		r.alerts.mu.Unlock()
	}
	r.raise(alertUpload+":"+bucket, fmt.Sprintf("recordings cannot be uploaded to the bucket %q: %v", bucket, err), 0, 0)
}

// reached ends that alert if the take is the last of those that said so.
func (r *Recorder) reached(bucket string) {
	r.alerts.mu.Lock()
	r.alerts.failing[bucket]--
	left := r.alerts.failing[bucket]
	r.alerts.mu.Unlock()
	if left == 0 {
		r.clear(alertUpload + ":" + bucket)
	}
}

// raise raises an alert of the node unless it is raised already.
func (r *Recorder) raise(name, text string, value, limit float64) {
	r.alerts.mu.Lock()
	defer r.alerts.mu.Unlock()
	if _, ok := r.alerts.raised[name]; ok {
		return
	}
	if r.alerts.raised == nil {
		r.alerts.raised = make(map[string]time.Time)
	}
	now := time.Now()
	r.alerts.raised[name] = now
	r.log.Error(text, "alert", name)
	r.emit(event.New(now, event.AlertRaised{Alert: name, Text: text, Value: value, Limit: limit}))
}

// clear ends an alert.
func (r *Recorder) clear(name string) {
	r.alerts.mu.Lock()
	defer r.alerts.mu.Unlock()
	since, ok := r.alerts.raised[name]
	if !ok {
		return
	}
	delete(r.alerts.raised, name)
	r.log.Info("alert is over", "alert", name)
	r.emit(event.New(time.Now(), event.AlertCleared{Alert: name, Since: since}))
}
