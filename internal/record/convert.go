package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/mp4"
	"weir/internal/media/mpegts"
	"weir/internal/storage"
)

// converted is what convert found out about a file.
type converted struct {
	Size  int64            `json:"size"`
	Media *event.MediaInfo `json:"media"`
}

// convert makes an MP4 or FLV file of the take's segments, which it reads once:
// from the spool, or where they are not there any more from the bucket. The parts
// of the file go into the bucket as they come. A process that goes on where
// another has stopped makes the same parts, and leaves out those that are there.
func (t *take) convert(ctx context.Context, p *production) (*made, error) {
	leave, err := t.r.making.take(ctx, t.r.named(t.head.Record.Bucket))
	if err != nil {
		return nil, err
	}
	defer leave()
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return nil, err
	}
	up, err := t.uploadOf(ctx, b, p)
	if errors.Is(err, storage.ErrExist) {
		t.rename(p)
	}
	if err != nil {
		return nil, err
	}
	if p.Whole == nil { // not all parts are there yet
		if p.Whole, err = t.write(ctx, b, p.Format, up); err != nil {
			return nil, err
		}
		t.journal.add(entry{Named: p})
		t.flush(true)
	}
	if !t.shareAll() { // whoever goes on knows of the upload, and so its file again
		return nil, errMoved
	}
	_, err = up.Complete(ctx)
	switch {
	case errors.Is(err, storage.ErrExist):
		up.Abort(ctx)
		p.Whole = nil
		t.rename(p)
		return nil, err
	case errors.Is(err, storage.ErrUpload):
		up.Abort(ctx)
		p.Whole, p.Upload = nil, nil
		return nil, err
	case err != nil:
		return nil, err
	}
	o, err := b.Stat(ctx, p.Key)
	if err == nil && o.Size != p.Whole.Size {
		err = fmt.Errorf("%s has %d bytes in the bucket, and should have %d: %w", p.Key, o.Size, p.Whole.Size, storage.ErrMismatch)
	}
	return &made{bucket: o.Bucket, size: p.Whole.Size, media: p.Whole.Media}, err
}

// uploadOf returns the upload of a file: the one that the journal has, or a new
// one, which the journal has from then on.
func (t *take) uploadOf(ctx context.Context, b storage.Bucket, p *production) (storage.Upload, error) {
	if p.Upload != nil {
		up, err := b.Resume(ctx, p.Upload)
		if !errors.Is(err, storage.ErrNotExist) {
			return up, err
		}
	}
	if !t.shareAll() { // nothing of another node's is aborted
		return nil, errMoved
	}
	up, err := b.Upload(ctx, p.Key, storage.PutOptions{IfAbsent: true, PartSize: mp4.DefaultPartSize, Name: "record/" + t.head.Task + "/" + p.Format})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	p.Upload, p.Whole = up.State(), nil
	t.journal.add(entry{Named: p})
	t.mu.Unlock()
	t.flush(true)
	t.share() // so that another node can go on with it
	return up, nil
}

// muxer is what writes a file of either format.
type muxer interface {
	av.Writer
	finish() (size int64, duration time.Duration, err error)
}

type mp4Muxer struct {
	*mp4.Muxer
	log *slog.Logger
}

func (m mp4Muxer) finish() (int64, time.Duration, error) {
	info, err := m.Close()
	if err == nil && !info.InFront {
		m.log.Warn("the index of the MP4 is behind the media: there was no room for it in front", "size", info.Size, "media", info.Duration)
	}
	return info.Size, info.Duration, err
}

type flvMuxer struct{ *flv.FileMuxer }

func (m flvMuxer) finish() (int64, time.Duration, error) {
	info, err := m.Close()
	return info.Size, info.Duration, err
}

// write writes all parts of a file.
func (t *take) write(ctx context.Context, b storage.Bucket, format string, up storage.Upload) (*converted, error) {
	list, err := up.Parts(ctx)
	if err != nil {
		return nil, err
	}
	there := map[int]int64{}
	for _, p := range list {
		there[p.N] = p.Size
	}
	part := func(n int, data []byte) error {
		if there[n] == int64(len(data)) {
			return nil
		}
		return up.WritePart(ctx, n, data)
	}
	t.mu.Lock()
	media, _ := t.media()
	t.mu.Unlock()
	duration := ms(media)
	var m muxer
	if format == "mp4" {
		m = mp4Muxer{mp4.NewMuxer(part, mp4.Options{PartSize: up.PartSize(), Duration: duration, Created: t.head.Start}), t.log}
	} else {
		m = flvMuxer{flv.NewFileMuxer(part, flv.FileOptions{PartSize: up.PartSize(), Duration: duration})}
	}
	var info prober
	in := inOrder{write: func(p av.Packet) error {
		info.see(&p)
		return m.WritePacket(p)
	}}
	if err := t.packets(ctx, b, in.add); err != nil {
		return nil, err
	}
	if err := in.flush(math.MaxInt64); err != nil {
		return nil, err
	}
	size, length, err := m.finish()
	if errors.Is(err, mp4.ErrEmpty) || errors.Is(err, flv.ErrEmpty) {
		err = &failure{errnumMedia, err}
	}
	if err != nil {
		return nil, err
	}
	return &converted{size, info.info(format, size, length)}, nil
}

