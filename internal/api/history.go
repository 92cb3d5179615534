package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"weir/internal/event"
	"weir/internal/eventlog"
)

// SpaceFilter says of which space.
type SpaceFilter struct {
	Paging
	Space string `query:"space" maxLength:"128" doc:"Of this space only."`
}

// wants reports whether what is in a space is asked for, and is for c to see.
func (f *SpaceFilter) wants(c *Caller, space string) bool {
	return c.Sees(space) && (f.Space == "" || f.Space == space)
}

// StreamFilter says of which streams.
type StreamFilter struct {
	Space  string `query:"space" maxLength:"128" doc:"Of this space only."`
	App    string `query:"app" maxLength:"128" doc:"Of this app only."`
	Stream string `query:"stream" maxLength:"255" doc:"Of streams of this name only."`
}

func (f *StreamFilter) filter(c *Caller, types ...event.Type) (out eventlog.Filter, nothing bool) {
	out = eventlog.Filter{Space: f.Space, App: f.App, Stream: f.Stream, Types: types}
	if c.Space != "" {
		nothing = f.Space != "" && f.Space != c.Space
		out.Space = c.Space
	}
	return out, nothing
}

// PushInfo is a push that is over.
type PushInfo struct {
	Sequence string         `json:"sequence" doc:"Names the push."`
	Space    string         `json:"space"`
	App      string         `json:"app"`
	Stream   string         `json:"stream"`
	Node     string         `json:"node"`
	Addr     netip.AddrPort `json:"addr" doc:"Address of the publisher."`
	Domain   string         `json:"domain"`
	Protocol string         `json:"protocol"`
	Encoder  string         `json:"encoder,omitempty"`
	Started  time.Time      `json:"started"`
	Ended    time.Time      `json:"ended"`
	Seconds  float64        `json:"seconds"`
	Reason   string         `json:"reason" doc:"Why it ended: closed, reset, no data, takeover, kicked, over limit, shutdown, revoked, node died."`
	Error    string         `json:"error,omitempty"`
	Brought  event.Counters `json:"brought"`
}

type pushesInput struct {
	Paging
	StreamFilter
	Period
}

type pushPage struct{ Body Page[PushInfo] }

func (s *Server) listPushes(ctx context.Context, in *pushesInput) (*pushPage, error) {
	f, nothing := in.filter(caller(ctx), event.TypePublishEnded)
	if nothing {
		return &pushPage{Page[PushInfo]{Items: []PushInfo{}}}, nil
	}
	p, err := scan(ctx, s, "pushes", f, in.Period, in.Paging, func(e *eventlog.Entry) (PushInfo, bool) {
		d, ok := e.Event.Data.(event.PublishEnded)
		if !ok {
			return PushInfo{}, false
		}
		return PushInfo{
			Sequence: e.Event.Sequence, Space: e.Event.Space, App: e.Event.App, Stream: e.Event.Stream, Node: e.Event.Node,
			Addr: d.Addr, Domain: d.Domain, Protocol: d.Protocol, Encoder: cmp.Or(d.FlashVer, d.UserAgent),
			Started: d.Started.UTC(), Ended: e.Event.Time.UTC(), Seconds: e.Event.Time.Sub(d.Started).Seconds(),
			Reason: d.Reason, Error: d.Error, Brought: d.Counters,
		}, true
	})
	return &pushPage{p}, err
}

// FailedPush is a push that was refused. Its names are those that the client
// sent, which may be those of nothing.
type FailedPush struct {
	Time     time.Time      `json:"time"`
	Space    string         `json:"space,omitempty"`
	App      string         `json:"app"`
	Stream   string         `json:"stream"`
	Node     string         `json:"node"`
	Addr     netip.AddrPort `json:"addr" doc:"Address of the client."`
	Domain   string         `json:"domain"`
	Protocol string         `json:"protocol"`
	Reason   string         `json:"reason" doc:"One word, such as auth_failed or stream_exists."`
	Code     int            `json:"code" doc:"That the client was told; docs/push.md has the table."`
	SubCode  int            `json:"sub_code"`
	Message  string         `json:"message" doc:"That the client was told."`
}

