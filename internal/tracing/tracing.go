// Package tracing follows a push, and what others ask for, through the parts of
// a node and beyond: connect, gate, publish, callback, upload. It is
// OpenTelemetry with less to write.
//
// A [Tracer] travels in the context: whoever wants a span calls [Start] with
// the context that he has, and gets nil, whose methods do nothing, where nobody
// traces. So tracing that is off costs a look into the context.
//
// The trace of a push has the push's Sequence for its id. Whoever has a fact of
// a push, on another node and a day later, goes on with its trace by [Push], and
// whoever has the Sequence of a callback finds the trace.
//
// What is asked of others over HTTP carries the trace as a W3C traceparent:
// [Inject].
package tracing

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options are a Tracer's settings.
type Options struct {
	Log           *slog.Logger // of spans that cannot be sent
	Endpoint      string       // URL that takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces
	Authorization string       // header of that name; empty: none
	Sample        float64      // part of the traces that is kept; every node keeps the same

	Node string // name of this one

	// Exporter takes the spans instead of Endpoint.
	Exporter sdk.SpanExporter
}

// Tracer makes spans and sends them away.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sampler  sdk.Sampler
}

// Open returns a Tracer. It does not wait for whom it sends to, and nothing
// ever waits: spans that cannot be sent are dropped. The caller ends it with
// Close.
func Open(ctx context.Context, o Options) (*Tracer, error) {
	if o.Log != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("tracing", "err", err) })) // there is no other place for it
	}
	exporter := o.Exporter
	if exporter == nil {
		opts := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(o.Endpoint), otlptracehttp.WithTimeout(5 * time.Second)}
		if o.Authorization != "" {
			opts = append(opts, otlptracehttp.WithHeaders(map[string]string{"Authorization": o.Authorization}))
		}
		var err error
		if exporter, err = otlptracehttp.New(ctx, opts...); err != nil {
			return nil, fmt.Errorf("open tracing: %w", err)
		}
	}
	sampler := sdk.TraceIDRatioBased(o.Sample)
	provider := sdk.NewTracerProvider(
		sdk.WithIDGenerator(ids{}),
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(4096), sdk.WithBatchTimeout(2*time.Second)),
		sdk.WithSampler(sdk.ParentBased(sampler)),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "weir"),
			attribute.String("service.instance.id", o.Node),
		)),
	)
	return &Tracer{provider, provider.Tracer("weir"), sampler}, nil
}

// Flush sends what there is, within ctx.
func (t *Tracer) Flush(ctx context.Context) error { return t.provider.ForceFlush(ctx) }

// Close sends what there is and ends the Tracer, within ctx. Of a nil Tracer it
// does nothing.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

type tracerKey struct{}

// With returns a context in which t traces. A nil Tracer changes nothing.
func With(ctx context.Context, t *Tracer) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, t)
}

// Span is something that takes a while. A nil Span is none.
type Span struct{ span trace.Span }

// Start begins a span within the one that is in ctx, or a new trace; nil where
// nobody traces. Attributes are pairs of name and value. The caller calls End.
func Start(ctx context.Context, name string, attributes ...string) (context.Context, *Span) {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	if t == nil {
		return ctx, nil
	}
	ctx, span := t.tracer.Start(ctx, name)
	s := &Span{span}
	s.Set(attributes...)
	return ctx, s
}

// Set sets attributes, in pairs of name and value.
func (s *Span) Set(attributes ...string) {
	if s == nil || !s.span.IsRecording() {
		return
	}
	for i := 0; i+1 < len(attributes); i += 2 {
		s.span.SetAttributes(attribute.String(attributes[i], attributes[i+1]))
	}
}

// Fail says that what the span is about did not succeed; a nil error changes
// nothing. The error's text must hold no secret.
func (s *Span) Fail(err error) {
	if s != nil && err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
}

// End ends the span. Only the first call counts.
func (s *Span) End() {
	if s != nil {
		s.span.End()
	}
}

// Past adds a span that began at since and ends now.
func Past(ctx context.Context, name string, since time.Time) {
	if t, _ := ctx.Value(tracerKey{}).(*Tracer); t != nil {
		_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(since))
		span.End()
	}
}

// rootKey is where a context holds the trace that its next span begins.
type rootKey struct{}

// Root begins the trace of the push with that Sequence, at a time that may have
// been. It is called once for a push.
func Root(ctx context.Context, sequence, name string, since time.Time) (context.Context, *Span) {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	id, err := trace.TraceIDFromHex(sequence)
	if t == nil || err != nil {
		return ctx, nil
	}
	ctx, span := t.tracer.Start(context.WithValue(ctx, rootKey{}, id), name, trace.WithNewRoot(), trace.WithTimestamp(since),
		trace.WithAttributes(attribute.String("sequence", sequence)))
	return ctx, &Span{span}
}

// Push returns a context in which spans are a part of the trace of the push
// with that Sequence. Without tracing, and for what is no Sequence, it is ctx.
func Push(ctx context.Context, sequence string) context.Context {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	if t == nil {
		return ctx
	}
	id, err := trace.TraceIDFromHex(sequence)
	if err != nil {
		return ctx
	}
	c := trace.SpanContextConfig{TraceID: id, SpanID: rootSpan(id), Remote: true}
	if t.sampler.ShouldSample(sdk.SamplingParameters{ParentContext: context.Background(), TraceID: id}).Decision == sdk.RecordAndSample {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(c))
}

// rootSpan is the id of the first span of the trace of a push.
func rootSpan(id trace.TraceID) trace.SpanID { return trace.SpanID(id[:8]) }

// ids makes the ids of spans: random ones, but for the first span of a push.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if id, ok := ctx.Value(rootKey{}).(trace.TraceID); ok {
		return id, rootSpan(id)
	}
	var id trace.TraceID
	rand.Read(id[:])
	return id, rootSpan(id)
}

func (ids) NewSpanID(context.Context, trace.TraceID) trace.SpanID {
	var id trace.SpanID
	rand.Read(id[:])
	return id
}

// Inject writes the trace in ctx into the header of a request.
func Inject(ctx context.Context, h http.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	}
}
