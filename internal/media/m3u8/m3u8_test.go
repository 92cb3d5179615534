package m3u8

import (
	"bytes"
	"strings"
	"testing"
	"time"

	judge "github.com/Eyevinn/hls-m3u8/m3u8"
	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2025, 11, 22, 21, 43, 5, 120e6, time.UTC)

var cases = []struct {
	name string
	p    Playlist
	text string
}{
	{"the guide's example", Playlist{
		Version: 3, TargetDuration: 2,
		Segments: []Segment{
			{URI: "172278810.ts", Duration: 2 * time.Second},
			{URI: "172458810.ts", Duration: 2 * time.Second},
			{URI: "172638810.ts", Duration: 1315 * time.Millisecond},
		},
	}, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n" +
		"#EXTINF:2.000,\n172278810.ts\n#EXTINF:2.000,\n172458810.ts\n#EXTINF:1.315,\n172638810.ts\n"},
	{"everything", Playlist{
		Version: 3, TargetDuration: 10, MediaSequence: 1763847785, DiscontinuitySequence: 7, Type: "VOD", End: true,
		Segments: []Segment{
			{URI: "1.ts", Duration: 9999 * time.Millisecond, Time: start},
			{URI: "2.ts", Duration: 10 * time.Millisecond, Time: start.Add(time.Hour), Discontinuity: true},
		},
	}, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:1763847785\n#EXT-X-DISCONTINUITY-SEQUENCE:7\n#EXT-X-PLAYLIST-TYPE:VOD\n" +
		"#EXT-X-PROGRAM-DATE-TIME:2025-11-22T21:43:05.120Z\n#EXTINF:9.999,\n1.ts\n" +
		"#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:2025-11-22T22:43:05.120Z\n#EXTINF:0.010,\n2.ts\n#EXT-X-ENDLIST\n"},
	{"nothing yet", Playlist{TargetDuration: 2},
		"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n"},
	{"master", Playlist{Variants: []Variant{
		{URI: "s1/index.m3u8", Bandwidth: 2500000, Width: 1280, Height: 720, Codecs: "avc1.64001f,mp4a.40.2"},
		{URI: "s1_400/index.m3u8", Bandwidth: 400000},
	}}, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2500000,RESOLUTION=1280x720,CODECS=\"avc1.64001f,mp4a.40.2\"\ns1/index.m3u8\n" +
		"#EXT-X-STREAM-INF:BANDWIDTH=400000\ns1_400/index.m3u8\n"},
}

func TestPlaylist(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := string(c.p.Append(nil, "", "")); got != c.text {
				t.Errorf("Append:\n%s, want\n%s", got, c.text)
			}
			got, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			if d := cmp.Diff(&c.p, got); d != "" {
				t.Errorf("Parse (-want +got):\n%s", d)
			}
			crlf, err := Parse([]byte(strings.ReplaceAll(c.text, "\n", "\r\n")))
			if err != nil || cmp.Diff(&c.p, crlf) != "" {
				t.Errorf("Parse with CR LF: %+v, %v", crlf, err)
			}
		})
	}
}

func TestAppendAround(t *testing.T) {
	p := Playlist{TargetDuration: 2, Segments: []Segment{{URI: "1.ts"}, {URI: "2.ts"}}}
	got := string(p.Append([]byte("x"), "s1/", "?token=ab"))
	if !strings.HasPrefix(got, "x#EXTM3U\n") || !strings.HasSuffix(got, ",\ns1/1.ts?token=ab\n#EXTINF:0.000,\ns1/2.ts?token=ab\n") {
		t.Errorf("Append = %q", got)
	}
}

