package rtmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// answers runs acceptHandshake on what a client sends and returns S1 and S2.
func answers(t *testing.T, c0c1 []byte) (s1, s2 []byte) {
	t.Helper()
	var out bytes.Buffer
	in := &input{src: io.MultiReader(bytes.NewReader(c0c1), bytes.NewReader(make([]byte, handshakeSize)))}
	if err := acceptHandshake(in, &out); err != nil {
		t.Fatalf("acceptHandshake: %v", err)
	}
	if out.Len() != 1+2*handshakeSize || out.Bytes()[0] != 3 {
		t.Fatalf("answered with %d bytes, version %d", out.Len(), out.Bytes()[0])
	}
	b := out.Bytes()[1:]
	return b[:handshakeSize], b[handshakeSize:]
}

// c0c1 returns a client's first bytes; version 0 is without a digest.
func c0c1(version [4]byte, place digestPlace) []byte {
	b := make([]byte, 1+handshakeSize)
	b[0] = 3
	fillRandom(b[9:])
	copy(b[5:], version[:])
	if version != [4]byte{} {
		signDigest(b[1:], place, playerText)
	}
	return b
}

func TestHandshakeSimple(t *testing.T) {
	c := c0c1([4]byte{}, 0)
	s1, s2 := answers(t, c)
	if !bytes.Equal(s2, c[1:]) {
		t.Error("S2 does not echo C1")
	}
	if binary.BigEndian.Uint32(s1[4:]) != 0 {
		t.Error("S1 is not of version 0")
	}
}

// checkDigests checks S1 and S2 as Flash Player does, knowing where its own
// digest is.
func checkDigests(t *testing.T, c1, s1, s2 []byte, place digestPlace) {
	t.Helper()
	at := place.offset(s1)
	if want := digest(serverText, s1[:at], s1[at+32:]); !bytes.Equal(s1[at:at+32], want) {
		t.Error("S1 has no digest where C1 has one")
	}
	at = place.offset(c1)
	key := digest(serverKey, c1[at:at+32])
	if want := digest(string(key), s2[:1504]); !bytes.Equal(s2[1504:], want) {
		t.Error("S2 does not end in the digest that answers C1's")
	}
}

func TestHandshakeDigest(t *testing.T) {
	for _, place := range []digestPlace{digestFirst, digestSecond} {
		for range 20 { // the digest is elsewhere each time
			c := c0c1(playerVersion, place)
			s1, s2 := answers(t, c)
			checkDigests(t, c[1:], s1, s2, place)
		}
	}
}

// What FFmpeg sends is a witness that the digest is calculated as others do.
func TestHandshakeFFmpeg(t *testing.T) {
	c, err := os.ReadFile("testdata/ffmpeg.c0c1")
	if err != nil {
		t.Fatal(err)
	}
	s1, s2 := answers(t, c)
	checkDigests(t, c[1:], s1, s2, digestFirst)
}

// H05: who has no digest that can be found is answered in the simple way.
func TestHandshakeFallback(t *testing.T) {
	wrong := c0c1(playerVersion, digestFirst)
	wrong[1+digestFirst.offset(wrong[1:])] ^= 1
	zero := c0c1(playerVersion, digestFirst)
	copy(zero[5:], []byte{0, 0, 0, 0})
	for name, c := range map[string][]byte{
		"wrong digest": wrong,
		"version 0":    zero,
		"all FF":       append([]byte{3}, bytes.Repeat([]byte{0xFF}, handshakeSize)...),
		"all zero":     append([]byte{3}, make([]byte, handshakeSize)...),
		"server's key": func() []byte {
			c := c0c1(playerVersion, digestFirst)
			signDigest(c[1:], digestFirst, serverText)
			return c
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			if _, s2 := answers(t, c); !bytes.Equal(s2, c[1:]) {
				t.Error("S2 does not echo C1")
			}
		})
	}
}

// H02: whoever does not speak RTMP is told so by his first byte.
func TestHandshakeVersion(t *testing.T) {
	for _, version := range []byte{0, 1, 2, 4, 6, 'G', 0x16, 0x80, 0xFF} {
		var out bytes.Buffer
		in := &input{src: iotest.OneByteReader(io.MultiReader(bytes.NewReader([]byte{version}), neverReader{t}))}
		if err := acceptHandshake(in, &out); err == nil {
			t.Errorf("C0 = %d was accepted", version)
		}
		if out.Len() > 0 {
			t.Errorf("C0 = %d was answered with %d bytes", version, out.Len())
		}
		in = &input{src: iotest.OneByteReader(io.MultiReader(bytes.NewReader([]byte{version}), neverReader{t}))}
		if err := dialHandshake(in, io.Discard, false); err == nil {
			t.Errorf("S0 = %d was accepted", version)
		}
	}
}

// neverReader must not be read.
type neverReader struct{ t *testing.T }

func (r neverReader) Read([]byte) (int, error) {
	r.t.Error("read on behind a wrong version")
	return 0, io.EOF
}

// Both roles with each other, in both ways.
func TestHandshakeBothRoles(t *testing.T) {
	for _, digest := range []bool{false, true} {
		ours, theirs := socket(t)
		failed := make(chan error, 1)
		go func() { failed <- acceptHandshake(&input{src: ours}, ours) }()
		if err := dialHandshake(&input{src: theirs}, theirs, digest); err != nil {
			t.Errorf("dialHandshake, digest %v: %v", digest, err)
		}
		if err := <-failed; err != nil {
			t.Errorf("acceptHandshake, digest %v: %v", digest, err)
		}
	}
}

