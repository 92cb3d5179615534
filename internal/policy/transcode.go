package policy

import (
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Transcode is a template of live transcoding: which renditions are made of the
// streams of an app (contract D). All outputs of a stream's templates are made by
// one ffmpeg, which decodes the stream once. A push keeps the templates that it
// began with.
type Transcode struct {
	Name        string           `yaml:"name"`
	Description string           `yaml:"description"`
	Trigger     TranscodeTrigger `yaml:"trigger"`
	Idle        time.Duration    `yaml:"idle"` // TranscodePlay: it ends so long after the last player has left

	GOP      time.Duration `yaml:"gop"`       // between key frames, the same in all outputs
	SceneCut bool          `yaml:"scene_cut"` // further key frames where the scene changes; outputs are not aligned then
	Encoder  Encoder       `yaml:"encoder"`
	Preset   string        `yaml:"preset"` // of the software encoders: ultrafast … slow
	Shed     bool          `yaml:"shed"`   // give up the largest output where the machine can't keep up

	// Master is the names under which the HLS master playlist is served: always
	// master.m3u8 and, with all, every name that a stream's playlist has; the
	// stream's own is media.m3u8 then.
	Master TranscodeMaster `yaml:"master"`
	Source bool            `yaml:"source"` // the master playlist has the source, too

	// What renditions otherwise don't have.
	Callbacks bool `yaml:"callbacks"`
	Record    bool `yaml:"record"`
	Snapshot  bool `yaml:"snapshot"`

	Outputs []Rendition `yaml:"outputs"`
}

// SetDefaults gives t the settings of a template that says nothing else.
func (t *Transcode) SetDefaults() {
	*t = Transcode{Idle: 30 * time.Second, GOP: 2 * time.Second, Preset: "veryfast", Source: true}
}

// Rendition is one output of a template: the stream {stream}{suffix}.
type Rendition struct {
	Tier   int    `yaml:"tier"` // in the master playlist from the highest down; 0: as listed
	Suffix string `yaml:"suffix"`

	// The size of the picture. Of width and height, 0 keeps the aspect; short_side,
	// instead of both, is the shorter of the two, whichever that is.
	Width        int  `yaml:"width"`
	Height       int  `yaml:"height"`
	ShortSide    int  `yaml:"short_side"`
	NeverEnlarge bool `yaml:"never_enlarge"` // a smaller source keeps its size

	Codec     VideoCodec   `yaml:"codec"`
	Profile   VideoProfile `yaml:"profile"`
	BitRate   int          `yaml:"bit_rate"`   // of video, bit/s; never above the source's
	FrameRate int          `yaml:"frame_rate"` // never above the source's; 0 is the source's

	AudioBitRate int `yaml:"audio_bit_rate"` // bit/s

	Copy  Copied `yaml:"copy"`  // what is passed on as it is
	Drop  Copied `yaml:"drop"`  // what is left out: video makes a rendition for the ear
	Logos []Logo `yaml:"logos"` // on the picture
	Clock *Clock `yaml:"clock"` // the time of day on the picture

	Bandwidth int `yaml:"bandwidth"` // in the master playlist, bit/s; 0: what the bit rates come to
}

// SetDefaults gives r the settings of an output that says nothing else.
func (r *Rendition) SetDefaults() { *r = Rendition{NeverEnlarge: true, AudioBitRate: 64_000} }

// Encodes reports whether r has a picture of its own.
func (r *Rendition) Encodes() bool { return !r.Copy.Video() && !r.Drop.Video() }

// Logo is a picture, PNG or JPEG in a bucket, that is laid over a rendition's.
type Logo struct {
	Bucket string `yaml:"bucket"`
	Key    string `yaml:"key"`
	Corner Corner `yaml:"corner"`
	X      int    `yaml:"x"` // from the corner, in pixels of the rendition
	Y      int    `yaml:"y"`
	// Scale is the logo's height in per cent of the picture's shorter side; 0
	// leaves it as it is.
	Scale int `yaml:"scale"`
}

// Clock is the time of day, written on the picture.
type Clock struct {
	Corner Corner `yaml:"corner"`
	X      int    `yaml:"x"`
	Y      int    `yaml:"y"`
	Size   int    `yaml:"size"` // per cent of the picture's shorter side
}

// SetDefaults gives c the settings of one that says nothing else.
func (c *Clock) SetDefaults() { *c = Clock{X: 16, Y: 16, Size: 5} }

// TranscodeTrigger says when a template is used. Every template also is where a
// push asks for it by the parameter preset=NAME.
type TranscodeTrigger uint8

const (
	TranscodePublish TranscodeTrigger = iota // as long as the push lives
	TranscodePlay                            // while somebody plays a rendition
	TranscodeParam                           // where the push asks for it, and not otherwise
)

var transcodeTriggers = enum[TranscodeTrigger]{{"publish", TranscodePublish}, {"play", TranscodePlay}, {"param", TranscodeParam}}

func (t TranscodeTrigger) String() string                { return transcodeTriggers.name(t) }
func (t TranscodeTrigger) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t *TranscodeTrigger) UnmarshalText(b []byte) error { return transcodeTriggers.parse(b, t) }
func (TranscodeTrigger) words() []string                 { return transcodeTriggers.words() }

