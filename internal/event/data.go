package event

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// Type names a kind of fact: what it is about, a dot, what happened.
type Type string

const (
	TypePublishRequested Type = "publish.requested"
	TypePublishRefused   Type = "publish.refused"
	TypePublishStarted   Type = "publish.started"
	TypePublishEnded     Type = "publish.ended"
	TypePlayEnded        Type = "play.ended"

	TypeRecordStarted  Type = "record.started"
	TypeRecordFinished Type = "record.finished"
	TypeRecordFailed   Type = "record.failed"

	TypeClipRequested Type = "clip.requested"
	TypeClipFinished  Type = "clip.finished"
	TypeClipFailed    Type = "clip.failed"

	TypeSnapshotTaken  Type = "snapshot.taken"
	TypeSnapshotFailed Type = "snapshot.failed"

	TypeCallbackAttempted Type = "callback.attempted"

	TypePolicyChanged Type = "policy.changed"
	TypeAPIWritten    Type = "api.written"

	TypeAlertRaised  Type = "alert.raised"
	TypeAlertCleared Type = "alert.cleared"

	TypeNodeStarted Type = "node.started"
	TypeNodeStopped Type = "node.stopped"

	// TypeOmitted counts facts that were left out because clients could make
	// as many of them as they like.
	TypeOmitted Type = "facts.omitted"
)

// decoders read the Data of each Type.
var decoders = map[Type]func([]byte) (Data, error){
	TypePublishRequested:  decode[PublishRequested],
	TypePublishRefused:    decode[PublishRefused],
	TypePublishStarted:    decode[PublishStarted],
	TypePublishEnded:      decode[PublishEnded],
	TypePlayEnded:         decode[PlayEnded],
	TypeRecordStarted:     decode[RecordStarted],
	TypeRecordFinished:    decode[RecordFinished],
	TypeRecordFailed:      decode[RecordFailed],
	TypeClipRequested:     decode[ClipRequested],
	TypeClipFinished:      decode[ClipFinished],
	TypeClipFailed:        decode[ClipFailed],
	TypeSnapshotTaken:     decode[SnapshotTaken],
	TypeSnapshotFailed:    decode[SnapshotFailed],
	TypeCallbackAttempted: decode[CallbackAttempted],
	TypePolicyChanged:     decode[PolicyChanged],
	TypeAPIWritten:        decode[APIWritten],
	TypeAlertRaised:       decode[AlertRaised],
	TypeAlertCleared:      decode[AlertCleared],
	TypeNodeStarted:       decode[NodeStarted],
	TypeNodeStopped:       decode[NodeStopped],
	TypeOmitted:           decode[Omitted],
}

// Types returns every Type that this version knows, in order.
func Types() []Type {
	list := make([]Type, 0, len(decoders))
	for t := range decoders {
		list = append(list, t)
	}
	slices.Sort(list)
	return list
}

func decode[T Data](b []byte) (Data, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}

func (t Type) decode(b []byte) (Data, error) {
	if f := decoders[t]; f != nil {
		return f(b)
	}
	return Unknown{t, slices.Clone(b)}, nil
}

