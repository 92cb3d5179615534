package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// EndReason says why a publication ended.
type EndReason uint8

const (
	EndClosed   EndReason = iota + 1 // the publisher ended it in order
	EndReset                         // the connection broke
	EndNoData                        // nothing came for too long
	EndTakeover                      // another publisher took over
	EndKicked                        // the owner of the stream ended it
	EndLimit                         // the publisher sent more than it may
	EndShutdown                      // the server is going down
	EndRevoked                       // the right to publish was withdrawn
)

var endReasons = [...]string{"unknown", "closed", "reset", "no data", "takeover", "kicked", "over limit", "shutdown", "revoked"}

func (r EndReason) String() string {
	if int(r) < len(endReasons) {
		return endReasons[r]
	}
	return endReasons[0]
}

// Ended is the error of WritePacket on a publication that the hub ended.
type Ended struct{ Reason EndReason }

func (e *Ended) Error() string { return "publication ended: " + e.Reason.String() }

// Push is who publishes: what facts about a publication say of it.
type Push struct {
	Sequence string // names the push for ever; see event.Event
	Session  string // of the client
	Client   event.Client

	// Gone, if not nil, reports without waiting whether the client has left,
	// although not all that it sent has been read.
	Gone func() bool

	// Of is the stream that this push is a rendition of; nil for others. The
	// packets then come with that stream's times and keep them, so that a
	// player may go from one to the other.
	Of *Stream
	// Continues says that the rendition goes on where another publication of it
	// has ended, with the same source: to players nothing has changed, unless the codec
	// configuration has.
	Continues bool
}

// Publication is one publisher's turn at a stream. One goroutine writes
// packets; everything else may be called from any.
type Publication struct {
	s     *Stream
	app   *policy.App
	push  Push
	start time.Time

	active atomic.Int64 // time of the last packet, ns after start
	heard  atomic.Int64 // time at which a good part of a packet came, ns after start
	held   atomic.Bool  // WritePacket is holding the publisher back: its silence is ours
	once   sync.Once
	reason EndReason
	ended  time.Time
	tally  tally
	done   chan struct{}
	idle   *time.Timer

	// Of the writing goroutine.
	unwatched   bool    // nobody took the newest packet
	leads       [3]lead // of video, of audio, and of the stream
	bytes, pkts bucket
	data        bucket
}

func newPublication(s *Stream, app *policy.App, push Push, now time.Time) *Publication {
	o := &s.hub.opt
	p := &Publication{
		s: s, app: app, push: push, start: now, done: make(chan struct{}),
		// A burst of as much media as a publisher may be ahead is no excess.
		bytes: newBucket(float64(o.MaxByteRate), now),
		pkts:  newBucket(float64(o.MaxPacketRate), now),
		data:  newBucket(maxDataRate, now),
	}
	p.idle = time.AfterFunc(1<<62, p.checkIdle) // armed only once p.idle is set
	p.idle.Reset(app.IdleTimeout)
	return p
}

// maxDataRate is how many metadata and other data messages per second are
// passed on; more are dropped.
const maxDataRate = 50

// publication returns the stream's newest publication and whether it goes on.
func (s *Stream) publication() (p *Publication, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub, s.live
}

// Publication returns who publishes the stream now; nil while it is held.
func (s *Stream) Publication() *Publication {
	if p, live := s.publication(); live {
		return p
	}
	return nil
}

// Stream returns the stream that is published.
func (p *Publication) Stream() *Stream { return p.s }

// App returns the policy that the publication began with.
func (p *Publication) App() *policy.App { return p.app }

// Push returns who publishes.
func (p *Publication) Push() *Push { return &p.push }

// Start returns when the publication began.
func (p *Publication) Start() time.Time { return p.start }

// Heard notes that a good part of a packet has come from the publisher, which is not
// silent then. The goroutine that writes calls it.
func (p *Publication) Heard() { p.heard.Store(int64(time.Since(p.start))) }

// unheard returns for how long nothing has come from the publisher.
func (p *Publication) unheard(now time.Time) time.Duration {
	return min(p.Silent(now), now.Sub(p.start)-time.Duration(p.heard.Load()))
}

// left reports whether the publisher is only being waited for because it sent
// too fast: it has gone, and what it sent is still to be read.
func (p *Publication) left() bool { return p.held.Load() && p.push.Gone != nil && p.push.Gone() }

