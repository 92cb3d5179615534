package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"weir/internal/callback"
	"weir/internal/event"
)

// Receiver is whom callbacks go to.
type Receiver struct {
	ID          string     `json:"id"`
	Space       string     `json:"space"`
	URL         string     `json:"url" doc:"Without its query. Where starts and ends go to two URLs, that of starts."`
	State       string     `json:"state" enum:"idle,ok,behind,partly failing,failing" doc:"behind: slower than facts come. partly failing: streams wait whose callback failed. failing: nothing gets through."`
	FailingFrom *time.Time `json:"failing_from,omitempty" doc:"While it is failing: since when."`
	LastSuccess *time.Time `json:"last_success,omitempty"`
	LastFailure *time.Time `json:"last_failure,omitempty"`
	Reason      string     `json:"reason,omitempty" doc:"Of the last failure."`
	Waiting     int        `json:"waiting" doc:"Callbacks that wait, at most: of a receiver that is behind or failing, all facts of its space since then; of a stream whose callback failed, one."`
	Oldest      *time.Time `json:"oldest,omitempty" doc:"When the oldest of them happened."`
	Streams     int        `json:"streams" doc:"Streams that wait because a callback of theirs failed."`
	Calls       int        `json:"calls" doc:"Under way."`
	Delivered   int64      `json:"delivered" doc:"Calls that succeeded since the node started."`
	Failed      int64      `json:"failed" doc:"Calls that failed since the node started."`
	Dead        int64      `json:"dead" doc:"Callbacks that became dead letters since the node started."`
}

func receiver(r *callback.Receiver) Receiver {
	return Receiver{
		ID: r.ID, Space: r.Space, URL: redactURL(r.URL, true), State: r.State, FailingFrom: some(r.Since), LastSuccess: some(r.LastSuccess), LastFailure: some(r.LastFailure),
		Reason: r.Reason, Waiting: r.Waiting, Oldest: some(r.Oldest), Streams: r.Streams, Calls: r.Calls, Delivered: r.Delivered, Failed: r.Failed, Dead: r.Dead,
	}
}

// some returns a time, or nil for none.
func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

type receiverPage struct{ Body Page[Receiver] }

func (s *Server) listReceivers(ctx context.Context, in *SpaceFilter) (*receiverPage, error) {
	c := caller(ctx)
	space := cmp.Or(in.Space, c.Space)
	var list []Receiver
	if c.Sees(space) {
		all, err := s.Callbacks.Receivers(ctx, space)
		if err != nil {
			return nil, away("the event log is away")
		}
		for i := range all {
			list = append(list, receiver(&all[i]))
		}
	}
	p, err := page(list, in.Paging, sorting[Receiver]{list: "receivers", key: func(r *Receiver) string { return r.Space + " " + r.URL + " " + r.ID }})
	return &receiverPage{p}, err
}

// Attempt is one call of a receiver.
type Attempt struct {
	Time     time.Time  `json:"time" doc:"When it began."`
	ID       string     `json:"id" doc:"Of the fact: Weir-Event-Id, the same over all attempts."`
	Type     string     `json:"type" doc:"Of the fact."`
	Space    string     `json:"space"`
	App      string     `json:"app"`
	Stream   string     `json:"stream"`
	Sequence string     `json:"sequence,omitempty" doc:"Names the push."`
	URL      string     `json:"url" doc:"Without its query."`
	Attempt  int        `json:"attempt" doc:"From 1."`
	Status   int        `json:"status,omitempty" doc:"Of HTTP; absent where there was no answer."`
	Seconds  float64    `json:"seconds" doc:"How long it took."`
	Error    string     `json:"error,omitempty"`
	Response string     `json:"response,omitempty" doc:"The first 512 bytes of the answer's body."`
	Outcome  string     `json:"outcome" enum:"delivered,retry,dead"`
	Next     *time.Time `json:"next,omitempty" doc:"When it is tried again."`
}

type attemptsInput struct {
	Paging
	StreamFilter
	Period
}

type attemptPage struct{ Body Page[Attempt] }

func (s *Server) listAttempts(ctx context.Context, in *attemptsInput) (*attemptPage, error) {
	const name = "attempts"
	c := caller(ctx)
	since, until, err := in.Period.times(time.Now())
	if err != nil {
		return nil, err
	}
	after, err := numberOf(in.Paging, name)
	if err != nil {
		return nil, err
	}
	q := callback.Attempts{Space: cmp.Or(in.Space, c.Space), App: in.App, Stream: in.Stream, Since: since, Until: until, After: after, Most: in.Limit + 1}
	p := Page[Attempt]{Items: []Attempt{}}
	if !c.Sees(q.Space) {
		return &attemptPage{p}, nil
	}
	list, err := s.Callbacks.Attempts(ctx, q)
	if err != nil {
		return nil, away("the delivery log is away")
	}
	for i, a := range list {
		d, ok := a.Data.(event.CallbackAttempted)
		if i == in.Limit {
			p.Next = cursor{List: name, Key: strconv.FormatUint(list[i-1].Number, 10)}.String()
		} else if ok {
			p.Items = append(p.Items, Attempt{
				Time: a.Time.UTC(), ID: d.Of, Type: string(d.OfType), Space: a.Space, App: a.App, Stream: a.Stream, Sequence: a.Sequence, URL: redactURL(d.URL, true),
				Attempt: d.Attempt, Status: d.Status, Seconds: d.Latency.Seconds(), Error: d.Error, Response: d.Response, Outcome: d.Outcome, Next: some(d.Next),
			})
		}
	}
	return &attemptPage{p}, nil
}

