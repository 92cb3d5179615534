package access

import (
	"container/heap"
	"crypto/sha256"
	"net/netip"
	"sync"
)

// maxNonces is how many nonces a gate remembers. Beyond that it forgets the one
// whose signature expires first.
const maxNonces = 1 << 18

// nonces remembers who has used which nonce, until its signature has expired.
// The zero value is ready.
type nonces struct {
	mu     sync.Mutex
	seen   map[nonceID]*seenNonce
	expiry nonceHeap
}

type nonceID [16]byte // hash of space, access key and nonce

type seenNonce struct {
	id  nonceID
	by  nonceID // hash of who may use it again; zero: nobody
	end int64
}

// nonce lets each nonce of an access key pass once. The player who got a
// playlist with it may come back for the next one.
func (j *judgement) nonce(key string, end int64) *objection {
	nonce, o := j.param("nonce")
	if o != nil {
		return &objection{AuthFailed, "the domain wants a nonce: " + o.why}
	}
	if j.held != nil || j.explain {
		return nil
	}
	r := &j.request
	var by nonceID
	if r.Protocol == HLS {
		by = newNonceID(r.App, r.Stream, netip.Addr.String(r.Addr.Addr()))
	}
	if !j.gate.nonces.use(newNonceID(j.space.Name, key, nonce), by, end, j.since.Unix()) {
		return &objection{AuthFailed, "the nonce was used before"}
	}
	return nil
}

func newNonceID(parts ...string) nonceID {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return nonceID(h.Sum(nil)[:16])
}

// use remembers id until end and reports whether it may be used.
func (n *nonces) use(id, by nonceID, end, now int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.expiry) > 0 && n.expiry[0].end < now {
		delete(n.seen, heap.Pop(&n.expiry).(*seenNonce).id)
	}
	if s := n.seen[id]; s != nil {
		return by != nonceID{} && s.by == by
	}
	if len(n.expiry) == maxNonces {
		delete(n.seen, heap.Pop(&n.expiry).(*seenNonce).id)
	}
	if n.seen == nil {
		n.seen = make(map[nonceID]*seenNonce)
	}
	s := &seenNonce{id, by, end}
	n.seen[id] = s
	heap.Push(&n.expiry, s)
	return true
}

// nonceHeap has the nonce that expires first on top.
type nonceHeap []*seenNonce

func (h nonceHeap) Len() int           { return len(h) }
func (h nonceHeap) Less(i, j int) bool { return h[i].end < h[j].end }
func (h nonceHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *nonceHeap) Push(x any)        { *h = append(*h, x.(*seenNonce)) }
func (h *nonceHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
