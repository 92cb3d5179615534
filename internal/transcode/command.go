package transcode

import (
	"fmt"
	"math"
	"strconv"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/mkv"
	"weir/internal/policy"
)

// lead is where the time of an ffmpeg begins, in ms, so that what it makes of
// the first frames is never negative. It is whole frames of all usual rates.
const lead = 10_000

// memory is what the ffmpeg of a transcode may take, in bytes.
const memory = 3 << 30

// carrier is the format in which a stream is fed to ffmpeg, or a rendition comes out
// of it: the simplest that has its codecs and that ffmpeg has had for long; "" where
// there is none.
func carrier(video, audio av.Codec) string {
	switch plain := audio == av.Unknown || audio == av.AAC || audio == av.MP3; {
	case plain && (video == av.Unknown || video == av.H264):
		return "flv"
	case plain && video == av.HEVC:
		return "mpegts"
	case (video == av.Unknown || mkv.Supports(video)) && (audio == av.Unknown || mkv.Supports(audio)):
		return "matroska"
	}
	return ""
}

// codec is what a rendition's video is coded with.
func (o *output) codec(m *media) av.Codec {
	switch {
	case !o.video:
		return av.Unknown
	case o.Copy.Video():
		return m.video
	case o.Codec == policy.VideoHEVC:
		return av.HEVC
	case o.Codec == policy.VideoAV1:
		return av.AV1
	}
	return av.H264
}

// command is the command line of one ffmpeg under construction.
type command struct {
	job    *ffmpeg.Job
	inputs [][]byte // of the inputs after the first: pictures
	media  *media
	from   int64 // nothing before this comes out, ms of ffmpeg's time
}

// command returns the job that makes outs of m, and what its inputs after the
// first are fed. Nothing before from, in ms of its time, comes out.
func (t *Transcoder) command(name string, m *media, outs []*output, logos map[logo][]byte, from int64) *command {
	c := &command{media: m, from: from, job: &ffmpeg.Job{
		Name: "transcode " + name, Progress: true, Limits: ffmpeg.Limits{Stall: t.pace.stall, Memory: memory, Nice: t.pace.nice},
		Options: []ffmpeg.Option{ffmpeg.Flag("copyts")},
		Inputs: []ffmpeg.Input{{
			Format: carrier(m.video, m.audio),
			// It is not to wait for more than is there.
			Options: []ffmpeg.Option{ffmpeg.Int("probesize", max(m.head, 32)), ffmpeg.Int("analyzeduration", 500_000)},
		}},
	}}
	var pictures []*output
	for _, o := range outs {
		if o.video && o.Encodes() {
			pictures = append(pictures, o)
		}
	}
	in := func(i int) string { return "split" + strconv.Itoa(i) }
	switch len(pictures) {
	case 0:
	case 1:
		in = func(int) string { return "0:v:0" }
	default:
		split := ffmpeg.Chain{In: []string{"0:v:0"}, Filters: []ffmpeg.Filter{filter("split", "outputs", strconv.Itoa(len(pictures)))}}
		for i := range pictures {
			split.Out = append(split.Out, in(i))
		}
		c.job.Filters = append(c.job.Filters, split)
	}
	ends := make(map[*output]string)
	for i, o := range pictures {
		ends[o] = c.picture(o, i, in(i), logos, t.opt.Font)
		o.enc.use(c.job)
	}
	for _, o := range outs {
		c.output(o, ends[o])
	}
	return c
}

func filter(name string, args ...string) ffmpeg.Filter {
	f := ffmpeg.Filter{Name: name}
	for i := 0; i+1 < len(args); i += 2 {
		f.Args = append(f.Args, ffmpeg.Arg{Key: args[i], Value: args[i+1]})
	}
	return f
}

