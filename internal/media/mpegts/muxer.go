package mpegts

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"weir/internal/media/av"
)

const (
	// groupTime is how much audio, in milliseconds, shares a PES packet at most, and
	// groupGap how far apart its frames may be: a player counts samples to find
	// the times of all but the first.
	groupTime   = 100
	groupGap    = 60
	groupFrames = 64
	groupSize   = 32 << 10

	// pcrDelay is how long before its decoding time the first byte of a video
	// frame arrives at the decoder. It covers the audio that waits for its group.
	pcrDelay = 400 * Clock
	// pcrTime is the longest time from a PCR to the next (2.7.2). Over a longer step
	// than pcrGap there is nothing to be clocked.
	pcrTime = 100 * Clock
	pcrGap  = 10_000 * Clock
	// videoLate is how far behind audio video may be without being taken for away.
	videoLate = 1000 * Clock

	// maxReorder is the longest composition offset, in milliseconds, that is
	// believed. No encoder holds frames back for so long; forged ones do.
	maxReorder = 10_000
)

// ErrFrame is the error of a packet that cannot be put into a transport stream
// and was left out: a broken frame, one without codec configuration, one too
// long for its format. The Muxer is as it was before.
var ErrFrame = errors.New("frame does not fit a transport stream")

// Muxer makes transport stream segments of packets. It writes H.264 and HEVC
// with access unit delimiters and with the parameter sets before each key
// frame, AAC as ADTS, MP3 as it is, Opus as "Opus in MPEG-2 TS" has it.
//
// A segment begins with PAT and PMT and its tables list the tracks that have
// had frames, so that it can be played on its own; continuity counters run on
// from segment to segment. Within a track decoding times rise strictly, and no
// frame is to be shown before it is decoded.
//
// A Muxer is used by one goroutine.
type Muxer struct {
	base         int64
	video, audio muxTrack
	avc          *av.AVCConfig
	hevc         *av.HEVCConfig
	aac          *av.AACConfig
	opus         opusTrack
	early        int64 // what decoding times are lowered by so that no CTS is negative

	sets []byte // parameter sets of the configuration, with start codes

	buf      []byte // the segment
	pts      int64  // of its first frame, before wrapping
	lastSize int    // of the segment before
	tablesCC uint8  // each segment has one packet of each table
	version  uint8  // of the program map table
	group    group

	pcr    int64  // the newest, before wrapping
	pcrPID uint16 // of the newest; 0: there is none since Break

	parts [][]byte // scratch: the pieces of a PES packet
	head  [19]byte // scratch: its header
	units [][]byte // scratch: the NAL units of a frame
}

// NewMuxer returns a Muxer that adds base, in 1/90000 s, to all times.
func NewMuxer(base int64) *Muxer {
	return &Muxer{
		base:  base,
		video: muxTrack{pid: pidVideo, stream: streamVideo},
		audio: muxTrack{pid: pidAudio, stream: streamAudio},
	}
}

// muxTrack is one of the tracks of the program.
type muxTrack struct {
	pid    uint16
	stream uint8    // stream_id
	listed av.Codec // as the tables have it; Unknown: not listed
	cc     uint8
	anew   bool  // the next packet says that cc begins anew
	last   int64 // newest DTS
	any    bool  // last is set
}

// group is the audio frames that wait to go into one PES packet.
type group struct {
	parts   [][]byte // ADTS header and frame in turn
	headers [groupFrames * 7]byte
	frames  int
	size    int
	pts     int64
	first   int64 // ms
	last    int64 // ms
}

// WritePacket adds a frame to the segment, or takes note of a codec
// configuration for the frames that follow. Data packets are ignored. Frames
// of one codec follow another's only after Break. The packet's bytes may be
// used until the next Cut, but are not changed.
//
// The error is ErrFrame, wrapped, when the packet was left out.
func (m *Muxer) WritePacket(p av.Packet) error {
	switch {
	case p.Kind == av.Data:
		return nil
	case !Supports(p.Codec):
		return fmt.Errorf("%w: codec %v", ErrFrame, p.Codec)
	case p.Config:
		return m.configure(p)
	case p.Kind == av.Video:
		return m.writeVideo(p)
	default:
		return m.writeAudio(p)
	}
}

