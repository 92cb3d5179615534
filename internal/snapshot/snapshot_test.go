package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"math"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/ffmpeg"
	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// Which key frames are due: the first one of a push, then the first one at or
// after each interval since the last one taken, by media time.
func TestDue(t *testing.T) {
	hub := stream.NewHub(stream.Options{})
	defer hub.Close(context.Background())
	app := policy.DefaultApp("live")
	publish := func(interval time.Duration) *stream.Publication {
		app := app
		app.Snapshot.Enabled, app.Snapshot.Interval, app.Takeover = true, interval, true
		p, err := hub.Publish(stream.Key{Space: "s", App: "live", Name: "a"}, &app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		interval time.Duration
		gop      int64 // ms
		want     string
	}{
		{20 * time.Second, 1000, "0 20000 40000 60000"},
		{20 * time.Second, 2000, "0 20000 40000 60000"},
		{20 * time.Second, 10000, "0 20000 40000 60000"},
		{20 * time.Second, 3000, "0 21000 42000 63000"}, // since the last one taken, not on a grid
		{20 * time.Second, 30000, "0 30000 60000"},
		{time.Second, 999, "0 1998 3996 5994"},
		{5 * time.Second, 5000, "0 5000 10000 15000 20000 25000 30000 35000 40000 45000 50000 55000 60000 65000"},
	} {
		pub := publish(c.interval)
		f := following{push: newPush(pub)}
		var got []string
		for ms := int64(0); ms <= 65000 && (c.gop != 999 || ms < 7000); ms += 1 {
			if ms%40 != 0 && ms%c.gop != 0 {
				continue
			}
			p := frame(ms, ms%c.gop == 0, "x")
			if x := f.next(&p, time.Now()); x != nil {
				got = append(got, fmt.Sprint(ms))
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("interval %v, GOP %d ms: taken at %s, want %s", c.interval, c.gop, s, c.want)
		}
	}
	// Sound, configuration and metadata are no pictures.
	f := following{push: newPush(publish(20 * time.Second))}
	for _, p := range []av.Packet{{Kind: av.Audio, Key: true}, {Kind: av.Data}, {Kind: av.Video, Config: true, Key: true}, frame(0, false, "x")} {
		if f.next(&p, time.Now()) != nil {
			t.Errorf("%+v becomes a picture", p)
		}
	}
}

// A push that comes back begins anew, in a folder of its own.
func TestReturningPush(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	var folders []string
	for i := range 2 {
		p := w.publish("streamname", nil)
		write(t, p, frame(0, true, fmt.Sprint("push ", i)), frame(1000, true, "not due"))
		d := w.wait(i + 1)[i].Data.(event.SnapshotTaken)
		folders = append(folders, d.Key[:strings.LastIndex(d.Key, "/")])
		p.End(stream.EndClosed)
	}
	if folders[0] == folders[1] {
		t.Errorf("both pushes have the folder %s", folders[0])
	}
}

var callbackKey = regexp.MustCompile(`^record/live/streamname/picture/(\d{13})_([1-9]\d{8})/streamname-(\d{10})\.jpg$`)

func TestPicturesAreStored(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	p := w.publish("streamname", func(s *policy.Snapshot) {
		s.Interval, s.Region, s.Callback = time.Second, "BEIJING", "https://example.com/x"
	})
	began := p.Start()
	write(t, p, frame(0, true, "one"), frame(500, true, "not due"))
	w.wait(1)
	write(t, p, frame(1000, true, "two"))
	facts := w.wait(2)
	keys := map[string]bool{}
	for i, e := range facts {
		d, ok := e.Data.(event.SnapshotTaken)
		if !ok {
			t.Fatalf("fact %d: %+v", i, e)
		}
		m := callbackKey.FindStringSubmatch(d.Key)
		if m == nil || m[1] != fmt.Sprint(began.UnixMilli()) {
			t.Errorf("key %q", d.Key)
		}
		if e.Space != "youruniquename" || e.App != "live" || e.Stream != "streamname" || e.Sequence != p.Push().Sequence ||
			d.Domain != "push.example.com" || d.Bucket != "yourbucket" || d.Region != "BEIJING" || len(d.Task) != 32 || d.Width != 64 || d.Height != 48 ||
			d.SrcWidth != 64 || d.SrcHeight != 48 || d.Callback == nil || *d.Callback != (event.Callback{URL: "https://example.com/x"}) {
			t.Errorf("fact %d: %+v", i, e)
		}
		r, o, err := w.bucket.Get(t.Context(), d.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r)
		r.Close()
		if o.ContentType != "image/jpeg" || o.CacheControl != "" || o.Size != d.Size || int64(len(b)) != d.Size {
			t.Errorf("object %+v of %d bytes", o, len(b))
		}
		if _, err := jpeg.Decode(bytes.NewReader(b)); err != nil {
			t.Error(err)
		}
		keys[d.Key] = true
	}
	if len(keys) != 2 {
		t.Errorf("keys %v, want two", keys)
	}
	latest := w.Latest(p.Stream().Key())
	if latest == nil || latest.Object != facts[1].Data.(event.SnapshotTaken).Key || len(latest.ETag) != 32 {
		t.Errorf("latest picture %+v", latest)
	}
	if s := w.Stats(); s.Taken != 2 || s.Failed != 0 || s.Held != len(latest.JPEG) {
		t.Errorf("Stats() = %+v", s)
	}
}

func TestKeys(t *testing.T) {
	hub := stream.NewHub(stream.Options{})
	defer hub.Close(context.Background())
	app := policy.DefaultApp("live")
	pub, err := hub.Publish(stream.Key{Space: "s", App: "live", Name: "a"}, &app, stream.Push{})
	if err != nil {
		t.Fatal(err)
	}
	push := &push{pub: pub, began: time.UnixMilli(1683269715474), number: 153042646}
	for _, c := range []struct {
		cfg  policy.Snapshot
		want string
	}{
		{policy.Snapshot{}, "record/live/a/picture/1683269715474_153042646/a-1683279837.jpg"},
		{policy.Snapshot{}, "record/live/a/picture/1683269715474_153042646/a-1683279838.jpg"}, // in the same second
		{policy.Snapshot{PathStyle: policy.SnapshotHyphen, Prefix: "x/y"}, "x/y/record/live/a/picture/1683269715474-153042646/a-1683279839.jpg"},
		{policy.Snapshot{Overwrite: true}, "record/live/a/picture/a.jpg"},
		{policy.Snapshot{Overwrite: true, Prefix: "x"}, "x/record/live/a/picture/a.jpg"},
	} {
		x := &capture{push: push, cfg: &c.cfg, at: time.Unix(1683279837, 5e8)}
		if got := x.key(); got != c.want || x.key() != got {
			t.Errorf("key = %q, then %q, want %q", got, x.key(), c.want)
		}
	}
}

// H72: no name of a stream leads out of its folder.
func TestNamesStayNames(t *testing.T) {
	for _, name := range []string{
		"", ".", "..", ".a", "-i", "a/b", "/a", "a/", "../a", "a/../../b", `a\b`, `..\a`, "a b", "a'b", `a"b`, "a:b", "a*b", "a?b", "a%b", "%2e%2e", "$(id)", "a;b",
		"a\x00", "a\n", "a\x7f", "a\xff", "\u2024\u2024", "\uff0e\uff0e", "ä", strings.Repeat("a", 256),
	} {
		if policy.ValidStreamName(name) {
			t.Errorf("%q is a name", name)
		}
	}
	for _, name := range []string{"a", "a..", "a...b", "_", "0", "a.jpg", "picture", "a-1700000000", "_..", strings.Repeat("a", 255)} {
		if !policy.ValidStreamName(name) {
			t.Errorf("%q is no name", name)
			continue
		}
		hub := stream.NewHub(stream.Options{})
		app := policy.DefaultApp("live")
		pub, err := hub.Publish(stream.Key{Space: "s", App: "live", Name: name}, &app, stream.Push{})
		if err != nil {
			t.Fatal(err)
		}
		for _, overwrite := range []bool{false, true} {
			c := &capture{push: newPush(pub), cfg: &policy.Snapshot{Overwrite: overwrite}, at: time.Now()}
			key, folder := c.key(), "record/live/"+name+"/picture/"
			if err := storage.CheckKey(key); err != nil || path.Clean(key) != key || !strings.HasPrefix(key, folder) {
				t.Errorf("%q is stored as %q, %v, which is not below %s", name, key, err, folder)
			}
		}
		hub.Close(context.Background())
	}
}

// What is in the making when the server shuts down has failed for that.
func TestCloseWhileAPictureIsMade(t *testing.T) {
	tool := fakeTool(t)
	w := newWorld(t, tool, nil)
	write(t, w.publish("streamname", nil), frame(0, true, "slow"))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); tool.Health().Running == 0; <-tick.C {
		if time.Since(began) > 20*time.Second {
			t.Fatal("no ffmpeg runs")
		}
	}
	w.Close()
	if d, ok := w.wait(1)[0].Data.(event.SnapshotFailed); !ok || d.Errnum != errClosed || d.Errmsg != "the server is shutting down" {
		t.Errorf("fact %+v", w.facts[0].Data)
	}
}

// What cannot become a picture is told, and costs nothing else.
func TestFailures(t *testing.T) {
	tool := fakeTool(t)
	vp8 := frame(0, true, "x")
	vp8.Codec = av.VP8
	for _, c := range []struct {
		name   string
		packet av.Packet
		change func(*Options)
		errnum int
		errmsg string
	}{
		{"bad frame", frame(0, true, "bad"), nil, errDecode, "the picture cannot be decoded"},
		{"no output", frame(0, true, "none"), nil, errDecode, "the key frame is broken"},
		{"no ffmpeg", frame(0, true, "x"), func(o *Options) { o.Tool = ffmpegMissing(t) }, errNoFFmpeg, "this server has no ffmpeg to make pictures with"},
		{"no bucket", frame(0, true, "x"), func(o *Options) { o.Bucket = nil }, errStorage, "there is no bucket for pictures"},
		{"bucket away", frame(0, true, "x"), func(o *Options) {
			o.Bucket = func(string) (storage.Bucket, error) { return nil, errors.New("secret detail") }
		}, errStorage, "the bucket cannot be used"},
		{"codec", av.Packet{Kind: av.Video, Codec: av.Unknown, Key: true, Frame: []byte("x")}, nil, errCodec, "pictures cannot be made of unknown"},
		{"decoder", vp8, nil, errCodec, "the ffmpeg of this server cannot decode vp8"},
		{"no configuration", av.Packet{Kind: av.Video, Codec: av.H264, Key: true, Frame: []byte{0, 0, 0, 1, 0x65}}, nil, errDecode, "the key frame is broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, tool, c.change)
			p := w.publish("streamname", func(s *policy.Snapshot) { s.Callback = "https://example.com/x" })
			write(t, p, c.packet)
			e := w.wait(1)[0]
			d, ok := e.Data.(event.SnapshotFailed)
			if !ok || d.Errnum != c.errnum || d.Errmsg != c.errmsg || d.Bucket != "yourbucket" || d.Callback == nil || !callbackKey.MatchString(d.Key) || e.Sequence != p.Push().Sequence {
				t.Errorf("fact %+v, want errnum %d, %q", e, c.errnum, c.errmsg)
			}
		})
	}
}

