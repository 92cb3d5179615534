package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/internal/policy"
)

func TestConfigErrors(t *testing.T) {
	tests := []struct{ name, yaml, want string }{
		{"unknown section", "lisen:\n  rtmp: :1\n",
			"weir.yaml:1:1: lisen: unknown setting; the settings here are allow_open_publish, api, data, events, ffmpeg, gather_ceiling, grace, hls_memory, io_uring, limits, listen, log, metrics, nats, node, policy, policy_source, public_url, record, secrets, slow_failures, statistics, tls, tracing, transcode, trusted_proxies"},
		{"unknown key", "listen:\n  rtmp: 127.0.0.1:1935\n  rtpm: 127.0.0.1:1936\n",
			"weir.yaml:3:3: listen.rtpm: unknown setting; the settings here are admin, http, https, rtmp, rtmps"},
		{"key twice", "grace: 1s\ngrace: 2s\n",
			"weir.yaml:2:1: grace: set twice"},
		{"duration without unit", "grace: 10\n",
			`weir.yaml:1:8: grace: must be a duration such as 150ms, 20s or 1m30s, not "10"`},
		{"duration empty", "grace:\n",
			`weir.yaml:1:1: grace: must be a duration such as 150ms, 20s or 1m30s, not nothing`},
		{"duration out of bounds", "grace: 1h\n",
			"weir.yaml:1:8: grace: must be 0s to 10m0s, not 1h0m0s"},
		{"size", "limits:\n  slow_size: 2 megabytes\n",
			`weir.yaml:2:14: limits.slow_size: must be a size such as 512, 64KiB or 16MiB, not "2 megabytes"`},
		{"size out of bounds", "limits:\n  video_size: 16MiB\n",
			"weir.yaml:2:15: limits.video_size: must be at most 16777215: an RTMP message has a length of 24 bits"},
		{"number", "limits:\n  chunk_streams: many\n",
			`weir.yaml:2:18: limits.chunk_streams: must be a whole number, not "many"`},
		{"limit off", "limits:\n  chunk_streams: 0\n",
			"weir.yaml:2:18: limits.chunk_streams: must be 1 to 1000000, not 0"},
		{"bool", "allow_open_publish: maybe\n",
			`weir.yaml:1:21: allow_open_publish: must be true or false, not "maybe"`},
		{"address", "listen:\n  http: 8080\n",
			`weir.yaml:2:9: listen.http: must be an address such as 127.0.0.1:1935, [::1]:1935 or :1935, or off, not "8080"`},
		{"address host", "listen:\n  http: example.com:80\n",
			`weir.yaml:2:9: listen.http: must be an address such as 127.0.0.1:1935, [::1]:1935 or :1935, or off, not "example.com:80"`},
		{"address port", "listen:\n  http: :99999\n",
			`weir.yaml:2:9: listen.http: must be an address such as 127.0.0.1:1935, [::1]:1935 or :1935, or off, not ":99999"`},
		{"address taken", "listen:\n  http: 127.0.0.1:1935\n",
			"weir.yaml:2:9: listen.http: 127.0.0.1:1935 takes the port of listen.rtmp, which is 127.0.0.1:1935; set one of them to another port or to off"},
		{"address taken by all addresses", "listen:\n  http: :8081\n",
			"weir.yaml:1:1: listen.admin: 127.0.0.1:8081 takes the port of listen.http, which is :8081; set one of them to another port or to off"},
		{"address taken by localhost", "listen:\n  http: localhost:8081\n",
			"weir.yaml:1:1: listen.admin: 127.0.0.1:8081 takes the port of listen.http, which is localhost:8081; set one of them to another port or to off"},
		{"address taken from all addresses", "listen:\n  http: '[::1]:1935'\n  rtmp: 0.0.0.0:01935\nallow_open_publish: true\n",
			"weir.yaml:2:9: listen.http: [::1]:1935 takes the port of listen.rtmp, which is 0.0.0.0:01935; set one of them to another port or to off"},
		{"address taken that comes with a certificate", "tls: {cert: a.pem, key: a.pem}\nlisten: {http: ':1936'}\n",
			"weir.yaml:2:16: listen.http: :1936 takes the port of listen.rtmps, which is 127.0.0.1:1936; set one of them to another port or to off"},
		{"word", "log:\n  level: loud\n",
			`weir.yaml:2:10: log.level: must be debug, info, warn or error, not "loud"`},
		{"list for a word", "log:\n  level: [info]\n",
			`weir.yaml:2:3: log.level: must be one word, not a list`},
		{"section expected", "listen: :1935\n",
			`weir.yaml:1:9: listen: must be a section of settings, not ":1935"`},
		{"list expected", "policy:\n  spaces: demo\n",
			`weir.yaml:2:11: policy.spaces: must be a list, not "demo"`},
		{"TLS without certificate", "listen:\n  rtmps: 127.0.0.1:443\n",
			"weir.yaml:2:10: listen.rtmps: needs a certificate: set tls.cert and tls.key, or write off"},
		{"half a certificate", "tls:\n  cert: a.pem\n",
			"weir.yaml:1:1: tls: needs both cert and key"},
		{"open publish", "listen:\n  rtmp: :1935\n",
			`weir.yaml:2:9: listen.rtmp: anybody who can reach :1935 could publish: the domain "*" has no authentication; ` +
				"give it one below publish, listen on 127.0.0.1, or set allow_open_publish: true"},
		{"node name", "node: a b\n",
			`weir.yaml:1:7: node: "a b" is not a name: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with . or -`},
		{"public URL", "public_url: https://live.example.com/x\n",
			"weir.yaml:1:13: public_url: must be such as https://live.example.com, without path"},
		{"NATS URL", "nats: {url: 'http://x'}\n",
			"weir.yaml:1:13: nats.url: must be a URL such as nats://nats.example.com:4222 or tls://nats.example.com:4222, or several with commas between"},
		{"NATS password", "nats: {url: 'nats://a:canary@x:4222'}\n",
			"weir.yaml:1:13: nats.url: must hold no password: set credentials to a file"},
		{"NATS twice", "nats: {url: 'nats://x:4222', cluster: {name: c, listen: '127.0.0.1:1', routes: ['a:1']}}\n",
			"weir.yaml:1:30: nats.cluster: is for the NATS in the process, and nats.url is that of another one"},
		{"NATS credentials alone", "nats: {credentials: a.creds}\n",
			"weir.yaml:1:1: nats: credentials and tls go with url"},
		{"NATS replicas", "nats: {url: 'nats://x:4222', replicas: 2}\n",
			"weir.yaml:1:40: nats.replicas: must be 1, 3 or 5, not 2"},
		{"NATS replicas alone", "nats: {replicas: 3}\n",
			"weir.yaml:1:18: nats.replicas: goes with url: the NATS in the process keeps everything once, and in a cluster three times"},
		{"cluster without a name", "nats: {cluster: {listen: '127.0.0.1:1'}}\n",
			"weir.yaml:1:8: nats.cluster: name is missing"},
		{"cluster alone", "nats: {cluster: {name: c}}\n",
			"weir.yaml:1:8: nats.cluster: listen is missing: the address at which the other nodes reach this one"},
		{"cluster without others", "nats: {cluster: {name: c, listen: '127.0.0.1:1'}}\n",
			"weir.yaml:1:8: nats.cluster: routes is missing: the addresses of the other nodes"},
		{"cluster route", "nats: {cluster: {name: c, listen: '127.0.0.1:1', routes: [a]}}\n",
			"weir.yaml:1:59: nats.cluster.routes[0]: must be host:port, where another node listens"},
		{"open cluster", "nats: {cluster: {name: c, listen: ':1', routes: ['a:1']}}\n",
			"weir.yaml:1:8: nats.cluster: anybody who can reach :1 could join the cluster: set user and password, or tls with a ca"},
		{"half a password", "nats: {cluster: {name: c, listen: ':1', routes: ['a:1'], password: x}}\n",
			"weir.yaml:1:8: nats.cluster: needs both user and password"},
		{"events", "events: {max_age: 1s}\n",
			"weir.yaml:1:19: events.max_age: must be 1h0m0s to 87600h0m0s, not 1s"},
		{"space name", "policy:\n  spaces:\n  - name: ../etc\n",
			`weir.yaml:3:11: policy.spaces[0].name: "../etc" is not a name: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with . or -`},
		{"number as a name", "policy:\n  spaces:\n  - name: 007\n",
			`weir.yaml:3:11: policy.spaces[0].name: must be text; write it in quotes: "007"`},
		{"name missing", "policy:\n  spaces:\n  - name: demo\n    apps:\n    - hold: 3s\n",
			"weir.yaml:5:7: policy.spaces[0].apps[0]: name is missing"},
		{"app twice", "policy:\n  spaces:\n  - name: demo\n    apps:\n    - name: live\n    - name: live\n",
			`weir.yaml:6:13: policy.spaces[0].apps[1].name: "live" is already the name of spaces[0].apps[0]`},
		{"domain twice", "policy:\n  spaces:\n  - name: a\n    domains:\n    - name: X.example.com\n  - name: b\n    domains:\n    - {name: x.example.com., type: play}\n",
			`weir.yaml:8:14: policy.spaces[1].domains[0].name: "x.example.com." is already the name of spaces[0].domains[0]`},
		{"domain type", "policy:\n  spaces:\n  - name: a\n    domains:\n    - {name: x.example.com, type: push}\n",
			`weir.yaml:5:35: policy.spaces[0].domains[0].type: must be publish, play or both, not "push"`},
		{"domain name", "policy:\n  spaces:\n  - name: a\n    domains:\n    - name: http://x/\n",
			`weir.yaml:5:13: policy.spaces[0].domains[0].name: "http://x/" is not a host name: live.example.com, *.example.com, * or an IP address, without port, international names in their xn-- form`},
		{"default space", "policy:\n  default_space: demo\n  spaces: []\n",
			`weir.yaml:2:18: policy.default_space: there is no space "demo"`},
		{"network", "policy:\n  spaces:\n  - name: a\n    domains:\n    - name: x.example.com\n      play:\n        ip: {block: [10.0.0.1/24, 010.0.0.1]}\n",
			`weir.yaml:7:22: policy.spaces[0].domains[0].play.ip.block[0]: must be 10.0.0.0/24 for the range or 10.0.0.1 for the address, not "10.0.0.1/24"` + "\n" +
				`weir.yaml:7:35: policy.spaces[0].domains[0].play.ip.block[1]: must be an address or a range such as 192.0.2.1, 192.0.2.0/24, 192.0.2.0/255.255.255.0 or 2001:db8::/32, not "010.0.0.1"`},
		{"method without settings", "policy:\n  spaces:\n  - name: a\n    domains:\n    - name: x.example.com\n      publish:\n        signature:\n",
			"weir.yaml:7:9: policy.spaces[0].domains[0].publish.signature: must be a section of settings, not nothing; write {} for its defaults"},
		{"secrets are not quoted", "policy:\n  spaces:\n  - name: a\n    access_keys: canary\n    domains:\n    - name: x.example.com\n      publish:\n        simple: canary\n        signed_url: {type: a, key: canary canary}\n",
			"weir.yaml:4:18: policy.spaces[0].access_keys: must be a list, not text\n" +
				"weir.yaml:8:17: policy.spaces[0].domains[0].publish.simple: must be a section of settings, not text\n" +
				"weir.yaml:9:36: policy.spaces[0].domains[0].publish.signed_url.key: must be of letters, digits, - and _"},
		{"forbidden until", "policy:\n  spaces:\n  - name: a\n    forbidden: [{app: live, until: tomorrow}]\n",
			`weir.yaml:4:36: policy.spaces[0].forbidden[0].until: must be a time such as 2026-01-31T20:00:00Z, not "tomorrow"`},
		{"HLS mode", "policy:\n  spaces:\n  - name: demo\n    apps:\n    - name: live\n      hls: {mode: never}\n",
			`weir.yaml:6:19: policy.spaces[0].apps[0].hls.mode: must be on_demand, always or off, not "never"`},
		{"HLS window", "policy:\n  spaces:\n  - name: demo\n    apps:\n    - name: live\n      hls:\n        window: 2\n",
			`weir.yaml:7:17: policy.spaces[0].apps[0].hls.window: must be 3 to 1000 segments, not 2`},
		{"alias", "grace: &g 5s\ngather_ceiling: *g\n",
			"weir.yaml:1:1: grace: must be a duration such as 150ms, 20s or 1m30s, not an anchor, alias or tag\n" +
				"weir.yaml:2:1: gather_ceiling: must be a duration such as 150ms, 20s or 1m30s, not an anchor, alias or tag"},
		{"all at once", "grace: x\nlog: {format: xml}\nlimits: {slow_time: 0s}\n",
			`weir.yaml:1:8: grace: must be a duration such as 150ms, 20s or 1m30s, not "x"` + "\n" +
				`weir.yaml:2:15: log.format: must be text or json, not "xml"` + "\n" +
				"weir.yaml:3:21: limits.slow_time: must be 100ms to 10m0s, not 0s"},
		{"two documents", "grace: 1s\n---\ngrace: 2s\n", "weir.yaml:3:1: a second document in one file"},
		{"syntax", "listen:\n  rtmp: [\n", "weir.yaml:2:9: sequence end token ']' not found"},
		{"tab", "listen:\n\trtmp: x\n", "weir.yaml:2:1: found character '\t' that cannot start any token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig("weir.yaml", []byte(tt.yaml))
			if err == nil {
				t.Fatalf("parseConfig(%q) succeeded, want %s", tt.yaml, tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("parseConfig(%q):\n got %s\nwant %s", tt.yaml, err, tt.want)
			}
		})
	}
}

