package api

import (
	"context"
	"errors"
	"net/http"
	"path"
	"time"

	"weir/internal/policy"
	"weir/internal/record"
)

// ClipInfo is a clip: a range of a recording as a file of its own.
type ClipInfo struct {
	Name      string    `json:"name" doc:"Unique among the clips of the stream."`
	Space     string    `json:"space"`
	App       string    `json:"app"`
	Stream    string    `json:"stream"`
	Task      string    `json:"task,omitempty" doc:"Names the clip in its facts and callbacks; absent from a list for one that is finished."`
	Recording string    `json:"recording,omitempty" doc:"Task of the recording; absent from a list for one that is finished."`
	Format    string    `json:"format" enum:"hls,mp4"`
	Exact     bool      `json:"exact" doc:"Whether it is cut frame by frame; false in a list for one that is finished."`
	State     string    `json:"state" enum:"waiting,making,finished,failed" doc:"Waiting is for media that the recording does not have yet, or that are being uploaded."`
	Error     string    `json:"error,omitempty" doc:"Why there is none."`
	Node      string    `json:"node,omitempty" doc:"The node that is making it, or could not."`
	Bucket    string    `json:"bucket" doc:"Name of the bucket; empty: the first one."`
	File      string    `json:"file,omitempty" doc:"Last part of its key, once it is finished."`
	Key       string    `json:"key,omitempty" doc:"Of the object, once it is finished; of HLS the playlist."`
	Start     time.Time `json:"start" doc:"When its first frame came; of one that is not finished, what was asked for."`
	End       time.Time `json:"end" doc:"When its last frame came."`
	From      float64   `json:"from" doc:"Where it begins in the recording, in seconds; 0 in a list for one that is finished."`
	To        float64   `json:"to" doc:"Where it ends."`
	Size      int64     `json:"size" doc:"Bytes; of HLS with the segments that it names, but in a list of its playlist."`
}

func (s *Server) clipInfo(c *record.Clip) ClipInfo {
	i := ClipInfo{
		Name: c.Name, Space: c.Stream.Space, App: c.Stream.App, Stream: c.Stream.Name, Task: c.Task, Recording: c.Recording,
		Format: c.Format, Exact: c.Exact, State: c.State, Error: c.Error, Bucket: c.Bucket, Key: c.Key,
		Start: c.Start.UTC(), End: c.End.UTC(), From: c.From.Seconds(), To: c.To.Seconds(), Size: c.Size,
	}
	if c.Key != "" {
		i.File = path.Base(c.Key)
	} else {
		i.Node = s.Node
	}
	return i
}

// ClipRequest asks for a clip.
type ClipRequest struct {
	Name      string `json:"name,omitempty" maxLength:"128" pattern:"^[A-Za-z0-9_][A-Za-z0-9._-]*$" doc:"Unique among the clips of the stream; absent: one is made up."`
	Recording string `json:"recording,omitempty" maxLength:"512" example:"demo-1764193275-1764193335.m3u8" doc:"Task of a recording, or the name of one of its files; absent: the one that was running at start, if that is a time, and otherwise the newest one."`
	Format    string `json:"format,omitempty" enum:"mp4,hls" default:"mp4" doc:"An HLS clip is a playlist that names the recording's own segments."`
	Start     string `json:"start,omitempty" maxLength:"40" default:"0" doc:"A time (2026-01-31T20:00:00Z), or seconds from the beginning of the recording (90.5), or with a minus sign before its end (-30); of a running recording the end is now."`
	End       string `json:"end,omitempty" maxLength:"40" default:"-0" doc:"The same. Beyond what a running recording has, the clip waits for it."`
	Exact     bool   `json:"exact,omitempty" doc:"MP4 only: from frame to frame, not from key frame to key frame; the picture is encoded anew, by ffmpeg."`
	Callback  bool   `json:"callback,omitempty" doc:"Tell who is told of the app's recordings of that format."`
}

type clipInput struct {
	StreamPath
	Body ClipRequest
}

