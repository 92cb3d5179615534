package hls

import (
	"bytes"
	"log/slog"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
)

const (
	// shortest is the least duration, in ms, of a segment that isn't the last
	// before a discontinuity.
	shortest = 1000
	// slack is how much longer than the target duration a segment may be, in
	// ms: its duration rounded to seconds is still the target duration.
	slack = 499
	// hurried is when, in ms, the first segment is cut without a key frame if a
	// player waits for it.
	hurried = 10_000
	// audioLead is how far ahead of video, in ms, audio may be without being
	// taken for all that still comes.
	audioLead = 1000
	// maxStep is the longest step of time, in ms, that is not a discontinuity.
	maxStep = 3000
	// usual is how long a frame takes, in ms, as long as nobody knows.
	usual = 40
	// overlap is what of a stream is left out at most, in ms, because a
	// Packager before this one has made segments of it.
	overlap = 15_000
)

// Segment is a finished piece of a stream, a transport stream of its own. It
// never changes.
type Segment struct {
	PTS           int64 // of the first frame, 1/90000 s; more than that of any segment before
	Data          []byte
	Duration      time.Duration
	Time          time.Time // when the first frame was made, by this machine's clock
	Era           uint64    // discontinuity sequence number; see Line
	Discontinuity bool      // encoder, tracks or time line are others than in the segment before: Era is greater
}

// Line is what the packets of a Packager have in common with those of others that
// package the same stream, or renditions of it, so that players may go from one to
// another: it is a stream.Reader and its stream.Stream.
type Line interface {
	Clock() (zero time.Time, origin int64, ok bool) // see stream.Stream
	NextEra(after uint64) uint64                    // the same
	Era() uint64                                    // of the packet that was read last
}

// Packager is an av.Writer that cuts a stream into segments.
//
// A segment ends before the first key frame at or after the wanted duration. The
// first segment's length decides the target duration of the playlist, which never
// changes; where a later key frame is too far away the segment is cut without
// one. A stream without video is cut by time.
//
// At a discontinuity, which is a packet with Break or a codec configuration or
// parameter set that differs in bytes from the one before, everything waits for a key
// frame, as it does at the start; where there is no picture any more, for a
// segment's time. A track that comes late joins the segment in the making; so does
// sound whose configuration comes after the key frame at which an encoder changes. The
// tracks' number changes at a segment's start, marked as a discontinuity. A
// discontinuity that the Line doesn't know of is made known to it, and one that it
// knows and the packets don't show is marked at a key frame.
//
// A Packager is used by one goroutine.
type Packager struct {
	cfg     policy.HLS
	log     *slog.Logger
	emit    func(Segment)
	hurry   func() bool // does somebody wait for the first segment?
	from    int64       // no time is below this, 1/90000 s
	line    Line        // nil: nothing is in common
	target  int64       // wanted duration of a segment, ms
	seconds int         // target duration of the playlist; 0: not decided yet

	mux          *mpegts.Muxer // nil before the first frame
	base         int64         // of mux
	video, audio source
	mute         int64     // ms of sound left out while no video was seen
	sets         []byte    // parameter sets of the newest key frame that had some
	epoch        time.Time // when the stream's time was 0; zero: not known
	settled      bool      // epoch doesn't change before the next discontinuity
	warned       bool      // the log has it that a frame was left out

	// Waiting for a key frame; see admit.
	fresh   bool  // nothing is written before one
	needKey bool  // video is not written before one
	noKeys  bool  // none is expected any more
	unseen  bool  // there has been no video since a Break
	timed   bool  // since is set
	since   int64 // when the wait began, ms

	// The segment in the making.
	open     bool  // it has a frame
	broken   bool  // it follows a discontinuity
	carry    bool  // start is set: it is where the segment before ended
	start    int64 // ms
	end      int64 // of its newest frame, ms
	keyed    bool  // it begins with a key frame
	pictured bool  // it has video
	era      uint64

	// The segments before it.
	emitted bool  // there are some
	spare   int64 // ms by which they are longer than the shortest, together
	lastPTS int64
	lastEra uint64
	tracks  [2]av.Codec // of the newest
}

// source is what is known of one of the stream's tracks.
type source struct {
	codec    av.Codec
	config   []byte
	timed    bool  // last is set
	last     int64 // DTS of the newest frame, ms
	interval int64 // between the two newest frames, ms
	warned   bool  // the log has it that a codec of it is not supported
}

// Past is where the playlist has come to that a Packager goes on with.
type Past struct {
	From    int64  // no PTS is below this, 1/90000 s
	Seconds int    // target duration; 0: it has had no segment yet
	Era     uint64 // of its newest segment
}

