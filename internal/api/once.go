package api

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// An answer to a POST with an Idempotency-Key is kept for replayTime, if
	// it has replayBytes at most, and there are maxReplays at most; those
	// that are oldest go first, but for those that are being made.
	replayTime  = 10 * time.Minute
	replayBytes = 64 << 10
	maxReplays  = 1000
)

// replays are the answers to requests that may be repeated. The zero value is
// ready.
type replays struct {
	mu    sync.Mutex
	list  map[[32]byte]*replay
	order [][32]byte // oldest first; some may be gone
}

// replay is one answer; while it is being made, done is not set.
type replay struct {
	request [32]byte // what was asked
	at      time.Time
	done    bool
	status  int
	header  http.Header
	body    []byte
}

// begin returns the answer that was given under that key, or nil when it is
// the caller who has to make it. busy says that somebody else is making it.
func (r *replays) begin(key, request [32]byte, now time.Time) (old *replay, busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.list[key]; o != nil && now.Sub(o.at) < replayTime {
		return o, !o.done
	} else if o != nil { // it has a new turn
		r.order = slices.DeleteFunc(r.order, func(k [32]byte) bool { return k == key })
	}
	for n := len(r.order); n > 0 && (len(r.list) >= maxReplays || r.gone(r.order[0], now)); n-- {
		first := r.order[0]
		r.order = r.order[1:]
		if !r.gone(first, now) && !r.list[first].done { // being made: forgotten, it would be made twice
			r.order = append(r.order, first)
			continue
		}
		delete(r.list, first)
	}
	if r.list == nil {
		r.list = make(map[[32]byte]*replay)
	}
	r.list[key] = &replay{request: request, at: now}
	r.order = append(r.order, key)
	return nil, false
}

func (r *replays) gone(key [32]byte, now time.Time) bool {
	o := r.list[key]
	return o == nil || now.Sub(o.at) >= replayTime
}

// finish keeps the answer to key, or forgets the key when there is nothing to
// keep: then a repetition is a new request.
func (r *replays) finish(key [32]byte, status int, header http.Header, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.list[key]
	if o == nil {
		return
	}
	if status < 200 || status >= 300 || len(body) > replayBytes {
		delete(r.list, key)
		return
	}
	o.done, o.status, o.header, o.body = true, status, header, body
}

// once does a request that carries an Idempotency-Key, or repeats the answer
// that it had. Keys of different tokens are different. What failed is not
// remembered.
func (s *Server) once(key string, body []byte, a *answer, r *http.Request, next http.HandlerFunc) {
	if len(key) > 128 || strings.ContainsFunc(key, func(c rune) bool { return c < '!' || c > '~' }) {
		s.refuse(a, r, invalid(field{"header.Idempotency-Key", "must be 1 to 128 visible ASCII characters"}))
		return
	}
	id := sha256.Sum256([]byte(caller(r.Context()).ID + "\x00" + key))
	request := sha256.Sum256(append([]byte(r.Method+" "+r.URL.RequestURI()+"\n"), body...))
	old, busy := s.replays.begin(id, request, time.Now())
	switch {
	case old == nil:
	case old.request != request:
		s.refuse(a, r, problem(http.StatusUnprocessableEntity, kindKeyReused, "this Idempotency-Key was used for another request"))
		return
	case busy:
		s.refuse(a, r, problem(http.StatusConflict, kindConflict, "a request with this Idempotency-Key is being done"))
		return
	default:
		h := a.Header()
		for k, v := range old.header {
			h[k] = v
		}
		h.Set("Idempotency-Replayed", "true")
		a.WriteHeader(old.status)
		a.Write(old.body)
		return
	}
	a.copy = new(bytes.Buffer)
	defer func() {
		kept := http.Header{}
		for _, k := range []string{"Content-Type", "ETag", "Location"} {
			if v := a.Header().Values(k); len(v) > 0 {
				kept[http.CanonicalHeaderKey(k)] = v
			}
		}
		s.replays.finish(id, a.status, kept, a.copy.Bytes())
	}()
	next(a, r)
}
