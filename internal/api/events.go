package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weir/internal/event"
	"weir/internal/eventlog"
)

// Fact is a fact of the event log.
type Fact struct {
	Seq   uint64      `json:"seq" doc:"Its place in its log: they rise, with gaps."`
	Event event.Event `json:"event" doc:"The fact itself, without secrets; docs/events.md describes all types."`
}

// FactFilter says which facts.
type FactFilter struct {
	Space  string   `query:"space" maxLength:"128" doc:"Of this space only."`
	App    string   `query:"app" maxLength:"128" doc:"Of this app only."`
	Stream string   `query:"stream" maxLength:"255" doc:"Of streams of this name only."`
	Types  []string `query:"type" maxItems:"32" doc:"Of these types only, with commas between them. The types publish.requested, publish.refused and play.ended, of which there are many, are in a log of their own, and so is callback.attempted: they are there only when asked for, and with no other."`
}

// filter makes the filter of the log, narrowed to what the caller may see.
// nothing says that he may see none of it.
func (f *FactFilter) filter(c *Caller) (out eventlog.Filter, nothing bool, err error) {
	out = eventlog.Filter{Space: f.Space, App: f.App, Stream: f.Stream}
	for _, t := range f.Types {
		typ := event.Type(t)
		if !slices.Contains(event.Types(), typ) {
			return out, false, invalid(field{"query.type", "there is no type " + quote(t)})
		}
		if len(out.Types) > 0 && !eventlog.SameLog(typ, out.Types[0]) {
			return out, false, invalid(field{"query.type", fmt.Sprintf("%s and %s are in different logs: ask for them one after the other", out.Types[0], t)})
		}
		out.Types = append(out.Types, typ)
	}
	if c.Space != "" {
		if f.Space != "" && f.Space != c.Space {
			return out, true, nil
		}
		out.Space = c.Space
	}
	return out, false, nil
}

// factsInput says which facts to list.
type factsInput struct {
	Paging
	CursorName
	FactFilter
	Period
}

// Period is a time from which and until which.
type Period struct {
	Since time.Time `query:"since" doc:"From then on; absent: a day ago."`
	Until time.Time `query:"until" doc:"Before then; absent: until now."`
}

// times returns the period as it is meant.
func (p *Period) times(now time.Time) (since, until time.Time, err error) {
	since, until = p.Since, p.Until
	if until.IsZero() {
		until = now
	}
	if since.IsZero() {
		since = until.Add(-24 * time.Hour)
	}
	if !since.Before(until) {
		return since, until, invalid(field{"query.since", "must be before until"})
	}
	return since, until, nil
}

type factPage struct{ Body Page[Fact] }

func (s *Server) listEvents(ctx context.Context, in *factsInput) (*factPage, error) {
	f, nothing, err := in.filter(caller(ctx))
	if err != nil {
		return nil, err
	}
	out := &factPage{Page[Fact]{Items: []Fact{}}}
	if nothing {
		return out, nil
	}
	at, err := in.CursorName.of(ctx, s, &f)
	if err != nil {
		return nil, err
	}
	if at != nil {
		in.Since = time.Unix(0, 0)
		if in.Cursor == "" {
			in.Cursor = cursor{List: "events", Key: strconv.FormatUint(at.Position+1, 10)}.String()
		}
	}
	out.Body, err = scan(ctx, s, "events", f, in.Period, in.Paging, func(e *eventlog.Entry) (Fact, bool) {
		return Fact{e.Seq, redact(e.Event)}, true
	})
	return out, err
}

const (
	// scanTime is how long a request may look for facts, and scanFacts how
	// many it looks at. What it has not found then is on the next page.
	scanTime  = 3 * time.Second
	scanFacts = 50_000

	readTime = 10 * time.Second // that JetStream may take to answer
)

// scan returns what pick makes of the facts that match f in a period, the
// oldest first. A page may have fewer items than its limit, even none, and not
// be the last one: then nothing was found in the time, and its cursor says how
// far that was.
func scan[T any](ctx context.Context, s *Server, list string, f eventlog.Filter, in Period, p Paging, pick func(*eventlog.Entry) (T, bool)) (Page[T], error) {
	none := Page[T]{Items: []T{}}
	since, until, err := in.times(time.Now())
	if err != nil {
		return none, err
	}
	after, err := p.after(list)
	if err != nil {
		return none, err
	}
	var from uint64
	if after == nil {
		// What happened is written down later, by a second and more while the log is away.
		from, err = s.Events.SeqAtOf(ctx, f, since)
	} else if from, err = strconv.ParseUint(after.Key, 10, 64); err != nil {
		return none, problem(http.StatusBadRequest, kindCursor, "the cursor is not one of this list; begin without")
	}
	if err != nil {
		return none, s.unread(err)
	}
	r := s.Events.Range(ctx, f, from, s.Events.LastOf(f))
	defer r.Close()
	ctx, cancel := context.WithTimeout(ctx, s.scanTime)
	defer cancel()
	pg, next, start := none, from, r.At()
	for range scanFacts {
		e, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return pg, nil
		}
		if err != nil {
			if cause := r.Away(); cause != nil && r.At() == start {
				return none, s.unread(cause)
			}
			next = r.At()
			break
		}
		if len(pg.Items) == p.Limit {
			break
		}
		next = e.Seq + 1
		if e.Event.Time.Before(since) || !e.Event.Time.Before(until) {
			continue
		}
		if v, ok := pick(&e); ok {
			pg.Items = append(pg.Items, v)
		}
	}
	pg.Next = cursor{List: list, Key: strconv.FormatUint(next, 10)}.String()
	return pg, nil
}

