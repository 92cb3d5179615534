package access

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/internal/policy"
)

// gateWith returns a gate of one space "a" with the domains push.example and
// play.example, for which access says who may, and the app "live".
func gateWith(publish, play policy.Access, more ...func(*policy.Space)) *Gate {
	set := &policy.Set{Spaces: []policy.Space{{
		Name: "a",
		Domains: []policy.Domain{
			{Name: "push.example", Type: policy.Publish, Publish: publish},
			{Name: "play.example", Type: policy.Play, Play: play},
		},
		Apps: []policy.App{policy.DefaultApp("live"), policy.DefaultApp("show")},
	}}}
	for _, f := range more {
		f(&set.Spaces[0])
	}
	g := NewGate(func() *policy.Set { return set })
	g.Lenient = true
	return g
}

func secret(s string) policy.Secret { return policy.NewSecret(s) }

// request returns the request of a client that uses that URL.
func request(t testing.TB, op Op, rawURL string) Request {
	t.Helper()
	r, err := FromURL(op, rawURL)
	if err != nil {
		t.Fatalf("FromURL(%q): %v", rawURL, err)
	}
	r.Addr = netip.MustParseAddrPort("192.0.2.7:5475")
	return r
}

// reason returns why the request of that URL is denied, or "".
func reason(t testing.TB, g *Gate, op Op, rawURL string) Reason {
	t.Helper()
	return reasonOf(t, g, request(t, op, rawURL))
}

func reasonOf(t testing.TB, g *Gate, r Request) Reason {
	t.Helper()
	_, err := g.Check(t.Context(), r)
	var d *Denied
	if err != nil && !errors.As(err, &d) {
		t.Fatalf("Check: %v", err)
	}
	if d != nil {
		return d.Reason
	}
	return ""
}

// at runs f when the clock shows that time.
func at(t *testing.T, unix int64, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Unix(unix, 0)))
		f(t)
	})
}

