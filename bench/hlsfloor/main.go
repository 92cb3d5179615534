// Hlsfloor serves one live HLS stream from memory with nothing but net/http:
// what any Go server of HLS has to pay at least. The segments' content is
// noise.
package main

import (
	"bytes"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:18588", "address to serve on")
	size := flag.Int("size", 250_000, "bytes of a segment")
	target := flag.Int("target", 2, "seconds of a segment")
	window := flag.Int("window", 5, "segments in the playlist")
	flag.Parse()

	segment := make([]byte, *size)
	rand.Read(segment)
	began := time.Now()
	http.HandleFunc("/live/index.m3u8", func(w http.ResponseWriter, _ *http.Request) {
		first := int(time.Since(began)/time.Second) / *target
		var b bytes.Buffer
		fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:%d\n#EXT-X-MEDIA-SEQUENCE:%d\n", *target, first)
		for i := range *window {
			fmt.Fprintf(&b, "#EXTINF:%d.000,\n%d.ts\n", *target, first+i)
		}
		w.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		w.Header().Set("Cache-Control", "max-age=1")
		w.Write(b.Bytes())
	})
	http.HandleFunc("/live/", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".ts") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "video/mp2t")
		w.Header().Set("Cache-Control", "max-age=3600, immutable")
		w.Header().Set("Content-Length", strconv.Itoa(len(segment)))
		w.Write(segment)
	})
	log.Fatal(http.ListenAndServe(*addr, nil))
}
