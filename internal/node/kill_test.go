package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// killed makes TestKill, in a process of its own, the server; it is its data
// folder.
const killed = "WEIR_TEST_KILLED"

// I4: a server is killed again and again while publishers come and go. Each
// push that was accepted has one beginning and one end, in order.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killed); dir != "" {
		serveToBeKilled(t, dir)
		return
	}
	const rounds, publishers = 8, 25
	dir := t.TempDir()
	var mu sync.Mutex
	accepted := map[string]bool{}
	for round := range rounds {
		addr, _, kill := startToBeKilled(t, dir)
		var wg sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for i := range publishers {
			wg.Go(func() { // ends when the server is killed
				for n := 0; ; n++ {
					name := fmt.Sprintf("%d.%d.%d", round, i, n)
					err := pushOnce(t.Context(), addr, name, func() {
						mu.Lock()
						accepted[name] = true
						mu.Unlock()
						select {
						case begun <- struct{}{}:
						default:
						}
					})
					if err != nil {
						return
					}
				}
			})
		}
		<-begun
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond) // when it is killed is up to chance
		kill()
		wg.Wait()
	}

	c := testConfig(t)
	c.Data = dir
	n, _, stop := start(t, c)
	emitted := len(entries(t, n))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	n, _, _ = start(t, c)
	list := entries(t, n)
	if len(list) != emitted+2 { // node.stopped, node.started
		t.Errorf("%d facts after an end in order, and %d before", len(list), emitted)
	}
	died, clean := checkPushes(t, list, accepted)
	want := make([]bool, rounds+2)
	want[0], want[rounds+1] = true, true
	if !slices.Equal(clean, want) {
		t.Errorf("the runs before ended in order: %v, want %v", clean, want)
	}
	if len(accepted) < rounds*publishers/2 || died == 0 {
		t.Errorf("%d pushes were accepted, %d died with the server: too few to say anything", len(accepted), died)
	}
	t.Logf("%d pushes accepted, %d facts in the log, %d pushes died with the server", len(accepted), len(list), died)
}

// checkPushes checks that each push in list has one beginning and one end, in
// order, and that those to streams of the names accepted are among them, once.
// It returns how many died with their node, and what each node.started says of
// the run before.
func checkPushes(t *testing.T, list []event.Event, accepted map[string]bool) (died int, clean []bool) {
	t.Helper()
	type push struct {
		stream       string
		starts, ends int
		begun        time.Time
	}
	pushes, names := map[string]*push{}, map[string]int{}
	for _, e := range list {
		p := pushes[e.Sequence]
		if p == nil {
			p = &push{stream: e.Stream}
			pushes[e.Sequence] = p
		}
		switch d := e.Data.(type) {
		case event.PublishStarted:
			p.starts++
			p.begun = e.Time
			names[e.Stream]++
			if p.ends > 0 {
				t.Errorf("%s ended before it began", e.Stream)
			}
		case event.PublishEnded:
			p.ends++
			if p.starts == 0 || p.stream != e.Stream || e.Time.Before(p.begun) || !d.Started.Equal(p.begun) {
				t.Errorf("the end %+v does not fit the beginning of %+v", e, p)
			}
			if d.Reason == event.ReasonNodeDied {
				died++
			}
		case event.NodeStarted:
			clean = append(clean, d.Clean)
		}
	}
	for seq, p := range pushes {
		if seq != "" && (p.starts != 1 || p.ends != 1) {
			t.Errorf("%s has %d beginnings and %d ends", p.stream, p.starts, p.ends)
		}
	}
	for name := range accepted {
		if names[name] != 1 {
			t.Errorf("%s was accepted, and has %d beginnings", name, names[name])
		}
	}
	return died, clean
}

// entries returns the facts that are in the log of n.
func entries(t *testing.T, n *Node) []event.Event {
	t.Helper()
	eventually(t, "the journal to be empty", func() bool { return n.events.Health().Waiting == 0 })
	r := n.events.Range(t.Context(), eventlog.Filter{}, 0, n.events.Last())
	defer r.Close()
	var list []event.Event
	for {
		e, err := r.Next(t.Context())
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Event)
	}
}

