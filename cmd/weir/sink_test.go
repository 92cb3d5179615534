package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/callback"
	"weir/internal/policy"
)

// printed is what a command has printed so far.
type printed struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // capacity 1
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.text.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// The receiver for development: it ends after so many events, well or with what
// was wrong, and fails as it is told to.
func TestSink(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	body := func(kind string) string {
		return fmt.Sprintf(`{"UniqueName":"a","App":"live","Stream":"x","NotifyType":%q,"Sequence":"A"}`, kind)
	}
	client := http.Client{
		Timeout:       500 * time.Millisecond,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// post returns the status, and where it redirects to, or that there was none.
	post := func(url, id, kind, secret string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body(kind)))
		if err != nil {
			t.Fatal(err)
		}
		stamp := fmt.Sprint(time.Now().Unix())
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(callback.HeaderID, id)
		r.Header.Set(callback.HeaderAttempt, "1")
		r.Header.Set(callback.HeaderTimestamp, stamp)
		if secret != "" {
			r.Header.Set(callback.HeaderSignature, callback.Sign(policy.NewSecret(secret), stamp, id, []byte(body(kind))))
		}
		resp, err := client.Do(r)
		switch {
		case os.IsTimeout(err):
			return "hangs"
		case err != nil:
			return "closed"
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location")))
	}
	for _, tt := range []struct {
		flags   string
		secret  string
		kinds   []string // of the calls
		answers string
		wrong   string   // the error; empty: none
		prints  []string // among other things
	}{
		{"--count 2", "", []string{"PubStart", "PubEnd"}, "200, 200", "", []string{"2 calls, 2 events, 0 of them again, 0 made to fail, 0 streams on the air"}},
		{"--count 1 --bodies", "", []string{"PubStart"}, "200", "", []string{body("PubStart"), "1 streams on the air"}},
		{"--count 1", "", []string{"PubEnd"}, "200", "an end without a start", []string{"WRONG: an end without a start"}},
		{"--count 1 --secret-file " + file, "s3cret", []string{"PubStart"}, "200", "", nil},
		{"--count 1 --secret-file " + file, "another", []string{"PubStart"}, "200", "wrong signature", nil},
		{"--count 1 --fail-first 1", "", []string{"PubStart", "PubStart"}, "500, 200", "", []string{"1 made to fail", "answered 500"}},
		{"--count 1 --fail-first 1 --status 418", "", []string{"PubStart", "PubStart"}, "418, 200", "", nil},
		{"--count 1 --fail-first 1 --redirect http://127.0.0.1:1/", "", []string{"PubStart", "PubStart"}, "302 http://127.0.0.1:1/, 200", "", []string{"redirected"}},
		{"--count 1 --fail-first 1 --drop", "", []string{"PubStart", "PubStart"}, "closed, 200", "", []string{"closed"}},
		{"--count 1 --fail-first 1 --hang", "", []string{"PubStart", "PubStart"}, "hangs, 200", "", nil},
		{"--fail 1", "", []string{"PubStart", "PubStart"}, "500, 500", "", []string{"2 calls, 0 events, 0 of them again, 2 made to fail"}},
		{"--count 1 --slow 100ms", "", []string{"PubStart"}, "200", "", nil},
	} {
		t.Run(tt.flags, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out := &printed{more: make(chan struct{}, 1)}
			ended := make(chan error, 1)
			go func() {
				ended <- run(ctx, append([]string{"sink", "--listen", "127.0.0.1:0"}, strings.Fields(tt.flags)...), out)
			}()
			var url string
			for url == "" {
				select {
				case <-out.more:
				case err := <-ended:
					t.Fatalf("it ends with %v", err)
				}
				if _, rest, ok := strings.Cut(out.String(), "receives callbacks at "); ok {
					url, _, _ = strings.Cut(rest, "\n")
				}
			}
			var answers []string
			ids := map[string]string{"PubStart": "1", "PubEnd": "2"}
			for _, kind := range tt.kinds {
				answers = append(answers, post(url, ids[kind], kind, tt.secret))
			}
			if got := strings.Join(answers, ", "); got != tt.answers {
				t.Errorf("answers %s, want %s", got, tt.answers)
			}
			if !strings.Contains(tt.flags, "--count") {
				cancel() // as SIGINT does
			}
			err := <-ended
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("it ends with %v, want %q", err, tt.wrong)
			}
			if ctx.Err() != nil && strings.Contains(tt.flags, "--count") {
				t.Error("it did not end after its count")
			}
			for _, want := range tt.prints {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it prints\n%s\nwithout %q", out, want)
				}
			}
		})
	}
	for flags, want := range map[string]string{
		"--hang":                      "--fail or --fail-first says which",
		"--drop":                      "--fail or --fail-first says which",
		"--status 503":                "--fail or --fail-first says which",
		"--redirect http://x.example": "--fail or --fail-first says which",
		"--fail 1 --fail-first 1":     "choose one",
		"--secret-file /nowhere":      "--secret-file",
		"--listen nowhere":            "--listen",
	} {
		err := run(t.Context(), append([]string{"sink"}, strings.Fields(flags)...), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("weir sink %s: %v, want %s", flags, err, want)
		}
	}
}
