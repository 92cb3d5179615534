package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// app returns an app with the default settings.
func app(change ...func(*policy.App)) *policy.App {
	a := policy.DefaultApp("live")
	for _, f := range change {
		f(&a)
	}
	return &a
}

func newHub(t *testing.T, o Options) *Hub {
	t.Helper()
	h := NewHub(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Errorf("close the hub: %v", err)
		}
	})
	return h
}

var key = Key{"default", "live", "s"}

func publish(t *testing.T, h *Hub, a *policy.App) *Publication {
	t.Helper()
	p, err := h.Publish(key, a, Push{})
	if err != nil {
		t.Fatalf("Publish(%v) = %v", key, err)
	}
	return p
}

// Packets with recognisable bytes. NAL type 5 is a key frame, 1 is not.

func video(dts int64, isKey bool, id string) av.Packet {
	nal := append([]byte{0x41}, id...)
	if isKey {
		nal[0] = 0x65
	}
	frame := append([]byte{0, 0, 0, byte(len(nal))}, nal...)
	tag := flv.AppendVideo(nil, av.H264, isKey, false, 0, frame)
	return av.Packet{Kind: av.Video, Codec: av.H264, Key: isKey, DTS: dts, Tag: tag, Frame: tag[len(tag)-len(frame):]}
}

func audio(dts int64, id string) av.Packet {
	tag := flv.AppendAudio(nil, av.AAC, false, []byte(id))
	return av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: dts, Tag: tag, Frame: tag[len(tag)-len(id):]}
}

func config(k av.Kind, id string) av.Packet {
	var tag []byte
	codec := av.H264
	if k == av.Video {
		tag = flv.AppendVideo(nil, codec, true, true, 0, []byte(id))
	} else {
		codec = av.AAC
		tag = flv.AppendAudio(nil, codec, true, []byte(id))
	}
	return av.Packet{Kind: k, Codec: codec, Config: true, Tag: tag, Frame: tag[len(tag)-len(id):]}
}

func write(t *testing.T, p *Publication, pkts ...av.Packet) {
	t.Helper()
	for _, pkt := range pkts {
		if err := p.WritePacket(pkt); err != nil {
			t.Fatalf("WritePacket = %v", err)
		}
	}
}

// name returns the recognisable part of a packet and its time.
func name(p av.Packet) string {
	id := p.Frame
	if p.Kind == av.Video && !p.Config && len(id) > 5 {
		id = id[5:]
	}
	s := fmt.Sprintf("%s@%d", id, p.DTS)
	if p.Break {
		s = "|" + s
	}
	return s
}

func read(t *testing.T, r *Reader, n int) (got []string) {
	t.Helper()
	for range n {
		p, err := r.ReadPacket()
		if err != nil {
			t.Fatalf("ReadPacket = %v after %q", err, got)
		}
		got = append(got, name(p))
	}
	return got
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestReaderStartsAtTheKeyFrameWithItsConfiguration(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"), video(40, false, "v40"),
		video(80, true, "K80"), audio(90, "a90"))
	r := p.Stream().NewReader()
	defer r.Close()
	equal(t, "first packets", read(t, r, 4), []string{"VC@80", "AC@90", "K80@80", "a90@90"})
	write(t, p, config(av.Video, "VC"), video(120, false, "v120")) // a repeated configuration says nothing
	equal(t, "next", read(t, r, 1), []string{"v120@120"})
	write(t, p, config(av.Video, "VD"), video(160, true, "K160"))
	equal(t, "changed configuration", read(t, r, 2), []string{"|VD@120", "K160@160"})
	p.End(EndClosed)
}

