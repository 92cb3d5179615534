package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"weir/internal/quality"
	"weir/internal/stats"
	"weir/internal/stream"
)

// StatisticsInput says of what, when and by how much.
type StatisticsInput struct {
	Space  string    `query:"space" maxLength:"128" doc:"Of this space only; a token of one space sees its own."`
	App    string    `query:"app" maxLength:"128" doc:"Of this app of the space only."`
	Stream string    `query:"stream" maxLength:"255" doc:"Of this stream of the app only."`
	From   time.Time `query:"from" doc:"From when on; absent: 60 steps before to."`
	To     time.Time `query:"to" doc:"Until when; absent: now."`
	Step   int       `query:"step" minimum:"60" maximum:"2678400" default:"60" doc:"Seconds of a point: whole minutes, and from an hour on whole hours."`
}

// StatisticsPoint is what happened in one step.
type StatisticsPoint struct {
	Start       time.Time `json:"start"`
	BytesIn     int64     `json:"bytes_in" doc:"Of media published."`
	BytesOut    Bytes     `json:"bytes_out" doc:"Sent to players."`
	Players     Players   `json:"players" doc:"On average."`
	PeakPlayers int64     `json:"peak_players" doc:"Most at a time."`
	Plays       int64     `json:"plays" doc:"Players that came. Those of HLS are told apart by address and User-Agent."`
	PeakStreams int64     `json:"peak_streams" doc:"Most streams published at a time."`
	Published   int64     `json:"published_seconds" doc:"Of all streams together."`
}

// Bytes is a number of bytes by protocol.
type Bytes struct {
	Total int64 `json:"total"`
	RTMP  int64 `json:"rtmp"`
	RTMPS int64 `json:"rtmps"`
	FLV   int64 `json:"flv"`
	WSFLV int64 `json:"ws_flv"`
	HLS   int64 `json:"hls"`
	Other int64 `json:"other"`
}

// Players is a number of players by protocol, on average.
type Players struct {
	Total float64 `json:"total"`
	RTMP  float64 `json:"rtmp"`
	RTMPS float64 `json:"rtmps"`
	FLV   float64 `json:"flv"`
	WSFLV float64 `json:"ws_flv"`
	HLS   float64 `json:"hls" doc:"Estimated from requests for the playlist."`
	Other float64 `json:"other"`
}

type statisticsOutput struct {
	Body struct {
		Points []StatisticsPoint `json:"points" nullable:"false" doc:"The oldest first, without those in which nothing happened."`
	}
}

func (s *Server) getStatistics(ctx context.Context, in *StatisticsInput) (*statisticsOutput, error) {
	c := caller(ctx)
	in.Space = cmp.Or(in.Space, c.Space)
	if !c.Sees(in.Space) {
		return nil, notFound("space", in.Space)
	}
	q := stats.Query{Space: in.Space, App: in.App, Stream: in.Stream, From: in.From, To: in.To, Step: time.Duration(in.Step) * time.Second}
	if q.To.IsZero() {
		q.To = time.Now()
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-60 * q.Step)
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	points, err := s.Stats.Query(ctx, q)
	if bad := (*stats.BadQuery)(nil); errors.As(err, &bad) {
		return nil, invalid(field{"query", bad.Problem})
	}
	if err != nil {
		s.log.Warn("statistics cannot be read", "err", err)
		return nil, away("the statistics cannot be read just now; try again")
	}
	out := &statisticsOutput{}
	out.Body.Points = make([]StatisticsPoint, 0, len(points))
	for i := range points {
		out.Body.Points = append(out.Body.Points, describePoint(&points[i]))
	}
	return out, nil
}

func describePoint(p *stats.Point) StatisticsPoint {
	d := StatisticsPoint{
		Start: p.Start.UTC(), BytesIn: p.In, PeakPlayers: p.Peak, PeakStreams: p.Streams, Published: p.Live,
	}
	b, n := &d.BytesOut, &d.Players
	for i, to := range [len(stream.Protocols)]struct {
		bytes   *int64
		players *float64
	}{{&b.RTMP, &n.RTMP}, {&b.RTMPS, &n.RTMPS}, {&b.FLV, &n.FLV}, {&b.WSFLV, &n.WSFLV}, {&b.HLS, &n.HLS}, {&b.Other, &n.Other}} {
		*to.bytes, *to.players = p.Out[i], p.Players[i]
		b.Total += p.Out[i]
		n.Total += p.Players[i]
		d.Plays += p.Plays[i]
	}
	return d
}

// Alert is something that is wrong with a push.
type Alert struct {
	Space  string    `json:"space"`
	App    string    `json:"app"`
	Stream string    `json:"stream"`
	Node   string    `json:"node" doc:"The node that has raised it."`
	Alert  string    `json:"alert" doc:"no_data, no_key_frame, low_bit_rate, drift, timestamp_jumps, transcode_slow, transcode_failing or transcode_refused."`
	Text   string    `json:"text"`
	Value  float64   `json:"value" doc:"When it was raised: seconds, bit/s or times a minute."`
	Limit  float64   `json:"limit" doc:"Of the same."`
	Since  time.Time `json:"since"`
}

type alertPage struct{ Body Gathered[Alert] }

var alertSorting = sorting[Alert]{list: "alerts", key: func(a *Alert) string {
	return streamKey(a.Space, a.App, a.Stream, a.Node) + " " + a.Alert
}}

func (s *Server) listAlerts(ctx context.Context, in *SpaceFilter) (*alertPage, error) {
	here, err := s.alertsHere(ctx, in)
	if err != nil {
		return nil, err
	}
	p, err := gather(ctx, s, "alerts", in, in.Paging, alertSorting, here)
	return &alertPage{p}, err
}

// alertsHere is listAlerts for this node.
func (s *Server) alertsHere(ctx context.Context, in *SpaceFilter) (*Page[Alert], error) {
	c := caller(ctx)
	var list []Alert
	for key, alerts := range s.Quality.Raised() {
		if !in.wants(c, key.Space) {
			continue
		}
		for i := range alerts {
			list = append(list, s.describeAlert(key, &alerts[i]))
		}
	}
	p, err := page(list, in.Paging, alertSorting)
	return &p, err
}

func (s *Server) describeAlert(key stream.Key, a *quality.Alert) Alert {
	return Alert{key.Space, key.App, key.Name, s.Node, a.Name, a.Text, a.Value, a.Limit, a.Since.UTC()}
}

func (s *Server) statisticsRoutes() {
	shared(s, "alerts", s.alertsHere)
	add(s, route{
		ID: "getStatistics", Method: http.MethodGet, Path: "/statistics", Tag: "Statistics", Summary: "Bytes and players over time",
		Detail: "Of everything, a space, an app or a stream. By steps of less than an hour as far back as minutes are kept, else as hours are.",
		Role:   Viewer, Scope: Filtered, Errors: []int{404, 503},
	}, s.getStatistics)
	add(s, route{
		ID: "listAlerts", Method: http.MethodGet, Path: "/alerts", Tag: "Streams", Summary: "List the alerts that are raised",
		Role: Viewer, Scope: Filtered,
	}, s.listAlerts)
}
