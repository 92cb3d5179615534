package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"weir/internal/event"
)

// TestRedact puts a secret everywhere in a fact of each type where a client or
// an owner can put one.
func TestRedact(t *testing.T) {
	const secret = "hunter2hunter2"
	client := event.Client{
		Domain: "push.example.com", Protocol: "rtmp",
		Params: []event.Param{
			{Name: "k", Value: secret}, {Name: "signature", Value: secret}, {Name: "Token", Value: secret}, {Name: "accesskey", Value: secret},
			{Name: "auth_key", Value: secret}, {Name: "txSecret", Value: secret}, {Name: "sign", Value: secret}, {Name: "PASSWORD", Value: secret},
			{Name: "t", Value: "1700000000"}, {Name: "room", Value: "7"},
		},
		TcURL:   "rtmp://user:" + secret + "@push.example.com/live?token=" + secret + "&room=7&k=" + secret + "#" + secret,
		PageURL: "https://example.com/?wsSecret=" + secret, SwfURL: "x?pwd=" + secret, Referer: "https://example.com/#" + secret,
	}
	callback := &event.Callback{URL: "https://u:" + secret + "@example.com/hook?any=" + secret, Group: "https://example.com/hook?any=" + secret}
	for _, typ := range event.Types() {
		e := event.Event{Type: typ, Data: zeroOf(typ)}
		fill(reflect.ValueOf(&e.Data).Elem(), client, callback, secret)
		b, err := json.Marshal(redact(e))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) {
			t.Errorf("%s: %s", typ, b)
		}
		before, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(before), "push.example.com") != strings.Contains(string(b), "push.example.com") {
			t.Errorf("%s: lost what is no secret: %s", typ, b)
		}
		if strings.Contains(string(before), `"room"`) && !strings.Contains(string(b), `"value":"7"`) {
			t.Errorf("%s: lost what is no secret: %s", typ, b)
		}
	}
	if client.Params[0].Value != secret || !strings.Contains(callback.URL, secret) {
		t.Error("redact changed the fact that it was given")
	}
	const path = "rtmp://push.example.com/0123456789abcdef0123456789abcdef/65a0/live/demo"
	if got, want := redactURL(path, false), "rtmp://push.example.com/***/65a0/live/demo"; got != want {
		t.Errorf("redactURL(%q) = %q, want %q", path, got, want)
	}
}

// zeroOf returns an empty Data of a type.
func zeroOf(t event.Type) event.Data {
	var e event.Event
	if err := json.Unmarshal([]byte(`{"type":"`+string(t)+`","data":{}}`), &e); err != nil {
		panic(err)
	}
	return e.Data
}

// fill puts client, callback and a URL with a secret into the fields of a
// struct that are there for them.
func fill(iface reflect.Value, client event.Client, callback *event.Callback, secret string) {
	v := reflect.New(iface.Elem().Type()).Elem()
	v.Set(iface.Elem())
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			f := v.Field(i)
			switch {
			case f.Type() == reflect.TypeFor[event.Client]():
				f.Set(reflect.ValueOf(client))
			case f.Type() == reflect.TypeFor[*event.Callback]():
				f.Set(reflect.ValueOf(callback))
			case v.Type().Field(i).Name == "URL":
				f.SetString("https://u:" + secret + "@example.com/?x=" + secret)
			case f.Kind() == reflect.Struct && v.Type().Field(i).Anonymous:
				walk(f)
			}
		}
	}
	walk(v)
	iface.Set(v)
}
