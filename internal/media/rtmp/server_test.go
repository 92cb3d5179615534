package rtmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
)

func TestConnectAnswer(t *testing.T) {
	p, result := start(t, Config{})
	p.handshake()
	p.write(cmdMsg(0, "connect", 7, amf.Object{{Name: "app", Value: "live"}}))
	if a := <-result; a.err != nil {
		t.Fatal(a.err)
	}
	want := []message{
		{typeWindowAckSize, 0, 0, []byte{0, 0x26, 0x25, 0xA0}},
		{typeSetPeerBandwidth, 0, 0, []byte{0, 0x26, 0x25, 0xA0, 2}},
		{typeSetChunkSize, 0, 0, []byte{0, 0, 0xEA, 0x60}},
	}
	if diff := diffMessages(want, []message{p.next(), p.next(), p.next()}); diff != "" {
		t.Errorf("before the answer (-want +got):\n%s", diff)
	}
	wantValues := []any{"_result", 7.0,
		amf.Object{{Name: "fmsVer", Value: "FMS/3,0,1,123"}, {Name: "capabilities", Value: 31.0}},
		amf.Object{
			{Name: "level", Value: "status"}, {Name: "code", Value: "NetConnection.Connect.Success"},
			{Name: "description", Value: "Connection succeeded."}, {Name: "objectEncoding", Value: 0.0},
		}}
	if diff := cmp.Diff(wantValues, p.command()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// What clients say in connect (H26, H101; contract B.30 to B.33).
func TestConnect(t *testing.T) {
	guide := amf.Object{
		{Name: "app", Value: "app"}, {Name: "flashVer", Value: "MAC 10,2,153,2"}, {Name: "swfUrl", Value: nil},
		{Name: "tcUrl", Value: "rtmp://*.uplive.ks-cdn.com/live/stream?accesskey=P3UP"}, {Name: "fpad", Value: false},
		{Name: "capabilities", Value: 9947.75}, {Name: "audioCodecs", Value: 3191.0}, {Name: "videoCodecs", Value: 252.0},
		{Name: "videoFunction", Value: 1.0}, {Name: "pageUrl", Value: nil}, {Name: "objectEncoding", Value: 3.0},
	}
	guideWant := Connect{App: "app", FlashVer: "MAC 10,2,153,2", TcURL: "rtmp://*.uplive.ks-cdn.com/live/stream?accesskey=P3UP", ObjectEncoding: 3}
	for _, tt := range []struct {
		name string
		msg  []byte
		want Connect
	}{
		{"the guide's", cmdMsg(0, "connect", 1, guide), guideWant},
		{"the guide's in AMF3's wrapper", msg(typeCommandAMF3, 0, 0, append([]byte{0}, amf.Append(nil, "connect", 1, guide)...)), guideWant},
		{"only a tcUrl", cmdMsg(0, "connect", 1, amf.Object{{Name: "tcUrl", Value: "rtmp://a/live/s"}}), Connect{TcURL: "rtmp://a/live/s"}},
		{"nothing", cmdMsg(0, "connect", 1), Connect{}},
		{"null", cmdMsg(0, "connect", 1, nil), Connect{}},
		{"values of other types", cmdMsg(0, "connect", 1, amf.ECMAArray{{Name: "app", Value: 5.0}, {Name: "tcUrl", Value: true}, {Name: "fourCcList", Value: "x"}, {Name: "objectEncoding", Value: "3"}}), Connect{}},
		{"with arguments", cmdMsg(0, "connect", 1, amf.Object{{Name: "app", Value: "live?k=v"}}, "user", amf.Object{}), Connect{App: "live?k=v"}},
		{"enhanced", cmdMsg(0, "connect", 1, amf.Object{
			{Name: "app", Value: "live"},
			{Name: "fourCcList", Value: []any{"hvc1", 5.0, "*"}}, {Name: "videoFourCcInfoMap", Value: amf.Object{{Name: "*", Value: 4.0}}},
			{Name: "audioFourCcInfoMap", Value: amf.ECMAArray{{Name: "Opus", Value: 1.0}}}, {Name: "capsEx", Value: 15.0}}),
			Connect{App: "live", FourCcList: []string{"hvc1", "*"}, VideoFourCcs: amf.Object{{Name: "*", Value: 4.0}}, AudioFourCcs: amf.Object{{Name: "Opus", Value: 1.0}}, CapsEx: 15}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, result := start(t, Config{})
			p.handshake()
			// Control messages may come first, others are dropped.
			p.write(slices.Concat(appendControl(nil, typeWindowAckSize, 5000000), msg(TypeAudio, 0, 0, []byte{1}), tt.msg))
			a := <-result
			if a.err != nil {
				t.Fatal(a.err)
			}
			if diff := cmp.Diff(&tt.want, a.c.Connect()); diff != "" {
				t.Errorf("Connect (-want +got):\n%s", diff)
			}
			answer := p.command()
			for i := range 2 {
				o := amf.Properties(answer[2+i])
				if (o.Get("fourCcList") != nil) != (tt.name == "enhanced") {
					t.Errorf("answer has fourCcList: %v", o)
				}
				if tt.name != "enhanced" {
					continue
				}
				video, audio := amf.Properties(o.Get("videoFourCcInfoMap")), amf.Properties(o.Get("audioFourCcInfoMap"))
				if video.Number("hvc1") != 4 || video.Number("av01") != 4 || audio.Number("Opus") != 4 || o.Number("capsEx") != 4 || len(o.Get("fourCcList").([]any)) != 11 {
					t.Errorf("capabilities: %v", o)
				}
			}
		})
	}
}

// What ends a connection before connect is answered.
func TestConnectRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		msg  []byte
		want string
	}{
		{"publish first", cmdMsg(1, "publish", 5, nil, "s1"), `unexpected command "publish"`},
		{"no name", cmdMsg(0), "not a command"},
		{"a number", cmdMsg(0, 1.0), "not a command"},
		{"an empty name", cmdMsg(0, ""), "not a command"},
		{"no AMF", msg(TypeCommand, 0, 0, []byte{0x02, 0xFF, 0xFF}), "data too short"},
		{"AMF3 values", msg(typeCommandAMF3, 0, 0, append([]byte{0}, append(amf.Append(nil, "connect", 1), 0x11, 0x0A, 0xFF, 0xFF, 0xFF, 0xFF)...)), "AMF3"}, // H26
		{"AMF3 marker first", msg(typeCommandAMF3, 0, 0, []byte{3, 0x11, 0x06}), "AMF3"},
		{"nested 17 deep", cmdMsg(0, "connect", 1, nested(17)), "nested too deep"},
		{"1025 elements", cmdMsg(0, "connect", 1, make([]any, 1023)), "too many elements"},
		{"command too long", AppendMessage(nil, 128, 3, TypeCommand, 0, 0, make([]byte, 64<<10+1)), "message of type 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, result := start(t, Config{})
			p.handshake()
			go p.try(tt.msg)
			if a := <-result; a.err == nil || !strings.Contains(a.err.Error(), tt.want) {
				t.Errorf("Accept: %v, want %q", a.err, tt.want)
			}
		})
	}
}

