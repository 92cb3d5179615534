package record

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/durable"
	"weir/internal/event"
	"weir/internal/storage"
	"weir/internal/stream"
)

// Share is what lets nodes go on with each other's recordings: one JetStream, and
// buckets that all of them see.
//
// The journal of each take is then in JetStream as well, in pieces that are messages
// of a subject of its own, behind the segments in the bucket: what they say is
// stored, is. Who adds a piece names the one before, so of two nodes that go on
// with a take only one can; he who has written the last piece owns it.
//
//	weir.recording.{space}.{app}.{stream}.{task}
//
// A take whose node is away is gone on with by another: its window is waited for,
// and its files are made. While its push is away and everything is in the bucket, a
// node lets go of a take, so that the push may come back to another node and go on
// in the same file. A node that finds its take taken, because it was cut off for so
// long, makes a take of its own of what the other does not have.
type Share struct {
	JetStream jetstream.JetStream
	Replicas  int
	Node      string // the name of this one

	// Nodes returns the names of those that are there.
	Nodes func(context.Context) ([]string, error)

	// After is how long a node has to be away; default 5 min.
	After time.Duration
}

const (
	shareStream  = "weir_recordings"
	shareSubject = "weir.recording."
	shareSchema  = 1

	maxPiece  = 512 << 10
	rowPieces = 256
	shareTime = 3 * time.Second // for one question
	shareWait = 5 * time.Second // between attempts
	adoptTime = time.Minute     // to read a take and to look whether it is there

	// compareTime is for how long a push's media wait in its stream's log until it is
	// known whether others have a take of it: much less than the log holds.
	compareTime = 1500 * time.Millisecond

	// graveTime is how long it is remembered that another node has finished a take.
	graveTime = 30 * 24 * time.Hour
)

// Headers of pieces.
const (
	headerNode = "Weir-Node" // who wrote it
	headerKind = "Weir-Kind" // "": it goes on from the piece before
	headerMore = "Weir-More" // not empty: there are more pieces of what was written at once
	headerSize = "Weir-Segments"

	kindAnew = "anew" // the journal begins with it, once all pieces of that are there
	kindFree = "free" // nothing; whoever wants to may go on
	kindDone = "done" // nothing; another node than the first has finished it, with so many segments by its first owner, by its first two, and so on
)

// errMoved is the error of a take that another node has.
var errMoved = errors.New("another node has gone on with the recording")

// errNothing is the error of a take that nobody can go on with, unless it is its own
// node and has it in its spool.
var errNothing = errors.New("nothing of the recording is in the bucket: only its own node can go on with it")

// ledger is what a Recorder knows of the takes of all nodes.
type ledger struct {
	Share
	log  *slog.Logger
	wait time.Duration // for others' takes when a push begins: compareTime, but in tests

	mu     sync.Mutex
	stream jetstream.Stream     // nil until it was reached
	failed time.Time            // when it last did not answer a push
	gone   map[string]time.Time // nodes that own something and are not there, since when
	busy   map[string]bool      // takes that are being adopted
}

// shared is what is known of a take's journal in JetStream. It belongs to the
// goroutine that keeps the take, but for the marked fields.
type shared struct {
	known  bool   // the others are right
	seq    uint64 // of its last piece; 0: there is none
	sent   int64  // bytes of the journal that are there
	next   time.Time
	warned bool

	// Guarded by take.mu.
	free  bool
	moved bool // another node has it
	has   int  // so many segments of those that were here
}

func (l *ledger) open(ctx context.Context) (jetstream.Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream != nil {
		return l.stream, nil
	}
	s, err := bus.Stream(ctx, l.JetStream, jetstream.StreamConfig{
		Name: shareStream, Description: "Weir: recordings that are not finished", Subjects: []string{shareSubject + ">"},
		Storage: jetstream.FileStorage, Replicas: max(1, l.Replicas), AllowDirect: false, Duplicates: time.Minute,
	}, shareSchema, nil)
	if err != nil {
		return nil, fmt.Errorf("open the recordings of all nodes: %w", err)
	}
	l.stream = s
	return s, nil
}

