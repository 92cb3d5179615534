package policy

import (
	"reflect"
	"strings"
)

// Schema returns the JSON Schema (draft 2020-12, as OpenAPI 3.1 has it) of what
// DecodeJSON takes for a value of type t, a struct: it says the same names,
// words and forms. The bounds of numbers are left to Problems.
func Schema(t reflect.Type) map[string]any { return schema(t, fresh(t)) }

// forms are the patterns of what is written as text, and examples of it.
var forms = map[reflect.Type]struct{ pattern, example string }{
	durationType:                {`^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`, "1m30s"},
	reflect.TypeFor[Size]():     {`^[0-9]+ ?(B|kB|MB|GB|KiB|MiB|GiB)?$`, "64MiB"},
	reflect.TypeFor[Network]():  {`^[0-9a-fA-F.:]+(/[0-9.]+)?$`, "192.0.2.0/24"},
	reflect.TypeFor[Time]():     {`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2})$`, "2030-01-31T20:00:00Z"},
	reflect.TypeFor[Endpoint](): {`^$|^https?://`, "https://auth.example.com/check"},
}

// schema returns that of a t whose default is def.
func schema(t reflect.Type, def reflect.Value) map[string]any {
	s := map[string]any{}
	form, formed := forms[t]
	worded, hasWords := reflect.Zero(t).Interface().(interface{ words() []string })
	switch {
	case t == secretType:
		return map[string]any{"type": "string", "description": "A secret. It is shown as " + hidden + "; to write that keeps the one that is there."}
	case hasWords:
		s["type"], s["enum"] = "string", worded.words()
	case formed:
		s["type"], s["pattern"], s["examples"] = "string", form.pattern, []any{form.example}
		if t.Kind() == reflect.Int64 && t != durationType { // a Size may be a number
			s["type"] = []any{"string", "integer"}
		}
	case t.Kind() == reflect.Pointer:
		if s = schema(t.Elem(), fresh(t.Elem())); def.IsNil() {
			delete(s, "default") // it need not be set at all
		}
		return s
	case reflect.PointerTo(t).Implements(textType):
		s["type"] = "string"
	case t.Kind() == reflect.Struct:
		properties := map[string]any{}
		for i := range t.NumField() {
			if name := t.Field(i).Tag.Get("yaml"); name != "" {
				properties[name] = schema(t.Field(i).Type, def.Field(i))
			}
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
		return s
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = []any{"array", "null"}, schema(t.Elem(), fresh(t.Elem()))
		return s
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schema(t.Elem(), fresh(t.Elem()))
		return s
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.String:
		s["type"] = "string"
	case t.Kind() == reflect.Float64:
		s["type"] = "number"
	default:
		s["type"] = "integer"
		if strings.HasPrefix(t.Kind().String(), "uint") {
			s["minimum"] = 0
		}
	}
	if v := defaultOf(def); v != nil {
		s["default"] = v
	}
	return s
}

// defaultOf returns a default as JSON has it; nil where nothing is the default.
func defaultOf(def reflect.Value) any {
	n := Encoding{}.value(def, def)
	switch {
	case n == nil || n.kind == kindText && (n.text == "" || strings.HasPrefix(n.text, "invalid")):
		return nil
	case n.kind == kindText:
		return n.text
	}
	return def.Interface()
}
