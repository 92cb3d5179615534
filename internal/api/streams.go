package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"weir/internal/access"
	"weir/internal/media/av"
	"weir/internal/stream"
)

// StreamInfo is a stream that is on the air, or held for its publisher to
// return.
type StreamInfo struct {
	Space     string         `json:"space"`
	App       string         `json:"app"`
	Stream    string         `json:"stream"`
	Node      string         `json:"node" doc:"The node that has its publisher."`
	Live      bool           `json:"live" doc:"False while it is held for its publisher to return."`
	Since     time.Time      `json:"since" doc:"When it went on the air."`
	Seconds   float64        `json:"seconds" doc:"How long ago that is."`
	Publisher *PublisherInfo `json:"publisher,omitempty" doc:"Absent while the stream is held."`
	Video     *VideoInfo     `json:"video,omitempty" doc:"Absent without video."`
	Audio     *AudioInfo     `json:"audio,omitempty" doc:"Absent without audio."`
	Bytes     int64          `json:"bytes" doc:"Of media, since it went on the air."`
	Players   PlayerCount    `json:"players"`
}

// PublisherInfo is who publishes a stream.
type PublisherInfo struct {
	Session  string         `json:"session" doc:"ID of the session; it can be ended by it."`
	Sequence string         `json:"sequence" doc:"Names the push in its facts and callbacks."`
	Protocol string         `json:"protocol"`
	Addr     netip.AddrPort `json:"addr" doc:"Address of the publisher."`
	Domain   string         `json:"domain" doc:"Domain by which it came."`
	Encoder  string         `json:"encoder,omitempty" doc:"What it says that it is."`
	Since    time.Time      `json:"since" doc:"When this push began."`
}

// VideoInfo is the video of a stream.
type VideoInfo struct {
	Codec  string `json:"codec" doc:"Name of the codec as FFmpeg has it."`
	Width  int    `json:"width" doc:"Pixels; 0 while unknown."`
	Height int    `json:"height" doc:"Pixels; 0 while unknown."`
	Frames int64  `json:"frames" doc:"Since it went on the air."`
}

// AudioInfo is the audio of a stream.
type AudioInfo struct {
	Codec      string `json:"codec" doc:"Name of the codec as FFmpeg has it."`
	SampleRate int    `json:"sample_rate" doc:"Samples a second; 0 while unknown."`
}

// PlayerCount is how many play a stream, by protocol.
type PlayerCount struct {
	Total int `json:"total"`
	RTMP  int `json:"rtmp"`
	RTMPS int `json:"rtmps"`
	FLV   int `json:"flv"`
	WSFLV int `json:"ws_flv"`
	HLS   int `json:"hls" doc:"Estimated from requests for the playlist."`
}

// count adds n players of a protocol.
func (p *PlayerCount) count(protocol string, n int) {
	p.Total += n
	switch protocol {
	case access.RTMP:
		p.RTMP += n
	case access.RTMPS:
		p.RTMPS += n
	case access.FLV:
		p.FLV += n
	case access.WSFLV:
		p.WSFLV += n
	case access.HLS:
		p.HLS += n
	}
}

// players counts the players of all streams at one moment.
func (s *Server) players() map[stream.Key]*PlayerCount {
	all := make(map[stream.Key]*PlayerCount)
	of := func(k stream.Key) *PlayerCount {
		if all[k] == nil {
			all[k] = &PlayerCount{}
		}
		return all[k]
	}
	for k, by := range s.Sessions.Players() {
		for protocol, n := range by {
			of(k).count(protocol, n)
		}
	}
	for k, n := range s.HLS.Players() {
		of(k).count(access.HLS, n)
	}
	return all
}

// describeStream makes the description of st.
func (s *Server) describeStream(st *stream.Stream, players *PlayerCount, now time.Time) StreamInfo {
	i := st.Info()
	d := StreamInfo{
		Space: i.Key.Space, App: i.Key.App, Stream: i.Key.Name, Node: s.Node,
		Live: i.Live, Since: i.Start.UTC(), Seconds: now.Sub(i.Start).Seconds(), Bytes: i.Bytes,
	}
	if p := st.Publication(); p != nil {
		push := p.Push()
		c := &push.Client
		encoder := c.FlashVer
		if encoder == "" {
			encoder = c.UserAgent
		}
		d.Publisher = &PublisherInfo{
			Session: push.Session, Sequence: push.Sequence, Protocol: c.Protocol, Addr: c.Addr, Domain: c.Domain,
			Encoder: encoder, Since: p.Start().UTC(),
		}
	}
	if i.Video != av.Unknown {
		d.Video = &VideoInfo{i.Video.String(), i.Width, i.Height, i.Frames}
	}
	if i.Audio != av.Unknown {
		d.Audio = &AudioInfo{i.Audio.String(), i.Rate}
	}
	if players != nil {
		d.Players = *players
	}
	return d
}

