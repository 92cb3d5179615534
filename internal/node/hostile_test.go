package node

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"weir/internal/media/amf"
	"weir/internal/media/rtmp"
)

// sub runs a part of a test after which the world must be unharmed.
func (w *world) sub(t *testing.T, name string, f func()) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		defer func(old *testing.T) { w.t = old }(w.t)
		w.t = t
		f()
		w.unharmed()
	})
}

// logged is how many lines one connection may be worth to the log: that a
// publisher came, that it broke a rule, that it went, and one for HLS.
const logged = 5

// attacks runs hostile clients, one after the other.
func (w *world) attacks(t *testing.T, rows []attack) {
	for _, row := range rows {
		w.sub(t, row.name, func() {
			before := w.log.count()
			a := w.attacker(w.t)
			row.do(a)
			a.leave()
			if n := w.log.count() - before; n > logged {
				w.t.Errorf("%d lines in the log, the last of them:\n%s", n, w.log.tail())
			}
		})
	}
}

// attack is a row of the list of hostile inputs: what a client does, and that
// its connection is closed or goes on.
type attack struct {
	name string
	do   func(a *attacker)
}

// unwelcome is an attack of bytes upon which the server closes the connection.
func unwelcome(name string, parts ...[]byte) attack {
	return attack{name, func(a *attacker) { a.send(parts...); a.closed() }}
}

// rejected is the same after connect, and endured one that the server lives with.
func rejected(name string, parts ...[]byte) attack {
	return attack{name, func(a *attacker) { a.connects(); a.send(parts...); a.closed() }}
}

func endured(name string, parts ...[]byte) attack {
	return attack{name, func(a *attacker) { a.connects(); a.send(parts...); a.alive() }}
}

// asPublisher are the bytes of a client that publishes already.
func asPublisher(name string, goesOn bool, parts ...[]byte) attack {
	return attack{name, func(a *attacker) {
		a.publishes("live", "hostile")
		a.send(parts...)
		if goesOn {
			a.alive()
		} else {
			a.closed()
		}
	}}
}

// chunk is a chunk with a header as it stands.
func chunk(format byte, csid byte, header, payload []byte) []byte {
	return slices.Concat([]byte{format<<6 | csid}, header, payload)
}

// header0 is the message header of type 0, as others it can be cut to 7 or 3 bytes.
func header0(ts uint32, length int, typ byte, streamID uint32) []byte {
	h := []byte{byte(ts >> 16), byte(ts >> 8), byte(ts), byte(length >> 16), byte(length >> 8), byte(length), typ}
	return binary.LittleEndian.AppendUint32(h, streamID)
}

func times(n int, b []byte) []byte { return bytes.Repeat(b, n) }

func flash(version ...byte) []byte {
	h := append([]byte{3, 0, 0, 0, 0}, version...)
	return append(h, bytes.Repeat([]byte{0xA5}, 2*1536-4-len(version))...)
}

// H02 to H06: handshakes. H04 is all that a client says in one packet.
func handshakes() []attack {
	var rows []attack
	for _, c0 := range []byte{0, 6, 'G', 0x16, 0x80, 0xFF} {
		rows = append(rows, unwelcome(fmt.Sprintf("H02 C0=%#x", c0), append([]byte{c0}, make([]byte, 2*1536)...)))
	}
	next := slices.Concat(connect("live"), command(0, "createStream", 2, nil), command(1, "publish", 3, nil, "hostile", "live"))
	works := func(name string, hello []byte) attack {
		return attack{name, func(a *attacker) {
			a.send(slices.Concat(hello, next))
			a.hears("NetStream.Publish.Start")
			a.alive()
		}}
	}
	return append(rows,
		works("H04 in a single packet", hello()),
		works("H05 zero version", flash(0, 0, 0, 0)),
		works("H05 wrong digest", flash(9, 0, 124, 2)),
		works("H05 all FF", append([]byte{3}, times(2*1536, []byte{0xFF})...)),
		works("H06 C2 is no echo", append(hello()[:1+1536], times(1536, []byte{0x5A})...)),
		unwelcome("H06 garbage behind the handshake", hello(), times(4096, []byte{0xFF, 0x13, 0x37})),
		unwelcome("H06 RTMP in HTTP", []byte("POST /open/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n\x00")),
		attack{"H06 leaves inside of C1", func(a *attacker) { a.send(hello()[:700]) }},
		attack{"H06 leaves inside of connect", func(a *attacker) { a.send(hello(), connect("live")[:50]) }},
	)
}

