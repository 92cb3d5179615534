//go:build !unix

package node

import "os"

// lockFile does nothing: the system has no lock that ends with the process.
func lockFile(*os.File) error { return nil }
