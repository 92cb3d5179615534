package policy

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Encoding is how a value is written. The zero Encoding is what may be shown to
// anybody who may see the policy: what differs from its default, secrets masked.
type Encoding struct {
	// Full writes every setting; otherwise those that have their default are
	// left out, as a person would do.
	Full bool

	// Secret returns what is written for a secret; nil: three asterisks.
	Secret func(Secret) string

	// Bare writes three asterisks for the query of an Endpoint, in which there
	// may be secrets.
	Bare bool
}

// Clear is the Encoding.Secret that hides nothing: of what stays on this
// machine, or is asked for in so many words.
func Clear(s Secret) string { return s.Reveal() }

// YAML returns v, a struct or a pointer to one, as a document that Decode
// reads: each setting on a line of its own, in the order of the type.
func (e Encoding) YAML(v any) []byte {
	var b bytes.Buffer
	n := e.tree(v)
	if len(n.list) == 0 {
		return []byte("{}\n")
	}
	writeYAML(&b, n, "")
	return b.Bytes()
}

// JSON is YAML for DecodeJSON, on one line.
func (e Encoding) JSON(v any) []byte {
	var b strings.Builder
	e.tree(v).json(&b, false)
	return []byte(b.String())
}

// tree returns v as the values of a text.
func (e Encoding) tree(v any) *node {
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Pointer {
		rv = rv.Elem()
	}
	addressable := reflect.New(rv.Type()).Elem()
	for i := range rv.NumField() {
		if f := rv.Type().Field(i); f.IsExported() {
			addressable.Field(i).Set(rv.Field(i))
		}
	}
	return e.section(addressable, fresh(rv.Type()))
}

// section returns the settings of v that differ from those of def.
func (e Encoding) section(v, def reflect.Value) *node {
	n := &node{kind: kindSection}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		if name == "" || !e.Full && same(v.Field(i), def.Field(i)) {
			continue
		}
		if c := e.value(v.Field(i), def.Field(i)); c != nil {
			c.def = same(v.Field(i), def.Field(i))
			n.keys, n.list = append(n.keys, key{name: name}), append(n.list, c)
		}
	}
	return n
}

// value returns what is written for v, nil for what cannot be written because
// it is nothing.
func (e Encoding) value(v, def reflect.Value) *node {
	if s, ok := v.Interface().(Secret); ok {
		switch {
		case s.IsZero():
			return nil
		case e.Secret == nil:
			return &node{kind: kindText, text: hidden, secret: true}
		}
		return &node{kind: kindText, text: e.Secret(s), secret: true}
	}
	if p, ok := v.Interface().(Endpoint); ok {
		n := &node{kind: kindText, text: string(p), shown: p.bare()}
		if e.Bare {
			n.text = n.shown
		}
		return n
	}
	if v.Type() == durationType {
		return &node{kind: kindText, text: formatDuration(v.Interface().(time.Duration))}
	}
	if v.Kind() != reflect.Pointer && v.CanAddr() && v.Addr().Type().Implements(textType) {
		if z, ok := v.Interface().(interface{ IsZero() bool }); ok && z.IsZero() {
			return nil
		}
		return &node{kind: kindText, text: textOf(v)}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return e.value(v.Elem(), fresh(v.Type().Elem()))
	case reflect.Struct:
		return e.section(v, def)
	case reflect.Slice:
		n := &node{kind: kindList}
		for i := range v.Len() {
			n.list = append(n.list, e.value(v.Index(i), fresh(v.Type().Elem())))
		}
		return n
	case reflect.Map:
		n := &node{kind: kindSection}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(k))
			if c := e.value(elem, fresh(v.Type().Elem())); c != nil {
				n.keys, n.list = append(n.keys, key{name: k.String()}), append(n.list, c)
			}
		}
		return n
	case reflect.String:
		return &node{kind: kindText, text: v.String()}
	case reflect.Bool:
		return &node{kind: kindBool, text: strconv.FormatBool(v.Bool())}
	case reflect.Float64:
		return &node{kind: kindFloat, text: formatFloat(v.Float())}
	}
	return &node{kind: kindInteger, text: fmt.Sprint(v.Interface())}
}

