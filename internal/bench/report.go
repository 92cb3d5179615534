package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is what a run saw in its measurement. Times are in milliseconds,
// sizes in bytes.
type Report struct {
	Seconds    float64        `json:"seconds"`
	Publishers *Publishers    `json:"publishers,omitempty"`
	Players    *Players       `json:"players,omitempty"`
	Join       *Distribution  `json:"join_ms,omitempty"`    // connect to first whole key frame (HLS: segment)
	Latency    *Distribution  `json:"latency_ms,omitempty"` // of video frames, writing of the clock to arrival of the last byte
	Segments   *Distribution  `json:"segment_ms,omitempty"` // HLS: age of a segment's first frame when all of the segment is there
	Missed     int64          `json:"missed_frames"`        // between the first and last one that each sampled player got
	Server     *Server        `json:"server,omitempty"`
	Tool       Tool           `json:"tool"`
	Machine    *Machine       `json:"machine,omitempty"`
	Problems   map[string]int `json:"problems,omitempty"` // what ended publishers and players, and how many
}

// Publishers is what the publishers did.
type Publishers struct {
	Wanted        int     `json:"wanted"`
	Alive         int     `json:"alive"`           // at the end
	BitsPerSecond float64 `json:"bits_per_second"` // of one, on average
	Dropped       int64   `json:"dropped_frames"`  // because the server did not take them
}

// Players is what became of the players. Slow ones count in Wanted, Joined and
// SlowAlive only.
type Players struct {
	Wanted         int     `json:"wanted"`
	Joined         int     `json:"joined"`
	Alive          int     `json:"alive"`   // at the end
	Stalled        int     `json:"stalled"` // of those alive: got nothing for the time that --stall says
	Behind         int     `json:"behind"`  // of those alive: got less than 90 % of their stream
	SlowAlive      int     `json:"slow_alive"`
	ExtraJoins     int     `json:"extra_joins"`
	BytesPerSecond float64 `json:"bytes_per_second"`    // to all players together
	BitsMin        float64 `json:"bits_per_second_min"` // to one player
	BitsMedian     float64 `json:"bits_per_second_p50"`
	BitsMax        float64 `json:"bits_per_second_max"`
}

