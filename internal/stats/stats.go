// Package stats keeps how much went in and out over time: for every stream the
// bytes published and played, who played by which protocol, and the most at a
// time, by the minute and by the hour.
//
// A [Book] has an account for every stream, which is a stream.Traffic, looks at
// all of them every few seconds and closes a page every minute: one message for
// each app, with a row for each of its streams, in a JetStream stream of its
// own. So what is written does not grow with streams but by their rows. The
// pages of an hour are added up to one that is kept longer. What a process that
// dies had not written, at most a minute, is lost; its hour is added up from
// its minutes by the next one.
//
// Each node of a cluster writes its own pages; a query adds them up. Peaks of
// several nodes are added, too, though they need not have been at the same
// moment of a minute.
package stats

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus"
	"weir/internal/stream"
)

// Options are a Book's settings.
type Options struct {
	Log       *slog.Logger
	JetStream jetstream.JetStream
	Replicas  int    // of what is kept
	Node      string // name of this node

	Keep        time.Duration // how long hours are kept; default 30 days
	KeepMinutes time.Duration // how long minutes are kept; default 7 days
	MaxBytes    int64         // of all that is kept, the oldest goes first; default 1 GiB
}

func (o *Options) defaults() {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Keep = cmp.Or(o.Keep, 30*24*time.Hour)
	o.KeepMinutes = cmp.Or(o.KeepMinutes, 7*24*time.Hour)
	o.MaxBytes = cmp.Or(o.MaxBytes, 1<<30)
	o.Node = cmp.Or(o.Node, "weir")
}

const (
	// sampleEvery is how often the players are counted. What is between is not
	// seen, but in the peaks of streams.
	sampleEvery = 5 * time.Second
	// maxPage is how many bytes a message may have; more rows go into another one.
	maxPage = 200 << 10
	// maxOutbox is how many bytes of messages wait for a JetStream that is away.
	maxOutbox = 64 << 20
	// sendTime is how long one message may take, and the last ones at the end.
	sendTime = 5 * time.Second
)

// level is one resolution.
type level struct {
	stream, subject string
	step            time.Duration
}

var (
	minutes = level{"WEIR_STATISTICS_MINUTES", "weir.statistics.minute", time.Minute}
	hours   = level{"WEIR_STATISTICS_HOURS", "weir.statistics.hour", time.Hour}
)

// subjectOf returns the subject of an app's pages; an empty name is any.
func (l *level) subjectOf(space, app, node string) string {
	s := l.subject
	for _, name := range []string{space, app, node} {
		if name == "" {
			s += ".*"
		} else {
			s += "." + bus.Token(name)
		}
	}
	return s
}

// Book keeps the accounts of a node's streams. Its methods may be called from
// any goroutine.
type Book struct {
	opt   Options
	run   string // of the process, in the ids of messages
	clock func() time.Time

	mu       sync.Mutex
	accounts map[*stream.Traffic]*account
	minute   time.Time // start of the page that is being filled
	looked   time.Time // when accounts were last looked at
	page     page      // of the minute: its peaks
	hour     page      // the closed minutes of the hour
	outbox   []*nats.Msg
	waiting  int // bytes of outbox
	written  int64
	dropped  int64
	sent     chan struct{} // tells the sender that there is something

	recovered bool // of the sender: what processes before have left is in the books
}

// account is a stream's. It outlives the stream until all is counted.
type account struct {
	key     stream.Key
	traffic *stream.Traffic
	last    stream.TrafficCount // when the last page was closed
	live    time.Time           // since when it is published, or the page began; zero: it is not
	lived   time.Duration       // published in this page, until live
	watched [protocols]time.Duration
	seen    bool // it was published in this page
}

// page is what a node has counted in a minute or hour.
type page struct {
	node   peaks
	spaces map[string]*peaks
	apps   map[appKey]*appPage
}

type appKey struct{ space, app string }

type appPage struct {
	peaks
	rows map[string]*Tally
}