// Cut ends the segment. It returns its bytes, which are the caller's from now
// on, and the PTS of its first frame as it stands in the segment, though not
// wrapped. The bytes are nil when the segment has no frame.
func (m *Muxer) Cut() (segment []byte, pts int64) {
	m.flushAudio()
	segment, m.buf = m.buf, nil
	if segment != nil {
		m.lastSize = len(segment)
		m.tablesCC++
	}
	return segment, m.pts
}

// Break is called after Cut where the encoder or the time line changes: the
// tracks in the tables are forgotten until they have frames again.
func (m *Muxer) Break() {
	m.video.listed, m.audio.listed = av.Unknown, av.Unknown
	m.early, m.pcrPID = 0, 0
}

// Anew is called after NewMuxer where the segments follow those of another Muxer:
// each track says that it begins anew (discontinuity_indicator), so that nobody
// takes its first packets for a loss.
func (m *Muxer) Anew() { m.video.anew, m.audio.anew = true, true }

// Size returns the length of the segment so far, without the audio that waits
// to be written.
func (m *Muxer) Size() int { return len(m.buf) }

// Tracks returns the codecs of the tracks that the segment's tables list,
// Unknown for a track that is not there.
func (m *Muxer) Tracks() (video, audio av.Codec) { return m.video.listed, m.audio.listed }

