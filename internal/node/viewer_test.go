package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Eyevinn/hls-m3u8/m3u8"
	"github.com/asticode/go-astits"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"weir/internal/access"
	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
)

// Configurations of a real encoder: 640x360 and 48 kHz stereo, and 320x180
// and 44.1 kHz stereo.
var (
	avcConfig = avcRecord("\x67\x42\xc0\x1e\xda\x02\x80\xbf\xe5\xc0\x44\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x58\xba\x80", "\x68\xce\x0f\x2c\x80")
	aacConfig = []byte{0x11, 0x90}

	otherAVCConfig = avcRecord("\x67\x42\xc0\x0d\xda\x05\x07\xec\x04\x40\x00\x00\x03\x00\x40\x00\x00\x0c\x83\xc5\x0a\xa8", "\x68\xce\x3c\x80")
	otherAACConfig = []byte{0x12, 0x10}
)

func avcRecord(sps, pps string) []byte {
	return (&av.AVCConfig{LengthSize: 4, SPS: [][]byte{[]byte(sps)}, PPS: [][]byte{[]byte(pps)}}).Append(nil)
}

// encoder publishes a stream whose every frame says which it is, and at what
// time of the film.
type encoder struct {
	*world
	app, name string
	conn      *rtmp.Conn
	shift     int64 // of its clock against the time of the film, ms
	step      int64 // from frame to frame, ms
	noAudio   bool
	noVideo   bool
	noKeys    bool
	crowd     *audience // that it waits for now and then; nil: for nobody
	n         atomic.Int64
}

// dialRTMP connects as a client that means well.
func (w *world) dialRTMP(app string) *rtmp.Conn {
	w.t.Helper()
	c, err := rtmp.Dial(w.t.Context(), w.url("rtmp", "/"+app), rtmp.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// encoder begins to publish a stream.
func (w *world) encoder(app, name string) *encoder {
	w.t.Helper()
	e := &encoder{world: w, app: app, name: name, step: 40}
	e.begin()
	return e
}

// begin connects and publishes, also when it has done so before.
func (e *encoder) begin() {
	e.t.Helper()
	e.conn = e.dialRTMP(e.app)
	e.t.Cleanup(e.vanish)
	if err := e.conn.Publish(e.name); err != nil {
		e.t.Fatal(err)
	}
}

// sent returns the number of the newest frame.
func (e *encoder) sent() int { return int(e.n.Load()) }

// send sends a tag body. What goes wrong shows at the players.
func (e *encoder) send(k av.Kind, at int64, tag []byte) {
	e.conn.WritePacket(av.Packet{Kind: k, DTS: at + e.shift, Tag: tag})
}

func (e *encoder) configure() {
	e.send(av.Data, 0, flv.AppendMetadata(nil, amf.Object{{Name: "width", Value: 640.0}, {Name: "height", Value: 360.0}}))
	if !e.noVideo {
		e.send(av.Video, 0, flv.AppendVideo(nil, av.H264, true, true, 0, avcConfig))
	}
	if !e.noAudio {
		e.send(av.Audio, 0, flv.AppendAudio(nil, av.AAC, true, aacConfig))
	}
}

// stamp is the content of the next frame.
func (e *encoder) stamp(at int64) []byte {
	if e.crowd != nil && e.sent()%50 == 49 { // nobody is to fall behind
		e.crowd.reach(e.sent())
	}
	return fmt.Appendf(nil, "#%d@%d;", e.n.Add(1), at)
}

func (e *encoder) video(at int64, key bool, cts int32) {
	nal := []byte{0x41, 0x9A}
	if key {
		nal = []byte{0x65, 0x88}
	}
	nal = append(nal, e.stamp(at)...)
	e.send(av.Video, at, flv.AppendVideo(nil, av.H264, key, false, cts, unit(nal)))
}

func (e *encoder) audio(at int64) {
	e.send(av.Audio, at, flv.AppendAudio(nil, av.AAC, false, append([]byte{0x21}, e.stamp(at)...)))
}

// unit is a NAL unit under its length.
func unit(nal []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(nal))), nal...)
}

