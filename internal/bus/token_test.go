package bus

import (
	"regexp"
	"testing"
)

func TestToken(t *testing.T) {
	for name, want := range map[string]string{
		"": "=", "live": "live", "a.b": "a=2Eb", "*": "=2A", ">": "=3E", "a b": "a=20b", "=": "=3D", "é": "=C3=A9", "A_z-9": "A_z-9",
	} {
		if got := Token(name); got != want {
			t.Errorf("Token(%q) = %q, want %q", name, got, want)
		}
		if got, err := Name(want); got != name || err != nil {
			t.Errorf("Name(%q) = %q, %v, want %q", want, got, err, name)
		}
	}
	for _, token := range []string{"", "a.b", "=2", "=2e", "=41", "a=", "==", "=ZZ", "*"} {
		if name, err := Name(token); err == nil {
			t.Errorf("Name(%q) = %q, want an error", token, name)
		}
	}
}

var isToken = regexp.MustCompile(`^[=_A-Za-z0-9-]+$`)

func FuzzToken(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		token := Token(s)
		if name, err := Name(token); name != s || err != nil || !isToken.MatchString(token) {
			t.Errorf("Token(%q) = %q, whose Name is %q, %v", s, token, name, err)
		}
		if name, err := Name(s); err == nil && Token(name) != s {
			t.Errorf("Name(%q) = %q, whose Token is %q", s, name, Token(name))
		}
	})
}
