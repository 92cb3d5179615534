package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/policy"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", dir)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "listen: {rtmp: '127.0.0.1:0', http: 'off', admin: 'off'}\n")
	bad := file("bad.yaml", "listen: {rtpm: x}\ngrace: 1\n")
	noCert := file("cert.yaml", "listen: {rtmp: '127.0.0.1:0'}\ntls: {cert: none.pem, key: none.key}\n")
	tests := []struct {
		args        string
		out, errors string
	}{
		{"version", "weir " + version, ""},
		{"check -c " + good, good + ": ok\n", ""},
		{"check -c " + bad, "", bad + ":1:10: listen.rtpm: unknown setting; the settings here are admin, http, https, rtmp, rtmps\n" +
			bad + `:2:8: grace: must be a duration such as 150ms, 20s or 1m30s, not "1"`},
		{"serve -c " + bad, "", bad + ":1:10: "},
		{"check -c " + dir + "/none.yaml", "", "weir: read configuration: open " + dir + "/none.yaml: no such file or directory"},
		{"check -c " + noCert, "", "weir: certificate of tls.cert and tls.key: open " + dir + "/none.pem: no such file or directory"},
		{"check", "", "weir: missing flags: --config=FILE"},
		{"frob", "", "weir: unexpected argument frob\nTry: weir --help"},
		{"serve -c " + good, "Push rtmp://127.0.0.1:", ""}, // the context has ended: it serves and shuts down
		{"-c " + good, "Push rtmp://127.0.0.1:", ""},
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range tests {
		var out bytes.Buffer
		err := run(ctx, strings.Fields(tt.args), &out)
		if !strings.HasPrefix(out.String(), tt.out) {
			t.Errorf("weir %s printed %q, want %q", tt.args, &out, tt.out)
		}
		switch {
		case tt.errors == "" && err != nil:
			t.Errorf("weir %s: %v", tt.args, err)
		case tt.errors != "" && (err == nil || !strings.HasPrefix(message(err), tt.errors)):
			t.Errorf("weir %s: %v, want %s", tt.args, err, tt.errors)
		}
	}
}

func TestPrintURLs(t *testing.T) {
	set := &policy.Set{Spaces: []policy.Space{
		{Name: "a", Domains: []policy.Domain{{Name: "push.example.com", Type: policy.Publish}}, Apps: []policy.App{policy.DefaultApp("live")}},
		{Name: "b", Domains: []policy.Domain{{Name: "*.example.com", Type: policy.Play}}, Apps: []policy.App{policy.DefaultApp("show")}},
	}}
	addrs := map[string]net.Addr{
		"rtmp":  &net.TCPAddr{Port: 1935},
		"http":  &net.TCPAddr{IP: net.IPv6unspecified, Port: 80},
		"https": &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8443},
		"admin": &net.TCPAddr{IP: net.IPv6loopback, Port: 8081},
	}
	var out bytes.Buffer
	printURLs(&out, func(l string) net.Addr { return addrs[l] }, set)
	want := `Push  rtmp://push.example.com/live/STREAM
      ffmpeg -re -i video.mp4 -c copy -f flv rtmp://push.example.com/live/demo
Play  rtmp://www.example.com/show/STREAM
      http://www.example.com/show/STREAM.flv
      http://www.example.com/show/STREAM/index.m3u8
      https://www.example.com:8443/show/STREAM.flv
      https://www.example.com:8443/show/STREAM/index.m3u8
Page  http://127.0.0.1/
Admin http://[::1]:8081/metrics
      http://[::1]:8081/api/v1/openapi.yaml
`
	if out.String() != want {
		t.Errorf("printURLs:\n%s\nwant:\n%s", &out, want)
	}
	out.Reset()
	printURLs(&out, func(string) net.Addr { return nil }, set)
	if out.Len() > 0 {
		t.Errorf("printURLs without listeners printed %q", &out)
	}
}
