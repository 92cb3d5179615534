package transcode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

const (
	// maxLag is how far behind its source a rendition may be, in ms, before the
	// machine is said not to keep up.
	maxLag = 5_000
	// lateAudio is for how long after the first key frame, in ms, sound is waited
	// for that may come.
	lateAudio = 400
	// longest is after how much media an ffmpeg gives way to another, long before
	// the times of a transport stream wrap.
	longest = 20 * 3600 * 1000
	// firstPause and lastPause are between a failure and the next attempt.
	firstPause, lastPause = 500 * time.Millisecond, 30 * time.Second
	// soundFor is how long an ffmpeg has to last for its failure to be the first.
	soundFor = time.Minute
	// flushTime is how long an ffmpeg has to finish what it was given.
	flushTime = 3 * time.Second
	// maxPicture is the size of a logo, in bytes.
	maxPicture = 2 << 20
)

// logo names a picture.
type logo struct{ bucket, key string }

// source is a stream and its renditions. Its run is one goroutine; the rest is
// shared with those who play and ask.
type source struct {
	t    *Transcoder
	s    *stream.Stream
	key  stream.Key
	log  *slog.Logger
	wake chan struct{} // somebody plays; buffered

	madeMu sync.Mutex
	made   map[string]*stream.Publication // of the source, of which each suffix was made last

	mu       sync.Mutex
	played   map[string]time.Time // templates of players, and when they were last wanted
	shed     map[string]bool      // suffixes that were given up
	state    string
	reason   string
	started  time.Time
	restarts int64
	outs     []*rendition
	errs     map[string]string // why a rendition is not made, by suffix
	in       []*policy.Transcode
	proc     *ffmpeg.Process
	newest   int64 // of the source's times, ms
}

// play wants the rendition of that suffix, and reports whether there will be one.
func (src *source) play(suffix string) bool {
	app, push := src.s.App(), src.s.Push()
	if !src.s.Live() {
		return false
	}
	always, played := templates(app, push)
	has := func(t *policy.Transcode) bool {
		return slices.ContainsFunc(t.Outputs, func(r policy.Rendition) bool { return r.Suffix == suffix })
	}
	if slices.ContainsFunc(always, has) {
		return true // it is on its way
	}
	i := slices.IndexFunc(played, has)
	if i < 0 {
		return false
	}
	src.mu.Lock()
	if src.played == nil {
		src.played = make(map[string]time.Time)
	}
	src.played[played[i].Name] = time.Now()
	src.mu.Unlock()
	select {
	case src.wake <- struct{}{}:
	default:
	}
	return true
}

// active returns the templates that are in use for a push now.
func (src *source) active(app *policy.App, push *stream.Push) []*policy.Transcode {
	always, played := templates(app, push)
	src.mu.Lock()
	defer src.mu.Unlock()
	for _, t := range played {
		if _, ok := src.played[t.Name]; ok {
			always = append(always, t)
		}
	}
	return always
}

// run makes renditions until the stream is over.
func (src *source) run(ctx context.Context) {
	pause := time.Duration(0)
	var from int64 // the newest time that the renditions have had
	for ctx.Err() == nil {
		pub := src.s.Newest()
		in := src.active(pub.App(), pub.Push())
		if len(in) == 0 || ended(pub) {
			src.set("idle", "")
			if !src.rest(ctx, pub) {
				return
			}
			continue
		}
		if !src.t.enter() {
			src.set("refused", fmt.Sprintf("this node transcodes %d streams already", src.t.opt.Max))
			src.log.Warn("stream is not transcoded: the node is full", "most", src.t.opt.Max)
			sleep(ctx, lastPause/3)
			continue
		}
		began := time.Now()
		newest, err := src.make(ctx, pub, in, from)
		src.t.leave()
		from = max(from, newest)
		switch {
		case err == nil:
			pause = 0
		case time.Since(began) > soundFor:
			pause = firstPause
		default:
			pause = min(max(2*pause, firstPause), lastPause)
		}
		if err != nil && ctx.Err() == nil {
			src.mu.Lock()
			src.restarts++
			src.mu.Unlock()
			src.t.restarts.Add(1)
			src.log.Warn("transcoding failed", "err", err, "again in", pause)
			src.set("waiting", err.Error())
			sleep(ctx, pause)
		}
	}
}