// numberOf returns the number that the page before has ended with.
func numberOf(p Paging, list string) (uint64, error) {
	c, err := p.after(list)
	if err != nil || c == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(c.Key, 10, 64)
	if err != nil {
		return 0, problem(http.StatusBadRequest, kindCursor, "the cursor is not one of this list in this order; begin without")
	}
	return n, nil
}

// DeadLetter is a callback that was given up.
type DeadLetter struct {
	Number      uint64    `json:"number" doc:"Names it."`
	Died        time.Time `json:"died"`
	ID          string    `json:"id" doc:"Of the fact: Weir-Event-Id."`
	Type        string    `json:"type" doc:"Of the fact."`
	Time        time.Time `json:"time" doc:"When it happened."`
	Space       string    `json:"space"`
	App         string    `json:"app"`
	Stream      string    `json:"stream"`
	Sequence    string    `json:"sequence,omitempty"`
	Receiver    string    `json:"receiver" doc:"ID of the receiver."`
	URL         string    `json:"url" doc:"Without its query."`
	ContentType string    `json:"content_type"`
	Bytes       int       `json:"bytes" doc:"Of the body, which may hold secrets of clients and is not shown."`
	Attempts    int       `json:"attempts"`
	Error       string    `json:"error,omitempty" doc:"Of the last attempt."`
}

type deadInput struct {
	Paging
	Space    string `query:"space" maxLength:"128" doc:"Of this space only."`
	Receiver string `query:"receiver" maxLength:"32" doc:"Of the receiver of this ID only."`
}

type deadPage struct{ Body Page[DeadLetter] }

func (s *Server) listDeadLetters(ctx context.Context, in *deadInput) (*deadPage, error) {
	const name = "dead-letters"
	c := caller(ctx)
	after, err := numberOf(in.Paging, name)
	if err != nil {
		return nil, err
	}
	space := cmp.Or(in.Space, c.Space)
	p := Page[DeadLetter]{Items: []DeadLetter{}}
	if !c.Sees(space) {
		return &deadPage{p}, nil
	}
	list, err := s.Callbacks.DeadLetters(ctx, space, in.Receiver, after+1, in.Limit+1)
	if err != nil {
		return nil, away("the dead letters are away")
	}
	for i := range list {
		l := &list[i]
		if i == in.Limit {
			p.Next = cursor{List: name, Key: strconv.FormatUint(list[i-1].Number, 10)}.String()
			break
		}
		p.Items = append(p.Items, DeadLetter{
			Number: l.Number, Died: l.Died.UTC(), ID: l.ID, Type: string(l.Type), Time: l.Time.UTC(), Space: l.Space, App: l.App, Stream: l.Stream, Sequence: l.Sequence,
			Receiver: callback.ReceiverID(l.Space, l.Group), URL: redactURL(l.URL, true), ContentType: l.ContentType, Bytes: len(l.Body), Attempts: l.Attempts, Error: l.Error,
		})
	}
	return &deadPage{p}, nil
}

type replayInput struct {
	Body struct {
		Space    string `json:"space,omitempty" maxLength:"128" doc:"Of this space only."`
		Receiver string `json:"receiver,omitempty" maxLength:"32" doc:"Of the receiver of this ID only."`
		From     uint64 `json:"from,omitempty" doc:"From this number on."`
		To       uint64 `json:"to,omitempty" doc:"Up to this number; absent: to the last."`
	}
}

type replayOutput struct {
	Body struct {
		Told    int    `json:"told" doc:"That were taken; they are dead letters no more."`
		Failed  int    `json:"failed"`
		Skipped int    `json:"skipped" doc:"Left because one before of the same stream failed, or because the receiver failed five times in a row."`
		Error   string `json:"error,omitempty" doc:"Of the last one that failed."`
	}
}