func (m *Muxer) configure(p av.Packet) (err error) {
	var sets [][]byte
	switch p.Codec {
	case av.H264:
		var c *av.AVCConfig
		if c, err = av.ParseAVCConfig(p.Frame); err == nil {
			m.avc, sets = c, slices.Concat(c.SPS, c.PPS)
		}
	case av.HEVC:
		var c *av.HEVCConfig
		if c, err = av.ParseHEVCConfig(p.Frame); err == nil {
			m.hevc, sets = c, slices.Concat(c.VPS, c.SPS, c.PPS)
		}
	case av.AAC:
		var c *av.AACConfig
		if c, err = av.ParseAACConfig(p.Frame); err == nil {
			m.aac = c
		}
	case av.Opus:
		err = m.opus.configure(p.Frame)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if p.Kind == av.Video {
		m.sets = nil // the old ones may still be in use as views
		for _, s := range sets {
			m.sets = append(append(m.sets, startCode...), s...)
		}
	}
	return nil
}

var (
	startCode = []byte{0, 0, 0, 1}
	// Access unit delimiters for any kind of picture (H.264 7.3.2.4, H.265 7.3.2.5).
	audH264 = []byte{0, 0, 0, 1, av.H264AUD, 0xF0}
	audHEVC = []byte{0, 0, 0, 1, av.HEVCAUD << 1, 0x01, 0x50}
)

func (m *Muxer) writeVideo(p av.Packet) error {
	var lengthSize int
	switch {
	case p.Codec == av.H264 && m.avc != nil:
		lengthSize = m.avc.LengthSize
	case p.Codec == av.HEVC && m.hevc != nil:
		lengthSize = m.hevc.LengthSize
	default:
		return fmt.Errorf("%w: %v without configuration", ErrFrame, p.Codec)
	}
	units, err := av.NALUs(m.units[:0], p.Frame, lengthSize)
	m.units = units
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	parts := append(m.parts[:0], nil, nil, nil) // header, delimiter, parameter sets
	inBand := p.Codec == av.H264
	sps, pps, vps := false, false, inBand // an H.264 frame needs no VPS
	for _, u := range units {
		if bytes.Contains(u, startCode[1:]) {
			// Without emulation prevention a unit would fall apart.
			return fmt.Errorf("%w: start code inside of a NAL unit", ErrFrame)
		}
		if p.Codec == av.H264 {
			switch av.H264Type(u) {
			case av.H264AUD:
				continue
			case av.H264SPS:
				sps = true
			case av.H264PPS:
				pps = true
			}
		} else {
			switch av.HEVCType(u) {
			case av.HEVCAUD:
				continue
			case av.HEVCVPS:
				vps = true
			case av.HEVCSPS:
				sps = true
			case av.HEVCPPS:
				pps = true
			}
		}
		parts = append(parts, startCode, u)
	}
	m.parts = parts
	if len(parts) == 3 {
		return fmt.Errorf("%w: %v frame without NAL units", ErrFrame, p.Codec)
	}
	parts[1] = audH264
	if p.Codec == av.HEVC {
		parts[1] = audHEVC
	}
	if p.Key && !(vps && sps && pps) {
		parts[2] = m.sets
	}

	if cts := int64(p.CTS); cts > maxReorder || cts < -maxReorder {
		p.CTS = 0
	}
	pts := m.base + p.PTS()*Clock
	m.early = max(m.early, -int64(p.CTS)*Clock)
	dts := m.video.next(m.base + p.DTS*Clock - m.early)
	pts = max(pts, dts)
	m.list(&m.video, p.Codec, pts)
	m.writePES(&m.video, p.Key, pts, dts, parts)
	clear(parts) // let go of the packet's bytes
	clear(units)
	return nil
}

func (m *Muxer) writeAudio(p av.Packet) error {
	g := &m.group
	if g.frames > 0 && (g.frames == groupFrames || g.size+len(p.Frame) > groupSize ||
		p.DTS-g.last > groupGap || m.audio.listed != p.Codec ||
		2*p.DTS-g.last-g.first > groupTime) { // with this frame, as far as one can know
		m.flushAudio()
	}
	var header []byte
	switch p.Codec {
	case av.AAC:
		if m.aac == nil {
			return fmt.Errorf("%w: aac without configuration", ErrFrame)
		}
		at := g.frames * 7
		var err error
		if header, err = m.aac.ADTS(g.headers[at:at:at+7], len(p.Frame)); err != nil {
			return fmt.Errorf("%w: %w", ErrFrame, err)
		}
	case av.MP3:
		if b := p.Frame; len(b) < 4 || len(b) > groupSize || b[0] != 0xFF || b[1]&0xE0 != 0xE0 {
			return fmt.Errorf("%w: mp3 frame of %d bytes", ErrFrame, len(b))
		}
	case av.Opus:
		if len(p.Frame) > groupSize || av.OpusSamples(p.Frame) == 0 {
			return fmt.Errorf("%w: opus frame of %d bytes", ErrFrame, len(p.Frame))
		}
		header = m.opus.header(len(p.Frame))
	}
	if g.frames == 0 {
		g.first, g.pts = p.DTS, m.audio.next(m.base+p.DTS*Clock)
		g.parts = append(g.parts[:0], nil) // PES header
		// Listed now and not when the group is written: the segment's first
		// frame is the one that came first.
		m.list(&m.audio, p.Codec, g.pts)
	}
	g.parts = append(g.parts, header, p.Frame)
	g.size += len(header) + len(p.Frame)
	g.last = p.DTS
	g.frames++
	return nil
}

// flushAudio writes the audio frames that wait.
func (m *Muxer) flushAudio() {
	g := &m.group
	if g.frames == 0 {
		return
	}
	m.writePES(&m.audio, false, g.pts, g.pts, g.parts)
	clear(g.parts)
	g.frames, g.size = 0, 0
}

// next returns the decoding time for a frame that would like to have dts.
func (t *muxTrack) next(dts int64) int64 {
	if t.any && dts <= t.last {
		dts = t.last + 1
	}
	t.last, t.any = dts, true
	return dts
}

// list begins the segment with its tables if this is its first frame, and
// makes sure that the tables have the track.
func (m *Muxer) list(t *muxTrack, codec av.Codec, pts int64) {
	begun, known := len(m.buf) > 0, t.listed == codec
	if begun && known {
		return
	}
	if !known {
		t.listed = codec
		if t == &m.audio {
			t.stream = streamAudio
			if codec == av.Opus {
				t.stream = streamPrivate
			}
		}
		m.version = (m.version + 1) & 31
	}
	if !begun {
		m.buf = make([]byte, 2*packetSize, max(m.lastSize+m.lastSize/8, 64*packetSize))
		m.pts = pts
	}
	m.writeTables() // at the segment's start, which nobody has seen yet
}

// writeTables puts PAT and PMT into the first two packets of the segment.
func (m *Muxer) writeTables() {
	// program_association_section, 2.4.4.3
	section(m.buf[:packetSize], pidPAT, m.tablesCC, tablePAT, 0,
		0, 1, // program_number
		0xE0|pidPMT>>8, pidPMT&0xFF)

	// TS_program_map_section, 2.4.4.8
	pcr := m.pcrTrack().pid
	var b [4 + 2*5 + opusDescriptors]byte
	s := append(b[:0], 0xE0|byte(pcr>>8), byte(pcr), 0xF0, 0)
	for _, t := range [...]*muxTrack{&m.video, &m.audio} {
		if t.listed != av.Unknown {
			s = append(s, streamType(t.listed), 0xE0|byte(t.pid>>8), byte(t.pid), 0xF0, 0)
			if t.listed == av.Opus {
				s[len(s)-1] = opusDescriptors
				s = m.opus.descriptors(s)
			}
		}
	}
	section(m.buf[packetSize:2*packetSize], pidPMT, m.tablesCC, tablePMT, m.version, s...)
}

// section fills the packet dst with a section of a table about program or
// transport stream 1.
func section(dst []byte, pid uint16, cc, table, version uint8, body ...byte) {
	n := 5 + len(body) + 4
	b := append(dst[:0], syncByte, 0x40|byte(pid>>8), byte(pid), 0x10|cc&15,
		0, // pointer_field
		table, 0xB0|byte(n>>8), byte(n),
		0, 1, // transport_stream_id or program_number
		0xC1|version<<1, 0, 0) // current_next_indicator, section_number, last_section_number
	b = append(b, body...)
	crc := crc32(b[5:])
	b = append(b, byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc))
	for i := len(b); i < packetSize; i++ {
		dst[i] = 0xFF
	}
}

