package record

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"weir/internal/policy"
	"weir/internal/tracing"
)

// All that a push brings into a bucket is in its trace: segments, the playlist,
// and the files that are made of them.
func TestTrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	var tracer *tracing.Tracer
	bubble(t, func(r *policy.Record, o *Options) {
		r.MP4.Enabled, r.FLV.Enabled = true, true
		var err error
		if tracer, err = tracing.Open(t.Context(), tracing.Options{Sample: 1, Exporter: spans}); err != nil {
			t.Fatal(err)
		}
		o.Tracer = tracer
	}, func(t *testing.T, w *world) {
		defer tracer.Close(t.Context())
		pub := w.push()
		sequence := pub.Push().Sequence
		w.both(pub).run(30_000).end()
		w.finished(3)
		if err := tracer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, s := range spans.GetSpans() {
			if s.Name != "upload" || s.SpanContext.TraceID().String() != sequence || s.Parent.SpanID().String() != sequence[:16] || s.Status.Code == codes.Error {
				t.Errorf("the span %s of %s within %s: %v", s.Name, s.SpanContext.TraceID(), s.Parent.SpanID(), s.Status)
			}
			format, key := "segment", ""
			for _, a := range s.Attributes {
				switch a.Key {
				case "format":
					format = a.Value.AsString()
				case "key":
					key = a.Value.AsString()
				}
			}
			if !strings.Contains(key, testKey.Name) {
				t.Errorf("a span of %s has the key %q", format, key)
			}
			got[format]++
		}
		if got["hls"] != 1 || got["mp4"] != 1 || got["flv"] != 1 || got["segment"] == 0 {
			t.Errorf("spans of %v, want segments, and one each of hls, mp4 and flv", got)
		}
	})
}
