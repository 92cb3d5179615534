// Package mkv carries packets in Matroska (RFC 9559), as far as a pipe to or from
// ffmpeg needs it: one track of video and one of audio, of nearly any codec, with nothing
// that has to be sought.
//
// A file is a tree of elements, each an identifier, a length and a value (EBML, RFC
// 8794). This is all of it that is written:
//
//	EBML
//	Segment, of unknown length
//	  Info
//	  Tracks: codecs and their configurations
//	  Cluster, one for each frame
//	    Timestamp
//	    SimpleBlock: track, key frame or not, and the frame
package mkv

import (
	"encoding/binary"
	"math"

	"weir/internal/media/av"
)

// Identifiers of elements, with the bits that say how long they are (RFC 9559, 5.1).
const (
	idEBML             = 0x1A45DFA3
	idDocType          = 0x4282
	idDocTypeVersion   = 0x4287
	idDocTypeReadable  = 0x4285
	idSegment          = 0x18538067
	idInfo             = 0x1549A966
	idTimestampScale   = 0x2AD7B1
	idMuxingApp        = 0x4D80
	idWritingApp       = 0x5741
	idTracks           = 0x1654AE6B
	idTrackEntry       = 0xAE
	idTrackNumber      = 0xD7
	idTrackUID         = 0x73C5
	idTrackType        = 0x83
	idFlagLacing       = 0x9C
	idCodecID          = 0x86
	idCodecPrivate     = 0x63A2
	idVideo            = 0xE0
	idPixelWidth       = 0xB0
	idPixelHeight      = 0xBA
	idAudio            = 0xE1
	idSamplingRate     = 0xB5
	idChannels         = 0x9F
	idCluster          = 0x1F43B675
	idTimestamp        = 0xE7
	idSimpleBlock      = 0xA3
	idBlockGroup       = 0xA0
	idBlock            = 0xA1
	idReferenceBlock   = 0xFB
	trackVideo         = 1
	trackAudio         = 2
	flagKey            = 0x80
	flagsLacing        = 0x06
	nanosecondsPerTick = 1_000_000 // time counts milliseconds
)

// codecs are the names of codecs (Matroska codec specifications, 5 and 6).
var codecs = map[av.Codec]string{
	av.H264: "V_MPEG4/ISO/AVC", av.HEVC: "V_MPEGH/ISO/HEVC", av.AV1: "V_AV1", av.VP8: "V_VP8", av.VP9: "V_VP9",
	av.AAC: "A_AAC", av.MP3: "A_MPEG/L3", av.Opus: "A_OPUS", av.FLAC: "A_FLAC", av.AC3: "A_AC3", av.EAC3: "A_EAC3",
}

// Supports reports whether a codec can be carried.
func Supports(c av.Codec) bool { return codecs[c] != "" }

// appendID appends an identifier.
func appendID(b []byte, id uint32) []byte {
	switch {
	case id > 0xFFFFFF:
		b = append(b, byte(id>>24), byte(id>>16), byte(id>>8))
	case id > 0xFFFF:
		b = append(b, byte(id>>16), byte(id>>8))
	case id > 0xFF:
		b = append(b, byte(id>>8))
	}
	return append(b, byte(id))
}

// appendElement appends an element; its length takes eight bytes.
func appendElement(b []byte, id uint32, value ...byte) []byte {
	return append(appendSize(appendID(b, id), len(value)), value...)
}

// appendSize appends a length: one bit that says it has eight bytes, and the rest of them.
func appendSize(b []byte, n int) []byte { return binary.BigEndian.AppendUint64(b, 1<<56|uint64(n)) }

func appendUint(b []byte, id uint32, v uint64) []byte {
	return appendElement(b, id, binary.BigEndian.AppendUint64(nil, v)...)
}

func appendFloat(b []byte, id uint32, v float64) []byte {
	return appendUint(b, id, math.Float64bits(v))
}

func appendString(b []byte, id uint32, v string) []byte { return appendElement(b, id, []byte(v)...) }
