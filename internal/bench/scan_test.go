package bench

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"testing"

	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// pieces calls f with b cut into pieces of random length.
func pieces(r *rand.Rand, b []byte, f func([]byte) error) error {
	for len(b) > 0 {
		n := 1 + r.IntN(len(b))
		if r.IntN(2) == 0 {
			n = 1 + r.IntN(min(20, len(b)))
		}
		if err := f(b[:n:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

type tag struct {
	typ  byte
	head string
}

func scanTags(r *rand.Rand, b []byte) (tags []tag, err error) {
	var s tagScanner
	err = pieces(r, b, func(b []byte) error {
		return s.scan(b, func(typ byte, head []byte) { tags = append(tags, tag{typ, string(head)}) })
	})
	return tags, err
}

func TestTagScanner(t *testing.T) {
	b := flv.AppendHeader(nil, true, true)
	var want []tag
	for i, n := range []int{0, 1, 5, headSize - 1, headSize, headSize + 1, 70_000, 3} {
		body := bytes.Repeat([]byte{byte(i + 1)}, n)
		typ := []byte{flv.TypeAudio, flv.TypeVideo, flv.TypeScript}[i%3]
		b = flv.AppendTag(b, typ, 1<<24+uint32(i), body)
		want = append(want, tag{typ, string(body[:min(n, headSize)])})
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		if got, err := scanTags(r, b); err != nil || !slices.Equal(got, want) {
			t.Fatalf("scan = %d tags, %v, want the %d written", len(got), err, len(want))
		}
	}
	// The last byte of a body completes its tag; the PreviousTagSize may come later.
	if got, _ := scanTags(r, b[:len(b)-4]); len(got) != len(want) {
		t.Errorf("without the last PreviousTagSize scan gave %d tags, want %d", len(got), len(want))
	}
	if got, _ := scanTags(r, b[:len(b)-5]); len(got) != len(want)-1 {
		t.Errorf("without the last byte of the body scan gave %d tags, want %d", len(got), len(want)-1)
	}
	for _, bad := range []string{"FLW\x01\x05\x00\x00\x00\x09", "FLV\x01\x05\x00\x00\x00\x08", string(b[:13]) + "\x08\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00"} {
		if _, err := scanTags(r, []byte(bad)); err == nil {
			t.Errorf("scan of %q succeeded", bad)
		}
	}
}

// response returns the bytes that net/http sends of a body in the given writes.
func response(t *testing.T, writes []string, contentLength bool) []byte {
	t.Helper()
	var b bytes.Buffer
	res := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"video/x-flv"}}}
	pr, pw := io.Pipe()
	go func() {
		for _, w := range writes {
			io.WriteString(pw, w)
		}
		pw.Close()
	}()
	res.Body = pr
	if contentLength {
		for _, w := range writes {
			res.ContentLength += int64(len(w))
		}
	} else {
		res.ContentLength = -1
		res.TransferEncoding = []string{"chunked"}
	}
	if err := res.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHTTPScanner(t *testing.T) {
	writes := []string{"one", "and another\r\n", string(bytes.Repeat([]byte("x"), 5000)), "\n0\r\n\r\n"}
	want := fmt.Sprint(writes[0], writes[1], writes[2], writes[3])
	r := rand.New(rand.NewPCG(1, 1))
	for _, sized := range []bool{true, false} {
		b := response(t, writes, sized)
		for range 200 {
			var h httpScanner
			var got []byte
			err := pieces(r, b, func(b []byte) error {
				return h.scan(b, func(b []byte) error { got = append(got, b...); return nil })
			})
			if err != nil || string(got) != want || !h.done {
				t.Fatalf("scan (length known: %v) = %d bytes, done %v, %v, want %d", sized, len(got), h.done, err, len(want))
			}
		}
	}
	var got []byte
	var h httpScanner
	body := func(b []byte) error { got = append(got, b...); return nil }
	if err := h.scan([]byte("HTTP/1.0 200 OK\n\nto the end"), body); err != nil || string(got) != "to the end" || h.done || !h.close {
		t.Errorf("scan of an answer without length = %q, %v, done %v, close %v", got, err, h.done, h.close)
	}
	for in, want := range map[string]string{
		"HTTP/1.1 404 Not Found\r\n\r\n":                                     "HTTP status 404",
		"SSH-2.0-x\r\n\r\n":                                                  `not an HTTP response: "SSH-2.0-x\r"`,
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n":                      `HTTP Content-Length is "-1"`,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n":       `HTTP chunk size is "xyz"`,
		"HTTP/1.1 200 OK\r\nA: " + string(bytes.Repeat([]byte("a"), 20_000)): errHead.Error(),
	} {
		var h httpScanner
		if err := h.scan([]byte(in), body); err == nil || err.Error() != want {
			t.Errorf("scan(%.60q) = %v, want %s", in, err, want)
		}
	}
}

// What net/http/httputil writes and reads is what the scanner reads.
func TestHTTPScannerReadsServer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			io.WriteString(w, "piece")
			w.(http.Flusher).Flush()
		}
	}))
	defer s.Close()
	res, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := httputil.DumpResponse(res, true)
	if err != nil {
		t.Fatal(err)
	}
	var h httpScanner
	var got []byte
	err = h.scan(b, func(b []byte) error { got = append(got, b...); return nil })
	if err != nil || string(got) != "piecepiecepiece" {
		t.Errorf("scan = %q, %v", got, err)
	}
}

