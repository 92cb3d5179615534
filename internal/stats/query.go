package stats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// MaxPoints is how many points one Query may have.
const MaxPoints = 2000

// Query says what is asked. What is empty is not narrowed down: all apps of a
// space, all streams of an app, everything.
type Query struct {
	Space, App, Stream string
	From, To           time.Time     // To is not part of it
	Step               time.Duration // of a point: whole minutes; from an hour on whole hours
}

// Point is what happened from Start on for a step.
type Point struct {
	Start   time.Time
	Tally                      // Peak and Streams are the most at a time
	Players [protocols]float64 // on average, in the order of stream.Protocols
}

// BadQuery is the error of a Query that makes no sense; it says why.
type BadQuery struct{ Problem string }

func (e *BadQuery) Error() string { return e.Problem }

// check finds what is wrong with a query.
func (q *Query) check() error {
	var problem string
	switch {
	case q.Stream != "" && q.App == "" || q.App != "" && q.Space == "":
		problem = "a stream needs its app, and an app its space"
	case q.Step < time.Minute || q.Step%time.Minute != 0:
		problem = "the step must be whole minutes"
	case q.Step > time.Hour && q.Step%time.Hour != 0:
		problem = "a step of more than an hour must be whole hours"
	case q.Step > 31*24*time.Hour:
		problem = "the step must be 31 days at most"
	case !q.To.After(q.From):
		problem = "the end must be after the start"
	case q.To.Sub(q.From)/q.Step >= MaxPoints:
		problem = fmt.Sprintf("there would be more than %d points: take a longer step or less time", MaxPoints)
	default:
		return nil
	}
	return &BadQuery{problem}
}

// Query returns the points of q, the oldest first, without those in which
// nothing happened. Steps begin at multiples of the step since 1970, in UTC. By
// steps of less than an hour one sees as far back as minutes are kept, else as
// hours are. What happened in the last minute may not be there yet. The error
// is a *BadQuery, or that of JetStream.
func (b *Book) Query(ctx context.Context, q Query) ([]Point, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	now := b.clock()
	from, to := q.From.Truncate(q.Step), q.To
	sum := sums{query: &q, points: make(map[time.Time]*Point), peaks: make(map[time.Time]map[string]peaks)}
	if q.Step < time.Hour {
		if err := sum.read(ctx, b, &minutes, from, to); err != nil {
			return nil, err
		}
		return sum.list(now), nil
	}
	// What is not an hour yet is there by minutes.
	whole := now.Truncate(time.Hour)
	if from.Before(whole) {
		if err := sum.read(ctx, b, &hours, from, earlier(to, whole)); err != nil {
			return nil, err
		}
	}
	if to.After(whole) {
		if err := sum.read(ctx, b, &minutes, later(from, whole), to); err != nil {
			return nil, err
		}
	}
	return sum.list(now), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sums adds messages up to points.
type sums struct {
	query  *Query
	points map[time.Time]*Point
	peaks  map[time.Time]map[string]peaks // by start of the page and node
}

func (s *sums) read(ctx context.Context, b *Book, l *level, from, to time.Time) error {
	q := s.query
	want := q.Stream
	want = cmp.Or(want, noRow)
	return b.read(ctx, l, l.subjectOf(q.Space, q.App, ""), from, to, want, func(subject string, sh *sheet) {
		if sh.Start.Before(from) || !sh.Start.Before(to) {
			return
		}
		t := sh.Total
		top := sh.Node
		switch {
		case q.Stream != "":
			if len(sh.Rows) == 0 {
				return
			}
			t = sh.Rows[0].Tally
			top = peaks{t.Peak, t.Streams}
		case q.App != "":
			top = sh.App
		case q.Space != "":
			top = sh.Space
		}
		start := sh.Start.Truncate(q.Step)
		p := s.points[start]
		if p == nil {
			p = &Point{Start: start}
			s.points[start] = p
		}
		p.add(&t)
		nodes := s.peaks[sh.Start]
		if nodes == nil {
			nodes = make(map[string]peaks)
			s.peaks[sh.Start] = nodes
		}
		node := subject[strings.LastIndexByte(subject, '.')+1:]
		most := nodes[node]
		most.raise(top)
		nodes[node] = most
	})
}

// list returns the points as they stand at now.
func (s *sums) list(now time.Time) []Point {
	for start, nodes := range s.peaks {
		var all Tally
		for _, p := range nodes {
			all.Peak += p.Players
			all.Streams += p.Streams
		}
		s.points[start.Truncate(s.query.Step)].peak(&all)
	}
	list := make([]Point, 0, len(s.points))
	for _, p := range s.points {
		step := min(s.query.Step, max(time.Minute, now.Sub(p.Start).Truncate(time.Minute)))
		for i, n := range p.Watched {
			p.Players[i] = float64(n) / step.Seconds()
		}
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Point) int { return a.Start.Compare(b.Start) })
	return list
}

// late is how much later than its page a message may have been written that a
// query for pages up to some time still finds: so long JetStream was away.
const late = 6 * time.Hour

// read calls f for every message of a subject from a page that is not before
// from, up to pages of the time to, or all if that is zero. Rows are read if
// want is that of one, or of all with rows; f keeps nothing of the sheet.
func (b *Book) read(ctx context.Context, l *level, subject string, from, to time.Time, want string, f func(subject string, s *sheet)) error {
	js := b.opt.JetStream
	str, err := js.Stream(ctx, l.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // nothing has been written yet
	}
	if err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	c, err := str.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject:     subject,
		DeliverPolicy:     jetstream.DeliverByStartTimePolicy,
		OptStartTime:      &from,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	defer str.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name)
	left := c.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	defer msgs.Stop()
	for ; left > 0; left-- {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read statistics: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read statistics: %w", err)
		}
		if !to.IsZero() && meta.Timestamp.After(to.Add(l.step+late)) {
			return nil
		}
		var s sheet
		if err := s.parse(msg.Data(), want); err != nil {
			b.opt.Log.Warn("statistics cannot be read", "subject", msg.Subject(), "sequence", meta.Sequence.Stream, "err", err)
			continue
		}
		f(msg.Subject(), &s)
		if meta.NumPending == 0 {
			return nil
		}
	}
	return nil
}
