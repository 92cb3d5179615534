package rtmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	maxChunkSize     = 0xFFFFFF // larger ones are the same: no message is longer (5.4.1)
	defaultChunkSize = 128
	extendedMark     = 0xFFFFFF // in a timestamp field: the extended timestamp follows
	maxChunkStreams  = 1024     // that are remembered, whether a message is unfinished or not
)

// AppendMessage appends a message, cut into chunks (5.3.1): the first with a
// header of type 0, so that it needs nothing that went before, the others of
// type 3. An extended timestamp is repeated in every chunk, as all but very
// few readers expect. The csid must be 2 to 65599 and chunkSize positive.
func AppendMessage(dst []byte, chunkSize int, csid uint32, typ byte, timestamp uint32, streamID uint32, payload []byte) []byte {
	n := len(payload)
	t := min(timestamp, extendedMark)
	dst = appendBasicHeader(dst, 0, csid)
	dst = append(dst, byte(t>>16), byte(t>>8), byte(t), byte(n>>16), byte(n>>8), byte(n), typ)
	dst = binary.LittleEndian.AppendUint32(dst, streamID)
	for {
		if t == extendedMark {
			dst = binary.BigEndian.AppendUint32(dst, timestamp)
		}
		n := min(len(payload), chunkSize)
		dst = append(dst, payload[:n]...)
		if payload = payload[n:]; len(payload) == 0 {
			return dst
		}
		dst = appendBasicHeader(dst, 3, csid)
	}
}

// appendBasicHeader appends a chunk basic header (5.3.1.1): 2 bits of format
// and a chunk stream id in 6 bits, one byte more, or two bytes more.
func appendBasicHeader(dst []byte, format byte, csid uint32) []byte {
	switch {
	case csid < 64:
		return append(dst, format<<6|byte(csid))
	case csid < 64+256:
		return append(dst, format<<6, byte(csid-64))
	}
	csid -= 64
	return append(dst, format<<6|1, byte(csid), byte(csid>>8))
}

// message is one whole message. Its body belongs to whoever reads it.
type message struct {
	typ       byte
	timestamp uint32
	streamID  uint32
	body      []byte
}

// chunkStream is what a header of type 1 to 3 builds on, and the message that
// is being put together.
type chunkStream struct {
	id        uint32
	typ       byte
	extended  bool   // the last timestamp field was extended
	open      bool   // a message is unfinished
	field     uint32 // the last timestamp field: a time or a delta
	timestamp uint32 // of the last message
	length    int
	streamID  uint32
	body      []byte // what has come of the message
}

// chunkReader puts messages together.
type chunkReader struct {
	in      *input
	lim     *Limits
	size    int // of the peer's chunks
	streams map[uint32]*chunkStream
	last    *chunkStream // of the newest chunk
	open    int          // unfinished messages
	held    int          // bytes allocated for them
	heard   func()       // see Conn.SetHeard; nil: nobody wants to know
	unheard int          // bytes since
}

var (
	errInterrupted = errors.New("new message inside an unfinished one")
	errChunkStream = errors.New("too many chunk streams")
	errPartial     = errors.New("too many bytes of unfinished messages")
)

// readChunk reads a chunk, and those that continue it if they are in the
// buffer. It returns true with the message that is finished by them. The error is io.EOF only before the first byte of a chunk, while no
// message is unfinished.
func (r *chunkReader) readChunk() (message, bool, error) {
	cs, err := r.readHeader()
	if err != nil {
		return message{}, false, err
	}
	if !cs.open {
		if cs.length > r.lim.message(cs.typ) {
			return message{}, false, fmt.Errorf("message of type %d and %d bytes", cs.typ, cs.length)
		}
		cs.open = true
		r.open++
	}
	for reads := r.in.reads; ; {
		if err := r.readPayload(cs); err != nil {
			return message{}, false, err
		}
		// A shortcut past readHeader, which would find nothing new.
		short := cs.id < 64 && !cs.extended && len(cs.body) < cs.length && r.in.reads == reads
		if !short || !r.in.skip(3<<6|byte(cs.id)) {
			break
		}
	}
	if len(cs.body) < cs.length {
		if r.open > r.lim.ChunkStreams {
			return message{}, false, errChunkStream
		}
		return message{}, false, nil
	}
	m := message{cs.typ, cs.timestamp, cs.streamID, cs.body}
	r.drop(cs)
	return m, true, nil
}

// drop ends the unfinished message of cs.
func (r *chunkReader) drop(cs *chunkStream) {
	r.held -= cap(cs.body)
	r.open--
	cs.body, cs.open = nil, false
}

// abort forgets the unfinished message of a chunk stream, if there is one (5.4.2).
func (r *chunkReader) abort(csid uint32) {
	if cs := r.streams[csid]; cs != nil && cs.open {
		r.drop(cs)
	}
}

// Lengths of the chunk message headers (5.3.1.2).
var headerSize = [4]int{11, 7, 3, 0}

