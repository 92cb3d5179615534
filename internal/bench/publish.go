package bench

import (
	"errors"
	"io"
	"time"

	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// A publisher sends a source to a server as RTMP, each frame in one write at
// the moment it is due. It is an endpoint.
type publisher struct {
	run    *run
	target target
	sock   *sock
	rtmp   rtmpClient
	cursor cursor
	timer  timer
	msg    []byte // the message being written
	body   []byte // the frame with its clock

	ready   bool
	over    bool
	began   int64  // loop time of the source's beginning
	frames  uint64 // video frames sent
	bytes   int64  // sent, as FLV tags
	mark    int64  // bytes at the beginning of the measurement
	dropped int64  // frames, because the server did not take them
}

// Most bytes that may wait for a server that doesn't read.
const maxPending = 4 << 20

func newPublisher(r *run, t target) *publisher {
	p := &publisher{run: r, target: t, cursor: newCursor(r.source)}
	p.rtmp = rtmpClient{app: t.app, tcURL: t.tcURL, name: t.name, publish: true}
	p.timer.fire = p.tick
	return p
}

func (p *publisher) start(now int64) {
	s, err := p.run.loop.dial(p.target.addr, 0, p)
	if err != nil {
		p.closed(err, now)
		return
	}
	p.sock = s
}

func (p *publisher) opened(int64) { p.sock.write(p.rtmp.hello()) }

func (p *publisher) received(b []byte, now int64) {
	err := p.rtmp.receive(b, func(*message) {})
	p.sock.write(p.rtmp.take())
	if p.rtmp.accepted && !p.ready && err == nil {
		p.ready = true
		p.run.publishing++
		p.began = now
		for i := range p.run.source.head {
			p.send(&p.run.source.head[i], 0, now)
		}
		p.tick(now)
	}
	if err != nil {
		p.sock.close()
		p.closed(err, now)
	}
}

func (p *publisher) visited(int64) {}

func (p *publisher) closed(err error, _ int64) {
	if errors.Is(err, io.EOF) {
		err = errors.New("the server closed the connection")
	}
	if p.ready {
		p.run.publishing--
	}
	p.ready, p.over = false, true
	p.run.note("publish: " + err.Error())
}

// tick sends what is due and sets the timer for what comes next.
func (p *publisher) tick(int64) {
	for !p.over {
		now := p.run.loop.now()
		f, at, from := p.cursor.peek()
		if due := p.began + int64(at); due > now {
			p.timer.at = due
			p.run.loop.schedule(&p.timer)
			return
		} else if p.run.measuring {
			p.run.pacing.add(now - due)
		}
		p.send(f, at, now)
		p.cursor.advance(from)
	}
}

// send writes one frame.
func (p *publisher) send(f *frame, at time.Duration, now int64) {
	if len(p.sock.out) > maxPending {
		p.dropped++
		return
	}
	body := f.body
	if f.clock > 0 {
		p.frames++
		p.body = append(p.body[:0], f.body...)
		body = p.body
		putClock(body[f.clock:f.clock+clockSize], p.run.loop.wall(now), p.frames)
	}
	csid := uint32(rtmp.ChunkData)
	switch f.typ {
	case flv.TypeAudio:
		csid = rtmp.ChunkAudio
	case flv.TypeVideo:
		csid = rtmp.ChunkVideo
	}
	p.msg = rtmp.AppendMessage(p.msg[:0], outChunkSize, csid, f.typ, uint32(at.Milliseconds()), p.rtmp.streamID, body)
	p.sock.write(p.msg)
	p.bytes += int64(len(body) + flv.TagOverhead)
}

// stop ends the publish in order.
func (p *publisher) stop() {
	if p.ready {
		p.rtmp.stop()
		p.sock.write(p.rtmp.take())
		p.sock.close()
	}
	p.over = true
}
