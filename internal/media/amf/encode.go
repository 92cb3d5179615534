package amf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Append appends the encoding of vals to dst. An int is written as a number.
// Names of properties that are longer than 65535 bytes are cut. It panics at
// a Go type that is no Value: what to send is the program's own choice.
func Append(dst []byte, vals ...Value) []byte {
	for _, v := range vals {
		dst = appendValue(dst, v)
	}
	return dst
}

func appendValue(dst []byte, v Value) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, markNull)
	case float64:
		return appendNumber(append(dst, markNumber), v)
	case int:
		return appendNumber(append(dst, markNumber), float64(v))
	case bool:
		if v {
			return append(dst, markBoolean, 1)
		}
		return append(dst, markBoolean, 0)
	case string:
		if len(v) > math.MaxUint16 {
			dst = binary.BigEndian.AppendUint32(append(dst, markLongString), uint32(len(v)))
			return append(dst, v...)
		}
		return appendName(append(dst, markString), v)
	case Undefined:
		return append(dst, markUndefined)
	case Object:
		return appendProperties(append(dst, markObject), v)
	case ECMAArray:
		dst = binary.BigEndian.AppendUint32(append(dst, markECMAArray), uint32(len(v)))
		return appendProperties(dst, Object(v))
	case []Value:
		dst = binary.BigEndian.AppendUint32(append(dst, markArray), uint32(len(v)))
		return Append(dst, v...)
	case Date:
		dst = appendNumber(append(dst, markDate), v.Milliseconds)
		return binary.BigEndian.AppendUint16(dst, uint16(v.Zone))
	}
	panic(fmt.Sprintf("amf: cannot encode %T", v))
}

func appendProperties(dst []byte, o Object) []byte {
	for _, p := range o {
		dst = appendValue(appendName(dst, p.Name), p.Value)
	}
	return append(dst, 0, 0, markObjectEnd)
}

func appendName(dst []byte, s string) []byte {
	s = s[:min(len(s), math.MaxUint16)]
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendNumber(dst []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(f))
}
