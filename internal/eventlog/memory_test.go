package eventlog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
)

// fullDisk is a folder for a journal on a disk that can be full.
type fullDisk struct {
	t    *testing.T
	dir  string
	file string
}

func newFullDisk(t *testing.T) *fullDisk {
	t.Helper()
	dir := smallDisk(t, "1m")
	return &fullDisk{t, filepath.Join(dir, "journal"), filepath.Join(dir, "fill")}
}

func (d *fullDisk) fill() {
	d.t.Helper()
	if err := os.WriteFile(d.file, make([]byte, 2<<20), 0o600); err == nil {
		d.t.Fatal("the disk is not full")
	}
}

func (d *fullDisk) clear() {
	d.t.Helper()
	if err := os.Remove(d.file); err != nil {
		d.t.Fatal(err)
	}
}

// killFull ends a Log whose disk takes nothing: so nothing says that it ended.
func killFull(l *Log) {
	l.stop()
	l.tasks.Wait()
	l.facts.close()
	l.crowd.close()
}

// long is started with much in it.
func long(stream, sequence string) event.Event {
	e := started(stream, sequence)
	d := e.Data.(event.PublishStarted)
	d.TcURL = strings.Repeat("x", 20_000)
	e.Data = d
	return e
}

// The disk is full, and a NATS elsewhere is there: facts go to it from memory,
// which does not grow, and whoever waits for them goes on. When the disk is
// there again everything is as before, whatever became of NATS meanwhile.
func TestFromMemory(t *testing.T) {
	o := newOutside(t)
	w := o.world()
	d := newFullDisk(t)
	options := func(o *Options) { o.Dir, o.SegmentBytes = d.dir, 100_000 }
	l := w.open(options)
	var want []event.Event
	say := func(n int, from string) {
		for i := range n {
			e := long("a", fmt.Sprint(from, i))
			l.Emit(e)
			end := ended("a", fmt.Sprint(from, i))
			l.Emit(end)
			if want = append(want, e, end); i%20 == 0 {
				flush(t, l)
			}
		}
		flush(t, l)
	}
	say(10, "well")
	settle(t, l)
	d.fill()
	say(100, "full") // 2 MB
	if h := l.Health(); !h.Degraded || h.QueueBytes > 500_000 {
		t.Errorf("with a full disk, Health = %+v", h)
	}
	settle(t, l)
	same(t, all(t, l, Filter{}), want)

	// NATS goes and comes, with facts on their way, and the disk in between.
	failing := func() bool {
		l.facts.mu.Lock()
		defer l.facts.mu.Unlock()
		return l.facts.failure != nil
	}
	for i := range 4 {
		k := talk(l, 3, 10*time.Millisecond)
		eventually(t, "the disk is seen to be full", failing)
		k.more(20)
		o.Stop()
		k.more(20)
		if i%2 == 0 {
			d.clear()
			eventually(t, "the disk is seen to be there", func() bool { return !failing() })
		}
		k.more(20)
		o.Resume()
		k.more(20)
		if i%2 == 1 {
			d.clear()
			eventually(t, "the disk is seen to be there", func() bool { return !failing() })
		}
		k.more(20)
		want = append(want, k.end()...)
		if i == 3 {
			break
		}
		settle(t, l)
		d.fill()
	}
	say(10, "well again")
	settle(t, l)
	same(t, all(t, l, Filter{}), want)
	eventually(t, "the log is well", func() bool {
		_, err := os.Stat(l.facts.wholeFile())
		return err == nil && !l.Health().Degraded
	})
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = w.open(options)
	say(10, "afterwards")
	settle(t, l)
	var got []Entry
	for _, e := range all(t, l, Filter{}) { // without the ends of what the talkers have left open
		if d, ok := e.Event.Data.(event.PublishEnded); !ok || d.Reason != event.ReasonNodeDied {
			got = append(got, e)
		}
	}
	same(t, got, want)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.After(patience); !ok(); {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A process is killed on a full disk, so that what became of some pushes is in
// NATS only. The next one ends those that are open, and no other, whether NATS
// is there when it starts or comes later.
func TestKilledFromMemory(t *testing.T) {
	for _, when := range []string{"NATS there", "NATS away", "disk back"} {
		t.Run(when, func(t *testing.T) {
			o := newOutside(t)
			w := o.world()
			d := newFullDisk(t)
			dir := d.dir
			options := func(o *Options) { o.Dir, o.Beat = dir, 100*time.Millisecond }
			away := when == "NATS away"
			l := w.open(options)
			l.Emit(started("a", "both on disk"))
			l.Emit(ended("a", "both on disk"))
			l.Emit(started("a", "begun on disk"))
			l.Emit(started("b", "open on disk"))
			settle(t, l)
			d.fill()
			l.Emit(ended("a", "begun on disk"))
			l.Emit(started("a", "both in memory"))
			l.Emit(ended("a", "both in memory"))
			l.Emit(started("a", "open in memory"))
			flush(t, l)
			if when == "disk back" { // which then has all that there is to know
				d.clear()
				eventually(t, "the files have everything", func() bool {
					_, err := os.Stat(l.facts.wholeFile())
					return err == nil
				})
				dir = t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(d.dir)); err != nil {
					t.Fatal(err)
				}
				killFull(l)
				o.Stop() // so that nothing else can be asked
				away = true
			} else {
				killFull(l)
				d.clear()
			}
			if when == "NATS away" {
				o.Stop()
			}
			l = w.open(options)
			l.Emit(started("c", "new"))
			l.Emit(ended("c", "new"))
			flush(t, l)
			if away { // and it ends before NATS is there
				killFull(l)
				l = w.open(options)
				flush(t, l)
				o.Resume()
			}
			counts := func() map[string]int {
				settle(t, l)
				m := map[string]int{}
				for _, e := range all(t, l, Filter{}) {
					m[string(e.Event.Type)+" "+e.Event.Sequence]++
				}
				return m
			}
			eventually(t, "all ends are told", func() bool { return counts()["publish.ended open in memory"] > 0 })
			got := counts()
			for _, push := range []string{"both on disk", "begun on disk", "open on disk", "both in memory", "open in memory", "new"} {
				if s, e := got["publish.started "+push], got["publish.ended "+push]; s != 1 || e != 1 {
					t.Errorf("the push %q has %d beginnings and %d ends", push, s, e)
				}
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			l = w.open(options)
			if again := counts(); len(again) != len(got) {
				t.Errorf("a start later there are %d facts, want %d", len(again), len(got))
			}
		})
	}
}
