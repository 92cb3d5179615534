// Bench measures this tree's weir on one core, with the load tool on another,
// and writes what docs/performance.md reports: see README.md in this folder.
//
// For each load it starts a new server, runs "weir bench" against it, and then
// does the same with the least server that there can be for that load, the
// floor, if it has one. A load is run several times in turn with all others,
// and of each figure the median counts.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weir/internal/bench"
)

// A load is one row of the table.
type load struct {
	name string
	must string   // what has to be reached
	args []string // of weir bench; {rtmp} and {http} stand for the server
	hls  bool     // the floor is hlsfloor, not the C program
	bare bool     // there is no floor
}

const (
	publish = "--publish=rtmp://{rtmp}/live/s{n}"
	flv     = "--play=http://{http}/live/s{n}.flv"
	rtmp    = "--play=rtmp://{rtmp}/live/s{n}"
	hls     = "--play=http://{http}/live/s{n}/index.m3u8"
)

var loads = []load{
	{name: "flv-40", must: "p50 <= 0.5 ms, p99 <= 2 ms; join p95 <= 1 ms", args: []string{publish, flv, "--players=40"}, bare: true},
	{name: "rtmp-40", must: "p50 <= 0.5 ms, p99 <= 2 ms", args: []string{publish, rtmp, "--players=40"}, bare: true},
	{name: "flv-1000", must: "<= 1.3 CPU-s/GB, p50 <= 5 ms, p99 <= 25 ms; <= 12 KB each; <= 1.25 x floor", args: []string{publish, flv, "--players=1000"}},
	{name: "rtmp-1000", must: "<= 1.3 CPU-s/GB, p50 <= 5 ms, p99 <= 25 ms; <= 1.25 x floor", args: []string{publish, rtmp, "--players=1000"}},
	{name: "flv-4000", must: "<= 0.55 CPU-s/GB, p50 <= 60 ms, p99 <= 130 ms; <= 1.25 x floor", args: []string{publish, flv, "--players=4000", "--ramp=1000"}},
	{name: "rtmp-4000", must: "<= 0.55 CPU-s/GB, p50 <= 60 ms, p99 <= 130 ms; <= 1.25 x floor", args: []string{publish, rtmp, "--players=4000", "--ramp=1000"}},
	{name: "flv-4000-joins", must: "join p99 <= 20 ms", args: []string{publish, flv, "--players=4000", "--ramp=1000", "--joins=100"}, bare: true},
	{name: "rtmp-4000-joins", must: "join p99 <= 20 ms", args: []string{publish, rtmp, "--players=4000", "--ramp=1000", "--joins=100"}, bare: true},
	{name: "flv-12000", must: "none stalled or behind; <= 1.25 x floor", args: []string{publish, flv, "--players=12000", "--ramp=1500"}},
	{name: "rtmp-12000", must: "none stalled or behind; <= 1.25 x floor", args: []string{publish, rtmp, "--players=12000", "--ramp=1500"}},
	{name: "publishers-400", must: "<= 0.08 % of a core, <= 600 KB each", args: []string{publish, "--streams=400"}, bare: true},
	{name: "hls-1000", must: "<= 1.1 x net/http", args: []string{publish, hls, "--players=1000", "--warmup=8s"}, hls: true},
	{name: "mixed-100x40", must: "", args: []string{publish, flv, rtmp, hls, "--streams=100", "--players=40", "--ramp=1000"}, bare: true},
	{name: "mixed-100x40-slow", must: "p99 <= 1.2 x that of mixed-100x40", args: []string{publish, flv, rtmp, hls, "--streams=100", "--players=40", "--ramp=1000", "--slow-fraction=0.1"}, bare: true},
}

// A result is all runs of a load.
type result struct {
	Load   string `json:"load"`
	Must   string `json:"must"`
	Args   string `json:"args"`
	Runs   []run  `json:"runs"`
	Median figure `json:"median"`
}

// A run is one run of a load and of its floor.
type run struct {
	Weir   *bench.Report `json:"weir"`
	Gather float64       `json:"gather_ms"`       // gathering time at the end of the measurement
	Floor  *bench.Report `json:"floor,omitempty"` // at the same gathering time
}

// A figure is what the table shows of a run, or the medians of several.
type figure struct {
	CPUPerGB, OfFloor                   float64
	P50, P99, JoinP50, JoinP95, JoinP99 float64 // ms
	Gather                              float64 // ms
	Stalled, Behind, Lost               float64 // players
	PlayerKB, PublisherKB               float64
	CPUPerPublisher                     float64 // % of a core
	Others                              float64 // % of a core
}

