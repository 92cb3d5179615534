package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/internal/bus/bustest"
	"weir/internal/callback"
	"weir/internal/callback/sink"
	"weir/internal/cluster"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
)

// A push is told of when it begins and when it ends, in the form and to the URL
// that it began with, signed; so is one that is refused. The sink checks
// signatures, order and pairs.
func TestCallbacks(t *testing.T) {
	secret := policy.NewSecret("s3cret")
	before, after := &sink.Sink{Secret: secret}, &sink.Sink{Secret: secret}
	first := httptest.NewServer(before)
	t.Cleanup(first.Close)
	second := httptest.NewServer(after)
	t.Cleanup(second.Close)

	c := testConfig(t)
	sp := &c.Policy.Spaces[0]
	sp.Callback = &policy.Callback{URL: policy.Endpoint(first.URL + "/live"), PushRefused: true}
	sp.Delivery = new(policy.Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.Secret, sp.Delivery.AllowNetworks = secret, []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	n, _, stop := start(t, c)

	pub := publish(t, n, "s?k=1&t=2")
	other, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Publish("s"); err == nil {
		t.Error("two publishers of one stream")
	}
	other.Close()
	seen := func(s *sink.Sink, events int) sink.Account {
		t.Helper()
		var a sink.Account
		until(t, fmt.Sprintf("%d callbacks", events), 20*time.Second, func() bool { a, _ = s.Account(); return a.Events >= events })
		return a
	}
	seen(before, 2) // the start, and the refusal
	// A policy for those who begin later.
	changed := policy.Set{DefaultSpace: c.Policy.DefaultSpace, Spaces: append([]policy.Space(nil), c.Policy.Spaces...)}
	changed.Spaces[0].Callback = &policy.Callback{URL: policy.Endpoint(second.URL + "/live"), Format: policy.CallbackV1JSON, Sequence: true}
	if _, err := n.policy.Apply(t.Context(), &changed, false, false, cluster.Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	pub.Close()
	if a := seen(before, 3); len(a.Problems) > 0 || len(a.Live) > 0 {
		t.Errorf("the first receiver: %+v", a)
	}
	later := publish(t, n, "s")
	seen(after, 1)
	if err := stop(); err != nil { // and tells what it can before it ends
		t.Fatal(err)
	}
	later.Close()
	if a, _ := after.Account(); a.Events != 2 || len(a.Problems) > 0 || len(a.Live) > 0 {
		t.Errorf("the second receiver: %+v", a)
	}
	if a, _ := before.Account(); a.Calls != 3 {
		t.Errorf("the first receiver had %d calls, want 3", a.Calls)
	}
}

// Who does not ask for refused pushes is not told of them.
func TestCallbackNoRefusal(t *testing.T) {
	for _, asks := range []bool{false, true} {
		receiver := &sink.Sink{}
		s := httptest.NewServer(receiver)
		t.Cleanup(s.Close)
		n, stop := withReceiver(t, s.URL, policy.NewSecret("s3cret"), func(sp *policy.Space) { sp.Callback.PushRefused = asks })
		pub := publish(t, n, "s")
		other, err := rtmp.Dial(t.Context(), n.url("rtmp", "/live"), rtmp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Publish("s"); err == nil {
			t.Error("two publishers of one stream")
		}
		other.Close()
		pub.Close()
		want := 2
		if asks {
			want = 3
		}
		until(t, "the end is told", 20*time.Second, func() bool { a, _ := receiver.Account(); return a.Events >= want })
		if err := stop(); err != nil { // and tells what it can before it ends
			t.Fatal(err)
		}
		if a, _ := receiver.Account(); a.Calls != want || len(a.Problems) > 0 {
			t.Errorf("push_refused: %t: %+v, want %d calls", asks, a, want)
		}
	}
}

// withReceiver returns a node whose space "default" tells a receiver.
func withReceiver(t *testing.T, url string, secret policy.Secret, change func(*policy.Space)) (*Node, func() error) {
	t.Helper()
	c := testConfig(t)
	sp := &c.Policy.Spaces[0]
	sp.Callback = &policy.Callback{URL: policy.Endpoint(url + "/live")}
	sp.Delivery = new(policy.Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.Secret, sp.Delivery.AllowNetworks = secret, networks("127.0.0.0/8")
	if change != nil {
		change(sp)
	}
	n, _, stop := start(t, c)
	return n, stop
}

// A test delivery of each sample comes to the receiver that the policy names,
// signed, with a body that a receiver can read, and its answer is shown.
func TestCallbackSamples(t *testing.T) {
	secret := policy.NewSecret("s3cret")
	receiver := &sink.Sink{Secret: secret}
	var last http.Header
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last = r.Header.Clone()
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		receiver.ServeHTTP(w, r)
		io.WriteString(w, "thank you")
	}))
	t.Cleanup(s.Close)
	n, _ := withReceiver(t, s.URL, secret, func(sp *policy.Space) { sp.Callback.PushRefused, sp.Callback.Alerts = true, true })
	sp := *n.Policy().Space("default")
	app, bare := *sp.App("live"), *sp.App("live")
	file := policy.Endpoint(s.URL + "/file?secret=1")
	app.Record.HLS.Callback, app.Record.MP4.Callback, app.Record.FLV.Callback, app.Snapshot.Callback = file, file, file, file
	want := map[string][2]string{
		"start": {"publish.started", `"NotifyType":"PubStart"`}, "end": {"publish.ended", `"NotifyType":"PubEnd"`}, "refused": {"publish.refused", `"NotifyType":"PubRefused"`},
		"alert": {"alert.raised", `"NotifyType":"AlertRaised"`}, "record_hls": {"record.finished", ".m3u8"}, "record_mp4": {"record.finished", ".mp4"},
		"record_flv": {"record.finished", ".flv"}, "snapshot": {"snapshot.taken", "LiveSnapShotCallBack"},
	}
	for i, sample := range callback.Samples {
		r, url, text, err := n.callbacks.Test(t.Context(), &sp, &app, sample)
		if err != nil || !r.OK || r.Status != 200 || r.Response != "thank you" || r.Latency <= 0 {
			t.Errorf("%s: %+v, %v", sample, r, err)
		}
		path := map[bool]string{true: "/live", false: "/file"}[i < 4]
		if w := want[sample]; last.Get(callback.HeaderType) != w[0] || !strings.Contains(string(body), w[1]) || !bytes.Equal(body, text) || url != s.URL+path || !json.Valid(body) {
			t.Errorf("%s: %s got %s: %s, want %s %s", sample, url, last.Get(callback.HeaderType), body, w[0], w[1])
		}
	}
	a, _ := receiver.Account()
	if a.Calls != len(want) || a.Events != len(want) {
		t.Errorf("%+v, want %d calls", a, len(want))
	}
	for _, p := range a.Problems { // each sample is of a push of its own
		if !strings.Contains(p, "an end of") {
			t.Errorf("the sink says: %s", p)
		}
	}
	if _, _, _, err := n.callbacks.Test(t.Context(), &sp, &bare, "snapshot"); !errors.Is(err, callback.ErrNoReceiver) {
		t.Errorf("a sample that nobody asks for: %v", err)
	}
}

// The first proof of the issue: the guide's example of v2 (l.493-571), from a
// session that has its values, byte for byte apart from white space between JSON
// tokens. What cannot be the example's is put into it: this machine's address,
// the Sequence and the time.
func TestCallbackExample(t *testing.T) {
	bodies := make(chan string, 2)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
	}))
	t.Cleanup(receiver.Close)
	c := testConfig(t)
	c.TrustedProxies = networks("127.0.0.0/8")
	c.Policy.DefaultSpace = "yourUniqueName"
	sp := &c.Policy.Spaces[0]
	sp.Name = "yourUniqueName"
	sp.Callback = &policy.Callback{URL: policy.Endpoint(receiver.URL + "/live")}
	sp.Delivery = new(policy.Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.AllowNetworks = networks("127.0.0.0/8")
	n, _, _ := start(t, c)
	addr := proxyTo(t, n.Addr("rtmp").String(), "PROXY TCP4 110.120.130.140 127.0.0.1 17102 1935\r\n")
	pub, err := rtmp.Dial(t.Context(), "rtmp://"+addr+"/live", rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish("stream_123?k=1&t=2"); err != nil {
		t.Fatal(err)
	}
	var sequence string
	for _, golden := range []string{"v2_start.json", "v2_end.json"} {
		var got string
		select {
		case got = <-bodies:
		case <-time.After(20 * time.Second):
			t.Fatalf("no callback as in %s", golden)
		}
		if golden == "v2_start.json" {
			pub.Close()
		}
		var v struct {
			Sequence                         string
			PubStartUnixTime, PubEndUnixTime int64
		}
		if err := json.Unmarshal([]byte(got), &v); err != nil {
			t.Fatal(err)
		}
		if at := time.UnixMilli(max(v.PubStartUnixTime, v.PubEndUnixTime)); time.Since(at).Abs() > time.Minute {
			t.Errorf("its time is %v", at)
		}
		if sequence != "" && v.Sequence != sequence {
			t.Errorf("Sequence %s, and then %s", sequence, v.Sequence)
		}
		sequence = v.Sequence
		text, err := os.ReadFile("../callback/testdata/" + golden)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := json.Compact(&b, text); err != nil {
			t.Fatal(err)
		}
		want := strings.NewReplacer("xxx.xxx.com", "127.0.0.1", "120.120.120.120", "127.0.0.1", `"Sequence":"xxxx"`, `"Sequence":"`+v.Sequence+`"`).Replace(b.String())
		want = regexp.MustCompile(`1670575\d{6}`).ReplaceAllString(want, fmt.Sprint(max(v.PubStartUnixTime, v.PubEndUnixTime)))
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", golden, got, want)
		}
	}
}

