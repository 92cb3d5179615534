package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"go.uber.org/goleak"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A relay is the least server that the tool can be tried on: it keeps the
// packets of all publishers by stream name, and players get all of them from the last key
// frame on.
type relay struct {
	mu      sync.Mutex
	changed *sync.Cond
	streams map[string][]av.Packet
	stopped bool

	refuses bool // every publish
}

// newRelay serves RTMP and HTTP-FLV until the test ends.
func newRelay(t *testing.T, refuses bool) (rtmpAddr, httpAddr string) {
	r := &relay{streams: make(map[string][]av.Packet), refuses: refuses}
	r.changed = sync.NewCond(&r.mu)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(http.HandlerFunc(r.serveFLV))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return // the test has ended
			}
			wg.Go(func() { r.serveRTMP(nc) }) // ends with its client, or when a player's stream stops
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.mu.Lock()
		r.stopped = true
		r.mu.Unlock()
		r.changed.Broadcast()
		h.Close()
		wg.Wait()
	})
	return ln.Addr().String(), h.Listener.Addr().String()
}

func (r *relay) add(name string, p av.Packet) {
	r.mu.Lock()
	r.streams[name] = append(r.streams[name], p)
	r.mu.Unlock()
	r.changed.Broadcast()
}

// play calls send for the packets of a stream until that fails.
func (r *relay) play(name string, send func(av.Packet) error) {
	next := -1
	for {
		r.mu.Lock()
		all := r.streams[name]
		for !r.stopped && (next < 0 && len(all) == 0 || next >= len(all)) {
			r.changed.Wait()
			all = r.streams[name]
		}
		stopped := r.stopped
		r.mu.Unlock()
		if stopped {
			return
		}
		if next < 0 {
			for next = len(all) - 1; next > 0 && !all[next].Key; next-- {
			}
		}
		if send(all[next]) != nil {
			return
		}
		next++
	}
}

func (r *relay) serveRTMP(nc net.Conn) {
	c, err := rtmp.Accept(nc, rtmp.Config{})
	if err != nil {
		nc.Close()
		return
	}
	defer c.Close()
	for {
		cmd, err := c.ReadCommand()
		if err != nil {
			return
		}
		switch cmd.Name {
		case "publish":
			if r.refuses {
				c.RejectPublish(cmd, rtmp.Status{Code: 3, Description: "Stream Already Published"})
				return
			}
			if c.AcceptPublish(cmd, rtmp.Status{}) != nil {
				return
			}
			for {
				p, err := c.ReadPacket()
				if err != nil {
					return
				}
				r.add(cmd.StreamName, p)
			}
		case "play":
			if c.AcceptPlay(cmd, rtmp.Status{}) != nil {
				return
			}
			r.play(cmd.StreamName, func(p av.Packet) error {
				_, err := nc.Write(rtmp.AppendMessage(nil, c.ChunkSize(), rtmp.ChunkVideo, flv.TagType(p.Kind), uint32(p.DTS), cmd.StreamID, p.Tag))
				return err
			})
			return
		}
	}
}

func (r *relay) serveFLV(w http.ResponseWriter, req *http.Request) {
	w.Write(flv.AppendHeader(nil, true, true))
	r.play(strings.Trim(req.URL.Path, "/"), func(p av.Packet) error {
		if _, err := w.Write(flv.AppendTag(nil, flv.TagType(p.Kind), uint32(p.DTS), p.Tag)); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	})
}