// answers reports whether it is worth while to let a push wait for an answer.
func (l *ledger) answers() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.failed) > shareWait
}

// silent notes that there was no answer.
func (l *ledger) silent(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = time.Now()
	l.log.Warn("a recording begins without a word of other nodes", "err", err)
}

// subject is that of a take.
func subject(h *head) string { return streamSubject(h.key()) + bus.Token(h.Task) }

func streamSubject(key stream.Key) string {
	return shareSubject + bus.Token(key.Space) + "." + bus.Token(key.App) + "." + bus.Token(key.Name) + "."
}

// last returns the last piece of a subject, nil if there is none.
func (l *ledger) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, err
}

// read returns the journal of a take as it was when last was written. One that was
// begun anew by a node which did not come to its end is as it was before.
func (l *ledger) read(ctx context.Context, subject string, last uint64) (journal []byte, err error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A long take has thousands of pieces: they come in rows, not each for a question.
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: subject, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: shareWait,
	})
	if err != nil {
		return nil, err
	}
	var next []byte // anew, as far as it is there
	anew := false
	for n := uint64(1); ; {
		row, err := c.Fetch(rowPieces, jetstream.FetchContext(ctx)) // it ends with ctx at the latest
		if err != nil {
			return nil, err
		}
		for m := range row.Messages() {
			meta, err := m.Metadata()
			switch {
			case err != nil:
				return nil, err
			case meta.Sequence.Consumer != n:
				return nil, errors.New("a piece was lost on its way")
			case meta.Sequence.Stream > last: // which is not there any more
				return journal, nil
			}
			n++
			if m.Headers().Get(headerKind) == kindAnew {
				anew, next = true, nil
			}
			switch {
			case !anew:
				journal = append(journal, m.Data()...)
			case m.Headers().Get(headerMore) != "":
				next = append(next, m.Data()...)
			default:
				journal, anew = append(next, m.Data()...), false
			}
			if len(journal)+len(next) > 2*maxJournal {
				return nil, errors.New("too long")
			}
			if meta.Sequence.Stream == last {
				return journal, nil
			}
		}
		if err := cmp.Or(row.Error(), ctx.Err()); err != nil {
			return nil, err
		}
	}
}

// add adds a piece behind the one with the number after, and returns its number.
func (l *ledger) add(ctx context.Context, subject string, after uint64, header nats.Header, data []byte) (uint64, error) {
	if _, err := l.open(ctx); err != nil {
		return 0, err
	}
	header.Set(headerNode, l.Node)
	m := &nats.Msg{Subject: subject, Data: data, Header: header}
	ack, err := l.JetStream.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(after))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// write writes a journal, or a part of it that ends with a line, in pieces. The
// first one is of that kind.
func (l *ledger) write(ctx context.Context, subject string, after uint64, kind string, data []byte) (uint64, error) {
	for len(data) > 0 {
		n := len(data)
		if n > maxPiece {
			n = bytes.LastIndexByte(data[:maxPiece], '\n') + 1
			if n == 0 {
				return 0, errors.New("a line of the journal is too long to be shared")
			}
		}
		h := nats.Header{}
		if kind != "" {
			h.Set(headerKind, kind)
		}
		if n < len(data) {
			h.Set(headerMore, "1")
		}
		seq, err := l.add(ctx, subject, after, h, data[:n])
		if err != nil {
			return 0, err
		}
		after, kind, data = seq, "", data[n:]
	}
	return after, nil
}

// share brings the journal in JetStream up to date, as well as that goes now; a
// failure is made good the next time. It reports whether all of it is there.
func (t *take) share() bool {
	l := t.r.ledger
	if l == nil {
		return true
	}
	if time.Now().Before(t.shared.next) {
		return false
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, shareTime)
	defer cancel()
	err := t.publish(ctx)
	switch {
	case err == nil:
		t.shared.warned = false
		return true
	case errors.Is(err, errMoved):
		t.give()
		return false
	}
	t.shared.known, t.shared.next = false, time.Now().Add(shareWait)
	if !t.shared.warned && t.r.ctx.Err() == nil {
		t.shared.warned = true
		t.log.Warn("other nodes do not hear of the recording", "err", err)
	}
	return false
}

