package node

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weir/internal/cluster"
	"weir/internal/policy"
)

// A push is one trace, whose id is its Sequence, from the connection to the
// owner's server; who sends the spans away is nobody who waits.
func TestTracing(t *testing.T) {
	var mu sync.Mutex
	spans := make(map[string][]*traces.Span) // by name
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req otlp.ExportTraceServiceRequest
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = proto.Unmarshal(b, &req)
		}
		if err != nil || r.Header.Get("Authorization") != "Bearer topsecret" {
			t.Errorf("spans came with %v: %v", r.Header, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					spans[s.Name] = append(spans[s.Name], s)
				}
			}
		}
	}))
	defer sink.Close()
	asked := make(chan string, 10)
	owner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Traceparent") }))
	defer owner.Close()

	w := newWorld(t, func(c *Config, _ *policy.App) {
		c.Tracing = Tracing{Endpoint: sink.URL + "/v1/traces", Authorization: policy.NewSecret("Bearer topsecret"), Sample: 1}
	})
	e := new(policy.External)
	e.SetDefaults()
	e.URL, e.AllowNetworks = policy.Endpoint(owner.URL), []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	set := policy.Default()
	set.Spaces[0].Domains[0].Publish.External = e
	if _, err := w.policy.Apply(t.Context(), set, false, false, cluster.Author{By: "test"}); err != nil {
		t.Fatal(err)
	}
	w.encoder("live", "traced?token=secret")
	parent := <-asked
	sequence := ""
	for _, s := range w.hub.Streams() {
		if s.Key().Name == "traced" {
			sequence = s.Info().Push.Sequence
		}
	}
	if len(parent) != 55 || parent[3:35] != sequence {
		t.Errorf("the owner's server was sent the traceparent %q, want one of %s", parent, sequence)
	}
	of := func(name string) (s *traces.Span) {
		mu.Lock()
		defer mu.Unlock()
		for _, x := range spans[name] {
			if hex.EncodeToString(x.TraceId) == sequence {
				s = x
			}
		}
		return s
	}
	w.until("the spans are sent", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(spans["publish"]) > 1 && len(spans["play"]) > 0 && len(spans["hls"]) > 0
	})
	root := of("publish")
	for name, within := range map[string]*traces.Span{"connect": root, "gate": root, "ask the owner": of("gate")} {
		s := of(name)
		if s == nil || within == nil || string(s.ParentSpanId) != string(within.SpanId) || s.StartTimeUnixNano < root.StartTimeUnixNano || s.EndTimeUnixNano > root.EndTimeUnixNano {
			t.Errorf("%s is %v, within %v", name, s, within)
		}
	}
	if ask := of("ask the owner"); ask != nil && parent[36:52] != hex.EncodeToString(ask.SpanId) {
		t.Errorf("the owner's server was told of the span %s, want %x", parent[36:52], ask.SpanId)
	}
}
