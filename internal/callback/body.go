package callback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/internal/event"
)

// The words of the guide's bodies are only in this file. Fields stand in the
// order of its examples: where a struct tells of a start and of an end, what
// only one of them has is left out of the other.

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
)

// body is what is sent of a fact. It depends on the fact alone, so that it is
// the same whenever and wherever it is made, but for sequence: that of the
// start that the receiver was told of, which the flap guard may have made
// another than the fact's.
type body struct {
	text        []byte
	contentType string
}

// render returns the body that tells of e in the way of cb.
func render(e *event.Event, cb *event.Callback, sequence string) (body, error) {
	switch d := e.Data.(type) {
	case event.PublishStarted:
		return pushBody(e, cb, sequence, &d.Client, push{started: e.Time})
	case event.PublishEnded:
		return pushBody(e, cb, sequence, &d.Client, push{started: d.Started, ended: e.Time, reason: d.Reason, over: true})
	case event.PublishRefused:
		return pushBody(e, cb, "", &d.Client, push{refused: &d})
	case event.RecordFinished:
		return recordBody(e, cb, &d.Recording, &d, "", 0)
	case event.RecordFailed:
		return recordBody(e, cb, &d.Recording, nil, d.Errmsg, d.Errnum)
	case event.ClipFinished: // as the recordings of its format
		return recordBody(e, cb, &d.Recording, &event.RecordFinished{Recording: d.Recording, Duration: d.Duration, Size: d.Size, Media: d.Media}, "", 0)
	case event.ClipFailed:
		return recordBody(e, cb, &d.Recording, nil, d.Errmsg, d.Errnum)
	case event.SnapshotTaken:
		return snapshotBody(e, cb, &d.Snapshot, &d, "", 0)
	case event.SnapshotFailed:
		return snapshotBody(e, cb, &d.Snapshot, nil, d.Errmsg, d.Errnum)
	case event.AlertRaised:
		return alertBody(e, alert{NotifyType: "AlertRaised", Alert: d.Alert, Text: d.Text, Value: &d.Value, Limit: &d.Limit})
	case event.AlertCleared:
		return alertBody(e, alert{NotifyType: "AlertCleared", Alert: d.Alert, SinceUnixTime: d.Since.UnixMilli()})
	}
	return body{}, fmt.Errorf("there is no callback of %s", e.Type)
}

// callbackOf returns where and how the owner is told of e; nil: he is not.
func callbackOf(e *event.Event) *event.Callback {
	var cb *event.Callback
	switch d := e.Data.(type) {
	case event.PublishStarted:
		cb = d.Callback
	case event.PublishEnded:
		cb = d.Callback
	case event.PublishRefused:
		cb = d.Callback
	case event.RecordFinished:
		cb = d.Callback
	case event.RecordFailed:
		cb = d.Callback
	case event.ClipFinished:
		cb = d.Callback
	case event.ClipFailed:
		cb = d.Callback
	case event.SnapshotTaken:
		cb = d.Callback
	case event.SnapshotFailed:
		cb = d.Callback
	case event.AlertRaised:
		cb = d.Callback
	case event.AlertCleared:
		cb = d.Callback
	}
	if cb == nil || cb.URL == "" {
		return nil
	}
	return cb
}

// types are the Types of facts that may have a callback.
var types = []event.Type{
	event.TypePublishStarted, event.TypePublishEnded, event.TypePublishRefused,
	event.TypeRecordFinished, event.TypeRecordFailed,
	event.TypeClipFinished, event.TypeClipFailed,
	event.TypeSnapshotTaken, event.TypeSnapshotFailed,
	event.TypeAlertRaised, event.TypeAlertCleared,
}

func jsonBody(v any) (body, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return body{}, err
	}
	return body{bytes.TrimSuffix(b.Bytes(), []byte("\n")), jsonType}, nil
}

// push is what a body says of a push beside who pushed.
type push struct {
	started, ended time.Time
	reason         string // of the end
	over           bool
	refused        *event.PublishRefused
}

