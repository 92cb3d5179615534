package session

import (
	"testing"
	"testing/synctest"
	"time"
)

// steady is what a kernel keeps of a sender of size bytes each time that every
// has passed.
type steady struct {
	size  int
	every time.Duration
	begin time.Time
	taken int
	reads int
}

func (s *steady) Read(p []byte) (int, error) {
	s.reads++
	for {
		came := int(time.Since(s.begin)/s.every) * s.size
		if n := min(came-s.taken, len(p)); n > 0 {
			s.taken += n
			return n, nil
		}
		time.Sleep(s.every - time.Since(s.begin)%s.every)
	}
}

func TestCalmReader(t *testing.T) {
	for _, tt := range []struct {
		name        string
		calm        bool
		size        int
		every       time.Duration
		least, most int // reads in a second
	}{
		{"in no hurry", true, 1500, 14 * time.Millisecond, 20, 30},
		{"watched", false, 1500, 14 * time.Millisecond, 70, 75},
		{"too much to leave it", true, 10_000, 5 * time.Millisecond, 350, 500},
		{"seldom", true, 100, 300 * time.Millisecond, 3, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &steady{size: tt.size, every: tt.every, begin: time.Now()}
				r := &calmReader{src: src, hush: func(bool) {}, calm: func() bool { return tt.calm }}
				buf := make([]byte, 8<<10)
				var longest time.Duration
				for time.Since(src.begin) < time.Second {
					before := time.Now()
					if _, err := r.Read(buf); err != nil {
						t.Fatal(err)
					}
					longest = max(longest, time.Since(before))
				}
				if src.reads < tt.least || src.reads > tt.most {
					t.Errorf("%d reads, want %d to %d", src.reads, tt.least, tt.most)
				}
				if longest > tt.every+calmPause {
					t.Errorf("a read took %v", longest)
				}
				if came := int(time.Since(src.begin)/tt.every) * tt.size; came-src.taken > max(calmBytes, tt.size)+len(buf) {
					t.Errorf("%d of %d bytes wait", came-src.taken, came)
				}
			})
		})
	}
}
