package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// picture is the layers of Weir, the top one first. A package imports only from
// lines below its own: packages on one line do not know each other. Moving a
// package to another line is a change of the design.
const picture = `
	cmd/weir
	node bench callback/sink
	api
	cluster
	session hls record snapshot stats quality callback storage/storagetest transcode
	access eventlog ffmpeg storage
	stream
	event policy bus bus/bustest tracing durable
	media/rtmp
	media/flv media/mpegts media/mp4 media/mkv
	media/av media/amf media/m3u8
	media/bits
`

// vague are names that say nothing about what a package gives.
var vague = []string{"util", "utils", "common", "helpers", "types", "models", "misc"}

func TestImports(t *testing.T) {
	layer := map[string]int{} // by import path
	for i, line := range strings.Split(strings.TrimSpace(picture), "\n") {
		for _, p := range strings.Fields(line) {
			if !strings.HasPrefix(p, "cmd/") {
				p = "internal/" + p
			}
			layer["weir/"+p] = i
		}
	}
	seen := map[string]bool{}
	for _, root := range []string{"../cmd", "../internal"} {
		err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			pkg := path.Join("weir", strings.TrimPrefix(filepath.ToSlash(filepath.Dir(file)), "../"))
			from, ok := layer[pkg]
			if !ok && !seen[pkg] {
				t.Errorf("%s is not in the picture", pkg)
			}
			if slices.Contains(vague, path.Base(pkg)) && !seen[pkg] {
				t.Errorf("%s: a package is named for what it gives", pkg)
			}
			seen[pkg] = true
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range f.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				if !strings.HasPrefix(imported, "weir/") {
					continue
				}
				to, known := layer[imported]
				if !known && imported != "weir/web" { // which imports nothing of ours
					t.Errorf("%s imports %s, which is not in the picture", file, imported)
				}
				if ok && known && to <= from {
					t.Errorf("%s imports %s, which is not below it", file, imported)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for pkg := range layer {
		if !seen[pkg] {
			t.Errorf("%s is in the picture but does not exist", pkg)
		}
	}
}