// endCode returns the PubEndCode and PubEndMessage of an end (l.544-552).
func endCode(reason string) (int, string) {
	switch reason {
	case event.ReasonClosed:
		return 1, "rtmp_close_stream"
	case event.ReasonNoData:
		return 2, "rtmp_no_data"
	case event.ReasonRevoked:
		return 3, "rtmp_auth_failed"
	}
	return 0, "other error"
}

func pushBody(e *event.Event, cb *event.Callback, sequence string, c *event.Client, p push) (body, error) {
	switch cb.Format {
	case "v1-json":
		return v1JSON(e, cb, sequence, c, p)
	case "v1-string":
		return v1String(e, cb, sequence, c, p), nil
	}
	return v2(e, cb, sequence, c, p)
}

// v2 is the new version (l.451-571), and with what is ours that of a refusal.
func v2(e *event.Event, cb *event.Callback, sequence string, c *event.Client, p push) (body, error) {
	type common struct {
		Version, App, Pubdomain, Stream, NotifyType, ClientIp, ClientPort, Node, PubParam, UniqueName string
		Sequence                                                                                      string `json:",omitempty"`
	}
	head := common{
		"1.0", e.App, c.Domain, e.Stream, "PubStart", addr(c), strconv.Itoa(int(c.Addr.Port())), nodeAddr(e, c), pubParam(cb, c), e.Space, sequence,
	}
	switch {
	case p.refused != nil:
		head.NotifyType = "PubRefused"
		return jsonBody(struct {
			common
			PubRefusedReason                  string
			PubRefusedCode, PubRefusedSubCode int
			PubRefusedMessage                 string
			PubRefusedUnixTime                int64
		}{head, p.refused.Reason, p.refused.Code, p.refused.SubCode, p.refused.Message, e.Time.UnixMilli()})
	case p.over:
		head.NotifyType = "PubEnd"
		code, message := endCode(p.reason)
		end := struct {
			common
			PubEndCode       int
			PubEndMessage    string
			PubEndUnixTime   int64
			PubStartUnixTime int64 `json:",omitempty"`
		}{head, code, message, p.ended.UnixMilli(), 0}
		if cb.StartTime {
			end.PubStartUnixTime = p.started.UnixMilli()
		}
		return jsonBody(end)
	}
	return jsonBody(struct {
		common
		PubStartUnixTime int64
	}{head, p.started.UnixMilli()})
}

// v1JSON is the old version (l.584-680), whose start has texts where its end
// has numbers.
func v1JSON(e *event.Event, cb *event.Callback, sequence string, c *event.Client, p push) (body, error) {
	type head struct{ Version, App, Pubdomain, Stream string }
	type tail struct {
		NotifyType, ClientIp string
		ClientPort           any
		Node, PubParam       string
		Sequence             string `json:",omitempty"`
	}
	h := head{"1.0", e.App, c.Domain, e.Stream}
	t := tail{"PubStart", addr(c), strconv.Itoa(int(c.Addr.Port())), nodeAddr(e, c), pubParam(cb, c), ""}
	if cb.Sequence {
		t.Sequence = sequence
	}
	switch {
	case p.refused != nil:
		return v2(e, cb, "", c, p)
	case p.over:
		t.NotifyType = "PubEnd"
		if !cb.PortText {
			t.ClientPort = c.Addr.Port()
		}
		end := struct {
			head
			PubEndUnixTime int64
			tail
			PubStartUnixTime string `json:",omitempty"`
		}{h, p.ended.UnixMilli(), t, ""}
		if cb.StartTime {
			end.PubStartUnixTime = strconv.FormatInt(p.started.UnixMilli(), 10)
		}
		return jsonBody(end)
	}
	return jsonBody(struct {
		head
		PubStartUnixTime string
		tail
	}{h, strconv.FormatInt(p.started.UnixMilli(), 10), t})
}

