//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSnapshotLoad has 200 streams, each with a player over HTTP-FLV, by turns in
// an app without pictures and in one that takes a picture of each every 5 s. The
// 99th percentile of the latency of media, from the publisher's write to the
// player's read, may be a fifth higher with pictures, by the median of the turns.
// WEIR_LOAD is the length of a turn; it wants a machine that is otherwise idle.
func TestSnapshotLoad(t *testing.T) {
	turn, err := time.ParseDuration(os.Getenv("WEIR_LOAD"))
	if err != nil {
		t.Skip("for machines that are otherwise idle: WEIR_LOAD=10s go test -tags e2e -v -run TestSnapshotLoad ./e2e")
	}
	const streams, turns = 200, 5
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
		if addr[l], err = freeAddr(); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
listen: {rtmp: '%s', http: '%s', admin: '%s'}
data: data
policy:
  spaces:
    - name: default
      domains: [{name: '*'}]
      apps:
        - {name: without}
        - {name: with, snapshot: {enabled: true, interval: 5s, width: 320}}
`, addr["rtmp"], addr["http"], addr["admin"]), 0o644); err != nil {
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
	p99 := map[string][]float64{}
	for range turns {
		for _, app := range []string{"without", "with"} {
			out, err := output(weir, "bench", "--json", "--file", filepath.Join(mediaDir, "large.flv"), "--streams", strconv.Itoa(streams), "--sample", strconv.Itoa(streams),
				"--publish", "rtmp://"+addr["rtmp"]+"/"+app+"/s{n}", "--play", "http://"+addr["http"]+"/"+app+"/s{n}.flv",
				"--ramp", "200", "--warmup", "2s", "--duration", turn.String(), "--pid", strconv.Itoa(s.cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			var r struct {
				Latency struct{ P50, P99 float64 } `json:"latency_ms"`
				Players struct{ Alive, Behind int }
				Server  struct {
					CPU float64 `json:"cpu_percent"`
				}
				Machine struct {
					Others float64 `json:"others_percent"`
				}
			}
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%-7s pictures: latency p50 %.2f ms, p99 %.2f ms; server %.0f %% of a core, others %.0f %%", app, r.Latency.P50, r.Latency.P99, r.Server.CPU, r.Machine.Others)
			if r.Players.Alive != streams || r.Players.Behind > 0 {
				t.Errorf("%d of %d players are left, %d behind", r.Players.Alive, streams, r.Players.Behind)
			}
			p99[app] = append(p99[app], r.Latency.P99)
		}
	}
	metrics, err := get("GET", "http://"+addr["admin"]+"/metrics", 200, nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func(name string) float64 {
		for line := range strings.Lines(string(metrics)) {
			var v float64
			if n, _ := fmt.Sscanf(line, "weir_snapshots_"+name+" %g", &v); n == 1 {
				return v
			}
		}
		t.Fatalf("no metric %s", name)
		return 0
	}
	taken, dropped := count("taken_total"), count("dropped_total")
	t.Logf("%.0f pictures, %.0f dropped; %.1f ms of CPU a picture", taken, dropped, 1000*count("cpu_seconds_total")/max(1, taken))
	if taken == 0 {
		t.Error("no pictures were taken")
	}
	if n := count("waiting"); n > 16 {
		t.Errorf("%.0f pictures wait", n)
	}
	without, with := median(p99["without"]), median(p99["with"])
	t.Logf("p99 %.2f ms without, %.2f ms with pictures: %.2f", without, with, with/without)
	if with > 1.2*without {
		t.Errorf("with pictures the latency is %.2f times as high, want at most 1.2", with/without)
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}
