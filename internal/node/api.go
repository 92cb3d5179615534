package node

import (
	"context"
	"fmt"
	"net"
	neturl "net/url"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/internal/api"
	"weir/internal/cluster"
	"weir/internal/policy"
)

// API is who may reach the API, besides those whom the listener lets in.
type API struct {
	// Hosts are names by which the admin listener is reached. It always answers
	// to IP addresses and localhost.
	Hosts []string `yaml:"hosts"`

	// Origins are those of pages of others that may call the API.
	Origins []string `yaml:"origins"`

	// HTTPS serves the API on the HTTPS listener, too.
	HTTPS bool `yaml:"https"`
}

// isAPI reports whether a path is one of the API.
func isAPI(path string) bool { return strings.HasPrefix(path, api.Prefix+"/") || path == api.Prefix }

// check calls add for everything that is wrong with a.
func (a *API) check(add func(path, format string, args ...any)) {
	for i, h := range a.Hosts {
		if name, ok := policy.CanonicalHost(h); !ok || strings.Contains(h, ":") || name == "" {
			add(fmt.Sprintf("api.hosts[%d]", i), "%.128q is not a host name such as weir.example.com", h)
		}
	}
	for i, o := range a.Origins {
		u, err := neturl.Parse(o)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != o || strings.ToLower(o) != o {
			add(fmt.Sprintf("api.origins[%d]", i), "%.128q is not an origin such as https://console.example.com, without a path and in small letters", o)
		}
	}
}

// TokenFile is where a node with this configuration writes the token of the
// command line on its machine, while it runs.
func (c *Config) TokenFile() (string, error) {
	dir, err := c.DataFolder()
	return filepath.Join(dir, tokenFile), err
}

const tokenFile = "token"

// AdminURL is where a client on this machine reaches the admin listener.
func (c *Config) AdminURL() string {
	host, port, err := net.SplitHostPort(string(c.Listen.Admin))
	if err != nil {
		return "http://127.0.0.1:8081"
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// newAPI makes the API of the node. While the store is away there are no tokens
// but the one of this machine.
func (n *Node) newAPI() error {
	n.tokens = api.NewTokens(n.bus.JetStream(), n.bus.Replicas(), n.log)
	ctx, cancel := context.WithTimeout(context.Background(), n.storeTime())
	defer cancel()
	if err := n.tokens.Load(ctx); err != nil {
		n.log.Warn("tokens cannot be read yet", "err", err)
	}
	if err := n.tokens.Local(n.data.sub(tokenFile)); err != nil {
		return err
	}
	n.nodes = cluster.NewNodes(n.bus.JetStream(), n.bus.Replicas(), n.log)
	if n.bus.Shared() {
		n.peers = cluster.NewPeers(n.bus.Conn(), n.nodes, n.name, n.secrets, n.log)
	}
	n.api = api.New(api.Options{
		Log: n.log, Version: n.cfg.Version, Node: n.name, Started: n.started,
		Tokens: n.tokens, Hub: n.hub, Sessions: n.sessions, HLS: n.hls, Gate: n.gate, Nodes: n.nodes, Peers: n.peers, Events: n.events,
		Cursors: api.NewCursors(n.bus.JetStream(), n.bus.Replicas()),
		Policy:  n.policy, Quality: n.quality, Stats: n.stats, Callbacks: n.callbacks, Recorder: n.recorder, Transcoder: n.transcoder, Config: n.config, Self: n.self,
		Pictures: api.Pictures{Now: n.snapshots.Now, Latest: n.snapshots.Latest, Stored: n.snapshots.Stored, All: n.snapshots.All, FFmpeg: n.ffmpeg.Health},
		Hosts:    n.cfg.API.Hosts, Origins: n.cfg.API.Origins,
	})
	return nil
}

// runAPI does what the API needs done, until ctx ends.
func (n *Node) runAPI(ctx context.Context) {
	if n.FirstToken != nil {
		n.tokens.Loaded = func(ctx context.Context) error { return n.tokens.First(ctx, n.name, n.FirstToken) }
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { n.tokens.Run(ctx) })
	tasks.Go(func() { n.nodes.Run(ctx, n.self) })
	if n.peers != nil {
		tasks.Go(func() {
			if err := n.peers.Serve(ctx, n.api.Answer); ctx.Err() == nil {
				n.log.Error("other nodes get no answers of this one", "err", err)
			}
		})
	}
	tasks.Wait()
	if err := api.RemoveLocal(n.data.sub(tokenFile)); err != nil {
		n.log.Warn("the local token's file stays", "err", err)
	}
}

// load is what a node had done when it last said how much it does.
type load struct {
	mu      sync.Mutex
	at      time.Time
	in, out int64
	cpu     time.Duration
	last    cluster.Node
}

// self says how this node does. Rates are since it was last asked, a second
// ago at least.
func (n *Node) self() cluster.Node {
	l, now := &n.load, time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.at) < time.Second && !l.at.IsZero() {
		return l.last
	}
	hub, hls := n.hub.Stats(), n.hls.Stats()
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	memory := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(memory)
	in, out := hub.BytesIn, hub.BytesOut+hls.BytesOut
	me := cluster.Node{
		Name: n.name, Version: n.cfg.Version, Started: n.started, Seen: now, Addresses: make(map[string]string), Ready: n.ready.Load(),
		Streams: hub.Streams, Publishers: hub.Publishers, Players: hub.Players,
		Memory: int64(memory[0].Value.Uint64() - memory[1].Value.Uint64()),
	}
	if what := n.degraded(); what != "" {
		me.Degraded = []string{what}
	}
	for name, ln := range n.listeners {
		me.Addresses[name] = ln.Addr().String()
	}
	if seconds := now.Sub(l.at).Seconds(); !l.at.IsZero() {
		me.BitsIn, me.BitsOut = int64(float64(in-l.in)*8/seconds), int64(float64(out-l.out)*8/seconds)
		me.CPU = (cpu - l.cpu).Seconds() / seconds
	}
	l.at, l.in, l.out, l.cpu, l.last = now, in, out, cpu, me
	return me
}

// config returns the configuration for the API.
func (n *Node) config() []byte {
	c := *n.cfg
	c.Policy = nil
	return policy.Encoding{Full: true}.JSON(&c)
}
