package api

import (
	"context"
	"errors"
	"net/http"
	"path"
	"time"

	"weir/internal/policy"
	"weir/internal/record"
	"weir/internal/storage"
	"weir/internal/stream"
)

// RecordingInfo is a file of a recording that is in its bucket.
type RecordingInfo struct {
	Format string    `json:"format" enum:"hls,mp4,flv"`
	Bucket string    `json:"bucket" doc:"Name of the bucket; empty: the first one."`
	File   string    `json:"file" doc:"Last part of its key."`
	Key    string    `json:"key" doc:"Of the object; of HLS the playlist."`
	Start  time.Time `json:"start" doc:"When its first frame came."`
	End    time.Time `json:"end" doc:"When its last frame came."`
	Size   int64     `json:"size" doc:"Bytes of the object; of HLS those of the playlist."`
}

// RecordingsInput says which recordings to list.
type RecordingsInput struct {
	StreamPath
	Paging
	From   time.Time `query:"from" doc:"With media from then on."`
	To     time.Time `query:"to" doc:"With media until then."`
	Format string    `query:"format" enum:"hls,mp4,flv" doc:"Of this format only."`
}

type recordingPage struct{ Body Page[RecordingInfo] }

// recordOf returns how the app of a stream records. Whose rights end with the space
// has none to what may be another's.
func (s *Server) recordOf(ctx context.Context, key stream.Key) (*policy.App, error) {
	set := s.Policy.Set()
	if sp := set.Space(key.Space); sp != nil {
		if a := sp.App(key.App); a != nil {
			if caller(ctx).Space != "" && !set.Apart(key.Space, key.App, "record") {
				return nil, problem(http.StatusConflict, kindConflict, "the app does not record, and recordings where it would have them may be of another space: give it a record.prefix of its own")
			}
			return a, nil
		}
	}
	return nil, notFound("app", key.App)
}

func (s *Server) listRecordings(ctx context.Context, in *RecordingsInput) (*recordingPage, error) {
	key := in.key()
	app, err := s.recordOf(ctx, key)
	if err != nil {
		return nil, err
	}
	files, err := s.Recorder.Files(ctx, key, &app.Record, in.From, in.To)
	if err != nil {
		return nil, s.bucketProblem(err, "")
	}
	list := []RecordingInfo{}
	for _, f := range files {
		if in.Format == "" || in.Format == f.Format {
			list = append(list, RecordingInfo{f.Format, app.Record.Bucket, path.Base(f.Key), f.Key, f.Start, f.End, f.Size})
		}
	}
	p, err := page(list, in.Paging, sorting[RecordingInfo]{
		list: "recordings", value: func(i *RecordingInfo) float64 { return float64(i.Start.Unix()) }, key: func(i *RecordingInfo) string { return i.Key },
	})
	return &recordingPage{p}, err
}

// bucketProblem is the problem of a bucket, or of a key that it has not.
func (s *Server) bucketProblem(err error, key string) error {
	if errors.Is(err, record.ErrNoFile) || errors.Is(err, storage.ErrNotExist) {
		return notFound("recording", key)
	}
	s.log.Error("bucket", "err", err)
	return away("the bucket of the recordings does not answer; the log of the node says more")
}

// RecordingPath names a recording.
type RecordingPath struct {
	StreamPath
	File string `path:"file" maxLength:"512" example:"demo-1764193275-1764193335.mp4" doc:"Last part of its key."`
}

func (s *Server) deleteRecording(ctx context.Context, in *RecordingPath) (*struct{}, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	if err := s.Recorder.Delete(ctx, in.key(), &app.Record, in.File); err != nil {
		return nil, s.bucketProblem(err, in.File)
	}
	return nil, nil
}

type recordingURLInput struct {
	RecordingPath
	Seconds int `query:"seconds" minimum:"1" maximum:"604800" default:"3600" doc:"For how long it is good."`
}

type recordingURLOutput struct {
	Body struct {
		URL     string    `json:"url" doc:"Whoever has it can play the file. One that begins with / is below a media listener."`
		Expires time.Time `json:"expires"`
	}
}

func (s *Server) recordingURL(ctx context.Context, in *recordingURLInput) (*recordingURLOutput, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	valid := time.Duration(in.Seconds) * time.Second
	out := &recordingURLOutput{}
	out.Body.Expires = time.Now().Add(valid).UTC().Truncate(time.Second)
	if out.Body.URL, err = s.Recorder.URL(ctx, in.key(), &app.Record, in.File, valid); err != nil {
		return nil, s.bucketProblem(err, in.File)
	}
	return out, nil
}

