package eventlog

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/internal/bus"
	"weir/internal/event"
)

// journalOfVersion1 was written before kindSkip was there, while NATS was away: a push that began
// and ended, and one that began; then it was killed.
const journalOfVersion1 = "" +
	"V0VJUkxPRwFkAIh0Z/RzRonJ5mqNomiXKgAAAMPdI1tteyJ0aW1lIjoiMjAyNi0xMS0yN1QwNjowNToxOS42NzU3NTMyOTdaIn02AQAA9JknwmYrAHdlaXIuZmFjdHMuZGVmYXVsdC5saXZlLjEyYy5wdWJsaXNo" +
	"LnN0YXJ0ZWR7ImlkIjoicWZ6anF4azFhY3p3Y3h3c2s4NDAwYXEzc3ciLCJ0eXBlIjoicHVibGlzaC5zdGFydGVkIiwidGltZSI6IjIwMjYtMDgtMDFUMTI6MDA6MDBaIiwibm9kZSI6Im4xIiwic3BhY2UiOiJk" +
	"ZWZhdWx0IiwiYXBwIjoibGl2ZSIsInN0cmVhbSI6ImEiLCJzZXF1ZW5jZSI6IjEiLCJkYXRhIjp7ImRvbWFpbiI6IiIsInByb3RvY29sIjoiIiwiYWRkciI6IiIsIm5vZGVfYWRkciI6IiIsInNlc3Npb24iOiJz" +
	"IiwiZW5kZWQiOnsidXJsIjoiaHR0cDovL3gvYSJ9fX2aAQAAmqE2WWYpAHdlaXIuZmFjdHMuZGVmYXVsdC5saXZlLjEyYy5wdWJsaXNoLmVuZGVkeyJpZCI6IjJhODZqczMxZDkyYW43cmI1azZ3YTNnMHhyIiwi" +
	"dHlwZSI6InB1Ymxpc2guZW5kZWQiLCJ0aW1lIjoiMjAyNi0wOC0wMVQxMjowMDowMVoiLCJub2RlIjoibjEiLCJzcGFjZSI6ImRlZmF1bHQiLCJhcHAiOiJsaXZlIiwic3RyZWFtIjoiYSIsInNlcXVlbmNlIjoi" +
	"MSIsImRhdGEiOnsiZG9tYWluIjoiIiwicHJvdG9jb2wiOiIiLCJhZGRyIjoiIiwibm9kZV9hZGRyIjoiIiwic2Vzc2lvbiI6InMiLCJzdGFydGVkIjoiMDAwMS0wMS0wMVQwMDowMDowMFoiLCJyZWFzb24iOiJj" +
	"bG9zZWQiLCJjb3VudGVycyI6eyJieXRlcyI6MCwidmlkZW9fZnJhbWVzIjowLCJhdWRpb19mcmFtZXMiOjAsImtleV9mcmFtZXMiOjAsImp1bXBzIjowfX19NgEAAAgOi31mKwB3ZWlyLmZhY3RzLmRlZmF1bHQu" +
	"bGl2ZS4xZTUucHVibGlzaC5zdGFydGVkeyJpZCI6IjA2MHJiejN4NGQ1MHlxMzFubnlmOTZxeDN3IiwidHlwZSI6InB1Ymxpc2guc3RhcnRlZCIsInRpbWUiOiIyMDI2LTA4LTAxVDEyOjAwOjAyWiIsIm5vZGUi" +
	"OiJuMSIsInNwYWNlIjoiZGVmYXVsdCIsImFwcCI6ImxpdmUiLCJzdHJlYW0iOiJiIiwic2VxdWVuY2UiOiIyIiwiZGF0YSI6eyJkb21haW4iOiIiLCJwcm90b2NvbCI6IiIsImFkZHIiOiIiLCJub2RlX2FkZHIi" +
	"OiIiLCJzZXNzaW9uIjoicyIsImVuZGVkIjp7InVybCI6Imh0dHA6Ly94L2IifX19"

// A journal of an older version goes on: what it holds arrives, and its open
// push gets an end. What is written then is of this version.
func TestOlderJournal(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "journal", factsStream)
	b, err := base64.StdEncoding.DecodeString(journalOfVersion1)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "0000000000000001.journal"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := w.open()
	if clean, pushes := l.Before(); clean || pushes != 1 {
		t.Errorf("Before = %v, %d, want one push left open", clean, pushes)
	}
	settle(t, l)
	list := all(t, l, Filter{})
	if len(list) != 4 {
		t.Fatalf("%d facts, want 4", len(list))
	}
	for i, want := range []struct {
		typ      event.Type
		sequence string
		at       time.Time
	}{
		{event.TypePublishStarted, "1", time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)},
		{event.TypePublishEnded, "1", time.Date(2026, 8, 1, 12, 0, 1, 0, time.UTC)},
		{event.TypePublishStarted, "2", time.Date(2026, 8, 1, 12, 0, 2, 0, time.UTC)},
		{event.TypePublishEnded, "2", time.Time{}},
	} {
		e := list[i].Event
		if e.Type != want.typ || e.Sequence != want.sequence || !want.at.IsZero() && !e.Time.Equal(want.at) {
			t.Errorf("fact %d is %s %s of %v, want %+v", i, e.Type, e.Sequence, e.Time, want)
		}
	}
	if end := list[3].Event.Data.(event.PublishEnded); end.Reason != event.ReasonNodeDied || end.Callback == nil {
		t.Errorf("the end is %+v", end)
	}
	files, err := segments(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files are left: %v", len(files), err)
	}
	head := make([]byte, len(magic))
	f, err := os.Open(files[0].path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(head); string(head) != magic {
		t.Errorf("the file that is written to begins with %q, %v", head, err)
	}
}

// A log that a newer Weir has written is left alone.
func TestNewerStream(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	l.Emit(started("a", "1"))
	settle(t, l)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	js := w.bus.JetStream()
	s, err := js.Stream(t.Context(), factsStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Metadata["weir.schema"] = "7"
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), js, Options{Dir: l.opt.Dir})
	var newer *bus.Newer
	if !errors.As(err, &newer) || newer.Has != 7 || newer.Know != schema {
		t.Errorf("opened: %v", err)
	}
	if s, err = js.Stream(t.Context(), factsStream); err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("of its facts are left: %v, %v", s, err)
	}
}
