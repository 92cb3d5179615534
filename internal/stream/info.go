package stream

import (
	"math"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// Info describes a stream at one moment. To make one costs the same whatever
// the stream has been through.
type Info struct {
	Key   Key
	Live  bool      // it has a publisher; else it waits for one to return
	Start time.Time // of the first publication

	Push   *Push     // of the newest publication; not to be changed
	Pushed time.Time // when that began

	Video VideoInfo
	Audio AudioInfo

	BitRate int64 // bit/s in the last seconds
	Bytes   int64 // of packets published since Start
	Jumps   int64 // of publishers' clocks since Start

	Drift time.Duration // by which sound has come to be ahead of picture, in this push
	Lead  time.Duration // by which the publisher's clock has come to be ahead of ours

	Players   int // all, and in Traffic by protocol
	Traffic   TrafficCount
	Packagers int // cursors that go on from one publication to the next, as those of HLS do
}

// VideoInfo is what is known of a stream's picture; what is not is 0.
type VideoInfo struct {
	Codec          av.Codec // av.Unknown: no picture
	Profile, Level int      // as the codec numbers them
	Width, Height  int
	DisplayWidth   int     // with that height, where pixels are square
	Declared       float64 // frames per second, as the codec's configuration or the metadata say
	Measured       float64 // as they arrive
	BitRate        int64   // bit/s, as the metadata say
	Frames         int64   // since Start
	GOP            int     // frames of the newest whole group of pictures
	KeyInterval    time.Duration
	SinceKey       time.Duration // since the last key frame came
}

// AudioInfo is what is known of a stream's sound; what is not is 0.
type AudioInfo struct {
	Codec      av.Codec // av.Unknown: no sound
	SampleRate int
	Channels   int
	Frames     int64 // since Start
}

// account is what a stream counts of itself, in all publications.
type account struct {
	video         av.VideoInfo
	audio         av.AudioInfo
	fps, rate     float64 // as the metadata say: frames a second, kbit/s of video
	bytes, jumps  int64
	frames, notes int64 // of video, of audio
}

// configure notes what a codec configuration says, or a frame of a codec that
// has none; one that cannot be read leaves what was known.
func (a *account) configure(p *av.Packet) {
	switch {
	case p.Kind == av.Video && p.Config:
		if v, err := av.ParseVideoInfo(p.Codec, p.Frame); err == nil {
			a.video = v
		}
	case p.Kind == av.Audio:
		if v, err := av.ParseAudioInfo(*p); err == nil {
			a.audio = v
		}
	}
}

// forget makes a track one of which nothing is known.
func (a *account) forget(k av.Kind) {
	if k == av.Video {
		a.video = av.VideoInfo{}
	} else {
		a.audio = av.AudioInfo{}
	}
}

// describe notes what the publisher says in metadata.
func (a *account) describe(p *av.Packet) {
	for _, v := range flv.Metadata(*p) {
		f, ok := v.Value.(float64)
		switch {
		case !ok || math.IsNaN(f):
		case v.Name == "framerate" || v.Name == "fps":
			a.fps = f
		case v.Name == "videodatarate":
			a.rate = min(max(f, 0), 1e6)
		}
	}
}

// tally is what one publication brought. The stream's lock guards it.
type tally struct {
	event.Counters
	final bool // nothing changes any more
}

// count counts a packet of the publication pub.
func (s *Stream) count(pub *Publication, p *av.Packet, now time.Time, jumped bool) {
	s.meter.count(p, now, jumped)
	a, t, n := &s.info, &pub.tally, int64(len(p.Tag))
	a.bytes += n
	t.Bytes += n
	s.traffic.in.Add(n)
	if jumped {
		a.jumps++
		t.Jumps++
	}
	switch {
	case p.Config || p.Side || p.Kind == av.Data:
	case p.Kind == av.Audio:
		a.notes++
		t.AudioFrames++
	default:
		a.frames++
		t.VideoFrames++
		if p.Key {
			t.KeyFrames++
		}
	}
}

// Counters returns what the publication has brought. It may be called in
// Options.Ended, and at any time later.
func (p *Publication) Counters() event.Counters {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.s.complete(p)
	return p.tally.Counters
}

// complete fills in what the stream knows of the publication.
func (s *Stream) complete(p *Publication) {
	t := &p.tally
	if t.final || s.pub != p {
		return
	}
	// Until its first packet its predecessor's codecs stand.
	if t.VideoFrames > 0 {
		t.VideoCodec, t.Width, t.Height = s.video.codec.String(), s.info.video.Width, s.info.video.Height
	}
	if t.AudioFrames > 0 {
		t.AudioCodec = s.audio.codec.String()
	}
}

// Traffic returns the account of what goes in and out, which outlives the stream.
func (s *Stream) Traffic() *Traffic { return s.traffic }

// Info returns the stream's description now.
func (s *Stream) Info() Info {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, m := &s.info, &s.meter
	m.roll(now)
	packagers := 0
	for r := range s.readers {
		if r.pub == nil {
			packagers++
		}
	}
	i := Info{
		Key: s.key, Live: s.live, Start: s.start,
		Bytes: a.bytes, Jumps: a.jumps,
		Drift: time.Duration(m.drift) * time.Millisecond, Lead: time.Duration(m.lead) * time.Millisecond,
		Players: int(s.traffic.Playing()), Traffic: s.traffic.Count(), Packagers: packagers,
	}
	if s.pub != nil {
		i.Push, i.Pushed = &s.pub.push, s.pub.start
	}
	var measured float64
	i.BitRate, measured = m.rates()
	if s.video.seen() {
		i.Video = VideoInfo{
			Codec: s.video.codec, Profile: a.video.Profile, Level: a.video.Level, Width: a.video.Width, Height: a.video.Height, DisplayWidth: a.video.DisplayWidth(),
			Declared: a.video.FPS, Measured: measured, Frames: a.frames,
			BitRate: int64(a.rate * 1000), GOP: m.gop, KeyInterval: time.Duration(m.interval) * time.Millisecond,
		}
		if i.Video.Declared == 0 {
			i.Video.Declared = a.fps
		}
		if !m.lastKey.IsZero() {
			i.Video.SinceKey = now.Sub(m.lastKey)
		}
	}
	if s.audio.seen() {
		i.Audio = AudioInfo{s.audio.codec, a.audio.SampleRate, a.audio.Channels, a.notes}
	}
	return i
}
