package flv

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"weir/internal/media/av"
)

// Most bytes of a tag body that Reader accepts, by type: those of an RTMP
// message by default.
const (
	maxAudio  = 1 << 20
	maxVideo  = 8 << 20
	maxScript = 256 << 10
)

// Reader reads the packets of an FLV file or HTTP-FLV response. It is an
// av.Reader.
type Reader struct {
	r      *bufio.Reader
	p      Parser
	header bool  // the file header has been read
	ts     int64 // of the last tag, beyond 32 bits
}

// NewReader returns a Reader over r, which it reads ahead of the packets.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// ReadPacket returns the next packet; tags without one are passed over. Its
// bytes are the caller's. Timestamps go on beyond 2^32. At the end, also in the
// middle of a tag that was never finished, the error is io.EOF.
func (r *Reader) ReadPacket() (av.Packet, error) {
	if !r.header {
		if err := r.readHeader(); err != nil {
			return av.Packet{}, err
		}
		r.header = true
	}
	for {
		p, err := r.readTag()
		if err == ErrIgnore {
			continue
		}
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return p, err
	}
}

// readHeader reads the file header (E.2) and the first PreviousTagSize.
func (r *Reader) readHeader() error {
	var h [9]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return fmt.Errorf("read FLV header: %w", err)
	}
	if string(h[:3]) != "FLV" || h[3] != 1 {
		return errors.New("read FLV header: not an FLV file of version 1")
	}
	skip := int(h[5])<<24 | int(h[6])<<16 | int(h[7])<<8 | int(h[8]) // DataOffset
	if skip < len(h) || skip > 4096 {
		return fmt.Errorf("read FLV header: data offset %d", skip)
	}
	if _, err := r.r.Discard(skip - len(h) + 4); err != nil {
		return fmt.Errorf("read FLV header: %w", err)
	}
	return nil
}

// readTag reads a tag (E.4.1) and the PreviousTagSize behind it.
func (r *Reader) readTag() (av.Packet, error) {
	var h [11]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return av.Packet{}, err
	}
	typ, size := h[0]&0x1F, int(h[1])<<16|int(h[2])<<8|int(h[3])
	if h[0]&0x20 != 0 {
		return av.Packet{}, errors.New("read FLV tag: it is encrypted")
	}
	limit := maxScript
	switch typ {
	case TypeAudio:
		limit = maxAudio
	case TypeVideo:
		limit = maxVideo
	}
	if size > limit {
		return av.Packet{}, fmt.Errorf("read FLV tag: type %d of %d bytes", typ, size)
	}
	ts := uint32(h[7])<<24 | uint32(h[4])<<16 | uint32(h[5])<<8 | uint32(h[6])
	r.ts += int64(int32(ts - uint32(r.ts)))
	body := make([]byte, size)
	if _, err := io.ReadFull(r.r, body); err != nil {
		return av.Packet{}, err
	}
	if _, err := r.r.Discard(4); err != nil && err != io.EOF {
		return av.Packet{}, err
	}
	return r.p.Packet(typ, r.ts, body)
}

// Muxer writes packets as an FLV file. It is an av.Writer.
type Muxer struct {
	w   io.Writer
	buf []byte // of the tag being written; before the first one, the header
}

// NewMuxer returns a Muxer that writes to w, one Write per packet. The file
// header, which says what kinds of tags will come, goes out with the first packet.
func NewMuxer(w io.Writer, hasAudio, hasVideo bool) *Muxer {
	return &Muxer{w: w, buf: AppendHeader(nil, hasAudio, hasVideo)}
}

// WritePacket writes p as one tag. Its DTS is cut to 32 bits, as the format asks.
func (m *Muxer) WritePacket(p av.Packet) error {
	if len(p.Tag) >= 1<<24 {
		return fmt.Errorf("write FLV tag: %d bytes", len(p.Tag))
	}
	m.buf = AppendTag(m.buf, TagType(p.Kind), uint32(p.DTS), p.Tag)
	_, err := m.w.Write(m.buf)
	m.buf = m.buf[:0]
	if err != nil {
		return fmt.Errorf("write FLV tag: %w", err)
	}
	return nil
}
