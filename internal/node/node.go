// Package node is the composition root: it makes every part of the server from
// a Config, starts them, and stops them in reverse.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"weir/internal/access"
	"weir/internal/api"
	"weir/internal/bus"
	"weir/internal/callback"
	"weir/internal/cluster"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/ffmpeg"
	"weir/internal/hls"
	"weir/internal/media/rtmp"
	"weir/internal/quality"
	"weir/internal/record"
	"weir/internal/session"
	"weir/internal/snapshot"
	"weir/internal/stats"
	"weir/internal/storage"
	"weir/internal/stream"
	"weir/internal/tracing"
	"weir/internal/transcode"
)

// Node is one server.
type Node struct {
	// FirstToken is called by Run, from a goroutine of its own, with the token of an
	// admin that is made if there has never been one: once the store of tokens is
	// reached, which may be late. With nil none is made. It is set before Run.
	FirstToken func(token string)

	cfg     *Config
	log     *slog.Logger
	cert    *certificate // nil without TLS
	watcher *watcher
	ready   atomic.Bool
	panics  atomic.Int64 // in HTTP requests

	listeners map[string]net.Listener // by name; those that are on
	conns     *connections            // of the media listeners

	name   string // of this node
	data   *dataFolder
	bus    *bus.Bus
	events *eventlog.Log
	policy *cluster.Policy

	awaited []sharedKey // which the start could not have

	callbacks *callback.Dispatcher
	endings   sync.Map // *event.Callback of the end of each *stream.Publication that is on the air

	gate     *access.Gate
	hub      *stream.Hub
	sessions *session.Server
	hls      *hls.Server
	signer   *storage.Signer
	buckets  *storage.Buckets
	spool    *os.File // that is locked for the recorder
	recorder *record.Recorder
	quality  *quality.Monitor
	stats    *stats.Book
	tracer   *tracing.Tracer // nil: nothing is traced
	metrics  *prometheus.Registry

	ffmpeg     *ffmpeg.Tool
	snapshots  *snapshot.Snapshotter
	transcoder *transcode.Transcoder

	api     *api.Server
	tokens  *api.Tokens
	nodes   *cluster.Nodes
	peers   *cluster.Peers // nil: there are no other nodes
	secrets *cluster.Keyring
	started time.Time
	load    load
}

// New makes a node: it opens the data folder, the event log and the listeners.
// The caller must Run it.
func New(cfg *Config, log *slog.Logger) (_ *Node, err error) {
	n := &Node{cfg: cfg, log: log, listeners: make(map[string]net.Listener), started: time.Now()}
	var files []string
	if cfg.File != "" {
		files = append(files, cfg.File)
	}
	if cfg.TLS.Cert != "" {
		n.cert = &certificate{files: cfg.TLS}
		if err := n.cert.load(); err != nil {
			return nil, err
		}
		files = append(files, cfg.TLS.Cert, cfg.TLS.Key)
	}
	n.name = cfg.nodeName()
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	if err := n.openEvents(); err != nil {
		return nil, err
	}
	if err := n.openSpool(); err != nil {
		return nil, err
	}
	if err := n.openPolicy(); err != nil {
		return nil, err
	}
	if err := n.refuseOpen(); err != nil {
		return nil, err
	}
	if err := n.listen(); err != nil {
		return nil, err
	}
	n.watcher = newWatcher(files, log)

	l := &cfg.Limits
	n.quality = quality.NewMonitor(quality.Options{Log: log, Emit: n.events.Emit, Callback: n.alertCallback})
	n.callbacks = callback.New(n.bus.JetStream(), n.events, n.policy.Set, callback.Options{Log: log, Node: n.name, Replicas: n.bus.Replicas(), Shared: n.bus.Shared()})
	s := &cfg.Statistics
	n.stats = stats.New(stats.Options{
		Log: log, JetStream: n.bus.JetStream(), Replicas: n.bus.Replicas(), Node: n.name,
		Keep: s.Keep, KeepMinutes: s.KeepMinutes, MaxBytes: int64(s.MaxSize),
	})
	hub := cfg.hub()
	hub.Log, hub.Began, hub.Ended = log, n.began, n.ended
	n.hub = stream.NewHub(hub)
	n.gate = access.NewGate(n.policy.Set)
	n.gate.Node = n.name
	n.gate.Lenient = !cfg.SlowFailures
	n.sessions = session.NewServer(n.hub, n.gate, session.Options{
		Log: log, RTMP: rtmp.Config{Limits: l.rtmp(), Log: log}, Publishers: l.Publishers, Players: l.Players,
		Facts: session.Facts{Emit: n.events.Emit, Flush: n.events.FlushPush, Callback: n.refusedCallback},
	})
	n.hls = hls.NewServer(n.hub, n.gate, hls.Options{Log: log, MaxBytes: cfg.hlsMemory(), Emit: n.events.Emit, Numbers: n.data.sub("hls_numbers")})
	if err := n.openTracer(); err != nil {
		return nil, err
	}
	n.openFFmpeg()
	if err := n.openRecorder(); err != nil {
		return nil, err
	}
	n.openSnapshots()
	n.openTranscoder()
	n.metrics = newMetrics(n)
	n.useKey("segments", "players of HLS need new playlists after a restart, and from each node their own", n.gate.SetTokenKey)
	if err := n.newAPI(); err != nil {
		return nil, err
	}
	n.policy.OnChange(n.obey)
	n.warn(cfg)
	n.buckets.Apply(n.Policy()) // it may have changed before we were told
	n.sessions.Recheck()
	n.comparePolicy(cfg)
	return n, nil
}

