package transcode

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// media is what is known of a stream when its renditions are planned.
type media struct {
	video, audio  av.Codec // Unknown: it has none
	config        []byte   // of the video
	width, height int
	displayWidth  int   // with that height, where pixels are square
	rate          rate  // frames per second
	bitRate       int64 // of all of it, bit/s; 0: not known yet
	head          int64 // bytes of the frames that ffmpeg is to find out from what it gets
}

// rate is frames per second as a fraction.
type rate struct{ num, den int }

func (r rate) float() float64 { return float64(r.num) / float64(r.den) }
func (r rate) String() string { return strconv.Itoa(r.num) + "/" + strconv.Itoa(r.den) }

// rates are those that cameras and films have.
var rates = []rate{{10, 1}, {12, 1}, {15, 1}, {20, 1}, {24000, 1001}, {24, 1}, {25, 1}, {30000, 1001}, {30, 1}, {48, 1}, {50, 1}, {60000, 1001}, {60, 1}}

// frameRate is what a stream's frame rate is taken for: what it says of itself
// unless the frames that come say otherwise, which then is one of rates if
// that is near. It is 60 at most.
func frameRate(declared, measured float64) rate {
	v := declared
	if !(v >= 1 && v <= 240) || measured >= 1 && math.Abs(measured-v) > v/5 {
		v = measured
	}
	if !(v >= 1 && v <= 240) {
		v = 25
	}
	v = min(v, 60)
	near := slices.MinFunc(rates, func(a, b rate) int {
		return cmp.Compare(math.Abs(a.float()-v), math.Abs(b.float()-v))
	})
	if math.Abs(near.float()-v) < 0.02*v {
		return near
	}
	return rate{max(1, int(math.Round(v))), 1}
}

// measuredRate returns how many frames a second a stream has by its own time, which a
// network that stalls does not change: in its newest whole GOP, or in head, its newest
// frames; 0: it is not known.
func measuredRate(v *stream.VideoInfo, head []av.Packet) float64 {
	if v.GOP > 0 && v.KeyInterval >= 200*time.Millisecond {
		return float64(v.GOP) / v.KeyInterval.Seconds()
	}
	n, first, last := 0, int64(0), int64(0)
	for _, p := range head {
		if p.Kind == av.Video {
			if n++; n == 1 {
				first = p.DTS
			}
			last = p.DTS
		}
	}
	if n < 4 || last <= first {
		return 0
	}
	// So few milliseconds don't tell 29.97 from 30.
	rate := float64(n-1) * 1000 / float64(last-first)
	if whole := math.Round(rate); math.Abs(rate-whole) < 0.02*rate {
		return whole
	}
	return rate
}

// output is one rendition, planned for one source.
type output struct {
	*policy.Rendition
	template *policy.Transcode
	name     string // of the stream

	width, height int  // of the picture
	rate          rate // of frames
	gop           int  // frames from one key frame to the next
	bitRate       int  // of video, bit/s
	enc           encoder
	audio         bool // it has sound
	video         bool // it has a picture
	format        string
}

// plan makes outputs of the renditions of templates for a stream of that name.
func plan(name string, m *media, templates []*policy.Transcode) []*output {
	var list []*output
	for _, t := range templates {
		for i := range t.Outputs {
			r := &t.Outputs[i]
			o := &output{
				Rendition: r, template: t, name: name + r.Suffix, rate: m.rate, bitRate: r.BitRate,
				audio: m.audio != av.Unknown && !r.Drop.Audio(), video: m.video != av.Unknown && !r.Drop.Video(),
			}
			if !o.audio && !o.video || !policy.ValidStreamName(o.name) {
				continue
			}
			o.width, o.height = m.displayWidth, m.height
			if r.Encodes() && o.video {
				o.width, o.height = size(r, m.displayWidth, m.height)
				if r.FrameRate > 0 && float64(r.FrameRate) < m.rate.float() {
					o.rate = rate{r.FrameRate, 1}
					if m.rate.den == 1001 {
						o.rate = rate{r.FrameRate * 1000, 1001} // of 29.97 every second one, and not of each
					}
				}
				if m.bitRate > 0 && int64(o.bitRate) > m.bitRate {
					o.bitRate = max(20_000, int(m.bitRate))
				}
			}
			list = append(list, o)
		}
	}
	align(list)
	return list
}

// align gives the outputs their GOPs: of the times that are whole frames of each of
// them, the one nearest to what their template says. With any other their key frames
// would drift apart.
func align(list []*output) {
	common := 0 // divides all rates, which are of seconds, or all of 1.001 seconds
	for _, o := range list {
		if o.video && o.Encodes() {
			common = gcd(common, o.rate.num)
		}
	}
	for _, o := range list {
		if o.video && o.Encodes() {
			n := int(math.Round(o.template.GOP.Seconds() * float64(common) / float64(o.rate.den)))
			o.gop = max(1, n) * (o.rate.num / common)
		}
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// size returns the size of a rendition's picture: even, as 4:2:0 wants it.
func size(r *policy.Rendition, w, h int) (int, int) {
	if w <= 0 || h <= 0 {
		return w, h
	}
	rw, rh := r.Width, r.Height
	if r.ShortSide > 0 {
		if w < h {
			rw = r.ShortSide
		} else {
			rh = r.ShortSide
		}
	}
	switch {
	case rw == 0 && rh == 0:
		rw, rh = w, h
	case rw == 0:
		rw = int(math.Round(float64(w) * float64(rh) / float64(h)))
	case rh == 0:
		rh = int(math.Round(float64(h) * float64(rw) / float64(w)))
	}
	if r.NeverEnlarge && (rw > w || rh > h) {
		// As large as the source allows, in the shape that was asked for.
		shrink := min(float64(w)/float64(rw), float64(h)/float64(rh))
		rw, rh = int(math.Round(float64(rw)*shrink)), int(math.Round(float64(rh)*shrink))
	}
	return even(rw), even(rh)
}

func even(n int) int { return min(max(2, n/2*2), 8192) }
