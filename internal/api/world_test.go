package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"weir/internal/access"
	"weir/internal/bus/bustest"
	"weir/internal/callback"
	"weir/internal/cluster"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/ffmpeg"
	"weir/internal/hls"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/quality"
	"weir/internal/record"
	"weir/internal/session"
	"weir/internal/stats"
	"weir/internal/storage"
	"weir/internal/stream"
	"weir/internal/transcode"
)

// world is a Server over real parts.
type world struct {
	*Server
	nats *bustest.Server
}

// newJetStream returns a JetStream of the test.
func newJetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	_, js := startNATS(t)
	return js
}

// startNATS starts a NATS of the test, and connects as a node does.
func startNATS(t testing.TB) (*bustest.Server, jetstream.JetStream) {
	t.Helper()
	srv := bustest.Serve(t)
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return srv, js
}

// newWorld returns a world with the spaces default and other, and in default
// the stream live/demo.
func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	ctx := t.Context() // a testing.F has none while it fuzzes
	var loopback policy.Network
	if err := loopback.UnmarshalText([]byte("127.0.0.0/8")); err != nil {
		t.Fatal(err)
	}
	var delivery policy.Delivery
	delivery.SetDefaults()
	delivery.AllowNetworks = []policy.Network{loopback}
	space := func(name, domain string) policy.Space {
		app := recordedApp()
		if name != "default" {
			app.Record.Prefix = name
		}
		return policy.Space{
			Name: name, Domains: []policy.Domain{{Name: domain, Type: policy.Both}}, Apps: []policy.App{app},
			Delivery:   &delivery,
			Callback:   &policy.Callback{URL: "https://127.0.0.1:1/live?token=topsecret", PushRefused: true},
			AccessKeys: []policy.AccessKey{{ID: "key1", Secret: policy.NewSecret("topsecret-" + name)}},
		}
	}
	set := &policy.Set{DefaultSpace: "default", Spaces: []policy.Space{space("default", "localhost"), space("other", "other.example")}}
	w := &world{}
	log := slog.New(slog.DiscardHandler)
	srv, js := startNATS(t)
	w.nats = srv
	tokens := NewTokens(js, 1, log)
	if err := tokens.Load(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); tokens.Run(ctx) }() // ends with the test
	t.Cleanup(func() { <-done })
	events, err := eventlog.Open(ctx, js, eventlog.Options{Log: log, Node: "n1", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close(context.WithoutCancel(ctx)) })
	monitor := quality.NewMonitor(quality.Options{})
	book := stats.New(stats.Options{JetStream: js, Replicas: 1})
	keys, err := cluster.ParseKeys([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := cluster.OpenPolicy(ctx, js, cluster.Options{Log: log, Node: "n1", Replicas: 1, Keys: keys, Bootstrap: set, Changed: func(e event.Event) {
		if !strings.HasPrefix(e.Data.(event.PolicyChanged).By, "bootstrap") { // tests count what they do
			events.Emit(e)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rules.Close)
	callbacks := callback.New(js, events, rules.Set, callback.Options{Log: log})
	if err := callbacks.Open(ctx); err != nil {
		t.Fatal(err)
	}
	hub := stream.NewHub(stream.Options{
		Began: func(p *stream.Publication) { monitor.Began(p); book.Began(p) },
		Ended: func(p *stream.Publication) { monitor.Ended(p); book.Ended(p) },
	})
	gate := access.NewGate(rules.Set)
	recorder := newRecorder(t, hub, js, events.Emit)
	cursors := NewCursors(js, 1)
	if _, err := cursors.commit(t.Context(), "", EventCursor{Name: "billing", Log: "facts"}, false, false); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Recorder: recorder,
		Log:      log, Version: "0.0.0", Node: "n1", Started: time.Now(),
		Tokens: tokens, Hub: hub, Gate: gate,
		Sessions: session.NewServer(hub, gate, session.Options{}),
		HLS:      hls.NewServer(hub, gate, hls.Options{}),
		Quality:  monitor,
		Pictures: pictures(),
		Stats:    book,
		Policy:   rules,
		Config: func() []byte {
			return []byte(`{"grace":"10s","nats":{"url":"nats://u:topsecret@a,nats://u:topsecret@b"},"list":["https://u:topsecret@c"]}`)
		},
		Nodes:  cluster.NewNodes(js, 1, log),
		Events: events, Cursors: cursors, Callbacks: callbacks, Transcoder: transcode.New(hub, ffmpeg.New(ffmpeg.Options{}), transcode.Options{}),
		Self: func() cluster.Node { return cluster.Node{Name: "n1", Version: "0.0.0", Started: time.Now()} },
	}
	t.Cleanup(func() {
		hub.Close(ctx)
		o.Sessions.Close(ctx)
		o.HLS.Close()
		recorder.Close()
	})
	rules.OnChange(func(*policy.Set) { o.Sessions.Recheck() })
	for _, f := range change {
		f(&o)
	}
	w.Server = New(o)
	w.publish(t, "default", "demo")
	return w
}

// hdTemplate is a template that somebody may play by.
func hdTemplate() policy.Transcode {
	var t policy.Transcode
	t.SetDefaults()
	if wrong := policy.DecodeJSON([]byte(`{"name":"hd","trigger":"play","outputs":[{"suffix":"_hd","short_side":720,"bit_rate":2000000}]}`), &t); wrong != nil {
		panic(wrong[0].Message)
	}
	return t
}

// recordedApp is an app whose streams are recorded when somebody asks for it,
// and have a template.
func recordedApp() policy.App {
	a := policy.DefaultApp("live")
	a.Record.Mode = policy.RecordRequest
	a.Transcode = []policy.Transcode{hdTemplate()}
	return a
}

// newRecorder returns a Recorder, in whose bucket are a recording and a clip of
// demo, and which has an order for another.
func newRecorder(t testing.TB, hub *stream.Hub, js jetstream.JetStream, emit func(event.Event)) *record.Recorder {
	t.Helper()
	signer, err := storage.NewSigner("/objects", bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := storage.OpenDirectory("recordings", t.TempDir(), signer)
	if err != nil {
		t.Fatal(err)
	}
	for key, text := range map[string]string{
		"record/live/demo/mp4/demo-1764193275-1764193335.mp4":  "mp4",
		"record/live/demo/hls/demo-1764193275-1764193335.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ndemo-1764193275-a/000001.ts\n#EXT-X-ENDLIST\n",
		"record/live/demo/hls/demo-1764193275-a/000001.ts":     "ts",
		"record/live/demo/clip/goal-1764193275-1764193277.mp4": "mp4",
	} {
		if _, err := b.Put(t.Context(), key, strings.NewReader(text), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	orders := record.NewOrders(js, 1, slog.New(slog.DiscardHandler))
	if err := orders.Add(t.Context(), record.Order{ID: "0123456789abcdefghjkmnpqrs", Space: "default", App: "live", Stream: "demo", Start: start, End: start.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	r, err := record.Open(hub, record.Options{
		Dir: t.TempDir(), Signer: signer, Emit: emit, Orders: orders,
		Bucket: func(string) (storage.Bucket, error) { return b, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// publish makes a stream in the app live.
func (w *world) publish(t testing.TB, space, name string) *stream.Publication {
	t.Helper()
	app := recordedApp()
	app.IdleTimeout = time.Hour // its publisher says no more, however long the test takes
	p, err := w.Hub.Publish(stream.Key{Space: space, App: "live", Name: name}, &app, stream.Push{
		Sequence: event.NewSequence(), Session: "0123456789abcdef",
		Client: event.Client{Domain: "localhost", Protocol: "rtmp", Addr: netip.MustParseAddrPort("192.0.2.7:5000"), FlashVer: "FMLE/3.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		tag := []byte{0xAF, 1, 0x21, 0x10}
		if err := p.WritePacket(av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: int64(23 * i), Tag: tag, Frame: tag[2:]}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// facts waits until the log has n facts of those types, and returns them.
func (w *world) facts(t testing.TB, n int, types ...event.Type) []eventlog.Entry {
	t.Helper()
	r := w.Events.Read(t.Context(), eventlog.Filter{Types: types}, 0)
	defer r.Close()
	var list []eventlog.Entry
	for len(list) < n {
		e, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// token makes a token and returns its text.
func (w *world) token(t testing.TB, tok Token) string {
	t.Helper()
	if tok.Name == "" {
		tok.Name = "test"
	}
	_, text, err := w.Tokens.Create(t.Context(), tok)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unlimited lets tokens ask and addresses fail as often as they like, which has
// tests of its own.
func (w *world) unlimited() {
	w.failing = failures{}
	w.Tokens.mu.RLock()
	defer w.Tokens.mu.RUnlock()
	for _, x := range w.Tokens.byID {
		x.limit.SetLimit(rate.Inf)
	}
}

// request is one to be made.
type request struct {
	method, path string // below Prefix
	token        string
	body         any // a string as it is, others as JSON
	header       map[string]string
}

// do makes a request and returns the answer.
func (w *world) do(t testing.TB, q request) *httptest.ResponseRecorder {
	t.Helper()
	var body io.Reader
	switch b := q.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	r := httptest.NewRequest(q.method, "http://127.0.0.1:8081"+Prefix+q.path, body)
	r.RemoteAddr = "127.0.0.1:40000"
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	for k, v := range q.header {
		if k == "Host" {
			r.Host = v
			continue
		}
		r.Header.Set(k, v)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// from asks /self from an address.
func (w *world) from(t testing.TB, addr, token string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8081"+Prefix+"/self", nil)
	r.RemoteAddr = addr
	r.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// get asks for a path and decodes the answer into v.
func (w *world) get(t testing.TB, token, path string, v any) {
	t.Helper()
	w.answers(t, w.do(t, request{method: http.MethodGet, path: path, token: token}), "GET "+path, v)
}

// answers decodes a success into v.
func (w *world) answers(t testing.TB, rec *httptest.ResponseRecorder, what string, v any) {
	t.Helper()
	if rec.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", what, rec.Code, rec.Body)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), v); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// kindOf returns the kind of problem that was answered, empty if it was none.
func kindOf(rec *httptest.ResponseRecorder) kind {
	var p struct {
		Type   string `json:"type"`
		Status int    `json:"status"`
	}
	if rec.Header().Get("Content-Type") != "application/problem+json" || json.Unmarshal(rec.Body.Bytes(), &p) != nil || p.Status != rec.Code {
		return ""
	}
	return kind(strings.TrimPrefix(p.Type, typePrefix))
}