// abandon ends what New has made before it failed, the last first.
func (n *Node) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Grace)
	defer cancel()
	for _, ln := range n.listeners {
		ln.Close()
	}
	if n.hub != nil {
		n.hub.Close(ctx)
	}
	if n.hls != nil {
		n.hls.Close()
	}
	if n.snapshots != nil {
		n.snapshots.Close()
	}
	if n.ffmpeg != nil {
		n.ffmpeg.Close()
	}
	if n.recorder != nil {
		n.recorder.Close()
	}
	if n.watcher != nil {
		n.watcher.close()
	}
	if n.tokens != nil {
		n.tokens.Close()
	}
	n.tracer.Close(ctx)
	n.closeEvents(ctx)
	if n.buckets != nil {
		n.buckets.Close()
	}
}

// warn logs what is dangerous about a configuration.
func (n *Node) warn(cfg *Config) {
	for _, w := range cfg.Warnings() {
		n.log.Warn(w)
	}
}

// hlsMemory returns how many bytes HLS may hold.
func (c *Config) hlsMemory() int64 {
	if c.HLSMemory != 0 {
		return int64(c.HLSMemory)
	}
	return memory() / 4
}

// openTracer makes the tracer, if there is to be one.
func (n *Node) openTracer() (err error) {
	t := &n.cfg.Tracing
	if t.Endpoint == "" {
		return nil
	}
	n.tracer, err = tracing.Open(context.Background(), tracing.Options{
		Log: n.log, Endpoint: t.Endpoint, Authorization: t.Authorization.Reveal(), Sample: t.Sample, Node: n.gate.Node,
	})
	return err
}

// orNever is what a hub takes for "never" where we say 0.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// rtmp returns the limits of RTMP connections.
// hub returns the settings of the hub.
func (c *Config) hub() stream.Options {
	l := &c.Limits
	return stream.Options{
		GatherCeiling: orNever(c.GatherCeiling),
		NoIOURing:     !c.IOURing,
		SlowAfter:     l.SlowTime,
		SlowBytes:     int(l.SlowSize),
		StuckAfter:    l.StuckTime,
		GOPBytes:      int(l.GOPCache),
		GOPTime:       l.GOPCacheTime,
		MaxByteRate:   int(l.PublisherRate),
		MaxPacketRate: l.PublisherPackets,
	}
}

func (l *Limits) rtmp() rtmp.Limits {
	r := rtmp.DefaultLimits()
	r.Handshake, r.Setup = l.Handshake, l.CommandWait
	r.Command, r.Data, r.Audio, r.Video = int(l.CommandSize), int(l.DataSize), int(l.AudioSize), int(l.VideoSize)
	r.ChunkSize, r.ChunkStreams, r.Partial = int(l.ChunkSize), l.ChunkStreams, int(l.PartialSize)
	r.MessageStreams, r.AMFDepth, r.AMFElements = l.MessageStreams, l.AMFDepth, l.AMFValues
	r.Answers, r.Junk = l.Answers, l.Junk
	return r
}

// listen opens all listeners that are on.
func (n *Node) listen() error {
	n.conns = newConnections(n.cfg.Limits.ConnectionsPerIP, n.cfg.TrustedProxies)
	for _, l := range n.cfg.Listen.all() {
		if !l.addr.on() {
			continue
		}
		conns, proxies := n.conns, n.cfg.TrustedProxies
		if l.name == "admin" {
			conns, proxies = newConnections(0, nil), nil
		}
		ln, err := listen(l, proxies, conns, n.log)
		if err != nil {
			return err
		}
		if l.secure {
			ln = tls.NewListener(ln, n.cert.config())
		}
		n.listeners[l.name] = ln
	}
	return nil
}

// Addr returns where the listener of that name in Listen listens; nil where it
// is off.
func (n *Node) Addr(listener string) net.Addr {
	if ln := n.listeners[listener]; ln != nil {
		return ln.Addr()
	}
	return nil
}