// nested returns n objects inside each other.
func nested(n int) (v any) {
	for range n {
		v = amf.Object{{Name: "a", Value: v}}
	}
	return v
}

// Commands that the Conn answers itself; a nil answer is none.
func TestCommandsAnswered(t *testing.T) {
	failed := amf.Object{{Name: "level", Value: "error"}, {Name: "code", Value: "NetConnection.Call.Failed"}, {Name: "description", Value: "Method not found."}}
	c, p := connected(t, Config{})
	ended := make(chan error, 1)
	go func() {
		_, err := c.ReadCommand()
		ended <- err
	}()
	for _, tt := range []struct{ command, answer []any }{
		{[]any{"releaseStream", 2.0, nil, "s1"}, []any{"_result", 2.0, nil, amf.Undefined{}}},
		{[]any{"FCPublish", 3.0, nil, "s1"}, []any{"_result", 3.0, nil, amf.Undefined{}}},
		{[]any{"createStream", 4.0, nil}, []any{"_result", 4.0, nil, 1.0}},
		{[]any{"createStream", 5.0, nil}, []any{"_result", 5.0, nil, 2.0}},
		{[]any{"getStreamLength", 6.0, nil, "s1"}, []any{"_result", 6.0, nil, 0.0}},
		{[]any{"_checkbw", 7.0, nil}, []any{"_result", 7.0, nil, amf.Undefined{}}},
		{[]any{"FCSubscribe", 8.0, nil, "s1"}, []any{"_result", 8.0, nil, amf.Undefined{}}},
		{[]any{"unheardOf", 9.0, nil}, []any{"_error", 9.0, nil, failed}},
		{[]any{"unheardOf", 0.0, nil}, nil},
		{[]any{"unheardOf"}, nil},
		{[]any{"unheardOf", "1"}, nil},
		{[]any{"releaseStream", 0.0, nil, "s1"}, nil},
		{[]any{"_result", 9.0, nil}, nil},
		{[]any{"_error", 9.0, nil}, nil},
		{[]any{"onStatus", 9.0, nil}, nil},
		{[]any{"unheardOf", -2.5, nil}, []any{"_error", -2.5, nil, failed}},
		{[]any{"getStreamLength", 10.0}, []any{"_result", 10.0, nil, 0.0}},
	} {
		p.write(cmdMsg(0, tt.command...))
		if tt.answer == nil {
			continue // seen by the next answer
		}
		if diff := cmp.Diff(tt.answer, p.command()); diff != "" {
			t.Errorf("answer to %v (-want +got):\n%s", tt.command, diff)
		}
	}
	p.write(connectMsg)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "second connect") {
		t.Errorf("ReadCommand after a second connect: %v", err)
	}
}

