package snapshot

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// loopback is the network of the servers of these tests.
var loopback = []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}

// asking changes a policy to have pictures checked at url.
func asking(url string, onError policy.OnError, networks []policy.Network) func(*policy.Snapshot) {
	return func(s *policy.Snapshot) {
		var c policy.SnapshotCheck
		c.SetDefaults()
		c.URL, c.OnError, c.AllowNetworks, c.Timeout = policy.Endpoint(url), onError, networks, time.Second
		c.Secret = policy.NewSecret("correct horse battery")
		s.Interval, s.Check = time.Second, &c
	}
}

type forbidden struct {
	key   stream.Key
	until time.Time
	why   string
}

func TestCheck(t *testing.T) {
	var answer atomic.Value
	var problem atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h := r.Header
		mac := hmac.New(sha256.New, []byte("correct horse battery"))
		fmt.Fprintf(mac, "%s.%s.%s.%s.%s.%s", h.Get("Weir-Timestamp"), h.Get("Weir-Event-Id"), h.Get("Weir-Stream"), h.Get("Weir-Sequence"), h.Get("Weir-Captured"), b)
		if h.Get("Weir-Signature") != "v1="+hex.EncodeToString(mac.Sum(nil)) || h.Get("Content-Type") != "image/jpeg" ||
			h.Get("Weir-Stream") != "youruniquename/live/streamname" || r.Method != http.MethodPost || len(b) < 100 {
			problem.Store(fmt.Sprint(r.Method, h))
		}
		switch a := answer.Load().(string); a {
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		case "redirect":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "long":
			w.Write(make([]byte, maxAnswer+1))
		case "slow":
			<-r.Context().Done()
		default:
			io.WriteString(w, a)
		}
	}))
	defer server.Close()
	bans := make(chan forbidden, 10)
	w := newWorld(t, fakeTool(t), func(o *Options) {
		o.Forbid = func(key stream.Key, until time.Time, why string) { bans <- forbidden{key, until, why} }
		o.AlertCallback = func(*stream.Publication) *event.Callback { return &event.Callback{URL: "http://owner/"} }
	})
	p := w.publish("streamname", asking(server.URL, policy.OnErrorAllow, loopback))
	facts, ms := 0, int64(0)
	// picture has a picture taken that the server says a about, and returns
	// the facts after that of the picture.
	picture := func(a string, more int) []event.Event {
		t.Helper()
		answer.Store(a)
		write(t, p, frame(ms, true, fmt.Sprint("picture ", ms)))
		ms += 1000
		list := w.wait(facts + 1 + more)[facts:]
		facts += 1 + more
		if _, ok := list[0].Data.(event.SnapshotTaken); !ok {
			t.Fatalf("%s: %+v", a, list[0].Data)
		}
		return list[1:]
	}
	alert := func(e event.Event, name, text string) {
		t.Helper()
		d, ok := e.Data.(event.AlertRaised)
		if !ok || d.Alert != name || !strings.Contains(d.Text, text) || d.Callback.URL != "http://owner/" || e.Stream != "streamname" || e.Sequence != p.Push().Sequence {
			t.Errorf("fact %+v, want alert %s", e.Data, name)
		}
	}
	cleared := func(e event.Event, name string) {
		t.Helper()
		if d, ok := e.Data.(event.AlertCleared); !ok || d.Alert != name || d.Since.IsZero() {
			t.Errorf("fact %+v, want alert %s cleared", e.Data, name)
		}
	}
	alert(picture(`{"action":"alert","text":"a\nflag"}`, 1)[0], alertScene, "a flag")
	cleared(picture("", 1)[0], alertScene)
	alert(picture(`{"action":"forbid","text":"no"}`, 1)[0], alertScene, "no")
	b := <-bans
	if b.key != p.Stream().Key() || b.why != "no" || time.Until(b.until) < 59*time.Minute || time.Until(b.until) > time.Hour {
		t.Errorf("forbidden %+v", b)
	}
	cleared(picture(`{"action":"pass"}`, 1)[0], alertScene)
	alert(picture("500", 1)[0], alertUnavailable, "status 500")
	cleared(picture("", 1)[0], alertUnavailable)
	alert(picture("redirect", 1)[0], alertUnavailable, "status 302")
	cleared(picture("{}", 1)[0], alertUnavailable)
	alert(picture("long", 1)[0], alertUnavailable, "too long")
	cleared(picture("{}", 1)[0], alertUnavailable)
	alert(picture("slow", 1)[0], alertUnavailable, "cannot be reached")
	cleared(picture("{}", 1)[0], alertUnavailable)
	alert(picture("[1]", 1)[0], alertUnavailable, "neither empty nor")
	cleared(picture("{}", 1)[0], alertUnavailable)
	alert(picture(`{"action":"kill"}`, 1)[0], alertUnavailable, "action other than")
	if len(bans) != 0 {
		t.Errorf("forbidden for an error: %+v", <-bans)
	}
	// The end of the push is that of its alerts.
	push := w.pushes.find(p)
	p.End(stream.EndClosed)
	cleared(w.wait(facts + 1)[facts], alertUnavailable)
	w.raise(&capture{push: push}, alertScene, "late")
	if list := w.wait(facts + 1); len(list) != facts+1 {
		t.Errorf("after the end: %+v", list[facts+1:])
	}
	if x := problem.Load(); x != nil {
		t.Errorf("a request was %v", x)
	}
}

