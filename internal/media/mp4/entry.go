package mp4

import (
	"encoding/binary"

	"github.com/Eyevinn/mp4ff/mp4"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"

	"weir/internal/media/av"
)

// newEntry returns the sample entry of a codec with that configuration, if it
// has one. What the configuration does not say is in the packet.
func newEntry(codec av.Codec, config []byte, p av.Packet) (e entry, ok bool) {
	e = entry{codec: codec, config: config}
	switch codec {
	case av.H264, av.HEVC, av.AV1:
		info, err := av.ParseVideoInfo(codec, config)
		if err != nil {
			return e, false
		}
		e.width, e.height, e.fps = info.Width, info.Height, info.FPS
		names := map[av.Codec][2]string{av.H264: {"avc1", "avcC"}, av.HEVC: {"hvc1", "hvcC"}, av.AV1: {"av01", "av1C"}}[codec]
		e.box = mp4.CreateVisualSampleEntryBox(names[0], uint16(e.width), uint16(e.height), raw(names[1], config))
		return e, e.width > 0 && e.height > 0
	case av.VP9:
		if len(config) < 8 || p.Config || !p.Key {
			return e, false
		}
		var h vp9.Header
		if h.Unmarshal(p.Frame) != nil || h.FrameSize == nil {
			return e, false
		}
		e.width, e.height = h.Width(), h.Height()
		e.box = mp4.CreateVisualSampleEntryBox("vp09", uint16(e.width), uint16(e.height), raw("vpcC", append([]byte{1, 0, 0, 0}, config...)))
		return e, e.width > 0 && e.height > 0
	}

	// Audio: where the configuration is in the frames, or there is none, p is a frame.
	q := p
	switch codec {
	case av.AAC, av.FLAC, av.Opus:
		if config == nil {
			return e, false
		}
		q = av.Packet{Kind: av.Audio, Codec: codec, Config: true, Frame: config}
	}
	info, err := av.ParseAudioInfo(q)
	if err != nil {
		return e, false
	}
	e.rate, e.channels = info.SampleRate, info.Channels
	name, box := "mp4a", mp4.Box(nil)
	switch codec {
	case av.AAC:
		c, err := av.ParseAACConfig(config)
		if err != nil {
			return e, false
		}
		e.rate = c.SampleRate // frames count the core coder's samples
		box = mp4.CreateEsdsBox(config)
	case av.MP3:
		esds := mp4.CreateEsdsBox(nil)
		esds.DecConfigDescriptor.ObjectType = 0x6B // MPEG-1 audio
		if e.rate < 32000 {
			esds.DecConfigDescriptor.ObjectType = 0x69 // MPEG-2
		}
		esds.DecConfigDescriptor.DecSpecificInfo = nil
		box = esds
	case av.Opus:
		if name, box = "Opus", opusBox(config); box == nil {
			return e, false
		}
	case av.FLAC: // "fLaC", then the metadata blocks
		name, box = "fLaC", raw("dfLa", append([]byte{0, 0, 0, 0}, config[4:]...))
	}
	if e.rate < 1000 || e.rate > 768000 || e.channels < 1 || e.channels > 255 {
		return e, false
	}
	rate := uint16(e.rate)
	if e.rate > 1<<16-1 {
		rate = 0 // the box has the integer part in 16 bits; the codec's own box knows
	}
	a := mp4.CreateAudioSampleEntryBox(name, uint16(e.channels), 16, rate, nil)
	a.Children = []mp4.Box{box}
	e.box = a
	return e, true
}

// raw is a box whose content is ready.
func raw(name string, content []byte) mp4.Box {
	return mp4.CreateUnknownBox(name, uint64(8+len(content)), content)
}

// opusBox makes a dOps (Encapsulation of Opus in ISO Base Media File Format,
// 4.3.2) of an identification header (RFC 7845, 5.1): the same, with the other
// order of bytes and without the magic.
func opusBox(head []byte) mp4.Box {
	c, err := av.ParseOpusConfig(head)
	if err != nil {
		return nil
	}
	b := []byte{0, byte(c.Channels)}
	b = binary.BigEndian.AppendUint16(b, uint16(c.PreSkip))
	b = binary.BigEndian.AppendUint32(b, uint32(c.Rate))
	b = binary.BigEndian.AppendUint16(b, uint16(c.Gain))
	return raw("dOps", append(append(b, byte(c.Family)), c.Mapping...))
}

// frameSamples is how many samples a frame of audio has at its entry's rate; 0: its time says.
func frameSamples(p av.Packet, e *entry) int {
	switch e.codec {
	case av.AAC:
		return 1024
	case av.MP3:
		if e.rate < 32000 {
			return 576
		}
		return 1152
	case av.Opus:
		return av.OpusSamples(p.Frame)
	}
	return 0
}
