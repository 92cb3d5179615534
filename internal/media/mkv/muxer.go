package mkv

import (
	"errors"
	"fmt"
	"io"

	"weir/internal/media/av"
)

// Muxer writes packets as Matroska. It is an av.Writer and is used by one goroutine.
type Muxer struct {
	w       io.Writer
	tracks  [2]*track // video, audio; nil: there is none
	written bool
	buf     []byte
}

type track struct {
	codec         av.Codec
	config        []byte
	width, height int
}

// NewMuxer returns a Muxer of a picture of that size and sound; Unknown is none.
func NewMuxer(w io.Writer, video av.Codec, width, height int, audio av.Codec) (*Muxer, error) {
	m := &Muxer{w: w}
	for i, c := range []av.Codec{video, audio} {
		if c == av.Unknown {
			continue
		}
		if !Supports(c) {
			return nil, fmt.Errorf("no Matroska of %v", c)
		}
		m.tracks[i] = &track{codec: c, width: width, height: height}
	}
	return m, nil
}

// ErrChanged is the error of a configuration that comes after the first frame.
var ErrChanged = errors.New("matroska: the configuration has changed")

// WritePacket writes a frame, at once. Configurations come before the first frame.
// What is of no track is left out.
func (m *Muxer) WritePacket(p av.Packet) error {
	if p.Kind == av.Data {
		return nil
	}
	t := m.tracks[p.Kind-av.Video]
	switch {
	case t == nil || t.codec != p.Codec:
		return nil
	case p.Config && m.written:
		return ErrChanged
	case p.Config:
		t.config = p.Frame
		return nil
	}
	b := m.buf[:0]
	if !m.written {
		m.written = true
		b = m.appendHead(b)
	}
	block := []byte{0x80 | byte(p.Kind), 0, 0, 0} // track, time after the cluster's, flags (10.2)
	if p.Key || p.Kind == av.Audio {
		block[3] = flagKey
	}
	// The block's length is that of the frame and four bytes more.
	body := appendUint(nil, idTimestamp, uint64(max(p.PTS(), 0)))
	head := len(appendElement(nil, idSimpleBlock))
	n := len(body) + head + len(block) + len(p.Frame)
	b = appendSize(appendID(b, idCluster), n)
	b = append(b, body...)
	b = appendElement(b, idSimpleBlock, append(block, p.Frame...)...)
	m.buf = b
	_, err := m.w.Write(b)
	return err
}

// appendHead appends all that comes before the first cluster.
func (m *Muxer) appendHead(b []byte) []byte {
	head := appendString(nil, idDocType, "matroska")
	head = appendUint(head, idDocTypeVersion, 4)
	head = appendUint(head, idDocTypeReadable, 2)
	b = appendElement(b, idEBML, head...)
	b = append(appendID(b, idSegment), 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF) // unknown length (RFC 8794, 6.2)
	info := appendUint(nil, idTimestampScale, nanosecondsPerTick)
	info = appendString(appendString(info, idMuxingApp, "weir"), idWritingApp, "weir")
	b = appendElement(b, idInfo, info...)
	var list []byte
	for i, t := range m.tracks {
		if t == nil {
			continue
		}
		number := uint64(i + 1) // which is the track's type, too
		e := appendUint(nil, idTrackNumber, number)
		e = appendUint(e, idTrackUID, number)
		e = appendUint(e, idTrackType, number)
		e = appendUint(e, idFlagLacing, 0)
		e = appendString(e, idCodecID, codecs[t.codec])
		if t.config != nil {
			e = appendElement(e, idCodecPrivate, t.config...)
		}
		if number == trackVideo {
			v := appendUint(nil, idPixelWidth, uint64(max(t.width, 1)))
			e = appendElement(e, idVideo, appendUint(v, idPixelHeight, uint64(max(t.height, 1)))...)
		} else {
			info, err := av.ParseAudioInfo(av.Packet{Kind: av.Audio, Codec: t.codec, Config: t.config != nil, Frame: t.config})
			if err != nil || info.SampleRate == 0 || info.Channels == 0 {
				info = av.AudioInfo{SampleRate: 48000, Channels: 2} // its frames say it
			}
			a := appendFloat(nil, idSamplingRate, float64(info.SampleRate))
			e = appendElement(e, idAudio, appendUint(a, idChannels, uint64(info.Channels))...)
		}
		list = appendElement(list, idTrackEntry, e...)
	}
	return appendElement(b, idTracks, list...)
}
