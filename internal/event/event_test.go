package event

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	for _, typ := range Types() {
		data, err := typ.decode([]byte("{}"))
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if got := data.Type(); got != typ {
			t.Errorf("the decoder of %s makes a %s", typ, got)
		}
		v := reflect.New(reflect.TypeOf(data)).Elem()
		fill(v, 3)
		want := New(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), v.Interface().(Data))
		want.Node, want.Space, want.App, want.Stream, want.Sequence = "n1", "default", "live", "s1", NewSequence()
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		var got Event
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v\n%s", typ, err, b)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: written and read again (-want +got):\n%s", typ, diff)
		}
	}
}

// fill gives every field in v, depth levels down, a value that is not zero.
func fill(v reflect.Value, depth int) {
	switch x := v.Addr().Interface().(type) {
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("192.0.2.1:17102")
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("2001:db8::1")
		return
	case *time.Time:
		*x = time.Date(2026, 11, 26, 1, 2, 3, 4e6, time.UTC)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth)
	case reflect.Slice:
		if depth > 0 {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0), depth-1)
			fill(v.Index(1), depth-1)
		}
	case reflect.String:
		v.SetString("a \"b\" <c>")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 << 40)
	case reflect.Uint64:
		v.SetUint(1 << 50)
	case reflect.Float64:
		v.SetFloat(1.5)
	default:
		panic("event: a fact with a " + v.Kind().String())
	}
}

func TestUnknownTypeIsKept(t *testing.T) {
	const text = `{"id":"1","type":"pull.started","time":"2026-01-02T03:04:05Z","data":{"from":"x","n":[1,2]}}`
	var e Event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.Data.(Unknown); !ok || e.Data.Type() != "pull.started" {
		t.Errorf("Data = %#v, want an Unknown of pull.started", e.Data)
	}
	b, err := json.Marshal(e)
	if err != nil || string(b) != text {
		t.Errorf("written again: %s, %v, want %s", b, err, text)
	}
}

func TestIDs(t *testing.T) {
	if a, b := NewID(), NewID(); a == b || len(a) != 26 {
		t.Errorf("NewID() = %q, then %q, want two of 26 characters", a, b)
	}
	if a, b := NewSequence(), NewSequence(); a == b || len(a) != 32 {
		t.Errorf("NewSequence() = %q, then %q, want two of 32 characters", a, b)
	}
}