// command returns a Command with its defaults and the given arguments.
func command(t *testing.T, args ...string) *Command {
	t.Helper()
	var c Command
	k, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	rtmpAddr, httpAddr := newRelay(t, false)
	c := command(t, "--publish=rtmp://"+rtmpAddr+"/live/s{n}", "--play=http://"+httpAddr+"/s{n}", "--play=rtmp://"+rtmpAddr+"/live/s{n}",
		"--streams=2", "--players=10", "--sample=6", "--slow-fraction=0.1", "--slow-rate=20k", "--gop=200ms", "--warmup=100ms", "--duration=1s", "--joins=20",
		fmt.Sprintf("--pid=%d", os.Getpid()))
	r, err := c.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Publishers; p.Wanted != 2 || p.Alive != 2 || p.Dropped != 0 || p.BitsPerSecond == 0 {
		t.Errorf("publishers: %+v", p)
	}
	p := r.Players
	if p.Wanted != 20 || p.Joined != 20 || p.Alive != 18 || p.SlowAlive != 2 || p.Stalled != 0 || p.BitsMin == 0 {
		t.Errorf("players: %+v", p)
	}
	if p.ExtraJoins == 0 || r.Join.Count != uint64(p.ExtraJoins) || r.Join.P50 <= 0 {
		t.Errorf("join: %+v of %d extra joins", r.Join, p.ExtraJoins)
	}
	if l := r.Latency; l.Count < 6 || l.Min <= 0 || l.P50 > l.P99 || r.Missed != 0 {
		t.Errorf("latency: %+v, %d missed", l, r.Missed)
	}
	if s := r.Server; s.CPUPerGB < 0 || s.RSS == 0 || s.PeakThreads == 0 {
		t.Errorf("server: %+v", s)
	}
	if len(r.Problems) > 0 {
		t.Errorf("problems: %v", r.Problems)
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil || !strings.Contains(text.String(), "18 of 20 alive, 0 stalled") {
		t.Errorf("Print: %v\n%s", err, &text)
	}
	if b, err := json.Marshal(r); err != nil || !bytes.Contains(b, []byte(`"latency_ms"`)) {
		t.Errorf("Marshal = %s, %v", b, err)
	}
}

func TestMeasureProblems(t *testing.T) {
	t.Parallel()
	rtmpAddr, httpAddr := newRelay(t, true)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<html>no stream here</html>")
	}))
	defer page.Close()
	for _, c := range []struct{ want, arg string }{
		{"1 of 1 publishers did not get through: publish: RTMP: NetStream.Publish.Denied: Stream Already Published", "--publish=rtmp://" + rtmpAddr + "/live/s"},
		{"no player joined: join: not an FLV stream", "--play=" + page.URL},
		{"no player joined: join: HLS: playlist: does not begin", "--play=" + page.URL + "/x.m3u8"},
	} {
		_, err := command(t, c.arg, "--gop=100ms", "--warmup=0s").Measure(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("Measure(%s) = %v, want %s", c.arg, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := command(t, "--play=http://"+httpAddr+"/x").Measure(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Measure with a context that has ended = %v", err)
	}
}

// Players whose server leaves them, or sends nothing, are seen.
func TestMeasureLosses(t *testing.T) {
	t.Parallel()
	made, err := synthetic(5e5, 0, 25, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var gop []byte
	gop = flv.AppendHeader(gop, false, true)
	for _, f := range append(made.head, made.tracks[0].frames...) {
		gop = flv.AppendTag(gop, f.typ, uint32(f.at.Milliseconds()), f.body)
	}
	var n int
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(gop)
		http.NewResponseController(w).Flush()
		mu.Lock()
		n++
		leave := n%2 == 0
		mu.Unlock()
		if !leave {
			<-req.Context().Done()
		}
	}))
	defer s.Close()
	r, err := command(t, "--play="+s.URL, "--players=4", "--sample=1", "--warmup=200ms", "--duration=800ms", "--stall=300ms").Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Players; p.Joined != 4 || p.Alive != 2 || p.Stalled != 2 {
		t.Errorf("players: %+v, want 4 joined, 2 alive and stalled", p)
	}
	if got := r.Problems["play: the server closed the connection"]; got != 2 {
		t.Errorf("problems: %v", r.Problems)
	}
}

func TestSumPlayers(t *testing.T) {
	r := &run{cmd: &Command{Streams: 2}, publishers: []*publisher{{bytes: 11_000, mark: 1000}, {bytes: 20_000}}, joined: 7}
	for _, p := range []player{
		{joined: 1, bytes: 9000}, // 90 % of its stream
		{joined: 1, bytes: 8999},
		{joined: 1, bytes: 18_500, mark: 500, stream: 1},
		{joined: 1, bytes: 18_499, mark: 500, stream: 1},
		{joined: 1, bytes: 5000, stalled: true},
		{joined: 1, slow: true},
		{joined: 1, over: true},
		{},
	} {
		p.proto = &flvPlay{}
		r.players = append(r.players, &p)
	}
	r.players = append(r.players, &player{joined: 1, proto: &hlsPlay{}}) // gets whole segments: never behind
	want := Players{Wanted: 9, Joined: 7, Alive: 6, Stalled: 1, Behind: 2, SlowAlive: 1, BytesPerSecond: 500, BitsMedian: 8 * 4500, BitsMax: 8 * 9000}
	if got := r.sumPlayers(2, 1000); *got != want {
		t.Errorf("sumPlayers = %+v, want %+v", *got, want)
	}
	// Without publishers of its own the tool takes the best player for the measure.
	r.publishers = nil
	r.players = append(r.players, &player{joined: 1, bytes: 8099, proto: &flvPlay{}})
	if got := r.sumPlayers(2, 1000); got.Behind != 1 {
		t.Errorf("sumPlayers without publishers = %+v, want 1 behind", *got)
	}
}

