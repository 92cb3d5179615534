// Package av is the coded frame and how it moves.
//
// One type crosses the program, Packet, and two one-method interfaces move it,
// Reader and Writer. A socket, a stream, a muxer and a file are each one of the
// two, so most features are one Copy.
//
// The package also decodes and encodes the codec configuration records that
// the containers share (AVC, HEVC and AV1 configuration, AudioSpecificConfig).
package av

import "io"

// Kind says which track of a stream a packet belongs to.
type Kind uint8

const (
	Video Kind = iota + 1
	Audio
	Data // metadata and cue points: Tag is a sequence of AMF0 values
)

func (k Kind) String() string {
	switch k {
	case Video:
		return "video"
	case Audio:
		return "audio"
	case Data:
		return "data"
	}
	return "unknown"
}

// Codec is a video or audio coding. Its String is FFmpeg's name for it.
type Codec uint8

const (
	Unknown Codec = iota
	H264
	HEVC
	AV1
	VP8
	VP9
	AAC
	MP3
	Opus
	FLAC
	AC3
	EAC3
	Speex
	PCMA
	PCMU
)

var codecNames = [...]string{"unknown", "h264", "hevc", "av1", "vp8", "vp9", "aac", "mp3", "opus", "flac", "ac3", "eac3", "speex", "pcm_alaw", "pcm_mulaw"}

func (c Codec) String() string {
	if int(c) < len(codecNames) {
		return codecNames[c]
	}
	return codecNames[0]
}

// Packet is one coded frame, one codec configuration record or one metadata
// message. Packets are passed by value; the bytes behind Tag and Frame are
// shared and must not be changed once the packet has been handed on.
type Packet struct {
	Kind   Kind
	Codec  Codec
	Config bool // codec configuration, not a frame: Frame is the configuration record
	Side   bool // neither frame nor configuration: what Enhanced RTMP says of colours or channels; only players get it
	Key    bool // video: decoding can start here, as the coded data itself says
	Break  bool // the time line or the encoder changed before this packet

	DTS int64 // decoding time in milliseconds
	CTS int32 // presentation time minus DTS in milliseconds; may be negative

	Tag   []byte // the FLV tag body, codec header included, as RTMP and FLV carry it; for Data the AMF0 values
	Frame []byte // the view of Tag that is the coded frame: length-prefixed NAL units, a raw AAC frame, OBUs …
}

// PTS returns the presentation time in milliseconds.
func (p *Packet) PTS() int64 { return p.DTS + int64(p.CTS) }

// Reader is a source of packets. ReadPacket blocks until there is one; io.EOF
// means that the source ended as it should.
type Reader interface {
	ReadPacket() (Packet, error)
}

// Writer is a sink of packets. It must not keep the packet's bytes from being
// read by others, and must not change them.
type Writer interface {
	WritePacket(Packet) error
}

// Copy moves packets from src to dst until one of them fails. It returns nil
// when src ended with io.EOF.
func Copy(dst Writer, src Reader) error {
	for {
		p, err := src.ReadPacket()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := dst.WritePacket(p); err != nil {
			return err
		}
	}
}
