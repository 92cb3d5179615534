package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/cluster"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// canary is in every frame of the streams of these tests. Where it arrives, a
// client has got media (I12). secretCanary is in every secret (I13).
const (
	canary       = "CANARY"
	secretCanary = "5ecretCanary"
)

// textLog is a log as text.
type textLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *textLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *textLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// guarded is a node whose domains have all kinds of authentication.
type guarded struct {
	*Node
	t        *testing.T
	log      *textLog
	tls      *tls.Config
	external map[string]*httptest.Server
	forger   *access.Gate // who knows everything but the secrets
}

// ways of authentication, each with domains of its own: {way}.auth.test,
// {way}.blocked.test, and in another space {way}.other.test.
var authWays = []string{"simple", "signature", "a", "c", "d", "tx"}

// boundTo says to what a URL of each way is bound, beside the domain's keys: the
// scheme of the contract has no more in it (A.1, txSecret: any app).
var boundTo = map[string]struct{ pushApp, playApp bool }{
	"simple": {false, true}, "signature": {true, true}, "a": {true, true}, "c": {true, true}, "d": {true, true}, "tx": {false, false},
}

func guardedBy(way, secret string) policy.Access {
	key := policy.NewSecret(secret)
	switch way {
	case "simple":
		return policy.Access{Simple: &policy.Simple{Key: key}}
	case "signature":
		return policy.Access{Signature: &policy.Signature{Strict: true}}
	}
	u := &policy.SignedURL{Key: key}
	if err := u.Type.UnmarshalText([]byte(way)); err != nil {
		panic(err)
	}
	return policy.Access{SignedURL: u}
}

