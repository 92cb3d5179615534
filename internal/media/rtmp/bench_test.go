package rtmp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"

	"weir/internal/media/av"
	"weir/internal/media/flv"
)

// loop is a connection on which the same bytes come again and again.
type loop struct {
	net.Conn
	data []byte
	r    bytes.Reader
}

func (l *loop) Read(p []byte) (int, error) {
	if l.r.Len() == 0 {
		l.r.Reset(l.data)
	}
	return l.r.Read(p)
}

// benchBodies are tag bodies of about a second of 1 Mbit/s: 25 of video, the
// first with a key frame, and 47 of audio.
func benchBodies() (bodies [][]byte, types []byte) {
	nalu := func(typ byte, n int) []byte {
		b := make([]byte, 4+n)
		b[2], b[3], b[4] = byte(n>>8), byte(n), typ
		return b
	}
	for i := range 72 {
		switch {
		case i == 0:
			bodies, types = append(bodies, flv.AppendVideo(nil, av.H264, true, false, 0, nalu(5, 30000))), append(types, TypeVideo)
		case i%3 == 0:
			bodies, types = append(bodies, flv.AppendVideo(nil, av.H264, false, false, 40, nalu(1, 3500))), append(types, TypeVideo)
		default:
			bodies, types = append(bodies, flv.AppendAudio(nil, av.AAC, false, make([]byte, 170))), append(types, TypeAudio)
		}
	}
	return bodies, types
}

func BenchmarkReadPacket(b *testing.B) {
	for _, size := range []int{128, 4096, 60000} {
		b.Run(fmt.Sprint("chunk", size), func(b *testing.B) {
			var data []byte
			bodies, types := benchBodies()
			for i, body := range bodies {
				data = AppendMessage(data, size, ChunkVideo, types[i], uint32(i*14), 1, body)
			}
			c := newConn(&loop{data: data}, Config{})
			c.in.grow(bufferMedia)
			c.chunks.size = size
			b.SetBytes(int64(len(data) / len(bodies)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.ReadPacket(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadSmallChunks reads messages of 8 MiB in chunks of 1 byte, as H08
// does, and for comparison in large ones.
func BenchmarkReadSmallChunks(b *testing.B) {
	for _, size := range []int{1, 4096} {
		b.Run(fmt.Sprint("chunk", size), func(b *testing.B) {
			data := AppendMessage(nil, size, ChunkVideo, TypeVideo, 0, 1, make([]byte, 8<<20))
			c := newConn(&loop{data: data}, Config{})
			c.in.grow(bufferMedia)
			c.chunks.size = size
			b.SetBytes(8 << 20)
			for b.Loop() {
				if _, err := c.next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	for _, size := range []int{4096, 60000} {
		b.Run(fmt.Sprint("chunk", size), func(b *testing.B) {
			body := make([]byte, 5000)
			var buf []byte
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendMessage(buf[:0], size, ChunkVideo, TypeVideo, 40, 1, body)
			}
		})
	}
}

// BenchmarkReadSocket is a publisher on a loopback socket: what a packet
// costs with the system calls of both ends.
func BenchmarkReadSocket(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	bodies, types := benchBodies()
	go func() { // ends when the benchmark closes the connection
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return
		}
		defer nc.Close()
		var buf []byte
		for i := 0; ; i++ {
			n := i % len(bodies)
			buf = AppendMessage(buf[:0], 60000, ChunkVideo, types[n], uint32(i*14), 1, bodies[n])
			if _, err := nc.Write(buf); err != nil {
				return
			}
		}
	}()
	nc, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	c := newConn(nc, Config{})
	c.in.grow(bufferMedia)
	c.chunks.size = 60000
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.ReadPacket(); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}