// readHeader reads the header of a chunk into its chunk stream:
//
//	basic header: format (2 bits), csid (6); csid 0: one byte more, 1: two bytes more
//	format 0: timestamp (24), length (24), type (8), message stream id (32, little endian)
//	format 1: delta (24), length (24), type (8)
//	format 2: delta (24)
//	extended timestamp (32) if the newest timestamp or delta of the chunk stream is 0xFFFFFF
func (r *chunkReader) readHeader() (*chunkStream, error) {
	if err := r.in.fill(1); err != nil {
		if err == io.EOF && r.open > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	b := r.in.peek(1)[0]
	format, csid, n := b>>6, uint32(b&0x3F), 1
	if csid < 2 {
		n += 1 + int(csid)
	}
	h, err := r.in.take(n + headerSize[format])
	if err != nil {
		return nil, err
	}
	switch csid {
	case 0:
		csid = 64 + uint32(h[1])
	case 1:
		csid = 64 + uint32(h[1]) + uint32(h[2])<<8
	}
	h = h[n:]

	cs := r.last
	if cs == nil || cs.id != csid {
		if cs = r.streams[csid]; cs == nil {
			if cs, err = r.begin(csid, format); err != nil {
				return nil, err
			}
		}
		r.last = cs
	}
	if format == 3 {
		if cs.extended {
			if err := r.skipRepeated(cs); err != nil {
				return nil, err
			}
		}
	} else {
		if cs.open {
			return nil, errInterrupted
		}
		cs.field = uint24(h)
		if format < 2 {
			cs.length, cs.typ = int(uint24(h[3:])), h[6]
		}
		if format < 1 {
			cs.streamID = binary.LittleEndian.Uint32(h[7:])
		}
		if cs.extended = cs.field == extendedMark; cs.extended {
			b, err := r.in.take(4)
			if err != nil {
				return nil, err
			}
			cs.field = binary.BigEndian.Uint32(b)
		}
	}
	switch {
	case format == 0:
		cs.timestamp = cs.field
	case !cs.open:
		// A new message. After a header of type 0 one of type 3 takes that
		// one's timestamp for its delta (5.3.1.2.4).
		cs.timestamp += cs.field
	}
	return cs, nil
}

// begin makes a new chunk stream. Type 1 at its start is a habit of librtmp.
func (r *chunkReader) begin(csid uint32, format byte) (*chunkStream, error) {
	if format > 1 {
		return nil, fmt.Errorf("chunk stream %d begins with a header of type %d", csid, format)
	}
	if len(r.streams) == maxChunkStreams {
		return nil, errChunkStream
	}
	if r.streams == nil {
		r.streams = make(map[uint32]*chunkStream)
	}
	cs := &chunkStream{id: csid}
	r.streams[csid] = cs
	return cs, nil
}

// skipRepeated skips the extended timestamp of a chunk of type 3. Most peers
// repeat there what the last header had, some the message's own time, and some
// send payload at once; it is taken for a timestamp if it looks like one. No
// more bytes are awaited than are needed to see that it does not.
func (r *chunkReader) skipRepeated(cs *chunkStream) error {
	var field, timestamp [4]byte
	binary.BigEndian.PutUint32(field[:], cs.field)
	binary.BigEndian.PutUint32(timestamp[:], cs.timestamp)
	for n := 1; n <= 4; n++ {
		if err := r.in.fill(n); err != nil {
			return noEOF(err)
		}
		b := r.in.peek(n)
		if string(b) != string(field[:n]) && string(b) != string(timestamp[:n]) {
			return nil
		}
	}
	_, err := r.in.take(4)
	return err
}

// Steps in which the body of a long message is allocated: a length costs
// whoever announces it. Messages of one step or less, nearly all, are
// allocated once. A peer that has many open at a time gets shorter steps.
const (
	bodyStep      = 64 << 10
	bodyStepShort = 4 << 10
	fewOpen       = 4
)

// readPayload reads one chunk's part of a message.
func (r *chunkReader) readPayload(cs *chunkStream) error {
	for left := min(r.size, cs.length-len(cs.body)); left > 0; {
		if len(cs.body) == cap(cs.body) {
			if err := r.grow(cs); err != nil {
				return err
			}
		}
		have := len(cs.body)
		n, err := r.in.read(cs.body[have:min(have+left, cap(cs.body))])
		if err != nil {
			return noEOF(err)
		}
		cs.body = cs.body[:have+n]
		left -= n
		if r.heard != nil && cs.length > heardStep && (cs.typ == TypeVideo || cs.typ == TypeAudio || cs.typ == typeAggregate) {
			r.progress(cs, n)
		}
	}
	return nil
}

// heardStep is after how many bytes of an unfinished message heard is called. Who
// sends less is as good as silent.
const heardStep = 4 << 10

// progress notes that n more bytes of a message of media have come.
func (r *chunkReader) progress(cs *chunkStream, n int) {
	if r.unheard += n; r.unheard < heardStep {
		return
	}
	if r.unheard = 0; len(cs.body) < cs.length {
		r.heard()
	}
}

func (r *chunkReader) grow(cs *chunkStream) error {
	size := bodyStep
	if r.open > fewOpen {
		size = bodyStepShort
	}
	size = min(max(size, 2*cap(cs.body)), cs.length)
	if r.held+size-cap(cs.body) > r.lim.Partial {
		return errPartial
	}
	r.held += size - cap(cs.body)
	body := make([]byte, len(cs.body), size)
	copy(body, cs.body)
	cs.body = body
	return nil
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }
