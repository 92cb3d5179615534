package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/events.schema.json")

// TestSchema compares docs/events.schema.json with the types of facts.
func TestSchema(t *testing.T) {
	const file = "../../docs/events.schema.json"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(schema()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not that of the types; run: go test ./internal/event -run TestSchema -update", file)
	}
}

// TestDocumented looks for each type of fact in docs/events.md.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range Types() {
		if !strings.Contains(string(text), "| `"+string(typ)+"` |") {
			t.Errorf("docs/events.md has no row for %s", typ)
		}
	}
}

type object = map[string]any

// schema returns the JSON Schema of an Event.
func schema() object {
	header := shape(reflect.TypeFor[wire]())
	props := header["properties"].(object)
	props["data"] = object{"type": "object"}
	var kinds []object
	for _, t := range Types() {
		d, err := decoders[t]([]byte("{}"))
		if err != nil {
			panic(err)
		}
		kinds = append(kinds, object{
			"if":   object{"properties": object{"type": object{"const": t}}},
			"then": object{"properties": object{"data": shape(reflect.TypeOf(d))}},
		})
	}
	header["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	header["title"] = "A fact of Weir"
	header["description"] = "Fields are added in later versions, and types of facts; none is taken away or changes its meaning. Durations are nanoseconds."
	header["allOf"] = kinds
	return header
}

// shape returns the schema of a type as encoding/json writes it.
func shape(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[time.Duration]():
		return object{"type": "integer", "description": "nanoseconds"}
	case reflect.TypeFor[netip.Addr]():
		return object{"type": "string", "description": "IP address, or empty"}
	case reflect.TypeFor[netip.AddrPort]():
		return object{"type": "string", "description": "IP address and port, or empty"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shape(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": shape(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": shape(t.Elem())}
	case reflect.Struct:
		props, required := object{}, []string{}
		fields(t, props, &required)
		return object{"type": "object", "properties": props, "required": required}
	}
	return object{"type": "integer"}
}

// fields adds the fields of a struct, those of embedded ones as its own.
func fields(t reflect.Type, props object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			fields(f.Type, props, required)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		props[name] = shape(f.Type)
		if opts == "" {
			*required = append(*required, name)
		}
	}
}
