//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/mp4"
	"weir/internal/media/mpegts"
	"weir/internal/media/rtmp"
	"weir/internal/storage/storagetest"
)

// readSegments turns an FLV file into the segments of a recording, cut at key frames.
func readSegments(t *testing.T, name string) (segments [][]byte) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, m := flv.NewReader(f), mpegts.NewMuxer(0)
	for n := 0; ; n++ {
		p, err := r.ReadPacket()
		if err == io.EOF {
			last, _ := m.Cut()
			return append(segments, last)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n > 10 && (p.Kind == av.Video && p.Key && !p.Config || p.Kind == av.Audio && n%400 == 0 && strings.Contains(name, "audio")) {
			segment, _ := m.Cut()
			segments = append(segments, segment)
		}
		if err := m.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
}

// copySegments gives the packets of segments to w.
func copySegments(t *testing.T, w av.Writer, segments [][]byte) {
	t.Helper()
	d := mpegts.NewDemuxer(bytes.NewReader(segments[0]))
	for i := range segments {
		if i > 0 {
			d.Continue(bytes.NewReader(segments[i]))
		}
		if err := av.Copy(w, d); err != nil {
			t.Fatal(err)
		}
	}
}

// writer returns how a file in parts is written.
func writer(t *testing.T, name string, size int) func(int, []byte) error {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func(n int, data []byte) error {
		_, err := f.WriteAt(data, int64(n-1)*int64(size))
		return err
	}
}

// decoded is what FFmpeg decodes of one track of a file: the sums of the frames
// and when each is shown, from the first one of the first track on.
type decoded struct {
	sums  []string
	times []float64
}

func decode(t *testing.T, file, kind string) (d decoded) {
	t.Helper()
	if out, err := output("ffprobe", "-v", "error", "-select_streams", kind, "-show_entries", "stream=index", "-of", "csv=p=0", file); err != nil || len(out) == 0 {
		return d
	}
	out, err := output("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-err_detect", "explode", "-copyts", "-i", file, "-map", "0:"+kind+"?", "-fps_mode", "passthrough", "-enc_time_base", "1:1000", "-f", "framemd5", "-")
	if err != nil {
		t.Fatal(err)
	}
	scale := 0.0
	for line := range strings.Lines(string(out)) {
		if m := regexp.MustCompile(`^#tb 0: (\d+)/(\d+)`).FindStringSubmatch(line); m != nil {
			num, _ := strconv.ParseFloat(m[1], 64)
			den, _ := strconv.ParseFloat(m[2], 64)
			scale = num / den
		}
		f := strings.Split(strings.TrimSpace(line), ",")
		if strings.HasPrefix(line, "#") || len(f) < 6 {
			continue
		}
		pts, err := strconv.ParseFloat(strings.TrimSpace(f[2]), 64)
		if err != nil {
			t.Fatal(err)
		}
		d.sums = append(d.sums, f[5])
		d.times = append(d.times, pts*scale)
	}
	return d
}

// TestFiles makes MP4 and FLV files of what clients push, through segments as
// a recording has them: FFmpeg decodes all of it, exactly once, at the same times;
// mp4box.js reads the index before the media; Chromium plays and seeks.
func TestFiles(t *testing.T) {
	for _, clip := range []string{"av.flv", "bframes.flv", "mp3.flv", "video.flv", "audio.flv", "hevc-hvc1.flv", "opus.flv"} {
		t.Run(clip, func(t *testing.T) {
			t.Parallel()
			source, dir := filepath.Join(mediaDir, clip), t.TempDir()
			segments := readSegments(t, source)

			const size = 64 << 10 // small parts, so that there are many
			m := mp4.NewMuxer(writer(t, dir+"/file.mp4", size), mp4.Options{PartSize: size, Duration: 10 * time.Second})
			copySegments(t, m, segments)
			info, err := m.Close()
			if err != nil {
				t.Fatal(err)
			}
			if !info.InFront || info.Dropped > 0 {
				t.Errorf("MP4: %+v", info)
			}
			const flvSize = 256 << 10
			f := flv.NewFileMuxer(writer(t, dir+"/file.flv", flvSize), flv.FileOptions{PartSize: flvSize, Duration: 10 * time.Second})
			copySegments(t, f, segments)
			if _, err := f.Close(); err != nil {
				t.Fatal(err)
			}

			judged := source
			enhanced := strings.HasPrefix(clip, "hevc") || clip == "opus.flv" // FFmpeg reads that in FLV since 6.1 only
			if enhanced {
				name, _, _ := strings.Cut(strings.TrimSuffix(clip, ".flv"), "-")
				judged = filepath.Join(mediaDir, name+".mp4")
			}
			for _, name := range []string{"file.mp4", "file.flv"} {
				file := filepath.Join(dir, name)
				var first [2][2]float64
				if enhanced && name == "file.flv" {
					continue
				}
				for i, kind := range []string{"v", "a"} {
					want, got := decode(t, judged, kind), decode(t, file, kind)
					if !slices.Equal(got.sums, want.sums) {
						t.Errorf("%s: %d frames of %s, not the %d of the source, or not the same", name, len(got.sums), kind, len(want.sums))
						continue
					}
					if len(want.times) == 0 {
						continue
					}
					first[0][i], first[1][i] = want.times[0], got.times[0]
					worst := 0.0
					for j := range want.times {
						worst = max(worst, math.Abs(got.times[j]-got.times[0]-(want.times[j]-want.times[0])))
					}
					if worst > 0.002 {
						t.Errorf("%s: %s is up to %.1f ms away from where it was", name, kind, worst*1000)
					}
				}
				apart := 0.003
				if clip == "opus.flv" {
					apart += 0.0065 // FLV does not say how much of its beginning is not to be heard
				}
				if away := first[1][0] - first[1][1] - (first[0][0] - first[0][1]); first[0] != [2]float64{} && math.Abs(away) > apart && clip != "video.flv" && clip != "audio.flv" {
					t.Errorf("%s: picture and sound are %.1f ms apart that were not", name, away*1000)
				}
			}
			checkBoxes(t, dir+"/file.mp4", info)
			if clip == "bframes.flv" || clip == "mp3.flv" || clip == "opus.flv" {
				playFile(t, dir+"/file.mp4", info, "1", "9", "4.5")
			}
		})
	}
}

// TestFileOfSixHours records six hours, pushed in a minute or two, in a bucket on S3. Of
// that alone weir makes an MP4 and an FLV: it reads each segment once for each, and takes
// less than 100 MB of memory. FFmpeg, mp4box.js and Chromium open the MP4 and go to any
// place in it. It takes some minutes: WEIR_LONG=1.
func TestFileOfSixHours(t *testing.T) {
	if os.Getenv("WEIR_LONG") == "" {
		t.Skip("set WEIR_LONG=1")
	}
	dir := t.TempDir()
	clip := filepath.Join(dir, "clip.flv")
	args := strings.Fields("-nostdin -v error -y -f lavfi -i testsrc2=size=128x72:rate=25 " + noise + "-t 10 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -sc_threshold 0 -b:v 40k -maxrate 40k -bufsize 40k -bf 2 -g 50 -c:a aac -b:a 32k -ac 1")
	if _, err := output("ffmpeg", append(args, clip)...); err != nil {
		t.Fatal(err)
	}
	const hours, loops, length = 6, 360, 10_000 // of an hour, ms
	var tags []tag
	info := mp4.Info{Tracks: []mp4.Track{{Width: 128}, {}}}
	err := readFile(clip, func(tag tag) error {
		if tag.timestamp < length {
			tags = append(tags, tag)
			if tag.isFrame() && tag.typ == 9 {
				info.Tracks[0].Samples += hours * loops
			} else if tag.isFrame() {
				info.Tracks[1].Samples += hours * loops
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	s3 := storagetest.S3(t)
	var mu sync.Mutex
	reads := map[string]int{}
	counted := storagetest.Middleman(t, s3, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodGet && path.Ext(r.URL.Path) == ".ts" {
			mu.Lock()
			defer mu.Unlock()
			reads[r.URL.Path]++
		}
		return false
	})
	m := newMachine(t, `listen: {rtmp: $RTMP_ADDR, http: $HTTP_ADDR, admin: $ADMIN_ADDR}
data: data
limits: {publisher_packets: 1000000}
policy:
  buckets:
    - {name: remote, type: s3, endpoint: $S3, bucket: weir, access_key: $ACCESS, secret_key: "$SECRET", allow_networks: [127.0.0.0/8]}
  spaces:
    - name: default
      domains: [{name: "*"}]
      apps:
        - {name: live, hold: 0s, max_lead: 1h, record: {mode: automatic, splice: 10m, cut: 7h, mp4: {enabled: true}, flv: {enabled: true}}}
`, map[string]string{"S3": "http://" + counted, "ACCESS": storagetest.AccessKey, "SECRET": storagetest.SecretKey})
	m.program = filepath.Join(dir, "weir") // without the race detector, which needs memory
	if _, err := output("go", "build", "-o", m.program, "weir/cmd/weir"); err != nil {
		t.Fatal(err)
	}
	m.start()
	for range hours {
		conn, err := rtmp.Dial(t.Context(), "rtmp://"+m.rtmp+"/live", rtmp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Publish("s"); err != nil {
			t.Fatal(err)
		}
		pace := time.NewTicker(40 * time.Millisecond)
		for i := range loops {
			<-pace.C
			for _, tag := range tags {
				if i > 0 && !tag.isFrame() {
					continue
				}
				if err := conn.WritePacket(tag.packet(int64(i) * length)); err != nil {
					t.Fatal(err)
				}
			}
		}
		pace.Stop()
		if err := conn.Unpublish("s"); err != nil {
			t.Fatal(err)
		}
		if err := poll(patience, func() error { // until it has read all of that
			if m.metric("weir_recordings") > 0 {
				return errors.New("the push goes on")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	var spooled []string
	if err := poll(time.Minute, func() error {
		var err error
		spooled, err = filepath.Glob(filepath.Join(m.dir, "data", "record", "*", "*.ts"))
		if n := m.metric("weir_record_uploads_total"); err != nil || n != len(spooled) {
			return fmt.Errorf("%d segments are uploaded of %d", n, len(spooled))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.server.stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range spooled {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	memory := func(which string) (kB int) {
		t.Helper()
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.server.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(status), which+":")
		if _, err := fmt.Sscan(text, &kB); err != nil {
			t.Fatal(err)
		}
		return kB
	}
	idle := memory("VmRSS")
	began := time.Now()
	m.weir("recordings", "stop", "s")
	var keys []string // of MP4 and FLV
	if err := poll(3*time.Minute, func() error {
		log, err := os.ReadFile(filepath.Join(m.dir, "weir.log"))
		keys = nil
		for _, found := range regexp.MustCompile(`recording is there.*key=(\S+\.(?:mp4|flv))`).FindAllSubmatch(log, -1) {
			keys = append(keys, string(found[1]))
		}
		if err == nil && len(keys) < 2 {
			err = fmt.Errorf("there are the files %q", keys)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	most := memory("VmHWM") - idle
	if most > 100_000 {
		t.Errorf("making the files took %d kB of memory", most)
	}
	mu.Lock()
	defer mu.Unlock() // nobody reads segments any more
	if len(reads) != len(spooled) {
		t.Errorf("%d segments were read of %d", len(reads), len(spooled))
	}
	for name, n := range reads {
		if n != len(keys) {
			t.Errorf("%s was read %d times for %d files", name, n, len(keys))
		}
	}

	file, flvFile := filepath.Join(dir, "file.mp4"), filepath.Join(dir, "file.flv")
	for i, name := range []string{file, flvFile} {
		if err := storagetest.Client(t, s3).FGetObject(t.Context(), "weir", keys[i], name, minio.GetObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if stat, err := os.Stat(file); err == nil {
		info.Size = stat.Size()
	}
	t.Logf("an MP4 of %d bytes and %d pictures, and an FLV, of %d segments, each read once for each, in %v; at most %d kB of memory more than the %d of before", info.Size, info.Tracks[0].Samples, len(spooled), took, most, idle)
	text, err := output("ffprobe", "-v", "error", "-show_entries", "format=duration:stream=nb_frames", "-of", "csv=p=0", file)
	if err != nil {
		t.Fatal(err)
	}
	var counts [2]int
	var seconds float64
	if _, err := fmt.Sscan(string(text), &counts[0], &counts[1], &seconds); err != nil {
		t.Fatalf("ffprobe says %s, %v", text, err)
	}
	if counts[0] != info.Tracks[0].Samples || counts[1] != info.Tracks[1].Samples || math.Abs(seconds-hours*3600) > 1 {
		t.Errorf("ffprobe says %s, want %+v", text, info.Tracks)
	}
	info.Duration = time.Duration(seconds * float64(time.Second))
	text, err = output("ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", flvFile)
	// It counts what fills the room of the index as a track of data.
	for _, track := range info.Tracks {
		if err != nil || !slices.Contains(strings.Fields(string(text)), fmt.Sprint(track.Samples)) {
			t.Errorf("ffprobe says %s of the FLV, %v, want %d", text, err, track.Samples)
		}
	}
	for _, at := range []string{"0", "3599.5", "10800", "21595"} {
		if _, err := output("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-ss", at, "-i", file, "-t", "4", "-f", "null", "-"); err != nil {
			t.Error(err)
		}
	}
	checkBoxes(t, file, info)
	playFile(t, file, info, "1", "10800", "21590", "3600.5")
}

// checkBoxes lets mp4box.js read the file, piece after piece. What info does not say of
// bytes and durations is not compared.
func checkBoxes(t *testing.T, file string, info mp4.Info) {
	t.Helper()
	out, err := output("node", "browser/boxes.mjs", file)
	if err != nil {
		t.Fatal(err)
	}
	var found struct {
		Ready  int
		Tracks []struct {
			Codec                   string
			Samples, Expected, Keys int
			Bytes                   int64
			Duration                float64
		}
	}
	if err := json.Unmarshal(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:], &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found.Ready < 0 || int64(found.Ready) > info.Size/10 || len(found.Tracks) != len(info.Tracks) {
		t.Errorf("mp4box.js knew %d tracks of %d after %d bytes", len(found.Tracks), len(info.Tracks), found.Ready)
		return
	}
	for i, got := range found.Tracks {
		want := info.Tracks[i]
		known := want.Bytes > 0
		if got.Samples != want.Samples || got.Expected != want.Samples || known && (got.Bytes != want.Bytes || math.Abs(got.Duration-want.Duration.Seconds()) > 0.001) {
			t.Errorf("mp4box.js finds %+v, the track is %+v", got, want)
		}
	}
}

// playFile plays the file in Chromium at each of the times.
func playFile(t *testing.T, file string, info mp4.Info, seeks ...string) {
	t.Helper()
	out, err := output("node", append([]string{"browser/file.mjs", file}, seeks...)...)
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Duration      float64
		Width, Height int
		Seeks         []float64
	}
	if err := json.Unmarshal(out, &state); err != nil {
		t.Fatal(err)
	}
	if math.Abs(state.Duration-info.Duration.Seconds()) > 0.15 || state.Width != info.Tracks[0].Width {
		t.Errorf("Chromium sees %+v, the file has %+v", state, info)
	}
	for i, s := range seeks {
		if at, _ := strconv.ParseFloat(s, 64); state.Seeks[i] < at || state.Seeks[i] > at+3 {
			t.Errorf("Chromium is at %v after a seek to %s", state.Seeks[i], s)
		}
	}
}
