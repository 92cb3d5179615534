package record

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"weir/internal/access"
	"weir/internal/stream"
)

// Names of a recording that is being made, below /{app}/{stream}/: its playlist
// and the beginning of its segments' names.
const (
	shiftPlaylist = "record.m3u8"
	shiftSegment  = "record-"
)

// takeParam is the parameter of the playlist that says which recording it is of.
const takeParam = "take"

// Serves reports whether a path is one that ServeHTTP answers.
func Serves(path string) bool {
	dir, file := path[:strings.LastIndexByte(path, '/')+1], path[strings.LastIndexByte(path, '/')+1:]
	return strings.Count(dir, "/") >= 3 && (file == shiftPlaylist || strings.HasPrefix(file, shiftSegment) && strings.HasSuffix(file, ".ts"))
}

// Handler serves recordings while they are being made, for players that want to
// begin at the beginning: whoever may play a stream may play its recording.
//
//	/{app}/{stream}/record.m3u8                an event playlist, which grows
//	/{app}/{stream}/record-{task}-000001.ts    its segments
//
// The playlist without the parameter take is of the recording of now, and
// leads to one with it, which stays that of the same recording and ends when it
// does.
func (r *Recorder) Handler(gate *access.Gate) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !access.Readable(w, req) {
			return
		}
		ask, err := access.FromHTTP(req)
		if errors.Is(err, access.ErrNotStream) {
			http.NotFound(w, req)
			return
		}
		var grant *access.Grant
		if err == nil {
			grant, err = gate.Check(req.Context(), ask)
		}
		if err == nil {
			if strings.HasSuffix(grant.Request().File, ".ts") {
				err = r.serveSegment(w, req, grant)
			} else {
				err = r.servePlaylist(w, req, grant, gate)
			}
		}
		if err == nil || req.Context().Err() != nil {
			return
		}
		if d := (*access.Denied)(nil); errors.As(err, &d) {
			access.WriteHTTPError(w, req, d)
			return
		}
		r.log.Debug("not served", "request", ask, "err", err)
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Retry-After", "1")
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
	})
}

// unfinished returns a stream's take that is not removed: that of the task, or
// without one the newest.
func (r *Recorder) unfinished(key stream.Key, task string) (found *take) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.takes {
		if t.head.key() == key && (task == "" && (found == nil || t.head.Start.After(found.head.Start)) || task == t.head.Task) {
			found = t
		}
	}
	return found
}

func (r *Recorder) servePlaylist(w http.ResponseWriter, req *http.Request, g *access.Grant, gate *access.Gate) error {
	task := g.Request().Params.Get(takeParam)
	t := r.unfinished(g.Key(), task)
	if t == nil {
		return g.Deny(access.NoStream)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	if task == "" {
		query := req.URL.RawQuery
		if query != "" {
			query += "&"
		}
		h.Set("Location", shiftPlaylist+"?"+query+takeParam+"="+t.head.Task)
		w.WriteHeader(http.StatusFound)
		return nil
	}
	query := ""
	if _, ok := g.Request().Params.Lookup("vhost"); ok {
		query = "?vhost=" + g.Request().Host
	}
	// Who watches from the beginning needs the segments for as long as that takes.
	if token := gate.SegmentQuery(g, t.head.Record.Cut+t.head.Record.Splice); token != "" {
		if query == "" {
			query = "?" + token
		} else {
			query += "&" + token
		}
	}
	text := t.playlist(shiftSegment+t.head.Task+"-", query)
	h.Set("Content-Type", "application/vnd.apple.mpegurl")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if req.Method != http.MethodHead {
		w.Write(text) // fails when the client has left
	}
	return nil
}

func (r *Recorder) serveSegment(w http.ResponseWriter, req *http.Request, g *access.Grant) error {
	name := strings.TrimSuffix(strings.TrimPrefix(g.Request().File, shiftSegment), ".ts")
	task, number, _ := strings.Cut(name, "-")
	number, _, _ = strings.Cut(number, "-") // which of its nodes wrote it is of no interest
	n, err := strconv.Atoi(number)
	t := r.unfinished(g.Key(), task)
	var s segment
	if t != nil && err == nil && task != "" {
		t.mu.Lock()
		if p := t.segment(n); p != nil {
			s = *p
		}
		t.mu.Unlock()
	}
	if s.N == 0 {
		w.Header().Set("Cache-Control", "no-cache")
		http.Error(w, "no such segment", http.StatusNotFound)
		return nil
	}
	b, err := r.bucket(t.head.Record.Bucket)
	if err != nil && !s.local {
		return err
	}
	body, err := t.open1(req.Context(), b, &s)
	if err != nil {
		return fmt.Errorf("segment of a recording: %w", err)
	}
	defer body.Close()
	h := w.Header()
	h.Set("Content-Type", "video/mp2t")
	h.Set("Content-Length", strconv.FormatInt(s.Size, 10))
	h.Set("Cache-Control", "max-age=3600, immutable")
	if g.Private() {
		h.Set("Cache-Control", "private, max-age=3600, immutable")
	}
	if req.Method != http.MethodHead {
		io.Copy(w, body) // fails when the client has left
	}
	return nil
}
