//go:build !unix

package storage

import (
	"errors"
	"os"
)

// lockFile fails: the system has no lock that ends with the process.
func lockFile(*os.File, bool) error { return errors.ErrUnsupported }