// pcrTrack returns the track whose packets have the PCRs.
func (m *Muxer) pcrTrack() *muxTrack {
	if m.video.listed == av.Unknown {
		return &m.audio
	}
	return &m.video
}

// clock returns the PCR for a PES packet that is sent at t, which is later than
// all before it. If the newest of them is too long ago, packets that have nothing but
// a PCR come first.
func (m *Muxer) clock(t int64) int64 {
	pid := m.pcrTrack().pid
	switch ahead := m.pcr - t; {
	case m.pcrPID != pid || ahead > pcrGap || -ahead > pcrGap:
		m.pcrPID = pid
	case ahead >= 0: // what is away came back
		t = m.pcr + 1
	default:
		m.fill(t)
	}
	m.pcr = t
	return t
}

// fill writes PCRs from the newest one to t, which it leaves out, as far apart as they
// may be.
func (m *Muxer) fill(t int64) {
	track := m.pcrTrack()
	if m.pcrPID != track.pid || t-m.pcr > pcrGap {
		return
	}
	for n := (t - m.pcr - 1) / pcrTime; n > 0; n-- {
		m.pcr += (t - m.pcr) / (n + 1)
		at := len(m.buf)
		m.buf = slices.Grow(m.buf, packetSize)[:at+packetSize]
		b := m.buf[at:]
		// Without payload the continuity counter stays (2.4.3.3).
		b[0], b[1], b[2], b[3] = syncByte, byte(track.pid>>8), byte(track.pid), 0x20|(track.cc-1)&15
		b[4], b[5] = payloadSize-1, 0x10
		putPCR(b[6:12], m.pcr)
		for i := 12; i < packetSize; i++ {
			b[i] = 0xFF
		}
	}
}

