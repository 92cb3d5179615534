package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// command runs a command against the process as a shell does, and returns what it
// printed and its exit code.
func (p *process) command(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(args, "--server", strings.TrimSuffix(p.urls["Admin"], "/metrics"), "--data", p.data)...)
	cmd.Env = append(os.Environ(), asWeir+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestPolicyInGit exports the policy of a server, changes the file, and makes the
// policy what the file says.
func TestPolicyInGit(t *testing.T) {
	p := startWeir(t, serverConfig)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	weir := func(line string, code int, want ...string) string {
		t.Helper()
		args := strings.Fields(strings.ReplaceAll(line, "FILE", file))
		out, got := p.command(t, args...)
		if got != code {
			t.Errorf("weir %s: exit code %d, want %d: %s", line, got, code, out)
		}
		for _, w := range want {
			if text, not := strings.CutPrefix(w, "!"); not == strings.Contains(out, text) {
				t.Errorf("weir %s: %s\nwant %s", line, out, w)
			}
		}
		return out
	}

	exported := weir("export", 0, "name: live", "***", "!key-of-the-file-1")
	write(exported)
	first := weir("diff -f FILE", 0, "unchanged: 1", "version: ")
	seen := regexp.MustCompile(`version: ([0-9]+)`).FindStringSubmatch(first)[1]
	weir("export --secrets", 0, "key-of-the-file-1")

	// It is changed: what will be is shown, and nothing is done.
	write(strings.Replace(exported, "name: live", "name: live\n        hold: 9s", 1) + "  - name: other\n    apps:\n      - name: show\n")
	weir("diff -f FILE", 1, `apps[live].hold: "9s", was "5s"`, "space/other: created", "version: "+seen)
	weir("apply -f FILE --dry-run", 0, `apps[live].hold: "9s", was "5s"`, "nothing was changed")
	weir("get space/default", 0, "name: live", "!hold")
	weir("get space/default --full", 0, "hold: 5s")

	// It is applied by who has seen what there is, and by nobody else.
	weir("apply -f FILE --note why --if-match "+seen, 0, `apps[live].hold: "9s", was "5s"`, "space/other: created")
	weir("apply -f FILE --if-match "+seen, 1, "has been changed")
	weir("diff -f FILE", 0, "unchanged: 2")
	weir("get", 0, "space/default", "space/other", "general")
	weir("get space/default", 0, "hold: 9s", "***", "!key-of-the-file-1")
	weir("get space/default --json", 0, `"hold":"9s"`)
	history := weir("get space/default --history", 0, "why: ", "created")
	version := regexp.MustCompile(`(?m)\b([0-9]+) .*created`).FindStringSubmatch(history)
	if version == nil {
		t.Fatalf("the history is %s", history)
	}
	weir("get space/default --version "+version[1], 0, "name: live", "!hold")

	// What the file does not have stays, and goes with --prune.
	write(exported)
	weir("diff -f FILE", 1, "!space/other")
	weir("diff -f FILE --prune", 1, "space/other: deleted")
	weir("apply -f FILE", 0, `apps[live].hold: "5s", was "9s"`)
	weir("get space/other", 0, "name: show")
	weir("apply -f FILE --prune", 0, "space/other: deleted")
	weir("get space/other", 1, "there is no document")

	// It cannot be found out.
	write("spaces: [{name: default, apps: [{name: live, hold: 2h}]}]\n")
	weir("diff -f FILE", 2, file+":1:", "hold: must be 0s to 1h0m0s")
	weir("apply -f FILE", 1, file+":1:", "hold: must be 0s to 1h0m0s")
	weir("diff -f FILE.none", 2, "no such file")
}
