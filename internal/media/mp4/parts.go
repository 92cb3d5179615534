package mp4

// parts cuts a file into parts of equal size. First it holds what comes; once
// it is told how much room is to be left before it, it sends every part that
// is full. What shares a part with the room it holds to the end.
type parts struct {
	size  int
	write func(n int, data []byte) error

	media int64  // bytes that came
	room  int64  // bytes before them; 0: not known yet
	held  []byte // the beginning of the media, as far as it shares a part with the room
	share int64  // how long that becomes

	n   int    // of the part that is being filled; 0: still holding
	cur []byte // of it
}

// settle makes the room, of which nothing was known. The data that is held has the size of a part at most.
func (p *parts) settle(room int64) {
	p.room = room
	p.n = int(room/int64(p.size)) + 2
	p.share = int64(p.n-1)*int64(p.size) - room
	first := min(p.share, int64(len(p.held)))
	rest := p.held[first:]
	p.cur = append(make([]byte, 0, p.size), rest...)
	p.held = p.held[:first]
}

// append adds bytes of the media, or of what begin began.
func (p *parts) append(data []byte) error {
	p.media += int64(len(data))
	if p.n == 0 {
		p.held = append(p.grow(len(data)), data...)
		return nil
	}
	if p.room > 0 {
		// The part with the end of the room is filled up first.
		n := min(int64(len(data)), p.share-int64(len(p.held)))
		p.held = append(p.held, data[:n]...)
		data = data[n:]
	}
	for len(data) > 0 {
		n := min(len(data), p.size-len(p.cur))
		p.cur = append(p.cur, data[:n]...)
		data = data[n:]
		if len(p.cur) == p.size {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// grow returns held with place for n bytes, in memory that grows with a small file and ends with a part's size.
func (p *parts) grow(n int) []byte {
	need := len(p.held) + n
	if need <= cap(p.held) {
		return p.held
	}
	size := max(need, min(2*cap(p.held), p.size), 64<<10)
	return append(make([]byte, 0, size), p.held...)
}

func (p *parts) flush() error {
	err := p.write(p.n, p.cur)
	p.n++
	p.cur = p.cur[:0]
	return err
}

// end writes the part that is not full.
func (p *parts) end() error {
	if len(p.cur) == 0 {
		return nil
	}
	return p.flush()
}

// begin starts over at the first part, and returns what is held of the media.
func (p *parts) begin() []byte {
	held := p.held
	p.held, p.room, p.n = nil, 0, 1
	if p.cur == nil {
		p.cur = make([]byte, 0, p.size)
	}
	p.cur = p.cur[:0]
	return held
}

// Write is append for encoders.
func (p *parts) Write(data []byte) (int, error) { return len(data), p.append(data) }

func (p *parts) zeros(n int64) error {
	var z [4096]byte
	for ; n > 0; n -= min(n, int64(len(z))) {
		if err := p.append(z[:min(n, int64(len(z)))]); err != nil {
			return err
		}
	}
	return nil
}
