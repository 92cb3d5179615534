package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"

	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// source is a key frame and what is needed to decode it.
type source struct {
	codec  av.Codec
	config []byte // the codec's configuration record; nil if there is none
	frame  []byte
	rotate int // degrees clockwise, as the metadata say
}

// elementary is a source as ffmpeg reads it.
type elementary struct {
	format string // ffmpeg's name
	data   []byte
	rotate int // degrees clockwise
	flip   bool
	width  int // of the picture where pixels are square; 0 where that is not known
	height int

	stretch bool // its pixels are not square
}

// decoders are ffmpeg's, by codec, the best first. Those that need hardware
// are not among them.
var decoders = map[av.Codec][]string{
	av.H264: {"h264"}, av.HEVC: {"hevc"}, av.AV1: {"libdav1d", "libaom-av1"}, av.VP9: {"vp9", "libvpx-vp9"}, av.VP8: {"vp8", "libvpx"},
}

// errUnfit is the error of a frame that is not even worth a decoder.
var errUnfit = &failure{errDecode, "the key frame is broken"}

// elementary returns s as an elementary stream of one frame.
func (s *source) elementary() (e elementary, err error) {
	e.rotate = s.rotate
	if info, err := av.ParseVideoInfo(s.codec, s.config); err == nil {
		e.width, e.height = info.DisplayWidth(), info.Height
		e.stretch = e.width != info.Width
	}
	switch s.codec {
	case av.H264:
		e.format = "h264"
		c, err := av.ParseAVCConfig(s.config)
		if err != nil {
			return e, errUnfit
		}
		for _, sets := range [][][]byte{c.SPS, c.PPS} {
			for _, set := range sets {
				e.unit(set)
			}
		}
		return e, e.units(s.frame, c.LengthSize, func(u []byte) bool { return av.H264Type(u) == av.H264SEI }, 1)
	case av.HEVC:
		e.format = "hevc"
		c, err := av.ParseHEVCConfig(s.config)
		if err != nil {
			return e, errUnfit
		}
		for _, sets := range [][][]byte{c.VPS, c.SPS, c.PPS} {
			for _, set := range sets {
				e.unit(set)
			}
		}
		return e, e.units(s.frame, c.LengthSize, func(u []byte) bool { return av.HEVCType(u) == av.HEVCPSEI }, 2)
	case av.AV1:
		e.format = "ivf"
		// A temporal unit: its delimiter, the sequence header from the
		// configuration, then what the frame's unit has itself.
		unit := []byte{0x12, 0}
		if len(s.config) > 4 {
			unit = append(unit, s.config[4:]...)
		}
		unit = append(unit, s.frame...)
		var obus av1.Bitstream
		if e.width == 0 && obus.Unmarshal(unit) == nil {
			for _, o := range obus {
				var h av1.SequenceHeader
				if len(o) > 0 && av1.OBUType(o[0]>>3&15) == av1.OBUTypeSequenceHeader && h.Unmarshal(o) == nil {
					e.width, e.height = h.Width(), h.Height()
				}
			}
		}
		e.data = ivf("AV01", unit)
		return e, nil
	case av.VP9:
		e.format = "ivf"
		var h vp9.Header
		if err := h.Unmarshal(s.frame); err == nil {
			e.width, e.height = h.Width(), h.Height()
		}
		e.data = ivf("VP90", s.frame)
		return e, nil
	case av.VP8:
		e.format = "ivf"
		e.data = ivf("VP80", s.frame)
		return e, nil
	}
	return e, &failure{errCodec, fmt.Sprintf("pictures cannot be made of %v", s.codec)}
}

// unit appends a NAL unit with a start code (Rec. ITU-T H.264, annex B).
func (e *elementary) unit(u []byte) { e.data = append(append(e.data, 0, 0, 0, 1), u...) }

// units appends the NAL units of a frame. SEI messages are looked at for the
// orientation of the picture; header is how long a unit's header is.
func (e *elementary) units(frame []byte, lengthSize int, sei func([]byte) bool, header int) error {
	list, err := av.NALUs(nil, frame, lengthSize)
	if err != nil || len(list) == 0 {
		return errUnfit
	}
	for _, u := range list {
		e.unit(u)
		if sei(u) && len(u) > header {
			if rotate, flip, ok := orientation(u[header:]); ok {
				e.rotate, e.flip = rotate, flip
			}
		}
	}
	return nil
}

// ivf returns a file of one frame in the format of that name of libvpx.
func ivf(fourCC string, frame []byte) []byte {
	b := make([]byte, 0, 44+len(frame))
	b = append(append(b, "DKIF\x00\x00\x20\x00"...), fourCC...)
	b = append(b, 16, 0, 16, 0)                                     // width and height, which the frame says
	b = binary.LittleEndian.AppendUint32(b, 1000)                   // time base
	b = binary.LittleEndian.AppendUint32(b, 1)                      //
	b = binary.LittleEndian.AppendUint64(b, 1)                      // frames; unused
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))     //
	return append(binary.LittleEndian.AppendUint64(b, 0), frame...) // its time
}

// rotation returns by how many degrees clockwise a player shall turn the
// picture, as the metadata p say: phones that are held upright say 90.
func rotation(p av.Packet) int {
	for _, name := range []string{"rotate", "rotation", "orientation"} {
		for _, m := range flv.Metadata(p) {
			if m.Name != name {
				continue
			}
			degrees := 0.0
			switch v := m.Value.(type) {
			case float64:
				degrees = v
			case string:
				degrees, _ = strconv.ParseFloat(v, 64)
			}
			if r, ok := quarter(degrees); ok {
				return r
			}
		}
	}
	return 0
}

// quarter returns degrees as 0, 90, 180 or 270.
func quarter(degrees float64) (int, bool) {
	if degrees != degrees || degrees < -360 || degrees > 360 || float64(int(degrees)) != degrees {
		return 0, false
	}
	d := (int(degrees) + 360) % 360
	return d, d%90 == 0
}

// orientation reads the display orientation message (Rec. ITU-T H.264, D.1.27
// and D.2.27; H.265 has the same) of an SEI unit without its header.
func orientation(sei []byte) (clockwise int, flip, ok bool) {
	const displayOrientation = 47
	b := unescape(sei[:min(len(sei), 1<<10)])
	number := func() (n int, err error) {
		for len(b) > 0 {
			c := b[0]
			b = b[1:]
			n += int(c)
			if c != 0xFF {
				return n, nil
			}
		}
		return 0, errors.New("SEI ends")
	}
	for {
		typ, err1 := number()
		size, err2 := number()
		if err1 != nil || err2 != nil || size > len(b) {
			return 0, false, false
		}
		if typ == displayOrientation && size >= 3 {
			// cancel_flag, hor_flip, ver_flip, anticlockwise_rotation in 2^-16 turns
			v := uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
			if v>>23 == 1 {
				return 0, false, false
			}
			hor, ver := v>>22&1 == 1, v>>21&1 == 1
			turn, whole := quarter(float64(v>>5&0xFFFF) * 360 / (1 << 16))
			if !whole {
				return 0, false, false
			}
			clockwise = (360 - turn) % 360
			if ver { // is a horizontal flip and half a turn
				clockwise = (clockwise + 180) % 360
			}
			return clockwise, hor != ver, true
		}
		b = b[size:]
	}
}

// unescape returns the bytes of a NAL unit without emulation prevention.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for zeros := 0; len(b) > 0; b = b[1:] {
		if zeros >= 2 && b[0] == 3 {
			zeros = 0
			continue
		}
		out = append(out, b[0])
		if zeros++; b[0] != 0 {
			zeros = 0
		}
	}
	return out
}