// bed is where the programs run.
type bed struct {
	dir                    string
	serverCore, toolCore   int
	nice                   int
	duration               time.Duration
	quiet                  float64 // most % of a core that others may use during a run
	weir, cfloor, hlsfloor string  // programs; cfloor may be empty
	media                  string  // for cfloor
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) error {
	var b bed
	flag.IntVar(&b.serverCore, "server-core", 0, "core of the servers")
	flag.IntVar(&b.toolCore, "tool-core", 1, "core of the load tool")
	flag.IntVar(&b.nice, "nice", 0, "priority of both, for a machine that is not quite idle: -20 is the highest")
	flag.DurationVar(&b.duration, "duration", 10*time.Second, "of a measurement")
	flag.Float64Var(&b.quiet, "quiet", 20, "repeat a run, up to three times, while others use more than so many per cent of a core")
	runs := flag.Int("runs", 5, "runs of each load")
	only := flag.String("only", "", "regular expression of the loads to run; all by default")
	out := flag.String("o", "", "folder for results.json and results.md")
	weir := flag.String("weir", "", "server and tool program; by default it is built from this tree")
	flag.Parse()
	match, err := regexp.Compile("^(?:" + *only + ")$")
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if err := needDescriptors(13_000); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "weir-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.build(ctx, *weir, os.Getenv("FLOOR_SRC")); err != nil {
		return err
	}

	var results []*result
	for _, l := range loads {
		if *only == "" || match.MatchString(l.name) {
			results = append(results, &result{Load: l.name, Must: l.must, Args: strings.Join(l.args, " ")})
		}
	}
	for n := range *runs {
		for _, r := range results {
			l := loads[slices.IndexFunc(loads, func(l load) bool { return l.name == r.Load })]
			one, err := b.run(ctx, l)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			r.Runs = append(r.Runs, one)
			r.Median = median(r.Runs)
			fmt.Fprintf(os.Stderr, "%d/%d %s\n", n+1, *runs, row(l.name, "", figures(one)))
			if err := write(*out, results); err != nil {
				return err
			}
		}
	}
	_, err = os.Stdout.WriteString(table(results))
	return err
}

// needDescriptors makes sure that servers and tool may have n sockets. Go
// programs raise their own limit to the hard one.
func needDescriptors(n uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if l.Max < n {
		return fmt.Errorf("the limit of open files is %d; raise it to %d or more (ulimit -n)", l.Max, n)
	}
	return nil
}

// build makes the programs that have not been given.
func (b *bed) build(ctx context.Context, weir, floorSrc string) error {
	command := func(name string, args ...string) error {
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
		}
		return nil
	}
	b.weir, b.hlsfloor = weir, filepath.Join(b.dir, "hlsfloor")
	if weir == "" {
		b.weir = filepath.Join(b.dir, "weir")
		if err := command("go", "build", "-o", b.weir, "weir/cmd/weir"); err != nil {
			return err
		}
	}
	if err := command("go", "build", "-o", b.hlsfloor, "weir/bench/hlsfloor"); err != nil {
		return err
	}
	if floorSrc == "" {
		return nil
	}
	b.cfloor, b.media = filepath.Join(b.dir, "cfloor"), filepath.Join(b.dir, "media.flv")
	if err := command("cc", "-O2", "-o", b.cfloor, floorSrc); err != nil {
		return err
	}
	f, err := os.Create(b.media)
	if err != nil {
		return err
	}
	defer f.Close()
	source := bench.Command{Bitrate: 1_000_000, Audio: 96_000, FPS: 25, GOP: 2 * time.Second} // the tool's defaults
	if err := source.WriteFLV(f, 20*time.Second); err != nil {
		return fmt.Errorf("write media for the floor: %w", err)
	}
	return nil
}

// run runs a load and its floor until the machine was quiet.
func (b *bed) run(ctx context.Context, l load) (r run, err error) {
	for range 3 {
		if r.Weir, r.Gather, err = b.runWeir(ctx, l); err != nil || r.Weir.Machine.OthersPercent <= b.quiet {
			break
		}
	}
	if err != nil || l.bare || !l.hls && (b.cfloor == "" || r.Gather < 1) {
		return r, err
	}
	for range 3 {
		if r.Floor, err = b.runFloor(ctx, l, r); err != nil || r.Floor.Machine.OthersPercent <= b.quiet {
			break
		}
	}
	return r, err
}

