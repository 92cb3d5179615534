package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
)

// testJournal opens the journal in dir, and runs it until the test ends.
func testJournal(t *testing.T, dir string, change func(*journal)) (*journal, *found) {
	t.Helper()
	j := &journal{dir: dir, log: testLog(), segmentSize: 1 << 20, limit: 1 << 30, queueLimit: 1 << 20, beat: time.Hour}
	if change != nil {
		change(j)
	}
	f, err := openJournal(j)
	if err != nil {
		t.Fatal(err)
	}
	go j.run() // ends with close
	t.Cleanup(j.close)
	return j, f
}

// note is a record that says n.
func note(n int) record {
	return record{subject: "weir.facts.x", data: fmt.Appendf(nil, "%d", n), at: time.Now()}
}

// notes returns what the journal says.
func notes(t *testing.T, j *journal) []string {
	t.Helper()
	w := &walk{j: j}
	defer w.close()
	j.mu.Lock()
	first := j.segs[0]
	j.mu.Unlock()
	w.seek(place{seg: first})
	var list []string
	for {
		it, ok, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return list
		}
		list = append(list, string(it.data))
	}
}

// upTo checks that list counts from 0 to n-1.
func upTo(t *testing.T, list []string, n int) {
	t.Helper()
	for i := range max(n, len(list)) {
		if i >= n || i >= len(list) || list[i] != fmt.Sprint(i) {
			t.Fatalf("the journal has %d notes, want %d; %v", len(list), n, list[max(0, min(i-2, len(list))):min(len(list), i+3)])
		}
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	n := 0
	for range 5 { // processes
		j, f := testJournal(t, dir, func(j *journal) { j.segmentSize = 1000 })
		if !f.clean {
			t.Error("the process before did not end in order")
		}
		upTo(t, notes(t, j), n)
		for range 300 {
			if !j.append(note(n)) {
				t.Fatal("the journal is full")
			}
			if n++; n%7 == 0 {
				if err := j.flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := j.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		upTo(t, notes(t, j), n)
		if j.waiting() != n {
			t.Errorf("%d wait, want %d", j.waiting(), n)
		}
		j.close()
	}
	if list, err := segments(dir); err != nil || len(list) < 10 {
		t.Errorf("%d segments, %v, want many", len(list), err)
	}
}

// What was acknowledged goes, and nothing else, at any time and after any
// start.
func TestAcknowledge(t *testing.T) {
	dir := t.TempDir()
	j, _ := testJournal(t, dir, func(j *journal) { j.segmentSize = 500 })
	for i := range 500 {
		j.append(note(i))
		if i%10 == 0 {
			if err := j.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &walk{j: j}
	defer w.close()
	w.seek(place{seg: j.segs[0]})
	acked := 0
	for range 20 {
		for range rand.IntN(30) {
			it, ok, err := w.next()
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			if string(it.data) != fmt.Sprint(acked) {
				t.Fatalf("got %s, want %d", it.data, acked)
			}
			acked++
			j.ack(it.next, uint64(acked), time.Time{})
		}
		if j.waiting() != 500-acked {
			t.Errorf("%d wait, want %d", j.waiting(), 500-acked)
		}
	}
	j.close()
	j, _ = testJournal(t, dir, nil)
	if j.waiting() != 500-acked {
		t.Errorf("after a start %d wait, want %d", j.waiting(), 500-acked)
	}
	l := &lane{journal: j}
	w = &walk{j: j}
	defer w.close()
	w.seek(l.start())
	if it, ok, err := w.next(); !ok || err != nil || string(it.data) != fmt.Sprint(acked) {
		t.Errorf("after a start comes %s, %v, %v, want %d", it.data, ok, err, acked)
	}
}

// A loss of power leaves behind whatever it likes, after what was on disk.
func TestTornTail(t *testing.T) {
	const n = 50
	made := t.TempDir()
	j, _ := testJournal(t, made, nil)
	for i := range n {
		j.append(note(i))
	}
	if err := j.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(j.segs[0].path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(j.segs[0].path)
	frame := len(appendFrame(nil, kindFact, factPayload("weir.facts.x", []byte("49"))...))
	garbage := make([]byte, 5000)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	for what, b := range map[string][]byte{
		"cut":     whole[:len(whole)-1-rand.IntN(frame-1)],
		"zeros":   append(bytes.Clone(whole[:len(whole)-frame]), make([]byte, 4096)...),
		"garbage": append(bytes.Clone(whole[:len(whole)-frame]), garbage...),
		"half":    append(bytes.Clone(whole[:len(whole)-frame/2]), make([]byte, 100)...),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, f := testJournal(t, dir, nil)
		if f.torn == 0 || f.clean {
			t.Errorf("%s: found %+v", what, f)
		}
		upTo(t, notes(t, j), n-1)
		j.append(note(n - 1))
		if err := j.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		upTo(t, notes(t, j), n)
	}
	for _, short := range []int{0, 1, headerSize - 1} { // the file was only just made
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), whole[:short], 0o600); err != nil {
			t.Fatal(err)
		}
		j, _ := testJournal(t, dir, nil)
		upTo(t, notes(t, j), 0)
	}
}

// What is not a journal is left alone.
func TestForeignFile(t *testing.T) {
	for content, want := range map[string]string{
		strings.Repeat("x", 100):                  "is not a journal of Weir",
		"WEIRLOG\x03" + strings.Repeat("x", 1000): "has version 3, and this Weir knows only up to 2",
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "0000000000000001.journal")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(&journal{dir: dir, log: testLog()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("opened %.10q: %v, want %q", content, err, want)
		}
		if b, err := os.ReadFile(file); string(b) != content {
			t.Errorf("%.10q was changed: %v", content, err)
		}
	}
}

// A block of the disk goes bad: what is before and in other segments stays.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	j, _ := testJournal(t, dir, func(j *journal) { j.segmentSize = 1000 })
	for i := range 200 {
		j.append(note(i))
		if err := j.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	second := j.segs[1]
	b, err := os.ReadFile(second.path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0x10
	if err := os.WriteFile(second.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	list := notes(t, j)
	if len(list) < 150 || len(list) == 200 || list[0] != "0" || list[len(list)-1] != "199" {
		t.Errorf("of a journal with a damaged segment %d notes are left", len(list))
	}
	j.close()
	j, _ = testJournal(t, dir, nil)
	if again := notes(t, j); len(again) != len(list) {
		t.Errorf("after a start %d are left, before %d", len(again), len(list))
	}
}

// The journal takes no more than its limit, but for ends.
func TestJournalFull(t *testing.T) {
	j, _ := testJournal(t, t.TempDir(), func(j *journal) { j.limit, j.segmentSize = 20_000, 1000 })
	n := 0
	for j.append(note(n)) {
		n++
		if n%10 == 0 {
			if err := j.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n < 300 || n > 1000 {
		t.Errorf("a journal of 20 kB took %d notes", n)
	}
	end := note(n)
	end.ends = "x"
	if !j.append(end) {
		t.Error("it took no end")
	}
	if err := j.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	upTo(t, notes(t, j), n+1)
	w := &walk{j: j}
	defer w.close()
	w.seek(place{seg: j.segs[0]})
	for range n {
		it, _, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		j.ack(it.next, 1, time.Time{})
	}
	if !j.append(note(n + 1)) {
		t.Error("it takes nothing although there is room again")
	}
}

// Where there was no room for the beginning of a push there is no end either,
// and whoever waits for that beginning is told. What has begun can end.
func TestFullAtTheBeginning(t *testing.T) {
	o := newOutside(t)
	l := o.world().open(func(o *Options) { o.JournalBytes = 100_000 })
	o.Stop()
	n := 0
	for ; l.emit(started("a", fmt.Sprint(n))); n++ { // until it is full
		flush(t, l)
	}
	refused := fmt.Sprint(n)
	if n < 50 || n > 1000 {
		t.Fatalf("a journal of 100 kB took %d starts", n)
	}
	if err := l.FlushPush(t.Context(), refused); !errors.Is(err, ErrFull) {
		t.Errorf("FlushPush of a push for which there was no room = %v", err)
	}
	if err := l.FlushPush(t.Context(), "0"); err != nil {
		t.Errorf("FlushPush of another one = %v", err)
	}
	l.Emit(ended("a", refused))
	l.Emit(ended("a", "0"))
	if st := l.Stats(); st.Omitted[event.TypePublishStarted] != 1 || st.Omitted[event.TypePublishEnded] != 1 || st.Emitted[event.TypePublishEnded] != 1 {
		t.Errorf("%d starts and %d ends are left out, want one of each; %d ends are there, want 1",
			st.Omitted[event.TypePublishStarted], st.Omitted[event.TypePublishEnded], st.Emitted[event.TypePublishEnded])
	}
	if len(l.facts.refused) != 0 {
		t.Errorf("of a push that is over is remembered: %v", l.facts.refused)
	}
	o.Resume()
	settle(t, l)
	ends := all(t, l, Filter{Types: []event.Type{event.TypePublishEnded}})
	if len(ends) != 1 || ends[0].Event.Sequence != "0" {
		t.Errorf("the log has the ends %v, want that of 0", ends)
	}
}

// The memory before a disk that takes nothing keeps room for ends.
func TestQueueFull(t *testing.T) {
	j := &journal{dir: t.TempDir(), log: testLog(), segmentSize: 1 << 20, limit: 1 << 30, queueLimit: 10_000, beat: time.Hour}
	if _, err := openJournal(j); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ { // nobody writes
		r := note(n)
		r.begins = fmt.Sprint(n)
		if !j.append(r) {
			break
		}
	}
	end := func(i int) bool {
		r := note(n)
		r.ends = fmt.Sprint(i)
		return j.append(r)
	}
	if n < 100 || !end(0) || !end(n-1) || end(n) {
		t.Errorf("after %d beginnings the ends of those are not taken, or that of the next one is", n)
	}
	go j.run() // ends with close
	j.close()
	if len(j.open) != n-2 {
		t.Errorf("%d pushes are open, want %d", len(j.open), n-2)
	}
}

// flush of a journal that is closed, or whose time is over, says so.
func TestFlushEnds(t *testing.T) {
	j := &journal{dir: t.TempDir(), log: testLog(), segmentSize: 1 << 20, limit: 1 << 30, queueLimit: 1 << 20, beat: time.Hour}
	if _, err := openJournal(j); err != nil {
		t.Fatal(err)
	}
	j.append(note(0)) // nobody writes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.flush(ctx); err == nil {
		t.Error("flush succeeded although nothing was written")
	}
	go j.run() // ends with close
	j.close()
	if err := j.flush(t.Context()); err != nil {
		t.Errorf("flush after an end in order: %v", err)
	}
	if j.append(note(1)) {
		t.Error("a journal that is closed takes a note")
	}
}

func FuzzSegment(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.journal"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j := &journal{dir: dir, log: testLog(), segmentSize: 1 << 20, limit: 1 << 30, queueLimit: 1 << 20, beat: time.Hour}
		if _, err := openJournal(j); err != nil {
			return
		}
		defer j.file.Close()
		facts := 0
		for _, s := range j.segs {
			facts += int(s.facts)
		}
		if n := len(notes(t, j)); n != facts {
			t.Errorf("%d facts are read, and %d counted", n, facts)
		}
		if n := j.waiting(); n < 0 || n > facts {
			t.Errorf("of %d facts %d wait", facts, n)
		}
		if at := (&lane{journal: j}).start(); at.seg == nil {
			t.Error("there is nowhere to go on")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decode(b)
		if err == nil && len(list) > maxBatch {
			t.Errorf("%d events in one message", len(list))
		}
		for _, e := range list {
			(&Filter{Space: "a"}).match(&e)
		}
	})
}