// Contract A.1, A.2 and the conventions of other services, to the byte.
func TestVectors(t *testing.T) {
	const key, ts = "test-key-1", "1893456000"
	push := Request{Op: Publish, App: "live", Stream: "s1"}
	play := func(path string) *Request { return &Request{Op: Play, App: "live", Stream: "s1", Path: path} }
	tests := []struct{ name, got, want string }{
		{"guide l.213", string((&Request{Op: Publish, App: "live", Stream: "stream"}).simple(nil, "123456", "1560096712")), "4f88e741140240e2"},
		{"simple push", string(push.simple(nil, key, ts)), "d4065df3aa647969"},
		{"simple play, RTMP", string(play("").simple(nil, key, ts)), "fdcd03e3ab8e4c8d"},
		{"simple play, path", string(play("/live/s1").simple(nil, key, ts)), "fdcd03e3ab8e4c8d"},
		{"simple play, FLV", string(play("/live/s1.flv").simple(nil, key, ts)), "9ca70f1012588e99"},
		{"simple play, HLS", string(play("/live/s1/index.m3u8").simple(nil, key, ts)), "cfc0dbcefe94de63"},
		{"type A", ts + "-0-0-" + string(play("/live/s1").urlHash(nil, policy.URLTypeA, key, ts, "0-0")), "1893456000-0-0-e319f86753bd68fecc2e8bde8f1daf4c"},
		{"txSecret", string(push.urlHash(nil, policy.URLTypeTx, key, stamp(policy.URLTypeTx, time.Unix(1893456000, 0)), "")), "923c8b32dc76d931f7ccecd6178b763d"},
		{"txTime", stamp(policy.URLTypeTx, time.Unix(1893456000, 0)), "70DBD880"},
		{"hexts", stamp(policy.URLTypeC, time.Unix(1893456000, 0)), "70dbd880"},
		// No source gives these two: the formula by hand.
		{"type C", string(play("/live/s1").urlHash(nil, policy.URLTypeC, key, "70dbd880", "")), string(md5Hex(nil, "test-key-1/live/s170dbd880"))},
		{"type D", string(play("/live/s1").urlHash(nil, policy.URLTypeD, key, ts, "")), string(md5Hex(nil, "test-key-1/live/s11893456000"))},

		{"signature", signature(testKey("Ik90eHJ6eElzZnBGakE3U3dQeklMd3k"), "1436976000", "\n"+"nonce=4e1f2519c626cbfbab1520c255830c26&public=0&vdoid=12345"), "8WRVCTbwm3MDb9/1soqMt3pmMbo="},
		{"signature with a nonce", signature(testKey("demo-secret-0001"), ts, "\n"+"nonce=abc123"), "d4nwz7AdXuKwZs7R5vLJBLgNvvE="},
		{"signature of nothing", signature(testKey("demo-secret-0001"), ts, "\n"+""), "U471e6EZafUMOlRodngjdtj1dTQ="},
		{"signature without line feed", signature(testKey("demo-secret-0001"), ts, ""), "PGAG0/O6e4qVc7gqz5eKBwF9iq0="},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s = %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

// The guide's example (l.211-218), with the edges of its time (B.5).
func TestSimpleGuide(t *testing.T) {
	g := gateWith(policy.Access{Simple: &policy.Simple{Key: secret("123456")}}, policy.Access{})
	for now, want := range map[int64]Reason{1560096711: "", 1560096712: "", 1560096713: AuthExpired} {
		at(t, now, func(t *testing.T) {
			if got := reason(t, g, Publish, "rtmp://push.example/live/stream?t=1560096712&k=4f88e741140240e2"); got != want {
				t.Errorf("at %d: %q, want %q", now, got, want)
			}
		})
	}
}

// H31, H32, H34: what is no t or k.
func TestSimple(t *testing.T) {
	g := gateWith(
		policy.Access{Simple: &policy.Simple{Key: secret("test-key-1"), SpareKey: secret("spare"), MaxValidity: 24 * time.Hour}},
		policy.Access{Simple: &policy.Simple{Key: secret("test-key-1")}})
	const now = 1893455000
	k := func(key, stream, ts string) string { return string(md5Hex(nil, key, stream, ts)[8:24]) }
	good := "t=1893456000&k=d4065df3aa647969"
	tests := []struct {
		url  string
		want Reason
	}{
		{"s1?" + good, ""},
		{"s1?x=1&" + good + "&y=2", ""},
		{"s1?t=1893456000&k=" + k("spare", "s1", "1893456000"), ""},
		{"s1?t=1893456000&k=" + k("other", "s1", "1893456000"), AuthFailed},
		{"s1?t=1893456000&k=" + k("", "s1", "1893456000"), AuthFailed}, // no spare key is no key
		{"s2?" + good, AuthFailed},
		{"S1?" + good, AuthFailed},

		{"s1", AuthMissing},
		{"s1?t=1893456000", AuthMissing},
		{"s1?k=d4065df3aa647969", AuthMissing},
		{"s1?t=&k=d4065df3aa647969", AuthMissing},
		{"s1?t=1893456000&k=", AuthMissing},
		{"s1?T=1893456000&K=d4065df3aa647969", AuthMissing},
		{"s1?t[]=1893456000&k[]=d4065df3aa647969", AuthMissing},

		{"s1?t=1893456000&t=1893456000&k=d4065df3aa647969", AuthFailed},
		{"s1?" + good + "&k=d4065df3aa647969", AuthFailed},
		{"s1?t=1893456000&k=D4065DF3AA647969", AuthFailed},
		{"s1?t=1893456000&k=d4065df3aa64796", AuthFailed},
		{"s1?t=1893456000&k=d4065df3aa6479690", AuthFailed},
		{"s1?t=1893456000&k=" + string(md5Hex(nil, "test-key-1s11893456000")), AuthFailed},
		{"s1?t=1893456000&k=%64%34065df3aa647969", ""}, // the same, encoded

		// max_validity
		{"s1?t=1893541400&k=" + k("test-key-1", "s1", "1893541400"), ""},
		{"s1?t=1893541401&k=" + k("test-key-1", "s1", "1893541401"), AuthFailed},
		{"s1?t=9999999999&k=" + k("test-key-1", "s1", "9999999999"), AuthFailed}, // H37
	}
	for _, ts := range []string{"1893454999", "0000000000", "0893456000"} {
		tests = append(tests, struct {
			url  string
			want Reason
		}{"s1?t=" + ts + "&k=" + k("test-key-1", "s1", ts), AuthExpired})
	}
	for _, ts := range []string{"+893456000", "189345600", "18934560000", "1893456000000", "1e9", "1893456e10", "0x70dbd880", "１８９３４５６０００", "-189345600", "18934560001893456000", "NaN", " 893456000", "1893456_00", "189345600\x00"} {
		tests = append(tests, struct {
			url  string
			want Reason
		}{"s1?t=" + url.QueryEscape(ts) + "&k=" + k("test-key-1", "s1", ts), AuthFailed})
	}
	// The hash has no separators: with times of any length, who has a token for
	// cam1 could make one for cam (contract B.2).
	cam1 := k("test-key-1", "cam1", "1893456000")
	tests = append(tests, []struct {
		url  string
		want Reason
	}{
		{"cam1?t=1893456000&k=" + cam1, ""},
		{"cam?t=11893456000&k=" + cam1, AuthFailed},
		{"cam11?t=893456000&k=" + cam1, AuthFailed},
		{"cam11893456000?t=&k=" + cam1, AuthMissing},
	}...)
	at(t, now, func(t *testing.T) {
		for _, tt := range tests {
			if got := reason(t, g, Publish, "rtmp://push.example/live/"+tt.url); got != tt.want {
				t.Errorf("publish %s: %q, want %q", tt.url, got, tt.want)
			}
		}
		// The same k is good under every app and domain with that key (B.8).
		if got := reason(t, g, Publish, "rtmp://push.example/show/s1?"+good); got != "" {
			t.Errorf("in another app: %q", got)
		}
		// Parameters of app and tcUrl count, and those of the name come first (B.31).
		r, _ := FromRTMP(Publish, "live?"+good, "rtmp://push.example/live?t=1&k=1", "s1?a=b")
		if got := reasonOf(t, g, r); got != "" {
			t.Errorf("with parameters in the app: %q", got)
		}
		r, _ = FromRTMP(Publish, "live?"+good, "rtmp://push.example/live", "s1?t=1893456001")
		if got := reasonOf(t, g, r); got != AuthFailed {
			t.Errorf("with a better t in the name: %q", got)
		}
		for path, want := range map[string]Reason{
			"rtmp://play.example/live/s1?t=1893456000&k=fdcd03e3ab8e4c8d":                      "",
			"rtmps://play.example/live/s1?t=1893456000&k=fdcd03e3ab8e4c8d":                     "",
			"http://play.example/live/s1.flv?t=1893456000&k=9ca70f1012588e99":                  "",
			"ws://play.example/live/s1.flv?t=1893456000&k=9ca70f1012588e99":                    "",
			"http://play.example/live/s1/index.m3u8?t=1893456000&k=cfc0dbcefe94de63":           "",
			"http://play.example/live/s1.m3u8?t=1893456000&k=cfc0dbcefe94de63":                 AuthFailed,
			"http://play.example/live/s1.flv?t=1893456000&k=d4065df3aa647969":                  AuthFailed, // that of a push
			"rtmp://play.example/live/s1?t=1893456000&k=d4065df3aa647969":                      AuthFailed,
			"http://play.example/live/s1.flv":                                                  AuthMissing,
			"http://play.example/live/s1/1.ts?t=1893456000&k=" + string(md5Hex(nil, "x")[:16]): AuthMissing, // needs a token
		} {
			if got := reason(t, g, Play, path); got != want {
				t.Errorf("play %s: %q, want %q", path, got, want)
			}
		}
	})
}

func testKey(secret string) *keyed { return newKeyed(sha1.New, []byte(secret)) }

func withKeys(s *policy.Space) {
	s.AccessKeys = []policy.AccessKey{
		{ID: "KEY", Secret: secret("demo-secret-0001")},
		{ID: "OFF", Secret: secret("demo-secret-0001"), Disabled: true},
		{ID: "GUIDE", Secret: secret("Ik90eHJ6eElzZnBGakE3U3dQeklMd3k")},
	}
}

func sign(expire, resource string) string {
	return signature(testKey("demo-secret-0001"), expire, "\n"+resource)
}

// Contract A.3: the vectors, and all that a verifier must tolerate.
func TestSignature(t *testing.T) {
	g := gateWith(policy.Access{Signature: &policy.Signature{}}, policy.Access{}, withKeys)
	const head = "accesskey=KEY&expire=1893456000&"
	sum := url.QueryEscape(sign("1893456000", "nonce=abc123")) // d4nwz7AdXuKwZs7R5vLJBLgNvvE%3D
	plus := ""                                                 // a nonce whose signature has + and /
	for i := 0; plus == ""; i++ {
		if s := sign("1893456000", fmt.Sprintf("nonce=%d", i)); strings.Contains(s, "+") && strings.Contains(s, "/") {
			plus = fmt.Sprintf("%snonce=%d&signature=%s", head, i, s)
		}
	}
	tests := []struct {
		name, query string
		want        Reason
	}{
		{"as in the guide", "signature=" + sum + "&" + "accesskey=KEY&expire=1893456000&nonce=abc123", ""},
		{"in any order", "nonce=abc123&expire=1893456000&signature=" + sum + "&accesskey=KEY", ""},
		{"camel case", "accessKey=KEY&expire=1893456000&nonce=abc123&signature=" + sum, ""},
		{"small %3d", head + "nonce=abc123&signature=" + strings.ReplaceAll(sum, "%3D", "%3d"), ""},
		{"raw =", head + "nonce=abc123&signature=d4nwz7AdXuKwZs7R5vLJBLgNvvE=", ""},
		{"encoded twice", head + "nonce=abc123&signature=" + url.QueryEscape(sum), ""},
		{"encoded three times", head + "nonce=abc123&signature=" + url.QueryEscape(url.QueryEscape(sum)), ""},
		{"raw +", plus, ""},
		{"+ encoded", strings.ReplaceAll(plus, "+", "%2B"), ""},
		{"+ encoded twice", strings.ReplaceAll(plus, "+", "%252B"), ""},
		{"+ as %20", strings.ReplaceAll(plus, "+", "%20"), ""},
		{"nothing signed", head + "signature=U471e6EZafUMOlRodngjdtj1dTQ=", ""},
		{"nothing signed, no line feed", head + "signature=PGAG0/O6e4qVc7gqz5eKBwF9iq0=", ""},
		{"unknown parameters signed", head + "zz=1&nonce=abc123&aa=2&signature=" + sign("1893456000", "aa=2&nonce=abc123&zz=1"), ""},
		{"unknown parameters not signed", head + "zz=1&nonce=abc123&aa=2&signature=" + sum, ""},
		{"raw values signed", head + "vdoid=a%20b&signature=" + sign("1893456000", "vdoid=a%20b"), ""},
		{"decoded values signed", head + "vdoid=a%20b&signature=" + sign("1893456000", "vdoid=a b"), ""},
		{"raw known values signed", head + "x=1&vdoid=a%20b&signature=" + sign("1893456000", "vdoid=a%20b"), ""},
		{"decoded known values signed", head + "x=1&vdoid=a%20b&signature=" + sign("1893456000", "vdoid=a b"), ""},
		{"vector of the contract", "accesskey=GUIDE&expire=1436976000&vdoid=12345&public=0&nonce=4e1f2519c626cbfbab1520c255830c26&signature=8WRVCTbwm3MDb9/1soqMt3pmMbo%3D", AuthExpired},

		{"no signature", head + "nonce=abc123", AuthMissing},
		{"empty signature", head + "nonce=abc123&signature=", AuthMissing},
		{"no access key", "expire=1893456000&nonce=abc123&signature=" + sum, AuthMissing},
		{"no expire", "accesskey=KEY&nonce=abc123&signature=" + sum, AuthMissing},
		{"nothing", "", AuthMissing},

		{"two signatures", head + "nonce=abc123&signature=" + sum + "&signature=" + sum, AuthFailed},
		{"two expires", head + "expire=1893456000&nonce=abc123&signature=" + sum, AuthFailed},
		{"unknown key", "accesskey=NONE&expire=1893456000&nonce=abc123&signature=" + sum, AuthFailed},
		{"key in other letters", "accesskey=key&expire=1893456000&nonce=abc123&signature=" + sum, AuthFailed},
		{"disabled key", "accesskey=OFF&expire=1893456000&nonce=abc123&signature=" + sum, AuthFailed},
		{"another key", "accesskey=GUIDE&expire=1893456000&nonce=abc123&signature=" + sum, AuthFailed},
		{"another expire", "accesskey=KEY&expire=1893456001&nonce=abc123&signature=" + sum, AuthFailed},
		{"another nonce", head + "nonce=abc124&signature=" + sum, AuthFailed},
		{"two nonces", head + "nonce=abc123&nonce=abc123&signature=" + sum, AuthFailed},
		{"known parameter not signed", head + "nonce=abc123&vdoid=1&signature=" + sum, AuthFailed},
		{"expire in words", "accesskey=KEY&expire=tomorrow&nonce=abc123&signature=" + sign("tomorrow", "nonce=abc123"), AuthFailed},
		{"expire in ms", "accesskey=KEY&expire=1893456000000&nonce=abc123&signature=" + sign("1893456000000", "nonce=abc123"), AuthFailed},
		{"expire with a line feed", "accesskey=KEY&expire=1893456000%0Anonce=abc123&signature=" + sum, AuthFailed},
		{"parameters in a value", head + "nonce=abc123%26public%3D1&signature=" + sign("1893456000", "nonce=abc123&public=1"), AuthFailed},
		{"parameters in a key", head + "nonce%3Dabc123=&signature=" + sign("1893456000", "nonce=abc123="), AuthFailed},
		{"no padding", head + "nonce=abc123&signature=d4nwz7AdXuKwZs7R5vLJBLgNvvE", AuthFailed},
		{"other spare bits", head + "nonce=abc123&signature=d4nwz7AdXuKwZs7R5vLJBLgNvvF=", AuthFailed},
		{"placeholder of the guide", head + "nonce=abc123&signature=vU9XqPLcXd3nWdlfLWIhruZrLAM%3D", AuthFailed},
		{"expired", "accesskey=KEY&expire=1893454999&signature=" + sign("1893454999", ""), AuthExpired},
		{"expired and wrong", "accesskey=KEY&expire=1893454999&signature=x", AuthExpired},
	}
	at(t, 1893455000, func(t *testing.T) {
		for _, tt := range tests {
			if got := reason(t, g, Publish, "rtmp://push.example/live/s1?"+tt.query); got != tt.want {
				t.Errorf("%s: %q, want %q (%s)", tt.name, got, tt.want, tt.query)
			}
		}
	})
	at(t, 1436975999, func(t *testing.T) { // in 2015
		const q = "accesskey=GUIDE&expire=1436976000&vdoid=12345&public=0&nonce=4e1f2519c626cbfbab1520c255830c26&signature=8WRVCTbwm3MDb9/1soqMt3pmMbo%3D"
		if got := reason(t, g, Publish, "rtmp://push.example/live/s1?"+q); got != "" {
			t.Errorf("vector of the contract: %q", got)
		}
	})
}

func TestSignatureStrict(t *testing.T) {
	g := gateWith(policy.Access{}, policy.Access{Signature: &policy.Signature{Strict: true}}, withKeys)
	const head = "accesskey=KEY&expire=1893456000&"
	signed := sign("1893456000", "app=live&nonce=1&stream=s1")
	tests := []struct {
		path, query string
		want        Reason
	}{
		{"live/s1", "app=live&stream=s1&nonce=1&signature=" + signed, ""},
		{"live/s1", "app=live&stream=s1&nonce=1&extra=2&signature=" + signed, ""},
		{"live/s1", "nonce=1&signature=" + sign("1893456000", "nonce=1"), AuthFailed},
		{"live/s1", "app=live&nonce=1&signature=" + sign("1893456000", "app=live&nonce=1"), AuthFailed},
		{"live/s2", "app=live&stream=s1&nonce=1&signature=" + signed, AuthFailed},
		{"show/s1", "app=live&stream=s1&nonce=1&signature=" + signed, AuthFailed},
		{"live/s2", "app=live&stream=s2&nonce=1&signature=" + signed, AuthFailed},
		{"live/s2", "app=live&stream=s1&nonce=1&%73tream=s2&signature=" + signed, AuthFailed},
		{"live/s2", "app=live&stream=s2&stream=s1&nonce=1&signature=" + signed, AuthFailed},
		{"live/s1", "app=live&stream=s1&nonce=1&signature=" + sign("1893456000", "nonce=1"), AuthFailed}, // named but not signed
	}
	at(t, 1893455000, func(t *testing.T) {
		for _, tt := range tests {
			if got := reason(t, g, Play, "http://play.example/"+tt.path+".flv?"+head+tt.query); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.path+"?"+tt.query, got, tt.want)
			}
		}
	})
}

