package rtmp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// The handshake (5.2): C0 and S0 are a version byte; C1 and S1 are 1536 bytes of
// time (32 bits), version (32), random; C2 and S2 echo the other end's.
//
// The specification leaves out that Flash Player 9 and later, FFmpeg and others put a
// digest among the random bytes, if the version is not 0, and want one back
// before they play H.264. It is an HMAC-SHA256 of the other 1504 bytes, and its
// place follows from 4 of them in one of two ways; C2 and S2 end in a digest
// keyed with the other end's. Whoever's digest cannot be found is answered
// in the simple way.
const (
	rtmpVersion   = 3
	handshakeSize = 1536
	digestSize    = sha256.Size
)

const genuine = "\xF0\xEE\xC2\x4A\x80\x68\xBE\xE8\x2E\x00\xD0\xD1\x02\x9E\x7E\x57" +
	"\x6E\xEC\x5D\x2D\x29\x80\x6F\xAB\x93\xB8\xE6\x36\xCF\xEB\x31\xAE"

// Keys of the digests: the texts alone key C1 and S1, with their tail C2 and S2.
const (
	playerText = "Genuine Adobe Flash Player 001"
	serverText = "Genuine Adobe Flash Media Server 001"
	playerKey  = playerText + genuine
	serverKey  = serverText + genuine
)

// Versions that we claim in a C1 or S1 with a digest.
var (
	playerVersion = [4]byte{9, 0, 124, 2}
	serverVersion = [4]byte{4, 5, 0, 1}
)

// acceptHandshake does the server's part. The error is io.EOF if the client sends
// nothing.
func acceptHandshake(in *input, w io.Writer) error {
	if err := in.fill(1); err != nil {
		return err
	}
	if b, _ := in.take(1); b[0] != rtmpVersion {
		return fmt.Errorf("version %d", b[0])
	}
	c1 := make([]byte, handshakeSize)
	if err := in.readFull(c1); err != nil {
		return err
	}

	out := make([]byte, 1+2*handshakeSize)
	out[0] = rtmpVersion
	s1, s2 := out[1:1+handshakeSize], out[1+handshakeSize:]
	if digest, place := findDigest(c1, playerText); digest != nil {
		fillRandom(s1[4:])
		copy(s1[4:], serverVersion[:])
		signDigest(s1, place, serverText)
		fillRandom(s2)
		signAnswer(s2, digest, serverKey)
	} else {
		fillRandom(s1[8:])
		copy(s2, c1)
	}
	if _, err := w.Write(out); err != nil {
		return err
	}
	return in.readFull(c1) // C2 proves nothing, and some clients get it wrong
}

// dialHandshake does the client's part.
func dialHandshake(in *input, w io.Writer, digest bool) error {
	c := make([]byte, 1+handshakeSize)
	c[0] = rtmpVersion
	c1 := c[1:]
	fillRandom(c1[8:])
	if digest {
		copy(c1[4:], playerVersion[:])
		signDigest(c1, digestFirst, playerText)
	}
	if _, err := w.Write(c); err != nil {
		return err
	}
	b, err := in.take(1)
	if err != nil {
		return err
	}
	if b[0] != rtmpVersion {
		return fmt.Errorf("version %d", b[0])
	}
	s := make([]byte, handshakeSize)
	if err := in.readFull(s); err != nil {
		return err
	}
	c2 := s
	if digest {
		if d, _ := findDigest(s, serverText); d != nil {
			c2 = make([]byte, handshakeSize)
			fillRandom(c2)
			signAnswer(c2, d, playerKey)
		}
	}
	if _, err := w.Write(c2); err != nil {
		return err
	}
	return in.readFull(s)
}

// digestPlace is one of the two ways to place a digest in C1 or S1: the offset of
// the 4 bytes whose sum tells how far behind them it is.
type digestPlace int

const (
	digestFirst  digestPlace = 8           // "schema 1": the digest's half comes before the key's
	digestSecond digestPlace = 8 + 4 + 760 // "schema 0"
)

func (p digestPlace) offset(b []byte) int {
	sum := int(b[p]) + int(b[p+1]) + int(b[p+2]) + int(b[p+3])
	return int(p) + 4 + sum%728
}

// findDigest returns the digest in a C1 or S1, nil if there is none, and its place.
func findDigest(b []byte, key string) ([]byte, digestPlace) {
	if binary.BigEndian.Uint32(b[4:]) == 0 {
		return nil, 0
	}
	for _, p := range [...]digestPlace{digestFirst, digestSecond} {
		at := p.offset(b)
		if d := b[at : at+digestSize]; hmac.Equal(d, digest(key, b[:at], b[at+digestSize:])) {
			return d, p
		}
	}
	return nil, 0
}

// signDigest puts a digest into a C1 or S1.
func signDigest(b []byte, p digestPlace, key string) {
	at := p.offset(b)
	copy(b[at:], digest(key, b[:at], b[at+digestSize:]))
}

// signAnswer puts a digest at the end of a C2 or S2, which answers a C1 or S1
// with the digest peer.
func signAnswer(b, peer []byte, key string) {
	at := len(b) - digestSize
	copy(b[at:], digest(string(digest(key, peer)), b[:at]))
}

func digest(key string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, []byte(key))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// fillRandom fills b with bytes that need not be secret.
func fillRandom(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rand.Uint64())
	}
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
}
