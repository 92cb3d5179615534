// Package transcode makes renditions of live streams: the same pictures and
// sound in other sizes, rates and codecs (contract D).
//
// A template of the app says what is made. One ffmpeg for each source stream
// makes all of it, so that the stream is decoded once. Packets go into it by a
// pipe, as a player would get them, and each rendition comes out of one of its
// own and is published in the hub under the name {stream}{suffix}: whoever plays it
// doesn't know the difference. The times of the renditions are the source's, and
// so are their key frames' distances, so that a player may go from one to another.
//
// A Transcoder has a goroutine for every stream whose app has templates. It
// starts ffmpeg at a key frame when there is something to make, starts it again,
// later and later, when it fails, and ends it when the source changes or nobody
// wants its renditions any more. The source never waits for it: a reader that is
// too slow jumps.
package transcode

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Options are a Transcoder's settings; the zero value is good.
type Options struct {
	Log *slog.Logger

	// Max is how many sources are transcoded at a time; default: the number of
	// processors. What would be more is refused, and says so.
	Max int

	// Font is the file of the font of clocks; default: DejaVu Sans where Debian
	// has it. Without a font there are no clocks.
	Font string

	// Picture returns an object of a bucket, of at most so many bytes.
	Picture func(ctx context.Context, bucket, key string, most int64) ([]byte, error)

	// Raise raises an alert about a push, if it is not raised already, and Clear
	// clears it.
	Raise func(p *stream.Publication, alert, text string, value, limit float64)
	Clear func(p *stream.Publication, alert string)
}

// The alerts that a Transcoder raises.
const (
	alertSlow    = "transcode_slow"    // renditions are far behind their source
	alertFailing = "transcode_failing" // ffmpeg fails again and again
	alertRefused = "transcode_refused" // there is no room for more
)

// pace is how patient a Transcoder is; tests are less so.
type pace struct {
	stall   time.Duration // for how long ffmpeg may owe output
	sound   time.Duration // how long one has to last for its failure to be the first
	settle  time.Duration // how long one may take to catch up with the source
	slow    int           // for how many seconds it may be far behind then
	measure time.Duration // after which the source's bit rate is known
	restore time.Duration // after which a rendition that was given up is tried again
	again   time.Duration // after which who was refused, a place or a name, asks again
	nice    int           // of ffmpeg: the lowest, for a picture is small and a rendition is not, so that it is the one to wait
}

var patient = pace{
	stall: 10 * time.Second, sound: time.Minute, settle: 15 * time.Second, slow: 5, measure: 10 * time.Second, restore: 30 * time.Second, again: 5 * time.Second, nice: 19,
}

// Transcoder makes the renditions of a hub's streams. Its methods may be called
// from any goroutine.
type Transcoder struct {
	hub  *stream.Hub
	tool *ffmpeg.Tool
	opt  Options
	log  *slog.Logger
	pace pace
	dev  string // where devices are

	trialMu sync.Mutex
	trials  map[string]trial // of encoders, by name

	mu      sync.Mutex
	sources map[stream.Key]*source
	running int
	slow    int // of them, that do not keep up

	restarts, frames, dropped, shed atomic.Int64
}

// New returns a Transcoder of the hub's streams, to which it attaches itself: it
// is called before the hub is used. It ends with the hub.
func New(hub *stream.Hub, tool *ffmpeg.Tool, o Options) *Transcoder {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Max = cmp.Or(o.Max, runtime.NumCPU())
	if o.Font == "" {
		o.Font = defaultFont()
	}
	if o.Raise == nil {
		o.Raise = func(*stream.Publication, string, string, float64, float64) {}
	}
	if o.Clear == nil {
		o.Clear = func(*stream.Publication, string) {}
	}
	t := &Transcoder{
		hub: hub, tool: tool, opt: o, log: o.Log, pace: patient, dev: "/dev",
		trials: make(map[string]trial), sources: make(map[stream.Key]*source),
	}
	hub.OnPublish(t.follow)
	hub.OnWanted(t.wanted)
	return t
}

// follow makes the renditions of one stream, from its start to its end.
func (t *Transcoder) follow(ctx context.Context, s *stream.Stream) {
	if pub := s.AwaitPublication(ctx, nil); pub == nil || pub.Push().Of != nil {
		return // renditions have none of their own
	}
	src := t.source(s)
	defer t.forget(src)
	src.run(ctx)
}

// source returns the account of a stream.
func (t *Transcoder) source(s *stream.Stream) *source {
	t.mu.Lock()
	defer t.mu.Unlock()
	src := t.sources[s.Key()]
	if src == nil || src.s != s {
		src = &source{t: t, s: s, key: s.Key(), log: t.log.With("stream", s.Key().String()), wake: make(chan struct{}, 1), made: make(map[string]*stream.Publication), last: make(map[string][2]int64)}
		t.sources[src.key] = src
	}
	return src
}

func (t *Transcoder) forget(src *source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sources[src.key] == src {
		delete(t.sources, src.key)
	}
}

