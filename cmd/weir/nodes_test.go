package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/internal/bus"
	"weir/internal/bus/bustest"
	"weir/internal/cluster"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// asWeir makes the test's own binary a weir.
const asWeir = "WEIR_TEST_AS_WEIR"

func TestMain(m *testing.M) {
	if os.Getenv(asWeir) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a weir of its own.
type process struct {
	cmd  *exec.Cmd
	urls map[string]string // by what it prints them as: Push, Page, Admin
	data string            // its folder
}

// startWeir starts a process with a configuration, which ends with the test.
func startWeir(t *testing.T, config string) *process {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, []byte(config+"data: "+dir+"/state\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startFile(t, path)
}

// startFile is startWeir with a configuration file, which says that the data
// folder is state.
func startFile(t *testing.T, path string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "serve", "-c", path), urls: map[string]string{}, data: filepath.Join(filepath.Dir(path), "state")}
	p.cmd.Env = append(os.Environ(), asWeir+"=1")
	var log strings.Builder
	p.cmd.Stderr = &log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("the log of a process:\n%s", &log)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && p.urls["Data"] == "" {
		if f := strings.Fields(lines.Text()); len(f) == 2 && p.urls[f[0]] == "" {
			p.urls[f[0]] = f[1]
		}
		if strings.HasPrefix(lines.Text(), "Data") {
			break
		}
	}
	if p.urls["Admin"] == "" || p.urls["Page"] == "" {
		t.Fatalf("the process said %v", p.urls)
	}
	go io.Copy(io.Discard, out) // ends with the process
	return p
}

// stop ends the process in order, before the test ends.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("weir serve: %v", err)
	}
}

