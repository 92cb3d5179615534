package policy

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
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