// TranscodeMaster says under which names a master playlist is served.
type TranscodeMaster uint8

const (
	MasterOwn TranscodeMaster = iota // master.m3u8
	MasterAll                        // and all names of the stream's playlist
)

var transcodeMasters = enum[TranscodeMaster]{{"own", MasterOwn}, {"all", MasterAll}}

func (m TranscodeMaster) String() string                { return transcodeMasters.name(m) }
func (m TranscodeMaster) MarshalText() ([]byte, error)  { return []byte(m.String()), nil }
func (m *TranscodeMaster) UnmarshalText(b []byte) error { return transcodeMasters.parse(b, m) }
func (TranscodeMaster) words() []string                 { return transcodeMasters.words() }

// Encoder is what encodes video.
type Encoder uint8

const (
	EncoderAuto  Encoder = iota // hardware that works here, otherwise software
	EncoderCPU                  // libx264, libx265, SVT-AV1
	EncoderVAAPI                // Intel and AMD graphics on Linux
	EncoderNVENC                // NVIDIA
	EncoderQSV                  // Intel Quick Sync
)

var encoders = enum[Encoder]{{"auto", EncoderAuto}, {"cpu", EncoderCPU}, {"vaapi", EncoderVAAPI}, {"nvenc", EncoderNVENC}, {"qsv", EncoderQSV}}

func (e Encoder) String() string                { return encoders.name(e) }
func (e Encoder) MarshalText() ([]byte, error)  { return []byte(e.String()), nil }
func (e *Encoder) UnmarshalText(b []byte) error { return encoders.parse(b, e) }
func (Encoder) words() []string                 { return encoders.words() }

// VideoCodec is what a rendition's video is encoded with.
type VideoCodec uint8

const (
	VideoH264 VideoCodec = iota
	VideoHEVC
	VideoAV1
)

var videoCodecs = enum[VideoCodec]{{"h264", VideoH264}, {"hevc", VideoHEVC}, {"av1", VideoAV1}}

func (v VideoCodec) String() string                { return videoCodecs.name(v) }
func (v VideoCodec) MarshalText() ([]byte, error)  { return []byte(v.String()), nil }
func (v *VideoCodec) UnmarshalText(b []byte) error { return videoCodecs.parse(b, v) }
func (VideoCodec) words() []string                 { return videoCodecs.words() }

// VideoProfile is the profile of a codec; ProfileAuto is what players take.
type VideoProfile uint8

const (
	ProfileAuto VideoProfile = iota
	ProfileBaseline
	ProfileMain
	ProfileHigh
)

var videoProfiles = enum[VideoProfile]{{"auto", ProfileAuto}, {"baseline", ProfileBaseline}, {"main", ProfileMain}, {"high", ProfileHigh}}

func (p VideoProfile) String() string                { return videoProfiles.name(p) }
func (p VideoProfile) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }
func (p *VideoProfile) UnmarshalText(b []byte) error { return videoProfiles.parse(b, p) }
func (VideoProfile) words() []string                 { return videoProfiles.words() }

// Copied is which of a stream's tracks: the guide's remux flag, 0 to 3.
type Copied uint8

const (
	CopyNothing Copied = iota
	CopyAudio
	CopyVideo
	CopyBoth
)

// Video reports whether c has the video.
func (c Copied) Video() bool { return c&CopyVideo != 0 }

// Audio reports whether c has the audio.
func (c Copied) Audio() bool { return c&CopyAudio != 0 }

var copies = enum[Copied]{{"nothing", CopyNothing}, {"audio", CopyAudio}, {"video", CopyVideo}, {"both", CopyBoth}}

func (c Copied) String() string                { return copies.name(c) }
func (c Copied) MarshalText() ([]byte, error)  { return []byte(c.String()), nil }
func (c *Copied) UnmarshalText(b []byte) error { return copies.parse(b, c) }
func (Copied) words() []string                 { return copies.words() }

// Corner is a corner of the picture.
type Corner uint8

const (
	TopLeft Corner = iota
	TopRight
	BottomLeft
	BottomRight
)

var corners = enum[Corner]{{"top_left", TopLeft}, {"top_right", TopRight}, {"bottom_left", BottomLeft}, {"bottom_right", BottomRight}}

func (c Corner) String() string                { return corners.name(c) }
func (c Corner) MarshalText() ([]byte, error)  { return []byte(c.String()), nil }
func (c *Corner) UnmarshalText(b []byte) error { return corners.parse(b, c) }
func (Corner) words() []string                 { return corners.words() }

// Limits of a template (contract D).
const (
	maxOutputs = 8 // of an app's templates together
	maxLogos   = 4
	maxSide    = 3000
)

var presets = "ultrafast superfast veryfast faster fast medium slow"

