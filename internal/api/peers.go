package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"weir/internal/stream"
)

// What only each node knows, such as who plays there, is asked of all nodes of a
// cluster by the one that is asked by a client. The function that speaks for one
// node is registered by shared, and ask calls it on all others: with the input
// of the client, and for the same space. A node alone asks nobody.

// question is what a node asks the others.
type question struct {
	Of    string          `json:"of"`
	Space string          `json:"space,omitempty"` // the only one that the client may know of
	In    json.RawMessage `json:"in"`
}

// mostAsked is how many items a question may ask for: as many as any list of the
// API has on a page.
const mostAsked = 10_000

// shared lets other nodes ask for what f says of this one. What the schema and the
// scope of a route hold back is held back here as well: a list of a length that no
// client may ask for is refused, and of a stream in a space that the client may not
// know of there is nothing, the zero O.
func shared[I, O any](s *Server, of string, f func(context.Context, *I) (*O, error)) {
	s.shared[of] = func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in I
		if err := json.Unmarshal(raw, &in); err != nil {
			return nil, err
		}
		switch in := any(&in).(type) {
		case interface{ limit() int }:
			if n := in.limit(); n < 1 || n > mostAsked {
				return nil, fmt.Errorf("a list of %d items; it may have 1 to %d", n, mostAsked)
			}
		case interface{ key() stream.Key }:
			if !caller(ctx).Sees(in.key().Space) {
				return new(O), nil
			}
		}
		return f(ctx, &in)
	}
}

// Answer answers the question of another node. It is for cluster.Peers. Whatever
// is asked, this node goes on: a panic is an error and a line of the log.
func (s *Server) Answer(ctx context.Context, raw []byte) (answer []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("the question of another node has failed here", "question", string(raw[:min(len(raw), 512)]), "panic", r, "stack", string(debug.Stack()))
			answer, err = nil, errors.New("this node has failed over the question; its log says how")
		}
	}()
	return s.answer(ctx, raw)
}

func (s *Server) answer(ctx context.Context, raw []byte) ([]byte, error) {
	var q question
	if err := json.Unmarshal(raw, &q); err != nil {
		return nil, err
	}
	f := s.shared[q.Of]
	if f == nil {
		return nil, fmt.Errorf("this node does not know what %.64q is", q.Of)
	}
	out, err := f(context.WithValue(ctx, callerKey{}, &Caller{Token: &Token{Space: q.Space}}), q.In)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// Silent names nodes that were asked in vain.
type Silent struct {
	Silent []string `json:"silent,omitempty" nullable:"false" doc:"Nodes of the cluster that did not answer within a second: it is without what they have, or not done there. * stands for all others while it is not known which there are."`
}

// ask returns what all other nodes say, in the order of their names, and who says
// nothing.
func ask[O, I any](ctx context.Context, s *Server, of string, in *I) (said []O, silent Silent) {
	if s.Peers == nil {
		return nil, silent
	}
	raw, err := json.Marshal(in)
	if err == nil {
		raw, err = json.Marshal(question{of, caller(ctx).Space, raw})
	}
	if err != nil {
		panic(err) // an input is made of text, numbers and times
	}
	for _, a := range s.Peers.Ask(ctx, raw) {
		var out O
		err := a.Err
		if err == nil {
			err = json.Unmarshal(a.Data, &out)
		}
		if err != nil {
			s.log.Warn("a node does not answer", "other", a.Node, "question", of, "err", err)
			silent.Silent = append(silent.Silent, a.Node)
			continue
		}
		said = append(said, out)
	}
	return said, silent
}

// Gathered is a part of a list of what all nodes have.
type Gathered[T any] struct {
	Page[T]
	Silent
}

// gather returns the page of all nodes: here is that of this one, and each has cut
// its own by the same cursor and limit.
func gather[T, I any](ctx context.Context, s *Server, of string, in *I, p Paging, o sorting[T], here *Page[T]) (Gathered[T], error) {
	if s.Peers == nil {
		return Gathered[T]{Page: *here}, nil
	}
	others, silent := ask[Page[T]](ctx, s, of, in)
	items, more := here.Items, here.Next != ""
	for _, other := range others {
		items, more = append(items, other.Items...), more || other.Next != ""
	}
	pg, err := page(items, p, o)
	if n := len(pg.Items); more && pg.Next == "" && n > 0 { // all others have come to their end
		pg.Next = o.cursor(&pg.Items[n-1])
	}
	return Gathered[T]{pg, silent}, err
}
