package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
)

// lane is a journal and the stream of JetStream to which its facts go. There
// is one for facts of crowds and one for all others.
type lane struct {
	*journal
	js     jetstream.JetStream
	config jetstream.StreamConfig

	subject func(*Filter) string // of a stream of others, which is only read; see Beside

	lost  atomic.Int64  // facts
	last  atomic.Uint64 // of the stream, as far as it is known here
	away  atomic.Pointer[away]
	ready atomic.Pointer[jetstream.Stream] // once it is there

	asking   sync.Mutex
	asked    time.Time // when firstSeq was true
	firstSeq uint64
}

// prefix is that of the subjects of the stream.
func (l *lane) prefix() string { return strings.TrimSuffix(l.config.Subjects[0], ">") }

// first returns the number of the first message that the stream still has, as
// it was up to a second ago; 0 if that is not known.
func (l *lane) first(ctx context.Context) uint64 {
	l.asking.Lock()
	defer l.asking.Unlock()
	if l.ready.Load() != nil && time.Since(l.asked) > time.Second {
		if info, err := l.info(ctx); err == nil {
			l.firstSeq, l.asked = info.State.FirstSeq, time.Now()
		}
	}
	return l.firstSeq
}

// away is that JetStream does not take what it is sent.
type away struct {
	since time.Time
	err   error
}

// window is how many facts are on their way to JetStream at once, if it has one
// replica of the stream.
const window = 128

// window is how many facts may be on their way at once. A replicated stream
// takes one after the other: there, one that was refused because of the one
// before it would not be taken again for a while.
func (l *lane) window() int {
	if (*l.ready.Load()).CachedInfo().Config.Replicas > 1 {
		return 1
	}
	return window
}

// What JetStream is given to answer.
const answerTime = 3 * time.Second

// dedupTime is how long JetStream remembers the IDs of messages. Beyond, the
// lane looks at the stream itself.
const dedupTime = 2 * time.Minute

// sent is a fact on its way.
type sent struct {
	item
	id  string
	ack jetstream.PubAckFuture
}

