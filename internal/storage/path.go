package storage

import (
	"path"
	"slices"
	"strings"
)

// How a Directory names files. An object's file has the object's key for its
// path, so that people find and copy recordings without Weir. Three things
// are not that simple:
//
//   - What else is known of an object is in a hidden file of JSON beside it,
//     .weir-NAME, which a plain copy of the folder takes along.
//   - File systems have names of 255 bytes at most, and a stream's name alone can have those. A
//     longer part of a key is cut: its first bytes become a folder
//     ".weir+FIRST", and the rest is "+REST" in there.
//   - Parts that are being written are below .weir in the root.
const (
	reserved    = ".weir" // how no part of a key begins
	folder      = ".weir" // of the directory's own files, in the root
	longPrefix  = ".weir+"
	notePrefix  = ".weir-"
	maxFileName = 200 // leaves room for the prefixes and the suffix
)

// pathOf returns the file of a key that CheckKey accepts.
func pathOf(key string) string {
	if !slices.ContainsFunc(strings.Split(key, "/"), func(p string) bool { return len(p) > maxFileName }) {
		return key
	}
	var parts []string
	for p := range strings.SplitSeq(key, "/") {
		for rest := ""; ; rest = "+" {
			if len(p) <= maxFileName {
				parts = append(parts, rest+p)
				break
			}
			parts = append(parts, longPrefix+p[:maxFileName])
			p = p[maxFileName:]
		}
	}
	return strings.Join(parts, "/")
}

// noteOf returns the file that says what is known of the object in file.
func noteOf(file string) string {
	dir, name := path.Split(file)
	return dir + notePrefix + name
}
