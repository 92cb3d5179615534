// Package amf is AMF0, the encoding of RTMP commands and FLV metadata.
//
// The model is Adobe's "Action Message Format -- AMF 0": a message is a
// sequence of values, each a marker byte and what the marker says follows.
// Values are plain Go values, see [Value]. A decoder of network bytes has two
// dangers, depth (a Go program cannot recover from a stack overflow) and
// counts; both have limits, which are compared before anything is allocated.
//
// References, typed objects, XML and the switch to AMF3 are not decoded:
// neither encoders nor players send them in live streaming.
package amf

// A Value is one of
//
//	float64              number
//	bool                 boolean
//	string               string and long string
//	nil                  null
//	Undefined            undefined
//	Object               anonymous object
//	ECMAArray            associative array
//	[]Value              strict array
//	Date                 date
type Value = any

// Undefined is the value of the undefined marker.
type Undefined struct{}

// Date is a point in time: milliseconds since 1970 in UTC, and a time zone
// that the specification reserves.
type Date struct {
	Milliseconds float64
	Zone         int16
}

// Property is a named value of an object.
type Property struct {
	Name  string
	Value Value
}

// Object holds properties in the order of the wire. A name may come more than
// once; the first one counts.
type Object []Property

// ECMAArray is an Object that travels as an associative array.
type ECMAArray Object

// Get returns the value of the property, nil if there is none.
func (o Object) Get(name string) Value {
	for _, p := range o {
		if p.Name == name {
			return p.Value
		}
	}
	return nil
}

// String returns the property if it is a string, "" otherwise.
func (o Object) String(name string) string {
	s, _ := o.Get(name).(string)
	return s
}

// Number returns the property if it is a number, 0 otherwise.
func (o Object) Number(name string) float64 {
	n, _ := o.Get(name).(float64)
	return n
}

// Properties returns those of an Object or ECMAArray; nil of any other value.
func Properties(v Value) Object {
	switch v := v.(type) {
	case Object:
		return v
	case ECMAArray:
		return Object(v)
	}
	return nil
}

// Markers (section 2.1).
const (
	markNumber     = 0x00
	markBoolean    = 0x01
	markString     = 0x02
	markObject     = 0x03
	markNull       = 0x05
	markUndefined  = 0x06
	markECMAArray  = 0x08
	markObjectEnd  = 0x09
	markArray      = 0x0A
	markDate       = 0x0B
	markLongString = 0x0C
	markAMF3       = 0x11
)
