package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"weir/internal/policy"
)

// The parameter with which a playlist sends players to its segments, and which
// is good for nothing else. It is, in URL-safe base64,
//
//	until when it is valid (4 bytes, unix seconds) | the credentials by which
//	the playlist was granted (1 byte and 4 of tag each) | MAC (16 bytes)
//
// and the MAC, by a key that only this process knows, covers the stream and
// the network of the client as well. The credentials are named so that the
// segments are gone with the right to the playlist.
const segmentParam = "wt"

type tokenKey [32]byte

const macSize = 16

// SegmentQuery returns the parameter that the URIs of segments need in a
// playlist for the holder of grant, and that is valid for life; it is empty
// where none is needed.
func (g *Gate) SegmentQuery(grant *Grant, life time.Duration) string {
	a := &grant.domain.Play
	if !a.Authenticates() || a.Segments == policy.SegmentsExempt {
		return ""
	}
	var buf [256]byte
	b := binary.BigEndian.AppendUint32(buf[:0], uint32(time.Now().Add(life).Unix()))
	for _, c := range grant.passed {
		b = append(append(b, byte(c.method)), c.tag[:]...)
	}
	b = g.token.seal(b, grant.space.Name, &grant.request)
	return segmentParam + "=" + base64.RawURLEncoding.EncodeToString(b)
}

// segment is the authentication for a segment of HLS.
func (j *judgement) segment(rules *rules) *objection {
	if rules.access.Segments == policy.SegmentsExempt {
		j.note("segment", true, "segments are exempt at this domain")
		return nil
	}
	sent, o := j.param(segmentParam)
	if o != nil {
		return o
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(sent)
	if err != nil || len(b) < 4+macSize {
		return &objection{AuthFailed, "the segment token is not one"}
	}
	body := b[:len(b)-macSize]
	if !hmac.Equal(b, j.gate.token.seal(append([]byte(nil), body...), j.space.Name, j.request)) {
		return &objection{AuthFailed, "the segment token is not for this stream and client, or of another time of the server"}
	}
	if o := j.expiry(int64(binary.BigEndian.Uint32(body)), 0); o != nil {
		return o
	}
	if !rules.cover(body[4:]) {
		return &objection{AuthFailed, "the right to the playlist was withdrawn"}
	}
	j.note("segment", true, "the segment token is right")
	return nil
}

// seal appends the MAC of b for a stream and the client of r.
func (k *tokenKey) seal(b []byte, space string, r *Request) []byte {
	h := hmac.New(sha256.New, k[:])
	var buf [512]byte
	m := append(buf[:0], "segment"...)
	for _, s := range []string{space, r.App, r.Stream} {
		m = append(append(m, 0), s...)
	}
	m = append(append(m, 0), b...)
	m = append(m, neighbours(r.Addr.Addr())...)
	h.Write(m)
	return append(b, h.Sum(buf[:0])[:macSize]...)
}

// neighbours is the network in which a client may change its address.
func neighbours(a netip.Addr) []byte {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return nil
	}
	return p.Addr().AsSlice()
}

// cover reports whether the credentials in a token, as they are written there,
// still are enough.
func (r *rules) cover(b []byte) bool {
	var have [methods]bool
	for ; len(b) >= 5; b = b[5:] {
		m, t := method(b[0]), tag(b[1:5])
		have[m] = t != tag{} && slices.Contains(r.tags[m], t)
	}
	all, any := true, false
	for m := range methods {
		if r.has(m) {
			all = all && have[m]
			any = any || have[m]
		}
	}
	return all || any && r.access.Require == policy.RequireAny
}