// A reader that waits for key frames misses nothing, and sleeps in between; the
// log does not grow without bound meanwhile, and the others are woken as ever.
func TestReaderAwaitsKeyFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		begin := func(calm bool) (got *[]string, over chan error) {
			r := p.NewReader()
			if calm {
				r.AwaitKeyFrames()
			}
			got, over = new([]string), make(chan error, 1)
			go func() { // ends with the publication
				defer r.Close()
				for {
					x, err := r.ReadPacket()
					if err != nil {
						over <- err
						return
					}
					*got = append(*got, fmt.Sprintf("%.8s", name(x)))
				}
			}()
			synctest.Wait()
			return got, over
		}
		calm, over := begin(true)
		other, otherOver := begin(false)
		var all []string
		step := func(wakes bool, pkts ...av.Packet) {
			t.Helper()
			before := len(*calm)
			write(t, p, pkts...)
			for _, x := range pkts {
				all = append(all, fmt.Sprintf("%.8s", name(x)))
			}
			synctest.Wait()
			equal(t, "the other reader", *other, all)
			if wakes {
				equal(t, "the one that waits for key frames", *calm, all)
			} else if len(*calm) != before {
				t.Errorf("it was woken for %q", (*calm)[before:])
			}
		}
		step(true, video(0, true, "K0"))
		step(false, audio(5, "a5"), video(40, false, "v40"))
		step(true, video(80, true, "K80"))
		step(false, video(120, false, "v120"))
		step(true, audio(125, strings.Repeat("x", calmBytes)))
		step(false, video(160, false, "v160"))
		p.End(EndClosed)
		if err := <-over; err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
		equal(t, "at last", *calm, all)
		<-otherOver
		synctest.Wait()
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if n := p.s.calm; n != 0 {
			t.Errorf("%d are said to wait for key frames", n)
		}
	})
}

func TestReaderEndsWithTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		over := make(chan time.Duration, 1)
		start := time.Now()
		h.OnPublish(func(ctx context.Context, s *Stream) {
			r := s.NewReader()
			for {
				if _, err := r.ReadPacket(); err == io.EOF {
					break
				}
			}
			<-ctx.Done()
			over <- time.Since(start)
		})
		p := publish(t, h, app())
		write(t, p, video(0, true, "K"))
		p.End(EndClosed)
		if d := <-over; d != 5*time.Second {
			t.Errorf("the stream ended %v after its publisher left, want the hold time of 5s", d)
		}
		synctest.Wait()
		if h.Find(key) != nil {
			t.Error("the hub still has the stream")
		}
	})
}

func TestPublisherReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		s := p.Stream()
		r := s.NewReader()
		defer r.Close()
		write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(1000, true, "K"), audio(1010, "a"))
		read(t, r, 4)
		p.End(EndReset)
		if s.Live() {
			t.Error("a held stream is live")
		}
		time.Sleep(3 * time.Second)
		p = publish(t, h, app())
		if p.Stream() != s {
			t.Fatal("the publisher came back to another stream")
		}
		write(t, p, config(av.Video, "VC"), video(0, true, "K"), video(40, false, "v"))
		equal(t, "after the return", read(t, r, 3), []string{"|VC@4010", "K@4010", "v@4050"})
		r2 := s.NewReader()
		defer r2.Close()
		equal(t, "a new reader, of a stream without audio now", read(t, r2, 2), []string{"VC@4010", "K@4010"})
		p.End(EndClosed)
	})
}

func TestOnePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		if _, err := h.Publish(key, app(), Push{}); err != ErrPublished {
			t.Errorf("second Publish = %v, want ErrPublished", err)
		}
		time.Sleep(2999 * time.Millisecond)
		if _, err := h.Publish(key, app(), Push{}); err != ErrPublished {
			t.Errorf("Publish after 2.999 s of silence = %v, want ErrPublished", err)
		}
		time.Sleep(ms)
		q := publish(t, h, app())
		if <-p.Done(); p.Reason() != EndNoData {
			t.Errorf("silent publisher ended for %q, want %q", p.Reason(), EndNoData)
		}
		var ended *Ended
		if err := p.WritePacket(video(0, true, "K")); !errors.As(err, &ended) || ended.Reason != EndNoData {
			t.Errorf("WritePacket of the ended one = %v", err)
		}
		write(t, q, video(0, true, "K"))
		r := publish(t, h, app(func(a *policy.App) { a.Takeover = true }))
		if <-q.Done(); q.Reason() != EndTakeover {
			t.Errorf("publisher ended for %q, want %q", q.Reason(), EndTakeover)
		}
		r.End(EndClosed)
		q.End(EndKicked)
		if q.Reason() != EndTakeover {
			t.Error("the first reason did not stay")
		}
	})
}

func TestIdlePublisherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		start := time.Now()
		p := publish(t, h, app())
		time.Sleep(15 * time.Second)
		write(t, p, video(0, true, "K"))
		<-p.Done()
		if d := time.Since(start); d != 35*time.Second || p.Reason() != EndNoData {
			t.Errorf("ended after %v for %q, want 35s, no data", d, p.Reason())
		}
	})
}

// F20: a publisher that is faster than real time may be ten seconds ahead.
func TestFastPublisherIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app(func(a *policy.App) { a.IdleTimeout = 5 * time.Second }))
		start := time.Now()
		for i := range int64(60) {
			write(t, p, video(1000*i, true, "K"))
		}
		if d := time.Since(start); d < 48*time.Second || d > 49*time.Second {
			t.Errorf("59 s of media took %v, want 49s, or a little less: clocks may differ", d)
		}
		p.End(EndClosed)
	})
}

// H89: the rate of one publisher is limited.
func TestPublisherOverLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxPacketRate: 100})
		p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
		n := 0
		for ; p.WritePacket(audio(0, "a")) == nil; n++ {
		}
		if n != 1000 || p.Reason() != EndLimit {
			t.Errorf("ended after %d packets for %q, want 1000, over limit", n, p.Reason())
		}
	})
}

// H88, F19: a GOP without end is not kept, and nothing grows.
func TestEndlessGOPIsNotKept(t *testing.T) {
	h := newHub(t, Options{GOPBytes: 1000, GOPTime: time.Hour})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, video(0, true, "K"))
	for i := range int64(500) {
		write(t, p, video(40*i, false, "v"))
	}
	s := p.Stream()
	s.mu.Lock()
	if n := len(s.packets); n > 0 || s.cached {
		t.Errorf("%d packets are kept of an endless GOP, cached: %v", n, s.cached)
	}
	s.mu.Unlock()
	p.End(EndClosed)
}

func TestSlowReaderJumps(t *testing.T) {
	h := newHub(t, Options{ReaderBytes: 2000})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
	r := p.Stream().NewReader()
	defer r.Close()
	read(t, r, 2)
	for i := range int64(100) {
		write(t, p, video(40+40*i, i%10 == 0, fmt.Sprint("f", i)))
	}
	got := read(t, r, 2)
	if got[0][0] != '|' || got[1] != "f90@3640" || r.Jumps() != 1 {
		t.Errorf("read %q after %d jumps, want the configuration and then f90", got, r.Jumps())
	}
	p.End(EndClosed)
}

// A jump is marked where there is no header, too.
func TestSlowReaderJumpsWithoutHeader(t *testing.T) {
	h := newHub(t, Options{ReaderBytes: 2000})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	r := p.Stream().NewReader()
	defer r.Close()
	for i := range int64(100) {
		pkt := audio(20*i, fmt.Sprint("a", i))
		pkt.Codec = av.MP3
		write(t, p, pkt)
	}
	equal(t, "after a jump", read(t, r, 1), []string{"|a99@1980"})
	p.End(EndClosed)
}

// F04, F14: what is cached never needs a configuration that is not there any
// more.
func TestCachedGOPIsOfOneEncoder(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	s := p.Stream()
	write(t, p, config(av.Audio, "AC"), audio(0, "a0"))
	if !s.cached {
		t.Error("audio alone is not cached")
	}
	write(t, p, config(av.Video, "VC"))
	if s.cached {
		t.Error("what is cached begins with audio, although there is video")
	}
	write(t, p, video(10, true, "K10"), audio(20, "a20"))
	if r := s.NewReader(); !s.cached || len(r.queue) != 2 {
		t.Errorf("cached: %v, with %d configurations", s.cached, len(r.queue))
	} else {
		r.Close()
	}
	old := s.NewReader()
	defer old.Close()
	read(t, old, 4)
	mp3 := audio(40, "a40")
	mp3.Codec = av.MP3
	write(t, p, mp3)
	equal(t, "another codec", read(t, old, 1), []string{"|a40@40"})
	if s.cached {
		t.Error("frames are cached whose configuration is not there any more")
	}
	vp8 := video(50, true, "K50")
	vp8.Codec = av.VP8
	write(t, p, vp8)
	r := s.NewReader()
	defer r.Close()
	equal(t, "start", read(t, r, 1), []string{"|K50@50"})
	p.End(EndClosed)
}

