package access

import (
	"crypto/hmac"
	"hash"
	"sync"
)

// keyed makes HMACs by one key, without garbage. It may be used from any
// goroutine.
type keyed struct{ macs sync.Pool }

type mac struct {
	hash.Hash
	in, out []byte
}

func newKeyed(h func() hash.Hash, key []byte) *keyed {
	k := new(keyed)
	k.macs.New = func() any { return &mac{Hash: hmac.New(h, key)} }
	return k
}

// sum appends the HMAC of the parts in a row.
func (k *keyed) sum(dst []byte, parts ...string) []byte {
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)
	m.in = m.in[:0]
	for _, p := range parts {
		m.in = append(m.in, p...)
	}
	m.Reset()
	m.Write(m.in)
	m.out = m.Sum(m.out[:0])
	return append(dst, m.out...)
}
