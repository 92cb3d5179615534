package eventlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A segment of a journal is a file:
//
//	"WEIRLOG" version(1) id(16)
//	frame ...
//
// and a frame is, its numbers little-endian:
//
//	+---------+---------+------+----------------+
//	| size: 4 | crc: 4  | kind | payload        |
//	+---------+---------+------+----------------+
//	                    |<------ size ------->|
//
// The crc is CRC-32C of what size counts. A file ends with its last whole
// frame: whatever a loss of power left behind it is cut off.
//
// Version 1 had no kindSkip.
const (
	version    = 2
	magic      = "WEIRLOG\x02"
	idSize     = 16
	headerSize = len(magic) + idSize
	frameHead  = 8

	// maxFrame is the size of the longest frame. A fact is refused long before.
	maxFrame = 1 << 20
)

// kind is what a frame holds.
type kind byte

const (
	kindFact  kind = 'f' // a fact, or a batch of them: what goes to JetStream
	kindCarry kind = 'c' // a fact of a segment before, which begins what is still open; goes nowhere
	kindMark  kind = 'm' // how far the segments have been forwarded
	kindClean kind = 'e' // a kindMark, after which the node ended in order
	kindSkip  kind = 's' // facts that JetStream got from memory and the file never had
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends a frame to b.
func appendFrame(b []byte, k kind, payload ...[]byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = append(b, byte(k))
	for _, p := range payload {
		b = append(b, p...)
	}
	body := b[start+frameHead:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(body, crcTable))
	return b
}

// errTorn says that what follows is no frame.
var errTorn = errors.New("no whole frame")

// readFrame returns the first frame of b, and its length. It returns 0 and no
// error if b is empty, and errTorn if b begins with less than a frame or with
// something else.
func readFrame(b []byte) (k kind, payload []byte, n int, err error) {
	if len(b) == 0 {
		return 0, nil, 0, nil
	}
	if len(b) < frameHead {
		return 0, nil, 0, errTorn
	}
	size := binary.LittleEndian.Uint32(b)
	if size == 0 || size > maxFrame || int(size) > len(b)-frameHead {
		return 0, nil, 0, errTorn
	}
	body := b[frameHead : frameHead+int(size)]
	if crc32.Checksum(body, crcTable) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, nil, 0, errTorn
	}
	k, payload = kind(body[0]), body[1:]
	if k == kindFact || k == kindCarry {
		if _, _, err := parseFact(payload); err != nil {
			return 0, nil, 0, err
		}
	}
	return k, payload, frameHead + int(size), nil
}

// skip is what a kindSkip says.
type skip struct {
	Facts uint64   `json:"facts,omitempty"` // that the segment has at this place
	Ended []string `json:"ended,omitempty"` // Sequences of pushes that they ended
}

// factPayload is the payload of a kindFact and kindCarry: the subject, whose
// length comes first, and the JSON.
func factPayload(subject string, data []byte) [][]byte {
	return [][]byte{binary.LittleEndian.AppendUint16(nil, uint16(len(subject))), []byte(subject), data}
}

// parseFact is its reverse.
func parseFact(payload []byte) (subject string, data []byte, err error) {
	if len(payload) < 2 {
		return "", nil, errTorn
	}
	n := int(binary.LittleEndian.Uint16(payload))
	if n > len(payload)-2 {
		return "", nil, errTorn
	}
	return string(payload[2 : 2+n]), payload[2+n:], nil
}
