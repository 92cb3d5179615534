package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"weir/internal/api"
	"weir/internal/event"
)

// of is which facts or pushes a command is about.
type of struct {
	Space  string `help:"Of this space only."`
	App    string `help:"Of this app only."`
	Stream string `help:"Of streams of this name only."`
}

type events struct {
	remote
	of
	Type   []string `help:"Of these types only, such as publish.ended; docs/events.md has all."`
	Since  string   `placeholder:"TIME" help:"From then on: how long ago, such as 2h, or a time, such as 2026-01-31T20:00:00Z. If not given, a day ago; with -f from now on."`
	Until  string   `placeholder:"TIME" help:"Before then; if not given, until now."`
	Follow bool     `short:"f" help:"Go on with what happens from now on."`
	Cursor string   `placeholder:"NAME" help:"Begin behind what the last command with this name has printed, and commit how far this one comes to the server."`
	Limit  int      `help:"How many at most; if not given, all."`
}

// Run prints facts: one a line, or with -o json each as one line of JSON.
func (e *events) Run(ctx context.Context, stdout io.Writer) error {
	c := &e.client
	q := set("space", e.Space, "app", e.App, "stream", e.Stream, "type", strings.Join(e.Type, ","))
	if err := times(q, e.Since, e.Until); err != nil {
		return err
	}
	if e.Until != "" && (e.Follow || e.Cursor != "") {
		return errors.New("--until makes no sense with -f and --cursor")
	}
	if e.Cursor != "" {
		q.Set("cursor_name", e.Cursor)
	}
	switch {
	case e.Follow && e.Cursor != "":
		return e.goOn(ctx, stdout, q)
	case e.Follow:
		return c.follow(ctx, q, func(_ uint64, f event.Event, raw []byte) { e.print(stdout, &f, raw) })
	}
	list, err := all[api.Fact](ctx, c, "/events", q, e.Limit)
	if err != nil {
		return err
	}
	for i := range list {
		raw, err := json.Marshal(list[i].Event)
		if err != nil {
			return err
		}
		if err := e.print(stdout, &list[i].Event, raw); err != nil {
			return err
		}
	}
	if e.Cursor != "" && len(list) > 0 {
		return e.commit(ctx, &list[len(list)-1].Seq)
	}
	return nil
}

