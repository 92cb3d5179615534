package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// entry is one line of a take's journal, in JSON. Each has one field.
type entry struct {
	Head    *head       `json:"head,omitempty"`    // the first line
	Push    *push       `json:"push,omitempty"`    // its media follow
	Begin   *segment    `json:"begin,omitempty"`   // a segment has begun: its file may be there
	Segment *segment    `json:"segment,omitempty"` // it has ended, and is on disk
	Stored  int         `json:"stored,omitempty"`  // that segment is in the bucket, verified
	Missing int         `json:"missing,omitempty"` // that segment is nowhere any more
	Left    *leaving    `json:"left,omitempty"`    // the push has ended
	Lost    int64       `json:"lost,omitempty"`    // ms of media that found no room
	Closed  *closing    `json:"closed,omitempty"`  // no segments will be added
	Named   *production `json:"named,omitempty"`   // a file gets that name
	Made    *production `json:"made,omitempty"`    // it is there, or will not be: Fact says so
	Told    string      `json:"told,omitempty"`    // the log has the fact about the file of that format
}

// head is what a take began with. Nothing of it changes.
type head struct {
	Task   string        `json:"task"`
	Space  string        `json:"space"`
	App    string        `json:"app"`
	Stream string        `json:"stream"`
	Domain string        `json:"domain"`
	VDOID  string        `json:"vdoid,omitempty"`
	Start  time.Time     `json:"start"`           // when its first frame came
	Base   int64         `json:"base,omitempty"`  // ms of media that the times in its segments have before it
	Node   string        `json:"node,omitempty"`  // that began it
	Owner  int           `json:"owner,omitempty"` // 0 is Node; it grows when another goes on
	Record policy.Record `json:"record"`
}

func (h *head) key() stream.Key { return stream.Key{Space: h.Space, App: h.App, Name: h.Stream} }

// push is a push whose media are in a take.
type push struct {
	Sequence string `json:"sequence"`
	Session  string `json:"session,omitempty"`
}

// segment is a piece of a take: the file {N}.ts in its folder, or {N}-{Owner}.ts, so
// that a node that does not know yet that it has lost the take cannot overwrite another's.
type segment struct {
	N             int       `json:"n"`
	Start         int64     `json:"start"`           // ms of media before it
	Time          time.Time `json:"time"`            // when its first frame came
	Owner         int       `json:"owner,omitempty"` // of the take, who wrote it
	Discontinuity bool      `json:"discontinuity,omitempty"`
	Video         *track    `json:"video,omitempty"` // its tracks as far as they are known at its start;
	Audio         *track    `json:"audio,omitempty"` // in the first segment and after a discontinuity

	// When it has ended.
	Duration int64  `json:"duration,omitempty"` // ms
	Size     int64  `json:"size,omitempty"`
	SHA256   string `json:"sha256,omitempty"`

	stored  bool // it is in the bucket
	local   bool // it is in the folder
	missing bool // it is in neither: no file has it
}

func (s *segment) end() int64 { return s.Start + s.Duration }

// name is that of the file.
func (s *segment) name() string {
	if s.Owner > 0 {
		return fmt.Sprintf("%06d-%d.ts", s.N, s.Owner)
	}
	return fmt.Sprintf("%06d.ts", s.N)
}

// track is a codec with its configuration.
type track struct {
	Codec  av.Codec `json:"codec"`
	Config []byte   `json:"config,omitempty"`
}

// leaving says that a push has ended.
type leaving struct {
	At   time.Time `json:"at"`
	Last time.Time `json:"last"` // when its last frame came
}

// closing says that a take has got all of its segments.
type closing struct {
	Reason string    `json:"reason"` // left, cut, changed, stopped
	End    time.Time `json:"end"`    // when its last frame came
}

// production is one file made of a take.
type production struct {
	Format string `json:"format"` // hls, mp4, flv
	Task   string `json:"task"`
	Key    string `json:"key,omitempty"`
	Taken  int    `json:"taken,omitempty"`  // names before Key that others had
	Upload []byte `json:"upload,omitempty"` // state of the upload in parts

	Whole *converted `json:"whole,omitempty"` // all parts are there

	Fact *event.Event `json:"fact,omitempty"` // RecordFinished or RecordFailed
	told bool
}

const journalName = "journal"

// maxJournal is the longest journal that is read: a day of 1 s segments has a
// tenth of it.
const maxJournal = 512 << 20

// journal is the file of entries. They are added in memory, under whatever lock
// guards what they say, and written without it: a disk may take its time. What
// cannot be written now, because it is full, is written before the next entry.
type journal struct {
	writing sync.Mutex // held while the disk is; taken before mu
	f       *os.File
	closed  bool

	mu   sync.Mutex
	size int64  // of what is written
	late []byte // what is not
}

func createJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{f: f}, nil
}

// openJournal reads the journal in dir, calls each for every entry, and opens
// it to go on. A line that is not whole, which was being written when the
// machine stopped, ends it and is removed.
func openJournal(dir string, each func(*entry)) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	if err == nil && len(data) > maxJournal {
		err = errors.New("too long")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read journal: %w", err)
	}
	j := &journal{f: f, size: int64(readEntries(data, each))}
	if err := f.Truncate(j.size); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// readEntries calls each for every whole entry in data and returns where they
// end.
func readEntries(data []byte, each func(*entry)) (end int) {
	for {
		n := bytes.IndexByte(data[end:], '\n')
		if n < 0 {
			return end
		}
		var e entry
		if json.Unmarshal(data[end:end+n], &e) != nil || end == 0 && e.Head == nil {
			return end
		}
		each(&e)
		end += n + 1
	}
}

// add adds an entry, which flush writes.
func (j *journal) add(e entry) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // numbers, strings and times
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.late = append(append(j.late, line...), '\n')
}

// flush writes what was added, and if sync is set it is on disk when flush returns.
func (j *journal) flush(sync bool) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.closed {
		return nil
	}
	j.mu.Lock()
	text, at := j.late, j.size
	j.late = nil
	j.mu.Unlock()
	n, err := j.f.WriteAt(text, at)
	j.mu.Lock()
	if err != nil {
		j.late = append(text, j.late...)
	} else {
		j.size += int64(n)
	}
	j.mu.Unlock()
	switch {
	case err != nil && n > 0:
		j.f.Truncate(at)
	case err == nil && sync:
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// read returns what is written from an offset on.
func (j *journal) read(from int64) ([]byte, error) {
	data := make([]byte, j.length()-from)
	if n, err := j.f.ReadAt(data, from); n < len(data) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return data, nil
}

// length returns the size of what is written.
func (j *journal) length() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// is reports whether so many bytes are all of it.
func (j *journal) is(size int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size == size && len(j.late) == 0
}

// close gives the file up. What is added afterwards goes nowhere.
func (j *journal) close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.closed = true
	return j.f.Close()
}
