package mkv

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"weir/internal/media/av"
	"weir/internal/media/bits"
)

// Limits of a Reader.
const (
	maxHead  = 1 << 20 // bytes of the tracks' description
	maxFrame = 8 << 20
)

// Reader reads the first track of video and the first of audio whose codecs can be
// carried. It is an av.Reader. Packets have no Tag; configurations come first. A
// frame's time is that at which it is shown: of codecs whose frames are not in that
// order the Reader knows no time of decoding.
type Reader struct {
	r      *bufio.Reader
	queue  []av.Packet
	tracks map[uint64]av.Packet // what packets of a track have in common, by its number
	base   int64                // of the cluster

}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

var (
	errNumber = errors.New("matroska: bad number")
	errSize   = errors.New("matroska: an element is too large")
)

// number reads one of EBML's numbers of variable length (RFC 8794, 4), with its marker
// if it is an identifier. All ones is unknown, -1.
func (r *Reader) number(id bool) (int64, error) {
	first, err := r.r.ReadByte()
	if err != nil {
		return 0, err
	}
	return number(first, id, r.r.ReadByte)
}

func number(first byte, id bool, next func() (byte, error)) (int64, error) {
	n, mask := 1, byte(0x80)
	for ; mask > 0 && first&mask == 0; mask >>= 1 {
		n++
	}
	if mask == 0 || id && n > 4 {
		return 0, errNumber
	}
	v := int64(first)
	if !id {
		v &= int64(mask) - 1
	}
	ones := v == int64(mask)-1
	for range n - 1 {
		b, err := next()
		if err != nil {
			return 0, unexpected(err)
		}
		ones = ones && b == 0xFF
		v = v<<8 | int64(b)
	}
	if ones && !id {
		return -1, nil
	}
	return v, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadPacket returns the next configuration or frame. It returns io.EOF where the
// file ends between elements.
func (r *Reader) ReadPacket() (av.Packet, error) {
	for len(r.queue) == 0 {
		if err := r.element(); err != nil {
			return av.Packet{}, err
		}
	}
	p := r.queue[0]
	r.queue = r.queue[1:]
	return p, nil
}

// element reads an element, of those that contain others only the beginning.
func (r *Reader) element() error {
	id, err := r.number(true)
	if err != nil {
		return err
	}
	size, err := r.number(false)
	if err != nil {
		return unexpected(err)
	}
	switch id {
	case idSegment, idCluster:
		return nil // what is in it comes next
	case idTracks:
		b, err := r.value(size, maxHead)
		if err != nil {
			return err
		}
		return r.describe(b)
	case idTimestamp:
		b, err := r.value(size, 8)
		r.base = int64(integer(b))
		return err
	case idSimpleBlock:
		b, err := r.value(size, maxFrame)
		if err != nil {
			return err
		}
		return r.block(b, true, false)
	case idBlockGroup:
		b, err := r.value(size, maxFrame)
		if err != nil {
			return err
		}
		return r.group(b)
	}
	if size < 0 {
		return fmt.Errorf("matroska: element %X of unknown length", id)
	}
	if _, err := io.CopyN(io.Discard, r.r, size); err != nil {
		return unexpected(err)
	}
	return nil
}

// value reads the value of an element.
func (r *Reader) value(size int64, most int64) ([]byte, error) {
	if size < 0 || size > most {
		return nil, errSize
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

// integer reads an unsigned integer of up to eight bytes.
func integer(b []byte) (v uint64) {
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

// each calls f with the elements in b.
func each(b []byte, f func(id int64, value []byte) error) error {
	r := bits.NewReader(b)
	read := func(id bool) (int64, error) {
		return number(r.Uint8(), id, func() (byte, error) { v := r.Uint8(); return v, r.Err() })
	}
	for r.Len() > 0 {
		id, err := read(true)
		if err != nil {
			return err
		}
		size, err := read(false)
		if err != nil || size > int64(r.Len()) || size < 0 {
			return errSize
		}
		if err := f(id, r.Bytes(int(size))); err != nil {
			return err
		}
	}
	return r.Err()
}

// describe reads which tracks there are.
func (r *Reader) describe(b []byte) error {
	if r.tracks == nil {
		r.tracks = make(map[uint64]av.Packet)
	}
	return each(b, func(id int64, b []byte) error {
		if id != idTrackEntry {
			return nil
		}
		var number uint64
		var p av.Packet
		var config []byte
		err := each(b, func(id int64, b []byte) error {
			switch id {
			case idTrackNumber:
				number = integer(b)
			case idCodecID:
				for c, name := range codecs {
					if name == string(b) {
						if p.Codec, p.Kind = c, av.Video; name[0] == 'A' {
							p.Kind = av.Audio
						}
					}
				}
			case idCodecPrivate:
				config = b
			}
			return nil
		})
		for _, other := range r.tracks {
			if other.Kind == p.Kind {
				p.Codec = av.Unknown // the second one
			}
		}
		if err != nil || p.Codec == av.Unknown {
			return err
		}
		r.tracks[number] = p
		if config != nil {
			p.Config, p.Frame = true, config
			r.queue = append(r.queue, p)
		}
		return nil
	})
}

// group reads a frame with what else is said of it.
func (r *Reader) group(b []byte) error {
	var block []byte
	key := true
	err := each(b, func(id int64, b []byte) error {
		switch id {
		case idBlock:
			block = b
		case idReferenceBlock:
			key = false
		}
		return nil
	})
	if err != nil || block == nil {
		return err
	}
	return r.block(block, false, key)
}

// block reads a frame (RFC 9559, 10.1 and 10.2): the number of its track, when it is
// to be shown, counted from the cluster, flags.
func (r *Reader) block(b []byte, simple, key bool) error {
	c := bits.NewReader(b)
	n, err := number(c.Uint8(), false, func() (byte, error) { v := c.Uint8(); return v, c.Err() })
	if err != nil {
		return err
	}
	at, flags := int16(c.Uint16()), c.Uint8()
	frame := c.Rest()
	p, ok := r.tracks[uint64(n)]
	switch {
	case c.Err() != nil:
		return fmt.Errorf("matroska block: %w", c.Err())
	case !ok || len(frame) == 0:
		return nil
	case flags&flagsLacing != 0:
		return errors.New("matroska: a block of several frames")
	}
	if simple {
		key = flags&flagKey != 0
	}
	p.Key, p.DTS, p.Frame = p.Kind == av.Video && key, r.base+int64(at), frame
	r.queue = append(r.queue, p)
	return nil
}