// Commands that the caller has to act upon.
func TestCommandsReturned(t *testing.T) {
	c, p := connected(t, Config{})
	for _, tt := range []struct {
		streamID uint32
		command  []any
		want     Command
	}{
		{1, []any{"publish", 5.0, nil, "s1?k=v", "live"}, Command{Name: "publish", Transaction: 5, StreamID: 1, StreamName: "s1?k=v", Type: "live", Args: []any{"s1?k=v", "live"}}},
		{0, []any{"publish", 1.0, amf.Object{{Name: "app", Value: "app"}}, "s1"}, Command{Name: "publish", Transaction: 1, StreamName: "s1", Args: []any{"s1"}}}, // B.30
		{1, []any{"publish", 5.0, nil}, Command{Name: "publish", Transaction: 5, StreamID: 1}},
		{1, []any{"publish", 5.0, nil, 7.0, 8.0}, Command{Name: "publish", Transaction: 5, StreamID: 1, Args: []any{7.0, 8.0}}},
		{1, []any{"publish", 0.0, nil, false}, Command{Name: "closeStream", StreamID: 1, Args: []any{false}}},
		{2, []any{"play", 4.0, nil, "s1", -2000.0}, Command{Name: "play", Transaction: 4, StreamID: 2, StreamName: "s1", Args: []any{"s1", -2000.0}}},
		{2, []any{"play", 0.0, nil, false}, Command{Name: "closeStream", StreamID: 2, Args: []any{false}}},
		{2, []any{"pause", 0.0, nil, true, 0.0}, Command{Name: "pause", StreamID: 2, Bool: true, Args: []any{true, 0.0}}},
		{2, []any{"receiveAudio", 0.0, nil, false}, Command{Name: "receiveAudio", StreamID: 2, Args: []any{false}}},
		{2, []any{"receiveVideo", 0.0, nil, true}, Command{Name: "receiveVideo", StreamID: 2, Bool: true, Args: []any{true}}},
		{2, []any{"receiveVideo", 0.0}, Command{Name: "receiveVideo", StreamID: 2}},
		{2, []any{"seek", 6.0, nil, 100.0}, Command{Name: "seek", Transaction: 6, StreamID: 2, Args: []any{100.0}}},
		{2, []any{"closeStream", 0.0, nil}, Command{Name: "closeStream", StreamID: 2, Args: []any{}}},
		{0, []any{"deleteStream", 0.0, nil, 2.0}, Command{Name: "deleteStream", StreamID: 2, Args: []any{2.0}}},
		{3, []any{"deleteStream", 0.0, nil, "s1"}, Command{Name: "deleteStream", StreamID: 3, Args: []any{"s1"}}},
	} {
		go p.try(slices.Concat(msg(TypeVideo, 0, 1, []byte{0x17, 0}), cmdMsg(tt.streamID, tt.command...)))
		got, err := c.ReadCommand()
		if err != nil {
			t.Fatalf("ReadCommand of %v: %v", tt.command, err)
		}
		got.object = nil
		if len(got.Args) == 0 {
			got.Args, tt.want.Args = nil, nil
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(Command{})); diff != "" {
			t.Errorf("ReadCommand of %v (-want +got):\n%s", tt.command, diff)
		}
	}
	p.nc.Close()
	if _, err := c.ReadCommand(); err != io.EOF {
		t.Errorf("ReadCommand at the end: %v, want EOF", err)
	}
}

// Message streams are limited, and come back.
func TestCreateStreamLimit(t *testing.T) {
	c, p := connected(t, Config{})
	go func() { // ends when the test closes the connection
		for {
			if _, err := c.ReadCommand(); err != nil {
				return
			}
		}
	}()
	for i := 1; i <= 17; i++ {
		p.write(cmdMsg(0, "createStream", i, nil))
		v := p.command()
		if i <= 16 && (v[0] != "_result" || v[3] != float64(i)) || i == 17 && v[0] != "_error" {
			t.Errorf("answer to createStream %d: %v", i, v)
		}
	}
	p.write(cmdMsg(0, "deleteStream", 0, nil, 5.0))
	p.write(cmdMsg(0, "createStream", 18, nil))
	if v := p.command(); v[3] != 5.0 {
		t.Errorf("answer to createStream after deleteStream 5: %v", v)
	}
}

// The replies to publish and play, in their order (contract B.20, B.21).
func TestReplies(t *testing.T) {
	result := func(tx float64, code, subCode float64, text string) []any {
		return []any{"_result", tx, nil, amf.Object{{Name: "code", Value: code}, {Name: "subCode", Value: subCode}, {Name: "description", Value: text}}}
	}
	onStatus := func(level, code, text string) []any {
		return []any{"onStatus", 0.0, nil, amf.Object{{Name: "level", Value: level}, {Name: "code", Value: code}, {Name: "description", Value: text}}}
	}
	const onStream = 1 // message stream of the command
	for _, tt := range []struct {
		name  string
		reply func(*Conn, Command, Status) error
		s     Status
		want  [][]any
	}{
		{"publish", (*Conn).AcceptPublish, Status{Description: "Publish Success"},
			[][]any{result(5, 0, 0, "Publish Success"), onStatus("status", "NetStream.Publish.Start", "Publish Success")}},
		{"publish refused", (*Conn).RejectPublish, Status{3, 0, "Already Exist Stream Name", "NetStream.Publish.BadName"},
			[][]any{onStatus("error", "NetStream.Publish.BadName", "Already Exist Stream Name"), result(5, 3, 0, "Already Exist Stream Name")}},
		{"publish refused, no name given", (*Conn).RejectPublish, Status{Code: 5, SubCode: 2, Description: "URL Expired"},
			[][]any{onStatus("error", "NetStream.Publish.Denied", "URL Expired"), result(5, 5, 2, "URL Expired")}},
		{"play", (*Conn).AcceptPlay, Status{Description: "Play Success"},
			[][]any{result(5, 0, 0, "Play Success"), onStatus("status", "NetStream.Play.Reset", "Play Success"), onStatus("status", "NetStream.Play.Start", "Play Success"),
				{"|RtmpSampleAccess", true, true}}},
		{"play refused", (*Conn).RejectPlay, Status{3, 0, "Non-Exist Stream Name", "NetStream.Play.StreamNotFound"},
			[][]any{onStatus("error", "NetStream.Play.StreamNotFound", "Non-Exist Stream Name"), result(5, 3, 0, "Non-Exist Stream Name")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := connected(t, Config{})
			go p.try(cmdMsg(onStream, strings.Fields(tt.name)[0], 5, nil, "s1"))
			cmd, err := c.ReadCommand()
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.reply(c, cmd, tt.s); err != nil {
				t.Fatal(err)
			}
			if tt.name == "play" {
				want := message{typeUserControl, 0, 0, []byte{0, 0, 0, 0, 0, onStream}}
				if diff := diffMessages([]message{want}, []message{p.next()}); diff != "" {
					t.Errorf("first (-want +got):\n%s", diff)
				}
			}
			for _, want := range tt.want {
				m := p.next()
				if diff := cmp.Diff(want, p.values(m)); diff != "" {
					t.Errorf("reply (-want +got):\n%s", diff)
				}
				if id := m.streamID; (want[0] == "_result") != (id == 0) || id > onStream {
					t.Errorf("%v came on message stream %d", want[0], id)
				}
			}
		})
	}
}

