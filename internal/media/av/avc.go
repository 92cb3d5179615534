package av

import (
	"errors"
	"fmt"

	"weir/internal/media/bits"
)

// Limits of a configuration record. No encoder comes near them.
const (
	maxSets    = 16   // parameter sets of one kind
	maxSetSize = 8192 // bytes of one parameter set
)

var (
	errLengthSize = errors.New("NAL unit length size is 3")
	errSets       = errors.New("too many or no parameter sets")
	errSetSize    = errors.New("parameter set is empty or too long")
	errNoSPS      = errors.New("unit in the place of an SPS is none")
)

// AVCConfig is an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1.2).
// Its parameter sets are views of the record that it was parsed from.
type AVCConfig struct {
	Profile, Compat, Level uint8
	LengthSize             int // bytes of a NAL unit's length: 1, 2 or 4
	SPS, PPS               [][]byte
}

// ParseAVCConfig decodes an AVC configuration record. It demands at least one
// SPS and one PPS and accepts 16 of each, up to 8 KiB long. What follows the
// parameter sets (chroma format, SPS extensions) is not read: the SPS says
// the same.
func ParseAVCConfig(b []byte) (*AVCConfig, error) {
	r := bits.NewReader(b)
	if v := r.Uint8(); v != 1 {
		r.Fail(fmt.Errorf("version is %d", v))
	}
	c := &AVCConfig{Profile: r.Uint8(), Compat: r.Uint8(), Level: r.Uint8()}
	c.LengthSize = lengthSize(r)
	c.SPS = parameterSets(r, int(r.Uint8()&0x1F))
	c.PPS = parameterSets(r, int(r.Uint8()))
	for _, s := range c.SPS {
		if H264Type(s) != H264SPS {
			r.Fail(errNoSPS)
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("AVC configuration record: %w", err)
	}
	return c, nil
}

// Append appends the record to dst. Profile, Compat and Level are taken from
// the first SPS if there is one.
func (c *AVCConfig) Append(dst []byte) []byte {
	profile, compat, level := c.Profile, c.Compat, c.Level
	if len(c.SPS) > 0 && len(c.SPS[0]) >= 4 {
		profile, compat, level = c.SPS[0][1], c.SPS[0][2], c.SPS[0][3]
	}
	w := bits.Writer{B: dst}
	w.Uint8(1)
	w.Uint8(profile)
	w.Uint8(compat)
	w.Uint8(level)
	w.Uint8(0xFC | uint8(c.LengthSize-1))
	w.Uint8(0xE0 | uint8(len(c.SPS)))
	appendSets(&w, c.SPS)
	w.Uint8(uint8(len(c.PPS)))
	appendSets(&w, c.PPS)
	return w.B
}

// lengthSize reads the byte that ends in lengthSizeMinusOne.
func lengthSize(r *bits.Reader) int {
	n := int(r.Uint8()&3) + 1
	if n == 3 {
		r.Fail(errLengthSize)
	}
	return n
}

// parameterSets reads n parameter sets, each after its 16-bit length.
func parameterSets(r *bits.Reader, n int) [][]byte {
	if n == 0 || n > maxSets {
		r.Fail(errSets)
		return nil
	}
	sets := make([][]byte, 0, n)
	for ; n > 0 && r.Err() == nil; n-- {
		s := r.Bytes(int(r.Uint16()))
		if len(s) == 0 || len(s) > maxSetSize {
			r.Fail(errSetSize)
			return nil
		}
		sets = append(sets, s)
	}
	return sets
}

func appendSets(w *bits.Writer, sets [][]byte) {
	for _, s := range sets {
		w.Uint16(uint16(len(s)))
		w.Bytes(s)
	}
}