// What Enhanced RTMP says of colours goes to players, who come later too, and to
// nobody else; it lasts as long as the codec configuration.
func TestSideData(t *testing.T) {
	side := func(dts int64, what string) av.Packet {
		p := video(dts, false, what)
		p.Side = true
		return p
	}
	h := newHub(t, Options{})
	p := publish(t, h, app())
	s := p.Stream()
	write(t, p, side(0, "too early"), config(av.Video, "VC"), side(0, "C1"), video(0, true, "K0"), side(40, "C1"), video(40, false, "v40"))
	one := play(t, s, Format{Wire: FLV})
	equal(t, "a player", one.read(t, 4), []string{"VC@0", "C1@0", "K0@0", "v40@40"})
	r := s.NewReader()
	defer r.Close()
	equal(t, "a reader", read(t, r, 3), []string{"VC@0", "K0@0", "v40@40"})
	write(t, p, side(80, "C2"), video(80, true, "K80"))
	equal(t, "the player goes on", one.read(t, 2), []string{"C2@40", "K80@80"})
	equal(t, "the reader goes on", read(t, r, 1), []string{"K80@80"})
	two := play(t, s, Format{Wire: FLV})
	equal(t, "another player", two.read(t, 3), []string{"VC@80", "C2@80", "K80@80"})
	if n := p.Counters().VideoFrames; n != 3 {
		t.Errorf("%d frames, want 3", n)
	}
	write(t, p, config(av.Video, "VD"), video(120, true, "K120"))
	three := play(t, s, Format{Wire: FLV})
	equal(t, "a player after another configuration", three.read(t, 2), []string{"VD@120", "K120@120"})
	p.End(EndClosed)
}

func TestWhatAStreamSaysOfItself(t *testing.T) {
	h := newHub(t, Options{})
	a := app()
	p := publish(t, h, a)
	s := p.Stream()
	asc := config(av.Audio, "\x12\x10") // AAC LC, 44100 Hz, stereo
	write(t, p, asc, audio(0, "a"), video(0, true, "K"))
	i := s.Info()
	if s.Key() != key || s.Key().String() != "default/live/s" || s.App() != a || p.App() != a || !s.Live() || s.Start() != p.Start() ||
		len(h.Streams()) != 1 || i.Audio.SampleRate != 44100 || i.Video.Frames != 1 || i.Video.Codec != av.H264 || i.Audio.Codec != av.AAC || !i.Live || i.Start != s.Start() {
		t.Errorf("%v says %+v", s.Key(), i)
	}
	p.End(EndClosed)
}

// I15: Close gives up on a player that takes nothing when its time is over.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, video(0, true, "K"))
		srv, cli := net.Pipe()
		defer cli.Close()
		pl, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: FLV}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it writes
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Close(ctx); err != context.DeadlineExceeded {
			t.Errorf("Close = %v", err)
		}
		if p.Reason() != EndShutdown {
			t.Errorf("publisher ended for %v", p.Reason())
		}
		if _, err := h.Publish(key, app(), Push{}); err != ErrClosed {
			t.Errorf("Publish to a closed hub = %v", err)
		}
		if _, err := p.Stream().Play(PlayerOptions{Conn: srv}); err != ErrClosed {
			t.Errorf("Play of a closed hub = %v", err)
		}
		if <-pl.Done(); pl.Err() != ErrStuck {
			t.Errorf("player ended with %v", pl.Err())
		}
	})
}

// pair returns both ends of a TCP connection.
func pair(t testing.TB) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// tagReader reads FLV tags with the payloads of this test, which no parser of
// real codecs would take.
type tagReader struct {
	r     *bufio.Reader
	begun bool
}

