package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"weir/internal/node"
	"weir/internal/policy"
)

type serve struct {
	Config string `short:"c" env:"WEIR_CONFIG" placeholder:"FILE" help:"The configuration file; see weir.example.yaml."`
	Data   string `env:"WEIR_DATA" placeholder:"DIR" help:"The folder for what has to outlive the process, instead of that of the configuration."`
}

// Run serves until ctx ends.
func (s *serve) Run(ctx context.Context, stdout io.Writer) error {
	// From here on, so that who changes the files while we start does not end us.
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	cfg := node.DefaultConfig()
	if s.Config != "" {
		var err error
		if cfg, err = node.Load(s.Config); err != nil {
			return err
		}
	}
	cfg.Version, cfg.Reload = version, reload
	if s.Data != "" {
		cfg.Data, cfg.DataGiven = s.Data, true
	}
	cfg.Self = "/proc/self/exe"
	n, err := node.New(cfg, cfg.Log.NewLogger())
	if err != nil {
		return err
	}
	printURLs(stdout, n.Addr, n.Policy())
	fmt.Fprintf(stdout, "Data  %s\n", n.DataFolder())
	n.FirstToken = func(token string) { // nobody else writes by then
		fmt.Fprintf(stdout, "Token %s\n      is that of an admin, made at this first start and shown this once\n", token)
	}
	return n.Run(ctx)
}

// printURLs says where to push and to play, for the first app that there is.
func printURLs(stdout io.Writer, addr func(listener string) net.Addr, set *policy.Set) {
	push, app := example(set, policy.Publish)
	play, playApp := example(set, policy.Play)
	w := tabwriter.NewWriter(stdout, 0, 0, 1, ' ', 0)
	defer w.Flush()
	line := func(label, scheme, listener, host, app, path string) string {
		a := addr(listener)
		if a == nil || app == "" {
			return ""
		}
		url := scheme + "://" + hostPort(host, a, scheme) + "/" + app + path
		fmt.Fprintf(w, "%s\t%s\n", label, url)
		return url
	}
	if url := line("Push", "rtmp", "rtmp", push, app, "/STREAM"); url != "" {
		fmt.Fprintf(w, " \tffmpeg -re -i video.mp4 -c copy -f flv %s\n", strings.Replace(url, "STREAM", "demo", 1))
	}
	line("", "rtmps", "rtmps", push, app, "/STREAM")
	line("Play", "rtmp", "rtmp", play, playApp, "/STREAM")
	line("", "rtmps", "rtmps", play, playApp, "/STREAM")
	line("", "http", "http", play, playApp, "/STREAM.flv")
	line("", "http", "http", play, playApp, "/STREAM/index.m3u8")
	line("", "https", "https", play, playApp, "/STREAM.flv")
	line("", "https", "https", play, playApp, "/STREAM/index.m3u8")
	if a := addr("http"); a != nil {
		fmt.Fprintf(w, "Page\thttp://%s/\n", hostPort("", a, "http"))
	}
	if a := addr("admin"); a != nil {
		fmt.Fprintf(w, "Admin\thttp://%s/metrics\n", hostPort("", a, "http"))
		fmt.Fprintf(w, " \thttp://%s/api/v1/openapi.yaml\n", hostPort("", a, "http"))
	}
}

// example returns a domain at which use is allowed, empty where any will do,
// and an app of its space.
func example(set *policy.Set, use policy.DomainType) (domain, app string) {
	spaces := set.Spaces
	if sp := set.Space(set.DefaultSpace); sp != nil { // of clients who name no host
		spaces = append([]policy.Space{*sp}, spaces...)
	}
	for _, s := range spaces {
		for _, d := range s.Domains {
			for _, a := range s.Apps {
				if d.Type.Allows(use) && !a.Disabled {
					return hostOf(&d), a.Name
				}
			}
		}
	}
	return "", ""
}

// hostOf returns a host name that leads to d, empty where any does.
func hostOf(d *policy.Domain) string {
	return strings.TrimPrefix(strings.Replace(d.Name, "*.", "www.", 1), "*")
}

// hostPort returns the authority of a URL of the listener at addr: host or,
// where that is empty, an address by which this machine reaches the listener.
func hostPort(host string, addr net.Addr, scheme string) string {
	ip, port, _ := net.SplitHostPort(addr.String())
	if parsed := net.ParseIP(ip); parsed == nil || parsed.IsUnspecified() {
		ip = "127.0.0.1"
	}
	host = cmp.Or(host, ip)
	if port == map[string]string{"rtmp": "1935", "rtmps": "443", "http": "80", "https": "443", "ws": "80", "wss": "443"}[scheme] {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}
