package av

import (
	"errors"
	"fmt"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/ac3"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/eac3"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/flac"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"
)

// maxSide is the largest width and height that is believed.
const maxSide = 16888 // Rec. ITU-T H.265, level 7.2

// VideoInfo is what a codec configuration says of the picture. A value that
// it doesn't say is 0.
type VideoInfo struct {
	Width, Height  int
	FPS            float64
	Profile, Level int // as the codec numbers them

	SARWidth, SARHeight int // sample aspect ratio, how wide a pixel is for its height
}

// DisplayWidth is how wide the picture is, with its Height, where pixels are square.
func (v *VideoInfo) DisplayWidth() int {
	if v.SARWidth == 0 {
		return v.Width
	}
	return (v.Width*v.SARWidth + v.SARHeight/2) / v.SARHeight
}

// sampleAspects are the ratios that have numbers (Rec. ITU-T H.264, table E-1; H.265 has
// the same).
var sampleAspects = [...][2]int{
	1: {1, 1}, {12, 11}, {10, 11}, {16, 11}, {40, 33}, {24, 11}, {20, 11}, {32, 11}, {80, 33}, {18, 11}, {15, 11}, {64, 33}, {160, 99}, {4, 3}, {3, 2}, {2, 1},
}

// maxAspect is the most oblong pixel that is believed, either way.
const maxAspect = 8

// aspect notes the sample aspect ratio of the number idc, of which 255 stands for w:h.
func (v *VideoInfo) aspect(idc uint8, w, h uint16) {
	r := [2]int{int(w), int(h)}
	if idc != 255 {
		r = [2]int{}
		if int(idc) < len(sampleAspects) {
			r = sampleAspects[idc]
		}
	}
	if r[0] > 0 && r[1] > 0 && r[0] <= maxAspect*r[1] && r[1] <= maxAspect*r[0] {
		v.SARWidth, v.SARHeight = r[0], r[1]
	}
}

// ParseVideoInfo reads the picture's size and rate from a configuration
// record: that of H.264, HEVC or AV1 (those of VP8 and VP9 don't have them). It is for
// display, not for every frame.
func ParseVideoInfo(codec Codec, config []byte) (info VideoInfo, err error) {
	switch codec {
	case H264:
		c, err := ParseAVCConfig(config)
		if err != nil {
			return info, err
		}
		var sps h264.SPS
		if err := sps.Unmarshal(c.SPS[0]); err != nil {
			return info, fmt.Errorf("H.264 SPS: %w", err)
		}
		info = VideoInfo{Width: sps.Width(), Height: sps.Height(), FPS: sps.FPS(), Profile: int(sps.ProfileIdc), Level: int(sps.LevelIdc)}
		if v := sps.VUI; v != nil && v.AspectRatioInfoPresentFlag {
			info.aspect(v.AspectRatioIdc, v.SarWidth, v.SarHeight)
		}
	case HEVC:
		c, err := ParseHEVCConfig(config)
		if err != nil {
			return info, err
		}
		var sps h265.SPS
		if err := sps.Unmarshal(c.SPS[0]); err != nil {
			return info, fmt.Errorf("HEVC SPS: %w", err)
		}
		p := &sps.ProfileTierLevel
		info = VideoInfo{Width: sps.Width(), Height: sps.Height(), FPS: sps.FPS(), Profile: int(p.GeneralProfileIdc), Level: int(p.GeneralLevelIdc)}
		if v := sps.VUI; v != nil && v.AspectRatioInfoPresentFlag {
			info.aspect(v.AspectRatioIdc, v.SarWidth, v.SarHeight)
		}
	case AV1:
		// AV1 in ISO Base Media File Format, 2.3.3: 4 bytes, then OBUs, the sequence header first.
		if len(config) < 4 || config[0] != 0x81 {
			return info, errors.New("AV1 configuration record: bad marker or version")
		}
		info = VideoInfo{Profile: int(config[1] >> 5), Level: int(config[1] & 0x1F)}
		if len(config) == 4 {
			return info, nil
		}
		var seq av1.SequenceHeader
		if err := seq.Unmarshal(config[4:]); err != nil {
			return info, fmt.Errorf("AV1 sequence header: %w", err)
		}
		info.Width, info.Height = seq.Width(), seq.Height()
		if t := seq.TimingInfo; t != nil && t.EqualPictureInterval {
			info.FPS = float64(t.TimeScale) / float64(t.NumUnitsInDisplayTick) / (float64(t.NumTicksPerPictureMinus1) + 1)
		}
	default:
		return info, fmt.Errorf("no picture size in the configuration of %v", codec)
	}
	if info.Width <= 0 || info.Height <= 0 || info.Width > maxSide || info.Height > maxSide {
		return VideoInfo{}, fmt.Errorf("%v picture of %dx%d", codec, info.Width, info.Height)
	}
	if !(info.FPS > 0 && info.FPS <= 1000) { // also when it is NaN
		info.FPS = 0
	}
	return info, nil
}

