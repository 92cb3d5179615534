package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"weir/internal/access"
	"weir/internal/callback"
	"weir/internal/policy"
)

// Config is what an operator sets at start, and the policy to begin with. The
// yaml tags are the names of the settings in weir.yaml.
type Config struct {
	Listen Listen `yaml:"listen"`
	TLS    TLS    `yaml:"tls"`
	Log    Log    `yaml:"log"`
	Limits Limits `yaml:"limits"`

	Node string `yaml:"node"` // name of this node; empty: that of the host
	Data string `yaml:"data"` // folder for what has to outlive the process; empty: see DataFolder
	// PublicURL is how clients reach the HTTP listener of this node, the
	// beginning of the URLs of objects; empty: the URLs are paths.
	PublicURL string `yaml:"public_url"`

	API    API    `yaml:"api"`
	NATS   NATS   `yaml:"nats"`
	Events Events `yaml:"events"`

	GatherCeiling time.Duration `yaml:"gather_ceiling"` // how long bytes for players may gather at most
	IOURing       bool          `yaml:"io_uring"`       // write to many players in one system call, where the system can
	Grace         time.Duration `yaml:"grace"`          // how long shutting down may take

	// HLSMemory bounds the segments of all streams; 0 is a quarter of the memory.
	HLSMemory policy.Size `yaml:"hls_memory"`

	Metrics    Metrics    `yaml:"metrics"`
	Statistics Statistics `yaml:"statistics"`
	Tracing    Tracing    `yaml:"tracing"`

	// AllowOpenPublish lets anybody who can reach a listener publish at a
	// domain without authentication. Without it such a listener must be on
	// loopback.
	AllowOpenPublish bool `yaml:"allow_open_publish"`

	// TrustedProxies are the reverse proxies before the media listeners: what
	// they say about the addresses of clients is believed, by the PROXY
	// protocol and by X-Forwarded-For.
	TrustedProxies access.Proxies `yaml:"trusted_proxies"`

	// SlowFailures answers addresses whose authentication fails often more
	// slowly, and then for a while not at all.
	SlowFailures bool `yaml:"slow_failures"`

	Record Record `yaml:"record"`

	FFmpeg FFmpeg `yaml:"ffmpeg"`

	Transcode Transcode `yaml:"transcode"`

	Secrets      Secrets      `yaml:"secrets"`
	PolicySource PolicySource `yaml:"policy_source"`
	Policy       *policy.Set  `yaml:"policy"`

	File      string // that it was read from, or empty
	HasPolicy bool   // it has the section policy
	Self      string // program that calls ffmpeg.Sandbox when it is asked to; without it ffmpeg is not used
	Version   string // of the program
	DataGiven bool   // Data is not the file's, but of who has called the program

	// Reload makes the node read its files again, changed or not; nil: it is not
	// asked to.
	Reload <-chan os.Signal
}

// Listen is the addresses of the listeners.
type Listen struct {
	RTMP  Address `yaml:"rtmp"`
	RTMPS Address `yaml:"rtmps"`
	HTTP  Address `yaml:"http"`  // media
	HTTPS Address `yaml:"https"` // media
	Admin Address `yaml:"admin"` // API, health, metrics, profiles
}

// Transcode is what this machine does for live transcoding.
type Transcode struct {
	Max  int    `yaml:"max"`  // streams that are transcoded at a time; 0: as many as there are processors
	Font string `yaml:"font"` // file of the font of clocks on pictures; empty: DejaVu Sans, where Debian has it
}

// FFmpeg is the program that makes pictures and renditions.
type FFmpeg struct {
	Path       string `yaml:"path"`        // empty: the one in PATH; off: there is none
	ForkServer string `yaml:"fork_server"` // the library that makes pictures cheap; empty: the one beside weir; off
	Strict     bool   `yaml:"strict"`      // only where it can be kept from files and network altogether
	Pictures   int    `yaml:"pictures"`    // that are made at a time; 0: half as many as there are processors
}

