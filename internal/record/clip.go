package record

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/durable"
	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// A clip is a range of a recording, running or finished, as a file of its own:
//
//	{prefix}/record/{app}/{stream}/clip/{name}-{start}-{end}.mp4
//	{prefix}/record/{app}/{stream}/clip/{name}-{start}-{end}.m3u8
//	{prefix}/record/{app}/{stream}/clip/{name}-{start}-{end}/head.ts, tail.ts
//
// It begins with the last key frame at or before what was asked for, and ends
// before the first at or after it: nothing is missing. An HLS clip is a playlist
// that names the recording's own segments. Of a segment that is wanted in part,
// its first or last one, the part is an object of its own: byte ranges within a
// transport stream would begin without its tables, and not every player could
// play them. What a clip names stays when its recording is deleted; see
// [Recorder.Delete].
//
// What is asked of an unfinished clip is in a file of the spool, so that a process
// that dies goes on with it. Nothing but its key and its meta values say what a
// finished one is.

// ClipRequest asks for a clip of a stream's recording.
type ClipRequest struct {
	Name string // a policy.ValidName, unique among the stream's clips; empty: one is made up

	// Recording is the task of a recording, or the name of one of its files.
	// Empty: the one that was running at Start, if that is a time, and
	// otherwise the newest one.
	Recording string

	Format     string // hls, mp4
	Start, End Position
	Exact      bool // frame by frame, which encodes the picture anew; MP4 only
	Callback   bool // tell who is told of the app's files of that format
}

// Position is a place in a recording. The zero Position is its beginning.
type Position struct {
	Time   time.Time     // the frame that came then; zero: by Offset
	Offset time.Duration // from the beginning
	ToEnd  bool          // Offset counts back from the end; of a running recording from now
}

// ParsePosition reads a time (RFC 3339), seconds from the beginning ("90.5"),
// or with a minus sign before the end ("-30").
func ParsePosition(s string) (Position, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return Position{Time: t}, nil
	}
	back := strings.HasPrefix(s, "-")
	number := strings.TrimPrefix(s, "-")
	d, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "0123456789.") != "" || d > 1e6 {
		return Position{}, fmt.Errorf("%.40q is neither a time such as 2026-01-31T20:00:00Z nor seconds from the beginning, such as 90.5, or before the end, such as -30", s)
	}
	return Position{Offset: time.Duration(d * float64(time.Second)).Round(time.Millisecond), ToEnd: back}, nil
}

func (p Position) String() string {
	switch {
	case !p.Time.IsZero():
		return p.Time.UTC().Format(time.RFC3339Nano)
	case p.ToEnd:
		return "-" + p.Offset.String()
	}
	return p.Offset.String()
}

// Clip is a clip as it is now.
type Clip struct {
	Stream    stream.Key
	Name      string
	Task      string // names it in facts and callbacks
	Recording string // task of the recording that it is of
	Format    string
	Exact     bool
	State     string // waiting for its media, making, finished, failed
	Bucket    string
	Key       string // of the object; empty while it has none
	Start     time.Time
	End       time.Time     // of its media; of an unfinished one what was asked for
	From, To  time.Duration // the same in the recording
	Size      int64         // with the segments of HLS; 0 as long as it is not known
	Error     string        // why there is none
}

// Errors of clips.
var (
	ErrNoClip    = errors.New("there is no such clip")
	ErrClipName  = errors.New("there is another clip of that name")
	ErrClips     = errors.New("there are too many clips being made")
	ErrClipRange = errors.New("the recording has no media there")
	ErrExact     = errors.New("an exact clip cannot be made")
)

const (
	maxClips   = 1000 // unfinished ones
	clipPrefix = "clip-"
	keepFailed = 24 * time.Hour // a failed clip is remembered
)

// clips are the clips of a Recorder that are being made, or have failed.
type clips struct {
	tool *ffmpeg.Tool
	turn chan struct{} // who has it decides what is deleted or pointed at
	grew signal        // recordings have more segments, or more of them are uploaded

	asking sync.Mutex // held while a request is made durable; taken before mu

	mu   sync.Mutex // taken before Recorder.mu
	list map[clipID]*clip
}