func (r *tagReader) ReadPacket() (p av.Packet, err error) {
	if !r.begun {
		if _, err := io.ReadFull(r.r, make([]byte, 13)); err != nil {
			return p, err
		}
		r.begun = true
	}
	var h [11]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return p, err
	}
	p.Tag = make([]byte, int(h[1])<<16|int(h[2])<<8|int(h[3])+4)
	if _, err := io.ReadFull(r.r, p.Tag); err != nil {
		return p, err
	}
	p.Tag = p.Tag[:len(p.Tag)-4]
	p.DTS = int64(h[4])<<16 | int64(h[5])<<8 | int64(h[6]) | int64(h[7])<<24
	p.Config = p.Tag[1] == 0
	switch h[0] {
	case flv.TypeAudio:
		p.Kind, p.Frame = av.Audio, p.Tag[2:]
	case flv.TypeVideo:
		p.Kind, p.Key, p.Frame = av.Video, p.Tag[0]>>4 == 1, p.Tag[5:]
	}
	return p, nil
}

// flvPlayer plays a stream over FLV and reads the packets it is sent.
type flvPlayer struct {
	*Player
	conn net.Conn
	r    *tagReader
}

func play(t *testing.T, s *Stream, f Format) *flvPlayer {
	t.Helper()
	srv, cli := pair(t)
	p, err := s.Play(PlayerOptions{Conn: srv, Format: f})
	if err != nil {
		t.Fatal(err)
	}
	return &flvPlayer{p, cli, &tagReader{r: bufio.NewReader(cli)}}
}

func (p *flvPlayer) read(t *testing.T, n int) (got []string) {
	t.Helper()
	for range n {
		pkt, err := p.r.ReadPacket()
		if err != nil {
			t.Fatalf("player read %v after %q", err, got)
		}
		got = append(got, name(pkt))
	}
	return got
}

// FFmpeg takes metadata at another time than 0 for a subtitle.
func TestMetadataOfAPlayerIsAtTimeZero(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	meta := flv.AppendMetadata(nil, amf.Object{{Name: "width", Value: 640.0}})
	write(t, p, av.Packet{Kind: av.Data, DTS: 5000, Tag: meta}, config(av.Video, "VC"), video(5000, true, "K"))
	one := play(t, p.Stream(), Format{Wire: FLV})
	if pkt, err := one.r.ReadPacket(); err != nil || pkt.DTS != 0 || !bytes.Equal(pkt.Tag, meta) {
		t.Errorf("first packet % x at %d, %v, want the metadata at 0", pkt.Tag, pkt.DTS, err)
	}
	equal(t, "then", one.read(t, 2), []string{"VC@5000", "K@5000"})
	p.End(EndClosed)
}

func TestPlayer(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
	one := play(t, p.Stream(), Format{Wire: FLV})
	equal(t, "start", one.read(t, 4), []string{"VC@0", "AC@5", "K0@0", "a5@5"})
	write(t, p, video(40, false, "v40"))
	equal(t, "next", one.read(t, 1), []string{"v40@40"})
	two := play(t, p.Stream(), Format{Wire: FLV, NoVideo: true})
	equal(t, "audio only", two.read(t, 2), []string{"AC@5", "a5@5"})
	three := play(t, p.Stream(), Format{Wire: FLV, NoAudio: true})
	equal(t, "video only", three.read(t, 3), []string{"VC@0", "K0@0", "v40@40"})
	write(t, p, audio(50, "a50"), video(80, false, "v80"))
	equal(t, "both", one.read(t, 2), []string{"a50@50", "v80@80"})
	equal(t, "audio only", two.read(t, 1), []string{"a50@50"})
	equal(t, "video only", three.read(t, 1), []string{"v80@80"})
	if st := h.Stats(); st.Players != 3 || p.Stream().Info().Players != 3 {
		t.Errorf("%d players, %d of the stream, want 3", st.Players, p.Stream().Info().Players)
	}
	gone := errors.New("gone")
	one.Close(gone)
	if <-one.Done(); one.Err() != gone {
		t.Errorf("player ended with %v, want %v", one.Err(), gone)
	}
	two.conn.Close()
	for i := int64(0); ; i++ { // a write to the closed connection fails sooner or later
		write(t, p, audio(100+i, "a"))
		select {
		case <-two.Done():
		default:
			runtime.Gosched()
			continue
		}
		break
	}
	p.End(EndKicked)
	<-three.Done()
	if three.Err() != ErrOver {
		t.Errorf("player ended with %v, want ErrOver", three.Err())
	}
}

