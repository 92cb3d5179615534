package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/event"
)

// The number of an event is that of its message in the stream, and behind it
// seqBits that say which event of the message it is; of the last one they are
// all set.
const seqBits = 8

const lastOfMessage = 1<<seqBits - 1

// Entry is an event in the log.
type Entry struct {
	Seq   uint64 // goes up; not consecutive
	Event event.Event

	// Missed is how many messages before this one, each with one event or a
	// batch of them, were no longer kept when they were to be read. With a filter
	// that is more narrow it counts those, too, that would not have matched.
	Missed uint64
}

// Reader reads the log from one event to the next. It belongs to one
// goroutine.
type Reader struct {
	l    *Log
	lane *lane
	f    Filter
	next uint64 // the least number to be read
	to   uint64 // the last one, or 0
	err  error  // for ever
	away error  // why the last attempt to read has failed; nil: it has not

	consumer jetstream.Consumer
	msgs     jetstream.MessagesContext
	created  time.Time // the stream
	expect   uint64    // message to come next, or a later one
	ready    []Entry   // read, not yet returned
	missed   uint64
	end      bool // nothing more matches
}

// Read returns a Reader of the events that f matches from the number from on,
// which waits for those to come. From may be 0. The caller closes it.
func (l *Log) Read(_ context.Context, f Filter, from uint64) *Reader { return l.reader(f, from, 0) }

// Range is Read for what is there already: after the event with the number to,
// or the last before it that f matches, Next returns io.EOF.
func (l *Log) Range(_ context.Context, f Filter, from, to uint64) *Reader {
	r := l.reader(f, from, to)
	r.end = from > to
	return r
}

func (l *Log) reader(f Filter, from, to uint64) *Reader {
	r := &Reader{l: l, lane: l.facts, f: f, next: max(from, 1<<seqBits), to: to}
	r.lane, r.err = l.laneOf(&f)
	return r
}

// Last returns the number of the last event that is in the log, those of crowds
// aside. What comes later has a greater one.
func (l *Log) Last() uint64 { return l.facts.lastSeq() }

func (l *lane) lastSeq() uint64 {
	if l.ready.Load() != nil || l.subject != nil {
		if info, err := l.info(context.Background()); err == nil {
			l.last.Store(info.State.LastSeq)
		}
	}
	return l.last.Load()<<seqBits | lastOfMessage
}

// LastOf is Last for the facts that f matches, and those that are kept with
// them.
func (l *Log) LastOf(f Filter) uint64 {
	ln, err := l.laneOf(&f)
	if err != nil {
		return 0
	}
	return ln.lastSeq()
}

// SeqAtOf is SeqAt for them.
func (l *Log) SeqAtOf(ctx context.Context, f Filter, t time.Time) (uint64, error) {
	ln, err := l.laneOf(&f)
	if err != nil {
		return 0, err
	}
	return ln.seqAt(ctx, t)
}

// SeqAt returns a number before which there is no event that happened at t or
// later, those of crowds aside.
func (l *Log) SeqAt(ctx context.Context, t time.Time) (uint64, error) { return l.facts.seqAt(ctx, t) }

// SeqAtOfCrowd is SeqAt for facts of crowds.
func (l *Log) SeqAtOfCrowd(ctx context.Context, t time.Time) (uint64, error) {
	return l.crowd.seqAt(ctx, t)
}

func (l *lane) seqAt(ctx context.Context, t time.Time) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := l.js.OrderedConsumer(ctx, l.config.Name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t, HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return 0, fmt.Errorf("look for the time %s: %w", t.Format(time.RFC3339), err)
	}
	info := c.CachedInfo()
	if err := l.js.DeleteConsumer(ctx, l.config.Name, info.Name); err != nil {
		l.log.Debug("a consumer ends later", "err", err)
	}
	return (info.Delivered.Stream + 1) << seqBits, nil
}

// Next returns the next event. It waits for one, also while JetStream is away,
// until ctx is done.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for pause := time.Duration(0); ; {
		if len(r.ready) > 0 {
			e := r.ready[0]
			r.ready = r.ready[1:]
			r.next = e.Seq + 1
			return e, nil
		}
		if r.err != nil {
			return Entry{}, r.err
		}
		if r.end {
			return Entry{}, io.EOF
		}
		err := r.open(ctx)
		if err == nil && r.end {
			continue
		}
		if err == nil {
			if err = r.read(ctx); err == nil {
				pause, r.away = 0, nil
				continue
			}
		}
		if ctx.Err() != nil {
			return Entry{}, ctx.Err()
		}
		r.away = err
		r.l.log.Debug("a reader of the event log begins again", "stream", r.lane.config.Name, "err", err)
		r.drop()
		pause = min(max(2*pause, 50*time.Millisecond), 2*time.Second)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// At returns where another Reader would go on: everything before that number
// has been looked at, whether it matched or not.
func (r *Reader) At() uint64 { return r.next }

