// Package e2e tests weir from outside: with the clients that people use, and
// against what its documents say. Most of it needs the build tag e2e, and what
// "make tools" installs.
package e2e

import (
	"cmp"
	"encoding"
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
	"weir/internal/policy"
)

// TestConfigurationIsDocumented compares docs/configuration.md with the
// settings that there are, and the defaults that it gives with theirs.
func TestConfigurationIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9._\\[\\]]+)` \\| (?:`(.*?)` )?\\| .").FindAllStringSubmatch(string(text), -1) {
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

// settings adds each setting in v, which is addressable, to m with its default.
// A domain's settings for publishing are those for playing: they are left out.
func settings(m map[string]string, path string, v reflect.Value) {
	if v.Type() == reflect.TypeFor[policy.Access]() && strings.HasSuffix(path, ".publish") {
		return
	}
	inner := v
	switch v.Kind() {
	case reflect.Slice:
		inner, path = reflect.New(v.Type().Elem()).Elem(), path+"[]"
	case reflect.Pointer:
		if inner = v.Elem(); v.IsNil() {
			inner = reflect.New(v.Type().Elem()).Elem()
		}
	}
	if _, text := inner.Addr().Interface().(encoding.TextUnmarshaler); text || inner.Kind() != reflect.Struct {
		m[path] = defaultText(v)
		return
	}
	if d, ok := inner.Addr().Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	for i := range inner.NumField() {
		if name := inner.Type().Field(i).Tag.Get("yaml"); name != "" {
			settings(m, strings.TrimPrefix(path+"."+name, "."), inner.Field(i))
		}
	}
}

// defaultText returns a default as the document has it: empty where there is none.
func defaultText(v reflect.Value) string {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Pointer {
		return ""
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		if s := x.String(); strings.HasSuffix(s, "m0s") {
			return strings.TrimSuffix(s, "0s")
		}
	case node.Address:
		return cmp.Or(string(x), "off")
	case node.LogLevel:
		return strings.ToLower(x.String())
	case node.LogFormat:
		return cmp.Or(string(x), "text")
	case policy.Secret, policy.Time:
		return ""
	}
	return strings.TrimPrefix(fmt.Sprint(v.Interface()), "invalid")
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