func TestNonce(t *testing.T) {
	access := policy.Access{Signature: &policy.Signature{NonceMemory: true, MaxValidity: time.Hour}}
	g := gateWith(access, access, withKeys)
	at(t, 1893455000, func(t *testing.T) {
		query := func(nonce string) string {
			return "?accesskey=KEY&expire=1893456000&nonce=" + nonce + "&signature=" + url.QueryEscape(sign("1893456000", "nonce="+nonce))
		}
		use := func(op Op, path, nonce string, want Reason) {
			t.Helper()
			if got := reason(t, g, op, path+query(nonce)); got != want {
				t.Errorf("%s with nonce %s: %q, want %q", path, nonce, got, want)
			}
		}
		const push, flv, hls = "rtmp://push.example/live/s1", "http://play.example/live/s1.flv", "http://play.example/live/s1/index.m3u8"
		use(Publish, push, "1", "")
		use(Publish, push, "1", AuthFailed)
		use(Play, flv, "1", AuthFailed)
		use(Play, flv, "2", "")
		use(Play, flv, "2", AuthFailed)
		use(Play, hls, "2", AuthFailed)
		use(Play, hls, "3", "")
		use(Play, hls, "3", "") // the next poll
		use(Play, "http://play.example/live/s2/index.m3u8", "3", AuthFailed)
		use(Play, flv, "3", AuthFailed)
		r := request(t, Play, hls+query("3"))
		r.Addr = netip.MustParseAddrPort("192.0.2.8:1")
		if got := reasonOf(t, g, r); got != AuthFailed {
			t.Errorf("another client with the nonce of a playlist: %q", got)
		}
		// What was wrong has used nothing up.
		if got := reason(t, g, Publish, push+strings.Replace(query("4"), "KEY", "OFF", 1)); got != AuthFailed {
			t.Errorf("with a disabled key: %q", got)
		}
		use(Publish, push, "4", "")
		if got := reason(t, g, Publish, push+"?accesskey=KEY&expire=1893456000&signature="+url.QueryEscape(sign("1893456000", ""))); got != AuthFailed {
			t.Errorf("without nonce: %q", got)
		}
		// Recheck does not use the nonce again.
		grant, err := g.Check(t.Context(), request(t, Publish, push+query("5")))
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Recheck(grant); err != nil {
			t.Errorf("Recheck: %v", err)
		}
		time.Sleep(2000 * time.Second) // all have expired
		now := time.Now().Unix()
		if !g.nonces.use(nonceID{1}, nonceID{}, now+1, now) || len(g.nonces.seen) != 1 || len(g.nonces.expiry) != 1 {
			t.Errorf("%d nonces are remembered, want 1", len(g.nonces.seen))
		}
	})
}

