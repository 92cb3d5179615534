package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weir/internal/api"
)

// set puts the values that are not empty into a query.
func set(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

type listStreams struct {
	remote
	Space  string `help:"Of this space only."`
	App    string `help:"Of this app only."`
	Prefix string `help:"Whose names begin so."`
	Order  string `default:"name" enum:"name,since,-since,players,-players,bit_rate,-bit_rate,bytes,-bytes" help:"What to sort by, with - the greatest first: name (the default), since, players, bit_rate or bytes."`
	Limit  int    `help:"How many at most; if not given, all."`
}

// Run lists the streams on the air.
func (l *listStreams) Run(ctx context.Context, stdout io.Writer) error {
	c := &l.client
	list, err := all[api.StreamInfo](ctx, c, "/streams", set("space", l.Space, "app", l.App, "prefix", l.Prefix, "order", l.Order), l.Limit)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "STREAM NODE AGE PUBLISHER VIDEO AUDIO BITRATE PLAYERS", func(row func(...any)) {
		for _, d := range list {
			from := "(gone)"
			if d.Publisher != nil {
				from = address(d.Publisher.Addr)
			}
			video, audio := "-", "-"
			if v := d.Video; v != nil {
				video = fmt.Sprintf("%s %dx%d %.3g/s", v.Codec, v.Width, v.Height, v.FrameRate)
			}
			if d.Audio != nil {
				audio = d.Audio.Codec
			}
			row(d.Space+"/"+d.App+"/"+d.Stream, d.Node, age(time.Duration(d.Seconds*float64(time.Second))), from, video, audio, amount(d.BitRate, "bit/s"), d.Players.Total)
		}
	})
}

type showStream struct {
	remote
	Name string `arg:"" placeholder:"STREAM" help:"${stream}."`
}

// Run describes a stream.
func (s *showStream) Run(ctx context.Context, stdout io.Writer) error {
	c := &s.client
	name, err := streamName(s.Name)
	if err != nil {
		return err
	}
	var d api.StreamInfo
	if err := c.do(ctx, http.MethodGet, "/streams/"+name, nil, nil, &d); err != nil {
		return err
	}
	return s.show(stdout, &d, "STREAM "+d.Space+"/"+d.App+"/"+d.Stream, func(row func(...any)) {
		row("Node", d.Node)
		row("Since", local(d.Since)+" ("+age(time.Duration(d.Seconds*float64(time.Second)))+")")
		if p := d.Publisher; p != nil {
			row("Publisher", fmt.Sprintf("%s by %s at %s, session %s", p.Addr, p.Protocol, p.Domain, p.Session))
			row("Encoder", p.Encoder)
			row("Sequence", p.Sequence)
		} else {
			row("Publisher", "gone; the stream is held for it to return")
		}
		if v := d.Video; v != nil {
			row("Video", fmt.Sprintf("%s %dx%d, %.4g frames/s, %d frames between key frames (%.3g s), last one %.3g s ago", v.Codec, v.Width, v.Height, v.FrameRate, v.GOP, v.KeyInterval, v.SinceKey))
		}
		if a := d.Audio; a != nil {
			row("Audio", fmt.Sprintf("%s, %d Hz, %d channels", a.Codec, a.SampleRate, a.Channels))
		}
		row("Bitrate", amount(d.BitRate, "bit/s"))
		row("In", amount(d.Bytes, "B"))
		row("Out", amount(d.BytesOut, "B")+", now "+rates(&d.RateOut))
		row("Clock", fmt.Sprintf("%d jumps, %.3g s ahead; sound %.3g s ahead of picture", d.Jumps, d.Lead, d.Drift))
		p := d.Players
		row("Players", fmt.Sprintf("%d: rtmp %d, rtmps %d, flv %d, ws-flv %d, hls %d", p.Total, p.RTMP, p.RTMPS, p.FLV, p.WSFLV, p.HLS))
		for _, a := range d.Alerts {
			row("Alert", a.Alert+" since "+local(a.Since)+": "+a.Text)
		}
	})
}

