package av

import (
	"fmt"
	"math/bits"
	"strings"
)

// CodecString returns how HLS and MSE name a codec with that configuration
// record (RFC 6381, and the bindings of each codec); "" when it has no name or
// the record cannot be read.
func CodecString(codec Codec, config []byte) string {
	switch codec {
	case H264: // avc1.PPCCLL, ISO/IEC 14496-15, E.2
		if c, err := ParseAVCConfig(config); err == nil && len(c.SPS[0]) >= 4 {
			return fmt.Sprintf("avc1.%02x%02x%02x", c.SPS[0][1], c.SPS[0][2], c.SPS[0][3])
		}
	case HEVC: // hvc1.profile.compatibility.tier+level.constraints, E.3
		if _, err := ParseHEVCConfig(config); err != nil || len(config) < 13 {
			return ""
		}
		space, tier, profile := config[1]>>6, config[1]>>5&1, config[1]&31
		compat := uint32(config[2])<<24 | uint32(config[3])<<16 | uint32(config[4])<<8 | uint32(config[5])
		s := fmt.Sprintf("hvc1.%s%d.%X.%c%d", []string{"", "A", "B", "C"}[space], profile, bits.Reverse32(compat), "LH"[tier], config[12])
		constraints := config[6:12]
		for len(constraints) > 0 && constraints[len(constraints)-1] == 0 {
			constraints = constraints[:len(constraints)-1]
		}
		var b strings.Builder
		for _, c := range constraints {
			fmt.Fprintf(&b, ".%X", c)
		}
		return s + b.String()
	case AV1: // av01.P.LLT.DD, AV1 in ISO Base Media File Format, 5
		if len(config) >= 4 {
			tier := "MH"[config[2]>>7]
			depth := 8
			if config[2]&0x40 != 0 {
				depth = 10
				if config[2]&0x20 != 0 {
					depth = 12
				}
			}
			return fmt.Sprintf("av01.%d.%02d%c.%02d", config[1]>>5, config[1]&31, tier, depth)
		}
	case AAC:
		if c, err := ParseAACConfig(config); err == nil {
			return fmt.Sprintf("mp4a.40.%d", c.ObjectType)
		}
	case MP3:
		return "mp4a.40.34"
	case Opus:
		return "opus"
	case FLAC:
		return "fLaC"
	case AC3:
		return "ac-3"
	case EAC3:
		return "ec-3"
	}
	return ""
}
