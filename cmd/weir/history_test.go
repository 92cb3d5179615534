package main

import (
	"context"
	"strings"
	"testing"
)

// Who follows events with a cursor goes on behind the last one that was printed,
// also with those that came while nobody followed.
func TestEventsWithCursor(t *testing.T) {
	p := startWeir(t, `listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0"}`+"\n")
	args := []string{"events", "--cursor", "mail", "--type", "publish.started", "-o", "json"}
	// follow follows events until there are n, and is then interrupted.
	follow := func(n int, more ...string) string {
		t.Helper()
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		out := &printed{more: make(chan struct{}, 1)}
		ended := make(chan error, 1)
		all := append(append(args[:len(args):len(args)], more...), "-f", "--server", strings.TrimSuffix(p.urls["Admin"], "/metrics"), "--data", p.data)
		go func() { ended <- run(ctx, all, out) }() // ends with ctx
		for strings.Count(out.String(), "\n") < n {
			select {
			case <-out.more:
			case err := <-ended:
				t.Fatalf("weir events -f ends: %v\n%s", err, out)
			}
		}
		interrupt()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return out.String()
	}
	has := func(what, text string, streams ...string) {
		t.Helper()
		lines := strings.Count(text, "\n")
		for _, s := range streams {
			if lines != len(streams) || !strings.Contains(text, `"stream":"`+s+`"`) {
				t.Errorf("%s: %s, want %v", what, text, streams)
			}
		}
	}

	p.push(t, "first")
	has("a new cursor", follow(1, "--since", "1h"), "first")
	p.push(t, "second")
	p.push(t, "third")
	has("the cursor of before", follow(2), "second", "third")
	p.push(t, "fourth")
	has("with --since", follow(1, "--since", "1h"), "fourth")
	if out, err := p.weir(t, args...); err != nil || out != "" {
		t.Errorf("when all have been printed: %q, %v", out, err)
	}
	if _, err := p.weir(t, append(args, "--until", "1h")...); err == nil {
		t.Error("--until is taken with --cursor")
	}
	if _, err := p.weir(t, "events", "-f", "--cursor", "mail", "--type", "play.ended"); err == nil || !strings.Contains(err.Error(), "another log") {
		t.Errorf("the cursor of another log: %v", err)
	}
}