// shareAll is share until it succeeds. It reports false when r.ctx ended before,
// or when another node has the take.
func (t *take) shareAll() bool {
	for !t.share() {
		if t.isMoved() {
			return false
		}
		select {
		case <-time.After(time.Until(t.shared.next)):
		case <-t.r.ctx.Done():
			return false
		}
	}
	return true
}

// publish adds what is not yet there. The error is errMoved when another node
// has the take.
func (t *take) publish(ctx context.Context) error {
	l, s := t.r.ledger, &t.shared
	size := t.journal.length()
	if s.known && s.sent == size {
		return nil
	}
	kind := ""
	if !s.known {
		if err := t.find(ctx); err != nil {
			return err
		}
		kind, s.sent = kindAnew, 0
	}
	data, err := t.journal.read(s.sent)
	if err != nil {
		return err
	}
	size = s.sent + int64(len(data))
	seq, err := l.write(ctx, subject(&t.head), s.seq, kind, data)
	if err != nil {
		// Perhaps some of it is there. Whoever asks next finds out.
		s.known = false
		if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			if err := t.find(ctx); err != nil {
				return err
			}
		}
		return err
	}
	s.known, s.seq, s.sent = true, seq, size
	t.mu.Lock()
	s.free = false
	t.mu.Unlock()
	return nil
}

// find looks for the last piece of the take. The error is errMoved when another
// node has written it.
func (t *take) find(ctx context.Context) error {
	l, s := t.r.ledger, &t.shared
	last, err := l.last(ctx, subject(&t.head))
	switch {
	case err != nil:
		return err
	case last == nil:
		s.seq = 0
		return nil
	}
	s.seq = last.Sequence
	switch kind, node := last.Header.Get(headerKind), last.Header.Get(headerNode); {
	case kind == kindDone:
		by := strings.Split(last.Header.Get(headerSize), ",")
		n, _ := strconv.Atoi(by[min(t.head.Owner, len(by)-1)])
		t.noteMoved(n, node)
	case node != l.Node:
		journal, err := l.read(ctx, subject(&t.head), last.Sequence)
		if err != nil {
			return err
		}
		other := t.r.take(t.head.Task)
		readEntries(journal, other.apply)
		t.noteMoved(other.by(t.head.Owner), node)
	default:
		return nil
	}
	return errMoved
}

// by returns how many segments there are by that owner and those before.
func (t *take) by(owner int) (n int) {
	for n < len(t.segments) && t.segments[n].Owner <= owner {
		n++
	}
	return n
}

func (t *take) noteMoved(n int, node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shared.moved, t.shared.has = true, n
	t.log.Warn("another node has gone on with the recording", "node", node, "segments", n, "here", len(t.segments))
}

// isMoved reports whether another node has the take.
func (t *take) isMoved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shared.moved
}

// give lets nobody go on with a take that another node has: a push that is here
// begins another one with its next segment.
func (t *take) give() {
	r := t.r
	r.mu.Lock()
	defer r.unlock()
	p := r.places[t.head.key()]
	switch {
	case p != nil && p.take == t && p.session != nil: // which sees it by itself
	case p != nil && p.take == t:
		p.take = nil
		if p.timer != nil {
			p.timer.Stop()
			p.timer = nil
		}
		if len(p.sessions) == 0 {
			delete(r.places, t.head.key())
		}
		fallthrough
	default:
		r.close(t, "moved", t.leaving().Last)
	}
}

// letGo lets other nodes go on with a take whose push has left and of which
// everything is there.
func (t *take) letGo() {
	l, s := t.r.ledger, &t.shared
	t.mu.Lock()
	wants := l != nil && s.known && t.journal.is(s.sent) && !s.free && !t.active && t.closed == nil && !s.moved
	t.mu.Unlock()
	if !wants {
		return
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, shareTime)
	defer cancel()
	seq, err := l.add(ctx, subject(&t.head), s.seq, nats.Header{headerKind: {kindFree}}, nil)
	if err != nil {
		s.known = false
		return
	}
	s.seq = seq
	t.mu.Lock()
	s.free = true
	t.mu.Unlock()
}

