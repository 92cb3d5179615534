package bus

import (
	"fmt"
	"strings"
)

// Token returns name as one token of a subject or of a key. Letters, digits,
// "_" and "-" stand for themselves, every other byte is "=" and two hexadecimal
// digits, and the empty name is "=". So a dot in a name separates nothing, no
// name is a wildcard, and two names are never the same token.
func Token(name string) string {
	if name == "" {
		return "="
	}
	plain := true
	for i := range len(name) {
		plain = plain && isPlain(name[i])
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// Name returns the name whose Token is token. What Token does not return is an
// error.
func Name(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case isPlain(c):
		case c == '=' && i+2 < len(token):
			hi, lo := strings.IndexByte(digits, token[i+1]), strings.IndexByte(digits, token[i+2])
			if c = byte(hi<<4 | lo); hi < 0 || lo < 0 || isPlain(c) {
				return "", fmt.Errorf("%q is not the token of a name", token)
			}
			i += 2
		default:
			return "", fmt.Errorf("%q is not the token of a name", token)
		}
		b.WriteByte(c)
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("%q is not the token of a name", token)
	}
	return b.String(), nil
}

const digits = "0123456789ABCDEF"

func isPlain(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-'
}
