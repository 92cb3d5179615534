package mp4

import (
	"bytes"
	"time"

	"github.com/Eyevinn/mp4ff/mp4"

	"weir/internal/media/av"
)

const (
	// A chunk is what of a track lies together. Audio is gathered for so long.
	chunkTime = 500 // milliseconds
	maxChunk  = 4 << 20

	// Audio goes by its own clock, which is exact where milliseconds are not. It
	// follows the packets' times when they are this far away at once, or on average.
	maxJump  = 60 // milliseconds
	maxDrift = 5
	maxBreak = 10 // at once, in the first frame after a break

	// maxDelta keeps the time between two samples within what a table can say.
	maxDelta = 1<<31 - 1

	// firstSamples are those among which the one that is shown first is.
	firstSamples = 32
)

// track is the index of one track.
type track struct {
	video   bool
	scale   int64 // units a second; 0: not known yet
	entries []entry
	current int // of entries
	codec   av.Codec
	config  []byte // of the codec, waiting for what an entry needs besides

	samples  int
	bytes    int64
	sizes    list[uint32]
	deltas   runs // but of the last sample
	offsets  runs // int32 of CTS
	keys     list[uint32]
	chunks   list[chunk]
	negative bool  // some offset is
	shown    int64 // earliest presentation of the first samples
	end      int64 // latest presentation of all

	first, last int64 // DTS of the first and last sample, in units
	nominal     int64 // units of the last sample, if nothing follows

	clock, off float64 // audio: when the next sample is due, in units; how far packets are away, on average
	broken     bool    // a break came since the last sample

	open    bool   // video: the last chunk goes on
	opened  int64  // its first sample's DTS in milliseconds
	pending []byte // audio: the chunk that is being gathered
	held    uint32 // samples in it

	base int64 // of the media in the file; chunks count from it
}

type chunk struct {
	at      int64
	samples uint32
	entry   uint32 // from 1
}

// entry is a sample entry.
type entry struct {
	codec          av.Codec
	config         []byte
	box            mp4.Box
	width, height  int
	fps            float64
	rate, channels int
}

func (t *track) scaleOr() int64 { return max(t.scale, 1) }

// add takes a packet. It reports whether the packet is in the file.
func (t *track) add(m *Muxer, p av.Packet) (bool, error) {
	if p.Config {
		t.codec, t.config = p.Codec, bytes.Clone(p.Frame)
		return true, t.enter(m, p)
	}
	if len(p.Frame) == 0 || int64(len(p.Frame)) > 1<<31 {
		return false, nil
	}
	if p.Codec != t.codec || t.config != nil || len(t.entries) == 0 {
		if p.Codec != t.codec {
			t.codec, t.config = p.Codec, nil
		}
		if err := t.enter(m, p); err != nil {
			return false, err
		}
	}
	if len(t.entries) == 0 || t.entries[t.current].codec != p.Codec {
		return false, nil // without configuration
	}
	if t.video && t.samples == 0 && !p.Key {
		return false, nil
	}
	dts := t.time(p)
	if t.samples > 0 {
		dts = min(max(dts, t.last+1), t.last+maxDelta)
		t.deltas.add(uint32(dts - t.last))
		if delta := dts - t.last; t.nominal == 0 || t.video && delta < t.scale {
			t.nominal = delta
		}
	} else {
		t.first = dts
		t.shown = dts + int64(p.CTS)
		t.end = t.shown
	}
	t.last = dts
	t.samples++
	t.bytes += int64(len(p.Frame))
	t.sizes.add(uint32(len(p.Frame)))
	if t.video {
		t.offsets.add(uint32(p.CTS))
		t.negative = t.negative || p.CTS < 0
		if t.samples <= firstSamples {
			t.shown = min(t.shown, dts+int64(p.CTS))
		}
		t.end = max(t.end, dts+int64(p.CTS))
		if p.Key {
			t.keys.add(uint32(t.samples))
		}
		return true, t.addVideo(m, p)
	}
	return true, t.addAudio(m, p)
}

func (t *track) addVideo(m *Muxer, p av.Packet) error {
	at, err := m.media(p.Frame)
	if err != nil {
		return err
	}
	if last := t.chunks.last(); t.open && t.last-t.opened < 2*chunkTime && last.samples < 1<<31 {
		last.samples++
		return nil
	}
	t.chunks.add(chunk{at, 1, uint32(t.current + 1)})
	t.open, t.opened = true, t.last
	return nil
}