// A stream whose worker is busy keeps the newest key frame and gives up older
// ones, of which it tells once, and of the rest when it is over; other streams
// do not notice. A picture that hangs ends with its limit.
func TestBusyWorkerSheds(t *testing.T) {
	w := newWorld(t, fakeTool(t), func(o *Options) { o.Pictures, o.Time = 2, 20*time.Second })
	p := w.publish("slow", func(s *policy.Snapshot) { s.Interval = time.Second })
	write(t, p, frame(0, true, "slow"))
	for i := range int64(5) {
		write(t, p, frame(1000*(i+1), true, "next"))
	}
	busy := func(e event.Event, errmsg string) {
		t.Helper()
		if d, ok := e.Data.(event.SnapshotFailed); !ok || d.Errnum != errBusy || d.Errmsg != errmsg {
			t.Errorf("fact %+v, want one of a busy server, %q", e.Data, errmsg)
		}
	}
	busy(w.wait(1)[0], "the server was too busy to make the picture")
	other := w.publish("other", nil)
	write(t, other, frame(0, true, "x"))
	if d, ok := w.wait(2)[1].Data.(event.SnapshotTaken); !ok {
		t.Errorf("of the other stream: %+v", d)
	}
	// The one that hangs ends, and then the newest of those that waited is made.
	facts := w.wait(4)
	if d, ok := facts[2].Data.(event.SnapshotFailed); !ok || d.Errnum != errDecode || d.Errmsg != "the picture took too long to decode" {
		t.Errorf("of the one that hangs: %+v", facts[2].Data)
	}
	if _, ok := facts[3].Data.(event.SnapshotTaken); !ok {
		t.Errorf("of the one that waited: %+v", facts[3].Data)
	}
	if s := w.Stats(); s.Shed != 4 || s.Failed != 5 || s.Taken != 2 || s.Waiting != 0 {
		t.Errorf("Stats() = %+v", s)
	}
	p.End(stream.EndClosed)
	busy(w.wait(5)[4], "the server was too busy to make the picture, and 2 before it")
}

