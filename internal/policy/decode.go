package policy

import (
	"cmp"
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a text that is decoded. What is nested deeper or is longer than any
// configuration is an attack, and costs no more than its bytes.
const (
	MaxText  = 4 << 20 // bytes
	maxDepth = 32      // sections and lists within each other
	maxKeys  = 1000    // of one section in YAML, for which time grows with their square

	maxProblems = 100 // of one text; more help nobody
)

// DecodeProblem is one thing that is wrong with a text.
type DecodeProblem struct {
	Line, Column int    // from 1
	Path         string // of the setting: listen.rtmp, or empty
	Message      string // what is wrong and what would be right
}

// Decode fills v, a pointer to a struct, from YAML, by the yaml tags of its
// type; see Decoder. It returns nil if nothing is wrong.
func Decode(data []byte, v any) []DecodeProblem {
	var d Decoder
	d.YAML(data, v)
	return d.Problems()
}

// DecodeJSON is Decode for JSON, with the same names and values: durations
// are "20s", sizes "64KiB" or a number.
func DecodeJSON(data []byte, v any) []DecodeProblem {
	var d Decoder
	d.JSON(data, v)
	return d.Problems()
}

// A Decoder fills a struct from text by its yaml tags, which are the names in
// JSON too. It is strict: what the struct has no field for, what is there
// twice, and what a field cannot hold, is a problem. It goes on after a
// problem, so that all of them are seen at once, and remembers where each
// setting stands for problems that are found later.
//
// The fields may be structs, slices, pointers, maps from names, texts, numbers,
// booleans, durations, and whatever implements encoding.TextUnmarshaler. An
// element of a list, or what a pointer leads to, starts with its SetDefaults if
// it has that method. Texts of a Secret, and of what has one, are never quoted.
type Decoder struct {
	at       map[string]spot // by path
	problems []DecodeProblem
	noted    map[string]bool // paths of problems
}

// YAML fills v, a pointer to a struct. A byte order mark is allowed, which some
// editors write; a second document is not.
func (d *Decoder) YAML(data []byte, v any) { d.fill(data, v, parseYAML) }

// JSON is YAML for JSON. A byte order mark is not allowed.
func (d *Decoder) JSON(data []byte, v any) { d.fill(data, v, parseJSON) }

func (d *Decoder) fill(data []byte, v any, parse func([]byte) (*node, *DecodeProblem)) {
	d.at = map[string]spot{"": {1, 1}}
	d.noted = map[string]bool{}
	n, problem := parse(data)
	if problem != nil {
		d.problems = append(d.problems, *problem)
	}
	if n != nil {
		d.value("", n, reflect.ValueOf(v).Elem())
	}
}

// Add notes a problem with the setting at path, at its place in the text or
// that of the nearest setting around it. One problem of a setting is enough.
func (d *Decoder) Add(path, format string, args ...any) {
	if d.noted[path] && path != "" || len(d.problems) >= maxProblems {
		return
	}
	d.noted[path] = true
	near := path
	at, ok := d.at[near]
	for !ok {
		near = near[:max(0, strings.LastIndexAny(near, ".["))]
		at, ok = d.at[near]
	}
	d.problems = append(d.problems, DecodeProblem{at.line, at.column, path, fmt.Sprintf(format, args...)})
}

// Problems returns all that is wrong, in the order of the text.
func (d *Decoder) Problems() []DecodeProblem {
	slices.SortStableFunc(d.problems, func(a, b DecodeProblem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return d.problems
}

// node is a value in a text.
type node struct {
	kind kind
	text string // of a scalar as it stands there; of kindText what it means
	at   spot

	secret, def bool   // of what is to be encoded: it is a secret; it has its default
	shown       string // the same: what is shown instead of text; empty: text

	keys []key   // of a section, one for each of list
	list []*node // of a section or list
}

type key struct {
	name string
	at   spot
}

type kind uint8

const (
	kindNull kind = iota
	kindText
	kindBool
	kindInteger
	kindFloat
	kindSection
	kindList
	kindForeign // an anchor, alias or tag of YAML, or what else nobody needs
)

// scalar returns the text of a scalar as it stands there.
func (n *node) scalar() (string, bool) {
	switch n.kind {
	case kindText, kindBool, kindInteger, kindFloat:
		return n.text, true
	}
	return "", false
}

func (n *node) String() string {
	switch n.kind {
	case kindNull:
		return "nothing"
	case kindSection:
		return "a section"
	case kindList:
		return "a list"
	case kindForeign:
		return n.text
	}
	return "text"
}

// defaulter is a list element or an optional section that starts with other
// values than zero.
type defaulter interface{ SetDefaults() }

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[Secret]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *Decoder) value(path string, n *node, v reflect.Value) {
	if _, ok := n.scalar(); ok || d.at[path] == (spot{}) {
		d.at[path] = n.at
	}
	null := n.kind == kindNull
	switch {
	case v.CanAddr() && v.Addr().Type().Implements(textType):
		if s, ok := n.scalar(); !ok {
			d.Add(path, "must be one word, not %s", n)
		} else if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			d.Add(path, "%v, not %.64q", err, s)
		}
	case v.Type() == durationType:
		s, _ := n.scalar()
		t, err := time.ParseDuration(s)
		if err != nil {
			d.Add(path, "must be a duration such as 150ms, 20s or 1m30s, not %s", describe(n, v.Type()))
			return
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.Pointer && null && v.Type().Elem().Kind() == reflect.Struct:
		// To have the section, with its defaults, is not the same as not to have it.
		d.Add(path, "must be a section of settings, not nothing; write {} for its defaults")
	case v.Kind() == reflect.Pointer:
		v.Set(fresh(v.Type().Elem()).Addr())
		d.value(path, n, v.Elem())
	case v.Kind() == reflect.Struct:
		if !null {
			d.section(path, n, v)
		}
	case v.Kind() == reflect.Slice:
		if !null {
			d.sequence(path, n, v)
		}
	case v.Kind() == reflect.Map:
		if !null {
			d.named(path, n, v)
		}
	default:
		d.scalar(path, n, v)
	}
}

// scalar fills text, a boolean or a number.
func (d *Decoder) scalar(path string, n *node, v reflect.Value) {
	s, single := n.scalar()
	switch v.Kind() {
	case reflect.String:
		switch {
		case n.kind == kindText:
			v.SetString(s)
		case single:
			v.SetString(s)
			d.Add(path, "must be text; write it in quotes: %.64q", s)
		default:
			d.Add(path, "must be text, not %s", n)
		}
	case reflect.Bool:
		if n.kind != kindBool {
			d.Add(path, "must be true or false, not %s", describe(n, v.Type()))
			return
		}
		v.SetBool(s == "true")
	case reflect.Int, reflect.Int64, reflect.Int32:
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil || n.kind != kindInteger {
			d.Add(path, "must be a whole number, not %s", describe(n, v.Type()))
			return
		}
		v.SetInt(i)
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		i, err := strconv.ParseUint(s, 10, v.Type().Bits())
		if err != nil || n.kind != kindInteger {
			d.Add(path, "must be a whole number from 0 on, not %s", describe(n, v.Type()))
			return
		}
		v.SetUint(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || n.kind != kindInteger && n.kind != kindFloat || f-f != 0 { // no infinity
			d.Add(path, "must be a number, not %s", describe(n, v.Type()))
			return
		}
		v.SetFloat(f)
	default:
		panic("policy: no decoding for " + v.Type().String())
	}
}

func (d *Decoder) section(path string, n *node, v reflect.Value) {
	if n.kind != kindSection {
		d.Add(path, "must be a section of settings, not %s", describe(n, v.Type()))
		return
	}
	fields := settings(v.Type())
	seen := map[string]bool{}
	for i, k := range n.keys {
		sub := strings.TrimPrefix(path+"."+quoteKey(k.name), ".")
		field, known := fields[k.name]
		switch {
		case !known:
			d.at[sub] = k.at
			d.Add(sub, "unknown setting; the settings here are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case seen[k.name]:
			d.at[sub] = k.at
			d.Add(sub, "set twice")
		default:
			seen[k.name] = true
			d.at[sub] = k.at
			d.value(sub, n.list[i], v.Field(field))
		}
	}
}

// named fills a map, whose keys are the owner's own names.
func (d *Decoder) named(path string, n *node, v reflect.Value) {
	if n.kind != kindSection {
		d.Add(path, "must be a section, not %s", describe(n, v.Type().Elem()))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i, k := range n.keys {
		sub := strings.TrimPrefix(path+"."+quoteKey(k.name), ".")
		name := reflect.ValueOf(k.name).Convert(v.Type().Key())
		d.at[sub] = k.at
		if v.MapIndex(name).IsValid() {
			d.Add(sub, "set twice")
			continue
		}
		elem := fresh(v.Type().Elem())
		d.value(sub, n.list[i], elem)
		v.SetMapIndex(name, elem)
	}
}

func (d *Decoder) sequence(path string, n *node, v reflect.Value) {
	if n.kind != kindList {
		d.Add(path, "must be a list, not %s", describe(n, v.Type().Elem()))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.list), len(n.list)))
	for i, e := range n.list {
		v.Index(i).Set(fresh(v.Type().Elem()))
		d.value(fmt.Sprintf("%s[%d]", path, i), e, v.Index(i))
	}
}

// settings returns the fields of a struct that are settings, by name.
func settings(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = i
		}
	}
	return fields
}

// fresh returns an addressable value of type t with the defaults of one.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if x, ok := v.Interface().(defaulter); ok {
		x.SetDefaults()
	}
	return v.Elem()
}

// quoteKey returns the name of a key as a part of a path, short and printable
// whatever it is.
func quoteKey(s string) string {
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '_' && s[i] != '-' {
			return fmt.Sprintf("%.64q", s)
		}
	}
	return s[:min(len(s), 64)]
}

// describe says what n, which was to be a t, is: a scalar by its text, others
// by their kind. What may be meant as a secret is not quoted.
func describe(n *node, t reflect.Type) string {
	s, ok := n.scalar()
	if ok && !hasSecret(t) {
		return fmt.Sprintf("%.64q", s)
	}
	return n.String()
}

// hasSecret reports whether a t has a secret of its own.
func hasSecret(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return t == secretType
	}
	for f := range t.Fields() {
		if f.Type == secretType {
			return true
		}
	}
	return false
}
