package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"weir/internal/durable"
	"weir/internal/event"
)

// journal is where facts become durable, in a folder on this machine: in order,
// one fsync for all that wait. What JetStream has is removed again. What is
// open, a push that has begun and not ended, is carried from segment to segment,
// so that after the process was killed its end can be told.
//
// A record that cannot be written, because the disk is full, waits in memory,
// where there is room for a bounded number. While JetStream is there it is sent
// from memory, and need not be written any more: in the file a frame says how
// many were skipped, so that each fact has its index whichever way it went. What
// became of pushes is then not all in the files. They say so: the file "whole"
// is in the folder only while they have everything.
type journal struct {
	dir         string
	log         *slog.Logger
	segmentSize int64         // a longer one is followed by the next
	limit       int64         // bytes on disk; more are refused
	queueLimit  int           // bytes in memory; more are refused. Of both, ends of pushes may have a quarter more
	beat        time.Duration // between two marks
	own         uint64        // number of the first segment of this process
	fresh       bool          // no process before has left anything of which JetStream may have a part

	wake    chan struct{} // has room for one
	sent    chan struct{} // has room for one: JetStream has got something from memory
	quit    chan struct{} // closed by close
	stopped chan struct{} // closed when run has ended

	mu       sync.Mutex
	queue    []record // not yet on disk
	queued   int      // bytes of queue
	appended uint64   // records, since the journal was opened
	durable  uint64   // of them, on disk
	changed  chan struct{}
	segs     []*segment      // those that JetStream does not have whole; the last is written to
	bytes    int64           // of all of segs
	acked    mark            // without its time
	marked   mark            // the last acked that is on disk
	failure  error           // of the last attempt to write
	claimed  uint64          // facts of the active segment that were, perhaps, sent before they were written
	whole    bool            // the file of that name is there
	unsure   bool            // what became of the pushes of before is not known yet; no mark goes on
	refused  map[string]bool // Sequences of pushes whose beginning found no room, and that have not ended
	closing  bool
	latency  histogram

	// Of the goroutine run.
	active *segment // the last of segs
	file   *os.File
	buf    []byte
	open   map[string][]byte // payload of the fact with which it began, by Sequence
	torn   bool              // there may be something behind what is on disk

	// What has been skipped and is not in the file yet.
	skipped      uint64
	begun, ended []string // Sequences of pushes
}

// record is what is to be written.
type record struct {
	subject string
	data    []byte
	begins  string // Sequence of the push that it begins
	ends    string // of the one that it ends
	at      time.Time
}

func (r *record) size() int { return frameHead + 1 + 2 + len(r.subject) + len(r.data) }

// The bytes of one write: what comes later waits for the next.
const maxWrite = 4 << 20

// found is what a journal knew when it was opened.
type found struct {
	clean bool                   // the process before ended in order, or there was none
	alive time.Time              // when the process before was last known to live
	open  map[string]event.Event // what it left open, by Sequence
	ended map[string]bool        // pushes that ended
	whole bool                   // that is all that is to be known
	torn  int64                  // bytes cut off
}

