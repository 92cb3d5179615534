package callback

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/internal/event"
)

// guideClient is who pushes in the guide's examples.
func guideClient(ip, node string, port uint16) event.Client {
	return event.Client{
		Domain: "xxx.xxx.com", Protocol: "rtmp",
		Addr: netip.AddrPortFrom(netip.MustParseAddr(ip), port), NodeAddr: netip.MustParseAddr(node),
		Params: []event.Param{{Name: "k", Value: "1"}, {Name: "t", Value: "2"}, {Name: "k", Value: "3"}},
	}
}

func fact(ms int64, space, app, stream string, data event.Data) event.Event {
	e := event.New(time.UnixMilli(ms), data)
	e.Node, e.Space, e.App, e.Stream, e.Sequence = "n1", space, app, stream, "xxxx"
	return e
}

// What the guide's examples show is what we send, byte for byte apart from
// white space between JSON tokens (l.493-571, 617-680, 693, 732, 867-884,
// 908-939, 1096-1127, with the corrections of contract B.10 and B.11).
func TestGoldenBodies(t *testing.T) {
	v2 := guideClient("110.120.130.140", "120.120.120.120", 17102)
	v1 := guideClient("125.163.178.81", "108.42.234.6", 1111)
	form := event.Client{TcURL: "rtmp://test.uplive.ks-cdn.com/live", Params: []event.Param{{Name: "vdoid", Value: "123456"}}}
	cb := func(format string) *event.Callback {
		return &event.Callback{URL: "https://example.com/", Format: format}
	}
	extended := cb("v1-json")
	extended.Sequence, extended.StartTime, extended.PortText, extended.Redact = true, true, true, true
	hls := event.Recording{
		Task: "xxxxx", Format: "hls", Bucket: "yourks3bucket", Key: "record/yourapp/StreamName/hls/StreamName-1594951180-1594953010.m3u8",
		Start: time.Unix(1594951180, 1), End: time.Unix(1594953010, 0), Domain: "xxx.xxx.com", Callback: cb(""),
	}
	hlsNew := hls
	hlsNew.Callback = cb("new")
	mp4 := event.Recording{
		Task: "eb12e806cd3042345919d4ee8e539ez120230505", Format: "mp4", Bucket: "yourks3bucket", Key: "record/yourapp/StreamName/mp4/StreamName-1594951180-1594953010.mp4",
		Start: time.Unix(1456800010, 0), End: time.Unix(1456800020, 0), Callback: cb(""),
	}
	flv := mp4
	flv.Format = "flv"
	picture := event.Snapshot{
		Task: "24dcb5bbd84f419e3dbfdc2cbad74742", Domain: "yourpubdomain", Bucket: "yourbucket", Region: "BEIJING",
		Key:      "record/app/streamname/picture/1683269715474_153042646/streamname-1683279837.jpg",
		SrcWidth: 720, SrcHeight: 1280, Callback: cb(""),
	}
	pictureNew := picture
	pictureNew.Callback = cb("new")
	mp4New := mp4
	mp4New.Callback, mp4New.Domain = cb("new"), "xxx.xxx.com"
	flvNew := mp4New
	flvNew.Format, flvNew.Key = "flv", "record/yourapp/StreamName/flv/StreamName-1594951180-1594953010.flv"
	tests := []struct {
		golden string
		fact   event.Event
	}{
		{"v2_start.json", fact(1670575130460, "yourUniqueName", "live", "stream_123", event.PublishStarted{Client: v2, Callback: cb("v2")})},
		{"v2_end.json", fact(1670575168965, "yourUniqueName", "live", "stream_123", event.PublishEnded{Client: v2, Reason: event.ReasonClosed, Callback: cb("v2")})},
		{"v1_start.json", fact(1456800010000, "x", "live", "test", event.PublishStarted{Client: v1, Callback: cb("v1-json")})},
		{"v1_end.json", fact(1456800010000, "x", "live", "test", event.PublishEnded{Client: v1, Reason: event.ReasonNoData, Callback: cb("v1-json")})},
		{"v1_end_extended.json", fact(1456800010000, "x", "live", "test", event.PublishEnded{Client: v1, Started: time.UnixMilli(1456800000000), Callback: extended})},
		{"v1_start.form", fact(1456800010000, "x", "live", "asdf", event.PublishStarted{Client: form, Callback: cb("v1-string")})},
		{"v1_end.form", fact(1456800010000, "x", "live", "asdf", event.PublishEnded{Client: form, Callback: cb("v1-string")})},
		{"v2_refused.json", fact(1670575130460, "yourUniqueName", "live", "stream_123",
			event.PublishRefused{Client: v2, Reason: "auth_expired", Code: 5, SubCode: 2, Message: "URL Expired", Callback: cb("v2")})},
		{"record_hls.json", fact(1594953190000, "yourUniqueName", "yourapp", "StreamName", event.RecordFinished{Recording: hls, Size: 123})},
		{"record_hls_new.json", fact(1594953190000, "yourUniqueName", "yourapp", "StreamName", event.RecordFinished{
			Recording: hlsNew, Duration: 1815*time.Second + 999*time.Millisecond, Size: 356123456, Segments: 182, Lost: 4500 * time.Millisecond,
		})},
		{"record_hls_failed_new.json", fact(1594953190000, "yourUniqueName", "yourapp", "StreamName", event.RecordFailed{Recording: hlsNew, Errnum: 5, Errmsg: "the disk is full"})},
		{"record_mp4.json", fact(1594953190000, "yourUniqueName", "yourapp", "yourstreamname", event.RecordFinished{Recording: mp4, Media: &event.MediaInfo{
			FormatName: "mp4", Size: 1027254935, Duration: 5241*time.Second + 999*time.Millisecond, BitRate: 1568024,
			Streams: []event.MediaStream{
				{Index: 0, CodecName: "h264", CodecType: "video", Width: 1280, Height: 720, FrameRate: "25/1"},
				{Index: 1, CodecName: "aac", CodecType: "audio", Channels: 2, SampleRate: 32000},
			},
		}})},
		{"record_mp4_new.json", fact(1594953190000, "yourUniqueName", "yourapp", "yourstreamname", event.RecordFinished{
			Recording: mp4New, Duration: 9960 * time.Millisecond, Size: 1234567, Segments: 1,
			Media: &event.MediaInfo{
				FormatName: "mp4", Size: 1234567, Duration: 9960 * time.Millisecond, BitRate: 991620,
				Streams: []event.MediaStream{{Index: 0, CodecName: "h264", CodecType: "video", Width: 1280, Height: 720, FrameRate: "25/1"}},
			},
		})},
		{"record_flv_new.json", fact(1594953190000, "yourUniqueName", "yourapp", "yourstreamname", event.RecordFinished{
			Recording: flvNew, Duration: 800 * time.Millisecond, Size: 98765, Segments: 2, Lost: time.Second,
		})},
		{"record_flv_failed.json", fact(1594953190000, "yourUniqueName", "yourapp", "yourstreamname", event.RecordFailed{Recording: flv, Errnum: 5, Errmsg: "the HLS recording failed"})},
		{"snapshot.json", fact(1683279838000, "youruniquename", "yourapp", "streamname", event.SnapshotTaken{Snapshot: picture, Width: 720, Height: 1280, Size: 96733})},
		{"snapshot_failed_new.json", fact(1683279838000, "youruniquename", "yourapp", "streamname", event.SnapshotFailed{Snapshot: pictureNew, Errnum: 7, Errmsg: "the picture cannot be decoded"})},
		{"alert_raised.json", fact(1670575130460, "yourUniqueName", "live", "stream_123",
			event.AlertRaised{Alert: "low_bit_rate", Text: "below 500 kbit/s for 30 s", Value: 412.5, Limit: 500, Callback: cb("")})},
		{"alert_cleared.json", fact(1670575130460, "yourUniqueName", "live", "stream_123",
			event.AlertCleared{Alert: "low_bit_rate", Since: time.UnixMilli(1670575100460), Callback: cb("")})},
	}
	for _, tt := range tests {
		cb := callbackOf(&tt.fact)
		if cb == nil {
			t.Fatalf("%s: the fact has no callback", tt.golden)
		}
		got, err := render(&tt.fact, cb, tt.fact.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", tt.golden))
		if err != nil {
			t.Fatal(err)
		}
		contentType := formType
		if strings.HasSuffix(tt.golden, ".json") {
			contentType = jsonType
			var b bytes.Buffer
			if err := json.Compact(&b, want); err != nil {
				t.Fatalf("%s: %v", tt.golden, err)
			}
			want = b.Bytes()
		}
		if diff := cmp.Diff(string(want), string(got.text)); diff != "" || got.contentType != contentType {
			t.Errorf("%s: as %s (-want +got):\n%s", tt.golden, got.contentType, diff)
		}
	}
}

// Every Type of fact that can have a Callback has a body, and none other.
func TestEveryCallbackHasABody(t *testing.T) {
	for _, typ := range event.Types() {
		var e event.Event
		text := `{"type":"` + string(typ) + `","data":{"callback":{"url":"https://example.com/"}}}`
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		cb, known := callbackOf(&e), false
		for _, x := range types {
			known = known || x == typ
		}
		if (cb != nil) != known {
			t.Errorf("callbackOf(%s) = %v, in types: %t", typ, cb, known)
		}
		if _, err := render(&e, &event.Callback{}, ""); (err == nil) != known {
			t.Errorf("render(%s): %v", typ, err)
		}
	}
}

func TestEndCode(t *testing.T) {
	for reason, want := range map[string]string{
		event.ReasonClosed: "1 rtmp_close_stream", event.ReasonNoData: "2 rtmp_no_data", event.ReasonRevoked: "3 rtmp_auth_failed",
		event.ReasonNodeDied: "0 other error", "reset": "0 other error", "takeover": "0 other error", "kicked": "0 other error",
		"over limit": "0 other error", "shutdown": "0 other error", "": "0 other error",
	} {
		code, message := endCode(reason)
		if got := string(rune('0'+code)) + " " + message; got != want {
			t.Errorf("endCode(%q) = %s, want %s", reason, got, want)
		}
		e := fact(0, "s", "a", "x", event.PublishEnded{Reason: reason, Callback: &event.Callback{Format: "v1-string"}})
		b, err := render(&e, e.Data.(event.PublishEnded).Callback, "")
		mode := map[bool]string{true: "1", false: "2"}[code == 1]
		if reason == "" {
			mode = "nil"
		}
		if err != nil || !strings.Contains(string(b.text), "&close_mode="+mode+"&") {
			t.Errorf("%q: %s, %v, want close_mode %s", reason, b.text, err, mode)
		}
	}
}

// H70, H71: whatever a client sends is a value, in every format, and comes
// back as it was sent.
func TestHostileValues(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a&call=user_publish_done", "a\r\nWeir-Signature: x", "\"}{\"", "<&>", "%26", "+ +", "\x00\xff", "ä=\u2028", "k", "token"}))
	rapid.Check(t, func(t *rapid.T) {
		c := event.Client{Domain: text.Draw(t, "domain"), TcURL: text.Draw(t, "tcurl"), SwfURL: text.Draw(t, "swfurl"), FlashVer: text.Draw(t, "flashver")}
		for range rapid.IntRange(0, 4).Draw(t, "params") {
			c.Params = append(c.Params, event.Param{Name: text.Draw(t, "name"), Value: text.Draw(t, "value")})
		}
		e := fact(1, "space", text.Draw(t, "app"), text.Draw(t, "stream"), event.PublishStarted{})
		for _, data := range []event.Data{event.PublishStarted{Client: c}, event.PublishEnded{Client: c}, event.PublishRefused{Client: c}} {
			e.Data = data
			for _, format := range []string{"v2", "v1-json"} {
				b, err := render(&e, &event.Callback{Format: format}, "seq")
				if err != nil {
					t.Fatal(err)
				}
				var got struct{ App, Stream, Pubdomain, PubParam string }
				if err := json.Unmarshal(b.text, &got); err != nil {
					t.Fatalf("%s: %v", b.text, err)
				}
				if got.App != valid(e.App) || got.Stream != valid(e.Stream) || got.Pubdomain != valid(c.Domain) {
					t.Fatalf("%s: %s", format, b.text)
				}
				var params map[string]string
				if err := json.Unmarshal([]byte(got.PubParam), &params); err != nil {
					t.Fatalf("PubParam %s: %v", got.PubParam, err)
				}
				for _, p := range c.Params {
					if _, ok := params[valid(p.Name)]; !ok {
						t.Fatalf("PubParam %s lacks %q", got.PubParam, p.Name)
					}
				}
			}
			b, err := render(&e, &event.Callback{Format: "v1-string", Sequence: true}, "seq")
			if err != nil {
				t.Fatal(err)
			}
			form, err := url.ParseQuery(strings.ReplaceAll(string(b.text), ";", "%3B")) // which Go alone minds
			if err != nil {
				t.Fatalf("%s: %v", b.text, err)
			}
			want := c.TcURL
			if want == "" {
				want = "nil"
			}
			if got := form["tcurl"]; len(got) != 1 || got[0] != want || form.Get("name") != e.Stream || form.Get("app") != e.App || len(form["call"]) != 1 {
				t.Fatalf("%s: %v", b.text, form)
			}
		}
	})
}

// valid is s as JSON can hold it.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s)) // each byte that is no character becomes U+FFFD
}

func TestRedact(t *testing.T) {
	c := event.Client{
		TcURL:  "rtmp://push.example/live?SignaTure=abc&a=b&%6b=1&x%zz=2",
		Params: []event.Param{{Name: "Token", Value: "secret-1"}, {Name: "txSecret", Value: "secret-2"}, {Name: "t", Value: "99"}},
	}
	e := fact(1, "s", "live", "x", event.PublishStarted{Client: c})
	for format, want := range map[string]string{
		"v2":        `"PubParam":"{\"Token\":\"***\",\"txSecret\":\"***\",\"t\":\"99\"}"`,
		"v1-string": "tcurl=rtmp://push.example/live?SignaTure%3D***%26a%3Db%26%256b%3D***%26x%25zz%3D***&",
	} {
		b, err := render(&e, &event.Callback{Format: format, Redact: true}, "")
		if err != nil || !strings.Contains(string(b.text), want) {
			t.Errorf("%s, %v, want %s in it", b.text, err, want)
		}
	}
}
