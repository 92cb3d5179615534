package flv

import (
	"cmp"
	"errors"
	"strconv"

	"weir/internal/media/av"
)

// ErrIgnore is the error of a tag body that is no packet: empty, unknown,
// informative or broken. The caller drops it and goes on.
var ErrIgnore = errors.New("flv: nothing to play in this tag")

// Fields of the legacy headers (E.4.2.1, E.4.3.1).
const (
	frameKey     = 1
	frameInter   = 2
	frameCommand = 5 // "video info/command frame"

	videoAVC  = 7
	videoHEVC = 12

	soundMP3      = 2
	soundPCMA     = 7
	soundPCMU     = 8
	soundEnhanced = 9
	soundAAC      = 10
	soundSpeex    = 11
	soundMP3At8k  = 14

	legacyConfig = 0
	legacyFrame  = 1
)

// What the legacy headers can name and we do not take, by CodecID and
// SoundFormat.
var (
	videoNames = [16]string{1: "JPEG", 2: "Sorenson H.263", 3: "Screen video", 4: "VP6", 5: "VP6 with alpha", 6: "Screen video 2", 8: "H.263", 9: "MPEG-4 Part 2"}
	soundNames = [16]string{0: "PCM", 1: "ADPCM", 3: "PCM", 4: "Nellymoser", 5: "Nellymoser", 6: "Nellymoser", 15: "device-specific"}
)

func legacyName(names []string, id byte) string {
	return cmp.Or(names[id], "number "+strconv.Itoa(int(id)))
}

// VideoPacketType and AudioPacketType of Enhanced RTMP v2.
const (
	packetConfig     = 0 // SequenceStart
	packetFrame      = 1 // CodedFrames
	packetFrameNoCTS = 3 // CodedFramesX; not in audio
	packetSide       = 4 // Metadata in video, MultichannelConfig in audio
	packetMultitrack = 6 // in video; 5 in audio
	packetModEx      = 7
)

// Parser turns the tag bodies of one publisher into packets. The zero value
// is ready. It is used by one goroutine.
type Parser struct {
	unknown [2]func(k av.Kind, codec string) // of video and audio

	lengthSize int      // of NAL units, from the newest configuration; 0: none came
	nalus      av.Codec // the codec that lengthSize belongs to
}

// SetUnknown makes f hear of the next codec of video, and of audio, that is not
// known: its tags give ErrIgnore. It hears of one of each.
func (p *Parser) SetUnknown(f func(k av.Kind, codec string)) {
	p.unknown = [2]func(av.Kind, string){f, f}
}

// Packet decodes a tag body, which the packet keeps and the caller gives up.
// The timestamp becomes the packet's DTS. A body that should be dropped gives
// ErrIgnore, exactly; every other error says that the publisher sent a
// configuration of video that cannot be used.
func (p *Parser) Packet(typ byte, timestamp int64, body []byte) (av.Packet, error) {
	if len(body) == 0 {
		return av.Packet{}, ErrIgnore
	}
	var pkt av.Packet
	var err error
	switch typ {
	case TypeVideo:
		pkt, err = p.video(body)
	case TypeAudio:
		pkt, err = p.audio(body)
	case TypeScript:
		pkt, err = script(body)
	default:
		err = ErrIgnore
	}
	if err != nil {
		return av.Packet{}, err
	}
	pkt.DTS = timestamp
	return pkt, nil
}

// skip is ErrIgnore for a tag of a codec that is not known.
func (p *Parser) skip(k av.Kind, codec string) error {
	if f := &p.unknown[k-av.Video]; *f != nil {
		(*f)(k, codec)
		*f = nil
	}
	return ErrIgnore
}

func (p *Parser) video(body []byte) (av.Packet, error) {
	if body[0]&0x80 != 0 {
		return p.enhancedVideo(body)
	}
	// Legacy: FrameType (4 bits), CodecID (4), AVCPacketType (8), CompositionTime (24, signed).
	pkt := av.Packet{Kind: av.Video, Tag: body}
	switch body[0] & 0x0F {
	case videoAVC:
		pkt.Codec = av.H264
	case videoHEVC:
		pkt.Codec = av.HEVC
	default:
		return pkt, p.skip(av.Video, legacyName(videoNames[:], body[0]&0x0F))
	}
	frame := body[0] >> 4
	if frame == frameCommand || len(body) <= 5 {
		return pkt, ErrIgnore
	}
	pkt.Frame = body[5:]
	switch body[1] {
	case legacyConfig:
		return p.videoConfig(pkt)
	case legacyFrame:
		pkt.CTS = int24(body[2:])
		return p.videoFrame(pkt, frame == frameKey)
	}
	return pkt, ErrIgnore
}

