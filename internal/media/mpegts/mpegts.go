// Package mpegts is MPEG transport stream (ISO/IEC 13818-1) from packets and
// back, as HLS uses it: one program with at most one video and one audio track.
//
// A transport stream is a row of packets of 188 bytes. Each belongs to a PID.
// Tables (PSI) say what the PIDs carry: the program association table names the
// PID of the program map table, which lists the tracks. A track's frames travel
// in PES packets, each cut into as many transport packets as it needs.
//
//	transport packet (2.4.3.2)
//	+------+--------------+-----------+------------------------+---------+
//	| 0x47 | flags + PID  | AFC | CC  | adaptation field       | payload |
//	| 1    | 2            | 1         | 0..184: PCR, stuffing  |         |
//	+------+--------------+-----------+------------------------+---------+
//
// Times count 1/90000 s in 33 bits, so they wrap every 26.5 hours.
package mpegts

import "weir/internal/media/av"

const (
	packetSize  = 188
	payloadSize = packetSize - 4
	syncByte    = 0x47

	pidPAT   = 0
	pidPMT   = 0x1000
	pidVideo = 0x100
	pidAudio = 0x101

	tablePAT = 0
	tablePMT = 2

	streamVideo   = 0xE0 // stream_id, table 2-22
	streamAudio   = 0xC0
	streamPrivate = 0xBD // private_stream_1
)

// Clock is how many units of time make a millisecond.
const Clock = 90

// Wrap is where times wrap: at 33 bits.
const Wrap = 1 << 33

// streamTypes are the stream_type values of table 2-34 for each codec.
var streamTypes = [...]struct {
	typ   uint8
	codec av.Codec
}{
	{0x1B, av.H264},
	{0x24, av.HEVC},
	{0x0F, av.AAC}, // as ADTS
	{0x03, av.MP3},
	{0x04, av.MP3}, // with the lower sample rates; read, never written
}

// typePrivate is the stream_type of private data in PES packets: of Opus, if a
// descriptor says so.
const typePrivate = 0x06

// Supports says whether packets of that codec can be put into a transport stream.
func Supports(c av.Codec) bool { return streamType(c) != 0 }

func streamType(c av.Codec) uint8 {
	if c == av.Opus {
		return typePrivate
	}
	for _, s := range streamTypes {
		if s.codec == c {
			return s.typ
		}
	}
	return 0
}

func codecOf(typ uint8) av.Codec {
	for _, s := range streamTypes {
		if s.typ == typ {
			return s.codec
		}
	}
	return av.Unknown
}

// crc32 is the CRC_32 of a section (annex A): polynomial 0x04C11DB7, the most
// significant bit first. Over a section with its CRC it is 0.
func crc32(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c) << 24
		for range 8 {
			if crc&(1<<31) != 0 {
				crc = crc<<1 ^ 0x04C11DB7
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
