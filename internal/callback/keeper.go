package callback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
)

// What a Dispatcher keeps in JetStream.
const (
	recordStream  = "CALLBACK_RECORDS"
	attemptStream = "CALLBACK_ATTEMPTS"
	deadStream    = "CALLBACK_DEAD"

	recordSubject  = "callbacks.record." // + key
	ownerSubject   = "callbacks.record.owner-"
	attemptSubject = "callbacks.attempt." // + space.shelf.shelf; a message is an attempt, or a list of them
	deadSubject    = "callbacks.dead."    // + space.receiver

	schema = 1
)

// Limits of what is kept; a zero field takes the default.
type Keep struct {
	AttemptsAge   time.Duration // of the delivery log; default 7 days
	AttemptsBytes int64         // default 256 MiB
	DeadAge       time.Duration // of dead letters; default 30 days
	DeadBytes     int64         // default 256 MiB
}

func (k *Keep) defaults() {
	const day = 24 * time.Hour
	k.AttemptsAge = cmp.Or(k.AttemptsAge, 7*day)
	k.AttemptsBytes = cmp.Or(k.AttemptsBytes, 256<<20)
	k.DeadAge = cmp.Or(k.DeadAge, 30*day)
	k.DeadBytes = cmp.Or(k.DeadBytes, 256<<20)
}

// keeper is a ledger in JetStream, and its parts are stores. The delivery log may lose its
// last seconds with the machine: it says what was done and not what is to be.
type keeper struct {
	conn     *nats.Conn
	js       jetstream.JetStream
	replicas int
	shared   bool // JetStream is not in this process alone, and may be given more replicas
	limits   Keep
	log      *slog.Logger

	opening                 sync.Mutex
	opened                  atomic.Bool // and so these are there
	records, attempts, dead jetstream.Stream

	gathering sync.Mutex
	gathered  []gathered // the subject that began first is first

	writing sync.Mutex // held by who writes a record: a replicated stream takes one after the other
	owner   uint64     // of the records, in ownerSubject
	wiped   func()
}

// newKeeper returns a keeper that can do nothing before open has succeeded.
func newKeeper(js jetstream.JetStream, replicas int, limits Keep, log *slog.Logger) *keeper {
	limits.defaults()
	return &keeper{conn: js.Conn(), js: js, replicas: max(replicas, 1), limits: limits, log: log}
}

// open makes what the keeper keeps in JetStream, or finds it.
func (k *keeper) open(ctx context.Context) error {
	// A server that is asked for a stream while it shuts down leaks it: this waits
	// for the answers, which come in seconds.
	ctx = context.WithoutCancel(ctx)
	k.opening.Lock()
	defer k.opening.Unlock()
	if k.opened.Load() {
		return nil
	}
	migrate := func(context.Context, int) error { return nil } // there is but one version
	records, err := bus.Stream(ctx, k.js, jetstream.StreamConfig{
		Name: recordStream, Description: "callbacks that wait", Subjects: []string{recordSubject + ">"},
		MaxMsgsPerSubject: 1, Replicas: k.replicas,
	}, schema, migrate)
	if err != nil {
		return err
	}
	attempts := jetstream.StreamConfig{
		Name: attemptStream, Description: "how callbacks were delivered", Subjects: []string{attemptSubject + ">"},
		MaxAge: k.limits.AttemptsAge, MaxBytes: k.limits.AttemptsBytes, Replicas: k.replicas,
	}
	if attempts.Replicas == 1 && !k.shared {
		attempts.PersistMode = jetstream.AsyncPersistMode // which there is for a single copy, and for ever
	}
	log, err := bus.Stream(ctx, k.js, attempts, schema, migrate)
	if err != nil {
		return err
	}
	dead, err := bus.Stream(ctx, k.js, jetstream.StreamConfig{
		Name: deadStream, Description: "facts that could not be told", Subjects: []string{deadSubject + ">"},
		MaxAge: k.limits.DeadAge, MaxBytes: k.limits.DeadBytes, Replicas: k.replicas,
	}, schema, migrate)
	if err != nil {
		return err
	}
	if k.records == nil { // these know them by their names, also when they are made again
		k.records, k.attempts, k.dead = records, log, dead
	}
	k.opened.Store(true)
	return nil
}

// ErrAway is the error of asking for something while JetStream is away.
var ErrAway = errors.New("JetStream is away")

// part is the store of the records whose keys begin so.
type part struct {
	*keeper
	prefix string
}

func (k *keeper) part(prefix string) *part { return &part{k, recordSubject + prefix} }

// all returns the records. The keys of other parts, which begin with a word and
// a dash, are not among those of the part without a prefix.
func (p *part) all(ctx context.Context) (map[string][]byte, error) {
	m := make(map[string][]byte)
	err := walk(ctx, p.records, recordSubject+">", 1, func(msg *jetstream.RawStreamMsg) bool {
		if k, ok := strings.CutPrefix(msg.Subject, p.prefix); ok && !strings.Contains(k, "-") && len(msg.Data) > 0 {
			m[k] = msg.Data
		}
		return true
	})
	return m, err
}

