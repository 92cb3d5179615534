package access

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir/internal/policy"
)

// signedURL is the authentication by a URL made for another service.
func (j *judgement) signedURL(s *policy.SignedURL) (int, *objection) {
	stamp, sent, rest, o := j.urlParts(s.Type)
	if o != nil {
		return 0, o
	}
	parse := decimal
	if s.Type == policy.URLTypeC || s.Type == policy.URLTypeTx {
		parse = hexadecimal
	}
	end, ok := parse(stamp)
	if !ok {
		return 0, &objection{AuthFailed, "its time is not of the form of this type"}
	}
	if o := j.expiry(end+int64(s.ValidFor/time.Second), s.MaxValidity); o != nil {
		return 0, o
	}
	key, ok := pick(sent, func(dst []byte, key string) []byte { return j.request.urlHash(dst, s.Type, key, stamp, rest) }, s.Key, s.SpareKey)
	if !ok {
		return 0, &objection{AuthFailed, "its hash is not that of the URL with a key of the domain"}
	}
	if j.explain {
		j.note("signed_url", true, fmt.Sprintf("the hash of type %s is right, by the %s", s.Type, keyName(key)))
	}
	return key, nil
}

// urlParts returns the time and the hash that the client has sent, and of type
// A what stands between them.
func (j *judgement) urlParts(t policy.URLType) (stamp, sent, rest string, o *objection) {
	switch t {
	case policy.URLTypeA:
		v, o := j.param("auth_key")
		if o != nil {
			return "", "", "", o
		}
		// Four parts exactly: a fifth could be taken from the path.
		parts := strings.Split(v, "-")
		if len(parts) != 4 {
			return "", "", "", &objection{AuthFailed, "auth_key is not {time}-{rand}-{uid}-{hash}"}
		}
		return parts[0], parts[3], parts[1] + "-" + parts[2], nil
	case policy.URLTypeC:
		if j.request.PathHash == "" {
			return "", "", "", &objection{AuthMissing, "the path does not begin with /{hash}/{time}/"}
		}
		return j.request.PathTime, j.request.PathHash, "", nil
	case policy.URLTypeD:
		stamp, sent, o = j.pair("t", "sign")
	default:
		stamp, sent, o = j.pair("txTime", "txSecret")
	}
	return stamp, sent, "", o
}

func (j *judgement) pair(a, b string) (string, string, *objection) {
	x, o := j.param(a)
	if o != nil {
		return "", "", o
	}
	y, o := j.param(b)
	return x, y, o
}

// urlHash appends the hash of r by that type.
func (r *Request) urlHash(dst []byte, t policy.URLType, key, stamp, rest string) []byte {
	switch t {
	case policy.URLTypeA:
		return md5Hex(dst, r.path(), "-", stamp, "-", rest, "-", key)
	case policy.URLTypeTx:
		return md5Hex(dst, key, r.Stream, stamp)
	}
	return md5Hex(dst, key, r.path(), stamp)
}

// cutSignedPath takes the beginning {hash}/{time}/ off a path of type C
// (neither path has a leading slash). It is known by its form: no other URL of
// a stream has so many parts.
func cutSignedPath(path string) (hash, stamp, rest string, ok bool) {
	hash, rest, _ = strings.Cut(path, "/")
	stamp, rest, _ = strings.Cut(rest, "/")
	if len(hash) != 32 || len(stamp) != 8 || !isHex(hash) || !isHex(stamp) || !strings.Contains(rest, "/") {
		return "", "", path, false
	}
	return hash, stamp, rest, true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }

// stamp writes a time as t has it.
func stamp(t policy.URLType, at time.Time) string {
	switch t {
	case policy.URLTypeC:
		return strconv.FormatInt(at.Unix(), 16)
	case policy.URLTypeTx:
		return strings.ToUpper(strconv.FormatInt(at.Unix(), 16))
	}
	return strconv.FormatInt(at.Unix(), 10)
}
