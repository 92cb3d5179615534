package mpegts

import (
	"errors"

	"weir/internal/media/av"
)

// Opus in a transport stream is private data whose descriptors say what it is.
// Its frames, access units, each have a header in front (ETSI TS "Opus in
// MPEG-2 TS", the mapping that FFmpeg and others have):
//
//	01111111 111STE00  [size: bytes of 255 and one that is less]  [S: 000 start_trim 13 bits]  [T: the same of the end]  [E: n, n bytes]
//
// The identification header is not in it: the descriptor has the channels, and
// the first frame trims what is not to be heard.
const (
	opusDescriptors = 6 + 4 // bytes of them

	registrationDescriptor = 0x05
	extensionDescriptor    = 0x7F
	opusExtension          = 0x80 // descriptor_tag_extension

	opusPrefix  = 0x7FE0
	opusStart   = 0x10
	opusEnd     = 0x08
	opusControl = 0x04
	maxTrim     = 1<<13 - 1
)

// opusTrack is what a Muxer knows of Opus.
type opusTrack struct {
	channels int // 0: nobody has said it
	trim     int // what the next frame has to say of its beginning
}

var errOpusChannels = errors.New("these Opus channels have no place in a transport stream")

func (o *opusTrack) configure(head []byte) error {
	c, err := av.ParseOpusConfig(head)
	if err != nil {
		return err
	}
	if !c.Usual() {
		return errOpusChannels
	}
	o.channels, o.trim = c.Channels, min(c.PreSkip, maxTrim)
	return nil
}

// descriptors appends those of the track in the program map table.
func (o *opusTrack) descriptors(b []byte) []byte {
	channels := o.channels
	if channels == 0 {
		channels = 2
	}
	return append(b, registrationDescriptor, 4, 'O', 'p', 'u', 's', extensionDescriptor, 2, opusExtension, byte(channels))
}

// header returns that of a frame of n bytes.
func (o *opusTrack) header(n int) []byte {
	b := make([]byte, 2, 2+n/255+1+2)
	b[0], b[1] = opusPrefix>>8, opusPrefix&0xFF
	for ; n >= 255; n -= 255 {
		b = append(b, 255)
	}
	b = append(b, byte(n))
	if o.trim > 0 {
		b[1] |= opusStart
		b = append(b, byte(o.trim>>8), byte(o.trim))
		o.trim = 0
	}
	return b
}

// opusChannels reads the descriptors of a track of private data: the number of
// its channels if it is Opus, and otherwise 0.
func opusChannels(b []byte) (channels int) {
	opus := false
	for len(b) >= 2 {
		tag, n := b[0], int(b[1])
		if len(b) < 2+n {
			break
		}
		data := b[2 : 2+n]
		switch {
		case tag == registrationDescriptor && n >= 4 && string(data[:4]) == "Opus":
			opus = true
		case tag == extensionDescriptor && n >= 2 && data[0] == opusExtension:
			channels = int(data[1])
		}
		b = b[2+n:]
	}
	switch {
	case !opus:
		return 0
	case channels < 1 || channels > 8: // dual mono, or a mapping of its own
		return 2
	}
	return channels
}

// readOpus splits the data of a PES packet into frames.
func (d *Demuxer) readOpus(t *demuxTrack, data []byte, pts int64) {
	since := 0
	for len(data) >= 3 {
		head := int(data[0])<<8 | int(data[1])
		if head&0xFFE0 != opusPrefix {
			return
		}
		size, at := 0, 2
		for {
			if at >= len(data) {
				return
			}
			size += int(data[at])
			at++
			if data[at-1] != 255 {
				break
			}
		}
		trim := -1
		if head&opusStart != 0 {
			if len(data) < at+2 {
				return
			}
			trim = (int(data[at])<<8 | int(data[at+1])) & maxTrim
			at += 2
		}
		if head&opusEnd != 0 {
			at += 2
		}
		if head&opusControl != 0 {
			if at >= len(data) {
				return
			}
			at += 1 + int(data[at])
		}
		if size == 0 || at+size > len(data) {
			return
		}
		p := av.Packet{Kind: av.Audio, Codec: av.Opus, DTS: milliseconds(pts + int64(since)*Clock/48)}
		if trim >= 0 || t.config == nil || len(t.config) > 9 && int(t.config[9]) != t.channels {
			c := av.DefaultOpusConfig(t.channels)
			c.PreSkip = max(trim, 0)
			d.configure(t, p, c.Append(nil))
		}
		p.Frame = append([]byte(nil), data[at:at+size]...)
		d.queue = append(d.queue, p)
		since += av.OpusSamples(p.Frame)
		data = data[at+size:]
	}
}