func (p *part) get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	msg, err := p.records.GetLastMsgForSubject(ctx, p.prefix+key)
	if err != nil {
		return nil, err
	}
	if len(msg.Data) == 0 { // which is about to be deleted
		return nil, jetstream.ErrMsgNotFound
	}
	return msg.Data, nil
}

func (p *part) put(ctx context.Context, key string, value []byte) error {
	_, err := p.record(ctx, p.prefix+key, value)
	return err
}

func (p *part) delete(ctx context.Context, key string) error {
	seq, err := p.record(ctx, p.prefix+key, nil) // and so it is ours to delete
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	return p.records.Purge(ctx, jetstream.WithPurgeSubject(p.prefix+key), jetstream.WithPurgeSequence(seq+1))
}

// own makes the records those of this process: another one that believes to
// tell owners, because it was halted and has not noticed, can write none any
// more. It could otherwise undo what this one records.
//
// Wiped is called when they are found to be gone: then they are to be opened and
// owned again.
func (k *keeper) own(ctx context.Context, wiped func()) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	ack, err := k.js.Publish(ctx, ownerSubject, nil)
	if err != nil {
		k.missing(err)
		return err
	}
	k.owner, k.wiped = ack.Sequence, wiped
	return nil
}

// missing looks whether there is an error because somebody has wiped the records.
func (k *keeper) missing(err error) (wiped bool) {
	wiped = errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound)
	if wiped {
		k.opened.Store(false)
	}
	return wiped
}

// record writes a record, if the records are this process's.
func (k *keeper) record(ctx context.Context, subject string, value []byte) (uint64, error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	ack, err := k.js.Publish(ctx, subject, value, jetstream.WithExpectLastSequenceForSubject(k.owner, ownerSubject))
	if err != nil {
		if k.missing(err) && k.wiped != nil {
			k.wiped()
		}
		return 0, err
	}
	return ack.Sequence, nil
}

// busTime is how long JetStream may take to answer.
const busTime = 5 * time.Second

func (k *keeper) publish(ctx context.Context, subject string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	_, err := k.js.Publish(ctx, subject, value)
	return err
}

// Attempts wait a moment for others of their subject, so that thousands a second
// are some hundred messages.
const (
	gatherTime  = 200 * time.Millisecond
	maxGathered = 1 << attemptBits // in a message
	gatherBytes = 128 << 10        // the same
	attemptBits = 8                // of an attempt's number, which say the which of its message it is
)

// attempted notes an attempt. It does not wait.
func (k *keeper) attempted(e event.Event) {
	text, err := e.MarshalJSON()
	if err != nil {
		k.log.Debug("an attempt is not in the delivery log", "err", err)
		return
	}
	subject := subjectOf(e.Space, e.App, e.Stream)
	k.gathering.Lock()
	defer k.gathering.Unlock()
	i := slices.IndexFunc(k.gathered, func(g gathered) bool { return g.subject == subject })
	if i < 0 {
		if i = len(k.gathered); i == 0 {
			time.AfterFunc(gatherTime, k.flush)
		}
		k.gathered = append(k.gathered, gathered{subject: subject})
	}
	g := &k.gathered[i]
	if g.n == maxGathered || g.n > 0 && len(g.text)+len(text) > gatherBytes {
		k.send(g)
		g.text, g.n = nil, 0
	}
	sep := byte(',')
	if g.n == 0 {
		sep = '['
	}
	g.text, g.n = append(append(g.text, sep), text...), g.n+1
}

// gathered is attempts of one subject, as a list that is not closed.
type gathered struct {
	subject string
	text    []byte
	n       int
}

// flush writes what was gathered.
func (k *keeper) flush() {
	k.gathering.Lock()
	defer k.gathering.Unlock()
	for i := range k.gathered {
		k.send(&k.gathered[i])
	}
	k.gathered = nil
}

// send writes attempts without waiting for an answer.
func (k *keeper) send(g *gathered) {
	text := append(g.text, ']')
	if g.n == 1 {
		text = text[1 : len(text)-1]
	}
	if err := k.conn.Publish(g.subject, text); err != nil {
		k.log.Debug("attempts are not in the delivery log", "attempts", g.n, "err", err)
	}
}

// shelves is how many subjects the apps of a space, and the streams of an app,
// have in the delivery log: JetStream keeps an account of every subject, so
// there is not one for every name that ever was, or that a refused push had.
const shelves = 64

func subjectOf(space, app, stream string) string {
	shelf := func(s string) uint32 {
		h := fnv.New32a()
		h.Write([]byte(s))
		return h.Sum32() % shelves
	}
	return fmt.Sprintf("%s%s.%02x.%02x", attemptSubject, bus.Token(space), shelf(app), shelf(stream))
}

func (k *keeper) bury(ctx context.Context, l *Letter) error {
	return k.publish(ctx, deadSubjectOf(l.Space, l.Group), marshal(l))
}

func deadSubjectOf(space, group string) string {
	return deadSubject + bus.Token(space) + "." + ReceiverID(space, group)
}