// H07 to H12: chunk sizes.
func chunkSizes() []attack {
	const video = 2 << 20
	body := append([]byte{0x27, 1, 0, 0, 0}, make([]byte, video)...)
	flip := slices.Concat(control(1, 1), control1(1, 128))
	return []attack{
		rejected("H07 SetChunkSize 0", control(1, 0)),
		asPublisher("H08 SetChunkSize 1 and much video", true,
			control(1, 1), rtmp.AppendMessage(nil, 1, 6, rtmp.TypeVideo, 0, 1, body), control1(1, 128)),
		asPublisher("H09 SetChunkSize 0x7FFFFFFF and much video", true,
			control(1, 0x7FFFFFFF), rtmp.AppendMessage(nil, 1<<30, 6, rtmp.TypeVideo, 0, 1, body), control(1, 128)),
		rejected("H10 SetChunkSize 0x80000000", control(1, 0x80000000)),
		rejected("H10 SetChunkSize 0xFFFFFFFF", control(1, 0xFFFFFFFF)),
		rejected("H10 SetChunkSize of 3 bytes", chunked(2, 1, 0, 0, []byte{0, 16, 0})),
		rejected("H10 SetChunkSize of 5 bytes", chunked(2, 1, 0, 0, []byte{0, 0, 16, 0, 0})),
		rejected("H10 SetChunkSize of no bytes", chunked(2, 1, 0, 0, nil)),
		endured("H12 SetChunkSize for ever", control(1, 4096), times(20_000, control(1, 4096)), control(1, 128)),
		endured("H12 SetChunkSize up and down", times(5_000, flip), control(1, 128)),
		endured("H12 SetChunkSize on a stream", chunked(9, 1, 77, 5, []byte{0, 0, 0, 128})),
	}
}

// control1 is a control message in chunks of one byte.
func control1(typ byte, v uint32) []byte {
	return rtmp.AppendMessage(nil, 1, 2, typ, 0, 0, binary.BigEndian.AppendUint32(nil, v))
}

// H13 to H19: sizes and chunk streams. H20 and H21: their times.
func chunkStreams() []attack {
	sizes := func(what string, typ byte, limit int) []attack {
		fits := func(n int) []byte { return rtmp.AppendMessage(nil, 128, 7, typ, 0, 1, make([]byte, n)) }
		rows := []attack{
			rejected(fmt.Sprintf("H13 %s of limit+1", what), chunk(0, 7, header0(0, limit+1, typ, 1), make([]byte, 128))),
			rejected(fmt.Sprintf("H13 %s of 0xFFFFFF", what), chunk(0, 7, header0(0, 0xFFFFFF, typ, 1), make([]byte, 128))),
		}
		if typ != rtmp.TypeCommand { // this one would have to be one
			rows = append(rows, asPublisher(fmt.Sprintf("H13 %s of the limit", what), true, fits(limit)))
		}
		return rows
	}
	var partial, whole []byte
	for csid := uint32(3); csid < 70; csid++ {
		partial = append(partial, rtmp.AppendMessage(nil, 128, csid, rtmp.TypeAudio, 0, 1, make([]byte, 129))[:1+11+128+(int(csid)-3)/61]...)
	}
	for csid := uint32(2); csid < 1200; csid++ {
		whole = append(whole, chunked(csid*50, rtmp.TypeAudio, 0, 1, []byte{0})...)
	}
	var forms []byte
	for _, basic := range [][]byte{{4}, {0, 0}, {1, 0, 0}, {0, 255}, {1, 255, 0}, {1, 255, 255}, {63}} {
		forms = slices.Concat(forms, basic, header0(0, 1, rtmp.TypeAudio, 1), []byte{0xAF})
	}
	start := chunk(0, 7, header0(0, 300, rtmp.TypeVideo, 1), make([]byte, 128))
	mark := header0(0xFFFFFF, 1, rtmp.TypeAudio, 1)
	return slices.Concat(
		sizes("command", rtmp.TypeCommand, 64<<10), sizes("data", rtmp.TypeData, 256<<10),
		sizes("audio", rtmp.TypeAudio, 1<<20), sizes("video", rtmp.TypeVideo, 8<<20), sizes("unknown type", 99, 256<<10), sizes("control", 4, 64)[:2],
		[]attack{
			rejected("H14 partial messages", partial),
			rejected("H14 chunk streams without end", whole),
			endured("H15 chunk stream ids in all forms", forms),
			rejected("H16 first chunk of type 2", chunk(2, 9, []byte{0, 0, 0}, []byte{0})),
			rejected("H16 first chunk of type 3", chunk(3, 9, nil, []byte{0})),
			endured("H16 first chunk of type 1", chunk(1, 9, header0(0, 1, rtmp.TypeAudio, 0)[:7], []byte{0xAF})),
			rejected("H17 smaller message inside of one", start, chunk(0, 7, header0(0, 10, rtmp.TypeVideo, 1), make([]byte, 10))),
			rejected("H17 larger message inside of one", start, chunk(0, 7, header0(0, 5000, rtmp.TypeVideo, 1), make([]byte, 128))),
			rejected("H17 the same message inside of one", start, chunk(1, 7, header0(0, 300, rtmp.TypeVideo, 1)[:7], make([]byte, 128))),
			{"H18 unfinished messages of many streams", func(a *attacker) {
				a.connects()
				for csid := byte(10); csid < 20; csid++ { // in turn, so that they grow together
					a.send(chunk(0, csid, header0(0, 8<<20, rtmp.TypeVideo, 1), make([]byte, 128)))
				}
				a.send(control(1, 1<<20))
				for range 3 {
					for csid := byte(10); csid < 20; csid++ {
						a.send(chunk(3, csid, nil, make([]byte, 1<<20)))
					}
				}
				a.closed()
			}},
			endured("H19 abort", control(2, 7), start, control(2, 7), control(2, 0), control(2, 0xFFFFFFFF),
				chunk(0, 7, header0(0, 1, rtmp.TypeAudio, 1), []byte{0xAF}), control(2, 7)),
			rejected("H19 abort and go on", start, control(2, 7), chunk(3, 7, nil, make([]byte, 128)), times(300, []byte{0xFF})),
			endured("H20 extended timestamp that need not be", chunk(0, 8, mark, []byte{0, 0, 0, 5, 0xAF})),
			endured("H20 extended timestamp of 0xFFFFFF", chunk(0, 8, mark, []byte{0, 0xFF, 0xFF, 0xFF, 0xAF})),
			endured("H20 extended timestamp of all ones", chunk(0, 8, mark, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xAF})),
			endured("H21 deltas that overflow", chunk(0, 8, mark, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xAF}),
				times(50, chunk(2, 8, []byte{0xFF, 0xFF, 0xFF}, []byte{0xFF, 0xFF, 0xFF, 0xF0, 0xAF}))),
		})
}

