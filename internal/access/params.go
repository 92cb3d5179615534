package access

import (
	"net/url"
	"slices"
	"strings"
)

// Param is one parameter of a URL.
type Param struct {
	Key, Value string // decoded; as sent where the encoding is broken
	Raw        string // "key=value" as sent
}

// Params are the parameters of a request in the order sent. A key may occur
// more than once.
type Params []Param

// Limits of what a client may send as parameters.
const (
	maxQuery  = 8 << 10 // bytes in all
	maxParams = 128
)

// parseParams reads queries, the most important first: a later one adds only
// the keys that none before it has. It reports false for too much.
func parseParams(queries ...string) (Params, bool) {
	size := 0
	for _, q := range queries {
		if size += len(q); size > maxQuery {
			return nil, false
		}
	}
	var p Params
	for _, q := range queries {
		known := p
		for raw := range strings.SplitSeq(q, "&") {
			if raw == "" {
				continue
			}
			key, value, _ := strings.Cut(raw, "=")
			key = unescape(key)
			if _, ok := known.Lookup(key); ok {
				continue
			}
			if len(p) == maxParams {
				return nil, false
			}
			p = append(p, Param{key, unescape(value), raw})
		}
	}
	return p, true
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// Get returns the value of the first parameter of that key, or "".
func (p Params) Get(key string) string {
	v, _ := p.Lookup(key)
	return v
}

// Lookup is Get that tells an empty value from none.
func (p Params) Lookup(key string) (string, bool) {
	i := slices.IndexFunc(p, func(x Param) bool { return x.Key == key })
	if i < 0 {
		return "", false
	}
	return p[i].Value, true
}

// Raw returns all parameters as one query, each as it was sent.
func (p Params) Raw() string {
	var b strings.Builder
	for i, x := range p {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(x.Raw)
	}
	return b.String()
}
