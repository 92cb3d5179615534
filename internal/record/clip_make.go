package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/media/mp4"
	"weir/internal/media/mpegts"
	"weir/internal/storage"
)

// exactAttempts are how often an ffmpeg is looked for that was there when the
// clip was asked for.
const exactAttempts = 5

// run makes the clip and tells of it. It ends when that is done, or with
// c.ctx.
func (c *clip) run() {
	defer close(c.done)
	defer c.cancel()
	wait := c.r.retry
	for attempt := 1; c.now().Fact == nil; attempt++ {
		grew := c.r.clips.grew.next() // from before we look
		m, err := c.make()
		var fail *failure
		switch {
		case c.ctx.Err() != nil:
			return
		case err == nil:
		case errors.Is(err, errNotYet):
			attempt = 0
			c.wait(true)
			select {
			case <-grew:
			case <-c.ctx.Done():
				return
			}
			continue
		case errors.As(err, &fail):
		case errors.Is(err, ErrExact) && attempt >= exactAttempts:
			fail = &failure{errnumCodec, err}
		case time.Since(c.now().Created) > c.r.giveUp:
			fail = &failure{errnumStorage, err}
		default:
			c.log.Warn("make a clip", "err", err, "attempt", attempt, "again", wait)
			select {
			case <-time.After(wait - time.Duration(rand.Int64N(int64(wait/4)))):
			case <-c.ctx.Done():
				return
			}
			wait = min(2*wait, lastRetry*c.r.retry)
			continue
		}
		if err := c.conclude(m, fail); err != nil {
			c.log.Warn("spool", "err", err)
			select {
			case <-time.After(lastRetry * c.r.retry):
			case <-c.ctx.Done():
				return
			}
		}
	}
	c.tell()
}

func (c *clip) wait(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = yes
}

// make makes the clip, going on where the process before has stopped.
func (c *clip) make() (*made, error) {
	j := c.now()
	b, err := c.r.bucket(j.Bucket)
	if err != nil {
		return nil, err
	}
	if j.Cut == nil {
		x, err := c.find(c.ctx, b, &j)
		if err != nil {
			return nil, err
		}
		if err := c.change(func(j *clipJob) { j.Cut = x }); err != nil {
			return nil, err
		}
		j = c.now()
	}
	if j.Format == "hls" {
		return c.makeHLS(c.ctx, b, &j)
	}
	c.wait(false)
	leave, err := c.r.clipping.take(c.ctx, c.r.named(j.Bucket))
	if err != nil {
		return nil, err
	}
	defer leave()
	return c.makeMP4(c.ctx, b)
}

// conclude fixes what became of the clip.
func (c *clip) conclude(m *made, fail *failure) error {
	j := c.now()
	var data event.Data
	if fail != nil {
		c.r.stats.clipsFailed.Add(1)
		c.log.Error("there will be no clip", "err", fail)
		if err := c.r.abandon(c.ctx, &j); err != nil {
			c.log.Warn("what there is of a clip stays in the bucket until it is deleted", "err", err)
		}
		data = event.ClipFailed{Clip: c.event(&j), Errnum: fail.errnum, Errmsg: fail.Error()}
	} else {
		c.r.stats.clips.Add(1)
		d := event.ClipFinished{Clip: c.event(&j), Duration: ms(j.Cut.To - j.Cut.From), Size: m.size, Media: m.media}
		if m.bucket != "" {
			d.Bucket = m.bucket
		}
		data = d
	}
	e := c.fact(time.Now(), data)
	return c.change(func(j *clipJob) { j.Fact = &e })
}

// tell tells of the clip, and forgets one that is finished: it is in the
// bucket.
func (c *clip) tell() {
	j := c.now()
	c.wait(false)
	if !j.Told {
		c.r.emit(*j.Fact)
		if err := c.r.flush(c.ctx); err != nil {
			return
		}
		if err := c.change(func(j *clipJob) { j.Told = true }); err != nil {
			c.log.Warn("spool", "err", err)
		}
	}
	if f, ok := j.Fact.Data.(event.ClipFinished); ok {
		c.log.Info("clip is there", "key", f.Key, "size", f.Size)
		c.r.clips.mu.Lock()
		c.r.forget(c)
		c.r.clips.mu.Unlock()
	}
	// Its recording may have been deleted meanwhile, and have left it everything.
	if err := c.r.release(c.ctx, &j); err != nil && c.ctx.Err() == nil {
		c.log.Warn("segments of a deleted recording stay in the bucket", "err", err)
	}
}

