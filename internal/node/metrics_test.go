package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"weir/internal/policy"
	"weir/internal/stream"
)

// metricNames returns the names of all metrics that n shows now, and their help.
func (n *Node) metricNames(t *testing.T) map[string]string {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for _, f := range families {
		names[f.GetName()] = f.GetHelp()
	}
	return names
}

// docs/metrics.md has every metric and no other, and what is in deploy asks for
// those that there are.
func TestMetricsAreDocumented(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *policy.App) { c.Metrics.Streams, c.Data = 1, t.TempDir() })
	resp, err := http.Get(w.url("http", "/live/nobody.flv")) // so that something is refused
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	names := w.metricNames(t)

	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, shown []string
	for _, cell := range regexp.MustCompile("(?m)^\\| `weir_[^|]*\\|").FindAllString(string(page), -1) {
		documented = append(documented, regexp.MustCompile(`weir_\w+`).FindAllString(cell, -1)...)
	}
	for name := range names {
		if strings.HasPrefix(name, "weir_") {
			shown = append(shown, name)
		}
	}
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range documented {
		// Some are there only once something has happened.
		if !slices.Contains(shown, name) && !strings.Contains(string(source), `"`+strings.TrimPrefix(name, "weir_")+`"`) {
			t.Errorf("docs/metrics.md has %s, which there is not", name)
		}
	}
	for _, name := range shown {
		if !slices.Contains(documented, name) {
			t.Errorf("docs/metrics.md has no row for %s", name)
		}
	}

	metric := regexp.MustCompile(`\b(weir|go|process)_\w+`)
	ask := func(file, expr string) {
		for _, name := range metric.FindAllString(expr, -1) {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if names[name] == "" && names[base] == "" {
				t.Errorf("%s asks for %s, which there is not: %s", file, name, expr)
			}
		}
	}
	var dashboard any
	readFile(t, "../../deploy/grafana/weir.json", json.Unmarshal, &dashboard)
	exprs := 0
	walk(dashboard, func(key, value string) {
		if key == "expr" || key == "definition" {
			exprs++
			ask("weir.json", value)
		}
	})
	if exprs < 30 {
		t.Errorf("the dashboard asks for %d things; that is not all of it", exprs)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	readFile(t, "../../deploy/prometheus/alerts.yml", yaml.Unmarshal, &rules)
	for _, r := range rules.Groups[0].Rules {
		if r.Alert == "" || r.Expr == "" {
			t.Errorf("rule %+v", r)
		}
		ask("alerts.yml", r.Expr)
	}
	var scrape map[string]any
	readFile(t, "../../deploy/prometheus/prometheus.yml", yaml.Unmarshal, &scrape)
}

func readFile(t *testing.T, file string, unmarshal func([]byte, any) error, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// walk calls f for every text in a JSON value.
func walk(v any, f func(key, value string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, x := range v {
			if s, ok := x.(string); ok {
				f(key, s)
			}
			walk(x, f)
		}
	case []any:
		for _, x := range v {
			walk(x, f)
		}
	}
}

// The number of series does not grow with streams beyond what the operator
// wants, and those that have been there for longest keep theirs.
func TestMetricsOfStreamsAreBounded(t *testing.T) {
	for _, limit := range []int{0, 3} {
		c := testConfig(t)
		c.Metrics.Streams = limit
		n, err := New(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }() // ends with ctx
		defer func() { cancel(); <-done }()
		app := policy.DefaultApp("live")
		series := func() map[string]int {
			t.Helper()
			families, err := n.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			count := make(map[string]int)
			for _, f := range families {
				for _, m := range f.GetMetric() {
					for _, l := range m.GetLabel() {
						if l.GetName() == "stream" {
							count[l.GetValue()]++
						}
					}
				}
			}
			return count
		}
		for i := range 20 {
			if _, err := n.hub.Publish(stream.Key{Space: "default", App: "live", Name: fmt.Sprintf("s%02d", i)}, &app, stream.Push{}); err != nil {
				t.Fatal(err)
			}
		}
		got := slices.Sorted(maps.Keys(series()))
		want := []string{"s00", "s01", "s02"}[:limit]
		if !slices.Equal(got, want) {
			t.Errorf("with metrics.streams %d: metrics of %q, want %q", limit, got, want)
		}
	}
}

// What the memory is, somebody has to say.
func TestMemory(t *testing.T) {
	if n := memory(); n < 64<<20 {
		t.Errorf("memory is %d", n)
	}
	for _, tt := range []struct{ a, b, want int64 }{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {5, 3, 3}, {3, 5, 3}} {
		if got := lesser(tt.a, tt.b); got != tt.want {
			t.Errorf("lesser(%d, %d) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	for in, want := range map[string]int64{" 123 \n": 123, "max\n": 0, "": 0, "-1": 0} {
		if got := number([]byte(in)); got != want {
			t.Errorf("number(%q) = %d, want %d", in, got, want)
		}
	}
	c := testConfig(t)
	if c.hlsMemory() != memory()/4 {
		t.Errorf("HLS may have %d, want a quarter of %d", c.hlsMemory(), memory())
	}
	if c.HLSMemory = 1 << 20; c.hlsMemory() != 1<<20 {
		t.Errorf("HLS may have %d, want what is set", c.hlsMemory())
	}
}