// TLS names the files of the certificate of RTMPS and HTTPS, in PEM. They are
// read again when they change.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Metrics is what /metrics shows.
type Metrics struct {
	// Streams is of how many streams each has metrics of its own, those that
	// have been on the air for longest. 0: of none.
	Streams int `yaml:"streams"`
}

// Statistics says how long statistics are kept.
type Statistics struct {
	Keep        time.Duration `yaml:"keep"`         // by the hour
	KeepMinutes time.Duration `yaml:"keep_minutes"` // by the minute
	MaxSize     policy.Size   `yaml:"max_size"`
}

// Tracing is where traces go.
type Tracing struct {
	Endpoint      string        `yaml:"endpoint"`      // URL that takes OTLP over HTTP; empty: nothing is traced
	Authorization policy.Secret `yaml:"authorization"` // the header of that name
	Sample        float64       `yaml:"sample"`        // part of the traces that is kept
}

// check finds what is wrong with t.
func (t *Tracing) check(add func(path, format string, args ...any)) {
	if t.Endpoint != "" {
		u, err := neturl.Parse(t.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			add("tracing.endpoint", "must be a URL such as http://127.0.0.1:4318/v1/traces, or nothing")
		}
	}
	if !(t.Sample >= 0 && t.Sample <= 1) {
		add("tracing.sample", "must be 0 to 1, not %v", t.Sample)
	}
}

// Log is how the log is written to standard error.
type Log struct {
	Level  LogLevel  `yaml:"level"`
	Format LogFormat `yaml:"format"`
}

// Limits is what one client may cost. Sizes are of one message or buffer.
type Limits struct {
	Handshake      time.Duration `yaml:"handshake"`       // RTMP: the whole handshake
	CommandWait    time.Duration `yaml:"command_wait"`    // RTMP: from connect to publish or play
	CommandSize    policy.Size   `yaml:"command_size"`    // RTMP: a command message
	DataSize       policy.Size   `yaml:"data_size"`       // RTMP: a metadata message
	AudioSize      policy.Size   `yaml:"audio_size"`      // RTMP: an audio message
	VideoSize      policy.Size   `yaml:"video_size"`      // RTMP: a video message
	ChunkSize      policy.Size   `yaml:"chunk_size"`      // RTMP: a chunk
	ChunkStreams   int           `yaml:"chunk_streams"`   // RTMP: chunk streams with an unfinished message
	PartialSize    policy.Size   `yaml:"partial_size"`    // RTMP: bytes of unfinished messages
	MessageStreams int           `yaml:"message_streams"` // RTMP: message streams of a connection
	AMFDepth       int           `yaml:"amf_depth"`       // RTMP: objects within objects
	AMFValues      int           `yaml:"amf_values"`      // RTMP: values in one message
	Answers        int           `yaml:"answers"`         // RTMP: commands and pings answered in a second
	Junk           int           `yaml:"junk"`            // RTMP: messages of no use in a second; more are read slowly

	PublisherRate    policy.Size `yaml:"publisher_rate"`    // bytes a second of one publisher
	PublisherPackets int         `yaml:"publisher_packets"` // packets a second of one publisher

	GOPCache     policy.Size   `yaml:"gop_cache"` // a longer group of pictures is not kept for new players
	GOPCacheTime time.Duration `yaml:"gop_cache_time"`
	SlowTime     time.Duration `yaml:"slow_time"`  // a player further behind jumps to the newest key frame
	SlowSize     policy.Size   `yaml:"slow_size"`  // the same by bytes
	StuckTime    time.Duration `yaml:"stuck_time"` // a player that takes nothing for so long is disconnected

	HTTPHeaderTime   time.Duration `yaml:"http_header_time"`
	HTTPHeaderSize   policy.Size   `yaml:"http_header_size"`
	HTTPIdle         time.Duration `yaml:"http_idle"`          // a kept connection without a request
	ConnectionsPerIP int           `yaml:"connections_per_ip"` // over all media listeners; 0 is no limit
	Publishers       int           `yaml:"publishers"`         // at a time; 0 is no limit
	Players          int           `yaml:"players"`            // at a time, without those of HLS; 0 is no limit
}

