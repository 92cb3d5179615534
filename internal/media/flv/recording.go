package flv

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
)

// DefaultPartSize is the size of a FileMuxer's parts if nothing else is said.
const DefaultPartSize = 8 << 20

const (
	minPartSize = 256 << 10

	// maxIndex is how many key frames a file's index names at most: of more,
	// every second one is left out until they are no more than that. The tag
	// stays shorter than what a Reader accepts.
	maxIndex   = 8192
	indexEntry = 2 * 9 // a time and a position

	// Bytes of everything in onMetaData but the index, and of the smallest filler.
	maxOther  = 1024
	minFiller = TagOverhead + len(onFiller)

	maxTag = 1<<24 - 1
)

// onFiller is a script tag that nobody knows, and so passes over: its name and null.
const onFiller = "\x02\x00\x08onFiller\x05"

// FileOptions are those of a FileMuxer. The zero value is good.
type FileOptions struct {
	// PartSize is the size of every part but the last one, DefaultPartSize if 0.
	PartSize int

	// Duration is how long the file will be, as far as that is known; the
	// room for the index is made by it.
	Duration time.Duration
}

// FileInfo is what a file holds.
type FileInfo struct {
	Size      int64
	Duration  time.Duration
	KeyFrames int
	Dropped   int // packets that are not in the file, as FLV has no place for them
}

// FileMuxer writes a file that players can seek in: onMetaData at its
// beginning has its duration, its size and an index of its key frames. Since
// these are known last, the file is written in parts of equal size, and the
// first one, which is held till then, last. It is an av.Writer.
//
// A packet without Tag gets one. Packets come in about the order of their
// times, and are written in it. Times begin with 0 and never go back within a track. The same packets and options make the same file, byte by byte.
type FileMuxer struct {
	o     FileOptions
	write func(n int, data []byte) error

	body, tag []byte // of the packet that is being written

	room  int    // bytes before the first tag
	first []byte // part 1, as far as it goes, without the room
	cur   []byte // the part that is being filled
	n     int    // its number; 0: the first one
	size  int64  // of the file so far, with the room
	err   error
	ended bool

	waiting []av.Packet // the newest ones, in the order of their times
	newest  int64
	base    int64
	began   bool
	last    [2]int64 // by track: the time of its last tag
	step    int64    // from one frame to the next, at last
	codecs  [2]av.Codec
	info    amf.Object
	keys    []indexed
	every   int // of so many key frames one is in keys
	seen    int // key frames
	lastKey indexed
	dropped int
}

// indexed is a key frame in the index.
type indexed struct{ at, time int64 }

// NewFileMuxer returns a FileMuxer that hands each part of the file to write, once,
// numbered from 1, the first one last. The data is good until write returns. An error
// of write is that of the muxer from then on.
func NewFileMuxer(write func(n int, data []byte) error, o FileOptions) *FileMuxer {
	o.PartSize = cmp.Or(o.PartSize, DefaultPartSize)
	o.PartSize = max(o.PartSize, minPartSize)
	if o.Duration <= 0 {
		o.Duration = 6 * time.Hour
	}
	// One key frame a second is more than usual; if there are more still, the index is thinner.
	keys := min(maxIndex, 64+int(o.Duration/time.Second)*5/4)
	m := &FileMuxer{o: o, write: write, every: 1}
	m.room = HeaderSize + TagOverhead + maxOther + keys*indexEntry + minFiller
	m.size = int64(m.room)
	return m
}

// A tag waits until all that belongs before it has come: one source or other
// gives sound in groups, behind the pictures that it belongs to.
const (
	maxWait    = 600 // milliseconds
	maxWaiting = 500 // packets
)

// WritePacket adds a packet. Metadata is left out: the file has its own.
func (m *FileMuxer) WritePacket(p av.Packet) error {
	if m.err != nil {
		return m.err
	}
	if p.Kind != av.Video && p.Kind != av.Audio {
		return nil
	}
	at := len(m.waiting)
	for at > 0 && m.waiting[at-1].DTS > p.DTS && m.waiting[at-1].Kind != p.Kind {
		at--
	}
	m.waiting = slices.Insert(m.waiting, at, p)
	m.newest = max(m.newest, p.DTS)
	if len(m.waiting) == 1 {
		m.newest = p.DTS
	}
	for len(m.waiting) > maxWaiting || m.newest-m.waiting[0].DTS > maxWait {
		next := m.waiting[0]
		m.waiting = slices.Delete(m.waiting, 0, 1)
		if m.err = m.add(next); m.err != nil || len(m.waiting) == 0 {
			break
		}
	}
	return m.err
}

