package callback

import (
	"math/rand/v2"
	"time"
)

// schedule is when attempts to tell of a fact are made, from the first one on;
// after the last the fact is a dead letter (contract C).
var schedule = func() []time.Duration {
	list := []time.Duration{
		0, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	}
	for at := 24 * time.Hour; at <= Lifetime; at += 12 * time.Hour {
		list = append(list, at)
	}
	return list
}()

// Lifetime is how long after it happened a fact is told at all.
const Lifetime = 72 * time.Hour

// jitter is how much the time between two attempts varies.
const jitter = 0.2

// expired reports whether a fact that happened at that time is not told any
// more when an attempt fails now.
func expired(happened, now time.Time) bool { return now.Sub(happened) >= Lifetime }

// after returns when the attempt at that step of the schedule is due, of a fact
// whose first attempt was at first. It reports false after the last step.
func after(first time.Time, step int) (time.Time, bool) {
	if step >= len(schedule) {
		return time.Time{}, false
	}
	wait := float64(schedule[step] - schedule[step-1])
	return first.Add(schedule[step] + time.Duration(wait*jitter*(2*rand.Float64()-1))), true
}
