package amf

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/bits"
)

// values drive decoding and encoding.
var values = []struct {
	name  string
	value Value
	bytes string
}{
	{"number", 1.0, "\x00\x3F\xF0\x00\x00\x00\x00\x00\x00"},
	{"negative", -2.5, "\x00\xC0\x04\x00\x00\x00\x00\x00\x00"},
	{"infinite", math.Inf(1), "\x00\x7F\xF0\x00\x00\x00\x00\x00\x00"},
	{"true", true, "\x01\x01"},
	{"false", false, "\x01\x00"},
	{"empty string", "", "\x02\x00\x00"},
	{"string", "live", "\x02\x00\x04live"},
	{"UTF-8", "直播", "\x02\x00\x06\xe7\x9b\xb4\xe6\x92\xad"},
	{"longest string", strings.Repeat("x", 65535), "\x02\xFF\xFF" + strings.Repeat("x", 65535)},
	{"long string", strings.Repeat("x", 65536), "\x0C\x00\x01\x00\x00" + strings.Repeat("x", 65536)},
	{"null", nil, "\x05"},
	{"undefined", Undefined{}, "\x06"},
	{"empty object", Object(nil), "\x03\x00\x00\x09"},
	{"object", Object{{"app", "live"}, {"fpad", false}, {"", nil}, {"app", 2.0}},
		"\x03\x00\x03app\x02\x00\x04live\x00\x04fpad\x01\x00\x00\x00\x05\x00\x03app\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"},
	{"ECMA array", ECMAArray{{"width", 2.0}}, "\x08\x00\x00\x00\x01\x00\x05width\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"},
	{"strict array", []Value{"av01", nil, []Value{}}, "\x0A\x00\x00\x00\x03\x02\x00\x04av01\x05\x0A\x00\x00\x00\x00"},
	{"date", Date{1000, -1}, "\x0B\x40\x8F\x40\x00\x00\x00\x00\x00\xFF\xFF"},
	{"object in array in object", Object{{"a", []Value{Object{{"b", ECMAArray(nil)}}}}},
		"\x03\x00\x01a\x0A\x00\x00\x00\x01\x03\x00\x01b\x08\x00\x00\x00\x00\x00\x00\x09\x00\x00\x09\x00\x00\x09"},
}

func TestValues(t *testing.T) {
	var all []byte
	var want []Value
	for _, v := range values {
		t.Run(v.name, func(t *testing.T) {
			got, err := Decode([]byte(v.bytes))
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if diff := cmp.Diff([]Value{v.value}, got); diff != "" {
				t.Errorf("Decode (-want +got):\n%s", diff)
			}
			if got := Append([]byte("+"), v.value); string(got) != "+"+v.bytes {
				t.Errorf("Append = %q, want %q", got, "+"+v.bytes)
			}
		})
		all = append(all, v.bytes...)
		want = append(want, v.value)
	}
	got, err := Decode(all)
	if err != nil {
		t.Fatalf("Decode of all: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Decode of all (-want +got):\n%s", diff)
	}
}

// Encodings that we would not write.
func TestDecodeLoose(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        Value
	}{
		{"boolean other than 1", "\x01\x02", true},
		{"short long string", "\x0C\x00\x00\x00\x02ab", "ab"},
		{"ECMA array with the count 0", "\x08\x00\x00\x00\x00\x00\x01a\x05\x00\x00\x09", ECMAArray{{"a", nil}}},
		{"ECMA array with too great a count", "\x08\x00\x00\x00\x09\x00\x01a\x05\x00\x00\x09", ECMAArray{{"a", nil}}},
	} {
		got, err := Decode([]byte(tt.bytes))
		if diff := cmp.Diff([]Value{tt.want}, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, diff)
		}
	}
	if got := Append(nil, 7); string(got) != "\x00\x40\x1C\x00\x00\x00\x00\x00\x00" {
		t.Errorf("Append of an int = %q", got)
	}
}

func TestObject(t *testing.T) {
	o := Object{{"s", "x"}, {"n", 2.0}, {"s", "y"}}
	if o.String("s") != "x" || o.String("n") != "" || o.Number("n") != 2 || o.Number("s") != 0 || o.Get("none") != nil {
		t.Errorf("String, Number or Get of %v is wrong", o)
	}
	if len(Properties(ECMAArray(o))) != 3 || len(Properties(o)) != 3 || Properties("s") != nil {
		t.Error("Properties is wrong")
	}
}

// connect is the guide's command (H23).
var connect = Append(nil, "connect", 1.0, Object{
	{"app", "app"}, {"flashVer", "MAC 10,2,153,2"}, {"swfUrl", nil}, {"tcUrl", "rtmp://a.example.com/live/stream?k=v"},
	{"fpad", false}, {"capabilities", 9947.75}, {"objectEncoding", 3.0},
})