// rest waits until there may be something to do. It reports whether the stream
// goes on.
func (src *source) rest(ctx context.Context, pub *stream.Publication) bool {
	if !ended(pub) {
		select {
		case <-ctx.Done():
			return false
		case <-src.wake:
			return true
		case <-pub.Done():
		}
	}
	return src.s.AwaitPublication(ctx, pub) != nil
}

func ended(p *stream.Publication) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (src *source) set(state, reason string) {
	src.mu.Lock()
	defer src.mu.Unlock()
	src.state, src.reason = state, reason
	if state != "running" && state != "starting" {
		src.outs, src.in, src.proc = nil, nil, nil
	}
}

// errEnded is the error of an ffmpeg that ended though its source did not.
var errEnded = errors.New("ffmpeg has ended by itself")

// errChanged ends an ffmpeg whose source is not what it was started for.
var errChanged = errors.New("the source has changed")

// make runs one ffmpeg for a publication, from a key frame until something ends or
// changes: no error, or ffmpeg fails. Nothing that is not newer than from comes out.
// It returns the newest time that came out.
func (src *source) make(ctx context.Context, pub *stream.Publication, in []*policy.Transcode, from int64) (newest int64, err error) {
	src.set("starting", "")
	r := pub.NewReader()
	defer r.Close()
	stop := context.AfterFunc(ctx, r.Close)
	defer stop()
	head, m, err := src.gather(r)
	if err != nil {
		return 0, nil // it is over before it began
	}
	outs, logos := src.plan(ctx, pub, &m, in)
	if len(outs) == 0 {
		src.mu.Lock()
		why := ""
		for _, e := range src.errs {
			why = e
		}
		src.mu.Unlock()
		return 0, fmt.Errorf("there is nothing to make: %s", why)
	}
	offset := lead - head[firstFrame(head)].DTS // from the source's time to ffmpeg's
	cmd := src.t.command(src.key.String(), &m, planned(outs), logos, max(from+1+offset, lead))
	p, err := src.t.tool.Start(ctx, cmd.job)
	if err != nil {
		return 0, err
	}
	src.mu.Lock()
	src.outs, src.in, src.proc, src.started = outs, in, p, time.Now()
	src.state, src.reason = "running", ""
	src.mu.Unlock()
	src.log.Info("transcoding begins", "outputs", len(outs), "from", fmt.Sprintf("%s %dx%d", m.video, m.width, m.height))

	var readers sync.WaitGroup
	for i, o := range outs {
		readers.Go(func() { o.read(p.Output(i), offset, from) }) // ends with the process
	}
	for i, picture := range cmd.inputs {
		readers.Go(func() { // ends when it is written, or with the process
			p.Input(i + 1).Write(picture)
			p.Input(i + 1).Close()
		})
	}
	go func() { <-p.Done(); r.Close() }() // ends with the process; whoever waits for the source then doesn't
	feed := newFeed(p.Input(0), cmd.job.Inputs[0].Format, offset)
	err = src.feed(ctx, r, pub, feed, head, &m, in, p)
	p.Input(0).Close()
	if err == nil || err == errChanged {
		t := time.AfterFunc(flushTime, p.Kill)
		<-p.Done()
		t.Stop()
		if err == errChanged {
			err = nil
		}
	} else {
		p.Kill()
		<-p.Done()
	}
	readers.Wait()
	if e := p.Close(); err != nil && e != nil {
		err = e // the cause of what feed has seen
	}
	reason := stream.EndClosed
	if err != nil {
		reason = stream.EndReset
	}
	for _, o := range outs {
		newest = max(newest, o.end(reason))
	}
	src.log.Info("transcoding ends", "cpu", p.Usage().CPU, "err", err)
	return newest, err
}

