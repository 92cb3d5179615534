package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"weir/internal/api"
)

type recordings struct {
	List   listRecordings  `cmd:"" default:"withargs" help:"List the recordings of a stream, or without one those that are not finished (the default)."`
	URL    recordingURL    `cmd:"" help:"Print a URL by which a recording can be played."`
	Delete deleteRecording `cmd:"" help:"Delete a recording."`
	Start  startRecording  `cmd:"" help:"Record a stream, now or at a time."`
	Stop   stopRecording   `cmd:"" help:"Stop the recording of a stream."`
	Orders listOrders      `cmd:"" help:"List what is to be recorded when."`
	Cancel cancelOrder     `cmd:"" help:"Cancel an order."`
}

type listRecordings struct {
	remote
	Name   string `arg:"" optional:"" placeholder:"STREAM" help:"${stream}."`
	Since  string `placeholder:"TIME" help:"With media from then on: how long ago, such as 2h, or a time."`
	Until  string `placeholder:"TIME" help:"With media until then."`
	Format string `enum:",hls,mp4,flv" default:"" help:"Of this format only: hls, mp4 or flv."`
	Limit  int    `help:"How many at most; if not given, all."`
}

// Run lists recordings.
func (l *listRecordings) Run(ctx context.Context, stdout io.Writer) error {
	c := &l.client
	if l.Name == "" {
		list, err := all[api.UnfinishedInfo](ctx, c, "/recordings", url.Values{}, l.Limit)
		if err != nil {
			return err
		}
		return l.show(stdout, list, "STREAM STATE SINCE MEDIA SIZE UPLOADED LOST", func(row func(...any)) {
			for _, u := range list {
				row(u.Space+"/"+u.App+"/"+u.Stream, u.State, local(u.Start), age(seconds(u.Seconds)), amount(u.Bytes, "B"),
					fmt.Sprintf("%d of %d", u.Uploaded, u.Segments), age(seconds(u.Lost)))
			}
		})
	}
	name, err := streamName(l.Name)
	if err != nil {
		return err
	}
	q := set("format", l.Format)
	if err := mediaTimes(q, l.Since, l.Until); err != nil {
		return err
	}
	list, err := all[api.RecordingInfo](ctx, c, "/recordings/"+name, q, l.Limit)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "FILE FORMAT START END SIZE", func(row func(...any)) {
		for _, r := range list {
			row(r.File, r.Format, local(r.Start), local(r.End), amount(r.Size, "B"))
		}
	})
}

// mediaTimes puts a period into a query for media.
func mediaTimes(q url.Values, since, until string) error {
	t := url.Values{}
	err := times(t, since, until)
	for name, as := range map[string]string{"since": "from", "until": "to"} {
		if t.Has(name) {
			q.Set(as, t.Get(name))
		}
	}
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// recordingFile names a file of a stream's recordings.
type recordingFile struct {
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
	File string `arg:"" help:"As weir recordings lists it."`
}

func (f *recordingFile) path() (string, error) {
	name, err := streamName(f.Name)
	return "/recordings/" + name + "/" + url.PathEscape(f.File), err
}

type recordingURL struct {
	remote
	recordingFile
	Valid time.Duration `default:"1h" help:"For how long it is good (${default})."`
}

// Run prints the URL.
func (r *recordingURL) Run(ctx context.Context, stdout io.Writer) error {
	path, err := r.path()
	if err != nil {
		return err
	}
	return r.signed(ctx, stdout, path, r.Valid)
}

// signed prints the URL by which what is at a path can be played for that long.
func (r *remote) signed(ctx context.Context, stdout io.Writer, path string, valid time.Duration) error {
	var signed struct {
		URL     string    `json:"url"`
		Expires time.Time `json:"expires"`
	}
	q := set("seconds", fmt.Sprint(int(valid.Seconds())))
	if err := r.do(ctx, http.MethodGet, path+"/url", q, nil, &signed); err != nil {
		return err
	}
	if r.Output == "json" {
		return printJSON(stdout, signed)
	}
	fmt.Fprintln(stdout, signed.URL)
	return nil
}

type deleteRecording struct {
	remote
	recordingFile
}

// Run deletes the file.
func (d *deleteRecording) Run(ctx context.Context) error {
	path, err := d.path()
	if err != nil {
		return err
	}
	return d.do(ctx, http.MethodDelete, path, nil, nil, nil)
}

type startRecording struct {
	remote
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
	At   string `placeholder:"TIME" help:"From then on, such as 2026-01-31T20:00:00Z; if not given, now."`
	End  string `placeholder:"TIME" help:"Until then; if not given, until it is stopped."`
}

// Run orders a recording.
func (s *startRecording) Run(ctx context.Context, stdout io.Writer) error {
	name, err := streamName(s.Name)
	if err != nil {
		return err
	}
	var order struct {
		Start *time.Time `json:"start,omitempty"`
		End   *time.Time `json:"end,omitempty"`
	}
	for _, t := range []struct {
		flag, text string
		into       **time.Time
	}{{"--at", s.At, &order.Start}, {"--end", s.End, &order.End}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return fmt.Errorf("%s: %q is not a time such as 2026-01-31T20:00:00Z", t.flag, t.text)
		}
		*t.into = &at
	}
	var o api.OrderInfo
	if err := s.do(ctx, http.MethodPost, "/recording-orders/"+name, nil, order, &o); err != nil {
		return err
	}
	return s.orders(stdout, []api.OrderInfo{o})
}