// bury says that the take is done. It reports false when r.ctx ended before.
func (t *take) bury() bool {
	if t.r.ledger == nil {
		return true
	}
	for {
		err := t.bury1(t.r.ctx)
		if err == nil || errors.Is(err, errMoved) {
			return true
		}
		select {
		case <-time.After(shareWait):
		case <-t.r.ctx.Done():
			return false
		}
	}
}

// bury1 is bury, once.
func (t *take) bury1(ctx context.Context) error {
	l, s := t.r.ledger, &t.shared
	ctx, cancel := context.WithTimeout(ctx, shareTime)
	defer cancel()
	st, err := l.open(ctx)
	if err != nil {
		return err
	}
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(subject(&t.head))}
	if t.adopted() { // who began it may come back and ask
		if !s.known {
			if err := t.find(ctx); err != nil {
				return err
			}
		}
		s.known = false
		var by []string
		for owner := range t.head.Owner + 1 {
			by = append(by, strconv.Itoa(t.by(owner)))
		}
		h := nats.Header{headerKind: {kindDone}, headerSize: {strings.Join(by, ",")}}
		if _, err := l.add(ctx, subject(&t.head), s.seq, h, nil); err != nil {
			return err
		}
		opts = append(opts, jetstream.WithPurgeKeep(1))
	}
	return st.Purge(ctx, opts...)
}

// adopted reports whether another node began the take.
func (t *take) adopted() bool { return t.r.ledger != nil && t.head.Node != t.r.ledger.Node }

// newPrefix is before the name of a take's folder that is not whole yet.
const newPrefix = "new-"

// found makes the folder of a take that has had a life elsewhere, under a name that
// recover does not know; fill adds what is in it.
func (t *take) found(fill func() error) (err error) {
	t.dir = filepath.Join(t.r.dir, newPrefix+t.head.Task)
	if err := os.RemoveAll(t.dir); err != nil {
		return err
	}
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return err
	}
	if t.journal, err = createJournal(t.dir); err != nil {
		os.RemoveAll(t.dir)
		return err
	}
	if err = fill(); err == nil {
		err = errors.Join(t.journal.flush(true), durable.SyncDir(t.dir))
	}
	if err != nil {
		t.unfound()
	}
	return err
}

// settle gives the folder its name. One that has it, and could not be read, goes aside.
func (t *take) settle() error {
	name := filepath.Join(t.r.dir, t.head.Task)
	if _, err := os.Lstat(name); err == nil {
		if err := os.Rename(name, name+"."+event.NewID()); err != nil {
			return err
		}
	}
	if err := os.Rename(t.dir, name); err != nil {
		return err
	}
	t.dir = name
	return durable.SyncDir(t.r.dir)
}

// unfound removes it again.
func (t *take) unfound() {
	t.journal.close()
	os.RemoveAll(t.dir)
}

// forkTask is the task of the take that fork makes, always the same.
func (t *take) forkTask() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", t.head.Task, t.head.Owner))
	return hex.EncodeToString(sum[:])[:len(t.head.Task)]
}

// fork makes another take of the segments that the node which has gone on with
// this one does not have. It reports false when that has to be tried again.
func (t *take) fork() bool {
	t.mu.Lock()
	var list []segment
	for _, s := range t.segments[min(t.shared.has, len(t.segments)):] {
		if !s.missing && (s.local || s.stored) {
			list = append(list, s)
		}
	}
	h, closed, left := t.head, *t.closed, t.left
	pushes := t.pushes
	t.mu.Unlock()
	if len(list) > 0 && !t.forked {
		h.Task, h.Start, h.Base, h.Node, h.Owner = t.forkTask(), list[0].Time, h.Base+list[0].Start, t.r.ledger.Node, 0
		n := t.r.take(h.Task)
		n.head = h
		n.narrow()
		err := t.r.spool.make(func() error {
			n.segments, n.pushes, n.closed = nil, nil, nil
			return n.found(func() error { return n.fill(t, list, pushes, left, closed.End) })
		})
		if err == nil {
			if err = n.settle(); err != nil {
				n.unfound()
			}
		}
		if err != nil {
			t.log.Error("media that another node does not have cannot be made a recording of yet", "segments", len(list), "err", err)
			return false
		}
		t.forked = true
		for i := range n.segments {
			if s := &n.segments[i]; s.local {
				t.r.spool.has(s.Size, false)
			}
		}
		t.r.mu.Lock()
		t.r.takes[h.Task] = n
		t.r.jobs.Go(n.keep) // ends when the take is done, or with r.ctx
		t.r.mu.Unlock()
		t.r.emit(n.fact(h.Start, event.RecordStarted{Recording: n.recording("hls", h.Task, "")}))
	}
	t.clear()
	return true
}

