package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/internal/policy"
)

// recorder is an S3 server that remembers the last request.
func recorder(t *testing.T, last *http.Request) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*last = *r
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"x"`)
	}))
	t.Cleanup(s.Close)
	return s
}

func requestBucket(endpoint string) (b policy.Bucket) {
	b.SetDefaults()
	b.Name, b.Type, b.Endpoint, b.Bucket = "remote", policy.BucketS3, policy.Endpoint(endpoint), "weir"
	b.AllowNetworks = []policy.Network{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	b.AccessKey, b.SecretKey = "THEKEY", policy.NewSecret("the secret")
	return b
}

// Where a request goes, and in whose name.
func TestS3Requests(t *testing.T) {
	var last http.Request
	server := recorder(t, &last)
	container := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId":"ROLEKEY","SecretAccessKey":"s","Token":"ROLETOKEN","Expiration":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(container.Close)
	for _, name := range []string{"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("AWS_SESSION_TOKEN", "ENVTOKEN")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.URL)
	for _, c := range []struct {
		name             string
		change           func(*policy.Bucket)
		host, path, auth string
		token            string
	}{
		{"auto, elsewhere", func(b *policy.Bucket) {}, "s3.test", "/weir/a/b%20c", "Credential=THEKEY/*/us-east-1/s3/", ""},
		{"path", func(b *policy.Bucket) { b.Style, b.Region = policy.BucketStylePath, "eu-3" }, "s3.test", "/weir/a/b%20c", "Credential=THEKEY/*/eu-3/s3/", ""},
		{"virtual host", func(b *policy.Bucket) { b.Style, b.Prefix = policy.BucketStyleVirtualHost, "p/" }, "weir.s3.test", "/p/a/b%20c", "Credential=THEKEY/*/us-east-1/s3/", ""},
		{"auto, Amazon", func(b *policy.Bucket) { b.Endpoint = "http://s3.eu-central-1.amazonaws.com" },
			"weir.s3.dualstack.eu-central-1.amazonaws.com", "/a/b%20c", "Credential=THEKEY/*/eu-central-1/s3/", ""},
		{"another port", func(b *policy.Bucket) { b.Endpoint = "http://s3.test:9000" }, "s3.test:9000", "/weir/a/b%20c", "Credential=THEKEY/*/us-east-1/s3/", ""},
		{"environment", func(b *policy.Bucket) {
			b.Credentials, b.AccessKey, b.SecretKey = policy.BucketEnvironment, "", policy.Secret{}
		},
			"s3.test", "/weir/a/b%20c", "Credential=ENVKEY/", "ENVTOKEN"},
		{"role", func(b *policy.Bucket) {
			b.Credentials, b.AccessKey, b.SecretKey = policy.BucketRole, "", policy.Secret{}
		},
			"s3.test", "/weir/a/b%20c", "Credential=ROLEKEY/", "ROLETOKEN"},
	} {
		b := requestBucket("http://s3.test")
		c.change(&b)
		s, err := OpenS3(b, S3Options{Attempts: 1, dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), "a/b c"); err != nil {
			t.Errorf("%s: Stat = %v", c.name, err)
			continue
		}
		auth := last.Header.Get("Authorization")
		before, after, _ := strings.Cut(c.auth, "*")
		if last.Host != c.host || last.URL.EscapedPath() != c.path || !strings.Contains(auth, before) || !strings.Contains(auth, after) || last.Header.Get("X-Amz-Security-Token") != c.token {
			t.Errorf("%s: %s %s, %s, token %q", c.name, last.Host, last.URL.EscapedPath(), auth, last.Header.Get("X-Amz-Security-Token"))
		}
		u, err := s.SignedURL(t.Context(), "a/b c", 30*24*time.Hour)
		if err != nil || !strings.HasPrefix(u, "http://"+c.host+c.path+"?") || !strings.Contains(u, "X-Amz-Expires=604800") {
			t.Errorf("%s: SignedURL = %s, %v", c.name, u, err)
		}
	}
}

// Who may change the policy does not reach by it what only this machine can.
func TestS3PrivateNetwork(t *testing.T) {
	var last http.Request
	server := recorder(t, &last)
	b := requestBucket(server.URL)
	b.AllowNetworks = nil
	s, err := OpenS3(b, S3Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Stat(t.Context(), "a")
	if !errors.Is(err, ErrRefused) || !errors.Is(err, policy.ErrPrivate) || last.Method != "" {
		t.Errorf("Stat = %v, the server saw %q", err, last.Method)
	}
}

// H98: whatever a server answers, the error is short and the memory bounded, and
// the credentials go nowhere else.
func TestS3HostileAnswers(t *testing.T) {
	var seen http.Request
	elsewhere := recorder(t, &seen)
	bomb := `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "` + strings.Repeat("a", 1000) + `"><!ENTITY b "` + strings.Repeat("&a;", 1000) + `">]><Error><Code>&b;</Code></Error>`
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
	}{
		{"an error of 10 MiB", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			fmt.Fprintf(w, "<Error><Code>X</Code><Message>%s</Message></Error>", strings.Repeat("m\n", 5<<20))
		}},
		{"an endless error", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
		{"an endless list", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "<ListBucketResult>")
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, strings.Repeat("<Contents><Key>k</Key></Contents>", 1000)); err != nil {
					return
				}
			}
		}},
		{"an entity bomb", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(400); fmt.Fprint(w, bomb) }},
		{"a list that is a bomb", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, bomb) }},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/stolen", http.StatusTemporaryRedirect)
		}},
		{"control characters", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(403)
			fmt.Fprint(w, "<Error><Code>AccessDenied</Code><Message>a&#10;level=error msg=forged\x7f</Message></Error>")
		}},
		{"nothing", func(w http.ResponseWriter, r *http.Request) {}},
		{"no HTTP", func(w http.ResponseWriter, r *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(c, "SSH-2.0-OpenSSH\r\n")
				c.Close()
			}
		}},
	} {
		server := httptest.NewServer(http.HandlerFunc(c.answer))
		b := requestBucket(server.URL)
		s, err := OpenS3(b, S3Options{Attempts: 1, Stall: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_, put := s.Put(t.Context(), "a", strings.NewReader("x"), PutOptions{})
		_, list := s.List(t.Context(), "", "", 0)
		_, up := s.Upload(t.Context(), "a", PutOptions{})
		for method, err := range map[string]error{"Put": put, "List": list, "Upload": up} {
			if err == nil && c.name != "nothing" && !strings.Contains(c.name, "list") {
				t.Errorf("%s: %s succeeded", c.name, method)
			}
			if err != nil && (len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7F }) ||
				strings.Contains(err.Error(), "secret")) {
				t.Errorf("%s: %s: %.1000q", c.name, method, err)
			}
		}
		if put == nil {
			t.Errorf("%s: Put succeeded", c.name)
		}
		server.CloseClientConnections()
		server.Close()
	}
	if seen.Method != "" {
		t.Errorf("the redirect was followed: %s %s with %v", seen.Method, seen.URL, seen.Header)
	}
}