// A picture that is only to be looked at, and was asked for in vain, does not
// take the word of one that was due.
func TestBusyOfAskedIsNotTold(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	p := w.publish("streamname", nil)
	of := w.pushes.of(p)
	for _, stored := range []bool{false, true, false, true} {
		w.fail(&capture{push: of, cfg: &p.App().Snapshot, at: time.Now(), stored: stored}, ffmpeg.ErrShed)
	}
	if d, ok := w.wait(1)[0].Data.(event.SnapshotFailed); !ok || d.Errmsg != "the server was too busy to make the picture" {
		t.Errorf("fact %+v", d)
	}
	if c, n := of.end(); c == nil || n != 1 {
		t.Errorf("%d are left to be told of, want 1", n)
	}
	if s := w.Stats(); s.Shed != 4 {
		t.Errorf("Stats() = %+v", s)
	}
}

func TestRest(t *testing.T) {
	for _, c := range []struct{ took, cpu, want time.Duration }{
		{9 * time.Millisecond, 8 * time.Millisecond, 0},
		{20 * time.Millisecond, 8 * time.Millisecond, 160 * time.Millisecond},
		{10 * time.Second, 0, time.Second},
		{8 * time.Millisecond, 9 * time.Millisecond, 0}, // a clock that is coarse
	} {
		if got := rest(c.took, c.cpu); got != c.want {
			t.Errorf("rest(%v, %v) = %v, want %v", c.took, c.cpu, got, c.want)
		}
	}
}