// aggregate is tags of an aggregate message.
func aggregate(tags ...[]byte) []byte { return chunked(6, 22, 1000, 1, slices.Concat(tags...)) }

func tag(typ byte, size int, ts uint32, body []byte) []byte {
	h := []byte{typ, byte(size >> 16), byte(size >> 8), byte(size), byte(ts >> 16), byte(ts >> 8), byte(ts), byte(ts >> 24), 0, 0, 0}
	return slices.Concat(h, body, []byte{0, 0, 0, 0})
}

// H22: aggregates.
func aggregates() []attack {
	audio := []byte{0x2F, 1}
	nested := tag(8, 2, 0, audio)
	for range 1000 {
		nested = tag(22, len(nested), 0, nested)
	}
	return []attack{
		asPublisher("H22 aggregate", true, aggregate(tag(8, 2, 0, audio), tag(8, 2, 0, audio))),
		asPublisher("H22 aggregate with a tag too long", false, aggregate(tag(8, 3000, 0, audio))),
		asPublisher("H22 aggregate that is cut off", false, aggregate(tag(8, 2, 0, audio)[:7])),
		asPublisher("H22 aggregates nested", false, rtmp.AppendMessage(nil, 128, 6, 22, 0, 1, nested)),
		asPublisher("H22 aggregate with a command", false, aggregate(tag(20, 2, 0, audio))),
		asPublisher("H22 aggregate with negative times", true, aggregate(tag(8, 2, 0xFFFFFFF0, audio), tag(8, 2, 0x80000000, audio), tag(8, 2, 0, audio))),
		asPublisher("H22 empty aggregates", true, times(200, aggregate())),
		asPublisher("H22 aggregate of empty tags", true, times(5, aggregate(times(2000, tag(8, 0, 0, nil))))),
	}
}

