// Package quality watches over what publishers send, and says in facts when
// one does badly: an alert is raised, and later cleared, at the latest at the
// end of the push that it is about.
//
// A stream measures itself (stream.Quality). A [Monitor] looks at all streams
// once a second, in one goroutine, and holds what it sees against the limits of
// the app's policy (policy.Quality). An alert that was raised is cleared when
// things have been clearly better for some seconds, and not when they are
// about as bad as the limit: so one that hovers there does not flap.
package quality

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Names of alerts.
const (
	NoData         = "no_data"
	NoKeyFrame     = "no_key_frame"
	LowBitRate     = "low_bit_rate"
	Drift          = "drift"
	TimestampJumps = "timestamp_jumps"

	// Those that the transcoder raises.
	TranscodeSlow    = "transcode_slow"
	TranscodeFailing = "transcode_failing"
	TranscodeRefused = "transcode_refused"
)

// raisers are the alerts that others raise.
var raisers = [...]string{TranscodeSlow, TranscodeFailing, TranscodeRefused}

// Options are a Monitor's settings; a zero field does nothing.
type Options struct {
	Log  *slog.Logger
	Emit func(event.Event) // takes the facts; it must not wait

	// Callback says who is told of the alerts of a push. It is asked when the
	// push begins, with locks held, so it must neither wait nor call the hub.
	Callback func(*stream.Publication) *event.Callback
}

// Monitor watches over all publications that it is told of. Its methods may be
// called from any goroutine.
type Monitor struct {
	opt Options

	mu      sync.Mutex
	watched map[stream.Key]*watch
	raised  [len(rules)]int64 // ever
	others  map[string]int64  // ever, of those that others raise
}

// watch is what is known of a publication. Monitor.mu guards its states.
type watch struct {
	p        *stream.Publication
	callback *event.Callback
	states   [len(rules)]state
	others   []Alert // that others have raised

	// What players had been sent at the last looks, a ring that ends before next.
	sent [sentLooks]sent
	next int
}

// sentLooks is by how many looks Sent measures: HLS goes out in segments, some
// seconds at a time.
const sentLooks = 6

// sent is what players of a stream have been sent until then.
type sent struct {
	at    time.Time // zero: there was no such look yet
	bytes [len(stream.Protocols)]int64
}

// state is that of one rule.
type state struct {
	alert     Alert
	since     time.Time // zero: not raised
	bad, good uint8     // looks in a row that said so
}

// Alert is one that is raised.
type Alert struct {
	Name         string
	Text         string
	Value, Limit float64 // in the unit of the setting; seconds
	Since        time.Time
}

// NewMonitor returns a Monitor.
func NewMonitor(o Options) *Monitor {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Emit == nil {
		o.Emit = func(event.Event) {}
	}
	if o.Callback == nil {
		o.Callback = func(*stream.Publication) *event.Callback { return nil }
	}
	return &Monitor{opt: o, watched: make(map[stream.Key]*watch), others: make(map[string]int64)}
}

// Began makes the Monitor watch over p. It is what stream.Options.Began calls.
func (m *Monitor) Began(p *stream.Publication) {
	w := &watch{p: p, callback: m.opt.Callback(p)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watched[p.Stream().Key()] = w
}

// Ended clears the alerts of p. It is what stream.Options.Ended calls.
func (m *Monitor) Ended(p *stream.Publication) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.watched[p.Stream().Key()]
	if w == nil || w.p != p {
		return
	}
	now := time.Now()
	for i := range w.states {
		m.clear(w, i, now)
	}
	for len(w.others) > 0 {
		m.drop(w, 0, now)
	}
	delete(m.watched, p.Stream().Key())
}

// Raise raises an alert about p that somebody else has found, one of those that
// have a name here, unless it is raised. It is cleared by Clear, or at the end of p.
func (m *Monitor) Raise(p *stream.Publication, name, text string, value, limit float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.watched[p.Stream().Key()]
	if w == nil || w.p != p || w.other(name) >= 0 {
		return
	}
	now := time.Now()
	w.others = append(w.others, Alert{name, text, value, limit, now})
	m.others[name]++
	m.emit(w, now, event.AlertRaised{Alert: name, Text: text, Value: value, Limit: limit, Callback: w.callback})
	m.opt.Log.Warn("alert", "alert", name, "stream", p.Stream().Key().String(), "text", text)
}

// Clear clears an alert that was raised by Raise.
func (m *Monitor) Clear(p *stream.Publication, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.watched[p.Stream().Key()]; w != nil && w.p == p {
		if i := w.other(name); i >= 0 {
			m.drop(w, i, time.Now())
		}
	}
}

// other returns where in w.others the alert of that name is, or -1.
func (w *watch) other(name string) int {
	return slices.IndexFunc(w.others, func(a Alert) bool { return a.Name == name })
}

// drop clears one of w.others. m.mu is held.
func (m *Monitor) drop(w *watch, i int, now time.Time) {
	a := w.others[i]
	w.others = slices.Delete(w.others, i, i+1)
	m.emit(w, now, event.AlertCleared{Alert: a.Name, Since: a.Since, Callback: w.callback})
	m.opt.Log.Info("alert is over", "alert", a.Name, "stream", w.p.Stream().Key().String())
}

// Alerts returns the alerts of a stream that are raised, nil if it does well.
func (m *Monitor) Alerts(key stream.Key) []Alert {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.watched[key]; w != nil {
		return w.alerts()
	}
	return nil
}

// Sent returns the bit rate at which a stream is sent to players, in the order
// of stream.Protocols: that of the last seconds.
func (m *Monitor) Sent(key stream.Key) (rates [len(stream.Protocols)]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.watched[key]
	if w == nil {
		return rates
	}
	last, first := &w.sent[(w.next+sentLooks-1)%sentLooks], &w.sent[w.next]
	for i := 1; i < sentLooks && first.at.IsZero(); i++ {
		first = &w.sent[(w.next+i)%sentLooks]
	}
	seconds := last.at.Sub(first.at).Seconds()
	for i := range rates {
		if seconds > 0 {
			rates[i] = int64(float64(last.bytes[i]-first.bytes[i]) * 8 / seconds)
		}
	}
	return rates
}

// Raised returns all alerts that are raised, by stream.
func (m *Monitor) Raised() map[stream.Key][]Alert {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[stream.Key][]Alert)
	for key, w := range m.watched {
		if list := w.alerts(); list != nil {
			all[key] = list
		}
	}
	return all
}

// alerts returns those that are raised. Monitor.mu is held.
func (w *watch) alerts() (list []Alert) {
	for i := range w.states {
		if !w.states[i].since.IsZero() {
			list = append(list, w.states[i].alert)
		}
	}
	return append(list, w.others...)
}

// Stats is a Monitor's account, by the name of the alert.
type Stats struct {
	Raised map[string]int   // now
	Ever   map[string]int64 // since the Monitor began
}

// Stats returns the Monitor's account.
func (m *Monitor) Stats() Stats {
	st := Stats{make(map[string]int), make(map[string]int64)}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range rules {
		st.Raised[r.alert], st.Ever[r.alert] = 0, m.raised[i]
	}
	for _, name := range raisers {
		st.Raised[name], st.Ever[name] = 0, m.others[name]
	}
	for _, w := range m.watched {
		for i, r := range rules {
			if !w.states[i].since.IsZero() {
				st.Raised[r.alert]++
			}
		}
		for _, a := range w.others {
			st.Raised[a.Name]++
		}
	}
	return st
}

// Run looks at all publications once a second until ctx is done.
func (m *Monitor) Run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var list []*watch
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			list = m.look(list[:0], time.Now())
		}
	}
}

// look looks at all publications; it uses list to remember them.
func (m *Monitor) look(list []*watch, now time.Time) []*watch {
	m.mu.Lock()
	for _, w := range m.watched {
		list = append(list, w)
	}
	m.mu.Unlock()
	for _, w := range list {
		q := w.p.Quality(now) // which takes the stream's lock, so ours must be free
		m.judge(w, &q, now)
	}
	clear(list)
	return list
}

// judge holds a publication against its limits.
func (m *Monitor) judge(w *watch, q *stream.Quality, now time.Time) {
	limits := &w.p.App().Quality
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watched[w.p.Stream().Key()] != w { // it has ended
		return
	}
	w.sent[w.next] = sent{now, w.p.Stream().Traffic().Count().Out}
	w.next = (w.next + 1) % sentLooks
	for i := range rules {
		r, s := &rules[i], &w.states[i]
		verdict, value, limit := r.judge(limits, q)
		switch verdict {
		case bad:
			s.good = 0
			if s.bad++; s.bad >= r.raise && s.since.IsZero() {
				m.raise(w, i, value, limit, now)
			}
			s.bad = min(s.bad, r.raise)
		case good:
			s.bad = 0
			if s.good++; s.good >= r.clear {
				m.clear(w, i, now)
			}
			s.good = min(s.good, r.clear)
		default:
			s.bad, s.good = 0, 0
		}
	}
}

