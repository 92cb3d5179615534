package transcode

import (
	"fmt"
	"slices"
	"time"

	"weir/internal/policy"
	"weir/internal/stream"
)

const (
	// maxLag is how far behind its source a rendition may be, in ms, before the
	// machine is said not to keep up, and fineLag is when it does again.
	maxLag, fineLag = 5_000, 2_000
	// longestRestore is the longest time after which a rendition that was given up
	// again and again is tried once more.
	longestRestore = 30 * time.Minute
	// speedTime is over what time speed is measured.
	speedTime = 5 * time.Second
)

// watch is how an ffmpeg has fared, second by second.
type watch struct {
	at         time.Time // of the last look
	slow, fine int       // looks in a row
	fed        [2]bool   // whether video and audio were, since then
	outs       []progress

	since time.Time // when the measurement of speed began, and where the renditions were
	from  int64
}

// progress is that of one rendition.
type progress struct {
	read int64         // what came of it
	owed time.Duration // for how long it has been fed since, and nothing came
}

// hangs returns an error if a rendition is fed, and nothing has come of it for too long,
// which ffmpeg's own watch doesn't see where something comes of another one. It is called
// every d.
func (src *source) hangs(d time.Duration, w *watch) error {
	src.mu.Lock()
	defer src.mu.Unlock()
	for i, o := range src.outs {
		p := &w.outs[i]
		switch n := o.read.Load(); {
		case n != p.read:
			*p = progress{read: n}
		case o.video && w.fed[0] || o.audio && w.fed[1]:
			p.owed += d
		}
		if p.owed > src.t.pace.stall {
			return fmt.Errorf("%w with %s", errHangs, o.name)
		}
	}
	w.fed = [2]bool{}
	return nil
}

// look is what is looked at once a second while ffmpeg runs. It reports whether
// another one is to go on in its place, which makes something else.
func (src *source) look(now time.Time, pub *stream.Publication, in []*policy.Transcode, w *watch) bool {
	if src.idle(now, pub) || !sameTemplates(in, src.active(pub.App(), pub.Push())) {
		return true
	}
	newest := src.s.Time()
	src.mu.Lock()
	lag, lasted := src.lag(), now.Sub(src.started)
	if w.since.IsZero() || now.Sub(w.since) >= speedTime {
		if !w.since.IsZero() {
			src.speed = max(0, float64(newest-lag-w.from)/float64(now.Sub(w.since).Milliseconds()))
		}
		w.since, w.from = now, newest-lag
	}
	src.mu.Unlock()
	pace := &src.t.pace
	if lasted > pace.sound {
		src.t.opt.Clear(pub, alertFailing)
	}
	switch {
	case lasted < pace.settle:
		return false
	case lag >= maxLag:
		w.fine = 0
		if w.slow++; w.slow%pace.slow == 0 {
			src.keepsUp(pub, false)
			if src.giveUp(now, lag) {
				return true
			}
		}
	case lag < fineLag:
		w.slow = 0
		if w.fine++; w.fine == pace.slow {
			src.keepsUp(pub, true)
		}
	default:
		w.slow, w.fine = 0, 0
	}
	return w.fine >= pace.slow && src.tryAgain(now) || src.measure(now, pub)
}

// lag returns how far, in ms, the rendition that is farthest behind is behind the tracks of
// its source that it is made of: one of sound waits for none of a source that is mute. One of
// which nothing has come is where ffmpeg began. src.mu is held.
func (src *source) lag() (ms int64) {
	video, audio := src.s.Times()
	for _, o := range src.outs {
		if o.video {
			ms = max(ms, video-max(o.last[0].Load(), src.begins))
		}
		if o.audio {
			ms = max(ms, audio-max(o.last[1].Load(), src.begins))
		}
	}
	return ms
}

// keepsUp notes whether the renditions keep up with their source. While those of
// one don't, no other stream is transcoded.
func (src *source) keepsUp(pub *stream.Publication, yes bool) {
	src.mu.Lock()
	was := !src.slow
	src.slow = !yes
	src.mu.Unlock()
	if was == yes {
		return
	}
	n := 1
	if yes {
		n = -1
	}
	src.t.mu.Lock()
	src.t.slow += n
	src.t.mu.Unlock()
	if yes {
		src.t.opt.Clear(pub, alertSlow)
		return
	}
	src.mu.Lock()
	behind := float64(src.lag()) / 1000
	src.mu.Unlock()
	src.t.opt.Raise(pub, alertSlow, fmt.Sprintf("renditions are %.0f s behind the stream: this machine does not keep up", behind), behind, float64(maxLag)/1000)
}

// shed is which renditions were given up because the machine could not keep up.
type shed struct {
	suffixes []string      // the last one is the newest
	again    time.Time     // when it is tried again
	wait     time.Duration // after which that was
	tried    time.Time     // when the last one was
}

func (s *shed) has(suffix string) bool { return slices.Contains(s.suffixes, suffix) }

func (src *source) isShed(suffix string) bool {
	src.mu.Lock()
	defer src.mu.Unlock()
	return src.shed.has(suffix)
}

// giveUp gives the largest rendition up whose template allows that, unless it is the
// only one, and reports whether it did. src is lag ms behind.
func (src *source) giveUp(now time.Time, lag int64) bool {
	src.mu.Lock()
	defer src.mu.Unlock()
	var largest *rendition
	for _, o := range src.outs {
		if o.template.Shed && o.video && o.Encodes() && (largest == nil || o.width*o.height > largest.width*largest.height) {
			largest = o
		}
	}
	if largest == nil || len(src.outs) < 2 {
		return false
	}
	s := &src.shed
	if s.wait = min(2*s.wait, longestRestore); s.tried.IsZero() || now.Sub(s.tried) > 4*src.t.pace.restore {
		s.wait = src.t.pace.restore
	}
	s.suffixes, s.again = append(s.suffixes, largest.Suffix), now.Add(s.wait)
	src.t.shed.Add(1)
	src.log.Warn("transcoding does not keep up: a rendition is given up", "lag", time.Duration(lag)*time.Millisecond, "rendition", largest.name)
	return true
}

// tryAgain takes the newest rendition that was given up back when its time has come,
// and reports whether it did.
func (src *source) tryAgain(now time.Time) bool {
	src.mu.Lock()
	defer src.mu.Unlock()
	s := &src.shed
	if len(s.suffixes) == 0 || now.Before(s.again) {
		return false
	}
	last := len(s.suffixes) - 1
	src.log.Info("a rendition that was given up is tried again", "suffix", s.suffixes[last])
	s.suffixes, s.tried, s.again = s.suffixes[:last], now, now.Add(s.wait)
	return true
}

// measure finds out what the source's bit rate is, above which no rendition's is, and
// reports whether one of those that are made should have another one. What a
// source says of itself is believed until it sends more.
func (src *source) measure(now time.Time, pub *stream.Publication) bool {
	info := src.s.Info()
	rate := info.Video.BitRate
	if now.Sub(pub.Start()) >= src.t.pace.measure {
		rate = max(rate, info.BitRate)
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if rate <= src.rate {
		return false
	}
	first := src.rate == 0
	src.rate = rate
	for _, o := range src.outs {
		if !o.video || !o.Encodes() {
			continue
		}
		if best := min(int64(o.BitRate), rate); first && int64(o.bitRate) > best || best > int64(o.bitRate)*5/4 {
			return true
		}
	}
	return false
}
