package stream

import (
	"slices"
	"time"

	"weir/internal/media/av"
)

// How far a stream's time line of quality goes back: two minutes by the second
// and half an hour by ten seconds.
const (
	fineSamples   = 120
	coarseSamples = 180
	coarseSeconds = 10

	// rateSeconds is over how many seconds the rates of now are measured.
	rateSeconds = 5
	// medianSamples is of how many coarse samples the median bit rate is, at
	// most, and medianLeast of how many at least.
	medianSamples, medianLeast = 60, 6
	// settleSeconds is how many seconds, with sound and picture in each, tell how
	// far apart the two arrive when nothing has drifted yet.
	settleSeconds = 5
)

// meter measures the quality of what is published. A packet costs it some
// additions under the lock of its stream; once a second they become a sample.
//
// Each track has a clock, the times of its frames on the stream's own time
// line. How far a track's clock is ahead of real time, counted from its first
// second, is the lead of its least delayed frame of a second: a network can
// only delay. The difference of the two leads is the drift of sound against
// picture, whatever the network did to both.
type meter struct {
	start time.Time
	sec   int64 // which is being filled, since start
	began int64 // second of the publication's first packet
	now   sample

	fine   [fineSamples]sample
	coarse [coarseSamples]sample

	tracks   [2]clock // video, audio
	together int      // seconds with sound and picture
	offset   int64    // ms of drift that is none
	drift    int64    // ms by which sound is ahead of picture, smoothed
	lead     int64    // ms by which the publisher's clock is ahead of ours
	median   int64    // bit/s of the push's ten seconds

	firstVideo time.Time // zero: no frame yet
	lastKey    time.Time // zero: none yet
	keyDTS     int64
	sinceKey   int   // frames, the key frame included
	gop        int   // frames of the newest whole GOP
	interval   int64 // ms between the two newest key frames
}

// clock is a track's.
type clock struct {
	base  int64 // ms ahead of real time, in the first second
	peak  int64 // the most in this second
	based bool
	seen  bool // in this second
}

// sample is what came in a second, or ten. Numbers that do not fit are the
// largest that does.
type sample struct {
	bytes        uint32
	video, audio uint16 // frames
	keys, jumps  uint16
	interval     uint16 // the longest between key frames that ended in it, in 10 ms
	drift        int16  // ms at its end
}

func newMeter(now time.Time) meter { return meter{start: now} }

// begin makes the packets to come those of another publication.
func (m *meter) begin(now time.Time) {
	m.roll(now)
	m.began, m.median = m.sec, 0
	m.firstVideo, m.lastKey, m.sinceKey, m.gop, m.interval = time.Time{}, time.Time{}, 0, 0, 0
	m.unsettle()
	m.drift, m.lead = 0, 0
}

// unsettle forgets how the clocks stood.
func (m *meter) unsettle() {
	m.tracks, m.together, m.offset = [2]clock{}, 0, 0
}

// count counts a packet that has got its time on the stream's time line;
// jumped says that the publisher's clock did.
func (m *meter) count(p *av.Packet, now time.Time, jumped bool) {
	since := now.Sub(m.start)
	if sec := int64(since / time.Second); sec > m.sec {
		m.close(sec)
	}
	add(&m.now.bytes, len(p.Tag))
	if jumped {
		add(&m.now.jumps, 1)
		m.unsettle()
	}
	if p.Config || p.Side || p.Kind == av.Data {
		return
	}
	c := &m.tracks[p.Kind-av.Video]
	if lead := p.DTS - since.Milliseconds(); !c.seen || lead > c.peak {
		c.peak, c.seen = lead, true
	}
	if p.Kind == av.Audio {
		add(&m.now.audio, 1)
		return
	}
	add(&m.now.video, 1)
	if m.firstVideo.IsZero() {
		m.firstVideo = now
	}
	if p.Key {
		add(&m.now.keys, 1)
		if !m.lastKey.IsZero() {
			m.gop, m.interval = m.sinceKey, p.DTS-m.keyDTS
			m.now.interval = max(m.now.interval, narrow[uint16](m.interval/10))
		}
		m.lastKey, m.keyDTS, m.sinceKey = now, p.DTS, 0
	}
	m.sinceKey++
}

