package sink

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weir/internal/callback"
	"weir/internal/policy"
)

var secret = policy.NewSecret("s3cret")

// post makes a call as Weir does; change may spoil it.
func post(s *Sink, id, body string, change func(http.Header)) (status int) {
	r := httptest.NewRequest("POST", "/live", strings.NewReader(body))
	stamp := fmt.Sprint(time.Now().Unix())
	h := r.Header
	h.Set("Content-Type", "application/json")
	if strings.HasPrefix(body, "app=") {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	h.Set(callback.HeaderID, id)
	h.Set(callback.HeaderTimestamp, stamp)
	h.Set(callback.HeaderAttempt, "1")
	h.Set(callback.HeaderSignature, callback.Sign(secret, stamp, id, []byte(body)))
	if change != nil {
		change(h)
	}
	w := httptest.NewRecorder()
	defer func() {
		if recover() != nil {
			status = -1
		}
	}()
	s.ServeHTTP(w, r)
	return w.Code
}

func start(stream, sequence string) string {
	return fmt.Sprintf(`{"UniqueName":"a","App":"live","Stream":%q,"NotifyType":"PubStart","Sequence":%q}`, stream, sequence)
}

func end(stream, sequence string) string {
	return strings.Replace(start(stream, sequence), "PubStart", "PubEnd", 1)
}

func TestSink(t *testing.T) {
	var out strings.Builder
	s := &Sink{Secret: secret, Out: &out, Bodies: true}
	post(s, "1", start("x", "A"), nil)
	post(s, "1", start("x", "A"), nil)
	post(s, "2", end("x", "A"), nil)
	post(s, "3", "app=live&name=y&call=user_publish&vdoid=", nil)
	post(s, "4", "app=live&name=y&call=user_publish_done&close_mode=1&vdoid=", nil)
	post(s, "5", `{"status":3,"taskid":"t","type":"avtrans"}`, nil)
	if a, _ := s.Account(); a.Problems != nil || a.Events != 5 || a.Again != 1 || len(a.Live) != 0 {
		t.Fatalf("%+v", a)
	}
	for i, tt := range []struct {
		id, body string
		change   func(http.Header)
		want     string
	}{
		{"1", start("x", "B"), nil, "another than before"},
		{"10", start("x", "A"), nil, "a start after its end"},
		{"11", start("x", "C"), nil, "before has not ended"},
		{"12", end("x", "D"), nil, "an end of D while C is on the air"},
		{"13", end("x", "D"), nil, "an end without a start"},
		{"14", start("z", "E"), func(h http.Header) { h.Set(callback.HeaderSignature, "v1=00") }, "wrong signature"},
		{"15", end("z", "E"), func(h http.Header) {
			h.Set(callback.HeaderTimestamp, "1000000000")
			h.Set(callback.HeaderSignature, callback.Sign(secret, "1000000000", "15", []byte(end("z", "E"))))
		}, "is not now"},
		{"", "{", nil, "cannot be read"},
	} {
		out.Reset()
		if post(s, tt.id, tt.body, tt.change); !strings.Contains(out.String(), "WRONG: ") || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%d: %s\nwant %s", i, &out, tt.want)
		}
	}
	post(s, "a\r\nb\x1b[2J", start("\x1b[2J", ""), nil)
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("printed %q", &out)
	}
}

func TestMisbehave(t *testing.T) {
	for want, s := range map[int]*Sink{
		503: {Fail: 1, Status: 503}, 500: {Fail: 1}, 302: {Fail: 1, Redirect: "http://127.0.0.1/"}, -1: {Fail: 1, Drop: true}, 200: {FailFirst: 0},
	} {
		if got := post(s, "1", start("x", "A"), nil); got != want {
			t.Errorf("%+v answers %d, want %d", s, got, want)
		}
	}
	s := &Sink{FailFirst: 2}
	for i, want := range []int{500, 500, 200, 200} {
		if got := post(s, "1", start("x", "A"), nil); got != want {
			t.Errorf("attempt %d: %d, want %d", i+1, got, want)
		}
	}
	if a, _ := s.Account(); a.Refused != 2 || a.Events != 1 || a.Again != 1 || len(a.Live) != 1 {
		t.Errorf("%+v", a)
	}
}
