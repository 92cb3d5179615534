package stream

import (
	"bytes"
	"math"
	"time"

	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// step returns what to write next, which ends at a packet's end: of the feed,
// body, and before it, head. It blocks until there is something. It returns
// errHanded when a pump has taken over, and with the last bytes ErrOver.
func (p *Player) step() (head, body []byte, err error) {
	if p.failed != nil {
		return nil, nil, p.failed
	}
	if p.dirty.Swap(false) {
		if err := p.obey(); err != nil {
			return nil, nil, err
		}
	}
	if (p.begun || p.leave) && len(p.pending) > 0 {
		head, p.pending = p.pending, nil
		return head, nil, nil
	}
	if p.leave {
		return nil, nil, ErrLeft
	}
	f, limit := p.feed.Load(), int64(math.MaxInt64)
	if p.begun && (p.paused || !p.seek && p.want == f.format) {
		f.mu.Lock()
	} else if f, head, limit = p.place(); f == nil {
		if err := p.obey(); err != nil {
			return nil, nil, err
		}
		return append(p.pending, p.goodbye...), nil, ErrOver
	}
	defer f.mu.Unlock()
	going := p.begun && !p.seek && !p.paused
	end := min(f.out, limit)
	if !p.joined.IsZero() { // it does not wait for what gathers: the key frame may be there
		end = min(f.tail, limit)
	}
	switch {
	case going && p.pos < end && p.pos >= f.first() && !p.behind(f):
		v := f.view(p.pos, end)
		p.pos, p.seq = p.pos+int64(len(v.b)), v.next
		return head, v.b, nil
	case len(head) > 0 || p.dirty.Load():
		return head, nil, nil
	case going && p.pos < end: // too far behind
		p.jump(f)
	case f.failed != nil:
		return nil, nil, f.failed
	case f.ended:
		return p.goodbye, nil, ErrOver
	case going && p.raw != nil && p.want == f.format && p.joined.IsZero():
		if err := p.conn.SetWriteDeadline(time.Time{}); err != nil {
			return nil, nil, err
		}
		f.hand(p)
		return nil, nil, errHanded
	default:
		f.grown.Wait()
	}
	return nil, nil, nil
}

// behind reports whether the player is so far behind that it should jump, and
// there is a newer key frame to jump to. f.mu is held.
func (p *Player) behind(f *feed) bool {
	if f.key < 0 || f.marks[f.key].at <= p.pos {
		return false
	}
	o := &f.s.hub.opt
	if f.tail-p.pos > int64(o.SlowBytes) {
		return true
	}
	i := f.find(p.pos)
	return i < len(f.marks) && time.Since(f.s.start).Milliseconds()-f.marks[i].ms > o.SlowAfter.Milliseconds()
}

// jump counts that the player has to go on at the newest key frame. f.mu is
// held.
func (p *Player) jump(f *feed) {
	to := f.tail
	if f.key >= 0 && f.marks[f.key].at > p.pos {
		to = f.marks[f.key].at
	}
	p.seek = true
	p.jumps.Add(1)
	p.s.hub.stats.Jumps.Add(1)
	p.s.hub.stats.JumpedBytes.Add(to - p.pos)
}

// place finds the feed of a player that has to start, to jump or to change
// feeds, and where in it the player goes on, which is p.pos; head is what it
// needs there first. One that has to wait for that reads its feed on up to
// limit. place returns with f.mu held, so that what ends the wait cannot come
// unseen; f is nil if the stream was over before.
func (p *Player) place() (f *feed, head []byte, limit int64) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	var held *feed
	placed := false
	defer func() {
		if !placed && held != nil { // a panic
			held.mu.Unlock()
		}
	}()
	f, head, limit = p.find(&held)
	placed = true
	return f, head, limit
}

