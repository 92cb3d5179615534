package transcode

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/policy"
)

// candidates are the encoders of each codec, by kind.
var candidates = map[policy.Encoder][3]string{ // H.264, HEVC, AV1
	policy.EncoderCPU:   {"libx264", "libx265", "libsvtav1"},
	policy.EncoderNVENC: {"h264_nvenc", "hevc_nvenc", "av1_nvenc"},
	policy.EncoderQSV:   {"h264_qsv", "hevc_qsv", "av1_qsv"},
	policy.EncoderVAAPI: {"h264_vaapi", "hevc_vaapi", "av1_vaapi"},
}

// hardware is the order in which EncoderAuto tries.
var hardware = []policy.Encoder{policy.EncoderNVENC, policy.EncoderQSV, policy.EncoderVAAPI}

// Ability says whether an encoder works here.
type Ability struct {
	Name  string // ffmpeg's
	Kind  policy.Encoder
	Codec policy.VideoCodec
	Works bool
	Error string // why not
}

// Abilities tries every encoder that ffmpeg has and returns what came of it. It
// takes a second or so, at first.
func (t *Transcoder) Abilities(ctx context.Context) []Ability {
	var list []Ability
	for _, kind := range append([]policy.Encoder{policy.EncoderCPU}, hardware...) {
		for codec, name := range candidates[kind] {
			a := Ability{Name: name, Kind: kind, Codec: policy.VideoCodec(codec)}
			if err := t.works(ctx, kind, name); err != nil {
				a.Error = err.Error()
			} else {
				a.Works = true
			}
			list = append(list, a)
		}
	}
	return list
}

// Can returns why this machine cannot encode a codec with that encoder, or nil.
func (t *Transcoder) Can(ctx context.Context, e policy.Encoder, codec policy.VideoCodec) error {
	_, err := t.choose(ctx, e, codec)
	return err
}

// choose returns the encoder of a rendition: of what its template allows, the
// first that works here.
func (t *Transcoder) choose(ctx context.Context, want policy.Encoder, codec policy.VideoCodec) (encoder, error) {
	kinds := []policy.Encoder{want}
	if want == policy.EncoderAuto {
		kinds = append(append([]policy.Encoder(nil), hardware...), policy.EncoderCPU)
	}
	var last error
	for _, kind := range kinds {
		name := candidates[kind][codec]
		if last = t.works(ctx, kind, name); last != nil {
			continue
		}
		e, err := t.newEncoder(kind, name)
		if err == nil {
			return e, nil
		}
		last = err
	}
	return encoder{}, fmt.Errorf("no encoder for %s: %w", codec, last)
}

// newEncoder returns an encoder with what it needs of the machine, or why that is not there.
func (t *Transcoder) newEncoder(kind policy.Encoder, name string) (encoder, error) {
	e := encoder{name: name}
	below := func(pattern string) []string {
		list, _ := filepath.Glob(filepath.Join(t.dev, pattern))
		return list
	}
	switch kind {
	case policy.EncoderVAAPI, policy.EncoderQSV:
		nodes := below("dri/renderD*")
		if len(nodes) == 0 {
			return e, fmt.Errorf("this machine has no %s/dri/renderD*", t.dev)
		}
		e.devices = nodes[:1] // of several cards the first
		e.files = []string{filepath.Join(t.dev, "dri")}
		if card, err := filepath.EvalSymlinks("/sys/class/drm/" + filepath.Base(nodes[0]) + "/device"); err == nil {
			e.files = append(e.files, card) // what it is, by which a driver is chosen
		}
		e.filters = []ffmpeg.Filter{filter("format", "pix_fmts", "nv12")}
		if kind == policy.EncoderVAAPI {
			e.filters = append(e.filters, filter("hwupload"))
			e.init = []ffmpeg.Option{ffmpeg.Word("init_hw_device", "vaapi=va:"+nodes[0]), ffmpeg.Word("filter_hw_device", "va")}
		} else { // whose encoder finds its device by the kind, and takes pictures as they are
			e.init = []ffmpeg.Option{ffmpeg.Word("init_hw_device", "qsv=qs,child_device="+nodes[0])}
		}
	case policy.EncoderNVENC:
		if len(below("nvidiactl")) == 0 {
			return e, fmt.Errorf("this machine has no %s/nvidiactl", t.dev)
		}
		e.devices = append(below("nvidia[0-9]*"), below("nvidiactl")...)
		e.devices = append(append(e.devices, below("nvidia-uvm")...), below("nvidia-uvm-tools")...)
		// What its libraries read of the driver.
		e.files = []string{"/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/module/nvidia", "/sys/devices/system/memory"}
	}
	return e, nil
}

// trial is what came of an encoder.
type trial struct {
	err error
	at  time.Time
}

// trialLife is for how long an encoder that failed is believed not to work: the machine
// may have been busy.
const trialLife = time.Minute

// works tries an encoder on some grey frames, once if it does.
func (t *Transcoder) works(ctx context.Context, kind policy.Encoder, name string) error {
	t.trialMu.Lock()
	defer t.trialMu.Unlock()
	if last, tried := t.trials[name]; tried && (last.err == nil || time.Since(last.at) < trialLife) {
		return last.err
	}
	err := t.try(ctx, kind, name)
	if ctx.Err() == nil {
		t.trials[name] = trial{err, time.Now()}
	}
	return err
}

func (t *Transcoder) try(ctx context.Context, kind policy.Encoder, name string) error {
	if err := t.tool.Ready(ctx); err != nil {
		return err
	}
	if !t.tool.Has(ctx, name) {
		return fmt.Errorf("this ffmpeg has no %s", name)
	}
	e, err := t.newEncoder(kind, name)
	if err != nil {
		return err
	}
	const w, h, frames = 320, 240, 5
	list := candidates[kind]
	j := &ffmpeg.Job{
		Name:   "try " + name,
		Inputs: []ffmpeg.Input{{Format: "rawvideo", Options: []ffmpeg.Option{ffmpeg.Word("pixel_format", "yuv420p"), ffmpeg.Word("video_size", "320x240")}}},
		Limits: ffmpeg.Limits{Time: 20 * time.Second, Memory: 2 << 30},
	}
	// As it will be used, at a rate that any will do.
	var tpl policy.Transcode
	tpl.SetDefaults()
	codec := policy.VideoCodec(max(0, slices.Index(list[:], name)))
	o := &output{Rendition: &policy.Rendition{Codec: codec}, template: &tpl, rate: rate{25, 1}, gop: 50, bitRate: 200_000}
	opts := append([]ffmpeg.Option{ffmpeg.Map("0:v:0")}, e.options(o)...)
	if len(e.filters) > 0 {
		opts = append(opts, ffmpeg.FilterVideo(e.filters...))
	}
	e.use(j)
	j.Outputs = []ffmpeg.Output{{Format: "matroska", Options: opts, Max: 4 << 20}}
	grey := make([]byte, w*h*3/2*frames)
	for i := range grey {
		grey[i] = 128
	}
	_, _, err = t.tool.Run(ctx, j, grey)
	return err
}

// use gives a job what the encoder needs, unless another output has seen to that.
func (e encoder) use(j *ffmpeg.Job) {
	for _, o := range e.init {
		if !slices.Contains(j.Options, o) {
			j.Options = append(j.Options, o)
		}
	}
	if len(e.devices) > 0 && !slices.Contains(j.Devices, e.devices[0]) {
		j.Devices, j.Files = append(j.Devices, e.devices...), append(j.Files, e.files...)
	}
}