// transcode checks an app's templates.
func (c *checker) transcode(path string, list []Transcode) {
	names, suffixes, outputs := map[string]string{}, map[string]string{}, 0
	for i := range list {
		t, path := &list[i], path+indexed(i)
		c.name(path, t.Name, names)
		if n := len(t.Name); n == 1 || n > 32 {
			c.add(path+".name", "must have 2 to 32 characters, not %d", n)
		}
		if len(t.Description) > 256 {
			c.add(path+".description", "must have 256 characters at most, not %d", len(t.Description))
		}
		c.between(path+".idle", t.Idle, time.Second, time.Hour)
		c.between(path+".gop", t.GOP, 500*time.Millisecond, 20*time.Second)
		if t.Preset == "" || !strings.Contains(" "+presets+" ", " "+t.Preset+" ") {
			c.add(path+".preset", "must be one of %s, not %.64q", presets, t.Preset)
		}
		if len(t.Outputs) == 0 {
			c.add(path, "outputs are missing")
		}
		if outputs += len(t.Outputs); outputs > maxOutputs {
			c.add(path+".outputs", "an app can have %d outputs in all its templates", maxOutputs)
			return
		}
		for j := range t.Outputs {
			c.rendition(path+".outputs"+indexed(j), &t.Outputs[j], suffixes)
		}
	}
}

func (c *checker) rendition(path string, r *Rendition, suffixes map[string]string) {
	switch {
	case r.Suffix == "":
		c.add(path, "suffix is missing")
	case len(r.Suffix) > 32 || !ValidStreamName("a"+r.Suffix):
		c.add(path+".suffix", "%.128q is not the end of a name, such as _720", r.Suffix)
	case suffixes[r.Suffix] != "":
		c.add(path+".suffix", "%q is already the suffix of %s", r.Suffix, suffixes[r.Suffix])
	default:
		suffixes[r.Suffix] = path
	}
	within := func(name string, v, least, most int) {
		if v < least || v > most {
			c.add(path+"."+name, "must be %d to %d, not %d", least, most, v)
		}
	}
	within("tier", r.Tier, 0, 100)
	within("width", r.Width, 0, maxSide)
	within("height", r.Height, 0, maxSide)
	within("short_side", r.ShortSide, 0, maxSide)
	if r.ShortSide > 0 && (r.Width > 0 || r.Height > 0) {
		c.add(path+".short_side", "cannot be set beside width or height")
	}
	for name, v := range map[string]int{"width": r.Width, "height": r.Height, "short_side": r.ShortSide} {
		if v != 0 && v < 16 {
			c.add(path+"."+name, "must be 16 or more, or 0, not %d", v)
		}
	}
	if r.Encodes() {
		within("bit_rate", r.BitRate, 20_000, 30_000_000)
	}
	within("frame_rate", r.FrameRate, 0, 30)
	if !r.Copy.Audio() && !r.Drop.Audio() {
		within("audio_bit_rate", r.AudioBitRate, 5_000, 320_000)
	}
	if r.Codec != VideoH264 && r.Profile != ProfileAuto && !(r.Codec == VideoHEVC && r.Profile == ProfileMain) {
		c.add(path+".profile", "%s has no profile %s here; leave it out", r.Codec, r.Profile)
	}
	if r.Copy&r.Drop != 0 {
		c.add(path+".drop", "%s is copied as well", r.Copy&r.Drop)
	}
	if bits.OnesCount8(uint8(r.Drop)) == 2 {
		c.add(path+".drop", "leaves nothing")
	}
	if !r.Encodes() && (len(r.Logos) > 0 || r.Clock != nil) {
		c.add(path, "logos and clock need a picture that is encoded")
	}
	if len(r.Logos) > maxLogos {
		c.add(path+".logos", "must be %d at most, not %d", maxLogos, len(r.Logos))
	}
	for i := range r.Logos {
		l, path := &r.Logos[i], path+".logos"+indexed(i)
		if l.Key == "" || len(l.Key) > 1024 || strings.ContainsFunc(l.Key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			c.add(path+".key", "must be the key of an object, of 1 to 1024 characters")
		}
		if l.Bucket != "" && !ValidName(l.Bucket) {
			c.add(path+".bucket", "%.128q is not a name: %s", l.Bucket, NameForm)
		}
		c.offset(path, l.X, l.Y)
		if l.Scale < 0 || l.Scale > 100 {
			c.add(path+".scale", "must be 0 to 100 per cent, not %d", l.Scale)
		}
	}
	if k := r.Clock; k != nil {
		c.offset(path+".clock", k.X, k.Y)
		if k.Size < 1 || k.Size > 50 {
			c.add(path+".clock.size", "must be 1 to 50 per cent, not %d", k.Size)
		}
	}
	within("bandwidth", r.Bandwidth, 0, 100_000_000)
}

func (c *checker) offset(path string, x, y int) {
	for name, v := range map[string]int{"x": x, "y": y} {
		if v < 0 || v > maxSide {
			c.add(path+"."+name, "must be 0 to %d, not %d", maxSide, v)
		}
	}
}

func indexed(i int) string { return "[" + strconv.Itoa(i) + "]" }
