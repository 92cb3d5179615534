package api

import (
	"context"
	"net/http"
	"time"

	"weir/internal/transcode"
)

// Transcode is how the renditions of a stream fare.
type Transcode struct {
	Space     string      `json:"space"`
	App       string      `json:"app"`
	Stream    string      `json:"stream"`
	Node      string      `json:"node" doc:"The node that makes them."`
	State     string      `json:"state" enum:"idle,starting,running,waiting,failing,refused"`
	Reason    string      `json:"reason,omitempty" doc:"Why it waits, fails or is refused."`
	Templates []string    `json:"templates" nullable:"false" doc:"That are in use."`
	Started   *time.Time  `json:"started,omitempty" doc:"Of the ffmpeg that runs."`
	Restarts  int64       `json:"restarts" doc:"After failures."`
	Speed     float64     `json:"speed" doc:"Of the slowest rendition, in the last seconds; 1 is real time, 0 is not known."`
	Lag       float64     `json:"lag" doc:"Of the slowest rendition behind the stream, seconds."`
	Frames    int64       `json:"frames" doc:"Pictures and sounds of all renditions, by the ffmpeg that runs."`
	Dropped   int64       `json:"dropped" doc:"Pictures that it left out to keep the frame rate."`
	Outputs   []Rendition `json:"outputs" nullable:"false"`
}

// Rendition is one output of a Transcode.
type Rendition struct {
	Stream    string  `json:"stream"`
	Encoder   string  `json:"encoder,omitempty" doc:"FFmpeg's name for it; none where the video is copied."`
	Width     int     `json:"width,omitempty"`
	Height    int     `json:"height,omitempty"`
	FrameRate float64 `json:"frame_rate,omitempty"`
	GOP       float64 `json:"gop,omitempty" doc:"Seconds between key frames: what the template says, to whole frames of all renditions of the stream."`
	BitRate   int     `json:"bit_rate,omitempty" doc:"That is aimed at, bit/s."`
	Live      bool    `json:"live"`
	Shed      bool    `json:"shed,omitempty" doc:"Given up because the machine could not keep up."`
	Error     string  `json:"error,omitempty" doc:"Why it is not made."`
}

type transcodesPage struct{ Body Gathered[Transcode] }

var transcodeSorting = sorting[Transcode]{list: "transcodes", key: func(t *Transcode) string {
	return streamKey(t.Space, t.App, t.Stream, t.Node)
}}

func (s *Server) listTranscodes(ctx context.Context, in *SpaceFilter) (*transcodesPage, error) {
	here, err := s.transcodesHere(ctx, in)
	if err != nil {
		return nil, err
	}
	p, err := gather(ctx, s, "transcodes", in, in.Paging, transcodeSorting, here)
	return &transcodesPage{p}, err
}

// transcodesHere is listTranscodes for this node.
func (s *Server) transcodesHere(ctx context.Context, in *SpaceFilter) (*Page[Transcode], error) {
	c := caller(ctx)
	var list []Transcode
	for _, st := range s.Transcoder.Status() {
		if k := st.Source; in.wants(c, k.Space) {
			list = append(list, s.describeTranscode(st))
		}
	}
	p, err := page(list, in.Paging, transcodeSorting)
	return &p, err
}

func (s *Server) describeTranscode(st transcode.Status) Transcode {
	t := Transcode{
		Space: st.Source.Space, App: st.Source.App, Stream: st.Source.Name, Node: s.Node, State: st.State, Reason: st.Reason,
		Templates: append([]string{}, st.Templates...), Restarts: st.Restarts, Speed: st.Speed, Lag: st.Lag.Seconds(),
		Frames: st.Frames, Dropped: st.Dropped, Outputs: []Rendition{},
	}
	if st.State == "running" {
		t.Started = &st.Started
	}
	for _, o := range st.Outputs {
		t.Outputs = append(t.Outputs, Rendition{
			Stream: o.Key.Name, Encoder: o.Encoder, Width: o.Width, Height: o.Height, FrameRate: o.FrameRate, GOP: o.GOP.Seconds(), BitRate: o.BitRate,
			Live: o.Live, Shed: o.Shed, Error: o.Error,
		})
	}
	return t
}

// Encoder is one that templates may name, and whether it works on this node.
type Encoder struct {
	Name  string `json:"name" doc:"FFmpeg's."`
	Kind  string `json:"kind" enum:"cpu,vaapi,nvenc,qsv" doc:"What a template calls it."`
	Codec string `json:"codec" enum:"h264,hevc,av1"`
	Works bool   `json:"works" doc:"It was tried, as a rendition has it."`
	Error string `json:"error,omitempty" doc:"Why it does not work."`
}

type encodersPage struct{ Body Page[Encoder] }

func (s *Server) listEncoders(ctx context.Context, in *struct{ Paging }) (*encodersPage, error) {
	var list []Encoder
	for _, a := range s.Transcoder.Abilities(ctx) {
		list = append(list, Encoder{Name: a.Name, Kind: a.Kind.String(), Codec: a.Codec.String(), Works: a.Works, Error: a.Error})
	}
	p, err := page(list, in.Paging, sorting[Encoder]{list: "encoders", key: func(e *Encoder) string { return e.Name }})
	return &encodersPage{p}, err
}

func (s *Server) transcodeRoutes() {
	shared(s, "transcodes", s.transcodesHere)
	add(s, route{
		ID: "listTranscodes", Method: http.MethodGet, Path: "/transcodes", Tag: "Streams",
		Summary: "Renditions, and how they fare",
		Role:    Viewer, Scope: Filtered,
	}, s.listTranscodes)
	add(s, route{
		ID: "listEncoders", Method: http.MethodGet, Path: "/encoders", Tag: "Node",
		Summary: "What this node can encode renditions with",
		Detail:  "Each encoder is tried on a few frames when it is first asked for, and one that failed again after a minute.",
		Role:    Viewer, Scope: Global,
	}, s.listEncoders)
}