func newPage() page {
	return page{spaces: make(map[string]*peaks), apps: make(map[appKey]*appPage)}
}

func (p *page) space(name string) *peaks {
	s := p.spaces[name]
	if s == nil {
		s = new(peaks)
		p.spaces[name] = s
	}
	return s
}

func (p *page) app(k appKey) *appPage {
	a := p.apps[k]
	if a == nil {
		a = &appPage{rows: make(map[string]*Tally)}
		p.apps[k] = a
	}
	return a
}

func (a *appPage) row(name string) *Tally {
	t := a.rows[name]
	if t == nil {
		t = new(Tally)
		a.rows[name] = t
	}
	return t
}

// raise makes p no less than what is seen now.
func (p *peaks) raise(o peaks) {
	p.Players, p.Streams = max(p.Players, o.Players), max(p.Streams, o.Streams)
}

// add adds a page to one of a longer time.
func (p *page) add(o *page) {
	p.node.raise(o.node)
	for name, s := range o.spaces {
		p.space(name).raise(*s)
	}
	for k, a := range o.apps {
		sum := p.app(k)
		sum.raise(a.peaks)
		for name, t := range a.rows {
			row := sum.row(name)
			row.add(t)
			row.peak(t)
		}
	}
}

// New returns a Book. It counts once Run runs.
func New(o Options) *Book {
	o.defaults()
	var id [8]byte
	rand.Read(id[:])
	now := time.Now()
	return &Book{
		opt: o, run: hex.EncodeToString(id[:]), clock: time.Now, accounts: make(map[*stream.Traffic]*account), minute: now.Truncate(time.Minute), looked: now,
		page: newPage(), hour: newPage(), sent: make(chan struct{}, 1),
	}
}

// Began takes a publication into the books. It is what stream.Options.Began
// calls.
func (b *Book) Began(p *stream.Publication) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := p.Stream().Traffic()
	a := b.accounts[t]
	if a == nil {
		a = &account{key: p.Stream().Key(), traffic: t}
		b.accounts[t] = a
	}
	a.live, a.seen = b.clock(), true
}

// Ended notes that a publication is over. It is what stream.Options.Ended calls.
func (b *Book) Ended(p *stream.Publication) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[p.Stream().Traffic()]; a != nil && !a.live.IsZero() {
		a.lived += b.clock().Sub(a.live)
		a.live = time.Time{}
	}
}

// Run keeps the books until ctx is done, and then writes the page that was
// begun, if JetStream takes it within a few seconds.
func (b *Book) Run(ctx context.Context) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan struct{})
	last := make(chan struct{})
	go func() { defer close(done); b.send(sending, last) }() // ends with sending, or when the outbox is empty after last
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			b.look(b.clock(), false)
			continue
		case <-ctx.Done():
		}
		break
	}
	b.look(b.clock(), true)
	close(last)
	defer time.AfterFunc(sendTime, stop).Stop()
	<-done
}

// look counts who plays, and closes the page when its minute is over, or it is
// the last.
func (b *Book) look(now time.Time, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	elapsed := now.Sub(b.looked)
	b.looked = now
	at := newPage()
	for _, a := range b.accounts {
		count := a.traffic.Count()
		one := peaks{Players: a.traffic.Playing()}
		if !a.live.IsZero() {
			one.Streams = 1
		}
		for i, n := range count.Players {
			a.watched[i] += time.Duration(n) * elapsed
		}
		for _, p := range []*peaks{&at.node, at.space(a.key.Space), &at.app(appKey{a.key.Space, a.key.App}).peaks} {
			p.Players += one.Players
			p.Streams += one.Streams
		}
	}
	b.page.add(&at)
	minute := now.Truncate(time.Minute)
	if !last && minute.Equal(b.minute) {
		return
	}
	b.close(now)
	if !minute.Truncate(time.Hour).Equal(b.minute.Truncate(time.Hour)) {
		b.post(&hours, b.minute.Truncate(time.Hour), &b.hour)
		b.hour = newPage()
	}
	b.minute = minute
}

