package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/internal/event"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/tracing"
)

// Why there is no file: Errnum of RecordFailed.
const (
	errnumStorage = 1 // the bucket did not take it
	errnumCodec   = 2 // the format, or a recording at all, cannot have the codec
	errnumMedia   = 3 // the recording's own segments cannot be read
	errnumRoom    = 4 // the disk, or the spool, had no room for any of it
)

const (
	// lastRetry is how much longer than the first the last of the waits between
	// attempts to reach a bucket is.
	lastRetry = 60
	// putTime is how long an upload may take beyond what its size needs at the
	// least rate, 10 kB/s.
	putTime = time.Minute
	putRate = 10_000
)

// keep uploads the segments of a take as they come, and when it is closed makes
// its files. It ends when all is done, or with r.ctx.
func (t *take) keep() {
	defer close(t.done)
	for {
		n, closed := t.next()
		switch {
		case t.isMoved():
			var again <-chan time.Time
			if closed {
				if t.fork() {
					t.forget()
					return
				}
				again = time.After(shareWait)
			}
			select {
			case <-t.changed:
			case <-again:
			case <-t.r.ctx.Done():
				return
			}
		case n > 0:
			if !t.try("upload a segment", func(ctx context.Context) error {
				err := t.upload(ctx, n)
				if err != nil && t.late() {
					t.conclude(t.production("hls"), &t.head.Record.HLS, nil, &failure{errnumStorage, err})
					return nil
				}
				return err
			}) {
				return
			}
			t.share()
		case closed:
			if t.shareAll() && t.complete() {
				if t.bury() {
					t.forget()
				}
				return
			}
			if !t.isMoved() {
				return
			}
		default:
			var again <-chan time.Time
			if t.share() {
				t.letGo()
			} else if !t.isMoved() {
				again = time.After(shareWait)
			}
			select {
			case <-t.changed:
			case <-again:
			case <-t.r.ctx.Done():
				return
			}
		}
	}
}

// forget is the end of a take about which everything is done.
func (t *take) forget() {
	t.r.mu.Lock()
	delete(t.r.takes, t.head.Task)
	t.r.mu.Unlock()
	t.remove()
	t.r.clips.grew.all()
}

// next returns the number of a segment that is not uploaded, or 0, and whether
// the take is closed. A take that has been given up has none.
func (t *take) next() (n int, closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.files["hls"]; p != nil && p.Fact != nil {
		return 0, true
	}
	for i := range t.segments {
		if s := &t.segments[i]; !s.stored && s.local {
			return s.N, t.closed != nil
		}
	}
	return 0, t.closed != nil
}

// try does something with a bucket until it succeeds. It reports false when
// r.ctx ended before, or when it was tried for too long.
func (t *take) try(what string, do func(context.Context) error) bool {
	wait, bucket, failing := t.r.retry, t.r.named(t.head.Record.Bucket), false
	for n := 0; ; n++ {
		err := do(t.r.ctx)
		switch {
		case t.r.ctx.Err() != nil:
			return false
		case err == nil:
			if failing {
				t.r.reached(bucket)
			}
			return true
		}
		t.r.stats.uploadErrors.Add(1)
		t.log.Warn(what, "err", err, "attempt", n+1, "again", wait)
		if n >= 4 {
			t.r.unreached(bucket, err, !failing)
			failing = true
		}
		select {
		case <-time.After(wait - time.Duration(rand.Int64N(int64(wait/4)))):
		case <-t.r.ctx.Done():
			return false
		}
		wait = min(2*wait, lastRetry*t.r.retry)
	}
}

// folder is where the take's segments are in the bucket.
func (t *take) folder() string {
	return t.dirKey("hls") + fmt.Sprintf("%s-%d-%s", t.head.Stream, t.head.Start.Unix(), t.head.Task)
}

// dirKey is the prefix of the keys of files of a format.
func (t *take) dirKey(format string) string {
	return prefix(&t.head.Record, t.head.App, t.head.Stream, format)
}

func prefix(cfg *policy.Record, app, name, format string) string {
	return path.Join(cfg.Prefix, "record", app, name, format) + "/"
}

// trace begins a span of the trace of the take's last push, about something on
// its way to the bucket.
func (t *take) trace(ctx context.Context) (context.Context, *tracing.Span) {
	t.mu.Lock()
	push := ""
	if len(t.pushes) > 0 {
		push = t.pushes[len(t.pushes)-1].Sequence
	}
	t.mu.Unlock()
	return tracing.Start(tracing.Push(ctx, push), "upload", "bucket", t.head.Record.Bucket)
}