// Distribution is how values are spread.
type Distribution struct {
	Count uint64  `json:"count"`
	Min   float64 `json:"min"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// Server is what the server's processes used.
type Server struct {
	CPUSeconds         float64 `json:"cpu_seconds"`
	CPUPercent         float64 `json:"cpu_percent"`                  // of one core
	CPUPerGB           float64 `json:"cpu_seconds_per_gb,omitempty"` // per 10^9 bytes delivered
	CPUPerPlayer       float64 `json:"cpu_percent_per_player,omitempty"`
	CPUPerPublisher    float64 `json:"cpu_percent_per_publisher,omitempty"` // only without players
	RSS                int64   `json:"rss"`
	MemoryPerPlayer    float64 `json:"memory_per_player,omitempty"`    // growth of RSS from before the players to the measurement
	MemoryPerPublisher float64 `json:"memory_per_publisher,omitempty"` // growth from before the publishers to before the players
	PeakThreads        int     `json:"peak_threads"`
}

// Tool is what the tool itself used: near 100 % of a core the other figures
// are its own fault.
type Tool struct {
	CPUPercent float64       `json:"cpu_percent"`
	Pacing     *Distribution `json:"pacing_ms,omitempty"` // how late the publishers' frames were
}

// Machine says how quiet the machine was: what others than the server and the
// tool did there during the measurement. Figures from a busy one mean little.
type Machine struct {
	OthersPercent float64 `json:"others_percent"` // of one core
	StolenPercent float64 `json:"stolen_percent"` // taken by the host of a virtual machine
}

func (h *histogram) distribution() *Distribution {
	if h.n == 0 {
		return nil
	}
	ms := func(v int64) float64 { return float64(v) / 1e6 }
	return &Distribution{
		Count: h.n, Min: ms(h.min), Mean: ms(h.mean()), P50: ms(h.percentile(50)), P90: ms(h.percentile(90)), P95: ms(h.percentile(95)),
		P99: ms(h.percentile(99)), P999: ms(h.percentile(99.9)), Max: ms(h.max),
	}
}

// report sums up a measurement of length d.
func (r *run) report(d time.Duration, delivered int64, own time.Duration) *Report {
	s := d.Seconds()
	report := &Report{
		Seconds: s, Latency: r.latency.distribution(), Segments: r.segments.distribution(), Join: r.join.distribution(), Missed: r.missed,
		Tool:     Tool{CPUPercent: own.Seconds() / s * 100, Pacing: r.pacing.distribution()},
		Problems: r.problems,
	}
	if r.extraJoin.n > 0 {
		report.Join = r.extraJoin.distribution()
	}
	if len(r.publishers) > 0 {
		pubs := &Publishers{Wanted: len(r.publishers), Alive: r.publishing}
		for _, p := range r.publishers {
			pubs.BitsPerSecond += float64(p.bytes-p.mark) * 8 / s / float64(len(r.publishers))
			pubs.Dropped += p.dropped
		}
		report.Publishers = pubs
	}
	if len(r.players) > 0 {
		report.Players = r.sumPlayers(s, delivered)
	}
	return report
}

func (r *run) sumPlayers(s float64, delivered int64) *Players {
	// What a player should have got: what was published or, if that was done
	// by others, what the best player of the same stream got.
	full := make([]int64, r.cmd.Streams)
	for i, p := range r.publishers {
		full[i] = p.bytes - p.mark
	}
	if len(r.publishers) == 0 {
		for _, p := range r.players {
			full[p.stream] = max(full[p.stream], p.bytes-p.mark)
		}
	}
	sum := &Players{Wanted: len(r.players), Joined: r.joined, ExtraJoins: int(r.extraJoin.n), BytesPerSecond: float64(delivered) / s}
	var rates []float64
	for _, p := range r.players {
		switch {
		case p.over || p.joined == 0:
			continue
		case p.slow:
			sum.SlowAlive++
			continue
		}
		sum.Alive++
		got := p.bytes - p.mark
		_, segments := p.proto.(*hlsPlay)
		switch {
		case p.stalled:
			sum.Stalled++
		case !segments && got*10 < full[p.stream]*9:
			sum.Behind++
		}
		rates = append(rates, float64(got)*8/s)
	}
	if n := len(rates); n > 0 {
		slices.Sort(rates)
		sum.BitsMin, sum.BitsMedian, sum.BitsMax = rates[0], rates[n/2], rates[n-1]
	}
	return sum
}

// server sums up what the server used, from its usage at rest, with publishers
// alone, and at the beginning and end of the measurement.
func (r *run) server(idle, alone, begin, end usage, report *Report) *Server {
	cpu := (end.CPU - begin.CPU).Seconds()
	s := &Server{CPUSeconds: cpu, CPUPercent: cpu / report.Seconds * 100, RSS: end.RSS, PeakThreads: max(r.threads, end.Threads)}
	if n := len(r.publishers); n > 0 {
		s.MemoryPerPublisher = float64(alone.RSS-idle.RSS) / float64(n)
		if len(r.players) == 0 {
			s.CPUPerPublisher = s.CPUPercent / float64(n)
		}
	}
	if p := report.Players; p != nil && p.Joined > 0 {
		s.CPUPerGB = cpu / (p.BytesPerSecond * report.Seconds / 1e9)
		s.CPUPerPlayer = s.CPUPercent / float64(p.Joined)
		s.MemoryPerPlayer = float64(end.RSS-alone.RSS) / float64(p.Joined)
	}
	return s
}

// Print writes the report as text.
func (r *Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	if p := r.Publishers; p != nil {
		line("publishers", "%d of %d alive, %.3f Mbit/s each, %d frames dropped", p.Alive, p.Wanted, p.BitsPerSecond/1e6, p.Dropped)
	}
	if p := r.Players; p != nil {
		line("players", "%d of %d alive, %d stalled, %d behind", p.Alive, p.Wanted, p.Stalled, p.Behind)
		if p.SlowAlive > 0 {
			line("slow players", "%d alive", p.SlowAlive)
		}
		line("delivered", "%.1f MB/s; one player %.3f Mbit/s (%.3f to %.3f)", p.BytesPerSecond/1e6, p.BitsMedian/1e6, p.BitsMin/1e6, p.BitsMax/1e6)
	}
	spread := func(name string, d *Distribution) {
		if d != nil {
			line(name, "p50 %.2f ms, p95 %.2f, p99 %.2f, max %.2f (%d)", d.P50, d.P95, d.P99, d.Max, d.Count)
		}
	}
	spread("join", r.Join)
	spread("latency", r.Latency)
	spread("segments", r.Segments)
	if r.Missed > 0 {
		line("missed", "%d frames", r.Missed)
	}
	if s := r.Server; s != nil {
		line("server CPU", "%.2f s in %.1f s: %.1f %% of a core", s.CPUSeconds, r.Seconds, s.CPUPercent)
		if s.CPUPerGB > 0 {
			line("", "%.3f s per GB, %.4f %% per player", s.CPUPerGB, s.CPUPerPlayer)
		}
		if s.CPUPerPublisher > 0 {
			line("", "%.4f %% per publisher", s.CPUPerPublisher)
		}
		line("server memory", "%.1f MB; %.1f KB per publisher, %.1f KB per player", float64(s.RSS)/1e6, s.MemoryPerPublisher/1e3, s.MemoryPerPlayer/1e3)
		line("server threads", "%d at most", s.PeakThreads)
	}
	line("tool", "%.1f %% of a core", r.Tool.CPUPercent)
	spread("pacing", r.Tool.Pacing)
	if m := r.Machine; m != nil {
		line("others", "%.1f %% of a core; stolen %.1f %%", m.OthersPercent, m.StolenPercent)
	}
	for _, p := range slices.SortedFunc(maps.Keys(r.Problems), func(a, b string) int { return cmp.Compare(r.Problems[b], r.Problems[a]) }) {
		line("problem", "%d x %s", r.Problems[p], p)
	}
	return w.Flush()
}