// H23 to H26: AMF. A command that cannot be read ends the connection; script
// data is left out.
func values() []attack {
	raw := func(b []byte) []byte { return rtmp.AppendMessage(nil, 128, 3, rtmp.TypeCommand, 0, 0, b) }
	name := amf.Append(nil, "call", 7)
	both := func(what string, b []byte) []attack {
		data := rtmp.AppendMessage(nil, 128, 5, rtmp.TypeData, 0, 1, append(amf.Append(nil, "@setDataFrame", "onMetaData"), b...))
		return []attack{
			rejected(what, raw(append(slices.Clone(name), b...))),
			asPublisher(what+" in data", true, data, rtmp.AppendMessage(nil, 128, 5, 15, 0, 1, append([]byte{0}, b...))),
		}
	}
	deep := func(open []byte) []byte { return times((60<<10)/len(open), open) }
	var rows []attack
	for _, m := range []byte{0x04, 0x07, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 108, 0xFF} {
		rows = append(rows, both(fmt.Sprintf("H23 marker %#x", m), []byte{m, 0, 0, 0, 1, 'a', 'b'})...)
	}
	for what, b := range map[string][]byte{
		"H24 objects in objects":  deep([]byte{3, 0, 1, 'a'}),
		"H24 arrays in arrays":    deep([]byte{8, 0, 0, 0, 1, 0, 1, 'a'}),
		"H24 strict arrays":       deep([]byte{10, 0, 0, 0, 1}),
		"H25 nulls":               times(60<<10, []byte{5}),
		"H25 empty names":         append([]byte{3}, times(20<<10, []byte{0, 0, 5})...),
		"H25 ECMA count":          {8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1, 'a', 5},
		"H25 strict array count":  {10, 0xFF, 0xFF, 0xFF, 0xFF, 5},
		"H25 long string's count": {12, 0xFF, 0xFF, 0xFF, 0xFF, 'x'},
		"H25 string's count":      {2, 0xFF, 0xFF, 'x'},
		"H26 AMF3 values":         {0x11, 0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x09, 0x9F, 0xFF, 0xFF, 0xFF},
	} {
		rows = append(rows, both(what, b)...)
	}
	connectAMF3 := append([]byte{0}, amf.Append(nil, "connect", 1, amf.Object{
		{Name: "app", Value: "live"}, {Name: "tcUrl", Value: "rtmp://127.0.0.1/live"}, {Name: "objectEncoding", Value: 3.0}})...)
	return append(rows,
		rejected("H23 number for a name", raw(amf.Append(nil, 1, 2, 3))),
		rejected("H23 empty command", raw(nil)),
		rejected("H26 empty AMF3 command", chunked(3, 17, 0, 0, nil)),
		rejected("H26 AMF3 all through", chunked(3, 17, 0, 0, []byte{0x11, 0x06, 0x0B, 'h', 'e', 'l', 'l', 'o'})),
		rejected("H26 shared object", chunked(3, 19, 0, 0, []byte("x")), connect("live")), // two connects
		attack{"H26 connect announces AMF3", func(a *attacker) {
			a.send(hello(), chunked(3, 17, 0, 0, connectAMF3))
			a.hears("_result1")
			a.alive()
		}},
	)
}

// H27: commands in an order that makes no sense.
func disorder() []attack {
	publish := command(1, "publish", 3, nil, "hostile", "live")
	play := command(1, "play", 3, nil, "canary")
	create := command(0, "createStream", 2, nil)
	flood := func(name string, n int) []byte {
		return times(n, command(0, name, 0, nil))
	}
	return []attack{
		unwelcome("H27 publish before connect", hello(), publish),
		unwelcome("H27 createStream before connect", hello(), create),
		rejected("H27 connect twice", connect("live")),
		rejected("H27 a flood of createStream", flood("createStream", 1000)),
		rejected("H27 a flood of unknown commands", flood("fly", 1000)),
		rejected("H27 a flood of _result", times(1000, command(0, "_result", 1, nil))),
		endured("H27 media before publish", chunked(4, 8, 0, 1, []byte{0xAF, 1, 2}), chunked(6, 9, 0, 1, []byte{0x17, 1, 0, 0, 0, 9})),
		endured("H27 ends of what never began", command(0, "deleteStream", 0, nil, 1), command(1, "closeStream", 0, nil),
			command(0, "FCUnpublish", 0, nil, "x"), command(0, "deleteStream", 0, nil, math.NaN()), command(0, "deleteStream", 0, nil, -1e300), command(0, "deleteStream", 0, nil, 1e300)),
		rejected("H27 publish nothing", create, command(1, "publish", 3, nil)),
		rejected("H27 publish a number", create, command(1, "publish", 3, nil, 7)),
		rejected("H27 play nothing", create, command(1, "play", 3, nil)),
		rejected("H27 play on a stream that was never created", command(0xFFFFFF, "play", 3, nil, "canary")),
		rejected("H27 publish on a stream that was never created", command(0xFFFFFF, "publish", 3, nil, "hostile")),
		asPublisher("H27 publish twice", true, publish, command(1, "publish", 4, nil, "other", "live")),
		asPublisher("H27 play what one publishes", true, command(1, "play", 4, nil, "hostile")),
		{"H27 publish while playing", func(a *attacker) {
			a.plays()
			a.send(publish, play)
			a.hears("NetStream.Publish.Denied")
			a.hears("NetStream.Play.Failed")
			a.alive()
		}},
		{"H27 media while playing", func(a *attacker) {
			a.plays()
			a.send(times(1000, chunked(4, 8, 0, 1, []byte{0xAF, 1, 2, 3})))
			a.alive()
		}},
		{"H27 publish, leave, publish", func(a *attacker) {
			a.publishes("live", "hostile")
			a.send(command(0, "deleteStream", 4, nil, 1), create, command(1, "publish", 5, nil, "hostile2", "live"))
			a.hears("_result5")
			a.alive()
		}},
		{"H27 a player that changes his mind", func(a *attacker) {
			a.plays()
			for range 10 {
				a.send(command(1, "pause", 0, nil, true, 0), command(1, "receiveVideo", 0, nil, false), command(1, "receiveAudio", 0, nil, false),
					command(1, "seek", 0, nil, 1e300), command(1, "receiveAudio", 0, nil, true), command(1, "pause", 0, nil, false, 0), command(1, "receiveVideo", 0, nil, true))
			}
			a.hears("NetStream.Unpause.Notify")
			a.alive()
		}},
	}
}