// forward sends to JetStream what the journal holds, in order, until ctx ends.
//
// Nothing is sent twice and nothing is overtaken, whatever becomes of the
// connection, the server or its leader. Where several are on their way at once,
// each is refused unless the one sent before it is the last in the stream; only
// the first after a pause has no such condition. When one fails, those behind it
// therefore fail too, and all are sent again, after the stream was asked which of
// them it has. (If other nodes write at the same time, that too makes messages
// fail, which costs no more than another turn.)
func (l *lane) forward(ctx context.Context) {
	w := &walk{j: l.journal}
	defer w.close()
	at := l.start()
	unsure := !l.fresh
	for pause := time.Duration(0); ctx.Err() == nil; {
		err := l.open(ctx)
		if err == nil && unsure {
			at, err = l.compare(ctx, at)
			unsure = err != nil
		}
		if err == nil {
			if old := l.away.Swap(nil); old != nil {
				l.log.Info("the event log is there again", "stream", l.config.Name, "away", time.Since(old.since))
			}
			w.seek(at)
			var moved bool
			at, moved, err = l.send(ctx, w)
			if ctx.Err() != nil {
				return
			}
			if wrongLast(err) {
				continue
			}
			unsure = true
			if moved {
				pause = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		l.missing(err)
		pause = min(max(2*pause, 50*time.Millisecond), 2*time.Second)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// missing notes that JetStream is away.
func (l *lane) missing(err error) {
	if errors.Is(err, nats.ErrReconnectBufExceeded) { // which says little
		err = errNoConnection
	}
	if old := l.away.Load(); old != nil {
		l.away.Store(&away{old.since, err})
		return
	}
	l.away.Store(&away{time.Now(), err})
	l.log.Warn("the event log is away; facts wait in the journal", "stream", l.config.Name, "err", err)
}

var errNoConnection = errors.New("there is no connection to NATS")

// start returns where the journal goes on.
func (l *lane) start() place {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		if s.id == l.acked.Segment {
			return place{seg: s, index: l.acked.Index}
		}
	}
	return place{seg: l.segs[0]}
}

// open makes the stream, unless it has been made.
func (l *lane) open(ctx context.Context) error {
	if l.ready.Load() != nil {
		return nil
	}
	s, err := bus.Stream(ctx, l.js, l.config, schema, nil)
	if err != nil {
		return err
	}
	l.last.Store(s.CachedInfo().State.LastSeq)
	l.ready.Store(&s)
	return nil
}

// info asks for the state of the stream, which has been made. While a cluster
// has no leader nobody answers.
func (l *lane) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	if err := l.find(ctx); err != nil {
		return nil, err
	}
	s := l.ready.Load()
	if s == nil { // it has just been lost
		return nil, errAway
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return (*s).Info(ctx)
}

// known notes that the stream reaches to seq.
func (l *lane) known(seq uint64) {
	for {
		old := l.last.Load()
		if seq <= old || l.last.CompareAndSwap(old, seq) {
			return
		}
	}
}

// compare returns what follows the last fact of this journal that the stream
// has: at, unless facts were stored whose acknowledgement was lost.
func (l *lane) compare(ctx context.Context, at place) (place, error) {
	info, err := l.info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		l.ready.Store(nil)
	}
	if err != nil {
		return at, fmt.Errorf("ask for stream %s: %w", l.config.Name, err)
	}
	l.mu.Lock()
	acked := l.acked
	mine := make(map[string]*segment)
	for _, s := range l.segs {
		mine[s.id] = s
	}
	l.mu.Unlock()
	first := acked.Seq + 1
	if !acked.Stream.Equal(info.Created) || acked.Seq > info.State.LastSeq {
		first = 1 // another stream than that which acknowledged
	}
	if first > info.State.LastSeq {
		return at, nil
	}
	best, seq := at, uint64(0)
	err = headers(ctx, l.js, l.config.Name, first, info.State.LastSeq, func(h nats.Header, n uint64) {
		id, index, ok := parseID(h.Get(jetstream.MsgIDHeader))
		if s := mine[id]; ok && s != nil {
			if p := (place{seg: s, index: index + 1}); best.seg.number < s.number || best.seg == s && best.index < p.index {
				best, seq = p, n
			}
		}
	})
	if err != nil {
		return at, fmt.Errorf("read the end of stream %s: %w", l.config.Name, err)
	}
	if seq > 0 {
		l.ack(best, seq, info.Created)
	}
	return best, nil
}

// headers calls f for the header of each message of the stream from first to
// last.
func headers(ctx context.Context, js jetstream.JetStream, stream string, first, last uint64, f func(h nats.Header, seq uint64)) error {
	ask, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := js.OrderedConsumer(ask, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first, HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	if c.CachedInfo().NumPending == 0 { // the last are not there any more
		return nil
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	for {
		wait, cancel := context.WithTimeout(ctx, answerTime)
		m, err := msgs.Next(jetstream.NextContext(wait))
		cancel()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		f(m.Headers(), meta.Sequence.Stream)
		if meta.Sequence.Stream >= last || meta.NumPending == 0 {
			return nil
		}
	}
}

// idOf is the ID of the message for the fact at p.
func idOf(p place) string { return p.seg.id + "." + strconv.FormatUint(p.index, 10) }

func parseID(s string) (segment string, index uint64, ok bool) {
	segment, n, ok := strings.Cut(s, ".")
	index, err := strconv.ParseUint(n, 10, 64)
	return segment, index, ok && err == nil
}

// send sends facts until something fails, and returns where to go on, and
// whether anything was sent.
func (l *lane) send(ctx context.Context, w *walk) (at place, moved bool, err error) {
	created := (*l.ready.Load()).CachedInfo().Created // which this goroutine has seen
	at = w.at
	if w.skip > 0 {
		at = place{seg: w.at.seg, index: w.skip}
	}
	head := place{seg: at.seg, index: at.index} // behind what has been sent
	var flying []sent
	for {
		for err == nil && len(flying) < l.window() {
			changed := l.watch()
			it, ok, rerr := w.next()
			if rerr != nil {
				err = fmt.Errorf("read the journal: %w", rerr)
				break
			}
			if ok && it.at.seg == head.seg && it.at.index < head.index {
				continue // it was sent before it was on disk
			}
			if !ok {
				if w.at.seg != head.seg || w.at.index > head.index {
					head = place{seg: w.at.seg, index: w.at.index}
				}
				it, ok = l.inMemory(head)
			}
			if ok {
				head = place{seg: it.next.seg, index: it.next.index}
				s, serr := l.publish(it, flying)
				if errors.Is(serr, nats.ErrMaxPayload) { // of somebody else's server
					l.log.Error("a fact is too long for NATS and is lost", "subject", it.subject, "bytes", len(it.data))
					l.lost.Add(1)
					continue
				}
				if serr != nil {
					err = serr
					break
				}
				flying = append(flying, s)
				continue
			}
			if len(flying) > 0 {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return at, moved, ctx.Err()
			}
		}
		if len(flying) == 0 {
			return at, moved, err
		}
		s := flying[0]
		select {
		case ack := <-s.ack.Ok():
			at, moved = s.next, true
			l.known(ack.Sequence)
			l.ack(at, ack.Sequence, created)
			flying = flying[1:]
		case failed := <-s.ack.Err():
			return at, moved, l.failed(ctx, flying[1:], failed)
		case <-ctx.Done():
			return at, moved, ctx.Err()
		}
	}
}

// failed waits until those behind a message that failed have failed, too, and
// returns why. Whether the stream has some of them all the same is to be asked
// unless all were refused for one reason.
func (l *lane) failed(ctx context.Context, flying []sent, err error) error {
	for _, s := range flying {
		select {
		case <-s.ack.Ok():
			err = errOvertaken
		case e := <-s.ack.Err():
			if wrongLast(err) {
				err = e
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("send to stream %s: %w", l.config.Name, err)
}

// errOvertaken is that a message was stored, and the acknowledgement of one
// before it was lost.
var errOvertaken = errors.New("an acknowledgement was lost")

// watch returns what is closed at the next change of the journal.
func (l *lane) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// publish sends a fact behind those that are on their way.
func (l *lane) publish(it item, flying []sent) (sent, error) {
	s := sent{item: it, id: idOf(it.at)}
	m := &nats.Msg{Subject: it.subject, Data: it.data, Header: nats.Header{jetstream.MsgIDHeader: {s.id}}}
	if n := len(flying); n > 0 {
		m.Header.Set(jetstream.ExpectedLastMsgIDHeader, flying[n-1].id)
	}
	var err error
	s.ack, err = l.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(l.config.Name))
	if err != nil {
		return s, fmt.Errorf("send to stream %s: %w", l.config.Name, err)
	}
	return s, nil
}

// wrongLast reports whether a message was refused because the one before it is
// not the last of the stream.
func wrongLast(err error) bool {
	var e *jetstream.APIError
	const wrongLastMsgID = 10070
	return errors.As(err, &e) && e.ErrorCode == wrongLastMsgID
}