// A player that comes when no key frame is cached hears audio, and sees video
// from the next key frame on; nothing comes twice or out of order.
func TestPlayerWithoutKeyFrameGetsAudioFirst(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, false, "v0"), audio(5, "a5"))
	one := play(t, p.Stream(), Format{Wire: FLV})
	for one.feed.Load() == nil { // it must be there before the next packets
		runtime.Gosched()
	}
	write(t, p, video(40, false, "v40"), audio(45, "a45"))
	equal(t, "before the key frame", one.read(t, 2), []string{"AC@45", "a45@45"})
	write(t, p, video(80, false, "v80"), audio(85, "a85"), video(120, true, "K120"), audio(125, "a125"), video(160, false, "v160"), audio(165, "a165"))
	equal(t, "then", one.read(t, 7), []string{"a85@85", "VC@120", "AC@125", "K120@120", "a125@125", "v160@160", "a165@165"})
	p.End(EndClosed)
}

func TestPlayerTracks(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
	one := play(t, p.Stream(), Format{Wire: FLV})
	one.read(t, 4)
	one.SetTracks(true, false)
	for one.feed.Load().format != (Format{Wire: FLV, NoVideo: true}) {
		runtime.Gosched()
	}
	write(t, p, video(40, false, "v40"), audio(45, "a45"))
	equal(t, "without video", one.read(t, 1), []string{"a45@45"})
	one.SetTracks(true, true)
	write(t, p, video(80, false, "v80"), audio(85, "a85"))
	equal(t, "until the key frame", one.read(t, 1), []string{"a85@85"})
	for {
		one.mu.Lock()
		seen := one.dirty.Load()
		one.mu.Unlock()
		if !seen {
			break
		}
		runtime.Gosched()
	}
	write(t, p, video(120, true, "K120"), audio(125, "a125"))
	equal(t, "with video again", one.read(t, 4), []string{"VC@120", "AC@125", "K120@120", "a125@125"})
	p.End(EndClosed)
}

func TestPauseAndInject(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app())
	write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
	one := play(t, p.Stream(), Format{Wire: FLV})
	one.read(t, 2)
	one.Pause(true)
	mark := flv.AppendTag(nil, flv.TypeAudio, 7, flv.AppendAudio(nil, av.AAC, true, []byte("mark")))
	if err := one.Inject(mark); err != nil {
		t.Fatal(err)
	}
	equal(t, "injected while paused", one.read(t, 1), []string{"mark@7"})
	write(t, p, video(40, false, "v40"))
	one.Pause(false)
	equal(t, "after the pause", one.read(t, 1), []string{"v40@40"})
	if err := one.Inject(make([]byte, maxInject+1)); err != ErrStuck {
		t.Errorf("Inject of too much = %v, want ErrStuck", err)
	}
	p.End(EndKicked)
	<-one.Done()
	if err := one.Inject(mark); err == nil {
		t.Error("Inject to a player that ended succeeded")
	}
}

// F07: a player that reads nothing jumps at a packet's end, is counted, and
// does not keep others from playing.
func TestSlowPlayerJumps(t *testing.T) {
	h := newHub(t, Options{SlowBytes: 256 << 10})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), video(0, true, "K"))
	slow, fast := play(t, p.Stream(), Format{Wire: FLV}), play(t, p.Stream(), Format{Wire: FLV})
	fast.read(t, 2)
	last, large := int64(0), av.Packet{}
	for i := range int64(2000) { // 40 MB: more than the sockets hold
		last = 40 * (i + 1)
		large = video(last, i%25 == 0, "x")
		large.Tag = append(large.Tag, make([]byte, 20<<10)...)
		write(t, p, large)
		fast.read(t, 1)
	}
	p.End(EndKicked)
	prev, n := int64(-1), 0
	sawKey := true
	for {
		pkt, err := slow.r.ReadPacket()
		if err != nil {
			break
		}
		if pkt.DTS < prev {
			t.Fatalf("time went back from %d to %d", prev, pkt.DTS)
		}
		if pkt.Kind == av.Video && !pkt.Config {
			if pkt.DTS > prev+40 && prev >= 0 {
				if sawKey = pkt.Key; !sawKey {
					t.Errorf("jumped from %d to %d, which is no key frame", prev, pkt.DTS)
				}
			}
			n++
			prev = pkt.DTS
		}
	}
	if slow.Jumps() == 0 || n >= 2000 || prev != last {
		t.Errorf("slow player got %d frames with %d jumps, the last at %d: %v", n, slow.Jumps(), prev, slow.Err())
	}
	st := h.Stats()
	if st.JumpedFrames != int64(2001-n) {
		t.Errorf("%d frames counted as jumped over, of 2001 the player got %d", st.JumpedFrames, n)
	}
	// A key frame may have come between the look and the jump.
	size := int64((&Format{Wire: FLV}).size(&large)) - 32 + 15
	if most := size * st.JumpedFrames; st.JumpedBytes > most || st.JumpedBytes < most-25*size*st.Jumps {
		t.Errorf("%d bytes counted as jumped over in %d jumps, want %d", st.JumpedBytes, st.Jumps, most)
	}
	if fast.Jumps() != 0 {
		t.Errorf("the fast player jumped %d times", fast.Jumps())
	}
}

