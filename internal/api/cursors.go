package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/policy"
)

// EventCursor is a place in a log of facts, which has a name.
type EventCursor struct {
	Name     string    `json:"name"`
	Log      string    `json:"log" enum:"facts,crowd,attempts" doc:"In which log the place is: crowd is that of publish.requested, publish.refused and play.ended, attempts that of callback.attempted, facts that of all others."`
	Position uint64    `json:"position" doc:"The seq of the last fact that its reader is done with."`
	At       time.Time `json:"at" doc:"When that was committed."`
	By       string    `json:"by" doc:"Name of the token that committed it."`
}

// LogOf returns the Log of an EventCursor over facts of those types.
func LogOf(types []event.Type) string {
	switch {
	case len(types) == 0:
	case types[0] == event.TypeCallbackAttempted:
		return "attempts"
	case eventlog.Crowd(types[0]):
		return "crowd"
	}
	return "facts"
}

// inLog returns a filter of facts that are in a log.
func inLog(name string) eventlog.Filter {
	switch name {
	case "attempts":
		return eventlog.Filter{Types: []event.Type{event.TypeCallbackAttempted}}
	case "crowd":
		return eventlog.Filter{Types: []event.Type{event.TypePlayEnded}}
	}
	return eventlog.Filter{}
}

const (
	cursorBucket = "weir_cursors"
	cursorSchema = 1
	cursorTime   = 3 * time.Second // for an answer of JetStream
	cursorGrave  = time.Hour       // a cursor that is gone is remembered there
	maxCursors   = 1000            // of one space, and of none
)

var (
	errNoCursor       = errors.New("no such cursor")
	errTooManyCursors = errors.New("there are too many cursors; delete some")
	errBehind         = errors.New("the cursor is further already")
	errOtherLog       = errors.New("the cursor is in another log")
)

// Cursors are the event cursors of all nodes, in a bucket of JetStream. Each space
// has its own, and so have the tokens of no space. Methods may be called from any
// goroutine.
type Cursors struct {
	js       jetstream.JetStream
	replicas int

	making sync.Mutex // held by who makes one, so that they are counted before

	mu sync.Mutex
	kv jetstream.KeyValue // nil until it was reached
}

// NewCursors returns the cursors that are kept in JetStream by so many nodes.
func NewCursors(js jetstream.JetStream, replicas int) *Cursors {
	return &Cursors{js: js, replicas: replicas}
}

func (c *Cursors) open(ctx context.Context) (jetstream.KeyValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kv != nil {
		return c.kv, nil
	}
	kv, err := bus.KV(ctx, c.js, jetstream.KeyValueConfig{
		Bucket: cursorBucket, Description: "how far readers of the event log are", History: 1, Replicas: max(1, c.replicas), LimitMarkerTTL: cursorGrave,
	}, cursorSchema, nil)
	if err != nil {
		return nil, fmt.Errorf("open the cursors of events: %w", err)
	}
	c.kv = kv
	return kv, nil
}

func cursorKey(space, name string) string { return bus.Token(space) + "." + bus.Token(name) }

// get returns the cursor of a name; the error is errNoCursor if there is none.
func (c *Cursors) get(ctx context.Context, space, name string) (EventCursor, error) {
	ctx, cancel := context.WithTimeout(ctx, cursorTime)
	defer cancel()
	kv, err := c.open(ctx)
	if err != nil {
		return EventCursor{}, err
	}
	x, _, err := c.read(ctx, kv, space, name)
	return x, err
}

func (c *Cursors) read(ctx context.Context, kv jetstream.KeyValue, space, name string) (x EventCursor, revision uint64, err error) {
	e, err := kv.Get(ctx, cursorKey(space, name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return x, 0, errNoCursor
	}
	if err != nil {
		return x, 0, fmt.Errorf("read a cursor: %w", err)
	}
	return x, e.Revision(), json.Unmarshal(e.Value(), &x)
}

// list returns the cursors of a space.
func (c *Cursors) list(ctx context.Context, space string) ([]EventCursor, error) {
	ctx, cancel := context.WithTimeout(ctx, cursorTime)
	defer cancel()
	kv, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	w, err := kv.Watch(ctx, bus.Token(space)+".*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list the cursors: %w", err)
	}
	defer w.Stop()
	var list []EventCursor
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("list the cursors: the watch has ended")
			}
			if e == nil { // that was all there is
				return list, nil
			}
			var x EventCursor
			if err := json.Unmarshal(e.Value(), &x); err != nil {
				return nil, fmt.Errorf("read a cursor: %w", err)
			}
			list = append(list, x)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// commit makes the cursor x of a space, or moves the one that is there, and