// Run serves until ctx ends or a listener fails, and then shuts down: it stops
// accepting, ends publishers and players, and waits for them for at most the
// grace time.
func (n *Node) Run(ctx context.Context) error {
	if err := relaxSysmon(); err != nil {
		n.log.Debug("the runtime's monitor keeps its pace", "err", err)
	}
	media := n.httpServer(n.cfg.TrustedProxies.Handler(n.mediaHandler()))
	media.WriteTimeout = responseTime
	admin := n.httpServer(n.adminHandler())

	watching, stopWatching := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { n.watcher.run(watching, n.cfg.Reload, n.reload); return nil })
	watch.Go(func() error { return n.buckets.Run(watching) })
	watch.Go(func() error { n.runRetention(watching); return nil })
	watch.Go(func() error { n.runSnapshots(watching); return nil })
	watch.Go(func() error { n.checkEncoders(watching); return nil }) // ends when all have been tried
	watch.Go(func() error { n.awaitKeys(watching); return nil })     // ends when it has them

	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	var look errgroup.Group
	look.Go(func() error { n.quality.Run(looking); return nil })
	look.Go(func() error { n.stats.Run(looking); return nil })
	look.Go(func() error { n.runAPI(looking); return nil })

	telling, stopTelling := context.WithCancel(tracing.With(context.WithoutCancel(ctx), n.tracer))
	var tell errgroup.Group
	tell.Go(func() error { n.callbacks.Run(telling); return nil })

	// Each of these ends when its listener is closed.
	serve, serving := errgroup.WithContext(tracing.With(ctx, n.tracer))
	for name, ln := range n.listeners {
		serve.Go(func() error {
			var err error
			switch name {
			case "rtmp", "rtmps":
				err = n.sessions.ServeRTMP(serving, ln, name == "rtmps")
			case "http", "https":
				err = media.Serve(ln)
			case "admin":
				err = admin.Serve(ln)
			}
			if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listen.%s: %w", name, err)
			}
			return nil
		})
	}
	clean, _ := n.events.Before()
	n.emit(event.NodeStarted{Version: n.cfg.Version, Clean: clean})
	n.ready.Store(true)
	n.log.Info("weir serves", n.addrs()...)
	<-serving.Done()

	n.log.Info("shutting down", "grace", n.cfg.Grace)
	n.ready.Store(false)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Grace)
	defer cancel()
	stopWatching()
	watch.Wait()
	for name, ln := range n.listeners {
		if name != "admin" {
			ln.Close()
		}
	}
	late := n.hub.Close(grace)
	late = errors.Join(late, n.sessions.Close(grace))
	stopLooking()
	look.Wait()
	n.hls.Close()
	n.snapshots.Close()
	n.ffmpeg.Close()
	n.recorder.Close() // what is not uploaded is when the node starts again
	late = errors.Join(late, media.Shutdown(grace))
	media.Close()
	admin.Close()
	if late != nil {
		n.log.Warn("not all connections ended within the grace time", "grace", n.cfg.Grace)
	}
	err := serve.Wait()
	n.emit(event.NodeStopped{Reason: stopReason(err)})
	n.callbacks.Settle(grace)
	stopTelling()
	tell.Wait()
	if err := n.tracer.Close(grace); err != nil {
		n.log.Warn("the last traces were not sent", "err", err)
	}
	n.closeEvents(grace)
	n.buckets.Close()
	n.log.Info("weir has ended")
	return err
}

// stopReason is why a node stops whose listeners have ended with err.
func stopReason(err error) string {
	if err != nil {
		return err.Error()
	}
	return "asked to"
}

// addrs returns where the node listens, for the log.
func (n *Node) addrs() []any {
	var list []any
	for _, l := range n.cfg.Listen.all() {
		if a := n.Addr(l.name); a != nil {
			list = append(list, l.name, a.String())
		}
	}
	return list
}

// reload reads again what may change while the node runs: the certificate and,
// where the file rules, the policy. What is wrong is refused whole, and the old
// one stays. A publish keeps the policy that it began with, unless it would not be
// granted any more: then it ends.
func (n *Node) reload() {
	if n.cert != nil {
		if err := n.cert.load(); err != nil {
			n.log.Error("certificate refused; the one before stays", "err", err)
		} else {
			n.log.Info("certificate read")
		}
	}
	if n.cfg.File == "" {
		return
	}
	cfg, err := Load(n.cfg.File)
	if err != nil {
		n.log.Error("configuration refused; the policy before stays", "err", err)
		return
	}
	if n.cfg.DataGiven {
		cfg.Data = n.cfg.Data
	}
	if n.policy.FileRules() {
		if err := n.mayRule(cfg); err != nil {
			n.log.Error("configuration refused; the policy before stays", "err", err)
			return
		}
		n.policy.Replace(cfg.Policy)
		n.log.Info("policy read", "spaces", len(cfg.Policy.Spaces))
	} else {
		n.comparePolicy(cfg)
	}
	n.warn(cfg)
	if changed := changes(n.cfg, cfg); len(changed) > 0 {
		n.log.Warn("settings changed that need a restart", "settings", strings.Join(changed, ", "))
	}
}

// changes returns the names of the settings, policy aside, that differ.
func changes(a, b *Config) []string {
	var names []string
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range va.NumField() {
		name := va.Type().Field(i).Tag.Get("yaml")
		if name != "policy" && name != "" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}