// event is what facts say of the clip.
func (c *clip) event(j *clipJob) event.Clip {
	e := event.Clip{
		Recording: event.Recording{
			Task: j.Task, Format: j.Format, Bucket: c.r.named(j.Bucket), Key: j.Key, Start: j.Start, End: j.End, Callback: j.Callback,
		},
		Name: j.Name, Of: j.Recording, From: ms(j.From), To: ms(j.To), Exact: j.Exact,
	}
	if x := j.Cut; x != nil {
		e.Start, e.End, e.From, e.To = x.Start, x.End, ms(x.From), ms(x.To)
	}
	return e
}

func (c *clip) fact(at time.Time, data event.Data) event.Event {
	j := c.now()
	e := event.New(at, data)
	e.Space, e.App, e.Stream = j.Space, j.App, j.Stream
	return e
}

// makeHLS writes the playlist, and what it cannot point at.
func (c *clip) makeHLS(ctx context.Context, b storage.Bucket, j *clipJob) (*made, error) {
	x := j.Cut
	list := x.Segments
	if x.NoLast {
		list = list[:len(list)-1]
	}
	p := m3u8.Playlist{Version: 3, Type: "VOD", End: true}
	var whole []segment
	parts := map[string]int{} // of which of list
	for i := range list {
		s := &list[i]
		from, to, part := s.Start, s.end(), ""
		if i == len(list)-1 && x.TailPart {
			part, to = "tail.ts", x.Last
		}
		if i == 0 && x.HeadPart {
			part, from = "head.ts", x.First
		}
		e := m3u8.Segment{Duration: ms(max(to-from, 1)), Discontinuity: i > 0 && s.Discontinuity, Time: s.Time}
		if !s.Time.IsZero() {
			e.Time = s.Time.Add(ms(from - s.Start))
		}
		if part == "" {
			whole = append(whole, *s)
			e.URI = "../hls/" + path.Base(j.Folder) + "/" + s.name()
		} else {
			parts[part] = i
			e.URI = path.Base(j.base()) + "/" + part
		}
		p.TargetDuration = max(p.TargetDuration, int((e.Duration+time.Second/2)/time.Second))
		p.Segments = append(p.Segments, e)
	}
	if !c.uploaded(j, whole) {
		c.wait(true)
		return nil, errNotYet
	}
	c.wait(false)
	size := int64(0)
	for part, i := range parts {
		var next *segment
		if part == "head.ts" && i+1 < len(list) && !list[i+1].Discontinuity {
			next = &list[i+1]
		}
		n, err := c.part(ctx, b, j, &list[i], next, j.base()+"/"+part)
		if err != nil {
			return nil, err
		}
		size += n
	}
	text := p.Append(nil, "", "")
	key := j.base() + ".m3u8"

	// From here on nobody deletes a segment that he has seen nobody point at.
	if err := c.r.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer c.r.endTurn()
	n, err := c.there(ctx, b, j, whole)
	if err != nil {
		return nil, err
	}
	size += n + int64(len(text))
	_, err = b.Put(ctx, key, bytes.NewReader(text), storage.PutOptions{Size: int64(len(text)), IfAbsent: true, Meta: j.meta(size)})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return nil, err
	}
	bucket, same, err2 := holds(ctx, b, key, text)
	switch {
	case err2 != nil:
		return nil, err2
	case !same && err == nil:
		return nil, fmt.Errorf("%s: %w", key, storage.ErrMismatch)
	case !same:
		return nil, &failure{errnumStorage, fmt.Errorf("%s: %w", key, err)}
	}
	if _, err := c.there(ctx, b, j, whole); err != nil { // another node has deleted them meanwhile
		return nil, errors.Join(err, b.Delete(ctx, key))
	}
	return &made{bucket: bucket, size: size}, c.change(func(j *clipJob) { j.Key = key })
}

