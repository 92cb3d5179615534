package stats

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func number(t *rapid.T) int64 { return rapid.Int64Range(0, maxNumber).Draw(t, "n") }

func tally(t *rapid.T) Tally {
	v := Tally{In: number(t), Live: number(t), Peak: number(t), Streams: number(t)}
	for i := range protocols {
		if rapid.Bool().Draw(t, "some") {
			v.Out[i], v.Plays[i], v.Watched[i] = number(t), number(t), number(t)
		}
	}
	return v
}

func TestSheet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := sheet{
			Start: time.Unix(rapid.Int64Range(0, maxTime).Draw(t, "start"), 0).UTC(),
			Step:  time.Duration(rapid.Int64Range(1, 86400).Draw(t, "step")) * time.Second,
			App:   peaks{number(t), number(t)}, Space: peaks{number(t), number(t)}, Node: peaks{number(t), number(t)},
			Total: tally(t),
		}
		for _, name := range rapid.SliceOfN(rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._-]{0,254}`), 0, 5).Draw(t, "names") {
			want.Rows = append(want.Rows, row{name, tally(t)})
		}
		b := want.append(nil)
		var got sheet
		if err := got.parse(b, ""); err != nil {
			t.Fatalf("parse: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if err := got.parse(b[:len(b)-1], ""); err == nil {
			t.Error("a message without its end was read")
		}
		if err := got.parse(append(b, 0), ""); err == nil {
			t.Error("a message with more after its end was read")
		}
		if err := got.parse(b, noRow); err != nil || got.Rows != nil {
			t.Errorf("rows that nobody wants: %v, %v", got.Rows, err)
		}
	})
}

func TestBadSheets(t *testing.T) {
	ok := sheet{Start: time.Unix(60, 0), Step: time.Minute}
	good := ok.append(nil)
	for _, tt := range []struct {
		name, want string
		b          []byte
	}{
		{"nothing", "too early", nil},
		{"a version to come", "version 2", append([]byte{2}, good[1:]...)},
		{"no step", "out of range", bytes.Replace(good, []byte{1, 60, 60}, []byte{1, 60, 0}, 1)},
		{"a huge number", "too early", append([]byte{1}, bytes.Repeat([]byte{0xFF}, 20)...)},
		{"many rows", "too early", append(good[:len(good)-1:len(good)-1], 0xFF, 0xFF, 0x7F)},
		{"a long name", "too early", append(good[:len(good)-1:len(good)-1], 1, 0xFF, 0x7F, 'a')},
		{"a bad name", "bad name", append(good[:len(good)-1:len(good)-1], 1, 1, '/', 0, 0, 0, 0, 0)},
		{"a protocol to come", "unknown protocol", append(good[:len(good)-1:len(good)-1], 1, 1, 'a', 0, 0, 0, 0, 0x40)},
	} {
		var s sheet
		if err := s.parse(tt.b, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzSheet(f *testing.F) {
	s := sheet{Start: time.Unix(1e9, 0), Step: time.Minute, App: peaks{1, 2}, Rows: []row{{"a", Tally{In: 1}}, {"b.c", Tally{Out: [protocols]int64{1, 2}}}}}
	f.Add(s.append(nil), "")
	f.Add(s.append(nil), "b.c")
	f.Add([]byte{1, 0x80}, "")
	f.Fuzz(func(t *testing.T, b []byte, want string) {
		var s, again sheet
		if s.parse(b, want) != nil {
			return
		}
		if err := again.parse(s.append(nil), ""); err != nil {
			t.Fatalf("%+v was read, and then not: %v", s, err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	s := sheet{Start: time.Unix(1e9, 0), Step: time.Minute}
	for i := range 4000 {
		s.Rows = append(s.Rows, row{"stream-" + strings.Repeat("0", i%10), Tally{In: 7_500_000, Live: 60, Peak: 10, Out: [protocols]int64{2: 75_000_000}, Watched: [protocols]int64{2: 600}}})
	}
	msg := s.append(nil)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.parse(msg, "stream-0"); err != nil {
			b.Fatal(err)
		}
	}
}