// picture adds the filters that make the picture of o, and returns their end.
func (c *command) picture(o *output, i int, in string, logos map[logo][]byte, font string) string {
	n := strconv.Itoa(i)
	chain := ffmpeg.Chain{In: []string{in}}
	add := func(f ffmpeg.Filter) { chain.Filters = append(chain.Filters, f) }
	if c.from > lead {
		half := int64(math.Ceil(500 / o.rate.float())) // by which fps may put it earlier
		add(filter("trim", "start", seconds(c.from+half)))
	}
	add(filter("fps", "fps", o.rate.String()))
	if o.width != c.media.width || o.height != c.media.height {
		add(filter("scale", "w", strconv.Itoa(o.width), "h", strconv.Itoa(o.height)))
	}
	add(filter("setsar", "sar", "1"))
	for j, l := range o.Logos {
		picture := logos[logo{l.Bucket, l.Key}]
		if picture == nil {
			continue
		}
		// The picture is read once and then stays.
		format := "png_pipe"
		if len(picture) > 2 && picture[0] == 0xFF && picture[1] == 0xD8 {
			format = "jpeg_pipe"
		}
		k := strconv.Itoa(len(c.job.Inputs))
		c.job.Inputs = append(c.job.Inputs, ffmpeg.Input{Format: format})
		c.inputs = append(c.inputs, picture)
		size := "-1"
		if l.Scale > 0 {
			size = strconv.Itoa(max(2, min(o.width, o.height)*l.Scale/100))
		}
		mark, base := "logo"+n+"x"+strconv.Itoa(j), "base"+n+"x"+strconv.Itoa(j)
		c.job.Filters = append(c.job.Filters, ffmpeg.Chain{
			In: []string{k + ":v:0"}, Filters: []ffmpeg.Filter{filter("scale", "w", "-1", "h", size)}, Out: []string{mark},
		})
		chain.Out = []string{base}
		c.job.Filters = append(c.job.Filters, chain)
		x, y := corner(l.Corner, l.X, l.Y, "main_w", "overlay_w", "main_h", "overlay_h")
		chain = ffmpeg.Chain{In: []string{base, mark}}
		add(filter("overlay", "x", x, "y", y, "eof_action", "repeat"))
	}
	if k := o.Clock; k != nil && font != "" {
		x, y := corner(k.Corner, k.X, k.Y, "w", "tw", "h", "th")
		add(filter("drawtext", "fontfile", font, "text", "%{gmtime}", "x", x, "y", y, "fontcolor", "white", "box", "1", "boxcolor", "black@0.5",
			"boxborderw", "4", "fontsize", strconv.Itoa(max(8, min(o.width, o.height)*k.Size/100))))
		c.job.Files = append(c.job.Files, font)
	}
	chain.Filters = append(chain.Filters, o.enc.filters...)
	end := "out" + n
	chain.Out = []string{end}
	c.job.Filters = append(c.job.Filters, chain)
	return end
}

// corner returns where something lies that is x and y away from a corner.
func corner(c policy.Corner, x, y int, w, ow, h, oh string) (string, string) {
	left, top := strconv.Itoa(x), strconv.Itoa(y)
	if c == policy.TopRight || c == policy.BottomRight {
		left = w + "-" + ow + "-" + left
	}
	if c == policy.BottomLeft || c == policy.BottomRight {
		top = h + "-" + oh + "-" + top
	}
	return left, top
}

// output adds the output o, whose picture comes from the filter's end.
func (c *command) output(o *output, end string) {
	var opts []ffmpeg.Option
	add := func(list ...ffmpeg.Option) { opts = append(opts, list...) }
	switch {
	case !o.video:
	case o.Copy.Video():
		add(ffmpeg.Map("0:v:0"), ffmpeg.Word("c:v", "copy"))
	default:
		add(ffmpeg.Map(end))
		add(o.enc.options(o)...)
	}
	switch {
	case !o.audio:
	case o.Copy.Audio() && c.media.audio == av.AAC:
		add(ffmpeg.Map("0:a:0"), ffmpeg.Word("c:a", "copy"))
	default:
		sync := []ffmpeg.Filter{filter("aresample", "async", "1000")}
		if c.from > lead {
			sync = append([]ffmpeg.Filter{filter("atrim", "start", seconds(c.from))}, sync...)
		}
		add(ffmpeg.Map("0:a:0"), ffmpeg.Word("c:a", "aac"), ffmpeg.Int("b:a", int64(o.AudioBitRate)), ffmpeg.Int("ac", 2), ffmpeg.FilterAudio(sync...))
	}
	add(ffmpeg.Word("avoid_negative_ts", "disabled"), ffmpeg.Int("flush_packets", 1), ffmpeg.Int("max_muxing_queue_size", 1024),
		ffmpeg.Int("max_interleave_delta", 500_000)) // where sound stops, the picture doesn't wait for it
	switch o.format = carrier(o.codec(c.media), av.Unknown); o.format { // sound is AAC
	case "mpegts":
		add(ffmpeg.Int("mpegts_copyts", 1), ffmpeg.Int("muxdelay", 0), ffmpeg.Int("muxpreload", 0))
	case "matroska":
		add(ffmpeg.Int("live", 1), ffmpeg.Int("cluster_time_limit", 0))
	default:
		add(ffmpeg.Word("flvflags", "no_duration_filesize"))
	}
	c.job.Outputs = append(c.job.Outputs, ffmpeg.Output{Format: o.format, Options: opts})
}

