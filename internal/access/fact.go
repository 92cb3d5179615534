package access

import (
	"net/netip"

	"weir/internal/event"
	"weir/internal/policy"
)

// maxText is how much of what a client says of itself goes into a fact.
const maxText = 4 << 10

// Client is what facts say of the client that has sent r and reached this node
// at the address node.
func (r *Request) Client(node netip.Addr) event.Client {
	c := event.Client{
		Domain: cut(r.Host, 255), Protocol: r.Protocol, Addr: r.Addr, NodeAddr: node.Unmap(),
		TcURL: cut(r.TcURL, maxText), PageURL: cut(r.PageURL, maxText), SwfURL: cut(r.SwfURL, maxText), FlashVer: cut(r.FlashVer, 255),
		Referer: cut(r.Referer, maxText), UserAgent: cut(r.UserAgent, maxText),
	}
	for _, p := range r.Params {
		c.Params = append(c.Params, event.Param{Name: p.Key, Value: p.Value})
	}
	return c
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// About makes e, which is not about a Grant, one about what r asks for: its
// space, where there is one, and the names of app and stream, which may be
// anything.
func (g *Gate) About(e *event.Event, r *Request) {
	set := g.policy()
	space, _ := set.Domain(r.Host)
	if r.Host == "" {
		space, _ = set.DefaultDomain(r.Op.use())
	}
	if space != nil {
		e.Space = space.Name
	}
	e.App, e.Stream = r.App, r.Stream
	if !policy.ValidName(e.App) {
		e.App = clip(e.App)
	}
	if !policy.ValidStreamName(e.Stream) {
		e.Stream = clip(e.Stream)
	}
}
