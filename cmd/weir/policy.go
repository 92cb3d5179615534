package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"weir/internal/node"
	"weir/internal/policy"
)

// policyFile is a file with a policy.
type policyFile struct {
	File string `short:"f" required:"" placeholder:"FILE" help:"The policy: a file with what stands below policy in weir.yaml, or a weir.yaml; with - it is read from standard input."`
}

// read reads the file. The Decoder knows where things stand in it; their paths
// begin with prefix.
func (f *policyFile) read() (set *policy.Set, d *policy.Decoder, prefix string, err error) {
	data, err := os.ReadFile(f.File)
	if f.File == "-" {
		data, err = io.ReadAll(os.Stdin)
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("read the policy: %w", err)
	}
	set, d = new(policy.Set), new(policy.Decoder)
	d.YAML(data, set)
	if slices.ContainsFunc(d.Problems(), func(p policy.DecodeProblem) bool { return p.Path == "policy" }) {
		c := node.DefaultConfig()
		c.Policy, prefix, d = nil, "policy.", new(policy.Decoder)
		d.YAML(data, c)
		set = c.Policy
	}
	if problems := d.Problems(); problems != nil {
		return nil, nil, "", &node.ConfigError{File: f.File, Problems: problems}
	}
	return set, d, prefix, nil
}

// applied is what the API answers to a policy.
type applied struct {
	Version   uint64 `json:"version"`
	Documents []struct {
		Document string              `json:"document"`
		Action   string              `json:"action"`
		Version  uint64              `json:"version"`
		Changes  []policy.Difference `json:"changes"`
	} `json:"documents"`
}

// apply sends the file. Problems are told with their place in it.
func (f *policyFile) apply(ctx context.Context, c *client, dry, prune bool, note string, seen uint64) (*applied, error) {
	set, d, prefix, err := f.read()
	if err != nil {
		return nil, err
	}
	q := url.Values{"dry_run": {fmt.Sprint(dry)}, "prune": {fmt.Sprint(prune)}}
	if note != "" {
		q.Set("note", note)
	}
	header := http.Header{}
	if seen != 0 {
		header.Set("If-Match", fmt.Sprintf("%q", fmt.Sprint(seen)))
	}
	var a applied
	err = c.call(ctx, http.MethodPost, "/policy/apply?"+q.Encode(), header, policy.Encoding{Secret: policy.Clear}.JSON(set), &a)
	var p *problemError
	if errors.As(err, &p) && p.Status == http.StatusUnprocessableEntity {
		inFile := true
		for _, e := range p.Errors {
			path, ok := strings.CutPrefix(e.Location, "body.")
			inFile = inFile && ok
			d.Add(prefix+path, "%s", e.Message)
		}
		if problems := d.Problems(); inFile && problems != nil {
			return nil, &node.ConfigError{File: f.File, Problems: problems}
		}
	}
	return &a, err
}

// write writes what was changed, or would be, and the version of the policy, and
// reports whether anything was changed.
func (a *applied) write(w io.Writer) (changed bool) {
	unchanged := 0
	for _, d := range a.Documents {
		if d.Action == "unchanged" {
			unchanged++
			continue
		}
		changed = true
		fmt.Fprintf(w, "%s: %s\n", d.Document, d.Action)
		if d.Action == "changed" {
			for _, c := range d.Changes {
				fmt.Fprintf(w, "  %s\n", c)
			}
		}
	}
	if unchanged > 0 {
		fmt.Fprintf(w, "unchanged: %d\n", unchanged)
	}
	fmt.Fprintf(w, "version: %d\n", a.Version)
	return changed
}

type applyPolicy struct {
	policyFile
	client
	DryRun  bool   `help:"Say what would be changed, and change nothing."`
	Prune   bool   `help:"Delete what the file does not have."`
	IfMatch uint64 `placeholder:"VERSION" help:"Change nothing unless this is the version of the server's policy, as weir diff says it."`
	Note    string `placeholder:"TEXT" help:"Why, for the history."`
}

// Run makes the policy of the server what the file says, all of it or nothing.
func (c *applyPolicy) Run(ctx context.Context, stdout io.Writer) error {
	a, err := c.apply(ctx, &c.client, c.DryRun, c.Prune, c.Note, c.IfMatch)
	if err != nil {
		return err
	}
	a.write(stdout)
	if c.DryRun {
		fmt.Fprintln(stdout, "nothing was changed: a dry run")
	}
	return nil
}

