package hls

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/policy"
	"weir/internal/stream"
)

// benchmarkServer returns a Server with the stream live/s1, which has some
// segments, and its view. At signed.example playlists need authentication.
func benchmarkServer(b *testing.B) (*Server, *view) {
	hub := stream.NewHub(stream.Options{})
	set := policy.Default()
	set.Spaces[0].Domains = append(set.Spaces[0].Domains, policy.Domain{Name: "signed.example", Type: policy.Play,
		Play: policy.Access{Simple: &policy.Simple{Key: policy.NewSecret("test-key-1")}}})
	gate := access.NewGate(func() *policy.Set { return set })
	srv := NewServer(hub, gate, Options{})
	app := policy.DefaultApp("live")
	pub, err := hub.Publish(stream.Key{Space: "default", App: "live", Name: "s1"}, &app, stream.Push{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(srv.Close)
	b.Cleanup(func() { pub.End(stream.EndClosed) })
	asked := make(chan *httptest.ResponseRecorder)
	go func() { // ends when the first segment is complete
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, httptest.NewRequest("GET", "/live/s1/index.m3u8", nil))
		asked <- w
	}()
	for srv.Stats().Channels == 0 {
		time.Sleep(time.Millisecond)
	}
	e := both(2000)
	e.size = 4500
	for _, p := range append(configs, e.run(9900)...) {
		if err := pub.WritePacket(p); err != nil {
			b.Fatal(err)
		}
	}
	<-asked
	c, _ := srv.find(stream.Key{Space: "default", App: "live", Name: "s1"})
	return srv, c.view.Load()
}

// BenchmarkPlaylist compares playlists with and without authentication: of the
// handler alone, and over a real connection. Of the latter, on one core, those
// with are to take 15 % longer at most.
func BenchmarkPlaylist(b *testing.B) {
	srv, v := benchmarkServer(b)
	const path = "/live/s1/index.m3u8"
	signed := path + "?" + signature(b, srv.gate, "http://signed.example"+path)
	for _, x := range []struct{ name, host, path, coding string }{
		{"unsigned", "open.example", path, ""},
		{"signed", "signed.example", signed, ""},
		{"vhost/gzip", "open.example", path + "?vhost=open.example", "gzip"},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest("GET", "http://"+x.host+x.path, nil)
			r.Header.Set("Accept-Encoding", x.coding)
			w := &discard{h: http.Header{}}
			for b.Loop() {
				clear(w.h)
				srv.ServeHTTP(w, r)
			}
		})
	}
	b.Run("served/unsigned", func(b *testing.B) { benchmarkGet(b, srv, "open.example", path, len(v.inFolder.plain.data)) })
	b.Run("served/signed", func(b *testing.B) {
		r := httptest.NewRecorder()
		srv.ServeHTTP(r, httptest.NewRequest("GET", "http://signed.example"+signed, nil))
		benchmarkGet(b, srv, "signed.example", signed, r.Body.Len())
	})
}

// BenchmarkServe compares the Server with a bare handler that writes the same
// bytes with the same headers, over real connections that are kept alive. A
// player of 2 s segments at 1 Mbit/s makes one request of each kind in 2 s.
func BenchmarkServe(b *testing.B) {
	srv, v := benchmarkServer(b)
	for _, x := range []struct {
		name, path string
		body       []byte
		headers    http.Header
	}{
		{"segment", "/live/s1/" + v.list.Segments[0].URI, v.segments[v.list.Segments[0].URI].data,
			http.Header{"Content-Type": typeTS, "Cache-Control": segmentCache}},
		{"playlist", "/live/s1/index.m3u8", v.inFolder.plain.data,
			http.Header{"Content-Type": typeHLS, "Cache-Control": playlistCache}},
	} {
		bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for k, v := range x.headers {
				w.Header()[k] = v
			}
			w.Write(x.body)
		})
		b.Run(x.name+"/bare", func(b *testing.B) { benchmarkGet(b, bare, "x", x.path, len(x.body)) })
		b.Run(x.name+"/weir", func(b *testing.B) { benchmarkGet(b, srv, "x", x.path, len(x.body)) })
		b.Run(x.name+"/handler", func(b *testing.B) { // without the network
			b.ReportAllocs()
			r := httptest.NewRequest("GET", x.path, nil)
			w := &discard{h: http.Header{}}
			for b.Loop() {
				clear(w.h)
				srv.ServeHTTP(w, r)
			}
		})
	}
}

// signature returns the query that the URL of a playlist needs.
func signature(b *testing.B, gate *access.Gate, rawURL string) string {
	r, err := access.FromURL(access.Play, rawURL)
	if err != nil {
		b.Fatal(err)
	}
	list, err := gate.Sign(r, time.Now().Add(time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	return list[0].Query
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

func benchmarkGet(b *testing.B, h http.Handler, host, path string, size int) {
	s := httptest.NewServer(h)
	defer s.Close()
	nc, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(size))
	for b.Loop() {
		if _, err := nc.Write(request); err != nil {
			b.Fatal(err)
		}
		if err := readResponse(nc, buf, size); err != nil {
			b.Fatal(err)
		}
	}
}

// readResponse reads headers and size bytes with as little work as can be.
func readResponse(nc net.Conn, buf []byte, size int) error {
	got, head := 0, -1
	for head < 0 || got < head+size {
		at := 0
		if head < 0 {
			at = got
		}
		n, err := nc.Read(buf[at:])
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		if got += n; head < 0 {
			for i := 0; i+4 <= got; i++ {
				if string(buf[i:i+4]) == "\r\n\r\n" {
					head = i + 4
					break
				}
			}
		}
	}
	return nil
}
