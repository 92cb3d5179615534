package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"weir/internal/durable"
	"weir/internal/event"
	"weir/internal/media/mpegts"
)

// take is what becomes one file of each format: the segments of one push, or of
// several that followed each other in time. It is a folder of the spool, with the
// segments and a journal, from which a take goes on after a crash.
//
// One goroutine at a time writes media into it: a session. Another, keep,
// uploads what is there and in the end makes the files.
type take struct {
	r    *Recorder
	dir  string
	log  *slog.Logger
	head head

	// Of the session.
	out     *os.File // of the segment in the making, or nil
	hash    hash.Hash
	written int64
	synced  time.Time
	known   bool    // the disk has its name, and the journal that it has begun
	now     segment // that one; it is set with mu held, for clips look at it

	changed chan struct{} // cap 1: there is something to do for keep
	done    chan struct{} // closed when keep has ended

	shared shared // of keep
	forked bool   // keep's, too: there is another take of what nobody else has

	mu       sync.Mutex // guards all below; taken before spool.mu
	journal  *journal
	segments []segment // those that have ended
	pushes   []push
	active   bool    // a push is recorded into it
	left     leaving // of the last push, or as much as is known of it
	lost     int64   // ms of media that found no room
	closed   *closing
	files    map[string]*production // by format
}

// newTake makes a take's folder.
func (r *Recorder) newTake(h head) (t *take, err error) {
	err = r.spool.make(func() error { t, err = r.makeTake(h); return err })
	return t, err
}

func (r *Recorder) makeTake(h head) (*take, error) {
	t := r.take(h.Task)
	t.head = h
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if t.journal, err = createJournal(t.dir); err == nil {
		t.journal.add(entry{Head: &h})
		if err = t.journal.flush(true); err == nil {
			if err = durable.SyncDir(t.dir); err == nil {
				err = durable.SyncDir(r.dir)
			}
		}
		if err != nil {
			t.journal.close()
		}
	}
	if err != nil {
		os.RemoveAll(t.dir)
		return nil, err
	}
	t.narrow()
	return t, nil
}

func (r *Recorder) take(task string) *take {
	return &take{
		r: r, dir: filepath.Join(r.dir, task), log: r.log, hash: sha256.New(),
		changed: make(chan struct{}, 1), done: make(chan struct{}), files: make(map[string]*production),
	}
}

func (t *take) narrow() {
	t.log = t.r.log.With("stream", t.head.key().String(), "task", t.head.Task)
}

// file returns the path of a segment.
func (t *take) file(s *segment) string { return filepath.Join(t.dir, s.name()) }

// segment returns segment n or nil. t.mu is held.
func (t *take) segment(n int) *segment {
	if n < 1 || n > len(t.segments) {
		return nil
	}
	return &t.segments[n-1]
}

// end returns the media time after the last segment, in ms.
func (t *take) end() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endLocked()
}

func (t *take) endLocked() int64 {
	if n := len(t.segments); n > 0 {
		return t.segments[n-1].end()
	}
	return 0
}

// media returns how much media the segments have that are not missing, in ms, and how
// many they are. t.mu is held.
func (t *take) media() (length int64, segments int) {
	length = t.endLocked()
	for i := range t.segments {
		if s := &t.segments[i]; s.missing {
			length -= s.Duration
		} else {
			segments++
		}
	}
	return length, segments
}

// lostMedia returns how much there was that no file has, in ms. t.mu is held.
func (t *take) lostMedia() int64 {
	there, _ := t.media()
	return t.lost + t.endLocked() - there
}

