package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// TestChaos lets publishers and players do everything they may, at random and
// at once, and checks every byte that players get. A run has the seed
// WEIR_CHAOS_SEED, or the number of the run in this process, so that -count
// goes through seeds, and lasts WEIR_CHAOS, or less than a second.
func TestChaos(t *testing.T) {
	seed := chaosRuns.Add(1)
	if s, err := strconv.ParseUint(os.Getenv("WEIR_CHAOS_SEED"), 10, 64); err == nil {
		seed = s
	}
	length := 700 * ms
	if d, err := time.ParseDuration(os.Getenv("WEIR_CHAOS")); err == nil {
		length = d
	}
	before := goleak.IgnoreCurrent()
	newChaos(t, seed).run(length)
	if err := goleak.Find(before); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

var chaosRuns atomic.Uint64

type chaos struct {
	t    *testing.T
	seed uint64
	hub  *Hub
	stop chan struct{} // closed when publishers and newcomers are to stop
	work sync.WaitGroup
	sent atomic.Int64 // bytes, as players say

	quiet bool // players give no orders, which would wake others too

	mu   sync.Mutex
	pubs []turn   // in the order of their numbers
	said []string // failures
}

// turn is what a publication did.
type turn struct {
	s     *Stream
	count [2]int // video and audio frames that the stream took
}

func newChaos(t *testing.T, seed uint64) *chaos {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(n ...int) int { return n[r.IntN(len(n))] }
	h := NewHub(Options{
		GatherCeiling: time.Duration(pick(-1, 20)) * ms,
		SlowAfter:     time.Duration(pick(50, 150, 1000)) * ms,
		SlowBytes:     pick(100<<10, 400<<10, 2<<20),
		StuckAfter:    time.Duration(pick(100, 300)) * ms,
		GOPBytes:      pick(100<<10, 16<<20),
		GOPTime:       time.Duration(pick(1, 30)) * time.Second,
		ReaderBytes:   pick(20<<10, 1<<20),
	})
	h.burstFrom = pick(1, 3, math.MaxInt)
	if h.opt.GatherCeiling > 0 {
		h.gather.value.Store(int64(pick(3, 20)) * int64(ms))
		h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
	}
	return &chaos{t: t, seed: seed, hub: h, stop: make(chan struct{}), quiet: r.IntN(3) == 0}
}

// fail notes what is wrong; the first few are told.
func (c *chaos) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said = append(c.said, ""); len(c.said) <= 5 {
		c.t.Errorf("seed %d: "+format, append([]any{c.seed}, args...)...)
	}
}

// rand returns a source of its own for the n-th goroutine of a kind.
func (c *chaos) rand(kind, n int) *rand.Rand {
	return rand.New(rand.NewPCG(c.seed, uint64(kind)<<32|uint64(n)))
}

