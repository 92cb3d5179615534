package api

import (
	"net/url"
	"strings"

	"weir/internal/event"
)

// redacted stands for a secret.
const redacted = "***"

// redact returns a fact as everybody may see it who may see the stream: what
// clients sent to authenticate is asterisks, and of the address to which its
// owner is told of it there is neither query nor password.
func redact(e event.Event) event.Event {
	switch d := e.Data.(type) {
	case event.PublishRequested:
		d.Client = redactClient(d.Client)
		e.Data = d
	case event.PublishRefused:
		d.Client, d.Callback = redactClient(d.Client), redactCallback(d.Callback)
		e.Data = d
	case event.PublishStarted:
		d.Client, d.Callback, d.Ended = redactClient(d.Client), redactCallback(d.Callback), redactCallback(d.Ended)
		e.Data = d
	case event.PublishEnded:
		d.Client, d.Callback = redactClient(d.Client), redactCallback(d.Callback)
		e.Data = d
	case event.PlayEnded:
		d.Client = redactClient(d.Client)
		e.Data = d
	case event.RecordStarted:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.RecordFinished:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.RecordFailed:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.ClipRequested:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.ClipFinished:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.ClipFailed:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.SnapshotTaken:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.SnapshotFailed:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.AlertRaised:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.AlertCleared:
		d.Callback = redactCallback(d.Callback)
		e.Data = d
	case event.CallbackAttempted:
		d.URL = redactURL(d.URL, true)
		e.Data = d
	}
	return e
}

func redactClient(c event.Client) event.Client {
	params := make([]event.Param, len(c.Params))
	for i, p := range c.Params {
		if secretName(p.Name) {
			p.Value = redacted
		}
		params[i] = p
	}
	c.Params = params
	for _, u := range []*string{&c.TcURL, &c.PageURL, &c.SwfURL, &c.Referer} {
		*u = redactURL(*u, false)
	}
	return c
}

func redactCallback(c *event.Callback) *event.Callback {
	if c == nil {
		return nil
	}
	shown := *c
	shown.URL, shown.Group = redactURL(c.URL, true), redactURL(c.Group, true)
	return &shown
}

// secretName reports whether a parameter of that name may be a secret: those
// that Weir reads, and whatever is called like one.
func secretName(name string) bool {
	name = strings.ToLower(name)
	if name == "k" || name == "sig" || name == "pwd" || name == "jwt" {
		return true
	}
	for _, part := range []string{"secret", "token", "sign", "key", "pass", "auth", "hash"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// redactURL returns a URL without its secrets: of the query the values of
// secret parameters, or all of it, in the path what is the hash of a URL of
// type C, and what stands before an @. It need not be a URL at all.
func redactURL(s string, all bool) string {
	s, _, _ = strings.Cut(s, "#") // nobody but the page has use for a fragment
	rest, query, asked := strings.Cut(s, "?")
	parts := strings.Split(rest, "/")
	for i, p := range parts {
		if at := strings.LastIndexByte(p, '@'); at >= 0 {
			parts[i] = redacted + p[at:]
		}
		if len(p) == 32 && strings.Trim(p, "0123456789abcdefABCDEF") == "" {
			parts[i] = redacted
		}
	}
	rest = strings.Join(parts, "/")
	if !asked || all {
		return rest
	}
	params := strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' || r == '?' })
	for i, p := range params {
		name, _, _ := strings.Cut(p, "=")
		if plain, err := url.QueryUnescape(name); err != nil || secretName(plain) {
			params[i] = name + "=" + redacted
		}
	}
	return rest + "?" + strings.Join(params, "&")
}
