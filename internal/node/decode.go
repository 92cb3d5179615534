package node

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"weir/internal/policy"
)

// ConfigError is all that is wrong with a configuration file.
type ConfigError struct {
	File     string
	Problems []Problem // in the order of the file
}

// Problem is one thing that is wrong with a configuration file.
type Problem struct {
	Line, Column int
	Path         string // of the setting: listen.rtmp
	Message      string
}

// Error has a line for each problem: weir.yaml:7:5: listen.rtmp: must be …
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, p.Line, p.Column)
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// A decoder fills a struct from YAML by its yaml tags. It is strict: what the
// struct has no field for, and what a field cannot hold, is a problem. It goes
// on after a problem, so that all of them are seen at once, and remembers
// where each setting stands for problems that are found later.
type decoder struct {
	at       map[string]*token.Position // by path
	problems []Problem
}

// decode fills v, a pointer to a struct, from the YAML in data.
func (d *decoder) decode(data []byte, v any) {
	d.at = map[string]*token.Position{"": {Line: 1, Column: 1}}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	if len(docs) > 1 {
		d.at["-"] = position(docs[1])
		d.add("-", "a second document in one file")
	}
	if len(docs) > 0 {
		d.value("", docs[0], reflect.ValueOf(v).Elem())
	}
}

func (d *decoder) syntax(err error) {
	p := Problem{Line: 1, Column: 1, Message: err.Error()}
	var ye yaml.Error
	if errors.As(err, &ye) {
		p.Message = ye.GetMessage()
		if t := ye.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	d.problems = append(d.problems, p)
}

// add notes a problem with the setting at path, at its place in the file or
// that of the nearest setting around it. One problem of a setting is enough.
func (d *decoder) add(path, format string, args ...any) {
	if slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Path == path && path != "" }) {
		return
	}
	near := path
	for d.at[near] == nil {
		near = near[:max(0, strings.LastIndexAny(near, ".["))]
	}
	pos := d.at[near]
	d.problems = append(d.problems, Problem{pos.Line, pos.Column, strings.TrimPrefix(path, "-"), fmt.Sprintf(format, args...)})
}

// err returns all problems as one error about file, or nil.
func (d *decoder) err(file string) error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &ConfigError{file, d.problems}
}

// defaulter is a list element or an optional section that starts with other
// values than zero.
type defaulter interface{ SetDefaults() }

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if _, ok := scalar(n); ok || d.at[path] == nil {
		d.at[path] = position(n)
	}
	null := n.Type() == ast.NullType
	switch {
	case v.CanAddr() && v.Addr().Type().Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		if s, ok := scalar(n); !ok {
			d.add(path, "must be one word, not %s", kind(n))
		} else if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			d.add(path, "%v, not %.64q", err, s)
		}
	case v.Type() == durationType:
		s, _ := scalar(n)
		t, err := time.ParseDuration(s)
		if err != nil {
			d.add(path, "must be a duration such as 150ms, 20s or 1m30s, not %s", describe(n, v.Type()))
			return
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.Pointer && null && v.Type().Elem().Kind() == reflect.Struct:
		// To have the section, with its defaults, is not the same as not to have it.
		d.add(path, "must be a section of settings, not nothing; write {} for its defaults")
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		if x, ok := v.Interface().(defaulter); ok {
			x.SetDefaults()
		}
		d.value(path, n, v.Elem())
	case v.Kind() == reflect.Struct:
		if !null {
			d.mapping(path, n, v)
		}
	case v.Kind() == reflect.Slice:
		if !null {
			d.sequence(path, n, v)
		}
	case v.Kind() == reflect.String:
		if s, ok := n.(*ast.StringNode); ok {
			v.SetString(s.Value)
		} else if l, ok := n.(*ast.LiteralNode); ok {
			v.SetString(l.Value.Value)
		} else if s, ok := scalar(n); ok {
			v.SetString(s)
			d.add(path, "must be text; write it in quotes: %q", s)
		} else {
			d.add(path, "must be text, not %s", kind(n))
		}
	case v.Kind() == reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			d.add(path, "must be true or false, not %s", describe(n, v.Type()))
		}
	case v.Kind() == reflect.Int:
		s, _ := scalar(n)
		i, err := strconv.Atoi(s)
		if err != nil || n.Type() != ast.IntegerType {
			d.add(path, "must be a whole number, not %s", describe(n, v.Type()))
			return
		}
		v.SetInt(int64(i))
	default:
		panic("node: no decoding for " + v.Type().String())
	}
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.add(path, "must be a section of settings, not %s", describe(n, v.Type()))
		return
	}
	fields := map[string]int{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = i
		}
	}
	seen := map[string]bool{}
	for _, entry := range m.Values {
		key := entry.Key.GetToken()
		sub := strings.TrimPrefix(path+"."+key.Value, ".")
		i, known := fields[key.Value]
		switch {
		case !known:
			d.at[sub] = key.Position
			d.add(sub, "unknown setting; the settings here are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case seen[key.Value]:
			d.at[sub] = key.Position
			d.add(sub, "set twice")
		default:
			seen[key.Value] = true
			d.at[sub] = key.Position
			d.value(sub, entry.Value, v.Field(i))
		}
	}
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(path, "must be a list, not %s", describe(n, v.Type().Elem()))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, e := range s.Values {
		elem := v.Index(i)
		if x, ok := elem.Addr().Interface().(defaulter); ok {
			x.SetDefaults()
		}
		d.value(fmt.Sprintf("%s[%d]", path, i), e, elem)
	}
}

// position returns where n begins.
func position(n ast.Node) *token.Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // its own token is the first colon
	}
	return n.GetToken().Position
}

// scalar returns the text of a scalar as it stands in the file.
func scalar(n ast.Node) (string, bool) {
	switch n.Type() {
	case ast.StringType, ast.IntegerType, ast.FloatType, ast.BoolType:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe says what n, which was to be a t, is: a scalar by its text, others
// by their kind. What may be meant as a secret is not quoted.
func describe(n ast.Node, t reflect.Type) string {
	s, ok := scalar(n)
	switch {
	case ok && secret(t):
		return "text"
	case ok:
		return fmt.Sprintf("%.64q", s)
	}
	return kind(n)
}

// secret reports whether a t has a secret of its own.
func secret(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for f := range t.Fields() {
		if f.Type == reflect.TypeFor[policy.Secret]() {
			return true
		}
	}
	return false
}

func kind(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType:
		return "a section"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		return "an anchor, alias or tag"
	}
	return "a " + strings.ToLower(n.Type().YAMLName())
}