// gather reads what an ffmpeg is to begin with: the configurations, and frames
// from the first key frame on until it is clear which tracks there are.
func (src *source) gather(r *stream.Reader) (head []av.Packet, m media, err error) {
	var video, audio av.Packet // configurations
	first, framed := int64(0), false
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return nil, m, err
		}
		switch {
		case p.Kind == av.Data:
			continue
		case p.Config && p.Kind == av.Video:
			video, m.video, m.config = p, p.Codec, p.Frame
		case p.Config:
			audio, m.audio = p, p.Codec
		case p.Kind == av.Video:
			m.video = p.Codec
			if p.Key && (!framed || first > p.DTS) || p.Key && !hasVideo(head) {
				head, first, framed = head[:0], p.DTS, true
			}
			if hasVideo(head) || p.Key {
				head = append(head, p)
			}
		default:
			m.audio = p.Codec
			if !framed {
				first, framed = p.DTS, true
			}
			head = append(head, p)
		}
		if !framed || p.Config {
			continue
		}
		if both := m.video != av.Unknown && m.audio != av.Unknown && hasVideo(head); !both && p.DTS-first < lateAudio ||
			m.video != av.Unknown && !hasVideo(head) {
			continue
		}
		info := src.s.Info()
		m.width, m.height, m.bitRate = info.Video.Width, info.Video.Height, info.BitRate
		if v, err := av.ParseVideoInfo(m.video, m.config); err == nil {
			m.width, m.height = v.Width, v.Height
		}
		m.rate = frameRate(info.Video.Declared, info.Video.Measured)
		var configs []av.Packet
		if m.video != av.Unknown && video.Frame != nil {
			configs = append(configs, video)
		}
		if m.audio != av.Unknown && audio.Frame != nil {
			configs = append(configs, audio)
		}
		return append(configs, head...), m, nil
	}
}

func hasVideo(list []av.Packet) bool {
	return slices.ContainsFunc(list, func(p av.Packet) bool { return p.Kind == av.Video })
}

// firstFrame returns where in list the first picture is, or the first frame if
// there is none.
func firstFrame(list []av.Packet) int {
	if i := slices.IndexFunc(list, func(p av.Packet) bool { return p.Kind == av.Video && !p.Config }); i >= 0 {
		return i
	}
	return max(0, slices.IndexFunc(list, func(p av.Packet) bool { return !p.Config }))
}

// plan decides what is made, and fetches the pictures that it needs.
func (src *source) plan(ctx context.Context, pub *stream.Publication, m *media, in []*policy.Transcode) ([]*rendition, map[logo][]byte) {
	t := src.t
	errs := make(map[string]string)
	logos := make(map[logo][]byte)
	if err := t.tool.Ready(ctx); err != nil {
		errs[""] = err.Error()
	} else if container(m.video, t.enhanced()) == "" {
		errs[""] = fmt.Sprintf("ffmpeg %s cannot take %s from a pipe; 6.1 or later can", t.tool.Health().Version, m.video)
	}
	if m.audio != av.Unknown && m.audio != av.AAC && m.audio != av.MP3 && !t.enhanced() {
		src.log.Warn("renditions without sound: this ffmpeg cannot take its codec from a pipe", "codec", m.audio.String())
		m.audio = av.Unknown
	}
	var list []*rendition
	src.mu.Lock()
	shed := src.shed
	src.mu.Unlock()
	for _, o := range plan(src.key.Name, m, in) {
		var err error
		switch {
		case errs[""] != "" || shed[o.Suffix]:
			continue
		case o.video && o.Encodes():
			if m.width == 0 || m.height == 0 {
				err = fmt.Errorf("the size of the picture is not known")
			} else {
				o.enc, err = t.choose(ctx, o.template.Encoder, o.Codec)
			}
		case container(o.codec(m), t.enhanced()) == "":
			err = fmt.Errorf("ffmpeg %s cannot hand on %s", t.tool.Health().Version, m.video)
		}
		if err != nil {
			errs[o.Suffix] = err.Error()
			src.log.Warn("rendition is not made", "rendition", o.name, "err", err)
			continue
		}
		for _, l := range o.Logos {
			src.fetch(ctx, logo{l.Bucket, l.Key}, logos)
		}
		if o.Clock != nil && t.opt.Font == "" {
			src.log.Warn("rendition without clock: there is no font", "rendition", o.name)
		}
		list = append(list, &rendition{output: o, src: src, of: pub, log: src.log.With("rendition", o.name)})
	}
	src.mu.Lock()
	src.errs = errs
	src.mu.Unlock()
	return list, logos
}

