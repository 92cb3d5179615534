package ffmpeg

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Job is what one ffmpeg does. Its command line is made of typed values: what
// a stream, a user or a file says gets into it as a number, as a word that has
// the form of one, or escaped as the argument of a filter.
type Job struct {
	Name string // what it is for; logs have it

	Options []Option // that come first and are for all
	Inputs  []Input
	Filters Graph // over all inputs; its ends are named in Output.Options by Map
	Outputs []Output

	// Progress asks for the running account that Process.Progress returns.
	Progress bool

	Limits Limits

	// Files are files and folders that this job may read besides the program
	// and its libraries: fonts, for example.
	Files []string
	// Devices are devices that it may use, as their permissions let it or their
	// group: /dev/dri/renderD128. Such a job may open more files.
	Devices []string
}

// Input is a pipe into ffmpeg. Its format is fixed, so that no demuxer is
// chosen by what a stranger has sent.
type Input struct {
	Format  string // one of inputFormats
	Options []Option
}

// Output is a pipe out of ffmpeg.
type Output struct {
	Format  string // one of outputFormats
	Options []Option
	Max     int64 // bytes; more end the process. 0 is no limit
}

// Limits are what a job may take. A zero field is no limit, but for Memory.
type Limits struct {
	Time   time.Duration // from start to end
	CPU    time.Duration // of all its threads
	Stall  time.Duration // between input that was offered and output that comes of it
	Memory int64         // bytes that it may allocate; default 512 MiB
	Nice   int           // 0 to 19
	Cores  int           // at a time; it holds where the machine has control groups
}

// memory returns Memory, or its default.
func (l *Limits) memory() int64 { return cmp.Or(l.Memory, 512<<20) }

// inputFormats are the demuxers that may be used. None of them opens anything
// else than its pipe.
var inputFormats = words("flv mpegts matroska mov nut h264 hevc ivf obu aac mp3 ogg png_pipe jpeg_pipe mjpeg rawvideo yuv4mpegpipe s16le wav")

// outputFormats are the muxers that may be used.
var outputFormats = words("flv mpegts matroska mp4 nut h264 hevc ivf obu adts mp3 ogg image2pipe mjpeg rawvideo yuv4mpegpipe s16le wav null framemd5 framehash")

func words(list string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(list) {
		m[w] = true
	}
	return m
}

// Option is one option of a command line, such as "-b:v 800000".
type Option struct {
	name, value string
	flag        bool
	err         error
}

var (
	optionName = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9_:.-]*$`)
	optionWord = regexp.MustCompile(`^[A-Za-z0-9_.+][A-Za-z0-9_.:,+=*/-]*$`)
	padName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_:]*$`)
	filterName = regexp.MustCompile(`^[a-z0-9_]+$`)
)

// option refuses names that are not ours and those of options that open files.
func option(name, value string) Option {
	o := Option{name: name, value: value}
	base, _, _ := strings.Cut(name, ":")
	switch {
	case !optionName.MatchString(name):
		o.err = fmt.Errorf("%q is not the name of an option", name)
	case base == "i", base == "f", base == "filter_script", base == "filter_complex_script", base == "protocol_whitelist", base == "attach",
		base == "report", base == "pass", base == "passlogfile", base == "progress", base == "sdp_file", base == "vstats_file", base == "dump_attachment":
		o.err = fmt.Errorf("option %q is not for a job to set", name)
	}
	return o
}

// Flag is an option without value.
func Flag(name string) Option {
	o := option(name, "")
	o.flag = true
	return o
}

// Int is an option whose value is a number.
func Int(name string, v int64) Option { return option(name, strconv.FormatInt(v, 10)) }

// Word is an option whose value is one of ffmpeg's words: a codec, a preset, a
// list of them. A value that has not the form of one makes Start fail.
func Word(name, value string) Option {
	o := option(name, value)
	if o.err == nil && (!optionWord.MatchString(value) || strings.Contains(value, "//")) {
		o.err = fmt.Errorf("option %q: %.64q is not a word", name, value)
	}
	return o
}

// Map takes a track into an output: "0:v:0", "0:a:0?", or the end of a filter
// chain by its name.
func Map(track string) Option {
	o := option("map", track)
	if padName.MatchString(track) && !strings.Contains(track, ":") {
		o.value = "[" + track + "]"
	} else if !padName.MatchString(strings.TrimSuffix(track, "?")) {
		o.err = fmt.Errorf("%.64q is not a track", track)
	}
	return o
}

// FilterVideo is the filter chain of one video output.
func FilterVideo(f ...Filter) Option { return filterOption("filter:v", f) }

// FilterAudio is the filter chain of one audio output.
func FilterAudio(f ...Filter) Option { return filterOption("filter:a", f) }