// orders shows orders.
func (r *remote) orders(stdout io.Writer, list []api.OrderInfo) error {
	return r.show(stdout, list, "ID STREAM START END", func(row func(...any)) {
		for _, o := range list {
			row(o.ID, o.Space+"/"+o.App+"/"+o.Stream, local(o.Start), local(o.End))
		}
	})
}

type listOrders struct {
	remote
	ID string `arg:"" optional:"" help:"Of one order; if not given, all."`
}

// Run lists orders.
func (l *listOrders) Run(ctx context.Context, stdout io.Writer) error {
	if l.ID != "" {
		var o api.OrderInfo
		if err := l.do(ctx, http.MethodGet, "/recording-orders/"+url.PathEscape(l.ID), nil, nil, &o); err != nil {
			return err
		}
		return l.orders(stdout, []api.OrderInfo{o})
	}
	list, err := all[api.OrderInfo](ctx, &l.client, "/recording-orders", url.Values{}, 0)
	if err != nil {
		return err
	}
	return l.orders(stdout, list)
}

type cancelOrder struct {
	remote
	ID string `arg:"" help:"Of the order."`
}

// Run cancels the order.
func (c *cancelOrder) Run(ctx context.Context, stdout io.Writer) error {
	path := "/recording-orders/" + url.PathEscape(c.ID)
	var o api.OrderInfo
	if err := c.do(ctx, http.MethodGet, path, nil, nil, &o); err != nil {
		return err
	}
	if err := c.do(ctx, http.MethodDelete, path, nil, nil, nil); err != nil {
		return err
	}
	return c.orders(stdout, []api.OrderInfo{o})
}

type stopRecording struct {
	remote
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
}

// Run stops the recording.
func (s *stopRecording) Run(ctx context.Context, stdout io.Writer) error {
	name, err := streamName(s.Name)
	if err != nil {
		return err
	}
	var ended api.Ended
	if err := s.do(ctx, http.MethodDelete, "/streams/"+name+"/recording", nil, nil, &ended); err != nil {
		return err
	}
	switch {
	case len(ended.Silent.Silent) > 0:
		return fmt.Errorf("%d recordings stopped, but these nodes did not answer, and may go on recording: %s", ended.Ended, strings.Join(ended.Silent.Silent, ", "))
	case s.Output == "json":
		return printJSON(stdout, ended)
	case ended.Ended == 0:
		return fmt.Errorf("%s is not being recorded; weir recordings lists what is", name)
	}
	fmt.Fprintf(stdout, "the recording of %s is stopped\n", name)
	return nil
}

type snapshots struct {
	List listSnapshots `cmd:"" default:"withargs" help:"List the newest pictures of streams (the default)."`
	Take takeSnapshot  `cmd:"" help:"Take a picture of a stream now."`
	Save saveSnapshot  `cmd:"" help:"Save the newest picture of a stream."`
}

