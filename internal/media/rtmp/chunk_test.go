package rtmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// testReader reads chunks from b, of the size that a connection begins with.
func testReader(src io.Reader) *chunkReader {
	lim := DefaultLimits()
	return &chunkReader{in: &input{src: src}, lim: &lim, size: defaultChunkSize}
}

// readAll returns the messages in a stream of chunks, and does what those that
// are about chunks say.
func readAll(r *chunkReader) ([]message, error) {
	c := &Conn{chunks: *r, cfg: Config{}.withDefaults()}
	var all []message
	for {
		m, whole, err := c.chunks.readChunk()
		if err != nil {
			*r = c.chunks
			return all, err
		}
		if !whole {
			continue
		}
		if m.typ == typeSetChunkSize || m.typ == typeAbort {
			if err := c.control(m); err != nil {
				return all, err
			}
		}
		all = append(all, m)
	}
}

func diffMessages(want, got []message) string {
	return cmp.Diff(want, got, cmp.AllowUnexported(message{}))
}

// fillBytes returns n bytes that tell where they belong.
func fillBytes(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i%251)
	}
	return b
}

// Golden messages: what AppendMessage writes and readChunk reads.
var golden = []struct {
	name  string
	size  int
	csid  uint32
	msg   message
	bytes string
}{
	{"control", 128, 2, message{typeSetChunkSize, 0, 0, []byte{0, 0, 16, 0}},
		"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x10\x00"},
	{"empty", 128, 4, message{TypeAudio, 5, 1, nil}, "\x04\x00\x00\x05\x00\x00\x00\x08\x01\x00\x00\x00"},
	{"one chunk exactly", 4, 6, message{TypeVideo, 0x123456, 0x01020304, []byte("abcd")},
		"\x06\x12\x34\x56\x00\x00\x04\x09\x04\x03\x02\x01abcd"},
	{"three chunks", 4, 6, message{TypeVideo, 1, 1, []byte("abcdefghi")},
		"\x06\x00\x00\x01\x00\x00\x09\x09\x01\x00\x00\x00abcd\xC6efgh\xC6i"},
	{"csid 63", 4, 63, message{TypeAudio, 0, 1, []byte("abcde")}, "\x3F\x00\x00\x00\x00\x00\x05\x08\x01\x00\x00\x00abcd\xFFe"},
	{"csid 64, two bytes", 4, 64, message{TypeAudio, 0, 1, []byte("abcde")}, "\x00\x00\x00\x00\x00\x00\x00\x05\x08\x01\x00\x00\x00abcd\xC0\x00e"},
	{"csid 319, two bytes", 4, 319, message{TypeAudio, 0, 1, []byte("abcde")}, "\x00\xFF\x00\x00\x00\x00\x00\x05\x08\x01\x00\x00\x00abcd\xC0\xFFe"},
	{"csid 320, three bytes", 4, 320, message{TypeAudio, 0, 1, []byte("abcde")}, "\x01\x00\x01\x00\x00\x00\x00\x00\x05\x08\x01\x00\x00\x00abcd\xC1\x00\x01e"},
	{"csid 65599, three bytes", 4, 65599, message{TypeAudio, 0, 1, []byte("abcde")}, "\x01\xFF\xFF\x00\x00\x00\x00\x00\x05\x08\x01\x00\x00\x00abcd\xC1\xFF\xFFe"},
	{"timestamp 0xFFFFFE", 4, 6, message{TypeVideo, 0xFFFFFE, 1, []byte("abcde")}, "\x06\xFF\xFF\xFE\x00\x00\x05\x09\x01\x00\x00\x00abcd\xC6e"},
	{"timestamp 0xFFFFFF", 4, 6, message{TypeVideo, 0xFFFFFF, 1, []byte("abcde")}, "\x06\xFF\xFF\xFF\x00\x00\x05\x09\x01\x00\x00\x00\x00\xFF\xFF\xFFabcd\xC6\x00\xFF\xFF\xFFe"},
	{"timestamp 0xFFFFFFFF", 4, 6, message{TypeVideo, 0xFFFFFFFF, 1, []byte("abcde")}, "\x06\xFF\xFF\xFF\x00\x00\x05\x09\x01\x00\x00\x00\xFF\xFF\xFF\xFFabcd\xC6\xFF\xFF\xFF\xFFe"},
}