// fetch gets a picture from its bucket.
func (src *source) fetch(ctx context.Context, l logo, into map[logo][]byte) {
	if _, done := into[l]; done {
		return
	}
	into[l] = nil
	if src.t.opt.Picture == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := src.t.opt.Picture(ctx, l.bucket, l.key, maxPicture)
	if err != nil {
		src.log.Warn("rendition without its logo", "bucket", l.bucket, "key", l.key, "err", err)
		return
	}
	into[l] = b
}

func planned(list []*rendition) []*output {
	outs := make([]*output, len(list))
	for i, r := range list {
		outs[i] = r.output
	}
	return outs
}

// feed gives ffmpeg the stream until it ends (nil), changes or should be started
// anew (errChanged), or ffmpeg takes no more.
func (src *source) feed(ctx context.Context, r *stream.Reader, pub *stream.Publication, f *feed, head []av.Packet, m *media,
	in []*policy.Transcode, p *ffmpeg.Process) error {
	for _, pkt := range head {
		if err := f.write(pkt); err != nil {
			return err
		}
	}
	start, checked, slow := head[firstFrame(head)].DTS, time.Now(), 0
	for {
		pkt, err := r.ReadPacket()
		if err != nil { // the publication is over, or ffmpeg
			select {
			case <-p.Done():
				return cmp.Or(p.Err(), errEnded)
			default:
				return nil
			}
		}
		switch {
		case pkt.Kind == av.Data:
			continue
		case pkt.Break, pkt.Config && f.differs(pkt), pkt.Kind == av.Audio && m.audio == av.Unknown && f.hears(pkt), pkt.Kind == av.Video && m.video == av.Unknown:
			return errChanged
		case pkt.Key && pkt.DTS-start > longest:
			return errChanged
		}
		if pkt.Config || pkt.Kind == av.Audio && m.audio == av.Unknown {
			continue
		}
		if err := f.write(pkt); err != nil {
			<-p.Done()
			return cmp.Or(p.Err(), err)
		}
		src.mu.Lock()
		src.newest = pkt.DTS
		src.mu.Unlock()
		if now := time.Now(); now.Sub(checked) >= time.Second {
			checked = now
			if src.idle(now, pub, in) || !sameTemplates(in, src.active(pub.App(), pub.Push())) {
				return errChanged
			}
			if src.lag() < maxLag || time.Since(src.startTime()) < 15*time.Second {
				slow = 0
			} else if slow++; slow == 5 && src.tooSlow(pub) {
				return errChanged
			}
		}
	}
}

func sameTemplates(a, b []*policy.Transcode) bool {
	return slices.EqualFunc(a, b, func(x, y *policy.Transcode) bool { return x.Name == y.Name })
}

func (src *source) startTime() time.Time {
	src.mu.Lock()
	defer src.mu.Unlock()
	return src.started
}