// Record is how this machine records what apps want recorded.
type Record struct {
	Spool     string        `yaml:"spool"`      // folder of what is not uploaded yet; empty: record in the data folder
	SpoolSize policy.Size   `yaml:"spool_size"` // recording stops when it is full of what is not uploaded
	Sync      time.Duration `yaml:"sync"`       // how often what is written is put on the disk; 0: at the end of each segment
	Uploads   int           `yaml:"uploads"`    // segments being uploaded to one bucket at a time
	Files     int           `yaml:"files"`      // MP4 and FLV files being made for one bucket at a time
	GiveUp    time.Duration `yaml:"give_up"`    // a recording that could not be uploaded for so long has failed
	TakeOver  time.Duration `yaml:"take_over"`  // a node that is away for so long leaves its recordings to the others
}

// DefaultConfig is a server for the machine it runs on: it listens on loopback
// only and takes any stream of the app "live" under any host name.
func DefaultConfig() *Config {
	return &Config{
		Listen: Listen{
			RTMP:  "127.0.0.1:1935",
			HTTP:  "127.0.0.1:8080",
			Admin: "127.0.0.1:8081",
		},
		Limits: Limits{
			Handshake:      10 * time.Second,
			CommandWait:    10 * time.Second,
			CommandSize:    64 << 10,
			DataSize:       256 << 10,
			AudioSize:      1 << 20,
			VideoSize:      8 << 20,
			ChunkSize:      0xFFFFFF,
			ChunkStreams:   64,
			PartialSize:    16 << 20,
			MessageStreams: 16,
			AMFDepth:       16,
			AMFValues:      1024,
			Answers:        100,
			Junk:           10_000,

			PublisherRate:    32 << 20,
			PublisherPackets: 5000,

			GOPCache:     16 << 20,
			GOPCacheTime: 30 * time.Second,
			SlowTime:     4 * time.Second,
			SlowSize:     2 << 20,
			StuckTime:    10 * time.Second,

			HTTPHeaderTime: 5 * time.Second,
			HTTPHeaderSize: 16 << 10,
			HTTPIdle:       time.Minute,
		},
		Events:        Events{MaxAge: 30 * 24 * time.Hour, MaxSize: 10 << 30, JournalSize: 1 << 30},
		GatherCeiling: 150 * time.Millisecond,
		IOURing:       true,
		Statistics:    Statistics{Keep: 30 * 24 * time.Hour, KeepMinutes: 7 * 24 * time.Hour, MaxSize: 1 << 30},
		Tracing:       Tracing{Sample: 0.1},
		Grace:         10 * time.Second,
		SlowFailures:  true,
		Record:        Record{SpoolSize: 20 << 30, Sync: time.Second, Uploads: 4, Files: 1, GiveUp: 72 * time.Hour, TakeOver: 5 * time.Minute},
		PolicySource:  PolicyStore,
		Policy:        policy.Default(),
	}
}

// Load reads the configuration file at path; what the file does not set is as
// in DefaultConfig, but a policy section stands for itself. An error about what
// the file says is a *ConfigError.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseConfig(path, data)
	if err != nil {
		return nil, err
	}
	c.File = path
	for _, file := range append(c.NATS.files(), &c.TLS.Cert, &c.TLS.Key, &c.Data, &c.Secrets.KeyFile, &c.Record.Spool) {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return c, nil
}

// Verify reports whether the certificate that c names can be used, which Load
// does not try.
func (c *Config) Verify() error {
	if c.TLS.Cert == "" {
		return nil
	}
	return (&certificate{files: c.TLS}).load()
}

