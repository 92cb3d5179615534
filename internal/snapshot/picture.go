package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image/jpeg"
	"strconv"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Picture is one picture of a stream. Nobody changes it once it is there.
type Picture struct {
	Stream              stream.Key
	Sequence            string // of the push
	Captured            time.Time
	JPEG                []byte
	Width, Height       int
	SrcWidth, SrcHeight int    // of the video, as it is shown
	ETag                string // without quotes; differs when the picture does

	Bucket, Object string // where it is stored; Object is empty where it is not
}

// Limits of the ffmpeg that makes one picture.
const (
	pictureCPU    = 5 * time.Second
	pictureMemory = 512 << 20
	pictureSize   = 16 << 20
	maxPixels     = 8192 * 4352 // 8K
)

// scales are the quantisers of the JPEG encoder by quality: 2 is its best, 31
// its worst.
var scales = [...]int64{1: 31, 24, 18, 14, 10, 8, 6, 4, 3, 2}

// Whoever wants the processor interrupts a picture, but it takes something from
// them all the same: caches, moments in the kernel, and what storing it costs.
// So a picture that had to wait for the processor is followed by a pause, so many
// times as long: where there are processors to spare pictures take what they
// need, and where there are not, little.
const (
	restFor = 16
	maxRest = time.Second
	startup = 2 * time.Millisecond // of a job, which is no waiting
)

// rest returns how long the pause is after a picture that took so long, of which
// it computed for cpu.
func rest(took, cpu time.Duration) time.Duration {
	return min(max(restFor*(took-cpu-startup), 0), maxRest)
}

// picture decodes c and makes a JPEG of it. It also returns how long the pause
// after it is.
func (s *Snapshotter) picture(c *capture) (p *Picture, pause time.Duration, err error) {
	e, err := c.source.elementary()
	if err != nil {
		return nil, 0, err
	}
	decoder, err := s.decoder(c.source.codec)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	out, use, err := s.opt.Tool.Run(s.ctx, job(&e, decoder, c.cfg, s.opt.Time), e.data)
	pause = rest(time.Since(began), use.CPU)
	s.cpu.Add(int64(use.CPU))
	if err != nil {
		return nil, pause, err
	}
	if p, err = newPicture(out); err != nil {
		return nil, pause, err
	}
	p.SrcWidth, p.SrcHeight = e.width, e.height
	if p.SrcWidth == 0 && c.cfg.Width == 0 && c.cfg.Height == 0 {
		p.SrcWidth, p.SrcHeight = p.Width, p.Height
	} else if e.rotate%180 != 0 {
		p.SrcWidth, p.SrcHeight = e.height, e.width
	}
	return p, pause, nil
}

// decoder returns the decoder of a codec that the ffmpeg of this machine has.
func (s *Snapshotter) decoder(codec av.Codec) (string, error) {
	if err := s.opt.Tool.Ready(s.ctx); err != nil {
		return "", err
	}
	for _, d := range decoders[codec] {
		if s.opt.Tool.Has(s.ctx, d) {
			return d, nil
		}
	}
	return "", &failure{errCodec, fmt.Sprintf("the ffmpeg of this server cannot decode %v", codec)}
}

// newPicture checks what the decoder has made, which is no more to be believed
// than what it was made of.
func newPicture(b []byte) (*Picture, error) {
	if !bytes.HasPrefix(b, []byte{0xFF, 0xD8}) || !bytes.HasSuffix(b, []byte{0xFF, 0xD9}) {
		return nil, errUnfit
	}
	info, err := jpeg.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("ffmpeg has made no JPEG: %w", err)
	}
	sum := sha256.Sum256(b)
	return &Picture{JPEG: b, Width: info.Width, Height: info.Height, ETag: hex.EncodeToString(sum[:16])}, nil
}

// job is the ffmpeg that makes a JPEG of e.
func job(e *elementary, decoder string, cfg *policy.Snapshot, limit time.Duration) *ffmpeg.Job {
	var filters []ffmpeg.Filter
	switch e.rotate {
	case 90:
		filters = append(filters, ffmpeg.Filter{Name: "transpose", Args: []ffmpeg.Arg{{Key: "dir", Value: "clock"}}})
	case 180:
		filters = append(filters, ffmpeg.Filter{Name: "hflip"}, ffmpeg.Filter{Name: "vflip"})
	case 270:
		filters = append(filters, ffmpeg.Filter{Name: "transpose", Args: []ffmpeg.Arg{{Key: "dir", Value: "cclock"}}})
	}
	if e.stretch { // the turn comes later, and viewers of a JPEG know of no oblong pixels
		filters = append([]ffmpeg.Filter{
			{Name: "scale", Args: []ffmpeg.Arg{{Key: "w", Value: strconv.Itoa(e.width)}, {Key: "h", Value: strconv.Itoa(e.height)}, {Key: "flags", Value: "bilinear"}}},
			{Name: "setsar", Args: []ffmpeg.Arg{{Key: "sar", Value: "1"}}},
		}, filters...)
	}
	if e.flip {
		filters = append([]ffmpeg.Filter{{Name: "hflip"}}, filters...)
	}
	if cfg.Width > 0 || cfg.Height > 0 {
		filters = append(filters, ffmpeg.Filter{Name: "scale", Args: []ffmpeg.Arg{
			{Key: "w", Value: side(cfg.Width, "iw", cfg.NeverEnlarge)}, {Key: "h", Value: side(cfg.Height, "ih", cfg.NeverEnlarge)},
			{Key: "flags", Value: "bilinear"},
		}})
	}
	// Each option that is FFmpeg's and not the program's is looked for in the
	// options of some thousand codecs and formats, so there are few. To learn what
	// is in the stream nothing is decoded: the decoder will see.
	in := []ffmpeg.Option{
		ffmpeg.Word("c:v", decoder), ffmpeg.Int("threads", 1), ffmpeg.Int("max_pixels", maxPixels), ffmpeg.Word("err_detect", "explode"),
		ffmpeg.Flag("nofind_stream_info"),
	}
	out := []ffmpeg.Option{
		ffmpeg.Map("0:v:0"), ffmpeg.Int("frames:v", 1), ffmpeg.Word("c:v", "mjpeg"), ffmpeg.Word("pix_fmt", "yuvj420p"), ffmpeg.Int("threads", 1), ffmpeg.Flag("bitexact"),
		ffmpeg.Int("q:v", scales[cfg.QualityTaken()]),
	}
	if len(filters) > 0 {
		out = append(out, ffmpeg.FilterVideo(filters...))
	}
	return &ffmpeg.Job{
		Name:    "picture",
		Options: []ffmpeg.Option{ffmpeg.Int("filter_threads", 1)},
		Inputs:  []ffmpeg.Input{{Format: e.format, Options: in}},
		Outputs: []ffmpeg.Output{{Format: "image2pipe", Options: out, Max: pictureSize}},
		Limits:  ffmpeg.Limits{Time: limit, CPU: pictureCPU, Memory: pictureMemory, Nice: 19, Cores: 1},
	}
}

// side is a side of the picture as the scale filter takes it: 0 keeps the
// aspect.
func side(n int, of string, never bool) string {
	switch {
	case n == 0:
		return "-1"
	case never:
		return "min(" + strconv.Itoa(n) + "," + of + ")"
	}
	return strconv.Itoa(n)
}