func TestConfigAccepted(t *testing.T) {
	for _, text := range []string{
		"",
		"# nothing\n",
		"\ufefflisten: {rtmp: off}\n",
		"listen:\n# all as it is\nlimits:\n",
		"listen: {rtmp: off, http: off, admin: off}\n",
		"listen: {rtmp: '[::1]:1935', http: 'localhost:8080', admin: '127.0.0.1:0'}\n",
		"listen: {rtmp: :1935}\nallow_open_publish: true\n",
		"listen: {http: :8080}\n",
		"listen: {rtmp: '127.0.0.1:1935', http: '127.0.0.2:1935', https: 'off', admin: '[::1]:1935'}\n",
		"listen: {rtmp: '127.0.0.1:0', http: ':0', admin: ':0'}\n",
		"listen: {rtmp: :1935}\npolicy: {spaces: [{name: a, domains: [{name: '*', type: play}]}]}\n",
		"listen: {rtmp: :1935}\npolicy: {spaces: [{name: a, domains: [{name: '*', publish: {simple: {key: 12345678}}}]}]}\n",
		`{"grace": "3s", "policy": {"spaces": []}}`,
	} {
		if _, err := parseConfig("weir.yaml", []byte(text)); err != nil {
			t.Errorf("parseConfig(%q): %v", text, err)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	text := `
listen: {rtmp: ":1935", https: "off", admin: "off"}
tls: {cert: cert.pem, key: /etc/key.pem}
log: {level: debug, format: json}
limits: {slow_size: 1MiB, connections_per_ip: 100}
gather_ceiling: 40ms
io_uring: false
allow_open_publish: true
policy:
  default_space: demo
  spaces:
  - name: demo
    domains:
    - {name: push.example.com, type: publish}
    - {name: "*.example.com", type: play, not_found: true}
    apps:
    - name: live
      takeover: true
      hold: 0s
      hls: {mode: always, window: 7, max_segment_size: 8MiB}
`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.File, want.HasPolicy = path, true
	want.Listen = Listen{RTMP: ":1935", RTMPS: "127.0.0.1:1936", HTTP: "127.0.0.1:8080", HTTPS: "off", Admin: "off"}
	want.TLS = TLS{Cert: filepath.Join(dir, "cert.pem"), Key: "/etc/key.pem"}
	want.Log.Level.Level = slog.LevelDebug
	want.Log.Format = "json"
	want.Limits.SlowSize = 1 << 20
	want.Limits.ConnectionsPerIP = 100
	want.GatherCeiling = 40 * time.Millisecond
	want.IOURing = false
	want.AllowOpenPublish = true
	app := policy.DefaultApp("live")
	app.Takeover, app.Hold = true, 0
	app.HLS.Mode, app.HLS.Window, app.HLS.MaxSegmentSize = policy.HLSAlways, 7, 8<<20
	want.Policy = &policy.Set{
		DefaultSpace: "demo",
		Spaces: []policy.Space{{
			Name: "demo",
			Domains: []policy.Domain{
				{Name: "push.example.com", Type: policy.Publish},
				{Name: "*.example.com", Type: policy.Play, NotFound: true},
			},
			Apps: []policy.App{app},
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(policy.Set{})); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
	if _, err := Load(filepath.Join(dir, "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("Load of a file that is not there = %v, want its name", err)
	}
}

// The example holds every setting with its default.
func TestExample(t *testing.T) {
	c, err := Load("../../weir.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.HasPolicy, want.File, want.Listen.RTMPS, want.Listen.HTTPS, want.Log.Format = true, c.File, "off", "off", "text"
	if diff := cmp.Diff(want, c, cmpopts.IgnoreUnexported(policy.Set{})); diff != "" {
		t.Errorf("weir.example.yaml and the defaults (-default +example):\n%s", diff)
	}
	text, err := os.ReadFile("../../weir.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				name := typ.Field(i).Tag.Get("yaml")
				if name == "" {
					continue
				}
				if !strings.Contains(string(text), " "+name+":") && !strings.Contains(string(text), "\n"+name+":") {
					missing = append(missing, name)
				}
				walk(typ.Field(i).Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	if missing != nil {
		t.Errorf("weir.example.yaml does not have %q", missing)
	}
}