func TestGolden(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			if got := AppendMessage([]byte("+"), tt.size, tt.csid, tt.msg.typ, tt.msg.timestamp, tt.msg.streamID, tt.msg.body); string(got) != "+"+tt.bytes {
				t.Errorf("AppendMessage = %x, want %x", got[1:], tt.bytes)
			}
			r := testReader(strings.NewReader(tt.bytes))
			r.size = tt.size
			got, err := readAll(r)
			if err != io.EOF {
				t.Errorf("readChunk: %v, want EOF", err)
			}
			if diff := diffMessages([]message{tt.msg}, got); diff != "" {
				t.Errorf("readChunk (-want +got):\n%s", diff)
			}
		})
	}
}

// Streams of chunks that we would not write (F11, H11, H16, H19, H20).
func TestReadChunks(t *testing.T) {
	audio := func(ts uint32, body string) message { return message{TypeAudio, ts, 1, []byte(body)} }
	video := func(ts uint32, body string) message { return message{TypeVideo, ts, 1, []byte(body)} }
	chunkSize := func(n uint32) message {
		return message{typeSetChunkSize, 0, 0, binary.BigEndian.AppendUint32(nil, n)}
	}
	abort := func(csid uint32) message {
		return message{typeAbort, 0, 0, binary.BigEndian.AppendUint32(nil, csid)}
	}
	const set4 = "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x04" // set chunk size 4
	for _, tt := range []struct {
		name, bytes string
		want        []message
	}{
		{"all header types", "\x04\x00\x03\xE8\x00\x00\x02\x08\x01\x00\x00\x00ab" + // 1000
			"\x44\x00\x00\x0A\x00\x00\x03\x08cde" + // delta 10, new length
			"\x84\x00\x00\x14fgh" + // delta 20
			"\xC4ijk" + // delta 20 again
			"\xC4lmn",
			[]message{audio(1000, "ab"), audio(1010, "cde"), audio(1030, "fgh"), audio(1050, "ijk"), audio(1070, "lmn")}},
		{"type 3 after type 0 takes its time for the delta (5.3.1.2.4)", "\x04\x00\x00\x64\x00\x00\x01\x08\x01\x00\x00\x00a\xC4b\xC4c",
			[]message{audio(100, "a"), audio(200, "b"), audio(300, "c")}},
		{"type 0 again", "\x04\x00\x00\x64\x00\x00\x01\x08\x01\x00\x00\x00a\x84\x00\x00\x05b\x04\x00\x00\x01\x00\x00\x01\x08\x01\x00\x00\x00c",
			[]message{audio(100, "a"), audio(105, "b"), audio(1, "c")}},
		{"a chunk stream's delta is its own", "\x04\x00\x00\x0A\x00\x00\x01\x08\x01\x00\x00\x00a\x06\x00\x00\x0A\x00\x00\x01\x09\x01\x00\x00\x00v\x84\x00\x00\x03b\x86\x00\x00\x07w\xC4c\xC6x",
			[]message{audio(10, "a"), video(10, "v"), audio(13, "b"), video(17, "w"), audio(16, "c"), video(24, "x")}},
		{"type 1 begins a chunk stream (H16, librtmp's ping)", "\x42\x00\x00\x00\x00\x00\x06\x04\x00\x06\x00\x00\x00\x07",
			[]message{{typeUserControl, 0, 0, []byte{0, 6, 0, 0, 0, 7}}}},
		{"csid 64 in two and in three bytes is the same", "\x00\x00\x00\x00\x01\x00\x00\x01\x08\x01\x00\x00\x00a\x81\x00\x00\x00\x00\x02b",
			[]message{audio(1, "a"), audio(3, "b")}},
		{"interleaved", set4 + "\x06\x00\x00\x00\x00\x00\x0A\x09\x01\x00\x00\x00abcd\x04\x00\x00\x00\x00\x00\x06\x08\x01\x00\x00\x00ABCD\xC6efgh\xC4EF\xC6ij",
			[]message{chunkSize(4), audio(0, "ABCDEF"), video(0, "abcdefghij")}},
		{"chunk size in mid message (H11)", set4 + "\x06\x00\x00\x00\x00\x00\x0A\x09\x01\x00\x00\x00abcd" +
			"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x05" + "\xC6efghi" +
			"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x01"[:12] + "\x00\x00\x00\x01" + "\xC6j",
			[]message{chunkSize(4), chunkSize(5), chunkSize(1), video(0, "abcdefghij")}},
		{"abort of a partial message (H19)", set4 + "\x06\x00\x00\x00\x00\x00\x0A\x09\x01\x00\x00\x00abcd" +
			"\x02\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\x00\x00\x00\x06" + "\x06\x00\x00\x00\x00\x00\x02\x09\x01\x00\x00\x00xy",
			[]message{chunkSize(4), abort(6), video(0, "xy")}},
		{"abort of others (H19)", set4 + "\x06\x00\x00\x00\x00\x00\x06\x09\x01\x00\x00\x00abcd" +
			"\x02\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\x00\x00\x00\x00" +
			"\x02\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\xFF\xFF\xFF\xFF" +
			"\x02\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\x00\x00\x00\x02" +
			"\x02\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\x00\x00\x00\x00\x07" + "\xC6ef",
			[]message{chunkSize(4), abort(0), abort(0xFFFFFFFF), abort(2), abort(7), video(0, "abcdef")}},

		// Extended timestamps (H20, F11): AppendMessage repeats them, and so do the golden ones.
		{"extended, not repeated", set4 + "\x06\xFF\xFF\xFF\x00\x00\x0A\x09\x01\x00\x00\x00\x01\x00\x00\x00abcd\xC6efgh\xC6ij",
			[]message{chunkSize(4), video(0x1000000, "abcdefghij")}},
		{"extended, not repeated, payload begins alike", set4 + "\x06\xFF\xFF\xFF\x00\x00\x0B\x09\x01\x00\x00\x00\x01\x00\x00\x00abcd\xC6\x01\x00\x00x\xC6\x01\x00y",
			[]message{chunkSize(4), video(0x1000000, "abcd\x01\x00\x00x\x01\x00y")}},
		{"extended, repeated as the message's time after a delta", set4 + "\x06\xFF\xFF\xFF\x00\x00\x01\x09\x01\x00\x00\x00\x01\x00\x00\x00a" +
			"\x46\xFF\xFF\xFF\x00\x00\x06\x09\x01\x00\x00\x01abcd\xC6\x02\x00\x00\x01ef",
			[]message{chunkSize(4), video(0x1000000, "a"), video(0x2000001, "abcdef")}},
		{"extended with a small value", set4 + "\x06\xFF\xFF\xFF\x00\x00\x06\x09\x01\x00\x00\x00\x00\x00\x00\x05abcd\xC6\x00\x00\x00\x05ef",
			[]message{chunkSize(4), video(5, "abcdef")}},
		{"extended delta, repeated in a new message of type 3", "\x06\x00\x00\x01\x00\x00\x01\x09\x01\x00\x00\x00a\x86\xFF\xFF\xFF\x01\x00\x00\x00b\xC6\x01\x00\x00\x00c",
			[]message{video(1, "a"), video(0x1000001, "b"), video(0x2000001, "c")}},
		{"extended delta, not repeated in a new message of type 3", "\x06\x00\x00\x01\x00\x00\x01\x09\x01\x00\x00\x00a\x86\xFF\xFF\xFF\x01\x00\x00\x00b\xC6c",
			[]message{video(1, "a"), video(0x1000001, "b"), video(0x2000001, "c")}},
		{"not extended any more", "\x06\xFF\xFF\xFF\x00\x00\x01\x09\x01\x00\x00\x00\x01\x00\x00\x00a\x86\x00\x00\x01\xFF\xC6b",
			[]message{video(0x1000000, "a"), video(0x1000001, "\xFF"), video(0x1000002, "b")}},
		{"delta over the end of 32 bits", "\x06\xFF\xFF\xFF\x00\x00\x01\x09\x01\x00\x00\x00\xFF\xFF\xFF\xFEa\x86\x00\x00\x05b",
			[]message{video(0xFFFFFFFE, "a"), video(3, "b")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, src := range []io.Reader{strings.NewReader(tt.bytes), iotest.OneByteReader(strings.NewReader(tt.bytes)), iotest.DataErrReader(strings.NewReader(tt.bytes))} {
				r := testReader(src)
				got, err := readAll(r)
				if err != io.EOF {
					t.Errorf("readChunk: %v, want EOF", err)
				}
				if diff := diffMessages(tt.want, got); diff != "" {
					t.Errorf("readChunk (-want +got):\n%s", diff)
				}
				if r.open != 0 || r.held != 0 {
					t.Errorf("%d messages of %d bytes are left", r.open, r.held)
				}
			}
		})
	}
}

