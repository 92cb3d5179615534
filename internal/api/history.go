package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
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
	Seconds float64 `json:"seconds" doc:"In the period, of all its pushes together."`
	Pushes  int     `json:"pushes" doc:"That were on the air in the period."`
	Live    bool    `json:"live" doc:"One goes on; its seconds until now are counted."`
}

type durationsOutput struct {
	Body struct {
		Since time.Time  `json:"since"`
		Until time.Time  `json:"until"`
		Items []Duration `json:"items" nullable:"false" doc:"By space, app and stream."`
	}
}

type durationsInput struct {
	StreamFilter
	Period
}

// maxDurations is of how many streams the durations are added up at once.
const maxDurations = 10_000

// listDurations adds up the pushes that ended since the beginning of the
// period: one that ended later than the period was on the air in it, too.
func (s *Server) listDurations(ctx context.Context, in *durationsInput) (*durationsOutput, error) {
	now := time.Now()
	since, until, err := in.times(now)
	if err != nil {
		return nil, err
	}
	out := &durationsOutput{}
	out.Body.Since, out.Body.Until, out.Body.Items = since.UTC(), until.UTC(), []Duration{}
	c := caller(ctx)
	f, nothing := in.filter(c, event.TypePublishEnded)
	if nothing {
		return out, nil
	}
	type name struct{ space, app, stream string }
	sums := map[name]*Duration{}
	count := func(n name, from, to time.Time, live bool) bool {
		if from.Before(since) {
			from = since
		}
		if to.After(until) {
			to = until
		}
		if !from.Before(to) {
			return true
		}
		d := sums[n]
		if d == nil {
			if len(sums) == maxDurations {
				return false
			}
			d = &Duration{Space: n.space, App: n.app, Stream: n.stream}
			sums[n] = d
		}
		d.Seconds += to.Sub(from).Seconds()
		d.Pushes++
		d.Live = d.Live || live
		return true
	}
	tooMuch := invalid(field{"query.since", "the period has too many pushes: choose a shorter one, or a space, app or stream"})
	for _, st := range s.Hub.Streams() {
		k := st.Key()
		p := st.Publication()
		if p == nil || !c.Sees(k.Space) || f.Space != "" && f.Space != k.Space || f.App != "" && f.App != k.App || f.Stream != "" && f.Stream != k.Name {
			continue
		}
		if !count(name{k.Space, k.App, k.Name}, p.Start(), now, true) {
			return nil, tooMuch
		}
	}
	page := Paging{Limit: scanFacts}
	for {
		pg, err := scan(ctx, s, "durations", f, Period{since, now}, page, func(e *eventlog.Entry) (*event.Event, bool) { return &e.Event, true })
		if err != nil {
			return nil, err
		}
		for _, e := range pg.Items {
			if d, ok := e.Data.(event.PublishEnded); ok && !count(name{e.Space, e.App, e.Stream}, d.Started, e.Time, false) {
				return nil, tooMuch
			}
		}
		if page.Cursor = pg.Next; page.Cursor == "" {
			break
		}
		if time.Since(now) > s.scanTime {
			return nil, tooMuch
		}
	}
	for _, d := range sums {
		out.Body.Items = append(out.Body.Items, *d)
	}
	slices.SortFunc(out.Body.Items, func(a, b Duration) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.App, b.App), cmp.Compare(a.Stream, b.Stream))
	})
	return out, nil
}

func (s *Server) historyRoutes() {
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
		Role: Viewer, Scope: Filtered, Errors: []int{503},
	}, s.listDurations)
}