// Of answers that come in another order than the pictures were taken, that about the
// newest picture counts.
func TestAnswersInAnyOrder(t *testing.T) {
	w := newWorld(t, nil, nil)
	c := func(p *push, s int) *capture {
		return &capture{push: p, cfg: &p.pub.App().Snapshot, at: time.Unix(int64(s), 0)}
	}
	p := w.pushes.of(w.publish("streamname", func(s *policy.Snapshot) { s.Check = new(policy.SnapshotCheck) }))
	w.act(c(p, 2), finding{Action: "alert", Text: "new"})
	w.act(c(p, 1), finding{Action: "pass"})
	w.raise(c(p, 3), alertUnavailable, "x")
	w.act(c(p, 3), finding{Action: "pass"})
	w.act(c(p, 2), finding{Action: "alert", Text: "old"})
	var got []string
	for _, e := range w.facts {
		switch d := e.Data.(type) {
		case event.AlertRaised:
			got = append(got, "+"+d.Alert)
		case event.AlertCleared:
			got = append(got, "-"+d.Alert)
		}
	}
	if s := strings.Join(got, " "); s != "+scene +scene_check_failing -scene" {
		t.Errorf("alerts: %s", s)
	}
}

// A push that ends before anybody follows it raises no alert any more.
func TestNoAlertAfterTheEnd(t *testing.T) {
	w := newWorld(t, nil, nil)
	checked := func(s *policy.Snapshot) { s.Enabled, s.Check = false, new(policy.SnapshotCheck) } // so that nobody does
	for _, forgotten := range []bool{false, true} {
		pub := w.publish("streamname", checked)
		pub.End(stream.EndClosed)
		if forgotten {
			w.pushes.of(w.publish("other", checked))
			if w.pushes.find(pub) != nil {
				t.Error("a push that is over is not forgotten")
			}
		}
		w.raise(&capture{push: w.pushes.of(pub), at: time.Now()}, alertScene, "late")
		if len(w.facts) != 0 {
			t.Errorf("after the end: %+v", w.facts)
		}
	}
}

// H67: whatever a name leads to, private addresses are not dialled; with deny,
// who cannot be asked has forbidden.
func TestCheckIsKeptFromPrivateAddresses(t *testing.T) {
	asked := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer server.Close()
	bans := make(chan forbidden, 10)
	w := newWorld(t, fakeTool(t), func(o *Options) {
		o.Forbid = func(key stream.Key, until time.Time, why string) { bans <- forbidden{key, until, why} }
	})
	p := w.publish("streamname", asking(strings.Replace(server.URL, "127.0.0.1", "localhost", 1), policy.OnErrorDeny, nil))
	write(t, p, frame(0, true, "x"))
	b := <-bans
	if len(asked) != 0 || b.key != p.Stream().Key() || b.why != "its pictures cannot be checked" {
		t.Errorf("forbidden %+v; asked %d times", b, len(asked))
	}
}