// A peer that does not repeat extended timestamps may send nothing behind the
// last byte: it must not be waited for.
func TestExtendedTimestampDoesNotWait(t *testing.T) {
	src, w := io.Pipe()
	defer w.Close()
	go w.Write([]byte("\x06\xFF\xFF\xFF\x00\x00\x81\x09\x01\x00\x00\x00\x01\x00\x00\x00" + strings.Repeat("a", 128) + "\xC6b"))
	r := testReader(src)
	for range 2 {
		m, whole, err := r.readChunk()
		if err != nil {
			t.Fatal(err)
		}
		if whole && (len(m.body) != 129 || m.body[128] != 'b') {
			t.Errorf("message of %d bytes, last %q", len(m.body), m.body[len(m.body)-1])
		}
	}
}

// Streams of chunks that end the connection, and why.
func TestReadChunksRefused(t *testing.T) {
	header := func(csid byte, length int, typ byte) string {
		return string([]byte{csid, 0, 0, 0, byte(length >> 16), byte(length >> 8), byte(length), typ, 1, 0, 0, 0})
	}
	body := strings.Repeat("x", 128)
	for _, tt := range []struct{ name, bytes, want string }{
		{"begins with type 2 (H16)", "\x84\x00\x00\x00", "begins with a header of type 2"},
		{"begins with type 3 (H16)", "\xC4", "begins with a header of type 3"},
		{"second chunk stream begins with type 3", header(4, 1, TypeAudio) + "a\xC5", "chunk stream 5 begins"},
		{"type 0 in an unfinished message, shorter (H17)", header(6, 200, TypeVideo) + body + header(6, 10, TypeVideo) + body, errInterrupted.Error()},
		{"type 0 in an unfinished message, longer (H17)", header(6, 200, TypeVideo) + body + header(6, 5000, TypeVideo) + body, errInterrupted.Error()},
		{"type 0 in an unfinished message, as long", header(6, 200, TypeVideo) + body + header(6, 200, TypeVideo) + body, errInterrupted.Error()},
		{"type 1 in an unfinished message", header(6, 200, TypeVideo) + body + "\x46\x00\x00\x00\x00\x00\x0A\x09", errInterrupted.Error()},
		{"type 2 in an unfinished message", header(6, 200, TypeVideo) + body + "\x86\x00\x00\x00", errInterrupted.Error()},
		{"chunk size 0 (H07)", string(appendControl(nil, typeSetChunkSize, 0)), "chunk size 0"},
		{"chunk size 2^31 (H10)", string(appendControl(nil, typeSetChunkSize, 1<<31)), "chunk size"},
		{"chunk size 2^32-1 (H10)", string(appendControl(nil, typeSetChunkSize, 1<<32-1)), "chunk size"},
		{"chunk size of 3 bytes (H10)", header(2, 3, typeSetChunkSize) + "\x00\x10\x00", errControl.Error()},
		{"chunk size of 5 bytes (H10)", header(2, 5, typeSetChunkSize) + "\x00\x00\x10\x00\x00", errControl.Error()},
		{"chunk size of no bytes", header(2, 0, typeSetChunkSize), errControl.Error()},
		{"abort of 3 bytes", header(2, 3, typeAbort) + "\x00\x00\x06", errControl.Error()},
		{"control message of 65 bytes", header(2, 65, typeUserControl) + body, "message of type 4 and 65 bytes"},
		{"ends in a header", header(4, 1, TypeAudio)[:7], io.ErrUnexpectedEOF.Error()},
		{"ends in a basic header", "\x01\x00", io.ErrUnexpectedEOF.Error()},
		{"ends in an extended timestamp", "\x04\xFF\xFF\xFF\x00\x00\x01\x08\x01\x00\x00\x00\x01", io.ErrUnexpectedEOF.Error()},
		{"ends in a body", header(4, 2, TypeAudio) + "a", io.ErrUnexpectedEOF.Error()},
		{"ends between the chunks of a message", header(4, 200, TypeAudio) + body, io.ErrUnexpectedEOF.Error()},
		{"ends between the chunks of another message", header(4, 200, TypeAudio) + body + header(6, 1, TypeAudio) + "a", io.ErrUnexpectedEOF.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, err := readAll(testReader(strings.NewReader(tt.bytes)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("readChunk: %v, want %q", err, tt.want)
			}
			for _, m := range all {
				if m.typ == TypeVideo {
					t.Errorf("message of %d bytes came through", len(m.body))
				}
			}
		})
	}
}

