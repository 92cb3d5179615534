package node

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weir/internal/api"
)

// adminHandler answers on the admin listener: is the process alive, does it
// take work, what has it done, where does its time go, and the API.
//
// A node that is degraded still takes work, which is what readiness is about:
// media do not depend on the event log. The answer says so in its text.
//
// Whoever can reach a listener on loopback may see metrics and profiles. On any
// other a viewer's token is needed for metrics, and an admin's for profiles,
// which show what is in memory.
func (n *Node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if !n.ready.Load() {
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, cmp.Or(n.degraded(), "ok")+"\n")
	})
	viewer, admin := api.Viewer, api.Admin
	if onLoopback(n.Addr("admin")) {
		viewer, admin = api.Anybody, api.Anybody
	}
	mux.Handle("GET /metrics", n.api.Protect(viewer, promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{})))
	for path, h := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		mux.Handle("GET /debug/pprof/"+path, n.api.Protect(admin, h))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isAPI(r.URL.Path) { // which redirects nobody, as a ServeMux does
			n.api.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// onLoopback reports whether only this machine can reach a listener.
func onLoopback(a net.Addr) bool {
	if a == nil {
		return false
	}
	addr, err := netip.ParseAddrPort(a.String())
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
