package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/snapshot"
	"weir/internal/stream"
)

// Pictures is what the API wants of a snapshot.Snapshotter.
type Pictures struct {
	Now    func(ctx context.Context, st *stream.Stream, store bool) (*snapshot.Picture, error)
	Latest func(stream.Key) *snapshot.Picture
	Stored func(ctx context.Context, k stream.Key, cfg *policy.Snapshot) (*snapshot.Picture, error)
	All    func() []*snapshot.Picture
	FFmpeg func() ffmpeg.Health // that makes them
}

// Snapshot is the newest picture of a stream that the node has.
type Snapshot struct {
	Space    string    `json:"space"`
	App      string    `json:"app"`
	Stream   string    `json:"stream"`
	Sequence string    `json:"sequence" doc:"Of the push."`
	Captured time.Time `json:"captured" doc:"When the frame arrived."`
	Width    int       `json:"width" doc:"Pixels."`
	Height   int       `json:"height" doc:"Pixels."`
	Size     int       `json:"size" doc:"Bytes."`
	ETag     string    `json:"etag" doc:"Differs when the picture does."`
	Bucket   string    `json:"bucket,omitempty" doc:"Where it is stored; absent when it is not."`
	Key      string    `json:"key,omitempty" doc:"Of the object in the bucket."`
}

func describeSnapshot(p *snapshot.Picture) Snapshot {
	return Snapshot{
		Space: p.Stream.Space, App: p.Stream.App, Stream: p.Stream.Name, Sequence: p.Sequence, Captured: p.Captured.UTC(),
		Width: p.Width, Height: p.Height, Size: len(p.JPEG), ETag: p.ETag, Bucket: p.Bucket, Key: p.Object,
	}
}

// SnapshotsInput says which pictures to list.
type SnapshotsInput struct {
	Paging
	Space string `query:"space" maxLength:"128" doc:"Of this space only."`
	App   string `query:"app" maxLength:"128" doc:"Of this app only."`
	Live  bool   `query:"live" doc:"Of streams on the air only."`
}

type snapshotPage struct{ Body Page[Snapshot] }

func (s *Server) listSnapshots(ctx context.Context, in *SnapshotsInput) (*snapshotPage, error) {
	c := caller(ctx)
	var list []Snapshot
	for _, p := range s.Pictures.All() {
		k := p.Stream
		if !c.Sees(k.Space) || in.Space != "" && in.Space != k.Space || in.App != "" && in.App != k.App {
			continue
		}
		if st := s.Hub.Find(k); in.Live && (st == nil || !st.Live()) {
			continue
		}
		list = append(list, describeSnapshot(p))
	}
	p, err := page(list, in.Paging, sorting[Snapshot]{
		list: "snapshots", key: func(d *Snapshot) string { return d.Space + "/" + d.App + "/" + d.Stream },
	})
	return &snapshotPage{p}, err
}

type pictureOutput struct{ Body func(huma.Context) }

func (s *Server) getSnapshot(ctx context.Context, in *StreamPath) (*pictureOutput, error) {
	p, err := s.newestPicture(ctx, in.key())
	if err != nil {
		return nil, problem(http.StatusServiceUnavailable, kindUnavailable, "the bucket cannot be read at the moment")
	}
	if p == nil {
		return nil, notFound("picture of the stream", in.key().String())
	}
	return &pictureOutput{func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		h := w.Header()
		h.Set("Content-Type", "image/jpeg")
		h.Set("Cache-Control", "private, no-cache")
		h.Set("ETag", `"`+p.ETag+`"`)
		http.ServeContent(w, r, "", p.Captured, bytes.NewReader(p.JPEG))
	}}, nil
}

// newestPicture returns that of a stream: from memory or, if there is none, from
// its app's bucket. It is nil where there is none either.
func (s *Server) newestPicture(ctx context.Context, k stream.Key) (*snapshot.Picture, error) {
	if p := s.Pictures.Latest(k); p != nil {
		return p, nil
	}
	set := s.Policy.Set()
	if caller(ctx).Space != "" && !set.Apart(k.Space, k.App, "snapshot") {
		return nil, nil // what is in the bucket may be of another space
	}
	sp := set.Space(k.Space)
	if sp == nil {
		return nil, nil
	}
	app := sp.App(k.App)
	if app == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	p, err := s.Pictures.Stored(ctx, k, &app.Snapshot)
	if err != nil {
		s.Log.Warn("the newest picture is not found", "stream", k, "err", err)
	}
	return p, err
}

type takeInput struct {
	StreamPath
	Store bool `query:"store" doc:"Also into the bucket, and told of, where the app has snapshots."`
}