func TestNonceLimit(t *testing.T) {
	var n nonces
	id := func(i int) nonceID { return nonceID{byte(i), byte(i >> 8), byte(i >> 16), 1} }
	for i := range maxNonces + 10 {
		if !n.use(id(i), nonceID{}, int64(1000+i), 0) {
			t.Fatalf("nonce %d is refused", i)
		}
	}
	if len(n.seen) != maxNonces || len(n.expiry) != maxNonces {
		t.Errorf("%d nonces are remembered, want %d", len(n.seen), maxNonces)
	}
	if n.use(id(maxNonces), nonceID{}, 1, 0) || !n.use(id(0), nonceID{}, 1, 0) {
		t.Error("the nonce that expires first was not the one to be forgotten")
	}
}

// The conventions of other services, for play and for push.
func TestSignedURL(t *testing.T) {
	const key = "test-key-1"
	gate := func(typ policy.URLType) *Gate {
		a := policy.Access{SignedURL: &policy.SignedURL{Type: typ, Key: secret(key), SpareKey: secret("spare"), MaxValidity: 24 * time.Hour}}
		return gateWith(a, a)
	}
	h := func(parts ...string) string { return string(md5Hex(nil, parts...)) }
	tests := []struct {
		typ  policy.URLType
		url  string
		want Reason
	}{
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893456000-0-0-e319f86753bd68fecc2e8bde8f1daf4c", ""},
		{policy.URLTypeA, "http://%/live/s1.flv?auth_key=1893456000-r-7-" + h("/live/s1.flv-1893456000-r-7-", key), ""},
		{policy.URLTypeA, "http://%/live/s1/index.m3u8?auth_key=1893456000-r-7-" + h("/live/s1/index.m3u8-1893456000-r-7-spare"), ""},
		{policy.URLTypeA, "rtmp://%/live/s2?auth_key=1893456000-0-0-e319f86753bd68fecc2e8bde8f1daf4c", AuthFailed},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893456000-0-1-e319f86753bd68fecc2e8bde8f1daf4c", AuthFailed},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893456000-0-0-E319F86753BD68FECC2E8BDE8F1DAF4C", AuthFailed},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893454999-0-0-" + h("/live/s1-1893454999-0-0-", key), AuthExpired},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893999999-0-0-" + h("/live/s1-1893999999-0-0-", key), AuthFailed},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=", AuthMissing},
		{policy.URLTypeA, "rtmp://%/live/s1", AuthMissing},
		// Parts cannot be moved between path, rand and uid.
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893456000-1893456001-0-0-" + h("/live/s1-1893456000-1893456001-0-0-", key), AuthFailed},
		{policy.URLTypeA, "rtmp://%/live/s1-1893456000?auth_key=1893456001-0-0-" + h("/live/s1-1893456000-1893456001-0-0-", key), ""},
		{policy.URLTypeA, "rtmp://%/live/s1?auth_key=1893456000-" + h("/live/s1-1893456000-", key), AuthFailed},

		{policy.URLTypeC, "rtmp://%/" + h(key, "/live/s1", "70dbd880") + "/70dbd880/live/s1", ""},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.flv", "70dbd880") + "/70dbd880/live/s1.flv", ""},
		{policy.URLTypeC, "http://%/" + h("spare/live/s1/index.m3u8", "70DBD880") + "/70DBD880/live/s1/index.m3u8", ""},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.m3u8", "70dbd880") + "/70dbd880/live/s1.m3u8", ""},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.flv", "70dbd880") + "/70dbd880/live/s2.flv", AuthFailed},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.flv", "70dbd880") + "/70dbd881/live/s1.flv", AuthFailed},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.flv", "70dbd000") + "/70dbd000/live/s1.flv", AuthExpired},
		{policy.URLTypeC, "http://%/live/s1.flv", AuthMissing},
		{policy.URLTypeC, "http://%/" + h(key, "/live/s1.flv", "70dbd88") + "/70dbd88/live/s1.flv", NoApp},

		{policy.URLTypeD, "http://%/live/s1.flv?t=1893456000&sign=" + h(key, "/live/s1.flv1893456000"), ""},
		{policy.URLTypeD, "rtmp://%/live/s1?sign=" + h(key, "/live/s11893456000") + "&t=1893456000", ""},
		{policy.URLTypeD, "rtmp://%/live/s?sign=" + h(key, "/live/s11893456000") + "&t=11893456000", AuthFailed},
		{policy.URLTypeD, "rtmp://%/live/s1?sign=" + h(key, "/live/s11893454999") + "&t=1893454999", AuthExpired},
		{policy.URLTypeD, "rtmp://%/live/s1?t=1893456000", AuthMissing},

		{policy.URLTypeTx, "rtmp://%/live/s1?txTime=70DBD880&txSecret=923c8b32dc76d931f7ccecd6178b763d", ""},
		{policy.URLTypeTx, "http://%/live/s1.flv?txSecret=923c8b32dc76d931f7ccecd6178b763d&txTime=70DBD880", ""},
		{policy.URLTypeTx, "http://%/live/s1/index.m3u8?txSecret=923c8b32dc76d931f7ccecd6178b763d&txTime=70DBD880", ""},
		{policy.URLTypeTx, "rtmp://%/live/s1?txTime=70dbd880&txSecret=923c8b32dc76d931f7ccecd6178b763d", AuthFailed},
		{policy.URLTypeTx, "rtmp://%/live/s17?txTime=0DBD8800&txSecret=" + h(key, "s170DBD8800"), AuthExpired},
		{policy.URLTypeTx, "rtmp://%/live/s1?txTime=+DBD8800&txSecret=" + h(key, "s1+DBD8800"), AuthFailed},
		{policy.URLTypeTx, "rtmp://%/live/s1?txTime=70DBD880", AuthMissing},
	}
	at(t, 1893455000, func(t *testing.T) {
		for _, tt := range tests {
			g := gate(tt.typ)
			if got := reason(t, g, Play, strings.Replace(tt.url, "%", "play.example", 1)); got != tt.want {
				t.Errorf("type %v, play %s: %q, want %q", tt.typ, tt.url, got, tt.want)
			}
			if strings.HasPrefix(tt.url, "rtmp") {
				if got := reason(t, g, Publish, strings.Replace(tt.url, "%", "push.example", 1)); got != tt.want {
					t.Errorf("type %v, publish %s: %q, want %q", tt.typ, tt.url, got, tt.want)
				}
			}
		}
		// valid_for: the signed time is that of making.
		a := policy.Access{SignedURL: &policy.SignedURL{Type: policy.URLTypeD, Key: secret(key), ValidFor: 30 * time.Minute}}
		for ts, want := range map[string]Reason{"1893453200": "", "1893453199": AuthExpired} {
			if got := reason(t, gateWith(a, a), Play, "http://play.example/live/s1.flv?t="+ts+"&sign="+h(key, "/live/s1.flv", ts)); got != want {
				t.Errorf("valid_for, made at %s: %q, want %q", ts, got, want)
			}
		}
	})
}

