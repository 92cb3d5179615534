package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what some processes have used, together.
type usage struct {
	CPU     time.Duration // user and system
	RSS     int64         // bytes
	Threads int
}

// Clock ticks a second in /proc: USER_HZ, the same on every architecture that Go knows.
const userHz = 100

// readUsage reads /proc/PID/stat (proc_pid_stat(5)) of each process.
func readUsage(pids []int) (u usage, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return usage{}, fmt.Errorf("read the usage of process %d: %w", pid, err)
		}
		one, err := parseStat(string(b))
		if err != nil {
			return usage{}, fmt.Errorf("read the usage of process %d: %w", pid, err)
		}
		u.CPU += one.CPU
		u.RSS += one.RSS
		u.Threads += one.Threads
	}
	return u, nil
}

func parseStat(s string) (usage, error) {
	// The second field is the name in parentheses, which may hold anything.
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const first = 3 // number of f[0]
	field := func(n int) int64 {
		if n-first >= len(f) {
			return -1
		}
		v, err := strconv.ParseInt(f[n-first], 10, 64)
		if err != nil {
			return -1
		}
		return v
	}
	user, system, threads, rss := field(14), field(15), field(20), field(24)
	if min(user, system, threads, rss) < 0 {
		return usage{}, fmt.Errorf("unknown form of stat: %.100q", s)
	}
	return usage{
		CPU:     time.Duration(user+system) * time.Second / userHz,
		RSS:     rss * int64(os.Getpagesize()),
		Threads: int(threads),
	}, nil
}

// machineTime is how long the machine's cores have worked, all together, and
// how long its host has kept them from it.
type machineTime struct{ busy, stolen time.Duration }

// readMachine reads the first line of /proc/stat (proc_stat(5)).
func readMachine() (t machineTime, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	// cpu user nice system idle iowait irq softirq steal
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return t, fmt.Errorf("unknown form of /proc/stat: %.100q", line)
	}
	for i, s := range f[1:9] {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return t, fmt.Errorf("unknown form of /proc/stat: %.100q", line)
		}
		d := time.Duration(v) * time.Second / userHz
		switch i {
		case 3, 4: // idle, iowait
		case 7:
			t.stolen = d
		default:
			t.busy += d
		}
	}
	return t, nil
}

// ownCPU returns the user and system time of this process.
func ownCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
