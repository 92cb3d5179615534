package session

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/stream"
)

// journal keeps the facts it is told, and lets Flush wait.
type journal struct {
	mu      sync.Mutex
	list    []event.Event
	waiting chan struct{} // one for each Flush that has begun
	durable chan struct{} // what Flush waits for
}

func newJournal() *journal {
	return &journal{waiting: make(chan struct{}, 100), durable: make(chan struct{})}
}

func (j *journal) facts() Facts {
	return Facts{
		Emit: func(e event.Event) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.list = append(j.list, e)
		},
		Flush: func(ctx context.Context, _ string) error {
			j.waiting <- struct{}{}
			select {
			case <-j.durable:
				return nil
			case <-ctx.Done():
				return errors.New("not yet")
			}
		},
	}
}

// of returns the facts of a type.
func (j *journal) of(typ event.Type) []event.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []event.Event
	for _, e := range j.list {
		if e.Type == typ {
			list = append(list, e)
		}
	}
	return list
}

// A publisher is told that it may go on when the fact of its beginning is
// durable, and not before.
func TestDurableFirst(t *testing.T) {
	j := newJournal()
	n := start(t, Options{Facts: j.facts()})
	conn := n.dial(t, "live?k=1")
	told := make(chan error, 1)
	go func() { told <- conn.Publish("s") }() // ends with its answer
	<-j.waiting
	select {
	case err := <-told:
		t.Errorf("told %v before the fact was durable", err)
	case <-time.After(50 * time.Millisecond):
	}
	asked := j.of(event.TypePublishRequested)
	if len(asked) != 1 || len(asked[0].Sequence) != 32 || asked[0].Stream != "s" || asked[0].App != "live" || asked[0].Space != "default" {
		t.Errorf("publish.requested is %+v", asked)
	}
	close(j.durable)
	if err := <-told; err != nil {
		t.Errorf("Publish = %v", err)
	}
	if n.Stats().Early != 0 {
		t.Error("it went on early")
	}
	if is := n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s"}).Push().Sequence; len(asked) == 1 && is != asked[0].Sequence {
		t.Errorf("the push has the sequence %s, publish.requested %s", is, asked[0].Sequence)
	}
}

// When the disk takes nothing, publishers wait for two seconds and go on.
func TestNotDurable(t *testing.T) {
	j := newJournal()
	n := start(t, Options{Facts: j.facts()})
	conn := n.dial(t, "live")
	begin := time.Now()
	if err := conn.Publish("s"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < flushTime || n.Stats().Early != 1 {
		t.Errorf("it went on after %v, and %d are counted", took, n.Stats().Early)
	}
}

// When there is no room for the fact of its beginning, a publisher goes on at
// once, and is counted.
func TestNoRoom(t *testing.T) {
	f := newJournal().facts()
	flushed := ""
	f.Flush = func(_ context.Context, sequence string) error { flushed = sequence; return errors.New("full") }
	n := start(t, Options{Facts: f})
	conn := n.dial(t, "live")
	begin := time.Now()
	if err := conn.Publish("s"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took >= flushTime || n.Stats().Early != 1 {
		t.Errorf("it went on after %v, and %d are counted", took, n.Stats().Early)
	}
	if is := n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s"}).Push().Sequence; flushed != is {
		t.Errorf("it waited for the push %q, and is %q", flushed, is)
	}
}

// Who is refused is in the facts, with the names it has sent cut to a length,
// and whoever has played.
func TestRefusedAndPlayed(t *testing.T) {
	j := newJournal()
	close(j.durable)
	n := start(t, Options{Facts: j.facts()})
	long := make([]byte, 5000)
	for i := range long {
		long[i] = 'x'
	}
	conn := n.dial(t, "live")
	if err := conn.Publish(string(long)); err == nil {
		t.Error("published a stream with a name of 5000 characters")
	}
	refused := j.of(event.TypePublishRefused)
	if asked := j.of(event.TypePublishRequested); len(refused) == 1 && len(asked) == 1 && (len(asked[0].Sequence) != 32 || refused[0].Sequence != asked[0].Sequence) {
		t.Errorf("publish.requested has the sequence %q, publish.refused %q", asked[0].Sequence, refused[0].Sequence)
	}
	if len(refused) != 1 {
		t.Fatalf("%d publish.refused, want 1", len(refused))
	}
	d := refused[0].Data.(event.PublishRefused)
	if d.Reason != "bad_name" || d.Code != 5 || len(refused[0].Stream) > 300 || d.Protocol != "rtmp" || !d.Addr.IsValid() {
		t.Errorf("publish.refused says %+v of %.20s", d, refused[0].Stream)
	}

	n.publish(t, "s")
	r, leave, err := playFLV(t, n, "live/s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadPacket(); err != nil {
		t.Fatal(err)
	}
	leave()
	until(t, func() bool { return len(j.of(event.TypePlayEnded)) == 1 })
	e := j.of(event.TypePlayEnded)[0]
	if is := n.hub.Find(stream.Key{Space: "default", App: "live", Name: "s"}).Push().Sequence; e.Sequence != is {
		t.Errorf("play.ended has the sequence %q of the push %q", e.Sequence, is)
	}
	if d := e.Data.(event.PlayEnded); e.Stream != "s" || d.Bytes == 0 || d.Reason == "" || d.Protocol != "flv" || !d.NodeAddr.IsLoopback() {
		t.Errorf("play.ended says %+v of %s", d, e.Stream)
	}
}