// H13: lengths at and beyond the limit of each type; refused before the body.
func TestMessageLimits(t *testing.T) {
	zeros := make([]byte, 0xFFFFFF)
	for typ := range 35 {
		most := map[int]int{TypeCommand: 64 << 10, typeCommandAMF3: 64 << 10, TypeAudio: 1 << 20, TypeVideo: 8 << 20, typeAggregate: 8 << 20,
			typeSetChunkSize: 64, typeAbort: 64, typeAck: 64, typeUserControl: 64, typeWindowAckSize: 64, typeSetPeerBandwidth: 64}[typ]
		if most == 0 {
			most = 256 << 10
		}
		for _, n := range []int{most, most + 1, 0xFFFFFF} {
			m := AppendMessage(nil, maxChunkSize, 4, byte(typ), 0, 1, zeros[:n])
			r := testReader(bytes.NewReader(m))
			r.size = maxChunkSize
			got, whole, err := r.readChunk()
			if n <= most {
				if !whole || err != nil || len(got.body) != n {
					t.Errorf("type %d, %d bytes: %v", typ, n, err)
				}
				continue
			}
			if err == nil {
				t.Errorf("type %d, %d bytes: accepted", typ, n)
			}
			if read := r.in.total.Load(); read > bufferSmall {
				t.Errorf("type %d, %d bytes: refused after %d bytes", typ, n, read)
			}
		}
	}
}

