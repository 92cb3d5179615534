package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"weir/internal/api"
)

// remote is a command that asks a server and shows what it says.
type remote struct {
	client
	Output string `short:"o" enum:"table,json" default:"table" help:"table (the default) for people, json for programs."`
}

// do asks for a path of the API with in as the body, if it is not nil, and
// decodes the answer into out, if that is not nil.
func (c *client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.call(ctx, method, path, nil, body, out)
}

// all returns the items of a list, up to limit or if that is 0 all of them. It
// says of which nodes they are missing.
func all[T any](ctx context.Context, c *client, path string, query url.Values, limit int) ([]T, error) {
	items := []T{}
	var silent []string
	defer func() {
		if len(silent) > 0 {
			fmt.Fprintf(os.Stderr, "weir: without what these nodes have, which did not answer: %s\n", strings.Join(silent, ", "))
		}
	}()
	for {
		n := 1000
		if limit > 0 {
			n = min(n, limit-len(items))
		}
		query.Set("limit", fmt.Sprint(n))
		var p api.Gathered[T]
		if err := c.do(ctx, http.MethodGet, path, query, nil, &p); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		for _, node := range p.Silent.Silent {
			if !slices.Contains(silent, node) {
				silent = append(silent, node)
			}
		}
		if p.Next == "" || limit > 0 && len(items) >= limit {
			return items, nil
		}
		query.Set("cursor", p.Next)
	}
}

// show prints v as JSON, or as the table whose rows print writes.
func (r *remote) show(stdout io.Writer, v any, heads string, print func(row func(cells ...any))) error {
	if r.Output == "json" {
		return printJSON(stdout, v)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(heads, " ", "\t"))
	print(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, printable(c))
		}
		fmt.Fprintln(w)
	})
	return w.Flush()
}

// printable is a cell of a table: what clients have sent does not reach a
// terminal as it is.
func printable(c any) string {
	s := fmt.Sprint(c)
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}

// address is that of a client, empty where it is not known.
func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// local is a time as the terminal's owner reads it.
func local(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// age is how long something takes, with two parts at most.
func age(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d/time.Hour%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d/time.Minute%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d/time.Second%60)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// amount is n with three figures and a prefix of thousands.
func amount(n int64, unit string) string {
	v, prefix := float64(n), ""
	for _, p := range []string{"k", "M", "G", "T", "P"} {
		if v < 1000 {
			break
		}
		v, prefix = v/1000, p
	}
	if prefix == "" {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%.3g %s%s", v, prefix, unit)
}

// streamName reads SPACE/APP/STREAM, APP/STREAM of the space default, or
// STREAM of its app live, and returns its path in the API.
func streamName(s string) (path string, err error) {
	parts := strings.Split(s, "/")
	switch len(parts) {
	case 1:
		parts = append([]string{"default", "live"}, parts...)
	case 2:
		parts = append([]string{"default"}, parts...)
	case 3:
	default:
		return "", fmt.Errorf("%q is not SPACE/APP/STREAM, APP/STREAM or STREAM", s)
	}
	for i, p := range parts {
		if p == "" {
			return "", fmt.Errorf("%q is not SPACE/APP/STREAM, APP/STREAM or STREAM", s)
		}
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/"), nil
}

// sinceTime reads a point in time: how long ago, 2h, or a time, 2026-01-31T20:00:00Z.
func sinceTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-01-31T20:00:00Z nor how long ago, such as 2h", s)
}
