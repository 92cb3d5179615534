package access

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"weir/internal/policy"
)

// Op is what a client asks to do.
type Op uint8

const (
	Publish Op = iota + 1
	Play
)

func (o Op) String() string { return o.use().String() }

func (o Op) use() policy.DomainType {
	if o == Publish {
		return policy.Publish
	}
	return policy.Play
}

// The protocols of a Request.
const (
	RTMP  = "rtmp"
	RTMPS = "rtmps"
	FLV   = "flv"
	WSFLV = "ws-flv"
	HLS   = "hls"
)

// Request is what a client asks for, in the same words whatever protocol it
// came by. App and Stream are still to be checked: only a Grant's are valid.
type Request struct {
	Op       Op
	Protocol string

	Host   string // canonical; empty when the client names none; what cannot be a host is kept as sent
	App    string
	Stream string
	File   string // HLS: index.m3u8, playlist.m3u8, master.m3u8, media.m3u8, record.m3u8 or a segment in {app}/{stream}/, or ".m3u8" for {app}/{stream}.m3u8
	Params Params

	// Path is that of an HTTP URL, as sent; empty for RTMP, where it would be
	// /{app}/{stream}. What a URL of type C has before it is in PathHash and
	// PathTime, whatever the protocol.
	Path, PathHash, PathTime string

	Addr netip.AddrPort // of the client; IPv4 is never in its IPv6-mapped form

	TcURL, PageURL, SwfURL, FlashVer string // RTMP, as sent
	Referer, UserAgent               string // HTTP, as sent
}

// path is the path of the URL by which r has come, or could have come.
func (r *Request) path() string {
	if r.Path != "" {
		return r.Path
	}
	return "/" + r.App + "/" + r.Stream
}

// overHTTP reports whether r has come by HTTP.
func (r *Request) overHTTP() bool { return r.Protocol != RTMP && r.Protocol != RTMPS }

// isSegment reports whether r is for a segment of HLS, and not for a playlist.
func (r *Request) isSegment() bool { return r.Protocol == HLS && !strings.HasSuffix(r.File, ".m3u8") }

// LogValue is what a log says of r: no parameters, for they hold secrets, and
// no more of a name than tells it from others.
func (r Request) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("op", r.Op.String()),
		slog.String("protocol", r.Protocol),
		slog.String("host", clip(r.Host)),
		slog.String("app", clip(r.App)),
		slog.String("stream", clip(r.Stream)),
		slog.String("client", r.Addr.String()),
	)
}

func clip(s string) string {
	if len(s) > 255 {
		return s[:255] + "…"
	}
	return s
}

// FromRTMP makes a Request of what connect (app, tcURL) and then publish or
// play (name) say. All three may carry a query, and a parameter in name wins
// over the same in app, and that over tcURL's. The caller adds the fields that
// are no names: Addr, FlashVer and the like, and the Protocol if it is not RTMP.
//
// A path signed by type C begins with two more parts, wherever the client
// divides it.
//
// The host is tcURL's unless a parameter vhost names another. The app is app's
// or, where that is empty, the first part of tcURL's path; a trailing slash and
// the instance "_definst_" are no part of it. "live...vhost...example.com" is
// an old way to write "live?vhost=example.com".
//
// The error is a *Denied.
func FromRTMP(op Op, app, tcURL, name string) (Request, error) {
	host, path, tcQuery := cutURL(tcURL)
	app, appQuery := cutQuery(app)
	name, nameQuery := cutQuery(name)
	app = strings.Trim(app, "/")
	if app == "" {
		app, appQuery = cutQuery(strings.TrimLeft(path, "/"))
		app, _, _ = strings.Cut(app, "/")
	}
	r := Request{Op: op, Protocol: RTMP, App: app, Stream: name, TcURL: tcURL}
	// Clients cut the path into app and name where they like.
	if hash, time, rest, ok := cutSignedPath(app + "/" + name); ok {
		r.PathHash, r.PathTime = hash, time
		r.App, r.Stream = cutLast(rest)
	}
	r.App = strings.TrimSuffix(r.App, "/_definst_")
	return r.withParams(host, nameQuery, appQuery, tcQuery)
}

