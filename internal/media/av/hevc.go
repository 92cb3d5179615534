package av

import (
	"fmt"

	"weir/internal/media/bits"
)

// maxArrays is how many NAL unit arrays an HEVC record may have: there are
// five kinds that belong in one.
const maxArrays = 16

// HEVCConfig is an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15,
// 8.3.3.1.2). Its parameter sets are views of the record that it was parsed from.
type HEVCConfig struct {
	General       [12]byte // general_profile_space to general_level_idc, as in the SPS
	ChromaFormat  uint8
	BitDepth      uint8 // of luma
	LengthSize    int   // bytes of a NAL unit's length: 1, 2 or 4
	VPS, SPS, PPS [][]byte
}

// ParseHEVCConfig decodes an HEVC configuration record. It demands at least
// one SPS and one PPS and accepts 16 units of each kind, up to 8 KiB long. Arrays
// of other kinds (SEI) are skipped.
func ParseHEVCConfig(b []byte) (*HEVCConfig, error) {
	r := bits.NewReader(b)
	// Version 0 was written by encoders that followed a draft.
	if v := r.Uint8(); v > 1 {
		r.Fail(fmt.Errorf("version is %d", v))
	}
	c := &HEVCConfig{}
	copy(c.General[:], r.Bytes(12))
	r.Skip(2 + 1) // min_spatial_segmentation_idc, parallelismType
	c.ChromaFormat = r.Uint8() & 3
	c.BitDepth = r.Uint8()&7 + 8
	r.Skip(1 + 2) // bit_depth_chroma_minus8, avgFrameRate
	c.LengthSize = lengthSize(r)
	n := int(r.Uint8())
	if n > maxArrays {
		r.Fail(errSets)
	}
	for ; n > 0 && r.Err() == nil; n-- {
		typ, units := int(r.Uint8()&0x3F), int(r.Uint16())
		var to *[][]byte
		switch typ {
		case HEVCVPS:
			to = &c.VPS
		case HEVCSPS:
			to = &c.SPS
		case HEVCPPS:
			to = &c.PPS
		}
		if to == nil || units == 0 {
			for ; units > 0 && r.Err() == nil; units-- {
				r.Skip(int(r.Uint16()))
			}
			continue
		}
		*to = append(*to, parameterSets(r, units)...)
	}
	for _, sets := range [...][][]byte{c.VPS, c.SPS, c.PPS} {
		if len(sets) > maxSets {
			r.Fail(errSets)
		}
	}
	if len(c.SPS) == 0 || len(c.PPS) == 0 {
		r.Fail(errSets)
	}
	for _, s := range c.SPS {
		if HEVCType(s) != HEVCSPS {
			r.Fail(errNoSPS)
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("HEVC configuration record: %w", err)
	}
	return c, nil
}

// Append appends the record to dst.
func (c *HEVCConfig) Append(dst []byte) []byte {
	w := bits.Writer{B: dst}
	w.Uint8(1)
	w.Bytes(c.General[:])
	w.Uint16(0xF000)
	w.Uint8(0xFC)
	w.Uint8(0xFC | c.ChromaFormat)
	w.Uint8(0xF8 | (c.BitDepth-8)&7)
	w.Uint8(0xF8 | (c.BitDepth-8)&7)
	w.Uint16(0)
	w.Uint8(0x0C | uint8(c.LengthSize-1)) // one temporal layer, nested
	w.Uint8(3)
	for _, a := range [...]struct {
		typ  uint8
		sets [][]byte
	}{{HEVCVPS, c.VPS}, {HEVCSPS, c.SPS}, {HEVCPPS, c.PPS}} {
		w.Uint8(0x80 | a.typ)
		w.Uint16(uint16(len(a.sets)))
		appendSets(&w, a.sets)
	}
	return w.B
}
