package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"weir/internal/bus"
)

// Peers is how the nodes of a cluster ask each other for what only each of them
// knows, such as who plays there now. A question goes to every node of the list by
// a message of its own, and its answer comes back in parts, because a message of
// NATS has a size. Nothing of it is kept anywhere. Methods may be called from any
// goroutine.
//
// Others may be in the same NATS, and a question may order something. So nodes sign
// what they say with the key of their secrets. A question is signed with its node,
// with where the answer goes, and with until when it is waited for: it is neither
// answered nor carried out later, nor by another node. An answer is signed with the
// question's inbox, which is used once, and with its part.
type Peers struct {
	conn  *nats.Conn
	nodes *Nodes
	node  string
	keys  *Keyring
	log   *slog.Logger

	unsigned, late atomic.Int64

	mu     sync.Mutex
	others []string  // as the list had them last, in order
	known  bool      // it was read once
	looked time.Time // when it was last looked at
}

const (
	// PeerTime is for how long other nodes are waited for.
	PeerTime = time.Second

	// Unknown is the Node of the answer that stands for all others, while the
	// list of nodes has never been read. It is no name of a node.
	Unknown = "*"

	peerSubject = "weir.ask."
	peerPart    = 512 << 10 // bytes of an answer in one message; NATS takes 1 MiB
	peerJobs    = 8         // questions that a node answers at a time
	peerList    = time.Second

	// clockSlack is by how much the clocks of two nodes may differ.
	clockSlack = 500 * time.Millisecond

	untilHeader = "Weir-Until" // Unix time in ms
	signHeader  = "Weir-Sign"
	moreHeader  = "Weir-More"  // another part follows
	errorHeader = "Weir-Error" // there is no answer; why
)

// ErrSilent is the error of a node that does not answer in time.
var ErrSilent = errors.New("the node does not answer")

// NewPeers returns how the node of that name asks the others of a list, which have
// a key of keys, too.
func NewPeers(conn *nats.Conn, nodes *Nodes, node string, keys *Keyring, log *slog.Logger) *Peers {
	return &Peers{conn: conn, nodes: nodes, node: node, keys: keys, log: log}
}

// Dropped returns how many messages were dropped: those that no node of this key
// has signed, and questions that came too late.
func (p *Peers) Dropped() (unsigned, late int64) { return p.unsigned.Load(), p.late.Load() }

func (p *Peers) drop(count *atomic.Int64, what string, m *nats.Msg) {
	if count.Add(1) == 1 {
		p.log.Warn(what+"; more are only counted", "subject", m.Subject)
	}
}

const foreign = "a message of NATS that no node with the secrets.key_file of this one has signed is dropped"

// question makes a question to the node of that name, which is good until then.
func (p *Peers) question(node, reply string, until time.Time, data []byte) *nats.Msg {
	subject, text := peerSubject+bus.Token(node), strconv.FormatInt(until.UnixMilli(), 10)
	return &nats.Msg{Subject: subject, Reply: reply, Data: data, Header: nats.Header{
		untilHeader: {text},
		signHeader:  {p.keys.Sign([]byte("question"), []byte(subject), []byte(reply), []byte(text), data)},
	}}
}

// left returns for how long the asker of q waits still; ok is false if q is not to
// be answered.
func (p *Peers) left(q *nats.Msg) (left time.Duration, ok bool) {
	until := q.Header.Get(untilHeader)
	ms, err := strconv.ParseInt(until, 10, 64)
	if err != nil || !p.keys.Verify(q.Header.Get(signHeader), []byte("question"), []byte(q.Subject), []byte(q.Reply), []byte(until), q.Data) {
		p.drop(&p.unsigned, foreign, q)
		return 0, false
	}
	left = time.Until(time.UnixMilli(ms))
	if left < -clockSlack || left > PeerTime+clockSlack {
		p.drop(&p.late, "a question of another node is dropped, because nobody waits for its answer any more or the clocks of the nodes differ", q)
		return 0, false
	}
	return min(PeerTime, left+clockSlack), true
}

// part makes a part of an answer, which are counted from 0.
func (p *Peers) part(q *nats.Msg, n int, more, failure string, data []byte) *nats.Msg {
	h := nats.Header{signHeader: {p.keys.Sign(partSigned(q.Reply, n, more, failure, data)...)}}
	if more != "" {
		h.Set(moreHeader, more)
	}
	if failure != "" {
		h.Set(errorHeader, failure)
	}
	return &nats.Msg{Header: h, Data: data}
}

func partSigned(inbox string, n int, more, failure string, data []byte) [][]byte {
	return [][]byte{[]byte("answer"), []byte(inbox), []byte(strconv.Itoa(n)), []byte(more), []byte(failure), data}
}

