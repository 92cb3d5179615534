package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/cluster"
	"weir/internal/event"
	"weir/internal/media/rtmp"
	"weir/internal/policy"
	"weir/internal/stream"
)

// newCluster returns nodes that ask each other, n1, n2 and so on, and what ends
// the answers of one without a word.
func newCluster(t *testing.T, n int) (nodes []*world, kill func(name string)) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	_, js := startNATS(t)
	list := cluster.NewNodes(js, 1, log)
	keys, err := cluster.ParseKeys([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))))
	if err != nil {
		t.Fatal(err)
	}
	stops := map[string]func(){}
	var running sync.WaitGroup
	t.Cleanup(func() {
		for _, stop := range stops {
			stop()
		}
		running.Wait()
	})
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		peers := cluster.NewPeers(js.Conn(), list, name, keys, log)
		w := newWorld(t, func(o *Options) {
			o.Node, o.Peers = name, peers
			o.Self = func() cluster.Node { return cluster.Node{Name: name} }
		})
		nodes = append(nodes, w)
		ctx, cancel := context.WithCancel(context.Background())
		listed, dead := make(chan struct{}, 16), make(chan struct{})
		stops[name] = sync.OnceFunc(func() { cancel(); <-dead })
		running.Go(func() { defer close(dead); peers.Serve(ctx, w.Answer) })                                        // ends with kill
		running.Go(func() { list.Run(t.Context(), func() cluster.Node { listed <- struct{}{}; return w.Self() }) }) // ends with the test
		<-listed
	}
	for _, w := range nodes { // until all know each other
		for late := time.Now().Add(10 * time.Second); ; {
			answers := w.Peers.Ask(t.Context(), []byte(`{"of":"streams","in":{"Limit":1}}`))
			silent := slices.ContainsFunc(answers, func(a cluster.Answer) bool { return a.Err != nil })
			if len(answers) == n-1 && !silent {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("the nodes do not find each other: %+v", answers)
			}
		}
	}
	return nodes, func(name string) { stops[name]() }
}

