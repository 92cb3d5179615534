package av

import (
	"errors"
	"fmt"

	"weir/internal/media/bits"
)

// Audio object types (ISO/IEC 14496-3, table 1.17).
const (
	AACMain = 1
	AACLC   = 2
	AACSSR  = 3
	AACLTP  = 4
	aacSBR  = 5
	aacPS   = 29
)

var (
	aacRates    = [...]int{96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
	aacChannels = [...]int{0, 1, 2, 3, 4, 5, 6, 8} // by channelConfiguration; 0: a program config element says
)

// AACConfig is what an AudioSpecificConfig says of an AAC stream (ISO/IEC
// 14496-3, 1.6.2.1).
type AACConfig struct {
	ObjectType    int // of the core coder: 2 is AAC LC, also below SBR and PS
	SampleRate    int // of the core coder; ExtensionRate is what SBR doubles it to
	ExtensionRate int // 0: no SBR is signalled
	Channels      int // of the core coder
	PS            bool

	rateIndex, channelConfig uint8
}

// ParseAACConfig decodes an AudioSpecificConfig. It refuses object types that
// aren't general audio coding, reserved rates and channel configurations, and
// rates of 0 or beyond 192 kHz.
func ParseAACConfig(b []byte) (*AACConfig, error) {
	r := bits.NewReader(b)
	c := &AACConfig{ObjectType: objectType(r)}
	c.SampleRate, c.rateIndex = sampleRate(r)
	c.channelConfig = uint8(r.Bits(4))
	if c.ObjectType == aacSBR || c.ObjectType == aacPS {
		c.PS = c.ObjectType == aacPS
		c.ExtensionRate, _ = sampleRate(r)
		c.ObjectType = objectType(r)
	}
	switch c.ObjectType {
	case AACMain, AACLC, AACSSR, AACLTP:
	default:
		r.Fail(fmt.Errorf("object type %d is not supported", c.ObjectType))
	}

	// GASpecificConfig, 4.4.1.
	r.Flag() // frameLengthFlag
	if r.Flag() {
		r.Bits(14) // coreCoderDelay
	}
	r.Flag() // extensionFlag: nothing follows for these object types
	switch {
	case c.channelConfig == 0:
		c.Channels = programConfig(r)
	case int(c.channelConfig) < len(aacChannels):
		c.Channels = aacChannels[c.channelConfig]
	default:
		r.Fail(fmt.Errorf("channel configuration %d is reserved", c.channelConfig))
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("AudioSpecificConfig: %w", err)
	}
	return c, nil
}

// objectType reads a GetAudioObjectType (1.6.2.1, table 1.16).
func objectType(r *bits.Reader) int {
	t := int(r.Bits(5))
	if t == 31 {
		t = 32 + int(r.Bits(6))
	}
	return t
}

// sampleRate reads a samplingFrequencyIndex and, after index 15, the rate.
func sampleRate(r *bits.Reader) (rate int, index uint8) {
	index = uint8(r.Bits(4))
	switch {
	case int(index) < len(aacRates):
		return aacRates[index], index
	case index == 15:
		rate = int(r.Bits(24))
		for i, known := range aacRates { // a rate of the table, spelt out: ADTS can have it
			if rate == known {
				index = uint8(i)
			}
		}
	}
	if rate == 0 || rate > 192000 {
		r.Fail(fmt.Errorf("sampling frequency index %d, rate %d", index, rate))
	}
	return rate, index
}

// programConfig reads a program_config_element as far as its channels go
// (4.4.1.1) and returns how many there are.
func programConfig(r *bits.Reader) int {
	r.Bits(4 + 2 + 4) // element_instance_tag, object_type, sampling_frequency_index
	front, side, back := r.Bits(4), r.Bits(4), r.Bits(4)
	lfe := r.Bits(2)
	r.Bits(3 + 4)                       // num_assoc_data_elements, num_valid_cc_elements
	for _, n := range []uint{4, 4, 3} { // mono, stereo and matrix mix-down
		if r.Flag() {
			r.Bits(n)
		}
	}
	channels := int(lfe)
	for n := front + side + back; n > 0; n-- {
		channels++
		if r.Flag() { // is_cpe
			channels++
		}
		r.Bits(4)
	}
	if channels == 0 {
		r.Fail(errors.New("program config element has no channels"))
	}
	return channels
}

// MaxADTSFrame is the longest raw frame that an ADTS header can announce.
const MaxADTSFrame = 1<<13 - 1 - 7

// ADTS appends to dst the 7-byte header without CRC that goes before a raw
// frame of frameLen bytes (ISO/IEC 13818-7, 6.2). It is an error when the frame is empty or
// longer than MaxADTSFrame, or when the configuration has a sample rate or
// channels that ADTS has no number for.
func (c *AACConfig) ADTS(dst []byte, frameLen int) ([]byte, error) {
	if frameLen <= 0 || frameLen > MaxADTSFrame {
		return dst, fmt.Errorf("ADTS: frame of %d bytes", frameLen)
	}
	if int(c.rateIndex) >= len(aacRates) || c.channelConfig == 0 {
		return dst, fmt.Errorf("ADTS: cannot say %d Hz in %d channels", c.SampleRate, c.Channels)
	}
	// AAAAAAAA AAAABCCD EEFFFFGH HHIJKLMM MMMMMMMM MMMOOOOO OOOOOOPP
	n := frameLen + 7
	return append(dst,
		0xFF,
		0xF1, // MPEG-4, no CRC
		uint8(c.ObjectType-1)<<6|c.rateIndex<<2|c.channelConfig>>2,
		c.channelConfig<<6|uint8(n>>11),
		uint8(n>>3),
		uint8(n<<5)|0x1F, // buffer fullness: variable rate
		0xFC), nil
}

// Append appends the AudioSpecificConfig of an AAC LC stream to dst, without
// extensions: 2 bytes, or 5 when the rate is not in the table.
func (c *AACConfig) Append(dst []byte) []byte {
	index, channels := uint32(15), uint32(c.Channels)
	for i, rate := range aacRates {
		if rate == c.SampleRate {
			index = uint32(i)
		}
	}
	if channels == 8 {
		channels = 7
	}
	if index == 15 {
		v := uint64(c.ObjectType)<<35 | 15<<31 | uint64(c.SampleRate&0xFFFFFF)<<7 | uint64(channels)<<3
		return append(dst, byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
	v := uint32(c.ObjectType)<<11 | index<<7 | channels<<3
	return append(dst, byte(v>>8), byte(v))
}