// v1String is the oldest version (l.682-771).
func v1String(e *event.Event, cb *event.Callback, sequence string, c *event.Client, p push) body {
	var b []byte
	add := func(name, value string) {
		if b != nil {
			b = append(b, '&')
		}
		b = appendEscaped(append(append(b, name...), '='), value)
	}
	orNil := func(s string) string { // as Lua writes what there is not
		if s == "" {
			return "nil"
		}
		return s
	}
	tcURL := c.TcURL
	if cb.Redact {
		tcURL = redactURL(tcURL)
	}
	add("app", e.App)
	add("name", e.Stream)
	add("swfurl", orNil(c.SwfURL))
	add("flashver", orNil(c.FlashVer))
	add("tcurl", orNil(tcURL))
	switch {
	case p.refused != nil:
		add("call", "user_publish_refused")
		add("code", strconv.Itoa(p.refused.Code))
		add("subcode", strconv.Itoa(p.refused.SubCode))
	case p.over:
		add("call", "user_publish_done")
		mode := ""
		if p.reason != "" {
			mode = "2"
			if code, _ := endCode(p.reason); code == 1 {
				mode = "1"
			}
		}
		add("close_mode", orNil(mode))
	default:
		add("call", "user_publish")
	}
	vdoid, _ := c.Param("vdoid")
	add("vdoid", vdoid)
	if cb.Sequence && sequence != "" {
		add("Sequence", sequence)
	}
	return body{b, formType}
}

// appendEscaped writes a value of a form as the guide's examples have it, with
// ":" and "/" as they are: only what would be read as something else is escaped.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f || c == '&' || c == '=' || c == '%' || c == '+':
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

func addr(c *event.Client) string {
	if !c.Addr.IsValid() {
		return ""
	}
	return c.Addr.Addr().Unmap().WithZone("").String()
}

// nodeAddr is the node that took the push: its address, as in the guide (l.485),
// or its name where the address is not known.
func nodeAddr(e *event.Event, c *event.Client) string {
	if !c.NodeAddr.IsValid() {
		return e.Node
	}
	return c.NodeAddr.Unmap().WithZone("").String()
}

const redacted = "***"

// secretParams are the parameters that a redacted body does not show.
var secretParams = []string{
	"k", "signature", "token", "access_token", "auth_key", "sign", "txsecret", "wssecret", "secret", "key", "password", "passwd", "pass", "pwd", "jwt",
}

func secretParam(name string) bool { return slices.Contains(secretParams, strings.ToLower(name)) }

// pubParam is the parameters of a push as the text of a JSON object: the
// values decoded, the first of a name, in the order sent (contract B.70).
func pubParam(cb *event.Callback, c *event.Client) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	text := func(s string) {
		enc.Encode(s)
		b.Truncate(b.Len() - 1) // the line end
	}
	b.WriteByte('{')
	for i, p := range c.Params {
		if slices.ContainsFunc(c.Params[:i], func(q event.Param) bool { return q.Name == p.Name }) {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		text(p.Name)
		b.WriteByte(':')
		if cb.Redact && secretParam(p.Name) {
			p.Value = redacted
		}
		text(p.Value)
	}
	b.WriteByte('}')
	return b.String()
}

// redactURL returns a URL without the values of secret parameters.
func redactURL(s string) string {
	path, query, ok := strings.Cut(s, "?")
	if !ok {
		return s
	}
	params := strings.Split(query, "&")
	for i, p := range params {
		name, _, _ := strings.Cut(p, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil || secretParam(plain) {
			params[i] = name + "=" + redacted
		}
	}
	return path + "?" + strings.Join(params, "&")
}

// status is how the guide's tasks have ended.
const (
	statusDone   = 3
	statusFailed = 4
)

// unix is a time as the record callbacks write it: text, seconds.
func unix(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.Unix(), 10)
}

// slashed is the key of a recording, which its callbacks show with a slash
// before it (contract B.114).
func slashed(key string) string { return "/" + strings.TrimPrefix(key, "/") }

