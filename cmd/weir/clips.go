package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"weir/internal/api"
)

type clips struct {
	List   listClips  `cmd:"" default:"withargs" help:"List the clips of a stream, or without one those that are not finished (the default)."`
	Create createClip `cmd:"" help:"Make a clip of a recording, running or finished."`
	Show   showClip   `cmd:"" help:"Show a clip, and how far it is."`
	URL    clipURL    `cmd:"" help:"Print a URL by which a clip can be played."`
	Delete deleteClip `cmd:"" help:"Delete a clip, or stop making it."`
}

type listClips struct {
	remote
	Name  string `arg:"" optional:"" placeholder:"STREAM" help:"${stream}."`
	Since string `placeholder:"TIME" help:"With media from then on: how long ago, such as 2h, or a time."`
	Until string `placeholder:"TIME" help:"With media until then."`
	Limit int    `help:"How many at most; if not given, all."`
}

// Run lists clips.
func (l *listClips) Run(ctx context.Context, stdout io.Writer) error {
	q, path := url.Values{}, "/clips"
	if l.Name != "" {
		name, err := streamName(l.Name)
		if err != nil {
			return err
		}
		path += "/" + name
		if err := mediaTimes(q, l.Since, l.Until); err != nil {
			return err
		}
	}
	list, err := all[api.ClipInfo](ctx, &l.client, path, q, l.Limit)
	if err != nil {
		return err
	}
	return l.clips(stdout, list)
}

// clips shows clips.
func (r *remote) clips(stdout io.Writer, list []api.ClipInfo) error {
	return r.show(stdout, list, "NAME STREAM STATE FORMAT START LENGTH SIZE NOTE", func(row func(...any)) {
		for _, c := range list {
			length := c.End.Sub(c.Start)
			if c.To > c.From {
				length = seconds(c.To - c.From)
			}
			note := c.Error
			if note == "" && c.State == "finished" {
				note = c.File
			}
			row(c.Name, c.Space+"/"+c.App+"/"+c.Stream, c.State, c.Format, local(c.Start), age(length), amount(c.Size, "B"), note)
		}
	})
}

// clipName names a clip of a stream.
type clipName struct {
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
	Clip string `arg:"" help:"As weir clips lists it."`
}

func (n *clipName) path() (string, error) {
	name, err := streamName(n.Name)
	return "/clips/" + name + "/" + url.PathEscape(n.Clip), err
}

type createClip struct {
	remote
	Name      string        `arg:"" placeholder:"STREAM" help:"${stream}."`
	Recording string        `arg:"" optional:"" help:"A file as weir recordings lists it, or the task of a recording; if not given, the one that was running at the start, or the newest."`
	Start     string        `default:"0" placeholder:"TIME" help:"A time such as 2026-01-31T20:00:00Z, or seconds from the beginning of the recording, or before its end, as in --start=-30; of a running recording the end is now. If not given, the beginning."`
	End       string        `default:"-0" placeholder:"TIME" help:"The same; if not given, the end."`
	Format    string        `enum:"mp4,hls" default:"mp4" help:"mp4 (the default), or hls, a playlist of the recording's own segments."`
	Exact     bool          `help:"From frame to frame, not from key frame to key frame; the picture is encoded anew."`
	As        string        `placeholder:"NAME" help:"Name of the clip; if not given, one is made up."`
	Callback  bool          `help:"Tell who is told of the app's recordings."`
	Wait      time.Duration `placeholder:"DURATION" help:"Wait so long for it to be finished, such as 5m."`
}

// askAgain is how often a clip that is waited for is asked about.
const askAgain = 500 * time.Millisecond

// Run asks for the clip.
func (c *createClip) Run(ctx context.Context, stdout io.Writer) error {
	name, err := streamName(c.Name)
	if err != nil {
		return err
	}
	q := api.ClipRequest{Name: c.As, Recording: c.Recording, Format: c.Format, Start: c.Start, End: c.End, Exact: c.Exact, Callback: c.Callback}
	var i api.ClipInfo
	if err := c.do(ctx, http.MethodPost, "/clips/"+name, nil, q, &i); err != nil {
		return err
	}
	for end := time.Now().Add(c.Wait); i.State != "finished" && i.State != "failed" && time.Now().Before(end); {
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := c.do(ctx, http.MethodGet, "/clips/"+name+"/"+url.PathEscape(i.Name), nil, nil, &i); err != nil {
			return err
		}
	}
	if err := c.one(stdout, &i); err != nil {
		return err
	}
	switch {
	case i.State == "failed":
		return fmt.Errorf("there is no clip: %s", i.Error)
	case c.Wait > 0 && i.State != "finished":
		return fmt.Errorf("the clip is not finished after %s; weir clips show %s %s says when it is", c.Wait, c.Name, i.Name)
	}
	return nil
}

// one shows a clip.
func (r *remote) one(stdout io.Writer, i *api.ClipInfo) error {
	if r.Output == "json" {
		return printJSON(stdout, i)
	}
	return r.clips(stdout, []api.ClipInfo{*i})
}

type showClip struct {
	remote
	clipName
}

// Run shows the clip.
func (s *showClip) Run(ctx context.Context, stdout io.Writer) error {
	path, err := s.path()
	if err != nil {
		return err
	}
	var i api.ClipInfo
	if err := s.do(ctx, http.MethodGet, path, nil, nil, &i); err != nil {
		return err
	}
	return s.one(stdout, &i)
}

type clipURL struct {
	remote
	clipName
	Valid time.Duration `default:"1h" help:"For how long it is good (${default})."`
}

// Run prints the URL.
func (u *clipURL) Run(ctx context.Context, stdout io.Writer) error {
	path, err := u.path()
	if err != nil {
		return err
	}
	return u.signed(ctx, stdout, path, u.Valid)
}

type deleteClip struct {
	remote
	clipName
}

// Run deletes the clip.
func (d *deleteClip) Run(ctx context.Context) error {
	path, err := d.path()
	if err != nil {
		return err
	}
	return d.do(ctx, http.MethodDelete, path, nil, nil, nil)
}
