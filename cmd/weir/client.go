package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"weir/internal/node"
)

// client is how commands that ask a running server reach it. A token is never a
// flag: other users of the machine can read those.
type client struct {
	Server    string `env:"WEIR_SERVER" default:"http://127.0.0.1:8081" placeholder:"URL" help:"Where the server's API is (${default}; environment: WEIR_SERVER)."`
	TokenFile string `env:"WEIR_TOKEN_FILE" placeholder:"FILE" help:"File with the token; without one, the environment's WEIR_TOKEN is the token, or on the server's machine that of its data folder."`
	Data      string `env:"WEIR_DATA" placeholder:"DIR" help:"The data folder of the server on this machine, if it is not the usual one."`
}

// problemError is what the API says went wrong (RFC 9457).
type problemError struct {
	Status int    `json:"status"`
	Type   string `json:"type"`
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

func (e *problemError) Error() string {
	var b strings.Builder
	b.WriteString("the server says: " + e.Detail)
	for _, f := range e.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", f.Location, f.Message)
	}
	switch e.Status {
	case http.StatusUnauthorized:
		b.WriteString("\nPut a token into WEIR_TOKEN, or name a file with --token-file. The first start of a server prints one, and on its machine " +
			"this makes others: weir token create NAME --role viewer")
	case http.StatusForbidden:
		b.WriteString("; another token may")
	}
	return b.String()
}

// nobodyListens is the error of a server that is not there.
type nobodyListens string

func (e nobodyListens) Error() string {
	return fmt.Sprintf("nobody listens at %s: start a server with weir serve, or say with --server or WEIR_SERVER where it is", string(e))
}

// token returns the token: that of --token-file, of the environment, or of the
// data folder of a server on this machine. A server that needs one says so.
func (c *client) token() (string, error) {
	if c.TokenFile == "" {
		if token := os.Getenv("WEIR_TOKEN"); token != "" {
			return token, nil
		}
		file, err := (&node.Config{Data: c.Data}).TokenFile()
		if err != nil {
			return "", nil // there is no server here
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return "", nil // there is none that is ours
		}
		return strings.TrimSpace(string(text)), nil
	}
	text, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// open sends a request for a path below /api/v1, with body as JSON if it is not
// nil, and returns the answer, which is a success. The caller closes its Body.
func (c *client) open(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Server, "/")+"/api/v1"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	// A token goes to the server that it is meant for, and not where that sends us.
	hc := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := hc.Do(r)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, nobodyListens(c.Server)
	case err != nil:
		return nil, fmt.Errorf("the server does not answer: %w; --server or WEIR_SERVER says where it is", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := &problemError{}
	if json.Unmarshal(text, p) != nil || p.Detail == "" {
		return nil, fmt.Errorf("the server at %s answers %s; is that a weir?", c.Server, resp.Status)
	}
	return nil, p
}

// call is open for an answer that is read at once; out may be nil, or a
// *[]byte for the answer as it is.
func (c *client) call(ctx context.Context, method, path string, header http.Header, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.wait(ctx, method, path, header, body, out)
}

// wait is call for what may take as long as it likes.
func (c *client) wait(ctx context.Context, method, path string, header http.Header, body []byte, out any) error {
	resp, err := c.open(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	switch out := out.(type) {
	case nil:
	case *[]byte:
		*out = text
	default:
		err = errors.Join(err, json.Unmarshal(text, out))
	}
	if err != nil {
		return fmt.Errorf("answer of the server: %w", err)
	}
	return nil
}

// printJSON prints v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