// clear takes out of the bucket what was stored before it was known that another node
// had gone on.
func (t *take) clear() {
	t.mu.Lock()
	var keys []string
	for i := t.shared.has; i < len(t.segments); i++ {
		if s := &t.segments[i]; s.stored && s.Owner == t.head.Owner {
			keys = append(keys, path.Join(t.folder(), s.name()))
		}
	}
	t.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, adoptTime)
	defer cancel()
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err == nil {
		err = b.Delete(ctx, keys...)
	}
	if err != nil {
		t.log.Warn("segments stay in the bucket that no recording has", "segments", len(keys), "err", err)
	}
}

// fill takes segments of another take into this one, which nobody knows yet and
// which then has all that it will.
func (t *take) fill(from *take, list []segment, pushes []push, left leaving, end time.Time) error {
	t.journal.add(entry{Head: &t.head})
	for i := range pushes {
		t.pushes = append(t.pushes, pushes[i])
		t.journal.add(entry{Push: &pushes[i]})
	}
	base := list[0].Start
	for i, s := range list {
		was := s
		s.N, s.Owner, s.Start, s.stored, s.local = i+1, 0, s.Start-base, false, true
		if i == 0 {
			s.Discontinuity = false
			s.Video, s.Audio = from.tracksAt(was.N)
		}
		err := from.copySegment(&was, t.file(&s))
		if f := (*failure)(nil); errors.As(err, &f) {
			s.local, s.missing = false, true
			t.log.Error("a segment of a recording is missing", "segment", was.name(), "err", err)
		} else if err != nil {
			return err
		}
		t.segments = append(t.segments, s)
		t.journal.add(entry{Segment: &s})
		if s.missing {
			t.journal.add(entry{Missing: s.N})
		}
	}
	t.left = left
	t.journal.add(entry{Left: &left})
	t.noteClosed("moved", end)
	return nil
}

// copySegment gives a segment a second name, or gets it from the bucket if it is there
// only. The error is a failure if it is nowhere.
func (t *take) copySegment(s *segment, name string) error {
	if s.local {
		err := os.Link(t.file(s), name)
		if !errors.Is(err, os.ErrNotExist) || !s.stored {
			return err
		}
	}
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, putTime+time.Duration(s.Size/putRate)*time.Second)
	defer cancel()
	there := *s
	there.local = false
	body, err := t.open1(ctx, b, &there)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, body)
	if err == nil && n != s.Size {
		err = fmt.Errorf("%s has %d bytes in the bucket, %d here: %w", s.name(), n, s.Size, storage.ErrMismatch)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// tracksAt returns the tracks that segment n begins with.
func (t *take) tracksAt(n int) (video, audio *track) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.segments[:n] {
		if s := &t.segments[i]; s.Video != nil || s.Audio != nil {
			video, audio = s.Video, s.Audio
		}
	}
	return video, audio
}