// goOn follows facts from the cursor on. What is printed is committed every
// second and at the end, so that who is killed prints some of them again.
func (e *events) goOn(ctx context.Context, stdout io.Writer, q url.Values) error {
	if e.Since == "" { // what happens until the first commit is not to be missed by the next command
		if err := e.commit(ctx, nil); err != nil {
			return err
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	var printed atomic.Uint64
	committed := uint64(0)
	commit := func(ctx context.Context) error {
		n := printed.Load()
		if n == committed {
			return nil
		}
		err := e.commit(ctx, &n)
		if err == nil {
			committed = n
		}
		return err
	}
	ended := make(chan struct{})
	go func() { // ends with ctx
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := commit(ctx); refused(err) {
					end(err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	err := e.follow(ctx, q, func(seq uint64, f event.Event, raw []byte) {
		if ctx.Err() != nil {
			return
		}
		if err := e.print(stdout, &f, raw); err != nil {
			end(err)
			return
		}
		printed.Store(seq)
	})
	end(err)
	<-ended
	if err = context.Cause(ctx); refused(err) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, commit(ctx))
}

// commit commits that everything up to seq has been printed. Without it the
// cursor is made, if there is none.
func (e *events) commit(ctx context.Context, seq *uint64) error {
	var types []event.Type
	for _, t := range e.Type {
		types = append(types, event.Type(t))
	}
	in := struct {
		Position *uint64 `json:"position,omitempty"`
		Log      string  `json:"log"`
	}{seq, api.LogOf(types)}
	if err := e.do(ctx, http.MethodPut, "/event-cursors/"+url.PathEscape(e.Cursor), nil, in, nil); err != nil {
		return fmt.Errorf("commit the cursor %s: %w", e.Cursor, err)
	}
	return nil
}

// refused reports whether a server has said something that it will say again.
func refused(err error) bool {
	told := (*problemError)(nil)
	return errors.As(err, &told) && told.Status < 500 && told.Status != http.StatusTooManyRequests
}

// times puts a period into a query.
func times(q url.Values, since, until string) error {
	for name, s := range map[string]string{"since": since, "until": until} {
		if s == "" {
			continue
		}
		t, err := sinceTime(s, time.Now())
		if err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
		q.Set(name, t.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// print prints a fact, whose JSON is raw.
func (e *events) print(w io.Writer, f *event.Event, raw []byte) error {
	if e.Output == "json" {
		_, err := fmt.Fprintf(w, "%s\n", raw)
		return err
	}
	about := "-"
	if f.Space != "" {
		about = strings.TrimRight(f.Space+"/"+f.App+"/"+f.Stream, "/")
	}
	_, err := fmt.Fprintf(w, "%s  %-18s %s  %s\n", local(f.Time), f.Type, printable(about), printable(summary(f)))
	return err
}

// summary is what a fact says, in a few words.
func summary(f *event.Event) string {
	switch d := f.Data.(type) {
	case event.PublishRequested:
		return fmt.Sprintf("%s by %s", d.Addr, d.Protocol)
	case event.PublishRefused:
		return fmt.Sprintf("%s: %s", d.Addr, d.Message)
	case event.PublishStarted:
		return fmt.Sprintf("%s by %s at %s", d.Addr, d.Protocol, d.Domain)
	case event.PublishEnded:
		return fmt.Sprintf("%s after %s, %s", d.Reason, age(f.Time.Sub(d.Started)), amount(d.Counters.Bytes, "B"))
	case event.PlayEnded:
		return fmt.Sprintf("%s by %s: %s after %s, %s", d.Addr, d.Protocol, d.Reason, age(f.Time.Sub(d.Started)), amount(d.Bytes, "B"))
	case event.RecordStarted:
		return d.Bucket + ": " + d.Key
	case event.RecordFinished:
		return fmt.Sprintf("%s: %s, %s, %s", d.Bucket, d.Key, age(d.Duration), amount(d.Size, "B"))
	case event.RecordFailed:
		return d.Bucket + ": " + d.Key + ": " + d.Errmsg
	case event.ClipRequested:
		return fmt.Sprintf("%s: %s of %s", d.Name, age(d.To-d.From), d.Of)
	case event.ClipFinished:
		return fmt.Sprintf("%s: %s, %s, %s", d.Bucket, d.Key, age(d.Duration), amount(d.Size, "B"))
	case event.ClipFailed:
		return d.Name + ": " + d.Errmsg
	case event.SnapshotTaken:
		return d.Bucket + ": " + d.Key
	case event.SnapshotFailed:
		return d.Bucket + ": " + d.Key + ": " + d.Errmsg
	case event.CallbackAttempted:
		return fmt.Sprintf("%s of %s, attempt %d: %s %d %s", d.URL, d.OfType, d.Attempt, d.Outcome, d.Status, d.Error)
	case event.PolicyChanged:
		if d.Version == 0 { // it is no document: what is forbidden
			return fmt.Sprintf("%s by %s: %s", d.Document, d.By, d.Note)
		}
		return fmt.Sprintf("%s is version %d by %s %s", d.Document, d.Version, d.By, d.Note)
	case event.APIWritten:
		return fmt.Sprintf("%s %s by %s from %s: %d", d.Method, d.Path, d.Token, d.Addr, d.Status)
	case event.AlertRaised:
		return d.Alert + ": " + d.Text
	case event.AlertCleared:
		return d.Alert + " is over"
	case event.NodeStarted:
		return "weir " + d.Version + " on " + f.Node
	case event.NodeStopped:
		return d.Reason + " on " + f.Node
	case event.Omitted:
		return fmt.Sprintf("%d of %s", d.Count, d.Of)
	}
	return ""
}

// follow calls f for each fact as it happens, until ctx ends. A connection that
// is lost is made again, behind the last fact that came.
func (c *client) follow(ctx context.Context, q url.Values, f func(seq uint64, e event.Event, raw []byte)) error {
	last := ""
	for pause := time.Duration(0); ; {
		header := http.Header{}
		if last != "" {
			header.Set("Last-Event-ID", last)
		}
		resp, err := c.open(ctx, http.MethodGet, "/events/feed?"+q.Encode(), header, nil)
		if refused(err) {
			return err
		}
		if err != nil && last == "" {
			return err
		}
		if err == nil {
			if q.Get("since") == "" && q.Get("cursor_name") == "" { // if the first connection is lost before a fact has come
				q.Set("since", time.Now().UTC().Format(time.RFC3339Nano))
			}
			pause = 0
			last, err = feed(resp.Body, last, f)
			resp.Body.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		if told := (*problemError)(nil); err != nil && !errors.As(err, &told) && pause > 30*time.Second {
			return err
		}
		pause = min(max(2*pause, time.Second), time.Minute)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// feed reads Server-Sent Events until they end, and returns the id of the last.
func feed(r io.Reader, last string, f func(seq uint64, e event.Event, raw []byte)) (string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 2<<20)
	id, data := last, ""
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "data":
			data = value
		case "":
			var e event.Event
			seq, err := strconv.ParseUint(id, 10, 64)
			if data != "" && id != last && err == nil && json.Unmarshal([]byte(data), &e) == nil {
				f(seq, e, []byte(data))
			}
			last, data = id, ""
		}
	}
	return last, lines.Err()
}

type history struct {
	remote
	of
	Since  string `default:"24h" placeholder:"TIME" help:"From then on: how long ago, or a time (${default})."`
	Until  string `placeholder:"TIME" help:"Before then; if not given, until now."`
	Failed bool   `help:"Pushes that were refused." xor:"of"`
	Sums   bool   `help:"For how long each stream was on the air." xor:"of"`
	Files  bool   `name:"recordings" help:"Recordings that were finished, or failed." xor:"of"`
	Limit  int    `help:"How many at most; if not given, all."`
}

// Run lists pushes that are over.
func (h *history) Run(ctx context.Context, stdout io.Writer) error {
	c := &h.client
	q := set("space", h.Space, "app", h.App, "stream", h.Stream)
	if err := times(q, h.Since, h.Until); err != nil {
		return err
	}
	switch {
	case h.Failed:
		list, err := all[api.FailedPush](ctx, c, "/history/failed-pushes", q, h.Limit)
		if err != nil {
			return err
		}
		return h.show(stdout, list, "TIME STREAM CLIENT REASON TOLD", func(row func(...any)) {
			for _, p := range list {
				row(local(p.Time), p.Domain+"/"+p.App+"/"+p.Stream, address(p.Addr), p.Reason, p.Message)
			}
		})
	case h.Files:
		list, err := all[api.RecordedFile](ctx, c, "/history/recordings", q, h.Limit)
		if err != nil {
			return err
		}
		return h.show(stdout, list, "TIME STREAM FORMAT MEDIA SIZE BUCKET KEY NOTE", func(row func(...any)) {
			for _, f := range list {
				row(local(f.Time), f.Space+"/"+f.App+"/"+f.Stream, f.Format, age(seconds(f.Seconds)), amount(f.Size, "B"), f.Bucket, f.Key, f.Error)
			}
		})
	case h.Sums:
		sums, err := c.durations(ctx, q)
		if err != nil {
			return err
		}
		if h.Limit > 0 {
			sums = sums[:min(h.Limit, len(sums))]
		}
		return h.show(stdout, sums, "STREAM TIME PUSHES LIVE", func(row func(...any)) {
			for _, d := range sums {
				row(d.Space+"/"+d.App+"/"+d.Stream, age(time.Duration(d.Seconds*float64(time.Second))), d.Pushes, d.Live)
			}
		})
	}
	list, err := all[api.PushInfo](ctx, c, "/history/pushes", q, h.Limit)
	if err != nil {
		return err
	}
	return h.show(stdout, list, "STARTED TIME STREAM PUBLISHER END BYTES VIDEO", func(row func(...any)) {
		for _, p := range list {
			video := p.Brought.VideoCodec
			if p.Brought.Width > 0 {
				video += fmt.Sprintf(" %dx%d", p.Brought.Width, p.Brought.Height)
			}
			row(local(p.Started), age(time.Duration(p.Seconds*float64(time.Second))), p.Space+"/"+p.App+"/"+p.Stream, address(p.Addr), p.Reason, amount(p.Brought.Bytes, "B"), video)
		}
	})
}

// durations adds up the sums of all pages, by stream.
func (c *client) durations(ctx context.Context, q url.Values) ([]api.Duration, error) {
	parts, err := all[api.Duration](ctx, c, "/history/durations", q, 0)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(parts, func(a, b api.Duration) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.App, b.App), cmp.Compare(a.Stream, b.Stream))
	})
	list := []api.Duration{}
	for _, d := range parts {
		if n := len(list) - 1; n >= 0 && list[n].Space == d.Space && list[n].App == d.App && list[n].Stream == d.Stream {
			list[n].Seconds += d.Seconds
			list[n].Pushes += d.Pushes
			list[n].Live = list[n].Live || d.Live
			continue
		}
		list = append(list, d)
	}
	return list, nil
}

type statistics struct {
	remote
	Name  string        `arg:"" optional:"" placeholder:"NAME" help:"Of a SPACE, SPACE/APP or SPACE/APP/STREAM; if not given, of everything."`
	Since string        `default:"1h" placeholder:"TIME" help:"From then on: how long ago, or a time (${default})."`
	Until string        `placeholder:"TIME" help:"Before then; if not given, until now."`
	Step  time.Duration `default:"1m" help:"Of a line: whole minutes, from an hour on whole hours (${default})."`
}

// Run prints bytes and players over time.
func (s *statistics) Run(ctx context.Context, stdout io.Writer) error {
	parts := strings.Split(s.Name, "/")
	if len(parts) > 3 {
		return fmt.Errorf("%q is not SPACE, SPACE/APP or SPACE/APP/STREAM", s.Name)
	}
	parts = append(parts, "", "")
	q := url.Values{}
	if err := times(q, s.Since, s.Until); err != nil {
		return err
	}
	ask := set("space", parts[0], "app", parts[1], "stream", parts[2], "from", q.Get("since"), "to", q.Get("until"), "step", fmt.Sprint(int(s.Step.Seconds())))
	var out struct {
		Points []api.StatisticsPoint `json:"points"`
	}
	if err := s.do(ctx, http.MethodGet, "/statistics", ask, nil, &out); err != nil {
		return err
	}
	return s.show(stdout, out.Points, "FROM IN OUT PLAYERS PEAK PLAYS STREAMS PUBLISHED", func(row func(...any)) {
		for _, p := range out.Points {
			row(local(p.Start), amount(p.BytesIn, "B"), amount(p.BytesOut.Total, "B"), fmt.Sprintf("%.3g", p.Players.Total), p.PeakPlayers, p.Plays, p.PeakStreams,
				age(time.Duration(p.Published)*time.Second))
		}
	})
}

type nodes struct{ remote }

// Run lists the servers.
func (n *nodes) Run(ctx context.Context, stdout io.Writer) error {
	c := &n.client
	list, err := all[api.NodeInfo](ctx, c, "/nodes", url.Values{}, 0)
	if err != nil {
		return err
	}
	return n.show(stdout, list, "NODE VERSION UP STREAMS PLAYERS IN OUT CPU MEMORY STATE", func(row func(...any)) {
		for _, i := range list {
			state := "ready"
			if !i.Ready {
				state = "not ready"
			}
			if len(i.Degraded) > 0 {
				state = "without " + strings.Join(i.Degraded, ", ")
			}
			row(i.Name, i.Version, age(i.Seen.Sub(i.Started)), i.Streams, i.Players, amount(i.BitsIn, "bit/s"), amount(i.BitsOut, "bit/s"), fmt.Sprintf("%.2f", i.CPU), amount(i.Memory, "B"), state)
		}
	})
}