type clipID struct {
	key  stream.Key
	name string
}

// signal wakes all that wait for it.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

// next returns a channel that is closed by the next call of all.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) all() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// clipJob is what is known of a clip that is being made: the file
// clip-{task}.json of the spool.
type clipJob struct {
	Task      string          `json:"task"`
	Name      string          `json:"name"`
	Format    string          `json:"format"`
	Space     string          `json:"space"`
	App       string          `json:"app"`
	Stream    string          `json:"stream"`
	Bucket    string          `json:"bucket"`
	Prefix    string          `json:"prefix,omitempty"`
	Recording string          `json:"recording"` // its task
	Folder    string          `json:"folder"`    // key of the folder of its segments
	Exact     bool            `json:"exact,omitempty"`
	Ask       string          `json:"ask"` // of the request: two with the same are the same
	Callback  *event.Callback `json:"callback,omitempty"`
	Created   time.Time       `json:"created"`
	From      int64           `json:"from"` // as asked, ms of the recording
	To        int64           `json:"to"`
	Start     time.Time       `json:"start"`
	End       time.Time       `json:"end"`

	Cut    *clipCut     `json:"cut,omitempty"`
	Key    string       `json:"key,omitempty"`
	Upload []byte       `json:"upload,omitempty"`
	Whole  *converted   `json:"whole,omitempty"` // all parts are there
	Fact   *event.Event `json:"fact,omitempty"`  // ClipFinished or ClipFailed
	Told   bool         `json:"told,omitempty"`
}

func (j *clipJob) key() stream.Key { return stream.Key{Space: j.Space, App: j.App, Name: j.Stream} }
func (j *clipJob) id() clipID      { return clipID{j.key(), j.Name} }

// base is the key of the clip without its extension. The job has its cut.
func (j *clipJob) base() string {
	return fmt.Sprintf("%s%s-%d-%d", clipDir(j.Prefix, j.App, j.Stream), j.Name, j.Cut.Start.Unix(), j.Cut.End.Unix())
}

func clipDir(prefix, app, name string) string {
	return path.Join(prefix, "record", app, name, "clip") + "/"
}

// clip is a clip that is being made. Its run goroutine alone changes the job.
type clip struct {
	r      *Recorder
	log    *slog.Logger
	ctx    context.Context // ends with the Recorder, or when the clip is deleted
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended

	seen [2]int // segments that there were, and whether more were to come, when it was not far enough; run's

	mu      sync.Mutex
	job     clipJob
	waiting bool // for media
}

// fileOf returns the path of a job's file.
func (r *Recorder) fileOf(task string) string {
	return filepath.Join(r.dir, clipPrefix+task+".json")
}

// loadClips goes on with the clips that were being made.
func (r *Recorder) loadClips() error {
	if unfinished, err := filepath.Glob(filepath.Join(r.dir, clipPrefix+"*.json.new")); err == nil {
		for _, file := range unfinished { // of a process that was killed
			os.Remove(file)
		}
	}
	files, err := filepath.Glob(filepath.Join(r.dir, clipPrefix+"*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		var j clipJob
		if err == nil {
			err = json.Unmarshal(data, &j)
		}
		if err != nil || r.fileOf(j.Task) != file {
			r.log.Error("a clip in the spool cannot be read; it stays there", "file", file, "err", err)
			continue
		}
		c := r.newClip(j)
		r.clips.list[j.id()] = c
		r.jobs.Go(c.run) // ends when the clip is made, or with r.ctx
	}
	return nil
}

func (r *Recorder) newClip(j clipJob) *clip {
	c := &clip{r: r, job: j, done: make(chan struct{})}
	c.log = r.log.With("stream", j.key().String(), "clip", j.Name)
	c.ctx, c.cancel = context.WithCancel(r.ctx)
	return c
}

// save makes a job durable.
func (r *Recorder) save(j *clipJob) error {
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.fileOf(j.Task), data); err != nil {
		return fmt.Errorf("clip: %w", err)
	}
	return nil
}

