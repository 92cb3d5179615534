//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/media/mpegts"
	"weir/internal/media/rtmp"
	"weir/internal/storage"
	"weir/internal/storage/storagetest"
)

// machine is a weir that can be killed and started again.
type machine struct {
	t                 *testing.T
	dir               string
	rtmp, http, admin string
	program           string // to run; by default the one for the race detector
	server            *server
}

// newMachine makes the folder of one, with a configuration in which $RTMP_ADDR and the
// like are expanded.
func newMachine(t *testing.T, config string, vars map[string]string) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), program: filepath.Join(binDir, "weir")}
	for name, addr := range map[string]*string{"RTMP_ADDR": &m.rtmp, "HTTP_ADDR": &m.http, "ADMIN_ADDR": &m.admin} {
		var err error
		if *addr, err = freeAddr(); err != nil {
			t.Fatal(err)
		}
		config = strings.ReplaceAll(config, "$"+name, *addr)
	}
	for name, value := range vars {
		config = strings.ReplaceAll(config, "$"+name, value)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "weir.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) start() {
	m.t.Helper()
	s, err := startServer(m.program, m.dir, filepath.Join(m.dir, "weir.log"), append(os.Environ(), "GORACE=halt_on_error=0"), "-c", "weir.yaml")
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = s
	m.t.Cleanup(s.kill)
	if err := s.ready("http://" + m.admin); err != nil {
		m.t.Fatal(err)
	}
}