// run goes on with the takes of nodes that are away, until ctx is done.
func (l *ledger) run(ctx context.Context, r *Recorder) {
	tick := time.NewTicker(min(time.Minute, max(l.After/5, 100*time.Millisecond)))
	defer tick.Stop()
	for failed := false; ; {
		err := l.sweep(ctx, r)
		if err != nil && !failed && ctx.Err() == nil {
			l.log.Warn("the recordings of nodes that are away cannot be seen", "err", err)
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep goes on with the takes of which that can be done now.
func (l *ledger) sweep(ctx context.Context, r *Recorder) error {
	ask, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	names, err := l.Nodes(ask)
	if err != nil {
		return err
	}
	s, err := l.open(ask)
	if err != nil {
		return err
	}
	info, err := s.Info(ask, jetstream.WithSubjectFilter(shareSubject+">"))
	if err != nil {
		return err
	}
	owns := map[string]bool{}
	for subject := range info.State.Subjects {
		if r.has(subject) {
			continue
		}
		last, err := l.last(ask, subject)
		if err != nil {
			return err
		}
		if last == nil {
			continue
		}
		if last.Header.Get(headerKind) == kindDone {
			if time.Since(last.Time) > graveTime {
				s.Purge(ask, jetstream.WithPurgeSubject(subject))
			}
			continue
		}
		node := last.Header.Get(headerNode)
		owns[node] = true
		if node != l.Node && !l.isAway(node, names) {
			continue
		}
		switch _, err := r.adopt(ctx, subject, last); {
		case errors.Is(err, errNothing) && node == l.Node:
			l.log.Info("a recording of this node is forgotten: it was killed before there was anything of it", "task", taskOf(subject))
		case err != nil && ctx.Err() == nil:
			l.log.Warn("the recording of a node that is away cannot be gone on with", "node", node, "task", taskOf(subject), "err", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for node := range l.gone {
		if !owns[node] {
			delete(l.gone, node)
		}
	}
	return nil
}

// begin reports whether nobody here is adopting a take, whom nobody disturbs until end.
func (l *ledger) begin(task string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[task] {
		return false
	}
	l.busy[task] = true
	return true
}

func (l *ledger) end(task string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, task)
}

// isAway reports whether a node has been away for long enough.
func (l *ledger) isAway(node string, there []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(there, node) {
		delete(l.gone, node)
		return false
	}
	since, ok := l.gone[node]
	if !ok {
		since = time.Now()
		l.gone[node] = since
	}
	return time.Since(since) >= l.After
}

func taskOf(subject string) string {
	task, _ := bus.Name(subject[strings.LastIndexByte(subject, '.')+1:])
	return task
}

// has reports whether a take is here.
func (r *Recorder) has(subject string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takes[taskOf(subject)] != nil
}

// adopt goes on with a take whose last piece is that. What of it is not in the
// bucket is lost with its node, until that comes back.
func (r *Recorder) adopt(ctx context.Context, subject string, last *jetstream.RawStreamMsg) (*take, error) {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	l, task := r.ledger, taskOf(subject)
	if !isTask(task) {
		return nil, errors.New("not a recording")
	}
	if !l.begin(task) {
		return nil, errors.New("it is being gone on with already")
	}
	defer l.end(task)
	if r.has(subject) {
		return nil, errors.New("it was gone on with in the meantime")
	}
	journal, err := l.read(ctx, subject, last.Sequence)
	if err != nil {
		return nil, err
	}
	t := r.take(task)
	readEntries(journal, t.apply)
	if t.head.Task != task {
		return nil, errors.New("its journal cannot be read")
	}
	t.narrow()
	t.head.Owner++
	t.cutOff()
	switch {
	case len(t.segments) > 0:
	case t.head.Node == l.Node && last.Header.Get(headerNode) == l.Node: // nobody else has had it
		return nil, cmp.Or(t.bury1(ctx), errNothing)
	case time.Since(last.Time) < r.giveUp:
		return nil, errNothing
	}
	if err := t.seen1(ctx); err != nil {
		return nil, err
	}
	text, err := t.compact()
	if err != nil {
		return nil, err
	}
	// It is ours once JetStream says so, and what the spool has of it is only then
	// under its name: who dies in between begins again.
	if err := t.found(func() error { t.journal.late = text; return nil }); err != nil {
		return nil, err
	}
	seq, err := l.write(ctx, subject, last.Sequence, kindAnew, text)
	if err == nil {
		err = t.settle()
	}
	if err != nil {
		t.unfound()
		return nil, err
	}
	t.shared = shared{known: true, seq: seq, sent: int64(len(text))}
	t.log.Info("going on with the recording of another node", "node", last.Header.Get(headerNode), "segments", len(t.segments), "lost", ms(t.lost))
	r.mu.Lock()
	defer r.unlock()
	if r.closed {
		t.journal.close()
		return nil, context.Canceled
	}
	r.takes[t.head.Task] = t
	r.jobs.Go(t.keep) // ends when the take is done, or with r.ctx
	if t.closed != nil {
		return t, nil
	}
	key := t.head.key()
	p := r.placeOf(key)
	if p.take != nil || p.session != nil {
		r.close(t, "left", t.leaving().Last)
		return t, nil
	}
	p.take = t
	r.await(key, p)
	return t, nil
}

// cutOff forgets the segments that are not in the bucket, which are lost.
func (t *take) cutOff() {
	n := 0
	for n < len(t.segments) && (t.segments[n].stored || t.segments[n].missing) {
		n++
	}
	if n < len(t.segments) {
		for _, s := range t.segments[n:] {
			t.lost += s.Duration
		}
		t.segments = t.segments[:n]
		t.left.Last = time.Time{}
	}
	at := t.left.At
	for _, s := range t.segments {
		t.seen(s.Time.Add(ms(s.Duration)))
	}
	if at.After(t.left.At) {
		t.left.At = at
	}
	if t.closed != nil && t.closed.End.After(t.left.Last) {
		t.closed.End = t.left.Last
	}
}

// seen1 sees that the last segment is where this node looks for it.
func (t *take) seen1(ctx context.Context) error {
	n := len(t.segments)
	for n > 0 && t.segments[n-1].missing {
		n--
	}
	if n == 0 || t.files["hls"] != nil && t.files["hls"].Fact != nil {
		return nil
	}
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return err
	}
	_, err = b.Stat(ctx, path.Join(t.folder(), t.segments[n-1].name()))
	return err
}

// compact returns a journal of the take as it is.
func (t *take) compact() ([]byte, error) {
	list := []entry{{Head: &t.head}}
	for i := range t.pushes {
		list = append(list, entry{Push: &t.pushes[i]})
	}
	for i := range t.segments {
		s := &t.segments[i]
		list = append(list, entry{Segment: s}, entry{Stored: s.N})
		if s.missing {
			list = append(list, entry{Missing: s.N})
		}
	}
	list = append(list, entry{Left: &t.left})
	if t.lost > 0 {
		list = append(list, entry{Lost: t.lost})
	}
	if t.closed != nil {
		list = append(list, entry{Closed: t.closed})
	}
	for _, format := range formats {
		p := t.files[format]
		switch {
		case p == nil:
			continue
		case p.Fact == nil:
			list = append(list, entry{Named: p})
		default:
			list = append(list, entry{Made: p})
		}
		if p.told {
			list = append(list, entry{Told: format})
		}
	}
	var b []byte
	for i := range list {
		line, err := json.Marshal(list[i])
		if err != nil {
			return nil, err
		}
		b = append(append(b, line...), '\n')
	}
	return b, nil
}

// borrow goes on with the take of a stream that another node has let go of, if
// there is one, for a push that has begun here.
func (r *Recorder) borrow(ctx context.Context, pub *stream.Publication, splice time.Duration) {
	l := r.ledger
	if splice <= 0 {
		return
	}
	s, err := l.open(ctx)
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = s.Info(ctx, jetstream.WithSubjectFilter(streamSubject(pub.Stream().Key())+">"))
	}
	if err != nil {
		l.silent(err)
		return
	}
	for subject := range info.State.Subjects {
		if r.has(subject) {
			continue
		}
		last, err := l.last(ctx, subject)
		if err != nil || last == nil || last.Header.Get(headerKind) != kindFree || time.Since(last.Time) > splice {
			continue
		}
		if _, err := r.adopt(ctx, subject, last); err != nil {
			l.log.Warn("a recording that another node has let go of cannot be gone on with", "task", taskOf(subject), "err", err)
		}
	}
}

// ours reports whether the take is still ours to go on with, as far as can be known.
func (t *take) ours(ctx context.Context) bool {
	l := t.r.ledger
	last, err := l.last(ctx, subject(&t.head))
	if err != nil {
		l.silent(err)
	}
	if err != nil || last == nil {
		return true
	}
	return last.Header.Get(headerKind) != kindDone && last.Header.Get(headerNode) == l.Node
}