// NewPackager returns a Packager that hands segments to emit, which is called
// by WritePacket and Close. hurry tells whether a player waits for the first
// segment; it may be nil. line is nil where the packets are of no stream.
func NewPackager(cfg policy.HLS, log *slog.Logger, past Past, line Line, hurry func() bool, emit func(Segment)) *Packager {
	return &Packager{
		cfg: cfg, log: log, emit: emit, hurry: hurry, from: past.From, line: line,
		target: cfg.Segment.Milliseconds(), seconds: past.Seconds,
		lastPTS: past.From - 1, lastEra: past.Era, broken: past.Seconds > 0, fresh: true, needKey: true,
	}
}

// TargetDuration returns the target duration in seconds, 0 before the first
// segment.
func (p *Packager) TargetDuration() int { return p.seconds }

// plays says whether players of HLS find packets of that codec in a transport
// stream. Opus has a place in one, but few of them know it.
func plays(c av.Codec) bool { return c != av.Opus && mpegts.Supports(c) }

// Refused returns the codec because of which the stream cannot be packaged, or
// Unknown. It is that of the video, or that of the sound where there was no
// video for as long as a segment. Beside video, sound of such a codec is left out.
func (p *Packager) Refused() av.Codec {
	switch c := p.video.codec; {
	case c != av.Unknown && !plays(c):
		return c
	case c == av.Unknown && p.mute >= p.target:
		return p.audio.codec
	}
	return av.Unknown
}

// End returns a time, 1/90000 s, that another Packager of the same stream may
// begin from.
func (p *Packager) End() int64 {
	if p.mux == nil {
		return p.from
	}
	return max(p.base+p.end*mpegts.Clock, p.lastPTS) + maxStep*mpegts.Clock
}

// WritePacket takes the next packet. It never fails: what cannot be packaged is
// left out.
func (p *Packager) WritePacket(pkt av.Packet) error {
	if pkt.Break && !(pkt.Kind == av.Audio && p.joins()) {
		p.discontinue()
		p.unseen = true
	}
	src := &p.video
	switch pkt.Kind {
	case av.Video:
		p.unseen = false
	case av.Audio:
		src = &p.audio
	case av.Data:
		return nil
	}
	if pkt.Config {
		p.configure(src, pkt)
		return nil
	}
	if src.codec != pkt.Codec {
		p.change(src, pkt.Codec, nil)
	}
	p.wait(pkt.DTS)
	if !plays(pkt.Codec) {
		p.leaveOut(src, pkt)
	} else if p.Refused() == av.Unknown {
		p.writeFrame(src, pkt)
	}
	return nil
}

// Close ends the stream: what there is becomes the last segment.
func (p *Packager) Close() {
	if p.open {
		p.cut(p.end)
	}
}

// configure takes a codec configuration.
func (p *Packager) configure(src *source, pkt av.Packet) {
	if src.codec != pkt.Codec || !bytes.Equal(src.config, pkt.Frame) {
		p.change(src, pkt.Codec, pkt.Frame)
	}
	if p.mux != nil {
		p.mux.WritePacket(pkt) // a broken one makes its frames fail
	}
}

// change notes another codec or configuration of a track.
func (p *Packager) change(src *source, codec av.Codec, config []byte) {
	if src.codec != av.Unknown && (src.codec != codec || src.config != nil) && !(src == &p.audio && p.joins()) {
		p.discontinue()
	}
	src.codec, src.config = codec, config
	if src == &p.video {
		p.sets, p.needKey, p.timed = nil, true, false
	} else {
		p.mute = 0
	}
}

// joins reports whether other sound belongs to the discontinuity that has been:
// an encoder that changes says so for each track, and where pictures are out of
// order, ffmpeg says it of the sound after the first key frame. The segment
// that began with it has no sound yet.
func (p *Packager) joins() bool {
	if !p.open || p.now() > p.era {
		return false
	}
	_, audio := p.mux.Tracks()
	return audio == av.Unknown
}

// discontinue ends the segment in the making; what comes next is of another
// encoder or time line. A segment that has just begun is thrown away instead, if
// it follows a discontinuity itself or is the first: a stream that does nothing but
// change makes no segments.
func (p *Packager) discontinue() {
	if p.open {
		if length := p.end - p.start; length < shortest && (p.broken || !p.emitted) {
			p.mux.Cut()
			p.open = false
		} else {
			p.cut(p.end)
		}
	}
	if p.mux != nil {
		p.mux.Break()
	}
	p.broken = p.emitted || p.broken
	p.fresh, p.timed, p.needKey, p.noKeys = true, false, true, false
	p.carry, p.settled, p.epoch = false, false, time.Time{}
	p.sets = nil
}