// uploaded reports whether segments are in the bucket, as far as this node
// knows.
func (c *clip) uploaded(j *clipJob, list []segment) bool {
	c.r.mu.Lock()
	t := c.r.takes[j.Recording]
	c.r.mu.Unlock()
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.files["hls"]; p != nil && p.Fact != nil {
		return true // or never will be
	}
	for i := range list {
		if s := t.segment(list[i].N); s == nil || !s.stored {
			return false
		}
	}
	return true
}

// there sees that segments are in the bucket, and returns their size.
func (c *clip) there(ctx context.Context, b storage.Bucket, j *clipJob, list []segment) (size int64, err error) {
	sizes := map[string]int64{}
	if err := each(ctx, b, j.Folder+"/", func(o *storage.Object) { sizes[path.Base(o.Key)] = o.Size }); err != nil {
		return 0, err
	}
	for i := range list {
		n, ok := sizes[list[i].name()]
		if !ok || list[i].Size > 0 && n != list[i].Size {
			return 0, &failure{errnumMedia, fmt.Errorf("segment %d is not in the bucket", list[i].N)}
		}
		size += n
	}
	return size, nil
}

// part writes what a clip has of a segment: a segment of its own, which next
// follows if that is not nil.
func (c *clip) part(ctx context.Context, b storage.Bucket, j *clipJob, s, next *segment, key string) (int64, error) {
	mux := mpegts.NewMuxer((baseTime + j.Cut.Base) * mpegts.Clock)
	mux.Anew()
	h := chosen{x: j.Cut, f: func(p av.Packet) error {
		if err := mux.WritePacket(p); !errors.Is(err, mpegts.ErrFrame) {
			return err
		}
		return nil
	}}
	if err := c.packets(ctx, b, j, []segment{*s}, j.Cut.Base, h.add); err != nil {
		return 0, err
	}
	data, _ := mux.Cut()
	if data == nil {
		return 0, &failure{errnumMedia, fmt.Errorf("segment %d has nothing for the clip", s.N)}
	}
	// The tables, as Anew has the tracks.
	for at := 0; at < 2*packetSize; at += packetSize {
		p := data[at : at+packetSize]
		p[3] |= 0x20
		copy(p[6:], p[4:])
		p[4], p[5] = 1, 0x80 // adaptation_field: discontinuity_indicator
	}
	if next != nil {
		if err := c.continueIn(ctx, b, j, data, next); err != nil {
			return 0, err
		}
	}
	_, err := b.Put(ctx, key, bytes.NewReader(data), storage.PutOptions{Size: int64(len(data)), CacheControl: "max-age=31536000, immutable"})
	return int64(len(data)), err
}

// continueIn gives the packets of data the continuity counters (ISO/IEC 13818-1,
// 2.4.3.3) that those of the next segment go on from, so that no player takes
// the seam for a loss.
func (c *clip) continueIn(ctx context.Context, b storage.Bucket, j *clipJob, data []byte, next *segment) error {
	body, err := c.open(ctx, b, j, next)
	if err != nil {
		return err
	}
	defer body.Close()
	last := map[int]byte{} // of each PID in data
	for at := 0; at+packetSize <= len(data); at += packetSize {
		if pid, counts := counted(data[at:]); counts {
			last[pid] = data[at+3] & 15
		}
	}
	shift := map[int]byte{}
	packet := make([]byte, packetSize)
	for n := 0; n < maxSeam && len(shift) < len(last); n += packetSize {
		if _, err := io.ReadFull(body, packet); err != nil {
			break // a track that does not go on
		}
		pid, counts := counted(packet)
		if _, ours := last[pid]; !ours || !counts {
			continue
		}
		if _, known := shift[pid]; !known {
			shift[pid] = packet[3] - 1 - last[pid]
		}
	}
	for at := 0; at+packetSize <= len(data); at += packetSize {
		pid, _ := counted(data[at:])
		data[at+3] = data[at+3]&0xF0 | (data[at+3]+shift[pid])&15
	}
	return nil
}

// maxSeam is how much of a segment is read for the first packets of its tracks.
const maxSeam = 4 << 20