// close closes the page of a minute. b.mu is held.
func (b *Book) close(now time.Time) {
	for traffic, a := range b.accounts {
		count := traffic.Count()
		t := Tally{In: count.In - a.last.In, Peak: traffic.Peak()}
		for i := range protocols {
			t.Out[i] = count.Out[i] - a.last.Out[i]
			t.Plays[i] = count.Plays[i] - a.last.Plays[i]
			t.Watched[i] = int64(a.watched[i].Round(time.Second) / time.Second)
		}
		if !a.live.IsZero() {
			a.lived += now.Sub(a.live)
			a.live = now
		}
		if t.Live = int64(a.lived.Round(time.Second) / time.Second); a.seen {
			t.Streams = 1
		}
		a.last, a.lived, a.watched, a.seen = count, 0, [protocols]time.Duration{}, !a.live.IsZero()
		if t.idle() {
			if a.live.IsZero() {
				delete(b.accounts, traffic)
			}
			continue
		}
		app := b.page.app(appKey{a.key.Space, a.key.App})
		row := app.row(a.key.Name)
		row.add(&t)
		row.peak(&t)
		// A stream's peaks are exact; those of what it is in are looked at.
		for _, p := range []*peaks{&b.page.node, b.page.space(a.key.Space), &app.peaks} {
			p.raise(peaks{t.Peak, t.Streams})
		}
	}
	b.post(&minutes, b.minute, &b.page)
	b.hour.add(&b.page)
	b.page = newPage()
}

// post puts the messages of a page into the outbox. b.mu is held.
func (b *Book) post(l *level, start time.Time, p *page) {
	for k, a := range p.apps {
		names := make([]string, 0, len(a.rows))
		for name := range a.rows {
			names = append(names, name)
		}
		slices.Sort(names)
		sheet := sheet{Start: start, Step: l.step, App: a.peaks, Space: *p.space(k.space), Node: p.node}
		size := 0
		flush := func() {
			if len(sheet.Rows) == 0 {
				return
			}
			b.written++
			msg := nats.NewMsg(l.subjectOf(k.space, k.app, b.opt.Node))
			msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s-%d", b.run, b.written))
			msg.Data = sheet.append(nil)
			b.outbox = append(b.outbox, msg)
			b.waiting += len(msg.Data)
			sheet.Rows, sheet.Total, size = sheet.Rows[:0], Tally{}, 0
		}
		for _, name := range names {
			t := a.rows[name]
			sheet.Rows = append(sheet.Rows, row{name, *t})
			sheet.Total.add(t)
			if size += len(name) + 64; size > maxPage {
				flush()
			}
		}
		flush()
	}
	for b.waiting > maxOutbox {
		b.waiting -= len(b.outbox[0].Data)
		b.outbox[0] = nil
		b.outbox = b.outbox[1:]
		b.dropped++
	}
	select {
	case b.sent <- struct{}{}:
	default:
	}
}

// send writes what is in the outbox as it comes, until ctx is done or, once
// last is closed, there is nothing left. While JetStream is away it tries again.
func (b *Book) send(ctx context.Context, last <-chan struct{}) {
	failed := false
	for ctx.Err() == nil {
		msg := b.head()
		if msg == nil && b.recovered {
			select {
			case <-b.sent:
				continue
			case <-ctx.Done():
				return
			case <-last:
			}
			if b.head() == nil {
				return
			}
			continue
		}
		err := b.write(ctx, msg)
		if err == nil {
			b.take(msg)
			failed = false
			continue
		}
		if msg == nil && closed(last) {
			return
		}
		if !failed {
			b.opt.Log.Warn("statistics wait, as they cannot be written", "err", err)
		}
		failed = true
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// head returns the oldest message of the outbox, nil if there is none.
func (b *Book) head() *nats.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.outbox) == 0 {
		return nil
	}
	return b.outbox[0]
}

