package bench

import (
	"errors"
	"io"

	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// A player plays one stream. It is an endpoint: up to its first whole key
// frame it reads what comes; then, unless it is sampled, it only drains.
type player struct {
	run    *run
	target target
	stream int // index of the stream
	proto  protocol
	sock   *sock

	sampled bool // goes on reading, for latency
	slow    bool // drains no more than the slow rate
	extra   bool // leaves when it has joined

	asked   int64 // loop time of the connect
	joined  int64 // loop time of the first whole key frame; 0: not yet
	last    int64 // loop time at which the last bytes were seen
	drained int64 // loop time of the last drain
	bytes   int64
	mark    int64  // bytes at the beginning of the measurement
	number  uint64 // of the last video frame
	stalled bool   // in the measurement
	over    bool
}

// A protocol is what a player does with its connection.
type protocol interface {
	// hello returns what to send on a new connection.
	hello() []byte
	// receive takes bytes that came and calls the player's methods for what is in them.
	receive(p *player, b []byte, now int64) error
	// drains says whether the bytes after the first key frame may be dropped unread.
	drains() bool
	// passed is told of n bytes that were drained.
	passed(p *player, n int)
	// ended is told that the connection ended and returns the error that this
	// is for the player; nil: none.
	ended(p *player, err error) error
}

func (p *player) start(now int64) {
	p.asked, p.last = now, now
	if err := p.dial(); err != nil {
		p.leave(err)
	}
}

func (p *player) dial() error {
	rcvbuf := p.run.receiveBuffer
	if p.slow {
		rcvbuf = slowBuffer
	}
	s, err := p.run.loop.dial(p.target.addr, rcvbuf, p)
	if err == nil {
		p.sock = s
	}
	return err
}

func (p *player) opened(int64) { p.sock.write(p.proto.hello()) }

func (p *player) received(b []byte, now int64) {
	p.count(len(b), now)
	err := p.proto.receive(p, b, now)
	switch {
	case err != nil || p.joined == 0 || p.sampled || p.sock.fd < 0:
	case p.extra:
		p.sock.close()
		p.over = true
	case p.proto.drains():
		p.drained = now
		err = p.sock.startDraining()
	}
	if err != nil {
		p.leave(err)
	}
}

func (p *player) visited(now int64) {
	limit := int64(maxDrain)
	if p.slow {
		limit = p.run.slowRate * (now - p.drained) / 8e9
	}
	p.drained = now
	n, err := p.sock.discard(int(limit))
	if n > 0 {
		p.count(n, now)
		p.proto.passed(p, n)
	}
	if err != nil {
		p.leave(err)
	}
}

func (p *player) count(n int, now int64) {
	p.bytes += int64(n)
	p.run.delivered += int64(n)
	p.last = now
}

func (p *player) closed(err error, _ int64) {
	if err = p.proto.ended(p, err); err != nil {
		p.leave(err)
	}
}

// leave notes that the player is over before its time.
func (p *player) leave(err error) {
	if errors.Is(err, io.EOF) {
		err = errors.New("the server closed the connection")
	}
	if p.over {
		return
	}
	if p.over = true; p.sock != nil {
		p.sock.close()
	}
	kind := "play: "
	switch {
	case p.slow:
		kind = "slow play: "
	case p.joined == 0:
		kind = "join: "
	}
	p.run.note(kind + err.Error())
	if p.joined == 0 && !p.extra {
		p.run.failed++
	}
}

// join notes that the player has its first whole key frame.
func (p *player) join(now int64) {
	if p.joined != 0 {
		return
	}
	p.joined = now
	if p.extra {
		p.run.extraJoin.add(now - p.asked)
		return
	}
	p.run.joined++
	p.run.join.add(now - p.asked)
}

// video takes the beginning of a video message that has arrived whole.
func (p *player) video(head []byte, now int64) {
	if keyFrame(head) {
		p.join(now)
	}
	if !p.sampled || !p.run.measuring {
		return
	}
	if sent, number, ok := findClock(head); ok {
		p.run.latency.add(p.run.loop.wall(now) - sent)
		if p.number > 0 && number > p.number+1 {
			p.run.missed += int64(number - p.number - 1)
		}
		p.number = number
	}
}

// flvPlay plays HTTP-FLV.
type flvPlay struct {
	request []byte
	http    httpScanner
	tags    tagScanner
}

func newFLVPlay(t target) *flvPlay { return &flvPlay{request: httpGet(t.host, t.path)} }

func httpGet(host, path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: weir-bench\r\nAccept: */*\r\n\r\n")
}

func (f *flvPlay) hello() []byte { return f.request }

func (f *flvPlay) receive(p *player, b []byte, now int64) error {
	err := f.http.scan(b, func(b []byte) error {
		return f.tags.scan(b, func(typ byte, head []byte) {
			if typ == flv.TypeVideo {
				p.video(head, now)
			}
		})
	})
	if err == nil && f.http.done {
		err = io.EOF
	}
	return err
}

func (f *flvPlay) drains() bool { return true }

func (f *flvPlay) passed(*player, int) {}

func (f *flvPlay) ended(_ *player, err error) error { return err }

// rtmpPlay plays RTMP.
type rtmpPlay struct{ rtmpClient }

func newRTMPPlay(t target) *rtmpPlay {
	return &rtmpPlay{rtmpClient{app: t.app, tcURL: t.tcURL, name: t.name}}
}

func (r *rtmpPlay) receive(p *player, b []byte, now int64) error {
	err := r.rtmpClient.receive(b, func(m *message) {
		if m.typ == rtmp.TypeVideo {
			p.video(m.head, now)
		}
	})
	p.sock.write(r.take())
	return err
}

func (r *rtmpPlay) drains() bool { return true }

func (r *rtmpPlay) passed(p *player, n int) {
	r.count(n)
	p.sock.write(r.take())
}

func (r *rtmpPlay) ended(_ *player, err error) error { return err }