func (b *bed) runWeir(ctx context.Context, l load) (report *bench.Report, gather float64, err error) {
	addrs, err := freeAddrs(3)
	if err != nil {
		return nil, 0, err
	}
	config := filepath.Join(b.dir, "weir.yaml")
	text := fmt.Sprintf("listen:\n  rtmp: %s\n  http: %s\n  admin: %s\nlog:\n  level: warn\n", addrs[0], addrs[1], addrs[2])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, 0, err
	}
	stop, pid, err := b.start(ctx, addrs[1], b.weir, "serve", "-c", config)
	if err != nil {
		return nil, 0, err
	}
	defer stop()
	// Just before the measurement ends, the gathering time is what it was during it.
	args := []string{"--pid=" + strconv.Itoa(pid), "--duration=" + b.duration.String()}
	for _, a := range l.args {
		args = append(args, strings.NewReplacer("{rtmp}", addrs[0], "{http}", addrs[1]).Replace(a))
	}
	report, err = b.tool(ctx, args, func() {
		if g, err := gathering(ctx, addrs[2]); err == nil {
			gather = g
		}
	})
	return report, gather, err
}

func (b *bed) runFloor(ctx context.Context, l load, weir run) (*bench.Report, error) {
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	addr := addrs[0]
	url := "http://" + addr + "/x.flv"
	program := []string{b.cfloor, b.media, addr[strings.LastIndexByte(addr, ':')+1:], strconv.Itoa(int(weir.Gather + 0.5)), "send"}
	if l.hls {
		url = "http://" + addr + "/live/index.m3u8"
		segment := weir.Weir.Players.BitsMedian / 8 * 2
		program = []string{b.hlsfloor, "-listen", addr, "-size", strconv.Itoa(int(segment))}
	}
	stop, pid, err := b.start(ctx, addr, program...)
	if err != nil {
		return nil, err
	}
	defer stop()
	args := []string{"--pid=" + strconv.Itoa(pid), "--duration=" + b.duration.String(), "--play=" + url}
	for _, a := range l.args {
		if !strings.HasPrefix(a, "--play=") && !strings.HasPrefix(a, "--publish=") {
			args = append(args, a)
		}
	}
	return b.tool(ctx, args, func() {})
}