// rates is a bit rate, and what it is made of.
func rates(r *api.Rates) string {
	text := amount(r.Total, "bit/s")
	for _, part := range []struct {
		name string
		rate int64
	}{{"rtmp", r.RTMP}, {"rtmps", r.RTMPS}, {"flv", r.FLV}, {"ws-flv", r.WSFLV}, {"hls", r.HLS}} {
		if part.rate > 0 {
			text += ", " + part.name + " " + amount(part.rate, "bit/s")
		}
	}
	return text
}

type kick struct {
	remote
	Name    string `arg:"" optional:"" placeholder:"STREAM" help:"${stream}."`
	Players bool   `help:"End its players, not its push."`
	Session string `placeholder:"ID" help:"End one publisher or player, by the ID of its session."`
}

// Run ends a push, players, or a session.
func (k *kick) Run(ctx context.Context, stdout io.Writer) error {
	c := &k.client
	if (k.Name == "") == (k.Session == "") {
		return fmt.Errorf("say either a stream or --session")
	}
	path, what := "/sessions/"+url.PathEscape(k.Session), "session"
	if k.Session == "" {
		name, err := streamName(k.Name)
		if err != nil {
			return err
		}
		path, what = "/streams/"+name+"/publisher", "push"
		if k.Players {
			path, what = "/streams/"+name+"/players", "players"
		}
	}
	var ended api.Ended
	if err := c.do(ctx, http.MethodDelete, path, nil, nil, &ended); err != nil {
		return err
	}
	switch {
	case len(ended.Silent.Silent) > 0:
		return fmt.Errorf("%d %s ended, but these nodes did not answer, and what they have may go on: %s", ended.Ended, what, strings.Join(ended.Silent.Silent, ", "))
	case k.Output == "json":
		return printJSON(stdout, ended)
	case k.Session != "" && ended.Ended == 0:
		return fmt.Errorf("there is no session %q; weir sessions lists them", k.Session)
	case !k.Players && ended.Ended == 0:
		return fmt.Errorf("nobody pushes %s; weir streams lists what is on the air", strings.TrimPrefix(strings.TrimSuffix(path, "/publisher"), "/streams/"))
	}
	fmt.Fprintf(stdout, "%d %s ended\n", ended.Ended, what)
	return nil
}

type listSessions struct {
	remote
	Name string `arg:"" optional:"" placeholder:"STREAM" help:"Of this stream only: ${stream}."`
	Does string `enum:",publish,play" default:"" placeholder:"publish|play" help:"Publishers or players only."`
}

// Run lists publishers and players.
func (l *listSessions) Run(ctx context.Context, stdout io.Writer) error {
	q := set("does", l.Does)
	if l.Name != "" {
		name, err := streamName(l.Name)
		if err != nil {
			return err
		}
		for i, part := range strings.Split(name, "/") {
			part, _ = url.PathUnescape(part) // streamName has escaped it
			q.Set([]string{"space", "app", "stream"}[i], part)
		}
	}
	list, err := all[api.SessionInfo](ctx, &l.client, "/sessions", q, 0)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "SESSION DOES STREAM NODE PROTOCOL CLIENT AGE BYTES", func(row func(...any)) {
		for _, i := range list {
			row(i.ID, i.Does, i.Space+"/"+i.App+"/"+i.Stream, i.Node, i.Protocol, address(i.Addr), age(time.Since(i.Since)), amount(i.Bytes, "B"))
		}
	})
}

type forbid struct {
	remote
	Name  string        `arg:"" placeholder:"STREAM" help:"${stream}. With --app SPACE/APP, or APP."`
	App   bool          `help:"It is an app, all of whose streams are meant."`
	Only  string        `enum:"both,publish,play" default:"both" help:"publish or play; both if not given."`
	For   time.Duration `placeholder:"DURATION" help:"For how long, such as 2h; if not given, for ever."`
	Until string        `placeholder:"TIME" help:"Until when, such as 2026-01-31T20:00:00Z."`
	Note  string        `help:"Why."`
}