// change changes the job, durably.
func (c *clip) change(f func(*clipJob)) error {
	c.mu.Lock()
	j := c.job
	c.mu.Unlock()
	f(&j)
	if err := c.r.save(&j); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.job = j
	return nil
}

// now returns the job as it is.
func (c *clip) now() clipJob {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.job
}

func (c *clip) describe() Clip {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := &c.job
	d := Clip{
		Stream: j.key(), Name: j.Name, Task: j.Task, Recording: j.Recording, Format: j.Format, Exact: j.Exact, State: "making",
		Bucket: j.Bucket, Start: j.Start, End: j.End, From: ms(j.From), To: ms(j.To),
	}
	if j.Cut != nil {
		d.Start, d.End, d.From, d.To = j.Cut.Start, j.Cut.End, ms(j.Cut.From), ms(j.Cut.To)
	}
	switch {
	case c.waiting:
		d.State = "waiting"
	case j.Fact == nil:
	case j.Fact.Type == event.TypeClipFailed:
		d.State, d.Error = "failed", j.Fact.Data.(event.ClipFailed).Errmsg
	default:
		f := j.Fact.Data.(event.ClipFinished)
		d.State, d.Key, d.Size = "finished", j.Key, f.Size
	}
	return d
}

// failed reports whether there will be no such clip.
func (c *clip) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.job.Fact != nil && c.job.Fact.Type == event.TypeClipFailed
}

// ask is what two requests for the same have in common.
func (q *ClipRequest) ask() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%v\n%v", q.Recording, q.Format, q.Start, q.End, q.Exact, q.Callback))
	return hex.EncodeToString(sum[:16])
}

// Clip asks for a clip of a stream's recording. It returns as soon as that is
// durable; the clip is made from then on, when its media are there. A range that
// reaches beyond what a running recording has waits for it, and ends where the
// recording does. A request that was made before, by name, gives the same
// clip again.
func (r *Recorder) Clip(ctx context.Context, key stream.Key, app *policy.App, q ClipRequest) (Clip, error) {
	if q.Name == "" {
		q.Name = event.NewID()
	}
	j := clipJob{
		Task: event.NewSequence(), Name: q.Name, Format: q.Format, Space: key.Space, App: key.App, Stream: key.Name,
		Bucket: app.Record.Bucket, Prefix: app.Record.Prefix, Exact: q.Exact, Ask: q.ask(), Created: time.Now(),
	}
	if old, err := r.same(ctx, key, &app.Record, &j); err != nil || old.Name != "" {
		return old, err
	}
	if q.Exact {
		if err := r.canEncode(ctx); err != nil {
			return Clip{}, err
		}
	}
	b, err := r.bucket(j.Bucket)
	if err != nil {
		return Clip{}, err
	}
	src, err := r.choose(ctx, b, &j, &q)
	if err != nil {
		return Clip{}, err
	}
	now := time.Now()
	j.From, j.To = src.at(q.Start, now), src.at(q.End, now)
	have := src.reach(now)
	if !src.open {
		j.To = min(j.To, have)
	}
	if j.From = max(j.From, 0); j.From >= have || j.To <= j.From {
		return Clip{}, fmt.Errorf("%w: it has %v of them, and the clip would be from %v to %v", ErrClipRange, ms(have), ms(j.From), ms(j.To))
	}
	j.Start, j.End = src.times(j.From, j.To)
	if q.Callback {
		f := &app.Record.HLS
		if q.Format == "mp4" {
			f = &app.Record.MP4
		}
		j.Callback = callback(f)
	}
	c := r.newClip(j)
	c.waiting = j.To > src.end()
	r.clips.asking.Lock()
	defer r.clips.asking.Unlock()
	if old, err := r.reserve(&j); err != nil {
		return Clip{}, err
	} else if old != nil {
		return old.describe(), nil
	}
	if err := r.save(&j); err != nil {
		return Clip{}, err
	}
	r.clips.mu.Lock()
	defer r.clips.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		os.Remove(r.fileOf(j.Task))
		return Clip{}, context.Canceled
	}
	r.clips.list[j.id()] = c
	r.emit(c.fact(j.Created, event.ClipRequested{Clip: c.event(&j)}))
	r.jobs.Go(c.run) // ends when the clip is made, or with c.ctx
	return c.describe(), nil
}