// walk calls yield for the messages of a stream from a sequence on whose
// subject matches, until it returns false or there are no more.
func walk(ctx context.Context, s jetstream.Stream, subject string, from uint64, yield func(*jetstream.RawStreamMsg) bool) error {
	for {
		ask, cancel := context.WithTimeout(ctx, busTime)
		msg, err := s.GetMsg(ask, from, jetstream.WithGetMsgSubject(subject))
		cancel()
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", s.CachedInfo().Config.Name, err)
		}
		if !yield(msg) {
			return nil
		}
		from = msg.Sequence + 1
	}
}

// DeadLetter is a fact that was not told.
type DeadLetter struct {
	Number uint64 // names it, in the order in which they died
	Died   time.Time
	Letter
}

// deadLetters returns dead letters from a number on: of one receiver, of one
// space, or all.
func (k *keeper) deadLetters(ctx context.Context, space, receiver string, from uint64, most int) ([]DeadLetter, error) {
	subject := deadSubject + ">"
	switch {
	case receiver != "" && space != "":
		subject = deadSubject + bus.Token(space) + "." + bus.Token(receiver)
	case receiver != "":
		subject = deadSubject + "*." + bus.Token(receiver)
	case space != "":
		subject = deadSubject + bus.Token(space) + ".*"
	}
	if !k.opened.Load() {
		return nil, ErrAway
	}
	var list []DeadLetter
	err := walk(ctx, k.dead, subject, max(from, 1), func(msg *jetstream.RawStreamMsg) bool {
		l := DeadLetter{Number: msg.Sequence, Died: msg.Time}
		if err := json.Unmarshal(msg.Data, &l.Letter); err != nil {
			k.log.Error("a dead letter cannot be read", "number", msg.Sequence, "err", err)
			return true
		}
		list = append(list, l)
		return len(list) < most
	})
	return list, err
}

func (k *keeper) deadLetter(ctx context.Context, number uint64) (*DeadLetter, error) {
	if !k.opened.Load() {
		return nil, ErrAway
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	msg, err := k.dead.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNoLetter
	}
	if err != nil {
		return nil, err
	}
	l := &DeadLetter{Number: number, Died: msg.Time}
	return l, json.Unmarshal(msg.Data, &l.Letter)
}

// ErrNoLetter is the error of asking for a dead letter that is not there.
var ErrNoLetter = errors.New("there is no such dead letter")

func (k *keeper) forget(ctx context.Context, number uint64) error {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	err := k.dead.DeleteMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}

// subjectFor is that of the attempts of all that has those names; empty names
// match all.
func subjectFor(space, app, stream string) string {
	part := strings.Split(strings.TrimPrefix(subjectOf(space, app, stream), attemptSubject), ".")
	for i, name := range []string{space, app, stream} {
		if name == "" {
			part[i] = "*"
		}
	}
	return attemptSubject + strings.Join(part, ".")
}

// Attempts asks for attempts of the delivery log. Empty names match all.
type Attempts struct {
	Space, App, Stream string
	Since, Until       time.Time // zero: no limit
	After              uint64    // number of the last one of the page before
	Most               int
}

// Attempt is an entry of the delivery log.
type Attempt struct {
	Number uint64
	event.Event
}

// attemptsIn returns the attempts of a message.
func attemptsIn(data []byte) []event.Event {
	var list []event.Event
	if len(data) > 0 && data[0] == '[' {
		if json.Unmarshal(data, &list) == nil {
			return list
		}
		return nil
	}
	list = make([]event.Event, 1)
	if json.Unmarshal(data, &list[0]) != nil {
		return nil
	}
	return list
}

// attemptsOf returns entries of the delivery log, the oldest first.
func (k *keeper) attemptsOf(ctx context.Context, q Attempts) ([]Attempt, error) {
	if !k.opened.Load() {
		return nil, ErrAway
	}
	from := max((q.After+1)>>attemptBits, 1)
	subject := subjectFor(q.Space, q.App, q.Stream)
	if q.After == 0 && !q.Since.IsZero() {
		ask, cancel := context.WithTimeout(ctx, busTime)
		defer cancel()
		c, err := k.attempts.CreateConsumer(ask, jetstream.ConsumerConfig{
			DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &q.Since, FilterSubject: subject,
			AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: 10 * time.Second, MemoryStorage: true,
		})
		if err != nil {
			return nil, err
		}
		from = c.CachedInfo().Delivered.Stream + 1
		defer k.attempts.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name)
	}
	var list []Attempt
	err := walk(ctx, k.attempts, subject, from, func(msg *jetstream.RawStreamMsg) bool {
		if !q.Until.IsZero() && msg.Time.After(q.Until) {
			return false
		}
		for i, e := range attemptsIn(msg.Data) {
			a := Attempt{msg.Sequence<<attemptBits | uint64(i), e}
			if a.Number > q.After && (q.Stream == "" || q.Stream == a.Stream) && (q.App == "" || q.App == a.App) && (q.Space == "" || q.Space == a.Space) {
				list = append(list, a)
			}
		}
		return len(list) < q.Most
	})
	return list[:min(len(list), q.Most)], err
}
