// Package mp4 writes MP4 files (ISO/IEC 14496-12) of packets.
//
// A player wants the index of the file (the box moov) in front of the media
// (mdat), but the index is complete only after the last frame. So a Muxer writes
// the file in parts of equal size, as an upload in parts takes them, and the
// first ones last: it holds the beginning of the media until it has seen enough to tell how long the
// index may become, leaves as much room before the media, sends
// every part that it fills, and in the end puts the index into the room and a box
// of nothing (free) behind it.
//
//	part 1                      part 2        …      part n
//	+------+------+------+--------------+-------------+-------+
//	| ftyp | moov | free | mdat …       | …           | …     |
//	+------+------+------+--------------+-------------+-------+
//	  written at the end                  written as they fill
//
// A file that is no longer than a part has no room to spare. Media is read once
// and never held but for two parts; of a frame there remain about 20 bytes for the index.
package mp4

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/Eyevinn/mp4ff/mp4"

	"weir/internal/media/av"
)

// DefaultPartSize keeps a Muxer of a day's recording below 100 MB of memory
// and the parts of one of 78 GiB below 10000.
const DefaultPartSize = 8 << 20

const (
	minPartSize = 64 << 10
	movieScale  = 1000 // units a second of the movie and of video: those of packets

	// What the index of one second takes at 30 frames a second or so: less is never planned for.
	leastIndexRate  = 1000
	defaultDuration = 6 * time.Hour
)

// Options of a Muxer. The zero value is good.
type Options struct {
	// PartSize is the size of every part but the last one, DefaultPartSize if 0.
	PartSize int

	// Duration is how long the file will be, as far as that is known; the
	// room for the index is made by it.
	Duration time.Duration

	// Rotation is how the picture is to be turned by the player, clockwise: 0, 90, 180 or 270.
	Rotation int

	// Created is written into the file.
	Created time.Time
}

// Info is what a file holds.
type Info struct {
	Size     int64
	Duration time.Duration
	InFront  bool // the index is in front of the media
	Tracks   []Track

	// Dropped counts packets that are not in the file: before the first key
	// frame or configuration, or of a codec that MP4 has no place for.
	Dropped int
}

// Track is one of a file's tracks, as it began.
type Track struct {
	Codec         av.Codec
	Samples       int
	Bytes         int64
	Duration      time.Duration
	Width, Height int     // video
	FPS           float64 // video: as the codec says it, or the average
	SampleRate    int     // audio
	Channels      int     // audio
	Entries       int     // sample entries: 1 and one for each change of the configuration
}

// Muxer writes a file. It is an av.Writer. The same packets and options make the
// same file, byte by byte, so that a Muxer that starts again can leave out the parts that
// were written before.
type Muxer struct {
	o      Options
	out    parts
	tracks [2]*track // video, audio
	n      int       // dropped
	ended  bool
	err    error
}

// NewMuxer returns a Muxer that hands each part of the file to write, once,
// numbered from 1, in no order. The data is good until write returns. An error of
// write is that of the Muxer from then on.
func NewMuxer(write func(n int, data []byte) error, o Options) *Muxer {
	o.PartSize = cmp.Or(o.PartSize, DefaultPartSize)
	o.PartSize = max(o.PartSize, minPartSize)
	m := &Muxer{o: o}
	m.out = parts{size: o.PartSize, write: write}
	return m
}

// Supports says whether packets of that codec can be put into a file.
func Supports(c av.Codec) bool {
	switch c {
	case av.H264, av.HEVC, av.AV1, av.VP9, av.AAC, av.MP3, av.Opus, av.FLAC:
		return true
	}
	return false
}

// WritePacket adds a packet. Packets come in the order of their DTS, as well
// as that is known: each track's time goes on by at least one unit whatever
// they say. Metadata, and what cannot be played, is left out. After a Break sound
// follows its packets' times anew.
func (m *Muxer) WritePacket(p av.Packet) error {
	if m.err != nil {
		return m.err
	}
	if p.Kind != av.Video && p.Kind != av.Audio {
		return nil
	}
	if !Supports(p.Codec) {
		m.n++
		return nil
	}
	if p.Break {
		for _, t := range m.tracks {
			if t != nil {
				t.broken = true
			}
		}
	}
	i := p.Kind - av.Video
	if m.tracks[i] == nil {
		m.tracks[i] = &track{video: p.Kind == av.Video}
	}
	ok, err := m.tracks[i].add(m, p)
	if err != nil {
		m.err = err
		return err
	}
	if !ok && !p.Config {
		m.n++
	}
	return nil
}