// A player that takes nothing is disconnected, and holds little memory until
// then.
func TestStuckPlayerIsDisconnected(t *testing.T) {
	h := newHub(t, Options{StuckAfter: 50 * ms, SlowBytes: 256 << 10})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), video(0, true, "K"))
	s := p.Stream()
	stuck := play(t, s, Format{Wire: FLV})
	big := make([]byte, 20<<10)
	held := int64(0)
	for i := int64(1); ; i++ {
		pkt := video(40*i, i%25 == 0, "x")
		pkt.Tag = append(pkt.Tag, big...)
		if p.WritePacket(pkt) != nil {
			t.Fatalf("publisher ended: %v", p.Reason())
		}
		s.mu.Lock()
		held = max(held, s.size-s.packets[0].at)
		if f := s.feeds[Format{Wire: FLV}]; f != nil {
			f.mu.Lock()
			held = max(held, f.tail-f.first())
			f.mu.Unlock()
		}
		s.mu.Unlock()
		select {
		case <-stuck.Done():
		default:
			runtime.Gosched()
			continue
		}
		break
	}
	if stuck.Err() != ErrStuck || h.Stats().Stuck != 1 {
		t.Errorf("player ended with %v, %d counted as stuck", stuck.Err(), h.Stats().Stuck)
	}
	if held > 1<<20 { // a GOP is half of it
		t.Errorf("%d bytes were held for it", held)
	}
	p.End(EndClosed)
}

// A connection that is no TCP connection, such as TLS, is served by its own
// goroutine.
func TestPlayerOverPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
		srv, cli := net.Pipe()
		pl, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: FLV}, Preface: []byte("HTTP"), Goodbye: []byte("bye")})
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 4)
		if _, err := io.ReadFull(cli, head); err != nil || string(head) != "HTTP" {
			t.Fatalf("preface %q, %v", head, err)
		}
		r := &flvPlayer{pl, cli, &tagReader{r: bufio.NewReader(cli)}}
		equal(t, "start", r.read(t, 2), []string{"VC@0", "K0@0"})
		write(t, p, video(40, false, "v40"))
		equal(t, "next", r.read(t, 1), []string{"v40@40"})
		p.End(EndClosed)
		time.Sleep(2 * time.Second)
		p = publish(t, h, app())
		write(t, p, config(av.Video, "VD"), video(500, true, "K500"))
		equal(t, "held over the publisher's absence", r.read(t, 2), []string{"VD@2040", "K500@2040"})
		p.End(EndClosed)
		rest, err := io.ReadAll(cli)
		if string(rest) != "bye" || err != nil {
			t.Errorf("at the end %q, %v, want bye", rest, err)
		}
		<-pl.Done()
	})
}