func FuzzReadFinding(f *testing.F) {
	for _, s := range []string{"", "{}", `{"action":"forbid","text":"x"}`, `{"action":1}`, "null", "[", `{"action":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := readFinding(b)
		if err == nil && x.Action != "" && x.Action != "pass" && x.Action != "alert" && x.Action != "forbid" {
			t.Errorf("action %q", x.Action)
		}
	})
}

// The newest picture is found again by one that has just started, in either way
// of storing them.
func TestStored(t *testing.T) {
	w := newWorld(t, fakeTool(t), nil)
	key := stream.Key{Space: "s", App: "live", Name: "a"}
	picture := func(text string) string {
		var b bytes.Buffer
		if err := jpeg.Encode(&b, rectangle{image.NewUniform(tint([]byte(text))), image.Rect(0, 0, 64, 48)}, nil); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	put := func(object, text string) {
		if _, err := w.bucket.Put(t.Context(), object, strings.NewReader(picture(text)), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	find := func(cfg policy.Snapshot, object, text string) {
		t.Helper()
		p, err := w.Stored(t.Context(), key, &cfg)
		if object == "" {
			if p != nil || err != nil {
				t.Errorf("Stored = %+v, %v, want none", p, err)
			}
			return
		}
		if err != nil || p == nil || p.Object != object || string(p.JPEG) != picture(text) || p.Width != 64 || p.Bucket != "yourbucket" {
			t.Errorf("Stored = %+v, %v, want %s", p, err, object)
		}
	}
	find(policy.Snapshot{}, "", "")
	find(policy.Snapshot{Overwrite: true}, "", "")
	now := time.Now()
	folder := func(age time.Duration, picture int) string {
		at := now.Add(-age)
		return fmt.Sprintf("record/live/a/picture/%d_123456789/a-%d.jpg", at.UnixMilli(), at.Unix()+int64(picture))
	}
	put("record/live/a/picture/a.jpg", "the only one")
	find(policy.Snapshot{}, "", "")
	for i, age := range []time.Duration{1000 * time.Hour, 48 * time.Hour, 47 * time.Hour, 2 * time.Hour, time.Hour} {
		put("record/live/b/picture/9999999999999_1/b-1.jpg", "of another stream")
		put(folder(age, 0), "first")
		put(folder(age, 20), fmt.Sprint("second ", i))
		find(policy.Snapshot{}, folder(age, 20), fmt.Sprint("second ", i))
	}
	find(policy.Snapshot{Overwrite: true}, "record/live/a/picture/a.jpg", "the only one")
	find(policy.Snapshot{Prefix: "x"}, "", "")
	p, err := w.Stored(t.Context(), key, &policy.Snapshot{})
	if want := now.Add(-time.Hour).Unix() + 20; err != nil || p.Captured.Unix() != want {
		t.Errorf("captured at %v, %v, want %d", p.Captured, err, want)
	}
	put(folder(time.Minute, 0), "x")
	if _, err := w.bucket.Put(t.Context(), folder(time.Minute, 1), strings.NewReader("no picture"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if p, err := w.Stored(t.Context(), key, &policy.Snapshot{}); err == nil {
		t.Errorf("what is no picture: %+v", p)
	}
}

func TestRetain(t *testing.T) {
	w := newWorld(t, nil, nil)
	now := time.Unix(1_700_000_000, 0)
	old, young := now.Add(-49*time.Hour).Unix(), now.Add(-47*time.Hour).Unix()
	keep, gone := []string{}, []string{}
	for _, name := range []string{"a", "a-1", "b"} {
		folder := "record/live/" + name + "/picture/1_2/" + name
		gone = append(gone, fmt.Sprintf("%s-%d.jpg", folder, old))
		keep = append(keep, fmt.Sprintf("%s-%d.jpg", folder, young), fmt.Sprintf("record/live/%s/hls/x-%d.ts", name, old))
	}
	keep = append(keep, fmt.Sprintf("record/other/a/picture/1_2/a-%d.jpg", old), fmt.Sprintf("record/live/c/mp4/%d.jpg", old), "record/live/c-7/picture/c-7.jpg")
	for _, key := range append(keep, gone...) {
		if _, err := w.bucket.Put(t.Context(), key, strings.NewReader("x"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	app := policy.DefaultApp("live")
	if n, err := w.Retain(t.Context(), "s", &app, now); n != 0 || err != nil {
		t.Errorf("without an age %d are deleted, %v", n, err)
	}
	app.Snapshot.KeepAge = 48 * time.Hour
	remember := func(app, name string, at int64) stream.Key {
		key := stream.Key{Space: "s", App: app, Name: name}
		w.latest.put(&Picture{Stream: key, Captured: time.Unix(at, 0), JPEG: []byte("x")})
		return key
	}
	forgotten, held, others := remember("live", "a", old), remember("live", "b", young), remember("other", "a", old)
	if n, err := w.Retain(t.Context(), "s", &app, now); n != len(gone) || err != nil {
		t.Errorf("%d are deleted, %v, want %d", n, err, len(gone))
	}
	if w.Latest(forgotten) != nil || w.Latest(held) == nil || w.Latest(others) == nil {
		t.Errorf("in memory are %+v", w.All())
	}
	for _, key := range keep {
		if _, err := w.bucket.Stat(t.Context(), key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	// One that overwrites has no time in its name, and is as old as the object.
	if n, err := w.Retain(t.Context(), "s", &app, time.Now().Add(49*time.Hour)); n != 4 || err != nil {
		t.Errorf("%d are deleted, %v, want 4", n, err)
	}
}