// Param is one parameter that a client sent, decoded.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Client is who asked for something, and how.
type Client struct {
	Domain   string         `json:"domain"`   // canonical host by which it came
	Protocol string         `json:"protocol"` // rtmp, rtmps, flv, ws-flv, hls
	Addr     netip.AddrPort `json:"addr"`
	NodeAddr netip.Addr     `json:"node_addr"` // of this node, where the client reached it

	// Params are in the order sent, secrets (k, signature, token) included: who
	// shows a fact to anybody but the owner's receiver redacts them.
	Params []Param `json:"params,omitempty"`

	TcURL     string `json:"tc_url,omitempty"`
	PageURL   string `json:"page_url,omitempty"`
	SwfURL    string `json:"swf_url,omitempty"`
	FlashVer  string `json:"flash_ver,omitempty"`
	Referer   string `json:"referer,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// Param returns the value of the first parameter of that name.
func (c *Client) Param(name string) (value string, ok bool) {
	for _, p := range c.Params {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// Callback is where and how the owner is told of a fact. It is fixed when the
// push begins. The zero Callback tells nobody.
type Callback struct {
	URL    string `json:"url"`
	Format string `json:"format,omitempty"` // of a push: v2, v1-json, v1-string; of others: "" or new

	// Group joins the facts of one stream that are told in order although
	// their URLs differ; where it is empty the URL stands for it.
	Group string `json:"group,omitempty"`

	Sequence  bool `json:"sequence,omitempty"`   // v1: with a Sequence
	StartTime bool `json:"start_time,omitempty"` // of an end: with the time of the start
	PortText  bool `json:"port_text,omitempty"`  // v1-json, of an end: the port is text
	Redact    bool `json:"redact,omitempty"`     // without the values of k, signature, token and the like

	// FlapGuard holds a start back for so long, and an end, which is dropped
	// together with the next start when the stream has returned by then.
	FlapGuard time.Duration `json:"flap_guard,omitempty"`
}

// PublishRequested says that a client asked to publish. What it asks for may
// not exist, and its names may be anything.
type PublishRequested struct {
	Client
}

// PublishRefused says that a publisher was not let in.
type PublishRefused struct {
	Client
	Reason   string    `json:"reason"`   // access.Reason, or "error"
	Code     int       `json:"code"`     // that the client was told (guide l.251-265)
	SubCode  int       `json:"sub_code"` //
	Message  string    `json:"message"`
	Callback *Callback `json:"callback,omitempty"`
}

// PublishStarted says that a push was accepted. It is durable before the
// publisher is told so.
type PublishStarted struct {
	Client
	Session  string    `json:"session"`
	Callback *Callback `json:"callback,omitempty"` // of the start
	Ended    *Callback `json:"ended,omitempty"`    // of the end, kept here for a node that dies
}

// PublishEnded says that a push is over. There is one for each PublishStarted,
// with the same Sequence, also when the node died in between.
type PublishEnded struct {
	Client
	Session  string    `json:"session"`
	Started  time.Time `json:"started"`
	Reason   string    `json:"reason"` // closed, reset, no data, takeover, kicked, over limit, shutdown, revoked, node died
	Error    string    `json:"error,omitempty"`
	Counters Counters  `json:"counters"`
	Callback *Callback `json:"callback,omitempty"`
}

// Reasons of PublishEnded that the guide has a code for (l.544-552); all
// others are 0.
const (
	ReasonClosed   = "closed"
	ReasonNoData   = "no data"
	ReasonRevoked  = "revoked"
	ReasonNodeDied = "node died"
)

// Counters are what a push brought.
type Counters struct {
	Bytes       int64  `json:"bytes"` // of media
	VideoFrames int64  `json:"video_frames"`
	AudioFrames int64  `json:"audio_frames"`
	KeyFrames   int64  `json:"key_frames"`
	Jumps       int64  `json:"jumps"` // of its timestamps
	VideoCodec  string `json:"video_codec,omitempty"`
	AudioCodec  string `json:"audio_codec,omitempty"`
	Width       int    `json:"width,omitempty"`
	Height      int    `json:"height,omitempty"`
}

// PlayEnded sums up the stay of a player.
type PlayEnded struct {
	Client
	Session string    `json:"session"`
	Started time.Time `json:"started"`
	Reason  string    `json:"reason"`
	Bytes   int64     `json:"bytes"`
	Jumps   int64     `json:"jumps,omitempty"` // to a newer key frame, because it was slow
}

// Recording names one file of a recording, or what would have been one.
type Recording struct {
	Task   string    `json:"task"`   // unique; the same in all facts about this file
	Format string    `json:"format"` // hls, mp4, flv
	Bucket string    `json:"bucket"`
	Key    string    `json:"key"` // of the object; of HLS the playlist
	Start  time.Time `json:"start"`
	End    time.Time `json:"end,omitzero"`
	VDOID  string    `json:"vdoid,omitempty"`
	Domain string    `json:"domain,omitempty"` // of the push

	Callback *Callback `json:"callback,omitempty"`
}

// RecordStarted says that media are being recorded.
type RecordStarted struct{ Recording }

// RecordFinished says that a file is whole, in its bucket, and verified.
type RecordFinished struct {
	Recording
	Duration time.Duration `json:"duration"`
	Size     int64         `json:"size"` // of the file, HLS: with its segments
	Segments int           `json:"segments,omitempty"`
	Lost     time.Duration `json:"lost,omitempty"`   // media that found no room on the disk
	Pushes   []string      `json:"pushes,omitempty"` // Sequences of the pushes in it
	Media    *MediaInfo    `json:"media,omitempty"`
}

// RecordFailed says that there will be no such file.
type RecordFailed struct {
	Recording
	Errnum int    `json:"errnum"`
	Errmsg string `json:"errmsg"`
}

// Clip is a range of a recording as a file of its own. Start and End are when
// its media came, Task is its own, and Format is hls or mp4.
type Clip struct {
	Recording
	Name  string        `json:"name"` // unique among the clips of the stream
	Of    string        `json:"of"`   // Task of the recording
	From  time.Duration `json:"from"` // where it begins and ends in the recording
	To    time.Duration `json:"to"`
	Exact bool          `json:"exact,omitempty"` // not cut at key frames
}

// ClipRequested says that somebody wants a clip: from Start to End.
type ClipRequested struct{ Clip }

// ClipFinished says that a clip is whole, in its bucket, and verified.
type ClipFinished struct {
	Clip
	Duration time.Duration `json:"duration"`
	Size     int64         `json:"size"` // of the file, HLS: with the segments that it names
	Media    *MediaInfo    `json:"media,omitempty"`
}

// ClipFailed says that there will be no such clip.
type ClipFailed struct {
	Clip
	Errnum int    `json:"errnum"`
	Errmsg string `json:"errmsg"`
}

// MediaInfo is what a prober would say of a file.
type MediaInfo struct {
	FormatName string        `json:"format_name"`
	Size       int64         `json:"size"`
	Duration   time.Duration `json:"duration"`
	BitRate    int64         `json:"bit_rate"`         // bit/s
	Rotate     string        `json:"rotate,omitempty"` // degrees
	Streams    []MediaStream `json:"streams"`
}

// MediaStream is one track of a MediaInfo.
type MediaStream struct {
	Index      int    `json:"index"`
	CodecName  string `json:"codec_name"` // FFmpeg's name
	CodecType  string `json:"codec_type"` // video, audio
	BitRate    int64  `json:"bit_rate,omitempty"`
	Width      int    `json:"width,omitempty"`
	Height     int    `json:"height,omitempty"`
	FrameRate  string `json:"r_frame_rate,omitempty"` // 25/1
	Channels   int    `json:"channels,omitempty"`
	SampleRate int    `json:"sample_rate,omitempty"`
}

// Snapshot names one picture, or what would have been one.
type Snapshot struct {
	Task      string    `json:"task"`
	Domain    string    `json:"domain,omitempty"` // of the push
	Bucket    string    `json:"bucket"`
	Region    string    `json:"region,omitempty"`
	Key       string    `json:"key"`
	Captured  time.Time `json:"captured"` // when the frame arrived
	SrcWidth  int       `json:"src_width,omitempty"`
	SrcHeight int       `json:"src_height,omitempty"`

	Callback *Callback `json:"callback,omitempty"`
}

// SnapshotTaken says that a picture is in its bucket.
type SnapshotTaken struct {
	Snapshot
	Width  int   `json:"width"`
	Height int   `json:"height"`
	Size   int64 `json:"size"` // bytes
}

// SnapshotFailed says that there will be no such picture.
type SnapshotFailed struct {
	Snapshot
	Errnum int    `json:"errnum"`
	Errmsg string `json:"errmsg"`
}

// CallbackAttempted says how one attempt to tell the owner of a fact went.
type CallbackAttempted struct {
	Of       string        `json:"of"`      // ID of the fact
	OfType   Type          `json:"of_type"` //
	URL      string        `json:"url"`     // without its query
	Attempt  int           `json:"attempt"` // from 1
	Status   int           `json:"status,omitempty"`
	Latency  time.Duration `json:"latency"`
	Error    string        `json:"error,omitempty"`
	Response string        `json:"response,omitempty"` // its first 512 bytes
	Outcome  string        `json:"outcome"`            // delivered, retry, dead
	Next     time.Time     `json:"next,omitzero"`      // of a retry
}

// PolicyChanged says that a document of the policy has another version.
type PolicyChanged struct {
	Document string `json:"document"` // space/NAME …
	Version  uint64 `json:"version"`  // 0: of a configuration file that rules, or of what is forbidden
	Before   uint64 `json:"before,omitempty"`
	Deleted  bool   `json:"deleted,omitempty"`
	By       string `json:"by"`             // name of the token, or where it came from
	Note     string `json:"note,omitempty"` // what changed, without secrets
}

// APIWritten says that somebody changed something by the API.
type APIWritten struct {
	Token  string     `json:"token"` // its name, never itself
	Role   string     `json:"role"`
	Addr   netip.Addr `json:"addr"`
	Method string     `json:"method"`
	Path   string     `json:"path"`
	Status int        `json:"status"`
}

// AlertRaised says that something needs the owner's eye.
type AlertRaised struct {
	Alert    string    `json:"alert"` // no_data, no_key_frame, low_bit_rate, drift, spool_full, disk_full …
	Text     string    `json:"text"`
	Value    float64   `json:"value,omitempty"`
	Limit    float64   `json:"limit,omitempty"`
	Callback *Callback `json:"callback,omitempty"`
}

// AlertCleared says that it is over.
type AlertCleared struct {
	Alert    string    `json:"alert"`
	Since    time.Time `json:"since"`
	Callback *Callback `json:"callback,omitempty"`
}

// NodeStarted says that a node serves.
type NodeStarted struct {
	Version string `json:"version"`
	Clean   bool   `json:"clean"` // the run before ended in order
}

// NodeStopped says that a node has ended in order.
type NodeStopped struct {
	Reason string `json:"reason,omitempty"`
}

// Omitted counts facts of a Type that were left out.
type Omitted struct {
	Of    Type  `json:"of"`
	Count int64 `json:"count"`
}

func (PublishRequested) Type() Type  { return TypePublishRequested }
func (PublishRefused) Type() Type    { return TypePublishRefused }
func (PublishStarted) Type() Type    { return TypePublishStarted }
func (PublishEnded) Type() Type      { return TypePublishEnded }
func (PlayEnded) Type() Type         { return TypePlayEnded }
func (RecordStarted) Type() Type     { return TypeRecordStarted }
func (RecordFinished) Type() Type    { return TypeRecordFinished }
func (RecordFailed) Type() Type      { return TypeRecordFailed }
func (ClipRequested) Type() Type     { return TypeClipRequested }
func (ClipFinished) Type() Type      { return TypeClipFinished }
func (ClipFailed) Type() Type        { return TypeClipFailed }
func (SnapshotTaken) Type() Type     { return TypeSnapshotTaken }
func (SnapshotFailed) Type() Type    { return TypeSnapshotFailed }
func (CallbackAttempted) Type() Type { return TypeCallbackAttempted }
func (PolicyChanged) Type() Type     { return TypePolicyChanged }
func (APIWritten) Type() Type        { return TypeAPIWritten }
func (AlertRaised) Type() Type       { return TypeAlertRaised }
func (AlertCleared) Type() Type      { return TypeAlertCleared }
func (NodeStarted) Type() Type       { return TypeNodeStarted }
func (NodeStopped) Type() Type       { return TypeNodeStopped }
func (Omitted) Type() Type           { return TypeOmitted }
