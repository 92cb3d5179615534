package node

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"weir/internal/policy"
)

// Wherever a start fails, it leaves nothing: no goroutine, no open file, no
// listener, and the data folder is free for the next one.
func TestStartThatFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	inData := func(name, text string) func(*testing.T, *Config) {
		return func(t *testing.T, c *Config) {
			path := filepath.Join(c.Data, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, text)
		}
	}
	for _, stage := range []struct {
		name  string
		spoil func(*testing.T, *Config)
	}{
		{"certificate", func(_ *testing.T, c *Config) { c.TLS = TLS{file, file} }},
		{"data folder", func(_ *testing.T, c *Config) { c.Data = filepath.Join(file, "x") }},
		{"NATS", inData("nats", "")},
		{"TLS of NATS", func(_ *testing.T, c *Config) { c.NATS.URL, c.NATS.TLS.CA = "nats://127.0.0.1:1", file }},
		{"journal", inData("journal/weir-facts", "")},
		{"journal of crowds", inData("journal/weir-crowd", "")},
		{"spool", func(_ *testing.T, c *Config) { c.Record.Spool = filepath.Join(file, "x") }},
		{"keys", func(_ *testing.T, c *Config) { c.Secrets.KeyFile = file }},
		{"policy", func(t *testing.T, c *Config) {
			c.Policy.Spaces[0].AccessKeys = []policy.AccessKey{{ID: "key", Secret: policy.NewSecret("a-secret-that-is-sealed")}}
			_, _, stop := start(t, c)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"secrets.key", "policy.json"} {
				if err := os.Remove(filepath.Join(c.Data, name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"listener", func(_ *testing.T, c *Config) { c.Listen.Admin = Address(taken.Addr().String()) }},
		{"key of URLs", inData("objects.key", "no key")},
		{"token of this machine", func(t *testing.T, c *Config) {
			c.Tracing.Endpoint = "http://127.0.0.1:1/v1/traces"
			c.File = file
			inData("token/x", "")(t, c)
		}},
	} {
		t.Run(stage.name, func(t *testing.T) {
			c := testConfig(t)
			stage.spoil(t, c)
			before, already := currentUsage().files, goleak.IgnoreCurrent()
			if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil {
				t.Fatal("it starts")
			} else {
				t.Log(err)
			}
			goleak.VerifyNone(t, already)
			if now := currentUsage().files; now > before {
				t.Errorf("%d files are open, and %d were before", now, before)
			}
			if d, err := openData(c.Data); err == nil {
				d.close()
			} else if stage.name != "data folder" {
				t.Errorf("the data folder is taken: %v", err)
			}
		})
	}
}