type diffPolicy struct {
	policyFile
	client
	Prune bool `help:"Count what the file does not have as to be deleted."`
}

// errDifferent is the end of a command that has shown differences.
var errDifferent = errors.New("the policy of the server is not that of the file")

// Run says in what the policy of the server differs from the file.
func (c *diffPolicy) Run(ctx context.Context, stdout io.Writer) error {
	a, err := c.apply(ctx, &c.client, true, c.Prune, "", 0)
	if err != nil {
		return trouble{err} // as diff has it
	}
	if a.write(stdout) {
		return errDifferent
	}
	return nil
}

type exportPolicy struct {
	client
	Secrets bool `help:"With secrets as they are; otherwise they are ***, which weir apply takes for what is there."`
}

// Run prints the whole policy as weir apply takes it.
func (c *exportPolicy) Run(ctx context.Context, stdout io.Writer) error {
	path := "/policy"
	if c.Secrets {
		path += "?secrets=true"
	}
	var text []byte
	if err := c.call(ctx, http.MethodGet, path, nil, nil, &text); err != nil {
		return err
	}
	set := new(policy.Set)
	if err := understood(policy.DecodeJSON(text, set)); err != nil {
		return err
	}
	e := policy.Encoding{Secret: policy.Clear} // they are masked already
	_, err := stdout.Write(e.YAML(set))
	return err
}

type getPolicy struct {
	client
	Document string `arg:"" optional:"" help:"Its name, such as space/default; without one, all are listed."`
	History  bool   `help:"List the versions of the document."`
	Version  uint64 `placeholder:"N" help:"As it was in this version."`
	Full     bool   `help:"Settings that have their default, too."`
	JSON     bool   `name:"json" help:"JSON and not YAML or a table."`
}

// documentInfo is a version of a document in a list.
type documentInfo struct {
	Document string    `json:"document"`
	Version  uint64    `json:"version"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Note     string    `json:"note"`
	Deleted  bool      `json:"deleted"`
}

// Run prints a document, or lists documents or versions.
func (c *getPolicy) Run(ctx context.Context, stdout io.Writer) error {
	path := "/policy/documents"
	if c.Document != "" {
		if _, err := policy.NewDocument(c.Document); err != nil {
			return fmt.Errorf("%w; weir get lists those that there are", err)
		}
		path += "/" + (&url.URL{Path: c.Document}).EscapedPath()
	}
	if c.Document == "" || c.History {
		if c.History {
			path += "/history"
		}
		return c.list(ctx, stdout, path)
	}
	if c.Version != 0 {
		path += fmt.Sprintf("?version=%d", c.Version)
	}
	var text []byte
	if err := c.call(ctx, http.MethodGet, path, nil, nil, &text); err != nil {
		return err
	}
	if c.JSON && c.Full {
		_, err := fmt.Fprintf(stdout, "%s\n", text)
		return err
	}
	v, err := policy.NewDocument(c.Document)
	if err == nil {
		err = understood(policy.DecodeJSON(text, v))
	}
	if err != nil {
		return err
	}
	e := policy.Encoding{Full: c.Full, Secret: policy.Clear} // they are masked already
	if c.JSON {
		_, err = fmt.Fprintf(stdout, "%s\n", e.JSON(v))
	} else {
		_, err = stdout.Write(e.YAML(v))
	}
	return err
}

func (c *getPolicy) list(ctx context.Context, stdout io.Writer, path string) error {
	var all []documentInfo
	for cursor := ""; ; {
		var page struct {
			Items []documentInfo `json:"items"`
			Next  string         `json:"next"`
		}
		if err := c.call(ctx, http.MethodGet, path+"?limit=1000"+cursor, nil, nil, &page); err != nil {
			return err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(page.Next)
	}
	if c.JSON {
		return printJSON(stdout, all)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DOCUMENT\tVERSION\tCHANGED\tBY\tWHAT")
	for _, d := range all {
		note := []rune(d.Note)
		if len(note) > 80 {
			note = append(note[:79], '…')
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", d.Document, d.Version, d.At.Local().Format(time.DateTime), d.By, string(note))
	}
	return w.Flush()
}

// understood turns what is wrong with an answer into an error.
func understood(problems []policy.DecodeProblem) error {
	if problems == nil {
		return nil
	}
	return fmt.Errorf("this weir does not understand the server's answer (is the server newer?): %s: %s", problems[0].Path, problems[0].Message)
}
