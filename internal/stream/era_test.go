package stream

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
)

func TestEras(t *testing.T) {
	var e eras
	e.begin(5)
	e.turn(0)      // 6
	e.turn(900)    // the same
	e.turn(1000)   // 7
	e.reach(7, 50) // it is there
	e.reach(9, 4000)
	for at, want := range map[int64]uint64{math.MinInt64: 5, -1: 5, 0: 6, 999: 6, 1000: 7, 3999: 7, 4000: 9, 1 << 40: 9} {
		if got := e.at(at); got != want {
			t.Errorf("era at %d is %d, want %d", at, got, want)
		}
	}
	for i := range int64(10 * keptEras) {
		e.turn(5000 + 2000*i)
	}
	if len(e.list) != keptEras || e.newest() != 9+10*keptEras || e.at(0) != e.list[0].number {
		t.Errorf("%d eras are kept, the newest is %d, the oldest %d", len(e.list), e.newest(), e.at(0))
	}
}

// A rendition has the eras of its source by time, whoever begins them; and a
// stream of a name that there has been goes on from it, in number and time.
func TestErasOfRenditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(Options{})
		app := policy.DefaultApp("live")
		app.MaxLead, app.Hold = 0, time.Second
		key := func(name string) Key { return Key{Space: "default", App: "live", Name: name} }
		publish := func(name string, p Push) *Publication {
			pub, err := hub.Publish(key(name), &app, p)
			if err != nil {
				t.Fatal(err)
			}
			return pub
		}
		frame := func(dts int64) av.Packet {
			return av.Packet{Kind: av.Video, Codec: av.H264, Key: true, DTS: dts, Tag: []byte{0x17, 1, 0, 0, 0, 1}, Frame: []byte{1}}
		}
		config := func(b byte) av.Packet {
			return av.Packet{Kind: av.Video, Codec: av.H264, Config: true, Tag: []byte{0x17, 0, 0, 0, 0, b}, Frame: []byte{b}}
		}
		source := publish("s", Push{})
		s := source.Stream()
		low := publish("s_low", Push{Of: s})
		r, rl := s.NewReader(), low.Stream().NewReader()
		defer r.Close()
		defer rl.Close()
		next := func(r *Reader, dts int64) uint64 {
			for {
				if p, err := r.ReadPacket(); err != nil || !p.Config && p.DTS == dts {
					if err != nil {
						t.Fatal(err)
					}
					return r.Era()
				}
			}
		}
		for _, p := range []av.Packet{config(1), frame(0), frame(2500), frame(5000), config(2), frame(5040), frame(7500), frame(9000)} {
			source.WritePacket(p)
		}
		for _, p := range []av.Packet{config(7), frame(10), frame(4900), frame(5041), frame(8000)} {
			low.WritePacket(p)
		}
		zero := firstEra(time.Now())
		if a, b := next(r, 0), next(rl, 10); a != zero || b != zero {
			t.Errorf("eras at the beginning: %d and %d, want %d", a, b, zero)
		}
		if a, b := next(rl, 4900), next(rl, 5041); a != zero || b != zero+1 {
			t.Errorf("eras of the rendition around the change: %d, %d; want %d, %d", a, b, zero, zero+1)
		}
		if a := next(r, 5040); a != zero+1 {
			t.Errorf("era of the source after the change: %d, want %d", a, zero+1)
		}
		// Who packages the rendition finds a discontinuity, and the same again.
		if a, b := low.Stream().NextEra(zero+1), low.Stream().NextEra(zero+1); a != zero+2 || b != a {
			t.Errorf("next eras: %d, %d; want twice %d", a, b, zero+2)
		}
		source.WritePacket(frame(9040))
		low.WritePacket(frame(8990))
		low.WritePacket(frame(9041))
		if a, b, c := next(r, 9040), next(rl, 8990), next(rl, 9041); a != zero+2 || b != zero+1 || c != zero+2 {
			t.Errorf("eras then: source %d, rendition %d and %d; want %d, %d and %d", a, b, c, zero+2, zero+1, zero+2)
		}
		_, origin, _ := s.Clock()
		low.End(EndClosed)
		source.End(EndClosed)
		time.Sleep(2 * time.Second)

		// The clock of the next one of that name began to run 9 s later than its
		// pictures say.
		again := publish("s", Push{})
		again.WritePacket(config(1))
		again.WritePacket(frame(0))
		if got := again.Stream().NextEra(0); got != zero+3 {
			t.Errorf("another stream begins with era %d, want %d", got, zero+3)
		}
		if _, o, _ := again.Stream().Clock(); o < origin+9041 {
			t.Errorf("another stream begins at %d, the one before ended at %d", o, origin+9041)
		}
		low = publish("s_low", Push{Of: again.Stream()})
		low.WritePacket(frame(1))
		if got := low.Stream().NewReader(); got == nil || next(got, 1) != zero+3 {
			t.Errorf("its rendition begins with another era")
		}
		again.End(EndClosed)
		low.End(EndClosed)
		if err := hub.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
