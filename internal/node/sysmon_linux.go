package node

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// sysmonSlack is how late, in ns, the runtime's monitor thread may wake up.
const sysmonSlack = "1000000"

// relaxSysmon makes the Go runtime's monitor thread wake up less often. Each
// time the process leaves idleness that thread looks around every 20 µs for a
// while. A server that writes to a thousand sockets 25 times a second leaves
// idleness as often, and spent a sixth of its processor time on it when it had
// one processor. The thread sleeps with the timer slack that the kernel keeps
// for each thread; with a millisecond of it the looks are a millisecond apart.
//
// It must be called before the process has started many threads: the runtime
// starts the monitor first of all.
func relaxSysmon() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	ids := make([]int, 0, len(tasks))
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil && id > os.Getpid() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return errors.New("the process has one thread")
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", slices.Min(ids)), []byte(sysmonSlack), 0)
}