// returns it as it is then. One that is there stays where it is if stay is set; it
// goes back or into another log only with force. Errors are errBehind, with the one
// that is there, errOtherLog and errTooManyCursors.
func (c *Cursors) commit(ctx context.Context, space string, x EventCursor, stay, force bool) (EventCursor, error) {
	ctx, cancel := context.WithTimeout(ctx, cursorTime)
	defer cancel()
	kv, err := c.open(ctx)
	if err != nil {
		return EventCursor{}, err
	}
	data, err := json.Marshal(x)
	if err != nil {
		return EventCursor{}, err
	}
	for {
		old, revision, err := c.read(ctx, kv, space, x.Name)
		switch {
		case errors.Is(err, errNoCursor):
			err = c.create(ctx, kv, space, x.Name, data)
		case err != nil:
			return EventCursor{}, err
		case old.Log == x.Log && (stay || old.Position == x.Position):
			return old, nil
		case old.Log != x.Log && !force:
			return EventCursor{}, errOtherLog
		case old.Log == x.Log && old.Position > x.Position && !force:
			return old, errBehind
		default:
			_, err = kv.Update(ctx, cursorKey(space, x.Name), data, revision)
		}
		if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // somebody else has committed meanwhile
		}
		return x, err
	}
}

func (c *Cursors) create(ctx context.Context, kv jetstream.KeyValue, space, name string, data []byte) error {
	c.making.Lock()
	defer c.making.Unlock()
	list, err := c.list(ctx, space)
	if err != nil {
		return err
	}
	if len(list) >= maxCursors {
		return errTooManyCursors
	}
	_, err = kv.Create(ctx, cursorKey(space, name), data)
	return err
}

// remove removes a cursor, if there is one.
func (c *Cursors) remove(ctx context.Context, space, name string) error {
	ctx, cancel := context.WithTimeout(ctx, cursorTime)
	defer cancel()
	kv, err := c.open(ctx)
	if err != nil {
		return err
	}
	if _, _, err := c.read(ctx, kv, space, name); errors.Is(err, errNoCursor) {
		return nil
	}
	return kv.Purge(ctx, cursorKey(space, name), jetstream.PurgeTTL(cursorGrave))
}

// CursorName is where a reader of facts begins.
type CursorName struct {
	CursorName string `query:"cursor_name" maxLength:"128" doc:"Begin behind what is committed at the event cursor of this name, whatever since says. If there is no such cursor, begin as without."`
}

// of returns the cursor that is named, nil if none is or it is not there.
func (n *CursorName) of(ctx context.Context, s *Server, f *eventlog.Filter) (*EventCursor, error) {
	if n.CursorName == "" {
		return nil, nil
	}
	if !policy.ValidName(n.CursorName) {
		return nil, invalid(field{"query.cursor_name", "must be " + policy.NameForm})
	}
	x, err := s.Cursors.get(ctx, caller(ctx).Space, n.CursorName)
	switch {
	case errors.Is(err, errNoCursor):
		return nil, nil
	case err != nil:
		return nil, s.unavailable(err)
	case x.Log != LogOf(f.Types):
		return nil, problem(http.StatusConflict, kindConflict, "the cursor %q is in the log %s, and these facts are in the log %s", x.Name, x.Log, LogOf(f.Types))
	}
	return &x, nil
}

type eventCursorsInput struct{ Paging }

type eventCursorPage struct{ Body Page[EventCursor] }

func (s *Server) listEventCursors(ctx context.Context, in *eventCursorsInput) (*eventCursorPage, error) {
	list, err := s.Cursors.list(ctx, caller(ctx).Space)
	if err != nil {
		return nil, s.unavailable(err)
	}
	p, err := page(list, in.Paging, sorting[EventCursor]{list: "event-cursors", key: func(c *EventCursor) string { return c.Name }})
	return &eventCursorPage{p}, err
}

// EventCursorPath names a cursor.
type EventCursorPath struct {
	Name string `path:"name" maxLength:"128" example:"billing" doc:"Name of the cursor."`
}

type eventCursorOutput struct{ Body EventCursor }

