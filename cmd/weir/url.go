package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"weir/internal/access"
	"weir/internal/node"
	"weir/internal/policy"
)

// urls is the commands about the URLs that clients need under authentication.
type urls struct {
	Push   pushURL   `cmd:"" help:"Print URLs to push to, signed by every method of the domain."`
	Play   playURL   `cmd:"" help:"Print URLs to play from, signed by every method of the domain."`
	Verify verifyURL `cmd:"" help:"Say step by step why a URL is accepted, or is not."`
}

type configFile struct {
	Config string `short:"c" env:"WEIR_CONFIG" placeholder:"FILE" help:"The configuration file; see weir.example.yaml."`
}

// load returns the configuration, and a gate under its policy.
func (c *configFile) load() (*node.Config, *access.Gate, error) {
	cfg := node.DefaultConfig()
	if c.Config != "" {
		var err error
		if cfg, err = node.Load(c.Config); err != nil {
			return nil, nil, err
		}
	}
	return cfg, access.NewGate(func() *policy.Set { return cfg.Policy }), nil
}

// target is which stream a URL is for.
type target struct {
	configFile
	App    string        `default:"live" help:"The app (${default})."`
	Stream string        `required:"" help:"The stream."`
	Domain string        `placeholder:"HOST[:PORT]" help:"The host name that clients use; if not given, one of the configuration, or this machine."`
	Expire time.Duration `default:"2h" help:"How long the URL is to be valid (${default}). A domain may allow less."`
	Quiet  bool          `short:"q" help:"Print nothing but the URLs."`
}

type pushURL struct {
	target
	Protocol string `default:"rtmp" enum:"rtmp,rtmps" help:"rtmp (the default) or rtmps."`
}

// Run prints URLs to push to.
func (u *pushURL) Run(stdout io.Writer) error {
	return u.print(stdout, access.Publish, []string{u.Protocol}, false)
}

type playURL struct {
	target
	Protocol []string `default:"rtmp,flv,hls" enum:"rtmp,rtmps,flv,ws-flv,hls" help:"Any of rtmp, rtmps, flv, ws-flv and hls (${default})."`
	TLS      bool     `name:"tls" help:"HTTP by TLS."`
}

// Run prints URLs to play from.
func (u *playURL) Run(stdout io.Writer) error {
	return u.print(stdout, access.Play, u.Protocol, u.TLS)
}

// forms is how a URL of each protocol begins and ends, and the listener that
// it is for; by TLS, an s is put behind both.
var forms = map[string]struct{ scheme, ending, listener string }{
	access.RTMP:  {"rtmp", "", "rtmp"},
	access.RTMPS: {"rtmps", "", "rtmps"},
	access.FLV:   {"http", ".flv", "http"},
	access.WSFLV: {"ws", ".flv", "http"},
	access.HLS:   {"http", "/index.m3u8", "http"},
}

// print prints the URLs of the target by each protocol: one that has all that
// the domain demands, or where any method will do, one of each.
func (t *target) print(stdout io.Writer, op access.Op, protocols []string, tls bool) error {
	cfg, gate, err := t.load()
	if err != nil {
		return err
	}
	remark := func(format string, args ...any) {
		if !t.Quiet {
			fmt.Fprintf(stdout, "# "+format+"\n", args...)
		}
	}
	for _, protocol := range protocols {
		p := forms[protocol]
		if tls && p.listener == "http" {
			p.scheme, p.listener = p.scheme+"s", "https"
		}
		host, err := t.host(cfg, op, p.scheme, p.listener)
		if err != nil {
			return err
		}
		path := "/" + t.App + "/" + t.Stream + p.ending
		r, err := access.FromURL(op, p.scheme+"://"+host+path)
		if err != nil {
			return err
		}
		signed, err := gate.Sign(r, time.Now().Add(t.Expire))
		if err != nil {
			return err
		}
		if len(signed) == 0 {
			remark("%s, without authentication", protocol)
			fmt.Fprintf(stdout, "%s://%s%s\n", p.scheme, host, path)
		}
		for _, s := range signed {
			remark("%s by %s, until %s", protocol, strings.Join(s.Methods, " and "), s.Until.UTC().Format(time.RFC3339))
			fmt.Fprintln(stdout, s.Apply(p.scheme+"://"+host+path))
		}
	}
	return nil
}

// host returns the authority of a URL: the host that was asked for, or a domain
// at which the app can be used, and the port of the listener.
func (t *target) host(cfg *node.Config, op access.Op, scheme, listener string) (string, error) {
	if _, _, err := net.SplitHostPort(t.Domain); err == nil {
		return t.Domain, nil
	}
	domain := t.Domain
	if domain == "" {
		domain = domainOf(cfg.Policy, op, t.App)
	}
	l := &cfg.Listen
	address := map[string]node.Address{"rtmp": l.RTMP, "rtmps": l.RTMPS, "http": l.HTTP, "https": l.HTTPS}[listener]
	if address == "" || address == "off" {
		return "", fmt.Errorf("listen.%s is off: choose another --protocol, or write --domain with a port", listener)
	}
	addr, err := net.ResolveTCPAddr("tcp", string(address))
	if err != nil {
		return "", fmt.Errorf("listen.%s: %w", listener, err)
	}
	return hostPort(domain, addr, scheme), nil
}

// domainOf returns a host name of the first domain at which op can be done in
// an app of that name, or "" where any will do.
func domainOf(set *policy.Set, op access.Op, app string) string {
	use := policy.Play
	if op == access.Publish {
		use = policy.Publish
	}
	for i := range set.Spaces {
		sp := &set.Spaces[i]
		for j := range sp.Domains {
			if sp.App(app) != nil && sp.Domains[j].Type.Allows(use) {
				return hostOf(&sp.Domains[j])
			}
		}
	}
	return ""
}

type verifyURL struct {
	configFile
	URL       string `arg:"" help:"The URL as the client has it, in quotes; with - it is read from standard input."`
	Push      bool   `help:"It is to push to; otherwise it is to play from."`
	Client    string `default:"127.0.0.1" placeholder:"ADDRESS" help:"The client's address (${default})."`
	Referer   string `help:"The page that an HTTP player is on."`
	UserAgent string `help:"What an HTTP player says it is."`
}

// errNotAccepted is the end of a command that has said why.
var errNotAccepted = errors.New("the URL is not accepted")

// Run says what each check finds in the URL. Nothing is asked or remembered.
func (v *verifyURL) Run(stdout io.Writer) error {
	_, gate, err := v.load()
	if err != nil {
		return err
	}
	op, url := access.Play, v.URL
	if v.Push {
		op = access.Publish
	}
	if url == "-" {
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the URL: %w", err)
		}
		url = strings.TrimSpace(line)
	}
	r, err := access.FromURL(op, url)
	if err != nil {
		return err
	}
	client, err := netip.ParseAddr(v.Client)
	if err != nil {
		return fmt.Errorf("--client: %w", err)
	}
	r.Addr = netip.AddrPortFrom(client.Unmap(), 0)
	r.Referer, r.UserAgent = v.Referer, v.UserAgent
	steps := gate.Explain(r)
	for _, s := range steps {
		mark := "no "
		if s.Passed {
			mark = "yes"
		}
		fmt.Fprintf(stdout, "%s  %s: %s\n", mark, s.Name, s.Text)
	}
	if !steps[len(steps)-1].Passed {
		return errNotAccepted
	}
	return nil
}
