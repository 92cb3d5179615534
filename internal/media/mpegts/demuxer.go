package mpegts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"

	"weir/internal/media/av"
)

// Limits of a Demuxer.
const (
	maxVideo   = 8 << 20  // bytes of a video PES packet
	maxAudio   = 1 << 20  // bytes of an audio PES packet
	maxSection = 1024 + 3 // 2.4.4.1
	maxJunk    = 64 << 10 // bytes before packets are found
)

// ErrSync is the error of data that is not a transport stream, or no longer.
var ErrSync = errors.New("no transport stream packets")

// Demuxer reads packets from a transport stream: the first H.264 or HEVC and
// the first AAC, MP3 or Opus track of the first program. It is an av.Reader. Packets
// have no Tag; a codec configuration is made of the parameter sets or ADTS
// headers and comes before the first frame and whenever it changes. DTS counts
// milliseconds as the stream has them, going on where its 33 bits wrap.
//
// What is damaged is left out: a PES packet with lost or too many bytes, a
// frame before its configuration. Bytes between packets are skipped.
type Demuxer struct {
	r      *bufio.Reader
	pat    sectionReader
	pmt    sectionReader
	pmtPID int // -1: not known yet
	tracks []*demuxTrack
	queue  []av.Packet
	err    error
	clock  int64 // newest time, unwrapped
	any    bool  // clock is set
}

// demuxTrack is a track that the program map table lists.
type demuxTrack struct {
	pid      int
	codec    av.Codec
	video    bool
	cc       int    // -1: none yet
	pes      []byte // the PES packet so far
	open     bool   // pes is being filled
	key      bool   // random_access_indicator
	config   []byte // last sent
	channels int    // Opus
	rest     []byte // audio: the start of a frame that goes on in the next PES packet
	pts      int64  // of that frame
}

// NewDemuxer returns a Demuxer that reads from r.
func NewDemuxer(r io.Reader) *Demuxer {
	return &Demuxer{r: bufio.NewReaderSize(r, 64*packetSize), pmtPID: -1}
}

// Continue goes on with r, the next segment of the same stream, once the one
// before has ended with io.EOF. Tracks and configurations stay known, so that
// a configuration comes again only if it changed, and times go on where they
// wrap. Each segment begins with its tables and whole frames.
func (d *Demuxer) Continue(r io.Reader) {
	d.r.Reset(r)
	d.err, d.pat, d.pmt = nil, sectionReader{}, sectionReader{}
	for _, t := range d.tracks {
		t.cc, t.open, t.rest = -1, false, nil
	}
}

// ReadPacket returns the next packet. It returns io.EOF after the last whole
// transport packet and ErrSync for what is not a transport stream.
func (d *Demuxer) ReadPacket() (av.Packet, error) {
	for len(d.queue) == 0 {
		if d.err != nil {
			return av.Packet{}, d.err
		}
		if d.err = d.sync(); d.err == nil {
			b, _ := d.r.Peek(packetSize)
			d.packet(b)
			d.r.Discard(packetSize)
			continue
		}
		for _, t := range d.tracks {
			d.endPES(t)
		}
	}
	p := d.queue[0]
	d.queue = d.queue[1:]
	return p, nil
}

// sync moves to the next packet: a sync byte that another one follows, or the
// end of the data.
func (d *Demuxer) sync() error {
	for junk := 0; junk <= maxJunk; {
		b, err := d.r.Peek(packetSize + 1)
		if len(b) < packetSize {
			if err == io.EOF || err == nil {
				return io.EOF
			}
			return fmt.Errorf("read transport stream: %w", err)
		}
		if b[0] == syncByte && (len(b) == packetSize || b[packetSize] == syncByte) {
			return nil
		}
		n := bytes.IndexByte(b[1:packetSize], syncByte) + 1
		if n == 0 {
			n = packetSize
		}
		d.r.Discard(n)
		junk += n
	}
	return ErrSync
}

// packet takes one transport packet (2.4.3.2).
func (d *Demuxer) packet(b []byte) {
	pid := int(b[1]&0x1F)<<8 | int(b[2])
	start := b[1]&0x40 != 0
	if b[1]&0x80 != 0 || b[3]&0xC0 != 0 || b[3]&0x10 == 0 {
		return // damaged, scrambled or without payload
	}
	cc := int(b[3] & 15)
	payload, random, discontinuity := b[4:], false, false
	if b[3]&0x20 != 0 {
		n := int(payload[0])
		if n >= len(payload)-1 {
			return
		}
		if n > 0 {
			random, discontinuity = payload[1]&0x40 != 0, payload[1]&0x80 != 0
		}
		payload = payload[1+n:]
	}
	switch pid {
	case pidPAT:
		if s := d.pat.read(payload, start); s != nil {
			d.readPAT(s)
		}
		return
	case d.pmtPID:
		if s := d.pmt.read(payload, start); s != nil {
			d.readPMT(s)
		}
		return
	}
	for _, t := range d.tracks {
		if t.pid != pid {
			continue
		}
		if t.cc == cc && !discontinuity {
			return // sent twice
		}
		if t.cc >= 0 && cc != (t.cc+1)&15 && !discontinuity {
			t.open, t.rest = false, nil // bytes were lost
		}
		t.cc = cc
		if start {
			d.endPES(t)
			t.pes, t.open, t.key = t.pes[:0], true, random
		}
		d.fill(t, payload)
	}
}