// After a refusal the client can read all of it, whatever it has sent meanwhile:
// no reset takes it away.
func TestRejectDrains(t *testing.T) {
	ours, theirs := socket(t)
	result := make(chan accepted, 1)
	go func() {
		c, err := Accept(ours, Config{})
		result <- accepted{c, err}
	}()
	p := &peer{t: t, nc: theirs, got: make(chan message, 1000)}
	p.handshake()
	p.write(connectMsg)
	p.write(cmdMsg(1, "publish", 5, nil, "s1"))
	c := (<-result).c
	cmd, err := c.ReadCommand()
	if err != nil {
		t.Fatal(err)
	}
	p.write(make([]byte, 100000)) // on its way already
	if err := c.RejectPublish(cmd, Status{Code: 3, Description: "Already Exist Stream Name"}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	p.command()
	if v := p.command(); v[0] != "onStatus" {
		t.Errorf("first reply: %v", v)
	}
	if v := p.command(); v[0] != "_result" {
		t.Errorf("second reply: %v", v)
	}
	if m, ok := <-p.got; ok {
		t.Errorf("more: %v", m)
	}
	if p.err != io.EOF {
		t.Errorf("the connection ended with %v, want EOF", p.err)
	}
	theirs.Close()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

// Tag bodies for tests.
var (
	avcConfig = flv.AppendVideo(nil, av.H264, true, true, 0, []byte("\x01\x42\xC0\x1E\xFF\xE1\x00\x08\x67\x42\xC0\x1E\xD9\x00\xA0\x47\x01\x00\x04\x68\xCB\x83\xCB"))
	keyFrame  = flv.AppendVideo(nil, av.H264, true, false, 40, []byte("\x00\x00\x00\x03\x65\x88\x84"))
	frame     = flv.AppendVideo(nil, av.H264, false, false, 0, []byte("\x00\x00\x00\x03\x41\x9A\x02"))
	aacConfig = flv.AppendAudio(nil, av.AAC, true, []byte{0x12, 0x10})
	aacFrame  = flv.AppendAudio(nil, av.AAC, false, []byte{1, 2, 3})
	metadata  = amf.Append(nil, "onMetaData", amf.ECMAArray{{Name: "width", Value: 320.0}})
)

func TestReadPacket(t *testing.T) {
	c, p := publishing(t, Config{})
	go p.try(slices.Concat(
		msg(TypeData, 0, 1, append(amf.Append(nil, "@setDataFrame"), metadata...)),
		msg(typeDataAMF3, 0, 1, append([]byte{0}, metadata...)),
		msg(TypeData, 0, 1, amf.Append(nil, "@clearDataFrame", "onMetaData")),
		msg(TypeData, 0, 1, amf.Append(nil, "|RtmpSampleAccess", true, true)),
		msg(TypeVideo, 0, 1, avcConfig), msg(TypeAudio, 0, 1, aacConfig),
		msg(TypeVideo, 0, 1, nil), msg(TypeAudio, 0, 1, []byte{0xAF}), msg(TypeData, 0, 1, nil), // nothing in them (H76)
		msg(19, 0, 1, []byte("shared object")), msg(99, 0, 1, []byte("unknown")), msg(0, 0, 1, []byte("unknown")),
		cmdMsg(1, "receiveAudio", 0, nil, true),
		msg(TypeVideo, 40, 1, keyFrame), msg(TypeAudio, 45, 1, aacFrame),
		cmdMsg(0, "deleteStream", 0, nil, 2.0), // another one
		msg(TypeVideo, 80, 1, frame),
	))
	for i, want := range []av.Packet{
		{Kind: av.Data, Tag: metadata},
		{Kind: av.Data, Tag: metadata},
		{Kind: av.Video, Codec: av.H264, Config: true, Tag: avcConfig},
		{Kind: av.Audio, Codec: av.AAC, Config: true, Tag: aacConfig},
		{Kind: av.Video, Codec: av.H264, Key: true, DTS: 40, CTS: 40, Tag: keyFrame},
		{Kind: av.Audio, Codec: av.AAC, DTS: 45, Tag: aacFrame},
		{Kind: av.Video, Codec: av.H264, DTS: 80, Tag: frame},
	} {
		got, err := c.ReadPacket()
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		got.Frame = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("packet %d (-want +got):\n%s", i, diff)
		}
	}
}

// How a publication ends: in an orderly way, or not.
func TestReadPacketEnd(t *testing.T) {
	unpublished := []any{"onStatus", 0.0, nil, amf.Object{
		{Name: "level", Value: "status"}, {Name: "code", Value: "NetStream.Unpublish.Success"}, {Name: "description", Value: "Stream is unpublished."}}}
	for _, tt := range []struct {
		name   string
		bytes  []byte
		want   error
		answer []any
	}{
		{"FCUnpublish", cmdMsg(0, "FCUnpublish", 6, nil, "s1"), io.EOF, []any{"_result", 6.0, nil, amf.Undefined{}}},
		{"closeStream", cmdMsg(1, "closeStream", 0, nil), io.EOF, unpublished},
		{"deleteStream", cmdMsg(0, "deleteStream", 7, nil, 1.0), io.EOF, unpublished},
		{"publish(false)", cmdMsg(1, "publish", 0, nil, false), io.EOF, unpublished},
		{"closed between messages", nil, io.EOF, nil},
		{"closed in a message", msg(TypeVideo, 0, 1, make([]byte, 1000))[:500], io.ErrUnexpectedEOF, nil},
		{"closed between chunks of a message", msg(TypeVideo, 0, 1, make([]byte, 1000))[:12+128], io.ErrUnexpectedEOF, nil},
		{"closed in a header", msg(TypeVideo, 0, 1, nil)[:5], io.ErrUnexpectedEOF, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := publishing(t, Config{})
			go func() {
				p.try(tt.bytes)
				if tt.answer == nil {
					p.nc.Close()
				}
			}()
			if _, err := c.ReadPacket(); err != tt.want && (tt.want == io.EOF || !errors.Is(err, tt.want)) {
				t.Errorf("ReadPacket: %v, want %v", err, tt.want)
			}
			if tt.answer != nil {
				if diff := cmp.Diff(tt.answer, p.command()); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// One connection publishes one stream at a time.
func TestPublishTwice(t *testing.T) {
	c, p := publishing(t, Config{})
	go p.try(slices.Concat(cmdMsg(2, "publish", 9, nil, "s2"), cmdMsg(3, "play", 10, nil, "s1"), cmdMsg(2, "closeStream", 0), msg(TypeAudio, 0, 1, aacFrame)))
	if _, err := c.ReadPacket(); err != nil {
		t.Fatalf("ReadPacket: %v", err)
	}
	for i, code := range []string{"NetStream.Publish.Denied", "NetStream.Play.Failed"} {
		m := p.next()
		o := amf.Properties(p.values(m)[3])
		if m.streamID != uint32(2+i) || o.String("level") != "error" || o.String("code") != code {
			t.Errorf("answer on stream %d: %v, want %s", m.streamID, o, code)
		}
		m = p.next() // B.20
		v := p.values(m)
		if m.streamID != 0 || v[0] != "_result" || v[1] != float64(9+i) || amf.Properties(v[3])[0] != (amf.Property{Name: "code", Value: 5.0}) {
			t.Errorf("answer on stream %d: %v", m.streamID, v)
		}
	}
}

// What comes on a message stream other than the one that is published, made
// but refused, is not the publisher's; ids that were never made are.
func TestMediaOfOtherStreams(t *testing.T) {
	c, p := publishing(t, Config{}) // on stream 1
	go p.try(slices.Concat(cmdMsg(0, "createStream", 2, nil), cmdMsg(0, "createStream", 3, nil), cmdMsg(2, "publish", 0, nil, "s2"),
		msg(TypeAudio, 10, 2, aacFrame), msg(TypeAudio, 20, 1, aacFrame), msg(TypeAudio, 30, 0, aacFrame), msg(TypeAudio, 40, 7, aacFrame)))
	for _, want := range []int64{20, 30, 40} {
		if pkt, err := c.ReadPacket(); err != nil || pkt.DTS != want {
			t.Fatalf("packet at %d, %v, want %d", pkt.DTS, err, want)
		}
	}
}

// A command goes on without an argument that is of no type we know; before
// there is a command there is none.
func TestForeignArguments(t *testing.T) {
	c, p := publishing(t, Config{})
	for _, value := range []string{"\x11\x0a\x0b\x01\x01", "\x07\x00\x00", "\x10\x00\x01a\x00\x00\x09", "\x0f\x00\x00\x00\x01x"} {
		body := append(amf.Append(nil, "someCall", 9, nil), value...)
		go p.try(slices.Concat(msg(TypeCommand, 0, 0, body), msg(typeCommandAMF3, 0, 0, append([]byte{0}, body...)), msg(TypeAudio, 0, 1, aacFrame)))
		if _, err := c.ReadPacket(); err != nil {
			t.Fatalf("%x: %v", value, err)
		}
		for range 2 {
			if v := p.command(); v[0] != "_error" || v[1] != 9.0 {
				t.Errorf("%x: answer %v", value, v)
			}
		}
	}
}

// SetPeerBandwidth with another window than ours is answered with that (5.4.5).
func TestSetPeerBandwidth(t *testing.T) {
	c, p := publishing(t, Config{})
	limit := func(window uint32) []byte {
		return AppendMessage(nil, defaultChunkSize, ChunkControl, typeSetPeerBandwidth, 0, 0, append(binary.BigEndian.AppendUint32(nil, window), 2))
	}
	go p.try(slices.Concat(limit(50_000), limit(50_000), limit(60_000), AppendMessage(nil, defaultChunkSize, ChunkControl, typeSetPeerBandwidth, 0, 0, []byte{1}), msg(TypeAudio, 0, 1, aacFrame)))
	if _, err := c.ReadPacket(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint32{50_000, 60_000} {
		if m := p.next(); m.typ != typeWindowAckSize || binary.BigEndian.Uint32(m.body) != want {
			t.Errorf("message of type %d: %x, want a window of %d", m.typ, m.body, want)
		}
	}
}

// Progress in a large message is told of, and that of a small one is not.
func TestHeard(t *testing.T) {
	c, p := publishing(t, Config{})
	heard := 0
	c.SetHeard(func() { heard++ })
	go p.try(slices.Concat(slices.Repeat(msg(TypeAudio, 0, 1, aacFrame), 100), msg(TypeVideo, 0, 1, slices.Concat(keyFrame, make([]byte, 60<<10))), cmdMsg(0, "FCUnpublish", 0, nil)))
	for n := 0; ; n++ {
		_, err := c.ReadPacket()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < 100 && heard > 0 {
			t.Fatal("told of small frames")
		}
	}
	if heard < 10 || heard > 15 {
		t.Errorf("told %d times of 60 KiB", heard)
	}
}

// FCUnpublish ends the push that it names, and not a player.
func TestFCUnpublish(t *testing.T) {
	c, p := publishing(t, Config{})
	go p.try(slices.Concat(cmdMsg(0, "FCUnpublish", 5, nil, "another"), msg(TypeAudio, 0, 1, aacFrame), cmdMsg(0, "FCUnpublish", 6, nil, "s1?k=v")))
	if _, err := c.ReadPacket(); err != nil {
		t.Fatalf("after another name: %v", err)
	}
	if _, err := c.ReadPacket(); err != io.EOF {
		t.Fatalf("after its own name: %v, want EOF", err)
	}
}

// A connection that has ended one publication may begin another, in time.
func TestPublishAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := publishing(t, Config{})
		go p.try(cmdMsg(0, "FCUnpublish", 0, nil, "s1"))
		if _, err := c.ReadPacket(); err != io.EOF {
			t.Fatalf("ReadPacket: %v, want EOF", err)
		}
		p.command()
		go p.try(cmdMsg(1, "publish", 9, nil, "s2"))
		cmd, err := c.ReadCommand()
		if err != nil || cmd.StreamName != "s2" {
			t.Fatalf("ReadCommand: %v, %v", cmd, err)
		}
		if err := c.AcceptPublish(cmd, Status{}); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Hour) // a publisher's silence is not this package's concern
			p.try(msg(TypeAudio, 0, 1, aacFrame))
			p.try(cmdMsg(1, "closeStream", 0, nil))
		}()
		if _, err := c.ReadPacket(); err != nil {
			t.Fatalf("ReadPacket: %v", err)
		}
		if _, err := c.ReadPacket(); err != io.EOF {
			t.Fatalf("ReadPacket: %v, want EOF", err)
		}
		begin := time.Now()
		if _, err := c.ReadCommand(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 10*time.Second {
			t.Errorf("ReadCommand: %v after %v, want a timeout after 10 s", err, time.Since(begin))
		}
	})
}

// The time to come to publish or play is absolute, whatever else is asked.
func TestSetupTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := connected(t, Config{})
		begin := time.Now()
		go func() {
			for i := range 1000 {
				if _, err := p.nc.Write(slices.Concat(cmdMsg(0, "_checkbw", i, nil), cmdMsg(0, "closeStream", 0), cmdMsg(0, "deleteStream", 0, nil, 0))); err != nil {
					return
				}
				time.Sleep(time.Second / 2)
			}
		}()
		var err error
		for err == nil {
			_, err = c.ReadCommand()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 10*time.Second {
			t.Errorf("ReadCommand: %v after %v, want a timeout after 10 s", err, time.Since(begin))
		}
		p.nc.Close()
		synctest.Wait()
		time.Sleep(time.Second)
	})
}