type failedPage struct{ Body Page[FailedPush] }

func (s *Server) listFailedPushes(ctx context.Context, in *pushesInput) (*failedPage, error) {
	f, nothing := in.filter(caller(ctx), event.TypePublishRefused)
	if nothing {
		return &failedPage{Page[FailedPush]{Items: []FailedPush{}}}, nil
	}
	p, err := scan(ctx, s, "failed pushes", f, in.Period, in.Paging, func(e *eventlog.Entry) (FailedPush, bool) {
		d, ok := e.Event.Data.(event.PublishRefused)
		return FailedPush{
			Time: e.Event.Time.UTC(), Space: e.Event.Space, App: e.Event.App, Stream: e.Event.Stream, Node: e.Event.Node,
			Addr: d.Addr, Domain: d.Domain, Protocol: d.Protocol, Reason: d.Reason, Code: d.Code, SubCode: d.SubCode, Message: d.Message,
		}, ok
	})
	return &failedPage{p}, err
}

// RecordedFile is a file of a recording that is finished, or of one that failed.
type RecordedFile struct {
	Task    string    `json:"task" doc:"Names the recording in its facts and callbacks."`
	Time    time.Time `json:"time" doc:"When it was finished, or failed."`
	Space   string    `json:"space"`
	App     string    `json:"app"`
	Stream  string    `json:"stream"`
	Node    string    `json:"node"`
	State   string    `json:"state" enum:"finished,failed"`
	Error   string    `json:"error,omitempty" doc:"Why it failed."`
	Format  string    `json:"format" enum:"hls,mp4,flv"`
	Bucket  string    `json:"bucket" doc:"Name of the bucket; empty: the first one."`
	Key     string    `json:"key" doc:"Of the object; of HLS the playlist. It may have been deleted since."`
	Start   time.Time `json:"start" doc:"When its first frame came."`
	End     time.Time `json:"end,omitzero" doc:"When its last frame came."`
	Seconds float64   `json:"seconds" doc:"Of media in it."`
	Size    int64     `json:"size" doc:"Bytes of the file; of HLS with its segments."`
	Lost    float64   `json:"lost" doc:"Seconds of media that found no room on the disk."`
	Pushes  []string  `json:"pushes" nullable:"false" doc:"Sequences of the pushes in it."`
}

type recordedInput struct {
	Paging
	StreamFilter
	Period
	State string `query:"state" enum:"finished,failed" doc:"Only those."`
}

type recordedPage struct{ Body Page[RecordedFile] }

func (s *Server) listRecorded(ctx context.Context, in *recordedInput) (*recordedPage, error) {
	types := []event.Type{event.TypeRecordFinished, event.TypeRecordFailed}
	switch in.State {
	case "finished":
		types = types[:1]
	case "failed":
		types = types[1:]
	}
	f, nothing := in.filter(caller(ctx), types...)
	if nothing {
		return &recordedPage{Page[RecordedFile]{Items: []RecordedFile{}}}, nil
	}
	p, err := scan(ctx, s, "recorded "+in.State, f, in.Period, in.Paging, func(e *eventlog.Entry) (RecordedFile, bool) {
		file := RecordedFile{
			Time: e.Event.Time.UTC(), Space: e.Event.Space, App: e.Event.App, Stream: e.Event.Stream, Node: e.Event.Node, State: "finished", Pushes: []string{},
		}
		var r *event.Recording
		switch d := e.Event.Data.(type) {
		case event.RecordFinished:
			r = &d.Recording
			file.Seconds, file.Size, file.Lost, file.Pushes = d.Duration.Seconds(), d.Size, d.Lost.Seconds(), append(file.Pushes, d.Pushes...)
		case event.RecordFailed:
			r = &d.Recording
			file.State, file.Error = "failed", d.Errmsg
		default:
			return file, false
		}
		file.Task, file.Format, file.Bucket, file.Key, file.Start, file.End = r.Task, r.Format, r.Bucket, r.Key, r.Start.UTC(), r.End
		if !r.End.IsZero() {
			file.End = r.End.UTC()
		}
		return file, true
	})
	return &recordedPage{p}, err
}