// add writes a packet.
func (m *FileMuxer) add(p av.Packet) error {
	tag := p.Tag
	if tag == nil {
		m.body = appendBody(m.body[:0], p)
		tag = m.body
	}
	if len(tag) == 0 || len(tag) > maxTag {
		m.dropped++
		return nil
	}
	if !m.began {
		m.begin(p)
	}
	i := p.Kind - av.Video
	at := max(p.DTS-m.base, 0, m.last[i])
	if p.Config {
		at = max(m.last[0], m.last[1], 0) // of the tag before
	} else {
		if p.Kind == av.Video && m.last[i] >= 0 && at-m.last[i] < 1000 {
			m.step = at - m.last[i]
		}
		m.last[i] = at
	}
	m.describe(i, p, tag)
	if p.Kind == av.Video && p.Key && !p.Config {
		m.index(indexed{m.size, at})
	}
	m.tag = AppendTag(m.tag[:0], TagType(p.Kind), uint32(at), tag)
	return m.append(m.tag)
}

// begin makes time begin with the earliest frame.
func (m *FileMuxer) begin(p av.Packet) {
	m.base, m.began = p.DTS, !p.Config
	for _, q := range m.waiting {
		if !q.Config && (!m.began || q.DTS < m.base) {
			m.base, m.began = q.DTS, true
		}
	}
	m.began = true
	m.last = [2]int64{-1, -1}
}

// appendBody appends the tag body of a packet that came from elsewhere;
// nothing if FLV has no place for it.
func appendBody(dst []byte, p av.Packet) []byte {
	switch p.Codec {
	case av.H264, av.HEVC, av.AV1, av.VP8, av.VP9:
		return AppendVideo(dst, p.Codec, p.Key, p.Config, p.CTS, p.Frame)
	case av.AAC, av.MP3, av.Opus, av.FLAC, av.AC3, av.EAC3, av.Speex, av.PCMA, av.PCMU:
		return AppendAudio(dst, p.Codec, p.Config, p.Frame)
	}
	return dst
}

// describe notes what the metadata says of a track, as it began.
func (m *FileMuxer) describe(i av.Kind, p av.Packet, tag []byte) {
	if m.codecs[i] != av.Unknown {
		return
	}
	set := func(name string, v float64) {
		if v > 0 {
			m.info = append(m.info, amf.Property{Name: name, Value: v})
		}
	}
	if p.Kind == av.Video {
		if !p.Config && p.Codec != av.VP8 { // which has none
			return
		}
		info, _ := av.ParseVideoInfo(p.Codec, p.Frame) // where there is none, the metadata does without
		set("width", float64(info.Width))
		set("height", float64(info.Height))
		set("framerate", info.FPS)
		set("videocodecid", codecID(p.Kind, tag))
	} else {
		info, err := av.ParseAudioInfo(p)
		if err != nil {
			return
		}
		set("audiosamplerate", float64(info.SampleRate))
		set("audiochannels", float64(info.Channels))
		m.info = append(m.info, amf.Property{Name: "stereo", Value: info.Channels == 2})
		set("audiocodecid", codecID(p.Kind, tag))
	}
	m.codecs[i] = p.Codec
}

// codecID is the number of a codec in metadata: that of the legacy headers, or
// the FourCC as a number (Enhanced RTMP v2, "Metadata").
func codecID(kind av.Kind, tag []byte) float64 {
	enhanced := kind == av.Video && tag[0]&0x80 != 0 || kind == av.Audio && tag[0]>>4 == soundEnhanced
	switch {
	case enhanced && len(tag) >= 5 && tag[0]&0x0F == packetConfig:
		return float64(uint32(tag[1])<<24 | uint32(tag[2])<<16 | uint32(tag[3])<<8 | uint32(tag[4]))
	case enhanced:
		return 0
	case kind == av.Video:
		return float64(tag[0] & 0x0F)
	}
	return float64(tag[0] >> 4)
}

// index adds a key frame to the index, which is made thinner when it is full.
func (m *FileMuxer) index(k indexed) {
	m.lastKey = k
	if m.seen++; (m.seen-1)%m.every != 0 {
		return
	}
	m.keys = append(m.keys, k)
	if len(m.keys) <= m.most() {
		return
	}
	m.every *= 2
	half := m.keys[:0]
	for i := 0; i < len(m.keys); i += 2 {
		half = append(half, m.keys[i])
	}
	m.keys = half
}

// most is how many key frames the room has place for.
func (m *FileMuxer) most() int {
	return (m.room - HeaderSize - TagOverhead - maxOther - minFiller) / indexEntry
}