func TestKeyFrame(t *testing.T) {
	for _, c := range []struct {
		head string
		want bool
	}{
		{"\x17\x01\x00", true}, {"\x17\x00\x00", false}, {"\x27\x01\x00", false}, {"\x1c\x01\x00", true}, {"\x1c\x00\x00", false},
		{"\x12\x00\x00", true}, {"\x91hvc1", true}, {"\x93hvc1", true}, {"\x90hvc1", false}, {"\xa1hvc1", false}, {"", false}, {"\x17", false},
	} {
		if got := keyFrame([]byte(c.head)); got != c.want {
			t.Errorf("keyFrame(% x) = %v, want %v", c.head, got, c.want)
		}
	}
}

type rtmpMessage struct {
	typ  byte
	head string
}

func scanChunks(r *rand.Rand, b []byte) (got []rtmpMessage, err error) {
	s := chunkScanner{size: 128}
	err = pieces(r, b, func(b []byte) error {
		return s.scan(b, func(m *message) error {
			got = append(got, rtmpMessage{m.typ, string(m.head)})
			return nil
		})
	})
	return got, err
}

func TestChunkScanner(t *testing.T) {
	var b []byte
	var want []rtmpMessage
	add := func(size int, csid uint32, typ byte, timestamp uint32, n int) {
		body := bytes.Repeat([]byte{byte(n)}, n)
		b = rtmp.AppendMessage(b, size, csid, typ, timestamp, 1, body)
		keep := headSize
		if typ == rtmp.TypeCommand {
			keep = maxCommand
		}
		want = append(want, rtmpMessage{typ, string(body[:min(n, keep)])})
	}
	for _, n := range []int{0, 1, 127, 128, 129, 256, 300, 5000} {
		add(128, 3, rtmp.TypeCommand, 0, n)
		add(128, 6, rtmp.TypeVideo, 0xFFFFFE, n)
		add(128, 70, rtmp.TypeVideo, 0xFFFFFF, n)
		add(128, 5000, rtmp.TypeAudio, 0xFFFFFFFF, n)
	}
	b = rtmp.AppendMessage(b, 128, 2, msgSetChunkSize, 0, 0, []byte{0, 0, 0x10, 0})
	want = append(want, rtmpMessage{msgSetChunkSize, "\x00\x00\x10\x00"})
	add(4096, 6, rtmp.TypeVideo, 1, 10_000)

	// Headers of types 1, 2 and 3, as short as can be.
	b = append(b, 1<<6|6, 0, 0, 40, 0, 0, 2, rtmp.TypeVideo, 'a', 'b')
	b = append(b, 2<<6|6, 0, 0, 40, 'c', 'd')
	b = append(b, 3<<6|6, 'e', 'f')
	want = append(want, rtmpMessage{rtmp.TypeVideo, "ab"}, rtmpMessage{rtmp.TypeVideo, "cd"}, rtmpMessage{rtmp.TypeVideo, "ef"})

	// Two messages whose chunks alternate, one of them with an extended
	// timestamp that is not repeated, and one that is abandoned.
	b = append(b, 0<<6|7, 0xFF, 0xFF, 0xFF, 0, 0x10, 2, rtmp.TypeVideo, 1, 0, 0, 0, 1, 2, 3, 4)
	b = append(b, bytes.Repeat([]byte{'x'}, 4096)...)
	b = append(b, 0<<6|8, 0, 0, 0, 0, 0x10, 1, rtmp.TypeAudio, 1, 0, 0, 0)
	b = append(b, bytes.Repeat([]byte{'y'}, 4096)...)
	b = append(b, 3<<6|7, 'z', 'z')
	b = rtmp.AppendMessage(b, 4096, 2, msgAbort, 0, 0, []byte{0, 0, 0, 8})
	b = append(b, 1<<6|8, 0, 0, 0, 0, 0, 1, rtmp.TypeAudio, 'n')
	want = append(want, rtmpMessage{rtmp.TypeVideo, string(bytes.Repeat([]byte{'x'}, headSize))},
		rtmpMessage{msgAbort, "\x00\x00\x00\x08"}, rtmpMessage{rtmp.TypeAudio, "n"})

	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		if got, err := scanChunks(r, b); err != nil || !slices.Equal(got, want) {
			t.Fatalf("scan = %d messages, %v, want %d as written", len(got), err, len(want))
		}
	}
}

