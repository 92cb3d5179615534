package stream

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/av"
)

// pipe plays a stream over a pipe, in a bubble of synctest.
func pipe(t *testing.T, s *Stream, o PlayerOptions) *flvPlayer {
	t.Helper()
	srv, cli := net.Pipe()
	o.Conn = srv
	p, err := s.Play(o)
	if err != nil {
		t.Fatal(err)
	}
	return &flvPlayer{p, cli, &tagReader{r: bufio.NewReader(cli)}}
}

// What a player does not want stops at once, also while it waits for video;
// what it wants comes at once, video with the next key frame.
func TestTracksChangeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		equal(t, "start", one.read(t, 4), []string{"VC@0", "AC@5", "K0@0", "a5@5"})
		set := func(audio, video bool) {
			one.SetTracks(audio, video)
			synctest.Wait()
		}
		set(false, true)
		write(t, p, audio(25, "a25"), video(40, false, "v40"))
		equal(t, "without audio", one.read(t, 1), []string{"v40@40"})
		set(true, true)
		write(t, p, audio(45, "a45"))
		equal(t, "with audio again", one.read(t, 2), []string{"AC@25", "a45@45"})
		set(true, false)
		write(t, p, video(80, false, "v80"), audio(85, "a85"))
		equal(t, "without video", one.read(t, 1), []string{"a85@85"})
		set(true, true)
		set(false, true)
		write(t, p, audio(105, "a105"), video(120, true, "K120"))
		equal(t, "video instead of audio", one.read(t, 2), []string{"VC@120", "K120@120"})
		set(false, false)
		write(t, p, audio(125, "a125"), video(160, false, "v160"))
		set(true, true)
		write(t, p, audio(165, "a165"))
		equal(t, "audio after nothing", one.read(t, 2), []string{"AC@125", "a165@165"})
		write(t, p, video(200, true, "K200"))
		equal(t, "and video", one.read(t, 3), []string{"VC@200", "AC@165", "K200@200"})
		p.End(EndKicked)
	})
}

// A player whose tracks change as the stream ends has its goodbye and is over.
func TestTracksChangeAsTheStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Goodbye: []byte("bye")})
		synctest.Wait() // it writes
		write(t, p, video(40, false, "v40"))
		one.SetTracks(false, false)
		p.End(EndKicked)
		synctest.Wait()
		equal(t, "to the end", one.read(t, 3), []string{"VC@0", "K0@0", "v40@40"})
		if rest, err := io.ReadAll(one.r.r); string(rest) != "bye" || err != nil {
			t.Errorf("at the end %q, %v", rest, err)
		}
		<-one.Done()
	})
}

// Packets that gather are not lost when a player changes feeds, even where no
// key frame is cached from which the other feed could be filled.
func TestTracksChangeWhilePacketsGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{GOPTime: 30 * ms})
		h.gather.value.Store(int64(40 * ms))
		h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), config(av.Audio, "AC"), video(0, true, "K0"))
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		one.read(t, 3)
		write(t, p, video(40, false, "v40"), audio(45, "a45"), video(80, false, "v80"))
		one.SetTracks(false, true)
		at := time.Now()
		equal(t, "what has gathered", one.read(t, 3), []string{"v40@40", "a45@45", "v80@80"})
		if d := time.Since(at); d != 0 {
			t.Errorf("it took %v", d)
		}
		synctest.Wait()
		write(t, p, audio(85, "a85"), video(120, false, "v120"))
		equal(t, "then", one.read(t, 1), []string{"v120@120"})
		p.End(EndKicked)
	})
}

