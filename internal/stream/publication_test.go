package stream

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// H95: few data messages are passed on, and all of them count against the
// limits of the publisher.
func TestDataFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxPacketRate: 100})
		p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
		data := av.Packet{Kind: av.Data, Tag: amf.Append(nil, "onTextData", "text")}
		n := 0
		for ; p.WritePacket(data) == nil; n++ {
		}
		if n != 1000 || p.Reason() != EndLimit {
			t.Errorf("ended after %d messages for %q, want 1000, over limit", n, p.Reason())
		}
		if in := h.Stats().PacketsIn; in > 10*maxDataRate+1 {
			t.Errorf("%d of %d messages were passed on", in, n)
		}
	})
}

// F20: clocks differ; a publisher whose clock is a little fast is never held
// back, however long it publishes.
func TestFastClockIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		start := time.Now()
		for i := range int64(24 * 3600) {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second)))
			write(t, p, video(1005*i, true, "K"))
			if d := time.Since(start); d > time.Duration(i)*time.Second {
				t.Fatalf("held back at %v", d)
			}
		}
		p.End(EndClosed)
	})
}

// A publisher is there as long as it is heard of, if only parts of a packet come, but
// that is no packet.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := publish(t, h, app())
		write(t, p, video(0, true, "K"))
		for range 60 {
			time.Sleep(time.Second)
			p.Heard()
		}
		if _, err := h.Publish(key, app(), Push{}); err != ErrPublished {
			t.Errorf("another one: %v, want %v", err, ErrPublished)
		}
		if d := p.Silent(time.Now()); d != time.Minute {
			t.Errorf("no packet for %v, want a minute", d)
		}
		time.Sleep(p.App().IdleTimeout + time.Second)
		select {
		case <-p.Done():
		default:
			t.Fatal("it did not end")
		}
		if p.Reason() != EndNoData {
			t.Errorf("ended for %q", p.Reason())
		}
	})
}

// F16, F18: a publisher that sends in real time is not held back because its
// tracks are apart, or come to be, and its players see no track far behind.
func TestTracksApartAreNotHeldBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		times func(at int64) (video, audio int64) // of what is sent then, -1: none
	}{
		{"sound ahead by two seconds", func(at int64) (int64, int64) { return at, at + 2000 }},
		{"sound that is late and has a clock of its own", func(at int64) (int64, int64) { return at, max(-1, at-14_000) }},
		{"picture that is late and has a clock of its own", func(at int64) (int64, int64) { return max(-1, at-14_000), at }},
		{"picture that stands still, with its clock", func(at int64) (int64, int64) {
			switch {
			case at < 2000:
				return at, at
			case at < 17_000:
				return -1, at
			}
			return at - 15_000, at
		}},
		{"picture of half the time", func(at int64) (int64, int64) { return at / 2, at }},
		{"sound of half the time", func(at int64) (int64, int64) { return at, at / 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, most := range []time.Duration{time.Second, 10 * time.Second} {
				synctest.Test(t, func(t *testing.T) {
					p := publish(t, newHub(t, Options{}), app(func(a *policy.App) { a.MaxLead = most }))
					start := time.Now()
					for at := int64(0); at < 90_000; at += 40 {
						time.Sleep(time.Until(start.Add(time.Duration(at) * ms)))
						v, a := c.times(at)
						if a >= 0 {
							write(t, p, audio(a, "a"))
						}
						if v >= 0 {
							write(t, p, video(v, v%1000 == 0, "v"))
						}
						if d := time.Since(start) - time.Duration(at)*ms; d > 0 {
							t.Fatalf("held back by %v after %d ms with a lead of %v", d, at, most)
						}
						tv, ta := p.Stream().Times()
						if now := p.Stream().Time(); a >= 0 && ta < now-maxStep-40 || v >= 0 && tv < now-maxStep || now > at+2000 {
							t.Fatalf("picture at %d, sound at %d, the stream at %d after %d ms", tv, ta, now, at)
						}
					}
					p.End(EndKicked)
				})
			}
		})
	}
}

// F20: a publisher that is too fast is held back also where its tracks are apart.
func TestFastTracksApartAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publish(t, newHub(t, Options{}), app(func(a *policy.App) { a.MaxLead = time.Second }))
		start := time.Now()
		for at := int64(0); at <= 60_000; at += 40 {
			write(t, p, video(at, at%1000 == 0, "v"), audio(at+2000, "a"))
		}
		if d := time.Since(start); d < 58*time.Second || d > 59*time.Second {
			t.Errorf("60 s of media took %v, want 59s, or a little less: clocks may differ", d)
		}
		p.End(EndKicked)
	})
}

// I3: a publisher that is being held back can be taken over and ended.
func TestEndWhileHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		a := app(func(a *policy.App) { a.Takeover, a.MaxLead = true, time.Second })
		for _, end := range []func(*Publication){
			func(*Publication) { publish(t, h, a) },
			func(p *Publication) { p.End(EndKicked) },
		} {
			p := publish(t, h, a)
			over := make(chan error)
			go func() { // ends with the publication
				var err error
				for i := int64(0); err == nil; i++ {
					err = p.WritePacket(video(1000*i, true, "K"))
				}
				over <- err
			}()
			synctest.Wait()
			start := time.Now()
			end(p)
			var ended *Ended
			if err := <-over; !errors.As(err, &ended) || ended.Reason != p.Reason() || time.Since(start) != 0 {
				t.Errorf("ended for %v after %v, WritePacket = %v", p.Reason(), time.Since(start), err)
			}
			if p := h.Find(key); p != nil {
				pub, _ := p.publication()
				pub.End(EndKicked)
				synctest.Wait()
			}
		}
	})
}