type listSnapshots struct {
	remote
	Space string `help:"Of this space only."`
	App   string `help:"Of this app only."`
	Live  bool   `help:"Of streams on the air only."`
}

// Run lists pictures.
func (l *listSnapshots) Run(ctx context.Context, stdout io.Writer) error {
	q := set("space", l.Space, "app", l.App)
	if l.Live {
		q.Set("live", "true")
	}
	list, err := all[api.Snapshot](ctx, &l.client, "/snapshots", q, 0)
	if err != nil {
		return err
	}
	return l.pictures(stdout, list)
}

// pictures shows pictures.
func (r *remote) pictures(stdout io.Writer, list []api.Snapshot) error {
	return r.show(stdout, list, "STREAM CAPTURED PICTURE SIZE KEY", func(row func(...any)) {
		for _, s := range list {
			row(s.Space+"/"+s.App+"/"+s.Stream, local(s.Captured), fmt.Sprintf("%dx%d", s.Width, s.Height), amount(int64(s.Size), "B"), s.Key)
		}
	})
}

type takeSnapshot struct {
	remote
	Name  string `arg:"" placeholder:"STREAM" help:"${stream}."`
	Store bool   `help:"Also into the bucket, and told of, where the app has snapshots."`
}

// Run takes a picture.
func (t *takeSnapshot) Run(ctx context.Context, stdout io.Writer) error {
	name, err := streamName(t.Name)
	if err != nil {
		return err
	}
	q := url.Values{}
	if t.Store {
		q.Set("store", "true")
	}
	var s api.Snapshot
	if err := t.do(ctx, http.MethodPost, "/streams/"+name+"/snapshots", q, nil, &s); err != nil {
		return err
	}
	return t.pictures(stdout, []api.Snapshot{s})
}

type saveSnapshot struct {
	client
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
	File string `arg:"" optional:"" help:"JPEG to write; STREAM.jpg if not given."`
}

// Run saves the picture. It does not write over a file.
func (s *saveSnapshot) Run(ctx context.Context, stdout io.Writer) error {
	name, err := streamName(s.Name)
	if err != nil {
		return err
	}
	var picture []byte
	if err := s.call(ctx, http.MethodGet, "/streams/"+name+"/snapshot", nil, nil, &picture); err != nil {
		return err
	}
	file := cmp.Or(s.File, s.Name[strings.LastIndexByte(s.Name, '/')+1:]+".jpg")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(picture)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Fprintln(stdout, file)
	return nil
}

type listTranscodes struct {
	remote
	Space string `help:"Of this space only."`
}

// Run lists renditions.
func (l *listTranscodes) Run(ctx context.Context, stdout io.Writer) error {
	list, err := all[api.Transcode](ctx, &l.client, "/transcodes", set("space", l.Space), 0)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "RENDITION STATE ENCODER PICTURE BITRATE SPEED LAG NOTE", func(row func(...any)) {
		for _, t := range list {
			for _, o := range t.Outputs {
				picture, note := "-", o.Error
				if o.Width > 0 {
					picture = fmt.Sprintf("%dx%d %.3g/s", o.Width, o.Height, o.FrameRate)
				}
				if o.Shed {
					note = "given up: the machine could not keep up"
				} else if note == "" {
					note = t.Reason
				}
				state := t.State
				if state == "running" && !o.Live {
					state = "idle" // of a template that nobody plays, or of no success
				}
				row(t.Space+"/"+t.App+"/"+o.Stream, state, o.Encoder, picture, amount(int64(o.BitRate), "bit/s"), fmt.Sprintf("%.3g", t.Speed), age(seconds(t.Lag)), note)
			}
		}
	})
}

type listEncoders struct{ remote }

// Run lists encoders.
func (l *listEncoders) Run(ctx context.Context, stdout io.Writer) error {
	list, err := all[api.Encoder](ctx, &l.client, "/encoders", url.Values{}, 0)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "ENCODER FOR CODEC WORKS NOTE", func(row func(...any)) {
		for _, e := range list {
			works := "no"
			if e.Works {
				works = "yes"
			}
			row(e.Name, e.Kind, e.Codec, works, e.Error)
		}
	})
}