// parseConfig reads the text of the file of that name.
func parseConfig(file string, data []byte) (*Config, error) {
	c := DefaultConfig()
	var d policy.Decoder
	before := c.Policy
	d.YAML(data, c)
	c.HasPolicy = c.Policy != before
	if c.TLS.Cert != "" {
		for l, def := range map[*Address]Address{&c.Listen.RTMPS: "127.0.0.1:1936", &c.Listen.HTTPS: "127.0.0.1:8443"} {
			if *l == "" {
				*l = def
			}
		}
	}
	c.check(d.Add)
	if problems := d.Problems(); len(problems) > 0 {
		return nil, &ConfigError{file, problems}
	}
	return c, nil
}

// check calls add for everything that is wrong with c.
func (c *Config) check(add func(path, format string, args ...any)) {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		add("tls", "needs both cert and key")
	}
	for _, l := range c.Listen.all() {
		if l.secure && l.addr.on() && c.TLS.Cert == "" {
			add("listen."+l.name, "needs a certificate: set tls.cert and tls.key, or write off")
		}
	}
	for _, l := range c.exposed() {
		if _, d := openDomain(c.Policy); d != "" {
			add("listen."+l.name, "anybody who can reach %s could publish: the domain %q has no authentication; "+
				"give it one below publish, listen on 127.0.0.1, or set allow_open_publish: true", l.addr, d)
		}
	}
	c.checkListeners(add)
	c.Limits.check(func(name, format string, args ...any) { add("limits."+name, format, args...) })
	if c.Node != "" && !policy.ValidName(c.Node) {
		add("node", "%.128q is not a name: %s", c.Node, policy.NameForm)
	}
	if u, err := neturl.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "") {
		add("public_url", "must be such as https://live.example.com, without path")
	}
	c.API.check(add)
	c.NATS.check(add)
	between(add, "events.max_age", c.Events.MaxAge, time.Hour, 10*365*24*time.Hour)
	between(add, "events.max_size", c.Events.MaxSize, 16<<20, 1<<50)
	between(add, "events.journal_size", c.Events.JournalSize, 16<<20, 1<<40)
	if c.HLSMemory != 0 {
		between(add, "hls_memory", c.HLSMemory, 1<<20, 1<<50)
	}
	c.Tracing.check(add)
	between(add, "statistics.keep", c.Statistics.Keep, time.Hour, 10*365*24*time.Hour)
	between(add, "statistics.keep_minutes", c.Statistics.KeepMinutes, time.Hour, 10*365*24*time.Hour)
	between(add, "statistics.max_size", c.Statistics.MaxSize, 16<<20, 1<<50)
	between(add, "metrics.streams", c.Metrics.Streams, 0, 100_000)
	between(add, "gather_ceiling", c.GatherCeiling, 0, time.Second)
	between(add, "ffmpeg.pictures", c.FFmpeg.Pictures, 0, 256)
	between(add, "transcode.max", c.Transcode.Max, 0, 1024)
	between(add, "grace", c.Grace, 0, 10*time.Minute)
	c.Record.check(func(name, format string, args ...any) { add("record."+name, format, args...) })
	for _, p := range c.Policy.Problems() {
		add("policy."+p.Path, "%s", p.Message)
	}
}

func (r *Record) check(add func(path, format string, args ...any)) {
	between(add, "spool_size", r.SpoolSize, 16<<20, 1<<50)
	between(add, "sync", r.Sync, 0, time.Minute)
	between(add, "uploads", r.Uploads, 1, 1000)
	between(add, "files", r.Files, 1, 100)
	between(add, "give_up", r.GiveUp, time.Minute, 366*24*time.Hour)
	between(add, "take_over", r.TakeOver, time.Second, 366*24*time.Hour)
}

