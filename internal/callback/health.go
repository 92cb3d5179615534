package callback

import (
	"context"
	"strings"
	"time"
)

// Health is how a receiver is.
type Health struct {
	LastSuccess time.Time
	LastFailure time.Time
	Reason      string    // of the last failure
	Since       time.Time // it fails for everybody; zero: it does not

	Delivered, Failed, Dead int64 // attempts that succeeded and failed; facts that died
}

// Buckets are the upper bounds of the histogram of latencies.
var Buckets = []time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 5 * time.Second, 10 * time.Second,
}

// Stats are the accounts of a Dispatcher.
type Stats struct {
	Delivered, Failed, Dead int64
	Missed                  int64 // facts, at most, that were not kept long enough

	Latency    [10]int64 // attempts up to each of Buckets, and all
	LatencySum time.Duration

	Receivers int // known
	Failing   int // that fail for everybody
	Behind    int // that are slower than facts come
	Parked    int // streams that wait because a fact of theirs could not be told
	Held      int // facts in memory
	Calls     int // under way

	Oldest time.Duration // age of the oldest fact that waits, as far as it is known
}

func (s *Stats) observe(t time.Duration) {
	for i, b := range Buckets {
		if t <= b {
			s.Latency[i]++
		}
	}
	s.Latency[len(Buckets)]++
	s.LatencySum += t
}

func (s *Stats) add(o *Stats) {
	s.Delivered += o.Delivered
	s.Failed += o.Failed
	s.Dead += o.Dead
	s.Missed += o.Missed
	for i := range s.Latency {
		s.Latency[i] += o.Latency[i]
	}
	s.LatencySum += o.LatencySum
	s.Receivers += o.Receivers
	s.Failing += o.Failing
	s.Behind += o.Behind
	s.Oldest = max(s.Oldest, o.Oldest)
	s.Parked += o.Parked
	s.Held += o.Held
	s.Calls += o.Calls
}

// account returns the accounts so far.
func (d *queue) account() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Receivers = len(d.receivers)
	oldest := d.oldest()
	if !oldest.IsZero() {
		s.Oldest = time.Since(oldest)
	}
	for _, r := range d.receivers {
		if r.open {
			s.Failing++
		}
		if r.own != nil && !r.open {
			s.Behind++
		}
		s.Parked += r.parked
		s.Held += r.held
		s.Calls += r.calls
	}
	return s
}

// ReceiverID names a receiver of a space in the API, since it is a URL, or a
// group of them, that there may be secrets in.
func ReceiverID(space, group string) string {
	_, id, _ := strings.Cut(key("", space, group), ".")
	return id[:16]
}

// all returns the receivers of a space that are known, or of all spaces.
func (d *queue) all(ctx context.Context, space string) ([]Receiver, error) {
	type place struct {
		i    int
		from uint64
	}
	var list []Receiver
	var own []place
	d.mu.Lock()
	for _, r := range d.receivers {
		if space != "" && r.space != space {
			continue
		}
		x := Receiver{ID: ReceiverID(r.space, r.group), Space: r.space, URL: bare(r.group), State: "ok", Health: r.health, Streams: r.parked, Calls: r.calls, Waiting: r.held + r.parked}
		switch {
		case r.open:
			x.State = "failing"
		case r.parked > 0:
			x.State = "partly failing"
		case r.own != nil:
			x.State = "behind"
		case r.tried.IsZero():
			x.State = "idle"
		}
		for _, l := range r.lanes {
			switch {
			case l.park != nil:
				x.oldest(l.park.happened)
			case len(l.queue) > 0:
				x.oldest(l.queue[0].event.Time)
			}
		}
		if r.own != nil {
			own = append(own, place{len(list), r.own.next})
		}
		list = append(list, x)
	}
	d.mu.Unlock()
	for _, p := range own {
		r := &list[p.i]
		n, err := d.source.count(ctx, query{space: r.Space}, p.from)
		if err != nil {
			return nil, err
		}
		r.Waiting += n
		facts, _, err := d.source.scan(ctx, query{space: r.Space}, p.from, 1)
		if err != nil {
			return nil, err
		}
		for _, f := range facts {
			r.oldest(f.event.Time)
		}
	}
	return list, nil
}

func (r *Receiver) oldest(t time.Time) {
	if !t.IsZero() && (r.Oldest.IsZero() || t.Before(r.Oldest)) {
		r.Oldest = t
	}
}

// oldest returns when the oldest fact happened that waits, as far as it is in
// memory: a receiver that fails has a lane that knows. d.mu is held.
func (d *queue) oldest() (t time.Time) {
	for _, r := range d.receivers {
		for _, l := range r.lanes {
			var x time.Time
			switch {
			case l.park != nil:
				x = l.park.happened
			case len(l.queue) > 0:
				x = l.queue[0].event.Time
			}
			if !x.IsZero() && (t.IsZero() || x.Before(t)) {
				t = x
			}
		}
	}
	return t
}