// upload puts a segment into the bucket and sees that it is there.
func (t *take) upload(ctx context.Context, n int) (err error) {
	t.mu.Lock()
	s := *t.segment(n)
	t.mu.Unlock()
	ctx, span := t.trace(ctx)
	defer func() { span.Fail(err); span.End() }()
	leave, err := t.r.uploads.take(ctx, t.r.named(t.head.Record.Bucket))
	if err != nil {
		return err
	}
	defer leave()
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return err
	}
	f, err := t.openLocal(&s)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errDamaged) {
		t.log.Error("a segment of a recording cannot be uploaded from the spool", "err", err)
		t.vanished(n)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, putTime+time.Duration(s.Size/putRate)*time.Second)
	defer cancel()
	key := path.Join(t.folder(), s.name())
	span.Set("key", key)
	o := storage.PutOptions{Size: s.Size, SHA256: s.SHA256, CacheControl: "max-age=31536000, immutable", Name: "record/" + t.head.Task + "/" + s.name()}
	if _, err := b.Put(ctx, key, f, o); err != nil {
		return err
	}
	got, err := b.Stat(ctx, key)
	if err != nil {
		return err
	}
	if got.Size != s.Size || got.SHA256 != "" && got.SHA256 != s.SHA256 {
		return fmt.Errorf("%s has %d bytes in the bucket, %d here: %w", key, got.Size, s.Size, storage.ErrMismatch)
	}
	t.r.stats.uploads.Add(1)
	t.r.stats.uploadedBytes.Add(s.Size)
	t.mu.Lock()
	again := t.segment(n).stored // somebody has deleted it there
	t.segment(n).stored = true
	t.journal.add(entry{Stored: n})
	t.mu.Unlock()
	t.flush(false)
	t.r.clips.grew.all()
	if !again {
		t.r.spool.stored(t, n, s.Size)
	}
	return nil
}

// vanished notes that segment n is not in the spool any more, or not as it was.
func (t *take) vanished(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.segment(n); s.local {
		s.local = false
		t.r.spool.give(s.Size, s.stored)
	}
}

// complete makes the files of a closed take whose segments are in the bucket,
// and tells of each. It reports false when r.ctx ended before.
func (t *take) complete() bool {
	cfg := &t.head.Record
	if len(t.segments) == 0 {
		if !t.adopted() {
			return true // nothing was ever recorded: no file, no word
		}
		if p := t.production("hls"); p.Fact == nil {
			t.conclude(p, &cfg.HLS, nil, &failure{errnumStorage, errors.New("the node that recorded it is gone, and nothing of it was uploaded")})
		}
	}
	return t.produce("hls", &cfg.HLS, t.makeHLS) &&
		(!cfg.MP4.Enabled || t.produce("mp4", &cfg.MP4, t.convert)) &&
		(!cfg.FLV.Enabled || t.produce("flv", &cfg.FLV, t.convert))
}

// made is what is known of a file that is in the bucket.
type made struct {
	bucket string // that has it
	size   int64
	media  *event.MediaInfo
}