// StreamsInput says which streams to list, and how.
type StreamsInput struct {
	Paging
	Space   string `query:"space" maxLength:"128" doc:"Of this space only."`
	App     string `query:"app" maxLength:"128" doc:"Of this app only."`
	Prefix  string `query:"prefix" maxLength:"255" doc:"Whose names begin so."`
	Live    bool   `query:"live" doc:"Without those that are held for their publisher to return."`
	Players int    `query:"min_players" minimum:"0" doc:"With at least so many players."`
	Order   string `query:"order" enum:"name,since,-since,players,-players,bytes,-bytes" default:"name" doc:"What to sort by; with - the greatest first."`
}

type streamPage struct{ Body Page[StreamInfo] }

// orders are the ways to sort streams.
var orders = map[string]func(*StreamInfo) float64{
	"name":    nil,
	"since":   func(d *StreamInfo) float64 { return float64(d.Since.UnixMicro()) },
	"players": func(d *StreamInfo) float64 { return float64(d.Players.Total) },
	"bytes":   func(d *StreamInfo) float64 { return float64(d.Bytes) },
}

func (s *Server) listStreams(ctx context.Context, in *StreamsInput) (*streamPage, error) {
	c, now := caller(ctx), time.Now()
	players := s.players()
	var list []StreamInfo
	for _, st := range s.Hub.Streams() {
		k := st.Key()
		switch {
		case !c.Sees(k.Space),
			in.Space != "" && in.Space != k.Space,
			in.App != "" && in.App != k.App,
			!strings.HasPrefix(k.Name, in.Prefix):
			continue
		}
		d := s.describeStream(st, players[k], now)
		if in.Live && !d.Live || d.Players.Total < in.Players {
			continue
		}
		list = append(list, d)
	}
	order, desc := strings.CutPrefix(in.Order, "-")
	p, err := page(list, in.Paging, sorting[StreamInfo]{
		list: "streams " + in.Order, desc: desc, value: orders[order],
		key: func(d *StreamInfo) string { return d.Space + "/" + d.App + "/" + d.Stream },
	})
	return &streamPage{p}, err
}

// StreamPath names a stream.
type StreamPath struct {
	Space  string `path:"space" maxLength:"128" example:"default" doc:"Name of the space."`
	App    string `path:"app" maxLength:"128" example:"live" doc:"Name of the app."`
	Stream string `path:"stream" maxLength:"255" example:"demo" doc:"Name of the stream."`
}

func (p *StreamPath) key() stream.Key { return stream.Key{Space: p.Space, App: p.App, Name: p.Stream} }

// find returns the stream of that name, or the problem that there is none.
func (s *Server) find(p *StreamPath) (*stream.Stream, error) {
	if st := s.Hub.Find(p.key()); st != nil {
		return st, nil
	}
	return nil, notFound("stream on the air", p.key().String())
}

type streamOutput struct{ Body StreamInfo }

func (s *Server) getStream(_ context.Context, in *StreamPath) (*streamOutput, error) {
	st, err := s.find(in)
	if err != nil {
		return nil, err
	}
	return &streamOutput{s.describeStream(st, s.players()[st.Key()], time.Now())}, nil
}

func (s *Server) endPublisher(_ context.Context, in *StreamPath) (*struct{}, error) {
	if st := s.Hub.Find(in.key()); st != nil {
		if p := st.Publication(); p != nil {
			p.End(stream.EndKicked)
		}
	}
	return nil, nil
}

type endedOutput struct {
	Body struct {
		Ended int `json:"ended" doc:"How many were ended."`
	}
}

func (s *Server) endPlayers(_ context.Context, in *StreamPath) (*endedOutput, error) {
	out := &endedOutput{}
	out.Body.Ended = s.Sessions.KickPlayers(in.key())
	return out, nil
}

func (s *Server) streamRoutes() {
	add(s, route{
		ID: "listStreams", Method: http.MethodGet, Path: "/streams", Tag: "Streams", Summary: "List the streams on the air",
		Role: Viewer, Scope: Filtered,
	}, s.listStreams)
	add(s, route{
		ID: "getStream", Method: http.MethodGet, Path: "/streams/{space}/{app}/{stream}", Tag: "Streams", Summary: "Describe a stream on the air",
		Role: Viewer, Scope: InSpace,
	}, s.getStream)
	add(s, route{
		ID: "endPublisher", Method: http.MethodDelete, Path: "/streams/{space}/{app}/{stream}/publisher", Tag: "Streams",
		Summary: "End the push of a stream",
		Detail: "The encoder is told that the owner has ended it, and the players end with it. Most encoders come back at once: " +
			"to keep one away, forbid the stream. A stream that nobody pushes is no error.",
		Role: Operator, Scope: InSpace,
	}, s.endPublisher)
	add(s, route{
		ID: "endPlayers", Method: http.MethodDelete, Path: "/streams/{space}/{app}/{stream}/players", Tag: "Streams",
		Summary: "End all players of a stream",
		Detail:  "Players over RTMP, HTTP-FLV and WebSocket-FLV are disconnected. One of HLS has no connection that lasts: to keep those away, forbid the stream.",
		Role:    Operator, Scope: InSpace,
	}, s.endPlayers)
}