// film sends what lies between two moments of the film: frames of video, those
// at whole seconds key frames, and as many of audio.
func (e *encoder) film(from, to int64) {
	for at := (from + e.step - 1) / e.step * e.step; at < to; at += e.step {
		if !e.noVideo {
			e.video(at, at%1000 == 0 && !e.noKeys, 0)
		}
		if !e.noAudio {
			e.audio(at + e.step/2)
		}
	}
}

// goOn goes on with the film in real time, from its second second, until the
// function it returns is called.
func (e *encoder) goOn() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		tick, begin, at := time.NewTicker(10*time.Millisecond), time.Now(), int64(1000)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				to := 1000 + time.Since(begin).Milliseconds()
				e.film(at, to)
				at = to
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// leave ends the stream in an orderly way.
func (e *encoder) leave() {
	e.t.Helper()
	if err := e.conn.Unpublish(e.name); err != nil {
		e.t.Errorf("unpublish %s: %v", e.name, err)
	}
	e.vanish()
}

// vanish ends the connection without a word.
func (e *encoder) vanish() { e.conn.NetConn().Close() }

// everyWay is all protocols that a player may use.
var everyWay = []string{access.RTMP, access.FLV, access.WSFLV, access.HLS}

// audience is players of one stream.
type audience struct {
	*world
	viewers []*viewer
	poller  *poller // nil: nobody watches by HLS
}

// watch makes players of a stream, one of each protocol, and returns when the
// server has them all.
func (w *world) watch(app, name string, ways ...string) *audience {
	w.t.Helper()
	a := &audience{world: w}
	w.t.Cleanup(a.leave)
	before := w.hub.Stats().Players
	for _, way := range ways {
		if way == access.HLS {
			a.poller = newPoller(w.url("http", "/"+app+"/"+name+"/index.m3u8"))
			w.until("HLS begins", func() bool { return w.log.packs(app + "/" + name) })
			continue
		}
		v := &viewer{way: way, done: make(chan struct{}), clocks: clocks{allowNegativeCTS: true}}
		r, leave, err := w.play(way, app, name)
		if err != nil {
			w.t.Fatalf("play %s by %s: %v", name, way, err)
		}
		v.leave = leave
		go v.run(r) // ends with the connection
		a.viewers = append(a.viewers, v)
	}
	w.until("all play", func() bool { return w.hub.Stats().Players-before >= int64(len(a.viewers)) })
	return a
}

// play plays a stream by RTMP or FLV.
func (w *world) play(way, app, name string) (av.Reader, func(), error) {
	path := "/" + app + "/" + name + ".flv"
	switch way {
	case access.RTMP:
		c := w.dialRTMP(app)
		if err := c.Play(name); err != nil {
			c.Close()
			return nil, nil, err
		}
		return c, func() { c.Close() }, nil
	case access.WSFLV:
		conn, br, _, err := ws.Dialer{}.Dial(w.t.Context(), "ws"+strings.TrimPrefix(w.url("http", path), "http"))
		if err != nil {
			return nil, nil, err
		}
		in := io.Reader(conn)
		if br != nil {
			in = io.MultiReader(br, conn)
		}
		r := &wsutil.Reader{Source: in, State: ws.StateClientSide}
		return flv.NewReader(readerFunc(func(b []byte) (int, error) {
			for {
				n, err := r.Read(b)
				if n > 0 {
					return n, nil
				}
				if err != nil && err != io.EOF && err != wsutil.ErrNoFrameAdvance {
					return 0, err
				}
				if h, err := r.NextFrame(); err != nil || h.OpCode != ws.OpBinary {
					return 0, io.EOF
				}
			}
		})), func() { conn.Close() }, nil
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: patience}}
	resp, err := client.Get(w.url("http", path))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != 200 {
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return nil, nil, fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return flv.NewReader(resp.Body), func() { resp.Body.Close() }, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// reach waits until every player of a live stream has seen frame n.
func (a *audience) reach(n int) {
	a.t.Helper()
	for _, v := range a.viewers {
		var err error
		seen := func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			err = v.err
			return v.seq >= n || err != nil
		}
		until(a.t, fmt.Sprintf("the player by %s sees frame %d", v.way, n), 4*patience, seen)
		if err != nil {
			a.t.Fatalf("player by %s: %v\n%s", v.way, err, a.log.tail())
		}
	}
}