// H23: every prefix of a valid command, and every marker that is not AMF0's or
// that nobody needs.
func TestDecodeRefused(t *testing.T) {
	whole := 0
	for n := range connect {
		vals, err := Decode(connect[:n])
		if err == nil {
			whole++ // cut between two values
		} else if !errors.Is(err, bits.ErrShort) {
			t.Errorf("Decode of %d bytes: %v, want %v", n, err, bits.ErrShort)
		}
		if len(vals) > 2 {
			t.Errorf("Decode of %d bytes = %d values", n, len(vals))
		}
	}
	if whole != 3 {
		t.Errorf("%d prefixes are whole, want 3", whole)
	}

	for mark := range 256 {
		b := append([]byte{byte(mark)}, make([]byte, 16)...)
		_, err := Decode(b)
		switch {
		case mark == markAMF3:
			if !errors.Is(err, ErrAMF3) {
				t.Errorf("Decode of marker %#x: %v, want %v", mark, err, ErrAMF3)
			}
		case mark <= markUndefined && mark != 4, mark == markECMAArray, mark >= markArray && mark <= markLongString:
		case err == nil:
			t.Errorf("Decode of marker %#x succeeded", mark)
		}
	}
}

// nest returns n values inside each other.
func nest(n int, array bool) []byte {
	open, end := "\x03\x00\x01a", "\x00\x00\x09"
	if array {
		open, end = "\x0A\x00\x00\x00\x01", ""
	}
	return []byte(strings.Repeat(open, n) + "\x05" + strings.Repeat(end, n))
}

func TestDecodeDepth(t *testing.T) {
	for _, array := range []bool{false, true} {
		if _, err := Decode(nest(16, array)); err != nil {
			t.Errorf("Decode of depth 16: %v", err)
		}
		for _, n := range []int{17, 100, 1 << 20} {
			if _, err := Decode(nest(n, array)); !errors.Is(err, ErrDepth) {
				t.Errorf("Decode of depth %d: %v, want %v", n, err, ErrDepth)
			}
		}
	}
	if _, err := (Limits{Depth: 3}).Decode(nest(4, false)); !errors.Is(err, ErrDepth) {
		t.Errorf("Decode of depth 4 with limit 3: %v", err)
	}
}

// H25: what is wide is refused before it is allocated.
func TestDecodeWide(t *testing.T) {
	nulls := func(n int) []byte { return bytes.Repeat([]byte{markNull}, n) }
	if _, err := Decode(nulls(1024)); err != nil {
		t.Errorf("Decode of 1024 values: %v", err)
	}
	if _, err := Decode(append([]byte("\x0A\x00\x00\x03\xFF"), nulls(1023)...)); err != nil {
		t.Errorf("Decode of an array of 1023: %v", err)
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"1025 values", nulls(1025), ErrElements},
		{"8 Mi values", nulls(8 << 20), ErrElements},
		{"strict array of 1024", append([]byte("\x0A\x00\x00\x04\x00"), nulls(1024)...), ErrElements},
		{"strict array of 2^32-1", []byte("\x0A\xFF\xFF\xFF\xFF\x05"), ErrElements},
		{"strict array, count beyond the data", []byte("\x0A\x00\x00\x02\x00\x05"), bits.ErrShort},
		{"ECMA array of 2^32-1", []byte("\x08\xFF\xFF\xFF\xFF\x00\x01a\x05\x00\x00\x09"), ErrElements},
		{"object of 1024", append(append([]byte{markObject}, bytes.Repeat([]byte("\x00\x01a\x05"), 1024)...), 0, 0, 9), ErrElements},
		{"many small arrays", bytes.Repeat([]byte("\x0A\x00\x00\x00\x03\x05\x05\x05"), 257), ErrElements},
		{"long string of 2^32-1", []byte("\x0C\xFF\xFF\xFF\xFFabc"), bits.ErrShort},
		{"long string of 2^31", []byte("\x0C\x80\x00\x00\x00abc"), bits.ErrShort},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Decode(tt.bytes)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, tt.want) {
				t.Errorf("Decode: %v, want %v", err, tt.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
				t.Errorf("Decode allocated %d bytes", n)
			}
		})
	}
	if _, err := (Limits{Elements: 3}).Decode(nulls(4)); !errors.Is(err, ErrElements) {
		t.Errorf("Decode of 4 values with limit 3: %v", err)
	}
}

func TestAppendPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Append of a type that is no Value did not panic")
		}
	}()
	Append(nil, struct{}{})
}

// FuzzDecode: what is decoded encodes to something that decodes to the same.
func FuzzDecode(f *testing.F) {
	for _, v := range values {
		f.Add([]byte(v.bytes))
	}
	f.Add(connect)
	f.Add(nest(17, true))
	f.Add([]byte("\x08\xFF\xFF\xFF\xFF"))
	f.Add([]byte("\x07\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		vals, err := Decode(b)
		again, err2 := Decode(Append(nil, vals...))
		if err == nil && err2 != nil {
			t.Fatalf("Decode of what was decoded: %v", err2)
		}
		if err == nil && !bytes.Equal(Append(nil, vals...), Append(nil, again...)) {
			t.Fatalf("%v became %v", vals, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(connect); err != nil {
			b.Fatal(err)
		}
	}
}
