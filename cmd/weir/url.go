package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"weir/internal/access"
	"weir/internal/api"
	"weir/internal/node"
	"weir/internal/policy"
)

// urls is the commands about the URLs that clients need under authentication.
type urls struct {
	Push   pushURL   `cmd:"" help:"Print URLs to push to, signed by every method of the domain."`
	Play   playURL   `cmd:"" help:"Print URLs to play from, signed by every method of the domain."`
	Verify verifyURL `cmd:"" help:"Say step by step why a URL is accepted, or is not."`
}

// urlSource says by which policy URLs are signed and judged: that which is in
// force at a running server, or that of a file.
type urlSource struct {
	remote
	Config string `short:"c" placeholder:"FILE" help:"Go by the policy of this configuration file and ask no server. Without it, by the policy that is in force at the server."`
}

// target is which stream a URL is for.
type target struct {
	urlSource
	App    string        `default:"live" help:"The app (${default})."`
	Stream string        `required:"" help:"The stream."`
	Domain string        `placeholder:"HOST[:PORT]" help:"The host name that clients use; if not given, one of the policy, or this machine."`
	Expire time.Duration `default:"2h" help:"How long the URL is to be valid (${default}). A domain may allow less."`
	Quiet  bool          `short:"q" help:"Print nothing but the URLs."`
}

type pushURL struct {
	target
	Protocol string `default:"rtmp" enum:"rtmp,rtmps" help:"rtmp (the default) or rtmps."`
}

// Run prints URLs to push to.
func (u *pushURL) Run(ctx context.Context, stdout io.Writer) error {
	return u.print(ctx, stdout, access.Publish, []string{u.Protocol}, false)
}

type playURL struct {
	target
	Protocol []string `default:"rtmp,flv,hls" enum:"rtmp,rtmps,flv,ws-flv,hls" help:"Any of rtmp, rtmps, flv, ws-flv and hls (${default})."`
	TLS      bool     `name:"tls" help:"HTTP by TLS."`
}

