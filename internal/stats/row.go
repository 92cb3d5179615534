package stats

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
)

const protocols = len(stream.Protocols)

// Tally is what went in and out in a while. Arrays are in the order of
// stream.Protocols.
type Tally struct {
	In      int64            // bytes of media published
	Out     [protocols]int64 // bytes written to players
	Plays   [protocols]int64 // players that came; those of HLS who can be told apart
	Watched [protocols]int64 // seconds, of all players together
	Live    int64            // seconds published, of all streams together
	Peak    int64            // most players at a time
	Streams int64            // most streams published at a time
}

// add adds what is a sum, which the peaks are not.
func (t *Tally) add(o *Tally) {
	t.In += o.In
	t.Live += o.Live
	for i := range protocols {
		t.Out[i] += o.Out[i]
		t.Plays[i] += o.Plays[i]
		t.Watched[i] += o.Watched[i]
	}
}

// peak makes the peaks those of the worse of two whiles.
func (t *Tally) peak(o *Tally) {
	t.Peak, t.Streams = max(t.Peak, o.Peak), max(t.Streams, o.Streams)
}

// idle reports whether nothing has happened.
func (t *Tally) idle() bool { return *t == Tally{} }

// sheet is what one node has counted of one app in one minute or hour: what is
// one message, or where there are many streams one of several. The tallies of
// app, space and node have nothing but peaks: their sums are in the rows.
type sheet struct {
	Start time.Time // whole seconds
	Step  time.Duration

	App, Space, Node peaks
	Total            Tally // sums of the rows
	Rows             []row
}

// peaks are the most players and streams at a time.
type peaks struct{ Players, Streams int64 }

// row is one stream's.
type row struct {
	Name string
	Tally
}

// sheetVersion is the first byte of a message.
const sheetVersion = 1

// append appends the message. All numbers are unsigned varints:
//
//	version (one byte)  start (s, Unix)  step (s)
//	players and streams at a time: of the app, of the space, of the node
//	the tally of all rows
//	number of rows, and for each: length of the name, name, tally
//
// A tally is: bytes in, seconds live, peak of players, peak of streams, a mask
// of the protocols that have something, and for each of these bytes out, plays
// and seconds watched.
func (s *sheet) append(b []byte) []byte {
	b = append(b, sheetVersion)
	b = appendNumbers(b, s.Start.Unix(), int64(s.Step/time.Second), s.App.Players, s.App.Streams, s.Space.Players, s.Space.Streams, s.Node.Players, s.Node.Streams)
	b = s.Total.append(b)
	b = appendNumbers(b, int64(len(s.Rows)))
	for i := range s.Rows {
		r := &s.Rows[i]
		b = appendNumbers(b, int64(len(r.Name)))
		b = append(b, r.Name...)
		b = r.Tally.append(b)
	}
	return b
}

func (t *Tally) append(b []byte) []byte {
	mask := int64(0)
	for i := range protocols {
		if t.Out[i]|t.Plays[i]|t.Watched[i] != 0 {
			mask |= 1 << i
		}
	}
	b = appendNumbers(b, t.In, t.Live, t.Peak, t.Streams, mask)
	for i := range protocols {
		if mask>>i&1 != 0 {
			b = appendNumbers(b, t.Out[i], t.Plays[i], t.Watched[i])
		}
	}
	return b
}

func appendNumbers(b []byte, n ...int64) []byte {
	for _, v := range n {
		b = binary.AppendUvarint(b, uint64(max(0, v)))
	}
	return b
}

// noRow is the name of no stream.
const noRow = "."

// parse reads a message. When want is not empty it keeps that row only. The
// error names what is wrong with a message that no Weir has written.
func (s *sheet) parse(b []byte, want string) error {
	r := numbers{b: b}
	if v := r.byte(); v != sheetVersion && r.err == nil {
		return fmt.Errorf("version %d of statistics is not known", v)
	}
	start, step := r.next(), r.next()
	if start > maxTime || step == 0 || step > 86400 {
		r.fail(errors.New("time is out of range"))
	}
	*s = sheet{Start: time.Unix(start, 0).UTC(), Step: time.Duration(step) * time.Second}
	for _, p := range []*peaks{&s.App, &s.Space, &s.Node} {
		p.Players, p.Streams = r.next(), r.next()
	}
	r.tally(&s.Total)
	for n := r.next(); n > 0 && r.err == nil; n-- {
		name := r.name()
		var t Tally
		r.tally(&t)
		if r.err == nil && (want == "" || want == string(name)) {
			s.Rows = append(s.Rows, row{string(name), t})
		}
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(errors.New("bytes are left over"))
	}
	return r.err
}

const (
	// maxTime is the end of the year 9999, and maxNumber what sums of a
	// thousand million numbers do not overflow.
	maxTime   = 253402300799
	maxNumber = 1 << 56
)

// numbers reads varints and remembers its first error.
type numbers struct {
	b   []byte
	err error
}

func (r *numbers) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

var errShort = errors.New("statistics end too early")

func (r *numbers) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *numbers) next() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > maxNumber {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *numbers) name() []byte {
	n := r.next()
	if n > int64(len(r.b)) {
		r.fail(errShort)
		return nil
	}
	name := r.b[:n]
	r.b = r.b[n:]
	if !policy.ValidStreamName(string(name)) {
		r.fail(errors.New("bad name of a stream"))
	}
	return name
}

func (r *numbers) tally(t *Tally) {
	t.In, t.Live, t.Peak, t.Streams = r.next(), r.next(), r.next(), r.next()
	mask := r.next()
	if mask>>protocols != 0 {
		r.fail(errors.New("unknown protocol"))
	}
	for i := range protocols {
		if mask>>i&1 != 0 {
			t.Out[i], t.Plays[i], t.Watched[i] = r.next(), r.next(), r.next()
		}
	}
}
