package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/event"
)

func TestTokens(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: admin, body: map[string]any{"name": "grafana", "role": "viewer", "space": "default"}})
	var made NewToken
	if err := json.Unmarshal(rec.Body.Bytes(), &made); err != nil || rec.Code != http.StatusCreated {
		t.Fatalf("POST /tokens: %d %s", rec.Code, rec.Body)
	}
	if !strings.HasPrefix(made.Token, "weir_"+made.ID+"_") || made.CreatedBy != "test" {
		t.Errorf("made %+v", made)
	}
	var self TokenInfo
	w.get(t, made.Token, "/self", &self)
	if self.Name != "grafana" || self.Role != Viewer || self.Space != "default" {
		t.Errorf("GET /self = %+v", self)
	}

	// The secret stands nowhere but in that answer.
	secret := made.Token[len("weir_")+idLength+1:]
	rec = w.do(t, request{method: http.MethodGet, path: "/tokens", token: admin})
	if strings.Contains(rec.Body.String(), secret) {
		t.Error("the list of tokens has a secret in it")
	}
	e, err := w.Tokens.kv.Get(t.Context(), tokenKey+made.ID)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.Value()), secret) {
		t.Error("the store has a secret in it")
	}
	facts, err := json.Marshal(w.facts(t, 1, event.TypeAPIWritten))
	if err != nil || strings.Contains(string(facts), secret) {
		t.Errorf("facts: %v %s", err, facts)
	}

	// A token of a space sees and makes tokens of that space only.
	own := w.token(t, Token{Role: Admin, Space: "default"})
	var list Page[TokenInfo]
	w.get(t, own, "/tokens", &list)
	if len(list.Items) != 2 {
		t.Errorf("tokens of the space: %+v", list)
	}
	for space, want := range map[string]int{"default": 201, "other": 403, "": 403} {
		rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: own, body: map[string]any{"name": "x", "role": "admin", "space": space}})
		if rec.Code != want {
			t.Errorf("a token for %q by one of default: %d %s, want %d", space, rec.Code, rec.Body, want)
		}
	}
	// One that ends makes none that outlives it.
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	short := w.token(t, Token{Role: Admin, Expires: soon})
	for expires, want := range map[time.Time]int{{}: 422, soon.Add(time.Second): 422, soon: 201, soon.Add(-time.Minute): 201} {
		body := map[string]any{"name": "x", "role": "admin"}
		if !expires.IsZero() {
			body["expires"] = expires
		}
		if rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: short, body: body}); rec.Code != want {
			t.Errorf("a token until %v by one until %v: %d %s, want %d", expires, soon, rec.Code, rec.Body, want)
		}
	}
	foreign := w.token(t, Token{Role: Viewer, Space: "other"})
	id := foreign[len(tokenPrefix) : len(tokenPrefix)+idLength]
	w.do(t, request{method: http.MethodDelete, path: "/tokens/" + id, token: own})
	if rec := w.do(t, request{method: http.MethodGet, path: "/self", token: foreign}); rec.Code != http.StatusOK {
		t.Error("a token of a space revoked one of another")
	}
	w.do(t, request{method: http.MethodDelete, path: "/tokens/" + id, token: admin})
	if rec := w.do(t, request{method: http.MethodGet, path: "/self", token: foreign}); rec.Code != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d", rec.Code)
	}
}

func TestTokensOfNoUse(t *testing.T) {
	w := newWorld(t)
	good := w.token(t, Token{Role: Admin})
	id := good[:len(tokenPrefix)+idLength]
	for _, header := range []string{
		"", "Bearer", "Bearer ", good, "Basic " + good, "Bearer " + good + "a", "Bearer " + good[:len(good)-1], "Bearer " + strings.ToUpper(good),
		"Bearer " + id, "Bearer " + id + "_", "Bearer weir__", "Bearer weir_" + strings.Repeat("a", 4000), "Bearer " + strings.Replace(good, "_", "-", 1),
	} {
		w.failing = failures{}
		rec := w.do(t, request{method: http.MethodGet, path: "/self", header: map[string]string{"Authorization": header}})
		if rec.Code != http.StatusUnauthorized || rec.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("Authorization: %.40q: %d %s", header, rec.Code, rec.Body)
		}
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/self", header: map[string]string{"Authorization": "bearer " + good}}); rec.Code != http.StatusOK {
		t.Errorf("the scheme in small letters: %d", rec.Code)
	}
}