// Silent returns for how long the publisher has sent no packet.
func (p *Publication) Silent(now time.Time) time.Duration {
	if p.held.Load() {
		return 0
	}
	return now.Sub(p.start) - time.Duration(p.active.Load())
}

// WritePacket appends a packet to the stream; DTS is on the publisher's own
// clock. It keeps the packet's bytes, which must not change afterwards. A
// publisher that is ahead of real time by more than the app's MaxLead is held
// back: the call blocks, and with it the connection. The error is an *Ended
// once the publication is over.
func (p *Publication) WritePacket(pkt av.Packet) error {
	now := time.Now()
	p.active.Store(int64(now.Sub(p.start)))
	h := p.s.hub
	if !p.pkts.take(1, now) || !p.bytes.take(float64(len(pkt.Tag)), now) {
		p.End(EndLimit)
	} else if pkt.Kind == av.Data && !p.data.take(1, now) {
		return nil
	}
	h.stats.PacketsIn.Add(1)
	h.stats.BytesIn.Add(int64(len(pkt.Tag)))
	dts, newest, ok := p.s.write(p, pkt, now)
	if !ok {
		<-p.done
		return &Ended{p.reason}
	}
	if pkt.Kind != av.Data && !pkt.Config && !pkt.Side && p.app.MaxLead > 0 {
		ahead := min(p.leads[pkt.Kind-av.Video].at(dts, now), p.leads[2].at(newest, now))
		p.pace(ahead - p.app.MaxLead)
	}
	return nil
}

// Unwatched reports whether the stream had no player and no reader when the
// newest packet was written: what comes next is in no hurry. Only the goroutine
// that writes may call it.
func (p *Publication) Unwatched() bool { return p.unwatched }

// A lead is how far a clock has come to be ahead of real time. The publisher is
// as far ahead as the track that it sends, but no further than the stream: of two
// tracks that are apart, neither is ahead because of the other one, and one that
// was taken to be of now (see [timeline]) is not ahead because of that.
type lead struct {
	since time.Time // wall time and
	dts   int64     // time of the clock from which it is counted
}

// at returns the lead of a clock that shows dts, and notes it. As clocks differ, one
// that runs up to a hundredth fast is never ahead.
func (l *lead) at(dts int64, now time.Time) time.Duration {
	due := now.Sub(l.since)
	ahead := time.Duration(dts-l.dts)*time.Millisecond - due - due/100
	if l.since.IsZero() || ahead < 0 { // behind: what was missed is not owed
		l.since, l.dts = now, dts
		return 0
	}
	return ahead
}

// pace blocks for as long as the publisher is too far ahead.
func (p *Publication) pace(excess time.Duration) {
	if excess <= 0 {
		return
	}
	p.held.Store(true)
	t := time.NewTimer(excess)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.done:
	}
	p.active.Store(int64(time.Since(p.start)))
	p.held.Store(false)
}

// checkIdle ends a publication of which nothing has been heard for the app's
// IdleTimeout, and otherwise looks again when it could be.
func (p *Publication) checkIdle() {
	left := p.app.IdleTimeout - p.unheard(time.Now())
	if left <= 0 {
		p.End(EndNoData)
		return
	}
	select {
	case <-p.done:
	default:
		p.idle.Reset(left)
	}
}

// End ends the publication; only the first reason counts.
func (p *Publication) End(r EndReason) {
	p.once.Do(func() {
		p.reason, p.ended = r, time.Now()
		p.s.hub.opt.Ended(p) // before anybody else can begin
		p.s.detach(p, r)
		p.idle.Stop()
		p.s.hub.stats.Publishers.Add(-1)
		close(p.done)
	})
}

// Done is closed when the publication has ended, whoever ended it.
func (p *Publication) Done() <-chan struct{} { return p.done }

// Reason returns why the publication ended. It is valid once Done is closed,
// and in Options.Ended.
func (p *Publication) Reason() EndReason { return p.reason }

// EndTime returns when the publication ended. It is valid when Reason is.
func (p *Publication) EndTime() time.Time { return p.ended }

// bucket is a token bucket that holds ten seconds' worth.
type bucket struct {
	rate, level float64
	at          time.Time
}

func newBucket(rate float64, now time.Time) bucket { return bucket{rate, 10 * rate, now} }

// take takes n tokens and reports whether they were there.
func (b *bucket) take(n float64, now time.Time) bool {
	b.level = min(10*b.rate, b.level+now.Sub(b.at).Seconds()*b.rate) - n
	b.at = now
	if b.level < 0 {
		b.level = 0
		return false
	}
	return true
}
