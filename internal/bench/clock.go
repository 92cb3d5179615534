package bench

import "bytes"

// The clock in a video frame is an SEI message of type user_data_unregistered
// (H.264 D.1.7, H.265 D.2.7):
//
//	payload type 5 | payload size 31 | UUID (16 bytes) | time of sending (10) | frame number (5) | 0x80
//
// Time, in nanoseconds of the wall clock, and number are written seven bits to
// a byte under a set top bit: no byte is zero, so no emulation prevention is
// ever needed, by us or by a server that writes the NAL unit anew.
const (
	clockTimeSize   = 10
	clockNumberSize = 5
	clockSize       = clockTimeSize + clockNumberSize
)

var clockUUID = []byte("\xb3\x1e\x8d\x57weir\xa9\x47\x8fclock")

// clockSEI returns an SEI NAL unit whose last clockSize+1 bytes are the clock,
// still to be written by putClock, and the trailing bits.
func clockSEI(hevc bool) []byte {
	nalu := []byte{6} // nal_unit_type SEI
	if hevc {
		nalu = []byte{39 << 1, 1} // PREFIX_SEI_NUT, nuh_temporal_id_plus1
	}
	nalu = append(nalu, 5, byte(len(clockUUID)+clockSize))
	nalu = append(nalu, clockUUID...)
	nalu = append(nalu, make([]byte, clockSize)...)
	return append(nalu, 0x80)
}

// putClock writes the time and the frame's number to b, which is clockSize long.
func putClock(b []byte, wall int64, number uint64) {
	putSevens(b[:clockTimeSize], uint64(wall))
	putSevens(b[clockTimeSize:clockSize], number)
}

// findClock reads the first clock in b, if there is one that has been set.
func findClock(b []byte) (wall int64, number uint64, ok bool) {
	i := bytes.Index(b, clockUUID)
	if i < 0 || len(b)-i < len(clockUUID)+clockSize {
		return 0, 0, false
	}
	b = b[i+len(clockUUID):]
	wall = int64(sevens(b[:clockTimeSize]))
	return wall, sevens(b[clockTimeSize:clockSize]), wall > 0
}

func putSevens(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = 0x80 | byte(v)
		v >>= 7
	}
}

func sevens(b []byte) (v uint64) {
	for _, c := range b {
		v = v<<7 | uint64(c&0x7F)
	}
	return v
}
