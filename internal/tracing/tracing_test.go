package tracing

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"weir/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sequence = "0af7651916cd43dd8448eb211c80319c"

func TestOff(t *testing.T) {
	ctx := With(t.Context(), nil)
	got, s := Start(ctx, "a", "b", "c")
	got, root := Root(Push(got, sequence), sequence, "d", time.Now())
	s.Set("d", "e")
	s.Fail(errors.New("f"))
	s.End()
	h := http.Header{}
	Inject(got, h)
	if got != ctx || s != nil || root != nil || len(h) > 0 {
		t.Errorf("without a tracer: %v, %v, %v", got, s, h)
	}
	if n := testing.AllocsPerRun(100, func() {
		ctx, s := Start(ctx, "a", "b", sequence)
		s.Set("c", sequence)
		s.End()
		_ = ctx
	}); n != 0 {
		t.Errorf("tracing that is off allocates %v times", n)
	}
	if err := (*Tracer)(nil).Close(ctx); err != nil {
		t.Error(err)
	}
}

// open returns a Tracer and what it sends: the spans by name.
func open(t *testing.T, sample float64) (*Tracer, func() map[string]tracetest.SpanStub) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tr, err := Open(t.Context(), Options{Sample: sample, Node: "n1", Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close(context.Background()) })
	return tr, func() map[string]tracetest.SpanStub {
		t.Helper()
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := map[string]tracetest.SpanStub{}
		for _, s := range spans.GetSpans() {
			got[s.Name] = s
		}
		return got
	}
}

func TestTrace(t *testing.T) {
	tr, sent := open(t, 1)
	begin := time.Now().Add(-time.Second)
	ctx, root := Root(With(t.Context(), tr), sequence, "publish", begin)
	_, gate := Start(ctx, "gate", "protocol", "rtmp")
	gate.Fail(errors.New("no"))
	gate.End()
	root.End()

	// Another process, later, that has the Sequence.
	other, sentThere := open(t, 1)
	there, call := Start(Push(With(context.Background(), other), sequence), "callback")
	h := http.Header{}
	Inject(there, h)
	call.End()
	_, alone := Start(Push(With(context.Background(), other), "no sequence"), "alone")
	alone.End()

	got := sent()
	pub := got["publish"]
	if pub.SpanContext.TraceID().String() != sequence || pub.Parent.IsValid() || !pub.StartTime.Equal(begin) {
		t.Errorf("publish is %+v", pub)
	}
	g := got["gate"]
	if g.SpanContext.TraceID().String() != sequence || g.Parent.SpanID() != pub.SpanContext.SpanID() || g.Status.Code != codes.Error || g.Status.Description != "no" ||
		len(g.Attributes) != 1 || g.Attributes[0].Value.AsString() != "rtmp" {
		t.Errorf("gate is %+v", g)
	}
	got = sentThere()
	c := got["callback"]
	if c.SpanContext.TraceID().String() != sequence || c.Parent.SpanID() != pub.SpanContext.SpanID() || !c.Parent.IsRemote() {
		t.Errorf("callback is %+v", c)
	}
	if want := "00-" + sequence + "-" + c.SpanContext.SpanID().String() + "-01"; h.Get("Traceparent") != want {
		t.Errorf("traceparent is %q, want %q", h.Get("Traceparent"), want)
	}
	if a := got["alone"]; a.SpanContext.TraceID().String() == sequence || a.Parent.IsValid() {
		t.Errorf("alone is %+v", a)
	}
}

// A push is traced everywhere or nowhere.
func TestSample(t *testing.T) {
	here, sentHere := open(t, 0.3)
	there, sentThere := open(t, 0.3)
	for range 200 {
		seq := event.NewSequence()
		_, s := Root(With(t.Context(), here), seq, seq, time.Now())
		s.Set("a", "b")
		s.End()
		_, s = Start(Push(With(t.Context(), there), seq), seq)
		s.End()
	}
	a, b := sentHere(), sentThere()
	if len(a) != len(b) || len(a) < 20 || len(a) > 110 {
		t.Errorf("%d and %d of 200 are traced, want about 60", len(a), len(b))
	}
	for name := range a {
		if _, ok := b[name]; !ok {
			t.Errorf("%s is traced here and not there", name)
		}
	}
}

// Spans go over the wire; who takes none costs nothing but the spans.
func TestExport(t *testing.T) {
	type arrival struct{ path, auth, kind string }
	came := make(chan arrival, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- arrival{r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Content-Type")}
	}))
	defer srv.Close()
	tr, err := Open(t.Context(), Options{Endpoint: srv.URL + "/v1/traces", Authorization: "Bearer x", Sample: 1, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	_, s := Start(With(t.Context(), tr), "connect")
	s.End()
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-came; got != (arrival{"/v1/traces", "Bearer x", "application/x-protobuf"}) {
		t.Errorf("came: %+v", got)
	}
	srv.CloseClientConnections()

	tr, err = Open(t.Context(), Options{Endpoint: "http://127.0.0.1:1/v1/traces", Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, s = Start(With(t.Context(), tr), "connect")
	s.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	tr.Close(ctx) // whatever it says
}