// unread is the problem of a log that cannot be read.
func (s *Server) unread(err error) error {
	s.log.Warn("the event log cannot be read", "err", err)
	return away("the event log cannot be read just now; try again")
}

const (
	// maxFeeds is how many may follow the log at once, and maxOwnFeeds how
	// many of them with one token.
	maxFeeds    = 256
	maxOwnFeeds = 32

	heartbeat = 15 * time.Second
	feedWrite = 10 * time.Second // that a client may take nothing
)

// feeds counts who follows the log. The zero value is ready.
type feeds struct {
	mu  sync.Mutex
	all int
	own map[string]int // by ID of the token
}

func (f *feeds) enter(token string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all >= maxFeeds || f.own[token] >= maxOwnFeeds {
		return false
	}
	if f.own == nil {
		f.own = make(map[string]int)
	}
	f.all++
	f.own[token]++
	return true
}

func (f *feeds) leave(token string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all--
	if f.own[token]--; f.own[token] == 0 {
		delete(f.own, token)
	}
}

type followInput struct {
	CursorName
	FactFilter
	Since time.Time `query:"since" doc:"Begin with what happened from then on; absent: with what happens from now on."`
	Last  string    `header:"Last-Event-ID" maxLength:"20" doc:"Go on after the fact of that id. It wins over cursor_name and since."`
}

type followOutput struct {
	Body func(huma.Context)
}

func (s *Server) followEvents(ctx context.Context, in *followInput) (*followOutput, error) {
	c := caller(ctx)
	f, nothing, err := in.filter(c)
	if err != nil {
		return nil, err
	}
	at, err := in.CursorName.of(ctx, s, &f)
	if err != nil {
		return nil, err
	}
	if at != nil {
		in.Since = time.Time{}
	}
	var from uint64
	switch {
	case in.Last != "":
		if from, err = strconv.ParseUint(in.Last, 10, 64); err != nil {
			return nil, invalid(field{"header.Last-Event-ID", "must be the id of a fact"})
		}
		from++
	case at != nil:
		from = at.Position + 1
	case !in.Since.IsZero():
		from, err = s.Events.SeqAtOf(ctx, f, in.Since)
	default:
		from = s.Events.LastOf(f) + 1
	}
	if err != nil {
		return nil, s.unread(err)
	}
	return &followOutput{func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		if !s.feeds.enter(c.ID) {
			s.refuse(w, r, tooMany(time.Minute, "too many follow the facts already"))
			return
		}
		defer s.feeds.leave(c.ID)
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		s.follow(r.Context(), w, c, f, from, nothing, in.Since)
	}}, nil
}

// follow writes facts as they come until the client leaves, its token ends, or
// the server does.
func (s *Server) follow(ctx context.Context, w http.ResponseWriter, c *Caller, f eventlog.Filter, from uint64, nothing bool, since time.Time) {
	rc := http.NewResponseController(w)
	write := func(text string) bool {
		if err := rc.SetWriteDeadline(time.Now().Add(feedWrite)); err != nil {
			return false
		}
		_, err := io.WriteString(w, text)
		return err == nil && rc.Flush() == nil
	}
	if !write("retry: 1000\n\n") {
		return
	}
	r := s.Events.Read(ctx, f, from)
	defer r.Close()
	for {
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		var e eventlog.Entry
		var err error
		if nothing {
			<-wait.Done()
			err = wait.Err()
		} else {
			e, err = r.Next(wait)
		}
		cancel()
		switch {
		case ctx.Err() != nil || !s.Tokens.valid(c.Token):
			return
		case errors.Is(err, context.DeadlineExceeded):
			if !write(": still here\n\n") {
				return
			}
			continue
		case err != nil:
			s.log.Warn("a feed of facts ends", "err", err)
			return
		case e.Event.Time.Before(since):
			continue
		}
		data, err := json.Marshal(redact(e.Event))
		if err != nil {
			s.log.Error("a fact cannot be written", "seq", e.Seq, "err", err)
			continue
		}
		if e.Missed > 0 && !write(fmt.Sprintf("event: missed\ndata: {\"missed\":%d}\n\n", e.Missed)) {
			return
		}
		if !write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Event.Type, data)) {
			return
		}
	}
}

func (s *Server) eventRoutes() {
	add(s, route{
		ID: "listEvents", Method: http.MethodGet, Path: "/events", Tag: "History", Summary: "List facts, the oldest first",
		Detail: "A page may have fewer items than its limit, even none, and not be the last one: only a page without next is.",
		Role:   Viewer, Scope: Filtered, Errors: []int{409, 503},
	}, s.listEvents)
	add(s, route{
		ID: "followEvents", Method: http.MethodGet, Path: "/events/feed", Tag: "History", Summary: "Follow facts as they happen",
		Detail: "Server-Sent Events: the id of each is its place in the log, its event the type of the fact, its data the fact as listEvents has it. " +
			"Who has lost the connection sends the last id as Last-Event-ID and misses nothing that the log still has. " +
			"How many are missing is said by an event missed. A comment comes every 15 seconds when nothing else does.",
		Role: Viewer, Scope: Filtered, Media: "text/event-stream", Errors: []int{409, 503},
	}, s.followEvents)
}