// fill adds to the PES packet that is open and takes it when it is complete.
func (d *Demuxer) fill(t *demuxTrack, payload []byte) {
	if !t.open {
		return
	}
	limit := maxAudio
	if t.video {
		limit = maxVideo
	}
	if len(t.pes)+len(payload) > limit {
		t.open = false
		return
	}
	t.pes = append(t.pes, payload...)
	if len(t.pes) >= 6 {
		if n := int(t.pes[4])<<8 | int(t.pes[5]); n > 0 && len(t.pes) >= 6+n {
			t.pes = t.pes[:6+n]
			d.endPES(t)
		}
	}
}

// sectionReader puts sections together.
type sectionReader struct{ buf []byte }

// read takes the payload of a packet. It returns a section when it is
// complete and its CRC right; it is good until the next read. A packet may begin
// one section, no more.
func (s *sectionReader) read(payload []byte, start bool) []byte {
	if start {
		pointer := int(payload[0])
		if 1+pointer > len(payload) {
			return nil
		}
		payload, s.buf = payload[1+pointer:], s.buf[:0]
	} else if len(s.buf) == 0 {
		return nil
	}
	if len(s.buf)+len(payload) > maxSection+packetSize {
		s.buf = s.buf[:0]
		return nil
	}
	s.buf = append(s.buf, payload...)
	if len(s.buf) < 3 {
		return nil
	}
	n := 3 + (int(s.buf[1]&0x0F)<<8 | int(s.buf[2]))
	if n > len(s.buf) {
		return nil
	}
	section := s.buf[:n]
	s.buf = s.buf[:0]
	if n < 12 || section[5]&1 == 0 || crc32(section) != 0 {
		return nil // too short, not valid yet, or damaged
	}
	return section
}

func (d *Demuxer) readPAT(s []byte) {
	if s[0] != tablePAT {
		return
	}
	for b := s[8 : len(s)-4]; len(b) >= 4; b = b[4:] {
		if b[0] == 0 && b[1] == 0 {
			continue // the network's own
		}
		if pid := int(b[2]&0x1F)<<8 | int(b[3]); pid != d.pmtPID && pid != pidPAT {
			d.pmtPID, d.pmt = pid, sectionReader{}
		}
		return
	}
}

func (d *Demuxer) readPMT(s []byte) {
	if s[0] != tablePMT || len(s) < 12+4 {
		return
	}
	b := s[12 : len(s)-4]
	if n := int(s[10]&0x0F)<<8 | int(s[11]); n <= len(b) {
		b = b[n:]
	}
	var tracks []*demuxTrack
	for haveVideo, haveAudio := false, false; len(b) >= 5; {
		t := &demuxTrack{pid: int(b[1]&0x1F)<<8 | int(b[2]), codec: codecOf(b[0]), cc: -1}
		t.video = t.codec == av.H264 || t.codec == av.HEVC
		n := min(5+(int(b[3]&0x0F)<<8|int(b[4])), len(b))
		if b[0] == typePrivate {
			if t.channels = opusChannels(b[5:n]); t.channels > 0 {
				t.codec = av.Opus
			}
		}
		b = b[n:]
		if t.codec == av.Unknown || t.video && haveVideo || !t.video && haveAudio {
			continue
		}
		haveVideo, haveAudio = haveVideo || t.video, haveAudio || !t.video
		for _, old := range d.tracks {
			if old.pid == t.pid && old.codec == t.codec {
				old.channels = t.channels
				t = old
			}
		}
		tracks = append(tracks, t)
	}
	for _, old := range d.tracks {
		gone := true
		for _, t := range tracks {
			gone = gone && t != old
		}
		if gone {
			d.endPES(old)
		}
	}
	d.tracks = tracks
}

// endPES takes the PES packet that is open (2.4.3.6).
func (d *Demuxer) endPES(t *demuxTrack) {
	b := t.pes
	if !t.open || len(b) < 9 {
		t.open = false
		return
	}
	t.open = false
	flags, n := b[7], 9+int(b[8])
	if b[0] != 0 || b[1] != 0 || b[2] != 1 || b[6]&0xC0 != 0x80 || n > len(b) || flags&0x80 == 0 || n < 14 {
		return // a frame without time is of no use
	}
	pts := d.unwrap(readTime(b[9:]))
	dts := pts
	if flags&0x40 != 0 && n >= 19 {
		dts = d.unwrap(readTime(b[14:]))
	}
	data := b[n:]
	switch {
	case t.video:
		d.readAccessUnit(t, data, pts, dts)
	case t.codec == av.Opus:
		d.readOpus(t, data, pts)
	case t.codec == av.AAC:
		d.readAudio(t, data, pts, parseADTS)
	default:
		d.readAudio(t, data, pts, parseMP3)
	}
}

