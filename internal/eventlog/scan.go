package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Scan returns the events from the number from on that f matches and that are
// in the log already: at most so many messages of them. Next is where to go on;
// when there are no more it is behind the end of the log, as it was then.
//
// It is for who wants a few events of one stream now and then: it asks for one
// message after the other, and costs JetStream nothing in between. What it says
// is what the leader of a cluster has.
func (l *Log) Scan(ctx context.Context, f Filter, from uint64, most int) (list []Entry, next uint64, err error) {
	crowd, err := f.crowd()
	if err != nil {
		return nil, from, err
	}
	ln := l.facts
	if crowd {
		ln = l.crowd
	}
	s := ln.ready.Load()
	if s == nil {
		return nil, from, errAway
	}
	subject := ln.prefix() + ">"
	if list := f.subjects(ln.prefix()); len(list) == 1 {
		subject = list[0]
	} else if len(list) > 1 {
		broad := f
		broad.Types = nil
		if list = broad.subjects(ln.prefix()); len(list) == 1 {
			subject = list[0]
		}
	}
	next = max(from, 1<<seqBits)
	behind := uint64(0) // the end of the log, once it was asked for
	for n := 0; n < most; {
		m, err := l.message(ctx, ln, subject, next>>seqBits)
		if err != nil {
			return list, next, err
		}
		if m == nil {
			if behind > 0 {
				return list, max(next, behind), nil
			}
			// What was stored between the question before and this one is seen by
			// the next question.
			info, err := (*s).Info(ctx)
			if err != nil {
				return list, next, err
			}
			behind = info.State.LastSeq<<seqBits | lastOfMessage + 1
			continue
		}
		events, err := decode(m.Data)
		if err != nil {
			l.log.Error("an event in the log cannot be read", "stream", ln.config.Name, "seq", m.Sequence, "err", err)
		}
		for i := range events {
			num := m.Sequence<<seqBits | uint64(i)
			if i == len(events)-1 {
				num |= lastOfMessage
			}
			if num >= next && f.match(&events[i]) {
				list = append(list, Entry{Seq: num, Event: events[i]})
			}
		}
		if len(list) > n {
			n++
		}
		next = m.Sequence<<seqBits | lastOfMessage + 1
	}
	return list, next, nil
}

// message returns the first message from seq on whose subject matches, or nil.
func (l *Log) message(ctx context.Context, ln *lane, subject string, seq uint64) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	ask, err := json.Marshal(struct {
		Seq  uint64 `json:"seq"`
		Next string `json:"next_by_subj"`
	}{seq, subject})
	if err != nil {
		return nil, err
	}
	reply, err := l.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+ln.config.Name, ask)
	if err != nil {
		return nil, fmt.Errorf("ask for a message of %s: %w", ln.config.Name, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *message            `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("the answer about a message of %s: %w", ln.config.Name, err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, answer.Error
	}
	return answer.Message, nil
}

// message is a message of a stream, as JetStream's API has it.
type message struct {
	Sequence uint64    `json:"seq"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// Kept is what of a log is still kept.
type Kept struct {
	First, Last     uint64    // numbers
	Step            uint64    // between the numbers of the first events of two messages
	Oldest          time.Time // when the first was stored; zero: there is none
	Bytes, MaxBytes int64
	MaxAge          time.Duration
}

// Kept returns what is still kept: of facts of crowds, or of all others.
func (l *Log) Kept(ctx context.Context, crowd bool) (Kept, error) {
	ln := l.facts
	if crowd {
		ln = l.crowd
	}
	info, err := ln.info(ctx)
	if err != nil {
		return Kept{}, err
	}
	st := &info.State
	k := Kept{
		First: st.FirstSeq << seqBits, Last: st.LastSeq<<seqBits | lastOfMessage, Step: 1 << seqBits,
		Bytes: int64(st.Bytes), MaxBytes: ln.config.MaxBytes, MaxAge: ln.config.MaxAge,
	}
	if st.Msgs > 0 {
		k.Oldest = st.FirstTime
	}
	return k, nil
}

// Pending returns how many messages from the number from on have events that f
// may match: of a stream, those of its shelf.
func (l *Log) Pending(ctx context.Context, f Filter, from uint64) (uint64, error) {
	crowd, err := f.crowd()
	if err != nil {
		return 0, err
	}
	ln := l.facts
	if crowd {
		ln = l.crowd
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := l.js.OrderedConsumer(ctx, ln.config.Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: f.subjects(ln.prefix()), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from>>seqBits, 1),
		HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return 0, fmt.Errorf("count what waits: %w", err)
	}
	info := c.CachedInfo()
	if err := l.js.DeleteConsumer(ctx, ln.config.Name, info.Name); err != nil {
		l.log.Debug("a consumer ends later", "err", err)
	}
	return info.NumPending, nil
}