// What is said of a busy server comes once a minute, with all that was not said.
func TestBusyIsToldOnceAMinute(t *testing.T) {
	p, at := push{}, time.Now()
	for i, c := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {time.Second, 0}, {58 * time.Second, 0}, {time.Second, 3}, {59 * time.Second, 0}, {time.Minute, 2}} {
		at = at.Add(c.after)
		if n := p.drop(&capture{}, at); n != c.want {
			t.Errorf("drop %d tells of %d, want %d", i, n, c.want)
		}
	}
	if c, n := p.end(); c != nil || n != 0 {
		t.Errorf("at the end %d are left", n)
	}
}

// F53: with overwrite the last capture wins and not the last upload.
func TestLastCaptureWins(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	p := w.publish("streamname", func(s *policy.Snapshot) { s.Overwrite = true })
	write(t, p, frame(0, true, "one"))
	d := w.wait(1)[0].Data.(event.SnapshotTaken)
	const key = "record/live/streamname/picture/streamname.jpg"
	if d.Key != key {
		t.Errorf("key %q", d.Key)
	}
	o, err := w.bucket.Stat(t.Context(), key)
	if err != nil || o.CacheControl != "no-cache" {
		t.Errorf("object %+v, %v", o, err)
	}
	cfg := &p.App().Snapshot
	now := time.Now()
	put := func(at time.Time, text string) {
		t.Helper()
		c := &capture{push: w.pushes.of(p), cfg: cfg, at: at, stored: true}
		if bucket, err := w.store(c, &Picture{Stream: p.Stream().Key(), Captured: at, JPEG: []byte(text)}, key); err != nil || bucket != "yourbucket" {
			t.Errorf("store: %q, %v", bucket, err)
		}
	}
	put(now.Add(20*time.Second), "newer")
	put(now.Add(10*time.Second), "older") // arrives last
	text := func() string {
		r, _, err := w.bucket.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, _ := io.ReadAll(r)
		return string(b)
	}
	if got := text(); got != "newer" {
		t.Errorf("the object is %q, want the newer picture", got)
	}
	// Another node's older picture comes between our look and our write.
	w.bucket = &racing{Bucket: w.bucket, key: key, ms: now.UnixMilli()}
	put(now.Add(30*time.Second), "newest")
	if got := text(); got != "newest" {
		t.Errorf("the object is %q, want the newest picture", got)
	}
}