// UnfinishedInfo is a recording that is not in its bucket yet, or not all of it.
type UnfinishedInfo struct {
	Task     string    `json:"task" doc:"Names the recording in its facts and callbacks."`
	Space    string    `json:"space"`
	App      string    `json:"app"`
	Stream   string    `json:"stream"`
	Node     string    `json:"node" doc:"The node that has it."`
	State    string    `json:"state" enum:"recording,waiting,finishing" doc:"Waiting is for the stream to return; finishing is being uploaded and made into files."`
	Start    time.Time `json:"start"`
	Seconds  float64   `json:"seconds" doc:"Of media in whole segments."`
	Bytes    int64     `json:"bytes" doc:"Of whole segments."`
	Segments int       `json:"segments"`
	Uploaded int       `json:"uploaded" doc:"Segments that are in the bucket."`
	Lost     float64   `json:"lost" doc:"Seconds of media that found no room on the disk."`
}

type unfinishedPage struct{ Body Page[UnfinishedInfo] }

func (s *Server) listUnfinished(ctx context.Context, in *SpaceFilter) (*unfinishedPage, error) {
	c, list := caller(ctx), []UnfinishedInfo{}
	for _, u := range s.Recorder.Unfinished() {
		if in.wants(c, u.Key.Space) {
			list = append(list, UnfinishedInfo{
				Task: u.Task, Space: u.Key.Space, App: u.Key.App, Stream: u.Key.Name, Node: s.Node, State: u.State, Start: u.Start.UTC(),
				Seconds: u.Duration.Seconds(), Bytes: u.Size, Segments: u.Segments, Uploaded: u.Uploaded, Lost: u.Lost.Seconds(),
			})
		}
	}
	p, err := page(list, in.Paging, sorting[UnfinishedInfo]{
		list: "unfinished", value: func(i *UnfinishedInfo) float64 { return float64(i.Start.UnixMilli()) }, key: func(i *UnfinishedInfo) string { return i.Task },
	})
	return &unfinishedPage{p}, err
}

// OrderInfo asks for recordings of a stream.
type OrderInfo struct {
	ID     string    `json:"id"`
	Space  string    `json:"space"`
	App    string    `json:"app"`
	Stream string    `json:"stream"`
	Start  time.Time `json:"start"`
	End    time.Time `json:"end,omitzero" doc:"Absent: until the recording is stopped."`
}

func orderInfo(o record.Order) OrderInfo {
	return OrderInfo{o.ID, o.Space, o.App, o.Stream, o.Start.UTC(), o.End.UTC()}
}

type orderPage struct{ Body Page[OrderInfo] }

func (s *Server) listOrders(ctx context.Context, in *SpaceFilter) (*orderPage, error) {
	c, list := caller(ctx), []OrderInfo{}
	for _, o := range s.Recorder.Orders() {
		if in.wants(c, o.Space) {
			list = append(list, orderInfo(o))
		}
	}
	p, err := page(list, in.Paging, sorting[OrderInfo]{
		list: "orders", value: func(i *OrderInfo) float64 { return float64(i.Start.UnixMilli()) }, key: func(i *OrderInfo) string { return i.ID },
	})
	return &orderPage{p}, err
}

type orderInput struct {
	StreamPath
	Body struct {
		Start time.Time `json:"start,omitzero" doc:"Absent: now."`
		End   time.Time `json:"end,omitzero" doc:"Absent: until it is stopped."`
	}
}

type orderOutput struct{ Body OrderInfo }

func (s *Server) createOrder(ctx context.Context, in *orderInput) (*orderOutput, error) {
	app, err := s.recordOf(ctx, in.key())
	if err != nil {
		return nil, err
	}
	if !policy.ValidStreamName(in.Stream) {
		return nil, invalid(field{"path.stream", "is not the name of a stream"})
	}
	o, err := s.Recorder.Order(ctx, in.key(), app, in.Body.Start, in.Body.End)
	switch {
	case errors.Is(err, record.ErrOrder):
		return nil, invalid(field{"body.end", err.Error()})
	case errors.Is(err, record.ErrOff), errors.Is(err, record.ErrOrders):
		return nil, problem(http.StatusConflict, kindConflict, "%v", err)
	case err != nil:
		return nil, s.orderProblem(err)
	}
	return &orderOutput{orderInfo(o)}, nil
}

// orderProblem is the problem of a store of orders that did not answer.
func (s *Server) orderProblem(err error) error {
	s.log.Warn("orders of recordings", "err", err)
	return away("the store of orders does not answer; the log of the node says more")
}

func (s *Server) getOrder(ctx context.Context, in *orderPath) (*orderOutput, error) {
	c := caller(ctx)
	for _, o := range s.Recorder.Orders() {
		if o.ID == in.ID && c.Sees(o.Space) {
			return &orderOutput{orderInfo(o)}, nil
		}
	}
	return nil, notFound("order of a recording", in.ID)
}

type orderPath struct {
	ID string `path:"id" maxLength:"64" example:"0123456789abcdefghjkmnpqrs" doc:"ID of the order."`
}

