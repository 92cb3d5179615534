// Package sink is a receiver of callbacks for development: it prints what comes,
// checks it as a careful receiver would, and fails as it is told to, to see what
// Weir does then.
package sink

import (
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/callback"
	"weir/internal/policy"
)

// maxBody is the longest body that is read.
const maxBody = 1 << 20

// tolerance is how far the time of a call may be from ours.
const tolerance = 5 * time.Minute

// Sink is an http.Handler. Its fields are set before it is used.
type Sink struct {
	Secret policy.Secret // checks signatures; none: they are not looked at
	Out    io.Writer     // gets a line for each call; nil: nobody
	Bodies bool          // with the bodies

	// How it misbehaves.
	Fail      float64       // this part of all calls, 0 to 1, at random
	FailFirst int           // the first so many attempts of each event
	Status    int           // of calls that fail; default 500
	Redirect  string        // where calls that fail are sent, with status 302
	Hang      bool          // calls that fail get no answer
	Drop      bool          // calls that fail have their connection closed
	Slow      time.Duration // before every answer

	mu      sync.Mutex
	seen    map[string]string // bodies of events that were taken, by id
	tried   map[string]int    // attempts, by id
	live    map[string]string // Sequence of the push that is on the air, by stream
	ended   map[string]bool   // Sequences that have ended
	account Account
	changed chan struct{} // closed and renewed with each call
}

// Account is what a Sink has seen.
type Account struct {
	Calls    int // all
	Events   int // taken, each once
	Again    int // taken before
	Refused  int // calls that were made to fail
	Problems []string
	Live     []string // streams that have begun and not ended
}

// note is what a body says of a push, whatever its form.
type note struct {
	kind     string // start, end, or another
	stream   string
	sequence string
}

// read reads a body.
func read(contentType string, body []byte) (n note, err error) {
	if strings.HasPrefix(contentType, "application/x-www-form-urlencoded") {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return n, err
		}
		n = note{form.Get("call"), form.Get("app") + "/" + form.Get("name"), form.Get("Sequence")}
		n.kind = map[string]string{"user_publish": "start", "user_publish_done": "end"}[n.kind]
		return n, nil
	}
	var v struct {
		UniqueName, App, Stream, NotifyType, Sequence string
		Type                                          string `json:"type"`
		Task                                          string `json:"taskid"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return n, err
	}
	n = note{v.NotifyType, v.App + "/" + v.Stream, v.Sequence}
	if v.UniqueName != "" {
		n.stream = v.UniqueName + "/" + n.stream
	}
	switch {
	case v.NotifyType == "PubStart":
		n.kind = "start"
	case v.NotifyType == "PubEnd":
		n.kind = "end"
	case v.Task != "":
		n.kind, n.stream = "task "+v.Type, v.Task
	}
	return n, nil
}

// ServeHTTP takes a call.
func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "callbacks are posted here", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	if s.Slow > 0 {
		select {
		case <-time.After(s.Slow):
		case <-r.Context().Done():
		}
	}
	n, problems, fails := s.take(r, body)
	verdict := "ok"
	switch {
	case fails && s.Hang:
		<-r.Context().Done()
		verdict = "hung"
	case fails && s.Redirect != "":
		w.Header().Set("Location", s.Redirect)
		w.WriteHeader(http.StatusFound)
		verdict = "redirected"
	case fails:
		status := s.Status
		if status == 0 {
			status = http.StatusInternalServerError
		}
		verdict = fmt.Sprintf("answered %d", status)
		if s.Drop {
			verdict = "closed"
		} else {
			w.WriteHeader(status)
		}
	case len(problems) > 0:
		verdict = "WRONG: " + strings.Join(problems, "; ")
	}
	s.print(r, n, verdict, body)
	if fails && s.Drop && !s.Hang && s.Redirect == "" {
		panic(http.ErrAbortHandler)
	}
}

// take judges a call, and says whether it is to fail.
func (s *Sink) take(r *http.Request, body []byte) (n note, problems []string, fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen, s.tried, s.live, s.ended = map[string]string{}, map[string]int{}, map[string]string{}, map[string]bool{}
	}
	defer s.tell()
	h := r.Header
	id, stamp := h.Get(callback.HeaderID), h.Get(callback.HeaderTimestamp)
	add := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		problems = append(problems, text)
		if len(s.account.Problems) < 100 {
			s.account.Problems = append(s.account.Problems, id+": "+text)
		}
	}
	s.account.Calls++
	s.tried[id]++
	n, err := read(h.Get("Content-Type"), body)
	if err != nil {
		add("the body cannot be read: %v", err)
	}
	if id == "" {
		add("no %s", callback.HeaderID)
	}
	if !s.Secret.IsZero() {
		if want := callback.Sign(s.Secret, stamp, id, body); !hmac.Equal([]byte(want), []byte(h.Get(callback.HeaderSignature))) {
			add("wrong signature")
		}
		if at, err := strconv.ParseInt(stamp, 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > tolerance {
			add("its time %q is not now", stamp)
		}
	}
	if s.tried[id] <= s.FailFirst || s.Fail > 0 && rand.Float64() < s.Fail {
		s.account.Refused++
		return n, problems, true
	}
	if before, ok := s.seen[id]; ok {
		s.account.Again++
		if before != string(body) {
			add("the body is another than before")
		}
		return n, problems, false
	}
	s.seen[id] = string(body)
	s.account.Events++
	switch live, on := s.live[n.stream]; n.kind {
	case "start":
		if s.ended[n.sequence] && n.sequence != "" {
			add("a start after its end")
		}
		if on {
			add("a start while the push before has not ended")
		}
		s.live[n.stream] = n.sequence
	case "end":
		if !on {
			add("an end without a start")
		} else if live != n.sequence {
			add("an end of %s while %s is on the air", n.sequence, live)
		}
		delete(s.live, n.stream)
		s.ended[n.sequence] = true
	}
	return n, problems, false
}

func (s *Sink) print(r *http.Request, n note, verdict string, body []byte) {
	if s.Out == nil {
		return
	}
	h := r.Header
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.Out, "%s %s %s sequence=%s id=%s attempt=%s: %s\n", time.Now().Format("15:04:05.000"),
		plain(h.Get(callback.HeaderType)), plain(n.stream), plain(n.sequence), plain(h.Get(callback.HeaderID)), plain(h.Get(callback.HeaderAttempt)), verdict)
	if s.Bodies {
		fmt.Fprintf(s.Out, "    %s\n", plain(string(body)))
	}
}

// plain makes one line of a text of somebody else.
func plain(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\ufffd'
		}
		return r
	}, s)
}

// tell wakes who waits for a change. s.mu is held.
func (s *Sink) tell() {
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// Account returns what was seen so far, and a channel that is closed when there
// is more.
func (s *Sink) Account() (Account, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	a := s.account
	a.Problems = slices.Clone(a.Problems)
	a.Live = slices.Sorted(maps.Keys(s.live))
	return a, s.changed
}