// racing is a bucket into which somebody else puts an older picture right after
// our first one.
type racing struct {
	storage.Bucket
	key  string
	ms   int64
	done bool
}

func (r *racing) Put(ctx context.Context, key string, body io.Reader, o storage.PutOptions) (storage.Object, error) {
	obj, err := r.Bucket.Put(ctx, key, body, o)
	if !r.done {
		r.done = true
		r.Bucket.Put(ctx, key, strings.NewReader("old"), storage.PutOptions{Meta: map[string]string{captured: fmt.Sprint(r.ms)}})
	}
	return obj, err
}

func TestNow(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	p := w.publish("streamname", func(s *policy.Snapshot) { s.Enabled = false })
	write(t, p, frame(0, true, "one"), frame(40, false, "x"))
	pic, err := w.Now(t.Context(), p.Stream(), true)
	if err != nil || pic.Width != 64 || pic.Object != "" || w.Latest(p.Stream().Key()) != pic {
		t.Errorf("Now = %+v, %v", pic, err)
	}
	if _, err := w.Now(t.Context(), p.Stream(), true); !errors.Is(err, ErrTooMany) {
		t.Errorf("at once again: %v, want ErrTooMany", err)
	}
	if len(w.facts) != 0 {
		t.Errorf("facts of pictures that nobody stores: %+v", w.facts)
	}
	silent := w.publish("silent", func(s *policy.Snapshot) { s.Enabled = false })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.Now(ctx, silent.Stream(), true); !errors.Is(err, ErrNoPicture) {
		t.Errorf("without a key frame: %v, want ErrNoPicture", err)
	}
	stored := w.publish("stored", nil)
	write(t, stored, frame(0, true, "one"))
	w.wait(1)
	pic, err = w.Now(t.Context(), stored.Stream(), true)
	if err != nil || pic.Object == "" {
		t.Errorf("Now = %+v, %v, want one that is stored", pic, err)
	}
	first := w.wait(2)[0].Data.(event.SnapshotTaken).Key
	if a, b := first[:strings.LastIndex(first, "/")], pic.Object[:strings.LastIndex(pic.Object, "/")]; a != b {
		t.Errorf("folders %q and %q of one push", a, b)
	}
}

func TestLatestIsBounded(t *testing.T) {
	l := latest{limit: 100}
	at := time.Unix(1, 0)
	pic := func(name string, after int, size int) *Picture {
		return &Picture{Stream: stream.Key{Name: name}, Captured: at.Add(time.Duration(after)), JPEG: make([]byte, size)}
	}
	a2 := pic("a", 2, 40)
	l.put(a2)
	l.put(pic("a", 1, 30)) // an older one that comes late
	if l.get(a2.Stream) != a2 || l.size() != 40 {
		t.Errorf("the newest picture gave way to an older one")
	}
	l.put(pic("b", 1, 40))
	l.put(pic("c", 1, 40))
	if l.get(a2.Stream) != nil || l.size() != 80 {
		t.Errorf("%d bytes held, want 80", l.size())
	}
	l.put(pic("d", 1, 1000))
	if l.size() != 0 || len(l.of) != 0 {
		t.Errorf("%d bytes held after one that is too large", l.size())
	}
}