// failure is the error of a file that cannot be made, however often one tries.
type failure struct {
	errnum int
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// produce makes the file of one format and tells of it, going on where the process
// before has stopped. It reports false when r.ctx ended before.
func (t *take) produce(format string, cfg *policy.RecordFormat, do func(context.Context, *production) (*made, error)) bool {
	p := t.production(format)
	if p.Fact == nil {
		var m *made
		var fail *failure
		moved := false
		if hls := t.files["hls"]; format != "hls" && hls.Fact.Type == event.TypeRecordFailed {
			d := hls.Fact.Data.(event.RecordFailed)
			fail = &failure{d.Errnum, errors.New("there is no HLS recording to make it of: " + d.Errmsg)}
		} else if !t.try("make "+format, func(ctx context.Context) (err error) {
			ctx, span := t.trace(ctx)
			m, err = do(ctx, p)
			span.Set("format", format, "key", p.Key)
			span.Fail(err)
			span.End()
			moved = errors.Is(err, errMoved)
			if moved || errors.As(err, &fail) {
				return nil
			}
			if err != nil && t.late() {
				fail = &failure{errnumStorage, err}
				return nil
			}
			return err
		}) || moved {
			return false
		}
		t.conclude(p, cfg, m, fail)
	}
	if !p.told {
		if !t.shareAll() { // whoever goes on says the same of it
			return false
		}
		t.r.emit(*p.Fact)
		if err := t.r.flush(t.r.ctx); err != nil {
			return false
		}
		p.told = true
		t.journal.add(entry{Told: format})
		t.flush(true)
	}
	return true
}

// production returns the file of a format, which gets its name now if it has
// none. The take is closed.
func (t *take) production(format string) *production {
	defer t.flush(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.files[format]
	if p == nil {
		task := t.head.Task
		if format != "hls" {
			task = event.NewSequence() + t.closed.End.UTC().Format("20060102")
		}
		p = &production{Format: format, Task: task, Key: t.name(format, 0)}
		t.files[format] = p
		t.journal.add(entry{Named: p})
	}
	return p
}

// late reports whether a bucket that does not answer is given up.
func (t *take) late() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed != nil && time.Since(t.closed.End) > t.r.giveUp && time.Since(t.r.opened) > min(t.r.giveUp, tryTime)
}

// tryTime is for how long a process tries to upload, however old a recording is:
// the node may have been down.
const tryTime = time.Hour

// conclude fixes the fact about a file.
func (t *take) conclude(p *production, cfg *policy.RecordFormat, m *made, fail *failure) {
	now := time.Now()
	rec := t.recording(p.Format, p.Task, p.Key)
	rec.End = t.closed.End
	rec.Callback = callback(cfg)
	if m != nil && m.bucket != "" {
		rec.Bucket = m.bucket
	}
	var data event.Data
	if fail != nil {
		t.abort(p)
		t.r.stats.failed.Add(1)
		t.log.Error("there will be no recording", "format", p.Format, "key", p.Key, "err", fail)
		data = event.RecordFailed{Recording: rec, Errnum: fail.errnum, Errmsg: fail.Error()}
	} else {
		t.r.stats.finished.Add(1)
		t.log.Info("recording is there", "format", p.Format, "key", p.Key, "size", m.size)
		pushes := make([]string, len(t.pushes))
		for i, x := range t.pushes {
			pushes[i] = x.Sequence
		}
		t.mu.Lock()
		length, segments := t.media()
		lost := t.lostMedia()
		t.mu.Unlock()
		data = event.RecordFinished{
			Recording: rec, Duration: ms(length), Size: m.size, Segments: segments, Pushes: pushes,
			Lost: ms(lost), Media: m.media,
		}
	}
	e := t.fact(now, data)
	defer t.flush(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	p.Fact = &e
	t.journal.add(entry{Made: p})
}

// abort frees what the bucket holds of a file that will not be.
func (t *take) abort(p *production) {
	if p.Upload == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, putTime)
	defer cancel()
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return
	}
	up, err := b.Resume(ctx, p.Upload)
	if err == nil {
		err = up.Abort(ctx)
	}
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		t.log.Warn("an upload stays in the bucket until it is swept", "key", p.Key, "err", err)
	}
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// recording is what facts say of a file of the take.
func (t *take) recording(format, task, key string) event.Recording {
	h := &t.head
	return event.Recording{
		Task: task, Format: format, Bucket: t.r.named(h.Record.Bucket), Key: key, Start: h.Start, VDOID: h.VDOID, Domain: h.Domain,
	}
}

// callback returns who is told of files of a format.
func callback(f *policy.RecordFormat) *event.Callback {
	if !f.Enabled || f.Callback == "" {
		return nil
	}
	c := &event.Callback{URL: string(f.Callback)}
	if f.Version == policy.RecordNew {
		c.Format = "new"
	}
	return c
}

// name returns the key of the file of a format: the one that nobody has taken
// when it was tried n times.
func (t *take) name(format string, n int) string {
	s := fmt.Sprintf("%s%s-%d-%d", t.dirKey(format), t.head.Stream, t.head.Start.Unix(), t.closed.End.Unix())
	if n > 0 {
		s += "-" + strconv.Itoa(n)
	}
	if format == "hls" {
		return s + ".m3u8"
	}
	return s + "." + format
}