// H08, H12: the smallest and the largest chunks.
func TestChunkSizes(t *testing.T) {
	body := fillBytes(8<<20, 3)
	for _, tt := range []struct {
		set  uint32
		size int
	}{{1, 1}, {2, 2}, {127, 127}, {0xFFFFFE, 0xFFFFFE}, {0xFFFFFF, 0xFFFFFF}, {0x1000000, 0xFFFFFF}, {1<<31 - 1, 0xFFFFFF}} {
		r := testReader(bytes.NewReader(AppendMessage(appendControl(nil, typeSetChunkSize, tt.set), tt.size, 6, TypeVideo, 0, 1, body)))
		got, err := readAll(r)
		if err != io.EOF || len(got) != 2 || !bytes.Equal(got[1].body, body) {
			t.Errorf("chunk size %d: %d messages, %v", tt.set, len(got), err)
		}
		if r.size != tt.size {
			t.Errorf("chunk size %d became %d, want %d", tt.set, r.size, tt.size)
		}
	}
}

// H14: 64 unfinished messages and no more; control messages still pass.
func TestUnfinishedMessages(t *testing.T) {
	var b []byte
	for csid := uint32(3); csid < 3+64; csid++ {
		b = append(b, begun(csid, 200, 128)...)
	}
	whole := append(bytes.Clone(b), appendControl(nil, typeAck, 1)...)
	if got, err := readAll(testReader(bytes.NewReader(whole))); err != io.ErrUnexpectedEOF || len(got) != 1 {
		t.Errorf("64 unfinished messages and a control message: %d messages, %v", len(got), err)
	}
	b = append(b, begun(3+64, 200, 128)...)
	if _, err := readAll(testReader(bytes.NewReader(b))); !errors.Is(err, errChunkStream) {
		t.Errorf("65 unfinished messages: %v, want %v", err, errChunkStream)
	}

	// Finished ones: many chunk streams, but not all that there are.
	b = nil
	for csid := uint32(2); csid < 2+maxChunkStreams; csid++ {
		b = AppendMessage(b, 128, csid, TypeVideo, 0, 1, []byte{1})
	}
	if got, err := readAll(testReader(bytes.NewReader(b))); err != io.EOF || len(got) != maxChunkStreams {
		t.Errorf("%d chunk streams: %d messages, %v", maxChunkStreams, len(got), err)
	}
	b = AppendMessage(b, 128, 65599, TypeVideo, 0, 1, []byte{1})
	if _, err := readAll(testReader(bytes.NewReader(b))); !errors.Is(err, errChunkStream) {
		t.Errorf("one chunk stream more: %v, want %v", err, errChunkStream)
	}
}