// pushOnce publishes some packets; it calls accepted when the server has said
// that it may.
func pushOnce(ctx context.Context, addr, name string, accepted func()) error {
	c, err := rtmp.Dial(ctx, "rtmp://"+addr+"/live", rtmp.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Publish(name); err != nil {
		return err
	}
	accepted()
	tag := flv.AppendAudio(nil, av.MP3, false, []byte("a frame of audio"))
	for i := range 1 + rand.IntN(20) {
		if err := c.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Tag: tag, DTS: int64(26 * i)}); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// startToBeKilled starts the server in a process of its own. It returns where
// it listens for RTMP and for the API, and what kills it.
func startToBeKilled(t *testing.T, dir string) (addr, admin string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.count=1")
	cmd.Env = append(os.Environ(), killed+"="+dir, "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	kill = func() {
		if !done {
			done = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	addr, admin, _ = strings.Cut(strings.TrimSpace(line), " ")
	return addr, admin, kill
}

func serveToBeKilled(t *testing.T, dir string) {
	c := testConfig(t)
	c.Data = dir
	n, err := New(c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(n.Addr("rtmp"), n.Addr("admin"))
	if err := n.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A server is killed again and again while its policy is written. Each version
// of each document has one fact, whether or not the process lived to tell it.
func TestKillWhilePolicyIsWritten(t *testing.T) {
	const rounds, writers = 8, 4
	dir := t.TempDir()
	for round := range rounds {
		_, admin, kill := startToBeKilled(t, dir)
		var token []byte
		eventually(t, "the token of this machine", func() (ok bool) {
			var err error
			token, err = os.ReadFile(filepath.Join(dir, tokenFile))
			return err == nil
		})
		client := &http.Client{Transport: &http.Transport{}}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 1)
		for i := range writers {
			c := &caller{t, "http://" + admin, strings.TrimSpace(string(token)), client}
			wg.Go(func() { // ends when the server is killed
				for n := 0; ; n++ {
					resp, err := c.try("PUT", fmt.Sprintf("/api/v1/policy/documents/space/s%d", i), fmt.Sprintf(`{"apps":[{"name":"a%d.%d"}]}`, round, n))
					if err != nil {
						return
					}
					resp.Body.Close()
					select {
					case begun <- struct{}{}:
					default:
					}
				}
			})
		}
		<-begun
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond) // when it is killed is up to chance
		kill()
		wg.Wait()
		client.CloseIdleConnections()
	}

	c := testConfig(t)
	c.Data = dir
	n, _, _ := start(t, c)
	kept := map[string]bool{}
	policy, err := n.bus.JetStream().Stream(t.Context(), "KV_weir_policy")
	if err != nil {
		t.Fatal(err)
	}
	last := policy.CachedInfo().State.LastSeq
	for seq := uint64(1); seq <= last; seq++ {
		if m, err := policy.GetMsg(t.Context(), seq); err == nil {
			kept[fmt.Sprint(strings.TrimPrefix(strings.ReplaceAll(m.Subject, ".", "/"), "$KV/weir_policy/"), " ", seq)] = true
		}
	}
	told, late := map[string]int{}, 0
	eventually(t, "all versions to be told", func() bool {
		clear(told)
		late = 0
		var started time.Time
		for _, e := range entries(t, n) {
			switch d := e.Data.(type) {
			case event.NodeStarted:
				started = e.Time
			case event.PolicyChanged:
				told[fmt.Sprint(d.Document, " ", d.Version)]++
				if e.Time.Before(started) {
					late++
				}
			}
		}
		for v := range kept {
			if told[v] == 0 {
				return false
			}
		}
		return true
	})
	for v, times := range told {
		if times != 1 {
			t.Errorf("%s is told %d times", v, times)
		}
	}
	t.Logf("%d versions, %d of them kept; %d were told by the start after the one that was killed", last, len(kept), late)
}

// The cursor of a reader of facts stands where it was committed, also when the
// server is killed right after it has said so.
func TestKillAfterCommit(t *testing.T) {
	dir := t.TempDir()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	serve := func() (c *caller, kill func()) {
		t.Helper()
		_, admin, kill := startToBeKilled(t, dir)
		c = &caller{t, "http://" + admin, "", client}
		eventually(t, "the token of this machine", func() bool { // the file may be that of the one before
			token, err := os.ReadFile(filepath.Join(dir, tokenFile))
			if err != nil {
				return false
			}
			c.token = strings.TrimSpace(string(token))
			resp, _ := c.do("GET", "/api/v1/self", "")
			return resp.StatusCode == http.StatusOK
		})
		return c, kill
	}
	const path = "/api/v1/event-cursors/mail"
	c, kill := serve()
	resp, committed := c.do("PUT", path, "{}")
	kill()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT: %s %s", resp.Status, committed)
	}
	c, kill = serve()
	defer kill()
	if resp, text := c.do("GET", path, ""); resp.StatusCode != http.StatusOK || text != committed {
		t.Errorf("after the kill it is %s %s, and was %s", resp.Status, text, committed)
	}
	eventually(t, "the start that came behind it", func() bool {
		_, text := c.do("GET", "/api/v1/events?cursor_name=mail&type=node.started", "")
		return strings.Contains(text, `"id"`)
	})
}