// All players of a format get the same bytes, however they come and go.
func TestManyPlayers(t *testing.T) {
	h := newHub(t, Options{})
	p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
	write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"))
	const frames = 600
	var wg sync.WaitGroup
	joined := make(chan bool, 300)
	for i := range 300 {
		srv, cli := pair(t)
		pl, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: Wire(1), NoAudio: i%7 == 0}})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			r := &tagReader{r: bufio.NewReader(cli)}
			prev, n := int64(-1), 0
			for {
				pkt, err := r.ReadPacket()
				if err != nil {
					break
				}
				if pkt.Kind != av.Video || pkt.Config {
					continue
				}
				if n++; n == 1 && !pkt.Key || n > 1 && pkt.DTS != prev+40 {
					t.Errorf("player %d: frame at %d after %d", i, pkt.DTS, prev)
				}
				if prev = pkt.DTS; n == 1 {
					joined <- true
				}
				if i%10 == 3 && n == 50 {
					cli.Close()
				}
			}
			if i%10 != 3 && prev != 40*(frames-1) {
				t.Errorf("player %d: last frame at %d after %d frames, want %d: %v", i, prev, n, 40*(frames-1), pl.Err())
			}
		})
	}
	write(t, p, video(0, true, "K"))
	for range cap(joined) {
		<-joined
	}
	for i := int64(1); i < frames; i++ {
		write(t, p, audio(40*i-20, "a"), video(40*i, i%50 == 0, "v"))
	}
	p.End(EndKicked)
	wg.Wait()
}

func TestWebSocketFrames(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		b := appendWSHeader(nil, n)
		want := map[int][]byte{0: {0x82, 0}, 125: {0x82, 125}, 126: {0x82, 126, 0, 126}, 65535: {0x82, 126, 255, 255},
			65536: {0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}}[n]
		if !bytes.Equal(b, want) {
			t.Errorf("header of %d bytes = % x, want % x", n, b, want)
		}
	}
}

func TestGatherTime(t *testing.T) {
	g := gatherer{ceiling: 150 * ms}
	n := float64(runtime.GOMAXPROCS(0))
	for _, c := range []struct {
		players  float64
		low, top time.Duration
	}{{0, 0, 0}, {40, 0, 0}, {150, 0, 0}, {1000, 36 * ms, 44 * ms}, {4000, 114 * ms, 120 * ms}, {20000, 150 * ms, 150 * ms}} {
		if got := g.gatherTime(n * 72 * c.players); got < c.low || got > c.top {
			t.Errorf("gathering time of %v players per processor = %v, want %v to %v", c.players, got, c.low, c.top)
		}
	}
}

// The gathering time is that of the players that there are.
func TestGatherTimeIsOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		for range 100 {
			time.Sleep(10 * ms)
			h.gather.want(1000*runtime.GOMAXPROCS(0), time.Now())
		}
		if h.Stats().Gather == 0 {
			t.Error("nothing gathers with 100,000 writes a second")
		}
		time.Sleep(2 * time.Second)
		if g := h.Stats().Gather; g != 0 {
			t.Errorf("the gathering time is %v when all have left", g)
		}
	})
}

// With many players packets gather, and go out with a video frame.
func TestGatheringGoesOutWithVideo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		h.gather.value.Store(int64(40 * ms))
		h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(0, "a0"))
		srv, cli := net.Pipe()
		pl, err := p.Stream().Play(PlayerOptions{Conn: srv, Format: Format{Wire: FLV}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		type arrival struct {
			name string
			at   time.Duration
		}
		arrivals := make(chan arrival, 100)
		go func() { // ends with the connection
			r := &tagReader{r: bufio.NewReader(cli)}
			for {
				pkt, err := r.ReadPacket()
				if err != nil {
					close(arrivals)
					return
				}
				arrivals <- arrival{name(pkt), time.Since(start)}
			}
		}()
		for i := int64(1); i <= 8; i++ {
			time.Sleep(20 * ms)
			if i%2 == 0 {
				write(t, p, video(20*i, false, fmt.Sprint("v", i)))
			} else {
				write(t, p, audio(20*i, fmt.Sprint("a", i)))
			}
		}
		time.Sleep(100 * ms)
		write(t, p, audio(260, "late")) // no video any more
		time.Sleep(100 * ms)
		pl.Close(ErrOver)
		got := map[string]time.Duration{}
		for a := range arrivals {
			got[a.name] = a.at
		}
		for name, want := range map[string]time.Duration{"K0@0": 0, "a5@100": 120 * ms, "v6@120": 120 * ms, "a7@140": 160 * ms, "v8@160": 160 * ms, "late@260": 320 * ms} {
			if at, ok := got[name]; !ok || at != want {
				t.Errorf("%s arrived at %v (%v), want %v", name, at, ok, want)
			}
		}
		p.End(EndClosed)
	})
}