// rename gives a file another name because its name is taken.
func (t *take) rename(p *production) {
	defer t.flush(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	p.Taken++
	p.Key, p.Upload, p.Whole = t.name(p.Format, p.Taken), nil, nil
	t.journal.add(entry{Named: p})
}

// margin is how much longer than wanted a segment gets when the frame comes late
// that ends it.
const margin = 5 * time.Second

// playlist returns the take's playlist; folder goes before the names of its
// segments, and suffix behind.
func (t *take) playlist(folder, suffix string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := m3u8.Playlist{Version: 3, Type: "EVENT"}
	target := max(3*t.head.Record.Segment, longest*time.Millisecond) + margin // which no segment to come exceeds
	if t.closed != nil {
		p.Type, p.End = "VOD", true
		target = t.head.Record.Segment
	}
	hole := false
	for i := range t.segments {
		s := &t.segments[i]
		if s.missing {
			hole = len(p.Segments) > 0
			continue
		}
		d := ms(s.Duration)
		target = max(target, d)
		p.Segments = append(p.Segments, m3u8.Segment{URI: s.name(), Duration: d, Discontinuity: s.Discontinuity || hole, Time: s.Time})
		hole = false
	}
	p.TargetDuration = int((target + time.Second/2) / time.Second)
	return p.Append(nil, folder, suffix)
}

// makeHLS writes the playlist, and sees that everything in it is there.
func (t *take) makeHLS(ctx context.Context, p *production) (*made, error) {
	b, err := t.r.bucket(t.head.Record.Bucket)
	if err != nil {
		return nil, err
	}
	size, err := t.verify(ctx, b)
	if err != nil {
		return nil, err
	}
	text := t.playlist(path.Base(t.folder())+"/", "")
	for {
		o := storage.PutOptions{Size: int64(len(text)), IfAbsent: true}
		_, err := b.Put(ctx, p.Key, bytes.NewReader(text), o)
		if err == nil || errors.Is(err, storage.ErrExist) {
			where, same, err2 := holds(ctx, b, p.Key, text)
			if err2 != nil {
				return nil, err2
			}
			if same {
				return &made{bucket: where, size: size + int64(len(text))}, nil
			}
			if err == nil {
				return nil, fmt.Errorf("%s: %w", p.Key, storage.ErrMismatch)
			}
			t.rename(p)
			continue
		}
		return nil, err
	}
}

// verify sees that all segments are in the bucket, and returns their size. Where
// one is missing that is not here any more either, the recording goes on without it.
func (t *take) verify(ctx context.Context, b storage.Bucket) (size int64, err error) {
	sizes, err := t.sizes(ctx, b)
	if err != nil {
		return 0, err
	}
	var again, gone []int
	t.mu.Lock()
	left := 0
	for i := range t.segments {
		s := &t.segments[i]
		got, ok := sizes[s.name()]
		switch {
		case s.missing:
			continue
		case ok && got == s.Size:
			size += got
		case s.local:
			again = append(again, s.N)
		default:
			gone = append(gone, s.N)
			continue
		}
		left++
	}
	t.mu.Unlock()
	if left == 0 {
		return 0, &failure{errnumMedia, errors.New("no segment of it is in the bucket or in the spool")}
	}
	for _, n := range gone {
		t.miss(n)
	}
	if len(again) == 0 {
		return size, nil
	}
	for _, n := range again {
		if err := t.upload(ctx, n); err != nil {
			return 0, err
		}
	}
	return t.verify(ctx, b)
}

// asking is how many segments are asked for at a time.
const asking = 16

// sizes returns the sizes of the segments in the bucket, by their names. A list
// tells of many at once; but of two buckets each must answer for one, and what is
// in the other can be had all the same. So those that no list has are asked for, and
// those of which nobody knows are not there if they can be put there again.
func (t *take) sizes(ctx context.Context, b storage.Bucket) (map[string]int64, error) {
	sizes := map[string]int64{}
	each(ctx, b, t.folder()+"/", func(o *storage.Object) { sizes[path.Base(o.Key)] = o.Size })
	var names, here []string
	t.mu.Lock()
	for i := range t.segments {
		s := &t.segments[i]
		if _, ok := sizes[s.name()]; !ok && !s.missing {
			names = append(names, s.name())
			if s.local {
				here = append(here, s.name())
			}
		}
	}
	t.mu.Unlock()
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(asking)
	for _, name := range names {
		g.Go(func() error { // ends with the answer
			o, err := b.Stat(ctx, path.Join(t.folder(), name))
			if errors.Is(err, storage.ErrNotExist) || err != nil && ctx.Err() == nil && slices.Contains(here, name) {
				return nil
			}
			if err == nil {
				mu.Lock()
				sizes[name] = o.Size
				mu.Unlock()
			}
			return err
		})
	}
	return sizes, g.Wait()
}

// holds reports whether the object at a key is text, and in which bucket.
func holds(ctx context.Context, b storage.Bucket, key string, text []byte) (bucket string, same bool, err error) {
	o, err := b.Stat(ctx, key)
	if err != nil {
		return "", false, err
	}
	if o.Size != int64(len(text)) {
		return "", false, nil
	}
	body, _, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return "", false, err
	}
	defer body.Close()
	got, err := io.ReadAll(io.LimitReader(body, int64(len(text))+1))
	return o.Bucket, bytes.Equal(got, text), err
}