// find is place with s.mu held. The feed whose lock it holds is in held.
func (p *Player) find(held **feed) (f *feed, head []byte, limit int64) {
	s := p.s
	lock := func(f *feed) {
		f.mu.Lock()
		*held = f
	}
	f, limit = p.feed.Load(), math.MaxInt64
	start := !p.begun || p.seek
	want := p.want
	switch {
	case s.ended && f == nil:
		return nil, nil, 0
	case s.ended:
		want = f.format // there are no others any more
	case !want.NoVideo && (start || f.format.NoVideo) && !(s.cached && s.gop >= p.seq):
		want.NoVideo = true // until there is a key frame
	}
	if start {
		if f == nil || f.format != want {
			f = s.feedOf(want)
			p.move(f)
		}
		lock(f)
		if p.paused || f.key < 0 || f.marks[f.key].seq < p.seq {
			head, p.pending = p.pending, nil // that much can be sent
			return f, head, limit
		}
		m := f.marks[f.key]
		if p.begun { // it has jumped
			lost, had := int64(m.seq-p.seq), s.frames(m.seq)
			if p.misses >= 0 { // some of it is video that it has been without since it jumped before
				lost, p.misses = max(lost, had-p.misses), -1
			}
			if s.hub.stats.JumpedFrames.Add(lost); want.NoVideo && !p.want.NoVideo {
				p.misses = had
			}
		}
		head = append(p.pending, s.encodeHeader(&want, !p.begun, m.seq)...)
		p.pos, p.seq, p.pending, p.begun, p.seek = m.at, m.seq, nil, true, false
		return f, head, limit
	}
	lock(f)
	if f.format == want {
		return f, nil, limit
	}
	seq := p.seq
	switch {
	case f.format.NoVideo && !want.NoVideo: // video begins at the key frame
		seq = s.gop
		if at := f.position(seq); p.pos < at {
			f.flushLocked()
			return f, nil, at
		}
		head = s.encodeHeader(&want, false, seq)
		p.sees(s.frames(seq))
	case p.pos == f.tail:
		seq = s.next()
	case !s.cached || seq < s.gop: // the other feed may not reach back so far
		f.flushLocked()
		return f, nil, limit
	}
	if f.format.NoAudio && !want.NoAudio && head == nil {
		audio := want
		audio.NoVideo = true
		head = s.encodeHeader(&audio, false, seq)
	}
	f.mu.Unlock()
	*held = nil
	f = s.feedOf(want)
	p.move(f)
	lock(f)
	p.pos, p.seq = f.position(seq), seq
	return f, head, limit
}

// sees counts the frames of video that a player which had jumped to sound alone
// was without until the stream had had n. s.mu is held.
func (p *Player) sees(n int64) {
	if p.misses >= 0 {
		p.s.hub.stats.JumpedFrames.Add(n - p.misses)
		p.misses = -1
	}
}

// frames returns how many frames of video the stream had had before the packet
// seq. What the log no longer has from there on is taken for video: seq is that of a key
// frame, or of the newest sound. s.mu is held.
func (s *Stream) frames(seq uint64) int64 {
	n := s.info.frames
	if seq < s.first {
		n -= int64(s.first - seq - 1)
	}
	for i := max(seq, s.first); i < s.next(); i++ {
		if p := &s.packets[i-s.first]; p.Kind == av.Video && !p.Config && !p.Side {
			n--
		}
	}
	return n
}

// move makes f the feed that the player reads. s.mu is held.
func (p *Player) move(f *feed) {
	if f != nil {
		f.players++
	}
	if old := p.feed.Swap(f); old != nil {
		old.leave()
	}
}

// encodeHeader returns the bytes that a player needs before the packet seq: a
// new one, or one that goes on. s.mu is held.
func (s *Stream) encodeHeader(f *Format, start bool, seq uint64) []byte {
	var b []byte
	if start && f.Wire != RTMP {
		h := flv.AppendHeader(nil, !f.NoAudio && s.has(&s.audio, "audiocodecid"), !f.NoVideo && s.has(&s.video, "videocodecid"))
		if f.Wire == WSFLV {
			b = appendWSHeader(b, len(h))
		}
		b = append(b, h...)
	}
	for _, p := range s.header(seq, true) {
		if f.wants(p.Kind) {
			b = f.encode(b, &p)
		}
	}
	return b
}

// has reports whether the stream has a track, or its metadata promises it.
func (s *Stream) has(t *track, promise string) bool {
	return t.seen() || s.meta != nil && bytes.Contains(s.meta.Tag, []byte(promise))
}
