package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxBody  = 1 << 20          // bytes
	maxDepth = 32               // objects and arrays within one another
	bodyTime = 10 * time.Second // to send one
)

// readBody reads the body of a request, if it has one, and finds it fit to be
// decoded. Where wanted is not set there must be none.
func readBody(w http.ResponseWriter, r *http.Request, wanted bool) ([]byte, error) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if !wanted {
		return nil, problem(http.StatusBadRequest, kindSyntax, "%s takes no body here", method(r))
	}
	if c := r.Header.Get("Content-Encoding"); c != "" && c != "identity" {
		return nil, problem(http.StatusUnsupportedMediaType, kindMedia, "bodies are taken without Content-Encoding only")
	}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return nil, problem(http.StatusUnsupportedMediaType, kindMedia, "the body must be application/json in UTF-8, and Content-Type say so")
	}
	tooLarge := problem(http.StatusRequestEntityTooLarge, kindTooLarge, "the body may have %d bytes at most", maxBody)
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	if tooMany := (*http.MaxBytesError)(nil); errors.As(err, &tooMany) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, problem(http.StatusBadRequest, kindSyntax, "the body did not come whole")
	}
	if err := checkJSON(body); err != nil {
		return nil, problem(http.StatusBadRequest, kindSyntax, "the body is not taken: %v", err)
	}
	return body, nil
}

// checkJSON reports what is wrong with a body before anybody decodes it: the
// decoders of this world differ in what they make of a name that comes twice,
// or in capitals, so neither is taken.
func checkJSON(body []byte) error {
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return errors.New("it begins with a byte order mark")
	}
	if !utf8.Valid(body) {
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	// A level is an object's names so far, or nil for an array.
	type level struct {
		names map[string]bool
		value bool // in an object: a value is next, not a name
	}
	var levels []level
	for {
		t, err := d.Token()
		if err == io.EOF {
			if len(levels) > 0 {
				return errors.New("it ends in the middle")
			}
			return nil
		}
		if err != nil {
			return jsonError(err)
		}
		var in *level
		if n := len(levels); n > 0 {
			in = &levels[n-1]
		}
		delim, isDelim := t.(json.Delim)
		if in != nil && in.names != nil && !in.value && t != json.Delim('}') {
			name := t.(string)
			if in.names[name] {
				return errors.New("the field " + quote(name) + " comes twice")
			}
			if !plainName(name) {
				return errors.New("unknown field " + quote(name) + ": names are of a-z, 0-9, _ and -")
			}
			in.names[name], in.value = true, true
			continue
		}
		if in != nil {
			in.value = false
		}
		switch {
		case isDelim && (delim == '{' || delim == '['):
			if len(levels) == maxDepth {
				return errors.New("it is nested too deep")
			}
			levels = append(levels, level{})
			if delim == '{' {
				levels[len(levels)-1].names = make(map[string]bool)
			}
		case isDelim:
			levels = levels[:len(levels)-1]
		}
		if n, ok := t.(json.Number); ok {
			if _, err := strconv.ParseFloat(string(n), 64); err != nil {
				return errors.New("a number is too large")
			}
		}
		if len(levels) == 0 {
			if _, err := d.Token(); err != io.EOF {
				return errors.New("something follows the value")
			}
			return nil
		}
	}
}

// jsonError is what is told of an error of the decoder.
func jsonError(err error) error {
	if s := (*json.SyntaxError)(nil); errors.As(err, &s) {
		return errors.New("no JSON at byte " + strconv.FormatInt(s.Offset, 10))
	}
	return errors.New("no JSON")
}

// plainName reports whether a field can have that name.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// quote repeats what a client sent, shortened.
func quote(s string) string {
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "") + "…"
	}
	return strconv.Quote(s)
}