// weir runs the command line.
func (m *machine) weir(args ...string) string {
	m.t.Helper()
	cmd := exec.Command(m.program, args...)
	cmd.Dir, cmd.Env = m.dir, append(os.Environ(), "WEIR_SERVER=http://"+m.admin, "WEIR_DATA=data")
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("weir %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// metric returns the value of a metric that has no labels.
func (m *machine) metric(name string) (value int) {
	m.t.Helper()
	text, err := get(http.MethodGet, "http://"+m.admin+"/metrics", http.StatusOK, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, text, _ := strings.Cut(string(text), "\n"+name+" "); text != "" {
		if _, err := fmt.Sscan(text, &value); err == nil {
			return value
		}
	}
	m.t.Fatalf("there is no metric %s", name)
	return 0
}

// push pushes a clip in real time until ctx is done or the server is, and returns how many
// frames of picture went out. It ends in order if it came to the clip's end.
func (m *machine) push(ctx context.Context, name string, clip []tag) (sent int) {
	m.t.Helper()
	conn, err := rtmp.Dial(ctx, "rtmp://"+m.rtmp+"/live", rtmp.Config{})
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Publish(name); err != nil {
		m.t.Fatal(err)
	}
	start := time.Now()
	for _, tag := range clip {
		p := tag.packet(0)
		select {
		case <-time.After(time.Until(start.Add(time.Duration(p.DTS) * time.Millisecond))):
		case <-ctx.Done():
			return sent
		}
		if conn.WritePacket(p) != nil {
			return sent
		}
		if isFrame(tag) {
			sent++
		}
	}
	conn.Unpublish(name)
	return sent
}

// isFrame says whether a tag is a frame of H.264.
func isFrame(t tag) bool { return t.typ == 9 && len(t.body) > 5 && t.body[1] == 1 }

func readClip(t *testing.T, name string) (clip []tag) {
	t.Helper()
	err := readFile(filepath.Join(mediaDir, name), func(tag tag) error { clip = append(clip, tag); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return clip
}

// numbers gives the frames of a clip their number, by what is in them: of each
// that of its last slice.
func numbers(clip []tag) map[[32]byte]int {
	m := map[[32]byte]int{}
	for _, t := range clip {
		if isFrame(t) {
			m[slice(t.body[5:])] = len(m)
		}
	}
	return m
}

// slice is the sum of the last NAL unit of a frame with lengths of 4 bytes.
func slice(frame []byte) [32]byte {
	var last []byte
	for len(frame) >= 4 {
		n := int(frame[0])<<24 | int(frame[1])<<16 | int(frame[2])<<8 | int(frame[3])
		last, frame = frame[4:4+n], frame[4+n:]
	}
	return sha256.Sum256(bytes.TrimRight(last, "\x00"))
}

// recorded returns the numbers of the frames in an HLS recording.
func recorded(t *testing.T, get func(key string) []byte, key string, number map[[32]byte]int) (frames []int) {
	t.Helper()
	list, err := m3u8.Parse(get(key))
	if err != nil {
		t.Fatal(err)
	}
	d := mpegts.NewDemuxer(nil)
	for _, s := range list.Segments {
		d.Continue(bytes.NewReader(get(path.Join(path.Dir(key), s.URI))))
		for {
			p, err := d.ReadPacket()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind != av.Video || p.Config {
				continue
			}
			n, ok := number[slice(p.Frame)]
			if !ok {
				t.Fatal("the recording has a frame that was not pushed")
			}
			frames = append(frames, n)
		}
	}
	return frames
}

// listener gathers callbacks.
type listener struct {
	*httptest.Server
	t     *testing.T
	told  chan told // of each about a recording, the first time
	again chan told // and the others

	mu      sync.Mutex
	bodies  map[string][]byte // by the id of the event
	hear    func(told)        // unless nil, is called before one about a recording is answered
	instead func()            // unless nil, is done instead of answering the next one
}

type told struct {
	Status int `json:"status"`
	text   string
}

func newListener(t *testing.T) *listener {
	l := &listener{t: t, bodies: map[string][]byte{}, told: make(chan told, 100), again: make(chan told, 100)}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		id, event := r.Header.Get("Weir-Event-Id"), r.Header.Get("Weir-Event-Type")
		l.mu.Lock()
		before, again := l.bodies[id]
		l.bodies[id] = body
		l.mu.Unlock()
		if again && !bytes.Equal(before, body) {
			t.Errorf("event %s was told as\n%s\nand as\n%s", id, before, body)
		}
		if !strings.HasPrefix(event, "record") {
			return
		}
		c := told{text: event + " " + string(body)}
		if err := json.Unmarshal(body, &c); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		l.mu.Lock()
		hear, instead := l.hear, l.instead
		l.instead = nil
		l.mu.Unlock()
		if hear != nil {
			hear(c)
		}
		if again {
			l.again <- c
		} else {
			l.told <- c
		}
		if instead != nil {
			instead()
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(l.Close)
	return l
}

// wait returns the first n callbacks about recordings.
func (l *listener) wait(n int, limit time.Duration) (list []told) {
	l.t.Helper()
	deadline := time.After(limit)
	for len(list) < n {
		select {
		case c := <-l.told:
			list = append(list, c)
		case <-deadline:
			l.t.Fatalf("%d callbacks about recordings, want %d: %v", len(list), n, list)
		}
	}
	return list
}

// I6, F22: the server is killed every few seconds, at random moments, and the
// push returns in the window: one file of each format, with all but the last second
// before each kill, and callbacks that say the same however often they come.
// WEIR_LONG=1 kills it 20 times.
func TestRecordKills(t *testing.T) {
	t.Parallel()
	kills := 5
	if os.Getenv("WEIR_LONG") != "" {
		kills = 20
	}
	l := newListener(t)
	m := newMachine(t, `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
policy:
  spaces:
    - name: default
      domains: [{name: "*"}]
      callback_delivery: {allow_networks: [127.0.0.0/8]}
      apps:
        - name: live
          hold: 0s
          record: {mode: automatic, splice: 15s, segment: 2s, hls: {callback: "$URL/hls"}, mp4: {enabled: true, callback: "$URL/mp4"}}
`, map[string]string{"URL": l.URL})
	clip := readClip(t, "av.flv")
	number := numbers(clip)
	var sent []int
	for range kills {
		m.start()
		server := m.server
		time.AfterFunc(time.Duration(700+rand.IntN(4300))*time.Millisecond, server.kill)
		sent = append(sent, m.push(t.Context(), "s", clip))
		<-server.exited
	}
	m.start()
	sent = append(sent, m.push(t.Context(), "s", clip))
	// It is killed once more, instead of being answered about the first file.
	server := m.server
	l.mu.Lock()
	l.instead = server.kill
	l.mu.Unlock()
	select {
	case <-server.exited:
	case <-time.After(time.Minute):
		t.Fatal("no callback came")
	}
	m.start()
	list := l.wait(2, time.Minute)
	select {
	case <-l.again:
	case <-time.After(time.Minute):
		t.Error("the callback that was not answered did not come again")
	}
	if err := m.server.stop(); err != nil {
		t.Error(err)
	}
	root := filepath.Join(m.dir, "data", "recordings")
	get := func(key string) []byte {
		b, err := os.ReadFile(filepath.Join(root, key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	files, err := filepath.Glob(filepath.Join(root, "record/live/s/*/s-*.m*"))
	if err != nil || len(files) != 2 || len(l.told) != 0 {
		t.Fatalf("files %q, callbacks %v", files, list)
	}
	key, err := filepath.Rel(root, files[0])
	if err != nil {
		t.Fatal(err)
	}
	// Each push is there from its first frame on, up to a second before its end at the least.
	var got []int
	for i, n := range recorded(t, get, key, number) {
		if n == 0 {
			got = append(got, 0)
		}
		if n != 0 && (len(got) == 0 || got[len(got)-1] != n) {
			t.Fatalf("frame %d of the recording is %d of its push, after %d", i, n, got)
		}
		got[len(got)-1]++
	}
	lost := 0
	for i := range min(len(got), len(sent)) {
		if d := sent[i] - got[i]; d < 0 || d > 25 || i == kills && d != 0 {
			t.Errorf("push %d: %d frames are there of %d", i, got[i], sent[i])
		}
		lost += sent[i] - got[i]
	}
	if len(got) != len(sent) {
		t.Errorf("%d pushes are there of %d", len(got), len(sent))
	}
	t.Logf("sent %d, there %d: %d frames lost by %d kills", sent, got, lost, kills)
	for _, f := range files {
		if _, err := output("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", f, "-f", "null", "-"); err != nil {
			t.Error(err)
		}
	}
}

// Two nodes, with one NATS that is not theirs and one bucket. One is killed in the
// middle of a push, for good; the other finishes the recording, of all that was
// uploaded, with MP4 and FLV. It takes the 20 s for which a node is believed to be there.
func TestRecordOnAnotherNode(t *testing.T) {
	t.Parallel()
	s3 := storagetest.S3(t)
	nats, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(patience) {
		t.Fatal("NATS is not ready")
	}
	l := newListener(t)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{
		"URL": l.URL, "NATS": nats.ClientURL(), "S3": "http://" + s3, "KEYS": keys,
		"ACCESS": storagetest.AccessKey, "SECRET": storagetest.SecretKey,
	}
	const config = `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
node: $NODE
nats: {url: $NATS}
secrets: {key_file: $KEYS}
record: {take_over: 1s}
policy:
  buckets:
    - {name: shared, type: s3, endpoint: $S3, bucket: weir, access_key: $ACCESS, secret_key: "$SECRET", allow_networks: [127.0.0.0/8]}
  spaces:
    - name: default
      domains: [{name: "*"}]
      callback_delivery: {allow_networks: [127.0.0.0/8]}
      apps:
        - name: live
          hold: 0s
          record: {mode: automatic, splice: 3s, segment: 1s, hls: {callback: "$URL/hls"}, mp4: {enabled: true, callback: "$URL/mp4"}, flv: {enabled: true, callback: "$URL/flv"}}
`
	vars["NODE"] = "a"
	a := newMachine(t, config, vars)
	a.start()
	vars["NODE"] = "b"
	b := newMachine(t, config, vars)
	b.start()
	clip := readClip(t, "av.flv")
	killed := a.server
	time.AfterFunc(6300*time.Millisecond, killed.kill)
	sent := a.push(t.Context(), "s", clip)
	<-killed.exited
	list := l.wait(3, 90*time.Second)
	if err := b.server.stop(); err != nil {
		t.Error(err)
	}
	for _, c := range list {
		if c.Status != 3 {
			t.Errorf("callback %s", c.text)
		}
	}
	bucket, err := storage.OpenS3(storagetest.Bucket(s3), storage.S3Options{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string) []byte {
		body, _, err := bucket.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	objects, err := bucket.List(t.Context(), "record/", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{} // by extension
	for _, o := range objects {
		if ext := path.Ext(o.Key); ext != ".ts" {
			if files[ext] != "" {
				t.Errorf("both %s and %s", files[ext], o.Key)
			}
			files[ext] = o.Key
		}
	}
	frames := recorded(t, get, files[".m3u8"], numbers(clip))
	want := make([]int, len(frames))
	for i := range want {
		want[i] = i
	}
	// At most the segment that was being written, and the one that was being uploaded.
	if !slices.Equal(frames, want) || sent-len(frames) > 55 {
		t.Errorf("%d frames are there of %d: %v", len(frames), sent, frames)
	}
	for _, ext := range []string{".mp4", ".flv"} {
		file := filepath.Join(t.TempDir(), "file"+ext)
		if err := os.WriteFile(file, get(files[ext]), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := output("ffprobe", "-v", "error", "-count_packets", "-select_streams", "v", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", file)
		if err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(len(frames)) {
			t.Errorf("%s has %s frames, want %d: %v", ext, out, len(frames), err)
		}
		if _, err := output("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", file, "-f", "null", "-"); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d frames pushed, %d there", sent, len(frames))
}

// Clips of a recording in a bucket on S3, while it is made and afterwards: they have what
// was pushed, over a splice, hls.js plays one in Chromium, and what they name outlives the
// recording, and not them.
func TestClipsOnS3(t *testing.T) {
	t.Parallel()
	s3 := storagetest.S3(t)
	m := newMachine(t, `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
policy:
  buckets:
    - {name: remote, type: s3, endpoint: $S3, bucket: weir, access_key: $ACCESS, secret_key: "$SECRET", allow_networks: [127.0.0.0/8]}
  spaces:
    - name: default
      domains: [{name: "*"}]
      apps:
        - {name: live, hold: 0s, max_lead: 1m, record: {mode: automatic, splice: 5m, segment: 4s}}
`, map[string]string{"S3": "http://" + s3, "ACCESS": storagetest.AccessKey, "SECRET": storagetest.SecretKey})
	m.start()
	weir := m.weir
	source := filepath.Join(mediaDir, "bframes.flv")
	pushed, err := decodeAll(t, source, "va")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := output("ffmpeg", "-nostdin", "-v", "error", "-readrate", "5", "-i", source, "-c", "copy", "-f", "flv", "rtmp://"+m.rtmp+"/live/s"); err != nil {
			t.Fatal(err)
		}
	}
	// There is a key frame every two seconds.
	check := func(name string, from, to int) {
		t.Helper()
		url := strings.TrimSpace(weir("clips", "url", "s", name))
		if strings.HasPrefix(url, "/") {
			url = "http://" + m.http + url
		}
		got, err := decodeAll(t, url, "va")
		if err != nil {
			t.Fatal(err)
		}
		var want, have []string
		for n := from; n < to; n++ {
			want = append(want, pushed[0][n%len(pushed[0])].hash)
		}
		for _, f := range got[0] {
			have = append(have, f.hash)
		}
		if !slices.Equal(have, want) {
			t.Errorf("clip %s has %d frames, not frames %d to %d of what was pushed", name, len(have), from, to)
		}
	}
	weir("clips", "create", "s", "--start", "6.5", "--end", "13.5", "--format", "hls", "--as", "running", "--wait", "60s")
	check("running", 150, 350)
	weir("clips", "create", "s", "--start", "2.5", "--end", "13.5", "--as", "file", "--wait", "60s")
	check("file", 50, 350)
	weir("recordings", "stop", "s")
	var recording string
	if err := poll(patience, func() error {
		for line := range strings.Lines(weir("recordings", "s")) {
			if name, _, _ := strings.Cut(line, " "); strings.HasSuffix(name, ".m3u8") {
				recording = name
				return nil
			}
		}
		return errors.New("the recording is not finished")
	}); err != nil {
		t.Fatal(err)
	}
	weir("clips", "create", "s", recording, "--start", "3", "--end", "14", "--format", "hls", "--as", "finished", "--wait", "60s")
	check("finished", 50, 350)

	out, err := output("node", "browser/change.mjs", "http://"+m.http+strings.TrimSpace(weir("clips", "url", "s", "running")), "8")
	if err != nil {
		t.Fatal(err)
	}
	var played struct{ Played, Discontinuities int }
	if err := json.Unmarshal(out, &played); err != nil || played.Played < 5 || played.Discontinuities != 2 {
		t.Errorf("hls.js in Chromium: %s, %v", out, err)
	}

	objects := func() (names []string) {
		for o := range storagetest.Client(t, s3).ListObjectsIter(t.Context(), "weir", minio.ListObjectsOptions{Prefix: "record/", Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			names = append(names, o.Key)
		}
		return names
	}
	weir("recordings", "delete", "s", recording)
	check("running", 150, 350)
	check("finished", 50, 350)
	if names := objects(); slices.ContainsFunc(names, func(name string) bool { return path.Base(name) == recording }) {
		t.Errorf("the recording is still there: %q", names)
	}
	for _, name := range []string{"running", "file", "finished"} {
		weir("clips", "delete", "s", name)
	}
	if names := objects(); len(names) > 0 {
		t.Errorf("%q are left", names)
	}
	if err := m.server.stop(); err != nil {
		t.Error(err)
	}
}