// wanted is asked by the hub for a stream that nobody publishes: it starts the
// template that makes it for players.
func (t *Transcoder) wanted(key stream.Key) bool {
	of := key
	for i := len(key.Name) - 1; i > 0; i-- {
		of.Name = key.Name[:i]
		s := t.hub.Find(of)
		if s == nil || !s.Live() || s.Push().Of != nil || len(s.App().Transcode) == 0 {
			continue
		}
		src := t.source(s)
		if src.play(key.Name[i:]) {
			return true
		}
		if !s.Live() {
			t.forget(src)
		}
	}
	return false
}

// Play starts the templates of s that are made for players: somebody has begun to
// play its ladder.
func (t *Transcoder) Play(s *stream.Stream) {
	if !s.Live() || s.Push().Of != nil {
		return
	}
	_, played := templates(s.App(), s.Push())
	if len(played) == 0 {
		return
	}
	src := t.source(s)
	src.want(played...)
	if !s.Live() {
		t.forget(src)
	}
}

// refusal is the error of a source for which there is no place.
type refusal string

func (r refusal) Error() string { return string(r) }

// enter takes one of the places for sources that are transcoded, unless src has one, or
// returns a refusal: before those that are there suffer, others wait. Who has a place
// keeps it, whatever comes of its ffmpeg, until it leaves.
func (t *Transcoder) enter(src *source) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case src.placed:
		return nil
	case t.running >= t.opt.Max:
		return refusal(fmt.Sprintf("this node transcodes %d streams already", t.running))
	case t.slow > 0:
		return refusal("this node does not keep up with what it transcodes already")
	}
	t.running++
	src.placed = true
	return nil
}

// leave gives the place of src, if it has one, to others.
func (t *Transcoder) leave(src *source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if src.placed {
		t.running--
		src.placed = false
	}
}

// Status is how the renditions of a stream fare.
type Status struct {
	Source    stream.Key
	State     string   // idle, starting, running, waiting, failing, refused
	Reason    string   // why it waits, fails or is refused
	Templates []string // that are in use
	Started   time.Time
	Restarts  int64         // after failures
	Speed     float64       // of the slowest rendition, in the last seconds; 1 is real time, 0 is not known
	Lag       time.Duration // of the slowest rendition behind the source
	Frames    int64         // pictures and sounds of all renditions, by the ffmpeg that runs
	Dropped   int64         // pictures that it left out to keep the frame rate
	Outputs   []OutputStatus
}

// OutputStatus is one rendition.
type OutputStatus struct {
	Key           stream.Key
	Encoder       string
	Width, Height int
	FrameRate     float64
	GOP           time.Duration // whole frames of each of the stream's renditions; 0: it has those of the source
	BitRate       int           // that is aimed at, bit/s
	Live          bool
	Shed          bool   // given up because the machine could not keep up
	Error         string // why it is not made
}

// Status returns how all renditions fare, in the order of their sources' names.
func (t *Transcoder) Status() []Status {
	t.mu.Lock()
	sources := make([]*source, 0, len(t.sources))
	for _, src := range t.sources {
		sources = append(sources, src)
	}
	t.mu.Unlock()
	list := make([]Status, 0, len(sources))
	for _, src := range sources {
		if st, ok := src.status(); ok {
			list = append(list, st)
		}
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Source.String(), b.Source.String()) })
	return list
}

// states are all that a Status.State can be.
var states = []string{"idle", "starting", "running", "waiting", "failing", "refused"}

// Stats is a Transcoder's account since it began.
type Stats struct {
	States   map[string]int // of sources, now
	Restarts int64          // of an ffmpeg that had failed
	Frames   int64          // pictures and sounds of renditions
	Dropped  int64          // pictures that ffmpeg left out to keep the frame rate
	Slowest  float64        // speed of the slowest rendition of all; 0: not known
	Shed     int64          // renditions given up because the machine could not keep up
}

// Stats returns the Transcoder's account.
func (t *Transcoder) Stats() Stats {
	s := Stats{States: make(map[string]int, len(states)), Restarts: t.restarts.Load(), Frames: t.frames.Load(), Dropped: t.dropped.Load(), Shed: t.shed.Load()}
	for _, name := range states {
		s.States[name] = 0
	}
	for _, st := range t.Status() {
		s.States[st.State]++
		s.Dropped += st.Dropped
		if st.Speed > 0 && (s.Slowest == 0 || st.Speed < s.Slowest) {
			s.Slowest = st.Speed
		}
	}
	return s
}

// presets returns the names of the templates that a push asks for.
func presets(push *stream.Push) []string {
	p, ok := push.Client.Param("preset")
	if !ok {
		return nil
	}
	return strings.Split(p, ",")
}

// templates returns those of a push that are always in use, and those that are
// used while somebody plays.
func templates(app *policy.App, push *stream.Push) (always, played []*policy.Transcode) {
	presets := presets(push)
	for i := range app.Transcode {
		switch t := &app.Transcode[i]; {
		case t.Trigger == policy.TranscodePublish || slices.Contains(presets, t.Name):
			always = append(always, t)
		case t.Trigger == policy.TranscodePlay:
			played = append(played, t)
		}
	}
	return always, played
}
