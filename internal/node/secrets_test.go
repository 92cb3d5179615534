package node

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"weir/internal/bus/bustest"
	"weir/internal/policy"
)

// secretWords are in the names of settings that may be secrets.
var secretWords = regexp.MustCompile(`pass|secret|token|authorization|credential|(^|_)key`)

// noSecrets are settings that are called so and are none.
var noSecrets = map[string]bool{
	"tls.key": true, "nats.tls.key": true, "nats.cluster.tls.key": true, "nats.credentials": true, "secrets.key_file": true, // files
}

// eachSetting calls f for each setting below v.
func eachSetting(path string, v reflect.Value, f func(path string, v reflect.Value)) {
	if v.Type() == reflect.TypeFor[policy.Secret]() || v.Kind() != reflect.Struct {
		f(path, v)
		return
	}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "policy" {
			eachSetting(strings.TrimPrefix(path+"."+name, "."), v.Field(i), f)
		}
	}
}

// The API shows an admin the configuration in force without any secret: of every
// setting that is one, and whatever stands before an @ in an address. A new
// setting that is called like a secret must be one.
func TestConfigOfNodeWithoutSecrets(t *testing.T) {
	const canary = "canary-5d21b0c7"
	nats := bustest.Serve(t)
	c := testConfig(t)
	secrets := map[string]bool{}
	eachSetting("", reflect.ValueOf(c).Elem(), func(path string, v reflect.Value) {
		name := path[strings.LastIndexByte(path, '.')+1:]
		switch s, ok := v.Addr().Interface().(*policy.Secret); {
		case ok:
			*s = policy.NewSecret(canary)
			secrets[path] = true
		case v.Kind() == reflect.String && secretWords.MatchString(name) && !noSecrets[path]:
			t.Errorf("%s is called like a secret, and is a %s", path, v.Type())
		}
	})
	for _, path := range []string{"nats.cluster.password", "tracing.authorization"} {
		if !secrets[path] {
			t.Errorf("%s is no secret", path)
		}
	}
	c.NATS.URL = strings.Replace(nats.ClientURL(), "://", "://user:"+canary+"@", 1) + ",nats://user:" + canary + "@127.0.0.1:1"
	c.Tracing.Endpoint = "http://user:" + canary + "@127.0.0.1:1/v1/traces"
	c.PublicURL = "http://user:" + canary + "@127.0.0.1"
	c.Tracing.Sample = 0
	n, _, _ := start(t, c)
	_, text := n.caller(t, "admin", nil).do("GET", "/api/v1/config", "")
	if strings.Contains(text, canary) {
		t.Errorf("a secret is in %s", text)
	}
	var shown map[string]any
	if err := json.Unmarshal([]byte(text), &shown); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for path := range secrets {
		var v any = shown
		for _, name := range strings.Split(path, ".") {
			m, _ := v.(map[string]any)
			v = m[name]
		}
		if v != "***" {
			t.Errorf("%s is shown as %v", path, v)
		}
	}
	if viewer := n.caller(t, "admin", nil).with("v", "viewer"); true {
		if resp, text := viewer.do("GET", "/api/v1/config", ""); resp.StatusCode != 403 {
			t.Errorf("a viewer gets %s %s", resp.Status, text)
		}
	}
}

// secretTypes returns the settings below a type that are secrets, without the
// numbers of list elements.
func secretTypes(path string, t reflect.Type, within map[reflect.Type]bool) map[string]bool {
	all := map[string]bool{}
	add := func(more map[string]bool) {
		for p := range more {
			all[p] = true
		}
	}
	switch {
	case t == reflect.TypeFor[policy.Secret]():
		all[path] = true
	case t.Kind() == reflect.Pointer:
		add(secretTypes(path, t.Elem(), within))
	case t.Kind() == reflect.Slice:
		add(secretTypes(path+"[]", t.Elem(), within))
	case t.Kind() == reflect.Struct && !within[t]:
		within[t] = true
		defer delete(within, t)
		for i := range t.NumField() {
			if name := t.Field(i).Tag.Get("yaml"); name != "" {
				add(secretTypes(strings.TrimPrefix(path+"."+name, "."), t.Field(i).Type, within))
			}
		}
	}
	return all
}

// Nor does the policy show one, however it is asked for, but to an admin who asks
// for the secrets. A new secret must be in this policy.
func TestPolicyOfNodeWithoutSecrets(t *testing.T) {
	const canary = "canary0123456789"
	access := func(use string) string {
		return fmt.Sprintf(`%s: {require: all, simple: {key: %[2]s1, spare_key: %[2]s2}, signature: {}, signed_url: {type: a, key: %[2]s3, spare_key: %[2]s4}, external: {url: "https://owner.example.com/", secret: %[2]s5}}`, use, canary)
	}
	text := fmt.Sprintf(`
buckets:
  - {name: here, path: objects}
  - {name: s3, type: s3, endpoint: "https://s3.example.com", bucket: bucket, access_key: id, secret_key: %[1]s7}
spaces:
  - name: default
    domains: [{name: "*", %[2]s, %[3]s}]
    access_keys: [{id: key, secret: %[1]s8}]
    callback_delivery: {secret: %[1]s6}
    apps: [{name: live, snapshot: {enabled: true, check: {url: "https://owner.example.com/", secret: %[1]s9}}}]
`, canary, access("publish"), access("play"))
	set := new(policy.Set)
	if problems := policy.Decode([]byte(text), set); len(problems) > 0 {
		t.Fatal(problems)
	}
	missing := secretTypes("", reflect.TypeFor[policy.Set](), map[reflect.Type]bool{})
	number := regexp.MustCompile(`\[[0-9]+\]`)
	policy.EachSecret(set, func(path string, _ *policy.Secret) { delete(missing, number.ReplaceAllString(path, "[]")) })
	if len(missing) > 0 {
		t.Errorf("of these secrets the test knows nothing: %v", missing)
	}
	c := testConfig(t)
	c.Policy = set
	n, _, _ := start(t, c)
	admin := n.caller(t, "admin", nil)
	for _, who := range []*caller{admin, admin.with("ops", "operator"), admin.with("one", "admin", "default")} {
		for _, path := range []string{
			"/policy", "/policy/documents", "/policy/documents/space/default", "/policy/documents/bucket/s3", "/policy/documents/general",
			"/policy/documents/space/default/history", "/spaces", "/spaces/default/apps", "/spaces/default/apps/live", "/spaces/default/domains",
			"/spaces/default/domains/*", "/spaces/default/domains/*/publish/ip", "/spaces/default/access-keys", "/events", "/config",
		} {
			if resp, text := who.do("GET", "/api/v1"+path, ""); strings.Contains(text, canary) || resp.StatusCode >= 500 {
				t.Errorf("GET %s: %s %s", path, resp.Status, text)
			}
		}
	}
	if resp, text := admin.do("GET", "/api/v1/policy?secrets=true", ""); strings.Count(text, canary) < 14 {
		t.Errorf("with secrets: %s %s", resp.Status, text)
	}
}