// nap sleeps and reports whether to go on.
func (c *chaos) nap(d time.Duration) bool {
	select {
	case <-c.stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (c *chaos) run(length time.Duration) {
	r := c.rand(0, 0)
	c.hub.OnPublish(func(ctx context.Context, s *Stream) {
		c.reader(s, c.rand(1, 0), 0)
		<-ctx.Done()
	})
	for i := range 4 {
		c.work.Go(func() { c.publisher(Key{"d", "live", fmt.Sprint("s", i/2)}, c.rand(2, i)) })
	}
	end := time.After(length)
	for i := 0; ; i++ {
		select {
		case <-end:
		case <-time.After(time.Duration(r.IntN(10)) * ms):
			list := c.hub.Streams()
			if len(list) == 0 {
				continue
			}
			s := list[r.IntN(len(list))]
			for range r.IntN(8) {
				if i++; i%16 == 0 {
					r := c.rand(3, i)
					c.work.Go(func() { c.reader(s, r, 3*ms) })
				} else {
					r := c.rand(4, i)
					c.work.Go(func() { c.player(s, r) })
				}
			}
			continue
		}
		break
	}
	if r.IntN(2) == 0 { // publishers leave before, or the hub makes them
		close(c.stop)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.hub.Close(ctx); err != nil {
		buf := make([]byte, 1<<20)
		c.t.Fatalf("seed %d: close the hub: %v\n%s", c.seed, err, buf[:runtime.Stack(buf, true)])
	}
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.work.Wait()
	st := c.hub.Stats()
	if st.Players != 0 || st.Publishers != 0 || st.Streams != 0 || st.BytesOut != c.sent.Load() {
		c.fail("at the end %d players, %d publishers, %d streams, %d bytes written but %d counted by players",
			st.Players, st.Publishers, st.Streams, st.BytesOut, c.sent.Load())
	}
	for _, p := range c.pubs {
		p.s.mu.Lock()
		if len(p.s.feeds) > 0 || len(p.s.readers) > 0 {
			c.fail("at the end a stream has %d feeds and %d readers", len(p.s.feeds), len(p.s.readers))
		}
		p.s.mu.Unlock()
	}
	if c.t.Failed() || testing.Verbose() {
		c.t.Logf("seed %d: %d publications, %d joins, %+v", c.seed, len(c.pubs), st.Join[len(JoinBuckets)], st)
	}
}

// Publishers.

// chaosPublisher is one turn of a publisher.
type chaosPublisher struct {
	c      *chaos
	r      *rand.Rand
	p      *Publication
	number int
	clock  int64 // its own time, ms
	n      [2]int
	conf   [2]int
	mp3    bool
}

// publisher publishes again and again.
func (c *chaos) publisher(key Key, r *rand.Rand) {
	ahead := time.Duration(1+r.IntN(9)) * 100 * ms
	for c.nap(time.Duration(r.IntN(60)) * ms) {
		a := app(func(a *policy.App) {
			a.Hold = time.Duration(r.IntN(4)) * 20 * ms
			a.StaleAfter, a.IdleTimeout = 30*ms, 60*ms
			a.MaxLead, a.Takeover = ahead, r.IntN(3) == 0
		})
		c.mu.Lock() // numbers are given in order
		p, err := c.hub.Publish(key, a, Push{})
		if err != nil {
			c.mu.Unlock()
			if err == ErrClosed {
				return
			}
			continue
		}
		x := &chaosPublisher{c: c, r: r, p: p, number: len(c.pubs)}
		c.pubs = append(c.pubs, turn{s: p.s})
		c.mu.Unlock()
		x.clock = []int64{0, 0, 1 << 24, 1<<32 - 300, r.Int64N(1 << 32)}[r.IntN(5)]
		if s := p.s; r.IntN(4) == 0 { // its stream has run for long
			s.mu.Lock()
			if !s.time.started {
				s.time.place(av.Video, 0, true, time.Now())
				at := []int64{1<<24 - 100, 1<<32 - 100}[r.IntN(2)]
				s.time.last, s.time.tracks[0].last, s.time.tracks[1].last = at, at, at
			}
			s.mu.Unlock()
		}
		x.publish()
	}
}

// publish publishes until it is ended or has enough.
func (x *chaosPublisher) publish() {
	defer func() {
		x.p.End([]EndReason{EndClosed, EndReset, EndReset, EndKicked}[x.r.IntN(4)])
		if <-x.p.Done(); x.p.Reason() == 0 {
			x.c.fail("publication ended for no reason")
		}
	}()
	r := x.r
	hasVideo, hasAudio := r.IntN(8) > 0, r.IntN(8) > 0
	late := r.IntN(4) * 10 // the video comes this many turns after the audio
	gop := []int{4, 12, 40, 1 << 30}[r.IntN(4)]
	pause := time.Duration(r.IntN(3)) * ms
	if r.IntN(2) == 0 && !x.write(av.Packet{Kind: av.Data, Tag: flv.AppendMetadata(nil, amf.Object{{Name: "width", Value: 1.0}})}) {
		return
	}
	key := true
	for i := range 20 + r.IntN(400) {
		switch r.IntN(250) {
		case 0: // another configuration
			key = x.configure(av.Video) || key
		case 1:
			x.mp3 = r.IntN(4) == 0
			x.configure(av.Audio)
		case 2: // the same again
			x.write(x.config(av.Video))
			x.write(x.config(av.Audio))
		case 3:
			hasVideo, key = !hasVideo, true
		case 4:
			hasAudio = !hasAudio
		case 5: // a jump of its clock
			x.clock = r.Int64N(1 << 32)
		case 6: // as if it were gone
			x.c.nap(time.Duration(r.IntN(80)) * ms)
		}
		x.clock += int64(r.IntN(12))
		if hasAudio && !x.frame(av.Audio, false) {
			return
		}
		if hasVideo && i >= late {
			if key = key || i%gop == 0; !x.frame(av.Video, key) {
				return
			}
			key = false
		}
		if !x.c.nap(time.Duration(r.Int64N(int64(pause) + 1))) {
			return
		}
	}
}

func (x *chaosPublisher) write(p av.Packet) bool {
	err := x.p.WritePacket(p)
	var ended *Ended
	if err != nil && !errors.As(err, &ended) {
		x.c.fail("WritePacket = %v", err)
	}
	return err == nil
}

// configure begins another configuration.
func (x *chaosPublisher) configure(k av.Kind) bool {
	if x.conf[k-1]++; k == av.Audio && x.mp3 {
		return true
	}
	return x.write(x.config(k))
}

func (x *chaosPublisher) config(k av.Kind) av.Packet {
	return x.packet(k, x.label(k, true, false), 0)
}

func (x *chaosPublisher) frame(k av.Kind, key bool) bool {
	if x.conf[k-1] == 0 && !x.configure(k) {
		return false
	}
	size := x.r.IntN(300)
	if k == av.Video {
		if size = x.r.IntN(3000); key {
			size = x.r.IntN(40_000)
		}
		if x.r.IntN(200) == 0 {
			size = 200_000 // more than a block
		}
	}
	p := x.packet(k, x.label(k, false, key), size)
	if p.DTS = x.clock; k == av.Video {
		p.DTS = max(0, p.DTS-int64(x.r.IntN(30)))
	}
	if !x.write(p) {
		return false
	}
	x.n[k-1]++
	x.c.mu.Lock()
	x.c.pubs[x.number].count = x.n
	x.c.mu.Unlock()
	return true
}

// label is what each packet says of itself.
type label struct {
	kind   av.Kind
	config bool
	key    bool
	pub    int // number of the publication
	conf   int // of the track; 0: needs none
	n      int // frames of the track before it
}

func (x *chaosPublisher) label(k av.Kind, config, key bool) label {
	l := label{kind: k, config: config, key: key, pub: x.number, conf: x.conf[k-1], n: x.n[k-1]}
	if config {
		l.n = 0
	} else if k == av.Audio && x.mp3 {
		l.conf = 0
	}
	return l
}

const labelSize = 19

// packet makes a packet of a label and size bytes that nobody can guess.
func (x *chaosPublisher) packet(k av.Kind, l label, size int) av.Packet {
	b := make([]byte, labelSize+size, labelSize+size+4)
	b[0], b[1], b[2] = byte(l.kind), flag(l.config), flag(l.key)
	for i, n := range []int{l.pub, l.conf, l.n, size} {
		binary.BigEndian.PutUint32(b[3+4*i:], uint32(n))
	}
	for i := labelSize; i < len(b); i += 64 {
		b[i] = byte(x.r.Uint32())
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	p := av.Packet{Kind: k, Config: l.config, Key: l.key}
	if k == av.Video {
		p.Codec = av.H264
		p.Tag = flv.AppendVideo(nil, av.H264, l.key || l.config, l.config, 0, b)
	} else {
		if p.Codec = av.AAC; l.conf == 0 {
			p.Codec = av.MP3
		}
		p.Tag = flv.AppendAudio(nil, p.Codec, l.config, b)
	}
	p.Frame = p.Tag[len(p.Tag)-len(b):]
	return p
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// parseLabel reads the label of an FLV tag body, all of whose bytes it checks.
func parseLabel(k av.Kind, tag []byte) (l label, err error) {
	head := 5
	if k == av.Audio {
		if head = 2; tag[0]>>4 == 2 { // MP3
			head = 1
		}
	}
	if len(tag) < head+labelSize+4 {
		return l, fmt.Errorf("tag of %d bytes", len(tag))
	}
	b := tag[head:]
	l = label{kind: av.Kind(b[0]), config: b[1] == 1, key: b[2] == 1}
	for i, n := range []*int{&l.pub, &l.conf, &l.n} {
		*n = int(binary.BigEndian.Uint32(b[3+4*i:]))
	}
	size := int(binary.BigEndian.Uint32(b[15:]))
	if l.kind != k || len(b) != labelSize+size+4 || crc32.ChecksumIEEE(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return l, fmt.Errorf("broken packet %+v of %d bytes", l, len(b))
	}
	return l, nil
}

// What is received.

// checker checks the packets that one player gets.
type checker struct {
	c      *chaos
	s      *Stream
	who    string
	tracks [2]struct {
		last    label
		time    int64
		begun   bool // there was a packet
		fixed   bool // the time is that of a configuration: a frame may have it too
		frames  bool // there was a frame
		config  label
		changes [][2]label // frames that follow on each other and may have a gap between them
	}
}

// media checks an audio or video packet with the time that the wire carries.
func (k *checker) media(kind av.Kind, ts uint32, tag []byte) error {
	l, err := parseLabel(kind, tag)
	if err != nil {
		return err
	}
	tr := &k.tracks[kind-1]
	at := int64(ts)
	if tr.begun {
		at = tr.time + int64(int32(ts-uint32(tr.time)))
	}
	if tr.begun && (at < tr.time || at == tr.time && !l.config && !tr.fixed) {
		return fmt.Errorf("time went from %d to %d between %+v, %+v and %+v", tr.time, at, tr.last, tr.config, l)
	}
	tr.time, tr.begun, tr.fixed = at, true, l.config
	if l.config {
		tr.config = l
		return nil
	}
	if l.conf != 0 && (tr.config.pub != l.pub || tr.config.conf != l.conf) {
		return fmt.Errorf("%+v after the configuration %+v", l, tr.config)
	}
	follows := tr.frames && tr.last.pub == l.pub && tr.last.n+1 == l.n
	if tr.frames && (l.pub < tr.last.pub || l.pub == tr.last.pub && l.n <= tr.last.n) {
		return fmt.Errorf("%+v after %+v", l, tr.last)
	}
	if !follows {
		if kind == av.Video && !l.key {
			return fmt.Errorf("no key frame: %+v after %+v", l, tr.last)
		}
		if tr.frames {
			tr.changes = append(tr.changes, [2]label{tr.last, l})
		}
	}
	tr.last, tr.frames = l, true
	return nil
}

// gaps returns how many gaps there were on a track. All that was published is
// known.
func (k *checker) gaps(kind av.Kind, toTheEnd bool) (n int) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	i := kind - 1
	tr := &k.tracks[i]
	changes := tr.changes
	if toTheEnd && tr.frames {
		changes = append(slices.Clip(changes), [2]label{tr.last, {pub: len(k.c.pubs)}})
	}
	for _, ch := range changes {
		missing := ch[1].n
		if ch[0].pub == ch[1].pub {
			missing -= ch[0].n + 1
		} else {
			missing += k.c.pubs[ch[0].pub].count[i] - ch[0].n - 1
			for j := ch[0].pub + 1; j < ch[1].pub; j++ {
				if k.c.pubs[j].s == k.s {
					missing += k.c.pubs[j].count[i]
				}
			}
		}
		if missing > 0 {
			n++
		}
	}
	return n
}

// errGoodbye is met at the end of what a player is sent.
var errGoodbye = errors.New("goodbye")

// wire reads what a player is sent.
type wire struct {
	*checker
	format  Format
	r       *bufio.Reader
	n       int64 // bytes read
	injects int   // injections seen
}

const (
	chaosPreface = "preface"
	chaosInject  = "inject"
	chaosGoodbye = "goodbye"
)

// say makes bytes of the format that are no media: a number of a kind.
func (f *Format) say(what string, n int) []byte {
	b := fmt.Appendf(nil, "%s %d", what, n)
	switch f.Wire {
	case RTMP:
		return rtmp.AppendMessage(nil, f.ChunkSize, 3, 20, 0, 0, b)
	case WSFLV:
		return append([]byte{0x8A, byte(len(b))}, b...)
	}
	return flv.AppendTag(nil, 99, 0, b)
}

func (w *wire) heard(b []byte) error {
	var what string
	var n int
	if _, err := fmt.Sscanf(string(b), "%s %d", &what, &n); err != nil {
		return fmt.Errorf("heard %q", b)
	}
	if what == chaosGoodbye {
		return errGoodbye
	}
	if what != chaosInject || n != w.injects {
		return fmt.Errorf("heard %q, want %d", b, w.injects)
	}
	w.injects++
	return nil
}

func (w *wire) take(n int) ([]byte, error) {
	b := make([]byte, n)
	m, err := io.ReadFull(w.r, b)
	w.n += int64(m)
	return b, err
}

// run reads to the end. It returns errGoodbye if that was in order, an error
// of the network, or what is wrong, and whether something is.
func (w *wire) run() (err error, wrong bool) {
	b, err := w.take(len(chaosPreface))
	if err != nil {
		return err, false
	}
	if string(b) != chaosPreface {
		return fmt.Errorf("preface %q", b), true
	}
	begun := false
	for {
		var body []byte
		var typ byte
		var ts uint32
		switch w.format.Wire {
		case RTMP:
			typ, ts, body, err = w.message()
		case WSFLV:
			var op byte
			if op, body, err = w.frame(); err != nil {
				break
			}
			if op == 0x8A {
				typ = 99
			} else if !begun {
				begun = true
				if err = w.header(body); err == nil {
					continue
				}
			} else {
				typ, ts, body, err = w.tag(bytes.NewReader(body), len(body))
			}
		case FLV:
			var peek []byte
			if peek, err = w.r.Peek(1); err == nil && !begun && peek[0] == 'F' {
				begun = true
				if body, err = w.take(13); err == nil {
					if err = w.header(body); err == nil {
						continue
					}
				}
			} else if err == nil {
				typ, ts, body, err = w.tag(w, -1)
			}
		}
		if err == nil {
			switch typ {
			case 99, 20:
				err = w.heard(body)
			case flv.TypeAudio:
				err = w.media(av.Audio, ts, body)
			case flv.TypeVideo:
				err = w.media(av.Video, ts, body)
			case flv.TypeScript:
			default:
				err = fmt.Errorf("type %d", typ)
			}
			wrong = err != nil && err != errGoodbye
		}
		if err == errGoodbye {
			if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
				return fmt.Errorf("after the goodbye: %d bytes, %v", len(rest), err), len(rest) > 0
			}
		}
		if err != nil {
			return err, wrong || errors.Is(err, errBroken)
		}
	}
}

// errBroken is part of the error for bytes that are no packet.
var errBroken = errors.New("broken")

// Read is for tag.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.n += int64(n)
	return n, err
}

func (w *wire) header(b []byte) error {
	if !bytes.HasPrefix(b, []byte("FLV\x01")) || len(b) != 13 {
		return fmt.Errorf("%w header % x", errBroken, b)
	}
	return nil
}

// tag reads a tag, of size bytes in all unless that is negative.
func (w *wire) tag(r io.Reader, size int) (typ byte, ts uint32, body []byte, err error) {
	var h [11]byte
	if _, err = io.ReadFull(r, h[:]); err != nil {
		return
	}
	n := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	if size >= 0 && size != n+15 || h[8]|h[9]|h[10] != 0 {
		return 0, 0, nil, fmt.Errorf("%w tag header % x", errBroken, h)
	}
	body = make([]byte, n+4)
	if _, err = io.ReadFull(r, body); err != nil {
		return
	}
	if int(binary.BigEndian.Uint32(body[n:])) != n+11 {
		return 0, 0, nil, fmt.Errorf("%w tag of %d bytes, says % x", errBroken, n, body[n:])
	}
	return h[0], uint32(h[7])<<24 | uint32(h[4])<<16 | uint32(h[5])<<8 | uint32(h[6]), body[:n], nil
}

// frame reads a WebSocket frame.
func (w *wire) frame() (op byte, body []byte, err error) {
	h, err := w.take(2)
	if err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	if h[0] != 0x82 && h[0] != 0x8A || n > 127 {
		return 0, nil, fmt.Errorf("%w frame % x", errBroken, h)
	}
	if n >= 126 {
		more, err := w.take([]int{2, 8}[n-126])
		if err != nil {
			return 0, nil, err
		}
		n = 0
		for _, b := range more {
			n = n<<8 | int(b)
		}
	}
	body, err = w.take(n)
	return h[0], body, err
}

// message reads an RTMP message, whose chunks follow on each other.
func (w *wire) message() (typ byte, ts uint32, body []byte, err error) {
	h, err := w.take(12)
	if err != nil {
		return 0, 0, nil, err
	}
	csid := h[0] & 63
	n := int(h[4])<<16 | int(h[5])<<8 | int(h[6])
	typ, ts = h[7], uint32(h[1])<<16|uint32(h[2])<<8|uint32(h[3])
	id := w.format.StreamID
	if typ == 20 {
		id = 0
	}
	want, ok := map[byte]byte{20: 3, 8: 4, 18: 5, 9: 6}[typ]
	if h[0]>>6 != 0 || !ok || csid != want || binary.LittleEndian.Uint32(h[8:]) != id {
		return 0, 0, nil, fmt.Errorf("%w message header % x", errBroken, h)
	}
	extended := ts == 0xFFFFFF
	for first := true; first || len(body) < n; first = false {
		if !first {
			if b, err := w.take(1); err != nil {
				return 0, 0, nil, err
			} else if b[0] != 3<<6|csid {
				return 0, 0, nil, fmt.Errorf("%w chunk %x", errBroken, b)
			}
		}
		if extended {
			b, err := w.take(4)
			if err != nil {
				return 0, 0, nil, err
			}
			ts = binary.BigEndian.Uint32(b)
		}
		b, err := w.take(min(n-len(body), w.format.ChunkSize))
		if err != nil {
			return 0, 0, nil, err
		}
		body = append(body, b...)
	}
	return typ, ts, body, nil
}

// Players.

// bare hides that a connection is a socket, as TLS does.
type bare struct{ net.Conn }

// moody reads when it likes to.
type moody struct {
	net.Conn
	r     *rand.Rand
	sloth int           // of 100 reads so many are late
	hurry chan struct{} // until this is closed
}

func (m *moody) Read(b []byte) (int, error) {
	if m.r.IntN(100) < m.sloth {
		select {
		case <-m.hurry:
			m.sloth = 0
		case <-time.After(time.Duration(m.r.IntN(60)) * ms):
		}
		b = b[:min(len(b), 4096)]
	}
	return m.Conn.Read(b)
}

var errChaos = errors.New("closed by the test")

// player joins the stream, does things, and checks all that it gets.
func (c *chaos) player(s *Stream, r *rand.Rand) {
	var srv, cli net.Conn
	switch r.IntN(4) {
	case 0:
		srv, cli = net.Pipe()
	default:
		s, k := pair(c.t)
		if srv, cli = s, k; r.IntN(3) == 0 {
			srv = bare{s}
		}
		if r.IntN(2) == 0 {
			s.SetWriteBuffer(8 << 10)
			k.SetReadBuffer(8 << 10)
		}
	}
	defer cli.Close()
	f := Format{Wire: Wire(1 + r.IntN(3))}
	if f.Wire == RTMP {
		f.StreamID, f.ChunkSize = uint32(1+r.IntN(2)), []int{128, 4096, 60_000}[r.IntN(3)]
	}
	audio, video := r.IntN(6) > 0, r.IntN(6) > 0
	f.NoAudio, f.NoVideo = !audio, !video
	preface := append(make([]byte, 0, 64), chaosPreface...)
	p, err := s.Play(PlayerOptions{Conn: srv, Format: f, Preface: preface, Goodbye: f.say(chaosGoodbye, 0)})
	if err != nil {
		if srv.Close(); err != ErrClosed {
			c.fail("Play = %v", err)
		}
		return
	}
	w := &wire{checker: &checker{c: c, s: s}, format: f}
	m := &moody{Conn: cli, r: rand.New(rand.NewPCG(r.Uint64(), 0)), hurry: make(chan struct{})}
	if r.IntN(3) == 0 {
		m.sloth = r.IntN(40)
	}
	w.r = bufio.NewReader(m)
	injected, sure, changes, left := 0, 0, 0, false
	restless := r.IntN(2) == 0
	finished := make(chan struct{})
	go func() { // ends with the player
		defer close(finished)
		for over := false; !over; {
			select {
			case <-p.Done():
			case <-time.After(time.Duration(r.IntN(40)) * ms):
			}
			s.mu.Lock()
			over = s.ended // then the player ends by itself
			s.mu.Unlock()
			select {
			case <-p.Done():
				over = true
			default:
			}
			if over {
				break
			}
			switch n := r.IntN(60); {
			case n == 0:
				left = true
				cli.Close()
			case c.quiet:
			case n == 1:
				left = true
				p.Close(errChaos)
			case n < 6:
				err := p.Inject(f.say(chaosInject, injected))
				injected++
				s.mu.Lock()
				if err == nil && !s.ended { // it must have come
					sure = injected
				}
				s.mu.Unlock()
			case n < 10 && restless:
				changes++
				p.Pause(true)
				select {
				case <-p.Done():
				case <-time.After(time.Duration(r.IntN(100)) * ms):
				}
				p.Pause(false)
			case n < 20 && restless:
				changes++
				audio, video = r.IntN(4) > 0, r.IntN(3) > 0
				p.SetTracks(audio, video)
			}
		}
		close(m.hurry)
		<-p.Done()
	}()
	met, wrong := w.run()
	if wrong {
		cli.Close()
	}
	<-finished
	c.sent.Add(p.Sent())
	who := fmt.Sprintf("player over %T of %+v, %d jumps, %d changes, ended for %v", srv, f, p.Jumps(), changes, p.Err())
	switch {
	case wrong:
		c.fail("%s: %v", who, met)
	case p.Err() == ErrOver && !left && met != errGoodbye && w.n > 0:
		c.fail("%s: no goodbye but %v", who, met)
	case met == errGoodbye && w.n != p.Sent():
		c.fail("%s: %d bytes sent, %d read", who, p.Sent(), w.n)
	case met == errGoodbye && (w.injects < sure || w.injects > injected):
		c.fail("%s: %d injected, %d read, want at least %d; %d bytes", who, injected, w.injects, sure, w.n)
	case p.Err() == nil, p.Err() == errHanded:
		c.fail("%s", who)
	}
	plain := met == errGoodbye && changes == 0
	for _, k := range []av.Kind{av.Video, av.Audio} {
		// A gap may have come with each jump and each change.
		if n := w.gaps(k, plain && p.Jumps() == 0); n > int(p.Jumps())+2*changes {
			c.fail("%s: %d gaps in %v: %v, last %+v", who, n, k, w.tracks[k-1].changes, w.tracks[k-1].last)
		}
	}
}

// reader reads packets, each with a delay.
func (c *chaos) reader(s *Stream, r *rand.Rand, delay time.Duration) {
	rd := s.NewReader()
	defer rd.Close()
	k := &checker{c: c, s: s}
	for {
		p, err := rd.ReadPacket()
		if err == io.EOF {
			break
		}
		if delay > 0 && r.IntN(500) == 0 {
			return
		}
		time.Sleep(time.Duration(r.Int64N(int64(delay) + 1)))
		if p.Kind == av.Data {
			continue
		}
		jumps := rd.Jumps()
		l, err := parseLabel(p.Kind, p.Tag)
		if tr := &k.tracks[p.Kind-1]; err == nil && tr.frames && tr.last.pub < l.pub && !k.broken(l.pub) && !p.Break && jumps == 0 {
			err = fmt.Errorf("no break before the first packet of another publisher %+v", l)
		}
		k.who = fmt.Sprint(l.pub)
		if err == nil {
			err = k.media(p.Kind, uint32(p.DTS), p.Tag)
			// A reader goes on with what there is when it has jumped.
			if jumps > 0 || !k.tracks[0].frames {
				if err != nil && bytes.HasPrefix([]byte(err.Error()), []byte("no key frame")) {
					k.tracks[0].last, k.tracks[0].frames, err = l, true, nil
				}
			}
		}
		if err != nil {
			c.fail("reader after %d jumps: %v", jumps, err)
			return
		}
	}
	for _, kind := range []av.Kind{av.Video, av.Audio} {
		if n := k.gaps(kind, rd.Jumps() == 0); n > int(rd.Jumps()) {
			c.fail("reader: %d gaps in %v after %d jumps", n, kind, rd.Jumps())
		}
	}
}

// broken reports whether a packet of that publication was seen before.
func (k *checker) broken(pub int) bool { return k.who == fmt.Sprint(pub) }
