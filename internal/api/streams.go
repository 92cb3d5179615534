package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

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
	BitRate   int64          `json:"bit_rate" doc:"Of the last seconds, bit/s."`
	Bytes     int64          `json:"bytes" doc:"Of media, since it went on the air."`
	BytesOut  int64          `json:"bytes_out" doc:"Sent to players, since it went on the air."`
	RateOut   Rates          `json:"bit_rate_out" doc:"At which it is sent to players, bit/s of the last seconds."`
	Jumps     int64          `json:"jumps" doc:"Of the publishers' clocks, since it went on the air."`
	Drift     float64        `json:"drift" doc:"Seconds by which the sound has come to be ahead of the picture in this push."`
	Lead      float64        `json:"lead" doc:"Seconds by which the publisher's clock has come to be ahead of the server's in this push."`
	Players   PlayerCount    `json:"players"`
	Alerts    []Alert        `json:"alerts" nullable:"false" doc:"What is wrong with the push."`
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

// VideoInfo is the video of a stream. What is not known yet is 0.
type VideoInfo struct {
	Codec       string  `json:"codec" doc:"FFmpeg's name of the codec."`
	Profile     int     `json:"profile,omitempty" doc:"As the codec numbers its profiles."`
	Level       int     `json:"level,omitempty" doc:"As the codec numbers its levels."`
	Width       int     `json:"width" doc:"Pixels."`
	Height      int     `json:"height" doc:"Pixels."`
	FrameRate   float64 `json:"frame_rate" doc:"Frames a second as they arrive."`
	Declared    float64 `json:"declared_frame_rate,omitempty" doc:"Frames a second as the codec's configuration or the metadata say."`
	Frames      int64   `json:"frames" doc:"Since it went on the air."`
	GOP         int     `json:"gop" doc:"Frames of the newest whole group of pictures."`
	KeyInterval float64 `json:"key_interval" doc:"Seconds between the two newest key frames."`
	SinceKey    float64 `json:"since_key" doc:"Seconds since the last key frame."`
}

// AudioInfo is the audio of a stream. What is not known yet is 0.
type AudioInfo struct {
	Codec      string `json:"codec" doc:"FFmpeg's name of the codec."`
	SampleRate int    `json:"sample_rate" doc:"Samples a second."`
	Channels   int    `json:"channels"`
	Frames     int64  `json:"frames" doc:"Since it went on the air."`
}

// PlayerCount is how many play a stream, by protocol.
type PlayerCount struct {
	Total int64 `json:"total"`
	RTMP  int64 `json:"rtmp"`
	RTMPS int64 `json:"rtmps"`
	FLV   int64 `json:"flv"`
	WSFLV int64 `json:"ws_flv"`
	HLS   int64 `json:"hls" doc:"Estimated from requests for the playlist."`
	Other int64 `json:"other"`
}

// Rates is a bit rate by protocol, bit/s.
type Rates struct {
	Total int64 `json:"total"`
	RTMP  int64 `json:"rtmp"`
	RTMPS int64 `json:"rtmps"`
	FLV   int64 `json:"flv"`
	WSFLV int64 `json:"ws_flv"`
	HLS   int64 `json:"hls"`
	Other int64 `json:"other"`
}

// ratesOf returns n, which is in the order of stream.Protocols.
func ratesOf(n [len(stream.Protocols)]int64) Rates {
	var r Rates
	for i, to := range [...]*int64{&r.RTMP, &r.RTMPS, &r.FLV, &r.WSFLV, &r.HLS, &r.Other} {
		*to = n[i]
		r.Total += n[i]
	}
	return r
}

// playerCount returns n, which is in the order of stream.Protocols.
func playerCount(n [len(stream.Protocols)]int64) PlayerCount {
	var p PlayerCount
	for i, to := range [...]*int64{&p.RTMP, &p.RTMPS, &p.FLV, &p.WSFLV, &p.HLS, &p.Other} {
		*to = n[i]
		p.Total += n[i]
	}
	return p
}