// The judge is another implementation, in its strict mode.
func TestJudge(t *testing.T) {
	for _, c := range cases {
		list, typ, err := judge.DecodeFrom(bytes.NewReader(c.p.Append(nil, "", "")), true)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		switch list := list.(type) {
		case *judge.MediaPlaylist:
			segs := list.GetAllSegments()
			if typ != judge.MEDIA || len(segs) != len(c.p.Segments) || int(list.TargetDuration) != c.p.TargetDuration ||
				list.SeqNo != c.p.MediaSequence || list.DiscontinuitySeq != c.p.DiscontinuitySequence || list.Closed != c.p.End {
				t.Errorf("%s: read as %+v", c.name, list)
				continue
			}
			for i, s := range c.p.Segments {
				g := segs[i]
				if g.URI != s.URI || g.Discontinuity != s.Discontinuity || !g.ProgramDateTime.Equal(s.Time) || g.Duration != s.Duration.Seconds() {
					t.Errorf("%s: segment %d read as %+v, want %+v", c.name, i, g, s)
				}
			}
		case *judge.MasterPlaylist:
			if len(list.Variants) != len(c.p.Variants) {
				t.Errorf("%s: %d variants", c.name, len(list.Variants))
			}
			for i, v := range c.p.Variants {
				if g := list.Variants[i]; g.URI != v.URI || int(g.Bandwidth) != v.Bandwidth || g.Codecs != v.Codecs {
					t.Errorf("%s: variant %d read as %+v, want %+v", c.name, i, g, v)
				}
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	const head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"
	for name, text := range map[string]string{
		"nothing":                   "",
		"not a playlist":            "<html>",
		"byte order mark":           "\ufeff" + head,
		"no target duration":        "#EXTM3U\n#EXTINF:2,\n1.ts\n",
		"URI without EXTINF":        head + "1.ts\n",
		"EXTINF without URI":        head + "#EXTINF:2,\n",
		"negative duration":         head + "#EXTINF:-1,\n1.ts\n",
		"no number":                 head + "#EXTINF:NaN,\n1.ts\n",
		"hexadecimal":               head + "#EXTINF:0x10p1,\n1.ts\n",
		"huge duration":             head + "#EXTINF:99999999999,\n1.ts\n",
		"playlist of no type":       head + "#EXT-X-PLAYLIST-TYPE:event\n",
		"huge sequence":             head + "#EXT-X-MEDIA-SEQUENCE:18446744073709551616\n",
		"negative sequence":         head + "#EXT-X-MEDIA-SEQUENCE:-1\n",
		"sequence after a segment":  head + "#EXTINF:2,\n1.ts\n#EXT-X-MEDIA-SEQUENCE:1\n",
		"discontinuity sequence":    head + "#EXTINF:2,\n1.ts\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n",
		"bad date":                  head + "#EXT-X-PROGRAM-DATE-TIME:yesterday\n",
		"master and media":          head + "#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n",
		"attribute without value":   "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH\na.m3u8\n",
		"attribute without end":     "#EXTM3U\n#EXT-X-STREAM-INF:CODECS=\"a\na.m3u8\n",
		"resolution of one number":  "#EXTM3U\n#EXT-X-STREAM-INF:RESOLUTION=1280\na.m3u8\n",
		"more than the limit":       head + strings.Repeat("\n", maxSize),
		"bandwidth beyond 31 bits":  "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=99999999999\na.m3u8\n",
		"target duration beyond it": "#EXTM3U\n#EXT-X-TARGETDURATION:99999999999\n",
	} {
		if p, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: Parse = %+v, want an error", name, p)
		}
	}
	atLimit := head + strings.Repeat("\n", maxSize-len(head))
	if _, err := Parse([]byte(atLimit)); err != nil {
		t.Errorf("Parse at the limit: %v", err)
	}
}

// Other servers' playlists have more tags, other number formats and dates.
func TestParseOthers(t *testing.T) {
	p, err := Parse([]byte("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:4\n\n# a comment\n" +
		"#EXT-X-PROGRAM-DATE-TIME:2025-11-22T22:43:05.120+0100\n#EXTINF:4.0041708,a title\nseg 1.ts\n#EXTINF:3\nseg2.ts\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Segment{{URI: "seg 1.ts", Duration: 4004 * time.Millisecond, Time: start}, {URI: "seg2.ts", Duration: 3 * time.Second}}
	if d := cmp.Diff(want, p.Segments); d != "" {
		t.Errorf("segments (-want +got):\n%s", d)
	}
}

// What was read once is written and read again the same.
func FuzzParse(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		text := p.Append(nil, "", "")
		q, err := Parse(text)
		if err != nil {
			t.Fatalf("Parse of\n%s: %v", text, err)
		}
		if again := q.Append(nil, "", ""); !bytes.Equal(again, text) {
			t.Fatalf("written again:\n%s, want\n%s", again, text)
		}
	})
}