type clipOutput struct{ Body ClipInfo }

func (s *Server) createClip(ctx context.Context, in *clipInput) (*clipOutput, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	q := record.ClipRequest{Name: in.Body.Name, Recording: in.Body.Recording, Format: in.Body.Format, Exact: in.Body.Exact, Callback: in.Body.Callback}
	var wrong []field
	if !policy.ValidStreamName(in.Stream) {
		wrong = append(wrong, field{"path.stream", "is not the name of a stream"})
	}
	if q.Name != "" && !policy.ValidName(q.Name) {
		wrong = append(wrong, field{"body.name", "must be " + policy.NameForm})
	}
	if q.Start, err = record.ParsePosition(in.Body.Start); err != nil {
		wrong = append(wrong, field{"body.start", err.Error()})
	}
	if q.End, err = record.ParsePosition(in.Body.End); err != nil {
		wrong = append(wrong, field{"body.end", err.Error()})
	}
	if q.Exact && q.Format != "mp4" {
		wrong = append(wrong, field{"body.exact", "is for mp4: an HLS clip names the recording's own segments, which nobody encodes anew"})
	}
	if q.Callback && told(&app.Record, q.Format).Callback == "" {
		wrong = append(wrong, field{"body.callback", "the app has nobody who is told of its recordings of the format " + q.Format})
	}
	if len(wrong) > 0 {
		return nil, invalid(wrong...)
	}
	c, err := s.Recorder.Clip(ctx, in.key(), app, q)
	switch {
	case errors.Is(err, record.ErrClipRange):
		return nil, invalid(field{"body.start", err.Error()})
	case errors.Is(err, record.ErrNoFile) && q.Recording == "":
		return nil, problem(http.StatusNotFound, kindNotFound, "there is no recording of the stream then, that this node knows of")
	case errors.Is(err, record.ErrNoFile):
		return nil, notFound("recording", q.Recording)
	case errors.Is(err, record.ErrClipName), errors.Is(err, record.ErrClips):
		return nil, problem(http.StatusConflict, kindConflict, "%v", err)
	case errors.Is(err, record.ErrExact):
		return nil, problem(http.StatusServiceUnavailable, kindUnavailable, "%v", err)
	case err != nil:
		return nil, s.clipProblem(err, in.Body.Name)
	}
	return &clipOutput{s.clipInfo(&c)}, nil
}

// told returns how the app tells of files of a format.
func told(r *policy.Record, format string) *policy.RecordFormat {
	if format == "hls" {
		return &r.HLS
	}
	return &r.MP4
}

// clipProblem is the problem of a bucket, or of a clip that is not there.
func (s *Server) clipProblem(err error, name string) error {
	if errors.Is(err, record.ErrNoClip) {
		return notFound("clip", name)
	}
	return s.bucketProblem(err, name)
}

// ClipsInput says which clips to list.
type ClipsInput struct {
	StreamPath
	Paging
	From time.Time `query:"from" doc:"With media from then on."`
	To   time.Time `query:"to" doc:"With media until then."`
}

type clipPage struct{ Body Page[ClipInfo] }

func (s *Server) clipsPage(list []record.Clip, p Paging, name string) (*clipPage, error) {
	items := make([]ClipInfo, 0, len(list))
	for i := range list {
		items = append(items, s.clipInfo(&list[i]))
	}
	pg, err := page(items, p, sorting[ClipInfo]{
		list: name, value: func(i *ClipInfo) float64 { return float64(i.Start.UnixMilli()) },
		key: func(i *ClipInfo) string { return i.Space + "/" + i.App + "/" + i.Stream + "/" + i.Name },
	})
	return &clipPage{pg}, err
}

func (s *Server) listClips(ctx context.Context, in *ClipsInput) (*clipPage, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	list, err := s.Recorder.Clips(ctx, in.key(), &app.Record, in.From, in.To)
	if err != nil {
		return nil, s.bucketProblem(err, "")
	}
	return s.clipsPage(list, in.Paging, "clips")
}

