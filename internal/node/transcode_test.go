package node

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"weir/internal/policy"
)

// The first player of the master playlist starts what is made for players, and nobody
// before. At the start the log says that there is no ffmpeg, also where nothing would be
// encoded.
func TestLadder(t *testing.T) {
	c := testConfig(t) // which has nothing that ffmpeg could be locked in with
	var tpl policy.Transcode
	tpl.SetDefaults()
	tpl.Name, tpl.Trigger, tpl.Outputs = "ladder", policy.TranscodePlay, make([]policy.Rendition, 1)
	tpl.Outputs[0].SetDefaults()
	tpl.Outputs[0].Suffix, tpl.Outputs[0].Drop = "_ear", policy.CopyVideo
	app := policy.DefaultApp("live")
	app.Transcode = []policy.Transcode{tpl}
	c.Policy.Spaces[0].Apps = []policy.App{app}
	n, l, _ := start(t, c)
	const warning = "no renditions will be made"
	if !slices.ContainsFunc(l.passed, func(line string) bool { return strings.Contains(line, warning) }) { // as it served
		l.wait(t, warning)
	}
	pub := publish(t, n, "s")
	defer pub.Close()
	master := n.url("http", "/live/s/master.m3u8")
	until(t, "the stream is there", patience, func() bool { return len(n.transcoder.Status()) == 1 })
	resp, err := http.Head(master)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if st := n.transcoder.Status()[0]; st.State != "idle" || st.Outputs[0].Key.Name != "s_ear" {
		t.Errorf("before somebody plays: %+v", st)
	}
	if status, body := get(t, master); status != 200 || !strings.Contains(body, "../s_ear/index.m3u8") {
		t.Errorf("master playlist: %d %q", status, body)
	}
	until(t, "the ladder begins", patience, func() bool { return n.transcoder.Status()[0].State != "idle" })
}
