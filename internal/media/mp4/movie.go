package mp4

import (
	"time"

	"github.com/Eyevinn/mp4ff/mp4"
)

// epoch is where MP4 counts seconds from.
var epoch = time.Date(1904, 1, 1, 0, 0, 0, 0, time.UTC)

// movie returns the index. Offsets are made from the tracks' base when it is encoded.
func (m *Muxer) movie(tracks []*track) *mp4.MoovBox {
	created := uint64(0)
	if m.o.Created.After(epoch) {
		created = uint64(m.o.Created.Unix() - epoch.Unix())
	}
	start := tracks[0].begins()
	for _, t := range tracks {
		start = min(start, t.begins())
	}
	moov := mp4.NewMoovBox()
	mvhd := mp4.CreateMvhd()
	mvhd.Timescale, mvhd.NextTrackID = movieScale, uint32(len(tracks)+1)
	mvhd.CreationTime, mvhd.ModificationTime = created, created
	moov.AddChild(mvhd)
	for i, t := range tracks {
		late := t.begins() - start
		plays := roundDiv(t.plays()*movieScale, t.scale)
		trak := mp4.CreateEmptyTrak(uint32(i+1), uint32(t.scale), map[bool]string{true: "video", false: "audio"}[t.video], "und")
		trak.Children = nil
		tkhd := trak.Tkhd
		tkhd.CreationTime, tkhd.ModificationTime = created, created
		tkhd.Duration = uint64(late + plays)
		if t.video {
			t.turn(tkhd, m.o.Rotation)
		} else {
			tkhd.AlternateGroup = 1
		}
		mvhd.Duration = max(mvhd.Duration, tkhd.Duration)
		trak.AddChild(tkhd)
		if edits := t.edits(late, plays); edits != nil {
			edts := &mp4.EdtsBox{}
			edts.AddChild(&mp4.ElstBox{Entries: edits})
			trak.AddChild(edts)
		}
		if trak.Mdia.Mdhd.Duration = uint64(t.total()); t.total() >= 1<<32 {
			trak.Mdia.Mdhd.Version = 1
		}
		trak.Mdia.Mdhd.CreationTime, trak.Mdia.Mdhd.ModificationTime = created, created
		minf := trak.Mdia.Minf
		minf.Children = minf.Children[:len(minf.Children)-1] // all but the empty table
		minf.AddChild(t.table())
		trak.AddChild(trak.Mdia)
		moov.AddChild(trak)
	}
	return moov
}

// turn sets the picture's size and how it is turned (ISO/IEC 14496-12, 8.3.2).
func (t *track) turn(tkhd *mp4.TkhdBox, rotation int) {
	w, h := int32(t.entries[0].width)<<16, int32(t.entries[0].height)<<16
	tkhd.Width, tkhd.Height = mp4.Fixed32(w), mp4.Fixed32(h)
	const one = 1 << 16
	switch rotation {
	case 90:
		tkhd.Matrix = [9]int32{0, one, 0, -one, 0, 0, h, 0, 1 << 30}
	case 180:
		tkhd.Matrix = [9]int32{-one, 0, 0, 0, -one, 0, w, h, 1 << 30}
	case 270:
		tkhd.Matrix = [9]int32{0, -one, 0, one, 0, 0, 0, w, 1 << 30}
	}
}

// shift is what is added to every offset, so that the first picture is not
// before the media's beginning.
func (t *track) shift() int64 {
	if !t.video {
		return 0
	}
	return max(t.first-t.shown, 0)
}

// edits returns the edit list (8.6.6): nothing for so long as the track is
// late, then the media from what is shown first to what is shown last. There is none if that is
// what a player does anyway.
func (t *track) edits(late, plays int64) (list []mp4.ElstEntry) {
	media := int64(0)
	if t.video {
		media = t.shown - t.first + t.shift()
	}
	if late == 0 && media == 0 {
		return nil
	}
	if late > 0 {
		list = append(list, mp4.ElstEntry{SegmentDuration: uint64(late), MediaTime: -1, MediaRateInteger: 1})
	}
	return append(list, mp4.ElstEntry{SegmentDuration: uint64(plays), MediaTime: media, MediaRateInteger: 1})
}

// table returns the sample table (8.5).
func (t *track) table() *mp4.StblBox {
	stbl := mp4.NewStblBox()
	stsd := mp4.NewStsdBox()
	for _, e := range t.entries {
		stsd.AddChild(e.box)
	}
	stbl.AddChild(stsd)

	// The last sample lasts as the one before it, or as its codec says.
	nominal := uint32(min(max(t.nominal, 1), maxDelta))
	more := uint64(1)
	if last := t.deltas.last(); last != nil && last.value == nominal {
		more = 0
	}
	entries := uint64(t.deltas.n) + more
	stbl.AddChild(&table{name: "stts", size: 4 + 8*entries, rows: func(put func(uint32)) {
		put(uint32(entries))
		left := t.deltas.n
		for r := range t.deltas.all() {
			left--
			if left == 0 && more == 0 {
				r.count++
			}
			put(r.count)
			put(r.value)
		}
		if more == 1 {
			put(1)
			put(nominal)
		}
	}})
	if t.video {
		t.videoTables(stbl)
	}

	// Of chunks, those that have as many samples and the same entry as the one before say nothing.
	rows := uint64(0)
	var before chunk
	for c := range t.chunks.all() {
		if c.samples != before.samples || c.entry != before.entry {
			rows++
		}
		before = c
	}
	stbl.AddChild(&table{name: "stsc", size: 4 + 12*rows, rows: func(put func(uint32)) {
		put(uint32(rows))
		n := uint32(0)
		var before chunk
		for c := range t.chunks.all() {
			n++
			if c.samples != before.samples || c.entry != before.entry {
				put(n)
				put(c.samples)
				put(c.entry)
			}
			before = c
		}
	}})
	stbl.AddChild(&table{name: "stsz", size: 8 + 4*uint64(t.sizes.n), rows: func(put func(uint32)) {
		put(0)
		put(uint32(t.sizes.n))
		for s := range t.sizes.all() {
			put(s)
		}
	}})
	stbl.AddChild(&table{name: "co64", size: 4 + 8*uint64(t.chunks.n), rows: func(put func(uint32)) {
		put(uint32(t.chunks.n))
		for c := range t.chunks.all() {
			at := uint64(t.base + c.at)
			put(uint32(at >> 32))
			put(uint32(at))
		}
	}})
	return stbl
}

// videoTables adds what only video has: offsets of presentation and key frames.
func (t *track) videoTables(stbl *mp4.StblBox) {
	shift := int32(t.shift())
	if r := t.offsets.last(); t.offsets.n > 1 || int32(r.value)+shift != 0 {
		version := byte(0)
		for r := range t.offsets.all() {
			if int32(r.value)+shift < 0 {
				version = 1
			}
		}
		stbl.AddChild(&table{name: "ctts", version: version, size: 4 + 8*uint64(t.offsets.n), rows: func(put func(uint32)) {
			put(uint32(t.offsets.n))
			for r := range t.offsets.all() {
				put(r.count)
				put(uint32(int32(r.value) + shift))
			}
		}})
	}
	stbl.AddChild(&table{name: "stss", size: 4 + 4*uint64(t.keys.n), rows: func(put func(uint32)) {
		put(uint32(t.keys.n))
		for k := range t.keys.all() {
			put(k)
		}
	}})
}