// media writes data of the media and returns where it is, from the beginning of the media on.
func (m *Muxer) media(data []byte) (at int64, err error) {
	at = m.out.media
	if m.out.room == 0 && m.out.media+int64(len(data)) > int64(m.o.PartSize) {
		m.out.settle(m.room())
	}
	return at, m.out.append(data)
}

// room returns how much is left free before the media: for the index as long as
// it will be if the rest is like what came so far, and half of that.
func (m *Muxer) room() int64 {
	index, seconds := 0.0, 0.1
	for _, t := range m.tracks {
		if t != nil {
			index += float64(t.indexSize())
			seconds = max(seconds, float64(t.last-t.first)/float64(t.scaleOr()))
		}
	}
	total := m.o.Duration.Seconds()
	if total <= 0 {
		total = defaultDuration.Seconds()
	}
	total = max(total, seconds)
	return int64(64<<10 + total*max(index/seconds*1.5, leastIndexRate))
}

// ErrEmpty is the error of a file without any frame.
var ErrEmpty = errors.New("mp4: there is nothing to put into the file")

// Close writes what is still missing. It does not close anything.
func (m *Muxer) Close() (Info, error) {
	if m.err == nil && m.ended {
		m.err = errors.New("mp4: closed before")
	}
	m.ended = true
	info := Info{Dropped: m.n}
	for _, t := range m.tracks {
		if t != nil && m.err == nil {
			m.err = t.flush(m)
		}
	}
	if m.err != nil {
		return info, m.err
	}
	var tracks []*track
	for _, t := range m.tracks {
		if t != nil && t.samples > 0 {
			tracks = append(tracks, t)
		}
	}
	if len(tracks) == 0 {
		return info, ErrEmpty
	}
	info.Size, info.InFront, m.err = m.finish(tracks)
	for _, t := range tracks {
		info.Tracks = append(info.Tracks, t.describe())
		info.Duration = max(info.Duration, info.Tracks[len(info.Tracks)-1].Duration)
	}
	if m.err != nil {
		return info, m.err
	}
	return info, nil
}

const mdatHeader = 16 // with a size of 64 bits

// finish writes the index, and the parts at the beginning.
func (m *Muxer) finish(tracks []*track) (size int64, inFront bool, err error) {
	ftyp := mp4.NewFtyp("isom", 0x200, []string{"isom", "iso2", "mp41"})
	head := int64(ftyp.Size())
	moov := m.movie(tracks)
	media := m.out.media

	// A short file: nothing is out yet, and there is no room to fill.
	if m.out.room == 0 {
		data := m.out.held
		for _, t := range tracks {
			t.base = head + int64(moov.Size()) + mdatHeader // which does not change its size
		}
		m.out.begin()
		w := &m.out
		if err := encode(w, ftyp, moov); err != nil {
			return 0, false, err
		}
		if err := w.append(mdat(media)); err != nil {
			return 0, false, err
		}
		if err := w.append(data); err != nil {
			return 0, false, err
		}
		return head + int64(moov.Size()) + mdatHeader + media, true, w.end()
	}

	for _, t := range tracks {
		t.base = m.out.room
	}
	size = m.out.room + media
	free := m.out.room - mdatHeader - head - int64(moov.Size())
	inFront = free == 0 || free >= 8
	if !inFront {
		// There is more than was to be expected: the index goes behind the media.
		size += int64(moov.Size())
		free = m.out.room - mdatHeader - head
		if err := encode(&m.out, moov); err != nil {
			return 0, false, err
		}
	}
	if err := m.out.end(); err != nil {
		return 0, false, err
	}
	held := m.out.begin()
	w := &m.out
	err = encode(w, ftyp)
	if err == nil && inFront {
		err = encode(w, moov)
	}
	if err == nil && free > 0 {
		err = w.append(binary.BigEndian.AppendUint32(nil, uint32(free)))
		if err == nil {
			err = w.append([]byte("free"))
		}
		if err == nil {
			err = w.zeros(free - 8)
		}
	}
	if err == nil {
		err = w.append(mdat(media))
	}
	if err == nil {
		err = w.append(held)
	}
	if err != nil {
		return 0, false, err
	}
	return size, inFront, w.end()
}

// mdat returns the header of the box of so much media.
func mdat(media int64) []byte {
	b := append(make([]byte, 0, mdatHeader), 0, 0, 0, 1, 'm', 'd', 'a', 't')
	return binary.BigEndian.AppendUint64(b, uint64(mdatHeader+media))
}

// encode writes boxes.
func encode(w *parts, boxes ...mp4.Box) error {
	for _, b := range boxes {
		if err := b.Encode(w); err != nil {
			return fmt.Errorf("mp4: %w", err)
		}
	}
	return nil
}
