package mpegts

import (
	"bytes"

	"weir/internal/media/av"
)

// minAudio is the shortest piece of audio that has a frame's header.
const minAudio = 7

// audioHeader is what the header of an audio frame says.
type audioHeader struct {
	size    int // of the frame with its header
	coded   int // where the coded frame begins in it
	rate    int
	samples int
	config  []byte // codec configuration, where the codec has one
}

// readAudio splits the data of a PES packet into frames. A frame that goes on
// in the next PES packet is kept until then. parse reads the header at the
// start of at least minAudio bytes; false: there is none.
func (d *Demuxer) readAudio(t *demuxTrack, data []byte, pts int64, parse func([]byte) (audioHeader, bool)) {
	carried, at := len(t.rest), pts
	if carried > 0 {
		at = t.pts
	}
	next := at                                                                    // when the next frame is due
	buf := append(append(make([]byte, 0, carried+len(data)), t.rest...), data...) // frames are views of it
	off, since := 0, 0                                                            // samples of the frames since the time at
	for len(buf)-off >= minAudio {
		// The PES packet's time is that of the first frame that begins in it.
		if carried > 0 && off >= carried {
			at, carried, since = pts, 0, 0
		}
		b := buf[off:]
		h, ok := parse(b)
		if !ok {
			junk := bytes.IndexByte(b[1:], 0xFF)
			if junk < 0 {
				off = len(buf)
				break
			}
			off += 1 + junk
			continue
		}
		if h.size > len(b) {
			break
		}
		due := func() int64 { return at + int64(since)*1000*Clock/int64(h.rate) }
		p := av.Packet{Kind: av.Audio, Codec: t.codec, DTS: milliseconds(due())}
		d.configure(t, p, h.config)
		p.Frame = b[h.coded:h.size:h.size]
		d.queue = append(d.queue, p)
		off += h.size
		since += h.samples
		next = due()
	}
	if carried > 0 && off >= carried {
		next = pts
	}
	t.rest, t.pts = buf[off:], next
}

var adtsRates = [...]int{96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}

// parseADTS reads an adts_fixed_header and adts_variable_header (ISO/IEC
// 13818-7, 6.2).
func parseADTS(b []byte) (h audioHeader, ok bool) {
	// AAAAAAAA AAAABCCD EEFFFFGH HHIJKLMM MMMMMMMM MMMOOOOO OOOOOOPP
	rate, channels := int(b[2]>>2&15), b[2]&1<<2|b[3]>>6
	h.size = int(b[3]&3)<<11 | int(b[4])<<3 | int(b[5])>>5
	h.coded = 7
	if b[1]&1 == 0 {
		h.coded = 9 // with a CRC
	}
	blocks := int(b[6]&3) + 1
	if b[0] != 0xFF || b[1]&0xF6 != 0xF0 || rate >= len(adtsRates) || channels == 0 || h.size <= h.coded || blocks > 1 {
		return h, false
	}
	h.rate, h.samples = adtsRates[rate], 1024
	// AudioSpecificConfig: 5 bits of object type, 4 of rate, 4 of channels.
	v := uint16(b[2]>>6+1)<<11 | uint16(rate)<<7 | uint16(channels)<<3
	h.config = []byte{byte(v >> 8), byte(v)}
	return h, true
}

var (
	mp3Rates    = [...]int{44100, 48000, 32000} // MPEG-1; MPEG-2 has half, MPEG-2.5 a quarter
	mp3BitRates = [2][16]int{
		{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}, // MPEG-1, kbit/s
		{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},     // MPEG-2 and 2.5
	}
)

// parseMP3 reads the header of a layer III frame (ISO/IEC 11172-3 and 13818-3, 2.4.2.3).
func parseMP3(b []byte) (h audioHeader, ok bool) {
	// AAAAAAAA AAABBCCD EEEEFFGH
	version, layer := b[1]>>3&3, b[1]>>1&3
	bitRate, rate := b[2]>>4, b[2]>>2&3
	if b[0] != 0xFF || b[1]&0xE0 != 0xE0 || version == 1 || layer != 1 || bitRate == 0 || bitRate == 15 || rate == 3 {
		return h, false
	}
	h.rate, h.samples = mp3Rates[rate], 1152
	low := 0
	if version != 3 { // not MPEG-1
		low, h.rate, h.samples = 1, h.rate/2, 576
	}
	if version == 0 { // MPEG-2.5
		h.rate /= 2
	}
	h.size = h.samples/8*mp3BitRates[low][bitRate]*1000/h.rate + int(b[2]>>1&1)
	return h, true
}
