package node

import (
	"context"
	"fmt"
	"time"

	"weir/internal/access"
	"weir/internal/bus"
	"weir/internal/callback"
	"weir/internal/event"
	"weir/internal/eventlog"
	"weir/internal/stream"
)

// startTime is how long NATS and the event log may take to start.
const startTime = time.Minute

// openEvents opens the data folder and what is in it.
func (n *Node) openEvents() error {
	path, err := n.cfg.DataFolder()
	if err != nil {
		return err
	}
	if n.data, err = openData(path); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	cfg, err := n.cfg.NATS.bus(n.name, n.data.sub("nats"))
	if err == nil {
		n.bus, err = bus.Open(ctx, cfg, n.log)
	}
	if err != nil {
		return err
	}
	e := &n.cfg.Events
	n.events, err = eventlog.Open(ctx, n.bus.JetStream(), eventlog.Options{
		Log: n.log, Node: n.name, Dir: n.data.sub("journal"), Replicas: n.bus.Replicas(),
		MaxAge: e.MaxAge, MaxBytes: int64(e.MaxSize), JournalBytes: int64(e.JournalSize),
	})
	return err
}

// closeEvents closes what openEvents has opened, the last first.
func (n *Node) closeEvents(ctx context.Context) {
	if n.policy != nil {
		n.policy.Close()
	}
	if n.events != nil {
		if err := n.events.Close(ctx); err != nil {
			n.log.Warn("the event log gets the last facts at the next start", "err", err)
		}
	}
	if n.bus != nil {
		n.bus.Close()
	}
	if n.spool != nil {
		n.spool.Close()
	}
	if n.data != nil {
		n.data.close()
	}
}

// began tells that a push has begun. It is stream.Options.Began.
func (n *Node) began(p *stream.Publication) {
	push := p.Push()
	key := p.Stream().Key()
	start, end := callback.OfPush(n.policy.Set().Space(key.Space), p.App())
	if end != nil {
		n.endings.Store(p, end)
	}
	n.tell(p, event.New(p.Start(), event.PublishStarted{Client: push.Client, Session: push.Session, Callback: start, Ended: end}))
	n.quality.Began(p)
	n.stats.Began(p)
}

// ended tells that it is over, to whom was known when it began. It is
// stream.Options.Ended.
func (n *Node) ended(p *stream.Publication) {
	n.quality.Ended(p)
	n.snapshots.Ended(p)
	n.stats.Ended(p)
	push := p.Push()
	var end *event.Callback
	if v, ok := n.endings.LoadAndDelete(p); ok {
		end = v.(*event.Callback)
	}
	n.tell(p, event.New(time.Now(), event.PublishEnded{
		Client: push.Client, Session: push.Session, Started: p.Start(), Reason: p.Reason().String(), Counters: p.Counters(), Callback: end,
	}))
}

// tell emits a fact about a push.
func (n *Node) tell(p *stream.Publication, e event.Event) {
	key := p.Stream().Key()
	e.Space, e.App, e.Stream, e.Sequence = key.Space, key.App, key.Name, p.Push().Sequence
	n.events.Emit(e)
}

// refusedCallback returns who is told that a publisher was refused.
func (n *Node) refusedCallback(r access.Request) *event.Callback {
	var e event.Event
	n.gate.About(&e, &r)
	sp := n.policy.Set().Space(e.Space)
	if sp == nil {
		return nil
	}
	return callback.OfRefusal(sp, sp.App(r.App))
}

// alertCallback returns who is told of the alerts of a push.
func (n *Node) alertCallback(p *stream.Publication) *event.Callback {
	return callback.OfAlert(n.policy.Set().Space(p.Stream().Key().Space), p.App())
}

// emit emits a fact about the node.
func (n *Node) emit(data event.Data) { n.events.Emit(event.New(time.Now(), data)) }

// degraded says what of the node does not work although it serves; "" if
// everything does.
func (n *Node) degraded() string {
	if h := n.events.Health(); h.Degraded {
		return fmt.Sprintf("degraded: %s (%d facts wait)", h.Reason, h.Waiting)
	}
	switch h := n.policy.Health(); {
	case h.Away != "":
		return "degraded: " + h.Away
	case len(h.Refused) > 0:
		return fmt.Sprintf("degraded: %d documents of the policy are not in force; the log says why", len(h.Refused))
	}
	return ""
}