// roll makes the meter's second that of now.
func (m *meter) roll(now time.Time) {
	if sec := int64(now.Sub(m.start) / time.Second); sec > m.sec {
		m.close(sec)
	}
}

// close ends the second that is being filled and begins another one.
func (m *meter) close(sec int64) {
	m.settle()
	m.keep(m.sec, m.now)
	// Of a long silence only the end is still seen.
	for s := max(m.sec+1, sec-sec%coarseSeconds-coarseSamples*coarseSeconds); s < sec; s++ {
		m.keep(s, sample{drift: m.now.drift})
	}
	m.sec, m.now = sec, sample{drift: m.now.drift}
}

// keep puts the sample of a second where it belongs.
func (m *meter) keep(sec int64, s sample) {
	m.fine[sec%fineSamples] = s
	c := &m.coarse[sec/coarseSeconds%coarseSamples]
	if sec%coarseSeconds == 0 {
		*c = sample{}
	}
	add(&c.bytes, int(s.bytes))
	add(&c.video, int(s.video))
	add(&c.audio, int(s.audio))
	add(&c.keys, int(s.keys))
	add(&c.jumps, int(s.jumps))
	c.interval, c.drift = max(c.interval, s.interval), s.drift
	if sec%coarseSeconds == coarseSeconds-1 {
		m.measureMedian(sec)
	}
}

// measureMedian looks at the ten seconds that lie within the publication and
// end with sec.
func (m *meter) measureMedian(sec int64) {
	var rates [medianSamples]uint32
	n := 0
	for s := sec - sec%coarseSeconds; s > m.began && n < len(rates); s -= coarseSeconds {
		rates[n] = m.coarse[s/coarseSeconds%coarseSamples].bytes
		n++
	}
	if m.median = 0; n >= medianLeast {
		slices.Sort(rates[:n])
		m.median = int64(rates[n/2]) * 8 / coarseSeconds
	}
}

// settle compares the clocks as the second that ends has shown them.
func (m *meter) settle() {
	lead, seen := int64(0), 0
	var leads [2]int64
	for i := range m.tracks {
		c := &m.tracks[i]
		if !c.seen {
			continue
		}
		if c.seen = false; !c.based {
			c.base, c.based = c.peak, true
		}
		if leads[i] = c.peak - c.base; seen == 0 || leads[i] > lead {
			lead = leads[i]
		}
		seen++
	}
	if seen > 0 {
		m.lead = lead
	}
	if seen < len(m.tracks) {
		return
	}
	drift := leads[1] - leads[0]
	if m.together++; m.together <= settleSeconds {
		m.offset = drift - m.drift
	} else {
		m.drift += (drift - m.offset - m.drift) / 2
	}
	m.now.drift = narrow[int16](m.drift)
}

// rates returns bits and video frames a second, measured over the last seconds.
func (m *meter) rates() (bits int64, fps float64) {
	n := min(rateSeconds, m.sec-m.began-1) // the first second was not a whole one
	if n < 1 {
		n = min(1, m.sec-m.began)
	}
	if n == 0 {
		return 0, 0
	}
	bytes, frames := int64(0), 0
	for s := m.sec - n; s < m.sec; s++ {
		bytes += int64(m.fine[s%fineSamples].bytes)
		frames += int(m.fine[s%fineSamples].video)
	}
	return bytes * 8 / n, float64(frames) / float64(n)
}