// Header values of all answers. net/http does not change them.
var (
	anyone      = []string{"*"}
	readMethods = []string{"GET, HEAD, OPTIONS"}
)

// Readable lets pages of every origin read what r asks for, and reports whether
// it asks for something: r is answered if it is neither GET nor HEAD.
func Readable(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyone
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodOptions:
		h["Allow"] = readMethods
		h["Access-Control-Allow-Methods"] = readMethods
		h["Access-Control-Allow-Headers"] = anyone
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	default:
		h["Allow"] = readMethods
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
	return false
}

// FromHTTP makes a Request to play of req's URL: /{app}/{stream}.flv,
// /{app}/{stream}.m3u8, or index.m3u8 and the other playlists and *.ts in
// /{app}/{stream}/. The number of parts of the path tells the forms apart, so a
// stream may be called index; in front of either may stand the two parts of a
// URL signed by type C. Names are taken as they stand in the URL: a
// percent sign is in no name, so no two spellings mean the same stream.
//
// The error is ErrNotStream or a *Denied.
func FromHTTP(req *http.Request) (Request, error) {
	r := Request{
		Op:        Play,
		Referer:   req.Referer(),
		UserAgent: req.UserAgent(),
	}
	if addr, err := netip.ParseAddrPort(req.RemoteAddr); err == nil {
		r.Addr = Unmap(addr)
	}
	path := strings.TrimPrefix(req.URL.EscapedPath(), "/")
	if hash, time, rest, ok := cutSignedPath(path); ok {
		r.PathHash, r.PathTime, path = hash, time, rest
	}
	r.Path = "/" + path
	dir, file := cutLast(path)
	if name, ok := strings.CutSuffix(file, ".flv"); ok {
		r.Protocol, r.App, r.Stream = FLV, dir, name
		if strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
			r.Protocol = WSFLV
		}
	} else if name, ok := strings.CutSuffix(file, ".m3u8"); ok {
		r.Protocol, r.App, r.Stream, r.File = HLS, dir, name, ".m3u8"
		if playlists[name] && strings.Contains(dir, "/") {
			r.App, r.Stream = cutLast(dir)
			r.File = file
		}
	} else if strings.HasSuffix(file, ".ts") {
		r.Protocol, r.File = HLS, file
		r.App, r.Stream = cutLast(dir)
	} else {
		return r, ErrNotStream
	}
	return r.withParams(req.Host, req.URL.RawQuery)
}

// playlists are the names of playlists in the folder of a stream.
var playlists = map[string]bool{"index": true, "playlist": true, "master": true, "media": true, "record": true}

// ErrNotStream is the error of FromHTTP for a URL that is not one of a stream.
var ErrNotStream = errors.New("not the URL of a stream")

// Unmap returns addr with an IPv4 address in its own form, not mapped into
// IPv6 as sockets that take both report it.
func Unmap(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

// withParams adds the parameters of the queries and the host they lead to.
func (r Request) withParams(host string, queries ...string) (Request, error) {
	var ok bool
	if r.Params, ok = parseParams(queries...); !ok {
		return r, deny(r.Op, TooLong, nil)
	}
	if vhost := r.Params.Get("vhost"); vhost != "" {
		host = vhost
	}
	r.Host = host
	if canonical, ok := policy.CanonicalHost(host); ok {
		r.Host = canonical
	}
	return r, nil
}

// cutURL cuts a tcUrl, which is no more reliable than any other text from a
// client, into host (with port), path and query.
func cutURL(s string) (host, path, query string) {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		return "", "", ""
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host, rest = rest[:end], rest[end:]
	host = host[strings.LastIndexByte(host, '@')+1:] // without user and password
	path, query, _ = strings.Cut(rest, "?")
	return host, path, query
}

// cutQuery cuts a name from its query, and makes one of the old vhost form.
func cutQuery(s string) (name, query string) {
	name, query, _ = strings.Cut(s, "?")
	if before, vhost, ok := strings.Cut(name, "...vhost..."); ok {
		name, query = before, "vhost="+vhost+"&"+query
	}
	return name, query
}

// cutLast cuts the last part off a path.
func cutLast(path string) (dir, file string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