// take takes a message out of the outbox, unless it has fallen out.
func (b *Book) take(msg *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if msg != nil && len(b.outbox) > 0 && b.outbox[0] == msg {
		b.waiting -= len(msg.Data)
		b.outbox[0] = nil
		b.outbox = b.outbox[1:]
	}
}

// write writes one message, if it is one, and makes ready before.
func (b *Book) write(ctx context.Context, msg *nats.Msg) error {
	if !b.recovered {
		if err := b.setUp(ctx); err != nil {
			return err
		}
		if err := b.recover(ctx); err != nil {
			return fmt.Errorf("add up the statistics of before: %w", err)
		}
		b.recovered = true
	}
	if msg == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	_, err := b.opt.JetStream.PublishMsg(ctx, msg)
	return err
}

// setUp makes the streams, or gives them the limits that are set.
func (b *Book) setUp(ctx context.Context) error {
	for _, s := range []struct {
		level
		age   time.Duration
		bytes int64
	}{{minutes, b.opt.KeepMinutes, b.opt.MaxBytes / 4 * 3}, {hours, b.opt.Keep, b.opt.MaxBytes / 4}} {
		ctx, cancel := context.WithTimeout(ctx, sendTime)
		_, err := bus.Stream(ctx, b.opt.JetStream, jetstream.StreamConfig{
			Name:        s.stream,
			Description: "Weir: bytes and players of streams",
			Subjects:    []string{s.subject + ".*.*.*"},
			MaxAge:      s.age,
			MaxBytes:    s.bytes,
			Discard:     jetstream.DiscardOld,
			Storage:     jetstream.FileStorage,
			Compression: jetstream.S2Compression,
			Replicas:    b.opt.Replicas,
			Duplicates:  10 * time.Minute,
		}, 1, nil)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// recover adds up the minutes of hours that a process of before has not, and
// makes what there is of this hour a part of the page.
func (b *Book) recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	from := b.clock().Truncate(time.Hour).Add(-48 * time.Hour)
	written := make(map[time.Time]bool)
	err := b.read(ctx, &hours, b.subject(&hours), from, time.Time{}, "", func(_ string, s *sheet) { written[s.Start] = true })
	if err != nil {
		return err
	}
	open := make(map[time.Time]*page)
	err = b.read(ctx, &minutes, b.subject(&minutes), from, time.Time{}, "", func(subject string, s *sheet) {
		hour := s.Start.Truncate(time.Hour)
		if written[hour] {
			return
		}
		p := open[hour]
		if p == nil {
			p = new(page)
			*p = newPage()
			open[hour] = p
		}
		p.addSheet(subject, s)
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for hour, p := range open {
		if hour.Equal(b.minute.Truncate(time.Hour)) {
			b.hour.add(p)
		} else { // it may be one that this process has closed: both count
			b.post(&hours, hour, p)
		}
	}
	return nil
}

// subject is of all pages of this node.
func (b *Book) subject(l *level) string { return l.subjectOf("", "", b.opt.Node) }

// addSheet adds a message to a page.
func (p *page) addSheet(subject string, s *sheet) {
	part := strings.Split(subject, ".")
	if len(part) < 3 {
		return
	}
	space, err1 := bus.Name(part[len(part)-3])
	app, err2 := bus.Name(part[len(part)-2])
	if errors.Join(err1, err2) != nil {
		return
	}
	p.node.raise(s.Node)
	p.space(space).raise(s.Space)
	a := p.app(appKey{space, app})
	a.raise(s.App)
	for i := range s.Rows {
		row := a.row(s.Rows[i].Name)
		row.add(&s.Rows[i].Tally)
		row.peak(&s.Rows[i].Tally)
	}
}

// Health is how a Book does.
type Health struct {
	Waiting int   // bytes that wait for JetStream
	Dropped int64 // messages that have waited for too long
}

// Health returns how the Book does.
func (b *Book) Health() Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Health{b.waiting, b.dropped}
}
