package av

import (
	"encoding/binary"
	"errors"
	"slices"
)

// OpusConfig is the identification header of Opus (RFC 7845, 5.1), which is
// its codec configuration.
type OpusConfig struct {
	Channels int
	PreSkip  int // samples at 48 kHz before what is to be heard
	Rate     int // of what was encoded; for display
	Gain     int16
	Family   int
	Mapping  []byte // of families but 0: stream count, coupled count, and the channels' places
}

const opusMagic = "OpusHead"

// ParseOpusConfig reads an identification header.
func ParseOpusConfig(b []byte) (*OpusConfig, error) {
	if len(b) < 19 || string(b[:8]) != opusMagic || b[8]>>4 != 0 || b[9] == 0 {
		return nil, errors.New("configuration of Opus: not an identification header")
	}
	c := &OpusConfig{
		Channels: int(b[9]), PreSkip: int(binary.LittleEndian.Uint16(b[10:])), Rate: int(binary.LittleEndian.Uint32(b[12:])),
		Gain: int16(binary.LittleEndian.Uint16(b[16:])), Family: int(b[18]),
	}
	switch {
	case c.Family == 0 && c.Channels > 2:
		return nil, errors.New("configuration of Opus: more than two channels without a mapping")
	case c.Family != 0:
		if len(b) < 21+c.Channels {
			return nil, errors.New("configuration of Opus: the mapping is too short")
		}
		c.Mapping = b[19 : 21+c.Channels]
	}
	return c, nil
}

// Append appends the header to b.
func (c *OpusConfig) Append(b []byte) []byte {
	b = append(append(b, opusMagic...), 1, byte(c.Channels))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.PreSkip))
	b = binary.LittleEndian.AppendUint32(b, uint32(c.Rate))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.Gain))
	return append(append(b, byte(c.Family)), c.Mapping...)
}

// opusMappings are those that 1 to 8 channels have by default: the streams,
// how many of them are coupled, and where the channels are (RFC 7845, 5.1.1.2).
var opusMappings = [...][]byte{
	{1, 0, 0},
	{1, 1, 0, 1},
	{2, 1, 0, 2, 1},
	{2, 2, 0, 1, 2, 3},
	{3, 2, 0, 4, 1, 2, 3},
	{4, 2, 0, 4, 1, 2, 3, 5},
	{4, 3, 0, 4, 1, 2, 3, 5, 6},
	{5, 3, 0, 6, 1, 2, 3, 4, 5, 7},
}

// DefaultOpusConfig returns the configuration of so many channels, 1 to 8, in
// the order that is usual.
func DefaultOpusConfig(channels int) *OpusConfig {
	c := &OpusConfig{Channels: channels, Rate: 48000}
	if channels > 2 {
		c.Family, c.Mapping = 1, opusMappings[channels-1]
	}
	return c
}

// Usual reports whether DefaultOpusConfig of its number of channels says the
// same of their order.
func (c *OpusConfig) Usual() bool {
	return c.Family == 0 || c.Family == 1 && c.Channels <= len(opusMappings) && slices.Equal(c.Mapping, opusMappings[c.Channels-1])
}

// OpusSamples reads the duration of an Opus packet, in samples at 48 kHz, from
// its first bytes (RFC 6716, 3.1); 0: it is none.
func OpusSamples(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	n := 0
	switch c := int(b[0] >> 3); {
	case c < 12: // SILK
		n = [...]int{480, 960, 1920, 2880}[c&3]
	case c < 16: // hybrid
		n = [...]int{480, 960}[c&1]
	default: // CELT
		n = 120 << (c & 3)
	}
	switch b[0] & 3 {
	case 0:
		return n
	case 1, 2:
		return 2 * n
	}
	if len(b) < 2 {
		return 0
	}
	return min(n*int(b[1]&0x3F), 5760)
}