// wait notes since when a key frame is waited for. Where no picture has come since a
// Break, it has gone with a publisher, and is not waited for any longer than a
// segment takes.
func (p *Packager) wait(dts int64) {
	if !p.timed {
		p.timed, p.since = true, dts
	}
	if p.unseen && dts-p.since >= p.target {
		p.video.codec, p.video.config, p.unseen = av.Unknown, nil, false
	}
}

// leaveOut passes over a frame whose codec is not supported. The log has that
// once for each track.
func (p *Packager) leaveOut(src *source, pkt av.Packet) {
	text := "no HLS: the video codec is not supported"
	switch {
	case src == &p.audio && p.video.codec != av.Unknown:
		if p.Refused() != av.Unknown {
			return // there is nothing to leave it out of
		}
		text = "HLS without sound: the audio codec is not supported"
	case src == &p.audio:
		if src.timed {
			p.mute += min(max(pkt.DTS-src.last, 0), maxStep)
		}
		if src.last, src.timed = pkt.DTS, true; p.mute < p.target {
			return // there may be video to come
		}
		text = "no HLS: the audio codec is not supported, and there is no video"
	}
	if !src.warned {
		src.warned = true
		p.log.Warn(text, "codec", pkt.Codec)
	}
}

func (p *Packager) writeFrame(src *source, pkt av.Packet) {
	isVideo := src == &p.video
	src.interval = usual
	if src.timed {
		src.interval = min(max(pkt.DTS-src.last, 1), 250)
	}
	src.last, src.timed = pkt.DTS, true
	if !p.admit(isVideo, &pkt) {
		return
	}
	if isVideo && pkt.Key {
		p.compareSets(&pkt)
	}
	if made := time.Now().Add(time.Duration(-pkt.DTS) * time.Millisecond); !p.settled && (p.epoch.IsZero() || made.Before(p.epoch)) {
		p.epoch = made // by the frame that came with the least delay
	}
	if p.open && p.cutBefore(isVideo, &pkt) {
		p.cut(pkt.DTS)
	}
	if p.mux == nil && !p.begin(pkt.DTS) {
		return
	}
	if err := p.mux.WritePacket(pkt); err != nil {
		if !p.warned {
			p.log.Warn("frame left out of HLS", "err", err)
		}
		p.warned = true
		return
	}
	if !p.open {
		p.open, p.pictured, p.keyed = true, false, isVideo && pkt.Key
		if !p.carry {
			p.start = pkt.DTS
		}
		p.end = p.start
		if p.era = max(p.now(), p.lastEra); p.broken && p.era == p.lastEra {
			p.era = p.next()
		}
	}
	p.pictured = p.pictured || isVideo
	p.end = max(p.end, pkt.DTS+src.interval)
}

// now returns the era of the newest packet.
func (p *Packager) now() uint64 {
	if p.line == nil {
		return p.lastEra
	}
	return p.line.Era()
}

// next returns an era after that of the newest segment.
func (p *Packager) next() uint64 {
	if p.line == nil {
		return p.lastEra + 1
	}
	return p.line.NextEra(p.lastEra)
}

// zero returns when the stream's time was 0.
func (p *Packager) zero() time.Time {
	if p.line != nil {
		if zero, _, ok := p.line.Clock(); ok {
			return zero
		}
	}
	return p.epoch
}

// begin makes the muxer when the first frame comes, whose time is dts. It reports
// false for one that must be left out, because the playlist has that time already.
func (p *Packager) begin(dts int64) bool {
	p.base = (time.Now().UnixMilli() - dts) * mpegts.Clock
	common := false
	if p.line != nil { // the same for all renditions of a stream
		if _, origin, ok := p.line.Clock(); ok {
			p.base, common = origin*mpegts.Clock, true
		}
	}
	switch ahead := p.from - (p.base + dts*mpegts.Clock); {
	case ahead <= 0:
	case common && ahead < overlap*mpegts.Clock:
		p.fresh, p.needKey = true, true
		return false
	default:
		p.base += ahead
		p.broken = p.broken || p.lastEra > 0
	}
	p.mux = mpegts.NewMuxer(p.base)
	for _, c := range []struct {
		kind av.Kind
		src  *source
	}{{av.Video, &p.video}, {av.Audio, &p.audio}} {
		if c.src.config != nil {
			p.mux.WritePacket(av.Packet{Kind: c.kind, Codec: c.src.codec, Config: true, Frame: c.src.config})
		}
	}
	return true
}