// However an RTMP client divides a path of type C.
func TestSignedPathDivided(t *testing.T) {
	const hash, stamp = "0123456789abcdef0123456789abcdef", "70dbd880"
	for _, parts := range [][2]string{
		{hash, stamp + "/live/s1"}, {hash + "/" + stamp, "live/s1"}, {hash + "/" + stamp + "/live", "s1"}, {"/" + hash + "/" + stamp + "/live/", "s1"},
	} {
		r, err := FromRTMP(Publish, parts[0], "rtmp://h.example/"+parts[0], parts[1]+"?x=1")
		if err != nil || r.App != "live" || r.Stream != "s1" || r.PathHash != hash || r.PathTime != stamp || r.path() != "/live/s1" {
			t.Errorf("FromRTMP(%q, %q) = %+v, %v", parts[0], parts[1], r, err)
		}
	}
	for _, parts := range [][2]string{{hash, stamp}, {hash, stamp + "/s1"}, {hash[1:] + "/" + stamp, "live/s1"}, {"live", hash + "/" + stamp + "/s"}} {
		if r, _ := FromRTMP(Publish, parts[0], "rtmp://h.example/"+parts[0], parts[1]); r.PathHash != "" || r.App != parts[0] || r.Stream != parts[1] {
			t.Errorf("FromRTMP(%q, %q) = %+v", parts[0], parts[1], r)
		}
	}
}

