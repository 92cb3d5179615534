package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Set is kept as documents, each with a version of its own, so that two
// people who change two spaces do not get in each other's way: one for each
// element of a list of named things ("space/demo"), and General for the rest.
// That follows from the fields of Set: a list of named structs is a kind of
// document, and everything else is in General.

// General is the name of the document of all that is not of one space or
// another named thing.
const General = "general"

// Document is one part of a Set.
type Document struct {
	Name  string
	Value any // pointer to a struct: *Space, …
}

// NewDocument returns a pointer to a value with the defaults of what the
// document of that name holds, and with the name where it has one. It fails for
// what is not the name of a document.
func NewDocument(name string) (any, error) {
	if name == General {
		return reflect.New(generalType()).Interface(), nil
	}
	kind, rest, _ := strings.Cut(name, "/")
	for _, f := range kinds() {
		if kindOf(f) != kind {
			continue
		}
		if !ValidName(rest) {
			return nil, fmt.Errorf("%.128q is not a name: %s", rest, NameForm)
		}
		v := fresh(f.Type.Elem())
		v.Field(settings(v.Type())["name"]).SetString(rest)
		return v.Addr().Interface(), nil
	}
	return nil, fmt.Errorf("there are no documents such as %.128q; there are %s", name, strings.Join(kindNames(), ", "))
}

// Documents returns the documents of s, General first and the others in the
// order of s. They share what they hold with s.
func (s *Set) Documents() []Document {
	v := reflect.ValueOf(s).Elem()
	general := reflect.New(generalType())
	for i := range general.Elem().NumField() {
		general.Elem().Field(i).Set(v.FieldByName(general.Elem().Type().Field(i).Name))
	}
	list := []Document{{General, general.Interface()}}
	for _, f := range kinds() {
		all := v.FieldByIndex(f.Index)
		for i := range all.Len() {
			list = append(list, Document{documentName(f, all.Index(i)), all.Index(i).Addr().Interface()})
		}
	}
	return list
}

// NewSet returns the Set of the documents, in their order. It shares with them
// what they hold.
func NewSet(docs []Document) *Set {
	s := new(Set)
	v := reflect.ValueOf(s).Elem()
	for _, d := range docs {
		doc := reflect.ValueOf(d.Value).Elem()
		if d.Name == General {
			for i := range doc.NumField() {
				v.FieldByName(doc.Type().Field(i).Name).Set(doc.Field(i))
			}
			continue
		}
		for _, f := range kinds() {
			if f.Type.Elem() == doc.Type() {
				list := v.FieldByIndex(f.Index)
				list.Set(reflect.Append(list, doc))
			}
		}
	}
	return s
}

// Locate returns the document of s that the setting at path is in, and its path
// there: "spaces[0].apps[1].hold" is "apps[1].hold" of "space/demo".
func (s *Set) Locate(path string) (document, rest string) {
	v := reflect.ValueOf(s).Elem()
	for _, f := range kinds() {
		after, ok := strings.CutPrefix(path, f.Tag.Get("yaml")+"[")
		if !ok {
			continue
		}
		index, rest, _ := strings.Cut(after, "]")
		i := 0
		if _, err := fmt.Sscan(index, &i); err == nil && 0 <= i && i < v.FieldByIndex(f.Index).Len() {
			return documentName(f, v.FieldByIndex(f.Index).Index(i)), strings.TrimPrefix(rest, ".")
		}
	}
	return General, path
}

// Path is the inverse of Locate: the path in s of a setting of a document. It
// reports false if s has no such document.
func (s *Set) Path(document, rest string) (string, bool) {
	if document == General {
		return rest, true
	}
	v := reflect.ValueOf(s).Elem()
	for _, f := range kinds() {
		for i := range v.FieldByIndex(f.Index).Len() {
			if documentName(f, v.FieldByIndex(f.Index).Index(i)) == document {
				path := fmt.Sprintf("%s[%d]", f.Tag.Get("yaml"), i)
				if rest != "" && rest[0] != '[' {
					path += "."
				}
				return path + rest, true
			}
		}
	}
	return "", false
}

// DocumentTypes returns the type of each kind of document by its name.
func DocumentTypes() map[string]reflect.Type {
	m := map[string]reflect.Type{General: generalType()}
	for _, f := range kinds() {
		m[kindOf(f)] = f.Type.Elem()
	}
	return m
}

// kinds returns the fields of Set that are lists of named things.
func kinds() []reflect.StructField {
	var list []reflect.StructField
	for f := range reflect.TypeFor[Set]().Fields() {
		if f.Tag.Get("yaml") != "" && named(f.Type) {
			list = append(list, f)
		}
	}
	return list
}

func named(list reflect.Type) bool {
	if list.Kind() != reflect.Slice || list.Elem().Kind() != reflect.Struct {
		return false
	}
	_, ok := settings(list.Elem())["name"]
	return ok
}

// kindOf returns the word of a kind: that of the list, as of one.
func kindOf(f reflect.StructField) string { return strings.TrimSuffix(f.Tag.Get("yaml"), "s") }

func kindNames() []string {
	list := []string{General}
	for _, f := range kinds() {
		list = append(list, kindOf(f)+"/NAME")
	}
	slices.Sort(list)
	return list
}

func documentName(f reflect.StructField, v reflect.Value) string {
	return kindOf(f) + "/" + v.Field(settings(v.Type())["name"]).String()
}

// generalType is a struct of the fields of Set that are in no other document.
func generalType() reflect.Type {
	var fields []reflect.StructField
	for f := range reflect.TypeFor[Set]().Fields() {
		if f.Tag.Get("yaml") != "" && !named(f.Type) {
			fields = append(fields, reflect.StructField{Name: f.Name, Type: f.Type, Tag: f.Tag})
		}
	}
	return reflect.StructOf(fields)
}
