package amf

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"weir/internal/media/bits"
)

// Limits is what a sequence of values may hold; a zero field stands for its
// default.
type Limits struct {
	Depth    int // of objects and arrays in each other; 16
	Elements int // values in all, those of objects and arrays included; 1024
}

// Errors of Decode, beside bits.ErrShort.
var (
	ErrDepth    = errors.New("amf: nested too deep")
	ErrElements = errors.New("amf: too many elements")
	ErrAMF3     = errors.New("amf: AMF3 value")
	ErrMarker   = errors.New("amf: unknown marker")
)

// Decode decodes all values in b within the default limits. Strings are
// copied. With an error it returns the values before the one that failed.
func Decode(b []byte) ([]Value, error) { return Limits{}.Decode(b) }

// Decode decodes all values in b.
func (l Limits) Decode(b []byte) ([]Value, error) {
	l.Depth = cmp.Or(l.Depth, 16)
	l.Elements = cmp.Or(l.Elements, 1024)
	d := decoder{Reader: bits.NewReader(b), depth: l.Depth, elements: l.Elements}
	var vals []Value
	for d.Len() > 0 {
		v := d.value()
		if d.Err() != nil {
			break
		}
		vals = append(vals, v)
	}
	return vals, d.Err()
}

type decoder struct {
	*bits.Reader
	depth    int // levels that may still be entered
	elements int // values that may still come
}

func (d *decoder) value() Value {
	if d.elements--; d.elements < 0 {
		d.Fail(ErrElements)
		return nil
	}
	switch mark := d.Uint8(); mark {
	case markNumber:
		return math.Float64frombits(d.Uint64())
	case markBoolean:
		return d.Uint8() != 0
	case markString:
		return string(d.Bytes(int(d.Uint16())))
	case markLongString:
		return string(d.Bytes(d.length()))
	case markNull:
		return nil
	case markUndefined:
		return Undefined{}
	case markDate:
		ms := math.Float64frombits(d.Uint64())
		return Date{ms, int16(d.Uint16())}
	case markObject:
		return d.object()
	case markECMAArray:
		// The count is often wrong, the end marker counts; but one that
		// passes the limit says enough.
		if d.count(); d.Err() != nil {
			return nil
		}
		return ECMAArray(d.object())
	case markArray:
		return d.array()
	case markAMF3:
		d.Fail(ErrAMF3)
	default:
		d.Fail(fmt.Errorf("%w 0x%02x", ErrMarker, mark))
	}
	return nil
}

// object reads properties up to the end marker (sections 2.5 and 2.10).
func (d *decoder) object() Object {
	if !d.enter() {
		return nil
	}
	defer d.leave()
	var o Object
	for d.Err() == nil {
		name := string(d.Bytes(int(d.Uint16())))
		if name == "" && d.peek() == markObjectEnd {
			d.Skip(1)
			break
		}
		o = append(o, Property{name, d.value()})
	}
	return o
}

// array reads a strict array (section 2.12).
func (d *decoder) array() []Value {
	n := d.count()
	if d.Err() != nil || !d.enter() {
		return nil
	}
	defer d.leave()
	if n > d.Len() { // a value has a byte at least
		d.Fail(bits.ErrShort)
		return nil
	}
	a := make([]Value, 0, n)
	for ; n > 0 && d.Err() == nil; n-- {
		a = append(a, d.value())
	}
	return a
}

// count reads the number of elements of an array.
func (d *decoder) count() int {
	n := d.Uint32()
	if uint64(n) > uint64(d.elements) {
		d.Fail(ErrElements)
		return 0
	}
	return int(n)
}

// length reads that of a long string.
func (d *decoder) length() int {
	n := d.Uint32()
	if uint64(n) > uint64(d.Len()) {
		d.Fail(bits.ErrShort)
		return 0
	}
	return int(n)
}

func (d *decoder) enter() bool {
	if d.depth == 0 {
		d.Fail(ErrDepth)
		return false
	}
	d.depth--
	return true
}

func (d *decoder) leave() { d.depth++ }

// peek returns the next byte, which stays unread; 0 at the end.
func (d *decoder) peek() byte {
	if d.Len() == 0 {
		return 0
	}
	r := *d.Reader
	return r.Uint8()
}