// F01: a publisher that comes back at the moment at which the hold expires goes
// on with the stream, or begins another one.
func TestPublisherReturnsAsTheHoldExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		ctxs := make(chan context.Context, 1)
		h.OnPublish(func(ctx context.Context, s *Stream) { ctxs <- ctx })
		p := publish(t, h, app())
		ctx := <-ctxs
		for range 100 {
			s := p.Stream()
			p.End(EndReset)
			time.Sleep(app().Hold)
			p = publish(t, h, app())
			synctest.Wait()
			if same := p.Stream() == s; same != (ctx.Err() == nil) || same == s.ended || h.Find(key) != p.Stream() {
				t.Fatalf("same stream: %v, its context: %v, ended: %v", same, ctx.Err(), s.ended)
			} else if !same {
				ctx = <-ctxs
			}
		}
		p.End(EndKicked)
	})
}

// F05: an end of the hold that comes late, when the publisher has returned and
// left again, does not shorten the new hold.
func TestLateEndOfHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		first := publish(t, h, app())
		first.End(EndReset)
		publish(t, h, app()).End(EndReset)
		h.expire(first.Stream(), first)
		time.Sleep(app().Hold - ms)
		if h.Find(key) == nil {
			t.Error("the stream ended before its hold time")
		}
		time.Sleep(ms)
		synctest.Wait()
		if h.Find(key) != nil {
			t.Error("the stream goes on after its hold time")
		}
	})
}

func TestEndReasons(t *testing.T) {
	for r, want := range map[EndReason]string{EndClosed: "closed", EndRevoked: "revoked", 0: "unknown", 99: "unknown"} {
		if got := (&Ended{r}).Error(); got != "publication ended: "+want {
			t.Errorf("error of reason %d = %q, want %q", r, got, want)
		}
	}
}

// TestFactsAreInOrder lets publishers take over from each other and leave at
// the same moment: the hub tells of each end before the next beginning.
func TestFactsAreInOrder(t *testing.T) {
	var mu sync.Mutex
	var told []string
	note := func(what string) func(*Publication) {
		return func(p *Publication) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what+" "+p.Push().Sequence)
		}
	}
	h := NewHub(Options{Began: note("began"), Ended: note("ended")})
	a := app()
	a.Takeover = true
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			p, err := h.Publish(key, a, Push{Sequence: strconv.Itoa(i)})
			if err != nil {
				t.Errorf("Publish: %v", err)
				return
			}
			p.End(EndClosed)
		})
	}
	wg.Wait()
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 100 {
		t.Fatalf("the hub told of %d beginnings and ends, want 100", len(told))
	}
	for i := 0; i < len(told); i += 2 {
		began, seq, _ := strings.Cut(told[i], " ")
		if began != "began" || told[i+1] != "ended "+seq {
			t.Fatalf("the hub told of %q, then %q", told[i], told[i+1])
		}
	}
}

// Who follows a publication sees all of it and nothing else, however late he
// begins to read.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		start, got := make(chan struct{}), make(chan string, 2)
		h.Follow(func(_ context.Context, p *Publication, r *Reader) {
			<-start
			list := p.Push().Sequence + ":"
			for {
				pkt, err := r.ReadPacket()
				if err != nil {
					got <- list
					return
				}
				list += " " + name(pkt)
			}
		})
		push := func(sequence string, packets ...av.Packet) *Publication {
			p, err := h.Publish(key, app(), Push{Sequence: sequence})
			if err != nil {
				t.Fatal(err)
			}
			write(t, p, packets...)
			return p
		}
		first := push("1", config(av.Video, "VC"), video(0, true, "a"), video(40, false, "b"), video(80, true, "c"))
		began := time.Now()
		time.Sleep(time.Second)
		late := first.NewReader()
		defer late.Close()
		first.End(EndClosed)
		second := push("2")
		early := second.NewReader() // while only the first one's GOP is there
		defer early.Close()
		write(t, second, config(av.Video, "VC"), video(0, true, "d"))
		close(start)
		second.End(EndKicked)
		equal(t, "an early reader of the second publication", read(t, early, 2), []string{"|VC@1080", "d@1080"})
		lists := []string{<-got, <-got}
		slices.Sort(lists)
		want := []string{"1: VC@0 a@0 b@40 c@80", "2: |VC@1080 d@1080"}
		if !slices.Equal(lists, want) {
			t.Errorf("read %q, want %q", lists, want)
		}
		equal(t, "a reader of the first publication", read(t, late, 2), []string{"VC@80", "c@80"})
		if p, err := late.ReadPacket(); err == nil {
			t.Errorf("read %s of the next publication", name(p))
		}
		if d := first.EndTime().Sub(began); d != time.Second {
			t.Errorf("EndTime is %v after the last packet, want 1s", d)
		}
	})
}
