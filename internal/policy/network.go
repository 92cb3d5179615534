package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Network is an address or a range of addresses. It is written 192.0.2.1,
// 192.0.2.0/24, 192.0.2.0/255.255.255.0, 2001:db8::1 or 2001:db8::/32. What
// other programs read as an address too (010.0.0.1, 3221225985) is refused, and
// so is a range with bits set beyond its mask, which nobody means to write.
type Network struct{ netip.Prefix }

// Contains reports whether a is in n. IPv4 is IPv4 also where it is written as
// IPv6, and zones do not count.
func (n Network) Contains(a netip.Addr) bool { return n.Prefix.Contains(a.Unmap().WithZone("")) }

func contains(list []Network, a netip.Addr) bool {
	for _, n := range list {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (n Network) String() string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.Prefix.String()
}

func (n Network) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func (n *Network) UnmarshalText(b []byte) error {
	p, ok := parseNetwork(string(b))
	if !ok {
		return errors.New("must be an address or a range such as 192.0.2.1, 192.0.2.0/24, 192.0.2.0/255.255.255.0 or 2001:db8::/32")
	}
	if p != p.Masked() {
		return fmt.Errorf("must be %v for the range or %v for the address", p.Masked(), p.Addr())
	}
	n.Prefix = p
	return nil
}

func parseNetwork(s string) (netip.Prefix, bool) {
	first, mask, ranged := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(first)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, false
	}
	bits := addr.BitLen()
	if ranged {
		var ok bool
		if bits, ok = maskBits(mask, addr); !ok {
			return netip.Prefix{}, false
		}
	}
	if addr.Is4In6() {
		addr, bits = addr.Unmap(), bits-96
	}
	p := netip.PrefixFrom(addr, bits)
	return p, p.IsValid()
}

// maskBits reads what follows the slash: 24, or 255.255.255.0 for IPv4.
func maskBits(s string, addr netip.Addr) (int, bool) {
	if m, err := netip.ParseAddr(s); err == nil && m.Is4() && addr.Is4() {
		b := m.As4()
		mask := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		for bits := range 33 {
			if mask == ^uint32(0)<<(32-bits) {
				return bits, true
			}
		}
		return 0, false
	}
	bits, err := strconv.Atoi(s)
	return bits, err == nil && strconv.Itoa(bits) == s && 0 <= bits && bits <= addr.BitLen()
}
