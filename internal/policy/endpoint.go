package policy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
)

// Endpoint is the URL of a server of somebody else that Weir calls because the
// policy says so. Who may change the policy must not by that reach what only
// this machine can reach: such a URL is refused when it is set, and since a
// name may lead anywhere, each address again when it is dialled (MayDial).
type Endpoint string

// bare returns e without its query, which is three asterisks.
func (e Endpoint) bare() string {
	if path, query, _ := strings.Cut(string(e), "?"); query != "" {
		return path + "?" + hidden
	}
	return string(e)
}

// MayDial reports whether a connection to an Endpoint may go to the address a:
// one of the public Internet, or one that is in allowed.
func MayDial(a netip.Addr, allowed []Network) bool {
	a = a.Unmap().WithZone("")
	return contains(allowed, a) || public(a)
}

// GuardDial returns the Control of a net.Dialer that connects only where
// MayDial allows, wherever a name has led to this time.
func GuardDial(allowed []Network) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !MayDial(ap.Addr(), allowed) {
			return ErrPrivate
		}
		return nil
	}
}

// ErrPrivate is why a connection to an Endpoint is not made.
var ErrPrivate = errors.New("its address is not on the public Internet")

// Sign returns what a request to an Endpoint carries in Weir-Signature: the
// version of the scheme, and the HMAC-SHA-256 of its parts, one after the other,
// in hex.
func (s Secret) Sign(parts ...string) string {
	mac := hmac.New(sha256.New, []byte(s.Reveal()))
	for _, p := range parts {
		io.WriteString(mac, p)
	}
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

// special is what the IANA registries of special-purpose addresses (RFC 6890)
// say is not of the public Internet, and what carries an IPv4 address inside
// (RFC 3056, 4380, 6052), through which one of those could be meant.
var special = func() (list []netip.Prefix) {
	for s := range strings.FieldsSeq(`
		0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12
		192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15
		198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
		2001::/23 2001:db8::/32 2002::/16 3fff::/20`) {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

// global is the part of IPv6 that is given out at all (RFC 4291, 2.4).
var global = netip.MustParsePrefix("2000::/3")

func public(a netip.Addr) bool {
	if !a.Is4() && !global.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// problem returns what is wrong with e, of which only the host is quoted, or nil.
func (e Endpoint) problem(allowed []Network) error {
	u, err := url.Parse(string(e))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" {
		return errors.New("must be a URL such as https://auth.example.com/check")
	}
	if u.User != nil || u.Fragment != "" || strings.ContainsAny(string(e), "#\\") {
		return errors.New("must be without user, password and fragment")
	}
	if u.RawQuery == hidden {
		return fmt.Errorf("has %s for its query, which is how one is shown; write the query itself", hidden)
	}
	host, ok := CanonicalHost(u.Host)
	if !ok {
		return fmt.Errorf("%.128q is not a host", u.Host)
	}
	addr, err := netip.ParseAddr(host)
	switch last := host[strings.LastIndexByte(host, '.')+1:]; {
	case err == nil && MayDial(addr, allowed):
		return nil
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		if contains(allowed, netip.AddrFrom4([4]byte{127, 0, 0, 1})) || contains(allowed, netip.IPv6Loopback()) {
			return nil
		}
	case err != nil && strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x"):
		return nil
	case err != nil: // which a C library would read as an address: 2130706433, 0x7f.1
		return fmt.Errorf("%.128q is not a host", u.Host)
	}
	return fmt.Errorf("%q is not on the public Internet; if it is meant, name its network in allow_networks", host)
}
