package access

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"weir/internal/policy"
)

// The parameter with which a playlist sends players to its segments, and a master
// playlist to its variants, and which is good for nothing else. It is, in URL-safe base64,
//
//	until when it is valid (4 bytes, unix seconds) | the credentials by which
//	the playlist was granted (1 byte and 4 of tag each) | MAC (16 bytes)
//
// and the MAC, by a key that only the nodes know, covers the stream and the
// network of the client as well. The credentials are named so that the
// segments are gone with the right to the playlist.
const segmentParam = "wt"

const macSize = 16

// SegmentQuery returns the parameter that the URIs of segments need in a
// playlist for the holder of grant, and that is valid for life; it is empty
// where none is needed.
func (g *Gate) SegmentQuery(grant *Grant, life time.Duration) string {
	a := &grant.domain.Play
	if !a.Authenticates() || a.Segments == policy.SegmentsExempt {
		return ""
	}
	return g.pass(grant, sealSegment, grant.request.Stream, life)
}

// VariantQuery is SegmentQuery for the playlist of a stream that is a variant
// of the grant's in its master playlist.
func (g *Gate) VariantQuery(grant *Grant, variant string, life time.Duration) string {
	if !grant.domain.Play.Authenticates() {
		return ""
	}
	return g.pass(grant, sealVariant, variant, life)
}

// What a seal is for.
const (
	sealSegment = "segment\x00"
	sealVariant = "variant\x00"
)

// pass makes a parameter for something of a stream.
func (g *Gate) pass(grant *Grant, use, stream string, life time.Duration) string {
	var buf [256]byte
	b := binary.BigEndian.AppendUint32(buf[:0], uint32(time.Now().Add(life).Unix()))
	for _, c := range grant.passed {
		b = append(append(b, byte(c.method)), c.tag[:]...)
	}
	r := grant.request
	r.Stream = stream
	b = g.keys.Load().now.seal(b, use, grant.space.Name, &r)
	return segmentParam + "=" + base64.RawURLEncoding.EncodeToString(b)
}

// segment is the authentication for a segment of HLS.
func (j *judgement) segment(rules *rules) *objection {
	if rules.access.Segments == policy.SegmentsExempt {
		j.note("segment", true, "segments are exempt at this domain")
		return nil
	}
	return j.passing(rules, sealSegment)
}

// variant is the authentication for a playlist that a master playlist leads to.
func (j *judgement) variant(rules *rules) *objection { return j.passing(rules, sealVariant) }

// passing judges a parameter that pass has made.
func (j *judgement) passing(rules *rules, use string) *objection {
	sent, o := j.param(segmentParam)
	if o != nil {
		return o
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(sent)
	if err != nil || len(b) < 4+macSize {
		return &objection{AuthFailed, "the segment token is not one"}
	}
	body := b[:len(b)-macSize]
	right := func(k *keyed) bool {
		return k != nil && hmac.Equal(b, k.seal(slices.Clip(body), use, j.space.Name, &j.request))
	}
	if keys := j.gate.keys.Load(); !right(keys.now) && !right(keys.before) {
		return &objection{AuthFailed, "the segment token is not for this stream and client, or of another server"}
	}
	if o := j.expiry(int64(binary.BigEndian.Uint32(body)), 0); o != nil {
		return o
	}
	if !rules.cover(body[4:]) {
		return &objection{AuthFailed, "the right to the playlist was withdrawn"}
	}
	for c := body[4:]; len(c) >= 5; c = c[5:] {
		j.passed = append(j.passed, credential{method(c[0]), tag(c[1:5])})
	}
	j.note("segment", true, "the segment token is right")
	return nil
}

// seal appends the MAC of b for a stream and the client of r.
func (k *keyed) seal(b []byte, use, space string, r *Request) []byte {
	mac := k.sum(nil, use, space, "\x00", r.App, "\x00", r.Stream, "\x00", string(b), string(neighbours(r.Addr.Addr())))
	return append(b, mac[:macSize]...)
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
		if m, t := method(b[0]), tag(b[1:5]); m < methods && t != (tag{}) && (slices.Contains(r.tags[m], t) || slices.Contains(r.before[m], t)) {
			have[m] = true
		}
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