// raise raises the alert of the rule i. m.mu is held.
func (m *Monitor) raise(w *watch, i int, value, limit float64, now time.Time) {
	r, s := &rules[i], &w.states[i]
	s.since = now
	s.alert = Alert{r.alert, fmt.Sprintf(r.text, value, limit), value, limit, now}
	m.raised[i]++
	m.emit(w, now, event.AlertRaised{Alert: r.alert, Text: s.alert.Text, Value: value, Limit: limit, Callback: w.callback})
	m.opt.Log.Warn("alert", "alert", r.alert, "stream", w.p.Stream().Key().String(), "text", s.alert.Text)
}

// clear clears the alert of the rule i if it is raised. m.mu is held.
func (m *Monitor) clear(w *watch, i int, now time.Time) {
	s := &w.states[i]
	if s.since.IsZero() {
		return
	}
	m.emit(w, now, event.AlertCleared{Alert: rules[i].alert, Since: s.since, Callback: w.callback})
	m.opt.Log.Info("alert is over", "alert", rules[i].alert, "stream", w.p.Stream().Key().String())
	*s = state{}
}

func (m *Monitor) emit(w *watch, now time.Time, d event.Data) {
	e, key := event.New(now, d), w.p.Stream().Key()
	e.Space, e.App, e.Stream, e.Sequence = key.Space, key.App, key.Name, w.p.Push().Sequence
	m.opt.Emit(e)
}

// verdict is what one look says.
type verdict uint8

const (
	between verdict = iota // neither good enough to clear an alert nor bad enough to raise one
	good
	bad
)

// rule is one alert.
type rule struct {
	alert        string
	text         string // of value and limit
	raise, clear uint8  // after so many bad or good looks in a row
	judge        func(*policy.Quality, *stream.Quality) (v verdict, value, limit float64)
}

// rules are all alerts. An alert of how media are says nothing while none come.
var rules = [...]rule{
	{NoData, "nothing that can be played has come for %.1f s; the limit is %.1f s", 1, 5,
		func(l *policy.Quality, q *stream.Quality) (verdict, float64, float64) {
			return above(q.Silent.Seconds(), l.NoData.Seconds(), 0.5)
		}},
	{NoKeyFrame, "no key frame has come for %.1f s; the limit is %.1f s", 1, 3,
		func(l *policy.Quality, q *stream.Quality) (verdict, float64, float64) {
			v, value, limit := above(q.SinceKey.Seconds(), l.NoKeyFrame.Seconds(), 0.9)
			if v == good && q.KeyInterval >= l.NoKeyFrame && l.NoKeyFrame > 0 || quiet(q) {
				v = between // one has come, but the next is not to be expected in time
			}
			return v, value, limit
		}},
	{LowBitRate, "the bit rate is %.0f bit/s; the limit is %.0f bit/s", 1, 10,
		func(l *policy.Quality, q *stream.Quality) (verdict, float64, float64) {
			limit := float64(q.Median) * float64(l.LowBitRate) / 100
			value := float64(q.BitRate)
			switch {
			case l.LowBitRate == 0:
				return good, value, limit
			case q.BitRate < 0 || q.Median == 0 || quiet(q):
				return between, value, limit
			case value < limit:
				return bad, value, limit
			case value < limit*1.25:
				return between, value, limit
			}
			return good, value, limit
		}},
	{Drift, "sound and picture have come apart by %.3f s; the limit is %.3f s", 5, 10,
		func(l *policy.Quality, q *stream.Quality) (verdict, float64, float64) {
			v, value, limit := above(q.Drift.Abs().Seconds(), l.Drift.Seconds(), 0.75)
			if quiet(q) {
				v = between
			}
			return v, value, limit
		}},
	{TimestampJumps, "the publisher's clock has jumped %.0f times in a minute; the limit is %.0f", 1, 10,
		func(l *policy.Quality, q *stream.Quality) (verdict, float64, float64) {
			return above(float64(q.Jumps), float64(l.Jumps), 0.5)
		}},
}

// quiet reports whether so little comes that there is nothing to judge.
func quiet(q *stream.Quality) bool { return q.Silent > 2*time.Second }

// above calls a value bad that is at the limit or above, and good what is below
// a part of it. A limit of 0 is none.
func above(value, limit, part float64) (verdict, float64, float64) {
	switch {
	case limit == 0 || value < limit*part:
		return good, value, limit
	case value >= limit:
		return bad, value, limit
	}
	return between, value, limit
}
