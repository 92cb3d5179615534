package eventlog

import (
	"bufio"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/internal/durable"
)

// segment is one file of a journal.
type segment struct {
	number uint64 // in its name; they go up
	path   string
	id     string // random; of all segments that ever were

	version byte // of the file

	// What is on disk, and whether that is all there will be. Guarded by
	// journal.mu while the segment is the one that is written to.
	size   int64
	head   int64  // of it, what was carried here
	facts  uint64 // those included that were skipped
	closed bool
}

var idText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// place is where in a journal something is: how many facts of which segment
// come before it, and how many bytes.
type place struct {
	seg   *segment
	index uint64
	off   int64
}

// mark is what a kindMark says.
type mark struct {
	Time    time.Time `json:"time"`
	Segment string    `json:"segment,omitempty"` // id
	Index   uint64    `json:"index,omitempty"`   // facts of Segment that JetStream has, and all of those before
	Seq     uint64    `json:"seq,omitempty"`     // of the last of them in JetStream
	Stream  time.Time `json:"stream,omitzero"`   // when that was made: another one knows nothing of Seq
}

const suffix = ".journal"

// segments returns the segments in dir, the oldest first, without what is in
// them.
func segments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []*segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(name, 16, 64)
		if err != nil {
			continue
		}
		list = append(list, &segment{number: n, path: filepath.Join(dir, e.Name()), closed: true})
	}
	slices.SortFunc(list, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// create makes the segment of that number, with head as its first frames, and
// returns when it is on disk.
func create(dir string, number uint64, head []byte) (*segment, *os.File, error) {
	s := &segment{number: number, path: filepath.Join(dir, fmt.Sprintf("%016x%s", number, suffix)), version: version}
	id := make([]byte, idSize)
	rand.Read(id)
	s.id = idText.EncodeToString(id)
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	b := slices.Concat([]byte(magic), id, head)
	s.size, s.head = int64(len(b)), int64(len(b))
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = durable.SyncDir(dir)
	}
	if err != nil {
		f.Close()
		os.Remove(s.path)
		return nil, nil, err
	}
	return s, f, nil
}

// scan reads the segment and calls f for each of its frames. It sets id, size
// and facts. An error of f ends it. A segment without a whole header has
// nothing in it.
func (s *segment) scan(f func(k kind, payload []byte) error) error {
	file, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer file.Close()
	s.id, s.size, s.facts = "", 0, 0
	r := bufio.NewReaderSize(file, 256<<10)
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return ignoreEnd(err)
	}
	if string(head[:len(magic)-1]) != magic[:len(magic)-1] {
		return fmt.Errorf("%s is not a journal of Weir", s.path)
	}
	if s.version = head[len(magic)-1]; s.version < 1 || s.version > version {
		return fmt.Errorf("%s has version %d, and this Weir knows only up to %d: run the newer Weir that wrote it", s.path, s.version, version)
	}
	s.id, s.size = idText.EncodeToString(head[len(magic):]), int64(headerSize)
	for {
		k, payload, n, err := nextFrame(r)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		s.size += int64(n)
		s.facts += countOf(k, payload)
		if err := f(k, payload); err != nil {
			return err
		}
	}
}

// countOf returns how many facts a frame stands for.
func countOf(k kind, payload []byte) uint64 {
	switch k {
	case kindFact:
		return 1
	case kindSkip:
		var s skip
		if json.Unmarshal(payload, &s) == nil {
			return s.Facts
		}
	}
	return 0
}

func ignoreEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// nextFrame reads a frame; its length is 0 where whole frames end.
func nextFrame(r *bufio.Reader) (k kind, payload []byte, n int, err error) {
	head, err := r.Peek(frameHead)
	if err != nil {
		return 0, nil, 0, ignoreEnd(err)
	}
	size := binary.LittleEndian.Uint32(head)
	if size == 0 || size > maxFrame {
		return 0, nil, 0, nil
	}
	b := make([]byte, frameHead+int(size))
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, 0, ignoreEnd(err)
	}
	k, payload, n, err = readFrame(b)
	if errors.Is(err, errTorn) {
		return 0, nil, 0, nil
	}
	return k, payload, n, err
}

func (m mark) frame(k kind) []byte {
	b, err := json.Marshal(m)
	if err != nil { // times that are none
		b = []byte("{}")
	}
	return appendFrame(nil, k, b)
}
