package eventlog

import "os"

// walk reads the facts of a journal in order, as far as they are on disk. It
// belongs to one goroutine.
type walk struct {
	j    *journal
	at   place
	skip uint64 // facts until there: the walk began at an index

	seg  *segment
	file *os.File
	buf  []byte // bytes of file from at.off on
}

// item is a fact of a journal.
type item struct {
	subject string
	data    []byte
	at      place // where it is
	next    place // what follows
}

// chunk is how much is read from a file at once, unless a frame is longer.
const chunk = 256 << 10

// seek goes to a place. Without bytes it is found by its index.
func (w *walk) seek(p place) {
	if w.seg != p.seg {
		w.close()
	}
	w.buf, w.at, w.skip = nil, p, 0
	if p.off > 0 {
		return
	}
	w.j.mu.Lock()
	defer w.j.mu.Unlock()
	if p.seg.closed && p.index >= p.seg.facts { // its file may be gone
		w.at.off = p.seg.size
		return
	}
	w.at = place{p.seg, 0, int64(headerSize)}
	w.skip = p.index
}

func (w *walk) close() {
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.seg, w.buf = nil, nil, nil
}

// next returns the next fact, and false if there is none yet.
func (w *walk) next() (item, bool, error) {
	for {
		size, closed, after := w.extent()
		if w.at.off >= size {
			if !closed || after == nil {
				return item{}, false, nil
			}
			w.seek(place{seg: after})
			continue
		}
		k, payload, n, err := w.frame(size)
		if err != nil {
			return item{}, false, err
		}
		if n == 0 { // what was good is not any more
			w.j.log.Error("a journal is damaged; facts in it are lost", "file", w.at.seg.path, "bytes", size-w.at.off)
			w.at.off = size
			w.at.index = w.at.seg.facts
			w.buf = nil
			continue
		}
		it := item{at: w.at}
		w.at.off += int64(n)
		w.buf = w.buf[n:]
		if k != kindFact {
			n := countOf(k, payload)
			w.at.index += n
			w.skip -= min(n, w.skip)
			continue
		}
		w.at.index++
		if w.skip > 0 {
			w.skip--
			continue
		}
		it.subject, it.data, err = parseFact(payload)
		it.next = w.at
		return it, true, err
	}
}

// extent returns how long the segment is that the walk is in, whether it grows
// no more, and which one follows.
func (w *walk) extent() (size int64, closed bool, next *segment) {
	w.j.mu.Lock()
	defer w.j.mu.Unlock()
	for _, s := range w.j.segs {
		if s.number > w.at.seg.number {
			next = s
			break
		}
	}
	return w.at.seg.size, w.at.seg.closed, next
}

// frame returns the frame at w.at of a file that has size bytes; its length is
// 0 if there is none.
func (w *walk) frame(size int64) (k kind, payload []byte, n int, err error) {
	for want := chunk; ; want = frameHead + maxFrame {
		if k, payload, n, err = readFrame(w.buf); err == nil && n > 0 {
			return k, payload, n, nil
		}
		whole := int64(len(w.buf)) == size-w.at.off
		if whole || len(w.buf) >= frameHead+maxFrame {
			return 0, nil, 0, nil
		}
		if err := w.read(min(int64(want), size-w.at.off)); err != nil {
			return 0, nil, 0, err
		}
	}
}

// read reads n bytes at w.at.
func (w *walk) read(n int64) error {
	if w.file == nil {
		f, err := os.Open(w.at.seg.path)
		if err != nil {
			return err
		}
		w.file, w.seg = f, w.at.seg
	}
	w.buf = make([]byte, n)
	_, err := w.file.ReadAt(w.buf, w.at.off)
	return err
}