// miss notes that segment n is neither here nor in the bucket.
func (t *take) miss(n int) {
	defer t.flush(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.segment(n)
	s.missing = true
	t.journal.add(entry{Missing: n})
	t.log.Error("a segment of a recording is missing: it is neither in the bucket nor in the spool", "segment", s.name(), "lost", ms(s.Duration))
}

// flush writes what was added to the journal. It may be late, but is not lost while
// the process lives. Nobody who calls it holds a lock.
func (t *take) flush(sync bool) {
	if err := t.journal.flush(sync); err != nil {
		t.log.Warn("the journal of a recording is late", "err", err)
	}
}

// begin opens the next segment. On disk is then whatever append has written.
func (t *take) begin(s segment) error {
	return t.r.spool.make(func() error { return t.open(s) })
}

func (t *take) open(s segment) error {
	t.mu.Lock()
	s.N, s.Owner = len(t.segments)+1, t.head.Owner
	t.mu.Unlock()
	f, err := os.OpenFile(t.file(&s), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	t.journal.add(entry{Begin: &s})
	if err := t.journal.flush(false); err != nil {
		f.Close()
		os.Remove(t.file(&s))
		return err
	}
	t.mu.Lock()
	t.now = s
	t.mu.Unlock()
	t.out, t.written, t.synced, t.known = f, 0, time.Now(), false
	t.hash.Reset()
	return nil
}

// append adds whole transport packets to the segment: all of b or nothing.
func (t *take) append(b []byte) error {
	if err := t.r.spool.take(int64(len(b))); err != nil {
		return err
	}
	n := 0
	err := t.r.spool.make(func() error {
		more, err := t.out.Write(b[n:])
		n += more
		return err
	})
	if d := t.r.sync; err == nil && d > 0 && time.Since(t.synced) >= d {
		t.synced = time.Now()
		err = t.out.Sync()
		if err == nil && !t.known {
			err = errors.Join(durable.SyncDir(t.dir), t.journal.flush(true))
			t.known = err == nil
		}
	}
	if err != nil {
		t.out.Truncate(t.written)
		t.r.spool.give(int64(len(b)), false)
		return err
	}
	t.written += int64(n)
	t.hash.Write(b)
	return nil
}

// finish ends the segment, which then has that duration in ms.
func (t *take) finish(duration int64) error {
	f := t.out
	t.out = nil
	err := errors.Join(f.Sync(), f.Close(), durable.SyncDir(t.dir)) // before the journal says that it is there
	if t.written == 0 {
		os.Remove(t.file(&t.now))
		return err
	}
	t.mu.Lock()
	s := t.now
	s.Duration, s.Size, s.SHA256, s.local = max(duration, 1), t.written, hex.EncodeToString(t.hash.Sum(nil)), true
	t.segments = append(t.segments, s)
	t.journal.add(entry{Segment: &s})
	t.mu.Unlock()
	t.flush(true)
	t.wake()
	return err
}

// wake tells keep that there is something to do, and clips that there is more.
func (t *take) wake() {
	t.r.clips.grew.all()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// join notes the push whose media come next.
func (t *take) join(p push) {
	defer t.flush(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active = true
	if n := len(t.pushes); n > 0 && t.pushes[n-1] == p {
		return
	}
	t.pushes = append(t.pushes, p)
	t.journal.add(entry{Push: &p})
}

// leave notes that the push has ended.
func (t *take) leave(l leaving) {
	t.mu.Lock()
	t.left, t.active = l, false
	t.journal.add(entry{Left: &l})
	t.mu.Unlock()
	t.flush(true)
	t.wake()
}

// leaving returns when the last push of a take ended.
func (t *take) leaving() leaving {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left
}

// lose notes that so many ms of media were not written.
func (t *take) lose(ms int64) {
	defer t.flush(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost += ms
	t.journal.add(entry{Lost: ms})
}

// close says that no segments will be added; keep makes the files.
func (t *take) close(reason string, end time.Time) {
	t.noteClosed(reason, end)
	t.flush(true)
	t.wake()
}

// noteClosed is close without what may take time: the caller flushes and wakes.
func (t *take) noteClosed(reason string, end time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.closed = &closing{reason, end}
		t.journal.add(entry{Closed: t.closed})
		t.log.Info("recording is closed", "reason", reason, "segments", len(t.segments), "media", t.endLocked())
	}
}

// remove forgets the take: everything about it is done.
func (t *take) remove() {
	t.r.spool.forget(t)
	t.mu.Lock()
	for i := range t.segments {
		if s := &t.segments[i]; s.local {
			t.r.spool.give(s.Size, s.stored)
			s.local = false
		}
	}
	t.mu.Unlock()
	t.journal.close()
	if err := os.RemoveAll(t.dir); err != nil {
		t.log.Warn("spool", "err", err)
	}
}

// load reads the take in the folder of that name, as it was when the process
// that wrote it ended, however that was.
func (r *Recorder) load(task string) (*take, error) {
	t := r.take(task)
	var begun *segment
	j, err := openJournal(t.dir, func(e *entry) {
		if e.Begin != nil {
			begun = e.Begin
		}
		t.apply(e)
	})
	if err != nil {
		return nil, err
	}
	if t.head.Task == "" {
		j.close()
		return nil, errors.New("journal has no head")
	}
	t.journal = j
	t.narrow()
	for i := range t.segments {
		s := &t.segments[i]
		t.seen(s.Time.Add(time.Duration(s.Duration) * time.Millisecond))
		info, err := os.Stat(t.file(s))
		s.local = err == nil && info.Size() == s.Size && !s.missing
		if s.local {
			r.spool.has(s.Size, s.stored)
		}
	}
	if begun != nil && begun.N == len(t.segments)+1 && t.closed == nil {
		t.salvage(*begun)
	}
	return t, nil
}

// apply does what an entry of the journal says.
func (t *take) apply(e *entry) {
	switch {
	case e.Head != nil:
		t.head = *e.Head
	case e.Push != nil:
		t.pushes = append(t.pushes, *e.Push)
	case e.Segment != nil && e.Segment.N == len(t.segments)+1:
		t.segments = append(t.segments, *e.Segment)
	case e.Stored > 0 && e.Stored <= len(t.segments):
		t.segments[e.Stored-1].stored = true
	case e.Missing > 0 && e.Missing <= len(t.segments):
		t.segments[e.Missing-1].missing = true
	case e.Left != nil:
		t.left = *e.Left
	case e.Lost > 0:
		t.lost += e.Lost
	case e.Closed != nil:
		t.closed = e.Closed
	case e.Named != nil:
		t.files[e.Named.Format] = e.Named
	case e.Made != nil:
		t.files[e.Made.Format] = e.Made
	case e.Told != "":
		if p := t.files[e.Told]; p != nil {
			p.told = true
		}
	}
}

// salvage makes a segment of what the file of one that was in the making has.
func (t *take) salvage(s segment) {
	name := t.file(&s)
	data, err := os.ReadFile(name)
	if err != nil {
		return
	}
	data = data[:wholePieces(data)]
	end := s.Start
	demux := mpegts.NewDemuxer(bytes.NewReader(data))
	var last [3]int64
	for {
		p, err := demux.ReadPacket()
		if err != nil {
			if err != io.EOF {
				t.log.Warn("salvage a segment", "err", err)
			}
			break
		}
		if p.Config {
			continue
		}
		at := p.DTS - baseTime - t.head.Base
		step := int64(usual)
		if before := last[p.Kind]; before > 0 {
			step = min(max(at-before, 1), maxInterval)
		}
		last[p.Kind] = at
		end = max(end, at+step)
	}
	if end == s.Start {
		os.Remove(name)
		return
	}
	sum := sha256.Sum256(data)
	s.Duration, s.Size, s.SHA256, s.local = end-s.Start, int64(len(data)), hex.EncodeToString(sum[:]), true
	if err := truncate(name, s.Size); err != nil {
		t.log.Warn("salvage a segment", "err", err)
		return
	}
	t.seen(s.Time.Add(time.Duration(s.Duration) * time.Millisecond))
	t.segments = append(t.segments, s)
	t.r.spool.has(s.Size, false)
	t.journal.add(entry{Segment: &s})
	t.flush(true)
	t.log.Info("salvaged a segment", "n", s.N, "media", s.Duration)
}

// seen notes that the last push had media at that time.
func (t *take) seen(at time.Time) {
	if at.After(t.left.Last) {
		t.left = leaving{at, at}
	}
}

// truncate cuts a file to a size, durably.
func truncate(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

const (
	packetSize = 188
	syncByte   = 0x47
)

// wholePieces returns how much of a segment is whole. It grows by pieces, each
// of which begins with the tables and has only whole frames; a power cut can
// leave a part of the last ones, or zeros.
func wholePieces(data []byte) int {
	whole := 0 // end of the last piece that is
	for at := 0; ; at += packetSize {
		if at+packetSize > len(data) {
			if at == len(data) {
				return at
			}
			return whole
		}
		p := data[at : at+packetSize]
		if p[0] != syncByte {
			return whole
		}
		if p[1] == 0x40 && p[2] == 0 { // the program association table
			whole = at
		}
	}
}

// fact returns a fact about the take.
func (t *take) fact(at time.Time, data event.Data) event.Event {
	e := event.New(at, data)
	e.Space, e.App, e.Stream = t.head.Space, t.head.App, t.head.Stream
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.pushes); n > 0 {
		e.Sequence = t.pushes[n-1].Sequence
	}
	return e
}