// readTime reads what appendTime wrote.
func readTime(b []byte) int64 {
	return int64(b[0]>>1&7)<<30 | int64(b[1])<<22 | int64(b[2]>>1)<<15 | int64(b[3])<<7 | int64(b[4]>>1)
}

// unwrap returns the time next to the newest one that has t's low 33 bits.
func (d *Demuxer) unwrap(t int64) int64 {
	if d.any {
		t = d.clock + (t-d.clock)<<(64-33)>>(64-33)
	}
	d.clock, d.any = t, true
	return t
}

// milliseconds rounds a time to the nearest millisecond.
func milliseconds(t int64) int64 {
	t += Clock / 2
	if t < 0 {
		t -= Clock - 1
	}
	return t / Clock
}

// readAccessUnit makes a packet of an access unit in byte stream format (H.264
// annex B) and one of its parameter sets if they are new.
func (d *Demuxer) readAccessUnit(t *demuxTrack, data []byte, pts, dts int64) {
	frame := make([]byte, 0, len(data)+16)
	var vps, sps, pps [][]byte
	units := 0
	for u := range byteStreamUnits(data) {
		if units++; units > av.MaxNALUs {
			return
		}
		if len(u) < 2 {
			continue // shorter than any header and data
		}
		typ := av.H264Type(u)
		if t.codec == av.HEVC {
			typ = av.HEVCType(u)
		}
		switch {
		case t.codec == av.H264 && typ == av.H264AUD, t.codec == av.HEVC && typ == av.HEVCAUD:
		case t.codec == av.H264 && typ == av.H264SPS, t.codec == av.HEVC && typ == av.HEVCSPS:
			sps = append(sps, u)
		case t.codec == av.H264 && typ == av.H264PPS, t.codec == av.HEVC && typ == av.HEVCPPS:
			pps = append(pps, u)
		case t.codec == av.HEVC && typ == av.HEVCVPS:
			vps = append(vps, u)
		default:
			n := len(u)
			frame = append(frame, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
			frame = append(frame, u...)
		}
	}
	p := av.Packet{Kind: av.Video, Codec: t.codec, DTS: milliseconds(dts)}
	p.CTS = int32(milliseconds(pts) - p.DTS)
	if len(sps) > 0 && len(pps) > 0 {
		d.configure(t, p, videoConfig(t.codec, vps, sps, pps))
	}
	if len(frame) == 0 || t.config == nil {
		return
	}
	key, err := av.RandomAccess(t.codec, frame, 4, t.key)
	if err != nil {
		return
	}
	p.Key, p.Frame = key, frame
	d.queue = append(d.queue, p)
}

// configure sends a codec configuration, which p has the time of, if it is new.
func (d *Demuxer) configure(t *demuxTrack, p av.Packet, config []byte) {
	if config == nil || bytes.Equal(config, t.config) {
		return
	}
	t.config = config
	p.Config, p.CTS, p.Frame = true, 0, config
	d.queue = append(d.queue, p)
}

// videoConfig makes a configuration record, or nil of sets that make none.
func videoConfig(codec av.Codec, vps, sps, pps [][]byte) []byte {
	if codec == av.H264 {
		b := (&av.AVCConfig{LengthSize: 4, SPS: sps, PPS: pps}).Append(nil)
		if _, err := av.ParseAVCConfig(b); err != nil {
			return nil
		}
		return b
	}
	c := av.HEVCConfig{LengthSize: 4, VPS: vps, SPS: sps, PPS: pps}
	info, ok := parseHEVCSPS(sps[0])
	if !ok {
		return nil
	}
	// profile_tier_level stands right behind the first byte of the SPS (H.265, 7.3.2.2).
	copy(c.General[:], unescape(sps[0], 15)[3:])
	c.ChromaFormat, c.BitDepth = uint8(info.ChromaFormatIdc), uint8(info.BitDepthLumaMinus8)+8
	b := c.Append(nil)
	if _, err := av.ParseHEVCConfig(b); err != nil {
		return nil
	}
	return b
}

func parseHEVCSPS(b []byte) (s h265.SPS, ok bool) {
	// The parser comes from elsewhere and reads what a stranger sent.
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return s, s.Unmarshal(b) == nil
}

// unescape returns the first n bytes of a NAL unit without its emulation
// prevention bytes; missing ones are 0.
func unescape(u []byte, n int) []byte {
	out, zeros := make([]byte, 0, n), 0
	for _, c := range u {
		if len(out) == n {
			break
		}
		if zeros >= 2 && c == 3 {
			zeros = 0
			continue
		}
		if c == 0 {
			zeros++
		} else {
			zeros = 0
		}
		out = append(out, c)
	}
	return out[:n]
}

// byteStreamUnits yields the NAL units between start codes, as views of b.
func byteStreamUnits(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		at := bytes.Index(b, startCode[1:])
		for at >= 0 {
			b = b[at+3:]
			at = bytes.Index(b, startCode[1:])
			u := b
			if at >= 0 {
				u = b[:at]
			}
			// The zero before a start code is part of it, more are padding.
			if u = bytes.TrimRight(u, "\x00"); len(u) > 0 && !yield(u) {
				return
			}
		}
	}
}