// Away returns why JetStream could not be read when it was last tried; nil if
// it could.
func (r *Reader) Away() error { return r.away }

// Close ends the Reader.
func (r *Reader) Close() {
	r.err = errors.New("the reader is closed")
	r.ready = nil
	r.drop()
}

// drop gives back what the server holds for the reader.
func (r *Reader) drop() {
	if r.msgs != nil {
		r.msgs.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.l.js.DeleteConsumer(ctx, r.lane.config.Name, r.consumer.CachedInfo().Name); err != nil {
			r.l.log.Debug("a consumer ends later", "err", err)
		}
	}
	r.msgs, r.consumer = nil, nil
}

// open begins to read at r.next.
func (r *Reader) open(ctx context.Context) error {
	if r.msgs != nil {
		return nil
	}
	info, err := r.lane.info(ctx)
	if err != nil {
		return err
	}
	st := info.State
	r.created = info.Created
	want := r.next >> seqBits
	if want > st.LastSeq+1 { // the numbers of a log that is not there any more
		r.miss(want - st.LastSeq - 1)
		want = st.FirstSeq
		r.next = want << seqBits
	} else if want < st.FirstSeq {
		if want > 1 {
			r.miss(st.FirstSeq - want)
		}
		want = st.FirstSeq
	}
	want = max(want, 1)
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: r.lane.subjects(&r.f), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: want,
		InactiveThreshold: time.Minute, MaxResetAttempts: 3,
	}
	ask, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := r.l.js.OrderedConsumer(ask, r.lane.config.Name, cfg)
	if err != nil {
		return err
	}
	if r.to > 0 && c.CachedInfo().NumPending == 0 {
		r.end = true
	}
	r.consumer = c
	if r.msgs, err = c.Messages(jetstream.PullMaxMessages(256)); err != nil {
		return err
	}
	r.expect = want
	return nil
}

var errAway = errors.New("the event log is away")

// miss notes that n messages were not there any more.
func (r *Reader) miss(n uint64) {
	r.missed += n
	r.l.gaps.Add(int64(n))
}

// read reads one message.
func (r *Reader) read(ctx context.Context) error {
	idle, cancel := context.WithTimeout(ctx, idleTime)
	m, err := r.msgs.Next(jetstream.NextContext(idle))
	cancel()
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return r.look(ctx)
	}
	if err != nil {
		return err
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	seq := meta.Sequence.Stream
	if seq > r.expect {
		if first := r.lane.first(ctx); first > r.expect {
			r.miss(min(first, seq) - r.expect)
		}
	}
	r.expect = seq + 1
	if r.to > 0 {
		if seq<<seqBits > r.to {
			r.end = true
			return nil
		}
		r.end = meta.NumPending == 0
	}
	list, err := decode(m.Data())
	if err != nil {
		r.l.log.Error("an event in the log cannot be read", "stream", r.lane.config.Name, "seq", seq, "err", err)
	}
	for i := range list {
		n := seq<<seqBits | uint64(i)
		if i == len(list)-1 {
			n |= lastOfMessage
		}
		if n >= r.next && (r.to == 0 || n <= r.to) && r.f.match(&list[i]) {
			r.ready = append(r.ready, Entry{n, list[i], r.missed})
			r.missed = 0
		}
	}
	r.next = max(r.next, seq<<seqBits|lastOfMessage+1)
	return nil
}

// idleTime is for how long a reader waits before it looks whether the stream is
// still the same.
const idleTime = 5 * time.Second

// errRemade is that the stream has been lost and made again: its numbers begin
// again, too.
var errRemade = errors.New("the stream has been made again")

// errStuck is that facts wait at a consumer that does not send them, as one
// whose member of the cluster has just died.
var errStuck = errors.New("the consumer sends nothing")

// look returns an error if what the reader waits for may never come, and it
// has to begin again.
func (r *Reader) look(ctx context.Context) error {
	info, err := r.lane.info(ctx)
	if err == nil && !info.Created.Equal(r.created) {
		return errRemade
	}
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	switch info, err := r.consumer.Info(ctx); {
	case err != nil:
		return fmt.Errorf("ask for the consumer: %w", err)
	case info.NumPending > 0:
		return errStuck
	case r.to > 0: // the last are not there any more
		r.end = true
	}
	return nil
}

// decode reads the events of a message. What it cannot read it leaves out.
func decode(data []byte) ([]event.Event, error) {
	if len(data) == 0 || data[0] != '[' {
		var e event.Event
		if err := e.UnmarshalJSON(data); err != nil { // by itself it need not be looked through before
			return nil, err
		}
		return []event.Event{e}, nil
	}
	var list []event.Event
	err := json.Unmarshal(data, &list)
	if len(list) > 1<<seqBits {
		list, err = list[:1<<seqBits], errors.New("too many in one message")
	}
	return list, err
}
