// Package e2e tests weir from outside: with the clients that people use, and
// against what its documents say. Most of it needs the build tag e2e, and what
// "make tools" installs.
package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/node"
)

// TestConfigurationIsDocumented compares docs/configuration.md with the
// settings that there are, and the defaults that it gives with theirs.
func TestConfigurationIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z._\\[\\]]+)` \\| (?:`(.*?)` )?\\| .").FindAllStringSubmatch(string(text), -1) {
		got[row[1]] = row[2]
	}
	want := map[string]string{}
	settings(want, "", reflect.ValueOf(node.DefaultConfig()).Elem())
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, ok := got[key]; !ok {
			t.Errorf("%s is not in docs/configuration.md", key)
		} else if value != want[key] {
			t.Errorf("docs/configuration.md gives %s the default %q; it is %q", key, value, want[key])
		}
		delete(got, key)
	}
	for key := range got {
		t.Errorf("docs/configuration.md has the setting %s, which weir has not", key)
	}
}

// settings adds each setting in v to m with its default.
func settings(m map[string]string, path string, v reflect.Value) {
	switch x := v.Interface().(type) {
	case time.Duration:
		s := x.String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		m[path] = s
		return
	case node.Address:
		if x == "" {
			x = "off"
		}
		m[path] = string(x)
		return
	case node.LogLevel:
		m[path] = strings.ToLower(x.String())
		return
	case node.LogFormat:
		m[path] = "text"
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		settings(m, path, v.Elem())
	case reflect.Slice:
		element := reflect.New(v.Type().Elem())
		if d, ok := element.Interface().(interface{ SetDefaults() }); ok {
			d.SetDefaults()
		}
		settings(m, path+"[]", element.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
				settings(m, strings.TrimPrefix(path+"."+name, "."), v.Field(i))
			}
		}
	default:
		m[path] = fmt.Sprint(v.Interface())
	}
}

// TestLinks follows the links between the documents.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