// recordBody tells of a file, or of its failure where done is nil: in the one
// form of HLS (l.867-884), and the other of MP4 and FLV (l.908-939).
func recordBody(e *event.Event, cb *event.Callback, r *event.Recording, done *event.RecordFinished, errmsg string, errnum int) (body, error) {
	status, desc, keys := statusDone, "success", []string{slashed(r.Key)}
	if done == nil {
		status, desc, keys = statusFailed, errmsg, []string{}
	}
	// What is new stands behind what the guide shows.
	type extension struct {
		StartTime  string `json:"starttime"`
		EndTime    string `json:"endtime"`
		Bucket     string `json:"bucket"`
		Stream     string `json:"stream"`
		App        string `json:"app"`
		Domain     string `json:"domain"`
		UniqueName string `json:"uniqname"`
	}
	extended := cb.Format == "new"
	made := madeOf(done)
	if r.Format == "hls" {
		type item struct {
			Desc  string   `json:"desc"`
			Keys  []string `json:"keys"`
			Cmd   string   `json:"cmd"`
			VDOID string   `json:"vdoid"`
			Code  int      `json:"code"`
		}
		b := struct {
			Status    int    `json:"status"`
			TaskID    string `json:"taskid"`
			Items     []item `json:"items"`
			MediaSize int64  `json:"mediaSize"`
			*extension
			*recordMade
		}{status, r.Task, []item{{desc, keys, "", r.VDOID, status}}, 0, nil, nil}
		if extended {
			b.extension = &extension{unix(r.Start), unix(r.End), r.Bucket, e.Stream, e.App, r.Domain, e.Space}
			if done != nil {
				b.MediaSize, b.recordMade = done.Size, made
			}
		}
		return jsonBody(b)
	}
	type file struct {
		Path string `json:"dstpath"`
		Info string `json:"outMediainfo"`
	}
	type item struct {
		Cmd  string   `json:"cmd"`
		Desc string   `json:"desc"`
		Keys []string `json:"keys"`
		Code int      `json:"code"`
	}
	type details struct {
		Errnum    int    `json:"errnum"`
		Errmsg    string `json:"errmsg,omitempty"`
		Bucket    string `json:"bucket"`
		StartTime string `json:"starttime"`
		EndTime   string `json:"endtime"`
		Stream    string `json:"stream"`
		Items     []file `json:"items"`
	}
	type names struct {
		App        string `json:"app"`
		Domain     string `json:"domain"`
		UniqueName string `json:"uniqname"`
		MediaSize  int64  `json:"mediaSize,omitempty"`
	}
	b := struct {
		TaskID  string  `json:"taskid"`
		Type    string  `json:"type"`
		Details details `json:"details"`
		Items   []item  `json:"items"`
		Status  int     `json:"status"`
		*names
		*recordMade
	}{r.Task, "avtrans", details{0, "", r.Bucket, unix(r.Start), unix(r.End), e.Stream, []file{}}, []item{{"", desc, keys, status}}, status, nil, nil}
	if done != nil {
		info, err := mediaInfo(done)
		if err != nil {
			return body{}, err
		}
		b.Details.Items = []file{{slashed(r.Key), info}}
	} else {
		b.Details.Errnum, b.Details.Errmsg = errnum, errmsg
	}
	if extended {
		b.names = &names{e.App, r.Domain, e.Space, 0}
		if done != nil {
			b.MediaSize, b.recordMade = done.Size, made
		}
	}
	return jsonBody(b)
}

// recordMade is what the new form says of a file that is there. Durations are text,
// in seconds, as in outMediainfo.
type recordMade struct {
	Duration string `json:"duration"`
	Segments int    `json:"segments,omitempty"` // of the HLS recording, or that the file was made of
	Lost     string `json:"lost,omitempty"`     // media that no file has
}

func madeOf(done *event.RecordFinished) *recordMade {
	if done == nil {
		return nil
	}
	m := &recordMade{Duration: seconds(done.Duration), Segments: done.Segments}
	if done.Lost > 0 {
		m.Lost = strconv.FormatFloat(done.Lost.Seconds(), 'f', -1, 64)
	}
	return m
}

