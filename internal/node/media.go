package node

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"weir/internal/access"
	"weir/internal/record"
	"weir/internal/tracing"
	"weir/web"
)

// responseTime is how long an HTTP response may take to be written; streams,
// which take their connection for themselves, are not held to it.
const responseTime = 2 * time.Minute

// httpServer returns a server with the limits of HTTP.
func (n *Node) httpServer(h http.Handler) *http.Server {
	l := &n.cfg.Limits
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: l.HTTPHeaderTime,
		IdleTimeout:       l.HTTPIdle,
		MaxHeaderBytes:    int(l.HTTPHeaderSize),
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.BaseContext = func(net.Listener) context.Context { return tracing.With(context.Background(), n.tracer) }
	return s
}

// mediaHandler answers on the media listeners: streams by the ending of their
// URL, and a page that says how to push and play.
//
// It is no ServeMux: that would redirect what it finds an unclean path, and a
// name stands in the path as it is or not at all.
func (n *Node) mediaHandler() http.Handler {
	page := n.page()
	objects := http.StripPrefix(strings.TrimSuffix(objectsPath, "/"), n.signer.Handler(n.buckets.Named))
	shifted := n.recorder.Handler(n.gate)
	files, err := fs.Sub(web.Files, "dist")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer n.rescue(r)
		if n.cfg.API.HTTPS && r.TLS != nil && isAPI(r.URL.Path) {
			n.api.ServeHTTP(w, r)
			return
		}
		// Nobody wants a body. Where it ends, this server and a proxy before it
		// may understand in different ways, so it is the end of the connection.
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
			http.Error(w, "400: no transfer coding is known here", http.StatusBadRequest)
			return
		}
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(n.cfg.Limits.HTTPHeaderTime))
		}
		path := r.URL.Path
		switch {
		case !strings.HasPrefix(path, objectsPath) && !record.Serves(path) && !access.Readable(w, r): // other methods are answered
		case path == "/":
			h := w.Header()
			h.Set("Content-Type", "text/html; charset=utf-8")
			h.Set("Content-Security-Policy", "default-src 'self'; connect-src 'self' ws: wss:; img-src data:; media-src 'self' blob:; worker-src blob:; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'")
			h.Set("X-Content-Type-Options", "nosniff")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(page))
		case path == "/player/hls.js" || path == "/player/mpegts.js":
			w.Header().Set("Cache-Control", "max-age=3600")
			http.ServeFileFS(w, r, files, strings.TrimPrefix(path, "/player/"))
		case strings.HasPrefix(path, objectsPath):
			objects.ServeHTTP(w, r)
		case record.Serves(path):
			shifted.ServeHTTP(w, r)
		case strings.HasSuffix(path, ".flv"):
			n.sessions.ServeFLV(w, r)
		case strings.HasSuffix(path, ".m3u8"), strings.HasSuffix(path, ".ts"):
			n.hls.ServeHTTP(w, r)
		default:
			http.Error(w, "404: streams are /{app}/{stream}.flv and /{app}/{stream}/index.m3u8", http.StatusNotFound)
		}
	})
}

// page renders the page for this node.
func (n *Node) page() []byte {
	data := struct{ App, Port string }{App: "live"}
	for _, s := range n.Policy().Spaces {
		for _, a := range s.Apps {
			data.App = a.Name
			break
		}
	}
	if a := n.Addr("rtmp"); a != nil {
		_, data.Port, _ = net.SplitHostPort(a.String())
	}
	var b bytes.Buffer
	if err := template.Must(template.New("page").Parse(web.Page)).Execute(&b, data); err != nil {
		panic(err) // the page is part of the program
	}
	return b.Bytes()
}

// rescue is deferred around a request: it makes a panic the end of its
// connection only, and counts it.
func (n *Node) rescue(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		n.panics.Add(1)
		n.log.Error("panic", "client", r.RemoteAddr, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler) // ends the connection, quietly
}