func (t *track) addAudio(m *Muxer, p av.Packet) error {
	if t.held == 0 {
		t.opened = t.last
	}
	t.pending = append(t.pending, p.Frame...)
	t.held++
	if (t.last-t.opened)*1000 < chunkTime*t.scale && len(t.pending) < maxChunk {
		return nil
	}
	return t.flush(m)
}

// flush writes the audio that was gathered.
func (t *track) flush(m *Muxer) error {
	if t.held == 0 {
		return nil
	}
	at, err := m.media(t.pending)
	if err != nil {
		return err
	}
	t.chunks.add(chunk{at, t.held, uint32(t.current + 1)})
	t.pending, t.held = t.pending[:0], 0
	if v := m.tracks[0]; v != nil {
		v.open = false
	}
	return nil
}

// enter makes the sample entry of what comes now, if it can be made already.
func (t *track) enter(m *Muxer, p av.Packet) error {
	e, ok := newEntry(t.codec, t.config, p)
	if !ok {
		if t.codec != av.VP9 { // whose size is in the next key frame
			t.config = nil
		}
		return nil
	}
	t.config = nil
	at := -1
	for i, old := range t.entries {
		if old.codec == e.codec && bytes.Equal(old.config, e.config) && old.width == e.width && old.height == e.height && old.rate == e.rate && old.channels == e.channels {
			at = i
		}
	}
	if at == t.current && len(t.entries) > 0 {
		return nil
	}
	if !t.video {
		if err := t.flush(m); err != nil {
			return err
		}
	}
	t.open = false
	if at < 0 {
		t.entries = append(t.entries, e)
		at = len(t.entries) - 1
	}
	t.current = at
	if t.scale == 0 {
		t.scale = movieScale
		if !t.video {
			t.scale = int64(e.rate)
		}
	}
	return nil
}

// time returns a packet's DTS in units.
func (t *track) time(p av.Packet) int64 {
	if t.video {
		return p.DTS
	}
	e := &t.entries[t.current]
	at := float64(p.DTS) * float64(t.scale) / 1000
	n := float64(frameSamples(p, e)) * float64(t.scale) / float64(e.rate)
	away := at - t.clock
	unit := float64(t.scale) / 1000
	t.off += (away - t.off) / 64
	jump := maxJump * unit
	if t.broken {
		jump = maxBreak * unit
	}
	t.broken = false
	switch {
	case t.samples == 0 || n == 0 || away > jump || away < -jump:
		t.clock, t.off = at, 0
	case t.off > maxDrift*unit || t.off < -maxDrift*unit:
		t.clock += t.off
		t.off = 0
	}
	dts := int64(t.clock + 0.5)
	t.clock += n
	if n > 0 {
		t.nominal = int64(n + 0.5)
	}
	return dts
}

// indexSize is about what the track takes in the index.
func (t *track) indexSize() int {
	n := 4*t.sizes.n + 8*t.deltas.n + 20*t.chunks.n + 4*t.keys.n
	if t.video {
		n += 8 * t.offsets.n
	}
	return n
}

// total is the track's duration in units.
func (t *track) total() int64 { return t.last - t.first + max(t.nominal, 1) }

// plays is how long the track is seen or heard, in units: longer than its total where
// offsets become greater.
func (t *track) plays() int64 {
	if !t.video {
		return t.total()
	}
	return max(t.total(), t.end-t.shown+max(t.nominal, 1))
}

// begins is when the track is first seen or heard, in milliseconds.
func (t *track) begins() int64 {
	if t.video {
		return t.shown
	}
	return roundDiv(t.first*1000, t.scale)
}

func roundDiv(a, b int64) int64 {
	if a < 0 {
		return -((-a + b/2) / b)
	}
	return (a + b/2) / b
}

func (t *track) describe() Track {
	e := &t.entries[0]
	d := Track{
		Codec: e.codec, Samples: t.samples, Bytes: t.bytes, Width: e.width, Height: e.height, FPS: e.fps,
		SampleRate: e.rate, Channels: e.channels, Entries: len(t.entries),
		Duration: time.Duration(float64(t.total()) / float64(t.scale) * float64(time.Second)),
	}
	if !t.video {
		return d
	}
	d.SampleRate, d.Channels = 0, 0
	if d.FPS == 0 && t.samples > 1 && t.last > t.first {
		d.FPS = float64(t.samples-1) * movieScale / float64(t.last-t.first)
	}
	return d
}
