package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/media/rtmp"
)

const serverConfig = `
listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0"}
policy:
  spaces:
  - name: default
    domains: [{name: "127.0.0.1", publish: {simple: {key: key-of-the-file-1}}}]
    apps: [{name: live}]
`

// TestURLOfServer signs URLs by the policy that is in force at a server, which
// is not that of its file any more.
func TestURLOfServer(t *testing.T) {
	p := startWeir(t, serverConfig)
	tick := time.NewTicker(10 * time.Millisecond) // between two tries
	defer tick.Stop()
	push := func(url string) error { // once the server has seen the end of the push before
		t.Helper()
		server, name, _ := strings.Cut(strings.TrimSpace(url), "/live/")
		for late := time.Now().Add(20 * time.Second); ; <-tick.C {
			c, err := rtmp.Dial(t.Context(), server+"/live", rtmp.Config{})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Publish(name)
			c.Close()
			if err == nil || !strings.Contains(err.Error(), "Already Exist Stream Name") || time.Now().After(late) {
				return err
			}
		}
	}
	signed := func(args ...string) string {
		t.Helper()
		out, err := p.weir(t, append([]string{"url"}, args...)...)
		if err != nil {
			t.Fatalf("weir url %v: %v", args, err)
		}
		return out
	}
	first := signed("push", "--stream", "s1", "-q")
	if err := push(first); err != nil || !strings.HasPrefix(first, strings.TrimSuffix(p.urls["Push"], "STREAM")+"s1?t=") {
		t.Errorf("push %s: %v", first, err)
	}

	// The key changes in the store: by it URLs are signed from then on.
	change := filepath.Join(t.TempDir(), "policy.yaml")
	const changed = `
spaces:
- name: default
  domains: [{name: "127.0.0.1", publish: {simple: {key: key-of-the-store}, signed_url: {type: tx, key: key-of-the-store}, require: any}}]
  apps: [{name: live}]
- name: other
  domains: [{name: other.example.com}]
  apps: [{name: show}]
`
	if err := os.WriteFile(change, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := p.weir(t, "apply", "-f", change); err != nil {
		t.Fatalf("apply: %s, %v", out, err)
	}
	if err := push(first); err == nil {
		t.Error("a URL of the old key is accepted")
	}
	urls := strings.Fields(signed("push", "--stream", "s1", "-q"))
	if len(urls) != 2 {
		t.Errorf("any of two methods will do, and signed are %q", urls)
	}
	for _, url := range urls {
		if err := push(url); err != nil {
			t.Errorf("push %s: %v", url, err)
		}
	}
	if out := signed("push", "--stream", "s1"); !strings.Contains(out, "# rtmp by simple, until ") || !strings.Contains(out, "# rtmp by signed_url, until ") {
		t.Errorf("for people: %s", out)
	}
	var list []struct {
		Protocol, URL string
		Methods       []string
		Expires       time.Time
	}
	out := signed("push", "--stream", "s1", "-o", "json", "--expire", "5m")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || list[0].Protocol != "rtmp" || list[0].Methods[0] != "simple" ||
		time.Until(list[0].Expires) > 5*time.Minute || push(list[0].URL) != nil {
		t.Errorf("for programs: %s, %v", out, err)
	}

	// Another space, its domain, and the port of the listener.
	if out := signed("play", "--app", "show", "--stream", "x", "--protocol", "flv", "-q"); !strings.HasPrefix(out, "http://other.example.com:") || !strings.HasSuffix(out, "/show/x.flv\n") {
		t.Errorf("in another space: %s", out)
	}
	// Why a URL is accepted, or not, by the same policy.
	if out := signed("verify", "--push", urls[0]); !strings.Contains(out, "yes  simple: ") {
		t.Errorf("verify: %s", out)
	}
	if out, err := p.weir(t, "url", "verify", "--push", strings.TrimSpace(first)); !errors.Is(err, errNotAccepted) || !strings.Contains(out, "no   denied: Authentication Failed") {
		t.Errorf("verify of the old key: %s, %v", out, err)
	}
	if out, err := p.weir(t, "url", "verify", "-o", "json", "--push", strings.TrimSpace(first)); !errors.Is(err, errNotAccepted) || !strings.Contains(out, `"accepted": false`) {
		t.Errorf("verify for programs: %s, %v", out, err)
	}

	for args, want := range map[string]string{
		"url push --stream s1 --app none --domain 127.0.0.1": "no signature can help: Non-Exist Application",
		"url push --stream s1 --protocol rtmps":              "listen.rtmps is off",
		"url push --stream .x":                               "Illegal Stream Name",
		"url verify gopher://127.0.0.1/live/x":               "must be a URL of a stream",
		"url verify --client x rtmp://127.0.0.1/live/x":      "--client",
	} {
		if out, err := p.weir(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("weir %s: %s, %v, want %s", args, out, err, want)
		}
	}
	err := run(t.Context(), []string{"url", "push", "--stream", "x", "--server", "http://127.0.0.1:1"}, new(strings.Builder))
	if err == nil || !strings.Contains(err.Error(), "nobody listens") || !strings.Contains(err.Error(), "-c FILE") {
		t.Errorf("without a server: %v", err)
	}
}

// TestNoSilentSuccess asks for what is not there: who mistyped a name is told.
func TestNoSilentSuccess(t *testing.T) {
	p := startWeir(t, `listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0"}
`)
	for _, tt := range []struct{ args, out, err string }{
		{"kick typo", "", "nobody pushes default/live/typo"},
		{"kick --players typo", "0 players ended\n", ""},
		{"kick --session 0123456789abcdef", "", "there is no session"},
		{"kick", "", "say either a stream or --session"},
		{"resume typo", "default/live/typo was not forbidden\n", ""},
		{"forbid demo --for 1h", "", ""},
		{"forbid live --app", "", ""},
		{"resume demo", "still forbidden by this:", ""},
		{"resume live --app", "default/live is resumed\n", ""},
		{"token revoke typo", "", `there is no token "typo"`},
		{"token create eye --role viewer", "weir_", ""},
		{"token create eye --role viewer", "weir_", ""},
		{"token revoke eye", "", `2 tokens are called "eye"`},
		{"token create ops --role operator", "weir_", ""},
		{"token revoke ops", "(ops, operator) is revoked\n", ""},
		{"stream typo", "", `there is no stream on the air "default/live/typo"`},
		{"forbid a/b/c", "", `there is no space "a"`},
		{"forbid demo --until yesterday", "", "--until"},
		{"forbid demo --for 1h --until 2100-01-01", "", "either --for or --until"},
		{"recordings delete demo none.mp4", "", "there is no recording"},
		{"recordings cancel none", "", "there is no order of a recording"},
		{"recordings stop typo", "", "default/live/typo is not being recorded"},
		{"get space/typo", "", `there is no document "space/typo"`},
		{"get nonsense", "", "there are no documents such as"},
		{"sessions", "SESSION", ""},
	} {
		out, err := p.weir(t, strings.Fields(tt.args)...)
		if !strings.Contains(out, tt.out) || tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("weir %s: %q, %v; want %q, %q", tt.args, out, err, tt.out, tt.err)
		}
	}
}
