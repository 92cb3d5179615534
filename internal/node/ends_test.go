package node

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weir/internal/access"
	"weir/internal/cluster"
	"weir/internal/media/av"
	"weir/internal/media/flv"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// B.76 to B.79, F01: what the owner is told of each way in which a push over RTMP
// ends.
func TestEndCodes(t *testing.T) {
	type end struct {
		NotifyType    string
		Stream        string
		PubEndCode    int
		PubEndMessage string
	}
	ends := make(chan end, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e end
		if b, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(b, &e) != nil {
			t.Errorf("a body %q, %v", b, err)
		}
		if e.NotifyType == "PubEnd" {
			ends <- e
		}
	}))
	t.Cleanup(receiver.Close)

	guarded := func(key string) []policy.Domain {
		return []policy.Domain{{Name: "*", Type: policy.Both, Publish: policy.Access{Simple: &policy.Simple{Key: policy.NewSecret(key)}}}}
	}
	c := testConfig(t)
	sp := &c.Policy.Spaces[0]
	sp.Domains = guarded("firstkey")
	live, still := policy.DefaultApp("live"), policy.DefaultApp("still")
	live.Takeover, still.IdleTimeout = true, time.Second
	sp.Apps = []policy.App{live, still}
	sp.Callback = &policy.Callback{URL: policy.Endpoint(receiver.URL + "/live")}
	sp.Delivery = new(policy.Delivery)
	sp.Delivery.SetDefaults()
	sp.Delivery.AllowNetworks = networks("127.0.0.0/8")
	n, _, stop := start(t, c)

	push := func(app, name string) *rtmp.Conn {
		t.Helper()
		raw := n.url("rtmp", "/"+app+"/"+name)
		r, err := access.FromURL(access.Publish, raw)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := n.gate.Sign(r, time.Now().Add(time.Hour))
		if err != nil || len(signed) != 1 {
			t.Fatalf("%v, %v", signed, err)
		}
		conn, err := rtmp.Dial(t.Context(), n.url("rtmp", "/"+app), rtmp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.Publish(name + "?" + signed[0].Query); err != nil {
			t.Fatal(err)
		}
		tag := flv.AppendAudio(nil, av.MP3, false, []byte("a frame of audio"))
		if err := conn.WritePacket(av.Packet{Kind: av.Audio, Codec: av.MP3, Tag: tag}); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	apply := func(change func(*policy.Space)) {
		t.Helper()
		set := policy.Set{DefaultSpace: c.Policy.DefaultSpace, Spaces: append([]policy.Space(nil), c.Policy.Spaces...)}
		change(&set.Spaces[0])
		if _, err := n.policy.Apply(t.Context(), &set, false, false, cluster.Author{By: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, app string
		end       func(conn *rtmp.Conn, name string)
		code      int
		message   string
	}{
		{"closeStream", "live", func(conn *rtmp.Conn, name string) {
			if err := conn.Unpublish(name); err != nil {
				t.Error(err)
			}
		}, 1, "rtmp_close_stream"},
		{"FIN", "live", func(conn *rtmp.Conn, _ string) { conn.NetConn().(*net.TCPConn).CloseWrite() }, 1, "rtmp_close_stream"},
		{"RST", "live", func(conn *rtmp.Conn, _ string) {
			conn.NetConn().(*net.TCPConn).SetLinger(0)
			conn.NetConn().Close()
		}, 0, "other error"},
		{"idle", "still", func(*rtmp.Conn, string) {}, 2, "rtmp_no_data"},
		{"forbidden", "live", func(_ *rtmp.Conn, name string) {
			n.forbid(stream.Key{Space: sp.Name, App: "live", Name: name}, time.Now().Add(time.Hour), "a test")
		}, 0, "other error"},
		{"forbidden by the policy", "live", func(_ *rtmp.Conn, name string) {
			apply(func(s *policy.Space) {
				s.Forbidden = []policy.Forbidden{{App: "live", Stream: name, Type: policy.Publish}}
			})
		}, 0, "other error"},
		{"kicked", "live", func(*rtmp.Conn, string) {
			for _, s := range n.sessions.Sessions() {
				n.sessions.Kick(s.ID)
			}
		}, 0, "other error"},
		{"takeover", "live", func(_ *rtmp.Conn, name string) { push("live", name) }, 0, "other error"},
		{"key withdrawn", "live", func(*rtmp.Conn, string) { apply(func(s *policy.Space) { s.Domains = guarded("secondkey") }) }, 3, "rtmp_auth_failed"},
		{"address blocked", "live", func(*rtmp.Conn, string) {
			apply(func(s *policy.Space) {
				s.Domains = guarded("secondkey")
				s.Domains[0].Publish.IP.Block = networks("127.0.0.0/8")
			})
		}, 3, "rtmp_auth_failed"},
		{"shutdown", "live", func(*rtmp.Conn, string) {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}, 0, "other error"},
	} {
		apply(func(*policy.Space) {}) // what it was at first
		name := strings.ReplaceAll(tt.name, " ", "-")
		tt.end(push(tt.app, name), name)
		late := time.After(20 * time.Second)
		for got := (end{}); got.Stream != name; {
			select {
			case got = <-ends:
				if got.Stream == name && (got.PubEndCode != tt.code || got.PubEndMessage != tt.message) {
					t.Errorf("%s: told of %+v, want %d %s", tt.name, got, tt.code, tt.message)
				}
			case <-late:
				t.Fatalf("%s: nobody is told of the end", tt.name)
			}
		}
	}
}