// Warnings returns what is dangerous or of no effect in c, though it is no mistake.
func (c *Config) Warnings() []string {
	var list []string
	for _, path := range c.Policy.Weak() {
		list = append(list, "policy."+path+" is easily guessed; take what this prints: openssl rand -hex 16")
	}
	for _, said := range c.Policy.Ignored() {
		list = append(list, "policy."+said)
	}
	for setting, file := range map[string]string{
		"tls.key": c.TLS.Key, "secrets.key_file": c.Secrets.KeyFile, "nats.credentials": c.NATS.Credentials,
		"nats.tls.key": c.NATS.TLS.Key, "nats.cluster.tls.key": c.NATS.Cluster.TLS.Key,
	} {
		if w := openKeyFile(setting, file); w != "" {
			list = append(list, w)
		}
	}
	slices.Sort(list)
	if c.Events.MaxAge < callback.Lifetime && c.Policy.HasCallbacks() {
		list = append(list, fmt.Sprintf("events.max_age is less than the %v for which callbacks are repeated: those of a receiver that is down for longer are lost", callback.Lifetime))
	}
	if c.File == "" || !c.Policy.HasSecrets() && c.Tracing.Authorization.IsZero() && c.NATS.Cluster.Password.IsZero() {
		return list
	}
	if info, err := os.Stat(c.File); err == nil && info.Mode().Perm()&0o004 != 0 {
		list = append(list, fmt.Sprintf("%s holds secrets and can be read by every user of this machine; run: chmod 640 %[1]s", c.File))
	}
	return list
}

// Lacks returns what the policy asks for and this machine cannot do, which a
// server says at its start.
func (c *Config) Lacks() (list []string) {
	_, err := exec.LookPath(cmp.Or(c.FFmpeg.Path, "ffmpeg"))
	if err == nil {
		return nil
	}
	for what, path := range map[string]string{"pictures will be taken": pictured(c.Policy), "renditions will be made": transcoded(c.Policy)} {
		if path != "" {
			list = append(list, fmt.Sprintf("policy.%s: no %s on this machine: %v; install ffmpeg, or set ffmpeg.path", path, what, err))
		}
	}
	slices.Sort(list)
	return list
}

// openKeyFile returns a warning about a file with a key that others than its
// owner may read or change; "" if there is nothing to warn of.
func openKeyFile(setting, file string) string {
	info, err := os.Stat(file)
	if file == "" || err != nil || info.Mode().Perm()&0o077 == 0 {
		return "" // who needs the file says that it cannot be read
	}
	return fmt.Sprintf("%s: %s is a secret, and others than its owner have rights to it (mode %04o); run: chmod 600 %[2]s", setting, file, info.Mode().Perm())
}

// openDomain returns the path and the name of a domain at which anybody may
// publish, or "".
func openDomain(set *policy.Set) (path, name string) {
	for i, s := range set.Spaces {
		for j, d := range s.Domains {
			if d.Type.Allows(policy.Publish) && d.Publish.Open() {
				return fmt.Sprintf("spaces[%d].domains[%d].publish", i, j), d.Name
			}
		}
	}
	return "", ""
}

// checkListeners finds listeners that want the same port.
func (c *Config) checkListeners(add func(path, format string, args ...any)) {
	all := c.Listen.all()
	for i, l := range all {
		for _, other := range all[:i] {
			if l.addr.takes(other.addr) {
				add("listen."+l.name, "%s takes the port of listen.%s, which is %s; set one of them to another port or to off", l.addr, other.name, other.addr)
				break
			}
		}
	}
}

// listener is one of the settings of Listen.
type listener struct {
	name    string
	addr    Address
	secure  bool // TLS
	publish bool // takes publishers
}

func (l *Listen) all() []listener {
	return []listener{
		{"rtmp", l.RTMP, false, true},
		{"rtmps", l.RTMPS, true, true},
		{"http", l.HTTP, false, false},
		{"https", l.HTTPS, true, false},
		{"admin", l.Admin, false, false},
	}
}

