// Package durable writes files so that they are whole after a crash or a power
// cut.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteFile writes a file for the eyes of this user only. After a crash it is as
// before or as it is to be; when WriteFile has returned nil, as it is to be.
// Beside it, with .new behind its name, nothing else must be; two calls for one
// file must not be at the same time.
func WriteFile(name string, data []byte) error {
	next := name + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, name)
	}
	if err != nil {
		os.Remove(next)
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