// pinned returns a command that runs on one core.
func (b *bed) pinned(ctx context.Context, core int, program ...string) *exec.Cmd {
	args := append([]string{"-c", strconv.Itoa(core)}, program...)
	name := "taskset"
	if b.nice != 0 {
		name, args = "nice", append([]string{"-n", strconv.Itoa(b.nice), "taskset"}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// start starts a server on its core and returns when it accepts on addr.
func (b *bed) start(ctx context.Context, addr string, program ...string) (stop func(), pid int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := b.pinned(ctx, b.serverCore, program...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, 0, err
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait() // it is stopped by a signal
		close(ended)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	for range 100 {
		if nc, err := net.Dial("tcp", addr); err == nil {
			nc.Close()
			return stop, cmd.Process.Pid, nil
		}
		select {
		case <-ended:
			cancel()
			return nil, 0, fmt.Errorf("%s ended: %s", filepath.Base(program[0]), out.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	return nil, 0, fmt.Errorf("%s does not accept on %s", filepath.Base(program[0]), addr)
}

// tool runs weir bench on its core, and during in the middle of its measurement.
func (b *bed) tool(ctx context.Context, args []string, during func()) (*bench.Report, error) {
	cmd := b.pinned(ctx, b.toolCore, append([]string{b.weir, "bench", "--json"}, args...)...)
	var out bytes.Buffer
	progress := &lines{line: func(s string) {
		if strings.Contains(s, "measuring") {
			time.AfterFunc(b.duration/2, during)
		}
	}}
	cmd.Stdout, cmd.Stderr = &out, progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("weir bench %s: %w\n%s", strings.Join(args, " "), err, progress.all.String())
	}
	var report bench.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return nil, fmt.Errorf("read the report of weir bench: %w", err)
	}
	return &report, nil
}

// lines is a writer that calls line for each write, which the tool makes of whole lines.
type lines struct {
	all  bytes.Buffer
	line func(string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.line(string(b))
	return l.all.Write(b)
}

// gathering asks the server for its gathering time in milliseconds.
func gathering(ctx context.Context, admin string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		return 0, err
	}
	for line := range strings.Lines(b.String()) {
		if v, ok := strings.CutPrefix(line, "weir_feed_gather_seconds "); ok {
			s, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return s * 1000, err
		}
	}
	return 0, errors.New("the server has no metric weir_feed_gather_seconds")
}

// freeAddrs returns addresses on loopback that nobody listens on.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

func figures(r run) figure {
	f := figure{Gather: r.Gather}
	w := r.Weir
	if s := w.Server; s != nil {
		f.CPUPerGB, f.PlayerKB, f.PublisherKB, f.CPUPerPublisher = s.CPUPerGB, s.MemoryPerPlayer/1e3, s.MemoryPerPublisher/1e3, s.CPUPerPublisher
	}
	if r.Floor != nil && r.Floor.Server.CPUPerGB > 0 {
		f.OfFloor = f.CPUPerGB / r.Floor.Server.CPUPerGB
	}
	if d := w.Latency; d != nil {
		f.P50, f.P99 = d.P50, d.P99
	}
	if d := w.Join; d != nil {
		f.JoinP50, f.JoinP95, f.JoinP99 = d.P50, d.P95, d.P99
	}
	if p := w.Players; p != nil {
		f.Stalled, f.Behind, f.Lost = float64(p.Stalled), float64(p.Behind), float64(p.Wanted-p.Alive-p.SlowAlive)
	}
	if m := w.Machine; m != nil {
		f.Others = m.OthersPercent + m.StolenPercent
	}
	return f
}

// median returns the medians of the runs' figures, each by itself.
func median(runs []run) (m figure) {
	of := func(field func(*figure) *float64) {
		var vals []float64
		for _, r := range runs {
			f := figures(r)
			vals = append(vals, *field(&f))
		}
		slices.Sort(vals)
		*field(&m) = vals[len(vals)/2]
	}
	for _, field := range []func(*figure) *float64{
		func(f *figure) *float64 { return &f.CPUPerGB }, func(f *figure) *float64 { return &f.OfFloor },
		func(f *figure) *float64 { return &f.P50 }, func(f *figure) *float64 { return &f.P99 },
		func(f *figure) *float64 { return &f.JoinP50 }, func(f *figure) *float64 { return &f.JoinP95 }, func(f *figure) *float64 { return &f.JoinP99 },
		func(f *figure) *float64 { return &f.Gather }, func(f *figure) *float64 { return &f.Stalled }, func(f *figure) *float64 { return &f.Behind },
		func(f *figure) *float64 { return &f.Lost }, func(f *figure) *float64 { return &f.PlayerKB }, func(f *figure) *float64 { return &f.PublisherKB },
		func(f *figure) *float64 { return &f.CPUPerPublisher }, func(f *figure) *float64 { return &f.Others },
	} {
		of(field)
	}
	return m
}

const heading = `| load | CPU-s/GB | x floor | gather ms | latency ms p50 / p99 | join ms p50 / p95 / p99 | stalled, behind, lost | KB per player / publisher | % of a core per publisher | others % | must |
|---|---|---|---|---|---|---|---|---|---|---|
`

func row(name, must string, f figure) string {
	return fmt.Sprintf("| %s | %.3f | %.2f | %.0f | %.2f / %.2f | %.2f / %.2f / %.2f | %.0f, %.0f, %.0f | %.1f / %.0f | %.4f | %.0f | %s |",
		name, f.CPUPerGB, f.OfFloor, f.Gather, f.P50, f.P99, f.JoinP50, f.JoinP95, f.JoinP99, f.Stalled, f.Behind, f.Lost,
		f.PlayerKB, f.PublisherKB, f.CPUPerPublisher, f.Others, must)
}

func table(results []*result) string {
	var b strings.Builder
	b.WriteString(heading)
	for _, r := range results {
		if len(r.Runs) > 0 {
			fmt.Fprintln(&b, row(r.Load, r.Must, r.Median))
		}
	}
	return b.String()
}

// write keeps what there is so far.
func write(dir string, results []*result) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"go": runtime.Version(), "cpu": cpuName(), "time": time.Now().UTC().Format(time.RFC3339), "loads": results,
	}, "", "  ")
	if err != nil {
		return err
	}
	return cmp.Or(os.WriteFile(filepath.Join(dir, "results.json"), b, 0o644), os.WriteFile(filepath.Join(dir, "results.md"), []byte(table(results)), 0o644))
}

// cpuName returns what /proc/cpuinfo calls the processor.
func cpuName() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // without it the name stays empty
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
