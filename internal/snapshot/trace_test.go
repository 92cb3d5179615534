package snapshot

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"weir/internal/event"
	"weir/internal/stream"
	"weir/internal/tracing"
)

// A picture on its way to its bucket is in the trace of the push.
func TestTrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracer, err := tracing.Open(t.Context(), tracing.Options{Sample: 1, Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close(context.Background())
	w := newWorld(t, fakeTool(t), func(o *Options) { o.Tracer = tracer })
	pub := w.publish("a", nil)
	write(t, pub, frame(0, true, "k0"))
	taken := w.wait(1)[0]
	pub.End(stream.EndClosed)
	if err := tracer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, ok := taken.Data.(event.SnapshotTaken)
	list := spans.GetSpans()
	if !ok || len(list) != 1 || list[0].Name != "upload" || list[0].SpanContext.TraceID().String() != pub.Push().Sequence {
		t.Fatalf("the fact %+v and the spans %v of the push %s", taken, list, pub.Push().Sequence)
	}
	said := ""
	for _, a := range list[0].Attributes {
		said += " " + string(a.Key) + "=" + a.Value.AsString()
	}
	if !strings.Contains(said, " key="+d.Key) || !strings.Contains(said, " format=jpeg") {
		t.Errorf("the span says%s", said)
	}
}