// TestFirstTokenIsPrintedOnce starts a process twice over the same data: the
// first one prints the token of an admin, once, with which the API can be called.
func TestFirstTokenIsPrintedOnce(t *testing.T) {
	data := t.TempDir()
	config := filepath.Join(data, "weir.yaml")
	if err := os.WriteFile(config, []byte(`listen: {rtmp: "127.0.0.1:0", http: "off", admin: "127.0.0.1:0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for start, want := range []int{1, 0} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "serve", "-c", config, "--data", data+"/state")
		cmd.Env = append(os.Environ(), asWeir+"=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var tokens []string
		var admin string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) == 2 && f[0] == "Token" {
				tokens = append(tokens, f[1])
				cmd.Process.Signal(syscall.SIGTERM)
			}
			if len(f) == 2 && f[0] == "Admin" {
				admin = strings.TrimSuffix(f[1], "/metrics")
			}
			if want == 0 && len(f) == 2 && f[0] == "Data" {
				var list strings.Builder
				if err := run(t.Context(), []string{"token", "list", "--server", admin, "--data", data + "/state"}, &list); err != nil {
					t.Error(err)
				}
				if n := strings.Count(list.String(), "first start"); n != 1 {
					t.Errorf("there are %d first tokens:\n%s", n, &list)
				}
				cmd.Process.Signal(syscall.SIGTERM)
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("start %d: %v", start, err)
		}
		if len(tokens) != want {
			t.Errorf("start %d printed %d tokens, want %d", start, len(tokens), want)
		}
		for _, text := range tokens {
			if !strings.HasPrefix(text, "weir_") {
				t.Errorf("printed the token %q", text)
			}
		}
	}
}

// weir runs a command against the process, as on its machine.
func (p *process) weir(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	args = append(args, "--server", strings.TrimSuffix(p.urls["Admin"], "/metrics"), "--data", p.data)
	err := run(t.Context(), args, &out)
	return out.String(), err
}

// get returns the body of a page of the process.
func (p *process) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get(strings.TrimSuffix(p.urls["Page"], "/") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// twoNodes starts the processes a and b on one NATS of somebody else, and returns
// also where that is and the file of their keys.
func twoNodes(t *testing.T) (a, b *process, natsURL, keys string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	nats := bustest.Serve(t)
	keys = filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(node string) string {
		return fmt.Sprintf(`listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0"}
node: %s
nats: {url: %q}
secrets: {key_file: %q}
policy: {default_space: default, spaces: [{name: default, domains: [{name: "*"}], apps: [{name: live}]}]}
`, node, nats.ClientURL(), keys)
	}
	return startWeir(t, config("a")), startWeir(t, config("b")), nats.ClientURL(), keys
}

// push publishes a stream at the process, until the test ends.
func (p *process) push(t *testing.T, name string) (film func(ms int64), conn *rtmp.Conn) {
	t.Helper()
	conn, err := rtmp.Dial(t.Context(), strings.TrimSuffix(p.urls["Push"], "/STREAM"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Publish(name); err != nil {
		t.Fatal(err)
	}
	film = func(ms int64) {
		t.Helper()
		tag := flv.AppendAudio(nil, av.MP3, false, []byte("\xff\xfb\x90\x00a frame of audio"))
		if err := conn.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Tag: tag, DTS: ms}); err != nil {
			t.Fatal(err)
		}
	}
	film(0)
	return film, conn
}

// TestTwoNodes has two processes on one NATS of somebody else: a change of the
// policy is in force on both within a second, a running publish keeps its own,
// and a bad change changes nothing.
func TestTwoNodes(t *testing.T) {
	a, b, natsURL, keys := twoNodes(t)
	film, _ := a.push(t, "s")

	// The test is a third node.
	bs, err := bus.Open(t.Context(), bus.Config{Node: "test", URL: natsURL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer bs.Close()
	ring, err := cluster.ReadKeys(keys, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := cluster.OpenPolicy(ctx, bs.JetStream(), cluster.Options{Node: "test", Keys: ring})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	old, err := p.Document("space/default")
	if err != nil {
		t.Fatal(err)
	}
	change := func(app string) *policy.Space {
		next := *old.Value.(*policy.Space)
		next.Apps = []policy.App{policy.DefaultApp(app)}
		return &next
	}
	known := func(p *process, app string) bool {
		return strings.Contains(p.get(t, "/"+app+"/none.flv"), "NonExistStreamName")
	}
	if !known(a, "live") || !known(b, "live") {
		t.Fatal("the nodes do not have the policy to begin with")
	}
	if _, err := p.Write(t.Context(), []cluster.Change{{Name: "space/default", Value: change("more"), Expect: old.Version}}, cluster.Author{By: "test"}, false); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	tick := time.NewTicker(2 * time.Millisecond) // between two looks at another process
	defer tick.Stop()
	for _, p := range []*process{a, b} {
		for !known(p, "more") {
			if time.Since(written) > 10*time.Second {
				t.Fatal("the change is not in force")
			}
			<-tick.C
		}
		if known(p, "live") {
			t.Error("the app that was taken away is still there")
		}
	}
	if took := time.Since(written); took > time.Second {
		t.Errorf("the change was in force on both nodes after %v", took)
	} else {
		t.Logf("in force on both nodes after %v", took)
	}
	// He who publishes keeps what he began with; others cannot any more.
	film(20)
	film(40)
	resp, err := http.Get(a.urls["Admin"])
	if err != nil {
		t.Fatal(err)
	}
	metrics, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !strings.Contains(string(metrics), "\nweir_publishers 1\n") {
		t.Error("the publisher of the policy before is gone")
	}
	// The version that the first change has seen is an old one by now.
	if _, err := p.Write(t.Context(), []cluster.Change{{Name: "space/default", Value: change("late"), Expect: old.Version}}, cluster.Author{By: "test"}, false); err == nil {
		t.Error("a write of an old version was taken")
	}
	bad := change("bad")
	bad.Apps[0].Hold = -time.Second
	if _, err := p.Write(t.Context(), []cluster.Change{{Name: "space/default", Value: bad, Expect: cluster.Any}}, cluster.Author{By: "test"}, false); err == nil || !known(b, "more") {
		t.Errorf("a bad document: %v", err)
	}
}

// TestTwoNodesSpeakAsOne has a stream and a player on the process b, and asks and
// commands a. When b has been killed, a says that it does not answer.
func TestTwoNodesSpeakAsOne(t *testing.T) {
	a, b, _, _ := twoNodes(t)
	a.push(t, "here")
	film, pushed := b.push(t, "there")
	weir := func(args ...string) string {
		t.Helper()
		text, err := a.weir(t, args...)
		if err != nil {
			t.Fatalf("weir %s: %v", strings.Join(args, " "), err)
		}
		return text
	}
	list := func(args ...string) (all []struct{ ID, Node, Stream, Does string }) {
		t.Helper()
		if err := json.Unmarshal([]byte(weir(append(args, "-o", "json")...)), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	tick := time.NewTicker(10 * time.Millisecond) // between two looks at other processes
	defer tick.Stop()
	await := func(what string, f func() bool) {
		t.Helper()
		for late := time.Now().Add(20 * time.Second); !f(); <-tick.C {
			if time.Now().After(late) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	await("a lists the streams of both", func() bool { return len(list("streams")) == 2 })
	if all := list("streams"); all[0].Stream != "here" || all[0].Node != "a" || all[1].Stream != "there" || all[1].Node != "b" {
		t.Errorf("streams: %+v", all)
	}
	if text := weir("stream", "there"); !strings.Contains(text, "mp3") {
		t.Errorf("weir stream there: %s", text)
	}

	// play plays there at b, and returns what waits until it is ended.
	play := func() (ended func()) {
		t.Helper()
		resp, err := http.Get(strings.TrimSuffix(b.urls["Page"], "/") + "/live/there.flv")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("play: %v %v", resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		over := make(chan struct{})
		go func() { defer close(over); io.Copy(io.Discard, resp.Body) }() // ends when the player is ended
		return func() {
			t.Helper()
			select {
			case <-over:
			case <-time.After(20 * time.Second):
				t.Fatal("the player goes on")
			}
		}
	}
	ended := play()
	await("a lists the player", func() bool { return len(list("sessions", "there", "--does", "play")) == 1 })
	player := list("sessions", "there", "--does", "play")[0]
	if player.Node != "b" {
		t.Errorf("the player: %+v", player)
	}
	if text := weir("kick", "--session", player.ID); text != "1 session ended\n" {
		t.Errorf("weir kick --session: %q", text)
	}
	ended()
	first, second := play(), play()
	await("a lists both players", func() bool { return len(list("sessions", "there", "--does", "play")) == 2 })
	if text := weir("kick", "there", "--players"); text != "2 players ended\n" {
		t.Errorf("weir kick --players: %q", text)
	}
	first()
	second()

	// A player of HLS has no connection: it is refused from then on.
	at := int64(0)
	hls := func() int { // while the film goes on
		t.Helper()
		status := make(chan int, 1)
		go func() { // ends with the answer
			resp, err := http.Get(strings.TrimSuffix(b.urls["Page"], "/") + "/live/there.m3u8")
			if err != nil {
				status <- 0
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			status <- resp.StatusCode
		}()
		for {
			select {
			case n := <-status:
				return n
			case <-tick.C:
				at += 50
				film(at)
			}
		}
	}
	if status := hls(); status != http.StatusOK {
		t.Fatalf("play over HLS: %d", status)
	}
	if all := list("sessions", "there", "--does", "play"); len(all) != 1 || all[0].Node != "b" {
		t.Errorf("the player of HLS: %+v", all)
	} else if text := weir("kick", "--session", all[0].ID); text != "1 session ended\n" {
		t.Errorf("weir kick --session: %q", text)
	}
	if status := hls(); status != http.StatusForbidden {
		t.Errorf("a player of HLS that was ended: %d", status)
	}

	// What is forbidden at a ends at b at once.
	film(at + 20)
	ended = play()
	await("a lists the player", func() bool { return len(list("sessions", "there", "--does", "play")) == 1 })
	began := time.Now()
	weir("forbid", "there")
	for { // until b ends the push
		if _, err := pushed.ReadPacket(); err != nil {
			break
		}
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("what is forbidden at a has ended at b after %v", d)
	}
	ended()
	weir("resume", "there")
	_, pushed = b.push(t, "there")
	if text := weir("kick", "there"); text != "1 push ended\n" {
		t.Errorf("weir kick: %q", text)
	}
	for {
		if _, err := pushed.ReadPacket(); err != nil {
			break
		}
	}

	b.push(t, "last")
	await("a lists it", func() bool { return len(list("streams", "--prefix", "last")) == 1 })
	b.cmd.Process.Kill()
	b.cmd.Wait()
	await("a says that b is silent", func() bool {
		_, err := a.weir(t, "kick", "last")
		return err != nil && strings.Contains(err.Error(), "did not answer") && strings.HasSuffix(err.Error(), ": b")
	})
	if all := list("streams"); len(all) != 1 || all[0].Stream != "here" {
		t.Errorf("streams without b: %+v", all)
	}
}
