package transcode

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/media/mkv"
	"weir/internal/policy"
	"weir/internal/stream"
)

const (
	// lateAudio is for how long after the first key frame, in ms, sound is waited
	// for that may come.
	lateAudio = 400
	// latePicture is how much sound, in ms, may come without any of the pictures that were
	// announced; renditions then begin without them, until they come.
	latePicture = 3_000
	// headFrames is how many pictures tell ffmpeg in which order they come. Where they
	// are farther apart, those within lateAudio have to do.
	headFrames = 8
	// longest is after how much media an ffmpeg gives way to another, long before
	// the times of a transport stream wrap.
	longest = 20 * 3600 * 1000
	// firstPause and lastPause are between a failure and the next attempt.
	firstPause, lastPause = 500 * time.Millisecond, 30 * time.Second
	// tooOften is after how many failures in a row the owner is told.
	tooOften = 3
	// hardwareFailures is after how many failures in a row, each soon after the start,
	// EncoderAuto is the processor.
	hardwareFailures = 2
	// awaitTime is for how long a player waits, in the hub, for a rendition that is to come.
	awaitTime = 10 * time.Second
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

	// Of run:
	heard  av.Codec            // sound that has made itself heard, for the ffmpeg that comes next
	last   map[string][2]int64 // times of video and audio that each suffix had last
	placed bool                // it has a place; t.mu guards it

	madeMu sync.Mutex
	made   map[string]*stream.Publication // of the source, of which each suffix was made last

	mu       sync.Mutex
	played   map[string]time.Time // templates of players, and when they were last wanted
	shed     shed
	rate     int64 // the source's bit rate, bit/s; 0: not known yet
	software bool  // what EncoderAuto means, as hardware has failed
	state    string
	reason   string
	started  time.Time
	begins   int64 // what the ffmpeg that runs got first, ms
	restarts int64
	slow     bool // the renditions do not keep up
	outs     []*rendition
	errs     map[string]string // why a rendition is not made, by suffix
	in       []*policy.Transcode
	proc     *ffmpeg.Process
	speed    float64
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
	src.want(played[i])
	return true
}

// want notes that a player wants templates now.
func (src *source) want(played ...*policy.Transcode) {
	src.mu.Lock()
	if src.played == nil {
		src.played = make(map[string]time.Time)
	}
	for _, t := range played {
		src.played[t.Name] = time.Now()
	}
	src.mu.Unlock()
	select {
	case src.wake <- struct{}{}:
	default:
	}
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
	var pub *stream.Publication
	from := int64(-1) // the newest time that the renditions have had
	var failures uint // in a row
	leave := func() {
		src.keepsUp(pub, true)
		src.t.leave(src)
	}
	defer func() { leave() }()
	for ctx.Err() == nil {
		if p := src.s.Newest(); p != pub {
			pub, failures = p, 0
			src.renew(pub)
		}
		src.idle(time.Now(), pub)
		in := src.active(pub.App(), pub.Push())
		if len(in) == 0 || ended(pub) {
			leave()
			src.set("idle", "")
			src.t.opt.Clear(pub, alertRefused)
			src.t.opt.Clear(pub, alertFailing)
			failures = 0
			if !src.rest(ctx, pub) {
				return
			}
			continue
		}
		began := time.Now()
		newest, err := src.make(ctx, pub, in, from)
		from = newest
		var refused refusal
		switch {
		case ctx.Err() != nil:
		case err == nil:
			failures = 0
		case errors.As(err, &refused):
			src.t.opt.Raise(pub, alertRefused, "the stream is not transcoded: "+err.Error(), 0, 0)
			src.set("refused", err.Error())
			src.pause(ctx, pub, src.t.pace.again)
		case errors.Is(err, errNothing):
			leave()
			src.t.opt.Raise(pub, alertFailing, err.Error(), 0, 0)
			src.set("failing", err.Error())
			src.pause(ctx, pub, lastPause)
		default:
			src.failed(ctx, pub, err, &failures, time.Since(began))
		}
	}
}

// failed is what is done about an ffmpeg that failed: another one is started, later
// and later.
func (src *source) failed(ctx context.Context, pub *stream.Publication, err error, failures *uint, lasted time.Duration) {
	if lasted > src.t.pace.sound {
		*failures = 0
	}
	*failures++
	src.mu.Lock()
	src.restarts++
	if *failures >= hardwareFailures && lasted < 2*src.t.pace.stall && !src.software && slices.ContainsFunc(src.outs, onHardware) {
		src.software = true
		src.log.Warn("hardware fails at once: encoder auto is the processor until the next push")
	}
	src.mu.Unlock()
	src.t.restarts.Add(1)
	pause := min(firstPause<<min(*failures-1, 10), lastPause)
	src.log.Warn("transcoding failed", "err", err, "again in", pause)
	if *failures < tooOften {
		src.set("waiting", err.Error())
	} else {
		src.t.opt.Raise(pub, alertFailing, fmt.Sprintf("transcoding has failed %d times in a row: %v", *failures, err), float64(*failures), tooOften)
		src.set("failing", err.Error())
	}
	src.keepsUp(pub, true)
	src.pause(ctx, pub, pause)
}