// heard reports whether all players have had a frame of audio.
func (a *audience) heard() bool {
	for _, v := range a.viewers {
		v.mu.Lock()
		t := v.tracks[av.Audio]
		v.mu.Unlock()
		if t == nil {
			return false
		}
	}
	return true
}

// strict says whether it is an error if a player misses a frame from now on.
func (a *audience) strict(on bool) {
	for _, v := range a.viewers {
		v.mu.Lock()
		v.strict = on
		v.mu.Unlock()
	}
}

// judge fails the test if a player has seen anything that it should not.
func (a *audience) judge() {
	a.t.Helper()
	for _, v := range a.viewers {
		v.mu.Lock()
		err := v.err
		if err == nil {
			err = v.inTime()
		}
		v.mu.Unlock()
		if err != nil {
			a.t.Fatalf("player by %s: %v\n%s", v.way, err, a.log.tail())
		}
	}
	if a.poller != nil {
		if err := a.poller.failure(); err != nil {
			a.t.Fatalf("player by hls: %v", err)
		}
	}
}

// over waits until the stream is over for every player, and judges.
func (a *audience) over() {
	a.t.Helper()
	for _, v := range a.viewers {
		select {
		case <-v.done:
		case <-time.After(4 * patience):
			a.t.Fatalf("the player by %s has not been told that the stream is over", v.way)
		}
	}
	if a.poller != nil {
		until(a.t, "the playlist ends", 4*patience, func() bool { return a.poller.over() || a.poller.failure() != nil })
	}
	for _, v := range a.viewers {
		if v.err == io.EOF {
			v.err = nil
		}
	}
	a.judge()
	a.leave()
}

// leave ends the players.
func (a *audience) leave() {
	for _, v := range a.viewers {
		v.leave()
		<-v.done
	}
	if a.poller != nil {
		a.poller.leave()
	}
}

// clocks judges the times of a stream as a player sees them (I10).
type clocks struct {
	allowNegativeCTS bool // RTMP and FLV carry what the encoder sent
	tracks           map[av.Kind]*clock
}

type clock struct {
	last   int64 // DTS
	offset int64 // of the newest frame's DTS to the film, ms
}

// frame takes a frame with its times in units of 1/scale ms.
func (c *clocks) frame(k av.Kind, dts, pts, scale, film int64) error {
	if c.tracks == nil {
		c.tracks = make(map[av.Kind]*clock)
	}
	t := c.tracks[k]
	if t == nil {
		t = &clock{last: dts - 1}
		c.tracks[k] = t
	}
	if scale == 90 { // 33 bits
		d := (dts - t.last) << (64 - 33) >> (64 - 33)
		dts, pts = t.last+d, pts-dts+t.last+d
	}
	switch {
	case dts < 0:
		return fmt.Errorf("%v at %d", k, dts)
	case dts <= t.last:
		return fmt.Errorf("%v at DTS %d after %d", k, dts, t.last)
	case pts < dts && !c.allowNegativeCTS:
		return fmt.Errorf("%v of DTS %d is shown at %d", k, dts, pts)
	}
	t.last, t.offset = dts, dts/scale-film
	return nil
}

// inTime says whether sound and picture are as far apart as they were in the film.
func (c *clocks) inTime() error {
	v, a := c.tracks[av.Video], c.tracks[av.Audio]
	if v != nil && a != nil && max(v.offset-a.offset, a.offset-v.offset) > 100 {
		return fmt.Errorf("video is %d ms from the film and audio %d", v.offset, a.offset)
	}
	return nil
}

var stampForm = regexp.MustCompile(`#(\d+)@(-?\d+);`)

// stamps returns the numbers of the frames in b and the film's time of the first.
func stamps(b []byte) (seqs []int, at int64) {
	for i, m := range stampForm.FindAllSubmatch(b, -1) {
		seq, _ := strconv.Atoi(string(m[1]))
		if seqs = append(seqs, seq); i == 0 {
			at, _ = strconv.ParseInt(string(m[2]), 10, 64)
		}
	}
	return seqs, at
}

// viewer is a player by RTMP, FLV or WebSocket-FLV.
type viewer struct {
	way   string
	leave func()
	done  chan struct{} // closed when the stream is over or has failed

	mu sync.Mutex
	clocks
	strict  bool
	seq     int // of the newest frame
	frames  int
	missed  int
	configs int // codec configurations
	meta    amf.Object
	err     error // io.EOF: the stream is over
}

