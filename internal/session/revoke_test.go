package session

import (
	"errors"
	"net"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// revise puts a changed copy of the policy in force.
func (n *node) revise(change func(*policy.Space)) {
	old := n.policy.Load()
	space := old.Spaces[0]
	space.Domains = append([]policy.Domain(nil), space.Domains...)
	space.Apps = append([]policy.App(nil), space.Apps...)
	change(&space)
	n.policy.Store(&policy.Set{DefaultSpace: old.DefaultSpace, Spaces: []policy.Space{space}})
	n.Recheck()
}

// When a right ends, those who use it are ended, and no others.
func TestRevoke(t *testing.T) {
	for _, w := range ways {
		n := start(t, Options{})
		p := n.publish(t, "s")
		p.wait(n, key)
		r, _, err := w.play(t, n, "live/s")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, p.sent)
		until(t, func() bool { return len(n.Sessions()) == 2 })

		n.revise(func(s *policy.Space) { s.Apps[0].MaxLead = time.Minute })
		n.revise(func(s *policy.Space) {
			s.Forbidden = []policy.Forbidden{{App: "live", Stream: "other", Type: policy.Both}}
		})
		if len(n.Sessions()) != 2 {
			t.Fatalf("%s: a change of something else has ended a session", w.protocol)
		}
		began := time.Now()
		n.revise(func(s *policy.Space) { s.Forbidden = []policy.Forbidden{{App: "live", Stream: "s", Type: policy.Play}} })
		if _, err := r.ReadPacket(); err == nil {
			t.Errorf("%s: a packet after the right to play was withdrawn", w.protocol)
		}
		until(t, func() bool { return len(n.Sessions()) == 1 })
		n.revise(func(s *policy.Space) {
			s.Domains[0].Publish.Simple = &policy.Simple{Key: policy.NewSecret("test-key-1")}
		})
		_, err = p.conn.ReadPacket()
		if e := (*rtmp.Error)(nil); !errors.As(err, &e) || e.Code != "NetStream.Publish.Denied" {
			t.Errorf("%s: the publisher is told %v", w.protocol, err)
		}
		p.conn.Close()
		until(t, func() bool { return len(n.Sessions()) == 0 })
		if d := time.Since(began); d > time.Second {
			t.Errorf("%s: it took %v", w.protocol, d)
		}
	}
}

// A session that begins while the policy changes is not missed.
func TestRevokeAtBegin(t *testing.T) {
	n := start(t, Options{})
	n.publish(t, "s").wait(n, key)
	ss := &session{}
	r, err := access.FromRTMP(access.Play, "live", "rtmp://127.0.0.1/live", "s")
	if err != nil {
		t.Fatal(err)
	}
	grant, err := n.gate.Check(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	live := n.hub.Find(key)
	n.revise(func(s *policy.Space) { s.Apps[0].Disabled = true }) // finds no session of that grant
	server, client := net.Pipe()
	defer client.Close()
	ss.nc = server
	player, err := live.Play(stream.PlayerOptions{Conn: server, Format: stream.Format{Wire: stream.FLV}})
	if err != nil {
		t.Fatal(err)
	}
	n.begin(ss, access.RTMP, grant, nil, nil, player)
	<-player.Done()
	if !errors.Is(player.Err(), ErrRevoked) {
		t.Errorf("the player ended with %v, want %v", player.Err(), ErrRevoked)
	}
}
