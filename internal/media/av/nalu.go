package av

import (
	"bytes"
	"errors"
)

// MaxNALUs is the most NAL units that an access unit may have.
const MaxNALUs = 2048

// ErrUnits is the error of an access unit whose NAL unit lengths do not add
// up, or that has more than MaxNALUs of them.
var ErrUnits = errors.New("broken access unit")

// NAL unit types that this package and its users tell apart.
const (
	H264IDR = 5 // Rec. ITU-T H.264 table 7-1
	H264SEI = 6
	H264SPS = 7
	H264PPS = 8
	H264AUD = 9

	HEVCBLA  = 16 // Rec. ITU-T H.265 table 7-1: 16 to 21 are the IRAP pictures
	HEVCCRA  = 21
	HEVCVPS  = 32
	HEVCSPS  = 33
	HEVCPPS  = 34
	HEVCAUD  = 35
	HEVCPSEI = 39 // prefix SEI
)

// H264Type returns the type of a NAL unit that is not empty.
func H264Type(nalu []byte) int { return int(nalu[0] & 0x1F) }

// HEVCType returns the type of a NAL unit that is not empty.
func HEVCType(nalu []byte) int { return int(nalu[0] >> 1 & 0x3F) }

// NextNALU splits the first NAL unit from a frame of length-prefixed units
// (ISO/IEC 14496-15, 5.3.2 and 8.3.2). Both results are views of frame; nalu
// may be empty. The error is ErrUnits when the length doesn't fit. lengthSize
// is 1, 2 or 4, as ParseAVCConfig and ParseHEVCConfig see to.
func NextNALU(frame []byte, lengthSize int) (nalu, rest []byte, err error) {
	if len(frame) < lengthSize {
		return nil, nil, ErrUnits
	}
	n := 0
	for _, b := range frame[:lengthSize] {
		n = n<<8 | int(b)
	}
	frame = frame[lengthSize:]
	if n > len(frame) {
		return nil, nil, ErrUnits
	}
	return frame[:n:n], frame[n:], nil
}

// NALUs appends the NAL units of a frame to dst, as views of frame. Empty
// units are left out. A frame that has broken lengths or more than MaxNALUs units
// gives ErrUnits.
func NALUs(dst [][]byte, frame []byte, lengthSize int) ([][]byte, error) {
	for n := 0; len(frame) > 0; n++ {
		nalu, rest, err := NextNALU(frame, lengthSize)
		if err != nil || n == MaxNALUs {
			return dst, ErrUnits
		}
		if len(nalu) > 0 {
			dst = append(dst, nalu)
		}
		frame = rest
	}
	return dst, nil
}

// RandomAccess says whether decoding can start at an access unit of H.264 or
// HEVC, by the NAL units in it: an IDR or IRAP picture. In H.264 a recovery point message
// also counts, but only when the container, too, calls the frame a key frame (flagged). It
// allocates nothing. A broken frame, or one without any unit, gives ErrUnits.
func RandomAccess(codec Codec, frame []byte, lengthSize int, flagged bool) (bool, error) {
	key, units := false, 0
	for n := 0; len(frame) > 0; n++ {
		nalu, rest, err := NextNALU(frame, lengthSize)
		if err != nil || n == MaxNALUs {
			return false, ErrUnits
		}
		frame = rest
		if len(nalu) == 0 {
			continue
		}
		units++
		if codec == HEVC {
			t := HEVCType(nalu)
			key = key || t >= HEVCBLA && t <= HEVCCRA
			continue
		}
		switch H264Type(nalu) {
		case H264IDR:
			key = true
		case H264SEI:
			key = key || flagged && recoveryPoint(nalu)
		}
	}
	if units == 0 {
		return false, ErrUnits
	}
	return key, nil
}

// recoveryPoint says whether an H.264 SEI unit holds a recovery point message
// (Rec. ITU-T H.264, 7.3.2.3 and D.1.8).
func recoveryPoint(nalu []byte) bool {
	const payloadType = 6
	r := rbsp{b: nalu[1:]}
	for {
		typ, ok1 := r.seiNumber()
		size, ok2 := r.seiNumber()
		if !ok1 || !ok2 {
			return false
		}
		if typ == payloadType {
			return true
		}
		for ; size > 0; size-- {
			if _, ok := r.next(); !ok {
				return false
			}
		}
	}
}

// rbsp reads the bytes of a NAL unit without its emulation prevention bytes.
type rbsp struct {
	b     []byte
	zeros int
}

func (r *rbsp) next() (byte, bool) {
	if r.zeros >= 2 && len(r.b) > 0 && r.b[0] == 3 {
		r.b, r.zeros = r.b[1:], 0
	}
	if len(r.b) == 0 {
		return 0, false
	}
	c := r.b[0]
	r.b = r.b[1:]
	if c == 0 {
		r.zeros++
	} else {
		r.zeros = 0
	}
	return c, true
}

// seiNumber reads a payload type or size: ff bytes and a last byte, added up.
func (r *rbsp) seiNumber() (int, bool) {
	for n := 0; ; {
		c, ok := r.next()
		if !ok {
			return 0, false
		}
		n += int(c)
		if c != 0xFF {
			return n, true
		}
	}
}

// ParameterSets returns the sequence parameter sets in a frame of H.264 or HEVC,
// joined, and those in its configuration record; nil of what has none.
func ParameterSets(codec Codec, config, frame []byte) (inFrame, inConfig []byte) {
	var lengthSize int
	isSPS := func(u []byte) bool { return H264Type(u) == H264SPS }
	switch codec {
	case H264:
		c, err := ParseAVCConfig(config)
		if err != nil {
			return nil, nil
		}
		lengthSize, inConfig = c.LengthSize, bytes.Join(c.SPS, nil)
	case HEVC:
		c, err := ParseHEVCConfig(config)
		if err != nil {
			return nil, nil
		}
		lengthSize, inConfig = c.LengthSize, bytes.Join(c.SPS, nil)
		isSPS = func(u []byte) bool { return HEVCType(u) == HEVCSPS }
	default:
		return nil, nil
	}
	for len(frame) > 0 {
		u, rest, err := NextNALU(frame, lengthSize)
		if err != nil {
			break
		}
		if frame = rest; len(u) > 0 && isSPS(u) {
			inFrame = append(inFrame, u...)
		}
	}
	return inFrame, inConfig
}
