package access

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/policy"
)

// H44: who fails all the time is told so more and more slowly and is then shut
// out, and nobody else.
func TestFailures(t *testing.T) {
	at(t, 1893450000, func(t *testing.T) {
		g := gateWith(policy.Access{Simple: twoKeys("test-key-1", "")}, policy.Access{})
		g.Lenient = false
		const good, bad = "t=1893456000&k=d4065df3aa647969", "t=1893456000&k=d4065df3aa647960"
		ask := func(query, client string) (Reason, time.Duration) {
			r := request(t, Publish, "rtmp://push.example/live/s1?"+query)
			r.Addr = netip.MustParseAddrPort(client)
			start := time.Now()
			return reasonOf(t, g, r), time.Since(start)
		}
		const guesser, other = "192.0.2.7:1", "192.0.2.8:1"
		for i := range patience {
			if got, d := ask(bad, guesser); got != AuthFailed || d != 0 {
				t.Fatalf("failure %d: %q after %v", i, got, d)
			}
		}
		if got, d := ask(bad, guesser); got != AuthFailed || d == 0 {
			t.Fatalf("failure %d: %q after %v", patience, got, d)
		}
		if got, d := ask(good, guesser); got != "" || d != 0 {
			t.Fatalf("success between failures: %q after %v", got, d)
		}
		if got, d := ask("t=1893449999&k=x", guesser); got != AuthExpired || d != 0 {
			t.Errorf("what is no guess: %q after %v", got, d)
		}
		// One by one it goes on for ever, at a pace that is no danger.
		start := time.Now()
		for range 1000 {
			if got, d := ask(bad, guesser); got != AuthFailed || d > slowest {
				t.Fatalf("a guess: %q after %v", got, d)
			}
		}
		if d := time.Since(start); d < 1000*time.Second {
			t.Errorf("1000 guesses in %v", d)
		}
		// Many at a time end it.
		for range tooMany {
			go ask(bad, guesser)
		}
		synctest.Wait()
		shut := time.Now()
		if got, d := ask(good, guesser); got != TooManyFailures || d != 0 {
			t.Errorf("after too many failures: %q after %v", got, d)
		}
		if got, d := ask(good, other); got != "" || d != 0 {
			t.Errorf("another client: %q after %v", got, d)
		}
		if got, d := ask(bad, other); got != AuthFailed || d != 0 {
			t.Errorf("the first failure of another client: %q after %v", got, d)
		}
		time.Sleep(time.Until(shut.Add(shutOut)))
		if got, d := ask(good, guesser); got != "" || d != 0 {
			t.Errorf("after the time: %q after %v", got, d)
		}
	})
}

// An IPv6 network is one client; an IPv4 address is one.
func TestFailuresOrigin(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{{"192.0.2.1", "192.0.2.2", false}, {"2001:db8::1", "2001:db8::ffff:1", true}, {"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%eth0", "fe80::2", true}} {
		if same := Origin(netip.MustParseAddr(tt.a)) == Origin(netip.MustParseAddr(tt.b)); same != tt.same {
			t.Errorf("%s and %s are one: %t", tt.a, tt.b, same)
		}
	}
}

// The memory is bounded, and holds on to those who still fail.
func TestFailuresLimit(t *testing.T) {
	var l limiter
	now := time.Now()
	guesser := Origin(netip.MustParseAddr("192.0.2.7"))
	for i := range uint32(3 * maxFailing) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+i)
		l.count(Origin(netip.AddrFrom4(a)), now)
		if i%1000 == 0 {
			l.count(guesser, now)
		}
		if n := len(l.recent) + len(l.old); n > maxFailing {
			t.Fatalf("%d addresses are remembered, want %d at most", n, maxFailing)
		}
	}
	if l.open(netip.MustParseAddr("192.0.2.7"), now) {
		t.Error("one who fails all the time was forgotten")
	}
}

// H44: a hundred addresses that guess 10 000 times a minute each are slowed
// down and shut out one by one, and nobody notices who does not guess.
func TestFailuresOfMany(t *testing.T) {
	at(t, 1893450000, func(t *testing.T) {
		g := gateWith(policy.Access{Simple: twoKeys("test-key-1", "")}, policy.Access{})
		g.Lenient = false
		const attackers, pace, lasts = 100, time.Minute / 10_000, 10 * time.Second
		good := request(t, Publish, "rtmp://push.example/live/s1?t=1893456000&k=d4065df3aa647969")
		bad := request(t, Publish, "rtmp://push.example/live/s1?t=1893456000&k=d4065df3aa647960")
		var judged, turnedAway [attackers]atomic.Int64
		var wg sync.WaitGroup
		for i := range attackers {
			r := bad
			r.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 1)
			wg.Go(func() {
				for start := time.Now(); time.Since(start) < lasts; time.Sleep(pace) {
					if !g.limiter.open(r.Addr.Addr(), time.Now()) { // what needs no goroutine of its own
						if got := reasonOf(t, g, r); got != TooManyFailures {
							t.Errorf("%v: %q", r.Addr, got)
						}
						turnedAway[i].Add(1)
						continue
					}
					judged[i].Add(1)
					wg.Go(func() {
						if got := reasonOf(t, g, r); got != AuthFailed {
							t.Errorf("%v: %q", r.Addr, got)
						}
					})
				}
			})
		}
		good.Addr = netip.MustParseAddrPort("198.51.101.1:1") // next to them
		for start := time.Now(); time.Since(start) < lasts; time.Sleep(10 * time.Millisecond) {
			before := time.Now()
			if got := reasonOf(t, g, good); got != "" || time.Since(before) != 0 {
				t.Fatalf("a good client: %q after %v", got, time.Since(before))
			}
		}
		wg.Wait()
		for i := range attackers {
			if j, n := judged[i].Load(), turnedAway[i].Load(); j < patience || j > tooMany+patience || n == 0 {
				t.Errorf("attacker %d: %d guesses were judged, %d turned away", i, j, n)
			}
		}
		if n := len(g.limiter.recent) + len(g.limiter.old); n != attackers {
			t.Errorf("%d addresses are remembered, want %d", n, attackers)
		}
		// When it is over they are as others again.
		time.Sleep(shutOut)
		good.Addr = netip.MustParseAddrPort("198.51.100.7:1")
		if got := reasonOf(t, g, good); got != "" {
			t.Errorf("after the time: %q", got)
		}
	})
}