// TestFirstToken starts over the same store several times.
func TestFirstToken(t *testing.T) {
	js, log := newJetStream(t), slog.New(slog.DiscardHandler)
	open := func() *Tokens {
		tokens := NewTokens(js, 1, log)
		if err := tokens.First(t.Context(), "n1", func(string) { t.Error("told before Load") }); err != errNotLoaded {
			t.Fatalf("First() before Load: %v", err)
		}
		if err := tokens.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	var told []string
	tell := func(text string) { told = append(told, text) }
	first := func(ctx context.Context, node string, want int) *Tokens {
		t.Helper()
		tokens := open()
		told = nil
		if err := tokens.First(ctx, node, tell); ctx.Err() == nil && err != nil {
			t.Fatalf("First(): %v", err)
		}
		if len(told) != want {
			t.Fatalf("on %s %d tokens were told, want %d", node, len(told), want)
		}
		for _, text := range told {
			if h := tokens.find(text); h == nil || h.Role != Admin {
				t.Fatalf("%q is not the token of an admin", text)
			}
		}
		return tokens
	}

	// It dies when it has begun, before there is a token.
	tokens := open()
	begun := []byte(pending + time.Now().UTC().Format(time.RFC3339) + " n1")
	if _, err := tokens.kv.Create(t.Context(), startedKey, begun); err != nil {
		t.Fatal(err)
	}
	first(t.Context(), "n2", 0) // n1 may be about to tell it
	// It dies when there is one, before that is known to have been told.
	dying, die := context.WithCancel(t.Context())
	tell = func(text string) { told = append(told, text); die() }
	first(dying, "n1", 1)
	tell = func(text string) { told = append(told, text) }
	first(t.Context(), "n1", 1)
	text := told[0]
	for _, node := range []string{"n1", "n2"} {
		first(t.Context(), node, 0)
	}
	tokens = open()
	h := tokens.find(text)
	if h == nil {
		t.Fatal("the first token is gone after a restart")
	}
	if err := tokens.Revoke(t.Context(), h.ID); err != nil {
		t.Fatal(err)
	}
	if tokens = first(t.Context(), "n1", 0); tokens.find(text) != nil {
		t.Error("the first token is there after it was revoked")
	}

	// A node that has begun and does not come back is not waited for.
	long := []byte(pending + time.Now().Add(-2*tellTime).UTC().Format(time.RFC3339) + " n1")
	if _, err := tokens.kv.Put(t.Context(), startedKey, long); err != nil {
		t.Fatal(err)
	}
	first(t.Context(), "n2", 1)
}

// TestTokensOfTwoNodes makes and revokes a token on one node and uses it on
// another.
func TestTokensOfTwoNodes(t *testing.T) {
	js, log := newJetStream(t), slog.New(slog.DiscardHandler)
	var nodes [2]*Tokens
	for i := range nodes {
		nodes[i] = NewTokens(js, 1, log)
		if err := nodes[i].Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// next makes the other node learn one more thing.
	next := func() { nodes[1].apply(<-nodes[1].watch.Updates()) }
	tok, text, err := nodes[0].Create(t.Context(), Token{Name: "a", Role: Viewer})
	if err != nil {
		t.Fatal(err)
	}
	if next(); nodes[1].find(text) == nil {
		t.Error("the other node does not know the token")
	}
	if err := nodes[0].Revoke(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	if next(); nodes[1].find(text) != nil {
		t.Error("the other node still knows the token")
	}
}

// A watch that ends, as it does when its bucket or the connection goes, is begun
// again, and what was done meanwhile is not missed.
func TestTokensWatchEnds(t *testing.T) {
	js, log := newJetStream(t), slog.New(slog.DiscardHandler)
	other, tokens := NewTokens(js, 1, log), NewTokens(js, 1, log)
	for _, x := range []*Tokens{other, tokens} {
		if err := x.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	gone, revoked, err := other.Create(t.Context(), Token{Name: "a", Role: Viewer})
	if err != nil {
		t.Fatal(err)
	}
	tokens.apply(<-tokens.watch.Updates())
	tokens.watch.Stop()
	if err := other.Revoke(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	_, made, err := other.Create(t.Context(), Token{Name: "b", Role: Viewer})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tokens.Run(ctx) }() // ends with ctx
	late := time.After(20 * time.Second)
	for tokens.find(made) == nil || tokens.find(revoked) != nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("new token known: %t; revoked one known: %t", tokens.find(made) != nil, tokens.find(revoked) != nil)
		}
	}
	cancel()
	<-done
}

func TestLocalToken(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := w.Tokens.Local(file); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("the file: %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(b))
	if rec := w.do(t, request{method: http.MethodGet, path: "/tokens", token: text}); rec.Code != http.StatusOK || strings.Contains(rec.Body.String(), `"local"`) {
		t.Errorf("by the local token: %d %s", rec.Code, rec.Body)
	}
	for addr, want := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "[::ffff:127.0.0.1]:1": 200, "192.0.2.1:1": 401, "[2001:db8::1]:1": 401, "": 401} {
		if rec := w.from(t, addr, text); rec.Code != want {
			t.Errorf("the local token from %q: %d, want %d", addr, rec.Code, want)
		}
	}
	// A machine reaches a listener that is not on loopback from the address of
	// the listener.
	for from, want := range map[string]int{"192.0.2.1:1": 200, "[::ffff:192.0.2.1]:1": 200, "192.0.2.2:1": 401} {
		r := httptest.NewRequest(http.MethodGet, "http://192.0.2.1:8081"+Prefix+"/self", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8081}))
		r.RemoteAddr = from
		r.Header.Set("Authorization", "Bearer "+text)
		rec := httptest.NewRecorder()
		if w.ServeHTTP(rec, r); rec.Code != want {
			t.Errorf("the local token from %s to 192.0.2.1: %d, want %d", from, rec.Code, want)
		}
	}
	if err := RemoveLocal(file); err != nil {
		t.Fatal(err)
	}
	if err := RemoveLocal(file); err != nil {
		t.Errorf("RemoveLocal again: %v", err)
	}
}