// enhancedVideo decodes the ExVideoTagHeader:
//
//	isExHeader (1 bit) VideoFrameType (3) VideoPacketType (4), ModEx…, AvMultitrackType (4) VideoPacketType (4),
//	FourCC (32), trackId (8), CompositionTime (24, signed, for some)
func (p *Parser) enhancedVideo(body []byte) (av.Packet, error) {
	pkt := av.Packet{Kind: av.Video, Tag: body}
	frame := body[0] >> 4 & 7
	packet, rest, err := modEx(body[0]&0x0F, body[1:])
	if err != nil || frame == frameCommand {
		return pkt, ErrIgnore
	}
	fourCC, packet, rest, err := codecOf(packet, rest, packetMultitrack)
	if err != nil {
		return pkt, ErrIgnore
	}
	switch string(fourCC) {
	case fourCCAVC:
		pkt.Codec = av.H264
	case fourCCHEVC:
		pkt.Codec = av.HEVC
	case fourCCAV1:
		pkt.Codec = av.AV1
	case fourCCVP8:
		pkt.Codec = av.VP8
	case fourCCVP9:
		pkt.Codec = av.VP9
	default:
		return pkt, p.skip(av.Video, strconv.Quote(string(fourCC)))
	}
	switch packet {
	case packetConfig:
		pkt.Frame = rest
		return p.videoConfig(pkt)
	case packetFrame:
		if pkt.Codec == av.H264 || pkt.Codec == av.HEVC {
			if len(rest) < 3 {
				return pkt, ErrIgnore
			}
			pkt.CTS, rest = int24(rest), rest[3:]
		}
	case packetFrameNoCTS:
	case packetSide:
		return side(pkt, rest)
	default: // SequenceEnd, MPEG2TSSequenceStart
		return pkt, ErrIgnore
	}
	pkt.Frame = rest
	return p.videoFrame(pkt, frame == frameKey)
}

func (p *Parser) videoConfig(pkt av.Packet) (av.Packet, error) {
	if len(pkt.Frame) == 0 {
		return pkt, ErrIgnore
	}
	pkt.Config = true
	switch pkt.Codec {
	case av.H264:
		c, err := av.ParseAVCConfig(pkt.Frame)
		if err != nil {
			return pkt, err
		}
		p.lengthSize, p.nalus = c.LengthSize, pkt.Codec
	case av.HEVC:
		c, err := av.ParseHEVCConfig(pkt.Frame)
		if err != nil {
			return pkt, err
		}
		p.lengthSize, p.nalus = c.LengthSize, pkt.Codec
	}
	return pkt, nil
}

func (p *Parser) videoFrame(pkt av.Packet, flagged bool) (av.Packet, error) {
	if len(pkt.Frame) == 0 {
		return pkt, ErrIgnore
	}
	if pkt.Codec != av.H264 && pkt.Codec != av.HEVC {
		pkt.Key = flagged
		return pkt, nil
	}
	size := 4 // what everybody sends, should the configuration be late
	if p.nalus == pkt.Codec {
		size = p.lengthSize
	}
	key, err := av.RandomAccess(pkt.Codec, pkt.Frame, size, flagged)
	if err != nil {
		return pkt, ErrIgnore
	}
	pkt.Key = key
	return pkt, nil
}

func (p *Parser) audio(body []byte) (av.Packet, error) {
	// Legacy: SoundFormat (4 bits), SoundRate (2), SoundSize (1), SoundType (1), for AAC AACPacketType (8).
	pkt := av.Packet{Kind: av.Audio, Tag: body, Frame: body[1:]}
	switch body[0] >> 4 {
	case soundEnhanced:
		return p.enhancedAudio(body)
	case soundAAC:
		pkt.Codec = av.AAC
		if len(body) <= 2 {
			return pkt, ErrIgnore
		}
		pkt.Frame = body[2:]
		switch body[1] {
		case legacyConfig:
			return audioConfig(pkt)
		case legacyFrame:
			return pkt, nil
		}
		return pkt, ErrIgnore
	case soundMP3, soundMP3At8k:
		pkt.Codec = av.MP3
	case soundPCMA:
		pkt.Codec = av.PCMA
	case soundPCMU:
		pkt.Codec = av.PCMU
	case soundSpeex:
		pkt.Codec = av.Speex
	default:
		return pkt, p.skip(av.Audio, legacyName(soundNames[:], body[0]>>4))
	}
	if len(pkt.Frame) == 0 {
		return pkt, ErrIgnore
	}
	return pkt, nil
}