// Run prints URLs to play from.
func (u *playURL) Run(ctx context.Context, stdout io.Writer) error {
	return u.print(ctx, stdout, access.Play, u.Protocol, u.TLS)
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

// printedURL is a URL as -o json has it.
type printedURL struct {
	Protocol string `json:"protocol"`
	api.SignedURL
}

// print prints the URLs of the target by each protocol: one that has all that
// the domain demands, or where any method will do, one of each.
func (t *target) print(ctx context.Context, stdout io.Writer, op access.Op, protocols []string, tls bool) error {
	signer, err := t.signer()
	if err != nil {
		return err
	}
	list := []printedURL{}
	for _, protocol := range protocols {
		p := forms[protocol]
		if tls && p.listener == "http" {
			p.scheme, p.listener = p.scheme+"s", "https"
		}
		host, err := t.host(ctx, signer, op, p.scheme, p.listener)
		if err != nil {
			return err
		}
		signed, err := signer.sign(ctx, op, p.scheme+"://"+host+"/"+t.App+"/"+t.Stream+p.ending, time.Now().Add(t.Expire))
		if err != nil {
			return err
		}
		for _, s := range signed {
			list = append(list, printedURL{protocol, s})
		}
	}
	if t.Output == "json" {
		return printJSON(stdout, list)
	}
	for _, u := range list {
		switch {
		case t.Quiet:
		case len(u.Methods) == 0:
			fmt.Fprintf(stdout, "# %s, without authentication\n", u.Protocol)
		default:
			fmt.Fprintf(stdout, "# %s by %s, until %s\n", u.Protocol, strings.Join(u.Methods, " and "), u.Expires.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(stdout, u.URL)
	}
	return nil
}

// host returns the authority of a URL: the host that was asked for, or a domain
// at which the app can be used, and the port of the listener.
func (t *target) host(ctx context.Context, s signer, op access.Op, scheme, listener string) (string, error) {
	if _, _, err := net.SplitHostPort(t.Domain); err == nil {
		return t.Domain, nil
	}
	address, err := s.address(ctx, listener)
	if err != nil {
		return "", err
	}
	if address == "" || address == "off" {
		return "", fmt.Errorf("listen.%s is off: choose another --protocol, or write --domain with a port", listener)
	}
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", fmt.Errorf("listen.%s: %w", listener, err)
	}
	domain := t.Domain
	if domain == "" {
		if domain, err = s.domain(ctx, op, t.App); err != nil {
			return "", err
		}
	}
	if domain == "" && (addr.IP == nil || addr.IP.IsUnspecified()) {
		domain = s.machine()
	}
	return hostPort(domain, addr, scheme), nil
}

// A signer knows a policy.
type signer interface {
	// sign returns what is accepted of a URL until then.
	sign(ctx context.Context, op access.Op, url string, until time.Time) ([]api.SignedURL, error)
	// verify says what the checks find in a URL.
	verify(ctx context.Context, v *verifyURL, op access.Op, url string) (*api.Verdict, error)
	// address returns where the listener of that name is; "" or off if it is not.
	address(ctx context.Context, listener string) (string, error)
	// domain returns a host name of a domain at which op can be done in an app of
	// that name, or "" where any will do.
	domain(ctx context.Context, op access.Op, app string) (string, error)
	// machine returns the name of the machine of the listeners, if it is not this one.
	machine() string
}

// signer returns the signer by the file, or by the server.
func (u *urlSource) signer() (signer, error) {
	if u.Config == "" {
		return &serverSigner{client: &u.client}, nil
	}
	cfg, err := node.Load(u.Config)
	if err != nil {
		return nil, err
	}
	return &fileSigner{cfg, access.NewGate(func() *policy.Set { return cfg.Policy })}, nil
}

// fileSigner goes by a configuration file.
type fileSigner struct {
	cfg  *node.Config
	gate *access.Gate
}

func (f *fileSigner) sign(_ context.Context, op access.Op, url string, until time.Time) ([]api.SignedURL, error) {
	r, err := access.FromURL(op, url)
	if err != nil {
		return nil, err
	}
	signed, err := f.gate.Sign(r, until)
	if err != nil {
		return nil, err
	}
	if len(signed) == 0 {
		return []api.SignedURL{{URL: url, Methods: []string{}}}, nil
	}
	var list []api.SignedURL
	for _, s := range signed {
		list = append(list, api.SignedURL{URL: s.Apply(url), Methods: s.Methods, Expires: s.Until.UTC().Truncate(time.Second)})
	}
	return list, nil
}

func (f *fileSigner) verify(_ context.Context, v *verifyURL, op access.Op, url string) (*api.Verdict, error) {
	r, err := access.FromURL(op, url)
	if err != nil {
		return nil, err
	}
	r.Addr, r.Referer, r.UserAgent = netip.AddrPortFrom(v.addr, 0), v.Referer, v.UserAgent
	verdict := &api.Verdict{}
	for _, s := range f.gate.Explain(r) {
		verdict.Steps = append(verdict.Steps, api.CheckStep{Check: s.Name, Passed: s.Passed, Text: s.Text})
		verdict.Accepted = s.Passed
	}
	return verdict, nil
}

func (f *fileSigner) address(_ context.Context, listener string) (string, error) {
	l := &f.cfg.Listen
	return string(map[string]node.Address{"rtmp": l.RTMP, "rtmps": l.RTMPS, "http": l.HTTP, "https": l.HTTPS}[listener]), nil
}

func (f *fileSigner) domain(_ context.Context, op access.Op, app string) (string, error) {
	for i := range f.cfg.Policy.Spaces {
		sp := &f.cfg.Policy.Spaces[i]
		for j := range sp.Domains {
			if sp.App(app) != nil && sp.Domains[j].Type.Allows(useOf(op)) {
				return hostOf(&sp.Domains[j]), nil
			}
		}
	}
	return "", nil
}

func (f *fileSigner) machine() string { return "" }

func useOf(op access.Op) policy.DomainType {
	if op == access.Publish {
		return policy.Publish
	}
	return policy.Play
}

// serverSigner goes by the policy that is in force at a server.
type serverSigner struct {
	*client
	addresses map[string]string // of its listeners, once they were asked for
}

// ask asks the server. Where there is none it says what else there is.
func (s *serverSigner) ask(ctx context.Context, method, path string, in, out any) error {
	err := s.do(ctx, method, path, nil, in, out)
	if errors.As(err, new(nobodyListens)) {
		return fmt.Errorf("%w; with -c FILE, the policy of a configuration file is taken", err)
	}
	return err
}

func (s *serverSigner) sign(ctx context.Context, op access.Op, url string, until time.Time) ([]api.SignedURL, error) {
	var out struct {
		Items []api.SignedURL `json:"items"`
	}
	err := s.ask(ctx, http.MethodPost, "/urls/sign", map[string]any{"url": url, "does": op.String(), "expires": until.UTC()}, &out)
	return out.Items, err
}

func (s *serverSigner) verify(ctx context.Context, v *verifyURL, op access.Op, url string) (*api.Verdict, error) {
	in := map[string]any{"url": url, "does": op.String(), "addr": v.addr}
	if v.Referer != "" {
		in["referer"] = v.Referer
	}
	if v.UserAgent != "" {
		in["user_agent"] = v.UserAgent
	}
	verdict := &api.Verdict{}
	return verdict, s.ask(ctx, http.MethodPost, "/urls/verify", in, verdict)
}

func (s *serverSigner) address(ctx context.Context, listener string) (string, error) {
	if s.addresses == nil {
		var self struct {
			Addresses map[string]string `json:"addresses"`
		}
		if err := s.ask(ctx, http.MethodGet, "/self", nil, &self); err != nil {
			return "", err
		}
		s.addresses = self.Addresses
	}
	return s.addresses[listener], nil
}

func (s *serverSigner) domain(ctx context.Context, op access.Op, app string) (string, error) {
	spaces, err := all[api.SpaceInfo](ctx, s.client, "/spaces", url.Values{}, 0)
	if err != nil {
		return "", err
	}
	for _, sp := range spaces {
		path := "/spaces/" + url.PathEscape(sp.Name)
		var told *problemError
		if err := s.do(ctx, http.MethodGet, path+"/apps/"+url.PathEscape(app), nil, nil, nil); errors.As(err, &told) && told.Status == http.StatusNotFound {
			continue
		} else if err != nil {
			return "", err
		}
		domains, err := all[struct {
			Name string `json:"name"`
			Type string `json:"type"`
		}](ctx, s.client, path+"/domains", url.Values{}, 0)
		if err != nil {
			return "", err
		}
		for _, d := range domains {
			if d.Type == op.String() || d.Type == policy.Both.String() {
				return hostOf(&policy.Domain{Name: d.Name}), nil
			}
		}
	}
	return "", nil
}

// machine returns the host of the server's URL.
func (s *serverSigner) machine() string {
	u, err := url.Parse(s.Server)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

type verifyURL struct {
	urlSource
	URL       string `arg:"" help:"The URL as the client has it, in quotes; with - it is read from standard input."`
	Push      bool   `help:"It is to push to; otherwise it is to play from."`
	Client    string `default:"127.0.0.1" placeholder:"ADDRESS" help:"The client's address (${default})."`
	Referer   string `help:"The page that an HTTP player is on."`
	UserAgent string `help:"What an HTTP player says it is."`

	addr netip.Addr // Client
}

// errNotAccepted is the end of a command that has said why.
var errNotAccepted = errors.New("the URL is not accepted")

// Run says what each check finds in the URL. Nothing is asked or remembered.
func (v *verifyURL) Run(ctx context.Context, stdout io.Writer) error {
	signer, err := v.signer()
	if err != nil {
		return err
	}
	op, raw := access.Play, v.URL
	if v.Push {
		op = access.Publish
	}
	if raw == "-" {
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the URL: %w", err)
		}
		raw = strings.TrimSpace(line)
	}
	if v.addr, err = netip.ParseAddr(v.Client); err != nil {
		return fmt.Errorf("--client: %w", err)
	}
	v.addr = v.addr.Unmap()
	verdict, err := signer.verify(ctx, v, op, raw)
	if err != nil {
		return err
	}
	if v.Output == "json" {
		if err := printJSON(stdout, verdict); err != nil {
			return err
		}
	} else {
		for _, s := range verdict.Steps {
			mark := "no "
			if s.Passed {
				mark = "yes"
			}
			fmt.Fprintf(stdout, "%s  %s: %s\n", mark, s.Check, s.Text)
		}
	}
	if !verdict.Accepted {
		return errNotAccepted
	}
	return nil
}