// hlsServer serves a live playlist whose segments hold a clock.
func hlsServer(t *testing.T) string {
	began := time.Now()
	refused := false
	mux := http.NewServeMux()
	mux.HandleFunc("GET /master.m3u8", func(w http.ResponseWriter, _ *http.Request) {
		if !refused { // as a server that has no segment yet
			refused = true
			http.NotFound(w, nil)
			return
		}
		io.WriteString(w, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nsub/media.m3u8?token=1\n")
	})
	mux.HandleFunc("GET /sub/media.m3u8", func(w http.ResponseWriter, req *http.Request) {
		if req.FormValue("token") != "1" {
			http.Error(w, "no token", http.StatusForbidden)
			return
		}
		first := int(time.Since(began) / time.Second)
		fmt.Fprintf(w, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:%d\n", first)
		for i := range 5 {
			fmt.Fprintf(w, "#EXTINF:1.0,\n%d.ts\n", first+i)
		}
	})
	mux.HandleFunc("GET /sub/{segment}", func(w http.ResponseWriter, req *http.Request) {
		sei := clockSEI(false)
		putClock(sei[len(sei)-1-clockSize:], time.Now().Add(-time.Second).UnixNano(), 1)
		w.Header().Set("Connection", map[bool]string{true: "close"}[strings.HasPrefix(req.PathValue("segment"), "3")])
		w.Write(append(make([]byte, 1000), append(sei, make([]byte, 50_000)...)...))
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestMeasureHLS(t *testing.T) {
	t.Parallel()
	addr := hlsServer(t)
	r, err := command(t, "--play=http://"+addr+"/master.m3u8", "--players=3", "--warmup=0s", "--duration=3s").Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Players; p.Joined != 3 || p.Alive != 3 || p.Stalled != 0 || p.BitsMin == 0 {
		t.Errorf("players: %+v", p)
	}
	if l := r.Segments; l == nil || l.Count < 3 || l.Min < 999 {
		t.Errorf("segments: %+v, want a second", l)
	}
	if len(r.Problems) > 0 {
		t.Errorf("problems: %v", r.Problems)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"", []string{"--publish=rtmp://h/a/s"}},
		{"", []string{"--publish=rtmp://h/a/s{n}", "--streams=2"}},
		{"nothing to do", nil},
		{"need {n}", []string{"--publish=rtmp://h/a/s", "--streams=2"}},
		{"must be at least 1", []string{"--publish=rtmp://h/a/s", "--streams=0"}},
		{"must be an rtmp:// URL", []string{"--publish=http://h/a/s"}},
		{"--slow-fraction", []string{"--play=http://h/s", "--slow-fraction=1.1"}},
		{"--joins needs --play", []string{"--publish=rtmp://h/a/s", "--joins=5"}},
		{"no room for video", []string{"--publish=rtmp://h/a/s", "--bitrate=100k"}},
		{"--ramp", []string{"--publish=rtmp://h/a/s", "--ramp=0"}},
	} {
		err := command(t, c.args...).check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("check(%v) = %v, want %q", c.args, err, c.want)
		}
	}
}

func TestBits(t *testing.T) {
	for in, want := range map[string]Bits{"0": 0, "64000": 64_000, "96k": 96_000, "1M": 1_000_000, "2.5m": 2_500_000, "1G": 1e9} {
		var b Bits
		if err := b.UnmarshalText([]byte(in)); err != nil || b != want {
			t.Errorf("UnmarshalText(%q) = %d, %v, want %d", in, b, err, want)
		}
	}
	for _, in := range []string{"", "k", "-1", "1T", "NaN", "1e20", "1Mb"} {
		var b Bits
		if err := b.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("UnmarshalText(%q) = %d, want an error", in, b)
		}
	}
}

func TestTarget(t *testing.T) {
	r := resolver{t.Context(), nil}
	r.known = map[string]netip.AddrPort{}
	for _, c := range []struct {
		url  string
		want target
	}{
		{"rtmp://127.0.0.1/live/s{n}?vhost=a", target{addr: netip.MustParseAddrPort("127.0.0.1:1935"), host: "127.0.0.1", path: "/live/s7?vhost=a", app: "live", tcURL: "rtmp://127.0.0.1/live", name: "s7?vhost=a"}},
		{"rtmp://[::1]:19/a/b/s", target{addr: netip.MustParseAddrPort("[::1]:19"), host: "[::1]:19", path: "/a/b/s", app: "a/b", tcURL: "rtmp://[::1]:19/a/b", name: "s"}},
		{"http://127.0.0.1:81/live/{n}.flv?k=1", target{addr: netip.MustParseAddrPort("127.0.0.1:81"), host: "127.0.0.1:81", path: "/live/7.flv?k=1"}},
	} {
		if got, err := r.target(c.url, 7); err != nil || got != c.want {
			t.Errorf("target(%q) = %+v, %v, want %+v", c.url, got, err, c.want)
		}
	}
	for _, bad := range []string{"rtsp://127.0.0.1/x", "rtmp://127.0.0.1/x", "http://127.0.0.1:99999/", "http://%zz/"} {
		if got, err := r.target(bad, 1); err == nil {
			t.Errorf("target(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	u, err := parseStat("123 (a (b) c) S 1 2 3 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 100 1000000 250 18446744073709551615 1")
	if want := (usage{CPU: 2 * time.Second, RSS: 250 * int64(os.Getpagesize()), Threads: 7}); err != nil || u != want {
		t.Errorf("parseStat = %+v, %v, want %+v", u, err, want)
	}
	for _, bad := range []string{"", "1 (x)", "1 (x) S 1 2 3", "1 (x) S 1 2 3 0 -1 4194560 100 0 0 0 a 50 0 0 20 0 7 0 100 1000000 250"} {
		if u, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, u)
		}
	}
	if u, err := readUsage([]int{os.Getpid()}); err != nil || u.RSS == 0 || u.Threads == 0 {
		t.Errorf("readUsage of this process = %+v, %v", u, err)
	}
	if _, err := readUsage([]int{-1}); err == nil {
		t.Error("readUsage(-1) succeeded")
	}
}
