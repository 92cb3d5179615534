package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
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
type Peers struct {
	conn  *nats.Conn
	nodes *Nodes
	node  string
	log   *slog.Logger

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

	moreHeader  = "Weir-More"  // another part follows
	errorHeader = "Weir-Error" // there is no answer; why
)

// ErrSilent is the error of a node that does not answer in time.
var ErrSilent = errors.New("the node does not answer")

// NewPeers returns how the node of that name asks the others of a list.
func NewPeers(conn *nats.Conn, nodes *Nodes, node string, log *slog.Logger) *Peers {
	return &Peers{conn: conn, nodes: nodes, node: node, log: log}
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
				ctx, cancel := context.WithTimeout(ctx, PeerTime)
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
		return q.RespondMsg(&nats.Msg{Header: nats.Header{errorHeader: {err.Error()}}})
	}
	for len(data) > peerPart {
		if err := q.RespondMsg(&nats.Msg{Header: nats.Header{moreHeader: {"1"}}, Data: data[:peerPart]}); err != nil {
			return err
		}
		data = data[peerPart:]
	}
	return q.RespondMsg(&nats.Msg{Data: data})
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
	waiting := 0
	for i, name := range names {
		if err := p.conn.PublishRequest(peerSubject+bus.Token(name), inbox+"."+strconv.Itoa(i), question); err != nil {
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
			text := m.Header.Get(errorHeader)
			switch {
			case m.Header.Get("Status") != "": // of NATS: nobody listens there
			case text != "":
				a.Err = errors.New(text)
			default:
				a.Data = append(a.Data, m.Data...)
				if m.Header.Get(moreHeader) != "" {
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
