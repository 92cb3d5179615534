package ffmpeg

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoolSheds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(1, 2)
		release := make(chan struct{})
		var mu sync.Mutex
		log := map[string]error{}
		var all sync.WaitGroup
		do := func(ctx context.Context, stream, name string) {
			all.Go(func() {
				err := p.Do(ctx, stream, func() (time.Duration, error) { <-release; return 0, nil })
				mu.Lock()
				log[name] = err
				mu.Unlock()
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		do(t.Context(), "a", "a1") // runs
		do(t.Context(), "a", "a2") // waits, until a3 comes
		do(ctx, "b", "b1")         // waits, until its context ends
		do(t.Context(), "a", "a3") // waits, until d comes: the queue is full then
		cancel()
		synctest.Wait()
		do(t.Context(), "c", "c1") // waits, and runs
		do(t.Context(), "d", "d1") // the same
		if s := p.Stats(); s != (PoolStats{Running: 1, Waiting: 2, Shed: 2}) {
			t.Errorf("Stats() = %+v", s)
		}
		close(release)
		all.Wait()
		want := map[string]error{"a1": nil, "a2": ErrShed, "a3": ErrShed, "b1": context.Canceled, "c1": nil, "d1": nil}
		for name, err := range want {
			if !errors.Is(log[name], err) {
				t.Errorf("%s: %v, want %v", name, log[name], err)
			}
		}
		if s := p.Stats(); s != (PoolStats{Ran: 3, Shed: 2}) {
			t.Errorf("at last, Stats() = %+v", s)
		}
	})
}

func TestPoolRunsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(1, 100)
		var order []string
		var all sync.WaitGroup
		first := make(chan struct{})
		all.Go(func() { p.Do(t.Context(), "first", func() (time.Duration, error) { <-first; return 0, nil }) })
		synctest.Wait()
		for i := range 5 {
			all.Go(func() {
				p.Do(t.Context(), fmt.Sprint(i), func() (time.Duration, error) { order = append(order, fmt.Sprint(i)); return 0, nil })
			})
			synctest.Wait()
		}
		close(first)
		all.Wait()
		if got := fmt.Sprint(order); got != "[0 1 2 3 4]" {
			t.Errorf("order = %v", got)
		}
	})
}

func TestPoolRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(1, 1)
		began := time.Now()
		for i := range 3 {
			err := p.Do(t.Context(), "a", func() (time.Duration, error) {
				if at, want := time.Since(began), time.Duration(i)*time.Second; at != want {
					t.Errorf("job %d runs after %v, want %v", i, at, want)
				}
				return time.Second, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		if at := time.Since(began); at != 2*time.Second {
			t.Errorf("the caller of the last job waited %v, as if for the rest after it", at)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := p.Stats(); s != (PoolStats{Ran: 3}) {
			t.Errorf("Stats() = %+v", s)
		}
	})
}