// append adds bytes behind the room.
func (m *FileMuxer) append(data []byte) error {
	m.size += int64(len(data))
	if m.n == 0 {
		n := min(len(data), m.o.PartSize-m.room-len(m.first))
		m.first = append(m.first, data[:n]...)
		if data = data[n:]; len(data) == 0 {
			return nil
		}
		m.n, m.cur = 2, make([]byte, 0, m.o.PartSize)
	}
	for len(data) > 0 {
		n := min(len(data), m.o.PartSize-len(m.cur))
		m.cur = append(m.cur, data[:n]...)
		data = data[n:]
		if len(m.cur) == m.o.PartSize {
			if err := m.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *FileMuxer) flush() error {
	err := m.write(m.n, m.cur)
	m.n++
	m.cur = m.cur[:0]
	return err
}

// ErrEmpty is the error of a file without any frame.
var ErrEmpty = errors.New("flv: there is nothing to put into the file")

// Close writes what is still missing. It does not close anything.
func (m *FileMuxer) Close() (FileInfo, error) {
	if m.err == nil && m.ended {
		m.err = errors.New("flv: closed before")
	}
	m.ended = true
	for _, p := range m.waiting {
		if m.err == nil {
			m.err = m.add(p)
		}
	}
	m.waiting = nil
	if m.err != nil {
		return FileInfo{Dropped: m.dropped}, m.err
	}
	if !m.began || max(m.last[0], m.last[1]) < 0 {
		return FileInfo{Dropped: m.dropped}, ErrEmpty
	}
	end := max(m.last[0]+m.step, m.last[1])
	info := FileInfo{Size: m.size, Duration: time.Duration(end) * time.Millisecond, KeyFrames: m.seen, Dropped: m.dropped}
	if m.err == nil && len(m.cur) > 0 {
		m.err = m.flush()
	}
	if m.err != nil {
		return info, m.err
	}
	hasAudio, hasVideo := m.codecs[1] != av.Unknown || m.last[1] >= 0, m.codecs[0] != av.Unknown || m.last[0] >= 0
	head := AppendHeader(make([]byte, 0, m.room), hasAudio, hasVideo)
	if m.n == 0 {
		// All of it is here: there is no need of a filler.
		exact := len(head) + TagOverhead + len(m.metadata(0, 0, end))
		shift := int64(exact - m.room)
		info.Size = m.size + shift
		head = AppendTag(head, TypeScript, 0, m.metadata(shift, info.Size, end))
	} else {
		head = AppendTag(head, TypeScript, 0, m.metadata(0, m.size, end))
		filler := make([]byte, m.room-len(head)-TagOverhead)
		copy(filler, onFiller)
		head = AppendTag(head, TypeScript, 0, filler)
	}
	// The one copy of the first part that there is.
	all := append(head, m.first...)
	m.first = nil
	for n := 1; len(all) > 0 && m.err == nil; n++ { // without a room it may still be two
		part := all[:min(len(all), m.o.PartSize)]
		m.err = m.write(n, part)
		all = all[len(part):]
	}
	return info, m.err
}

// metadata returns the body of onMetaData, for a file whose tags are shifted.
func (m *FileMuxer) metadata(shift, size, end int64) []byte {
	positions, times := make([]amf.Value, len(m.keys)), make([]amf.Value, len(m.keys))
	for i, k := range m.keys {
		positions[i], times[i] = float64(k.at+shift), float64(k.time)/1000
	}
	o := amf.Object{
		{Name: "duration", Value: float64(end) / 1000},
		{Name: "filesize", Value: float64(size)},
		{Name: "hasVideo", Value: m.codecs[0] != av.Unknown},
		{Name: "hasAudio", Value: m.codecs[1] != av.Unknown},
		{Name: "hasMetadata", Value: true},
		{Name: "lasttimestamp", Value: float64(max(m.last[0], m.last[1], 0)) / 1000},
	}
	o = append(o, m.info...)
	if m.seen > 0 {
		o = append(o,
			amf.Property{Name: "hasKeyframes", Value: true},
			amf.Property{Name: "canSeekToEnd", Value: m.lastKey.time == m.last[0]},
			amf.Property{Name: "lastkeyframetimestamp", Value: float64(m.lastKey.time) / 1000},
			amf.Property{Name: "lastkeyframelocation", Value: float64(m.lastKey.at + shift)},
			amf.Property{Name: "keyframes", Value: amf.Object{{Name: "filepositions", Value: positions}, {Name: "times", Value: times}}},
		)
	}
	return AppendMetadata(nil, o)
}