// Several methods: all must pass, or any.
func TestRequire(t *testing.T) {
	const simple, tx = "t=1893456000&k=d4065df3aa647969", "txTime=70DBD880&txSecret=923c8b32dc76d931f7ccecd6178b763d"
	tests := []struct {
		query    string
		all, any Reason
	}{
		{simple + "&" + tx, "", ""},
		{simple, AuthMissing, ""},
		{tx, AuthMissing, ""},
		{"", AuthMissing, AuthMissing},
		{simple + "&txTime=70DBD880&txSecret=x", AuthFailed, ""},
		{"t=1893456000&k=x&" + tx, AuthFailed, ""},
		{"t=1893456000&k=x", AuthFailed, AuthFailed},
		{"txTime=70DBD000&txSecret=x", AuthMissing, AuthExpired}, // the one that was tried
	}
	at(t, 1893455000, func(t *testing.T) {
		for require, want := range map[policy.Require]int{policy.RequireAll: 0, policy.RequireAny: 1} {
			g := gateWith(policy.Access{
				Simple:    &policy.Simple{Key: secret("test-key-1")},
				SignedURL: &policy.SignedURL{Type: policy.URLTypeTx, Key: secret("test-key-1")},
				Require:   require,
			}, policy.Access{})
			for _, tt := range tests {
				if got, want := reason(t, g, Publish, "rtmp://push.example/live/s1?"+tt.query), []Reason{tt.all, tt.any}[want]; got != want {
					t.Errorf("require %v, %s: %q, want %q", require, tt.query, got, want)
				}
			}
		}
	})
}

