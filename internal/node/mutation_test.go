package node

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// conversation is all that a publisher says, with a little of everything in it.
func conversation(name string) []byte {
	b := slices.Concat(connect("burst"), command(0, "releaseStream", 2, nil, name), command(0, "FCPublish", 3, nil, name), command(0, "createStream", 4, nil),
		command(1, "publish", 5, nil, name, "live"), control(1, 4096), control(5, 2500000))
	add := func(typ byte, csid uint32, ts uint32, body []byte) {
		b = append(b, rtmp.AppendMessage(nil, 4096, csid, typ, ts, 1, body)...)
	}
	add(rtmp.TypeData, 5, 0, amf.Append(nil, "@setDataFrame", "onMetaData", amf.ECMAArray{{Name: "width", Value: 640.0}, {Name: "encoder", Value: "x"}}))
	add(rtmp.TypeVideo, 6, 0, flv.AppendVideo(nil, av.H264, true, true, 0, avcConfig))
	add(rtmp.TypeAudio, 4, 0, flv.AppendAudio(nil, av.AAC, true, aacConfig))
	for i := range uint32(12) {
		nal := append([]byte{0x41, 0x9A}, times(20, []byte{byte(i + 1), 7})...)
		if i%4 == 0 {
			nal[0] = 0x65
		}
		add(rtmp.TypeVideo, 6, 0xFFFF00+40*i, flv.AppendVideo(nil, av.H264, i%4 == 0, false, 40, unit(nal)))
		add(rtmp.TypeAudio, 4, 0xFFFF00+40*i, flv.AppendAudio(nil, av.AAC, false, []byte{0x21, byte(i), 3, 4}))
	}
	add(22, 6, 1000, slices.Concat(tag(8, 4, 0, []byte{0xAF, 1, 2, 3}), tag(9, 10, 20, flv.AppendVideo(nil, av.H264, false, false, 0, []byte{0, 0, 0, 1, 0x41}))))
	for _, codec := range []av.Codec{av.HEVC, av.AV1, av.VP9} {
		add(rtmp.TypeVideo, 6, 2000, flv.AppendVideo(nil, codec, true, false, 0, unit([]byte{0x26, 1, 2, 3})))
	}
	add(rtmp.TypeAudio, 4, 2000, flv.AppendAudio(nil, av.Opus, false, []byte{1, 2, 3}))
	return append(b, command(0, "FCUnpublish", 6, nil, name)...)
}

// mutate returns b with some of its bytes changed, left out, sent twice or cut off.
func mutate(b []byte, noise *rand.Rand) []byte {
	b = slices.Clone(b)
	for range 1 + noise.IntN(8) {
		i := noise.IntN(len(b))
		n := min(1+noise.IntN(16), len(b)-i)
		switch noise.IntN(6) {
		case 0, 1:
			b[i] ^= 1 << noise.IntN(8)
		case 2:
			b[i] = []byte{0, 1, 0x7F, 0x80, 0xFF}[noise.IntN(5)]
		case 3:
			b = slices.Delete(b, i, i+n)
		case 4:
			b = slices.Insert(b, i, b[i:i+n]...)
		case 5:
			b = append(b[:i:i], b[noise.IntN(len(b)):]...)
		}
		if len(b) < 16 {
			break
		}
	}
	return b
}

// The rule behind the rows: whatever bytes come, they harm nobody else. What
// clients say is damaged at random.
func TestMutations(t *testing.T) {
	const rounds, atOnce = 40, 20
	w := newWorld(t, nil)
	noise := rand.New(rand.NewPCG(9, 10))
	requests := []string{
		"GET /live/canary.flv?onlyAudio=1 HTTP/1.1\r\nHost: a.example:80\r\nUser-Agent: x\r\nRange: bytes=0-\r\nConnection: close\r\n\r\n",
		"GET /live/canary/index.m3u8?vhost=a HTTP/1.1\r\nHost: a.example\r\nAccept-Encoding: gzip;q=0.5, *;q=0\r\nIf-None-Match: \"x\"\r\n\r\n",
		"GET /live/canary.flv HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" +
			"\x89\x84\x01\x02\x03\x04pong\x82\x81\x01\x02\x03\x04x\x88\x82\x00\x00\x00\x00\x03\xe8",
	}
	for round := range rounds {
		w.sub(t, fmt.Sprint(round), func() {
			var all sync.WaitGroup
			for i := range atOnce {
				listener, said := "rtmp", slices.Concat(hello(), mutate(conversation(fmt.Sprintf("m%d-%d", round, i)), noise))
				if i%4 == 3 {
					listener, said = "http", mutate([]byte(requests[i/4%len(requests)]), noise)
				}
				nc := w.dial(listener)
				all.Go(func() {
					defer nc.Close()
					nc.SetDeadline(time.Now().Add(patience))
					go func() { // ends when the connection does
						nc.Write(said)
						nc.(interface{ CloseWrite() error }).CloseWrite()
					}()
					if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
						w.t.Errorf("the connection is still open after %q", said[:min(len(said), 100)])
					}
				})
			}
			all.Wait()
		})
	}
	w.until("all streams are over", func() bool { return w.hub.Stats().Streams == 1 })
}