func (s *Server) replayDeadLetters(ctx context.Context, in *replayInput) (*replayOutput, error) {
	c := caller(ctx)
	space := cmp.Or(in.Body.Space, c.Space)
	out := &replayOutput{}
	if !c.Sees(space) {
		return nil, notFound("space", space)
	}
	sum, err := s.Callbacks.ReplayAll(ctx, space, in.Body.Receiver, in.Body.From, in.Body.To)
	if errors.Is(err, callback.ErrReplaying) {
		return nil, problem(http.StatusConflict, kindConflict, "another replay is under way; wait for its end")
	}
	if err != nil {
		return nil, away("the dead letters are away; %d were told, %d failed, up to number %d", sum.Told, sum.Failed, sum.Last)
	}
	out.Body.Told, out.Body.Failed, out.Body.Skipped, out.Body.Error = sum.Told, sum.Failed, sum.Skipped, sum.Error
	return out, nil
}

type deadPath struct {
	Number uint64 `path:"number" minimum:"1" example:"1" doc:"Number of the dead letter."`
}

func (s *Server) deleteDeadLetter(ctx context.Context, in *deadPath) (*struct{}, error) {
	l, err := s.Callbacks.DeadLetter(ctx, in.Number)
	if err == nil && caller(ctx).Sees(l.Space) {
		err = s.Callbacks.Forget(ctx, in.Number)
	}
	if err != nil && !errors.Is(err, callback.ErrNoLetter) {
		return nil, away("the dead letters are away")
	}
	return nil, nil
}

type testInput struct {
	Space string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
	Body  struct {
		App    string `json:"app" maxLength:"128" example:"live" doc:"Whose callback is tried."`
		Sample string `json:"sample" enum:"start,end,refused,alert,record_hls,record_mp4,record_flv,snapshot" example:"start" doc:"What is told."`
	}
}

type testOutput struct {
	Body struct {
		URL      string  `json:"url,omitempty" doc:"Without its query."`
		OK       bool    `json:"ok"`
		Status   int     `json:"status,omitempty" doc:"Of HTTP; absent where there was no answer."`
		Seconds  float64 `json:"seconds" doc:"How long it took."`
		Error    string  `json:"error,omitempty"`
		Response string  `json:"response,omitempty" doc:"The first 512 bytes of the answer's body."`
		Sent     string  `json:"sent,omitempty" doc:"The body that was sent: a made-up one."`
	}
}

func (s *Server) testCallback(ctx context.Context, in *testInput) (*testOutput, error) {
	sp := s.Policy.Set().Space(in.Space)
	if sp == nil {
		return nil, notFound("space", in.Space)
	}
	app := sp.App(in.Body.App)
	if app == nil {
		return nil, invalid(field{"body.app", "there is no such app in the space"})
	}
	out := &testOutput{}
	r, url, sent, err := s.Callbacks.Test(ctx, sp, app, in.Body.Sample)
	switch {
	case errors.Is(err, callback.ErrNoReceiver):
		out.Body.Error = err.Error()
		return out, nil
	case err != nil:
		return nil, err
	}
	out.Body.URL, out.Body.OK, out.Body.Status, out.Body.Seconds = redactURL(url, true), r.OK, r.Status, r.Latency.Seconds()
	out.Body.Error, out.Body.Response, out.Body.Sent = r.Error, r.Response, string(sent)
	return out, nil
}

func (s *Server) callbackRoutes() {
	add(s, route{
		ID: "listReceivers", Method: http.MethodGet, Path: "/callbacks/receivers", Tag: "Callbacks", Summary: "List the receivers of callbacks, and how they are",
		Role: Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listReceivers)
	add(s, route{
		ID: "listAttempts", Method: http.MethodGet, Path: "/callbacks/attempts", Tag: "Callbacks", Summary: "List calls of receivers",
		Detail: "The delivery log: every attempt of every callback, the oldest first.",
		Role:   Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listAttempts)
	add(s, route{
		ID: "listDeadLetters", Method: http.MethodGet, Path: "/callbacks/dead-letters", Tag: "Callbacks", Summary: "List callbacks that were given up",
		Role: Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listDeadLetters)
	add(s, route{
		ID: "replayDeadLetters", Method: http.MethodPost, Path: "/callbacks/dead-letters/replay", Tag: "Callbacks", Summary: "Tell dead letters again",
		Detail: "One (from and to alike), a range, all of a receiver, of a space, or all: in the order in which they died, with the ids and bodies that they always had.",
		Role:   Operator, Scope: Filtered, Errors: []int{404, 409, 503},
	}, s.replayDeadLetters)
	add(s, route{
		ID: "deleteDeadLetter", Method: http.MethodDelete, Path: "/callbacks/dead-letters/{number}", Tag: "Callbacks", Summary: "Delete a dead letter",
		Detail: "One that is gone is no error.",
		Role:   Operator, Scope: Filtered, Errors: []int{503},
	}, s.deleteDeadLetter)
	add(s, route{
		ID: "testCallback", Method: http.MethodPost, Path: "/spaces/{space}/callbacks/test", Tag: "Callbacks", Summary: "Call a receiver with a sample",
		Detail: "Calls the receiver that the policy names, once, with a body that is like a real one. Whether it took it is in the answer.",
		Role:   Operator, Scope: InSpace, Errors: []int{404},
	}, s.testCallback)
}