func TestRotation(t *testing.T) {
	for _, c := range []struct {
		value any
		want  int
	}{{90.0, 90}, {"90", 90}, {"270.0", 270}, {-90.0, 270}, {360.0, 0}, {45.0, 0}, {"x", 0}, {1e300, 0}, {math.NaN(), 0}, {true, 0}} {
		p := av.Packet{Kind: av.Data, Tag: flv.AppendMetadata(nil, amf.Object{{Name: "width", Value: 1.0}, {Name: "rotate", Value: c.value}})}
		if got := rotation(p); got != c.want {
			t.Errorf("rotation(%v) = %d, want %d", c.value, got, c.want)
		}
	}
	for _, c := range []struct {
		sei    string
		rotate int
		flip   bool
		ok     bool
	}{
		{"\x2f\x03\x08\x00\x00\x80", 270, false, true},                // a quarter anticlockwise
		{"\x2f\x03\x18\x00\x00\x80", 90, false, true},                 // three quarters
		{"\x01\x02\xaa\xbb\x2f\x03\x50\x00\x00\x80", 180, true, true}, // after another message, mirrored
		{"\x2f\x03\x88\x00\x00\x80", 0, false, false},                 // cancelled
		{"\x2f\x03\x04\x00\x00\x80", 0, false, false},                 // an eighth
		{"\x2f\x04\x08\x00", 0, false, false},                         // cut
		{"\xff\xff\xff", 0, false, false},                             //
		{"", 0, false, false},                                         //
		{"\x2f\x04\x30\x00\x00\x03\x00\x80", 0, true, true},           // upside down and mirrored, escaped
	} {
		rotate, flip, ok := orientation([]byte(c.sei))
		if rotate != c.rotate || flip != c.flip || ok != c.ok {
			t.Errorf("orientation(%x) = %d, %v, %v, want %d, %v, %v", c.sei, rotate, flip, ok, c.rotate, c.flip, c.ok)
		}
	}
}

func FuzzElementary(f *testing.F) {
	f.Add(uint8(av.H264), []byte("\x01\x64\x00\x1f\xff\xe1\x00\x04\x67\x64\x00\x1f\x01\x00\x02\x68\xee"), []byte("\x00\x00\x00\x02\x65\x88"))
	f.Add(uint8(av.HEVC), []byte("\x01"), []byte("\x00\x00\x00\x02\x26\x01"))
	f.Add(uint8(av.AV1), []byte("\x81\x00\x0c\x00\x0a\x01\x00"), []byte("\x12\x00"))
	f.Add(uint8(av.VP9), []byte(nil), []byte("\x82\x49\x83\x42"))
	f.Add(uint8(av.H264), []byte("\x01\x64\x00\x1f\xff\xe1\x00\x04\x67\x64\x00\x1f\x01\x00\x02\x68\xee"), []byte("\x00\x00\x00\x07\x06\x2f\x03\x08\x00\x00\x80"))
	f.Fuzz(func(t *testing.T, codec uint8, config, frame []byte) {
		s := source{codec: av.Codec(codec), config: config, frame: frame}
		e, err := s.elementary()
		if err != nil {
			return
		}
		if len(e.data) > 10*(len(config)+len(frame))+100 {
			t.Errorf("%d bytes of %d and %d", len(e.data), len(config), len(frame))
		}
		if e.rotate%90 != 0 || e.rotate < 0 || e.rotate > 270 {
			t.Errorf("rotate = %d", e.rotate)
		}
		for _, cfg := range []policy.Snapshot{{}, {Width: 320}, {Height: 240, NeverEnlarge: true}, {Quality: 99}} {
			job(&e, "h264", &cfg, time.Second)
		}
	})
}