// describeStream makes the description of st.
func (s *Server) describeStream(st *stream.Stream, now time.Time) StreamInfo {
	i := st.Info()
	d := StreamInfo{
		Space: i.Key.Space, App: i.Key.App, Stream: i.Key.Name, Node: s.Node,
		Live: i.Live, Since: i.Start.UTC(), Seconds: now.Sub(i.Start).Seconds(),
		BitRate: i.BitRate, Bytes: i.Bytes, Jumps: i.Jumps, Drift: i.Drift.Seconds(), Lead: i.Lead.Seconds(),
		Players: playerCount(i.Traffic.Players), RateOut: ratesOf(s.Quality.Sent(i.Key)),
	}
	for _, n := range i.Traffic.Out {
		d.BytesOut += n
	}
	alerts := s.Quality.Alerts(i.Key)
	d.Alerts = make([]Alert, 0, len(alerts))
	for a := range alerts {
		d.Alerts = append(d.Alerts, s.describeAlert(i.Key, &alerts[a]))
	}
	if i.Live && i.Push != nil {
		c := &i.Push.Client
		d.Publisher = &PublisherInfo{
			Session: i.Push.Session, Sequence: i.Push.Sequence, Protocol: c.Protocol, Addr: c.Addr, Domain: c.Domain,
			Encoder: cmp.Or(c.FlashVer, c.UserAgent), Since: i.Pushed.UTC(),
		}
	}
	if v := &i.Video; v.Codec != av.Unknown {
		d.Video = &VideoInfo{
			Codec: v.Codec.String(), Profile: v.Profile, Level: v.Level, Width: v.Width, Height: v.Height,
			FrameRate: v.Measured, Declared: v.Declared, Frames: v.Frames,
			GOP: v.GOP, KeyInterval: v.KeyInterval.Seconds(), SinceKey: v.SinceKey.Seconds(),
		}
	}
	if a := &i.Audio; a.Codec != av.Unknown {
		d.Audio = &AudioInfo{a.Codec.String(), a.SampleRate, a.Channels, a.Frames}
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
	Players int64  `query:"min_players" minimum:"0" doc:"With at least so many players."`
	BitRate int64  `query:"min_bit_rate" minimum:"0" doc:"With at least so many bit/s."`
	Order   string `query:"order" enum:"name,since,-since,players,-players,bit_rate,-bit_rate,bytes,-bytes" default:"name" doc:"What to sort by; with - the greatest first."`
}

type streamPage struct{ Body Gathered[StreamInfo] }

// orders are the ways to sort streams.
var orders = map[string]func(*StreamInfo) float64{
	"name":     nil,
	"since":    func(d *StreamInfo) float64 { return float64(d.Since.UnixMicro()) },
	"players":  func(d *StreamInfo) float64 { return float64(d.Players.Total) },
	"bit_rate": func(d *StreamInfo) float64 { return float64(d.BitRate) },
	"bytes":    func(d *StreamInfo) float64 { return float64(d.Bytes) },
}

// streamSorting sorts streams as in says. Several nodes may have one of a name:
// one that is live there, and others that hold it for its publisher to return.
func streamSorting(in *StreamsInput) sorting[StreamInfo] {
	order, desc := strings.CutPrefix(in.Order, "-")
	return sorting[StreamInfo]{
		list: "streams " + in.Order, desc: desc, value: orders[order],
		key: func(d *StreamInfo) string { return streamKey(d.Space, d.App, d.Stream, d.Node) },
	}
}

// streamKey sorts by name and then by node. No name has a space in it.
func streamKey(space, app, name, node string) string {
	return space + "/" + app + "/" + name + " " + node
}

func (s *Server) listStreams(ctx context.Context, in *StreamsInput) (*streamPage, error) {
	here, err := s.streamsHere(ctx, in)
	if err != nil {
		return nil, err
	}
	p, err := gather(ctx, s, "streams", in, in.Paging, streamSorting(in), here)
	return &streamPage{p}, err
}

// namedStream is a stream with what lists are sorted by.
type namedStream struct {
	st   *stream.Stream
	name string
}

// streamsHere is listStreams for this node.
func (s *Server) streamsHere(ctx context.Context, in *StreamsInput) (*Page[StreamInfo], error) {
	c, now := caller(ctx), time.Now()
	var named []namedStream
	for _, st := range s.Hub.Streams() {
		k := st.Key()
		switch {
		case !c.Sees(k.Space),
			in.Space != "" && in.Space != k.Space,
			in.App != "" && in.App != k.App,
			!strings.HasPrefix(k.Name, in.Prefix):
			continue
		}
		named = append(named, namedStream{st, streamKey(k.Space, k.App, k.Name, s.Node)})
	}
	if in.Order == "name" && !in.Live && in.Players == 0 && in.BitRate == 0 {
		// Only those of the page need be described.
		p, err := page(named, in.Paging, sorting[namedStream]{list: "streams name", key: func(n *namedStream) string { return n.name }})
		if err != nil {
			return nil, err
		}
		out := &Page[StreamInfo]{Items: make([]StreamInfo, 0, len(p.Items)), Next: p.Next}
		for _, n := range p.Items {
			out.Items = append(out.Items, s.describeStream(n.st, now))
		}
		return out, nil
	}
	var list []StreamInfo
	for _, n := range named {
		d := s.describeStream(n.st, now)
		if in.Live && !d.Live || d.Players.Total < in.Players || d.BitRate < in.BitRate {
			continue
		}
		list = append(list, d)
	}
	p, err := page(list, in.Paging, streamSorting(in))
	return &p, err
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

// standing is what a node says of a stream of one name; nothing if it has none.
type standing[T any] struct {
	Live  bool `json:"live"` // and not held for its publisher to return
	About *T   `json:"about,omitempty"`
}

// standingHere is what this node says of a stream.
func standingHere[T any](s *Server, in *StreamPath, describe func(*stream.Stream) *T) (*standing[T], error) {
	st := s.Hub.Find(in.key())
	if st == nil {
		return &standing[T]{}, nil
	}
	return &standing[T]{st.Live(), describe(st)}, nil
}

// locate returns what is said of a stream where it is live, and if it is nowhere,
// where it is held. This node is asked first, and no other if it is live here.
func locate[T any](ctx context.Context, s *Server, of string, in *StreamPath, here func(context.Context, *StreamPath) (*standing[T], error)) (*T, error) {
	found, err := here(ctx, in)
	if err != nil || found.Live {
		return found.About, err
	}
	others, silent := ask[standing[T]](ctx, s, of, in)
	for i := range others {
		if o := &others[i]; o.Live && !found.Live || found.About == nil {
			found = o
		}
	}
	switch {
	case found.About != nil:
		return found.About, nil
	case len(silent.Silent) > 0:
		return nil, away("the stream %.128q is on none of the nodes that answer; it may be on those that do not: %s", in.key(), strings.Join(silent.Silent, ", "))
	}
	return nil, notFound("stream on the air", in.key().String())
}

type streamOutput struct{ Body *StreamInfo }

func (s *Server) getStream(ctx context.Context, in *StreamPath) (*streamOutput, error) {
	d, err := locate(ctx, s, "stream", in, s.streamHere)
	return &streamOutput{d}, err
}

func (s *Server) streamHere(_ context.Context, in *StreamPath) (*standing[StreamInfo], error) {
	return standingHere(s, in, func(st *stream.Stream) *StreamInfo {
		d := s.describeStream(st, time.Now())
		return &d
	})
}

// Sample is what was published in a while.
type Sample struct {
	Start       time.Time `json:"start"`
	Bytes       int64     `json:"bytes"`
	BitRate     int64     `json:"bit_rate" doc:"bit/s."`
	VideoFrames int       `json:"video_frames"`
	AudioFrames int       `json:"audio_frames"`
	KeyFrames   int       `json:"key_frames"`
	KeyInterval float64   `json:"key_interval" doc:"Seconds: the longest between key frames that ended in it; 0 if none did."`
	Jumps       int       `json:"jumps" doc:"Of the publisher's clock."`
	Drift       float64   `json:"drift" doc:"Seconds by which sound was ahead of picture at its end."`
}

// Timeline is how the quality of a push has been.
type Timeline struct {
	Seconds []Sample `json:"seconds" nullable:"false" doc:"By the second, up to two minutes back, the oldest first."`
	Tens    []Sample `json:"tens" nullable:"false" doc:"By ten seconds, up to half an hour back, the oldest first."`
}

type timelineOutput struct{ Body *Timeline }

func (s *Server) getTimeline(ctx context.Context, in *StreamPath) (*timelineOutput, error) {
	d, err := locate(ctx, s, "timeline", in, s.timelineHere)
	return &timelineOutput{d}, err
}

func (s *Server) timelineHere(_ context.Context, in *StreamPath) (*standing[Timeline], error) {
	return standingHere(s, in, timelineOf)
}

func timelineOf(st *stream.Stream) *Timeline {
	samples := func(list []stream.Sample, seconds int64) []Sample {
		all := make([]Sample, 0, len(list))
		for _, x := range list {
			all = append(all, Sample{
				Start: x.Start.UTC(), Bytes: x.Bytes, BitRate: x.Bytes * 8 / seconds, VideoFrames: x.VideoFrames, AudioFrames: x.AudioFrames,
				KeyFrames: x.KeyFrames, KeyInterval: x.KeyInterval.Seconds(), Jumps: x.Jumps, Drift: x.Drift.Seconds(),
			})
		}
		return all
	}
	seconds, tens := st.Timeline()
	return &Timeline{samples(seconds, 1), samples(tens, 10)}
}

// Ended is how many were ended.
type Ended struct {
	Ended int `json:"ended" doc:"How many were ended, on all nodes together."`
	Silent
}

type endedOutput struct{ Body Ended }

// end ends what is here, and has the other nodes end what is there.
func end[I any](ctx context.Context, s *Server, of string, in *I, here func(context.Context, *I) (*Ended, error)) (*endedOutput, error) {
	out, err := here(ctx, in)
	if err != nil {
		return nil, err
	}
	others, silent := ask[Ended](ctx, s, of, in)
	for _, o := range others {
		out.Ended += o.Ended
	}
	out.Silent = silent
	return &endedOutput{*out}, nil
}

func (s *Server) endPublisher(ctx context.Context, in *StreamPath) (*endedOutput, error) {
	return end(ctx, s, "end publisher", in, s.endPublisherHere)
}

func (s *Server) endPublisherHere(_ context.Context, in *StreamPath) (*Ended, error) {
	if st := s.Hub.Find(in.key()); st != nil {
		if p := st.Publication(); p != nil {
			p.End(stream.EndKicked)
			return &Ended{Ended: 1}, nil
		}
	}
	return &Ended{}, nil
}

func (s *Server) endPlayers(ctx context.Context, in *StreamPath) (*endedOutput, error) {
	return end(ctx, s, "end players", in, s.endPlayersHere)
}

func (s *Server) endPlayersHere(_ context.Context, in *StreamPath) (*Ended, error) {
	return &Ended{Ended: s.Sessions.KickPlayers(in.key()) + s.HLS.KickViewers(in.key())}, nil
}

func (s *Server) streamRoutes() {
	shared(s, "streams", s.streamsHere)
	shared(s, "stream", s.streamHere)
	shared(s, "timeline", s.timelineHere)
	shared(s, "end publisher", s.endPublisherHere)
	shared(s, "end players", s.endPlayersHere)
	add(s, route{
		ID: "listStreams", Method: http.MethodGet, Path: "/streams", Tag: "Streams", Summary: "List the streams on the air",
		Role: Viewer, Scope: Filtered,
	}, s.listStreams)
	add(s, route{
		ID: "getStream", Method: http.MethodGet, Path: "/streams/{space}/{app}/{stream}", Tag: "Streams", Summary: "Describe a stream on the air",
		Detail: "Where more than one node has it, as it is where it is live.",
		Role:   Viewer, Scope: InSpace, Errors: []int{503},
	}, s.getStream)
	add(s, route{
		ID: "getTimeline", Method: http.MethodGet, Path: "/streams/{space}/{app}/{stream}/timeline", Tag: "Streams",
		Summary: "How the quality of a push has been",
		Role:    Viewer, Scope: InSpace, Errors: []int{503},
	}, s.getTimeline)
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
		Detail:  "Players over RTMP, HTTP-FLV and WebSocket-FLV are disconnected, and may come again at once; those of HLS are refused, as endSession says. To keep players away, forbid the stream.",
		Role:    Operator, Scope: InSpace,
	}, s.endPlayers)
}
