package eventlog

import (
	"fmt"
	"testing"
	"time"

	"weir/internal/event"
)

func TestScan(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	ctx := t.Context()
	if list, next, err := l.Scan(ctx, Filter{Space: "a"}, 0, 10); err == nil && (len(list) != 0 || next != 1<<seqBits) {
		t.Errorf("of an empty log: %v, %d", list, next)
	}
	var ids []string
	for i := range 30 {
		e := event.New(time.Now(), event.AlertRaised{Alert: fmt.Sprint(i)})
		if i%10 == 9 {
			e = event.New(time.Now(), event.AlertCleared{Alert: fmt.Sprint(i)})
		}
		e.Space, e.App, e.Stream = "a", "live", fmt.Sprintf("s.%d", i%3)
		l.Emit(e)
		ids = append(ids, e.ID)
	}
	r := l.Read(ctx, Filter{}, 0)
	defer r.Close()
	var seqs []uint64
	for range ids {
		e, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, e.Seq)
	}
	for _, tt := range []struct {
		f    Filter
		from uint64
		most int
		want []int
		end  bool
	}{
		{Filter{Space: "a", App: "live", Stream: "s.1"}, 0, 4, []int{1, 4, 7, 10}, false},
		{Filter{Space: "a", App: "live", Stream: "s.1"}, seqs[10] + 1, 100, []int{13, 16, 19, 22, 25, 28}, true},
		{Filter{Space: "a", App: "live", Stream: "s.1"}, seqs[10], 1, []int{10}, false},
		{Filter{Space: "a", Types: []event.Type{event.TypeAlertCleared}}, 0, 2, []int{9, 19}, false},
		{Filter{Types: []event.Type{event.TypeAlertCleared, event.TypeAlertRaised}}, seqs[27], 5, []int{27, 28, 29}, true},
		{Filter{Space: "b"}, 0, 5, nil, true},
		{Filter{Space: "a"}, seqs[29] + 1, 5, nil, true},
	} {
		list, next, err := l.Scan(ctx, tt.f, tt.from, tt.most)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range list {
			got = append(got, e.Event.ID)
		}
		var want []string
		for _, i := range tt.want {
			want = append(want, ids[i])
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v from %d: %v, want %v", tt.f, tt.from, got, want)
		}
		if end := next > seqs[29]; end != tt.end || !end && next != list[len(list)-1].Seq+1 {
			t.Errorf("%+v from %d: next %d", tt.f, tt.from, next)
		}
	}
	if n, err := l.Pending(ctx, Filter{Space: "a", Types: []event.Type{event.TypeAlertCleared}}, seqs[10]); err != nil || n != 2 {
		t.Errorf("Pending = %d, %v, want 2", n, err)
	}
}