// begun returns the first n bytes of a video message of the given length, with
// its header.
func begun(csid uint32, length, n int) []byte {
	b := appendBasicHeader(nil, 0, csid)
	b = append(b, 0, 0, 0, byte(length>>16), byte(length>>8), byte(length), TypeVideo, 1, 0, 0, 0)
	return append(b, make([]byte, n)...)
}

// A length that is announced costs its sender: memory grows with what arrives.
func TestBodyGrows(t *testing.T) {
	for _, arrived := range []int{1, 128, 64<<10 + 1, 1 << 20} {
		r := testReader(bytes.NewReader(begun(6, 8<<20, arrived)))
		r.size = maxChunkSize
		if _, _, err := r.readChunk(); err != io.ErrUnexpectedEOF {
			t.Fatalf("readChunk: %v", err)
		}
		if most := max(64<<10, 2*arrived); r.held > most {
			t.Errorf("%d bytes of 8 MiB arrived: %d allocated, want at most %d", arrived, r.held, most)
		}
	}

	// 64 messages with a byte each, from one who knows.
	var b []byte
	for csid := uint32(3); csid < 3+64; csid++ {
		b = append(b, begun(csid, 8<<20, 1)...)
	}
	r := testReader(bytes.NewReader(b))
	r.size = 1
	if _, err := readAll(r); err != io.ErrUnexpectedEOF {
		t.Fatalf("readChunk: %v", err)
	}
	if r.open != 64 || r.held > 512<<10 {
		t.Errorf("%d messages of one byte hold %d bytes", r.open, r.held)
	}
}

// The bytes of all unfinished messages have a limit.
func TestPartialBytes(t *testing.T) {
	const part = 6 << 20 // becomes 8 MiB when allocated
	var b []byte
	for csid := uint32(3); csid < 6; csid++ {
		b = append(b, begun(csid, 8<<20, part)...)
	}
	r := testReader(bytes.NewReader(b))
	r.size = part
	if _, err := readAll(r); !errors.Is(err, errPartial) {
		t.Errorf("18 MiB of unfinished messages: %v, want %v", err, errPartial)
	}
	if r.held > 16<<20 {
		t.Errorf("%d bytes are held", r.held)
	}
}

// Messages of up to 64 KiB are allocated once, as long as they are.
func TestBodyAllocatedOnce(t *testing.T) {
	for _, n := range []int{1, 100, 5000, 64 << 10} {
		b := AppendMessage(nil, 4096, 6, TypeVideo, 0, 1, fillBytes(n, 1))
		src := &loop{data: b}
		r := testReader(src)
		r.size = 4096
		read := func() {
			for {
				m, whole, err := r.readChunk()
				if err != nil {
					t.Fatal(err)
				}
				if whole {
					if cap(m.body) != n {
						t.Fatalf("%d bytes in %d", n, cap(m.body))
					}
					runtime.KeepAlive(m)
					return
				}
			}
		}
		read()
		if got := testing.AllocsPerRun(100, read); got != 1 {
			t.Errorf("message of %d bytes: %v allocations, want 1", n, got)
		}
	}
}

// writer writes messages with every header that fits, chunks of several
// messages between each other.
type writer struct {
	rng    *rand.Rand
	repeat bool // extended timestamps in type 3
	last   map[uint32]*chunkStream
}