// idle forgets the templates that no player has wanted for long enough, and
// reports whether there was one.
func (src *source) idle(now time.Time, pub *stream.Publication, in []*policy.Transcode) bool {
	_, played := templates(pub.App(), pub.Push())
	src.mu.Lock()
	outs := src.outs
	src.mu.Unlock()
	gone := false
	for _, t := range played {
		if !slices.Contains(in, t) {
			continue
		}
		watched := slices.ContainsFunc(outs, func(o *rendition) bool { return o.template == t && o.watched() })
		src.mu.Lock()
		if watched {
			src.played[t.Name] = now
		} else if now.Sub(src.played[t.Name]) > t.Idle {
			delete(src.played, t.Name)
			gone = true
		}
		src.mu.Unlock()
	}
	return gone
}

// lag returns how far behind the source the slowest rendition is, in ms.
func (src *source) lag() int64 {
	src.mu.Lock()
	defer src.mu.Unlock()
	lag := int64(0)
	for _, o := range src.outs {
		if at := o.newest.Load(); at > 0 {
			lag = max(lag, src.newest-at)
		}
	}
	return lag
}

// tooSlow is what becomes of a stream that this machine can't transcode in real
// time. It reports whether less is made from now on.
func (src *source) tooSlow(pub *stream.Publication) bool {
	lag := src.lag()
	e := event.New(time.Now(), event.AlertRaised{
		Alert: "transcode_slow", Text: "transcoding does not keep up with the stream", Value: float64(lag) / 1000, Limit: float64(maxLag) / 1000,
	})
	e.Space, e.App, e.Stream, e.Sequence = src.key.Space, src.key.App, src.key.Name, pub.Push().Sequence
	src.t.opt.Emit(e)
	src.mu.Lock()
	defer src.mu.Unlock()
	var largest *rendition
	for _, o := range src.outs {
		if o.template.Shed && o.video && o.Encodes() && (largest == nil || o.width*o.height > largest.width*largest.height) {
			largest = o
		}
	}
	if largest == nil || len(src.outs) < 2 {
		src.log.Warn("transcoding does not keep up", "lag", time.Duration(lag)*time.Millisecond)
		return false
	}
	if src.shed == nil {
		src.shed = make(map[string]bool)
	}
	src.shed[largest.Suffix] = true
	src.log.Warn("transcoding does not keep up: a rendition is given up", "lag", time.Duration(lag)*time.Millisecond, "rendition", largest.name)
	return true
}

// status describes the source, if it has templates.
func (src *source) status() (Status, bool) {
	app, push := src.s.App(), src.s.Push()
	always, played := templates(app, push)
	if len(always)+len(played) == 0 {
		return Status{}, false
	}
	lag := src.lag()
	src.mu.Lock()
	defer src.mu.Unlock()
	st := Status{
		Source: src.key, State: cmp.Or(src.state, "idle"), Reason: src.reason, Started: src.started, Restarts: src.restarts,
	}
	if src.proc != nil {
		pr := src.proc.Progress()
		st.Speed, st.Frames, st.Dropped = pr.Speed, pr.Frames, pr.Dropped
		st.Lag = time.Duration(lag) * time.Millisecond
	}
	for _, t := range src.in {
		st.Templates = append(st.Templates, t.Name)
	}
	made := make(map[string]*rendition)
	for _, o := range src.outs {
		made[o.Suffix] = o
	}
	for _, t := range append(always, played...) {
		for i := range t.Outputs {
			suffix := t.Outputs[i].Suffix
			o := OutputStatus{
				Key: stream.Key{Space: src.key.Space, App: src.key.App, Name: src.key.Name + suffix}, Shed: src.shed[suffix], Error: cmp.Or(src.errs[""], src.errs[suffix]),
			}
			if r := made[suffix]; r != nil {
				o.Encoder, o.Width, o.Height, o.FrameRate, o.BitRate = r.enc.name, r.width, r.height, r.rate.float(), r.bitRate
				o.Live = r.newest.Load() > 0
			}
			st.Outputs = append(st.Outputs, o)
		}
	}
	return st, true
}

// defaultFont is where Debian has a font.
func defaultFont() string {
	const font = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
	if _, err := os.Stat(font); err != nil {
		return ""
	}
	return font
}
