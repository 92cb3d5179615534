//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A SIGHUP while the server starts is kept until it can read its files again,
// which then finds nothing changed, although the data folder is not the file's.
func TestReloadWhileStarting(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "serve", "-c", path, "--data", filepath.Join(dir, "state"))
	cmd.Env = append(os.Environ(), asWeir+"=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0) // waits until the process reads its configuration
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	const config = "listen: {rtmp: '127.0.0.1:0', http: 'off', admin: 'off'}\ndata: other\npolicy_source: file\n" +
		"policy: {spaces: [{name: default, domains: [{name: '*'}], apps: [{name: live}]}]}\n"
	if err := os.WriteFile(path+".new", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // for all who read it later
		t.Fatal(err)
	}
	if _, err := io.WriteString(pipe, config); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	var said strings.Builder
	reads := 0
	for lines := bufio.NewScanner(log); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !strings.Contains(lines.Text(), "policy read") {
			continue
		}
		signal := syscall.SIGHUP
		if reads++; reads == 2 { // all is said of the first
			signal = syscall.SIGTERM
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil || reads != 2 {
		t.Errorf("%v, after files were read again %d times:\n%s", err, reads, &said)
	}
	if strings.Contains(said.String(), "settings changed") {
		t.Errorf("the log tells of changes:\n%s", &said)
	}
}

// A server whose store lets anybody publish does not listen for others, and says
// what helps; which helps.
func TestWayOutOfOpenPolicy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	write := func(rtmp, publish string) {
		t.Helper()
		text := "listen: {rtmp: '" + rtmp + "', http: '127.0.0.1:0', admin: '127.0.0.1:0'}\ndata: state\n" +
			"policy: {spaces: [{name: default, domains: [{name: '*'" + publish + "}], apps: [{name: live}]}]}\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const locked = ", publish: {simple: {key: 'key-of-the-file-1'}}"
	write("127.0.0.1:0", "")
	startFile(t, path).stop(t)

	write(":0", locked)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "serve", "-c", path)
	cmd.Env = append(os.Environ(), asWeir+"=1")
	out, err := cmd.CombinedOutput()
	advice := regexp.MustCompile(`start with listen.rtmp on 127.0.0.1 or off, run weir (apply -f \S+ --data [^\s,]+), and restart`).FindSubmatch(out)
	if err == nil || advice == nil {
		t.Fatalf("serve with an open store: %v: %s", err, out)
	}

	write("off", locked)
	p := startFile(t, path)
	if out, code := p.command(t, strings.Fields(string(advice[1]))...); code != 0 {
		t.Errorf("weir %s: %s", advice[1], out)
	}
	p.stop(t)

	write(":0", locked)
	startFile(t, path).stop(t)
}