// H28, H29: what is about the connection itself.
func controls() []attack {
	pings := times(10_000, chunked(2, 4, 0, 0, []byte{0, 6, 1, 2, 3, 4}))
	events := slices.Concat(
		times(5000, chunked(2, 4, 0, 0, []byte{0, 3, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF})),           // SetBufferLength
		times(5000, chunked(2, 6, 0, 0, []byte{0, 0, 0, 0, 2})), times(5000, control(3, 0xFFFFFFFF))) // SetPeerBandwidth, Acknowledgement
	var rows []attack
	for _, window := range []uint32{0, 1, 0xFFFFFFFF} {
		rows = append(rows, asPublisher(fmt.Sprintf("H28 window of %d", window), true,
			control(5, window), times(2000, chunked(4, 8, 0, 1, []byte{0xAF, 1, 2, 3}))))
	}
	return append(rows,
		rejected("H28 window of 3 bytes", chunked(2, 5, 0, 0, []byte{0, 0, 1})),
		endured("H29 pings", pings),
		asPublisher("H29 pings of a publisher", true, pings, events),
		attack{"H29 pings of a player", func(a *attacker) { a.plays(); a.send(pings, events); a.alive() }},
		rejected("H29 short event", chunked(2, 4, 0, 0, []byte{0})),
		endured("H29 unknown events", chunked(2, 4, 0, 0, []byte{0xFF, 0xFF}), chunked(2, 4, 0, 0, []byte{0, 32, 0, 0, 0, 1})),
		endured("H29 messages of no known type", chunked(2, 0, 0, 0, []byte("x")), chunked(2, 7, 0, 0, []byte("x")), chunked(9, 255, 0, 9, nil)),
	)
}

// Hostile RTMP clients: each gets what the row says, and nobody else notices.
func TestHostileRTMP(t *testing.T) {
	w := newWorld(t, nil)
	for _, rows := range [][]attack{handshakes(), chunkSizes(), chunkStreams(), aggregates(), values(), disorder(), controls()} {
		w.attacks(t, rows)
	}
}

// H23: every prefix of a connect.
func TestHostilePrefixes(t *testing.T) {
	w := newWorld(t, nil)
	w.sub(t, "H23 prefixes of connect", func() {
		whole := amf.Append(nil, "connect", 1, amf.Object{{Name: "app", Value: "live"}, {Name: "tcUrl", Value: "rtmp://h/live"}, {Name: "x", Value: []amf.Value{1, true, nil}}})
		var all []*attacker
		for n := range whole {
			a := w.attacker(w.t)
			a.send(hello(), chunked(3, rtmp.TypeCommand, 0, 0, whole[:n]))
			all = append(all, a)
		}
		for n, a := range all {
			// Cut between two values it is a connect that says little.
			if ends := n == 10 || n == 19; !ends {
				a.closed()
			}
			a.leave()
		}
	})
}