// KeyFrameSize returns the size of the picture that a key frame of VP8 or VP9 says,
// 0 where it says none. The other codecs have it in their configuration.
func KeyFrameSize(codec Codec, frame []byte) (width, height int) {
	switch codec {
	case VP8: // RFC 6386, 9.1: three bytes, a start code, then width and height, 14 bits each
		if len(frame) >= 10 && frame[0]&1 == 0 && frame[3] == 0x9D && frame[4] == 0x01 && frame[5] == 0x2A {
			width, height = int(frame[6])|int(frame[7]&0x3F)<<8, int(frame[8])|int(frame[9]&0x3F)<<8
		}
	case VP9:
		var h vp9.Header
		if h.Unmarshal(frame) == nil && h.FrameSize != nil {
			width, height = h.Width(), h.Height()
		}
	}
	if width <= 0 || height <= 0 || width > maxSide || height > maxSide {
		return 0, 0
	}
	return width, height
}

// AudioInfo is what a stream says of its sound: the rate and channels that
// come out of the decoder, as far as they are known; otherwise 0.
type AudioInfo struct{ SampleRate, Channels int }

// ParseAudioInfo reads rate and channels from a packet that says them: the
// configuration of AAC, Opus or FLAC, any frame of the others.
func ParseAudioInfo(p Packet) (info AudioInfo, err error) {
	b := p.Frame
	switch p.Codec {
	case AAC:
		c, err := ParseAACConfig(b)
		if err != nil {
			return info, err
		}
		info = AudioInfo{max(c.SampleRate, c.ExtensionRate), c.Channels}
		if c.PS {
			info.Channels = 2
		}
		return info, nil
	case MP3:
		var h mpeg1audio.FrameHeader
		if err := h.Unmarshal(b); err != nil {
			return info, fmt.Errorf("MP3 header: %w", err)
		}
		info = AudioInfo{h.SampleRate, 2}
		if h.ChannelMode == mpeg1audio.ChannelModeMono {
			info.Channels = 1
		}
		return info, nil
	case Opus: // RFC 7845, 5.1; always decoded at 48 kHz
		info = AudioInfo{48000, 2}
		if p.Config && len(b) > 9 {
			info.Channels = int(b[9])
		}
		return info, nil
	case FLAC: // RFC 9639, 8: marker, block header, STREAMINFO
		if len(b) < 8 {
			return info, errors.New("FLAC configuration is too short")
		}
		var s flac.StreamInfo
		if err := s.Unmarshal(b[8:]); err != nil {
			return info, fmt.Errorf("FLAC stream info: %w", err)
		}
		return AudioInfo{int(s.SampleRate), int(s.ChannelCount)}, nil
	case AC3:
		var s ac3.SyncInfo
		var bsi ac3.BSI
		if err := s.Unmarshal(b); err != nil {
			return info, fmt.Errorf("AC-3 header: %w", err)
		}
		if err := bsi.Unmarshal(b[5:]); err != nil {
			return info, fmt.Errorf("AC-3 header: %w", err)
		}
		return AudioInfo{s.SampleRate(), bsi.ChannelCount()}, nil
	case EAC3:
		var s eac3.SyncInfo
		if err := s.Unmarshal(b); err != nil {
			return info, fmt.Errorf("E-AC-3 header: %w", err)
		}
		return AudioInfo{s.SampleRate(), s.ChannelCount()}, nil
	case Speex:
		return AudioInfo{16000, 1}, nil
	case PCMA, PCMU:
		return AudioInfo{8000, 1}, nil
	}
	return info, fmt.Errorf("no sound header in %v", p.Codec)
}