// Timestamps go on beyond 32 bits, and audio and video stay together there.
func TestTimestamps(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []uint32
		want []int64
	}{
		{"plain", []uint32{0, 40, 80}, []int64{0, 40, 80}},
		{"begins late", []uint32{0xFFFFFF00, 0xFFFFFF40}, []int64{0xFFFFFF00, 0xFFFFFF40}},
		{"small step back", []uint32{100, 90, 120}, []int64{100, 90, 120}},
		{"back to 0", []uint32{3600000, 0, 40}, []int64{3600000, 0, 40}},
		{"before the first", []uint32{10, 0xFFFFFFFE}, []int64{10, -2}},
		{"wrap", []uint32{0xFFFFFFF0, 0x10, 0x20}, []int64{0xFFFFFFF0, 0x100000010, 0x100000020}},
		{"wrap, tracks apart", []uint32{0xFFFFFFF0, 0x10, 0xFFFFFFF8, 0x18}, []int64{0xFFFFFFF0, 0x100000010, 0xFFFFFFF8, 0x100000018}},
		{"wraps", []uint32{0xFFFFFFF0, 0x70000000, 0xE0000000, 0x10, 0x70000000, 0xE0000000, 0x10},
			[]int64{0xFFFFFFF0, 0x170000000, 0x1E0000000, 0x200000010, 0x270000000, 0x2E0000000, 0x300000010}},
	} {
		var c clock
		for i, ts := range tt.in {
			if got := c.media(ts); got != tt.want[i] {
				t.Errorf("%s: time %d is %d, want %d", tt.name, i, got, tt.want[i])
			}
			if got := c.data(ts); got != tt.want[i] {
				t.Errorf("%s: time %d is %d for data, want %d", tt.name, i, got, tt.want[i])
			}
		}
	}
	var c clock
	c.media(0xC0000000)
	if got := c.data(0); got != 0x100000000 {
		t.Errorf("data at 0 is at %d", got)
	}
	if got := c.media(0xC0000028); got != 0xC0000028 {
		t.Errorf("video behind data at 0 is at %d", got)
	}
}

