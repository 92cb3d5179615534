package access

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"weir/internal/policy"
	"weir/internal/stream"
)

var openGate = NewGate(policy.Default)

func testGate() *Gate {
	off := policy.DefaultApp("off")
	off.Disabled = true
	set := &policy.Set{
		DefaultSpace: "b",
		Spaces: []policy.Space{
			{
				Name: "a",
				Domains: []policy.Domain{
					{Name: "push.example", Type: policy.Publish},
					{Name: "play.example", Type: policy.Play},
					{Name: "new.example", Type: policy.Play, NotFound: true},
				},
				Apps: []policy.App{policy.DefaultApp("live"), off},
			},
			{
				Name:    "b",
				Domains: []policy.Domain{{Name: "b.example", Type: policy.Both}},
				Apps:    []policy.App{policy.DefaultApp("show")},
			},
		},
	}
	return NewGate(func() *policy.Set { return set })
}

// H40, and the order of the checks (B.29).
func TestCheck(t *testing.T) {
	tests := []struct {
		op                Op
		host, app, stream string
		want              Reason
	}{
		{Publish, "push.example", "live", "s", ""},
		{Play, "play.example", "live", "s", ""},
		{Publish, "b.example", "show", "s", ""},
		{Play, "b.example", "show", "s", ""},
		{Play, "", "show", "s", ""},
		{Publish, "", "live", "s", NoApp},
		{Publish, "play.example", "live", "s", NoDomain},
		{Play, "push.example", "live", "s", NoDomain},
		{Publish, "none.example", "live", "s", NoDomain},
		{Publish, "none.example", "none", "..", NoDomain},
		{Publish, "push.example", "none", "..", NoApp},
		{Publish, "push.example", "show", "s", NoApp},
		{Publish, "push.example", "off", "s", NoApp},
		{Publish, "push.example", "LIVE", "s", NoApp},
		{Publish, "push.example", "", "s", NoApp},
		{Publish, "push.example", "../live", "s", NoApp},
		{Publish, "push.example", "live", "", BadName},
		{Publish, "push.example", "live", "a/b", BadName},
		{Play, "play.example", "live", "..", BadName},
	}
	gate := testGate()
	for _, tt := range tests {
		g, err := gate.Check(t.Context(), Request{Op: tt.op, Host: tt.host, App: tt.app, Stream: tt.stream})
		var d *Denied
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s %s/%s/%s: %v", tt.op, tt.host, tt.app, tt.stream, err)
		case tt.want != "" && (!errors.As(err, &d) || d.Reason != tt.want || g != nil):
			t.Errorf("%s %s/%s/%s: %v, %v, want %s", tt.op, tt.host, tt.app, tt.stream, g, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gate.Check(ctx, Request{Op: Play, Host: "play.example", App: "live", Stream: "s"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Check with an ended context = %v", err)
	}
}

func TestGrant(t *testing.T) {
	r := Request{Op: Publish, Protocol: RTMP, Host: "push.example", App: "live", Stream: "s"}
	g, err := testGate().Check(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := (stream.Key{Space: "a", App: "live", Name: "s"}); g.Key() != want {
		t.Errorf("Key = %v, want %v", g.Key(), want)
	}
	if g.Space().Name != "a" || g.Domain().Name != "push.example" || g.App().Name != "live" || g.Request().Stream != "s" {
		t.Errorf("Grant = %v, %v, %v, %v", g.Space(), g.Domain(), g.App(), g.Request())
	}
}

// The tables of the guide, l.246-266, l.305-314 and l.376-430, with what the
// contract adds in B.19, B.21, B.26, B.37 and B.52-B.58.
func TestDenied(t *testing.T) {
	const head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	domain := "<Error>\n<Code>NonExistDomain</Code>\n</Error>\n"
	app := "<Error>\n<Code>NonExistApplication</Code>\n</Error>\n"
	noStream := "<Error>\n<Code>NonExistStreamName</Code>\n</Error>\n"
	auth := func(message string) string {
		return "<Error>\n<Code>AuthencationFailed</Code>\n<Message>" + message + "</Message>\n</Error>\n"
	}
	tests := []struct {
		op            Op
		reason        Reason
		code, subCode int
		message       string
		netStatus     string
		body          string
		notFound      bool // may be answered 404
	}{
		{Publish, NoDomain, 1, 0, "Non-Exist Publish Domain", "NetStream.Publish.Denied", domain, false},
		{Publish, NoApp, 2, 0, "Non-Exist Application", "NetStream.Publish.Denied", app, true},
		{Publish, StreamExists, 3, 0, "Already Exist Stream Name", "NetStream.Publish.BadName", "<Error>\n<Code>ExistStreamName</Code>\n</Error>\n", false},
		{Publish, Blocked, 4, 0, "Forbidden By Blacklist", "NetStream.Publish.Denied", auth("Forbidden By Blacklist"), false},
		{Publish, AuthFailed, 5, 0, "Authentication Failed", "NetStream.Publish.Denied", auth("Signature Not Match"), false},
		{Publish, AuthMissing, 5, 1, "Accesskey Or Signature Not Exist", "NetStream.Publish.Denied", auth("Non Exist Signature or Accesskey"), false},
		{Publish, AuthExpired, 5, 2, "URL Expired", "NetStream.Publish.Denied", auth("URL Expired"), false},
		{Publish, BadName, 5, 0, "Illegal Stream Name", "NetStream.Publish.BadName", auth("Illegal Stream Name"), false},
		{Publish, TooLong, 5, 0, "Too Many Parameters", "NetStream.Publish.Denied", auth("Too Many Parameters"), false},
		{Play, NoDomain, 1, 0, "Non-Exist Play Domain", "NetStream.Play.Failed", domain, false},
		{Play, NoApp, 2, 0, "Non-Exist Application", "NetStream.Play.Failed", app, true},
		{Play, NoStream, 3, 0, "Non-Exist Stream Name", "NetStream.Play.StreamNotFound", noStream, true},
		{Play, BadName, 3, 0, "Non-Exist Stream Name", "NetStream.Play.StreamNotFound", noStream, true},
		{Play, Blocked, 4, 0, "Forbidden By Blacklist", "NetStream.Play.Failed", auth("Forbidden By Blacklist"), false},
		{Play, AuthFailed, 5, 0, "Authentication Failed", "NetStream.Play.Failed", auth("Signature Not Match"), false},
		{Play, AuthMissing, 5, 1, "Accesskey Or Signature Not Exist", "NetStream.Play.Failed", auth("Non Exist Signature or Accesskey"), false},
		{Play, AuthExpired, 5, 2, "URL Expired", "NetStream.Play.Failed", auth("URL Expired"), false},
		{Play, TooLong, 5, 0, "Too Many Parameters", "NetStream.Play.Failed", auth("Too Many Parameters"), false},
	}
	for _, tt := range tests {
		for _, notFound := range []bool{false, true} {
			d := deny(tt.op, tt.reason, &policy.Domain{NotFound: notFound})
			if d.Code != tt.code || d.SubCode != tt.subCode || d.Message != tt.message || d.NetStatus != tt.netStatus {
				t.Errorf("%s, %s: %d/%d %q %s, want %d/%d %q %s", tt.op, tt.reason,
					d.Code, d.SubCode, d.Message, d.NetStatus, tt.code, tt.subCode, tt.message, tt.netStatus)
			}
			status := 403
			if tt.notFound && notFound {
				status = 404
			}
			w := httptest.NewRecorder()
			WriteHTTPError(w, httptest.NewRequest("GET", "/live/s.flv", nil), d)
			if w.Code != status || w.Header().Get("Content-Type") != "text/plain" || w.Body.String() != head+tt.body {
				t.Errorf("%s, %s: %d %s %q, want %d %q", tt.op, tt.reason, w.Code, w.Header(), w.Body, status, head+tt.body)
			}
		}
	}
	w := httptest.NewRecorder()
	WriteHTTPError(w, httptest.NewRequest("HEAD", "/live/s.flv", nil), deny(Play, NoStream, nil))
	if w.Code != 403 || w.Body.Len() > 0 {
		t.Errorf("HEAD: %d with %d bytes, want 403 and none", w.Code, w.Body.Len())
	}
}
