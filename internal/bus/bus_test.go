package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"weir/internal/bus/bustest"
)

// open opens a Bus that ends with the test.
func open(t *testing.T, cfg Config) *Bus {
	t.Helper()
	b, err := Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// eventually calls f until it succeeds: a cluster may have no majority yet.
func eventually(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 3*time.Second) // what is sent while a stream gets replicas may get lost
		err := f(try)
		done()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, b *Bus) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		kv, err := KV(ctx, b.JetStream(), jetstream.KeyValueConfig{Bucket: "test", Replicas: b.Replicas()}, 1, nil)
		if err == nil {
			_, err = kv.PutString(ctx, "a", "b")
		}
		return err
	})
}

func get(t *testing.T, b *Bus) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		kv, err := KV(ctx, b.JetStream(), jetstream.KeyValueConfig{Bucket: "test", Replicas: b.Replicas()}, 1, nil)
		if err != nil {
			return err
		}
		e, err := kv.Get(ctx, "a")
		if err == nil && string(e.Value()) != "b" {
			t.Errorf("Get = %q, want b", e.Value())
		}
		return err
	})
}

func TestInProcess(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Config{Node: "n", Dir: dir})
	if b.RouteAddr() != nil || b.server.Addr() != nil {
		t.Errorf("it listens on %v, %v", b.RouteAddr(), b.server.Addr())
	}
	put(t, b)
	b.Close()
	get(t, open(t, Config{Node: "n", Dir: dir}))
}

func TestStartFails(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{Node: "n", Dir: file}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Open with a file for its folder: %v, want an error that names it", err)
	}
}

func TestExternal(t *testing.T) {
	url := "nats://127.0.0.1:1" // where nobody is
	b := open(t, Config{Node: "n", URL: url})
	if _, err := b.JetStream().AccountInfo(t.Context()); err == nil {
		t.Error("JetStream answers where there is none")
	}
	b = open(t, Config{Node: "n", URL: bustest.Serve(t).ClientURL()})
	put(t, b)
	get(t, b)
}

func TestCluster(t *testing.T) {
	routes, held := bustest.Addresses(t, 3)
	var nodes []*Bus
	for i, addr := range routes {
		held[i].Close()
		nodes = append(nodes, open(t, Config{Node: addr[len(addr)-5:], Dir: t.TempDir(), Cluster: &Cluster{
			Name: "c", Listen: addr, Routes: routes, User: "weir", Password: "canary",
		}}))
	}
	put(t, nodes[0])
	nodes[0].Close()
	get(t, nodes[1])
	get(t, nodes[2])
}

// Three servers of somebody else keep everything as often as the configuration
// says, and what their owner has raised stays so.
func TestExternalCluster(t *testing.T) {
	addrs, held := bustest.Addresses(t, 3)
	var routes []*url.URL
	for _, addr := range addrs {
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: addr})
	}
	var urls []string
	var servers []*server.Server
	for i, ln := range held {
		ln.Close()
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "theirs", Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start() // ends when the server does
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("NATS did not start")
		}
		urls = append(urls, s.ClientURL())
	}
	once := open(t, Config{Node: "n", URL: strings.Join(urls, ",")})
	thrice := open(t, Config{Node: "n", URL: strings.Join(urls, ","), Replicas: 3})
	js := once.JetStream()
	want := func(stream string, want int) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			s, err := js.Stream(ctx, stream)
			if err == nil && s.CachedInfo().Config.Replicas != want {
				err = fmt.Errorf("%s has %d replicas, want %d", stream, s.CachedInfo().Config.Replicas, want)
			}
			return err
		})
	}
	stream := func(b *Bus, name string, mode jetstream.PersistModeType) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			_, err := Stream(ctx, b.JetStream(), jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: b.Replicas(), PersistMode: mode}, 1, nil)
			return err
		})
	}
	put(t, once)
	stream(once, "s", 0)
	stream(once, "quick", jetstream.AsyncPersistMode)
	want("KV_test", 1)
	want("s", 1)
	put(t, thrice)
	stream(thrice, "s", 0)
	stream(thrice, "quick", 0)
	for range 2 { // afterwards a node that asks for less leaves it
		want("KV_test", 3)
		want("s", 3)
		want("quick", 1)
		put(t, once)
		get(t, once)
		stream(once, "s", 0)
	}
}

