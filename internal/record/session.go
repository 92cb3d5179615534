package record

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"syscall"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// session is a push being recorded. One goroutine runs it.
type session struct {
	r      *Recorder
	pub    *stream.Publication
	reader *stream.Reader
	place  *place
	cfg    policy.Record
	log    *slog.Logger

	stopped bool      // somebody stopped the recording; guarded by Recorder.mu
	last    time.Time // when the last frame came
	ok      bool      // the newest write was
	jumps   uint64    // of reader, that are known
	slow    time.Time // when it has jumped last
}

// run records until the push is over or the reader closed.
func (s *session) run() {
	s.log.Info("recording begins")
	s.r.stats.recording.Add(1)
	defer s.r.stats.recording.Add(-1)
	c := newCutter(s)
	s.pump(c)
	s.reader.Close()
	if !s.slow.IsZero() {
		s.r.clear(alertSlow)
	}
	if c.t == nil && c.stopped && c.lastErr != nil {
		s.reject(errnumRoom, "there was no room for it: "+c.lastErr.Error())
		return
	}
	if c.t == nil {
		s.log.Info("recording ends: there was nothing to record")
		return
	}
	at := time.Now()
	select {
	case <-s.pub.Done():
		at = s.pub.EndTime()
	default:
	}
	c.t.leave(leaving{at, s.last})
	s.log.Info("recording ends with the push", "jumps", s.reader.Jumps())
}

// pump moves packets from the reader to the cutter. A panic costs the push the rest
// of its recording, and nobody else anything.
func (s *session) pump(c *cutter) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
			if c.open && c.t.out != nil { // a push that returns would begin it anew
				c.t.finish(c.kept - c.start)
			}
		}
	}()
	for {
		p, err := s.reader.ReadPacket()
		if err != nil {
			break
		}
		c.write(p)
	}
	c.close()
}

// take returns the take that the push goes into: the one that is open if the
// push has come in time and is compatible, or a new one.
func (s *session) take(c *cutter) (*take, error) {
	s.r.mu.Lock()
	t := s.place.take
	s.r.mu.Unlock()
	if t != nil {
		why := s.differs(t, c)
		if why == "" {
			t.join(s.push())
			s.log.Info("recording goes on", "task", t.head.Task)
			return t, nil
		}
		t.close(why, t.leaving().Last)
		s.r.mu.Lock()
		s.place.take = nil
		s.r.mu.Unlock()
	}
	return s.begin(s.cfg, c.first)
}

// differs says why the push cannot go on in the take, or "".
func (s *session) differs(t *take, c *cutter) string {
	cfg := &t.head.Record
	if vdoid, _ := s.pub.Push().Client.Param("vdoid"); vdoid != t.head.VDOID && cfg.OnVDOIDChange == policy.RecordNewFile {
		return "changed"
	}
	if cfg.OnCodecChange == policy.RecordNewFile {
		video, audio := t.tracks()
		if !compatible(av.Video, video, c.video.track()) || !compatible(av.Audio, audio, c.audio.track()) {
			return "changed"
		}
	}
	return ""
}

// tracks returns the newest video and audio of a take.
func (t *take) tracks() (video, audio *track) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.segments {
		s := &t.segments[i]
		if s.Video != nil {
			video = s.Video
		}
		if s.Audio != nil {
			audio = s.Audio
		}
	}
	return video, audio
}

// compatible reports whether two tracks, of which either may be missing, can
// follow each other in one file.
func compatible(kind av.Kind, a, b *track) bool {
	switch {
	case a == nil || b == nil:
		return true
	case a.Codec != b.Codec:
		return false
	case kind == av.Video:
		x, errx := av.ParseVideoInfo(a.Codec, a.Config)
		y, erry := av.ParseVideoInfo(b.Codec, b.Config)
		return errx != nil || erry != nil || x.Width == y.Width && x.Height == y.Height
	case a.Config == nil || b.Config == nil:
		return true
	default:
		x, errx := av.ParseAudioInfo(av.Packet{Kind: av.Audio, Codec: a.Codec, Config: true, Frame: a.Config})
		y, erry := av.ParseAudioInfo(av.Packet{Kind: av.Audio, Codec: b.Codec, Config: true, Frame: b.Config})
		return errx != nil || erry != nil || x == y
	}
}

// next returns the take after one that is long enough.
func (s *session) next(t *take) (*take, error) {
	t.close("cut", time.Now())
	s.r.mu.Lock()
	s.place.take = nil
	s.r.mu.Unlock()
	return s.begin(s.cfg, time.Now())
}

