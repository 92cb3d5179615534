package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"weir/internal/media/rtmp"
)

// A target is where a publisher or player goes.
type target struct {
	addr netip.AddrPort
	host string // of the URL, with its port if it has one

	path string // HTTP: with query

	app, tcURL, name string // RTMP; the name with its query
}

// A resolver turns URLs into targets and asks for each host once.
type resolver struct {
	ctx   context.Context
	known map[string]netip.AddrPort
}

// target resolves a template in which {n} stands for the stream's number.
func (r *resolver) target(template string, n int) (target, error) {
	raw := strings.ReplaceAll(template, "{n}", strconv.Itoa(n))
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, err
	}
	t := target{host: u.Host, path: u.RequestURI()}
	port := "80"
	switch u.Scheme {
	case "http":
	case "rtmp":
		port = "1935"
		if t.tcURL, t.name, err = rtmp.SplitURL(raw); err != nil {
			return target{}, err
		}
		t.app = strings.TrimPrefix(strings.TrimPrefix(t.tcURL, "rtmp://"), u.Host+"/")
	default:
		return target{}, fmt.Errorf("%s: the scheme must be rtmp or http", raw)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	key := net.JoinHostPort(u.Hostname(), port)
	if addr, ok := r.known[key]; ok {
		t.addr = addr
		return t, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(r.ctx, "ip", u.Hostname())
	if err != nil {
		return target{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return target{}, fmt.Errorf("%s: port: %w", raw, err)
	}
	ip := ips[0].Unmap()
	for _, v4 := range ips { // "localhost" is both, and servers often listen on one
		if v4.Unmap().Is4() {
			ip = v4.Unmap()
			break
		}
	}
	t.addr = netip.AddrPortFrom(ip, uint16(number))
	r.known[key] = t.addr
	return t, nil
}