// TestClusterStreams lists the streams of three nodes in every order and by pages
// of every size: each is there once, and in its place.
func TestClusterStreams(t *testing.T) {
	nodes, kill := newCluster(t, 3)
	w := nodes[0]
	w.unlimited()
	for i := range 23 {
		nodes[i%3].publish(t, "default", fmt.Sprintf("cam%02d", i))
	}
	nodes[2].publish(t, "other", "cam00")
	viewer, other := w.token(t, Token{Role: Viewer}), w.token(t, Token{Role: Viewer, Space: "other"})
	w.unlimited()
	walk := func(token, query string) (names []string) {
		t.Helper()
		for cursor := ""; ; {
			var p Gathered[StreamInfo]
			w.get(t, token, "/streams?"+query+"&cursor="+url.QueryEscape(cursor), &p)
			if len(p.Silent.Silent) != 0 {
				t.Errorf("GET /streams?%s: %v are silent", query, p.Silent.Silent)
			}
			for _, d := range p.Items {
				names = append(names, d.Space+"/"+d.Stream+"@"+d.Node)
			}
			if cursor = p.Next; cursor == "" {
				return names
			}
		}
	}
	want := []string{"default/demo@n1", "default/demo@n2", "default/demo@n3", "other/cam00@n3"} // each has a demo of its own
	for i := range 23 {
		want = append(want, fmt.Sprintf("default/cam%02d@n%d", i, i%3+1))
	}
	slices.Sort(want)
	for limit := 1; limit <= len(want)+1; limit += 1 + limit/5 {
		if got := walk(viewer, fmt.Sprintf("limit=%d", limit)); !slices.Equal(got, want) {
			t.Errorf("by %d: %q, want %q", limit, got, want)
		}
		since := walk(viewer, fmt.Sprintf("order=-since&limit=%d", limit))
		if len(since) != len(want) || since[0] != "other/cam00@n3" || since[1] != "default/cam22@n2" || since[20] != "default/cam03@n1" {
			t.Errorf("the newest first by %d: %q", limit, since)
		}
		slices.Sort(since)
		if !slices.Equal(since, want) {
			t.Errorf("the newest first by %d is not the same streams: %q", limit, since)
		}
		if got := walk(viewer, fmt.Sprintf("order=-bytes&live=true&prefix=cam1&limit=%d", limit)); len(got) != 10 {
			t.Errorf("by %d with the prefix cam1: %q", limit, got)
		}
	}
	if got := walk(other, "limit=5"); !slices.Equal(got, []string{"other/cam00@n3"}) {
		t.Errorf("for the token of other: %q", got)
	}

	var sums Durations
	w.get(t, viewer, "/history/durations?space=default", &sums)
	if len(sums.Items) != 24 || sums.Items[23].Stream != "demo" || sums.Items[23].Pushes != 3 {
		t.Errorf("what goes on at all nodes: %+v", sums)
	}

	// One is asked for where it is not.
	var d StreamInfo
	w.get(t, viewer, "/streams/default/live/cam01", &d)
	if d.Node != "n2" || d.Audio == nil {
		t.Errorf("GET stream of another node: %+v", d)
	}
	var line Timeline
	for late := time.Now().Add(10 * time.Second); len(line.Seconds) == 0 && time.Now().Before(late); { // its first second is over soon
		w.get(t, viewer, "/streams/default/live/cam01/timeline", &line)
	}
	if len(line.Seconds) == 0 || line.Seconds[0].AudioFrames != 3 {
		t.Errorf("GET timeline of a stream of another node: %+v", line)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/streams/default/live/none", token: viewer}); kindOf(rec) != kindNotFound {
		t.Errorf("GET no stream: %d %s", rec.Code, rec.Body)
	}

	// The push is ended where it is; it is held there for its return.
	operator := w.token(t, Token{Role: Operator})
	push := nodes[1].Hub.Find(stream.Key{Space: "default", App: "live", Name: "cam01"}).Publication()
	var ended Ended
	w.ends(t, operator, "/streams/default/live/cam01/publisher", &ended)
	if ended.Ended != 1 || push.Reason() != stream.EndKicked {
		t.Errorf("DELETE publisher of another node: %+v, ended as %v", ended, push.Reason())
	}
	w.ends(t, operator, "/streams/default/live/cam01/publisher", &ended)
	if ended.Ended != 0 {
		t.Errorf("the same again: %+v", ended)
	}
	// Who pushes it elsewhere then is found there.
	nodes[2].publish(t, "default", "cam01")
	w.get(t, viewer, "/streams/default/live/cam01", &d)
	if d.Node != "n3" || !d.Live {
		t.Errorf("GET stream that has moved: %+v", d)
	}

	// Of a node that is gone nobody says that it has nothing.
	kill("n3")
	var p Gathered[StreamInfo]
	w.get(t, viewer, "/streams?limit=100", &p)
	if !slices.Equal(p.Silent.Silent, []string{"n3"}) || len(p.Items) != 17 {
		t.Errorf("GET /streams without n3: %d streams, silent: %v", len(p.Items), p.Silent.Silent)
	}
	w.ends(t, operator, "/streams/default/live/demo/players", &ended)
	if !slices.Equal(ended.Silent.Silent, []string{"n3"}) {
		t.Errorf("DELETE players without n3: %+v", ended)
	}
	if rec := w.do(t, request{method: http.MethodGet, path: "/streams/default/live/cam02", token: viewer}); kindOf(rec) != kindUnavailable {
		t.Errorf("GET stream of n3: %d %s", rec.Code, rec.Body)
	}
}

// ends deletes a path and decodes what that has ended.
func (w *world) ends(t *testing.T, token, path string, out *Ended) {
	t.Helper()
	*out = Ended{}
	w.answers(t, w.do(t, request{method: http.MethodDelete, path: path, token: token}), "DELETE "+path, out)
}

