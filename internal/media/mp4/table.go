package mp4

import (
	"encoding/binary"
	"io"
	"iter"

	"github.com/Eyevinn/mp4ff/bits"
)

// list is a long list that grows without copying what it has.
type list[T any] struct {
	blocks [][]T
	n      int
}

const blockLen = 4096

func (l *list[T]) add(v T) {
	if l.n%blockLen == 0 {
		l.blocks = append(l.blocks, make([]T, 0, blockLen))
	}
	b := &l.blocks[len(l.blocks)-1]
	*b = append(*b, v)
	l.n++
}

// last returns the last one, nil if there is none.
func (l *list[T]) last() *T {
	if l.n == 0 {
		return nil
	}
	b := l.blocks[len(l.blocks)-1]
	return &b[len(b)-1]
}

func (l *list[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, b := range l.blocks {
			for _, v := range b {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// run is a value that so many samples in a row have.
type run struct{ count, value uint32 }

type runs struct{ list[run] }

func (r *runs) add(v uint32) {
	if last := r.last(); last != nil && last.value == v && last.count < 1<<32-1 {
		last.count++
		return
	}
	r.list.add(run{1, v})
}

// table is a box of a version, flags, and rows of numbers, which are made while they are
// written: mp4ff would want all of them as a slice.
type table struct {
	name    string
	version byte
	size    uint64 // of the rows
	rows    func(put func(uint32))
}

func (t *table) Type() string { return t.name }
func (t *table) Size() uint64 { return 12 + t.size }

func (t *table) Encode(w io.Writer) error {
	buf := make([]byte, 0, 32<<10)
	buf = binary.BigEndian.AppendUint32(buf, uint32(t.Size()))
	buf = append(buf, t.name...)
	buf = append(buf, t.version, 0, 0, 0)
	var err error
	t.rows(func(v uint32) {
		buf = binary.BigEndian.AppendUint32(buf, v)
		if len(buf) > cap(buf)-4 && err == nil {
			_, err = w.Write(buf)
			buf = buf[:0]
		}
	})
	if err == nil {
		_, err = w.Write(buf)
	}
	return err
}

func (t *table) EncodeSW(sw bits.SliceWriter) error {
	var b sliceWriter
	if err := t.Encode(&b); err != nil {
		return err
	}
	sw.WriteBytes(b)
	return sw.AccError()
}

type sliceWriter []byte

func (b *sliceWriter) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// Info is of no use here; it is part of mp4ff's Box.
func (t *table) Info(io.Writer, string, string, string) error { return nil }
