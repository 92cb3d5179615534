package policy

import (
	"net/netip"
	"strings"
)

// NameForm says in words what ValidName accepts.
const NameForm = "1 to 128 of A-Z a-z 0-9 . _ -, not starting with . or -"

// ValidName reports whether s may name a space or an app: 1 to 128 of
// [A-Za-z0-9._-], not starting with "." or "-". Names become parts of storage
// keys, file paths and URLs as they are, so nothing in the grammar needs
// escaping anywhere, and two names are the same only if their bytes are.
func ValidName(s string) bool { return validName(s, 128) }

// ValidStreamName is ValidName for streams, which may have 255 characters.
func ValidStreamName(s string) bool { return validName(s, 255) }

func validName(s string, most int) bool {
	if s == "" || len(s) > most || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// CanonicalHost returns the one spelling of the host of a URL or Host header:
// without port and trailing dot, in lower case, an IP address without brackets
// and zone in its shortest form. It reports false for what cannot be a host: host
// names are letters, digits, "-" and "_"; international ones are written in
// their xn-- form.
func CanonicalHost(s string) (string, bool) {
	if strings.Count(s, ":") > 1 {
		return canonicalIPv6(s)
	}
	s, port, _ := strings.Cut(s, ":")
	if strings.Trim(port, "0123456789") != "" {
		return "", false
	}
	s = strings.TrimSuffix(s, ".")
	if strings.Trim(s, "0123456789.") == "" {
		if a, err := netip.ParseAddr(s); err == nil {
			return a.String(), true
		}
	}
	if !validHost(s) {
		return "", false
	}
	return strings.ToLower(s), true
}

// canonicalIPv6 is CanonicalHost for what has more than one colon.
func canonicalIPv6(s string) (string, bool) {
	if inner, rest, ok := strings.Cut(s, "]"); ok {
		port := strings.TrimPrefix(rest, ":")
		inner, ok = strings.CutPrefix(inner, "[")
		if !ok || rest != "" && port == rest || strings.Trim(port, "0123456789") != "" {
			return "", false
		}
		s = inner
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Zone() != "" && !validHost(a.Zone()) {
		return "", false
	}
	return a.Unmap().WithZone("").String(), true
}

// validHost checks a name as RFC 1123, 2.1 has it, underscores allowed because
// they are in use.
func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !alphanumeric(label[i]) && label[i] != '_' && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

// canonicalPattern is CanonicalHost for the name of a Domain, which has no port.
func canonicalPattern(s string) (string, bool) {
	if s == "*" {
		return s, true
	}
	prefix := ""
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		if _, err := netip.ParseAddr(rest); err == nil {
			return "", false
		}
		prefix, s = "*.", rest
	}
	if _, err := netip.ParseAddr(s); err != nil && strings.ContainsAny(s, ":[]") {
		return "", false
	}
	s, ok := CanonicalHost(s)
	return prefix + s, ok
}

// afterDot returns what follows the first dot of s.
func afterDot(s string) string {
	_, rest, _ := strings.Cut(s, ".")
	return rest
}
