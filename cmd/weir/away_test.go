package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/bench"
	"weir/internal/bus/bustest"
	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// load publishes 50 streams and plays them, one player each, for that long.
func (p *process) load(t *testing.T, d time.Duration) *bench.Report {
	t.Helper()
	url := strings.TrimSuffix(p.urls["Push"], "STREAM") + "b{n}"
	cmd := exec.CommandContext(t.Context(), os.Args[0], "bench", "--publish", url, "--play", url, "--streams", "50", "--players", "1",
		"--bitrate", "500k", "--duration", d.String(), "--json")
	cmd.Env = append(os.Environ(), asWeir+"=1")
	cmd.Stderr = io.Discard
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the load tool: %v", err)
	}
	var r bench.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// pushes begins and ends short pushes, one after the other, until stop is
// closed. It returns the names of those that were let in.
func (p *process) pushes(t *testing.T, name string, stop <-chan struct{}) (names []string) {
	tag := flv.AppendAudio(nil, av.MP3, false, []byte("a frame of audio"))
	for i := 0; ; i++ {
		select {
		case <-stop:
			return names
		case <-time.After(time.Second):
		}
		stream := fmt.Sprintf("%s-%d", name, i)
		c, err := rtmp.Dial(t.Context(), strings.TrimSuffix(p.urls["Push"], "/STREAM"), rtmp.Config{})
		if err == nil {
			err = c.Publish(stream)
		}
		if err == nil {
			err = c.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Tag: tag})
			c.Close()
		}
		if err != nil {
			t.Errorf("%s: %v", stream, err)
			return names
		}
		names = append(names, stream)
	}
}

// NATS is away for five minutes, while 50 publishers go on and others come and
// go: players see no difference, readiness says that the node is degraded, and
// afterwards all facts are there, once and in order.
func TestFiveMinutesWithoutNATS(t *testing.T) {
	if os.Getenv("WEIR_LONG") == "" {
		t.Skip("set WEIR_LONG=1: it takes eight minutes. TestMediaWithoutNATS of internal/node, and TestAway of internal/eventlog, are short")
	}
	const away, compare = 5 * time.Minute, 45 * time.Second
	nats := bustest.Serve(t)
	p := startWeir(t, fmt.Sprintf(`listen: {rtmp: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0"}
nats: {url: %q}
`, nats.ClientURL()))
	ready := func() string {
		resp, err := http.Get(strings.TrimSuffix(p.urls["Admin"], "/metrics") + "/readyz")
		if err != nil {
			t.Error(err)
			return ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(b)))
	}
	becomes := func(want string) {
		t.Helper()
		for late := time.Now().Add(time.Minute); !strings.HasPrefix(ready(), want); <-time.After(100 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("readiness is %q, want %q", ready(), want)
			}
		}
	}

	stop := make(chan struct{})
	var pushing sync.WaitGroup
	var mu sync.Mutex
	accepted := map[string]bool{}
	for i := range 5 {
		pushing.Go(func() { // ends with stop
			names := p.pushes(t, fmt.Sprint("p", i), stop)
			mu.Lock()
			defer mu.Unlock()
			for _, n := range names {
				accepted[n] = true
			}
		})
	}
	before := p.load(t, compare)
	nats.Stop()
	becomes("200 degraded: the event log is away")
	without := p.load(t, away)
	if s := ready(); !strings.HasPrefix(s, "200 degraded: the event log is away") {
		t.Errorf("after five minutes readiness is %q", s)
	}
	nats.Resume()
	becomes("200 ok")
	after := p.load(t, compare)
	close(stop)
	pushing.Wait()

	for name, r := range map[string]*bench.Report{"before": before, "without": without, "after": after} {
		t.Logf("%s: p50 %.2f ms, p99 %.2f ms, max %.1f ms, %d of %d players stalled, %d frames missed", name,
			r.Latency.P50, r.Latency.P99, r.Latency.Max, r.Players.Stalled, r.Players.Wanted, r.Missed)
		if r.Publishers.Alive != 50 || r.Players.Alive != 50 || r.Players.Stalled > 0 || r.Missed > 0 {
			t.Errorf("%s: %d publishers and %d players are alive, %d stalled, %d frames missed: %v", name,
				r.Publishers.Alive, r.Players.Alive, r.Players.Stalled, r.Missed, r.Problems)
		}
	}
	if with := max(before.Latency.P99, after.Latency.P99); without.Latency.P99 > 1.2*with {
		t.Errorf("p99 latency is %.2f ms without NATS, and %.2f ms with it", without.Latency.P99, with)
	}

	var list []event.Event
	for late := time.Now().Add(time.Minute); ; <-time.After(time.Second) { // the last are on their way
		out, err := p.weir(t, "events", "--type", "publish.started,publish.ended", "--since", "1h", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		list = list[:0]
		for d := json.NewDecoder(strings.NewReader(out)); ; {
			var e event.Event
			if err := d.Decode(&e); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
		if len(list) >= 2*(len(accepted)+150) || time.Now().After(late) {
			break
		}
	}
	type push struct {
		stream       string
		starts, ends int
	}
	got, streams := map[string]*push{}, map[string]int{}
	for i, e := range list {
		if i > 0 && e.Type == event.TypePublishStarted && e.Time.Before(list[i-1].Time.Add(-time.Second)) {
			t.Errorf("%s of %v is behind %s of %v", e.Stream, e.Time, list[i-1].Stream, list[i-1].Time)
		}
		x := got[e.Sequence]
		if x == nil {
			x = &push{stream: e.Stream}
			got[e.Sequence] = x
		}
		if e.Type == event.TypePublishStarted {
			x.starts++
			streams[e.Stream]++
		} else if x.ends++; x.starts == 0 {
			t.Errorf("%s ends before it begins", e.Stream)
		}
	}
	for _, x := range got {
		if x.starts != 1 || x.ends != 1 {
			t.Errorf("%s has %d beginnings and %d ends", x.stream, x.starts, x.ends)
		}
	}
	for name := range accepted {
		if streams[name] != 1 {
			t.Errorf("%s was let in, and has %d beginnings", name, streams[name])
		}
	}
	t.Logf("%d short pushes, %d facts", len(accepted), len(list))
	if len(accepted) < 1000 {
		t.Errorf("only %d pushes", len(accepted))
	}
}