// openJournal opens the journal in j.dir, or makes one. The caller runs it.
func openJournal(j *journal) (*found, error) {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return nil, err
	}
	j.changed, j.wake, j.sent = make(chan struct{}), make(chan struct{}, 1), make(chan struct{}, 1)
	j.quit, j.stopped = make(chan struct{}), make(chan struct{})
	j.open = make(map[string][]byte)
	f := &found{clean: true, open: make(map[string]event.Event), ended: make(map[string]bool)}
	list, err := segments(j.dir)
	if err != nil {
		return nil, err
	}
	for i, s := range list {
		if err := j.load(s, f); err != nil {
			return nil, err
		}
		info, err := os.Stat(s.path)
		if err != nil {
			return nil, err
		}
		if torn := info.Size() - s.size; torn > 0 {
			f.torn += torn
			if i < len(list)-1 {
				j.log.Error("a journal is damaged; facts in it may be lost", "file", s.path, "bytes", torn)
			}
			if err := os.Truncate(s.path, s.size); err != nil {
				return nil, err
			}
		}
	}
	number := uint64(1)
	f.whole = true
	if len(list) > 0 {
		last := list[len(list)-1]
		number = last.number + 1
		_, err := os.Stat(j.wholeFile())
		f.whole = err == nil || last.version == 1
	}
	if i := slices.IndexFunc(list, func(s *segment) bool { return s.id != "" && s.id == j.acked.Segment }); i >= 0 {
		list = list[i:]
	}
	list = slices.DeleteFunc(list, func(s *segment) bool {
		return s.facts == 0 || s.id == j.acked.Segment && j.acked.Index >= s.facts
	})
	j.fresh = len(list) == 0
	active, file, err := create(j.dir, number, j.head(j.acked))
	if err != nil {
		return nil, fmt.Errorf("make a journal: %w", err)
	}
	j.segs, j.active, j.file, j.own = append(list, active), active, file, active.number
	for _, s := range j.segs {
		j.bytes += s.size
	}
	if f.whole {
		j.markWhole()
	}
	j.unsure = !f.whole || !f.clean
	return f, j.tidy()
}

func (j *journal) wholeFile() string { return filepath.Join(j.dir, "whole") }

