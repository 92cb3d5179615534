package access

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"net/url"
	"slices"
	"strings"

	"weir/internal/policy"
)

// signature is the authentication by an access key of the space (contract A.3):
//
//	signature = base64(HMAC-SHA1(secret, "GET\n" + expire + "\n" + resource))
//
// where resource is the other parameters. What the signer has hashed cannot be
// known for certain: the parameters as they stand in the URL or decoded, all
// of them or those that the guide knows. Each is tried.
func (j *judgement) signature(s *policy.Signature) (int, *objection) {
	sent, o := j.param("signature")
	if o != nil {
		return 0, o
	}
	id, o := j.accessKey()
	if o != nil {
		return 0, o
	}
	expire, o := j.param("expire")
	if o != nil {
		return 0, o
	}
	end, ok := decimal(expire)
	if !ok {
		return 0, &objection{AuthFailed, "expire is not a time of ten digits"}
	}
	if o := j.expiry(end, s.MaxValidity); o != nil {
		return 0, o
	}
	key := slices.IndexFunc(j.space.AccessKeys, func(k policy.AccessKey) bool { return k.ID == id })
	switch {
	case key < 0:
		return 0, &objection{AuthFailed, "the space has no access key of that id"}
	case j.space.AccessKeys[key].Disabled:
		return 0, &objection{AuthFailed, "the access key is disabled"}
	}
	names := known
	if s.Strict {
		names = knownStrict
	}
	mac := newSigner(j.space.AccessKeys[key].Secret.Reveal(), expire)
	sent = restore(sent)
	tries := resources(j.request.Params, names)
	right := slices.IndexFunc(tries, func(resource string) bool { return mac.made(sent, resource) })
	if right < 0 {
		return 0, &objection{AuthFailed, "signature is not that of expire and the other parameters by the access key"}
	}
	if s.Strict {
		if o := j.signedNames(); o != nil {
			return 0, o
		}
	}
	if s.NonceMemory {
		if o := j.nonce(id, end); o != nil {
			return 0, o
		}
	}
	j.note("signature", true, "right, by the access key %q, of expire and %q", id, tries[right])
	return key, nil
}

// accessKey returns the id of the access key; clients write the name of that
// parameter in several ways.
func (j *judgement) accessKey() (string, *objection) {
	name := "accesskey"
	for _, p := range j.request.Params {
		if isAccessKey(p.Key) {
			name = p.Key
			break
		}
	}
	return j.param(name)
}

func isAccessKey(key string) bool { return strings.EqualFold(key, "accesskey") }

// signedNames demands that the signer has named the stream. What is in the
// parameters is also in each resource that is tried.
func (j *judgement) signedNames() *objection {
	for name, want := range map[string]string{"app": j.request.App, "stream": j.request.Stream} {
		got, o := j.param(name)
		switch {
		case o != nil:
			return &objection{AuthFailed, "app and stream must be signed: " + o.why}
		case got != want:
			return &objection{AuthFailed, "the signature is for another " + name}
		}
	}
	return nil
}

// known are the parameters that the guide knows, and those of the strict mode.
var known = []string{"nonce", "public", "vdoid", "preset"}
var knownStrict = append([]string{"app", "stream"}, known...)

// resources returns what may have been signed, the most likely first.
func resources(params Params, names []string) []string {
	var all, some Params
	for _, p := range params {
		if p.Key == "signature" || p.Key == "expire" || isAccessKey(p.Key) {
			continue
		}
		if all = append(all, p); slices.Contains(names, p.Key) {
			some = append(some, p)
		}
	}
	var list []string
	for _, params := range []Params{all, some} {
		for _, form := range []func(Param) (key, value string, ok bool){asSent, decoded} {
			if r, ok := resource(params, form); ok && !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
		if len(some) == len(all) {
			break
		}
	}
	return list
}

func asSent(p Param) (key, value string, ok bool) {
	key, value, _ = strings.Cut(p.Raw, "=")
	return key, value, true
}

// decoded refuses what would look like other parameters than it is.
func decoded(p Param) (key, value string, ok bool) {
	return p.Key, p.Value, !strings.ContainsAny(p.Key, "&=") && !strings.Contains(p.Value, "&")
}

// resource joins parameters, sorted by key.
func resource(params Params, form func(Param) (string, string, bool)) (string, bool) {
	list := make([][2]string, len(params))
	for i, p := range params {
		var ok bool
		if list[i][0], list[i][1], ok = form(p); !ok {
			return "", false
		}
	}
	slices.SortStableFunc(list, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p[0] + "=" + p[1])
	}
	return b.String(), true
}

// restore undoes what happens to a signature on its way: it is encoded more
// than once, and its plus signs become blanks.
func restore(s string) string {
	for range 2 {
		if u, err := url.PathUnescape(s); err == nil {
			s = u
		}
	}
	return strings.ReplaceAll(s, " ", "+")
}

// signer makes the signatures of one access key and expire.
type signer struct {
	mac    hash.Hash
	expire string
}

func newSigner(secret, expire string) signer {
	return signer{hmac.New(sha1.New, []byte(secret)), expire}
}

// sign appends the signature of a resource.
func (s signer) sign(dst []byte, resource string) []byte {
	return s.encode(dst, "\n"+resource)
}

// encode appends the signature with end behind expire.
func (s signer) encode(dst []byte, end string) []byte {
	var buf [512]byte
	s.mac.Reset()
	s.mac.Write(append(append(append(buf[:0], "GET\n"...), s.expire...), end...))
	return base64.StdEncoding.AppendEncode(dst, s.mac.Sum(buf[:0]))
}

// made reports whether sent is the signature of a resource. When that is empty,
// some leave away the line feed before it.
func (s signer) made(sent, resource string) bool {
	var buf [32]byte
	right := subtle.ConstantTimeCompare([]byte(sent), s.sign(buf[:0], resource))
	if resource == "" {
		right |= subtle.ConstantTimeCompare([]byte(sent), s.encode(buf[:0], ""))
	}
	return right == 1
}