// reserve sees that a clip can be made; old is one that is the same, and is being
// made already. r.clips.asking is held.
func (r *Recorder) reserve(j *clipJob) (old *clip, err error) {
	r.clips.mu.Lock()
	defer r.clips.mu.Unlock()
	switch old = r.clips.list[j.id()]; {
	case old != nil && !old.failed(): // somebody was faster
		if old.now().Ask != j.Ask {
			return nil, ErrClipName
		}
		return old, nil
	case old != nil:
		r.forget(old)
	}
	if len(r.clips.list) >= maxClips {
		return nil, ErrClips
	}
	return nil, nil
}

// same returns the clip that was asked for before in the same words, one
// without name if there is none of that name, or ErrClipName. One that has failed may be
// asked for again.
func (r *Recorder) same(ctx context.Context, key stream.Key, cfg *policy.Record, j *clipJob) (Clip, error) {
	r.clips.mu.Lock()
	c := r.clips.list[j.id()]
	r.clips.mu.Unlock()
	if c != nil && c.failed() {
		select {
		case <-c.done: // everybody has been told
		case <-ctx.Done():
			return Clip{}, ctx.Err()
		}
	} else if c != nil {
		if c.now().Ask != j.Ask {
			return Clip{}, ErrClipName
		}
		return c.describe(), nil
	}
	_, o, err := r.stored(ctx, key, cfg, j.Name)
	switch {
	case errors.Is(err, ErrNoClip):
		return Clip{}, nil
	case err != nil:
		return Clip{}, err
	case o.Meta["ask"] != j.Ask:
		return Clip{}, ErrClipName
	}
	return r.ClipOf(ctx, key, cfg, j.Name)
}

// forget removes what the spool has of a clip. r.clips.mu is held, and run is
// over.
func (r *Recorder) forget(c *clip) {
	j := c.now()
	if r.clips.list[j.id()] == c {
		delete(r.clips.list, j.id())
	}
	if err := os.Remove(r.fileOf(j.Task)); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("spool", "err", err)
	}
}

// UnfinishedClips returns the clips that this node is making or could not
// make, the oldest first.
func (r *Recorder) UnfinishedClips() []Clip {
	r.clips.mu.Lock()
	var all []*clip
	for _, c := range r.clips.list {
		j := c.now()
		if j.Fact != nil && j.Told && time.Since(j.Fact.Time) > keepFailed {
			r.forget(c)
			continue
		}
		all = append(all, c)
	}
	r.clips.mu.Unlock()
	slices.SortFunc(all, func(a, b *clip) int {
		x, y := a.now(), b.now()
		return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.Task, y.Task))
	})
	list := make([]Clip, 0, len(all))
	for _, c := range all {
		list = append(list, c.describe())
	}
	return list
}