func (s *Server) getEventCursor(ctx context.Context, in *EventCursorPath) (*eventCursorOutput, error) {
	x, err := s.Cursors.get(ctx, caller(ctx).Space, in.Name)
	if errors.Is(err, errNoCursor) {
		return nil, notFound("cursor", in.Name)
	}
	if err != nil {
		return nil, s.unavailable(err)
	}
	return &eventCursorOutput{x}, nil
}

type eventCursorWrite struct {
	EventCursorPath
	Body struct {
		Position *uint64 `json:"position,omitempty" doc:"The seq of the last fact that is done with, 0 before all. Absent: a new cursor is where its log ends now, and one that is there stays where it is."`
		Log      string  `json:"log,omitempty" enum:"facts,crowd,attempts" default:"facts" doc:"In which log that is."`
		Force    bool    `json:"force,omitempty" doc:"Let it go back, or into another log."`
	}
}

func (s *Server) commitEventCursor(ctx context.Context, in *eventCursorWrite) (*eventCursorOutput, error) {
	if !policy.ValidName(in.Name) {
		return nil, invalid(field{"path.name", "must be " + policy.NameForm})
	}
	c, f := caller(ctx), inLog(in.Body.Log)
	x := EventCursor{Name: in.Name, Log: in.Body.Log, Position: s.Events.LastOf(f), At: time.Now().UTC().Truncate(time.Millisecond), By: c.Name}
	if p := in.Body.Position; p != nil {
		if end, err := s.end(ctx, f, *p); err != nil {
			return nil, err
		} else if *p > end {
			return nil, invalid(field{"body.position", fmt.Sprintf("the log ends at %d", end)})
		}
		x.Position = *p
	}
	stay := in.Body.Position == nil
	done, err := s.Cursors.commit(ctx, c.Space, x, stay, in.Body.Force)
	if errors.Is(err, errBehind) { // it may be the place in a log that NATS has lost, and that began again
		end, away := s.end(ctx, f, done.Position)
		if away != nil {
			return nil, away
		}
		if done.Position > end {
			done, err = s.Cursors.commit(ctx, c.Space, x, stay, true)
		}
	}
	switch {
	case errors.Is(err, errBehind), errors.Is(err, errOtherLog), errors.Is(err, errTooManyCursors):
		return nil, problem(http.StatusConflict, kindConflict, "%v", err)
	case err != nil:
		return nil, s.unavailable(err)
	}
	return &eventCursorOutput{done}, nil
}

// end returns where the log ends, or that it does so at position or behind it.
func (s *Server) end(ctx context.Context, f eventlog.Filter, position uint64) (uint64, error) {
	if last := s.Events.LastOf(f); position <= last {
		return last, nil
	}
	next, err := s.Events.SeqAtOf(ctx, f, time.Now().Add(time.Hour)) // LastOf is what was known of it, if it is away
	if err != nil {
		return 0, s.unread(err)
	}
	return next - 1, nil
}

func (s *Server) deleteEventCursor(ctx context.Context, in *EventCursorPath) (*struct{}, error) {
	if err := s.Cursors.remove(ctx, caller(ctx).Space, in.Name); err != nil {
		return nil, s.unavailable(err)
	}
	return nil, nil
}

func (s *Server) cursorRoutes() {
	const one = "/event-cursors/{name}"
	add(s, route{
		ID: "listEventCursors", Method: http.MethodGet, Path: "/event-cursors", Tag: "History", Summary: "List the cursors of readers of facts",
		Detail: "They are those of the token's space; a token of all spaces has others.",
		Role:   Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listEventCursors)
	add(s, route{
		ID: "getEventCursor", Method: http.MethodGet, Path: one, Tag: "History", Summary: "Say how far a reader of facts is",
		Role: Viewer, Scope: Filtered, Errors: []int{503},
	}, s.getEventCursor)
	add(s, route{
		ID: "commitEventCursor", Method: http.MethodPut, Path: one, Tag: "History", Summary: "Commit how far a reader of facts is",
		Detail: "Who reads facts by cursor_name goes on behind it, at whichever node and whenever. It does not go back. " +
			"There are 1000 cursors of a space at most. This makes no fact api.written, which the reader would have to read.",
		Role: Operator, Scope: Filtered, Reads: true, Errors: []int{409, 503},
	}, s.commitEventCursor)
	add(s, route{
		ID: "deleteEventCursor", Method: http.MethodDelete, Path: one, Tag: "History", Summary: "Delete a cursor of a reader of facts",
		Detail: "To delete one that is not there is no error.",
		Role:   Operator, Scope: Filtered, Errors: []int{503},
	}, s.deleteEventCursor)
}
