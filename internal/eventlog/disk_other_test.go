//go:build !linux

package eventlog

import "testing"

func smallDisk(t *testing.T, _ string) string {
	t.Skip("needs Linux")
	return ""
}