// check holds every limit within what makes sense: none may be switched off
// but those of connections.
func (l *Limits) check(add func(path, format string, args ...any)) {
	v := reflect.ValueOf(l).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		switch x := v.Field(i).Interface().(type) {
		case time.Duration:
			between(add, name, x, 100*time.Millisecond, 10*time.Minute)
		case policy.Size:
			between(add, name, x, 1<<10, 1<<30)
		case int:
			least, most := 1, 1_000_000
			switch name {
			case "connections_per_ip", "publishers", "players":
				least = 0
			case "amf_depth": // the decoder's stack grows with it
				most = 64
			}
			between(add, name, x, least, most)
		}
	}
	for name, size := range map[string]policy.Size{
		"command_size": l.CommandSize, "data_size": l.DataSize, "audio_size": l.AudioSize, "video_size": l.VideoSize, "chunk_size": l.ChunkSize,
	} {
		if size > 0xFFFFFF {
			add(name, "must be at most %d: an RTMP message has a length of 24 bits", 0xFFFFFF)
		}
	}
}

func between[T int | time.Duration | policy.Size](add func(path, format string, args ...any), path string, v, least, most T) {
	if v < least || v > most {
		add(path, "must be %v to %v, not %v", least, most, v)
	}
}

// Address is where a listener listens: an IP address or localhost and a port,
// a port alone for all addresses, or "off". The empty Address is off, too.
type Address string

func (a Address) on() bool { return a != "" && a != "off" }

// loopback reports whether only this machine can reach a.
func (a Address) loopback() bool {
	host, _, _ := net.SplitHostPort(string(a))
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// takes reports whether nobody can listen at b while a is listened at.
func (a Address) takes(b Address) bool {
	if !a.on() || !b.on() {
		return false
	}
	x, y := a.addrPort(), b.addrPort()
	all := x.Addr().IsUnspecified() || y.Addr().IsUnspecified()
	return x.Port() != 0 && x.Port() == y.Port() && (all || x.Addr() == y.Addr())
}

// addrPort returns a as it is listened at: 0.0.0.0 is [::] to package net, and
// localhost the IPv4 address.
func (a Address) addrPort() netip.AddrPort {
	host, port, _ := net.SplitHostPort(string(a))
	switch host {
	case "":
		host = "::"
	case "localhost":
		host = "127.0.0.1"
	}
	ip, _ := netip.ParseAddr(host)
	n, _ := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n))
}

func (a *Address) UnmarshalText(b []byte) error {
	form := errors.New("must be an address such as 127.0.0.1:1935, [::1]:1935 or :1935, or off")
	if string(b) != "off" {
		host, port, err := net.SplitHostPort(string(b))
		if err != nil {
			return form
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
			return form
		}
		if _, err := netip.ParseAddrPort("0.0.0.0:" + port); err != nil {
			return form
		}
	}
	*a = Address(b)
	return nil
}

// LogLevel is the least important level that is logged.
type LogLevel struct{ slog.Level }

func (l *LogLevel) UnmarshalText(b []byte) error {
	switch string(b) {
	case "debug", "info", "warn", "error":
		return l.Level.UnmarshalText(b)
	}
	return errors.New("must be debug, info, warn or error")
}

// LogFormat is text or json; when empty it is text.
type LogFormat string

func (f *LogFormat) UnmarshalText(b []byte) error {
	switch s := string(b); s {
	case "text", "json":
		*f = LogFormat(s)
		return nil
	}
	return errors.New("must be text or json")
}

// NewLogger returns the logger that c asks for, on standard error.
func (c *Log) NewLogger() *slog.Logger {
	opt := &slog.HandlerOptions{Level: c.Level.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opt))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opt))
}

// nodeName returns the name of this node.
func (c *Config) nodeName() string {
	if c.Node != "" {
		return c.Node
	}
	host, err := os.Hostname()
	if err != nil || !policy.ValidName(host) {
		return "weir"
	}
	return host
}
