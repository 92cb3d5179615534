package stream

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/av"
)

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

// Who comes while the key frame to begin with gathers has it at once, and then
// everything once.
func TestStartAtWhatGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		h.gather.value.Store(int64(40 * ms))
		h.gather.looked.Store(time.Now().Add(time.Hour).UnixNano()) // keep it
		p := publish(t, h, app())
		write(t, p, config(av.Video, "VC"), video(0, true, "K0"))
		one := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		equal(t, "the first one", one.read(t, 2), []string{"VC@0", "K0@0"})
		write(t, p, video(40, false, "v40"), video(80, true, "K80"), video(120, false, "v120"))
		equal(t, "the first one", one.read(t, 1), []string{"v40@40"})
		at := time.Now()
		two := pipe(t, p.Stream(), PlayerOptions{Format: Format{Wire: FLV}})
		equal(t, "the second one", two.read(t, 3), []string{"VC@80", "K80@80", "v120@120"})
		if d := time.Since(at); d != 0 {
			t.Errorf("it took %v", d)
		}
		synctest.Wait()
		write(t, p, video(160, false, "v160"))
		time.Sleep(60 * ms)
		equal(t, "the first one", one.read(t, 3), []string{"K80@80", "v120@120", "v160@160"})
		equal(t, "the second one", two.read(t, 1), []string{"v160@160"})
		p.End(EndKicked)
	})
}
