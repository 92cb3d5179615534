package api

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// admit says whether a request may have come from where it says, and answers
// for CORS. A page that was brought here by DNS rebinding has a host name of
// its own; one of a stranger has an origin that nobody has listed.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) error {
	if !s.knows(r.Host) {
		return problem(http.StatusMisdirectedRequest, kindHost,
			"the API does not answer to the host name %.128q: use an IP address or localhost, or add the name to api.hosts", r.Host)
	}
	origin := r.Header.Values("Origin")
	if len(origin) == 0 {
		return nil
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	if len(origin) == 1 && slices.Contains(s.Origins, origin[0]) {
		h.Set("Access-Control-Allow-Origin", origin[0])
		h.Set("Access-Control-Expose-Headers", "ETag, Idempotency-Replayed, Retry-After, Weir-Policy-Version")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID")
			h.Set("Access-Control-Max-Age", "600")
		}
		return nil
	}
	if len(origin) == 1 && sameOrigin(origin[0], r) {
		return nil
	}
	return problem(http.StatusForbidden, kindOrigin, "pages of this origin may not call the API: add it to api.origins if they should")
}

// sameOrigin reports whether a page of that origin came from where r goes.
func sameOrigin(origin string, r *http.Request) bool {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	u, err := url.Parse(origin)
	return err == nil && u.Scheme == scheme && strings.EqualFold(u.Host, r.Host) && r.Host != ""
}

// knows reports whether the Host header names this server.
func (s *Server) knows(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

// Protect returns h behind the same checks as an endpoint of that role and
// Global scope; it is for what stands beside the API.
func (s *Server) Protect(role Role, h http.Handler) http.Handler {
	rt := &route{Method: http.MethodGet, Role: role, Scope: Global}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w}
		if err := s.admit(a, r); err != nil {
			s.refuse(a, r, err)
			return
		}
		s.serve(rt, a, r, h.ServeHTTP)
	})
}
