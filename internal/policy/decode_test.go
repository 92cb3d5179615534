package policy

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// zoo has a field of every kind that can be decoded.
type zoo struct {
	Text   string            `yaml:"text"`
	Flag   bool              `yaml:"flag"`
	Maybe  *bool             `yaml:"maybe"`
	Int    int               `yaml:"int"`
	Big    uint64            `yaml:"big"`
	Share  float64           `yaml:"share"`
	Wait   time.Duration     `yaml:"wait"`
	Size   Size              `yaml:"size"`
	Until  Time              `yaml:"until"`
	Key    Secret            `yaml:"key"`
	Texts  []string          `yaml:"texts"`
	Lists  [][]int           `yaml:"lists"`
	Labels map[string]string `yaml:"labels"`
	Apps   map[string]App    `yaml:"apps"`
	Opt    *Simple           `yaml:"opt"`
	Inner  Set               `yaml:"inner"`

	Hidden string
}

func problems(list []DecodeProblem) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%d:%d %s: %s\n", p.Line, p.Column, p.Path, p.Message)
	}
	return strings.TrimSpace(b.String())
}

// H58, H59: what is wrong with JSON is said, with its place, and nothing is
// taken for something else.
func TestDecodeJSON(t *testing.T) {
	tests := []struct{ text, want string }{
		{`{}`, ""},
		{"{\n \"wait\": \"20s\", \"size\": \"64KiB\", \"labels\": {\"a\": \"b\"},\n \"lists\": [[1], []]}", ""},
		{`{"size": 64}`, ""},
		{``, `1:1 : the JSON ends too early`},
		{`{"text": "a"`, `1:13 : the JSON ends too early`},
		{`{} {}`, `1:4 : something follows the value`},
		{`[]`, `1:1 : must be a section of settings, not a list`},
		{`"x"`, `1:1 : must be a section of settings, not text`},
		{`{text: "a"}`, `1:2 : is not JSON: invalid character 't'`},
		{`{"text": 'a'}`, `1:10 : is not JSON: invalid character '\'' looking for beginning of value`},
		{"\ufeff{}", `1:1 : is not JSON: invalid character 'ï' looking for beginning of value`},
		{"\xff\xfe{\x00}\x00", `1:1 : must be UTF-8 text`},
		{"{\x00}\x00", `1:1 : must be UTF-8 text`},
		{"{\"text\": \"\xff\"}", `1:1 : must be UTF-8 text`},
		{"{\n\t\"text\": \"é\", \"text\": \"b\"}", `2:15 text: set twice`},
		{`{"labels": {"a": "b", "a": "c"}}`, `1:23 labels.a: set twice`},
		{`{"text": "a", "role": "admin", "a b": 1}`, `1:15 role: unknown setting; the settings here are apps, big, flag, inner, int, key, labels, lists, maybe, opt, share, size, text, texts, until, wait` + "\n" +
			`1:32 "a b": unknown setting; the settings here are apps, big, flag, inner, int, key, labels, lists, maybe, opt, share, size, text, texts, until, wait`},
		{`{"Text": "a"}`, `1:2 Text: unknown setting; the settings here are apps, big, flag, inner, int, key, labels, lists, maybe, opt, share, size, text, texts, until, wait`},
		{`{"int": 1e400}`, `1:9 int: must be a whole number, not "1e400"`},
		{`{"int": 1.0}`, `1:9 int: must be a whole number, not "1.0"`},
		{`{"int": 99999999999999999999}`, `1:9 int: must be a whole number, not "99999999999999999999"`},
		{`{"big": -1}`, `1:9 big: must be a whole number from 0 on, not "-1"`},
		{`{"big": 18446744073709551615, "share": 0.25}`, ""},
		{`{"share": 1e400}`, `1:11 share: must be a number, not "1e400"`},
		{`{"share": "1"}`, `1:11 share: must be a number, not "1"`},
		{`{"flag": "true"}`, `1:10 flag: must be true or false, not "true"`},
		{`{"flag": null}`, `1:2 flag: must be true or false, not nothing`},
		{`{"text": 1}`, `1:10 text: must be text; write it in quotes: "1"`},
		{`{"wait": 20}`, `1:10 wait: must be a duration such as 150ms, 20s or 1m30s, not "20"`},
		{`{"key": {"canary": 1}}`, `1:2 key: must be one word, not a section`},
		{`{"opt": "canary"}`, `1:9 opt: must be a section of settings, not text`},
		{`{"opt": null}`, `1:2 opt: must be a section of settings, not nothing; write {} for its defaults`},
		{`{"inner": {"spaces": [{"name": "a"}, {"apps": [{"hold": true}]}]}}`, `1:57 inner.spaces[1].apps[0].hold: must be a duration such as 150ms, 20s or 1m30s, not "true"`},
	}
	for _, tt := range tests {
		if got := problems(DecodeJSON([]byte(tt.text), new(zoo))); got != tt.want {
			t.Errorf("DecodeJSON(%q):\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

// H59: a small text costs little, however it is made: no stack overflow, no
// time that grows with the square of its length.
func TestDecodeHostile(t *testing.T) {
	const n, width = 100_000, 40_000
	tests := map[string]string{
		"flow lists":          strings.Repeat("[", n),
		"flow lists, closed":  strings.Repeat("[", n) + strings.Repeat("]", n),
		"flow sections":       strings.Repeat("{a: ", n) + strings.Repeat("}", n),
		"JSON":                strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n),
		"a setting's list":    `{"lists":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}",
		"block lists":         strings.Repeat("- ", n) + "a",
		"explicit keys":       strings.Repeat("? ", n) + "a",
		"block sections":      blocks(1000),
		"anchors":             strings.Repeat("&a ", n) + "a",
		"tags":                strings.Repeat("!!seq ", n) + "a",
		"aliases":             "text: &a x\n" + strings.Repeat("a: *a\n", width),
		"many keys":           numbered("k%d: 1\n"),
		"many keys in JSON":   "{" + strings.TrimSuffix(numbered(`"k%d":1,`), ",") + "}",
		"many sections":       "lists: [" + strings.Repeat("{a: 1}, ", width) + "]",
		"many block sections": "texts:\n" + strings.Repeat("  - a: 1\n    b: 2\n", width),
		"one key often":       strings.Repeat("text: a\n", width),
		"a long key":          strings.Repeat("k", n) + ": 1",
		"a long text":         "text: \"" + strings.Repeat("\\n", width) + "\"",
		"long list":           "texts: [" + strings.Repeat("a, ", width) + "a]",
		"long list of wrong":  "texts: [" + strings.Repeat("1, ", width) + "a]",
		"open quote":          "text: \"" + strings.Repeat("a\n", width),
		"comments":            strings.Repeat("#\n", n),
		"documents":           strings.Repeat("---\n", n),
		"directives":          strings.Repeat("%YAML 1.2\n", n),
		"too long":            strings.Repeat("#", MaxText+1),
		"carriage returns":    strings.Repeat("\r", n),
		"tabs":                strings.Repeat("\t", n),
		"folded":              "text: >\n" + strings.Repeat("  a\n\n", width),
		"colons":              strings.Repeat(":", n),
		"question marks":      strings.Repeat("?", n),
		"hyphens":             strings.Repeat("-", n),
		"merge keys":          strings.Repeat("<<: {a: b}\n", 1000),
		"section in brackets": strings.Repeat("{[", n),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			yaml := Decode([]byte(text), new(zoo))
			js := DecodeJSON([]byte(text), new(zoo))
			if len(yaml) > maxProblems || len(js) > maxProblems {
				t.Errorf("%d and %d problems", len(yaml), len(js))
			}
			for _, p := range append(yaml, js...) {
				if len(p.Message) > 500 || len(p.Path) > 500 {
					t.Errorf("a problem of %d bytes at a path of %d", len(p.Message), len(p.Path))
				}
			}
			if took := time.Since(start); took > 10*time.Second { // more, if it were quadratic
				t.Errorf("%d bytes took %v", len(text), took)
			} else if took > time.Second {
				t.Logf("%d bytes took %v", len(text), took)
			}
		})
	}
}

// blocks is n block sections within each other.
func blocks(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// numbered is a line for each of many numbers.
func numbered(format string) string {
	var b strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// Nesting is limited.
func TestDecodeDepth(t *testing.T) {
	for depth, ok := range map[int]bool{maxDepth - 2: true, maxDepth + 1: false} {
		var v struct {
			Lists [][]int `yaml:"lists"`
		}
		text := `{"lists": ` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}"
		got := problems(DecodeJSON([]byte(text), &v))
		if deep := strings.Contains(got, "nested too deeply"); deep == ok {
			t.Errorf("%d levels: %s", depth, got)
		}
	}
}

// draw fills v with something that a text could have said.
func draw(t *rapid.T, name string, v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *Secret:
		*x = NewSecret(rapid.StringOf(rapid.RuneFrom([]rune("ab1*:# \"\\\n€"))).Draw(t, name))
		return
	case *time.Duration:
		*x = time.Duration(rapid.Int64().Draw(t, name))
		return
	case *Size:
		*x = Size(rapid.Int64Min(0).Draw(t, name))
		return
	case *Time:
		if rapid.Bool().Draw(t, name) {
			x.Time = time.Unix(rapid.Int64Range(0, 1<<36).Draw(t, name), rapid.Int64Range(0, 999_999_999).Draw(t, name)).UTC()
		}
		return
	case *Network:
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)
		a := netip.AddrFrom16([16]byte(b))
		if rapid.Bool().Draw(t, name) {
			a = netip.AddrFrom4([4]byte(b[:4]))
		}
		x.Prefix = netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, name)).Masked()
		if a.Unmap() != a {
			x.Prefix = netip.MustParsePrefix("::/0")
		}
		return
	case interface {
		encoding.TextUnmarshaler
		words() []string
	}:
		if err := x.UnmarshalText([]byte(rapid.SampledFrom(x.words()).Draw(t, name))); err != nil {
			t.Fatal(err)
		}
		return
	case encoding.TextUnmarshaler:
		if v.Kind() != reflect.String {
			t.Fatalf("%T needs the method words, for Schema and for this test", x)
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("yaml") != "" && rapid.Bool().Draw(t, f.Name) {
				draw(t, f.Name, v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(fresh(v.Type().Elem()).Addr())
		draw(t, name, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(0, 3).Draw(t, name), 3))
		for i := range v.Len() {
			v.Index(i).Set(fresh(v.Type().Elem()))
			draw(t, name, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, k := range rapid.SliceOfN(texts, 0, 3).Draw(t, name) {
			e := fresh(v.Type().Elem())
			draw(t, name, e)
			v.SetMapIndex(reflect.ValueOf(k).Convert(v.Type().Key()), e)
		}
	case reflect.String:
		v.SetString(texts.Draw(t, name))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, name))
	case reflect.Float64:
		v.SetFloat(rapid.Float64Range(-1e300, 1e300).Draw(t, name))
	case reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, name))
	default:
		v.SetInt(int64(rapid.Int32().Draw(t, name)))
	}
}

// texts are those that could be taken for something else, and others.
var texts = rapid.OneOf(
	rapid.StringOf(rapid.RuneFrom([]rune("aZ09 :#-?[]{},&*!|>'\"%@`\\/\t\n\r\u0085\u2028\u00a0\ufeff€😀.+_=~<"))),
	rapid.SampledFrom([]string{"", "~", "null", "true", "Yes", "off", "1", "0x1F", "0o17", "1_000", "1e3", ".inf", ".nan", "-1", "1:30", "1:30:00", "2030-01-31",
		"2030-01-31T20:00:00Z", "<<", "=", "- a", "a: b", "a #b", "---", "...", "%YAML", "live.example.com", "*.example.com", "*", "https://a.example/x?y=1&z=2", "demo"}),
	rapid.String(),
)

// What is encoded is decoded to the same, in both syntaxes and both ways.
func TestEncodeDecode(t *testing.T) {
	opts := cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Set{}), cmp.Comparer(Secret.Equal),
		cmp.Comparer(func(a, b Time) bool { return a.Equal(b.Time) }), cmp.Comparer(func(a, b Network) bool { return a == b })}
	rapid.Check(t, func(t *rapid.T) {
		var want zoo
		draw(t, "zoo", reflect.ValueOf(&want).Elem())
		for _, full := range []bool{false, true} {
			e := Encoding{Full: full && valid(&want), Secret: Clear}
			for syntax, text := range map[string][]byte{"YAML": e.YAML(&want), "JSON": e.JSON(&want)} {
				var got zoo
				decode := Decode
				if syntax == "JSON" {
					decode = DecodeJSON
				}
				if p := decode(text, &got); p != nil {
					t.Fatalf("%s\nin %s", problems(p), text)
				}
				if diff := cmp.Diff(&want, &got, opts); diff != "" {
					t.Fatalf("%s of %s (-want +got):\n%s", syntax, text, diff)
				}
			}
		}
	})
}

// valid reports whether all words in v are words: a type of URL need not be set.
func valid(z *zoo) bool {
	return !strings.Contains(string(Encoding{Full: true}.JSON(z)), `"invalid"`)
}

// What is written is what a person would have written, and hides secrets
// unless it is told otherwise.
func TestEncoding(t *testing.T) {
	app := DefaultApp("live")
	app.Hold, app.HLS.Window = 90*time.Second, 7
	set := &Set{Spaces: []Space{{
		Name: "demo",
		Domains: []Domain{
			{Name: "*.example.com", Type: Both, Publish: Access{Signature: &Signature{}}},
			{Name: "b.example.com", Type: Play, Play: Access{Simple: &Simple{Key: NewSecret("canary")}}},
		},
		Apps:      []App{app, DefaultApp("on")},
		Forbidden: []Forbidden{{App: "live", Type: Both, Until: Time{time.Date(2030, 1, 31, 20, 0, 0, 0, time.UTC)}}},
	}}}
	want := `spaces:
  - name: demo
    domains:
      - name: "*.example.com"
        publish:
          signature: {}
      - name: b.example.com
        type: play
        play:
          simple:
            key: "***"
    apps:
      - name: live
        hold: 1m30s
        hls:
          window: 7
      - name: "on"
    forbidden:
      - app: live
        until: 2030-01-31T20:00:00Z
`
	if got := string(Encoding{}.YAML(set)); got != want {
		t.Errorf("YAML:\n%s\nwant\n%s", got, want)
	}
	full := string(Encoding{Full: true}.JSON(set))
	for _, part := range []string{`"default_space":""`, `"takeover":false`, `"idle_timeout":"20s"`, `"max_segment_size":"50MiB"`, `"access_keys":[]`, `"type":"both"`} {
		if !strings.Contains(full, part) {
			t.Errorf("the full JSON has no %s: %s", part, full)
		}
	}
	if strings.Contains(full, "canary") || !json.Valid([]byte(full)) {
		t.Errorf("the full JSON is %s", full)
	}
	if got := string(Encoding{Secret: Clear}.JSON(set)); !strings.Contains(got, `"key":"canary"`) {
		t.Errorf("with clear secrets: %s", got)
	}
	if got := string(Encoding{}.YAML(&Set{})); got != "{}\n" {
		t.Errorf("nothing is written %q", got)
	}
}

// A schema says what Decode takes: names, words and defaults.
func TestSchema(t *testing.T) {
	b, err := json.Marshal(Schema(reflect.TypeFor[Set]()))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"additionalProperties":false`,
		`"enum":["publish","play","both"]`,
		`"hold":{"default":"5s"`,
		`"max_segment_size":{"default":"50MiB"`,
		`"window":{"default":5,"type":"integer"}`,
		`"allow_empty":{"type":"boolean"},"block"`,
	} {
		if !strings.Contains(string(b), part) {
			t.Errorf("the schema has no %s:\n%s", part, b)
		}
	}
	if s := Schema(reflect.TypeFor[zoo]()); s["properties"].(map[string]any)["Hidden"] != nil {
		t.Error("the schema has what is no setting")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("spaces:\n- name: demo\n  apps: [{name: live, hold: 3s}]\n"))
	f.Add([]byte(`{"inner": {"default_space": "a", "spaces": [{"name": "a"}]}}`))
	f.Add([]byte("text: |\n  a\n  b\nkey: &a !!str b\nlabels: {<<: *a}\n"))
	f.Add([]byte("? a\n: - - b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, decode := range map[string]func([]byte, any) []DecodeProblem{"YAML": Decode, "JSON": DecodeJSON} {
			var z zoo
			if decode(data, &z) != nil {
				continue
			}
			z.Inner.Problems()
			if !valid(&z) {
				continue
			}
			text := Encoding{Secret: Clear}.JSON(&z)
			var again zoo
			if p := DecodeJSON(text, &again); p != nil {
				t.Fatalf("%s of %q is not read again: %s\n%s", name, data, text, problems(p))
			}
			if second := (Encoding{Secret: Clear}).JSON(&again); string(second) != string(text) {
				t.Fatalf("%q becomes\n%s and then\n%s", data, text, second)
			}
		}
	})
}
