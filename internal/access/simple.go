package access

import (
	"crypto/md5"
	"encoding/hex"

	"weir/internal/policy"
)

// simple is the authentication by t, until when, and k, the proof (contract
// A.1, A.2).
func (j *judgement) simple(s *policy.Simple) (int, *objection) {
	t, o := j.param("t")
	if o != nil {
		return 0, o
	}
	k, o := j.param("k")
	if o != nil {
		return 0, o
	}
	end, ok := decimal(t)
	if !ok {
		return 0, &objection{AuthFailed, "t is not a time of ten digits"}
	}
	if o := j.expiry(end, s.MaxValidity); o != nil {
		return 0, o
	}
	key, ok := pick(k, func(dst []byte, key string) []byte { return j.request.simple(dst, key, t) }, s.Key, s.SpareKey)
	if !ok {
		return 0, &objection{AuthFailed, "k is not that of the stream and t with a key of the domain"}
	}
	j.note("simple", true, "k is right, by the "+keyName(key))
	return key, nil
}

func keyName(i int) string { return [...]string{"key", "spare key"}[i] }

// simple appends the k of r for a key and time. A push signs the name of the
// stream without app, so k is good for that name under each app and domain
// with the key; play signs the path.
func (r *Request) simple(dst []byte, key, t string) []byte {
	if r.Op == Publish {
		return md5Hex(dst, key, r.Stream, t)[8:24]
	}
	return md5Hex(dst, key, t, r.path())[8:24]
}

// md5Hex appends the MD5 of the parts in a row, in lower hexadecimal.
func md5Hex(dst []byte, parts ...string) []byte {
	var buf [512]byte
	b := buf[:0]
	for _, p := range parts {
		b = append(b, p...)
	}
	sum := md5.Sum(b)
	return hex.AppendEncode(dst, sum[:])
}