// admit says whether a frame is written while a key frame is waited for.
func (p *Packager) admit(isVideo bool, pkt *av.Packet) bool {
	if isVideo && pkt.Key {
		p.fresh, p.needKey = false, false
	}
	// Sound waits for the picture too, so that both begin together; but not
	// for long.
	patience := 3 * p.target
	if p.fresh && p.video.codec != av.Unknown && pkt.DTS-p.since < patience {
		return false
	}
	p.fresh = false
	if !isVideo || !p.needKey {
		return true
	}
	if pkt.DTS-p.since < patience {
		return false
	}
	p.log.Warn("stream without key frames: HLS players may see a broken picture")
	p.needKey, p.noKeys = false, true
	return true
}

// compareSets makes a discontinuity of a key frame that has other parameter
// sets in it than the one before had, or than the configuration has.
func (p *Packager) compareSets(pkt *av.Packet) {
	sets, configured := av.ParameterSets(pkt.Codec, p.video.config, pkt.Frame)
	if len(sets) == 0 {
		return
	}
	old := p.sets
	if old == nil {
		old = configured
	}
	if p.open && !bytes.Equal(sets, old) {
		p.discontinue()
		p.fresh, p.needKey = false, false // this is the key frame
	}
	p.sets = sets
}

// limit returns the longest that the segment in the making may become, in ms.
func (p *Packager) limit() int64 {
	switch {
	case p.seconds > 0:
		return int64(p.seconds)*1000 + slack
	case p.noKeys:
		return 3 * p.target
	case p.hurry != nil && p.hurry():
		return max(3*p.target, hurried)
	default:
		return max(3*p.target, p.cfg.MaxSegment.Milliseconds())
	}
}

// cutBefore says whether the segment in the making ends before that frame.
func (p *Packager) cutBefore(isVideo bool, pkt *av.Packet) bool {
	length := pkt.DTS - p.start
	if p.mux.Size()+len(pkt.Frame) > int(p.cfg.MaxSegmentSize) {
		return true
	}
	if (pkt.Key || p.video.codec == av.Unknown) && p.now() > p.era {
		return true
	}
	switch {
	case isVideo && pkt.Key:
		// A tenth less than wanted will do: timestamps are rounded, and the next
		// key frame may be as far away again. But segments of less than a second
		// would overtake the clock, which media sequence numbers start from.
		if length >= p.target-p.target/10 && p.unhurried(length) || !p.keyed && length >= min(shortest, p.target) {
			return true
		}
		fallthrough
	case isVideo: // if the next frame would be too late, as far as one can know
		return length+p.video.interval > p.limit()
	case !p.pictured:
		return length >= p.target
	default:
		return length > p.limit()+audioLead
	}
}

// unhurried says whether with a segment of that length there is not more than one a
// second, give or take what is in the first one.
func (p *Packager) unhurried(length int64) bool {
	if p.seconds == 0 {
		return length >= shortest
	}
	return p.spare+length >= shortest/2
}

// cut ends the segment in the making at a time, in ms.
func (p *Packager) cut(at int64) {
	data, pts := p.mux.Cut()
	p.open = false
	hole := at-p.end > maxStep
	if hole {
		at = p.end
	}
	length := min(max(at-p.start, 1), p.limit())
	if p.seconds == 0 {
		// Key frames do not come like clockwork: leave some room.
		wanted := max(p.target, length+min(length/10, 300)) + 500
		p.seconds = int(max(wanted/1000, (p.target+999)/1000))
	}
	length = min(length, p.limit())

	video, audio := p.mux.Tracks()
	tracks := [2]av.Codec{video, audio}
	p.settled = true
	if p.emitted && tracks != p.tracks && p.era == p.lastEra {
		if p.era = p.now(); p.era <= p.lastEra {
			p.era = p.next()
		}
	}
	s := Segment{
		PTS:           max(pts, p.lastPTS+1),
		Data:          data,
		Duration:      time.Duration(length) * time.Millisecond,
		Time:          p.zero().Add(time.Duration(p.start) * time.Millisecond),
		Era:           p.era,
		Discontinuity: p.broken || p.emitted && p.era > p.lastEra,
	}
	p.lastPTS, p.lastEra, p.tracks, p.emitted = s.PTS, s.Era, tracks, true
	p.spare += length - shortest
	// A little too much, which is sound ahead of the picture, is counted in the
	// next segment; a hole in time is not counted at all.
	p.start, p.carry, p.broken = p.start+length, !hole, hole
	p.emit(s)
}
