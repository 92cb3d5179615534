package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
)

// callbacks is "weir callbacks".
type callbacks struct {
	Receivers callbackReceivers `cmd:"" help:"List the receivers of callbacks, and how they are."`
	Attempts  callbackAttempts  `cmd:"" help:"List calls of receivers, the oldest first."`
	Dead      callbackDead      `cmd:"" help:"List callbacks that were given up."`
	Replay    callbackReplay    `cmd:"" help:"Tell callbacks again that were given up."`
	Test      callbackTest      `cmd:"" help:"Call a receiver with a sample."`
}

// query is the parameters of a URL that are not empty.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + q.Encode()
}

// pages asks for all pages of a list, as far as most, and calls show for each.
func pages[T any](ctx context.Context, c *client, path string, most int, show func(T)) error {
	for cursor := ""; most > 0; {
		var p struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		next := path + "&limit=" + strconv.Itoa(min(most, 1000))
		if cursor != "" {
			next += "&cursor=" + url.QueryEscape(cursor)
		}
		if err := c.call(ctx, http.MethodGet, next, nil, nil, &p); err != nil {
			return err
		}
		for _, item := range p.Items {
			show(item)
		}
		most -= len(p.Items)
		if cursor = p.Next; cursor == "" {
			return nil
		}
	}
	return nil
}

type callbackReceivers struct {
	client
	Space string `placeholder:"NAME" help:"Of this space only."`
}

func (c *callbackReceivers) Run(ctx context.Context, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "ID\tSPACE\tSTATE\tWAITING\tOLDEST\tLAST SUCCESS\tREASON\tURL")
	type receiver struct {
		ID, Space, State, URL, Reason string
		Waiting                       int
		Oldest                        *time.Time
		LastSuccess                   *time.Time `json:"last_success"`
	}
	return pages(ctx, &c.client, "/callbacks/receivers"+query("space", c.Space), 5000, func(r receiver) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", r.ID, r.Space, r.State, r.Waiting, when(r.Oldest), when(r.LastSuccess), dash(r.Reason), r.URL)
	})
}

func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type callbackAttempts struct {
	client
	Space  string        `placeholder:"NAME" help:"Of this space only."`
	App    string        `placeholder:"NAME" help:"Of this app only."`
	Stream string        `placeholder:"NAME" help:"Of streams of this name only."`
	Since  time.Duration `default:"24h" placeholder:"TIME" help:"From so long ago on (${default})."`
	Most   int           `default:"1000" placeholder:"N" help:"At most so many (${default})."`
}

func (c *callbackAttempts) Run(ctx context.Context, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "TIME\tTYPE\tSTREAM\tATTEMPT\tOUTCOME\tSTATUS\tSECONDS\tERROR\tID")
	type attempt struct {
		Time                                         time.Time
		Type, Space, App, Stream, Outcome, Error, ID string
		Attempt, Status                              int
		Seconds                                      float64
	}
	path := "/callbacks/attempts" + query("space", c.Space, "app", c.App, "stream", c.Stream, "since", time.Now().Add(-c.Since).UTC().Format(time.RFC3339))
	return pages(ctx, &c.client, path, c.Most, func(a attempt) {
		fmt.Fprintf(w, "%s\t%s\t%s/%s/%s\t%d\t%s\t%d\t%.3f\t%s\t%s\n", when(&a.Time), a.Type, a.Space, a.App, a.Stream, a.Attempt, a.Outcome, a.Status, a.Seconds, dash(a.Error), a.ID)
	})
}

type callbackDead struct {
	client
	Space    string `placeholder:"NAME" help:"Of this space only."`
	Receiver string `placeholder:"ID" help:"Of this receiver only."`
	Most     int    `default:"1000" placeholder:"N" help:"At most so many (${default})."`
}

func (c *callbackDead) Run(ctx context.Context, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "NUMBER\tTIME\tTYPE\tSTREAM\tATTEMPTS\tERROR\tRECEIVER\tURL")
	type letter struct {
		Number                                         uint64
		Time                                           time.Time
		Type, Space, App, Stream, Error, Receiver, URL string
		Attempts                                       int
	}
	return pages(ctx, &c.client, "/callbacks/dead-letters"+query("space", c.Space, "receiver", c.Receiver), c.Most, func(l letter) {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s/%s/%s\t%d\t%s\t%s\t%s\n", l.Number, when(&l.Time), l.Type, l.Space, l.App, l.Stream, l.Attempts, dash(l.Error), l.Receiver, l.URL)
	})
}

type callbackReplay struct {
	client
	Number   uint64 `placeholder:"N" help:"This one."`
	From     uint64 `placeholder:"N" help:"From this number on."`
	To       uint64 `placeholder:"N" help:"Up to this number."`
	Space    string `placeholder:"NAME" help:"Of this space only."`
	Receiver string `placeholder:"ID" help:"Of this receiver only."`
	All      bool   `help:"All there are."`
}

// Run tells again, and fails if any failed again.
func (c *callbackReplay) Run(ctx context.Context, stdout io.Writer) error {
	if c.Number != 0 {
		if c.From != 0 || c.To != 0 {
			return errors.New("--number is one; --from and --to are a range")
		}
		c.From, c.To = c.Number, c.Number
	}
	if c.From == 0 && c.To == 0 && c.Space == "" && c.Receiver == "" && !c.All {
		return errors.New("say which: --number, --from and --to, --receiver, --space, or --all")
	}
	body, err := json.Marshal(map[string]any{"space": c.Space, "receiver": c.Receiver, "from": c.From, "to": c.To})
	if err != nil {
		return err
	}
	var sum struct {
		Told, Failed, Skipped int
		Error                 string
	}
	if err := c.wait(ctx, http.MethodPost, "/callbacks/dead-letters/replay", nil, body, &sum); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d told, %d failed, %d left behind those\n", sum.Told, sum.Failed, sum.Skipped)
	if sum.Failed > 0 {
		return fmt.Errorf("the last failure: %s", sum.Error)
	}
	return nil
}

type callbackTest struct {
	client
	Space  string `default:"default" placeholder:"NAME" help:"Of this space (${default})."`
	App    string `default:"live" placeholder:"NAME" help:"Of this app (${default})."`
	Sample string `arg:"" default:"start" enum:"start,end,refused,alert,record_hls,record_mp4,record_flv,snapshot" help:"What is told: ${enum}."`
}

func (c *callbackTest) Run(ctx context.Context, stdout io.Writer) error {
	body, err := json.Marshal(map[string]string{"app": c.App, "sample": c.Sample})
	if err != nil {
		return err
	}
	var r struct {
		URL, Error, Response, Sent string
		OK                         bool
		Status                     int
		Seconds                    float64
	}
	if err := c.call(ctx, http.MethodPost, "/spaces/"+url.PathEscape(c.Space)+"/callbacks/test", nil, body, &r); err != nil {
		return err
	}
	if r.URL != "" {
		fmt.Fprintf(stdout, "POST %s\n%s\n", r.URL, r.Sent)
	}
	if !r.OK {
		return fmt.Errorf("not taken: %s", r.Error)
	}
	fmt.Fprintf(stdout, "status %d in %.3f s\n%s\n", r.Status, r.Seconds, r.Response)
	return nil
}