// Duration is for how long a stream was on the air.
type Duration struct {
	Space   string  `json:"space"`
	App     string  `json:"app"`
	Stream  string  `json:"stream"`
	Seconds float64 `json:"seconds" doc:"In the period, of all its pushes that are counted on this page."`
	Pushes  int     `json:"pushes" doc:"That were on the air in the period, and are counted on this page."`
	Live    bool    `json:"live" doc:"One went on when the first page was asked for; its seconds until then are counted."`
}

// Durations is a page of sums.
type Durations struct {
	Since time.Time  `json:"since"`
	Until time.Time  `json:"until"`
	Items []Duration `json:"items" nullable:"false" doc:"By space, app and stream."`
	Next  string     `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one."`
	Silent
}

type durationsOutput struct{ Body *Durations }

type durationsInput struct {
	StreamFilter
	Period
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"10000" doc:"Of how many streams a page has sums at most."`
	Cursor string `query:"cursor" maxLength:"2048" doc:"The next of the page before, which also says of which period; absent for the first page."`
}

// livePush is a push that goes on.
type livePush struct {
	Space   string    `json:"space"`
	App     string    `json:"app"`
	Stream  string    `json:"stream"`
	Node    string    `json:"node"`
	Started time.Time `json:"started"`
}

type livePushesInput struct {
	Paging
	StreamFilter
}

var livePushSorting = sorting[livePush]{list: "live pushes", key: func(p *livePush) string {
	return streamKey(p.Space, p.App, p.Stream, p.Node)
}}

// livePushesHere returns the pushes that go on at this node.
func (s *Server) livePushesHere(ctx context.Context, in *livePushesInput) (*Page[livePush], error) {
	var list []livePush
	f, nothing := in.filter(caller(ctx))
	for _, st := range s.Hub.Streams() {
		k, p := st.Key(), st.Publication()
		if p == nil || nothing || f.Space != "" && f.Space != k.Space || f.App != "" && f.App != k.App || f.Stream != "" && f.Stream != k.Name {
			continue
		}
		list = append(list, livePush{k.Space, k.App, k.Name, s.Node, p.Start()})
	}
	pg, err := page(list, in.Paging, livePushSorting)
	return &pg, err
}

// durationsAt is where a page of sums ends: the pushes that go on come first, then
// those that have ended, as the log has them.
type durationsAt struct {
	Since time.Time `json:"s"`
	Until time.Time `json:"u"`
	Now   time.Time `json:"n"`           // of the first page; who ended later was live then
	Live  string    `json:"l,omitempty"` // cursor of the live pushes
	Ended string    `json:"e,omitempty"` // cursor of the log; empty: the live ones are not all counted yet
}

const durationsList = "durations"

func (in *durationsInput) at(now time.Time) (at durationsAt, err error) {
	after, err := (Paging{Cursor: in.Cursor}).after(durationsList)
	switch {
	case err != nil:
	case after == nil:
		at.Now = now
		at.Since, at.Until, err = in.times(now)
	case json.Unmarshal([]byte(after.Key), &at) != nil:
		err = problem(http.StatusBadRequest, kindCursor, "the cursor is not one of this list; begin without")
	}
	return at, err
}

func (at durationsAt) String() string {
	b, err := json.Marshal(at)
	if err != nil {
		panic(err) // of times that no RFC 3339 has, which no parameter is
	}
	return cursor{List: durationsList, Key: string(b)}.String()
}

// sums adds up pushes by the name of their stream.
type sums struct {
	at     *durationsAt
	most   int
	byName map[[3]string]*Duration
}

// count counts a push. It reports whether there was room for its stream.
func (s *sums) count(space, app, name string, from, to time.Time, live bool) bool {
	if from.Before(s.at.Since) {
		from = s.at.Since
	}
	if to.After(s.at.Until) {
		to = s.at.Until
	}
	if !from.Before(to) {
		return true
	}
	d := s.byName[[3]string{space, app, name}]
	if d == nil {
		if len(s.byName) == s.most {
			return false
		}
		d = &Duration{Space: space, App: app, Stream: name}
		s.byName[[3]string{space, app, name}] = d
	}
	d.Seconds += to.Sub(from).Seconds()
	d.Pushes++
	d.Live = d.Live || live
	return true
}

func (s *sums) list() []Duration {
	list := make([]Duration, 0, len(s.byName))
	for _, d := range s.byName {
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b Duration) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.App, b.App), cmp.Compare(a.Stream, b.Stream))
	})
	return list
}

// endedPush is a push in the log.
type endedPush struct {
	seq uint64
	e   event.Event
}

// listDurations adds up the pushes that go on, and those that ended since the
// beginning of the period: one that ended later than the period was on the air in
// it, too. What a page has no room or time for is on the next one, with another
// part of the sums of the same streams perhaps.
func (s *Server) listDurations(ctx context.Context, in *durationsInput) (*durationsOutput, error) {
	at, err := in.at(time.Now())
	if err != nil {
		return nil, err
	}
	out := &durationsOutput{&Durations{Since: at.Since.UTC(), Until: at.Until.UTC()}}
	sum := &sums{&at, in.Limit, make(map[[3]string]*Duration)}
	defer func() { out.Body.Items = sum.list() }()
	f, nothing := in.filter(caller(ctx), event.TypePublishEnded)
	if nothing {
		return out, nil
	}
	if at.Ended == "" {
		ask := &livePushesInput{Paging{in.Limit, at.Live}, in.StreamFilter}
		here, err := s.livePushesHere(ctx, ask)
		if err != nil {
			return nil, err
		}
		live, err := gather(ctx, s, "live pushes", ask, ask.Paging, livePushSorting, here)
		if err != nil {
			return nil, err
		}
		for _, p := range live.Items {
			sum.count(p.Space, p.App, p.Stream, p.Started, at.Now, true) // there is room: a page has no more of them than of streams
		}
		out.Body.Silent = live.Silent
		if live.Next != "" {
			at.Live = live.Next
			out.Body.Next = at.String()
			return out, nil
		}
	}
	pg, err := scan(ctx, s, durationsList, f, Period{at.Since, at.Now}, Paging{scanFacts, at.Ended}, func(e *eventlog.Entry) (endedPush, bool) {
		return endedPush{e.Seq, e.Event}, true
	})
	if err != nil {
		return nil, err
	}
	at.Live, at.Ended = "", pg.Next
	for _, p := range pg.Items {
		if d, ok := p.e.Data.(event.PublishEnded); ok && !sum.count(p.e.Space, p.e.App, p.e.Stream, d.Started, p.e.Time, false) {
			at.Ended = cursor{List: durationsList, Key: strconv.FormatUint(p.seq, 10)}.String()
			break
		}
	}
	if at.Ended != "" {
		out.Body.Next = at.String()
	}
	return out, nil
}

func (s *Server) historyRoutes() {
	shared(s, "live pushes", s.livePushesHere)
	add(s, route{
		ID: "listPushes", Method: http.MethodGet, Path: "/history/pushes", Tag: "History", Summary: "List pushes that have ended, the oldest end first",
		Detail: "A page may have fewer items than its limit, even none, and not be the last one: only a page without next is.",
		Role:   Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listPushes)
	add(s, route{
		ID: "listFailedPushes", Method: http.MethodGet, Path: "/history/failed-pushes", Tag: "History", Summary: "List pushes that were refused, the oldest first",
		Detail: "Pages are as those of listPushes. When very many are refused some are only counted, by facts of the type facts.omitted.",
		Role:   Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listFailedPushes)
	add(s, route{
		ID: "listRecordedFiles", Method: http.MethodGet, Path: "/history/recordings", Tag: "History", Summary: "List recordings that were finished or failed, the oldest first",
		Detail: "Pages are as those of listPushes. What is in the bucket now says listRecordings.",
		Role:   Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listRecorded)
	add(s, route{
		ID: "listDurations", Method: http.MethodGet, Path: "/history/durations", Tag: "History", Summary: "For how long streams were on the air",
		Detail: "Of few streams and pushes it is one page. Where it is more, a stream may be on several pages: its seconds and pushes are to be added up. " +
			"A page may have no items and not be the last one: only a page without next is. The filter is to be the same for all pages.",
		Role: Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listDurations)
}