func TestChunkScannerRefuses(t *testing.T) {
	var many []byte
	for i := range uint32(65) {
		many = rtmp.AppendMessage(many, 128, 2+i, rtmp.TypeAudio, 0, 1, []byte{1})
	}
	for _, c := range []struct {
		b    []byte
		want error
	}{
		{[]byte{3<<6 | 4}, errChunkHeader},
		{[]byte{2<<6 | 4, 0, 0, 0}, errChunkHeader},
		{rtmp.AppendMessage(nil, 128, 2, msgSetChunkSize, 0, 0, []byte{0, 0, 0, 0}), errChunkSize},
		{rtmp.AppendMessage(nil, 128, 2, msgSetChunkSize, 0, 0, []byte{0x80, 0, 0, 0}), errChunkSize},
		{many, errChunkStreams},
	} {
		if _, err := scanChunks(rand.New(rand.NewPCG(1, 1)), c.b); err != c.want {
			t.Errorf("scan(% x…) = %v, want %v", c.b[:min(16, len(c.b))], err, c.want)
		}
	}
}

// What a scanner makes of bytes doesn't depend on how they come.
func FuzzScanners(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), uint64(1))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"), uint64(2))
	f.Add(flv.AppendTag(flv.AppendHeader(nil, true, true), flv.TypeVideo, 7, []byte{0x17, 1, 0, 0, 0, 1}), uint64(3))
	f.Add(rtmp.AppendMessage(rtmp.AppendMessage(nil, 128, 3, rtmp.TypeCommand, 0, 0, make([]byte, 300)), 128, 6, rtmp.TypeVideo, 0xFFFFFFFF, 1, make([]byte, 300)), uint64(4))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		scanHTTP := func(cut func([]byte, func([]byte) error) error) (got []byte, done bool, err error) {
			var h httpScanner
			err = cut(b, func(b []byte) error {
				return h.scan(b, func(b []byte) error { got = append(got, b...); return nil })
			})
			return got, h.done, err
		}
		whole := func(b []byte, f func([]byte) error) error { return f(b) }
		cut := func(b []byte, f func([]byte) error) error { return pieces(r, b, f) }
		got, done, err := scanHTTP(cut)
		if want, wantDone, wantErr := scanHTTP(whole); !bytes.Equal(got, want) || done != wantDone || (err == nil) != (wantErr == nil) {
			t.Errorf("HTTP in pieces = %q, %v, %v; whole %q, %v, %v", got, done, err, want, wantDone, wantErr)
		}

		tags, err := scanTags(r, b)
		var s tagScanner
		var wantTags []tag
		wantErr := s.scan(b, func(typ byte, head []byte) { wantTags = append(wantTags, tag{typ, string(head)}) })
		if !slices.Equal(tags, wantTags) || (err == nil) != (wantErr == nil) {
			t.Errorf("tags in pieces = %d, %v; whole %d, %v", len(tags), err, len(wantTags), wantErr)
		}

		chunks, err := scanChunks(r, b)
		c := chunkScanner{size: 128}
		var wantChunks []rtmpMessage
		wantErr = c.scan(b, func(m *message) error {
			wantChunks = append(wantChunks, rtmpMessage{m.typ, string(m.head)})
			return nil
		})
		if !slices.Equal(chunks, wantChunks) || (err == nil) != (wantErr == nil) {
			t.Errorf("messages in pieces = %d, %v; whole %d, %v", len(chunks), err, len(wantChunks), wantErr)
		}
	})
}