// tag returns an FLV tag for an aggregate.
func tag(typ byte, timestamp uint32, body []byte) []byte {
	return flv.AppendTag(nil, typ, timestamp, body)
}

// H22: aggregates.
func TestAggregate(t *testing.T) {
	inner := slices.Concat(tag(TypeVideo, 100, keyFrame), tag(TypeAudio, 110, aacFrame), tag(TypeVideo, 90, frame))
	nestedTags := tag(TypeAudio, 0, aacFrame)
	for range 1000 {
		nestedTags = tag(typeAggregate, 0, nestedTags)
	}
	for _, tt := range []struct {
		name      string
		timestamp uint32
		body      []byte
		want      []int64 // times
		ok        bool
	}{
		{"times count from the first", 5000, inner, []int64{5000, 5010, 4990}, true},
		{"no last back pointer", 0, inner[:len(inner)-4], []int64{0, 10, -10}, true},
		{"half a last back pointer", 0, inner[:len(inner)-2], []int64{0, 10, -10}, true},
		{"empty", 0, nil, nil, true},
		{"negative times", 20, slices.Concat(tag(TypeAudio, 0xFFFFFFF0, aacFrame), tag(TypeAudio, 0, aacFrame)), []int64{20, 36}, true},
		{"empty tags", 0, slices.Concat(tag(TypeAudio, 0, nil), tag(TypeVideo, 0, nil), tag(TypeAudio, 5, aacFrame)), []int64{5}, true},
		{"in itself", 0, nestedTags, nil, false},
		{"in itself once", 0, tag(typeAggregate, 0, inner), nil, false},
		{"a command", 0, tag(TypeCommand, 0, amf.Append(nil, "closeStream")), nil, false},
		{"a control message", 0, tag(typeSetChunkSize, 0, []byte{0, 0, 0, 1}), nil, false},
		{"size beyond the rest", 7, append(tag(TypeAudio, 0, aacFrame), tag(TypeAudio, 1, aacFrame)[:12]...), []int64{7}, false},
		{"largest size", 0, []byte{TypeVideo, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1}, nil, false},
		{"half a header", 7, append(tag(TypeAudio, 0, aacFrame), 8, 0, 0), []int64{7}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := publishing(t, Config{})
			go func() { p.try(msg(typeAggregate, tt.timestamp, 1, tt.body)); p.nc.Close() }()
			var times []int64
			for {
				pkt, err := c.ReadPacket()
				if err != nil {
					if (err == io.EOF) != tt.ok {
						t.Errorf("ReadPacket: %v", err)
					}
					break
				}
				times = append(times, pkt.DTS)
			}
			if !slices.Equal(times, tt.want) {
				t.Errorf("times %v, want %v", times, tt.want)
			}
		})
	}
}