// Two nodes of a cluster: one tells of the pushes to both, each once; when it
// stops, the other one goes on. Each says how the receiver is.
func TestCallbacksInCluster(t *testing.T) {
	nats := bustest.Serve(t)
	s := new(sink.Sink)
	receiver := httptest.NewServer(s)
	t.Cleanup(receiver.Close)
	var nodes []*Node
	var stops []func() error
	for _, name := range []string{"n1", "n2"} {
		c := testConfig(t)
		c.Node, c.NATS.URL = name, nats.ClientURL()
		sp := &c.Policy.Spaces[0]
		sp.Callback = &policy.Callback{URL: policy.Endpoint(receiver.URL + "/live")}
		sp.Delivery = new(policy.Delivery)
		sp.Delivery.SetDefaults()
		sp.Delivery.AllowNetworks = networks("127.0.0.0/8")
		n, _, stop := start(t, c)
		nodes, stops = append(nodes, n), append(stops, stop)
	}
	events := 0
	seen := func(more int) {
		t.Helper()
		events += more
		var a sink.Account
		until(t, fmt.Sprintf("%d callbacks", events), 20*time.Second, func() bool { a, _ = s.Account(); return a.Events >= events })
		if len(a.Problems) > 0 || a.Again > 0 {
			t.Errorf("the receiver: %+v", a)
		}
	}
	for i, n := range nodes {
		publish(t, n, fmt.Sprintf("s%d", i)).Close()
		seen(2)
	}
	// That a call has come to its end is noted after the receiver knows.
	var told []int64
	until(t, "all callbacks are noted", 20*time.Second, func() bool {
		told = []int64{nodes[0].callbacks.Stats().Delivered, nodes[1].callbacks.Stats().Delivered}
		return told[0]+told[1] >= 4
	})
	if told[0]+told[1] != 4 || told[0] != 0 && told[1] != 0 {
		t.Errorf("the nodes have told %v, want one of them all", told)
	}
	first := 0
	if told[1] > 0 {
		first = 1
	}
	other := nodes[1-first]
	for _, n := range nodes {
		if list, err := n.callbacks.Receivers(t.Context(), ""); err != nil || len(list) != 1 || list[0].State != "ok" || list[0].Delivered != 4 {
			t.Errorf("%s says of the receivers %+v, %v", n.name, list, err)
		}
	}
	p := publish(t, other, "s3")
	seen(1)
	if err := stops[first](); err != nil {
		t.Fatal(err)
	}
	p.Close()
	seen(1)
	until(t, "the callback of the other node is noted", 20*time.Second, func() bool { return other.callbacks.Stats().Delivered > 0 })
	if n := other.callbacks.Stats().Delivered; n != 1 {
		t.Errorf("the other node has told %d times, want once", n)
	}
}