// Run forbids a stream or an app.
func (f *forbid) Run(ctx context.Context, stdout io.Writer) error {
	name, err := forbiddenName(f.Name, f.App)
	if err != nil {
		return err
	}
	in := map[string]any{"type": f.Only}
	switch {
	case f.For != 0 && f.Until != "":
		return fmt.Errorf("say either --for or --until")
	case f.For != 0:
		in["until"] = time.Now().Add(f.For).UTC()
	case f.Until != "":
		t, err := sinceTime(f.Until, time.Now())
		if err != nil {
			return fmt.Errorf("--until: %w", err)
		}
		in["until"] = t.UTC()
	}
	if f.Note != "" {
		in["note"] = f.Note
	}
	var made api.Forbidden
	if err := f.do(ctx, http.MethodPut, "/forbidden/"+name, nil, in, &made); err != nil {
		return err
	}
	return f.print(stdout, []api.Forbidden{made})
}

// forbiddenName returns the path of a stream or an app.
func forbiddenName(s string, app bool) (string, error) {
	if !app {
		return streamName(s)
	}
	path, err := streamName(s + "/x")
	if strings.Count(s, "/") > 1 || err != nil {
		return "", fmt.Errorf("%q is not SPACE/APP or APP", s)
	}
	return strings.TrimSuffix(path, "/x"), nil
}

type resume struct {
	remote
	Name string `arg:"" placeholder:"STREAM" help:"${stream}. With --app SPACE/APP, or APP."`
	App  bool   `help:"It is an app. Streams that are forbidden by themselves stay so."`
}

// Run resumes a stream or an app, and says what still keeps it off the air.
func (r *resume) Run(ctx context.Context, stdout io.Writer) error {
	name, err := forbiddenName(r.Name, r.App)
	if err != nil {
		return err
	}
	var before, after api.CheckOutput
	if err := r.do(ctx, http.MethodGet, "/forbidden/"+name, nil, nil, &before.Body); err != nil {
		return err
	}
	if err := r.do(ctx, http.MethodDelete, "/forbidden/"+name, nil, nil, nil); err != nil {
		return err
	}
	if err := r.do(ctx, http.MethodGet, "/forbidden/"+name, nil, nil, &after.Body); err != nil {
		return err
	}
	if r.Output == "json" {
		return printJSON(stdout, after.Body)
	}
	switch {
	case len(before.Body.By) == 0:
		fmt.Fprintf(stdout, "%s was not forbidden\n", name)
	case len(after.Body.By) == 0:
		fmt.Fprintf(stdout, "%s is resumed\n", name)
	default:
		fmt.Fprintf(stdout, "%s is still forbidden by this:\n", name)
		return r.print(stdout, after.Body.By)
	}
	return nil
}

type listForbidden struct {
	remote
	Name  string `arg:"" optional:"" placeholder:"STREAM" help:"Say what forbids this stream: ${stream}."`
	Space string `help:"Of this space only."`
	App   string `help:"Of this app only."`
}

// Run lists what is forbidden, or says what is of one stream.
func (l *listForbidden) Run(ctx context.Context, stdout io.Writer) error {
	if l.Name != "" {
		name, err := streamName(l.Name)
		if err != nil {
			return err
		}
		var check api.CheckOutput
		if err := l.do(ctx, http.MethodGet, "/forbidden/"+name, nil, nil, &check.Body); err != nil {
			return err
		}
		switch {
		case l.Output == "json":
			return printJSON(stdout, check.Body)
		case len(check.Body.By) == 0:
			fmt.Fprintf(stdout, "%s is not forbidden\n", name)
			return nil
		}
		return l.print(stdout, check.Body.By)
	}
	list, err := all[api.Forbidden](ctx, &l.client, "/forbidden", set("space", l.Space, "app", l.App), 0)
	if err != nil {
		return err
	}
	return l.print(stdout, list)
}