// Contract B.16, B.29, and H41: lists come before authentication.
func TestLists(t *testing.T) {
	network := func(s string) []policy.Network {
		var n policy.Network
		if err := n.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return []policy.Network{n}
	}
	no := false
	g := gateWith(policy.Access{
		Simple: &policy.Simple{Key: secret("test-key-1")},
		IP:     policy.AddrLists{Block: network("192.0.2.0/24")},
	}, policy.Access{
		Simple:    &policy.Simple{Key: secret("test-key-1")},
		IP:        policy.AddrLists{Allow: network("192.0.2.0/24")},
		Referer:   policy.TextLists{Allow: []string{"page.example"}, AllowEmpty: &no},
		UserAgent: policy.TextLists{Block: []string{"bad*"}},
	}, func(s *policy.Space) {
		s.Forbidden = []policy.Forbidden{{App: "live", Stream: "gone", Type: policy.Both}, {App: "show", Type: policy.Play}}
	})
	tests := []struct {
		op                            Op
		protocol, app, stream, client string
		referer, agent                string
		want                          Reason
	}{
		{Publish, RTMP, "live", "s", "192.0.2.7:1", "", "", Blocked},
		{Publish, RTMP, "live", "s", "[::ffff:192.0.2.7]:1", "", "", Blocked},
		{Publish, RTMP, "live", "s", "192.0.3.7:1", "", "", AuthMissing},
		{Publish, RTMP, "live", "gone", "192.0.3.7:1", "", "", Blocked},
		{Publish, RTMP, "show", "s", "192.0.3.7:1", "", "", AuthMissing},
		{Publish, RTMP, "none", "s", "192.0.2.7:1", "", "", NoApp},
		{Play, RTMP, "live", "s", "192.0.2.7:1", "", "", AuthMissing},
		{Play, RTMP, "live", "s", "192.0.3.7:1", "", "", Blocked},
		{Play, RTMP, "show", "s", "192.0.2.7:1", "", "", Blocked},
		{Play, FLV, "live", "s", "192.0.2.7:1", "http://page.example/", "x", AuthMissing},
		{Play, FLV, "live", "s", "192.0.2.7:1", "http://evil.example/", "x", Blocked},
		{Play, WSFLV, "live", "s", "192.0.2.7:1", "", "x", Blocked},
		{Play, HLS, "live", "s", "192.0.2.7:1", "http://page.example/", "Bad/1", Blocked},
	}
	for _, tt := range tests {
		host := map[Op]string{Publish: "push.example", Play: "play.example"}[tt.op]
		r := Request{Op: tt.op, Protocol: tt.protocol, Host: host, App: tt.app, Stream: tt.stream, File: "index.m3u8",
			Addr: netip.MustParseAddrPort(tt.client), Referer: tt.referer, UserAgent: tt.agent}
		if got := reasonOf(t, g, r); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt, got, tt.want)
		}
	}
}