// Serve answers the questions of other nodes until ctx ends. answer is called in
// several goroutines; its context ends when the asker does not wait any more.
func (p *Peers) Serve(ctx context.Context, answer func(ctx context.Context, question []byte) ([]byte, error)) error {
	questions := make(chan *nats.Msg, 256)
	sub, err := p.conn.ChanSubscribe(peerSubject+bus.Token(p.node), questions)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	var jobs errgroup.Group
	jobs.SetLimit(peerJobs)
	defer jobs.Wait()
	for {
		select {
		case q := <-questions:
			jobs.Go(func() error { // ends with the answer
				left, ok := p.left(q)
				if !ok {
					return nil
				}
				ctx, cancel := context.WithTimeout(ctx, left)
				defer cancel()
				data, err := answer(ctx, q.Data)
				if err := p.reply(q, data, err); err != nil {
					p.log.Warn("a question of another node is not answered", "err", err)
				}
				return nil
			})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Peers) reply(q *nats.Msg, data []byte, err error) error {
	if err != nil {
		text := strings.Map(func(r rune) rune { // as a header may be
			if r < ' ' {
				return ' '
			}
			return r
		}, err.Error())
		return q.RespondMsg(p.part(q, 0, "", strings.TrimSpace(text), nil))
	}
	n := 0
	for ; len(data) > peerPart; n++ {
		if err := q.RespondMsg(p.part(q, n, "1", "", data[:peerPart])); err != nil {
			return err
		}
		data = data[peerPart:]
	}
	return q.RespondMsg(p.part(q, n, "", "", data))
}

// Answer is what a node has answered, or why it has not: ErrSilent, or what it said.
type Answer struct {
	Node string
	Data []byte
	Err  error
}

// Ask asks all other nodes and waits for them for PeerTime at most. There is an
// Answer for each node of the list, in the order of their names, so that none is
// missing without a word. A node is on the list within a second of its start, and
// for up to Patience after it has died.
func (p *Peers) Ask(ctx context.Context, question []byte) []Answer {
	names, known := p.list(ctx)
	if !known {
		return []Answer{{Node: Unknown, Err: ErrSilent}}
	}
	if len(names) == 0 {
		return nil
	}
	answers := make([]Answer, len(names))
	for i, name := range names {
		answers[i] = Answer{Node: name, Err: ErrSilent}
	}
	ctx, cancel := context.WithTimeout(ctx, PeerTime)
	defer cancel()
	inbox := p.conn.NewInbox()
	parts := make(chan *nats.Msg, 256)
	sub, err := p.conn.ChanSubscribe(inbox+".*", parts)
	if err != nil {
		p.log.Warn("other nodes cannot be asked", "err", err)
		return answers
	}
	defer sub.Unsubscribe()
	until, waiting, heard := time.Now().Add(PeerTime), 0, make([]int, len(names))
	for i, name := range names {
		if err := p.conn.PublishMsg(p.question(name, inbox+"."+strconv.Itoa(i), until, question)); err != nil {
			p.log.Warn("another node cannot be asked", "other", name, "err", err)
			continue
		}
		waiting++
	}
	for waiting > 0 {
		select {
		case m := <-parts:
			i, err := strconv.Atoi(m.Subject[len(inbox)+1:])
			if err != nil || i < 0 || i >= len(answers) {
				continue
			}
			a := &answers[i]
			more, text := m.Header.Get(moreHeader), m.Header.Get(errorHeader)
			switch {
			case m.Header.Get("Status") != "": // of NATS: nobody listens there
			case !p.keys.Verify(m.Header.Get(signHeader), partSigned(m.Subject, heard[i], more, text, m.Data)...):
				p.drop(&p.unsigned, foreign, m)
				continue
			case text != "":
				a.Err = errors.New(text)
			default:
				a.Data = append(a.Data, m.Data...)
				heard[i]++
				if more != "" {
					continue
				}
				a.Err = nil
			}
			waiting--
		case <-ctx.Done():
			return answers
		}
	}
	return answers
}

// list returns the names of the other nodes. While the list cannot be read they
// are as they were; known is false if it never was.
func (p *Peers) list(ctx context.Context) (names []string, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.looked) < peerList {
		return p.others, p.known
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), PeerTime/2)
	defer cancel()
	all, err := p.nodes.List(look)
	p.looked = time.Now()
	if err != nil {
		p.log.Warn("the list of nodes cannot be read", "err", err)
		return p.others, p.known
	}
	p.others, p.known = nil, true
	for _, n := range all {
		if n.Name != p.node {
			p.others = append(p.others, n.Name)
		}
	}
	slices.Sort(p.others)
	return p.others, true
}