// Sample is what was published in a while.
type Sample struct {
	Start                    time.Time
	Bytes                    int64
	VideoFrames, AudioFrames int
	KeyFrames                int
	KeyInterval              time.Duration // the longest between key frames that ended in it; 0: none did
	Jumps                    int           // of the publisher's clock
	Drift                    time.Duration // by which sound was ahead of picture at its end, since the push began
}

func (s sample) export(start time.Time) Sample {
	return Sample{
		start, int64(s.bytes), int(s.video), int(s.audio), int(s.keys), time.Duration(s.interval) * 10 * time.Millisecond,
		int(s.jumps), time.Duration(s.drift) * time.Millisecond,
	}
}

// Timeline returns how the stream's quality has been, the oldest first: by the
// second up to two minutes back, and by ten seconds up to half an hour. Seconds
// that are not over are not in it.
func (s *Stream) Timeline() (seconds, tens []Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.meter
	m.roll(time.Now())
	for sec := max(0, m.sec-fineSamples); sec < m.sec; sec++ {
		seconds = append(seconds, m.fine[sec%fineSamples].export(m.start.Add(time.Duration(sec)*time.Second)))
	}
	for ten := max(0, m.sec/coarseSeconds-coarseSamples); ten < m.sec/coarseSeconds; ten++ {
		tens = append(tens, m.coarse[ten%coarseSamples].export(m.start.Add(time.Duration(ten)*coarseSeconds*time.Second)))
	}
	return seconds, tens
}

// Quality is what an alert is made of.
type Quality struct {
	Silent      time.Duration // since the last packet
	HasVideo    bool          // frames of it have come
	SinceKey    time.Duration // since the last key frame, or if none has come since the first frame
	KeyInterval time.Duration // between the two newest key frames
	BitRate     int64         // bit/s of the last ten seconds; -1 until there are so many
	Median      int64         // bit/s of ten seconds, in the push's last ten minutes; 0 in its first
	Drift       time.Duration // by which sound is ahead of picture
	Jumps       int           // of the publisher's clock, in about the last minute
}

// Quality returns how things stand. It is valid while the publication goes on.
func (p *Publication) Quality(now time.Time) Quality {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.meter
	m.roll(now)
	q := Quality{
		Silent: p.Silent(now), HasVideo: !m.firstVideo.IsZero(), KeyInterval: time.Duration(m.interval) * time.Millisecond,
		BitRate: -1, Median: m.median, Drift: time.Duration(m.drift) * time.Millisecond,
	}
	switch {
	case !m.lastKey.IsZero():
		q.SinceKey = now.Sub(m.lastKey)
	case q.HasVideo:
		q.SinceKey = now.Sub(m.firstVideo)
	}
	if m.sec-m.began > coarseSeconds {
		bytes := int64(0)
		for sec := m.sec - coarseSeconds; sec < m.sec; sec++ {
			bytes += int64(m.fine[sec%fineSamples].bytes)
		}
		q.BitRate = bytes * 8 / coarseSeconds
	}
	// By whole tens, the one that is being filled and six before.
	q.Jumps = int(m.now.jumps)
	ten := m.sec / coarseSeconds
	if m.sec%coarseSeconds > 0 {
		q.Jumps += int(m.coarse[ten%coarseSamples].jumps)
	}
	for t := max(ten-6, m.began/coarseSeconds); t < ten; t++ {
		q.Jumps += int(m.coarse[t%coarseSamples].jumps)
	}
	return q
}

// add adds n to v, up to the largest number that v can be.
func add[T uint16 | uint32](v *T, n int) {
	if sum := *v + T(n); sum >= *v && int(T(n)) == n {
		*v = sum
	} else {
		*v = ^T(0)
	}
}

// narrow returns n, or the number nearest to it that a T can be.
func narrow[T uint16 | int16](n int64) T {
	least, most := int64(0), int64(^uint16(0))
	if T(0)-1 < 0 {
		least, most = -1<<15, 1<<15-1
	}
	return T(min(max(n, least), most))
}