// A player that begins paused gets its preface and then nothing until it is
// resumed.
func TestPausedBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: []byte("HTTP")})
		one.Pause(true)
		head := make([]byte, 4)
		if _, err := io.ReadFull(one.r.r, head); err != nil || string(head) != "HTTP" {
			t.Fatalf("preface %q, %v", head, err)
		}
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"), video(40, false, "v40"), video(80, true, "K80"))
		synctest.Wait()
		if one.Sent() != 4 {
			t.Errorf("%d bytes sent to a paused player", one.Sent()-4)
		}
		one.Pause(false)
		equal(t, "when resumed", one.read(t, 2), []string{"VC@80", "K80@80"})
		one.Pause(true)
		synctest.Wait()
		p.End(EndKicked)
		<-one.Done()
		if one.Err() != ErrOver {
			t.Errorf("paused player ended with %v", one.Err())
		}
	})
}

// A player that comes when the stream is over has its preface and its goodbye.
func TestPlayOfAStreamThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		p.End(EndKicked)
		synctest.Wait()
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: []byte("HTTP"), Goodbye: []byte("bye")})
		if b, err := io.ReadAll(one.conn); string(b) != "HTTPbye" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if <-one.Done(); one.Err() != ErrOver {
			t.Errorf("ended with %v", one.Err())
		}
		closed := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		closed.Close(io.ErrNoProgress)
		if <-closed.Done(); closed.Err() != io.ErrNoProgress && closed.Err() != ErrOver {
			t.Errorf("ended with %v", closed.Err())
		}
	})
}

// A preface is shared by many players; none appends to it in place.
func TestPrefaceIsNotWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
		preface := make([]byte, 4, 100)
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}, Preface: preface})
		one.Inject([]byte("more"))
		io.ReadFull(one.r.r, make([]byte, 4))
		synctest.Wait()
		if !bytes.Equal(preface[:100], make([]byte, 100)) {
			t.Error("the preface was appended to in place")
		}
		one.Close(net.ErrClosed)
		<-one.Done()
		p.End(EndKicked)
	})
}

// F14: a player without video starts with the configuration of the audio that
// it gets, not with one for audio that is still to come.
func TestAudioPlayerAfterAnotherConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
		first := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV, NoVideo: true}})
		equal(t, "start", first.read(t, 2), []string{"AC@5", "a5@5"})
		write(t, p, config(av.Audio, "AD"))
		second := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV, NoVideo: true}})
		synctest.Wait()
		write(t, p, audio(25, "a25"))
		equal(t, "in band", first.read(t, 2), []string{"AD@5", "a25@25"})
		equal(t, "start after the change", second.read(t, 2), []string{"AD@25", "a25@25"})
		p.End(EndKicked)
	})
}

// Each player's join is counted, whoever writes its first frame.
func TestJoinsAreCountedWhilePacketsGather(t *testing.T) {
	h := newHub(t, Options{})
	h.gather.value.Store(int64(20 * ms))
	h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
	p := publish(t, h, app())
	write(t, p, config(av.Audio, "AC"), video(0, true, "K0"), audio(5, "a5"))
	first := play(t, p.Stream(), Format{Wire: FLV, NoVideo: true})
	first.read(t, 2)
	write(t, p, audio(25, "a25")) // which gathers
	second := play(t, p.Stream(), Format{Wire: FLV, NoVideo: true})
	equal(t, "start", second.read(t, 2), []string{"AC@25", "a25@25"})
	equal(t, "next", first.read(t, 1), []string{"a25@25"})
	p.End(EndKicked)
	<-first.Done()
	<-second.Done()
	if n := h.Stats().Join[len(JoinBuckets)]; n != 2 {
		t.Errorf("%d joins counted, want 2", n)
	}
}

// RTMP's chunk size is 128 until another one was announced.
func TestChunkSizeOfTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: RTMP, StreamID: 1}})
		write(t, p, video(0, true, string(make([]byte, 200))))
		b := make([]byte, 12+128+1)
		if _, err := io.ReadFull(one.conn, b); err != nil || b[0] != 6 || b[140] != 3<<6|6 {
			t.Errorf("message begins % x, % x after 128 bytes, %v", b[:12], b[140], err)
		}
		one.Close(net.ErrClosed)
		<-one.Done()
		p.End(EndKicked)
	})
}