// H28: acknowledgements, as many as the peer wants but no more than one for a
// read.
func TestAcknowledge(t *testing.T) {
	for _, window := range []uint32{0, 1, 1000, 1<<32 - 1} {
		c, p := publishing(t, Config{})
		const n, size = 200, 300
		go func() {
			p.try(appendControl(nil, typeWindowAckSize, window))
			for range n {
				p.try(msg(TypeAudio, 0, 1, slices.Concat(aacFrame, make([]byte, size-len(aacFrame)))))
			}
			p.try(cmdMsg(0, "FCUnpublish", 0, nil))
		}()
		for range n {
			if _, err := c.ReadPacket(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.ReadPacket(); err != io.EOF {
			t.Fatal(err)
		}
		acks, last := 0, uint32(0)
		for m := p.next(); m.typ != TypeCommand; m = p.next() {
			if m.typ != typeAck || len(m.body) != 4 {
				t.Fatalf("window %d: message of type %d", window, m.typ)
			}
			seq := binary.BigEndian.Uint32(m.body)
			if seq <= last || seq-last < window {
				t.Errorf("window %d: acknowledged %d after %d", window, seq, last)
			}
			last = seq
			acks++
		}
		switch total := n * size; {
		case window == 0 || window > 1000:
			if acks != 0 {
				t.Errorf("window %d: %d acknowledgements", window, acks)
			}
		case acks < total/max(int(window), bufferMedia+size)-1 || uint(acks) > c.in.reads:
			t.Errorf("window %d: %d acknowledgements of %d bytes in %d reads", window, acks, total, c.in.reads)
		}
		p.nc.Close()
	}
}

// H29: pings are answered, a flood of them is not, and it is read slowly.
func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := publishing(t, Config{})
		go p.try(slices.Concat(appendEvent(nil, eventPingRequest, 0x01020304), msg(TypeAudio, 0, 1, aacFrame)))
		if _, err := c.ReadPacket(); err != nil {
			t.Fatal(err)
		}
		want := message{typeUserControl, 0, 0, []byte{0, 7, 1, 2, 3, 4}}
		if diff := diffMessages([]message{want}, []message{p.next()}); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}

		var flood []byte
		for i := range 1000 {
			flood = appendEvent(flood, eventPingRequest, uint32(i))
			flood = AppendMessage(flood, 128, 2, typeUserControl, 0, 0, []byte{0, 3, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}) // SetBufferLength
			flood = AppendMessage(flood, 128, 2, typeSetPeerBandwidth, 0, 0, []byte{0, 0, 0, 0, 2})
			flood = AppendMessage(flood, 128, 2, typeAck, 0, 0, []byte{0xFF, 0xFF, 0xFF, 0xFF})
			flood = AppendMessage(flood, 128, 2, typeUserControl, 0, 0, []byte{0xFF, 0xFF})
		}
		begin := time.Now()
		go func() {
			for range 100 {
				p.try(flood)
			}
			p.try(cmdMsg(0, "FCUnpublish", 0, nil))
		}()
		if _, err := c.ReadPacket(); err != io.EOF {
			t.Fatal(err)
		}
		pongs := 0
		for m := p.next(); m.typ != TypeCommand; m = p.next() {
			pongs++
		}
		took := time.Since(begin)
		if took < 40*time.Second || took > time.Minute {
			t.Errorf("500000 messages of no use are read in %v", took)
		}
		if most := DefaultLimits().Answers * (2 + int(took/time.Second) + 1); pongs == 0 || pongs > most {
			t.Errorf("%d answers to 100000 pings in %v, want at most %d", pongs, took, most)
		}
	})
}

// H89, H76: so is media that is no packet, or that nobody wants.
func TestJunk(t *testing.T) {
	flood := bytes.Repeat(msg(TypeAudio, 0, 1, []byte{0xAF}), 1000)
	for name, read := range map[string]func(c *Conn) error{
		"by a publisher": func(c *Conn) error { _, err := c.ReadPacket(); return err },
		"by a player":    func(c *Conn) error { _, err := c.ReadCommand(); return err },
	} {
		synctest.Test(t, func(t *testing.T) {
			c, p := publishing(t, Config{})
			begin := time.Now()
			go func() {
				for range 100 {
					p.try(flood)
				}
				p.try(cmdMsg(0, "deleteStream", 0, nil, 1))
			}()
			if err := read(c); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if took := time.Since(begin); took < 8*time.Second || took > 10*time.Second {
				t.Errorf("100000 empty messages %s are read in %v", name, took)
			}
		})
	}
}