// Clips returns the clips of a stream that have media between from and to, of
// which either may be zero, by their start: those in the bucket, and those
// that this node is making. cfg says where they are. Recording, From, To and
// Exact of a finished one are known to ClipOf only, and so is the size of its segments.
func (r *Recorder) Clips(ctx context.Context, key stream.Key, cfg *policy.Record, from, to time.Time) ([]Clip, error) {
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return nil, err
	}
	var list []Clip
	within := func(c Clip) {
		if (to.IsZero() || !c.Start.After(to)) && (from.IsZero() || !c.End.Before(from)) {
			list = append(list, c)
		}
	}
	there := map[string]bool{}
	err = each(ctx, b, clipDir(cfg.Prefix, key.App, key.Name), func(o *storage.Object) {
		if c, ok := parseClip(o.Key); ok {
			c.Stream, c.Bucket, c.Size = key, cfg.Bucket, o.Size
			there[c.Name] = true
			within(c)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, c := range r.UnfinishedClips() {
		if c.Stream == key && !there[c.Name] {
			within(c)
		}
	}
	slices.SortFunc(list, func(a, b Clip) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// parseClip reads the key of a clip.
func parseClip(key string) (c Clip, ok bool) {
	ext := path.Ext(key)
	format := map[string]string{".mp4": "mp4", ".m3u8": "hls"}[ext]
	rest := strings.TrimSuffix(path.Base(key), ext)
	var n [2]int64
	for i := 1; i >= 0; i-- {
		at := strings.LastIndexByte(rest, '-')
		if at < 1 {
			return c, false
		}
		v, err := strconv.ParseUint(rest[at+1:], 10, 40)
		if err != nil {
			return c, false
		}
		n[i], rest = int64(v), rest[:at]
	}
	c = Clip{Name: rest, Format: format, State: "finished", Key: key, Start: time.Unix(n[0], 0).UTC(), End: time.Unix(n[1], 0).UTC()}
	return c, format != "" && policy.ValidName(rest)
}

// stored returns the clip of that name in the bucket, as far as its key says,
// with its object.
func (r *Recorder) stored(ctx context.Context, key stream.Key, cfg *policy.Record, name string) (Clip, storage.Object, error) {
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return Clip{}, storage.Object{}, err
	}
	if !policy.ValidName(name) {
		return Clip{}, storage.Object{}, ErrNoClip
	}
	var found Clip
	err = each(ctx, b, clipDir(cfg.Prefix, key.App, key.Name)+name+"-", func(o *storage.Object) {
		if c, ok := parseClip(o.Key); ok && c.Name == name && found.Name == "" {
			found = c
		}
	})
	if err == nil && found.Name == "" {
		err = ErrNoClip
	}
	if err != nil {
		return Clip{}, storage.Object{}, err
	}
	o, err := b.Stat(ctx, found.Key)
	if errors.Is(err, storage.ErrNotExist) {
		err = ErrNoClip
	}
	found.Stream, found.Bucket, found.Size = key, cfg.Bucket, o.Size
	return found, o, err
}

// meta is what a finished clip's object says of it.
func (j *clipJob) meta(size int64) map[string]string {
	m := map[string]string{
		"task": j.Task, "ask": j.Ask, "recording": j.Recording,
		"from": strconv.FormatInt(j.Cut.From, 10), "to": strconv.FormatInt(j.Cut.To, 10), "exact": strconv.FormatBool(j.Exact),
	}
	if size > 0 {
		m["size"] = strconv.FormatInt(size, 10)
	}
	return m
}

// ClipOf returns the clip of that name, or ErrNoClip.
func (r *Recorder) ClipOf(ctx context.Context, key stream.Key, cfg *policy.Record, name string) (Clip, error) {
	r.clips.mu.Lock()
	c := r.clips.list[clipID{key, name}]
	r.clips.mu.Unlock()
	if c != nil {
		return c.describe(), nil
	}
	found, o, err := r.stored(ctx, key, cfg, name)
	if err != nil {
		return Clip{}, err
	}
	num := func(name string) int64 {
		n, _ := strconv.ParseInt(o.Meta[name], 10, 64)
		return n
	}
	found.Task, found.Recording, found.Exact = o.Meta["task"], o.Meta["recording"], o.Meta["exact"] == "true"
	found.From, found.To = ms(num("from")), ms(num("to"))
	if n := num("size"); n > 0 {
		found.Size = n
	}
	return found, nil
}

// ClipURL returns a URL by which whoever has it can play a finished clip for
// that long. That of an HLS clip leads to this node's media listeners, and is
// good for what its playlist names, and nothing else of the recording.
func (r *Recorder) ClipURL(ctx context.Context, key stream.Key, cfg *policy.Record, name string, valid time.Duration) (string, error) {
	c, o, err := r.stored(ctx, key, cfg, name)
	if err != nil {
		return "", err
	}
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return "", err
	}
	if c.Format == "hls" && r.signer != nil {
		return r.signer.PlaylistURL(r.signedAs(cfg, &o), c.Key, valid), nil
	}
	return b.SignedURL(ctx, c.Key, valid)
}

// DeleteClip removes a clip, or stops making it. Segments that its recording
// has left to it are removed as well unless another clip has them. One that is not
// there is no error.
func (r *Recorder) DeleteClip(ctx context.Context, key stream.Key, cfg *policy.Record, name string) error {
	r.clips.mu.Lock()
	c := r.clips.list[clipID{key, name}]
	r.clips.mu.Unlock()
	if c != nil {
		c.cancel()
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		j := c.now()
		if err := r.abandon(ctx, &j); err != nil {
			return err
		}
		r.clips.mu.Lock()
		r.forget(c)
		r.clips.mu.Unlock()
		if err := r.release(ctx, &j); err != nil {
			return err
		}
	}
	b, err := r.bucket(cfg.Bucket)
	if err != nil {
		return err
	}
	if !policy.ValidName(name) {
		return nil
	}
	var list []Clip
	dir := clipDir(cfg.Prefix, key.App, key.Name)
	err = scan(ctx, b, dir+name+"-", func(o *storage.Object) {
		if c, ok := parseClip(o.Key); ok && c.Name == name {
			list = append(list, c)
		}
	}, func(string) {})
	if err != nil {
		return err
	}
	for i := range list {
		if err := r.deleteClip(ctx, b, key, cfg, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// abandon removes what the bucket has of a clip that was not finished.
func (r *Recorder) abandon(ctx context.Context, j *clipJob) error {
	b, err := r.bucket(j.Bucket)
	if err != nil {
		return err
	}
	if j.Upload != nil {
		up, err := b.Resume(ctx, j.Upload)
		if err == nil {
			err = up.Abort(ctx)
		}
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	if j.Cut == nil || j.Format != "hls" || j.Fact != nil && j.Fact.Type == event.TypeClipFinished {
		return nil
	}
	if _, err := b.Stat(ctx, j.base()+".m3u8"); !errors.Is(err, storage.ErrNotExist) {
		return err // it was finished
	}
	return deleteFolder(ctx, b, j.base()+"/")
}

// deleteFolder deletes the objects of a folder.
func deleteFolder(ctx context.Context, b storage.Bucket, dir string) error {
	var keys []string
	if err := each(ctx, b, dir, func(o *storage.Object) { keys = append(keys, o.Key) }); err != nil {
		return err
	}
	for chunk := range slices.Chunk(keys, 500) {
		if err := b.Delete(ctx, chunk...); err != nil {
			return err
		}
	}
	return nil
}

// retainClips deletes the clips of a stream that are older than the policy has it.
func (r *Recorder) retainClips(ctx context.Context, b storage.Bucket, key stream.Key, cfg *policy.Record) (deleted int, err error) {
	var old []Clip
	err = each(ctx, b, clipDir(cfg.Prefix, key.App, key.Name), func(o *storage.Object) {
		if c, ok := parseClip(o.Key); ok && time.Since(o.Modified) > cfg.KeepClips {
			old = append(old, c)
		}
	})
	for i := range old {
		if e := r.deleteClip(ctx, b, key, cfg, &old[i]); e != nil {
			err = errors.Join(err, e)
			continue
		}
		deleted++
		r.log.Info("clip deleted, as the policy has it", "stream", key.String(), "key", old[i].Key)
	}
	return deleted, err
}

// readAll reads at most n bytes of an object from off on.
func readAll(ctx context.Context, b storage.Bucket, key string, off, n int64) ([]byte, error) {
	body, _, err := b.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}
