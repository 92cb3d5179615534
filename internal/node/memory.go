package node

import (
	"bytes"
	"os"
	"strconv"
)

// assumedMemory is what a machine has that does not say.
const assumedMemory = 4 << 30

// memory returns how many bytes this process may use: what its control group
// allows, or what the machine has.
func memory() int64 {
	least := int64(0)
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			least = lesser(least, number(b))
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if _, rest, ok := bytes.Cut(b, []byte("MemTotal:")); ok {
			kib, _, _ := bytes.Cut(rest, []byte("kB"))
			least = lesser(least, number(kib)<<10)
		}
	}
	if least == 0 {
		return assumedMemory
	}
	return least
}

// lesser returns the lesser of two numbers of which 0 is none.
func lesser(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// number reads a positive number; what is none, as "max", is 0.
func number(b []byte) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0
	}
	return max(0, n)
}