// guardedPolicy is a policy with all ways; its secrets end in suffix.
func (g *guarded) guardedPolicy(suffix string) *policy.Set {
	loopback := []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	secret := func(name string) string { return secretCanary + name + suffix }
	space := func(name string) policy.Space {
		live, show := policy.DefaultApp("live"), policy.DefaultApp("show")
		for _, a := range []*policy.App{&live, &show} {
			a.IdleTimeout, a.StaleAfter, a.Hold, a.HLS.Mode = time.Hour, time.Hour, 0, policy.HLSAlways
		}
		return policy.Space{Name: name, Apps: []policy.App{live, show},
			AccessKeys: []policy.AccessKey{{ID: "KEY" + suffix, Secret: policy.NewSecret(secret("ak" + name))}}}
	}
	a, b := space("a"), space("b")
	a.Domains = []policy.Domain{{Name: "open.test", Type: policy.Both}}
	for _, way := range authWays {
		rules := guardedBy(way, secret(way))
		blocked := rules
		blocked.IP.Block = loopback
		a.Domains = append(a.Domains,
			policy.Domain{Name: way + ".auth.test", Type: policy.Both, Publish: rules, Play: rules},
			policy.Domain{Name: way + ".blocked.test", Type: policy.Both, Publish: blocked, Play: blocked})
		other := guardedBy(way, secret("other"+way))
		b.Domains = append(b.Domains, policy.Domain{Name: way + ".other.test", Type: policy.Both, Publish: other, Play: other})
	}
	for name, s := range g.external {
		e := new(policy.External)
		e.SetDefaults()
		e.URL, e.Secret, e.AllowNetworks = policy.Endpoint(s.URL), policy.NewSecret(secret("external")), loopback
		rules := policy.Access{External: e}
		a.Domains = append(a.Domains, policy.Domain{Name: name + ".external.test", Type: policy.Both, Publish: rules, Play: rules})
	}
	return &policy.Set{Spaces: []policy.Space{a, b}}
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, log: new(textLog), external: make(map[string]*httptest.Server)}
	for name, status := range map[string]int{"allow": 200, "deny": 403, "down": 500} {
		g.external[name] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
		}))
		t.Cleanup(g.external[name].Close)
	}
	g.external["down"].Close()

	c := testConfig(t)
	dir := t.TempDir()
	c.TLS = TLS{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	c.Listen.RTMPS, c.Listen.HTTPS = "127.0.0.1:0", "127.0.0.1:0"
	g.tls = &tls.Config{RootCAs: writeCertificate(t, c.TLS)}
	c.SlowFailures = false // this one address will fail a lot
	c.Policy = g.guardedPolicy("")
	if p := c.Policy.Problems(); p != nil {
		t.Fatal(p)
	}
	forged := g.guardedPolicy("x")
	for i := range forged.Spaces {
		forged.Spaces[i].AccessKeys[0].ID = "KEY"
	}
	g.forger = access.NewGate(func() *policy.Set { return forged })

	n, err := New(c, slog.New(slog.NewJSONHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	g.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return g
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// send sends eight seconds of a stream with the canary in every frame.
func send(c *rtmp.Conn) error {
	config := unhex("0164001fffe1001a6764001facd9405005bb011000000300100000030320f183196001000668ebe3cb22c0fdf8f800")
	video := func(dts int64, key, config bool, data []byte) av.Packet {
		return av.Packet{Kind: av.Video, Codec: av.H264, Key: key, Config: config, DTS: dts, Tag: flv.AppendVideo(nil, av.H264, key, config, 0, data)}
	}
	if err := c.WritePacket(video(0, true, true, config)); err != nil {
		return err
	}
	body := strings.Repeat(canary, 20)
	for dts := int64(0); dts <= 8000; dts += 100 {
		head := byte(0x41)
		if dts%1000 == 0 {
			head = 0x65
		}
		nal := append([]byte{0, 0, 0, byte(len(body) + 1), head}, body...)
		if err := c.WritePacket(video(dts, head == 0x65, false, nal)); err != nil {
			return err
		}
	}
	return nil
}

// dial connects to an RTMP listener.
func (g *guarded) dial(scheme, path string) *rtmp.Conn {
	g.t.Helper()
	c, err := rtmp.Dial(g.t.Context(), scheme+"://"+g.Addr(scheme).String()+path, rtmp.Config{TLS: g.tls})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// A client is one way to push or to play.
type client struct {
	name   string
	op     access.Op
	scheme string // of its URLs
	ending string // of their path
}

var clients = []client{
	{"push by RTMP", access.Publish, "rtmp", ""},
	{"push by RTMPS", access.Publish, "rtmps", ""},
	{"play by RTMP", access.Play, "rtmp", ""},
	{"play by RTMPS", access.Play, "rtmps", ""},
	{"play by HTTP-FLV", access.Play, "http", ".flv"},
	{"play by HTTPS-FLV", access.Play, "https", ".flv"},
	{"play by ws-FLV", access.Play, "ws", ".flv"},
	{"play by wss-FLV", access.Play, "wss", ".flv"},
	{"play by HLS, index.m3u8", access.Play, "http", "/index.m3u8"},
	{"play by HLS, playlist.m3u8", access.Play, "http", "/playlist.m3u8"},
	{"play by HLS, .m3u8", access.Play, "http", ".m3u8"},
	{"play by HLS over TLS", access.Play, "https", "/index.m3u8"},
}

// url is where something is asked for.
type url struct {
	domain, prefix, app, stream, query string
}

// sign returns the URL of c that gate signs for a stream at a domain.
func (g *guarded) sign(gate *access.Gate, c client, domain, app, stream string, until time.Time) url {
	g.t.Helper()
	r, err := access.FromURL(c.op, c.scheme+"://"+domain+"/"+app+"/"+stream+c.ending)
	if err != nil {
		g.t.Fatal(err)
	}
	list, err := gate.Sign(r, until)
	if err != nil || len(list) != 1 {
		g.t.Fatalf("Sign for %s: %v, %v", domain, list, err)
	}
	return url{domain, list[0].Prefix, app, stream, list[0].Query}
}

var message = regexp.MustCompile(`<Message>(.*)</Message>`)

// get sends a request and returns all that comes until the server closes, or
// the canary comes.
func (g *guarded) get(c client, u url, path string) []byte {
	g.t.Helper()
	listener := strings.NewReplacer("ws", "http").Replace(c.scheme)
	var nc net.Conn
	var err error
	if listener == "https" {
		nc, err = tls.Dial("tcp", g.Addr("https").String(), &tls.Config{RootCAs: g.tls.RootCAs})
	} else {
		nc, err = net.Dial("tcp", g.Addr("http").String())
	}
	if err != nil {
		g.t.Fatal(err)
	}
	defer nc.Close()
	upgrade := "Connection: close\r\n"
	if strings.HasPrefix(c.scheme, "ws") {
		upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	fmt.Fprintf(nc, "GET %s%s?%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", u.prefix, path, u.query, u.domain, upgrade)
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	var all []byte
	buf := make([]byte, 64<<10)
	for !bytes.Contains(all, []byte(canary)) && !(bytes.HasPrefix(all, []byte("HTTP/1.1 403 ")) && bytes.HasSuffix(all, []byte("</Error>\n"))) {
		n, err := nc.Read(buf)
		if all = append(all, buf[:n]...); err != nil {
			break
		}
	}
	return all
}

// try lets c use u. It returns what the client is told when it is refused, and
// all that it got.
func (g *guarded) try(c client, u url) (refusal string, got []byte) {
	g.t.Helper()
	switch c.scheme {
	case "rtmp", "rtmps":
		conn := g.dial(c.scheme, u.prefix+"/"+u.app)
		defer conn.Close()
		name := u.stream + "?vhost=" + u.domain
		if u.query != "" {
			name += "&" + u.query
		}
		ask := conn.Play
		if c.op == access.Publish {
			ask = conn.Publish
		}
		err := ask(name)
		if e := (*rtmp.Error)(nil); errors.As(err, &e) {
			refusal = e.Description
		} else if err != nil {
			g.t.Fatal(err)
		}
		if c.op == access.Publish {
			send(conn) // also if refused: it must not get anywhere
			if refusal == "" {
				key := stream.Key{Space: "a", App: u.app, Name: u.stream}
				if s := g.hub.Find(key); s == nil {
					g.t.Errorf("%s: %v is granted, but there is no stream", c.name, u)
				}
				conn.Unpublish(name)
				g.until(func() bool { return g.hub.Find(key) == nil })
			}
			return refusal, nil
		}
		for {
			p, err := conn.ReadPacket()
			if got = append(got, p.Tag...); err != nil || bytes.Contains(got, []byte(canary)) {
				return refusal, got
			}
		}
	}
	got = g.get(c, u, "/"+u.app+"/"+u.stream+c.ending)
	return refused(got), got
}

// refused returns what an HTTP client is told, "" if it is not refused.
func refused(answer []byte) string {
	if bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		return ""
	}
	if m := message.FindSubmatch(answer); m != nil {
		return string(m[1])
	}
	return string(answer)
}

func (g *guarded) until(cond func() bool) {
	g.t.Helper()
	late := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			g.t.Fatal("it did not come about in 10 s")
		}
	}
}

// told is what clients of RTMP and of HTTP are told.
var told = map[access.Reason][2]string{
	"":                     {"", ""},
	access.Blocked:         {"Forbidden By Blacklist", "Forbidden By Blacklist"},
	access.AuthMissing:     {"Accesskey Or Signature Not Exist", "Non Exist Signature or Accesskey"},
	access.AuthExpired:     {"URL Expired", "URL Expired"},
	access.AuthFailed:      {"Authentication Failed", "Signature Not Match"},
	access.AuthUnavailable: {"Authentication Failed", "Authentication Failed"},
}

// media returns how much media the node has given away.
func (g *guarded) media() int64 { return g.hub.Stats().BytesOut + g.hls.Stats().Segments }

var segmentURI = regexp.MustCompile(`(?m)^(?:[^#\n]*/)?(\d+\.ts)(?:\?(.*))?$`)

// Every client, by every way of authentication, in every condition: who has no
// right gets no byte of media, and nobody gets his.
func TestAccessMatrix(t *testing.T) {
	g := startGuarded(t)
	for _, path := range []string{"live/canary", "live/other", "show/canary"} {
		app, name, _ := strings.Cut(path, "/")
		c := g.dial("rtmp", "/"+app)
		defer c.Close()
		if err := c.Publish(name + "?vhost=open.test"); err != nil {
			t.Fatal(err)
		}
		if err := send(c); err != nil {
			t.Fatal(err)
		}
	}
	hls := client{"playlist", access.Play, "http", "/index.m3u8"}
	open := url{domain: "open.test", app: "live", stream: "canary"}
	var segment string
	g.until(func() bool {
		_, playlist := g.try(hls, open)
		list := segmentURI.FindAllSubmatch(playlist, -1)
		if len(list) > 0 {
			segment = string(list[0][1])
		}
		return len(list) > 2
	})
	now := time.Now()
	later, past := now.Add(time.Hour), now.Add(-time.Minute)
	cells := 0

	// expect checks one cell. Of push, the stream is one that nobody publishes.
	expect := func(c client, condition string, u url, want access.Reason) {
		t.Helper()
		cells++
		g.until(func() bool { return g.hub.Stats().Players == 0 }) // who was right before has left
		before := g.media()
		refusal, got := g.try(c, u)
		text := told[want][0]
		if c.op == access.Play && !strings.HasPrefix(c.scheme, "rtmp") {
			text = told[want][1]
		}
		if refusal != text {
			t.Errorf("%s, %s: refused with %.300q, want %q (%v)", c.name, condition, refusal, text, u)
		}
		arrived := bytes.Contains(got, []byte(canary))
		media := c.op == access.Play && !strings.HasSuffix(c.ending, ".m3u8")
		switch {
		case want == "" && media && !arrived:
			t.Errorf("%s, %s: the right client got %d bytes without the stream", c.name, condition, len(got))
		case want == "" && c.op == access.Play && !media && !bytes.Contains(got, []byte("#EXTINF")):
			t.Errorf("%s, %s: the right client got no playlist: %.300q", c.name, condition, got)
		case want != "" && (arrived || bytes.Contains(got, []byte("#EXTM3U")) || g.media() != before):
			t.Errorf("%s, %s: media arrived, %d bytes", c.name, condition, g.media()-before)
		case c.op == access.Publish && g.hub.Find(stream.Key{Space: "a", App: u.app, Name: u.stream}) != nil:
			t.Errorf("%s, %s: the stream is there", c.name, condition)
		}
	}
	// expectSegment is expect of a segment.
	expectSegment := func(condition string, u url, want access.Reason) {
		t.Helper()
		for _, scheme := range []string{"http", "https"} {
			cells++
			before := g.media()
			got := g.get(client{scheme: scheme}, u, "/"+u.app+"/"+u.stream+"/"+segment)
			if text := refused(got); text != told[want][1] || bytes.Contains(got, []byte(canary)) != (want == "") || want != "" && g.media() != before {
				t.Errorf("segment by %s, %s: %.300q with %d bytes, want %q", scheme, condition, text, len(got), told[want][1])
			}
		}
	}
	// token returns a segment's URL by the token of a playlist.
	token := func(u url, life time.Duration) url {
		t.Helper()
		r, err := access.FromURL(access.Play, "http://"+u.domain+u.prefix+"/"+u.app+"/"+u.stream+"/index.m3u8?"+u.query)
		if err != nil {
			t.Fatal(err)
		}
		r.Addr = netip.MustParseAddrPort("127.0.0.1:1")
		grant, err := g.gate.Check(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		u.query = g.gate.SegmentQuery(grant, life)
		return u
	}
	at := func(u url, domain, app, stream string) url {
		u.domain, u.app, u.stream = domain, app, stream
		return u
	}

	valid := map[string]url{} // for the end
	for _, c := range clients {
		name := "canary"
		if c.op == access.Publish {
			name = "pushed"
		}
		u := open
		u.stream = name
		expect(c, "no authentication", u, "")
		for _, way := range authWays {
			domain := way + ".auth.test"
			good := g.sign(g.gate, c, domain, "live", name, later)
			valid[c.name+" "+way] = good
			otherApp := access.Reason("")
			if b := boundTo[way]; c.op == access.Publish && b.pushApp || c.op == access.Play && b.playApp {
				otherApp = access.AuthFailed
			}
			expect(c, way+" valid", good, "")
			expect(c, way+" missing", url{domain: domain, app: "live", stream: name}, access.AuthMissing)
			expect(c, way+" expired", g.sign(g.gate, c, domain, "live", name, past), access.AuthExpired)
			expect(c, way+" wrong", g.sign(g.forger, c, domain, "live", name, later), access.AuthFailed)
			expect(c, way+" of another stream", at(g.sign(g.gate, c, domain, "live", "other", later), domain, "live", name), access.AuthFailed)
			expect(c, way+" of another app", at(g.sign(g.gate, c, domain, "show", name, later), domain, "live", name), otherApp)
			expect(c, way+" of another domain", at(g.sign(g.gate, c, way+".other.test", "live", name, later), domain, "live", name), access.AuthFailed)
			expect(c, way+" block-listed", at(good, way+".blocked.test", "live", name), access.Blocked)
		}
		ext := url{app: "live", stream: name, query: "token=" + secretCanary + "token"}
		expect(c, "external allow", at(ext, "allow.external.test", "live", name), "")
		expect(c, "external deny", at(ext, "deny.external.test", "live", name), access.AuthFailed)
		expect(c, "external down", at(ext, "down.external.test", "live", name), access.AuthUnavailable)
		expect(c, "external without token", url{domain: "allow.external.test", app: "live", stream: name}, access.AuthMissing)
	}
	expectSegment("no authentication", open, "")
	tokens := map[string]url{}
	for _, way := range authWays {
		domain := way + ".auth.test"
		good := token(g.sign(g.gate, hls, domain, "live", "canary", later), time.Hour)
		tokens[way] = good
		wrong := good
		wrong.query = wrong.query[:10] + map[bool]string{true: "B", false: "A"}[wrong.query[10] == 'A'] + wrong.query[11:]
		expectSegment(way+" valid", good, "")
		expectSegment(way+" missing", url{domain: domain, app: "live", stream: "canary"}, access.AuthMissing)
		expectSegment(way+" expired", token(g.sign(g.gate, hls, domain, "live", "canary", later), -time.Minute), access.AuthExpired)
		expectSegment(way+" wrong", wrong, access.AuthFailed)
		expectSegment(way+" of another stream", at(token(g.sign(g.gate, hls, domain, "live", "other", later), time.Hour), domain, "live", "canary"), access.AuthFailed)
		expectSegment(way+" of another app", at(token(g.sign(g.gate, hls, domain, "show", "canary", later), time.Hour), domain, "live", "canary"), access.AuthFailed)
		expectSegment(way+" of another domain", at(token(g.sign(g.gate, hls, way+".other.test", "live", "canary", later), time.Hour), domain, "live", "canary"), access.AuthFailed)
		expectSegment(way+" block-listed", at(good, way+".blocked.test", "live", "canary"), access.Blocked)
		expectSegment(way+" external deny", at(good, "deny.external.test", "live", "canary"), access.AuthFailed)
		expectSegment(way+" external down", at(good, "down.external.test", "live", "canary"), access.AuthFailed)
	}

	// The keys are withdrawn: with them go those who are in, and nobody comes in.
	withdrawn := g.guardedPolicy("y")
	players := g.enter(valid)
	start := time.Now()
	if _, err := g.policy.Apply(t.Context(), withdrawn, true, false, cluster.Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	players()
	if d := time.Since(start); d > time.Second {
		t.Errorf("sessions without their right lasted %v", d)
	}
	for _, c := range clients {
		for _, way := range authWays {
			expect(c, way+" withdrawn", valid[c.name+" "+way], access.AuthFailed)
		}
	}
	for _, way := range authWays {
		expectSegment(way+" withdrawn", tokens[way], access.AuthFailed)
	}
	t.Logf("%d cells", cells)

	// I13: no secret, and nothing that a client knew, is in the log or the metrics.
	_, metrics := get(t, g.Node.url("admin", "/metrics"))
	for name, text := range map[string]string{"log": g.log.String(), "metrics": metrics} {
		if len(text) < 1000 {
			t.Errorf("the %s has %d bytes", name, len(text))
		}
		if i := strings.Index(text, secretCanary); i >= 0 {
			t.Errorf("the %s has a secret: %s", name, text[max(0, i-300):i])
		}
		for _, u := range valid {
			for pair := range strings.SplitSeq(u.query+"&="+strings.Trim(u.prefix, "/"), "&") {
				_, value, _ := strings.Cut(pair, "=")
				if value = strings.SplitN(value, "/", 2)[0]; len(value) > 12 && strings.Contains(text, value) {
					t.Errorf("the %s has %s", name, pair)
				}
			}
		}
	}
}

// enter lets a publisher and players in by every way and returns what waits
// until all have been put out.
func (g *guarded) enter(valid map[string]url) (wait func()) {
	g.t.Helper()
	var wg sync.WaitGroup
	for _, way := range authWays {
		for i, scheme := range []string{"rtmp", "rtmps"} {
			c := client{op: access.Publish, scheme: scheme}
			u := g.sign(g.gate, c, way+".auth.test", "live", "held-"+way+scheme, time.Now().Add(time.Hour))
			conn := g.dial(scheme, u.prefix+"/live")
			if err := conn.Publish(u.stream + "?vhost=" + u.domain + "&" + u.query); err != nil {
				g.t.Fatalf("%s: %v", way, err)
			}
			wg.Go(func() { // ends when the server ends the publisher
				defer conn.Close()
				_, err := conn.ReadPacket()
				if e := (*rtmp.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Description, "withdrawn") {
					g.t.Errorf("a publisher by %s is told %v", way, err)
				}
			})
			for _, name := range []string{[]string{"play by RTMP", "play by RTMPS"}[i], []string{"play by HTTP-FLV", "play by HTTPS-FLV"}[i], []string{"play by ws-FLV", "play by wss-FLV"}[i]} {
				n := slices.IndexFunc(clients, func(c client) bool { return c.name == name })
				g.join(&wg, clients[n], valid[name+" "+way])
			}
		}
	}
	return wg.Wait
}

// join lets a player in, who stays until the server puts him out.
func (g *guarded) join(wg *sync.WaitGroup, c client, u url) {
	g.t.Helper()
	before := g.hub.Stats().Players
	if strings.HasPrefix(c.scheme, "rtmp") {
		conn := g.dial(c.scheme, u.prefix+"/"+u.app)
		if err := conn.Play(u.stream + "?vhost=" + u.domain + "&" + u.query); err != nil {
			g.t.Fatalf("%s: %v", c.name, err)
		}
		wg.Go(func() { // ends when the server closes
			defer conn.Close()
			for err := error(nil); err == nil; {
				_, err = conn.ReadPacket()
			}
		})
	} else {
		var nc net.Conn
		var err error
		if c.scheme == "https" || c.scheme == "wss" {
			nc, err = tls.Dial("tcp", g.Addr("https").String(), &tls.Config{RootCAs: g.tls.RootCAs})
		} else {
			nc, err = net.Dial("tcp", g.Addr("http").String())
		}
		if err != nil {
			g.t.Fatal(err)
		}
		upgrade := ""
		if strings.HasPrefix(c.scheme, "ws") {
			upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		}
		fmt.Fprintf(nc, "GET %s/%s/%s%s?%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", u.prefix, u.app, u.stream, c.ending, u.query, u.domain, upgrade)
		wg.Go(func() { // ends when the server closes
			defer nc.Close()
			io.Copy(io.Discard, nc)
		})
	}
	g.until(func() bool { return g.hub.Stats().Players > before })
}
