//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"weir/internal/media/rtmp"
)

// TestSoak lets publishers and players come and go for the time in WEIR_SOAK,
// well-behaved and not, against weir as it is released. When all have left, it
// has the goroutines, descriptors and memory that it had before.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("WEIR_SOAK"))
	if err != nil {
		t.Skip("set WEIR_SOAK to a duration: make soak")
	}
	s := newSoak(t)
	// The first round is a warm-up: what the process then has, it keeps.
	const rounds = 4
	var first, last usage
	for i := range rounds {
		s.round(length / rounds)
		last, err = s.idle(first)
		if err != nil {
			t.Fatalf("after round %d: %v", i+1, err)
		}
		t.Logf("round %d: %v", i+1, last)
		if i == 0 {
			first = last
		}
	}
	if err := s.server.stop(); err != nil {
		t.Error(err)
	}
	for what, n := range s.done {
		t.Logf("%6d %s", n, what)
	}
}

type soak struct {
	*testing.T
	server            *server
	rtmp, http, admin string // addresses
	clip              []tag

	mu   sync.Mutex
	done map[string]int // visits by kind of visitor
}

func newSoak(t *testing.T) *soak {
	s := &soak{T: t, done: map[string]int{}}
	dir := t.TempDir()
	for _, addr := range []*string{&s.rtmp, &s.http, &s.admin} {
		var err error
		if *addr, err = freeAddr(); err != nil {
			t.Fatal(err)
		}
	}
	config := os.Expand(soakConfig, func(name string) string {
		return map[string]string{"RTMP_ADDR": s.rtmp, "HTTP_ADDR": s.http, "ADMIN_ADDR": s.admin}[name]
	})
	if err := os.WriteFile(filepath.Join(dir, "weir.yaml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	// Not the binary of the scripts: the race detector needs memory of its own.
	weir := filepath.Join(dir, "weir")
	if out, err := exec.Command("go", "build", "-o", weir, "weir/cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("build weir: %v\n%s", err, out)
	}
	var err error
	s.server, err = startServer(weir, dir, filepath.Join(dir, "weir.log"), os.Environ(), "-c", "weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.server.kill)
	if err := s.server.ready("http://" + s.admin); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(mediaDir, "bframes.flv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := readTags(f, func(tag tag) error { s.clip = append(s.clip, tag); return nil }); err != nil {
		t.Fatal(err)
	}
	return s
}

const soakConfig = `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
log: {level: warn}
policy:
  spaces:
    - name: default
      domains: [{name: "*"}]
      apps: [{name: live, hold: 1s, stale_after: 1s, idle_timeout: 3s, hls: {segment: 1s, idle: 2s}}]
`

// round lets visitors come and go for a while and waits until all have left.
func (s *soak) round(length time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	visits := []struct {
		name  string
		at    int // how many at a time
		visit func(ctx context.Context, r *rand.Rand, stream string) error
	}{
		{"publisher", 8, s.publisher},
		{"RTMP player", 12, s.rtmpPlayer},
		{"HTTP-FLV player", 12, s.flvPlayer},
		{"WebSocket player", 6, s.wsPlayer},
		{"HLS player", 6, s.hlsPlayer},
		{"stuck player", 3, s.stuckPlayer},
		{"babbler", 2, s.babbler},
	}
	var wg sync.WaitGroup
	for _, v := range visits {
		for i := range v.at {
			r := rand.New(rand.NewPCG(uint64(i), uint64(len(v.name))))
			wg.Go(func() { // ends with ctx
				for ctx.Err() == nil {
					stay, leave := context.WithTimeout(ctx, time.Duration(200+r.IntN(4000))*time.Millisecond)
					err := v.visit(stay, r, fmt.Sprintf("s%d", r.IntN(8)))
					leave()
					s.count(v.name, err)
					// Nobody comes twice in one moment, refused ones least of all.
					after(ctx, time.Duration(20+r.IntN(200))*time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
}

func (s *soak) count(who string, err error) {
	if err != nil {
		who += ", refused or cut off"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[who]++
}

// after waits for d or the end of ctx.
func after(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// publisher pushes in real time and leaves in one of the ways in which
// encoders do.
func (s *soak) publisher(ctx context.Context, r *rand.Rand, stream string) error {
	conn, err := rtmp.Dial(ctx, "rtmp://"+s.rtmp+"/live", rtmp.Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Publish(stream); err != nil {
		return err
	}
	start := time.Now()
	for base := int64(0); ctx.Err() == nil; base += 10_000 {
		for _, t := range s.clip {
			p := t.packet(base)
			after(ctx, time.Until(start.Add(time.Duration(p.DTS)*time.Millisecond)))
			if ctx.Err() != nil {
				break
			}
			if err := conn.WritePacket(p); err != nil {
				return err
			}
		}
	}
	switch r.IntN(4) {
	case 0: // orderly
		return conn.Unpublish(stream)
	case 1: // the connection is reset
		tcp, ok := conn.NetConn().(*net.TCPConn)
		if !ok {
			return errors.New("not TCP")
		}
		return tcp.SetLinger(0)
	case 2: // silence
		after(context.Background(), time.Duration(r.IntN(5000))*time.Millisecond)
	}
	return nil
}

func (s *soak) rtmpPlayer(ctx context.Context, r *rand.Rand, stream string) error {
	conn, err := rtmp.Dial(ctx, "rtmp://"+s.rtmp+"/live", rtmp.Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	if err := conn.Play(stream); err != nil {
		return err
	}
	for {
		if _, err := conn.ReadPacket(); err == io.EOF || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *soak) flvPlayer(ctx context.Context, r *rand.Rand, stream string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/live/"+stream+".flv", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	err = readTags(resp.Body, func(tag) error { return nil })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *soak) wsPlayer(ctx context.Context, r *rand.Rand, stream string) error {
	conn, _, _, err := ws.Dial(ctx, "ws://"+s.http+"/live/"+stream+".flv")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	io.Copy(io.Discard, conn)
	return nil
}

func (s *soak) hlsPlayer(ctx context.Context, r *rand.Rand, stream string) error {
	url := "http://" + s.http + "/live/" + stream
	for ctx.Err() == nil {
		list, err := get(http.MethodGet, url+".m3u8", http.StatusOK, nil)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(list)) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			if _, err := get(http.MethodGet, "http://"+s.http+"/live/"+line, http.StatusOK, nil); err != nil {
				return err
			}
		}
		after(ctx, 500*time.Millisecond)
	}
	return nil
}

// stuckPlayer asks for a stream and reads nothing of it.
func (s *soak) stuckPlayer(ctx context.Context, r *rand.Rand, stream string) error {
	conn, err := net.Dial("tcp", s.http)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /live/%s.flv HTTP/1.1\r\nHost: %s\r\n\r\n", stream, s.http); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// babbler sends what is neither RTMP nor HTTP.
func (s *soak) babbler(ctx context.Context, r *rand.Rand, stream string) error {
	conn, err := net.Dial("tcp", []string{s.rtmp, s.http}[r.IntN(2)])
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b := make([]byte, 1+r.IntN(5000))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0] = 3 // sometimes a handshake's first byte
	if r.IntN(2) == 0 {
		b[0] = 'G'
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	io.Copy(io.Discard, conn)
	return nil
}

// usage is what the process holds.
type usage struct {
	goroutines, descriptors int
	heap, resident          int // bytes
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %.1f MiB, resident %.1f MiB",
		u.goroutines, u.descriptors, float64(u.heap)/(1<<20), float64(u.resident)/(1<<20))
}

// exceeds reports what of u is more than allowed after a time when it was base.
func (u usage) exceeds(base usage) error {
	switch {
	case base == usage{}:
		return nil
	case u.goroutines > base.goroutines+5, u.descriptors > base.descriptors,
		u.heap > base.heap*115/100+4<<20, u.resident > base.resident*115/100+4<<20:
		return fmt.Errorf("%v; before, %v", u, base)
	}
	return nil
}

// idle waits until nobody is there and the process holds no more than base.
func (s *soak) idle(base usage) (u usage, err error) {
	err = poll(90*time.Second, func() error {
		// Collects garbage, too: the profile asks for it.
		if _, err := get(http.MethodGet, "http://"+s.admin+"/debug/pprof/heap?gc=1", http.StatusOK, nil); err != nil {
			return err
		}
		m, err := s.metrics()
		if err != nil {
			return err
		}
		for _, name := range []string{"weir_publishers", "weir_players", "weir_panics_recovered_total"} {
			if m[name] != 0 {
				return fmt.Errorf("%s is %v", name, m[name])
			}
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.server.cmd.Process.Pid))
		if err != nil {
			return err
		}
		u = usage{
			goroutines:  int(m["go_goroutines"]),
			descriptors: len(fds),
			heap:        int(m["go_memstats_heap_alloc_bytes"]),
			resident:    int(m["process_resident_memory_bytes"]),
		}
		if base == (usage{}) && u.goroutines > 100 {
			return fmt.Errorf("not idle yet: %v", u)
		}
		return u.exceeds(base)
	})
	return u, err
}

// metrics returns the server's metrics, those of one name added up.
func (s *soak) metrics() (map[string]float64, error) {
	body, err := get(http.MethodGet, "http://"+s.admin+"/metrics", http.StatusOK, nil)
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range bytes.Lines(body) {
		fields := strings.Fields(string(line))
		if len(fields) != 2 || fields[0] == "#" {
			continue
		}
		name, _, _ := strings.Cut(fields[0], "{")
		v, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return nil, err
		}
		m[name] += v
	}
	return m, nil
}
