// Package bench is the load tool: it publishes to a server of any make, plays
// from it over RTMP, HTTP-FLV and HLS, and measures both the players and the
// server.
//
// A load tool must not measure itself. Everything runs in one goroutine on
// nonblocking sockets (see loop), so that twelve thousand players and their
// publisher fit on one core. Of the players some are sampled: they read all
// and immediately, and take the end-to-end latency of each video frame from the
// clock that the publisher wrote into it. The others read up to the first
// whole key frame, which is their join time, and from then on drop what comes
// inside the kernel, at intervals.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Command is the command line of the load tool, for package kong.
type Command struct {
	Publish string   `placeholder:"URL" help:"Publish to this rtmp:// URL; {n} is the number of the stream."`
	Play    []string `placeholder:"URL" sep:"none" help:"Play this rtmp:// URL, http:// URL of FLV, or of HLS if its path ends in .m3u8; {n} is the number of the stream. Several: players take them in turn."`
	Streams int      `default:"1" help:"Number of streams."`
	First   int      `default:"1" help:"Number of the first stream."`
	Players int      `default:"1" help:"Players of each stream."`

	Bitrate  Bits          `default:"1M" help:"Bits a second of the built-in source, video and audio."`
	Audio    Bits          `default:"96k" help:"Bits a second of its audio; 0 for none."`
	FPS      float64       `default:"25" help:"Frames a second of the built-in source."`
	GOP      time.Duration `default:"2s" help:"Time between its key frames."`
	File     string        `type:"existingfile" placeholder:"FLV" help:"Publish this file in a loop instead of the built-in source."`
	Ramp     float64       `default:"500" help:"Players that connect in a second."`
	Warmup   time.Duration `default:"3s" help:"Time between the last join and the measurement."`
	Duration time.Duration `default:"10s" help:"Time of the measurement."`
	Joins    float64       `placeholder:"RATE" help:"During the measurement, extra players a second that leave when they have joined. The join times reported are then theirs."`

	Sample       int           `default:"40" help:"Players that read everything at once, to measure latency. The others drain."`
	ReadInterval time.Duration `default:"0s" help:"Interval at which the other players drain; 0: 25 ms, and more from 2000 players on."`
	SlowFraction float64       `help:"Part of the RTMP and FLV players that read slowly, 0 to 1."`
	SlowRate     Bits          `default:"100k" help:"Bits a second that a slow player reads."`
	Stall        time.Duration `default:"3s" help:"A player that gets nothing for so long counts as stalled."`
	Timeout      time.Duration `default:"15s" help:"Time in which publishers must start, and players join after the last of them connected."`
	PID          []int         `name:"pid" placeholder:"PID" help:"Measure this server process, too. Several: their sum."`
	JSON         bool          `name:"json" help:"Report as JSON."`
}

// Bits is a bit rate, as text a number with an optional k, M or G.
type Bits int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bits) UnmarshalText(text []byte) error {
	s, unit := string(text), 1.0
	if i := strings.IndexAny(s, "kKmMgG"); i >= 0 && i == len(s)-1 {
		unit = map[byte]float64{'k': 1e3, 'm': 1e6, 'g': 1e9}[s[i]|0x20]
		s = s[:i]
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0 && v*unit <= 1e12) {
		return fmt.Errorf("%q is no bit rate: a number, and k, M or G", text)
	}
	*b = Bits(v * unit)
	return nil
}