func filterOption(name string, f []Filter) Option {
	o := option(name, "")
	o.value, o.err = Graph{{Filters: f}}.text()
	return o
}

// Graph is a filter graph.
type Graph []Chain

// Chain is filters one after the other. In names tracks ("0:v:0") and ends of
// other chains; Out names its own ends.
type Chain struct {
	In      []string
	Filters []Filter
	Out     []string
}

// Filter is one filter and its arguments. Values may be anything: they are
// escaped.
type Filter struct {
	Name string
	Args []Arg
}

// Arg is one argument of a filter.
type Arg struct{ Key, Value string }

// text writes g as ffmpeg reads it.
func (g Graph) text() (string, error) {
	var b strings.Builder
	pads := func(names []string) error {
		for _, n := range names {
			if !padName.MatchString(n) {
				return fmt.Errorf("%.64q is not the name of a track", n)
			}
			b.WriteString("[" + n + "]")
		}
		return nil
	}
	for i, c := range g {
		if i > 0 {
			b.WriteByte(';')
		}
		if len(c.Filters) == 0 {
			return "", errors.New("a chain without filters")
		}
		if err := pads(c.In); err != nil {
			return "", err
		}
		for j, f := range c.Filters {
			if j > 0 {
				b.WriteByte(',')
			}
			if !filterName.MatchString(f.Name) || f.Name == "movie" || f.Name == "amovie" {
				return "", fmt.Errorf("%.64q is not a filter for a job", f.Name)
			}
			b.WriteString(f.Name)
			for k, a := range f.Args {
				if !filterName.MatchString(a.Key) || strings.ContainsRune(a.Value, 0) {
					return "", fmt.Errorf("filter %s: argument %.64q", f.Name, a.Key)
				}
				b.WriteByte("=:"[min(k, 1)])
				b.WriteString(a.Key + "=" + escapeFilter(a.Value))
			}
		}
		if err := pads(c.Out); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// escapeFilter escapes a value twice: for the list of a filter's arguments, and
// for the graph that this list is in (FFmpeg's documentation, "Notes on
// filtergraph escaping").
func escapeFilter(v string) string {
	v = escape(v, `\': `+"\t\n")
	return escape(v, `\'[],; `+"\t\n")
}

func escape(s, special string) string {
	if !strings.ContainsAny(s, special) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(special, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// fixed is how every command line begins: no terminal, no banner, and nothing
// on standard error but what went wrong.
var fixed = []string{"-nostdin", "-hide_banner", "-nostats", "-loglevel", "error"}

// Args returns the command line, after the program's name, that j comes to, or
// what is wrong with it. The numbers of its pipes are those of a process.
func (j *Job) Args() ([]string, error) {
	next := 3
	fds := func(n, first int) (list []int) {
		for i := range n {
			if i == 0 {
				list = append(list, first)
				continue
			}
			list = append(list, next)
			next++
		}
		return list
	}
	in, out := fds(len(j.Inputs), 0), fds(len(j.Outputs), 1)
	return j.args(in, out, next)
}

// args returns the command line after the program's name, when the inputs are
// the descriptors in, the outputs are out, and progress is written to the last.
func (j *Job) args(in, out []int, progress int) ([]string, error) {
	args := append([]string(nil), fixed...)
	add := func(list []Option) error {
		for _, o := range list {
			if o.err != nil {
				return o.err
			}
			if o.name == "" {
				return errors.New("an option without name")
			}
			args = append(args, "-"+o.name)
			if !o.flag {
				args = append(args, o.value)
			}
		}
		return nil
	}
	if j.Progress {
		args = append(args, "-stats_period", "1", "-progress", pipeURL(progress))
	}
	if err := add(j.Options); err != nil {
		return nil, err
	}
	for i, x := range j.Inputs {
		if !inputFormats[x.Format] {
			return nil, fmt.Errorf("input format %.64q is not allowed", x.Format)
		}
		args = append(args, "-protocol_whitelist", "pipe", "-f", x.Format)
		if err := add(x.Options); err != nil {
			return nil, err
		}
		args = append(args, "-i", pipeURL(in[i]))
	}
	if len(j.Filters) > 0 {
		text, err := j.Filters.text()
		if err != nil {
			return nil, err
		}
		args = append(args, "-filter_complex", text)
	}
	for i, x := range j.Outputs {
		if !outputFormats[x.Format] {
			return nil, fmt.Errorf("output format %.64q is not allowed", x.Format)
		}
		if err := add(x.Options); err != nil {
			return nil, err
		}
		args = append(args, "-f", x.Format, pipeURL(out[i]))
	}
	return args, nil
}

func pipeURL(fd int) string { return "pipe:" + strconv.Itoa(fd) }
