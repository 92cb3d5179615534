package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
)

// headSize is how much of the beginning of a video message the scanners keep.
// Our clock is in its first hundred bytes.
const headSize = 256

var errHead = errors.New("HTTP header is too long")

// An httpScanner reads one HTTP response that comes in pieces. The zero value
// is ready for one, and so is a value after reset.
type httpScanner struct {
	head    []byte // gathered up to the empty line, or the chunk's size line
	begun   bool   // the header has been read
	chunked bool
	left    int64 // bytes left of the body or, if chunked, of the chunk; -1: up to the end of the connection
	done    bool  // the body is complete
	close   bool  // the server will close the connection
}

func (h *httpScanner) reset() { *h = httpScanner{head: h.head[:0]} }

// scan takes the next piece and hands on what in it is body. A status other
// than 200 is an error of type httpStatus.
func (h *httpScanner) scan(b []byte, body func([]byte) error) error {
	for len(b) > 0 && !h.done {
		if !h.begun {
			i := bytes.IndexByte(b, '\n') + 1
			if i == 0 {
				i = len(b)
			}
			h.head = append(h.head, b[:i]...)
			b = b[i:]
			if len(h.head) > 16<<10 {
				return errHead
			}
			if bytes.HasSuffix(h.head, []byte("\r\n\r\n")) || bytes.HasSuffix(h.head, []byte("\n\n")) {
				if err := h.begin(); err != nil {
					return err
				}
			}
			continue
		}
		if h.chunked && h.left == 0 {
			var err error
			if b, err = h.chunk(b); err != nil {
				return err
			}
			continue
		}
		n := len(b)
		if h.left >= 0 {
			n = int(min(int64(n), h.left))
			h.left -= int64(n)
		}
		if err := body(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		h.done = h.left == 0 && !h.chunked
	}
	return nil
}

type httpStatus int

func (s httpStatus) Error() string { return fmt.Sprintf("HTTP status %d", int(s)) }

// begin reads the header (RFC 9112, 4 to 6).
func (h *httpScanner) begin() error {
	lines := strings.Split(string(h.head), "\n")
	proto, rest, _ := strings.Cut(strings.TrimSpace(lines[0]), " ")
	status, err := strconv.Atoi(rest[:min(3, len(rest))])
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") {
		return fmt.Errorf("not an HTTP response: %.40q", lines[0])
	}
	h.begun, h.left, h.close = true, -1, proto == "HTTP/1.0"
	h.head = h.head[:0]
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Content-Length":
			if h.left, err = strconv.ParseInt(value, 10, 64); err != nil || h.left < 0 {
				return fmt.Errorf("HTTP Content-Length is %.40q", value)
			}
		case "Transfer-Encoding":
			h.chunked = strings.EqualFold(value, "chunked")
		case "Connection":
			h.close = strings.EqualFold(value, "close")
		}
	}
	if h.chunked {
		h.left = 0
	}
	h.done = h.left == 0 && !h.chunked
	if status != 200 {
		return httpStatus(status)
	}
	return nil
}

// chunk reads the line that begins a chunk (RFC 9112, 7.1) and returns what is
// behind it. The line end behind the chunk before reads as an empty line.
// Trailers are not read.
func (h *httpScanner) chunk(b []byte) ([]byte, error) {
	i := bytes.IndexByte(b, '\n') + 1
	if i == 0 {
		i = len(b)
	}
	h.head = append(h.head, b[:i]...)
	if len(h.head) > 1024 {
		return nil, errHead
	}
	b = b[i:]
	if h.head[len(h.head)-1] != '\n' {
		return b, nil
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(h.head)), ";")
	h.head = h.head[:0]
	if line == "" {
		return b, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("HTTP chunk size is %.40q", line)
	}
	h.left, h.done = n, n == 0
	return b, nil
}

// A tagScanner finds the tags (Video File Format 10.1, E.4.1) of an FLV stream
// that comes in pieces. The zero value is ready.
type tagScanner struct {
	skip  int    // bytes to pass over
	kept  []byte // gathered up to want
	want  int
	rest  int // bytes of the tag's body behind those that are kept
	typ   byte
	state tagState
}

type tagState byte

const (
	tagFileHeader tagState = iota
	tagHeader
	tagHead // the beginning of the body
	tagRest // the rest of the body
)

// scan takes the next piece and calls whole for each tag that it completes,
// with the first bytes of the body, up to headSize.
func (s *tagScanner) scan(b []byte, whole func(typ byte, head []byte)) error {
	for {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			if s.skip > 0 {
				return nil
			}
		}
		switch s.state {
		case tagFileHeader:
			s.want = 9
		case tagHeader:
			s.want = 11
		case tagRest:
			whole(s.typ, s.kept)
			s.kept, s.skip, s.state = s.kept[:0], 4, tagHeader // PreviousTagSize
			continue
		}
		n := min(s.want-len(s.kept), len(b))
		s.kept = append(s.kept, b[:n]...)
		b = b[n:]
		if len(s.kept) < s.want {
			return nil
		}
		k := s.kept
		switch s.state {
		case tagFileHeader:
			if string(k[:3]) != "FLV" || k[5] != 0 || k[6] != 0 || k[7] != 0 || k[8] < 9 {
				return fmt.Errorf("not an FLV stream: % x", k)
			}
			s.kept, s.skip, s.state = k[:0], int(k[8])-9+4, tagHeader
		case tagHeader:
			if k[8] != 0 || k[9] != 0 || k[10] != 0 {
				return fmt.Errorf("not an FLV tag: % x", k)
			}
			size := int(k[1])<<16 | int(k[2])<<8 | int(k[3])
			s.typ, s.want = k[0]&0x1F, min(size, headSize)
			s.kept, s.rest, s.state = k[:0], size-s.want, tagHead
		case tagHead:
			s.skip, s.state = s.rest, tagRest
		}
	}
}

// keyFrame says whether a video message is a coded key frame, by the legacy
// header (E.4.3.1) or that of Enhanced RTMP.
func keyFrame(head []byte) bool {
	if len(head) < 2 {
		return false
	}
	if head[0]&0x80 != 0 {
		packet := head[0] & 0x0F // CodedFrames or CodedFramesX
		return head[0]>>4&7 == 1 && (packet == 1 || packet == 3)
	}
	codec := head[0] & 0x0F
	return head[0]>>4 == 1 && (codec != 7 && codec != 12 || head[1] == 1)
}