// Run runs the load and prints the report to standard output. It says on
// standard error how far it is. When ctx ends, so does it, with ctx's error.
func (c *Command) Run(ctx context.Context) error {
	report, err := c.Measure(ctx)
	if err != nil {
		return err
	}
	if !c.JSON {
		return report.Print(os.Stdout)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(report)
}

// Measure runs the load and returns what it saw. The calling goroutine does
// all of the work.
func (c *Command) Measure(ctx context.Context) (*Report, error) {
	r, err := newRun(ctx, c)
	if err != nil {
		return nil, err
	}
	defer r.loop.close()
	return r.measure(ctx)
}

func (c *Command) check() error {
	switch {
	case c.Publish == "" && len(c.Play) == 0:
		return errors.New("nothing to do: give --publish, --play or both")
	case c.Streams < 1 || c.Players < 1:
		return errors.New("--streams and --players must be at least 1")
	case c.Ramp <= 0 || c.Duration <= 0 || c.ReadInterval < 0:
		return errors.New("--ramp and --duration must be more than 0, --read-interval not less")
	case c.SlowFraction < 0 || c.SlowFraction > 1:
		return errors.New("--slow-fraction must be between 0 and 1")
	case c.Publish != "" && !strings.HasPrefix(c.Publish, "rtmp://"):
		return errors.New("--publish must be an rtmp:// URL")
	case c.Joins > 0 && len(c.Play) == 0:
		return errors.New("--joins needs --play")
	case c.Bitrate < c.Audio+50_000:
		return errors.New("--bitrate leaves no room for video")
	}
	for _, u := range append([]string{c.Publish}, c.Play...) {
		if u != "" && c.Streams > 1 && !strings.Contains(u, "{n}") {
			return fmt.Errorf("%s: several streams need {n} in the URL", u)
		}
	}
	return nil
}

// A run is one execution of a Command. All of it belongs to one goroutine.
type run struct {
	cmd           *Command
	loop          *loop
	source        *source
	resolve       resolver
	publishers    []*publisher
	players       []*player
	extras        int // players that came during the measurement
	receiveBuffer int
	slowRate      int64

	publishing int // publishers at work
	joined     int // players that have joined
	failed     int // players that will not
	measuring  bool
	delivered  int64 // bytes to all players
	missed     int64 // frames that sampled players did not get
	pacing     histogram
	join       histogram
	extraJoin  histogram
	latency    histogram
	segments   histogram // the age of segments of HLS
	problems   map[string]int
	threads    int // most that the server had
}

const (
	// maxReads is how many drains a second the tool aims at: a fifth of a core.
	// More often is nearer to a real player, which acknowledges what comes
	// before TCP's timer for that fires on the server's side of a loopback.
	maxReads                    = 80_000
	leastInterval, mostInterval = 25 * time.Millisecond, 250 * time.Millisecond
	// slowBuffer is small, so that the server soon feels a slow player.
	slowBuffer = 16 << 10
	// leastBuffer holds a key frame on top of what comes in a read interval.
	leastBuffer = 256 << 10
)

func newRun(ctx context.Context, c *Command) (*run, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &run{cmd: c, slowRate: int64(c.SlowRate), problems: make(map[string]int), resolve: resolver{ctx, make(map[string]netip.AddrPort)}}
	var err error
	if r.source, err = c.source(); err != nil {
		return nil, err
	}
	if c.Publish != "" {
		for n := range c.Streams {
			t, err := r.resolve.target(c.Publish, c.First+n)
			if err != nil {
				return nil, fmt.Errorf("--publish: %w", err)
			}
			r.publishers = append(r.publishers, newPublisher(r, t))
		}
	}
	if len(c.Play) > 0 {
		for i := range c.Streams * c.Players {
			p, err := r.newPlayer(i)
			if err != nil {
				return nil, fmt.Errorf("--play: %w", err)
			}
			r.players = append(r.players, p)
		}
	}
	r.choose()
	interval := c.ReadInterval
	if interval == 0 {
		interval = min(max(leastInterval, time.Duration(len(r.players))*time.Second/maxReads), mostInterval)
	}
	// A window must hold what comes between two reads, and bursts of as much.
	r.receiveBuffer = max(leastBuffer, int(float64(c.Bitrate)/8*interval.Seconds()*4))
	r.loop, err = newLoop(interval)
	return r, err
}

// newPlayer makes the player that comes i-th.
func (r *run) newPlayer(i int) (*player, error) {
	p := &player{run: r, stream: i % r.cmd.Streams}
	template := r.cmd.Play[i/r.cmd.Streams%len(r.cmd.Play)]
	var err error
	if p.target, err = r.resolve.target(template, r.cmd.First+p.stream); err != nil {
		return nil, err
	}
	path, _, _ := strings.Cut(p.target.path, "?")
	switch {
	case p.target.app != "":
		p.proto = newRTMPPlay(p.target)
	case strings.HasSuffix(path, ".m3u8"):
		p.proto = newHLSPlay(p.target)
	default:
		p.proto = newFLVPlay(p.target)
	}
	return p, nil
}

// choose says which players are slow and which are sampled: one at random of
// each of as many equal parts, so that they are spread evenly over the order
// of joining and still over all streams.
func (r *run) choose() {
	random := rand.New(rand.NewPCG(1, 2))
	spread := func(players []*player, n int, mark func(*player)) {
		n = min(n, len(players))
		for i := range n {
			from, to := i*len(players)/n, (i+1)*len(players)/n
			mark(players[from+random.IntN(to-from)])
		}
	}
	var drained, good []*player
	for _, p := range r.players {
		if p.proto.drains() {
			drained = append(drained, p)
		}
	}
	spread(drained, int(r.cmd.SlowFraction*float64(len(drained))+0.5), func(p *player) { p.slow = true })
	for _, p := range r.players {
		if !p.slow {
			good = append(good, p)
		}
	}
	spread(good, r.cmd.Sample, func(p *player) { p.sampled = true })
}

// note counts a problem for the report.
func (r *run) note(problem string) { r.problems[problem]++ }

// say tells the user how far the run is.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// wait works until done or for d.
func (r *run) wait(ctx context.Context, d time.Duration, done func() bool) error {
	end := r.loop.now() + int64(d)
	return r.loop.run(ctx, func(now int64) bool { return now >= end || done != nil && done() })
}

// measure is the course of a run.
func (r *run) measure(ctx context.Context) (*Report, error) {
	c := r.cmd
	idle, err := readUsage(c.PID)
	if err != nil {
		return nil, err
	}
	if err := r.publish(ctx); err != nil {
		return nil, err
	}
	defer r.stop()
	alone, err := readUsage(c.PID)
	if err != nil {
		return nil, err
	}
	if err := r.play(ctx); err != nil {
		return nil, err
	}

	begin, err := readUsage(c.PID)
	if err != nil {
		return nil, err
	}
	own, since, delivered := ownCPU(), r.loop.now(), r.delivered
	machine, err := readMachine()
	if err != nil {
		return nil, err
	}
	for _, p := range r.publishers {
		p.mark = p.bytes
	}
	for _, p := range r.players {
		p.mark = p.bytes
	}
	r.measuring = true
	r.say("measuring for %v", c.Duration)
	r.watch(since)
	r.joinMore(since)
	if err := r.wait(ctx, c.Duration, nil); err != nil {
		return nil, err
	}
	r.measuring = false
	end, err := readUsage(c.PID)
	if err != nil {
		return nil, err
	}
	report := r.report(time.Duration(r.loop.now()-since), r.delivered-delivered, ownCPU()-own)
	if len(c.PID) > 0 {
		report.Server = r.server(idle, alone, begin, end, report)
		now, err := readMachine()
		if err != nil {
			return nil, err
		}
		others := now.busy - machine.busy - (end.CPU - begin.CPU)
		report.Machine = &Machine{
			OthersPercent: max(others.Seconds()/report.Seconds*100-report.Tool.CPUPercent, 0),
			StolenPercent: (now.stolen - machine.stolen).Seconds() / report.Seconds * 100,
		}
	}
	return report, nil
}

// publish starts the publishers and lets them run for as long as a server
// needs to have whole GOPs. Their beginnings are spread over one GOP, so that their key
// frames are.
func (r *run) publish(ctx context.Context) error {
	if len(r.publishers) == 0 {
		return nil
	}
	now := r.loop.now()
	for i, p := range r.publishers {
		r.loop.after(now+int64(r.cmd.GOP)*int64(i)/int64(len(r.publishers)), p.start)
	}
	stopped := func() bool {
		for _, p := range r.publishers {
			if p.over {
				return true
			}
		}
		return false
	}
	err := r.wait(ctx, r.cmd.GOP+r.cmd.Timeout, func() bool { return r.publishing == len(r.publishers) || stopped() })
	if err != nil {
		return err
	}
	r.say("%d of %d publishing", r.publishing, len(r.publishers))
	if err := r.wait(ctx, 2*r.cmd.GOP+time.Second, nil); err != nil {
		return err
	}
	if r.publishing < len(r.publishers) {
		return fmt.Errorf("%d of %d publishers did not get through: %s", len(r.publishers)-r.publishing, len(r.publishers), r.firstProblem())
	}
	return nil
}

// play starts the players and waits until they have joined and the load is steady.
func (r *run) play(ctx context.Context) error {
	if len(r.players) > 0 {
		now := r.loop.now()
		for i, p := range r.players {
			r.loop.after(now+int64(float64(i)/r.cmd.Ramp*1e9), p.start)
		}
		ramp := time.Duration(float64(len(r.players)) / r.cmd.Ramp * 1e9)
		if err := r.wait(ctx, ramp+r.cmd.Timeout, func() bool { return r.joined+r.failed == len(r.players) }); err != nil {
			return err
		}
		r.say("%d of %d players joined", r.joined, len(r.players))
		if r.joined == 0 {
			return fmt.Errorf("no player joined: %s", r.firstProblem())
		}
	}
	return r.wait(ctx, r.cmd.Warmup, nil)
}

func (r *run) firstProblem() string {
	for p := range r.problems {
		return p
	}
	return "no answer in time"
}

// watch looks each half second at what can only be seen in passing: players
// that stall and the server's threads.
func (r *run) watch(now int64) {
	for _, p := range r.players {
		if p.joined > 0 && !p.over && !p.slow && now-p.last > int64(r.cmd.Stall) {
			p.stalled = true
		}
	}
	if u, err := readUsage(r.cmd.PID); err == nil {
		r.threads = max(r.threads, u.Threads)
	}
	if r.measuring {
		r.loop.after(now+int64(time.Second/2), r.watch)
	}
}

// joinMore starts extra players at the given rate while the measurement lasts.
func (r *run) joinMore(now int64) {
	if r.cmd.Joins <= 0 || !r.measuring {
		return
	}
	if p, err := r.newPlayer(r.extras); err == nil { // as it was for the first players
		p.extra = true
		r.extras++
		p.start(now)
	}
	r.loop.after(now+int64(1e9/r.cmd.Joins), r.joinMore)
}

// stop ends the publishers in order.
func (r *run) stop() {
	for _, p := range r.publishers {
		p.stop()
	}
}
