package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/mpegts"
	"weir/internal/storage"
)

// exactLimits are those of a process that encodes a clip.
var exactLimits = ffmpeg.Limits{Stall: 2 * time.Minute, Memory: 3 << 30, Nice: 10}

// canEncode returns ErrExact with the reason if no exact clip can be made here.
func (r *Recorder) canEncode(ctx context.Context) error {
	if r.clips.tool == nil {
		return fmt.Errorf("%w: there is no ffmpeg", ErrExact)
	}
	if err := r.clips.tool.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrExact, err)
	}
	if !r.clips.tool.Has(ctx, "libx264") {
		return fmt.Errorf("%w: this ffmpeg has no libx264", ErrExact)
	}
	return nil
}

// encode calls f with the packets of an exact clip, whose times count from the
// key frame before it: picture that ffmpeg has encoded anew, from the frame at
// the beginning to that at the end, and sound as it is.
func (c *clip) encode(ctx context.Context, b storage.Bucket, j *clipJob, f func(av.Packet) error) error {
	if err := c.r.canEncode(ctx); err != nil {
		return err
	}
	x := j.Cut
	p, err := c.r.clips.tool.Start(ctx, c.command(ctx, j))
	if err != nil {
		return err
	}
	defer p.Close()
	fed := make(chan error, 1)
	go func() { // ends when all is written, or with the process
		defer p.Input(0).Close()
		fed <- c.feed(ctx, b, j, p.Input(0))
	}()
	d := mpegts.NewDemuxer(p.Output(0))
	pictures := 0
	from, to := x.sound(false)
	for {
		pkt, err := d.ReadPacket()
		if err == io.EOF {
			break
		}
		if err == nil {
			pkt.DTS -= baseTime
			switch at := pkt.DTS + x.First; {
			case pkt.Kind == av.Video && !pkt.Config:
				pictures++
				err = f(pkt)
			case pkt.Config || at >= from && at < to:
				err = f(pkt)
			}
		}
		if err != nil {
			p.Kill()
			<-fed
			return err
		}
	}
	<-p.Done()
	err = <-fed
	var fail *failure
	if bad := p.Err(); bad != nil && !errors.As(err, &fail) && ctx.Err() == nil {
		err = bad
		if e := (*ffmpeg.Error)(nil); errors.As(bad, &e) && e.Reason != ffmpeg.Killed {
			c.log.Warn("ffmpeg", "says", e.Stderr)
			err = &failure{errnumMedia, bad}
		}
	}
	if err == nil && pictures == 0 {
		err = &failure{errnumMedia, errors.New("there is no picture in the range")}
	}
	return err
}

// feed writes what an exact clip is made of as a transport stream.
func (c *clip) feed(ctx context.Context, b storage.Bucket, j *clipJob, w io.Writer) error {
	mux := mpegts.NewMuxer(baseTime * mpegts.Clock)
	h := chosen{x: j.Cut, all: true, f: func(p av.Packet) error {
		if p.Break {
			mux.Break()
		}
		p.DTS -= j.Cut.First
		if err := mux.WritePacket(p); err != nil && !errors.Is(err, mpegts.ErrFrame) {
			return err
		}
		if mux.Size() < pieceSize {
			return nil
		}
		data, _ := mux.Cut()
		_, err := w.Write(data)
		return err
	}}
	if err := c.packets(ctx, b, j, j.Cut.Segments, j.Cut.Base, h.add); err != nil {
		return err
	}
	data, _ := mux.Cut()
	_, err := w.Write(data)
	return err
}

// command is what ffmpeg does for an exact clip. All of its times are those of the
// transport stream.
func (c *clip) command(ctx context.Context, j *clipJob) *ffmpeg.Job {
	x := j.Cut
	at := func(ms int64) string { // half a millisecond before: times are rounded
		return strconv.FormatFloat(float64(ms-x.First+baseTime)/1000-0.0005, 'f', 4, 64)
	}
	filters := []ffmpeg.Filter{{Name: "trim", Args: []ffmpeg.Arg{{Key: "start", Value: at(x.From + x.Lead)}, {Key: "end", Value: at(x.To + x.Tail)}}}}
	if x.Width > 0 { // whatever size comes later
		filters = append(filters, ffmpeg.Filter{Name: "scale", Args: []ffmpeg.Arg{{Key: "w", Value: strconv.Itoa(x.Width)}, {Key: "h", Value: strconv.Itoa(x.Height)}}})
	}
	out := []ffmpeg.Option{ffmpeg.Map("0:v:0"), ffmpeg.Map("0:a:0?"), ffmpeg.Word("c:a", "copy")}
	if x.Codec == av.HEVC && c.r.clips.tool.Has(ctx, "libx265") {
		out = append(out, ffmpeg.Word("c:v", "libx265"), ffmpeg.Word("preset:v", "fast"), ffmpeg.Int("crf:v", 20),
			ffmpeg.Word("x265-params", "log-level=none:open-gop=0"))
	} else {
		filters = append(filters, ffmpeg.Filter{Name: "format", Args: []ffmpeg.Arg{{Key: "pix_fmts", Value: "yuv420p"}}})
		out = append(out, ffmpeg.Word("c:v", "libx264"), ffmpeg.Word("preset:v", "fast"), ffmpeg.Int("crf:v", 18))
	}
	out = append(out,
		ffmpeg.FilterVideo(filters...),
		ffmpeg.Word("enc_time_base:v", "1:90000"), // frames stay where they are, whatever the frame rate
		ffmpeg.Word("avoid_negative_ts", "disabled"), ffmpeg.Int("max_muxing_queue_size", 4096),
		ffmpeg.Int("mpegts_copyts", 1), ffmpeg.Int("muxdelay", 0), ffmpeg.Int("muxpreload", 0),
	)
	return &ffmpeg.Job{
		Name: "clip " + j.Name, Limits: exactLimits,
		Options: []ffmpeg.Option{ffmpeg.Flag("copyts")},
		Inputs:  []ffmpeg.Input{{Format: "mpegts", Options: []ffmpeg.Option{ffmpeg.Int("probesize", 4<<20), ffmpeg.Int("analyzeduration", 500_000)}}},
		Outputs: []ffmpeg.Output{{Format: "mpegts", Options: out}},
	}
}
