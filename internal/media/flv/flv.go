// Package flv is FLV: tags, the codec headers inside them, and files of them.
//
// RTMP messages carry the bodies of FLV tags, so one parser serves both. A
// Parser turns the tag bodies of one publisher into packets. It knows the
// headers of Adobe's specification (Video File Format 10.1, annex E), of
// Enhanced RTMP v2 (FourCC codecs, ModEx, multitrack with one track) and the
// codec id 12 that Chinese encoders send for HEVC. A packet keeps its tag
// body, so that writing RTMP or FLV again is AppendTag and no more.
package flv

import "weir/internal/media/av"

// Tag types (E.4.1). An RTMP message of one of these types holds a tag body.
const (
	TypeAudio  = 8
	TypeVideo  = 9
	TypeScript = 18
)

// TagType returns the type of tag that a packet of kind k travels in.
func TagType(k av.Kind) byte {
	switch k {
	case av.Audio:
		return TypeAudio
	case av.Video:
		return TypeVideo
	}
	return TypeScript
}

// Lengths of what AppendHeader and AppendTag add.
const (
	HeaderSize  = 9 + 4  // with PreviousTagSize0
	TagOverhead = 11 + 4 // tag header and PreviousTagSize
)

// AppendHeader appends a file header and the first PreviousTagSize (E.2, E.3).
func AppendHeader(dst []byte, hasAudio, hasVideo bool) []byte {
	var flags byte
	if hasAudio {
		flags |= 4
	}
	if hasVideo {
		flags |= 1
	}
	return append(dst, 'F', 'L', 'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0)
}

// AppendTag appends a tag (E.4.1): its header, body and PreviousTagSize. The
// timestamp is in milliseconds. The body must be shorter than 2^24 bytes.
func AppendTag(dst []byte, typ byte, timestamp uint32, body []byte) []byte {
	n := len(body)
	dst = append(dst, typ, byte(n>>16), byte(n>>8), byte(n),
		byte(timestamp>>16), byte(timestamp>>8), byte(timestamp), byte(timestamp>>24),
		0, 0, 0)
	dst = append(dst, body...)
	n += 11
	return append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// The FourCCs of Enhanced RTMP v2, "Enhanced Video" and "Enhanced Audio".
const (
	fourCCAVC  = "avc1"
	fourCCHEVC = "hvc1"
	fourCCAV1  = "av01"
	fourCCVP8  = "vp08"
	fourCCVP9  = "vp09"
	fourCCAAC  = "mp4a"
	fourCCMP3  = ".mp3"
	fourCCOpus = "Opus"
	fourCCFLAC = "fLaC"
	fourCCAC3  = "ac-3"
	fourCCEAC3 = "ec-3"
)

// AppendVideo appends a video tag body: a legacy header for H.264, an enhanced
// one for the others. Data is a configuration record if config is set, and
// otherwise a coded frame.
func AppendVideo(dst []byte, codec av.Codec, key, config bool, cts int32, data []byte) []byte {
	frame := byte(frameInter)
	if key || config {
		frame = frameKey
	}
	if codec == av.H264 {
		typ := byte(legacyFrame)
		if config {
			typ = legacyConfig
		}
		dst = append(dst, frame<<4|videoAVC, typ, byte(cts>>16), byte(cts>>8), byte(cts))
		return append(dst, data...)
	}
	fourCC, packet := "", byte(packetFrame)
	switch codec {
	case av.HEVC:
		fourCC = fourCCHEVC
	case av.AV1:
		fourCC = fourCCAV1
	case av.VP8:
		fourCC = fourCCVP8
	case av.VP9:
		fourCC = fourCCVP9
	}
	if config {
		packet = packetConfig
	}
	dst = append(dst, 0x80|frame<<4|packet)
	dst = append(dst, fourCC...)
	if codec == av.HEVC && !config {
		dst = append(dst, byte(cts>>16), byte(cts>>8), byte(cts))
	}
	return append(dst, data...)
}

// AppendAudio appends an audio tag body: a legacy header for AAC, MP3, Speex
// and G.711, an enhanced one for the others.
func AppendAudio(dst []byte, codec av.Codec, config bool, data []byte) []byte {
	fourCC := ""
	switch codec {
	case av.AAC:
		typ := byte(legacyFrame)
		if config {
			typ = legacyConfig
		}
		return append(append(dst, soundAAC<<4|0xF, typ), data...)
	case av.MP3:
		return append(append(dst, soundMP3<<4|0xF), data...)
	case av.Speex:
		return append(append(dst, soundSpeex<<4|0x6), data...)
	case av.PCMA:
		return append(append(dst, soundPCMA<<4|0x2), data...)
	case av.PCMU:
		return append(append(dst, soundPCMU<<4|0x2), data...)
	case av.Opus:
		fourCC = fourCCOpus
	case av.FLAC:
		fourCC = fourCCFLAC
	case av.AC3:
		fourCC = fourCCAC3
	case av.EAC3:
		fourCC = fourCCEAC3
	}
	packet := byte(packetFrame)
	if config {
		packet = packetConfig
	}
	dst = append(dst, soundEnhanced<<4|packet)
	dst = append(dst, fourCC...)
	return append(dst, data...)
}