type snapshotOutput struct{ Body Snapshot }

// takeTime is how long a picture may take that somebody waits for.
const takeTime = 15 * time.Second

func (s *Server) takeSnapshot(ctx context.Context, in *takeInput) (*snapshotOutput, error) {
	st, err := s.find(&in.StreamPath)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	p, err := s.Pictures.Now(ctx, st, in.Store)
	switch {
	case errors.Is(err, snapshot.ErrTooMany):
		return nil, tooMany(time.Second, err.Error())
	case errors.Is(err, snapshot.ErrNoPicture):
		return nil, problem(http.StatusConflict, kindConflict, "the stream has had no key frame that a picture can be made of")
	case err != nil:
		return nil, away("there is no picture: %v", err)
	}
	return &snapshotOutput{describeSnapshot(p)}, nil
}

// FFmpegInfo is the program that makes pictures and renditions on this node.
type FFmpegInfo struct {
	Available  bool    `json:"available" doc:"False also until it was first needed."`
	Error      string  `json:"error,omitempty" doc:"Why it is not available."`
	Path       string  `json:"path,omitempty"`
	Version    string  `json:"version,omitempty"`
	Landlock   int     `json:"landlock" doc:"Version of the layer that keeps it from files; 0 is none."`
	Seccomp    bool    `json:"seccomp" doc:"Whether it is kept from system calls that it does not need."`
	Namespaces bool    `json:"namespaces" doc:"Whether it is without network and other processes."`
	User       bool    `json:"other_user" doc:"Whether it is another user than the server."`
	Cgroup     string  `json:"cgroup,omitempty" doc:"What its own control group is good for: kill, which is that nothing outlives a job, and of cpu, memory and pids those that it limits. Absent where it has none."`
	ForkServer bool    `json:"fork_server" doc:"Whether pictures are made cheaply."`
	Running    int64   `json:"running" doc:"Processes."`
	Started    int64   `json:"started" doc:"Jobs, since the server started."`
	Failed     int64   `json:"failed" doc:"Jobs, since the server started."`
	CPUSeconds float64 `json:"cpu_seconds"`
}

type ffmpegOutput struct{ Body FFmpegInfo }

func (s *Server) getFFmpeg(context.Context, *struct{}) (*ffmpegOutput, error) {
	h := s.Pictures.FFmpeg()
	return &ffmpegOutput{FFmpegInfo{
		Available: h.Version != "", Error: h.Error, Path: h.Path, Version: h.Version,
		Landlock: h.Layers.Landlock, Seccomp: h.Layers.Seccomp, Namespaces: h.Layers.Namespaces, User: h.Layers.User, Cgroup: h.Layers.Cgroup, ForkServer: h.ForkServer,
		Running: h.Running, Started: h.Started, Failed: h.Failed, CPUSeconds: h.CPU.Seconds(),
	}}, nil
}

func (s *Server) snapshotRoutes() {
	add(s, route{
		ID: "listSnapshots", Method: http.MethodGet, Path: "/snapshots", Tag: "Snapshots", Summary: "List the newest pictures of streams",
		Detail: "Those that this node has in memory, also of streams that have ended. Older ones are in the bucket.",
		Role:   Viewer, Scope: Filtered,
	}, s.listSnapshots)
	add(s, route{
		ID: "getSnapshot", Method: http.MethodGet, Path: "/streams/{space}/{app}/{stream}/snapshot", Tag: "Snapshots", Summary: "The newest picture of a stream",
		Detail: "As JPEG, with ETag and Last-Modified. It is there when one was taken by the app's interval or by takeSnapshot: from memory or, after a restart, from the bucket.",
		Role:   Viewer, Scope: InSpace, Media: "image/jpeg", Errors: []int{http.StatusServiceUnavailable},
	}, s.getSnapshot)
	add(s, route{
		ID: "takeSnapshot", Method: http.MethodPost, Path: "/streams/{space}/{app}/{stream}/snapshots", Tag: "Snapshots", Summary: "Take a picture of a stream now",
		Detail: "Of its newest key frame, whatever the app's interval; one in a second at most. getSnapshot then has it.",
		Role:   Operator, Scope: InSpace, Errors: []int{http.StatusServiceUnavailable},
	}, s.takeSnapshot)
	add(s, route{
		ID: "getFFmpeg", Method: http.MethodGet, Path: "/ffmpeg", Tag: "Node", Summary: "The ffmpeg of this node, and how it is locked in",
		Role: Viewer, Scope: Global,
	}, s.getFFmpeg)
}
