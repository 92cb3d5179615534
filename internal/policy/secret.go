package policy

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
)

// Secret is a key or a password of the policy. Whatever prints, logs or
// encodes one gets three asterisks; only Reveal gives its text. The zero
// Secret is none.
type Secret struct {
	text *string // behind a pointer, which is all that printing by reflection finds
}

// NewSecret returns the Secret of that text.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Reveal returns the text, for a computation that needs it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal reports whether s and t have the same text, in a time that does not
// depend on where they differ.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

const hidden = "***"

func (s Secret) String() string               { return hidden }
func (s Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, hidden) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(hidden) }

// UnmarshalText never fails, because such an error would quote the text;
// Problems says what is wrong with a secret.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = NewSecret(string(b))
	return nil
}

// keyByte is the alphabet of keys that are joined with other text and hashed.
// The guide has letters and digits (l.207); "-" and "_" are in use as well.
func keyByte(c byte) bool { return alphanumeric(c) || c == '-' || c == '_' }

// printable is visible ASCII.
func printable(c byte) bool { return '!' <= c && c <= '~' }

// EachSecret calls f for every secret in v, a pointer to a struct, that is set;
// f may change it.
func EachSecret(v any, f func(path string, s *Secret)) { eachSecret("", reflect.ValueOf(v).Elem(), f) }

func eachSecret(path string, v reflect.Value, f func(path string, s *Secret)) {
	switch v.Kind() {
	case reflect.Struct:
		if s, ok := v.Addr().Interface().(*Secret); ok {
			if !s.IsZero() {
				f(path, s)
			}
			return
		}
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
				eachSecret(strings.TrimPrefix(path+"."+name, "."), v.Field(i), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachSecret(fmt.Sprintf("%s[%d]", path, i), v.Index(i), f)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			eachSecret(path, v.Elem(), f)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() { // their values cannot be changed in place
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			eachSecret(path+"."+quoteKey(k.String()), e, f)
			if !reflect.DeepEqual(e.Interface(), v.MapIndex(k).Interface()) { // many may be reading
				v.SetMapIndex(k, e)
			}
		}
	}
}

// KeepSecrets gives each secret of new that is three asterisks, as secrets are
// shown, the one that is at its place in old: so what was read can be changed and
// written back. Both are pointers to structs of one type; old may be nil. List
// elements are found by their name or id, others by their number. It returns the
// paths of those that have nothing to be kept.
func KeepSecrets(new, old any) (missing []string) {
	v := reflect.ValueOf(new).Elem()
	was := reflect.Zero(v.Type())
	if old != nil {
		was = reflect.ValueOf(old).Elem()
	}
	keepSecrets("", v, was, &missing)
	return missing
}

func keepSecrets(path string, v, old reflect.Value, missing *[]string) {
	switch v.Kind() {
	case reflect.Struct:
		if s, ok := v.Addr().Interface().(*Secret); ok {
			if s.Reveal() != hidden {
				return
			}
			if was := old.Interface().(Secret); !was.IsZero() {
				*s = was
			} else {
				*missing = append(*missing, path)
			}
			return
		}
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
				keepSecrets(strings.TrimPrefix(path+"."+name, "."), v.Field(i), old.Field(i), missing)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			keepSecrets(fmt.Sprintf("%s[%d]", path, i), v.Index(i), counterpart(v.Index(i), i, old), missing)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			was := reflect.Zero(v.Type().Elem())
			if !old.IsNil() {
				was = old.Elem()
			}
			keepSecrets(path, v.Elem(), was, missing)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			was := old.MapIndex(k)
			if !was.IsValid() {
				was = reflect.Zero(e.Type())
			}
			keepSecrets(path+"."+quoteKey(k.String()), e, was, missing)
			v.SetMapIndex(k, e)
		}
	}
}

// counterpart returns the element of old that e, at index i of its list, was.
func counterpart(e reflect.Value, i int, old reflect.Value) reflect.Value {
	if e.Kind() == reflect.Struct {
		fields := settings(e.Type())
		for _, name := range []string{"name", "id"} {
			f, ok := fields[name]
			if !ok || e.Field(f).Kind() != reflect.String {
				continue
			}
			for j := range old.Len() {
				if old.Index(j).Field(f).String() == e.Field(f).String() {
					return old.Index(j)
				}
			}
			return reflect.Zero(e.Type())
		}
	}
	if i < old.Len() {
		return old.Index(i)
	}
	return reflect.Zero(e.Type())
}