// packets calls f with the packets of all segments, in order.
func (t *take) packets(ctx context.Context, b storage.Bucket, f func(av.Packet) error) error {
	d := mpegts.NewDemuxer(nil)
	hole := false
	missing := int64(0) // ms of media before the segment
	for n := 1; ; n++ {
		t.mu.Lock()
		s := t.segment(n)
		var seg segment
		if s != nil {
			seg = *s
		}
		t.mu.Unlock()
		if s == nil {
			return nil
		}
		if seg.missing {
			hole = true
			missing += seg.Duration
			continue
		}
		r, err := t.open1(ctx, b, &seg)
		if err != nil {
			return err
		}
		d.Continue(r)
		for first := true; ; {
			p, err := d.ReadPacket()
			if err == io.EOF {
				break
			}
			if errors.Is(err, mpegts.ErrSync) {
				err = &failure{errnumMedia, fmt.Errorf("segment %d: %w", n, err)}
			}
			if err != nil {
				r.Close()
				return err
			}
			p.Break = first && (seg.Discontinuity || hole)
			first = false
			p.DTS -= baseTime + t.head.Base + missing
			if err := f(p); err != nil {
				r.Close()
				return err
			}
		}
		r.Close()
		hole = false
	}
}

// inOrder puts packets into the order of their times: in a transport stream
// sound comes some frames after the picture.
type inOrder struct {
	write func(av.Packet) error
	list  []av.Packet
}

// lag is how far behind the picture, in ms, sound is at most.
const lag = 500

func (o *inOrder) add(p av.Packet) error {
	i := len(o.list)
	for i > 0 && o.list[i-1].DTS > p.DTS {
		i--
	}
	o.list = slices.Insert(o.list, i, p)
	return o.flush(o.list[len(o.list)-1].DTS - lag)
}

// flush writes the packets up to a time.
func (o *inOrder) flush(to int64) error {
	n := 0
	for ; n < len(o.list) && o.list[n].DTS <= to; n++ {
		if err := o.write(o.list[n]); err != nil {
			return err
		}
	}
	if n > 0 {
		o.list = slices.Delete(o.list, 0, n)
	}
	return nil
}

// errDamaged is the error of a segment in the spool that is not what was written.
var errDamaged = errors.New("damaged")

// openLocal opens a segment in the spool and sees that it is whole.
func (t *take) openLocal(s *segment) (*os.File, error) {
	f, err := os.Open(t.file(s))
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	if err == nil && s.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
		err = errors.New("its SHA-256 is another")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("segment %s is %w: %w", s.name(), errDamaged, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open1 opens a segment, here or in the bucket, which may be nil.
func (t *take) open1(ctx context.Context, b storage.Bucket, s *segment) (io.ReadCloser, error) {
	if s.local {
		f, err := t.openLocal(s)
		if err == nil {
			return f, nil
		}
		if b == nil {
			return nil, err
		}
		if errors.Is(err, errDamaged) {
			t.log.Error("a segment is read from the bucket instead of the spool", "err", err)
		}
	}
	body, _, err := b.Get(ctx, path.Join(t.folder(), s.name()), 0, -1)
	if errors.Is(err, storage.ErrNotExist) {
		err = &failure{errnumMedia, fmt.Errorf("segment %d: %w", s.N, err)}
	}
	return body, err
}

// prober gathers what is said of a file's media.
type prober struct{ video, audio probed }

type probed struct {
	codec  av.Codec
	first  av.Packet // that says what there is to know
	frames int
	bytes  int64
	from   int64
	to     int64
}

func (p *prober) see(pkt *av.Packet) {
	t := &p.audio
	if pkt.Kind == av.Video {
		t = &p.video
	}
	if t.codec == av.Unknown {
		t.codec, t.first = pkt.Codec, *pkt
	}
	if pkt.Config {
		return
	}
	if t.frames == 0 {
		t.from = pkt.DTS
	}
	t.frames++
	t.to = pkt.DTS
	t.bytes += int64(len(pkt.Frame))
}

// info returns what a prober would say.
func (p *prober) info(format string, size int64, length time.Duration) *event.MediaInfo {
	rate := func(bytes int64) int64 {
		if length <= 0 {
			return 0
		}
		return int64(math.Round(float64(bytes) * 8 / length.Seconds()))
	}
	m := &event.MediaInfo{FormatName: format, Size: size, Duration: length, BitRate: rate(size), Streams: []event.MediaStream{}}
	for _, t := range []*probed{&p.video, &p.audio} {
		if t.frames == 0 {
			continue
		}
		s := event.MediaStream{Index: len(m.Streams), CodecName: t.codec.String(), CodecType: "audio", BitRate: rate(t.bytes)}
		if t == &p.video {
			s.CodecType = "video"
			fps := 0.0
			if v, err := av.ParseVideoInfo(t.codec, t.first.Frame); err == nil {
				s.Width, s.Height, fps = v.Width, v.Height, v.FPS
			}
			if t.frames > 1 && t.to > t.from { // what comes, rather than what is promised
				fps = float64(t.frames-1) * 1000 / float64(t.to-t.from)
			}
			s.FrameRate = fraction(fps)
		} else if a, err := av.ParseAudioInfo(t.first); err == nil {
			s.SampleRate, s.Channels = a.SampleRate, a.Channels
		}
		m.Streams = append(m.Streams, s)
	}
	return m
}

// fraction writes a frame rate as ffprobe does: a whole number over 1, or one of
// NTSC's.
func fraction(fps float64) string {
	whole := math.Round(fps)
	switch {
	case fps <= 0:
		return "0/0"
	case math.Abs(fps-whole) < 0.01*max(1, fps/50):
		return strconv.Itoa(int(whole)) + "/1"
	case math.Abs(fps*1.001-math.Round(fps*1.001)) < 0.01:
		return strconv.Itoa(int(math.Round(fps*1.001))*1000) + "/1001"
	}
	return strconv.Itoa(int(math.Round(fps*1000))) + "/1000"
}