// drawAccess is a policy that needs some methods of authentication.
func drawAccess(t *rapid.T, name string) policy.Access {
	key := rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`)
	var a policy.Access
	use := rapid.IntRange(1, 7).Draw(t, name+" methods")
	if use&1 != 0 {
		a.Simple = &policy.Simple{Key: secret(key.Draw(t, "simple key")), MaxValidity: time.Hour}
	}
	if use&2 != 0 {
		a.Signature = &policy.Signature{Strict: rapid.Bool().Draw(t, "strict"), NonceMemory: rapid.Bool().Draw(t, "nonce memory"), MaxValidity: time.Hour}
	}
	if use&4 != 0 {
		a.SignedURL = &policy.SignedURL{
			Type: rapid.SampledFrom([]policy.URLType{policy.URLTypeA, policy.URLTypeC, policy.URLTypeD, policy.URLTypeTx}).Draw(t, "type"),
			Key:  secret(key.Draw(t, "URL key")),
		}
		// t of type D is also t of simple.
		if a.Simple == nil || a.SignedURL.Type != policy.URLTypeD {
			a.SignedURL.ValidFor = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "valid for")
		}
	}
	a.Require = rapid.SampledFrom([]policy.Require{policy.RequireAll, policy.RequireAny}).Draw(t, "require")
	return a
}

// What Sign signs is granted, and with any byte changed it is not.
func TestSignProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := gateWith(drawAccess(t, "publish"), drawAccess(t, "play"), withKeys)
		stream := rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._-]{0,20}`).Draw(t, "stream")
		op := rapid.SampledFrom([]Op{Publish, Play}).Draw(t, "op")
		scheme, host, path := "rtmp", "push.example", "/live/"+stream
		if op == Play {
			host = "play.example"
			form := rapid.SampledFrom([][2]string{{"rtmp", ""}, {"http", ".flv"}, {"ws", ".flv"}, {"http", ".m3u8"}, {"http", "/index.m3u8"}, {"http", "/playlist.m3u8"}}).Draw(t, "form")
			scheme, path = form[0], path+form[1]
		}
		r, err := FromURL(op, scheme+"://"+host+path)
		if err != nil {
			t.Fatal(err)
		}
		list, err := g.Sign(r, time.Now().Add(30*time.Minute))
		if err != nil || len(list) == 0 {
			t.Fatalf("Sign = %v, %v", list, err)
		}
		for _, s := range list {
			tail := s.Prefix + path + "?" + s.Query
			good := scheme + "://" + host + tail
			r, err := FromURL(op, good)
			if err != nil {
				t.Fatal(err)
			}
			if steps := g.Explain(r); !steps[len(steps)-1].Passed {
				t.Fatalf("%s is not granted: %v", good, steps)
			}
			first := 1
			if s.Methods[0] == "signature" && len(s.Methods) == 1 {
				first = len(s.Prefix + path) // it signs the path in the parameters, or not at all
			}
			i := rapid.IntRange(first, len(tail)-1).Draw(t, "at")
			c := rapid.SampledFrom([]byte("019afzAFZ-_.%&=/?+:~ \x00\xff")).Draw(t, "byte")
			bad := scheme + "://" + host + tail[:i] + string(c) + tail[i+1:]
			changed, err := FromURL(op, bad)
			if err != nil || same(r, changed) {
				continue
			}
			if _, err := g.Check(context.Background(), changed); err == nil {
				t.Fatalf("%s is granted like %s", bad, good)
			}
		}
	})
}

// same reports whether two requests differ only in what a verifier has to
// tolerate.
func same(a, b Request) bool {
	plain := func(r Request) Request {
		p := make(Params, len(r.Params))
		for i, x := range r.Params {
			p[i] = Param{Key: x.Key, Value: x.Value}
			switch {
			case isAccessKey(x.Key):
				p[i].Key = "accesskey"
			case x.Key == "signature":
				p[i].Value = restore(x.Value)
			}
		}
		r.Params, r.TcURL = p, ""
		return r
	}
	return cmp.Equal(plain(a), plain(b), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }))
}

// No bytes of a URL get past any method without its key, or break it.
func FuzzAuthenticate(f *testing.F) {
	var gates []*Gate
	for _, a := range []policy.Access{
		{Simple: twoKeys("no-client-knows-this", "nor-this")},
		{Signature: &policy.Signature{}},
		{Signature: &policy.Signature{Strict: true, NonceMemory: true, MaxValidity: time.Hour}},
		{SignedURL: &policy.SignedURL{Type: policy.URLTypeA, Key: secret("no-client-knows-this")}},
		{SignedURL: &policy.SignedURL{Type: policy.URLTypeC, Key: secret("no-client-knows-this")}},
		{SignedURL: &policy.SignedURL{Type: policy.URLTypeD, Key: secret("no-client-knows-this")}},
		{SignedURL: &policy.SignedURL{Type: policy.URLTypeTx, Key: secret("no-client-knows-this")}},
	} {
		gates = append(gates, gateWith(a, a, func(s *policy.Space) {
			s.AccessKeys = []policy.AccessKey{{ID: "KEY", Secret: secret("no-client-knows-this")}}
		}))
	}
	for _, s := range []string{
		"", "t=9999999999&k=0123456789abcdef", "t=&k=", "accesskey=KEY&expire=9999999999&signature=d4nwz7AdXuKwZs7R5vLJBLgNvvE%3D&nonce=1",
		"accessKey=KEY&expire=9999999999&signature=%25253D&a&=&app=live&stream=s", "auth_key=9999999999-0-0-e319f86753bd68fecc2e8bde8f1daf4c",
		"sign=e319f86753bd68fecc2e8bde8f1daf4c&t=9999999999", "txSecret=e319f86753bd68fecc2e8bde8f1daf4c&txTime=FFFFFFFF", "wt=AAAA",
	} {
		f.Add("/live/s.flv", s)
		f.Add("/0123456789abcdef0123456789abcdef/ffffffff/live/s/index.m3u8", s)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		u.RawQuery = query
		r, err := FromHTTP(&http.Request{URL: u, Host: "play.example"})
		if err != nil {
			return
		}
		for i, g := range gates {
			if _, err := g.Check(t.Context(), r); err == nil {
				t.Errorf("gate %d grants %s?%s", i, path, query)
			}
			if steps := g.Explain(r); steps[len(steps)-1].Passed {
				t.Errorf("gate %d explains that it grants %s?%s", i, path, query)
			}
		}
	})
}
