package hls

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/durable"
	"weir/internal/stream"
)

// numbers keeps discontinuity sequence numbers from falling when weir is restarted.
// They are eras, which begin with the hours of the clock: a stream that changes more
// often than once an hour is ahead of those, and its next one would begin below. And
// the clock cannot count faster, since hls.js keeps an array as long as the number.
//
// So a file has a number that no playlist has reached. It is a little ahead, and
// written before a playlist comes to it; all numbers of the next run are above.
type numbers struct {
	base uint64 // what is added to an era

	name string // of the file; "": there is none
	log  *slog.Logger

	mu    sync.Mutex
	next  uint64 // after all that playlists have; 0: they have none yet
	bound uint64 // what is in the file
}

const (
	// numbersAhead is how far the file is ahead. A crash loses so many.
	numbersAhead = 8
	// mostNumber is the greatest that is believed of a file.
	mostNumber = 1 << 32
)

// open reads the file that there is from the run before.
func (n *numbers) open(name string, now time.Time) {
	if n.name = name; name == "" {
		return
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	bound, bad := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err = errors.Join(err, bad); err != nil || bound > mostNumber {
		n.log.Warn("discontinuity sequence numbers of HLS may be lower than before the start", "file", name, "err", err)
		return
	}
	n.bound = bound
	if first := stream.FirstEra(now); bound > first {
		n.base = bound - first
	}
}

// reach is called before a playlist has a segment of that era.
func (n *numbers) reach(era uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next = max(n.next, era+n.base+1); n.next > n.bound {
		n.write(n.next + numbersAhead)
	}
}

// close is called when no playlist comes to another number.
func (n *numbers) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next > 0 {
		n.write(n.next)
	}
}

// write writes the file. n.mu is held.
func (n *numbers) write(bound uint64) {
	if n.bound = bound; n.name == "" {
		return
	}
	if err := durable.WriteFile(n.name, append(strconv.AppendUint(nil, bound, 10), '\n')); err != nil {
		n.log.Warn("discontinuity sequence numbers of HLS may be lower after the next start", "err", err)
	}
}
