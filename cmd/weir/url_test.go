package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const accessConfig = `
listen: {rtmp: ":1935", http: ":80", https: ":443"}
tls: {cert: c.pem, key: k.pem}
policy:
  spaces:
  - name: demo
    access_keys:
    - {id: KEY, secret: 0123456789abcdef}
    domains:
    - name: push.example.com
      type: publish
      publish:
        simple: {key: 0123456789abcdef, max_validity: 1h}
        signature: {strict: true}
    - name: "*.play.example.com"
      type: play
      play:
        simple: {key: 0123456789abcdef}
        signed_url: {type: c, key: 0123456789abcdef}
        require: any
    apps: [{name: live}]
  - name: open
    domains: [{name: 192.0.2.1, type: play}]
    apps: [{name: show}]
`

func TestURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(path, []byte(accessConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	weir := func(args string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append(strings.Fields(args), "-c", path), &out)
		return out.String(), err
	}
	tests := []struct{ args, want string }{
		{"url push --stream s1", `# rtmp by simple and signature, until 20\S+Z
rtmp://push.example.com/live/s1\?t=\d+&k=\w+&nonce=\w+&app=live&stream=s1&accesskey=KEY&expire=\d+&signature=\S+
`},
		{"url play --stream s1 --protocol flv,ws-flv,hls -q", `http://www.play.example.com/live/s1.flv\?t=\d+&k=\w+
http://www.play.example.com/\w{32}/\w{8}/live/s1.flv
ws://www.play.example.com/live/s1.flv\?t=\d+&k=\w+
ws://www.play.example.com/\w{32}/\w{8}/live/s1.flv
http://www.play.example.com/live/s1/index.m3u8\?t=\d+&k=\w+
http://www.play.example.com/\w{32}/\w{8}/live/s1/index.m3u8
`},
		{"url play --stream s1 --protocol hls --tls --domain x.play.example.com:8443 -q", `https://x.play.example.com:8443/live/s1/index.m3u8\?t=\d+&k=\w+
https://x.play.example.com:8443/\w{32}/\w{8}/live/s1/index.m3u8
`},
		{"url play --app show --stream s1 --protocol rtmp", `# rtmp, without authentication
rtmp://192.0.2.1/show/s1
`},
	}
	for _, tt := range tests {
		out, err := weir(tt.args)
		if err != nil || !regexp.MustCompile("^"+tt.want+"$").MatchString(out) {
			t.Errorf("weir %s = %v\n%s\nwant\n%s", tt.args, err, out, tt.want)
		}
		for url := range strings.Lines(out) {
			if strings.HasPrefix(url, "#") {
				continue
			}
			push := ""
			if strings.Contains(tt.args, " push ") {
				push = "--push "
			}
			out, err := weir("url verify " + push + strings.TrimSpace(url))
			if err != nil || !strings.HasSuffix(out, "Success\n") {
				t.Errorf("weir url verify %s: %v\n%s", url, err, out)
			}
		}
	}
	for args, want := range map[string]string{
		"url push --stream s1 --protocol rtmps":                             "", // with a certificate it is on
		"url push --stream s1 --app none --domain push.example.com":         "Non-Exist Application",
		"url push --stream .s1":                                             "Illegal Stream Name",
		"url push --stream s1 --domain none.example.com":                    "Non-Exist Publish Domain",
		"url play --stream s1 --protocol gopher":                            "must be one of",
		"url verify http://x.play.example.com/live/s1.flv":                  "not accepted",
		"url verify rtmp://push.example.com/live/s1":                        "not accepted", // to play from
		"url verify http://x.play.example.com/live/s1.mp4":                  "not the URL of a stream",
		"url verify --client x http://x.play.example.com/live/s1.flv":       "--client",
		"url verify --client 192.0.2.9 http://192.0.2.1/show/s1/index.m3u8": "",
	} {
		out, err := weir(args)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("weir %s = %v, want %s\n%s", args, err, want, out)
		}
	}
}