// A client that offers a digest to a server that knows none echoes S1; to one
// that does it answers with a digest.
func TestDialHandshake(t *testing.T) {
	plain := c0c1([4]byte{}, 0)
	signed := c0c1(serverVersion, digestSecond)
	signDigest(signed[1:], digestSecond, serverText)
	for _, digests := range []bool{false, true} {
		for _, s := range [][]byte{plain, signed} {
			var out bytes.Buffer
			in := &input{src: io.MultiReader(bytes.NewReader(s), bytes.NewReader(make([]byte, handshakeSize)))}
			if err := dialHandshake(in, &out, digests); err != nil {
				t.Fatalf("dialHandshake: %v", err)
			}
			c := out.Bytes()
			if len(c) != 1+2*handshakeSize || c[0] != 3 {
				t.Fatalf("sent %d bytes, version %d", len(c), c[0])
			}
			if d, _ := findDigest(c[1:1+handshakeSize], playerText); (d != nil) != digests {
				t.Errorf("C1 has a digest: %v, want %v", d != nil, digests)
			}
			c2 := c[1+handshakeSize:]
			if !digests || &s[0] == &plain[0] {
				if !bytes.Equal(c2, s[1:]) {
					t.Error("C2 does not echo S1")
				}
				continue
			}
			at := digestSecond.offset(s[1:])
			key := digest(playerKey, s[1+at:1+at+32])
			if !bytes.Equal(c2[1504:], digest(string(key), c2[:1504])) {
				t.Error("C2 does not end in the digest that answers S1's")
			}
		}
	}
}

// H01 and slow ones: the time for the handshake is absolute.
func TestHandshakeTimeout(t *testing.T) {
	for name, behave := range map[string]func(nc net.Conn){
		"silent": func(nc net.Conn) { io.Copy(io.Discard, nc) },
		"a byte a second": func(nc net.Conn) {
			c := c0c1([4]byte{}, 0)
			for i := range c {
				if _, err := nc.Write(c[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
		"never reads":    func(nc net.Conn) { nc.Write(c0c1([4]byte{}, 0)) },
		"no C2":          func(nc net.Conn) { nc.Write(c0c1([4]byte{}, 0)); io.Copy(io.Discard, nc) },
		"handshake only": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p, result := start(t, Config{})
				var g sync.WaitGroup
				defer g.Wait()
				const want = 10 * time.Second // of Handshake or, as that takes none, of Setup
				if behave == nil {
					p.handshake()
				} else {
					g.Go(func() { behave(p.nc) })
				}
				a := <-result
				if !errors.Is(a.err, os.ErrDeadlineExceeded) {
					t.Errorf("Accept: %v, want a timeout", a.err)
				}
				if took := time.Since(begin); took != want {
					t.Errorf("Accept took %v, want %v", took, want)
				}
			})
		})
	}
}

// H04: handshake and connect in one packet, before the server has said
// anything.
func TestEverythingInOnePacket(t *testing.T) {
	for name, c := range map[string][]byte{"simple": c0c1([4]byte{}, 0), "digest": c0c1(playerVersion, digestFirst)} {
		t.Run(name, func(t *testing.T) {
			p, result := start(t, Config{})
			all := slices.Concat(c, bytes.Repeat([]byte{0xAA}, handshakeSize), connectMsg)
			go p.try(all)
			if _, err := io.ReadFull(p.nc, make([]byte, 1+2*handshakeSize)); err != nil {
				t.Fatal(err)
			}
			p.read()
			if a := <-result; a.err != nil || a.c.Connect().App != "live" {
				t.Fatalf("Accept: %v", a.err)
			}
			if v := p.command(); v[0] != "_result" {
				t.Errorf("answer to connect: %v", v)
			}
		})
	}
}

// Who leaves without a word is io.EOF, who leaves later is not.
func TestHandshakeLeft(t *testing.T) {
	for n, want := range map[int]error{0: io.EOF, 1: io.ErrUnexpectedEOF, 1000: io.ErrUnexpectedEOF} {
		p, result := start(t, Config{})
		p.write(c0c1([4]byte{}, 0)[:n])
		p.nc.Close()
		if a := <-result; !errors.Is(a.err, want) {
			t.Errorf("left after %d bytes: %v, want %v", n, a.err, want)
		}
	}
}

// FuzzHandshake changes and cuts a handshake. (Whole ones would be too long for
// the fuzzer to make them smaller.)
func FuzzHandshake(f *testing.F) {
	const whole = 1 + 2*handshakeSize
	f.Add(uint16(whole), uint16(0), []byte{3})
	f.Add(uint16(whole), uint16(0), []byte{6})
	f.Add(uint16(whole), uint16(5), []byte{9, 0, 124, 2, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Add(uint16(whole), uint16(773), []byte{0xFF, 0xFF, 0xFF, 0xFF})
	f.Add(uint16(handshakeSize), uint16(1), []byte{})
	f.Fuzz(func(t *testing.T, size, at uint16, change []byte) {
		b := bytes.Repeat([]byte{3}, whole)
		copy(b[int(at)%whole:], change)
		b = b[:int(size)%(whole+1)]
		if len(b) > handshakeSize {
			if d, p := findDigest(b[1:1+handshakeSize], playerText); d != nil && len(d) != digestSize || (d == nil) != (p == 0) {
				t.Errorf("findDigest = %x, %d", d, p)
			}
		}
		var out bytes.Buffer
		if acceptHandshake(&input{src: bytes.NewReader(b)}, &out) == nil && len(b) < whole {
			t.Errorf("%d bytes were a handshake", len(b))
		}
		if out.Len() != 0 && out.Len() != whole {
			t.Errorf("answered with %d bytes", out.Len())
		}
		for _, digest := range []bool{false, true} {
			_ = dialHandshake(&input{src: bytes.NewReader(b)}, io.Discard, digest)
		}
	})
}