// begin makes a new take with those settings, whose first frame came at start.
func (s *session) begin(cfg policy.Record, start time.Time) (*take, error) {
	key, p := s.pub.Stream().Key(), s.pub.Push()
	h := head{
		Task: event.NewSequence(), Space: key.Space, App: key.App, Stream: key.Name,
		Domain: p.Client.Domain, Start: start, Record: cfg,
	}
	h.VDOID, _ = p.Client.Param("vdoid")
	if s.r.ledger != nil {
		h.Node = s.r.ledger.Node
	}
	t, err := s.r.newTake(h)
	if err != nil {
		return nil, err
	}
	t.join(s.push())
	s.r.mu.Lock()
	s.place.take, s.r.takes[h.Task] = t, t
	s.r.jobs.Go(t.keep) // ends when the take is done, or with r.ctx
	s.r.mu.Unlock()
	s.r.emit(t.fact(h.Start, event.RecordStarted{Recording: t.recording("hls", h.Task, "")}))
	return t, nil
}

func (s *session) push() push {
	p := s.pub.Push()
	return push{Sequence: p.Sequence, Session: p.Session}
}

// seen notes when a frame came.
func (s *session) seen(now time.Time) { s.last = now }

// jumped reports whether the reader has missed media since it was asked last: the
// disk takes less than comes.
func (s *session) jumped() bool {
	n := s.reader.Jumps()
	if n == s.jumps {
		return false
	}
	s.jumps, s.slow = n, time.Now()
	s.log.Warn("the recording misses media: the spool is too slow for them", "jumps", n)
	s.r.raise(alertSlow, "recordings miss media: the disk of the spool is slower than they come", 0, 0)
	return true
}

// wrote notes that there was room for media.
func (s *session) wrote() {
	if !s.slow.IsZero() && time.Since(s.slow) > calm {
		s.slow = time.Time{}
		s.r.clear(alertSlow)
	}
	if s.ok {
		return
	}
	s.ok = true
	s.r.clear(alertDisk)
	s.r.clear(alertSpool)
}

const (
	alertDisk   = "record_disk"       // the disk of the spool does not take media
	alertHigh   = "record_spool"      // most of it is not uploaded
	alertSpool  = "record_spool_full" // nothing in it is uploaded
	alertUpload = "record_upload"     // uploads fail; with : and the bucket's name behind it
	alertSlow   = "record_slow"       // the disk takes less than comes
)

// calm is how long nothing must have been missed for alertSlow to be over.
const calm = time.Minute

// failed notes that there was no room.
func (s *session) failed(err error) {
	s.ok = false
	s.r.stats.lost.Add(1)
	s.log.Warn("recording has stopped; it goes on at the next key frame that there is room for", "err", err)
	used, limit := s.r.spool.level()
	switch {
	case errors.Is(err, errSpoolFull):
		s.r.raise(alertSpool, "recordings have stopped: the spool is full of media that could not be uploaded; see that the storage answers",
			float64(used), float64(limit))
	case errors.Is(err, syscall.ENOSPC):
		s.r.raise(alertDisk, "recordings have stopped: the disk of the spool is full; make room on it", float64(used), float64(limit))
	default:
		s.r.raise(alertDisk, "recordings have stopped: the spool cannot be written: "+err.Error(), 0, 0)
	}
}

// refuse notes that a track's codec cannot be recorded.
func (s *session) refuse(picture bool, codec av.Codec) {
	if !picture {
		s.log.Warn("recording without sound: the codec cannot be recorded", "codec", codec)
		return
	}
	s.log.Warn("no recording: the video codec cannot be recorded", "codec", codec)
	s.reject(errnumCodec, fmt.Sprintf("video codec %v cannot be recorded", codec))
}

// reject says that there will be no recording of the push.
func (s *session) reject(errnum int, errmsg string) {
	key, p, now := s.pub.Stream().Key(), s.pub.Push(), time.Now()
	vdoid, _ := p.Client.Param("vdoid")
	rec := event.Recording{
		Task: event.NewSequence(), Format: "hls", Bucket: s.r.named(s.cfg.Bucket), Start: now, End: now,
		VDOID: vdoid, Domain: p.Client.Domain, Callback: callback(&s.cfg.HLS),
	}
	e := event.New(now, event.RecordFailed{Recording: rec, Errnum: errnum, Errmsg: errmsg})
	e.Space, e.App, e.Stream, e.Sequence = key.Space, key.App, key.Name, p.Sequence
	s.r.stats.failed.Add(1)
	s.r.emit(e)
}
