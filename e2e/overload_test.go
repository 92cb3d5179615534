//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/media/rtmp"
)

// F46: a server that has as many publishers and players as it may, records, takes pictures and
// transcodes, is asked for ten times as many for half a minute, and then has to share all processors with
// other work. Those who are there notice nothing, others are refused with a reason; what gives way are
// renditions, and pictures before anything else; and half a minute later all of it is as before.
func TestTenfoldLoad(t *testing.T) {
	if os.Getenv("WEIR_LONG") == "" {
		t.Skip("for two minutes of an idle machine: WEIR_LONG=1 go test -tags e2e -v -run TestTenfoldLoad ./e2e")
	}
	const (
		streams, each                 = 50, 10 // players of each
		before, storm, busy, recovery = 15 * time.Second, 30 * time.Second, 20 * time.Second, 30 * time.Second
	)
	dir := t.TempDir()
	weir := filepath.Join(dir, "weir")
	if out, err := exec.Command("go", "build", "-o", weir, "weir/cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	if cc, err := exec.LookPath("cc"); err == nil {
		if out, err := exec.Command(cc, "-O2", "-shared", "-fPIC", "-o", filepath.Join(dir, "weir-forkserver.so"), "../internal/ffmpeg/forkserver/forkserver.c").CombinedOutput(); err != nil {
			t.Fatalf("cc: %v\n%s", err, out)
		}
	}
	addr := map[string]string{}
	for _, l := range []string{"rtmp", "http", "admin"} {
		var err error
		if addr[l], err = freeAddr(); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
listen: {rtmp: '%s', http: '%s', admin: '%s'}
data: data
limits: {publishers: %d, players: %d}
policy:
  spaces:
    - name: default
      domains: [{name: '*'}]
      apps:
        - name: live
          record: {mode: automatic}
          snapshot: {enabled: true, interval: 5s, width: 320}
          transcode:
            - name: ladder
              shed: true
              outputs:
                - {suffix: _big, short_side: 360, bit_rate: 800000}
                - {suffix: _small, short_side: 180, bit_rate: 200000}
`, addr["rtmp"], addr["http"], addr["admin"], streams, streams*each), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err == nil { // the one who makes pictures is another user
		os.Chmod(dir, 0o755)
	}
	s, err := startServer(weir, dir, filepath.Join(dir, "weir.log"), os.Environ(), "-c", config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.kill()
	if err := s.ready("http://" + addr["admin"]); err != nil {
		t.Fatal(err)
	}
	metric := func(name string) (sum float64) {
		body, err := get(http.MethodGet, "http://"+addr["admin"]+"/metrics", http.StatusOK, nil)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(body)) {
			fields := strings.Fields(line)
			if len(fields) == 2 && (fields[0] == name || strings.HasPrefix(fields[0], name+"{")) {
				v, _ := strconv.ParseFloat(fields[1], 64)
				sum += v
			}
		}
		return sum
	}

	// Those who are there.
	var report struct {
		Publishers struct{ Alive, Wanted int }
		Players    struct{ Alive, Stalled, Behind, Wanted int }
		Latency    struct{ P50, P99 float64 } `json:"latency_ms"`
		Problems   map[string]int
	}
	first := make(chan error, 1)
	go func() { // ends with its time
		out, err := output(weir, "bench", "--json", "--file", filepath.Join(mediaDir, "large.flv"), "--streams", strconv.Itoa(streams), "--players", strconv.Itoa(each),
			"--publish", "rtmp://"+addr["rtmp"]+"/live/s{n}", "--play", "http://"+addr["http"]+"/live/s{n}.flv", "--ramp", "200", "--warmup", "1s",
			"--duration", (before + storm + busy + recovery + 10*time.Second).String())
		if err == nil {
			err = json.Unmarshal(out, &report)
		}
		first <- err
	}()
	err = poll(time.Minute, func() error {
		if n := metric("weir_players"); n < streams*each {
			return fmt.Errorf("%v players", n)
		}
		if n := metric(`weir_transcodes{state="running"}`); n == 0 {
			return fmt.Errorf("nothing is transcoded")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	type account struct{ pictures, dropped, renditions, refused, cpu float64 }
	look := func() account {
		return account{
			metric("weir_snapshots_taken_total"), metric("weir_snapshots_dropped_total"), metric("weir_transcode_frames_total"),
			metric(`weir_refused_total{op="play",reason="full"}`) + metric(`weir_refused_total{op="publish",reason="full"}`), metric("process_cpu_seconds_total"),
		}
	}
	during := func(d time.Duration) (a account) {
		from, began := look(), time.Now()
		<-time.After(d)
		to, seconds := look(), time.Since(began).Seconds()
		return account{
			(to.pictures - from.pictures) / seconds, (to.dropped - from.dropped) / seconds, (to.renditions - from.renditions) / seconds, (to.refused - from.refused) / seconds, (to.cpu - from.cpu) / seconds,
		}
	}
	calm := during(before)
	t.Logf("before, a second: %+v", calm)

	// Nine times as many come on top, and come again when they are refused.
	ctx, cancel := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	var asked, let, wrong atomic.Int64
	visit := func(ask func() bool) {
		crowd.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				asked.Add(1)
				if ask() {
					let.Add(1)
				}
				after(ctx, time.Second)
			}
		})
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10 * streams * each}}
	defer client.CloseIdleConnections()
	for i := range 9 * streams {
		visit(func() bool {
			c, err := rtmp.Dial(ctx, "rtmp://"+addr["rtmp"]+"/live", rtmp.Config{})
			if err != nil {
				return false
			}
			defer c.Close()
			err = c.Publish(fmt.Sprint("more", i))
			if err != nil && !strings.Contains(err.Error(), "Too Many Publishers") && ctx.Err() == nil {
				wrong.Add(1)
			}
			return err == nil
		})
	}
	for i := range 9 * streams * each {
		visit(func() bool {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/live/s%d.flv", addr["http"], 1+i%streams), nil)
			resp, err := client.Do(r)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable {
				wrong.Add(1)
				return true
			}
			io.Copy(io.Discard, resp.Body)
			return false
		})
	}
	loaded := during(storm)
	t.Logf("with ten times the load, a second: %+v", loaded)
	cancel()
	crowd.Wait()
	t.Logf("%d asked for a place, %d got one, %d were refused with other words", asked.Load(), let.Load(), wrong.Load())
	if let.Load() > 0 || wrong.Load() > 0 || loaded.refused < streams*each/2 {
		t.Error("not all were refused as they should be")
	}
	inOrder := func(what string, a account) {
		if p, r := a.pictures/calm.pictures, a.renditions/calm.renditions; p < 0.8 && p < r-0.1 {
			t.Errorf("%s: %.2f of the pictures were taken, and %.2f of the renditions made", what, p, r)
		}
	}
	inOrder("with ten times the load", loaded)

	// Twice as much other work as there are processors.
	var others []*exec.Cmd
	for range 2 * runtime.NumCPU() {
		c := exec.Command("sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer c.Wait()
		defer c.Process.Kill()
		others = append(others, c)
	}
	crowded := during(busy)
	t.Logf("with no processor free, a second: %+v", crowded)
	inOrder("with no processor free", crowded)
	for _, c := range others {
		c.Process.Kill()
	}
	ended := time.Now()
	err = poll(recovery-time.Since(ended), func() error {
		if now := during(2 * time.Second); now.renditions < 0.9*calm.renditions || now.pictures < 0.5*calm.pictures {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	t.Logf("all is as before after %v", time.Since(ended).Round(time.Second))
	if err != nil {
		t.Errorf("%v after the load: %v", recovery, err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	t.Logf("those who were there: %+v", report)
	if report.Publishers.Alive != streams || report.Players.Alive != streams*each || report.Players.Stalled+report.Players.Behind > 0 {
		t.Error("publishers or players suffered")
	}
	if n := metric("weir_record_stops_total") + metric(`weir_record_files_total{outcome="failed"}`); n > 0 {
		t.Errorf("%v recordings suffered", n)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