func TestSchema(t *testing.T) {
	js := open(t, Config{Node: "n", Dir: t.TempDir()}).JetStream()
	cfg := jetstream.StreamConfig{Name: "s", Subjects: []string{"s.>"}, MaxAge: time.Hour}
	var steps []int
	migrate := func(_ context.Context, from int) error { steps = append(steps, from); return nil }
	for _, v := range []int{1, 1, 3} {
		if _, err := Stream(t.Context(), js, cfg, v, migrate); err != nil {
			t.Fatal(err)
		}
	}
	if len(steps) != 2 || steps[0] != 1 || steps[1] != 2 {
		t.Errorf("migrated from %v, want from 1 and 2", steps)
	}
	var newer *Newer
	if _, err := Stream(t.Context(), js, cfg, 2, migrate); !errors.As(err, &newer) || newer.Has != 3 {
		t.Errorf("schema 3 opened by one that knows 2: %v", err)
	}
	cfg.MaxAge = time.Minute
	s, err := Stream(t.Context(), js, cfg, 3, migrate)
	if err != nil || s.CachedInfo().Config.MaxAge != time.Minute {
		t.Errorf("changed: %v, %v", s, err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Stream(t.Context(), js, jetstream.StreamConfig{Name: "other"}, 1, nil); err == nil {
		t.Error("took a stream of somebody else")
	}
	kv := jetstream.KeyValueConfig{Bucket: "b"}
	for range 2 {
		if _, err := KV(t.Context(), js, kv, 2, migrate); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := KV(t.Context(), js, kv, 1, migrate); !errors.As(err, &newer) {
		t.Errorf("bucket with schema 2 opened by one that knows 1: %v", err)
	}
	failed := errors.New("no")
	if _, err := KV(t.Context(), js, kv, 3, func(context.Context, int) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("failed migration: %v", err)
	}
}

// What an older Weir has written is there in the new form, also when the first
// attempt to bring it there was cut off, and the older one refuses it then.
func TestMigrate(t *testing.T) {
	js := open(t, Config{Node: "n", Dir: t.TempDir()}).JetStream()
	cfg := jetstream.KeyValueConfig{Bucket: "colours", History: 5}
	old, err := KV(t.Context(), js, cfg, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a", "b", "c"} {
		if _, err := old.PutString(t.Context(), k, "red "+k); err != nil {
			t.Fatal(err)
		}
	}
	cut := errors.New("the power failed")
	left := 2 // values that can be written before the power fails
	migrate := func(ctx context.Context, from int) error {
		if from != 1 {
			t.Errorf("migrated from %d", from)
		}
		keys, err := old.Keys(ctx)
		if err != nil {
			return err
		}
		for _, k := range keys {
			e, err := old.Get(ctx, k)
			if err != nil {
				return err
			}
			text, ok := strings.CutPrefix(string(e.Value()), "red ")
			if !ok {
				continue // it was done before
			}
			if left == 0 {
				return cut
			}
			left--
			if _, err := old.Update(ctx, k, []byte("colour=red "+text), e.Revision()); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := KV(t.Context(), js, cfg, 2, migrate); !errors.Is(err, cut) {
		t.Fatalf("cut off: %v", err)
	}
	if _, err := KV(t.Context(), js, cfg, 1, nil); err != nil {
		t.Errorf("the older one, before it was done: %v", err)
	}
	left = 10
	kv, err := KV(t.Context(), js, cfg, 2, migrate)
	if err != nil || left != 9 {
		t.Fatalf("the second time: %v, %d values were written", err, 10-left)
	}
	for _, k := range []string{"a", "b", "c"} {
		if e, err := kv.Get(t.Context(), k); err != nil || string(e.Value()) != "colour=red "+k {
			t.Errorf("%s is %v, %v", k, e, err)
		}
	}
	var newer *Newer
	if _, err := KV(t.Context(), js, cfg, 1, nil); !errors.As(err, &newer) || !strings.Contains(err.Error(), "colours has schema 2, and this Weir knows only up to 1: run the newer Weir") {
		t.Errorf("the older one, afterwards: %v", err)
	}
}
