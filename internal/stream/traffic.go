package stream

import "sync/atomic"

// Protocols are the ways to play that a Traffic tells apart, by the names that
// facts give them; the last is for all others.
var Protocols = [...]string{"rtmp", "rtmps", "flv", "ws-flv", "hls", "other"}

// protocolOf returns the index in Protocols of a name.
func protocolOf(name string) int {
	for i, p := range Protocols {
		if p == name {
			return i
		}
	}
	return len(Protocols) - 1
}

// HLS is the index in Protocols of HLS, whose players are no Player of ours.
const HLS = 4

// Traffic counts what goes into a stream and out of it. It outlives the
// stream: whoever keeps an account keeps the Traffic and not the stream. Its
// methods may be called from any goroutine and take no lock.
type Traffic struct {
	in           atomic.Int64
	out, plays   [len(Protocols)]atomic.Int64
	players      [len(Protocols)]atomic.Int64
	playing, top atomic.Int64
	push         atomic.Pointer[string]
}

// TrafficCount is a Traffic at one moment. Out, Plays and Players are in the
// order of Protocols.
type TrafficCount struct {
	In      int64                 // bytes of media published
	Out     [len(Protocols)]int64 // bytes written to players
	Plays   [len(Protocols)]int64 // players that came; those of HLS who can be told apart
	Players [len(Protocols)]int64 // players now; those of HLS are estimated
}

// Count returns the account since the stream began.
func (t *Traffic) Count() TrafficCount {
	c := TrafficCount{In: t.in.Load()}
	for i := range Protocols {
		c.Out[i], c.Plays[i], c.Players[i] = t.out[i].Load(), t.plays[i].Load(), t.players[i].Load()
	}
	return c
}

// Sequence names the push that is live, or was last; of a rendition, its
// source's. It is empty before the first.
func (t *Traffic) Sequence() string {
	if s := t.push.Load(); s != nil {
		return *s
	}
	return ""
}

// began notes that a push is live now.
func (t *Traffic) began(p *Push) {
	sequence := p.Sequence // and not the whole Push
	if p.Of != nil {
		sequence = p.Of.traffic.Sequence()
	}
	t.push.Store(&sequence)
}

// Playing returns how many players there are.
func (t *Traffic) Playing() int64 { return t.playing.Load() }

// Peak returns the most players that there were at a time since the last call
// of Peak.
func (t *Traffic) Peak() int64 { return max(t.top.Swap(t.playing.Load()), t.playing.Load()) }

// Served counts n bytes written to players of a protocol.
func (t *Traffic) Served(protocol int, n int64) { t.out[protocol].Add(n) }

// Came counts a player of a protocol whose players are no Player of ours.
func (t *Traffic) Came(protocol int) { t.plays[protocol].Add(1) }

// Watching sets the number of players of a protocol whose players are no
// Player of ours.
func (t *Traffic) Watching(protocol int, n int64) {
	t.count(n - t.players[protocol].Swap(n))
}

func (t *Traffic) join(protocol int) {
	t.plays[protocol].Add(1)
	t.players[protocol].Add(1)
	t.count(1)
}

func (t *Traffic) leave(protocol int) {
	t.players[protocol].Add(-1)
	t.count(-1)
}

// count adds n players to all.
func (t *Traffic) count(n int64) {
	now := t.playing.Add(n)
	for top := t.top.Load(); now > top && !t.top.CompareAndSwap(top, now); {
		top = t.top.Load()
	}
}
