// Package callback tells the owners of streams by HTTP what has happened to
// them: in the bodies that the guide shows, at least once, in the order of each
// stream, and until the owner has taken it or 72 hours are over.
//
// The event log is the queue; nothing is stored twice. A [Dispatcher] reads the
// log from a durable cursor and puts each fact that has a Callback into the
// lane of its stream and receiver. The facts of a lane are told one after the
// other; lanes do not know each other. What succeeds costs no write but that of
// the cursor, once a second: after a crash facts are told again, with the same
// ids and bodies, since a body depends on the fact alone.
//
// What fails leaves the cursor's way:
//
//   - A lane whose first fact fails is parked: a record says which fact that is,
//     what was sent and when the next attempt is. The facts behind it need no
//     record; when the first is through they are found in the log.
//   - A receiver that fails for everybody, or takes its calls more slowly than
//     facts come, is detached: a record says from which place in the log it is
//     to be told. It is read from there when it answers again, until it has
//     caught up with the others.
//
// So a million facts that wait cost as much memory as ten, and nobody waits for
// a receiver but its own facts.
//
// A fact that cannot be told in its time becomes a dead letter, which is kept
// and can be told again by hand. Every attempt is in the delivery log.
package callback

import (
	"weir/internal/event"
	"weir/internal/policy"
)

// OfPush returns how the start and the end of a push to an app of sp are to be
// told; nil: not at all. It is fixed when the push begins.
func OfPush(sp *policy.Space, app *policy.App) (start, end *event.Callback) {
	if sp == nil {
		return nil, nil
	}
	p := sp.CallbackOf(app)
	if p == nil {
		return nil, nil
	}
	return to(p, p.Start()), to(p, p.End())
}

// OfRefusal returns how it is to be told that a push was not let in; nil: not
// at all. App is nil where there is none.
func OfRefusal(sp *policy.Space, app *policy.App) *event.Callback {
	if sp == nil {
		return nil
	}
	p := sp.CallbackOf(app)
	if p == nil || !p.PushRefused {
		return nil
	}
	return to(p, p.Other())
}

// OfAlert returns how an alert about a stream of an app is to be told; nil: not
// at all.
func OfAlert(sp *policy.Space, app *policy.App) *event.Callback {
	if sp == nil {
		return nil
	}
	p := sp.CallbackOf(app)
	if p == nil || !p.Alerts {
		return nil
	}
	return to(p, p.Other())
}

// OfFile returns how a recording or a snapshot is to be told to a URL of its
// own; nil where that is empty. Extended asks for what is new in the body.
func OfFile(u policy.Endpoint, extended bool) *event.Callback {
	if u == "" {
		return nil
	}
	cb := &event.Callback{URL: string(u)}
	if extended {
		cb.Format = "new"
	}
	return cb
}

func to(p *policy.Callback, u policy.Endpoint) *event.Callback {
	if u == "" {
		return nil
	}
	cb := &event.Callback{
		URL: string(u), Format: p.Format.String(),
		Sequence: p.Sequence, StartTime: p.StartTime, PortText: p.PortText, Redact: p.Redact, FlapGuard: p.FlapGuard,
	}
	if p.StartURL != "" || p.EndURL != "" { // a start and its end stay in order
		cb.Group = string(p.Start())
	}
	return cb
}