// A message on a stream that was never created is no way to be sent bytes that
// nobody else is sent (H27).
func TestStreamNeverCreated(t *testing.T) {
	for _, name := range []string{"publish", "play"} {
		c, p := connected(t, Config{})
		go p.try(cmdMsg(17, name, 3, nil, "s"))
		if cmd, err := c.ReadCommand(); err == nil || !strings.Contains(err.Error(), "message stream 17") {
			t.Errorf("%s on message stream 17 = %v, %v", name, cmd, err)
		}
	}
}

// User control messages that are too short.
func TestUserControlShort(t *testing.T) {
	for _, body := range []string{"", "\x00", "\x00\x06", "\x00\x06\x00\x00\x01"} {
		c, p := publishing(t, Config{})
		go p.try(msg(typeUserControl, 0, 0, []byte(body)))
		if _, err := c.ReadPacket(); !errors.Is(err, errControl) {
			t.Errorf("user control %x: %v, want %v", body, err, errControl)
		}
		p.nc.Close()
	}
}

// A flood of commands ends the connection.
func TestCommandFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, publish := range []bool{false, true} {
			begin := connected
			if publish {
				begin = publishing
			}
			c, p := begin(t, Config{})
			sent, done := 0, make(chan struct{})
			go func() {
				defer close(done)
				for ; sent < 10000; sent++ {
					if _, err := p.nc.Write(cmdMsg(0, "createStream", 1, nil)); err != nil {
						return
					}
				}
			}()
			var err error
			if publish {
				_, err = c.ReadPacket()
			} else {
				_, err = c.ReadCommand()
			}
			if !errors.Is(err, errFlood) {
				t.Errorf("read: %v, want %v", err, errFlood)
			}
			c.Close()
			<-done
			if most := 2*DefaultLimits().Answers + 20; sent > most {
				t.Errorf("%d commands were taken, want at most %d", sent, most)
			}
		}
	})
}

// What the Conn has to say goes where SetOutput says.
func TestSetOutput(t *testing.T) {
	c, p := connected(t, Config{})
	go p.try(cmdMsg(1, "play", 5, nil, "s1"))
	cmd, err := c.ReadCommand()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AcceptPlay(cmd, Status{}); err != nil {
		t.Fatal(err)
	}
	var out []byte
	c.SetOutput(func(b []byte) error { out = append(out, b...); return nil })
	go p.try(slices.Concat(appendEvent(nil, eventPingRequest, 1), cmdMsg(0, "getStreamLength", 3, nil), cmdMsg(1, "pause", 0, nil, true)))
	if cmd, err := c.ReadCommand(); err != nil || cmd.Name != "pause" {
		t.Fatalf("ReadCommand: %v, %v", cmd, err)
	}
	want := appendEvent(nil, eventPingResponse, 1)
	want = AppendMessage(want, c.ChunkSize(), ChunkCommand, TypeCommand, 0, 0, amf.Append(nil, "_result", 3, nil, 0))
	if string(out) != string(want) {
		t.Errorf("output %x, want %x", out, want)
	}
	if c.BytesRead() == 0 || c.BytesWritten() == 0 {
		t.Errorf("%d bytes read, %d written", c.BytesRead(), c.BytesWritten())
	}
}

// A client that does not read what it asks for is given up in time.
func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := pipe(t)
		c := newConn(ours, Config{})
		go theirs.Write(cmdMsg(0, "createStream", 1, nil))
		begin := time.Now()
		if _, err := c.ReadCommand(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 10*time.Second {
			t.Errorf("ReadCommand: %v after %v, want a timeout after 10 s", err, time.Since(begin))
		}
	})
}

// Every limit is a setting.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lim   Limits
		bytes []byte
		want  string
	}{
		{"command", Limits{Command: 200}, cmdMsg(0, strings.Repeat("x", 200)), "message of type 20 and 203 bytes"},
		{"data", Limits{Data: 10}, msg(TypeData, 0, 1, make([]byte, 11)), "message of type 18 and 11 bytes"},
		{"audio", Limits{Audio: 10}, msg(TypeAudio, 0, 1, make([]byte, 11)), "message of type 8 and 11 bytes"},
		{"video", Limits{Video: 10}, msg(TypeVideo, 0, 1, make([]byte, 11)), "message of type 9 and 11 bytes"},
		{"aggregate", Limits{Video: 10}, msg(typeAggregate, 0, 1, make([]byte, 11)), "message of type 22 and 11 bytes"},
		{"chunk size", Limits{ChunkSize: 256}, slices.Concat(appendControl(nil, typeSetChunkSize, 257), begun(6, 600, 256), begun(7, 600, 256), msg(TypeAudio, 0, 1, nil), []byte{0xC8}), "chunk stream 8 begins"},
		{"chunk streams", Limits{ChunkStreams: 1}, slices.Concat(begun(6, 200, 128), begun(7, 200, 128)), errChunkStream.Error()},
		{"partial bytes", Limits{Partial: 1000}, begun(6, 1001, 128), errPartial.Error()},
		{"AMF depth", Limits{AMFDepth: 2}, cmdMsg(0, "x", 0, nested(3)), "nested too deep"},
		{"AMF elements", Limits{AMFElements: 5}, cmdMsg(0, "x", 0, nil, nil, nil, nil), "too many elements"},
		{"answers", Limits{Answers: 2}, bytes.Repeat(cmdMsg(0, "x"), 4), errFlood.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				c := newConn(ours, Config{Limits: tt.lim})
				done := make(chan struct{})
				go func() {
					defer close(done)
					theirs.Write(slices.Concat(tt.bytes, cmdMsg(0, "x")))
				}()
				_, err := c.ReadCommand()
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("ReadCommand: %v, want %q", err, tt.want)
				}
				ours.Close()
				<-done
			})
		})
	}
}
