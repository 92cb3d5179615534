package hls

import (
	"net/http"
	"strconv"
	"time"

	"weir/internal/access"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Ladder is what a stream's master playlist offers.
type Ladder struct {
	// Variants are the stream itself and its renditions, the best first; the URI
	// of each is the name of a stream of the same app.
	Variants []m3u8.Variant
	// All serves the master playlist under every name that the stream's own has
	// otherwise, which then is media.m3u8.
	All bool
	// Play, unless it is nil, is told that somebody plays it.
	Play func()
}

// variantLife is for how long a player may read the playlist of a variant
// without asking for the master playlist again.
const variantLife = 24 * time.Hour

// master returns the ladder that a request for a playlist is for, nil if it is
// for the stream's own playlist.
func (s *Server) master(g *access.Grant) (*Ladder, error) {
	file := g.Request().File
	if file == "media.m3u8" {
		return nil, nil
	}
	var l *Ladder
	if s.ladder != nil {
		if st := s.hub.Find(g.Key()); st != nil && st.App().HLS.Mode != policy.HLSOff {
			l = s.ladder(st)
		}
	}
	switch {
	case file == "master.m3u8" && (l == nil || len(l.Variants) == 0):
		return nil, g.Deny(access.NoStream)
	case l == nil || len(l.Variants) == 0 || file != "master.m3u8" && !l.All:
		return nil, nil
	}
	return l, nil
}

// serveMaster answers with a master playlist.
func (s *Server) serveMaster(w http.ResponseWriter, r *http.Request, g *access.Grant, l *Ladder) error {
	list := m3u8.Playlist{Version: 3, Variants: make([]m3u8.Variant, len(l.Variants))}
	prefix := "../"
	if g.Request().File == ".m3u8" {
		prefix = ""
	}
	host := ""
	if _, ok := g.Request().Params.Lookup("vhost"); ok {
		host = "vhost=" + g.Request().Host
	}
	for i, v := range l.Variants {
		name, file := v.URI, "index.m3u8"
		if name == g.Key().Name && l.All {
			file = "media.m3u8"
		}
		v.URI = name + "/" + file
		sep := "?"
		for _, q := range []string{host, s.gate.VariantQuery(g, name, variantLife)} {
			if q != "" {
				v.URI += sep + q
				sep = "&"
			}
		}
		list.Variants[i] = v
	}
	b := list.Append(nil, prefix, "")
	h := w.Header()
	h["Cache-Control"] = playlistCache
	if g.Private() {
		h["Cache-Control"] = ownPlaylist
	}
	h["Content-Type"] = typeHLS
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	if r.Method != http.MethodHead {
		if l.Play != nil {
			l.Play()
		}
		s.stats.playlists.Add(1)
		n, _ := w.Write(b)
		s.stats.bytes.Add(int64(n))
	}
	return nil
}

// Offer makes the Server serve master playlists of what ladder returns, nil for
// a stream that has none. It is called before the Server is used.
func (s *Server) Offer(ladder func(*stream.Stream) *Ladder) { s.ladder = ladder }