func (v *viewer) run(r av.Reader) {
	defer close(v.done)
	for {
		p, err := r.ReadPacket()
		v.mu.Lock()
		if err == nil {
			err = v.take(p)
		}
		if err != nil {
			if v.err == nil {
				v.err = err
			}
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
	}
}

func (v *viewer) take(p av.Packet) error {
	switch {
	case p.Kind == av.Data:
		if flv.IsMetadata(p) {
			v.meta = flv.Metadata(p)
		}
		return nil
	case p.Config:
		v.configs++
		return nil
	case p.Side:
		return nil
	}
	v.frames++
	seqs, at := stamps(p.Frame)
	if len(seqs) == 0 { // it says nothing
		at = p.DTS
	} else {
		if v.seq > 0 && seqs[0] != v.seq+1 {
			v.missed++
			if v.strict || seqs[0] <= v.seq {
				return fmt.Errorf("frame %d after %d", seqs[0], v.seq)
			}
		}
		v.seq = seqs[0]
	}
	if p.Kind == av.Video && v.tracks[av.Video] == nil && !p.Key {
		return errors.New("the picture does not begin with a key frame")
	}
	return v.frame(p.Kind, p.DTS, p.PTS(), 1, at)
}

// poller is a player by HLS that remembers all it has seen (I9).
type poller struct {
	url    string
	client *http.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu sync.Mutex
	clocks
	list     *m3u8.MediaPlaylist // the newest
	status   int                 // of the newest answer
	segments map[string]*listed  // by URI
	seen     map[int]bool        // frames
	breaks   int                 // discontinuities
	keyless  int                 // segments with a picture that do not begin with a key frame
	err      error
}

// listed is a segment that was in a playlist.
type listed struct {
	sequence uint64
	info     m3u8.MediaSegment
	data     []byte
	last     time.Time     // when it was last in one
	longest  time.Duration // of the playlists that had it
}

func newPoller(url string) *poller {
	ctx, cancel := context.WithCancel(context.Background())
	p := &poller{
		url: url, client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}, cancel: cancel, done: make(chan struct{}),
		segments: make(map[string]*listed), seen: make(map[int]bool),
	}
	go func() { // ends with ctx or a failure
		defer close(p.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			err := p.poll(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				p.mu.Lock()
				p.err = err
				p.mu.Unlock()
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return p
}

func (p *poller) leave() {
	p.cancel()
	<-p.done
	p.client.CloseIdleConnections()
}

func (p *poller) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// over reports whether the playlist has ended, or there never was one and
// there is no stream any more.
func (p *poller) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list != nil && p.list.Closed || p.list == nil && p.status == 403
}

// get returns what is at the URL.
func (p *poller) get(ctx context.Context, url string) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := p.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// poll looks at the playlist, at its new segments, and at those that must not
// be gone yet (RFC 8216, 6.2.2).
func (p *poller) poll(ctx context.Context) error {
	status, body, err := p.get(ctx, p.url)
	if err != nil {
		return err
	}
	now := time.Now()
	p.mu.Lock()
	p.status = status
	old := p.list
	p.mu.Unlock()
	if status != 200 {
		return nil // there is none yet, or no more
	}
	l, kind, err := m3u8.DecodeFrom(bytes.NewReader(body), true)
	if err != nil || kind != m3u8.MEDIA {
		return fmt.Errorf("playlist: %w\n%s", err, body)
	}
	list := l.(*m3u8.MediaPlaylist)
	// The parser raises what it read to the longest segment, rounded up.
	_, tag, _ := bytes.Cut(body, []byte("#EXT-X-TARGETDURATION:"))
	if _, err := fmt.Sscanf(string(tag), "%d\n", &list.TargetDuration); err != nil {
		return fmt.Errorf("target duration: %w\n%s", err, body)
	}
	segments := list.GetAllSegments()
	if old != nil {
		switch {
		case list.SeqNo < old.SeqNo || list.DiscontinuitySeq < old.DiscontinuitySeq:
			return fmt.Errorf("sequence %d, discontinuity %d after %d, %d", list.SeqNo, list.DiscontinuitySeq, old.SeqNo, old.DiscontinuitySeq)
		case list.TargetDuration != old.TargetDuration:
			return fmt.Errorf("target duration %d after %d", list.TargetDuration, old.TargetDuration)
		}
	}
	total := 0.0
	for _, s := range segments {
		total += s.Duration
	}
	for i, s := range segments {
		seq := list.SeqNo + uint64(i)
		known := p.segments[s.URI]
		if known == nil {
			status, data, err := p.get(ctx, p.folder()+s.URI)
			if err != nil || status != 200 {
				return fmt.Errorf("new segment %s: %d, %w", s.URI, status, err)
			}
			known = &listed{sequence: seq, info: *s, data: data}
			p.mu.Lock()
			p.segments[s.URI] = known
			if s.Discontinuity {
				p.breaks++
			}
			err = p.examine(data)
			p.mu.Unlock()
			if err != nil {
				return fmt.Errorf("segment %s: %w", s.URI, err)
			}
		}
		switch {
		case math.Round(s.Duration) > float64(list.TargetDuration):
			return fmt.Errorf("segment %s of %.3f s, target duration %d", s.URI, s.Duration, list.TargetDuration)
		case known.sequence != seq || known.info.Duration != s.Duration || known.info.Discontinuity != s.Discontinuity:
			return fmt.Errorf("segment %s was number %d, %+v and is number %d, %+v", s.URI, known.sequence, known.info, seq, s)
		}
		known.last, known.longest = now, max(known.longest, time.Duration(total*float64(time.Second)))
	}
	for uri, s := range p.segments {
		age := now.Sub(s.last)
		wanted := s.longest + time.Duration(s.info.Duration*float64(time.Second))
		if age == 0 || age > wanted {
			continue
		}
		status, data, err := p.get(ctx, p.folder()+uri)
		if err != nil || status != 200 && time.Since(s.last) < wanted || status == 200 && !bytes.Equal(data, s.data) {
			return fmt.Errorf("segment %s, listed %v ago: %d, %w", uri, age, status, err)
		}
	}
	p.mu.Lock()
	p.list = list
	p.mu.Unlock()
	return nil
}

func (p *poller) folder() string { return strings.TrimSuffix(p.url, path.Base(p.url)) }

// examine judges a segment as a transport stream. Times go on from segment to
// segment, discontinuity or not: that is more than HLS asks for.
func (p *poller) examine(data []byte) error {
	d := astits.NewDemuxer(context.Background(), bytes.NewReader(data), astits.DemuxerOptPacketSize(188))
	for frames, picture := 0, false; ; {
		u, err := d.NextData()
		if err == astits.ErrNoMorePackets {
			if frames == 0 {
				return errors.New("nothing in it")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if u.PES == nil {
			continue
		}
		h := u.PES.Header.OptionalHeader
		if h == nil || h.PTS == nil {
			return errors.New("a frame without time")
		}
		dts := h.PTS.Base
		if h.DTS != nil {
			dts = h.DTS.Base
		}
		kind := av.Audio
		if frames++; u.PES.Header.IsVideoStream() {
			if kind = av.Video; !picture && !bytes.Contains(u.PES.Data, []byte{0, 0, 1, 0x65}) {
				p.keyless++
			}
			picture = true
		}
		seqs, film := stamps(u.PES.Data)
		if len(seqs) == 0 {
			film = dts / 90
		}
		for _, n := range seqs {
			p.seen[n] = true
		}
		if err := p.frame(kind, dts, h.PTS.Base, 90, film); err != nil {
			return err
		}
	}
}

// whole fails the test if frames are missing between the first and the last
// that were in segments, or if the last is not that one.
func (p *poller) whole(t *testing.T, first, last int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []int
	for n := first; n <= last; n++ {
		if !p.seen[n] {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		t.Errorf("HLS lacks %d of the frames %d to %d: %v …; it has %d", len(missing), first, last, missing[:min(10, len(missing))], len(p.seen))
	}
}

// durations returns the segments' in the order of the playlists.
func (p *poller) durations() (all []float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.SortedFunc(maps.Values(p.segments), func(a, b *listed) int { return int(a.sequence) - int(b.sequence) })
	for _, s := range list {
		all = append(all, s.info.Duration)
	}
	return all
}