// writePES appends a PES packet. Its parts are the data, except for the first,
// which is room for the header.
func (m *Muxer) writePES(t *muxTrack, key bool, pts, dts int64, parts [][]byte) {
	left := 0
	for _, p := range parts[1:] {
		left += len(p)
	}
	parts[0] = m.pesHeader(t, pts, dts, left)
	left += len(parts[0])

	pcr, sent := t == m.pcrTrack(), dts-pcrDelay
	if pcr {
		sent = m.clock(sent)
	} else {
		m.fill(sent - videoLate)
	}
	at := len(m.buf)
	m.buf = slices.Grow(m.buf, (left+8+payloadSize-1)/payloadSize*packetSize)
	for first := true; left > 0; first = false {
		m.buf = m.buf[:at+packetSize]
		b := m.buf[at : at+packetSize]
		at += packetSize

		b[0], b[1], b[2], b[3] = syncByte, byte(t.pid>>8), byte(t.pid), 0x10|t.cc&15
		t.cc++
		field := 0 // length of the adaptation field
		if first {
			b[1] |= 0x40 // payload_unit_start_indicator
			if pcr {
				field = 8
			} else if key || t.anew {
				field = 2
			}
		}
		field = max(field, payloadSize-left)
		if field > 0 {
			b[3] |= 0x20
			b[4] = byte(field - 1)
		}
		if field > 1 { // adaptation_field, 2.4.3.4
			b[5] = 0
			stuffing := 6
			if first && key {
				b[5] |= 0x40 // random_access_indicator
			}
			if t.anew {
				b[5] |= 0x80 // discontinuity_indicator
				t.anew = false
			}
			if first && pcr {
				b[5] |= 0x10
				putPCR(b[6:12], sent)
				stuffing = 12
			}
			for i := stuffing; i < 4+field; i++ {
				b[i] = 0xFF
			}
		}
		for b = b[4+field:]; len(b) > 0; {
			n := copy(b, parts[0])
			b, left = b[n:], left-n
			if parts[0] = parts[0][n:]; len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
	}
}

// pesHeader returns the header of a PES packet with n bytes of data (2.4.3.6).
func (m *Muxer) pesHeader(t *muxTrack, pts, dts int64, n int) []byte {
	h := append(m.head[:0], 0, 0, 1, t.stream, 0, 0, 0x84, 0x80, 5)
	if pts == dts {
		h = appendTime(h, 2, pts)
	} else {
		h[7], h[8] = 0xC0, 10
		h = appendTime(h, 3, pts)
		h = appendTime(h, 1, dts)
	}
	// The length may stay 0, "not specified", in video only.
	if n += len(h) - 6; n <= 0xFFFF {
		h[4], h[5] = byte(n>>8), byte(n)
	}
	return h
}

// appendTime appends a PTS or DTS in 33 bits after a prefix of 4:
//
//	prefix | 32..30 | 1    29..15 | 1    14..0 | 1
func appendTime(b []byte, prefix byte, t int64) []byte {
	return append(b,
		prefix<<4|byte(t>>29)&0x0E|1,
		byte(t>>22),
		byte(t>>14)|1,
		byte(t>>7),
		byte(t<<1)|1)
}

// putPCR writes a program_clock_reference: 33 bits of 90 kHz, 6 reserved, 9 of
// 27 MHz, which are 0.
func putPCR(b []byte, t int64) {
	b[0], b[1], b[2], b[3] = byte(t>>25), byte(t>>17), byte(t>>9), byte(t>>1)
	b[4], b[5] = byte(t<<7)|0x7E, 0
}