func (s *Server) cancelOrder(ctx context.Context, in *orderPath) (*struct{}, error) {
	c := caller(ctx)
	for _, o := range s.Recorder.Orders() {
		if o.ID == in.ID && c.Sees(o.Space) {
			if err := s.Recorder.Cancel(ctx, o.ID); err != nil && !errors.Is(err, record.ErrNoOrder) {
				return nil, s.orderProblem(err)
			}
		}
	}
	return nil, nil // one that is gone is no error
}

// stopRecording counts recordings; orders that are active while nothing is recorded
// are one.
func (s *Server) stopRecording(ctx context.Context, in *StreamPath) (*endedOutput, error) {
	here, ordered, failed := s.stopRecordingHere(ctx, in)
	out, err := end(ctx, s, "stop recording", in, func(context.Context, *StreamPath) (*Ended, error) { return here, nil })
	switch {
	case failed != nil:
		return nil, s.orderProblem(failed)
	case err == nil && ordered:
		out.Body.Ended = max(out.Body.Ended, 1)
	}
	return out, err
}

func (s *Server) stopRecordingHere(ctx context.Context, in *StreamPath) (here *Ended, ordered bool, err error) {
	recording, ordered, err := s.Recorder.Stop(ctx, in.key())
	here = &Ended{}
	if recording {
		here.Ended = 1
	}
	return here, ordered, err
}

func (s *Server) recordingRoutes() {
	const tag, base = "Recordings", "/recordings/{space}/{app}/{stream}"
	shared(s, "stop recording", func(ctx context.Context, in *StreamPath) (*Ended, error) {
		here, _, err := s.stopRecordingHere(ctx, in)
		return here, err
	})
	add(s, route{
		ID: "listUnfinishedRecordings", Method: http.MethodGet, Path: "/recordings", Tag: tag, Summary: "List recordings that are not finished",
		Role: Viewer, Scope: Filtered,
	}, s.listUnfinished)
	add(s, route{
		ID: "listRecordings", Method: http.MethodGet, Path: base, Tag: tag, Summary: "List the recordings of a stream, the oldest first",
		Detail: "They are found by their keys, in the bucket that the app records to now.",
		Role:   Viewer, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.listRecordings)
	add(s, route{
		ID: "deleteRecording", Method: http.MethodDelete, Path: base + "/{file}", Tag: tag, Summary: "Delete a recording",
		Detail: "Of HLS the playlist and its segments. One that is not there any more is no error.",
		Role:   Operator, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.deleteRecording)
	add(s, route{
		ID: "getRecordingURL", Method: http.MethodGet, Path: base + "/{file}/url", Tag: tag, Summary: "A URL by which a recording can be played",
		Role: Viewer, Scope: InSpace, Errors: []int{404, 409, 503},
	}, s.recordingURL)
	add(s, route{
		ID: "listRecordingOrders", Method: http.MethodGet, Path: "/recording-orders", Tag: tag, Summary: "List what is to be recorded when",
		Detail: "Of all nodes, whichever of them was asked.",
		Role:   Viewer, Scope: Filtered,
	}, s.listOrders)
	add(s, route{
		ID: "createRecordingOrder", Method: http.MethodPost, Path: "/recording-orders/{space}/{app}/{stream}", Tag: tag, Summary: "Record a stream, now or at a time",
		Detail: "A stream that is on the air is recorded from its newest key frame on, one that comes later from its start. The app's record.mode must not be off. " +
			"The order is one of all nodes; that to which the stream is pushed records it.",
		Role: Operator, Scope: InSpace, Status: http.StatusCreated, Errors: []int{404, 409, 503},
	}, s.createOrder)
	add(s, route{
		ID: "getRecordingOrder", Method: http.MethodGet, Path: "/recording-orders/{id}", Tag: tag, Summary: "One order",
		Detail: "An order that is over is not there any more: what came of it says listRecordedFiles.",
		Role:   Viewer, Scope: Filtered,
	}, s.getOrder)
	add(s, route{
		ID: "cancelRecordingOrder", Method: http.MethodDelete, Path: "/recording-orders/{id}", Tag: tag, Summary: "Cancel an order",
		Detail: "A recording that nothing else asks for ends. An order that is gone is no error.",
		Role:   Operator, Scope: Filtered, Errors: []int{503},
	}, s.cancelOrder)
	add(s, route{
		ID: "stopRecording", Method: http.MethodDelete, Path: "/streams/{space}/{app}/{stream}/recording", Tag: tag, Summary: "Stop the recording of a stream",
		Detail: "The file is final at once, whichever node records it, and orders that are active for the stream end. The next push is recorded again if the app wants that. " +
			"A stream that is not being recorded is no error.",
		Role: Operator, Scope: InSpace, Errors: []int{503},
	}, s.stopRecording)
}
