package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What the commands ask of the API, and what they make of its answers.
func TestCallbacks(t *testing.T) {
	var asked []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.Path+" "+string(body))
		switch {
		case strings.HasSuffix(r.URL.Path, "/receivers") && r.URL.Query().Get("cursor") == "":
			io.WriteString(w, `{"items":[{"id":"r1","space":"a","state":"failing","url":"https://one.example/","reason":"status 500","waiting":3,"oldest":"2026-01-02T03:04:05Z"}],"next":"x"}`)
		case strings.HasSuffix(r.URL.Path, "/receivers"):
			io.WriteString(w, `{"items":[{"id":"r2","space":"a","state":"ok","url":"https://two.example/"}]}`)
		case strings.HasSuffix(r.URL.Path, "/replay"):
			io.WriteString(w, `{"told":1,"failed":1,"skipped":2,"error":"status 500"}`)
		case strings.HasSuffix(r.URL.Path, "/test"):
			io.WriteString(w, `{"url":"https://one.example/","ok":true,"status":204,"seconds":0.01,"sent":"{}"}`)
		default:
			json.NewEncoder(w).Encode(map[string]any{"items": []any{}})
		}
	}))
	defer api.Close()
	for args, want := range map[string]string{
		"receivers":           "r2",
		"attempts --stream s": "OUTCOME",
		"dead --receiver r1":  "NUMBER",
		"test end":            "status 204",
		"replay":              "say which",
		"replay --number 7":   "the last failure: status 500",
	} {
		var out bytes.Buffer
		err := run(t.Context(), append(strings.Fields("callbacks "+args), "--server", api.URL), &out)
		text := out.String()
		if err != nil {
			text += err.Error()
		}
		if !strings.Contains(text, want) {
			t.Errorf("weir callbacks %s: %s, want %s", args, text, want)
		}
	}
	if all := strings.Join(asked, "\n"); !strings.Contains(all, `POST /api/v1/callbacks/dead-letters/replay {"from":7,"receiver":"","space":"","to":7}`) ||
		!strings.Contains(all, `POST /api/v1/spaces/default/callbacks/test {"app":"live","sample":"end"}`) {
		t.Errorf("asked:\n%s", all)
	}
}