func TestWritesAreFacts(t *testing.T) {
	w := newWorld(t)
	w.do(t, request{method: http.MethodDelete, path: "/streams/default/live/x/publisher", token: w.token(t, Token{Name: "ops", Role: Operator})})
	w.do(t, request{method: http.MethodDelete, path: "/streams/default/live/x/publisher", token: w.token(t, Token{Name: "eye", Role: Viewer})})
	w.do(t, request{method: http.MethodDelete, path: "/streams/default/live/x/publisher"})
	w.do(t, request{method: http.MethodGet, path: "/streams", token: w.token(t, Token{Role: Viewer})})
	w.do(t, request{method: http.MethodDelete, path: "/sessions/0123456789abcdef", token: w.token(t, Token{Name: "end", Role: Admin})})
	facts := w.facts(t, 3, event.TypeAPIWritten)
	if last := facts[2].Event.Data.(event.APIWritten); last.Token != "end" {
		t.Fatalf("the third fact is %+v", last)
	}
	for i, want := range []event.APIWritten{{Token: "ops", Role: "operator", Status: 200}, {Token: "eye", Role: "viewer", Status: 403}} {
		got := facts[i].Event.Data.(event.APIWritten)
		if got.Token != want.Token || got.Role != want.Role || got.Status != want.Status || got.Method != "DELETE" ||
			got.Path != "/api/v1/streams/default/live/x/publisher" || got.Addr.String() != "127.0.0.1" || facts[i].Event.Space != "default" {
			t.Errorf("fact %d: %+v", i, facts[i])
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	w := newWorld(t)
	admin := w.token(t, Token{Role: Admin})
	post := func(token, key, name string) (int, NewToken, bool) {
		t.Helper()
		rec := w.do(t, request{method: http.MethodPost, path: "/tokens", token: token, body: map[string]any{"name": name, "role": "viewer"}, header: map[string]string{"Idempotency-Key": key}})
		var made NewToken
		if rec.Code == http.StatusCreated {
			if err := json.Unmarshal(rec.Body.Bytes(), &made); err != nil {
				t.Fatal(err)
			}
		}
		return rec.Code, made, rec.Header().Get("Idempotency-Replayed") != ""
	}
	_, first, _ := post(admin, "k1", "a")
	code, again, replayed := post(admin, "k1", "a")
	if code != http.StatusCreated || first.Token != again.Token || !replayed {
		t.Errorf("repeated: %d %+v, want %+v", code, again, first)
	}
	if code, _, _ := post(admin, "k1", "b"); code != http.StatusUnprocessableEntity {
		t.Errorf("the key of another request: %d", code)
	}
	if _, other, replayed := post(w.token(t, Token{Role: Admin}), "k1", "a"); other.Token == first.Token || replayed {
		t.Error("the key of another token had its answer")
	}
	if _, other, replayed := post(admin, "k2", "a"); other.Token == first.Token || replayed {
		t.Error("another key had the answer of the first")
	}
	if code, _, _ := post(admin, strings.Repeat("k", 129), "a"); code != http.StatusUnprocessableEntity {
		t.Errorf("a long key: %d", code)
	}
	if code, _, _ := post(admin, "k3", "../x"); code != http.StatusUnprocessableEntity {
		t.Errorf("a bad request: %d", code)
	}
	if code, _, _ := post(admin, "k3", "x"); code != http.StatusCreated {
		t.Errorf("after a bad request with the same key: %d", code)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	var r replays
	now := time.Now()
	slow := [32]byte{31: 1}
	r.begin(slow, slow, now)
	for i := range 3 * maxReplays {
		key := [32]byte{byte(i), byte(i >> 8)}
		if old, _ := r.begin(key, key, now); old != nil {
			t.Fatalf("key %d is known", i)
		}
		r.finish(key, 200, nil, []byte("x"))
	}
	if len(r.list) > maxReplays || len(r.order) > maxReplays {
		t.Errorf("%d answers are kept, %d in order", len(r.list), len(r.order))
	}
	last := [32]byte{byte((3*maxReplays - 1) & 255), byte((3*maxReplays - 1) >> 8)}
	if old, busy := r.begin(last, last, now); old == nil || busy {
		t.Error("the last answer is not kept")
	}
	if _, busy := r.begin(slow, slow, now); !busy {
		t.Error("a request in the making was forgotten because of others")
	}
	if old, _ := r.begin(last, last, now.Add(replayTime)); old != nil {
		t.Error("an answer is kept for too long")
	}
	if _, busy := r.begin(last, last, now.Add(replayTime)); !busy {
		t.Error("a request in the making is not busy")
	}
	r.finish(last, 200, nil, make([]byte, replayBytes+1))
	if old, _ := r.begin(last, last, now.Add(replayTime)); old != nil {
		t.Error("an answer that is too large is kept")
	}
}