// enhancedAudio decodes the ExAudioTagHeader:
//
//	SoundFormat = 9 (4 bits) AudioPacketType (4), ModEx…, AvMultitrackType (4) AudioPacketType (4), FourCC (32), trackId (8)
func (p *Parser) enhancedAudio(body []byte) (av.Packet, error) {
	const multitrack = 5
	pkt := av.Packet{Kind: av.Audio, Tag: body}
	packet, rest, err := modEx(body[0]&0x0F, body[1:])
	if err != nil {
		return pkt, ErrIgnore
	}
	fourCC, packet, rest, err := codecOf(packet, rest, multitrack)
	if err != nil || len(rest) == 0 {
		return pkt, ErrIgnore
	}
	switch string(fourCC) {
	case fourCCAAC:
		pkt.Codec = av.AAC
	case fourCCMP3:
		pkt.Codec = av.MP3
	case fourCCOpus:
		pkt.Codec = av.Opus
	case fourCCFLAC:
		pkt.Codec = av.FLAC
	case fourCCAC3:
		pkt.Codec = av.AC3
	case fourCCEAC3:
		pkt.Codec = av.EAC3
	default:
		return pkt, p.skip(av.Audio, strconv.Quote(string(fourCC)))
	}
	pkt.Frame = rest
	switch packet {
	case packetConfig:
		return audioConfig(pkt)
	case packetFrame:
		return pkt, nil
	case packetSide:
		return side(pkt, rest)
	}
	return pkt, ErrIgnore // SequenceEnd
}

func side(pkt av.Packet, rest []byte) (av.Packet, error) {
	if len(rest) == 0 {
		return pkt, ErrIgnore
	}
	pkt.Side, pkt.Frame = true, rest
	return pkt, nil
}

func audioConfig(pkt av.Packet) (av.Packet, error) {
	pkt.Config = true
	if pkt.Codec == av.AAC {
		if _, err := av.ParseAACConfig(pkt.Frame); err != nil {
			return pkt, ErrIgnore // the picture can do without
		}
	}
	return pkt, nil
}

var errShort = errors.New("flv: header too short")

// modEx skips the modifiers before an enhanced header. Each is a size less
// one (8 bits, or 255 and 16 bits), that many bytes, the modifier's type (4
// bits) and the packet type that comes next (4). The one that is defined, nanoseconds
// to add to the timestamp, stays in the tag for the player.
func modEx(packet byte, b []byte) (byte, []byte, error) {
	for packet == packetModEx {
		if len(b) < 3 {
			return 0, nil, errShort
		}
		n := int(b[0]) + 1
		b = b[1:]
		if n == 256 {
			n = int(b[0])<<8 + int(b[1]) + 1
			b = b[2:]
		}
		if len(b) < n+1 {
			return 0, nil, errShort
		}
		packet, b = b[n]&0x0F, b[n+1:]
	}
	return packet, b, nil
}

// codecOf reads the FourCC and what goes before and behind it in a multitrack
// tag. Of several tracks only the one numbered 0 is taken, and only when it
// has a tag of its own, of whatever AvMultitrackType.
func codecOf(packet byte, b []byte, multitrack byte) (fourCC []byte, _ byte, rest []byte, err error) {
	const oneTrack, manyCodecs = 0, 2
	tracks, form := packet == multitrack, byte(oneTrack)
	if tracks {
		if len(b) < 1 || b[0]>>4 > manyCodecs {
			return nil, 0, nil, errShort
		}
		form, packet, b = b[0]>>4, b[0]&0x0F, b[1:]
	}
	if len(b) < 4 {
		return nil, 0, nil, errShort
	}
	fourCC, b = b[:4], b[4:]
	if tracks {
		if len(b) < 1 || b[0] != 0 {
			return nil, 0, nil, errShort
		}
		b = b[1:]
	}
	if form != oneTrack { // the track's size
		if len(b) < 3 || int(b[0])<<16|int(b[1])<<8|int(b[2]) != len(b)-3 {
			return nil, 0, nil, errShort
		}
		b = b[3:]
	}
	return fourCC, packet, b, nil
}

// int24 reads three bytes as a two's complement number.
func int24(b []byte) int32 { return int32(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8) >> 8 }