// onHardware reports whether r is encoded by hardware that EncoderAuto has chosen.
func onHardware(r *rendition) bool {
	return r.template.Encoder == policy.EncoderAuto && len(r.enc.devices) > 0
}

// renew forgets what was found out about the push before pub.
func (src *source) renew(pub *stream.Publication) {
	for _, name := range presets(pub.Push()) {
		if name != "" && !slices.ContainsFunc(pub.App().Transcode, func(t policy.Transcode) bool { return t.Name == name }) {
			src.log.Warn("the push asks for a template that its app does not have", "preset", fmt.Sprintf("%.100q", name))
			break // one will do for who asks for thousands
		}
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	src.shed, src.rate, src.software = shed{}, 0, false
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

// pause waits, but not longer than the publication lasts.
func (src *source) pause(ctx context.Context, pub *stream.Publication, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-pub.Done():
	case <-ctx.Done():
	}
}

func (src *source) set(state, reason string) {
	src.mu.Lock()
	defer src.mu.Unlock()
	src.state, src.reason = state, reason
	if state != "running" {
		src.outs, src.in, src.proc, src.speed = nil, nil, nil, 0
	}
}

// gathers notes that the source begins; who was refused is so until there is a place.
func (src *source) gathers() {
	src.mu.Lock()
	refused := src.state == "refused"
	src.mu.Unlock()
	if !refused {
		src.set("starting", "")
	}
}

// errEnded is the error of an ffmpeg that ended though its source did not.
var errEnded = errors.New("ffmpeg has ended by itself")

// errNothing is wrapped by the error of a stream of which this machine can make nothing.
var errNothing = errors.New("there is nothing to make")

// errHangs is wrapped by the error of an ffmpeg that makes some renditions, and others not.
var errHangs = errors.New("ffmpeg made no progress")

// errChanged ends an ffmpeg whose source is not what it was started for.
var errChanged = errors.New("the source has changed")

// make runs one ffmpeg for a publication, from a key frame until something ends or
// changes: no error, or ffmpeg fails. No picture that is encoded is older than from, and
// no track goes back. It returns the newest time that came out, or from.
func (src *source) make(ctx context.Context, pub *stream.Publication, in []*policy.Transcode, from int64) (newest int64, err error) {
	r := pub.NewReader()
	defer r.Close()
	stop := context.AfterFunc(ctx, r.Close)
	defer stop()
	src.gathers()
	head, m, err := src.gather(r, pub)
	if err != nil {
		return from, nil // it is over before it began
	}
	if err := src.t.enter(src); err != nil {
		return from, err
	}
	src.t.opt.Clear(pub, alertRefused)
	src.set("starting", "")
	outs, logos := src.plan(ctx, pub, &m, in)
	if len(outs) == 0 {
		src.mu.Lock()
		why := ""
		for _, e := range src.errs {
			why = e
		}
		src.mu.Unlock()
		return from, fmt.Errorf("%w: %s", errNothing, why)
	}
	offset := lead - head[firstFrame(head)].DTS // from the source's time to ffmpeg's
	cmd := src.t.command(src.key.String(), &m, planned(outs), logos, max(from+1+offset, lead))
	p, err := src.t.tool.Start(ctx, cmd.job)
	if err != nil {
		return from, err
	}
	src.mu.Lock()
	src.outs, src.in, src.proc, src.started, src.speed = outs, in, p, time.Now(), 0
	src.begins = head[firstFrame(head)].DTS
	src.state, src.reason = "running", ""
	src.mu.Unlock()
	src.log.Info("transcoding begins", "outputs", len(outs), "from", fmt.Sprintf("%s %dx%d", m.video, m.width, m.height))

	var readers sync.WaitGroup
	faults := make(chan error, len(outs))
	for i, o := range outs {
		readers.Go(func() { // ends with the process
			if err := o.follow(p.Output(i), offset); err != nil {
				faults <- err
				p.Kill()
			}
			io.Copy(io.Discard, p.Output(i)) // whatever happens, ffmpeg doesn't wait for us
		})
	}
	for i, picture := range cmd.inputs {
		readers.Go(func() { // ends when it is written, or with the process
			p.Input(i + 1).Write(picture)
			p.Input(i + 1).Close()
		})
	}
	go func() { <-p.Done(); r.Close() }() // ends with the process; whoever waits for the source then doesn't
	feed := newFeed(p.Input(0), cmd.job.Inputs[0].Format, &m, offset)
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
	if e := p.Close(); err != nil && e != nil && !errors.Is(err, errHangs) {
		err = e // the cause of what feed has seen
	}
	select {
	case err = <-faults:
	default:
	}
	reason := stream.EndClosed
	if err != nil {
		reason = stream.EndReset
	}
	newest = from
	for _, o := range outs {
		newest = max(newest, o.end(reason))
		src.last[o.Suffix] = [2]int64{o.last[0].Load(), o.last[1].Load()}
	}
	src.t.dropped.Add(p.Progress().Dropped)
	src.log.Info("transcoding ends", "cpu", p.Usage().CPU, "err", err)
	return newest, err
}

// gather reads what an ffmpeg is to begin with: the configurations, and frames
// from the first key frame on until it is clear which tracks there are. The error is
// errChanged where no player wants them any more.
func (src *source) gather(r *stream.Reader, pub *stream.Publication) (head []av.Packet, m media, err error) {
	var video, audio av.Packet // configurations
	var sound av.Codec         // that is announced
	first, framed := int64(0), false
	dark, at := int64(-1), time.Now() // since when there is sound alone; of the last look
	for {
		p, err := r.ReadPacket()
		if err != nil {
			return nil, m, err
		}
		if now := time.Now(); now.Sub(at) >= time.Second {
			if at = now; src.idle(now, pub) {
				return nil, m, errChanged
			}
		}
		switch {
		case p.Kind == av.Data:
			continue
		case p.Config && p.Kind == av.Video:
			if video.Frame != nil && (video.Codec != p.Codec || !bytes.Equal(video.Frame, p.Frame)) {
				head, framed = nil, false // what came was coded with another one
			}
			video, m.video, m.config = p, p.Codec, p.Frame
		case p.Config:
			audio, sound = p, p.Codec
		case p.Kind == av.Video:
			m.video, dark = p.Codec, -1
			if p.Key && (!framed || first > p.DTS) || p.Key && !hasVideo(head) {
				head, first, framed = head[:0], p.DTS, true
			}
			if hasVideo(head) || p.Key {
				head = append(head, p)
			}
		default:
			m.audio = p.Codec
			if m.video != av.Unknown && !hasVideo(head) {
				if dark < 0 {
					dark = p.DTS
				}
				if p.DTS-dark < latePicture {
					continue // the first key frame begins anew
				}
				m.video, m.config = av.Unknown, nil
				head, first, framed = nil, dark, true
			}
			if !framed {
				first, framed = p.DTS, true
			}
			head = append(head, p)
		}
		if !framed || p.Config {
			continue
		}
		pictures := 0
		for i := range head {
			if head[i].Kind == av.Video {
				pictures++
			}
		}
		if p.DTS-first < lateAudio && (len(head) == pictures || pictures < headFrames) || m.video != av.Unknown && pictures == 0 {
			continue
		}
		if m.audio == av.Unknown {
			m.audio = src.heard // it has come later than that, and is there
		}
		src.heard = av.Unknown
		for i := range head {
			m.head += int64(len(head[i].Frame))
		}
		info := src.s.Info()
		m.width, m.height, m.displayWidth = info.Video.Width, info.Video.Height, info.Video.DisplayWidth
		src.mu.Lock()
		src.rate = max(src.rate, info.Video.BitRate)
		m.bitRate = src.rate
		src.mu.Unlock()
		if v, err := av.ParseVideoInfo(m.video, m.config); err == nil {
			m.width, m.height, m.displayWidth = v.Width, v.Height, v.DisplayWidth()
		}
		if i := firstFrame(head); m.width == 0 && i < len(head) {
			m.width, m.height = av.KeyFrameSize(m.video, head[i].Frame)
			m.displayWidth = m.width
		}
		m.rate = frameRate(info.Video.Declared, measuredRate(&info.Video, head))
		var configs []av.Packet
		if m.video != av.Unknown && video.Frame != nil {
			configs = append(configs, video)
		}
		if m.audio == sound && audio.Frame != nil {
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
	} else if m.video != av.Unknown && !mkv.Supports(m.video) {
		errs[""] = fmt.Sprintf("there is no way to hand %s to ffmpeg", m.video)
	}
	if m.audio != av.Unknown && !mkv.Supports(m.audio) {
		src.log.Warn("renditions without sound: there is no way to hand its codec to ffmpeg", "codec", m.audio.String())
		m.audio = av.Unknown
	}
	var list []*rendition
	for _, o := range plan(src.key.Name, m, in) {
		var err error
		switch {
		case errs[""] != "" || src.isShed(o.Suffix):
			continue
		case o.video && o.Encodes():
			if m.width == 0 || m.height == 0 {
				err = fmt.Errorf("the size of the picture is not known")
			} else {
				want := o.template.Encoder
				if want == policy.EncoderAuto && src.onSoftware() {
					want = policy.EncoderCPU
				}
				o.enc, err = t.choose(ctx, want, o.Codec)
			}
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
		last, ok := src.last[o.Suffix]
		if !ok {
			last = [2]int64{-1, -1}
		}
		r := &rendition{output: o, src: src, of: pub, log: src.log.With("rendition", o.name)}
		for i := range last {
			r.last[i].Store(last[i])
		}
		list = append(list, r)
	}
	src.mu.Lock()
	src.errs = errs
	src.mu.Unlock()
	return list, logos
}

func (src *source) onSoftware() bool {
	src.mu.Lock()
	defer src.mu.Unlock()
	return src.software
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
	start, w := head[firstFrame(head)].DTS, &watch{at: time.Now()}
	src.mu.Lock()
	w.outs = make([]progress, len(src.outs))
	src.mu.Unlock()
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
		case m.audio == av.Unknown && pkt.Kind == av.Audio && !pkt.Config && mkv.Supports(pkt.Codec):
			src.heard = pkt.Codec
			return errChanged
		case pkt.Break, pkt.Config && f.differs(pkt), pkt.Kind == av.Video && pkt.Key && m.video == av.Unknown:
			return errChanged
		case pkt.Key && pkt.DTS-start > longest:
			return errChanged
		}
		if pkt.Config || pkt.Kind == av.Audio && m.audio == av.Unknown || pkt.Kind == av.Video && m.video == av.Unknown {
			continue
		}
		if err := f.write(pkt); err != nil {
			<-p.Done()
			return cmp.Or(p.Err(), err)
		}
		w.fed[pkt.Kind-av.Video] = true
		if now := time.Now(); now.Sub(w.at) >= time.Second {
			if err := src.hangs(now.Sub(w.at), w); err != nil {
				return err
			}
			w.at = now
			if src.look(now, pub, in, w) {
				return errChanged
			}
		}
	}
}

func sameTemplates(a, b []*policy.Transcode) bool {
	return slices.EqualFunc(a, b, func(x, y *policy.Transcode) bool { return x.Name == y.Name })
}

// idle forgets the templates that no player has wanted for long enough, whether they
// are made or not, and reports whether there was one.
func (src *source) idle(now time.Time, pub *stream.Publication) bool {
	_, played := templates(pub.App(), pub.Push())
	gone := false
	for _, t := range played {
		watched := slices.ContainsFunc(t.Outputs, func(r policy.Rendition) bool { return src.watched(r.Suffix) })
		src.mu.Lock()
		patience := t.Idle
		if src.outs == nil || slices.ContainsFunc(src.outs, func(o *rendition) bool { return o.template == t && o.newest.Load() == 0 }) {
			patience = max(patience, awaitTime)
		}
		switch wanted, ok := src.played[t.Name]; {
		case !ok:
		case watched:
			src.played[t.Name] = now
		case now.Sub(wanted) > patience:
			delete(src.played, t.Name)
			gone = true
		}
		src.mu.Unlock()
	}
	return gone
}

// watched reports whether somebody plays the rendition, or HLS is packaged of it, which
// ends when nobody does. Who records it or takes its picture is no player. It may have to
// come yet, or to come back.
func (src *source) watched(suffix string) bool {
	s := src.t.hub.Find(src.rendition(suffix))
	if s == nil {
		return false
	}
	i := s.Info()
	return i.Players > 0 || i.Packagers > 0
}

// rendition is what that with a suffix is called in the hub.
func (src *source) rendition(suffix string) stream.Key {
	return stream.Key{Space: src.key.Space, App: src.key.App, Name: src.key.Name + suffix}
}

// status describes the source, if it has templates.
func (src *source) status() (Status, bool) {
	app, push := src.s.App(), src.s.Push()
	always, played := templates(app, push)
	if len(always)+len(played) == 0 {
		return Status{}, false
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	st := Status{
		Source: src.key, State: cmp.Or(src.state, "idle"), Reason: src.reason, Started: src.started, Restarts: src.restarts,
	}
	if src.proc != nil {
		st.Speed, st.Dropped = src.speed, src.proc.Progress().Dropped
		st.Lag = time.Duration(src.lag()) * time.Millisecond
		for _, o := range src.outs {
			st.Frames += o.frames.Load()
		}
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
				Key: src.rendition(suffix), Shed: src.shed.has(suffix), Error: cmp.Or(src.errs[""], src.errs[suffix]),
			}
			if r := made[suffix]; r != nil {
				if r.video {
					o.Encoder, o.Width, o.Height, o.FrameRate, o.BitRate = r.enc.name, r.width, r.height, r.rate.float(), r.bitRate
					o.GOP = time.Duration(float64(r.gop) / r.rate.float() * float64(time.Second))
				}
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