// print prints what is forbidden.
func (r *remote) print(stdout io.Writer, list []api.Forbidden) error {
	return r.show(stdout, list, "STREAM FORBIDDEN UNTIL BY SINCE NOTE", func(row func(...any)) {
		for _, f := range list {
			name, until, by := f.Space+"/"+f.App+"/"+f.Stream, "for ever", f.By
			if f.Stream == "" {
				name += "*"
			}
			if !f.Until.IsZero() {
				until = local(f.Until)
			}
			if f.Configured {
				by = "the configuration"
			}
			row(name, f.Type, until, by, local(f.At), f.Note)
		}
	})
}

// tokens is the commands about tokens.
type tokens struct {
	Create createToken `cmd:"" help:"Make a token, and print it: nobody can learn it again."`
	List   listTokens  `cmd:"" help:"List tokens."`
	Revoke revokeToken `cmd:"" help:"Revoke a token."`
}

type createToken struct {
	remote
	Name  string        `arg:"" help:"What to call it."`
	Role  string        `required:"" enum:"viewer,operator,admin" help:"viewer sees, operator also ends, forbids and records, admin also changes policy and tokens."`
	Space string        `help:"The only space that it is for."`
	For   time.Duration `placeholder:"DURATION" help:"How long it is valid, such as 720h; if not given, until it is revoked."`
}

// Run makes a token.
func (t *createToken) Run(ctx context.Context, stdout io.Writer) error {
	c := &t.client
	in := map[string]any{"name": t.Name, "role": t.Role}
	if t.Space != "" {
		in["space"] = t.Space
	}
	if t.For > 0 {
		in["expires"] = time.Now().Add(t.For).UTC().Truncate(time.Second)
	}
	var made api.NewToken
	if err := c.do(ctx, http.MethodPost, "/tokens", nil, in, &made); err != nil {
		return err
	}
	if t.Output == "json" {
		return t.show(stdout, made, "", nil)
	}
	fmt.Fprintln(stdout, made.Token)
	return nil
}

type listTokens struct{ remote }

// Run lists tokens.
func (l *listTokens) Run(ctx context.Context, stdout io.Writer) error {
	c := &l.client
	list, err := all[api.TokenInfo](ctx, c, "/tokens", url.Values{}, 0)
	if err != nil {
		return err
	}
	return l.show(stdout, list, "ID NAME ROLE SPACE CREATED BY EXPIRES", func(row func(...any)) {
		for _, t := range list {
			expires := local(t.Expires)
			if t.Expired {
				expires += " (expired)"
			}
			row(t.ID, t.Name, t.Role, t.Space, local(t.Created), t.CreatedBy, expires)
		}
	})
}

type revokeToken struct {
	remote
	Token string `arg:"" help:"Its ID, or its name if no other has it."`
}

// Run revokes a token.
func (t *revokeToken) Run(ctx context.Context, stdout io.Writer) error {
	c := &t.client
	list, err := all[api.TokenInfo](ctx, c, "/tokens", url.Values{}, 0)
	if err != nil {
		return err
	}
	var found []api.TokenInfo
	for _, x := range list {
		if x.ID == t.Token {
			found = []api.TokenInfo{x}
			break
		}
		if x.Name == t.Token {
			found = append(found, x)
		}
	}
	switch len(found) {
	case 0:
		return fmt.Errorf("there is no token %q; weir token list has all", t.Token)
	case 1:
	default:
		return fmt.Errorf("%d tokens are called %q: say which by its ID; weir token list has them", len(found), t.Token)
	}
	if err := c.do(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(found[0].ID), nil, nil, nil); err != nil {
		return err
	}
	if t.Output == "json" {
		return printJSON(stdout, found[0])
	}
	fmt.Fprintf(stdout, "the token %s (%s, %s) is revoked\n", found[0].ID, found[0].Name, found[0].Role)
	return nil
}
