package access

import (
	"crypto/subtle"
	"encoding/base64"
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
// of them or those that the guide knows. Each is tried. The signers are those
// of the space's access keys.
func (j *judgement) signature(s *policy.Signature, signers []*keyed) (int, *objection) {
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
	signed, ok := findSigned(signers[key], restore(sent), expire, j.request.Params, names)
	if !ok {
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
	if j.explain {
		j.note("signature", true, "right, by the access key "+id+", for expire and "+signed)
	}
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
	for _, want := range [][2]string{{"app", j.request.App}, {"stream", j.request.Stream}} {
		got, o := j.param(want[0])
		switch {
		case o != nil:
			return &objection{AuthFailed, "app and stream must be signed: " + o.why}
		case got != want[1]:
			return &objection{AuthFailed, "the signature is for another " + want[0]}
		}
	}
	return nil
}

// The parameters that the guide knows, and those of the strict mode.
var (
	known       = []string{"nonce", "public", "vdoid", "preset"}
	knownStrict = append([]string{"app", "stream"}, known...)
)

// findSigned returns the resource of which sent is the signature, and false if
// there is none.
func findSigned(by *keyed, sent, expire string, params Params, names []string) (string, bool) {
	for _, names := range [][]string{nil, names} {
		for _, decoded := range []bool{false, true} {
			text, ok := resource(params, names, decoded)
			if !ok {
				continue
			}
			right := equal(sent, signature(by, expire, "\n"+text))
			if text == "" && !right { // some leave away its line feed, too
				right = equal(sent, signature(by, expire, ""))
			}
			if right {
				return text, true
			}
		}
	}
	return "", false
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// signature returns the signature of expire and what comes behind it.
func signature(by *keyed, expire, rest string) string {
	var sum [20]byte
	return base64.StdEncoding.EncodeToString(by.sum(sum[:0], "GET\n", expire, rest))
}

// resource joins the parameters of those names, or all, sorted by key; those of
// the signature itself are left out. It reports false when decoded parameters
// would look like others than they are.
func resource(params Params, names []string, decoded bool) (string, bool) {
	var buf [16]Param
	list := buf[:0]
	for _, p := range params {
		if p.Key == "signature" || p.Key == "expire" || isAccessKey(p.Key) || names != nil && !slices.Contains(names, p.Key) {
			continue
		}
		if !decoded {
			p.Key, p.Value, _ = strings.Cut(p.Raw, "=")
		} else if strings.ContainsAny(p.Key, "&=") || strings.Contains(p.Value, "&") {
			return "", false
		}
		list = append(list, p)
	}
	slices.SortStableFunc(list, func(a, b Param) int { return strings.Compare(a.Key, b.Key) })
	var text [512]byte
	b := text[:0]
	for i, p := range list {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(append(b, p.Key...), '='), p.Value...)
	}
	return string(b), true
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
