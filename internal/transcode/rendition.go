package transcode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/mkv"
	"weir/internal/media/mpegts"
	"weir/internal/policy"
	"weir/internal/stream"
)

// feed writes a stream into ffmpeg's pipe, on ffmpeg's time.
type feed struct {
	w      io.Writer
	to     av.Writer
	ts     *mpegts.Muxer // nil: it is another format
	cut    int64         // newest time that ffmpeg has been given of ts
	offset int64
	config [2][]byte // of video and audio
}

func newFeed(w io.Writer, format string, m *media, offset int64) *feed {
	f := &feed{w: w, offset: offset}
	switch format {
	case "mpegts":
		f.ts = mpegts.NewMuxer(0)
		f.to = f.ts
	case "matroska":
		f.to, _ = mkv.NewMuxer(w, m.video, m.width, m.height, m.audio) // it is a carrier of theirs
	default:
		f.to = flv.NewMuxer(w, m.audio != av.Unknown, m.video != av.Unknown)
	}
	return f
}

// In a transport stream sound goes along with the next picture, but waits for none longer
// than soundTime, in ms, and is not more than soundSize, in bytes, meanwhile.
const (
	soundTime = 500
	soundSize = 64 << 10
)

// write writes a packet.
func (f *feed) write(p av.Packet) error {
	if p.Config {
		f.config[p.Kind-av.Video] = p.Frame
	}
	p.DTS += f.offset
	if p.Config {
		p.DTS = max(p.DTS, 0)
	}
	if err := f.to.WritePacket(p); err != nil {
		if errors.Is(err, mpegts.ErrFrame) {
			return nil
		}
		return err
	}
	if f.ts == nil || p.Config {
		return nil
	}
	if p.Kind == av.Audio && p.DTS < f.cut+soundTime && f.ts.Size() < soundSize {
		return nil
	}
	f.cut = p.DTS
	b, _ := f.ts.Cut()
	if len(b) == 0 {
		return nil
	}
	_, err := f.w.Write(b)
	return err
}

// differs reports whether a configuration is another than that which ffmpeg
// was given.
func (f *feed) differs(p av.Packet) bool {
	old := f.config[p.Kind-av.Video]
	return old != nil && !bytes.Equal(old, p.Frame)
}

// rendition is an output that is being made.
type rendition struct {
	*output
	src *source
	of  *stream.Publication // of the source
	log *slog.Logger

	last   [2]atomic.Int64 // times of the newest video and audio, of this ffmpeg or one before, or -1
	newest atomic.Int64    // time of the newest frame that was published, ms of the source; 0: none yet
	frames atomic.Int64    // that were published
	read   atomic.Int64    // packets that came

	configs [2]av.Packet // of video and audio, for who begins later; of follow
	again   time.Time    // when its name is tried again, which is somebody else's; of follow

	mu  sync.Mutex
	pub *stream.Publication
}

// follow publishes what comes out of ffmpeg, until that ends. Frames that are not
// newer than those of their track before are left out: the ffmpeg before this one may have
// copied them already. The error is that of something that is no rendition.
func (r *rendition) follow(out io.Reader, offset int64) error {
	var in av.Reader = flv.NewReader(out)
	switch r.format {
	case "mpegts":
		in = tagged{mpegts.NewDemuxer(out)}
	case "matroska":
		in = tagged{mkv.NewReader(out)}
	}
	for {
		p, err := in.ReadPacket()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read %s: %w", r.name, err)
		}
		if p.Kind == av.Data || p.Side {
			continue // ffmpeg's own metadata say nothing that is true of a live stream
		}
		r.read.Add(1)
		p.DTS -= offset
		last := &r.last[p.Kind-av.Video]
		switch {
		case p.Config:
			r.configs[p.Kind-av.Video] = p
		case p.DTS <= last.Load():
			continue
		default:
			last.Store(p.DTS)
		}
		if !r.begin(&p) {
			continue
		}
		if r.publish(p) != nil {
			return nil // the others go on
		}
		if !p.Config {
			r.newest.Store(max(1, p.DTS))
			r.frames.Add(1)
			r.src.t.frames.Add(1)
		}
	}
}

// begin begins to publish the rendition, unless it has begun, and reports whether it did. A
// name that somebody else has is tried again at a key frame, p, for as long as it takes.
func (r *rendition) begin(p *av.Packet) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	late := !r.again.IsZero()
	switch {
	case r.pub != nil:
		return true
	case late && (p.Config || r.video && !p.Key || time.Now().Before(r.again)):
		return false
	}
	of := r.src.s.Push()
	client := event.Client{Domain: of.Client.Domain, Protocol: "transcode", NodeAddr: of.Client.NodeAddr}
	r.src.madeMu.Lock()
	defer r.src.madeMu.Unlock()
	pub, err := r.src.t.hub.Publish(r.src.rendition(r.Suffix), r.app(), stream.Push{Sequence: event.NewSequence(), Client: client, Of: r.src.s, Continues: r.src.made[r.Suffix] == r.of})
	r.src.mu.Lock()
	defer r.src.mu.Unlock()
	if err != nil {
		if !late {
			r.log.Warn("rendition cannot be published", "err", err)
		}
		r.again = time.Now().Add(r.src.t.pace.again)
		r.src.errs[r.Suffix] = err.Error()
		return false
	}
	r.pub, r.src.made[r.Suffix] = pub, r.of
	delete(r.src.errs, r.Suffix)
	if late {
		for _, c := range r.configs {
			if c.Frame != nil {
				c.DTS = p.DTS
				r.pub.WritePacket(c)
			}
		}
	}
	return true
}

// publish writes a packet into the hub.
func (r *rendition) publish(p av.Packet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pub.WritePacket(p)
}

// app is the policy of the rendition: its source's, without what renditions
// don't have unless their template says so.
func (r *rendition) app() *policy.App {
	app := *r.src.s.App()
	app.Transcode = nil
	app.IdleTimeout = time.Hour // the source's counts
	app.MaxLead = 0             // what ffmpeg catches up with comes at once
	app.Takeover = false
	t := r.template
	if !t.Callbacks {
		app.Callback = new(policy.Callback) // nobody; nil would be the space's
	}
	if !t.Record {
		app.Record.Mode = policy.RecordOff
	}
	if !t.Snapshot {
		app.Snapshot.Enabled = false
	}
	if t.Trigger == policy.TranscodePlay && app.HLS.Mode == policy.HLSAlways {
		app.HLS.Mode = policy.HLSOnDemand // nobody would be the last who plays it
	}
	app.Quality = policy.Quality{}
	return &app
}

// end ends the rendition and returns the newest time that it has had.
func (r *rendition) end(reason stream.EndReason) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pub != nil {
		r.pub.End(reason)
	}
	return r.newest.Load()
}

// tagged gives the packets of a format that has none the tags that players get.
type tagged struct{ av.Reader }

func (t tagged) ReadPacket() (av.Packet, error) {
	p, err := t.Reader.ReadPacket()
	if err != nil || p.Tag != nil {
		return p, err
	}
	n := len(p.Frame)
	if p.Kind == av.Video {
		p.Tag = flv.AppendVideo(make([]byte, 0, n+16), p.Codec, p.Key, p.Config, p.CTS, p.Frame)
	} else {
		p.Tag = flv.AppendAudio(make([]byte, 0, n+16), p.Codec, p.Config, p.Frame)
	}
	p.Frame = p.Tag[len(p.Tag)-n:]
	return p, nil
}