// TestClusterStopRecording stops a recording of another node.
func TestClusterStopRecording(t *testing.T) {
	nodes, kill := newCluster(t, 3)
	w, operator := nodes[0], nodes[0].token(t, Token{Role: Operator})
	app := recordedApp()
	app.Record.Mode, app.IdleTimeout = policy.RecordAutomatic, time.Hour
	if _, err := nodes[1].Hub.Publish(stream.Key{Space: "default", App: "live", Name: "cam"}, &app, stream.Push{Sequence: event.NewSequence(), Session: "0123456789abcdef"}); err != nil {
		t.Fatal(err)
	}
	until := func(what string, f func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for late := time.After(10 * time.Second); !f(); {
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("waited for %s", what)
			}
		}
	}
	recorded := func() bool { return nodes[1].Recorder.Stats().Recording == 1 }
	until("n2 to record", recorded)
	var ended Ended
	w.ends(t, operator, "/streams/default/live/cam/recording", &ended)
	if ended.Ended != 1 || len(ended.Silent.Silent) != 0 {
		t.Errorf("DELETE recording of another node: %+v", ended)
	}
	until("n2 to stop", func() bool { return !recorded() })
	w.ends(t, operator, "/streams/default/live/cam/recording", &ended)
	if ended.Ended != 0 {
		t.Errorf("the same again: %+v", ended)
	}

	// Orders for what nobody records are something that ends, too.
	if _, err := w.Recorder.Order(t.Context(), stream.Key{Space: "default", App: "live", Name: "none"}, &app, time.Time{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	w.ends(t, operator, "/streams/default/live/none/recording", &ended)
	if ended.Ended != 1 {
		t.Errorf("DELETE recording that was only ordered: %+v", ended)
	}

	kill("n3")
	w.ends(t, operator, "/streams/default/live/cam/recording", &ended)
	if !slices.Equal(ended.Silent.Silent, []string{"n3"}) {
		t.Errorf("DELETE recording without n3: %+v", ended)
	}
}

// TestAnswer asks a node what no node asks. It says no, or that it has nothing, and
// whatever is asked it lives on.
func TestAnswer(t *testing.T) {
	w := newWorld(t)
	w.publish(t, "other", "cam")
	w.shared["panic"] = func(context.Context, json.RawMessage) (any, error) { panic("no reason") }
	for _, test := range []struct {
		question string
		want     string // empty: an error
	}{
		{``, ``},
		{`null`, ``},
		{`{"of":"nothing","in":{}}`, ``},
		{`{"of":"panic","in":{}}`, ``},
		{`{"of":"streams"}`, ``},
		{`{"of":"streams","in":null}`, ``},
		{`{"of":"streams","in":{}}`, ``},
		{`{"of":"streams","in":{"Limit":0,"Order":"name"}}`, ``},
		{`{"of":"streams","in":{"Limit":-1,"Order":"-since"}}`, ``},
		{`{"of":"streams","in":{"Limit":10001}}`, ``},
		{`{"of":"streams","in":{"Limit":9,"Cursor":"x"}}`, ``},
		{`{"of":"sessions","in":{"Limit":-1}}`, ``},
		{`{"of":"alerts","in":{}}`, ``},
		{`{"of":"transcodes","in":{}}`, ``},
		{`{"of":"live pushes","in":{}}`, ``},
		{`{"of":"streams","in":{"Limit":10000,"Space":"none"}}`, `{"items":[]}`},
		{`{"of":"streams","space":"other","in":{"Limit":1,"Space":"default"}}`, `{"items":[]}`},
		{`{"of":"live pushes","space":"other","in":{"Limit":1,"Space":"default"}}`, `{"items":[]}`},
		{`{"of":"stream","space":"other","in":{"Space":"default","App":"live","Stream":"demo"}}`, `{"Live":false}`},
		{`{"of":"timeline","space":"other","in":{"Space":"default","App":"live","Stream":"demo"}}`, `{"Live":false}`},
		{`{"of":"end publisher","space":"other","in":{"Space":"default","App":"live","Stream":"demo"}}`, `{"ended":0}`},
		{`{"of":"end players","space":"other","in":{"Space":"default","App":"live","Stream":"demo"}}`, `{"ended":0}`},
		{`{"of":"end session","in":{"ID":"x"}}`, `{"ended":0}`},
		{`{"of":"end publisher","space":"other","in":{"Space":"other","App":"live","Stream":"cam"}}`, `{"ended":1}`},
		{`{"of":"end publisher","in":{"Space":"default","App":"live","Stream":"demo"}}`, `{"ended":1}`},
	} {
		got, err := w.Answer(t.Context(), []byte(test.question))
		if (err != nil) != (test.want == "") || !strings.EqualFold(string(got), test.want) {
			t.Errorf("Answer(%s) = %s, %v, want %s", test.question, got, err, test.want)
		}
	}
}

// FuzzAnswer asks without the net below Answer.
func FuzzAnswer(f *testing.F) {
	w := newWorld(f)
	for _, q := range []string{
		`{"of":"streams","in":{}}`,
		`{"of":"streams","in":{"Limit":-1,"Order":"-players"}}`,
		`{"of":"streams","space":"other","in":{"Limit":2,"Live":true,"Order":"bytes","Cursor":"eyJsIjoic3RyZWFtcyBieXRlcyIsImsiOiJ4In0"}}`,
		`{"of":"stream","in":{"Space":"default","App":"live","Stream":"demo"}}`,
		`{"of":"timeline","in":{"Space":"default","App":"live","Stream":"demo"}}`,
		`{"of":"end publisher","in":{"Space":"default","App":"live","Stream":"none"}}`,
		`{"of":"end players","in":{"Space":"default","App":"live","Stream":"demo"}}`,
		`{"of":"sessions","in":{"Limit":1,"Space":"default","App":"live","Stream":"demo","Does":"play"}}`,
		`{"of":"end session","in":{"ID":"0123456789abcdef"}}`,
		`{"of":"alerts","in":{"Limit":1}}`,
		`{"of":"transcodes","in":{"Limit":1}}`,
		`{"of":"live pushes","in":{"Limit":10000}}`,
	} {
		f.Add([]byte(q))
	}
	f.Fuzz(func(t *testing.T, q []byte) {
		if got, err := w.answer(t.Context(), q); err == nil && !json.Valid(got) {
			t.Errorf("answer(%s) = %s", q, got)
		}
	})
}

// TestClusterSessions ends a session of another node with the tokens of two spaces:
// that of the session, and another, for which it is not there.
func TestClusterSessions(t *testing.T) {
	nodes, _ := newCluster(t, 2)
	w := nodes[0]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { nodes[1].Sessions.ServeRTMP(ctx, ln, false) }) // ends with ctx
	defer serving.Wait()
	defer cancel()
	conn, err := rtmp.Dial(t.Context(), "rtmp://"+ln.Addr().String()+"/live?vhost=localhost", rtmp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Publish("cam"); err != nil {
		t.Fatal(err)
	}
	own, other := w.token(t, Token{Role: Operator, Space: "default"}), w.token(t, Token{Role: Operator, Space: "other"})
	var list Gathered[SessionInfo]
	w.get(t, own, "/sessions", &list)
	if len(list.Items) != 1 || list.Items[0].Node != "n2" || list.Items[0].Stream != "cam" {
		t.Fatalf("GET /sessions: %+v", list)
	}
	id := list.Items[0].ID
	for _, query := range []string{"", "?space=default&app=live&stream=cam"} {
		list = Gathered[SessionInfo]{}
		w.get(t, other, "/sessions"+query, &list)
		if len(list.Items) != 0 {
			t.Errorf("GET /sessions%s with the token of other: %+v", query, list.Items)
		}
	}
	var ended Ended
	w.ends(t, other, "/sessions/"+id, &ended)
	if ended.Ended != 0 {
		t.Errorf("DELETE session with the token of other: %+v", ended)
	}
	w.ends(t, own, "/sessions/"+id, &ended)
	if ended.Ended != 1 {
		t.Errorf("DELETE session of another node: %+v", ended)
	}
}