func (s *Server) listUnfinishedClips(ctx context.Context, in *SpaceFilter) (*clipPage, error) {
	c, list := caller(ctx), []record.Clip{}
	for _, x := range s.Recorder.UnfinishedClips() {
		if in.wants(c, x.Stream.Space) {
			list = append(list, x)
		}
	}
	return s.clipsPage(list, in.Paging, "unfinished clips")
}

// ClipPath names a clip.
type ClipPath struct {
	StreamPath
	Name string `path:"name" maxLength:"128" example:"goal" doc:"Of the clip."`
}

func (s *Server) getClip(ctx context.Context, in *ClipPath) (*clipOutput, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	c, err := s.Recorder.ClipOf(ctx, in.key(), &app.Record, in.Name)
	if err != nil {
		return nil, s.clipProblem(err, in.Name)
	}
	return &clipOutput{s.clipInfo(&c)}, nil
}

type clipURLInput struct {
	ClipPath
	Seconds int `query:"seconds" minimum:"1" maximum:"604800" default:"3600" doc:"For how long it is good."`
}

func (s *Server) clipURL(ctx context.Context, in *clipURLInput) (*recordingURLOutput, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	valid := time.Duration(in.Seconds) * time.Second
	out := &recordingURLOutput{}
	out.Body.Expires = time.Now().Add(valid).UTC().Truncate(time.Second)
	if out.Body.URL, err = s.Recorder.ClipURL(ctx, in.key(), &app.Record, in.Name, valid); err != nil {
		return nil, s.clipProblem(err, in.Name)
	}
	return out, nil
}

func (s *Server) deleteClip(ctx context.Context, in *ClipPath) (*struct{}, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	if err := s.Recorder.DeleteClip(ctx, in.key(), &app.Record, in.Name); err != nil {
		return nil, s.clipProblem(err, in.Name)
	}
	return nil, nil
}

func (s *Server) clipRoutes() {
	const tag, base = "Recordings", "/clips/{space}/{app}/{stream}"
	add(s, route{
		ID: "listUnfinishedClips", Method: http.MethodGet, Path: "/clips", Tag: tag, Summary: "List clips that are not finished",
		Detail: "Those that this node is making, and for a day those that it could not make.",
		Role:   Viewer, Scope: Filtered,
	}, s.listUnfinishedClips)
	add(s, route{
		ID: "listClips", Method: http.MethodGet, Path: base, Tag: tag, Summary: "List the clips of a stream, the oldest first",
		Detail: "They are found by their keys, in the bucket that the app records to now; with those that this node is making.",
		Role:   Viewer, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.listClips)
	add(s, route{
		ID: "createClip", Method: http.MethodPost, Path: base, Tag: tag, Summary: "Make a clip of a recording",
		Detail: "Of a finished recording, or of one that this node is making. The clip begins with the last key frame at or before start and ends before the first at or after end, unless it is exact. " +
			"The answer comes at once; getClip says when it is finished. A request with a name that was made before in the same words gives the same clip again.",
		Role: Operator, Scope: InSpace, Status: http.StatusCreated, Errors: []int{404, 409, 503},
	}, s.createClip)
	add(s, route{
		ID: "getClip", Method: http.MethodGet, Path: base + "/{name}", Tag: tag, Summary: "A clip, and how far it is",
		Role: Viewer, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.getClip)
	add(s, route{
		ID: "getClipURL", Method: http.MethodGet, Path: base + "/{name}/url", Tag: tag, Summary: "A URL by which a clip can be played",
		Detail: "That of an HLS clip is good for the segments that it names, and for nothing else of the recording.",
		Role:   Viewer, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.clipURL)
	add(s, route{
		ID: "deleteClip", Method: http.MethodDelete, Path: base + "/{name}", Tag: tag, Summary: "Delete a clip, or stop making it",
		Detail: "Segments that its recording, deleted before, has left to it go as well, but for those that another clip names. One that is not there any more is no error.",
		Role:   Operator, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.deleteClip)
}