// same reports whether a and b are written in the same way.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Slice, reflect.Map:
		if a.Len() == 0 && b.Len() == 0 {
			return true
		}
	case reflect.Struct:
		if s, ok := a.Interface().(Secret); ok {
			return s.Equal(b.Interface().(Secret))
		}
		if t, ok := a.Interface().(Time); ok {
			return t.Equal(b.Interface().(Time).Time)
		}
		if a.Addr().Type().Implements(textType) {
			break
		}
		for i := range a.NumField() {
			if a.Type().Field(i).Tag.Get("yaml") != "" && !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// textOf returns what UnmarshalText of v's type would read as v.
func textOf(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		if err != nil {
			panic(fmt.Sprintf("policy: %T cannot be written: %v", m, err)) // no type of ours does so
		}
		return string(b)
	}
	return fmt.Sprint(v.Interface())
}

// formatDuration is Duration.String without zeros that nobody writes: 1m30s,
// 2h, 168h.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// formatFloat writes f so that it is no whole number's text.
func formatFloat(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// writeYAML writes what is in a section or list, each entry on a line that
// begins with indent.
func writeYAML(b *bytes.Buffer, n *node, indent string) {
	for i, e := range n.list {
		b.WriteString(indent)
		inner := indent + "  "
		if n.kind == kindList {
			b.WriteString("-")
		} else {
			b.WriteString(yamlText(n.keys[i].name) + ":")
		}
		switch {
		case len(e.list) == 0:
			b.WriteString(" " + yamlScalar(e) + "\n")
		case n.kind == kindList: // its first line goes on after the hyphen
			var c bytes.Buffer
			writeYAML(&c, e, inner)
			b.WriteString(" ")
			b.Write(c.Bytes()[len(inner):])
		case e.kind == kindList && !slices.ContainsFunc(e.list, func(c *node) bool { _, ok := c.scalar(); return !ok }) && len(e.list) <= 8:
			b.WriteString(" [")
			for i, c := range e.list {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(yamlScalar(c))
			}
			b.WriteString("]\n")
		default:
			b.WriteString("\n")
			writeYAML(b, e, inner)
		}
	}
}

// yamlScalar returns what has nothing below it.
func yamlScalar(n *node) string {
	switch n.kind {
	case kindText:
		return yamlText(n.text)
	case kindSection:
		return "{}"
	case kindList:
		return "[]"
	}
	return n.text
}

// plain is text that is nothing but text in YAML too, unless it is a word or
// number of YAML's own.
var plain = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./+-]*(:[A-Za-z0-9_./+-]+|://[A-Za-z0-9_./+-]+)*$`)

// yamlText returns a text as YAML, in quotes where it needs them.
func yamlText(s string) string {
	word := slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s))
	_, notInt := strconv.ParseInt(strings.ReplaceAll(s, ":", ""), 0, 64)
	_, notFloat := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if plain.MatchString(s) && !word && notInt != nil && notFloat != nil {
		return s
	}
	return string(quote(s))
}

// quote returns s in double quotes with the escapes that JSON and YAML share.
func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// json writes n on one line; show masks its secrets and leaves defaults out.
func (n *node) json(b *strings.Builder, show bool) {
	switch n.kind {
	case kindSection, kindList:
		open, end := byte('{'), byte('}')
		if n.kind == kindList {
			open, end = '[', ']'
		}
		b.WriteByte(open)
		first := true
		for i, e := range n.list {
			if show && e.def {
				continue
			}
			if !first {
				b.WriteByte(',')
			}
			first = false
			if n.kind == kindSection {
				b.Write(quote(n.keys[i].name))
				b.WriteByte(':')
			}
			e.json(b, show)
		}
		b.WriteByte(end)
	case kindText:
		if text := n.text; show && n.secret {
			b.Write(quote(hidden))
		} else if show && n.shown != "" {
			b.Write(quote(n.shown))
		} else {
			b.Write(quote(text))
		}
	default:
		b.WriteString(n.text)
	}
}