// seconds is a duration as the guide writes it.
func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// mediaInfo is what a prober would say of a file, as the text of a JSON object
// (l.970-1024).
func mediaInfo(done *event.RecordFinished) (string, error) {
	m := done.Media
	if m == nil {
		m = &event.MediaInfo{FormatName: done.Format, Size: done.Size, Duration: done.Duration}
	}
	type metadata struct {
		Rotate string `json:"rotate,omitempty"`
	}
	type format struct {
		Name     string `json:"format_name"`
		Size     int64  `json:"size"`
		Duration string `json:"duration"`
		BitRate  int64  `json:"bit_rate"`
	}
	type track struct {
		Index      int    `json:"index"`
		CodecName  string `json:"codec_name"`
		CodecType  string `json:"codec_type"`
		Width      int    `json:"width,omitempty"`
		Height     int    `json:"height,omitempty"`
		FrameRate  string `json:"r_frame_rate,omitempty"`
		Channels   int    `json:"channels,omitempty"`
		SampleRate int    `json:"sample_rate,omitempty"`
		BitRate    int64  `json:"bit_rate,omitempty"`
	}
	tracks := []track{}
	for _, s := range m.Streams {
		tracks = append(tracks, track{s.Index, s.CodecName, s.CodecType, s.Width, s.Height, s.FrameRate, s.Channels, s.SampleRate, s.BitRate})
	}
	b, err := jsonBody(struct {
		Metadata metadata `json:"metadata"`
		Format   format   `json:"format"`
		Streams  []track  `json:"streams"`
	}{metadata{m.Rotate}, format{m.FormatName, m.Size, seconds(m.Duration), m.BitRate}, tracks})
	return string(b.text), err
}

// snapshotBody tells of a picture, or of its failure where done is nil
// (l.1096-1127).
func snapshotBody(e *event.Event, cb *event.Callback, s *event.Snapshot, done *event.SnapshotTaken, errmsg string, errnum int) (body, error) {
	type picture struct {
		Path         string `json:"dstpath"`
		Height       int    `json:"height"`
		OutputFormat int    `json:"output_format"`
		Size         string `json:"size"`
		Width        int    `json:"width"`
	}
	type details struct {
		Bucket     string    `json:"bucket"`
		Errnum     int       `json:"errnum"`
		Errmsg     string    `json:"errmsg,omitempty"`
		Items      []picture `json:"items"`
		Region     string    `json:"region"`
		SrcHeight  int       `json:"srcHeight,omitempty"`
		SrcWidth   int       `json:"srcWidth,omitempty"`
		StreamName string    `json:"stream_name"`
		Timestamp  int64     `json:"timestamp"`
		UniqueName string    `json:"uniqname"`
	}
	type item struct {
		App    string   `json:"app"`
		Cmd    string   `json:"cmd"`
		Code   int      `json:"code"`
		Desc   string   `json:"desc"`
		Domain string   `json:"domain"`
		Keys   []string `json:"keys"`
	}
	b := struct {
		Details details `json:"details"`
		Status  int     `json:"status"`
		TaskID  string  `json:"taskid"`
		Type    string  `json:"type"`
		Items   []item  `json:"itmes"` // so the guide has it
		Right   []item  `json:"items,omitempty"`
	}{
		details{s.Bucket, errnum, errmsg, []picture{}, s.Region, 0, 0, e.Stream, e.Time.Unix(), e.Space},
		statusFailed, s.Task, "LiveSnapShotCallBack", []item{{e.App, "", statusFailed, errmsg, s.Domain, []string{}}}, nil,
	}
	if done != nil {
		key := strings.TrimPrefix(s.Key, "/")
		b.Details.Items = []picture{{key, done.Height, 0, strconv.FormatInt(done.Size, 10), done.Width}}
		b.Details.SrcHeight, b.Details.SrcWidth = s.SrcHeight, s.SrcWidth
		b.Status = statusDone
		b.Items = []item{{e.App, "", statusDone, "success", s.Domain, []string{key}}}
	}
	if cb.Format == "new" {
		b.Right = b.Items
	}
	return jsonBody(b)
}

// alert is a body of our own, in the manner of v2.
type alert struct {
	Version, UniqueName, App, Stream, NotifyType, Alert string

	Text          string   `json:",omitempty"`
	Value         *float64 `json:",omitempty"`
	Limit         *float64 `json:",omitempty"`
	SinceUnixTime int64    `json:",omitempty"`
	Node          string
	Sequence      string `json:",omitempty"`
	UnixTime      int64
}

func alertBody(e *event.Event, a alert) (body, error) {
	a.Version, a.UniqueName, a.App, a.Stream = "1.0", e.Space, e.App, e.Stream
	a.Node, a.Sequence, a.UnixTime = e.Node, e.Sequence, e.Time.UnixMilli()
	return jsonBody(a)
}