// markWhole says that the files have everything. If it cannot be said now, it
// is later.
func (j *journal) markWhole() {
	f, err := os.OpenFile(j.wholeFile(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Close()
		err = durable.SyncDir(j.dir)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.whole = err == nil
}

// settled says that it is known, and durable, what became of the pushes of
// before.
func (j *journal) settled() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unsure = false
}

// tidy removes the files of segments that are not in j.segs.
func (j *journal) tidy() error {
	list, err := segments(j.dir)
	if err != nil {
		return err
	}
	for _, s := range list {
		if !slices.ContainsFunc(j.segs, func(k *segment) bool { return k.number == s.number }) {
			if err := os.Remove(s.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// load reads what is in a segment of a process before.
func (j *journal) load(s *segment, f *found) error {
	return s.scan(func(k kind, payload []byte) error {
		f.clean = k == kindClean
		switch k {
		case kindMark, kindClean:
			var m mark
			if json.Unmarshal(payload, &m) == nil {
				f.lived(m.Time)
				m.Time = time.Time{}
				j.acked, j.marked = m, m
			}
		case kindFact, kindCarry:
			subject, data, err := parseFact(payload)
			if err != nil || !tellsOfPush(subject) {
				return nil
			}
			var e event.Event
			if json.Unmarshal(data, &e) != nil {
				return nil
			}
			if k == kindFact {
				f.lived(e.Time)
			}
			if e.Type == event.TypePublishStarted {
				f.open[e.Sequence], j.open[e.Sequence] = e, bytes.Clone(payload)
			} else {
				j.end(e.Sequence, f)
			}
		case kindSkip:
			var s skip
			if json.Unmarshal(payload, &s) == nil {
				for _, seq := range s.Ended {
					j.end(seq, f)
				}
			}
		}
		return nil
	})
}

// end notes that a push has ended.
func (j *journal) end(seq string, f *found) {
	f.ended[seq] = true
	delete(f.open, seq)
	delete(j.open, seq)
}

func (f *found) lived(t time.Time) {
	if t.After(f.alive) {
		f.alive = t
	}
}

// head returns the first frames of a new segment.
func (j *journal) head(m mark) []byte {
	m.Time = time.Now()
	b := m.frame(kindMark)
	for _, seq := range slices.Sorted(maps.Keys(j.open)) {
		b = appendFrame(b, kindCarry, j.open[seq])
	}
	return b
}

// append puts a record behind all others. It reports whether there was room.
// Where there was none for the beginning of a push, its end is not taken either.
func (j *journal) append(r record) bool {
	n := r.size()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refused[r.ends] {
		delete(j.refused, r.ends)
		return false
	}
	limit, queueLimit := j.limit, j.queueLimit
	if r.ends != "" { // of what has begun the end is told
		limit, queueLimit = limit+limit/4, queueLimit+queueLimit/4
	}
	if j.closing || j.queued+n > queueLimit || j.bytes+int64(j.queued+n) > limit {
		if r.begins != "" {
			j.refuse(r.begins)
		}
		return false
	}
	j.queue = append(j.queue, r)
	j.queued += n
	j.appended++
	if j.failure != nil {
		j.notify() // it may be sent from memory
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return true
}

// refuse notes that the beginning of a push is not in the journal. The caller
// holds j.mu.
func (j *journal) refuse(sequence string) {
	if j.refused == nil {
		j.refused = make(map[string]bool)
	}
	j.refused[sequence] = true
}

// hasRefused reports whether the beginning of a push that goes on found no room.
func (j *journal) hasRefused(sequence string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.refused[sequence]
}

// flush waits until all records appended before are on disk.
func (j *journal) flush(ctx context.Context) error {
	j.mu.Lock()
	want := j.appended
	for j.durable < want {
		changed, failure := j.changed, j.failure
		j.mu.Unlock()
		select {
		case <-changed:
		case <-j.stopped:
			j.mu.Lock()
			defer j.mu.Unlock()
			if j.durable < want {
				return errors.Join(errClosed, j.failure)
			}
			return nil
		case <-ctx.Done():
			return errors.Join(ctx.Err(), failure)
		}
		j.mu.Lock()
	}
	j.mu.Unlock()
	return nil
}

var errClosed = errors.New("the event log is closed")

// notify tells everybody who waits that something has changed. The caller holds
// j.mu.
func (j *journal) notify() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// retryTime is between attempts to write to a disk that takes nothing.
const retryTime = time.Second

// run writes records as they come, until close.
func (j *journal) run() {
	defer close(j.stopped)
	defer func() { j.file.Close() }()
	beat := time.NewTicker(j.beat)
	defer beat.Stop()
	var retry <-chan time.Time // while the disk takes nothing
	for {
		wake := j.wake
		if retry != nil {
			wake = nil
		}
		select {
		case <-wake:
		case <-retry:
		case <-j.sent:
			j.drop()
			continue
		case <-beat.C:
			if retry == nil {
				j.mark()
			}
			continue
		case <-j.quit:
			j.drop()
			if j.writeAll() == nil {
				j.markClean()
			}
			return
		}
		retry = nil
		if j.writeAll() != nil {
			retry = time.After(retryTime)
		}
	}
}

// writeAll writes what is in the queue.
func (j *journal) writeAll() error {
	for {
		batch := j.take()
		if len(batch) == 0 {
			j.complete()
			return nil
		}
		j.buf = j.appendSkipped(j.buf[:0])
		for _, r := range batch {
			j.buf = appendFrame(j.buf, kindFact, factPayload(r.subject, r.data)...)
		}
		if err := j.write(batch); err != nil {
			return err
		}
		if cap(j.buf) > maxWrite/4 {
			j.buf = nil
		}
		j.rotate()
	}
}

// take returns the records to be written next, which stay in the queue.
func (j *journal) take() []record {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, size := 0, 0
	for n < len(j.queue) && (n == 0 || size+j.queue[n].size() <= maxWrite) {
		size += j.queue[n].size()
		n++
	}
	return j.queue[:n:n]
}

// write writes j.buf, which is the records of batch, or a mark and no record,
// and takes them out of the queue when they are on disk. After an error the
// same place is written again.
func (j *journal) write(batch []record) error {
	s := j.active
	var err error
	if j.torn { // what comes now may be shorter
		err = j.file.Truncate(s.size)
	}
	if err == nil {
		_, err = j.file.WriteAt(j.buf, s.size)
	}
	if err == nil {
		err = j.file.Sync()
	}
	j.torn = err != nil
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		if j.failure == nil {
			j.log.Error("facts cannot be written to disk; they go to NATS from memory while it takes them", "err", err)
		}
		j.failure = err
		j.notify()
		return err
	}
	if j.failure != nil {
		j.log.Info("facts can be written to disk again")
		j.failure = nil
	}
	j.skipped, j.begun, j.ended = 0, nil, nil
	s.size += int64(len(j.buf))
	s.facts += uint64(len(batch))
	j.bytes += int64(len(j.buf))
	now := time.Now()
	for _, r := range batch {
		if r.begins != "" {
			j.open[r.begins] = bytes.Join(factPayload(r.subject, r.data), nil)
		}
		delete(j.open, r.ends)
		j.queued -= r.size()
		j.latency.add(now.Sub(r.at))
	}
	j.unqueue(len(batch))
	return nil
}

// unqueue takes out of the queue the first n records, which are durable. The
// caller holds j.mu.
func (j *journal) unqueue(n int) {
	clear(j.queue[:n])
	j.queue = j.queue[n:]
	if len(j.queue) == 0 {
		j.queue = nil
	}
	j.durable += uint64(n)
	j.notify()
}

// inMemory returns the fact at p, if it waits for a disk that takes nothing.
// The caller sends it: until it is known whether JetStream has it, it keeps that
// place.
func (j *journal) inMemory(p place) (item, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	waits := func() bool {
		s := j.segs[len(j.segs)-1]
		return j.failure != nil && p.seg == s && p.index >= s.facts && p.index-s.facts < uint64(len(j.queue))
	}
	if waits() && j.whole {
		j.whole = false
		j.mu.Unlock()
		err := os.Remove(j.wholeFile())
		if err == nil {
			err = durable.SyncDir(j.dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			j.log.Warn("facts go to NATS that are not on disk, and that cannot be noted: if weir is killed now and starts without NATS, pushes may have two ends", "err", err)
		}
		j.mu.Lock()
	}
	if !waits() {
		return item{}, false
	}
	r := &j.queue[p.index-p.seg.facts]
	j.claimed = max(j.claimed, p.index+1)
	return item{r.subject, r.data, p, place{seg: p.seg, index: p.index + 1}}, true
}

// drop takes out of the queue what JetStream has got from there.
func (j *journal) drop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.active
	if j.acked.Segment != s.id || j.acked.Index <= s.facts {
		return
	}
	n := min(int(j.acked.Index-s.facts), len(j.queue))
	now := time.Now()
	for _, r := range j.queue[:n] {
		if r.begins != "" {
			j.open[r.begins] = bytes.Join(factPayload(r.subject, r.data), nil)
			j.begun = append(j.begun, r.begins)
		}
		if r.ends != "" {
			delete(j.open, r.ends)
			j.ended = append(j.ended, r.ends)
		}
		j.queued -= r.size()
		j.latency.add(now.Sub(r.at))
	}
	s.facts += uint64(n)
	j.skipped += uint64(n)
	j.unqueue(n)
}

// maxEnded is how many Sequences go into one frame.
const maxEnded = 10_000

// appendSkipped appends the frames that say what has been skipped. What has
// begun comes first: a write that is cut off has then too much of it.
func (j *journal) appendSkipped(b []byte) []byte {
	if j.skipped == 0 {
		return b
	}
	for _, seq := range j.begun {
		if payload := j.open[seq]; payload != nil {
			b = appendFrame(b, kindCarry, payload)
		}
	}
	s := skip{Facts: j.skipped}
	for rest := j.ended; s.Facts > 0 || len(rest) > 0; s.Facts = 0 {
		n := min(len(rest), maxEnded)
		s.Ended, rest = rest[:n], rest[n:]
		payload, err := json.Marshal(s)
		if err != nil {
			panic(err) // numbers and text
		}
		b = appendFrame(b, kindSkip, payload)
	}
	return b
}

// rotate begins a new segment when the last one is long. If the disk takes no
// new file the old one goes on.
func (j *journal) rotate() {
	old := j.active
	j.mu.Lock()
	m, taken := j.toMark(), j.claimed > old.facts
	j.mu.Unlock()
	if taken || old.size < j.segmentSize+old.head { // what is on its way has its place in this segment
		return
	}
	s, file, err := create(j.dir, old.number+1, j.head(m))
	if err != nil {
		j.log.Warn("the journal of facts goes on in a long file", "err", err)
		old.head += j.segmentSize // and tries again when that much longer
		return
	}
	j.file.Close()
	j.active, j.file = s, file
	j.mu.Lock()
	old.closed = true
	j.segs = append(j.segs, s)
	j.bytes += s.size
	j.claimed = 0
	j.marked = m
	j.prune()
	j.notify()
	j.mu.Unlock()
}

// toMark is how far JetStream has the facts, as far as that may be written. The
// caller holds j.mu.
func (j *journal) toMark() mark {
	if j.unsure { // what was sent lately is to be looked at again
		return j.marked
	}
	return j.acked
}

// mark writes how far JetStream has the facts, and with it that the node lives,
// if that is of interest.
func (j *journal) mark() {
	j.mu.Lock()
	m, marked := j.toMark(), j.marked
	j.mu.Unlock()
	if m == marked && len(j.open) == 0 && j.skipped == 0 {
		return
	}
	j.writeMark(kindMark, m)
	j.complete()
}

// complete says that the files have everything, if that is not said and true.
func (j *journal) complete() {
	j.mu.Lock()
	ok := !j.whole && !j.unsure && j.failure == nil && j.skipped == 0 && j.claimed <= j.active.facts
	j.mu.Unlock()
	if ok {
		j.markWhole()
	}
}

// markClean writes the mark of an end in order.
func (j *journal) markClean() {
	j.mu.Lock()
	m := j.toMark()
	j.mu.Unlock()
	j.writeMark(kindClean, m)
}

func (j *journal) writeMark(k kind, m mark) {
	saved := m
	m.Time = time.Now()
	j.buf = append(j.appendSkipped(j.buf[:0]), m.frame(k)...)
	if j.write(nil) == nil {
		j.mu.Lock()
		j.marked = saved
		j.mu.Unlock()
	}
}

// ack says that JetStream, in the stream made at that time, has all before the
// place, the last of it as seq.
func (j *journal) ack(at place, seq uint64, stream time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked = mark{Segment: at.seg.id, Index: at.index, Seq: seq, Stream: stream}
	if at.index > at.seg.facts {
		select {
		case j.sent <- struct{}{}:
		default:
		}
	}
	j.prune()
	if j.waiting() == 0 {
		j.notify()
	}
}

// prune removes the segments that JetStream has whole. The caller holds j.mu.
func (j *journal) prune() {
	for len(j.segs) > 1 {
		s := j.segs[0]
		i := slices.IndexFunc(j.segs, func(s *segment) bool { return s.id == j.acked.Segment })
		if !s.closed || s.facts > 0 && (i < 0 || i == 0 && j.acked.Index < s.facts) {
			return
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.log.Warn("a journal cannot be removed", "err", err)
			return
		}
		j.bytes -= s.size
		j.segs = slices.Delete(j.segs, 0, 1)
	}
}

// waiting returns how many records JetStream does not have. The caller holds
// j.mu.
func (j *journal) waiting() int {
	n := len(j.queue)
	for _, s := range j.segs {
		n += int(s.facts)
		if s.id == j.acked.Segment {
			n -= int(min(j.acked.Index, s.facts))
		}
	}
	return n
}

// close ends the journal in order. What cannot be written is lost.
func (j *journal) close() {
	j.mu.Lock()
	if !j.closing {
		j.closing = true
		close(j.quit)
	}
	j.mu.Unlock()
	<-j.stopped
}
