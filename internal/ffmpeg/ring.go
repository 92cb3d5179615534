package ffmpeg

import "sync"

// ringSize is how much of what a process says about its troubles is kept.
const ringSize = 64 << 10

// ring is an io.Writer that keeps the last ringSize bytes.
type ring struct {
	mu    sync.Mutex
	b     []byte
	total int64
}

func (r *ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total += int64(len(b))
	r.b = append(r.b, b[max(0, len(b)-ringSize):]...)
	if over := len(r.b) - ringSize; over > 0 {
		r.b = append(r.b[:0], r.b[over:]...)
	}
	return len(b), nil
}

func (r *ring) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.b)
}