func seconds(ms int64) string { return fmt.Sprintf("%d.%03d", ms/1000, ms%1000) }

// encoder is how video is encoded: what of ffmpeg does it, and how it wants it.
type encoder struct {
	name    string
	filters []ffmpeg.Filter
	init    []ffmpeg.Option // of the hardware that it is on
	devices []string        // that it uses
	files   []string        // that it reads
}

// options are those of the video encoder for o: constant GOPs, no frames out of
// order, a rate that stays near its target.
func (e encoder) options(o *output) []ffmpeg.Option {
	gop := int64(o.gop)
	bits := int64(o.bitRate)
	opts := []ffmpeg.Option{ffmpeg.Word("c:v", e.name), ffmpeg.Int("b:v", bits), ffmpeg.Int("g:v", gop)}
	if e.name != "libsvtav1" { // which has no constant rate for all of its versions
		opts = append(opts, ffmpeg.Int("maxrate:v", bits), ffmpeg.Int("bufsize:v", bits))
	}
	profile := o.Profile
	if profile == policy.ProfileAuto && o.Codec == policy.VideoH264 {
		profile = policy.ProfileMain
	}
	switch {
	case profile == policy.ProfileAuto:
	case profile == policy.ProfileBaseline && e.name == "h264_vaapi": // whose other names are the same
		opts = append(opts, ffmpeg.Word("profile:v", "constrained_baseline"))
	default:
		opts = append(opts, ffmpeg.Word("profile:v", profile.String()))
	}
	cut := o.template.SceneCut
	add := func(list ...ffmpeg.Option) { opts = append(opts, list...) }
	switch e.name {
	case "libx264":
		add(ffmpeg.Word("preset:v", o.template.Preset), ffmpeg.Word("tune:v", "zerolatency"), ffmpeg.Word("pix_fmt:v", "yuv420p"))
		if !cut {
			add(ffmpeg.Int("keyint_min:v", gop), ffmpeg.Int("sc_threshold:v", 0))
		}
	case "libx265":
		params := "log-level=none:bframes=0:rc-lookahead=5:open-gop=0"
		if !cut {
			params += fmt.Sprintf(":scenecut=0:min-keyint=%d", gop)
		}
		add(ffmpeg.Word("preset:v", o.template.Preset), ffmpeg.Word("pix_fmt:v", "yuv420p"), ffmpeg.Word("x265-params", params))
	case "libsvtav1":
		add(ffmpeg.Int("preset:v", svtPreset(o.template.Preset)), ffmpeg.Word("pix_fmt:v", "yuv420p"), ffmpeg.Word("svtav1-params", "pred-struct=1:scd=0"))
	case "h264_nvenc", "hevc_nvenc", "av1_nvenc":
		add(ffmpeg.Word("preset:v", "p4"), ffmpeg.Word("tune:v", "ll"), ffmpeg.Word("rc:v", "cbr"), ffmpeg.Int("bf:v", 0), ffmpeg.Int("forced-idr:v", 1))
		if !cut {
			add(ffmpeg.Int("no-scenecut:v", 1))
		}
	default: // VAAPI, QSV
		add(ffmpeg.Int("bf:v", 0))
	}
	return opts
}

// svtPreset is what SVT-AV1 calls the presets of the others.
func svtPreset(name string) int64 {
	return map[string]int64{"ultrafast": 12, "superfast": 11, "veryfast": 10, "faster": 9, "fast": 8, "medium": 7, "slow": 6}[name]
}
