//go:build !linux

package node

// relaxSysmon has nothing to do where threads have no timer slack.
func relaxSysmon() error { return nil }
