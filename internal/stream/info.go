package stream

import (
	"time"

	"weir/internal/media/av"
)

// Info describes a stream at one moment.
type Info struct {
	Key     Key
	Live    bool
	Start   time.Time // of the first publication
	Video   av.Codec  // av.Unknown when there is none
	Audio   av.Codec
	Width   int
	Height  int
	Rate    int   // audio samples per second
	Bytes   int64 // of packets published
	Frames  int64 // of video
	Players int
}

// account is what a stream counts of itself.
type account struct {
	width, height, rate int
	bytes, frames       int64
}

// configure notes what a codec configuration says; one that cannot be read
// leaves what was known.
func (a *account) configure(p *av.Packet) {
	switch p.Kind {
	case av.Video:
		if v, err := av.ParseVideoInfo(p.Codec, p.Frame); err == nil {
			a.width, a.height = v.Width, v.Height
		}
	case av.Audio:
		if v, err := av.ParseAudioInfo(*p); err == nil {
			a.rate = v.SampleRate
		}
	}
}

func (a *account) count(p *av.Packet) {
	a.bytes += int64(len(p.Tag))
	if p.Kind == av.Video && !p.Config {
		a.frames++
	}
}

// Info returns the stream's description now.
func (s *Stream) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{
		Key: s.key, Live: s.live, Start: s.start, Video: s.video.codec, Audio: s.audio.codec,
		Width: s.info.width, Height: s.info.height, Rate: s.info.rate, Bytes: s.info.bytes, Frames: s.info.frames,
	}
	for _, f := range s.feeds {
		i.Players += f.players
	}
	return i
}