// counted returns the PID of a transport packet and whether it counts: whether
// it has a payload.
func counted(b []byte) (pid int, counts bool) {
	return int(b[1]&0x1F)<<8 | int(b[2]), b[3]&0x10 != 0
}

// makeMP4 writes the file in parts, as [take.convert] does: it reads the
// segments once, and a process that goes on makes the same parts and leaves
// out those that are there. What ffmpeg encodes is not the same twice.
func (c *clip) makeMP4(ctx context.Context, b storage.Bucket) (*made, error) {
	j := c.now()
	key := j.base() + ".mp4"
	encode := j.Exact && j.Cut.Pictures
	if j.Whole == nil && encode && j.Upload != nil {
		if err := c.r.abandon(ctx, &j); err != nil {
			return nil, err
		}
		j.Upload = nil
	}
	var up storage.Upload
	err := error(storage.ErrNotExist)
	if j.Upload != nil {
		up, err = b.Resume(ctx, j.Upload)
	}
	if errors.Is(err, storage.ErrNotExist) {
		up, err = b.Upload(ctx, key, storage.PutOptions{IfAbsent: true, PartSize: mp4.DefaultPartSize, Meta: j.meta(0), Name: "clip/" + j.Task})
		if err == nil {
			err = c.change(func(j *clipJob) { j.Upload, j.Whole = up.State(), nil })
		}
	}
	if errors.Is(err, storage.ErrExist) {
		return nil, &failure{errnumStorage, fmt.Errorf("%s: %w", key, err)}
	}
	if err != nil {
		return nil, err
	}
	if j = c.now(); j.Whole == nil { // not all parts are there yet
		whole, err := c.write(ctx, b, &j, up, encode)
		if err != nil {
			return nil, err
		}
		if err := c.change(func(j *clipJob) { j.Whole = whole }); err != nil {
			return nil, err
		}
		j = c.now()
	}
	_, err = up.Complete(ctx)
	switch {
	case errors.Is(err, storage.ErrExist):
		return nil, &failure{errnumStorage, fmt.Errorf("%s: %w", key, err)}
	case errors.Is(err, storage.ErrUpload):
		up.Abort(ctx)
		return nil, errors.Join(err, c.change(func(j *clipJob) { j.Whole, j.Upload = nil, nil }))
	case err != nil:
		return nil, err
	}
	o, err := b.Stat(ctx, key)
	if err == nil && o.Size != j.Whole.Size {
		err = fmt.Errorf("%s has %d bytes in the bucket, and should have %d: %w", key, o.Size, j.Whole.Size, storage.ErrMismatch)
	}
	if err != nil {
		return nil, err
	}
	return &made{bucket: o.Bucket, size: o.Size, media: j.Whole.Media}, c.change(func(j *clipJob) { j.Key = key })
}

// write writes all parts of an MP4 file.
func (c *clip) write(ctx context.Context, b storage.Bucket, j *clipJob, up storage.Upload, encode bool) (*converted, error) {
	list, err := up.Parts(ctx)
	if err != nil {
		return nil, err
	}
	there := map[int]int64{}
	for _, p := range list {
		there[p.N] = p.Size
	}
	x := j.Cut
	m := mp4.NewMuxer(func(n int, data []byte) error {
		if there[n] == int64(len(data)) {
			return nil
		}
		return up.WritePart(ctx, n, data)
	}, mp4.Options{PartSize: up.PartSize(), Duration: ms(x.To - x.From), Created: x.Start})
	var info prober
	in := inOrder{write: func(p av.Packet) error {
		info.see(&p)
		return m.WritePacket(p)
	}}
	h := chosen{x: x, f: func(p av.Packet) error {
		p.DTS -= x.First
		return in.add(p)
	}}
	if encode {
		err = c.encode(ctx, b, j, in.add)
	} else {
		err = c.packets(ctx, b, j, x.Segments, x.Base, h.add)
	}
	if err != nil {
		return nil, err
	}
	if err := in.flush(math.MaxInt64); err != nil {
		return nil, err
	}
	done, err := m.Close()
	if errors.Is(err, mp4.ErrEmpty) {
		err = &failure{errnumMedia, err}
	}
	if err != nil {
		return nil, err
	}
	return &converted{done.Size, info.info("mp4", done.Size, done.Duration)}, nil
}