// header returns the shortest or any longer header for m.
func (w *writer) header(csid uint32, m message) []byte {
	format := byte(0)
	cs := w.last[csid]
	delta := uint32(0)
	if cs != nil && cs.streamID == m.streamID {
		delta = m.timestamp - cs.timestamp
		format = 1
		if cs.length == len(m.body) && cs.typ == m.typ {
			format = 2
			if cs.field == delta {
				format = 3
			}
		}
		format = byte(w.rng.IntN(int(format) + 1))
	}
	if cs == nil {
		cs = &chunkStream{}
		w.last[csid] = cs
	}
	field := delta
	if format == 0 {
		field = m.timestamp
	}
	short := min(field, extendedMark)
	n := len(m.body)
	b := appendBasicHeader(nil, format, csid)
	h := []byte{byte(short >> 16), byte(short >> 8), byte(short), byte(n >> 16), byte(n >> 8), byte(n), m.typ}
	h = binary.LittleEndian.AppendUint32(h, m.streamID)
	b = append(b, h[:headerSize[format]]...)
	extended := short == extendedMark
	if extended && (format < 3 || w.repeat) {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	*cs = chunkStream{typ: m.typ, field: field, timestamp: m.timestamp, length: n, streamID: m.streamID, extended: extended}
	return b
}

// next returns the header of another chunk of the same message.
func (w *writer) next(csid uint32) []byte {
	b := appendBasicHeader(nil, 3, csid)
	if cs := w.last[csid]; cs.extended && w.repeat {
		b = binary.BigEndian.AppendUint32(b, cs.field)
	}
	return b
}

// Whatever headers, chunk sizes and interleaving a peer chooses, the messages
// come through.
func TestChunksProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		w := &writer{rng: rng, repeat: rapid.Bool().Draw(t, "repeat"), last: map[uint32]*chunkStream{}}
		csids := []uint32{3, 4, 63, 64, 319, 320, 65599}
		type part struct {
			m    message
			sent int
		}
		open := map[uint32]*part{}
		size := defaultChunkSize
		var stream []byte
		var want []message
		left := rapid.IntRange(1, 60).Draw(t, "messages")
		clock := rapid.SampledFrom([]uint32{0, 0xFFFFFF - 50, 0xFFFFFFFF - 50}).Draw(t, "clock")
		for left > 0 || len(open) > 0 {
			if rng.IntN(10) == 0 {
				m := message{typeSetChunkSize, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(1+rng.IntN(400)))}
				stream = AppendMessage(stream, size, ChunkControl, m.typ, 0, 0, m.body)
				size = int(binary.BigEndian.Uint32(m.body))
				want = append(want, m)
				continue
			}
			csid := csids[rng.IntN(len(csids))]
			p := open[csid]
			if p == nil {
				if left == 0 {
					continue
				}
				left--
				clock += uint32(rng.IntN(40))
				if rng.IntN(20) == 0 {
					clock += rng.Uint32()
				}
				p = &part{m: message{TypeVideo, clock, uint32(1 + rng.IntN(2)), fillBytes(rng.IntN(1000), byte(rng.Uint32()))}}
				if len(p.m.body) == 0 {
					p.m.body = nil
				}
				open[csid] = p
				stream = append(stream, w.header(csid, p.m)...)
			} else {
				stream = append(stream, w.next(csid)...)
			}
			n := min(size, len(p.m.body)-p.sent)
			stream = append(stream, p.m.body[p.sent:p.sent+n]...)
			if p.sent += n; p.sent == len(p.m.body) {
				want = append(want, p.m)
				delete(open, csid)
			}
		}
		got, err := readAll(testReader(bytes.NewReader(stream)))
		if err != io.EOF {
			t.Fatalf("readChunk: %v", err)
		}
		if diff := diffMessages(want, got); diff != "" {
			t.Fatalf("messages (-want +got):\n%s", diff)
		}
	})
}

func FuzzChunks(f *testing.F) {
	for _, tt := range golden {
		f.Add(uint16(tt.size), []byte(tt.bytes))
	}
	f.Add(uint16(128), connectMsg)
	f.Add(uint16(1), AppendMessage(nil, 1, 65599, TypeVideo, 0xFFFFFFFF, 1, []byte("abc")))
	f.Fuzz(func(t *testing.T, size uint16, b []byte) {
		r := testReader(bytes.NewReader(b))
		r.size = max(1, int(size))
		all, err := readAll(r)
		if err == nil {
			t.Fatal("no end")
		}
		total := 0
		for _, m := range all {
			total += len(m.body)
			if len(m.body) > r.lim.message(m.typ) {
				t.Fatalf("message of type %d and %d bytes", m.typ, len(m.body))
			}
		}
		if total > len(b) {
			t.Fatalf("%d bytes of messages from %d", total, len(b))
		}
		if r.open > r.lim.ChunkStreams+1 || r.held > r.lim.Partial {
			t.Fatalf("%d messages of %d bytes are unfinished", r.open, r.held)
		}
	})
}
